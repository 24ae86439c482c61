"""The text of an uploaded CSV: its encoding, its delimiter, and its records, none of them without end."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from afina.serving.errors import ApiError

DELIMITERS = (",", ";", "\t", "|")

# What one row may take: the csv module parses a row at a stretch, and nothing else runs meanwhile.
MAX_ROW_CHARACTERS = 2_000_000


@contextmanager
def text_of(stream: IO[bytes], encoding: str) -> Iterator[io.TextIOWrapper]:
    """The characters of a stream from its beginning; the stream stays open."""
    stream.seek(0)
    text = io.TextIOWrapper(stream, encoding=encoding, newline="")
    try:
        yield text
    finally:
        if not stream.closed:
            text.detach()


class _Lines:
    """The lines of a text, which end with an error where those of one record hold too much."""

    def __init__(self, text: io.TextIOWrapper, limit: int) -> None:
        self._text, self._limit = text, limit
        self._first, self._left = 1, limit

    def begin(self, line: int) -> None:
        """What comes next is a new record, which begins at this line."""
        self._first, self._left = line, self._limit

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._text.readline(self._left + 1)
        if not line:
            raise StopIteration
        self._left -= len(line)
        if self._left < 0:
            raise ApiError(
                413,
                "row_too_long",
                f"line {self._first}: a row of more than {self._limit:,} characters; "
                "see that its quotes are closed",
            )
        return line


def records(text: io.TextIOWrapper, delimiter: str, limit: int) -> Iterator[tuple[int, list[str]]]:
    """The records of a CSV, each with the line at which it begins; a blank line is an empty record.

    Raises:
        ApiError: 400 the quotes of a record are wrong, 413 a record has more characters than ``limit``.
    """
    csv.field_size_limit(2**31 - 1)  # of the process; the limit here is narrower
    lines = _Lines(text, limit)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        first = reader.line_num + 1
        lines.begin(first)
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise ApiError(400, "bad_file", f"line {first}: {_quotes(error)}") from None
        if row is None:
            return
        yield first, row


def _quotes(error: csv.Error) -> str:
    if "end of data" in str(error):
        return "a quote opens a cell and is never closed; close it, or double it where it is part of the text"
    return "not valid CSV: text follows a closing quote; double the quotes that are part of the text"
