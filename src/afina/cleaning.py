"""What happens to texts and labels before the split: every row comes out or is rejected with a reason.

Texts and labels stay in Arrow; Python sees a text only if some step may change it, each distinct text once.
"""

from __future__ import annotations

import csv
import difflib
import io
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from afina.delimiters import likely_delimiter, told_delimiter
from afina.errors import UserError
from afina.params.clean import CleanParams
from afina.progress import Progress
from afina.runtime.text import (
    TOUCHES,
    WORD,
    clean_text,
    collapse_whitespace,
    strip_accents,
)
from afina.table import REJECTED

Ints = npt.NDArray[np.int64]

# ----------------------------------------------------------------------------------------- texts

POOL_ROWS = 200_000  # texts for Python from which a second process pays
CHUNK_ROWS = 20_000


def clean_texts(
    texts: pa.Array | pa.ChunkedArray, steps: Sequence[str], progress: Progress | None = None
) -> pa.Array:
    """`clean_text` of every text, the same bytes, for a column of millions.

    Args:
        texts: n strings without nulls.
        steps: names from `afina.runtime.text.STEPS`.

    Returns:
        n strings (large_string).

    Raises:
        ValueError: a step is unknown.
    """
    unique, codes = _encode(texts)
    return _clean_unique(unique, steps, progress, len(codes)).take(pa.array(codes))


def _encode(texts: pa.Array | pa.ChunkedArray) -> tuple[pa.Array, Ints]:
    """The distinct strings (large_string) and, for each row, which of them it is."""
    column = pa.chunked_array([texts]) if isinstance(texts, pa.Array) else texts
    encoded = column.cast(pa.large_string()).combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # no chunk, or more text than one array holds
        encoded = pa.concat_arrays([*encoded.chunks, pa.array([], pa.large_string())])
    encoded = encoded.dictionary_encode()
    return encoded.dictionary, encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _clean_unique(unique: pa.Array, steps: Sequence[str], progress: Progress | None, total: int) -> pa.Array:
    """The distinct texts cleaned; ``progress`` ends at ``total``, the rows that they stand for."""
    clean_text("", steps)  # an unknown step fails here, once
    touched = np.zeros(len(unique), dtype=bool)
    for step in steps:
        rest = np.flatnonzero(~touched)
        if not len(rest):
            break
        matches = pc.match_substring_regex(unique.take(pa.array(rest)), pattern=TOUCHES[step])
        touched[rest[matches.to_numpy(zero_copy_only=False)]] = True
    rows = np.flatnonzero(touched)
    if progress is not None:
        progress.advance(total - len(rows))
    if not len(rows):
        return unique
    cleaned = []
    for part in _clean_chunks(unique, rows, list(steps)):
        cleaned.append(part)
        if progress is not None:
            progress.advance(len(part))
    return pc.replace_with_mask(unique, pa.array(touched), pa.concat_arrays(cleaned))


def _clean_chunks(unique: pa.Array, rows: Ints, steps: list[str]) -> Iterator[pa.Array]:
    chunks = [rows[start : start + CHUNK_ROWS] for start in range(0, len(rows), CHUNK_ROWS)]
    texts = (unique.take(pa.array(chunk)) for chunk in chunks)
    processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if len(rows) < POOL_ROWS or processes < 2:
        yield from (_clean_chunk(chunk, steps) for chunk in texts)
        return
    # spawn: forking a process that runs Arrow's threads can hang
    with ProcessPoolExecutor(min(processes, 8), mp_context=get_context("spawn")) as pool:
        yield from pool.map(_clean_chunk, texts, [steps] * len(chunks))


def _clean_chunk(texts: pa.Array, steps: list[str]) -> pa.Array:
    return pa.array([clean_text(text, steps) for text in texts.to_pylist()], type=pa.large_string())


# ---------------------------------------------------------------------------------------- labels


