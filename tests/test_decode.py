"""One encoded video: its frames in display order, their times, colours and quality, and which of them make a rate."""

import io
import os
import shutil
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.clips.shards import RATES
from pipeline.decode.container import VideoError
from pipeline.decode.resample import resample
from pipeline.decode.video import DecodedVideo, decode
from tests.support.videos import encode, nearest_by_hand, open_jpeg, reference_decode, zeroed

BEST = ("-c:v", "libxvid", "-q:v", "2")
GREYS = np.broadcast_to((np.arange(50) * 4).astype(np.uint8)[:, None, None, None], (50, 64, 96, 3))  # tell their number


def decoded(
    path: Path, scratch: Path, *, height: int = 32, width: int = 32, timeout_s: float = 60.0
) -> tuple[DecodedVideo, list[bytes]]:
    """The video, and its JPEGs."""
    video = decode(path, scratch, height=height, width=width, quality=96, timeout_s=timeout_s)
    data = video.frames.read_bytes()
    assert (video.offsets[0], video.offsets[-1], len(video.offsets)) == (0, len(data), len(video) + 1)
    return video, [data[a:b] for a, b in pairwise(video.offsets)]


def psnr_of_stored(path: Path, scratch: Path, *, height: int, width: int) -> np.ndarray:
    """Of every stored frame against the decoded one."""
    truth = reference_decode(path, height=height, width=width).astype(float)
    stored = np.stack([open_jpeg(jpeg) for jpeg in decoded(path, scratch, height=height, width=width)[1]])
    assert len(stored) == len(truth)
    return 10 * np.log10(255**2 / ((stored - truth) ** 2).mean((1, 2, 3)))


# --- which source frame stands where ---------------------------------------------------------------------------------


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


# --- frames and times ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "rate", "suffix"),
    [
        (BEST, "25", "avi"),
        ((*BEST, "-bf", "2"), "25", "avi"),
        (("-c:v", "mpeg4", "-vtag", "XVID", "-q:v", "2", "-bf", "2"), "30000/1001", "avi"),
        (("-c:v", "libx264", "-qp", "4", "-bf", "2"), "30", "mp4"),
    ],
)
def test_every_frame_once_in_display_order(tmp_path: Path, options, rate: str, suffix: str) -> None:
    video, jpegs = decoded(encode(tmp_path / f"x.{suffix}", GREYS, *options, rate=rate), tmp_path, width=64)
    levels = np.array([open_jpeg(jpeg).mean() for jpeg in jpegs])
    assert len(video) == len(levels) == 50
    assert np.abs(levels - np.arange(50) * 4).max() < 6
    assert open_jpeg(jpegs[0]).shape == (32, 64, 3)
    assert video.fps == Fraction(rate)
    assert (video.track.height, video.track.width) == (64, 96)
    assert all(gap == 1 / Fraction(rate) for gap in np.diff(video.pts) * video.track.tick)
    assert video.steady
    assert video.near_duplicates == 0


def test_a_variable_rate_is_seen_and_rounded_times_are_not(tmp_path: Path) -> None:
    h264 = ("-c:v", "libx264", "-qp", "4")
    later = ("-vf", "setpts=PTS+gte(N\\,20)*10", "-fps_mode", "passthrough")  # by ten frames, from frame 20 on
    video, _ = decoded(encode(tmp_path / "v.mkv", GREYS, *later, *h264), tmp_path)
    assert not video.steady
    assert (np.diff(video.pts) * video.track.tick)[18:21].tolist() == [
        Fraction(1, 25),
        Fraction(11, 25),
        Fraction(1, 25),
    ]
    ntsc, _ = decoded(encode(tmp_path / "n.mkv", GREYS, *h264, rate="30000/1001"), tmp_path)
    assert set(np.diff(ntsc.pts)) == {33, 34}  # milliseconds
    assert ntsc.steady


def test_frames_that_repeat_are_counted(tmp_path: Path) -> None:
    levels = np.repeat([10, 20, 30, 40], [1, 4, 2, 13]).astype(np.uint8)
    frames = np.repeat(levels, 64 * 96 * 3).reshape(20, 64, 96, 3)
    video, _ = decoded(encode(tmp_path / "x.mp4", frames, "-c:v", "libx264", "-qp", "4"), tmp_path)
    assert (len(video), video.near_duplicates) == (20, 16)


