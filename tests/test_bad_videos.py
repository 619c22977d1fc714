"""Bad, odd and hostile videos, every one a real file in one folder: each ends as a row that says what it is.

CASES is the table. The folder is laid out as UCF101, its lists have CRLF line ends, and its own name is made of what
ffmpeg, shells and CSV files give a meaning to.
"""

import ctypes
import http.server
import json
import os
import random
import re
import shutil
import struct
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import pandas as pd
import psutil
import pytest

from pipeline.clips.shards import RATES, open_shard
from pipeline.datasets.folder import table_in
from pipeline.datasets.table import files_of, write_table
from pipeline.decode.container import VideoError
from pipeline.decode.ingest import ingest
from pipeline.decode.manifest import check_accounts, make_manifest, summarise
from pipeline.decode.plan import DecodeConfig, plan_rows
from pipeline.decode.video import decode, ffmpeg_version
from pipeline.pages.cells import facts
from pipeline.predict.own_video import open_own_video
from tests.support.decode import (
    decode_config,
    encode_any,
    make_project,
    make_raw,
    plan,
    read_manifest,
    run_stage,
    shard_digests,
    stand_in,
    write_lists,
)
from tests.support.evaluation import CARD
from tests.support.project import write_params
from tests.support.videos import FFMPEG, H264, XVID, zeroed

RAW = ("-c:v", "rawvideo", "-pix_fmt", "bgr24")
SOUND = ("-f", "lavfi", "-i", "sine=duration=2", "-map", "0:v", "-map", "1:a")
LONGER_SOUND = ("-f", "lavfi", "-i", "sine=duration=3", "-map", "0:v", "-map", "1:a")

Maker = Callable[[Path], None]


# --- how the files are made ------------------------------------------------------------------------------------------


def call(*command: str | Path, stdin: bytes | None = None) -> bytes:
    return subprocess.run([*map(str, command)], input=stdin, stdout=subprocess.PIPE, check=True).stdout


def encoded(*options: str, **shape: int) -> Maker:
    return lambda path: encode_any(path, *options, **shape)


def changed(how: Callable[[bytes], bytes], *options: str, **shape: int) -> Maker:
    """An encoded video with its bytes changed."""

    def make(path: Path) -> None:
        encode_any(path, *options, **shape)
        path.write_bytes(how(path.read_bytes()))

    return make


def holding(content: bytes) -> Maker:
    return lambda path: path.write_bytes(content)


def copy_of(file: str) -> Maker:
    return lambda path: shutil.copy(path.parents[1] / file, path)


def link_to(target: str) -> Maker:
    return lambda path: path.symlink_to(target)


def made_by(*command: str) -> Maker:
    return lambda path: call(FFMPEG, "-y", "-loglevel", "error", *command, path)


def growing(path: Path) -> None:
    """An MPEG transport stream whose picture becomes larger."""
    pieces = []
    for height, width in ((64, 96), (128, 192)):
        encode_any(path, "-c:v", "mpeg2video", "-f", "mpegts", frames=20, height=height, width=width)
        pieces.append(path.read_bytes())
    path.write_bytes(b"".join(pieces))


def cut(fraction: float) -> Callable[[bytes], bytes]:
    return lambda video: video[: int(len(video) * fraction)]


