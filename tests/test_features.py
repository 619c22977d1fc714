"""Features of clips under every condition: references, what is refused, kill -9."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from pipeline.clips.batches import as_images
from pipeline.clips.clips import read_frames
from pipeline.clips.shards import names_digest, open_videos
from pipeline.nets.flow import lucas_kanade
from pipeline.nets.ladder import LEVELS, Ladder
from pipeline.nets.rollout import predict
from pipeline.probe import samples
from pipeline.probe.features import conditions
from pipeline.probe.features import extract as extract_module
from pipeline.probe.features.conditions import FeaturesConfig, Item, items, windows
from pipeline.probe.features.extract import extract, extract_features, features_of, load_probed
from pipeline.probe.features.memoryless import encoder_features, flow_features
from pipeline.probe.features.states import PREDICTIONS, STATES, extract_states, select
from pipeline.results import sha256_of
from pipeline.settings import from_dict
from pipeline.training.model_card import ModelCard
from pipeline.training.model_file import save_model
from tests.support.evaluation import CARD, CPU
from tests.support.import_closure import ROOT
from tests.support.killed import calls_in_a_fork
from tests.support.nets import VARIANTS, small
from tests.support.videos import files, moving_texture

CONFIG = FeaturesConfig(
    model="lvln",
    labels="actions",
    fps=10,
    clips=2,
    frames=3,
    choices=STATES,
    states="last",
    token_stride=8,
    untrained=2,
    batch=4,
    seed=0,
)
GRID = (4, 4)  # of frames of 32 × 32 pixels
ALIKE = {"rtol": 1e-3, "atol": 1e-4}


def net_of(name: str) -> Ladder:
    return small(name, height=32, width=32).eval()


def card_of(name: str) -> ModelCard:
    return replace(CARD, model=name, net=asdict(VARIANTS[name][1]))


def textures(*lengths: int) -> list[Tensor]:
    """Clips uint8 (T, 3, 32, 32)."""
    clips = (moving_texture(i, frames=length, height=32, width=32) for i, length in enumerate(lengths))
    return [torch.from_numpy(clip).permute(0, 3, 1, 2) for clip in clips]


def images_of(clip: Tensor) -> Tensor:
    return as_images(clip, height=32, width=32)


# --- hidden states ---------------------------------------------------------------------------------------------------


def test_the_reports_choices_and_their_sizes() -> None:
    """At 128 × 160 and width 64; every number tells its place, so that the order is checked too."""
    shapes = [(192, 64, 80), (192, 32, 40), (192, 16, 20), (192, 8, 10)]
    sizes = [int(np.prod(shape)) for shape in shapes]
    numbers = torch.arange(sum(sizes)).split(sizes)
    maps = [part.view(1, *shape) for part, shape in zip(numbers, shapes, strict=True)]
    states = {name: level.chunk(3, 1) for name, level in zip(LEVELS, maps, strict=True)}
    chosen = select(states, [level.double() for level in maps], grid=(8, 10))
    assert chosen["deepest"].shape == (1, 15_360)
    assert chosen["subsample"].shape == (1, 10_080)
    assert chosen["subsample"][0].tolist() == list(range(0, sum(sizes[:3]), 128))
    assert chosen["deepest"][0].tolist() == list(range(sum(sizes[:3]), sum(sizes)))


def test_pooled_and_tokens_by_numpy() -> None:
    """Means of blocks where a level is finer than the grid, the nearest place where it is coarser."""
    maps = [torch.randn(2, 3, 8, 16), torch.randn(2, 5, 2, 4)]
    states = {level: (torch.zeros(2, 1, 1, 1),) for level in LEVELS}
    chosen = select(states, maps, grid=(4, 8))
    fine, coarse = (level.numpy() for level in maps)
    pooled = [f(level, axis=(2, 3)) for level in (fine, coarse) for f in (np.mean, np.max)]
    np.testing.assert_allclose(chosen["pooled"], np.concatenate(pooled, 1), rtol=1e-5, atol=1e-6)
    blocks = fine.reshape(2, 3, 4, 2, 8, 2).mean((3, 5))
    repeated = coarse.repeat(2, axis=2).repeat(2, axis=3)
    expected = np.concatenate([blocks, repeated], 1).reshape(2, 8, 32).transpose(0, 2, 1)
    np.testing.assert_allclose(chosen["attentive"], expected, rtol=1e-5, atol=1e-6)


def test_every_branch_is_among_the_hidden_maps() -> None:
    """lvln_warp remembers at full resolution and in its matched taps too; full_res begins at full resolution."""
    found = {}
    for name in VARIANTS:
        net = net_of(name)
        with torch.no_grad():
            _, states = net(torch.rand(1, 3, 32, 32))
        found[name] = [tuple(level.shape[1:]) for level in net.hidden(states)]
    ladder = [(12, 16, 16), (12, 8, 8), (12, 4, 4), (12, 2, 2)]
    assert found["lvln"] == found["one_frame"] == ladder
    assert found["full_res"] == [(3, 32, 32), (6, 16, 16), (12, 8, 8), (12, 4, 4)]
    warp = [(24, *shape[1:]) for shape in ladder]
    assert found["lvln_match"] == found["lvln_warp"] == [*warp, (2, 32, 32), (8, 16, 16), (8, 8, 8)]


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_the_memory_is_the_same_without_what_the_decoder_alone_needs(name: str) -> None:
    net, states = net_of(name), {True: None, False: None}
    for frame in images_of(*textures(4)):
        encoded = net.encode(frame[None])
        states = {decoding: net.observe(encoded, before, decoding=decoding) for decoding, before in states.items()}
        assert all(map(torch.equal, net.hidden(states[True]), net.hidden(states[False])))


@torch.no_grad()
def together(net: Ladder, clips: Sequence[Tensor], **options: object) -> dict[str, Tensor]:
    """Features of all clips by extract_states."""
    images = images_of(torch.cat(list(clips)))
    numbers = torch.arange(len(images)).split([len(clip) for clip in clips])
    encoded = net.project(net.tap(images) | {"frame": images})
    return extract_states(net, encoded, numbers, grid=GRID, longest=max(map(len, clips)), **options)


@torch.no_grad()
def step_by_step(net: Ladder, clip: Tensor) -> tuple[list[dict[str, np.ndarray]], list[np.ndarray]]:
    """One clip by itself: the features after each frame, and the prediction then, (3, 32, 32)."""
    found, predictions, states = [], [], None
    for frame in images_of(clip):
        predicted, states = net(frame[None], states)
        features = select(states, net.hidden(states), grid=GRID)
        found.append({name: value[0].numpy() for name, value in features.items()})
        predictions.append(predicted[0].clamp(0, 1).numpy())
    return found, predictions


def states_after(net: Ladder, clip: Tensor) -> dict[str, Tensor]:
    """What `last` is, by predict()."""
    with torch.no_grad():
        _, states = predict(net, images_of(clip)[None], horizon=1, clip_feedback=True)
    return {name: value[0] for name, value in select(states, net.hidden(states), grid=GRID).items()}


@pytest.mark.parametrize("name", VARIANTS)
def test_clips_of_different_lengths_advance_together(name: str) -> None:
    """Batched extraction equals feeding each clip by itself with predict()."""
    net, clips = net_of(name), textures(3, 6, 1, 6)
    found = together(net, clips)
    for i, clip in enumerate(clips):
        for key, value in states_after(net, clip).items():
            torch.testing.assert_close(found[key][i], value, **ALIKE)


@pytest.mark.parametrize("name", ["lvln", "lvln_warp"])
def test_states_of_every_step_by_a_loop(name: str) -> None:
    """What a shorter clip has not comes first, and is 0; tokens keep their places, and get more channels."""
    net, clips = net_of(name), textures(3, 5, 1)
    every, differences = (together(net, clips, steps=steps) for steps in ("every", "differences"))
    for i, clip in enumerate(clips):
        steps, _ = step_by_step(net, clip)
        for key, value in steps[-1].items():
            values = [step[key] for step in steps]
            changes = [values[t] - values[t - 1] for t in range(1, len(values))]
            missing = [np.zeros_like(value)] * (5 - len(values))
            np.testing.assert_allclose(every[key][i], np.concatenate([*missing, *values], -1), **ALIKE)
            np.testing.assert_allclose(differences[key][i], np.concatenate([*missing, *changes, value], -1), **ALIKE)
    assert every["attentive"].shape[1] == 16


@pytest.mark.parametrize("name", ["lvln", "full_res", "lvln_warp"])
@pytest.mark.parametrize("steps", ["last", "every"])
def test_predictions_by_a_loop(name: str, steps: str) -> None:
    """The flow to the prediction of the frame to come, and how far each frame was from the prediction before it."""
    net, clips = net_of(name), textures(3, 5, 1)
    found = together(net, clips, steps=steps, parts=(*STATES, *PREDICTIONS))
    for i, clip in enumerate(clips):
        _, predictions = step_by_step(net, clip)
        frames = images_of(clip).numpy()
        errors = np.zeros((16, 4))
        for t in range(1, len(clip)):
            off = np.abs(frames[t] - predictions[t - 1]).mean(0)
            errors[:, t - len(clip)] = off.reshape(4, 8, 4, 8).mean((1, 3)).reshape(16)
        np.testing.assert_allclose(found["errors"][i], errors, **ALIKE)
        flow = lucas_kanade(torch.from_numpy(predictions[-1])[None], torch.from_numpy(frames[-1])[None])[0].numpy()
        by_place = flow.reshape(2, 4, 8, 4, 8).mean((2, 4)).reshape(2, 16).T
        np.testing.assert_allclose(found["predicted"][i], by_place, rtol=1e-3, atol=1e-3)
    states = together(net, clips, steps=steps)
    assert found.keys() - states.keys() == {"predicted", "errors"}
    for key, value in states.items():
        torch.testing.assert_close(found[key], value)


# --- without a memory ------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_encoders_features_by_a_loop() -> None:
    net, clips = net_of("lvln"), textures(3, 1, 4)
    found = encoder_features(net.encoder, net.tap(images_of(torch.cat(clips))), [3, 1, 4])
    assert found.shape == (3, 1024)
    for i, clip in enumerate(clips):
        rows = []
        for image in images_of(clip):
            taps = net.encoder(image[None])
            maps = [*taps.values(), net.encoder.deepest(taps["layer3"])]
            rows.append(np.concatenate([tap[0].mean((1, 2)).numpy() for tap in maps]))
        np.testing.assert_allclose(found[i], np.mean(rows, 0), **ALIKE)


@pytest.mark.parametrize("lengths", [(4, 1, 3), (1, 1)])
def test_optical_flow_pair_by_pair(lengths: tuple[int, ...]) -> None:
    """A frame against the one before it; the last pair is the last, whatever the clip's length."""
    clips = textures(*lengths)
    found = flow_features(images_of(torch.cat(clips)), lengths, grid=GRID, longest=6)
    for i, clip in enumerate(clips):
        images, by_place, pooled = images_of(clip), np.zeros((16, 10)), np.zeros(40)
        for t in range(1, len(clip)):
            pair = 5 - len(clip) + t
            flow = lucas_kanade(images[t][None], images[t - 1][None])[0].numpy()  # (2, 32, 32)
            by_place[:, 2 * pair : 2 * pair + 2] = flow.reshape(2, 4, 8, 4, 8).mean((2, 4)).reshape(2, 16).T
            over_space = [flow.mean((1, 2)), flow.min((1, 2)), flow.max((1, 2)), np.abs(flow).mean((1, 2))]
            pooled[8 * pair : 8 * pair + 8] = np.concatenate(over_space)
        np.testing.assert_allclose(found["flow"][i], by_place, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(found["flow_pooled"][i], pooled, rtol=1e-3, atol=1e-3)
    if lengths[0] == 4:
        assert found["flow"][0, :, -2].mean() < -1  # the texture moves right by 2: what is here was further left


# --- conditions ------------------------------------------------------------------------------------------------------


def test_windows_are_spread_over_the_video(shards: Path) -> None:
    video = open_videos(shards / "10", "test")[0]
    frames = video.info.frames  # 30 at 25 fps
    assert frames == 12
    assert windows(video, CONFIG) == [(0, 3), (9, 3)]
    assert windows(video, replace(CONFIG, clips=4)) == [(0, 3), (3, 3), (6, 3), (9, 3)]
    assert windows(video, replace(CONFIG, clips=1)) == [(4, 3)]
    assert windows(video, replace(CONFIG, clips=1, frames=0)) == [(0, 12)]
    assert windows(video, replace(CONFIG, frames=40)) == [(0, 12), (0, 12)]


def test_conditions_change_the_order_and_nothing_else() -> None:
    for name in ("trained", "untrained_0"):
        assert conditions.order(name, 6, seed=(0, 5)).tolist() == [0, 1, 2, 3, 4, 5]
    assert conditions.order("still", 6, seed=(0, 5)).tolist() == [5] * 6
    shuffled = [conditions.order("shuffled", 6, seed=seed).tolist() for seed in ((0, 5), (0, 5), (0, 6), (1, 5))]
    assert all(sorted(each) == [0, 1, 2, 3, 4, 5] for each in shuffled)
    assert shuffled[0] == shuffled[1]
    assert shuffled[0] not in shuffled[2:]


def test_items_come_in_an_order_that_is_drawn_and_stays(shards: Path) -> None:
    by_split = {split: open_videos(shards / "10", split) for split in ("train", "test")}
    found = items(by_split, CONFIG)
    assert found == items(by_split, CONFIG) != items(by_split, replace(CONFIG, seed=1))
    assert [item.split for item in found] == ["train"] * len(by_split["train"]) + ["test"] * len(by_split["test"])
    keys = [item.video.key for item in found if item.split == "test"]
    assert sorted(keys) == sorted(video.key for video in by_split["test"]) != keys
    first = found[0]
    info = first.video.info
    assert first.row() == {
        "video": first.video.key,
        "name": info.action,
        "label": info.label,
        "action": info.action,
        "group": info.group,
        "split": "train",
    }


def test_a_video_runs_both_ways_with_the_same_frames(shards: Path) -> None:
    config, videos = replace(CONFIG, labels="directions", frames=4), open_videos(shards / "10", "test")
    found = items({"test": videos}, config)
    rows = pd.DataFrame([item.row() for item in found])
    expected = [f"{video.key}:{way}" for video in videos for way in ("forwards", "backwards")]
    assert sorted(rows["video"]) == sorted(expected) != rows["video"].tolist()
    assert (rows["name"] == rows["video"].str.split(":").str[1]).all()
    assert (rows["label"] == (rows["name"] == "backwards")).all()
    assert rows.groupby("action")["label"].mean().eq(0.5).all()
    video = videos[0]
    ways = {item.reverse: item for item in found if item.video.key == video.key}
    for window in windows(video, config):
        frames = read_frames(video, *window)
        assert torch.equal(conditions.read_clip(ways[False], window), frames)
        assert torch.equal(conditions.read_clip(ways[True], window), frames.flip(0))
        assert torch.equal(conditions.read_clip(Item(video, "test"), window), frames)


def test_the_untrained_networks_have_fresh_weights_and_the_same_encoder() -> None:
    net = net_of("lvln")
    before = torch.get_rng_state()
    fresh, again, other = (conditions.untrained(net, CARD, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    ours, theirs = net.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours if key.startswith("encoder."))
    weight = "lateral.0.grus.0.gates.weight"
    assert not torch.equal(ours[weight], theirs[weight])
    assert not torch.equal(fresh.state_dict()[weight], theirs[weight])
    assert all(torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), again.state_dict().values(), strict=True))
    assert not fresh.training


