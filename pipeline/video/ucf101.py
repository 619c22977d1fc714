"""UCF101 as a folder: official names, splits, labels, and an index with digests.

Soomro, Zamir, Shah: "UCF101: A Dataset of 101 Human Actions Classes From Videos in The Wild" (2012):

    <videos>/Archery/v_Archery_g01_c02.avi        group 1, clip 2; a group is one person or scene
    <lists>/classInd.txt                          "3 Archery"
    <lists>/trainlist01.txt, 02, 03               "Archery/v_Archery_g08_c01.avi 3"
    <lists>/testlist01.txt, 02, 03                "Archery/v_Archery_g01_c01.avi"

A video's key is its line in the lists, "Class/file.avi". The folder is not always the name's action:
HandstandPushups holds v_HandStandPushups_*.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd
from tqdm import tqdm

LISTS, VIDEOS = "ucfTrainTestlist", "UCF-101"  # folders
SPLIT_NUMBERS = (1, 2, 3)
SUFFIXES = (".avi", ".mp4", ".mkv", ".webm", ".mov", ".mpg")

_CLASS = r"(?P<class>[A-Za-z0-9_-]+)"
_NAME = r"v_(?P<action>[A-Za-z0-9]+)_g(?P<group>[0-9]{2})_c(?P<clip>[0-9]{2})\.[A-Za-z0-9]+"
_CLASS_LINE = re.compile(rf"(?P<label>[0-9]+)\s+{_CLASS}")
_TRAIN_LINE = re.compile(rf"{_CLASS}/(?P<file>{_NAME})\s+(?P<label>[0-9]+)")
_TEST_LINE = re.compile(rf"{_CLASS}/(?P<file>{_NAME})")


@dataclass(frozen=True)
class VideoName:
    """What an official file name says: v_Archery_g01_c02.avi is action Archery, group 1, clip 2."""

    action: str
    group: int
    clip: int


def parse_name(file_name: str) -> VideoName | None:
    """Reads v_<Action>_g<2 digits>_c<2 digits>.<ext>, without folders; None for any other name."""
    match = re.fullmatch(_NAME, file_name)
    return match and VideoName(match["action"], int(match["group"]), int(match["clip"]))


@dataclass(frozen=True)
class Split:
    """One of the three official splits; the sets hold keys, "Class/v_..._g08_c01.avi"."""

    number: int
    train: frozenset[str]
    test: frozenset[str]


def read_labels(lists: Path) -> dict[str, int]:
    """classInd.txt as {class: label from 0}, by rising label; ValueError unless the file counts 1..n."""
    file = lists / "classInd.txt"
    labels: dict[str, int] = {}
    for where, row in _rows(file, _CLASS_LINE, "'<number> <Class>', such as '3 Archery'"):
        if row["class"] in labels:
            raise ValueError(f"{where}: class {row['class']!r} appears twice; give each class one line")
        labels[row["class"]] = int(row["label"]) - 1
    found = sorted(labels.values())
    if found != list(range(len(found))):
        wrong = next(label for rank, label in enumerate(found) if label != rank)
        raise ValueError(f"{file}: number {wrong + 1} breaks the count; expected 1..{len(found)}, each once")
    return dict(sorted(labels.items(), key=lambda item: item[1]))


def read_split(lists: Path, number: int) -> Split:
    """Reads trainlist0N.txt and testlist0N.txt, N = number in 1..3, checked against classInd.txt.

    Raises ValueError with file and line for a missing file, a malformed line, an unknown class, a label other than
    classInd.txt's, or a repeated video, and for a video that is in both lists.
    """
    if number not in SPLIT_NUMBERS:
        raise ValueError(f"number: {number!r} is not an official split; expected 1, 2 or 3")
    labels = read_labels(lists)
    example = "Archery/v_Archery_g08_c01.avi"
    train = _read_list(
        lists / f"trainlist0{number}.txt", _TRAIN_LINE, f"'Class/file label', such as '{example} 3'", labels
    )
    test = _read_list(lists / f"testlist0{number}.txt", _TEST_LINE, f"'Class/file', such as '{example}'", labels)
    if both := sorted(train & test):
        raise ValueError(
            f"{lists}: split {number} has {len(both)} video(s) in its train and its test list, "
            f"first {both[0]}; keep each in one of them"
        )
    return Split(number, train, test)


def classes_of(lists: Path) -> dict[str, str]:
    """{file name: class folder} for every video in the splits that are there.

    ValueError if two folders claim a file, if there is no trainlist at all, and as read_split.
    """
    present = [number for number in SPLIT_NUMBERS if (lists / f"trainlist0{number}.txt").exists()]
    if not present:
        raise ValueError(f"{lists}: no trainlist01.txt, 02 or 03; expected the official split lists")
    classes: dict[str, str] = {}
    for number in present:
        split = read_split(lists, number)
        for key in sorted(split.train | split.test):
            folder, name = key.split("/")
            if classes.setdefault(name, folder) != folder:
                raise ValueError(f"{lists}: {name} is listed in class {classes[name]} and in {folder}; keep one")
    return classes


def index_videos(videos: Path, *, relative_to: Path | None) -> pd.DataFrame:
    """One row for each <videos>/<Class>/<file> with one of SUFFIXES in any case, sorted by path; only reads.

    Columns: video (the key: "Class/file.avi" whatever the file's own suffix), path (POSIX; relative to `relative_to`
    or, if that is None, absolute; the file's own symlink is kept), bytes, sha256. A file that cannot be read has an
    empty sha256, and 0 bytes if it cannot even be reached. Raises ValueError if `videos` holds no video in this
    layout, if two files have one key, or if `videos` is not below `relative_to`.
    """
    # Two fixed levels and no recursion: a loop of symlinks has nothing to loop through.
    files = _find_videos(videos)
    if not files:
        raise ValueError(f"{videos}: no video found{_layout_hint(videos)}; expected <Class>/<file>{'|'.join(SUFFIXES)}")
    # Lexical, because `videos` may be a link out of `relative_to`, and the index must not name the link's target.
    root = videos.resolve() if relative_to is None else Path(os.path.abspath(videos))
    base = None if relative_to is None else Path(os.path.abspath(relative_to))
    if base is not None and not root.is_relative_to(base):
        raise ValueError(f"videos: {root} is not below relative_to, {base}; pass relative_to=None for absolute paths")

    found = sorted((root / file.relative_to(videos) for file in files), key=Path.as_posix)
    table = pd.DataFrame(
        {
            "video": [f"{file.parent.name}/{listed_name(file.name)}" for file in found],
            "path": [(file if base is None else file.relative_to(base)).as_posix() for file in found],
        }
    )
    if (twice := table.loc[table["video"].duplicated(keep=False), "path"]).size:
        raise ValueError(f"{videos}: several files for one video, keep one of {', '.join(twice.iloc[:4])}")
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        facts = tqdm(pool.map(_facts, found), desc="sha256", total=len(found), unit="video", disable=None)
        table["bytes"], table["sha256"] = zip(*facts, strict=True)
    return table


def write_index(table: pd.DataFrame, raw: Path) -> None:
    """Writes index_videos' table to raw/videos.csv."""
    table.to_csv(raw / "videos.csv", index=False, lineterminator="\n")


def read_index(raw: Path) -> tuple[pd.DataFrame, dict[str, Path]]:
    """The table of raw/videos.csv, and the file of each video (relative paths are relative to raw)."""
    table = pd.read_csv(raw / "videos.csv", keep_default_na=False)
    return table, {row.video: raw / row.path for row in table.itertuples()}


def _rows(file: Path, line: re.Pattern[str], expected: str) -> Iterator[tuple[str, re.Match[str]]]:
    """("file:line number", match) for each line that is not blank."""
    try:
        # Bytes that are no UTF-8 then fail as a malformed line, with its number.
        text = file.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror}); expected a file of lines {expected}") from error
    if not text.strip():
        raise ValueError(f"{file}: is empty; expected lines {expected}")
    for number, row in enumerate(text.split("\n"), start=1):
        if row.strip():
            match = line.fullmatch(row.strip())
            if match is None:
                raise ValueError(f"{file}:{number}: {row.strip()!r} is malformed; expected {expected}")
            yield f"{file}:{number}", match


