"""Videos <-> WebDataset shards: one sample a video, byte-identical whenever it is written again.

A sample `v_Archery_g01_c02` is two members of a tar:

    v_Archery_g01_c02.json     what the video is, and where each frame begins (SampleInfo)
    v_Archery_g01_c02.mjpeg    all its frames as concatenated JPEGs; ffplay shows it, `tar` extracts it

So a shard is read by plain `webdataset`, in order; and through the offsets any run of frames is one short read,
which is what StoredVideo does.
"""

import json
import tarfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

import torch
import webdataset
from torchvision.io import ImageReadMode, decode_jpeg

RATES = (25, 15, 10)  # frames per second; the folders' names, and the curriculum's choices


@dataclass(frozen=True)
class SampleInfo:
    """The JSON of a sample. label starts at 0; fps is the rate of the stored frames; frame k is the bytes
    offsets[k] … offsets[k + 1] of the .mjpeg member; source_sha256 is the digest of the video file."""

    action: str
    label: int
    group: int
    clip: int
    fps: int
    frames: int
    offsets: list[int]
    source_sha256: str


@dataclass(frozen=True)
class StoredVideo:
    """A video in a shard: reads any of its frames without touching the others."""

    key: str
    info: SampleInfo
    shard: Path
    start: int  # byte of the shard at which the first frame begins

    def read(self, start: int, length: int) -> torch.Tensor:
        """Frames start … start + length − 1: uint8 (length, 3, H, W). IndexError outside 0 … frames − 1."""
        stop = start + length
        if start < 0 or length < 1 or stop > self.info.frames:
            raise IndexError(f"frames {start} to {stop - 1} of {self.key}, which has {self.info.frames}")
        offsets = self.info.offsets
        with self.shard.open("rb") as shard:
            shard.seek(self.start + offsets[start])
            data = torch.frombuffer(bytearray(shard.read(offsets[stop] - offsets[start])), dtype=torch.uint8)
        base = offsets[start]
        return torch.stack(
            [
                decode_jpeg(data[offsets[k] - base : offsets[k + 1] - base], mode=ImageReadMode.RGB)
                for k in range(start, stop)
            ]
        )


def sample(
    key: str, jpegs: Sequence[bytes], *, action: str, label: int, group: int, clip: int, fps: int, source_sha256: str
) -> dict[str, object]:
    """A WebDataset sample of a video's frames at one rate."""
    offsets = [0, *accumulate(map(len, jpegs))]
    info = SampleInfo(action, label, group, clip, fps, len(jpegs), offsets, source_sha256)
    return {"__key__": key, "json": json.dumps(asdict(info), sort_keys=True).encode(), "mjpeg": b"".join(jpegs)}


def write_shard(path: Path, samples: Sequence[dict[str, object]]) -> None:
    """Writes samples to a tar, whole or not at all, with nothing in it that depends on time or machine."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as stream, webdataset.TarWriter(stream, encoder=False, mtime=0) as writer:
        for item in samples:
            writer.write(item)
    partial.replace(path)


def open_videos(folder: Path, split: str) -> list[StoredVideo]:
    """The videos of `split` (train, validation, test) in a folder of shards, in the shards' order.

    Reads headers and JSONs alone, no frames. Raises ValueError when there is no shard of that split, or when a
    shard is not whole.
    """
    shards = sorted(folder.glob(f"{split}-*.tar"))
    if not shards:
        raise ValueError(f"no shard {split}-*.tar in {folder}; make them with: dvc repro decode")
    videos = []
    for shard in shards:
        try:
            videos.extend(_open_shard(shard))
        except (tarfile.ReadError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{shard} is not a whole shard ({error}); make it again with: dvc repro -f decode"
            ) from error
    return videos


def _open_shard(shard: Path) -> list[StoredVideo]:
    infos: dict[str, SampleInfo] = {}
    starts: dict[str, int] = {}
    with tarfile.open(shard, "r:") as tar:
        for member in tar:
            key, _, suffix = member.name.partition(".")
            if suffix == "json":
                infos[key] = SampleInfo(**json.load(tar.extractfile(member)))
            elif suffix == "mjpeg":
                starts[key] = member.offset_data
    return [StoredVideo(key, info, shard, starts[key]) for key, info in infos.items()]
