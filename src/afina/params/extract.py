"""The `extract` section: which sources to read and which of their columns mean what."""

from __future__ import annotations

import codecs
import difflib
import re
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import BeforeValidator, Field, field_validator, model_validator

from afina.params.base import Parameters, Section

Format = Literal["csv", "excel", "json", "jsonl", "parquet", "folder", "sql", "mongo"]

SUFFIXES: dict[str, Format] = {
    ".csv": "csv", ".tsv": "csv", ".tab": "csv", ".txt": "csv",
    ".xlsx": "excel", ".xlsm": "excel", ".xls": "excel",
    ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".parquet": "parquet", ".pq": "parquet",
    ".db": "sql", ".sqlite": "sql", ".sqlite3": "sql",
    "": "folder",
}  # fmt: skip

# The options that only some formats understand; an option for another format is an error, never ignored.
OPTIONS: dict[str, tuple[Format, ...]] = {
    "delimiter": ("csv",),
    "quotechar": ("csv",),
    "escapechar": ("csv",),
    "encoding": ("csv", "json", "jsonl", "folder"),
    "header": ("csv", "excel"),
    "columns": ("csv", "excel"),
    "skip_rows": ("csv", "excel"),
    "sheet": ("excel",),
    "records": ("json",),
    "query": ("sql",),
    "table": ("sql",),
    "database": ("mongo",),
    "collection": ("mongo",),
    "filter": ("mongo",),
    "projection": ("mongo",),
    "chunk_size": ("sql", "mongo", "parquet"),
}

# Slices that the stage evaluate makes for any data; see `afina.evaluation.slices.slice_columns`.
EVALUATE_SLICES = ("source", "length", "month", "truncated")

_SECRET_QUERY = re.compile(r"(?i)(password|passwd|pwd|secret|token|accesskey)\w*\s*(=|%3d)\s*(?!\$\{)[^&;\s]")
_LITERAL_PASSWORD = re.compile(r"://[^/@\s]*:(?!\$\{\w+\}@)[^@\s]+@")


