"""Which rows the model answers and which go to a person: a threshold on the confidence of each row.

A row is answered where its confidence reaches the threshold. The threshold is fitted on validation rows, and
judged on test rows: coverage is the share of rows answered, accuracy the share of those that are right, and
risk is 1 - accuracy.

El-Yaniv & Wiener, "On the Foundations of Noise-free Selective Classification", Journal of Machine Learning
Research 11, 2010; Geifman & El-Yaniv, "Selective Classification for Deep Neural Networks", NeurIPS 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from afina.evaluation.intervals import Interval, wilson_interval
from afina.evaluation.metrics import FEW_ROWS, FloatArray, IntArray
from afina.evaluation.thresholds import shortest_between
from afina.runtime.confidence import row_confidence as row_confidence

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

CURVE_POINTS = 100


# ------------------------------------------------------------------------------------------ rows


def rows_right(y_true: IntArray, predicted: IntArray) -> Bools:
    """Whether the class, or the whole set of labels, of each row is right; (n,).

    Args:
        y_true: class indexes (n,) or multi-hot (n, L).
        predicted: the same shape.
    """
    same = np.asarray(y_true == predicted)
    return same if same.ndim == 1 else np.asarray(same.all(axis=1))


# ------------------------------------------------------------------------------------- threshold


def fit_abstention(
    confidence: FloatArray, right: Bools, target: float = 0.95, min_rows: int = FEW_ROWS
) -> float | None:
    """The lowest confidence from which the answers on these rows are right often enough.

    Accuracy is that of these rows, without a margin: on other rows it may fall somewhat short of the target,
    as the threshold was chosen for these. `answered` says how far, for test rows. What the threshold
    promises are the answers together: the least confident of them are right less often.

    Args:
        confidence: of validation rows (n,), from `row_confidence`.
        right: (n,), from `rows_right`.
        target: least accuracy of the rows answered, in (0, 1].
        min_rows: rows that must be answered, so that the accuracy means something; at least 1.

    Returns:
        A threshold between two neighbouring confidences, at the number with the fewest decimals there is; 0
        where all rows may be answered. None where no threshold that answers ``min_rows`` reaches the target.

    Raises:
        ValueError: the target or ``min_rows`` is out of its range.
    """
    if not 0 < target <= 1:
        raise ValueError(f"target {target}: expected a number above 0, at most 1")
    if min_rows < 1:
        raise ValueError(f"min_rows {min_rows}: expected 1 or more")
    levels, rows, correct = _by_confidence(confidence, right)
    enough = np.flatnonzero((correct / rows >= target) & (rows >= min_rows))
    if not len(enough):
        return None
    choice = enough[-1]
    if choice == len(levels) - 1:
        return 0.0
    return shortest_between(float(levels[choice + 1]), float(levels[choice]))


# -------------------------------------------------------------------------------------- measures


@dataclass(frozen=True)
class Answered:
    """The rows that a threshold answers."""

    rows: int
    coverage: float  # share of all rows; 0 where there are none
    accuracy: float | None  # None where no row is answered
    interval: Interval  # of that accuracy; 0 to 1 where no row is answered


def answered(confidence: FloatArray, right: Bools, threshold: float, level: float = 0.95) -> Answered:
    """Coverage, and accuracy with its Wilson interval, of the rows whose confidence reaches a threshold.

    Args:
        confidence: of test rows (n,), from `row_confidence`.
        right: (n,), from `rows_right`.
        threshold: from `fit_abstention`, of other rows.
        level: of the interval, for example 0.95.
    """
    _check(confidence, right)
    chosen = np.asarray(confidence, dtype=np.float64) >= threshold
    rows = int(chosen.sum())
    accuracy = int(right[chosen].sum()) / rows if rows else None
    interval = wilson_interval(accuracy or 0.0, rows, level)
    return Answered(rows, rows / len(right) if len(right) else 0.0, accuracy, interval)


@dataclass(frozen=True)
class RiskCoverage:
    """Points of a risk-coverage curve, by rising coverage; each array is (points,)."""

    coverage: Floats  # share of the rows answered
    accuracy: Floats  # of those
    confidence: Floats  # lowest confidence answered


def risk_coverage(confidence: FloatArray, right: Bools, points: int = CURVE_POINTS) -> RiskCoverage:
    """Coverage and accuracy at one threshold after another; no row gives no point.

    Rows of equal confidence are answered together or not at all, so every point can be had, and none depends
    on the order of the rows. Where there are more confidences than ``points``, of each step of 1 / points in
    coverage the first point at or past it is kept; the last has coverage 1.

    Args:
        confidence: (n,), from `row_confidence`.
        right: (n,), from `rows_right`.
        points: at most so many, at least 1.
    """
    if points < 1:
        raise ValueError(f"{points} points; at least 1 is needed")
    levels, rows, correct = _by_confidence(confidence, right)
    if len(levels) > points:
        steps = -(-np.arange(1, points + 1) * len(right) // points)  # rounded up, in whole numbers
        kept = np.unique(np.searchsorted(rows, steps))
        levels, rows, correct = levels[kept], rows[kept], correct[kept]
    return RiskCoverage(rows / max(len(right), 1), correct / rows, levels)


def area_under_risk_coverage(confidence: FloatArray, right: Bools) -> float:
    """The mean, over the rows, of the risk when all rows at least as confident are answered; lower is better.

    Geifman, Uziel & El-Yaniv, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers", ICLR 2019.
    A confidence that says nothing gives the risk of all rows; but an area is also smaller where fewer rows
    are wrong, so compare it only between confidences of the same answers, or beside the accuracy.

    Args:
        confidence: (n,), from `row_confidence`.
        right: (n,), from `rows_right`.

    Returns:
        In [0, 1]; NaN without a row.
    """
    _, rows, correct = _by_confidence(confidence, right)
    if not len(rows):
        return float("nan")
    return float(np.sum(np.diff(rows, prepend=0) * (1 - correct / rows)) / len(right))


def _by_confidence(confidence: FloatArray, right: Bools) -> tuple[Floats, Ints, Ints]:
    """The distinct confidences, highest first, and with each how many rows reach it, and are right."""
    _check(confidence, right)
    if not len(right):
        return np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    exact = np.asarray(confidence, dtype=np.float64)
    order = np.argsort(-exact, kind="stable")
    ordered = exact[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)  # the last row of each run of ties
    return ordered[last], last + 1, np.cumsum(right[order], dtype=np.int64)[last]


def _check(confidence: FloatArray, right: Bools) -> None:
    if confidence.ndim != 1 or confidence.shape != right.shape:
        raise ValueError(f"confidence {confidence.shape} and right {right.shape} do not fit each other")
