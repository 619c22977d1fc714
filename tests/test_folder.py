"""A folder of the user's in UCF101's layout as a table: names, paths, digests, and what is wrong with what is no
video; the lists' word on each."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from pipeline.datasets.folder import SUFFIXES, table_of
from pipeline.datasets.table import files_of, read_table, write_table
from tests.support.decode import write_lists
from tests.support.videos import ARCHERY, HANDSTAND, write

# published test vectors of sha256, not our own code's
SHA256 = {
    b"hello world": "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9",
    b"abc": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    b"": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
}
NO_SUFFIX = f"its name does not end in {'|'.join(SUFFIXES)}"
UNOFFICIAL = "its name is not v_<Action>_g<2 digits>_c<2 digits>"

Index = Callable[..., pd.DataFrame]


@pytest.fixture
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two videos, outside of the folders of videos."""
    return write_lists(tmp_path_factory.mktemp("of") / "lists", {"train": [ARCHERY], "test": [HANDSTAND]})


@pytest.fixture
def index(lists: Path) -> Index:
    """The rows of the files that are found in a folder."""

    def index(videos: Path, *, relative_to: Path | None = None) -> pd.DataFrame:
        table = table_of(videos, lists, relative_to=relative_to)
        return table[table["path"] != ""].reset_index(drop=True)

    return index


def test_the_index_has_a_row_an_entry_of_a_class_folder(tmp_path: Path, index: Index) -> None:
    videos = tmp_path / "data/UCF-101"
    write(videos / "YoYo/v_YoYo_g01_c01.avi", b"")
    write(videos / "Archery/v_Archery_g02_c01.AVI", b"abc")
    write(videos / "Archery/v_Archery_g01_c01.mp4", b"hello world")
    write(videos / "Archery/deeper/v_Archery_g04_c01.avi")
    write(videos / "Archery/holiday.avi", b"abc")
    write(videos / "Archery/notes.txt", b"abc")
    write(videos / "README", b"")
    write(videos / "v_Archery_g05_c01.avi", b"abc")
    for hidden in ("Archery/._v_Archery_g03_c01.avi", ".cache/x/v_A_g01_c01.avi", ".DS_Store"):
        write(videos / hidden)
    table = index(videos, relative_to=tmp_path)
    expected = [
        ("Archery/deeper", "Archery/deeper", 0, "", "not a video", "a folder"),
        ("Archery/holiday.avi", "Archery/holiday.avi", 3, SHA256[b"abc"], "", UNOFFICIAL),
        ("Archery/notes.txt", "Archery/notes.txt", 3, SHA256[b"abc"], "not a video", NO_SUFFIX),
        ("Archery/v_Archery_g01_c01.avi", "Archery/v_Archery_g01_c01.mp4", 11, SHA256[b"hello world"], "", ""),
        ("Archery/v_Archery_g02_c01.avi", "Archery/v_Archery_g02_c01.AVI", 3, SHA256[b"abc"], "", ""),
        ("README", "README", 0, SHA256[b""], "not a video", NO_SUFFIX),
        ("YoYo/v_YoYo_g01_c01.avi", "YoYo/v_YoYo_g01_c01.avi", 0, SHA256[b""], "empty", "a file of no bytes"),
        (
            *("v_Archery_g05_c01.avi", "v_Archery_g05_c01.avi", 3, SHA256[b"abc"]),
            *("not in a class folder", "expected <Class>/<file>"),
        ),
    ]
    facts = table[["video", "path", "bytes", "sha256", "problem", "detail"]]
    assert list(facts.itertuples(index=False, name=None)) == [
        (video, f"data/UCF-101/{path}", *facts) for video, path, *facts in expected
    ]


