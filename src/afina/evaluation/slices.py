"""Scores by slice of the test rows: by source, length of the text, month, or any other column.

What is comparable between slices is accuracy (multiclass) or micro-F1 (multilabel), in which every row, or
every label of a row, counts the same. Macro-F1 over all labels is not: a label without a row in the slice
would count as 0. Here it runs over the labels that the slice has, and tells one model from another on the
same slice, but hardly one slice from another.

A slice may score low because its labels are the hard ones. So each has its expected score beside its own:
what it would be if each label were found, and wrongly predicted, as often in the slice as in all rows
(indirect standardisation, as of death rates for age). A score far below it is due to something else.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from afina.evaluation.intervals import (
    Interval,
    effective_rows,
    headline_metrics,
    row_counts,
    wilson_interval,
)
from afina.evaluation.metrics import FEW_ROWS, Counts, IntArray, count, one_hot, ratio
from afina.labels import Task

NO_VALUE = "(none)"
OTHER = "(other)"  # the values with too few rows, together, and those too many
MIN_ROWS = 10  # none of ten rows right: still a score of up to 0.28
MAX_VALUES = 50  # of one column: more are free text, or codes, and nobody reads them

Column = Sequence[str | None]  # the value of each row


# --------------------------------------------------------------------------------------- columns


def slice_columns(
    sources: Sequence[str],
    texts: Sequence[str],
    times: Sequence[datetime | None],
    tokens: Sequence[int] | None = None,
    max_length: int | None = None,
) -> dict[str, Column]:
    """The columns there are for any data: source, length, truncated and month.

    Args:
        sources: n names.
        texts: n texts.
        times: n times, or None.
        tokens: of each text, before truncation, where they are known.
        max_length: longest sequence in tokens that the model sees; truncated needs both.
    """
    columns: dict[str, Column] = {
        "source": list(sources),
        "length": length_column([len(text.split()) for text in texts]),
        "month": month_column(times),
    }
    if tokens is not None and max_length is not None:
        columns["truncated"] = truncated_column(tokens, max_length)
    return columns


def named_columns(slices: Sequence[Sequence[tuple[str, str]] | None]) -> dict[str, Column]:
    """The columns that the sources map to slices, one a name, sorted; None where a row lacks it.

    Args:
        slices: (name, value) pairs of each row, as in `afina.table.SCHEMA`; None where it has none.
    """
    rows = [dict(pairs or ()) for pairs in slices]
    names = sorted({name for row in rows for name in row})
    return {name: [row.get(name) for row in rows] for name in names}


def length_column(lengths: Sequence[int], unit: str = "words") -> list[str]:
    """The quarter of the rows, by length, that each row is in, as "12-25 words".

    The names hold the shortest and the longest in the quarter. Equal lengths are never parted, so quarters
    may be uneven, or fewer than four.

    Args:
        lengths: of n texts, 0 or more.
        unit: what they are counted in, in the plural.
    """
    values = np.asarray(lengths, dtype=np.int64)
    if not len(values):
        return []
    edges = np.unique(np.quantile(values, (0.25, 0.5, 0.75), method="inverted_cdf"))
    place = np.searchsorted(edges, values, side="left")  # a quarter holds its upper edge
    names = {}
    for number in np.unique(place).tolist():
        members = values[place == number]
        names[number] = _range_name(int(members.min()), int(members.max()), unit)
    return [names[number] for number in place.tolist()]


def truncated_column(tokens: Sequence[int], max_length: int) -> list[str]:
    """Whether each text lost its end: yes where it has more tokens than the model sees, else no.

    Args:
        tokens: of n texts, special ones included, before truncation.
        max_length: longest sequence in tokens.
    """
    return ["yes" if length > max_length else "no" for length in tokens]


def truncation(tokens: Sequence[int], max_length: int) -> dict[str, Any]:
    """How many texts the model does not see whole; arguments as `truncated_column`."""
    longer = sum(length > max_length for length in tokens)
    return {"window": max_length, "texts": longer, "share": round(longer / max(len(tokens), 1), 6)}


def month_column(times: Sequence[datetime | None]) -> list[str | None]:
    """The month of each time as YYYY-MM, None where there is none."""
    return [None if time is None else f"{time.year:04d}-{time.month:02d}" for time in times]


def _range_name(shortest: int, longest: int, unit: str) -> str:
    if shortest == longest:
        return f"1 {unit.removesuffix('s')}" if longest == 1 else f"{longest} {unit}"
    return f"{shortest}-{longest} {unit}"


# ---------------------------------------------------------------------------------------- scores


@dataclass(frozen=True)
class Slice:
    """The rows with one value of one column, as in `slices_header`."""

    column: str
    value: str
    rows: int
    few_rows: str | None  # yes where there are fewer than `FEW_ROWS`
    score: float | None  # accuracy or micro-F1; None where no row has a label, nor was one predicted
    low: float | None  # interval of the score
    high: float | None
    expected: float | None  # score if each label went as in all rows
    macro_f1: float | None  # over the labels present; None without one
    labels: int  # labels present: with a row in the slice


def slices_header(task: Task) -> tuple[str, ...]:
    """The names of the fields of `Slice` in a table, with the score's own."""
    _, score = headline_metrics(task)
    return (
        "column",
        "value",
        "rows",
        "few_rows",
        score,
        f"{score}_low",
        f"{score}_high",
        f"expected_{score}",
        "macro_f1",
        "labels",
    )


