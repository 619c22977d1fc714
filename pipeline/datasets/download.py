"""Fetch a large archive over HTTP, resume what broke off, keep it only if its digest is right, and unpack it.

Range requests as in RFC 9110, section 14. Neither the server nor the zip is trusted.
"""

import os
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import requests
from tqdm import tqdm

from pipeline.results import replacing, sha256_of

# The most that a cut costs, because urllib3 drops the block it was filling.
BLOCK_BYTES = 64 * 1024
TIMEOUT_S = (30, 60)  # to connect, between two reads
RETRIES = 5  # attempts in a row that bring nothing new, once something has come
PAUSE_S = 5.0


@dataclass(frozen=True)
class Archive:
    """A file on a server: its name, its size in bytes and the sha256 of its content in lower-case hexadecimal."""

    name: str
    bytes: int
    sha256: str


def download(archive: Archive, url: str, folder: Path) -> Path:
    """Returns folder/<archive.name>, verified by size and sha256; fetched from {url}/{archive.name} if not there.

    An interrupted download stays as <name>.part and is resumed by the next call. Progress is in bytes.
    Raises ConnectionError when the server refuses or keeps breaking off, and ValueError when what lies at the
    final name (left as it is, never used) or what the server sent (deleted) is not the archive.
    """
    target = folder / archive.name
    if target.exists():
        if problem := _difference(target, archive):
            raise ValueError(f"{target}: {problem}; move or delete it and run again, or put the right file there")
        return target

    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{archive.name}.part"
    address = f"{url.rstrip('/')}/{archive.name}"
    _fetch(address, part, archive.bytes, target)
    if problem := _difference(part, archive):
        part.unlink()
        raise ValueError(
            f"{address}: {problem}; the download was deleted. Check the url and run again, "
            f"or fetch the file by hand and put it at {target}"
        )
    os.replace(part, target)
    return target


def _difference(file: Path, archive: Archive) -> str:
    """What tells the file from the archive, in words; empty if nothing does."""
    size, digest = file.stat().st_size, sha256_of(file)
    if (size, digest) == (archive.bytes, archive.sha256):
        return ""
    return f"has {size} bytes, sha256 {digest}; expected {archive.bytes} bytes, sha256 {archive.sha256}"


def _fetch(address: str, part: Path, size: int, target: Path) -> None:
    """Fills `part` in as many requests as it takes; returns when the server says that was all."""
    furthest = _size(part)
    # Nothing at all from the first attempt is a wrong address or no network: say so at once.
    patience = 0
    while True:
        try:
            if _receive(address, part, size):
                return
        except requests.RequestException as error:
            # The furthest point counts, not the bytes received: without Range every attempt receives the same ones.
            if _size(part) > furthest:
                furthest, patience = _size(part), RETRIES
            elif patience > 0:
                patience -= 1
            else:
                raise ConnectionError(
                    f"{address}: {error}; run again to resume, or fetch the file by hand and put it at {target}"
                ) from error
            time.sleep(PAUSE_S)


def _receive(address: str, part: Path, size: int) -> bool:
    """One request for what is missing of `size` bytes; True at the end of the file, False to be called again.

    Raises requests.RequestException; what arrived before stays in `part`.
    """
    have = _size(part)
    if have > size:
        part.unlink()
        have = 0
    if have == size:
        return True
    # A compressed transfer would count other bytes than the file has.
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(address, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        resumes = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if have and not resumes and response.status_code in (206, 416):
            part.unlink()
            return False
        response.raise_for_status()
        start = have if resumes else 0
        with (
            part.open("ab" if resumes else "wb") as file,
            tqdm(desc=part.stem, total=size, initial=start, unit="B", unit_scale=True, disable=None) as bar,
        ):
            for block in response.iter_content(BLOCK_BYTES):
                file.write(block)
                bar.update(len(block))
                start += len(block)
                if start > size:  # not the file, and maybe without an end
                    break
    return True


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def unpack(archive: Path, place: Callable[[str], Path | None], *, limit: int) -> None:
    """Writes the members of a zip whose base name `place` gives a path to that path, and ignores the others.

    A member's own folders are never used, so it goes nowhere but where `place` says. Raises ValueError for a zip
    that cannot be read or has nothing to write, two members with one path, and a member of more than `limit` bytes.
    Each file appears whole or not at all; those written before an error stay.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            targets: dict[Path, zipfile.ZipInfo] = {}
            for member in opened.infolist():
                target = None if member.is_dir() else place(PurePosixPath(member.filename).name)
                if target in targets:
                    raise ValueError(f"{archive}: {target.name} appears twice, so which is meant is unknown")
                if target is not None:
                    targets[target] = member
            if not targets:
                raise ValueError(f"{archive}: no file with an expected name in it; is it the right archive?")
            for target, member in tqdm(targets.items(), desc=archive.name, unit="file", disable=None):
                _write_member(opened, member, target, limit)
    # RuntimeError: an encrypted member, or a compression that Python does not know
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(f"{archive}: cannot be read as a zip ({error}); fetch it again") from error


def _write_member(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, limit: int) -> None:
    written = 0
    with replacing(target) as unfinished, opened.open(member) as source, unfinished.open("wb") as file:
        while block := source.read(BLOCK_BYTES):
            # Counted, because the size in the header may lie.
            written += len(block)
            if written > limit:
                raise ValueError(f"{opened.filename}: {member.filename} exceeds {limit} bytes; refused")
            file.write(block)
