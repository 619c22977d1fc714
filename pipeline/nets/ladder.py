"""The ladder that every variant shares: encoder taps up, lateral memory across, decoder down (report, Fig. 1).

    frame -> encoder ---- layer4 -----------------> L4      C: lateral block, keeps the hidden state
                |---- tap 4 -> C4 ----------> concat -> L3   L: decoder block, doubles the resolution
                |---- tap 3 -> C3 ----------> concat -> L2
                |---- tap 2 -> C2 ----------> concat -> L1
                '---- tap 1 -> C1 ----------> concat -> head -> frame

Shapes: B batch, H × W pixels of the frame; images in [0, 1].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.nets.blocks import Hidden, LateralBlock, decoder_block, icnr_
from pipeline.nets.encoder import TAPS, Encoder
from pipeline.settings import section

LEVELS = ("C1", "C2", "C3", "C4")

# By name: of C1 … C4 the hidden states of their three ConvGRUs, (B, branch, H / stride, W / stride) each. A variant may
# remember more under names of its own.
States = dict[str, Hidden]

Encoded = dict[str, list[Tensor]]  # of N frames, by tap: the tap, and, for a rung, what its ConvGRUs need of it


@dataclass(frozen=True)
class Rung:
    """A level of the ladder: its tap, with so many channels at 1/stride of the resolution; its branch width."""

    tap: str
    channels: int
    stride: int
    branch: int
    location: bool = False
    compress: bool = False
    more: int = 0  # channels that a variant adds to those of the lateral block

    @classmethod
    def on(cls, tap: str, **choices: Any) -> "Rung":
        """A rung on one of the encoder's taps."""
        return cls(tap, TAPS[tap].channels, TAPS[tap].stride, **choices)


class Ladder(nn.Module):
    """Base of the variants, which choose the rungs (C1 first), the decoder blocks and the head.

    block: decoder_block but for the channels in: (channels_in, **choices) -> one. base: channels that it passes on (64
    in the report). height, width: of the frames, in pixels. head: what `decoder_features` gives -> the frame at full
    resolution, in the encoder's normalised range (a variant with a `decode` of its own may use it otherwise). bottom:
    with layer4 and L4, as in the report; without them the decoder begins at C4.
    """

    def __init__(
        self,
        encoder: Encoder,
        rungs: tuple[Rung, ...],
        *,
        block: Callable[..., nn.Module],
        base: int,
        height: int,
        width: int,
        head: nn.Module,
        bottom: bool = True,
    ):
        super().__init__()
        self.encoder = encoder
        self.taps = [rung.tap for rung in rungs]
        self.lateral = nn.ModuleList(
            LateralBlock(
                rung.channels,
                rung.branch,
                height=height // rung.stride,
                width=width // rung.stride,
                location=rung.location,
                compress=rung.compress,
            )
            for rung in rungs
        )
        deepest = TAPS["layer4"]
        shuffle = deepest.stride // rungs[-1].stride
        self.bottom = block(deepest.channels, shuffle=shuffle, norm=None) if bottom else None  # L4
        below = [base if bottom else 0, base, base]
        self.decoder = nn.ModuleList(
            block(4 * rung.branch + rung.more + under) for rung, under in zip(reversed(rungs[1:]), below, strict=True)
        )  # L3, L2, L1
        self.head = head

    def tap(self, frames: Tensor) -> dict[str, Tensor]:
        """Frames (N, 3, H, W) -> the encoder's taps by name, and what else `project` needs. No weight that is trained
        takes part, so that networks around the same encoder can share them."""
        return self.encoder(frames)

    def project(self, taps: dict[str, Tensor]) -> Encoded:
        """The taps -> what `observe` and `decode` need of the frames."""
        lateral = dict(zip(self.taps, self.lateral, strict=True))
        return {name: [x, *(lateral[name].project(x) if name in lateral else ())] for name, x in taps.items()}

    def encode(self, frames: Tensor) -> Encoded:
        """Frames (N, 3, H, W) -> what is needed of them. Knows nothing of time, so that all frames already at hand go
        through it in one batch."""
        return self.project(self.tap(frames))

    def observe(self, encoded: Encoded, states: States | None = None, *, decoding: bool = True) -> States:
        """Feeds one encoded frame; states None: nothing seen yet. Returns the new hidden states. decoding: with what a
        variant works out for its decoder alone; without it, `decode` cannot be called."""
        levels = zip(LEVELS, self.lateral, self.taps, strict=True)
        return {level: block(encoded[tap][1:], states[level] if states else None) for level, block, tap in levels}

    def hidden(self, states: States) -> list[Tensor]:
        """The maps with which the network remembers, a level each: C1 … C4's states joined, (B, 3·branch, H / stride,
        W / stride), then those of a variant's own branches."""
        return [torch.cat(states[level], 1) for level in LEVELS]

    def decode(self, encoded: Encoded, states: States) -> Tensor:
        """The last frame fed and the states after it -> the prediction of the next frame: (B, 3, H, W), near [0, 1]
        but not clipped."""
        return self.encoder.denormalise(self.head(self.decoder_features(encoded, states)))

    def decoder_features(self, encoded: Encoded, states: States) -> Tensor:
        """Down the decoder: concat(C1, L1), (B, 4·branch + base, H, W) of the first rung's map."""
        lateral = self.features(encoded, states)
        below = [self.bottom(self.encoder.deepest(encoded["layer3"][0]))] if self.bottom else []
        for block, c in zip(self.decoder, reversed(lateral[1:]), strict=True):
            below = [block(torch.cat([*c, *below], 1))]
        return torch.cat([*lateral[0], *below], 1)

    def features(self, encoded: Encoded, states: States) -> list[list[Tensor]]:
        """What the decoder gets of C1 … C4, to be concatenated."""
        levels = zip(LEVELS, self.lateral, self.taps, strict=True)
        return [block.features(encoded[tap][0], states[level]) for level, block, tap in levels]

    def forward(self, frame: Tensor, states: States | None = None) -> tuple[Tensor, States]:
        """One step: the frame seen (B, 3, H, W) -> the prediction of the next frame, and the hidden states."""
        encoded = self.encode(frame)
        states = self.observe(encoded, states)
        return self.decode(encoded, states), states


