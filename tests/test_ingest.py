"""All videos: what is planned, made, and accounted for; the same bytes whoever makes them."""

import hashlib
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pandas as pd
import pytest

from pipeline.clips.shards import RATES, open_videos
from pipeline.datasets.folder import SUFFIXES
from pipeline.datasets.table import ABSENT as ABSENT_FACTS
from pipeline.datasets.table import read_table
from pipeline.decode.ingest import ingest
from pipeline.decode.manifest import check_accounts, check_splits, check_verdicts, make_manifest, summarise
from pipeline.decode.plan import ABSENT, BAD, GOOD, Row, plan_rows
from tests.support.decode import decode_config, plan, read_manifest, shard_digests
from tests.support.videos import nearest_by_hand, stored_video, write


def row(name: str, *, action: str = "A", **changes: object) -> Row:
    """A good training video of 50 frames with a content of its own; name: g01_c01."""
    video = f"{action}/v_{action}_{name}.avi"
    group, clip = int(name[1:3]), int(name[5:7])
    numbers = {"frames": 50, "header_frames": 50, "frames_25": 50, "frames_15": 30, "frames_10": 20, "bytes": 9}
    facts = {"verdict": GOOD, "split": "train", "codec": "mpeg4", "rate": "25", "sha256": video, **numbers}
    return Row(**{"video": video, "action": action, "label": 0, "group": group, "clip": clip, **facts, **changes})


# --- the plan --------------------------------------------------------------------------------------------------------


def test_every_file_and_every_listed_video_is_a_row(raw_motions: Path, tmp_path: Path) -> None:
    (tmp_path / "ucfTrainTestlist").symlink_to(raw_motions / "ucfTrainTestlist")
    videos = tmp_path / "UCF-101" / "ZoomIn"
    for name in (*(f"v_ZoomIn_g{group:02}_c01.avi" for group in (1, 8, 10, 22)), "holiday.avi", "notes.txt"):
        write(videos / name)
    write(videos / "v_ZoomIn_g08_c77.avi", b"in no list")
    write(videos / "v_ZoomIn_g09_c01.avi", b"")
    rows, paths, _ = plan(tmp_path)
    assert [row.video for row in rows] == sorted(row.video for row in rows)
    assert Counter(row.verdict for row in rows) == {GOOD: 4, BAD: 4, ABSENT: 8 * 22 - 5}
    assert {row.video for row in rows if row.verdict != ABSENT} == set(paths)
    assert {row.video[7:]: (row.split, row.reason, row.detail) for row in rows if row.verdict == BAD} == {
        "holiday.avi": (
            *("none", "unlisted"),
            "column split1 of videos.csv is empty; its name is not v_<Action>_g<2 digits>_c<2 digits>",
        ),
        "notes.txt": ("none", "not a video", f"its name does not end in {'|'.join(SUFFIXES)}"),
        "v_ZoomIn_g08_c77.avi": ("none", "unlisted", "column split1 of videos.csv is empty"),
        "v_ZoomIn_g09_c01.avi": ("train", "empty", "a file of no bytes"),
    }
    absent = [row for row in rows if row.verdict == ABSENT]
    assert {(row.reason, row.bytes, row.sha256) for row in absent} == {("listed, not found", 0, "")}
    assert {row.split for row in absent} == {"train", "validation", "test"}
    assert {row.shard for row in rows if row.verdict != GOOD} == {""}


def test_shards_are_filled_in_a_fixed_shuffle(raw_motions: Path) -> None:
    rows, _, _ = plan(raw_motions, videos_per_shard=10)
    shuffled = sorted(rows, key=lambda row: hashlib.sha256(row.video.encode()).digest())
    for split, count in {"train": 112, "validation": 8, "test": 56}.items():
        shards = [row.shard for row in shuffled if row.split == split]
        assert shards == [f"{split}-{i // 10:05}.tar" for i in range(count)]
    assert len({row.action for row in rows if row.shard == "train-00000.tar"}) > 3


