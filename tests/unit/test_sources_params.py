"""The extract section: what is accepted, what is refused and how; secrets and the stage's exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from afina.errors import UserError
from afina.evaluation.slices import slice_columns
from afina.params.extract import EVALUATE_SLICES, ExtractParams, Source
from afina.sources.secrets import environment, expand

BASIC = {"text": "text", "label": "label"}
SECRET = "hunter2-very-secret"


def source(**values: Any) -> Source:
    return ExtractParams.parse({"sources": [values]}).sources[0]


@pytest.mark.parametrize(
    ("path", "kind", "name"),
    [
        ("data/a.csv", "csv", "a"), ("a.TSV", "csv", "a"), ("a.txt", "csv", "a"), ("b.xlsx", "excel", "b"),
        ("a.jsonl", "jsonl", "a"), ("a.ndjson.gz", "jsonl", "a"), ("a.b.json", "json", "a.b"),
        ("a.parquet", "parquet", "a"), ("data/corpus/", "folder", "corpus"),
    ],
)  # fmt: skip
def test_format_and_name_come_from_the_path(path: str, kind: str, name: str) -> None:
    got = source(path=path, **BASIC)
    assert (got.kind, got.label_name) == (kind, name)


def test_columns_may_be_one_several_or_numbers() -> None:
    got = source(path="a.csv", header=False, text=[0, 2], label=1, id=3)
    assert (got.text, got.label, got.id, got.wanted) == (("0", "2"), ("1",), "3", ("0", "2", "1", "3"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"channel": "canal", 2: 0}, {"channel": "canal", "2": "0"}),
        (["canal", "cliente.zona", 3], {"canal": "canal", "cliente.zona": "cliente.zona", "3": "3"}),
        ("canal", {"canal": "canal"}),
        (None, {}),
    ],
)
def test_slices_are_columns_with_or_without_a_name_of_their_own(given: Any, expected: dict[str, str]) -> None:
    got = source(path="a.csv", slices=given, **BASIC)
    assert got.slices == expected
    assert got.wanted == ("text", "label", *expected.values())


def test_a_column_may_be_a_slice_and_something_else() -> None:
    got = source(path="a.csv", group="office", slices={"office": "office", "topic": "label"}, **BASIC)
    assert got.wanted == ("text", "label", "office")


def test_the_names_that_evaluate_gives_are_the_ones_that_are_taken() -> None:
    assert set(slice_columns([], [], [], [], 8)) == set(EVALUATE_SLICES)


def test_tsv_is_csv_with_tabs() -> None:
    got = source(path="a.dat", format="tsv", **BASIC)
    assert (got.kind, got.delimiter) == ("csv", "\t")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"path": "a.csv", "txt": "a", "label": "b"}, "unknown parameter 'txt'; did you mean 'text'?"),
        ({"path": "a.csv", "label": "b"}, "text is missing"),
        ({"path": "a.csv", "text": "b"}, "label is missing"),
        ({"path": "a.csv", "url": "sqlite:///a", **BASIC}, "exactly one of path and url"),
        (BASIC, "exactly one of path and url"),
        ({"path": "a.docx", **BASIC}, "cannot tell the format of 'a.docx'"),
        ({"path": "a.csv", "sheet": 1, **BASIC}, "sheet does not apply to format csv, only to excel"),
        ({"path": "a.csv", "query": "select 1", **BASIC}, "query does not apply to format csv, only to sql"),
        ({"path": "a.xlsx", "delimiter": ";", **BASIC}, "delimiter does not apply to format excel"),
        ({"url": "sqlite:///a.db", **BASIC}, "exactly one of query and table"),
        ({"url": "sqlite:///a.db", "table": "t", "query": "q", **BASIC}, "exactly one of query and table"),
        ({"url": "mongodb://h/d", **BASIC}, "a MongoDB source needs collection"),
        ({"url": "https://h/a.csv", **BASIC}, "download the file"),
        ({"path": "sqlite:///a.db", **BASIC}, "use url for a database"),
        ({"path": "a.csv", "format": "mongo", "collection": "c", **BASIC}, "format mongo needs a url"),
        ({"path": "a.csv", "split": "s", "split_as": "test", **BASIC}, "not both"),
        ({"path": "a.csv", "text": "t", "label": "l", "label_columns": ["a"]}, "not both"),
        ({"path": "a.csv", "text": ["t", "u"], "label": "u"}, "'u' is both text and label"),
        ({"path": "a.csv", "columns": ["text", "label"], **BASIC}, "add header: false"),
        ({"path": "a.csv", "encoding": "utf-99", **BASIC}, "unknown encoding"),
        ({"path": "a.csv", "delimiter": ";;", **BASIC}, "delimiter"),
        ({"path": "a.csv", "limit": 0, **BASIC}, "limit"),
        ({"path": "a.csv", "split_as": "dev", **BASIC}, "split_as"),
        ({"path": "a.csv", "name": "a:b", **BASIC}, "a name may hold no colon"),
        (
            {"path": "a.csv", "slices": {"region": "r", "month": "m"}, **BASIC},
            "evaluate makes the slice 'month' itself; give yours another name, as {my_month: m}",
        ),
        ({"path": "a.csv", "slices": ["source"], **BASIC}, "as {my_source: source}"),
        ({"path": "a.csv", "slices": "length", **BASIC}, "evaluate makes the slice 'length' itself"),
        ({"path": "a.csv", "slices": {"truncated": "t"}, **BASIC}, "evaluate makes the slice 'truncated'"),
        ({"path": "a.csv", "slices": {"a": ["x", "y"]}, **BASIC}, "slices.a"),
        ({"path": "a.csv", "slices": [["x"]], **BASIC}, "slices"),
        ({"path": "a.csv", "slices": {"": "x"}, **BASIC}, "slices"),
        ({"path": "a.csv", "slices": {"a": ""}, **BASIC}, "slices.a"),
        ("a.csv", "expected a mapping"),
    ],
)
def test_a_wrong_source_is_one_line_that_names_the_key(values: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        ExtractParams.parse({"sources": [values]})
    text = str(caught.value)
    assert message in text
    assert text.startswith("params.yaml: extract")
    assert "\n" not in text


def test_two_sources_need_two_names() -> None:
    twice = [{"path": "a/m.csv", **BASIC}, {"path": "b/m.csv", **BASIC}]
    with pytest.raises(UserError, match="two sources are called 'm'"):
        ExtractParams.parse({"sources": twice})
    assert len(ExtractParams.parse({"sources": [twice[0], {**twice[1], "name": "n"}]}).sources) == 2


def test_there_must_be_a_source() -> None:
    for values in ({}, {"sources": []}):
        with pytest.raises(UserError, match=r"extract\.sources"):
            ExtractParams.parse(values)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ana:{SECRET}@host/db",
        f"mongodb+srv://ana:{SECRET}@host/db",
        f"mysql+pymysql://ana:x{SECRET}@host/db?charset=utf8",
        f"postgresql://host/db?user=ana&password={SECRET}",
        f"mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3D{SECRET}",
        f"postgresql://ana:${{A}}{SECRET}@host/db",
    ],
)
@pytest.mark.parametrize("key", ["url", "path"])
def test_a_password_in_the_parameters_is_refused_and_not_shown(url: str, key: str) -> None:
    with pytest.raises(UserError, match=r"holds a password; write \$\{NAME\}") as caught:
        source(**{key: url}, table="t", **BASIC)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["${DB_URL}", "postgresql://ana:${DB_PASSWORD}@host/db", "postgresql://host/db"]
)
def test_a_url_without_a_literal_password_is_fine(url: str) -> None:
    assert source(url=url, table="t", **BASIC).url == url


def test_expansion_names_an_unset_variable_and_scrubs_every_part() -> None:
    with pytest.raises(UserError, match="the environment variable DB_PASSWORD is not set"):
        expand("postgresql://ana:${DB_PASSWORD}@h/db", {"DB_PASSWORD": ""}, "source x")
    url = expand("postgresql://ana:${DB_PASSWORD}@h/db", {"DB_PASSWORD": "p%40ss%2Fw"}, "source x")
    assert url.value == "postgresql://ana:p%40ss%2Fw@h/db"
    for leak in (url.value, "password is p@ss/w", "p%40ss%2Fw", "postgresql+x://ana:p%40ss%2Fw@h/db?a=1"):
        clean = url.scrub(f"could not\nconnect: {leak}")
        assert "p%40ss" not in clean
        assert "p@ss" not in clean
        assert "\n" not in clean
    assert "p%40ss" not in repr(url)


@pytest.mark.parametrize("password", ["p@ss", "a/b@c", "p?x", "p#x", "a/b"])
def test_an_unescaped_password_is_refused_before_a_driver_takes_its_end_for_a_host(password: str) -> None:
    with pytest.raises(UserError, match="must be escaped") as caught:
        expand("postgresql://ana:${P}@h/db", {"P": password}, "source x")
    assert password not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["postgresql://h:5432/db?user=a@b", "postgresql://a:b%40@h/db", "mongodb://h,i:1/d"]
)
def test_sound_urls_are_not_refused(url: str) -> None:
    assert expand("${U}", {"U": url}, "source x").value == url


def test_dotenv_is_read_and_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("AFINA_A=from-file\nAFINA_B=from-file\n")
    monkeypatch.setenv("AFINA_B", "from-environment")
    monkeypatch.delenv("AFINA_A", raising=False)
    variables = environment(tmp_path)
    assert (variables["AFINA_A"], variables["AFINA_B"]) == ("from-file", "from-environment")
    assert "AFINA_A" not in os.environ


def test_dotenv_in_another_encoding_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("AFINA_A=señal\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"\.env: not UTF-8; save it in that encoding"):
        environment(tmp_path)


def run_stage(
    root: Path, repository: Path, extract: Any, **variables: str
) -> subprocess.CompletedProcess[str]:
    (root / "params.yaml").write_text(yaml.safe_dump({"extract": extract}), encoding="utf-8")
    return subprocess.run(
        [sys.executable, repository / "pipeline" / "extract.py"],
        cwd=root, env={**os.environ, **variables}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_the_stage_writes_both_tables_and_says_so(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "m.csv").write_text("text,label\nhola,x\nbad\nadiós,y\n", encoding="utf-8")
    done = run_stage(tmp_path, repository, {"sources": [{"path": "m.csv", **BASIC}]})
    assert done.returncode == 0, done.stderr
    line = "extract: 2 rows from 1 source (m 2), 1 rejected -> data/raw/rejected.csv ("
    assert done.stdout.startswith(line)
    first = (tmp_path / "data/raw/messages.parquet").read_bytes()
    assert (tmp_path / "data/raw/rejected.csv").read_text(encoding="utf-8").splitlines()[1] == (
        ',"m",3,"1 columns instead of 2","bad"'
    )
    run_stage(tmp_path, repository, {"sources": [{"path": "m.csv", **BASIC}]})
    assert (tmp_path / "data/raw/messages.parquet").read_bytes() == first


@pytest.mark.parametrize(
    "extract",
    [
        {"sources": [{"path": "gone.csv", **BASIC}]},
        {"sources": [{"path": "m.csv", "text": "nope", "label": "label"}]},
        {"sources": [{"path": "empty.csv", **BASIC}]},
        {"sources": [{"url": "${DB_URL}", "table": "t", **BASIC}]},
        {"sources": [{"url": f"postgresql://ana:{SECRET}@127.0.0.1:9/db", "table": "t", **BASIC}]},
        {"sources": [{"url": "${DB_URL}", "collection": "t", **BASIC}], "source": 1},
    ],
)
def test_a_mistake_is_exit_code_2_one_line_and_nothing_written(
    tmp_path: Path, repository: Path, extract: Any
) -> None:
    (tmp_path / "m.csv").write_text("text,label\nhola,x\n", encoding="utf-8")
    (tmp_path / "empty.csv").touch()
    done = run_stage(tmp_path, repository, extract, DB_URL=f"sqlite:///nowhere.db?password={SECRET}")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("extract: error: ")
    assert done.stderr.count("\n") == 1
    assert SECRET not in done.stderr
    assert not (tmp_path / "data").exists()
