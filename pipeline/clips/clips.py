"""Stored videos -> clips, by number.

A clip is `length` consecutive stored frames of one video; clips of a video begin `spacing` frames apart:

    frames   0 1 2 3 4 5 6 7 8 9 …
    clip 0   x x x x x x                 length 6: spans 5 intervals
    clip 1         x x x x x x           spacing 3

Of a video of 25 fps, the frames stored at 10 fps are 2 and 3 apart in turn, and those at 15 fps 2, 1, 2
(decode/resample.py). Clips that all begin at the same place of this rhythm teach a network the rhythm, and a baseline's
speed is always too high, or always too low. A spacing that is neither even nor a multiple of three begins at each place
in turn.
"""

from collections.abc import Sequence
from copy import copy

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision.io import ImageReadMode, decode_jpeg

from pipeline.clips.shards import StoredVideo
from pipeline.settings import Count, Natural, Part, section


@section
class ClipsConfig:
    """Section `train.<model>.clips`."""

    spacing: Count  # frames between the starts of a video's clips
    fraction: Part  # of the training videos, evenly over the classes
    overfit: Natural  # train and validate on this many clips; 0: off


@section
class Augmentation:
    """Section `train.<model>.augmentation`: how the clips of an epoch differ from those of another."""

    max_stride: Count  # the frames of a clip lie at most so many frames apart, drawn a clip
    reverse: bool  # half of the clips run backwards
    flip: bool  # half of them are mirrored
    crop: Part  # a random window of at least this part of height and width


def take_fraction(videos: list[StoredVideo], fraction: float, *, seed: int) -> list[StoredVideo]:
    """A seeded subset with round(fraction · n) videos of each class, at least one, in the given order."""
    if fraction >= 1:
        return videos
    by_label: dict[int, list[int]] = {}
    for i, video in enumerate(videos):
        by_label.setdefault(video.info.label, []).append(i)
    kept: set[int] = set()
    for label, members in sorted(by_label.items()):
        count = max(1, round(fraction * len(members)))
        kept.update(np.random.default_rng([seed, label]).permutation(members)[:count].tolist())
    return [video for i, video in enumerate(videos) if i in kept]


def read_frames(video: StoredVideo, start: int, length: int) -> torch.Tensor:
    """Frames start … start + length − 1 of a video: uint8 (length, 3, H, W)."""
    return decode_jpegs([_as_tensor(jpeg) for jpeg in video.jpegs(start, length)])


def decode_jpegs(jpegs: Sequence[torch.Tensor], device: torch.device | str = "cpu") -> torch.Tensor:
    """JPEGs, each a uint8 tensor (bytes,) on the CPU, -> uint8 (N, 3, H, W) on the device.

    On a GPU its own decoder takes them all at once; its pixels may differ from the CPU's by rounding.
    """
    if torch.device(device).type == "cuda":
        # torchvision writes from a stream of its own into memory that steps under way may still read.
        torch.cuda.current_stream(device).synchronize()
        return torch.stack(decode_jpeg(list(jpegs), mode=ImageReadMode.RGB, device=device))
    # Joined as (H, W, 3), which is how they lie in memory: a plain copy.
    frames = [decode_jpeg(jpeg, mode=ImageReadMode.RGB).permute(1, 2, 0) for jpeg in jpegs]
    return torch.stack(frames).permute(0, 3, 1, 2)


def _as_tensor(jpeg: memoryview) -> torch.Tensor:
    return torch.frombuffer(jpeg, dtype=torch.uint8)


class Clips(Dataset):
    """Every clip of the videos; item i is uint8 (length, 3, H, W). A video shorter than a clip gives none."""

    def __init__(self, videos: Sequence[StoredVideo], *, length: int, spacing: int, at_most: int = 0, seed: int = 0):
        """at_most > 0 keeps that many clips, chosen by the seed (the report's overfit subsets)."""
        self.length, self.spacing = length, spacing
        self.videos = [video for video in videos if video.info.frames >= length]
        if not self.videos:
            raise ValueError(
                f"no clip of {length} frames (context + horizon) in {len(videos)} videos: the longest has "
                f"{max((video.info.frames for video in videos), default=0)} frames at this rate"
            )
        counts = [(video.info.frames - length) // spacing + 1 for video in self.videos]
        self._first = np.concatenate([[0], np.cumsum(counts)])  # number of each video's first clip
        self._chosen = np.arange(self._first[-1])
        self._variation: tuple[Augmentation, int, int] | None = None
        if at_most:
            self._chosen = np.sort(np.random.default_rng(seed).permutation(self._chosen)[:at_most])

    def __len__(self) -> int:
        return len(self._chosen)

    def window(self, i: int) -> tuple[StoredVideo, int]:
        """The video of clip i and the frame at which it starts."""
        clip = self._chosen[i]
        v = int(np.searchsorted(self._first, clip, side="right")) - 1
        return self.videos[v], int(clip - self._first[v]) * self.spacing

    def varied(self, config: Augmentation, *, seed: int, epoch: int) -> "Clips":
        """The same clips in an epoch's own tempo and direction: with config.max_stride and config.reverse, drawn from
        (seed, epoch, clip). A clip that has no room for its stride begins earlier, or has a smaller one."""
        varied = copy(self)
        varied._variation = (config, seed, epoch)
        return varied

    def jpegs(self, i: int) -> list[torch.Tensor]:
        """The frames of clip i as they are stored, each uint8 (bytes,)."""
        video, start = self.window(i)
        stride, backwards = 1, False
        if self._variation:
            config, *key = self._variation
            stride, backwards = _tempo(config, np.random.default_rng([*key, i, 0]), video.info.frames, self.length)
        span = (self.length - 1) * stride + 1
        frames = video.jpegs(min(start, video.info.frames - span), span)[::stride]
        return [_as_tensor(jpeg) for jpeg in (reversed(frames) if backwards else frames)]

    def __getitem__(self, i: int) -> torch.Tensor:
        return decode_jpegs(self.jpegs(i))

    def __getitems__(self, indices: Sequence[int]) -> torch.Tensor:
        """A batch at once (B, length, 3, H, W): what a DataLoader calls; each frame is copied but once."""
        return decode_jpegs([jpeg for i in indices for jpeg in self.jpegs(i)]).unflatten(0, (len(indices), self.length))


def _tempo(config: Augmentation, rng: np.random.Generator, frames: int, length: int) -> tuple[int, bool]:
    """A stride, at most what a video of so many frames has room for, and whether to go backwards."""
    room = (frames - 1) // max(1, length - 1)
    stride, backwards = int(rng.integers(1, config.max_stride + 1)), bool(rng.integers(2))
    return min(stride, room), backwards and config.reverse
