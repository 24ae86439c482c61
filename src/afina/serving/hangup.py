"""SIGHUP before there is an event loop to take it: it would end the process that it asks to load a model."""

from __future__ import annotations

import signal
import threading
from types import FrameType

_came = threading.Event()


def remember_hangups() -> None:
    """From here on SIGHUP is remembered; the application takes it over when it has started."""
    # Signals reach the main thread alone, and only there can this be set.
    if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGHUP, _remember)


def hangup_came() -> bool:
    """Whether one came since the last call."""
    came = _came.is_set()
    _came.clear()
    return came


def _remember(number: int, frame: FrameType | None) -> None:
    _came.set()
