"""Scores by slice: columns, scores, intervals, order and pooling, by hand, by simulation and by laws."""

from __future__ import annotations

import runpy
from dataclasses import astuple
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afina.evaluation.intervals import bootstrap_intervals, wilson_interval
from afina.evaluation.metrics import count, prediction_metrics
from afina.evaluation.slices import (
    NO_VALUE,
    OTHER,
    Slice,
    length_column,
    month_column,
    named_columns,
    slice_columns,
    slice_rows,
    slices_header,
    truncated_column,
)
from afina.labels import Task
from afina.table import SCHEMA

TASKS: tuple[Task, ...] = ("multiclass", "multilabel")
SEEDS = st.integers(0, 2**32 - 1)


def drawn(task: Task, rows: int, seed: int) -> tuple[Any, Any, list[str | None]]:
    """Truth, predictions that are mostly right, and a column of four values and None."""
    generator = np.random.default_rng(seed)
    if task == "multiclass":
        y: Any = generator.integers(0, 4, rows)
        predicted = np.where(generator.random(rows) < 0.7, y, generator.integers(0, 4, rows))
    else:
        y = (generator.random((rows, 4)) < 0.4).astype(np.int8)
        predicted = np.where(generator.random((rows, 4)) < 0.15, 1 - y, y).astype(np.int8)
    column = [None if value == 4 else "abcd"[value] for value in generator.integers(0, 5, rows)]
    return y, predicted, column


def of(rows: list[Slice], value: str) -> Slice:
    (found,) = [row for row in rows if row.value == value]
    return found


# columns


def test_lengths_are_named_by_what_is_in_them() -> None:
    assert length_column([3, 12, 40, 5, 25, 13, 90, 60]) == [
        "3-5 words",
        "12-13 words",
        "25-40 words",
        "3-5 words",
        "25-40 words",
        "12-13 words",
        "60-90 words",
        "60-90 words",
    ]
    assert length_column([1, 2, 7, 9], "tokens") == ["1 token", "2 tokens", "7 tokens", "9 tokens"]
    assert length_column([]) == []


def test_equal_lengths_are_never_parted() -> None:
    assert length_column([5] * 10) == ["5 words"] * 10
    # three quarters are of length 1: the first quarter takes them all
    assert length_column([1, 1, 1, 4]) == ["1 word"] * 3 + ["4 words"]
    assert length_column([0, 2, 2, 2, 2, 2, 2, 2]) == ["0-2 words"] * 8


@given(st.lists(st.integers(0, 50), min_size=1, max_size=80))
@settings(max_examples=60, deadline=None)
def test_every_length_is_within_its_name(lengths: list[int]) -> None:
    names = length_column(lengths)
    assert len(set(names)) <= 4
    for length, name in zip(lengths, names, strict=True):
        edges = [int(edge) for edge in name.split()[0].split("-")]
        assert edges[0] <= length <= edges[-1]


def test_months_and_truncation() -> None:
    times = [datetime(2025, 1, 2, 19, 38), None, datetime(2024, 12, 31)]
    assert month_column(times) == ["2025-01", None, "2024-12"]
    assert truncated_column([5, 128, 129], 128) == ["no", "no", "yes"]


def test_columns_of_any_data() -> None:
    arguments = ["x.csv", "y.csv"], ["uno  dos\n tres", ""], [datetime(2025, 3, 1), None]
    assert slice_columns(*arguments) == {
        "source": ["x.csv", "y.csv"],
        "length": ["3 words", "0 words"],
        "month": ["2025-03", None],
    }
    assert slice_columns(*arguments, tokens=[9, 2], max_length=8)["truncated"] == ["yes", "no"]
    assert set(slice_columns([], [], [])) == {"source", "length", "month"}


def test_columns_that_the_sources_name() -> None:
    slices = [[("channel", "web"), ("office", "Sur")], None, [("office", "3")], []]
    assert named_columns(slices) == {
        "channel": ["web", None, None, None],
        "office": ["Sur", None, "3", None],
    }
    assert named_columns([None, []]) == {}
    assert named_columns([]) == {}


