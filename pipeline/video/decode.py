"""One encoded video -> JPEG frames, and which of them make the video at 25, 15 and 10 fps.

One ffmpeg process a video decodes and resizes every frame once, and every frame is JPEG-encoded once; the frame
rates are then only choices among the encoded frames. Choosing inside ffmpeg (`-r`, the fps filter) would encode a
kept frame once per rate, and in its constant-rate mode ffmpeg inserts a frame into every XviD file with packed
B-frames, whose first timestamp is 1. Frames pass through one by one: of each, a few numbers stay in memory.
"""

import errno
import io
import os
import re
import signal
import subprocess
import threading
from array import array
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np
import simplejpeg

# What may be opened: containers that hold their own frames. Playlists, image sequences and the like name other files.
CONTAINERS = "avi,mov,matroska,webm,mpeg,mpegts,flv,asf,ogg"
MAX_PIXELS = 8192 * 8192  # of a source frame; a header may claim any size, and its memory is asked for at once
NO_PTS = -(2**63)  # a frame without a timestamp
NEAR_DUPLICATE = 0.1  # mean absolute luma difference to the frame before, in percent of the full range

# Each from the start of a line of ffmpeg's log: a video's title may hold anything, but stands further to the right.
_STREAM = re.compile(r"\[info\]   Stream #0:\d+.*?: Video: (?P<codec>\w+).*?, (?P<width>\d+)x(?P<height>\d+)")
_SOUND = re.compile(r"\[info\]   Stream #0:\d+.*?: Audio: ")
_CLOCK = re.compile(r"\[graph 0 input .*\btb:(?P<tick>\d+/\d+) fr:(?P<rate>[1-9]\d*/[1-9]\d*)")
_DURATION = re.compile(r"\[info\]   Duration: (?P<h>\d+):(?P<m>\d+):(?P<s>[\d.]+)(?:, start: (?P<start>[\d.]+))?")
_PACKED = re.compile(r"(?:\[[^\]]* @ \w+\] )+\[\w+\] Video uses .*packed B-frames")
_STOPPED = re.compile(r"\[\w+\] Exiting normally, received signal")
_COMPLAINT = re.compile(r"(?:\[[^\]]*\] )*?\[(?:error|fatal|panic)\] (.*)$")
_CRASHES = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL}


