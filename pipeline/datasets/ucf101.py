"""UCF101 itself: its two archives, and how they become a data set.

Their digests are those that TensorFlow Datasets pins (thumos14_files). The original UCF101.rar is served with a
broken certificate chain and needs unrar; extract it by hand and use the folder.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from pipeline.datasets.download import Archive, download, unpack
from pipeline.datasets.folder import LISTS, VIDEOS, table_in
from pipeline.datasets.lists import classes_of, listed_name, parse_name
from pipeline.settings import section

URL = "https://storage.googleapis.com/thumos14_files"
VIDEOS_ARCHIVE = Archive(
    "UCF101_videos.zip", 6_960_400_115, "dabf56f573cd19c79e096563529fec8126a2a34e18e10c72eb621dd687532b0d"
)
LISTS_ARCHIVE = Archive(
    "UCF101TrainTestSplits-RecognitionTask.zip",
    113_943,
    "5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27",
)

# Far above the official files, far below what fills a disk.
MAX_VIDEO_BYTES = 64 * 1024**2
MAX_LIST_BYTES = 16 * 1024**2

_LIST_NAME = re.compile(r"classInd\.txt|(train|test)list0[123]\.txt")


@section
class Ucf101Config:
    """Section `source.ucf101`. mirror: URL of a folder with the two archives; null for the usual one."""

    mirror: str | None


def make_table(config: Ucf101Config, raw: Path, downloads: Path) -> pd.DataFrame:
    """Downloads the archives to `downloads`, where an interrupted download is carried on, and unpacks them in `raw`."""
    lists, videos = (download(archive, config.mirror or URL, downloads) for archive in (LISTS_ARCHIVE, VIDEOS_ARCHIVE))
    extract_lists(lists, raw)
    extract_videos(videos, raw, classes_of(raw / LISTS))
    return table_in(raw)


def delete_archives(downloads: Path) -> None:
    """For when they are not needed any more: to fetch them again would cost 7 GB."""
    for archive in (VIDEOS_ARCHIVE, LISTS_ARCHIVE):
        (downloads / archive.name).unlink()


def extract_lists(archive: Path, folder: Path) -> None:
    """Writes the lists in `archive` to <folder>/ucfTrainTestlist/; errors as in extract_videos, 16 MiB a list."""
    unpack(archive, lambda name: folder / LISTS / name if _LIST_NAME.fullmatch(name) else None, limit=MAX_LIST_BYTES)


def extract_videos(archive: Path, folder: Path, classes: Mapping[str, str]) -> None:
    """Writes the videos in `archive`, flat or nested, to <folder>/UCF-101/<Class>/<file>.

    classes: the class folder of a file name; a file that it does not know goes by the action in its name.
    Members without an official name are ignored. Raises ValueError for an archive that cannot be read or holds no
    video, a file name that appears twice, and a video of more than 64 MiB; files written until then stay.
    """

    def place(name: str) -> Path | None:
        parsed = parse_name(name)
        return parsed and folder / VIDEOS / classes.get(listed_name(name), parsed.action) / name

    unpack(archive, place, limit=MAX_VIDEO_BYTES)
