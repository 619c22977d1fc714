"""Clips in varied tempo and direction, mirrored and cropped: which frames are read, alike for everybody who asks.

Videos of grey frames, each of its own level, show which frames were read.
"""

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resized_crop

from pipeline.clips.batches import EpochOrder, load, load_encoded, vary_pixels
from pipeline.clips.clips import Augmentation, Clips, decode_jpegs
from pipeline.clips.shards import open_videos
from tests.support.videos import stored_video

PLAIN = Augmentation(max_stride=1, reverse=False, flip=False, crop=1.0)
LENGTH = 4


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    """Of videos with 50, 8 and 4 frames."""
    folder = tmp_path_factory.mktemp("grey")
    for label, frames in enumerate((50, 8, 4)):
        stored_video(folder, frames, label=label)
    return Clips(open_videos(folder, "train"), length=LENGTH, spacing=1)


def numbers(clip: Tensor) -> list[int]:
    """Of the frames that were read."""
    return (clip.float().mean((1, 2, 3)) / 5).round().int().tolist()


def read(clips: Clips, **choices: int) -> list[list[int]]:
    return [numbers(clip) for clip in clips.varied(replace(PLAIN, **choices), seed=1, epoch=0)]


def test_nothing_varied_is_the_plain_clip(clips: Clips) -> None:
    assert read(clips) == [numbers(clip) for clip in clips]


def test_strides_are_drawn_and_have_room(clips: Clips) -> None:
    found = Counter()
    for i, frames in enumerate(read(clips, max_stride=5)):
        video, start = clips.window(i)
        strides = {b - a for a, b in itertools.pairwise(frames)}
        (stride,) = strides
        found[video.info.frames, stride] += 1
        assert 1 <= stride <= 5
        assert frames[0] >= 0
        assert frames[-1] < video.info.frames
        end = start + (LENGTH - 1) * stride
        assert frames[0] == start if end < video.info.frames else frames[-1] == video.info.frames - 1  # else earlier
    assert {stride for count, stride in found if count == 50} == {1, 2, 3, 4, 5}
    assert {stride for count, stride in found if count == 8} == {1, 2}  # three gaps of three are more than it has
    assert {stride for count, stride in found if count == 4} == {1}


def test_half_of_the_clips_run_backwards(clips: Clips) -> None:
    plain, found = read(clips, max_stride=3), read(clips, max_stride=3, reverse=True)
    backwards = [frames == expected[::-1] for frames, expected in zip(found, plain, strict=True)]
    assert all(back or frames == expected for back, frames, expected in zip(backwards, found, plain, strict=True))
    assert 0.3 < sum(backwards) / len(backwards) < 0.7


def test_a_single_frame_has_no_tempo(tmp_path: Path) -> None:
    stored_video(tmp_path, 5)
    single = Clips(open_videos(tmp_path, "train"), length=1, spacing=1)
    assert read(single, max_stride=5, reverse=True) == [[0], [1], [2], [3], [4]]


VARIED = replace(PLAIN, max_stride=3, reverse=True)


@pytest.mark.parametrize(("batch", "workers", "ranks"), [(7, 0, 1), (16, 2, 1), (16, 0, 3), (50, 2, 2)])
@pytest.mark.parametrize("encoded", [False, True])
def test_variation_is_of_the_seed_the_epoch_and_the_clip_alone(
    clips: Clips, batch: int, workers: int, ranks: int, encoded: bool
) -> None:
    varied = clips.varied(VARIED, seed=1, epoch=4)
    expected = {i: varied[i] for i in reversed(range(len(clips)))}
    seen = Counter()
    for rank in range(ranks):
        order = EpochOrder(len(clips), batch, seed=9, rank=rank, ranks=ranks)
        if encoded:
            loaded = (
                decode_jpegs(jpegs).unflatten(0, (count, -1))
                for jpegs, count in load_encoded(varied, order, workers=workers)
            )
        else:
            loaded = load(varied, order, workers=workers)
        for indices, given in zip(order.batches, loaded, strict=True):
            for i, clip in zip(indices.tolist(), given, strict=True):
                assert torch.equal(clip, expected[i])
                seen[i] += 1
    assert seen == Counter(range(len(clips)))


def test_other_seeds_and_epochs_vary_otherwise(clips: Clips) -> None:
    before = [numbers(clip) for clip in clips]
    found = [
        [numbers(clip) for clip in clips.varied(VARIED, seed=seed, epoch=epoch)]
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))
    ]
    assert found[0] == found[3]
    assert all(a != b for k, a in enumerate(found[:3]) for b in found[:k])
    assert [numbers(clip) for clip in clips] == before  # the clips themselves are as they were