@pytest.mark.parametrize("name", ["lvln", "full_res", "lvln_warp"])
def test_conditions_together_equal_each_by_itself(name: str) -> None:
    """The frames are encoded once for all networks; but of the trained network nothing else is in the others."""
    net, card, clips = net_of(name), card_of(name), textures(4, 2, 3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)  # the fresh ones would be the same as `small`, by the same seed
    fresh = {f"untrained_{seed}": conditions.untrained(net, card, seed=seed) for seed in (0, 1)}
    config = replace(CONFIG, model=name)
    networks = {condition: fresh.get(condition, net) for condition in config.conditions}
    found = features_of(clips, [7, 8, 9], config, networks, card, longest=4)
    for i, clip in enumerate(clips):
        order = np.random.default_rng((0, 7 + i)).permutation(len(clip))
        expected = {"still": states_after(net, clip[[-1] * len(clip)]), "shuffled": states_after(net, clip[order])}
        expected |= {seen: states_after(network, clip) for seen, network in {"trained": net, **fresh}.items()}
        for condition, values in expected.items():
            for key, value in values.items():
                torch.testing.assert_close(found[f"{condition}/{key}"][i], value, **ALIKE)
    states = ("trained", "still", "shuffled", *fresh)
    wanted = {f"{condition}/{key}" for condition in states for key in ("deepest", "subsample", "pooled", "attentive")}
    assert found.keys() == wanted | {f"memoryless/{key}" for key in ("encoder", "flow", "flow_pooled")}


