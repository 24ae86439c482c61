"""Files sent to `afina serve`: CSV, TSV and Excel in, CSV out; wrong, huge and hostile ones."""

from __future__ import annotations

import csv
import errno
import io
import json
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from afina.serving import arrivals
from afina.serving.errors import ApiError
from afina.serving.giving_way import Room
from afina.serving.settings import ServeSettings
from afina.serving.upload import read_csv
from live_server import Gate, Live, live
from toy_artifact import LABELS, write_toy

TEXTS = ["agua agua por favor ya", "luz luz luz en casa", "pagos de la luz pagos"]
EXPECTED = ["agua", "luz", "pagos"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    path = write_toy(tmp_path_factory.mktemp("toy") / "model.onnx", abstain_below=0.7)
    with live(
        path,
        max_rows=1000,
        max_characters=2000,
        max_file_bytes=300_000,
        max_inflated_bytes=3_000_000,
        max_uploads=2,
    ) as one:
        yield one


def send(running: Live, content: bytes, name: str = "a.csv", **form: str) -> httpx.Response:
    return running.client.post("/v1/predict/file", files={"file": (name, content)}, data=form)


def rows_of(answer: httpx.Response, delimiter: str = ",") -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig")), delimiter=delimiter))
    assert answer.headers["x-rows"] == str(len(rows))
    return rows


def code_of(answer: httpx.Response) -> tuple[int, str]:
    assert set(answer.json()) == {"error"}
    return answer.status_code, answer.json()["error"]["code"]


def workbook(rows: list[list[Any]]) -> bytes:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def table(delimiter: str = ",", end: str = "\r\n") -> str:
    lines = [["id", "texto", "región"], *([str(n), text, "Ñuble"] for n, text in enumerate(TEXTS))]
    return "".join(delimiter.join(line) + end for line in lines)


# ------------------------------------------------------------------------------------ readable


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", table().encode()),
        ("a.CSV", table(";", "\n").encode("utf-8-sig")),
        ("a.csv", table(";").encode("cp1252")),
        ("a.csv", table("\t").encode("utf-16")),
        ("a.tsv", table("\t").encode()),
        ("a.csv", table("|", "\n\n").encode()),
        ("a.csv", b"sep=;\r\n" + table(";").encode("cp1252")),
        ("a.tsv", b"sep=;;;\r\n" + table(";").encode()),
        ("a.csv", f'"sep=\t"\n{table(chr(9))}'.encode("utf-16")),
        ("a.xlsx", workbook([line.split(",") for line in table().splitlines()])),
    ],
)
def test_rows_come_back_with_their_predictions(running: Live, name: str, content: bytes) -> None:
    answer = send(running, content, name)

    rows = rows_of(answer)
    assert list(rows[0]) == ["id", "texto", "región", "label", "probability", "confidence", "needs_person"]
    assert [row["id"] for row in rows] == ["0", "1", "2"]
    assert [row["texto"] for row in rows] == TEXTS
    assert {row["región"] for row in rows} == {"Ñuble"}
    assert [row["label"] for row in rows] == EXPECTED
    alone = running.predict(*TEXTS)
    assert [float(row["probability"]) for row in rows] == pytest.approx(
        [one["labels"][0]["probability"] for one in alone], abs=2e-6
    )
    assert [row["needs_person"] == "yes" for row in rows] == [one["needs_person"] for one in alone]


def test_options_of_the_answer(running: Live) -> None:
    answer = send(running, table().encode(), top_k="2", bom="true", delimiter=";", column="texto")

    assert answer.content.startswith(b"\xef\xbb\xbfid;texto")
    (first, *_) = rows_of(answer, ";")
    assert list(first)[-4:] == ["label_1", "probability_1", "label_2", "probability_2"]
    assert first["label_1"] == first["label"] == "agua"
    assert first["label_2"] in LABELS[1:]


@pytest.mark.parametrize(("given", "found"), [("comma", ","), ("semicolon", ";"), ("tab", "\t")])
def test_the_delimiter_of_the_answer_by_name(running: Live, given: str, found: str) -> None:
    answer = send(running, table().encode(), delimiter=given)

    assert answer.text.splitlines()[0].split(found)[:2] == table().splitlines()[0].split(",")[:2]


def test_labels_of_a_multilabel_model_are_joined(tmp_path: Path) -> None:
    with live(write_toy(tmp_path / "model.onnx", "multilabel")) as one:
        rows = rows_of(send(one, b"texto\nagua agua luz\npagos\n"))

    assert [row["label"] for row in rows] == ["agua|luz", ""]
    assert [row["probability"] for row in rows] == ["0.500000|0.268941", ""]


