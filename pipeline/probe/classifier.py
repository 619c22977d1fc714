"""The probe's training: a small head on frozen features (report, section 5).

It is trained on the clips of the training groups. The epoch is chosen on the validation groups, and the test list is
scored once, with the weights of that epoch. A video's score is the mean of its clips' probabilities: every accuracy is
of videos but the training one, which is of clips.

Shapes: V videos, S clips in all, K classes.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from pipeline.probe.accuracy import top_k
from pipeline.probe.heads import HeadConfig, Standardise, make_net
from pipeline.probe.samples import Samples, Splits
from pipeline.settings import Count, Natural, NotNegative, Part, Positive, section

SCORED = 256  # clips at a time, where nothing is learned
MOMENTUM = 0.9  # of SGD
# The least deviation that a dimension is divided by, as a share of the median of all. A unit that hardly ever left its
# resting value on the training clips would otherwise weigh as much as the others, and on another clip, or by another
# processor's rounding, reach hundreds of deviations.
FLOOR = 0.1


@section
class ProbeConfig:
    """Section `probe`."""

    head: HeadConfig
    dropout: Annotated[float, Field(ge=0, le=0.9)]
    standardize: bool  # features to mean 0 and deviation 1 of the training clips; less where it is below FLOOR
    optimizer: Literal["adam", "sgd"]
    schedule: Literal["constant", "cosine"]  # of the learning rate
    lr: Positive
    weight_decay: NotNegative  # decoupled from Adam's gradients
    batch: Annotated[int, Field(ge=2)]  # clips
    epochs: Count
    validate_every: Positive  # epochs, on `validation_share` of the validation videos: only a curve
    validation_share: Part
    seeds: tuple[Natural, ...]  # one run each; accuracies are their mean
    bootstrap: Count  # resamples of the groups, for 95 % intervals

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ValueError("seeds is empty; it needs at least one")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds is {list(self.seeds)}; a seed may occur once, since its runs are all the same")


@dataclass(frozen=True)
class ProbeRun:
    """One seed's result. curve: a row an epoch with training (clips) and validation (videos) top-1; sample: a row
    every `validate_every` epochs with top-1 on the share of the validation videos (report, Fig. 10); scores: of the
    test videos, (V, K); epoch: the one chosen, from 1."""

    curve: list[dict[str, float]]
    sample: list[dict[str, float]]
    scores: Tensor
    epoch: int

    def rows(self) -> list[dict[str, object]]:
        """Both curves as tidy rows: epoch, curve (train, validation, or sample), value (top-1)."""
        found = [(row["epoch"], key, row[key]) for row in self.curve for key in ("train", "validation")]
        found += [(row["epoch"], "sample", row["validation"]) for row in self.sample]
        return [{"epoch": epoch, "curve": curve, "value": value} for epoch, curve, value in found]


def run_probe(config: ProbeConfig, splits: Splits, *, classes: int, seed: int, device: torch.device) -> ProbeRun:
    """Trains one head and scores the test videos with the weights of the epoch that is best on the validation groups
    (the earliest of equals by top-1, then by loss). ValueError with fewer than two training clips."""
    train, validation, test = splits
    if len(train) < 2:
        raise ValueError(f"{len(train)} clip to train on; the probe needs at least 2: more videos, or features.clips")
    rng = np.random.default_rng(seed)
    share = max(1, round(config.validation_share * len(validation.videos)))
    sample = validation.subset(np.sort(rng.permutation(len(validation.videos))[:share]))
    with torch.random.fork_rng():  # nn's initialisation and dropout draw from the global generators
        torch.manual_seed(seed)
        head = make_net(config.head, train.shape, classes, dropout=config.dropout)
        net = nn.Sequential(Standardise(*_moments(train)), head) if config.standardize else head
        net.to(device)
        # Whole batches are as equal in size as can be: batch norm needs more than one clip in each.
        count = max(1, len(train) // config.batch)
        steps = count * config.epochs
        optimizer, schedule = _optimizer(config, net, steps=steps)
        every = min(max(1, round(config.validate_every * count)), steps)  # the last step's row at least
        curve, samples, best, weights, chosen = [], [], (-1.0, 0.0), None, 0
        for epoch in range(1, config.epochs + 1):
            correct = 0
            for i, rows in enumerate(np.array_split(rng.permutation(len(train)), count), start=1):
                correct += _step(net, optimizer, train, rows, device)
                schedule.step()
                step = (epoch - 1) * count + i
                if step % every == 0:
                    accuracy = top_k(_score(net, sample, device), sample.labels, 1)
                    samples.append({"epoch": step / count, "validation": accuracy})
            scores = _score(net, validation, device)
            if not scores.isfinite().all():
                raise ValueError(f"probe.lr: {config.lr} makes the scores infinite in epoch {epoch}; lower it")
            accuracy = top_k(scores, validation.labels, 1)
            curve.append({"epoch": epoch, "train": correct / len(train), "validation": accuracy})
            rank = (accuracy, -float(F.nll_loss(scores.clamp(min=1e-12).log(), validation.labels)))
            if rank > best:
                best, weights, chosen = rank, copy.deepcopy(net.state_dict()), epoch
        net.load_state_dict(weights)
    return ProbeRun(curve, samples, _score(net, test, device), chosen)


def _optimizer(config: ProbeConfig, net: nn.Module, *, steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
    settings = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "adam":
        optimizer = torch.optim.AdamW(net.parameters(), **settings)
    else:
        optimizer = torch.optim.SGD(net.parameters(), momentum=MOMENTUM, **settings)
    if config.schedule == "constant":
        return optimizer, LambdaLR(optimizer, lambda _: 1.0)
    return optimizer, LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))


def _step(
    net: nn.Module, optimizer: torch.optim.Optimizer, train: Samples, rows: np.ndarray, device: torch.device
) -> int:
    """One step on the clips `rows`; how many of them were classified correctly."""
    net.train()
    labels = train.labels[rows // train.clips].to(device)
    scores = net(train.take(rows).to(device))
    loss = F.cross_entropy(scores, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return int((scores.argmax(1) == labels).sum())


@torch.no_grad()
def _score(net: nn.Module, samples: Samples, device: torch.device) -> Tensor:
    """Probabilities of the videos, (V, K), on the CPU: the means of their clips'."""
    net.eval()
    found = [net(features.to(device)).softmax(1).cpu() for features in _in_order(samples)]
    return torch.cat(found).unflatten(0, (-1, samples.clips)).mean(1)


def _moments(samples: Samples) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each dimension, or of each channel of the tokens, over all clips, in one pass; the
    deviation is at least FLOOR of their median, and 1e-6 where nearly all are constant."""
    total, squares, count = 0, 0, 0
    for features in _in_order(samples):
        values = features.double().flatten(0, -2)  # (clips or tokens, dimensions)
        total, squares, count = total + values.sum(0), squares + values.square().sum(0), count + len(values)
    mean = total / count
    spread = (squares / count - mean.square()).clamp(min=0).sqrt()
    return mean.float(), spread.clamp(min=max(FLOOR * float(spread.median()), 1e-6)).float()


def _in_order(samples: Samples) -> Iterator[Tensor]:
    """All samples, at most SCORED clips at a time."""
    rows = np.arange(len(samples))
    return map(samples.take, np.split(rows, range(SCORED, len(rows), SCORED)))
