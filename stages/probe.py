"""Stage probe: an MLP on one choice of features, with its controls -> video-level accuracy on the official split."""

from pathlib import Path

import pandas as pd

from pipeline.params import load_section
from pipeline.probe.classifier import CHOICES, ProbeConfig, Subset, chance, read_features, run_probe, summarise
from pipeline.results import write_metrics, write_table
from stages.entry import matrix_item, run


def main() -> None:
    choice = matrix_item("probe", CHOICES)
    config = load_section("params.yaml", "probe", ProbeConfig)
    folder = Path("data/features")
    if not (folder / "videos.csv").exists():
        raise ValueError(f"no features in {folder}; make them with: dvc repro features")
    videos = pd.read_csv(folder / "videos.csv")
    labels, classes = videos["label"].to_numpy(), int(videos["label"].max()) + 1

    runs, numbers = {}, {}
    for kind in ("encoder", choice):
        features = read_features(folder, kind)
        numbers[kind] = features.shape[1]
        splits = {
            name: Subset.of(features, labels, (videos["split"] == name).to_numpy())
            for name in ("train", "validation", "test")
        }
        runs[kind] = [run_probe(config, **splits, classes=classes, seed=seed) for seed in config.seeds]
    test = splits["test"]
    write_metrics(
        Path(f"metrics/probe_{choice}.json"),
        {
            "probe": summarise(runs[choice], test.labels) | {"features": numbers[choice]},
            "controls": {
                "encoder": summarise(runs["encoder"], test.labels),
                "chance": chance(splits["train"], test, classes=classes),
            },
            "data": {"videos": {name: len(subset.labels) for name, subset in splits.items()}},
        },
    )
    first = runs[choice][0]
    names = dict(zip(videos["label"], videos["action"], strict=True))
    pairs = zip(test.labels.tolist(), first.scores.argmax(1).tolist(), strict=True)
    write_table(Path(f"plots/probe_{choice}_accuracy.csv"), first.curve)
    write_table(
        Path(f"plots/probe_{choice}_confusion.csv"),
        [{"actual": names[actual], "predicted": names.get(guess, str(guess))} for actual, guess in pairs],
    )


if __name__ == "__main__":
    run("probe", main)
