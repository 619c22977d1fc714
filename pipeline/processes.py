"""What processes owe each other: none outlives the one that started it."""

import os
import select
import signal
import threading
import time


def end_with_parent(parent: int) -> None:
    """From now on, when the process `parent` (its number) ends, however it does, this one gets a SIGTERM, and another
    every second while it is still there: it may note the first, finish a step and save, or end at once.

    parent: need not be the direct one, as a server may stand between the two. To be called by the main thread; Linux
    only.
    """
    ending = select.poll()
    try:
        ending.register(os.pidfd_open(parent), select.POLLIN)
        patience = None
    except ProcessLookupError:  # it has ended already
        patience = 0

    def watch() -> None:
        ending.poll(patience)
        while True:
            # To the main thread itself: a signal to the process may go to this one, and would not interrupt a read.
            signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
            time.sleep(1)

    threading.Thread(target=watch, daemon=True).start()
