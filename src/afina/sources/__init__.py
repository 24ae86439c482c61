"""Rows from CSV, Excel, JSON, Parquet, folders of text, SQL and MongoDB, all in the one table.

`read_sources` is the way in; there is one module a kind of source, each a generator of chunks.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from afina.encodings import is_rather_utf8, open_binary
from afina.errors import UserError
from afina.params.extract import ExtractParams, Source
from afina.progress import Progress
from afina.sources.chunk import Chunk, Rejects
from afina.sources.mapping import MAPPED, finish, map_chunk
from afina.sources.secrets import environment, expand
from afina.table import SCHEMA


@dataclass(frozen=True)
class SourceSummary:
    """What came out of one source."""

    name: str
    rows: int
    rejected: int
    repeated_ids: int
    unreadable_times: int
    unreadable_time: str | None = None  # the first of them
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Extraction:
    """All rows in `afina.table.SCHEMA`, all rejected rows in `afina.table.REJECTED`, counts by source."""

    table: pa.Table
    rejected: pa.Table
    summaries: tuple[SourceSummary, ...]

    def describe(self) -> str:
        """One line: rows by source, rejected rows, and what else a person should know."""
        counts = ", ".join(f"{summary.name} {summary.rows:,}" for summary in self.summaries)
        plural = "source" if len(self.summaries) == 1 else "sources"
        line = f"{self.table.num_rows:,} rows from {len(self.summaries)} {plural} ({counts})"
        line += f", {self.rejected.num_rows:,} rejected"
        repeated = sum(summary.repeated_ids for summary in self.summaries)
        if repeated:
            line += f", {repeated:,} repeated ids told apart"
        unreadable = sum(summary.unreadable_times for summary in self.summaries)
        if unreadable:
            first = next(summary.unreadable_time for summary in self.summaries if summary.unreadable_times)
            line += f", {unreadable:,} unreadable times left empty (the first: {first!r})"
        return "; ".join([line, *(note for summary in self.summaries for note in summary.notes)])


def read_sources(params: ExtractParams, root: Path) -> Extraction:
    """Read every source; paths are relative to ``root``, secrets come from the environment or ``root/.env``.

    Text and label names are as in the source. Rows that cannot be read are set aside with a reason.

    Raises:
        UserError: a source is missing, empty, unreadable, lacks a column, or none of its rows can be read.
    """
    variables = environment(root) if any(source.url for source in params.sources) else {}
    tables, rejected, summaries = [], [], []
    for source in params.sources:
        table, rejects, summary = _read_source(source, root, variables)
        tables.append(table)
        rejected.append(rejects.table())
        summaries.append(summary)
    return Extraction(pa.concat_tables(tables), pa.concat_tables(rejected), tuple(summaries))


def _read_source(
    source: Source, root: Path, variables: Mapping[str, str]
) -> tuple[pa.Table, Rejects, SourceSummary]:
    name = source.label_name
    where = source.path or name
    rejects = Rejects(name)
    parts: list[pa.Table] = []
    count = 0
    with Progress(f"reading {name}", unit="rows") as progress:
        for chunk in read_chunks(source, root, variables, source.wanted, rejects):
            part = map_chunk(source, chunk, where, rejects)
            parts.append(part)
            count += part.num_rows
            progress.advance(len(chunk.rows))
            if source.limit is not None and count >= source.limit:
                break
    if not count:
        raise UserError(_nothing(source, where, rejects))
    mapped = pa.concat_tables(parts, promote_options="none") if parts else MAPPED.empty_table()
    if source.limit is not None:
        mapped = mapped.slice(0, source.limit)
    table, repeated, unreadable = finish(source, name, mapped)
    summary = SourceSummary(
        name,
        table.num_rows,
        len(rejects.items),
        repeated,
        len(unreadable),
        unreadable[0][:60] if unreadable else None,
        _notes(source, root, table),
    )
    return table, rejects, summary


def _notes(source: Source, root: Path, table: pa.Table) -> tuple[str, ...]:
    """What a person should know of how a source is read, though nothing is wrong."""
    notes = []
    if source.path is not None and source.kind == "excel" and source.sheet is None:
        from afina.sources.excel import sheet_names

        first, *others = sheet_names(root / source.path, source.path)
        if others:
            notes.append(
                f"{source.label_name}: sheet '{first}' alone is read; sheet: names another of {others}"
            )
    if source.path is not None and source.kind == "excel" and pc.all(pc.equal(table["text"], "")).as_py():
        notes.append(
            f"{source.label_name}: all texts are empty; formulas read so where no program has saved their "
            "values: open the workbook in Excel or LibreOffice and save it"
        )
    path = None if source.path is None else root / source.path
    if path is not None and path.is_file() and source.encoding and is_rather_utf8(path, source.encoding):
        notes.append(
            f"{source.label_name}: encoding: {source.encoding} is set, but the file is sound UTF-8, of which "
            "that makes two characters for one, in texts and labels; leave encoding: out"
        )
    return tuple(notes)


def _nothing(source: Source, where: str, rejects: Rejects) -> str:
    if not rejects.items:
        return f"{where}: no rows; put rows in it or remove the source"
    row, reason, detail = rejects.items[0]
    shown = f" ({detail[:60]!r})" if detail else ""
    found = (
        f"{where}: none of the {len(rejects.items):,} rows can be read; first: line {row}: {reason}{shown}"
    )
    if source.path is None:
        return f"{found}; name other columns, or leave such rows out by the query or the filter"
    return f"{found}; run `afina inspect {where}` to see how the file is written"


def read_chunks(
    source: Source,
    root: Path,
    variables: Mapping[str, str],
    wanted: Sequence[str] | None,
    rejects: Rejects,
) -> Iterator[Chunk]:
    """Chunks of any source with the ``wanted`` columns, or all of them where None.

    Raises:
        UserError: as the readers of each kind.
    """
    # Each reader is imported where it is needed: a driver that is not installed hurts no other source.
    kind = source.kind
    if source.url is not None:
        where = f"source {source.label_name}"
        url = expand(source.url, variables, where)
        if kind == "mongo":
            from afina.sources.mongo import read_mongo

            return read_mongo(source, url, where, wanted)
        from afina.sources.sql import read_sql

        return read_sql(source, url, root, where, wanted)
    where = str(source.path)
    path = _existing(root / where, where, kind)
    if kind == "csv":
        from afina.sources.delimited import read_delimited

        return read_delimited(source, path, where, wanted, rejects)
    if kind == "excel":
        from afina.sources.excel import read_excel

        return read_excel(source, path, where, wanted)
    if kind == "jsonl":
        from afina.sources.documents import read_json_lines

        return read_json_lines(source, path, where, wanted, rejects)
    if kind == "json":
        from afina.sources.documents import read_json

        return read_json(source, path, where, wanted, rejects)
    if kind == "parquet":
        from afina.sources.parquet import read_parquet

        return read_parquet(source, path, where, wanted)
    if kind == "folder":
        from afina.sources.folder import read_folder

        return read_folder(source, path, where, wanted, rejects)
    from afina.sources.secrets import SecretUrl
    from afina.sources.sql import read_sql

    return read_sql(source, SecretUrl(f"sqlite:///{path}", ()), root, where, wanted)


def _existing(path: Path, where: str, kind: str) -> Path:
    if not path.exists():
        siblings = sorted(item.name for item in path.parent.iterdir()) if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, siblings, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "copy it there or correct path:"
        raise UserError(f"{where}: no such file or folder; {hint}")
    if kind == "folder" and not path.is_dir():
        raise UserError(f"{where}: a file, not a folder; add format:")
    if kind != "folder" and path.is_dir():
        parts = any(path.rglob("*.parquet"))
        if kind != "parquet" or not parts:
            hint = "parquet" if parts else "folder"
            raise UserError(f"{where}: a folder, not a file; name the file, or set format: {hint}")
    if path.is_file():
        with open_binary(path, where):
            pass  # what may not be read is no damaged workbook or Parquet file
    return path


__all__ = ["SCHEMA", "Extraction", "SourceSummary", "read_chunks", "read_sources"]
