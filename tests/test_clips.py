"""Clips and their batches: which frames, in which order, over any number of workers and ranks, in flat memory."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch

from pipeline.clips.batches import EpochOrder, as_images, load, load_encoded
from pipeline.clips.clips import Clips, decode_jpegs, read_frames, take_fraction
from pipeline.clips.shards import open_videos
from tests.support.import_closure import ROOT
from tests.support.videos import grey_jpegs, open_jpeg, stored_video, write_shard


def windows(clips: Clips) -> list[tuple[str, int]]:
    return [(video.key, start) for video, start in map(clips.window, range(len(clips)))]


def decoded(clips: Clips, order: EpochOrder, *, workers: int) -> Iterator[torch.Tensor]:
    """The batches of load_encoded, decoded."""
    for jpegs, count in load_encoded(clips, order, workers=workers):
        yield decode_jpegs(jpegs).unflatten(0, (count, -1))


@pytest.fixture(scope="module")
def clips(shards: Path) -> Clips:
    return Clips(open_videos(shards / "10", "train"), length=6, spacing=3)


# --- clips -----------------------------------------------------------------------------------------------------------


def test_frames_are_read_as_they_are_stored(shards: Path) -> None:
    video = open_videos(shards / "10", "train")[3]
    frames = read_frames(video, 2, 5)
    assert (frames.dtype, frames.shape) == (torch.uint8, (5, 3, 32, 32))
    expected = torch.stack([torch.tensor(open_jpeg(jpeg)) for jpeg in video.jpegs(2, 5)]).permute(0, 3, 1, 2)
    assert (frames.int() - expected.int()).abs().max() <= 3  # another decoder's rounding
    with pytest.raises(IndexError):
        read_frames(video, video.info.frames - 1, 2)


@pytest.mark.parametrize(
    ("length", "spacing", "starts"),
    [(6, 1, [0, 1, 2, 3, 4]), (6, 3, [0, 3]), (6, 4, [0, 4]), (10, 1, [0]), (1, 9, [0, 9])],
)
def test_windows(tmp_path: Path, length: int, spacing: int, starts: list[int]) -> None:
    frames = (5, 10, 10, 5)  # two videos with no clip, unless it is of one frame
    for label, count in enumerate(frames):
        stored_video(tmp_path, count, label=label)
    clips = Clips(open_videos(tmp_path, "train"), length=length, spacing=spacing)
    expected = [(label, start) for label, count in enumerate(frames) for start in starts if start + length <= count]
    assert [(video.info.label, start) for video, start in map(clips.window, range(len(clips)))] == expected
    assert [video.info.label for video in clips.videos] == sorted({label for label, _ in expected})
    for clip, (_, start) in zip(clips, expected, strict=True):
        assert (clip.float().mean((1, 2, 3)) / 5).round().tolist() == list(range(start, start + length))


def test_only_short_videos_is_an_error(tmp_path: Path) -> None:
    stored_video(tmp_path, 5)
    with pytest.raises(ValueError, match=r"no clip of 6 frames .* in 1 videos: the longest has 5 frames at this rate"):
        Clips(open_videos(tmp_path, "train"), length=6, spacing=1)


def test_fraction_and_overfit_subsets(shards: Path, clips: Clips) -> None:
    videos = open_videos(shards / "10", "train")
    half = take_fraction(videos, 0.5, seed=0)
    assert pd.Series([v.info.label for v in half]).value_counts().to_dict() == dict.fromkeys(range(8), 7)
    assert [v.key for v in half] == [v.key for v in take_fraction(videos, 0.5, seed=0)]
    assert [v.key for v in half] != [v.key for v in take_fraction(videos, 0.5, seed=1)]
    assert len(take_fraction(videos, 0.001, seed=0)) == 8  # at least one a class
    assert take_fraction(videos, 1.0, seed=0) == videos
    some = partial(Clips, videos, length=6, spacing=3, at_most=5)
    five = windows(some(seed=0))
    assert len(five) == 5
    assert set(five) < set(windows(clips))
    assert five == windows(some(seed=0)) != windows(some(seed=1))


# --- the order of an epoch -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("items", [1, 7, 8, 9, 24, 50, 1001])
@pytest.mark.parametrize("batch", [1, 3, 8, 2000])
def test_every_item_comes_once_an_epoch_in_few_equal_batches(items: int, batch: int, shuffle: bool) -> None:
    order = EpochOrder(items, batch, seed=1, epoch=4, shuffle=shuffle)
    batches = list(order)
    flat = [i for indices in batches for i in indices]
    assert sorted(flat) == list(range(items))
    assert shuffle or flat == list(range(items))
    assert len(order) == len(batches) == -(-items // batch)
    sizes = [len(indices) for indices in batches]
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 1
    for first in range(0, len(batches), max(1, len(batches) // 7)):
        assert list(EpochOrder(items, batch, seed=1, epoch=4, first=first, shuffle=shuffle)) == batches[first:]


def test_the_order_is_that_of_the_seed_and_the_epoch() -> None:
    orders = {(seed, epoch): list(EpochOrder(24, 8, seed=seed, epoch=epoch)) for seed in (1, 2) for epoch in range(3)}
    assert len({repr(order) for order in orders.values()}) == 6
    assert list(EpochOrder(24, 8, seed=2, epoch=1)) == orders[2, 1]
    assert [len(indices) for indices in EpochOrder(50, 8)] == [8, 7, 7, 7, 7, 7, 7]


@pytest.mark.parametrize("ranks", [2, 3, 7])
@pytest.mark.parametrize("shuffle", [True, False])
def test_ranks_share_every_batch(ranks: int, shuffle: bool) -> None:
    whole = list(EpochOrder(50, 8, seed=1, first=2, shuffle=shuffle))
    parts = [list(EpochOrder(50, 8, seed=1, first=2, shuffle=shuffle, rank=rank, ranks=ranks)) for rank in range(ranks)]
    for indices, shares in zip(whole, zip(*parts, strict=True), strict=True):
        assert [i for share in shares for i in share] == indices
        assert min(map(len, shares)) >= 1


@pytest.mark.parametrize(("items", "batch", "ranks"), [(2, 8, 3), (50, 8, 8), (50, 2, 3)])
def test_too_few_clips_for_the_ranks_are_refused(items: int, batch: int, ranks: int) -> None:
    with pytest.raises(ValueError, match=rf"{items} clips in batches of {batch} are too few for {ranks} ranks"):
        EpochOrder(items, batch, ranks=ranks)


@pytest.mark.parametrize(("rank", "ranks"), [(-1, 2), (2, 2), (0, 0)])
def test_ranks_count_from_zero(rank: int, ranks: int) -> None:
    with pytest.raises(ValueError, match=f"rank {rank} of {ranks} ranks; it counts from 0"):
        EpochOrder(50, 8, rank=rank, ranks=ranks)


# --- loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_every_clip_is_read_once_an_epoch_by_all_ranks_together(clips: Clips, workers: int) -> None:
    """Clips are told by their pixels; batch k of the ranks together is batch k of a single process."""
    name = {clips[i].numpy().tobytes(): window for i, window in enumerate(windows(clips))}
    assert len(name) == len(clips)  # no two look the same
    single = None
    for ranks in (1, 2, 3):
        orders = [EpochOrder(len(clips), 16, seed=3, epoch=1, rank=rank, ranks=ranks) for rank in range(ranks)]
        together = [
            [name[clip.numpy().tobytes()] for part in parts for clip in part]
            for parts in zip(*(load(clips, order, workers=workers) for order in orders), strict=True)
        ]
        assert Counter(clip for batch in together for clip in batch) == Counter(windows(clips))
        single = single or together
        assert together == single


@pytest.mark.parametrize("read", [load, decoded])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_workers_or_on_who_decodes(clips: Clips, read, workers: int) -> None:
    order = EpochOrder(len(clips), 50, seed=3)
    batches = list(read(clips, order, workers=workers))
    assert [len(batch) for batch in batches] == [len(indices) for indices in order]
    assert batches[0].shape[1:] == (6, 3, 32, 32)
    assert torch.equal(torch.cat(batches), torch.stack([clips[i] for indices in order for i in indices]))


def test_encoded_batches_are_the_bytes_of_the_shard(clips: Clips) -> None:
    order = EpochOrder(len(clips), 7, seed=2)
    jpegs, count = next(load_encoded(clips, order))
    stored = [jpeg for i in order.batches[0] for jpeg in clips.window(i)[0].jpegs(clips.window(i)[1], 6)]
    assert count == 7
    assert [jpeg.numpy().tobytes() for jpeg in jpegs] == list(map(bytes, stored))


def test_loading_does_not_draw_from_the_global_generator(clips: Clips) -> None:
    before = torch.get_rng_state()
    for workers in (0, 2):
        next(iter(load(clips, EpochOrder(len(clips), 16), workers=workers)))
        next(load_encoded(clips, EpochOrder(len(clips), 16), workers=workers))
    assert torch.equal(torch.get_rng_state(), before)


PEAK = """
import sys
from pathlib import Path
from pipeline.clips.batches import EpochOrder, load
from pipeline.clips.clips import Clips
from pipeline.clips.shards import open_videos
for folder in sys.argv[1:]:
    clips = Clips(open_videos(Path(folder), "train"), length=6, spacing=1)
    for _, batch in zip(range(10), load(clips, EpochOrder(len(clips), 8))):
        pass
    # Not getrusage: its peak is at least that of the process which started this one.
    print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells a process its peak memory")
