"""Reading sources of every kind into the one table, and what happens to what cannot be read."""

from __future__ import annotations

import datetime
import gzip
import json
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from afina import table
from afina.balancing import balance
from afina.cleaning import clean
from afina.encodings import detect_encoding
from afina.errors import UserError
from afina.labels import LabelSet
from afina.params.balance import BalanceParams
from afina.params.clean import CleanParams
from afina.params.extract import ExtractParams
from afina.params.split import SplitParams
from afina.sources import Extraction, read_sources
from afina.sources.excel import sheet_names
from afina.sources.values import as_text, parse_times, split_cell, unencodable
from afina.splitting import split_messages
from afina.table import BALANCED_SCHEMA, REJECTED, SCHEMA
from afina.text_hash import text_hashes


def extract(root: Path, *sources: dict[str, Any]) -> Extraction:
    return read_sources(ExtractParams.parse({"sources": list(sources)}), root)


def rows(extraction: Extraction, *columns: str) -> list[tuple[Any, ...]]:
    names = columns or ("text", "labels")
    return list(zip(*(extraction.table[name].to_pylist() for name in names), strict=True))


def rejected(extraction: Extraction) -> list[tuple[int, str]]:
    return list(
        zip(extraction.rejected["row"].to_pylist(), extraction.rejected["reason"].to_pylist(), strict=True)
    )


def put(root: Path, name: str, content: str | bytes, encoding: str = "utf-8") -> str:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return name


BASIC = {"text": "text", "label": "label"}


# Delimited files


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16"])
def test_delimiter_and_encoding_are_detected(tmp_path: Path, delimiter: str, encoding: str) -> None:
    content = delimiter.join(["text", "label"]) + "\r\n"
    content += delimiter.join(['"El niño comió piñas, ¡qué rico; sí!"', "alegría"]) + "\r\n"
    content += delimiter.join(["Mañana será otro día", "ánimo"]) + "\r\n"
    put(tmp_path, "a.csv", content, encoding)
    assert rows(extract(tmp_path, {"path": "a.csv", **BASIC})) == [
        ("El niño comió piñas, ¡qué rico; sí!", ["alegría"]),
        ("Mañana será otro día", ["ánimo"]),
    ]


def test_cp1252_punctuation_is_told_from_latin_1(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "text,label\n“cita” – 5 €,x\n", "cp1252")
    assert rows(extract(tmp_path, {"path": "a.csv", **BASIC}))[0][0] == "“cita” – 5 €"


def test_several_text_columns_are_joined_and_missing_ones_skipped(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "t,b,l\nTítulo,Cuerpo,x\n,Solo cuerpo,x\nSolo título,  ,x\n,,x\n")
    source = {"path": "a.csv", "text": ["t", "b"], "label": "l", "text_separator": " - "}
    assert extract(tmp_path, source).table["text"].to_pylist() == [
        "Título - Cuerpo", "Solo cuerpo", "Solo título", "",
    ]  # fmt: skip


def test_text_is_left_as_it_is(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", 'text,label\n"  <b>Hola</b>\r\n  ""tú""  ",x\n')
    assert extract(tmp_path, {"path": "a.csv", **BASIC}).table["text"].to_pylist() == [
        '  <b>Hola</b>\r\n  "tú"  '
    ]


def test_several_labels_in_one_cell(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "text;label\na;1, 5\nb;3\nc;\nd;2 ,2,, 7\ne;['joy', 'fear']\n")
    got = extract(tmp_path, {"path": "a.csv", **BASIC, "label_separator": ","}).table["labels"].to_pylist()
    assert got == [["1", "5"], ["3"], [], ["2", "7"], ["joy", "fear"]]


def test_lists_as_pandas_writes_those_of_parquet(tmp_path: Path) -> None:
    """A list comes back as numpy's array, which has no commas, and line breaks where it is long."""
    given = [["joy", "great fear"], ["calm"], ["a, b", "it's"], [f"label {number}" for number in range(30)]]
    pd.DataFrame({"text": list("abcd"), "label": given}).to_parquet(tmp_path / "a.parquet")
    pd.read_parquet(tmp_path / "a.parquet").to_csv(tmp_path / "a.csv", index=False)
    assert "['joy' 'great fear']" in (tmp_path / "a.csv").read_text()
    got = extract(tmp_path, {"path": "a.csv", **BASIC, "label_separator": ","}).table["labels"].to_pylist()
    assert got == given
    for cell in ("['joy fear']", "['joy', 'fear' ]", "[it's, that's]"):
        assert split_cell(cell, ",") == [part.strip(" '") for part in cell[1:-1].split(",")]


def test_without_a_separator_a_label_is_the_cell(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "text;label\na;Salud, bienestar\nb;  \n")
    got = extract(tmp_path, {"path": "a.csv", **BASIC}).table["labels"].to_pylist()
    assert got == [["Salud, bienestar"], []]


def test_labels_as_columns_of_zero_and_one(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "text,joy,fear,calm\na,1,0,1.0\nb,0,sí,\nc,0,0,0\nd,0,maybe,1\n")
    got = extract(tmp_path, {"path": "a.csv", "text": "text", "label_columns": ["joy", "fear", "calm"]})
    assert got.table["labels"].to_pylist() == [["joy", "calm"], ["fear"], []]
    assert rejected(got) == [(5, "'fear' is neither 0 nor 1")]


def test_labels_in_several_columns(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "text,l1,l2\na,x,y\nb,x,\nc,y,y\n")
    got = extract(tmp_path, {"path": "a.csv", "text": "text", "label": ["l1", "l2"]})
    assert got.table["labels"].to_pylist() == [["x", "y"], ["x"], ["y"]]


def test_a_file_without_a_header(tmp_path: Path) -> None:
    put(tmp_path, "a.txt", "hola que tal;joy\nadiós;sadness\n")
    by_number = extract(tmp_path, {"path": "a.txt", "header": False, "text": 0, "label": 1})
    by_name = extract(tmp_path, {"path": "a.txt", "header": False, "columns": ["text", "label"], **BASIC})
    assert rows(by_number) == rows(by_name) == [("hola que tal", ["joy"]), ("adiós", ["sadness"])]


def test_lines_above_the_header_are_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "Informe de 2024\n\ntext,label\na,x\nb\n")
    got = extract(tmp_path, {"path": "a.csv", **BASIC, "skip_rows": 2})
    assert rows(got) == [("a", ["x"])]
    assert rejected(got) == [(5, "1 columns instead of 2")]


