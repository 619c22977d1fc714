"""Bootstrap intervals over groups, by hand and against SciPy."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap

from pipeline.evaluation.intervals import GroupMeans


def means_of(values: Sequence[float], groups: Sequence[int]) -> GroupMeans:
    means = GroupMeans()
    means.add({"m": torch.tensor(values, dtype=torch.float64).unsqueeze(1)}, list(groups))
    return means


def ends(values: Sequence[float], groups: Sequence[int], *, seed: int = 0, **how: object) -> list[float]:
    return [end.item() for end in means_of(values, groups).interval("m", seed=seed, **how)]


def width(*given: object, **how: object) -> float:
    low, high = ends(*given, **how)
    return high - low


def test_means_count_clips_not_groups() -> None:
    means = GroupMeans()
    means.add({"m": torch.tensor([[1.0, 2.0], [3.0, torch.nan]])}, ["a", "b"])
    means.add({"m": torch.tensor([[8.0, torch.nan]])}, ["b"])
    assert means.mean("m").tolist() == [4, 2]
    assert means.count("m").tolist() == [3, 1]


def test_interval_by_hand() -> None:
    """Two groups, sums 0 of 3 clips and 4 of 1: every resample is one of four, with means 0, 1 (twice) and 4."""
    assert ends([0, 0, 0, 4], [1, 1, 1, 2], resamples=2000) == [0, 4]
    drawn = [np.concatenate(pair).mean() for pair in itertools.product([[0, 0, 0], [4]], repeat=2)]
    assert sorted(drawn) == [0, 1, 1, 4]


def test_interval_is_scipys_when_every_clip_is_a_group() -> None:
    values = np.random.default_rng(0).gamma(2, size=40)
    reference = bootstrap((values,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(2))
    found = ends(values, range(40), resamples=20000, seed=1)
    assert found == pytest.approx(reference.confidence_interval, abs=0.02)


def test_interval_of_unequal_groups_is_scipys_ratio() -> None:
    """Clip-weighted: sums and counts of the groups are drawn together."""
    random = np.random.default_rng(3)
    sizes = random.integers(1, 9, 30)
    groups = np.repeat(range(30), sizes)
    values = random.normal(size=30)[groups] + 0.1 * random.normal(size=len(groups))
    sums = np.bincount(groups, values)
    reference = bootstrap(
        (sums, sizes),
        lambda s, n, axis: s.sum(axis) / n.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=20000,
        method="percentile",
        rng=np.random.default_rng(2),
    )
    found = ends(values, groups, resamples=20000, seed=1)
    assert found == pytest.approx(reference.confidence_interval, abs=0.02)


def test_groups_are_drawn_not_clips() -> None:
    """Ten copies of each clip in its group tell nothing new: the interval stays; as groups of their own they would
    narrow it."""
    values = np.random.default_rng(0).normal(size=30)
    copies = np.repeat(values, 10)
    grouped = width(copies, np.repeat(range(30), 10), resamples=4000)
    assert grouped == pytest.approx(width(values, range(30), resamples=4000))
    assert width(copies, range(300), resamples=4000) < 0.5 * grouped


def test_interval_covers_the_truth() -> None:
    """Means of 40 groups with their own levels: about 95 of 100 intervals hold the true mean, 0."""
    random, held = np.random.default_rng(4), 0
    for trial in range(200):
        groups = np.repeat(range(40), 3)
        values = random.normal(size=40)[groups] + 0.3 * random.normal(size=120)
        low, high = ends(values, groups, resamples=400, seed=trial)
        held += low < 0 < high
    assert 0.88 < held / 200 < 0.99


def test_the_seed_and_nothing_else_decides() -> None:
    values = np.random.default_rng(0).normal(size=50)
    first, again, other = (ends(values, range(50), resamples=300, seed=seed) for seed in (1, 1, 2))
    assert first[0] == again[0]
    assert first[0] != other[0]


@pytest.mark.parametrize("groups", [[1, 1, 1, 1], [1, 1, 2, 2]])
def test_no_interval_from_one_group(groups: list[int]) -> None:
    """Of one group, or where all frames that count are of one."""
    assert np.isnan(ends([1, 2, torch.nan, torch.nan], groups, resamples=50)).all()
    assert means_of([1, 2, torch.nan, torch.nan], groups).mean("m") == 1.5
    assert np.isnan(means_of([torch.nan] * 4, groups).mean("m")).all()


def strata_of(group: int) -> str:
    """Twelve groups of "a", six of "b", one of "c"."""
    return "a" if group < 12 else "b" if group < 18 else "c"


def test_interval_within_strata_by_a_plain_loop() -> None:
    """Groups drawn one by one from their own stratum, joined and averaged; levels differ by stratum, so that drawing
    across them would be wider."""
    random = np.random.default_rng(5)
    groups = np.repeat(range(19), random.integers(1, 6, 19))
    levels = np.array([{"a": 0.0, "b": 5.0, "c": 9.0}[strata_of(group)] for group in range(19)])
    values = (levels + random.normal(size=19))[groups] + 0.3 * random.normal(size=len(groups))
    found = ends(values, groups, resamples=20000, seed=1, strata=strata_of)
    clips = [values[groups == group] for group in range(19)]
    means = []
    for _ in range(5000):
        drawn = [*random.integers(0, 12, 12), *random.integers(12, 18, 6), 18]
        means.append(np.concatenate([clips[group] for group in drawn]).mean())
    assert found == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.03)
    assert width(values, groups, resamples=20000, seed=1) > 1.5 * (found[1] - found[0])


def test_one_stratum_is_none() -> None:
    values = np.random.default_rng(0).normal(size=50)
    assert ends(values, range(50), resamples=300, strata=lambda _: "all") == ends(values, range(50), resamples=300)


def test_no_interval_when_every_stratum_is_one_group() -> None:
    """Each is in every resample; of two groups in one of them, an interval is made."""
    values, groups = [1, 2, 3, 9], [1, 1, 2, 3]
    assert np.isnan(ends(values, groups, resamples=50, strata=lambda group: group)).all()
    found = ends(values, groups, resamples=500, strata=lambda group: group == 3)
    assert found == [3, 5]  # of (1 + 2 + 3 + 9) / 4, 5 and 3