def test_the_lists_and_the_names_say_the_rest(tmp_path: Path, lists: Path) -> None:
    for name in (ARCHERY, "Archery/v_Archery_g07_c03.avi", "Polo/v_Polo_g01_c01.avi", "Archery/holiday.avi"):
        write(tmp_path / name)
    (lists / "trainlist03.txt").write_text(f"{HANDSTAND} 2\n")
    (lists / "testlist03.txt").write_text("Archery/v_Archery_g07_c03.avi\n")
    (lists / "trainlist02.txt").unlink()
    table = table_of(tmp_path, lists, relative_to=None).set_index("video")
    columns = ["action", "label", "group", "clip", "split1", "split3", "problem"]
    assert table[columns].T.to_dict("list") == {
        "Archery/holiday.avi": ["Archery", 0, 0, 0, "", "", ""],
        "Archery/v_Archery_g07_c03.avi": ["Archery", 0, 7, 3, "", "test", ""],
        ARCHERY: ["Archery", 0, 8, 1, "train", "", ""],
        HANDSTAND: ["HandstandPushups", 1, 1, 4, "test", "train", "listed, not found"],
        "Polo/v_Polo_g01_c01.avi": ["Polo", -1, 1, 1, "", "", ""],
    }
    assert "split2" not in table
    assert table.loc[HANDSTAND, ["path", "sha256", "bytes", "detail"]].tolist() == ["", "", 0, ""]


def test_the_table_is_read_back_as_it_was_written(tmp_path: Path, lists: Path) -> None:
    """Names that CSV quotes, that look like missing values, and that are no UTF-8 too."""
    names = ("v_A_g01_c01.avi", 'a "b",c.avi', "NA.avi", "é\n.avi", "a\rb.avi", os.fsdecode(b"\xff.avi"), "NA", "7.avi")
    for name in names:
        write(tmp_path / "UCF-101/NA" / name, name.encode(errors="surrogateescape"))
    (tmp_path / "UCF-101/NA/gone.avi").symlink_to("nowhere")
    table = table_of(tmp_path / "UCF-101", lists, relative_to=tmp_path)
    write_table(table, tmp_path)
    again = read_table(tmp_path)
    pd.testing.assert_frame_equal(again[table.columns], table, check_dtype=False)
    paths = files_of(again, tmp_path)
    assert HANDSTAND not in paths
    for row in table[(table["problem"] == "")].itertuples():
        assert paths[row.video].read_bytes() == Path(row.video).name.encode(errors="surrogateescape")


def test_rows_are_sorted_by_posix_path(tmp_path: Path, index: Index) -> None:
    # "-" sorts before "/", so comparing folder by folder would give the other order.
    for folder in ("A", "A-B", "a"):
        write(tmp_path / folder / f"v_{folder[0]}_g01_c01.avi")
    assert [key.split("/")[0] for key in index(tmp_path)["video"]] == ["A-B", "A", "a"]


@pytest.mark.parametrize("suffix", [".avi", ".MP4", ".mkv", ".webm", ".Mov", ".mpg"])
def test_a_converted_video_keeps_the_key_of_the_lists(tmp_path: Path, suffix: str, index: Index) -> None:
    write(tmp_path / f"Archery/v_Archery_g08_c01{suffix}")
    assert index(tmp_path)["video"].tolist() == [ARCHERY]


def test_two_files_for_one_video_are_refused(tmp_path: Path, index: Index) -> None:
    write(tmp_path / "Archery/v_Archery_g08_c01.avi")
    write(tmp_path / "Archery/v_Archery_g08_c01.mp4")
    with pytest.raises(ValueError, match=r"several files for one video.*g08_c01\.avi, .*g08_c01\.mp4"):
        index(tmp_path)


def test_the_absolute_path_resolves_the_root_and_keeps_the_files_own_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: Index
) -> None:
    stored = write(tmp_path / "store/object", b"abc")
    (tmp_path / "real/Archery").mkdir(parents=True)
    (tmp_path / "real/Archery/v_Archery_g08_c01.avi").symlink_to(stored)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    (row,) = index(Path("link")).to_dict("records")
    assert row["path"] == (tmp_path.resolve() / "real/Archery/v_Archery_g08_c01.avi").as_posix()
    assert (row["bytes"], row["sha256"]) == (3, SHA256[b"abc"])


def test_the_relative_path_does_not_name_what_the_root_links_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: Index
) -> None:
    write(tmp_path / "elsewhere/Archery/v_Archery_g08_c01.avi")
    (tmp_path / "project").mkdir()
    (tmp_path / "project/data").symlink_to(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "project")
    paths = index(Path("data"), relative_to=Path("."))["path"]
    assert paths.tolist() == ["data/Archery/v_Archery_g08_c01.avi"]


