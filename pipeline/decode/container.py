"""What a video file is, before it is decoded: its picture tracks, and what the container says of them.

Read with PyAV, which gives as values what the ffmpeg program only prints. Nothing is decoded here but what the library
itself needs to know the codec.
"""

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.logging
from av.stream import Disposition

# What may be opened: containers that hold their own frames. Playlists, image sequences and the like name other files.
CONTAINERS = "avi,mov,matroska,webm,mpeg,mpegts,mpegvideo,flv,asf,ogg,gif,dv,mxf,yuv4mpegpipe,nut,ivf,m4v,h264,hevc,obu"
MAX_PIXELS = 8192 * 8192  # of a source frame; a header may claim any size, and its memory is asked for at once
_USUAL_FPS = Fraction(25)  # where a container gives no rate; video.py sees by the frames whether it is right
_HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics of ITU-T H.273 that need tone mapping
_NOT_THE_FILM = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails

# Containers whose track duration is that of the picture alone; others give every track the duration of the whole file.
_TIMED_BY_TRACK = {"mov", "gif", "ivf", "mxf"}
_NOT_TIMED = {"mpeg", "mpegts"}  # containers that store no duration; FFmpeg estimates it from what is there
_PADDING = 4096  # zeros at the end of a file that was preallocated, and then not filled
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # the object's GUID; the size follows
_SEGMENT = bytes.fromhex("18538067")  # of Matroska, all but its head; its size follows


class VideoError(ValueError):
    """The file cannot be used as a video. reason: one of a few words, to be counted; detail: for this file alone."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class PictureTrack:
    """The track of a file that is decoded, as its container describes it.

    index: number of the stream in the file. codec: FFmpeg's name, such as h264. height, width: pixels as coded, before
    any rotation. tick: seconds between two values of its timestamps. fps: the nominal frame rate. frames: how many the
    container counts, or None. seconds: how long the picture lasts by the container, None where a shorter picture does
    not mean that frames are missing. start: seconds from the file's begin to the track's. hdr: PQ, HLG, or empty.
    tracks: picture tracks in the file. others: names of decoders that only other tracks need. missing_bytes: by which
    the file is shorter than its header says.
    """

    index: int
    codec: str
    height: int
    width: int
    tick: Fraction
    fps: Fraction
    frames: int | None
    seconds: Fraction | None
    start: Fraction
    hdr: str
    tracks: int
    others: frozenset[str]
    missing_bytes: int


def read_track(path: Path, *, timeout_s: float) -> PictureTrack:
    """Opens a file and chooses its picture: the track flagged as default, or the longest.

    Cover pictures and thumbnails are no picture tracks, and a track of a single frame is chosen only if there is no
    other. Raises VideoError for a file that is no video, or whose format may name other files, and after timeout_s
    seconds.
    """
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # what is said of a file does not depend on the file before
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file", "max_pixels": str(MAX_PIXELS)}
    with av.logging.Capture() as said:
        try:
            container = av.open(
                f"file:{path.absolute()}", options=options, metadata_errors="replace", timeout=timeout_s
            )
        except av.error.ExitError as error:
            raise VideoError("time limit", f"opening took longer than {timeout_s:g} s") from error
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError("not a video", _why_not_opened(said, error)) from error
    with container:
        return _choose(container, path)


def _why_not_opened(said: Sequence[tuple[int, str, str]], error: Exception) -> str:
    for _, component, text in said:
        if refused := re.match(r"Format not on whitelist|Not detecting m3u8/(\w+)", text):
            name = refused[1] or component
            return f"its format, {name}, is not read: it is a picture, a text, or a list that names other files"
    words = said[-1][2] if said else getattr(error, "strerror", None) or type(error).__name__
    return " ".join(words.split())[:150]


def _choose(container: av.container.InputContainer, path: Path) -> PictureTrack:
    films = [stream for stream in container.streams.video if not stream.disposition & _NOT_THE_FILM]
    if not films:
        raise VideoError("not a video", "no video stream in it")
    known = [stream for stream in films if stream.codec_context is not None]
    if not known:
        raise VideoError("not a video", "no decoder for its video stream")
    real = [stream for stream in known if _length(container, stream) > 1] or known
    flagged = [stream for stream in real if stream.disposition & Disposition.default] or real
    chosen = max(flagged, key=lambda stream: _length(container, stream))  # the first of several that are equal
    return _describe(container, chosen, path, tracks=len(films))


def _describe(
    container: av.container.InputContainer, stream: av.VideoStream, path: Path, *, tracks: int
) -> PictureTrack:
    name, size = _format(container), path.stat().st_size
    said_size = _read_size(path, name)
    unfinished = name == "avi" and said_size is None  # its writer never filled in the header: counts are wrong as well
    # In Matroska the last frame may have any duration, and in a file of several tracks sound may outlast the picture.
    # But where zeros end the file, a download or a recording broke off, and the header is all that tells its length.
    alone = len(container.streams) == 1
    binding = name in {"avi", *_TIMED_BY_TRACK} or (alone and name != "matroska") or _is_padded(path)
    return PictureTrack(
        index=stream.index,
        codec=stream.codec_context.codec.canonical_name,
        height=stream.codec_context.height,
        width=stream.codec_context.width,
        tick=stream.time_base,
        fps=stream.guessed_rate or _USUAL_FPS,
        frames=None if unfinished else stream.frames or None,
        seconds=_seconds(container, stream) if binding and not unfinished else None,
        start=_start(container, stream),
        hdr=_HDR.get(stream.codec_context.color_trc, ""),
        tracks=tracks,
        others=frozenset(other.codec_context.name for other in container.streams if other.codec_context)
        - {stream.codec_context.name},
        missing_bytes=max(0, (said_size or 0) - size),
    )


def _format(container: av.container.InputContainer) -> str:
    """The first of the container's names: mov for `mov,mp4,m4a,3gp,3g2,mj2`."""
    return container.format.name.partition(",")[0]


