"""Data sets in UCF101's layout that tests make, and how they are decoded: by functions, or by the stage."""

import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from pipeline.datasets.folder import LISTS, VIDEOS, table_in
from pipeline.datasets.table import files_of
from pipeline.decode.plan import DecodeConfig, Row, plan_rows
from pipeline.results import sha256_of
from tests.support import project
from tests.support.project import write_params
from tests.support.videos import FFMPEG, encode, moving_texture

# --- data sets -------------------------------------------------------------------------------------------------------


def write_lists(lists: Path, videos: Mapping[str, Sequence[str]]) -> Path:
    """The official files, CRLF, each split the same: of the names ("Class/file.avi") of "train" and "test"."""
    classes = sorted({name.split("/")[0] for side in videos.values() for name in side})
    lines = {"classInd": [f"{label} {name}" for label, name in enumerate(classes, start=1)]}
    for number in (1, 2, 3):
        train = [f"{name} {classes.index(name.split('/')[0]) + 1}" for name in videos["train"]]
        lines |= {f"trainlist0{number}": train, f"testlist0{number}": videos["test"]}
    lists.mkdir(parents=True)
    for name, content in lines.items():
        (lists / f"{name}.txt").write_bytes("".join(f"{line}\r\n" for line in content).encode())
    return lists


def encode_any(path: Path, *options: str, **shape: int) -> Path:
    """A small video, another for every file name."""
    seed = zlib.crc32(path.name.encode("utf-8", "surrogateescape"))
    return encode(path, moving_texture(seed, **shape), *options)


def make_raw(raw: Path, videos: Mapping[str, Sequence[str]], make: Callable[[Path], object] = encode_any) -> Path:
    """A folder with the videos of "train" and "test" and their lists. make: writes each video."""
    write_lists(raw / LISTS, videos)
    for path in (raw / VIDEOS / name for side in videos.values() for name in side):
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)
    return raw


# --- decoded by functions --------------------------------------------------------------------------------------------


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
    table, config = table_in(raw), decode_config(**changes)
    return plan_rows(table, config), files_of(table, raw), config


# --- decoded by the stage --------------------------------------------------------------------------------------------

STAGE = [sys.executable, "-m", "stages.decode"]


def run_stage(folder: Path, *stage: str, code: int = 0, **options: object) -> subprocess.CompletedProcess[str]:
    """A stage and its item, which must end with this exit code. options: of project.run_stage."""
    done = project.run_stage(folder, *stage, timeout=120, **options)
    assert done.returncode == code, done.stderr
    return done


def make_project(folder: Path, raw: Path, **decode: object) -> Path:
    """A folder to run the stages in, with the tiny preset's params, whose data/raw is a link to `raw`."""
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "raw").symlink_to(raw)
    write_params(folder, {"decode": decode})
    return folder


def stand_in(file: Path, cases: str) -> dict[str, str]:
    """An environment in which the ffmpeg that is run is a shell script: these cases of its arguments, then ours."""
    file.write_text(f'#!/bin/sh\ncase "$*" in {cases};; esac\nexec \'{FFMPEG}\' "$@"\n')
    file.chmod(0o755)
    return {"IMAGEIO_FFMPEG_EXE": str(file)}


def read_manifest(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "manifest.csv", keep_default_na=False, encoding_errors="surrogateescape")


def shard_digests(shards: Path) -> dict[str, str]:
    """{25/train-00000.tar: its digest, …}"""
    return {tar.relative_to(shards).as_posix(): sha256_of(tar) for tar in shards.glob("*/*.tar")}
