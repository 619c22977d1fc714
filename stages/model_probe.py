"""Stage model_probe, of experiments/dvc.yaml: the probe on another model than features.model, beside the untrained
network."""

from dataclasses import replace
from pathlib import Path
from shutil import rmtree

import pandas as pd

from pipeline.params import MODELS, load_section
from pipeline.probe.accuracy import chance, gains, right, summarise
from pipeline.probe.classifier import ProbeConfig, run_probe
from pipeline.probe.extract import extract_condition
from pipeline.probe.features import FeaturesConfig
from pipeline.probe.samples import read_splits, read_videos
from pipeline.results import write_metrics
from stages.entry import matrix_item, run


def main() -> None:
    model = matrix_item("model_probe", MODELS)
    features = replace(load_section("params.yaml", "features", FeaturesConfig), model=model)
    config = load_section("params.yaml", "probe", ProbeConfig)
    shards, folder = Path("data/shards", str(features.fps)), Path("runs/experiments", f"probe_{model}")
    paths = {"models": Path("models"), "shards": shards}
    for condition in ("trained", "untrained"):
        extract_condition(features, condition, **paths, out=folder / condition, work=folder / f"work_{condition}")
    videos = read_videos(folder / "trained")
    classes, tested = int(videos["label"].max()) + 1, videos[videos["split"] == "test"]
    groups = list(zip(tested["action"], tested["group"], strict=True))
    table = {}
    for choice in ("pooled", "attentive"):
        splits = {condition: read_splits(folder / condition, choice) for condition in ("trained", "untrained")}
        scores = {
            condition: [run_probe(config, found, classes=classes, seed=seed).scores for seed in config.seeds]
            for condition, found in splits.items()
        }
        train, labels = splits["trained"].train.labels, splits["trained"].test.labels
        scores["chance"] = [chance(train, len(labels), classes=classes)]
        found = {name: summarise(runs, labels, groups, resamples=config.bootstrap) for name, runs in scores.items()}
        correct = pd.DataFrame({name: right(runs, labels) for name, runs in scores.items()})
        probe = correct.pop("trained").to_numpy()
        gain = gains(probe, correct, groups, resamples=config.bootstrap)
        table[choice] = {"probe": found.pop("trained"), "controls": found, "gain": gain}
    write_metrics(Path(f"metrics/experiments/probe_{model}.json"), table)
    rmtree(folder)


if __name__ == "__main__":
    run("model_probe", main)