def test_ragged_rows_are_rejected_with_the_line_they_begin_on(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", 'text,label\n"two\nlines",x\nshort\n\nlong,x,more\nfine,y\ntrailing,z,,\n')
    got = extract(tmp_path, {"path": "a.csv", **BASIC})
    assert rows(got) == [("two\nlines", ["x"]), ("fine", ["y"]), ("trailing", ["z"])]
    assert rejected(got) == [(4, "1 columns instead of 2"), (6, "3 columns instead of 2")]
    assert got.rejected["detail"].to_pylist() == ["short", "long | x | more"]
    assert got.rejected.schema == REJECTED


def test_a_quote_that_does_not_close_takes_only_its_line(tmp_path: Path) -> None:
    body = "".join(f'"good, {number}",x\n' for number in range(50))
    put(tmp_path, "a.csv", f'text,label\n{body}"open,x\n{body}')
    got = extract(tmp_path, {"path": "a.csv", **BASIC})
    assert got.table.num_rows == 100
    assert rejected(got) == [(52, "a quote opens and does not close")]


def test_a_quote_open_at_the_end_of_the_file(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", 'text,label\n"good",x\n"fine",x\nb,"y\nc,z\nd,w\n')
    got = extract(tmp_path, {"path": "a.csv", **BASIC})
    assert [text for text, _ in rows(got)] == ["good", "fine", "c", "d"]
    assert rejected(got) == [(4, "a quote opens and does not close")]


def test_quotes_that_are_no_quoting_are_text(tmp_path: Path) -> None:
    put(tmp_path, "a.tsv", 'text\tlabel\n"Hola" dijo\tx\n"¿Qué tal?, él\ty\nbien\tx\nsí" fin\tx\n')
    assert [text for text, _ in rows(extract(tmp_path, {"path": "a.tsv", **BASIC}))] == [
        '"Hola" dijo', '"¿Qué tal?, él', "bien", 'sí" fin',
    ]  # fmt: skip


def test_a_damaged_row_of_a_utf_8_file_is_rejected(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "text,label\nniño,x\n".encode() + b"ni\xf1o,x\n" + "año,y\nbahía,y\n".encode())
    got = extract(tmp_path, {"path": "a.csv", **BASIC})
    assert [text for text, _ in rows(got)] == ["niño", "año", "bahía"]
    assert rejected(got) == [(3, "bytes that are not text in this encoding")]
    assert got.rejected["detail"].to_pylist() == ["ni\\udcf1o | x"]


def test_a_wrong_encoding_names_line_and_fix(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "text,label\na,x\nniño,x\n", "latin-1")
    with pytest.raises(UserError, match=r"^a\.csv: line 3: not utf-8; set encoding: latin-1$"):
        extract(tmp_path, {"path": "a.csv", **BASIC, "encoding": "utf-8"})


def test_a_compressed_file(tmp_path: Path) -> None:
    put(tmp_path, "a.csv.gz", gzip.compress("text,label\nniño,x\n".encode()))
    got = extract(tmp_path, {"path": "a.csv.gz", **BASIC})
    assert rows(got, "source", "text") == [("a", "niño")]


def test_a_compressed_file_in_capitals(tmp_path: Path) -> None:
    put(tmp_path, "A.TSV.GZ", gzip.compress("text\tlabel\nniño, sí\tx\n".encode()))
    assert rows(extract(tmp_path, {"path": "A.TSV.GZ", **BASIC})) == [("niño, sí", ["x"])]


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz", "a.json.gz", "corpus/x/a.txt.gz"])
@pytest.mark.parametrize("given", [{}, {"encoding": "utf-8"}])
def test_damaged_compressed_files(tmp_path: Path, name: str, given: dict[str, str]) -> None:
    content = "text,label\n" + "".join(f"texto {number},x\n" for number in range(1000))
    whole = gzip.compress(content.encode())
    flipped = whole[:50] + bytes([whole[50] ^ 255]) + whole[51:]
    folder = name.startswith("corpus")
    source = {"path": "corpus" if folder else name, **({} if folder else BASIC), **given}
    for damaged, message in (
        (whole[:-40], "the compressed file is cut short; copy it again$"),
        (content.encode(), "not a sound gzip file; copy it again, or drop .gz from its name if it is plain$"),
        (flipped, "not a sound gzip file"),
    ):
        put(tmp_path, name, damaged)
        with pytest.raises(UserError, match=f"^{name}: {message}"):
            extract(tmp_path, source)
    with pytest.raises(UserError, match=r"txt\.gz|csv\.gz|jsonl?\.gz"):
        detect_encoding(tmp_path / name)


@pytest.mark.parametrize("given", [{}, {"encoding": "utf-16"}])
def test_utf_16_that_breaks_off(tmp_path: Path, given: dict[str, str]) -> None:
    for name, content in (
        ("a.csv", "text,label\nniño,x\n"),
        ("a.jsonl", '{"text": "niño", "label": "x"}\n\n'),
        ("a.json", '[\n{"text": "niño", "label": "x"}\n]'),
    ):
        put(tmp_path, name, content.encode("utf-16") + b"\n")
        for limit in (None, 1):
            with pytest.raises(UserError, match=rf"^{name}: line 3: not utf-16; save the file again"):
                extract(tmp_path, {"path": name, **BASIC, **given, "limit": limit})
    put(tmp_path, "corpus/x/1.txt", "niño", "utf-16")
    put(tmp_path, "corpus/x/2.txt", "niño".encode("utf-16") + b"\n")
    got = extract(tmp_path, {"path": "corpus", **given})
    assert rows(got) == [("niño", ["x"])]
    assert rejected(got) == [(2, "bytes that are not text in this encoding")]


def test_a_number_of_thousands_of_digits(tmp_path: Path) -> None:
    """Python does not read it; the field need not even be one that is asked for."""
    row = f'{{"text": "a", "label": "x", "n": {"9" * 5_000}}}'
    put(tmp_path, "a.jsonl", f'{{"text": "b", "label": "x"}}\n{row}\n')
    got = extract(tmp_path, {"path": "a.jsonl", **BASIC})
    assert rows(got) == [("b", ["x"])]
    assert rejected(got) == [(2, "not valid JSON: a number with too many digits")]
    put(tmp_path, "a.json", f"[{row}]")
    with pytest.raises(UserError, match=r"^a\.json: a number with too many digits; correct the file"):
        extract(tmp_path, {"path": "a.json", **BASIC})


def test_a_byte_order_mark_is_no_text_though_the_encoding_is_given(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", '"text","label"\nniño,x\n', "utf-8-sig")
    put(tmp_path, "b.csv", '"niño, sí",x\n', "utf-8-sig")
    put(tmp_path, "c.jsonl", '{"text": "niño", "label": "x"}\n', "utf-8-sig")
    put(tmp_path, "d.json", '[{"text": "niño", "label": "x"}]', "utf-8-sig")
    put(tmp_path, "corpus/x/1.txt", "niño", "utf-8-sig")
    sources: list[dict[str, Any]] = [{"path": path, **BASIC} for path in ("a.csv", "c.jsonl", "d.json")]
    sources += [{"path": "b.csv", "header": False, "text": 0, "label": 1}, {"path": "corpus"}]
    for source in sources:
        got = extract(tmp_path, {**source, "encoding": "UTF8"})
        assert rows(got) == [("niño, sí" if source["path"] == "b.csv" else "niño", ["x"])]
        assert got.rejected.num_rows == 0
    damaged = "text,label\nniño,x\naño,x\n".encode("utf-8-sig") + b"ni\xf1o,x\n"
    put(tmp_path, "e.csv", damaged)
    assert extract(tmp_path, {"path": "e.csv", **BASIC, "encoding": "utf-8"}).table.num_rows == 2


@pytest.mark.parametrize("given", [{}, {"delimiter": ";"}, {"delimiter": ";", "quotechar": '"'}])
@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;", "sep=;;", "sep=; "])
def test_excels_own_first_line_names_the_delimiter(tmp_path: Path, first: str, given: dict[str, str]) -> None:
    content = f"{first}\r\ntext;label\r\na, b, c;x\r\nd, e, f\r\n"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        put(tmp_path, "a.csv", content, encoding)
        got = extract(tmp_path, {"path": "a.csv", **BASIC, **given})
        assert rows(got) == [("a, b, c", ["x"])]
        assert rejected(got) == [(4, "1 columns instead of 2")]


def test_excels_own_first_line_is_left_out_though_another_delimiter_is_given(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "sep=;\ntext,label\na;b,x\n")
    assert rows(extract(tmp_path, {"path": "a.csv", **BASIC, "delimiter": ","})) == [("a;b", ["x"])]
    # Whoever passes over the line already goes on with the header.
    assert rows(extract(tmp_path, {"path": "a.csv", **BASIC, "skip_rows": 1})) == [("a;b", ["x"])]


def test_a_column_that_is_called_like_excels_line_is_a_column(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "sep=a,label\nb,x\n")
    assert rows(extract(tmp_path, {"path": "a.csv", "text": "sep=a", "label": "label"})) == [("b", ["x"])]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz", "a.jsonl", "a.json"])
def test_files_that_are_no_text(tmp_path: Path, name: str) -> None:
    pack = gzip.compress if name.endswith(".gz") else bytes
    book = (tmp_path / workbook(tmp_path, {"A": [["text", "label"], ["uno", "x"]]})).read_bytes()
    archive = "an Excel workbook or another archive; name it .xlsx, or save it as CSV$"
    for content, given, message in (
        (book, {}, archive),
        (book, {"encoding": "latin-1"}, archive),
        (
            b"text,label\na,x\n\x89PNG\0",
            {},
            "line 3: not text, for it holds NUL bytes; save it again as text",
        ),
        (b"text,label\na,x\n\x89PNG\0", {"encoding": "cp1252"}, "line 3: not text"),
        ("text,label".encode("utf-16-le"), {}, "line 1: not text"),
        # Both bytes of most letters are ASCII, so this is UTF-8 as well.
        ("text,label\nБыстрая лиса,животное\n".encode("utf-16-be"), {}, "line 1: not text"),
        (b"text,label\n" + b"a\0b,x\n" * 9, {}, "line 2: not text"),
        (
            "text,label".encode("utf-16"),
            {"encoding": "latin-1"},
            "line 1: not latin-1; set encoding: utf-16$",
        ),
    ):
        put(tmp_path, name, pack(content))
        with pytest.raises(UserError, match=f"^{name}: {message}") as caught:
            extract(tmp_path, {"path": name, **BASIC, **given})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("before", "encoding"),
    [
        ("", {}),  # few bytes, but sound UTF-8
        ("señal,x\n", {"encoding": "utf-8"}),
        ("señal,x\n" * 200, {"encoding": "latin-1"}),  # many bytes
        ("añ\0b,x\n" * 7, {}),
    ],
)
def test_a_stray_byte_of_zero_is_read(tmp_path: Path, before: str, encoding: dict[str, str]) -> None:
    content = f"text,label\n{before}ag\0ua,x\n"
    put(tmp_path, "a.csv", content.encode(encoding.get("encoding", "utf-8")))
    assert rows(extract(tmp_path, {"path": "a.csv", **BASIC, **encoding}))[-1] == ("ag\0ua", ["x"])


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize(
    ("encoding", "given"),
    [("utf-16", {}), ("utf-32", {}), *((name, {"encoding": name}) for name in ("utf-16-le", "utf-32-be"))],
)
def test_text_of_wide_characters_is_text(
    tmp_path: Path, name: str, encoding: str, given: dict[str, str]
) -> None:
    content = "text,label\nniño,x\n".encode(encoding)
    put(tmp_path, name, gzip.compress(content) if name.endswith(".gz") else content)
    assert rows(extract(tmp_path, {"path": name, **BASIC, **given})) == [("niño", ["x"])]


def test_a_backslash_before_a_quote(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", 'text,label\n"dijo \\"hola\\", sí",x\n')
    got = extract(tmp_path, {"path": "a.csv", **BASIC, "escapechar": "\\"})
    assert rows(got) == [('dijo "hola", sí', ["x"])]


# Ids, groups, times, splits


def test_ids_are_the_source_s_own_and_repeated_ones_are_told_apart_by_their_texts(tmp_path: Path) -> None:
    a, b = text_hashes(["a", "b"])
    put(tmp_path, "a.csv", f"text,label,n\na,x,7\nb,x,8\nb,x,7\nd,x,7#{b}\na,x,7\nf,x,\n")
    got = extract(tmp_path, {"path": "a.csv", **BASIC, "id": "n"})
    ids = got.table["id"].to_pylist()
    assert ids[:5] == [f"a:7#{a}", "a:8", f"a:7#{b}#2", f"a:7#{b}", f"a:7#{a}#2"]
    assert len(ids[5]) == len("a:") + 16
    assert got.summaries[0].repeated_ids == 2
    assert "2 repeated ids told apart" in got.describe()


def test_repeated_ids_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    """An export with the newest on top: a message more of a ticket leaves the others' ids as they were."""
    lines = ["otra vez,x,7", "hola,x,7", "hola,x,8", "adios,y,8"]
    put(tmp_path, "a.csv", "\n".join(["text,label,n", *lines]) + "\n")
    put(tmp_path, "b/a.csv", "\n".join(["text,label,n", "nuevo,x,7", *reversed(lines)]) + "\n")

    def ids(path: str) -> dict[tuple[str, str], str]:
        table = extract(tmp_path, {"path": path, **BASIC, "id": "n"}).table
        rows = zip(table["text"].to_pylist(), table["id"].to_pylist(), strict=True)
        return {(text, id_[:3]): id_ for text, id_ in rows}

    before, after = ids("a.csv"), ids("b/a.csv")
    assert {key: after[key] for key in before} == before
    assert len(set(after.values())) == 5


def test_whole_numbers_are_the_same_in_every_format(tmp_path: Path) -> None:
    """pandas writes an integer column with an empty cell as 3.0 to CSV, and as 3 to the other formats."""
    rows = [("a", 3, 39, 1), ("b", None, 39, 2), ("c", 16, None, 3)]
    frame = pd.DataFrame(rows, columns=["text", "label", "unit", "n"])
    frame = frame.astype({"label": float, "unit": float, "n": float})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_excel(tmp_path / "a.xlsx", index=False)
    assert "3.0" in (tmp_path / "a.csv").read_text()
    found = []
    for path in ("a.csv", "a.xlsx"):
        got = extract(tmp_path, {"path": path, **BASIC, "group": "unit", "id": "n", "name": "s"})
        found.append([got.table[name].to_pylist() for name in ("id", "labels", "group")])
    assert found[0] == found[1] == [["s:1", "s:2", "s:3"], [["3"], [], ["16"]], ["39", "39", None]]


def test_labels_that_are_not_all_whole_numbers_stay_as_they_are(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "text,label\na,1.0\nb,1.5\nc,2.0\n")
    got = extract(tmp_path, {"path": "a.csv", **BASIC})
    assert got.table["labels"].to_pylist() == [["1.0"], ["1.5"], ["2.0"]]
    put(tmp_path, "b.csv", "text,label\na,1.0;2.0\nb,\nc,2\n")
    several = extract(tmp_path, {"path": "b.csv", **BASIC, "label_separator": ";", "delimiter": ","})
    assert several.table["labels"].to_pylist() == [["1", "2"], [], ["2"]]


def test_utf_8_read_as_another_encoding_is_said(tmp_path: Path) -> None:
    (tmp_path / "utf8.csv").write_text("text,label\ncamión,Educación\n", encoding="utf-8")
    (tmp_path / "latin.csv").write_text("text,label\ncamión,Educación\n", encoding="latin-1")
    (tmp_path / "ascii.csv").write_text("text,label\ncamion,a\n")
    said = "encoding: latin-1 is set, but the file is sound UTF-8"
    for path, expected in (("utf8.csv", True), ("latin.csv", False), ("ascii.csv", False)):
        got = extract(tmp_path, {"path": path, **BASIC, "encoding": "latin-1"})
        assert (said in got.describe()) == expected
    assert said not in extract(tmp_path, {"path": "utf8.csv", **BASIC, "encoding": "utf-8"}).describe()


def test_a_workbook_of_formulas_without_values_is_said(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in (["text", "label"], ['="hola"&" mundo"', "x"], ['="adios"', "y"]):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    assert (
        "all texts are empty; formulas read so" in extract(tmp_path, {"path": "a.xlsx", **BASIC}).describe()
    )
    book.active.append(["ya", "x"])
    book.save(tmp_path / "b.xlsx")
    assert "formulas" not in extract(tmp_path, {"path": "b.xlsx", **BASIC}).describe()


def test_without_an_id_the_text_gives_it_whatever_the_label(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "text,label\nhola,x\nadios,y\nhola,x\n")
    put(tmp_path, "b/a.csv", "text,label\nadios,z\nhola,w\n")
    first = extract(tmp_path, {"path": "a.csv", **BASIC}).table["id"].to_pylist()
    second = extract(tmp_path, {"path": "b/a.csv", **BASIC}).table["id"].to_pylist()
    assert first[:2] == second[::-1]
    assert first[2] == f"{first[0]}#2"
    assert first[0] == "a:e0992634f4ee25e8"  # the same on every machine and in every version


def test_dates_in_many_forms(tmp_path: Path) -> None:
    put(
        tmp_path,
        "a.csv",
        "text;label;t\na;x;2020-03-01\nb;x;2020-03-01T10:20:30Z\nc;x;2020-03-01 10:20:30+02:00\n"
        "d;x;25/12/2020\ne;x;5.1.2021 08:30\nf;x;1583058030\ng;x;Mon, 06 Apr 2009 22:19:45 -0700\nh;x;nunca\n"
        "i;x;\nj;x;2020/3/1\n",
    )
    got = extract(tmp_path, {"path": "a.csv", **BASIC, "time": "t"})
    moment = datetime.datetime
    assert got.table["time"].to_pylist() == [
        moment(2020, 3, 1),
        moment(2020, 3, 1, 10, 20, 30),
        moment(2020, 3, 1, 8, 20, 30),
        moment(2020, 12, 25),
        moment(2021, 1, 5, 8, 30),
        moment(2020, 3, 1, 10, 20, 30),
        moment(2009, 4, 7, 5, 19, 45),
        None,
        None,
        moment(2020, 3, 1),
    ]
    assert got.summaries[0].unreadable_times == 1
    assert "1 unreadable times left empty (the first: 'nunca')" in got.describe()


def test_digits_alone_are_a_date_or_an_epoch() -> None:
    moment = datetime.datetime
    noon = moment(2024, 1, 31, 12)
    for text, time in (
        ("20240131", moment(2024, 1, 31)),
        ("20240131120000", noon),
        ("20240131120000.0", noon),
        ("20240131120007.5", moment(2024, 1, 31, 12, 0, 7, 500_000)),
        ("202401311200", noon),
        ("19991231235959", moment(1999, 12, 31, 23, 59, 59)),
        ("20241331120000", None),  # no month 13, and no epoch either
        ("1706702400", noon),
        ("1706702400000", noon),
        ("1706702400000000", noon),
        ("199913312359", moment(1976, 5, 2, 19, 28, 32, 359_000)),
    ):
        assert parse_times([text]) == [time], text


def test_dates_with_the_month_s_name() -> None:
    moment = datetime.datetime
    for text, time in (
        ("Mon, 06 Apr 2009 22:19:45 -0700", moment(2009, 4, 7, 5, 19, 45)),
        ("6 Apr 2009 22:19:45 GMT (UTC)", moment(2009, 4, 6, 22, 19, 45)),
        ("06 Apr 2009 22:19 EST", moment(2009, 4, 7, 3, 19)),
        ("06 Apr 2009", moment(2009, 4, 6)),
        ("05-May-2024 10:00 PM", moment(2024, 5, 5, 22)),
        ("March 5, 2024, 11:45 PM", moment(2024, 3, 5, 23, 45)),
        ("Mar 5, 2024 12:05 a.m.", moment(2024, 3, 5, 0, 5)),
        ("Tue Mar 05 2024 23:45:00 GMT-0300 (hora estándar)", moment(2024, 3, 6, 2, 45)),
        ("Mon Jan 15 10:30:00 UTC 2024", moment(2024, 1, 15, 10, 30)),
        ("Mon Jan 15 10:30:00 2024", moment(2024, 1, 15, 10, 30)),
        ("Mon Jan 15 10:30:00 CET 2024", None),  # a zone that is not known
        ("Mon, 06 Apr 2009 22:19:45 CLT", None),
        ("el 5 de marzo de 2024", None),
        ("5 Mar 2024 25:00", None),
        ("31 Feb 2024", None),
    ):
        assert parse_times([text]) == [time], text


def test_dates_with_the_year_first() -> None:
    moment = datetime.datetime
    for text, time in (
        ("2024/03/05", moment(2024, 3, 5)),
        ("2024.3.5 10:15", moment(2024, 3, 5, 10, 15)),
        ("2021-1-5", moment(2021, 1, 5)),
        ("2021/1/5 3:04", moment(2021, 1, 5, 3, 4)),
        ("2024-01-15 10:30:00 UTC", moment(2024, 1, 15, 10, 30)),  # BigQuery, Rails
        ("2024-01-15 10:30:00.25 UTC", moment(2024, 1, 15, 10, 30, 0, 250_000)),
        ("2024-01-15 10:30:00 -0300", moment(2024, 1, 15, 13, 30)),
        ("2024/03/05 10:15:32 a. m. GMT-3", moment(2024, 3, 5, 13, 15, 32)),  # a form of Google's
        ("2024/03/05 12:15:32 p. m. GMT+5:30", moment(2024, 3, 5, 6, 45, 32)),
        ("2021/1/5 3:04 -0:30", moment(2021, 1, 5, 3, 34)),
        ("2024-01-15 10:30 EST", None),
        ("2024-13-05", None),
        ("2024-1/5", None),
        ("2024/03/05 10:15 GMT+99", None),
    ):
        assert parse_times([text]) == [time], text


def test_compact_times_as_numbers(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"text": ["a", "b"], "label": ["x", "x"], "t": [20240131120000, 202401311200]}),
        tmp_path / "a.parquet",
    )
    put(tmp_path, "b.jsonl", '{"text": "a", "label": "x", "t": 20240131120000}\n')
    for path in ("a.parquet", "b.jsonl"):
        times = extract(tmp_path, {"path": path, **BASIC, "time": "t"}).table["time"].to_pylist()
        assert set(times) == {datetime.datetime(2024, 1, 31, 12)}


def test_month_first_dates_are_known_by_the_column_and_a_format_decides(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "text,label,t\na,x,12/31/2020\nb,x,02/03/2020\n")
    got = extract(tmp_path, {"path": "a.csv", **BASIC, "time": "t"}).table["time"].to_pylist()
    assert got == [datetime.datetime(2020, 12, 31), datetime.datetime(2020, 2, 3)]
    source = {"path": "a.csv", **BASIC, "time": "t", "time_format": "%d/%m/%Y"}
    assert extract(tmp_path, source).table["time"].to_pylist() == [None, datetime.datetime(2020, 3, 2)]


def test_splits_by_column_and_by_source(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "text,label,s,g\na,x,Train,p1\nb,x,dev,p1\nc,x,prueba,p2\nd,x,,\ne,x,holdout,p3\n")
    got = extract(tmp_path, {"path": "a.csv", **BASIC, "split": "s", "group": "g"})
    assert rows(got, "split", "group") == [
        ("train", "p1"),
        ("validation", "p1"),
        ("test", "p2"),
        (None, None),
    ]
    assert rejected(got) == [(6, "split is not train, validation or test")]
    constant = extract(tmp_path, {"path": "a.csv", **BASIC, "split_as": "test"})
    assert set(constant.table["split"].to_pylist()) == {"test"}


def test_limit_reads_the_first_rows(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "text,label\n" + "".join(f"t{number},x\n" for number in range(100)))
    assert [text for text, _ in rows(extract(tmp_path, {"path": "a.csv", **BASIC, "limit": 3}))] == [
        "t0", "t1", "t2",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_limit_does_not_hide_a_misspelt_column(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [{"text": f"t{number}", "label": "x", "created": "2024-01-31"} for number in range(6)]
    documents[0].pop("created")
    lines = "\n".join(map(json.dumps, documents))
    put(tmp_path, name, json.dumps(documents) if name == "a.json" else lines)
    message = rf"^{name}: no column 'cretaed'; did you mean 'created'\?"
    for limit in (None, 1, 6):
        with pytest.raises(UserError, match=message):
            extract(tmp_path, {"path": name, **BASIC, "time": "cretaed", "limit": limit})
    # The first row lacks the field, a later one has it.
    got = extract(tmp_path, {"path": name, **BASIC, "time": "created", "limit": 1})
    assert got.table["time"].to_pylist() == [None]
    # A chunk that holds fewer rows than there are.
    monkeypatch.setattr("afina.sources.chunk.document_chunks.__defaults__", (2, (), None))
    with pytest.raises(UserError, match=message):
        extract(tmp_path, {"path": name, **BASIC, "time": "cretaed", "limit": 2})


def test_sources_with_different_columns_make_one_table(tmp_path: Path) -> None:
    put(tmp_path, "old.csv", "asunto;tema\nHola;A\n")
    put(tmp_path, "new.jsonl", json.dumps({"body": {"text": "Adiós"}, "tags": ["B", "C"]}) + "\n")
    got = extract(
        tmp_path,
        {"path": "old.csv", "text": "asunto", "label": "tema"},
        {"path": "new.jsonl", "text": "body.text", "label": "tags"},
    )
    assert rows(got, "source", "text", "labels") == [("old", "Hola", ["A"]), ("new", "Adiós", ["B", "C"])]
    assert got.table.schema == SCHEMA
    assert got.describe() == "2 rows from 2 sources (old 1, new 1), 0 rejected"


def test_reading_twice_gives_the_same_table(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "text,label\n" + "".join(f"t{number % 7},l{number % 3}\n" for number in range(99)))
    source = {"path": "a.csv", **BASIC}
    assert extract(tmp_path, source).table.equals(extract(tmp_path, source).table)


# Excel


def workbook(root: Path, sheets: dict[str, list[list[Any]]], name: str = "book.xlsx") -> str:
    from openpyxl import Workbook

    book = Workbook()
    book.remove(book.active)
    for title, cells in sheets.items():
        sheet = book.create_sheet(title)
        for row in cells:
            sheet.append(row)
    book.save(root / name)
    return name


def test_excel_cells_keep_their_meaning(tmp_path: Path) -> None:
    day = datetime.datetime(2021, 5, 4, 12)
    path = workbook(
        tmp_path,
        {
            "Hoja1": [
                ["texto", "ods", "fecha"],
                ["uno", 3, day],
                [None, None, None],
                ["dos", 16.0, None],
                [7, 2],
            ]
        },
    )
    got = extract(tmp_path, {"path": path, "text": "texto", "label": "ods", "time": "fecha"})
    assert rows(got, "text", "labels", "time") == [
        ("uno", ["3"], day),
        ("dos", ["16"], None),
        ("7", ["2"], None),
    ]


def test_a_sheet_named_by_a_number_needs_no_quotes(tmp_path: Path) -> None:
    cells = [["text", "label"], ["a", "x"]]
    path = workbook(tmp_path, {"2023": cells, "2024": [cells[0], ["b", "y"]]})
    assert rows(extract(tmp_path, {"path": path, **BASIC, "sheet": 2024}))[0] == ("b", ["y"])
    first = extract(tmp_path, {"path": path, **BASIC})
    assert rows(first)[0] == ("a", ["x"])
    assert first.describe().endswith("sheet '2023' alone is read; sheet: names another of ['2024']")


def test_columns_names_all_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,hola,x\n2,adiós,y\n")
    source = {"path": "a.csv", "text": "texto", "label": "tema", "header": False}
    assert rows(extract(tmp_path, {**source, "columns": ["n", "texto", "tema"]}))[0] == ("hola", ["x"])
    with pytest.raises(UserError, match=r"columns: 2 names for a first row of 3 cells"):
        extract(tmp_path, {**source, "columns": ["texto", "tema"]})
    path = workbook(tmp_path, {"A": [["hola", "x", None], ["adiós", "y", None]]})
    excel = {"path": path, "text": "texto", "label": "tema", "header": False, "columns": ["texto", "tema"]}
    assert rows(extract(tmp_path, excel))[0] == ("hola", ["x"])


def test_a_sheet_without_a_header_may_begin_with_a_short_row(tmp_path: Path) -> None:
    path = workbook(tmp_path, {"A": [["hola", "x"], ["adiós", "y", "ana"], ["qué"]]})
    excel = {"path": path, "header": False, "text": "0", "label": "1", "group": "2"}
    wanted = [("hola", ["x"], None), ("adiós", ["y"], "ana"), ("qué", [], None)]
    assert rows(extract(tmp_path, excel), "text", "labels", "group") == wanted
    named = {
        **excel,
        "columns": ["texto", "tema", "autor"],
        "text": "texto",
        "label": "tema",
        "group": "autor",
    }
    assert rows(extract(tmp_path, named), "text", "labels", "group") == wanted
    with pytest.raises(UserError, match=r"columns: 4 names for a first row of 3 cells"):
        extract(tmp_path, {**named, "columns": ["texto", "tema", "autor", "otro"]})


def test_excel_sheets_by_name_and_number(tmp_path: Path) -> None:
    path = workbook(tmp_path, {"A": [["text", "label"], ["a", "x"]], "B": [["text", "label"], ["b", "y"]]})
    assert rows(extract(tmp_path, {"path": path, **BASIC}))[0] == ("a", ["x"])
    assert rows(extract(tmp_path, {"path": path, **BASIC, "sheet": "B"}))[0] == ("b", ["y"])
    assert rows(extract(tmp_path, {"path": path, **BASIC, "sheet": 1}))[0] == ("b", ["y"])
    for wrong in ("C", 2):
        with pytest.raises(UserError, match=r"book\.xlsx: no sheet .*; sheets: 0 'A', 1 'B'"):
            extract(tmp_path, {"path": path, **BASIC, "sheet": wrong})


def test_a_carriage_return_in_excel(tmp_path: Path) -> None:
    path = workbook(tmp_path, {"A": [["text", "label_x000D_"], ["uno_x000D_\ndos, snake_xyz", "x"]]})
    got = extract(tmp_path, {"path": path, **BASIC})
    assert rows(got) == [("uno\r\ndos, snake_xyz", ["x"])]


def test_a_sheet_that_is_a_chart_is_no_sheet(tmp_path: Path) -> None:
    from openpyxl import Workbook
    from openpyxl.chart import BarChart

    book = Workbook()
    book.active.append(["text", "label"])
    book.active.append(["a", "x"])
    book.create_chartsheet("Grafico", 0).add_chart(BarChart())
    book.save(tmp_path / "a.xlsx")
    assert sheet_names(tmp_path / "a.xlsx", "a.xlsx") == ["Sheet"]
    got = extract(tmp_path, {"path": "a.xlsx", **BASIC})
    assert rows(got) == [("a", ["x"])]
    assert "sheet" not in got.describe()
    book.remove(book["Sheet"])
    book.save(tmp_path / "b.xlsx")
    with pytest.raises(UserError, match=r"^b\.xlsx: no sheet with cells"):
        sheet_names(tmp_path / "b.xlsx", "b.xlsx")


def test_excel_files_that_are_none(tmp_path: Path) -> None:
    put(tmp_path, "a.xls", b"\xd0\xcf\x11\xe0")
    put(tmp_path, "b.xlsx", "text,label\n")
    workbook(tmp_path, {"A": []}, "c.xlsx")
    for path, message in (
        ("a.xls", "save it as .xlsx"),
        ("b.xlsx", "not an Excel workbook"),
        ("c.xlsx", "empty"),
    ):
        with pytest.raises(UserError, match=message):
            extract(tmp_path, {"path": path, **BASIC})


@pytest.mark.parametrize(
    ("part", "old", "new", "message"),
    [
        ("xl/worksheets/sheet1.xml", b"</sheetData>", b"", r": sheet 'A': damaged workbook \(mismatched tag"),
        (
            "xl/worksheets/sheet1.xml",
            b'"n"><v>3<',
            b'"s"><v>3<',
            r": sheet 'A': damaged workbook \(.*index out",
        ),
        ("xl/workbook.xml", b"</sheets>", b"", ": not an Excel workbook"),
    ],
)
def test_a_damaged_workbook_is_one_line(
    tmp_path: Path, part: str, old: bytes, new: bytes, message: str
) -> None:
    workbook(tmp_path, {"A": [["text", "label"], ["uno", 3]]}, "sound.xlsx")
    with (
        zipfile.ZipFile(tmp_path / "sound.xlsx") as sound,
        zipfile.ZipFile(tmp_path / "a.xlsx", "w") as damaged,
    ):
        for name in sound.namelist():
            content = sound.read(name)
            assert name != part or old in content
            damaged.writestr(name, content.replace(old, new) if name == part else content)
    with pytest.raises(UserError, match=rf"^a\.xlsx{message}"):
        extract(tmp_path, {"path": "a.xlsx", **BASIC})


# JSON and JSON Lines


def test_json_lines_with_paths_and_bad_lines(tmp_path: Path) -> None:
    put(
        tmp_path,
        "a.jsonl",
        '{"user": {"id": 5}, "parts": [{"body": "uno"}, {"body": "dos"}], "tag": "x", "a.b": 1}\n'
        '{"user": {"id": 6}, "parts": [{"body": "tres"}], "tag": 4}\n'
        "\n"
        '{"user": \n'
        "[1, 2]\n"
        '{"parts": [], "tag": null}\n',
    )
    source = {"path": "a.jsonl", "text": ["parts.0.body", "parts.1.body"], "label": "tag", "id": "user.id"}
    got = extract(tmp_path, source)
    assert rows(got) == [("uno\ndos", ["x"]), ("tres", ["4"]), ("", [])]
    assert got.table["id"].to_pylist()[:2] == ["a:5", "a:6"]
    assert rejected(got) == [(4, "not valid JSON: Expecting value"), (5, "not a JSON object")]
    everywhere = {"path": "a.jsonl", "text": "parts.body", "label": "a.b"}
    assert rows(extract(tmp_path, everywhere)) == [("uno\ndos", ["1"]), ("tres", []), ("", [])]


def test_a_lone_surrogate_deep_in_json_is_rejected(tmp_path: Path) -> None:
    put(tmp_path, "a.jsonl", '{"text": "a", "label": "x"}\n{"text": [["\\ud800"]], "label": "x"}\n')
    assert rejected(extract(tmp_path, {"path": "a.jsonl", **BASIC})) == [
        (2, "bytes that are not text in this encoding")
    ]


def test_a_lone_surrogate_in_json_is_rejected(tmp_path: Path) -> None:
    put(tmp_path, "a.jsonl", '{"text": "a", "label": "x"}\n{"text": "\\ud800", "label": "x"}\n')
    got = extract(tmp_path, {"path": "a.jsonl", **BASIC})
    assert rejected(got) == [(2, "bytes that are not text in this encoding")]
    assert got.table.num_rows == 1


@pytest.mark.parametrize(
    ("content", "records"),
    [
        ('[{"text": "a", "label": "x"}]', None),
        ('{"total": 1, "items": [{"text": "a", "label": "x"}]}', None),
        ('{"data": {"items": [{"text": "a", "label": "x"}]}, "more": [1]}', "data.items"),
    ],
)
def test_json_lists_of_objects(tmp_path: Path, content: str, records: str | None) -> None:
    put(tmp_path, "a.json", content)
    assert rows(extract(tmp_path, {"path": "a.json", **BASIC, "records": records})) == [("a", ["x"])]


def test_labels_in_lists_of_lists_stay_apart(tmp_path: Path) -> None:
    threads = [
        {"text": "uno", "posts": [{"tags": ["luz", "agua"]}, {"tags": ["gas", "luz"]}]},
        {"text": "dos", "posts": [{"tags": []}, {"tags": [[7], None]}]},
    ]
    put(tmp_path, "a.jsonl", "".join(json.dumps(thread) + "\n" for thread in threads))
    got = extract(tmp_path, {"path": "a.jsonl", "text": "text", "label": "posts.tags"})
    assert rows(got) == [("uno", ["luz", "agua", "gas"]), ("dos", ["7"])]


def test_json_that_is_not_a_list_says_where_lists_are(tmp_path: Path) -> None:
    put(tmp_path, "a.json", '{"data": {"items": [{"text": "a"}]}}')
    with pytest.raises(UserError, match=r"records:; lists in the file: data\.items"):
        extract(tmp_path, {"path": "a.json", **BASIC})
    put(tmp_path, "b.json", '{"text": "a", "label": "x"}\n{"text": "b", "label": "x"}\n')
    with pytest.raises(UserError, match=r"line 2: not valid JSON .*; set format: jsonl"):
        extract(tmp_path, {"path": "b.json", **BASIC})


def test_objects_where_text_is_wanted(tmp_path: Path) -> None:
    put(tmp_path, "a.jsonl", '{"text": {"es": "hola"}, "label": "x"}\n')
    with pytest.raises(UserError, match=r"column text holds objects.* as text\.es"):
        extract(tmp_path, {"path": "a.jsonl", **BASIC})


# Parquet, folders, SQLite


def test_parquet_types_and_nested_columns(tmp_path: Path) -> None:
    table = pa.table(
        {
            "body": pa.array([{"es": "uno"}, {"es": "dos"}, None]),
            "tags": pa.array([["x", "y"], [], None], pa.list_(pa.string())),
            "kind": pa.array(["k1", "k2", "k1"]).dictionary_encode(),
            "stars": pa.array([1.0, 2.0, None]),
            "when": pa.array([datetime.datetime(2020, 1, 2), None, None], pa.timestamp("ns", "UTC")),
            "n": pa.array([10, 20, 30]),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    source = {"path": "a.parquet", "text": ["body.es", "kind"], "label": "tags", "time": "when", "id": "n"}
    got = extract(tmp_path, {**source, "chunk_size": 2})
    assert rows(got, "id", "text", "labels", "time") == [
        ("a:10", "uno\nk1", ["x", "y"], datetime.datetime(2020, 1, 2)),
        ("a:20", "dos\nk2", [], None),
        ("a:30", "k1", [], None),
    ]
    stars = extract(tmp_path, {"path": "a.parquet", "text": "kind", "label": "stars"})
    assert stars.table["labels"].to_pylist() == [["1"], ["2"], []]
    with pytest.raises(UserError, match=r"a\.parquet: no column 'body\.en'; did you mean 'body\.es'\?"):
        extract(tmp_path, {"path": "a.parquet", "text": "body.en", "label": "tags"})


@pytest.mark.parametrize("kind", [pa.list_(pa.string(), 2), pa.list_view(pa.string())])
def test_parquet_lists_of_every_kind_are_several_labels(tmp_path: Path, kind: pa.DataType) -> None:
    cells = pa.table({"text": ["uno", "dos"], "label": pa.array([["a", "b"], ["c", "a"]], kind)})
    pq.write_table(cells, tmp_path / "a.parquet")
    assert rows(extract(tmp_path, {"path": "a.parquet", **BASIC})) == [
        ("uno", ["a", "b"]),
        ("dos", ["c", "a"]),
    ]


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    for number in range(3):
        part = pa.table({"text": [f"t{number}"], "label": ["x"]})
        pq.write_table(part, tmp_path / "parts" / f"p{number}.parquet")
    got = extract(tmp_path, {"path": "parts", "format": "parquet", **BASIC})
    assert [text for text, _ in rows(got)] == ["t0", "t1", "t2"]


def as_strings(values: pa.Array) -> pa.Array:
    """The bytes as strings that nobody has checked, as some writers leave them in Parquet."""
    return pa.Array.from_buffers(pa.string(), len(values), values.buffers())


DAMAGED = pa.array([b"a", b"hola \xf1", None, "sí".encode()], pa.binary())


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (DAMAGED, "t"),
        (as_strings(DAMAGED), "t"),
        (pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 3]), DAMAGED.fill_null(b"")), "t"),
        (pa.ListArray.from_arrays([0, 1, 2, 3, 4], DAMAGED), "t"),
        (pa.ListArray.from_arrays([0, 1, 2, 3, 4], as_strings(DAMAGED)), "t"),
        (pa.StructArray.from_arrays([DAMAGED], ["es"]), "t.es"),
        (pa.StructArray.from_arrays([as_strings(DAMAGED)], ["es"]), "t.es"),
    ],
)
def test_parquet_bytes_that_are_not_text_are_rejected(tmp_path: Path, column: pa.Array, text: str) -> None:
    pq.write_table(pa.table({"t": column, "label": ["x", "y", "z", "w"]}), tmp_path / "a.parquet")
    got = extract(tmp_path, {"path": "a.parquet", "text": text, "label": "label"})
    assert rows(got) == [("a", ["x"]), ("", ["z"]), ("sí", ["w"])]
    assert rejected(got) == [(2, "bytes that are not text in this encoding")]
    assert "hola" in got.rejected["detail"][0].as_py()


def test_parquet_labels_that_are_not_text_are_rejected(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b", "c", "d"], "label": as_strings(DAMAGED)})
    pq.write_table(table, tmp_path / "a.parquet", use_dictionary=False)
    got = extract(tmp_path, {"path": "a.parquet", **BASIC, "chunk_size": 1})
    assert rows(got) == [("a", ["a"]), ("c", []), ("d", ["sí"])]
    assert rejected(got) == [(2, "bytes that are not text in this encoding")]


def test_two_parquet_columns_of_one_name(tmp_path: Path) -> None:
    table = pa.table([pa.array(["a"])] * 3, names=["text", "label", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"^a\.parquet: 2 columns are called 'text'; rename one"):
        extract(tmp_path, {"path": "a.parquet", **BASIC})


def test_a_folder_that_is_called_like_a_file(tmp_path: Path) -> None:
    for name in ("out.csv", "out.parquet"):
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"text": ["a"], "label": ["x"]}), tmp_path / name / "part-0.parquet")
    for options in ({}, {"format": "jsonl"}):
        with pytest.raises(UserError, match=r"^out\.csv: a folder, not a file; .* set format: parquet$"):
            extract(tmp_path, {"path": "out.csv", **BASIC, **options})
    assert rows(extract(tmp_path, {"path": "out.parquet", **BASIC})) == [("a", ["x"])]
    assert rows(extract(tmp_path, {"path": "out.csv", **BASIC, "format": "parquet"})) == [("a", ["x"])]
    put(tmp_path, "texts.csv/x/1.txt", "hola")
    with pytest.raises(UserError, match=r"^texts\.csv: a folder, not a file; .* set format: folder$"):
        extract(tmp_path, {"path": "texts.csv", **BASIC})
    assert rows(extract(tmp_path, {"path": "texts.csv", "format": "folder"})) == [("hola", ["x"])]


