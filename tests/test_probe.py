"""Features of clips under every condition, and the probe on them: references, controls, what is refused, kill -9."""

import math
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.clips.batches import as_images
from pipeline.clips.clips import read_frames
from pipeline.clips.shards import names_digest, open_videos
from pipeline.nets.ladder import LEVELS
from pipeline.nets.rollout import predict
from pipeline.pages.results import accuracies
from pipeline.probe import samples
from pipeline.probe.accuracy import chance, confusion_rows, fraction_correct, gains, mean_class, summarise, top_k
from pipeline.probe.classifier import ProbeConfig, ProbeRun, run_probe
from pipeline.probe.comparison import (
    HeldOut,
    accuracy_rows,
    compare,
    correct_by_video,
    headline,
    read_held_out,
    run_seeds,
)
from pipeline.probe.features import states as features
from pipeline.probe.features.extract import extract
from pipeline.probe.heads import AttentivePooler, HeadConfig, make_net
from pipeline.probe.samples import Samples, Splits, read_splits
from pipeline.settings import from_dict
from tests.support.committed import of_committed_figures
from tests.support.evaluation import CARD, CPU
from tests.support.import_closure import ROOT
from tests.support.nets import VARIANTS, small
from tests.support.videos import files

FEATURES = features.FeaturesConfig(model="lvln", fps=10, clips=2, frames=3, token_stride=8, batch=4, seed=0)
CONFIG = ProbeConfig(
    head=HeadConfig(kind="mlp", hidden=32, batch_norm=True, attentive_width=16),
    dropout=0.3,
    standardize=True,
    optimizer="adam",
    schedule="constant",
    lr=0.01,
    weight_decay=0.0,
    batch=16,
    epochs=15,
    validate_every=0.03,
    validation_share=0.05,
    seeds=(0, 1),
    bootstrap=200,
)


# --- features --------------------------------------------------------------------------------------------------------


def test_the_reports_choices_and_their_sizes() -> None:
    """At 128 × 160 and width 64; every number tells its place, so that the order is checked too."""
    shapes = [(192, 64, 80), (192, 32, 40), (192, 16, 20), (192, 8, 10)]
    sizes = [int(np.prod(shape)) for shape in shapes]
    numbers = torch.arange(sum(sizes)).split(sizes)
    maps = [part.view(1, *shape) for part, shape in zip(numbers, shapes, strict=True)]
    states = {name: level.chunk(3, 1) for name, level in zip(LEVELS, maps, strict=True)}
    chosen = features.select(states, [level.double() for level in maps], grid=(8, 10))
    assert chosen["deepest"].shape == (1, 15_360)
    assert chosen["subsample"].shape == (1, 10_080)
    assert chosen["subsample"][0].tolist() == list(range(0, sum(sizes[:3]), 128))
    assert chosen["deepest"][0].tolist() == list(range(sum(sizes[:3]), sum(sizes)))


def test_pooled_and_tokens_by_numpy() -> None:
    """Means of blocks where a level is finer than the grid, the nearest place where it is coarser."""
    maps = [torch.randn(2, 3, 8, 16), torch.randn(2, 5, 2, 4)]
    states = {level: (torch.zeros(2, 1, 1, 1),) for level in LEVELS}
    chosen = features.select(states, maps, grid=(4, 8))
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
        net = small(name, height=32, width=32).eval()
        with torch.no_grad():
            _, states = net(torch.rand(1, 3, 32, 32))
        found[name] = [tuple(level.shape[1:]) for level in net.hidden(states)]
    ladder = [(12, 16, 16), (12, 8, 8), (12, 4, 4), (12, 2, 2)]
    assert found["lvln"] == found["one_frame"] == ladder
    assert found["full_res"] == [(3, 32, 32), (6, 16, 16), (12, 8, 8), (12, 4, 4)]
    warp = [(24, *shape[1:]) for shape in ladder]
    assert found["lvln_match"] == found["lvln_warp"] == [*warp, (2, 32, 32), (8, 16, 16), (8, 8, 8)]


