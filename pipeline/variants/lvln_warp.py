"""L-VLN that moves pixels instead of redrawing them: what the report's model lacked to beat copying.

The ladder of lvln.py with GroupNorm, ICNR and fewer decoder channels, one more decoder block up to full resolution,
and a head that says of every pixel where it comes from, how far to trust that, and which colour to add else:

    frame t+1 = m · warp(frame t, flow) + (1 − m) · (frame t + rgb)        flow = speed · observed flow + change

(Liu et al., "Deep Voxel Flow" 2017, section 3.1; Hu et al., "DMVFN" 2023, eq. 2.) The head's last convolution is zero
at first, so training starts at copying the last frame. Beside the report's hidden states the network remembers the
last frame and its taps. What it makes of two frames: C0 sees both at full resolution; the observed flow is that of
Lucas and Kanade between them (speed 1 is then constant velocity); the cost volume between their taps shows
displacements that no kernel of the ladder reaches.

Every part is a param that can be switched off. Shapes: B batch, H × W pixels of the frame; images in [0, 1].
"""

from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.images import warp
from pipeline.nets.blocks import ConvGRU, Norm, decoder_block
from pipeline.nets.encoder import Encoder
from pipeline.nets.flow import cost_volume, lucas_kanade
from pipeline.nets.ladder import Encoded, Ladder, Rung, States
from pipeline.settings import Natural, section

MATCHED = {"match1": "conv1", "match2": "layer1"}  # taps of C1 and C2, between whose frames a cost volume is made


@section
class Config:
    """Section `train.lvln_warp.net`. width: channels of a branch and of a decoder block; 64 is the full model."""

    width: Annotated[int, Field(gt=0, multiple_of=8)]
    output: Literal["warp", "residual", "redraw"]  # residual: the last frame plus a colour; redraw: as the report does
    norm: Norm  # of the decoder
    icnr: bool  # before each pixel shuffle
    observed_flow: bool  # between the last two frames, for the head to go on with
    cost_volume: Natural  # its radius, in places of the map; 0: none


class LvlnWarp(Ladder):
    """The ladder with a memory of the last two frames.

    States beside C1 … C4: `C0`, at full resolution, and `match1`, `match2` of the matched taps, a pair each of the
    ConvGRU's input and its hidden state; `motion`, what `motion` found; `last`, what the next step compares itself
    with: the frame and the matched taps.
    """

    def __init__(self, encoder: Encoder, config: Config, *, height: int, width: int):
        base = config.width
        matched = MATCHED if config.cost_volume else {}
        more = 2 * base if matched else 0
        rungs = (
            Rung.on("conv1", branch=base, more=more),
            Rung.on("layer1", branch=base, more=more),
            Rung.on("layer2", branch=base, location=True, compress=True),
            Rung.on("layer3", branch=base, location=True, compress=True),
        )
        block = partial(decoder_block, norm=config.norm, icnr=config.icnr)
        moved = 3 if config.observed_flow else 0  # its two components, and what it leaves unexplained
        outputs = (6 + (1 if config.observed_flow else 0)) if config.output == "warp" else 3
        head = nn.Sequential(
            nn.Conv2d(base + moved, base, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(base, base, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(base, outputs, 3, padding=1),  # rgb; then mask, change of flow and speed
        )
        if config.output != "redraw":
            nn.init.zeros_(head[-1].weight)
            nn.init.zeros_(head[-1].bias)
        super().__init__(
            encoder,
            rungs,
            block=partial(block, channels=base, expansion=12 * base),
            base=base,
            height=height,
            width=width,
            head=head,
        )
        self.output, self.observed_flow, self.radius = config.output, config.observed_flow, config.cost_volume
        self.full = block(5 * base + more, channels=base // 2, expansion=4 * base)  # L0
        self.pair = nn.Conv2d(6 + moved, base // 4, 3, padding=1)
        self.matches = list(matched)
        places = (2 * self.radius + 1) ** 2
        self.match = nn.ModuleDict({tap: nn.Conv2d(places, base, 3, padding=1) for tap in matched.values()})
        widths = [base // 4] + [base] * len(matched)
        self.recent = nn.ModuleList(ConvGRU(width, width, kernel=3) for width in widths)  # C0, and of each matched tap

    def tap(self, frames: Tensor) -> dict[str, Tensor]:
        return self.encoder(frames) | {"frame": frames}

    def observe(self, encoded: Encoded, states: States | None = None) -> States:
        # Where to look for a match is no matter of gradients.
        now = (encoded["frame"][0], *(encoded[tap][0].detach() for tap in self.match))
        before = states["last"] if states else now
        motion = self.motion(now[0].detach(), before[0].detach()) if self.observed_flow else ()
        inputs = {"C0": self.pair(torch.cat([now[0], before[0], *motion], 1))}
        for name, conv, after, earlier in zip(self.matches, self.match.values(), now[1:], before[1:], strict=True):
            inputs[name] = conv(cost_volume(after, earlier, radius=self.radius))
        memory = {
            name: (x, gru(gru.from_input(x), states[name][1] if states else None))
            for gru, (name, x) in zip(self.recent, inputs.items(), strict=True)
        }
        return {**super().observe(encoded, states), **memory, "motion": motion, "last": now}

    def hidden(self, states: States) -> list[Tensor]:
        """After those of C1 … C4: C0's, (B, width / 4, H, W), and those of the matched taps."""
        return [*super().hidden(states), *(states[name][1] for name in ("C0", *self.matches))]

    def features(self, encoded: Encoded, states: States) -> list[list[Tensor]]:
        lateral = super().features(encoded, states)
        for level, name in enumerate(self.matches):  # of C1 and C2
            lateral[level] += states[name]
        return lateral

    def decode(self, encoded: Encoded, states: States) -> Tensor:
        (frame,) = encoded["frame"]
        x = self.full(self.decoder_features(encoded, states))  # (B, width / 2, H, W)
        motion = states["motion"]
        out = self.head(torch.cat([x, *states["C0"], *motion], 1)).float()
        if self.output == "redraw":
            return self.encoder.denormalise(out)
        if self.output == "residual":
            return frame + out
        rgb, mask, flow, *speed = out.split([3, 1, 2, 1] if motion else [3, 1, 2], 1)
        if motion:
            flow = flow + speed[0] * motion[0]
        mask = torch.sigmoid(mask)
        return mask * warp(frame, flow) + (1 - mask) * (frame + rgb)

    @staticmethod
    def motion(now: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Two frames -> the observed flow, and the mean difference (B, 1, H, W) that it leaves."""
        flow = lucas_kanade(now, before)
        return flow, (now - warp(before, flow)).abs().mean(1, keepdim=True)


def build(config: Config, encoder: Encoder, *, height: int, width: int) -> LvlnWarp:
    """The network for frames of height × width pixels (multiples of 32)."""
    return LvlnWarp(encoder, config, height=height, width=width)
