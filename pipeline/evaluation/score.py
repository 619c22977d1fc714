"""Scores a model and the baselines on the same clips of a split.

Shapes: B batch, T time; images (B, T, C, H, W) in [0, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.device import pick_device
from pipeline.evaluation.baselines import copy_last
from pipeline.evaluation.quality import Quality
from pipeline.nets.ladder import Ladder
from pipeline.nets.rollout import predict
from pipeline.params import AtLeast, Between
from pipeline.training.model_file import ModelCard
from pipeline.video.clips import Clips, EpochOrder, as_images, load
from pipeline.video.shards import StoredVideo


@dataclass(frozen=True)
class EvaluateConfig:
    """Section `evaluate`."""

    fps: Literal[25, 15, 10]
    horizon: Annotated[int, AtLeast(1)]  # frames to predict; one-frame models roll out
    step: Annotated[int, AtLeast(1)]  # frames between the starts of a video's clips
    batch: Annotated[int, AtLeast(1)]
    pictures: Annotated[int, Between(1, 50)]  # clips in the picture
    device: Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Pictures:
    """Clips to show: seeds (N, T, C, H, W), targets and predictions (N, K, C, H, W)."""

    seeds: Tensor
    targets: Tensor
    predictions: Tensor


@torch.no_grad()
def score(
    net: Ladder, card: ModelCard, videos: Sequence[StoredVideo], config: EvaluateConfig
) -> tuple[dict[str, object], Pictures]:
    """The table {predictor: {metric: {step ahead: mean}}} over all clips of the videos, with what it was measured
    on under `data`; and pictures of clips spread evenly over them."""
    device = pick_device(config.device, key="evaluate.device")
    net = net.to(device).eval()
    clips = Clips(list(videos), length=card.seeds + config.horizon, step=config.step)
    tables = {name: Quality(config.horizon, card.loss) for name in ("model", "copy_last")}
    shown = {round(i * (len(clips) - 1) / max(1, config.pictures - 1)) for i in range(config.pictures)}
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    position = 0
    order = EpochOrder(len(clips), config.batch, shuffle=False)
    for batch in tqdm(load(clips, order), desc=f"evaluate {card.model}", unit="batch"):
        images = as_images(batch.to(device), height=card.height, width=card.width)
        seeds, targets = images[:, : card.seeds], images[:, card.seeds :]
        predictions, _ = predict(net, seeds, horizon=config.horizon, clip_feedback=card.clip_feedback)
        tables["model"].add(predictions, targets)
        tables["copy_last"].add(copy_last(seeds, horizon=config.horizon), targets)
        for row in range(len(images)):
            if position + row in shown:
                kept.append((seeds[row].cpu(), targets[row].cpu(), predictions[row].cpu()))
        position += len(images)
    data = {"clips": len(clips), "videos": len(clips.videos), "fps": config.fps}
    table = {name: quality.table() for name, quality in tables.items()}
    return table | {"data": data | {"seeds": card.seeds}}, Pictures(*map(torch.stack, zip(*kept, strict=True)))
