"""Formulas in cells lose their power, everything else stays as it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afina.spreadsheets import escape_formula, escape_row


@pytest.mark.parametrize(
    "cell",
    [
        '=HYPERLINK("http://example.org";"ver")',
        "+cmd|' /C calc'!A0",
        "-2+3+cmd|' /C calc'!A0",
        "@SUM(1+1)*cmd|' /C calc'!A0",
        "\t=1+1",
        " =1+1",
        "\r=1+1",
        "＝1+1",
        "=1",
    ],
)
def test_a_formula_becomes_text(cell: str) -> None:
    assert escape_formula(cell) == "'" + cell


@pytest.mark.parametrize(
    "cell", ["", "hola", "-3.5", "+7", "-1,5", "-2%", "1e-5", "-", "a=b", "¿=?", "correo@ejemplo.es", "'=1"]
)
def test_what_is_no_formula_stays(cell: str) -> None:
    assert escape_formula(cell) == cell


@given(st.text())
def test_no_cell_begins_as_a_formula_after_it(cell: str) -> None:
    escaped = escape_formula(cell)
    assert escaped in (cell, "'" + cell)
    assert escape_formula(escaped) == escaped


def test_a_row_keeps_what_is_no_text() -> None:
    assert escape_row(("=1+1", -2.5, None, "hola")) == ["'=1+1", -2.5, None, "hola"]
