"""The archives: downloads, against a server on 127.0.0.1, and what is extracted from them."""

import contextlib
import hashlib
import os
import threading
import tracemalloc
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import pipeline.datasets.download as download_module
from pipeline.datasets import ucf101
from pipeline.datasets.download import Archive
from pipeline.datasets.lists import classes_of, read_labels
from tests.support.videos import ARCHERY, HANDSTAND, files, write

# download

BODY = bytes(range(256)) * 4096  # 1 MiB
NAME = "clips.zip"


class Server(ThreadingHTTPServer):
    """Serves `body`; `ranges` lists the Range header of each request, `sent` the bytes of each answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = BODY
        self.status = 200
        self.knows_ranges = True
        self.shift = 0  # how far the answer to a Range starts before what was asked
        self.cuts: list[int] = []  # bytes after which the next answers break off
        self.announces_length = True
        self.repeats = 1  # how often the body is sent
        self.ranges: list[str | None] = []
        self.sent: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/files"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers["Range"]
        server.ranges.append(asked)
        if server.status != 200 or self.path != f"/files/{NAME}":
            self.send_error(server.status if server.status != 200 else 404)
            return
        start = 0
        if asked and server.knows_ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-")) - server.shift
            if start >= len(server.body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        else:
            self.send_response(200)
        rest = server.body[start:]
        if server.announces_length:
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if server.cuts:
            rest = rest[: server.cuts.pop(0)]
        server.sent.append(0)
        with contextlib.suppress(ConnectionError):
            for _ in range(server.repeats):
                server.sent[-1] += len(rest)  # first, since the client may finish before write returns
                self.wfile.write(rest)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download_module, "PAUSE_S", 0.01)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * 1024**2


def archive_of(body: bytes = BODY) -> Archive:
    return Archive(NAME, len(body), hashlib.sha256(body).hexdigest())


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_download_arrives_whole_under_its_name(server: Server, tmp_path: Path, slash: str) -> None:
    file = download_module.download(archive_of(), server.url + slash, tmp_path / "new/folder")
    assert file == tmp_path / "new/folder" / NAME
    assert file.read_bytes() == BODY
    assert os.listdir(file.parent) == [NAME]
    assert server.ranges == [None]


def test_a_cut_is_resumed_and_only_the_rest_is_asked_for(server: Server, tmp_path: Path) -> None:
    server.cuts = [600_000, 300_000]
    file = download_module.download(archive_of(), server.url, tmp_path)
    assert file.read_bytes() == BODY
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in server.ranges[1:]]
    block = download_module.BLOCK_BYTES
    assert 600_000 - block <= starts[0] <= 600_000
    assert starts[0] + 300_000 - block <= starts[1] <= starts[0] + 300_000
    assert server.sent == [600_000, 300_000, len(BODY) - starts[1]]


def test_the_part_of_an_earlier_call_is_resumed(server: Server, tmp_path: Path) -> None:
    write(tmp_path / f"{NAME}.part", BODY[:700_000])
    assert download_module.download(archive_of(), server.url, tmp_path).read_bytes() == BODY
    assert server.ranges == ["bytes=700000-"]
    assert server.sent == [len(BODY) - 700_000]


def test_a_complete_part_needs_no_network(tmp_path: Path) -> None:
    write(tmp_path / f"{NAME}.part", BODY)
    assert download_module.download(archive_of(), "http://127.0.0.1:1/", tmp_path).read_bytes() == BODY


@pytest.mark.parametrize(
    ("part", "setting", "ranges"),
    [
        (BODY[:700_000], {"knows_ranges": False}, ["bytes=700000-"]),
        (BODY[:700_000], {"shift": 9}, ["bytes=700000-", None]),
        (BODY + b"too long", {}, [None]),
    ],
    ids=["server ignores Range", "server answers another range", "part too long"],
)
def test_a_part_that_cannot_be_resumed_is_started_again(
    server: Server, tmp_path: Path, part: bytes, setting: dict[str, object], ranges: list[str | None]
) -> None:
    write(tmp_path / f"{NAME}.part", part)
    vars(server).update(setting)
    assert download_module.download(archive_of(), server.url, tmp_path).read_bytes() == BODY
    assert server.ranges == ranges


def test_after_416_the_download_starts_again(server: Server, tmp_path: Path) -> None:
    # The server has a shorter file than is expected, so the rest of it does not exist.
    server.body = BODY[:500_000]
    write(tmp_path / f"{NAME}.part", BODY[:700_000])
    with pytest.raises(ValueError, match="has 500000 bytes"):
        download_module.download(archive_of(), server.url, tmp_path)
    assert server.ranges == ["bytes=700000-", None]


def test_a_pause_of_the_network_is_waited_out(server: Server, tmp_path: Path) -> None:
    server.cuts = [600_000, 0, 0, 300_000, 0]
    assert download_module.download(archive_of(), server.url, tmp_path).read_bytes() == BODY
    assert len(server.ranges) == 6


def test_a_server_that_sends_nothing_at_all_is_asked_once(server: Server, tmp_path: Path) -> None:
    server.cuts = [0] * 100
    with pytest.raises(ConnectionError, match=NAME):
        download_module.download(archive_of(), server.url, tmp_path)
    assert server.ranges == [None]


def test_cuts_without_ranges_end_in_an_error_that_keeps_the_part(server: Server, tmp_path: Path) -> None:
    server.knows_ranges = False
    server.cuts = [500_000] * 100
    with pytest.raises(ConnectionError, match=f"{server.url}/{NAME}.*by hand and put it at .*{NAME}"):
        download_module.download(archive_of(), server.url, tmp_path)
    # the first attempt brought something, the next RETRIES nothing new, and one more gave up
    assert len(server.ranges) == 1 + download_module.RETRIES + 1
    assert os.listdir(tmp_path) == [f"{NAME}.part"]


@pytest.mark.parametrize(
    "body",
    [BODY[:-1] + b"?", BODY[:-1], BODY + b"?", BODY * 3, b"<html>not here</html>"],
    ids=["one byte differs", "one byte short", "one byte long", "three times as long", "a web page"],
)
@pytest.mark.parametrize("announces_length", [True, False])
def test_wrong_content_is_not_kept(server: Server, tmp_path: Path, body: bytes, announces_length: bool) -> None:
    server.body, server.announces_length = body, announces_length
    with pytest.raises(ValueError, match=r"has \d+ bytes, sha256") as caught:
        download_module.download(archive_of(), server.url, tmp_path)
    message = str(caught.value)
    for part in (f"{server.url}/{NAME}", f"expected {len(BODY)} bytes", archive_of().sha256, "put it at"):
        assert part in message
    if len(body) <= len(BODY):
        assert f"has {len(body)} bytes, sha256 {hashlib.sha256(body).hexdigest()}" in message
    assert os.listdir(tmp_path) == []


def test_a_stream_without_an_end_is_left(server: Server, tmp_path: Path) -> None:
    server.announces_length, server.repeats = False, 200
    with pytest.raises(ValueError, match=f"expected {len(BODY)} bytes"):
        download_module.download(archive_of(), server.url, tmp_path)
    # what the sockets' buffers take is sent, and no more
    assert server.sent[0] < 100 * len(BODY)


@pytest.mark.parametrize("status", [403, 404, 416, 500, 503])
def test_an_http_error_says_what_to_do(server: Server, tmp_path: Path, status: int) -> None:
    server.status = status
    with pytest.raises(ConnectionError, match=f"{status}.*{server.url}/{NAME}.*put it at {tmp_path / NAME}"):
        download_module.download(archive_of(), server.url, tmp_path)
    assert server.ranges == [None]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/files", "no-scheme/files"])
@pytest.mark.usefixtures("server")
def test_no_server_says_what_to_do(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConnectionError, match=f"{url}/{NAME}.*by hand and put it at {tmp_path / NAME}"):
        download_module.download(archive_of(), url, tmp_path)


def test_a_complete_file_is_used_offline(server: Server, tmp_path: Path) -> None:
    write(tmp_path / NAME, BODY)
    assert download_module.download(archive_of(), server.url, tmp_path) == tmp_path / NAME
    assert server.ranges == []


@pytest.mark.parametrize("content", [BODY[:-1], BODY[:-1] + b"?"], ids=["size", "digest"])
def test_a_wrong_file_is_refused_and_left_alone(server: Server, tmp_path: Path, content: bytes) -> None:
    write(tmp_path / NAME, content)
    with pytest.raises(ValueError, match=rf"{NAME}: has {len(content)} bytes.*move or delete it"):
        download_module.download(archive_of(), server.url, tmp_path)
    assert (tmp_path / NAME).read_bytes() == content
    assert server.ranges == []


def test_memory_stays_flat(server: Server, tmp_path: Path) -> None:
    server.body = bytes(32 * 1024**2)
    archive = archive_of(server.body)
    with little_memory():  # asked for the whole, the server copies none of its body
        download_module.download(archive, server.url, tmp_path)


def test_the_pinned_archives_are_the_published_ones() -> None:
    assert (ucf101.VIDEOS_ARCHIVE.bytes, ucf101.LISTS_ARCHIVE.bytes) == (6_960_400_115, 113_943)
    assert ucf101.VIDEOS_ARCHIVE.sha256 == "dabf56f573cd19c79e096563529fec8126a2a34e18e10c72eb621dd687532b0d"
    assert ucf101.LISTS_ARCHIVE.sha256 == "5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27"


# extraction


def zip_of(file: Path, members: list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members:
            opened.writestr(name, content)
    return file


def test_videos_go_to_the_class_folder_of_the_lists(tmp_path: Path, lists: Path) -> None:
    archive = zip_of(
        tmp_path / "v.zip",
        [
            ("UCF101/", b""),
            ("UCF101/v_HandStandPushups_g01_c04.avi", b"flat"),
            ("UCF-101/Archery/v_Archery_g08_c01.avi", b"nested"),
            ("UCF101/v_YoYo_g01_c01.avi", b"in no list"),
            ("UCF101/v_Polo_g01_c01.avi/", b""),
        ],
    )
    ucf101.extract_videos(archive, tmp_path / "out", classes_of(lists))
    assert files(tmp_path / "out") == {
        f"UCF-101/{HANDSTAND}": b"flat",
        f"UCF-101/{ARCHERY}": b"nested",
        "UCF-101/YoYo/v_YoYo_g01_c01.avi": b"in no list",
    }


def test_lists_are_extracted_and_readable(tmp_path: Path, lists: Path) -> None:
    members = [(f"ucfTrainTestlist/{file.name}", file.read_bytes()) for file in lists.iterdir()]
    archive = zip_of(
        tmp_path / "l.zip", [*members, ("__MACOSX/._classInd.txt", b"x"), ("ucfTrainTestlist/run.sh", b"x")]
    )
    ucf101.extract_lists(archive, tmp_path / "out")
    assert files(tmp_path / "out") == {name: content for name, content in members}
    assert read_labels(tmp_path / "out/ucfTrainTestlist") == {"Archery": 0, "HandstandPushups": 1}


@pytest.mark.parametrize(
    "evil",
    [
        "../../evil.avi",
        "/tmp/evil.avi",
        "..\\..\\v_Evil_g01_c01.avi",
        "C:\\v_Evil_g01_c01.avi",
        "../v_Evil_g01_c01.avi/..",
        "UCF101/v_.._g01_c01.avi",
        "UCF101/evil.sh",
        "__MACOSX/UCF101/._v_Evil_g01_c01.avi",
    ],
)
def test_other_names_are_ignored(tmp_path: Path, evil: str) -> None:
    archive = zip_of(tmp_path / "v.zip", [(evil, b"evil"), ("UCF101/v_Archery_g08_c01.avi", b"good")])
    ucf101.extract_videos(archive, tmp_path / "a/b/out", {})
    assert files(tmp_path / "a") == {f"b/out/UCF-101/{ARCHERY}": b"good"}


@pytest.mark.parametrize("outside", ["../../../", "/", "/tmp/"])
def test_a_members_own_folders_are_not_used(tmp_path: Path, outside: str) -> None:
    archive = zip_of(tmp_path / "v.zip", [(f"{outside}v_Archery_g08_c01.avi", b"in")])
    ucf101.extract_videos(archive, tmp_path / "a/b/out", {})
    assert files(tmp_path) == {"v.zip": archive.read_bytes(), f"a/b/out/UCF-101/{ARCHERY}": b"in"}


def test_a_bomb_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "v.zip", [("UCF101/v_Archery_g08_c01.avi", bytes(64 * 1024**2 + 1))])
    assert archive.stat().st_size < 100_000
    message = r"v\.zip: UCF101/v_Archery_g08_c01\.avi exceeds 67108864 bytes"
    with little_memory(), pytest.raises(ValueError, match=message):
        ucf101.extract_videos(archive, tmp_path / "out", {})
    assert files(tmp_path / "out") == {}


def test_a_list_has_a_smaller_bound(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "l.zip", [("ucfTrainTestlist/classInd.txt", bytes(16 * 1024**2 + 1))])
    with pytest.raises(ValueError, match="exceeds 16777216 bytes"):
        ucf101.extract_lists(archive, tmp_path / "out")


def test_a_video_at_the_bound_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ucf101, "MAX_VIDEO_BYTES", 5)
    archive = zip_of(tmp_path / "v.zip", [("v_Archery_g08_c01.avi", b"12345")])
    ucf101.extract_videos(archive, tmp_path / "out", {})
    assert files(tmp_path / "out") == {f"UCF-101/{ARCHERY}": b"12345"}


def test_a_name_that_appears_twice_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "v.zip", [("a/v_Archery_g08_c01.avi", b"1"), ("b/v_Archery_g08_c01.avi", b"2")])
    with pytest.raises(ValueError, match=r"v\.zip: v_Archery_g08_c01\.avi appears twice"):
        ucf101.extract_videos(archive, tmp_path / "out", {})
    assert not (tmp_path / "out").exists()


def damaged(good: bytes) -> dict[str, bytes]:
    """Ways to break a zip of one stored-size-known member; the local header is 30 bytes and the name."""
    start = 30 + len("v_Archery_g08_c01.avi")
    flag = bytearray(good)
    flag[6] |= 1  # encrypted, in the local header
    flag[good.index(b"PK\x01\x02") + 8] |= 1  # and in the directory
    return {
        "no zip": b"<html>",
        "empty": b"",
        "cut": good[: len(good) // 2],
        "content": good[:start] + bytes(byte ^ 0xFF for byte in good[start : start + 50]) + good[start + 50 :],
        "encrypted": bytes(flag),
    }


@pytest.mark.parametrize("how", ["no zip", "empty", "cut", "content", "encrypted"])
def test_a_bad_zip_is_named_and_leaves_nothing(tmp_path: Path, how: str) -> None:
    good = zip_of(tmp_path / "v.zip", [("v_Archery_g08_c01.avi", os.urandom(5000))]).read_bytes()
    archive = write(tmp_path / "bad.zip", damaged(good)[how])
    with pytest.raises(ValueError, match=r"bad\.zip: cannot be read as a zip .*fetch it again"):
        ucf101.extract_videos(archive, tmp_path / "out", {})
    assert files(tmp_path / "out") == {}


@pytest.mark.parametrize("extract", [ucf101.extract_lists, lambda *args: ucf101.extract_videos(*args, {})])
def test_a_zip_of_something_else_is_refused(tmp_path: Path, extract: object) -> None:
    archive = zip_of(tmp_path / "other.zip", [("holiday/beach.avi", b"x"), ("notes.txt", b"x")])
    with pytest.raises(ValueError, match=r"other\.zip: no file with an expected name"):
        extract(archive, tmp_path / "out")


def test_extraction_replaces_what_an_interrupted_one_left(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "v.zip", [("v_Archery_g08_c01.avi", b"whole")])
    write(tmp_path / "out/UCF-101" / ARCHERY, b"wh")
    write(tmp_path / "out/UCF-101/Archery/.part_v_Archery_g08_c01.avi", b"wh")
    ucf101.extract_videos(archive, tmp_path / "out", {})
    assert files(tmp_path / "out") == {f"UCF-101/{ARCHERY}": b"whole"}
