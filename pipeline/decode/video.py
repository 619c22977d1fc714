"""One encoded video -> JPEG frames.

One ffmpeg process a video decodes and resizes every frame once, and every frame is JPEG-encoded once; the frame
rates are then only choices among the encoded frames (resample.py). Choosing inside ffmpeg (`-r`, the fps filter) would
encode a kept frame once per rate, and in its constant-rate mode ffmpeg inserts a frame into every XviD file with packed
B-frames, whose first timestamp is 1. Frames pass through one by one: of each, a few numbers stay in memory.

What the file is comes from its container (container.py), the times from a filter, and only what nothing else tells
from ffmpeg's log (ffmpeg_log.py).
"""

import errno
import io
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

from pipeline.decode.container import CONTAINERS, MAX_PIXELS, PictureTrack, VideoError, read_track
from pipeline.decode.ffmpeg_log import LEVEL, Said, count_damaged, read_log

NO_PTS = -(2**63)  # a frame without a timestamp
LONGEST_GAP = 120  # seconds between two frames: more is a broken clock, and would be stored as thousands of copies
LONGEST_HOLE = 10  # seconds without a frame in a damaged video: more is a pause
NEAR_DUPLICATE = 0.1  # mean absolute luma difference to the frame before, in percent of the full range

_CRASHES = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL}


@dataclass(frozen=True)
class DecodedVideo:
    """Every frame of a video, resized and JPEG-encoded, in display order.

    frames: a file with the T JPEGs one after the other; frame k is its bytes offsets[k] … offsets[k + 1].
    offsets: (T + 1,) int64. pts: (T,) int64, presentation times in ticks of track.tick seconds, never decreasing.
    fps: the nominal rate of the source; track: what its container says; packed: XviD packed B-frames;
    header_frames: frames that there should be by the container; missing_frames: those of them that were lost, not left
    out by whoever made the video; damaged_frames: frames that could not be decoded whole, or follow from such;
    late_frames: frames that are not later than the one before; near_duplicates: frames that differ from the one before
    them by less than NEAR_DUPLICATE; steady: the frames are equally far apart in time; complaint: the decoder's first,
    or that of another track's decoder.
    """

    frames: Path
    offsets: np.ndarray
    pts: np.ndarray
    fps: Fraction
    track: PictureTrack
    packed: bool
    header_frames: int
    missing_frames: int
    damaged_frames: int
    late_frames: int
    near_duplicates: int
    steady: bool
    complaint: str

    def __len__(self) -> int:
        return len(self.pts)


@cache
def ffmpeg_version() -> str:
    """The first words of `ffmpeg -version`."""
    shown = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-version"], capture_output=True, text=True, check=True)
    return shown.stdout.split("\n", 1)[0].split(" Copyright")[0]


