"""Features of every clip under every condition, streamed to files; an interrupted run carries on.

The encoder sees every frame once, for all networks. Rows are written into files of their full size in the run folder.
Every few seconds, once the disk has them, a small record says how many clips are done; a run with the same settings,
model, videos and code goes on from there, and ends with the same bytes, since its batches are the same. No more than a
batch of clips is in memory.
"""

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.clips.batches import as_images
from pipeline.clips.shards import open_videos
from pipeline.nets.ladder import Ladder
from pipeline.probe.features.conditions import (
    FeaturesConfig,
    Item,
    check_split,
    items,
    order,
    read_clip,
    token_grid,
    untrained,
    windows,
)
from pipeline.probe.features.memoryless import encoder_features, flow_features
from pipeline.probe.features.states import Features, extract_states
from pipeline.results import open_rows, sha256_of, write_table
from pipeline.training.interruption import only_one
from pipeline.training.model_card import ModelCard
from pipeline.training.model_file import load_model
from pipeline.training.state import fingerprint, load_state, save_state

PROGRESS = "progress.pt"
SAVE_SECONDS = 5.0
LARGEST = torch.finfo(torch.float16).max  # of what is stored

Shapes = dict[str, list[int]]


def extract_features(
    config: FeaturesConfig,
    net: Ladder,
    card: ModelCard,
    *,
    model_sha256: str,
    shards: Path,
    out: Path,
    work: Path,
    device: torch.device,
    conditions: Sequence[str] | None = None,
) -> tuple[Shapes, int]:
    """`extract` of every video of `shards`, the folder of one rate; returns its shapes and the number of rows.
    conditions: those that are wanted; None: all. ValueError when the network was not trained on this split."""
    by_split = {split: open_videos(shards, split) for split in ("train", "validation", "test")}
    check_split(card, by_split["test"], model=config.model)
    found, wanted = items(by_split, config), config.conditions if conditions is None else conditions
    names = {"model_sha256": model_sha256, "work": work, "conditions": wanted}
    return extract(config, net.to(device).eval(), card, found, out, **names), len(found)


def load_probed(config: FeaturesConfig, models: Path) -> tuple[Ladder, ModelCard, str]:
    """The network that config.model names, of the folder `models`, its card, and the digest of its file."""
    file = models / f"{config.model}.safetensors"
    return *load_model(file), sha256_of(file)


