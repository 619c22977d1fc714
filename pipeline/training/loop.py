"""The training loop: the frame-rate curriculum, phase by phase, epoch by epoch, step by step.

Order of events: build the clips of every phase; continue from the state in the run folder if there is one, or from the
end of the last phase that this run shares with an earlier one; train; after each epoch score the validation groups;
keep the weights that score best in the last phase.

Nothing that happens in a phase depends on the phases after it. So a finished phase is kept (phase_1.pt, …), and a run
that changes only later ones starts there.

Shapes: B batch, T time, C channels, H × W pixels; images in [0, 1].
"""

import math
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor
from tqdm import tqdm

from pipeline.clips.batches import EpochOrder, as_images, batches, vary_pixels
from pipeline.clips.clips import Clips, take_fraction
from pipeline.clips.shards import open_videos
from pipeline.hardware import HardwareConfig
from pipeline.nets.ladder import Ladder
from pipeline.training.checkpoint import STATE, Checkpoints
from pipeline.training.config import TrainConfig
from pipeline.training.interruption import Stop, only_one, stop_requests
from pipeline.training.logs import draw, show
from pipeline.training.state import fingerprint
from pipeline.training.step import DelayedMetrics, Step, learning_rate, sampling_mask, trained_weights

PICTURED = 4  # validation clips
CURVE_POINTS = 100  # rows of the training curve a phase, however long it is

Weights = dict[str, Tensor]  # by name, without the frozen encoder's


@dataclass
class Progress:
    """Where a run is, and what it has recorded so far. phase, epoch (of the phase) and batch (of the epoch) are
    the next to be done; step counts all batches done, phase_start those done before this phase."""

    phase: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0
    phase_start: int = 0
    best_loss: float = math.inf
    stale_epochs: int = 0
    pending: list[float] = field(default_factory=list)  # losses since the last row of the curve
    curve: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)

    def rows(self) -> list[dict[str, object]]:
        """Both as tidy rows: step, fps, curve (loss, val_loss or lr), value."""
        found = [{"curve": key, "value": row[key], **row} for row in self.curve for key in ("loss", "lr")]
        found += [{"curve": "val_loss", "value": row["loss"], **row} for row in self.validation]
        return [{key: row[key] for key in ("step", "fps", "curve", "value")} for row in found]


def train(
    fabric: Fabric,
    net: Ladder,
    config: TrainConfig,
    hardware: HardwareConfig,
    shards: Mapping[int, Path],
    *,
    name: str,
    run: Path,
) -> tuple[Progress, list[Weights]]:
    """Trains `net` in place and returns the record of the run, the same on every rank, and the weights that scored best
    in each phase; the last are those of `net`.

    shards: folder of the shards at each rate. name: of the model, for the progress bar and messages. run: folder of
    the state, from which an interrupted run continues (its file STATE stays until the caller has written the result),
    and of the finished phases; all ranks must see it. Raises RuntimeError when another process trains there or a batch
    does not fit on the GPU, FloatingPointError when a loss or gradient is not finite, and SystemExit, with the state
    saved, after SIGTERM or SIGINT.
    """
    with only_one(run / "lock") if fabric.is_global_zero else nullcontext(), stop_requests() as stop:
        training = _Training(fabric, net, config, hardware, shards, name=name, run=run, stop=stop)
        training.resume()
        with training.bar, training.explain_oom():
            while training.progress.phase < len(config.curriculum):
                training.epoch()
        net.load_state_dict(training.best, strict=False)
        net.encoder.fuse(None)
        for logger in fabric.loggers:
            logger.finalize("success")
        return training.progress, training.phases


