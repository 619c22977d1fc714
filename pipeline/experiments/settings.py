"""The experiments: named changes to params.yaml, kept in experiments/runs.yaml.

A run of a model is train.<model> of params.yaml with the model's `base` laid over it and then the run's own changes;
`evaluate` is laid over that section for all of them. Mappings are merged, anything else is replaced, as
`dvc exp run -S` does, so that each run is one such line too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation.score import EvaluateConfig
from pipeline.params import MODELS, ParamsError, from_dict, read_yaml
from pipeline.training.config import TrainConfig

RUNS = "experiments/runs.yaml"
BASE = "base"


@dataclass(frozen=True)
class Experiment:
    """One run. seeds: train.<model>.seed of each repetition."""

    train: TrainConfig
    evaluate: EvaluateConfig
    seeds: tuple[int, ...]


def load_experiment(model: str, run: str, *, params: str = "params.yaml", runs: str = RUNS) -> Experiment:
    """ParamsError when the run is not there, or what the changes make of a section is not valid."""
    tree, seeds = read_yaml(params), read_yaml(runs).get("seeds")
    if not (isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds)):
        raise ParamsError(f"{runs}: seeds: {seeds!r} is not allowed; allowed: a list of integers, at least 0")
    for key, value in changes(model, run, runs=runs).items():
        _set(tree, key, value, source=runs)
    return Experiment(
        from_dict(tree["train"][model], TrainConfig, where=f"train.{model}", source=f"{params} with {model} {run}"),
        from_dict(tree["evaluate"], EvaluateConfig, where="evaluate", source=f"{params} with {runs}"),
        tuple(seeds),
    )


def changes(model: str, run: str, *, runs: str = RUNS) -> dict[str, object]:
    """{dotted key of params.yaml: value} of a run, with what is laid under it; ParamsError when it is not there."""
    own, listed = own_changes(model, run, runs=runs), read_yaml(runs)
    base = _flat(listed[model].get(BASE) or {}, f"train.{model}")
    return base | own | _flat(listed.get("evaluate") or {}, "evaluate")


def own_changes(model: str, run: str, *, runs: str = RUNS) -> dict[str, object]:
    """Those of the run alone."""
    named = read_yaml(runs).get(model)
    if model not in MODELS or not isinstance(named, dict) or run not in named or run == BASE:
        known = ", ".join(" ".join(each) for each in listed_runs(runs))
        raise ParamsError(f"{runs}: there is no run {model} {run}; there are {known}")
    return _flat(named[run] or {}, f"train.{model}")


def listed_runs(runs: str = RUNS) -> list[tuple[str, str]]:
    """(model, run) in the file's order."""
    listed = read_yaml(runs)
    return [(model, run) for model in MODELS for run in listed.get(model) or () if run != BASE]


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
