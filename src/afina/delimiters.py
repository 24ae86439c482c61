"""What may stand between the cells of a CSV, and the line in which Excel says what does."""

from __future__ import annotations

import re

#: What people call them; the first that fits is taken where none is given.
NAMES = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}
DELIMITERS = tuple(NAMES.values())

#: Characters of a first line, at most, of which Excel's can be.
EXCELS_LINE_LENGTH = 1024

# Programs that fill every line up to the table's width leave delimiters behind it.
_EXCELS_LINE = re.compile(r'\ufeff?("?)sep=([\t -!#-/:-@\[-`{-~])\1(?:\2|[ \t])*+[\r\n]*', re.IGNORECASE)


def named(delimiter: str) -> str:
    """The delimiter that a name, or ``\\t`` as programs write it, stands for; anything else is itself."""
    return NAMES.get("tab" if delimiter == "\\t" else delimiter, delimiter)


def likely_delimiter(header: str) -> str:
    """The one that a line of columns' names has most of; a comma where it has none."""
    return max(DELIMITERS, key=header.count)


def told_delimiter(first_line: str) -> str | None:
    """The delimiter that a first line ``sep=;``, as Excel knows it, names; None: the line is another one."""
    match = _EXCELS_LINE.fullmatch(first_line)
    return match[2] if match else None
