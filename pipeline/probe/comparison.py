"""The probe beside its controls: every seed on the features of each, and all of them on the same test videos.

Shapes: V test videos, K classes; scores (V, K), a run (seed) each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from pipeline.probe.accuracy import Group, fraction_correct, gains, summarise
from pipeline.probe.classifier import ProbeConfig, ProbeRun, run_probe
from pipeline.probe.samples import Splits, read_videos

PROBE = "trained"  # the features in question; those of all other names are controls


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


def read_held_out(folder: Path) -> HeldOut:
    """Of a folder that the stage features made."""
    videos = read_videos(folder)
    test = videos[videos["split"] == "test"]
    groups = list(zip(test["action"], test["group"], strict=True))
    names = dict(zip(videos["label"], videos["action"], strict=True))
    return HeldOut(test["video"].tolist(), groups, torch.from_numpy(test["label"].to_numpy(copy=True)), names)


def run_seeds(
    config: ProbeConfig, features: Mapping[str, Splits], *, classes: int, device: torch.device
) -> dict[str, list[ProbeRun]]:
    """A run of every seed on each of the named features."""
    return {
        name: [run_probe(config, splits, classes=classes, seed=seed, device=device) for seed in config.seeds]
        for name, splits in features.items()
    }


def correct_by_video(scores: Mapping[str, Sequence[Tensor]], held_out: HeldOut) -> pd.DataFrame:
    """A row a test video, a column a name: in which share of its runs the video's class was predicted."""
    columns = {name: fraction_correct(runs, held_out.labels) for name, runs in scores.items()}
    return pd.DataFrame(columns, index=pd.Index(held_out.videos, name="video"))


def summaries(
    scores: Mapping[str, Sequence[Tensor]], held_out: HeldOut, *, resamples: int
) -> dict[str, dict[str, float]]:
    """A summary of every name's runs."""
    return {
        name: summarise(runs, held_out.labels, held_out.groups, resamples=resamples) for name, runs in scores.items()
    }


def compare(
    scores: Mapping[str, Sequence[Tensor]], held_out: HeldOut, *, resamples: int, others: pd.DataFrame | None = None
) -> dict[str, dict]:
    """probe: the summary of PROBE; controls: of every other name; gain: PROBE over each of them, and over each column
    of `others`, which are further controls' correct_by_video."""
    controls = summaries(scores, held_out, resamples=resamples)
    correct = correct_by_video(scores, held_out)
    probe = correct.pop(PROBE).to_numpy()
    if others is not None:
        correct = correct.join(others)
    gain = gains(probe, correct, held_out.groups, resamples=resamples)
    return {"probe": controls.pop(PROBE), "controls": controls, "gain": gain}


def headline(table: Mapping[str, dict]) -> dict[str, float]:
    """The metrics of a probe: top1; vs_encoder and vs_untrained: top1 minus that of these controls."""
    found = {"top1": table["probe"]} | {f"vs_{name}": table["gain"][name] for name in ("encoder", "untrained")}
    return {name: round(row["top1"], 3) for name, row in found.items()}


def accuracy_rows(
    found: Mapping[str, Mapping[str, float]], gain: Mapping[str, Mapping[str, float]] | None = None, *, features: str
) -> list[dict[str, object]]:
    """Tidy rows: features, control (`probe`, or a control's name), metric, value, low, high (the ends of the 95 %
    interval), spread (the sample deviation over the seeds). found: summaries, whose metrics are top1, top5 and, if it
    is there, mean_class. gain: of `compare`; its metric is `gain`, top1 of the probe minus that of the control."""
    rows = [(name, metric, metric, row) for name, row in found.items() for metric in ("top1", "top5", "mean_class")]
    rows += [(name, "gain", "top1", row) for name, row in (gain or {}).items()]
    return [
        {"features": features, "control": name, "metric": metric, "value": row[key]}
        | {"low": row.get(f"{key}_low"), "high": row.get(f"{key}_high"), "spread": row.get(f"{key}_spread")}
        for name, metric, key, row in rows
        if key in row
    ]
