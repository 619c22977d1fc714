"""Means of per-frame values with bootstrap intervals over groups; and how far repeated runs spread.

Clips of one group (a person, a background) are not independent: resampling clips would give intervals that are far
too narrow. Whole groups are drawn with replacement instead (the cluster bootstrap). Where groups lie within strata, as
people within the actions they perform, they may be drawn within each, so that the strata stay as balanced as they are
(Davison & Hinkley, Bootstrap Methods and their Application, 1997, sections 3.2 and 3.8).

Shapes: B clips, K horizon steps, G groups.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import stdev

import numpy as np
from torch import Tensor


class GroupMeans:
    """Running sums of every metric, one a group; memory does not grow with the number of clips."""

    def __init__(self) -> None:
        self.totals: dict[str, dict[Hashable, np.ndarray]] = {}  # metric -> group -> sum and count, (2, K)

    def add(self, values: Mapping[str, Tensor], groups: Sequence[Hashable]) -> None:
        """{metric: (B, K)}, NaN where a frame has no value and does not count; groups: of each of the B clips."""
        for name, rows in values.items():
            totals = self.totals.setdefault(name, {})
            rows = rows.double().cpu().numpy()
            counted = np.stack([np.nan_to_num(rows), ~np.isnan(rows)], 1)  # (B, 2, K)
            for group, row in zip(groups, counted, strict=True):
                totals[group] = totals.get(group, 0) + row

    def mean(self, metric: str) -> np.ndarray:
        """(K,), over frames; NaN at a horizon step where none counted."""
        return _ratio(self._stacked(metric).sum(0))

    def count(self, metric: str) -> np.ndarray:
        """(K,): frames that counted."""
        return self._stacked(metric).sum(0)[1]

    def interval(
        self, metric: str, *, resamples: int, seed: int, strata: Callable[[Hashable], Hashable] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the 95 % percentile interval of the mean, (K,) each; NaN at a horizon step where no stratum has two
        groups with a frame that counted. strata: a group's stratum, of which every resample has as many groups; without
        it all groups are of one."""
        stacked = self._stacked(metric)  # (G, 2, K)
        members: dict[Hashable, list[int]] = {}
        for i, group in enumerate(self.totals[metric]):
            members.setdefault(strata(group) if strata else None, []).append(i)
        random, enough = np.random.default_rng(seed), np.zeros(stacked.shape[2], bool)
        drawn = np.empty((resamples, len(stacked)), int)  # how often each group is in each resample
        for rows in members.values():
            drawn[:, rows] = random.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=resamples)
            enough |= (stacked[rows, 1] > 0).sum(0) > 1
        means = _ratio(np.einsum("rg,gsk->srk", drawn, stacked))  # (resamples, K)
        ends = np.full((2, stacked.shape[2]), np.nan)
        # A resample may miss every group with a frame that counts: it says nothing of the mean.
        ends[:, enough] = np.nanpercentile(means[:, enough], [2.5, 97.5], axis=0)
        return ends[0], ends[1]

    def _stacked(self, metric: str) -> np.ndarray:
        return np.stack(list(self.totals[metric].values()))


def deviation(values: Sequence[float]) -> float:
    """The sample's deviation (n − 1: a few seeds stand for all); 0 of one value."""
    return stdev(values) if len(values) > 1 else 0.0


def _ratio(total: np.ndarray) -> np.ndarray:
    """(2, …) sums and counts -> means, NaN where the count is zero."""
    with np.errstate(invalid="ignore"):
        return total[0] / total[1]
