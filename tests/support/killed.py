"""A run that is killed by signal 9 in the middle of it, and begun again."""

import os
import signal
import traceback
from collections.abc import Callable
from types import ModuleType


def calls_in_a_fork(module: ModuleType, name: str, work: Callable[[], object], *, dies_in: int = 0) -> int:
    """How often `work`, done in a fork of this process, calls module.name, which may be killed in the call of that
    number: minus the signal then. A fork, since another process may not take up what this one began: a run depends on
    the code of all modules that are loaded."""
    original, calls = getattr(module, name), 0

    def counted(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == dies_in:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    def counting() -> int:
        setattr(module, name, counted)
        work()
        return calls

    return os.waitstatus_to_exitcode(os.waitpid(forked(counting), 0)[1])


def forked(work: Callable[[], int | None]) -> int:
    """The number of a fork of this process that does `work`, and ends with what it returns, or with 255 after an error.
    Another process would take longest to start."""
    if process := os.fork():
        return process
    code = 255
    try:
        code = work() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # else it would go on with the other tests
