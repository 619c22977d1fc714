"""The tables of the report's experiments (experiments/runs.yaml), and what each lever of a model gives."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.experiments.runs import Run, dotted, read_run
from pipeline.pages.cells import SHOWN, each_step, facts, heading, metric_of, row, shown
from pipeline.pages.results import COMPARED_WITH, points, share

EXPERIMENTS, CIRCLE, PRETRAINING = Path("plots/experiments"), Path("plots/circle"), Path("plots/pretraining")
MAY_BE_ABSENT = ("loss", "sampling")  # params.yaml may leave out their zeros, and DVC adds a key only after `++`
THRESHOLD = 0.1  # the loss below which, by the report, motion shows


def runs(*items: str) -> list[str]:
    """<model>.<run>: means over the seeds at horizon steps 1 / 2 / 3, ± the largest of their spreads; then copying the
    last context frame, on the same clips; then the commands."""
    lines = heading("run", "change", "steps", *SHOWN.values())
    copies: dict[tuple[str, ...], list[str]] = {}
    named = {item: read_run(*item.split(".")) for item in items}
    for item, run in named.items():
        scores, training = _scores(item)
        lines.append(row([item, _change(run), str(int(training["steps"])), *shown(scores["model"])]))
        copies.setdefault(tuple(shown(scores["copy_last"])), []).append(item)
    for cells, of in copies.items():
        name = "copy_last" if len(copies) == 1 else f"copy_last, clips of {', '.join(of)}"
        lines.append(row([name, "", "", *cells]))
    fence = ["```", *map(command, named.values()), "```"]
    return [*lines, "", "<details><summary>As DVC experiments</summary>", "", *fence, "", "</details>"]


def levers(model: str) -> list[str]:
    """Every run of a model, as `runs` shows them, and which frame its first prediction is most like; then copying."""
    lines = heading("run", "change", *SHOWN.values(), "first prediction is most like frame")
    for name in pd.read_csv(EXPERIMENTS / model / "training.csv")["run"]:
        scores, training = _scores(f"{model}.{name}")
        like = training["like"].replace(" ", ", ")
        lines.append(row([f"`{name}`", _change(read_run(model, name)), *shown(scores["model"]), like]))
    return [*lines, row(["`copy_last`", "", *shown(scores["copy_last"]), ""])]


def grid(*items: str) -> list[str]:
    """One frame ahead, means over the seeds, a column a look."""
    curves = {item: _curve(item).groupby("step")["nyquist_ratio"].mean() for item in items}
    steps = sorted(set().union(*(curve.index for curve in curves.values())))
    lines = heading("run", *(f"step {step}" for step in steps))
    for item, curve in curves.items():
        cells = (f"{curve[step]:,.2f}" if step in curve.index else "" for step in steps)
        lines.append(row([item, *cells]))
    return lines


def motion(*items: str) -> list[str]:
    """Of the first look at which the loss is below THRESHOLD, and of the first at which moving pixels one frame ahead
    are predicted better than by copying."""
    lines = heading(
        "run",
        "seed",
        f"first look with loss below {THRESHOLD}",
        "moving pixels then, minus copying",
        "first look better than copying",
        "loss then",
        "loss at the end",
        "moving pixels at the end, minus copying",
    )
    for item in items:
        for seed, curve in _curve(item).groupby("seed"):
            gain = curve["psnr_moving"] - curve["copy_last_psnr_moving"]
            low, better = curve["loss"] < THRESHOLD, gain > 0
            cells = [
                _first(low, curve["step"], "step {:.0f}"),
                _first(low, gain, "{:+.2f} dB"),
                _first(better, curve["step"], "step {:.0f}"),
                _first(better, curve["loss"], "{:.3f}"),
                f"{curve['loss'].iloc[-1]:.3f}",
                f"{gain.iloc[-1]:+.2f} dB",
            ]
            lines.append(row([item, str(seed), *cells]))
    return lines


def circle(*items: str) -> list[str]:
    """Distances in pixels at horizon steps 1 / 2 / 3, means over the seeds ± the largest spread."""
    lines = heading("model", "steps", "sequences", "distance (pixels) ↓", "copying", "no circle found")
    for item in items:
        steps = facts(CIRCLE / item / "facts.csv")["steps"]
        errors = pd.read_csv(CIRCLE / item / "errors.csv")
        for where, label in (("trained", "the five"), ("held_out", "held out")):
            of = dict(iter(errors[errors["sequences"] == where].groupby("predictor")))
            found = metric_of(of["model"], "centre_error", "whole")
            cells = [
                f"{each_step(found['value'], 2)} ± {found['spread'].max():.2f}",
                each_step(metric_of(of["copy_last"], "centre_error", "whole")["value"], 2),
                each_step(metric_of(of["model"], "lost", "whole")["value"], 2),
            ]
            lines.append(row([item, steps, label, *cells]))
    return lines


def pretraining(*items: str) -> list[str]:
    """Top-1 of the trained and the untrained network in per cent, by the head and by the nearest neighbour, and the
    difference in percentage points."""
    lines = heading("model", "features", "trained", "untrained", "difference", "nearest neighbour", "that of untrained")
    for item in items:
        table = pd.read_csv(PRETRAINING / item / "accuracy.csv")
        for choice, part in table[table["features"] != "memoryless"].groupby("features", sort=False):
            rows = part.set_index(["metric", "control"])
            top1, nearest = ([share(rows.loc[m, name]) for name in ("probe", "untrained")] for m in ("top1", "nearest"))
            lines.append(row([item, f"`{choice}`", *top1, points(rows.loc["gain", "untrained"]), *nearest]))
    return lines


def pretraining_gains(item: str) -> list[str]:
    """Of a pretrained model: each control's top-1 and nearest neighbour in per cent, and the probe minus it in points,
    of every choice of features."""
    table = pd.read_csv(PRETRAINING / item / "accuracy.csv")
    choices = [name for name in table["features"].unique() if name != "memoryless"]
    parts = {name: table[table["features"].isin((name, "memoryless"))] for name in choices}
    rows = {name: part.set_index(["metric", "control"]) for name, part in parts.items()}
    lines = heading("control", *(f"`{name}`" for name in choices), *(f"probe of `{name}` minus it" for name in choices))
    for control in COMPARED_WITH:
        lines.append(
            row(
                [f"`{control}`"]
                + [share(each.loc["top1", control]) for each in rows.values()]
                + [points(each.loc["gain", control]) for each in rows.values()]
            )
        )
    return lines


def steps(item: str) -> list[str]:
    """Top-1 over the steps of pretraining, in per cent."""
    looks = pd.read_csv(PRETRAINING / item / "steps.csv")
    looks = looks[looks["control"] == "probe"]
    return [
        *heading("steps of training", *(f"{step:,}" for step in looks["step"])),
        row(["top-1 (%)", *(share(look) for _, look in looks.iterrows())]),
    ]


def command(run: Run) -> str:
    """The same as a DVC experiment of the main pipeline: one training, with the seed of params.yaml, and the whole
    evaluation, on the test split."""
    words = []
    for text in _assignments(run.changes, run.model):
        added = "++" if text.split(".")[2] in MAY_BE_ABSENT else ""
        words.append(f"-S '{added}{text}'" if set(text) & set("[]{} ") else f"-S {added}{text}")
    return f"dvc exp run --queue {' '.join(words)} evaluate@{run.model}"


def _change(run: Run) -> str:
    """What a run changes, without the `train.<model>.` that all keys begin with."""
    return ", ".join(f"`{text.removeprefix(f'train.{run.model}.')}`" for text in _assignments(run.own, run.model))


def _assignments(changes: Mapping[str, Any], model: str) -> list[str]:
    """As DVC takes them: YAML in flow style, which needs no quotes here."""
    keys = dotted(changes, f"train.{model}")
    return [f"{key}={json.dumps(value)}".replace('"', "") for key, value in keys.items()]


def _scores(item: str) -> tuple[dict[str, pd.DataFrame], pd.Series]:
    """A run's scores by predictor, and its row of training.csv."""
    model, name = item.split(".")
    scores = pd.read_csv(EXPERIMENTS / model / "scores.csv")
    training = pd.read_csv(EXPERIMENTS / model / "training.csv", dtype={"like": str}, index_col="run")
    return dict(iter(scores[scores["run"] == name].groupby("predictor"))), training.loc[name]


def _curve(item: str) -> pd.DataFrame:
    model, name = item.split(".")
    return pd.read_csv(EXPERIMENTS / model / "looks" / f"{name}.csv")


def _first(when: pd.Series, value: pd.Series, form: str) -> str:
    return form.format(value[when].iloc[0]) if when.any() else "never"