def split(encoded: Encoded, size: int) -> list[Encoded]:
    """Runs of `size` frames each."""
    parts = {name: [x.split(size) for x in tensors] for name, tensors in encoded.items()}
    runs = len(next(iter(parts.values()))[0])
    return [{name: [part[i] for part in tensors] for name, tensors in parts.items()} for i in range(runs)]


def join(states: Sequence[States]) -> States:
    """States of several times as those of one batch, the B of each time side by side, as `split` takes them apart."""
    return {name: tuple(map(torch.cat, zip(*(each[name] for each in states), strict=True))) for name in states[0]}


def first(states: States, count: int) -> States:
    """The states of the first `count` of the B clips."""
    return {name: tuple(hidden[:count] for hidden in states[name]) for name in states}


@section
class HalfResolution:
    """Section `net` of the ladder of the report's Fig. 1, whose decoder ends at half the frame's resolution.

    width: channels of a lateral branch and of a decoder block; 64 in the report. upsample: how the frame gets from
    there to full resolution (report, Fig. 9): `pixel_shuffle` predicts the four pixels of each place, `bilinear` and
    `nearest` interpolate. `icnr`, which is not the report's, is a pixel shuffle that starts without a grid, there and
    in the decoder (blocks.icnr_).
    """

    width: Annotated[int, Field(gt=0, multiple_of=4)]
    upsample: Literal["pixel_shuffle", "icnr", "bilinear", "nearest"]


def half_resolution(config: HalfResolution, encoder: Encoder, *, height: int, width: int) -> Ladder:
    """The network for frames of height × width pixels (multiples of 32)."""
    branch, icnr = config.width, config.upsample == "icnr"
    rungs = (
        Rung.on("conv1", branch=branch),
        Rung.on("layer1", branch=branch),
        Rung.on("layer2", branch=branch, location=True),
        Rung.on("layer3", branch=branch, location=True),
    )
    channels = 4 * branch + branch  # C1 and L1
    if config.upsample in ("pixel_shuffle", "icnr"):
        head = nn.Sequential(nn.Conv2d(channels, 3 * 4, 1), nn.PixelShuffle(2))
        if icnr:
            icnr_(head[0], 2)
    else:
        head = nn.Sequential(nn.Conv2d(channels, 3, 1), nn.Upsample(scale_factor=2, mode=config.upsample))
    block = partial(decoder_block, channels=branch, expansion=16 * branch, icnr=icnr)
    return Ladder(encoder, rungs, block=block, base=branch, height=height, width=width, head=head)
