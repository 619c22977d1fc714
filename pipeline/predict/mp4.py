"""Frames -> an MP4 file, H.264, that any player shows."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np

from pipeline.results import replacing


@contextmanager
def mp4_writer(path: Path, *, height: int, width: int, fps: int) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that takes the video's frames, uint8 RGB (height, width, 3), one after the other.

    height, width: even, since colour is kept at half the resolution (4:2:0). The file appears, in place of any other of
    its name, when the block ends without an exception, and never in part; the same frames give the same bytes. Holds
    a few frames in memory. RuntimeError with ffmpeg's words if it cannot encode or write.
    """

    def write(frame: np.ndarray) -> None:
        if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
            raise ValueError(f"frame: {frame.dtype} {frame.shape}, expected uint8 {(height, width, 3)}")
        try:
            process.stdin.write(np.ascontiguousarray(frame))
        except BrokenPipeError:  # ffmpeg has ended, and said why
            finish()

    def finish() -> None:
        said = process.communicate()[1]
        if process.returncode != 0 or said:
            words = " ".join(said.decode(errors="replace").split())[:300]
            raise RuntimeError(f"{path} cannot be written: {words or f'ffmpeg ended with status {process.returncode}'}")

    with replacing(path) as unfinished:
        process = subprocess.Popen(
            _command(unfinished, height=height, width=width, fps=fps),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,  # errors alone, which a pipe has room for
        )
        try:
            yield write
            finish()
        finally:
            process.kill()
            process.communicate()


def _command(path: Path, *, height: int, width: int, fps: int) -> list[str]:
    frames = ffmpeg.input("pipe:0", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", framerate=fps)
    # The colours are named in the file too: players guess otherwise, by the picture's size.
    frames = frames.filter("scale", flags="bicubic+accurate_rnd+bitexact", out_color_matrix="bt709", out_range="tv")
    output = ffmpeg.output(
        frames.filter("format", "yuv420p").filter("setparams", color_primaries="bt709", color_trc="bt709"),
        f"file:{path.absolute()}",
        format="mp4",
        vcodec="libx264",
        crf=12,  # hardly any loss to be seen
        preset="medium",
        threads=1,
        flags="+bitexact",
        fflags="+bitexact",
        movflags="+faststart",
    )
    output = output.global_args("-loglevel", "error").overwrite_output()
    return ffmpeg.compile(output, cmd=imageio_ffmpeg.get_ffmpeg_exe())
