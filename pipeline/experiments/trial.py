"""One run of an experiment: trained, and scored on the validation groups as it goes, so that the test split stays
unread. A run that overfits a few clips is scored on those.

Every phase of its curriculum is a point at which it is looked at; so is the start.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import TypeVar

import torch
from lightning.fabric import Fabric

from pipeline.clips.clips import Clips
from pipeline.clips.shards import open_videos
from pipeline.device import pick_device
from pipeline.evaluation.intervals import deviation
from pipeline.evaluation.score import score_clips
from pipeline.experiments.settings import Experiment
from pipeline.nets.build import build_net
from pipeline.nets.encoder import load_weights
from pipeline.nets.ladder import Ladder
from pipeline.training.config import TrainConfig
from pipeline.training.hardware import make_fabric
from pipeline.training.interruption import stop_with_parent
from pipeline.training.loop import phase_clips, train
from pipeline.training.model_card import ModelCard

SHOWN = ("psnr", "ssim", "psnr_moving", "ssim_moving", "l1_moving", "nyquist_ratio", "gradient_ratio", "loss")
PREDICTORS = ("model", "copy_last")
SCORED = 64  # clips at most, the same in every run

T = TypeVar("T")

Table = dict[str, dict[str, dict[str, float]]]  # predictor, metric, step ahead


@dataclass(frozen=True)
class Trial:
    """One repetition. steps: of training at each look, from 0; tables: what was seen; loss: of the last steps."""

    seed: int
    steps: list[int]
    tables: list[Table]
    loss: float
    parameters: int


def run_trial(seed: int, *, model: str, experiment: Experiment, shards: Mapping[int, Path], run: Path) -> Trial:
    """Trains and scores; shards: folder of each rate; run: folder of the training's state, from which an interrupted
    trial continues."""
    config = replace(experiment.train, seed=seed)
    fabric, net, card = start(model, config)
    clips = scored_clips(card, experiment, shards)
    tables = [look(net, card, clips, experiment)]
    record, phases = train(fabric, net, config, shards, name=f"{model} seed {seed}", run=run / str(seed))
    for weights in phases:
        net.load_state_dict(weights, strict=False)
        tables.append(look(net, card, clips, experiment))
    epochs = accumulate(phase.epochs for phase in config.curriculum)
    steps = [0, *(int(record.validation[epoch - 1]["step"]) for epoch in epochs)]
    trainable = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    return Trial(seed, steps, tables, record.curve[-1]["loss"], trainable)


def start(model: str, config: TrainConfig) -> tuple[Fabric, Ladder, ModelCard]:
    """What training begins with."""
    key = f"train.{model}.hardware"
    fabric = make_fabric(config.hardware, key=key, height=config.height, width=config.width)
    torch.manual_seed(config.seed)
    net = build_net(model, config.net, height=config.height, width=config.width)
    return fabric, net, config.card(model, load_weights(net.encoder, config.encoder), held_back="")


def scored_clips(card: ModelCard, experiment: Experiment, shards: Mapping[int, Path]) -> Clips:
    config, folder = experiment.evaluate, shards[experiment.evaluate.fps]
    if experiment.train.clips.overfit:
        return phase_clips(experiment.train, folder)[0]
    length = card.seeds + config.horizon
    return Clips(open_videos(folder, "validation"), length=length, step=config.step, at_most=SCORED)


def look(net: Ladder, card: ModelCard, clips: Clips, experiment: Experiment) -> Table:
    """The scores so far, and which frame of the clip the first prediction is like."""
    config = replace(experiment.evaluate, horizon=clips.length - card.seeds)
    table, _ = score_clips(net, card, clips, config, flow=False)
    kept = {name: {metric: table[name][metric] for metric in SHOWN if metric in table[name]} for name in PREDICTORS}
    return kept | {"resembles": table["resembles"]}


def every_seed(trial: Callable[[int], T], experiment: Experiment, *, key: str) -> list[T]:
    """trial(seed) of each seed. On a CPU a process and one thread each, as many together as there are cores: with
    threads of their own they would wait for one another. key: of the device, for messages."""
    device = pick_device(experiment.train.hardware.device, key=key)
    together = 1 if device.type == "cuda" else min(len(experiment.seeds), len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(together, get_context("spawn"), _alone, (os.getpid(),)) as pool:
        return list(pool.map(partial(_while_parent_lives, trial, os.getpid()), experiment.seeds))


def _alone(parent: int) -> None:
    torch.set_num_threads(1)
    stop_with_parent(parent)


def _while_parent_lives(trial: Callable[[int], T], parent: int, seed: int) -> T:
    """trial(seed); a process whose parent was killed meanwhile ends then, where it would wait for another trial."""
    try:
        return trial(seed)
    finally:
        if os.getppid() != parent:
            os._exit(1)


def summarise(trials: Sequence[Trial]) -> dict[str, object]:
    """over_trials of what was seen last; like.<frame>: in how many trials the first prediction was most like that frame
    of the clip."""
    last = [trial.tables[-1] for trial in trials]
    first = [table["resembles"]["1"] for table in last]
    nearest = [max(psnr, key=psnr.get) for psnr in first]
    return over_trials(last) | {
        "like": {frame: nearest.count(frame) for frame in sorted(set(nearest))},
        "train": {
            "loss": mean(trial.loss for trial in trials),
            "steps": trials[0].steps[-1],
            "seeds": len(trials),
            "parameters": trials[0].parameters,
        },
    }


def over_trials(tables: Sequence[Table]) -> Table:
    """Means over the trials at each step ahead, of those with a value there; for the model <metric>_std too, the sample
    deviation, since the others differ in nothing that is trained."""
    summary: Table = {name: {} for name in PREDICTORS}
    for name, row in summary.items():
        for metric, first in tables[0][name].items():
            values = {k: [table[name][metric][k] for table in tables if k in table[name][metric]] for k in first}
            row[metric] = {k: mean(seen) for k, seen in values.items()}
            if name == "model":
                row[f"{metric}_std"] = {k: deviation(seen) for k, seen in values.items()}
    return summary


def looks(trials: Sequence[Trial], *, horizon: int) -> list[dict[str, float]]:
    """A row a trial and look, for a plot: the loss over the trained horizon, and the rest one frame ahead."""
    return [
        {
            "seed": trial.seed,
            "step": step,
            "loss": mean(table["model"]["loss"][str(k)] for k in range(1, horizon + 1)),
            **{metric: table["model"][metric]["1"] for metric in SHOWN if metric != "loss"},
            "copy_last_psnr_moving": table["copy_last"]["psnr_moving"]["1"],
        }
        for trial in trials
        for step, table in zip(trial.steps, trial.tables, strict=True)
    ]
