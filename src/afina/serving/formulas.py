"""Cells of an answer that no spreadsheet runs, wherever it splits them."""

from __future__ import annotations

import re

from afina.spreadsheets import escape_formula

# A spreadsheet splits a CSV where its own settings say: a semicolon in a cell may begin a new one.
_SEPARATORS = frozenset(",;|\t\r\n")
_BEFORE_A_SIGN = re.compile(r'(?<![,;|\s"])([,;|\s"]++)(?=[=+\-@＝＋－＠])')
# What a formula needs to do harm: a call, or cells of another sheet or program. Prose has dashes, not these.
_REACHES = re.compile(r"\w[(（]|[\w'\]]!\$?[A-Za-z]")
_CALCULATES = re.compile(
    r"[+\-＋－][\d\s.,(]{0,30}\d\s{0,3}[+*/^&]"
    r"|[+\-@＋－＠]\s{0,3}\$?[A-Za-z]{1,3}\$?\d"
    r"|[+\-＋－]\s{0,3}\(+[\d.$]"
)


def harmless(cell: str) -> str:
    """A cell with an apostrophe before what a spreadsheet would run as a formula.

    That is the cell itself (see `escape_formula`), and what follows a separator in it: there ``=`` always,
    ``+``, ``-`` and ``@`` where a calculation, a reference or a call follows. Dashes, lists, telephone
    numbers and emoticons in a message stay as they are.
    """
    if _SEPARATORS.isdisjoint(cell):
        return escape_formula(cell)
    reach = max((match.start() for match in _REACHES.finditer(cell)), default=-1)

    def marked(match: re.Match[str]) -> str:
        run = match[1]
        # White space at the very beginning is none that splits: `escape_formula` sees to it.
        inside = not _SEPARATORS.isdisjoint(run if match.start() else run.strip())
        return run + "'" if inside and _would_run(cell, match.end(), reach) else run

    return escape_formula(_BEFORE_A_SIGN.sub(marked, cell))


def _would_run(cell: str, at: int, reach: int) -> bool:
    if cell[at] in "=＝":
        # Three of them are a line across a message.
        return at + 1 < len(cell) and not cell.startswith("===", at)
    return at < reach or _CALCULATES.match(cell, at) is not None
