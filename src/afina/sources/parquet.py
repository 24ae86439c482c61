"""Parquet files, or folders of them, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from afina.errors import UserError
from afina.params.extract import Source
from afina.sources.chunk import Chunk, Column, check_columns, lookup


def read_parquet(source: Source, path: Path, where: str, wanted: Sequence[str] | None) -> Iterator[Chunk]:
    """Chunks of a Parquet file; of a folder, its ``*.parquet`` files in order of name. Rows count from 1.

    Raises:
        UserError: not Parquet, no file in the folder, or a missing column.
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
    values = batch.column(root)
    if name == root:
        return values
    parts = name.split(".")
    found = [lookup({root: value}, name, parts) for value in values.to_pylist()]
    return [value if value.__class__ is not object else None for value in found]


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