def _start(container: av.container.InputContainer, stream: av.VideoStream) -> Fraction:
    if stream.start_time is None or container.start_time is None:
        return Fraction(0)
    return stream.start_time * stream.time_base - Fraction(container.start_time, av.time_base)


def _seconds(container: av.container.InputContainer, stream: av.VideoStream) -> Fraction | None:
    """How long the picture lasts by the container: by its track, or else by the whole file."""
    name = _format(container)
    if name in _NOT_TIMED:
        return None
    if name == "avi":
        return stream.frames * stream.time_base if stream.frames else None
    if name not in _TIMED_BY_TRACK:
        start = Fraction(max(0, container.start_time or 0), av.time_base)
        return Fraction(container.duration, av.time_base) - start if container.duration else None
    if stream.duration is None:
        return None
    # Of a file in fragments, which counts no frames, the duration is the time of the end.
    start = 0 if stream.frames else max(0, stream.start_time or 0)
    return (stream.duration - start) * stream.time_base


def _length(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """Of a track in frames, to compare tracks; infinite where the file does not tell."""
    if stream.frames:
        return stream.frames
    rate = stream.guessed_rate or _USUAL_FPS
    if tag := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "")):  # of Matroska
        hours, minutes, seconds = map(float, tag.groups())
        return (hours * 3600 + minutes * 60 + seconds) * float(rate)
    seconds = _seconds(container, stream)
    return float("inf") if seconds is None else float(seconds * rate)


def _is_padded(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - _PADDING))
        return not any(stream.read())


def _read_size(path: Path, name: str) -> int | None:
    """Bytes that a file should have by its own header; None where it does not say, as when it was written to a pipe.
    name: of its format. A file that was cut may have lost its index alone, and then decodes to the end."""
    if name not in _SIZES:
        return None
    with path.open("rb") as stream:
        return _SIZES[name](stream.read(1 << 16))


def _avi_size(head: bytes) -> int | None:
    size = int.from_bytes(head[4:8], "little")
    return None if size in (0, 2**32 - 1) else size + 8


def _asf_size(head: bytes) -> int | None:
    at = head.find(_ASF_FILE_PROPERTIES)
    return None if at < 0 else int.from_bytes(head[at + 40 : at + 48], "little") or None


def _flv_size(head: bytes) -> int | None:
    if (at := head.find(b"filesize\0")) < 0:
        return None
    size = struct.unpack(">d", head[at + 9 : at + 17].ljust(8, b"\0"))[0]
    return int(size) if 0 < size < 2**53 else None


def _matroska_size(head: bytes) -> int | None:
    if (at := head.find(_SEGMENT)) < 0:
        return None
    field = head[at + 4 : at + 12].ljust(8, b"\0")  # as many bytes as the first has zeros before its first one
    width = 9 - field[0].bit_length()
    size = int.from_bytes(field[:width], "big") - (1 << 7 * width)
    return at + 4 + width + size if 0 < size < (1 << 7 * width) - 1 else None


# Of the containers whose header says how large the file is.
_SIZES = {"avi": _avi_size, "asf": _asf_size, "flv": _flv_size, "matroska": _matroska_size}
