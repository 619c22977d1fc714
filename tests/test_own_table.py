"""A table of the user's own over videos in any folders: what it becomes, and what is said of every bad row."""

import os
import shutil
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from pipeline.clips.shards import open_videos
from pipeline.datasets.source import fetch
from pipeline.datasets.table import files_of, read_table, sample_key
from pipeline.results import sha256_of
from tests.support.decode import make_project, read_manifest, run_stage
from tests.support.project import write_params
from tests.support.sources import TREE, source
from tests.support.videos import write

GOOD = "path,action,split\nb/1.mp4,run,train\na/1.avi,walk,test\na/2.avi,run,validation\n"


def fetched(folder: Path, content: str | bytes, *, root: Path | None = None, make: bool = True) -> pd.DataFrame:
    """What becomes of a table at folder/mine.csv, by name. make: write what the rows of the good table name."""
    for name in ("b/1.mp4", "a/1.avi", "a/2.avi") if make else ():
        write((root or folder) / name, name)
    write(folder / "mine.csv", content)
    fetch(source("table", file=folder / "mine.csv", root=root), folder / "raw", downloads=folder)
    return read_table(folder / "raw").set_index("video")


def problems(folder: Path, content: str | bytes) -> list[str]:
    """What is said of the rows, without the file's name."""
    with pytest.raises(ValueError, match=r"mine\.csv") as error:
        fetched(folder, content)
    first, *lines = str(error.value).split("\n")
    assert first == f"{folder}/mine.csv: {len(lines)} problems:"
    return [line.removeprefix(f"  {folder}/mine.csv:") for line in lines]


# --- good ------------------------------------------------------------------------------------------------------------


def test_every_row_is_a_row(tmp_path: Path) -> None:
    table = fetched(tmp_path, GOOD)
    columns = ["action", "label", "group", "clip", "split", "bytes", "problem", "detail"]
    assert table[columns].T.to_dict("list") == {
        "a_1": ["walk", 1, 2, 1, "test", 7, "", ""],
        "a_2": ["run", 0, 3, 1, "validation", 7, "", ""],
        "b_1": ["run", 0, 1, 1, "train", 7, "", ""],
    }
    assert table.loc["b_1", "path"] == f"{tmp_path.resolve()}/b/1.mp4"
    assert table.loc["b_1", "sha256"] == sha256_of(tmp_path / "b/1.mp4")
    assert [file.name for file in (tmp_path / "raw").iterdir()] == ["videos.csv"]  # all is left in place


@pytest.mark.parametrize("relative", [False, True])
def test_relative_paths_start_in_root(tmp_path: Path, relative: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tables").mkdir()
    table = fetched(tmp_path / "tables", GOOD, root=Path("elsewhere") if relative else tmp_path / "elsewhere")
    assert set(table["path"]) == {
        f"{tmp_path.resolve()}/elsewhere/{name}" for name in ("b/1.mp4", "a/1.avi", "a/2.avi")
    }
    assert (table["problem"] == "").all()


def test_absolute_paths_stay(tmp_path: Path) -> None:
    other = write(tmp_path / "other" / "clip 7.v2.avi")
    table = fetched(tmp_path, f"{GOOD}{other},run,train\n")
    name = f"{tmp_path}_other_clip_7_v2".replace("/", "_")
    assert table.loc[name, "path"] == str(other)
    assert sample_key(name) == name  # no dot is left, at which WebDataset's keys would end


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (["7", "007", "0"], [7, 7, 0]),
        (["7", "x", "10"], [2, 3, 1]),  # not all are integers
        (["Ann", "bob", "Ann"], [1, 2, 1]),
        (["-1", "2", "2"], [1, 2, 2]),
        (["12345678901", "1", "1"], [2, 1, 1]),
    ],
)
def test_groups_are_integers_or_words(tmp_path: Path, words: list[str], numbers: list[int]) -> None:
    rows = zip(GOOD.splitlines(), ["group", *words], strict=True)
    table = fetched(tmp_path, "\n".join(map(",".join, rows)))
    assert table.loc[["b_1", "a_1", "a_2"], "group"].tolist() == numbers


def test_clips_are_counted_within_action_and_group(tmp_path: Path) -> None:
    rows = [
        f"{number}.avi,{action},train,{group}" for number, (action, group) in enumerate(["A1", "B1", "A1", "A2", "B1"])
    ]
    table = fetched(tmp_path, "\n".join(["path,action,split,group", *rows, "a/1.avi,A,test,9"]))
    assert table["clip"].tolist() == [1, 1, 2, 1, 2, 1]


def test_names_may_be_given(tmp_path: Path) -> None:
    named = "video,path,action,split\nfirst,b/1.mp4,run,train\n,a/1.avi,walk,test\n2-b_C,a/2.avi,run,validation\n"
    assert sorted(fetched(tmp_path, named).index) == ["2-b_C", "a_1", "first"]


