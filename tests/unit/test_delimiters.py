"""The line in which Excel says what stands between cells."""

from __future__ import annotations

import pytest

from afina.delimiters import told_delimiter


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", " ", ":", "^", "~"])
@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\r"])
def test_the_delimiter_of_excels_line(delimiter: str, end: str) -> None:
    for line in (f"sep={delimiter}", f"SEP={delimiter}", f'"sep={delimiter}"', f"\ufeffsep={delimiter}"):
        assert told_delimiter(line + end) == delimiter
        assert told_delimiter(f"{line}{delimiter * 20} \t{end}") == delimiter


@pytest.mark.parametrize(
    "line",
    [
        "", "\n", "sep=", "sep=\n", "sep=a", "sep=ñ", "sep=\0", "sep=\udca7", 'sep="', "sep=;a", "sep=;,",
        "sep;=;", " sep=;", '"sep=;', 'sep=;"', "sep=a,label", "id;text",
    ],
)  # fmt: skip
def test_other_lines_tell_none(line: str) -> None:
    assert told_delimiter(line) is None


def test_a_long_line_is_looked_at_once() -> None:
    for delimiter in (" ", "\t", ";"):
        assert told_delimiter(f"sep={delimiter * 100_000}x") is None
