"""What a run trains with: params.yaml with the changes that experiments/runs.yaml names (runs.py)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from pipeline.evaluation.score import EvaluateConfig
from pipeline.experiments.runs import Run
from pipeline.hardware import HardwareConfig
from pipeline.settings import ParamsError, from_dict, overlay, read_params
from pipeline.training.config import Phase, TrainConfig


@dataclass(frozen=True)
class Experiment:
    """The settings of one run; every phase of its curriculum ends with a look. seeds: train.<model>.seed of each
    repetition."""

    model: str
    train: TrainConfig
    evaluate: EvaluateConfig
    hardware: HardwareConfig
    seeds: tuple[int, ...]


def load_experiment(run: Run, *, params: str = "params.yaml") -> Experiment:
    """ParamsError when what the changes make of a section is not valid."""
    tree, model = read_params(params), run.model
    if model not in tree["train"]:
        raise ParamsError(f"{params}: train.{model} is missing")
    overlay(tree["train"][model], run.changes)
    source = f"{params} with {model} {run.name}"
    train = from_dict(tree["train"][model], TrainConfig, where=f"train.{model}", source=source)
    if train.early_stopping.patience:
        # Runs are scored where a phase ends, and compared after as many steps.
        raise ParamsError(f"{source}: train.{model}.early_stopping.patience must be 0 in an experiment")
    if run.looks:
        try:
            train = replace(train, curriculum=with_looks(train.curriculum, run.looks))
        except ValueError as error:
            raise ParamsError(f"{source}: {error}") from error
    evaluate = from_dict(tree["evaluate"], EvaluateConfig, where="evaluate", source=params)
    hardware = from_dict(tree["hardware"], HardwareConfig, where="hardware", source=params)
    return Experiment(model, train, evaluate, hardware, run.seeds)


def with_looks(curriculum: Sequence[Phase], looks: int) -> tuple[Phase, ...]:
    """The same curriculum in as many phases as looks. The last phase, in which the learning rate falls, stays whole;
    the epochs before it are cut into equal parts, or the first ones an epoch longer. ValueError when a part would have
    two frame rates, or none."""
    *before, last = curriculum
    rates = [phase.fps for phase in before for _ in range(phase.epochs)]
    parts = np.array_split(rates, max(1, looks - 1))
    phases = [Phase(fps=int(fps), epochs=len(list(same))) for part in parts for fps, same in groupby(part)]
    if len(phases) != looks - 1:
        raise ValueError(
            f"looks: {looks} does not go with this curriculum: the epochs before its last phase, {len(rates)}, "
            f"cannot be cut into {looks - 1} parts of one frame rate each"
        )
    return (*phases, last)
