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

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.nets.blocks import ConvGRU, Norm, decoder_block, warp
from pipeline.nets.encoder import Encoder
from pipeline.nets.ladder import LEVELS, Encoded, Ladder, Rung, States
from pipeline.settings import AtLeast, MultipleOf

MATCHED = ("conv1", "layer1")  # taps of C1 and C2, between whose frames a cost volume is made
COARSEST = 16  # pixels of the shorter side, at the top of Lucas and Kanade's pyramid
ITERATIONS = 3  # on each of its levels
WINDOW = 7  # over which a pixel's motion is assumed to be one
STIFFNESS = 1e-3  # added to the squared gradients: without texture nothing moves


@dataclass(frozen=True)
class Config:
    """Section `train.lvln_warp.net`. width: channels of a branch and of a decoder block; 64 is the full model."""

    width: Annotated[int, MultipleOf(8)]
    output: Literal["warp", "residual", "redraw"]  # residual: the last frame plus a colour; redraw: as the report does
    norm: Norm  # of the decoder
    icnr: bool  # before each pixel shuffle
    observed_flow: bool  # between the last two frames, for the head to go on with
    cost_volume: Annotated[int, AtLeast(0)]  # its radius, in places of the map; 0: none


class LvlnWarp(Ladder):
    """The ladder with a memory of the last two frames.

    States: C1 … C4; then a pair (input, hidden state) of C0, at full resolution, and of each matched tap; then what
    `motion` found; then what the next step compares itself with: the frame and the matched taps.
    """

    def __init__(self, encoder: Encoder, config: Config, *, height: int, width: int):
        base = config.width
        matched = MATCHED if config.cost_volume else ()
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
        places = (2 * self.radius + 1) ** 2
        self.match = nn.ModuleDict({tap: nn.Conv2d(places, base, 3, padding=1) for tap in matched})
        widths = [base // 4] + [base] * len(matched)
        self.recent = nn.ModuleList(ConvGRU(width, width, kernel=3) for width in widths)  # C0, and of each matched tap

    def tap(self, frames: Tensor) -> dict[str, Tensor]:
        return self.encoder(frames) | {"frame": frames}

    def observe(self, encoded: Encoded, states: States | None = None) -> States:
        # Where to look for a match is no matter of gradients.
        now = (encoded["frame"][0], *(encoded[tap][0].detach() for tap in self.match))
        *remembered, _, before = states[LEVELS:] if states else [(None, None)] * len(self.recent) + [(), now]
        motion = self.motion(now[0].detach(), before[0].detach()) if self.observed_flow else ()
        inputs = [self.pair(torch.cat([now[0], before[0], *motion], 1))]
        for conv, after, earlier in zip(self.match.values(), now[1:], before[1:], strict=True):
            inputs.append(conv(cost_volume(after, earlier, radius=self.radius)))
        grus = zip(self.recent, inputs, remembered, strict=True)
        memory = tuple((x, gru(gru.from_input(x), hidden)) for gru, x, (_, hidden) in grus)
        return (*super().observe(encoded, states), *memory, motion, now)

    def hidden(self, states: States) -> list[Tensor]:
        """After those of C1 … C4: C0's, (B, width / 4, H, W), and those of the matched taps."""
        return [*super().hidden(states), *(hidden for _, hidden in states[LEVELS:-2])]

    def features(self, encoded: Encoded, states: States) -> list[list[Tensor]]:
        lateral = super().features(encoded, states)
        for level, motion in enumerate(states[LEVELS + 1 : -2]):  # of C1 and C2
            lateral[level] += motion
        return lateral

    def decode(self, encoded: Encoded, states: States) -> Tensor:
        (frame,) = encoded["frame"]
        x = self.full(self.climb(encoded, states))  # (B, width / 2, H, W)
        recent, motion = states[LEVELS], states[-2]
        out = self.head(torch.cat([x, *recent, *motion], 1)).float()
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


def cost_volume(now: Tensor, before: Tensor, *, radius: int) -> Tensor:
    """How alike each place is to the places around it one frame earlier: feature maps (N, C, H, W) of two frames ->
    (N, (2·radius + 1)², H, W), cosines in −1 … 1, 0 beyond the border; the displacements row by row.

    Sun et al., "PWC-Net" (2018), section 3. Row y of `now` meets row y + dy of `before` in one matrix product, of which
    the displacements dx are diagonals; the plain form, a product of shifted maps a displacement, is in the tests.
    """
    size, height, width = 2 * radius + 1, *now.shape[2:]
    now, before = (F.normalize(x.permute(0, 2, 3, 1), dim=-1) for x in (now, before))  # (N, H, W, C)
    before = F.pad(before, (0, 0, radius, radius, radius, radius))
    rows = before.unfold(1, height, 1).permute(0, 1, 4, 2, 3)  # (N, size, H, W + 2·radius, C)
    products = now[:, None] @ rows.transpose(-1, -2)  # (N, size, H, W, W + 2·radius)
    # Lines one longer than they are: line x then begins at its own place x, which is displacement −radius.
    skewed = F.pad(products.flatten(-2), (0, width)).unflatten(-1, (width, width + 2 * radius + 1))
    return skewed[..., :size].permute(0, 1, 4, 2, 3).flatten(1, 2)


def lucas_kanade(now: Tensor, before: Tensor) -> Tensor:
    """The flow b for which now(p) ≈ before(p + b(p)), of images (N, C, H, W) in [0, 1]: (N, 2, H, W).

    Lucas and Kanade (1981), iterated and from coarse to fine as in Bouguet (2001): each iteration warps `before` by
    the flow so far, solves the least squares of what is left over a window around each pixel for a step of at most one
    pixel, and smooths the flow. Colour channels count alike.
    """
    pyramid = [(now, before)]
    while min(pyramid[-1][0].shape[2:]) >= 2 * COARSEST:
        pyramid.append(tuple(F.avg_pool2d(image, 2) for image in pyramid[-1]))
    flow = now.new_zeros(now.shape[0], 2, *pyramid[-1][0].shape[2:])
    for level, (late, early) in enumerate(reversed(pyramid)):
        if level > 0:
            flow = 2 * F.interpolate(flow, late.shape[2:], mode="bilinear")
        channels = torch.cat([early, *_gradients(early)], 1)
        for _ in range(ITERATIONS):
            warped, x, y = warp(channels, flow).chunk(3, 1)
            rest = late - warped
            sums = torch.stack([(a * b).sum(1) for a, b in ((x, x), (x, y), (y, y), (x, rest), (y, rest))], 1)
            xx, xy, yy, xr, yr = _box(sums, WINDOW).unbind(1)
            xx, yy = xx + STIFFNESS, yy + STIFFNESS
            step = torch.stack([yy * xr - xy * yr, xx * yr - xy * xr], 1) / (xx * yy - xy * xy)[:, None]
            flow = _box(flow + step.clamp(-1, 1), 3)
    return flow


def _gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along x and y, per pixel."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    inner = slice(1, -1)
    return (padded[..., inner, 2:] - padded[..., inner, :-2]) / 2, (
        padded[..., 2:, inner] - padded[..., :-2, inner]
    ) / 2


def _box(images: Tensor, size: int) -> Tensor:
    """Means over windows of size × size."""
    return F.avg_pool2d(images, size, stride=1, padding=size // 2, count_include_pad=False)
