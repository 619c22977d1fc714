"""How results are written: whole or not at all, byte-identical for equal results, and readable in a diff."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

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


def write_metrics(path: Path, tree: Mapping[str, object]) -> None:
    """Nested JSON with sorted keys; floats rounded to DIGITS digits after the point."""
    write_text(path, json.dumps(_rounded(tree), indent=2, sort_keys=True) + "\n")


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """CSV, a row a mapping; floats with DIGITS significant digits, so that small learning rates survive."""
    import pandas as pd  # here, so that metrics can be written where there is no pandas

    write_text(path, pd.DataFrame(rows).to_csv(index=False, float_format=f"%.{DIGITS}g", lineterminator="\n"))


def _rounded(node: object) -> object:
    if isinstance(node, Mapping):
        return {str(key): _rounded(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_rounded(value) for value in node]
    return round(node, DIGITS) if isinstance(node, float) else node