@pytest.mark.parametrize("name", VARIANTS)
def test_clips_of_different_lengths_advance_together(name: str) -> None:
    """Batched extraction equals feeding each clip by itself with predict()."""
    net = small(name, height=32, width=32).eval()
    clips = [torch.randint(0, 256, (length, 3, 32, 32), dtype=torch.uint8) for length in (3, 6, 1, 6)]
    together = features.extract_states(net, clips, height=32, width=32, token_stride=8, encoder=True)
    for i, clip in enumerate(clips):
        with torch.no_grad():
            _, states = predict(net, as_images(clip, height=32, width=32)[None], horizon=1, clip_feedback=True)
            taps = net.encoder(as_images(clip, height=32, width=32))
            taps["layer4"] = net.encoder.deepest(taps["layer3"])
        for key, value in features.select(states, net.hidden(states), grid=(4, 4)).items():
            torch.testing.assert_close(together[key][i], value[0], rtol=1e-3, atol=1e-4)
        expected = torch.cat([tap.mean((0, 2, 3)) for tap in taps.values()])
        assert expected.shape == (1024,)
        torch.testing.assert_close(together["encoder"][i], expected, rtol=1e-3, atol=1e-4)


def test_a_still_clip_is_its_last_frame_repeated() -> None:
    net = small("lvln_warp", height=32, width=32).eval()
    still = [torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8).expand(length, -1, -1, -1) for length in (2, 4)]
    encoded_once = features.extract_states(net, still, height=32, width=32, token_stride=8, still=True)
    plain = features.extract_states(net, still, height=32, width=32, token_stride=8)
    for name, values in plain.items():
        torch.testing.assert_close(encoded_once[name], values, rtol=1e-4, atol=1e-5)


def test_windows_are_spread_over_the_video(shards: Path) -> None:
    video = open_videos(shards / "10", "test")[0]
    frames = video.info.frames  # 30 at 25 fps
    assert frames == 12
    assert features.windows(video, FEATURES) == [(0, 3), (9, 3)]
    assert features.windows(video, replace(FEATURES, clips=4)) == [(0, 3), (3, 3), (6, 3), (9, 3)]
    assert features.windows(video, replace(FEATURES, clips=1)) == [(4, 3)]
    assert features.windows(video, replace(FEATURES, clips=1, frames=0)) == [(0, 12)]
    assert features.windows(video, replace(FEATURES, frames=40)) == [(0, 12), (0, 12)]


def test_conditions_change_what_is_seen_and_nothing_else(shards: Path) -> None:
    video = open_videos(shards / "10", "test")[0]
    seen = {name: features.read_clip(video, (2, 6), name, seed=(0, 5)) for name in features.CONDITIONS}
    true = read_frames(video, 2, 6)
    assert torch.equal(seen["trained"], true)
    assert torch.equal(seen["untrained"], true)
    assert all(torch.equal(frame, true[-1]) for frame in seen["still"])
    order = np.random.default_rng((0, 5)).permutation(6)
    assert sorted(order) == list(range(6)) != order.tolist()
    assert torch.equal(seen["shuffled"], true[order])


def test_the_untrained_network_has_fresh_weights_and_the_same_encoder() -> None:
    net = small("lvln", height=32, width=32).eval()
    before = torch.get_rng_state()
    fresh, again, other = (features.network_for("untrained", net, CARD, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert features.network_for("still", net, CARD, seed=0) is net
    ours, theirs = net.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours if key.startswith("encoder."))
    assert not torch.equal(ours["lateral.0.grus.0.gates.weight"], theirs["lateral.0.grus.0.gates.weight"])
    assert all(torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), again.state_dict().values(), strict=True))
    assert not fresh.training


def make(shards: Path, folder: Path, *, condition: str = "trained", count: int = 7, **changes: object) -> dict:
    net = small("lvln", height=32, width=32).eval()
    videos = open_videos(shards / "10", "test")[:count]
    config = replace(FEATURES, **changes)
    names = {"out": folder / condition, "work": folder / "runs", "condition": condition, "model_sha256": "x"}
    return extract(net, CARD, videos, ["test"] * count, config=config, **names)


