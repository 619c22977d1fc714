"""Optimisation steps small enough for tests."""

from dataclasses import replace
from types import SimpleNamespace

import torch

from benchmarks.cases import hardware, make_config, moving_textures
from pipeline.nets.ladder import Ladder
from pipeline.training.config import TrainConfig
from pipeline.training.devices import make_fabric
from pipeline.training.step import Step

LR = 1e-3


def case(model: str, *, size: str = "32x64", channels: int = 8) -> TrainConfig:
    return make_config(SimpleNamespace(model=model, size=size, channels=channels, batch=4))


def short(config: TrainConfig) -> TrainConfig:
    """With the fewest frames in which a network begins, goes on, and is fed a prediction: compiling takes as long as
    the rollout is."""
    return replace(config, context=2, horizon=min(2, config.horizon))


def begin(
    net: Ladder, config: TrainConfig, *, device: str = "cpu", precision: str = "32-true", compile: bool | str = False
) -> Step:
    """The step of a network."""
    machine = hardware(device=device, precision=precision)
    fabric = make_fabric(machine, height=config.height, width=config.width)
    torch.backends.cudnn.benchmark = False  # on a GPU, timing its algorithms takes longer than the test
    return Step(fabric, net, config, compile=compile)


def clips(config: TrainConfig, count: int = 4, *, seed: int = 0, scale: int = 1) -> torch.Tensor:
    frames = config.context + config.horizon
    return moving_textures(count, frames, height=scale * config.height, width=scale * config.width, seed=seed)