def test_a_folder_of_text_files(tmp_path: Path) -> None:
    put(tmp_path, "corpus/quejas/1.txt", "El niño\nllora")
    put(tmp_path, "corpus/quejas/deep/2.txt", "otra")
    put(tmp_path, "corpus/elogios/1.txt", "¡Qué año!", "latin-1")
    put(tmp_path, "corpus/elogios/image.png", b"\x89PNG\0\0")
    put(tmp_path, "corpus/elogios/.hidden", "x")
    put(tmp_path, "corpus/elogios/Desktop.ini", "[.ShellClassInfo]\nIconResource=shell32.dll,43")
    put(tmp_path, "corpus/README", "nothing")
    got = extract(tmp_path, {"path": "corpus"})
    assert rows(got, "id", "text", "labels") == [
        ("corpus:elogios/1.txt", "¡Qué año!", ["elogios"]),
        ("corpus:quejas/1.txt", "El niño\nllora", ["quejas"]),
        ("corpus:quejas/deep/2.txt", "otra", ["quejas"]),
    ]
    reasons = {"file outside any label's folder", "not a text file"}
    assert {reason for _, reason in rejected(got)} == reasons
    whole = extract(tmp_path, {"path": "corpus", "label": "folder"})
    assert {labels[0] for (labels,) in rows(whole, "labels")} == {"elogios", "quejas", "quejas/deep"}
    assert {reason for _, reason in rejected(whole)} == reasons


