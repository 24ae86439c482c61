"""Thresholds for F-beta, or that keep a precision, by hand, against every other threshold, and their laws."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afina.evaluation.metrics import count, predict
from afina.evaluation.thresholds import below_precision, fit_thresholds

SEEDS = st.integers(0, 2**32 - 1)

# Down to each score: precision 1, 1, 2/3, 3/4, 3/5, 4/6, and recall 1/4, 2/4, 2/4, 3/4, 3/4, 1.
TRUTH = np.array([1, 1, 0, 1, 0, 1], dtype=np.int8)[:, None]
SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.4, 0.2])[:, None]


def label(seed: int, levels: int, rows: int = 40) -> tuple[Any, Any]:
    """One label's truth and scores; few levels make many ties."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 2, (rows, 1)).astype(np.int8)
    truth[:2] = 1
    return truth, (generator.integers(0, levels, (rows, 1)) / levels).astype(np.float32)


def at(truth: Any, scores: Any, threshold: float) -> tuple[float, float]:
    """Precision and recall of a threshold."""
    counts = count(truth, predict(scores, "multilabel", [threshold]), 1)
    return float(counts.precision[0]), float(counts.recall[0])


def f_beta(precision: float, recall: float, beta: float) -> float:
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall) if precision else 0.0


# F-beta


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        (1.0, 0.2),  # F1 0.8 of all rows; 0.75 of four, 0.667 of two
        (2.0, 0.2),  # F2 0.909 of all rows
        (0.5, 0.75),  # F0.5 5/6 of two rows; 0.75 of four, 0.714 of all
        (0.01, 0.75),  # the best precision, and of those the best recall
    ],
)
def test_f_beta_by_hand(beta: float, expected: float) -> None:
    assert fit_thresholds(TRUTH, SCORES, min_positives=1, beta=beta) == [expected]


def test_beta_1_is_what_there_was() -> None:
    assert fit_thresholds(TRUTH, SCORES, min_positives=1) == fit_thresholds(
        TRUTH, SCORES, min_positives=1, beta=1.0, precision_floor=None
    )
    assert fit_thresholds(TRUTH, SCORES, min_positives=5, beta=2.0) == [0.5]


@given(SEEDS, st.integers(2, 12), st.sampled_from([0.1, 0.3, 0.5, 1.0, 2.0, 10.0]))
@settings(max_examples=60, deadline=None)
def test_no_other_threshold_has_a_higher_f_beta(seed: int, levels: int, beta: float) -> None:
    truth, scores = label(seed, levels)
    (threshold,) = fit_thresholds(truth, scores, min_positives=1, beta=beta)
    best = max(f_beta(*at(truth, scores, float(edge)), beta) for edge in np.unique(scores))
    assert f_beta(*at(truth, scores, threshold), beta) == pytest.approx(best)


@given(SEEDS, st.integers(2, 12))
@settings(max_examples=40, deadline=None)
def test_a_larger_beta_never_costs_recall(seed: int, levels: int) -> None:
    truth, scores = label(seed, levels)
    fitted = [fit_thresholds(truth, scores, 1, beta=beta)[0] for beta in (0.001, 0.1, 0.5, 1, 2, 10, 1000)]
    points = [at(truth, scores, threshold) for threshold in fitted]
    assert all(low[1] <= high[1] + 1e-12 for low, high in pairwise(points))
    every = [at(truth, scores, float(edge)) for edge in np.unique(scores)]
    assert points[0][0] == max(precision for precision, _ in every)
    assert points[-1][1] == 1.0


@pytest.mark.parametrize("beta", [0.1, 0.3, 0.7, 1.1])
def test_equally_good_thresholds_are_equal_in_floating_point(beta: float) -> None:
    """One right of one row, and two of beta^2 100 + 2, tie with 100 positives: the default decides."""
    between = round(beta**2 * 100)
    truth = np.array([1] + [0] * between + [1] + [0] * 20_000 + [1] * 98, dtype=np.int8)[:, None]
    scores = np.array([0.9] + [0.8] * between + [0.6] + [0.4] * 20_000 + [0.3] * 98)[:, None]
    assert fit_thresholds(truth, scores, default=0.85, beta=beta) == [0.85]
    assert fit_thresholds(truth, scores, default=0.5, beta=beta) == [0.5]


# a floor of precision


@pytest.mark.parametrize(
    ("floor", "expected"),
    [
        (0.6, 0.2),  # reached by all rows: recall 1
        (0.7, 0.5),  # four rows, precision 3/4: the default does it
        (0.75, 0.5),  # reached exactly
        (0.76, 0.75),  # two rows
        (1.0, 0.75),
    ],
)
def test_floor_by_hand(floor: float, expected: float) -> None:
    fitted = fit_thresholds(TRUTH, SCORES, min_positives=1, precision_floor=floor)
    assert fitted == [expected]
    assert below_precision(TRUTH, SCORES, fitted, floor) == []