def test_features_are_written_a_row_a_clip(shards: Path, tmp_path: Path) -> None:
    shapes = make(shards, tmp_path)
    videos = open_videos(shards / "10", "test")[:7]
    table = pd.read_csv(tmp_path / "trained/videos.csv")
    assert table["video"].tolist() == [video.key for video in videos]
    assert table["label"].tolist() == [video.info.label for video in videos]
    net = small("lvln", height=32, width=32).eval()
    clips = [read_frames(video, *window) for video in videos for window in features.windows(video, FEATURES)]
    expected = features.extract_states(net, clips, height=32, width=32, token_stride=8, encoder=True)
    assert set(shapes) == set(expected)
    for name, values in expected.items():
        stored = np.load(tmp_path / f"trained/{name}.npy")
        assert stored.shape == (14, *shapes[name])
        np.testing.assert_allclose(stored, values.numpy(), rtol=2e-3, atol=1e-3)
    assert np.load(tmp_path / "trained/attentive.npy").dtype == np.float16
    make(shards, tmp_path, condition="shuffled")
    shuffled = np.load(tmp_path / "shuffled/deepest.npy")
    assert not (tmp_path / "shuffled/encoder.npy").exists()
    assert np.abs(shuffled - np.load(tmp_path / "trained/deepest.npy")).max() > 1e-4


def python(code: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.probe.features import extract
from tests.test_probe import make
calls, extract_states = 0, extract.extract_states
def dies(*arguments, **options):
    global calls
    calls += 1
    if calls == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return extract_states(*arguments, **options)
extract.extract_states, extract.SAVE_SECONDS = dies, float(sys.argv[4])
make(Path(sys.argv[1]), Path(sys.argv[2]), count=10, batch=3)
print("calls", calls)
"""


@pytest.mark.parametrize("seconds", [0, 1000])
def test_a_killed_run_carries_on_to_the_same_bytes(shards: Path, tmp_path: Path, seconds: float) -> None:
    """Twenty clips in seven batches, killed in the fourth: the rest is three and it, if the progress was recorded."""
    assert python(KILLED, shards, tmp_path / "a", 4, seconds).returncode == -signal.SIGKILL
    assert not (tmp_path / "a/trained").exists()
    again = python(KILLED, shards, tmp_path / "a", 99, seconds)
    assert again.returncode == 0, again.stderr
    assert f"calls {4 if seconds == 0 else 7}" in again.stdout
    make(shards, tmp_path / "b", count=10, batch=3)
    assert files(tmp_path / "a/trained") == files(tmp_path / "b/trained")
    assert not (tmp_path / "a/runs/rows").exists()


def test_another_runs_rows_are_not_taken(shards: Path, tmp_path: Path) -> None:
    assert python(KILLED, shards, tmp_path / "a", 4, 0).returncode == -signal.SIGKILL
    make(shards, tmp_path / "a", count=10, batch=3, seed=1, clips=1)  # other settings
    make(shards, tmp_path / "b", count=10, batch=3, seed=1, clips=1)
    assert files(tmp_path / "a/trained") == files(tmp_path / "b/trained")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_videos(shards: Path, tmp_path: Path) -> None:
    """Peak memory of a process of its own: 8 videos against 56, tokens of each pixel, so that rows are large."""
    code = """
import resource, sys
from pathlib import Path
from tests.test_probe import make
make(Path(sys.argv[1]), Path(sys.argv[2]), count=int(sys.argv[3]), token_stride=1, clips=8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = []
    for count in (8, 56):
        done = python(code, shards, tmp_path / str(count), count)
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    written = sum(file.stat().st_size for file in (tmp_path / "56/trained").iterdir()) / 2**20
    assert written > 40
    assert peaks[1] - peaks[0] < 15, f"{peaks} MiB"


def test_a_model_of_another_split_is_refused(shards: Path) -> None:
    test = open_videos(shards / "10", "test")
    features.check_split(replace(CARD, test_digest=names_digest(test)), test, model="lvln")
    for other in (names_digest(test[1:]), names_digest(open_videos(shards / "10", "train")), ""):
        with pytest.raises(ValueError, match=r"models/lvln\.safetensors .* another split .* dvc repro train@lvln"):
            features.check_split(replace(CARD, test_digest=other), test, model="lvln")


def test_bad_feature_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"features\.token_stride: 12 does not divide .* 64×32"):
        features.check_tokens(12, height=64, width=32)
    tree = asdict(FEATURES)
    with pytest.raises(ValueError, match=r"features: frames is 0, the whole video: clips is 2; allowed: 1"):
        from_dict({**tree, "frames": 0}, features.FeaturesConfig, where="features")
    with pytest.raises(ValueError, match=r"features\.clips: 0 is not allowed; allowed: an integer, at least 1"):
        from_dict({**tree, "clips": 0}, features.FeaturesConfig, where="features")


def test_readers_and_writers_of_features_agree() -> None:
    assert samples.CONDITIONS == features.CONDITIONS
    stored = {part for choice in samples.CHOICES for part in samples.PARTS.get(choice, (choice,))}
    assert stored == set(features.STORED)


# --- heads -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_pooler_by_a_loop() -> None:
    """Softmax over tokens a head, by hand."""
    pooler = AttentivePooler(5, 3, 8, dropout=0.3).eval()
    tokens = torch.randn(2, 5, 3)
    x = pooler.token(pooler.enter(tokens) + pooler.position)
    keys, values = pooler.key(x), pooler.value(x)
    expected = torch.zeros(2, 8)
    for b in range(2):
        for head in range(4):
            part = slice(2 * head, 2 * head + 2)
            weights = [math.exp(float(keys[b, n, part] @ pooler.query[head]) / math.sqrt(2)) for n in range(5)]
            for n in range(5):
                expected[b, part] += weights[n] / sum(weights) * values[b, n, part]
    torch.testing.assert_close(pooler(tokens), pooler.leave(expected))


def test_heads_have_the_layers_of_the_report() -> None:
    head = replace(CONFIG.head, hidden=2000)
    net = make_net(head, (10,), 6, dropout=0.3)
    assert [type(layer).__name__ for layer in net] == ["Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear"]
    assert sum(p.numel() for p in net.parameters()) == 2000 * 11 + 2 * 2000 + 6 * 2001
    linear = make_net(replace(head, kind="linear"), (10,), 6, dropout=0.0)
    assert sum(p.numel() for p in linear.parameters()) == 6 * 11
    plain = make_net(replace(head, batch_norm=False), (10,), 6, dropout=0.0)
    assert "BatchNorm1d" not in [type(layer).__name__ for layer in plain]


# --- the probe -------------------------------------------------------------------------------------------------------


def split_of(values: np.ndarray, labels: np.ndarray, *, clips: int = 1) -> Samples:
    return Samples((values.astype(np.float32),), slice(None), np.arange(len(labels)), torch.from_numpy(labels), clips)


def blobs(n: int, *, spread: float, classes: int = 4, clips: int = 1) -> Splits:
    """Gaussian clouds around class centres of very different scale."""
    scale = np.array([100, 10, 1, 1, 0.1, 1])
    centres = np.random.default_rng(99).normal(size=(classes, 6)) * scale
    labels = np.arange(n) % classes
    found = []
    for seed in range(3):
        noise = spread * np.random.default_rng(seed).normal(size=(n * clips, 6)) * scale
        found.append(split_of(centres[labels].repeat(clips, 0) + noise, labels, clips=clips))
    return Splits(*found)


def probe(splits: Splits, *, seed: int = 0, **changes: object) -> ProbeRun:
    return run_probe(replace(CONFIG, **changes), splits, classes=4, seed=seed, device=CPU)


def accuracy(splits: Splits, **changes: object) -> float:
    return top_k(probe(splits, **changes).scores, splits.test.labels, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "sgd"},
        {"schedule": "cosine"},
        {"head": replace(CONFIG.head, kind="linear")},
        {"head": replace(CONFIG.head, batch_norm=False), "batch": 100},
    ],
    ids=["report", "sgd", "cosine", "linear", "one batch"],
)
def test_the_probe_learns_what_is_there(changes: dict) -> None:
    assert accuracy(blobs(80, spread=0.2), **changes) > 0.9


