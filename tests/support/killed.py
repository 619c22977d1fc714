"""A run that is killed by signal 9 in the middle of it, and begun again."""

import os
import signal
from collections.abc import Callable
from types import ModuleType


def calls_in_a_fork(module: ModuleType, name: str, work: Callable[[], object], *, dies_in: int = 0) -> int:
    """How often `work`, done in a fork of this process, calls module.name, which may be killed in the call of that
    number: minus the signal then. A fork, since another process takes longest to start, and may not take up what this
    one began: a run depends on the code of all modules that are loaded."""
    original, calls = getattr(module, name), 0

    def counted(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == dies_in:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    if os.fork() == 0:
        setattr(module, name, counted)
        work()
        os._exit(calls)
    return os.waitstatus_to_exitcode(os.wait()[1])
