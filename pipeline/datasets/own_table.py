"""A table of your own: a CSV file over videos in any folders, which are read in place.

    path                of the file; a relative one starts in the folder of the CSV file, or in another that is given
    action              its class, in any words; the classes are numbered in sorted order
    split               train, validation or test
    group (optional)    the scene or person. Integers stay as they are, other words are numbered from 1 in sorted order;
                        without this column every video is a group of its own
    video (optional)    its name; where there is none it is the path without suffix, with _ for every character but
                        ASCII letters, digits, _ and -

Other columns are not used. A file that is not there is a row without a path, and no error.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from pipeline.datasets.table import ABSENT, describe_files
from pipeline.settings import given_path, section

NEEDED, OPTIONAL, SPLITS = ("path", "action", "split"), ("group", "video"), ("train", "validation", "test")
SHOWN = 100  # problems in one message, at most


@section
class TableConfig:
    """Section `source.table`. file: the CSV file, null unless source.kind is table; root: where relative paths start,
    null for the folder of the file."""

    file: str | None
    root: str | None


@dataclass(frozen=True)
class _Row:
    """line: of the file, from 1, at which the row begins; file: of the video."""

    line: int
    cells: Mapping[str, str]
    file: Path
    video: str


def make_table(config: TableConfig) -> pd.DataFrame:
    """The table of the user's own.

    Raises ValueError for a file that cannot be read, a column that is missing, a root that is no folder, and when there
    is none of the videos; and with all bad rows together, each with its line, its value and what is allowed.
    """
    file = given_path(config.file)
    root = file.parent if config.root is None else given_path(config.root)
    if config.root is not None and not root.is_dir():
        raise ValueError(f"source.table.root: {root} is not a folder; relative paths in {file} start there")
    rows = _read(file, root.resolve())
    there = [row for row in rows if _is_there(row.file)]
    if not there:
        raise ValueError(
            f"{file}: there is none of its {len(rows)} files, the first is {rows[0].file}; relative paths start in "
            f"the folder of this file, or where source.table.root says"
        )
    described = zip(there, describe_files([row.file for row in there]), strict=True)
    found = {row.video: {"path": row.file.as_posix(), **facts} for row, facts in described}
    labels = {action: label for label, action in enumerate(sorted({row.cells["action"] for row in rows}))}
    groups = _groups([row.cells.get("group", str(number)) for number, row in enumerate(rows, start=1)])
    table = pd.DataFrame(
        {
            "video": row.video,
            "action": row.cells["action"],
            "label": labels[row.cells["action"]],
            "group": group,
            "split": row.cells["split"],
            **found.get(row.video, ABSENT),
        }
        for row, group in zip(rows, groups, strict=True)
    )
    table["clip"] = table.groupby(["action", "group"]).cumcount() + 1
    return table.sort_values("video", ignore_index=True)


def _read(file: Path, root: Path) -> list[_Row]:
    """The rows of the file; ValueError with all that is wrong in them."""
    header, rows, problems = None, [], []
    try:
        # Names of files that are no UTF-8 are kept as they are.
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            reader, line = csv.reader(stream, skipinitialspace=True, strict=True), 1
            for cells in reader:
                if cells and header is None:
                    header = [cell.strip() for cell in cells]
                    _check_header(header, f"{file}:{line}")
                elif cells and len(cells) != len(header):
                    problems.append((line, f"has {len(cells)} cells; allowed: {len(header)}, as in the header"))
                elif cells:
                    rows.append(_row(line, dict(zip(header, map(str.strip, cells), strict=True)), root))
                line = reader.line_num + 1
    except OSError as error:
        raise ValueError(f"source.table.file: {file}: cannot be read ({error.strerror})") from error
    except csv.Error as error:
        raise ValueError(f"{file}:{reader.line_num}: cannot be read as CSV ({error})") from error
    problems = sorted([*problems, *_problems(rows)], key=lambda problem: problem[0])
    if problems:
        lines = [f"  {file}:{line}: {problem}" for line, problem in problems[:SHOWN]]
        more = [f"  and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise ValueError("\n".join([f"{file}: {len(problems)} problems:", *lines, *more]))
    if not rows:
        raise ValueError(f"{file}: no video in it; expected a header with {', '.join(NEEDED)}, and a row a video")
    return rows


def _check_header(header: Sequence[str], where: str) -> None:
    if missing := [column for column in NEEDED if column not in header]:
        raise ValueError(
            f"{where}: no column {', '.join(missing)} in the header {','.join(header)[:200]!r}; "
            f"needed: {', '.join(NEEDED)}; optional: {', '.join(OPTIONAL)}"
        )
    if twice := [column for column in (*NEEDED, *OPTIONAL) if header.count(column) > 1]:
        raise ValueError(f"{where}: column {', '.join(twice)} more than once in the header; allowed: once")


def _row(line: int, cells: Mapping[str, str], root: Path) -> _Row:
    path = PurePosixPath(cells["path"])
    name = cells.get("video") or re.sub(r"[^A-Za-z0-9_-]", "_", str(path).removesuffix(path.suffix))
    return _Row(line, cells, root / path, name)


def _problems(rows: Sequence[_Row]) -> Iterator[tuple[int, str]]:
    """(line, what is wrong) of the rows, in order."""
    files: dict[Path, _Row] = {}
    videos: dict[str, _Row] = {}
    for row in rows:
        path, video, split = row.cells["path"], row.video, row.cells["split"]
        if not path or "\0" in path:
            yield row.line, _refused("path", path, "the path of a file")
        elif (first := files.setdefault(row.file, row)) is not row:
            yield row.line, _refused("path", path, f"each file once; line {first.line} has it too")
        elif not re.fullmatch(r"[A-Za-z0-9_-]+", video):
            yield row.line, _refused("video", video, "letters, digits, _ and -")
        elif (first := videos.setdefault(video, row)) is not row:
            yield row.line, _refused("video", video, f"each name once; it is that of line {first.line} too")
        if not row.cells["action"]:
            yield row.line, _refused("action", "", "the name of a class")
        if split not in SPLITS:
            yield row.line, _refused("split", split, ", ".join(SPLITS))
        if row.cells.get("group") == "":
            yield row.line, _refused("group", "", "an integer or a word")


def _refused(column: str, value: str, allowed: str) -> str:
    return f"{column}: {value[:200]!r} is not allowed; allowed: {allowed}"


def _groups(words: Sequence[str]) -> list[int]:
    if all(re.fullmatch("[0-9]{1,9}", word) for word in words):
        return [int(word) for word in words]
    numbers = {word: number for number, word in enumerate(sorted(set(words)), start=1)}
    return [numbers[word] for word in words]


def _is_there(file: Path) -> bool:
    """Also what may not be looked at, or is a link to nothing: that is said of it when it is described."""
    try:
        file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True
