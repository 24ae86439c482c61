"""MongoDB sources through mongomock, and what pymongo itself says when there is no server."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from afina.errors import UserError
from afina.params.extract import ExtractParams
from afina.sources import Extraction, read_sources

mongomock = pytest.importorskip("mongomock", reason="mongomock is not installed (pip install mongomock)")
pytest.importorskip("pymongo", reason="pymongo is not installed (pip install 'afina[mongo]')")

SECRET = "s3creto-de-verdad"


def extract(root: Path, *sources: dict[str, Any]) -> Extraction:
    return read_sources(ExtractParams.parse({"sources": list(sources)}), root)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("MONGO_URI", f"mongodb://ana:{SECRET}@db.example.org:27017/sistema")
    servers = (("db.example.org", 27017),)
    with mongomock.patch(servers=servers):
        import pymongo

        client = pymongo.MongoClient("mongodb://db.example.org:27017")
        client.sistema.mensajes_2020.insert_many(
            [
                {"_id": 1, "asunto": "Luz", "cuerpo": {"texto": "Sin luz"}, "tema": "corte", "ok": True},
                {"_id": 2, "cuerpo": {"texto": "Factura alta"}, "tema": "cobro", "ok": True},
                {"_id": 3, "cuerpo": {}, "tema": None, "ok": False},
            ]
        )
        when = datetime.datetime(2025, 1, 2, 3, 4, 5)
        client.sistema.mensajes_2025.insert_many(
            [
                {"mensaje": "Gracias", "etiquetas": ["elogio", "cobro"], "fecha": when, "autor": {"id": 7}},
                {"mensaje": "No anda", "etiquetas": ["corte"], "autor": {"id": 8}},
            ]
        )
        yield client


OLD = {
    "url": "${MONGO_URI}",
    "collection": "mensajes_2020",
    "text": ["asunto", "cuerpo.texto"],
    "label": "tema",
    "id": "_id",
}
NEW = {
    "url": "${MONGO_URI}",
    "database": "sistema",
    "collection": "mensajes_2025",
    "text": "mensaje",
    "label": "etiquetas",
    "group": "autor.id",
    "time": "fecha",
}


def test_two_collections_with_different_fields_make_one_table(client: Any, tmp_path: Path) -> None:
    got = extract(tmp_path, OLD, {**NEW, "chunk_size": 1})
    assert got.table["text"].to_pylist() == ["Luz\nSin luz", "Factura alta", "", "Gracias", "No anda"]
    assert got.table["labels"].to_pylist() == [["corte"], ["cobro"], [], ["elogio", "cobro"], ["corte"]]
    assert got.table["id"].to_pylist()[:3] == ["mensajes_2020:1", "mensajes_2020:2", "mensajes_2020:3"]
    assert got.table["group"].to_pylist() == [None, None, None, "7", "8"]
    assert got.table["time"].to_pylist()[3:] == [datetime.datetime(2025, 1, 2, 3, 4, 5), None]
    assert got.describe() == "5 rows from 2 sources (mensajes_2020 3, mensajes_2025 2), 0 rejected"


def test_uuids_are_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pymongo
    from bson import CodecOptions, decode, encode
    from pymongo.mongo_client import MongoClient

    key = uuid.UUID("c0ffee00-dead-4bee-8fee-feedfacef00d")
    stored = encode({"_id": key, "t": "hola", "l": "x"}, codec_options=CodecOptions(uuid_representation=4))

    class Server:
        """What is asked of a client, its database and its collection, with one document in it."""

        def __init__(self, url: str, **options: Any) -> None:
            self.codec = MongoClient(url, connect=False, **options).codec_options

        def get_default_database(self) -> Server:
            return self

        def __getitem__(self, name: str) -> Server:
            return self

        def find(self, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
            return [decode(stored, self.codec)]

        def close(self) -> None:
            pass

    monkeypatch.setattr(pymongo, "MongoClient", Server)
    source = {"collection": "cartas", "text": "t", "label": "l", "id": "_id"}
    plain = {**source, "url": "mongodb://db.example.org/sistema"}
    assert extract(tmp_path, plain).table["id"].to_pylist() == [f"cartas:{key}"]
    chosen = {**source, "url": f"{plain['url']}?uuidRepresentation=unspecified"}
    with pytest.raises(
        UserError, match=r"^cartas: none of the 1 rows .*; name other columns, or leave"
    ) as said:
        extract(tmp_path, chosen)
    assert "inspect" not in str(said.value)


def test_slices_of_documents_that_need_not_have_them(client: Any, tmp_path: Path) -> None:
    got = extract(
        tmp_path,
        {**OLD, "slices": {"subject": "asunto", "open": "ok"}},
        {**NEW, "slices": {"open": "autor.id"}, "chunk_size": 1},
    )
    assert got.table["slices"].to_pylist() == [
        [("open", "true"), ("subject", "Luz")], [("open", "true")], [("open", "false")],
        [("open", "7")], [("open", "8")],
    ]  # fmt: skip
    listed = extract(tmp_path, {**NEW, "slices": {"tags": "etiquetas"}})
    assert listed.table["slices"].to_pylist() == [[("tags", "elogio, cobro")], [("tags", "corte")]]
    with pytest.raises(UserError, match=r"no column 'oficina'; columns: "):
        extract(tmp_path, {**OLD, "slices": ["oficina"]})


def test_filter_projection_and_limit(client: Any, tmp_path: Path) -> None:
    good = extract(tmp_path, {**OLD, "filter": {"ok": True}})
    assert good.table.num_rows == 2
    dated = extract(tmp_path, {**NEW, "filter": {"fecha": {"$gte": {"$date": "2025-01-01T00:00:00Z"}}}})
    assert dated.table["text"].to_pylist() == ["Gracias"]
    by_day = extract(tmp_path, {**NEW, "filter": {"fecha": {"$gte": datetime.date(2025, 1, 1)}}})
    assert by_day.table["text"].to_pylist() == ["Gracias"]
    assert extract(tmp_path, {**OLD, "limit": 1}).table.num_rows == 1
    # With a limit too a field is looked for, and one that later documents have is no mistake.
    with pytest.raises(UserError, match=r"no column 'temas'; did you mean 'tema'\?"):
        extract(tmp_path, {**OLD, "label": "temas", "limit": 1, "chunk_size": 1})
    later = {**OLD, "text": "cuerpo.texto", "group": "asunto", "filter": {"_id": {"$gte": 1}}}
    client.sistema.mensajes_2020.update_one({"_id": 1}, {"$unset": {"asunto": 1}})
    client.sistema.mensajes_2020.update_one({"_id": 3}, {"$set": {"asunto": "Agua"}})
    assert extract(tmp_path, {**later, "limit": 1, "chunk_size": 1}).table.num_rows == 1
    with pytest.raises(UserError, match=r"no column 'asunto'; columns: .*'cuerpo'"):
        extract(tmp_path, {**OLD, "projection": {"cuerpo": 1, "tema": 1}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"collection": "mensages_2020"},
            r"no collection 'mensages_2020' in 'sistema'; did you mean 'mensajes_20",
        ),
        ({"filter": {"ok": 5}}, "no document matches the filter"),
        ({"label": "temas"}, r"no column 'temas'; did you mean 'tema'\?"),
    ],
)
def test_mistakes(client: Any, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        extract(tmp_path, {**OLD, **change})
    assert SECRET not in str(caught.value)


def test_no_server_and_no_secret_in_the_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("afina.sources.mongo._TIMEOUT_MS", 200)
    for uri in (
        f"mongodb://ana:{SECRET}@127.0.0.1:9/sistema",
        f"mongodb://ana:{SECRET}@127.0.0.1:notaport/sistema",
        f"mongodb://ana:{SECRET}/x@127.0.0.1/sistema",
        f"mongodb://127.0.0.1:9/sistema?nonsense={SECRET}&authMechanismProperties={SECRET}",
        f"mongo://ana:{SECRET}@127.0.0.1",
    ):
        monkeypatch.setenv("MONGO_URI", uri)
        with pytest.raises(UserError, match=r"^source mensajes_2020: ") as caught:
            extract(tmp_path, OLD)
        assert SECRET not in str(caught.value), uri
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_a_url_without_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGO_URI", "mongodb://127.0.0.1:9")
    with pytest.raises(UserError, match="the URL names no database; add database:"):
        extract(tmp_path, OLD)


def test_a_missing_driver_gives_the_line_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setenv("MONGO_URI", "mongodb://127.0.0.1:9/x")
    monkeypatch.setitem(sys.modules, "pymongo", None)
    with pytest.raises(UserError, match=r"pip install 'afina\[mongo\]'$"):
        extract(tmp_path, OLD)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(UserError, match=r"pip install 'afina\[sql\]'$"):
        extract(tmp_path, {"url": "sqlite:///x.db", "table": "t", "text": "a", "label": "b"})
