"""A process ends with the one that started it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.project import environment, wait_for

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