@pytest.mark.parametrize(
    ("delimiter", "head", "row"),
    [
        (";", 'id;"texto, con, comas, varias"', '1;"agua, por favor, ya"'),
        (";", "id;texto, si lo hay, libre", "1;agua por favor ya"),
        (",", 'id,"texto; libre | o no; largo"', '1,"agua; por favor; ya"'),
        (",", "id,texto", "1,agua; por favor; ya"),
        ("\t", "id\ttexto, libre", "1\tagua por favor ya"),
        ("|", 'id|"texto;\n uno, dos"', '1|"agua, por\nfavor; ya"'),
        (";", 'id;"monto, en pesos";texto', '1;"1,5";agua por favor ya'),
    ],
)
def test_the_delimiter_is_the_one_that_rows_agree_on(delimiter: str, head: str, row: str) -> None:
    content = "\n".join([head, row, row.replace("1", "2", 1)]).encode()

    table = read_csv(io.BytesIO(content), None, None, ServeSettings(model=Path("m")))

    assert table.delimiter == delimiter
    assert table.header[table.column].startswith("texto")
    assert table.rows == 2


def test_excels_first_line_names_the_delimiter_and_counts_as_a_line(running: Live) -> None:
    wrong = send(running, b'sep=;\ntexto;n\n"agua;1\n')
    assert code_of(wrong) == (400, "bad_file")
    assert "line 3: a quote opens a cell and is never closed" in wrong.text
    # By the header it would be a comma.
    (row,) = rows_of(send(running, b"sep=;\na,texto,b;texto\nx,luz,y;agua agua\n", column="texto"))
    assert (row["a,texto,b"], row["label"]) == ("x,luz,y", "agua")
    # In a worksheet it is a cell like others.
    sheet = rows_of(send(running, workbook([["sep=;"], ["agua agua"]]), "a.xlsx"))
    assert [(row["sep=;"], row["label"]) for row in sheet] == [("agua agua", "agua")]


LATIN = "n,texto\n1,El camión dijo «PERÚ» y mañana también ñandú, sí, qué más, año\n".replace(
    ", ", " "
).encode("cp1252")
UTF8 = "n,texto\n1,mañana o después\n2,ya no más agua\n3,todo bien por acá\n".encode()


def test_what_was_never_utf8_is_read_as_latin(running: Live) -> None:
    (row,) = rows_of(send(running, LATIN))

    assert row["texto"].startswith("El camión dijo «PERÚ» y mañana")


@pytest.mark.parametrize(
    "content",
    [
        UTF8.replace("más".encode(), b"m\xe1s"),
        b"\xef\xbb\xbf" + UTF8.replace("más".encode(), b"m\xc3s"),
        b"\xef\xbb\xbfn,texto\n1,a\n2,uno dos tres m\xe1s\n",
        UTF8.replace(b"\n", b"\r\n").replace("más".encode(), b"m\xc3s"),
    ],
)
def test_a_damaged_byte_does_not_change_the_encoding(running: Live, content: bytes) -> None:
    answer = send(running, content, column="texto")

    assert code_of(answer) == (400, "bad_file")
    assert answer.json()["error"]["message"].startswith("line 3: not valid UTF-8")


NAMES = ["x" * 150 + "1", "x" * 150 + "2", "dos\nlíneas", "igual", "igual", "", "otra"]


@pytest.mark.parametrize("index", range(len(NAMES)))
def test_every_column_can_be_chosen_by_its_position(running: Live, index: int) -> None:
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([NAMES, ["uno dos tres" if n != index else "luz luz" for n in range(7)]])
    content = stream.getvalue().encode()

    error = send(running, content).json()["error"]
    answer = send(running, content, column_index=str(index))

    assert error["columns"] == NAMES
    assert len(error["message"]) < 1000
    (_, row) = csv.reader(io.StringIO(answer.content.decode(), newline=""))
    assert row[7] == "luz"


@pytest.mark.parametrize("name", ["x" * 150 + "2", "dos\r\nlíneas", "dos\nlíneas"])
def test_names_may_be_long_and_have_line_ends(running: Live, name: str) -> None:
    for end in ("\n", "\r\n"):
        stream = io.StringIO(newline="")
        names = [one.replace("\n", end) for one in NAMES]
        csv.writer(stream, delimiter=";").writerows([names, ["luz luz"] * 7])
        assert send(running, stream.getvalue().encode(), column=name).status_code == 200


@pytest.mark.parametrize(
    ("content", "form", "name"),
    [
        (b"luz en la casa por favor\nagua agua\n", {}, "luz%20en%20la%20casa%20por%20favor"),
        (table().encode(), {}, "texto"),
        (table().encode(), {"column": "región"}, "regi%C3%B3n"),
        (table().encode(), {"column_index": "0"}, "id"),
        (b"n,\n1,luz\n", {"column_index": "1"}, ""),
        (("\U0001f600" * 1000 + "\nluz\n").encode(), {}, "%F0%9F%98%80" * 100),
        (b'"a\r\nx-evil: 1"\nluz\n', {}, "a%0D%0Ax-evil%3A%201"),
    ],
)
def test_the_answer_names_the_column_that_was_read(
    running: Live, content: bytes, form: dict[str, str], name: str
) -> None:
    answer = send(running, content, **form)

    assert answer.status_code == 200, answer.text
    assert answer.headers["x-column"] == name
    assert "x-evil" not in answer.headers


