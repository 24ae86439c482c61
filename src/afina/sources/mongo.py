"""MongoDB collections through pymongo."""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from afina.errors import UserError
from afina.params.extract import Source
from afina.sources.chunk import Chunk, document_chunks, flat_keys
from afina.sources.secrets import SecretUrl

_TIMEOUT_MS = 10_000
_SAMPLE = 50  # documents whose fields are told when a wanted one is missing


def read_mongo(source: Source, url: SecretUrl, where: str, wanted: Sequence[str] | None) -> Iterator[Chunk]:
    """Chunks of a collection's documents, the mapped fields alone unless ``projection`` says otherwise.

    Documents need not have the same fields; they are numbered from 1. No message shows the URL or a password.

    Raises:
        UserError: pymongo is missing, no connection, no such collection, or a field that is in no document.
    """
    try:
        import pymongo
    except ModuleNotFoundError:
        raise UserError(f"{where}: pymongo is not installed; pip install 'afina[mongo]'") from None
    client: Any = None
    try:
        client = pymongo.MongoClient(
            url.value, serverSelectionTimeoutMS=_TIMEOUT_MS, tz_aware=False, **_uuids(url.value)
        )
        database = _database(client, source, where)
        collection = database[source.collection]
        first = collection.find(_filter(source.filter), source.projection, limit=_SAMPLE)
        known = {path: None for document in first for path in flat_keys(document)}
        cursor = collection.find(
            _filter(source.filter), _projection(source, wanted), batch_size=source.chunk_size
        )
        empty = True
        documents = enumerate(cursor, start=1)
        for chunk in document_chunks(documents, wanted, where, source.chunk_size, known, source.limit):
            empty = False
            yield chunk
        if empty:
            _explain_nothing(database, source, where)
    except UserError:
        raise
    except Exception as error:
        # Whatever the driver raises, its text must not reach the screen unscrubbed.
        text = url.scrub(str(error)).split(", Timeout:")[0].split(", full error:")[0]
        raise UserError(
            f"{where}: {text[:300]}; check the filter, the URL's variable, and that the server runs"
        ) from None
    finally:
        if client is not None:
            client.close()


def _uuids(url: str) -> dict[str, Any]:
    """Of UUIDs pymongo gives the bytes, which are no text, unless it is told how they are stored."""
    return {} if "uuidrepresentation=" in url.lower() else {"uuidRepresentation": "standard"}


def _database(client: Any, source: Source, where: str) -> Any:
    if source.database is not None:
        return client[source.database]
    from pymongo.errors import ConfigurationError

    try:
        return client.get_default_database()
    except ConfigurationError:
        raise UserError(f"{where}: the URL names no database; add database:") from None


def _projection(source: Source, wanted: Sequence[str] | None) -> dict[str, Any] | None:
    if source.projection is not None:
        return source.projection
    if wanted is None:
        return None
    # Whole top-level fields: list elements by number cannot be projected.
    projection: dict[str, Any] = {name.split(".")[0]: 1 for name in wanted}
    return projection if "_id" in projection else {**projection, "_id": 0}


def _filter(value: dict[str, Any] | None) -> dict[str, Any]:
    """The filter as pymongo wants it: extended JSON resolved, YAML dates as datetimes."""
    if not value:
        return {}
    from bson import json_util

    def plain(item: Any) -> Any:
        if isinstance(item, Mapping):
            converted = {key: plain(inner) for key, inner in item.items()}
            return json_util.object_hook(converted, options) if _is_extended(converted) else converted
        if isinstance(item, list):
            return [plain(inner) for inner in item]
        if isinstance(item, datetime.date) and not isinstance(item, datetime.datetime):
            return datetime.datetime(item.year, item.month, item.day)
        return item

    options = json_util.JSONOptions(tz_aware=False)
    return {key: plain(item) for key, item in value.items()}


def _is_extended(value: Mapping[str, Any]) -> bool:
    return any(
        key in value for key in ("$oid", "$date", "$numberLong", "$numberInt", "$numberDouble", "$uuid")
    )


def _explain_nothing(database: Any, source: Source, where: str) -> None:
    known = sorted(database.list_collection_names())
    if source.collection in known:
        cause = "no document matches the filter" if source.filter else "the collection is empty"
        raise UserError(f"{where}: {cause}")
    near = difflib.get_close_matches(str(source.collection), known, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise UserError(
        f"{where}: no collection '{source.collection}' in '{database.name}'; {hint}"
        f"collections: {', '.join(known[:30]) or 'none'}"
    )
