"""The stage decode, killed at any point, on a full disk and on other machines' workers: it carries on, and its bytes
are those of an undisturbed run. Everything here is real: processes, signals, file systems, sockets.
"""

import json
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from pipeline.clips.shards import RATES, open_shard
from pipeline.datasets.folder import table_in
from pipeline.datasets.table import write_table
from pipeline.decode.ingest import Task, accept_shard, ingest, make_shard, publish, tools_digest
from pipeline.decode.plan import Row
from pipeline.results import sha256_of
from tests.support.decode import (
    STAGE,
    decode_config,
    encode_any,
    make_project,
    make_raw,
    plan,
    run_stage,
    shard_digests,
    stand_in,
)
from tests.support.import_closure import ROOT
from tests.support.project import environment, wait_for, write_params
from tests.support.videos import FFMPEG, encode, moving_texture

VIDEOS, PER_SHARD = 24, 3
GROUPS = {"test": range(1, 4), "validation": range(22, 25), "train": range(25, 43)}
SHARDS = VIDEOS // PER_SHARD
SETTINGS = {"videos_per_shard": PER_SHARD, "validation_groups": tuple(GROUPS["validation"])}


# --- a small project -------------------------------------------------------------------------------------------------


@contextmanager
def started(project: Path, **env: str) -> Iterator[subprocess.Popen[str]]:
    """The stage in a process group of its own, of which nothing is left afterwards."""
    process = subprocess.Popen(
        STAGE,
        cwd=project,
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        kill_group(process)
        process.communicate()


def kill_group(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def results(project: Path) -> dict[str, str]:
    """Digests of all that the stage makes."""
    made = [*(project / "data" / "shards").glob("*/*"), project / "data" / "manifest.csv"]
    made.append(project / "metrics" / "decode.json")
    return {file.relative_to(project).as_posix(): sha256_of(file) for file in made}


def receipts(project: Path) -> list[str]:
    return sorted(file.stem for file in (project / "runs" / "decode").glob("[!.]*.json"))


@dataclass(frozen=True)
class Reference:
    """The videos, and what an undisturbed run makes of them. slow: an ffmpeg that takes a third of a second more."""

    raw: Path
    results: dict[str, str]
    slow: dict[str, str]

    def shard(self, tar: Path) -> str:
        """The digest of the tar of that rate and name."""
        return self.results[f"data/shards/{tar.parent.name}/{tar.name}"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("undisturbed")
    names = {split: [f"A/v_A_g{group:02}_c01.avi" for group in groups] for split, groups in GROUPS.items()}
    videos = {"train": names["validation"] + names["train"], "test": names["test"]}
    raw = make_raw(folder / "raw", videos, lambda path: encode_any(path, frames=40))
    write_table(table_in(raw), raw)
    project = make_project(folder / "project", raw, **SETTINGS)
    done = run_stage(project, "decode")
    assert "carrying on" not in done.stdout
    found = results(project)
    assert len(found) == len(RATES) * SHARDS + 2
    return Reference(raw, found, stand_in(folder / "ffmpeg", "-version) ;; *) sleep 0.3"))


@pytest.fixture
def project(undisturbed: Reference, tmp_path: Path) -> Path:
    return make_project(tmp_path / "project", undisturbed.raw, **SETTINGS)


def check_what_is_there(project: Path, undisturbed: Reference) -> dict[Path, int]:
    """Whatever bears a final name is whole and right; returns the inodes of the tars that have a receipt."""
    for tar in (project / "data" / "shards").glob("*/[!.]*.tar"):  # .part_… is not published yet
        assert open_shard(tar)
        assert sha256_of(tar) == undisturbed.shard(tar), tar
    finished = {}
    for shard in receipts(project):
        rows = json.loads((project / "runs" / "decode" / f"{shard}.json").read_text())["rows"]
        assert [row["verdict"] for row in rows] == ["good"] * PER_SHARD
        tars = [project / "runs" / "decode" / str(rate) / f"{shard}.tar" for rate in RATES]
        if was_ended(project) and not all(tar.exists() for tar in tars):
            continue
        for tar in tars:
            assert len(open_shard(tar)) == PER_SHARD
            assert sha256_of(tar) == undisturbed.shard(tar), tar
            finished[Path(tar.parent.name, tar.name)] = tar.stat().st_ino
    return finished


def was_ended(project: Path) -> bool:
    """Whether a run came as far as to delete the finished shards, which are published by then, file by file."""
    return (project / "metrics" / "decode.json").exists()


def check_finished(project: Path, undisturbed: Reference, finished: Mapping[Path, int] | None = None) -> None:
    """All is as undisturbed, and what was finished before is what was published: it was not made again."""
    assert results(project) == undisturbed.results
    assert not (project / "runs" / "decode").exists()
    for tar, inode in (finished or {}).items():
        assert (project / "data" / "shards" / tar).stat().st_ino == inode, f"{tar} was made again"


def carry_on(project: Path, undisturbed: Reference) -> None:
    """The stage once more, after a run that has finished some shards."""
    finished = check_what_is_there(project, undisturbed)
    assert finished
    done = run_stage(project, "decode")
    assert f"carrying on: {len(finished) // len(RATES)} of {SHARDS} shards" in done.stdout
    check_finished(project, undisturbed, finished)


# --- killed ----------------------------------------------------------------------------------------------------------

# Loaded by every Python process of the stage. Before the file system is changed for the KILL_AT-th time, by whichever
# process, the whole group is killed: no wall-clock time comes as close to each step.
AT_A_STEP = """
import os, signal, sys

steps = os.open(os.environ["STEPS"], os.O_RDWR | os.O_CREAT | os.O_APPEND)
changes = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir"}


def count(event, args):
    if event in changes or event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        os.write(steps, b".")
        if os.fstat(steps).st_size == int(os.environ["KILL_AT"]):
            os.killpg(os.getpgrp(), signal.SIGKILL)


sys.addaudithook(count)
"""


@pytest.fixture(scope="module")
def hook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hook")
    (folder / "sitecustomize.py").write_text(AT_A_STEP)
    return folder


def with_hook(hook: Path, steps: Path, kill_at: int) -> dict[str, str]:
    steps.unlink(missing_ok=True)
    path = os.pathsep.join([str(hook), str(ROOT)])
    return {"PYTHONPATH": path, "STEPS": str(steps), "KILL_AT": str(kill_at)}


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))]


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_again_and_again_before_any_step(
    project: Path, undisturbed: Reference, hook: Path, tmp_path: Path, seed: int
) -> None:
    rng, kills, finished = random.Random(seed), 0, {}
    while True:
        # Later and later, so that it comes to an end; about 300 steps are an undisturbed run.
        kill_at = rng.randrange(1, 60 + 80 * kills)
        with started(project, **with_hook(hook, tmp_path / "steps", kill_at)) as process:
            stdout, stderr = process.communicate(timeout=120)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, stderr
        kills += 1
        finished = check_after_kill(project, undisturbed, finished)
    assert kills >= 3
    assert (f"carrying on: {len(finished) // len(RATES)} of {SHARDS} shards" in stdout) == bool(finished)
    check_finished(project, undisturbed, finished)