def test_many_rows_keep_their_order(running: Live) -> None:
    words = [LABELS[(7 * n) % 3] for n in range(997)]
    content = "n,texto\n" + "".join(f'{n},"{word} por favor, {n}"\n' for n, word in enumerate(words))

    rows = rows_of(send(running, content.encode()))

    assert [row["n"] for row in rows] == [str(n) for n in range(997)]
    assert [row["label"] for row in rows] == words


@pytest.mark.parametrize("room", [1, 50, 128])
def test_a_file_has_more_rows_than_the_queue_has_room(tmp_path: Path, room: int) -> None:
    with live(write_toy(tmp_path / "model.onnx"), queue_texts=room, max_texts=1) as one:
        rows = rows_of(send(one, b"n,texto\n" + b"1,luz en la casa\n" * 300))

    assert [row["label"] for row in rows] == ["luz"] * 300


def test_names_that_are_taken(running: Live) -> None:
    rows = rows_of(send(running, b"label,texto\nx,luz en la casa\n"))

    assert list(rows[0])[2:] == [
        "predicted_label", "predicted_probability", "predicted_confidence", "predicted_needs_person",
    ]  # fmt: skip
    assert rows[0]["label"] == "x"


def test_cells_of_a_workbook_become_text(running: Live) -> None:
    content = workbook(
        [["n", "texto", "precio"], [1, "luz en la casa\nmañana", 2.5], [None] * 3, [2, None, True]]
    )

    rows = rows_of(send(running, content, "a.xlsx"))

    assert [(row["n"], row["texto"], row["precio"]) for row in rows] == [
        ("1", "luz en la casa\nmañana", "2.5"),
        ("2", "", "True"),
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["n", "texto"], [], [], ["1", "luz\nen casa"], ["2", "a", "b"]], "row 5: 3 cells where the header"),
        ([["Mensajes de mayo"], [], ["n", "texto"], ["1", "luz"]], "row 3: 2 cells where the header has 1"),
        ([[], [], [], ["texto"], [], ["a" * 2001]], "row 6: a cell of more than 2000 characters"),
    ],
)
def test_a_row_of_a_workbook_is_named_as_excel_does(
    running: Live, rows: list[list[Any]], message: str
) -> None:
    error = send(running, workbook(rows), "a.xlsx", column="texto").json()["error"]

    assert error["message"].startswith(message)


UNSAVED = "the formula's result is not saved; open the file in Excel or LibreOffice and save it"
JOINED = '="luz"&" "&"luz"'


@pytest.mark.parametrize(
    ("rows", "form", "place"),
    [
        ([["n", "texto"], [1, "luz"], [], [2, JOINED], [3, JOINED]], {"column": "texto"}, "B4"),
        ([["n", "texto"], [1, "luz en la casa"], [2, JOINED]], {}, "B3"),
        ([["n", "texto"], [1, JOINED], [2, JOINED]], {"column_index": "1"}, "B2"),
        ([["texto"], [JOINED], ["luz"]], {}, "A2"),
        ([["texto"], [JOINED], [JOINED]], {}, "A2"),
    ],
)
def test_a_formula_without_a_result_among_the_texts_is_named(
    running: Live, rows: list[list[Any]], form: dict[str, str], place: str
) -> None:
    answer = send(running, workbook(rows), "a.xlsx", **form)

    assert code_of(answer) == (400, "bad_file")
    assert answer.json()["error"]["message"] == f"sheet Sheet, cell {place}: {UNSAVED}"


def test_a_formula_without_a_result_elsewhere_is_an_empty_cell(running: Live) -> None:
    content = workbook(
        [["n", "texto"], ["=1+1", "luz en la casa"], [2, None], [None, "agua de la casa"], ["=3"]]
    )

    rows = rows_of(send(running, content, "a.xlsx"))

    assert [(row["n"], row["texto"]) for row in rows] == [
        ("", "luz en la casa"), ("2", ""), ("", "agua de la casa"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (b'<c r="A3" t="str"><f>B1</f><v>luz</v></c>', "luz"),
        (b'<c r="A3" t="str"><f>B1</f><v></v></c>', ""),
        (b'<c r="A3"><f>B1</f><v>0</v></c>', "0"),
        (b'<c r="A3"/>', ""),
        (b'<c r="A3"><f>B1</f></c>', None),
        (b'<c r="A3" t="str"><f>B1</f></c>', None),
    ],
)
def test_a_saved_result_may_be_empty(running: Live, cell: bytes, text: str | None) -> None:
    head = b"".join(
        b'<row r="%d"><c r="A%d" t="inlineStr"><is><t>%b</t></is></c><c r="B%d"><v>1</v></c></row>'
        % (n, n, text, n)
        for n, text in [(1, b"texto"), (2, b"agua")]
    )
    content = sheet(head + b'<row r="3">' + cell + b'<c r="B3"><v>1</v></c></row>')

    answer = send(running, content, "a.xlsx", column="texto")

    if text is None:
        assert answer.json()["error"]["message"] == f"sheet Sheet, cell A3: {UNSAVED}"
    else:
        assert [row["texto"] for row in rows_of(answer)] == ["agua", text]


