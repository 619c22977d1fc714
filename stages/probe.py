"""Stage probe: a head on one choice of features, beside its controls -> video-level accuracy on the official split."""

import json
import math
from pathlib import Path

import pandas as pd

from pipeline.hardware import stage_device
from pipeline.probe.accuracy import by_class
from pipeline.probe.classifier import ProbeConfig
from pipeline.probe.comparison import compare, read_held_out, run_seeds
from pipeline.probe.samples import CHOICES, CONDITIONS, read_splits
from pipeline.results import write_metrics, write_table
from pipeline.settings import load_section
from stages.entry import matrix_item, run


def main() -> None:
    choice = matrix_item("probe", CHOICES)
    config = load_section("probe", ProbeConfig)
    device = stage_device()
    held_out = read_held_out(Path("data/features/trained"))
    features = {condition: read_splits(Path("data/features", condition), choice) for condition in CONDITIONS}
    runs = run_seeds(config, features, classes=held_out.classes, device=device)
    scores = {name: [run.scores for run in found] for name, found in runs.items()}
    shared = pd.read_csv("data/controls.csv", index_col="video").loc[held_out.videos]
    table = compare(scores, held_out, resamples=config.bootstrap, others=shared)
    table["probe"] |= by_class(scores["trained"], held_out.labels, held_out.names)
    table["controls"] |= json.loads(Path("metrics/controls.json").read_text())
    table["data"] = {
        "dimensions": math.prod(features["trained"].train.shape),
        "clips": features["trained"].test.clips,
        "groups": len(set(held_out.groups)),
        "videos": {split: len(part.videos) for split, part in features["trained"]._asdict().items()},
    }
    write_metrics(Path(f"metrics/probe_{choice}.json"), table)
    first = runs["trained"][0]
    write_table(Path(f"plots/probe_{choice}_accuracy.csv"), first.curve)
    write_table(Path(f"plots/probe_{choice}_sample.csv"), first.sample)
    pairs = zip(held_out.labels.tolist(), first.scores.argmax(1).tolist(), strict=True)
    confusion = [{"actual": held_out.names[k], "predicted": held_out.names.get(j, str(j))} for k, j in pairs]
    write_table(Path(f"plots/probe_{choice}_confusion.csv"), confusion)


if __name__ == "__main__":
    run("probe", main)
