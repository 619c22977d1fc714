"""Context frames in, predictions out: the report's feeding routines (section 3).

The frames of the context are fed one after the other. The output after the last of them is already the first
prediction; it is fed back to get the second, and so on:

    fed           f0  f1  f2  p1  p2
    output         -   -  p1  p2  p3       p_k predicts frame context + k − 1 (frame indices start at 0)

The report's published code was off by one: it threw the first prediction away, so that each of the others answered for
the frame before its own:

    fed           f0  f1  f2  p0  p1  p2
    off by one     -   -  p0  p1  p2  p3   p0 is thrown away

The one-frame routine is the same with one prediction; to roll out further it appends predictions to the context, which
for a recurrent network is to go on feeding.

Shapes: B batch, T time, H × W pixels; images in [0, 1].
"""

import torch
from torch import Tensor

from pipeline.nets.ladder import Ladder, States, join, split


def predict(
    net: Ladder, context: Tensor, *, horizon: int, clip_feedback: bool, off_by_one: bool = False
) -> tuple[Tensor, States]:
    """(B, T, 3, H, W), any T ≥ 1 -> predictions (B, horizon, 3, H, W) of the next frames, and the hidden states.

    clip_feedback: clip a prediction to [0, 1] before it is fed back; what is returned is never clipped. off_by_one:
    throw the first prediction away. The states are those after the last frame fed.
    """
    if context.ndim != 5 or context.shape[1] < 1:
        raise ValueError(f"context: shape {tuple(context.shape)}, expected (B, T, 3, H, W) with at least one frame")
    if horizon < 1:
        raise ValueError(f"horizon: {horizon}, expected at least 1")
    thrown_away = 1 if off_by_one else 0
    # The whole context in one batch, the B frames of a time side by side.
    encoded = split(net.encode(context.transpose(0, 1).flatten(0, 1)), len(context))
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
    net: Ladder, clips: Tensor, *, context: int, clip_feedback: bool, mask: Tensor | None = None
) -> Tensor:
    """Clips (B, T, 3, H, W) -> the predictions of frames 1 … T − 1, (B, T − 1, 3, H, W), those of the context included.

    mask (B, T), bool, of scheduled sampling: where the network is fed its own prediction in place of the frame (the
    first frame is always fed). None: for the frames after the context, as `predict` does; then the context is encoded
    and decoded in one batch.
    """
    batch, length = clips.shape[:2]
    if mask is None:
        together = net.encode(clips[:, :context].transpose(0, 1).flatten(0, 1))
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
            frame = fed_back if mask is None else torch.where(mask[:, t].view(-1, 1, 1, 1), fed_back, frame)
        now = net.encode(frame)
        states = net.observe(now, states)
        predictions.append(net.decode(now, states))
    return torch.stack(predictions, 1)
