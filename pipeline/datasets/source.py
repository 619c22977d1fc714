"""Where the raw videos come from: generated, a folder of the user's, or the UCF101 archives.

Whatever the kind, the result is a folder with the official split lists and videos.csv, a row a video: its name in
the lists, the path of its file, size and digest. A relative path is relative to that folder.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from pipeline.datasets import archives, circles, index, motions, ucf101
from pipeline.datasets.download import download
from pipeline.results import replacing
from pipeline.settings import given_path


@dataclass(frozen=True)
class FolderConfig:
    """Section `source.folder`: a UCF101-shaped folder, read in place. root holds the class folders, lists the
    split lists and classInd.txt; null unless source.kind is folder."""

    root: str | None
    lists: str | None


@dataclass(frozen=True)
class Ucf101Config:
    """Section `source.ucf101`. mirror: URL of a folder with the two archives; null for the usual one."""

    mirror: str | None


@dataclass(frozen=True)
class SourceConfig:
    """Section `source`; only the subsection of its kind is used."""

    kind: Literal["motions", "circles", "folder", "ucf101"]
    motions: motions.MotionsConfig
    circles: circles.CirclesConfig
    folder: FolderConfig
    ucf101: Ucf101Config

    def __post_init__(self) -> None:
        if self.kind == "folder" and (self.folder.root is None or self.folder.lists is None):
            raise ValueError("kind is folder: folder.root and folder.lists must both be paths, not null")


def fetch(config: SourceConfig, raw: Path, *, downloads: Path) -> pd.DataFrame:
    """Fills the folder `raw` and returns the table of videos.csv.

    downloads: where archives are kept until they are unpacked; an interrupted download continues there.
    """
    raw.mkdir(parents=True, exist_ok=True)
    if config.kind == "folder":
        root, lists = given_path(config.folder.root), given_path(config.folder.lists)
        _copy_lists(lists, raw / ucf101.LISTS)
        table = index.index_videos(root, relative_to=None)
    else:
        workers = len(os.sched_getaffinity(0))
        if config.kind == "motions":
            motions.generate(config.motions, raw, workers=workers)
        elif config.kind == "circles":
            circles.generate(config.circles, raw, workers=workers)
        else:
            _unpack_ucf101(config.ucf101.mirror or archives.URL, raw, downloads)
        table = index.index_videos(raw / ucf101.VIDEOS, relative_to=raw)
        ucf101.classes_of(raw / ucf101.LISTS)
    index.write_index(table, raw)
    if config.kind == "ucf101":  # only now: until here a failure would cost 7 GB again
        for archive in (archives.VIDEOS, archives.SPLITS):
            (downloads / archive.name).unlink()
    return table


def _copy_lists(lists: Path, to: Path) -> None:
    if not lists.is_dir():
        raise ValueError(f"source.folder.lists: {lists} is not a folder; it should hold classInd.txt and the lists")
    ucf101.classes_of(lists)  # refuses bad lists now, and by their own names
    for file in sorted(lists.glob("*.txt")):
        with replacing(to / file.name) as unfinished:
            shutil.copyfile(file, unfinished)


def _unpack_ucf101(url: str, raw: Path, downloads: Path) -> None:
    splits = download(archives.SPLITS, url, downloads)
    videos = download(archives.VIDEOS, url, downloads)
    archives.extract_splits(splits, raw)
    archives.extract_videos(videos, raw, ucf101.classes_of(raw / ucf101.LISTS))
