"""What is trained on stored features, and the nearest neighbour: plain references, choices, what is refused."""

import copy
import math
from dataclasses import asdict, replace
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.probe import classifier
from pipeline.probe.accuracy import top_k
from pipeline.probe.classifier import Heads, ProbeConfig, ProbeRun, run_probe
from pipeline.probe.heads import AttentivePooler, make_net
from pipeline.probe.nearest import nearest
from pipeline.probe.samples import Samples, Splits
from pipeline.settings import from_dict
from tests.support.evaluation import CPU
from tests.support.probe import CONFIG, accuracy, blobs, probe, split_of

ALIKE = {"rtol": 1e-3, "atol": 1e-4}
LINEAR = replace(CONFIG.head, kind="linear")


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
    assert sum(p.numel() for p in net.parameters()) == 2000 * 10 + 2 * 2000 + 6 * 2001
    linear = make_net(replace(head, kind="linear"), (10,), 6, dropout=0.0)
    assert sum(p.numel() for p in linear.parameters()) == 6 * 11
    plain = make_net(replace(head, batch_norm=False), (10,), 6, dropout=0.0)
    assert "BatchNorm1d" not in [type(layer).__name__ for layer in plain]


# --- heads side by side ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "shape"),
    [(CONFIG.head, (6,)), (replace(CONFIG.head, batch_norm=False), (6,)), (LINEAR, (6,)), (CONFIG.head, (5, 3))],
    ids=["mlp", "plain mlp", "linear", "tokens"],
)
def test_heads_side_by_side_equal_each_alone(head: object, shape: tuple[int, ...]) -> None:
    """Weights, batch-norm statistics and scores after seven steps."""
    lr, decay, nets = [0.01, 0.003, 0.03], [0.0, 0.5, 0.1], []
    for seed in range(3):
        torch.manual_seed(seed)
        nets.append(make_net(head, shape, 4, dropout=0.0))
    heads = Heads([copy.deepcopy(net) for net in nets], torch.nn.Identity(), CPU)
    each = list(zip(nets, lr, decay, strict=True))
    optimizer = heads.optimizer([{"lr": a, "weight_decay": b} for _, a, b in each])
    references = [torch.optim.AdamW(net.parameters(), lr=a, weight_decay=b) for net, a, b in each]
    for _ in range(7):
        features, labels = torch.randn(12, *shape), torch.arange(12) % 4
        correct = heads.learn(features, labels, optimizer)
        for r, (net, reference) in enumerate(zip(nets, references, strict=True)):
            scores = net.train()(features)
            assert correct[r] == (scores.argmax(1) == labels).sum()
            reference.zero_grad()
            F.cross_entropy(scores, labels).backward()
            reference.step()
    state = heads.state()
    for r, net in enumerate(nets):
        expected = net.state_dict()
        assert state.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(state[name][r], value, **ALIKE)
        with torch.no_grad():
            scores = net.eval()(features).softmax(1).view(4, 3, 4).mean(1)  # as of four videos with three clips each
        torch.testing.assert_close(heads.score(split_of(features.numpy(), np.arange(4), clips=3))[r], scores, **ALIKE)


def plain_probe(config: ProbeConfig, splits: Splits, seed: int) -> tuple[ProbeRun, list[float]]:
    """run_probe where an epoch is one batch: a head after the other, by torch's AdamW; the last head's validation
    accuracy by epoch."""
    clips, labels = splits.train.clips, [split.labels for split in splits]
    train, *held_out = (torch.from_numpy(split.parts[0]) for split in splits)
    dims = tuple(range(train.ndim - 1))
    mean, deviation = train.mean(dims), train.std(dims, correction=0)
    best, curve = None, []
    for lr, decay in product(config.lr, config.weight_decay):
        torch.manual_seed(seed)
        net, curve = make_net(config.head, tuple(train.shape[1:]), 4, dropout=0.0), []
        adam = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=decay)
        for epoch in range(1, config.epochs + 1):
            adam.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * (epoch - 1) / config.epochs)) / 2
            adam.zero_grad()
            scores = net.train()((train - mean) / deviation)
            F.cross_entropy(scores, labels[0].repeat_interleave(clips)).backward()
            adam.step()
            with torch.no_grad():
                scores = (net.eval()((x - mean) / deviation) for x in held_out)
                validation, test = (each.softmax(1).view(-1, clips, 4).mean(1) for each in scores)
            curve.append(top_k(validation, labels[1], 1))
            rank = curve[-1], -float(F.nll_loss(validation.log(), labels[1]))
            if best is None or rank > best[0]:
                best = rank, ProbeRun([], [], test, epoch, lr, decay)
    return best[1], curve