def test_the_stage_slices_by_what_the_test_split_has(repository: Path) -> None:
    rows = pa.Table.from_pylist(
        [
            {"source": "a", "text": "uno", "slices": [("office", "Sur")]},
            {"source": "b", "text": "dos", "slices": [("channel", "web"), ("office", "Sur")]},
            {"source": "b", "text": "dos", "slices": None},
        ],
        schema=pa.schema([SCHEMA.field(name) for name in ("source", "text", "time", "slices")]),
    )
    columns = runpy.run_path(str(repository / "pipeline" / "evaluate.py"))["columns"]
    assert columns(rows, [3, 9, 9], 8) == {
        "channel": [None, "web", None],
        "office": ["Sur", "Sur", None],
        "source": ["a", "b", "b"],
        "length": ["1 word"] * 3,
        "month": [None] * 3,
        "truncated": ["no", "yes", "yes"],
    }
    rows = rows.set_column(3, SCHEMA.field("slices"), pa.nulls(3, SCHEMA.field("slices").type))
    found = columns(rows, [3, 9, 9], 8)
    assert set(found) == {"source", "length", "month", "truncated"}


def test_the_stage_counts_what_the_backbone_does_not_see_whole(repository: Path) -> None:
    truncation = runpy.run_path(str(repository / "pipeline" / "evaluate.py"))["truncation"]
    assert truncation([3, 8, 9], 8) == {"window": 8, "texts": 1, "share": 0.333333}
    assert truncation([], 8) == {"window": 8, "texts": 0, "share": 0.0}


# scores


def test_a_slice_of_classes_by_hand() -> None:
    """Class 0 is found in 3 of 4 rows, class 1 in 1 of 2, class 2 in 0 of 2: 4 of 8."""
    y = np.array([0, 0, 1, 2, 0, 0, 1, 2])
    predicted = np.array([0, 1, 1, 0, 0, 0, 0, 1])
    rows = slice_rows(y, predicted, {"source": list("xxxxyyyy")}, 3, "multiclass", min_rows=1)
    x = of(rows, "x")
    assert (x.column, x.rows, x.few_rows, x.labels) == ("source", 4, "yes", 3)
    # F1: 2/4, 2/3, 0
    assert x.macro_f1 == pytest.approx((1 / 2 + 2 / 3) / 3, abs=1e-6)
    assert x.score == 0.5
    interval = wilson_interval(0.5, 4)
    assert (x.low, x.high) == pytest.approx((interval.low, interval.high), abs=1e-6)
    assert x.expected == (2 * 0.75 + 0.5 + 0) / 4
    assert of(rows, "y").expected == 0.5


def test_a_slice_of_label_sets_by_hand() -> None:
    y = np.array([[1, 0], [1, 1], [0, 1], [0, 0], [1, 0], [0, 0]], dtype=np.int8)
    predicted = np.array([[1, 0], [1, 0], [0, 1], [1, 0], [1, 0], [0, 1]], dtype=np.int8)
    rows = slice_rows(y, predicted, {"source": list("xxyyxy")}, 2, "multilabel", min_rows=1)
    x, other = of(rows, "x"), of(rows, "y")
    # x: 3 found, 4 true, 3 predicted; y: 1 found, 1 true, 3 predicted
    assert x.score == pytest.approx(6 / 7, abs=1e-6)
    assert other.score == 0.5
    assert (x.labels, other.labels) == (2, 1)
    assert (x.macro_f1, other.macro_f1) == pytest.approx((0.5, 2 / 3), abs=1e-6)
    # All rows: label 0 found 3 of 3, wrongly predicted in 1 of 3; label 1 found 1 of 2, wrongly in 1 of 4.
    # x has labels 3 and 1 times in 3 rows: finds 3.5, wrongly predicts 0 + 2 / 4.
    assert x.expected == pytest.approx(7 / (4 + 3.5 + 0.5), abs=1e-6)
    # y has label 1 once in 3 rows: finds 0.5, wrongly predicts 3 / 3 + 2 / 4.
    assert other.expected == pytest.approx(1 / (1 + 0.5 + 1.5), abs=1e-6)


