"""Stage probe: a head on one choice of features, beside its controls -> video-level accuracy on the official split."""

import math
from pathlib import Path

import pandas as pd

from pipeline.hardware import stage_device
from pipeline.probe.accuracy import confusion_rows, mean_class
from pipeline.probe.classifier import ProbeConfig
from pipeline.probe.comparison import (
    PROBE,
    READINGS,
    accuracy_rows,
    compare,
    headline,
    read_choice,
    read_held_out,
)
from pipeline.probe.samples import CHOICES, read_splits
from pipeline.results import write_facts, write_metrics, write_table
from pipeline.settings import load_section
from stages.entry import matrix_item, run


def main() -> None:
    choice = matrix_item("probe", CHOICES)
    config = load_section("probe", ProbeConfig)
    features = Path("data/features")
    held_out = read_held_out(features)
    found = read_choice(config, features, choice, classes=held_out.classes, device=stage_device())
    shared = {reading: pd.read_csv(f"data/controls/{reading}.csv", index_col="video") for reading in READINGS}
    rows = compare(found, held_out, resamples=config.bootstrap, others=shared)
    write_metrics(Path(f"metrics/probe_{choice}.json"), headline(rows))
    folder, probe = Path("plots/probe", choice), found[PROBE]
    confusion = confusion_rows(probe.top1, held_out.labels, held_out.names)
    rows["probe", "mean_class"] = {"value": mean_class(confusion)}
    write_table(folder / "accuracy.csv", accuracy_rows(rows, features=choice))
    write_table(folder / "confusion.csv", confusion)
    write_table(folder / "curves.csv", probe.runs[0].rows())
    splits = read_splits(features, PROBE, choice)
    facts = {
        "dimensions": math.prod(splits.train.shape),
        "clips": splits.test.clips,
        "videos": {split: len(part.videos) for split, part in splits._asdict().items()},
        "groups": len(set(held_out.groups)),
    }
    write_facts(folder / "facts.csv", facts)
    for seed, best in zip(config.seeds, probe.runs, strict=True):
        print(f"{choice}, seed {seed}: learning rate {best.lr}, weight decay {best.weight_decay}, epoch {best.epoch}")


if __name__ == "__main__":
    run("probe", main)
