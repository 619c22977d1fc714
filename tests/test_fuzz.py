"""Arbitrary and damaged lists, tables, names and shards: the parsers are right or refuse, and never raise anything
else."""

import io
import json
import string
import tarfile
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.clips.shards import open_videos
from pipeline.datasets import own_table
from pipeline.datasets.lists import Split, VideoName, classes_of, listed_name, parse_name, read_labels, read_split
from tests.support.videos import FACTS, write

fuzz = settings(max_examples=200, deadline=None, derandomize=True, database=None)
ALNUM = string.ascii_letters + string.digits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def result_or_none(start: str, longest: int, call: Callable[..., object], *args: object) -> object:
    """What the call returns; None if it refuses with a ValueError of this start and at most `longest` more."""
    try:
        return call(*args)
    except ValueError as error:
        message = str(error)
        assert message.startswith(start), message[:500]
        assert len(message) <= len(start) + longest, f"{len(message)} characters: {message[:500]}"
        return None


def edited(valid: bytes) -> st.SearchStrategy[bytes]:
    """`valid` with one to three deletions, insertions or replacements, some of them long."""
    pieces = [*"\n\r\t \0\x85\ufeff\u0663\u2028019A_.", "", "../", "1 A\n", "\n3 A-b\n", "\nA/v_A_g01_c01.avi 1\n"]
    piece = st.sampled_from([text.encode() for text in pieces]) | st.binary(max_size=4)
    piece |= st.builds(bytes.__mul__, st.sampled_from([b"1", b"A", b"\n", b"?"]), st.integers(900, 6000))
    edit = st.tuples(st.integers(0, len(valid)), st.integers(0, 3) | st.integers(0, len(valid)), piece)

    def apply(edits: Sequence[tuple[int, int, bytes]]) -> bytes:
        content = valid
        for at, length, new in edits:
            content = content[:at] + new + content[at + length :]
        return content

    return st.lists(edit, min_size=1, max_size=3).map(apply)


# names: the models below split where the parsers match patterns


def is_word(text: str, *, also: str = "") -> bool:
    return text != "" and set(text) <= set(ALNUM + also)


def name_in(file_name: str) -> VideoName | None:
    stem, _, suffix = file_name.partition(".")
    match stem.split("_"):
        case ["v", action, group, clip] if is_word(action) and is_word(suffix) and len(group) == len(clip) == 3:
            if group[0] == "g" and clip[0] == "c" and set(group[1:] + clip[1:]) <= set(string.digits):
                return VideoName(action, int(group[1:]), int(clip[1:]))
    return None


words, two_digits = st.text(ALNUM, min_size=1, max_size=12), st.integers(0, 99)


@fuzz
@given(words, two_digits, two_digits, words)
def test_every_official_name_is_read_and_listed(action: str, group: int, clip: int, suffix: str) -> None:
    stem = f"v_{action}_g{group:02}_c{clip:02}"
    assert parse_name(f"{stem}.{suffix}") == VideoName(action, group, clip)
    assert listed_name(f"{stem}.{suffix}") == f"{stem}.avi"


NAME = "v_A_g08_c01.avi"
other = st.sampled_from(["", *"0Ag_./\n\u0663"])
one_off = st.builds(lambda at, new: NAME[:at] + new + NAME[at + 1 :], st.integers(0, len(NAME)), other)


@fuzz
@given(one_off | edited(NAME.encode()).map(lambda name: name.decode(errors="surrogateescape")) | st.text())
def test_other_names_are_none(file_name: str) -> None:
    found = parse_name(file_name)
    assert found == name_in(file_name)
    if found is not None:
        assert file_name.startswith(f"v_{found.action}_g{found.group:02}_c{found.clip:02}.")


@fuzz
@given(st.text().filter(lambda text: text[:1] not in ("", ".") and not set(text) & set("/\0")), words)
def test_only_the_suffix_of_a_file_name_is_replaced(stem: str, suffix: str) -> None:
    assert listed_name(f"{stem}.{suffix}") == f"{stem}.avi"