# --- files -----------------------------------------------------------------------------------------------------------


def make(shards: Path, folder: Path, *, count: int = 2, net: Ladder | None = None, **changes: object) -> dict:
    """Features of the first test videos, in folder/features."""
    config = replace(CONFIG, **changes)
    found = items({"test": open_videos(shards / "10", "test")[:count]}, config)
    paths = {"out": folder / "features", "work": folder / "runs"}
    names = {"model_sha256": "x", "conditions": config.conditions}
    return extract(config, net or net_of("lvln"), CARD, found, **paths, **names)


def test_features_are_written_a_row_a_clip(shards: Path, tmp_path: Path) -> None:
    """Of 16 bits each, in the order of videos.csv; batches of 4 clips end within a video of three."""
    changes = {"clips": 3, "frames": 4, "choices": (*STATES, *PREDICTIONS)}
    shapes = make(shards, tmp_path, labels="directions", **changes)
    folder, net = tmp_path / "features", net_of("lvln")
    table = pd.read_csv(folder / "videos.csv")
    assert len(table) == 4
    videos = {video.key: video for video in open_videos(shards / "10", "test")}
    clips = []
    for row in table.itertuples():
        key, way = row.video.split(":")
        for first in (0, 4, 8):
            frames = read_frames(videos[key], first, 4)
            clips.append(frames.flip(0) if way == "backwards" else frames)
    numbers, fresh = range(12), {f"untrained_{seed}": conditions.untrained(net, CARD, seed=seed) for seed in (0, 1)}
    config = replace(CONFIG, **changes)
    networks = {condition: fresh.get(condition, net) for condition in config.conditions}
    expected = features_of(clips, numbers, config, networks, CARD, longest=4)
    assert set(shapes) == set(expected)
    written = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert written == {"videos.csv"} | {f"{name}.npy" for name in expected}
    for name, values in expected.items():
        stored = np.load(folder / f"{name}.npy")
        assert stored.dtype == np.float16
        assert stored.shape == (12, *shapes[name])
        np.testing.assert_allclose(stored, values.numpy(), rtol=2e-3, atol=2e-3)
    assert np.abs(np.load(folder / "shuffled/deepest.npy") - np.load(folder / "trained/deepest.npy")).max() > 1e-3


