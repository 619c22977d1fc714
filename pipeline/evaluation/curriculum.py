"""The curriculum matrix: the weights that scored best in each phase of the curriculum, at every frame rate.

What a phase at 10 fps costs at 25 fps, and what the phases before it gave, can be read from it.
"""

from collections.abc import Mapping, Sequence

import torch
from tqdm import tqdm

from pipeline.device import pick_device
from pipeline.evaluation.baselines import copy_last
from pipeline.evaluation.intervals import GroupMeans
from pipeline.evaluation.quality import psnr
from pipeline.evaluation.score import EvaluateConfig, steps
from pipeline.nets.ladder import Ladder
from pipeline.nets.rollout import predict
from pipeline.training.losses import ssim
from pipeline.training.model_card import ModelCard
from pipeline.video.clips import Clips, EpochOrder, as_images, load
from pipeline.video.shards import StoredVideo


@torch.no_grad()
def curriculum_matrix(
    phases: Mapping[str, Ladder],
    card: ModelCard,
    videos: Mapping[int, Sequence[StoredVideo]],
    config: EvaluateConfig,
) -> dict[str, dict]:
    """{phase, and copy_last: {rate: {psnr and ssim: {step ahead: mean}}}}, all on the same clips of a rate: at most
    config.curriculum_clips, chosen by the seed. phases: their networks, all of one card; videos: of each rate. A rate
    at which every video is shorter than a clip has no entry.
    """
    device = pick_device(config.device, key="evaluate.device")
    nets = {phase: net.to(device).eval() for phase, net in phases.items()}
    length = card.seeds + config.horizon
    matrix: dict[str, dict] = {name: {} for name in (*nets, "copy_last")}
    for fps, stored in videos.items():
        if max(video.info.frames for video in stored) < length:
            continue
        clips = Clips(stored, length=length, step=config.step, at_most=config.curriculum_clips, seed=config.seed)
        means = {name: GroupMeans() for name in matrix}
        order = EpochOrder(len(clips), config.batch, shuffle=False)
        for batch in tqdm(load(clips, order), desc=f"{card.model}'s phases at {fps} fps", unit="batch"):
            images = as_images(batch.to(device), height=card.height, width=card.width)
            seeds, targets = images[:, : card.seeds], images[:, card.seeds :]
            for name, mean in means.items():
                if name == "copy_last":
                    predictions = copy_last(seeds, horizon=config.horizon)
                else:
                    options = {"clip_feedback": card.clip_feedback, "feeding": card.feeding}
                    predictions, _ = predict(nets[name], seeds, horizon=config.horizon, **options)
                shown, truth = predictions.flatten(0, 1).float().clamp(0, 1), targets.flatten(0, 1)
                values = {"psnr": psnr(shown, truth), "ssim": ssim(shown, truth)}
                per_step = {metric: value.unflatten(0, targets.shape[:2]) for metric, value in values.items()}
                mean.add(per_step, ["all"] * len(images))
        for name, mean in means.items():
            matrix[name][str(fps)] = {metric: steps(mean.mean(metric)) for metric in ("psnr", "ssim")}
    return matrix
