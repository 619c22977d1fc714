"""How far the predicted circle of the moving-circle data set (datasets/circles.py) is from the true one.

Shapes: B batch, T time, K horizon steps, N images; images (…, 3, H, W) in [0, 1]; places in pixels from the upper left
corner of the image, x first, so that the middle of the first pixel is (0.5, 0.5).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.clips.clips import Clips
from pipeline.clips.shards import StoredVideo
from pipeline.evaluation.baselines import copy_last
from pipeline.evaluation.intervals import GroupMeans
from pipeline.evaluation.predictions import Gallery, Pictures, predict_clips
from pipeline.evaluation.score import by_horizon_step
from pipeline.nets.ladder import Ladder
from pipeline.training.model_card import ModelCard

VISIBLE = 0.15  # of [0, 1]: a circle is found if, smoothed, a channel differs from the background by as much


def centres(frames: Tensor) -> Tensor:
    """Images (N, 3, H, W) of a circle on a plain background -> its centre (N, 2), x and y; NaN where there is none.

    The background is the median colour of the image, so the circle must cover less than half of it. The difference
    from it, in the channel where it is largest, is averaged over 3 × 3 pixels; the centre is that of the mass above
    half of its maximum, so that a faint circle counts as a strong one, and noise and grids below that do not.
    """
    background = frames.flatten(2).median(2).values[..., None, None]
    difference = (frames - background).abs().amax(1)
    difference = F.avg_pool2d(F.pad(difference, (2, 2, 2, 2)), 3, stride=1)  # a pixel larger on every side
    peak = difference.amax((1, 2), keepdim=True)
    mass = (difference - peak / 2).clamp(min=0)
    height, width = mass.shape[1:]
    x = (mass.sum(1) * (torch.arange(width, device=mass.device) - 0.5)).sum(1)
    y = (mass.sum(2) * (torch.arange(height, device=mass.device) - 0.5)).sum(1)
    found = torch.stack([x, y], 1) / mass.sum((1, 2))[:, None]
    return torch.where(peak.view(-1, 1) < VISIBLE, torch.nan, found)


def centre_errors(
    net: Ladder,
    card: ModelCard,
    videos: Sequence[StoredVideo],
    *,
    horizon: int,
    spacing: int,
    batch: int,
    pictures: int,
    device: torch.device,
) -> tuple[dict[str, dict], Pictures]:
    """The table over all clips of the videos, and `pictures` clips spread evenly over them.

    <predictor>.centre_error.<horizon step>, for `model` and `copy_last`: mean distance, in pixels of the model's
    frames, between the centres found in the predicted and in the true frame. <predictor>.lost.<horizon step>: share of
    the predictions without a circle, which have no distance. data: how many clips and videos. spacing: frames between
    the starts of a video's clips.
    """
    clips = Clips(list(videos), length=card.context + horizon, spacing=spacing)
    gallery = Gallery(clips, pictures)
    means = {name: GroupMeans() for name in ("model", "copy_last")}
    title = f"circle {card.model}"
    for predicted in predict_clips({"model": net}, card, clips, batch=batch, device=device, title=title):
        truth = _centres_of(predicted.targets)
        copied = copy_last(predicted.context, horizon=horizon)
        for name, predictions in {**predicted.predictions, "copy_last": copied}.items():
            found = _centres_of(predictions.clamp(0, 1))
            values = {"centre_error": torch.linalg.vector_norm(found - truth, dim=2)}
            values["lost"] = found.isnan().any(2).float()
            means[name].add(values, predicted.groups)
        gallery.add(predicted, "model")
    table: dict[str, dict] = {
        name: {metric: by_horizon_step(rows.mean(metric)) for metric in rows.totals} for name, rows in means.items()
    }
    table["data"] = {"clips": len(clips), "videos": len(clips.videos), "context": card.context}
    return table, gallery.pictures()


def _centres_of(clips: Tensor) -> Tensor:
    """(B, K, 3, H, W) -> (B, K, 2)."""
    return centres(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
