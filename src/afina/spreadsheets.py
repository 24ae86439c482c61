"""Cells that are safe to open in a spreadsheet, wherever it splits them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

# What Excel, LibreOffice and Google Sheets take for the start of a formula, white space before it or not.
_FORMULA = re.compile(r"\s*[=+\-@\t\r＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?%?")

# A spreadsheet splits a CSV where its own settings say: a semicolon in a cell may begin a new one.
_SEPARATORS = frozenset(",;|\t\r\n")
_BEFORE_A_SIGN = re.compile(r'(?<![,;|\s"])([,;|\s"]++)(?=[=+\-@＝＋－＠])')
# What a formula needs to do harm: a call, or cells of another sheet or program. Prose has dashes, not these.
_REACHES = re.compile(
    r"\w{2}[(（](?![aeo]?s?[)）])"  # not what Spanish has: vecino(a)s
    r"|(?i:HYPERLINK|HIPERV[IÍ]NCULO|WEBSERVICE|SERVICIOWEB|IMPORT\w{3,8}|FILTERXML|XMLFILTRO|IMAGEN?|DDE|RTD|CALL"
    r"|REGISTER|EXEC)\s{1,3}[(（]"
    r"|['\]]!|\w!\$?[A-Za-z]{1,3}\$?\d"
)
# No formula begins with a closing bracket. What begins as one could is a face where nothing follows to make
# one of, up to what may end the cell: after a bracket or a sign no word, after a letter words alone.
_SMILE = re.compile(r"[=＝]\)[)(DPp/]*(?=[\s.,;]|$)")
_FACE = re.compile(
    r"[=＝](?:[DPp]+(?=[\s.,;]|$)[^\d()[\]{}（）!！|｜:,;\r\n]{0,300}"
    r"|[(DPp/]+(?=[\s.,;]|$)[^\w()[\]{}（）!！|｜,;\r\n]{0,300})(?=[,;\r\n]|$)"
)
_CALCULATES = re.compile(
    r"[+\-＋－][\d\s.,(]{0,30}\d\s{0,3}[+*/^&]"
    r"|[+\-@＋－＠]\s{0,3}\$?[A-Za-z]{1,3}\$?\d"
    r"|[+\-＋－]\s{0,3}\(+[\d.$]"
)
# Where `escape_formula` puts an apostrophe.
_ESCAPE = re.compile(r"""(?:\A'(?=\s*[=+\-@\t\r＝＋－＠])|(?<=[,;|\s"])'(?=[=+\-@＝＋－＠]))""")


def escape_formula(cell: str) -> str:
    """Put an apostrophe before what a spreadsheet would run as a formula.

    Message texts are written by strangers: ``=HYPERLINK(...)`` or ``@SUM(...)`` in a CSV is run by whoever
    opens it. Escaped is the cell itself, numbers (``-3.5``, ``+7``) and lone signs left out, and what follows
    a separator inside it: there ``=`` always, ``+``, ``-`` and ``@`` where a calculation, a reference or a
    call follows. Dashes, lists, telephone numbers and emoticons in a message stay as they are. Source: OWASP,
    "CSV Injection".
    """
    if not _SEPARATORS.isdisjoint(cell):
        cell = _escape_inside(cell)
    if not _FORMULA.match(cell) or _NUMBER.fullmatch(cell.strip()) or len(cell.strip()) <= 1:
        return cell
    return "'" + cell


def unescape_formula(cell: str) -> str:
    """The text that `escape_formula` made a cell of; a cell it did not make as it is."""
    text = _ESCAPE.sub("", cell)
    return text if text != cell and escape_formula(text) == cell else cell


def _escape_inside(cell: str) -> str:
    reach = max((match.start() for match in _REACHES.finditer(cell)), default=-1)

    def marked(match: re.Match[str]) -> str:
        run = match[1]
        splits = not _SEPARATORS.isdisjoint(run)
        return run + "'" if splits and _would_run(cell, match.end(), reach) else run

    return _BEFORE_A_SIGN.sub(marked, cell)


def _would_run(cell: str, at: int, reach: int) -> bool:
    if cell[at] in "=＝":
        # Three of them are a line across a message.
        if at + 1 == len(cell) or cell.startswith("===", at) or _SMILE.match(cell, at):
            return False
        return at < reach or _FACE.match(cell, at) is None
    return at < reach or _CALCULATES.match(cell, at) is not None


def escape_row(cells: Iterable[Any]) -> list[Any]:
    """A row with `escape_formula` applied to its texts; numbers and the rest stay as they are."""
    return [escape_formula(cell) if isinstance(cell, str) else cell for cell in cells]
