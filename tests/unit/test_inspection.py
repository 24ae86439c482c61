"""What `afina inspect` finds in a file, and that the block it prints makes the stage extract succeed."""

from __future__ import annotations

import datetime
import json
import random
import sqlite3
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from afina.errors import UserError
from afina.inspection import Inspection, inspect_file, plain, render
from afina.params.extract import ExtractParams
from afina.sources import Extraction, read_sources

WORDS = ["el", "sistema", "no", "responde", "desde", "ayer", "nadie", "contesta", "el", "teléfono", "año"]
TOPICS = ["corte de luz", "facturación", "reclamo", "elogio"]


def records(size: int = 60, several: bool = False) -> list[dict[str, Any]]:
    draw = random.Random(7)
    rows = []
    for number in range(size):
        topics = draw.sample(TOPICS, 1 + (several and number % 3 == 0))
        rows.append(
            {
                "nro": 1000 + number,
                "fecha": datetime.datetime(2024, 1, 1) + datetime.timedelta(days=number),
                "usuario": f"u{number % 9}",
                "asunto": " ".join(draw.choices(WORDS, k=3)),
                "mensaje": " ".join(draw.choices(WORDS, k=12)),
                "tema": topics if several else topics[0],
            }
        )
    return rows


def write_csv(path: Path, rows: list[dict[str, Any]], delimiter: str, encoding: str) -> None:
    lines = [delimiter.join(rows[0])]
    for row in rows:
        cells = {**row, "fecha": f"{row['fecha']:%d/%m/%Y}"}
        cells["tema"] = " / ".join(row["tema"]) if isinstance(row["tema"], list) else row["tema"]
        lines.append(delimiter.join(str(cell) for cell in cells.values()))
    path.write_bytes(("\r\n".join(lines) + "\r\n").encode(encoding))


