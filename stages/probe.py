"""Stage probe: a head on one choice of features, beside its controls -> video-level accuracy on the official split."""

import json
import math
from pathlib import Path

import pandas as pd

from pipeline.params import load_section
from pipeline.probe.accuracy import by_class, gains, right, summarise
from pipeline.probe.classifier import ProbeConfig, run_probe
from pipeline.probe.samples import CHOICES, CONDITIONS, read_splits, read_videos
from pipeline.results import write_metrics, write_table
from stages.entry import matrix_item, run


def main() -> None:
    choice = matrix_item("probe", CHOICES)
    config = load_section("params.yaml", "probe", ProbeConfig)
    videos = read_videos(Path("data/features/trained"))
    classes, tested = int(videos["label"].max()) + 1, videos[videos["split"] == "test"]
    groups = list(zip(tested["action"], tested["group"], strict=True))
    runs = {}
    for condition in CONDITIONS:
        splits = read_splits(Path("data/features", condition), choice)
        runs[condition] = [run_probe(config, splits, classes=classes, seed=seed) for seed in config.seeds]
    labels, scores = splits.test.labels, {name: [run.scores for run in found] for name, found in runs.items()}
    tables = {name: summarise(s, labels, groups, resamples=config.bootstrap) for name, s in scores.items()}
    correct = pd.read_csv("data/controls.csv", index_col="video").loc[tested["video"]]
    correct = correct.assign(**{name: right(s, labels) for name, s in scores.items()})
    names = dict(zip(videos["label"], videos["action"], strict=True))
    write_metrics(
        Path(f"metrics/probe_{choice}.json"),
        {
            "probe": tables.pop("trained") | by_class(scores["trained"], labels, names),
            "controls": json.loads(Path("metrics/controls.json").read_text()) | tables,
            "gain": gains(correct.pop("trained").to_numpy(), correct, groups, resamples=config.bootstrap),
            "data": {
                "numbers": math.prod(splits.train.shape),
                "clips": splits.test.clips,
                "groups": len(set(groups)),
                "videos": videos["split"].value_counts().to_dict(),
            },
        },
    )
    first = runs["trained"][0]
    write_table(Path(f"plots/probe_{choice}_accuracy.csv"), first.curve)
    write_table(Path(f"plots/probe_{choice}_sample.csv"), first.sample)
    pairs = zip(tested["action"], first.scores.argmax(1).tolist(), strict=True)
    confusion = [{"actual": actual, "predicted": names.get(guess, str(guess))} for actual, guess in pairs]
    write_table(Path(f"plots/probe_{choice}_confusion.csv"), confusion)


if __name__ == "__main__":
    run("probe", main)