def slice_rows(
    y_true: IntArray,
    predicted: IntArray,
    columns: Mapping[str, Column],
    label_count: int,
    task: Task,
    min_rows: int = MIN_ROWS,
    level: float = 0.95,
    max_values: int = MAX_VALUES,
) -> list[Slice]:
    """Scores of the slices of every column, the one most surely bad first.

    That is the order of the upper ends of the intervals: of two slices with the same score the larger comes
    first. A row without a value is in the slice "(none)". Values with fewer than ``min_rows`` rows are one
    slice, "(other)", unless there is but one of them; slices that are still smaller come last. Of a column
    with more than ``max_values`` values then (free text, codes), only the largest are slices of their own
    and the rest is in "(other)" too. A column that leaves all rows in one slice gives nothing; nor does
    "(none)" where those rows are a slice of an earlier column already, as where a source lacks the column.

    The interval is Wilson's (see `wilson_interval`). For micro-F1 it takes as many rows as would be worth
    the rows at hand if each were right or wrong as a whole, see `effective_rows`.

    Args:
        y_true: class indexes (n,) or multi-hot (n, L).
        predicted: the same shape.
        columns: the value of each row, n, by name; see `slice_columns`.
        label_count: L.
        task: multiclass or multilabel.
        min_rows: values with fewer rows are pooled.
        level: of the intervals, for example 0.95.
        max_values: slices of a column with a name of their own, besides "(other)".

    Raises:
        ValueError: a column has not one value a row.
    """
    truth, guess = one_hot(y_true, label_count), one_hot(predicted, label_count)
    overall = count(truth, guess, label_count)
    found: list[Slice] = []
    named: set[bytes] = set()  # which rows each slice so far holds
    for column, values in columns.items():
        if len(values) != len(truth):
            raise ValueError(f"column {column}: {len(values)} values for {len(truth)} rows")
        pooled = _pool(values, min_rows, max_values)
        places = {name: place for place, name in enumerate(sorted(set(pooled)))}
        if len(places) < 2:
            continue
        where = np.array([places[name] for name in pooled])
        for name, place in places.items():
            rows = where == place
            if name == NO_VALUE and rows.tobytes() in named:
                continue
            named.add(rows.tobytes())
            found.append(
                _score_slice(column, name, truth[rows], guess[rows], overall, len(truth), task, level)
            )
    return sorted(found, key=lambda part: (part.rows < min_rows, *_surely_bad(part)))


def _surely_bad(part: Slice) -> tuple[float, float, str, str]:
    high, score = (math.inf if edge is None else edge for edge in (part.high, part.score))
    return high, score, part.column, part.value


def _pool(values: Column, min_rows: int, max_values: int) -> list[str]:
    """The slice of each row."""
    named = [NO_VALUE if value is None else value for value in values]
    counts = Counter(named)
    small = {value for value, rows in counts.items() if rows < min_rows}
    pooled = small if len(small) > 1 else set()
    # of equally large ones the first by name, so that the order of the rows does not matter
    ranked = sorted(counts.keys() - pooled, key=lambda value: (-counts[value], value))
    pooled |= set(ranked[max_values:])
    return [OTHER if value in pooled else value for value in named]


def _score_slice(
    column: str,
    value: str,
    truth: IntArray,
    guess: IntArray,
    overall: Counts,
    total: int,
    task: Task,
    level: float,
) -> Slice:
    """Score the rows of a slice, multi-hot (m, L), beside the counts of all ``total`` rows."""
    rows, label_count = truth.shape
    counts = count(truth, guess, label_count)
    present = counts.support > 0
    score, interval = _micro_f1(truth, guess, level)
    return Slice(
        column,
        value,
        rows,
        "yes" if rows < FEW_ROWS else None,
        _number(score),
        None if interval is None else _number(interval.low),
        None if interval is None else _number(interval.high),
        _number(_expected(counts.support, rows, overall, total, task)),
        _number(float(counts.f1[present].mean())) if present.any() else None,
        int(present.sum()),
    )


def _expected(support: IntArray, rows: int, overall: Counts, total: int, task: Task) -> float | None:
    """Micro-F1 of rows with this support (L,) if each label went as in all rows; None where that is 0/0."""
    correct = float(np.sum(support * overall.recall))
    if task == "multiclass":  # one label a row, predicted and true: micro-F1 is accuracy
        return correct / rows
    false_rate = ratio(overall.predicted - overall.correct, total - overall.support)
    size = float(np.sum(support)) + correct + float(np.sum((rows - support) * false_rate))
    return 2 * correct / size if size else None


def _micro_f1(truth: IntArray, guess: IntArray, level: float) -> tuple[float | None, Interval | None]:
    """Micro-F1 of multi-hot rows (m, L), and its interval."""
    hits, sizes = row_counts(truth, guess)
    if not sizes.any():
        return None, None
    score = int(hits.sum()) / int(sizes.sum())
    return score, wilson_interval(score, effective_rows(hits, sizes, level), level)


def _number(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
