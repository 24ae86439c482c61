"""CSV and its relatives: delimiter, quoting and encoding given or detected, ragged rows set aside."""

from __future__ import annotations

import csv
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from afina.delimiters import DELIMITERS, EXCELS_LINE_LENGTH, told_delimiter
from afina.encodings import check_is_text, open_text, resolve_encoding
from afina.errors import UserError
from afina.params.extract import Source
from afina.sources.chunk import (
    CHUNK_ROWS,
    Chunk,
    Column,
    Rejects,
    check_columns,
    check_unique,
    repeated_names,
)

_SAMPLE_CHARACTERS = 1 << 20
_BLOCK_LINES = 10_000


@dataclass(frozen=True)
class Dialect:
    """How a delimited file is written; ``quotechar`` is empty where quotes mean nothing.

    ``skip_rows`` are the lines above the first row, among them Excel's own first line, as ``sep=;``.
    """

    encoding: str
    delimiter: str
    quotechar: str = '"'
    escapechar: str | None = None
    skip_rows: int = 0

    def options(self) -> dict[str, Any]:
        """Arguments for `csv.reader`."""
        quoting = csv.QUOTE_MINIMAL if self.quotechar else csv.QUOTE_NONE
        return {
            "delimiter": self.delimiter,
            "quotechar": self.quotechar or None,
            "quoting": quoting,
            "escapechar": self.escapechar,
        }


def detect_dialect(path: Path, source: Source, where: str) -> Dialect:
    """The dialect of a file: what ``source`` says, the rest from the bytes and the first million characters.

    The delimiter is the one that cuts most rows into as many cells as the first row; quotes count as quoting
    unless cells that open with one more often break the rules than keep them. A first line ``sep=;``, which
    Excel writes for itself, names the delimiter and is no row.

    Raises:
        UserError: the file is empty, not text, not in the given encoding, or compressed and damaged.
    """
    if path.stat().st_size == 0:
        raise UserError(f"{where}: the file is empty; put rows in it or remove the source")
    check_is_text(path, source.encoding, where)
    encoding = resolve_encoding(path, source.encoding, where)
    told = None if source.skip_rows else _told_delimiter(path, encoding, where)
    skip_rows = source.skip_rows if told is None else 1
    given = source.delimiter or told
    if given is not None and source.quotechar is not None:
        return Dialect(encoding, given, source.quotechar, source.escapechar, skip_rows)
    lines = _sample(path, encoding, where, skip_rows)
    tried = (given,) if given else _preferred(path)
    quotes = (source.quotechar,) if source.quotechar is not None else ('"', "")
    best, best_score = tried[0], -1.0
    for delimiter in tried:
        for quote in quotes:
            score = _agreement(lines, Dialect(encoding, delimiter, quote, source.escapechar))
            if score > best_score:
                best, best_score = delimiter, score
    quotechar = source.quotechar
    if quotechar is None:
        quotechar = '"' if _is_quoted(lines, best, encoding, source.escapechar) else ""
    return Dialect(encoding, best, quotechar, source.escapechar, skip_rows)


def _told_delimiter(path: Path, encoding: str, where: str) -> str | None:
    """The delimiter that a first line ``sep=;`` names; None where there is no such line."""
    with open_text(path, encoding, where) as stream:
        return told_delimiter(stream.readline(EXCELS_LINE_LENGTH))


def _preferred(path: Path) -> tuple[str, ...]:
    """Candidate delimiters; of two that fit equally well the first is taken."""
    if PurePosixPath(path.name.lower().removesuffix(".gz")).suffix in (".tsv", ".tab"):
        return ("\t", *(delimiter for delimiter in DELIMITERS if delimiter != "\t"))
    return DELIMITERS


def _sample(path: Path, encoding: str, where: str, skip: int) -> list[str]:
    with open_text(path, encoding, where) as stream:
        lines = list(itertools.islice(stream, skip, skip + 50_000))
    total, kept = 0, 0
    for line in lines:
        total += len(line)
        kept += 1
        if total > _SAMPLE_CHARACTERS:
            break
    return lines[:kept]


