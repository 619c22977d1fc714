"""The project as its users have it: a copy of the working tree, and commands run there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

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
