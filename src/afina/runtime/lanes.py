"""Many batches side by side, each computed by a thread of its own.

All threads on one batch wait for each other after every operator, and small operators have work for one
alone; as many small batches at a time as there are processors know neither. On two processors that is 1.1 to
1.2 times the texts/s with an int8 file. One batch alone is answered sooner by all threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")

# Each lane needs memory for a batch: 16 MB with the default backbone.
MOST = 32

# The second session takes about as long to open as so many batches a lane gain by it.
WORTH = 16


class Lanes(Generic[S]):
    """A second session of a model, with few threads a batch, opened once there is enough work for it.

    Args:
        count: batches at a time; less than 2: none ever share the processors.
        open_session: opens the session; None: it cannot be had, and is not asked for again.

    Attributes:
        helpers: threads beside those of the callers; who shares a model shares them.
    """

    def __init__(self, count: int, open_session: Callable[[], S | None]) -> None:
        self.count = count
        self.helpers = threading.Semaphore(max(count - 1, 0))
        self._open = open_session
        self._seen = 0
        self._session: S | None = None
        self._tried = count < 2
        self._opening = threading.Lock()

    def session(self, batches: int) -> S | None:
        """The session for so many batches that are there at once; None: run them one after the other."""
        if batches < max(self.count, 2):
            return None
        # Who comes while another opens it does not wait.
        if self._tried or not self._opening.acquire(blocking=False):
            return self._session
        try:
            self._seen += batches
            if not self._tried and self._seen >= WORTH * self.count:
                self._session = self._open()
                self._tried = True
            return self._session
        finally:
            self._opening.release()


def side_by_side(
    lanes: int, run: Callable[[T], None], items: Iterable[T], helpers: threading.Semaphore
) -> None:
    """``run(item)`` for each item, up to ``lanes`` at a time, one of them in the caller's thread.

    Who is done with an item takes the next one, so items may come up meanwhile. After an error nothing more
    begins, and once what has begun is done it is raised: of several the first, an interruption before others.

    Args:
        items: taken from by several threads, each time for the next of them; none is None.
        helpers: how many threads may help all that use the same model; where there is none left, or none to
            be had, there are fewer lanes.
    """
    # No executor: interrupted while work is handed to it, it may wait for ever, and it has no threads to
    # give once the interpreter ends. For the same reason the caller's thread, which is the one that can be
    # interrupted, takes no lock.
    left = iter(items)
    stopped = False
    errors: list[BaseException] = []

    def work() -> None:
        while not (stopped or errors):
            try:
                if (item := next(left, None)) is None:
                    return
                run(item)
            except BaseException as error:  # raised below
                errors.append(error)

    def help_out() -> None:
        if helpers.acquire(blocking=False):
            try:
                work()
            finally:
                helpers.release()

    threads: list[threading.Thread] = []
    try:
        for _ in range(lanes - 1):
            thread = threading.Thread(target=help_out, name="afina-lane", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system gives no more
                break
            threads.append(thread)
        work()
    finally:
        stopped = True
        for thread in threads:
            thread.join()
    if errors:
        interrupted = [error for error in errors if not isinstance(error, Exception)]
        raise (interrupted or errors)[0]
