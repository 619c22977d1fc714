"""Shared by all tests: small generated shards, real clips where they are, and no leaking random state."""

from pathlib import Path

import pytest
import torch

from pipeline.datasets import motions
from pipeline.datasets.index import index_videos
from pipeline.datasets.ucf101 import read_labels, read_split
from pipeline.decode.ingest import ingest
from pipeline.decode.manifest import make_manifest
from pipeline.decode.plan import DecodeConfig, Row, plan_rows
from tests.videos import ARCHERY, HANDSTAND, write

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
        "jpeg_quality": 96,
        "videos_per_shard": 8,
        "max_bad_fraction": 0.0,
        "max_missing_fraction": 0.1,
        "timeout_s": 60.0,
        "executor": "processes",
        "scheduler": None,
    }
    return DecodeConfig(**{**values, **changes})


def plan(raw: Path, **changes: object) -> tuple[list[Row], dict[str, Path], DecodeConfig]:
    """The rows of a folder with UCF-101 and ucfTrainTestlist, the files, and the config: what ingest takes."""
    index = index_videos(raw / "UCF-101", relative_to=raw)
    lists = raw / "ucfTrainTestlist"
    config = decode_config(**changes)
    labels, split = read_labels(lists), read_split(lists, config.split)
    rows = plan_rows(index.itertuples(), labels=labels, split=split, config=config)
    return rows, {row.video: raw / row.path for row in index.itertuples()}, config


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
    rows, paths, config = plan(raw_motions)
    make_manifest(ingest(rows, paths, config, work=out)).to_csv(out / "manifest.csv", index=False)
    return out


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """Two classes, three splits, with the line ends of the official files."""
    folder = tmp_path / "ucfTrainTestlist"
    write(folder / "classInd.txt", "1 Archery\r\n2 HandstandPushups\r\n")
    for number in (1, 2, 3):
        write(folder / f"trainlist0{number}.txt", f"{ARCHERY} 1\r\n")
        write(folder / f"testlist0{number}.txt", f"{HANDSTAND}\r\n")
    return folder
