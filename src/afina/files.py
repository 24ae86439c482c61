"""Writing files so that a reader sees the old one or the new one, never half of either."""

from __future__ import annotations

import csv
import errno
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from afina.errors import UserError

# What a file system says that has no room, or no quota, for what is being written.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def check_replaceable(path: Path) -> None:
    """Refuse what a file would do away with for all programs, as it would with /dev/null.

    Raises:
        UserError: a device or a pipe.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{path}: a device or a pipe, which no file may replace; name a file")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success rename it over ``path``, on failure remove it.

    The temporary may become a file or a folder; a folder replaces a folder whole, a file never does. What
    killed processes left beside ``path`` is removed.

    Raises:
        IsADirectoryError: the temporary became a file, and ``path`` is a folder.
        OSError: where the disk is full, or the temporary may not be written, it names ``path``.
        UserError: ``path`` is nothing that `check_replaceable` lets be replaced.
    """
    check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if not _is_running(left.suffixes[-2].removeprefix(".")):
            _remove(left)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except OSError as error:
        refused = isinstance(error, PermissionError) and error.filename in (None, str(temporary))
        if refused or error.errno in FULL:
            error.filename = str(path)  # the error of a write names no file
        raise
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_running(pid: str) -> bool:
    """Is there a process of this number? What is no number is nobody's business."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except (PermissionError, ValueError):
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 with ``\\n`` line ends."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, keys in the order given, accents kept; NaN is an error."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; run `dvc repro` to make it") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: line {error.lineno}: not valid JSON ({error.msg})") from error


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a UTF-8 CSV with a header row; floats keep the digits that ``str`` gives."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(UnixLines(stream), lineterminator="\r\n")
        writer.writerow(header)
        writer.writerows(rows)


class UnixLines:
    """Writes lines ended by ``\\r\\n``, with which the csv module quotes a ``\\r`` in a cell, as ``\\n``."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, line: str) -> None:
        self.stream.write(line.removesuffix("\r\n") + "\n")


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