def flipped(seed: int) -> Callable[[bytes], bytes]:
    """Twenty random bytes of the stream's middle half flipped."""

    def flip(video: bytes) -> bytes:
        rng, damaged = random.Random(seed), bytearray(video)
        for at in rng.choices(range(len(video) // 4, len(video) * 3 // 4), k=20):
            damaged[at] ^= rng.randrange(1, 256)
        return bytes(damaged)

    return flip


def avi_field(chunk: bytes, offset: int, *values: int) -> Callable[[bytes], bytes]:
    """32-bit values written over those at an offset of an AVI's first chunk of that name."""

    def write(video: bytes) -> bytes:
        patched = bytearray(video)
        struct.pack_into(f"<{len(values)}I", patched, video.index(chunk) + 8 + offset, *values)
        return bytes(patched)

    return write


def claiming(frames: int) -> Callable[[bytes], bytes]:
    """Both counts of frames in an AVI's header changed."""
    return lambda video: avi_field(b"strh", 32, frames)(avi_field(b"avih", 16, frames)(video))


def sized(height: int, width: int) -> Callable[[bytes], bytes]:
    return lambda video: avi_field(b"strf", 4, width, height)(avi_field(b"avih", 32, width, height)(video))


def cut_before(frame: int) -> Callable[[bytes], bytes]:
    """An AVI cut between two frames: its decoder has nothing to complain of."""

    def cut(video: bytes) -> bytes:
        at, end = video.index(b"movi"), video.index(b"idx1")
        for _ in range(frame + 1):
            at = video.index(b"00dc", at + 1, end)
        return video[:at]

    return cut


def packed(video: bytes) -> bytes:
    """An AVI with a B-frame after every second frame as XviD packs it: P and B in one chunk, then a chunk that says
    "not coded", and a mark in the first."""
    at = video.index(b"movi") + 4
    end = at + struct.unpack_from("<I", video, at - 8)[0] - 4
    chunks = []
    while at < end:
        size = struct.unpack_from("<I", video, at + 4)[0]
        chunks.append(video[at + 8 : at + 8 + size])
        at += 8 + size + size % 2
    first, *rest = chunks
    start = first.index(b"\0\0\1\xb6")
    chunks = [first[:start] + b"\0\0\1\xb2DivX503b1393p" + first[start:]]
    for predicted, between in zip(rest[::2], rest[1::2], strict=True):
        chunks += [predicted + between, b"\0\0\1\xb6" + struct.pack(">H", 0b01_0_1_00000_1_0_01111)]
    movi = b"movi" + b"".join(b"00dc" + struct.pack("<I", len(c)) + c + bytes(len(c) % 2) for c in chunks)
    body = video[8 : video.index(b"movi") - 8] + b"LIST" + struct.pack("<I", len(movi)) + movi
    return b"RIFF" + struct.pack("<I", len(body)) + body


def copied_to_avi(video: bytes) -> bytes:
    """Through a pipe, so that its writer cannot go back to fill in sizes and counts."""
    return call(FFMPEG, "-loglevel", "error", "-i", "pipe:0", "-c", "copy", "-f", "avi", "pipe:1", stdin=video)


def canaries(path: Path) -> None:
    """A folder of videos that no other may have opened."""
    path.mkdir()
    for suffix, options in {"avi": XVID, "mp4": H264, "ts": (*H264, "-f", "mpegts")}.items():
        encode_any(path / f"canary.{suffix}", *options)


def external_track(path: Path) -> None:
    """A QuickTime alias: the header of aside/canary.mp4, whose frames are to be read from there."""
    video = bytearray((path.parent / "aside" / "canary.mp4").read_bytes())
    where = b"disk:aside:canary.mp4"
    alias = b"alis" + bytes(14) + b"\x04disk".ljust(28, b"\0") + bytes(76) + bytes(16) + struct.pack(">HH", 1, 2)
    alias += bytes(16) + struct.pack(">HH", 2, len(where)) + where + b"\0\xff\xff\0\0"
    alias = struct.pack(">I", len(alias) + 4) + alias
    at = video.index(b"dref")
    own = slice(at + 12, at + 12 + struct.unpack_from(">I", video, at + 12)[0])
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        box = video.rindex(name, 0, at + 4) - 4
        struct.pack_into(
            ">I", video, box, struct.unpack_from(">I", video, box)[0] + len(alias) - (own.stop - own.start)
        )
    video[own] = alias
    frames = video.index(b"mdat") + 4
    size = struct.unpack_from(">I", video, frames - 8)[0] - 8
    video[frames : frames + size] = bytes(size)
    path.write_bytes(video)


def phone(path: Path) -> None:
    """As phones write: times in ticks of 1/90000 s that jitter, at a rate that changes."""
    times = "if(lt(N,120),N*3030,120*3030+(N-120)*2980)+mod(N*7919,97)"
    made_by(
        *("-f", "lavfi", "-i", "testsrc2=size=320x240:rate=30:duration=8", "-vf", f"settb=1/90000,setpts='{times}'"),
        *("-fps_mode", "passthrough", "-enc_time_base", "1/90000", "-pix_fmt", "yuv420p", *H264, "-bf", "0"),
        *("-video_track_timescale", "90000"),
    )(path)


def matroska_time(frame: int, ms: int) -> Callable[[bytes], bytes]:
    """The time of a frame of a Matroska file with a single cluster, by its block."""

    def change(video: bytes) -> bytes:
        changed, at = bytearray(video), video.index(b"\x1f\x43\xb6\x75") + 12
        for _ in range(frame + 1):
            at = video.index(b"\xa3", at) + 1
            size = int.from_bytes(video[at : at + 4], "big")
            width = 9 - video[at].bit_length()
            size = int.from_bytes(video[at : at + width], "big") - (1 << 7 * width)
            block, at = at + width, at + width + size
        struct.pack_into(">h", changed, block + 1, ms)
        return bytes(changed)

    return change


def flash_time(frame: int, ms: int) -> Callable[[bytes], bytes]:
    """The time of a frame of a Flash video, by its tag."""

    def change(video: bytes) -> bytes:
        changed, at, frames = bytearray(video), 13, -1
        while True:
            frames += video[at] == 9
            if frames == frame:
                changed[at + 4 : at + 7] = ms.to_bytes(3, "big")
                return bytes(changed)
            at += 11 + int.from_bytes(video[at + 1 : at + 4], "big") + 4

    return change


def transport_time(frame: int, earlier_ms: int) -> Callable[[bytes], bytes]:
    """The time of a frame of a transport stream, taken back from that of the frame before."""

    def change(video: bytes) -> bytes:
        changed = bytearray(video)
        stamps = [at + 9 for at in range(len(video)) if video[at : at + 4] == b"\0\0\1\xe0" and video[at + 7] >> 6 == 2]
        a, b, c, d, e = video[stamps[frame - 1] : stamps[frame - 1] + 5]
        pts = (a >> 1 & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1
        pts -= 90 * earlier_ms
        changed[stamps[frame] : stamps[frame] + 5] = bytes(
            [a & 0xF1 | pts >> 29 & 0xE, pts >> 22 & 255, pts >> 14 & 255 | 1, pts >> 7 & 255, pts << 1 & 255 | 1]
        )
        return bytes(changed)

    return change


def without_durations(video: bytes) -> bytes:
    """A WebM as browsers write it: neither how long a frame lasts, nor how long a track."""
    at = video.index(b"\x23\xe3\x83\x84")
    return (video[:at] + b"\xec\x86" + video[at + 2 :]).replace(b"DURATION", b"NOTHINGS")


def sound_damaged(*packets: int) -> Callable[[bytes], bytes]:
    """Packets of an AVI's sound overwritten."""

    def damage(video: bytes) -> bytes:
        damaged, at = bytearray(video), video.index(b"movi")
        for number in range(max(packets) + 1):
            at = video.index(b"01wb", at + 1)
            size = struct.unpack_from("<I", video, at + 4)[0]
            if number in packets:
                damaged[at + 8 : at + 8 + size] = random.Random(number).randbytes(size)
        return bytes(damaged)

    return damage


def from_packet(fraction: float) -> Callable[[bytes], bytes]:
    """A transport stream from the middle of a recording on."""
    return lambda video: video[188 * int(len(video) // 188 * fraction) :]


def copied_from(seconds: float, *options: str, suffix: str = ".ts", **shape: int) -> Maker:
    """Encoded, and then cut at the beginning without being encoded again."""

    def make(path: Path) -> None:
        whole = path.with_name(f".{path.stem}{suffix}")
        encode_any(whole, *options, **shape)
        call(FFMPEG, "-y", "-loglevel", "error", "-ss", str(seconds), "-i", whole, "-c", "copy", path)
        whole.unlink()

    return make


def with_subtitles(path: Path) -> None:
    """A subtitle that ends three seconds after the picture."""
    text = path.with_name(f".{path.stem}.srt")
    text.write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n\n2\n00:00:04,000 --> 00:00:05,000\nlate\n")
    encode_any(
        path, "-i", str(text), "-map", "0", "-map", "1", *H264, "-c:s", "mov_text" if path.suffix == ".mp4" else "srt"
    )
    text.unlink()


def clusters_hit(video: bytes) -> bytes:
    """A Matroska file with the heads of two of its clusters overwritten."""
    damaged, at = bytearray(video), 0
    for _ in range(3):
        at = video.index(b"\x1f\x43\xb6\x75", at + 1)
        damaged[at : at + 40] = bytes(40)
    return bytes(damaged)


def hole(start: float, stop: float) -> Callable[[bytes], bytes]:
    return lambda video: zeroed(video, start, stop)


def hit_near_end(video: bytes) -> bytes:
    """Four bytes of the last tenth overwritten."""
    at = int(len(video) * 0.94)
    return video[:at] + b"\x55\x12\xf0\x99" + video[at + 4 :]


def joined_and_hit(path: Path) -> None:
    """Two recordings as one, the second made a quarter of an hour later, with a flaw near its end."""
    pieces = []
    for offset in (0, 1000):
        encode_any(path, *H264, "-output_ts_offset", str(offset), "-f", "mpegts", frames=100)
        pieces.append(path.read_bytes())
    path.write_bytes(hit_near_end(b"".join(pieces)))


def lure(text: str) -> Maker:
    """A text that names another file of the folder, or something on LISTENER, a server of ours."""
    return lambda path: path.write_text(text.replace("LISTENER", Listener.url))


def playlist(target: str) -> str:
    return f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{target}\n#EXT-X-ENDLIST\n"


MANIFEST_OF_DASH = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"
 profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet mimeType="video/mp4">
<Representation id="1" bandwidth="1"><BaseURL>LISTENER/canary.mp4</BaseURL>
</Representation></AdaptationSet></Period></MPD>
"""
SESSION = (
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
)
SMALL = "color=red:size=32x32:rate=25:d="  # a second picture track; and the seconds that it lasts
EVEN = ("-vf", "settb=1/1000,setpts=N*40", "-fps_mode", "passthrough", "-enc_time_base", "1/1000")
SLIDES = ("-fps_mode", "passthrough", "-enc_time_base", "1/1000", *H264)
IDLE = "settb=1/1000,setpts='N*33+60000*gt(N,20)+45000*gt(N,48)'"  # a screen recorder where nothing moves
UNEVEN = "settb=1/1000,setpts=N*40+10*mod(N\\,2)"
RATE_FALLS = ("-vf", "setpts='if(lt(N,25),N,25+(N-25)*4)/25/TB'", "-fps_mode", "vfr")  # 25 fps, then a quarter of it


# --- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """make: writes the file. verdict, reason, detail: patterns that the row's must match in full. facts: of the row.

    predict: what stages/predict.py says of it; None: it is not asked. file: under UCF-101; by default
    Odd/v_<case>_g08_c01 with the suffix in the case's name or .avi, g01 if in the test list. side: the list that names
    it, train or test, or neither. later: what is done to the file between index and decode.
    """

    make: Maker
    verdict: str = "good"
    reason: str = ""
    detail: str = ".*"
    facts: Mapping[str, object] = field(default_factory=dict)
    file: str = ""
    side: str = "train"
    later: Maker | None = None
    predict: str | None = None

    def video(self, name: str) -> str:
        """The name of its row."""
        return str(Path(self.path(name)).with_suffix(".avi")) if self.side else self.path(name)

    def path(self, name: str) -> str:
        stem, _, suffix = name.partition(".")
        return self.file or f"Odd/v_{stem}_g{'01' if self.side == 'test' else '08'}_c01.{suffix or 'avi'}"


def bad(make: Maker, reason: str, detail: str = ".+", **more: object) -> Case:
    return Case(make, "bad", reason, detail, **more)


def unlisted(file: str) -> Case:
    detail = r"column split1 of videos\.csv is empty; its name is not v_<Action>_g<2 digits>_c<2 digits>"
    return bad(encoded(), "unlisted", detail, file=file, side="")


def whole(frames: int = 50, **facts: object) -> dict[str, object]:
    return {"frames": frames, "header_frames": frames, "frames_25": frames, "shard": "train-0.*", **facts}


UNREAD = {"bytes": 0, "sha256": ""}
CUT = "truncated|damaged|not a video"  # an MP4 has its index at its end, and is nothing without it
CASES: dict[str, Case] = {
    # Three without fault, so that no split is empty.
    "Train": Case(encoded(), facts=whole(codec="mpeg4", rate="25", height="64", width="96", packed="False")),
    "Validation": Case(encoded(), file="Fine/v_Fine_g22_c01.avi", facts={"shard": "validation-00000.tar"}),
    "Test": Case(encoded(), side="test", facts={"shard": "test-00000.tar", "group": 1, "clip": 1}),
    # No video at all.
    "ZeroBytes": bad(holding(b""), "empty", "a file of no bytes"),
    "OneByte": bad(holding(b"R"), "not a video"),
    "Text": bad(holding(b"this is no video\n" * 500), "not a video"),
    "RandomBytes": bad(holding(random.Random(0).randbytes(50_000)), "not a video"),
    "RandomAfterHeader": bad(holding(b"RIFF\0\0\1\0AVI LIST" + random.Random(1).randbytes(50_000)), "not a video"),
    "HeaderAlone": bad(changed(lambda video: video[: video.index(b"movi") + 4]), "not a video|damaged"),
    "Sound": bad(made_by("-f", "lavfi", "-i", "sine=d=1", "-f", "wav"), "not a video"),
    "SoundInMp4.mp4": bad(made_by("-f", "lavfi", "-i", "sine=d=1"), "not a video"),
    "SoundWithCover.mp4": bad(
        made_by(
            *("-f", "lavfi", "-i", "sine=d=1", "-f", "lavfi", "-i", "color=red:size=64x64", "-frames:v", "1"),
            *("-c:v", "mjpeg", "-disposition:v:0", "attached_pic"),
        ),
        "not a video",
    ),
    "Picture": bad(
        encoded("-c:v", "png", "-f", "image2", "-update", "1", frames=1), "not a video", "its format, png_pipe, .*"
    ),
    # Damaged.
    "CutAt10": bad(changed(cut(0.1), width=320, height=240), CUT),
    "CutAt50": bad(changed(cut(0.5), width=320, height=240), "truncated|damaged"),
    "CutAt99": Case(changed(cut(0.99), width=320, height=240), "bad|good", ".+"),
    "CutBetweenFramesAt10": bad(changed(cut_before(5), width=320, height=240), "truncated"),
    "CutBetweenFramesAt50": bad(changed(cut_before(25), width=320, height=240), "truncated"),
    "CutBetweenLikeFrames": bad(changed(cut_before(25), "-c:v", "rawvideo", "-pix_fmt", "yuv420p"), "truncated"),
    "LastFrameCutOff": Case(changed(cut_before(49)), "bad|good", ".+"),
    **{
        f"{suffix.title()}CutAt{percent}.{suffix}": bad(changed(cut(percent / 100), *options), CUT)
        for suffix, options in {"mp4": H264, "mkv": H264, "webm": ("-c:v", "libvpx", "-g", "12")}.items()
        for percent in (10, 50)
    },
    **{f"Flipped{i:02}": Case(changed(flipped(i)), "bad|good", "(damaged|not a video|truncated)?") for i in range(20)},
    "ClaimsTwice": bad(changed(claiming(100)), "truncated", "50 of its 100 frames are left"),
    "ClaimsTwiceWithSound": bad(changed(claiming(100), *SOUND, *XVID, "-c:a", "pcm_s16le"), "truncated"),
    "ClaimsFourBillion": bad(changed(claiming(2**32 - 1)), "truncated", "50 of its 4294967295 frames .*"),
    "ClaimsOneMore": Case(changed(claiming(51)), reason="missing frames: 1", facts={"frames": 50}),
    "ClaimsFewer": Case(changed(claiming(40)), facts={"frames": 50, "header_frames": 40, "frames_25": 50}),
    "ClaimsNone": Case(changed(claiming(0)), facts={"frames": 50}),
    "GrowingPicture.mpg": bad(growing, "damaged"),
    "HugePicture": bad(changed(sized(60_000, 60_000), *RAW), "not a video|damaged", ".*invalid.*"),
    "WrongPicture": bad(changed(sized(8_000, 8_192), *RAW), "not a video|damaged"),
    "EmptyPicture": bad(changed(sized(0, 0), *RAW), "not a video|damaged"),
    "HoursBetweenFrames.mp4": bad(
        encoded("-vf", "setpts=N*1000/TB", "-fps_mode", "vfr", *H264), "timestamps", "make no sense: .*"
    ),
    # Short, odd and still.
    "OneFrame": Case(
        encoded(frames=1),
        reason="shorter than a clip of 6 frames at 25 and 15 and 10 fps",
        facts={"frames_25": 1, "frames_15": 1, "frames_10": 1},
    ),
    "FiveFrames": Case(encoded(frames=5), reason="shorter than a clip of 6 frames at 25 and 15 and 10 fps"),
    "TwelveFrames": Case(
        encoded(frames=12),
        reason="shorter than a clip of 6 frames at 10 fps",
        facts={"frames_25": 12, "frames_15": 7, "frames_10": 5},
    ),
    "OddWidth": Case(encoded("-c:v", "mpeg4", width=97, height=65), facts=whole(height=65, width=97)),
    "OddWidthH264.mp4": Case(
        encoded(*H264, "-pix_fmt", "yuv444p", width=97, height=65), facts=whole(height=65, width=97)
    ),
    "OnePixel": Case(
        encoded("-vf", "scale=1:1", "-c:v", "ffv1"),
        reason="(near-duplicate frames: .*)?",
        facts=whole(height=1, width=1),
    ),
    "Still": Case(encoded(speed=0), reason="near-duplicate frames: 49 of 50", facts=whole(near_duplicates=49)),
    **{
        f"VariableRate{suffix.title()}.{suffix}": Case(
            encoded(*RATE_FALLS, *options),
            reason="variable frame rate",
            facts={"frames": 50, "steady": "False", "frames_10": 49},  # at 0.0 … 4.8 s; the last frame is at 4.84 s
        )
        for suffix, *options in (("mp4", *H264), ("webm", "-c:v", "libvpx"))
    },
    "DroppedFrames.mp4": Case(
        encoded("-vf", "select=lt(mod(n\\,7)\\,3)", "-fps_mode", "vfr", *H264),
        reason="variable frame rate",
        facts={"frames": 22, "frames_25": 50},
    ),
    # Codecs, containers and what else is in them.
    **{
        name: Case(encoded(*options), facts=whole(codec=codec))
        for name, codec, *options in (
            ("H264.mp4", "h264", *H264),
            ("H264WithBFrames.mp4", "h264", *H264, "-bf", "3"),
            ("H264Faststart.mp4", "h264", *H264, "-movflags", "+faststart"),
            ("H264Fragmented.mp4", "h264", *H264, "-movflags", "+frag_keyframe+empty_moov"),
            ("H264TenBits.mkv", "h264", *H264, "-pix_fmt", "yuv420p10le"),
            ("Hevc.mkv", "hevc", "-c:v", "libx265", "-x265-params", "log-level=error"),
            ("Vp8.webm", "vp8", "-c:v", "libvpx"),
            ("Vp9.webm", "vp9", "-c:v", "libvpx-vp9", "-deadline", "realtime"),
            ("Prores.mov", "prores", "-c:v", "prores"),
            ("WithAlpha.mov", "qtrle", "-c:v", "qtrle", "-pix_fmt", "argb"),
            ("Mjpeg", "mjpeg", "-c:v", "mjpeg"),
            ("Uncompressed", "rawvideo", *RAW),
            ("Grey", "ffv1", "-c:v", "ffv1", "-pix_fmt", "gray"),
            ("BFrames", "mpeg4", "-c:v", "mpeg4", "-vtag", "XVID", "-bf", "2"),
            ("FlvNamedAvi", "flv1", "-c:v", "flv", "-f", "flv"),
            ("WmvNamedAvi", "wmv2", "-c:v", "wmv2", "-f", "asf"),
            ("Mp4NamedAvi", "h264", *H264, "-f", "mp4"),
        )
    },
    "Mpeg2.mpg": Case(encoded("-c:v", "mpeg2video"), facts={"frames": 50, "codec": "mpeg2video"}),
    "UpperCaseSuffix.AVI": Case(encoded(*XVID, "-f", "avi"), facts=whole()),
    "WithSound": Case(encoded(*SOUND, *XVID, "-c:a", "pcm_s16le"), facts=whole()),
    "WithSoundMp4.mp4": Case(encoded(*SOUND, *H264, "-c:a", "aac"), facts={"frames": 50}),
    "SoundLonger": Case(encoded(*LONGER_SOUND, *XVID, "-c:a", "pcm_s16le"), facts={"frames": 50}),
    "SoundLongerMp4.mp4": Case(encoded(*LONGER_SOUND, *H264, "-c:a", "aac"), facts={"frames": 50}),
    "StartsLate.mkv": Case(encoded(*H264, "-output_ts_offset", "5"), facts={"frames": 50, "frames_25": 50}),
    "WrittenToAPipe": Case(changed(copied_to_avi), facts={"frames": 50, "frames_25": 50}),
    "TwoPictures": Case(  # not by libxvid: two of its encoders in one process may damage each other's frames
        encoded("-f", "lavfi", "-i", f"{SMALL}2", "-map", "0", "-map", "1", "-c:v", "mpeg4", "-q:v", "3"),
        reason="one of 2 picture tracks",
        facts=whole(width=96),
    ),
    "TitledLikeALog.mp4": Case(
        encoded(
            *H264,
            *("-metadata", "title=Stream #0:9: Video: fake, 7x7 tb:1/7 fr:7/1 packed B-frames"),
            *("-metadata", "comment=Duration: 09:00:00.00, [error] bad"),
        ),
        facts=whole(codec="h264", width=96, height=64, rate="25", packed="False"),
    ),
    "TitledLikeASignal": Case(  # a run that stops for good at one file's title cannot be ended by running again
        encoded(*XVID, "-metadata", "title=Exiting, received signal 15"), facts=whole()
    ),
    "PackedBFrames": Case(
        changed(packed, "-c:v", "mpeg4", "-vtag", "XVID", "-bf", "1", "-b_strategy", "0", "-g", "99", frames=51),
        facts=whole(51, packed="True"),
    ),
    # Times.
    "Phone.mp4": Case(phone, reason="variable frame rate", facts=whole(240, frames_25=".*"), predict=""),
    **{
        f"{name}{suffix.title()}{number}.{suffix}": Case(
            changed(change, *options, *EVEN),
            reason="variable frame rate; frames not later than the one before: 1",
            facts={"frames": 50, "late_frames": 1},
            predict="",
        )
        for name, suffix, changes, *options in (
            ("SameTime", "mkv", (matroska_time(20, 760), matroska_time(20, 750)), *H264, "-bf", "0"),
            ("SameTime", "flv", (flash_time(20, 760), flash_time(20, 750)), "-c:v", "flv"),
            ("SameTime", "ts", (transport_time(20, 0), transport_time(20, 10)), *H264, "-bf", "0"),
        )
        for number, change in enumerate(changes)
    },
    **{
        f"Slides{ms}{suffix.title()}.{suffix}": Case(
            encoded("-vf", f"settb=1/1000,setpts=N*{ms}", *SLIDES, frames=12),
            facts={"frames": 12, "rate": str(Fraction(1000, ms)), "frames_10": 11 * ms // 100 + 1},
            predict=r"has 0\.[15] fps: frames are repeated to make 10",
        )
        for ms in (2_000, 10_000)
        for suffix in ("mp4", "mkv")
    },
    "AlmostNoTime.flv": bad(  # three frames within a millisecond, where a header promises 120
        changed(lambda video: flash_time(2, 1)(flash_time(1, 0)(video)), "-c:v", "flv", frames=3),
        "truncated",
        "3 of its 5 frames are left",
    ),
    "FlvOfNoSize.flv": Case(
        changed(lambda video: video.replace(b"filesize\0", b"filesize\0\x7f\xf8", 1), "-c:v", "flv"), "good|bad", ".*"
    ),
    "VariableRateCut.mkv": Case(  # which has lost two hundredths, and is uneven by itself
        changed(cut(0.98), "-vf", "select=lt(mod(n\\,10)\\,3)", *SLIDES, "-g", "5", frames=100),
        reason="the file is cut short by .*",
        predict=".+",
    ),
    "IdleScreen.mkv": Case(encoded("-vf", IDLE, *SLIDES), reason="variable frame rate", facts={"frames": 50}),
    "BrowserWebm.webm": Case(
        changed(without_durations, "-c:v", "libvpx", *EVEN), facts=whole(rate="25", codec="vp8"), predict=""
    ),
    "LastFrameLong.mkv": Case(
        encoded("-vf", "settb=1/1000,setpts=N*40+20000*gte(N\\,49)", *SLIDES), reason="variable.*", predict=""
    ),
    "DashWithBFrames.mp4": Case(
        encoded(*H264, "-bf", "3", "-movflags", "+dash", frames=15), facts={"frames": 15}, predict=""
    ),
    "CopiedToAvi": Case(  # which counts an empty frame for every tick of 1/600 s
        changed(copied_to_avi, *SOUND, *H264, "-c:a", "aac", "-f", "mp4", "-movflags", "+empty_moov+frag_keyframe"),
        facts={"frames": 50},
        predict="",
    ),
    "AviOfVariableRate": Case(
        encoded("-vf", "select=lt(mod(n\\,7)\\,3)", "-fps_mode", "vfr", "-c:v", "mpeg4"),
        reason="variable frame rate",
        facts={"frames": 22},
        predict="",
    ),
    # Tracks.
    "SubtitlesLonger.mp4": Case(with_subtitles, facts=whole(), predict=""),
    "SubtitlesLongerMkv.mkv": Case(with_subtitles, facts={"frames": 50}, predict=""),
    **{
        f"SecondPictureLonger{suffix.title()}.{suffix}": Case(
            encoded("-f", "lavfi", "-i", f"{SMALL}4", "-map", "0", "-map", "1", *H264),
            reason="one of 2 picture tracks",
            facts={"frames": 50, "width": 96, "tracks": 2},
            predict="has 2 picture tracks; shown is stream 0",
        )
        for suffix in ("mp4", "mkv")
    },
    "SoundLongerAndTimecode.mov": Case(
        encoded(*LONGER_SOUND, *H264, "-c:a", "aac", "-timecode", "01:00:00:00"), facts=whole(), predict=""
    ),
    "Timecode.mov": Case(
        encoded(*H264, "-timecode", "01:00:00:00"), facts=whole(codec="h264", width=96, height=64), predict=""
    ),
    "DefaultTrack.mkv": Case(
        encoded(
            *("-f", "lavfi", "-i", f"{SMALL}4", "-map", "1", "-map", "0", *H264),
            *("-disposition:v:0", "0", "-disposition:v:1", "default"),
        ),
        reason="one of 2 picture tracks",
        facts={"frames": 50, "width": 96},
        predict="has 2 picture tracks; shown is stream 1",
    ),
    **{
        f"Thumbnail{suffix.title()}.{suffix}": Case(
            encoded("-f", "lavfi", "-i", f"{SMALL}0.04", "-map", "1", "-map", "0", *codecs),
            reason="one of 2 picture tracks",
            facts={"frames": 50, "width": 96},
            predict="has 2 picture tracks; shown is stream 1",
        )
        for suffix, *codecs in (("mp4", *H264), ("mkv", "-c:v:0", "mjpeg", "-c:v:1", "libx264"))
    },
    # Damaged, and yet all or nearly all there.
    "SoundDamaged": Case(
        changed(sound_damaged(0, 1, 2), *SOUND, *XVID, "-c:a", "libmp3lame"),
        reason="missing frames: 1; the decoder complains, see detail; variable frame rate",
        detail="mp3.*: Header missing",
        facts={"frames": 50},
        predict="the decoder complains, and goes on: mp3.*: Header missing",
    ),
    "SoundDamagedLater": Case(
        changed(sound_damaged(30, 40, 50), *SOUND, *XVID, "-c:a", "libmp3lame"),
        reason="missing frames: 1; variable frame rate",
        facts={"frames": 50},
    ),
    **{
        f"BetweenKeyFrames{name}.ts": Case(
            changed(from_packet(0.1), *H264, *options, "-f", "mpegts", frames=200),
            reason=r"missing frames: \d+; (damaged frames: \d|the decoder complains, see detail)",
            detail="non-existing PPS 0 referenced",
            facts={"frames": "1[678][0-9]"},
            predict=r"cut short, 1\d\d of 1\d\d frames .*non-existing PPS 0 referenced.*",
        )
        for name, options in {"": (), "OpenGop": ("-x264-params", "open-gop=1")}.items()
    },
    "BetweenKeyFramesTooFar.ts": bad(
        changed(from_packet(0.3), *H264, "-f", "mpegts", frames=60),
        "truncated",
        r"\d\d of its \d\d frames are left",
        predict=r"cut short, \d\d of \d\d frames .*non-existing PPS 0 referenced.*",
    ),
    "OpenGopCut.mp4": Case(
        copied_from(0.5, *H264, "-bf", "2", "-x264-params", "open-gop=1", "-f", "mpegts", frames=100),
        reason=r"(missing frames: \d; )?damaged frames: \d",
        detail="Missing reference picture.*|mmco: unref short failure",
        facts={"frames": "[789]."},
        predict=r"(cut short, .*; )?damaged, \d of \d\d frames are not whole \(.+\)",
    ),
    "Trimmed.mp4": Case(
        copied_from(0.8, *H264, "-f", "mp4", suffix=".mp4", frames=100), facts={"frames": "[78]."}, predict=""
    ),
    "FlvCutAt50.flv": bad(changed(cut(0.5), "-c:v", "flv"), "truncated", predict="cut short, .*"),
    "WmvCutAt50.wmv": bad(changed(cut(0.5), "-c:v", "wmv2"), "truncated", predict="cut short by .* bytes; .*"),
    "FlvWithSoundCutAt50.flv": bad(
        changed(cut(0.5), *SOUND, "-c:v", "flv", "-c:a", "mp3", "-ar", "22050"), "truncated", predict=".+"
    ),
    **{
        f"{suffix.title()}HalfFilled.{suffix}": bad(  # a download that was given its full size, and broke off
            changed(hole(0.5, 1), *SOUND, *options, "-ar", "22050"), "truncated|damaged", predict=".+"
        )
        for suffix, *options in (("wmv", "-c:v", "wmv2"), ("flv", "-c:v", "flv"), ("mkv", *H264), ("avi", *XVID))
    },
    "HoleInMp4.mp4": bad(
        changed(hole(0.4, 0.75), "-c:v", "libvpx-vp9", "-deadline", "realtime", "-g", "12", "-movflags", "+faststart"),
        "truncated",
        predict=".+",
    ),
    "JoinedAndHit.ts": Case(  # the clock jumps by a quarter of an hour; the hit is one frame's
        joined_and_hit,
        reason="(damaged frames: .*|the decoder complains, see detail)",
        facts={"frames": 200},
        predict=".+",
    ),
    "HitInVariableRate.mkv": Case(
        changed(hit_near_end, "-vf", UNEVEN, *SLIDES, "-bf", "0", frames=100),
        reason=r"damaged frames: \d; variable frame rate.*",
        facts={"frames": 100},
        predict="damaged, .*",
    ),
    "MkvClustersHit.mkv": bad(
        changed(clusters_hit, *H264, "-cluster_time_limit", "400"), "truncated|damaged|not a video"
    ),
    # High dynamic range.
    **{
        f"{name}.{suffix}": Case(
            encoded(
                *("-vf", f"setparams=color_primaries=bt2020:color_trc={transfer}:colorspace=bt2020nc"),
                *("-c:v", "libx265", "-x265-params", "log-level=error", "-pix_fmt", "yuv420p10le"),
            ),
            reason=rf"high dynamic range \({name}\), stored without tone mapping",
            facts=whole(hdr=name),
            predict=rf"has high dynamic range \({name}\), .*",
        )
        for name, transfer, suffix in (("PQ", "smpte2084", "mp4"), ("HLG", "arib-std-b67", "mkv"))
    },
    # Other containers that hold their own frames, by their suffixes.
    **{
        f"Suffix{suffix.title()}.{suffix}": Case(encoded(*options), facts=whole(rate="25", codec=codec), predict="")
        for suffix, codec, *options in (
            ("gif", "gif", "-f", "gif"),
            ("dv", "dvvideo", "-s", "720x576", "-pix_fmt", "yuv420p"),
            ("mxf", "mpeg2video", "-c:v", "mpeg2video"),
            ("y4m", "rawvideo", "-pix_fmt", "yuv420p"),
            ("nut", "ffv1", "-c:v", "ffv1"),
            ("ivf", "vp8", "-c:v", "libvpx"),
            ("h264", "h264", *H264),
            ("hevc", "hevc", "-c:v", "libx265", "-x265-params", "log-level=error"),
            ("m4v", "h264", *H264, "-f", "mp4"),
            ("mpeg", "mpeg2video", "-c:v", "mpeg2video"),
            ("ts", "h264", *H264),
            ("m2ts", "h264", *H264),
            ("wmv", "wmv2", "-c:v", "wmv2"),
            ("flv", "h264", *H264),
            ("3gp", "mpeg4", "-c:v", "mpeg4"),
            ("ogv", "theora", "-c:v", "libtheora"),
        )
    },
    # Names and lists.
    **{
        f"Unlisted{i}": unlisted(f"Odd/{file}")
        for i, file in enumerate(
            [
                *("holiday film.avi", "v_Odd_g8_c1.avi", "-i.avi", "img%03d.avi", "concat:a.avi|b.avi"),
                *('two\nlines, "quoted".avi', "\u00e9t\u00e9.avi", os.fsdecode(b"latin-\xe9.avi")),
            ]
        )
    },
    "OfficialNameUnlisted": bad(
        encoded(), "unlisted", r"column split1 of videos\.csv is empty", file="Odd/v_Odd_g08_c99.avi", side=""
    ),
    "OtherClassFolder": bad(encoded(), "unlisted", file="Unknown/v_Unknown_g08_c01.avi", side=""),
    "Absent": Case(lambda path: None, "absent", "listed, not found", ""),
    "AbsentInTest": Case(lambda path: None, "absent", "listed, not found", "", side="test"),
    "TextFile": bad(holding(b"notes"), "not a video", "its name does not end in .*", file="Odd/notes.txt", side=""),
    "BesideTheClasses": bad(encoded(), "not in a class folder", file="v_Stray_g08_c01.avi", side=""),
    "TextBesideTheClasses": bad(holding(b"read me"), "not a video", file="README", side=""),
    # Twice.
    "Original": Case(encoded(), reason=r"same content as Odd/v_CopyInTrain_g08_c01.avi \(train\)"),
    "CopyInTrain": Case(copy_of("Odd/v_Original_g08_c01.avi"), reason=r"same content as Odd/v_Original_.* \(train\)"),
    "Leaked": Case(encoded(), reason=r"same content as Odd/v_CopyInTest_g01_c01.avi \(test\)"),
    "CopyInTest": Case(
        copy_of("Odd/v_Leaked_g08_c01.avi"), reason=r"same content as Odd/v_Leaked_.* \(train\)", side="test"
    ),
    "GroupInTrain": Case(
        encoded(), reason="its group is in the training and in the test list", file="Fine/v_Fine_g12_c01.avi"
    ),
    "GroupInTest": Case(
        encoded(),
        reason="its group is in the training and in the test list",
        file="Fine/v_Fine_g12_c02.avi",
        side="test",
    ),
    # Not regular files.
    "Linked": Case(link_to("../Odd/v_Target_g08_c01.avi"), reason="same content as Odd/v_Target.*"),
    "Target": Case(encoded(), reason="same content as Odd/v_Linked.*"),
    "LinkLoop": bad(
        link_to("v_LinkLoop_g08_c01.avi"), "symlink loop", "Too many levels of symbolic links", facts=UNREAD
    ),
    "LongerLoop": bad(link_to("v_BackAgain_g08_c01.avi"), "symlink loop"),
    "BackAgain": bad(link_to("v_LongerLoop_g08_c01.avi"), "symlink loop"),
    "LinkToNothing": bad(link_to("nothing"), "unreadable", "No such file or directory", facts=UNREAD),
    "LinkToParent": bad(link_to(".."), "not a video", "a folder"),
    "Folder": bad(Path.mkdir, "not a video", "a folder"),
    "Pipe": bad(os.mkfifo, "not a video", "not a regular file"),
    "LoopingClass": bad(link_to("Loop"), "symlink loop", file="Loop", side=""),
    # Files that would have others opened.
    **{
        f"Image{i}": bad(encoded("-update", "1", frames=1), "not a video", file=f"Odd/img00{i}.png", side="")
        for i in range(2)
    },
    "Aside": bad(canaries, "not a video", "a folder", file="Odd/aside", side=""),
    "PlaylistOfAFile": bad(lure(playlist("aside/canary.ts")), "not a video", "its format, hls, is not read: .*"),
    "PlaylistOfAUrl": bad(lure(playlist("LISTENER/canary.ts")), "not a video"),
    "PlaylistInMkv.mkv": bad(lure(playlist("LISTENER/other.ts")), "not a video"),
    "ConcatenatedFile": bad(lure("ffconcat version 1.0\nfile aside/canary.avi\n"), "not a video"),
    "ConcatenatedUrl": bad(lure("ffconcat version 1.0\nfile LISTENER/canary.avi\n"), "not a video"),
    "Dash": bad(lure(MANIFEST_OF_DASH), "not a video"),
    "DashInMp4.mp4": bad(lure(MANIFEST_OF_DASH + " "), "not a video"),
    "Session": bad(lure(SESSION), "not a video"),
    "Redirection": bad(
        lure('<asx version="3.0"><entry><ref href="LISTENER/canary.avi"/></entry></asx>'), "not a video"
    ),
    "ExternalTrack.mov": bad(external_track, "damaged|not a video"),
    # Changed between index and decode.
    "Changed": bad(encoded(), "changed", "content differs from the index; .*", later=encoded(frames=20)),
    "Gone": bad(encoded(), "unreadable", "No such file or directory", later=Path.unlink),
}


# --- the folder ------------------------------------------------------------------------------------------------------


class Listener(http.server.BaseHTTPRequestHandler):
    """Answers every request with 404 and remembers it."""

    url = ""
    hits: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.hits.append(self.path)
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


class Watch:
    """Counts, by the kernel's word, how often any of some files is opened."""

    def __init__(self, files: Sequence[Path]):
        libc = ctypes.CDLL(None, use_errno=True)
        self._stream = libc.inotify_init1(os.O_NONBLOCK)
        opened = 0x20
        for file in files:
            assert libc.inotify_add_watch(self._stream, os.fsencode(file), opened) >= 0

    def opened(self) -> int:
        """Since the last call."""
        try:
            return len(os.read(self._stream, 1 << 16)) // 16
        except BlockingIOError:
            return 0


@dataclass(frozen=True)
class Site:
    """The folder, what is found in it by a plain walk, and all that the pipeline says of it. rows: of the manifest, by
    video."""

    raw: Path
    out: Path
    walked: frozenset[str]
    table: pd.DataFrame
    config: DecodeConfig
    manifest: pd.DataFrame
    rows: dict[str, object]
    summary: dict[str, object]
    opened: int
    hits: Sequence[str]
    watch: Watch


def walk(videos: Path) -> frozenset[str]:
    """What lies in the class folders and beside them, hidden files excepted."""
    found: list[str] = []
    for folder, folders, files in os.walk(videos):
        depth = len(Path(folder).relative_to(videos).parts)
        # A link to a folder that can be followed is a class folder, one that cannot is a file.
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        found += [os.path.join(folder, name) for name in files + (folders if depth == 1 else links)]
        if depth == 1:
            folders.clear()
    return frozenset(os.path.relpath(file, videos) for file in found if not os.path.basename(file).startswith("."))


@pytest.fixture(scope="module")
def listener() -> Iterator[type[Listener]]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Listener.url = f"http://127.0.0.1:{server.server_port}"
    yield Listener
    server.shutdown()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, listener: type[Listener]) -> Site:
    raw = tmp_path_factory.mktemp("bad") / "raw %03d, 'é' |concat: [0:v]"
    videos = raw / "UCF-101"
    for name, case in CASES.items():
        path = videos / case.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        case.make(path)
    (videos / "Odd" / ".DS_Store").write_bytes(b"hidden")
    write_lists(
        raw / "ucfTrainTestlist",
        {side: [case.video(name) for name, case in CASES.items() if case.side == side] for side in ("train", "test")},
    )
    walked = walk(videos)
    table = table_in(raw)
    write_table(table, raw)
    for name, case in CASES.items():
        if case.later:
            case.later(videos / case.path(name))
    config = decode_config(max_bad_fraction=1.0)
    rows, paths = plan_rows(table, config), files_of(table, raw)
    watch = Watch(sorted((videos / "Odd" / "aside").glob("*")))
    out = tmp_path_factory.mktemp("out")
    manifest = make_manifest(ingest(rows, paths, config, work=out))
    opened, hits = watch.opened(), list(listener.hits)
    check_accounts(manifest, table, out)
    by_video = {row.video: row for row in manifest.itertuples()}
    return Site(raw, out, walked, table, config, manifest, by_video, summarise(manifest), opened, hits, watch)


@pytest.mark.parametrize("name", CASES)
def test_every_case_is_a_row_that_says_what_it_is(site: Site, name: str) -> None:
    case, row = CASES[name], site.rows[CASES[name].video(name)]
    said = f"{row.verdict}: {row.reason} ({row.detail})"
    assert re.fullmatch(case.verdict, row.verdict), said
    assert re.fullmatch(case.reason, row.reason), said
    assert re.fullmatch(case.detail, row.detail), said
    assert len(said) < 500
    assert str(site.raw) not in said
    for column, expected in case.facts.items():
        assert re.fullmatch(str(expected), str(getattr(row, column))), f"{column}: {getattr(row, column)}"


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.predict is not None])
def test_predict_reads_it_too(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """What is lost or odd is said, and it goes on, also where the stage leaves a video out."""
    file = site.raw / "UCF-101" / CASES[name].path(name)
    video = open_own_video(file, tmp_path, CARD, fps=10)
    assert video.frames(0, 3).shape == (3, 3, 32, 32)
    said = capsys.readouterr().err.removesuffix("\n").replace(str(file), "FILE").splitlines()
    assert re.fullmatch(CASES[name].predict, "; ".join(line.removeprefix("FILE: ") for line in said)), said


def test_every_file_found_is_one_row_and_the_totals_add_up(site: Site) -> None:
    found = site.table[site.table["path"] != ""]
    assert set(found["path"]) == {f"UCF-101/{file}" for file in site.walked}
    assert len(found) == len(site.walked)
    verdicts, videos = Counter(site.manifest["verdict"]), site.summary["videos"]
    assert videos == {"found": len(site.walked), "good": verdicts["good"], "bad": verdicts["bad"], "absent": 2}
    assert videos["good"] + videos["bad"] == videos["found"]
    assert len(site.manifest) == videos["found"] + videos["absent"]
    bad = site.manifest[site.manifest["verdict"] == "bad"]
    assert site.summary["bad"] == Counter(bad["reason"])
    assert sum(site.summary["bad"].values()) == videos["bad"]
    assert (bad["shard"] == "").all()
    assert (site.manifest.loc[site.manifest["verdict"] == "good", "shard"] != "").all()


def test_the_shards_hold_every_good_video_and_nothing_else(site: Site) -> None:
    good = {Path(row.video).stem: row for row in site.rows.values() if row.verdict == "good"}
    for rate in RATES:
        stored = [video for shard in (site.out / str(rate)).iterdir() for video in open_shard(shard)]
        assert {video.key: (video.info.frames, video.info.source_sha256) for video in stored} == {
            key: (getattr(row, f"frames_{rate}"), row.sha256) for key, row in good.items()
        }
    assert not list(site.out.glob("making-*"))


def test_what_is_odd_is_counted(site: Site) -> None:
    summary = site.summary
    assert summary["short_clips"] == {"25": 2, "15": 2, "10": 3}
    assert summary["duplicates"] == {"copies": 3, "contents_in_several_splits": 1}
    assert summary["leaks"] == {"test_videos_in_training": 1, "groups_in_both_lists": 1}
    assert summary["source"]["packed_b_frames"] == 1
    assert summary["source"]["variable_rate"] == 17
    assert summary["frames"]["near_duplicates"] >= 49


def test_nearly_all_flipped_bytes_are_noticed(site: Site) -> None:
    rows = [site.rows[case.video(name)] for name, case in CASES.items() if name.startswith("Flipped")]
    assert len(rows) == 20
    assert sum(row.verdict == "bad" for row in rows) >= 15


def test_no_other_file_is_opened_and_nothing_is_asked_of_the_network(site: Site) -> None:
    assert site.opened == 0
    assert site.hits == []


@pytest.mark.parametrize(
    ("name", "allow"),
    [
        ("ConcatenatedFile", ()),
        ("Dash", ("-protocol_whitelist", "file,http,tcp")),
        ("ExternalTrack.mov", ("-enable_drefs", "1")),
    ],
)
def test_the_lures_would_work(site: Site, listener: type[Listener], name: str, allow: Sequence[str]) -> None:
    """An ffmpeg without our restrictions takes them: the test above is not empty."""
    file = site.raw / "UCF-101" / CASES[name].path(name)
    site.watch.opened()
    listener.hits.clear()
    command = [FFMPEG, "-nostdin", "-loglevel", "quiet", *allow, "-i", f"file:{file}", "-t", "1", "-f", "null", "-"]
    subprocess.run(command, check=False, timeout=60)
    if not site.watch.opened() and not listener.hits:
        pytest.skip(f"this ffmpeg opens nothing for {name} by itself")


# --- through the command line ----------------------------------------------------------------------------------------


def manifest_rows(project: Path) -> dict[str, object]:
    return {row.video: row for row in read_manifest(project / "data").itertuples()}


def fine_raw(folder: Path, *more: str) -> Path:
    """A good video for each split, and more in the training list."""
    train = ["Odd/v_Fine_g08_c01.avi", "Odd/v_Fine_g22_c01.avi", *(f"Odd/v_{name}_g09_c01.avi" for name in more)]
    return make_raw(folder, {"train": train, "test": ["Odd/v_Fine_g01_c01.avi"]})


def test_the_stage_stops_at_too_many_bad_videos_and_else_says_the_same(site: Site, tmp_path: Path) -> None:
    """It stops with a list; with that many allowed, it ends with what the functions made."""
    decode = asdict(site.config)
    project = make_project(tmp_path / "project", site.raw, **decode | {"max_bad_fraction": 0.01})
    done = run_stage(project, "decode", code=1)
    assert "over decode.max_bad_fraction = 0.01" in done.stderr
    assert "Odd/v_ZeroBytes_g08_c01.avi: empty, a file of no bytes" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Every file and its verdict: runs/decode/manifest.csv" in done.stderr
    assert len(read_manifest(project / "runs" / "decode")) == len(site.manifest)
    assert not (project / "data" / "manifest.csv").exists()

    write_params(project, {"decode": decode})
    done = run_stage(project, "decode")
    assert "carrying on" in done.stdout
    assert f"videos: found {len(site.walked)}, " in done.stdout
    expected = site.manifest.to_csv(index=False, lineterminator="\n", errors="surrogateescape")
    assert (project / "data" / "manifest.csv").read_bytes() == expected.encode("utf-8", "surrogateescape")
    counts = {name: site.summary["videos"][name] for name in ("found", "good", "bad")}
    metrics = json.loads((project / "metrics" / "decode.json").read_text())
    assert metrics == counts | {"frames": site.summary["frames"]["source"]}
    found = facts(project / "plots" / "decode.csv")
    assert found["videos.found"] == str(len(site.walked))
    assert {name: int(value) for name, value in found.items() if name.startswith("bad.")} == {
        f"bad.{reason}": count for reason, count in site.summary["bad"].items()
    }
    assert shard_digests(project / "data" / "shards") == shard_digests(site.out)
    assert not (project / "runs" / "decode").exists()


def test_a_decoder_that_hangs_is_killed_and_the_others_go_on(tmp_path: Path) -> None:
    raw = fine_raw(tmp_path / "raw", "Hangs")
    write_table(table_in(raw), raw)
    project = make_project(tmp_path / "project", raw, timeout_s=2, max_bad_fraction=1.0)
    seconds = f"{random.SystemRandom().randrange(10**6, 10**7)}"
    # Deaf to a polite signal, as a process that waits for a dead disk is.
    hangs = stand_in(tmp_path / "ffmpeg", f"*v_Hangs_*) trap '' TERM INT; exec sleep {seconds}")
    run_stage(project, "decode", env=hangs)
    rows = manifest_rows(project)
    hung = rows.pop("Odd/v_Hangs_g09_c01.avi")
    assert (hung.verdict, hung.reason) == ("bad", "time limit")
    assert hung.detail == "decoding took longer than 2 s"
    assert [row.verdict for row in rows.values()] == ["good"] * 3
    assert facts(project / "plots" / "decode.csv")["bad.time limit"] == "1"
    assert not [process for process in psutil.process_iter(["cmdline"]) if seconds in (process.info["cmdline"] or [])]


@pytest.mark.parametrize(
    ("end", "error", "words"),
    [
        ("kill -SEGV $$", VideoError, r"damaged: the decoder crashed \(SIGSEGV\)"),
        ("kill -KILL $$", RuntimeError, "ffmpeg was stopped while it decoded .*; out of memory"),
        ("exit 255", RuntimeError, "ffmpeg was stopped while it decoded .*; out of memory"),  # as after SIGTERM
    ],
)
def test_an_end_of_the_pass_that_counts_damage_is_judged_as_one_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, error: type[Exception], words: str
) -> None:
    video = tmp_path / "v.avi"
    changed(hit_near_end)(video)
    for name, value in stand_in(tmp_path / "ffmpeg", f"*-debug_ts*) {end}").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(error, match=words):
        decode(video, tmp_path, height=32, width=32, quality=90, timeout_s=60)


def give_up_privileges() -> None:
    """Of the next program that this process becomes: root is then let in only where the permissions say so."""
    drop_from_bounding_set, override, read_search = 24, 1, 2
    for capability in (override, read_search):
        ctypes.CDLL(None).prctl(drop_from_bounding_set, capability, 0, 0, 0)


def test_what_may_not_be_read_is_a_row(tmp_path: Path) -> None:
    raw = fine_raw(tmp_path / "given", "Closed", "ClosedLater")
    videos = raw / "UCF-101"
    (videos / "ClosedClass").mkdir()
    closed = [videos / "Odd" / "v_Closed_g09_c01.avi", videos / "ClosedClass"]
    for path in closed:
        path.chmod(0)
    user = {"preexec_fn": give_up_privileges} if os.geteuid() == 0 else {}
    if subprocess.run(["cat", closed[0]], capture_output=True, check=False, **user).returncode == 0:
        pytest.skip("root's privileges cannot be given up here")
    (tmp_path / "fetched").mkdir()
    project = make_project(tmp_path / "project", tmp_path / "fetched")
    paths = {"root": str(videos), "lists": str(raw / "ucfTrainTestlist")}
    settings = {"source": {"kind": "folder", "folder": paths}, "decode": {"max_bad_fraction": 1.0}}
    write_params(project, settings)
    run_stage(project, "fetch", **user)
    closed.append(videos / "Odd" / "v_ClosedLater_g09_c01.avi")
    closed[-1].chmod(0)
    run_stage(project, "decode", **user)
    for path in closed:
        path.chmod(0o700)
    rows = manifest_rows(project)
    said = {name: (row.verdict, row.reason, row.detail) for name, row in rows.items()}
    assert {name: row for name, row in said.items() if row[0] != "good"} == {
        path.relative_to(videos).as_posix(): ("bad", "unreadable", "Permission denied") for path in closed
    }
    at_once = rows["Odd/v_Closed_g09_c01.avi"]
    assert (at_once.bytes, at_once.sha256) == (closed[0].stat().st_size, "")
    found = facts(project / "plots" / "decode.csv")
    assert [found[f"videos.{name}"] for name in ("found", "good", "bad", "absent")] == ["6", "3", "3", "0"]
    assert found["bad.unreadable"] == "3"


# --- real clips ------------------------------------------------------------------------------------------------------


def real_raw(folder: Path, clips: Sequence[Path]) -> Path:
    """Real clips in the training list, beside a made video for each of the other splits."""
    real = {clip.name: clip for clip in clips}
    train = [f"{clip.parent.name}/{clip.name}" for clip in clips]
    videos = {"train": [*train, "Odd/v_Fine_g22_c01.avi"], "test": ["Odd/v_Fine_g01_c01.avi"]}
    return make_raw(
        folder, videos, lambda path: shutil.copy(real[path.name], path) if path.name in real else encode_any(path)
    )


@pytest.mark.parametrize(("percent", "expected"), [(10, "bad: .*"), (50, "bad: .*"), (99, "bad: .*|good: .+")])
def test_real_clips_cut_short_are_noticed(real_clips: Path, tmp_path: Path, percent: int, expected: str) -> None:
    clips = sorted((real_clips / "UCF-101").glob("*/*_g01_c01.avi"))
    raw = real_raw(tmp_path / "raw", clips)
    names = [f"{clip.parent.name}/{clip.name}" for clip in clips]
    for file in (raw / "UCF-101" / name for name in names):
        file.write_bytes(cut(percent / 100)(file.read_bytes()))
    rows, paths, config = plan(raw)
    manifest = make_manifest(ingest(rows, paths, config, work=tmp_path / "out")).set_index("video")
    said = manifest.loc[names, "verdict"] + ": " + manifest.loc[names, "reason"]
    assert said[~said.str.fullmatch(expected)].to_dict() == {}


# --- another ffmpeg --------------------------------------------------------------------------------------------------


def other_ffmpeg() -> str:
    """Another version than ours that can be run the same way; skips the test when there is none."""
    for found in filter(None, (os.environ.get("OTHER_FFMPEG"), shutil.which("ffmpeg"))):
        version = call(found, "-version").decode().split("\n", 1)[0].split(" Copyright")[0]
        dry_run = f"{found} -v quiet -f lavfi -i color=d=1 -fps_mode passthrough -f null -"
        if version != ffmpeg_version() and subprocess.run(dry_run.split(), check=False).returncode == 0:
            return found
    pytest.skip("no other ffmpeg of version 5.1 or later on the PATH or in OTHER_FFMPEG")


@pytest.mark.parametrize("source", ["made", "real"])
def test_another_ffmpeg_makes_the_same_shards(source: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    other = other_ffmpeg()
    if source == "real":
        clips = sorted((request.getfixturevalue("real_clips") / "UCF-101").glob("*/*_g08_c01.avi"))
        raw = real_raw(tmp_path / "raw", clips)
    else:
        raw = fine_raw(tmp_path / "raw")
    write_table(table_in(raw), raw)
    made = []
    for name, env in {"ours": {}, "other": {"IMAGEIO_FFMPEG_EXE": other}}.items():
        project = make_project(tmp_path / name, raw)
        run_stage(project, "decode", env=env)
        made.append(shard_digests(project / "data" / "shards"))
    assert made[0] == made[1]