def test_the_split_is_the_params_or_the_only_one(raw_motions: Path) -> None:
    table, config = read_table(raw_motions), decode_config(split=3, validation_groups=(22, 1))

    def groups(table: pd.DataFrame) -> dict[str, set[int]]:
        found: dict[str, set[int]] = {}
        for row in plan_rows(table, config):
            found.setdefault(row.split, set()).add(row.group)
        return found

    assert groups(table) == {"test": set(range(15, 22)), "validation": {1, 22}, "train": set(range(2, 15))}
    mine = table.drop(columns=["split1", "split2"]).rename(columns={"split3": "split"})
    assert groups(mine) == groups(table)
    mine.loc[mine["group"] == 5, "split"] = "validation"
    assert groups(mine) == {"test": set(range(15, 22)), "validation": {1, 5, 22}, "train": {2, 3, 4, *range(6, 15)}}
    with pytest.raises(ValueError, match=r"decode\.split: 3, but the data set has no split3; it has split1, split2"):
        plan_rows(table.drop(columns="split3"), config)
    absent = table.assign(**ABSENT_FACTS, split3="")  # not of this split: nobody looks for them
    assert plan_rows(absent, config) == []


# --- what is made ----------------------------------------------------------------------------------------------------


def test_shards_hold_what_the_manifest_says(shards: Path, raw_motions: Path) -> None:
    manifest = read_manifest(shards)
    assert len(manifest) == len(list(raw_motions.rglob("*.avi"))) == 8 * 22
    assert (manifest["verdict"] == GOOD).all()
    groups = manifest.groupby("split")["group"].unique().map(set).to_dict()
    assert groups == {"test": set(range(1, 8)), "train": set(range(8, 22)), "validation": {22}}
    for rate in RATES:
        for split in groups:
            rows = manifest[manifest["split"] == split]
            found = {video.key: video for video in open_videos(shards / str(rate), split)}
            assert set(found) == {Path(name).stem for name in rows["video"]}
            for row in rows.itertuples():
                video = found[Path(row.video).stem]
                assert video.shard.name == row.shard
                info = video.info
                assert info.frames == getattr(row, f"frames_{rate}") == len(info.offsets) - 1
                assert (info.action, info.label, info.group, info.clip) == (row.action, row.label, row.group, row.clip)
                assert info.fps == rate
                file = raw_motions / "UCF-101" / row.video
                assert info.source_sha256 == row.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    check_accounts(manifest, read_table(raw_motions), shards)


def test_lower_rates_are_the_same_frames_at_the_same_times(shards: Path) -> None:
    by_rate = {rate: open_videos(shards / str(rate), "test")[0] for rate in RATES}
    jpegs = {rate: list(map(bytes, video.jpegs(0, video.info.frames))) for rate, video in by_rate.items()}
    assert len(jpegs[25]) == 30
    for rate in (15, 10):
        chosen = nearest_by_hand([Fraction(k, 25) for k in range(30)], rate)
        assert jpegs[rate] == [jpegs[25][k] for k in chosen]


