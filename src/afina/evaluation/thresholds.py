"""Per-label decision thresholds, fitted on validation rows and never on the rows they are judged by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial

import numpy as np
import numpy.typing as npt

from afina.evaluation.metrics import DEFAULT_THRESHOLD, FloatArray, IntArray, count, predict, ratio

# From the rows rightly predicted, all rows predicted (both by threshold, falling) and the number of
# positives: the thresholds none is better than.
Choice = Callable[[IntArray, IntArray, int], npt.NDArray[np.intp]]


def fit_thresholds(
    y_true: IntArray,
    scores: FloatArray,
    min_positives: int = 5,
    default: float = DEFAULT_THRESHOLD,
    beta: float = 1.0,
    precision_floor: float | None = None,
) -> list[float]:
    """For each label the threshold that gives the highest F-beta on these rows, or keeps a precision.

    F-beta is (1 + beta^2) P R / (beta^2 P + R) of precision P and recall R: who values recall beta times as
    much as precision maximises it (van Rijsbergen 1979, "Information Retrieval", 2nd edition, chapter 7).
    Beta 1 is F1; maximising each label's F1 on its own maximises macro F1 (Lipton et al. 2014, "Optimal
    thresholding of classifiers to maximize F1 measure").

    With a floor, beta plays no part: of the thresholds whose precision on these rows is at least the floor,
    the one with the highest recall is taken. A label that never reaches it gets the threshold with the
    highest precision, of equal ones that with the highest recall; `below_precision` tells which labels
    these are. The floor holds on these rows, not on others: as the threshold was chosen for them, expect a
    somewhat lower precision elsewhere.

    With a handful of positives the best threshold is an accident of those rows, so such a label keeps
    ``default``, with a floor too. A threshold lies between two neighbouring scores, at the number with the
    fewest decimals there is; of equally good ones the nearest to ``default`` is taken.

    Args:
        y_true: multi-hot (n, L) of the validation rows.
        scores: probabilities or decision values (n, L).
        min_positives: fewer positives than this keep ``default``.
        default: where scores are neutral: 0.5 for probabilities, 0 for margins.
        beta: > 0; above 1 in favour of recall, below 1 of precision.
        precision_floor: in (0, 1], or None to maximise F-beta.

    Returns:
        L thresholds; a label is predicted where its score reaches its threshold.

    Raises:
        ValueError: beta or the floor is out of its range.
    """
    if not 0 < beta < math.inf:
        raise ValueError(f"beta {beta}: expected a positive number")
    if precision_floor is not None and not 0 < precision_floor <= 1:
        raise ValueError(f"precision floor {precision_floor}: expected a number above 0, at most 1")
    best: Choice = (
        partial(_highest_f_beta, beta=beta)
        if precision_floor is None
        else partial(_highest_recall, precision_floor=precision_floor)
    )
    return [
        _best_threshold(y_true[:, label], scores[:, label].astype(np.float64), min_positives, default, best)
        for label in range(scores.shape[1])
    ]


def below_precision(
    y_true: IntArray, scores: FloatArray, thresholds: Sequence[float], precision_floor: float
) -> list[int]:
    """The labels of which these rows do not show the precision that was asked for.

    Of the rows that the thresholds were fitted on: the labels that never reach the floor, and those with too
    few positives to be fitted whose default does not happen to keep it. A label that is never predicted
    shows nothing, so it is one of them.

    Args:
        y_true: multi-hot (n, L).
        scores: probabilities or decision values (n, L).
        thresholds: L thresholds, from `fit_thresholds`.
        precision_floor: in (0, 1].

    Returns:
        Label indexes, ascending.
    """
    precision = count(y_true, predict(scores, "multilabel", thresholds), scores.shape[1]).precision
    return [int(label) for label in np.flatnonzero(precision < precision_floor)]


def _best_threshold(
    truth: IntArray, scores: FloatArray, min_positives: int, default: float, choose: Choice
) -> float:
    positives = int(truth.sum())
    if positives < min_positives:
        return default
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)  # the last row of each run of ties
    correct = np.cumsum(truth[order], dtype=np.int64)[last]
    upper = ordered[last]  # lowest score still predicted
    lower = np.append(upper[1:], upper[-1] - 1.0)  # highest score no longer predicted
    best = choose(correct, last + 1, positives)
    distance = np.maximum(np.maximum(lower[best] - default, default - upper[best]), 0)
    choice = best[distance.argmin()]
    if lower[choice] < default <= upper[choice]:
        return default
    if choice == len(upper) - 1:  # every row is predicted: no score below to keep clear of
        return float(upper[-1])
    return shortest_between(float(lower[choice]), float(upper[choice]))


def _highest_f_beta(
    correct: IntArray, predicted: IntArray, positives: int, beta: float
) -> npt.NDArray[np.intp]:
    # A fraction of whole numbers, so that equal scores are equal in floating point too.
    square = Fraction(str(float(beta))) ** 2
    recall_part, precision_part = float(square.numerator), float(square.denominator)
    score = ratio(
        (recall_part + precision_part) * correct, recall_part * positives + precision_part * predicted
    )
    return np.flatnonzero(score == score.max())


def _highest_recall(
    correct: IntArray, predicted: IntArray, positives: int, precision_floor: float
) -> npt.NDArray[np.intp]:
    precision = ratio(correct, predicted)
    reached = precision >= precision_floor
    if reached.any():
        best = reached & (correct == correct[reached].max())
        return np.flatnonzero(best & (precision == precision[best].max()))
    best = precision == precision.max()
    return np.flatnonzero(best & (correct == correct[best].max()))


def shortest_between(lower: float, upper: float) -> float:
    """The number with the fewest decimals in (lower, upper], near the middle; for people to read."""
    middle = lower + (upper - lower) / 2
    for decimals in range(2, 17):
        rounded = round(middle, decimals)
        if lower < rounded <= upper:
            return rounded
    return middle if math.isfinite(middle) and lower < middle else upper
