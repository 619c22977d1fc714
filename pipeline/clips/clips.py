"""Shards -> seeded batches of clips (B, T, C, H, W).

A clip is `length` consecutive stored frames of one video; clips of a video begin `step` frames apart:

    frames   0 1 2 3 4 5 6 7 8 9 …
    clip 0   x x x x x x                 length 6: spans 5 intervals
    clip 1         x x x x x x           step 3

Of a video of 25 fps, the frames stored at 10 fps are 2 and 3 apart in turn, and those at 15 fps 2, 1, 2 (resample() in
video.py). Clips that all begin at the same place of this rhythm teach a network the rhythm, and a baseline's speed is
always too high, or always too low. A step that is neither even nor a multiple of three begins at each place in turn.

The order of an epoch is a function of (seed, epoch) alone, whatever the number of loader workers, so a run can
be continued in the middle of an epoch.
"""

import signal
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2.functional import horizontal_flip, resize, resized_crop

from pipeline.clips.shards import StoredVideo
from pipeline.settings import Above, AtLeast, Between


@dataclass(frozen=True)
class ClipsConfig:
    """Section `clips` of a training run."""

    step: Annotated[int, AtLeast(1)]  # frames between the starts of a video's clips
    fraction: Annotated[float, Above(0), Between(0, 1)]  # of the training videos, evenly over the classes
    overfit: Annotated[int, AtLeast(0)]  # train and validate on this many clips; 0: off
    workers: Annotated[int, AtLeast(0)]  # loader processes; 0: load in the main process
    jpeg_decoder: Literal["cpu", "device"]  # in the loader, or where the model is, by the GPU's batched decoder
    stride: Annotated[int, AtLeast(1)]  # the frames of a clip lie so many apart at most, drawn a clip
    reverse: bool  # half of the clips run backwards
    flip: bool  # half of them are mirrored
    crop: Annotated[float, Above(0), Between(0, 1)]  # a random window of at least this part of height and width


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


def read_frames(video: StoredVideo, start: int, length: int) -> torch.Tensor:
    """Frames start … start + length − 1 of a video: uint8 (length, 3, H, W)."""
    return decode_jpegs([_as_tensor(jpeg) for jpeg in video.jpegs(start, length)])


def decode_jpegs(jpegs: Sequence[torch.Tensor], device: torch.device | str = "cpu") -> torch.Tensor:
    """JPEGs, each a uint8 tensor (bytes,) on the CPU, -> uint8 (N, 3, H, W) on the device.

    On a GPU its own decoder takes them all at once; its pixels may differ from the CPU's by rounding.
    """
    if torch.device(device).type == "cuda":
        return torch.stack(decode_jpeg(list(jpegs), mode=ImageReadMode.RGB, device=device))
    # Joined as (H, W, 3), which is how they lie in memory: a plain copy.
    frames = [decode_jpeg(jpeg, mode=ImageReadMode.RGB).permute(1, 2, 0) for jpeg in jpegs]
    return torch.stack(frames).permute(0, 3, 1, 2)


def _as_tensor(jpeg: memoryview) -> torch.Tensor:
    return torch.frombuffer(jpeg, dtype=torch.uint8)


