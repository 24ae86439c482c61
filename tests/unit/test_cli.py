"""The command line: what it prints, what it writes, and what it says when something is wrong."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from afina import __version__, cli
from afina.spreadsheets import escape_formula
from toy_artifact import write_toy

HEADER = "text,label,probability,confidence,needs_person\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_toy(tmp_path_factory.mktemp("toy") / "model.onnx"))


@pytest.fixture(scope="module")
def multilabel(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_toy(tmp_path_factory.mktemp("toy") / "model.onnx", "multilabel"))


class Run:
    """Runs the command line in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capsys, self.monkeypatch = capsys, monkeypatch

    def __call__(self, *arguments: str | Path, stdin: bytes = b"") -> str:
        """What is printed, by a command that succeeds."""
        code = self.code(*arguments, stdin=stdin)
        self.shown = self.capsys.readouterr()
        assert code == 0, self.shown.err
        return self.shown.out

    def error(self, *arguments: str | Path, stdin: bytes = b"") -> str:
        """The one line that a command says that fails."""
        code = self.code(*arguments, stdin=stdin)
        self.shown = self.capsys.readouterr()
        assert code == 2
        assert self.shown.err.startswith("afina: error: ")
        assert self.shown.err.count("\n") == 1
        return self.shown.err

    def code(self, *arguments: str | Path, stdin: bytes) -> object:
        self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as exit_:
            cli.main([str(argument) for argument in arguments])
        return exit_.value.code or 0


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(capsys, monkeypatch)


def read_rows(path: Path, encoding: str = "utf-8", delimiter: str = ",") -> list[dict[str, str]]:
    with path.open(encoding=encoding, newline="") as stream:
        return list(csv.DictReader(stream, delimiter=delimiter))


def test_version(run: Run) -> None:
    assert run("--version") == f"{__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict"], "predict: missing argument 'model'; see `afina predict --help`"),
        (
            ["predict", "m.onnx", "--colum", "x"],
            "predict: no such option: --colum (Possible options: --column",
        ),
        (["predict", "m.onnx", "--top-k", "0"], "predict: invalid value for '--top-k': "),
        (["predict", "m.onnx", "--text"], "option '--text' requires an argument"),
        (["score", "a.csv", "b.csv", "c.csv"], "extra argument(s) (c.csv); a pattern goes in quotes; see `"),
        (["leaderbord"], "no such command 'leaderbord'. Did you mean 'leaderboard'?"),
    ],
)
def test_a_mistyped_command_is_one_line(run: Run, arguments: list[str], said: str) -> None:
    assert said in run.error(*arguments)


def test_nothing_at_all_gives_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    shown = capsys.readouterr()
    assert ended.value.code == 2
    assert "leaderboard" in shown.out + shown.err
    assert "error" not in shown.err


# ------------------------------------------------------------------------------------ --text and stdin


def test_a_line_a_text_where_nobody_watches(run: Run, model: str) -> None:
    out = run("predict", model, "--text", "agua agua", "--text", "luz")
    assert out == "agua\t0.786986\nluz\t0.576117\n"


def test_top_k_follows_on_the_line(run: Run, model: str) -> None:
    out = run("predict", model, "--text", "agua agua luz", "--top-k", "2")
    assert out == "agua\t0.665241\tagua\t0.665241\tluz\t0.244728\n"


def test_multilabel_joins_its_labels(run: Run, multilabel: str) -> None:
    out = run("predict", multilabel, "--text", "agua agua luz", "--text", "nada")
    assert out == "agua|luz\t0.500000|0.268941\n\t\n"


def test_json_lines(run: Run, model: str, multilabel: str) -> None:
    out = run("predict", model, "--text", "luz ñ", "--text", "pagos", "--json")
    assert [json.loads(line) for line in out.splitlines()] == [
        {
            "text": "luz ñ",
            "label": "luz",
            "probability": 0.576117,
            "confidence": 0.576117,
            "needs_person": False,
        },
        {
            "text": "pagos",
            "label": "pagos",
            "probability": 0.576117,
            "confidence": 0.576117,
            "needs_person": False,
        },
    ]
    assert "ñ" in out
    out = run("predict", multilabel, "--text", "agua agua", "--json", "--top-k", "2")
    assert json.loads(out) == {
        "text": "agua agua",
        "labels": [{"label": "agua", "probability": 0.5}],
        "confidence": 0.5,
        "needs_person": False,
        "top": [{"label": "agua", "probability": 0.5}, {"label": "luz", "probability": 0.119203}],
    }