def test_the_same_input_gives_the_same_bytes_in_any_order(
    raw_motions: Path, tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shards of all tests were made in the order of their names, on as many cores as there are."""
    rows, paths, config = plan(raw_motions)
    random.Random(0).shuffle(rows)
    workers = 3 if len(os.sched_getaffinity(0)) != 3 else 1
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(workers)))
    stored_video(tmp_path / "again" / "15", 3, label=99)  # of a run with smaller shards
    again = ingest(rows, paths, config, work=tmp_path / "again")
    assert shard_digests(tmp_path / "again") == shard_digests(shards)
    make_manifest(again).to_csv(tmp_path / "manifest.csv", index=False)
    assert (tmp_path / "manifest.csv").read_bytes() == (shards / "manifest.csv").read_bytes()


def test_a_repaired_video_is_tried_again(raw_motions: Path, tmp_path: Path) -> None:
    """The receipt of a shard does not hold a video's passing trouble against it."""
    rows, paths, config = plan(raw_motions)
    chosen = [row for row in rows if row.shard == "test-00000.tar"]
    hurt = tmp_path / "hurt.avi"
    paths = paths | {chosen[0].video: hurt}
    whole = (raw_motions / "UCF-101" / chosen[0].video).read_bytes()
    verdicts = []
    for content in (whole[:-1], whole):
        hurt.write_bytes(content)
        (first, *others) = ingest(chosen, paths, config, work=tmp_path / "work")
        verdicts.append((first.verdict, first.reason))
        assert all(row.verdict == GOOD for row in others)
    assert verdicts == [(BAD, "changed"), (GOOD, "")]


# --- what it adds up to ----------------------------------------------------------------------------------------------


def test_too_many_bad_videos_are_refused_with_a_list() -> None:
    rows = [
        *(row(name) for name in ("g01_c01", "g02_c01", "g03_c01")),
        row("g04_c01", verdict=BAD, reason="empty", detail="a file of no bytes"),
        row("g05_c01", verdict=BAD, reason="changed", detail="why"),
        row("g06_c01", verdict=BAD, reason="unlisted", split="none"),  # this and the next do not count
        row("g07_c01", verdict=ABSENT, reason="listed, not found"),
    ]
    manifest = make_manifest(rows)
    check_verdicts(manifest, decode_config(max_bad_fraction=0.4))
    with pytest.raises(ValueError, match=r"2 of 5 listed videos are bad, over decode.max_bad_fraction = 0.3 ") as error:
        check_verdicts(manifest, decode_config(max_bad_fraction=0.3))
    assert "A/v_A_g04_c01.avi: empty, a file of no bytes" in str(error.value)


def test_splits_without_videos_are_refused(shards: Path) -> None:
    manifest, config = read_manifest(shards), decode_config(max_bad_fraction=1.0)
    check_splits(manifest, config, column="split1")
    held_back = manifest["split"] == "validation"
    without = r"no good video for validation: column split1 of videos\.csv and decode\.valid.* \[22\] leave none"
    for lacking in (manifest[~held_back], manifest.assign(verdict=manifest["verdict"].mask(held_back, BAD))):
        with pytest.raises(ValueError, match=without):
            check_splits(lacking, config, column="split1")
    with pytest.raises(ValueError, match=r"none of the 176 files found is in a split by column split of videos\.csv"):
        check_splits(manifest.assign(verdict=BAD, split="none"), config, column="split")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda manifest, shards: manifest.drop(index=3), "1 files are not one row of the manifest each"),
        (lambda manifest, shards: pd.concat([manifest, manifest[:2]]), "files are not one row of the manifest each"),
        (lambda manifest, shards: manifest.assign(verdict=ABSENT), "176 files are not one row of the manifest each"),
        (lambda manifest, shards: manifest.assign(frames_10=7), "10 and the manifest differ"),
        (lambda manifest, shards: manifest.assign(shard="train-00000.tar"), "25 and the manifest differ"),
        (lambda manifest, shards: (shards / "15/test-00000.tar").unlink(), "15 and the manifest differ"),
        (
            lambda manifest, shards: stored_video(shards / "15", 3, label=99),
            "15 and the manifest differ, first in .*v_A_g",
        ),
    ],
    ids=["row lost", "row twice", "all absent", "other frames", "other shard", "shard lost", "shard too many"],
)
def test_accounts_that_do_not_match_are_refused(
    shards: Path, tmp_path: Path, damage: Callable[[pd.DataFrame, Path], object], message: str
) -> None:
    for rate in RATES:
        shutil.copytree(shards / str(rate), tmp_path / str(rate))
    whole = read_manifest(shards)
    table = whole[["video"]].assign(path="x")
    check_accounts(whole, table, tmp_path)
    changed = damage(whole, tmp_path)
    with pytest.raises(ValueError, match=message):
        check_accounts(changed if isinstance(changed, pd.DataFrame) else whole, table, tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"header_frames": 53}, "missing frames: 3"),
        ({"header_frames": 49}, ""),
        ({"steady": False}, "variable frame rate"),
        ({"header_frames": 52, "steady": False}, "missing frames: 2; variable frame rate"),
        ({"late_frames": 2}, "frames not later than the one before: 2"),
        ({"damaged_frames": 2, "detail": "why"}, "damaged frames: 2"),
        ({"detail": "why"}, "the decoder complains, see detail"),
        ({"tracks": 2}, "one of 2 picture tracks"),
        ({"hdr": "PQ"}, "high dynamic range (PQ), stored without tone mapping"),
        ({"near_duplicates": 25}, ""),
        ({"near_duplicates": 26}, "near-duplicate frames: 26 of 50"),
        ({"frames_15": 6, "frames_10": 5}, "shorter than a clip of 6 frames at 10 fps"),
        (
            {"steady": False, "frames_15": 1, "frames_10": 1},
            "variable frame rate; shorter than a clip of 6 frames at 15 and 10 fps",
        ),
        ({"sha256": "same"}, "same content as A/v_A_g03_c01.avi (train) and 1 more"),
        ({"sha256": "twice"}, "same content as A/v_A_g04_c01.avi (validation)"),
        ({"sha256": "bad"}, ""),
        ({"split": "test"}, "its group is in the training and in the test list"),
    ],
)
def test_good_videos_that_are_worth_a_look_say_why(changes: dict[str, object], reason: str) -> None:
    others = [
        row("g01_c02"),
        row("g01_c02", action="B", split="test"),
        row("g02_c01", action="B"),
        row("g01_c01", action="C", split="test"),
        row("g03_c01", sha256="same"),
        row("g03_c02", sha256="same"),
        row("g04_c01", sha256="twice", split="validation"),
        row("g05_c01", sha256="bad", verdict=BAD, reason="damaged", detail="why"),
    ]
    manifest = make_manifest([*others, row("g01_c01", **changes)]).set_index("video")
    assert manifest.loc["A/v_A_g01_c01.avi", "reason"] == reason
    assert manifest.loc["A/v_A_g05_c01.avi", "reason"] == "damaged"
    assert manifest.loc["B/v_B_g01_c02.avi", "reason"] == ""
    assert manifest.loc["C/v_C_g01_c01.avi", "reason"] == "its class has no training video"


