"""Records of CSV and JSON Lines: what is a row, what fails why, and that reading may begin at any of them."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from afina.errors import UserError
from afina.quotes import is_sound
from afina.scoring import Settings, text_records
from afina.scoring.inputs import find_inputs
from afina.scoring.plan import Planner
from afina.scoring.rows import PartReader
from afina.scoring.storage import LocalStorage
from afina.scoring.text_records import Cursor, Record, TextFile, examine_csv, examine_json, read_records

HERE = LocalStorage()


def read_csv(path: Path, **options: str) -> tuple[TextFile, list[Record]]:
    file = examine_csv(
        HERE, str(path), options.get("encoding"), options.get("delimiter"), [options.get("column", "text")]
    )
    assert file is not None
    return file, read_from(file, file.start, file.line)


def read_from(file: TextFile, start: int, line: int) -> list[Record]:
    cursor = Cursor(HERE, file)
    try:
        return list(read_records(cursor, start, line))
    finally:
        cursor.close()


def problems(records: list[Record]) -> list[tuple[int, str]]:
    return [(record.line, record.problem) for record in records if record.problem]


def test_csv_cells_lines_and_places(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes('\ufeffid;text\r\n1;"a;\nb"\r\n\r\n2;ñandú\r\n'.encode())
    file, records = read_csv(path)
    assert (file.delimiter, file.names, file.encoding) == (";", ("id", "text"), "utf-8")
    assert [record.value for record in records] == [["1", "a;\nb"], ["2", "ñandú"]]
    assert [record.line for record in records] == [2, 5]
    data = path.read_bytes()
    assert data[records[1].start : records[1].end].decode() == "2;ñandú\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_excels_first_line_names_the_delimiter(tmp_path: Path, encoding: str, suffix: str) -> None:
    path = tmp_path / f"a.csv{suffix}"
    data = 'sep=;\r\nn,text;text\r\n1,2;"ñandú\r\nuno"\r\n\r\n3;dos\r\n4;5;6\r\n'.encode(encoding)
    path.write_bytes(gzip.compress(data) if suffix else data)
    file, records = read_csv(path)
    assert (file.delimiter, file.names, file.line) == (";", ("n,text", "text"), 3)
    assert [record.value for record in records[:2]] == [["1,2", "ñandú\r\nuno"], ["3", "dos"]]
    assert [record.line for record in records] == [3, 6, 7]
    assert problems(records) == [(7, "3 columns instead of 2")]
    assert read_from(file, records[1].start, records[1].line) == records[1:]
    file, _ = read_csv(path, delimiter=",", column="text;text")  # whoever names another one gets it
    assert file.names == ("n", "text;text")


def test_a_file_with_excels_first_line_alone_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sep=;\n", encoding="utf-8")
    assert examine_csv(HERE, str(tmp_path / "a.csv"), None, None, ["text"]) is None


def test_csv_rows_that_fail(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes('id,text,\n1,ñá,\n2,a,b,c\n3\n4,"open\n5,fine,\n6,x\xff,\n7,y,,,\n'.encode("latin-1"))
    path.write_bytes(path.read_bytes().replace(b"\xf1\xe1", "ñáñá".encode()))
    _, records = read_csv(path)
    assert problems(records) == [
        (3, "4 columns instead of 3"),
        (4, "1 columns instead of 3"),
        (5, "a quote opens and does not close"),
        (7, "bytes that are not text in utf-8"),
    ]
    # Empty cells at the end of the last line are no columns; the line after the open quote is sound.
    assert [record.value[0] for record in records if not record.problem] == ["1", "5", "7"]


def test_a_stray_quote_takes_only_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,"pantalla de 20\n2,otra\n3,"una", más\n4,fin\n', encoding="utf-8")
    _, records = read_csv(path)
    assert problems(records) == [
        (2, "a quote opens and does not close"),
        (4, "3 columns instead of 2"),
    ]
    assert [record.value[0] for record in records if not record.problem] == ["2", "4"]


def test_open_quotes_line_after_line_merge_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [f'{row},"hola {row}' if 5 <= row <= 8 else f"{row},hola {row}" for row in range(1, 13)]
    path.write_text("\n".join(["id,text", *rows, ""]))
    _, records = read_csv(path)
    assert len(records) == 12
    assert problems(records) == [(line, "a quote opens and does not close") for line in (6, 7, 8, 9)]
    # Quotes that open and close are no break of the rules, over however many lines.
    path.write_text('id,text\n1,"a\n2,b\n"\n2,"c ""d""\n"\n')
    assert [record.value[1] for record in read_csv(path)[1]] == ["a\n2,b\n", 'c "d"\n']


@pytest.mark.parametrize("line", ['tubo 5" roto,"sin agua', 'tubo 5","sin agua', 'tubo,"sin agua'])
def test_open_quotes_are_read_in_the_time_of_other_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr(text_records, "MAX_RECORD", 200_000)
    path = tmp_path / "a.csv"
    path.write_text("id,text\n" + f"{line}\n" * 30_000)
    looks, look = 0, text_records._quote_after

    def counted(text: str, delimiter: str) -> text_records.Quote:
        nonlocal looks
        looks += 1
        return look(text, delimiter)

    monkeypatch.setattr(text_records, "_quote_after", counted)
    file, records = read_csv(path)
    assert len(records) == 30_000
    assert all(record.problem == "a quote opens and does not close" for record in records[:-1])
    assert looks <= 2 * 30_000 + 2  # as what opens a record, and within the quote of one before
    # Parts that begin within are read no slower.
    cursor = Cursor(HERE, file)
    for at in range(0, 30_000, 1000):
        found = itertools.islice(read_records(cursor, records[at].start, records[at].line), 1000)
        assert list(found) == records[at : at + 1000]
    cursor.close()
    assert looks <= 4 * 30_000 + 4


QUOTED = st.text(st.sampled_from('a""",,\n\r '), max_size=60)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=QUOTED, longest=st.sampled_from([5, 12, 1000]))
def test_looking_ahead_changes_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, longest: int
) -> None:
    monkeypatch.setattr(text_records, "MAX_RECORD", longest)
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    file = TextFile(str(path), "utf-8", ",", ("a", "b"))
    lines = text.split("\n")
    whole = [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    for record in read_from(file, 0, 1):
        length, opened = _first_record(whole[record.line - 1 :], longest)
        assert record.last - record.line + 1 == length
        assert (record.problem == "a quote opens and does not close") == opened


def _first_record(lines: list[str], longest: int) -> tuple[int, bool]:
    """Of how many lines the first record is, and whether that is for a quote that does not close."""
    asked = False
    taken: list[str] = []

    def given() -> Iterator[str]:
        nonlocal asked
        for line in lines:
            if len("".join([*taken, line])) > longest:
                break
            taken.append(line)
            yield line
        asked = True

    with suppress(csv.Error, StopIteration):
        next(csv.reader(given(), delimiter=","))
    if not taken:
        return 1, False  # too long itself
    opened = asked or (len(taken) > 1 and not is_sound(taken, ","))
    return 1 if opened else len(taken), opened


def test_longest_record_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_records, "MAX_RECORD", 100)
    path = tmp_path / "a.csv"
    path.write_text(f'id,text\n1,{"x" * 200}\n2,ok\n3,"{"y" * 30}\n{"z" * 80}"\n4,fin\n')
    _, records = read_csv(path)
    assert [(record.line, record.problem[:11]) for record in records if record.problem] == [
        (2, "longer than"),
        (4, "a quote ope"),  # goes on longer than a record may, so its first line alone is lost
        (5, "1 columns i"),
    ]
    assert [record.value[0] for record in records if not record.problem] == ["2", "4"]


