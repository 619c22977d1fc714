"""Stage experiment, of experiments/dvc.yaml: one named run, trained with every seed and scored on the validation
groups."""

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from shutil import rmtree

import torch

from pipeline.device import pick_device
from pipeline.experiments.settings import load_experiment
from pipeline.experiments.trial import looks, run_trial, summarise
from pipeline.params import ParamsError
from pipeline.results import write_metrics, write_table
from pipeline.video.shards import RATES
from stages.entry import run


def main() -> None:
    if len(sys.argv) != 3:
        raise ParamsError("usage: python -m stages.experiment <model> <run of experiments/runs.yaml>")
    model, name = sys.argv[1:]
    experiment = load_experiment(model, name)
    folder = Path("runs/experiments", f"{model}_{name}")
    shards = {rate: Path("data/shards", str(rate)) for rate in RATES}
    trial = partial(run_trial, model=model, experiment=experiment, shards=shards, run=folder)
    device = pick_device(experiment.train.hardware.device, key=f"train.{model}.hardware.device")
    # On CPUs a trial each: with threads of their own they would wait for one another.
    together = 1 if device.type == "cuda" else min(len(experiment.seeds), len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(together, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        trials = list(pool.map(trial, experiment.seeds))
    write_metrics(Path(f"metrics/experiments/{model}_{name}.json"), summarise(trials))
    write_table(Path(f"plots/experiments/{model}_{name}.csv"), looks(trials, horizon=experiment.train.horizon))
    rmtree(folder)


if __name__ == "__main__":
    run("experiment", main)