def write_file(folder: Path, name: str, several: bool = False) -> Path:
    path, rows = folder / name, records(several=several)
    if path.suffix == ".csv":
        write_csv(path, rows, ";", "cp1252")
    elif path.suffix == ".tsv":
        write_csv(path, rows, "\t", "utf-8")
    elif path.suffix == ".xlsx":
        from openpyxl import Workbook

        book = Workbook()
        book.active.append(["notas"])
        sheet = book.create_sheet("Datos")
        sheet.append(list(rows[0]))
        for row in rows:
            sheet.append([", ".join(cell) if isinstance(cell, list) else cell for cell in row.values()])
        book.save(path)
    elif path.suffix in (".jsonl", ".json"):
        plain_rows = [
            {"nro": row["nro"], "usuario": row["usuario"], "tema": row["tema"], "fecha": str(row["fecha"]),
             "cuerpo": {"asunto": row["asunto"], "mensaje": row["mensaje"]}} for row in rows
        ]  # fmt: skip
        lines = [json.dumps(row, ensure_ascii=False) for row in plain_rows]
        content = "\n".join(lines) if path.suffix == ".jsonl" else json.dumps({"datos": plain_rows})
        path.write_text(content, encoding="utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".db":
        with sqlite3.connect(path) as connection:
            connection.execute("create table small (a)")
            connection.execute("create table quejas (nro, fecha, usuario, asunto, mensaje, tema)")
            values = [(*list(row.values())[:1], str(row["fecha"]), *list(row.values())[2:]) for row in rows]
            connection.executemany("insert into quejas values (?, ?, ?, ?, ?, ?)", values)
        connection.close()
    else:
        for at, row in enumerate(rows):
            file = path / str(row["tema"]) / f"{at}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(row["mensaje"], encoding="utf-8")
    return path


def paste(inspection: Inspection, root: Path) -> Extraction:
    """What a user does: paste the block, run the stage."""
    return read_sources(ExtractParams.parse(yaml.safe_load(inspection.block)["extract"]), root)


@pytest.mark.parametrize(
    "name", ["q.csv", "q.tsv", "q.xlsx", "q.jsonl", "q.json", "q.parquet", "q.db", "corpus"]
)
def test_the_block_makes_extract_succeed_on_every_format(tmp_path: Path, name: str) -> None:
    found = inspect_file(write_file(tmp_path, name), tmp_path)
    got = paste(found, tmp_path)
    assert got.table.num_rows == found.rows == 60
    assert got.rejected.num_rows == 0
    assert found.class_counts == {
        entry["values"]: entry["counts"]
        for entry in got.table["labels"].combine_chunks().flatten().value_counts().to_pylist()
    }
    assert set(found.class_counts) == set(TOPICS)
    assert not found.multilabel
    if name != "corpus":
        assert [column.rsplit(".", 1)[-1] for column in found.text] == ["asunto", "mensaje"]
        assert (found.source["id"], found.source["group"], found.source["time"]) == (
            "nro",
            "usuario",
            "fecha",
        )
        assert got.table["time"][3].as_py() == datetime.datetime(2024, 1, 4)
        assert got.summaries[0].unreadable_times == 0


@pytest.mark.parametrize("name", ["q.csv", "q.xlsx", "q.jsonl", "q.parquet"])
def test_several_labels_are_noticed_in_cells_and_in_lists(tmp_path: Path, name: str) -> None:
    found = inspect_file(write_file(tmp_path, name, several=True), tmp_path)
    assert found.multilabel
    assert set(found.class_counts) == set(TOPICS)
    assert sum(found.class_counts.values()) == 80
    labels = paste(found, tmp_path).table["labels"].to_pylist()
    assert sum(map(len, labels)) == 80


def test_a_column_of_one_value_is_no_label(tmp_path: Path) -> None:
    rows = [
        {"mensaje": f"Quiero saber de mi caso {number}", "tag": "web", "nivel": "ab"[number % 2]}
        for number in range(20)
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert inspect_file(tmp_path / "t.jsonl", tmp_path).label == ("nivel",)


def test_a_label_that_is_not_found_is_left_to_the_reader(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("mensaje\n" + "".join(f"Quiero saber de mi caso {n}\n" for n in range(9)))
    found = inspect_file(tmp_path / "t.csv", tmp_path)
    assert found.source["label"] == "???"
    assert any("no column looks like a label" in note for note in found.notes)


def test_titles_above_a_sheets_table_are_passed_over(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in (["Informe de reclamos"], [], ["Mensaje", "Área"]):
        book.active.append(row)
    for number in range(20):
        book.active.append([f"No tengo agua desde hace {number} días", "Agua" if number % 2 else "Luz"])
    book.save(tmp_path / "t.xlsx")
    found = inspect_file(tmp_path / "t.xlsx", tmp_path)
    assert (found.text, found.label, found.rows) == (("Mensaje",), ("Área",), 20)
    assert found.source["skip_rows"] == 2
    assert paste(found, tmp_path).table.num_rows == 20


def test_columns_of_zero_and_one_are_labels(tmp_path: Path) -> None:
    draw = random.Random(3)
    lines = ["comment,toxic,insult,threat"]
    for _ in range(50):
        marks = ",".join(str(draw.randint(0, 1)) for _ in range(3))
        lines.append(f"{' '.join(draw.choices(WORDS, k=9))},{marks}")
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="utf-8")
    found = inspect_file(tmp_path / "a.csv", tmp_path)
    assert (found.text, found.label_columns, found.multilabel) == (
        ("comment",),
        ("toxic", "insult", "threat"),
        True,
    )
    assert paste(found, tmp_path).table.num_rows == 50


def test_a_slash_in_a_class_is_no_separator(tmp_path: Path) -> None:
    lines = ["text;label"] + [
        f"palabras sueltas {number};{'a/b' if number % 2 else 'c'}" for number in range(30)
    ]
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="utf-8")
    found = inspect_file(tmp_path / "a.csv", tmp_path)
    assert (found.label_separator, found.class_counts) == (None, {"a/b": 15, "c": 15})


def test_a_file_without_a_header_bad_rows_repeats_and_conflicts(tmp_path: Path) -> None:
    lines = [f"texto de prueba número {number};{'joy' if number % 2 else 'fear'}" for number in range(20)]
    lines += [lines[0], "texto de prueba número 1;fear", "a;b;c"]
    (tmp_path / "a.txt").write_text("\n".join(lines), encoding="utf-8")
    found = inspect_file(tmp_path / "a.txt", tmp_path)
    assert (found.text, found.label, found.source["header"]) == (("0",), ("1",), False)
    assert found.rejected == ((23, "3 columns instead of 2", "a | b | c"),)
    assert (found.duplicate_texts, found.conflicting_texts) == (2, 1)
    assert paste(found, tmp_path).rejected.num_rows == 1


def test_lists_of_objects_and_lists_that_are_records_are_opened(tmp_path: Path) -> None:
    rows = [
        {
            "code": f"M{number}",
            "category": [str(100 + number % 3), TOPICS[number % 3]],
            "messages": [{"body": f"una consulta larga con número {number}", "role": "user"}]
            * (1 + number % 2),
        }
        for number in range(40)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    found = inspect_file(tmp_path / "a.jsonl", tmp_path)
    assert (found.text, found.label, found.source["id"]) == (("messages.0.body",), ("category.1",), "code")
    assert not found.multilabel
    assert set(found.class_counts) == set(TOPICS[:3])
    assert "messages holds up to 2 objects; messages.body joins body of all of them" in found.notes
    assert any("category.0 (3 classes)" in note for note in found.notes)
    assert paste(found, tmp_path).table["text"][0].as_py() == rows[0]["messages"][0]["body"]  # type: ignore[index]


def test_a_split_column_is_found(tmp_path: Path) -> None:
    lines = ["text,label,fold"]
    lines += [f"una frase cualquiera {n},{'ab'[n % 2]},{('train', 'dev', 'test')[n % 3]}" for n in range(30)]
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="utf-8")
    assert inspect_file(tmp_path / "a.csv", tmp_path).source["split"] == "fold"


def test_what_is_printed_is_plain_without_a_terminal(tmp_path: Path) -> None:
    found = inspect_file(write_file(tmp_path, "q.csv"), tmp_path)
    text = plain(found)
    assert "\x1b" not in text
    assert text.startswith("q.csv: csv, 60 rows, encoding: latin-1, delimiter: semicolon")
    for line in found.block.strip().splitlines():
        assert line in text
    assert "Labels: one label a row; 4 classes" in text
    assert render(found) is not None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.csv", None, "no such file or folder"),
        ("a.csv", b"", "the file is empty"),
        ("a.csv", b"text,label\n", "no rows"),
        ("a.docx", b"PK", "unknown kind of file"),
        ("a.jsonl", b"{\n", "no rows that can be read; first: line 1: not valid JSON"),
        ("a.db", b"not a database, whatever its suffix says", "not a SQLite database"),
        ("a.xlsx", b"not a workbook", "not an Excel workbook"),
    ],
)
def test_mistakes(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        inspect_file(tmp_path / name, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_file_outside_the_repository_is_read_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    path = write_file(tmp_path, "q.tsv")
    found = inspect_file(path, tmp_path / "repo")
    assert paste(found, tmp_path / "repo").table.num_rows == 60
    assert any("data/source/" in note for note in found.notes)