def extract(
    config: FeaturesConfig,
    net: Ladder,
    card: ModelCard,
    found: Sequence[Item],
    out: Path,
    *,
    model_sha256: str,
    work: Path,
    conditions: Sequence[str],
) -> Shapes:
    """Makes the folder `out`: videos.csv, a row an item, and <condition>/<name>.npy in 16 bits, of which rows
    i · clips … (i + 1) · clips − 1 are the clips of item i. net: the trained network, on its device; work: where an
    interrupted run leaves its rows. Returns the shape of a row of each file, by its name."""
    with only_one(work / "lock"):
        rows = work / "rows"
        stored = [(item.video.key, item.video.info, item.split, item.reverse) for item in found]
        machine = (next(net.parameters()).device.type, torch.__version__)
        expected = fingerprint((config, card, model_sha256, stored, conditions, machine), (), net.encoder)
        saved = load_state(work / PROGRESS, expected) if rows.exists() else None
        done = saved["done"] if saved else 0
        if saved:
            print(f"carrying on: {done} clips are in {work}")
        else:
            (work / PROGRESS).unlink(missing_ok=True)  # it must not come to stand for the rows of this run
            shutil.rmtree(rows, ignore_errors=True)
            rows.mkdir()
        networks = networks_of(conditions, config, net, card)
        shapes = _fill(rows, config, networks, card, found, done, progress=work / PROGRESS, expected=expected)
        write_table(rows / "videos.csv", [item.row() for item in found])
        shutil.rmtree(out, ignore_errors=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(rows, out)
        (work / PROGRESS).unlink(missing_ok=True)
    return shapes


def _fill(
    rows: Path,
    config: FeaturesConfig,
    networks: Mapping[str, Ladder],
    card: ModelCard,
    found: Sequence[Item],
    done: int,
    *,
    progress: Path,
    expected: str,
) -> Shapes:
    """Writes the clips from number `done` on. Every few seconds and after the last, `progress` records how many are
    done, beside the `expected` fingerprint."""
    longest = max(windows(item.video, config)[0][1] for item in found)
    total, saved = len(found) * config.clips, time.monotonic()
    with tqdm(total=total, initial=done, desc="features", unit="clip") as bar:
        for first in range(done, total, config.batch):
            numbers = range(first, min(first + config.batch, total))
            clips = [_read(found, i, config) for i in numbers]
            for name, values in features_of(clips, numbers, config, networks, card, longest=longest).items():
                _write(rows / f"{name}.npy", values, first, total)
            done = first + len(clips)
            if done == total or time.monotonic() - saved >= SAVE_SECONDS:
                for file in rows.glob("*/*.npy"):
                    with file.open("rb") as stream:
                        os.fsync(stream.fileno())
                save_state(progress, {"fingerprint": expected, "done": done})
                saved = time.monotonic()
            bar.update(len(clips))
    return {
        f"{file.parent.name}/{file.stem}": list(np.load(file, mmap_mode="r").shape[1:])
        for file in sorted(rows.glob("*/*.npy"))
    }


def _read(found: Sequence[Item], number: int, config: FeaturesConfig) -> Tensor:
    item, clip = found[number // config.clips], number % config.clips
    return read_clip(item, windows(item.video, config)[clip])


def networks_of(conditions: Sequence[str], config: FeaturesConfig, net: Ladder, card: ModelCard) -> dict[str, Ladder]:
    """The network of each condition; that of `memoryless` is used for its encoder alone."""
    device = next(net.parameters()).device
    seeds = {name: config.seed + draw for draw, name in enumerate(config.draws)}
    return {name: untrained(net, card, seed=seeds[name]).to(device) if name in seeds else net for name in conditions}


@torch.no_grad()
def features_of(
    clips: Sequence[Tensor],
    numbers: Sequence[int],
    config: FeaturesConfig,
    networks: Mapping[str, Ladder],
    card: ModelCard,
    *,
    longest: int,
) -> Features:
    """Clips, uint8 (T, 3, H, W) of their own lengths -> features by <condition>/<name>, a row a clip. numbers: of the
    clips, among all; networks: by condition, all with one encoder; longest: frames of the longest clip of all."""
    net = next(iter(networks.values()))
    device, lengths = next(net.parameters()).device, [len(clip) for clip in clips]
    images = as_images(torch.cat(list(clips)).to(device), height=card.height, width=card.width)
    taps = net.tap(images) | {"frame": images}
    settings = {"grid": token_grid(config.token_stride, height=card.height, width=card.width), "longest": longest}
    starts = [0, *accumulate(lengths)][:-1]
    found: Features = {}
    for network in dict.fromkeys(networks.values()):
        encoded = network.project(taps)
        for condition in (name for name, its in networks.items() if its is network and name != "memoryless"):
            orders = (order(condition, n, seed=(config.seed, i)) for n, i in zip(lengths, numbers, strict=True))
            shown = [start + each for start, each in zip(starts, orders, strict=True)]
            features = extract_states(network, encoded, shown, steps=config.states, parts=config.parts, **settings)
            found |= {f"{condition}/{name}": values for name, values in features.items()}
    if "memoryless" in networks:
        features = {"encoder": encoder_features(net.encoder, taps, lengths)} | flow_features(
            images, lengths, **settings
        )
        found |= {f"memoryless/{name}": values for name, values in features.items()}
    return found


def _write(file: Path, values: Tensor, first: int, total: int) -> None:
    """Each file is opened anew, so that its pages do not stay in memory."""
    file.parent.mkdir(exist_ok=True)
    array = open_rows(file, (total, *values.shape[1:]), np.float16)
    array[first : first + len(values)] = values.clamp(-LARGEST, LARGEST).cpu().numpy()
