"""Stage circle, of experiments/dvc.yaml: a model on the moving circle, trained with every seed and measured."""

from functools import partial
from pathlib import Path
from shutil import rmtree

from pipeline.datasets.source import SourceConfig
from pipeline.decode.plan import DecodeConfig
from pipeline.evaluation.figures import filter_sheet, prediction_sheet
from pipeline.experiments.circle import circle_shards, error_rows, run_circle, summarise
from pipeline.experiments.runs import read_circle
from pipeline.experiments.settings import load_experiment
from pipeline.experiments.trial import every_seed
from pipeline.results import write_facts, write_table
from pipeline.settings import load_section, read_params
from stages.entry import matrix_item, run


def main() -> None:
    model = matrix_item("circle", read_params()["train"])
    experiment, folder = load_experiment(read_circle(model)), Path("runs/experiments", f"circle_{model}")
    source = load_section("source", SourceConfig)
    shards = circle_shards(source, load_section("decode", DecodeConfig), folder / "data")
    trial = partial(run_circle, experiment=experiment, shards=shards, run=folder)
    trials = every_seed(trial, experiment)
    plots = Path("plots/circle", model)
    summary = summarise(trials)
    write_table(plots / "errors.csv", error_rows(summary))
    write_facts(plots / "facts.csv", {"steps": trials[0].steps, "seeds": len(trials)} | summary["data"])
    first = trials[0]
    title = f"{model} on circles held out, after {first.steps} steps"
    prediction_sheet(plots / "predictions.png", **vars(first.pictures), title=title)
    frames, before, after = first.seen
    filter_sheet(plots / "filter.png", frames=frames, before=before, after=after, title=f"{model}: {first.filter}")
    rmtree(folder)


if __name__ == "__main__":
    run("circle", main)
