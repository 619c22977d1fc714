"""The experiments: named changes to params.yaml, kept in experiments/runs.yaml.

A run of a model is train.<model> of params.yaml with the model's `base` laid over it and then the run's own changes.
Mappings are merged, anything else is replaced, as `dvc exp run -S` does, so that each run is one such line too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation.score import EvaluateConfig
from pipeline.settings import MODELS, ParamsError, from_dict, read_yaml
from pipeline.training.config import TrainConfig

RUNS = "experiments/runs.yaml"
BASE, SEEDS = "base", "seeds"


@dataclass(frozen=True)
class Experiment:
    """One run. seeds: train.<model>.seed of each repetition."""

    train: TrainConfig
    evaluate: EvaluateConfig
    seeds: tuple[int, ...]


def load_experiment(model: str, run: str, *, params: str = "params.yaml", runs: str = RUNS) -> Experiment:
    """ParamsError when the run is not there, or what the changes make of a section is not valid."""
    tree = read_yaml(params)
    for key, value in changes(model, run, runs=runs).items():
        _set(tree, key, value, source=runs)
    source = f"{params} with {model} {run}"
    train = from_dict(tree["train"][model], TrainConfig, where=f"train.{model}", source=source)
    if train.early_stopping.patience:
        # Runs are looked at where a phase ends, and compared after as many steps.
        raise ParamsError(f"{source}: train.{model}.early_stopping.patience must be 0 in an experiment")
    evaluate = from_dict(tree["evaluate"], EvaluateConfig, where="evaluate", source=params)
    return Experiment(train, evaluate, tuple(_listed(runs)["seeds"]))


def changes(model: str, run: str, *, runs: str = RUNS) -> dict[str, object]:
    """{dotted key of params.yaml: value} of a run, with what is laid under it; ParamsError when it is not there."""
    own = own_changes(model, run, runs=runs)
    return _flat(_listed(runs)[model].get(BASE, {}), f"train.{model}") | own


def own_changes(model: str, run: str, *, runs: str = RUNS) -> dict[str, object]:
    """Those of the run alone."""
    if (model, run) not in listed_runs(runs):
        known = ", ".join(" ".join(each) for each in listed_runs(runs))
        raise ParamsError(f"{runs}: there is no run {model} {run}; there are {known}")
    return _flat(_listed(runs)[model][run], f"train.{model}")


def listed_runs(runs: str = RUNS) -> list[tuple[str, str]]:
    """(model, run) in the file's order."""
    listed = _listed(runs)
    return [(model, run) for model in listed if model != SEEDS for run in listed[model] if run != BASE]


def _listed(runs: str) -> dict[str, Any]:
    """The file; ParamsError unless it is {seeds: [...], model: {run: {key: change}}}."""
    listed = read_yaml(runs)
    seeds = listed.get(SEEDS)
    if not (isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds)):
        raise ParamsError(f"{runs}: seeds: {seeds!r} is not allowed; allowed: a list of integers, at least 0")
    if len(set(seeds)) < len(seeds):
        raise ParamsError(f"{runs}: seeds: {seeds!r} names one twice")
    models = {model: named for model, named in listed.items() if model != SEEDS}
    for model, named in models.items():
        if model not in MODELS:
            raise ParamsError(f"{runs}: {model} is not allowed; allowed: {SEEDS}, {', '.join(MODELS)}")
        if not (isinstance(named, dict) and all(isinstance(own, dict) for own in named.values())):
            raise ParamsError(f"{runs}: {model} is not a mapping of runs, each a mapping of changes ({{}}: none)")
    return listed


def _flat(node: Mapping[str, Any], where: str) -> dict[str, object]:
    """{dotted key: value that is no mapping}"""
    found: dict[str, object] = {}
    for key, value in node.items():
        found |= _flat(value, f"{where}.{key}") if isinstance(value, dict) else {f"{where}.{key}": value}
    return found


def _set(tree: dict[str, Any], key: str, value: object, *, source: str) -> None:
    *path, last = key.split(".")
    for name in path:
        tree = tree.get(name) if isinstance(tree, dict) else None
    if not isinstance(tree, dict) or last not in tree:
        raise ParamsError(f"{source}: {key} is not a key of params.yaml")
    tree[last] = value