def test_videos_outside_of_relative_to_are_refused(tmp_path: Path, index: Index) -> None:
    write(tmp_path / "videos/Archery/v_Archery_g08_c01.avi")
    with pytest.raises(ValueError, match=r"is not below relative_to.*pass relative_to=None"):
        index(tmp_path / "videos", relative_to=tmp_path / "project")


@pytest.mark.timeout(20)
def test_links_are_followed_and_loops_end(tmp_path: Path, index: Index) -> None:
    videos = tmp_path / "videos"
    write(videos / "Archery/v_Archery_g08_c01.avi")
    write(tmp_path / "other/v_YoYo_g01_c01.avi")
    (videos / "YoYo").symlink_to(tmp_path / "other")
    (videos / "Up").symlink_to(videos)
    (videos / "Self").symlink_to("Self")
    (videos / "Archery/loop.avi").symlink_to("..")
    (videos / "Archery/again").symlink_to(".")
    table = index(videos).set_index("video")
    assert table.index[table["problem"] == ""].tolist() == [ARCHERY, "YoYo/v_YoYo_g01_c01.avi"]
    assert table["detail"].drop([ARCHERY, "YoYo/v_YoYo_g01_c01.avi"]).to_dict() == {
        "Archery/again": "a folder",
        "Archery/loop.avi": "a folder",
        "Self": "Too many levels of symbolic links",
        **dict.fromkeys(("Up/Archery", "Up/Up", "Up/YoYo"), "a folder"),
        "Up/Self": "Too many levels of symbolic links",
    }


@pytest.mark.timeout(20)
def test_a_pipe_is_not_opened(tmp_path: Path, index: Index) -> None:
    write(tmp_path / "Archery/v_Archery_g01_c01.avi", b"abc")
    pipe = tmp_path / "Archery/v_Archery_g02_c01.avi"
    os.mkfifo(pipe)
    # Whoever opens the pipe to read meets this writer and reads an empty file, instead of hanging the test.
    writer = threading.Thread(target=lambda: pipe.open("wb").close())
    writer.start()
    table = index(tmp_path)
    os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
    writer.join()
    assert table["sha256"].tolist() == [SHA256[b"abc"], ""]
    assert table["detail"].tolist() == ["", "not a regular file"]


@pytest.mark.parametrize(
    ("file", "given", "message"),
    [
        ("root/UCF-101/Archery/v_Archery_g08_c01.avi", "root", r"root/UCF-101 has the class folders: give that one"),
        ("root/Archery/v_Archery_g08_c01.avi", "root/Archery", r"lie directly in it: give the folder above"),
        ("root/Archery/readme.txt", "root", r"root: no video found; expected <Class>/<file>\.avi\|\.mp4"),
        ("root/Archery/v_Archery_g08_c01.avi", "nowhere", r"nowhere: no video found \(no such folder\)"),
    ],
)
def test_no_video_gives_a_hint(tmp_path: Path, file: str, given: str, message: str, index: Index) -> None:
    write(tmp_path / file)
    with pytest.raises(ValueError, match=message):
        index(tmp_path / given)


def test_the_index_does_not_write(tmp_path: Path, index: Index) -> None:
    write(tmp_path / "videos/Archery/v_Archery_g08_c01.avi")
    before = [(path, path.stat().st_mtime_ns) for path in sorted(tmp_path.rglob("*"))]
    index(tmp_path / "videos", relative_to=tmp_path)
    assert [(path, path.stat().st_mtime_ns) for path in sorted(tmp_path.rglob("*"))] == before


def test_the_real_clips_are_in_the_official_lists(real_clips: Path) -> None:
    table = table_of(real_clips / "UCF-101", real_clips / "ucfTrainTestlist", relative_to=real_clips)
    found = table[table["path"] != ""]
    assert len(table) == 13_320
    assert len(found) == found["sha256"].nunique() == 234
    assert (found["problem"] == "").all()
    assert (table[["split1", "split2", "split3"]] != "").all().all()
