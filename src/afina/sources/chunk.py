"""What every reader gives: some rows at a time, by column, with their place in the source."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pyarrow as pa

from afina.errors import UserError
from afina.table import REJECTED

# A column of a chunk: Arrow where the source is Arrow, else Python values as the source's library gave them.
Column: TypeAlias = pa.Array | list[Any]

CHUNK_ROWS = 50_000
_DETAIL = 200

# Why a row is rejected that some reader gave with lone surrogates in place of its bytes.
NOT_TEXT = "bytes that are not text in this encoding"


@dataclass
class Chunk:
    """Some consecutive rows: ``rows`` are their line or row numbers, ``columns`` the values by name.

    ``repeated`` are names that several columns of the source have, and how many; the first one's values are
    those given.
    """

    rows: list[int]
    columns: dict[str, Column]
    repeated: dict[str, int] = field(default_factory=dict)


@dataclass
class Rejects:
    """Rows of one source that could not be read, each with its place and reason."""

    source: str
    items: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, row: int, reason: str, detail: str = "") -> None:
        """Note that ``row`` was left out because of ``reason``; ``detail`` is cut to a readable length."""
        clean = detail.encode("utf-8", "backslashreplace").decode("utf-8")
        self.items.append((row, reason, clean if len(clean) <= _DETAIL else clean[:_DETAIL] + "…"))

    def table(self) -> pa.Table:
        """The rejected rows in the schema `afina.table.REJECTED`."""
        rows, reasons, details = zip(*self.items, strict=True) if self.items else ((), (), ())
        size = len(rows)
        columns = {
            "id": pa.nulls(size, pa.string()),
            "source": pa.array([self.source] * size, pa.string()),
            "row": pa.array(rows, pa.int64()),
            "reason": pa.array(reasons, pa.string()),
            "detail": pa.array(details, pa.string()),
        }
        return pa.table(columns, schema=REJECTED)


def check_columns(wanted: Sequence[str], available: Iterable[str], where: str, hint: str = "") -> None:
    """Raise `UserError` if a wanted column is not there, telling which are and which is nearest."""
    known = list(available)
    for name in wanted:
        if name in known:
            continue
        lower = {other.lower(): other for other in reversed(known)}
        near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
        suggestion = f"did you mean '{lower[near[0]]}'? " if near else ""
        shown = ", ".join(_short(column) for column in known[:30]) + (" …" if len(known) > 30 else "")
        raise UserError(f"{where}: no column '{name}'; {suggestion}columns: {shown or 'none'}{hint}")


def check_unique(wanted: Iterable[str], available: Iterable[str], where: str, fix: str) -> None:
    """Raise `UserError` if a wanted column's name is there twice; ``fix`` says what to do about it."""
    counts = Counter(available)
    for name in wanted:
        if counts[name] > 1:
            raise UserError(f"{where}: {counts[name]} columns are called '{name}'; {fix}")


def repeated_names(names: Iterable[str]) -> dict[str, int]:
    """The names that are there more than once, and how often."""
    return {name: count for name, count in Counter(names).items() if name and count > 1}


def _short(name: str) -> str:
    name = " ".join(name.split())
    return f"'{name}'" if len(name) <= 40 else f"'{name[:40]}…'"


_MISSING = object()


def lookup(document: Mapping[str, Any], name: str, parts: Sequence[str]) -> Any:
    """The value at a dotted path, or `_MISSING`; a list is indexed by number, or mapped over by name."""
    if name in document:
        return document[name]
    return _walk(document, parts) if len(parts) > 1 else _MISSING


def _walk(value: Any, parts: Sequence[str]) -> Any:
    for position, part in enumerate(parts):
        if isinstance(value, Mapping):
            if part not in value:
                return _MISSING
            value = value[part]
        elif isinstance(value, list):
            if not part.isdecimal():
                found = [_walk(item, parts[position:]) for item in value]
                found = [item for item in found if item is not _MISSING]
                return found if found or not value else _MISSING
            if int(part) >= len(value):
                return _MISSING
            value = value[int(part)]
        else:
            return _MISSING
    return value


def flat_keys(document: Mapping[str, Any], depth: int = 8, prefix: str = "") -> Iterator[str]:
    """The dotted paths of a document's values, at most ``depth`` levels down."""
    for key, value in document.items():
        if isinstance(value, Mapping) and value and depth > 1:
            yield from flat_keys(value, depth - 1, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def document_chunks(
    documents: Iterable[tuple[int, Mapping[str, Any]]],
    wanted: Sequence[str] | None,
    where: str,
    size: int = CHUNK_ROWS,
    known: Iterable[str] = (),
    limit: int | None = None,
) -> Iterator[Chunk]:
    """Columns of documents that need not all have the same fields; an absent field is None.

    With ``wanted`` None the columns are all dotted paths of the first documents. ``known`` are fields that
    the source has although these documents, cut to what is wanted, may not show them. ``limit`` is the number
    of documents after which the caller may stop.

    Raises:
        UserError: a wanted field is in no document at all, or in none of those read up to ``limit``.
    """
    seen: dict[str, None] = dict.fromkeys(known)
    elsewhere = frozenset(seen)  # a later document has it, though a limit may leave that one unread
    found: set[str] = set()
    inspected = count = 0
    rows: list[int] = []
    batch: list[Mapping[str, Any]] = []

    def flush() -> Chunk:
        names = list(seen) if wanted is None else wanted
        columns: dict[str, Column] = {}
        for name in names:
            parts = name.split(".")
            values = [lookup(document, name, parts) for document in batch]
            if name not in found and any(value is not _MISSING for value in values):
                found.add(name)
            columns[name] = [None if value is _MISSING else value for value in values]
        chunk = Chunk(list(rows), columns)
        rows.clear()
        batch.clear()
        return chunk

    def check(unread: frozenset[str] = frozenset()) -> None:
        missing = [name for name in wanted or () if name not in found | unread]
        check_columns(missing, [name for name in seen if name not in missing], where)

    for row, document in documents:
        if inspected < (200 if wanted is not None else size):
            seen.update(dict.fromkeys(flat_keys(document)))
            inspected += 1
        rows.append(row)
        batch.append(document)
        count += 1
        if len(rows) == size:
            chunk = flush()
            if limit is not None and count >= limit:
                check(elsewhere)
            yield chunk
    last = [flush()] if rows else []
    if count:
        check()  # before the last rows are given: a caller at its limit asks for no more
    yield from last
