"""docs/experiments.md from its template: the text as it stands, and a table for every marker in it.

A marker is a line `<!-- <kind>: <item>, <item>, … -->`. Kinds:

    runs      <model> <run>    the scores at the end of training, and the command of each
    grid      <model> <run>    the Nyquist share over training
    motion    <model> <run>    the loss at which motion shows
    circle    <model>          how far the predicted circle is off
    probe     <choice>         the probe's accuracy beside its controls
    gain      <choice>         how much that is above them
    real_probe, real_gain      the same of the real clips
    models    <model>          the probe on other models, beside their untrained networks

Every number is read from metrics/ and plots/, nothing is typed.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.experiments.runs import Run, dotted, read_run

METRICS, CURVES = Path("metrics/experiments"), Path("plots/experiments")
REAL = "metrics/ucf101_mini"
SHOWN = {"psnr": 2, "ssim": 3, "psnr_moving": 2, "gradient_ratio": 2, "nyquist_ratio": 2}  # digits
MAY_BE_ABSENT = ("loss", "sampling")  # params.yaml may leave out their zeros, and DVC adds a key only after `++`
THRESHOLD = 0.1  # the loss below which, by the report, motion shows


def fill(template: str) -> str:
    """The template with its markers replaced. ValueError for a kind that there is not."""

    def table(marker: re.Match) -> str:
        kind, items = marker[1], [item.strip() for item in marker[2].split(",")]
        if kind not in KINDS:
            raise ValueError(f"marker {marker[0]}: {kind} is not allowed; allowed: {', '.join(KINDS)}")
        return "\n".join(KINDS[kind](items))

    return re.sub(r"^<!-- (\w+): (.*) -->$", table, template, flags=re.MULTILINE)


def runs(items: Sequence[str]) -> list[str]:
    """Means over the seeds at horizon steps 1 / 2 / 3, ± the largest of their deviations; then copying the last context
    frame, on the same clips; then the commands."""
    lines = heading("run", "change", "steps", "PSNR (dB)", "SSIM", "PSNR, moving", "gradient energy", "Nyquist share")
    copies = {}
    named = {item: read_run(*item.split()) for item in items}
    for item, run in named.items():
        found = _read(run.model)[run.name]
        change = ", ".join(f"`{text}`" for text in _assignments(run.own, run.model))
        cells = [spread(found["model"], metric, digits) for metric, digits in SHOWN.items()]
        lines.append(f"| {item} | {change} | {found['train']['steps']} | {' | '.join(cells)} |")
        cells = [each_step(found["copy_last"][metric], digits) for metric, digits in SHOWN.items()]
        copies.setdefault(tuple(cells), []).append(item)
    for cells, of in copies.items():
        name = "copy_last" if len(copies) == 1 else f"copy_last, clips of {', '.join(of)}"
        lines.append(f"| {name} | | | {' | '.join(cells)} |")
    fence = ["```", *map(command, named.values()), "```"]
    return [*lines, "", "<details><summary>As DVC experiments</summary>", "", *fence, "", "</details>"]


def grid(items: Sequence[str]) -> list[str]:
    """One frame ahead, means over the seeds, a column a look."""
    curves = {item: _curve(item).groupby("step")["nyquist_ratio"].mean() for item in items}
    steps = sorted(set().union(*(curve.index for curve in curves.values())))
    lines = heading("run", *(f"step {step}" for step in steps))
    for item, curve in curves.items():
        cells = (f"{curve[step]:,.2f}" if step in curve.index else "" for step in steps)
        lines.append(f"| {item} | {' | '.join(cells)} |")
    return lines


def motion(items: Sequence[str]) -> list[str]:
    """Of the first look at which the loss is below THRESHOLD, and of the first at which moving pixels one frame ahead
    are predicted better than by copying."""
    lines = [
        f"| run | seed | first look with loss below {THRESHOLD} | moving pixels then, over copying | first look better "
        "than copying | loss then | at the end: loss | moving pixels, over copying |",
        "|---|---|---|---|---|---|---|---|",
    ]
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
            lines.append(f"| {item} | {seed} | {' | '.join(cells)} |")
    return lines


def circle(items: Sequence[str]) -> list[str]:
    """Distances in pixels at horizon steps 1 / 2 / 3, means over the seeds ± the largest deviation."""
    lines = heading("model", "steps", "sequences", "distance (pixels)", "copying", "no circle found")
    for item in items:
        found = _read(f"circle_{item}")
        for where, label in (("trained", "the five"), ("held_out", "held out")):
            part = found[where]
            cells = [
                spread(part["model"], "centre_error", 2),
                each_step(part["copy_last"]["centre_error"], 2),
                each_step(part["model"]["lost"], 2),
            ]
            lines.append(f"| {item} | {found['train']['steps']} | {label} | {' | '.join(cells)} |")
    return lines


def probe(items: Sequence[str], *, folder: str = "metrics") -> list[str]:
    """Top-1 of each choice of features and of its controls."""
    tables = {item: json.loads(Path(folder, f"probe_{item}.json").read_text()) for item in items}
    controls = sorted(set().union(*(table["controls"] for table in tables.values())))
    lines = heading("features", "probe", *controls)
    for item, table in tables.items():
        cells = [f"{table['controls'][name]['top1']:.1%}" if name in table["controls"] else "" for name in controls]
        lines.append(f"| {item} | {_accuracy(table['probe'])} | {' | '.join(cells)} |")
    return lines


def gain(items: Sequence[str], *, folder: str = "metrics") -> list[str]:
    """Differences in top-1, video by video, with 95 % intervals over groups."""
    tables = {item: json.loads(Path(folder, f"probe_{item}.json").read_text())["gain"] for item in items}
    names = ("chance", "encoder", "untrained", "still", "shuffled")
    lines = heading("features", *(f"over {name}" for name in names))
    for item, table in tables.items():
        lines.append(f"| {item} | {' | '.join(difference(table[name]) for name in names)} |")
    return lines


def models(items: Sequence[str]) -> list[str]:
    """Top-1 of the trained and the untrained network, and the difference, as in `gain`."""
    lines = heading("model", "features", "probe", "untrained", "over untrained")
    for item in items:
        for choice, table in _read(f"probe_{item}").items():
            cells = [_accuracy(table["probe"]), _accuracy(table["controls"]["untrained"])]
            lines.append(f"| {item} | {choice} | {' | '.join(cells)} | {difference(table['gain']['untrained'])} |")
    return lines


KINDS: dict[str, Callable[[Sequence[str]], list[str]]] = {
    "runs": runs,
    "grid": grid,
    "motion": motion,
    "circle": circle,
    "probe": probe,
    "gain": gain,
    "real_probe": partial(probe, folder=REAL),
    "real_gain": partial(gain, folder=REAL),
    "models": models,
}


def command(run: Run) -> str:
    """The same as a DVC experiment of the main pipeline: one training, with the seed of params.yaml, and the whole
    evaluation, on the test split."""
    words = []
    for text in _assignments(run.changes, run.model):
        added = "++" if text.split(".")[2] in MAY_BE_ABSENT else ""
        words.append(f"-S '{added}{text}'" if set(text) & set("[]{} ") else f"-S {added}{text}")
    return f"dvc exp run --queue {' '.join(words)} evaluate@{run.model}"


def heading(*cells: str) -> list[str]:
    """The first two lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |".replace("|  |", "| |"), "|---" * len(cells) + "|"]


