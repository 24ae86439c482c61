"""What `afina inspect` finds in a file, and that the block it prints makes the stage extract succeed."""

from __future__ import annotations

import datetime
import io
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
from rich.console import Console

from afina.errors import UserError
from afina.inspection import Inspection, inspect_file, plain, show
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


def test_columns_marked_with_x_are_labels(tmp_path: Path) -> None:
    draw = random.Random(3)
    lines = ["comment,water,light"]
    for _ in range(50):
        lines.append(f"{' '.join(draw.choices(WORDS, k=9))},{draw.choice('xX ')},{draw.choice('x ')}")
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="utf-8")
    found = inspect_file(tmp_path / "a.csv", tmp_path)
    assert (found.text, found.label_columns) == (("comment",), ("water", "light"))
    none = sum(line.rstrip().endswith(",") and ", ," in line for line in lines)
    assert found.unlabelled == none > 0
    assert any(note.startswith(f"{none} rows without a label stay out") for note in found.notes)
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


QUESTION = "¿Qué le pareció la atención recibida en nuestra oficina?"


def phrases(size: int, shortest: int = 2, longest: int = 20) -> list[str]:
    draw = random.Random(5)
    return [" ".join(draw.choices(WORDS, k=draw.randint(shortest, longest))) for _ in range(size)]