@pytest.fixture
def database(tmp_path: Path) -> str:
    import sqlite3

    with sqlite3.connect(tmp_path / "m.db") as connection:
        connection.execute("create table messages (n integer, body text, topic text, at text)")
        values = [(number, f"mensaje {number}", "ab"[number % 2], "2020-01-02") for number in range(25)]
        connection.executemany("insert into messages values (?, ?, ?, ?)", values)
        connection.execute("create view recent as select * from messages where n > 20")
    connection.close()
    return "sqlite:///m.db"


def test_sql_table_view_and_query(tmp_path: Path, database: str) -> None:
    mapping = {"text": "body", "label": "topic", "id": "n", "time": "at", "chunk_size": 10}
    table = extract(tmp_path, {"url": database, "table": "messages", **mapping})
    assert table.table.num_rows == 25
    assert table.table["id"].to_pylist()[0] == "messages:0"
    assert extract(tmp_path, {"path": "m.db", "table": "recent", **mapping}).table.num_rows == 4
    query = "select n, body, topic, at from messages where topic = 'a' and body like '%1%' or 'a:b' = ' :c'"
    assert extract(tmp_path, {"url": database, "query": query, **mapping}).table["id"].to_pylist() == [
        "query:10", "query:12", "query:14", "query:16", "query:18",
    ]  # fmt: skip


