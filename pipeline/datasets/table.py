"""What a data set is to all that comes after it: the table videos.csv in data/raw, a row a video.

    video                    its name; without folder and suffix it is the key of its sample in the shards
    path                     of its file, absolute or relative to data/raw; empty: listed, but not there
    action, label            its class, and the number of the class from 0; -1: a class that no list knows
    group, clip              numbers of the scene or person, and of the video in it; 0 where they are not known
    split1, split2, split3   where each official split has it: train, test, or empty: in neither list; or else
    split                    where the only split has it: train, validation, test, or empty
    sha256, bytes            of the file
    problem, detail          why it cannot be tried as a video, in a few words and in particular; both empty for one
                             that can, but detail may say why it is in no list

Each kind of data set has a module here that makes this table. Nothing outside of this folder knows the kinds.
"""

import errno
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import pandas as pd
from tqdm import tqdm

from pipeline.results import sha256_of, write_text

FILE = "videos.csv"
ABSENT = {"path": "", "bytes": 0, "sha256": "", "problem": "listed, not found", "detail": ""}  # of a file
PLACES = {"split": ("train", "validation", "test", "")}
PLACES |= dict.fromkeys(("split1", "split2", "split3"), ("train", "test", ""))
_BEFORE, _AFTER = ("video", "path", "action", "label", "group", "clip"), ("sha256", "bytes", "problem", "detail")
_NUMBERS = ["label", "group", "clip", "bytes"]


def write_table(table: pd.DataFrame, raw: Path) -> None:
    """Writes raw/videos.csv; its columns in the order above. ValueError as in check_table."""
    columns = [*_BEFORE, *split_columns(table), *_AFTER]
    check_table(table, raw / FILE)
    # The line ends of RFC 4180: with them a name that holds a part of one is quoted.
    write_text(raw / FILE, table[columns].to_csv(index=False, lineterminator="\r\n"))


def read_table(raw: Path) -> pd.DataFrame:
    """The table in raw/videos.csv, as it was written. ValueError when there is none, and as in check_table."""
    file = raw / FILE
    if not file.exists():
        raise ValueError(f"{file}: no such file; make it with: dvc repro fetch")
    table = pd.read_csv(file, dtype=str, na_filter=False, encoding_errors="surrogateescape")
    check_table(table, file)
    return table.astype(dict.fromkeys(_NUMBERS, "int64"))


def check_table(table: pd.DataFrame, file: Path) -> None:
    """ValueError, naming `file`, for columns that are missing or too many, a place that is none of a split's, and names
    or keys that two videos share."""
    splits = split_columns(table)
    allowed = [*_BEFORE, *splits, *_AFTER]
    if not splits or ("split" in splits and len(splits) > 1) or sorted(table.columns) != sorted(allowed):
        needed = f"{', '.join(_BEFORE)}, split or else split1, split2 and split3, {', '.join(_AFTER)}"
        raise ValueError(f"{file}: has the columns {', '.join(table.columns)}; expected {needed}")
    for column in splits:
        if wrong := sorted(set(table[column]) - set(PLACES[column])):
            names = " or ".join(name or "nothing" for name in PLACES[column])
            raise ValueError(f"{file}: {column}: {wrong[0]!r} is not allowed; allowed: {names}")
    listed = table[table[splits].ne("").any(axis=1)]
    for what, names in {"video": table["video"], "key": listed["video"].map(sample_key)}.items():
        if twice := names[names.duplicated()].tolist():
            raise ValueError(f"{file}: two videos have the {what} {twice[0]!r}; give each its own")
    if dotted := [video for video in listed["video"] if "." in sample_key(video)]:
        raise ValueError(f"{file}: video: {dotted[0]!r} has two dots; allowed: one, before the suffix")


def split_columns(table: pd.DataFrame) -> list[str]:
    """Those of the table's columns that say where a split has a video."""
    return [column for column in PLACES if column in table]


def sample_key(video: str) -> str:
    """The key in the shards of the video of that name. WebDataset's keys end at the first dot."""
    return PurePosixPath(video).stem


def files_of(table: pd.DataFrame, raw: Path) -> dict[str, Path]:
    """{video: its file} of those that are there."""
    return {row.video: raw / row.path for row in table.itertuples() if row.path}


def describe_files(files: Sequence[Path]) -> list[dict[str, object]]:
    """bytes, sha256, problem and detail of each of the files, which are only read."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        facts = tqdm(pool.map(_describe, files), desc="sha256", total=len(files), unit="video", disable=None)
        return [dict(zip(("bytes", "sha256", "problem", "detail"), fact, strict=True)) for fact in facts]


def _describe(file: Path) -> tuple[int, str, str, str]:
    size = 0
    try:
        status = file.stat()
        size = status.st_size
        if stat.S_ISDIR(status.st_mode):
            os.listdir(file)
            return 0, "", "not a video", "a folder"
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            return 0, "", "not a video", "not a regular file"
        digest = sha256_of(file)
        return (size, digest, "", "") if size else (0, digest, "empty", "a file of no bytes")
    except OSError as error:
        return size, "", "symlink loop" if error.errno == errno.ELOOP else "unreadable", error.strerror or str(error)
