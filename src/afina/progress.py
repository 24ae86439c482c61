"""Progress that a person sees in a terminal and that stays readable in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")


class Progress:
    """A bar on a terminal; a line every ``every`` seconds elsewhere. Use as a context manager."""

    def __init__(
        self, description: str, total: int | None = None, unit: str = "", every: float = 10.0
    ) -> None:
        self.description, self.total, self.unit, self.every = description, total, unit, every
        self.done = 0
        self._note = ""
        self._last = time.monotonic()
        self._start = self._last
        self._bar = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(description, total=total)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count ``count`` more units as done; ``note`` (a loss, a file name) is shown beside them."""
        self.done += count
        self._note = note or self._note
        if self._bar is not None:
            self._bar.update(
                self._task, advance=count, description=f"{self.description} {self._note}".rstrip()
            )
            return
        now = time.monotonic()
        if now - self._last >= self.every:
            self._last = now
            print(self._line(now), file=sys.stderr, flush=True)

    def _line(self, now: float) -> str:
        share = f"{self.done:,}" if not self.total else f"{self.done:,}/{self.total:,}"
        rate = self.done / max(now - self._start, 1e-9)
        return f"  {self.description}: {share} {self.unit} ({rate:,.0f}/s) {self._note}".replace(
            "  (", " ("
        ).rstrip()


def track(items: Iterable[T], description: str, total: int | None = None, unit: str = "") -> Iterator[T]:
    """Yield ``items`` while showing how many have been taken."""
    with Progress(description, total, unit) as progress:
        for item in items:
            yield item
            progress.advance()
