"""The manifest, a row for every file found and every video listed, and what it adds up to."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import pandas as pd

from pipeline.clips.shards import RATES, open_shard
from pipeline.datasets.table import sample_key
from pipeline.decode.plan import ABSENT, BAD, GOOD, DecodeConfig, Row

SPLITS = ("train", "validation", "test")
CLIP = 6  # frames; the report's clip, three in and three predicted
MANY_DUPLICATES = 0.5  # near-duplicates among a video's frames from which they are worth a word


def make_manifest(rows: Sequence[Row]) -> pd.DataFrame:
    """The rows as a table, sorted by video; the reason of a good row says what is worth a look."""
    table = pd.DataFrame([vars(row) for row in sorted(rows, key=lambda row: row.video)])
    good = table[table["verdict"] == GOOD]
    notes: dict[int, list[str]] = {i: [] for i in good.index}
    for row in good.itertuples():
        say = notes[row.Index].append
        if (missing := row.header_frames - row.frames) > 0:
            say(f"missing frames: {missing}")
        if row.missing_bytes:
            say(f"the file is cut short by {row.missing_bytes} bytes")
        if row.damaged_frames:
            say(f"damaged frames: {row.damaged_frames}")
        elif row.detail:
            say("the decoder complains, see detail")
        if not row.steady:
            say("variable frame rate")
        if row.late_frames:
            say(f"frames not later than the one before: {row.late_frames}")
        if row.tracks > 1:
            say(f"one of {row.tracks} picture tracks")
        if row.hdr:
            say(f"high dynamic range ({row.hdr}), stored without tone mapping")
        if row.near_duplicates > MANY_DUPLICATES * row.frames:
            say(f"near-duplicate frames: {row.near_duplicates} of {row.frames}")
        if short := [rate for rate in RATES if getattr(row, f"frames_{rate}") < CLIP]:
            say(f"shorter than a clip of {CLIP} frames at {' and '.join(map(str, short))} fps")
    for _, same in good[good["sha256"].duplicated(keep=False)].groupby("sha256"):
        names = (same["video"] + " (" + same["split"] + ")").tolist()
        more = f" and {len(same) - 2} more" if len(same) > 2 else ""
        for i, name in zip(same.index, names, strict=True):
            notes[i].append(f"same content as {names[1] if name == names[0] else names[0]}{more}")
    for i in good.index[_shares_its_group(good)]:
        notes[i].append("its group is in the training and in the test list")
    for i in good.index[_lacks_training(good)]:
        notes[i].append("its class has no training video")
    table.loc[good.index, "reason"] = ["; ".join(notes[i]) for i in good.index]
    return table


def check_verdicts(manifest: pd.DataFrame, config: DecodeConfig) -> None:
    """ValueError when more than max_bad_fraction of the listed videos found are bad, with the list."""
    listed = _listed(manifest)
    bad = listed[listed["verdict"] == BAD]
    if len(bad) > config.max_bad_fraction * len(listed):
        table = "\n".join(f"  {row.video}: {row.reason}, {row.detail}" for row in bad.itertuples())
        raise ValueError(
            f"{len(bad)} of {len(listed)} listed videos are bad, over decode.max_bad_fraction = "
            f"{config.max_bad_fraction:g} (repair or remove these and index again with: dvc repro -s -f fetch, "
            f"or raise the fraction; the others are decoded and kept):\n{table}"
        )


def check_splits(manifest: pd.DataFrame, config: DecodeConfig, *, column: str) -> None:
    """ValueError when a split is left without a good video. column: of videos.csv, that says which video is where."""
    listed = _listed(manifest)
    if listed.empty:
        found = (manifest["verdict"] != ABSENT).sum()
        raise ValueError(f"none of the {found} files found is in a split by column {column} of videos.csv")
    filled = set(listed[listed["verdict"] == GOOD]["split"])
    if empty := [split for split in SPLITS if split not in filled]:
        raise ValueError(
            f"no good video for {' and '.join(empty)}: column {column} of videos.csv and "
            f"decode.validation_groups {list(config.validation_groups)} leave none"
        )


def _listed(manifest: pd.DataFrame) -> pd.DataFrame:
    return manifest[(manifest["verdict"] != ABSENT) & (manifest["split"] != "none")]


def check_accounts(manifest: pd.DataFrame, table: pd.DataFrame, shards: Path) -> None:
    """ValueError unless every file of the data set's table is one row, good or bad, and the shards hold exactly the
    good ones, each with its frames: what is in the tars is read again."""
    files = table["video"][table["path"] != ""]
    found = manifest[manifest["verdict"].isin([GOOD, BAD])]
    good = found[found["verdict"] == GOOD]
    if lost := set(files) ^ set(found["video"]) | set(found["video"][found["video"].duplicated()]):
        raise ValueError(f"{len(lost)} files are not one row of the manifest each, first {min(lost)}")
    for rate in RATES:
        expected = {(row.shard, sample_key(row.video)): getattr(row, f"frames_{rate}") for row in good.itertuples()}
        stored = {
            (shard.name, video.key): video.info.frames
            for shard in sorted((shards / str(rate)).glob("*.tar"))
            for video in open_shard(shard)
        }
        if wrong := expected.items() ^ stored.items():
            raise ValueError(f"{shards / str(rate)} and the manifest differ, first in {min(map(str, wrong))}")


def summarise(manifest: pd.DataFrame) -> dict[str, object]:
    """Counts for plots/decode.csv; `found` is always good + bad, and the reasons of `bad` add up to it."""
    good, bad = (manifest[manifest["verdict"] == verdict] for verdict in (GOOD, BAD))
    seconds = sum(frames / Fraction(rate) for frames, rate in zip(good["frames"], good["rate"], strict=True))
    in_test = good[good["split"] == "test"]
    return {
        "videos": {
            "found": len(good) + len(bad),
            "good": len(good),
            "bad": len(bad),
            "absent": int((manifest["verdict"] == ABSENT).sum()),
        },
        "bad": bad["reason"].value_counts().to_dict(),
        "splits": {split: _per_class(good[good["split"] == split]) for split in SPLITS},
        "frames": {
            "source": int(good["frames"].sum()),
            "near_duplicates": int(good["near_duplicates"].sum()),
            **{str(rate): int(good[f"frames_{rate}"].sum()) for rate in RATES},
        },
        "source": {
            "classes": int(good["action"].nunique()),
            "classes_without_training": int(good[_lacks_training(good)]["action"].nunique()),
            "codecs": good["codec"].value_counts().to_dict(),
            "rates": good["rate"].value_counts().to_dict(),
            "variable_rate": int((~good["steady"].astype(bool)).sum()),
            "packed_b_frames": int(good["packed"].sum()),
            "cut_short": int((good["missing_bytes"] > 0).sum()),
            "damaged": int((good["damaged_frames"] > 0).sum()),
            "fewer_frames_than_header": int((good["frames"] < good["header_frames"]).sum()),
            "more_frames_than_header": int((good["frames"] > good["header_frames"]).sum()),
            "seconds": round(float(seconds), 2),
        },
        "short_clips": {str(rate): int((good[f"frames_{rate}"] < CLIP).sum()) for rate in RATES},
        "duplicates": {
            "copies": int(good["sha256"].duplicated().sum()),
            "contents_in_several_splits": int((good.groupby("sha256")["split"].nunique() > 1).sum()),
        },
        "leaks": {
            "test_videos_in_training": int(in_test["sha256"].isin(good[good["split"] != "test"]["sha256"]).sum()),
            "groups_in_both_lists": len(good[_shares_its_group(good)].groupby(["action", "group"])),
        },
    }


def _per_class(videos: pd.DataFrame) -> dict[str, int]:
    counts = videos["action"].value_counts()
    smallest, largest = min(counts, default=0), max(counts, default=0)
    return {"videos": len(videos), "classes": len(counts), "smallest_class": smallest, "largest_class": largest}


def _lacks_training(good: pd.DataFrame) -> pd.Series:
    """Whether no video of each video's class is in the training split."""
    return ~good["action"].isin(good[good["split"] == "train"]["action"])


def _shares_its_group(good: pd.DataFrame) -> pd.Series:
    """Whether each video's class and group are in the test split and outside it."""
    tested = good["split"] == "test"
    return tested.groupby([good["action"], good["group"]]).transform("nunique") > 1