REASONS_SHOWN = 3  # of why rows went, the most frequent ones


def read_label_map(path: Path) -> dict[str, str | None]:
    """Read a label map: a table with the columns ``raw`` (the old name) and ``label`` (the new one).

    A CSV, whose delimiter (comma, semicolon, tab, bar) is the most frequent one in the header, or the first
    sheet of an Excel workbook. Other columns are passed over; an empty new name means: drop.

    Raises:
        UserError: the file cannot be read, is not sound CSV, lacks a column, has a line with more cells than
            columns, or gives one name two new ones.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"clean.label_map: {path}: no such file") from None
    except OSError as error:
        raise UserError(f"clean.label_map: {path}: cannot be read ({error.strerror})") from None
    is_workbook = content.startswith(b"PK\x03\x04")
    lines = _workbook_lines(path, content) if is_workbook else _csv_lines(path, content)
    number, header = next(lines, (1, []))
    columns = [name.strip().lower() for name in header]
    if "raw" not in columns or "label" not in columns:
        found = ", ".join(columns) or "nothing"
        readable = found[:100] if found.isprintable() else "no text; save it as CSV or .xlsx"
        raise UserError(
            f"clean.label_map: {path}: line {number}: expected the column names raw and label, "
            f"found {readable}"
        )
    raw, new = columns.index("raw"), columns.index("label")
    mapping: dict[str, str | None] = {}
    for number, row in lines:
        if not any(cell.strip() for cell in row):
            continue
        if len(row) <= max(raw, new):
            raise UserError(f"clean.label_map: {path}: line {number}: {len(row)} columns")
        if any(cell.strip() for cell in row[len(header) :]):
            raise UserError(
                f"clean.label_map: {path}: line {number}: {len(row)} columns instead of {len(header)}; put "
                "quotes around a name that holds the delimiter"
            )
        if not row[raw].strip():
            continue
        label = row[new].strip() or None
        if mapping.setdefault(row[raw], label) != label:
            raise UserError(f"clean.label_map: {path}: line {number}: '{row[raw]}' has two new names")
    return mapping


def _csv_lines(path: Path, content: bytes) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells of a CSV as spreadsheets write them."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = content.decode("utf-16", errors="replace")
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("cp1252", errors="replace")
    lines = list(io.StringIO(text, newline=""))
    told = told_delimiter(lines[0]) if lines else None
    skipped = 0 if told is None else 1
    delimiter = told or likely_delimiter("".join(lines[:1]))
    # Strict: else a quote that is never closed swallows the rest of the file.
    reader = csv.reader(lines[skipped:], delimiter=delimiter, strict=True)
    begin = skipped + 1
    try:
        for row in reader:
            yield reader.line_num + skipped, row
            begin = reader.line_num + skipped + 1
    except csv.Error as error:
        raise UserError(
            f"clean.label_map: {path}: line {begin}: not CSV ({error}); see whether its quotes close"
        ) from None


def _workbook_lines(path: Path, content: bytes) -> Iterator[tuple[int, list[str]]]:
    """Row numbers and cells of the first sheet of an Excel workbook."""
    import openpyxl

    try:
        sheet = openpyxl.load_workbook(io.BytesIO(content), data_only=True).worksheets[0]
    except Exception as error:  # openpyxl lets through whatever zipfile and its XML parser raise
        raise UserError(f"clean.label_map: {path}: not an Excel workbook ({error})") from None
    for number, row in enumerate(sheet.iter_rows(values_only=True), start=1):
        yield number, ["" if value is None else str(value) for value in row]


def fold_label(name: str) -> str:
    """What labels have in common that differ only in case, accents or spaces; ñ is not n."""
    return strip_accents(collapse_whitespace(name).casefold())


_WHOLE = re.compile(r"\s*(-?[0-9]+)\.0+\s*")


def _without_zeros(name: str) -> str:
    """A whole number without ".0", as `extract` gives labels that are numbers; another name as it is."""
    whole = _WHOLE.fullmatch(name)
    return whole[1] if whole else name


def resolve_labels(
    counts: Mapping[str, int], params: CleanParams, mapping: Mapping[str, str | None]
) -> dict[str, str | None]:
    """Decide the label of every raw name: mapping, then one spelling a label, then drop and keep lists.

    Args:
        counts: raw name -> rows that have it. Spellings of one label become its most frequent one, but a
            spelling that ``mapping`` gives wins.
        mapping: raw name -> label or None (drop). One that it has as ``5.0``, as tables with empty cells have
            whole numbers, is that of ``5`` too, unless it has that name itself.

    Returns:
        raw name -> label, None where the label is dropped.

    Raises:
        UserError: a name maps to two labels, is not mapped (``unmapped: error``), or a name in
            ``keep_labels`` or ``drop_labels`` is no label of the data.
    """
    fold = fold_label if params.fold_labels else str
    folded: dict[str, str | None] = {}
    for name, target in mapping.items():
        label = collapse_whitespace(target) or None if target is not None else None
        if folded.setdefault(fold(name), label) != label:
            raise UserError(
                f"clean.label_map: '{name}' is mapped twice, to {folded[fold(name)]!r} and {label!r}"
            )
    for name in mapping:
        folded.setdefault(fold(_without_zeros(name)), folded[fold(name)])
    mapped = bool(folded) or params.maps_labels
    resolved: dict[str, str | None] = {}
    unmapped = []
    for name in sorted(counts):
        if not collapse_whitespace(name):
            resolved[name] = None
        elif fold(name) in folded:
            resolved[name] = folded[fold(name)]
        else:
            unmapped.append(name)
            resolved[name] = None if mapped and params.unmapped == "drop" else collapse_whitespace(name)
    if mapped and unmapped and params.unmapped == "error":
        shown = ", ".join(f"'{name}'" for name in unmapped[:5]) + (" ..." if len(unmapped) > 5 else "")
        raise UserError(
            f"clean.label_map: {len(unmapped)} labels are not in it: {shown}; "
            "add them or set clean.unmapped to keep"
        )
    resolved = _one_spelling(resolved, counts, {label for label in folded.values() if label}, fold)
    present = {fold(label): label for label in resolved.values() if label is not None}
    dropped = {fold(name) for name in _known(params.drop_labels, present, fold, "drop_labels")}
    kept = {fold(name) for name in _known(params.keep_labels, present, fold, "keep_labels")}
    return {
        name: label
        if label is not None and fold(label) not in dropped and (not kept or fold(label) in kept)
        else None
        for name, label in resolved.items()
    }


def _one_spelling(
    resolved: dict[str, str | None], counts: Mapping[str, int], given: set[str], fold: Any
) -> dict[str, str | None]:
    rows: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for name, label in resolved.items():
        if label is not None:
            rows[fold(label)][label] += counts[name]
    spelling = {
        key: min(spellings, key=lambda label: (label not in given, -spellings[label], label))
        for key, spellings in rows.items()
    }
    return {name: None if label is None else spelling[fold(label)] for name, label in resolved.items()}


def _known(names: Sequence[str], present: Mapping[str, str], fold: Any, parameter: str) -> Sequence[str]:
    for name in names:
        if fold(name) not in present:
            near = difflib.get_close_matches(fold(name), present, n=1)
            hint = f"; did you mean '{present[near[0]]}'?" if near else ""
            raise UserError(f"clean.{parameter}: the data has no label '{name}'{hint}")
    return names


# ------------------------------------------------------------------------------------------ rows

EMPTY, SHORT, NO_LABEL, DROPPED, SEVERAL, DUPLICATE, CONFLICT, MERGED, RARE, ELSEWHERE = range(1, 11)
REASONS = {
    EMPTY: "empty text",
    SHORT: "too few words",
    NO_LABEL: "no label",
    DROPPED: "label dropped",
    SEVERAL: "several labels",
    DUPLICATE: "duplicate",
    CONFLICT: "conflicting labels",
    MERGED: "merged",
    RARE: "rare label",
    ELSEWHERE: "other label in another split",
}
"""Why rows are rejected, as counted in cleaning.json."""

# Of rows with one text those in a given test split stay, so that the test stays as it was given.
_SPLIT_RANK = {"test": 0, "validation": 1, "train": 2}


@dataclass(frozen=True)
class Cleaned:
    """What the clean stage gives on."""

    table: pa.Table  # afina.table.SCHEMA
    rejected: pa.Table  # afina.table.REJECTED
    labels: dict[str, Any]  # labels.json
    counts: dict[str, Any]  # cleaning.json
    label_map: list[tuple[str, str, int]]  # raw name, label ("" = dropped), rows

    def describe(self) -> str:
        """One line: what stayed, why most of the rest did not, and names that the label map has in vain."""
        counts, labels, unused = self.counts, self.labels, self.counts["unused_label_map_names"]
        reasons = sorted(counts["rejected"].items(), key=lambda item: (-item[1], item[0]))
        why = ", ".join(f"{count:,} {reason}" for reason, count in reasons[:REASONS_SHOWN])
        hidden = len(reasons) - REASONS_SHOWN
        more = f" and {hidden} more reason{'s' if hidden > 1 else ''}" if hidden > 0 else ""
        return (
            f"{counts['rows_out']:,} of {counts['rows_in']:,} rows kept{f' ({why}{more})' if why else ''}, "
            f"{len(labels['labels'])} labels, {labels['task']}"
        ) + (f"; {len(unused)} names in label_map occur nowhere, such as {unused[0]!r}" if unused else "")

    def notes(self) -> list[str]:
        """One line for each label that every row has, where a row may have several."""
        everywhere = [name for name, count in self.labels["counts"].items() if count == self.table.num_rows]
        return [
            f"every row has the label {name!r}: there is nothing to learn, and its F1 raises the averages; "
            "see clean.drop_labels"
            for name in (everywhere if self.labels["task"] == "multilabel" else [])
        ]

    def require_classes(self) -> None:
        """Check that there is something to learn.

        Raises:
            UserError: no row is left, or a single class.
        """
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.counts["rejected"].items())
        if not self.table.num_rows:
            raise UserError(
                f"clean: no row is left (rejected: {reasons or 'none'}); see data/clean/rejected.csv"
            )
        counts = self.labels["counts"]
        if not counts or (len(counts) == 1 and self.table.num_rows in counts.values()):
            found = f"only '{next(iter(counts))}'" if counts else "none"
            raise UserError(
                f"clean: {found} is left as a label and a classifier needs two; does label: in extract name "
                "the right column? See top_k, label_map and the like in clean, and data/clean/rejected.csv; "
                "rows without a label stay by task: multilabel and unlabelled: keep"
            )


class _Rows:
    """The rows while they are being decided upon: for each its text, its labels, and why it went."""

    def __init__(self, table: pa.Table, texts: Ints, pairs: tuple[Ints, Ints], labels: list[str]) -> None:
        self.count = table.num_rows
        self.text = texts  # (n,) number of the row's cleaned text
        self.pair_row, self.pair_label = pairs  # (m,) each: row, label; sorted, distinct
        self.labels = labels
        self.reason = np.zeros(self.count, dtype=np.int8)  # 0 = the row stays
        self.kept_row = np.full(self.count, -1, dtype=np.int64)  # the row that stands for a duplicate
        ranks = pc.fill_null(pc.index_in(table["split"], pa.array(list(_SPLIT_RANK))), len(_SPLIT_RANK))
        self.split_rank = np.asarray(ranks, dtype=np.int64)  # (n,)
        by_id = np.asarray(pc.sort_indices(table["id"]), dtype=np.int64)
        id_rank = np.empty(self.count, dtype=np.int64)
        id_rank[by_id] = np.arange(self.count)
        self.preference = self.split_rank * max(self.count, 1) + id_rank  # of equal rows the lowest stays

    def alive(self) -> npt.NDArray[np.bool_]:
        staying: npt.NDArray[np.bool_] = self.reason == 0
        return staying

    def reject(self, rows: Ints | npt.NDArray[np.bool_], reason: int) -> None:
        chosen = np.zeros(self.count, dtype=bool)
        chosen[rows] = True
        self.reason[chosen & self.alive()] = reason

    def label_counts(self) -> Ints:
        """Rows that stay, by label (L,)."""
        staying = self.alive()[self.pair_row]
        return np.bincount(self.pair_label[staying], minlength=len(self.labels)).astype(np.int64)

    def sizes(self) -> Ints:
        """Number of labels of each row (n,)."""
        return np.bincount(self.pair_row, minlength=self.count).astype(np.int64)

    def set_pairs(self, rows: Ints, labels: Ints) -> None:
        """Replace the rows' labels by the given (row, label) pairs, sorted and each once."""
        width = max(len(self.labels), 1)
        pairs = np.unique(rows * width + labels)
        self.pair_row, self.pair_label = pairs // width, pairs % width

    def label_lists(self, rows: Ints) -> pa.Array:
        """The label names of each of ``rows``, in their order."""
        starts = np.searchsorted(self.pair_row, rows)
        sizes = self.sizes()[rows]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        take = np.repeat(starts - offsets[:-1], sizes) + np.arange(offsets[-1])
        names = pa.array(self.labels, pa.string()).take(pa.array(self.pair_label[take]))
        return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), names)

    def label_sets(self) -> Ints:
        """A number for each row's set of labels (n,): equal sets, equal numbers."""
        sizes = self.sizes()
        if not len(sizes) or sizes.max(initial=0) <= 1:
            single = np.full(self.count, -1, dtype=np.int64)
            single[self.pair_row] = self.pair_label
            return single
        names = pa.array([str(number) for number in range(len(self.labels))], pa.string())
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        lists = pa.ListArray.from_arrays(pa.array(offsets), names.take(pa.array(self.pair_label)))
        return np.asarray(pc.binary_join(lists, " ").dictionary_encode().indices, dtype=np.int64)


