"""The experiments: named changes to params.yaml, kept in experiments/runs.yaml.

A run of a model is train.<model> of params.yaml with the model's `base` laid over it and then the run's own changes.
Mappings are merged, anything else is replaced, as `dvc exp run -S` does, so that each run is one such line too.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.settings import Count, Natural, ParamsError, from_dict, overlay, read_yaml, section

RUNS = "experiments/runs.yaml"
BASE, LOOKS = "base", "looks"


@section
class PretrainingEntry:
    """An entry of `pretraining`: changes to train.<model> and to the sections features and probe, and source.kind, if
    it is another."""

    model: str
    train: dict
    features: dict
    probe: dict
    source: Literal["orders"] | None


@dataclass(frozen=True)
class Run:
    """One named run. own: its own changes; changes: those with the model's base under them; looks: how often it is
    scored as it trains, or None: where a phase ends; seeds: train.<model>.seed of each repetition."""

    model: str
    name: str
    own: dict[str, Any]
    changes: dict[str, Any]
    looks: int | None
    seeds: tuple[int, ...]


def read_runs(model: str, *, file: str = RUNS) -> dict[str, Run]:
    """The runs of a model by name; ParamsError when there are none, or the file is not as it must be."""
    tree, seeds = _read(file)
    if model not in tree["runs"]:
        raise ParamsError(f"{file}: runs.{model} is missing; there are {', '.join(tree['runs'])}")
    named = tree["runs"][model]
    base = named.pop(BASE, {})
    return {name: _run(model, name, base, own, seeds, file) for name, own in named.items()}


def read_run(model: str, name: str, *, file: str = RUNS) -> Run:
    """One of them; ParamsError when it is not there."""
    runs = read_runs(model, file=file)
    if name not in runs:
        raise ParamsError(f"{file}: runs.{model}.{name} is missing; there are {', '.join(runs)}")
    return runs[name]


def read_circle(model: str, *, file: str = RUNS) -> Run:
    """What a model is trained with on the moving circle."""
    tree, seeds = _read(file)
    if model not in tree["circle"]:
        raise ParamsError(f"{file}: circle.{model} is missing; there are {', '.join(tree['circle'])}")
    return _run(model, "circle", {}, tree["circle"][model], seeds, file)


def read_pretraining(name: str, *, file: str = RUNS) -> tuple[Run, PretrainingEntry]:
    """What a model is pretrained with to be probed, and the whole entry. ParamsError when there is none of that
    name."""
    tree, seeds = _read(file)
    if name not in tree["pretraining"]:
        raise ParamsError(f"{file}: pretraining.{name} is missing; there are {', '.join(tree['pretraining'])}")
    entry = from_dict(tree["pretraining"][name], PretrainingEntry, where=f"pretraining.{name}", source=file)
    return _run(entry.model, name, {}, entry.train, seeds, file), entry


def listed(*, file: str = RUNS) -> list[tuple[str, str]]:
    """(model, name) of every run, in the file's order."""
    tree, _ = _read(file)
    return [(model, name) for model, named in tree["runs"].items() for name in named if name != BASE]


def dotted(changes: Mapping[str, Any], where: str) -> dict[str, object]:
    """{dotted key of params.yaml: value that is no mapping}"""
    found: dict[str, object] = {}
    for key, value in changes.items():
        found |= dotted(value, f"{where}.{key}") if isinstance(value, dict) else {f"{where}.{key}": value}
    return found


def _run(model: str, name: str, base: dict, own: dict, seeds: tuple[int, ...], file: str) -> Run:
    changes = deepcopy(base)
    overlay(changes, own)
    looks = changes.pop(LOOKS, None)
    if looks is not None:
        from_dict(looks, Count, where=f"runs.{model}.{name}.{LOOKS}", source=file)
    return Run(model, name, {key: value for key, value in own.items() if key != LOOKS}, changes, looks, seeds)


def _read(file: str) -> tuple[dict[str, Any], tuple[int, ...]]:
    """All of the file, and its seeds; ParamsError unless each part is of the form that it must have."""
    tree = read_yaml(file)
    kinds = {"seeds": tuple[Natural, ...], "runs": dict[str, dict[str, dict]]}
    kinds |= {"circle": dict[str, dict], "pretraining": dict[str, dict]}
    for key, kind in kinds.items():
        from_dict(tree.get(key), kind, where=key, source=file)
    seeds = tree["seeds"]
    if not seeds or len(set(seeds)) < len(seeds):
        raise ParamsError(f"{file}: seeds: {seeds!r} is not allowed; allowed: a list of different integers")
    return tree, tuple(seeds)
