"""Networks and settings to measure, and clips to measure them on."""

import argparse
from collections.abc import Iterator
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.clips.batches import EpochOrder
from pipeline.clips.clips import Clips
from pipeline.hardware import HardwareConfig
from pipeline.nets.build import build_net
from pipeline.nets.encoder import load_weights
from pipeline.nets.ladder import Ladder
from pipeline.settings import from_dict, overlay
from pipeline.training.config import TrainConfig
from pipeline.training.loop import varied_batches

FRAMES = {  # in, predicted
    "lvln": (3, 3),
    "one_frame": (5, 1),
    "full_res": (5, 1),
    "lvln_match": (3, 3),
    "lvln_warp": (3, 3),
}

WARPING = {
    "output": "warp",
    "candidates": 1,
    "norm": "group",
    "icnr": True,
    "flow": "lucas_kanade",
    "earlier_flow": True,
    "cost_volume": 0,
}
CHOICES = {  # of the networks
    "full_res": {},
    "lvln_match": WARPING | {"flow": "matching", "cost_volume": 3},
    "lvln_warp": WARPING,
}


COMPILE = {"auto": "auto", "graphs": "graphs", "true": True, "false": False}  # hardware.compile


def add_case(parser: argparse.ArgumentParser, *, size: str, channels: int, several: bool = False) -> None:
    """The arguments that make_config takes, with their defaults; several: a list of models."""
    models = {"nargs": "+", "default": ["lvln"]} if several else {"default": "lvln"}
    parser.add_argument("--model", choices=FRAMES, **models)
    parser.add_argument("--size", default=size, help="height x width in pixels")
    parser.add_argument("--batch", type=int, default=16 if torch.cuda.is_available() else 8)
    parser.add_argument("--channels", type=int, default=channels, help="of a branch; 64 in the report")
    parser.add_argument("--compile", choices=COMPILE, default="auto", help="hardware.compile of params.yaml")


def make_config(case: argparse.Namespace, **changes: object) -> TrainConfig:
    """The report's setting of a model, at the case's (add_case) size, batch and channels."""
    model = case.model
    height, width = map(int, case.size.split("x"))
    context, horizon = FRAMES[model]
    settings = {
        "seed": 0,
        "net": {"width": case.channels} | CHOICES.get(model, {"upsample": "pixel_shuffle"}),
        "height": height,
        "width": width,
        "encoder": "random",
        "context": context,
        "horizon": horizon,
        "off_by_one": False,
        "clip_feedback": True,
        "context_loss": 0.0,
        "sampling": {},
        "clips": {"spacing": 1, "fraction": 1.0, "overfit": 0},
        "augmentation": {"max_stride": 1, "reverse": False, "flip": False, "crop": 1.0},
        "curriculum": [{"fps": 10, "epochs": 1}],
        "batch": case.batch,
        "loss": {"dssim": 0.6, "l1": 0.3, "l2": 0.1},
        "optimizer": {
            "kind": "adamw",
            "lr": 3e-4,
            "weight_decay": 0.01,
            "warmup_steps": 0,
            "clip_norm": 1.0,
            "ema": 0.0,
        },
        "early_stopping": {"patience": 0, "validation_clips": 64},
    }
    overlay(settings, changes)
    return from_dict(settings, TrainConfig, where=f"train.{model}")


def hardware(**changes: object) -> HardwareConfig:
    """What the machine has, by `auto`; no loader process, and a state that is hardly ever saved."""
    settings = {
        "device": "auto",
        "devices": 1,
        "nodes": 1,
        "strategy": "auto",
        "precision": "auto",
        "compile": "auto",
        "workers": 0,
        "jpeg_decoder": "cpu",
        "checkpoint_minutes": 1000.0,
        "wandb": "disabled",
    }
    return from_dict(settings | changes, HardwareConfig, where="hardware")


def make_net(model: str, config: TrainConfig) -> Ladder:
    """The network with seeded weights."""
    torch.manual_seed(config.seed)
    net = build_net(model, config.net, height=config.height, width=config.width)
    load_weights(net.encoder, config.encoder)
    return net


def endless_batches(
    clips: Clips, config: TrainConfig, machine: HardwareConfig, device: torch.device
) -> Iterator[Tensor]:
    """Batches to train on, epoch after epoch; close it to end the loader's processes."""
    for epoch in count():
        order = EpochOrder(len(clips), config.batch, epoch=epoch)
        yield from varied_batches(clips, order, config, machine, device, epoch=epoch)


def moving_textures(clips: int, frames: int, *, height: int, width: int, seed: int) -> Tensor:
    """uint8 (clips, frames, 3, height, width): in each a random texture that moves by up to three pixels a frame."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(clips, 3, height // 8, width // 8, generator=generator)
    texture = (F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)
    velocity = torch.randint(-3, 4, (clips, 2), generator=generator).tolist()
    return torch.stack(
        [
            torch.stack([image.roll((t * dy, t * dx), (1, 2)) for t in range(frames)])
            for image, (dy, dx) in zip(texture, velocity, strict=True)
        ]
    )
