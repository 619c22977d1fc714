"""What becomes of every file found, and of every video listed: a row each, settled before anything is decoded."""

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import pandas as pd
from pydantic import Field

from pipeline.datasets.table import split_columns
from pipeline.settings import Count, Pixels, Positive, Share, section

BAD, GOOD, ABSENT = "bad", "good", "absent"


@section
class DecodeConfig:
    """Section `decode`."""

    split: Literal[1, 2, 3]  # the official split, if the data set has several
    validation_groups: tuple[Count, ...]  # groups of the training list held back
    height: Pixels
    width: Pixels
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]  # libjpeg's
    videos_per_shard: Count
    max_bad_fraction: Share  # of the listed videos found
    max_missing_fraction: Share  # of a video's frames, missing or damaged, or of its bytes
    timeout_s: Positive  # for one video
    executor: Literal["processes", "dask"]  # where the work is done; the shards are the same
    scheduler: str | None  # of dask, such as tcp://10.0.0.1:8786

    def __post_init__(self) -> None:
        if self.executor == "dask" and not self.scheduler:
            raise ValueError("executor is dask: scheduler must be its address, such as tcp://10.0.0.1:8786, not null")


@dataclass(frozen=True)
class Row:
    """A row of the manifest.

    split: train, validation, test, or none. verdict: good; bad; or absent (listed, not found). reason: of a bad video
    one of a few words, with what is particular to it in `detail`; of a good one what is worth a look, with the
    decoder's complaint, if any, in `detail`. rate: frames per second of the source; height, width: of the source, in
    pixels; hdr: PQ or HLG; tracks: picture tracks in the file; frames: decoded; header_frames: that there should be by
    the container; damaged_frames: not decoded whole; late_frames: not later than the one before; near_duplicates:
    frames that hardly differ from the one before; steady: equally far apart in time; missing_bytes: by which the file
    is shorter than it says; frames_25 … frames_10: stored at each rate.
    """

    video: str
    action: str
    label: int
    group: int
    clip: int
    split: str
    verdict: str
    reason: str = ""
    detail: str = ""
    codec: str = ""
    packed: bool = False
    rate: str = ""
    height: int = 0
    width: int = 0
    hdr: str = ""
    tracks: int = 0
    frames: int = 0
    header_frames: int = 0
    damaged_frames: int = 0
    late_frames: int = 0
    near_duplicates: int = 0
    steady: bool = True
    missing_bytes: int = 0
    frames_25: int = 0
    frames_15: int = 0
    frames_10: int = 0
    bytes: int = 0
    sha256: str = ""
    shard: str = ""


def split_column(table: pd.DataFrame, config: DecodeConfig) -> str:
    """The column of a data set's table that says which split its videos are in: its only one, or the one of
    decode.split. ValueError when there is no such."""
    columns, wanted = split_columns(table), f"split{config.split}"
    if columns == ["split"]:
        return "split"
    if wanted not in columns:
        raise ValueError(f"decode.split: {config.split}, but the data set has no {wanted}; it has {', '.join(columns)}")
    return wanted


def plan_rows(table: pd.DataFrame, config: DecodeConfig) -> list[Row]:
    """A row for every file of a data set's table, and for every video that its split lists and that was not found, with
    its split and its shard, sorted by video.

    Shards are filled in the order of the digest of each video's name: a fixed shuffle, so that a shard mixes the
    classes and a plain sequential reader needs only a small shuffle buffer.
    """
    column = split_column(table, config)
    rows = [_planned(item, column, config) for item in table.itertuples() if item.path or getattr(item, column)]
    rows.sort(key=lambda row: hashlib.sha256(row.video.encode("utf-8", "surrogateescape")).digest())
    counts = Counter()
    for i, row in enumerate(rows):
        if row.verdict == GOOD:
            rows[i] = replace(row, shard=f"{row.split}-{counts[row.split] // config.videos_per_shard:05d}.tar")
            counts[row.split] += 1
    return sorted(rows, key=lambda row: row.video)


def _planned(item: object, column: str, config: DecodeConfig) -> Row:
    """item: a row of the table."""
    split = getattr(item, column)
    if split == "train" and item.group in config.validation_groups:
        split = "validation"
    facts = (item.video, item.action, item.label, item.group, item.clip)
    row = Row(*facts, split=split or "none", verdict=GOOD, bytes=item.bytes, sha256=item.sha256)
    if item.problem:
        return replace(row, verdict=BAD if item.path else ABSENT, reason=item.problem, detail=item.detail)
    if not split:
        why = f"column {column} of videos.csv is empty"
        return replace(row, verdict=BAD, reason="unlisted", detail="; ".join(filter(None, [why, item.detail])))
    return row