def check_after_kill(project: Path, undisturbed: Reference, before: Mapping[Path, int]) -> dict[Path, int]:
    finished = check_what_is_there(project, undisturbed)
    assert was_ended(project) or before.items() <= finished.items(), "a finished shard was made again"
    return finished


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_at_any_time(project: Path, undisturbed: Reference, seed: int) -> None:
    """Within a decoder's work too, which is where the time goes."""
    rng, finished = random.Random(seed), {}
    for _ in range(3):
        enough = min(len(receipts(project)) + rng.randrange(3), SHARDS - 3)
        with started(project, **undisturbed.slow) as process:
            wait_for(lambda: list((project / "runs").glob("decode/making-*")), "the start")
            wait_for(lambda enough=enough: len(receipts(project)) >= enough, f"{enough} shards")
            time.sleep(rng.uniform(0, 0.5))
            kill_group(process)
        finished = check_after_kill(project, undisturbed, finished)
    carry_on(project, undisturbed)


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that have a decoder running."""
    found = []
    for child in family(process):
        with suppress(psutil.Error):  # it ended meanwhile
            if any(argument.startswith("file:") for argument in child.cmdline()):
                found.append(child.parent())
    return found


def running(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Without those that have ended, and that the machine's first process has not yet taken notice of."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.mark.parametrize(
    ("send", "number"),
    [
        pytest.param(os.kill, signal.SIGKILL, id="main killed"),
        pytest.param(os.killpg, signal.SIGINT, id="Ctrl-C"),
        pytest.param(os.kill, signal.SIGINT, id="main interrupted", marks=pytest.mark.slow),
    ],
)
def test_nothing_is_left_running(
    project: Path, undisturbed: Reference, send: Callable[[int, int], None], number: int
) -> None:
    with started(project, **undisturbed.slow) as process:
        wait_for(lambda: receipts(project) and workers_of(process), "the first shard")
        others = family(process)
        assert len(others) >= 3
        send(process.pid, number)
        _, there = psutil.wait_procs(others, timeout=20)
        assert not running(there)
        _, stderr = process.communicate(timeout=20)
        assert process.returncode != 0
        assert len(receipts(project)) < SHARDS, stderr
        if number == signal.SIGINT:
            assert stderr.endswith("\ndecode: interrupted\n")
            assert "leaked" not in stderr
            assert "Traceback" not in stderr
    carry_on(project, undisturbed)


@pytest.mark.parametrize(
    ("victim", "message"),
    [
        pytest.param("worker", r"decode: a decoding process was killed, .* run again to carry on", id="worker"),
        pytest.param(
            "decoder",
            r"decode: ffmpeg was stopped while it decoded .* run again to carry on",
            id="decoder",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_one_process_killed_ends_the_run_with_a_word(
    project: Path, undisturbed: Reference, victim: str, message: str
) -> None:
    with started(project, **undisturbed.slow) as process:
        worker = wait_for(lambda: receipts(project) and workers_of(process), "the first shard")[0]
        killed = worker if victim == "worker" else wait_for(worker.children, "a decoder")[0]
        killed.kill()
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(message, stderr), stderr
    assert "Traceback" not in stderr
    carry_on(project, undisturbed)


# --- a full disk -----------------------------------------------------------------------------------------------------

# Runs in namespaces of its own, so that it may mount. Standard output: the JSON that the tests look at.
ON_A_SMALL_DISK = """
import hashlib, json, os, shutil, subprocess, sys
from pathlib import Path

