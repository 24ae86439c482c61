"""Cells that are safe to open in a spreadsheet."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

# What Excel, LibreOffice and Google Sheets take for the start of a formula, white space before it or not.
_FORMULA = re.compile(r"\s*[=+\-@\t\r＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?%?")


def escape_formula(cell: str) -> str:
    """Put an apostrophe before a cell that a spreadsheet would run as a formula.

    Message texts are written by strangers: ``=HYPERLINK(...)`` or ``@SUM(...)`` in a CSV is run by whoever
    opens it. Numbers (``-3.5``, ``+7``) and lone signs stay as they are. Source: OWASP, "CSV Injection".
    """
    if not _FORMULA.match(cell) or _NUMBER.fullmatch(cell.strip()) or len(cell.strip()) <= 1:
        return cell
    return "'" + cell


def escape_row(cells: Iterable[Any]) -> list[Any]:
    """A row with `escape_formula` applied to its texts; numbers and the rest stay as they are."""
    return [escape_formula(cell) if isinstance(cell, str) else cell for cell in cells]