class VideoError(ValueError):
    """The file cannot be used as a video. reason: one of a few words, to be counted; detail: for this file alone."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class DecodedVideo:
    """Every frame of a video, resized and JPEG-encoded, in display order.

    frames: a file with the T JPEGs one after the other; frame k is its bytes offsets[k] … offsets[k + 1].
    offsets: (T + 1,) int64. pts: (T,) int64, presentation times in ticks of `tick` seconds, never decreasing.
    fps: the nominal rate of the source; width, height: pixels of the source; packed: XviD packed B-frames;
    header_frames: frames the container promises, if more or fewer; near_duplicates: frames that differ from the one
    before them by less than NEAR_DUPLICATE; steady: the frames are equally far apart in time; missing_bytes: by which
    an AVI is shorter than its first line says.
    """

    frames: Path
    offsets: np.ndarray
    pts: np.ndarray
    tick: Fraction
    fps: Fraction
    width: int
    height: int
    codec: str
    packed: bool
    header_frames: int
    near_duplicates: int
    steady: bool
    missing_bytes: int

    def __len__(self) -> int:
        return len(self.pts)


@cache
def ffmpeg_version() -> str:
    """The first words of `ffmpeg -version`."""
    shown = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-version"], capture_output=True, text=True, check=True)
    return shown.stdout.split("\n", 1)[0].split(" Copyright")[0]


def decode(path: Path, scratch: Path, *, height: int, width: int, quality: int, timeout_s: float) -> DecodedVideo:
    """Decodes a video file and resizes it to height × width (bicubic), each frame a JPEG with full chroma.

    scratch: a folder for what is written on the way, replaced by the next call. quality: libjpeg's, 1 to 100; with
    96 every frame tried at 128×160 was stored at 42 dB or more from the decoded one, 45 dB on average. The bytes
    depend on the file and on nothing else: bit-exact decoder and scaler, one thread. Raises VideoError for anything
    that is not one whole decodable video, and after timeout_s seconds; OSError when the disk is full, and
    RuntimeError when somebody stops ffmpeg: neither is the video's fault.
    """
    command = _command(path, height=height, width=width)
    offsets, status = _run(command, scratch, height=height, width=width, quality=quality, timeout_s=timeout_s)
    said = _read_log(scratch / "log")
    _check(said, status, path, frames=len(offsets) - 1)
    pts, near_duplicates = _read_frame_notes(scratch / "notes")
    if len(pts) != len(offsets) - 1:
        raise OSError(errno.EIO, f"ffmpeg wrote {len(pts)} timestamps for {len(offsets) - 1} frames", str(scratch))
    tick, fps = said.clock
    missing_bytes, avi_frames = _read_avi_header(path)
    pts = np.maximum.accumulate(pts)
    if pts[0] == NO_PTS or (int(pts[-1]) - int(pts[0])) * tick > 10 + len(pts):
        raise VideoError("timestamps", f"make no sense: {len(pts)} frames from {pts[0]} to {pts[-1]} × {tick} s")
    gaps = np.diff(pts)
    return DecodedVideo(
        frames=scratch / "frames",
        offsets=offsets,
        pts=pts,
        tick=tick,
        fps=fps,
        width=int(said.stream["width"]),
        height=int(said.stream["height"]),
        codec=said.stream["codec"],
        packed=said.packed,
        header_frames=_header_frames(said, pts, avi_frames),
        near_duplicates=near_duplicates,
        # Containers that count in milliseconds round each time: half a frame is far more than that.
        steady=len(gaps) == 0 or bool((gaps.max() - gaps.min()) * tick * fps < Fraction(1, 2)),
        missing_bytes=missing_bytes,
    )


def _command(path: Path, *, height: int, width: int) -> list[str]:
    """ffmpeg: every frame of the video as raw planes on stdout, and its time and difference in the file `notes`."""
    source = ffmpeg.input(
        f"file:{path.absolute()}",
        threads=1,
        flags="+bitexact",
        max_pixels=MAX_PIXELS,
        protocol_whitelist="file",
        format_whitelist=CONTAINERS,
    )
    frames = (
        source["V:0"]  # not a sound file's cover picture
        # A JPEG is BT.601 of full range. It is not `scale` that widens the range: versions of it differ by a level.
        .filter("scale", width, height, flags="bicubic+accurate_rnd+bitexact", out_color_matrix="bt601")
        # The source halves its chroma; at half the source's size the frame can keep all of it.
        .filter("format", "yuv444p")
        .filter("colorspace", iall="bt601-6-625", all="bt601-6-625", range="pc", format="yuv444p")
        .filter("scdet")
        .filter("metadata", mode="print", key="lavfi.scd.mafd", file="notes")
    )
    output = ffmpeg.output(frames, "pipe:1", format="rawvideo", fps_mode="passthrough", threads=1)
    output = output.global_args("-nostdin", "-nostats", "-hide_banner", "-loglevel", "level+verbose")
    return ffmpeg.compile(output.global_args("-filter_complex_threads", "1"), cmd=imageio_ffmpeg.get_ffmpeg_exe())


def _run(
    command: list[str], scratch: Path, *, height: int, width: int, quality: int, timeout_s: float
) -> tuple[np.ndarray, int]:
    """Runs ffmpeg and encodes what comes out of it to the file `frames`; returns offsets (T + 1,), and its status."""
    with (scratch / "log").open("wb") as log, (scratch / "frames").open("wb") as frames:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=scratch,
            pipesize=1 << 20,  # room for many frames, so that the two processes seldom wait for each other
        )
        expired = threading.Event()
        watchdog = threading.Timer(timeout_s, lambda: (expired.set(), process.kill()))
        try:
            watchdog.start()
            offsets = _encode_frames(process.stdout, frames, height=height, width=width, quality=quality)
            process.wait()
        finally:
            watchdog.cancel()
            process.kill()
            process.communicate()
    if expired.is_set():
        raise VideoError("time limit", f"decoding took longer than {timeout_s:g} s")
    return offsets, process.returncode


def _encode_frames(
    raw: io.BufferedReader, frames: io.BufferedWriter, *, height: int, width: int, quality: int
) -> np.ndarray:
    """Raw Y, U and V planes -> JPEGs one after the other; returns their offsets (T + 1,). libjpeg-turbo takes the
    planes as they are, and needs about 0.6 of the time of ffmpeg's encoder."""
    planes = np.empty((3, height, width), dtype=np.uint8)
    offsets = array("q", [0])
    while raw.readinto(planes) == planes.nbytes:
        offsets.append(offsets[-1] + frames.write(simplejpeg.encode_jpeg_yuv_planes(*planes, quality=quality)))
    return np.array(offsets, dtype=np.int64)


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


