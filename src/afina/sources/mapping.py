"""From a source's own columns to the table's: text, labels, group, time, split, slices and id."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from afina.params.extract import Source
from afina.sources.chunk import NOT_TEXT, Chunk, Column, Rejects
from afina.sources.values import (
    ONES,
    SPLITS,
    ZEROS,
    as_labels,
    as_text,
    blank_as_null,
    parse_times,
    unencodable,
)
from afina.table import SCHEMA
from afina.text_hash import text_hashes

# As SCHEMA, but the id may be repeated and lacks the source's name, the time is still text, and the slices
# have all their values, null or not, in the order of their names.
MAPPED = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("text", pa.string()),
        pa.field("labels", pa.list_(pa.string())),
        pa.field("group", pa.string()),
        pa.field("time", pa.string()),
        pa.field("split", pa.string()),
        pa.field("slices", pa.list_(pa.string())),
    ]
)


def map_chunk(source: Source, chunk: Chunk, where: str, rejects: Rejects) -> pa.Table:
    """The chunk's rows in the schema ``MAPPED``; rows that cannot be mapped are rejected.

    Raises:
        UserError: a column holds objects where text is wanted.
    """
    try:
        return _map(source, chunk, where, rejects)
    except UnicodeEncodeError:
        bad = {position for values in chunk.columns.values() for position in unencodable(values)}
        for position in sorted(bad):
            shown = (_cell(values, position) for values in chunk.columns.values())
            cells = [cell for cell in shown if cell is not None]
            rejects.add(chunk.rows[position], NOT_TEXT, " | ".join(cells))
        return _map(source, _without(chunk, bad), where, rejects)


def _cell(values: Column, position: int) -> str | None:
    """One cell to show, bytes that are not text included."""
    value = values[position].as_py() if isinstance(values, pa.Array) else values[position]
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "surrogateescape")
    return None if value is None else str(value)


def _without(chunk: Chunk, positions: set[int]) -> Chunk:
    keep = [position for position in range(len(chunk.rows)) if position not in positions]
    columns: dict[str, Column] = {
        name: values.take(pa.array(keep, pa.int64()))
        if isinstance(values, pa.Array)
        else [values[position] for position in keep]
        for name, values in chunk.columns.items()
    }
    return Chunk([chunk.rows[position] for position in keep], columns)


def _map(source: Source, chunk: Chunk, where: str, rejects: Rejects) -> pa.Table:
    size = len(chunk.rows)
    found: list[tuple[int, str, str]] = []  # rejected only once everything has been read

    def optional(name: str | None) -> pa.Array:
        if name is None:
            return pa.nulls(size, pa.string())
        return blank_as_null(as_text(chunk.columns[name], f"{where}: column {name}"))

    keep = np.ones(size, dtype=bool)
    text = _text(source, chunk, where)
    labels = _labels(source, chunk, where, keep, found)
    split = _split(source, optional(source.split), chunk.rows, keep, found)
    own_id = source.id or ("file" if source.kind == "folder" else None)
    table = pa.table(
        {
            "id": _keys(optional(own_id), text),
            "text": text,
            "labels": pa.array(labels, pa.list_(pa.string())),
            "group": optional(source.group),
            "time": optional(source.time),
            "split": split,
            "slices": _slice_values(source, chunk, where),
        },
        schema=MAPPED,
    )
    for row, reason, detail in found:
        rejects.add(row, reason, detail)
    return table if keep.all() else table.filter(pa.array(keep))


def _keys(own: pa.Array, text: pa.Array) -> pa.Array:
    """The row's own id, or where it has none the hash of its text."""
    if own.null_count == 0:
        return own
    return pc.coalesce(own, pa.array(text_hashes(text.to_pylist()), pa.string()))


