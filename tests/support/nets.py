"""Networks small enough for tests, and one that knows the answer."""

from dataclasses import replace

import torch
from torch import Tensor

from pipeline.nets.encoder import Encoder
from pipeline.nets.ladder import Ladder
from pipeline.variants import full_res, lvln, lvln_match, lvln_warp, one_frame

WARPING = lvln_warp.Config(
    width=8,
    output="warp",
    candidates=1,
    norm="group",
    icnr=True,
    flow="lucas_kanade",
    earlier_flow=True,
    cost_volume=2,
)
VARIANTS = {
    "lvln": (lvln, lvln.Config(4, "pixel_shuffle")),
    "one_frame": (one_frame, one_frame.Config(4, "bilinear")),
    "full_res": (full_res, full_res.Config(4)),
    "lvln_match": (lvln_match, replace(WARPING, flow="matching")),
    "lvln_warp": (lvln_warp, WARPING),
}


def small(name: str, *, height: int = 32, width: int = 64) -> Ladder:
    """A variant with seeded weights, as before any training."""
    torch.manual_seed(0)
    module, config = VARIANTS[name]
    return module.build(config, Encoder(), height=height, width=width)


class Counting(torch.nn.Module):
    """A network that has understood clips whose frames are constants c, c + 1, c + 2, …: after each frame it says
    the next. Values are scaled to stay in [0, 1]."""

    unit = 1 / 255

    def __init__(self) -> None:
        super().__init__()
        self.dummy = torch.nn.Parameter(torch.zeros(()))
        self.fed: list[float] = []

    def encode(self, frames: Tensor) -> dict[str, list[Tensor]]:
        return {"frame": [frames]}

    def observe(self, encoded: dict[str, list[Tensor]], states: object = None) -> tuple:
        self.fed.append(round(float(encoded["frame"][0].detach().mean() / self.unit)))
        return ()

    def decode(self, encoded: dict[str, list[Tensor]], states: tuple) -> Tensor:
        return encoded["frame"][0] + self.unit + 0 * self.dummy
