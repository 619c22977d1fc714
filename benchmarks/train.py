"""A training step: how long it takes, how far from the device's limit, and against the same step done plainly.

    python -m benchmarks.train [--model lvln …] [--size 128x160] [--batch 16] [--channels 64] [--shards DIR]

Without sizes: the report's on a GPU, the default data set's on a CPU. Several models are measured one after the other,
each with a line of its own; on a GPU those that follow find most of cuDNN's algorithms timed. The step is the training
loop's own (pipeline/training/step.py). The plain one (benchmarks/plain.py) is float32, eager, frame by frame, with
cuDNN as PyTorch sets it. Both start from the same weights and see the same clips, in turns; the losses of their first
steps are compared; --no-plain leaves it out. Time is the clock's, from before the first to after the last step of a
turn, with the device waited for only at its end; the median turn counts.

With --shards (a folder with train-*.tar) it also times the step fed by the loader, against clips already on the device.
With --kernels a line more says what the device does during a step of the last model (benchmarks/kernels.py): of the
last alone, and after all that is timed, since the profiler may slow what follows.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cases import COMPILE, add_case, hardware, make_config, make_net, moving_textures
from benchmarks.kernels import kernels_of
from benchmarks.measure import device_name, environment, peak_memory_gib, report
from benchmarks.plain import FrameByFrame, PlainNet, plain_form, plain_losses
from pipeline.clips.batches import EpochOrder, batches
from pipeline.clips.clips import Clips
from pipeline.clips.shards import open_videos
from pipeline.hardware import HardwareConfig
from pipeline.training.config import TrainConfig
from pipeline.training.devices import make_fabric
from pipeline.training.step import DelayedMetrics, RolloutLoss, Step

COMPARED = 10  # steps whose losses are compared


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_case(parser, size="128x160" if on_gpu else "64x64", channels=64 if on_gpu else 16, several=True)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--precision", choices=["auto", "32-true", "bf16-mixed"], default="auto")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20 if on_gpu else 3, help="in a turn; the plain form takes fewer")
    parser.add_argument("--plain", action=argparse.BooleanOptionalAction, default=True, help="the plain form, too")
    parser.add_argument("--kernels", action="store_true", help="what a step spends its time on")
    parser.add_argument("--shards", type=Path, help="a folder with train-*.tar")
    parser.add_argument("--workers", type=int, default=8 if on_gpu else 0, help="loader processes, with --shards")
    arguments = parser.parse_args()
    machine = hardware(
        device=arguments.device,
        precision=arguments.precision,
        compile=COMPILE[arguments.compile],
        workers=arguments.workers,
    )
    for model in arguments.model:
        case = argparse.Namespace(**vars(arguments) | {"model": model})
        measure(case, make_config(case), machine, kernels=arguments.kernels and model == arguments.model[-1])
        gc.collect()
        if on_gpu:  # as if the next were alone
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def measure(arguments: argparse.Namespace, config: TrainConfig, machine: HardwareConfig, *, kernels: bool) -> None:
    """Prints the figures of a model."""
    fabric = make_fabric(machine, height=config.height, width=config.width)
    device, frames = fabric.device, config.context + config.horizon
    size = {"height": config.height, "width": config.width}
    net = make_net(arguments.model, config)
    plain = plain_form(arguments.model, net)  # stays on the CPU until the fast form's memory has been read
    pool = [moving_textures(config.batch, frames, **size, seed=i) for i in range(4)]
    # Laid out as the loader's batches are: a compiled step is compiled for one layout.
    pool = [clips.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3).to(device) for clips in pool]

    step = Step(fabric, net, config, compile=machine.compile)
    fast = _Timed(lambda clips: step(clips, lr=config.optimizer.lr, clips_of_all=config.batch), device)
    first, losses = fast.run(pool, 1)
    losses += fast.run(pool, COMPARED - 1, at=1)[1]
    memory = peak_memory_gib(device)
    flops = flops_of_a_clip(arguments.model, config)

    plain_step = _plain_step(plain.to(device), config)
    slow, slow_tf32 = (_Timed(partial(plain_step, tf32=tf32), device) for tf32 in (False, True))
    expected = slow.run(pool, COMPARED)[1] if arguments.plain else []
    ours, theirs, theirs_tf32 = [], [], []
    for _ in range(arguments.turns):
        ours.append(fast.run(pool, arguments.steps)[0] / arguments.steps)
        few = max(1, arguments.steps // 4)
        if arguments.plain:
            theirs.append(slow.run(pool, few)[0] / few)
        if arguments.plain and device.type == "cuda":
            theirs_tf32.append(slow_tf32.run(pool, few)[0] / few)
    seconds = statistics.median(ours)
    rate, dtype = matrix_rate(device, fabric.strategy.precision.precision)
    tflops = flops["model"] * config.batch / seconds / 1e12
    figures = {
        "case": {
            "model": arguments.model,
            **size,
            "batch": config.batch,
            "channels": arguments.channels,
            "context": config.context,
            "horizon": config.horizon,
            "precision": fabric.strategy.precision.precision,
            "compiled": step.compiled,
        },
        "ms_per_step": 1e3 * seconds,
        "ms_per_step_turns": [1e3 * turn for turn in ours],
        "clips_per_s": config.batch / seconds,
        "gflop_per_clip": {form: count / 1e9 for form, count in flops.items()},
        "tflops": tflops,
        "peak_tflops": {dtype: rate},
        "fraction_of_peak": tflops / rate,
        "fraction_of_peak_executed": tflops / rate * flops["executed"] / flops["model"],
        "peak_memory_gib": memory,
        "first_step_s": first,
        "hours_for_300000_steps": seconds * 300_000 / 3600,
        "device": device_name(device),
        "environment": environment("torch", "lightning"),
    }
    if theirs:
        figures |= {
            "plain_ms_per_step": 1e3 * statistics.median(theirs),
            "ratio_to_plain": statistics.median(theirs) / seconds,
            "loss_off_most": max(abs(a - b) / b for a, b in zip(losses, expected, strict=True)),
        }
    if theirs_tf32:
        figures["ratio_to_plain_with_tf32"] = statistics.median(theirs_tf32) / seconds
    if arguments.shards:
        figures["from_shards"] = measure_shards(arguments, config, machine, fast, pool)
    report(figures)
    if kernels:
        report({"case": figures["case"], "kernels": kernels_of(lambda: fast.run(pool, 1), device)})


class _Timed:
    """Runs a step on clips one after the other."""

    def __init__(self, step: Callable[[Tensor], Tensor], device: torch.device):
        self.step, self.device = step, device

    def run(self, pool: list[Tensor], steps: int, *, at: int = 0) -> tuple[float, list[float]]:
        """(seconds, the losses), from the pool's clips in turn, the first being number `at`."""
        return self.feed(pool[(at + i) % len(pool)] for i in range(steps))

    def feed(self, source: Iterable[Tensor]) -> tuple[float, list[float]]:
        metrics, losses = DelayedMetrics(self.device), []
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for i, clips in enumerate(source):
            metrics.add(i, self.step(clips))
            losses += [values[0] for _, values in metrics.due()]
        losses += [values[0] for _, values in metrics.due(everything=True)]
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start, losses


