"""Formulas in cells lose their power, everything else stays as it is."""

from __future__ import annotations

import csv
import io
import re
import time

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
        " =1+1",
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
    assert [one for one in escaped if one != "'"] == [one for one in cell if one != "'"]
    assert escape_formula(escaped) == escaped


def test_a_row_keeps_what_is_no_text() -> None:
    assert escape_row(("=1+1", -2.5, None, "hola")) == ["'=1+1", -2.5, None, "hola"]


# ------------------------------------------------------------------------------------ inside a cell

FORMULAS = [
    "=1+1", "=A1", '=HYPERLINK("http://a.example";"x")', "@SUM(1)", "+1+1", "-1+2*3", "+A1", "-$B$2",
    "-(1+1)", "-2+3+cmd|' /C calc'!A0", "＝1+1", "=-1", "==1", " =1+1", '"=1+1', "\u00a0=1+1",
    "-HYPERLINK(A1)", "=\t1", "- HYPERLINK(A1)", "+'otro'!A1", "@x+SUM(1)",
    "=( cmd|'/C calc'!A0)", "=(( A1))", "=P/ cmd|'/C calc'!A0", "=( WEBSERVICE(A1))", "=/ x", "=D. A1",
    "=(\tcmd|'/C calc'!A0)", "=D cmd|'/C calc'!A0", "=p (A1)", "=D A:A", "=P, cmd|'/C calc'!A0",
]  # fmt: skip
INSIDE = [
    "agua;{}", "agua,{}", "agua\t{};fin", "agua|{}|fin", ";{}", 'a;"b";{};', "a\n{}\n", 'a";{}', ',"",{}',
    "a;;{}", "\t{}\tz", "\n{};z", "\r{};z", " \n{};z", '"\n{};z', '\n"{};z', "\r\n{};z",
]  # fmt: skip


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("inside", INSIDE)
def test_no_spreadsheet_runs_a_cell_wherever_it_splits_it(formula: str, inside: str) -> None:
    text = inside.replace("{}", formula)
    for written in ",;\t":
        stream = io.StringIO(newline="")
        csv.writer(stream, delimiter=written).writerow([escape_formula(cell) for cell in ("1", text, "x")])
        for read in {*",;\t|"} - {written}:
            cells = [
                cell for row in csv.reader(stream.getvalue().splitlines(), delimiter=read) for cell in row
            ]
            assert not [cell for cell in cells if re.match(r'[\s"]*[=+\-@＝]', cell)]


@pytest.mark.parametrize(
    "text",
    [
        "No tengo agua; - desde ayer, - y nadie responde ;-) ;-( ,-, gracias",
        "Pido:\n- agua\n- luz (dos meses)\n-pagos\n---\n======\nAna",
        "Llamar al 22 123 4567, +56912345678; +56 9 1234 5678, +56-9-1234-5678",
        "Con temperaturas de 3, -5 o -20 grados, @municipio por favor!",
        "a = b, c; d",
        "-5",
        "",
        "si x,y;z | w",
        "Estimado(a)s:\n- agua\n- luz para vecino(a)s y vecinos(as), @todos(as)",
        "Hola!Necesito agua;\n- hoy\n¡Gracias!Adiós",
        "jaja, =) gracias; =D y =P, adiós",
        "gracias;=)",
        "gracias;=) llame(n) al 22 123",
        "no hay luz;=( , =(( ... ; =P/",
    ],
)
def test_the_text_of_a_message_stays_as_it_is(text: str) -> None:
    assert escape_formula(text) == text


@pytest.mark.parametrize(
    "piece", [";-", "\n", ' "', ";=", ",-a(", "; -\t-", "=", ";  ", '""', "\t=D ", "\t=( "]
)
def test_a_hostile_cell_takes_no_longer_than_another(piece: str) -> None:
    start = time.process_time()
    escape_formula(piece * (50_000 // len(piece)) + "x(")
    assert time.process_time() - start < 1