@pytest.mark.parametrize("shape", [(6,), (5, 3)], ids=["mlp", "tokens"])
def test_the_whole_probe_by_a_plain_loop(shape: tuple[int, ...]) -> None:
    """Each seed, learning rate and weight decay trained alone, and the best taken."""
    labels, found = np.arange(40) % 4, []
    centres = np.random.default_rng(9).normal(size=(4, *shape))
    for seed in range(3):
        noise = np.random.default_rng(seed).normal(size=(80, *shape))
        found.append(split_of(centres[labels].repeat(2, 0) + noise, labels, clips=2))
    splits = Splits(*found)
    changes = {"dropout": 0.0, "schedule": "cosine", "batch": 80, "lr": (0.001, 0.02, 0.05), "weight_decay": (0.0, 0.5)}
    config = replace(CONFIG, epochs=6, **changes)
    for seed, run in zip((3, 5), run_probe(config, splits, classes=4, seeds=(3, 5), device=CPU), strict=True):
        expected, _ = plain_probe(config, splits, seed)
        assert (run.epoch, run.lr, run.weight_decay) == (expected.epoch, expected.lr, expected.weight_decay)
        torch.testing.assert_close(run.scores, expected.scores, **ALIKE)
        _, curve = plain_probe(replace(config, lr=(run.lr,), weight_decay=(run.weight_decay,)), splits, seed)
        assert [row["validation"] for row in run.curve] == pytest.approx(curve)


def test_the_best_pair_is_taken_on_validation() -> None:
    """One learning rate moves nothing, one makes scores infinite; one weight decay takes all weights away."""
    splits = blobs(80, spread=0.2)
    for lr in ((1e-7, 0.01, 1e38), (1e38, 0.01, 1e-7)):
        run = probe(splits, lr=lr, weight_decay=(100.0, 0.0), head=LINEAR)
        assert (run.lr, run.weight_decay) == (0.01, 0.0)
        assert top_k(run.scores, splits.test.labels, 1) > 0.9
    wrong = replace(splits.test, labels=(splits.test.labels + 1) % 4)
    again = probe(splits._replace(test=wrong), lr=lr, weight_decay=(100.0, 0.0), head=LINEAR)
    assert (again.lr, again.weight_decay, again.epoch) == (run.lr, run.weight_decay, run.epoch)
    assert torch.equal(again.scores, run.scores)


def test_seeds_do_not_depend_on_those_beside_them() -> None:
    """But for the order of the clips, which all share, and dropout."""
    splits, config = blobs(40, spread=1.0), replace(CONFIG, dropout=0.0, batch=40)
    together = run_probe(config, splits, classes=4, seeds=(0, 1), device=CPU)
    for seed, run in enumerate(together):
        torch.testing.assert_close(run.scores, probe(splits, seed=seed, dropout=0.0, batch=40).scores, **ALIKE)


