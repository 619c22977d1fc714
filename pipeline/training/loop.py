"""The training loop: the frame-rate curriculum, phase by phase, epoch by epoch, step by step.

Order of events: build the clips of every phase; continue from the state in the run folder if there is one; train;
after each epoch score the validation groups; keep the weights that score best in the last phase.

Shapes: B batch, T time, C channels, H × W pixels; images in [0, 1].
"""

import math
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import TensorBoardLogger
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.device import pick_device
from pipeline.nets.ladder import Ladder
from pipeline.nets.rollout import predict
from pipeline.params import Above, AtLeast, Between, MultipleOf
from pipeline.training.checkpoint import fingerprint, load_state, save_state
from pipeline.training.interruption import only_one, stop_requests
from pipeline.training.losses import LossConfig, loss_per_image
from pipeline.video.clips import (
    Clips,
    ClipsConfig,
    EpochOrder,
    as_images,
    decode_jpegs,
    load,
    load_encoded,
    take_fraction,
)
from pipeline.video.shards import open_videos

STATE = "state.pt"  # in the run folder; the caller deletes it once the result is written
CURVE_POINTS = 200  # rows of the training curve, however long the run


@dataclass(frozen=True)
class Phase:
    """One phase of the curriculum."""

    fps: Literal[25, 15, 10]
    epochs: Annotated[int, AtLeast(1)]


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW; the rate rises linearly over warmup_steps, then falls to zero along one cosine."""

    lr: Annotated[float, Above(0)]
    weight_decay: Annotated[float, AtLeast(0)]
    warmup_steps: Annotated[int, AtLeast(0)]
    clip_norm: Annotated[float, Above(0)]  # the gradient's norm is cut to this


@dataclass(frozen=True)
class EarlyStopping:
    """patience: epochs of a phase without a better validation loss after which the phase ends; 0: never."""

    patience: Annotated[int, AtLeast(0)]
    validation_clips: Annotated[int, AtLeast(1)]  # at most so many clips of the validation groups


@dataclass(frozen=True)
class TrainConfig:
    """Section `train.<model>`."""

    seed: Annotated[int, Between(0, 2**32 - 1)]
    net: dict  # the variant's own Config
    height: Annotated[int, MultipleOf(32)]  # of the frames; at most decode's
    width: Annotated[int, MultipleOf(32)]
    encoder: str  # imagenet, random, or the path of a ResNet-18 state dict
    seeds: Annotated[int, AtLeast(1)]  # frames in
    horizon: Annotated[int, AtLeast(1)]  # frames predicted
    clip_feedback: bool  # clip predictions to [0, 1] before they are fed back
    clips: ClipsConfig
    curriculum: tuple[Phase, ...]
    batch: Annotated[int, AtLeast(1)]
    loss: LossConfig
    optimizer: OptimizerConfig
    early_stopping: EarlyStopping
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "32-true", "bf16-mixed"]  # auto: bf16-mixed on a GPU that has it
    checkpoint_minutes: Annotated[float, Above(0)]
    wandb: Literal["disabled", "offline", "online"]

    def __post_init__(self) -> None:
        if not self.curriculum:
            raise ValueError("curriculum is empty; it needs at least one phase {fps, epochs}")


@dataclass
class Progress:
    """Where a run is, and what it has recorded so far. phase, epoch (of the phase) and batch (of the epoch) are
    the next to be done; step counts all batches done."""

    phase: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_loss: float = math.inf
    stale_epochs: int = 0
    pending: list[float] = field(default_factory=list)  # losses since the last row of the curve
    curve: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)


class Routine(nn.Module):
    """The network with its feeding routine, as one module: precision and devices are set up around forward."""

    def __init__(self, net: Ladder, *, horizon: int, clip_feedback: bool):
        super().__init__()
        self.net, self.horizon, self.clip_feedback = net, horizon, clip_feedback

    def forward(self, seeds: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, horizon, C, H, W)."""
        predictions, _ = predict(self.net, seeds, horizon=self.horizon, clip_feedback=self.clip_feedback)
        return predictions


