"""Abstention: confidence of rows, threshold, risk-coverage curve and interval, by hand and by their laws."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afina.evaluation.abstention import (
    answered,
    area_under_risk_coverage,
    fit_abstention,
    risk_coverage,
    row_confidence,
    rows_right,
)
from afina.evaluation.intervals import Interval, wilson_interval
from afina.evaluation.metrics import predict

SEEDS = st.integers(0, 2**32 - 1)

# Answered from the top: accuracy 1, 1, 2/3, 3/4, 3/5.
CONFIDENCE = np.array([0.9, 0.8, 0.7, 0.6, 0.3])
RIGHT = np.array([True, True, False, True, False])


def drawn(seed: int, rows: int, levels: int) -> tuple[Any, Any]:
    """Confidences with ties, right as often as they say."""
    generator = np.random.default_rng(seed)
    confidence = generator.integers(1, levels + 1, rows) / levels
    return confidence, generator.random(rows) < confidence


# rows


def test_confidence_of_a_class_is_its_probability() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.4, 0.5]], dtype=np.float32)
    found = row_confidence(probabilities, predict(probabilities, "multiclass"))
    assert found.dtype == np.float64
    assert found == pytest.approx(probabilities.max(axis=1))


def test_confidence_of_a_set_is_that_of_its_least_sure_decision() -> None:
    probabilities = np.array([[0.9, 0.2], [0.31, 0.05], [0.29, 0.05], [0.0, 0.0], [0.9, 0.69]])
    predicted = predict(probabilities, "multilabel", [0.3, 0.7])
    assert predicted.tolist() == [[1, 0], [1, 0], [0, 0], [0, 0], [1, 0]]
    assert row_confidence(probabilities, predicted) == pytest.approx([0.8, 0.31, 0.71, 1.0, 0.31])


@given(SEEDS, st.floats(0.05, 0.95), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_confidence_never_falls_as_a_probability_leaves_its_threshold(
    seed: int, threshold: float, step: float
) -> None:
    probabilities = np.random.default_rng(seed).random((20, 3))
    predicted = predict(probabilities, "multilabel", [threshold] * 3)
    further = probabilities + step * np.where(predicted == 1, 1 - probabilities, -probabilities)
    assert (predict(further, "multilabel", [threshold] * 3) == predicted).all()
    assert (row_confidence(further, predicted) >= row_confidence(probabilities, predicted) - 1e-12).all()


def test_a_set_is_at_most_as_often_right_as_its_confidence_says() -> None:
    """Labels drawn from their probabilities, each on its own: the rows of confidence c are right below c."""
    generator = np.random.default_rng(5)
    probabilities = generator.random((20_000, 2))
    y = (generator.random((20_000, 2)) < probabilities).astype(np.int8)
    predicted = predict(probabilities, "multilabel", [0.3, 0.6])
    confidence, right = row_confidence(probabilities, predicted), rows_right(y, predicted)
    for low in np.arange(0.3, 0.95, 0.1):
        bin_ = (confidence >= low) & (confidence < low + 0.1)
        assert right[bin_].mean() <= confidence[bin_].mean() + 0.03


def test_a_row_is_right_as_a_whole() -> None:
    assert rows_right(np.array([0, 1, 2]), np.array([0, 2, 2])).tolist() == [True, False, True]
    y = np.array([[1, 0], [1, 1], [0, 0]], dtype=np.int8)
    predicted = np.array([[1, 0], [1, 0], [0, 0]], dtype=np.int8)
    assert rows_right(y, predicted).tolist() == [True, False, True]


# threshold


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (1.0, 0.75),  # two rows
        (0.8, 0.75),
        (0.75, 0.45),  # four rows, past the dip at three; reached exactly
        (0.6, 0.0),  # all rows
    ],
)
def test_threshold_by_hand(target: float, expected: float) -> None:
    assert fit_abstention(CONFIDENCE, RIGHT, target, min_rows=1) == expected


def test_too_few_answers_show_nothing() -> None:
    assert fit_abstention(CONFIDENCE, RIGHT, 0.8, min_rows=2) == 0.75
    assert fit_abstention(CONFIDENCE, RIGHT, 0.8, min_rows=3) is None
    assert fit_abstention(CONFIDENCE, RIGHT) is None


def test_rows_that_tie_are_answered_together() -> None:
    confidence = np.array([0.9, 0.8, 0.8, 0.1])
    right = np.array([True, True, False, True])
    assert fit_abstention(confidence, right, 0.95, min_rows=1) == 0.85
    assert fit_abstention(confidence, right, 0.95, min_rows=2) is None
    # all alike: all or nothing
    assert fit_abstention(np.full(4, 1.0), right, 0.75, min_rows=1) == 0.0
    assert fit_abstention(np.full(4, 1.0), right, 0.76, min_rows=1) is None


@pytest.mark.parametrize(("rows", "right", "expected"), [(0, True, None), (1, True, 0.0), (1, False, None)])
def test_threshold_of_none_and_one_row(rows: int, right: bool, expected: float | None) -> None:
    assert fit_abstention(np.full(rows, 0.8), np.full(rows, right), min_rows=1) == expected


def test_all_right_and_all_wrong() -> None:
    confidence = np.linspace(0.2, 1, 50)
    assert fit_abstention(confidence, np.ones(50, dtype=bool)) == 0.0
    assert fit_abstention(confidence, np.zeros(50, dtype=bool)) is None


@given(SEEDS, st.integers(1, 80), st.integers(1, 30), st.floats(0.3, 1.0), st.integers(1, 40))
@settings(max_examples=80, deadline=None)
def test_no_lower_confidence_reaches_the_target(
    seed: int, rows: int, levels: int, target: float, min_rows: int
) -> None:
    confidence, right = drawn(seed, rows, levels)
    threshold = fit_abstention(confidence, right, target, min_rows)
    reaching = [
        level
        for level in np.unique(confidence)
        if (confidence >= level).sum() >= min_rows and right[confidence >= level].mean() >= target
    ]
    if threshold is None:
        assert not reaching
        return
    found = answered(confidence, right, threshold)
    assert found.rows >= min_rows
    assert found.accuracy is not None
    assert found.accuracy >= target
    assert found.rows == (confidence >= min(reaching)).sum()


@pytest.mark.parametrize("options", [{"target": 0.0}, {"target": 1.1}, {"min_rows": 0}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        fit_abstention(CONFIDENCE, RIGHT, **options)


# rows answered


def test_answered_by_hand() -> None:
    found = answered(CONFIDENCE, RIGHT, 0.6)
    assert (found.rows, found.coverage, found.accuracy) == (4, 0.8, 0.75)
    assert (found.interval.low, found.interval.high) == pytest.approx((0.3006, 0.9544), abs=1e-4)
    nobody = answered(CONFIDENCE, RIGHT, 0.95)
    assert (nobody.rows, nobody.coverage, nobody.accuracy) == (0, 0.0, None)
    assert nobody.interval == Interval(0.0, 1.0)
    empty = answered(CONFIDENCE[:0], RIGHT[:0], 0.0)
    assert (empty.rows, empty.coverage, empty.accuracy) == (0, 0.0, None)


@given(SEEDS, st.lists(st.floats(0, 1), min_size=2, max_size=6))
@settings(max_examples=40, deadline=None)
def test_coverage_falls_as_the_threshold_rises(seed: int, thresholds: list[float]) -> None:
    confidence, right = drawn(seed, 50, 20)
    coverages = [answered(confidence, right, threshold).coverage for threshold in sorted(thresholds)]
    assert coverages == sorted(coverages, reverse=True)


def test_wilson_interval_by_hand() -> None:
    """z^2 = 3.841459; 0 of 10 has the upper end z^2 / (10 + z^2)."""
    assert wilson_interval(0.0, 10) == Interval(0.0, pytest.approx(3.841459 / 13.841459, abs=1e-6))
    assert wilson_interval(1.0, 10) == Interval(pytest.approx(10 / 13.841459, abs=1e-6), 1.0)
    eight = wilson_interval(0.8, 10)
    assert (eight.low, eight.high) == pytest.approx((0.490162, 0.943318), abs=1e-6)
    assert wilson_interval(0.5, 0) == Interval(0.0, 1.0)


@given(st.integers(1, 10_000), st.floats(0, 1), st.floats(0.6, 0.99))
@settings(max_examples=100, deadline=None)
def test_wilson_interval_solves_its_equation(rows: int, part: float, level: float) -> None:
    """At each end p, share and p are z standard errors of p apart."""
    share = round(part * rows) / rows
    interval = wilson_interval(share, rows, level)
    assert 0 <= interval.low <= share <= interval.high <= 1
    z = NormalDist().inv_cdf((1 + level) / 2)
    for edge in (interval.low, interval.high):
        assert abs(share - edge) == pytest.approx(z * (edge * (1 - edge) / rows) ** 0.5, abs=1e-7)


# curve


def test_curve_by_hand() -> None:
    curve = risk_coverage(CONFIDENCE, RIGHT)
    assert curve.coverage.tolist() == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert curve.accuracy.tolist() == [1, 1, 2 / 3, 3 / 4, 3 / 5]
    assert curve.confidence.tolist() == CONFIDENCE.tolist()
    # risks 0, 0, 1/3, 1/4, 2/5
    assert area_under_risk_coverage(CONFIDENCE, RIGHT) == pytest.approx((1 / 3 + 1 / 4 + 2 / 5) / 5)


def test_ties_are_one_point() -> None:
    confidence, right = np.array([0.5, 0.9, 0.5, 0.5]), np.array([True, True, False, False])
    curve = risk_coverage(confidence, right)
    assert curve.coverage.tolist() == [0.25, 1.0]
    assert curve.accuracy.tolist() == [1.0, 0.5]
    assert area_under_risk_coverage(confidence, right) == pytest.approx(3 * 0.5 / 4)
    assert area_under_risk_coverage(np.full(4, 0.7), right) == 0.5  # the risk of all rows


def test_curve_of_none_and_one_row_and_all_alike() -> None:
    empty = risk_coverage(CONFIDENCE[:0], RIGHT[:0])
    assert [len(part) for part in (empty.coverage, empty.accuracy, empty.confidence)] == [0, 0, 0]
    assert np.isnan(area_under_risk_coverage(CONFIDENCE[:0], RIGHT[:0]))
    one = risk_coverage(CONFIDENCE[2:3], RIGHT[2:3])
    assert (one.coverage.tolist(), one.accuracy.tolist(), one.confidence.tolist()) == ([1.0], [0.0], [0.7])
    for right, risk in ((np.ones(5, dtype=bool), 0.0), (np.zeros(5, dtype=bool), 1.0)):
        assert area_under_risk_coverage(CONFIDENCE, right) == risk
        assert (risk_coverage(CONFIDENCE, right).accuracy == 1 - risk).all()


@given(SEEDS, st.integers(1, 400), st.integers(1, 500), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_a_thinned_curve_has_only_true_points(seed: int, rows: int, levels: int, points: int) -> None:
    confidence, right = drawn(seed, rows, levels)
    curve = risk_coverage(confidence, right, points)
    assert 1 <= len(curve.coverage) <= points
    assert (np.diff(curve.coverage) > 0).all()
    assert (np.diff(curve.confidence) < 0).all()
    assert curve.coverage[-1] == 1.0
    for coverage, accuracy, level in zip(curve.coverage, curve.accuracy, curve.confidence, strict=True):
        there = answered(confidence, right, level)
        assert (there.coverage, there.accuracy) == (coverage, accuracy)


def test_a_thinned_curve_is_even_in_coverage() -> None:
    generator = np.random.default_rng(0)
    confidence, right = generator.random(5_000), generator.random(5_000) < 0.8
    curve = risk_coverage(confidence, right)
    assert curve.coverage == pytest.approx(np.arange(1, 101) / 100)


@given(SEEDS, st.integers(1, 100), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_rows_does_not_matter(seed: int, rows: int, levels: int) -> None:
    confidence, right = drawn(seed, rows, levels)
    order = np.random.default_rng(seed + 1).permutation(rows)
    assert fit_abstention(confidence[order], right[order], 0.8, 5) == fit_abstention(
        confidence, right, 0.8, 5
    )
    first, second = risk_coverage(confidence, right, 10), risk_coverage(confidence[order], right[order], 10)
    assert first.coverage.tolist() == second.coverage.tolist()
    assert first.accuracy.tolist() == second.accuracy.tolist()
    assert area_under_risk_coverage(confidence, right) == area_under_risk_coverage(
        confidence[order], right[order]
    )


@given(SEEDS, st.integers(2, 60))
@settings(max_examples=40, deadline=None)
def test_right_rows_first_is_the_smallest_area_and_last_the_largest(seed: int, rows: int) -> None:
    confidence, right = drawn(seed, rows, 1000)
    best, worst = right.astype(np.float64), 1.0 - right
    jitter = np.linspace(0, 0.5, rows)
    assert (
        area_under_risk_coverage(best + jitter, right)
        <= area_under_risk_coverage(confidence, right) + 1e-12
        <= area_under_risk_coverage(worst + jitter, right) + 2e-12
    )


def test_arrays_that_do_not_fit_are_refused() -> None:
    for call in (fit_abstention, risk_coverage, area_under_risk_coverage):
        with pytest.raises(ValueError, match="do not fit"):
            call(CONFIDENCE, RIGHT[:3])
    with pytest.raises(ValueError, match="do not fit"):
        answered(CONFIDENCE, RIGHT[:3], 0.5)
    with pytest.raises(ValueError, match="at least 1"):
        risk_coverage(CONFIDENCE, RIGHT, 0)
