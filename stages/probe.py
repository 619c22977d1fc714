"""Stage probe: a head on one choice of features, beside its controls -> video-level accuracy on the official split."""

import math
from pathlib import Path

import pandas as pd

from pipeline.hardware import stage_device
from pipeline.probe.accuracy import confusion_rows, mean_class
from pipeline.probe.classifier import ProbeConfig
from pipeline.probe.comparison import accuracy_rows, compare, headline, read_held_out, run_seeds
from pipeline.probe.samples import CHOICES, CONDITIONS, read_splits
from pipeline.results import write_facts, write_metrics, write_table
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
    write_metrics(Path(f"metrics/probe_{choice}.json"), headline(table))
    folder = Path("plots/probe", choice)
    confusion = confusion_rows(scores["trained"], held_out.labels, held_out.names)
    own = {"probe": table["probe"] | {"mean_class": mean_class(confusion)}, **table["controls"]}
    write_table(folder / "accuracy.csv", accuracy_rows(own, table["gain"], features=choice))
    write_table(folder / "confusion.csv", confusion)
    write_table(folder / "curves.csv", runs["trained"][0].rows())
    facts = {
        "dimensions": math.prod(features["trained"].train.shape),
        "clips": features["trained"].test.clips,
        "videos": {split: len(part.videos) for split, part in features["trained"]._asdict().items()},
        "groups": len(set(held_out.groups)),
    }
    write_facts(folder / "facts.csv", facts)


if __name__ == "__main__":
    run("probe", main)
