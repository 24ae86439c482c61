"""What will be scored in which part: made once by reading the input through, then never changed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from afina.errors import UserError
from afina.scoring.inputs import Format, InputFile, format_of
from afina.scoring.storage import Storage, readable
from afina.scoring.text_records import (
    Cursor,
    Record,
    TextFile,
    examine_csv,
    examine_json,
    read_records,
)

PART_BYTES = 32 << 20  # of input in one part, so that memory is bounded however long its texts are
MAX_COLUMNS = 10_000

_INT64 = 1 << 63
_EXACT = 1 << 53  # a float holds every int up to it


@dataclass(frozen=True)
class Settings:
    """What decides the result, beside input and model.

    Attributes:
        columns: whose text is classified; of several, those that are not blank are joined by a line feed.
        top_k: how many of the most probable labels are listed.
        chunk: most rows in a part.
        prefix: before the names of the columns that are added.
        encoding: of text files; None = detected.
        delimiter: of CSV files; None = detected.
    """

    columns: tuple[str, ...] = ("text",)
    top_k: int = 1
    chunk: int = 10_000
    prefix: str = ""
    encoding: str | None = None
    delimiter: str | None = None


@dataclass(frozen=True)
class Part:
    """Consecutive rows of one file: ``start`` to ``end`` in bytes for text, in rows for Parquet."""

    number: int
    file: int
    start: int
    end: int
    line: int
    rows: int


@dataclass(frozen=True)
class Source:
    """A file of the input as the parts read it: ``text`` is None for Parquet."""

    location: str
    name: str
    partitions: tuple[tuple[str, str], ...]
    text: TextFile | None = None


@dataclass(frozen=True)
class Plan:
    """How the input is read and the output written; the parts themselves are in a file of their own.

    Attributes:
        settings: as given.
        read, write: formats of input and output.
        sources: the files with rows.
        columns: of the input, those of all files, in the order seen.
        kinds: for JSON Lines, what the values of each column are: any of int, large (an int that a float
            cannot hold), float, bool, string, other.
        schema: for Parquet, of all files together, as base64 of Arrow's own form.
        delimiter: of a CSV that is written.
        multilabel: whether a row may have several labels, or none.
        added: names of the columns that are added.
        rows, parts: how many there are.
        notes: what a person should know of how the input is read.
    """

    settings: Settings
    read: Format
    write: Format
    sources: tuple[Source, ...]
    columns: tuple[str, ...]
    kinds: dict[str, list[str]]
    schema: str
    delimiter: str
    multilabel: bool
    added: tuple[str, ...]
    rows: int = 0
    parts: int = 0
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The plan as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan of `to_json`."""
        values = json.loads(text)
        values["settings"] = Settings(
            **values["settings"] | {"columns": tuple(values["settings"]["columns"])}
        )
        values["sources"] = tuple(
            Source(
                source["location"],
                source["name"],
                tuple((key, value) for key, value in source["partitions"]),
                source["text"] and TextFile(**source["text"] | {"names": tuple(source["text"]["names"])}),
            )
            for source in values["sources"]
        )
        for name in ("columns", "added", "notes"):
            values[name] = tuple(values[name])
        return cls(**values)


def added_names(labels: int, settings: Settings) -> tuple[str, ...]:
    """Names of the columns that are added for a model of so many labels."""
    names = ["label", "probability", "confidence", "needs_person"]
    top_k = min(settings.top_k, labels)
    if top_k > 1:
        names += [f"{name}_{rank}" for rank in range(1, top_k + 1) for name in ("label", "probability")]
    return tuple(settings.prefix + name for name in names)


