"""Which files an input names: a file, a folder of files, a pattern; here or behind a URL."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias
from urllib.parse import unquote

from afina.errors import UserError
from afina.scoring.storage import Storage, is_remote, readable

Format: TypeAlias = Literal["csv", "jsonl", "parquet"]

SUFFIXES: dict[str, Format] = {
    ".csv": "csv", ".tsv": "csv", ".tab": "csv", ".txt": "csv",
    ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip

_PATTERN = re.compile(r"[*?\[]")
_KNOWN = ".csv, .tsv, .jsonl or .parquet"


@dataclass(frozen=True)
class InputFile:
    """One file of the input.

    Attributes:
        location: path or URL.
        name: what messages call it: below the folder or pattern's fixed part, else the location.
        format: by its suffix.
        partitions: names and values of the ``name=value`` folders that it is in, below the folder or anywhere
            in the pattern.
        size: in bytes.
        stamp: what changes when the file does.
    """

    location: str
    name: str
    format: Format
    partitions: tuple[tuple[str, str], ...]
    size: int
    stamp: str


def format_of(name: str) -> Format | None:
    """What a file is, by its suffix; None for a suffix that is not read or written."""
    lower = name.lower()
    text = lower.removesuffix(".gz")
    found = SUFFIXES.get(posixpath.splitext(text)[1])
    return None if found == "parquet" and text != lower else found


def find_inputs(
    source: str, storage: Storage, passed_over: Callable[[str], bool] = lambda location: False
) -> list[InputFile]:
    """The files that ``source`` names, in order of name; of a folder or pattern without those passed over.

    In folders, names that begin with ``.`` or ``_`` are passed over, as Spark and Hive do. A link in a folder
    or pattern that leads out of it is an error: whoever may put files there may not thereby read others. One
    that leads to a file that is read anyway adds nothing.

    Raises:
        UserError: nothing is there, a file is of an unknown format, formats are mixed, or a link leads out.
    """
    of_pattern = False
    if storage.is_folder(source):
        root = source
        found = storage.below(source)
        locations = [item for item in found if not _is_hidden(item, source) and not passed_over(item)]
        if not locations:
            raise UserError(f"{source}: no file in the folder; put {_KNOWN} files in it")
    elif storage.exists(source):
        root, locations = "", [source]
    elif _PATTERN.search(source):
        root, of_pattern = _fixed_part(source), True
        found = storage.matching(source)
        locations = [item for item in found if not _is_hidden(item, root) and not passed_over(item)]
        if not locations:
            raise UserError(f"{source}: no file matches the pattern; put it in quotes and check it")
    else:
        raise UserError(f"{source}: no such file or folder; check the name")
    if root and not is_remote(source):
        _check_links(root, locations)
        # What a link to a folder in here leads to is found in its own place.
        locations = _once(root, [location for location in locations if not os.path.isdir(location)])
        if not locations:
            raise UserError(f"{source}: no file in the folder but links; put {_KNOWN} files in it")
    files = [_input_file(location, root, of_pattern, storage) for location in locations]
    formats = sorted({file.format for file in files})
    if len(formats) > 1:
        raise UserError(
            f"{source}: holds files of several formats ({', '.join(formats)}); score one at a time"
        )
    return files


def _input_file(location: str, root: str, of_pattern: bool, storage: Storage) -> InputFile:
    name = _relative(location, root) if root else location
    kind = format_of(location)
    if kind is None:
        raise UserError(f"{location}: not a format that is read; give {_KNOWN} (the text ones perhaps .gz)")
    with readable(location):
        size, stamp = storage.stamp(location)
    partitions = _partitions(location if of_pattern else name if root else "")
    return InputFile(location, name, kind, partitions, size, stamp)


def _partitions(name: str) -> tuple[tuple[str, str], ...]:
    """``year=2025/month=01/a.csv`` -> (("year", "2025"), ("month", "01")). Only ever data, never a path."""
    pairs = [part.split("=", 1) for part in re.split(r"[/\\]", name)[:-1] if "=" in part]
    return tuple((_shown(unquote(key)), _shown(unquote(value))) for key, value in pairs if key)


def _shown(name: str) -> str:
    """A name as text, also one of bytes that are none."""
    return name.encode("utf-8", "backslashreplace").decode()


def _relative(location: str, root: str) -> str:
    return location.removeprefix(root).lstrip("/" + os.sep) or location


def _is_hidden(location: str, root: str) -> bool:
    return any(part.startswith((".", "_")) for part in re.split(r"[/\\]", _relative(location, root)))


def _fixed_part(pattern: str) -> str:
    """The folder of a pattern up to its first special character."""
    start = pattern[: _PATTERN.search(pattern).start()]  # type: ignore[union-attr]  # the caller saw one
    if is_remote(pattern):
        return start.rsplit("/", 1)[0]
    return os.path.dirname(start) or os.curdir


def _check_links(root: str, locations: list[str]) -> None:
    inside = os.path.join(os.path.realpath(root), "")
    for location in locations:
        if not os.path.realpath(location).startswith(inside):
            raise UserError(f"{location}: a link that leads out of {root}; name that file itself")


def _once(root: str, locations: list[str]) -> list[str]:
    """One location of each file: its own place, else the first link to it."""
    inside = os.path.realpath(root)
    chosen: dict[str, str] = {}
    for location in locations:
        real = os.path.realpath(location)
        if real not in chosen or real == os.path.join(inside, _relative(location, root)):
            chosen[real] = location
    return sorted(chosen.values())
