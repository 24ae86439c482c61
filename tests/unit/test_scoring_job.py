"""`afina score`: every row is in the output or among the failures, whatever is killed, changed or damaged."""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afina.errors import UserError
from afina.runtime.classifier import Classifier
from afina.scoring import Settings, processes, score
from toy_artifact import write_toy

WORDS = ("agua", "luz", "pagos", "ñu", "otra")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_toy(tmp_path_factory.mktemp("toy") / "model.onnx"))


@pytest.fixture(scope="module")
def multilabel(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_toy(tmp_path_factory.mktemp("toy") / "multilabel.onnx", "multilabel"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def some_texts(count: int) -> list[str]:
    draw = random.Random(7)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 6))) for _ in range(count)]


def write_csv(path: Path, rows: list[list[str]], header: tuple[str, ...] = ("id", "text")) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_csv(path: Path | str) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def read_jsonl(path: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


# ---------------------------------------------------------------------------------- what is written


def test_csv_out_is_csv_in_with_answers(here: Path, model: str) -> None:
    texts = some_texts(25)
    write_csv(here / "in.csv", [[str(number), text] for number, text in enumerate(texts)])
    result = score("in.csv", "out.csv", model, Settings(chunk=7, top_k=2))
    assert (result.rows, result.scored, result.failed, result.parts) == (25, 25, 0, 4)
    expected = Classifier(model).predict(texts, 2)
    rows = read_csv("out.csv")
    assert list(rows[0])[:2] == ["id", "text"]
    for number, (row, prediction) in enumerate(zip(rows, expected, strict=True)):
        assert row["id"] == str(number)
        assert row["label"] == row["label_1"] == prediction.label
        assert row["probability"] == f"{prediction.probability:.6f}"
        assert row["confidence"] == f"{prediction.confidence:.6f}"
        assert row["needs_person"] == "no"
        assert row["label_2"] == prediction.top[1].label
    assert sorted(os.listdir()) == ["in.csv", "out.csv"]  # nothing is left of the way there


def test_workers_share_the_processors_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(processes, "usable_processors", lambda: 4)
    assert [processes.shared_out(workers) for workers in (1, 2, 3, 8)] == [4, 2, 1, 1]
    monkeypatch.setattr(processes, "usable_processors", lambda: 0)  # all of the machine
    assert processes.shared_out(2) == 32


def test_failures_are_listed_and_counted(here: Path, model: str) -> None:
    data = b"id,text\n1,agua\n2,\n3,  \n4,a,b\n5,\xff\xfe\n6,luz \xc3\xb1\xc3\xb1\xc3\xb1\n"
    (here / "in.csv").write_bytes(data)
    result = score("in.csv", "out.csv", model, Settings(chunk=2))
    assert (result.rows, result.scored, result.failed) == (6, 2, 4)
    assert [row["id"] for row in read_csv("out.csv")] == ["1", "6"]
    assert result.failures == "out.csv.failed.csv"
    assert read_csv(result.failures) == [
        {"file": "in.csv", "row": "3", "reason": "no text"},
        {"file": "in.csv", "row": "4", "reason": "no text"},
        {"file": "in.csv", "row": "5", "reason": "3 columns instead of 2"},
        {"file": "in.csv", "row": "6", "reason": "bytes that are not text in utf-8"},
    ]
    # Once there are none, no list of an earlier run is left.
    (here / "in.csv").write_text("id,text\n1,agua\n")
    assert score("in.csv", "out.csv", model, overwrite=True).failures is None
    assert not (here / "out.csv.failed.csv").exists()


def test_broken_quotes_are_failed_rows(here: Path, model: str) -> None:
    rows = [f'{row},"hola {row}' if 5 <= row <= 8 else f"{row},hola {row}" for row in range(1, 13)]
    (here / "in.csv").write_text("\n".join(["id,text", *rows, ""]))
    result = score("in.csv", "out.csv", model, Settings(chunk=3))
    assert (result.rows, result.scored, result.failed) == (12, 8, 4)
    assert [row["row"] for row in read_csv("out.csv.failed.csv")] == ["6", "7", "8", "9"]


def test_formulas_are_escaped_in_csv_alone(here: Path, model: str) -> None:
    write_csv(here / "in.csv", [["-3", "=HYPERLINK(1) luz"]], ("=id", "text"))
    score("in.csv", "out.csv", model)
    assert read_csv("out.csv")[0]["text"] == "'=HYPERLINK(1) luz"
    assert read_csv("out.csv")[0]["'=id"] == "-3"
    score("in.csv", "out.jsonl", model)
    assert read_jsonl("out.jsonl")[0]["text"] == "=HYPERLINK(1) luz"


def test_formulas_are_escaped_where_a_spreadsheet_could_split_a_cell(here: Path, model: str) -> None:
    write_csv(here / "in.csv", [["luz;=HYPERLINK(1); - gracias"]], ("text",))
    score("in.csv", "out.csv", model)
    assert read_csv("out.csv")[0]["text"] == "luz;'=HYPERLINK(1); - gracias"


def test_json_lines_keep_their_values(here: Path, model: str) -> None:
    rows = [
        {"text": "agua ñ", "n": 1, "deep": {"a": [1, None]}},
        {"text": 5},
        {"other": "x"},
        {"text": "luz", "big": 2**70, "n": 1.5, "flag": True},
    ]
    lines = [json.dumps(row) for row in rows] + ["nonsense"]
    (here / "in.jsonl").write_text("\n".join(lines))
    result = score("in.jsonl", "out.jsonl", model, Settings(chunk=2))
    assert (result.rows, result.scored, result.failed) == (5, 2, 3)
    out = read_jsonl("out.jsonl")
    assert [{key: row[key] for key in rows[at]} for row, at in zip(out, (0, 3), strict=True)] == [
        rows[0],
        rows[3],
    ]
    assert out[0]["label"] == "agua"
    assert out[0]["needs_person"] is False
    assert [row["reason"] for row in read_csv("out.jsonl.failed.csv")] == [
        "the text is not a string but a number",
        "no text",
        "not valid JSON: Expecting value",
    ]
    score("in.jsonl", "out.csv", model)
    assert read_csv("out.csv")[0]["deep"] == '{"a": [1, null]}'
    pq = pytest.importorskip("pyarrow.parquet")
    score("in.jsonl", "out.parquet", model, Settings(chunk=1))
    table = pq.read_table("out.parquet").to_pylist()
    assert [row["n"] for row in table] == [1.0, 1.5]
    assert [row["big"] for row in table] == [None, str(2**70)]
    assert [row["flag"] for row in table] == [None, True]


def test_multilabel(here: Path, multilabel: str) -> None:
    (here / "in.jsonl").write_text('{"text": "agua agua agua luz luz"}\n{"text": "nada"}\n')
    score("in.jsonl", "out.jsonl", multilabel)
    assert [row["label"] for row in read_jsonl("out.jsonl")] == [["agua", "luz"], []]
    score("in.jsonl", "out.csv", multilabel)
    assert [row["label"] for row in read_csv("out.csv")] == ["agua|luz", ""]
    pq = pytest.importorskip("pyarrow.parquet")
    score("in.jsonl", "out.parquet", multilabel)
    assert [row["label"] for row in pq.read_table("out.parquet").to_pylist()] == [["agua", "luz"], []]


def test_several_columns_are_joined(here: Path, model: str) -> None:
    (here / "in.jsonl").write_text(
        '{"t": "luz", "b": {"c": ["x", "agua agua"]}}\n{"t": " ", "b": {"c": []}}\n{"t": "agua"}\n'
    )
    result = score("in.jsonl", "out.jsonl", model, Settings(columns=("t", "b.c.1")))
    assert result.failed == 1
    expected = Classifier(model).predict(["luz\nagua agua", "agua"])
    assert [row["label"] for row in read_jsonl("out.jsonl")] == [one.label for one in expected]
    with pytest.raises(UserError, match="no column 'body'"):
        score("in.jsonl", "out.csv", model, Settings(columns=("body",)))
    with pytest.raises(UserError, match="--column: t, t: name each once"):
        score("in.jsonl", "out.csv", model, Settings(columns=("t", "t")))


def test_a_path_through_a_list_joins_the_texts_of_all_in_it(here: Path, model: str) -> None:
    lines = [
        '{"m": [{"body": "luz"}, {"at": 1}, {"body": " "}, {"body": "agua agua"}]}',
        '{"m": [{"body": [{"x": 1}]}]}',
        '{"m": []}',
        '{"m": [{"body": null}]}',
        '{"m": {"body": "pagos"}}',
    ]
    (here / "in.jsonl").write_text("\n".join(lines))
    score("in.jsonl", "out.jsonl", model, Settings(columns=("m.body",)))
    expected = Classifier(model).predict(["luz\nagua agua", "pagos"])
    assert [row["probability"] for row in read_jsonl("out.jsonl")] == [
        pytest.approx(one.probability, abs=1e-6) for one in expected
    ]
    assert [(row["row"], row["reason"]) for row in read_csv("out.jsonl.failed.csv")] == [
        ("2", "the text is not a string but a list"),
        ("3", "no text"),
        ("4", "no text"),
    ]


def test_what_cannot_run_leaves_nothing(here: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "in.csv").write_text("text\nluz\n")
    (here / "broken.onnx").write_bytes(Path(model).read_bytes()[:-50])
    before = sorted(path.name for path in here.iterdir())
    with pytest.raises(UserError, match=r"broken\.onnx"):
        score("in.csv", "out.csv", str(here / "broken.onnx"))
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "afina.scoring.ray_engine", raising=False)
    with pytest.raises(UserError, match="--engine ray needs the package ray"):
        score("in.csv", "out.csv", model, engine="ray")
    with pytest.raises(UserError, match="IN is empty"):
        score("", "out.csv", model)
    assert sorted(path.name for path in here.iterdir()) == before