def test_a_floor_passes_over_a_dip_of_precision() -> None:
    """Precision 1, 1/2, 2/3, 3/4: the second and third rows are below 0.7, all four are not."""
    truth = np.array([1, 0, 1, 1], dtype=np.int8)[:, None]
    scores = np.array([0.9, 0.8, 0.7, 0.6])[:, None]
    assert fit_thresholds(truth, scores, min_positives=1, precision_floor=0.7) == [0.5]


def test_of_equal_recall_the_higher_precision() -> None:
    """A floor of 0.5 is kept by one row too many, which the default would predict: it brings no recall."""
    truth = np.array([1, 1, 0, 0, 0], dtype=np.int8)[:, None]
    scores = np.array([0.9, 0.8, 0.6, 0.1, 0.05])[:, None]
    assert fit_thresholds(truth, scores, min_positives=1, precision_floor=0.5) == [0.7]


def test_a_floor_out_of_reach_gives_the_best_precision_and_is_told() -> None:
    truth = np.array([0, 1, 1, 0, 1, 0], dtype=np.int8)
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.4, 0.2])
    # precision 0, 1/2, 2/3, 2/4, 3/5, 3/6
    y, s = np.column_stack([truth, TRUTH[:, 0]]), np.column_stack([scores, SCORES[:, 0]])
    fitted = fit_thresholds(y, s, min_positives=1, precision_floor=0.75)
    assert fitted == [0.65, 0.5]
    assert below_precision(y, s, fitted, 0.75) == [0]
    # precision 1/2 with two rows and with four: the four have the higher recall
    ties = np.array([0, 1, 0, 1, 0], dtype=np.int8)[:, None]
    four = fit_thresholds(ties, np.array([0.9, 0.8, 0.7, 0.6, 0.1])[:, None], 1, precision_floor=0.9)
    assert four == [0.5]
    assert at(ties, np.array([0.9, 0.8, 0.7, 0.6, 0.1])[:, None], four[0]) == (0.5, 1.0)


def test_few_positives_keep_the_default_with_a_floor_too() -> None:
    y = np.array([[1, 1], [0, 0], [0, 0]], dtype=np.int8)
    scores = np.array([[0.9, 0.4], [0.7, 0.2], [0.1, 0.1]])
    fitted = fit_thresholds(y, scores, min_positives=2, precision_floor=0.9)
    assert fitted == [0.5, 0.5]
    # precision 1/2, and never predicted
    assert below_precision(y, scores, fitted, 0.9) == [0, 1]
    assert below_precision(y, scores, fitted, 0.5) == [1]


def test_a_label_without_positives_keeps_the_default_whatever_is_asked() -> None:
    y, scores = np.zeros((3, 1), dtype=np.int8), np.array([[0.9], [0.6], [0.1]])
    for options in ({"beta": 2.0}, {"precision_floor": 0.9}):
        assert fit_thresholds(y, scores, min_positives=0, **options) == [0.5]


@given(SEEDS, st.integers(2, 12), st.floats(0.05, 1.0))
@settings(max_examples=60, deadline=None)
def test_no_other_threshold_keeps_the_floor_with_more_recall(seed: int, levels: int, floor: float) -> None:
    truth, scores = label(seed, levels)
    fitted = fit_thresholds(truth, scores, min_positives=1, precision_floor=floor)
    precision, recall = at(truth, scores, fitted[0])
    every = [at(truth, scores, float(edge)) for edge in np.unique(scores)]
    keeping = [point for point in every if point[0] >= floor]
    if keeping:
        assert precision >= floor
        assert recall == max(point[1] for point in keeping)
    else:
        assert (precision, recall) == max(every)
    assert below_precision(truth, scores, fitted, floor) == ([] if keeping else [0])


@given(SEEDS, st.integers(2, 12))
@settings(max_examples=40, deadline=None)
def test_a_higher_floor_never_gains_recall_while_it_is_reached(seed: int, levels: int) -> None:
    truth, scores = label(seed, levels)
    recalls = []
    for floor in (0.2, 0.5, 0.6, 0.8, 1.0):
        precision, recall = at(truth, scores, fit_thresholds(truth, scores, 1, precision_floor=floor)[0])
        if precision >= floor:
            recalls.append(recall)
    assert recalls == sorted(recalls, reverse=True)


@given(SEEDS, st.sampled_from([{"beta": 0.5}, {"beta": 3.0}, {"precision_floor": 0.7}]))
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_rows_does_not_matter(seed: int, options: dict[str, float]) -> None:
    truth, scores = label(seed, levels=6)
    order = np.random.default_rng(seed).permutation(len(truth))
    assert fit_thresholds(truth[order], scores[order], 1, **options) == fit_thresholds(
        truth, scores, 1, **options
    )


@pytest.mark.parametrize(
    "options",
    [
        {"beta": 0.0},
        {"beta": float("nan")},
        {"beta": float("inf")},
        {"precision_floor": 0.0},
        {"precision_floor": 1.01},
        {"precision_floor": float("nan")},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected a"):
        fit_thresholds(TRUTH, SCORES, **options)