kilobytes, disk, template, *command = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", disk], check=True)
project = Path(disk, "project")
shutil.copytree(template, project, symlinks=True)


def attempt():
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    files = [file for folder in ("data", "metrics", "runs") for file in sorted(project.glob(f"{folder}/**/*"))]
    files = [file for file in files if file.is_file() and "raw" not in file.relative_to(project).parts]
    digests = {str(f.relative_to(project)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    rows = [row for file in files if file.suffix == ".json" and file.parent.name == "decode" and file.stat().st_size
            for row in json.loads(file.read_bytes())["rows"]]
    return {"code": done.returncode, "out": done.stdout, "err": done.stderr, "files": digests, "rows": rows}


full = attempt()
subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
print(json.dumps([full, attempt()]))
"""


def in_namespaces(*command: str | Path, timeout: float = 120) -> str:
    """Runs it where it may mount; skips the test where that is not permitted."""
    enter = ["unshare", "--user", "--map-root-user", "--mount"]
    probe = subprocess.run([*enter, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"no mount in a user namespace here: {probe.stderr.decode().strip()}")
    done = subprocess.run(
        [*enter, *command], env=environment(), capture_output=True, text=True, check=False, timeout=timeout
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("room", [0.5, *(pytest.param(k / 10, marks=pytest.mark.slow) for k in (0, 2, 9))])
def test_a_full_disk_blames_no_video(project: Path, undisturbed: Reference, tmp_path: Path, room: float) -> None:
    """room: what the disk holds of the shards. In the first run it is too little."""
    needed = sum(file.stat().st_size for file in (undisturbed.raw.parent / "project" / "data" / "shards").glob("*/*"))
    (tmp_path / "disk").mkdir()
    sizes = (str(16 + int(needed * room) // 1024), tmp_path / "disk", project)
    full, after = json.loads(in_namespaces(sys.executable, "-c", ON_A_SMALL_DISK, *sizes, *STAGE))
    assert full["code"] == 1
    assert "No space left on device" in full["err"]
    assert all(row["verdict"] == "good" for row in full["rows"])
    for file, digest in full["files"].items():
        if file.endswith(".tar") and "making-" not in file:
            assert digest == undisturbed.results[file.replace("runs/decode", "data/shards")], file
    assert after["code"] == 0, after["err"]
    finished = len(full["rows"]) // PER_SHARD
    assert (f"carrying on: {finished} of {SHARDS} shards" in after["out"]) == bool(finished)
    assert {file: digest for file, digest in after["files"].items() if "traceback" not in file} == undisturbed.results


# The same for one shard and every size of the disk, page by page.
ON_A_DISK_OF_EVERY_SIZE = """
import errno, json, pickle, shutil, subprocess, sys
from dataclasses import replace
from pathlib import Path

from pipeline.decode.ingest import make_shard

disk, task = Path(sys.argv[1]), pickle.loads(Path(sys.argv[2]).read_bytes())
work = disk / "work"
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], check=True)
ends = []
for kilobytes in range(4, 100_000, 12):
    shutil.rmtree(work, ignore_errors=True)
    for rate in (25, 15, 10):
        (work / str(rate)).mkdir(parents=True)
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", disk], check=True)
    try:
        rows, _ = make_shard(replace(task, work=work))
        ends.append([f"{row.verdict} {row.reason} {row.detail}" for row in rows])
    except OSError as error:
        ends.append(errno.errorcode[error.errno])
        continue
    break
