"""Every video of the index -> shards at every rate, and a manifest with a row for each.

The unit of work is a shard: which videos it holds is settled before anything is decoded, so the bytes do not
depend on how many processes work or in which order they finish.
"""

import hashlib
import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from tqdm import tqdm

from pipeline.params import Above, AtLeast, Between, MultipleOf
from pipeline.video.decode import DecodedVideo, VideoError, decode, resample
from pipeline.video.shards import RATES, sample, write_shard
from pipeline.video.ucf101 import Split, parse_name, sha256_of


@dataclass(frozen=True)
class DecodeConfig:
    """Section `decode`."""

    split: Literal[1, 2, 3]  # the official split
    validation_groups: tuple[Annotated[int, AtLeast(1)], ...]  # groups of the training list held back
    height: Annotated[int, MultipleOf(32)]  # the encoder halves five times
    width: Annotated[int, MultipleOf(32)]
    jpeg_qscale: Annotated[int, Between(1, 31)]
    videos_per_shard: Annotated[int, AtLeast(1)]
    max_bad_fraction: Annotated[float, Between(0, 1)]
    timeout_s: Annotated[float, Above(0)]


@dataclass(frozen=True)
class Row:
    """A row of the manifest.

    split: train, validation, test, or none. verdict: good, bad (with the reason), or unlisted (in neither list of
    the split: not stored); a good video may have a reason too, to be looked at. rate: frames per second of the
    source; height, width: of the source, in pixels; frames_25 … frames_10: stored frames at each rate.
    """

    video: str
    action: str
    label: int
    group: int
    clip: int
    split: str
    verdict: str
    reason: str = ""
    codec: str = ""
    packed: bool = False
    rate: str = ""
    height: int = 0
    width: int = 0
    frames: int = 0
    header_frames: int = 0
    frames_25: int = 0
    frames_15: int = 0
    frames_10: int = 0
    bytes: int = 0
    sha256: str = ""
    shard: str = ""


def plan_rows(index: pd.DataFrame, *, labels: Mapping[str, int], split: Split, config: DecodeConfig) -> list[Row]:
    """A row for every video of the index (columns video, bytes, sha256), with its split and its shard.

    Shards are filled in the order of the digest of each video's name: a fixed shuffle, so that a shard mixes the
    classes and a plain sequential reader needs only a small shuffle buffer.
    """
    rows = [_place(item, labels, split, config.validation_groups) for item in index.itertuples()]
    rows.sort(key=lambda row: hashlib.sha256(row.video.encode()).digest())
    counts: dict[str, int] = {}
    placed = []
    for row in rows:
        if row.verdict == "good":
            number = counts.get(row.split, 0)
            counts[row.split] = number + 1
            row = replace(row, shard=f"{row.split}-{number // config.videos_per_shard:05d}.tar")
        placed.append(row)
    return sorted(placed, key=lambda row: row.video)


def _place(item: object, labels: Mapping[str, int], split: Split, validation_groups: tuple[int, ...]) -> Row:
    action, _, file_name = item.video.rpartition("/")
    name = parse_name(file_name)
    where = "none"
    if item.video in split.test:
        where = "test"
    elif item.video in split.train:
        where = "validation" if name is not None and name.group in validation_groups else "train"
    listed = where != "none"  # only official names of known classes are listed
    return Row(
        video=item.video,
        action=action,
        label=labels.get(action, -1),
        group=name.group if name else 0,
        clip=name.clip if name else 0,
        split=where,
        verdict="good" if listed else "unlisted",
        reason="" if listed else f"in neither list of split {split.number}",
        bytes=int(item.bytes),
        sha256=item.sha256,
    )


def ingest(rows: list[Row], paths: Mapping[str, Path], out: Path, config: DecodeConfig) -> pd.DataFrame:
    """Decodes the rows' videos (paths: video -> file) into out/25, out/15, out/10; returns the manifest.

    Uses every core that the process may run on.
    """
    for rate in RATES:
        (out / str(rate)).mkdir(parents=True, exist_ok=True)
    shards: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.video):
        if row.shard:
            shards.setdefault(row.shard, []).append(row)
    done = [row for row in rows if not row.shard]
    workers = len(os.sched_getaffinity(0))
    jobs = [(shard, members, [paths[row.video] for row in members], out, config) for shard, members in shards.items()]
    with (
        ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool,
        tqdm(total=sum(map(len, shards.values())), desc="decode", unit="video") as progress,
    ):
        for finished in pool.map(_write_shards, *zip(*jobs, strict=True)) if jobs else ():
            done.extend(finished)
            progress.update(len(finished))
            progress.set_postfix(bad=sum(row.verdict == "bad" for row in done))
    return as_manifest(done)


