"""A folder in UCF101's layout and its lists, both read in place -> the table of a data set.

    <videos>/<Class>/<file>    whatever the file's suffix: its name is its line in the lists, "Class/file.avi"

A row for every file found, with its digest or with what is wrong with it, and one for every video that is listed and
not there.
"""

import os
from pathlib import Path

import pandas as pd

from pipeline.datasets.lists import listed_name, parse_name, read_labels, read_splits
from pipeline.datasets.table import ABSENT, describe_files
from pipeline.settings import given_path, section

VIDEOS, LISTS = "UCF-101", "ucfTrainTestlist"  # the folders of a data set that is made here
SUFFIXES = (
    *(".avi", ".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts"),
    *(".wmv", ".asf", ".flv", ".ogv", ".gif", ".dv", ".mxf", ".y4m", ".nut", ".ivf", ".h264", ".hevc"),
)


@section
class FolderConfig:
    """Section `source.folder`: root holds the class folders, lists the split lists and classInd.txt; null unless
    source.kind is folder."""

    root: str | None
    lists: str | None


def make_table(config: FolderConfig) -> pd.DataFrame:
    """The table of the user's folder. ValueError as table_of, and for lists that are no folder."""
    lists = given_path(config.lists)
    if not lists.is_dir():
        raise ValueError(f"source.folder.lists: {lists} is not a folder; it should hold classInd.txt and the lists")
    return table_of(given_path(config.root), lists, relative_to=None)


def table_in(raw: Path) -> pd.DataFrame:
    """The table of a data set that was put into data/raw, videos and lists."""
    return table_of(raw / VIDEOS, raw / LISTS, relative_to=raw)


def table_of(videos: Path, lists: Path, *, relative_to: Path | None) -> pd.DataFrame:
    """The rows of table.py, sorted by video. Paths are relative to `relative_to` or, if that is None, absolute.

    Raises ValueError if `videos` holds no video in this layout, if two files have one name, if `videos` is not below
    `relative_to`, and for lists as read_labels and read_splits.
    """
    labels, splits = read_labels(lists), read_splits(lists)
    found, rows = _index(videos, relative_to), []
    for video in sorted(set(found).union(*(split.train | split.test for split in splits.values()))):
        folder, _, file = video.rpartition("/")
        name, facts = parse_name(file), found.get(video, ABSENT)
        row = {"video": video, "action": folder, "label": labels.get(folder, -1), "group": 0, "clip": 0} | facts
        if name:
            row |= {"group": name.group, "clip": name.clip}
        elif not facts["problem"]:
            row["detail"] = "its name is not v_<Action>_g<2 digits>_c<2 digits>"
        for number, split in splits.items():
            row[f"split{number}"] = "train" if video in split.train else "test" if video in split.test else ""
        rows.append(row)
    return pd.DataFrame(rows)


def _index(videos: Path, relative_to: Path | None) -> dict[str, dict[str, object]]:
    """{video: what its file alone tells} of each entry of <videos>/<Class>/, and of each file beside the class folders.
    Hidden files, which macOS and editors leave, are no rows; a file's own symlink is kept."""
    # Two fixed levels and no recursion: a loop of symlinks has nothing to loop through.
    files = sorted(_entries(videos), key=Path.as_posix)
    if not any(file.parent != videos and _named_as_video(file) for file in files):
        raise ValueError(f"{videos}: no video found{_layout_hint(videos)}; expected <Class>/<file>{'|'.join(SUFFIXES)}")
    # Lexical, because `videos` may be a link out of `relative_to`, and the table must not name the link's target.
    root = videos.resolve() if relative_to is None else Path(os.path.abspath(videos))
    base = None if relative_to is None else Path(os.path.abspath(relative_to))
    if base is not None and not root.is_relative_to(base):
        raise ValueError(f"videos: {root} is not below relative_to, {base}; pass relative_to=None for absolute paths")

    within = [file.relative_to(videos) for file in files]
    names: dict[str, Path] = {}
    for file in within:
        if (first := names.setdefault(_name(file), file)) is not file:
            raise ValueError(f"{videos}: several files for one video, keep one of {first}, {file}")
    found = {}
    for (name, file), facts in zip(names.items(), describe_files([root / file for file in within]), strict=True):
        if facts["problem"] in ("", "empty") and not _named_as_video(file):
            facts |= {"problem": "not a video", "detail": f"its name does not end in {'|'.join(SUFFIXES)}"}
        elif not facts["problem"] and file.parent == Path():
            facts |= {"problem": "not in a class folder", "detail": "expected <Class>/<file>"}
        path = root / file if base is None else (root / file).relative_to(base)
        found[name] = {"path": path.as_posix(), **facts}
    return found


def _entries(videos: Path) -> list[Path]:
    """What lies in the class folders, files that lie beside them, and class folders that cannot be looked into."""
    entries = []
    for entry in _visible(videos) if videos.is_dir() else ():
        try:
            entries += _visible(entry) if entry.is_dir() else [entry]
        except OSError:
            entries.append(entry)
    return entries


def _visible(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]


def _named_as_video(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES


def _name(file: Path) -> str:
    return file.with_name(listed_name(file.name)).as_posix() if _named_as_video(file) else file.as_posix()


def _layout_hint(videos: Path) -> str:
    if not videos.is_dir():
        return " (no such folder)"
    if any(map(_named_as_video, _visible(videos))):
        return " (the video files lie directly in it: give the folder above the class folder)"
    for folder in sorted(entry for entry in _visible(videos) if entry.is_dir()):
        if any(file.parent != folder and _named_as_video(file) for file in _entries(folder)):
            return f" (but {folder} has the class folders: give that one)"
    return ""
