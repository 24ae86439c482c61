"""Parquet files, or folders of them, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from afina.errors import UserError
from afina.params.extract import Source
from afina.sources.chunk import Chunk, Column, check_columns, check_unique, lookup


def read_parquet(source: Source, path: Path, where: str, wanted: Sequence[str] | None) -> Iterator[Chunk]:
    """Chunks of a Parquet file; of a folder, its ``*.parquet`` files in order of name. Rows count from 1.

    Raises:
        UserError: not Parquet, no file in the folder, a missing column, or two columns of one name.
    """
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{where}: no .parquet file in the folder")
    start = 1
    for file in files:
        shown = where if file == path else f"{where}/{file.relative_to(path).as_posix()}"
        try:
            opened = pq.ParquetFile(file)
        except (pa.ArrowInvalid, OSError):
            raise UserError(f"{shown}: not a Parquet file; set format: or write it again") from None
        with opened as parquet:
            schema = parquet.schema_arrow
            names = list(schema.names) if wanted is None else list(wanted)
            roots = {name: name if name in schema.names else name.split(".")[0] for name in names}
            check_columns(
                [name for name in names if not _has(schema, name)], [*_leaves(schema), *schema.names], shown
            )
            check_unique(roots.values(), schema.names, shown, "rename one and write the file again")
            try:
                batches = parquet.iter_batches(
                    batch_size=source.chunk_size, columns=list(dict.fromkeys(roots.values()))
                )
                for batch in batches:
                    rows = list(range(start, start + batch.num_rows))
                    start += batch.num_rows
                    yield Chunk(rows, {name: _column(batch, name, roots[name]) for name in names})
            except (pa.ArrowInvalid, OSError) as error:
                detail = " ".join(str(error).split())
                raise UserError(f"{shown}: damaged Parquet file ({detail}); write it again") from None


def _column(batch: pa.RecordBatch, name: str, root: str) -> Column:
    values = _sound(batch.column(root))
    if name == root:
        return values
    parts = name.split(".")
    plain = values.to_pylist() if isinstance(values, pa.Array) else values
    found = [lookup({root: value}, name, parts) for value in plain]
    return [value if value.__class__ is not object else None for value in found]


def _sound(values: pa.Array) -> Column:
    """The column; as Python values with lone surrogates where strings of it are not UTF-8, as a CSV's are.

    Raises:
        pyarrow.ArrowInvalid: the column is damaged otherwise.
    """
    try:
        values.validate(full=True)  # Arrow itself takes a Parquet string as it is
        return values
    except pa.ArrowInvalid:
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        values = values.cast(_as_bytes(values.type))
        values.validate(full=True)
    return [_decoded(value) for value in values.to_pylist()]


def _as_bytes(kind: pa.DataType) -> pa.DataType:
    """The type with every string in it as bytes."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.binary() if pa.types.is_string(kind) else pa.large_binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        make = pa.list_ if pa.types.is_list(kind) else pa.large_list
        return make(_as_bytes(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_as_bytes(field.type)) for field in kind])
    return kind


def _decoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return {key: _decoded(item) for key, item in value.items()} if isinstance(value, dict) else value


def _has(schema: pa.Schema, name: str) -> bool:
    """Whether a dotted path leads somewhere; list elements, by number, are known only row by row."""
    if name in schema.names:
        return True
    root, *parts = name.split(".")
    if root not in schema.names:
        return False
    kind = schema.field(root).type
    for part in parts:
        while pa.types.is_list(kind) or pa.types.is_large_list(kind):
            kind = kind.value_type
            if part.isdecimal():
                break
        if part.isdecimal():
            continue
        if not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            return False
        kind = kind.field(part).type
    return True


def _leaves(schema: pa.Schema) -> list[str]:
    found = []
    for column in schema:
        if pa.types.is_struct(column.type):
            found += [f"{column.name}.{inner.name}" for inner in column.type]
    return found
