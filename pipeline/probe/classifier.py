"""The probe: an MLP with one hidden layer on frozen features (report, section 5).

Trained on the training groups; the epoch is chosen on the validation groups; the test list is read once, with the
weights of that epoch. One feature vector a video, so every accuracy is at video level.

Shapes: N videos, F numbers a video, K classes.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, pstdev
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.device import pick_device
from pipeline.params import Above, AtLeast, Between

CHOICES = ("deepest", "subsample", "combined")


@dataclass(frozen=True)
class ProbeConfig:
    """Section `probe`."""

    hidden: Annotated[int, AtLeast(1)]  # 2000 in the report
    batch_norm: bool
    dropout: Annotated[float, Between(0, 0.9)]
    standardize: bool  # features to mean 0 and deviation 1 of the training videos
    lr: Annotated[float, Above(0)]  # of Adam
    weight_decay: Annotated[float, AtLeast(0)]
    batch: Annotated[int, AtLeast(2)]
    epochs: Annotated[int, AtLeast(1)]
    seeds: tuple[Annotated[int, AtLeast(0)], ...]  # one run each; accuracies are their mean
    device: Literal["auto", "cpu", "cuda"]

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ValueError("seeds is empty; it needs at least one")


@dataclass(frozen=True)
class Subset:
    """Features (N, F) float32 and labels (N,) int64 of one split."""

    features: Tensor
    labels: Tensor

    @classmethod
    def of(cls, features: np.ndarray, labels: np.ndarray, chosen: np.ndarray) -> "Subset":
        """The rows where `chosen` is true. ValueError when there is none."""
        if not chosen.any():
            raise ValueError("a split of the probe is empty; the lists and decode.validation_groups leave it no video")
        return cls(torch.from_numpy(features[chosen]), torch.from_numpy(labels[chosen]))

    def to(self, device: torch.device) -> "Subset":
        return Subset(self.features.to(device), self.labels.to(device))


@dataclass(frozen=True)
class ProbeRun:
    """One seed's result. curve: a row an epoch with training and validation top-1; scores: of the test videos,
    (N, K); epoch: the one chosen, from 1."""

    curve: list[dict[str, float]]
    scores: Tensor
    epoch: int


def read_features(folder: Path, choice: str) -> np.ndarray:
    """(videos, numbers) float32 of deepest, subsample, combined (both) or encoder, as features.py wrote them."""
    parts = ("deepest", "subsample") if choice == "combined" else (choice,)
    return np.concatenate([np.load(folder / f"{part}.npy") for part in parts], 1)


def top_k(scores: Tensor, labels: Tensor, k: int) -> float:
    """Share of videos whose label is among the k highest scores; with fewer than k classes, 1."""
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices  # (N, k)
    return float((best == labels[:, None]).any(1).double().mean())


def run_probe(
    config: ProbeConfig, train: Subset, validation: Subset, test: Subset, *, classes: int, seed: int
) -> ProbeRun:
    """Trains one MLP and scores the test videos with the weights of the epoch that is best on the validation
    groups (the earliest of equals by top-1, then by loss)."""
    device = pick_device(config.device, key="probe.device")
    train, validation, test = train.to(device), validation.to(device), test.to(device)
    if config.standardize:
        centre, spread = train.features.mean(0), train.features.std(0, correction=0).clamp(min=1e-6)
        train, validation, test = (
            Subset((subset.features - centre) / spread, subset.labels) for subset in (train, validation, test)
        )
    with torch.random.fork_rng():  # nn's initialisation and dropout draw from the global generators
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(train.features.shape[1], config.hidden),
            *([nn.BatchNorm1d(config.hidden)] if config.batch_norm else []),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, classes),
        ).to(device)
        optimizer = torch.optim.Adam(net.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        curve, best, weights, chosen = [], (-1.0, 0.0), None, 0
        for epoch in range(1, config.epochs + 1):
            correct = _train_epoch(net, optimizer, train, config.batch)
            guess = _score(net, validation.features)
            accuracy = top_k(guess, validation.labels, 1)
            curve.append({"epoch": epoch, "train": correct, "validation": accuracy})
            standing = (accuracy, -float(F.cross_entropy(guess, validation.labels)))
            if standing > best:
                best, weights, chosen = standing, copy.deepcopy(net.state_dict()), epoch
        net.load_state_dict(weights)
    return ProbeRun(curve, _score(net, test.features).cpu(), chosen)


def summarise(runs: Sequence[ProbeRun], labels: Tensor) -> dict[str, float]:
    """Mean over the seeds of top-1 and top-5 on the test videos, top-1's spread (population deviation)."""
    top1 = [top_k(run.scores, labels, 1) for run in runs]
    top5 = [top_k(run.scores, labels, 5) for run in runs]
    return {"top1": round(mean(top1), 6), "top1_std": round(pstdev(top1), 6), "top5": round(mean(top5), 6)}


def chance(train: Subset, test: Subset, *, classes: int) -> dict[str, float]:
    """Accuracy of always naming the classes that are most frequent in training."""
    counts = torch.bincount(train.labels, minlength=classes).double().expand(len(test.labels), -1)
    return {f"top{k}": round(top_k(counts, test.labels, k), 6) for k in (1, 5)}


def _train_epoch(net: nn.Module, optimizer: torch.optim.Optimizer, train: Subset, batch: int) -> float:
    net.train()
    correct = 0
    # Whole batches are as equal in size as can be: batch norm needs more than one video in each.
    for rows in torch.randperm(len(train.labels)).tensor_split(max(1, len(train.labels) // batch)):
        scores = net(train.features[rows])
        loss = F.cross_entropy(scores, train.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        correct += int((scores.argmax(1) == train.labels[rows]).sum())
    return correct / len(train.labels)


@torch.no_grad()
def _score(net: nn.Module, features: Tensor) -> Tensor:
    net.eval()
    return net(features)
