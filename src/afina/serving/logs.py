"""Logs: one JSON object a line on stderr, never with a text that was sent."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

# Lines wait for others so many seconds, or until there are so many.
GATHER_SECONDS, MOST_LINES = 0.1, 1000
# At the end, and after a warning, whoever reads the lines has so many seconds to take them.
PATIENCE = 1.0


class JsonLines(logging.Formatter):
    """Time, level, event, and the fields given as ``extra={"fields": {…}}``; no traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
        return json.dumps(line, ensure_ascii=False)


class GatheredLines(logging.Handler):
    """Writes the lines of a moment together, in a thread of its own; warnings and worse at once.

    A write lets another thread have the interpreter and then waits for it, which takes a server at work
    longer than the rest of a line.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: deque[str] = deque()
        self._logged = self._written = 0
        self._some, self._hurry, self._ending = threading.Event(), threading.Event(), threading.Event()
        self._done = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="afina-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Add a line; where nobody reads and there are `MOST_LINES`, wait for whoever should."""
        try:
            line = self.format(record)
        except Exception:  # as every handler does: what cannot be logged is no failure of what logs it
            self.handleError(record)
            return
        self._lines.append(line + "\n")
        self._logged += 1  # with the handler's lock
        self._some.set()
        if len(self._lines) >= MOST_LINES:
            self._hurry.set()
            with self._done:
                self._done.wait_for(lambda: len(self._lines) < MOST_LINES)
        if record.levelno >= logging.WARNING:
            self.flush()

    def flush(self) -> None:
        """Have the lines that wait written; `PATIENCE` is all that a reader who takes none is given."""
        wanted = self._logged
        self._hurry.set()
        self._some.set()
        with self._done:
            self._done.wait_for(lambda: self._written >= wanted or not self._thread.is_alive(), PATIENCE)

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._ending.set()
        self._hurry.set()
        self._some.set()
        self._thread.join(PATIENCE)
        super().close()

    def _work(self) -> None:
        while not self._ending.is_set() or self._lines:
            self._some.wait()
            self._hurry.wait(GATHER_SECONDS)
            self._some.clear()
            self._hurry.clear()
            self._write()

    def _write(self) -> None:
        lines = []
        while self._lines:
            lines.append(self._lines.popleft())
        if lines and not self._put("".join(lines)):
            for line in lines:  # it may be one of them
                self._put(line)
        with self._done:
            self._written += len(lines)
            self._done.notify_all()

    def _put(self, text: str) -> bool:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # nobody reads, or it is closed: there is no other place to say so
            return False
        return True


def flush_logs() -> None:
    """Write the lines that wait, of whatever handlers the server's log has."""
    for handler in logging.getLogger("afina.serve").handlers:
        handler.flush()


@contextmanager
def json_logs() -> Iterator[None]:
    """Log what the server does to stderr while the context lasts; of uvicorn, warnings and worse."""
    handler = GatheredLines(sys.stderr)
    handler.setFormatter(JsonLines())
    levels = {"afina.serve": logging.INFO, "uvicorn": logging.WARNING, "asyncio": logging.WARNING}
    loggers = [logging.getLogger(name) for name in levels]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(levels[logger.name])
        logger.propagate = False
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.propagate = True
        handler.close()