def test_blank_rows_of_a_workbook_are_no_rows(running: Live) -> None:
    content = sheet(CELL % (1001, 1001, b"texto") + CELL % (3001, 3001, b"luz en casa"))

    (row,) = rows_of(send(running, content, "a.xlsx"))

    assert row["texto"] == "luz en casa"


def test_formulas_are_made_harmless(running: Live) -> None:
    evil = '=HYPERLINK("http://a.example";"luz en casa")'
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([["+n", "texto"], ["-5", evil], ["@SUM(A1)", "luz en casa hoy"]])

    rows = rows_of(send(running, stream.getvalue().encode(), column="texto"))

    assert rows[0]["'+n"] == "-5"
    assert rows[0]["texto"] == "'" + evil
    assert rows[1]["'+n"] == "'@SUM(A1)"


@pytest.mark.parametrize(
    "name", ["../../etc/a.csv", "<img src=x>.csv", "a\r\nx-evil: 1.csv", "..csv", "C:\\a.csv"]
)
def test_the_name_of_a_file_does_nothing(running: Live, name: str) -> None:
    answer = send(running, table().encode(), name)

    assert answer.headers["content-disposition"] == 'attachment; filename="predictions.csv"'
    assert "x-evil" not in answer.headers
    assert len(rows_of(answer)) == 3


# --------------------------------------------------------------------------------------- wrong

LONG = "n,texto\n1," + "a" * 2001 + "\n"
MANY = "n,texto\n" + "1,a b c\n" * 1001

