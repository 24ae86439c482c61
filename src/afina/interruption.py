"""What Ctrl-C does to a command: it ends in silence, with exit status 130, at whatever moment."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import NoReturn

INTERRUPTED = 128 + signal.SIGINT


def end_when_interrupted() -> None:
    """Let Ctrl-C end the process at once, as long as there is nothing to clean up.

    An exception would be raised within whatever library is being loaded just then, some of which make another
    error of it. Where the signal is ignored, as in the background of a shell, it stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def clean_up_when_interrupted() -> None:
    """From here on let Ctrl-C raise, so that what was begun is brought to an end."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def clean_up_when_terminated() -> None:
    """From here on let SIGTERM raise, so that files being written are removed."""
    unchanged = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if unchanged and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminated)


def end() -> NoReturn:
    """Leave without what Python does at its end: threads in native code would abort the process then."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(INTERRUPTED)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
