"""Shards: the same bytes whenever they are written, plain tar, webdataset and ffmpeg read them, damage is noticed."""

import json
import os
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import pytest
import webdataset

from pipeline.clips.shards import ShardFile, open_shard, open_videos
from tests.support.videos import FACTS, grey_jpegs, open_jpeg, reference_decode, stored_video, write_shard


def webdataset_reads(shard: Path) -> list[tuple[str, dict[str, object], bytes]]:
    items = webdataset.WebDataset(str(shard), shardshuffle=False).decode()
    return [(item["__key__"], item["json"], item["mjpeg"]) for item in items]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """One video of ten frames, of levels 0, 5, 10 …"""
    return stored_video(tmp_path, 10)


def test_a_shard_is_read_as_it_was_written(tmp_path: Path) -> None:
    longest = 94 * "A"  # with .mjpeg the 100 characters that a tar's header has for a name
    videos = {"v_B_g01_c01": [b"one", b"three"], "v_A_g01_c02": [b"x" * 5000], longest: [b"y", b"zz"]}
    path = write_shard(tmp_path / "test-00000.tar", videos)
    found = open_shard(path)
    assert [video.key for video in found] == list(videos)
    for video in found:
        jpegs, info = videos[video.key], video.info
        assert [bytes(jpeg) for jpeg in video.jpegs(0, len(jpegs))] == jpegs
        assert {name: getattr(info, name) for name in FACTS} == FACTS
        assert (info.frames, info.offsets[-1]) == (len(jpegs), len(b"".join(jpegs)))


def test_the_bytes_depend_on_nothing_but_the_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = {"v_A_g01_c01": grey_jpegs(4), "v_A_g01_c02": grey_jpegs(7)}
    first = write_shard(tmp_path / "a.tar", videos).read_bytes()
    monkeypatch.setattr("time.time", lambda: 1.5e9)
    mask = os.umask(0o077)
    try:
        assert write_shard(tmp_path / "b.tar", videos).read_bytes() == first
    finally:
        os.umask(mask)
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert {(m.uid, m.gid, m.uname, m.gname, m.mtime, m.mode) for m in tar} == {(0, 0, "", "", 0, 0o444)}


def test_it_reads_like_a_shard_by_webdatasets_own_writer(tmp_path: Path) -> None:
    ours = write_shard(tmp_path / "ours.tar", {"v_A_g01_c01": grey_jpegs(4), "v_A_g01_c02": grey_jpegs(7)})
    read = webdataset_reads(ours)
    with (tmp_path / "theirs.tar").open("wb") as stream, webdataset.TarWriter(stream, mtime=0) as writer:
        for key, info, frames in read:
            writer.write({"__key__": key, "json": json.dumps(info, sort_keys=True).encode(), "mjpeg": frames})
    assert webdataset_reads(tmp_path / "theirs.tar") == read
    members = []
    for path in (ours, tmp_path / "theirs.tar"):
        with tarfile.open(path) as tar:
            members.append([(m.name, m.size, m.mtime, m.mode, tar.extractfile(m).read()) for m in tar])
    assert members[0] == members[1]


def test_plain_tar_webdataset_and_ffmpeg_read_the_shards(shards: Path, tmp_path: Path) -> None:
    shard = sorted((shards / "10").glob("train-*.tar"))[0]
    listing = subprocess.run(["tar", "tvf", shard], capture_output=True, text=True, check=True).stdout
    read = webdataset_reads(shard)
    assert len(read) == 8 == len(listing.splitlines()) / 2
    assert [key for key, _, _ in read] == [video.key for video in open_shard(shard)]
    key, info, data = read[0]
    frames = [data[a:b] for a, b in zip(info["offsets"], info["offsets"][1:], strict=False)]
    assert all(open_jpeg(frame).shape == (32, 32, 3) for frame in frames)
    subprocess.run(["tar", "xf", shard, f"{key}.mjpeg"], cwd=tmp_path, check=True)
    played = reference_decode(tmp_path / f"{key}.mjpeg", height=32, width=32)
    assert len(played) == info["frames"] == len(frames)


def test_writing_holds_one_frame_at_a_time(tmp_path: Path) -> None:
    shard, frame = ShardFile(tmp_path / "x.tar"), 200_000
    tracemalloc.start()
    try:
        shard.add("v_A_g01_c01", (bytes(frame) for _ in range(100)), [frame] * 100, **FACTS)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    shard.close()
    assert (tmp_path / "x.tar").stat().st_size > 100 * frame
    assert peak < 10 * frame


@pytest.mark.parametrize(("start", "length"), [(0, 6), (3, 4), (9, 1), (0, 10)])
def test_reading_frames_of_a_stored_video(shard: Path, start: int, length: int) -> None:
    (video,) = open_shard(shard)
    levels = [open_jpeg(jpeg).mean() / 5 for jpeg in video.jpegs(start, length)]
    assert [round(level) for level in levels] == list(range(start, start + length))


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (5, 6), (0, 0), (10, 1)])
def test_frames_outside_the_video_are_refused(shard: Path, start: int, length: int) -> None:
    (video,) = open_shard(shard)
    with pytest.raises(IndexError, match="which has 10"):
        video.jpegs(start, length)


def test_a_shard_cut_short_after_it_was_opened_is_noticed(shard: Path) -> None:
    (video,) = open_shard(shard)
    os.truncate(shard, video.start + video.info.offsets[8] + 1)
    assert len(video.jpegs(0, 8)) == 8
    with pytest.raises(ValueError, match=r"train-00000\.tar ends inside v_A_g01_c00; make it again with: dvc repro"):
        video.jpegs(5, 4)


def test_missing_shards_are_a_clear_error(shard: Path) -> None:
    with pytest.raises(ValueError, match=r"no shard test-\*\.tar in .*; make them with: dvc repro decode"):
        open_videos(shard.parent, "test")


def test_shards_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for label in (2, 0, 1):
        stored_video(tmp_path, 3, label=label)
    stored_video(tmp_path, 3, split="test", label=3)
    assert [video.info.label for video in open_videos(tmp_path, "train")] == [0, 1, 2]


@pytest.mark.parametrize("damage", ["half", "one video", "one member", "no end", "swapped", "json", "empty"])
def test_broken_shards_are_refused(tmp_path: Path, damage: str) -> None:
    path = write_shard(tmp_path / "train-00000.tar", {"v_A_g01_c01": grey_jpegs(4), "v_B_g01_c01": grey_jpegs(7)})
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        _, frames, second, _ = (member.offset for member in tar)
        end = tar.offset
    broken = {
        "half": whole[: len(whole) // 2],
        "one video": whole[:second],
        "one member": whole[:frames],
        "no end": whole[:end],
        "swapped": whole[frames:second] + whole[:frames] + whole[second:],
        "json": whole.replace(b'"frames": 7', b'"frames": 8'),
        "empty": b"",
    }
    assert len(open_videos(tmp_path, "train")) == 2
    path.write_bytes(broken[damage])
    with pytest.raises(ValueError, match=r"train-00000\.tar is not a whole shard .*; make it again with: dvc repro"):
        open_videos(tmp_path, "train")
