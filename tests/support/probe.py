"""Settings of a probe that is trained in a moment, and features for it."""

from dataclasses import replace

import numpy as np
import torch

from pipeline.probe.accuracy import top_k
from pipeline.probe.classifier import ProbeConfig, ProbeRun, run_probe
from pipeline.probe.heads import HeadConfig
from pipeline.probe.samples import Samples, Splits
from tests.support.evaluation import CPU

CONFIG = ProbeConfig(
    head=HeadConfig(kind="mlp", hidden=32, batch_norm=True, attentive_width=16),
    dropout=0.3,
    standardize=True,
    schedule="constant",
    lr=(0.01,),
    weight_decay=(0.0,),
    batch=16,
    epochs=15,
    validate_every=0.03,
    validation_share=0.05,
    seeds=(0, 1),
    bootstrap=200,
)


def split_of(values: np.ndarray, labels: np.ndarray, *, clips: int = 1) -> Samples:
    """values: (videos · clips, …), a video's clips side by side."""
    return Samples((values.astype(np.float32),), slice(None), np.arange(len(labels)), torch.from_numpy(labels), clips)


def blobs(n: int, *, spread: float, classes: int = 4, clips: int = 1) -> Splits:
    """Gaussian clouds around class centres of very different scale."""
    scale = np.array([100, 10, 1, 1, 0.1, 1])
    centres = np.random.default_rng(99).normal(size=(classes, 6)) * scale
    labels = np.arange(n) % classes
    found = []
    for seed in range(3):
        noise = spread * np.random.default_rng(seed).normal(size=(n * clips, 6)) * scale
        found.append(split_of(centres[labels].repeat(clips, 0) + noise, labels, clips=clips))
    return Splits(*found)


def probe(splits: Splits, *, seed: int = 0, **changes: object) -> ProbeRun:
    """One seed's run on features of four classes."""
    (run,) = run_probe(replace(CONFIG, **changes), splits, classes=4, seeds=[seed], device=CPU, sampled=True)
    return run


def accuracy(splits: Splits, **changes: object) -> float:
    return top_k(probe(splits, **changes).scores, splits.test.labels, 1)
