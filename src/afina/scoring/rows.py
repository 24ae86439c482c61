"""A part: its rows read, their texts taken, and with predictions written again."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from afina.files import UnixLines
from afina.runtime import Prediction
from afina.scoring.plan import Part, Plan, Source
from afina.scoring.storage import Storage
from afina.scoring.text_records import MAX_RECORD, Cursor, read_records
from afina.spreadsheets import escape_formula

SEPARATOR = "|"  # between the labels of a multilabel prediction in a CSV
DIGITS = 6  # of a probability

_MISSING = object()


@dataclass
class Rows:
    """The rows of a part.

    Attributes:
        texts: to classify, one a row.
        values: the rows themselves: mappings by column, or an Arrow table where the source is Parquet.
        failures: line (row of a Parquet file) and reason of those that cannot be classified.
        location: of the file, for messages.
    """

    texts: list[str] = field(default_factory=list)
    values: Any = field(default_factory=list)
    failures: list[tuple[int, str]] = field(default_factory=list)
    location: str = ""


class PartReader:
    """Reads parts; the file of the last one stays open, because the next is mostly of the same."""

    def __init__(self, storage: Storage, plan: Plan) -> None:
        self._storage = storage
        self._plan = plan
        self._open: tuple[int, Any] | None = None

    def read(self, part: Part) -> Rows:
        """The rows of a part.

        Raises:
            UserError: the file is damaged in a way that no row can be blamed for.
        """
        source = self._plan.sources[part.file]
        cursor = self._cursor(part.file, source)
        if source.text is None:
            return _parquet_rows(self._plan, source, part, cursor)
        return _text_rows(self._plan, source, part, cursor)

    def _cursor(self, index: int, source: Source) -> Any:
        if self._open is None or self._open[0] != index:
            self.close()
            if source.text is not None:
                self._open = (index, Cursor(self._storage, source.text))
            else:
                from afina.scoring.parquet import ParquetCursor

                self._open = (index, ParquetCursor(self._storage, source.location))
        assert self._open is not None
        return self._open[1]

    def close(self) -> None:
        """Close the open file."""
        if self._open is not None:
            self._open[1].close()
        self._open = None


def _text_rows(plan: Plan, source: Source, part: Part, cursor: Cursor) -> Rows:
    rows = Rows()
    names = source.text.names if source.text else ()
    for record in read_records(cursor, part.start, part.line):
        if record.start >= part.end:
            break
        problem = record.problem
        if not problem:
            values = dict(zip(names, record.value, strict=True)) if names else record.value
            for name, value in source.partitions:
                values.setdefault(name, value)
            text, problem = text_of([lookup(values, name) for name in plan.settings.columns])
        if problem:
            rows.failures.append((record.line, problem))
        else:
            rows.texts.append(text)
            rows.values.append(values)
        if record.end >= part.end:  # one record more, and a stream that cannot go back were read anew
            break
    return rows


def _parquet_rows(plan: Plan, source: Source, part: Part, cursor: Any) -> Rows:
    import pyarrow as pa

    from afina.scoring.parquet import sound, taken, values_of

    rows = Rows(location=source.location)
    table, unreadable = sound(cursor.read(part.start, part.end), source.location)
    for name, value in source.partitions:
        if name not in table.column_names:
            table = table.append_column(name, pa.array([value] * table.num_rows, pa.string()))
    bad = set(unreadable)
    kept = []
    wanted = plan.settings.columns
    roots = [name if name in table.column_names else name.split(".")[0] for name in wanted]
    columns = [values_of(table.column(root), source.location, root) for root in roots]
    for row, values in enumerate(zip(*columns, strict=True)):
        if row in bad:
            text, problem = "", "bytes that are not text in utf-8"
        else:
            named = zip(wanted, roots, values, strict=True)
            text, problem = text_of([lookup({root: value}, name) for name, root, value in named])
        if problem:
            rows.failures.append((part.line + row, problem))
        else:
            rows.texts.append(text)
            kept.append(row)
    rows.values = table if len(kept) == table.num_rows else taken(table, kept)
    return rows


def lookup(document: Mapping[str, Any], name: str) -> Any:
    """The value of a column; of a dotted name that is no column, what the path leads to. None if nothing."""
    if name in document or "." not in name:
        return document.get(name)
    return _walk(document, name.split("."))


def _walk(value: Any, steps: Sequence[str]) -> Any:
    """What a path leads to; a name leads through a list to the texts of all in it, joined by a line feed."""
    for position, step in enumerate(steps):
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and not step.isdecimal():
            found = [_walk(item, steps[position:]) for item in value]
            others = [item for item in found if item is not None and not isinstance(item, str)]
            return others[0] if others else "\n".join(item for item in found if item and item.strip())
        elif isinstance(value, list) and len(step) < 10:
            value = value[int(step)] if int(step) < len(value) else None
        else:
            return None
    return value


def text_of(values: Sequence[Any]) -> tuple[str, str]:
    """The text to classify by the values of its columns, and why there is none ("" where there is)."""
    for value in values:
        if value is not None and not isinstance(value, str):
            return "", f"the text is not a string but {_kind_name(value)}"
    text = "\n".join(value for value in values if value and value.strip())
    if not text:
        return "", "no text"
    return (text, "") if len(text) <= MAX_RECORD else ("", f"longer than {MAX_RECORD:,} characters")


def _kind_name(value: Any) -> str:
    return {bool: "true or false", list: "a list", dict: "an object", bytes: "bytes"}.get(
        type(value), "a number" if isinstance(value, int | float) else type(value).__name__
    )


# -------------------------------------------------------------------------------------------- writing


def encode(plan: Plan, rows: Rows, predictions: Sequence[Prediction]) -> bytes:
    """A part file: the rows with what the model says."""
    if plan.write == "parquet":
        return _parquet_bytes(plan, rows, predictions)
    if not isinstance(rows.values, list):
        from afina.scoring.parquet import plain_rows

        values = plain_rows(rows.values, rows.location)
    else:
        values = rows.values
    stream = io.StringIO(newline="")
    if plan.write == "csv":
        _write_csv(stream, plan, values, predictions)
    else:
        for row, prediction in zip(values, predictions, strict=True):
            added = zip(plan.added, _answers(prediction, plan.multilabel, _extra(plan)), strict=True)
            line = json.dumps(_plain(row) | dict(added), ensure_ascii=False, allow_nan=False)
            stream.write(line + "\n")
    return stream.getvalue().encode("utf-8")


def header(plan: Plan) -> bytes:
    """The first line of a CSV."""
    stream = io.StringIO(newline="")
    _write_csv(stream, plan, [], [])
    return stream.getvalue().encode("utf-8")


def _extra(plan: Plan) -> int:
    return (len(plan.added) - 4) // 2


def _write_csv(
    stream: TextIO, plan: Plan, rows: Sequence[Mapping[str, Any]], predictions: Sequence[Prediction]
) -> None:
    writer = csv.writer(UnixLines(stream), delimiter=plan.delimiter, lineterminator="\r\n")
    writer.writerow([escape_formula(name) for name in (*plan.columns, *plan.added)])
    for row, prediction in zip(rows, predictions, strict=True):
        cells = [_cell(row.get(name)) for name in plan.columns]
        writer.writerow([escape_formula(cell) for cell in (*cells, *_answer_cells(prediction, _extra(plan)))])


def _cell(value: Any) -> str:
    """A value as the text of a cell: JSON, but without the quotes of what JSON has as one string."""
    value = _plain(value)
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _answer_cells(prediction: Prediction, extra: int) -> Iterator[str]:
    yield SEPARATOR.join(score.label for score in prediction.labels)
    yield SEPARATOR.join(f"{score.probability:.{DIGITS}f}" for score in prediction.labels)
    yield f"{prediction.confidence:.{DIGITS}f}"
    yield "yes" if prediction.needs_person else "no"
    for score in prediction.top[:extra]:
        yield score.label
        yield f"{score.probability:.{DIGITS}f}"


def _answers(prediction: Prediction, multilabel: bool, extra: int) -> Iterator[Any]:
    labels = [score.label for score in prediction.labels]
    probabilities = [round(score.probability, DIGITS) for score in prediction.labels]
    yield labels if multilabel else labels[0]
    yield probabilities if multilabel else probabilities[0]
    yield round(prediction.confidence, DIGITS)
    yield prediction.needs_person
    for score in prediction.top[:extra]:
        yield score.label
        yield round(score.probability, DIGITS)


def _plain(value: Any) -> Any:
    """A value that JSON has: what is no number is null, bytes and dates are text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def output_schema(plan: Plan) -> Any:
    """The Arrow schema of a Parquet output."""
    import pyarrow as pa

    from afina.scoring.parquet import schema_of

    if plan.read == "parquet":
        known = {column.name: column.type for column in schema_of(plan.schema)}
    else:
        types = {
            ("int",): pa.int64(),
            ("large",): pa.int64(),
            ("int", "large"): pa.int64(),
            ("float",): pa.float64(),
            ("float", "int"): pa.float64(),
            ("bool",): pa.bool_(),
        }
        known = {name: types.get(tuple(kinds), pa.string()) for name, kinds in plan.kinds.items()}
    fields = [pa.field(name, known.get(name, pa.string())) for name in plan.columns]
    label, number = pa.string(), pa.float64()
    kinds = [pa.list_(label), pa.list_(number)] if plan.multilabel else [label, number]
    kinds += [number, pa.bool_(), *[label, number] * _extra(plan)]
    return pa.schema([*fields, *(pa.field(*pair) for pair in zip(plan.added, kinds, strict=True))])


def _parquet_bytes(plan: Plan, rows: Rows, predictions: Sequence[Prediction]) -> bytes:
    import pyarrow as pa

    from afina.scoring.parquet import fitted, write_table

    schema = output_schema(plan)
    count = len(plan.columns)
    own = pa.schema([schema.field(position) for position in range(count)])
    values = rows.values
    if isinstance(values, list):
        columns = [
            pa.array([_typed(row.get(column.name), column.type) for row in values], column.type)
            for column in own
        ]
    else:
        columns = fitted(values, own, rows.location).columns
    answers = [list(_answers(prediction, plan.multilabel, _extra(plan))) for prediction in predictions]
    for position in range(len(plan.added)):
        kind = schema.field(count + position).type
        columns.append(pa.array([answer[position] for answer in answers], kind))
    return write_table(pa.table(columns, schema=schema))


def _typed(value: Any, kind: Any) -> Any:
    """A value for an Arrow column: what is no string becomes JSON in one of strings."""
    import pyarrow as pa

    if value is None or isinstance(value, str) or not pa.types.is_string(kind):
        return value
    return json.dumps(value, ensure_ascii=False)