@pytest.mark.parametrize(
    ("size", "header", "row"),
    [
        (3, f"Marca temporal,{QUESTION},Motivo", "{n:02d}/03/2024 10:15:32,{text},{topic}"),
        (28, f"Marca temporal,{QUESTION},Motivo", "{n:02d}/03/2024 10:15:32,{text},{topic}"),
        (28, f"Marca temporal,{QUESTION},Motivo", "2024/03/{n:02d} 10:15:32 a. m. GMT-3,{text},{topic}"),
        (3, f"{QUESTION},¿Y la espera en ella?", "{text},{text}"),
        (28, "Cuente con sus palabras qué pasó en la oficina,Sector que lo atendió", "{text},{topic}"),
        (3, "texto,2023,2024", "{text},{mark},{mark}"),
        (28, "texto,2023,2024", "{text},{mark},{mark}"),
        (28, "texto,2023,2024", "{text},{n},{n}00"),
        (28, "texto,1,2,3", "{text},{mark},{mark},{mark}"),
        (3, "texto,Pregunta 1", "{text},{n}"),
    ],
)
def test_questions_and_years_are_names_of_columns(tmp_path: Path, size: int, header: str, row: str) -> None:
    lines = [
        row.format(n=n, text=text, topic=TOPICS[n % 2], mark=n % 2)
        for n, text in enumerate(phrases(size), start=1)
    ]
    (tmp_path / "a.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    found = inspect_file(tmp_path / "a.csv", tmp_path)
    assert ([column.name for column in found.columns], found.rows) == (header.split(","), size)
    assert found.written["header"] == "first line"
    assert "header" not in found.source


def test_the_block_of_a_form_makes_extract_succeed(tmp_path: Path) -> None:
    lines = [
        f"{n:02d}/03/2024 10:15:32,{text},{TOPICS[n % 2]}" for n, text in enumerate(phrases(28), start=1)
    ]
    content = "\n".join([f"Marca temporal,{QUESTION},Motivo", *lines])
    (tmp_path / "a.csv").write_text(content, encoding="utf-8")
    found = inspect_file(tmp_path / "a.csv", tmp_path)
    assert (found.text, found.label, found.source["time"]) == ((QUESTION,), ("Motivo",), "Marca temporal")
    assert paste(found, tmp_path).table.num_rows == 28


def test_a_year_is_the_name_of_a_sheets_column(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(["Mensaje", "Motivo", 2024])
    for number, text in enumerate(phrases(20)):
        book.active.append([text, TOPICS[number % 2], float(number)])
    book.save(tmp_path / "a.xlsx")
    found = inspect_file(tmp_path / "a.xlsx", tmp_path)
    assert (found.written["header"], [column.name for column in found.columns][2]) == ("first row", "2024")
    assert (found.text, found.label, found.rows) == (("Mensaje",), ("Motivo",), 20)


@pytest.mark.parametrize(
    ("first", "row"),
    [
        ("i feel hopeless;sadness", "{text};{feeling}"),
        ("i was told twice and i still feel rather hopeless;joy", "{text};{feeling}"),
        ("¿por qué nadie atiende el teléfono?;joy", "{text};{feeling}"),
        ("Vamos, hombre.;6, 7", "{text};{n}"),
        ("M25-01130;joy", "M25-{n};{feeling}"),
        ("1;hola;2023", "{n};{text};20{n}"),
        ("2024-01-02;hola;joy", "2024-01-{n};{text};{feeling}"),
        ("gracias por todo", "{text}"),
    ],
)
@pytest.mark.parametrize("size", [6, 40])
def test_a_first_row_of_values_is_no_header(tmp_path: Path, first: str, row: str, size: int) -> None:
    lines = [
        row.format(n=f"{n % 28 + 1:02d}", text=text, feeling=("joy", "sadness")[n % 2])
        for n, text in enumerate(phrases(size))
    ]
    (tmp_path / "a.csv").write_text("\n".join([first, *lines, first]) + "\n", encoding="utf-8")
    found = inspect_file(tmp_path / "a.csv", tmp_path)
    assert (found.source["header"], found.rows) == (False, size + 2)
    assert not any("header" in note for note in found.notes)


def write_rows(path: Path, rows: list[list[Any]]) -> None:
    """A CSV or a workbook, by the suffix."""
    if path.suffix == ".csv":
        path.write_text("\n".join(",".join(map(str, row)) for row in rows), encoding="utf-8")
        return
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)


@pytest.mark.parametrize("suffix", ["csv", "xlsx"])
def test_a_header_that_repeats_is_a_header_and_is_told(tmp_path: Path, suffix: str) -> None:
    header = ["nro", "mensaje", "tema"]
    rows: list[list[Any]] = [[n, text, TOPICS[n % 2]] for n, text in enumerate(phrases(30))]
    rows[20:20] = [header]
    rows[10:10] = [header]
    write_rows(tmp_path / f"a.{suffix}", [header, *rows])
    found = inspect_file(tmp_path / f"a.{suffix}", tmp_path)
    assert (found.text, found.label, found.source["id"]) == (("mensaje",), ("tema",), "nro")
    assert found.rows == paste(found, tmp_path).table.num_rows == 32
    note = "the header repeats in 2 rows, which extract reads as data; remove them from the file"
    assert note in found.notes


@pytest.mark.parametrize("suffix", ["csv", "xlsx"])
def test_columns_of_one_name_are_told_and_not_proposed(tmp_path: Path, suffix: str) -> None:
    header = ["Mensaje", "Tema", "Tema", "Motivo", "", ""]
    rows = [[text, TOPICS[n % 2], TOPICS[n % 3], "ab"[n % 2], "", ""] for n, text in enumerate(phrases(30))]
    write_rows(tmp_path / f"a.{suffix}", [header, *rows])
    found = inspect_file(tmp_path / f"a.{suffix}", tmp_path)
    assert found.label == ("Motivo",)
    refused = "which extract refuses where it is to use one; rename the others"
    assert [note for note in found.notes if "are called" in note] == [
        f"2 columns are called 'Tema', {refused}"
    ]
    assert paste(found, tmp_path).table.num_rows == 30


def test_a_repeated_column_is_not_proposed_though_there_is_no_other(tmp_path: Path) -> None:
    lines = [
        "texto,tema,tema",
        *(f"{text},{'ab'[n % 2]},{'ab'[n % 2]}" for n, text in enumerate(phrases(30))),
    ]
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="utf-8")
    found = inspect_file(tmp_path / "a.csv", tmp_path)
    assert (found.source["text"], found.source["label"]) == ("texto", "???")
    assert "Note: 2 columns are called 'tema'" in plain(found)