def test_two_columns_of_one_name_in_a_query(tmp_path: Path, database: str) -> None:
    query = "select n, body, topic, 'z' as topic, at as n from messages"
    source = {"url": database, "query": query, "text": "body"}
    with pytest.raises(UserError, match=r"2 columns are called 'topic'; give each its own name with AS$"):
        extract(tmp_path, {**source, "label": "topic"})
    unrelated = "select body, topic, n, at as n from messages"
    assert extract(tmp_path, {**source, "query": unrelated, "label": "topic"}).table.num_rows == 25


def test_cells_as_some_drivers_give_them() -> None:
    found = as_text([bytearray("señal".encode()), 7, Decimal("Infinity"), Decimal("2.50"), None], "column a")
    assert found.to_pylist() == ["señal", "7", "Infinity", "2.5", None]
    # Bytes that are not text are none as a bytearray either, in whose name they would be one.
    cells = [bytearray(b"sound"), bytearray(b"se\xf1al")]
    with pytest.raises(UnicodeEncodeError):
        as_text(cells, "column a")
    assert list(unencodable(cells)) == [1]


def test_sql_never_changes_the_database(tmp_path: Path, database: str) -> None:
    with pytest.raises(UserError, match="write a SELECT"):
        extract(tmp_path, {"url": database, "query": "delete from messages", **BASIC})
    mapping = {"text": "body", "label": "topic"}
    assert extract(tmp_path, {"url": database, "table": "messages", **mapping}).table.num_rows == 25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table": "mesages"}, r"no table 'mesages'; did you mean 'messages'\? tables: messages, recent"),
        ({"text": "bodi"}, r"table messages: no column 'bodi'; did you mean 'body'\? columns: 'n', 'body'"),
        ({"table": None, "query": "selec 1"}, 'near "selec": syntax error'),
        ({"table": None, "query": "select n from messages"}, "query: no column 'body'"),
        ({"url": "sqlite:///missing.db"}, "no such file: missing.db"),
        ({"url": "oracel://x/y"}, "oracel"),
        ({"url": "mssql+pyodbc://x/y"}, "driver is not installed; pip install pyodbc"),
        ({"url": "mysql://x/y"}, "driver is not installed; pip install mysqlclient"),
    ],
)
def test_sql_mistakes(tmp_path: Path, database: str, change: dict[str, Any], message: str) -> None:
    source = {"url": database, "table": "messages", "text": "body", "label": "topic", **change}
    with pytest.raises(UserError, match=message):
        extract(tmp_path, source)
    assert not (tmp_path / "missing.db").exists()