# lists

VALID = {  # the third split is absent, and a class need not be its videos' action
    "classInd.txt": b"1 A\r\n3 A-b\r\n2 B_2\r\n",
    "trainlist01.txt": b"A/v_A_g08_c01.avi 1\r\nA-b/v_Ab_g08_c01.avi 3\r\n",
    "testlist01.txt": b"A-b/v_Ab_g01_c01.avi\r\nB_2/v_B2_g01_c01.avi\r\n",
    "trainlist02.txt": b"B_2/v_B2_g01_c01.avi 2\n\nA/v_A_g08_c01.avi 1\n",
    "testlist02.txt": b"A-b/v_Ab_g01_c01.avi\n",
}
CHANGES = [("", "")] * 5 + [("08", "8"), ("01", "001"), (".avi", ".mp4"), ("v_", "V_"), (".", ".."), ("_g", "\u0662_g")]
CHANGES += [(" 1", " 2"), ("3", "4"), ("2", "\u0662"), (" ", "\v"), (" ", ""), ("/", "//"), ("A/", "A-b/")]


def rows_in(content: bytes) -> list[list[str]]:
    """The words of every line that is not blank."""
    lines = content.decode("utf-8", "replace").removeprefix("\ufeff").replace("\r", "\n").split("\n")
    return [line.split() for line in lines if line.strip()]


def number_in(text: str) -> int:
    """0, which is no label, for anything but a few ASCII digits."""
    return int(text) if set(text) <= set(string.digits) and len(text) < 20 else 0


def labels_in(files: Mapping[str, bytes]) -> dict[str, int] | None:
    """What the list means; None if it must be refused."""
    rows = rows_in(files["classInd.txt"])
    if not rows or not all(len(row) == 2 and is_word(row[1], also="_-") for row in rows):
        return None
    labels = {name: number_in(number) - 1 for number, name in rows}
    return labels if sorted(labels.values()) == list(range(len(rows))) else None


def split_in(files: Mapping[str, bytes], number: int) -> Split | None:
    labels, sides = labels_in(files), []
    for side in ("train", "test"):
        rows, keys = rows_in(files[f"{side}list0{number}.txt"]), set()
        for path, *label in rows:
            name, _, file = path.partition("/")
            if not labels or name not in labels or name_in(file) is None:
                return None
            if [number_in(text) - 1 for text in label] != [labels[name]] * (side == "train"):
                return None
            keys.add(f"{name}/{file.partition('.')[0]}.avi")
        sides.append(frozenset(keys))
        if not rows or len(keys) < len(rows):
            return None
    return None if sides[0] & sides[1] else Split(number, *sides)


def classes_in(files: Mapping[str, bytes]) -> dict[str, str] | None:
    splits = [split_in(files, number) for number in (1, 2)]
    keys = {key for split in splits if split for key in split.train | split.test}
    classes = {key.split("/")[1]: key.split("/")[0] for key in keys}
    return None if None in splits or len(classes) < len(keys) else classes


