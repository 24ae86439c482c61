"""What may stand between the cells of a CSV, and the line in which Excel says what does."""

from __future__ import annotations

import re

DELIMITERS = (",", ";", "\t", "|")

#: Characters of a first line, at most, of which Excel's can be.
EXCELS_LINE_LENGTH = 1024

# Programs that fill every line up to the table's width leave delimiters behind it.
_EXCELS_LINE = re.compile(r'\ufeff?("?)sep=([\t -!#-/:-@\[-`{-~])\1(?:\2|[ \t])*+[\r\n]*', re.IGNORECASE)


def told_delimiter(first_line: str) -> str | None:
    """The delimiter that a first line ``sep=;``, as Excel knows it, names; None: the line is another one."""
    match = _EXCELS_LINE.fullmatch(first_line)
    return match[2] if match else None