WRONG = {
    "no column of texts": ("a.csv", b"a,b\n1,2\n", {}, 400, "column_needed"),
    "two columns of texts": ("a.csv", b"a,b\nuno dos tres,uno dos tres\n", {}, 400, "column_needed"),
    "no such column": ("a.csv", b"a,b\n1,2\n", {"column": "c"}, 400, "column_needed"),
    "twice the column": ("a.csv", b"a,a\n1,2\n", {"column": "a"}, 400, "column_needed"),
    "no such position": ("a.csv", b"a,b\n1,2\n", {"column_index": "2"}, 400, "column_needed"),
    "no position": ("a.csv", b"a,b\n1,2\n", {"column_index": "-1"}, 422, "invalid_request"),
    "name and position": ("a.csv", b"a\n1\n", {"column": "a", "column_index": "0"}, 422, "invalid_request"),
    "empty": ("a.csv", b"", {}, 400, "bad_file"),
    "blank": ("a.csv", b"\n \n", {}, 400, "bad_file"),
    "a header alone": ("a.csv", b"a,b\n", {}, 400, "bad_file"),
    "ragged": ("a.csv", b"a,b\n1,2\n3\n", {"column": "b"}, 400, "bad_file"),
    "binary": ("a.csv", bytes(range(256)) * 9, {}, 400, "bad_file"),
    "half a UTF-16 character": ("a.csv", b"\xff\xfea\x00\n\x00b", {}, 400, "bad_file"),
    "UTF-32": ("a.csv", table().encode("utf-32"), {}, 400, "bad_file"),
    "UTF-32, the other way": ("a.csv", b"\0\0\xfe\xff" + table().encode("utf-32-be"), {}, 400, "bad_file"),
    "a long text": ("a.csv", LONG.encode(), {}, 413, "text_too_long"),
    "an unclosed quote": ("a.csv", b'a,b\n1,"' + b"x\n" * 5000, {}, 400, "bad_file"),
    "text after a quote": ("a.csv", b'a,b\n1,"x" y\n', {"column": "b"}, 400, "bad_file"),
    "blank lines": ("a.csv", b"a\n" + b"\n" * 2000 + b"b", {}, 413, "too_many_rows"),
    "many rows": ("a.csv", MANY.encode(), {}, 413, "too_many_rows"),
    "many columns": ("a.csv", b"a," * 600 + b"b\n", {}, 413, "too_many_columns"),
    "large": ("a.csv", b"a\n" * 200_000, {}, 413, "too_large"),
    "another ending": ("a.pdf", b"a\nb\n", {}, 415, "unsupported_file"),
    "no ending": ("csv", b"a\nb\n", {}, 415, "unsupported_file"),
    "a workbook as CSV": ("a.csv", workbook([["a"]]), {}, 415, "unsupported_file"),
    "CSV as a workbook": ("a.xlsx", b"a\nb\n", {}, 400, "bad_file"),
    "an empty workbook": ("a.xlsx", workbook([]), {}, 400, "bad_file"),
    "half a workbook": ("a.xlsx", workbook([["a"], ["b"]])[:3000], {}, 400, "bad_file"),
    "many rows in a workbook": ("a.xlsx", workbook([["a"]] * 1002), {}, 413, "too_many_rows"),
    "top_k": ("a.csv", table().encode(), {"top_k": "0"}, 422, "invalid_request"),
    "top_k in letters": ("a.csv", table().encode(), {"top_k": "²"}, 422, "invalid_request"),
    "bom": ("a.csv", table().encode(), {"bom": "yes"}, 422, "invalid_request"),
    "delimiter": ("a.csv", table().encode(), {"delimiter": "x"}, 422, "invalid_request"),
    "a field of no use": ("a.csv", table().encode(), {"colum": "a"}, 422, "invalid_request"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_told_so(running: Live, case: str) -> None:
    name, content, form, status, code = WRONG[case]

    answer = send(running, content, name, **form)

    assert code_of(answer) == (status, code), answer.text
    assert "UTF-32" not in case or "in UTF-32" in answer.json()["error"]["message"]


def test_an_encrypted_workbook_is_said_to_be_one(running: Live) -> None:
    content = bytes.fromhex("d0cf11e0a1b11ae1") + b"\0" * 1000

    answer = send(running, content, "a.xlsx")

    assert code_of(answer) == (400, "bad_file")
    assert answer.json()["error"]["message"] == (
        "the workbook is protected by a password or is an old .xls; save it as .xlsx without a password"
    )
    assert code_of(send(running, content, "a.xls")) == (415, "unsupported_file")


@pytest.mark.parametrize("tail", ["4,x y z\n5,x y z\n", '4,x y z\n5,"x y z"\n'])
def test_an_unclosed_quote_is_named_and_swallows_no_row(running: Live, tail: str) -> None:
    content = 'n,texto\n1,"una\ncosa"\n2,"sin cierre\n3,x y z\n' + tail

    answer = send(running, content.encode(), column="texto")

    assert code_of(answer) == (400, "bad_file")
    assert answer.json()["error"]["message"].startswith("line 4: ")
    assert "quote" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "content",
    [b"ab," * 3_000_000, b"n,texto\n1," + b"ab," * 3_000_000, b'n,texto\n1,"' + b"a\n" * 4_000_000],
    ids=["header", "row", "open quote"],
)
def test_a_row_without_end_is_refused_before_it_is_parsed(tmp_path: Path, content: bytes) -> None:
    limits = ServeSettings(model=tmp_path)
    with pytest.raises(ApiError) as refused:
        read_csv(io.BytesIO(content), None, None, limits)

    assert (refused.value.status, refused.value.code) == (413, "row_too_long")
    assert "more than 2,000,000 characters" in refused.value.message


def test_the_columns_to_choose_from_are_named(running: Live) -> None:
    error = send(running, b"uno,dos\n1,2\n").json()["error"]

    assert error["columns"] == ["uno", "dos"]
    assert "uno, dos" in error["message"]


def test_a_wrong_name_is_said(running: Live) -> None:
    content = b" uno , dos\nluz en la casa,2\n"
    assert "no column 'tres'" in send(running, content, column="tres").json()["error"]["message"]
    assert send(running, content, column="uno").status_code == 200


def test_forms_without_a_file(running: Live) -> None:
    post = running.client.post
    assert code_of(post("/v1/predict/file", data={"a": "b"}))[0] == 415
    assert code_of(post("/v1/predict/file", files={"other": ("a.csv", b"a\nb\n")}))[0] == 422
    assert code_of(post("/v1/predict/file", files={"file": (None, b"a\nb\n")}))[0] == 422
    two = [("file", ("a.csv", b"a\nb\n")), ("file", ("b.csv", b"a\nb\n"))]
    assert code_of(post("/v1/predict/file", files=two))[0] == 400
    broken = post("/v1/predict/file", content=b"--x\r\n\r\n", headers={"content-type": "multipart/form-data"})
    assert code_of(broken)[0] == 400


@pytest.mark.parametrize(("charset", "status"), [("undefined", 400), ("utf-8", 200), ("none-such", 200)])
def test_a_form_in_a_charset_that_reads_nothing(running: Live, charset: str, status: int) -> None:
    head = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'
    content_type = f"multipart/form-data; boundary=x; charset={charset}"
    answer = running.client.post(
        "/v1/predict/file",
        content=head + b"texto\nluz\n\r\n--x--\r\n",
        headers={"content-type": content_type},
    )
    assert answer.status_code == status
    assert status == 200 or answer.json()["error"]["message"].startswith("Content-Type: ")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=200)
    | st.binary(max_size=100).map(
        lambda data: (
            b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'
            + data
            + b"\r\n--x--\r\n"
        )
    )
)
def test_any_bytes_as_a_form(running: Live, body: bytes) -> None:
    answer = running.client.post(
        "/v1/predict/file", content=body, headers={"content-type": "multipart/form-data; boundary=x"}
    )

    assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text


