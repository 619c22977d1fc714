"""UCF101's names, class list and split lists."""

from pathlib import Path

import pytest

from pipeline.datasets.lists import Split, VideoName, classes_of, parse_name, read_labels, read_split, read_splits
from tests.support.videos import ARCHERY, HANDSTAND, write


@pytest.mark.parametrize(
    ("file_name", "expected"),
    [
        ("v_Archery_g01_c02.avi", VideoName("Archery", 1, 2)),
        ("v_HandStandPushups_g25_c07.MP4", VideoName("HandStandPushups", 25, 7)),
        ("v_Archery_g1_c02.avi", None),
        ("v_Archery_g001_c02.avi", None),
        ("v_Archery_g01_c02", None),
        ("v__g01_c02.avi", None),
        ("V_Archery_g01_c02.avi", None),
        ("v_Archery_g01_c02.avi\n", None),
        ("v_Archery_g٠١_c02.avi", None),
        ("._v_Archery_g01_c02.avi", None),
        ("../v_Archery_g01_c02.avi", None),
        ("v_../x_g01_c02.avi", None),
        ("", None),
    ],
)
def test_only_official_names_are_parsed(file_name: str, expected: VideoName | None) -> None:
    assert parse_name(file_name) == expected


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\r\n \r\n"])
def test_labels_start_at_zero_and_are_sorted(lists: Path, end: str) -> None:
    write(lists / "classInd.txt", "3 Archery" + end + "1 YoYo" + end + "2 Biking")
    assert list(read_labels(lists).items()) == [("YoYo", 0), ("Biking", 1), ("Archery", 2)]


def test_a_byte_order_mark_is_no_part_of_the_first_label(lists: Path) -> None:
    write(lists / "classInd.txt", "\ufeff1 Archery\n")
    assert read_labels(lists) == {"Archery": 0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 Archery\n\nBiking\n", r"classInd\.txt:3: 'Biking' is malformed; expected '<number> <Class>'"),
        ("1 Archery\n2 Two Words\n", r"classInd\.txt:2: '2 Two Words'"),
        ("1 ../../Archery\n", r"classInd\.txt:1: '1 \.\./\.\./Archery'"),
        (b"1 Archery\n2 Bi\xffking\n", r"classInd\.txt:2"),
        ("1 Archery\n3 Biking\n", r"classInd\.txt: number 3 breaks the count; expected 1\.\.2"),
        ("0 Archery\n1 Biking\n", r"number 0 breaks"),
        ("1 Archery\n1 Biking\n", r"number 1 breaks"),
        ("1 Archery\n2 Archery\n", r"classInd\.txt:2: class 'Archery' appears twice"),
        ("\r\n", r"classInd\.txt: is empty"),
    ],
)
def test_wrong_labels_are_refused(lists: Path, content: bytes | str, message: str) -> None:
    write(lists / "classInd.txt", content)
    with pytest.raises(ValueError, match=message):
        read_labels(lists)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\n\r\n"])