def _plain_step(net: PlainNet | FrameByFrame, config: TrainConfig) -> Callable[..., Tensor]:
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.optimizer.lr, weight_decay=config.optimizer.weight_decay)

    def step(clips: Tensor, *, tf32: bool) -> Tensor:
        """tf32: products as a GPU makes them by default; without, in float32, as the report's GPU did."""
        cudnn = torch.backends.cudnn
        before, cudnn.benchmark, cudnn.allow_tf32 = (cudnn.benchmark, cudnn.allow_tf32), False, tf32
        loss = plain_losses(net, clips, config).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.optimizer.clip_norm)
        optimizer.step()
        cudnn.benchmark, cudnn.allow_tf32 = before
        return loss.detach()[None]

    return step


def flops_of_a_clip(model: str, config: TrainConfig) -> dict[str, int]:
    """Floating-point operations (2 a multiply-add) of forward and backward. model: every frame through the ladder,
    decoded where it is scored, which is what rates are quoted by; executed: the fast form's, which leaves out
    convolutions of the zero state and layer4 of frames that are not decoded; plain: the plain form's."""
    net = make_net(model, config)
    plain = plain_form(model, net)
    clips = moving_textures(1, config.context + config.horizon, height=config.height, width=config.width, seed=0)
    return {
        "model": _counted(lambda: plain_losses(plain, clips, config, decode_all=False)),
        "executed": _counted(lambda: RolloutLoss(net, config)(clips)),
        "plain": _counted(lambda: plain_losses(plain, clips, config)),
    }


def _counted(losses: Callable[[], Tensor]) -> int:
    with FlopCounterMode(display=False) as counter:
        losses().mean().backward()
    return counter.get_total_flops()


def matrix_rate(device: torch.device, precision: str) -> tuple[float, str]:
    """TFLOP/s of a large matrix product of random numbers, and in what: bf16, or float32 where a CPU trains in it."""
    in_bf16 = device.type == "cuda" or "bf16" in precision
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device).to(torch.bfloat16 if in_bf16 else torch.float32) for _ in range(2))
    rates = []
    for _ in range(12):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        rates.append(2 * n**3 / (time.perf_counter() - start) / 1e12)
    return statistics.median(rates[2:]), "bf16" if in_bf16 else "float32"


def measure_shards(
    arguments: argparse.Namespace, config: TrainConfig, machine: HardwareConfig, fast: _Timed, pool: list[Tensor]
) -> dict[str, object]:
    """Clips a second of the step fed by the loader, and by clips that are on the device already, in turns."""
    clips = Clips(open_videos(arguments.shards, "train"), length=config.context + config.horizon, spacing=1)
    found: dict[str, object] = {}
    for decoder in ("cpu", "device") if fast.device.type == "cuda" else ("cpu",):
        loaded, synthetic = [], []
        try:
            for epoch in range(arguments.turns):
                order = EpochOrder(len(clips), config.batch, epoch=epoch)
                if order.sizes.count(config.batch) < arguments.steps + 3:
                    raise SystemExit(f"{arguments.shards}: {len(clips)} clips are too few for {arguments.steps} steps")
                source = batches(clips, order, replace(machine, jpeg_decoder=decoder), fast.device)
                fast.feed(islice(source, 3))  # the workers have started; frames of another size are compiled for
                loaded.append(fast.feed(islice(source, arguments.steps))[0])
                source.close()
                synthetic.append(fast.run(pool, arguments.steps)[0])
        except RuntimeError as error:  # a torchvision without the GPU's decoder must not cost the other figures
            found[decoder] = f"failed: {error}".splitlines()[0]
            continue
        found[decoder] = {
            "clips_per_s": config.batch * arguments.steps / statistics.median(loaded),
            "ratio_to_synthetic": statistics.median(synthetic) / statistics.median(loaded),
        }
    return {"workers": machine.workers, "jpeg_decoder": found}


if __name__ == "__main__":
    main()