def clean(
    table: pa.Table,
    params: CleanParams,
    mapping: Mapping[str, str | None] | None = None,
    progress: Progress | None = None,
) -> Cleaned:
    """Clean texts and labels, merge duplicates, settle conflicts and drop rare labels, in this order.

    Args:
        table: rows as in `afina.table.SCHEMA`, at least one.
        mapping: raw label -> label or None (drop); by default an inline ``params.label_map``.

    Raises:
        UserError: see `resolve_labels`; or a parameter that needs the other task.
        RuntimeError: a row was lost, which would be an error of this module.
    """
    if mapping is None:
        mapping = params.label_map if isinstance(params.label_map, dict) else {}
    raw_unique, raw_codes = _encode(table["text"])
    cleaned_unique = _clean_unique(raw_unique, params.steps, progress, table.num_rows)
    unique, codes = _encode(cleaned_unique)
    changed = int(np.asarray(pc.not_equal(raw_unique, cleaned_unique))[raw_codes].sum())
    del raw_unique, cleaned_unique

    raw_names, raw_rows, raw_labels = _label_pairs(table["labels"])
    raw_counts = dict(zip(raw_names, np.bincount(raw_labels, minlength=len(raw_names)).tolist(), strict=True))
    resolved = resolve_labels(raw_counts, params, mapping)
    given = {label for label in resolved.values() if label is not None}
    other = _other(params, given)
    names = sorted(given | ({other} if other else set()))
    index = {name: number for number, name in enumerate(names)}
    new_label = np.array([index.get(resolved[name] or "", -1) for name in raw_names], dtype=np.int64)
    pair_label = new_label[raw_labels] if len(raw_names) else raw_labels
    named = pair_label >= 0

    rows = _Rows(table, codes[raw_codes], (raw_rows[:0], raw_labels[:0]), names)
    rows.set_pairs(raw_rows[named], pair_label[named])
    task = _task(rows, params)

    words = np.asarray(pc.count_substring_regex(unique, pattern=WORD), dtype=np.int64)[rows.text]
    rows.reject(words == 0, EMPTY)
    rows.reject(words < params.min_words, SHORT)
    if params.unlabelled == "drop":
        had_any = np.zeros(rows.count, dtype=bool)
        blank = np.array([not collapse_whitespace(name) for name in raw_names], dtype=bool)
        had_any[raw_rows[~blank[raw_labels]] if len(raw_names) else raw_rows] = True
        rows.reject(~had_any, NO_LABEL)
        rows.reject(rows.sizes() == 0, DROPPED)
    if task == "multiclass":
        rows.reject(rows.sizes() > 1, SEVERAL)
    votes = _merge_duplicates(rows)
    _settle_conflicts(rows, votes, params.conflicts)
    renamed = _drop_rare(rows, params, other)

    kept = np.flatnonzero(rows.alive())
    result = table.take(pa.array(kept))
    result = result.set_column(
        result.schema.get_field_index("text"),
        "text",
        unique.take(pa.array(rows.text[kept])).cast(pa.string()),
    )
    result = result.set_column(result.schema.get_field_index("labels"), "labels", rows.label_lists(kept))
    rejected = _rejected(table, rows, unique, params)
    if result.num_rows + rejected.num_rows != table.num_rows:
        raise RuntimeError(
            f"clean: {table.num_rows} rows in are not {result.num_rows} out and {rejected.num_rows} rejected"
        )
    label_counts = {name: int(count) for name, count in zip(names, rows.label_counts(), strict=True) if count}
    by_reason = {REASONS[code]: int((rows.reason == code).sum()) for code in REASONS}
    counts = {
        "rows_in": table.num_rows,
        "rows_out": result.num_rows,
        "rows_rejected": rejected.num_rows,
        "rejected": {reason: count for reason, count in by_reason.items() if count},
        "texts_changed": changed,
        "labels_in": len(raw_names),
        "labels_out": len(label_counts),
        "unused_label_map_names": _unused(mapping, raw_names, params.fold_labels),
    }
    labels = {
        "task": task,
        "labels": sorted(label_counts),
        "counts": dict(sorted(label_counts.items())),
        "cleaning": {"steps": list(params.steps)},
    }
    final = {name: renamed.get(label or "", label) for name, label in resolved.items()}
    label_map = [(name, final[name] or "", raw_counts[name]) for name in sorted(raw_names)]
    return Cleaned(result, rejected, labels, counts, label_map)


