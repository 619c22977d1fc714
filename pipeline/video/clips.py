"""Shards -> seeded batches of clips (B, T, C, H, W).

A clip is `length` consecutive stored frames of one video; clips of a video begin `step` frames apart:

    frames   0 1 2 3 4 5 6 7 8 9 …
    clip 0   x x x x x x                 length 6: spans 5 intervals
    clip 1         x x x x x x           step 3

The order of an epoch is a function of (seed, epoch) alone, whatever the number of loader workers, so a run can
be continued in the middle of an epoch.
"""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2.functional import resize

from pipeline.params import Above, AtLeast, Between
from pipeline.video.shards import StoredVideo


@dataclass(frozen=True)
class ClipsConfig:
    """Section `clips` of a training run."""

    step: Annotated[int, AtLeast(1)]  # frames between the starts of a video's clips
    fraction: Annotated[float, Above(0), Between(0, 1)]  # of the training videos, evenly over the classes
    overfit: Annotated[int, AtLeast(0)]  # train and validate on this many clips; 0: off
    workers: Annotated[int, AtLeast(0)]  # loader processes; 0: load in the main process


def take_fraction(videos: list[StoredVideo], fraction: float, *, seed: int) -> list[StoredVideo]:
    """A seeded subset with round(fraction · n) videos of each class, at least one, in the given order."""
    if fraction >= 1:
        return videos
    by_label: dict[int, list[int]] = {}
    for i, video in enumerate(videos):
        by_label.setdefault(video.info.label, []).append(i)
    kept: set[int] = set()
    for label, members in sorted(by_label.items()):
        chosen = np.random.default_rng([seed, label]).permutation(len(members))[
            : max(1, round(fraction * len(members)))
        ]
        kept.update(members[i] for i in chosen)
    return [video for i, video in enumerate(videos) if i in kept]


class Clips(Dataset):
    """Every clip of the videos; item i is uint8 (length, 3, H, W). A video shorter than a clip gives none."""

    def __init__(self, videos: list[StoredVideo], *, length: int, step: int, at_most: int = 0, seed: int = 0):
        """at_most > 0 keeps that many clips, chosen by the seed (the report's overfit subsets)."""
        self.length = length
        self.windows = [(video, start) for video in videos for start in range(0, video.info.frames - length + 1, step)]
        if not self.windows:
            raise ValueError(
                f"no clip of {length} frames (seeds + horizon) in {len(videos)} videos: the longest has "
                f"{max((video.info.frames for video in videos), default=0)} frames at this rate"
            )
        if at_most:
            chosen = np.random.default_rng(seed).permutation(len(self.windows))[:at_most]
            self.windows = [self.windows[i] for i in sorted(chosen)]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, i: int) -> torch.Tensor:
        video, start = self.windows[i]
        return video.read(start, self.length)


class EpochOrder:
    """Batches of indices for a DataLoader: a permutation drawn from (seed, epoch), from batch `first` on.

    shuffle=False keeps the order and the last, smaller batch; shuffled training drops it, so that batch
    statistics always come from whole batches (a set smaller than a batch is one batch)."""

    def __init__(self, items: int, batch: int, *, seed: int = 0, epoch: int = 0, first: int = 0, shuffle: bool = True):
        order = np.random.default_rng([seed, epoch]).permutation(items) if shuffle else np.arange(items)
        batch = min(batch, items)
        stop = items - batch + 1 if shuffle else items
        self.batches = [order[i : i + batch].tolist() for i in range(0, stop, batch)][first:]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def load(clips: Clips, order: EpochOrder, *, workers: int = 0, pin_memory: bool = False) -> DataLoader:
    """Batches uint8 (B, T, 3, H, W) in the given order."""
    return DataLoader(
        clips,
        batch_sampler=order,
        num_workers=workers,
        pin_memory=pin_memory,
        # Workers seeded from this generator, so that loading does not draw from the global one.
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=_leave_signals_to_the_parent,
    )


def _leave_signals_to_the_parent(_worker: int) -> None:
    """A signal to the whole process group must not take the workers away before the parent has saved its state."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def as_images(batch: torch.Tensor, *, height: int, width: int) -> torch.Tensor:
    """uint8 0 … 255 (…, 3, H, W) -> float32 in [0, 1] (…, 3, height, width).

    Frames stored larger are reduced (bilinear, antialiased); ValueError when they are stored smaller, since the
    lost detail would be missing from the targets too.
    """
    stored = tuple(batch.shape[-2:])
    images = batch.float() / 255
    if stored == (height, width):
        return images
    if stored[0] < height or stored[1] < width:
        raise ValueError(
            f"frames are stored at {stored[0]}×{stored[1]}, smaller than the {height}×{width} of the model; "
            f"raise decode.height and decode.width, or lower the model's"
        )
    return resize(images, [height, width], antialias=True)
