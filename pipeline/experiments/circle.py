"""The moving circle (report, section 4, Fig. 4 and 5): trained on its five sequences, measured on those and on others.

Shapes: images (…, 3, H, W) in [0, 1].
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from pipeline.clips.batches import as_images
from pipeline.clips.clips import Clips
from pipeline.clips.shards import open_videos
from pipeline.datasets.circles import VALIDATION_GROUPS
from pipeline.datasets.source import SourceConfig
from pipeline.decode.plan import DecodeConfig
from pipeline.evaluation.predictions import Pictures
from pipeline.evaluation.tables import tidy
from pipeline.experiments.circle_errors import centre_errors
from pipeline.experiments.data import make_shards
from pipeline.experiments.filters import Filter, compare
from pipeline.experiments.settings import Experiment
from pipeline.experiments.trial import over_trials, start
from pipeline.training.loop import train

SPLITS = {"trained": "train", "held_out": "test"}
PICTURED = 3  # clips
BLOCK, GRU = 1, 1  # C1, 5×5: whose filter is shown


@dataclass(frozen=True)
class CircleTrial:
    """One repetition. tables: of the sequences trained on, and of those held out; pictures: clips of the latter; seen:
    the frames that a filter saw, its states (T, h, w) before and after training."""

    tables: dict[str, dict]
    steps: int
    pictures: Pictures
    filter: Filter
    seen: tuple[Tensor, Tensor, Tensor]


def circle_shards(source: SourceConfig, decode: DecodeConfig, folder: Path) -> dict[int, Path]:
    """`make_shards` of the circle's videos, with its own split."""
    own = replace(decode, split=1, validation_groups=tuple(VALIDATION_GROUPS))
    return make_shards(replace(source, kind="circles"), own, folder)


def run_circle(seed: int, *, experiment: Experiment, shards: Mapping[int, Path], run: Path) -> CircleTrial:
    """Trains and measures; the arguments are those of trial.run_trial."""
    config, evaluation = replace(experiment.train, seed=seed), experiment.evaluate
    hardware, name = experiment.hardware, f"{experiment.model} seed {seed}"
    fabric, net, card = start(experiment, seed=seed)
    untrained = deepcopy(net)
    record, _ = train(fabric, net, config, hardware, shards, name=name, run=run / str(seed))
    tables = {}
    for where, split in SPLITS.items():
        videos = open_videos(shards[evaluation.fps], split)
        tables[where], pictures = centre_errors(
            net,
            card,
            videos,
            horizon=evaluation.horizon,
            spacing=1,
            batch=evaluation.batch,
            pictures=PICTURED,
            device=fabric.device,
        )
    clip = Clips(videos, length=card.context + evaluation.horizon, spacing=1)[0]
    frames = as_images(clip, height=card.height, width=card.width)
    which, before, after = compare(untrained, net.cpu(), frames, block=BLOCK, gru=GRU)
    return CircleTrial(tables, record.step, pictures, which, (frames, before, after))


def summarise(trials: Sequence[CircleTrial]) -> dict[str, dict]:
    """trained, held_out: over_trials of each; data: how many clips and videos each has."""
    tables = {where: [trial.tables[where] for trial in trials] for where in SPLITS}
    summary = {where: over_trials(found) for where, found in tables.items()}
    return summary | {"data": {where: found[0]["data"] for where, found in tables.items()}}


def error_rows(summary: Mapping[str, dict]) -> list[dict[str, object]]:
    """Tidy rows: sequences (trained, on which it was, or held_out), predictor, region, metric, horizon_step, value,
    spread: the sample deviation over the seeds."""
    return [
        {"sequences": where, "predictor": name, **row}
        for where in SPLITS
        for name, metrics in summary[where].items()
        for row in tidy(metrics, "spread")
    ]