def _label_pairs(column: pa.ChunkedArray) -> tuple[list[str], Ints, Ints]:
    """The distinct raw names, and for each label of each row (row, number of the name)."""
    lists = column.combine_chunks() if column.num_chunks else pa.array([], column.type)
    values = pc.list_flatten(lists).dictionary_encode()
    sizes = np.asarray(pc.fill_null(pc.list_value_length(lists), 0), dtype=np.int64)
    rows = np.repeat(np.arange(len(lists)), sizes)
    labels = values.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return values.dictionary.to_pylist(), rows, labels


def _task(rows: _Rows, params: CleanParams) -> str:
    if params.task != "auto":
        return params.task
    if rows.sizes().max(initial=0) > 1:
        return "multilabel"
    for parameter, value in (("conflicts", "union"), ("unlabelled", "keep")):
        if getattr(params, parameter) == value:
            raise UserError(
                f"clean.{parameter}: '{value}' needs several labels a row and no row has two; "
                "set clean.task to multilabel if that is what it is"
            )
    return "multiclass"


def _merge_duplicates(rows: _Rows) -> Ints:
    """Reject rows with the text and the labels of another.

    Returns:
        (n,) how many rows of its own split each row that stays stands for.
    """
    staying = np.flatnonzero(rows.alive())
    votes = np.zeros(rows.count, dtype=np.int64)
    if not len(staying):
        return votes
    sets = rows.label_sets()
    order = staying[np.lexsort((rows.preference[staying], sets[staying], rows.text[staying]))]
    first, kept = _leaders(order, rows.text, sets)
    rows.kept_row[order[~first]] = kept[~first]
    rows.reject(order[~first], DUPLICATE)
    np.add.at(votes, kept, rows.split_rank[order] == rows.split_rank[kept])
    return votes


