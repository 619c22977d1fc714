"""Videos <-> WebDataset shards: one sample a video, byte-identical whenever it is written again.

A sample `v_Archery_g01_c02` is two members of a tar:

    v_Archery_g01_c02.json     what the video is, and where each frame begins (SampleInfo)
    v_Archery_g01_c02.mjpeg    all its frames as concatenated JPEGs; ffplay shows it, `tar` extracts it

So a shard is read by plain `webdataset`, in order; and through the offsets any run of frames is one short read,
which is what StoredVideo does. Writing and reading stream: neither holds a whole video.
"""

import hashlib
import io
import json
import tarfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from operator import lt
from pathlib import Path

RATES = (25, 15, 10)  # frames per second; the folders' names, and the curriculum's choices


@dataclass(frozen=True, slots=True)
class SampleInfo:
    """The JSON of a sample. label starts at 0; fps is the rate of the stored frames; frame k is the bytes
    offsets[k] … offsets[k + 1] of the .mjpeg member; source_sha256 is the digest of the video file."""

    action: str
    label: int
    group: int
    clip: int
    fps: int
    frames: int
    offsets: Sequence[int]
    source_sha256: str


@dataclass(frozen=True, slots=True)
class StoredVideo:
    """A video in a shard: reads any of its frames without touching the others."""

    key: str
    info: SampleInfo
    shard: Path
    start: int  # byte of the shard at which the first frame begins

    def jpegs(self, start: int, length: int) -> list[memoryview]:
        """Frames start … start + length − 1 as they are stored, in one read. IndexError outside 0 … frames − 1,
        ValueError when the shard is not what it was when it was opened."""
        stop = start + length
        if start < 0 or length < 1 or stop > self.info.frames:
            raise IndexError(f"frames {start} to {stop - 1} of {self.key}, which has {self.info.frames}")
        offsets = self.info.offsets[start : stop + 1]
        data = bytearray(offsets[-1] - offsets[0])
        with self.shard.open("rb", buffering=0) as shard:
            shard.seek(self.start + offsets[0])
            if shard.readinto(data) != len(data):
                raise ValueError(f"{self.shard} ends inside {self.key}; make it again with: dvc repro -f decode")
        view = memoryview(data)
        return [view[a - offsets[0] : b - offsets[0]] for a, b in pairwise(offsets)]


class ShardFile:
    """A shard being written, sample by sample, to `path`; whole once `close` has returned."""

    def __init__(self, path: Path):
        self._stream = path.open("wb")
        self._tar = tarfile.open(fileobj=self._stream, mode="w", format=tarfile.GNU_FORMAT)  # noqa: SIM115

    def add(
        self,
        key: str,
        jpegs: Iterable[bytes | memoryview],
        sizes: Iterable[int],
        *,
        action: str,
        label: int,
        group: int,
        clip: int,
        fps: int,
        source_sha256: str,
    ) -> None:
        """Appends a video's frames at one rate; sizes: bytes of each of the jpegs, which are taken one by one."""
        offsets = [0, *accumulate(sizes)]
        info = SampleInfo(action, label, group, clip, fps, len(offsets) - 1, offsets, source_sha256)
        text = json.dumps(asdict(info), sort_keys=True).encode()
        self._add(f"{key}.json", len(text), [text])
        self._add(f"{key}.mjpeg", offsets[-1], jpegs)

    def _add(self, name: str, size: int, pieces: Iterable[bytes | memoryview]) -> None:
        member = tarfile.TarInfo(name)  # owner 0, time 0: nothing that depends on the machine or the hour
        member.size, member.mode = size, 0o444
        self._tar.addfile(member, io.BufferedReader(_Joined(iter(pieces)), 1 << 18))

    def close(self) -> None:
        """Ends the tar; OSError when the disk is full."""
        self._tar.close()
        self._stream.close()


class _Joined(io.RawIOBase):
    """Pieces of bytes as one file to read, without joining them in memory."""

    def __init__(self, pieces: Iterator[bytes | memoryview]):
        self._pieces, self._rest = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


def open_videos(folder: Path, split: str) -> list[StoredVideo]:
    """The videos of `split` (train, validation, test) in a folder of shards, in the shards' order.

    Reads headers and JSONs alone, no frames. Raises ValueError when there is no shard of that split, or when a
    shard is not whole.
    """
    shards = sorted(folder.glob(f"{split}-*.tar"))
    if not shards:
        raise ValueError(f"no shard {split}-*.tar in {folder}; make them with: dvc repro decode")
    return [video for shard in shards for video in open_shard(shard)]


def names_digest(videos: Iterable[StoredVideo]) -> str:
    """sha256 of the videos' keys, whatever their order: which videos these are."""
    return hashlib.sha256("\n".join(sorted(video.key for video in videos)).encode()).hexdigest()


def open_shard(shard: Path) -> list[StoredVideo]:
    """The videos of one shard. ValueError when it is not whole."""
    try:
        with tarfile.open(shard, "r:") as tar:
            members = list(tar)
            _check_end(tar, members)
            if len(members) % 2:
                raise ValueError("a member without its pair")
            return [_open_sample(tar, shard, *pair) for pair in zip(members[::2], members[1::2], strict=True)]
    except (tarfile.TarError, ValueError, TypeError, KeyError, OSError, OverflowError, RecursionError) as error:
        raise ValueError(f"{shard} is not a whole shard ({error}); make it again with: dvc repro -f decode") from error


def _check_end(tar: tarfile.TarFile, members: Sequence[tarfile.TarInfo]) -> None:
    """A cut between two members, or a header that cannot be read, is the end of the archive to tarfile, and no error;
    a real end is two or more blocks of zeros."""
    last = members[-1] if members else None
    blocks = -(-(last.offset_data + last.size) // tarfile.BLOCKSIZE) if last else 0
    tar.fileobj.seek(blocks * tarfile.BLOCKSIZE)
    end = tar.fileobj.read(tarfile.RECORDSIZE + tarfile.BLOCKSIZE)
    if any(end) or len(end) < 2 * tarfile.BLOCKSIZE:
        raise ValueError("what follows its last sample is not the end")


def _open_sample(tar: tarfile.TarFile, shard: Path, text: tarfile.TarInfo, frames: tarfile.TarInfo) -> StoredVideo:
    key = text.name.removesuffix(".json")
    if (text.name, frames.name) != (f"{key}.json", f"{key}.mjpeg") or not (text.isreg() and frames.isreg()):
        raise ValueError(f"{text.name} is followed by {frames.name}")
    tar.fileobj.seek(text.offset_data)
    fields = json.loads(tar.fileobj.read(text.size))
    offsets = array("Q", fields["offsets"])  # a fifth of a list's memory
    info = SampleInfo(**{**fields, "offsets": offsets})
    if len(offsets) < 2 or info.frames != len(offsets) - 1 or (offsets[0], offsets[-1]) != (0, frames.size):
        raise ValueError(f"{key}: the offsets are not those of {info.frames} frames in {frames.size} bytes")
    if not all(map(lt, offsets, offsets[1:])):
        raise ValueError(f"{key}: an offset is not above the one before it")
    return StoredVideo(key, info, shard, frames.offset_data)