def as_manifest(rows: list[Row]) -> pd.DataFrame:
    """The rows as a table, sorted by video."""
    return pd.DataFrame([asdict(row) for row in sorted(rows, key=lambda row: row.video)])


def _write_shards(shard: str, rows: list[Row], paths: list[Path], out: Path, config: DecodeConfig) -> list[Row]:
    """One shard at the three rates; returns its rows with the verdicts."""
    finished = []
    samples: dict[int, list[dict[str, object]]] = {rate: [] for rate in RATES}
    for row, path in zip(rows, paths, strict=True):
        try:
            video = _decode_verified(row, path, config)
        except VideoError as error:
            finished.append(replace(row, verdict="bad", reason=str(error), shard=""))
            continue
        counts = {}
        for rate in RATES:
            chosen = [video.jpegs[i] for i in resample(video.pts, video.tick, rate)]
            counts[f"frames_{rate}"] = len(chosen)
            samples[rate].append(
                sample(
                    Path(row.video).stem,
                    chosen,
                    action=row.action,
                    label=row.label,
                    group=row.group,
                    clip=row.clip,
                    fps=rate,
                    source_sha256=row.sha256,
                )
            )
        missing = video.header_frames - len(video.jpegs)
        finished.append(
            replace(
                row,
                reason=f"frames fewer than its header says: {missing}" if missing > 0 else "",
                codec=video.codec,
                packed=video.packed,
                rate=str(video.fps),
                height=video.height,
                width=video.width,
                frames=len(video.jpegs),
                header_frames=video.header_frames,
                **counts,
            )
        )
    for rate in RATES:
        if samples[rate]:
            write_shard(out / str(rate) / shard, samples[rate])
    return finished


def _decode_verified(row: Row, path: Path, config: DecodeConfig) -> DecodedVideo:
    """Decodes the file that the index lists; another content under its name is refused."""
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise VideoError(error.strerror or str(error)) from error
    if digest != row.sha256:
        raise VideoError("content differs from the index; index it again with: dvc repro -f -s fetch")
    return decode(path, height=config.height, width=config.width, qscale=config.jpeg_qscale, timeout_s=config.timeout_s)


def check(manifest: pd.DataFrame, config: DecodeConfig) -> None:
    """ValueError when more than max_bad_fraction of the listed videos are bad, with the list; and when a split is
    left without a video."""
    listed = manifest[manifest["verdict"] != "unlisted"]
    bad = listed[listed["verdict"] == "bad"]
    if listed.empty:
        raise ValueError(f"none of the {len(manifest)} videos found is in the lists of decode.split {config.split}")
    if len(bad) > config.max_bad_fraction * len(listed):
        table = "\n".join(f"  {row.video}: {row.reason}" for row in bad.itertuples())
        raise ValueError(
            f"{len(bad)} of {len(listed)} listed videos are bad, over decode.max_bad_fraction = "
            f"{config.max_bad_fraction:g} (every file is in data/manifest.csv; repair or remove these and index again "
            f"with: dvc repro -s -f fetch, or raise the fraction):\n{table}"
        )
    filled = set(listed[listed["verdict"] == "good"]["split"])
    if empty := [split for split in ("train", "validation", "test") if split not in filled]:
        raise ValueError(
            f"no good video for {' and '.join(empty)}: the lists of decode.split {config.split} and "
            f"decode.validation_groups {list(config.validation_groups)} leave none"
        )


def summarise(manifest: pd.DataFrame, split: Split) -> dict[str, object]:
    """Counts for metrics/decode.json; `found` is always good + bad + unlisted."""
    good = manifest[manifest["verdict"] == "good"]
    seconds = sum(frames / Fraction(rate) for frames, rate in zip(good["frames"], good["rate"], strict=True))
    return {
        "videos": {
            "found": len(manifest),
            **{verdict: int((manifest["verdict"] == verdict).sum()) for verdict in ("good", "bad", "unlisted")},
            "listed_but_absent": len((split.train | split.test) - set(manifest["video"])),
        },
        "bad": manifest[manifest["verdict"] == "bad"]["reason"].value_counts().to_dict(),
        "splits": {name: int((good["split"] == name).sum()) for name in ("train", "validation", "test")},
        "frames": {"source": int(good["frames"].sum())} | {str(r): int(good[f"frames_{r}"].sum()) for r in RATES},
        "source": {
            "classes": int(good["action"].nunique()),
            "codecs": good["codec"].value_counts().to_dict(),
            "rates": good["rate"].value_counts().to_dict(),
            "packed_b_frames": int(good["packed"].sum()),
            "fewer_frames_than_header": int((good["frames"] < good["header_frames"]).sum()),
            "seconds": round(float(seconds), 2),
        },
    }