def _settle_conflicts(rows: _Rows, votes: Ints, policy: str) -> None:
    """Decide about texts that stand under different labels; ``votes`` as `_merge_duplicates` gives them."""
    if policy == "keep":
        return
    _prefer_given_test(rows)
    staying = np.flatnonzero(rows.alive())
    # within a text: most votes first; for a union the preferred row first
    rank = rows.preference if policy == "union" else -votes
    order = staying[np.lexsort((rows.preference[staying], rank[staying], rows.text[staying]))]
    texts = rows.text[order]
    first, winner = _leaders(order, rows.text)
    losing = ~first
    contested = np.isin(texts, texts[losing])
    if policy == "union":
        target = np.arange(rows.count)
        target[order] = winner
        rows.set_pairs(target[rows.pair_row], rows.pair_label)
        _reject_with_duplicates(rows, order[losing], winner[losing], MERGED)
        return
    if policy == "majority":
        second = np.zeros(len(order), dtype=bool)
        second[1:] = first[:-1] & losing[1:]
        tied = texts[second & (votes[order] == votes[winner])]
        lost = losing | (contested & np.isin(texts, tied))
        kept = np.where(np.isin(texts, tied), -1, winner)
    else:
        lost, kept = contested, np.full(len(order), -1, dtype=np.int64)
    _reject_with_duplicates(rows, order[lost], kept[lost], CONFLICT)


