"""The ladder that moves pixels instead of redrawing them: what lvln_warp and lvln_match share.

The ladder of the report with GroupNorm, ICNR and fewer channels, without layer4, one more decoder block up to full
resolution, and a head that says of every pixel where it may come from, how far to trust that, and which colour to add
else:

    frame t+1 = Σ_k w_k · moved_k + w · (moved_1 + rgb)
    moved_k = warp(frame t, flow_k)        flow_k = speed_k · observed flow + change_k

(Liu et al., "Deep Voxel Flow" 2017, section 3.1; Hu et al., "DMVFN" 2023, eq. 2.) The weights sum to one. Beside
the report's hidden states the network remembers the last frame and its taps, and what it makes of two frames: C0 sees
both at full resolution, and the cost volume between their taps shows displacements that no kernel of the ladder
reaches. The flow observed between the two, by Lucas and Kanade or by matching features, is for the decoder and the head
alone: the hidden states are not told of it.

The head's last convolution is zero at first, but for biases that make training start at constant velocity (the first
candidate has speed one, and others nearly no weight) or, without the observed flow, at copying the last frame.

Every part is a param that can be switched off. Shapes: B batch, H × W pixels of the frame; images in [0, 1].
"""

from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.images import warp
from pipeline.nets.blocks import ConvGRU, Norm, decoder_block
from pipeline.nets.encoder import Encoder
from pipeline.nets.flow import cost_volume, lucas_kanade, matched_flow, texture_filters
from pipeline.nets.ladder import Encoded, Ladder, Rung, States
from pipeline.settings import Count, Natural, section

OTHERS = -3.0  # weight of the candidates after the first at the start, before the softmax; 0 of the first
MATCHED = {"match1": "conv1", "match2": "layer1"}  # taps of C1 and C2, between whose frames a cost volume is made

LEAK = 0.1  # of the head's ReLUs, which nothing normalises: without it they can die for good
Flow = Literal["lucas_kanade", "matching", "none"]


@section
class Warping:
    """Section `net`. width: channels of a branch and of a decoder block; 64 is the full model."""

    width: Annotated[int, Field(gt=0, multiple_of=8)]
    output: Literal["warp", "residual", "redraw"]  # residual: the last frame plus a colour; redraw: as the report does
    candidates: Count  # places that a pixel may come from, blended
    norm: Norm  # of the decoder
    icnr: bool  # before each pixel shuffle
    flow: Flow  # observed between the last two frames, for the decoder to go on with
    earlier_flow: bool  # and the one observed before it, so that acceleration shows
    cost_volume: Natural  # its radius, in places of the map; 0: none

    def __post_init__(self) -> None:
        if self.flow == "matching" and not self.cost_volume:
            raise ValueError("flow matching needs cost_volume above 0, in which it finds matches")
        if self.flow == "none" and self.earlier_flow:
            raise ValueError(
                "earlier_flow needs a flow; set flow to lucas_kanade or matching, or earlier_flow to false"
            )