def test_the_summary() -> None:
    rows = [
        row("g01_c01", split="test", sha256="x"),
        row("g01_c02", split="test", steady=False, near_duplicates=7),
        row("g08_c01", sha256="x", frames=60, frames_10=5),
        row("g08_c02", header_frames=52, packed=True, codec="h264", rate="30000/1001"),
        row("g22_c01", split="validation", sha256="y"),
        row("g01_c01", action="B", header_frames=40, sha256="y"),
        row("g09_c01", verdict=BAD, reason="damaged", detail="this", sha256="y"),
        row("g10_c01", verdict=BAD, reason="damaged", detail="that"),
        row("g11_c01", verdict=BAD, reason="unlisted", split="none", sha256="z"),
        row("g11_c02", verdict=BAD, reason="empty", sha256="e", bytes=0),
        row("g11_c03", verdict=BAD, reason="empty", sha256="e", bytes=0),
        row("g12_c01", verdict=ABSENT, sha256="", bytes=0),
        row("g01_c03", verdict=ABSENT, sha256="", bytes=0),
    ]
    one = {"videos": 1, "classes": 1, "smallest_class": 1, "largest_class": 1}
    assert summarise(make_manifest(rows)) == {
        "videos": {"found": 11, "good": 6, "bad": 5, "absent": 2},
        "bad": {"damaged": 2, "unlisted": 1, "empty": 2},
        "splits": {
            "train": {"videos": 3, "classes": 2, "smallest_class": 1, "largest_class": 2},
            "validation": one,
            "test": one | {"videos": 2, "smallest_class": 2, "largest_class": 2},
        },
        "frames": {"source": 310, "near_duplicates": 7, "25": 300, "15": 180, "10": 105},
        "source": {
            "classes": 2,
            "classes_without_training": 0,
            "codecs": {"mpeg4": 5, "h264": 1},
            "rates": {"25": 5, "30000/1001": 1},
            "variable_rate": 1,
            "packed_b_frames": 1,
            "cut_short": 0,
            "damaged": 0,
            "fewer_frames_than_header": 1,
            "more_frames_than_header": 2,
            "seconds": 12.07,
        },
        "short_clips": {"25": 0, "15": 0, "10": 1},
        "duplicates": {"copies": 2, "contents_in_several_splits": 2},
        "leaks": {"test_videos_in_training": 1, "groups_in_both_lists": 0},
    }
    leaky = summarise(make_manifest([*rows, row("g01_c09"), row("g22_c09", split="test")]))
    assert leaky["leaks"]["groups_in_both_lists"] == 2


def test_a_summary_of_bad_videos_alone() -> None:
    summary = summarise(make_manifest([row("g01_c01", verdict=BAD, reason="damaged")]))
    assert summary["videos"] == {"found": 1, "good": 0, "bad": 1, "absent": 0}
    assert summary["splits"]["train"] == {"videos": 0, "classes": 0, "smallest_class": 0, "largest_class": 0}
    assert summary["source"]["seconds"] == 0
