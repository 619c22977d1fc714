"""What every benchmark needs: time of child processes, the machine in words, and the JSON that ends the output."""

import ctypes
import json
import os
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock, and seconds of CPU over all processes."""

    wall: float
    cpu: float


def cost_of_children(work: Callable[[], object]) -> Cost:
    """Runs `work` and returns what the processes that it started, and those that they left behind, took."""
    # A fork server outlives the process that started it and would be counted by nobody.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wall, cpu = time.perf_counter(), _cpu_of_children()
    work()
    wall = time.perf_counter() - wall
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return Cost(wall, _cpu_of_children() - cpu)


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def environment(*packages: str) -> dict[str, str]:
    """The machine, Python, and the versions of some packages (absent ones are said to be)."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    found = {"cpu": f"{model}, {len(os.sched_getaffinity(0))} cores", "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else environment()["cpu"]


def peak_memory_gib(device: torch.device) -> float:
    """Most that was allocated on a GPU, or was resident of this process on a CPU, so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def report(figures: dict[str, object]) -> None:
    """The last line of a benchmark: one JSON object, floats to four digits."""
    print(json.dumps(_rounded(figures), sort_keys=True))


def _rounded(node: object) -> object:
    if isinstance(node, dict):
        return {key: _rounded(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_rounded(value) for value in node]
    return float(f"{node:.4g}") if isinstance(node, float) else node
