"""Seed frames in, predictions out: the report's feeding routines (section 3).

The seeds are fed one after the other. The output after the last of them is already the first prediction; it is
fed back to get the second, and so on:

    fed        f0  f1  f2  p1  p2
    output      -   -  p1  p2  p3        p_k predicts frame n_in + k − 1 (frame indices start at 0)

The report's published code fed p1 back before it scored anything, so each of its predictions answered for the
frame before. The one-frame routine is the same with one prediction; to roll out further it appends predictions to
the seeds, which for a recurrent network is to go on feeding.

Shapes: B batch, T time, H × W pixels; images in [0, 1].
"""

import torch
from torch import Tensor

from pipeline.nets.ladder import Ladder, States, split


def predict(net: Ladder, seeds: Tensor, *, horizon: int, clip_feedback: bool) -> tuple[Tensor, States]:
    """(B, T, 3, H, W), any T ≥ 1 -> predictions (B, horizon, 3, H, W) of the next frames, and the hidden states.

    clip_feedback: clip a prediction to [0, 1] before it is fed back; what is returned is never clipped. The
    states are those after the last frame fed: all seeds, and all predictions but the last.
    """
    if seeds.ndim != 5 or seeds.shape[1] < 1:
        raise ValueError(f"seeds: shape {tuple(seeds.shape)}, expected (B, T, 3, H, W) with at least one frame")
    if horizon < 1:
        raise ValueError(f"horizon: {horizon}, expected at least 1")
    batch = len(seeds)
    # All seeds in one batch, the B frames of a time side by side.
    encoded = split(net.encode(seeds.transpose(0, 1).flatten(0, 1)), batch)
    states = None
    for now in encoded:
        states = net.observe(now, states)
    predictions = [net.decode(now, states)]
    while len(predictions) < horizon:
        now = net.encode(predictions[-1].clamp(0, 1) if clip_feedback else predictions[-1])
        states = net.observe(now, states)
        predictions.append(net.decode(now, states))
    return torch.stack(predictions, 1), states