class WarpLadder(Ladder):
    """The ladder with a memory of the last frames.

    States beside C1 … C4: `C0`, at full resolution, and `match1`, `match2` of the matched taps, a pair each of the
    ConvGRU's input and its hidden state; `motion`, what `motion` found; `last`, what the next step compares itself
    with: the frame and the matched taps.
    """

    def __init__(self, encoder: Encoder, config: Warping, *, height: int, width: int):
        base = config.width
        matched = MATCHED if config.cost_volume else {}
        seen = 0 if config.flow == "none" else 5 if config.earlier_flow else 3  # channels of `motion`
        more = (2 * base if matched else 0) + (base if seen else 0)
        rungs = (
            Rung.on("conv1", branch=base, compress=True, more=more),
            Rung.on("layer1", branch=base, compress=True, more=more),
            Rung.on("layer2", branch=base, compress=True, location=True),
            Rung.on("layer3", branch=base, compress=True, location=True),
        )
        block = partial(decoder_block, norm=config.norm, icnr=config.icnr)
        # rgb; and the weights (that of the colour first), the changes of the flow and the speeds of the candidates.
        count = config.candidates
        self.parts = (3, 1 + count, 2 * count, count if seen else 0)
        head = nn.Sequential(
            nn.Conv2d(base + seen, base, 3, padding=1),
            nn.LeakyReLU(LEAK),
            nn.Conv2d(base, base, 3, padding=1),
            nn.LeakyReLU(LEAK),
            nn.Conv2d(base, sum(self.parts) if config.output == "warp" else 3, 3, padding=1),
        )
        if config.output != "redraw":
            nn.init.zeros_(head[-1].weight)
            nn.init.zeros_(head[-1].bias)
        if config.output == "warp":
            _, weights, _, speeds = head[-1].bias.detach().split(self.parts)
            weights[2:] = OTHERS
            speeds[:1] = 1
        super().__init__(
            encoder,
            rungs,
            block=partial(block, channels=base, expansion=12 * base),
            base=base,
            height=height,
            width=width,
            head=head,
            bottom=False,
        )
        self.config = config
        self.full = block(5 * base + more, channels=base // 2, expansion=4 * base)  # L0
        levels = range(2 if seen else 0)  # C1 and C2
        self.shrunk = nn.ModuleList(nn.Conv2d(seen, base, 3, padding=1) for _ in levels)  # of `motion`
        self.pair = nn.Conv2d(6, base // 4, 3, padding=1)
        if config.flow == "matching":
            self.register_buffer("textures", texture_filters(), persistent=False)
        self.matched = list(matched)
        places = (2 * config.cost_volume + 1) ** 2
        self.match = nn.ModuleDict({tap: nn.Conv2d(places, base, 3, padding=1) for tap in matched.values()})
        widths = [base // 4] + [base] * len(matched)
        self.recent = nn.ModuleList(ConvGRU(width, width, kernel=3) for width in widths)  # C0, and of each matched tap

    def tap(self, frames: Tensor) -> dict[str, Tensor]:
        return self.encoder(frames) | {"frame": frames}

    def observe(self, encoded: Encoded, states: States | None = None, *, decoding: bool = True) -> States:
        # Where to look for a match, and what flow is observed, is no matter of gradients.
        now = (encoded["frame"][0], *(encoded[tap][0].detach() for tap in self.match))
        before = states["last"] if states else now
        pairs = zip(now[1:], before[1:], strict=True)
        volumes = [cost_volume(*pair, radius=self.config.cost_volume) for pair in pairs]
        inputs = {"C0": self.pair(torch.cat([now[0], before[0]], 1))}
        for name, conv, volume in zip(self.matched, self.match.values(), volumes, strict=True):
            inputs[name] = conv(volume)
        memory = {
            name: (x, gru(gru.from_input(x), states[name][1] if states else None))
            for gru, (name, x) in zip(self.recent, inputs.items(), strict=True)
        }
        motion = self.motion(now[0].detach(), volumes, states) if decoding else ()
        return {**super().observe(encoded, states), **memory, "motion": motion, "last": now}

    def motion(self, now: Tensor, volumes: list[Tensor], states: States | None) -> tuple[Tensor, ...]:
        """What is observed between a frame and the last: the flow (B, 2, H, W), the mean difference (B, 1, H, W) that
        it leaves, and the flow observed before it, of each pixel where it then was. volumes: of the matched taps;
        states: those before the frame. A first frame has stood still. () with flow none."""
        if self.config.flow == "none":
            return ()
        if states is None:
            found = tuple(now.new_zeros(now.shape[0], channels, *now.shape[2:]) for channels in (2, 1, 2))
        else:
            before = states["last"][0].detach()
            if self.config.flow == "matching":
                flow = matched_flow(now, before, volumes[0], self.textures, radius=self.config.cost_volume)
            else:
                flow = lucas_kanade(now, before)
            left = (now - warp(before, flow)).abs().mean(1, keepdim=True)
            found = (flow, left, warp(states["motion"][0], flow))
        return found if self.config.earlier_flow else found[:2]

    def hidden(self, states: States) -> list[Tensor]:
        """After those of C1 … C4: C0's, (B, width / 4, H, W), and those of the matched taps."""
        return [*super().hidden(states), *(states[name][1] for name in ("C0", *self.matched))]

    def features(self, encoded: Encoded, states: States) -> list[list[Tensor]]:
        lateral = super().features(encoded, states)
        for level, name in enumerate(self.matched):  # of C1 and C2
            lateral[level] += states[name]
        for level, conv in enumerate(self.shrunk):
            size = lateral[level][0].shape[2:]
            lateral[level].append(conv(F.adaptive_avg_pool2d(torch.cat(states["motion"], 1), size)))
        return lateral

    def decode(self, encoded: Encoded, states: States) -> Tensor:
        (frame,) = encoded["frame"]
        x = self.full(self.decoder_features(encoded, states))  # (B, width / 2, H, W)
        out = self.head(torch.cat([x, *states["C0"], *states["motion"]], 1)).float()
        if self.config.output == "redraw":
            return self.encoder.denormalise(out)
        if self.config.output == "residual":
            return frame + out
        rgb, weights, changes, speeds = out.split(self.parts, 1)
        flows = changes.unflatten(1, (-1, 2))  # (B, candidates, 2, H, W)
        if states["motion"]:
            flows = flows + speeds[:, :, None] * states["motion"][0][:, None]
        moved = [warp(frame, flow) for flow in flows.unbind(1)]
        outcomes = torch.stack([moved[0] + rgb, *moved], 1)  # (B, 1 + candidates, 3, H, W)
        return (weights.softmax(1)[:, :, None] * outcomes).sum(1)


def build(config: Warping, encoder: Encoder, *, height: int, width: int) -> WarpLadder:
    """The network for frames of height × width pixels (multiples of 32)."""
    return WarpLadder(encoder, config, height=height, width=width)