def test_a_split_holds_the_keys_of_its_two_lists(lists: Path, end: str) -> None:
    write(lists / "trainlist02.txt", end.join([f"{HANDSTAND} 2", f"{ARCHERY} 1", ""]))
    write(lists / "testlist02.txt", end.join(["Archery/v_Archery_g01_c01.avi", ""]))
    expected = Split(2, frozenset({ARCHERY, HANDSTAND}), frozenset({"Archery/v_Archery_g01_c01.avi"}))
    assert read_split(lists, 2) == expected


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("trainlist01.txt", f"{ARCHERY} 1\n{HANDSTAND}\n", r"trainlist01\.txt:2: .* expected 'Class/file label'"),
        ("trainlist01.txt", f"{ARCHERY} one\n", r"trainlist01\.txt:1"),
        ("trainlist01.txt", "v_Archery_g08_c01.avi 1\n", r"trainlist01\.txt:1"),
        ("trainlist01.txt", "Archery/../v_Archery_g08_c01.avi 1\n", r"trainlist01\.txt:1"),
        ("trainlist01.txt", "Archery/holiday.avi 1\n", r"trainlist01\.txt:1"),
        ("trainlist01.txt", f"{ARCHERY} 2\n", r"trainlist01\.txt:1: label 2 for Archery, but classInd\.txt says 1"),
        ("trainlist01.txt", f"{ARCHERY} 0\n", r"label 0 for Archery"),
        ("trainlist01.txt", f"{ARCHERY} 1\n\n{ARCHERY} 1\n", rf"trainlist01\.txt:3: {ARCHERY} is listed twice"),
        ("trainlist01.txt", "", r"trainlist01\.txt: is empty"),
        ("testlist01.txt", f"{HANDSTAND} 2\n", r"testlist01\.txt:1: .* expected 'Class/file'"),
        ("testlist01.txt", "Polo/v_Polo_g01_c01.avi\n", r"testlist01\.txt:1: class 'Polo' is not in classInd\.txt"),
        (
            "testlist01.txt",
            f"{ARCHERY}\n",
            rf"split 1 has 1 video\(s\) in its train and its test list, first {ARCHERY}",
        ),
    ],
)
def test_wrong_lists_are_refused(lists: Path, file: str, content: str, message: str) -> None:
    write(lists / file, content)
    with pytest.raises(ValueError, match=message):
        read_split(lists, 1)


@pytest.mark.parametrize("file", ["classInd.txt", "trainlist01.txt", "testlist01.txt"])
def test_a_missing_list_is_named_with_its_format(lists: Path, file: str) -> None:
    (lists / file).unlink()
    with pytest.raises(ValueError, match=rf"{file}: cannot be read .*expected a file of lines '.*such as '"):
        read_split(lists, 1)


@pytest.mark.parametrize("number", [0, 4, -1])
def test_there_are_three_splits(lists: Path, number: int) -> None:
    with pytest.raises(ValueError, match=f"number: {number} is not an official split"):
        read_split(lists, number)


def test_the_class_folder_comes_from_the_lists(lists: Path) -> None:
    write(lists / "testlist03.txt", "Archery/v_Archery_g22_c01.avi\r\n")
    assert classes_of(lists) == {
        "v_Archery_g08_c01.avi": "Archery",
        "v_Archery_g22_c01.avi": "Archery",
        "v_HandStandPushups_g01_c04.avi": "HandstandPushups",
    }


def test_a_file_in_two_classes_is_refused(lists: Path) -> None:
    write(lists / "testlist03.txt", "HandstandPushups/v_Archery_g08_c01.avi\r\n")
    for read in (read_splits, classes_of):
        with pytest.raises(ValueError, match=r"v_Archery_g08_c01\.avi is listed in class Archery and in Handstand"):
            read(lists)


def test_one_split_is_enough_and_none_is_not(lists: Path) -> None:
    for number in (1, 3):
        (lists / f"trainlist0{number}.txt").unlink()
    assert read_splits(lists) == {2: Split(2, frozenset({ARCHERY}), frozenset({HANDSTAND}))}
    (lists / "trainlist02.txt").unlink()
    with pytest.raises(ValueError, match=r"ucfTrainTestlist: no trainlist01\.txt, 02 or 03; expected the official"):
        read_splits(lists)


def test_the_official_lists(real_clips: Path) -> None:
    lists = real_clips / "ucfTrainTestlist"
    sizes = {number: (len(split.train), len(split.test)) for number, split in read_splits(lists).items()}
    assert sizes == {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)}
    labels = read_labels(lists)
    assert len(labels) == 101
    assert (labels["ApplyEyeMakeup"], labels["Archery"], labels["YoYo"]) == (0, 2, 100)
    classes = classes_of(lists)
    assert len(classes) == 13_320
    assert classes["v_HandStandPushups_g01_c01.avi"] == "HandstandPushups"