def column_name(value: Any) -> Any:
    """Column numbers (files without a header) may be written without quotes in YAML."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _as_tuple(value: Any) -> Any:
    """One column may be written bare, several as a list."""
    if isinstance(value, list | tuple):
        return tuple(column_name(item) for item in value)
    return () if value is None else (column_name(value),)


def _as_mapping(value: Any) -> Any:
    """Names of slices and their columns; a bare column, or each of a list, gives its slice its name."""
    if value is None:
        return {}
    if isinstance(value, dict):
        return {column_name(name): column_name(column) for name, column in value.items()}
    names = _as_tuple(value)
    return dict(zip(names, names, strict=True)) if all(isinstance(name, str) for name in names) else value


Column = Annotated[str, BeforeValidator(column_name), Field(min_length=1)]
Columns = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_as_tuple)]

_Name = Annotated[str, Field(min_length=1)]
Slices = Annotated[dict[_Name, _Name], BeforeValidator(_as_mapping)]


class Source(Parameters):
    """One source: where the rows are, and which columns hold the text, the labels and the rest.

    Exactly one of `path` and `url` is given. Columns are named as in the source; a dotted path reaches into
    nested objects and lists (`cuerpo.partes.0.texto`) of JSON, Parquet and MongoDB; a CSV or Excel file
    without a header names its columns by number from "0".
    """

    path: str | None = Field(default=None, description="A file or folder, relative to the repository's root")
    url: str | None = Field(
        default=None,
        description="A SQLAlchemy or MongoDB URL; secrets as ${NAME}, read from the environment or .env",
    )
    format: Format | None = Field(
        default=None,
        description="What the source is; by default from the suffix (a path without one: folder)",
    )
    name: str | None = Field(
        default=None,
        description="Short unique name, kept in every row; by default the file's stem, table or collection",
    )

    text: Columns = Field(
        default=(), description="Column of the text, or several to join; empty ones skipped"
    )
    text_separator: str = Field(default="\n", description="What stands between joined text columns")
    label: Columns = Field(default=(), description="Column of the label or labels, or several such columns")
    label_separator: str | None = Field(
        default=None,
        min_length=1,
        description="What separates several labels in one cell (multilabel), as '|' or ','; spaces around it "
        "are dropped",
    )
    label_columns: Columns = Field(
        default=(), description="Columns of 0 and 1, one a label, each named as its label (multilabel)"
    )
    id: Column | None = Field(
        default=None, description="Column of the row's own id; by default a hash of the text"
    )
    group: Column | None = Field(
        default=None,
        description="Column that ties rows which must stay in one split (author, patient, thread)",
    )
    time: Column | None = Field(
        default=None,
        description="Column of the date: ISO 8601, dd/mm/yyyy, seconds since 1970, "
        "cells that Excel shows as dates",
    )
    time_format: str | None = Field(
        default=None, min_length=2, description="strptime format of the dates where they have another form"
    )
    split: Column | None = Field(
        default=None, description="Column that says train, validation or test, for split.method: given"
    )
    split_as: Literal["train", "validation", "test"] | None = Field(
        default=None, description="The split of every row of this source, for split.method: given"
    )
    slices: Slices = Field(
        default={},
        description="Columns whose values evaluate gives scores by (office, channel, region): a list, or a "
        "mapping from the slice's name to the column, which may differ between sources. The model never "
        "sees them. The names source, length, month and truncated are taken by evaluate",
    )
    limit: int | None = Field(default=None, ge=1, description="Read only the first rows, to try things out")

    delimiter: str | None = Field(
        default=None, min_length=1, max_length=1, description="CSV: between cells; by default detected"
    )
    quotechar: str | None = Field(
        default=None,
        max_length=1,
        description="CSV: around cells, '' for none; by default detected (\" or none)",
    )
    escapechar: str | None = Field(
        default=None, min_length=1, max_length=1, description="CSV: before a quote inside a cell, as \\"
    )
    encoding: str | None = Field(default=None, description="Encoding of the text; by default detected")
    header: bool = Field(default=True, description="CSV, Excel: the first row holds the column names")
    columns: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        default=None, description="CSV, Excel with header: false: names for all columns, in order"
    )
    skip_rows: int = Field(default=0, ge=0, description="CSV, Excel: lines to pass over before the first row")
    sheet: str | int | None = Field(
        default=None, description="Excel: sheet by name, or by number from 0; by default the first"
    )
    records: str | None = Field(
        default=None, description="JSON: dotted path to the list of rows inside the file, as data.items"
    )
    query: str | None = Field(default=None, description="SQL: a SELECT; add ORDER BY where limit is used")
    table: str | None = Field(default=None, description="SQL: a table or view, as name or schema.name")
    database: str | None = Field(default=None, description="MongoDB: database; by default the one in the URL")
    collection: str | None = Field(default=None, description="MongoDB: collection")
    filter: dict[str, Any] | None = Field(
        default=None, description="MongoDB: which documents; extended JSON for ids and dates ($oid, $date)"
    )
    projection: dict[str, Any] | None = Field(
        default=None, description="MongoDB: which fields; by default those that are mapped"
    )
    chunk_size: int = Field(default=20_000, ge=1, description="SQL, MongoDB, Parquet: rows fetched at a time")

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            raise ValueError("expected a mapping with path or url, text and label")
        for key in values:
            if key not in cls.model_fields:
                near = difflib.get_close_matches(str(key), cls.model_fields, n=1, cutoff=0.5)
                hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(cls.model_fields)}"
                raise ValueError(f"unknown parameter '{key}'; {hint}")
        if values.get("format") == "tsv":
            values = {"delimiter": "\t", **values, "format": "csv"}
        # Checked here, on the whole mapping, because a message about a single value would show it.
        for key in ("path", "url"):
            url = values.get(key)
            if isinstance(url, str) and (_LITERAL_PASSWORD.search(url) or _SECRET_QUERY.search(url)):
                raise ValueError(
                    f"{key} holds a password; write ${{NAME}} and set NAME in the environment or in .env"
                )
        return values

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                codecs.lookup(value)
            except LookupError:
                raise ValueError("unknown encoding; use utf-8, utf-8-sig, latin-1, cp1252 ...") from None
        return value

    @field_validator("delimiter")
    @classmethod
    def _usable_delimiter(cls, value: str | None) -> str | None:
        if value is not None and value in '"\r\n':
            raise ValueError("a delimiter cannot be a quote or a line break")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.path is None) == (self.url is None):
            raise ValueError("give exactly one of path and url")
        if self.path is not None and "://" in self.path:
            raise ValueError("path is a file or folder; use url for a database")
        if self.url is not None and re.match(r"(?i)(https?|ftp|s3|gs)://", self.url):
            raise ValueError("url is a database; download the file to data/source/ and give its path")
        kind = self.kind
        if (kind in ("sql", "mongo")) != (self.url is not None) and not (kind == "sql" and self.path):
            raise ValueError(f"format {kind} needs {'a url' if self.path else 'a path'}")
        for option, formats in OPTIONS.items():
            if option in self.model_fields_set and getattr(self, option) is not None and kind not in formats:
                raise ValueError(f"{option} does not apply to format {kind}, only to {', '.join(formats)}")
        self._check_mapping(kind)
        self._check_database(kind)
        return self

    def _check_mapping(self, kind: Format) -> None:
        if kind != "folder":
            if not self.text:
                raise ValueError("text is missing: name the column, or columns, of the text")
            if not self.label and not self.label_columns:
                raise ValueError("label is missing: name the column of the labels (or label_columns)")
        if self.label and self.label_columns:
            raise ValueError("give label or label_columns, not both")
        both = sorted({*self.text} & {*self.label, *self.label_columns})
        if both:
            raise ValueError(f"'{both[0]}' is both text and label; a model would be told what it is asked")
        if self.label_columns and self.label_separator:
            raise ValueError("label_separator does not apply to label_columns")
        if self.split and self.split_as:
            raise ValueError("give split (a column) or split_as (one split for all rows), not both")
        taken = [name for name in EVALUATE_SLICES if name in self.slices]
        if taken:
            raise ValueError(
                f"slices: evaluate makes the slice '{taken[0]}' itself; give yours another name, as "
                f"{{my_{taken[0]}: {self.slices[taken[0]]}}}"
            )
        if self.time_format and not self.time:
            raise ValueError("time_format needs time")
        if self.columns is not None and self.header:
            raise ValueError("columns names the columns of a file without a header; add header: false")
        if self.columns is not None and len(set(self.columns)) < len(self.columns):
            raise ValueError("columns holds the same name twice")

    def _check_database(self, kind: Format) -> None:
        if kind == "sql" and (self.query is None) == (self.table is None):
            raise ValueError("a SQL source needs exactly one of query and table")
        if kind == "mongo" and self.collection is None:
            raise ValueError("a MongoDB source needs collection")

    @property
    def kind(self) -> Format:
        """The format, given or inferred from the suffix or the options.

        Raises:
            ValueError: it cannot be inferred.
        """
        if self.format is not None:
            return self.format
        if self.url is not None:
            if self.collection is not None or self.url.startswith("mongodb"):
                return "mongo"
            return "sql"
        path = PurePosixPath(cast(str, self.path).lower().rstrip("/").removesuffix(".gz"))
        if path.suffix not in SUFFIXES:
            known = ", ".join(suffix for suffix in SUFFIXES if suffix)
            raise ValueError(f"cannot tell the format of '{self.path}' ({known} are known); add format:")
        return SUFFIXES[path.suffix]

    @property
    def label_name(self) -> str:
        """The name that rows of this source carry."""
        if self.name is not None:
            return self.name
        if self.path is not None:
            path = PurePosixPath(self.path.rstrip("/").removesuffix(".gz"))
            name = path.name if self.kind == "folder" else path.stem
            return name.replace(":", "_") or "source"
        return (self.collection or self.table or "query").replace(":", "_")

    @property
    def wanted(self) -> tuple[str, ...]:
        """Every column that the mapping names, once, in order."""
        single = (self.id, self.group, self.time, self.split)
        text, label = self.text, self.label
        if self.kind == "folder":
            single = (self.id or "file", *single[1:])
            text, label = text or ("text",), label or (() if self.label_columns else ("label",))
        mapped = (name for name in single if name is not None)
        names = (*text, *label, *self.label_columns, *mapped, *self.slices.values())
        return tuple(dict.fromkeys(names))


class ExtractParams(Section):
    """Parameters of the stage `extract`."""

    section_name: ClassVar[str] = "extract"

    sources: tuple[Source, ...] = Field(min_length=1, description="The sources, joined into one table")

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        seen: set[str] = set()
        for source in self.sources:
            if ":" in source.label_name:
                raise ValueError(f"sources: a name may hold no colon: '{source.label_name}'")
            if source.label_name in seen:
                raise ValueError(
                    f"sources: two sources are called '{source.label_name}'; give each its own name:"
                )
            seen.add(source.label_name)
        return self
