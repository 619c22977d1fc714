"""What becomes of every file found, and of every video listed: a row each, settled before anything is decoded."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pipeline.datasets.ucf101 import Split, parse_name
from pipeline.settings import Above, AtLeast, Between, MultipleOf

BAD, GOOD, ABSENT = "bad", "good", "absent"


@dataclass(frozen=True)
class DecodeConfig:
    """Section `decode`."""

    split: Literal[1, 2, 3]  # the official split
    validation_groups: tuple[Annotated[int, AtLeast(1)], ...]  # groups of the training list held back
    height: Annotated[int, MultipleOf(32)]  # the encoder halves five times
    width: Annotated[int, MultipleOf(32)]
    jpeg_quality: Annotated[int, Between(1, 100)]  # libjpeg's
    videos_per_shard: Annotated[int, AtLeast(1)]
    max_bad_fraction: Annotated[float, Between(0, 1)]  # of the listed videos found
    max_missing_fraction: Annotated[float, Between(0, 1)]  # of a video's frames, missing or damaged, or of its bytes
    timeout_s: Annotated[float, Above(0)]  # for one video
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


def plan_rows(index: Iterable[object], *, labels: Mapping[str, int], split: Split, config: DecodeConfig) -> list[Row]:
    """A row for every file of the index (attributes video, bytes, sha256, problem, detail) and for every video listed
    but not found, with its split and its shard, sorted by video.

    Shards are filled in the order of the digest of each video's name: a fixed shuffle, so that a shard mixes the
    classes and a plain sequential reader needs only a small shuffle buffer.
    """
    rows = [_found(item, labels, split, config) for item in index]
    absent = (split.train | split.test) - {row.video for row in rows}
    rows += [
        replace(_placed(video, labels, split, config), verdict=ABSENT, reason="listed, not found") for video in absent
    ]
    rows.sort(key=lambda row: hashlib.sha256(row.video.encode("utf-8", "surrogateescape")).digest())
    counts: dict[str, int] = {}
    for i, row in enumerate(rows):
        if row.verdict == GOOD:
            number = counts.get(row.split, 0)
            counts[row.split] = number + 1
            rows[i] = replace(row, shard=f"{row.split}-{number // config.videos_per_shard:05d}.tar")
    return sorted(rows, key=lambda row: row.video)


def _found(item: object, labels: Mapping[str, int], split: Split, config: DecodeConfig) -> Row:
    row = replace(_placed(item.video, labels, split, config), bytes=int(item.bytes), sha256=item.sha256)
    if item.problem:
        return replace(row, verdict=BAD, reason=item.problem, detail=item.detail)
    if row.split == "none":
        official = "" if row.group else "; its name is not v_<Action>_g<2 digits>_c<2 digits>"
        return replace(row, verdict=BAD, reason="unlisted", detail=f"in neither list of split {split.number}{official}")
    return row


def _placed(video: str, labels: Mapping[str, int], split: Split, config: DecodeConfig) -> Row:
    action, _, file_name = video.rpartition("/")
    name = parse_name(file_name)
    where = "none"
    if video in split.test:
        where = "test"
    elif video in split.train:  # only official names are listed
        where = "validation" if name.group in config.validation_groups else "train"
    group, clip = (name.group, name.clip) if name else (0, 0)
    return Row(video, action, labels.get(action, -1), group, clip, split=where, verdict=GOOD)
