"""Stage experiment, of experiments/dvc.yaml: the runs of a model, each trained with every seed and scored on the
validation groups. A finished run is kept in runs/experiments/ and not trained again until something that it depends on
changes.

python -m stages.experiment MODEL         what the stage does
python -m stages.experiment MODEL RUN     trains one run, if it is not finished, and shows its scores
"""

import sys
from pathlib import Path
from shutil import rmtree

import pandas as pd

from pipeline.clips.shards import RATES
from pipeline.experiments.runs import read_run, read_runs
from pipeline.experiments.settings import load_experiment
from pipeline.experiments.trial import PREDICTORS, score_rows, scores_of, training_row
from pipeline.results import write_table
from stages.entry import run


def main() -> None:
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python -m stages.experiment <model> [<run of experiments/runs.yaml>]")
    model, *one = sys.argv[1:]
    runs = {name: read_run(model, name) for name in one} or read_runs(model)
    experiments = {name: load_experiment(each) for name, each in runs.items()}  # what is not valid is found before all
    folder, shards = Path("runs/experiments", model), {rate: Path("data/shards", str(rate)) for rate in RATES}
    found = {name: scores_of(name, experiment, shards, folder) for name, experiment in experiments.items()}
    if one:
        rows = {(name, metric): row for name in PREDICTORS for metric, row in found[one[0]]["scores"][name].items()}
        print(pd.DataFrame(rows).T.to_string())
        return
    plots = Path("plots/experiments", model)
    rmtree(plots, ignore_errors=True)
    write_table(plots / "scores.csv", [row for name, each in found.items() for row in score_rows(name, each["scores"])])
    write_table(plots / "training.csv", [training_row(name, each["scores"]) for name, each in found.items()])
    for name, each in found.items():
        write_table(plots / "looks" / f"{name}.csv", each["looks"])


if __name__ == "__main__":
    run("experiment", main)
