"""One run of an experiment: trained, and scored on the validation groups as it goes, so that the test split stays
unread. A run that overfits a few clips is scored on those that it is trained on.

A run is scored before it is trained, and where each phase of its curriculum ends.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path
from shutil import rmtree
from statistics import mean
from typing import Any, TypeVar

import torch
from lightning.fabric import Fabric

from pipeline.clips.clips import Clips
from pipeline.clips.shards import open_videos
from pipeline.evaluation.baseline_values import BaselineValues
from pipeline.evaluation.intervals import deviation
from pipeline.evaluation.score import baselines_for, score_clips
from pipeline.evaluation.tables import tidy
from pipeline.experiments.settings import Experiment
from pipeline.hardware import pick_device
from pipeline.nets.build import build_net
from pipeline.nets.encoder import load_weights
from pipeline.nets.ladder import Ladder
from pipeline.processes import end_with_parent
from pipeline.results import write_text
from pipeline.training.devices import make_fabric
from pipeline.training.loop import phase_clips, train
from pipeline.training.model_card import ModelCard
from pipeline.training.state import fingerprint

SHOWN = ("psnr", "ssim", "psnr_moving", "ssim_moving", "l1_moving", "nyquist_ratio", "gradient_ratio", "loss")
PREDICTORS = ("model", "copy_last")
SCORED = 64  # clips at most, the same in every run

T = TypeVar("T")

Table = dict[str, dict[str, dict[str, float]]]  # predictor, metric, horizon step


@dataclass(frozen=True)
class Trial:
    """One repetition. steps: those trained before each look, from 0; tables: the scores at each look; loss: the mean of
    the last steps."""

    seed: int
    steps: list[int]
    tables: list[Table]
    loss: float
    parameters: int


def scores_of(name: str, experiment: Experiment, shards: Mapping[int, Path], folder: Path) -> dict[str, Any]:
    """scores: `summarise` of all seeds; looks: the rows of `looks`. They are kept in folder/<name>.json, and taken from
    there when nothing that they depend on has changed since. shards: folder of each rate."""
    path, expected = folder / f"{name}.json", fingerprint_of(experiment, shards)
    if found := _kept(path, expected):
        print(f"{experiment.model} {name}: taken over from {path}", flush=True)
    else:
        print(f"{experiment.model} {name}: training with seeds {', '.join(map(str, experiment.seeds))}", flush=True)
        trials = every_seed(partial(run_trial, experiment=experiment, shards=shards, run=folder / name), experiment)
        rows = looks(trials, horizon=experiment.train.horizon)
        found = {"fingerprint": expected, "scores": summarise(trials), "looks": rows}
        write_text(path, json.dumps(found))
    rmtree(folder / name, ignore_errors=True)  # there too where a run was killed after its scores were written
    return found


def fingerprint_of(experiment: Experiment, shards: Mapping[int, Path]) -> str:
    """Digest of all that the scores of a run depend on."""
    config, data = experiment.train, []
    for seed in experiment.seeds:
        for rate in {phase.fps for phase in config.curriculum}:
            data += phase_clips(replace(config, seed=seed), shards[rate])
    fabric, net, card = start(experiment, seed=experiment.seeds[0])
    data.append(scored_clips(card, experiment, shards))
    chosen = (fabric.device.type, fabric.strategy.precision.precision, torch.__version__)  # by `auto`
    settings = (experiment.model, config, experiment.evaluate, experiment.seeds, chosen)
    return fingerprint(settings, data, net.encoder)


def _kept(path: Path, expected: str) -> dict[str, Any] | None:
    """What the file holds, or None when it is of other settings, data or code, when there is none, or when a crash of
    the machine left half of one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return found if found["fingerprint"] == expected else None