def each_step(values: Mapping[str, float], digits: int) -> str:
    """A metric at every horizon step."""
    return " / ".join(f"{value:.{digits}f}" for value in values.values())


def spread(row: Mapping[str, Mapping[str, float]], metric: str, digits: int) -> str:
    """The same ± the largest of its deviations over the seeds."""
    return f"{each_step(row[metric], digits)} ± {max(row[f'{metric}_std'].values()):.{digits}f}"


def difference(row: Mapping[str, float]) -> str:
    """A gain in top-1 in percentage points, with its sign, [interval]."""
    ends = f" [{100 * row['top1_low']:+.1f}, {100 * row['top1_high']:+.1f}]" if "top1_low" in row else ""
    return f"{100 * row['top1']:+.1f}{ends}"


def _assignments(changes: Mapping[str, Any], model: str) -> list[str]:
    """As DVC takes them: YAML in flow style, which needs no quotes here."""
    keys = dotted(changes, f"train.{model}")
    return [f"{key}={json.dumps(value)}".replace('"', "") for key, value in keys.items()]


def _read(name: str) -> dict:
    return json.loads((METRICS / f"{name}.json").read_text())


def _curve(item: str) -> pd.DataFrame:
    model, name = item.split()
    return pd.read_csv(CURVES / model / f"{name}.csv")


def _accuracy(row: dict[str, float]) -> str:
    return f"{row['top1']:.1%} ± {row['top1_std']:.1%}"


def _first(when: pd.Series, value: pd.Series, form: str) -> str:
    return form.format(value[when].iloc[0]) if when.any() else "never"
