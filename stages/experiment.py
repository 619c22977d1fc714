"""Stage experiment, of experiments/dvc.yaml: one named run, trained with every seed and scored on the validation
groups."""

import sys
from functools import partial
from pathlib import Path
from shutil import rmtree

from pipeline.clips.shards import RATES
from pipeline.experiments.settings import load_experiment
from pipeline.experiments.trial import every_seed, looks, run_trial, summarise
from pipeline.results import write_metrics, write_table
from pipeline.settings import ParamsError
from stages.entry import run


def main() -> None:
    if len(sys.argv) != 3:
        raise ParamsError("usage: python -m stages.experiment <model> <run of experiments/runs.yaml>")
    model, name = sys.argv[1:]
    experiment = load_experiment(model, name)
    folder = Path("runs/experiments", f"{model}_{name}")
    shards = {rate: Path("data/shards", str(rate)) for rate in RATES}
    trial = partial(run_trial, model=model, experiment=experiment, shards=shards, run=folder)
    trials = every_seed(trial, experiment, key=f"train.{model}.hardware.device")
    write_metrics(Path(f"metrics/experiments/{model}_{name}.json"), summarise(trials))
    write_table(Path(f"plots/experiments/{model}_{name}.csv"), looks(trials, horizon=experiment.train.horizon))
    rmtree(folder)


if __name__ == "__main__":
    run("experiment", main)