def test_real_packed_b_frames_and_ntsc_rates(real_clips: Path, tmp_path: Path) -> None:
    for clip, frames in {1: 150, 2: 176}.items():  # the constant-rate mode of ffmpeg makes the first 151
        video, _ = decoded(real_clips / "UCF-101" / "Archery" / f"v_Archery_g03_c0{clip}.avi", tmp_path)
        assert video.packed
        assert len(video) == video.header_frames == frames
        assert (video.missing_frames, video.damaged_frames) == (0, 0)
        assert np.diff(video.pts).tolist() == [1] * (frames - 1)
    # two frames are missing inside
    video, _ = decoded(real_clips / "UCF-101" / "HorseRace" / "v_HorseRace_g20_c01.avi", tmp_path)
    assert video.fps == Fraction(30000, 1001)
    assert (len(video), video.header_frames) == (365, 367)
    assert not video.steady
    times = [int(p) * video.track.tick for p in video.pts]
    assert resample(video.pts, video.track.tick, 10).tolist() == nearest_by_hand(times, 10)


# --- pixels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(128, 160), (64, 64)])
def test_stored_frames_are_close_to_the_decoded_ones(
    raw_motions: Path, tmp_path: Path, height: int, width: int
) -> None:
    path = sorted(raw_motions.rglob("*.avi"))[5]
    assert psnr_of_stored(path, tmp_path, height=height, width=width).min() >= 40  # every frame


def test_real_frames_are_close_to_the_decoded_ones(real_clips: Path, tmp_path: Path) -> None:
    paths = sorted((real_clips / "UCF-101").glob("*/*_g0[15]_c01.avi"))
    assert len(paths) == 12
    assert min(psnr_of_stored(path, tmp_path, height=128, width=160).mean() for path in paths) >= 40


def test_colours_of_any_matrix_come_out_right(tmp_path: Path) -> None:
    """A BT.709 source must not be stored as if it were BT.601, which is what a JPEG is read as."""
    colour = np.broadcast_to(np.array([60, 180, 40], np.uint8), (10, 64, 96, 3)).copy()
    tagged = encode(
        tmp_path / "x.mp4",
        colour,
        *("-vf", "scale=out_color_matrix=bt709", "-colorspace", "bt709", "-c:v", "libx264", "-qp", "1"),
    )
    for path in (tagged, encode(tmp_path / "x.avi", colour, *BEST)):
        _, jpegs = decoded(path, tmp_path)
        assert np.abs(open_jpeg(jpegs[0]).mean((0, 1)) - [60, 180, 40]).max() < 5
        assert {layer[1:3] for layer in Image.open(io.BytesIO(jpegs[0])).layer} == {(1, 1)}  # all of the chroma


def test_the_bytes_depend_on_the_video_alone(raw_motions: Path, tmp_path: Path) -> None:
    """Not on what was decoded in the same scratch folder before."""
    first, second = sorted(raw_motions.rglob("*.avi"))[:2]
    (tmp_path / "fresh").mkdir()
    _, alone = decoded(second, tmp_path / "fresh")
    _, before = decoded(first, tmp_path)
    _, after = decoded(second, tmp_path)
    assert alone == after != before


def test_a_name_that_is_not_utf8(raw_motions: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"latin-\xe9 %03d.avi")
    shutil.copy(next(raw_motions.rglob("*.avi")), path)
    assert len(decoded(path, tmp_path)[0]) == 30


def test_what_is_said_of_a_damaged_video_is_always_the_same(tmp_path: Path) -> None:
    """Though two threads of ffmpeg complain of it at the same time."""
    path = encode(tmp_path / "x.mp4", GREYS, "-c:v", "libx264", "-g", "12", "-movflags", "+faststart")
    path.write_bytes(zeroed(path.read_bytes(), 0.6, 0.75))
    said = set()
    for _ in range(8):
        found, _ = decoded(path, tmp_path)
        said.add((len(found), found.missing_frames, found.damaged_frames, found.complaint))
    assert len(said) == 1
    assert said.pop()[2] > 0


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"this is no video\n" * 50, b"RIFF\x00\x00\x00\x00AVI LIST"])
def test_what_is_no_video_is_refused_with_a_reason(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.avi").write_bytes(content)
    with pytest.raises(VideoError, match=r"^not a video: .") as error:
        decoded(tmp_path / "bad.avi", tmp_path)
    assert error.value.reason == "not a video"
    assert 0 < len(error.value.detail) < 200
    assert str(tmp_path) not in error.value.detail


def test_a_decoder_that_takes_too_long_is_stopped(raw_motions: Path, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"^time limit: decoding took longer than 0\.001 s$"):
        decoded(next(raw_motions.rglob("*.avi")), tmp_path, timeout_s=0.001)


def test_a_refusal_does_not_depend_on_the_video_before(tmp_path: Path) -> None:
    whole = encode(tmp_path / "x.avi", GREYS, "-c:v", "ffv1").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: whole.index(b"movi") + 100])  # in the first frame
    decoded(tmp_path / "x.avi", tmp_path)
    with pytest.raises(VideoError, match=r"\(0 frames decoded\)"):
        decoded(tmp_path / "cut.avi", tmp_path)