def test_it_is_read_however_it_is_written(tmp_path: Path) -> None:
    """With a byte order mark, other columns and another order of them, spaces, quotes, blank lines and CRLF."""
    text = (
        "\n split , id,path,action\r\n\r\ntrain,0, b/1.mp4,run\r\n"
        'test, 1, "a/1.avi", "walk"\r\n"validation","2\nlines",a/2.avi, run\r\n'
    )
    other = fetched(tmp_path / "other", b"\xef\xbb\xbf" + text.encode()).drop(columns="path")
    pd.testing.assert_frame_equal(other, fetched(tmp_path / "good", GOOD).drop(columns="path"))


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    file = write(tmp_path / os.fsdecode(b"caf\xe9.avi"))
    table = fetched(tmp_path, GOOD.encode() + b"caf\xe9.avi,caf\xe9,train\n").reset_index()
    assert files_of(table, tmp_path / "raw")["caf_"] == tmp_path.resolve() / file.name
    assert table.loc[table["video"] == "caf_", "action"].item() == os.fsdecode(b"caf\xe9")


def test_what_is_not_there_and_what_is_no_video_are_rows(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.avi").symlink_to("nowhere")
    write(tmp_path / "empty.avi", b"")
    names = ("gone.avi", "a/1.avi/gone.avi", "broken.avi", "folder", "empty.avi")
    table = fetched(tmp_path, GOOD + "".join(f"{name},swim,train\n" for name in names))
    root = tmp_path.resolve()
    assert table.loc[table["problem"] != "", ["path", "problem", "detail"]].T.to_dict("list") == {
        "a_1_avi_gone": ["", "listed, not found", ""],
        "broken": [f"{root}/broken.avi", "unreadable", "No such file or directory"],
        "empty": [f"{root}/empty.avi", "empty", "a file of no bytes"],
        "folder": [f"{root}/folder", "not a video", "a folder"],
        "gone": ["", "listed, not found", ""],
    }
    assert table.loc["gone", ["label", "split", "bytes"]].tolist() == [1, "train", 0]


# --- bad -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (",run,train", "path: '' is not allowed; allowed: the path of a file"),
        ("c\0.avi,run,train", "path: 'c\\x00.avi' is not allowed; allowed: the path of a file"),
        ("a/1.avi,run,train", "path: 'a/1.avi' is not allowed; allowed: each file once; line 3 has it too"),
        ("./a//1.avi,run,train", "path: './a//1.avi' is not allowed; allowed: each file once; line 3 has it too"),
        ("a_1.mkv,run,train", "video: 'a_1' is not allowed; allowed: each name once; it is that of line 3 too"),
        ("c.avi, ,train", "action: '' is not allowed; allowed: the name of a class"),
        ("c.avi,run,", "split: '' is not allowed; allowed: train, validation, test"),
        ("c.avi,run,val", "split: 'val' is not allowed; allowed: train, validation, test"),
        ("c.avi,run,Train", "split: 'Train' is not allowed; allowed: train, validation, test"),
        (f"c.avi,run,{'x' * 999}", f"split: '{'x' * 200}' is not allowed; allowed: train, validation, test"),
        ("c.avi,run", "has 2 cells; allowed: 3, as in the header"),
        ("c.avi,run,fast,train", "has 4 cells; allowed: 3, as in the header"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, rows: str, said: str) -> None:
    assert problems(tmp_path, GOOD + rows) == [f"5: {said}"]


@pytest.mark.parametrize(
    ("column", "cell", "said"),
    [
        ("group", "", "group: '' is not allowed; allowed: an integer or a word"),
        ("video", "a.b", "video: 'a.b' is not allowed; allowed: letters, digits, _ and -"),
        ("video", "../b", "video: '../b' is not allowed; allowed: letters, digits, _ and -"),
        ("video", "b\u00e9", "video: 'b\u00e9' is not allowed; allowed: letters, digits, _ and -"),
        ("video", "a_1", "video: 'a_1' is not allowed; allowed: each name once; it is that of line 3 too"),
    ],
)
def test_a_bad_cell_of_an_optional_column(tmp_path: Path, column: str, cell: str, said: str) -> None:
    rows = zip(GOOD.splitlines(), [column, "b_1", "a_1", cell], strict=True)
    assert problems(tmp_path, "\n".join(map(",".join, rows))) == [f"4: {said}"]


def test_all_bad_rows_are_named_at_once(tmp_path: Path) -> None:
    rows = 'path,action,split\n\n"c\n.avi",,val\nx\nd.avi,run,train\nd.avi,run,test\n,,\n'
    assert [text.split(" is not")[0] for text in problems(tmp_path, rows)] == [
        "3: action: ''",
        "3: split: 'val'",
        "5: has 1 cells; allowed: 3, as in the header",
        "7: path: 'd.avi'",
        "8: path: ''",
        "8: action: ''",
        "8: split: ''",
    ]


def test_very_many_bad_rows_are_counted(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1250 problems") as error:
        fetched(tmp_path, "path,action,split\n" + "".join(f"{k}.avi,run,testing\n" for k in range(1250)))
    lines = str(error.value).split("\n")
    assert lines[100].startswith(f"  {tmp_path}/mine.csv:101: split: 'testing' is not allowed")
    assert lines[101:] == ["  and 1150 more"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "path,label,split\na/1.avi,run,train",
            r":1: no column action in the header 'path,label,split'; needed: path,",
        ),
        ("\n\npath;action;split\na/1.avi;run;train", r":3: no column path, action, split in the header 'path;action"),
        ("a/1.avi,run,train", r":1: no column path, action, split in the header 'a/1\.avi,run,train'; .*optional: gro"),
        ("path,action,split,path\na,run,train,a", r":1: column path more than once in the header; allowed: once"),
        ("", r": no video in it; expected a header with path, action, split, and a row a video"),
        ("path,action,split\n\n", r": no video in it; expected a header"),
        ('path,action,split\n"a/1.avi,run,train\n', r":\d: cannot be read as CSV \(unexpected end of data\)"),
        (
            "path,action,split\nc.avi,run,train\nd.avi,run,test\n",
            r": there is none of its 2 files, the first is .*/c\.a",
        ),
    ],
)
def test_a_table_that_is_none(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"mine\.csv" + message):
        fetched(tmp_path, content)