def _records(lines: Iterable[str], dialect: Dialect) -> list[list[str]]:
    csv.field_size_limit(sys.maxsize)
    return [row for row in csv.reader(lines, **dialect.options()) if row]


def _agreement(lines: Sequence[str], dialect: Dialect) -> float:
    """Share of records with as many cells as the first, which must have two at least."""
    rows = _records(lines, dialect)
    if not rows or len(rows[0]) < 2:
        return 0.0
    return sum(len(row) == len(rows[0]) for row in rows) / len(rows)


def _is_quoted(sample: Sequence[str], delimiter: str, encoding: str, escapechar: str | None) -> bool:
    """Whether quotes around cells are quoting: most records that use them keep the rules and the width."""
    if not any('"' in line for line in sample):
        return True
    lines = _Lines(sample, 0)
    options = Dialect(encoding, delimiter, '"', escapechar).options()
    kept = broken = width = 0
    while True:
        before = lines.begin - 1
        reader = csv.reader(lines.feed(), **options, strict=True)
        while True:
            lines.begin = before + reader.line_num + 1
            try:
                record = next(reader)
            except StopIteration:
                return kept >= broken
            except csv.Error as error:
                # An open quote at the end tells nothing of a sample that is cut off there.
                broken += "expected after" in str(error)
                lines.begin += 1
                break
            width = width or len(record)
            raw = lines.record(before + reader.line_num)
            if any(line.startswith('"') or f'{delimiter}"' in line for line in raw[:1]):
                kept += len(record) == width
                broken += len(record) != width


class _Lines:
    """The lines of a file, those of the current record kept, so that reading can go on from any of them."""

    def __init__(self, stream: Iterable[str], number: int) -> None:
        self._stream = iter(stream)
        self._kept: list[str] = []
        self._first = number + 1  # number of the first kept line
        self.begin = number + 1  # where the current record begins; lines before it may be forgotten
        self.exhausted = False  # a line was asked for and there was none

    def feed(self) -> Iterator[str]:
        """The lines from ``begin`` on."""
        self.exhausted = False
        yield from self._kept[self.begin - self._first :]
        while block := list(itertools.islice(self._stream, _BLOCK_LINES)):
            del self._kept[: self.begin - self._first]
            self._first = self.begin
            self._kept += block
            yield from block
        self.exhausted = True

    def record(self, end: int) -> list[str]:
        """The lines of the current record, up to number ``end``."""
        return self._kept[self.begin - self._first : end + 1 - self._first]


def read_delimited(
    source: Source, path: Path, where: str, wanted: Sequence[str] | None, rejects: Rejects
) -> Iterator[Chunk]:
    """Chunks of a delimited file; ``wanted`` None means every column.

    Rows with too many or too few cells are rejected with the line they begin on. A quote that opens and does
    not close in time takes only its own line with it: reading goes on at the next.

    Raises:
        UserError: the file is empty, has no rows, is in another encoding, is compressed and damaged, or
            lacks a column.
    """
    dialect = detect_dialect(path, source, where)
    with open_text(path, dialect.encoding, where) as stream:
        yield from _chunks(source, stream, dialect, where, wanted, rejects)


