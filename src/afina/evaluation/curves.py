"""Precision-recall and ROC curves on fixed grids, small enough to commit and to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from afina.evaluation.metrics import FloatArray, IntArray

# Recall at even steps, without 0, where precision says nothing; false-positive rates denser near 0, where a
# classifier is used.
RECALL_GRID = np.linspace(0.02, 1, 50)
FPR_GRID = np.linspace(0, 1, 51) ** 2

MICRO, MACRO = "micro average", "macro average"


@dataclass(frozen=True)
class Curve:
    """A named curve; ``x`` rises to 1."""

    label: str
    x: FloatArray
    y: FloatArray


def precision_at_recall(truth: IntArray, scores: FloatArray) -> FloatArray:
    """Precision at the highest threshold whose recall reaches each point of ``RECALL_GRID``.

    Args:
        truth: 0/1 (n,) with at least one 1.
        scores: (n,).
    """
    hits, misses = _cumulative(truth, scores)
    recall = hits / hits[-1]
    index = np.minimum(np.searchsorted(recall, RECALL_GRID - 1e-12), len(recall) - 1)
    return np.asarray(hits[index] / (hits[index] + misses[index]))


def recall_at_false_positives(truth: IntArray, scores: FloatArray) -> FloatArray:
    """True-positive rate at the lowest threshold whose false-positive rate stays within ``FPR_GRID``.

    Args:
        truth: 0/1 (n,) with at least one of each.
        scores: (n,).
    """
    hits, misses = _cumulative(truth, scores)
    index = np.searchsorted(misses / misses[-1], FPR_GRID + 1e-12, side="right") - 1
    return np.asarray(np.where(index >= 0, hits[index] / hits[-1], 0.0))


def _cumulative(truth: IntArray, scores: FloatArray) -> tuple[IntArray, IntArray]:
    """True and false positives when everything down to each distinct score is predicted, highest first."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    hits = np.cumsum(truth[order], dtype=np.int64)[last]
    return hits, last + 1 - hits


@dataclass(frozen=True)
class Ranking:
    """How well one label's probability ranks its rows; None where the rows lack positives or negatives."""

    average_precision: float | None
    roc_auc: float | None


def rank_labels(truth: IntArray, probabilities: FloatArray) -> list[Ranking]:
    """Average precision and area under the ROC curve of each label of multi-hot ``truth`` (n, L)."""
    rankings = []
    for label in range(truth.shape[1]):
        column, scores = truth[:, label], probabilities[:, label]
        positives = int(column.sum())
        rankings.append(
            Ranking(
                float(average_precision_score(column, scores)) if positives else None,
                float(roc_auc_score(column, scores)) if 0 < positives < len(column) else None,
            )
        )
    return rankings


def curves(
    truth: IntArray, probabilities: FloatArray, labels: Sequence[str], shown: int = 3
) -> tuple[list[Curve], list[Curve]]:
    """Precision-recall and ROC curves: micro average, macro average and the weakest labels.

    micro: every (row, label) decision in one pool. macro: the mean of the labels' curves at each point of the
    grid, over labels with both positives and negatives. Weakest: the ``shown`` labels of lowest average
    precision, lowest first; with all labels drawn nothing can be read.

    Args:
        truth: multi-hot (n, L).
        probabilities: (n, L).
        labels: the L label names.
        shown: labels with a curve of their own.
    """
    positives = truth.sum(axis=0)
    usable = [int(label) for label in np.flatnonzero((positives > 0) & (positives < len(truth)))]
    if not usable:
        return [], []
    pr = {label: precision_at_recall(truth[:, label], probabilities[:, label]) for label in usable}
    roc = {label: recall_at_false_positives(truth[:, label], probabilities[:, label]) for label in usable}
    area = {label: average_precision_score(truth[:, label], probabilities[:, label]) for label in usable}
    weakest = sorted(usable, key=lambda label: (area[label], label))[:shown]
    flat = truth.ravel(), probabilities.ravel()
    return (
        [
            Curve(MICRO, RECALL_GRID, precision_at_recall(*flat)),
            Curve(MACRO, RECALL_GRID, np.mean(list(pr.values()), axis=0)),
            *(Curve(labels[label], RECALL_GRID, pr[label]) for label in weakest),
        ],
        [
            Curve(MICRO, FPR_GRID, recall_at_false_positives(*flat)),
            Curve(MACRO, FPR_GRID, np.mean(list(roc.values()), axis=0)),
            *(Curve(labels[label], FPR_GRID, roc[label]) for label in weakest),
        ],
    )
