"""The data set of orders: its classes share frames and pairs of neighbouring frames exactly, and their names say the
order that is left to tell them by."""

import re
from collections import Counter
from fractions import Fraction
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import chisquare, ks_2samp

from pipeline.datasets import orders
from pipeline.datasets.orders import CLASSES, OrdersConfig
from pipeline.datasets.source import fetch
from pipeline.datasets.sprites import ANGLE, OCTAVE, PERIODS, SPEEDS, X, Y
from pipeline.datasets.table import files_of
from pipeline.decode.dataset import decode_dataset
from pipeline.decode.resample import resample
from pipeline.settings import ParamsError, from_dict
from tests.support.decode import decode_config
from tests.support.sources import source
from tests.support.videos import files

SMALL = SimpleNamespace(seed=3, groups=1, clips=1, frames=25)  # fewer groups than the settings allow
CONFIG = OrdersConfig(seed=0, groups=25, clips=40, frames=50)
SOME = [(group, clip) for group in (1, 2, 25) for clip in (1, 2, 40)]
CYCLE = 25  # frames
ALL = [(group, clip) for group in range(1, 26) for clip in range(1, 41)]
# the words of class names: which circle, in which sense at first
MEANING = {"Slide": (X, +1), "Lift": (Y, -1), "Turn": (ANGLE, +1), "Zoom": (OCTAVE, +1)}


def lasting(frames: int) -> OrdersConfig:
    return OrdersConfig(seed=0, groups=25, clips=40, frames=frames)


def words(class_name: str) -> list[str]:
    return re.findall("[A-Z][a-z]+", class_name)


def away(states: np.ndarray) -> np.ndarray:
    """How far (T, 4) each state is from the one that the video shows most often, along each circle."""
    distinct, counts = np.unique(states.round(9), axis=0, return_counts=True)
    return (states - distinct[counts.argmax()] + PERIODS / 2) % PERIODS - PERIODS / 2


def moved(states: np.ndarray) -> np.ndarray:
    """The circle (T,) along which each state is away, or −1."""
    off = np.abs(away(states)) > 1e-6
    assert (off.sum(1) <= 1).all()
    return np.where(off.any(1), off.argmax(1), -1)


def seen_order(states: np.ndarray, times: np.ndarray) -> str:
    """The class, from states at some of the times 0 … 24: what comes in turn after the longest stillness."""
    circles = moved(states)
    times, circles = times[circles >= 0], circles[circles >= 0]
    begin = np.diff(times, prepend=times[-1] - CYCLE).argmax()
    in_turn = np.roll(circles, -begin)
    changes = in_turn[np.diff(in_turn, prepend=-1) != 0]
    return "".join(name for circle in changes for name, (meant, _) in MEANING.items() if meant == circle)


@cache
def every_video(class_name: str) -> np.ndarray:
    """The states (1000, T, 4) of the class's videos of ALL."""
    return np.array([orders.trajectory(CONFIG, class_name, *at) for at in ALL])


@cache
def every_movement(class_name: str) -> np.ndarray:
    """What has moved (1000, T) in them."""
    return np.array([moved(states) for states in every_video(class_name)])


def sorted_rows(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T)]


def shown_at(rate: int, frames: int) -> np.ndarray:
    """Which of so many frames at 25 fps are shown."""
    return resample(np.arange(frames), Fraction(1, 25), rate)


def pairs(states: np.ndarray, apart: int = 1) -> np.ndarray:
    """All pairs (T, 8) of states that are so many places apart, in whole cycles."""
    return sorted_rows(np.hstack([states, np.roll(states, -apart, axis=0)]))


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_stages_take_all_videos_without_a_remark(tmp_path):
    assert len(CLASSES) == 8
    assert list(CLASSES) == sorted(CLASSES)
    table = fetch(source("orders"), tmp_path, downloads=tmp_path / "none")
    names = [f"{name}/v_{name}_g{group:02}_c01.avi" for name in CLASSES for group in range(1, 23)]
    assert sorted(files_of(table, tmp_path)) == names
    manifest = decode_dataset(tmp_path, decode_config(), work=tmp_path / "work")
    assert manifest["video"].tolist() == names
    assert manifest["label"].tolist() == [label for label in range(8) for _ in range(22)]
    splits = ["test"] * 7 + ["train"] * 14 + ["validation"]
    assert manifest["split"].tolist() == splits * 8
    assert set(manifest["verdict"]) == {"good"}
    assert set(manifest["reason"]) == {""}
    assert set(manifest["frames"]) == {25}


def test_bytes_do_not_depend_on_the_workers(tmp_path):
    for workers in (1, 2):
        orders.generate(SMALL, tmp_path / str(workers), workers=workers)
    made = files(tmp_path / "1")
    assert files(tmp_path / "2") == made
    videos = {name: content for name, content in made.items() if name.endswith(".avi")}
    assert sorted(videos) == [f"UCF-101/{name}/v_{name}_g01_c01.avi" for name in CLASSES]
    assert len(set(videos.values())) == len(videos)


def test_the_seed_changes_scene_and_motion():
    other = SimpleNamespace(**vars(SMALL) | {"seed": 4})
    name = CLASSES[0]
    assert (orders.trajectory(SMALL, name, 1, 1)[0] != orders.trajectory(other, name, 1, 1)[0]).all()
    assert np.median(np.abs(orders.render(SMALL, name, 1, 1)[0].astype(int) - orders.render(other, name, 1, 1)[0])) > 5


