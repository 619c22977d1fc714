"""How a stage starts and ends: its matrix item, and one clear message when it cannot go on."""

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from pipeline.processes import end_with_parent


def matrix_item(stage: str, allowed: Iterable[str]) -> str:
    """The one argument of a stage or tool; exits with the usage when it is missing or not allowed."""
    if len(sys.argv) != 2 or sys.argv[1] not in allowed:
        sys.exit(f"usage: python -m stages.{stage} {'|'.join(allowed)}")
    return sys.argv[1]


def run(stage: str, main: Callable[[], None]) -> None:
    """Calls main. An error that has to do with params, data or the machine exits 1 with its message alone, and Ctrl-C
    with a word. A stage that DVC started ends when DVC is killed."""
    if not gc.isenabled():  # see stages/__init__.py
        gc.freeze()  # what was imported stays to the end
        gc.enable()
    if dvc := running_dvc():
        end_with_parent(dvc.pid)  # else two of this stage would run after the next `dvc repro`
    try:
        main()
    except KeyboardInterrupt:
        print(f"\n{stage}: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except (ValueError, RuntimeError, OSError, ArithmeticError) as error:
        rank = os.environ.get("RANK", "0")  # of several processes that train together
        name = "traceback.txt" if rank == "0" else f"traceback_{rank}.txt"
        # The item of a matrix; a file or the options of a tool are no folder's name.
        item = sys.argv[1:] if len(sys.argv) == 2 and sys.argv[1].isidentifier() else []
        report = Path("runs", "_".join([stage, *item]), name)
        try:
            report.parent.mkdir(parents=True, exist_ok=True)
            report.write_text(traceback.format_exc(), encoding="utf-8")
            where = f"traceback in {report}"
        except OSError as unwritten:
            where = f"no traceback written: {unwritten}"
        sys.exit(f"\n{stage}: {error}\n({type(error).__name__}; {where})")


def running_dvc() -> psutil.Process | None:
    """The process of DVC that started this stage, if one did: the nearest above it to which DVC had not given the
    stage's name. Between the two stands a shell, unless that one became the stage, as bash does and dash does not."""
    stage, process = os.environ.get("DVC_STAGE"), psutil.Process()
    while stage and process and _started_for(process) == stage:
        process = process.parent()
    return process if stage else None


def _started_for(process: psutil.Process) -> str | None:
    with suppress(psutil.Error):  # it is of another user, or has just ended
        return process.environ().get("DVC_STAGE")