def decode(path: Path, scratch: Path, *, height: int, width: int, quality: int, timeout_s: float) -> DecodedVideo:
    """Decodes a video file and resizes it to height × width (bicubic), each frame a JPEG with full chroma.

    scratch: a folder for what is written on the way, replaced by the next call. quality: libjpeg's, 1 to 100; with 96
    every frame tried at 128×160 was stored at 42 dB or more from the decoded one, 45 dB on average. The bytes depend on
    the file and on nothing else: bit-exact decoder and scaler, one thread. What is lost of a damaged video is counted,
    and for the caller to judge. Raises VideoError for what is no video, has no frame, changes its size, has times that
    make no sense or crashes the decoder, and when one pass over it takes longer than timeout_s seconds; OSError when
    the disk is full, and RuntimeError when somebody stops ffmpeg: neither is the video's fault.
    """
    path = _named_in_utf8(path, scratch)
    track = read_track(path, timeout_s=timeout_s)
    command = _command(path, track, height=height, width=width)
    offsets, status = _run(command, scratch, height=height, width=width, quality=quality, timeout_s=timeout_s)
    said = read_log(scratch / "log", index=track.index, others=track.others)
    _check(said, status, path, frames=len(offsets) - 1)
    raw_pts, near_duplicates = _read_frame_notes(scratch / "notes")
    if len(raw_pts) != len(offsets) - 1:
        raise OSError(errno.EIO, f"ffmpeg wrote {len(raw_pts)} timestamps for {len(offsets) - 1} frames", str(scratch))
    pts = np.maximum.accumulate(raw_pts)
    gaps = np.diff(pts)
    if pts[0] == NO_PTS:
        raise VideoError("timestamps", "make no sense: its first frame has none")
    if len(gaps) and (longest := int(gaps.max()) * track.tick) > LONGEST_GAP:
        raise VideoError("timestamps", f"make no sense: {float(longest):g} s from one frame to the next")
    usual = int(np.median(gaps)) if len(gaps) else 0
    gap = usual * track.tick if usual else 1 / track.fps
    header_frames, missing_frames = _promised_frames(track, said, pts, gap)
    return DecodedVideo(
        frames=scratch / "frames",
        offsets=offsets,
        pts=pts,
        fps=track.fps if Fraction(2, 3) < track.fps * gap < Fraction(3, 2) else (1 / gap).limit_denominator(1001),
        track=track,
        packed=said.packed,
        header_frames=header_frames,
        missing_frames=missing_frames,
        damaged_frames=_damaged_frames(path, track, scratch, timeout_s=timeout_s) if said.hurt else 0,
        late_frames=int((np.diff(raw_pts) <= 0).sum()),
        near_duplicates=near_duplicates,
        steady=len(gaps) == 0 or int(np.ptp(gaps)) * track.tick <= _rounding(track.tick, gap),
        complaint=_without_path(said.picture or said.other, path),
    )


def _named_in_utf8(path: Path, scratch: Path) -> Path:
    """The file, or a link to it where its name is not UTF-8, which ffmpeg-python cannot pass on."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        link = scratch / f"source{path.suffix if path.suffix.isascii() else ''}"
        link.unlink(missing_ok=True)
        link.symlink_to(path.absolute())
        return link
    return path


def _rounding(tick: Fraction, gap: Fraction) -> Fraction:
    """By how many seconds the gaps of an even rate differ: containers round times to their ticks, or took them over
    from one that counts milliseconds. A frame left out is more."""
    return min(max(tick, Fraction(1, 1000)), gap / 2)


def _input(path: Path) -> ffmpeg.nodes.FilterableStream:
    return ffmpeg.input(
        f"file:{path.absolute()}",
        threads=1,
        flags="+bitexact",
        max_pixels=MAX_PIXELS,
        protocol_whitelist="file",
        format_whitelist=CONTAINERS,
    )


def _evenly_timed(frames: ffmpeg.nodes.FilterableStream) -> ffmpeg.nodes.FilterableStream:
    """What is written must not have two frames of one time, as the source may."""
    return frames.filter("settb", "1/25").filter("setpts", "N")


def _compile(output: ffmpeg.nodes.OutputStream, *options: str) -> list[str]:
    output = output.global_args("-nostdin", "-nostats", "-hide_banner", "-loglevel", LEVEL, *options)
    return ffmpeg.compile(output, cmd=imageio_ffmpeg.get_ffmpeg_exe())


def _command(path: Path, track: PictureTrack, *, height: int, width: int) -> list[str]:
    """ffmpeg: every frame of the video as raw planes on stdout, and its time and difference in the file `notes`."""
    frames = (
        _input(path)[str(track.index)]
        .filter("settb", track.tick)  # PyAV's time base, in which its times are given
        # A JPEG is BT.601 of full range. It is not `scale` that widens the range: versions of it differ by a level.
        .filter("scale", width, height, flags="bicubic+accurate_rnd+bitexact", out_color_matrix="bt601")
        # The source halves its chroma; at half the source's size the frame can keep all of it.
        .filter("format", "yuv444p")
        .filter("colorspace", iall="bt601-6-625", all="bt601-6-625", range="pc", format="yuv444p")
        .filter("scdet")
        .filter("metadata", mode="print", key="lavfi.scd.mafd", file="notes")
    )
    output = ffmpeg.output(
        _evenly_timed(frames), "pipe:1", format="rawvideo", fps_mode="passthrough", enc_time_base="1/25", threads=1
    )
    return _compile(output, "-filter_complex_threads", "1")


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


def _check(said: Said, status: int, path: Path, *, frames: int) -> None:
    """VideoError or RuntimeError, by whose fault it is, unless ffmpeg decoded the video to its end."""
    complaint = _without_path(said.picture, path)
    _check_ended(status, path, stopped=status < 0 or said.stopped)
    if re.match("Unrecognized option|No such filter|Option not found", complaint):
        raise RuntimeError(f"{ffmpeg_version()} is too old or lacks a part ({complaint}); 5.1 or newer is needed")
    if said.changes:  # ffmpeg begins again, with new notes
        raise VideoError("damaged", "the picture changes its size or format")
    if status != 0 or not frames:
        raise VideoError("damaged", f"{complaint or 'no frame in it'} ({frames} frames decoded)")


def _check_ended(status: int, path: Path, *, stopped: bool) -> None:
    """VideoError when ffmpeg crashed, which is the video's fault; RuntimeError when it was stopped, which is not."""
    if status in _CRASHES:
        raise VideoError("damaged", f"the decoder crashed ({signal.Signals(-status).name})")
    if stopped:
        raise RuntimeError(f"ffmpeg was stopped while it decoded {path}; out of memory? run again to carry on")


