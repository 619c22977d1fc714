"""L-VLN, the Location-dependent Video Ladder Network of the report (section 3, Fig. 1).

Three frames in, three predicted, at 128×160 pixels.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pipeline.nets.encoder import Encoder
from pipeline.nets.ladder import Ladder, half_resolution
from pipeline.params import MultipleOf


@dataclass(frozen=True)
class Config:
    """Section `train.lvln.net`. width: channels of a branch and of a decoder block; 64 in the report."""

    width: Annotated[int, MultipleOf(4)]
    upsample: Literal["pixel_shuffle", "bilinear", "nearest"]


def build(config: Config, encoder: Encoder, *, height: int, width: int) -> Ladder:
    """The network for frames of height × width pixels (multiples of 32)."""
    return half_resolution(encoder, branch=config.width, upsample=config.upsample, height=height, width=width)