def test_huge_line_is_never_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as stream:
        for _ in range(64):
            stream.write(b"x" * (1 << 20))
        stream.write(b'\n{"text": "luz"}\n')
    file = examine_json(HERE, str(path), "utf-8")
    tracemalloc.start()
    records = read_from(file, 0, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert problems(records) == [(1, "longer than 4,194,304 bytes")]
    assert records[1].value == {"text": "luz"}
    assert peak < 20 << 20


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not valid JSON: Expecting property name"),
        (b"[1]", "not a JSON object"),
        (b'{"a": NaN}', "not valid JSON: not a number"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not valid JSON: not a number"),
        (b'{"a": "\\ud83d"}', "half a surrogate pair"),
        (b'{"a": "\xff"}', "bytes that are not text in utf-8"),
        (b"[" * 200_000, "not valid JSON: nested too deeply"),
    ],
)
def test_json_lines_that_fail(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "ññ \\ud83d\\ude00"}\n\n'.encode() + line + b'\n{"text": "b"}')
    records = read_from(examine_json(HERE, str(path), None), 0, 1)
    assert [record.line for record in records] == [1, 3, 4]
    assert [bool(record.problem) for record in records] == [False, True, False]
    assert records[1].problem.startswith(reason)


@pytest.mark.parametrize(
    ("encoding", "found"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("cp1252", "cp1252"),
        ("utf-16", "utf-16"),
        ("utf-32", "utf-32"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_encodings(tmp_path: Path, encoding: str, found: str, suffix: str) -> None:
    path = tmp_path / f"a.csv{suffix}"
    data = "id,text\n1,“año”\n2,niño\n3,café\n".encode(encoding)
    path.write_bytes(gzip.compress(data) if suffix else data)
    file, records = read_csv(path)
    assert file.encoding == found
    assert [record.value[1] for record in records] == ["“año”", "niño", "café"]
    # From the middle too, where a stream cannot jump.
    assert read_from(file, records[1].start, records[1].line) == records[1:]


def test_cursor_goes_back_in_a_compressed_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(b'{"text": "%d"}\n' % number for number in range(100))))
    file = examine_json(HERE, str(path), None)
    cursor = Cursor(HERE, file)
    everything = list(read_records(cursor, 0, 1))
    for at in (90, 10, 50, 51, 0):
        again = next(read_records(cursor, everything[at].start, everything[at].line))
        assert again == everything[at]
    cursor.close()


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv", "a.jsonl.gz", "a.jsonl"])
def test_parts_in_order_cost_one_reading(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"text {number}" for number in range(60)]
    if ".jsonl" in name:
        lines = [json.dumps({"text": text}) for text in texts]
    else:
        lines = [f'{number},"{text}' + '"' * (number % 3 > 0) for number, text in enumerate(texts)]
    lines.insert(30, "")
    data = "\n".join(["id,text"] * (".csv" in name) + lines).encode("utf-8" if ".gz" in name else "utf-16")
    (tmp_path / name).write_bytes(gzip.compress(data) if ".gz" in name else data)
    planner = Planner(
        HERE, Settings(chunk=7), 3, False, "out.jsonl", "jsonl", find_inputs(str(tmp_path), HERE)
    )
    parts = list(planner.parts())
    opened = []
    real = LocalStorage.open
    monkeypatch.setattr(LocalStorage, "open", lambda self, name: opened.append(name) or real(self, name))
    reader = PartReader(HERE, planner.plan())
    rows = [reader.read(part) for part in parts]
    reader.close()
    assert len(parts) == 9
    assert sum(len(one.texts) + len(one.failures) for one in rows) == 60
    assert sum(len(one.failures) for one in rows) == (20 if ".csv" in name else 0)
    assert len(opened) == 1
    # In any other order the same is read.
    reader = PartReader(HERE, planner.plan())
    assert [reader.read(part) for part in reversed(parts)] == rows[::-1]
    reader.close()


def test_cut_utf16_fails_where_it_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "a"}\n{"text": "b"}'.encode("utf-16")[:-1])
    records = read_from(examine_json(HERE, str(path), None), 0, 1)
    assert records[0].value == {"text": "a"}
    assert records[1].problem == "bytes that are not text in utf-16"


