"""From encoded video to clips: timing, bytes, splits, bad files, and plain readers."""

import hashlib
import io
import subprocess
import tarfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pandas as pd
import pytest
import torch
import webdataset
from PIL import Image

from pipeline.video.clips import Clips, EpochOrder, as_images, load, take_fraction
from pipeline.video.decode import VideoError, decode, resample
from pipeline.video.ingest import check, ingest, plan_rows, summarise
from pipeline.video.shards import RATES, open_videos, sample, write_shard
from pipeline.video.ucf101 import index_videos, read_labels, read_split
from tests.conftest import decode_config

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


def encode(path: Path, *options: str, frames: np.ndarray | None = None, rate: str = "25", count: int = 50) -> Path:
    """A video file; by default frame k is a flat grey of level 4·k, so that a decoded frame tells its number."""
    if frames is None:
        frames = np.repeat((np.arange(count) * 4 % 256).astype(np.uint8), 64 * 96 * 3).reshape(count, 64, 96, 3)
    height, width = frames.shape[1:3]
    command = [FFMPEG, "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
    command += ["-r", rate, "-i", "-", *(options or ("-c:v", "libxvid", "-q:v", "2")), str(path)]
    subprocess.run(command, input=frames.tobytes(), check=True)
    return path


def open_jpeg(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def grey_levels(jpegs: list[bytes]) -> np.ndarray:
    return np.array([open_jpeg(jpeg).mean() for jpeg in jpegs])


def reference_decode(path: Path, *, height: int, width: int) -> np.ndarray:
    """Every frame at its size as raw RGB, straight from ffmpeg: no JPEG, no code of ours."""
    command = [FFMPEG, "-loglevel", "error", "-flags", "+bitexact", "-i", str(path), "-an", "-fps_mode", "passthrough"]
    command += [
        "-vf",
        f"scale={width}:{height}:flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


# --- which source frame stands where -------------------------------------------------------------------------------


def nearest_by_hand(times: list[Fraction], rate: int) -> list[int]:
    """The definition, one frame at a time in exact fractions."""
    chosen, k = [], 0
    while Fraction(k, rate) <= times[-1] - times[0]:
        gaps = [abs(time - times[0] - Fraction(k, rate)) for time in times]
        chosen.append(gaps.index(min(gaps)))
        k += 1
    return chosen


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("fps", ["25", "30000/1001", "30", "24000/1001", "15", "12", "60", "50"])
def test_resampling_picks_the_nearest_frame_in_time(fps: str, rate: int) -> None:
    tick = 1 / Fraction(fps)
    pts = np.arange(97) + 1  # XviD with packed B-frames starts at 1
    assert resample(pts, tick, rate).tolist() == nearest_by_hand([int(p) * tick for p in pts], rate)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("fps", ["25", "30000/1001"])
def test_index_gap_equals_time_gap(fps: str, rate: int) -> None:
    tick = 1 / Fraction(fps)
    chosen = resample(np.arange(400), tick, rate)
    times = chosen * float(tick)
    for gap in (1, 2, 5, 30):
        assert np.abs(times[gap:] - times[:-gap] - gap / rate).max() <= float(tick) + 1e-9
    assert np.abs(times - np.arange(len(times)) / rate).max() <= float(tick) / 2 + 1e-9  # no drift


def test_resampling_follows_gaps_and_variable_rates() -> None:
    pts = np.array([0, 40, 80, 400, 440, 480, 1000])  # milliseconds
    chosen = resample(pts, Fraction(1, 1000), 10)
    assert chosen.tolist() == nearest_by_hand([Fraction(int(p), 1000) for p in pts], 10)
    assert resample(np.array([7]), Fraction(1, 25), 10).tolist() == [0]


# --- one video -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "rate", "suffix"),
    [
        (("-c:v", "libxvid", "-q:v", "2"), "25", "avi"),
        (("-c:v", "libxvid", "-q:v", "2", "-bf", "2"), "25", "avi"),
        (("-c:v", "mpeg4", "-vtag", "XVID", "-q:v", "2", "-bf", "2"), "30000/1001", "avi"),
        (("-c:v", "libx264", "-qp", "4", "-bf", "2"), "30", "mp4"),
    ],
)
def test_every_frame_once_in_display_order(tmp_path: Path, options, rate: str, suffix: str) -> None:
    video = decode(encode(tmp_path / f"x.{suffix}", *options, rate=rate), height=32, width=64, qscale=1, timeout_s=60)
    assert len(video.jpegs) == 50
    assert np.abs(grey_levels(video.jpegs) - np.arange(50) * 4).max() < 6
    assert open_jpeg(video.jpegs[0]).shape == (32, 64, 3)
    assert video.fps == Fraction(rate)
    assert (video.height, video.width) == (64, 96)
    gaps = np.diff(video.pts) * video.tick
    assert all(gap == 1 / Fraction(rate) for gap in gaps)


def test_stored_frames_are_close_to_the_decoded_ones(raw_motions: Path) -> None:
    path = sorted(raw_motions.rglob("*.avi"))[5]
    for height, width in ((128, 160), (64, 64)):
        truth = reference_decode(path, height=height, width=width).astype(float)
        stored = np.stack(
            [open_jpeg(j) for j in decode(path, height=height, width=width, qscale=1, timeout_s=60).jpegs]
        )
        mse = ((stored - truth) ** 2).mean((1, 2, 3))
        assert (10 * np.log10(255**2 / mse)).min() >= 40  # every frame


def test_real_frames_are_close_to_the_decoded_ones(real_clips: Path) -> None:
    psnrs = []
    for path in sorted((real_clips / "UCF-101").glob("*/*_g0[15]_c01.avi")):
        truth = reference_decode(path, height=128, width=160).astype(float)
        stored = np.stack([open_jpeg(j) for j in decode(path, height=128, width=160, qscale=1, timeout_s=60).jpegs])
        assert len(stored) == len(truth)
        psnrs.append((10 * np.log10(255**2 / ((stored - truth) ** 2).mean((1, 2, 3)))).mean())
    assert len(psnrs) == 12
    assert min(psnrs) >= 40


def test_real_packed_b_frames_and_ntsc_rates(real_clips: Path) -> None:
    archery = real_clips / "UCF-101" / "Archery" / "v_Archery_g03_c01.avi"
    video = decode(archery, height=32, width=32, qscale=1, timeout_s=60)
    assert video.packed
    assert len(video.jpegs) == video.header_frames == 150  # the constant-rate mode of ffmpeg makes it 151
    assert np.diff(video.pts).tolist() == [1] * 149
    horses = real_clips / "UCF-101" / "HorseRace" / "v_HorseRace_g20_c01.avi"  # two frames are missing inside
    video = decode(horses, height=32, width=32, qscale=1, timeout_s=60)
    assert video.fps == Fraction(30000, 1001)
    assert (len(video.jpegs), video.header_frames) == (365, 367)
    times = [int(p) * video.tick for p in video.pts]
    assert resample(video.pts, video.tick, 10).tolist() == nearest_by_hand(times, 10)


@pytest.mark.parametrize("content", [b"", b"this is no video\n" * 50, b"RIFF\x00\x00\x00\x00AVI LIST"])
def test_what_is_no_video_is_refused_with_a_reason(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.avi").write_bytes(content)
    with pytest.raises(VideoError) as error:
        decode(tmp_path / "bad.avi", height=32, width=32, qscale=1, timeout_s=60)
    assert 0 < len(str(error.value)) < 200
    assert str(tmp_path) not in str(error.value)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    sound = tmp_path / "sound.avi"
    subprocess.run([FFMPEG, "-loglevel", "error", "-f", "lavfi", "-i", "sine=d=1", str(sound)], check=True)
    with pytest.raises(VideoError, match=r"matches no streams|no video"):
        decode(sound, height=32, width=32, qscale=1, timeout_s=60)


def test_a_decoder_that_takes_too_long_is_stopped(raw_motions: Path) -> None:
    with pytest.raises(VideoError, match="longer than"):
        decode(next(raw_motions.rglob("*.avi")), height=32, width=32, qscale=1, timeout_s=0.001)


# --- all videos ----------------------------------------------------------------------------------------------------


def folder_digest(folder: Path) -> str:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return hashlib.sha256(
        b"".join(f.relative_to(folder).as_posix().encode() + f.read_bytes() for f in files)
    ).hexdigest()


def plan(raw: Path, **changes: object):
    index = index_videos(raw / "UCF-101", relative_to=raw)
    lists = raw / "ucfTrainTestlist"
    config = decode_config(**changes)
    rows = plan_rows(index, labels=read_labels(lists), split=read_split(lists, config.split), config=config)
    return rows, {row.video: raw / row.path for row in index.itertuples()}, config


def test_shards_hold_what_the_manifest_says(shards: Path, raw_motions: Path) -> None:
    manifest = pd.read_csv(shards / "manifest.csv", keep_default_na=False)
    assert len(manifest) == len(list(raw_motions.rglob("*.avi"))) == 8 * 22
    assert (manifest["verdict"] == "good").all()
    groups = manifest.groupby("split")["group"].unique().map(set).to_dict()
    assert groups == {"test": set(range(1, 8)), "train": set(range(8, 22)), "validation": {22}}
    for rate in RATES:
        for split in groups:
            rows = manifest[manifest["split"] == split]
            videos = open_videos(shards / str(rate), split)
            assert {v.key for v in videos} == {Path(name).stem for name in rows["video"]}
            found = {v.key: v.info for v in videos}
            for row in rows.itertuples():
                info = found[Path(row.video).stem]
                assert info.frames == getattr(row, f"frames_{rate}") == len(info.offsets) - 1
                assert (info.action, info.label, info.group, info.clip) == (row.action, row.label, row.group, row.clip)
                assert info.fps == rate
                file = raw_motions / "UCF-101" / row.video
                assert info.source_sha256 == row.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_lower_rates_are_the_same_frames_at_the_same_times(shards: Path) -> None:
    by_rate = {rate: open_videos(shards / str(rate), "test")[0] for rate in RATES}
    full = by_rate[25].read(0, by_rate[25].info.frames)
    for rate in (15, 10):
        low = by_rate[rate].read(0, by_rate[rate].info.frames)
        expected = nearest_by_hand([Fraction(k, 25) for k in range(len(full))], rate)
        assert torch.equal(low, full[expected])


def test_plain_tar_webdataset_and_ffmpeg_read_the_shards(shards: Path, tmp_path: Path) -> None:
    shard = sorted((shards / "10").glob("train-*.tar"))[0]
    listing = subprocess.run(["tar", "tvf", shard], capture_output=True, text=True, check=True).stdout
    items = list(webdataset.WebDataset(str(shard), shardshuffle=False).decode())
    assert len(items) == 8 == len(listing.splitlines()) / 2
    item = items[0]
    info = item["json"]
    frames = [item["mjpeg"][a:b] for a, b in zip(info["offsets"], info["offsets"][1:], strict=False)]
    assert all(open_jpeg(frame).shape == (32, 32, 3) for frame in frames)
    member = tmp_path / "frames.mjpeg"
    with tarfile.open(shard) as tar:
        member.write_bytes(tar.extractfile(f"{item['__key__']}.mjpeg").read())
    played = reference_decode(member, height=32, width=32)
    assert len(played) == info["frames"] == len(frames)


def test_the_same_input_gives_the_same_bytes_in_any_order(
    raw_motions: Path, tmp_path: Path, shards: Path, monkeypatch
) -> None:
    rows, paths, config = plan(raw_motions)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})  # one worker instead of two
    ingest(rows[::-1], paths, tmp_path / "again", config)
    for rate in RATES:
        assert folder_digest(tmp_path / "again" / str(rate)) == folder_digest(shards / str(rate))


def test_bad_videos_are_rows_with_reasons(raw_motions: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    videos = raw / "UCF-101" / "ZoomIn"
    videos.mkdir(parents=True)
    (raw / "ucfTrainTestlist").symlink_to(raw_motions / "ucfTrainTestlist")
    for group in (1, 8, 9, 10, 22):
        name = f"v_ZoomIn_g{group:02}_c01.avi"
        (videos / name).write_bytes((raw_motions / "UCF-101" / "ZoomIn" / name).read_bytes())
    (videos / "v_ZoomIn_g09_c01.avi").write_bytes(b"")
    (videos / "v_ZoomIn_g08_c77.avi").write_bytes(b"in no list")
    rows, paths, config = plan(raw, max_bad_fraction=0.5)
    (videos / "v_ZoomIn_g10_c01.avi").write_bytes((videos / "v_ZoomIn_g08_c01.avi").read_bytes())  # after the index
    manifest = ingest(rows, paths, tmp_path / "out", config).set_index("video")
    assert len(manifest) == 6
    verdicts = {Path(video).stem[9:]: verdict for video, verdict in manifest["verdict"].items()}
    assert verdicts == {
        "g01_c01": "good",
        "g08_c01": "good",
        "g08_c77": "unlisted",
        "g09_c01": "bad",
        "g10_c01": "bad",
        "g22_c01": "good",
    }
    assert "differs from the index" in manifest.loc["ZoomIn/v_ZoomIn_g10_c01.avi", "reason"]
    assert manifest.loc["ZoomIn/v_ZoomIn_g09_c01.avi", "reason"]
    assert (manifest.loc[manifest["verdict"] != "good", "shard"] == "").all()
    summary = summarise(manifest.reset_index(), read_split(raw / "ucfTrainTestlist", 1))
    assert summary["videos"] == {"found": 6, "good": 3, "bad": 2, "unlisted": 1, "listed_but_absent": 8 * 22 - 5}
    assert sum(summary["bad"].values()) == 2

    check(manifest.reset_index(), config)
    with pytest.raises(ValueError, match=r"2 of 5 listed videos are bad, over decode.max_bad_fraction = 0.3 ") as error:
        check(manifest.reset_index(), replace(config, max_bad_fraction=0.3))
    assert "v_ZoomIn_g09_c01.avi: " in str(error.value)


def test_splits_without_videos_are_refused(shards: Path) -> None:
    manifest = pd.read_csv(shards / "manifest.csv", keep_default_na=False)
    check(manifest, decode_config())
    held_back = manifest["split"] == "validation"
    with pytest.raises(ValueError, match=r"no good video for validation: .*decode.validation_groups \[22\] leave none"):
        check(manifest[~held_back], decode_config())
    with pytest.raises(ValueError, match=r"none of the 176 videos found is in the lists of decode.split 1"):
        check(manifest.assign(verdict="unlisted"), decode_config())


def test_missing_frames_are_said(real_clips: Path, tmp_path: Path) -> None:
    rows, paths, config = plan(real_clips)
    row = next(row for row in rows if row.video.endswith("v_HorseRace_g20_c01.avi"))
    (said,) = ingest([row], paths, tmp_path, config).itertuples()
    assert (said.verdict, said.reason, said.frames) == ("good", "frames fewer than its header says: 2", 365)


def test_colours_of_any_matrix_come_out_right(tmp_path: Path) -> None:
    """A BT.709 source must not be stored as if it were BT.601, which is what a JPEG is read as."""
    colour = np.broadcast_to(np.array([60, 180, 40], np.uint8), (10, 64, 96, 3)).copy()
    tagged = encode(
        tmp_path / "x.mp4",
        *("-vf", "scale=out_color_matrix=bt709", "-colorspace", "bt709", "-c:v", "libx264", "-qp", "1"),
        frames=colour,
    )
    for path in (tagged, encode(tmp_path / "x.avi", frames=colour)):
        (first, *_) = decode(path, height=32, width=32, qscale=1, timeout_s=60).jpegs
        assert np.abs(open_jpeg(first).mean((0, 1)) - [60, 180, 40]).max() < 5


# --- clips ---------------------------------------------------------------------------------------------------------


def stored_video(folder: Path, frames: int, *, split: str = "train", label: int = 0, size: int = 32) -> None:
    """A shard with one video of size × size pixels whose frame k is flat grey of level 5·k."""
    jpegs = []
    for k in range(frames):
        out = io.BytesIO()
        Image.fromarray(np.full((size, size, 3), 5 * k, np.uint8)).save(out, "JPEG", quality=95)
        jpegs.append(out.getvalue())
    folder.mkdir(exist_ok=True)
    item = sample(f"v_A_g01_c{label:02}", jpegs, action="A", label=label, group=1, clip=label, fps=10, source_sha256="")
    write_shard(folder / f"{split}-{label:05}.tar", [item])


@pytest.mark.parametrize(("start", "length"), [(0, 6), (3, 4), (9, 1), (0, 10)])
def test_reading_frames_of_a_stored_video(tmp_path: Path, start: int, length: int) -> None:
    stored_video(tmp_path / "s", 10)
    (video,) = open_videos(tmp_path / "s", "train")
    frames = video.read(start, length)
    assert frames.dtype == torch.uint8
    assert frames.shape == (length, 3, 32, 32)
    assert (frames.float().mean((1, 2, 3)) / 5).round().tolist() == list(range(start, start + length))


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (5, 6), (0, 0), (10, 1)])
def test_frames_outside_the_video_are_refused(tmp_path: Path, start: int, length: int) -> None:
    stored_video(tmp_path / "s", 10)
    (video,) = open_videos(tmp_path / "s", "train")
    with pytest.raises(IndexError, match="which has 10"):
        video.read(start, length)