class Clips(Dataset):
    """Every clip of the videos; item i is uint8 (length, 3, H, W). A video shorter than a clip gives none."""

    def __init__(self, videos: Sequence[StoredVideo], *, length: int, step: int, at_most: int = 0, seed: int = 0):
        """at_most > 0 keeps that many clips, chosen by the seed (the report's overfit subsets)."""
        self.length, self.step = length, step
        self.videos = [video for video in videos if video.info.frames >= length]
        if not self.videos:
            raise ValueError(
                f"no clip of {length} frames (seeds + horizon) in {len(videos)} videos: the longest has "
                f"{max((video.info.frames for video in videos), default=0)} frames at this rate"
            )
        counts = [(video.info.frames - length) // step + 1 for video in self.videos]
        self._first = np.concatenate([[0], np.cumsum(counts)])  # number of each video's first clip
        self._chosen = np.arange(self._first[-1])
        self._variation: tuple[ClipsConfig, int, int] | None = None
        if at_most:
            self._chosen = np.sort(np.random.default_rng(seed).permutation(self._chosen)[:at_most])

    def __len__(self) -> int:
        return len(self._chosen)

    def window(self, i: int) -> tuple[StoredVideo, int]:
        """The video of clip i and the frame at which it starts."""
        clip = self._chosen[i]
        v = int(np.searchsorted(self._first, clip, side="right")) - 1
        return self.videos[v], int(clip - self._first[v]) * self.step

    def varied(self, config: ClipsConfig, *, seed: int, epoch: int) -> "Clips":
        """The same clips in an epoch's own tempo and direction: with config.stride and config.reverse, drawn from
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


def _tempo(config: ClipsConfig, rng: np.random.Generator, frames: int, length: int) -> tuple[int, bool]:
    """A stride, at most what a video of so many frames has room for, and whether to go backwards."""
    room = (frames - 1) // max(1, length - 1)
    stride, backwards = int(rng.integers(1, config.stride + 1)), bool(rng.integers(2))
    return min(stride, room), backwards and config.reverse


def vary_pixels(
    batch: torch.Tensor, indices: Sequence[int], config: ClipsConfig, *, seed: int, epoch: int
) -> torch.Tensor:
    """Clips uint8 (B, T, 3, H, W), on any device, mirrored and cropped as drawn from (seed, epoch, clip), all frames of
    a clip alike; indices: which clips these are. A crop is enlarged to the size of the frames."""
    if not config.flip and config.crop == 1:
        return batch
    height, width = batch.shape[-2:]
    varied = []
    for clip, i in zip(batch, indices, strict=True):
        rng = np.random.default_rng([seed, epoch, i, 1])
        flip, part, top, left = rng.integers(2), rng.uniform(config.crop, 1), rng.random(), rng.random()
        if config.crop < 1:
            h, w = max(1, round(part * height)), max(1, round(part * width))
            place = [round(top * (height - h)), round(left * (width - w)), h, w]
            clip = resized_crop(clip, *place, [height, width], antialias=True)
        varied.append(horizontal_flip(clip) if flip and config.flip else clip)
    return torch.stack(varied)


class EncodedClips(Dataset):
    """The same clips with their frames still encoded: batches of them for load_encoded."""

    def __init__(self, clips: Clips):
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitems__(self, indices: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
        """All bytes in one tensor, since each tensor costs a file descriptor on its way from a loader worker; and
        the bytes of each JPEG."""
        jpegs = [jpeg for i in indices for jpeg in self.clips.jpegs(i)]
        return torch.cat(jpegs), [len(jpeg) for jpeg in jpegs]


class EpochOrder:
    """Batches of indices for a DataLoader, from batch `first` on: a permutation drawn from (seed, epoch), or, with
    shuffle=False, the items in order.

    Every item comes once an epoch. The batches are as few as `batch` allows and as equal as can be, so none is much
    smaller than the others, whose statistics it would disturb: 50 items in batches of 8 are 8, 7, 7, 7, 7, 7, 7.
    With several `ranks` (processes that train together, on any number of machines) each batch is shared out among
    them, and `rank` gets its part: together they read what one process would.
    """

    def __init__(
        self,
        items: int,
        batch: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        first: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        ranks: int = 1,
    ):
        if not 0 <= rank < ranks:
            raise ValueError(f"rank {rank} of {ranks} ranks; it counts from 0")
        count = -(-items // batch)
        if items // count < ranks:
            raise ValueError(f"{items} clips in batches of {batch} are too few for {ranks} ranks")
        order = np.random.default_rng([seed, epoch]).permutation(items) if shuffle else np.arange(items)
        whole = np.array_split(order, count)
        self.batches = [np.array_split(indices, ranks)[rank] for indices in whole[first:]]
        self.sizes = [len(indices) for indices in whole[first:]]  # of the batches of all ranks together

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return (indices.tolist() for indices in self.batches)


def load(clips: Clips, order: EpochOrder, *, workers: int = 0, pin_memory: bool = False) -> DataLoader:
    """Batches uint8 (B, T, 3, H, W) in the given order."""
    return _loader(clips, order, workers=workers, pin_memory=pin_memory)


def load_encoded(clips: Clips, order: EpochOrder, *, workers: int = 0) -> Iterator[tuple[list[torch.Tensor], int]]:
    """The same batches as (the JPEGs of all clips, one after the other; how many clips B): for decode_jpegs where
    the model is."""
    for packed, sizes in _loader(EncodedClips(clips), order, workers=workers):
        yield list(packed.split(sizes)), len(sizes) // clips.length


def _loader(clips: Dataset, order: EpochOrder, *, workers: int, **options: object) -> DataLoader:
    return DataLoader(
        clips,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_as_it_is,  # the datasets give whole batches
        # Workers seeded from this generator, so that loading does not draw from the global one.
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=_leave_signals_to_the_parent,
        **options,
    )


def _as_it_is(batch: object) -> object:
    return batch


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
