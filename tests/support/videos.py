"""Videos, shards and files that several test modules make, and what they should turn into."""

import io
import subprocess
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

from pipeline.clips.shards import ShardFile

FACTS = {"action": "A", "label": 2, "group": 3, "clip": 4, "fps": 10, "source_sha256": "0" * 64}  # of a stored video
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
XVID = ("-c:v", "libxvid", "-q:v", "3", "-g", "12")
H264 = ("-c:v", "libx264", "-g", "12")
ARCHERY = "Archery/v_Archery_g08_c01.avi"
HANDSTAND = "HandstandPushups/v_HandStandPushups_g01_c04.avi"


def write(file: Path, content: bytes | str = b"video") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def files(folder: Path) -> dict[str, bytes]:
    """The content of every file below a folder."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def encode(path: Path, frames: np.ndarray, *options: str, rate: str = "25") -> Path:
    """Frames (T, H, W, 3) uint8 as a video file, by ffmpeg's own command line. options: how, XVID by default."""
    height, width = frames.shape[1:3]
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", rate, "-i", "-")
    bitexact = ("-flags", "+bitexact", "-fflags", "+bitexact", "-threads", "1")
    command = [FFMPEG, "-y", "-loglevel", "error", *raw, *(options or XVID), *bitexact, str(path)]
    subprocess.run(command, input=frames.tobytes(), check=True)
    return path


def moving_texture(seed: int, *, frames: int = 50, height: int = 64, width: int = 96, speed: int = 2) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 of a texture that moves by so many pixels a frame."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    texture = small.repeat(8, 0).repeat(8, 1)
    return np.stack([np.roll(texture, speed * k, axis=1)[:height, :width] for k in range(frames)])


def zeroed(video: bytes, start: float, stop: float) -> bytes:
    """Overwritten with zeros between two fractions of its length."""
    first, end = int(len(video) * start), int(len(video) * stop)
    return video[:first] + bytes(end - first) + video[end:]


def reference_decode(path: Path, *, height: int, width: int) -> np.ndarray:
    """Every frame at its size as raw RGB, straight from ffmpeg: no JPEG, no code of ours."""
    scale = f"scale={width}:{height}:flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
    command = [FFMPEG, "-loglevel", "error", "-flags", "+bitexact", "-i", str(path), "-an", "-fps_mode", "passthrough"]
    command += ["-vf", scale, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def nearest_by_hand(times: Sequence[Fraction], rate: int) -> list[int]:
    """The definition of resampling, one frame at a time in exact fractions."""
    chosen, k = [], 0
    while Fraction(k, rate) <= times[-1] - times[0]:
        gaps = [abs(time - times[0] - Fraction(k, rate)) for time in times]
        chosen.append(gaps.index(min(gaps)))
        k += 1
    return chosen


def open_jpeg(data: bytes | memoryview) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def grey_jpegs(frames: int, *, size: int = 32) -> list[bytes]:
    """Frame k is a flat grey of level 5·k."""
    jpegs = []
    for k in range(frames):
        out = io.BytesIO()
        Image.fromarray(np.full((size, size, 3), 5 * k, np.uint8)).save(out, "JPEG", quality=95)
        jpegs.append(out.getvalue())
    return jpegs


def write_shard(path: Path, videos: Mapping[str, Sequence[bytes]], **facts: object) -> Path:
    """A shard of the JPEGs of each key."""
    shard = ShardFile(path)
    for key, jpegs in videos.items():
        shard.add(key, iter(jpegs), map(len, jpegs), **FACTS | facts)
    shard.close()
    return path


def stored_video(folder: Path, frames: int, *, split: str = "train", label: int = 0, size: int = 32) -> Path:
    """A shard with one video of grey_jpegs."""
    folder.mkdir(parents=True, exist_ok=True)
    jpegs = grey_jpegs(frames, size=size)
    return write_shard(folder / f"{split}-{label:05}.tar", {f"v_A_g01_c{label:02}": jpegs}, label=label)