def test_memory_hardly_grows_with_the_number_of_videos(tmp_path: Path) -> None:
    """40 times as many shards, hard links of one, cost less than 2 KB a video and 2 MB."""
    jpegs, folders = grey_jpegs(30), []
    one = write_shard(tmp_path / "one.tar", {f"v_A_g01_c{clip:02}": jpegs for clip in range(64)})
    for shards in (2, 80):
        folder = tmp_path / str(shards)
        folder.mkdir()
        for number in range(shards):
            os.link(one, folder / f"train-{number:05}.tar")
        folders.append(folder)
    command = [sys.executable, "-c", PEAK, *map(str, folders)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    few, many = (1024 * int(peak) for peak in done.stdout.split())
    more_videos = (80 - 2) * 64
    assert many - few < 2048 * more_videos + 2 * 1024**2


# --- images ----------------------------------------------------------------------------------------------------------


def test_images_are_in_zero_to_one_at_the_models_size() -> None:
    stored = torch.arange(256, dtype=torch.uint8).repeat(2, 3, 32, 1).view(2, 1, 3, 64, 128)
    whole = as_images(stored, height=64, width=128)
    assert whole.dtype == torch.float32
    assert (whole.min(), whole.max()) == (0, 1)
    assert torch.equal((whole * 255).round().to(torch.uint8), stored)
    reduced = as_images(stored, height=32, width=64)
    assert reduced.shape == (2, 1, 3, 32, 64)
    assert 0 <= reduced.min() <= reduced.max() <= 1
    blocks = whole.unfold(3, 2, 2).unfold(4, 2, 2).mean((-2, -1))  # averaging 2 × 2 is close to it
    assert (reduced - blocks)[..., 2:-2, 2:-2].abs().mean() < 0.01
    with pytest.raises(
        ValueError, match=r"stored at 64×128, smaller than the 96×128 of the model; raise decode.height"
    ):
        as_images(stored, height=96, width=128)