def write_lists(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        write(folder / name, content)
    return folder


def damaged(name: str) -> st.SearchStrategy[tuple[str, bytes]]:
    return st.tuples(st.just(name), edited(VALID[name]) | st.binary() | st.text().map(str.encode))


def rearranged(name: str) -> st.SearchStrategy[tuple[str, bytes]]:
    """Lines of the lists of this kind, and in test lists also videos of the train lists, with one line changed."""
    rows = [row for other, content in VALID.items() for row in rows_in(content) if other[:5] == name[:5]]
    if name.startswith("test"):
        rows += [row[:1] for other in ("trainlist01.txt", "trainlist02.txt") for row in rows_in(VALID[other])]
    lines = st.lists(st.sampled_from([" ".join(row) for row in rows]), min_size=1, max_size=4)
    ends = st.sampled_from(["\n", "\n\n", "\r", "\v", "\x85", "\u2028"])
    pairs = st.tuples(lines, st.sampled_from(CHANGES))
    changed = pairs.map(lambda pair: [pair[0][0].replace(*pair[1], 1), *pair[0][1:]])
    return st.tuples(st.just(name), st.builds(str.join, ends, changed).map(str.encode))


@settings(fuzz, max_examples=500)
@given(st.one_of(map(rearranged, VALID)) | st.one_of(map(damaged, VALID)))
@example(("testlist02.txt", b"A-b/v_A_g08_c01.avi"))
@example(("testlist01.txt", b"A/v_A_g01_c01.avi\n" + b"?" * 2000))
@example(("classInd.txt", b"1" * 2000 + b" A\n"))
@example(("classInd.txt", b"1" * 5000 + b" A\n"))
@example(("trainlist01.txt", b"A/v_A_g08_c01.avi " + b"1" * 5000))
def test_lists_are_read_as_meant_or_refused(folder: Path, change: tuple[str, bytes]) -> None:
    files = VALID | dict([change])
    lists = write_lists(folder / "damaged", files)
    assert result_or_none(f"{lists}", 1000, read_labels, lists) == labels_in(files)
    assert result_or_none(f"{lists}", 1000, classes_of, lists) == classes_in(files)
    for number in (1, 2):
        assert result_or_none(f"{lists}", 1000, read_split, lists, number) == split_in(files, number)


@st.composite
def written(draw: st.DrawFn, rows: Sequence[Sequence[str]]) -> bytes:
    """The rows as a file, in any order and with all that editors and systems add."""
    blanks, ends = st.sampled_from(["", " ", "\t ", "\n", "\r\n \r\n"]), st.sampled_from(["\n", "\r\n"])
    text = draw(st.sampled_from(["", "\ufeff"])) + draw(blanks)
    for row in draw(st.permutations(rows)):
        text += draw(st.sampled_from([" ", "  ", "\t"])).join(row) + draw(blanks) + draw(ends)
    return (text.rstrip() if draw(st.booleans()) else text).encode()


@fuzz
@given(st.data())
def test_lists_are_read_back_however_they_are_written(folder: Path, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.text(ALNUM + "_-", min_size=1, max_size=12), min_size=1, max_size=4, unique=True))
    video = st.tuples(st.sampled_from(names), words, two_digits, two_digits)
    videos = data.draw(st.lists(video, min_size=2, max_size=8, unique_by=lambda video: video[1:]))
    train = data.draw(st.integers(1, len(videos) - 1))
    suffix = data.draw(words)
    stems = [f"{name}/v_{action}_g{group:02}_c{clip:02}" for name, action, group, clip in videos]
    labels = {name: label for label, name in enumerate(names)}
    rows = {
        "classInd.txt": [(str(label + 1), name) for name, label in labels.items()],
        "trainlist03.txt": [(f"{stem}.{suffix}", str(labels[stem.split("/")[0]] + 1)) for stem in stems[:train]],
        "testlist03.txt": [(f"{stem}.{suffix}",) for stem in stems[train:]],
    }
    lists = write_lists(folder / "written", {file: data.draw(written(lines)) for file, lines in rows.items()})
    keys = [f"{stem}.avi" for stem in stems]
    assert list(read_labels(lists).items()) == list(labels.items())
    assert read_split(lists, 3) == Split(3, frozenset(keys[:train]), frozenset(keys[train:]))
    assert classes_of(lists) == {key.split("/")[1]: key.split("/")[0] for key in keys}


# tables

TABLE = b"path,action,split,group,video\nv,A,train,1,a\nw.avi,B b,test,1,\nx y.avi,A,validation,x,c\n"


