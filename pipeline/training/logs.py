"""What TensorBoard and Weights & Biases are shown of a run: losses, rates, and pictures of what the network does.

Shapes: N clips, T time, C channels, H × W pixels; images in [0, 1].
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from lightning.fabric.loggers import Logger, TensorBoardLogger
from torch import Tensor
from torchvision.utils import make_grid

from pipeline.nets.ladder import LEVELS, Ladder, States
from pipeline.nets.rollout import predict


def make_loggers(run: Path, *, name: str, wandb: Literal["disabled", "offline", "online"]) -> list[Logger]:
    """TensorBoard, in run/tensorboard, and Weights & Biases unless it is disabled."""
    loggers: list[Logger] = [TensorBoardLogger(run, name="tensorboard", version="")]
    if wandb != "disabled":
        from lightning.pytorch.loggers import WandbLogger  # slow to import, and only needed here
        from wandb.errors import Error as WandbError

        logger = WandbLogger(project="video-ladder", name=name, save_dir=run, offline=wandb == "offline")
        try:
            _ = logger.experiment  # logs in
        except WandbError as error:
            raise ValueError(f"hardware.wandb: {wandb}: {error}; set it to offline, or run: wandb login") from error
        loggers.append(logger)
    return loggers


def show(loggers: Sequence[Logger], pictures: Mapping[str, Tensor], step: int) -> None:
    """Gives pictures (3, H, W) to every logger."""
    for logger in loggers:
        for name, picture in pictures.items():
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(name, picture, step)
            else:
                logger.log_image(name, [picture], step=step)


@torch.no_grad()
def draw(net: Ladder, clips: Tensor, *, context: int, clip_feedback: bool, off_by_one: bool) -> dict[str, Tensor]:
    """Pictures (3, H, W) of the network as it is: its predictions, and `filters` for the first clip. clips
    (N, T, 3, H, W), context and targets."""
    training = net.training
    net.eval()
    horizon = clips.shape[1] - context
    predictions, _ = predict(
        net, clips[:, :context], horizon=horizon, clip_feedback=clip_feedback, off_by_one=off_by_one
    )
    watched = []
    states = None
    for frame in clips[:1].unbind(1):
        states = net.observe(net.encode(frame), states)
        watched.append(states)
    net.train(training)
    return {
        "predictions": prediction_picture(clips, predictions.float(), context=context),
        "filters": filter_picture(clips[0], watched),
    }


def prediction_picture(clips: Tensor, predictions: Tensor, *, context: int) -> Tensor:
    """Two rows a clip: context and targets; under each target its prediction. clips (N, T, 3, H, W), predictions
    (N, T − context, 3, H, W)."""
    blank = torch.ones_like(clips[:, :context])
    rows = torch.stack([clips, torch.cat([blank, predictions.clamp(0, 1)], 1)], 1)  # (N, 2, T, 3, H, W)
    return make_grid(rows.flatten(0, 2), nrow=clips.shape[1], padding=2, pad_value=1).cpu()


def filter_picture(frames: Tensor, watched: Sequence[States]) -> Tensor:
    """One ConvGRU filter over time (the report's figure): the frames (T, 3, H, W) above; below, a row for the first
    channel of each ConvGRU of C1 … C4, its states −1 … 1 as black … white, at the frames' size."""
    size = frames.shape[-2:]
    rows = [frames]
    for level in LEVELS:
        for kernel in range(len(watched[0][level])):
            maps = torch.cat([states[level][kernel][:, :1] for states in watched]).float()  # (T, 1, H, W)
            rows.append((F.interpolate(maps, size, mode="nearest") / 2 + 0.5).expand(-1, 3, -1, -1))
    return make_grid(torch.cat(rows), nrow=len(frames), padding=2, pad_value=1).cpu()
