"""Where raw videos come from: the folder kind in place, and the archives through a local server."""

import functools
import hashlib
import shutil
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.datasets import ucf101
from pipeline.datasets.download import Archive
from pipeline.datasets.source import fetch
from pipeline.datasets.table import files_of, read_table
from tests.support.sources import source

KEYS = [f"ZoomIn/v_ZoomIn_g{group}_c01.avi" for group in ("01", "08", "22")]


def contents(folder: Path) -> dict[str, tuple[int, str]]:
    return {
        file.relative_to(folder).as_posix(): (file.stat().st_mtime_ns, hashlib.sha256(file.read_bytes()).hexdigest())
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.fixture
def folder(raw_motions: Path, tmp_path: Path) -> Path:
    """A user's folder with three videos and all lists, under names of its own."""
    (tmp_path / "mine/videos/ZoomIn").mkdir(parents=True)
    for key in KEYS:
        shutil.copy(raw_motions / "UCF-101" / key, tmp_path / "mine/videos" / key)
    shutil.copytree(raw_motions / "ucfTrainTestlist", tmp_path / "mine/lists")
    return tmp_path / "mine"


@pytest.mark.parametrize("relative", [False, True])
def test_a_folder_is_read_in_place(folder: Path, tmp_path: Path, relative: bool, monkeypatch) -> None:
    before = contents(folder)
    monkeypatch.chdir(tmp_path)
    root = Path("mine") if relative else folder
    Path("runs/fetch").mkdir(parents=True)
    Path("runs/fetch", ucf101.VIDEOS_ARCHIVE.name).write_text("fetched by hand, for another day")
    settings = source("folder", root=root / "videos", lists=root / "lists")
    made = fetch(settings, Path("data/raw"), downloads=Path("runs/fetch"))
    assert Path("runs/fetch", ucf101.VIDEOS_ARCHIVE.name).exists()
    assert contents(folder) == before  # never written to
    assert [file.name for file in Path("data/raw").iterdir()] == ["videos.csv"]  # nothing is copied
    table = read_table(Path("data/raw"))
    assert table["video"].tolist() == made["video"].tolist()
    assert len(table) == 8 * 22  # all that are listed
    paths = files_of(table, Path("data/raw"))
    assert list(paths) == KEYS
    for row in table[table["path"] != ""].itertuples():
        assert hashlib.sha256(paths[row.video].read_bytes()).hexdigest() == row.sha256


def test_one_split_is_enough(folder: Path, tmp_path: Path) -> None:
    for number in (2, 3):
        (folder / f"lists/trainlist0{number}.txt").unlink()
        (folder / f"lists/testlist0{number}.txt").unlink()
    settings = source("folder", root=folder / "videos", lists=folder / "lists")
    table = fetch(settings, tmp_path / "raw", downloads=tmp_path)
    assert table.loc[table["path"] != "", "split1"].tolist() == ["test", "train", "train"]
    assert "split2" not in read_table(tmp_path / "raw")
    (folder / "lists/trainlist01.txt").unlink()
    with pytest.raises(ValueError, match=r"lists: no trainlist01\.txt, 02 or 03"):
        fetch(settings, tmp_path / "raw", downloads=tmp_path)


def test_bad_lists_are_named_where_the_user_has_them(folder: Path, tmp_path: Path) -> None:
    with (folder / "lists/testlist01.txt").open("a") as stream:
        stream.write("no such line\n")
    settings = source("folder", root=folder / "videos", lists=folder / "lists")
    with pytest.raises(ValueError, match=r"mine/lists/testlist01\.txt:\d+: 'no such line' is malformed"):
        fetch(settings, tmp_path / "raw", downloads=tmp_path)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("folder", {"lists": "b"}, r"folder\.root and folder\.lists must both be paths, not null"),
        ("folder", {"root": "a"}, r"folder\.root and folder\.lists must both be paths, not null"),
        ("table", {"root": "a"}, r"table\.file must be the path of a CSV file, not null"),
    ],
)
def test_what_is_the_users_needs_its_paths(kind: str, settings: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=rf"source: kind is {kind}: {message}"):
        source(kind, **settings)


def test_missing_folders_are_clear(folder: Path, tmp_path: Path) -> None:
    for settings, message in (
        ({"root": folder, "lists": folder / "nowhere"}, r"source\.folder\.lists: .*nowhere is not a folder"),
        ({"root": folder / "gone", "lists": folder / "lists"}, r"no such folder"),
    ):
        with pytest.raises(ValueError, match=message):
            fetch(source("folder", **settings), tmp_path / "raw", downloads=tmp_path)


def test_archives_become_a_folder_and_are_deleted_last(folder: Path, tmp_path: Path, monkeypatch) -> None:
    """Archives of the official shape, served locally; their digests stand in for the pinned ones."""
    web = tmp_path / "web"
    web.mkdir()
    for name, constant, files, inside in (
        ("videos.zip", "VIDEOS_ARCHIVE", folder / "videos/ZoomIn", "UCF101"),
        ("splits.zip", "LISTS_ARCHIVE", folder / "lists", "ucfTrainTestlist"),
    ):
        with zipfile.ZipFile(web / name, "w") as archive:
            for file in files.iterdir():
                archive.write(file, f"{inside}/{file.name}")
        data = (web / name).read_bytes()
        monkeypatch.setattr(ucf101, constant, Archive(name, len(data), hashlib.sha256(data).hexdigest()))
    handler = functools.partial(SimpleHTTPRequestHandler, directory=web)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = source("ucf101", mirror=f"http://127.0.0.1:{server.server_port}")
        fetch(settings, tmp_path / "raw", downloads=tmp_path / "downloads")
        server.shutdown()
    paths = files_of(read_table(tmp_path / "raw"), Path())
    assert {key: path.as_posix() for key, path in paths.items()} == {key: f"UCF-101/{key}" for key in KEYS}
    assert (tmp_path / "raw/ucfTrainTestlist/classInd.txt").is_file()
    assert not list((tmp_path / "downloads").iterdir())
