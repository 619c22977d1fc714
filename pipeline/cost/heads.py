"""The work of the probe's heads: how many samples they see, and the FLOP of each."""

from collections.abc import Callable, Mapping

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.cost.data_set import DataSet
from pipeline.nets.encoder import TAPS
from pipeline.probe.classifier import ProbeConfig
from pipeline.probe.features.conditions import FeaturesConfig
from pipeline.probe.heads import make_net
from pipeline.probe.samples import PARTS

CONTROLS = {"encoder": 1 + len(TAPS), "flow": 2, "flow_pooled": 1}  # how often controls.py trains on each, or on part


def counted(work: Callable[[], object]) -> int:
    """FLOP of it."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def head_flop(probe: ProbeConfig, shape: tuple[int, ...], classes: int) -> int:
    """Of a sample of this shape, forward."""
    net = make_net(probe.head, shape, classes, dropout=0.0).eval()
    return counted(lambda: net(torch.zeros(1, *shape)))


def passes(config: ProbeConfig, data: DataSet, features: FeaturesConfig, *, times: int | None) -> tuple[float, float]:
    """Samples that heads learn from and that they are only scored on, all heads and epochs together: those of every
    seed under three conditions, and those of one seed on each draw of an untrained network; or, of a control, those of
    every seed, so many times. Every epoch the validation samples are scored, and a share of them often, for the probe's
    curve."""
    directions = features.clips * (2 if features.labels == "directions" else 1)
    train, validation, test = (videos * directions for videos in (data.train, data.validation, data.test))
    pairs = len(config.lr) * len(config.weight_decay)
    every_seed = len(config.seeds) * pairs
    count = every_seed * times if times else 3 * every_seed + features.untrained * pairs
    scored = count * (config.epochs * validation + test)
    if not times:
        scored += every_seed * config.epochs / config.validate_every * config.validation_share * validation
    return count * config.epochs * train, scored


def probe_flop(
    choice: str,
    features: FeaturesConfig,
    probe: ProbeConfig,
    shapes: Mapping[str, tuple[int, ...]],
    data: DataSet,
) -> float:
    """Of all heads on a choice of features. Learning takes three times the FLOP of a score."""
    parts = [shapes[f"trained/{part}"] for part in PARTS.get(choice, (choice,))]
    shape = (*parts[0][:-1], sum(part[-1] for part in parts))
    return _flop(probe, shape, features, data, times=None)


def controls_flop(
    features: FeaturesConfig, probe: ProbeConfig, shapes: Mapping[str, tuple[int, ...]], data: DataSet
) -> float:
    """Of the heads on the encoder's taps and on the flow, at most: those on a part of it count as those on all."""
    return sum(_flop(probe, shapes[f"memoryless/{name}"], features, data, times=n) for name, n in CONTROLS.items())


def _flop(
    probe: ProbeConfig, shape: tuple[int, ...], features: FeaturesConfig, data: DataSet, *, times: int | None
) -> float:
    learned, scored = passes(probe, data, features, times=times)
    return (3 * learned + scored) * head_flop(probe, shape, data.classes)
