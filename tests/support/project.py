"""The project as its users have it: a copy of the working tree, commands run there, and single stages."""

import io
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pipeline.settings import overlay
from tests.support.import_closure import ROOT


def call(folder: Path, *command: str, check: bool = True) -> str:
    """Runs a command there with this Python's tools first on the path; its output, standard error included."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, "GIT_AUTHOR_NAME": "t", "GIT_COMMITTER_NAME": "t"}
    env |= {"GIT_AUTHOR_EMAIL": "t@example.org", "GIT_COMMITTER_EMAIL": "t@example.org", "COLUMNS": "250"}
    done = subprocess.run(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert not check or done.returncode == 0, done.stdout
    return done.stdout


def ran(output: str) -> set[str]:
    """The stages that DVC says it ran."""
    return set(re.findall(r"Running stage '([^']+)'", output))


def copy_project(folder: Path, *, without: tuple[str, ...] = ()) -> Path:
    """The working tree, with what is not committed yet, as a git repository of one commit; without: how the names of
    files begin that are left out."""
    for name in call(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (ROOT / name).is_file() and not (without and name.startswith(without)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    call(folder, "git", "init", "-q", "-b", "main")
    call(folder, "git", "add", "-A")
    call(folder, "git", "commit", "-qm", "start")
    return folder


def environment(**more: str) -> dict[str, str]:
    """In which a stage finds this project from any folder. One thread: the fastest for small networks."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", **more}


def write_params(folder: Path, changes: dict[str, Any]) -> None:
    """The tiny preset's params.yaml with changes."""
    # Here, as everything that a GPU machine may lack: tests/test_gpu.py imports this file.
    from ruamel.yaml import YAML

    from stages.preset import with_preset

    tree = with_preset(ROOT / "presets" / "tiny.yaml", ROOT / "params.yaml")
    overlay(tree, changes)
    with (folder / "params.yaml").open("w") as stream:
        YAML().dump(tree, stream)


def run_stage(
    folder: Path, *stage: str, env: Mapping[str, str] | None = None, **more: object
) -> subprocess.CompletedProcess[str]:
    """A stage and its item, as DVC calls it, in a folder. env: what the environment has beside; more: options of
    subprocess.run."""
    name, *items = stage
    command, env = [sys.executable, "-m", f"stages.{name}", *items], environment(**env or {})
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, **more)


def run_here(folder: Path, module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`python -m module arguments` in this process, for what is to be seen without a process of its own: a start of
    PyTorch and Lightning takes five seconds."""
    out, err, code = io.StringIO(), io.StringIO(), None
    argv = [module, *map(str, arguments)]
    with chdir(folder), redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", argv):
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as end:
            code = end.code
        if isinstance(code, str):  # a message, as Python takes it
            print(code, file=err)
    return subprocess.CompletedProcess(argv, 1 if isinstance(code, str) else code or 0, out.getvalue(), err.getvalue())


def run_stage_here(folder: Path, name: str, *items: str) -> subprocess.CompletedProcess[str]:
    """A stage and its item, as run_stage, but in this process."""
    return run_here(folder, f"stages.{name}", *items)


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """What the condition gave when it was first true. To ask it again may give something else."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.005)
    return found