def damaged_csv(root: Path, column: str) -> Path:
    """200 rows of UTF-8, of which line 52 has a byte of Latin-1 in ``column``."""
    lines = ["mensaje,tema,nota"]
    lines += [f"{text},{('pensión', 'salud')[n % 2]},según {n}" for n, text in enumerate(phrases(200))]
    content = [line.encode() for line in lines]
    cells = content[51].split(b",")
    cells[lines[0].split(",").index(column)] += b"\xf1"
    content[51] = b",".join(cells)
    path = root / "a.csv"
    path.write_bytes(b"\n".join(content))
    return path


@pytest.mark.parametrize("column", ["mensaje", "tema"])
def test_a_damaged_row_is_unreadable_as_the_stage_finds_it(tmp_path: Path, column: str) -> None:
    found = inspect_file(damaged_csv(tmp_path, column), tmp_path)
    assert (found.text, found.label) == (("mensaje",), ("tema",))
    got = paste(found, tmp_path)
    assert found.rows == got.table.num_rows == 199
    assert [row[:2] for row in found.rejected] == [(52, "bytes that are not text in this encoding")]
    assert got.rejected["row"].to_pylist() == [52]
    assert found.class_counts == {"salud": 100, "pensión": 99}
    assert [report.filled for report in found.columns] == [199] * 3
    assert "Unreadable: 1 rows; first: line 52: bytes that are not text" in plain(found)


def test_damage_in_a_column_that_is_not_used_rejects_no_row(tmp_path: Path) -> None:
    found = inspect_file(damaged_csv(tmp_path, "nota"), tmp_path)
    assert found.text == ("mensaje",)
    assert found.rows == paste(found, tmp_path).table.num_rows == 200
    assert found.rejected == ()


def test_a_damaged_name_of_a_column_is_shown_and_can_be_used(tmp_path: Path) -> None:
    lines = [f"{text},{TOPICS[n % 2]}" for n, text in enumerate(phrases(30))]
    content = b"mensaje,se\xf1al\n" + "\n".join([*lines, "año y niño,elogio"]).encode()
    (tmp_path / "a.csv").write_bytes(content)
    found = inspect_file(tmp_path / "a.csv", tmp_path)
    assert found.label == ("se?al",)
    assert "se?al" in plain(found).encode("utf-8").decode()
    assert paste(found, tmp_path).table.num_rows == 31


@pytest.mark.parametrize("delimiter", [";", ","])
def test_excels_own_first_line_is_no_row(tmp_path: Path, delimiter: str) -> None:
    lines = [f"sep={delimiter}", delimiter.join(["mensaje", "tema"])]
    lines += [f"{text}{delimiter}{TOPICS[n % 2]}" for n, text in enumerate(phrases(30))]
    (tmp_path / "a.csv").write_text("\r\n".join(lines), encoding="utf-8-sig")
    found = inspect_file(tmp_path / "a.csv", tmp_path)
    assert (found.text, found.label, found.source["delimiter"]) == (("mensaje",), ("tema",), delimiter)
    assert found.rows == paste(found, tmp_path).table.num_rows == 30


def test_paths_are_no_labels(tmp_path: Path) -> None:
    notes = inspect_file(write_file(tmp_path, "corpus"), tmp_path).notes
    assert not any("file" in note for note in notes)
    lines = ["mensaje,origen,adjunto,grupo"]
    lines += [
        f"{text},lote/{n % 3}/a.txt,foto {n % 4}.jpg,{('sci.med', 'rec.autos')[n % 2]}"
        for n, text in enumerate(phrases(40))
    ]
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="utf-8")
    found = inspect_file(tmp_path / "a.csv", tmp_path)
    assert found.label == ("grupo",)
    assert not any("could be the label" in note for note in found.notes)