def test_the_probe_learns_nothing_where_nothing_is() -> None:
    orders = [torch.randperm(80, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    pairs = zip(blobs(80, spread=0.2), orders, strict=True)
    splits = Splits(*(replace(split, labels=split.labels[order]) for split, order in pairs))
    assert np.mean([accuracy(splits, seed=seed) for seed in range(4)]) < 0.45


def test_tokens_are_told_apart_by_their_place() -> None:
    """The class is the place of the one token that differs: means over tokens are alike for all."""
    found = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        labels = np.arange(160) % 4
        tokens = 0.3 * rng.normal(size=(160, 4, 3))
        tokens[np.arange(160), labels, 0] += 2
        found.append(split_of(tokens, labels))
    assert accuracy(Splits(*found), dropout=0.1, epochs=20) > 0.9


def test_a_videos_score_is_the_mean_of_its_clips() -> None:
    """Four noisy clips a video tell more than one; and scores are probabilities."""
    splits = blobs(80, spread=1.0, clips=4)
    result = probe(splits)
    assert result.scores.shape == (80, 4)
    torch.testing.assert_close(result.scores.sum(1), torch.ones(80))
    first = [split.parts[0].reshape(80, 4, 6)[:, 0] for split in splits]
    one = Splits(*(split_of(part, split.labels.numpy()) for part, split in zip(first, splits, strict=True)))
    assert top_k(result.scores, splits.test.labels, 1) > accuracy(one)


def test_the_epoch_is_chosen_on_validation_and_never_on_test() -> None:
    splits = blobs(60, spread=0.8)
    result = probe(splits)
    assert result.curve[result.epoch - 1]["validation"] == max(row["validation"] for row in result.curve)
    again = probe(splits._replace(test=replace(splits.test, labels=(splits.test.labels + 1) % 4)))
    assert again.epoch == result.epoch
    assert torch.equal(again.scores, result.scores)


def test_the_curve_of_figure_10() -> None:
    """Every 0.03 epochs, or every step where an epoch has fewer; watching changes nothing."""
    splits = blobs(80, spread=0.8)  # five batches of 16
    fine = probe(splits)
    assert [row["epoch"] for row in fine.sample[:6]] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.2])
    assert all(row["validation"] in {0, 0.25, 0.5, 0.75, 1} for row in fine.sample)  # 5 % of 80 videos
    coarse = probe(splits, validate_every=1.0, validation_share=1.0)
    assert [row["epoch"] for row in coarse.sample] == [row["epoch"] for row in coarse.curve]
    assert [row["validation"] for row in coarse.sample] == [row["validation"] for row in coarse.curve]
    assert torch.equal(fine.scores, coarse.scores)
    rare = probe(splits, epochs=3, validate_every=100.0)
    assert [row["epoch"] for row in rare.sample] == [3]  # the last step always