def _read_list(file: Path, line: re.Pattern[str], expected: str, labels: Mapping[str, int]) -> frozenset[str]:
    keys: set[str] = set()
    for where, row in _rows(file, line, expected):
        name, fields = row["class"], row.groupdict()
        if name not in labels:
            raise ValueError(f"{where}: class {name!r} is not in classInd.txt; add it there or correct the line")
        if "label" in fields and int(fields["label"]) != labels[name] + 1:
            raise ValueError(f"{where}: label {fields['label']} for {name}, but classInd.txt says {labels[name] + 1}")
        key = f"{name}/{listed_name(row['file'])}"
        if key in keys:
            raise ValueError(f"{where}: {key} is listed twice; keep one line")
        keys.add(key)
    return frozenset(keys)


def listed_name(file_name: str) -> str:
    """The name in the lists, which say .avi, for a file that may have been converted."""
    return PurePosixPath(file_name).with_suffix(".avi").name


def _find_videos(videos: Path) -> list[Path]:
    if not videos.is_dir():
        return []
    return [file for folder in _visible(videos) if folder.is_dir() for file in _visible(folder) if _is_video(file)]


def _visible(folder: Path) -> list[Path]:
    """The entries, without the hidden files that macOS and editors leave (._v_Archery_g01_c01.avi)."""
    return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]


def _is_video(file: Path) -> bool:
    # Not is_file: a broken link is a video that went missing, and must show up as unreadable.
    return file.suffix.lower() in SUFFIXES and not file.is_dir()


def _layout_hint(videos: Path) -> str:
    if not videos.is_dir():
        return " (no such folder)"
    if any(map(_is_video, _visible(videos))):
        return " (the video files lie directly in it: give the folder above the class folder)"
    below = next((folder for folder in sorted(_visible(videos)) if _find_videos(folder)), None)
    return f" (but {below} has the class folders: give that one)" if below else ""


def sha256_of(file: Path) -> str:
    """The sha256 of a file's content in hexadecimal, read in blocks; OSError if it cannot be read."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _facts(file: Path) -> tuple[int, str]:
    """(bytes, sha256)"""
    size = 0
    try:
        size = file.stat().st_size
        return size, sha256_of(file) if file.is_file() else ""  # opening a pipe would wait for ever
    except OSError:
        return size, ""