def test_rows_without_a_value_are_no_slice_where_they_are_one_already() -> None:
    y, predicted, _column = drawn("multiclass", 90, seed=2)
    source = ["old"] * 30 + ["new"] * 60
    region = [None] * 30 + ["north", "south"] * 30  # the old system had none
    office = [None] * 31 + ["centre"] * 59
    rows = slice_rows(y, predicted, {"source": source, "region": region, "office": office}, 4, "multiclass")
    found = {(row.column, row.value) for row in rows}
    assert found == {
        ("source", "old"),
        ("source", "new"),
        ("region", "north"),
        ("region", "south"),
        ("office", NO_VALUE),
        ("office", "centre"),
    }


@pytest.mark.parametrize("task", TASKS)
def test_slices_have_the_scores_of_their_rows(task: Task) -> None:
    y, predicted, column = drawn(task, 300, seed=1)
    rows = slice_rows(y, predicted, {"c": column}, 4, task)
    assert {row.value for row in rows} == {"a", "b", "c", "d", NO_VALUE}
    assert sum(row.rows for row in rows) == 300
    for row in rows:
        mine = np.array([(value or NO_VALUE) == row.value for value in column])
        scores = prediction_metrics(y[mine], predicted[mine], "abcd", task)
        assert row.score == pytest.approx(scores["micro_f1"], abs=1e-6)
        assert row.macro_f1 == pytest.approx(scores["macro_f1"], abs=1e-6)
        assert row.low < row.score < row.high  # type: ignore[operator]


def test_macro_f1_is_over_the_labels_present() -> None:
    y, predicted = np.array([0, 0, 1, 2]), np.array([0, 0, 1, 2])
    rows = slice_rows(y, predicted, {"source": list("xxyy")}, 3, "multiclass", min_rows=1)
    assert [row.macro_f1 for row in rows] == [1.0, 1.0]
    assert of(rows, "x").labels == 1


def test_expected_tells_hard_labels_from_a_bad_slice() -> None:
    """Class 1 is always missed. Source y has most of it, and is no worse than x class by class."""
    y = np.repeat([0, 1, 0, 1], (90, 10, 10, 90))
    predicted = np.zeros(200, dtype=np.int64)
    rows = slice_rows(y, predicted, {"source": ["x"] * 100 + ["y"] * 100}, 2, "multiclass")
    assert [(row.value, row.score, row.expected) for row in rows] == [("y", 0.1, 0.1), ("x", 0.9, 0.9)]


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_expected_accuracies_average_to_the_accuracy(seed: int) -> None:
    y, predicted, column = drawn("multiclass", 120, seed)
    rows = slice_rows(y, predicted, {"c": column}, 4, "multiclass", min_rows=1)
    mean = sum(row.rows * (row.expected or 0.0) for row in rows) / 120
    assert mean == pytest.approx(np.mean(y == predicted), abs=1e-6)


def test_rows_with_nothing_to_find_say_nothing_of_micro_f1() -> None:
    y = np.zeros((12, 2), dtype=np.int8)
    y[6:, 0] = 1
    rows = slice_rows(y, y.copy(), {"source": ["x"] * 6 + ["y"] * 6}, 2, "multilabel", min_rows=1)
    assert [row.value for row in rows] == ["y", "x"]
    x = of(rows, "x")
    assert (x.score, x.low, x.high, x.expected, x.macro_f1, x.labels) == (None,) * 5 + (0,)
    assert of(rows, "y").score == 1.0
    # beside rows that have labels they change nothing
    column = {"source": ["x"] * 3 + ["y"] * 9}
    assert of(slice_rows(y, y.copy(), column, 2, "multilabel", min_rows=1), "y").low == of(rows, "y").low


# intervals


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_rows_without_labels_make_no_micro_f1_of_all_rows_surer(score: float) -> None:
    """Of 500 rows 3 have the label: an interval of 3, in the slice as for all rows."""
    y = np.zeros((500, 2), dtype=np.int8)
    y[:3, 0] = 1
    predicted = y if score else np.zeros_like(y)
    found = bootstrap_intervals(y, predicted, 2, "multilabel", samples=100).headline["micro_f1"]
    expected = wilson_interval(score, 3)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    twice = np.tile(y, (2, 1)), np.tile(predicted, (2, 1))
    row = of(slice_rows(*twice, {"source": ["x"] * 500 + ["y"] * 500}, 2, "multilabel"), "x")
    assert (row.low, row.high) == pytest.approx((found.low, found.high), abs=1e-6)