@pytest.mark.parametrize("width", [80, 160])
def test_the_block_can_be_pasted_from_a_narrow_terminal(tmp_path: Path, width: int) -> None:
    name = f"Reclamos y sugerencias 2024 - {'exportación completa ' * 6}del sistema.csv"
    content = f"texto,{QUESTION * 20}\n" + "".join(f"{text},{len(text) % 3}\n" for text in phrases(20))
    (tmp_path / name).write_text(content, encoding="utf-8")
    found = inspect_file(tmp_path / name, tmp_path)
    stream = io.StringIO()
    show(found, Console(file=stream, width=width, force_terminal=True, color_system=None))
    for shown in (stream.getvalue(), plain(found)):
        pasted = yaml.safe_load(shown.partition("Paste into params.yaml:")[2])
        assert pasted == {"extract": {"sources": [found.source]}}
        assert f"\n    label: {QUESTION * 20}\n" in shown


def test_a_view_that_is_broken_is_passed_over(tmp_path: Path) -> None:
    path = write_file(tmp_path, "q.db")
    with sqlite3.connect(path) as connection:
        connection.execute("create view rota as select a from small")
        connection.execute("drop table small")
    connection.close()
    found = inspect_file(path, tmp_path)
    assert (found.source["table"], found.rows) == ("quejas", 60)
    assert "passed over 'rota', which cannot be read: no such table: main.small" in found.notes
    with sqlite3.connect(path) as connection:
        connection.execute("drop table quejas")
    connection.close()
    with pytest.raises(UserError, match="no table or view can be read; first: 'rota': no such table"):
        inspect_file(path, tmp_path)


def test_what_sqlite_says_of_a_database_is_told(tmp_path: Path) -> None:
    path = write_file(tmp_path, "q.db")
    with sqlite3.connect(path) as connection:
        connection.execute("pragma writable_schema = on")
        connection.execute("update sqlite_master set sql = 'create nothing' where name = 'small'")
    connection.close()
    with pytest.raises(UserError, match=r"q\.db: SQLite: malformed database schema") as caught:
        inspect_file(path, tmp_path)
    assert "not a SQLite database" not in str(caught.value)


def test_a_file_without_text_and_without_labels_is_shown(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("nro\n" + "".join(f"{n}\n" for n in range(9)))
    found = inspect_file(tmp_path / "a.csv", tmp_path)
    assert (found.source["text"], found.source["label"]) == ("???", "????")


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
        (
            "a.csv",
            b"PK\x03\x04\x14\0",
            "an Excel workbook or another archive; name it .xlsx, or save it as CSV",
        ),
        ("a.jsonl", b"{}\n\x89PNG\0\0", r"a\.jsonl: line 2: not text"),
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


def test_a_link_is_called_by_its_own_name(tmp_path: Path) -> None:
    """As where DVC keeps the file in its cache, without a suffix, and links to it."""
    (tmp_path / "source").mkdir()
    cached = write_file(tmp_path, "q.csv").rename(tmp_path / "9ec60def")
    (tmp_path / "source" / "quejas.csv").symlink_to(cached)
    found = inspect_file(tmp_path / "source" / "quejas.csv", tmp_path)
    assert found.path == "source/quejas.csv"
    assert paste(found, tmp_path).table.num_rows == 60


def test_a_link_may_lie_less_deep_than_what_it_leads_to(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / "quejas.csv").symlink_to(write_file(deep, "q.csv"))
    assert inspect_file(tmp_path / "quejas.csv", tmp_path).path == "quejas.csv"


def test_paths_are_those_of_the_repository_from_a_folder_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "data" / "source"
    source.mkdir(parents=True)
    write_file(source, "q.csv")
    monkeypatch.chdir(source)
    assert inspect_file(Path("q.csv")).path == "q.csv"  # there is no repository
    (tmp_path / ".dvc").mkdir()
    found = inspect_file(Path("q.csv"))
    assert found.path == "data/source/q.csv"
    assert paste(found, tmp_path).table.num_rows == 60
