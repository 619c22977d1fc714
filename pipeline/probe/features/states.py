"""Hidden states of a frozen network after a clip, as features (report, section 5).

Choices (with their dimensions at 128×160 and width 64): `deepest`, all of C4's states (15,360); `subsample`, every
128th value of C1 … C3's, flattened as (C, H, W) and joined (10,080). `pooled`: mean and maximum over space of every
branch's state (Ballas et al., "Delving Deeper into Convolutional Networks for Learning Video Representations", 2016,
average each level). `attentive`: every branch's state on one grid of tokens, for a head with attention.

Two more, on the same tokens, are of what the network predicts: `predicted`, the optical flow from the last frame to its
prediction; `errors`, how far each prediction was from the frame that came.

Shapes: B clips, T frames of a clip, N frames of all clips, C channels, H × W of a level, K tokens; features
(dimensions,) or (K, C) of a clip.
"""

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.nets.flow import lucas_kanade
from pipeline.nets.ladder import LEVELS, Encoded, Ladder, States, first

SUBSAMPLE = 128
STATES = ("deepest", "subsample", "pooled", "attentive")
PREDICTIONS = ("predicted", "errors")
Steps = Literal["last", "every", "differences"]  # of a clip, whose states are features
Features = dict[str, Tensor]


def select(states: States, hidden: Sequence[Tensor], *, grid: tuple[int, int]) -> Features:
    """States of C1 … C4 and the network's `hidden` maps -> the choices, a row a clip; grid: rows and columns of
    tokens."""
    *shallow, deepest = (torch.cat(states[level], 1).flatten(1) for level in LEVELS)
    return {
        "deepest": deepest,
        "subsample": torch.cat(shallow, 1)[:, ::SUBSAMPLE],
        "pooled": torch.cat([x for h in hidden for x in (h.mean((2, 3)), h.amax((2, 3)))], 1),
        "attentive": torch.cat([tokens(h, grid) for h in hidden], 2),
    }


def tokens(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (B, K, C): means of what a token covers, or, of a coarser level, the nearest place."""
    finer = maps.shape[2] >= grid[0]
    found = F.adaptive_avg_pool2d(maps, grid) if finer else F.interpolate(maps, grid, mode="nearest")
    return found.flatten(2).transpose(1, 2)


@torch.no_grad()
def extract_states(
    net: Ladder,
    encoded: Encoded,
    clips: Sequence[Tensor],
    *,
    grid: tuple[int, int],
    longest: int,
    steps: Steps = "last",
    parts: Collection[str] = STATES,
) -> Features:
    """Feeds clips, each the numbers (T,) of its frames among the N `encoded` ones, in the order in which they are
    shown -> features by name, a row a clip.

    The clips advance together, the longest first; each leaves the batch after its last frame. steps: `last`, the states
    after the last frame; `every`, those after each of the `longest` frames, joined; `differences`, what each frame
    changed, and the last. What a shorter clip has not is 0. parts: the features that are wanted; for PREDICTIONS,
    `encoded` must hold the frames themselves under `frame`.
    """
    order = sorted(range(len(clips)), key=lambda i: -len(clips[i]))
    found: list[list[Features]] = [[] for _ in clips]  # of each clip, at each step
    predicting = any(name in parts for name in PREDICTIONS)
    states, guess = None, None
    for t in range(len(clips[order[0]])):
        active = [i for i in order if len(clips[i]) > t]
        rows = torch.stack([clips[i][t] for i in active])
        now = {name: [x[rows] for x in maps] for name, maps in encoded.items()}
        states = net.observe(now, states and first(states, len(active)), decoding=predicting)
        ending = [r for r, i in enumerate(active) if len(clips[i]) == t + 1]
        features = select(states, net.hidden(states), grid=grid) if ending or steps != "last" else {}
        if predicting:
            (frames,) = now["frame"]
            error = frames - guess[: len(active)] if t else torch.zeros_like(frames)
            features["errors"] = tokens(error.abs().mean(1, keepdim=True), grid)
            guess = net.decode(now, states).clamp(0, 1)
            if ending:  # the last rows: the longest clips come first
                flow = tokens(lucas_kanade(guess[ending], frames[ending]), grid)
                features["predicted"] = torch.cat([flow.new_zeros(ending[0], *flow.shape[1:]), flow])
        features = {name: value.cpu() for name, value in features.items() if name in parts}
        for r, i in enumerate(active):
            found[i].append({name: value[r] for name, value in features.items()})
    joined = [_join(each, steps, longest) for each in found]
    return {name: torch.stack([row[name] for row in joined]) for name in joined[0]}


def _join(each: Sequence[Features], steps: Steps, longest: int) -> Features:
    """The features of a clip at its steps -> those of the clip."""
    found = {}
    for name, last in each[-1].items():
        values = [features[name] for features in each if name in features]
        if name == "errors":  # none of the first frame, which nothing predicted
            found[name] = align(values[1:], last, longest - 1)
        elif name == "predicted" or steps == "last":
            found[name] = last
        elif steps == "every":
            found[name] = align(values, last, longest)
        else:
            changes = [after - before for before, after in pairwise(values)]
            found[name] = torch.cat([align(changes, last, longest - 1), last], -1)
    return found


def align(values: Sequence[Tensor], like: Tensor, count: int) -> Tensor:
    """Values of a clip's steps, each as `like`, joined along their last axis as if there were `count`, the last of
    which are those there are; the others are 0."""
    missing = [torch.zeros_like(like)] * (count - len(values))
    return torch.cat([*missing, *values], -1) if count else like[..., :0]
