"""How much work each stage has to do, in a unit for each kind of work. How fast machines do it: machines.py.

Kinds and their units:

    decode            source frames
    train <model>     FLOP, forward and backward, of that network
    predict           FLOP of networks that only predict
    measure           pixels of predicted frames, scored against true ones
    flow              optical flows of the baselines, a frame each
    features          FLOP of the frozen networks
    heads             FLOP of the probe's heads

FLOP are those of convolutions and matrix products, 2 a multiply-add, as torch.utils.flop_counter counts them. They grow
with the pixels of a frame, so they are counted on small ones.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch

from pipeline.clips.shards import RATES
from pipeline.cost.data_set import DataSet
from pipeline.cost.disk import feature_shapes
from pipeline.cost.heads import controls_flop, counted, probe_flop
from pipeline.evaluation.baselines import BASELINES
from pipeline.evaluation.score import EvaluateConfig
from pipeline.nets.build import build_net
from pipeline.nets.rollout import predict
from pipeline.probe.classifier import ProbeConfig
from pipeline.probe.features.conditions import FeaturesConfig
from pipeline.probe.features.extract import features_of
from pipeline.settings import from_dict
from pipeline.training.config import TrainConfig
from pipeline.training.step import RolloutLoss

SIDE = 32  # pixels of the frames on which FLOP are counted


@dataclass(frozen=True)
class Work:
    stage: str
    amounts: dict[str, float]  # by kind


def work_of(tree: Mapping[str, Any], data: DataSet) -> list[Work]:
    """Of the stages in the order in which they run, fetch left out. tree: all sections of the settings. ParamsError for
    a section that does not fit, ValueError for features of whole videos, whose length is not known."""
    evaluate = from_dict(tree["evaluate"], EvaluateConfig, where="evaluate")
    features = from_dict(tree["features"], FeaturesConfig, where="features")
    probe = from_dict(tree["probe"], ProbeConfig, where="probe")
    models = {name: from_dict(node, TrainConfig, where=f"train.{name}") for name, node in tree["train"].items()}
    found = [Work("decode", {"decode": data.source_frames})]
    found += [Work(f"train@{name}", {f"train {name}": train_flop(name, each, data)}) for name, each in models.items()]
    shared: set[tuple[int, int, int]] = set()
    for name, config in models.items():
        amounts = evaluate_amounts(name, config, evaluate, data)
        if (same := (config.context, config.height, config.width)) not in shared:
            shared.add(same)
            beside = baseline_amounts(config, evaluate, data)
            amounts = {kind: amounts.get(kind, 0) + beside.get(kind, 0) for kind in amounts | beside}
        found.append(Work(f"evaluate@{name}", amounts))
    trained = models[features.model]
    shapes = feature_shapes(features, trained)
    samples = data.videos * features.clips * (2 if features.labels == "directions" else 1)
    found.append(Work("features", {"features": samples * features_flop(features, trained)}))
    found.append(Work("controls", {"heads": controls_flop(features, probe, shapes, data)}))
    for choice in features.choices:
        found.append(Work(f"probe@{choice}", {"heads": probe_flop(choice, features, probe, shapes, data)}))
    return found


def small(name: str, config: TrainConfig) -> tuple[RolloutLoss, torch.Tensor, float]:
    """The network with its loss for small frames, a clip of them, and how often their pixels go into its own frames."""
    factor = config.height * config.width / SIDE**2
    config = replace(config, height=SIDE, width=SIDE)
    net = build_net(name, config.net, height=SIDE, width=SIDE)
    clip = torch.zeros(1, config.context + config.horizon, 3, SIDE, SIDE, dtype=torch.uint8)
    return RolloutLoss(net, config), clip, factor


def step_flop(name: str, config: TrainConfig) -> float:
    """Of a training clip, forward and backward, without scheduled sampling, which feeds other frames and not more."""
    loss, clip, factor = small(name, config)
    return factor * counted(lambda: loss(clip).mean().backward())


def prediction_flop(name: str, config: TrainConfig, *, horizon: int) -> float:
    """Of the prediction of a clip."""
    loss, clip, factor = small(name, config)
    feeding = {"horizon": horizon, "clip_feedback": config.clip_feedback, "off_by_one": config.off_by_one}
    with torch.no_grad():
        return factor * counted(lambda: predict(loss.net.eval(), clip[:, : config.context] / 255, **feeding))


def train_flop(name: str, config: TrainConfig, data: DataSet) -> float:
    """Of all epochs, none stopped early, and of the validation after each, which is a third of a step a clip."""
    total, length = 0.0, config.context + config.horizon
    for phase in config.curriculum:
        cut = {"fps": phase.fps, "length": length, "spacing": config.clips.spacing}
        clips = config.clips.overfit or data.clips(config.clips.fraction * data.train, **cut)
        validation = min(config.early_stopping.validation_clips, data.clips(data.validation, **cut))
        total += phase.epochs * (clips + validation / 3)
    return total * step_flop(name, config)


def evaluate_amounts(name: str, config: TrainConfig, evaluate: EvaluateConfig, data: DataSet) -> dict[str, float]:
    """Of a model on the test split, and of each phase's weights on some clips at each rate."""
    length = config.context + evaluate.horizon
    clips = {rate: data.clips(data.test, fps=rate, length=length, spacing=evaluate.spacing) for rate in RATES}
    some = sum(min(evaluate.curriculum_clips, count) for count in clips.values()) * len(config.curriculum)
    pixels = evaluate.horizon * config.height * config.width
    flop = prediction_flop(name, config, horizon=evaluate.horizon)
    return {"predict": (clips[evaluate.fps] + some) * flop, "measure": (clips[evaluate.fps] + some) * pixels}


def baseline_amounts(config: TrainConfig, evaluate: EvaluateConfig, data: DataSet) -> dict[str, float]:
    """Of the baselines, which the models that see as many frames of the same size share: the flow back from the last
    frame of the context, and that to it from every frame ahead."""
    length = config.context + evaluate.horizon
    clips = data.clips(data.test, fps=evaluate.fps, length=length, spacing=evaluate.spacing)
    pixels = evaluate.horizon * config.height * config.width
    return {"flow": clips * (1 + evaluate.horizon), "measure": clips * len(BASELINES) * pixels}


def features_flop(config: FeaturesConfig, train: TrainConfig) -> float:
    """Of a clip under all conditions. ValueError when clips are whole videos."""
    if config.frames == 0:
        raise ValueError("features.frames: 0, whole videos, whose length is not known here; allowed: at least 1")
    net = build_net(config.model, train.net, height=SIDE, width=SIDE).eval()
    card = replace(train, height=SIDE, width=SIDE).card(config.model, {}, test_digest="")
    networks = {name: deepcopy(net) if name in config.draws else net for name in config.conditions}
    config = replace(config, token_stride=SIDE)
    frame = torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8)
    one = counted(lambda: features_of([frame], [0], config, networks, card, longest=1))
    return config.frames * one * train.height * train.width / SIDE**2