def test_parquet_keeps_its_types(here: Path, model: str) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    texts = some_texts(40)
    texts[5] = None  # type: ignore[call-overload]
    times = pa.array([1_700_000_000_000_000_001 + at for at in range(40)], pa.timestamp("ns"))
    table = pa.table(
        {
            "text": pa.array(texts).dictionary_encode(),
            "time": times,
            "tags": [["a", "b"]] * 40,
            "score": pa.array([float("nan")] * 40),
        }
    )
    pq.write_table(table, "in.parquet", row_group_size=9)
    result = score("in.parquet", "out.parquet", model, Settings(chunk=7))
    assert (result.rows, result.scored, result.failed, result.parts) == (40, 39, 1, 6)
    out = pq.read_table("out.parquet")
    assert out.schema.field("time").type == pa.timestamp("ns")
    assert out.column("time").to_pylist() == times.take([at for at in range(40) if at != 5]).to_pylist()
    given = [text for text in texts if text is not None]
    assert out.column("text").to_pylist() == given
    assert out.column("label").to_pylist() == [one.label for one in Classifier(model).predict(given)]
    assert read_csv("out.parquet.failed.csv") == [{"file": "in.parquet", "row": "6", "reason": "no text"}]
    score("in.parquet", "out.jsonl", model, Settings(chunk=7))
    line = read_jsonl("out.jsonl")[0]
    assert (line["time"], line["tags"], line["score"]) == (
        "2023-11-14 22:13:20.000000001",
        ["a", "b"],
        None,
    )


def test_cells_of_a_csv_hold_no_quotes_of_json(here: Path, model: str) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = pa.table(
        {
            "text": ["luz", "agua"],
            "amount": pa.array([Decimal("12345.60"), Decimal("-0.50")], pa.decimal128(9, 2)),
            "took": pa.array([timedelta(days=1, seconds=90), None], pa.duration("s")),
            "raw": [b"a\xc3\xb1o", b"\xff"],
            "tags": [["a"], []],
            "sure": [True, None],
            "share": [0.5, float("nan")],
        }
    )
    pq.write_table(table, "in.parquet")
    for name, delimiter in (("out.csv", ","), ("out.tsv", "\t")):
        score("in.parquet", name, model)
        with Path(name).open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter=delimiter))
        assert [list(row.values())[1:7] for row in rows] == [
            ["12345.60", "1 day, 0:01:30", "año", '["a"]', "true", "0.5"],
            ["-0.50", "", "\\xff", "[]", "", ""],
        ]


