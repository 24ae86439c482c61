"""SQL sources against a real PostgreSQL server, started and stopped by the test."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from afina.errors import UserError
from afina.params.extract import ExtractParams
from afina.sources import Extraction, read_sources

pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed (pip install 'afina[postgres]')")
psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed (pip install 'afina[postgres]')")

PASSWORD = "cl@ve/muy:secreta"
ESCAPED = "cl%40ve%2Fmuy%3Asecreta"


@dataclass(frozen=True)
class Server:
    port: int

    def url(self, password: str = ESCAPED) -> str:
        return f"postgresql://postgres:{password}@127.0.0.1:{self.port}/postgres"


def _binaries() -> Path:
    """The folder of initdb and pg_ctl: on the path, or where Debian puts them."""
    found = shutil.which("pg_ctl")
    folders = [Path(found).parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        if (folder / "initdb").exists():
            return folder
    pytest.skip("no PostgreSQL server here (Debian package postgresql)")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    binaries = _binaries()
    user: dict[str, Any] = {}
    folder = tmp_path_factory.mktemp("postgres")
    if os.geteuid() == 0:  # the server refuses to run as root
        try:
            account = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL does not run as root and there is no user postgres")
        os.chown(folder, account.pw_uid, account.pw_gid)
        for parent in folder.parents[:2]:  # pytest's own folders, closed to other users
            parent.chmod(parent.stat().st_mode | 0o011)
        user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": [], "cwd": folder}

    def call(*command: str) -> None:
        with (folder.parent / "postgres.log").open("ab") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, timeout=120, **user)

    secret = folder / "password"
    secret.write_text(PASSWORD + "\n", encoding="utf-8")
    secret.chmod(0o644)
    data, port = folder / "data", _free_port()
    call(
        str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "-A", "scram-sha-256",
        "--pwfile", str(secret), "-E", "UTF8", "--locale", "C", "--no-sync",
    )  # fmt: skip
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
    call(str(binaries / "pg_ctl"), "-D", str(data), "-w", "-o", options, "-l", str(data / "log"), "start")
    try:
        yield Server(port)
    finally:
        call(str(binaries / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop")


@pytest.fixture(scope="module")
def filled(server: Server) -> Server:
    with psycopg.connect(server.url()) as connection:
        connection.execute(
            "create table mensajes (id bigint primary key, asunto text, cuerpo text, temas text[], "
            "monto numeric(8,2), fecha timestamptz, extra jsonb, uid uuid default gen_random_uuid())"
        )
        connection.execute(
            "insert into mensajes select n, case when n % 3 = 0 then null else 'Asunto ' || n end, "
            "'Año ' || n || ' al 100%', array['t' || n % 4, 'par'], n % 5, "
            "timestamptz '2024-01-01 00:00:00-03' + n * interval '1 hour', "
            "jsonb_build_object('autor', 'a' || n % 10) from generate_series(1, 5000) n"
        )
        connection.execute("create schema viejo")
        connection.execute(
            'create table viejo."Notas Raras" as select cuerpo, monto from mensajes where id < 4'
        )
    return server


def extract(server: Server, monkeypatch: pytest.MonkeyPatch, root: Path, **source: Any) -> Extraction:
    monkeypatch.setenv("AFINA_TEST_DB", server.url())
    values = {"url": "${AFINA_TEST_DB}", "text": "cuerpo", "label": "temas", **source}
    return read_sources(ExtractParams.parse({"sources": [values]}), root)


def test_a_table_in_chunks(filled: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    got = extract(
        filled, monkeypatch, tmp_path,
        table="mensajes", text=["asunto", "cuerpo"], id="id", time="fecha", group="uid", chunk_size=700,
    )  # fmt: skip
    assert got.table.num_rows == 5000
    rows = {row["id"]: row for row in got.table.to_pylist()}
    assert rows["mensajes:3"]["text"] == "Año 3 al 100%"
    assert rows["mensajes:4"]["text"] == "Asunto 4\nAño 4 al 100%"
    assert rows["mensajes:5"]["labels"] == ["t1", "par"]
    assert rows["mensajes:1"]["time"].isoformat() == "2024-01-01T04:00:00"
    assert len(rows["mensajes:1"]["group"]) == 36


def test_a_query_with_percent_colon_and_json(
    filled: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    query = (
        "select id, cuerpo, monto, extra->>'autor' as autor from mensajes "
        "where cuerpo like '%9 al 100%' and ':x' <> '%s' and fecha::date >= '2024-01-01'"
    )
    got = extract(filled, monkeypatch, tmp_path, query=query, label="monto", group="autor", id="id")
    assert got.table.num_rows == 500
    assert set(got.table["labels"].combine_chunks().flatten().to_pylist()) == {"4"}
    assert set(got.table["group"].to_pylist()) == {"a9"}


def test_rows_are_streamed_not_fetched_at_once(
    filled: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The whole result would be a hundred million rows; five of them must come back at once.
    numbers = "with s as (select generate_series(1, 100000000) as n)"
    query = f"{numbers} select 'hola ' || n as cuerpo, array['x'] as temas from s"
    got = extract(filled, monkeypatch, tmp_path, query=query, limit=5, chunk_size=5)
    assert got.table["text"].to_pylist() == [f"hola {number}" for number in range(1, 6)]


def test_a_table_of_another_schema(filled: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    got = extract(filled, monkeypatch, tmp_path, table="viejo.Notas Raras", label="monto", name="viejo")
    assert sorted(got.table["labels"].to_pylist()) == [["1"], ["2"], ["3"]]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"table": "mensaje"}, r"no table 'mensaje'; did you mean 'mensajes'\? tables: mensajes"),
        ({"table": "mensajes", "text": "cuerpos"}, r"no column 'cuerpos'; did you mean 'cuerpo'\?"),
        ({"query": "select nada from mensajes"}, 'column "nada" does not exist'),
        ({"query": "select cuerpo, temas from mensajes where false"}, "no rows"),
        ({"table": "mensajes", "text": "extra"}, r"column extra holds objects"),
    ],
)
def test_mistakes(
    filled: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        extract(filled, monkeypatch, tmp_path, **source)
    assert "\n" not in str(caught.value)
    assert "secreta" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "secret"),
    [
        ("{good}", "otra-clave-mala"),  # the server refuses the password
        ("postgresql://postgres:{secret}@127.0.0.1:9/postgres", "clave-sin-servidor"),
        ("postgresql://postgres:{secret}@127.0.0.1:puerto/postgres", "clave-de-url-mala"),
        ("postgresql+nada://postgres:{secret}@127.0.0.1/postgres", "clave-de-dialecto-malo"),
        ("postgresql://postgres:{secret}@127.0.0.1/postgres", "clave/con@signos"),
        ("postgresql://127.0.0.1:9/postgres?user=postgres&password={secret}", "clave-en-opciones"),
    ],
)
def test_a_failing_connection_shows_no_secret(
    filled: Server, repository: Path, tmp_path: Path, template: str, secret: str
) -> None:
    url = filled.url(secret) if template == "{good}" else template.format(secret=secret)
    sources = [{"url": "${AFINA_TEST_DB}", "table": "mensajes", "text": "cuerpo", "label": "temas"}]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"extract": {"sources": sources}}), encoding="utf-8")
    (tmp_path / ".env").write_text(f"AFINA_TEST_DB='{url}'\n", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "AFINA_TEST_DB"}
    done = subprocess.run(
        [sys.executable, repository / "pipeline" / "extract.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("extract: error: source mensajes: ")
    assert done.stderr.count("\n") == 1
    assert secret not in done.stderr + done.stdout
    assert secret.split("@")[-1] not in done.stderr
    assert not (tmp_path / "data").exists()