@dataclass
class Planner:
    """Reads files through and cuts them into parts; `plan` is complete when `parts` has ended."""

    storage: Storage
    settings: Settings
    labels: int
    multilabel: bool
    out: str
    write: Format
    files: Sequence[InputFile]
    _sources: list[Source] = field(default_factory=list)
    _columns: dict[str, None] = field(default_factory=dict)
    _kinds: dict[str, set[str]] = field(default_factory=dict)
    _schemas: list[Any] = field(default_factory=list)
    _notes: list[str] = field(default_factory=list)
    _rows: int = 0
    _parts: int = 0

    def parts(self) -> Iterator[Part]:
        """The parts in order.

        Raises:
            UserError: a file cannot be read, or lacks a column.
        """
        for file in self.files:
            before = len(self._sources)
            cut = self._parquet_parts(file) if file.format == "parquet" else self._text_parts(file)
            with readable(file.location):
                for start, end, line, rows in cut:
                    yield Part(self._parts, before, start, end, line, rows)
                    self._parts += 1
                    self._rows += rows
            self._columns.update(dict.fromkeys(name for name, _ in file.partitions))
            if len(self._columns) > MAX_COLUMNS:
                raise UserError(
                    f"{file.location}: more than {MAX_COLUMNS:,} columns; check how it is written"
                )

    def plan(self) -> Plan:
        """What was found.

        Raises:
            UserError: nothing is in any file, a column is in none, or an added one has the name of another.
        """
        source = self.files[0].location if len(self.files) == 1 else f"{self.files[0].location} …"
        if not self._sources:
            raise UserError(f"{source}: the file is empty; check what wrote it")
        read = self.files[0].format
        if read == "jsonl" and self._rows:
            for column in self.settings.columns:
                if column.split(".")[0] not in self._columns and column not in self._columns:
                    shown = ", ".join(repr(name[:40]) for name in list(self._columns)[:20]) or "no object"
                    raise UserError(f"{source}: no column {column!r}; it has {shown}; name one with --column")
        added = added_names(self.labels, self.settings)
        if taken := [name for name in added if name in self._columns]:
            raise UserError(
                f"{source}: has a column {taken[0]!r} already; tell the new ones apart with --prefix"
            )
        schema = ""
        if self._schemas:
            from afina.scoring.parquet import joined_schema

            locations = (one.location for one in self._sources)
            schema = joined_schema(self.storage, zip(locations, self._schemas, strict=True))
        return Plan(
            settings=self.settings,
            read=read,
            write=self.write,
            sources=tuple(self._sources),
            columns=tuple(self._columns),
            kinds={name: sorted(kinds) for name, kinds in self._kinds.items()},
            schema=schema,
            delimiter=self._delimiter(),
            multilabel=self.multilabel,
            added=added,
            rows=self._rows,
            parts=self._parts,
            notes=tuple(self._notes),
        )

    def _delimiter(self) -> str:
        if self.out.lower().endswith((".tsv", ".tab")):
            return "\t"
        used = {source.text.delimiter for source in self._sources if source.text and source.text.delimiter}
        return used.pop() if len(used) == 1 else ","

    def _text_parts(self, file: InputFile) -> Iterator[tuple[int, int, int, int]]:
        settings = self.settings
        if file.format == "csv":
            partitions = dict(file.partitions)
            wanted = [column for column in settings.columns if column not in partitions]
            text = examine_csv(self.storage, file.location, settings.encoding, settings.delimiter, wanted)
            if text is None:
                return
            self._columns.update(dict.fromkeys(text.names))
        else:
            text = examine_json(self.storage, file.location, settings.encoding)
        if settings.encoding is None and text.encoding in ("cp1252", "latin-1"):
            self._notes.append(
                f"{file.location}: not UTF-8, read as {text.encoding} (--encoding names another)"
            )
        self._sources.append(Source(file.location, file.name, file.partitions, text))
        cursor = Cursor(self.storage, text)
        try:
            start, line, rows, last = text.start, text.line, 0, text.start
            for record in read_records(cursor, text.start, text.line):
                if rows and (rows >= settings.chunk or record.end - start > PART_BYTES):
                    yield start, last, line, rows
                    start, line, rows = record.start, record.line, 0
                rows, last = rows + 1, record.end
                if file.format == "jsonl":
                    self._note_kinds(record, file)
            if rows:
                yield start, last, line, rows
        finally:
            cursor.close()

    def _note_kinds(self, record: Record, file: InputFile) -> None:
        if record.value is None:
            return
        for name, _ in file.partitions:  # where the row has no such name, it gets the folder's as text
            if name not in record.value:
                self._kinds.setdefault(name, set()).add("string")
        for name, value in record.value.items():
            if value is not None:
                self._kinds.setdefault(name, set()).add(_kind(value))
            self._columns[name] = None
        if len(self._columns) > MAX_COLUMNS:
            raise UserError(
                f"{file.location}: more than {MAX_COLUMNS:,} different names; check how it is written"
            )

    def _parquet_parts(self, file: InputFile) -> Iterator[tuple[int, int, int, int]]:
        from afina.scoring.parquet import open_parquet, part_ranges, plain_schema

        opened = open_parquet(self.storage, file.location)
        with opened:
            schema = opened.schema_arrow
            partitions = dict(file.partitions)
            for column in self.settings.columns:
                root = column if column in schema.names else column.split(".")[0]
                if schema.names.count(root) != 1 and column not in partitions:
                    shown = ", ".join(repr(name[:40]) for name in schema.names[:20])
                    raise UserError(
                        f"{file.location}: no column {column!r}, or several; it has {shown}; "
                        "name one with --column"
                    )
            if len(set(schema.names)) < len(schema.names):
                raise UserError(f"{file.location}: two columns have the same name; rename one")
            self._schemas.append(plain_schema(schema, file.partitions))
            self._columns.update(dict.fromkeys(schema.names))
            self._sources.append(Source(file.location, file.name, file.partitions))
            for start, end in part_ranges(opened, file.location, self.settings.chunk, PART_BYTES):
                yield start, end, start + 1, end - start


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        if -_EXACT <= value <= _EXACT:
            return "int"
        return "large" if -_INT64 <= value < _INT64 else "other"
    if isinstance(value, float):
        return "float"
    return "string" if isinstance(value, str) else "other"


def output_format(out: str, read: Format) -> Format | None:
    """What is written: by the suffix; for a folder what was read. None for a suffix that is not written."""
    name = out.rsplit("/", 1)[-1]
    if "." not in name.strip("."):
        return read
    return None if name.lower().endswith((".gz", ".txt")) else format_of(name)