@fuzz
@given(edited(TABLE) | st.binary() | st.text().map(str.encode))
@example(TABLE)
def test_a_table_of_any_bytes_is_read_or_refused(folder: Path, content: bytes) -> None:
    file = folder / "table.csv"
    file.write_bytes(content)
    (folder / "v").touch()
    config = own_table.TableConfig(str(file), None)
    table = result_or_none(f"{file}", 10_000, own_table.make_table, config)
    if table is not None:
        assert set(table["split"]) <= {"train", "validation", "test"}
        assert not set("".join(table["video"])) - set(ALNUM + "_-")
        assert table["video"].is_unique
        assert sorted(set(table["label"])) == list(range(table["action"].nunique()))
    assert table is not None or content != TABLE


# shards


def described(jpegs: Sequence[bytes]) -> dict[str, object]:
    return FACTS | {"frames": len(jpegs), "offsets": [0, *accumulate(map(len, jpegs))]}


def tar_of(members: Sequence[tuple[str, bytes, bytes]]) -> bytes:
    """A tar of (name, content, type)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content, kind in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, "v0.json", len(content) * (kind == tarfile.REGTYPE)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def shard_of(*texts_and_frames: tuple[bytes, bytes]) -> bytes:
    members = []
    for clip, (text, frames) in enumerate(texts_and_frames):
        members += [(f"v{clip}.json", text, tarfile.REGTYPE), (f"v{clip}.mjpeg", frames, tarfile.REGTYPE)]
    return tar_of(members)


def video_of(jpegs: Sequence[bytes], **changes: object) -> tuple[bytes, bytes]:
    return json.dumps(described(jpegs) | changes).encode(), b"".join(jpegs)


def keys_in(folder: Path, shard: bytes) -> list[str] | None:
    """The keys of the shard's videos, None if it is refused."""
    path = folder / "train-00000.tar"
    path.write_bytes(shard)
    videos = result_or_none(f"{path} is not a whole shard (", 1000 + len(shard), open_videos, folder, "train")
    return None if videos is None else [video.key for video in videos]


JPEGS = [b"a" * 700, b"b" * 30, b"c" * 512]
TEXT, FRAMES = video_of(JPEGS)
SHARD = shard_of((TEXT, FRAMES), video_of([b"d"]), video_of([b"e" * 99, b"f" * 2000]))
KEYS = ["v0", "v1", "v2"]


@fuzz
@given(st.lists(st.lists(st.binary(min_size=1, max_size=600), min_size=1, max_size=4), min_size=1, max_size=4))
def test_a_whole_shard_gives_its_videos_in_order(folder: Path, videos: list[list[bytes]]) -> None:
    assert keys_in(folder, shard_of(*map(video_of, videos))) == [f"v{clip}" for clip in range(len(videos))]


@fuzz
@given(st.binary(max_size=2000) | edited(SHARD))
def test_any_bytes_are_a_shard_or_refused(folder: Path, content: bytes) -> None:
    assert set(keys_in(folder, content) or []) <= set(KEYS)


@fuzz
@given(st.sampled_from(range(0, len(SHARD.rstrip(b"\0")) - 512, 512)), st.just(0) | st.integers(0, 511))
def test_a_truncated_shard_is_refused(folder: Path, block: int, more: int) -> None:
    assert keys_in(folder, SHARD[: block + more]) is None


@fuzz
@given(st.sampled_from(range(0, len(SHARD), 512)), st.integers(0, 511), st.integers(1, 255))
def test_one_wrong_byte_loses_no_video_silently(folder: Path, block: int, more: int, flip: int) -> None:
    at = block + more
    assert keys_in(folder, SHARD[:at] + bytes([SHARD[at] ^ flip]) + SHARD[at + 1 :]) in (None, KEYS)


