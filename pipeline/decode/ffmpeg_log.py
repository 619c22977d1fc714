"""What the ffmpeg program says while it decodes, where no structured source has it.

A line of its log names who speaks, then the level, then the words:

    [vist#0:0/h264 @ 0x55…] [dec:h264 @ 0x55…] [warning] corrupt decoded frame
    [mp3float @ 0x55…] [error] Header missing

A video's title may hold anything, but stands further to the right. FFmpeg goes on splitting the file into packets
while it decodes, and for H.264 that part speaks under the decoder's name and in no fixed order. Only their addresses
tell them apart: the decoder's is the one that sets up a picture.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

LEVEL = "repeat+level+verbose"  # of the log: each line for itself, with its level

_LINE = re.compile(
    r"(?:\[[^\]]* @ \w+\] )*?(?:\[(?P<who>[^\]]*) @ (?P<address>\w+)\] )?\[(?P<level>\w+)\] (?P<words>.*)$"
)
_ERRORS = {"error", "fatal", "panic"}
_CONTAINERS = {"avi", "mov", "matroska", "mpeg", "mpegts", "asf", "ogg", "dv", "mxf", "nut", "ivf"}  # before ffmpeg 7.1
_KEY_FRAME = re.compile(r"decoder -> .*\bkeyframe:(\d)")


@dataclass
class Said:
    """What the log of one run says.

    decoder, container, other: the first complaint of the picture's decoder (or of ffmpeg itself), of what reads the
    container, and of another track's decoder; empty if there is none. They are kept apart, since they speak at the same
    time, in an order that differs from run to run. hurt: a frame may be damaged or missing. changes: the picture
    changes its size or pixel format. packed: XviD's packed B-frames. stopped: by a signal.
    """

    decoder: str = ""
    container: str = ""
    other: str = ""
    hurt: bool = False
    changes: bool = False
    packed: bool = False
    stopped: bool = False

    @property
    def picture(self) -> str:
        """The complaint that concerns the picture."""
        return self.decoder or self.container


def read_log(file: Path, *, index: int, others: Collection[str]) -> Said:
    """index: of the stream that is decoded. others: names of the decoders of the other tracks; they only speak while
    the file is opened."""
    said, graphs = Said(), 0
    for line in _lines(file):
        if line.is_error:
            if line.who in others:
                said.other = said.other or f"{line.who}: {line.words}"
            elif line.from_container:
                said.container = said.container or line.words
            else:
                said.decoder = said.decoder or line.words
                said.hurt |= line.decoding
        elif line.words.startswith("corrupt decoded frame"):
            said.decoder = said.decoder or line.words
            said.hurt = True
        elif line.words == f"corrupt input packet in stream {index}":
            said.container = said.container or line.words
        elif line.who.startswith("graph 0 input") and " tb:" in line.words:
            graphs += 1
        said.packed |= "packed B-frames" in line.words and line.words.startswith("Video uses")
        said.stopped |= line.words.startswith("Exiting normally, received signal")
    said.changes = graphs > 1
    return said


def count_damaged(file: Path) -> int:
    """How many of the frames decoded are damaged, from a log written with `-debug_ts`.

    The decoder speaks of a frame before it is handed on. A frame that it could not restore, or a packet that it
    refused, spoils what follows up to the next key frame; what it only grumbled about is one frame.
    """
    damaged = 0
    grumbled = spoilt = broken = False
    for line in _lines(file):
        if key := _KEY_FRAME.match(line.words):
            broken = spoilt or (broken and key[1] == "0")
            damaged += broken or grumbled
            grumbled = spoilt = False
        elif line.words.startswith("corrupt decoded frame"):
            spoilt = True
        elif line.is_error and line.decoding and not line.from_container:
            spoilt |= line.who.startswith("dec:") or not line.who  # ffmpeg itself, not the codec's library
            grumbled = True
    return damaged


@dataclass(frozen=True)
class _Line:
    """who: spoke last; decoding: the file has been opened; from_container: by what reads the container."""

    who: str
    words: str
    is_error: bool
    decoding: bool
    from_container: bool


def _lines(file: Path) -> Iterator[_Line]:
    """The lines of a log that have a level."""
    decoding, decoders = False, {}
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not (match := _LINE.match(line)):
                continue
            who, words = match["who"] or "", " ".join(match["words"].split())[:300]
            decoding |= words.startswith("Stream mapping:")
            if decoding and words.startswith("Reinit context to"):
                decoders[who] = match["address"]
            named = who.startswith("in#") or who.partition(",")[0] in _CONTAINERS
            splitting = decoding and decoders.get(who, match["address"]) != match["address"]
            yield _Line(who, words, match["level"] in _ERRORS, decoding, named or splitting)