# Slices, of every kind of source


def slices(root: Path, *sources: dict[str, Any]) -> list[dict[str, str] | None]:
    """The slices of each row, checked to be in the order of their names."""
    found = extract(root, *sources).table["slices"].to_pylist()
    for row in found:
        assert row is None or row == sorted(row)
    return [None if row is None else dict(row) for row in found]


def test_slices_of_a_csv(tmp_path: Path) -> None:
    put(
        tmp_path,
        "a.csv",
        "text;label;zona;canal;age;version\n"
        "a;x; Sur ;web;31.0;1.0\nb;x;;\u00a0;;\nc;y;Sur;;28;2.5\nd;y;Norte;Web;-1.00;1.0\n",
    )
    source = {"path": "a.csv", **BASIC}
    mapping = {"region": "zona", "channel": "canal", "age": "age", "version": "version"}
    assert slices(tmp_path, {**source, "slices": mapping}) == [
        {"age": "31", "channel": "web", "region": "Sur", "version": "1.0"},
        None,
        {"age": "28", "region": "Sur", "version": "2.5"},
        {"age": "-1", "channel": "Web", "region": "Norte", "version": "1.0"},
    ]
    assert slices(tmp_path, {**source, "slices": ["zona", "label"]}) == [
        {"label": "x", "zona": "Sur"}, {"label": "x"}, {"label": "y", "zona": "Sur"},
        {"label": "y", "zona": "Norte"},
    ]  # fmt: skip
    assert slices(tmp_path, {**source, "slices": "zona", "limit": 2}) == [{"zona": "Sur"}, None]
    assert slices(tmp_path, source) == [None] * 4


