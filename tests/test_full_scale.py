"""benchmarks/full_scale.py: what it sees of a stage, what it kills, and the rows that it keeps."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.full_scale import Row, Watched, drop_rows, of, rows_in, write_rows
from pipeline.pages.cost import full_scale
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


def watch(project: Path, *, kill: bool) -> Watched:
    """In a process of its own, since all of a process's children are waited for."""
    code = f"""
import json
from dataclasses import asdict
from pathlib import Path

from benchmarks.full_scale import watched

print(json.dumps(asdict(watched(Path({str(project)!r}), "slow", kill={kill}))))
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Watched(**json.loads(done.stdout.splitlines()[-1]))


def test_a_stage_is_watched_and_killed(project: Path) -> None:
    (project / "steps").write_text("100")
    killed = watch(project, kill=True)
    assert killed.code != 0
    assert killed.seconds < 40
    assert not (project / "out").exists()
    (project / "steps").write_text("4")
    done = watch(project, kill=False)
    assert done.code == 0, done.output
    assert (project / "out").read_text() == "done"
    assert 0.5 < done.starts < done.seconds - 1
    assert 0 < done.cpu_seconds < done.seconds + 1
    assert 100 * 2**20 < done.memory < 300 * 2**20


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
    rows = [{key: str(value) for key, value in asdict(row(videos=size)).items()} for size in (10, 80)]
    write_rows(file, rows)
    drop_rows(file, videos=10, classes=2)
    assert rows_in(file) == rows[1:]
    assert of(rows[1], 80, 2)
    assert not of(rows[1], 80, 3)


def test_growth_is_a_power_of_the_number_of_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight times the videos: sixteen times the CPU, and as much memory."""
    (tmp_path / "benchmarks").mkdir()
    rows = [row(), row(videos=80, cpu_seconds=480.0, seconds=250.0, starts_s=7.0, gb=0.8)]
    write_rows(tmp_path / "benchmarks/full_scale.csv", [asdict(each) for each in rows])
    monkeypatch.chdir(tmp_path)
    assert full_scale()[2:] == ["| `decode` | 30 / 480 | 1.33 | 100 / 100 | 0.00 | 250 | 7 | 0.8 |"]
