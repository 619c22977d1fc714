"""One process at a time in a run folder, and signals that wait for the end of a step."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout


@dataclass
class Stop:
    """Signals received so far, in order; not empty: the run is asked to end."""

    signals: list[int] = field(default_factory=list)


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Holds the lock file `path`; RuntimeError when another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(path).acquire(timeout=0)
    except Timeout:
        raise RuntimeError(f"another process is at work in {path.parent}; wait for it or stop it") from None
    with lock:
        yield


@contextmanager
def stop_requests() -> Iterator[Stop]:
    """Within it SIGTERM and SIGINT are only noted in `.signals`, so that a step is finished and the state saved."""
    stop = Stop()
    before = {
        number: signal.signal(number, lambda received, _: stop.signals.append(received))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
