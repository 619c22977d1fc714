"""A process ends with the one that started it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.import_closure import ROOT
from tests.support.project import environment, wait_for
from tests.support.videos import write

# Notes every SIGTERM in a file, and ends at the third.
CHILD = """
import os, signal, sys, time
from pathlib import Path

from pipeline.processes import end_with_parent


def note(*_):
    with note.file.open("a") as file:
        file.write("x")
    if note.file.stat().st_size == 3:
        os._exit(0)


note.file = Path(sys.argv[1])
signal.signal(signal.SIGTERM, note)
end_with_parent(int(sys.argv[2]))
note.file.touch()
os.read(0, 1)  # for ever: a signal must interrupt it
time.sleep(60)
"""


@pytest.mark.parametrize("ends", ["killed", "by itself", "before"])
def test_it_is_told_until_it_ends(tmp_path: Path, ends: str) -> None:
    """Also where the parent is not its direct one, or is a zombie, and where SIGTERM does not end it at once."""
    file, env = tmp_path / "noted", environment()
    parent = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    if ends == "before":
        parent.kill()
        parent.wait()
    child = subprocess.Popen([sys.executable, "-c", CHILD, file, str(parent.pid)], stdin=subprocess.PIPE, env=env)
    wait_for(file.exists, "the child", seconds=20)
    if ends != "before":
        time.sleep(0.5)
        assert file.read_bytes() == b""
    start = time.monotonic()
    if ends == "killed":
        parent.send_signal(signal.SIGKILL)  # and nobody waits for it yet
    elif ends == "by itself":
        parent.communicate(b"")
    assert child.wait(timeout=20) == 0
    assert file.read_bytes() == b"xxx"
    assert time.monotonic() - start < 10
    parent.wait()


STAGE = """
import sys, time
from pathlib import Path

from stages.entry import run


def main():
    Path(sys.argv[1]).touch()
    time.sleep(20)
    Path(sys.argv[1] + "_done").touch()


run("wait", main)
"""


# Starts the stage by a shell, as DVC does; and gives it a name, if it is to be DVC.
STARTS = """
import os, subprocess, sys

shell, stage, started, name = sys.argv[1:]
named = {"DVC_STAGE": name} if name else {}
subprocess.run(["sh", "-c", shell, "sh", sys.executable, "-c", stage, started], env=os.environ | named)
"""
BECOMES_IT, WAITS = 'exec "$@"', '"$@"; true'


@pytest.mark.parametrize("shell", [BECOMES_IT, WAITS])
@pytest.mark.parametrize("by_dvc", [True, False])
def test_a_stage_ends_when_the_dvc_that_runs_it_is_killed(tmp_path: Path, shell: str, by_dvc: bool) -> None:
    """One that is started by hand goes on when its shell ends, as nohup wants it."""
    started = tmp_path / "started"
    command = [sys.executable, "-c", STARTS, shell, STAGE, started, "wait" if by_dvc else ""]
    parent = subprocess.Popen(command, env=environment())
    wait_for(started.exists, "the stage", seconds=20)
    stage = psutil.Process(parent.pid).children(recursive=True)[-1]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    if by_dvc:
        wait_for(lambda: not stage.is_running(), "its end", seconds=10)
    else:
        time.sleep(2)
        assert stage.is_running()
        stage.kill()


def test_a_stage_collects_garbage_once_it_has_started(tmp_path: Path) -> None:
    """Not before, while it imports what stays to its end."""
    for file in ("stages/__init__.py", "stages/entry.py"):
        write(tmp_path / file, (ROOT / file).read_bytes())
    says = "print(gc.isenabled())"
    write(tmp_path / "stages/says.py", f"import gc\nfrom stages.entry import run\n{says}\nrun('says', lambda: {says})")
    command = [sys.executable, "-m", "stages.says"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
