"""How a stage starts and ends: its matrix item, and one clear message when it cannot go on."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline.processes import end_with_parent


def matrix_item(stage: str, allowed: Iterable[str]) -> str:
    """The one argument of a stage or tool; exits with the usage when it is missing or not allowed."""
    if len(sys.argv) != 2 or sys.argv[1] not in allowed:
        sys.exit(f"usage: python -m stages.{stage} {'|'.join(allowed)}")
    return sys.argv[1]


def run(stage: str, main: Callable[[], None]) -> None:
    """Calls main. An error that has to do with params, data or the machine exits 1 with its message alone, and Ctrl-C
    with a word. A stage that DVC started ends when DVC is killed."""
    if "DVC_STAGE" in os.environ:  # else two of it would run after the next `dvc repro`
        end_with_parent(os.getppid())
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