def test_what_is_for_a_person_is_said(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_toy(tmp_path / "model.onnx", abstain_below=0.7, target_accuracy=0.95)
    texts = ["--text", "agua agua", "--text", "luz"]  # 0.79 and 0.58 sure
    answers = [json.loads(line) for line in run("predict", model, *texts, "--json").splitlines()]
    assert [answer["needs_person"] for answer in answers] == [False, True]
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("text\nagua agua\nluz\n", encoding="utf-8")
    run("predict", model, "--file", source, "--out", out)
    assert [row["needs_person"] for row in read_rows(out)] == ["no", "yes"]
    pretend_terminal(monkeypatch)
    assert run("predict", model, "--text", "luz").splitlines() == [
        "luz",
        "  for a person: the model is not sure enough",
        "  0.5761  luz",
    ]
    assert "person" not in run("predict", model, "--text", "agua agua")


def pretend_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make standard output a terminal, one without colours."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")


def test_labels_below_the_text_on_a_terminal(run: Run, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_terminal(monkeypatch)
    out = run("predict", model, "--text", "luz [bold]luz", "--text", " ", "--top-k", "3").splitlines()
    assert out[0] == "luz [bold]luz"  # shown, not obeyed
    assert out[1] == "  0.7870  luz"
    assert sorted(line.split()[-1] for line in out[1:4]) == ["agua", "luz", "pagos"]
    assert out[4] == "(no text)"
    assert run("predict", model, "--text", "luz luz").splitlines() == ["luz luz", "  0.7870  luz"]


def test_no_label_reaches_its_threshold_on_a_terminal(
    run: Run, multilabel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_terminal(monkeypatch)
    out = run("predict", multilabel, "--text", "", "--top-k", "2").splitlines()
    assert out[1] == "  –       no label reaches its threshold"
    assert len(out) == 4
    assert len(run("predict", multilabel, "--text", "agua agua").splitlines()) == 2


def test_lines_of_stdin(run: Run, model: str) -> None:
    lines = ["agua", "", "luz luz ñandú"]
    marked = b"\xef\xbb\xbf" + "\r\n".join(lines).encode()
    out = run("predict", model, stdin=marked)
    assert [line.split("\t")[0] for line in out.splitlines()] == ["agua", "agua", "luz"]
    out = run("predict", model, "--json", stdin=marked)
    assert [json.loads(line)["text"] for line in out.splitlines()] == lines


def test_stdin_longer_than_a_chunk(run: Run, model: str) -> None:
    count = 2 * cli.CHUNK + 7
    out = run("predict", model, stdin=b"agua\nluz\n" * count)
    assert [line.split("\t")[0] for line in out.splitlines()] == ["agua", "luz"] * count


def test_stdin_in_another_encoding(run: Run, model: str) -> None:
    assert "stdin: line 2 is not UTF-8" in run.error("predict", model, stdin="agua\nañil\n".encode("latin-1"))
    out = run("predict", model, "--encoding", "latin-1", "--json", stdin="añil".encode("latin-1"))
    assert json.loads(out)["text"] == "añil"
    for encoding in ("klingon", "undefined"):
        assert f"no encoding is named '{encoding}'" in run.error("predict", model, "--encoding", encoding)


# --------------------------------------------------------------------------------------------- --file


def test_a_csv_keeps_its_columns_and_gains_four(run: Run, model: str, tmp_path: Path) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "new" / "out.csv"
    source.write_text('id,texto,nota\n1,agua agua,"a, b"\n2,"luz\nluz","=1+1"\n', encoding="utf-8")
    run("predict", model, "--file", source, "--column", "texto", "--out", out)
    assert out.read_text(encoding="utf-8") == (
        "id,texto,nota,label,probability,confidence,needs_person\n"
        '1,agua agua,"a, b",agua,0.786986,0.786986,no\n2,"luz\nluz",\'=1+1,luz,0.786986,0.786986,no\n'
    )
    assert list(out.parent.iterdir()) == [out]


def test_top_k_adds_columns(run: Run, model: str, tmp_path: Path) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("text\nluz luz agua\n", encoding="utf-8")
    run("predict", model, "--file", source, "--out", out, "--top-k", "2")
    (row,) = read_rows(out)
    assert list(row) == [
        "text",
        "label",
        "probability",
        "confidence",
        "needs_person",
        "label_1",
        "probability_1",
        "label_2",
        "probability_2",
    ]
    assert (row["label"], row["label_1"], row["label_2"]) == ("luz", "luz", "agua")
    run("predict", model, "--file", source, "--out", out, "--top-k", "50")  # more than there are: all
    assert list(read_rows(out)[0])[-1] == "probability_3"


def test_multilabel_csv(run: Run, multilabel: str, tmp_path: Path) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("text\nagua agua luz\nnada\n", encoding="utf-8")
    run("predict", multilabel, "--file", source, "--out", out)
    assert [row["label"] for row in read_rows(out)] == ["agua|luz", ""]


def test_without_out_the_csv_is_printed(run: Run, model: str, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("text\nagua\n", encoding="utf-8")
    assert run("predict", model, "--file", source) == f"{HEADER}agua,agua,0.576117,0.576117,no\n"


def test_out_may_be_the_file_itself(run: Run, model: str, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("text\nagua\n", encoding="utf-8")
    run("predict", model, "--file", source, "--out", source)
    assert source.read_text(encoding="utf-8") == f"{HEADER}agua,agua,0.576117,0.576117,no\n"


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_the_delimiter_is_found_by_the_column(run: Run, model: str, tmp_path: Path, delimiter: str) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text(delimiter.join(("a,b", "text")) + "\n" + delimiter.join(("1", "luz")), encoding="utf-8")
    run("predict", model, "--file", source, "--out", out)
    (row,) = read_rows(out, delimiter=delimiter)
    assert (row["a,b"], row["text"], row["label"]) == ("1", "luz", "luz")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_excels_first_line_names_the_delimiter(run: Run, model: str, tmp_path: Path, encoding: str) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("sep=;\na,text;text;ñ\n1,2;luz;x\n", encoding=encoding)
    run("predict", model, "--file", source, "--out", out)
    (row,) = read_rows(out, "utf-8-sig", delimiter=";")
    assert (row["a,text"], row["text"], row["ñ"], row["label"]) == ("1,2", "luz", "x", "luz")
    # Whoever names another delimiter gets it; the line is no row all the same.
    source.write_text("sep=;\nid:text\n1:luz;luz\n", encoding=encoding)
    run("predict", model, "--file", source, "--out", out, "--delimiter", ":")
    (row,) = read_rows(out, "utf-8-sig", delimiter=":")
    assert (row["id"], row["text"], row["label"]) == ("1", "luz;luz", "luz")


def test_spaces_around_the_name_of_a_column_do_not_count(run: Run, model: str, tmp_path: Path) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("id; text ;x,y\n1; luz ;2\n", encoding="utf-8")
    for column in ([], ["--column", "text"], ["--column", " text"]):
        run("predict", model, "--file", source, "--out", out, *column)
        (row,) = read_rows(out, delimiter=";")
        assert (row[" text "], row["label"]) == (" luz ", "luz")
    source.write_text("text, text\nluz,luz\n", encoding="utf-8")
    assert "2 columns are named 'text'" in run.error("predict", model, "--file", source)


def test_the_delimiter_can_be_given(run: Run, model: str, tmp_path: Path) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("id:text\n1:luz\n", encoding="utf-8")
    run("predict", model, "--file", source, "--out", out, "--delimiter", ":")
    assert (
        out.read_text(encoding="utf-8")
        == "id:text:label:probability:confidence:needs_person\n1:luz:luz:0.576117:0.576117:no\n"
    )
    for wrong in ("::", "", '"', "\n", "\r", "colon"):
        error = run.error("predict", model, "--file", source, "--out", out, "--delimiter", wrong)
        assert f"expected one character or comma, semicolon, tab, bar, found {wrong!r}" in error
    for name, delimiter in (("tab", "\t"), ("\\t", "\t"), ("semicolon", ";"), ("bar", "|")):
        source.write_text(f"id{delimiter}text\n1{delimiter}luz\n", encoding="utf-8")
        run("predict", model, "--file", source, "--out", out, "--delimiter", name)
        assert read_rows(out, delimiter=delimiter)[0]["label"] == "luz"


@pytest.mark.parametrize(
    ("encoding", "note"),
    [("utf-8-sig", ""), ("utf-16", ""), ("utf-32", ""), ("cp1252", "read as cp1252"), ("utf-8", "")],
)
def test_encodings(run: Run, model: str, tmp_path: Path, encoding: str, note: str) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("texto,señal\nagua,“año”\n", encoding=encoding)
    run("predict", model, "--file", source, "--out", out, "--column", "texto")
    assert note in run.shown.err
    assert ("not UTF-8" in run.shown.err) == bool(note)
    (row,) = read_rows(out, "utf-8-sig")
    assert (row["texto"], row["señal"], row["label"]) == ("agua", "“año”", "agua")
    assert out.read_bytes().startswith(b"\xef\xbb\xbf") == (encoding in ("utf-8-sig", "utf-16", "utf-32"))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_damaged_byte_makes_no_other_encoding(run: Run, model: str, tmp_path: Path, mark: bytes) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    lines = ["text", *["agua de la pensión"] * 9]
    content = [line.encode() for line in lines]
    content[4] = lines[4].encode("cp1252")
    source.write_bytes(mark + b"\n".join(content))

    error = run.error("predict", model, "--file", source, "--out", out)

    assert f"{source}: line 5: not valid UTF-8; mend the line" in error
    assert not out.exists()
    # Whoever knows better says so.
    run(
        "predict",
        model,
        "--file",
        source,
        "--out",
        out,
        "--encoding",
        "latin-1",
        "--column",
        "text" if not mark else "ï»¿text",
    )
    assert len(read_rows(out)) == 9


@pytest.mark.parametrize(
    ("name", "kind"), [("a.parquet", "Parquet"), ("a.jsonl", "JSON Lines"), ("a.csv", "Parquet")]
)
def test_other_kinds_of_files_are_said_to_be_such(
    run: Run, model: str, tmp_path: Path, name: str, kind: str
) -> None:
    source = tmp_path / name
    source.write_bytes(b'{"text": "un secreto"}\n' if kind == "JSON Lines" else b"PAR1\x15\x04\x00\xffPAR1")

    error = run.error("predict", model, "--file", source)

    assert f"{source}: {kind}, and predict reads CSV" in error
    assert "secreto" not in error


@pytest.mark.parametrize("name", ["out.parquet", "out.XLSX", "out.jsonl"])
def test_a_csv_gets_no_other_name(run: Run, model: str, tmp_path: Path, name: str) -> None:
    source = tmp_path / "in.csv"
    source.write_text("text\nluz\n", encoding="utf-8")

    error = run.error("predict", model, "--file", source, "--out", tmp_path / name)

    assert "predict writes CSV; name it .csv" in error
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_bytes_that_no_windows_writes_are_latin1(run: Run, model: str, tmp_path: Path) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes(b"text\nagua \x81 \xf1\n")
    run("predict", model, "--file", source, "--out", out)
    assert "read as latin-1" in run.shown.err
    assert read_rows(out)[0]["text"] == "agua \x81 ñ"


def test_a_csv_longer_than_a_chunk_keeps_its_order(run: Run, model: str, tmp_path: Path) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    words = ["agua", "luz", "pagos"] * cli.CHUNK
    source.write_text("n,text\n" + "".join(f"{n},{word}\n" for n, word in enumerate(words)), encoding="utf-8")
    run("predict", model, "--file", source, "--out", out)
    rows = read_rows(out)
    assert [row["n"] for row in rows] == [str(n) for n in range(len(words))]
    assert [row["label"] for row in rows] == words
    assert f"{len(words):,} rows" in run.shown.err


def test_a_cell_of_any_length(run: Run, model: str, tmp_path: Path) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("text\n" + "agua " * 100_000 + "\n", encoding="utf-8")
    run("predict", model, "--file", source, "--out", out)
    assert out.stat().st_size > 500_000


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(cells, cells), max_size=6))
def test_what_was_in_the_csv_comes_out_of_it(
    run: Run, model: str, tmp_path: Path, rows: list[tuple[str, str]]
) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    with source.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([("text", "b"), *rows])
    run("predict", model, "--file", source, "--out", out)
    expected = [(escape_formula(first), escape_formula(second)) for first, second in rows]
    assert [(row["text"], row["b"]) for row in read_rows(out)] == expected


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("a,b\n1,2\n", [], "in.csv: no column 'text'; it has 'a', 'b'; name one with --column"),
        ("text,text\n1,2\n", [], "2 columns are named 'text'"),
        ("text,b\n1,2\n1,2,3\n", [], "line 3: 3 cells where the header has 2"),
        ("", [], "line 1: expected a header"),
        ("sep=;\n", [], "line 2: expected a header"),
        ("sep=;\ntext;b\n1;2\n1;2;3\n", [], "line 4: 3 cells where the header has 2"),
        ('sep=;\ntext;b\n1;2\n3;"4\n', [], "in.csv: line 4: a quote opens and does not close"),
        ("text,label\n1,2\n", [], "has a column 'label' already; tell the new ones apart with --prefix"),
        ('text,b\n1,2\n3,"4\n5,6\n7,8\n', [], "in.csv: line 3: a quote opens and does not close"),
        ('text,b\n"1,2\n3,"4\n5,6\n', [], "in.csv: line 2: a quote opens and does not close"),
        ('text,b\n"1\n2",x\n3,"4', [], "in.csv: line 4: a quote opens and does not close"),
        ('text,"b\n1,2\n', [], "in.csv: line 1: a quote opens and does not close"),
        ("text\nñ\n", ["--encoding", "ascii"], "is not ascii; name another --encoding"),
        ("text\nx\n", ["--encoding", "klingon"], "no encoding is named 'klingon'"),
        ("text\nx\n", ["--json"], "--json goes with --text or stdin"),
        ("text\nx\n", ["--text", "x"], "--text and --file exclude each other"),
    ],
)
def test_a_wrong_csv_is_refused_and_nothing_written(
    run: Run, model: str, tmp_path: Path, content: str, options: list[str], message: str
) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text(content, encoding="utf-8")
    out.write_text("from before", encoding="utf-8")
    assert message in run.error("predict", model, "--file", source, "--out", out, *options)
    assert out.read_text(encoding="utf-8") == "from before"
    assert sorted(tmp_path.iterdir()) == [source, out]


