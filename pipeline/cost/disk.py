"""How much of a disk each stage fills.

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
from pipeline.cost.data_set import MEASURED_QUALITY, DataSet, jpeg_bytes
from pipeline.decode.plan import DecodeConfig
from pipeline.nets.build import build_net
from pipeline.nets.ladder import Ladder
from pipeline.probe.features.conditions import FeaturesConfig
from pipeline.probe.features.extract import features_of
from pipeline.settings import from_dict
from pipeline.training.config import TrainConfig

MOMENTS = {"adamw": 2, "adam": 2, "adagrad": 1, "sgd": 1}  # that the optimizer keeps of every weight


@dataclass(frozen=True)
class Use:
    """What a stage puts on the disk. kept: bytes that stay; passing: bytes more until the stage ends."""

    stage: str
    what: str
    kept: float
    passing: float = 0.0


def disk_use(tree: Mapping[str, Any], data: DataSet) -> list[Use]:
    """Of the stages in the order in which they run. tree: all sections of the settings. ParamsError for a section that
    does not fit, ValueError for features of whole videos, whose length is not known, and for JPEGs of another quality
    than was measured."""
    decode = from_dict(tree["decode"], DecodeConfig, where="decode")
    if decode.jpeg_quality != MEASURED_QUALITY:
        raise ValueError(
            f"decode.jpeg_quality: {decode.jpeg_quality}; the bytes of a frame were measured with {MEASURED_QUALITY}"
        )
    features = from_dict(tree["features"], FeaturesConfig, where="features")
    models = {name: from_dict(node, TrainConfig, where=f"train.{name}") for name, node in tree["train"].items()}
    uses = []
    what = "videos; meanwhile the archives too" if data.archives else "videos"
    uses.append(Use("fetch", what, data.files, data.archives))
    jpeg = jpeg_bytes(decode.height, decode.width)
    for rate in RATES:
        uses.append(Use("decode", f"shards at {rate} fps", shards_bytes(data, decode, rate, jpeg=jpeg)))
    for name, config in models.items():
        net = meta_net(name, config)
        kept = models_bytes(net, config) + sum(state_bytes(net, config, n) for n in range(1, len(config.curriculum)))
        # The state that it continues from, and a second one while that is written.
        passing = 2 * state_bytes(net, config, len(config.curriculum))
        uses.append(Use("train", f"`{name}`: a model of each phase, and the states in `runs/`", kept, passing))
    size = features_bytes(feature_shapes(features, models[features.model]), features, data.videos)
    uses.append(Use("features", f"{features.clips} clips of each video, {len(features.conditions)} conditions", size))
    return uses


def at_most(uses: Sequence[Use]) -> float:
    """Bytes on the disk at the worst moment of a run."""
    kept, most = 0.0, 0.0
    for use in uses:
        kept += use.kept
        most = max(most, kept + use.passing)
    return most


def used(project: Path) -> int:
    """Bytes that results of earlier runs take in the project's folder, which a run replaces. A file that DVC's cache
    links to counts once."""
    files = (file for name in ("data", "models", "runs") for file in (project / name).rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in files)


def shards_bytes(data: DataSet, decode: DecodeConfig, rate: int, *, jpeg: float) -> float:
    """Of the shards of one rate, as if all videos were of the same length; see pipeline/clips/shards.py. jpeg: bytes of
    a stored frame."""
    frames = data.seconds * rate / data.videos
    offsets = [round(k * jpeg) for k in range(round(frames) + 1)]
    info = SampleInfo("ApplyEyeMakeup", 0, 1, 1, rate, round(frames), offsets, "0" * 64)
    text = len(json.dumps(asdict(info), sort_keys=True))
    # Each of the two members has a header, and is filled up to whole blocks; a tar's end is filled up to a record.
    sample = text + frames * jpeg + 2 * (tarfile.BLOCKSIZE + tarfile.BLOCKSIZE / 2)
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
