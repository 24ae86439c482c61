"""Parquet files in parts of rows."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
_LEAST_BATCH = 32  # of them where a row may be as large as all that is stored of its column
_BATCH_BYTES = 32 << 20
_BUFFER = 1 << 20  # bytes of a column read at a time; without it all that a row group has of the column


def open_parquet(storage: Storage, location: str) -> Any:
    """Open a file.

    Raises:
        UserError: it is not Parquet.
    """
    try:
        return pq.ParquetFile(storage.open(location), buffer_size=_BUFFER, pre_buffer=False)
    except pa.ArrowInvalid:
        raise UserError(f"{location}: not a Parquet file, or cut off; write it again") from None


# Bytes of a value that may be stored in less, where all of a type take the same.
_WIDTHS = {"INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8}
# Encodings that store once what texts have in common.
_SHARING = {"PLAIN_DICTIONARY", "RLE_DICTIONARY", "DELTA_BYTE_ARRAY"}


def part_ranges(file: Any, location: str, chunk: int, part_bytes: int) -> Iterator[tuple[int, int]]:
    """The parts of an open file, as rows from and to: of ``chunk``, fewer where rows are large when decoded.

    Raises:
        UserError: the file is damaged.
    """
    metadata = file.metadata
    size = min(chunk, _rows_within(metadata, part_bytes))
    shared, most = _shared(metadata)
    flat = not any(metadata.schema.column(at).max_repetition_level for at in shared)
    if not shared or (flat and size * most <= part_bytes):
        for start in range(0, metadata.num_rows, size):
            yield start, min(start + size, metadata.num_rows)
        return
    # What is stored once says nothing of how large the rows are that repeat it.
    paths = [metadata.schema.column(at).path for at in shared]
    try:
        batches = file.iter_batches(batch_size=_batch_rows(most), columns=paths)
        yield from _measured(batches, size, part_bytes)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{location}: damaged ({reason[:160]}); write it again") from None


def _rows_within(metadata: Any, part_bytes: int) -> int:
    """How many rows of the widest row group fit, but for what their texts have in common."""
    widest = 1.0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        columns = [group.column(at) for at in range(group.num_columns)]
        size = sum(
            max(one.total_uncompressed_size, one.num_values * _WIDTHS.get(one.physical_type, 0))
            for one in columns
        )
        widest = max(widest, max(size, group.total_byte_size) / max(group.num_rows, 1))
    return max(1, int(part_bytes / widest))


def _shared(metadata: Any) -> tuple[list[int], int]:
    """Columns whose texts may be stored once for many rows, and most bytes that a row group has of them."""
    shared: set[int] = set()
    most = 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        columns = [(at, group.column(at)) for at in range(group.num_columns)]
        found = {
            at: one.total_uncompressed_size
            for at, one in columns
            if one.physical_type not in (*_WIDTHS, "BOOLEAN") and not _SHARING.isdisjoint(one.encodings)
        }
        shared.update(found)
        most = max(most, sum(found.values()))
    return sorted(shared), most


def _batch_rows(most: int) -> int:
    """How many rows to decode at a time: a text may be as long as all that is stored of its column."""
    return max(_LEAST_BATCH, min(_BATCH, _BATCH_BYTES // max(most, 1)))


def _measured(batches: Iterable[Any], chunk: int, part_bytes: int) -> Iterator[tuple[int, int]]:
    start = rows = size = 0
    for batch in batches:
        while batch.num_rows:
            piece, taken = _piece(batch.slice(0, chunk - rows), part_bytes)
            if rows and size + taken > part_bytes:
                yield start, start + rows
                start, rows, size = start + rows, 0, 0
            rows, size = rows + piece, size + taken
            batch = batch.slice(piece)
            if rows == chunk:
                yield start, start + rows
                start, rows, size = start + rows, 0, 0
    if rows:
        yield start, start + rows


def _piece(batch: Any, part_bytes: int) -> tuple[int, int]:
    """How many of the rows of a batch fit, by halves, one at least; and their bytes when decoded."""
    while (size := sum(map(_decoded_bytes, batch.columns))) > part_bytes and batch.num_rows > 1:
        batch = batch.slice(0, batch.num_rows // 2)
    return batch.num_rows, size


def _decoded_bytes(column: Any) -> int:
    return int((column.dictionary_decode() if pa.types.is_dictionary(column.type) else column).nbytes)


def plain_schema(schema: Any, partitions: Iterable[tuple[str, str]]) -> Any:
    """The columns of a file as they are written; folders are columns of text where it has none so named."""
    fields = [pa.field(column.name, _plain(column.type)) for column in schema]
    fields += [pa.field(name, pa.string()) for name in dict(partitions) if name not in schema.names]
    return pa.schema(fields)


def joined_schema(storage: Storage, files: Iterable[tuple[str, Any]]) -> str:
    """One schema that files of such a `plain_schema` fit without loss, as text.

    Raises:
        UserError: a column has types that do not go together.
    """
    alike: dict[Any, list[str]] = {}
    for location, schema in files:
        alike.setdefault(schema, []).append(location)
    kinds: dict[str, dict[Any, list[str]]] = {}
    for schema, locations in alike.items():
        for column in schema:
            kinds.setdefault(column.name, {}).setdefault(column.type, []).extend(locations)
    joined = pa.schema([pa.field(name, _joined_type(storage, name, found)) for name, found in kinds.items()])
    return base64.b64encode(joined.serialize().to_pybytes()).decode()


def _joined_type(storage: Storage, name: str, found: Mapping[Any, Sequence[str]]) -> Any:
    """The type of a column of those that it has in files: a wider one, or text where one loses something."""
    first, *others = found
    if not others:
        return first
    try:
        schemas = [pa.schema([pa.field(name, kind)]) for kind in found]
        joined = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        joined = None
    if joined is not None and all(_fits(storage, name, kind, joined, found[kind]) for kind in found):
        return joined
    if all(_is_simple(kind) for kind in found) and (joined is None or not pa.types.is_temporal(joined)):
        return pa.string()
    other = others[0]
    raise UserError(
        f"{found[other][0]}: column {name!r}: {other} does not go with the {first} of {found[first][0]}; "
        "score them apart"
    )


def _is_simple(kind: Any) -> bool:
    """Whether values of a type are well known as text."""
    types = pa.types
    if types.is_duration(kind):
        return False
    tests = (types.is_null, types.is_boolean, types.is_integer, types.is_floating, types.is_decimal)
    return any(test(kind) for test in (*tests, types.is_temporal, types.is_string, types.is_large_string))


def _fits(storage: Storage, name: str, kind: Any, joined: Any, files: Iterable[str]) -> bool:
    """Whether a column of these files keeps its values in another type, as far as can be told beforehand."""
    if kind == joined:
        return True
    if pa.types.is_decimal(kind) and pa.types.is_floating(joined):
        return False
    if not _casts([], kind, kind, joined):
        return False
    whole = pa.types.is_integer(kind)
    if whole and _casts(_bounds(kind), kind, kind, joined):
        return True
    if not whole and not pa.types.is_temporal(kind):
        return True
    stored = pa.int32() if kind.bit_width <= 32 else pa.int64()
    for location in files:
        extremes = _extremes(storage, location, name)
        if extremes is None and whole:
            return False
        if extremes is not None and not _casts(extremes, stored, kind, joined):
            return False
    return True


def _bounds(kind: Any) -> list[int]:
    bits = kind.bit_width
    return (
        [-(1 << bits - 1), (1 << bits - 1) - 1] if pa.types.is_signed_integer(kind) else [0, (1 << bits) - 1]
    )


def _casts(values: Sequence[int], stored: Any, kind: Any, joined: Any) -> bool:
    try:
        array = pa.array(values, stored)
        (array if stored == kind else array.view(kind)).cast(joined)
    except pa.ArrowException:
        return False
    return True


def _extremes(storage: Storage, location: str, name: str) -> list[int] | None:
    """Least and greatest values of a column as they are stored; None where the file does not say."""
    found: list[int] = []
    with open_parquet(storage, location) as opened:
        metadata = opened.metadata
        places = [at for at in range(metadata.num_columns) if metadata.schema.column(at).path == name]
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            statistics = group.column(places[0]).statistics if len(places) == 1 else None
            if statistics is None or not (statistics.has_min_max or statistics.null_count == group.num_rows):
                return None
            if statistics.has_min_max:
                found += [statistics.min_raw, statistics.max_raw]
    return found if all(isinstance(value, int) for value in found) else None


def schema_of(text: str) -> Any:
    """The schema of `joined_schema`."""
    return pa.ipc.read_schema(pa.BufferReader(base64.b64decode(text)))


def _plain(kind: Any) -> Any:
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(kind) else kind


class ParquetCursor:
    """Rows of one file, read forwards from any of them; only row groups that are needed are read."""

    def __init__(self, storage: Storage, location: str) -> None:
        self._location = location
        self._file = open_parquet(storage, location)
        self._batch = _batch_rows(_shared(self._file.metadata)[1])
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
        self._batches = self._file.iter_batches(batch_size=self._batch, row_groups=list(groups))
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
        if pa.types.is_string_view(column.type):
            column = column.cast(pa.string())  # not checked yet
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


def taken(table: Any, rows: Sequence[int]) -> Any:
    """Some rows of a table."""
    try:
        return table.take(pa.array(rows, pa.int64()))
    except pa.ArrowNotImplementedError:  # string_view and its like
        return pa.concat_tables([table.slice(0, 0), *(table.slice(row, 1) for row in rows)])


def fitted(table: Any, schema: Any, where: str) -> Any:
    """The table with all columns of a schema, in its order and types; absent ones are null.

    Raises:
        UserError: values of a column do not fit.
    """
    columns = []
    for column in schema:
        if column.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, column.type))
            continue
        try:
            columns.append(table.column(column.name).cast(column.type))
        except pa.ArrowException as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{where}: column {column.name!r}: does not fit the {column.type} of all files "
                f"({reason[:160]}); score it apart"
            ) from None
    return pa.table(columns, schema=schema)


def plain_rows(table: Any, where: str) -> list[dict[str, Any]]:
    """Rows as values of Python; times as Arrow writes them, which keeps nanoseconds, durations as Python.

    Raises:
        UserError: values of a column cannot be written.
    """
    names = table.column_names
    columns = [_plain_values(table.column(at), where, name) for at, name in enumerate(names)]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def values_of(column: Any, where: str, name: str) -> list[Any]:
    """A column as values of Python; those that Python or pandas do not have as `plain_rows` writes them.

    Raises:
        UserError: they cannot be written.
    """
    try:
        return column.to_pylist()  # type: ignore[no-any-return]
    except (ValueError, OverflowError, LookupError):
        if pa.types.is_temporal(column.type):
            return column.cast(pa.int64()).to_pylist()  # type: ignore[no-any-return]  # no text either way
        return _plain_values(column, where, name)


def _plain_values(column: Any, where: str, name: str) -> list[Any]:
    kind = column.type
    try:
        simple = _without_times(kind)
        if simple == kind:
            return column.to_pylist()  # type: ignore[no-any-return]
        return [_in_words(value, kind) for value in column.cast(simple).to_pylist()]
    except (pa.ArrowException, ValueError, OverflowError, LookupError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{where}: column {name!r}: {str(kind)[:80]} cannot be written as text ({reason[:160]}); "
            "give it another type, or write Parquet"
        ) from None


def _without_times(kind: Any) -> Any:
    """A type with text instead of points in time and numbers instead of durations, in lists and the like too.

    Python has no values for all of them, and without pandas none for nanoseconds.
    """
    types = pa.types
    if types.is_duration(kind):
        return pa.int64()
    if types.is_temporal(kind):
        return pa.string()
    if types.is_struct(kind):
        return pa.struct([field.with_type(_without_times(field.type)) for field in kind])
    if types.is_map(kind):
        return pa.map_(
            *(field.with_type(_without_times(field.type)) for field in (kind.key_field, kind.item_field))
        )
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        field = kind.value_field.with_type(_without_times(kind.value_type))
        if types.is_large_list(kind):
            return pa.large_list(field)
        return pa.list_(field, kind.list_size) if types.is_fixed_size_list(kind) else pa.list_(field)
    return kind


def _in_words(value: Any, kind: Any) -> Any:
    """A value of `_without_times` with durations as text."""
    if value is None:
        return None
    if pa.types.is_duration(kind):
        return _duration_text(value, kind.unit)
    if pa.types.is_struct(kind):
        return {field.name: _in_words(value[field.name], field.type) for field in kind}
    if pa.types.is_map(kind):
        return [(_in_words(key, kind.key_type), _in_words(item, kind.item_type)) for key, item in value]
    if isinstance(value, list):
        return [_in_words(item, kind.value_type) for item in value]
    return value


def _duration_text(value: int, unit: str) -> str:
    """As `timedelta`, but of any length and with nanoseconds."""
    second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    seconds, rest = divmod(value, second)
    minutes, seconds = divmod(seconds, 60)
    days, minutes = divmod(minutes, 24 * 60)
    text = f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
    if nanoseconds := rest * (10**9 // second):
        text += f".{nanoseconds:09}" if nanoseconds % 1000 else f".{nanoseconds // 1000:06}"
    return f"{days} day{'' if abs(days) == 1 else 's'}, {text}" if days else text


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
