"""The moving circle: files of the official form, a circle where the config says, and its centre as it is found."""

from dataclasses import replace

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import gaussian_blur

from pipeline.clips.clips import read_frames
from pipeline.clips.shards import open_videos
from pipeline.datasets import circles
from pipeline.datasets.circles import CLASSES, SEQUENCES, CirclesConfig, trajectory
from pipeline.datasets.source import fetch
from pipeline.datasets.table import read_table
from pipeline.decode.dataset import decode_dataset
from pipeline.decode.plan import plan_rows
from pipeline.evaluation.figures import filter_sheet
from pipeline.experiments.circle_errors import centre_errors, centres
from pipeline.experiments.filters import compare, most_varied, watch
from pipeline.nets.build import build_net
from pipeline.nets.ladder import LEVELS
from pipeline.nets.rollout import predict
from pipeline.settings import ParamsError, from_dict
from tests.support.decode import decode_config
from tests.support.evaluation import CARD, CPU
from tests.support.nets import small as fresh
from tests.support.sources import source
from tests.support.videos import files

TREE = {"seed": 3, "diameter": 60.0, "speed": 4.0, "frames": 30}
CONFIG = CirclesConfig(**TREE)
DECODE = decode_config(height=64, width=64, validation_groups=(22, 23, 24, 25))


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    raw = tmp_path_factory.mktemp("circles")
    fetch(source("circles", **TREE), raw, downloads=raw / "none")
    return raw


@pytest.fixture(scope="module")
def shards(raw, tmp_path_factory):
    """At 64 × 64 pixels, through the project's own decoding."""
    out = tmp_path_factory.mktemp("shards")
    decode_dataset(raw, DECODE, work=out)
    return out


def centre_in(frame):
    """An independent measure, of an RGB frame (H, W, 3): the middle of the bounding box of what is more red than blue,
    x and y in pixels."""
    rows, columns = np.nonzero(frame[..., 0].astype(int) > frame[..., 2])
    return (columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2


# --- files -----------------------------------------------------------------------------------------------------------


def test_five_sequences_are_trained_on_and_both_directions_held_out(raw):
    assert len(SEQUENCES) == 5
    assert list(CLASSES) == sorted(CLASSES)
    table = read_table(raw)
    assert dict(zip(table["action"], table["label"], strict=True)) == {"CircleLeft": 0, "CircleRight": 1}
    rows = plan_rows(table, DECODE)
    assert all(row.verdict == "good" for row in rows)
    groups = {(split, name): [] for split in ("train", "validation", "test") for name in CLASSES}
    for row in rows:
        groups[row.split, row.action].append(row.group)
    assert groups["train", "CircleLeft"] == [8, 10]
    assert groups["train", "CircleRight"] == [8, 9, 10]
    for name in CLASSES:
        assert groups["validation", name] == [22, 23, 24, 25]
        assert groups["test", name] == list(range(1, 8))
    assert (table["split1"] == table["split2"]).all()
    assert (table["split1"] == table["split3"]).all()


def test_bytes_depend_on_the_config_only(raw, tmp_path):
    circles.generate(CONFIG, tmp_path, workers=1)
    expected = {name: data for name, data in files(raw).items() if name != "videos.csv"}
    assert files(tmp_path) == expected


@pytest.mark.parametrize(("name", "group"), [("CircleLeft", 8), ("CircleRight", 9), ("CircleLeft", 25)])
def test_a_file_holds_the_circle_where_the_config_says(raw, name, group):
    decoded = imageio_ffmpeg.read_frames(str(raw / f"UCF-101/{name}/v_{name}_g{group:02}_c01.avi"))
    meta = next(decoded)
    assert (meta["size"], meta["fps"], meta["codec"]) == ((320, 240), 25, "mpeg4")
    found = [centre_in(np.frombuffer(frame, np.uint8).reshape(240, 320, 3)) for frame in decoded]
    assert len(found) == CONFIG.frames
    assert np.abs(np.array(found) - trajectory(CONFIG, name, group, 1)).max() < 1.5


# --- motion ----------------------------------------------------------------------------------------------------------


def test_it_moves_horizontally_at_one_speed_and_stays_inside():
    config = CirclesConfig(seed=0, diameter=120.0, speed=4.0, frames=51)  # 320 pixels: no room to shift
    for settings in (CONFIG, config):
        for name, group, clip in circles.names():
            x, y = trajectory(settings, name, group, clip).T
            assert np.ptp(y) == 0
            assert np.allclose(np.diff(x), 4 if name == "CircleRight" else -4)
            radius = settings.diameter / 2
            assert min(x.min(), 320 - x.max(), y.min(), 240 - y.max()) >= radius - 1e-9


def test_two_sequences_are_mirror_images():
    for group in (8, 10):
        right, left = (circles.render(CONFIG, name, group, 1) for name in ("CircleRight", "CircleLeft"))
        assert np.array_equal(right[:, :, ::-1], left)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 70}, r": diameter 60 and 69 steps of speed 4 are 336 pixels; allowed: at most 320"),
        ({"speed": 9.0}, r"\.speed: 9\.0 is not allowed; allowed: a number, at least 1, at most 8"),
    ],
)
def test_a_circle_that_would_leave_is_refused(change, message):
    with pytest.raises(ParamsError, match=rf"source\.circles{message}"):
        from_dict({**TREE, **change}, CirclesConfig, where="source.circles")