def test_without_any_label_micro_f1_may_be_anything() -> None:
    y = np.zeros((500, 2), dtype=np.int8)
    found = bootstrap_intervals(y, y, 2, "multilabel", samples=100).headline["micro_f1"]
    assert (found.low, found.high) == (0, 1)


def test_label_sets_that_are_right_or_wrong_as_a_whole_have_wilsons_interval() -> None:
    y = np.tile(np.array([[1, 0, 0], [0, 1, 0]], dtype=np.int8), (10, 1))
    predicted = y.copy()
    predicted[:4] = [0, 0, 1]
    rows = slice_rows(y, predicted, {"source": ["x"] * 12 + ["y"] * 8}, 3, "multilabel", min_rows=1)
    for value, right, total in (("x", 8, 12), ("y", 8, 8)):
        expected = wilson_interval(right / total, total)
        found = of(rows, value)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_a_long_row_does_not_count_as_many() -> None:
    """One row of 40 labels, all found, among ten of one label, all missed: two rows at most, by weight."""
    y = np.zeros((22, 40), dtype=np.int8)
    y[0] = 1
    y[1:, 0] = 1
    predicted = np.zeros_like(y)
    predicted[0] = 1
    predicted[11:] = y[11:]
    rows = slice_rows(y, predicted, {"source": ["x"] * 11 + ["y"] * 11}, 40, "multilabel")
    x = of(rows, "x")
    assert x.score == pytest.approx(80 / 90, abs=1e-6)
    assert x.high - x.low > 0.6  # type: ignore[operator]


def test_intervals_of_micro_f1_cover_it_at_least_as_often_as_they_say() -> None:
    """Slices of 25 rows with 1 to 5 labels found at 0.75, others wrongly predicted at 0.1.

    A percentile bootstrap of so few rows covers in about 91 %.
    """
    generator = np.random.default_rng(4)

    def sample(rows: int) -> tuple[Any, Any]:
        y = (generator.random((rows, 5)) < generator.choice([0.1, 0.6], (rows, 1))).astype(np.int8)
        y[np.arange(rows), generator.integers(0, 5, rows)] = 1
        return y, (generator.random((rows, 5)) < np.where(y == 1, 0.75, 0.1)).astype(np.int8)

    many = count(*sample(200_000), 5).total()
    truth = float(many.f1[0])
    edges: list[Any] = []
    for _ in range(150):
        rows = slice_rows(*sample(50), {"s": ["x"] * 25 + ["y"] * 25}, 5, "multilabel")
        edges += [(row.low, row.high) for row in rows]
    low, high = np.array(edges).T
    assert np.mean((low <= truth) & (truth <= high)) >= 0.94
    # narrower than if each row were right or wrong as a whole
    plain = wilson_interval(truth, 25)
    assert np.mean(high - low) < 0.8 * (plain.high - plain.low)


