"""The generated data set: official form, same bytes every time, the motion its class says, and no more than that."""

from types import SimpleNamespace

import imageio_ffmpeg
import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from scipy.stats import ks_2samp, kstest

from pipeline.datasets import motions, sprites
from pipeline.datasets.motions import CLASSES, MotionsConfig
from pipeline.datasets.sprites import ANGLE, OCTAVE, PERIODS, SPEEDS, X, Y
from pipeline.settings import ParamsError, from_dict
from tests.support.decode import stand_in
from tests.support.videos import files

SMALL = SimpleNamespace(seed=3, groups=1, clips=1, frames=12)  # smaller than the settings allow
LONG = MotionsConfig(seed=0, groups=25, clips=2, frames=50)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("motions")
    motions.generate(SMALL, folder, workers=2)
    return folder


# --- files -----------------------------------------------------------------------------------------------------------


def test_layout_is_ucf101s(folder):
    assert list(CLASSES) == sorted(CLASSES)
    lists = [f"{kind}list{split:02}.txt" for kind in ("train", "test") for split in (1, 2, 3)]
    expected = {f"ucfTrainTestlist/{name}" for name in ["classInd.txt", *lists]}
    assert set(files(folder)) == expected | {f"UCF-101/{name}/v_{name}_g01_c01.avi" for name in CLASSES}


@pytest.mark.parametrize("groups", [22, 25])
def test_lists_are_official_and_hold_groups_together(tmp_path, groups):
    names = [(name, group, clip) for name in CLASSES for group in range(1, groups + 1) for clip in (1, 2)]
    sprites.write_lists(CLASSES, names, tmp_path)

    def lines(name):
        text = (tmp_path / name).read_bytes().decode()
        assert text.endswith("\r\n")
        assert text.count("\n") == text.count("\r\n")
        return text.split("\r\n")[:-1]

    assert lines("classInd.txt") == [f"{label} {name}" for label, name in enumerate(CLASSES, start=1)]
    everything = {f"{name}/v_{name}_g{group:02}_c{clip:02}.avi" for name, group, clip in names}
    for split in (1, 2, 3):
        train = dict(line.split(" ") for line in lines(f"trainlist{split:02}.txt"))
        test = lines(f"testlist{split:02}.txt")
        assert set(train) | set(test) == everything
        assert len(train) + len(test) == len(everything)
        assert all(CLASSES[int(label) - 1] == path.split("/")[0] for path, label in train.items())
        tested = {int(path.split("_g")[1][:2]) for path in test}
        assert tested == set(range(7 * split - 6, 7 * split + 1))
        assert {int(path.split("_g")[1][:2]) for path in train} == set(range(1, groups + 1)) - tested


def test_bytes_depend_on_the_seed_only(folder, tmp_path):
    motions.generate(SMALL, tmp_path / "one", workers=1)
    assert files(tmp_path / "one") == files(folder)
    other = SimpleNamespace(**vars(SMALL) | {"seed": 4})
    (tmp_path / "ZoomIn").mkdir()
    sprites.write_video(other, motions.render, tmp_path, ("ZoomIn", 1, 1))
    video = "ZoomIn/v_ZoomIn_g01_c01.avi"
    assert (tmp_path / video).read_bytes() != (folder / "UCF-101" / video).read_bytes()


@pytest.mark.parametrize("name", CLASSES)
def test_videos_are_real(folder, name):
    path = folder / "UCF-101" / name / f"v_{name}_g01_c01.avi"
    header = path.read_bytes()[:256]
    assert header[:4] + header[8:12] == b"RIFFAVI "
    assert header[header.index(b"vids") :][:8] == b"vidsXVID"
    assert header[header.index(b"strf") :][24:28] == b"XVID"
    decoded = imageio_ffmpeg.read_frames(str(path))
    meta = next(decoded)
    assert (meta["size"], meta["fps"], meta["pix_fmt"][:7]) == ((320, 240), 25, "yuv420p")
    assert "audio_codec" not in meta
    frames = np.stack([np.frombuffer(frame, np.uint8).reshape(240, 320, 3) for frame in decoded])
    rendered = motions.render(SMALL, name, 1, 1)
    assert frames.shape == rendered.shape == (12, 240, 320, 3)
    assert ((frames.astype(float) - rendered) ** 2).mean() < 255**2 / 10**3  # 30 dB


