"""The probe beside its controls: heads and nearest neighbours on the features of each, on the same test videos.

Shapes: V test videos, K classes; scores (V, K), a run each. Readings: `top1`, by the heads, and `nearest`, by the
nearest neighbour, which nothing is trained for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

import pandas as pd
import torch
from torch import Tensor

from pipeline.probe.accuracy import Group, fraction_correct, gains, summarise, top_k
from pipeline.probe.classifier import ProbeConfig, ProbeRun, run_probe
from pipeline.probe.nearest import nearest
from pipeline.probe.samples import CONDITIONS, Splits, draws, read_splits, read_videos

PROBE = "trained"  # the features in question; those of all other names are controls
READINGS = {"top1": "gain", "nearest": "nearest_gain"}  # and the metric of what the probe has more of it


@dataclass(frozen=True)
class HeldOut:
    """The test videos, in the features' order. videos, groups, labels: (V,) each; names: of the labels of all splits,
    of which a gap is a class without videos."""

    videos: list[str]
    groups: list[Group]
    labels: Tensor
    names: dict[int, str]

    @property
    def classes(self) -> int:
        return max(self.names) + 1


@dataclass(frozen=True)
class Reading:
    """What was read from one kind of features. top1: scores of the heads, a seed or a draw each; nearest: of the
    nearest neighbour, a draw each; runs: how the heads were trained."""

    top1: list[Tensor]
    nearest: list[Tensor]
    runs: list[ProbeRun] = field(default_factory=list)

    def scores(self, reading: str) -> list[Tensor]:
        return self.top1 if reading == "top1" else self.nearest


def read_held_out(folder: Path) -> HeldOut:
    """Of the folder that the stage features made."""
    videos = read_videos(folder)
    test = videos[videos["split"] == "test"]
    groups = list(zip(test["action"], test["group"], strict=True))
    names = dict(zip(videos["label"], videos["name"], strict=True))
    return HeldOut(test["video"].tolist(), groups, torch.from_numpy(test["label"].to_numpy(copy=True)), names)


def read(
    config: ProbeConfig,
    features: Sequence[Splits],
    *,
    classes: int,
    device: torch.device,
    sampled: bool = False,
    title: str = "heads",
) -> Reading:
    """Of one kind of features. Several draws of it have a head each, of the first seed; one has one of every seed.
    title: of the progress bars."""
    settings = {"classes": classes, "device": device, "sampled": sampled, "title": title}
    settings["seeds"] = config.seeds if len(features) == 1 else config.seeds[:1]
    runs = [run for each in features for run in run_probe(config, each, **settings)]
    return Reading([run.scores for run in runs], [nearest([each], classes=classes) for each in features], runs)


def read_choice(
    config: ProbeConfig, folder: Path, choice: str, *, classes: int, device: torch.device
) -> dict[str, Reading]:
    """A choice of features under every condition; the draws of fresh weights together as `untrained`."""
    trained, *others = ([read_splits(folder, name, choice)] for name in CONDITIONS)
    features = [trained, [read_splits(folder, name, choice) for name in draws(folder)], *others]
    names = (CONDITIONS[0], "untrained", *CONDITIONS[1:])
    return {
        name: read(config, each, classes=classes, device=device, sampled=name == PROBE, title=f"{choice}, {name}")
        for name, each in zip(names, features, strict=True)
    }


def correct_by_video(found: Mapping[str, Reading], held_out: HeldOut, reading: str) -> pd.DataFrame:
    """A row a test video, a column a name: in which share of its runs the video's class was predicted."""
    columns = {name: fraction_correct(each.scores(reading), held_out.labels) for name, each in found.items()}
    return pd.DataFrame(columns, index=pd.Index(held_out.videos, name="video"))


def summaries(found: Mapping[str, Reading], held_out: HeldOut, *, resamples: int) -> dict[tuple[str, str], dict]:
    """{(name, metric): {value, spread, low, high}} of both readings, and top5."""
    rows = {}
    for name, each in found.items():
        for reading in READINGS:
            runs = each.scores(reading)
            rows[name, reading] = summarise(runs, held_out.labels, held_out.groups, resamples=resamples)
        rows[name, "top5"] = {"value": mean(top_k(scores, held_out.labels, 5) for scores in each.top1)}
    return rows


def compare(
    found: Mapping[str, Reading], held_out: HeldOut, *, resamples: int, others: Mapping[str, pd.DataFrame]
) -> dict[tuple[str, str], dict]:
    """{(control, metric): {value, spread, low, high}}: `summaries`, with `probe` for PROBE, and what the probe has more
    than each control, by both readings. others: further controls' correct_by_video, by reading."""
    shown = {"probe" if name == PROBE else name: each for name, each in found.items()}
    rows = summaries(shown, held_out, resamples=resamples)
    for reading, metric in READINGS.items():
        correct = correct_by_video(found, held_out, reading)
        probe = correct.pop(PROBE).to_numpy()
        correct = correct.join(others[reading]) if reading in others else correct
        for name, row in gains(probe, correct, held_out.groups, resamples=resamples).items():
            rows[name, metric] = row
    return rows


def headline(rows: Mapping[tuple[str, str], Mapping[str, float]]) -> dict[str, float]:
    """The metrics of a probe: top1; vs_<control>: top1 minus the control's."""
    found = {"top1": rows["probe", "top1"]}
    found |= {f"vs_{name}": rows[name, "gain"] for name in ("encoder", "flow", "untrained")}
    return {name: round(row["value"], 3) for name, row in found.items()}


def accuracy_rows(rows: Mapping[tuple[str, str], Mapping[str, float]], *, features: str) -> list[dict[str, object]]:
    """Tidy rows: features, control (`probe`, or a control's name), metric, value, low, high (the ends of the 95 %
    interval), spread (the sample deviation over seeds or draws). Metrics: top1, nearest, top5, mean_class, gain,
    nearest_gain."""
    return [
        {"features": features, "control": name, "metric": metric}
        | {key: row.get(key) for key in ("value", "low", "high", "spread")}
        for (name, metric), row in rows.items()
    ]
