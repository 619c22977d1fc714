"""Every stage of the pipeline over a data set of UCF101's full size: time, memory, bytes, and how they grow.

    python -m benchmarks.full_scale --root DIR --work DIR --out FILE
    python -m benchmarks.full_scale --root DIR --work DIR --out FILE --sizes 13320 --kill

The listed names of split 1 become links to the videos in DIR/UCF-101, in turn: the work is that of so many videos, the
contents repeat. A clone of the last commit runs on them with presets/ucf101.yaml and, laid over it, its own preset of
tiny frames and networks, benchmarks/full_scale.yaml: stage after stage by `dvc repro`, a row of FILE for each of them.

--kill: `dvc repro` is killed with signal 9 in one stage of each kind, soon after its first progress, and called again.
The row is of the second call, and says after how many seconds the first was killed.

An interrupted benchmark goes on, in its folder below DIR, with the stages that have no row yet.
"""

import argparse
import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from ruamel.yaml import YAML

from benchmarks.decode import PROJECT, link_all
from benchmarks.measure import cost_of_children, environment, report
from pipeline.results import write_table
from pipeline.settings import overlay, read_params
from stages.check import check

MIB, GB = 2**20, 1e9
EVERY = 0.5  # seconds between two looks at the memory
BEFORE_THE_KILL = 5.0  # seconds after the first progress, unless a bar passes its half before
PROGRESS = re.compile(rb"[ |]([1-9]\d*)/(\d+) \[[\d:]+<[\d:]+")  # of tqdm's bars: done, all, time and time left


@dataclass(frozen=True)
class Row:
    """Of a stage. seconds: by the clock, with DVC's own; cpu_seconds: of all processes; starts_s: until the first
    progress is shown, if any is; memory_mib: at most, of all processes of the stage together (proportional set size);
    gb: of its results; kept_gb: of what it leaves in runs/; killed_s: after which it was killed at first, if it was."""

    videos: int
    classes: int
    stage: str
    seconds: float
    cpu_seconds: float
    starts_s: float | None
    memory_mib: float
    gb: float
    kept_gb: float
    killed_s: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="holds UCF-101/ and ucfTrainTestlist/")
    parser.add_argument("--work", type=Path, required=True, help="a folder on a disk with 30 GB free")
    parser.add_argument("--out", type=Path, required=True, help="CSV; rows of other sizes in it stay")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1665, 3330, 13320], help="numbers of videos")
    parser.add_argument("--classes", type=int, default=101, help="the videos are of so many classes")
    parser.add_argument("--kill", action="store_true", help="kill -9 in each stage once, then on to the end")
    parser.add_argument("--keep", action="store_true", help="leave the folders of the runs")
    given = parser.parse_args()
    for size in given.sizes:
        folder = given.work / f"full_scale_{size}_{given.classes}"
        project = folder / "project"
        if not (project / "params.yaml").exists():
            shutil.rmtree(folder, ignore_errors=True)
            make_project(folder, given.root, videos=size, classes=given.classes)
            drop_rows(given.out, videos=size, classes=given.classes)
        measure(project, given.out, videos=size, classes=given.classes, kill=given.kill)
        status = dvc(project, "status", "dvc.yaml").stdout
        if "up to date" not in status:
            raise SystemExit(f"stages are left to do:\n{status}")
        if not given.keep:
            shutil.rmtree(folder)
    report({"rows": str(given.out), "environment": environment("torch", "dvc", "opencv-python-headless")})


def make_project(folder: Path, root: Path, *, videos: int, classes: int) -> None:
    """A clone of the last commit whose settings read so many videos of so many classes in place."""
    linked, project = link_all(root, folder / "linked", count=videos, classes=classes), folder / "project"
    subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(project)], check=True)
    tree = read_params(project / "params.yaml")
    for preset in ("presets/ucf101.yaml", "benchmarks/full_scale.yaml"):
        overlay(tree, read_params(project / preset))
    source = {"root": str(linked / "UCF-101"), "lists": str(linked / "ucfTrainTestlist")}
    overlay(tree, {"source": {"kind": "folder", "folder": source}})
    check(tree, source="benchmarks/full_scale.yaml")
    with (project / "params.yaml").open("w") as stream:
        YAML().dump(tree, stream)


