"""How results are written: whole or not at all, byte-identical for equal results, and readable in a diff."""

import csv
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import numpy as np

DIGITS = 6


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path`, of the same suffix, to write to: when the block ends it takes the place of `path`.

    Every result is written so. What lies at `path` may be a hard link to DVC's cache, and whoever wrote into it would
    change the cache too. After an exception what was there is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".part_{path.name}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """UTF-8 as it is: line ends stay. Bytes of file names that are not UTF-8 are written as they were."""
    with replacing(path) as unfinished:
        unfinished.write_bytes(text.encode("utf-8", "surrogateescape"))


def sha256_of(file: Path) -> str:
    """The sha256 of a file's content in hexadecimal, read in blocks; OSError if it cannot be read."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def open_rows(file: Path, shape: Sequence[int], dtype: type) -> np.ndarray:
    """The array of a .npy file, to write into; zeros at first, with all of its space taken, so that a full disk is an
    OSError here and not a crash later."""
    if file.exists():
        return np.lib.format.open_memmap(file, "r+")
    array = np.lib.format.open_memmap(file, "w+", dtype, tuple(shape))
    with file.open("r+b") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)
        except OSError as error:
            file.unlink()
            raise OSError(f"{file}: no room for {array.nbytes:,} bytes: {error.strerror}") from error
    return array


def write_metrics(path: Path, tree: Mapping[str, object]) -> None:
    """Nested JSON with sorted keys; floats rounded to DIGITS digits after the point."""
    write_text(path, json.dumps(_rounded(tree), indent=2, sort_keys=True) + "\n")


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """A tidy CSV, a row a mapping, all with the keys of the first, of which there must be one. Floats have DIGITS
    significant digits, so that small learning rates survive; None is an empty cell."""
    text = StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {key: f"{value:.{DIGITS}g}" if isinstance(value, float) else value for key, value in row.items()}
        )
    write_text(path, text.getvalue())


def write_facts(path: Path, tree: Mapping[str, object]) -> None:
    """A CSV of name and value for what is nested, names dotted: splits.train.videos. Lists are joined by spaces."""
    write_table(path, [{"name": name, "value": value} for name, value in _facts(tree)])


def _facts(tree: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{rest}", each) for rest, each in _facts(value))
        else:
            yield name, " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def _rounded(node: object) -> object:
    if isinstance(node, Mapping):
        return {str(key): _rounded(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_rounded(value) for value in node]
    return round(node, DIGITS) if isinstance(node, float) else node