def test_a_prefix_tells_columns_apart(run: Run, model: str, tmp_path: Path) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("text,label\nluz,agua\n", encoding="utf-8")
    run("predict", model, "--file", source, "--out", out, "--prefix", "predicted_")
    (row,) = read_rows(out)
    assert (row["label"], row["predicted_label"]) == ("agua", "luz")


def test_an_interruption_leaves_the_old_answer(
    run: Run, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from afina.runtime.classifier import Classifier

    def interrupt(*_: object) -> None:
        raise MemoryError

    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("text\nluz\n", encoding="utf-8")
    out.write_text("from before", encoding="utf-8")
    monkeypatch.setattr(Classifier, "predict", interrupt)
    with pytest.raises(MemoryError):
        cli.main(["predict", model, "--file", str(source), "--out", str(out)])
    assert out.read_text(encoding="utf-8") == "from before"
    assert sorted(tmp_path.iterdir()) == [source, out]


# --------------------------------------------------------------------------------------------- errors


def test_a_model_that_is_none(run: Run, tmp_path: Path) -> None:
    assert "no such file" in run.error("predict", tmp_path / "model.onnx", "--text", "agua")
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    assert "not an ONNX model" in run.error("predict", tmp_path / "model.onnx", "--text", "agua")


def test_a_csv_that_is_none(run: Run, model: str, tmp_path: Path) -> None:
    assert "no such file" in run.error("predict", model, "--file", tmp_path / "in.csv")
    assert "is a folder" in run.error("predict", model, "--file", tmp_path)


@pytest.mark.parametrize(
    "option", [("--out", "x.csv"), ("--delimiter", ";"), ("--prefix", "p_"), ("--encoding", "latin-1")]
)
def test_options_of_a_csv_need_one(run: Run, model: str, option: tuple[str, str]) -> None:
    assert f"{option[0]} goes with --file" in run.error("predict", model, "--text", "agua", *option)


# -------------------------------------------------------------------------------------------- inspect


def test_inspect_shows_what_a_file_holds(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "in.csv"
    rows = "".join(f"Llevo {n} días sin agua en casa,{'agua' if n % 2 else 'luz'}\n" for n in range(20))
    source.write_text(f"mensaje,categoria\n{rows}", encoding="utf-8")
    out = run("inspect", source)
    assert "20 rows" in out
    assert "categoria" in out
    assert "extract:" in out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert "extract:" in run("inspect", source)


def test_inspect_names_what_cannot_be_read(run: Run, tmp_path: Path) -> None:
    assert "absent.csv" in run.error("inspect", tmp_path / "absent.csv")


def test_inspect_without_the_pipelines_packages(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "afina.inspection", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "install it with `pip install 'afina[pipeline]'`" in run.error("inspect", tmp_path / "in.csv")


# ----------------------------------------------------------------------------------------- keep-split


@pytest.mark.parametrize(
    "name", ["data/source/kept_split.csv", "año 1, ñ.csv", "{a} #1.csv", f"{'x' * 99} y.csv"]
)
def test_keep_split_prints_what_yaml_reads(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from afina import revisions

    monkeypatch.setattr(revisions, "find_root", lambda *_: tmp_path)
    monkeypatch.setattr(revisions, "read_splits", lambda _: [("1", "test", "Sin agua")])
    monkeypatch.chdir(tmp_path)
    said = run("keep-split", "--out", name)
    assert said.count("\n") == 1
    assert yaml.safe_load(said.partition("in params.yaml: ")[2]) == {"split": {"keep": name}}
    # A pipe gets UTF-8, whatever the machine's own encoding.
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert run.code("keep-split", "--out", name, stdin=b"") == 0
    assert stream.buffer.getvalue().decode() == said


# ------------------------------------------------------------------------------------------ processes


def test_predicting_imports_neither_torch_nor_pandas(model: str, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("text\nagua\n", encoding="utf-8")
    code = f"""
import sys
from afina.cli import main
for arguments in (["--text", "agua"], ["--file", {str(source)!r}]):
    try:
        main(["predict", {model!r}, *arguments])
    except SystemExit as exit:
        assert not exit.code
heavy = {{"torch", "transformers", "pandas", "pyarrow", "sklearn", "scipy", "onnx", "yaml"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert (
        result.stdout
        == "agua\t0.576117\ntext,label,probability,confidence,needs_person\nagua,agua,0.576117,0.576117,no\n"
    )


def test_a_csv_of_another_encoding_needs_no_more_packages(model: str, tmp_path: Path) -> None:
    """What a plain installation lacks is not imported, not even for the file that a Spanish Excel writes."""
    (tmp_path / "latin.csv").write_bytes("id;text\n1;agua fría\n".encode("latin-1"))
    (tmp_path / "broken.csv").write_bytes("text\nagua fría ñandú\nluz \xff\n".encode() + b"\xff\n")
    code = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pyarrow", "pandas", "torch", "yaml"):
            raise ModuleNotFoundError(name=name)

sys.meta_path.insert(0, Absent())
from afina.__main__ import main
main()
"""
    outputs = []
    for name in ("latin.csv", "broken.csv"):
        command = [sys.executable, "-c", code, "predict", model, "--file", str(tmp_path / name)]
        outputs.append(subprocess.run(command, capture_output=True, check=False))
    assert outputs[0].returncode == 0, outputs[0].stderr
    assert outputs[0].stdout.decode().startswith("id;text;label;")
    assert b"not UTF-8, read as" in outputs[0].stderr
    assert outputs[1].returncode == 2
    assert b"line 4: not valid UTF-8" in outputs[1].stderr


@pytest.mark.parametrize("module", ["afina.cli", "onnxruntime", "numpy", "afina.runtime.loading"])
def test_control_c_while_a_library_is_loaded_ends_in_silence(module: str, model: str) -> None:
    """Even where the library would make another error of an exception that is raised within it."""
    code = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored where the tests run

class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            try:
                os.kill(os.getpid(), signal.SIGINT)
                signal.pthread_sigmask(signal.SIG_BLOCK, ())  # lets Python run its handler
            except KeyboardInterrupt:
                raise ImportError("initialization failed") from None

sys.meta_path.insert(0, Interrupted())
from afina.__main__ import main
main()
"""
    command = [sys.executable, "-c", code, "predict", model, "--text", "agua"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_a_signal_that_is_ignored_stays_so() -> None:
    code = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
from afina.interruption import clean_up_when_interrupted, end_when_interrupted
end_when_interrupted()
clean_up_when_interrupted()
print(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_answer_is_written_leaves_nothing_half_written(
    number: signal.Signals, model: str, tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text("text\n" + "agua\n" * 3, encoding="utf-8")
    code = f"""
import os, signal, sys
import afina.runtime.classifier as classifier
signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored where the tests run

def predict(*_):
    os.kill(os.getpid(), {int(number)})
    return []

classifier.Classifier.predict = predict
from afina.__main__ import main
main()
"""
    command = [sys.executable, "-c", code, "predict", model, "--file", "in.csv", "--out", "out.csv"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (128 + number, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_python_m_afina(model: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "afina", "predict"]
    result = subprocess.run([*command, model], input="luz ñ\n".encode(), capture_output=True, check=False)
    assert (result.returncode, result.stdout) == (0, b"luz\t0.576117\n"), result.stderr
    result = subprocess.run([*command, "absent.onnx"], capture_output=True, check=False, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (2, b"afina: error: absent.onnx: no such file\n")


def test_control_c_while_importing_leaves_no_traceback() -> None:
    code = """
import sys

class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == "afina.cli":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
from afina.__main__ import main
main()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize(
    "options", [["--text", "agua"], ["--file", "in.csv"], ["--file", "in.csv", "--out"], []]
)
def test_a_full_disk_is_one_line(model: str, tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "in.csv").write_text("text\nagua\n", encoding="utf-8")
    to_out = options[-1:] == ["--out"]
    command = [sys.executable, "-m", "afina", "predict", model, *options, *(["/dev/full"] if to_out else [])]
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            command,
            input=b"agua\n",
            stdout=None if to_out else full,
            stderr=subprocess.PIPE,
            check=False,
            cwd=tmp_path,
        )
    where = "/dev/full" if to_out else "to stdout"
    expected = (
        f"afina: error: predict: cannot write {where} (No space left on device); check it and run again\n"
    )
    assert (result.returncode, result.stderr.decode()) == (2, expected)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_what_cannot_be_printed_is_no_verdict(tmp_path: Path) -> None:
    """Exit status 1 would be "drifted", or "worse" of `afina compare`."""
    write_toy(tmp_path / "model.onnx")
    rows = "".join(f"Llevo {n} días sin agua,{'agua' if n % 2 else 'luz'}\n" for n in range(20))
    (tmp_path / "in.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    for command in (["inspect", "in.csv"], ["drift", "in.csv", "in.csv", "--model", "model.onnx"]):
        with Path("/dev/full").open("wb") as full:
            result = subprocess.run(
                [sys.executable, "-m", "afina", *command],
                stdout=full,
                stderr=subprocess.PIPE,
                check=False,
                cwd=tmp_path,
            )
        expected = "afina: error: cannot write to stdout (No space left on device); check it and run again\n"
        assert (result.returncode, result.stderr.decode()) == (2, expected), command


def test_a_file_without_access_is_one_line(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from afina import revisions

    (tmp_path / "reports").mkdir()
    path = tmp_path / "reports" / "predictions.parquet"

    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(revisions, "find_root", lambda *_: tmp_path)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(revisions, "_read", lambda *_: b"")
    monkeypatch.setattr(revisions, "parse_predictions", lambda *_: None)
    error = run.error("compare", "--base", "main")
    assert f"{path}: cannot be read or written (Permission denied)" in error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_while_the_answer_is_written_is_one_line(
    run: Run, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("text\nagua\n", encoding="utf-8")

    def replace(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", replace)
    error = run.error("predict", model, "--file", source, "--out", out)
    assert f"predict: cannot write {out} ({os.strerror(number)})" in error
    assert list(tmp_path.iterdir()) == [source]


def test_a_reader_that_went_away_is_no_error(model: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "afina", "predict", model, "--text", "agua"]
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False, cwd=tmp_path)
    os.close(write)
    assert result.stderr == b""


# --------------------------------------------------------------------- what must not be overwritten


def test_out_is_never_the_model_nor_compressed(run: Run, tmp_path: Path) -> None:
    own = write_toy(tmp_path / "model.onnx")
    before = own.read_bytes()
    source = tmp_path / "in.csv"
    source.write_text("text\nagua\n", encoding="utf-8")
    assert "is the model; give another name" in run.error("predict", own, "--file", source, "--out", own)
    assert own.read_bytes() == before
    compressed = tmp_path / "out.csv.gz"
    assert "does not compress" in run.error("predict", own, "--file", source, "--out", compressed)
    assert not compressed.exists()


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_out_may_be_stdout(name: str, model: str, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text\nagua\n", encoding="utf-8")
    answers = tmp_path / "answers.txt"
    answers.write_text("before\n")
    command = [sys.executable, "-m", "afina", "predict", model, "--file", "in.csv", "--out", name]
    with answers.open("a") as stream:
        subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, check=True, cwd=tmp_path)
    assert answers.read_text().startswith("before\ntext,label,")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.txt", "in.csv"]


def test_files_that_are_no_csv_are_said_to_be(run: Run, model: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(gzip.compress(b"text\nagua\n"))
    assert "a.csv: compressed; unpack it first" in run.error("predict", model, "--file", tmp_path / "a.csv")
    (tmp_path / "b.csv").touch()
    assert "b.csv: line 1: expected a header with column names, and the file is empty" in run.error(
        "predict", model, "--file", tmp_path / "b.csv"
    )
    os.mkfifo(tmp_path / "c.csv")
    assert "c.csv: is a pipe or a device" in run.error("predict", model, "--file", tmp_path / "c.csv")
    (tmp_path / "d.csv").write_text("text\nagua\nfría\n", encoding="utf-8")
    said = run.error("predict", model, "--file", tmp_path / "d.csv", "--encoding", "ascii")
    assert "d.csv: line 3 is not ascii; name another --encoding" in said


def test_out_is_never_a_folder(run: Run, model: str, tmp_path: Path) -> None:
    source, folder = tmp_path / "in.csv", tmp_path / "results"
    source.write_text("text\nluz\n", encoding="utf-8")
    folder.mkdir()
    (folder / "kept.txt").touch()
    assert "is a folder" in run.error("predict", model, "--file", source, "--out", folder)
    assert (folder / "kept.txt").is_file()
    error = run.error("predict", model, "--file", source, "--out", source / "out.csv")
    assert f"--out: cannot write {source / 'out.csv'}" in error


def test_out_may_be_a_pipe_or_a_link(run: Run, model: str, tmp_path: Path) -> None:
    source, pipe = tmp_path / "in.csv", tmp_path / "pipe"
    source.write_text("text\nluz\n", encoding="utf-8")
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_text, encoding="utf-8")
        run("predict", model, "--file", source, "--out", pipe)
        assert read.result(10).splitlines()[1] == "luz,luz,0.576117,0.576117,no"
    assert pipe.is_fifo()
    (tmp_path / "elsewhere.csv").touch()
    (tmp_path / "link.csv").symlink_to("elsewhere.csv")
    run("predict", model, "--file", source, "--out", tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink()
    assert read_rows(tmp_path / "elsewhere.csv")[0]["label"] == "luz"


def test_bytes_that_are_no_text(
    run: Run, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = run("predict", model, "--text", os.fsdecode(b"luz \xff"), "--json")
    assert json.loads(out)["text"] == "luz \ufffd"
    pretend_terminal(monkeypatch)
    assert run("predict", model, "--text", os.fsdecode(b"luz \xff")).splitlines()[0] == "luz \ufffd"
    source = tmp_path / "in.csv"
    source.write_text("text\nluz\n", encoding="utf-8")
    assert "not utf-16" in run.error("predict", model, "--file", source, "--encoding", "utf-16")


def test_stdin_in_utf_16(run: Run, model: str) -> None:
    for encoding in ("utf-16", "utf-16-le"):
        out = run("predict", model, "--encoding", encoding, stdin="agua\r\nluz\n".encode(encoding))
        assert [line.split("\t")[0] for line in out.splitlines()] == ["agua", "luz"]
    error = run.error("predict", model, "--encoding", "utf-16-le", stdin="agua".encode("utf-16-le") + b"a")
    assert "stdin: not utf-16-le" in error


def test_stdin_closed(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SystemExit):
        cli.main(["predict", model])
    assert capsys.readouterr().err.startswith("afina: error: predict: stdin is closed")