@given(SEEDS, st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_an_interval_holds_its_score_and_stays_in_range(seed: int, rows: int) -> None:
    y, predicted, _ = drawn("multilabel", rows, seed)
    column: list[str | None] = ["x"] + ["y"] * (rows - 1)
    for row in slice_rows(y, predicted, {"c": column}, 4, "multilabel", min_rows=1):
        if row.score is not None:
            assert 0 <= row.low <= row.score <= row.high <= 1  # type: ignore[operator]


# order and pooling


def test_the_slice_most_surely_bad_is_first() -> None:
    """3 of 4 right of 12 rows may be 0.91, of 100 rows no more than 0.83; three rows all wrong are last."""
    y = np.zeros(215, dtype=np.int64)
    predicted = np.repeat([1, 0, 1, 0, 1, 0], (3, 9, 3, 75, 25, 100))
    column = ["three"] * 3 + ["few"] * 12 + ["many"] * 100 + ["good"] * 100
    rows = slice_rows(y, predicted, {"source": column}, 2, "multiclass")
    assert [row.value for row in rows] == ["many", "few", "good", "three"]
    assert [row.few_rows for row in rows] == [None, "yes", None, "yes"]
    assert [row.score for row in rows] == [0.75, 0.75, 1.0, 0.0]


def test_small_values_are_pooled_and_keep_their_count() -> None:
    y, predicted = np.zeros(20, dtype=np.int64), np.zeros(20, dtype=np.int64)
    column = ["a"] * 6 + ["b"] * 7 + ["c"] * 4 + ["d"] * 2 + [None]
    rows = slice_rows(y, predicted, {"s": column}, 2, "multiclass", min_rows=5)
    assert {row.value: row.rows for row in rows} == {"a": 6, "b": 7, OTHER: 7}
    # one alone keeps its name, even that of no value
    rows = slice_rows(y, predicted, {"s": ["a"] * 19 + [None]}, 2, "multiclass")
    assert {row.value: row.rows for row in rows} == {"a": 19, NO_VALUE: 1}


def test_of_very_many_values_the_largest_are_shown() -> None:
    """60 values of 12 rows, three of 20, and 30 values of one row: 50 with a name, the rest together."""
    values = [f"v{number:02}" for number in range(60)]
    column = [value for value in values for _ in range(12)]
    column += [value for value in ("v57", "v58", "v59") for _ in range(8)]
    column += [f"once {number}" for number in range(30)]
    y = np.zeros(len(column), dtype=np.int64)
    rows = {row.value: row.rows for row in slice_rows(y, y, {"s": column}, 2, "multiclass")}
    shown = {**dict.fromkeys(values[:47], 12), "v57": 20, "v58": 20, "v59": 20}
    assert rows == {**shown, OTHER: 10 * 12 + 30}
    # as many as there is room for
    rows = {row.value: row.rows for row in slice_rows(y, y, {"s": column}, 2, "multiclass", max_values=60)}
    assert len(rows) == 61
    assert rows[OTHER] == 30
    # one over it is with the others, where there are any and where there are none
    few = ["a"] * 12 + ["b"] * 11 + ["c"] * 10
    for extra in ([], ["d", "e"]):
        y = np.zeros(33 + len(extra), dtype=np.int64)
        found = slice_rows(y, y, {"s": few + extra}, 2, "multiclass", max_values=2)
        assert {row.value: row.rows for row in found} == {"a": 12, "b": 11, OTHER: 10 + len(extra)}


def test_columns_that_part_nothing_give_nothing() -> None:
    y = np.zeros(6, dtype=np.int64)
    assert slice_rows(y, y, {"s": ["x"] * 6, "m": [None] * 6}, 2, "multiclass") == []
    assert slice_rows(y, y, {"s": list("abcdef")}, 2, "multiclass") == []  # all of them pooled
    assert slice_rows(y[:0], y[:0], {"s": []}, 2, "multiclass") == []
    assert slice_rows(y[:1], y[:1], {"s": ["x"]}, 2, "multiclass", min_rows=1) == []
    assert slice_rows(y, y, {}, 2, "multiclass") == []
    with pytest.raises(ValueError, match="column s: 5 values for 6 rows"):
        slice_rows(y, y, {"s": ["x"] * 5}, 2, "multiclass")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("right", [True, False])
def test_all_right_and_all_wrong(task: Task, right: bool) -> None:
    y: Any = np.tile([0, 1], 10) if task == "multiclass" else np.tile(np.eye(2, dtype=np.int8), (10, 1))
    rows = slice_rows(y, y if right else 1 - y, {"s": ["x"] * 8 + ["y"] * 12}, 2, task)
    assert {row.score for row in rows} == {float(right)}
    assert {row.expected for row in rows} == {float(right)}


@given(SEEDS, st.sampled_from(TASKS))
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_rows_does_not_matter(seed: int, task: Task) -> None:
    y, predicted, column = drawn(task, 80, seed)
    order = np.random.default_rng(seed + 1).permutation(80)
    there = {"c": [column[row] for row in order]}
    for max_values in (50, 2):
        moved = slice_rows(y[order], predicted[order], there, 4, task, 10, max_values=max_values)
        assert moved == slice_rows(y, predicted, {"c": column}, 4, task, 10, max_values=max_values)


def test_a_slice_is_a_row_of_its_table() -> None:
    y, predicted, column = drawn("multiclass", 60, seed=0)
    rows = slice_rows(y, predicted, {"c": column}, 4, "multiclass")
    assert len(astuple(rows[0])) == len(slices_header("multiclass"))
    assert slices_header("multiclass")[4:8] == (
        "accuracy",
        "accuracy_low",
        "accuracy_high",
        "expected_accuracy",
    )
    assert slices_header("multilabel")[4] == "micro_f1"
