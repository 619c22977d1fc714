"""Scores a model and the baselines on the same clips of a split.

Shapes: B batch, T time, K horizon steps; images (B, T, C, H, W) in [0, 1].
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from pipeline.clips.clips import Clips
from pipeline.clips.shards import StoredVideo
from pipeline.evaluation.baseline_values import BaselineSettings, BaselineValues, baseline_values
from pipeline.evaluation.baselines import BASELINES, skipped
from pipeline.evaluation.intervals import GroupMeans
from pipeline.evaluation.metrics import METRICS, RATIOS, REGIONS, over, psnr, quality, regions_of
from pipeline.evaluation.perceptual import Lpips
from pipeline.evaluation.predictions import Gallery, Pictures, Predicted, predict_clips
from pipeline.nets.ladder import Ladder
from pipeline.settings import Count, Natural, Rate, section
from pipeline.training.losses import loss_per_image, used_losses
from pipeline.training.model_card import ModelCard

PREDICTORS = ("model", *BASELINES)
COMPARED = ("copy_last", "constant_velocity", "half_velocity")  # with the model, clip by clip
WITH_INTERVALS = tuple(over(region, metric) for region in REGIONS for metric in ("psnr", "ssim"))


@section
class EvaluateConfig:
    """Section `evaluate`."""

    fps: Rate
    horizon: Count  # frames to predict; one-frame models roll out
    spacing: Count  # frames between the starts of a video's clips
    batch: Count
    moving_threshold: Annotated[float, Field(gt=0, lt=1)]  # a pixel moves if a channel changes by more, of [0, 1]
    lpips: str | None  # imagenet | path of an AlexNet state dict | null: no LPIPS
    bootstrap: Count  # resamples of the groups for an interval
    seed: Natural  # of the resamples and of the curriculum matrix's clips
    curriculum_clips: Count  # at most, of each rate in the curriculum matrix
    pictures: Annotated[int, Field(ge=1, le=50)]  # clips in the pictures


def score(
    net: Ladder,
    card: ModelCard,
    videos: Sequence[StoredVideo],
    config: EvaluateConfig,
    *,
    device: torch.device,
    folder: Path | None = None,
    workers: int = 0,
) -> tuple[dict[str, dict], Pictures]:
    """`score_clips` of all clips of the videos. folder, workers: as of `baseline_values`."""
    clips = Clips(list(videos), length=card.context + config.horizon, spacing=config.spacing)
    beside = baselines_for(card, clips, config, folder=folder, workers=workers)
    return score_clips(net, card, clips, config, beside, device=device)


def baselines_for(
    card: ModelCard,
    clips: Clips,
    config: EvaluateConfig,
    *,
    flow: bool = True,
    folder: Path | None = None,
    workers: int = 0,
) -> BaselineValues:
    """`baseline_values` of the clips, for a model of this card."""
    settings = BaselineSettings(
        card.context, card.height, card.width, config.moving_threshold, config.lpips, flow, config.batch
    )
    return baseline_values(clips, settings, losses=used_losses(card.loss), folder=folder, workers=workers)


@torch.no_grad()
def score_clips(
    net: Ladder, card: ModelCard, clips: Clips, config: EvaluateConfig, beside: BaselineValues, *, device: torch.device
) -> tuple[dict[str, dict], Pictures]:
    """The table over all clips, of card.context + config.horizon frames, and pictures of clips spread evenly over them.

    beside: what the baselines give on these clips.

    <predictor>.<metric>.<horizon step>: means over frames, for the model and each baseline; <metric>_<region> over a
    region of metrics.REGIONS; for the model <metric>_low and _high, the ends of a 95 % interval. model_over_<baseline>:
    the same of the model's value minus the baseline's, frame by frame. resembles.<horizon step k>.<frame>: the PSNR of
    the model's prediction against every frame of the clip, from 0: it should be highest for frame context + k − 1.
    data: what it was measured on, with what was skipped and why.
    """
    lpips = Lpips(config.lpips).to(device) if config.lpips else None
    gallery = Gallery(clips, config.pictures)
    means: dict[str, GroupMeans] = {}
    title = f"evaluate {card.model}"
    for batch in predict_clips({"model": net}, card, clips, batch=config.batch, device=device, title=title):
        others = beside.of(batch.numbers, card.loss)
        for name, values in _values(batch, card, config, lpips, others).items():
            means.setdefault(name, GroupMeans()).add(values, batch.groups)
        gallery.add(batch, "model")
    data = {"clips": len(clips), "videos": len(clips.videos), "fps": config.fps, "context": card.context}
    if lpips:
        data["lpips"] = {"weights": lpips.file, "sha256": lpips.sha256}
    table = _table(means, config) | {"data": data | _coverage(means, card, config, beside.flow)}
    return table, gallery.pictures()


def _values(
    batch: Predicted,
    card: ModelCard,
    config: EvaluateConfig,
    lpips: Lpips | None,
    others: Mapping[str, dict[str, Tensor]],
) -> dict[str, dict[str, Tensor]]:
    """{predictor and what else is averaged: {metric: (B, K)}} of a batch. others: those of the true frames and of the
    baselines."""
    predictions, shape = batch.predictions["model"].flatten(0, 1), batch.targets.shape[:2]
    truth, shown = batch.targets.flatten(0, 1), predictions.clamp(0, 1)
    regions = regions_of(batch.images, card.context, threshold=config.moving_threshold).flatten(1, 2)  # (R, B·K, H, W)
    moving = regions[REGIONS.index("moving")]
    found = {
        "model": quality(shown, truth, regions, lpips=lpips)
        | {"loss": loss_per_image(predictions, truth, card.loss, moving)},
        "resembles": {
            str(t): psnr(shown, frame.repeat_interleave(shape[1], 0)) for t, frame in enumerate(batch.images.unbind(1))
        },
    }
    found = {
        name: {metric: value.unflatten(0, shape).cpu() for metric, value in values.items()}
        for name, values in found.items()
    }
    for name in COMPARED:
        if name in others:
            pairs = {metric: found["model"][metric] - others[name][metric] for metric in WITH_INTERVALS}
            found[f"model_over_{name}"] = pairs
    return {**others, **found}


def _table(means: Mapping[str, GroupMeans], config: EvaluateConfig) -> dict[str, dict]:
    table: dict[str, dict] = {}
    for name in PREDICTORS:
        if name in means:
            table[name] = {metric: means[name].mean(metric) for metric in means[name].totals}
            for ratio in RATIOS:
                with np.errstate(divide="ignore", invalid="ignore"):
                    table[name][ratio] /= means["truth"].mean(ratio)
    for name in ("model", *(f"model_over_{other}" for other in COMPARED)):
        if name in means:
            table.setdefault(name, {metric: means[name].mean(metric) for metric in WITH_INTERVALS})
            for metric in WITH_INTERVALS:
                ends = means[name].interval(metric, resamples=config.bootstrap, seed=config.seed)
                table[name] |= zip((f"{metric}_low", f"{metric}_high"), ends, strict=True)
    for name, metrics in table.items():
        table[name] = {metric: found for metric, row in metrics.items() if (found := by_horizon_step(row))}
    frames = {frame: by_horizon_step(means["resembles"].mean(frame)) for frame in means["resembles"].totals}
    table["resembles"] = {k: {t: row[k] for t, row in frames.items()} for k in frames["0"]}
    return table


def by_horizon_step(values: np.ndarray) -> dict[str, float]:
    """(K,) -> {horizon step: value}, from "1", without those that have none; six digits after the point."""
    return {str(k + 1): round(float(value), 6) for k, value in enumerate(values) if np.isfinite(value)}


def _coverage(
    means: Mapping[str, GroupMeans], card: ModelCard, config: EvaluateConfig, flow: bool
) -> dict[str, object]:
    """How many groups and moving pixels the figures rest on, and what could not be given.

    moving.frames: how many frames have a moving pixel, which the metrics over moving pixels are means of;
    moving.frames_<metric>: those with motion away from the border, of a windowed metric.
    """
    groups = len(means["model"].totals["psnr"])
    counted = {"frames": "psnr"} | {f"frames_{name}": name for name, metric in METRICS.items() if metric.windowed}
    missing = skipped(card.context, flow=flow)
    if not config.lpips:
        missing["lpips"] = "evaluate.lpips is null: no AlexNet weights were given"
    if groups < 2:
        missing["intervals"] = "all clips are of one group: there is nothing to resample"
    if not means["model"].count("psnr_moving").any():
        missing["moving"] = f"no pixel changes by more than evaluate.moving_threshold, {config.moving_threshold}"
    moving = {"share": by_horizon_step(means["truth"].mean("moving"))}  # of all pixels
    for name, metric in counted.items():
        frames = means["model"].count(over("moving", metric))
        moving[name] = {str(k + 1): int(number) for k, number in enumerate(frames)}
    # Copying them is perfect, and each counts PSNR_CAP.
    still = means["truth"].mean("still") * means["truth"].count("still")
    equal = {str(k + 1): round(frames) for k, frames in enumerate(still.tolist())}
    return {"groups": groups, "moving": moving, "equal_to_last_context_frame": equal, "skipped": missing}
