"""Read a workbook on stdin, write CSV on stdout: the process that `afina.serving.workbook` starts.

Imports little: it starts anew for each workbook.
"""

from __future__ import annotations

import csv
import errno
import json
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator
from typing import IO, Any

CPU_SECONDS = 60
MAX_ENTRIES = 2000
# Excel's own limit; between two rows that a file names there may be so many that it does not.
MAX_SHEET_ROWS = 1 << 20
_BLOCK = 1 << 20
_TITLE_CHARACTERS = 31  # as Excel allows
_SURROGATE = re.compile("[\ud800-\udfff]")

REFUSED, DISK_FULL = 2, 3  # exit statuses
_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))

NOT_A_WORKBOOK = (400, "bad_file", "the file is not a readable Excel workbook; save it again as .xlsx or CSV")
TOO_MUCH = (413, "workbook_too_large", "the workbook takes too much to unpack; save it as CSV")


class _Unsaved:
    """Stands for a formula whose result the file does not hold."""


_UNSAVED = _Unsaved()


def unsaved_formula(place: str) -> str:
    """What is said of a formula without a saved result."""
    return f"{place}: the formula's result is not saved; open the file in Excel or LibreOffice and save it"


class RefusedError(Exception):
    """What the file is refused with: status, code, message."""


def check_archive(stream: IO[bytes], max_inflated_bytes: int) -> None:
    """Refuse an archive that unpacks to too much, whatever it declares, or whose XML declares entities."""
    stream.seek(0)
    with zipfile.ZipFile(stream) as archive:
        entries = archive.infolist()
        if len(entries) > MAX_ENTRIES or sum(entry.file_size for entry in entries) > max_inflated_bytes:
            raise RefusedError(*TOO_MUCH)
        total = 0
        for entry in entries:
            if entry.flag_bits & 1:
                raise RefusedError(
                    400, "bad_file", "the workbook is protected by a password; save it without"
                )
            tail = b""
            with archive.open(entry) as member:
                while block := member.read(_BLOCK):
                    total += len(block)
                    if total > max_inflated_bytes:
                        raise RefusedError(*TOO_MUCH)
                    # With NUL bytes out, UTF-16 looks like ASCII.
                    plain = (tail + block).replace(b"\0", b"")
                    if b"<!DOCTYPE" in plain or b"<!ENTITY" in plain:
                        raise RefusedError(*NOT_A_WORKBOOK)
                    tail = block[-32:]
    stream.seek(0)


class _Target:
    """Takes the lines of a CSV as UTF-8, up to so many bytes."""

    def __init__(self, stream: IO[bytes], max_bytes: int) -> None:
        self._stream, self.left = stream, max_bytes

    def write(self, line: str) -> None:
        data = line.encode()
        self.left -= len(data)
        if self.left < 0:
            raise RefusedError(*TOO_MUCH)
        self._stream.write(data)


def write_rows(
    stream: IO[bytes], target: IO[bytes], max_bytes: int, max_rows: int, max_columns: int
) -> dict[int, str]:
    """Write the rows of the first visible sheet of a checked workbook as CSV, empty ones as blank lines.

    Returns:
        Where the first formula without a saved result is, by the position of its column; after
        `_tell_unsaved`.
    """
    from openpyxl import load_workbook
    from openpyxl.utils import get_column_letter

    workbook = load_workbook(stream, read_only=True, data_only=True, keep_links=False)
    if not workbook.worksheets:
        raise RefusedError(400, "bad_file", "the workbook has no sheet with cells; put the rows in one")
    # What Excel shows first; a hidden sheet holds lists and settings of a form, as a rule.
    visible = [sheet for sheet in workbook.worksheets if sheet.sheet_state == "visible"]
    sheet = (visible or workbook.worksheets)[0]
    sheet.reset_dimensions()
    lines = _Target(target, max_bytes)
    writer = csv.writer(lines, lineterminator="\r\n")
    written = count = 0
    unsaved: dict[int, int] = {}
    for count, (number, row) in enumerate(_filled(sheet.iter_rows(values_only=True), unsaved)):
        if count > max_rows:
            raise RefusedError(413, "too_many_rows", f"the file has too many rows; at most {max_rows}")
        if len(row) > max_columns:
            raise RefusedError(
                413, "too_many_columns", f"the file has too many columns; at most {max_columns}"
            )
        # One string may stand in all cells: see before they are put together.
        if sum(map(len, row)) > lines.left:
            raise RefusedError(*TOO_MUCH)
        # What is wrong with a row is told by its number in the sheet.
        writer.writerows([] for _ in range(written + 1, number))
        writer.writerow(row)
        written = number
    title = sheet.title[:_TITLE_CHARACTERS]
    places = {
        column: f"sheet {title}, cell {get_column_letter(column + 1)}{number}"
        for column, number in unsaved.items()
        if column < max_columns
    }
    # Without those formulas no row is left.
    if places and not count:
        raise RefusedError(400, "bad_file", unsaved_formula(next(iter(places.values()))))
    return places


