"""What the baselines score on every clip, and what the true frames are like. It is the same for all models that see as
many frames of the same size, and optical flow takes long: so it is computed once, by all cores, and kept.

Shapes: B clips, K horizon steps, N = B · K images; images (B, T, C, H, W) in [0, 1].
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from pipeline.clips.batches import EpochOrder, as_images, load
from pipeline.clips.clips import Clips
from pipeline.evaluation.baselines import baselines, cv2
from pipeline.evaluation.metrics import REGIONS, image_quality, quality, regions_of
from pipeline.evaluation.perceptual import Lpips
from pipeline.results import open_rows
from pipeline.training.interruption import only_one
from pipeline.training.losses import LOSSES, loss_terms, weighted
from pipeline.training.state import fingerprint, load_state, save_state

VALUES, PROGRESS = "values.npy", "progress.pt"
SAVE_SECONDS = 5.0
CODE = ("pipeline.clips", "pipeline.evaluation", "pipeline.images", "pipeline.training.losses")
LOSS = "loss_"  # what the columns of the terms of a loss begin with

Column = tuple[str, str]  # predictor, or truth; metric


@dataclass(frozen=True)
class BaselineSettings:
    """What the values depend on beside the clips. context: frames; height, width: of the frames; moving_threshold,
    lpips: as of EvaluateConfig; flow: with the baselines that need optical flow; batch: clips that are scored at once.
    """

    context: int
    height: int
    width: int
    moving_threshold: float
    lpips: str | None
    flow: bool
    batch: int


@dataclass(frozen=True)
class BaselineValues:
    """rows: (clips, columns, K), NaN where a frame has no value."""

    columns: list[Column]
    rows: np.ndarray
    flow: bool

    def of(self, numbers: range, loss: Mapping[str, float]) -> dict[str, dict[str, Tensor]]:
        """{truth and each baseline: {metric: (B, K)}} of some clips, the `loss` of these weights among the metrics."""
        rows = torch.from_numpy(np.array(self.rows[numbers.start : numbers.stop])).unbind(1)
        found: dict[str, dict[str, Tensor]] = {}
        for (name, metric), values in zip(self.columns, rows, strict=True):
            found.setdefault(name, {})[metric] = values
        for values in found.values():
            terms = {name: values.pop(f"{LOSS}{name}") for name in LOSSES if f"{LOSS}{name}" in values}
            if terms:
                values["loss"] = weighted(terms, loss)
        return found


def baseline_values(
    clips: Clips, settings: BaselineSettings, *, losses: Sequence[str], folder: Path | None = None, workers: int = 0
) -> BaselineValues:
    """Of all clips, with the terms of these LOSSES. workers: processes that share the work, beside this one; the
    values do not depend on them. folder: where the values are kept for the next model; an interrupted run carries on
    from there. Without it they are in memory."""
    losses = [name for name in LOSSES if name in losses]
    lpips = Lpips(settings.lpips) if settings.lpips else None
    if folder is None:
        loaded = load(_Batches(clips, settings, losses, lpips), _order(clips, settings), workers=workers)
        columns, rows = zip(*loaded, strict=True)
        return BaselineValues(columns[0], np.concatenate(rows), settings.flow)
    with only_one(folder / "lock"):
        expected = _fingerprint(clips, settings, lpips)
        saved = load_state(folder / PROGRESS, expected) if (folder / VALUES).exists() else None
        if not saved or not set(losses) <= set(saved["losses"]):
            losses = [name for name in LOSSES if name in losses or (saved and name in saved["losses"])]
            saved = {"fingerprint": expected, "losses": losses, "columns": [], "done": 0}
            (folder / PROGRESS).unlink(missing_ok=True)  # it must not come to stand for the values of this run
            (folder / VALUES).unlink(missing_ok=True)
        _fill(folder, _Batches(clips, settings, saved["losses"], lpips), saved, workers=workers)
        return BaselineValues(saved["columns"], np.load(folder / VALUES, mmap_mode="r"), settings.flow)


def _order(clips: Clips, settings: BaselineSettings, *, first: int = 0) -> EpochOrder:
    return EpochOrder(len(clips), settings.batch, shuffle=False, first=first)


def _fingerprint(clips: Clips, settings: BaselineSettings, lpips: Lpips | None) -> str:
    """Digest of all that the values depend on, but for which terms of losses are among them."""
    versions = (torch.__version__, cv2 and cv2.__version__, lpips and lpips.sha256)
    made = (settings, clips.length, clips.spacing, len(clips), versions)
    return fingerprint(made, [clips], code=CODE)


def _fill(folder: Path, batches: "_Batches", record: dict[str, Any], *, workers: int) -> None:
    """Writes the batches from number record["done"] on. Every few seconds and after the last one, the record is brought
    up to date and saved."""
    clips, settings = batches.clips, batches.settings
    sizes, rest = _order(clips, settings).sizes, _order(clips, settings, first=record["done"])
    bar = tqdm(
        load(batches, rest, workers=workers) if len(rest) else (),
        desc=f"baselines, {settings.context} frames of {settings.height}×{settings.width}",
        unit="batch",
        initial=record["done"],
        total=len(sizes),
    )
    first, saved = sum(sizes[: record["done"]]), time.monotonic()
    for columns, values in bar:
        rows = open_rows(folder / VALUES, (len(clips), *values.shape[1:]), np.float32)
        rows[first : first + len(values)] = values
        first += len(values)
        record |= {"columns": columns, "done": record["done"] + 1}
        if first == len(clips) or time.monotonic() - saved >= SAVE_SECONDS:
            rows.flush()
            save_state(folder / PROGRESS, record)
            saved = time.monotonic()


class _Batches(Dataset):
    """Batches of (columns, values (B, columns, K)): all in one tensor, since each tensor costs a file descriptor on its
    way from another process."""

    def __init__(self, clips: Clips, settings: BaselineSettings, losses: Sequence[str], lpips: Lpips | None):
        self.clips, self.settings, self.losses, self.lpips = clips, settings, losses, lpips

    @torch.no_grad()
    def __getitems__(self, indices: Sequence[int]) -> tuple[list[Column], Tensor]:
        settings = self.settings
        images = as_images(self.clips.__getitems__(indices), height=settings.height, width=settings.width)
        columns, values = zip(*self._values(images), strict=True)
        return list(columns), torch.stack(values, 1)

    def _values(self, images: Tensor) -> Iterator[tuple[Column, Tensor]]:
        """Clips (B, context + K, 3, H, W) -> each column with its values (B, K)."""
        settings = self.settings
        context, targets = images[:, : settings.context], images[:, settings.context :]
        shape, truth = targets.shape[:2], targets.flatten(0, 1)
        regions = regions_of(images, settings.context, threshold=settings.moving_threshold).flatten(1, 2)
        moving = regions[REGIONS.index("moving")]
        still = (truth == context[:, -1].repeat_interleave(shape[1], 0)).flatten(1).all(1)
        found = {"truth": {**image_quality(truth), "moving": moving.mean((1, 2)), "still": still.float()}}
        for name, predictions in baselines(context, targets, flow=settings.flow).items():
            frames = predictions.flatten(0, 1)
            found[name] = quality(frames.clamp(0, 1), truth, regions, lpips=self.lpips)
            terms = loss_terms(frames, truth, self.losses, moving)
            found[name] |= {f"{LOSS}{term}": values for term, values in terms.items()}
        for name, metrics in found.items():
            for metric, values in metrics.items():
                yield (name, metric), values.unflatten(0, shape)