# ------------------------------------------------------------------------------------- hostile


def archive(**changes: bytes) -> bytes:
    """A workbook whose parts are replaced; ``__`` stands for a slash, ``_dot_`` for a dot."""
    source = zipfile.ZipFile(io.BytesIO(workbook([["texto"], ["luz en casa"]])))
    parts = {entry: source.read(entry) for entry in source.namelist()}
    parts |= {name.replace("__", "/").replace("_dot_", "."): data for name, data in changes.items()}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in parts.items():
            target.writestr(name, data)
    return stream.getvalue()


SHEET = (
    b'<?xml version="1.0"?>%b<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">'
    b"<sheetData>%b</sheetData></worksheet>"
)
CELL = b'<row r="%d"><c r="A%d" t="inlineStr"><is><t>%b</t></is></c></row>'
ENTITIES = b'<!DOCTYPE a [<!ENTITY b "luz ">%b]>' % b"".join(
    b'<!ENTITY %c "&%c;&%c;&%c;&%c;">' % (c + 1, c, c, c, c) for c in b"bcdefghijkl"
)


def sheet(rows: bytes, before: bytes = b"") -> bytes:
    return archive(xl__worksheets__sheet1_dot_xml=SHEET % (before, rows))


def test_a_workbook_with_its_sheet_replaced_is_read(running: Live) -> None:
    rows = rows_of(send(running, sheet(CELL % (1, 1, b"texto") + CELL % (2, 2, b"luz en casa")), "a.xlsx"))

    assert [row["texto"] for row in rows] == ["luz en casa"]


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (archive(xl__media__a=b"\0" * 4_000_000), 413, "workbook_too_large"),
        (sheet(CELL % (1, 1, b"&l;"), ENTITIES), 400, "bad_file"),
        (sheet(CELL % (1, 1, b"a"), b'<!DOCTYPE a SYSTEM "file:///etc/passwd">'), 400, "bad_file"),
        (sheet(CELL % (1, 1, b"texto") + CELL % (10**15, 1, b"luz")), 413, "workbook_too_large"),
        (sheet(b'<row r="1"><c r="ZZZ1" t="inlineStr"><is><t>a</t></is></c></row>'), 413, "too_many_columns"),
        (sheet(CELL % (1, 1, b"texto") + CELL % (2, 2, b"a" * 2001)), 413, "text_too_long"),
        (archive(**{f"a{n}": b"" for n in range(2001)}), 413, "workbook_too_large"),
    ],
    ids=["inflated", "entities", "external", "rows", "columns", "text", "entries"],
)  # fmt: skip
def test_a_hostile_workbook_is_refused(running: Live, content: bytes, status: int, code: str) -> None:
    assert len(content) < 300_000

    assert code_of(send(running, content, "a.xlsx")) == (status, code)
    assert running.predict("luz luz")[0]["labels"][0]["label"] == "luz"


def test_an_archive_that_understates_its_sizes_is_refused(running: Live) -> None:
    content = archive(xl__media__a=b"\0" * 4_000_000)
    size = (4_000_000).to_bytes(4, "little")
    assert content.count(size) == 2
    lying = content.replace(size, (100).to_bytes(4, "little"))

    assert code_of(send(running, lying, "a.xlsx"))[0] in (400, 413)


def test_one_string_used_by_all_cells_does_not_multiply(running: Live) -> None:
    strings = (
        b'<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><si><t>%b</t></si></sst>'
        % (b"luz " * 480)
    )
    cells = b"".join(b'<row r="%d">%b</row>' % (n, b'<c t="s"><v>0</v></c>' * 20) for n in range(1, 900))
    named = (
        b'<Override PartName="/xl/sharedStrings.xml" ContentType="application/vnd.openxmlformats-'
        b'officedocument.spreadsheetml.sharedStrings+xml" /></Types>'
    )
    types = zipfile.ZipFile(io.BytesIO(archive())).read("[Content_Types].xml")
    content = archive(
        xl__worksheets__sheet1_dot_xml=SHEET % (b"", cells),
        xl__sharedStrings_dot_xml=strings,
        **{"[Content_Types].xml": types.replace(b"</Types>", named)},
    )
    assert len(content) < 30_000

    assert code_of(send(running, content, "a.xlsx")) == (413, "workbook_too_large")


def test_memory_of_the_reader_is_bounded(tmp_path: Path) -> None:
    # Five bytes of XML are an object of a hundred or more.
    path = tmp_path / "a.xlsx"
    path.write_bytes(sheet(b"<row>" + b"<c/>" * 1_500_000 + b"</row>"))
    with path.open("rb") as stream:
        reader = subprocess.run(
            [
                sys.executable,
                "-m",
                "afina.serving.workbook_reader",
                str(1 << 28),
                "10",
                "100000000",
                str(300 << 20),
            ],
            stdin=stream,
            capture_output=True,
            check=False,
        )

    assert path.stat().st_size < 300_000
    assert reader.stdout == b""
    # It stops by itself, or is killed for its memory.
    assert reader.returncode not in (0, 2) or json.loads(reader.stderr)[1] == "workbook_too_large"