def test_damage_in_utf32_takes_its_own_row_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [f'{{"text": "{text}"}}\n'.encode("utf-32-le") for text in "abcd"]
    lines[1] = lines[1][:8] + b"\xff\xff\xff\xff" + lines[1][12:]
    path.write_bytes("\ufeff".encode("utf-32-le") + b"".join(lines))
    records = read_from(examine_json(HERE, str(path), None), 0, 1)
    assert [record.value for record in records] == [{"text": "a"}, None, {"text": "c"}, {"text": "d"}]
    assert problems(records) == [(2, "bytes that are not text in utf-32")]


def test_columns_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,text,a,,\n1,x,2,,\n")
    file, _ = read_csv(path)
    assert file.names == ("a", "text", "a_2", "", "_2")
    path.write_text("text,text\n1,x\n")
    with pytest.raises(UserError, match="2 columns are named 'text'"):
        read_csv(path)
    with pytest.raises(UserError, match="no column 'body'; it has 'text'"):
        read_csv(path, column="body")


CELLS = st.text(st.sampled_from('ab,;"\n\r ñ😀\t\x00='), max_size=6)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.tuples(CELLS, CELLS), max_size=12), ends=st.sampled_from(["\n", "\r\n"]))
def test_what_is_written_is_read_from_any_record(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], ends: str
) -> None:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator=ends, quoting=csv.QUOTE_ALL)
    writer.writerow(["id", "text"])
    writer.writerows(rows)
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(stream.getvalue().encode())
    file, records = read_csv(path)
    assert [tuple(record.value) for record in records] == rows
    assert not problems(records)
    for at, record in enumerate(records):
        assert read_from(file, record.start, record.line) == records[at:]


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_rows_or_failures(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "a.csv"
    path.write_bytes(b"id,text\n" + data)
    file, records = read_csv(path, encoding="utf-8", delimiter=",")
    for record in records:
        assert (record.value is None) == bool(record.problem)
        assert record.value is None or len(record.value) == 2
    for one, other in itertools.pairwise(records):
        assert one.start < one.end <= other.start
        assert one.line <= one.last < other.line
    for at, record in enumerate(records):
        assert read_from(file, record.start, record.line) == records[at:]
    path = path.with_suffix(".jsonl")
    path.write_bytes(data)
    lines = [line for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    for record, line in zip(read_from(examine_json(HERE, str(path), "utf-8"), 0, 1), lines, strict=True):
        if not record.problem:
            assert record.value == json.loads(line)