# --- centres ---------------------------------------------------------------------------------------------------------


def test_centres_in_stored_frames_are_the_configs(shards):
    videos = open_videos(shards / "25", "train") + open_videos(shards / "25", "test")
    assert len(videos) == 19
    for video in videos:
        frames = read_frames(video, 0, video.info.frames).float() / 255
        truth = trajectory(CONFIG, video.info.action, video.info.group, 1) * [64 / 320, 64 / 240]
        assert (centres(frames) - torch.from_numpy(truth)).norm(dim=1).max() < 0.15


def small(x, y, radius=6.0):
    """A circle on a plain background, (3, 48, 64), drawn from 8 × 8 points a pixel."""
    fine = (np.arange(64 * 8) + 0.5) / 8
    inside = np.hypot(fine - x, fine[: 48 * 8, None] - y) < radius
    share = inside.reshape(48, 8, 64, 8).mean((1, 3))[None]
    background, colour = np.array([[0.2, 0.3, 0.4], [0.9, 0.8, 0.2]]).reshape(2, 3, 1, 1)
    return torch.from_numpy(background + share * (colour - background)).float()


def test_blurred_faded_and_noisy_circles_are_found():
    frame, plain = small(20.3, 31.8), small(-50, -50)
    blurred = gaussian_blur(frame[None], [13, 13], [3.0, 3.0])[0]
    faded = plain + 0.3 * (frame - plain)
    noisy = frame + 0.05 * torch.randn(frame.shape)
    grid = frame + 0.1 * (-1) ** (torch.arange(64) + torch.arange(48)[:, None])
    found = centres(torch.stack([frame, blurred, faded, noisy, grid]))
    error = (found - torch.tensor([20.3, 31.8])).norm(dim=1)
    assert error[:3].max() < 0.05
    assert error[3:].max() < 0.3


def test_no_circle_is_nan():
    plain = small(-50, -50)
    faint = plain + 0.1 * (small(20, 20) - plain)
    noisy = plain + 0.05 * torch.randn(plain.shape)
    assert centres(torch.stack([plain, faint, noisy])).isnan().all()


SIZE = {"height": 64, "width": 64}
SQUARE = replace(CARD, **SIZE)


@pytest.fixture
def net():
    return fresh("lvln", **SIZE)


def test_copying_is_wrong_by_the_motion(shards, net):
    """4 pixels of 320 in a frame are 0.8 of 64."""
    videos = open_videos(shards / "25", "train")
    options = {"horizon": 3, "spacing": 9, "batch": 4, "pictures": 3, "device": CPU}
    table, pictures = centre_errors(net, SQUARE, videos, **options)
    for step, distance in {"1": 0.8, "2": 1.6, "3": 2.4}.items():
        assert table["copy_last"]["centre_error"][step] == pytest.approx(distance, abs=0.02)
        assert table["copy_last"]["lost"][step] == 0
        assert 0 <= table["model"]["lost"][step] <= 1
    assert table["data"] == {"clips": 15, "videos": 5, "context": 3}
    assert pictures.context.shape == pictures.targets.shape == pictures.predictions.shape == (3, 3, 3, 64, 64)
    assert centre_errors(net, SQUARE, videos, **{**options, "batch": 7})[0]["copy_last"] == table["copy_last"]


# --- filters ---------------------------------------------------------------------------------------------------------


def test_watched_states_are_those_of_a_prediction(net):
    clip = torch.rand(4, 3, 64, 64)
    net.train()
    found = watch(net, clip, block=2, gru=1)
    assert net.training
    assert found.shape == (4, 4, 16, 16)
    with torch.no_grad():
        _, states = predict(net.eval(), clip[None], horizon=1, clip_feedback=True)
    assert torch.allclose(found[-1], states[LEVELS[1]][1][0], atol=1e-6)


@pytest.mark.parametrize(
    ("block", "gru", "message"), [(0, 0, "block: 0 is out of"), (5, 0, "block"), (1, 3, "gru: 3 is")]
)
def test_no_such_filter(net, block, gru, message):
    with pytest.raises(ValueError, match=message):
        watch(net, torch.zeros(1, 3, 64, 64), block=block, gru=gru)


def test_the_filter_that_varies_most_after_training_is_shown(net, tmp_path):
    states = torch.zeros(3, 4, 2, 2)
    states[:, 1] = 0.9  # strong, but always the same
    states[2, 2, 0] = 0.5
    assert most_varied(states) == 2
    after = build_net("lvln", CARD.net, **SIZE)  # with other weights
    clip = torch.rand(3, 3, 64, 64)
    chosen, first, second = compare(net, after, clip, block=1, gru=2)
    assert str(chosen) == f"C1, ConvGRU 7×7, channel {chosen.channel}"
    assert torch.equal(second, watch(after, clip, block=1, gru=2)[:, chosen.channel])
    assert torch.equal(first, watch(net, clip, block=1, gru=2)[:, chosen.channel])
    for name in ("one.png", "two.png"):
        filter_sheet(tmp_path / name, frames=clip, before=first, after=second, title=str(chosen))
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert Image.open(tmp_path / "one.png").width > 400
