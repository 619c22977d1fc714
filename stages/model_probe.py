"""Stage model_probe, of experiments/dvc.yaml: the probe on another model than features.model, beside the untrained
network."""

from dataclasses import replace
from pathlib import Path
from shutil import rmtree

from pipeline.hardware import stage_device
from pipeline.probe.accuracy import chance
from pipeline.probe.classifier import ProbeConfig
from pipeline.probe.comparison import accuracy_rows, compare, read_held_out, run_seeds
from pipeline.probe.features.extract import extract_condition
from pipeline.probe.features.states import FeaturesConfig
from pipeline.probe.samples import read_splits
from pipeline.results import write_table
from pipeline.settings import load_section, read_params
from stages.entry import matrix_item, run


def main() -> None:
    model = matrix_item("model_probe", read_params()["train"])
    settings = replace(load_section("features", FeaturesConfig), model=model)
    config = load_section("probe", ProbeConfig)
    device = stage_device()
    shards, folder = Path("data/shards", str(settings.fps)), Path("runs/experiments", f"probe_{model}")
    paths = {"models": Path("models"), "shards": shards, "device": device}
    for condition in ("trained", "untrained"):
        extract_condition(settings, condition, **paths, out=folder / condition, work=folder / f"work_{condition}")
    held_out = read_held_out(folder / "trained")
    rows = []
    for choice in ("pooled", "attentive"):
        features = {condition: read_splits(folder / condition, choice) for condition in ("trained", "untrained")}
        runs = run_seeds(config, features, classes=held_out.classes, device=device)
        scores = {name: [run.scores for run in found] for name, found in runs.items()}
        scores["chance"] = [chance(features["trained"].train.labels, len(held_out.videos), classes=held_out.classes)]
        found = compare(scores, held_out, resamples=config.bootstrap)
        rows += accuracy_rows({"probe": found["probe"], **found["controls"]}, found["gain"], features=choice)
    write_table(Path(f"plots/model_probe/{model}.csv"), rows)
    rmtree(folder)


if __name__ == "__main__":
    run("model_probe", main)
