"""Seed frames in, predictions out: the report's feeding routines (section 3).

The seeds are fed one after the other. The output after the last of them is already the first prediction; it is
fed back to get the second, and so on:

    fed            f0  f1  f2  p1  p2
    first_output    -   -  p1  p2  p3       p_k predicts frame n_in + k − 1 (frame indices start at 0)
    fed            f0  f1  f2  p0  p1  p2
    second_output   -   -  p0  p1  p2  p3   p0 is thrown away

The second is what the report's published code did, so that each of its predictions answered for the frame before. The
one-frame routine is the same with one prediction; to roll out further it appends predictions to the seeds, which for a
recurrent network is to go on feeding.

Shapes: B batch, T time, H × W pixels; images in [0, 1].
"""

from typing import Literal

import torch
from torch import Tensor

from pipeline.nets.ladder import Ladder, States, join, split

Feeding = Literal["first_output", "second_output"]


def predict(
    net: Ladder, seeds: Tensor, *, horizon: int, clip_feedback: bool, feeding: Feeding = "first_output"
) -> tuple[Tensor, States]:
    """(B, T, 3, H, W), any T ≥ 1 -> predictions (B, horizon, 3, H, W) of the next frames, and the hidden states.

    clip_feedback: clip a prediction to [0, 1] before it is fed back; what is returned is never clipped. feeding: which
    output is the first prediction. The states are those after the last frame fed.
    """
    if seeds.ndim != 5 or seeds.shape[1] < 1:
        raise ValueError(f"seeds: shape {tuple(seeds.shape)}, expected (B, T, 3, H, W) with at least one frame")
    if horizon < 1:
        raise ValueError(f"horizon: {horizon}, expected at least 1")
    thrown_away = 1 if feeding == "second_output" else 0
    # All seeds in one batch, the B frames of a time side by side.
    encoded = split(net.encode(seeds.transpose(0, 1).flatten(0, 1)), len(seeds))
    states = None
    for now in encoded:
        states = net.observe(now, states)
    predictions = [net.decode(now, states)]
    while len(predictions) < horizon + thrown_away:
        now = net.encode(predictions[-1].clamp(0, 1) if clip_feedback else predictions[-1])
        states = net.observe(now, states)
        predictions.append(net.decode(now, states))
    return torch.stack(predictions[thrown_away:], 1), states


def predict_every_frame(
    net: Ladder, clips: Tensor, *, seeds: int, clip_feedback: bool, own: Tensor | None = None
) -> Tensor:
    """Clips (B, T, 3, H, W) -> the predictions of frames 1 … T − 1, (B, T − 1, 3, H, W), those of seeds included.

    own (B, T), bool: where the network is fed its own prediction in place of the frame (the first frame is always
    fed). None: for the frames after the seeds, as `predict` does; then the seeds are encoded and decoded in one batch.
    """
    batch, length = clips.shape[:2]
    if own is None:
        together = net.encode(clips[:, :seeds].transpose(0, 1).flatten(0, 1))
        reached = []
        for now in split(together, batch):
            reached.append(net.observe(now, reached[-1] if reached else None))
        predictions = list(net.decode(together, join(reached)).split(batch))
        states = reached[-1]
    else:
        predictions, states = [], None
    for t in range(len(predictions), length - 1):
        frame = clips[:, t]
        if t > 0:
            fed_back = predictions[-1].clamp(0, 1) if clip_feedback else predictions[-1]
            frame = fed_back if own is None else torch.where(own[:, t].view(-1, 1, 1, 1), fed_back, frame)
        now = net.encode(frame)
        states = net.observe(now, states)
        predictions.append(net.decode(now, states))
    return torch.stack(predictions, 1)