def test_slices_are_read_chunk_by_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a whole number is does not depend on the chunk: the last one alone tells that these are none."""
    monkeypatch.setattr("afina.sources.delimited.CHUNK_ROWS", 2)
    content = "text,label,v,w\n" + "".join(f"t{number},x,{number}.0,{number}.0\n" for number in range(6))
    put(tmp_path, "a.csv", content + "t,x,1.5,7.0\nlost,x\nt,x,,\n")
    got = slices(tmp_path, {"path": "a.csv", **BASIC, "slices": ["w", "v"]})
    rows = [{"v": f"{number}.0", "w": str(number)} for number in range(6)]
    assert got == [*rows, {"v": "1.5", "w": "7"}, None]


def test_slices_of_a_workbook(tmp_path: Path) -> None:
    cells = [
        ["text", "label", "office", "age", "open"],
        ["a", "x", 3, 31.0, True],
        ["b", "x", "3", 28.5, None],
        ["c", "y", None, None, False],
    ]
    source = {"path": workbook(tmp_path, {"Hoja1": cells}), **BASIC}
    assert slices(tmp_path, {**source, "slices": ["office", "age", "open"]}) == [
        {"office": "3", "age": "31", "open": "true"},
        {"office": "3", "age": "28.5"},
        {"open": "false"},
    ]


def test_slices_of_json(tmp_path: Path) -> None:
    documents = [
        {"text": "a", "label": "x", "client": {"zone": "Sur", "year": 1980.0}, "products": ["agua", "luz"]},
        {"text": "b", "label": "x", "client": {}, "products": []},
        {"text": "c", "label": "y", "client": {"zone": None, "year": 7}, "products": "gas"},
        {"text": "d", "label": "y", "products": [None, 3.0, ""]},
    ]
    put(tmp_path, "a.jsonl", "".join(json.dumps(document) + "\n" for document in documents))
    put(tmp_path, "b.json", json.dumps(documents))
    mapping = {"zone": "client.zone", "year": "client.year", "product": "products", "first": "products.0"}
    expected = [
        {"zone": "Sur", "year": "1980", "product": "agua, luz", "first": "agua"},
        None,
        {"year": "7", "product": "gas"},
        {"product": "3"},
    ]
    assert slices(tmp_path, {"path": "a.jsonl", **BASIC, "slices": mapping}) == expected
    assert slices(tmp_path, {"path": "b.json", **BASIC, "slices": mapping}) == expected


def test_slices_of_parquet(tmp_path: Path) -> None:
    columns = {
        "text": ["a", "b", "c"],
        "label": ["x", "x", "y"],
        "kind": pa.array(["k1", None, "k1"]).dictionary_encode(),
        "stars": pa.array([4.0, None, 0.5]),
        "n": pa.array([10, 20, None]),
        "tags": pa.array([["p", "q"], None, []], pa.list_(pa.string())),
        "person": pa.array([{"region": " Sur"}, None, {"region": ""}]),
        "nothing": pa.nulls(3),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    mapping = {
        "region": "person.region",
        **{name: name for name in ("kind", "stars", "n", "tags", "nothing")},
    }
    got = slices(tmp_path, {"path": "a.parquet", **BASIC, "slices": mapping, "chunk_size": 2})
    assert got == [
        {"kind": "k1", "n": "10", "region": "Sur", "stars": "4", "tags": "p, q"},
        {"n": "20"},
        {"kind": "k1", "stars": "0.5"},
    ]


def test_slices_of_a_database_and_of_a_folder(tmp_path: Path, database: str) -> None:
    source = {"url": database, "text": "body", "label": "topic", "chunk_size": 10}
    recent = {**source, "table": "recent", "slices": {"day": "at", "number": "n"}}
    assert slices(tmp_path, recent)[0] == {"day": "2020-01-02", "number": "21"}
    query = "select body, topic, n * 1.0 as half, null as none from messages where n < 2"
    got = slices(tmp_path, {**source, "query": query, "slices": ["half", "none"]})
    assert got == [{"half": "0"}, {"half": "1"}]
    put(tmp_path, "corpus/x/2024/1.txt", "uno")
    put(tmp_path, "corpus/y/2.txt", "dos")
    assert slices(tmp_path, {"path": "corpus", "slices": {"place": "folder"}}) == [
        {"place": "x/2024"}, {"place": "y"},
    ]  # fmt: skip


def test_sources_may_have_other_slices_or_none(tmp_path: Path) -> None:
    put(tmp_path, "old.csv", "text,label,canal\na,x,web\n")
    put(tmp_path, "new.jsonl", '{"text": "b", "label": "x", "via": "web", "region": "Sur"}\n')
    put(tmp_path, "none.csv", "text,label\nc,y\n")
    sources = (
        {"path": "old.csv", **BASIC, "slices": {"channel": "canal"}},
        {"path": "new.jsonl", **BASIC, "slices": {"region": "region", "channel": "via"}},
        {"path": "none.csv", **BASIC},
    )
    assert slices(tmp_path, *sources) == [
        {"channel": "web"}, {"channel": "web", "region": "Sur"}, None,
    ]  # fmt: skip
    assert extract(tmp_path, *sources).table.schema == SCHEMA


def test_slices_change_no_id(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "text,label,zona\nhola,x,Sur\nhola,x,Norte\nhola,y,\n")
    plain = extract(tmp_path, {"path": "a.csv", **BASIC}).table
    sliced = extract(tmp_path, {"path": "a.csv", **BASIC, "slices": ["zona"]}).table
    assert sliced["id"] == plain["id"]
    assert sliced["id"][0].as_py() == "a:e0992634f4ee25e8"
    assert sliced.drop_columns("slices") == plain.drop_columns("slices")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label,zona\na,x,Sur\n"),
        ("a.jsonl", '{"text": "a", "label": "x", "zona": "Sur"}\n'),
        ("a.json", '[{"text": "a", "label": "x", "zona": "Sur"}]'),
    ],
)
def test_a_slice_of_a_missing_column(tmp_path: Path, name: str, content: str) -> None:
    put(tmp_path, name, content)
    message = rf"^{name}: no column 'zone'; did you mean 'zona'\? columns: 'text', 'label', 'zona'"
    with pytest.raises(UserError, match=message):
        extract(tmp_path, {"path": name, **BASIC, "slices": {"region": "zone"}})


def test_a_missing_or_unusable_slice_of_other_kinds(tmp_path: Path, database: str) -> None:
    path = workbook(tmp_path, {"Hoja1": [["text", "label"], ["a", "x"]]})
    pq.write_table(pa.table({"text": ["a"], "label": ["x"]}), tmp_path / "a.parquet")
    put(tmp_path, "corpus/x/1.txt", "uno")
    for source in (
        {"path": path, **BASIC},
        {"path": "a.parquet", **BASIC},
        {"path": "corpus"},
        {"url": database, "table": "messages", "text": "body", "label": "topic"},
    ):
        with pytest.raises(UserError, match=r"no column 'office'; .*columns: ('text'|'n'), "):
            extract(tmp_path, {**source, "slices": ["office"]})
    put(tmp_path, "a.jsonl", '{"text": "a", "label": "x", "client": {"zone": "Sur"}}\n')
    with pytest.raises(UserError, match=r"column client holds objects.* as client\.zone"):
        extract(tmp_path, {"path": "a.jsonl", **BASIC, "slices": ["client"]})
    put(tmp_path, "b.csv", b"text,label,zona\na,x,Sur\nb,x,ni\xf1o\n" + "c,x,ñ\n".encode() * 9)
    got = extract(tmp_path, {"path": "b.csv", **BASIC, "encoding": "utf-8", "slices": ["zona"]})
    assert rejected(got) == [(3, "bytes that are not text in this encoding")]


def test_equal_slices_are_equal_bytes(tmp_path: Path) -> None:
    """However the source is cut into chunks, and in whatever order its rows and slices stand."""
    documents = [
        {
            "text": f"t{n}",
            "label": "xy"[n % 2],
            "n": n,
            "a": f" {n % 4}" if n % 3 else "",
            "b": [n % 5] * (n % 2),
        }
        for n in range(40)
    ]
    put(tmp_path, "a.jsonl", "".join(json.dumps(document) + "\n" for document in documents))
    put(tmp_path, "b.jsonl", "".join(json.dumps(document) + "\n" for document in reversed(documents)))
    pq.write_table(pa.Table.from_pylist(documents), tmp_path / "a.parquet")
    common = {**BASIC, "id": "n", "name": "a"}
    for number, source in enumerate(
        [
            {"path": "a.jsonl", "slices": {"a": "a", "b": "b"}},
            {"path": "b.jsonl", "slices": {"b": "b", "a": "a"}},
            {"path": "a.parquet", "slices": ["b", "a"], "chunk_size": 7},
        ]
    ):
        table.write(extract(tmp_path, {**common, **source}).table, tmp_path / f"{number}.out")
    assert table.read(tmp_path / "0.out").schema == SCHEMA
    assert table.read(tmp_path / "0.out")["slices"].null_count == 7  # the even multiples of 3
    written = [(tmp_path / f"{number}.out").read_bytes() for number in range(3)]
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize("strategy", ["oversample", "undersample"])
def test_slices_go_through_the_stages(tmp_path: Path, strategy: str) -> None:
    """Every row of every split has what its row in the source has, written and read between the stages."""
    cells = [
        (f"asunto {n} de {n * 7}", "ab"[n % 5 == 0], n, "Sur" * (n % 2), f"{n % 3}.0") for n in range(60)
    ]
    cells += [cells[0], ("", "a", 99, "Sur", "1.0")]  # a copy and an empty text, which clean rejects
    lines = [",".join(map(str, row)) for row in (("text", "label", "n", "zona", "office"), *cells)]
    put(tmp_path, "a.csv", "\n".join(lines) + "\n")
    source = {"path": "a.csv", **BASIC, "id": "n", "slices": {"region": "zona", "office": "office"}}
    path = tmp_path / "rows.parquet"

    def passed_on(rows: pa.Table, schema: pa.Schema = SCHEMA) -> pa.Table:
        table.write(rows, path, schema)
        return table.read(path)

    raw = passed_on(extract(tmp_path, source).table)
    cleaned = passed_on(clean(raw, CleanParams()).table)
    label_set = LabelSet("multiclass", ("a", "b"))
    parts = split_messages(cleaned, label_set, SplitParams.parse({"near_duplicates": None}), 42).tables
    parts = {name: passed_on(part) for name, part in parts.items()}
    params = BalanceParams.parse({"strategy": strategy})
    parts["train"] = passed_on(balance(parts["train"], label_set, params, 42).table, BALANCED_SCHEMA)
    assert parts["train"].num_rows != cleaned.num_rows - parts["test"].num_rows - parts["validation"].num_rows
    for part in parts.values():
        for row in part.to_pylist():
            number = int(row["id"].removeprefix("a:").partition("#")[0])  # the copy's text follows
            region = [("region", "Sur")] if number % 2 else []
            assert row["slices"] == [("office", str(number % 3)), *region]


# Mistakes that all kinds share


@pytest.mark.parametrize(
    "name", ["a.csv", "a.csv.gz", "a.jsonl", "a.json", "a.xlsx", "a.parquet", "a.db", "a/x"]
)
def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    put(tmp_path, f"{name}/1.txt" if name == "a/x" else name, "text,label\n")

    def refuse(path: Any, *args: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(gzip, "open", refuse)
    source = {"path": "a"} if name == "a/x" else {"path": name, **BASIC}
    if name == "a.db":
        source["table"] = "messages"
    with pytest.raises(UserError, match=rf"^{name}.*: cannot be read \(Permission denied\); close it"):
        extract(tmp_path, source)


@pytest.mark.parametrize(
    ("name", "content", "source", "message"),
    [
        (
            "a.csv",
            "text,label\n",
            {"path": "b.csv"},
            r"^b\.csv: no such file or folder; did you mean 'a\.csv'\?",
        ),
        ("a.csv", "", {}, r"^a\.csv: the file is empty"),
        ("a.jsonl", "", {}, r"^a\.jsonl: the file is empty"),
        ("a.csv", "\n\n", {}, r"^a\.csv: nothing but blank lines"),
        ("a.csv", "text,label\n", {}, r"^a\.csv: no rows"),
        ("a.jsonl", "{\n{\n", {}, r"none of the 2 rows can be read; first: line 1: not valid JSON"),
        ("a.json", "[]", {}, r"^a\.json: no rows"),
        (
            "a.csv",
            "Texto;label\na;b\n",
            {},
            r"^a\.csv: no column 'text'; did you mean 'Texto'\? columns: 'Texto', ",
        ),
        ("a.csv", "hola;x\nadios;y\n", {}, "if the first line is already data, set header: false"),
        ("a.csv", "text,text,label\na,b,c\n", {}, "2 columns are called 'text'"),
        ("a.jsonl", '{"text": "a", "labels": ["x"]}\n', {}, r"no column 'label'; did you mean 'labels'\?"),
        (
            "a.csv",
            "text,label\na\nb\n",
            {},
            "none of the 2 rows can be read; first: line 2: 1 columns instead of 2",
        ),
        ("a.parquet", "text,label\n", {}, "not a Parquet file"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_fix(
    tmp_path: Path, name: str, content: str, source: dict[str, Any], message: str
) -> None:
    put(tmp_path, name, content)
    with pytest.raises(UserError, match=message) as caught:
        extract(tmp_path, {"path": name, **BASIC, **source})
    assert "\n" not in str(caught.value)