def _prefer_given_test(rows: _Rows) -> None:
    """Of one text under different labels in different splits: those in train never outvote those in test."""
    staying = np.flatnonzero(rows.alive())
    order = staying[np.lexsort((rows.preference[staying], rows.text[staying]))]
    _, preferred = _leaders(order, rows.text)
    lost = rows.split_rank[order] > rows.split_rank[preferred]
    _reject_with_duplicates(rows, order[lost], preferred[lost], ELSEWHERE)


def _leaders(order: Ints, *keys: Ints) -> tuple[npt.NDArray[np.bool_], Ints]:
    """Of sorted rows, which ones begin a run of equal ``keys`` (n,), and the first row of each one's run."""
    first = np.ones(len(order), dtype=bool)
    first[1:] = np.any([key[order[1:]] != key[order[:-1]] for key in keys], axis=0)
    return first, order[first][np.cumsum(first) - 1]


def _reject_with_duplicates(rows: _Rows, lost: Ints, kept: Ints, reason: int) -> None:
    """Reject rows in favour of ``kept`` (-1 = nobody), and with them the duplicates merged into them."""
    heir = np.full(rows.count + 1, -2, dtype=np.int64)
    heir[lost] = kept
    rows.kept_row[lost] = kept
    rows.reject(lost, reason)
    followers = np.flatnonzero((rows.reason == DUPLICATE) & (heir[rows.kept_row] != -2))
    rows.kept_row[followers] = heir[rows.kept_row[followers]]
    rows.reason[followers] = reason


