"""JSON Lines and JSON: objects whose nested fields are reached by dotted paths."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from afina.encodings import check_is_text, open_text, resolve_encoding
from afina.errors import UserError
from afina.params.extract import Source
from afina.sources.chunk import Chunk, Rejects, document_chunks, lookup


def read_json_lines(
    source: Source, path: Path, where: str, wanted: Sequence[str] | None, rejects: Rejects
) -> Iterator[Chunk]:
    """Chunks of a JSON Lines file; a line that is not a JSON object is rejected with its number.

    Raises:
        UserError: the file is empty, in another encoding, compressed and damaged, or a column is in no row.
    """
    encoding = _encoding(source, path, where)

    def documents() -> Iterator[tuple[int, Mapping[str, Any]]]:
        with open_text(path, encoding, where, newline="\n") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError) as error:
                    reason = _unreadable(error)
                    rejects.add(number, f"not valid JSON: {reason}", line.strip())
                    continue
                if not isinstance(value, Mapping):
                    rejects.add(number, "not a JSON object", line.strip())
                    continue
                yield number, value

    yield from document_chunks(documents(), wanted, where, limit=source.limit)


def read_json(
    source: Source, path: Path, where: str, wanted: Sequence[str] | None, rejects: Rejects
) -> Iterator[Chunk]:
    """Chunks of a JSON file: a list of objects, at the top or at the dotted path ``records``.

    An object at the top with exactly one list of objects in it needs no ``records``. Rows count from 1.

    Raises:
        UserError: the file is empty, not JSON, in another encoding, compressed and damaged, holds no list of
            objects, or a column is in no row.
    """
    encoding = _encoding(source, path, where)
    with open_text(path, encoding, where, newline="\n") as stream:
        try:
            value = json.load(stream)
        except json.JSONDecodeError as error:
            lines = error.msg == "Extra data" and error.lineno == 2
            hint = "set format: jsonl" if lines else "correct the file"
            raise UserError(f"{where}: line {error.lineno}: not valid JSON ({error.msg}); {hint}") from None
        except UnicodeError:
            raise
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: {_unreadable(error)}; correct the file") from None

    def documents() -> Iterator[tuple[int, Mapping[str, Any]]]:
        for number, item in enumerate(_records(value, source.records, where), start=1):
            if isinstance(item, Mapping):
                yield number, item
            else:
                rejects.add(number, "not a JSON object", json.dumps(item, ensure_ascii=False))

    yield from document_chunks(documents(), wanted, where, limit=source.limit)


def _unreadable(error: ValueError | RecursionError) -> str:
    """What is wrong with JSON that cannot be read; Python refuses whole numbers of thousands of digits."""
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "nested too deeply" if isinstance(error, RecursionError) else "a number with too many digits"


def _encoding(source: Source, path: Path, where: str) -> str:
    if path.stat().st_size == 0:
        raise UserError(f"{where}: the file is empty; put rows in it or remove the source")
    check_is_text(path, source.encoding, where)
    return resolve_encoding(path, source.encoding, where)


def _records(value: Any, records: str | None, where: str) -> list[Any]:
    if records is not None:
        found = lookup(value, records, records.split(".")) if isinstance(value, Mapping) else None
        if isinstance(found, list):
            return found
        raise UserError(f"{where}: records: no list at '{records}'{_lists(value)}")
    if isinstance(value, list):
        return value
    if isinstance(value, Mapping):
        candidates = [item for item in value.values() if isinstance(item, list) and item]
        candidates = [item for item in candidates if all(isinstance(row, Mapping) for row in item)]
        if len(candidates) == 1:
            return candidates[0]
    raise UserError(f"{where}: not a list of objects; say where it is with records:{_lists(value)}")


def _lists(value: Any) -> str:
    """Where lists are, two levels down, for a message."""
    found = []
    if isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(item, list):
                found.append(str(key))
            elif isinstance(item, Mapping):
                found += [f"{key}.{inner}" for inner, deep in item.items() if isinstance(deep, list)]
    return f"; lists in the file: {', '.join(found[:10])}" if found else "; the file holds no such list"
