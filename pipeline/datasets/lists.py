"""UCF101's official names, labels and split lists.

Soomro, Zamir, Shah: "UCF101: A Dataset of 101 Human Actions Classes From Videos in The Wild" (2012):

    <videos>/Archery/v_Archery_g01_c02.avi        group 1, clip 2; a group is one person or scene
    <lists>/classInd.txt                          "3 Archery"
    <lists>/trainlist01.txt, 02, 03               "Archery/v_Archery_g08_c01.avi 3"
    <lists>/testlist01.txt, 02, 03                "Archery/v_Archery_g01_c01.avi"

A video's key is its line in the lists, "Class/file.avi". The folder is not always the name's action:
HandstandPushups holds v_HandStandPushups_*.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

SPLIT_NUMBERS = (1, 2, 3)

_CLASS = r"(?P<class>[A-Za-z0-9_-]+)"
_NAME = r"v_(?P<action>[A-Za-z0-9]+)_g(?P<group>[0-9]{2})_c(?P<clip>[0-9]{2})\.[A-Za-z0-9]+"
_CLASS_LINE = re.compile(rf"(?P<label>[0-9]{{1,9}})\s+{_CLASS}")
_TRAIN_LINE = re.compile(rf"{_CLASS}/(?P<file>{_NAME})\s+(?P<label>[0-9]{{1,9}})")
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
    for rank, label in enumerate(sorted(labels.values())):
        if label != rank:
            raise ValueError(f"{file}: number {label + 1} breaks the count; expected 1..{len(labels)}, each once")
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


def read_splits(lists: Path) -> dict[int, Split]:
    """The official splits that are there, by their numbers.

    ValueError if there is no trainlist at all, if two folders claim a file, and as read_split.
    """
    there = [number for number in SPLIT_NUMBERS if (lists / f"trainlist0{number}.txt").exists()]
    splits = {number: read_split(lists, number) for number in there}
    if not splits:
        raise ValueError(f"{lists}: no trainlist01.txt, 02 or 03; expected the official split lists")
    classes: dict[str, str] = {}
    for key in _keys(splits):
        folder, name = key.split("/")
        if classes.setdefault(name, folder) != folder:
            raise ValueError(f"{lists}: {name} is listed in class {classes[name]} and in {folder}; keep one")
    return splits


def classes_of(lists: Path) -> dict[str, str]:
    """{file name: class folder} for every video in the splits that are there; ValueError as read_splits."""
    return {name: folder for folder, _, name in (key.partition("/") for key in _keys(read_splits(lists)))}


def _keys(splits: Mapping[int, Split]) -> list[str]:
    return [key for split in splits.values() for key in sorted(split.train | split.test)]


def _rows(file: Path, line: re.Pattern[str], expected: str) -> Iterator[tuple[str, re.Match[str]]]:
    """("file:line number", match) for each line that is not blank."""
    try:
        # Bytes that are no UTF-8 then fail as a malformed line, with its number.
        text = file.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror}); expected a file of lines {expected}") from error
    if not text.strip():
        raise ValueError(f"{file}: is empty; expected lines {expected}")
    for number, row in enumerate(map(str.strip, text.split("\n")), start=1):
        if row:
            if not (match := line.fullmatch(row)):
                raise ValueError(f"{file}:{number}: {row[:200]!r} is malformed; expected {expected}")
            yield f"{file}:{number}", match


def _read_list(file: Path, line: re.Pattern[str], expected: str, labels: Mapping[str, int]) -> frozenset[str]:
    keys: set[str] = set()
    for where, row in _rows(file, line, expected):
        name, fields = row["class"], row.groupdict()
        if name not in labels:
            raise ValueError(f"{where}: class {name[:100]!r} is not in classInd.txt; add it there or correct the line")
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
