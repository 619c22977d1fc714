"""What a device does during a step: how many kernels it runs, and how long those of each kind take.

Read from PyTorch's profiler. On a GPU these are its kernels and copies, one by one, also those that a CUDA graph
replays. A CPU has no kernels; there they are PyTorch's operations, with the time each takes beside those it calls.
"""

import re
from collections import Counter
from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

KINDS = {  # by what stands in the name; the first that does counts
    "optimizer": r"multi_tensor_apply|_fused_adam|_fused_sgd|_foreach_",
    "convolution": r"conv(?!ert)|wgrad|dgrad|fprop|winograd|cudnn.*(engine|generated)|cutlass.*cudnn",
    "matrix product": r"gemm|nvjet|cutlass|cublas|aten::(add)?b?mm",
    "normalisation": r"batch_?norm|group_?norm|layer_?norm|\bbn_(fw|bw)|RowwiseMoments",
    "sampling": r"grid_sampl|upsampl|interpolat|pixel_shuffle|max_pool",
    "copy": r"memcpy|memset|copy|convert|nchwTo|nhwcTo|transpose|CatArray|aten::(cat|fill_|zero_)",
    "reduction": r"reduce|triton_(red|per)_|softmax|aten::(mean|sum|norm|amax|linalg)",
    "element-wise": r"elementwise|triton_poi_|aten::",
}
SLOWEST = 8  # kernels that are named


def kernels_of(step: Callable[[], object], device: torch.device, *, steps: int = 3) -> dict[str, object]:
    """Runs `step` so many times. A step's kernels, launches (by the CPU; a CUDA graph is one) and milliseconds, in all
    and by kind; the slowest kernels by name, with the times that each runs and its milliseconds a step."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, acc_events=True) as profiler:  # one cycle; without, torch warns
        for _ in range(steps):
            step()
        if on_gpu:
            torch.cuda.synchronize()
    launches, runs, times, kinds = 0, Counter(), Counter(), Counter()
    for event in profiler.events():
        launches += event.device_type == DeviceType.CPU and "Launch" in event.name
        if event.is_user_annotation or (event.device_type == DeviceType.CUDA) != on_gpu:
            continue
        time = event.time_range.elapsed_us() if on_gpu else event.self_cpu_time_total
        runs[event.name] += 1
        times[event.name] += time
        kinds[kind_of(event.name)] += time
    share = 1e3 * steps  # microseconds of all steps -> milliseconds of one
    return {
        "kernels": sum(runs.values()) / steps,
        "launches": launches / steps if on_gpu else "none on a CPU",
        "ms": kinds.total() / share,
        "ms_by_kind": {kind: time / share for kind, time in kinds.items()},
        "slowest": [
            {"name": name[:120], "runs": runs[name] / steps, "ms": time / share}
            for name, time in times.most_common(SLOWEST)
        ],
    }


def kind_of(name: str) -> str:
    """One of KINDS, or "other"."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE)), "other")
