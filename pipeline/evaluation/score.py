"""Scores a model and the baselines on the same clips of a split.

Shapes: B batch, T time, K steps ahead; images (B, T, C, H, W) in [0, 1].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.clips.clips import Clips
from pipeline.clips.shards import StoredVideo
from pipeline.device import pick_device
from pipeline.evaluation.artifacts import gradient_energy, nyquist_share
from pipeline.evaluation.baselines import absent, baselines
from pipeline.evaluation.intervals import GroupMeans
from pipeline.evaluation.perceptual import Lpips
from pipeline.evaluation.predictions import Gallery, Pictures, Predicted, predict_clips
from pipeline.evaluation.quality import frame_quality, moving_pixels, psnr
from pipeline.nets.ladder import Ladder
from pipeline.settings import Above, AtLeast, Below, Between
from pipeline.training.losses import loss_per_image
from pipeline.training.model_card import ModelCard

PREDICTORS = ("model", "copy_last", "mean_of_two", "constant_velocity", "half_velocity", "oracle")
COMPARED = ("copy_last", "constant_velocity", "half_velocity")  # with the model, clip by clip
WINDOWED = ("ssim", "ms_ssim")  # do not reach motion near the border, so that fewer frames have a moving value
WITH_INTERVALS = ("psnr", "ssim", "psnr_moving", "ssim_moving")
RATIOS = {"nyquist_ratio": "nyquist_share", "gradient_ratio": "gradient_energy"}  # to the true frames' own


@dataclass(frozen=True)
class EvaluateConfig:
    """Section `evaluate`."""

    fps: Literal[25, 15, 10]
    horizon: Annotated[int, AtLeast(1)]  # frames to predict; one-frame models roll out
    step: Annotated[int, AtLeast(1)]  # frames between the starts of a video's clips
    batch: Annotated[int, AtLeast(1)]
    moving_threshold: Annotated[float, Above(0), Below(1)]  # a pixel moves if a channel changes by more, of [0, 1]
    lpips: str | None  # imagenet | path of an AlexNet state dict | null: no LPIPS
    bootstrap: Annotated[int, AtLeast(1)]  # resamples of the groups for an interval
    seed: Annotated[int, AtLeast(0)]  # of the resamples and of the curriculum matrix's clips
    curriculum_clips: Annotated[int, AtLeast(1)]  # at most, of each rate in the curriculum matrix
    pictures: Annotated[int, Between(1, 50)]  # clips in the pictures
    device: Literal["auto", "cpu", "cuda"]


def score(
    net: Ladder, card: ModelCard, videos: Sequence[StoredVideo], config: EvaluateConfig
) -> tuple[dict[str, dict], Pictures]:
    """`score_clips` of all clips of the videos."""
    clips = Clips(list(videos), length=card.seeds + config.horizon, step=config.step)
    return score_clips(net, card, clips, config)


@torch.no_grad()
def score_clips(
    net: Ladder, card: ModelCard, clips: Clips, config: EvaluateConfig, *, flow: bool = True
) -> tuple[dict[str, dict], Pictures]:
    """The table over all clips, of card.seeds + config.horizon frames, and pictures of clips spread evenly over them.

    flow: with the baselines that need optical flow, which cost most of the time.

    <predictor>.<metric>.<step ahead>: means over frames, for the model and each baseline; <metric>_moving over moving
    pixels; for the model <metric>_low and _high, the ends of a 95 % interval. model_over_<baseline>: the same of the
    model's value minus the baseline's, frame by frame. resembles.<step ahead>.<frame>: the PSNR of the model's
    prediction against every frame of the clip, from 0: it should be highest for frame seeds + step − 1. data: what it
    was measured on, with what is absent and why.
    """
    device = pick_device(config.device, key="evaluate.device")
    lpips = Lpips(config.lpips).to(device) if config.lpips else None
    gallery = Gallery(clips, config.pictures)
    means: dict[str, GroupMeans] = {}
    title = f"evaluate {card.model}"
    for batch in predict_clips({"model": net}, card, clips, batch=config.batch, device=device, title=title):
        for name, values in _values(batch, card, config, lpips, flow).items():
            means.setdefault(name, GroupMeans()).add(values, batch.groups)
        gallery.add(batch, "model")
    data = {"clips": len(clips), "videos": len(clips.videos), "fps": config.fps, "seeds": card.seeds}
    if lpips:
        data["lpips"] = {"weights": lpips.file, "sha256": lpips.sha256}
    table = _table(means, config) | {"data": data | _coverage(means, card, config, flow)}
    return table, gallery.pictures()


def horizon_rows(table: Mapping[str, dict]) -> list[dict[str, object]]:
    """Every metric of every predictor against the step ahead, a row each: step, predictor, metric, value."""
    return [
        {"step": int(step), "predictor": predictor, "metric": metric, "value": value}
        for predictor in PREDICTORS
        for metric, values in sorted(table.get(predictor, {}).items())
        if not metric.endswith(("_low", "_high"))
        for step, value in values.items()
    ]


def _values(
    batch: Predicted, card: ModelCard, config: EvaluateConfig, lpips: Lpips | None, flow: bool
) -> dict[str, dict[str, Tensor]]:
    """{predictor and what else is averaged: {metric: (B, K)}} of a batch."""
    seeds, targets = batch.seeds, batch.targets
    shape, truth = targets.shape[:2], targets.flatten(0, 1)
    before = batch.images[:, card.seeds - 1 : -1].flatten(0, 1)
    moving = moving_pixels(truth, before, threshold=config.moving_threshold).float()
    regions = torch.stack([torch.ones_like(moving), moving])  # (2, B·K, H, W)
    still = (truth == seeds[:, -1].repeat_interleave(shape[1], 0)).flatten(1).all(1)
    found = {"truth": {**_artifacts(truth), "moving": moving.mean((1, 2)), "still": still.float()}}
    for name, predictions in {**batch.predictions, **baselines(seeds, targets, flow=flow)}.items():
        frames = predictions.flatten(0, 1)
        shown = frames.clamp(0, 1)
        by_region = frame_quality(shown, truth, regions)
        if lpips:
            by_region["lpips"] = lpips(shown, truth, regions)
        found[name] = {metric: whole for metric, (whole, _) in by_region.items()}
        found[name] |= {f"{metric}_moving": part for metric, (_, part) in by_region.items()}
        found[name] |= {**_artifacts(shown), "loss": loss_per_image(frames, truth, card.loss)}
    for name in COMPARED:
        if name in found:
            pairs = {metric: found["model"][metric] - found[name][metric] for metric in WITH_INTERVALS}
            found[f"model_over_{name}"] = pairs
    shown = batch.predictions["model"].flatten(0, 1).clamp(0, 1)
    found["resembles"] = {
        str(t): psnr(shown, frame.repeat_interleave(shape[1], 0)) for t, frame in enumerate(batch.images.unbind(1))
    }
    return {
        name: {metric: value.unflatten(0, shape) for metric, value in values.items()} for name, values in found.items()
    }


def _artifacts(images: Tensor) -> dict[str, Tensor]:
    return {"nyquist_share": nyquist_share(images), "gradient_energy": gradient_energy(images)}


def _table(means: Mapping[str, GroupMeans], config: EvaluateConfig) -> dict[str, dict]:
    table: dict[str, dict] = {}
    for name in PREDICTORS:
        if name in means:
            metrics = {metric: means[name].mean(metric) for metric in means[name].totals}
            for ratio, of in RATIOS.items():
                with np.errstate(divide="ignore", invalid="ignore"):
                    metrics[ratio] = metrics.pop(of) / means["truth"].mean(of)
            table[name] = metrics
    for name in ("model", *(f"model_over_{other}" for other in COMPARED)):
        if name in means:
            table.setdefault(name, {metric: means[name].mean(metric) for metric in WITH_INTERVALS})
            for metric in WITH_INTERVALS:
                ends = means[name].interval(metric, resamples=config.bootstrap, seed=config.seed)
                table[name] |= zip((f"{metric}_low", f"{metric}_high"), ends, strict=True)
    table = {name: {key: s for key, row in metrics.items() if (s := steps(row))} for name, metrics in table.items()}
    frames = {frame: steps(means["resembles"].mean(frame)) for frame in means["resembles"].totals}
    table["resembles"] = {k: {t: row[k] for t, row in frames.items()} for k in frames["0"]}
    return table


def steps(values: np.ndarray) -> dict[str, float]:
    """(K,) -> {step ahead: value}, steps from "1", without those that have none; six digits after the point."""
    return {str(k + 1): round(float(value), 6) for k, value in enumerate(values) if np.isfinite(value)}


def _coverage(
    means: Mapping[str, GroupMeans], card: ModelCard, config: EvaluateConfig, flow: bool
) -> dict[str, object]:
    """How many groups and moving pixels the figures rest on, and what could not be given.

    moving.frames: how many frames have a moving pixel, which the metrics over moving pixels are means of; but of SSIM
    and MS-SSIM only moving.frames_ssim and moving.frames_ms_ssim, those with motion away from the border.
    """
    groups = len(means["model"].totals["psnr"])
    counted = {metric: means["model"].count(f"{metric}_moving") for metric in ("psnr", *WINDOWED)}
    missing = absent(card.seeds, flow=flow)
    if not config.lpips:
        missing["lpips"] = "evaluate.lpips is null: no AlexNet weights were given"
    if groups < 2:
        missing["intervals"] = "all clips are of one group: there is nothing to resample"
    if not counted["psnr"].any():
        missing["moving"] = f"no pixel changes by more than evaluate.moving_threshold, {config.moving_threshold}"
    moving = {"share": steps(means["truth"].mean("moving"))}  # of all pixels
    for metric, frames in counted.items():
        name = "frames" if metric == "psnr" else f"frames_{metric}"
        moving[name] = {str(k + 1): int(number) for k, number in enumerate(frames)}
    # Copying them is perfect, and each counts PSNR_CAP.
    still = means["truth"].mean("still") * means["truth"].count("still")
    equal = {str(k + 1): round(frames) for k, frames in enumerate(still.tolist())}
    return {"groups": groups, "moving": moving, "equal_to_last_seed": equal, "absent": missing}