def measure(project: Path, out: Path, *, videos: int, classes: int, kill: bool) -> None:
    """Runs the stages in their order, and adds a row for each that has none."""
    measured = [row["stage"] for row in rows_in(out) if of(row, videos, classes)]
    killed_kinds = {stage.split("@")[0] for stage in measured}
    for stage in dvc(project, "stage", "list", "--name-only").stdout.split():
        if stage in measured:
            continue
        kind = stage.split("@")[0]
        first = watched(project, stage, kill=kill and kind not in killed_kinds)
        killed_kinds.add(kind)
        done = watched(project, stage) if first.killed else first
        if done.code:
            raise SystemExit(f"{stage} ended with {done.code}:\n{done.output[-3000:]}")
        row = Row(
            videos=videos,
            classes=classes,
            stage=stage,
            seconds=round(done.seconds, 1),
            cpu_seconds=round(done.cpu_seconds, 1),
            starts_s=done.starts and round(done.starts, 1),
            memory_mib=round(done.memory / MIB),
            gb=round(size_of_results(project, stage) / GB, 3),
            kept_gb=round(sum(file.stat().st_size for file in project.glob("runs/**/*") if file.is_file()) / GB, 3),
            killed_s=round(first.seconds, 1) if first.killed else None,
        )
        print(row, flush=True)
        write_table(out, [*rows_in(out), asdict(row)])


@dataclass
class Watched:
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    starts: float | None = None
    half: bool = False
    memory: int = 0
    code: int = 0
    output: str = ""

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


def watched(project: Path, stage: str, *, kill: bool = False) -> Watched:
    """`dvc repro` of one stage, until all that it started has ended. kill: it is killed soon after its first progress,
    if it shows any."""
    found = Watched()

    def run() -> None:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro", "--single-item", stage],
            cwd=project,
            env=_environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        reader = threading.Thread(target=_read, args=(process, found, start))
        reader.start()
        while process.poll() is None:
            found.memory = max(found.memory, memory_below(process.pid))
            shown = found.starts and time.perf_counter() - start > found.starts + BEFORE_THE_KILL
            if kill and (shown or found.half):
                process.send_signal(signal.SIGKILL)
            time.sleep(EVERY)
        found.code = process.returncode
        reader.join()  # when the last process that could write has ended

    cost = cost_of_children(run)
    found.seconds, found.cpu_seconds = cost.wall, cost.cpu
    if kill and not found.killed:
        print(f"{stage}: at its end before it could be killed", flush=True)
    return found


def _read(process: subprocess.Popen, found: Watched, start: float) -> None:
    """Its output as it comes, when the first progress was in it, and whether a bar has passed its half."""
    output = b""
    while block := process.stdout.read1(65536):
        output += block
        for done, whole in PROGRESS.findall(output[-len(block) - 200 :]):
            found.starts = found.starts or time.perf_counter() - start
            found.half = found.half or 2 * int(done) >= int(whole)
    found.output = output.decode(errors="replace")


def memory_below(process: int) -> int:
    """Bytes of all processes that it has started, what they share counted once."""
    total = 0
    with suppress(psutil.Error):  # one that has ended meanwhile
        for child in psutil.Process(process).children(recursive=True):
            with suppress(psutil.Error):
                total += child.memory_full_info().pss
    return total


def size_of_results(project: Path, stage: str) -> int:
    """Bytes of the stage's outs, as DVC counted them."""
    lock = YAML(typ="safe").load(project / "dvc.lock")["stages"][stage]
    return sum(out["size"] for out in lock["outs"])


def of(row: Mapping[str, str], videos: int, classes: int) -> bool:
    return (row["videos"], row["classes"]) == (str(videos), str(classes))


def rows_in(file: Path) -> list[dict[str, str]]:
    if not file.exists():
        return []
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def drop_rows(file: Path, *, videos: int, classes: int) -> None:
    kept = [row for row in rows_in(file) if not of(row, videos, classes)]
    file.unlink(missing_ok=True)
    if kept:
        write_table(file, kept)


def dvc(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dvc", *command], cwd=project, env=_environ(), check=True, capture_output=True, text=True
    )


def _environ() -> dict[str, str]:
    """In which the stages find this Python."""
    return os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}


if __name__ == "__main__":
    main()