def test_seeds_and_random_state() -> None:
    splits = blobs(40, spread=1.0)
    before = torch.get_rng_state()
    first, second, third = (probe(splits, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.scores, second.scores)
    assert not torch.equal(first.scores, third.scores)
    assert torch.equal(before, torch.get_rng_state())


def test_standardising_takes_the_training_clips_alone() -> None:
    """Shifted and scaled alike, the three splits give the same scores; small steps, that rounding is not amplified."""
    settings = {"head": replace(CONFIG.head, kind="linear"), "optimizer": "sgd", "lr": 0.01, "epochs": 2}
    splits = blobs(60, spread=0.8)
    moved = Splits(*(replace(split, parts=(split.parts[0] * 3 - 7,)) for split in splits))
    ours, theirs = (probe(each, **settings).scores for each in (splits, moved))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    raw = probe(moved, **settings, standardize=False).scores
    assert not torch.allclose(ours, raw, atol=0.05)


def test_a_number_that_hardly_varies_on_training_clips_does_not_decide() -> None:
    """It is divided by a share of what the others vary, and not by its own 1e-5 of that; nor is a constant by 0."""
    splits, deviations = blobs(80, spread=0.2), {"train": 1e-5, "validation": 1e-5, "test": 0.3}
    found = {}
    for name, split in splits._asdict().items():
        quiet = deviations[name] * np.random.default_rng(7).normal(size=(80, 1))
        values = np.concatenate([split.parts[0], quiet, np.ones((80, 1))], 1)
        found[name] = split_of(values, split.labels.numpy())
    assert accuracy(Splits(**found)) > 0.9


def test_features_that_are_all_constant_give_chance() -> None:
    splits = blobs(40, spread=1.0)
    constant = Splits(*(split_of(np.ones((40, 6)), split.labels.numpy()) for split in splits))
    assert accuracy(constant) == 0.25


def test_one_training_clip_is_a_clear_error() -> None:
    splits = blobs(40, spread=1.0)
    with pytest.raises(ValueError, match=r"1 clip to train on; the probe needs at least 2"):
        probe(splits._replace(train=splits.train.subset(np.arange(1))))
    probe(splits._replace(train=splits.train.subset(np.arange(2))))


def test_a_diverging_probe_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match=r"probe\.lr: 1e\+38 makes the scores infinite"):
        probe(blobs(40, spread=1.0), optimizer="sgd", lr=1e38, head=replace(CONFIG.head, kind="linear"))


# --- reading ---------------------------------------------------------------------------------------------------------


