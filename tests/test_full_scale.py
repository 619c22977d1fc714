"""benchmarks/full_scale.py: what it sees of a stage, what it kills, and the rows that it keeps."""

import json
import os
import signal
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks import full_scale
from benchmarks.full_scale import Row, drop_rows, of, rows_in
from pipeline.pages import cost
from pipeline.results import write_table
from tests.support.killed import forked
from tests.support.project import call, environment

STAGE = """
import time
from pathlib import Path

from stages.entry import run
from tqdm import tqdm


def main():
    memory = b"x" * (100 * 2**20)
    for _ in tqdm(range(int(Path("steps").read_text()))):
        time.sleep(0.5)
    Path("out").write_text("done")


run("slow", main)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """With one stage, which shows its progress and takes as long as the file `steps` says."""
    (tmp_path / "slow.py").write_text(STAGE)
    call(tmp_path, "dvc", "init", "--no-scm", "--quiet")
    call(tmp_path, "dvc", "stage", "add", "--name", "slow", "--deps", "slow.py", "--outs", "out", "python slow.py")
    return tmp_path


def watch_twice(project: Path) -> None:
    """Killed in the first half, and then to the end."""
    full_scale.BEFORE_THE_KILL = 0.5
    (project / "steps").write_text("100")
    killed = full_scale.watched(project, "slow", kill=True)
    there = (project / "out").exists()
    (project / "steps").write_text("4")
    done = full_scale.watched(project, "slow")
    (project / "found.json").write_text(json.dumps([asdict(killed), there, asdict(done)]))


def test_a_stage_is_watched_and_killed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/sh")  # which waits for the stage, if it is dash
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    # In a fork, since all of a process's children are waited for.
    assert os.waitpid(forked(lambda: watch_twice(project)), 0)[1] == 0
    killed, there, done = json.loads((project / "found.json").read_text())
    assert killed["code"] == -signal.SIGKILL
    assert not killed["half"]
    assert killed["seconds"] < 40
    assert not there
    assert done["code"] == 0, done["output"]
    assert done["half"]
    assert (project / "out").read_text() == "done"
    assert 0.5 < done["starts"] < done["seconds"] - 1
    assert 0 < done["cpu_seconds"] < done["seconds"] + 1
    assert 100 * 2**20 < done["memory"] < 300 * 2**20


def row(**changes: object) -> Row:
    made = Row(
        videos=10,
        classes=2,
        stage="decode",
        seconds=20.0,
        cpu_seconds=30.0,
        starts_s=None,
        memory_mib=100,
        gb=0.1,
        kept_gb=0.0,
        killed_s=None,
    )
    return replace(made, **changes)


def test_rows_of_another_size_stay(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    assert rows_in(file) == []
    write_table(file, [asdict(row(videos=size)) for size in (10, 80)])
    rows = rows_in(file)
    drop_rows(file, videos=10, classes=2)
    assert rows_in(file) == rows[1:]
    assert of(rows[1], 80, 2)
    assert not of(rows[1], 80, 3)
    drop_rows(file, videos=80, classes=2)
    assert rows_in(file) == []


def test_growth_is_a_power_of_the_number_of_videos_and_of_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight times the videos: sixteen times the CPU, and as much memory. Four times the classes: twice the memory."""
    (tmp_path / "benchmarks").mkdir()
    more = {"cpu_seconds": 480.0, "seconds": 250.0, "starts_s": 7.0, "gb": 0.8}
    rows = [row(classes=8), row(videos=80, classes=8, **more), row(memory_mib=50)]
    write_table(tmp_path / "benchmarks/full_scale.csv", [asdict(each) for each in rows])
    monkeypatch.chdir(tmp_path)
    assert cost.full_scale()[2:] == ["| `decode` | 30 / 480 | 1.33 | 100 / 100 | 0.00 | 250 | 7 | 0.8 |"]
    assert cost.full_scale_classes()[2:] == ["| `decode` | 30 / 30 | 0.00 | 50 / 100 | 0.50 | 20 |  | 0.1 |"]
