"""The text of an uploaded CSV: its encoding, its delimiter, and its records, none of them without end."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import IO

from afina.delimiters import DELIMITERS, EXCELS_LINE_LENGTH, told_delimiter
from afina.serving.errors import ApiError

# What one row may take: the csv module parses a row at a stretch, and nothing else runs meanwhile.
MAX_ROW_CHARACTERS = 2_000_000


# Enough to tell the delimiter by.
_SAMPLE_CHARACTERS = 1 << 16
_QUOTED = re.compile(r'"[^"]*"')

_BLOCK = 1 << 20
_BEYOND_ASCII = bytes(range(0x80, 0x100))
_MULTIBYTE = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}", re.DOTALL
)


def encoding_of(stream: IO[bytes]) -> str:
    """UTF-8 or, by its mark, UTF-16; what was never UTF-8 is read as Windows' or ISO's Latin.

    Raises:
        ApiError: 400 no text, UTF-32, or UTF-8 with a damaged place, which another encoding would read as
            something else than it was.
    """
    stream.seek(0)
    start = stream.read(4096)
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # the first begins as UTF-16's does
        raise ApiError(400, "bad_file", "the file is in UTF-32, which is not read; save it as CSV in UTF-8")
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if b"\0" in start:
        raise ApiError(400, "bad_file", "the file is not text; save it as CSV in UTF-8")
    marked = start.startswith(codecs.BOM_UTF8)
    line = _damaged_line(stream)
    if line is None:
        return "utf-8-sig" if marked else "utf-8"
    if marked or _was_utf8(stream):
        raise ApiError(400, "bad_file", f"line {line}: not valid UTF-8; mend the line, or save the file anew")
    return "cp1252" if _decodes(stream, "cp1252") else "latin-1"


def _blocks(stream: IO[bytes]) -> Iterator[bytes]:
    stream.seek(0)
    while block := stream.read(_BLOCK):
        yield block


def _damaged_line(stream: IO[bytes]) -> int | None:
    """The first line that is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    feeds = returns = 0
    try:
        for block in _blocks(stream):
            decoder.decode(block)
            feeds += block.count(b"\n")
            returns += block.count(b"\r")
        decoder.decode(b"", True)
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        return 1 + max(feeds + before.count(b"\n"), returns + before.count(b"\r"))
    return None


def _was_utf8(stream: IO[bytes]) -> bool:
    """Does a file that is not UTF-8 hold letters of UTF-8?

    In Latin text they come about by chance where an accented capital is before a closing quote, so one in
    many accents proves nothing.
    """
    letters = inside = beyond = 0
    for block in _blocks(stream):
        found = _MULTIBYTE.findall(block)
        letters += len(found)
        inside += sum(map(len, found))
        beyond += len(block) - len(block.translate(None, _BEYOND_ASCII))
    return 10 * letters > beyond - inside


def _decodes(stream: IO[bytes], encoding: str) -> bool:
    try:
        with text_of(stream, encoding) as text:
            while text.read(_BLOCK):
                pass
    except UnicodeDecodeError:
        return False
    return True


def excels_line(text: io.TextIOWrapper) -> str | None:
    """The delimiter that a first line ``sep=;`` names; the text is at its end, or at the beginning again."""
    told = told_delimiter(text.readline(EXCELS_LINE_LENGTH))
    if told is None:
        text.seek(0)
    return told


def delimiter_of(text: io.TextIOWrapper, column: str | None) -> str:
    """What stands between the cells: of what gives the header several, what gives the first rows as many.

    Delimiters inside quotes do not count. A header that has ``column`` with one of them decides at once. The
    text is at its beginning, before and afterwards.
    """
    sample = text.read(_SAMPLE_CHARACTERS)
    text.seek(0)
    if column is not None:
        for delimiter in DELIMITERS:
            header = next(filter(None, csv.reader(_lines(sample), delimiter=delimiter)), [])
            if column in map(plain_name, header):
                return delimiter
    lines = [line for line in _lines(_QUOTED.sub('""', sample)) if line.strip()]
    if len(sample) == _SAMPLE_CHARACTERS:
        lines = lines[:-1] or lines  # the last one may have been cut
    return max(DELIMITERS, key=lambda one: _fitness([line.count(one) for line in lines]))


def _fitness(counts: list[int]) -> tuple[bool, float, int]:
    """By what delimiters are compared: several columns, the share of rows that agree, how many columns."""
    if not counts or not counts[0]:
        return False, 0.0, 0
    rows = counts[1:]
    return True, sum(count == counts[0] for count in rows) / max(1, len(rows)), counts[0]


def _lines(text: str) -> io.StringIO:
    # As the csv module wants them: str.splitlines splits at more characters.
    return io.StringIO(text, newline="")


def plain_name(name: str) -> str:
    """A column's name with its line ends as ``\\n``: a form may change them; no spaces around it."""
    return name.replace("\r\n", "\n").replace("\r", "\n").strip()


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
        self._place, self._left = "", limit

    def begin(self, place: str) -> None:
        """What comes next is a new record, which begins at this place."""
        self._place, self._left = place, self._limit

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
                f"{self._place}: a row of more than {self._limit:,} characters; "
                "shorten it, or close an open quote",
            )
        return line


def records(
    text: io.TextIOWrapper, delimiter: str, limit: int, of_sheet: bool = False, first_line: int = 1
) -> Iterator[tuple[str, list[str]]]:
    """The records of a CSV, each with its place, for messages; a blank line is an empty record.

    Args:
        text: the CSV.
        delimiter: between its cells.
        limit: most characters of a record.
        of_sheet: the places are the rows of the sheet whose rows these records are, else lines.
        first_line: number of the line at which the text is.

    Raises:
        ApiError: 400 the quotes of a record are wrong, 413 a record has more characters than ``limit``.
    """
    csv.field_size_limit(2**31 - 1)  # of the process; the limit here is narrower
    lines = _Lines(text, limit)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    for number in count(1):
        place = f"row {number}" if of_sheet else f"line {reader.line_num + first_line}"
        lines.begin(place)
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise ApiError(400, "bad_file", f"{place}: {_quotes(error)}") from None
        if row is None:
            return
        yield place, row


def _quotes(error: csv.Error) -> str:
    if "end of data" in str(error):
        return "a quote opens a cell and is never closed; close it, or double it where it is part of the text"
    return "not valid CSV: text follows a closing quote; double the quotes that are part of the text"
