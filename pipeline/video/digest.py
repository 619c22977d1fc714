"""Digests of files: who a file is, whatever its name."""

import hashlib
from pathlib import Path


def sha256_of(file: Path) -> str:
    """The sha256 of a file's content in hexadecimal, read in blocks; OSError if it cannot be read."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
