"""Tables that people upload: CSV, TSV and Excel files, checked once, then read in chunks."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import IO

from afina.serving.csv_text import (
    MAX_ROW_CHARACTERS,
    delimiter_of,
    encoding_of,
    excels_line,
    plain_name,
    records,
    text_of,
)
from afina.serving.errors import ApiError
from afina.serving.settings import ServeSettings
from afina.serving.workbook_reader import unsaved_formula

MAX_COLUMNS = 500

# A column holds texts if its filled cells have so many words on average: names and codes have fewer.
_TEXT_WORDS = 3.0
_LOOK_ROWS = 200
# The container of an encrypted workbook, and of Excel's format before .xlsx.
_OLE = b"\xd0\xcf\x11\xe0"


@dataclass(frozen=True)
class Column:
    """Which column holds the texts; without either: it is found if there is but one that does.

    Attributes:
        name: of the column, as `plain_name` has it.
        index: its position, 0 for the first.
    """

    name: str | None = None
    index: int | None = None


@dataclass(frozen=True)
class Table:
    """A table that has been read once to its end: every row is as wide as the header.

    Attributes:
        stream: the CSV; closed by `close`.
        encoding: of the CSV.
        delimiter: between its cells.
        header: names of the columns.
        rows: how many there are below the header; blank lines do not count.
        column: position of the text.
        skipped: lines before the header.
    """

    stream: IO[bytes]
    encoding: str
    delimiter: str
    header: list[str]
    rows: int
    column: int
    skipped: int = 0

    def chunks(self, size: int) -> Iterator[list[list[str]]]:
        """The rows below the header, ``size`` at a time."""
        with text_of(self.stream, self.encoding) as text:
            lines = islice(text, self.skipped, None)
            rows = filter(None, csv.reader(lines, delimiter=self.delimiter, strict=True))
            next(rows)
            while chunk := list(islice(rows, size)):
                yield chunk

    def close(self) -> None:
        """Remove the file."""
        self.stream.close()


def kind_of(stream: IO[bytes], filename: str) -> str:
    """csv, tsv or xlsx, by the ending of a file's name; its first bytes must not say otherwise.

    Raises:
        ApiError: 400 a workbook with a password, 415 another kind of file.
    """
    ending = filename.lower().rpartition(".")[2] if "." in filename else ""
    stream.seek(0)
    start = stream.read(4)
    is_zip = start == b"PK\x03\x04"
    if ending not in ("csv", "tsv", "xlsx") or (is_zip and ending != "xlsx"):
        raise ApiError(
            415, "unsupported_file", "the file is none of .csv, .tsv, .xlsx; save it as one of them"
        )
    if ending == "xlsx" and start == _OLE:
        raise ApiError(
            400,
            "bad_file",
            "the workbook is protected by a password or is an old .xls; save it as .xlsx without a password",
        )
    return ending


def read_csv(
    stream: IO[bytes],
    delimiter: str | None,
    column: Column | None,
    settings: ServeSettings,
    of_sheet: bool = False,
    unsaved: Mapping[int, str] | None = None,
) -> Table:
    """Check an uploaded CSV and find its texts; takes seconds for a large one.

    Args:
        stream: the file; the table returned owns it.
        delimiter: between cells, unless a first line ``sep=;`` names another; None: it is found.
        column: the one with the texts, if it was named.
        of_sheet: it was made of a worksheet, row by row.
        unsaved: columns of the worksheet with a formula whose result is missing, and where one is.

    Raises:
        ApiError: 400 the file or the column is wrong, 413 beyond a limit.
    """
    table = _inspect(stream, encoding_of(stream), delimiter, column or Column(), settings, of_sheet)
    if unsaved and (place := unsaved.get(table.column)) is not None:
        raise ApiError(400, "bad_file", unsaved_formula(place))
    return table


def _inspect(
    stream: IO[bytes],
    encoding: str,
    delimiter: str | None,
    column: Column,
    settings: ServeSettings,
    of_sheet: bool,
) -> Table:
    """Read a CSV to its end, so that what is wrong with it shows before the first prediction."""
    try:
        with text_of(stream, encoding) as text:
            told = None if of_sheet else excels_line(text)
            skipped = 0 if told is None else 1
            delimiter = told or delimiter or delimiter_of(text, column.name)
            limit = max(MAX_ROW_CHARACTERS, 4 * settings.max_characters)
            rows = records(text, delimiter, limit, of_sheet, 1 + skipped)
            # The reader of workbooks bounds blank rows.
            header, count, first_rows = _check_rows(rows, settings, None if of_sheet else settings.max_rows)
    except UnicodeError:
        raise ApiError(400, "bad_file", "the file is not text in one encoding; save it as UTF-8") from None
    return Table(stream, encoding, delimiter, header, count, _column(header, first_rows, column), skipped)


def _check_rows(
    rows: Iterator[tuple[str, list[str]]], settings: ServeSettings, most_blank: int | None
) -> tuple[list[str], int, list[list[str]]]:
    """The header, the number of rows below it, and the first of them."""
    header: list[str] | None = None
    first_rows: list[list[str]] = []
    count = blank = 0
    for place, row in rows:
        if not row:
            blank += 1
        elif header is None:
            header = row
            if len(header) > MAX_COLUMNS:
                raise ApiError(
                    413, "too_many_columns", f"the file has too many columns; at most {MAX_COLUMNS}"
                )
        else:
            count += 1
            _check_row(place, row, len(header), settings)
            if count <= _LOOK_ROWS:
                first_rows.append(row)
        if count > settings.max_rows or (most_blank is not None and blank > most_blank):
            raise ApiError(413, "too_many_rows", f"the file has too many rows; at most {settings.max_rows}")
    if header is None:
        raise ApiError(400, "bad_file", "the file is empty")
    if not count:
        raise ApiError(400, "bad_file", "the file has no rows below its header")
    return header, count, first_rows


def _check_row(place: str, row: list[str], width: int, settings: ServeSettings) -> None:
    if len(row) != width:
        raise ApiError(
            400, "bad_file", f"{place}: {len(row)} cells where the header has {width}; mend the row"
        )
    if max(map(len, row)) > settings.max_characters:
        raise ApiError(
            413, "text_too_long", f"{place}: a cell of more than {settings.max_characters} characters"
        )


def _column(header: list[str], rows: list[list[str]], wanted: Column) -> int:
    """Position of the column with the texts."""
    if wanted.index is not None:
        if wanted.index < len(header):
            return wanted.index
        raise _choose(header, "no column has this position")
    if wanted.name is not None:
        places = [at for at, name in enumerate(header) if plain_name(name) == wanted.name]
        if len(places) == 1:
            return places[0]
        shown = repr(wanted.name[:100])
        raise _choose(header, f"several columns are named {shown}" if places else f"no column {shown}")
    if len(header) == 1:
        return 0
    found = [at for at in range(len(header)) if _words([row[at] for row in rows]) >= _TEXT_WORDS]
    if len(found) != 1:
        raise _choose(header, "which column holds the texts cannot be told")
    return found[0]


def _words(cells: list[str]) -> float:
    """Words that have letters in a filled cell, on average."""
    filled = [cell for cell in cells if cell.strip()]
    words = sum(any(map(str.isalpha, word)) for cell in filled for word in cell[:2000].split())
    return words / len(filled) if filled else 0.0


def _choose(header: list[str], problem: str) -> ApiError:
    shown = ", ".join(name[:100] for name in header[:20]) + (", …" if len(header) > 20 else "")
    message = f"{problem}; name one as column, or its position as column_index: {shown}"
    return ApiError(400, "column_needed", message, extra={"columns": header})
