"""How much of a disk each stage fills on the whole of UCF101, by the settings of a preset.

The sizes follow from the formats: the features' from the shapes that one clip gives, the models' from their weights,
the shards' from the bytes of a JPEG, which were measured on real clips. Left out is what stays below 100 MB on the
whole of UCF101: tables, pictures and logs. DVC's cache needs no more where it can link to the same disk; where it
cannot, everything but `runs/` is there twice.

GB are 10⁹ bytes.
"""

import json
import math
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.clips.shards import RATES, SampleInfo
from pipeline.datasets import ucf101
from pipeline.decode.plan import DecodeConfig
from pipeline.nets.build import build_net
from pipeline.nets.ladder import Ladder
from pipeline.pages.cells import heading, row
from pipeline.probe.features.conditions import FeaturesConfig
from pipeline.probe.features.extract import features_of
from pipeline.settings import from_dict, overlay, read_params
from pipeline.training.config import TrainConfig

MOMENTS = {"adamw": 2, "adam": 2, "adagrad": 1, "sgd": 1}  # that the optimizer keeps of every weight
ENCODED = {"height": 128, "width": 160, "jpeg_quality": 96}  # how the JPEGs of UCF101 below were made


@dataclass(frozen=True)
class DataSet:
    """videos, seconds: how many in all; archives, files: bytes of what is downloaded, and of the videos unpacked from
    it; jpeg: mean bytes of a stored frame, as the stage decode makes them."""

    videos: int
    seconds: float
    archives: int
    files: int
    jpeg: float


# Measured on 234 real clips of six classes, decoded with ENCODED: 39,736 frames at 25 fps are 440,355,183 bytes, and
# come from 42,695 frames of the files, some of which are 29.97 fps. UCF101 has about 2.48 million frames in its files.
# Zlib makes these files 3.3 % smaller.
_ARCHIVES = ucf101.VIDEOS_ARCHIVE.bytes + ucf101.LISTS_ARCHIVE.bytes
UCF101 = DataSet(
    videos=13_320,
    seconds=2.48e6 * (39_736 / 42_695) / 25,
    archives=_ARCHIVES,
    files=round(_ARCHIVES / 0.967),
    jpeg=440_355_183 / 39_736,
)


@dataclass(frozen=True)
class Use:
    """What a stage puts on the disk. kept: bytes that stay; passing: bytes more until the stage ends."""

    stage: str
    what: str
    kept: float
    passing: float = 0.0


def disk_use(tree: Mapping[str, Any], data: DataSet) -> list[Use]:
    """Of the stages in the order in which they run. tree: all sections of the settings. ParamsError for a section that
    does not fit, ValueError for features of whole videos, whose length is not known."""
    decode = from_dict(tree["decode"], DecodeConfig, where="decode")
    features = from_dict(tree["features"], FeaturesConfig, where="features")
    models = {name: from_dict(node, TrainConfig, where=f"train.{name}") for name, node in tree["train"].items()}
    uses = []
    if tree["source"]["kind"] in ("folder", "table"):
        uses.append(Use("fetch", "your videos, read in place", 0))
    else:
        uses.append(Use("fetch", "videos; meanwhile the archives too", data.files, data.archives))
    for rate in RATES:
        uses.append(Use("decode", f"shards at {rate} fps", shards_bytes(data, decode, rate)))
    for name, config in models.items():
        net = meta_net(name, config)
        kept = models_bytes(net, config) + sum(state_bytes(net, config, n) for n in range(1, len(config.curriculum)))
        # The state that it continues from, and a second one while that is written.
        passing = 2 * state_bytes(net, config, len(config.curriculum))
        uses.append(Use("train", f"`{name}`: a model of each phase, and the states in `runs/`", kept, passing))
    size = features_bytes(feature_shapes(features, models[features.model]), features, data.videos)
    uses.append(Use("features", f"{features.clips} clips of each video, {len(features.conditions)} conditions", size))
    return uses