@pytest.mark.parametrize(
    ("length", "step", "starts"),
    [(6, 1, [0, 1, 2, 3, 4]), (6, 3, [0, 3]), (6, 4, [0, 4]), (10, 1, [0]), (1, 9, [0, 9])],
)
def test_windows(tmp_path: Path, length: int, step: int, starts: list[int]) -> None:
    stored_video(tmp_path / "s", 10)
    stored_video(tmp_path / "s", 5, label=1)
    clips = Clips(open_videos(tmp_path / "s", "train"), length=length, step=step)
    assert [start for video, start in clips.windows if video.info.label == 0] == starts
    assert all(video.info.frames >= start + length for video, start in clips.windows)
    assert clips[len(clips) - 1].shape == (length, 3, 32, 32)


def test_only_short_videos_is_an_error(tmp_path: Path) -> None:
    stored_video(tmp_path / "s", 5)
    with pytest.raises(ValueError, match=r"no clip of 6 frames .* in 1 videos"):
        Clips(open_videos(tmp_path / "s", "train"), length=6, step=1)


def test_missing_and_broken_shards_are_clear_errors(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no shard train-\*\.tar"):
        open_videos(tmp_path, "train")
    whole = sorted((shards / "10").glob("train-*.tar"))[0].read_bytes()
    (tmp_path / "train-00000.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"train-00000\.tar is not a whole shard"):
        open_videos(tmp_path, "train")


def test_every_clip_once_an_epoch_in_an_order_of_its_own() -> None:
    orders = [[i for batch in EpochOrder(24, 8, seed=1, epoch=e) for i in batch] for e in range(3)]
    assert all(sorted(order) == list(range(24)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert orders[0] == [i for batch in EpochOrder(24, 8, seed=1, epoch=0) for i in batch]
    assert orders[0] != [i for batch in EpochOrder(24, 8, seed=2, epoch=0) for i in batch]


def test_an_epoch_continues_from_any_batch() -> None:
    whole = list(EpochOrder(50, 8, seed=1, epoch=4))
    assert len(whole) == 6  # the last, smaller batch is dropped in training
    for first in range(6):
        assert list(EpochOrder(50, 8, seed=1, epoch=4, first=first)) == whole[first:]
    assert [len(b) for b in EpochOrder(50, 8, shuffle=False)] == [8] * 6 + [2]
    assert [len(b) for b in EpochOrder(5, 8)] == [5]


def test_batches_do_not_depend_on_workers(shards: Path) -> None:
    clips = Clips(open_videos(shards / "10", "train"), length=6, step=3)
    order = EpochOrder(len(clips), 16, seed=3)
    plain = [clips[i] for batch in order for i in batch]
    for workers in (0, 2):
        batches = list(load(clips, order, workers=workers))
        assert batches[0].shape == (16, 6, 3, 32, 32)
        assert torch.equal(torch.cat(batches), torch.stack(plain))


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


def test_fraction_and_overfit_subsets(shards: Path) -> None:
    videos = open_videos(shards / "10", "train")
    half = take_fraction(videos, 0.5, seed=0)
    assert pd.Series([v.info.label for v in half]).value_counts().to_dict() == dict.fromkeys(range(8), 7)
    assert [v.key for v in half] == [v.key for v in take_fraction(videos, 0.5, seed=0)]
    assert [v.key for v in half] != [v.key for v in take_fraction(videos, 0.5, seed=1)]
    assert len(take_fraction(videos, 0.001, seed=0)) == 8  # at least one a class
    assert take_fraction(videos, 1.0, seed=0) == videos
    five = Clips(videos, length=6, step=3, at_most=5, seed=0)
    assert len(five) == 5
    starts = [(video.key, start) for video, start in Clips(videos, length=6, step=3).windows]
    assert {(video.key, start) for video, start in five.windows} <= set(starts)
