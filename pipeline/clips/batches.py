"""Clips -> seeded batches (B, T, C, H, W).

The order of an epoch is a function of (seed, epoch) alone, whatever the number of loader workers, so a run can be
continued in the middle of an epoch.
"""

import signal
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2.functional import horizontal_flip, resize, resized_crop

from pipeline.clips.clips import Augmentation, Clips, decode_jpegs
from pipeline.hardware import HardwareConfig


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


def batches(clips: Clips, order: EpochOrder, hardware: HardwareConfig, device: torch.device) -> Iterator[torch.Tensor]:
    """Batches uint8 (B, T, 3, H, W) on the device; the caller need not wait until they are there."""
    if hardware.jpeg_decoder == "device":
        for jpegs, count in load_encoded(clips, order, workers=hardware.workers):
            yield decode_jpegs(jpegs, device).unflatten(0, (count, -1))
    else:
        for batch in load(clips, order, workers=hardware.workers):
            if device.type == "cuda":
                batch = batch.pin_memory()  # not by the loader's thread, which would disturb the recording of a graph
            yield batch.to(device, non_blocking=True)


def load(clips: Dataset, order: EpochOrder, *, workers: int = 0) -> DataLoader:
    """Batches in the given order: of Clips, uint8 (B, T, 3, H, W)."""
    return DataLoader(
        clips,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_as_it_is,  # the datasets give whole batches
        # Workers seeded from this generator, so that loading does not draw from the global one.
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=_leave_signals_to_the_parent,
    )


def load_encoded(clips: Clips, order: EpochOrder, *, workers: int = 0) -> Iterator[tuple[list[torch.Tensor], int]]:
    """The same batches as (the JPEGs of all clips, one after the other; how many clips B): for decode_jpegs where
    the model is."""
    for packed, sizes in load(EncodedClips(clips), order, workers=workers):
        yield list(packed.split(sizes)), len(sizes) // clips.length


def _as_it_is(batch: object) -> object:
    return batch


def _leave_signals_to_the_parent(_worker: int) -> None:
    """A signal to the whole process group must not take the workers away before the parent has saved its state."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


class EncodedClips(Dataset):
    """The same clips with their frames still encoded: batches of them for load_encoded."""

    def __init__(self, clips: Clips):
        self.clips = clips

    def __getitems__(self, indices: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
        """All bytes in one tensor, since each tensor costs a file descriptor on its way from a loader worker; and
        the bytes of each JPEG."""
        jpegs = [jpeg for i in indices for jpeg in self.clips.jpegs(i)]
        return torch.cat(jpegs), [len(jpeg) for jpeg in jpegs]


def vary_pixels(
    batch: torch.Tensor, indices: Sequence[int], config: Augmentation, *, seed: int, epoch: int
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