def _other(params: CleanParams, labels: set[str]) -> str | None:
    """What rare labels become: ``params.other``, spelt as the data spell it where they have it too."""
    if params.other is None or not params.fold_labels:
        return params.other
    folded = fold_label(params.other)
    return next((label for label in sorted(labels) if fold_label(label) == folded), params.other)


def _drop_rare(rows: _Rows, params: CleanParams, name: str | None) -> dict[str, str | None]:
    """Apply ``top_k`` and ``min_count``; returns label -> what became of it (``name`` or None)."""
    other = rows.labels.index(name) if name is not None else -1
    renamed: dict[str, str | None] = {}
    top_k = params.top_k
    while True:
        counts = rows.label_counts()
        candidates = [label for label in np.flatnonzero(counts).tolist() if label != other]
        candidates.sort(key=lambda label: (-counts[label], rows.labels[label]))
        rare = set(candidates[top_k:]) if top_k is not None else set()
        rare |= {label for label in candidates if counts[label] < (params.min_count or 0)}
        if not rare:
            return renamed
        top_k = None  # once: labels counted again after a merge are not ranked again
        renamed |= {rows.labels[label]: name for label in rare}
        is_rare = np.isin(rows.pair_label, list(rare))
        if other >= 0:
            rows.set_pairs(rows.pair_row, np.where(is_rare, other, rows.pair_label))
        else:
            rows.set_pairs(rows.pair_row[~is_rare], rows.pair_label[~is_rare])
        if params.unlabelled == "drop":
            rows.reject(rows.sizes() == 0, RARE)
        _merge_duplicates(rows)


