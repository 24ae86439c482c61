"""What may stand between the cells of a CSV, and the line in which Excel says what does."""

from __future__ import annotations

import re

DELIMITERS = (",", ";", "\t", "|")

#: Enough characters of a first line to tell whether it is Excel's.
EXCELS_LINE_LENGTH = 16

_EXCELS_LINE = re.compile(r'\ufeff?("?)sep=([^\w"\r\n])\1[\r\n]*', re.IGNORECASE)


def told_delimiter(first_line: str) -> str | None:
    """The delimiter that a first line ``sep=;``, which Excel writes for itself, names; None: another line."""
    match = _EXCELS_LINE.fullmatch(first_line)
    return match[2] if match else None