def run_trial(seed: int, *, experiment: Experiment, shards: Mapping[int, Path], run: Path) -> Trial:
    """Trains and scores; run: folder of the training's state, from which an interrupted trial continues."""
    config, hardware = replace(experiment.train, seed=seed), experiment.hardware
    name = f"{experiment.model} seed {seed}"
    fabric, net, card = start(experiment, seed=seed)
    clips = scored_clips(card, replace(experiment, train=config), shards)
    beside = baselines_for(card, clips, experiment.evaluate, flow=False)
    tables = [look(net, card, clips, experiment, beside)]
    record, phases = train(fabric, net, config, hardware, shards, name=name, run=run / str(seed))
    for weights in phases:
        net.load_state_dict(weights, strict=False)
        tables.append(look(net, card, clips, experiment, beside))
    epochs = accumulate(phase.epochs for phase in config.curriculum)
    steps = [0, *(int(record.validation[epoch - 1]["step"]) for epoch in epochs)]
    trainable = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    return Trial(seed, steps, tables, record.curve[-1]["loss"], trainable)


def start(experiment: Experiment, *, seed: int) -> tuple[Fabric, Ladder, ModelCard]:
    """What training begins with."""
    config, model = replace(experiment.train, seed=seed), experiment.model
    fabric = make_fabric(experiment.hardware, height=config.height, width=config.width)
    torch.manual_seed(seed)
    net = build_net(model, config.net, height=config.height, width=config.width)
    return fabric, net, config.card(model, load_weights(net.encoder, config.encoder), test_digest="")


def scored_clips(card: ModelCard, experiment: Experiment, shards: Mapping[int, Path]) -> Clips:
    config, folder = experiment.evaluate, shards[experiment.evaluate.fps]
    if experiment.train.clips.overfit:
        return phase_clips(experiment.train, folder)[0]
    length = card.context + config.horizon
    return Clips(open_videos(folder, "validation"), length=length, spacing=config.spacing, at_most=SCORED)


def look(net: Ladder, card: ModelCard, clips: Clips, experiment: Experiment, beside: BaselineValues) -> Table:
    """The scores so far, and which frame of the clip the first prediction is like. beside: the baselines' values."""
    config = replace(experiment.evaluate, horizon=clips.length - card.context)
    table, _ = score_clips(net, card, clips, config, beside, device=pick_device(experiment.hardware.device))
    kept = {name: {metric: table[name][metric] for metric in SHOWN if metric in table[name]} for name in PREDICTORS}
    return kept | {"resembles": table["resembles"]}


def every_seed(trial: Callable[[int], T], experiment: Experiment) -> list[T]:
    """trial(seed) of each seed. On a CPU a process and one thread each, as many together as there are cores: with
    threads of their own they would wait for one another."""
    device = pick_device(experiment.hardware.device)
    together = 1 if device.type == "cuda" else min(len(experiment.seeds), len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(together, get_context("spawn"), _alone, (os.getpid(),)) as pool:
        return list(pool.map(trial, experiment.seeds))


def _alone(parent: int) -> None:
    torch.set_num_threads(1)
    end_with_parent(parent)


def summarise(trials: Sequence[Trial]) -> dict[str, object]:
    """over_trials of the last look; like.<frame>: in how many trials the first prediction was most like that frame of
    the clip; train: how long and how well they were trained."""
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
    """Means over the trials at each horizon step, of those with a value there; for the model <metric>_spread too, the
    sample standard deviation. The other predictors are not trained."""
    summary: Table = {name: {} for name in PREDICTORS}
    for name, row in summary.items():
        for metric, first in tables[0][name].items():
            values = {k: [table[name][metric][k] for table in tables if k in table[name][metric]] for k in first}
            row[metric] = {k: mean(seen) for k, seen in values.items()}
            if name == "model":
                row[f"{metric}_spread"] = {k: deviation(seen) for k, seen in values.items()}
    return summary


def score_rows(run: str, scores: Mapping[str, Any]) -> list[dict[str, object]]:
    """A run's scores as tidy rows: run, predictor (model, or copy_last), region, metric, horizon_step, value, spread:
    the sample deviation over the seeds."""
    return [{"run": run, "predictor": name, **row} for name in PREDICTORS for row in tidy(scores[name], "spread")]


def training_row(run: str, scores: Mapping[str, Any]) -> dict[str, object]:
    """run, loss, parameters, seeds, steps, and like: the frames that the first prediction was most like."""
    return {"run": run, **scores["train"], "like": " ".join(sorted(scores["like"]))}


def looks(trials: Sequence[Trial], *, horizon: int) -> list[dict[str, float]]:
    """A row for each trial and look, for a plot: the mean loss over the trained horizon, and the other metrics one
    frame ahead."""
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