def test_cells_that_no_text_can_hold_are_replaced(running: Live) -> None:
    evil = b"luz en casa _xD83D_ _x0000_ _xD83D__xDE00_"
    rows = rows_of(send(running, sheet(CELL % (1, 1, b"texto") + CELL % (2, 2, evil)), "a.xlsx"))

    assert [row["texto"] for row in rows] == ["luz en casa \ufffd \ufffd \U0001f600"]


def test_the_first_sheet_that_is_shown_is_read(running: Live) -> None:
    book = openpyxl.Workbook()
    book.active.append(["listas"])
    book.active.append(["agua agua agua"])
    book.active.sheet_state = "hidden"
    for name in ("datos", "otros"):
        page = book.create_sheet(name)
        page.append(["texto"])
        page.append([f"luz luz {name}"])
    book.active = 1
    stream = io.BytesIO()
    book.save(stream)

    assert [row["texto"] for row in rows_of(send(running, stream.getvalue(), "a.xlsx"))] == ["luz luz datos"]


# ------------------------------------------------------------------------------------ no room


class FullFile(tempfile.SpooledTemporaryFile):  # type: ignore[type-arg]
    """A temporary file on a disk that is full."""

    def write(self, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_no_fault_of_the_csv(running: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("starlette.formparsers.SpooledTemporaryFile", FullFile)
    full = send(running, b"n,texto\n" + b"1,luz en la casa\n" * 900)
    monkeypatch.undo()

    assert code_of(full) == (503, "no_room")
    assert full.headers["retry-after"] == "1"
    assert len(rows_of(send(running, table().encode()))) == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_no_fault_of_the_workbook(running: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    content = workbook([["texto"], *[["luz en casa"]] * 900])
    disk = SimpleNamespace(TemporaryFile=partial(open, "/dev/full", "r+b", 0))
    with monkeypatch.context() as patch:
        patch.setattr("afina.serving.workbook.tempfile", disk)
        full = send(running, content, "a.xlsx")

    assert code_of(full) == (503, "no_room")
    assert len(rows_of(send(running, content, "a.xlsx"))) == 900


def test_an_unforeseen_failure_amid_a_body_is_answered_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr("starlette.formparsers.MultiPartParser.parse", fail)
    with live(write_toy(tmp_path / "model.onnx")) as one, one.connect() as slow:
        slow.sendall(
            b"POST /v1/predict/file HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9000000\r\n"
            b"content-type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
        )
        # Still sending when the answer is there: a connection closed at once would be reset.
        for _ in range(20):
            slow.sendall(b"a" * 10_000)
            time.sleep(0.01)
        answer = slow.recv(65536)

    assert answer.startswith(b"HTTP/1.1 500")
    assert b"internal_error" in answer


# --------------------------------------------------------------------------------- on the way


def test_a_failure_on_the_way_breaks_the_answer_off(tmp_path: Path) -> None:
    with live(write_toy(tmp_path / "model.onnx")) as one:
        classifier = one.store.current.classifier
        forward, calls = classifier.forward, []

        def fail_later(batch: Any) -> Any:
            calls.append(len(batch))
            if len(calls) > 3:
                raise ValueError("no")
            return forward(batch)

        classifier.forward = fail_later  # type: ignore[method-assign]
        content = b"n,texto\n" + b"1,luz en la casa\n" * 5000
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            send(one, content)
        classifier.forward = forward  # type: ignore[method-assign]
        assert len(rows_of(send(one, content))) == 5000


# ------------------------------------------------------------------------------ many at a time

HEAD = (
    b"POST /v1/predict/file HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n"
    b"content-type: multipart/form-data; boundary=x\r\nexpect: 100-continue\r\n\r\n"
)
FORM = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.csv"\r\n\r\n%b\r\n--x--\r\n'


def begin(client: socket.socket, length: int) -> None:
    """Announce a form of this length; the server waits for it once this returns."""
    client.sendall(HEAD % length)
    assert client.recv(4096).startswith(b"HTTP/1.1 100")


@contextmanager
def arriving(one: Live, count: int, size: int = 100) -> Iterator[None]:
    """So many files of which a part is sent."""
    with ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(one.connect())
            begin(client, 200_000)
            client.sendall((FORM % (b"a" * 200_000))[:size])
        yield


@contextmanager
def worked_on(one: Live, pool: ThreadPoolExecutor) -> Iterator[Future[httpx.Response]]:
    """A file that is being worked on."""
    gate = Gate(one.store)
    with httpx.Client(base_url=one.client.base_url, timeout=30) as other:
        try:
            answer = pool.submit(other.post, "/v1/predict/file", files={"file": ("a.csv", table())})
            assert gate.entered.wait(10)
            yield answer
        finally:
            gate.opened.set()
            assert len(rows_of(answer.result())) == 3


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def sent_until(one: Live, status: int, content: bytes) -> httpx.Response:
    """The answer to a file sent again and again until it has this status."""
    for _ in range(100):
        answer = send(one, content)
        if answer.status_code == status:
            break
    return answer


def taken(one: Live) -> bool:
    """Is there room for a file again?"""
    return len(rows_of(sent_until(one, 200, table().encode()))) == 3


def test_files_that_arrive_slowly_keep_nobody_out(tmp_path: Path) -> None:
    with live(write_toy(tmp_path / "model.onnx"), max_uploads=2) as one, arriving(one, 4):
        assert len(rows_of(send(one, table().encode()))) == 3


def test_no_more_files_are_worked_on_than_allowed(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    with live(write_toy(tmp_path / "model.onnx"), max_uploads=1) as one:
        with worked_on(one, pool):
            answer = send(one, table().encode())

        assert code_of(answer) == (429, "too_many_files")
        assert answer.headers["retry-after"] == "1"
        assert taken(one)


@pytest.mark.parametrize(("seconds", "status"), [(30, b"200"), (0.3, b"429")])
def test_a_file_waits_for_its_turn_once_it_has_arrived(
    tmp_path: Path, pool: ThreadPoolExecutor, seconds: float, status: bytes
) -> None:
    path = write_toy(tmp_path / "model.onnx")
    with live(path, max_uploads=1, request_seconds=seconds) as one, one.connect() as slow:
        form = FORM % b"texto\nluz"
        begin(slow, len(form))
        with worked_on(one, pool) as first:
            slow.sendall(form)
            time.sleep(0.6)
            assert not first.done()
        assert slow.recv(4096).split(b" ")[1] == status
        assert taken(one)


def test_no_more_files_arrive_than_allowed(tmp_path: Path) -> None:
    with live(write_toy(tmp_path / "model.onnx"), max_arriving=2) as one:
        with arriving(one, 2):
            answer = send(one, table().encode())

        assert code_of(answer) == (429, "too_many_files")
        assert taken(one)


def room_of(one: Live) -> Room:
    """What the files of a server take."""
    app: Any = one.server.config.app
    while not hasattr(app, "state"):
        app = app.app
    found: Room = app.state.service.arrivals.room
    return found


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def read_all(client: socket.socket) -> bytes:
    data = b""
    while part := client.recv(65536):
        data += part
    return data


def test_slow_files_give_their_places_to_others(
    tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "FILE_PATIENCE", 1.5)
    form = FORM % (b"texto\n" + b"luz en la casa\n" * 5000)
    path = write_toy(tmp_path / "model.onnx")
    with live(path, max_uploads=2, max_arriving=2, body_seconds=60) as one, ExitStack() as stack:
        room = room_of(one)
        slow, steady = stack.enter_context(one.connect()), stack.enter_context(one.connect())
        with worked_on(one, pool):
            for client in (steady, slow):
                begin(client, len(form))
                client.sendall(form[:1000])
            refused = send(one, table().encode())
            time.sleep(1.6)
            wait_for(lambda: room.taken == 2)
            steady.sendall(form[1000:40_000])
            held = room.held
            wait_for(lambda: room.held >= held + 39_000)
            # It is answered once the model goes on.
            newer = pool.submit(send, one, table().encode())
            told = read_all(slow)
            steady.sendall(form[40_000:])

        assert code_of(refused) == (429, "too_many_files")
        assert told.startswith(b"HTTP/1.1 408")
        assert b"connection: close" in told
        assert b"request_timeout" in told
        assert len(rows_of(newer.result())) == 3
        assert steady.recv(4096).startswith(b"HTTP/1.1 200")
        stack.close()
        wait_for(lambda: (room.held, room.taken) == (0, 0))


def test_slow_files_give_their_bytes_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "FILE_PATIENCE", 0.5)
    path = write_toy(tmp_path / "model.onnx")
    with live(path, max_uploads=1, max_file_bytes=200_000, body_seconds=60) as one:
        with arriving(one, 2, 130_000):
            wait_for(lambda: room_of(one).held == 260_000)
            time.sleep(0.6)
            assert len(rows_of(send(one, b"texto\n" + b"luz\n" * 5000))) == 5000
            assert room_of(one).held == 130_000
        wait_for(lambda: (room_of(one).held, room_of(one).taken) == (0, 0))


def test_the_bytes_of_all_files_are_bounded(tmp_path: Path) -> None:
    # What one file may have, with its form, is for all of them.
    path = write_toy(tmp_path / "model.onnx")
    with live(path, max_uploads=1, max_file_bytes=200_000) as one:
        with arriving(one, 2, 130_000):
            time.sleep(0.3)
            answer = sent_until(one, 429, b"texto\n" + b"luz\n" * 2000)

        assert code_of(answer) == (429, "too_many_files")
        assert taken(one)
        assert len(rows_of(send(one, b"texto\n" + b"luz en la casa\n" * 13_000))) == 13_000