def _text(source: Source, chunk: Chunk, where: str) -> pa.Array:
    names = source.text or ("text",)
    parts = [as_text(chunk.columns[name], f"{where}: column {name}", source.text_separator) for name in names]
    if len(parts) > 1:
        joined, *others = (blank_as_null(part) for part in parts)
        for other in others:  # pair by pair: Arrow's null_handling="skip" drops rows that are null throughout
            both = pc.binary_join_element_wise(joined, other, source.text_separator)
            joined = pc.coalesce(both, joined, other)
        return pc.fill_null(joined, "")
    return pc.fill_null(parts[0], "")


def _labels(
    source: Source, chunk: Chunk, where: str, keep: np.ndarray, found: list[tuple[int, str, str]]
) -> list[list[str]]:
    if source.label_columns:
        labels: list[list[str]] = [[] for _ in chunk.rows]
        for name in source.label_columns:
            for position, cell in enumerate(
                as_text(chunk.columns[name], f"{where}: column {name}").to_pylist()
            ):
                value = (cell or "").strip().lower().removesuffix(".0")
                if value in ONES:
                    labels[position].append(name)
                elif value not in ZEROS and keep[position]:
                    keep[position] = False
                    found.append((chunk.rows[position], f"'{name}' is neither 0 nor 1", str(cell)))
        return labels
    columns = [
        as_labels(chunk.columns[name], source.label_separator, f"{where}: column {name}")
        for name in source.label or ("label",)
    ]
    if len(columns) == 1:
        return columns[0]
    return [
        list(dict.fromkeys(label for cell in cells for label in cell)) for cells in zip(*columns, strict=True)
    ]


def _split(
    source: Source,
    values: pa.Array,
    rows: Sequence[int],
    keep: np.ndarray,
    found: list[tuple[int, str, str]],
) -> pa.Array:
    if source.split_as is not None:
        return pa.array([source.split_as] * len(rows), pa.string())
    if source.split is None:
        return values
    encoded = values.dictionary_encode()
    names = [SPLITS.get(value.strip().lower()) for value in encoded.dictionary.to_pylist()]
    splits: list[str | None] = []
    for position, code in enumerate(encoded.indices.to_pylist()):
        splits.append(None if code is None else names[code])
        if code is not None and names[code] is None and keep[position]:
            keep[position] = False
            value = encoded.dictionary[code].as_py()
            found.append((rows[position], "split is not train, validation or test", value))
    return pa.array(splits, pa.string())


def _slice_values(source: Source, chunk: Chunk, where: str) -> pa.Array:
    """The values of each row's slices, null where there is none, in the order of the slices' names."""
    names, size = sorted(source.slices), len(chunk.rows)
    columns = [source.slices[name] for name in names]
    texts = [as_text(chunk.columns[column], f"{where}: column {column}", ", ") for column in columns]
    trimmed = (pc.utf8_trim_whitespace(text) for text in texts)
    values = _by_row([blank_as_null(text) for text in trimmed])
    offsets = np.arange(size + 1, dtype=np.int32) * len(names)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _by_row(columns: Sequence[pa.Array]) -> pa.Array:
    """The cells of columns of equal length (n,), row by row (n * columns,)."""
    cells = pa.concat_arrays([pa.array([], pa.string()), *columns])
    return cells.take(pa.array(np.arange(len(cells)).reshape(max(len(columns), 1), -1).T.ravel()))


def finish(source: Source, name: str, mapped: pa.Table) -> tuple[pa.Table, int, list[str]]:
    """One source's rows in `afina.table.SCHEMA`; how many ids were repeated, and the unreadable times.

    Labels, groups and ids that are whole numbers are the same whatever the format: see `_without_zeros`.
    """
    times, unreadable = _times(mapped["time"], source.time_format)
    ids, repeated = _ids(name, _without_zeros(mapped["id"]), mapped["text"])
    size = mapped.num_rows
    table = pa.table(
        {
            "id": ids,
            "source": pa.array(np.full(size, name, dtype=object), pa.string()),
            "text": mapped["text"],
            "labels": _labels_without_zeros(mapped["labels"]),
            "group": _without_zeros(mapped["group"]),
            "time": times,
            "split": mapped["split"],
            "slices": _slices(sorted(source.slices), mapped["slices"]),
        },
        schema=SCHEMA,
    )
    return table, repeated, unreadable