# --- pixels ----------------------------------------------------------------------------------------------------------


def pixels(count: int) -> Tensor:
    """Noise, each clip one still picture: what is done to a frame shows, and that it is done to all."""
    return torch.randint(256, (count, 1, 3, 24, 40), dtype=torch.uint8).repeat(1, LENGTH, 1, 1, 1)


def vary(batch: Tensor, *, seed: int = 0, epoch: int = 0, first: int = 0, **choices: object) -> Tensor:
    indices = range(first, first + len(batch))
    return vary_pixels(batch, indices, replace(PLAIN, **choices), seed=seed, epoch=epoch)


def test_pixels_that_are_not_varied_are_not_touched() -> None:
    batch = pixels(3)
    assert vary(batch) is batch


def test_half_of_the_clips_are_mirrored() -> None:
    batch = pixels(200)
    found = vary(batch, flip=True)
    mirrored = [torch.equal(clip, given.flip(-1)) for clip, given in zip(found, batch, strict=True)]
    same = [torch.equal(clip, given) for clip, given in zip(found, batch, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 0.4 < sum(mirrored) / 200 < 0.6


def test_mirroring_has_nothing_to_do_with_running_backwards(clips: Clips) -> None:
    backwards = [a != b for a, b in zip(read(clips), read(clips, reverse=True), strict=True)]
    batch = pixels(len(clips))
    mirrored = [not torch.equal(a, b) for a, b in zip(vary(batch, seed=1, flip=True), batch, strict=True)]
    assert len(set(zip(backwards, mirrored, strict=True))) == 4


def test_crops_are_windows_enlarged_and_the_same_for_all_frames() -> None:
    """Of ramps: the value says where a pixel came from, and the slope how large the window was."""
    y, x = torch.meshgrid(torch.arange(24), torch.arange(40), indexing="ij")
    ramps = torch.stack([10 * y, 6 * x, 0 * x]).to(torch.uint8)
    found = vary(ramps.expand(100, LENGTH, 3, 24, 40), crop=0.5)
    assert found.shape == (100, LENGTH, 3, 24, 40)
    assert found.dtype == torch.uint8
    assert (found == found[:, :1]).all()
    first = found[:, 0].float()
    heights = (first[:, 0, 20, 0] - first[:, 0, 3, 0]) / 17 * 24 / 10
    widths = (first[:, 1, 0, 36] - first[:, 1, 0, 3]) / 33 * 40 / 6
    assert ((heights > 11) & (heights < 25) & (widths > 19) & (widths < 41)).all()
    torch.testing.assert_close(heights / 24, widths / 40, atol=0.07, rtol=0)  # of the same part of both
    assert float(heights.min()) < 14
    assert float(heights.max()) > 22
    top, left = first[:, 0].amin((1, 2)) / 10, first[:, 1].amin((1, 2)) / 6
    assert float(top.min()) <= 1
    assert float(top.max()) > 8
    assert float(left.max()) > 12
    assert (top + heights < 25.5).all()


def test_a_crop_is_torchvisions() -> None:
    """Some window that the rule allows gives each clip, by the tensor form of torchvision's own function."""
    batch = pixels(6)
    for clip, given in zip(vary(batch, crop=0.9), batch, strict=True):
        sizes = {(round(part * 24 / 1000), round(part * 40 / 1000)) for part in range(900, 1001)}
        windows = [(top, left, h, w) for h, w in sizes for top in range(25 - h) for left in range(41 - w)]
        crops = (
            resized_crop(given, *window, [24, 40], interpolation=InterpolationMode.BILINEAR, antialias=True)
            for window in windows
        )
        assert any(torch.equal(clip, crop) for crop in crops)


def test_pixels_vary_with_the_seed_the_epoch_and_the_clip_alone() -> None:
    batch = pixels(12)
    choices = {"flip": True, "crop": 0.7}
    whole = vary(batch, seed=3, epoch=2, **choices)
    parts = [vary(batch[k : k + 5], seed=3, epoch=2, first=k, **choices) for k in range(0, 12, 5)]
    assert torch.equal(whole, torch.cat(parts))
    torch.rand(3)
    assert torch.equal(whole, vary(batch, seed=3, epoch=2, **choices))
    assert not torch.equal(whole, vary(batch, seed=3, epoch=3, **choices))
    assert not torch.equal(whole, vary(batch, seed=4, epoch=2, **choices))
    alike = vary(batch[:1].expand(12, -1, -1, -1, -1), seed=3, epoch=2, **choices)
    assert len({clip.numpy().tobytes() for clip in alike}) == 12
