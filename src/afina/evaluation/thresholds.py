"""Per-label decision thresholds, fitted on validation rows and never on the rows they are judged by."""

from __future__ import annotations

import math

import numpy as np

from afina.evaluation.metrics import DEFAULT_THRESHOLD, FloatArray, IntArray, ratio


def fit_thresholds(
    y_true: IntArray, scores: FloatArray, min_positives: int = 5, default: float = DEFAULT_THRESHOLD
) -> list[float]:
    """For each label the threshold that gives the highest F1 on these rows.

    Maximising each label's F1 on its own maximises macro F1 (Lipton et al. 2014, "Optimal thresholding of
    classifiers to maximize F1 measure"). With a handful of positives the best threshold is an accident of
    those rows, so such a label keeps ``default``. A threshold lies between two neighbouring scores, at the
    number with the fewest decimals there is; of equally good ones the nearest to ``default`` is taken.

    Args:
        y_true: multi-hot (n, L) of the validation rows.
        scores: probabilities or decision values (n, L).
        min_positives: fewer positives than this keep ``default``.
        default: where scores are neutral: 0.5 for probabilities, 0 for margins.

    Returns:
        L thresholds; a label is predicted where its score reaches its threshold.
    """
    return [
        _best_threshold(y_true[:, label], scores[:, label].astype(np.float64), min_positives, default)
        for label in range(scores.shape[1])
    ]


def _best_threshold(truth: IntArray, scores: FloatArray, min_positives: int, default: float) -> float:
    positives = int(truth.sum())
    if positives < min_positives:
        return default
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)  # the last row of each run of ties
    correct = np.cumsum(truth[order], dtype=np.int64)[last]
    f1 = ratio(2 * correct, last + 1 + positives)
    upper = ordered[last]  # lowest score still predicted
    lower = np.append(upper[1:], upper[-1] - 1.0)  # highest score no longer predicted
    best = np.flatnonzero(f1 == f1.max())
    distance = np.maximum(np.maximum(lower[best] - default, default - upper[best]), 0)
    choice = best[distance.argmin()]
    if lower[choice] < default <= upper[choice]:
        return default
    if choice == len(upper) - 1:  # every row is predicted: no score below to keep clear of
        return float(upper[-1])
    return _shortest_between(float(lower[choice]), float(upper[choice]))


def _shortest_between(lower: float, upper: float) -> float:
    """The number with the fewest decimals in (lower, upper], near the middle; for people to read."""
    middle = lower + (upper - lower) / 2
    for decimals in range(2, 17):
        rounded = round(middle, decimals)
        if lower < rounded <= upper:
            return rounded
    return middle if math.isfinite(middle) and lower < middle else upper
