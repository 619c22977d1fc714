"""From test scores to the table of a probe: accuracies, intervals, confusion, and the gain over controls.

Shapes: V videos, K classes; scores (V, K), a run (seed) each. groups: of each video, (action, group).
"""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from statistics import mean

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.evaluation.intervals import GroupMeans, deviation

Group = tuple[str, int]  # a group's number means nothing without its action


def top_k(scores: Tensor, labels: Tensor, k: int) -> float:
    """Share of videos whose label is among the k highest scores; with fewer than k classes, 1."""
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices  # (V, k)
    return float((best == labels[:, None]).any(1).double().mean())


def fraction_correct(runs: Sequence[Tensor], labels: Tensor) -> np.ndarray:
    """(V,): in which share of the runs the video's class was predicted."""
    return torch.stack([(scores.argmax(1) == labels).double() for scores in runs]).mean(0).numpy()


def chance(train: Tensor, videos: int, *, classes: int) -> Tensor:
    """Scores (V, K) of always predicting the classes that are most frequent among the training labels."""
    return torch.bincount(train, minlength=classes).double().expand(videos, -1)


def interval(values: np.ndarray, groups: Sequence[Group], *, resamples: int) -> dict[str, float]:
    """{low, high} of (V,) shares or differences: the ends of the mean's 95 % interval over groups, which are drawn
    within their actions: the test list's balance of classes is given, not chance. Empty when no action has two
    groups."""
    means = GroupMeans()
    means.add({"top1": torch.from_numpy(values)[:, None]}, groups)
    low, high = means.interval("top1", resamples=resamples, seed=0, strata=itemgetter(0))
    return {"low": float(low[0]), "high": float(high[0])} if np.isfinite(low[0]) else {}


def summarise(runs: Sequence[Tensor], labels: Tensor, groups: Sequence[Group], *, resamples: int) -> dict[str, float]:
    """Top-1, the mean over the runs, as `value`, its `spread` over them (sample deviation) and its interval."""
    top1 = [top_k(scores, labels, 1) for scores in runs]
    ends = interval(fraction_correct(runs, labels), groups, resamples=resamples)
    return {"value": mean(top1), "spread": deviation(top1), **ends}


def confusion_rows(runs: Sequence[Tensor], labels: Tensor, names: Mapping[int, str]) -> list[dict[str, object]]:
    """actual, predicted, share (of the class's videos, mean of the runs): those above 0, and every class as itself."""
    predicted = torch.cat([scores.argmax(1) for scores in runs])
    table = pd.crosstab(labels.repeat(len(runs)).numpy(), predicted.numpy(), normalize="index")
    return [
        {"actual": names[k], "predicted": names.get(j, str(j)), "share": row.get(j, 0.0)}
        for k, row in table.to_dict("index").items()
        for j in sorted({k, *row})
        if j == k or row[j]
    ]


def mean_class(confusion: Sequence[Mapping[str, object]]) -> float:
    """The mean of the classes' top-1, in which every class counts alike, however many videos it has."""
    return mean(row["share"] for row in confusion if row["actual"] == row["predicted"])


def gains(probe: np.ndarray, controls: pd.DataFrame, groups: Sequence[Group], *, resamples: int) -> dict[str, dict]:
    """{control: {value, low, high}}: the probe's top-1 minus the control's, video by video. probe (V,) and the columns
    of controls (V,): shares of runs that were correct."""
    found = {}
    for name in controls:
        difference = probe - controls[name].to_numpy()
        found[name] = {"value": float(difference.mean()), **interval(difference, groups, resamples=resamples)}
    return found
