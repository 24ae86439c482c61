"""What stage scripts share: a summary line on success; an error line and exit 2 on a user's mistake."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

from afina.errors import UserError


def stage(name: str) -> Callable[[Callable[[], str | None]], Callable[[], None]]:
    """Turn a function that returns its summary, or None to say nothing, into a stage's entry point."""

    def decorate(main: Callable[[], str | None]) -> Callable[[], None]:
        def run() -> None:
            start = time.perf_counter()
            signal.signal(signal.SIGTERM, _terminated)
            try:
                summary = main()
            except UserError as error:
                print(f"{name}: error: {error}", file=sys.stderr)
                raise SystemExit(2) from None
            if summary is not None:
                print(f"{name}: {summary} ({time.perf_counter() - start:.1f} s)", flush=True)

        return run

    return decorate


def _terminated(number: int, frame: FrameType | None) -> None:
    """Leave by an exception, so that files being written are removed."""
    raise SystemExit(128 + number)
