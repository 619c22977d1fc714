"""Stage pretraining, of experiments/dvc.yaml: a model of experiments/runs.yaml, trained, and probed where each phase of
its curriculum ends."""

from dataclasses import replace
from pathlib import Path
from shutil import rmtree

from pipeline.clips.shards import RATES
from pipeline.datasets.source import SourceConfig
from pipeline.decode.plan import DecodeConfig
from pipeline.experiments.data import make_shards
from pipeline.experiments.pretraining import run_pretraining
from pipeline.experiments.runs import RUNS, read_pretraining
from pipeline.experiments.settings import load_experiment
from pipeline.probe.classifier import ProbeConfig
from pipeline.probe.features.conditions import FeaturesConfig
from pipeline.results import write_table
from pipeline.settings import from_dict, load_section, overlay, read_params, read_yaml
from stages.entry import matrix_item, run

VALIDATION_GROUPS = (22, 23, 24, 25)  # of a data set of its own: in no test list


def main() -> None:
    name = matrix_item("pretraining", read_yaml(RUNS)["pretraining"])
    pretraining, entry = read_pretraining(name)
    experiment = load_experiment(pretraining)
    tree = read_params()
    overlay(tree, {"features": {"model": experiment.model} | entry.features, "probe": entry.probe})
    source = f"params.yaml with pretraining {name}"
    features = from_dict(tree["features"], FeaturesConfig, where="features", source=source)
    probe = from_dict(tree["probe"], ProbeConfig, where="probe", source=source)
    folder = Path("runs/experiments", f"pretraining_{name}")
    if entry.source is None:
        shards = {rate: Path("data/shards", str(rate)) for rate in RATES}
    else:
        own = replace(load_section("source", SourceConfig), kind=entry.source)
        decode = replace(load_section("decode", DecodeConfig), split=1, validation_groups=VALIDATION_GROUPS)
        shards = make_shards(own, decode, folder / "data")
    found = run_pretraining(experiment, features, probe, shards, folder=folder / "training")
    plots = Path("plots/pretraining", name)
    write_table(plots / "accuracy.csv", found.accuracy)
    write_table(plots / "steps.csv", found.steps)
    rmtree(folder)


if __name__ == "__main__":
    run("pretraining", main)
