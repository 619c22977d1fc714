"""The table of a data set: what it must be for all that comes after it."""

from pathlib import Path

import pandas as pd
import pytest

from pipeline.datasets.table import ABSENT, read_table, sample_key, write_table


def table(*changes: dict[str, object], **columns: object) -> pd.DataFrame:
    """Two videos, one of them not there, with changes of each."""
    common = {"action": "A", "label": 0, "group": 1, "clip": 1, "split": "train"}
    facts = {"path": "a.avi", "sha256": "0" * 64, "bytes": 7, "problem": "", "detail": ""}
    rows = [{"video": "A/a.avi", **common, **facts}, {"video": "A/b.avi", **common, **ABSENT}]
    for row, change in zip(rows, changes, strict=False):
        row |= change
    return pd.DataFrame(rows).assign(**columns)


def test_the_file_has_the_documented_columns_and_types(tmp_path: Path) -> None:
    """Whatever words look like numbers."""
    write_table(table({"video": "007", "action": "1e5", "detail": "NA"}), tmp_path)
    lines = (tmp_path / "videos.csv").read_bytes().decode().split("\r\n")
    assert lines[0] == "video,path,action,label,group,clip,split,sha256,bytes,problem,detail"
    assert lines[1] == f"007,a.avi,1e5,0,1,1,train,{'0' * 64},7,,NA"
    found = read_table(tmp_path)
    assert found.loc[0, ["video", "action", "detail", "problem"]].tolist() == ["007", "1e5", "NA", ""]
    assert [type(value) for value in next(found[["label", "bytes"]].itertuples(index=False))] == [int, int]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (table().drop(columns="group"), r"has the columns video, .*; expected video, path, action, label, group"),
        (table().drop(columns="split"), r".*expected .* split or else split1, split2 and split3"),
        (table(split1="train"), r".*expected .* split or else split1"),
        (table(more=1), r"has the columns .*, more; expected"),
        (table({"split": "val"}), r"split: 'val' is not allowed; allowed: train or validation or test or nothing"),
        (
            table().rename(columns={"split": "split2"}).assign(split2="validation"),
            r"split2: 'validation' is not allowed; allowed: train or test or nothing",
        ),
        (table(video="A/a.avi"), r"two videos have the video 'A/a\.avi'; give each its own"),
        (table({"video": "B/b.avi"}), r"two videos have the key 'b'; give each its own"),
        (table({"video": "a.b.avi"}), r"video: 'a\.b\.avi' has two dots; allowed: one, before the suffix"),
    ],
)
def test_what_would_not_do_is_neither_written_nor_read(tmp_path: Path, wrong: pd.DataFrame, message: str) -> None:
    with pytest.raises(ValueError, match=rf"videos\.csv: {message}"):
        write_table(wrong, tmp_path)
    wrong.to_csv(tmp_path / "videos.csv", index=False)
    with pytest.raises(ValueError, match=rf"videos\.csv: {message}"):
        read_table(tmp_path)


def test_unlisted_files_may_have_any_name(tmp_path: Path) -> None:
    write_table(table({"video": "B/b.avi"}, split=["", "train"]), tmp_path)
    write_table(table({"video": "a.b.avi"}, split=["", "train"]), tmp_path)


def test_a_missing_table_is_clear(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"videos\.csv: no such file; make it with: dvc repro fetch"):
        read_table(tmp_path)


@pytest.mark.parametrize(
    ("video", "key"), [("ZoomIn/v_ZoomIn_g01_c01.avi", "v_ZoomIn_g01_c01"), ("a_b-1", "a_b-1"), ("7", "7")]
)
def test_the_key_is_the_name_without_folder_and_suffix(video: str, key: str) -> None:
    assert sample_key(video) == key
