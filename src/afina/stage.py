"""What stage scripts share: a summary line on success; an error line and exit 2 where a user has to act."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from afina.errors import UserError
from afina.files import FULL


def stage(name: str) -> Callable[[Callable[[], str | None]], Callable[[], None]]:
    """Turn a function that returns its summary, or None to say nothing, into a stage's entry point."""

    def decorate(main: Callable[[], str | None]) -> Callable[[], None]:
        def run() -> None:
            start = time.perf_counter()
            signal.signal(signal.SIGTERM, _terminated)
            try:
                summary = main()
            except UserError as error:
                _fail(name, str(error))
            except PermissionError as error:
                where = error.filename or error.strerror or "a file"
                _fail(
                    name,
                    f"{where}: no access; close the program that has it open, or change the permissions of "
                    "it and of its folder, and run again",
                )
            except OSError as error:
                if error.errno not in FULL:
                    raise
                reason, where = os.strerror(error.errno), error.filename or "a file"
                _fail(name, f"{where}: cannot be written ({reason}); make room for it and run again")
            if summary is not None:
                print(f"{name}: {summary} ({time.perf_counter() - start:.1f} s)", flush=True)

        return run

    return decorate


def warn(name: str, lines: Iterable[str]) -> None:
    """Say what may not be meant as it is set; under torchrun once, not by every process."""
    if os.environ.get("RANK", "0") == "0":
        for line in lines:
            print(f"{name}: warning: {line}", file=sys.stderr)


def note_unwatched(name: str, paths: Iterable[str], watched: Path) -> None:
    """Say which of the files that a stage reads DVC does not look at: those outside its dependency.

    Of a link to a file inside it DVC looks at what it leads to, of one to a folder it does not.
    """
    for path in map(Path, paths):
        places = [path.resolve()] if path.is_dir() else [path.resolve(), path.parent.resolve() / path.name]
        if not any(place.is_relative_to(watched.resolve()) for place in places):
            print(
                f"{name}: note: {path} is outside {watched}, so a change of it reruns nothing; "
                f"copy it there, or run `dvc repro --force --single-item {name}` after a change",
                file=sys.stderr,
            )


def _fail(name: str, message: str) -> NoReturn:
    print(f"{name}: error: {message}", file=sys.stderr)
    raise SystemExit(2) from None


def _terminated(number: int, frame: FrameType | None) -> None:
    """Leave by an exception, so that files being written are removed."""
    raise SystemExit(128 + number)
