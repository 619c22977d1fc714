"""A model that is probed as it is trained: what its hidden states know after each phase of its curriculum, with the
weights that were best in it.

The report's question in one curve: does prediction teach the states what moves how? Without training it is the control
`untrained`, networks with fresh weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import torch

from pipeline.clips.shards import names_digest, open_videos
from pipeline.experiments.settings import Experiment
from pipeline.experiments.trial import start
from pipeline.probe.classifier import ProbeConfig
from pipeline.probe.comparison import (
    PROBE,
    READINGS,
    accuracy_rows,
    compare,
    correct_by_video,
    read,
    read_choice,
    read_held_out,
    summaries,
)
from pipeline.probe.controls import read_memoryless
from pipeline.probe.features.conditions import FeaturesConfig, token_grid
from pipeline.probe.features.extract import extract_features
from pipeline.probe.samples import read_splits
from pipeline.training.loop import train
from pipeline.training.state import fingerprint

FOLLOWED = "attentive"  # the choice of features whose accuracy is followed over training
LINES = ("untrained", "flow", "encoder", "chance")  # controls that are shown beside it

Rows = dict[tuple[str, str], dict[str, float]]  # of a control and a metric: value, low, high, spread


@dataclass(frozen=True)
class Pretrained:
    """accuracy: rows as comparison.accuracy_rows gives them, of the trained network and all controls; steps: a row a
    look and control: step, control (`probe`, or a control's name), value, low, high, spread: top-1 of FOLLOWED."""

    accuracy: list[dict[str, object]]
    steps: list[dict[str, object]]


def run_pretraining(
    experiment: Experiment,
    features: FeaturesConfig,
    probe: ProbeConfig,
    shards: Mapping[int, Path],
    *,
    folder: Path,
) -> Pretrained:
    """Trains with the first of the experiment's seeds, and probes. shards: folder of each rate; folder: where an
    interrupted run continues. ValueError, before anything is trained, when FOLLOWED is not among the choices of
    features, or tokens do not cover the frames."""
    if FOLLOWED not in features.choices:
        raise ValueError(f"features.choices: {', '.join(features.choices)}; {FOLLOWED} must be among them")
    token_grid(features.token_stride, height=experiment.train.height, width=experiment.train.width)
    config = replace(experiment.train, seed=experiment.seeds[0])
    fabric, net, card = start(experiment, seed=config.seed)
    card = replace(card, test_digest=names_digest(open_videos(shards[features.fps], "test")))
    record, phases = train(fabric, net, config, experiment.hardware, shards, name=experiment.model, run=folder)
    ends = accumulate(phase.epochs for phase in config.curriculum)
    steps = [int(record.validation[epoch - 1]["step"]) for epoch in ends]
    followed = []
    for step, weights in zip(steps, phases, strict=True):
        net.load_state_dict(weights, strict=False)
        out, last = folder / f"features_{step}", step == steps[-1]
        extract_features(
            features,
            net,
            card,
            model_sha256=fingerprint(step, (), net),
            shards=shards[features.fps],
            out=out,
            work=folder / f"work_{step}",
            device=fabric.device,
            conditions=None if last else (PROBE,),
        )
        if not last:
            held_out = read_held_out(out)
            splits = read_splits(out, PROBE, FOLLOWED)
            found = {"probe": read(probe, [splits], classes=held_out.classes, device=fabric.device)}
            followed.append((step, summaries(found, held_out, resamples=probe.bootstrap)["probe", "top1"]))
            print(f"after {step} steps: {FOLLOWED} {followed[-1][1]['value']:.1%}", flush=True)
    shared, own = read_all(probe, out, features.choices, device=fabric.device)
    accuracy = accuracy_rows(shared, features="memoryless")
    for choice, rows in own.items():
        accuracy += accuracy_rows(rows, features=choice)
    rows = shared | own[FOLLOWED]
    followed = [(0, rows["untrained", "top1"]), *followed, (steps[-1], rows["probe", "top1"])]
    looks = [_look(step, "probe", row) for step, row in followed]
    looks += [_look(step, name, rows[name, "top1"]) for name in LINES for step in (0, steps[-1])]
    return Pretrained(accuracy, looks)


def read_all(
    probe: ProbeConfig, folder: Path, choices: Sequence[str], *, device: torch.device
) -> tuple[Rows, dict[str, Rows]]:
    """The rows of the controls without a memory, and those of every choice of features beside its controls."""
    held_out = read_held_out(folder)
    shared = read_memoryless(probe, folder, classes=held_out.classes, device=device)
    others = {reading: correct_by_video(shared, held_out, reading) for reading in READINGS}
    own = {}
    for choice in choices:
        found = read_choice(probe, folder, choice, classes=held_out.classes, device=device)
        own[choice] = compare(found, held_out, resamples=probe.bootstrap, others=others)
    return summaries(shared, held_out, resamples=probe.bootstrap), own


def _look(step: int, control: str, row: Mapping[str, float]) -> dict[str, object]:
    return {"step": step, "control": control} | {key: row.get(key) for key in ("value", "low", "high", "spread")}