def train(net: Ladder, config: TrainConfig, shards: Mapping[int, Path], *, name: str, run: Path) -> Progress:
    """Trains `net` in place and returns the record of the run.

    shards: folder of the shards at each rate. name: for the progress bar and the logs. run: folder of the state,
    from which an interrupted run continues (its file STATE stays until the caller has written the result), and of
    the TensorBoard and Weights & Biases files. Raises RuntimeError when another process trains there, and
    FloatingPointError when a loss or gradient is not finite.
    """
    fabric = make_fabric(config, name=name, run=run)
    phases = [phase_clips(config, shards[phase.fps]) for phase in config.curriculum]
    steps = [
        len(EpochOrder(len(clips), config.batch)) * phase.epochs
        for (clips, _), phase in zip(phases, config.curriculum, strict=True)
    ]
    net.to(memory_format=torch.channels_last)  # convolutions are faster in it, on CPU and GPU
    routine = Routine(net, horizon=config.horizon, clip_feedback=config.clip_feedback)
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.optimizer.lr, weight_decay=config.optimizer.weight_decay)
    routine, optimizer = fabric.setup(routine, optimizer)

    with only_one(run / "lock"), stop_requests() as stop:
        state_file = run / STATE
        mark = fingerprint((name, config), [clips for pair in phases for clips in pair], net.encoder)
        progress, best = Progress(), None
        if state := load_state(state_file, mark):
            net.load_state_dict(state["net"])
            optimizer.load_state_dict(state["optimizer"])
            progress, best = Progress(**state["progress"]), state["best"]
            print(f"continuing at step {progress.step} from {state_file}")
        else:
            shutil.rmtree(run / "tensorboard", ignore_errors=True)  # curves of another run would mix with this one's
        saved_at = time.monotonic()

        def save() -> None:
            nonlocal saved_at
            record = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "best": best}
            save_state(state_file, {"fingerprint": mark, "progress": asdict(progress), **record})
            saved_at = time.monotonic()

        def save_if_due() -> None:
            """By the clock; and at once when the run is asked to stop, which then ends it."""
            if stop.signals or time.monotonic() - saved_at > 60 * config.checkpoint_minutes:
                save()
            if stop.signals:
                raise SystemExit(128 + stop.signals[0])

        def add_to_curve() -> None:
            """A row of the curve from the losses since the last one."""
            mean = sum(progress.pending) / len(progress.pending)
            rate = optimizer.param_groups[0]["lr"]
            progress.curve.append({"step": progress.step, "fps": phase.fps, "lr": rate, "loss": mean})
            progress.pending.clear()
            fabric.log_dict({"train/loss": mean, "train/lr": rate, "train/fps": phase.fps}, progress.step)
            bar.set_postfix(loss=f"{mean:.4f}")

        bar = tqdm(total=sum(steps), initial=progress.step, desc=name, unit="step", dynamic_ncols=True)
        while progress.phase < len(phases):
            phase, (clips, held_back) = config.curriculum[progress.phase], phases[progress.phase]
            bar.set_description(f"{name} {phase.fps} fps, epoch {progress.epoch + 1}/{phase.epochs}")
            if progress.epoch == progress.batch == 0:
                progress.best_loss, progress.stale_epochs, best = math.inf, 0, None
            epoch = sum(earlier.epochs for earlier in config.curriculum[: progress.phase]) + progress.epoch
            order = EpochOrder(
                len(clips),
                config.batch,
                seed=config.seed,
                epoch=epoch,
                first=progress.batch,
                rank=fabric.global_rank,
                ranks=fabric.world_size,
            )
            routine.train()
            for batch in batches(fabric, clips, order, config):
                optimizer.param_groups[0]["lr"] = learning_rate(config.optimizer, progress.step, total=sum(steps))
                loss = step_loss(routine, batch, config).mean()
                optimizer.zero_grad()
                fabric.backward(loss)
                norm = fabric.clip_gradients(
                    routine, optimizer, max_norm=config.optimizer.clip_norm, error_if_nonfinite=False
                )
                if not torch.isfinite(loss + norm):
                    raise FloatingPointError(
                        f"loss {loss.item()}, gradient norm {norm.item()} at step {progress.step}, phase "
                        f"{progress.phase} ({phase.fps} fps); a smaller train.{name}.optimizer.lr may help"
                    )
                optimizer.step()

                progress.step += 1
                progress.batch += 1
                progress.pending.append(loss.item())
                bar.update()
                if len(progress.pending) >= math.ceil(sum(steps) / CURVE_POINTS):
                    add_to_curve()
                save_if_due()

            losses = []
            for batch in batches(fabric, held_back, EpochOrder(len(held_back), config.batch, shuffle=False), config):
                losses.append(validation_losses(routine, batch, config))
                save_if_due()
            loss = float(torch.cat(losses).mean())
            if not math.isfinite(loss):
                raise FloatingPointError(f"validation loss {loss} after step {progress.step}")
            progress.validation.append({"step": progress.step, "epoch": epoch, "fps": phase.fps, "loss": loss})
            fabric.log_dict({"validation/loss": loss}, progress.step)
            if loss < progress.best_loss:
                progress.best_loss, progress.stale_epochs = loss, 0
                best = {key: value.detach().cpu().clone() for key, value in net.state_dict().items()}
            else:
                progress.stale_epochs += 1
            progress.epoch += 1
            progress.batch = 0
            if progress.epoch == phase.epochs or 0 < config.early_stopping.patience <= progress.stale_epochs:
                if progress.pending:
                    add_to_curve()
                progress.phase, progress.epoch = progress.phase + 1, 0
                save()
            save_if_due()
        bar.close()
        net.load_state_dict(best)
        for logger in fabric.loggers:
            logger.finalize("success")
    return progress


