"""The parts of the ladder: location-dependent convolution, ConvGRU, lateral and decoder blocks, warp.

Sources: the report, section 3; Azizi et al., "Location Dependency in Video Prediction" (2018), for the
location-dependent convolution; Ballas et al., "Delving Deeper into Convolutional Networks for Learning Video
Representations" (2016), for the ConvGRU.

Shapes: B batch, C channels, H height, W width of the level's feature map.
"""

from typing import Literal

import torch
from torch import Tensor, nn

KERNELS = (3, 5, 7)  # of a lateral block's three ConvGRUs

GROUPS = 8  # of a GroupNorm

Norm = Literal["batch", "group"]

Hidden = tuple[Tensor, ...]  # of those three: (B, branch, H, W) each


class LocationConv(nn.Module):
    """1×1 convolution plus a learned map of where it is: conv(x) + Σ_k B[h, w, k] · E[h, w, k].

    E holds an x ramp, a y ramp and ones; the ramps span 0 … 1 on both axes. B, zero at first, is learned; the one
    map is added to every output channel. The module is bound to one map size.
    """

    def __init__(self, channels_in: int, channels_out: int, *, height: int, width: int):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 1)
        self.bias_map = nn.Parameter(torch.zeros(height, width, 3))
        y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
        self.register_buffer("position", torch.stack([x, y, torch.ones_like(x)], dim=-1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + (self.bias_map * self.position).sum(-1)  # (B, C, H, W) + (H, W)


class ConvGRU(nn.Module):
    """z, r = σ(conv[x, h]); n = tanh(conv[x, r·h]); h' = (1 − z)·h + z·n. No h yet is h = 0.

    A convolution of concatenated maps is the sum of two. The half over x knows nothing of time: `from_input` is
    applied to all frames at hand in one batch, and what is left for each step is the half over h. Both halves are
    initialised as parts of the one convolution would be.
    """

    def __init__(self, channels_in: int, channels: int, *, kernel: int):
        super().__init__()
        self.channels = channels
        self.from_input = nn.Conv2d(channels_in, 3 * channels, kernel, padding=kernel // 2)  # z, r, n
        self.gates = nn.Conv2d(channels, 2 * channels, kernel, padding=kernel // 2, bias=False)  # z, r
        self.candidate = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)  # n
        bound = ((channels_in + channels) * kernel**2) ** -0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, projected: Tensor, h: Tensor | None) -> Tensor:
        """projected = from_input(x), (B, 3·channels, H, W); h (B, channels, H, W) -> the next h."""
        gates, candidate = projected.split([2 * self.channels, self.channels], 1)
        if h is None:
            z, _ = torch.sigmoid(gates).chunk(2, 1)
            return z * torch.tanh(candidate)
        z, r = torch.sigmoid(gates + self.gates(h)).chunk(2, 1)
        n = torch.tanh(candidate + self.candidate(r * h))
        return torch.addcmul(h, z, n - h)


class LateralBlock(nn.Module):
    """A 1×1 convolution and three ConvGRUs of growing kernel in parallel on the same tap.

    The 1×1 convolution carries what is there now past the recurrence; with `location` it knows where it is. With
    `compress` the ConvGRUs see the tap through a 1×1 convolution of their own to `branch` channels.
    """

    def __init__(
        self, channels_in: int, branch: int, *, height: int, width: int, location: bool, compress: bool = False
    ):
        super().__init__()
        self.point = (
            LocationConv(channels_in, branch, height=height, width=width)
            if location
            else nn.Conv2d(channels_in, branch, 1)
        )
        self.compress = nn.Conv2d(channels_in, branch, 1) if compress else nn.Identity()
        seen = branch if compress else channels_in
        self.grus = nn.ModuleList(ConvGRU(seen, branch, kernel=kernel) for kernel in KERNELS)

    def project(self, x: Tensor) -> list[Tensor]:
        """What a step needs of a frame and does not depend on the state: the tap x (N, channels_in, H, W), N frames of
        any time -> the ConvGRUs' input halves (N, 3·branch, H, W) each."""
        x = self.compress(x)
        return [gru.from_input(x) for gru in self.grus]

    def forward(self, projected: list[Tensor], hidden: Hidden | None) -> Hidden:
        """One step: what `project` made of B frames, and the hidden states (None at the start) -> the next ones."""
        hidden = hidden or (None,) * len(projected)
        return tuple(gru(x, h) for gru, x, h in zip(self.grus, projected, hidden, strict=True))

    def features(self, x: Tensor, hidden: Hidden) -> list[Tensor]:
        """What the decoder gets, to be concatenated to (B, 4·branch, H, W): the tap x through the 1×1 convolution, and
        the states after it."""
        return [self.point(x), *hidden]


def decoder_block(
    channels_in: int,
    channels: int,
    *,
    expansion: int,
    shuffle: int = 2,
    norm: Norm | None = "batch",
    icnr: bool = False,
) -> nn.Sequential:
    """(B, channels_in, H, W) -> (B, channels, shuffle·H, shuffle·W): normalisation (None: none), ReLU, 3×3 convolution
    to `expansion` channels, pixel shuffle, 3×3 convolution. The order batch norm, ReLU is the report's text's; there
    channels are 64 and expansion 1024."""
    up = nn.Conv2d(channels_in, expansion, 3, padding=1)
    if icnr:
        icnr_(up, shuffle)
    return nn.Sequential(
        *([normalisation(norm, channels_in)] if norm else []),
        nn.ReLU(),
        up,
        nn.PixelShuffle(shuffle),
        nn.Conv2d(expansion // shuffle**2, channels, 3, padding=1),
    )


def normalisation(norm: Norm, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(GROUPS, channels)


@torch.no_grad()
def icnr_(conv: nn.Conv2d, shuffle: int) -> None:
    """Makes the shuffle² outputs that a pixel shuffle lays side by side equal at first, so that it begins as nearest-
    neighbour upsampling, without a grid (Aitken et al., "Checkerboard artifact free sub-pixel convolution", 2017)."""
    for parameter in (conv.weight, conv.bias):
        parameter.copy_(parameter[:: shuffle**2].repeat_interleave(shuffle**2, 0))
