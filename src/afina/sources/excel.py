"""Excel workbooks (.xlsx, .xlsm), read row by row."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from afina.errors import UserError
from afina.params.extract import Source
from afina.sources.chunk import CHUNK_ROWS, Chunk, repeated_names
from afina.sources.delimited import column_names, column_positions

_HEAD_ROWS = 1_000  # that tell how wide a sheet without a header is

# What the archive, its XML (whose errors are syntax errors) and the cells raise where they are damaged.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    ValueError,
    OSError,
)


def _open(path: Path, where: str) -> Any:
    if path.suffix.lower() == ".xls":
        raise UserError(f"{where}: the old .xls format is not read; save it as .xlsx in Excel or LibreOffice")
    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        return load_workbook(path, read_only=True, data_only=True)
    except (InvalidFileException, *_DAMAGE):
        raise UserError(f"{where}: not an Excel workbook; save it again as .xlsx, or set format:") from None


def sheet_names(path: Path, where: str) -> list[str]:
    """Names of a workbook's sheets of cells, in order; sheets that are charts are passed over.

    Raises:
        UserError: not a workbook, or nothing but charts in it.
    """
    workbook = _open(path, where)
    try:
        return _titles(workbook, where)
    finally:
        workbook.close()


def _titles(workbook: Any, where: str) -> list[str]:
    titles = [sheet.title for sheet in workbook.worksheets]
    if not titles:
        raise UserError(f"{where}: no sheet with cells in the workbook; put the rows in one")
    return titles


def first_rows(path: Path, where: str, sheet: str, count: int) -> list[tuple[int, list[Any]]]:
    """The first ``count`` rows of a sheet that are not blank, numbered as in Excel, all equally wide.

    Raises:
        UserError: not a workbook, a damaged one, or no such sheet.
    """
    workbook = _open(path, where)
    try:
        rows = _sheet(workbook, sheet, where)
        rows.reset_dimensions()
        filled = [(number, list(row)) for number, row in islice(_filled(rows, 0, where), count)]
    finally:
        workbook.close()
    width = max((len(row) for _, row in filled), default=0)
    return [(number, row + [None] * (width - len(row))) for number, row in filled]


def _rows(sheet: Any, where: str) -> Iterator[Sequence[Any]]:
    try:
        yield from sheet.iter_rows(values_only=True)
    except _DAMAGE as error:
        detail = " ".join(str(error).split())
        raise UserError(f"{where}: damaged workbook ({detail}); copy it again, or save it again") from None


def _filled(sheet: Any, skip: int, where: str) -> Iterator[tuple[int, Sequence[Any]]]:
    """Rows with a cell that is not empty, after the first ``skip``, and their numbers."""
    from openpyxl.utils.escape import unescape

    for number, row in enumerate(_rows(sheet, where), start=1):
        if number > skip and any(cell is not None and cell != "" for cell in row):
            # Excel stores characters that XML cannot hold, as a carriage return, in the form _x000D_.
            yield number, [unescape(cell) if isinstance(cell, str) else cell for cell in row]


def read_excel(source: Source, path: Path, where: str, wanted: Sequence[str] | None) -> Iterator[Chunk]:
    """Chunks of one sheet (the first by default); rows are numbered as in Excel, blank rows passed over.

    Cells keep their type: numbers, dates, text. A formula gives the value that Excel last saved.

    Raises:
        UserError: not a workbook, a damaged one, no such sheet, an empty sheet or a missing column.
    """
    workbook = _open(path, where)
    try:
        sheet = _sheet(workbook, source.sheet, where)
        sheet.reset_dimensions()  # some writers store a wrong size; the rows themselves are right
        yield from _chunks(source, sheet, f"{where}: sheet '{sheet.title}'", wanted)
    finally:
        workbook.close()


def _sheet(workbook: Any, wanted: str | int | None, where: str) -> Any:
    names = _titles(workbook, where)
    if wanted is None:
        wanted = 0
    if isinstance(wanted, int) and 0 <= wanted < len(names):
        return workbook.worksheets[wanted]
    if str(wanted) in names:  # a sheet called 2024 is written without quotes in YAML
        return workbook[str(wanted)]
    shown = ", ".join(f"{at} '{name}'" for at, name in enumerate(names))
    raise UserError(f"{where}: no sheet {wanted!r}; sheets: {shown}")


def _chunks(source: Source, sheet: Any, where: str, wanted: Sequence[str] | None) -> Iterator[Chunk]:
    numbered = _filled(sheet, source.skip_rows, where)
    head = list(islice(numbered, 1 if source.header else _HEAD_ROWS))
    if not head:
        raise UserError(f"{where}: the sheet is empty; put rows in it or name another sheet")
    # A row ends at its last cell that is not empty; other rows may have cells further to the right.
    width = max(len(row) for _, row in head)
    first = [*head[0][1], *[None] * (width - len(head[0][1]))]
    names = column_names(source, first)
    positions = column_positions(source, names, width, wanted, where)
    repeated = repeated_names(names)
    rows: list[int] = []
    columns: dict[str, list[Any]] = {name: [] for name in positions}

    def add(number: int, row: Sequence[Any]) -> None:
        rows.append(number)
        for name, at in positions.items():
            columns[name].append(row[at] if at < len(row) else None)

    for number, row in numbered if source.header else chain(head, numbered):
        add(number, row)
        if len(rows) == CHUNK_ROWS:
            yield Chunk(list(rows), {name: list(values) for name, values in columns.items()}, repeated)
            rows.clear()
            for values in columns.values():
                values.clear()
    if rows:
        yield Chunk(rows, dict(columns), repeated)