def test_readers_and_writers_of_features_agree(shards: Path, tmp_path: Path) -> None:
    make(shards, tmp_path, count=1, choices=samples.CHOICES, untrained=11)
    folder = tmp_path / "features"
    drawn = samples.draws(folder)
    assert drawn == list(replace(CONFIG, untrained=11).draws) == [f"untrained_{i}" for i in range(11)]
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {*samples.CONDITIONS, *drawn, "memoryless"}
    stored = {part for choice in samples.CHOICES for part in samples.PARTS.get(choice, (choice,))}
    for condition in (*samples.CONDITIONS, *drawn):
        assert {file.stem for file in (folder / condition).iterdir()} == stored


def test_what_16_bits_cannot_hold_is_the_most_they_can(shards: Path, tmp_path: Path) -> None:
    net = net_of("lvln")
    with torch.no_grad():
        net.encoder.resnet.bn1.weight.mul_(1e6)
    make(shards, tmp_path, count=1, net=net)
    assert np.load(tmp_path / "features/memoryless/encoder.npy").max() == np.finfo(np.float16).max


OTHER = {"clips": 1}


@pytest.fixture(scope="module")
def carried_on(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs that are killed in their fourth batch, and then begun again with their own settings or with
    others."""
    folder = tmp_path_factory.mktemp("killed")
    for name, seconds, changes in (("recorded", 0, {}), ("unrecorded", 1000, {}), ("other", 0, OTHER)):
        run = partial(make, shards, folder / name, count=10, batch=3)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(extract_module, "SAVE_SECONDS", seconds)
            assert calls_in_a_fork(extract_module, "features_of", run, dies_in=4) == -signal.SIGKILL
            assert not (folder / name / "features").exists()
            calls = calls_in_a_fork(extract_module, "features_of", partial(run, **changes))
        (folder / name / "calls").write_text(str(calls))
    return folder


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    make(shards, folder, count=10, batch=3)
    return folder


@pytest.mark.parametrize(("name", "calls"), [("recorded", 4), ("unrecorded", 7)])
def test_a_killed_run_carries_on_to_the_same_bytes(carried_on: Path, undisturbed: Path, name: str, calls: int) -> None:
    """Twenty clips in seven batches, killed in the fourth: the rest is three and it, if the progress was recorded."""
    assert (carried_on / name / "calls").read_text() == str(calls)
    assert files(carried_on / name / "features") == files(undisturbed / "features")
    assert not (carried_on / name / "runs/rows").exists()


def test_another_runs_rows_are_not_taken(shards: Path, tmp_path: Path, carried_on: Path) -> None:
    """Nine clips had been recorded; with these settings there are ten, in four batches."""
    assert (carried_on / "other" / "calls").read_text() == "4"
    make(shards, tmp_path, count=10, batch=3, **OTHER)
    assert files(carried_on / "other" / "features") == files(tmp_path / "features")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_videos(shards: Path, tmp_path: Path) -> None:
    """Peak memory of a process of its own: 8 videos against 56, tokens of each pixel, so that rows are large."""
    code = """
import resource, sys
from pathlib import Path
from tests.test_features import make
make(Path(sys.argv[1]), Path(sys.argv[2]), count=int(sys.argv[3]), token_stride=1, clips=8, untrained=1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = []
    for count in (8, 56):
        command = [sys.executable, "-c", code, shards, tmp_path / str(count), str(count)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    written = sum(len(content) for content in files(tmp_path / "56/features").values()) / 2**20
    assert written > 100
    assert peaks[1] - peaks[0] < 15, f"{peaks} MiB"


def test_a_model_of_another_split_is_refused(shards: Path, tmp_path: Path) -> None:
    test = open_videos(shards / "10", "test")
    conditions.check_split(replace(CARD, test_digest=names_digest(test)), test, model="lvln")
    for other in (names_digest(test[1:]), names_digest(open_videos(shards / "10", "train")), ""):
        with pytest.raises(ValueError, match=r"models/lvln\.safetensors .* another split .* dvc repro train@lvln"):
            conditions.check_split(replace(CARD, test_digest=other), test, model="lvln")


def test_all_splits_are_extracted_with_the_model_of_the_settings(shards: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, clips=1, frames=2, untrained=1, batch=64)
    paths = {"shards": shards / "10", "out": tmp_path / "out", "work": tmp_path / "runs"}
    save_model(tmp_path / "lvln.safetensors", net_of("lvln"), CARD)
    net, card, digest = load_probed(config, tmp_path)
    assert (card, digest) == (CARD, sha256_of(tmp_path / "lvln.safetensors"))
    with pytest.raises(ValueError, match=r"models/lvln\.safetensors .* another split"):
        extract_features(config, net, card, model_sha256=digest, device=CPU, **paths)
    card = replace(card, test_digest=names_digest(open_videos(shards / "10", "test")))
    shapes, count = extract_features(config, net, card, model_sha256=digest, device=CPU, **paths)
    table = pd.read_csv(tmp_path / "out/videos.csv")
    by_split = {split: len(open_videos(shards / "10", split)) for split in ("train", "validation", "test")}
    assert table["split"].value_counts().to_dict() == by_split
    assert count == len(table) == len(np.load(tmp_path / "out/trained/deepest.npy"))
    assert shapes["memoryless/flow"] == [16, 2]


def test_bad_feature_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"features\.token_stride: 12 does not divide .* 64×32"):
        conditions.token_grid(12, height=64, width=32)
    assert conditions.token_grid(16, height=64, width=32) == (4, 2)
    tree = asdict(CONFIG)
    for change, message in (
        ({"frames": 0}, r"features: frames is 0, the whole video: clips is 2; allowed: 1"),
        ({"clips": 0}, r"features\.clips: 0 is not allowed; allowed: an integer, at least 1"),
        ({"untrained": 0}, r"features\.untrained: 0 is not allowed; allowed: an integer, at least 1"),
        ({"choices": []}, r"features: choices is \[\]; it needs at least one, and each may occur once"),
        ({"choices": ["pooled", "pooled"]}, r"features: choices is \['pooled', 'pooled'\]; .* each may occur once"),
        ({"choices": ["encoder"]}, r"features\.choices\.0: 'encoder' is not allowed; allowed: one of 'deepest', "),
        ({"states": "first"}, r"features\.states: 'first' is not allowed; allowed: one of 'last', 'every', 'diff"),
        ({"labels": "groups"}, r"features\.labels: 'groups' is not allowed; allowed: one of 'actions', 'directions'"),
    ):
        with pytest.raises(ValueError, match=message):
            from_dict(tree | change, FeaturesConfig, where="features")