# --- the order is the class's ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("rate", [25, 15, 10])
def test_the_name_is_the_order(name, rate):
    assert sorted(words(name)) == sorted(MEANING)
    times = shown_at(rate, CYCLE)
    for at in ALL[::10]:
        assert seen_order(orders.trajectory(CONFIG, name, *at)[times], times) == name


@pytest.mark.parametrize("name", CLASSES)
def test_every_cycle_is_the_first_again(name):
    for at in SOME:
        states = orders.trajectory(lasting(90), name, *at)
        assert (states[CYCLE:] == states[:-CYCLE]).all()


@pytest.mark.parametrize("name", CLASSES)
def test_half_of_the_classes_are_the_others_backwards(name):
    backwards = "".join(reversed(words(name)))
    assert backwards in CLASSES
    for at in SOME:
        states = orders.trajectory(CONFIG, name, *at)[::-1]
        other = orders.trajectory(CONFIG, backwards, *at)
        assert any((np.roll(states, shift, axis=0) == other).all() for shift in range(50))


def test_a_movement_goes_out_and_back():
    speeds = []
    for at in SOME:
        far = away(orders.trajectory(CONFIG, CLASSES[0], *at)[:CYCLE])
        for circle, sign in MEANING.values():
            excursion = sign * far[:, circle][np.abs(far[:, circle]) > 1e-6]
            np.testing.assert_allclose(excursion, excursion[0] / 2 * np.array([2, 3, 3, 2]), rtol=1e-6)
            assert SPEEDS[circle][0] - 1e-9 <= excursion[0] / 2 <= SPEEDS[circle][1] + 1e-9
        speeds.append(np.abs(far).max(0))
    assert all(len(np.unique(column)) == len(SOME) for column in np.array(speeds).T)


# --- and all that it changes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 1, 10, 20])
def test_all_classes_visit_the_same_states_in_a_cycle(first):
    for at in SOME:
        videos = [orders.trajectory(CONFIG, name, *at) for name in CLASSES]
        states = [sorted_rows(video[first : first + CYCLE]) for video in videos]
        assert all((each == states[0]).all() for each in states)


@pytest.mark.parametrize("frames", [25, 50])
@pytest.mark.parametrize("rate", [25, 15, 10])
def test_all_classes_have_the_same_pairs_of_neighbours(frames, rate):
    times = shown_at(rate, frames)
    for at in SOME:
        there = [pairs(orders.trajectory(lasting(frames), name, *at)[times]) for name in CLASSES]
        assert all((each == there[0]).all() for each in there)


def test_pairs_further_apart_tell_the_classes():
    """What the test above would say of a pair that shows which movement comes next."""
    there = [pairs(orders.trajectory(CONFIG, name, 1, 1), 5) for name in CLASSES]
    assert sum((a == b).all() for a in there for b in there) == len(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("at", [2, 24, 47])
def test_any_movement_is_as_likely_at_any_place(name, at):
    """24 tests, and the beginnings that all classes share: p below 0.0003 would be a surprise of less than one in a
    hundred."""
    counts = Counter(every_movement(name)[:, at])
    assert chisquare([counts[circle] for circle in (-1, X, Y, ANGLE, OCTAVE)]).pvalue > 3e-4


@pytest.mark.parametrize(("first", "second"), [(0, 2), (22, 25), (31, 32)])
def test_the_displacement_of_a_pair_has_one_distribution(first, second):
    videos = np.array([every_video(name)[:, [first, second]] for name in CLASSES])
    steps = (videos[:, :, 1] - videos[:, :, 0] + PERIODS / 2) % PERIODS - PERIODS / 2  # (class, video, circle)
    for label in range(len(CLASSES)):
        others = np.delete(steps, label, axis=0).reshape(-1, 4)
        for circle in (X, Y, ANGLE, OCTAVE):
            assert ks_2samp(steps[label, :, circle], others[:, circle]).pvalue > 3e-4


def test_all_classes_show_the_same_frames_of_a_scene():
    for at in [(1, 1), (25, 2)]:
        shown = [Counter(frame.tobytes() for frame in orders.render(SMALL, name, *at)) for name in CLASSES]
        assert all(each == shown[0] for each in shown)
        assert len(shown[0]) == 1 + 4 * 2  # the start, and each movement at two and at three steps
    backgrounds = [np.median(orders.render(SMALL, CLASSES[0], *at), axis=0) for at in [(1, 1), (1, 2), (2, 1)]]
    assert np.median(np.abs(backgrounds[0] - backgrounds[1])) == 0
    assert np.median(np.abs(backgrounds[0] - backgrounds[2])) > 5


# --- config ----------------------------------------------------------------------------------------------------------


def test_bad_config_is_refused_with_its_keys():
    with pytest.raises(ParamsError) as refusal:
        from_dict({"seed": -1, "groups": 26, "clips": 100, "frames": 42}, OrdersConfig, where="source.orders")
    for message in (
        "source.orders.seed: -1 is not allowed; allowed: an integer, at least 0",
        "source.orders.groups: 26 is not allowed; allowed: an integer, at least 22, at most 25",
        "source.orders.clips: 100 is not allowed; allowed: an integer, at least 1, at most 99",
        "source.orders.frames: 42 is not allowed; allowed: an integer, at least 25, a multiple of 5",
    ):
        assert message in str(refusal.value)
    with pytest.raises(ParamsError, match=r"source\.orders\.frames: 20 is not allowed"):
        source("orders", frames=20)
    assert source("orders", clips=6).orders == OrdersConfig(seed=0, groups=22, clips=6, frames=25)