def test_clips_are_shuffled_within_blocks_that_are_shuffled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every clip once an epoch, and a block, as it lies on the disk, from end to end before another begins."""
    monkeypatch.setattr(classifier, "BLOCK", 10)
    taken: list[np.ndarray] = []

    class Recorded(Samples):
        def take(self, samples: np.ndarray) -> Tensor:
            if len(samples) > 1:  # one alone is taken for its shape
                taken.append(samples)
            return super().take(samples)

    splits = blobs(35, spread=1.0)
    probe(splits._replace(train=Recorded(**vars(splits.train))), batch=35, epochs=12, standardize=False)
    assert all(sorted(rows) == list(range(35)) for rows in taken)
    blocks = [set(range(*ends)) for ends in ((0, 9), (9, 18), (18, 27), (27, 35))]
    firsts = set()
    for rows in taken:
        order = sorted(blocks, key=lambda block: min(np.flatnonzero(np.isin(rows, list(block)))))
        firsts.add(min(order[0]))
        ends = np.cumsum([len(block) for block in order])[:-1]
        assert [set(part.tolist()) for part in np.split(rows, ends)] == order
        assert all((np.diff(part) != 1).any() for part in np.split(rows, ends))
    assert len(taken) == 12
    assert firsts == {0, 9, 18, 27}


# --- the probe -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"schedule": "cosine"},
        {"head": LINEAR},
        {"head": replace(CONFIG.head, batch_norm=False), "batch": 100},
    ],
    ids=["report", "cosine", "linear", "one batch"],
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
    """Shifted and scaled alike, the three splits give the same scores."""
    settings = {"head": LINEAR, "epochs": 2}
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
    assert accuracy(Splits(**found)) > 0.8


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
    with pytest.raises(ValueError, match=r"probe\.lr: 1e\+38, 2e\+38 make the scores infinite; lower them"):
        probe(blobs(40, spread=1.0), lr=(1e38, 2e38), head=LINEAR)


def test_bad_probe_settings_are_refused() -> None:
    for change, message in (
        ({"lr": []}, "probe: lr is empty; it needs at least one"),
        ({"weight_decay": [0.1, 0.1]}, r"probe: weight_decay is \[0\.1, 0\.1\]; each may occur once"),
        ({"lr": [0]}, r"probe\.lr\.0: 0 is not allowed; allowed: a number, above 0"),
        ({"batch": 1}, r"probe\.batch: 1 is not allowed; allowed: an integer, at least 2"),
    ):
        with pytest.raises(ValueError, match=message):
            from_dict(asdict(CONFIG) | change, ProbeConfig, where="probe")


# --- the nearest neighbour -------------------------------------------------------------------------------------------


def cosines(splits: Splits) -> np.ndarray:
    """Of every test video with every training video, a pair at a time."""
    train, test = (
        np.stack([clips.mean(0).ravel() for clips in np.split(split.parts[0].astype(float), len(split.videos))])
        for split in (splits.train, splits.test)
    )
    centre = train.mean(0)
    found = np.zeros((len(test), len(train)))
    for i, a in enumerate(test - centre):
        for j, b in enumerate(train - centre):
            found[i, j] = a @ b / np.sqrt(a @ a) / np.sqrt(b @ b)
    return found


def tokens_of(n: int, *, clips: int) -> Splits:
    """Noise of (4, 3) a clip; labels are not in order."""
    found = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        found.append(split_of(rng.normal(3, size=(n * clips, 4, 3)), rng.permutation(np.arange(n) % 4), clips=clips))
    return Splits(*found)


def test_the_nearest_neighbour_by_a_loop() -> None:
    splits = tokens_of(30, clips=2)
    named = splits.train.labels[cosines(splits).argmax(1)]
    assert nearest([splits], classes=5).tolist() == np.eye(5)[named].tolist()
    assert top_k(nearest([blobs(40, spread=0.1)], classes=4), torch.arange(40) % 4, 1) > 0.7


def test_cosines_of_several_features_are_added() -> None:
    tokens, vectors = tokens_of(30, clips=2), blobs(30, spread=3.0)
    both = cosines(tokens) + cosines(vectors)
    found = nearest([tokens, vectors], classes=4).argmax(1)
    assert torch.equal(found, tokens.train.labels[both.argmax(1)])
    assert not any(torch.equal(found, nearest([each], classes=4).argmax(1)) for each in (tokens, vectors))
