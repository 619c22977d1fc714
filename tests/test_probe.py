"""Features of whole videos, and the probe on them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.nets.rollout import predict
from pipeline.probe.classifier import ProbeConfig, Subset, chance, read_features, run_probe, summarise, top_k
from pipeline.probe.features import extract, select, watch
from pipeline.training.losses import LossConfig
from pipeline.training.model_card import ModelCard
from pipeline.video.clips import as_images
from pipeline.video.shards import open_videos
from tests.test_nets import VARIANTS, small

CARD = ModelCard("lvln", {}, 32, 32, 3, 3, "first_output", True, LossConfig(1, 1, 1), {}, "")
CONFIG = ProbeConfig(
    hidden=32,
    batch_norm=True,
    dropout=0.3,
    standardize=True,
    lr=0.01,
    weight_decay=0.0,
    batch=16,
    epochs=15,
    seeds=(0, 1),
    device="cpu",
)


def test_the_reports_choices_and_their_sizes() -> None:
    """At 128 × 160 and width 64; every number tells its place, so that the order is checked too."""
    shapes = [(192, 64, 80), (192, 32, 40), (192, 16, 20), (192, 8, 10)]
    sizes = [int(np.prod(shape)) for shape in shapes]
    numbers = torch.arange(sum(sizes)).split(sizes)
    states = tuple(part.view(1, *shape).chunk(3, 1) for part, shape in zip(numbers, shapes, strict=True))
    chosen = select(states)
    assert chosen["deepest"].shape == (1, 15_360)
    assert chosen["subsample"].shape == (1, 10_080)
    assert chosen["subsample"][0].tolist() == list(range(0, sum(sizes[:3]), 128))
    assert chosen["deepest"][0].tolist() == list(range(sum(sizes[:3]), sum(sizes)))


@pytest.mark.parametrize("name", VARIANTS)
def test_videos_of_different_lengths_advance_together(name: str) -> None:
    """Batched watching equals feeding each video by itself with predict()."""
    net = small(name, height=32, width=32).eval()
    videos = [torch.randint(0, 256, (length, 3, 32, 32), dtype=torch.uint8) for length in (3, 6, 1, 6)]
    together = watch(net, videos, height=32, width=32)
    for i, video in enumerate(videos):
        with torch.no_grad():
            _, states = predict(net, as_images(video, height=32, width=32)[None], horizon=1, clip_feedback=True)
            taps = net.encoder(as_images(video, height=32, width=32))
            taps["layer4"] = net.encoder.deepest(taps["layer3"])
        for key, value in select(states).items():
            torch.testing.assert_close(together[key][i], value[0], rtol=1e-3, atol=1e-4)
        expected = torch.cat([tap.mean((0, 2, 3)) for tap in taps.values()])
        assert expected.shape == (1024,)
        torch.testing.assert_close(together["encoder"][i], expected, rtol=1e-3, atol=1e-4)


def test_features_are_streamed_to_files_in_order(shards: Path, tmp_path: Path) -> None:
    net = small("lvln", height=32, width=32).eval()
    videos = open_videos(shards / "10", "test")[:7]
    numbers = extract(net, CARD, videos, ["test"] * 7, tmp_path / "a", batch=3)
    extract(net, CARD, videos, ["test"] * 7, tmp_path / "b", batch=7)
    table = pd.read_csv(tmp_path / "a" / "videos.csv")
    assert table["video"].tolist() == [video.key for video in videos]
    assert table["label"].tolist() == [video.info.label for video in videos]
    for choice in ("deepest", "subsample", "encoder"):
        first, second = read_features(tmp_path / "a", choice), read_features(tmp_path / "b", choice)
        assert first.shape == (7, numbers[choice])
        np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-4)
        assert np.ptp(first, axis=0).max() > 0
    combined = read_features(tmp_path / "a", "combined")
    assert combined.shape == (7, numbers["deepest"] + numbers["subsample"])


def blobs(n: int, *, spread: float, seed: int, classes: int = 4) -> Subset:
    """Gaussian clouds around class centres of very different scale."""
    centres = np.random.default_rng(99).normal(size=(classes, 6)) * [100, 10, 1, 1, 0.1, 1]
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    noise = spread * rng.normal(size=(n, 6)) * [100, 10, 1, 1, 0.1, 1]
    return Subset.of((centres[labels] + noise).astype(np.float32), labels, np.ones(n, bool))


def test_the_probe_learns_what_is_there_and_nothing_else() -> None:
    splits = {name: blobs(80, spread=0.2, seed=i) for i, name in enumerate(("train", "validation", "test"))}
    result = run_probe(CONFIG, **splits, classes=4, seed=0)
    assert summarise([result], splits["test"].labels)["top1"] > 0.9
    shuffled = {
        name: Subset(s.features, s.labels[torch.randperm(80, generator=torch.Generator().manual_seed(i))])
        for i, (name, s) in enumerate(splits.items())
    }
    runs = [run_probe(CONFIG, **shuffled, classes=4, seed=seed) for seed in range(4)]
    assert summarise(runs, shuffled["test"].labels)["top1"] < 0.45


def test_the_epoch_is_chosen_on_validation_and_never_on_test() -> None:
    splits = {name: blobs(60, spread=0.8, seed=i) for i, name in enumerate(("train", "validation", "test"))}
    result = run_probe(CONFIG, **splits, classes=4, seed=0)
    assert result.curve[result.epoch - 1]["validation"] == max(row["validation"] for row in result.curve)
    other = {**splits, "test": Subset(splits["test"].features, (splits["test"].labels + 1) % 4)}
    again = run_probe(CONFIG, **other, classes=4, seed=0)
    assert again.epoch == result.epoch
    assert torch.equal(again.scores, result.scores)


def test_seeds_and_random_state() -> None:
    splits = {name: blobs(40, spread=1.0, seed=i) for i, name in enumerate(("train", "validation", "test"))}
    before = torch.get_rng_state()
    first, second, third = (run_probe(CONFIG, **splits, classes=4, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.scores, second.scores)
    assert not torch.equal(first.scores, third.scores)
    assert torch.equal(before, torch.get_rng_state())
    plain = run_probe(replace(CONFIG, batch_norm=False, dropout=0.0, batch=100), **splits, classes=4, seed=0)
    assert len(plain.curve) == 15


def test_top_k_by_hand() -> None:
    scores = torch.tensor([[0.1, 0.5, 0.4], [0.9, 0.05, 0.03], [0.2, 0.3, 0.5]])
    labels = torch.tensor([2, 0, 0])
    assert top_k(scores, labels, 1) == pytest.approx(1 / 3)
    assert top_k(scores, labels, 2) == pytest.approx(2 / 3)
    assert top_k(scores, labels, 5) == 1


def test_chance_is_the_most_frequent_class() -> None:
    train = Subset(torch.zeros(5, 1), torch.tensor([0, 1, 1, 1, 2]))
    test = Subset(torch.zeros(4, 1), torch.tensor([1, 1, 0, 2]))
    assert chance(train, test, classes=3) == {"top1": 0.5, "top5": 1.0}


def test_an_empty_split_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="a split of the probe is empty"):
        Subset.of(np.zeros((3, 2), np.float32), np.zeros(3, int), np.zeros(3, bool))
