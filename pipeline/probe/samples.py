"""Stored features as samples: a clip is a sample, and a video has the same number of clips as every other."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

CONDITIONS = ("trained", "still", "shuffled")  # and untrained_0, untrained_1, …
CHOICES = ("deepest", "subsample", "combined", "pooled", "attentive", "predicted", "errors")
PARTS = {"combined": ("deepest", "subsample")}  # choices that join others


@dataclass(frozen=True)
class Samples:
    """The clips of one split. parts: the files, (all clips, …) each, joined along the last axis; columns: those of it
    that are used; videos: their numbers (V,), which follow each other; labels: theirs, (V,) int64; clips: how many each
    video has."""

    parts: tuple[np.ndarray, ...]
    columns: slice
    videos: np.ndarray
    labels: Tensor
    clips: int

    def __len__(self) -> int:
        return len(self.videos) * self.clips

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a sample: (dimensions,) or (tokens, channels)."""
        return tuple(self.take(np.zeros(1, int)).shape[1:])

    def take(self, samples: np.ndarray) -> Tensor:
        """float32 (B, …) of samples 0 … len − 1, a video's clips side by side."""
        rows = self.videos[samples // self.clips] * self.clips + samples % self.clips
        parts = [torch.from_numpy(part[rows][..., self.columns]).float() for part in self.parts]
        return torch.cat(parts, -1)

    def subset(self, chosen: np.ndarray) -> "Samples":
        """The samples of the videos with these numbers within the split."""
        return Samples(self.parts, self.columns, self.videos[chosen], self.labels[chosen], self.clips)


class Splits(NamedTuple):
    train: Samples
    validation: Samples
    test: Samples


def read_videos(folder: Path) -> pd.DataFrame:
    """videos.csv of the folder that the stage features made. ValueError when there is none."""
    if not (folder / "videos.csv").exists():
        raise ValueError(f"no features in {folder}; make them with: dvc repro features")
    return pd.read_csv(folder / "videos.csv")


def draws(folder: Path) -> list[str]:
    """The conditions with fresh weights."""
    return sorted((path.name for path in folder.glob("untrained_*")), key=lambda name: int(name.split("_")[1]))


def read_splits(folder: Path, condition: str, name: str, *, columns: slice = slice(None)) -> Splits:
    """A choice's features under a condition of the three splits; they stay on the disk until they are taken.
    ValueError when there are none of that name, when a split has no video, or when the files do not hold the same
    number of clips of each video."""
    videos = read_videos(folder)
    files = [folder / condition / f"{part}.npy" for part in PARTS.get(name, (name,))]
    for file in files:
        if not file.exists():
            raise ValueError(f"no {file}; with {name} in features.choices, make it with: dvc repro features")
    parts = tuple(np.load(file, mmap_mode="r") for file in files)
    clips, rest = divmod(len(parts[0]), len(videos))
    if rest or not clips or any(len(part) != len(parts[0]) for part in parts):
        raise ValueError(f"{folder / condition}: {[len(part) for part in parts]} rows do not fit {len(videos)} videos")
    found = []
    for split in Splits._fields:
        chosen = np.flatnonzero(videos["split"] == split)
        if not len(chosen):
            raise ValueError(f"{folder}: no {split} video; the lists and decode.validation_groups leave none")
        labels = torch.from_numpy(videos["label"].to_numpy()[chosen].astype(np.int64))
        found.append(Samples(parts, columns, chosen, labels, clips))
    return Splits(*found)
