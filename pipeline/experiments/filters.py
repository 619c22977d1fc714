"""What a ConvGRU filter keeps in mind while a clip is seen (the report's Fig. 5).

Shapes: T time, C channels, h × w pixels of the filter's own map; images in [0, 1].
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.nets.blocks import KERNELS
from pipeline.nets.ladder import LEVELS, Ladder


@dataclass(frozen=True)
class Filter:
    """One channel of a ConvGRU: of lateral block C<block>, from 1; gru, from 0, that with kernel KERNELS[gru]."""

    block: int
    gru: int
    channel: int

    def __str__(self) -> str:
        kernel = KERNELS[self.gru]
        return f"C{self.block}, ConvGRU {kernel}×{kernel}, channel {self.channel}"


@torch.no_grad()
def watch(net: Ladder, clip: Tensor, *, block: int, gru: int) -> Tensor:
    """Feeds a clip (T, 3, H, W), whose frames are all true ones -> the states (T, C, h, w) of one ConvGRU after each of
    its frames, from −1 to 1. block, gru: as in Filter."""
    if not 1 <= block <= len(LEVELS):
        raise ValueError(f"block: {block} is out of range; allowed: from 1 to {len(LEVELS)}")
    if not 0 <= gru < len(KERNELS):
        raise ValueError(f"gru: {gru} is out of range; allowed: from 0 to {len(KERNELS) - 1}")
    training = net.training
    net.eval()
    states, seen = None, []
    for frame in clip:
        states = net.observe(net.encode(frame[None]), states)
        seen.append(states[LEVELS[block - 1]][gru][0])
    net.train(training)
    return torch.stack(seen).float()


def most_varied(states: Tensor) -> int:
    """The channel of (T, C, h, w) with the largest variance over space and time."""
    return int(states.var((0, 2, 3)).argmax())


def compare(before: Ladder, after: Ladder, clip: Tensor, *, block: int, gru: int) -> tuple[Filter, Tensor, Tensor]:
    """The filter that varies most after training, of the ConvGRU (block, gru), and its states (T, h, w) before and
    after training while the clip (T, 3, H, W) is seen."""
    untrained, trained = (watch(net, clip, block=block, gru=gru) for net in (before, after))
    channel = most_varied(trained)
    return Filter(block, gru, channel), untrained[:, channel], trained[:, channel]