def _rejected(table: pa.Table, rows: _Rows, unique: pa.Array, params: CleanParams) -> pa.Table:
    gone = np.flatnonzero(~rows.alive())
    codes = rows.reason[gone]
    reasons = {
        **REASONS,
        SHORT: f"fewer than {params.min_words} words",
        SEVERAL: "several labels in a multiclass task",
        CONFLICT: "same text under other labels"
        + (", no majority" if params.conflicts == "majority" else ""),
        RARE: "rare label (top_k or min_count)",
    }
    plain = pa.array([reasons.get(code, "") for code in range(max(reasons) + 1)]).take(pa.array(codes))
    prefixes = {
        DUPLICATE: "duplicate of ",
        CONFLICT: "same text under another label, which has the majority: ",
        MERGED: "labels merged into ",
        ELSEWHERE: "same text under another label in a split that stays as given: ",
    }
    prefix = pa.array([prefixes.get(code, "") for code in range(max(reasons) + 1)]).take(pa.array(codes))
    kept = rows.kept_row[gone]
    ids = table["id"].take(pa.array(np.maximum(kept, 0))).combine_chunks()
    named = pc.binary_join_element_wise(prefix, ids, "")
    reason = pc.if_else(pa.array((kept >= 0) & np.isin(codes, list(prefixes))), named, plain)
    text = pc.utf8_slice_codeunits(unique.take(pa.array(rows.text[gone])), 0, 200).cast(pa.string())
    labelled = np.isin(codes, (DROPPED, SEVERAL, RARE, CONFLICT, ELSEWHERE))
    labels = pc.binary_join(table["labels"].take(pa.array(gone)).combine_chunks(), "|")
    detail = pc.if_else(pa.array(labelled), pc.utf8_slice_codeunits(labels, 0, 200), text)
    columns = {
        "id": table["id"].take(pa.array(gone)),
        "source": table["source"].take(pa.array(gone)),
        "row": pa.nulls(len(gone), pa.int64()),
        "reason": reason,
        "detail": detail,
    }
    return pa.table(columns).cast(REJECTED)


def _unused(mapping: Mapping[str, str | None], raw_names: Sequence[str], folded: bool) -> list[str]:
    fold = fold_label if folded else str
    present = {fold(name) for name in raw_names}
    return sorted(name for name in mapping if present.isdisjoint((fold(name), fold(_without_zeros(name)))))