def is_sound(text: bytes) -> bool | None:
    """Whether the JSON describes FRAMES; None if it does, but with other values or types than the project writes."""
    try:
        info = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if not isinstance(info, dict) or not described(JPEGS).keys() <= info.keys():
        return False
    offsets, frames = info["offsets"], info["frames"]
    if not isinstance(offsets, list) or not offsets or not all(isinstance(offset, int | float) for offset in offsets):
        return False
    rises = all(before < after for before, after in pairwise(offsets))
    if not rises or (offsets[0], offsets[-1], frames) != (0, len(FRAMES), len(offsets) - 1):
        return False
    as_written = described(JPEGS) | {"offsets": [int(offset) for offset in offsets], "frames": len(offsets) - 1}
    return True if json.dumps(info, sort_keys=True) == json.dumps(as_written, sort_keys=True) else None


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner), max_leaves=5)
SIZE = len(FRAMES)
near = [-1, 0, 1, 699, 700, 701, 730, SIZE - 1, SIZE, SIZE + 1, 2**64, 10**40, 700.0, float("nan"), True, None, "700"]


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """A JSON member: the right one with some of its values replaced, and perhaps one missing or one too many."""
    inner = draw(st.lists(st.integers(0, SIZE), max_size=4).map(sorted))
    ends = st.tuples(st.sampled_from([0, 0, 0, 1, -1]), st.sampled_from([SIZE, SIZE, SIZE, SIZE - 1, SIZE + 1]))
    offsets = ends.map(lambda ends: [ends[0], *inner, ends[1]]) | st.lists(st.sampled_from(near), max_size=5) | values
    fields = {"offsets": offsets, "frames": st.integers(-1, 5) | values, "label": values, "other": values}
    info = described(JPEGS) | draw(st.fixed_dictionaries({}, optional=fields))
    if isinstance(info["offsets"], list) and draw(st.booleans()):
        info["frames"] = len(info["offsets"]) - 1
    for key in draw(st.sampled_from([[]] * 9 + [[key] for key in info])):
        del info[key]
    return json.dumps(info).encode()


@settings(fuzz, max_examples=500)
@given(texts() | edited(TEXT) | st.binary() | values.map(lambda value: json.dumps(value).encode()))
@example(video_of(JPEGS, offsets=[1, 700, 730, SIZE])[0])
@example(video_of(JPEGS, offsets=[0, 700, 730, SIZE - 1])[0])
@example(video_of(JPEGS, offsets=[0, 700, 700, SIZE])[0])
@example(video_of(JPEGS, offsets=[0, 700, 2**64, SIZE])[0])
@example(video_of(JPEGS, offsets=[], frames=-1)[0])
@example(b"[" * 100_000)
@example(b"1" * 5000)
@example(b"{" + b'"frames": 9, ' + TEXT[1:])
def test_only_offsets_that_fit_the_frames_are_accepted(folder: Path, text: bytes) -> None:
    allowed = {True: [["v0"]], False: [None], None: [["v0"], None]}
    assert keys_in(folder, shard_of((text, FRAMES))) in allowed[is_sound(text)]


kinds = st.sampled_from([tarfile.REGTYPE] * 3 + [None] * 2 + [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])


@fuzz
@given(st.lists(st.tuples(st.sampled_from(KEYS), kinds, kinds), max_size=4))
@example([("v0", tarfile.SYMTYPE, tarfile.REGTYPE)])
@example([("v0", tarfile.REGTYPE, None), ("v1", None, tarfile.REGTYPE)])
def test_a_video_without_its_frames_is_refused(folder: Path, samples: list[tuple[str, bytes, bytes]]) -> None:
    members = []
    for key, *both in samples:
        members += [(f"{key}.json", TEXT, both[0]), (f"{key}.mjpeg", FRAMES, both[1])]
    found = keys_in(folder, tar_of([member for member in members if member[2]]))
    whole = {name for name, _, kind in members if kind == tarfile.REGTYPE}
    lacking = [key for key in KEYS if f"{key}.json" in whole and f"{key}.mjpeg" not in whole]
    assert found is None if lacking else set(found or []) <= {key for key, *_ in samples}
