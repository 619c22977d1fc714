"""Where raw videos come from: the folder kind in place, and the archives through a local server."""

import functools
import hashlib
import shutil
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.datasets import archives
from pipeline.datasets.download import Archive
from pipeline.datasets.index import read_index
from pipeline.datasets.source import SourceConfig, fetch
from pipeline.settings import from_dict

KEYS = [f"ZoomIn/v_ZoomIn_g{group}_c01.avi" for group in ("01", "08", "22")]


def config(
    kind: str, *, root: Path | None = None, lists: Path | None = None, mirror: str | None = None
) -> SourceConfig:
    tree = {
        "kind": kind,
        "motions": {"seed": 0, "groups": 22, "clips": 1, "frames": 20},
        "circles": {"seed": 0, "diameter": 60.0, "speed": 4.0, "frames": 20},
        "folder": {"root": root and str(root), "lists": lists and str(lists)},
        "ucf101": {"mirror": mirror},
    }
    return from_dict(tree, SourceConfig, where="source")


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
    settings = config("folder", root=root / "videos", lists=root / "lists")
    Path("runs/fetch").mkdir(parents=True)
    Path("runs/fetch", archives.VIDEOS.name).write_text("fetched by hand, for another day")
    table = fetch(settings, Path("data/raw"), downloads=Path("runs/fetch"))
    assert Path("runs/fetch", archives.VIDEOS.name).exists()
    assert contents(folder) == before  # never written to
    assert not list(Path("data").rglob("*.avi"))  # never copied
    index, paths = read_index(Path("data/raw"))
    assert index["video"].tolist() == table["video"].tolist() == KEYS
    for row in index.itertuples():
        assert hashlib.sha256(paths[row.video].read_bytes()).hexdigest() == row.sha256


def test_one_split_is_enough(folder: Path, tmp_path: Path) -> None:
    for number in (2, 3):
        (folder / f"lists/trainlist0{number}.txt").unlink()
        (folder / f"lists/testlist0{number}.txt").unlink()
    settings = config("folder", root=folder / "videos", lists=folder / "lists")
    assert len(fetch(settings, tmp_path / "raw", downloads=tmp_path)) == 3
    (folder / "lists/trainlist01.txt").unlink()
    with pytest.raises(ValueError, match=r"lists: no trainlist01\.txt, 02 or 03"):
        fetch(settings, tmp_path / "raw", downloads=tmp_path)


def test_bad_lists_are_named_where_the_user_has_them(folder: Path, tmp_path: Path) -> None:
    with (folder / "lists/testlist01.txt").open("a") as stream:
        stream.write("no such line\n")
    settings = config("folder", root=folder / "videos", lists=folder / "lists")
    with pytest.raises(ValueError, match=r"mine/lists/testlist01\.txt:\d+: 'no such line' is malformed"):
        fetch(settings, tmp_path / "raw", downloads=tmp_path)


@pytest.mark.parametrize(("root", "lists"), [(None, Path("b")), (Path("a"), None)])
def test_a_folder_needs_its_paths(root: Path | None, lists: Path | None) -> None:
    with pytest.raises(ValueError, match=r"source: kind is folder: folder\.root and folder\.lists must both be paths"):
        config("folder", root=root, lists=lists)


def test_missing_folders_are_clear(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"source\.folder\.lists: .*nowhere is not a folder"):
        fetch(config("folder", root=folder, lists=folder / "nowhere"), tmp_path / "raw", downloads=tmp_path)
    with pytest.raises(ValueError, match=r"no such folder"):
        fetch(config("folder", root=folder / "gone", lists=folder / "lists"), tmp_path / "raw", downloads=tmp_path)


def test_archives_become_a_folder_and_are_deleted_last(folder: Path, tmp_path: Path, monkeypatch) -> None:
    """Archives of the official shape, served locally; their digests stand in for the pinned ones."""
    web = tmp_path / "web"
    web.mkdir()
    with zipfile.ZipFile(web / "videos.zip", "w") as archive:
        for file in (folder / "videos/ZoomIn").iterdir():
            archive.write(file, f"UCF101/{file.name}")
    with zipfile.ZipFile(web / "splits.zip", "w") as archive:
        for file in (folder / "lists").iterdir():
            archive.write(file, f"ucfTrainTestlist/{file.name}")
    for name, constant in (("videos.zip", "VIDEOS"), ("splits.zip", "SPLITS")):
        data = (web / name).read_bytes()
        monkeypatch.setattr(archives, constant, Archive(name, len(data), hashlib.sha256(data).hexdigest()))
    handler = functools.partial(SimpleHTTPRequestHandler, directory=web)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = config("ucf101", mirror=f"http://127.0.0.1:{server.server_port}")
        table = fetch(settings, tmp_path / "raw", downloads=tmp_path / "downloads")
        server.shutdown()
    assert table["path"].tolist() == [f"UCF-101/{key}" for key in KEYS]
    assert (tmp_path / "raw/ucfTrainTestlist/classInd.txt").is_file()
    assert not list((tmp_path / "downloads").iterdir())
