"""The full-resolution variant (report, Fig. 14): the ladder moved up one level, so that nothing is upsampled.

An extra 7×7 convolution on the frame feeds C1 at full resolution; C2 … C4 take conv1, layer1, layer2; L4 shuffles
by four to reach layer2's resolution.
"""

from functools import partial
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from pipeline.nets.blocks import decoder_block
from pipeline.nets.encoder import Encoder
from pipeline.nets.ladder import Encoded, Ladder, Rung
from pipeline.settings import section

STEM_CHANNELS = 64


@section
class Config:
    """Section `train.full_res.net`. width: of C3, C4 and a decoder block; C2 has half, C1 a quarter. 64 in the
    report."""

    width: Annotated[int, Field(gt=0, multiple_of=4)]


class FullRes(Ladder):
    """The ladder with a trainable stem beside the frozen encoder."""

    def __init__(self, encoder: Encoder, *, base: int, height: int, width: int):
        rungs = (
            Rung("stem", STEM_CHANNELS, 1, branch=base // 4),
            Rung.on("conv1", branch=base // 2),
            Rung.on("layer1", branch=base, location=True),
            Rung.on("layer2", branch=base, location=True),
        )
        block = partial(decoder_block, channels=base, expansion=16 * base)
        head = nn.Conv2d(4 * (base // 4) + base, 3, 1)
        super().__init__(encoder, rungs, block=block, base=base, height=height, width=width, head=head)
        self.stem = nn.Conv2d(3, STEM_CHANNELS, 7, padding=3)

    def tap(self, frames: Tensor) -> dict[str, Tensor]:
        return self.encoder(frames) | {"frame": frames}

    def project(self, taps: dict[str, Tensor]) -> Encoded:
        return super().project(taps | {"stem": self.stem(self.encoder.normalise(taps["frame"]))})


def build(config: Config, encoder: Encoder, *, height: int, width: int) -> FullRes:
    """The network for frames of height × width pixels (multiples of 32)."""
    return FullRes(encoder, base=config.width, height=height, width=width)
