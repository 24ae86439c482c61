"""Parquet files in parts of rows."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from afina.errors import UserError
from afina.scoring.storage import Storage

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ModuleNotFoundError as error:
    raise UserError(
        f"score: Parquet needs the package {error.name}; install it with `pip install 'afina[score]'`"
    ) from None

_BATCH = 1024  # rows decoded at a time


def open_parquet(storage: Storage, location: str) -> Any:
    """Open a file.

    Raises:
        UserError: it is not Parquet.
    """
    try:
        return pq.ParquetFile(storage.open(location), pre_buffer=False)
    except pa.ArrowInvalid:
        raise UserError(f"{location}: not a Parquet file, or cut off; write it again") from None


def part_rows(metadata: Any, chunk: int, part_bytes: int) -> int:
    """How many rows of a file make a part: ``chunk``, fewer where rows are large."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    widest = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=0.0)
    return max(1, min(chunk, int(part_bytes / max(widest, 1.0))))


def joined_schema(schemas: Sequence[Any], where: str) -> str:
    """One schema that all files fit, as text.

    Raises:
        UserError: a column has types that do not go together.
    """
    plain = [pa.schema([_plain_field(column) for column in schema]) for schema in schemas]
    try:
        joined = pa.unify_schemas(plain, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{where}: the files do not fit together ({reason[:160]}); score them apart"
        ) from None
    return base64.b64encode(joined.serialize().to_pybytes()).decode()


def schema_of(text: str) -> Any:
    """The schema of `joined_schema`."""
    return pa.ipc.read_schema(pa.BufferReader(base64.b64decode(text)))


def _plain_field(column: Any) -> Any:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return pa.field(column.name, kind)


class ParquetCursor:
    """Rows of one file, read forwards from any of them; only row groups that are needed are read."""

    def __init__(self, storage: Storage, location: str) -> None:
        self._location = location
        self._file = open_parquet(storage, location)
        self._batches: Iterator[Any] = iter(())
        self._rest: Any = None
        self._at = -1

    def read(self, start: int, end: int) -> Any:
        """The rows ``start`` to ``end`` as a table.

        Raises:
            UserError: the file is damaged there.
        """
        try:
            if start != self._at:
                self._seek(start)
            batches = list(self._take(end - start))
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{self._location}: damaged in rows {start + 1:,} to {end:,} ({reason[:160]}); write it again"
            ) from None
        self._at = end
        return pa.Table.from_batches(batches, self._file.schema_arrow)

    def _seek(self, start: int) -> None:
        metadata = self._file.metadata
        group, first = 0, 0
        while first + metadata.row_group(group).num_rows <= start:
            first += metadata.row_group(group).num_rows
            group += 1
        groups = range(group, metadata.num_row_groups)
        self._batches = self._file.iter_batches(batch_size=_BATCH, row_groups=list(groups))
        self._rest = None
        for _ in self._take(start - first):
            pass

    def _take(self, count: int) -> Iterator[Any]:
        while count:
            batch = self._rest if self._rest is not None else next(self._batches)
            taken = batch.slice(0, count)
            self._rest = batch.slice(count) if batch.num_rows > count else None
            count -= taken.num_rows
            yield taken

    def close(self) -> None:
        """Close the file."""
        self._file.close(force=True)


def sound(table: Any, where: str) -> tuple[Any, list[int]]:
    """The table with its strings checked, and the rows that hold bytes that are not UTF-8.

    Raises:
        UserError: such bytes are inside a list or structure.
    """
    bad: set[int] = set()
    for position, name in enumerate(table.column_names):
        column = table.column(position).combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
                raise UserError(
                    f"{where}: column {name!r} holds bytes that are not UTF-8; write it again"
                ) from None
            values = column.cast(pa.large_binary()).to_pylist()
            texts = [_text(value) for value in values]
            bad.update(row for row, value in enumerate(values) if value is not None and texts[row] is None)
            column = pa.array(texts, column.type)
        table = table.set_column(position, name, column)
    return table, sorted(bad)


def _text(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return None


def fitted(table: Any, schema: Any) -> Any:
    """The table with all columns of a schema, in its order and types; absent ones are null."""
    columns = [
        table.column(column.name).cast(column.type)
        if column.name in table.column_names
        else pa.nulls(table.num_rows, column.type)
        for column in schema
    ]
    return pa.table(columns, schema=schema)


def plain_rows(table: Any) -> list[dict[str, Any]]:
    """Rows as values of Python; times as Arrow writes them, which keeps nanoseconds."""
    for position, column in enumerate(table.schema):
        if pa.types.is_temporal(column.type) and not pa.types.is_duration(column.type):
            table = table.set_column(position, column.name, table.column(position).cast(pa.string()))
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def write_table(table: Any) -> bytes:
    """A table as the bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def join_tables(parts: Iterable[Any], schema: Any, target: Any) -> None:
    """Write the tables of part files, one after another, as one file."""
    with pq.ParquetWriter(target, schema) as writer:
        for stream in parts:
            with stream:
                writer.write_table(pq.read_table(stream).cast(schema))
