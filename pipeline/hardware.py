"""Section `hardware`: what a machine has. No result depends on it but for rounding, and for `precision`, which the
stages that train therefore track."""

from typing import Literal

import torch

from pipeline.settings import Count, Natural, Positive, load_section, section


@section
class HardwareConfig:
    """Section `hardware`."""

    device: Literal["auto", "cpu", "cuda"]
    devices: Count  # that train a model together, on each machine, a process each
    nodes: Count  # machines that do
    strategy: Literal["auto", "ddp"]  # auto: ddp for more than one process
    precision: Literal["auto", "32-true", "bf16-mixed"]  # auto: bf16-mixed where the device computes in it
    compile: Literal["auto", "graphs", True, False]  # auto: graphs on a single GPU without ddp
    workers: Natural  # processes that load clips; 0: the main process does
    jpeg_decoder: Literal["cpu", "device"]  # in the loader, or where the model is, by the GPU's batched decoder
    checkpoint_minutes: Positive  # between saves of the state of a training
    wandb: Literal["disabled", "offline", "online"]

    @property
    def ranks(self) -> int:
        """Processes that train together."""
        return self.devices * self.nodes


def pick_device(name: str, *, key: str = "hardware.device") -> torch.device:
    """auto, cpu or cuda -> a device. ValueError, naming the params key, when a GPU is asked for and there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{key}: cuda, but torch sees no GPU; set it to auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def stage_device() -> torch.device:
    """The device that hardware.device of params.yaml says; errors as load_section and pick_device."""
    return pick_device(load_section("hardware", HardwareConfig).device)
