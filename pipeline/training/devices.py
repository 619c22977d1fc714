"""What a run computes on: devices, machines, precision, compilation.

Several devices train together by Lightning Fabric's DDP: torchrun starts a process (a rank) for each, every rank takes
its part of each batch, and gradients are averaged. Batch-norm statistics are the whole batch's (batch_norm.py), so
that the result does not depend on the number of devices but for rounding.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import Logger
from lightning.fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.fabric.strategies import DDPStrategy

from pipeline.hardware import HardwareConfig, pick_device

SMALLEST_IN_BF16 = 64  # pixels, on a CPU; see pick_precision


def make_fabric(config: HardwareConfig, *, height: int, width: int, loggers: Sequence[Logger] = ()) -> Fabric:
    """The run's devices, launched. height, width: of the frames.

    ValueError when a GPU is asked for and there is none or too few, when torchrun has started another number of
    processes than the section says, or when the precision does not go with the device.
    """
    device = check_devices(config)
    here, started = (int(os.environ.get(name, "1")) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    if (here, started) != (config.devices, config.ranks):
        raise ValueError(
            f"hardware: devices {config.devices} on each of nodes {config.nodes} make {config.ranks} processes, but "
            f"{started} started, {here} of them here; start them with: torchrun --nnodes {config.nodes} "
            f"--nproc-per-node {config.devices}"
        )
    # Said here, since Lightning's own search takes a job of SLURM for several processes, and fails where mpi4py has no
    # MPI.
    started_by = TorchElasticEnvironment if torch.distributed.is_torchelastic_launched() else LightningEnvironment
    ddp = config.strategy == "ddp" or config.ranks > 1
    fabric = Fabric(
        accelerator=device,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=DDPStrategy(broadcast_buffers=False) if ddp else "auto",  # statistics are equal on all ranks
        precision=pick_precision(config.precision, device, smallest=min(height, width)),
        plugins=started_by(),
        loggers=list(loggers),
    )
    fabric.launch()
    # Timed once for each shape, which are few: cuDNN's own guess for kernels of 5×5 and 7×7 in bf16 leaves tensor cores
    # unused.
    torch.backends.cudnn.benchmark = True
    return fabric


@contextmanager
def closing_ranks() -> Iterator[None]:
    """Whatever way the block ends, closes what connects this process with the other ranks. Left open, its threads would
    still be running when the process ends, which then may be aborted."""
    try:
        yield
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def check_devices(config: HardwareConfig) -> str:
    """cpu or cuda; ValueError when a GPU is asked for and there is none, or too few."""
    device = pick_device(config.device).type
    if device == "cuda" and config.devices > torch.cuda.device_count():
        raise ValueError(f"hardware.devices: {config.devices}, but torch sees {torch.cuda.device_count()} GPU(s)")
    return device


def pick_precision(name: str, device: str, *, smallest: int) -> str:
    """auto -> bf16-mixed on a GPU or CPU that has bf16 arithmetic, 32-true elsewhere.

    smallest: the shorter side of the frames. On a CPU, frames under 64 pixels stay in float32: oneDNN leaves the bf16
    weight gradients of a kernel that reaches more than the whole map beyond its centre unwritten.
    """
    too_small = device == "cpu" and smallest < SMALLEST_IN_BF16
    if name == "bf16-mixed" and too_small:
        raise ValueError(
            f"hardware.precision: bf16-mixed on a CPU needs frames of at least {SMALLEST_IN_BF16}×{SMALLEST_IN_BF16} "
            f"pixels; set it to auto or 32-true"
        )
    if name != "auto":
        return name
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        found = torch.cpu.get_capabilities()
        native = found.get("avx512_bf16", False) or found.get("amx_bf16", False)
    return "bf16-mixed" if native and not too_small else "32-true"


def pick_compile(choice: Literal["auto", "graphs"] | bool, fabric: Fabric) -> Literal["graphs"] | bool:
    """auto -> CUDA graphs (graphs.py) on a single GPU without ddp, False elsewhere. ValueError for graphs elsewhere,
    and for True with ddp."""
    ddp = isinstance(fabric.strategy, DDPStrategy)
    possible = fabric.device.type == "cuda" and not ddp
    if choice is True and ddp:
        raise ValueError("hardware.compile: true does not go with ddp; set it to auto or false")
    if choice == "graphs" and not possible:
        raise ValueError("hardware.compile: graphs needs a single GPU without ddp; set it to auto or false")
    if choice == "auto":
        return "graphs" if possible else False
    return choice
