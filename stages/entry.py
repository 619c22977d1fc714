"""How every stage ends when it cannot go on: one clear message, and the traceback in a file."""

import sys
import traceback
from collections.abc import Callable
from pathlib import Path


def run(stage: str, main: Callable[[], None]) -> None:
    """Calls main. An error that has to do with params, data or the machine exits 1 with its message alone."""
    try:
        main()
    except (ValueError, RuntimeError, OSError, ArithmeticError) as error:
        report = Path("runs", stage, "traceback.txt")
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(traceback.format_exc(), encoding="utf-8")
        sys.exit(f"\n{stage}: {error}\n({type(error).__name__}; traceback in {report})")
