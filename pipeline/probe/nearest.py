"""The nearest neighbour, with which nothing is trained: a test video gets the label of the training video whose
features are most alike by cosine (k = 1, as Han et al., "Self-supervised Co-training for Video Representation
Learning" (CoCLR), 2020, report it).

A video's features are the means of its clips', flattened; each dimension less its mean over the training videos, since
features that are never negative are all alike. Shapes: V videos, D dimensions, K classes.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.probe.classifier import SCORED
from pipeline.probe.samples import Samples, Splits


def nearest(parts: Sequence[Splits], *, classes: int) -> Tensor:
    """Scores (V, K) of the test videos, 1 for the label of the nearest. parts: features of the same videos; with
    several, their cosines are added."""
    similar = sum(_cosines(splits) for splits in parts)
    return F.one_hot(parts[0].train.labels[similar.argmax(1)], classes).double()


def _cosines(splits: Splits) -> Tensor:
    """Of every test video with every training video."""
    train, test = _videos(splits.train), _videos(splits.test)
    centre = train.mean(0)
    return F.normalize(test - centre, dim=1) @ F.normalize(train - centre, dim=1).T


def _videos(samples: Samples) -> Tensor:
    """(V, D)"""
    size = max(1, SCORED // samples.clips) * samples.clips
    rows = np.arange(len(samples))
    blocks = map(samples.take, np.split(rows, range(size, len(rows), size)))
    return torch.cat([block.flatten(1).unflatten(0, (-1, samples.clips)).mean(1) for block in blocks])
