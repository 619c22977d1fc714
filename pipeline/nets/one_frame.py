"""The one-frame variant of the report: L-VLN's ladder, trained to predict the next frame alone.

At 64×96 pixels five seed frames predict the sixth. Any number of seeds works, since the ladder is recurrent, and
predictions appended to the seeds roll out further (rollout.py). The upsampling is the ladder's own; the report
compared its grid artifacts on this variant (Fig. 9).
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pipeline.nets.encoder import Encoder
from pipeline.nets.ladder import Ladder, half_resolution
from pipeline.params import MultipleOf


@dataclass(frozen=True)
class Config:
    """Section `train.one_frame.net`. width: channels of a branch and of a decoder block; 64 in the report."""

    width: Annotated[int, MultipleOf(4)]
    upsample: Literal["pixel_shuffle", "bilinear", "nearest"]


def build(config: Config, encoder: Encoder, *, height: int, width: int) -> Ladder:
    """The network for frames of height × width pixels (multiples of 32)."""
    return half_resolution(encoder, branch=config.width, upsample=config.upsample, height=height, width=width)