def _without_path(words: str, path: Path) -> str:
    return words.replace(f"file:{path.absolute()}", "the file")


def _promised_frames(track: PictureTrack, said: Said, pts: np.ndarray, gap: Fraction) -> tuple[int, int]:
    """(header_frames, missing_frames) of a video. gap: seconds from one frame to the next, as a rule."""
    times = np.diff(pts) * float(track.tick)
    skipped = (np.round(times[times < LONGEST_HOLE] / float(gap)) - 1).clip(min=0)
    holes = int(skipped.sum()) if np.count_nonzero(skipped) <= 0.1 * len(skipped) else 0  # else the rate varies
    uncounted = None if track.frames is None else track.frames - len(pts)
    # At the end: by count and duration, since an edit list hides frames that are counted, and the last may last long.
    ends = [] if uncounted is None else [uncounted]
    if track.seconds is not None and len(pts) > 1:
        shown = int(pts[-1] - pts[0]) * track.tick + gap
        ends.append(round((track.seconds - shown) / gap))
    missing = max(0, min(ends, default=0))
    # At the beginning, of a recording that begins between two key frames.
    if said.picture:
        missing = max(missing, round((int(pts[0]) * track.tick - track.start) / gap))
    # In between, only of a video that is complained of: AVI counts frames that were left out when it was made.
    if said.container or (said.hurt and uncounted is not None):
        missing = max(missing, holes if uncounted is None else min(holes, uncounted))
    if uncounted is None:
        return len(pts) + missing, missing
    return len(pts) + (uncounted if uncounted < 0 else max(missing, min(uncounted, holes + missing))), missing


def _damaged_frames(path: Path, track: PictureTrack, scratch: Path, *, timeout_s: float) -> int:
    """Decodes a video that was complained of once more, to see which frames are damaged."""
    frames = _evenly_timed(_input(path)[str(track.index)])
    output = ffmpeg.output(frames, "pipe:1", format="null", fps_mode="passthrough", enc_time_base="1/25")
    log = scratch / "log"
    with log.open("wb") as stream:
        try:
            done = subprocess.run(
                _compile(output, "-debug_ts"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stream,
                cwd=scratch,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise VideoError("time limit", f"decoding took longer than {timeout_s:g} s") from error
    _check_ended(done.returncode, path, stopped=done.returncode != 0)  # it came to the end of this video before
    return count_damaged(log)


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