def _chunks(
    source: Source,
    stream: Iterable[str],
    dialect: Dialect,
    where: str,
    wanted: Sequence[str] | None,
    rejects: Rejects,
) -> Iterator[Chunk]:
    csv.field_size_limit(sys.maxsize)
    lines = _Lines(itertools.islice(stream, dialect.skip_rows, None), dialect.skip_rows)
    records = _read_records(lines, dialect)
    first = next(records, None)
    if first is None:
        raise UserError(f"{where}: nothing but blank lines; put rows in it or remove the source")
    names = column_names(source, first[1])
    positions = column_positions(
        source, names, len(first[1]), wanted, where, f" (delimiter {dialect.delimiter!r})"
    )
    repeated = repeated_names(names)
    width = len(names)
    rows: list[int] = []
    cells: list[list[str]] = []

    def flush() -> Chunk:
        columns: dict[str, Column] = {name: [row[at] for row in cells] for name, at in positions.items()}
        chunk = Chunk(list(rows), columns, repeated)
        rows.clear()
        cells.clear()
        return chunk

    for line, record, unclosed in records if source.header else itertools.chain([first], records):
        if unclosed or len(record) != width:
            if not unclosed and len(record) > width and not any(record[width:]):
                record = record[:width]  # delimiters at the end of the line, nothing lost
            else:
                _reject(rejects, line, record, width, unclosed)
                continue
        rows.append(line)
        cells.append(record)
        if len(rows) == CHUNK_ROWS:
            yield flush()
    if rows:
        yield flush()


def _reject(rejects: Rejects, line: int, record: list[str], width: int, unclosed: bool) -> None:
    if unclosed:
        rejects.add(line, "a quote opens and does not close", record[0])
    else:
        rejects.add(line, f"{len(record)} columns instead of {width}", " | ".join(record))


def _read_records(lines: _Lines, dialect: Dialect) -> Iterator[tuple[int, list[str], bool]]:
    """(line where it begins, cells, whether it is a line whose quote does not close) of every record.

    A record of several lines with unsound quotes and another width than the first record's, or one whose
    quote is still open at the end of the file, is undone but for its first line.
    """
    options = dialect.options()
    width = 0
    while True:
        before = lines.begin - 1
        reader = csv.reader(lines.feed(), **options)
        while True:
            begin = lines.begin = before + reader.line_num + 1
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                record, broken = [], str(error)
            else:
                if not record:
                    continue
                broken = ""
                width = width or len(record)
            end = before + reader.line_num
            if end > begin and len(record) != width and not _is_sound(lines.record(end), options):
                broken = "a quote opens and does not close"
            if broken or lines.exhausted:
                yield begin, [lines.record(begin)[0].rstrip("\r\n")], True
                lines.begin = begin + 1
                break
            yield begin, record, False


def _is_sound(record: Sequence[str], options: dict[str, Any]) -> bool:
    """Whether the quotes of a record of several lines keep the rules."""
    try:
        return len(list(csv.reader(record, **options, strict=True))) == 1
    except csv.Error:
        return False


def column_names(source: Source, first: Sequence[Any]) -> list[str]:
    """Names of the columns, from the first row or, without a header, from the source or by number."""
    if source.header:
        names = ("" if cell is None else str(cell).strip().removeprefix("\ufeff") for cell in first)
        # No one can write a name that is not text: bytes of another encoding in it become "?".
        return [name.encode("utf-8", "replace").decode() for name in names]
    if source.columns is None:
        return [str(at) for at in range(len(first))]
    unnamed = ["" if cell is None or cell == "" else str(at) for at, cell in enumerate(first)]
    return [*source.columns, *unnamed[len(source.columns) :]]


def column_positions(
    source: Source,
    names: Sequence[str],
    cells: int,
    wanted: Sequence[str] | None,
    where: str,
    detail: str = "",
) -> dict[str, int]:
    """Where each wanted column is; all named columns where ``wanted`` is None.

    Args:
        names: as `column_names` gives them.
        cells: how many the first row has.

    Raises:
        UserError: a column is missing, its name is there twice, or ``columns`` names more or fewer than
            there are.
    """
    if source.columns is not None and (len(source.columns) > cells or any(names[len(source.columns) :])):
        raise UserError(
            f"{where}: columns: {len(source.columns)} names for a first row of {cells} cells{detail}"
        )
    if wanted is None:
        return {name: names.index(name) for name in names if name}  # of two alike the first
    if source.header:
        detail += "; if the first line is already data, set header: false; if titles come first, skip_rows:"
    check_columns(wanted, [name for name in names if name], where, detail)
    check_unique(wanted, names, where, "rename the others")
    return {name: names.index(name) for name in wanted}