def test_a_failed_encoding_names_the_file_and_leaves_nothing(tmp_path, monkeypatch):
    fails = '*) for a; do case "$a" in *.avi) echo half > "$a";; esac; done; echo no room >&2; exit 1'
    for name, value in stand_in(tmp_path / "ffmpeg", fails).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match=r"v_ZoomIn_g01_c01\.avi.*no room"):
        sprites.write_video(SMALL, motions.render, tmp_path / "out", ("ZoomIn", 1, 1))
    assert list((tmp_path / "out" / "ZoomIn").iterdir()) == []


# --- motion ----------------------------------------------------------------------------------------------------------


def peak(first, second, axes):
    """The cyclic shift (signed pixels, one an axis) that takes `first` to `second`, by phase correlation."""
    spectrum = np.conj(np.fft.fftn(first, axes=axes)) * np.fft.fftn(second, axes=axes)
    correlation = np.fft.ifftn(spectrum / (np.abs(spectrum) ** 0.5 + 1e-9), axes=axes).real
    correlation = correlation.sum(tuple(set(range(first.ndim)) - set(axes)))
    at = np.unravel_index(correlation.argmax(), correlation.shape)
    return [(i + n // 2) % n - n // 2 for i, n in zip(at, correlation.shape, strict=True)]


def around(frame, centre, radius, angle, scale=1.0):
    """Pixels of `frame` (H, W, 3) on a polar grid (angle, radius, 3) about centre (x, y), the image being a torus."""
    x = centre[0] + scale * radius * np.cos(angle) - 0.5
    y = centre[1] + scale * radius * np.sin(angle) - 0.5
    planes = [map_coordinates(plane, [y, x], order=1, mode="grid-wrap") for plane in np.moveaxis(frame, 2, 0)]
    return np.stack(planes, axis=2)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(
    ("name", "direction"),
    {"TranslateLeft": (-1, 0), "TranslateRight": (1, 0), "TranslateUp": (0, -1), "TranslateDown": (0, 1)}.items(),
)
def test_translation_by_phase_correlation(name, direction, group):
    frames = motions.render(LONG, name, group, 1).mean(3)
    moving = frames - np.median(frames, axis=0)  # the sprite passes each pixel less than half of the time
    dy, dx = np.median([peak(moving[t], moving[t + 5], (0, 1)) for t in range(0, 45, 4)], axis=0)
    along, across = dx * direction[0] + dy * direction[1], abs(dx * direction[1]) + abs(dy * direction[0])
    assert across <= 1
    assert 5 * 3 - 1 <= along <= 5 * 6 + 1


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(("name", "sign"), [("RotateClockwise", 1), ("RotateCounterclockwise", -1)])
def test_rotation_on_a_polar_grid(name, sign, group):
    frames = motions.render(LONG, name, group, 1).astype(float)
    centre = motions.trajectory(LONG, name, group, 1)[0, :2]
    # y points down, so growing angles run clockwise on the screen; radii within the sprite
    angle, radius = np.meshgrid(np.radians(np.arange(360)), np.arange(4, 20), indexing="ij")
    polar = [around(frame, centre, radius, angle) for frame in frames[:20]]
    (turn,) = np.median([peak(polar[t], polar[t + 5], (0,)) for t in range(15)], axis=0)
    assert 5 * 4 - 1 <= sign * turn <= 5 * 8 + 1


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(("name", "sign"), [("ZoomIn", 1), ("ZoomOut", -1)])
def test_zoom_by_search_of_the_scale(name, sign, group):
    frames = motions.render(LONG, name, group, 1).astype(float)
    trajectory = motions.trajectory(LONG, name, group, 1)
    centre, octave = trajectory[0, :2], trajectory[:, OCTAVE]
    angle, radius = np.meshgrid(np.radians(np.arange(0, 360, 3)), np.arange(2, 21), indexing="ij")
    growths = np.arange(-60, 61, 4) / 1000

    def best(first, second):
        here = around(first, centre, radius, angle)
        errors = [np.abs(around(second, centre, radius, angle, 1 + growth) - here).mean() for growth in growths]
        return growths[np.argmin(errors)]

    # in the upper half octave the inner copy neither fades nor lets the outer one through
    steady = [t for t in range(49) if octave[t] > 0.5 and octave[t + 1] > 0.5]
    growth = np.median([best(frames[t], frames[t + 1]) for t in steady[::3]])
    assert 0.022 <= sign * growth <= 0.043


@pytest.mark.parametrize("name", ["ZoomIn", "ZoomOut"])
def test_scale_wraps_without_a_pop(name):
    frames = motions.render(LONG, name, 1, 1).astype(float)
    octave = motions.trajectory(LONG, name, 1, 1)[:, OCTAVE]
    changes = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
    wraps = np.abs(np.diff(octave)) > 0.5
    assert wraps.any()
    assert changes[wraps].max() <= changes[~wraps].max()


# --- a single frame says nothing of the class ------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, -1])
def test_state_at_a_frame_is_uniform_in_every_class(at):
    config = MotionsConfig(seed=0, groups=25, clips=20, frames=50)
    clips = [(group, clip) for group in range(1, 26) for clip in range(1, 21)]
    states = np.array([[motions.trajectory(config, name, *clip)[at] for clip in clips] for name in CLASSES])
    assert states.shape == (len(CLASSES), 500, 4)
    # 32 tests of each kind: p below 0.0003 would be a surprise of one in a hundred
    for label in range(len(CLASSES)):
        others = np.delete(states, label, axis=0).reshape(-1, 4)
        for circle in (X, Y, ANGLE, OCTAVE):
            assert kstest(states[label, :, circle] / PERIODS[circle], "uniform").pvalue > 3e-4
            assert ks_2samp(states[label, :, circle], others[:, circle]).pvalue > 3e-4


def test_class_reaches_a_video_only_by_its_random_stream_and_its_motion(monkeypatch):
    monkeypatch.setattr(
        motions, "_rng", lambda config, class_name, group, clip: np.random.default_rng([config.seed, group, clip])
    )
    first = [motions.render(SMALL, name, 1, 1)[0] for name in CLASSES]
    assert all((frame == first[0]).all() for frame in first)
    moved = [np.ptp(motions.trajectory(SMALL, name, 1, 1), axis=0) > 0 for name in CLASSES]
    assert all(circles.sum() == 1 for circles in moved)


def test_speeds_of_both_senses_share_a_range():
    config = MotionsConfig(seed=1, groups=25, clips=8, frames=20)
    for circle in (X, Y, ANGLE, OCTAVE):
        speeds = []
        for name in (name for name, (moving, _) in motions.MOTIONS.items() if moving == circle):
            clips = [motions.trajectory(config, name, group, clip) for group in range(1, 26) for clip in range(1, 9)]
            steps = np.diff(np.array(clips)[:, :2, circle], axis=1)[:, 0]
            speeds.append(np.abs((steps + PERIODS[circle] / 2) % PERIODS[circle] - PERIODS[circle] / 2))
            assert SPEEDS[circle][0] - 1e-9 <= speeds[-1].min() <= speeds[-1].max() <= SPEEDS[circle][1] + 1e-9
        assert ks_2samp(*speeds).pvalue > 0.003


def test_scene_is_the_groups_and_start_and_speed_are_the_clips():
    frames = {at: motions.render(LONG, "TranslateRight", *at) for at in [(1, 1), (1, 2), (2, 1)]}
    background = {at: np.median(frames[at], axis=0) for at in frames}
    assert np.median(np.abs(background[1, 1] - background[1, 2])) == 0
    assert np.median(np.abs(background[1, 1] - background[2, 1])) > 5
    states = [motions.trajectory(LONG, "TranslateRight", 1, clip) for clip in (1, 2)]
    assert (states[0][0] != states[1][0]).all()
    assert not np.allclose(np.diff(states[0][:2, X]), np.diff(states[1][:2, X]))


# --- config ----------------------------------------------------------------------------------------------------------


def test_bad_config_is_refused_with_its_keys():
    with pytest.raises(ParamsError) as refusal:
        from_dict(
            {"seed": -1, "groups": 21, "clips": 0, "frames": 11, "size": 1}, MotionsConfig, where="source.motions"
        )
    for message in (
        "source.motions.seed: -1 is not allowed; allowed: an integer, at least 0",
        "source.motions.groups: 21 is not allowed; allowed: an integer, at least 22, at most 25",
        "source.motions.clips: 0 is not allowed; allowed: an integer, at least 1, at most 99",
        "source.motions.frames: 11 is not allowed; allowed: an integer, at least 20",
        "source.motions.size: unknown key",
    ):
        assert message in str(refusal.value)


def test_workers_must_be_at_least_one(tmp_path):
    with pytest.raises(ValueError, match="workers: 0 is out of range"):
        motions.generate(SMALL, tmp_path, workers=0)