def shards_bytes(data: DataSet, decode: DecodeConfig, rate: int) -> float:
    """Of the shards of one rate, as if all videos were of the same length; see pipeline/clips/shards.py."""
    frames = data.seconds * rate / data.videos
    offsets = [round(k * data.jpeg) for k in range(round(frames) + 1)]
    info = SampleInfo("ApplyEyeMakeup", 0, 1, 1, rate, round(frames), offsets, "0" * 64)
    text = len(json.dumps(asdict(info), sort_keys=True))
    # Each of the two members has a header, and is filled up to whole blocks; a tar's end is filled up to a record.
    sample = text + frames * data.jpeg + 2 * (tarfile.BLOCKSIZE + tarfile.BLOCKSIZE / 2)
    end = 2 * tarfile.BLOCKSIZE + tarfile.RECORDSIZE / 2
    return data.videos * sample + math.ceil(data.videos / decode.videos_per_shard) * end


def meta_net(name: str, config: TrainConfig) -> Ladder:
    """A network of this model's shapes, without values."""
    with torch.device("meta"):
        return build_net(name, config.net, height=config.height, width=config.width)


def models_bytes(net: Ladder, config: TrainConfig) -> int:
    """Of the model's file, and of those of its phases, which are as large, without their headers."""
    return (1 + len(config.curriculum)) * _bytes(net, encoder=True)


def state_bytes(net: Ladder, config: TrainConfig, phases: int) -> int:
    """Of the state of a run (pipeline/training/checkpoint.py) that has finished so many phases: the weights but for
    the encoder's, the moments of their gradients, their mean over time, if any, and the best weights of each phase."""
    copies = 1 + MOMENTS[config.optimizer.kind] + bool(config.optimizer.ema) + phases
    return copies * _bytes(net, encoder=False)


def _bytes(net: Ladder, *, encoder: bool) -> int:
    weights = net.state_dict().items()
    return sum(value.nbytes for name, value in weights if encoder or "encoder." not in name)


def feature_shapes(config: FeaturesConfig, train: TrainConfig) -> dict[str, tuple[int, ...]]:
    """The shape of a row of each file, <condition>/<name>, from one black frame: of a longer clip it is the same, since
    what a clip lacks of the longest is filled up. ValueError when clips are whole videos."""
    if config.frames == 0:
        raise ValueError("features.frames: 0, whole videos, whose length is not known here; allowed: at least 1")
    net = build_net(config.model, train.net, height=train.height, width=train.width).eval()
    networks = dict.fromkeys(config.conditions, net)
    black = torch.zeros(1, 3, train.height, train.width, dtype=torch.uint8)
    card = train.card(config.model, {}, test_digest="")
    found = features_of([black], [0], config, networks, card, longest=config.frames)
    return {name: tuple(values.shape[1:]) for name, values in found.items()}


def features_bytes(shapes: Mapping[str, Sequence[int]], config: FeaturesConfig, videos: int) -> int:
    """Of all files of features, in 16 bits, without their headers."""
    rows = videos * config.clips * (2 if config.labels == "directions" else 1)
    return rows * sum(map(math.prod, shapes.values())) * np.dtype(np.float16).itemsize


def disk(preset: str) -> list[str]:
    """A row a stage, for the whole of UCF101. ValueError for a preset whose JPEGs are others than those measured."""
    tree = read_params()
    overlay(tree, read_params(Path("presets", f"{preset}.yaml")))
    if other := {key: tree["decode"][key] for key, value in ENCODED.items() if tree["decode"][key] != value}:
        raise ValueError(f"disk {preset}: the bytes of a frame were measured with {ENCODED}, and not with {other}")
    uses = disk_use(tree, UCF101)
    lines = heading("stage", "what", "GB", "GB more while it runs")
    for use in uses:
        passing = f"{use.passing / 1e9:.1f}" if use.passing else ""
        lines.append(row([f"`{use.stage}`", use.what, f"{use.kept / 1e9:.1f}", passing]))
    return [*lines, row(["all", "", f"{sum(use.kept for use in uses) / 1e9:.1f}", ""])]