def _tell_unsaved() -> None:
    """Let openpyxl give `_UNSAVED` for a formula without a saved result, which to it is a blank cell.

    It has no way to tell them apart but a second reading without any results. For this whole process, which
    ends with its one workbook.
    """
    from openpyxl.worksheet import _reader

    plain = _reader.WorkSheetParser.parse_cell

    def parse_cell(parser: Any, element: Any) -> dict[str, Any]:
        cell: dict[str, Any] = plain(parser, element)
        if cell["value"] is None and element.find(_reader.FORMULA_TAG) is not None:
            # A saved result may be the empty text.
            is_text = element.get("t") == "str" and element.find(_reader.VALUE_TAG) is not None
            cell["value"] = None if is_text else _UNSAVED
        return cell

    _reader.WorkSheetParser.parse_cell = parse_cell


def _filled(rows: Iterable[tuple[Any, ...]], unsaved: dict[int, int]) -> Iterator[tuple[int, list[str]]]:
    """Rows that hold something with their numbers, all as wide as the first of them, cells as text.

    In ``unsaved`` it notes the first row with a formula without a result, by the position of its column.
    """
    width = 0
    for number, row in enumerate(rows, 1):
        if number > MAX_SHEET_ROWS:
            raise RefusedError(*TOO_MUCH)
        cells = ["" if cell is None or cell is _UNSAVED else _text(cell) for cell in row]
        if _UNSAVED in row:
            for column, cell in enumerate(row):
                if cell is _UNSAVED:
                    unsaved.setdefault(column, number)
        while len(cells) > width and not cells[-1]:
            cells.pop()
        if any(cells):
            width = width or len(cells)
            yield number, cells + [""] * (width - len(cells))


def _text(cell: Any) -> str:
    """A cell as text that UTF-8 and CSV can hold."""
    from openpyxl.utils.escape import unescape

    if not isinstance(cell, str):
        return str(cell)
    # Excel stores characters that XML cannot hold in the form _x000D_, also halves of others, and NUL.
    text: str = unescape(cell).replace("\0", "\ufffd")
    if _SURROGATE.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def main() -> None:
    """Read a workbook on stdin, write CSV on stdout and, as JSON on stderr, where results are missing.

    Status 2 with a line of JSON on stderr: refused; 3: there is no room for the CSV.
    """
    max_inflated_bytes, max_rows, max_columns, memory_bytes = map(int, sys.argv[1:5])
    _bound(memory_bytes)
    try:
        with open(0, "rb", closefd=False) as stream, open(1, "wb", closefd=False) as target:
            check_archive(stream, max_inflated_bytes)
            _tell_unsaved()
            unsaved = write_rows(stream, target, max_inflated_bytes, max_rows, max_columns)
        print(json.dumps(unsaved), file=sys.stderr)
        return
    except RefusedError as error:
        reason = error.args
    except MemoryError:
        reason = TOO_MUCH
    except Exception as error:  # openpyxl raises whatever a wrong file makes it stumble over
        if isinstance(error, OSError) and error.errno in _FULL:
            raise SystemExit(DISK_FULL) from None
        reason = NOT_A_WORKBOOK
    print(json.dumps(reason), file=sys.stderr)
    raise SystemExit(REFUSED)


def _bound(memory_bytes: int) -> None:
    try:
        import resource
    except ModuleNotFoundError:  # not on Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
