"""One encoded video -> JPEG frames, and which of them make the video at 25, 15 and 10 fps.

One ffmpeg process a video decodes, resizes and JPEG-encodes every frame once; the frame rates are then only
choices among the encoded frames. Choosing in the shell of the decoder (`-r`, the fps filter) would encode a
kept frame once per rate, and in its constant-rate mode ffmpeg inserts a frame into every XviD file with packed
B-frames, whose first timestamp is 1.
"""

import re
import subprocess
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np

_STREAM = re.compile(r"Stream #0:\d+.*?: Video: (?P<codec>\w+).*?, (?P<width>\d+)x(?P<height>\d+)")
_CLOCK = re.compile(r"config in time_base: (?P<tick>\d+/\d+), frame_rate: (?P<rate>\d+/\d+)")
_PTS = re.compile(r"\] n: *\d+ pts: *(?P<pts>-?\d+|NOPTS)")
_DURATION = re.compile(r"Duration: (?P<h>\d+):(?P<m>\d+):(?P<s>[\d.]+)")


class VideoError(ValueError):
    """The file cannot be used as a video; the message is the reason, fit for one cell of a table."""


@dataclass(frozen=True)
class DecodedVideo:
    """Every frame of a video, resized and JPEG-encoded, in display order.

    jpegs: one JPEG a frame. pts: (T,) int64, presentation times in ticks of `tick` seconds, never decreasing.
    fps: the nominal rate of the source; width, height: pixels of the source; packed: XviD packed B-frames;
    header_frames: frames the container's duration promises.
    """

    jpegs: list[bytes]
    pts: np.ndarray
    tick: Fraction
    fps: Fraction
    width: int
    height: int
    codec: str
    packed: bool
    header_frames: int


def decode(path: Path, *, height: int, width: int, qscale: int, timeout_s: float) -> DecodedVideo:
    """Decodes a video file and resizes it to height × width (bicubic), each frame a JPEG.

    qscale: the MJPEG encoder's quantiser scale, 1 (best) to 31; with 1 every video tried is stored at 41 dB or more
    from the decoded frames, about 44 dB on average (libjpeg's quality 95 gives 42). The bytes depend
    on the file and on nothing else: bit-exact decoder, scaler and encoder, one thread. Raises VideoError with the
    reason for anything that is not a decodable video, and after timeout_s seconds.
    """
    source = ffmpeg.input(f"file:{path}", threads=1, flags="+bitexact", protocol_whitelist="file,pipe")
    frames = (
        source["v:0"]
        .filter(
            "scale", width, height, flags="bicubic+accurate_rnd+bitexact", out_range="full", out_color_matrix="bt601"
        )
        # The source halves its chroma; at half the source's size the frame can keep all of it.
        .filter("format", "yuv444p")
        .filter("showinfo", checksum=0)  # prints the time base and every frame's timestamp
    )
    output = ffmpeg.output(
        frames,
        "pipe:",
        format="mjpeg",
        vcodec="mjpeg",
        color_range="pc",
        fps_mode="passthrough",
        threads=1,
        flags="+bitexact",
        qmin=1,
        **{"q:v": qscale},
    ).global_args("-hide_banner", "-nostdin", "-nostats", "-loglevel", "level+info")
    command = ffmpeg.compile(output, cmd=imageio_ffmpeg.get_ffmpeg_exe())
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise VideoError(f"decoding took longer than {timeout_s:g} s") from None
    log = done.stderr.decode("utf-8", "replace")
    jpegs = _split_jpegs(done.stdout)
    stream, clock = _STREAM.search(log), _CLOCK.search(log)
    if done.returncode != 0 or stream is None or clock is None or not jpegs:
        raise VideoError(_reason(log, path))
    ticks = [match["pts"] for match in _PTS.finditer(log)]
    if len(ticks) != len(jpegs) or "NOPTS" in ticks:
        raise VideoError(f"{len(jpegs)} frames but {len(ticks) - ticks.count('NOPTS')} timestamps")
    pts = np.maximum.accumulate(np.array(ticks, dtype=np.int64))
    if clock["rate"].endswith("/0") or (pts[-1] - pts[0]) * Fraction(clock["tick"]) > 10 + len(pts):
        raise VideoError(f"timestamps make no sense: {len(pts)} frames from {pts[0]} to {pts[-1]} × {clock['tick']} s")
    fps = Fraction(clock["rate"])
    duration = _DURATION.search(log)
    seconds = int(duration["h"]) * 3600 + int(duration["m"]) * 60 + float(duration["s"]) if duration else 0.0
    return DecodedVideo(
        jpegs=jpegs,
        pts=pts,
        tick=Fraction(clock["tick"]),
        fps=fps,
        width=int(stream["width"]),
        height=int(stream["height"]),
        codec=stream["codec"],
        packed="packed B-frames" in log,
        header_frames=round(seconds * fps),
    )


def resample(pts: np.ndarray, tick: Fraction, rate: int) -> np.ndarray:
    """Indices of the source frames that make the video at `rate` frames per second, shape (K,).

    Frame k shows the source at time k / rate, counted from the first frame: the nearest source frame, the
    earlier of two equally near. The last k is at or before the last source frame's time, so nothing is
    extrapolated, and equal index gaps are equal time gaps to within half a source frame:

        25 fps  0  1  2  3  4  5  6  7  8  9  10
        10 fps  x     x        x     x        x      (2.5 -> 2, 7.5 -> 7)

    pts: (T,) source times in ticks of `tick` seconds, not decreasing. The arithmetic is exact, in integers.
    """
    # In units of 1 / (rate · tick.denominator) s both clocks are integers.
    source = (pts - pts[0]) * (tick.numerator * rate)
    wanted = np.arange(source[-1] // tick.denominator + 1, dtype=np.int64) * tick.denominator
    after = np.searchsorted(source, wanted).clip(max=len(source) - 1)
    before = (after - 1).clip(min=0)
    return np.where(wanted - source[before] <= source[after] - wanted, before, after)


def _split_jpegs(stream: bytes) -> list[bytes]:
    """Cuts concatenated JPEGs. End-of-image followed by start-of-image cannot occur inside one: in the coded
    data every 0xFF is stuffed, and the encoder writes no thumbnails."""
    if not stream:
        return []
    parts = stream.split(b"\xff\xd9\xff\xd8")
    return [
        (b"\xff\xd8" if i else b"") + part + (b"\xff\xd9" if i < len(parts) - 1 else b"")
        for i, part in enumerate(parts)
    ]


def _reason(log: str, path: Path) -> str:
    """The first complaint of ffmpeg's log, without the file's own path, or that there is no picture in it."""
    complaint = re.search(r"^(?:\[.*?\] )?\[(?:error|fatal)\] (.*)$", log, re.MULTILINE)
    text = complaint[1] if complaint else "no video frame in it"
    return re.sub(r"\s+", " ", text.replace(f"file:{path}", "the file")).strip()