print(json.dumps(ends))
"""


def test_whatever_does_not_fit_it_is_the_disks_fault(undisturbed: Reference, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(undisturbed.raw, raw)
    (raw / "UCF-101" / "A" / "v_A_g25_c01.avi").write_bytes(b"this is no video")
    rows, paths, config = plan(raw, **SETTINGS)
    rows = [row for row in rows if row.group in (25, 26)]
    task = Task("train-00000.tar", rows, [paths[row.video] for row in rows], tmp_path, config, tools_digest())
    (tmp_path / "task").write_bytes(pickle.dumps(task))
    (tmp_path / "disk").mkdir()
    command = (sys.executable, "-c", ON_A_DISK_OF_EVERY_SIZE, tmp_path / "disk", tmp_path / "task")
    *full, whole = json.loads(in_namespaces(*command))
    assert len(full) > 10
    assert full == ["ENOSPC"] * len(full)
    assert [row.split(" ")[0] for row in whole] == ["bad", "good"]


# --- receipts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finished:
    """A folder of shards made in this process, with all their receipts. digests: of what was published of it."""

    raw: Path
    work: Path
    digests: Mapping[str, str]

    @property
    def receipt(self) -> Path:
        return self.work / "train-00001.json"

    @property
    def tar(self) -> Path:
        return self.work / "15" / "train-00001.tar"

    def make(self, out: Path, **changes: object) -> dict[str, str]:
        """Makes all shards that are not there; digests of what is published."""
        rows, paths, config = plan(self.raw, **SETTINGS | changes)
        made = ingest(rows, paths, config, work=self.work)
        publish({row.shard for row in made if row.shard}, self.work, out)
        return shard_digests(out)


@pytest.fixture(scope="module")
def all_made(undisturbed: Reference, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("made")
    made = Finished(undisturbed.raw, folder / "work", {})
    return replace(made, digests=made.make(folder / "out"))


@pytest.fixture
def finished(all_made: Finished, tmp_path: Path) -> Finished:
    shutil.copytree(all_made.work, tmp_path / "work")
    return replace(all_made, work=tmp_path / "work")


def edit_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


UNFIT: dict[str, Callable[[Finished], object]] = {
    "no receipt": lambda made: made.receipt.unlink(),
    "empty": lambda made: made.receipt.write_bytes(b""),
    "cut short": lambda made: os.truncate(made.receipt, made.receipt.stat().st_size // 2),
    "no JSON": lambda made: made.receipt.write_bytes(b"\xff\xfe garbage"),
    "another JSON": lambda made: made.receipt.write_text("[1, 2]"),
    "a deep JSON": lambda made: made.receipt.write_text("[" * 100_000),
    "null": lambda made: made.receipt.write_text("null"),
    "another shard's": lambda made: shutil.copy(made.work / "train-00000.json", made.receipt),
    "of other tools": lambda made: edit_json(made.receipt, key="0" * 64),
    "no sizes": lambda made: edit_json(made.receipt, sizes=None),
    "rows of another version": lambda made: edit_json(made.receipt, rows=[{"video": "A/v_A_g08_c01.avi"}]),
    "tar missing": lambda made: made.tar.unlink(),
    "tar cut short": lambda made: os.truncate(made.tar, made.tar.stat().st_size - 512),
    "tar too long": lambda made: made.tar.open("ab").write(bytes(512)),
}


@pytest.mark.parametrize("damage", UNFIT)
def test_a_receipt_that_does_not_fit_is_made_again(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    UNFIT[damage](finished)
    assert finished.make(tmp_path / "out") == finished.digests
    assert f"carrying on: {SHARDS - 1} of {SHARDS} shards" in capsys.readouterr().out


def test_whole_receipts_are_enough(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.decode.ingest._executor", None)  # no worker is asked
    assert finished.make(tmp_path / "out", executor="dask", scheduler="tcp://nobody:1") == finished.digests
    assert f"carrying on: {SHARDS} of {SHARDS} shards" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes", [{"jpeg_quality": 50}, {"width": 64}, {"timeout_s": 30.0}, {"max_missing_fraction": 0.2}]
)
def test_other_params_make_all_again(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: Mapping[str, object]
) -> None:
    found = finished.make(tmp_path / "out", **changes)
    assert "carrying on" not in capsys.readouterr().out
    assert found.keys() == finished.digests.keys()
    assert (found == finished.digests) == (not {"jpeg_quality", "width"} & changes.keys())


def test_a_changed_video_makes_its_shard_again(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished.raw, tmp_path / "raw")
    encode(tmp_path / "raw" / "UCF-101" / "A" / "v_A_g30_c01.avi", moving_texture(999, frames=40))
    found = replace(finished, raw=tmp_path / "raw").make(tmp_path / "out")
    assert f"carrying on: {SHARDS - 1} of {SHARDS} shards" in capsys.readouterr().out
    assert len(found.items() - finished.digests.items()) == len(RATES)


def test_a_receipt_does_not_vouch_for_what_a_later_run_left(
    undisturbed: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards are made; then, with other params, one is begun and the run ends before its receipt; then the first
    params again. The tar is not that of the receipt, though it may well be as long: a tar's length is a multiple of
    10 KiB."""
    raw = tmp_path / "raw"
    shutil.copytree(undisturbed.raw, raw)
    for video in raw.rglob("*.avi"):
        encode_any(video, frames=2)
    made, other = Finished(raw, tmp_path / "work", {}), Finished(raw, tmp_path / "other", {})
    first = made.make(tmp_path / "first", jpeg_quality=93)
    other.make(tmp_path / "second", jpeg_quality=90)
    shards = sorted({tar.name for tar in other.work.glob("*/*.tar")})
    as_long = [shard for shard in shards if sizes(made.work, shard) == sizes(other.work, shard)]
    assert as_long, "choose other qualities"

    rows, paths, config = plan(raw, **SETTINGS, jpeg_quality=90)
    rows = [row for row in rows if row.shard == as_long[0]]
    task = Task(as_long[0], rows, [paths[row.video] for row in rows], made.work, config, tools_digest())

    def killed_before_the_receipt(self: Path, target: Path) -> None:
        if self.suffix == ".json":
            raise KeyboardInterrupt
        os.replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed_before_the_receipt)
        with pytest.raises(KeyboardInterrupt):
            accept_shard(task, *make_shard(task))
    assert made.make(tmp_path / "again", jpeg_quality=93) == first