@dataclass
class _Said:
    """What ffmpeg's log says of a video. clock: the tick of its timestamps in seconds, and its nominal rate."""

    stream: re.Match[str] | None = None
    clock: tuple[Fraction, Fraction] | None = None
    seconds: float = 0.0
    sound: bool = False
    packed: bool = False
    stopped: bool = False
    changes: bool = False  # of the picture's size or pixel format
    complaint: str = ""  # the first line of level error or worse


def _check(said: _Said, status: int, path: Path, *, frames: int) -> None:
    """VideoError or RuntimeError, by whose fault it is, unless ffmpeg decoded the video without a complaint."""
    complaint = said.complaint.replace(f"file:{path.absolute()}", "the file").strip()
    if status in _CRASHES:
        raise VideoError("damaged", f"the decoder crashed ({signal.Signals(-status).name})")
    if status < 0 or said.stopped:
        raise RuntimeError(f"ffmpeg was stopped while it decoded {path}; out of memory? run again to carry on")
    if re.match("Unrecognized option|No such filter|Option not found", complaint):
        raise RuntimeError(f"{ffmpeg_version()} is too old or lacks a part ({complaint}); 5.1 or newer is needed")
    if said.stream is None:
        raise VideoError("not a video", complaint or "no video stream in it")
    if said.changes:  # ffmpeg begins again, with new notes
        raise VideoError("damaged", "the picture changes its size or format")
    if status != 0 or complaint or not frames:
        raise VideoError("damaged", f"{complaint or 'no frame in it'} ({frames} frames decoded)")
    if said.clock is None:
        raise VideoError("timestamps", "no frame rate")


def _read_log(file: Path) -> _Said:
    said = _Said()
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not said.complaint and (match := _COMPLAINT.match(line)):
                said.complaint = re.sub(r"\s+", " ", match[1])[:300]
            elif not said.stream and "attached pic" not in line and (match := _STREAM.match(line)):
                said.stream = match
            elif match := _CLOCK.match(line):
                said.changes = said.clock is not None
                said.clock = Fraction(match["tick"]), Fraction(match["rate"])
            elif not said.seconds and (match := _DURATION.match(line)):
                said.seconds = int(match["h"]) * 3600 + int(match["m"]) * 60 + float(match["s"])
                said.seconds -= float(match["start"] or 0)
            said.sound |= bool(_SOUND.match(line))
            said.packed |= bool(_PACKED.match(line))
            said.stopped |= bool(_STOPPED.match(line))
    return said


def _read_avi_header(path: Path) -> tuple[int, int | None]:
    """What an AVI says of itself, and ffmpeg does not repeat: (bytes that it is short of, frames). One that was cut
    may have lost its index alone, and then decodes to the end. Frames are 0 if it does not know, as when it was
    written to a pipe, and None for another container."""
    with path.open("rb") as stream:
        head = stream.read(52)
        if head[:4] != b"RIFF" or head[8:12] != b"AVI " or head[24:28] != b"avih":
            return 0, None
        size, frames = (int.from_bytes(head[at : at + 4], "little") for at in (4, 48))
        if size in (0, 2**32 - 1):
            return 0, 0
        return max(0, size + 8 - os.fstat(stream.fileno()).st_size), frames


def _header_frames(said: _Said, pts: np.ndarray, avi_frames: int | None) -> int:
    """Frames that the container promises; those decoded, where it promises nothing of the picture alone."""
    if avi_frames is not None:
        return avi_frames or len(pts)
    if said.sound:  # it may be the sound that is longer
        return len(pts)
    tick, fps = said.clock
    shown = (pts[-1] - pts[0]) * tick + 1 / fps
    return len(pts) + max(0, round((said.seconds - shown) * fps))


def _read_frame_notes(file: Path) -> tuple[np.ndarray, int]:
    """Timestamps (T,) and how many frames hardly differ from the one before, from two lines a frame:

    frame:7    pts:7       pts_time:0.28
    lavfi.scd.mafd=1.501
    """
    pts, near_duplicates = array("q"), -1  # the first frame has none before it, and difference 0
    with file.open() as lines:
        for line in lines:
            if line.startswith("frame:"):
                text = line.split("pts:", 1)[1].split()[0]
                pts.append(NO_PTS if text == "NOPTS" else int(text))
            else:
                near_duplicates += float(line.partition("=")[2]) < NEAR_DUPLICATE
    return np.array(pts, dtype=np.int64), near_duplicates
