"""A folder of videos as a table: a row for every file in it, with its digest, or with what is wrong with it."""

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from pipeline.datasets.ucf101 import listed_name
from pipeline.results import sha256_of, write_text

SUFFIXES = (
    *(".avi", ".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts"),
    *(".wmv", ".asf", ".flv", ".ogv", ".gif", ".dv", ".mxf", ".y4m", ".nut", ".ivf", ".h264", ".hevc"),
)


def index_videos(videos: Path, *, relative_to: Path | None) -> pd.DataFrame:
    """One row for each entry of <videos>/<Class>/, and for each file beside the class folders; only reads.

    Columns: video (the key: "Class/file.avi" whatever the video's own suffix), path (POSIX; relative to `relative_to`
    or, if that is None, absolute; the file's own symlink is kept), bytes, sha256, and problem and detail, empty for
    a file that can be tried as a video. Rows are sorted by path; hidden files, which macOS and editors leave, are no
    rows. Raises ValueError if `videos` holds no video in this layout, if two files have one key, or if `videos` is
    not below `relative_to`.
    """
    # Two fixed levels and no recursion: a loop of symlinks has nothing to loop through.
    files = _entries(videos)
    if not any(file.parent != videos and _named_as_video(file) for file in files):
        raise ValueError(f"{videos}: no video found{_layout_hint(videos)}; expected <Class>/<file>{'|'.join(SUFFIXES)}")
    # Lexical, because `videos` may be a link out of `relative_to`, and the index must not name the link's target.
    root = videos.resolve() if relative_to is None else Path(os.path.abspath(videos))
    base = None if relative_to is None else Path(os.path.abspath(relative_to))
    if base is not None and not root.is_relative_to(base):
        raise ValueError(f"videos: {root} is not below relative_to, {base}; pass relative_to=None for absolute paths")

    found = sorted((file.relative_to(videos) for file in files), key=Path.as_posix)
    table = pd.DataFrame(
        {
            "video": [_key(file) for file in found],
            "path": [(root / file if base is None else (root / file).relative_to(base)).as_posix() for file in found],
        }
    )
    if (twice := table.loc[table["video"].duplicated(keep=False), "path"]).size:
        raise ValueError(f"{videos}: several files for one video, keep one of {', '.join(twice.iloc[:4])}")
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        files = [root / file for file in found]
        facts = tqdm(pool.map(_facts, files), desc="sha256", total=len(files), unit="video", disable=None)
        table[["bytes", "sha256", "problem", "detail"]] = list(facts)
    outside = [file.parent == Path() and not problem for file, problem in zip(found, table["problem"], strict=True)]
    table.loc[outside, ["problem", "detail"]] = "not in a class folder", "expected <Class>/<file>"
    return table


def write_index(table: pd.DataFrame, raw: Path) -> None:
    """Writes index_videos' table to raw/videos.csv."""
    write_text(raw / "videos.csv", table.to_csv(index=False, lineterminator="\n"))


def read_index(raw: Path) -> tuple[pd.DataFrame, dict[str, Path]]:
    """The table of raw/videos.csv, and the file of each video (relative paths are relative to raw)."""
    table = pd.read_csv(raw / "videos.csv", keep_default_na=False, encoding_errors="surrogateescape")
    return table, {row.video: raw / row.path for row in table.itertuples()}


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


def _key(file: Path) -> str:
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


def _facts(file: Path) -> tuple[int, str, str, str]:
    """(bytes, sha256, problem, detail)"""
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
        if not _named_as_video(file):
            return size, digest, "not a video", f"its name does not end in {'|'.join(SUFFIXES)}"
        return (size, digest, "", "") if size else (0, digest, "empty", "a file of no bytes")
    except OSError as error:
        return size, "", "symlink loop" if error.errno == errno.ELOOP else "unreadable", error.strerror or str(error)