class _Training:
    """A run and what it holds while it lasts."""

    def __init__(
        self,
        fabric: Fabric,
        net: Ladder,
        config: TrainConfig,
        hardware: HardwareConfig,
        shards: Mapping[int, Path],
        *,
        name: str,
        run: Path,
        stop: Stop,
    ):
        self.fabric, self.net, self.config, self.hardware = fabric, net, config, hardware
        self.name, self.run = name, run
        self.clips = [phase_clips(config, shards[phase.fps]) for phase in config.curriculum]
        self.steps = [  # of each phase, if it is not stopped early
            len(self.order(clips)) * phase.epochs
            for (clips, _), phase in zip(self.clips, config.curriculum, strict=True)
        ]
        for clips, validation in self.clips:  # what would fail in the middle of a run fails now
            self.order(validation, shuffle=False)
            as_images(clips[0], height=config.height, width=config.width)
        self.step = Step(fabric, net, config, compile=hardware.compile)
        self.delayed = DelayedMetrics(fabric.device)
        self.progress = Progress()
        self.best: Weights | None = None  # those that scored best in this phase
        self.phases: list[Weights] = []  # the same of the phases before
        longest_first = reversed(range(1, len(self.clips)))
        fingerprints = {STATE: self.fingerprint()} | {f"phase_{n}.pt": self.fingerprint(n) for n in longest_first}
        self.checkpoints = Checkpoints(fabric, run, fingerprints, minutes=hardware.checkpoint_minutes, stop=stop)

    def epoch(self) -> None:
        """Trains from progress.batch on, validates, and closes the phase if it is over."""
        config, progress = self.config, self.progress
        phase, (clips, validation) = config.curriculum[progress.phase], self.clips[progress.phase]
        last = progress.phase == len(config.curriculum) - 1
        decay = {"decay_from": progress.phase_start, "total": progress.phase_start + self.steps[-1]} if last else {}
        number = sum(earlier.epochs for earlier in config.curriculum[: progress.phase]) + progress.epoch
        self.bar.set_description(
            f"{self.name} phase {progress.phase + 1}/{len(self.clips)} ({phase.fps} fps) "
            f"epoch {progress.epoch + 1}/{phase.epochs}"
        )
        if progress.step == 0:
            self.draw(validation)
        order = self.order(clips, seed=config.seed, epoch=number, first=progress.batch)
        varied = varied_batches(clips, order, config, self.hardware, self.fabric.device, epoch=number)
        for batch, indices, clips_of_all in zip(varied, order.batches, order.sizes, strict=True):
            mask = sampling_mask(config, progress.step, indices, epoch=number)
            if mask is not None:
                mask = torch.from_numpy(mask).to(self.fabric.device, non_blocking=True)
            lr = learning_rate(config.optimizer, progress.step, **decay)
            values = self.step(batch, lr=lr, clips_of_all=clips_of_all, mask=mask)
            progress.step += 1
            progress.batch += 1
            self.delayed.add((progress.step, lr), self.over_ranks(values))
            self.read()
            self.save_if_due()
        self.read(everything=True)

        loss = self.validate(validation)
        progress.validation.append({"step": progress.step, "epoch": number, "fps": phase.fps, "loss": loss})
        self.fabric.log_dict({"validation/loss": loss}, progress.step)
        self.draw(validation)
        if loss < progress.best_loss:
            progress.best_loss, progress.stale_epochs = loss, 0
            self.best = {key: value.to("cpu", copy=True) for key, value in trained_weights(self.step.eval_net).items()}
        else:
            progress.stale_epochs += 1
        progress.epoch += 1
        progress.batch = 0
        if progress.epoch == phase.epochs or 0 < config.early_stopping.patience <= progress.stale_epochs:
            self.close_phase()
        self.save_if_due()

    def close_phase(self) -> None:
        progress = self.progress
        if progress.pending:
            self.add_to_curve(progress.step, self.step.optimizer.param_groups[0]["lr"])
        progress.phase += 1
        progress.epoch = 0
        self.phases.append(self.best)
        if progress.phase < len(self.clips):
            progress.phase_start = progress.step
            progress.best_loss, progress.stale_epochs, self.best = math.inf, 0, None
            self.save(f"phase_{progress.phase}.pt")
        self.save(STATE)

    def validate(self, validation: Clips) -> float:
        """The mean loss over the validation clips."""
        total = torch.zeros(2, dtype=torch.float64, device=self.fabric.device)  # sum, clips
        order = self.order(validation, shuffle=False)
        for batch in batches(validation, order, self.hardware, self.fabric.device):
            losses = self.step.evaluate(batch)
            total += torch.stack([losses.sum(), torch.ones_like(losses).sum()])
            self.checkpoints.raise_flags(*self.over_ranks(total.new_zeros(0)).tolist())
            self.save_if_due()
        total = self.fabric.all_reduce(total, reduce_op="sum")
        loss = float(total[0] / total[1])
        if not math.isfinite(loss):
            raise FloatingPointError(f"validation loss {loss} after step {self.progress.step}; {self.checkpoints}")
        return loss

    def draw(self, validation: Clips) -> None:
        """Pictures of the first validation clips, for the loggers."""
        if not (self.fabric.loggers and self.fabric.is_global_zero):
            return
        config = self.config
        clips = torch.stack([validation[i] for i in range(min(PICTURED, len(validation)))]).to(self.fabric.device)
        images = as_images(clips, height=config.height, width=config.width)
        with self.fabric.autocast():
            options = {"clip_feedback": config.clip_feedback, "off_by_one": config.off_by_one}
            pictures = draw(self.step.eval_net, images, context=config.context, **options)
        show(self.fabric.loggers, pictures, self.progress.step)

    def order(self, clips: Clips, **choices: Any) -> EpochOrder:
        """This rank's part of every batch."""
        ranks = {"rank": self.fabric.global_rank, "ranks": self.fabric.world_size}
        return EpochOrder(len(clips), self.config.batch, **ranks, **choices)

    def over_ranks(self, values: Tensor) -> Tensor:
        """(n,) on each rank -> (n + 2,): their mean, and the stop and save flags, above zero if a rank is asked to stop
        or if it is time to save. Shared, so that all ranks act on them after the same step."""
        flags = (values.new_full((1,), flag) for flag in self.checkpoints.flags())  # made there: nothing to wait for
        joined = torch.cat([values, *flags])
        if self.fabric.world_size > 1:  # not by Fabric, whose barrier would wait for the GPU
            torch.distributed.all_reduce(joined)
            joined /= self.fabric.world_size
        return joined

    def read(self, *, everything: bool = False) -> None:
        """Takes up the numbers of finished steps."""
        progress = self.progress
        for (step, lr), (loss, norm, *flags) in self.delayed.due(everything=everything):
            if not math.isfinite(loss + norm):
                phase = self.config.curriculum[progress.phase]
                raise FloatingPointError(
                    f"loss {loss}, gradient norm {norm} at step {step - 1}, "
                    f"phase {progress.phase + 1}/{len(self.clips)} ({phase.fps} fps); "
                    f"a smaller train.{self.name}.optimizer.lr may help; {self.checkpoints}"
                )
            progress.pending.append(loss)
            self.bar.update()
            self.bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            if len(progress.pending) >= math.ceil(self.steps[progress.phase] / CURVE_POINTS):
                self.add_to_curve(step, lr)
            self.checkpoints.raise_flags(*flags)

    def add_to_curve(self, step: int, lr: float) -> None:
        """A row of the curve from the losses since the last one."""
        progress = self.progress
        mean = sum(progress.pending) / len(progress.pending)
        row = {"step": step, "fps": self.config.curriculum[progress.phase].fps, "lr": lr, "loss": mean}
        progress.curve.append(row)
        progress.pending.clear()
        self.log(row)

    def log(self, row: dict[str, float]) -> None:
        self.fabric.log_dict({f"train/{key}": row[key] for key in ("loss", "lr", "fps")}, int(row["step"]))

    def fingerprint(self, phases: int | None = None) -> str:
        """Of the whole run, or of its first so many phases."""
        settings = replace(self.config, curriculum=self.config.curriculum[:phases])
        whole = phases is None  # then the last phase's learning rate falls
        chosen = (self.fabric.device.type, self.fabric.strategy.precision.precision, self.step.compiled)  # by `auto`
        data = [clips for pair in self.clips[:phases] for clips in pair]
        return fingerprint((self.name, settings, whole, chosen, torch.__version__), data, self.net.encoder)

    def resume(self) -> None:
        """Takes up the run's own state, or the longest beginning that it shares with an earlier one."""
        if found := self.checkpoints.load():
            self.progress, self.best, self.phases = Progress(**found["progress"]), found["best"], found["phases"]
            self.step.load_state_dict(found["step"])
        if self.fabric.is_global_zero and not self.checkpoints.has_state:
            shutil.rmtree(self.run / "tensorboard", ignore_errors=True)  # of another run, or of later phases
            for row in self.progress.curve:
                self.log(row)
            for row in self.progress.validation:
                self.fabric.log_dict({"validation/loss": row["loss"]}, row["step"])
        steps = self.fabric.all_gather(torch.tensor(self.progress.step)).flatten().tolist()
        if len(set(steps)) > 1:
            raise RuntimeError(f"{self.run}: the ranks found states of steps {steps}; all must see the same folder")
        self.bar = tqdm(
            desc=self.name,
            total=sum(self.steps),
            initial=self.progress.step,
            unit="step",
            dynamic_ncols=True,
            disable=not self.fabric.is_global_zero,
        )

    def save(self, name: str) -> None:
        self.read(everything=True)
        record = {"progress": asdict(self.progress), "best": self.best, "phases": self.phases}
        self.checkpoints.save(name, {"step": self.step.state_dict(), **record})

    def save_if_due(self) -> None:
        """By the clock; and when the run is asked to stop, which then ends it."""
        checkpoints = self.checkpoints
        if checkpoints.save_flag or checkpoints.stop_flag:
            self.save(STATE)
        if checkpoints.stop_flag:
            state = self.run / STATE
            self.fabric.print(f"\nstopped at step {self.progress.step}, saved in {state}; start it again to continue")
            self.fabric.barrier()  # no rank ends before the state is saved
            raise SystemExit(128 + (checkpoints.stop.signals or [signal.SIGTERM])[0])

    @contextmanager
    def explain_oom(self) -> Iterator[None]:
        """An error of its own for a batch that the GPU has no room for."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            config = self.config
            smaller = max(self.fabric.world_size, config.batch // 2)
            advice = f"set it to {smaller}, or lower" if smaller < config.batch else "lower"
            raise RuntimeError(
                f"train.{self.name}.batch: {config.batch} clips of {config.context + config.horizon} frames of "
                f"{config.height}×{config.width} do not fit in the memory of {self.fabric.device}; {advice} "
                f"train.{self.name}.height and width; {self.checkpoints}. "
                f"({str(error).splitlines()[0]})"
            ) from error


def phase_clips(config: TrainConfig, folder: Path) -> tuple[Clips, Clips]:
    """Clips to train on and clips of the validation groups, at one rate."""
    cut = {"length": config.context + config.horizon, "spacing": config.clips.spacing, "seed": config.seed}
    videos = take_fraction(open_videos(folder, "train"), config.clips.fraction, seed=config.seed)
    clips = Clips(videos, at_most=config.clips.overfit, **cut)
    if config.clips.overfit:
        return clips, clips
    return clips, Clips(open_videos(folder, "validation"), at_most=config.early_stopping.validation_clips, **cut)


def varied_batches(
    clips: Clips, order: EpochOrder, config: TrainConfig, hardware: HardwareConfig, device: torch.device, *, epoch: int
) -> Iterator[Tensor]:
    """Batches to train on: `batches` of the clips as this epoch varies them."""
    drawn = {"seed": config.seed, "epoch": epoch}
    loaded = batches(clips.varied(config.augmentation, **drawn), order, hardware, device)
    for batch, indices in zip(loaded, order.batches, strict=True):
        yield vary_pixels(batch, indices, config.augmentation, **drawn)