def stored(folder: Path, splits: list[str], rows: int) -> Path:
    table = {"video": range(len(splits)), "action": "a", "label": range(len(splits)), "group": 1, "split": splits}
    pd.DataFrame(table).to_csv(folder / "videos.csv", index=False)
    numbers = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    np.save(folder / "deepest.npy", numbers)
    np.save(folder / "subsample.npy", 1000 + numbers[:, :2])
    return folder


def test_samples_are_the_clips_of_their_split(tmp_path: Path) -> None:
    splits = read_splits(stored(tmp_path, ["train", "test", "validation", "train"], 8), "combined")
    assert splits.train.labels.tolist() == [0, 3]
    assert len(splits.train) == 4
    assert splits.train.shape == (5,)
    assert splits.train.take(np.array([3, 0]))[:, [0, 3]].tolist() == [[21, 1021], [0, 1000]]
    assert splits.test.take(np.array([1])).tolist() == [[9, 10, 11, 1009, 1010]]
    part = read_splits(tmp_path, "deepest", columns=slice(1, 2)).test
    assert part.take(np.array([0])).tolist() == [[7]]


def test_bad_features_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no features in .*; make them with: dvc repro features@"):
        read_splits(tmp_path / "trained", "deepest")
    with pytest.raises(ValueError, match="no validation video"):
        read_splits(stored(tmp_path, ["train", "test"], 2), "deepest")
    with pytest.raises(ValueError, match="rows do not fit 2 videos"):
        read_splits(stored(tmp_path, ["train", "test"], 3), "deepest")


# --- the table -------------------------------------------------------------------------------------------------------


def test_top_k_by_hand() -> None:
    scores = torch.tensor([[0.1, 0.5, 0.4], [0.9, 0.05, 0.03], [0.2, 0.3, 0.5]])
    labels = torch.tensor([2, 0, 0])
    assert top_k(scores, labels, 1) == pytest.approx(1 / 3)
    assert top_k(scores, labels, 2) == pytest.approx(2 / 3)
    assert top_k(scores, labels, 5) == 1


def test_chance_is_the_most_frequent_class() -> None:
    scores = chance(torch.tensor([0, 1, 1, 1, 2]), 4, classes=3)
    labels = torch.tensor([1, 1, 0, 2])
    assert (top_k(scores, labels, 1), top_k(scores, labels, 5)) == (0.5, 1.0)


RUNS = [torch.eye(3)[torch.tensor(named)] for named in ([0, 1, 2, 0], [0, 0, 2, 1])]
LABELS = torch.tensor([0, 1, 2, 2])
GROUPS = [("a", 1), ("a", 1), ("a", 2), ("a", 2)]


def test_summary_and_classes_by_hand() -> None:
    assert fraction_correct(RUNS, LABELS).tolist() == [1, 0.5, 1, 0]
    table = summarise(RUNS, LABELS, GROUPS, resamples=500)
    assert table["top1"] == pytest.approx(0.625)
    assert table["top1_spread"] == pytest.approx(0.125 * 2**0.5)
    assert summarise(RUNS[:1], LABELS, GROUPS, resamples=5)["top1_spread"] == 0
    assert table["top5"] == 1
    assert (table["top1_low"], table["top1_high"]) == pytest.approx((0.5, 0.75))  # the two groups' own means
    apart = [("a", 1), ("b", 1), ("c", 2), ("c", 2)]  # one group a class: no interval
    assert set(summarise(RUNS, LABELS, apart, resamples=5)) == {"top1", "top1_spread", "top5"}
    rows = confusion_rows(RUNS, LABELS, {0: "a", 1: "b", 2: "c"})
    assert [tuple(row.values()) for row in rows] == [
        *[("a", "a", 1.0), ("b", "a", 0.5), ("b", "b", 0.5), ("c", "a", 0.25), ("c", "b", 0.25), ("c", "c", 0.5)]
    ]
    assert mean_class(rows) == pytest.approx(2 / 3)  # top-1 is 0.625: c has two videos
    never = confusion_rows([torch.eye(3)[torch.tensor([1, 1, 2, 2])]], LABELS, {0: "a", 1: "b", 2: "c"})
    assert {"actual": "a", "predicted": "a", "share": 0.0} in never  # though none is right


def test_gains_are_paired_by_video() -> None:
    """Always better by the same amount: no interval, however much the videos differ."""
    probe = np.array([1.0, 0.5, 1.0, 0.5])
    controls = pd.DataFrame({"a": probe - 0.5, "b": [0.0, 0.0, 1.0, 1.0]})
    found = gains(probe, controls, GROUPS, resamples=500)
    assert found["a"] == {"top1": 0.5, "top1_low": 0.5, "top1_high": 0.5}
    assert found["b"]["top1"] == 0.25
    assert (found["b"]["top1_low"], found["b"]["top1_high"]) == (-0.25, 0.75)