def _slices(names: Sequence[str], values: pa.ChunkedArray) -> pa.Array:
    """For each row name -> value of what it has, by name; null where it has nothing.

    Args:
        names: of the slices, sorted.
        values: of each row (n,), as many as there are names, null where the row lacks one.
    """
    size, width = len(values), len(names)
    if not width:
        return pa.nulls(size, SCHEMA.field("slices").type)
    cells = pa.concat_arrays(pc.list_flatten(values).chunks)
    rows = np.arange(size) * width
    items = _by_row([_without_zeros(cells.take(pa.array(rows + at))) for at in range(width)])
    filled = np.asarray(items.is_valid()).reshape(size, width)
    keys = pa.array(names, pa.string()).take(pa.array(np.nonzero(filled)[1]))
    counts = filled.sum(axis=1)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    nothing = np.append(counts == 0, False)  # a null offset makes a null row
    return pa.MapArray.from_arrays(pa.array(offsets, mask=nothing), keys, items.drop_null())


def _labels_without_zeros(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    """Lists of labels as `_without_zeros` has all labels of the source."""
    names = _without_zeros(pc.list_flatten(lists))
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(lists))]).astype(np.int32)
    flat = names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names
    return pa.chunked_array([pa.ListArray.from_arrays(pa.array(offsets), flat)])


def _without_zeros(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Whole numbers without ".0", which tables with empty cells get when they are written as CSV."""
    whole = pc.match_substring_regex(values, pattern=r"^-?[0-9]+(\.0+)?$")
    if not pc.all(whole).as_py():
        return values
    return pc.replace_substring_regex(values, pattern=r"\.0+$", replacement="")


def _times(texts: pa.ChunkedArray, time_format: str | None) -> tuple[pa.ChunkedArray, list[str]]:
    """Times, null where a text is none, and those texts."""
    encoded = texts.dictionary_encode().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    if len(encoded) == 0 or encoded.null_count == len(encoded):
        return pa.chunked_array([pa.nulls(len(texts), pa.timestamp("us"))]), []
    distinct = pa.array(parse_times(encoded.dictionary.to_pylist(), time_format), pa.timestamp("us"))
    times = distinct.take(encoded.indices)
    unreadable = texts.filter(pc.and_(pc.is_valid(texts), pc.is_null(pa.chunked_array([times]))))
    return pa.chunked_array([times]), unreadable.to_pylist()


def _ids(name: str, keys: pa.ChunkedArray, texts: pa.ChunkedArray) -> tuple[pa.ChunkedArray, int]:
    """``name:key``; where rows share a key, the text's hash follows, and a number if that is equal too.

    By what they say, not by their order: of an export with the newest on top every row would have another
    row's number each time. A key that is the text's hash is not followed by it again.
    """
    repeated = 0
    if pc.count_distinct(keys).as_py() < len(keys):
        counts = pc.value_counts(keys)
        several = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        places = np.flatnonzero(pc.is_in(keys, several).to_numpy())
        repeated = len(places) - len(several)
        values = keys.to_pylist()
        taken = set(values) - set(several.to_pylist())
        for at, digits in zip(places, text_hashes(texts.take(pa.array(places)).to_pylist()), strict=True):
            first = candidate = values[at] if values[at] == digits else f"{values[at]}#{digits}"
            number = 1
            while candidate in taken:
                number += 1
                candidate = f"{first}#{number}"
            taken.add(candidate)
            values[at] = candidate
        keys = pa.chunked_array([pa.array(values, pa.string())])
    return pc.binary_join_element_wise(pa.scalar(f"{name}:"), keys, ""), repeated