def make_fabric(config: TrainConfig, *, name: str, run: Path) -> Fabric:
    """One device, its precision, and the loggers. ValueError when a GPU is asked for and there is none."""
    device = pick_device(config.device, key=f"train.{name}.device").type
    precision = config.precision
    if precision == "auto":
        native = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16-mixed" if native else "32-true"
    loggers = [TensorBoardLogger(run, name="tensorboard", version="")]
    if config.wandb != "disabled":
        from lightning.pytorch.loggers import WandbLogger  # slow to import, and only needed here

        loggers.append(WandbLogger(project="video-ladder", name=name, save_dir=run, offline=config.wandb == "offline"))
    return Fabric(accelerator=device, devices=1, precision=precision, loggers=loggers)


def phase_clips(config: TrainConfig, folder: Path) -> tuple[Clips, Clips]:
    """Clips to train on and clips of the validation groups, at one rate."""
    length, step = config.seeds + config.horizon, config.clips.step
    videos = take_fraction(open_videos(folder, "train"), config.clips.fraction, seed=config.seed)
    clips = Clips(videos, length=length, step=step, at_most=config.clips.overfit, seed=config.seed)
    if config.clips.overfit:
        return clips, clips
    limit = config.early_stopping.validation_clips
    return clips, Clips(open_videos(folder, "validation"), length=length, step=step, at_most=limit, seed=config.seed)


def batches(fabric: Fabric, clips: Clips, order: EpochOrder, config: TrainConfig) -> Iterator[Tensor]:
    """Batches uint8 (B, T, 3, H, W) on the run's device."""
    if config.clips.jpeg_decoder == "device":
        for jpegs, count in load_encoded(clips, order, workers=config.clips.workers):
            yield decode_jpegs(jpegs, fabric.device).unflatten(0, (count, -1))
    else:
        on_gpu = fabric.device.type == "cuda"
        loader = load(clips, order, workers=config.clips.workers, pin_memory=on_gpu)
        # The order is already this rank's.
        yield from fabric.setup_dataloaders(loader, use_distributed_sampler=False)


def step_loss(routine: nn.Module, batch: Tensor, config: TrainConfig) -> Tensor:
    """The loss of every predicted frame (B, horizon): prediction k against frame seeds + k − 1 of the clip."""
    images = as_images(batch, height=config.height, width=config.width)
    seeds, targets = images[:, : config.seeds], images[:, config.seeds :]
    predictions = routine(seeds).float()
    losses = loss_per_image(predictions.flatten(0, 1), targets.flatten(0, 1), config.loss)
    return losses.unflatten(0, targets.shape[:2])


def learning_rate(config: OptimizerConfig, step: int, *, total: int) -> float:
    """Of step (from 0) of `total`: linear warm-up, then one cosine down to zero."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def validation_losses(routine: nn.Module, batch: Tensor, config: TrainConfig) -> Tensor:
    """The loss of each clip of a batch, in eval mode: (B,) float64."""
    routine.eval()
    return step_loss(routine, batch, config).mean(1).double()