def test_held_out_videos_are_in_the_features_order(tmp_path: Path) -> None:
    """As those of the splits; classes count the labels of all splits."""
    folder = stored(tmp_path, ["test", "train", "validation", "test", "train"], 5)
    held_out = read_held_out(folder)
    assert held_out.videos == [0, 3]
    assert torch.equal(held_out.labels, read_splits(folder, "deepest").test.labels)
    assert held_out.groups == [("a", 1), ("a", 1)]
    assert held_out.classes == 5


def test_every_seed_runs_on_all_features() -> None:
    splits = {"trained": blobs(40, spread=0.2), "still": blobs(40, spread=1.0)}
    runs = run_seeds(replace(CONFIG, epochs=2), splits, classes=4, device=CPU)
    for name, found in runs.items():
        expected = [probe(splits[name], seed=seed, epochs=2) for seed in CONFIG.seeds]
        assert all(torch.equal(a.scores, b.scores) for a, b in zip(found, expected, strict=True))


def test_a_probe_beside_its_controls() -> None:
    held_out = HeldOut(["p", "q", "r", "s"], GROUPS, LABELS, {0: "a", 1: "b", 2: "c"})
    scores = {"trained": RUNS, "chance": [chance(torch.tensor([2]), 4, classes=3)]}
    assert correct_by_video(scores, held_out).loc["q"].to_dict() == {"trained": 0.5, "chance": 0}
    others = pd.DataFrame({"encoder": [0.0, 0.0, 1.0, 0.0]}, index=[*"pqrs"])
    table = compare(scores, held_out, resamples=50, others=others)
    assert table["probe"] == summarise(RUNS, LABELS, GROUPS, resamples=50)
    assert {name: row["top1"] for name, row in table["controls"].items()} == {"chance": 0.5}
    assert {name: row["top1"] for name, row in table["gain"].items()} == {"chance": 0.125, "encoder": 0.375}
    rows = accuracy_rows({"probe": table["probe"], **table["controls"]}, table["gain"], features="pooled")
    assert [(row["control"], row["metric"]) for row in rows] == [
        *[("probe", "top1"), ("probe", "top5"), ("chance", "top1"), ("chance", "top5")],
        *[("chance", "gain"), ("encoder", "gain")],
    ]
    first, last = rows[0], rows[-1]
    assert all(row.keys() == first.keys() for row in rows)
    assert first.items() >= {"features": "pooled", "value": 0.625, "low": 0.5, "high": 0.75}.items()
    assert first["spread"] == pytest.approx(0.125 * 2**0.5)
    assert last.items() >= {"value": 0.375, "low": table["gain"]["encoder"]["top1_low"], "spread": None}.items()


def test_the_metrics_of_a_probe() -> None:
    gain = {"encoder": {"top1": 0.2}, "untrained": {"top1": -0.0123}, "chance": {"top1": 0.5}}
    table = {"probe": {"top1": 0.62549, "top1_low": 0.5}, "gain": gain}
    assert headline(table) == {"top1": 0.625, "vs_encoder": 0.2, "vs_untrained": -0.012}


def test_chance_on_balanced_classes_is_certain() -> None:
    """As many groups of each class are in every resample."""
    labels = torch.arange(4).repeat_interleave(6)
    groups = [("abcd"[k], i // 2) for k in range(4) for i in range(6)]
    table = summarise([chance(labels, 24, classes=4)], labels, groups, resamples=200)
    assert (table["top1"], table["top1_low"], table["top1_high"]) == (0.25, 0.25, 0.25)


# --- the committed figures -------------------------------------------------------------------------------------------


@of_committed_figures
def test_hidden_states_know_motion_where_frames_do_not() -> None:
    """The gate, on plots/: the attentive probe of the generated videos, which no single frame tells apart."""
    assert accuracies(ROOT / "plots/controls.csv", "top1").loc["encoder"]["value"] < 0.25
    gains = accuracies(ROOT / "plots/probe/attentive/accuracy.csv", "gain")
    for control in ("encoder", "untrained", "still", "shuffled"):
        assert gains.loc[control]["low"] > 0.15, control
