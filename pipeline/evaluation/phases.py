"""The curriculum matrix: the weights that scored best in each phase of the curriculum, at every frame rate.

What a phase at 10 fps costs at 25 fps, and what the phases before it gave, can be read from it.
"""

from collections.abc import Mapping, Sequence

import torch

from pipeline.clips.clips import Clips
from pipeline.clips.shards import StoredVideo
from pipeline.evaluation.baselines import copy_last
from pipeline.evaluation.intervals import GroupMeans
from pipeline.evaluation.metrics import psnr
from pipeline.evaluation.predictions import predict_clips
from pipeline.evaluation.score import EvaluateConfig, by_horizon_step
from pipeline.images import ssim
from pipeline.nets.ladder import Ladder
from pipeline.training.model_card import ModelCard


def curriculum_matrix(
    phases: Mapping[str, Ladder],
    card: ModelCard,
    videos: Mapping[int, Sequence[StoredVideo]],
    config: EvaluateConfig,
    *,
    device: torch.device,
) -> dict[str, dict]:
    """{phase, and copy_last: {rate: {psnr and ssim: {horizon step: mean}}}}, all on the same clips of a rate: at most
    config.curriculum_clips, chosen by the seed. phases: their networks, all of one card; videos: of each rate. A rate
    at which every video is shorter than a clip has no entry.
    """
    length = card.context + config.horizon
    matrix: dict[str, dict] = {name: {} for name in (*phases, "copy_last")}
    for fps, stored in videos.items():
        if max(video.info.frames for video in stored) < length:
            continue
        clips = Clips(stored, length=length, spacing=config.spacing, at_most=config.curriculum_clips, seed=config.seed)
        means = {name: GroupMeans() for name in matrix}
        title = f"{card.model}'s phases at {fps} fps"
        for batch in predict_clips(phases, card, clips, batch=config.batch, device=device, title=title):
            truth = batch.targets.flatten(0, 1)
            copied = copy_last(batch.context, horizon=config.horizon)
            for name, predictions in {**batch.predictions, "copy_last": copied}.items():
                shown = predictions.flatten(0, 1).clamp(0, 1)
                values = {"psnr": psnr(shown, truth), "ssim": ssim(shown, truth)}
                per_step = {metric: value.unflatten(0, predictions.shape[:2]) for metric, value in values.items()}
                means[name].add(per_step, batch.groups)
        for name, mean in means.items():
            matrix[name][str(fps)] = {metric: by_horizon_step(mean.mean(metric)) for metric in ("psnr", "ssim")}
    return matrix
