"""Stage controls: what chance and the frozen encoder alone give, for every probe to be compared with."""

from itertools import accumulate, pairwise
from pathlib import Path

import pandas as pd

from pipeline.nets.encoder import TAPS
from pipeline.params import load_section
from pipeline.probe.accuracy import chance, right, summarise
from pipeline.probe.classifier import ProbeConfig, run_probe
from pipeline.probe.samples import read_splits, read_videos
from pipeline.results import write_metrics, write_table
from stages.entry import run


def main() -> None:
    config = load_section("params.yaml", "probe", ProbeConfig)
    folder = Path("data/features/trained")
    videos = read_videos(folder)
    classes, tested = int(videos["label"].max()) + 1, videos[videos["split"] == "test"]
    groups = list(zip(tested["action"], tested["group"], strict=True))
    ends = [0, *accumulate(tap.channels for tap in TAPS.values())]
    taps = {name: slice(*columns) for name, columns in zip(TAPS, pairwise(ends), strict=True)}
    scores = {}
    for name, columns in {**taps, "encoder": slice(None)}.items():
        splits = read_splits(folder, "encoder", columns=columns)
        scores[name] = [run_probe(config, splits, classes=classes, seed=seed).scores for seed in config.seeds]
    labels = splits.test.labels
    scores["chance"] = [chance(splits.train.labels, len(labels), classes=classes)]
    table = {name: summarise(runs, labels, groups, resamples=config.bootstrap) for name, runs in scores.items()}
    write_metrics(Path("metrics/controls.json"), table)
    columns = {name: right(runs, labels) for name, runs in scores.items()}
    write_table(
        Path("data/controls.csv"), pd.DataFrame({"video": tested["video"].tolist(), **columns}).to_dict("records")
    )


if __name__ == "__main__":
    run("controls", main)
