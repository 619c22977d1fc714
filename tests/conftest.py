"""Shared by all tests: small generated shards, real clips where they are, and no leaking random state."""

from pathlib import Path

import pytest
import torch

from pipeline.video import motions
from pipeline.video.ingest import DecodeConfig, ingest, plan_rows
from pipeline.video.ucf101 import index_videos, read_labels, read_split

REAL_CLIPS = Path(__file__).parents[2] / "shared" / "data" / "ucf101-mini"
REAL_WEIGHTS = REAL_CLIPS.parent / "weights" / "resnet18_imagenet_conv1_to_layer3.pth"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_clips() -> Path:
    if not REAL_CLIPS.is_dir():
        pytest.skip("the real UCF101 clips are not on this machine")
    return REAL_CLIPS


@pytest.fixture(scope="session")
def real_weights() -> Path:
    if not REAL_WEIGHTS.is_file():
        pytest.skip("the real encoder weights are not on this machine")
    return REAL_WEIGHTS


def decode_config(**changes: object) -> DecodeConfig:
    values = {
        "split": 1,
        "validation_groups": (22,),
        "height": 32,
        "width": 32,
        "jpeg_qscale": 2,
        "videos_per_shard": 8,
        "max_bad_fraction": 0.0,
        "timeout_s": 60.0,
    }
    return DecodeConfig(**{**values, **changes})


@pytest.fixture(scope="session")
def raw_motions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 classes × 22 groups × 1 video of 30 frames, as the stage fetch leaves them."""
    raw = tmp_path_factory.mktemp("raw")
    motions.generate(motions.MotionsConfig(seed=3, groups=22, clips=1, frames=30), raw, workers=2)
    return raw


@pytest.fixture(scope="session")
def shards(raw_motions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards of raw_motions at 25, 15 and 10 fps, 32 × 32 pixels, and manifest.csv."""
    out = tmp_path_factory.mktemp("shards")
    index = index_videos(raw_motions / "UCF-101", relative_to=raw_motions)
    lists = raw_motions / "ucfTrainTestlist"
    rows = plan_rows(index, labels=read_labels(lists), split=read_split(lists, 1), config=decode_config())
    paths = {row.video: raw_motions / row.path for row in index.itertuples()}
    ingest(rows, paths, out, decode_config()).to_csv(out / "manifest.csv", index=False)
    return out