def sizes(work: Path, shard: str) -> list[int]:
    return [(work / str(rate) / shard).stat().st_size for rate in RATES]


# --- dask ------------------------------------------------------------------------------------------------------------


class Cluster:
    """A dask scheduler and its workers, processes on loopback, started as the README says."""

    def __init__(self, folder: Path):
        self._folder, self._processes = folder, []
        file = folder / "scheduler.json"
        self._start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", file, "--no-dashboard")
        wait_for(lambda: file.exists() and file.read_text().endswith("}"), "the scheduler")
        self.address = json.loads(file.read_text())["address"]

    def _start(self, module: str, *arguments: str | Path, cwd: Path = ROOT, **env: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{module}", *map(str, arguments)]
        with (self._folder / f"{len(self._processes)}.log").open("wb") as log:
            # Only the folder it is started in leads it to the code.
            env = {**environment(**env), "PYTHONPATH": str(cwd)}
            process = subprocess.Popen(command, cwd=cwd, env=env, stdout=log, stderr=log)
        self._processes.append(process)
        return process

    def workers(self, count: int, *, cwd: Path = ROOT, **env: str) -> list[subprocess.Popen[bytes]]:
        started = []
        for number in range(count):
            scratch = ("--local-directory", self._folder / f"scratch{number}")
            options = ("--no-nanny", "--nthreads", "1", "--no-dashboard", *scratch)
            started.append(self._start("dask_worker", self.address, *options, cwd=cwd, **env))
        for log in (self._folder / f"{number}.log" for number in range(1, count + 1)):
            wait_for(lambda log=log: "Registered to" in log.read_text(), "a worker")
        return started

    def stop_scheduler(self) -> None:
        self._processes[0].kill()

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    (tmp_path / "cluster").mkdir()
    cluster = Cluster(tmp_path / "cluster")
    yield cluster
    cluster.close()


def use_dask(project: Path, address: str) -> None:
    write_params(project, {"decode": {**SETTINGS, "executor": "dask", "scheduler": address}})


def test_two_dask_workers_one_killed_make_the_same_bytes(
    project: Path, undisturbed: Reference, cluster: Cluster
) -> None:
    workers = cluster.workers(2, **undisturbed.slow)
    use_dask(project, cluster.address)
    with started(project) as process:
        wait_for(lambda: len(receipts(project)) >= 2 and psutil.Process(workers[0].pid).children(), "two shards")
        workers[0].kill()
        assert len(receipts(project)) < SHARDS - 1
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert "videos: found 24, good 24, bad 0, absent 0" in stdout
    check_finished(project, undisturbed)


@pytest.mark.slow
def test_a_scheduler_that_goes_away_ends_the_run_with_a_word(
    project: Path, undisturbed: Reference, cluster: Cluster
) -> None:
    cluster.workers(1, **undisturbed.slow)
    use_dask(project, cluster.address)
    with started(project) as process:
        wait_for(lambda: receipts(project), "the first shard")
        cluster.stop_scheduler()
        _, stderr = process.communicate(timeout=60)
    cluster.close()
    assert process.returncode == 1
    # dask logs tracebacks of its own before.
    assert re.search(r"\ndecode: \w.*\n\(\w+; traceback in runs/decode/traceback.txt\)\s*$", stderr), stderr[-1000:]
    write_params(project, {"decode": SETTINGS})
    carry_on(project, undisturbed)


WRONG = ["nonsense://x", "tcp://127.0.0.1:9", "127.0.0.1:9", "tcp://no.such.host.invalid:1"]


@pytest.mark.parametrize("address", [WRONG[0], *(pytest.param(each, marks=pytest.mark.slow) for each in WRONG[1:])])
def test_a_wrong_scheduler_is_a_clear_error_soon(project: Path, address: str) -> None:
    use_dask(project, address)
    start = time.monotonic()
    done = run_stage(project, "decode", code=1)
    assert time.monotonic() - start < 30
    assert f"decode: decode.scheduler: no dask scheduler at {address} (" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_of_another_tree_is_refused(project: Path, cluster: Cluster, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(ROOT / "pipeline", other / "pipeline")
    with (other / "pipeline" / "decode" / "video.py").open("a") as stream:
        stream.write("\n# another tree\n")
    cluster.workers(1, cwd=other)
    use_dask(project, cluster.address)
    said = run_stage(project, "decode", code=1).stderr
    assert "decode: this worker's code or ffmpeg is not that of the run; start the workers from the same tree" in said
    assert not receipts(project)


# --- memory ----------------------------------------------------------------------------------------------------------

# Peak memory, in MiB, of this process and of the largest ffmpeg that it ran, as the kernel keeps it for each program;
# getrusage's would be no less than that of the process that started it. Without the pages of files, such as the program
# itself: how many of them are mapped depends on the machine's cache.
MAKE_ONE_SHARD = """
import pickle, sys, threading, time
from pathlib import Path

import psutil

from pipeline.decode.ingest import accept_shard, make_shard


def peak(pid):
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    most, of_files = (int(status.get(key, "0").split()[0]) for key in ("VmHWM", "RssFile"))
    return (most - of_files) / 1024


def watch():
    while True:
        for child in psutil.Process().children():
            try:
                if "ffmpeg" in Path(f"/proc/{child.pid}/comm").read_text():
                    peaks.append(peak(child.pid))
            except (OSError, IndexError):
                pass
        time.sleep(0.002)


peaks = [0.0]
threading.Thread(target=watch, daemon=True).start()
task = pickle.loads(Path(sys.argv[1]).read_bytes())
rows, making = make_shard(task)
accept_shard(task, rows, making)
assert all(row.verdict == "good" for row in rows), rows
print(peak("self"), max(peaks))
"""


def peak_memory(folder: Path, files: Sequence[Path]) -> tuple[float, float]:
    rows = [
        Row(f"A/v_A_g{k:02}_c01.avi", "A", 0, k, 1, split="train", verdict="good", sha256=sha256_of(file))
        for k, file in enumerate(files)
    ]
    for rate in RATES:
        (folder / str(rate)).mkdir(parents=True)
    task = Task("train-00000.tar", rows, files, folder, decode_config(), tools_digest())
    (folder / "task").write_bytes(pickle.dumps(task))
    command = [sys.executable, "-c", MAKE_ONE_SHARD, str(folder / "task")]
    shown = subprocess.run(command, env=environment(), check=True, capture_output=True, text=True).stdout
    for rate in RATES:
        assert len(open_shard(folder / str(rate) / "train-00000.tar")) == len(files)
    own, decoders = map(float, shown.split())
    assert decoders > 5
    return own, decoders


def grown(small: tuple[float, float], large: tuple[float, float]) -> list[float]:
    return [after - before for before, after in zip(small, large, strict=True)]


def test_memory_does_not_grow_with_the_number_of_videos(undisturbed: Reference, tmp_path: Path) -> None:
    videos = sorted(undisturbed.raw.rglob("*.avi"))
    few, many = peak_memory(tmp_path / "few", videos[:4]), peak_memory(tmp_path / "many", (videos * 2)[:40])
    assert max(grown(few, many)) < 4


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_video(tmp_path: Path) -> None:
    videos = {}
    for minutes in (1, 20):
        videos[minutes] = tmp_path / f"{minutes}.avi"
        source = f"testsrc=size=64x64:rate=25:duration={60 * minutes}"
        command = [FFMPEG, "-loglevel", "error", "-f", "lavfi", "-i", source, "-c:v", "mpeg4", "-g", "250"]
        subprocess.run([*command, str(videos[minutes])], check=True)
    short, long = (peak_memory(tmp_path / f"work{minutes}", [video]) for minutes, video in videos.items())
    assert max(grown(short, long)) < 8
