"""The one table that all stages pass on: its columns, reading and writing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from afina.errors import UserError
from afina.files import atomic_path

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # stable: the source's own, else a content hash
        pa.field("source", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("labels", pa.list_(pa.string()), nullable=False),  # one: multiclass; any number: multilabel
        pa.field("group", pa.string()),  # rows of one group never straddle two splits (split.method: group)
        pa.field("time", pa.timestamp("us")),  # UTC
        pa.field("split", pa.string()),  # train | validation | test where the source gives it
        pa.field("slices", pa.map_(pa.string(), pa.string())),  # name -> value, sorted; for evaluate
    ]
)
BALANCED_SCHEMA = SCHEMA.append(pa.field("weight", pa.float64(), nullable=False))

REJECTED = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("source", pa.string()),
        pa.field("row", pa.int64()),  # line or row number in the source, 1 = first line of the file
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string()),
    ]
)


def read(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table written by `write`.

    Raises:
        UserError: the file is missing or is not Parquet.
    """
    try:
        return pq.read_table(path, columns=list(columns) if columns else None)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `dvc repro` to make it") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: not a Parquet file ({error}); run `dvc repro -f`") from None


def read_texts(path: Path, ids: Sequence[str]) -> list[str]:
    """The texts of the rows with these ids, in their order.

    Raises:
        UserError: an id is not in the table.
    """
    rows = read(path, ["id", "text"])
    places = pc.index_in(pa.array(ids, pa.string()), value_set=rows["id"])
    if places.null_count:
        missing = ids[places.is_null().index(True).as_py()]
        raise UserError(f"{path}: no row with id {missing!r}, which a split has; run `dvc repro`")
    texts: list[str] = rows["text"].take(places).to_pylist()
    return texts


def write(table: pa.Table, path: Path, schema: pa.Schema = SCHEMA) -> None:
    """Write ``table`` as ``schema``, sorted by id, so that equal content gives equal bytes.

    Rows with an equal id (oversampling repeats rows) keep their relative order.
    """
    ordered = table.select(schema.names).cast(schema).sort_by("id").combine_chunks()
    with atomic_path(path) as temporary:
        pq.write_table(
            ordered,
            temporary,
            compression="zstd",
            row_group_size=65_536,
            store_schema=True,
            write_statistics=False,
        )


def empty_rejected() -> pa.Table:
    """A table of rejected rows with no row in it."""
    return REJECTED.empty_table()