def test_missing_files_and_folders_are_clear(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(GOOD)
    for settings, message in (
        ({"file": tmp_path / "no.csv"}, r"source\.table\.file: .*no\.csv: cannot be read \(No such file"),
        ({"file": tmp_path}, r"source\.table\.file: .*: cannot be read \(Is a directory\)"),
        ({"file": tmp_path / "mine.csv", "root": tmp_path / "no"}, r"source\.table\.root: .*/no is not a folder; rel"),
    ):
        with pytest.raises(ValueError, match=message):
            fetch(source("table", **settings), tmp_path / "raw", downloads=tmp_path)


# --- to the end ------------------------------------------------------------------------------------------------------


def kinetics(folder: Path, raw: Path, *, validation: bool) -> list[str]:
    """Generated videos as a set of another form has them, deep in folders and under names of all kinds; the rows of a
    table over them. validation: groups 22 are named so, else they are for training."""
    rows = []
    for number, video in enumerate(sorted((raw / "UCF-101").glob("Zoom*/*.avi"))):
        group = int(video.stem[-6:-4])
        split = "test" if group < 8 else "validation" if validation and group == 22 else "train"
        place = Path(split, video.parent.name, f"id {number:03}", f"clip.{number}.of(1).AVI")
        (folder / place).parent.mkdir(parents=True)
        shutil.copy(video, folder / place)
        rows.append(f"{place},{video.parent.name},{split},{group}")
    return rows


@pytest.mark.parametrize("validation", [True, False])
def test_fetch_and_decode(raw_motions: Path, tmp_path: Path, validation: bool) -> None:
    """Through the command line. validation: the table has rows of it; else decode.validation_groups makes them."""
    rows = kinetics(tmp_path / "clips", raw_motions, validation=validation)
    rows += ["gone.avi,Dance,test,3", "notes.txt,Dance,train,9"]
    write(tmp_path / "clips" / "notes.txt", "no video")
    write(tmp_path / "mine.csv", "\n".join(["path,action,split,group", *rows]))
    project = make_project(tmp_path / "project", tmp_path / "raw")
    (tmp_path / "raw").mkdir()
    paths = {"file": str(tmp_path / "mine.csv"), "root": str(tmp_path / "clips")}
    decode = {"split": 3, "validation_groups": [] if validation else [22], "max_bad_fraction": 0.1}
    write_params(project, {"source": TREE | {"kind": "table", "table": paths}, "decode": decode})
    assert f"table: {2 * 22 + 1} videos of 3 classes" in run_stage(project, "fetch").stdout
    run_stage(project, "decode")
    manifest = read_manifest(project / "data")
    assert Counter(manifest["verdict"]) == {"good": 2 * 22, "bad": 1, "absent": 1}
    assert Counter(manifest[manifest["verdict"] == "good"]["split"]) == {"train": 28, "validation": 2, "test": 14}
    (notes,) = manifest[manifest["video"] == "notes"].itertuples()
    assert (notes.verdict, notes.reason, notes.action, notes.label) == ("bad", "not a video", "Dance", 0)
    digests = {sha256_of(file) for file in (tmp_path / "clips").rglob("*.AVI")}
    for split, groups in {"train": range(8, 22), "validation": [22], "test": range(1, 8)}.items():
        videos = open_videos(project / "data/shards/10", split)
        assert sorted((video.info.label, video.info.group) for video in videos) == [
            (label, group) for label in (1, 2) for group in groups
        ]
        assert {video.info.source_sha256 for video in videos} <= digests


@pytest.mark.parametrize(("split", "missing"), [("train", "test"), ("test", "train and validation")])
def test_a_split_without_videos_is_said_before_anything_is_decoded(tmp_path: Path, split: str, missing: str) -> None:
    rows = [f"{k}.avi,run,{split},{k}" for k in (1, 22)]
    for k in (1, 22):
        write(tmp_path / f"{k}.avi")
    fetched(tmp_path, "\n".join(["path,action,split,group", *rows]))
    done = run_stage(make_project(tmp_path / "project", tmp_path / "raw"), "decode", code=1)
    assert (
        f"decode: no good video for {missing}: column split of videos.csv and decode.validation_groups [22] leave none"
        in done.stderr
    )