def test_times_of_every_kind_are_written_without_pandas(here: Path, model: str) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    ns, long = pa.timestamp("ns"), pa.duration("ns")
    day = pa.struct([("x", pa.date32())])
    late = pa.array([{"x": 2_933_297}, None], pa.struct([("x", pa.int32())])).cast(day)
    columns = {
        "a": (pa.array([1, None], long), ["0:00:00.000000001", ""]),
        "b": (
            pa.array([2**61, -(10**9) - 1], long),
            ["26687 days, 23:56:49.213693952", "'-1 day, 23:59:58.999999999"],
        ),
        "c": (
            pa.array([2**62, 86_400], pa.duration("s")),
            ["53375995583650 days, 7:45:04", "1 day, 0:00:00"],
        ),
        "d": (pa.array([[1, None], None], pa.list_(ns)), ['["1970-01-01 00:00:00.000000001", null]', ""]),
        "e": (
            pa.array([{"x": 1}, None], pa.struct([("x", ns)])),
            ['{"x": "1970-01-01 00:00:00.000000001"}', ""],
        ),
        "f": (
            pa.array([{"x": 1}, None], pa.struct([("x", pa.time64("ns"))])),
            ['{"x": "00:00:00.000000001"}', ""],
        ),
        "g": (late, ['{"x": "10001-02-04"}', ""]),
        "h": (
            pa.array([[{"x": 1}], []], pa.list_(pa.struct([("x", long)]))),
            ['[{"x": "0:00:00.000000001"}]', "[]"],
        ),
        "i": (pa.array([[("k", 1)], None], pa.map_(pa.string(), long)), ['[["k", "0:00:00.000000001"]]', ""]),
        "j": (
            pa.array([[1, 2], None], pa.large_list(ns)),
            ['["1970-01-01 00:00:00.000000001", "1970-01-01 00:00:00.000000002"]', ""],
        ),
    }
    doc = pa.array(
        [{"text": "luz", "at": 1}, {"text": "agua", "at": 2}], pa.struct([("text", pa.string()), ("at", ns)])
    )
    pq.write_table(
        pa.table({"doc": doc} | {name: column for name, (column, _) in columns.items()}), "in.parquet"
    )
    code = """
import sys
import threading
class Blocked:
    def find_spec(self, name, *_):
        if name.split(".")[0] == "pandas":
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
from afina.cli import main
main(sys.argv[1:])
"""
    arguments = ["score", "in.parquet", "--model", model, "--column", "doc.text"]
    for out in ("out.csv", "out.jsonl"):
        run = subprocess.run([sys.executable, "-c", code, *arguments, out], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
    rows = read_csv("out.csv")
    assert [row["label"] for row in rows] == ["luz", "agua"]
    for name, (_, expected) in columns.items():
        assert [row[name] for row in rows] == expected, name
    assert read_jsonl("out.jsonl")[0]["h"] == [{"x": "0:00:00.000000001"}]


@pytest.mark.parametrize("nested", [False, True])
def test_times_that_cannot_be_written_name_file_and_column(here: Path, model: str, nested: bool) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    when = pa.array([1], pa.timestamp("us", tz="America/Nowhere"))
    column = pa.StructArray.from_arrays([when], ["at"]) if nested else when
    pq.write_table(pa.table({"text": ["luz"], "when": column}), "in.parquet")
    for out in ("out.csv", "out.jsonl"):
        with pytest.raises(
            UserError, match=r"^in\.parquet: column 'when': .* cannot be written as text \("
        ) as found:
            score("in.parquet", out, model)
        assert "\n" not in str(found.value)
    assert score("in.parquet", "out.parquet", model).scored == 1


def test_parquet_of_string_views(here: Path, model: str) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    raw = pa.array([b"luz", b"\xff", None, b"agua", b" "], pa.binary_view())
    columns = {
        "text": pa.Array.from_buffers(pa.string_view(), 5, raw.buffers()),
        "tags": pa.array([["a"], ["b"], None, ["c", "d"], []], pa.list_(pa.string_view())),
    }
    pq.write_table(pa.table(columns), "in.parquet")
    result = score("in.parquet", "out.parquet", model)
    assert (result.scored, result.failed) == (2, 3)
    assert pq.read_table("out.parquet", columns=["text", "tags"]).to_pylist() == [
        {"text": "luz", "tags": ["a"]},
        {"text": "agua", "tags": ["c", "d"]},
    ]
    score("in.parquet", "out.jsonl", model)
    assert [(row["text"], row["tags"]) for row in read_jsonl("out.jsonl")] == [
        ("luz", ["a"]),
        ("agua", ["c", "d"]),
    ]


@pytest.mark.parametrize("kind", ["string", "dictionary", "list"])
def test_parts_of_parquet_are_bounded_by_what_rows_are_when_decoded(
    here: Path, model: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("afina.scoring.plan.PART_BYTES", 50_000)
    texts = ["luz"] * 1500 + ["agua " * 1000] * 40 + ["pagos"] * 960
    long = pa.array(texts)
    if kind == "dictionary":
        long = long.dictionary_encode()
    elif kind == "list":
        long = pa.array([[text] for text in texts])
    short = pa.array([text[:5].strip() for text in texts])
    pq.write_table(pa.table({"id": range(2500), "text": short, "long": long}), "in.parquet")
    assert (here / "in.parquet").stat().st_size < 50_000
    killed_after(2, monkeypatch, "in.parquet", "out.jsonl", model, Settings(chunk=1000))
    lines = (here / "out.jsonl.parts" / "chunks.jsonl").read_text().splitlines()
    parts = [json.loads(line) for line in lines]
    assert [number for number, *_ in parts] == list(range(len(parts)))
    assert [start for _, _, start, *_ in parts] == [0, *(end for _, _, _, end, *_ in parts[:-1])]
    assert all(sum(map(len, texts[start:end])) <= 50_000 for _, _, start, end, *_ in parts)
    assert max(end - start for _, _, start, end, *_ in parts) == 1000
    result = score("in.parquet", "out.jsonl", model, Settings(chunk=1000))
    assert (result.resumed, result.parts, result.scored) == (2, len(parts), 2500)
    assert [row["id"] for row in read_jsonl("out.jsonl")] == list(range(2500))


def test_parts_of_parquet_are_bounded_where_numbers_repeat(
    here: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("afina.scoring.plan.PART_BYTES", 50_000)
    table = pa.table({"text": ["luz"] * 100, "numbers": [[0.5] * 500] * 100})
    pq.write_table(table, "in.parquet")
    assert score("in.parquet", "out.jsonl", model).parts >= 100 * 500 * 8 / 50_000


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are text there")
def test_a_file_name_that_is_no_text(here: Path, model: str) -> None:
    folder = here / "in" / os.fsdecode(b"k=\xff")
    folder.mkdir(parents=True)
    (folder / os.fsdecode(b"a\xe9.csv")).write_text("text\nluz\n \n")
    result = score("in", "out.csv", model)
    assert (result.scored, result.failed) == (1, 1)
    assert read_csv("out.csv.failed.csv")[0]["file"] == "k=\\udcff/a\\udce9.csv"
    assert read_csv("out.csv")[0]["k"] == "\\udcff"


def test_json_lines_of_mixed_types_become_parquet(here: Path, model: str) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    big = 2**60 + 1
    rows = [{"a": big, "b": 1, "c": big}, {"a": 1.5, "b": 2**53, "c": 1}, {"a": 1, "b": 0.5}]
    (here / "in.jsonl").write_text("".join(json.dumps(row | {"text": "luz"}) + "\n" for row in rows))
    assert score("in.jsonl", "out.parquet", model, Settings(chunk=2)).scored == 3
    table = pq.read_table("out.parquet")
    assert table.column("a").to_pylist() == [str(big), "1.5", "1"]
    assert table.column("b").to_pylist() == [1.0, float(2**53), 0.5]
    assert table.column("c").to_pylist() == [big, 1, None]


def test_a_folder_and_some_rows_have_the_column(here: Path, model: str) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    path = here / "in" / "year=2025" / "a.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"text": "luz"}\n{"text": "luz", "year": 2025}\n{"text": "luz", "year": null}\n')
    score("in", "out.parquet", model)
    assert pq.read_table("out.parquet").column("year").to_pylist() == ["2025", "2025", None]


def parquet(path: Path, **columns: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"write_statistics": False} if "unsaid" in path.name else {}
    pq.write_table(pa.table({"text": ["luz"] * len(columns["n"]), **columns}), path, **options)


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        (("int64", [2**60 + 1]), ("float64", [0.5]), "string"),
        (("int64", [2**53, None]), ("float64", [0.5]), "double"),
        (("int64", [None]), ("float64", [0.5]), "double"),
        (("int32", [-(2**31)]), ("float64", [0.5]), "double"),
        (("uint64", [2**63 + 1]), ("int64", [-1]), "string"),
        (("uint64", [2**62]), ("int64", [-1]), "int64"),
        (("uint64", [2**63 + 1]), ("uint8", [1]), "uint64"),
        (("int64", [5]), ("string", ["a"]), "string"),
        (("bool", [True]), ("int64", [5]), "string"),
        (("string", ["a"]), ("string_view", ["b"]), "string"),
        (("null", [None]), ("int64", [5]), "int64"),
    ],
)
def test_parquet_files_of_different_types(
    here: Path, model: str, one: tuple[str, list[Any]], other: tuple[str, list[Any]], kind: str
) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    make = {"bool": pa.bool_, "float64": pa.float64} | {
        name: getattr(pa, name)
        for name in ("int64", "int32", "uint64", "uint8", "string", "string_view", "null")
    }
    for name, (type_name, values) in (("a", one), ("b", other)):
        parquet(here / "in" / f"{name}.parquet", n=pa.array(values, make[type_name]()))
    score("in", "out.parquet", model)
    column = pq.read_table("out.parquet").column("n")
    assert str(column.type) == kind
    expected = [*one[1], *other[1]]
    if kind == "string":
        expected = [str(value).lower() for value in expected]
    assert column.to_pylist() == expected


def test_parquet_files_that_do_not_say_their_extremes(here: Path, model: str) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    parquet(here / "in" / "unsaid.parquet", n=pa.array([2**60 + 1]))
    parquet(here / "in" / "b.parquet", n=pa.array([0.5]))
    score("in", "out.parquet", model)
    assert pq.read_table("out.parquet").column("n").to_pylist() == ["0.5", str(2**60 + 1)]


def test_a_parquet_column_beside_a_folder_of_its_name(here: Path, model: str) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    parquet(here / "in" / "a.parquet", n=pa.array([1]), y=pa.array([5]))
    parquet(here / "in" / "y=q" / "b.parquet", n=pa.array([2]))
    score("in", "out.parquet", model)
    assert pq.read_table("out.parquet").column("y").to_pylist() == ["5", "q"]


@pytest.mark.parametrize("name", ["a", "unsaid"])
def test_parquet_files_that_do_not_go_together_are_named(here: Path, model: str, name: str) -> None:
    pa = pytest.importorskip("pyarrow")
    late = pa.array([10**18], pa.int64()).view(pa.timestamp("us"))
    parquet(here / "in" / f"{name}.parquet", n=late)
    parquet(here / "in" / "b.parquet", n=pa.array([1], pa.timestamp("ns")))
    with pytest.raises(UserError, match=r"in/.*\.parquet: column 'n': .*; score (them|it) apart") as caught:
        score("in", "out.parquet", model)
    assert "\n" not in str(caught.value)
    parquet(here / "nested" / "a.parquet", n=pa.array([[1]]))
    parquet(here / "nested" / "b.parquet", n=pa.array([1]))
    with pytest.raises(
        UserError,
        match=r"nested/b\.parquet: column 'n': int64 does not go with the list<.* of nested/a\.parquet",
    ):
        score("nested", "out2.parquet", model)
    assert not list(here.glob("out*.parquet"))


def test_parquet_with_bytes_that_are_no_text(here: Path, model: str) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    raw = pa.array([b"luz", b"\xff", None, b"agua"])
    column = pa.Array.from_buffers(pa.string(), 4, raw.buffers())
    pq.write_table(pa.table({"text": column}), "in.parquet")
    result = score("in.parquet", "out.jsonl", model)
    assert [row["text"] for row in read_jsonl("out.jsonl")] == ["luz", "agua"]
    assert [row["reason"] for row in read_csv(str(result.failures))] == [
        "bytes that are not text in utf-8",
        "no text",
    ]


def test_damaged_files_say_so(here: Path, model: str) -> None:
    packed = gzip.compress(b"text\n" + b"luz\n" * 100_000)
    (here / "in.csv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UserError, match=r"in\.csv\.gz: damaged or cut off"):
        score("in.csv.gz", "out.csv", model)
    (here / "in.csv.gz").write_bytes(b"text\nluz\n")
    with pytest.raises(UserError, match=r"in\.csv\.gz: cannot be read \(Not a gzipped file"):
        score("in.csv.gz", "out.csv", model)
    write_csv(here / "in" / "a.csv", [["1", "luz"]])
    (here / "in" / "b.csv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UserError, match=r"in.b\.csv\.gz: damaged or cut off"):
        score("in", "out.csv", model)
    pytest.importorskip("pyarrow")
    (here / "in.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(UserError, match=r"in\.parquet: not a Parquet file"):
        score("in.parquet", "out.csv", model)
    assert not list(here.glob("out*"))


# --------------------------------------------------------------------------- folders and patterns


def test_folder_with_partitions(here: Path, model: str) -> None:
    for year, text in ((2024, "agua"), (2025, "luz")):
        write_csv(here / "in" / f"year={year}" / "site=a%2Fb" / "x.csv", [["1", text]] * 3)
    (here / "in" / "_SUCCESS").touch()
    (here / "in" / ".x.csv.crc").write_bytes(b"\0")
    result = score("in", "out", model, Settings(chunk=2))
    assert sorted(os.listdir("out")) == ["_SUCCESS", *(f"part-00000{at}.csv" for at in range(4))]
    rows = [row for name in sorted(os.listdir("out"))[1:] for row in read_csv(here / "out" / name)]
    assert [(row["year"], row["site"], row["label"]) for row in rows] == [
        *[("2024", "a/b", "agua")] * 3,
        *[("2025", "a/b", "luz")] * 3,
    ]
    assert (result.parts, result.rows) == (4, 6)
    assert score("in/*/*/x.csv", "all.csv", model).scored == 6
    # What was written can be read again.
    assert score("out", "again.jsonl", model, Settings(prefix="new_")).scored == 6


def test_folders_before_the_first_star_are_columns(here: Path, model: str) -> None:
    for month in ("01", "02"):
        write_csv(here / "data" / "year=2025" / f"month={month}" / "x.csv", [["1", "luz"]])
    (here / "data" / "year=2024").mkdir()
    score("data/year=2025/*/*.csv", "out.csv", model)
    assert [(row["year"], row["month"]) for row in read_csv("out.csv")] == [("2025", "01"), ("2025", "02")]
    score("data/year=2025", "out2.csv", model)
    assert [row["month"] for row in read_csv("out2.csv")] == ["01", "02"]


def test_columns_of_all_files(here: Path, model: str) -> None:
    write_csv(here / "in" / "a.csv", [["1", "luz"]])
    write_csv(here / "in" / "b.csv", [["agua", "web"]], ("text", "channel"))
    score("in", "out.csv", model)
    assert [(row["id"], row["text"], row["channel"]) for row in read_csv("out.csv")] == [
        ("1", "luz", ""),
        ("", "agua", "web"),
    ]


def test_linked_folders_are_not_left_out_unsaid(here: Path, model: str) -> None:
    write_csv(here / "elsewhere" / "b.csv", [["2", "agua"]])
    write_csv(here / "in" / "year=2025" / "a.csv", [["1", "luz"]])
    (here / "in" / "latest").symlink_to("year=2025")  # read in its own place
    assert score("in", "out.csv", model).rows == 1
    (here / "links" / ".hidden").mkdir(parents=True)
    (here / "links" / "shown").symlink_to(".hidden")
    with pytest.raises(UserError, match="links: no file in the folder but links"):
        score("links", "out2.csv", model)
    (here / "in" / "year=2024").symlink_to(here / "elsewhere")
    with pytest.raises(UserError, match=r"in/year=2024: a link that leads out of in; name that file itself"):
        score("in", "out2.csv", model)


@pytest.mark.parametrize("source", ["d", "d/**/*.csv", "d/**/**/*.csv", "d/*/*.csv", "linked/**/*.csv"])
def test_what_links_lead_to_is_read_once(here: Path, model: str, source: str) -> None:
    write_csv(here / "d" / "year=2025" / "b.csv", [["1", "luz"], ["2", "agua"]])
    (here / "d" / "latest").symlink_to("year=2025")
    (here / "d" / "a.csv").symlink_to("year=2025/b.csv")
    (here / "d" / "year=2025" / "a.csv").symlink_to("b.csv")
    (here / "linked").symlink_to("d")
    score(source, "out.csv", model)
    assert [(row["id"], row["year"]) for row in read_csv("out.csv")] == [("1", "2025"), ("2", "2025")]
    # Where the pattern matches links alone, the first of them is read.
    assert score("d/latest/*.csv", "again.csv", model).rows == 2
    assert score("d/*.csv", "third.csv", model).rows == 2


def test_a_folder_that_cannot_be_read_is_not_left_out(
    here: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(here / "in" / "a.csv", [["1", "luz"]])
    write_csv(here / "in" / "shut" / "b.csv", [["1", "luz"]])
    real = os.scandir

    def scandir(path: str) -> Any:
        if path.endswith("shut"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"in/shut: cannot be read \(Permission denied\)"):
        score("in", "out.csv", model)


def test_a_file_of_a_folder_that_cannot_be_opened_is_named(here: Path, model: str) -> None:
    write_csv(here / "in" / "a.csv", [["1", "luz"]])
    os.symlink("nowhere.csv", here / "in" / "b.csv")
    with pytest.raises(UserError, match=r"in.b\.csv: no longer there"):
        score("in", "out.csv", model)


@pytest.mark.parametrize("pattern", ["d2/**/*.csv", "d2/**"])
@pytest.mark.parametrize("out", ["d2/scored.csv", "d2/scored"])
def test_a_pattern_that_matches_what_the_run_writes(
    here: Path, model: str, monkeypatch: pytest.MonkeyPatch, pattern: str, out: str
) -> None:
    write_csv(here / "d2" / "a.csv", [["1", "luz"], ["2", ""], ["3", "agua"]])
    write_csv(here / "d2" / "z" / "b.csv", [["4", "luz"]])
    killed_after(2, monkeypatch, pattern, out, model, Settings(chunk=1))
    result = score(pattern, out, model, Settings(chunk=1))
    assert (result.rows, result.scored, result.failed, result.resumed) == (4, 3, 1, 2)
    assert not Path(f"{out}.parts").exists()
    # Now it would be read as well.
    with pytest.raises(UserError, match=r"input and output at once|is read, and inside"):
        score(pattern, out, model, Settings(chunk=1), overwrite=True)
    assert Path(out).exists()


@pytest.mark.parametrize(("number", "what"), [(0, "came"), (1, "went")])
def test_a_file_that_comes_or_goes_on_the_way_is_named(
    here: Path, model: str, monkeypatch: pytest.MonkeyPatch, number: int, what: str
) -> None:
    from afina.scoring import worker

    for name in ("a", "c"):
        write_csv(here / "in" / f"{name}.csv", [["1", "luz"]])
    real = worker.Worker.__call__

    def meddle(self: worker.Worker, part: Any) -> worker.Done:
        done = real(self, part)
        if what == "came":
            write_csv(here / "in" / "b.csv", [["1", "luz"]])
        elif part.number == 1:
            (here / "in" / "c.csv").unlink()
        return done

    monkeypatch.setattr(worker.Worker, "__call__", meddle)
    with pytest.raises(UserError, match=rf"in/{'bc'[number]}\.csv: {what} while it was scored"):
        score("in", "out.csv", model)


def test_names_in_a_folder_lead_nowhere_else(here: Path, model: str) -> None:
    write_csv(here / "secret.csv", [["1", "agua"]])
    write_csv(here / "in" / "up=.." / "x=..%2F..%2Fy" / "a.csv", [["1", "luz"]])
    assert score("in", "out", model).scored == 1
    assert sorted(os.listdir("out")) == ["_SUCCESS", "part-000000.csv"]
    assert not (here.parent / "y").exists()
    (here / "in" / "b.csv").symlink_to(here / "secret.csv")
    with pytest.raises(UserError, match=r"in/b\.csv: a link that leads out of in"):
        score("in", "out", model, overwrite=True)
    with pytest.raises(UserError, match="a link that leads out"):
        score("in/*.csv", "out.csv", model)


@pytest.mark.parametrize(
    ("source", "out", "message"),
    [
        ("none.csv", "out.csv", r"none\.csv: no such file or folder"),
        ("none*.csv", "out.csv", r"none\*\.csv: no file matches"),
        ("in/a.csv", "in/a.csv", "is the input, or in it"),
        ("in", "in/out.csv", "is the input, or in it"),
        ("in/*.csv", "in/a.csv", "input and output at once"),
        ("in/a.csv", "out.xlsx", "not a format that is written"),
        ("in/a.csv", "out.csv.gz", "not a format that is written"),
        ("a.zip", "out.csv", r"a\.zip: not a format that is read"),
        ("zip://a.csv::a.zip", "out.csv", "archives are not read"),
        ("nope://a.csv", "out.csv", "no file system is known as nope://"),
        ("mixed", "out.csv", "several formats"),
        ("empty.csv", "out.csv", r"empty\.csv: the file is empty"),
        ("taken.csv", "out.csv", "has a column 'label' already; .* --prefix"),
    ],
)
def test_errors_name_what_is_wrong(here: Path, model: str, source: str, out: str, message: str) -> None:
    write_csv(here / "in" / "a.csv", [["1", "luz"]])
    write_csv(here / "mixed" / "a.csv", [["1", "luz"]])
    write_csv(here / "taken.csv", [["1", "luz"]], ("label", "text"))
    (here / "mixed" / "b.jsonl").touch()
    (here / "empty.csv").touch()
    (here / "a.zip").touch()
    before = (here / "in" / "a.csv").read_bytes()
    with pytest.raises(UserError, match=message) as caught:
        score(source, out, model, overwrite=True)
    assert "\n" not in str(caught.value)
    assert (here / "in" / "a.csv").read_bytes() == before
    assert not list(here.glob("out*"))


def test_line_ends_of_old_macs_are_named(here: Path, model: str) -> None:
    (here / "in.csv").write_bytes(b"id,text\r1,luz\r2,agua\r")
    with pytest.raises(UserError, match=r"in\.csv: line 1: .*ends in a lone carriage return"):
        score("in.csv", "out.csv", model)


def test_header_alone(here: Path, model: str) -> None:
    (here / "in.csv").write_text("id,text\n")
    assert score("in.csv", "out.csv", model).rows == 0
    assert Path("out.csv").read_text() == "id,text,label,probability,confidence,needs_person\n"
    score("in.csv", "out", model)
    assert sorted(os.listdir("out")) == ["_SUCCESS", "part-000000.csv"]


# ------------------------------------------------------------------------------ killed and resumed


def command(model: str, out: str, workers: int) -> list[str]:
    options = ["--model", model, "--chunk", "5", "--threads", "1", "--workers", str(workers)]
    return [sys.executable, "-m", "afina", "score", "in.csv", out, *options]


def done(out: str) -> int:
    folder = Path(f"{out}.parts/done")
    return len(list(folder.glob("[0-9]*.json"))) if folder.is_dir() else 0


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_random_and_finished_is_as_uninterrupted(here: Path, model: str, workers: int) -> None:
    rows = [[str(number), text] for number, text in enumerate(some_texts(2000))]
    rows[17][1] = ""
    write_csv(here / "in.csv", rows)
    whole = score("in.csv", "whole.csv", model, Settings(chunk=5))
    assert whole.scored == 1999
    draw = random.Random(workers)
    kills_on_the_way = 0
    for target in sorted(draw.sample(range(1, 360), 3)):
        process = subprocess.Popen(command(model, "out.csv", workers), stderr=subprocess.PIPE)
        while process.poll() is None and done("out.csv") < target:
            time.sleep(0.002)
        time.sleep(draw.random() * 0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == -signal.SIGKILL:
            kills_on_the_way += 1
            assert not Path("out.csv").exists()
    before = done("out.csv")
    assert kills_on_the_way >= 2
    assert 0 < before < 400
    last = subprocess.run(command(model, "out.csv", workers), capture_output=True, text=True, check=True)
    assert "1,999 of 2,000 rows, 1 failed" in last.stderr
    assert Path("out.csv").read_bytes() == Path("whole.csv").read_bytes()
    assert Path("out.csv.failed.csv").read_bytes() == Path("whole.csv.failed.csv").read_bytes()
    assert sorted(path.name for path in here.glob("*out.csv*")) == ["out.csv", "out.csv.failed.csv"]


class _Killed(BaseException):
    """Stands for SIGKILL at one place."""


def parts_scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the parts that are scored from now on in this process, as they come."""
    from afina.scoring import worker

    numbers: list[int] = []
    real = worker.Worker.__call__

    def scored(self: worker.Worker, part: Any) -> worker.Done:
        numbers.append(part.number)
        return real(self, part)

    monkeypatch.setattr(worker.Worker, "__call__", scored)
    return numbers


def killed_after(parts: int, monkeypatch: pytest.MonkeyPatch, *arguments: Any, **options: Any) -> None:
    """A run that ends after some parts are written."""
    from afina.scoring import worker

    left = [parts]
    real = worker.Worker.__call__

    def scored(self: worker.Worker, part: Any) -> worker.Done:
        if not left[0]:
            raise _Killed
        left[0] -= 1
        return real(self, part)

    with monkeypatch.context() as patch:
        patch.setattr(worker.Worker, "__call__", scored)
        with pytest.raises(_Killed):
            score(*arguments, **options)


@pytest.mark.parametrize("out", ["out.csv", "out", "out.parquet"])
def test_finished_parts_are_not_scored_again(
    here: Path, model: str, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(here / "in.csv", [[str(number), text] for number, text in enumerate(some_texts(20))])
    killed_after(3, monkeypatch, "in.csv", out, model, Settings(chunk=4))
    scored = parts_scored(monkeypatch)
    result = score("in.csv", out, model, Settings(chunk=4))
    assert scored == [3, 4]
    assert (result.resumed, result.parts, result.scored) == (3, 5, 20)
    assert not Path(f"{out}.parts").exists()


def killed_at_rename(model: str, source: str, out: str, renamed: str, *options: str) -> None:
    """A process that dies at the moment it would give a file its name, so that nothing is tidied up."""
    code = """
import os, sys
real = os.replace
def replace(old, new):
    if str(new).endswith(sys.argv[1]):
        os._exit(9)
    real(old, new)
os.replace = replace
from afina.cli import main
main(sys.argv[2:])
"""
    arguments = [renamed, "score", source, out, "--model", model, "--threads", "1", *options]
    assert subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True).returncode == 9


@pytest.mark.parametrize("renamed", ["done/000004.json", "done/000003.json", "parts/part-000004.csv"])
def test_a_half_written_note_is_no_part_done(
    here: Path, model: str, renamed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(here / "in.csv", [[str(number), text] for number, text in enumerate(some_texts(50))])
    killed_at_rename(model, "in.csv", "out.csv", renamed, "--chunk", "10")
    scored = parts_scored(monkeypatch)
    result = score("in.csv", "out.csv", model, Settings(chunk=10))
    assert scored == ([3, 4] if "3" in renamed else [4])
    assert (result.scored, result.parts, result.resumed) == (50, 5, 3 if "3" in renamed else 4)
    assert len(read_csv("out.csv")) == 50
    assert sorted(os.listdir()) == ["in.csv", "out.csv"]


def test_killed_while_an_unfinished_run_is_removed(
    here: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(here / "in.csv", [[str(number), text] for number, text in enumerate(some_texts(20))])
    killed_after(3, monkeypatch, "in.csv", "out.csv", model, Settings(chunk=4))
    killed_at_removal("done", monkeypatch, "in.csv", "out.csv", model, Settings(chunk=5), overwrite=True)
    # The older job has lost files: nothing of it may be taken for done.
    result = score("in.csv", "out.csv", model, Settings(chunk=4))
    assert (result.scored, result.resumed) == (20, 0)
    assert sorted(os.listdir()) == ["in.csv", "out.csv"]


def test_a_changed_input_model_or_setting_is_not_mixed_in(
    here: Path, model: str, multilabel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [[str(number), text] for number, text in enumerate(some_texts(20))]
    write_csv(here / "in.csv", rows)
    killed_after(3, monkeypatch, "in.csv", "out.csv", model, Settings(chunk=4))
    with pytest.raises(UserError, match=r"out\.csv\.parts: .*the model is another; --overwrite"):
        score("in.csv", "out.csv", multilabel, Settings(chunk=4))
    with pytest.raises(UserError, match="chunk was 4"):
        score("in.csv", "out.csv", model, Settings(chunk=5))
    status = (here / "in.csv").stat()
    # The same size and time of change: the bytes tell.
    changed = (here / "in.csv").read_bytes().replace(b"agua", b"pozo")
    (here / "in.csv").write_bytes(changed)
    os.utime(here / "in.csv", ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(UserError, match=r"in\.csv changed"):
        score("in.csv", "out.csv", model, Settings(chunk=4))
    result = score("in.csv", "out.csv", model, Settings(chunk=4), overwrite=True)
    assert (result.resumed, result.scored) == (0, 20)
    assert not any("agua" in row["text"] for row in read_csv("out.csv"))


def test_a_run_is_not_resumed_with_other_columns_of_folders(
    here: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(here / "in" / "year=2025" / "a.csv", [[str(number), "luz"] for number in range(8)])
    killed_after(1, monkeypatch, "in/year=2025", "out.csv", model, Settings(chunk=4))
    for pattern in ("in/year=2025/*.csv", "in/*/a.csv"):
        with pytest.raises(UserError, match=r"of another job: in/year=2025/a\.csv was found by another IN"):
            score(pattern, "out.csv", model, Settings(chunk=4))
    assert score("in/year=2025", "out.csv", model, Settings(chunk=4)).resumed == 1
    assert "year" not in read_csv("out.csv")[0]
    killed_after(1, monkeypatch, "in/*/*.csv", "again.csv", model, Settings(chunk=4))
    assert score("in/*/*.csv", "again.csv", model, Settings(chunk=4)).resumed == 1
    assert {row["year"] for row in read_csv("again.csv")} == {"2025"}


def test_an_input_that_changes_on_the_way_is_noticed(
    here: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from afina.scoring import worker

    write_csv(here / "in.csv", [["1", "luz"]] * 8)
    real = worker.Worker.__call__

    def meddle(self: worker.Worker, part: Any) -> worker.Done:
        if part.number == 3:
            with (here / "in.csv").open("a") as stream:
                stream.write("9,agua\n")
        return real(self, part)

    monkeypatch.setattr(worker.Worker, "__call__", meddle)
    with pytest.raises(UserError, match=r"in\.csv: changed while it was scored"):
        score("in.csv", "out.csv", model, Settings(chunk=2))
    assert not Path("out.csv").exists()


def test_what_is_there_is_replaced_on_request_alone(here: Path, model: str) -> None:
    write_csv(here / "in.csv", [["1", "luz"]])
    for out in ("out.csv", "out"):
        score("in.csv", out, model)
        with pytest.raises(UserError, match="is there already; --overwrite replaces it"):
            score("in.csv", out, model)
        assert score("in.csv", out, model, overwrite=True).scored == 1
    for out, place in (("pipe.csv", "pipe.csv"), ("new.csv", "new.csv.failed.csv")):
        os.mkfifo(place)
        with pytest.raises(UserError, match=rf"^{place}: a device or a pipe, which no file may replace"):
            score("in.csv", out, model, overwrite=True)
        assert Path(place).is_fifo()
        assert not Path(f"{out}.parts").exists()


@pytest.mark.parametrize(
    ("source", "out", "message"),
    [
        ("d1/in.csv", "d1", r"d1/in\.csv: is read, and inside d1, which is replaced"),
        ("d1/*.csv", "d1", r"d1/in\.csv: is read, and inside d1"),
        ("d1/in.csv", "link", "inside link"),
        ("in.csv", "models", r"models/m\.onnx: is read, and inside models"),
        ("out.parts/in.csv", "out", r"inside out\.parts"),
        ("in.csv", ".", "is the current folder, or one around it"),
        ("in.csv", "..", "is the current folder, or one around it"),
        ("in.csv", "other/../../here", "is the current folder, or one around it"),
        ("in.csv", "", "is the current folder, or one around it"),
        ("in.csv", "notes", r"notes: holds 'mine\.txt', which is no part of an output"),
        ("in.csv", "file", "file: is no folder, and one is to be written"),
        ("in.csv", "folder.csv", r"folder\.csv: is a folder, and a file is to be written"),
    ],
)
def test_overwriting_takes_nothing_but_an_older_output(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, source: str, out: str, message: str
) -> None:
    here = tmp_path / "here"
    for name in ("in.csv", "d1/in.csv", "out.parts/in.csv"):
        write_csv(here / name, [["1", "luz"]])
    for name in ("models", "notes", "folder.csv", "other"):
        (here / name).mkdir()
    (here / "models" / "m.onnx").write_bytes(Path(model).read_bytes())
    for name in ("d1/kept.txt", "notes/mine.txt", "notes/part-000000.csv", "file"):
        (here / name).touch()
    (here / "link").symlink_to("d1")
    monkeypatch.chdir(here)
    before = sorted(here.rglob("*"))
    with pytest.raises(UserError, match=message) as caught:
        score(source, out, "models/m.onnx", overwrite=True)
    assert "\n" not in str(caught.value)
    assert sorted(here.rglob("*")) == before


def test_an_empty_folder_or_an_older_output_is_overwritten(here: Path, model: str) -> None:
    write_csv(here / "in.csv", [[str(number), "luz"] for number in range(4)])
    (here / "out").mkdir()
    assert score("in.csv", "out", model, Settings(chunk=1), overwrite=True).parts == 4
    assert score("in.csv", "out", model, overwrite=True).parts == 1
    assert sorted(os.listdir("out")) == ["_SUCCESS", "part-000000.csv"]


def test_files_beside_the_output_are_kept(here: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_csv(here / "in.csv", [["1", "luz"], ["2", ""], ["3", "luz"]])
    (here / "a.csv.failed.csv").write_text("mine")
    with pytest.raises(UserError, match=r"a\.csv\.failed\.csv: is there already; --overwrite replaces it"):
        score("in.csv", "a.csv", model)
    assert (here / "a.csv.failed.csv").read_text() == "mine"
    kept = here / "f.csv.failed.csv" / "kept.txt"
    kept.parent.mkdir()
    kept.touch()
    with pytest.raises(UserError, match=r"f\.csv\.failed\.csv: is a folder"):
        score("in.csv", "f.csv", model, overwrite=True)
    assert kept.exists()
    for name in ("notes.txt", "done/mine.json", "parts/part-1.csv"):
        kept = here / "b.csv.parts" / name
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.touch()
        with pytest.raises(UserError, match=rf"b\.csv\.parts/{name}: is of no run"):
            score("in.csv", "b.csv", model, overwrite=True)
        assert kept.exists()
        kept.unlink()
    (here / "c.csv.parts").touch()
    with pytest.raises(UserError, match=r"c\.csv\.parts: is no folder"):
        score("in.csv", "c.csv", model)
    # What a run left is no one's: it is removed without asking.
    killed_after(2, monkeypatch, "in.csv", "b.csv", model, Settings(chunk=1))
    (here / "b.csv.parts" / "done" / ".000002.json.ab12.tmp").touch()
    (here / "b.csv.parts" / "job.json").unlink()
    assert score("in.csv", "b.csv", model, Settings(chunk=1)).resumed == 0
    # What comes while it runs stays.
    killed_after(2, monkeypatch, "in.csv", "e.csv", model, Settings(chunk=1))
    (here / "e.csv.parts" / "notes.txt").touch()
    assert score("in.csv", "e.csv", model, Settings(chunk=1)).resumed == 2
    assert os.listdir("e.csv.parts") == ["notes.txt"]


@pytest.mark.skipif(os.name == "nt", reason="no flock")
def test_two_runs_do_not_write_one_output(here: Path, model: str) -> None:
    import fcntl

    write_csv(here / "in.csv", [["1", "luz"]])
    with (here / ".out.csv.lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another run is writing it"):
            score("in.csv", "out.csv", model)


def killed_at_removal(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: Any, **options: Any) -> None:
    """A run that ends when it would remove a file of the work folder."""
    from afina.scoring.storage import LocalStorage

    real = LocalStorage.remove

    def remove(self: LocalStorage, location: str) -> None:
        if location.endswith(f".parts/{name}") and os.listdir(os.path.dirname(location)):
            raise _Killed
        real(self, location)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "remove", remove)
        with pytest.raises(_Killed):
            score(*arguments, **options)


@pytest.mark.parametrize("out", ["d/out", "d/out.csv", "d/out.parquet"])
@pytest.mark.parametrize("removed", ["job.json", "plan.json", "parts", "result.json"])
@pytest.mark.parametrize("older", [False, True])
def test_killed_after_the_output_is_in_place(
    here: Path, model: str, out: str, removed: str, older: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(here / "d" / "in.csv", [["1", "luz"], ["2", ""]])
    if older:
        score("d/in.csv", out, model)
    killed_at_removal(removed, monkeypatch, "d/in.csv", out, model, overwrite=older)
    with pytest.raises(UserError, match="is there already"):
        score("d/in.csv", out, model, Settings(top_k=2))  # another job
    result = score("d/in.csv", out, model)
    assert (result.scored, result.failed) == (1, 1)
    assert not Path(f"{out}.parts").exists()
    with pytest.raises(UserError, match="is there already"):
        score("d/in.csv", out, model)


def test_killed_after_an_output_that_the_pattern_matches(
    here: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(here / "d" / "in.csv", [["1", "luz"]])
    killed_at_removal("plan.json", monkeypatch, "d/*.csv", "d/out.csv", model)
    assert score("d/*.csv", "d/out.csv", model).scored == 1


@pytest.mark.parametrize("out", ["out.csv", "out.parquet", "out.jsonl"])
def test_what_gets_its_name_is_on_the_disk(
    here: Path, model: str, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(here / "in.csv", [["1", "luz"], ["2", ""]])
    synced: dict[int, int] = {}  # file to bytes
    renamed: list[str] = []
    sync, replace = os.fsync, os.replace

    def fsync(handle: int) -> None:
        sync(handle)
        status = os.fstat(handle)
        synced[status.st_ino] = status.st_size

    def rename(old: str, new: str) -> None:
        status = os.stat(old)
        assert synced.get(status.st_ino) == status.st_size, new
        renamed.append(os.path.basename(new))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    score("in.csv", out, model)
    assert {out, f"{out}.failed.csv", "chunks.jsonl", "plan.json", "000000.json"} <= set(renamed)


@pytest.mark.parametrize(("out", "renamed"), [("out", "part-000000.csv"), ("out.csv", "out.csv")])
def test_killed_before_an_older_output_is_replaced(here: Path, model: str, out: str, renamed: str) -> None:
    write_csv(here / "in.csv", [["1", "luz"]])
    score("in.csv", out, model)
    killed_at_rename(model, "in.csv", out, renamed, "--overwrite", "--top-k", "2")
    with pytest.raises(UserError, match="is there already"):
        score("in.csv", out, model, Settings(top_k=2))
    score("in.csv", out, model, Settings(top_k=2), overwrite=True)
    written = Path(out) / renamed if out == "out" else Path(out)
    assert "label_2" in read_csv(written)[0]
    assert sorted(os.listdir()) == sorted(["in.csv", out])


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.one_of(
            st.sampled_from(["luz", "agua,pagos", "", " ", '"abierta', 'a "b"', "x\ny", "\ufeff", "=1+1"]),
            st.text(max_size=8),
        ),
        max_size=15,
    ),
    chunk=st.integers(1, 6),
)
def test_rows_in_are_rows_out_and_rows_failed(
    tmp_path_factory: pytest.TempPathFactory, model: str, rows: list[str], chunk: int
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    path = folder / "in.jsonl"
    lines = [json.dumps({"text": row}) for row in rows] + ["{", '{"text": 1}', '{"text": "\\ud800"}']
    path.write_text("\n".join(lines))
    result = score(str(path), str(folder / "out.jsonl"), model, Settings(chunk=chunk))
    kept = [row for row in rows if row.strip() and not any("\ud800" <= c <= "\udfff" for c in row)]
    assert result.rows == len(lines) == result.scored + result.failed
    out = [json.loads(line) for line in (folder / "out.jsonl").read_text("utf-8").split("\n") if line]
    assert [row["text"] for row in out] == kept
    assert len(read_csv(str(result.failures))) == result.failed


# --------------------------------------------------------------------------------- the command line


def test_where_every_row_failed_the_run_failed(
    here: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from afina.cli import main

    for content, status in (("text\n \n\xa0\n", 2), ("text\n \nluz\n", 0), ("text\n", 0)):
        (here / "in.csv").write_text(content, encoding="utf-8")
        with pytest.raises(SystemExit) as ended:
            main(["score", "in.csv", "out.csv", "--model", model, "--overwrite"])
        assert ended.value.code == status
        error = capsys.readouterr().err
        assert ("no row could be classified; out.csv.failed.csv says why" in error) == (status == 2)
        assert Path("out.csv").exists()


def test_command_line(here: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    from afina.cli import main

    (here / "in.csv").write_bytes("título;cuerpo\nluz;año\n;\n".encode("cp1252"))
    arguments = ["score", "in.csv", "out.csv", "--model", model, "--column", "título", "--column", "cuerpo"]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    error = capsys.readouterr().err
    assert "in.csv: not UTF-8, read as cp1252 (--encoding names another)" in error
    assert "out.csv: 1 of 2 rows, 1 failed: out.csv.failed.csv" in error
    assert Path("out.csv").read_text("utf-8").splitlines()[0].startswith("título;cuerpo;label;")
    for wrong in (
        ["--engine", "spark"],
        ["--chunk", "0"],
        ["--encoding", "klingon"],
        ["--encoding", "idna"],
        ["--delimiter", "ab"],
        ["--threads", "0"],
        ["--threads", "1025"],
    ):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--overwrite", *wrong])
        assert ended.value.code == 2
        assert capsys.readouterr().err.startswith(f"afina: error: score: {wrong[0]}")
    with pytest.raises(SystemExit) as ended:
        main(["score", "in.csv", "out2.csv"])
    assert ended.value.code == 2
    assert "models/onnx/model.onnx: no such file" in capsys.readouterr().err


def test_text_formats_need_no_extra(here: Path, model: str) -> None:
    write_csv(here / "in.csv", [["1", "luz"]])
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['pyarrow', 'fsspec', 'pandas', 'torch']));"
        "from afina.cli import main; main(sys.argv[1:])"
    )
    arguments = [sys.executable, "-c", code, "score", "in.csv", "--model", model]
    subprocess.run([*arguments, "out.csv"], check=True, capture_output=True)
    subprocess.run([*arguments, "out.jsonl"], check=True, capture_output=True)
    refused = subprocess.run([*arguments, "out.parquet"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "needs the package pyarrow; install it with `pip install 'afina[score]'`" in refused.stderr


# ----------------------------------------------------------------------------------- remote places


def test_memory(model: str) -> None:
    fsspec = pytest.importorskip("fsspec")
    root = f"memory://{uuid.uuid4().hex}"
    for year in (2024, 2025):
        with fsspec.open(f"{root}/in/year={year}/a.jsonl", "wb") as stream:
            stream.write(b'{"text": "luz"}\n{"text": ""}\n')
    result = score(f"{root}/in", f"{root}/out.jsonl", model, Settings(chunk=1))
    assert (result.rows, result.scored) == (4, 2)
    with fsspec.open(f"{root}/out.jsonl", "rb") as stream:
        assert [json.loads(line)["year"] for line in stream] == ["2024", "2025"]
    result = score(f"{root}/in/*/*.jsonl", f"{root}/out", model, Settings(chunk=1))
    names = fsspec.filesystem("memory").ls(f"{root}/out", detail=False)
    assert sorted(name.rsplit("/", 1)[1] for name in names) == [
        "_SUCCESS",
        *(f"part-00000{at}.jsonl" for at in range(4)),
    ]
    assert not fsspec.filesystem("memory").exists(f"{root}/out.parts")
    with pytest.raises(UserError, match="only this process sees it"):
        score(f"{root}/in", f"{root}/out2", model, workers=2)


def test_overwriting_a_remote_place_keeps_what_is_read(model: str) -> None:
    fsspec = pytest.importorskip("fsspec")
    root = f"memory://{uuid.uuid4().hex}"
    for name in ("in.csv", "notes/mine.txt"):
        with fsspec.open(f"{root}/{name}", "wb") as stream:
            stream.write(b"text\nluz\n")
    with pytest.raises(UserError, match="is read, and inside"):
        score(f"{root}/in.csv", root.replace("://", ":///"), model, overwrite=True)
    with pytest.raises(UserError, match=r"holds 'mine\.txt'"):
        score(f"{root}/in.csv", f"{root}/notes", model, overwrite=True)
    with pytest.raises(UserError, match="names no file or folder"):
        score(f"{root}/in.csv", "memory://", model, overwrite=True)
    files = fsspec.filesystem("memory")
    assert files.exists(f"{root}/in.csv")
    assert files.exists(f"{root}/notes/mine.txt")


def test_a_remote_output_is_kept_until_the_new_one_is_planned(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    root = f"memory://{uuid.uuid4().hex}"
    files.pipe_file(f"{root}/in.csv", b"text\nluz\nagua\nluz\n")
    files.pipe_file(f"{root}/other.csv", b"body\nluz\nagua\n")
    source, out = f"{root}/in.csv", f"{root}/out"
    score(source, out, model, Settings(chunk=1))
    before = {name: files.cat_file(name) for name in files.find(out)}
    assert len(before) == 4
    with pytest.raises(UserError, match="no column 'text'"):
        score(f"{root}/other.csv", out, model, overwrite=True)
    assert {name: files.cat_file(name) for name in files.find(out)} == before
    # Fewer parts: none of the older ones is left, however often the run is killed.
    other = Settings(columns=("body",), chunk=1)
    killed_after(0, monkeypatch, f"{root}/other.csv", out, model, other, overwrite=True)
    assert not files.exists(f"{out}/_SUCCESS")
    killed_after(1, monkeypatch, f"{root}/other.csv", out, model, other)
    assert score(f"{root}/other.csv", out, model, other).resumed == 1
    assert sorted(name.rsplit("/", 1)[1] for name in files.find(out)) == [
        "_SUCCESS",
        "part-000000.csv",
        "part-000001.csv",
    ]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An S3 bucket on this machine."""
    server_module = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    files.mkdir("texts")
    yield files
    files.invalidate_cache()
    files.rm("texts", recursive=True)  # the next server of this process has the same objects
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_s3(here: Path, model: str, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = some_texts(30)
    write_csv(here / "in.csv", [[str(number), text] for number, text in enumerate(texts)])
    score("in.csv", "here.csv", model, Settings(chunk=4))
    bucket.pipe_file("texts/in/in.csv", (here / "in.csv").read_bytes())
    killed_after(3, monkeypatch, "s3://texts/in/in.csv", "s3://texts/out.csv", model, Settings(chunk=4))
    assert not bucket.exists("texts/out.csv")
    result = score("s3://texts/in/in.csv", "s3://texts/out.csv", model, Settings(chunk=4))
    assert (result.resumed, result.scored) == (3, 30)
    assert bucket.cat_file("texts/out.csv") == (here / "here.csv").read_bytes()
    killed_after(3, monkeypatch, "s3://texts/in", "s3://texts/out", model, Settings(chunk=8))
    assert not bucket.exists("texts/out/_SUCCESS")
    bucket.pipe_file("texts/in/in.csv", (here / "in.csv").read_bytes() + b"30,luz\n")
    with pytest.raises(UserError, match="changed"):
        score("s3://texts/in", "s3://texts/out", model, Settings(chunk=8))
    result = score("s3://texts/in/*.csv", "s3://texts/out", model, Settings(chunk=8), overwrite=True)
    bucket.invalidate_cache()
    names = [name.rsplit("/", 1)[1] for name in bucket.ls("texts/out", detail=False)]
    assert (sorted(names), result.scored) == (
        ["_SUCCESS", *(f"part-00000{at}.csv" for at in range(4))],
        31,
    )
    assert not bucket.exists("texts/out.parts")
    with pytest.raises(UserError, match="s3://texts/none"):
        score("s3://texts/none", "s3://texts/o", model)
    with pytest.raises(UserError, match=r"s3://nobucket/a\.csv"):
        score("s3://nobucket/a.csv", "o.csv", model)


def test_folders_that_an_s3_console_made_hold_no_file(here: Path, model: str, bucket: Any) -> None:
    bucket.pipe_file("texts/in/", b"")
    bucket.pipe_file("texts/in/año=2024/", b"")
    bucket.pipe_file("texts/in/año=2024/a.csv", b"text\nluz\n")
    assert score("s3://texts/in", "out.csv", model).scored == 1
    assert read_csv("out.csv")[0]["año"] == "2024"


def test_a_bucket_that_is_not_there_is_not_made(here: Path, model: str, bucket: Any) -> None:
    write_csv(here / "in.csv", [["1", "luz"]])
    for out in ("s3://txets/out.csv", "s3://txets/out"):
        with pytest.raises(UserError, match=rf"{out}: .*bucket does not exist"):
            score("in.csv", out, model)
    bucket.invalidate_cache()
    assert not bucket.exists("txets")


def test_what_clients_of_remote_places_raise_is_one_line(
    here: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    write_csv(here / "in.csv", [["1", "luz"]])
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}"
        # It gives files as a whole alone.
        with pytest.raises(UserError, match=r"in\.csv: cannot be read \(ValueError: .*; copy it here"):
            score(f"{root}/in.csv", "out.csv", model)
        for out in (f"{root}/out.csv", f"{root}/out"):
            with pytest.raises(UserError, match=f"{out}: nothing can be written there"):
                score("in.csv", out, model)
        server.shutdown()
    with pytest.raises(UserError, match=r"github://in\.csv: cannot be reached"):
        score("github://in.csv", "out.csv", model)


def test_the_host_that_a_url_names_is_asked(here: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ftp = pytest.importorskip("fsspec.implementations.ftp")
    asked = []

    def connect(self: Any) -> None:
        asked.append((self.host, self.port))
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(ftp.FTPFileSystem, "_connect", connect)
    monkeypatch.setattr(ftp.FTPFileSystem, "__del__", lambda self: None)
    with pytest.raises(UserError, match=r"ftp://localhost:21/in\.csv: Connection refused"):
        score("ftp://localhost:21/in.csv", "out.csv", model)
    write_csv(here / "in.csv", [["1", "luz"]])
    with pytest.raises(UserError, match=r"ftp://example\.org/out: Connection refused"):
        score("in.csv", "ftp://example.org/out", model)
    assert asked == [("localhost", 21), ("example.org", 21)]


# --------------------------------------------------------------------------------------- memory

PEAK = """
import sys
import threading
from pathlib import Path
from afina.cli import main
try:
    main(["score", *sys.argv[1:], "--chunk", "100", "--threads", "1"])
finally:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) / 1024)
"""


def write_wide(name: str, kind: str, rows: int) -> None:
    """A file of so many rows of 8 KiB; Parquet has them in one row group and does not compress them."""
    texts = ["" if row % 10 == 3 else f"luz {row}" for row in range(rows)]
    notes = (f"{row:08}" * 1024 for row in range(rows))
    if kind == "parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        columns = {"text": texts, "note": list(notes)}
        pq.write_table(pa.table(columns), name, compression="none", use_dictionary=False)
        return
    with open(name, "w", encoding="utf-8") as stream:
        stream.write("text,note\n" if kind == "csv" else "")
        for text, note in zip(texts, notes, strict=True):
            line = f"{text},{note}" if kind == "csv" else json.dumps({"text": text, "note": note})
            stream.write(line + "\n")


def peak_megabytes(rows: int, kind: str, model: str) -> float:
    """MiB that a process held at most while it scored so many rows of 8 KiB."""
    name = f"{rows}.{kind}"
    write_wide(name, kind, rows)
    command = [sys.executable, "-c", PEAK, name, f"out.{kind}", "--model", model, "--overwrite"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    # All that is kept is written; Parquet as afina writes it is compressed, and these notes shrink to little.
    assert kind == "parquet" or os.path.getsize(f"out.{kind}") > 0.85 * os.path.getsize(name)
    return float(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc on this system")
@pytest.mark.parametrize(
    ("kind", "rows", "growth"),
    # Arrow's allocator keeps some 30 MiB more or less, of a row group of Parquet that is 150 MiB larger.
    [("csv", (800, 6400), 16), ("jsonl", (800, 6400), 16), ("parquet", (4800, 24000), 60)],
)
def test_memory_does_not_grow_with_the_rows(
    here: Path, model: str, kind: str, rows: tuple[int, int], growth: int
) -> None:
    few, many = (peak_megabytes(number, kind, model) for number in rows)
    assert many < few + growth  # MiB
