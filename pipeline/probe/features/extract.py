"""Features of every clip, streamed to files; an interrupted run carries on.

Rows are written into files of their full size in the run folder. Every few seconds, once the disk has them, a small
record says how many clips are done; a run with the same settings, model, videos and code goes on from there, and ends
with the same bytes, since its batches are the same. No more than a batch of clips is in memory.
"""

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.clips.shards import StoredVideo, open_videos
from pipeline.nets.ladder import Ladder
from pipeline.probe.features.states import (
    STORED,
    FeaturesConfig,
    check_split,
    check_tokens,
    extract_states,
    network_for,
    read_clip,
    windows,
)
from pipeline.results import sha256_of, write_table
from pipeline.training.checkpoint import fingerprint, load_state, save_state
from pipeline.training.interruption import only_one
from pipeline.training.model_card import ModelCard
from pipeline.training.model_file import load_model

PROGRESS = "progress.pt"
SAVE_SECONDS = 5.0


def extract_condition(
    config: FeaturesConfig, condition: str, *, models: Path, shards: Path, out: Path, work: Path, device: torch.device
) -> tuple[dict[str, list[int]], int]:
    """`extract` with config.model of the folder `models` and every video of `shards`, the folder of one rate; returns
    its shapes and the number of videos. ValueError when the model was not trained on this split."""
    model = models / f"{config.model}.safetensors"
    net, card = load_model(model)
    by_split = {split: open_videos(shards, split) for split in ("train", "validation", "test")}
    check_split(card, by_split["test"], model=config.model)
    check_tokens(config.token_stride, height=card.height, width=card.width)
    videos = [video for members in by_split.values() for video in members]
    shapes = extract(
        net.to(device),
        card,
        videos,
        [split for split, members in by_split.items() for _ in members],
        out,
        condition=condition,
        config=config,
        model_sha256=sha256_of(model),
        work=work,
    )
    return shapes, len(videos)


def extract(
    net: Ladder,
    card: ModelCard,
    videos: Sequence[StoredVideo],
    splits: Sequence[str],
    out: Path,
    *,
    condition: str,
    config: FeaturesConfig,
    model_sha256: str,
    work: Path,
) -> dict[str, list[int]]:
    """Makes the folder `out`: videos.csv (a row a video: video, action, label, group, split) and <name>.npy, of which
    rows i · clips … (i + 1) · clips − 1 are the clips of video i. net: the trained network, on its device; splits: of
    each video; work: where an interrupted run leaves its rows. Returns the shape of a row under each name."""
    with only_one(work / "lock"):
        rows = work / "rows"
        stored = [(video.key, video.info) for video in videos]
        settings = (config, condition, card, model_sha256, stored, list(splits))
        expected = fingerprint(settings, (), net.encoder)
        saved = load_state(work / PROGRESS, expected) if rows.exists() else None
        done = saved["done"] if saved else 0
        if saved:
            print(f"carrying on: {done} clips are in {work}")
        else:
            shutil.rmtree(rows, ignore_errors=True)
            rows.mkdir()
        shapes = _fill(rows, net, card, videos, done, condition, config, progress=work / PROGRESS, expected=expected)
        table = [
            {"video": v.key, "action": v.info.action, "label": v.info.label, "group": v.info.group, "split": split}
            for v, split in zip(videos, splits, strict=True)
        ]
        write_table(rows / "videos.csv", table)
        shutil.rmtree(out, ignore_errors=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(rows, out)
        (work / PROGRESS).unlink(missing_ok=True)
    return shapes


def _fill(
    rows: Path,
    net: Ladder,
    card: ModelCard,
    videos: Sequence[StoredVideo],
    done: int,
    condition: str,
    config: FeaturesConfig,
    *,
    progress: Path,
    expected: str,
) -> dict[str, list[int]]:
    """Writes the clips from number `done` on. Every few seconds and after the last, `progress` records how many are
    done, beside the `expected` fingerprint."""
    device = next(net.parameters()).device
    network = network_for(condition, net, card, seed=config.seed).to(device)
    clips, total, saved = config.clips, len(videos) * config.clips, time.monotonic()
    with tqdm(total=total, initial=done, desc=f"features, {condition}", unit="clip") as bar:
        for first in range(done, total, config.batch):
            loaded = []
            for i in range(first, min(first + config.batch, total)):
                video, clip = videos[i // clips], i % clips
                loaded.append(read_clip(video, windows(video, config)[clip], condition, seed=(config.seed, i)))
            found = extract_states(
                network,
                loaded,
                height=card.height,
                width=card.width,
                token_stride=config.token_stride,
                still=condition == "still",
                encoder=condition == "trained",
            )
            _write(rows, found, first, total)
            done = first + len(loaded)
            if done == total or time.monotonic() - saved >= SAVE_SECONDS:
                for file in rows.glob("*.npy"):
                    with file.open("rb") as stream:
                        os.fsync(stream.fileno())
                save_state(progress, {"fingerprint": expected, "done": done})
                saved = time.monotonic()
            bar.update(len(loaded))
    return {file.stem: list(np.load(file, mmap_mode="r").shape[1:]) for file in sorted(rows.glob("*.npy"))}


def _write(rows: Path, found: Mapping[str, Tensor], first: int, total: int) -> None:
    """Each file is opened anew, so that its pages do not stay in memory."""
    for name, values in found.items():
        file, dtype = rows / f"{name}.npy", STORED.get(name, np.float32)
        if file.exists():
            array = np.lib.format.open_memmap(file, "r+")
        else:
            array = np.lib.format.open_memmap(file, "w+", dtype, (total, *values.shape[1:]))
        array[first : first + len(values)] = values.numpy()
