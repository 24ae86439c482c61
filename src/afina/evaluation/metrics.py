"""Classification metrics under one set of conventions, used by the baselines, training and evaluation.

Conventions: the averages run over all labels of the run, also those absent from the rows at hand. Precision,
recall and F1 of a label that is neither present nor predicted are 0, so a macro average never rises because
a rare label fell out of a split. Multiclass predicts the label of highest probability (a tie goes to the
first); multilabel predicts each label whose probability reaches its threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from afina.errors import UserError
from afina.labels import Task

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]

DEFAULT_THRESHOLD = 0.5
# A class, or a slice, of fewer test rows says next to nothing by itself: the 95 % interval of a recall of one
# half is wider than a third.
FEW_ROWS = 30


def predict(probabilities: FloatArray, task: Task, thresholds: Sequence[float] | None = None) -> IntArray:
    """Turn probabilities (n, L) into predictions.

    Args:
        probabilities: (n, L) in [0, 1].
        task: multiclass or multilabel.
        thresholds: L thresholds for multilabel (default 0.5 for all); multiclass has none.

    Returns:
        multiclass: int64 (n,) class indexes; multilabel: int8 (n, L) multi-hot.
    """
    if task == "multiclass":
        return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)
    label_count = probabilities.shape[1]
    limits = np.full(label_count, DEFAULT_THRESHOLD) if thresholds is None else np.asarray(thresholds)
    if limits.shape != (label_count,):
        raise ValueError(f"{limits.shape} thresholds for {label_count} labels")
    return np.asarray(probabilities >= limits, dtype=np.int8)


@dataclass(frozen=True)
class Counts:
    """True positives, positives and predicted positives of each label: what every F1 here is made of.

    Each array is (..., L): leading axes (resamples) pass through all functions.
    """

    correct: npt.NDArray[Any]
    support: npt.NDArray[Any]
    predicted: npt.NDArray[Any]

    @property
    def precision(self) -> FloatArray:
        return ratio(self.correct, self.predicted)

    @property
    def recall(self) -> FloatArray:
        return ratio(self.correct, self.support)

    @property
    def f1(self) -> FloatArray:
        return ratio(2 * self.correct, self.support + self.predicted)

    def total(self) -> Counts:
        """The counts of all labels together, for micro averages."""
        return Counts(
            *(part.sum(axis=-1, keepdims=True) for part in (self.correct, self.support, self.predicted))
        )


def ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> FloatArray:
    """``part / whole`` as float64, 0 where ``whole`` is 0."""
    result = np.zeros(np.broadcast_shapes(part.shape, whole.shape))
    np.divide(part, whole, out=result, where=whole != 0)
    return result


def one_hot(encoded: IntArray, label_count: int) -> IntArray:
    """Class indexes (n,) as int8 (n, L); multi-hot rows pass unchanged."""
    if encoded.ndim == 2:
        return encoded
    return np.asarray(encoded[:, None] == np.arange(label_count), dtype=np.int8)


def count(y_true: IntArray, predicted: IntArray, label_count: int) -> Counts:
    """Count hits per label: class indexes (n,) or multi-hot (n, L) against predictions of the same shape."""
    truth, guess = one_hot(y_true, label_count), one_hot(predicted, label_count)
    return Counts(
        (truth & guess).sum(axis=0, dtype=np.int64),
        truth.sum(axis=0, dtype=np.int64),
        guess.sum(axis=0, dtype=np.int64),
    )


def classification_metrics(
    y_true: IntArray,
    probabilities: FloatArray,
    labels: Sequence[str],
    task: Task,
    thresholds: Sequence[float] | None = None,
) -> dict[str, float]:
    """The summary scores of probabilities against the truth, always the same keys in the same order.

    Args:
        y_true: multiclass: class indexes (n,); multilabel: multi-hot (n, L).
        probabilities: (n, L).
        labels: the L label names.
        task: multiclass or multilabel.
        thresholds: L thresholds for multilabel (default 0.5 for all).

    Returns:
        Numbers in [0, 1]. multiclass: macro_f1, micro_f1, weighted_f1, accuracy, then precision and recall,
        each macro, micro and weighted (micro scores equal accuracy). multilabel: macro_f1, micro_f1,
        weighted_f1, samples_f1, subset_accuracy, then precision and recall likewise. A row with neither true
        nor predicted labels counts as right in samples_f1.

    Raises:
        UserError: there are no rows, or a probability is NaN or infinite.
    """
    check_probabilities(y_true, probabilities, labels, task)
    return prediction_metrics(y_true, predict(probabilities, task, thresholds), labels, task)


def prediction_metrics(
    y_true: IntArray, predicted: IntArray, labels: Sequence[str], task: Task
) -> dict[str, float]:
    """The scores of `classification_metrics` for predictions that are already made."""
    counts = count(y_true, predicted, len(labels))
    total = counts.total()
    weights = ratio(counts.support, np.asarray(counts.support.sum()))
    scores: dict[str, float] = {
        "macro_f1": counts.f1.mean(),
        "micro_f1": total.f1[0],
        "weighted_f1": np.sum(counts.f1 * weights),
    }
    if task == "multiclass":
        scores["accuracy"] = np.mean(y_true == predicted)
    else:
        scores["samples_f1"] = samples_f1(y_true, predicted).mean()
        scores["subset_accuracy"] = np.mean((y_true == predicted).all(axis=1))
    for name in ("precision", "recall"):
        values = getattr(counts, name)
        scores[f"macro_{name}"] = values.mean()
        scores[f"micro_{name}"] = getattr(total, name)[0]
        scores[f"weighted_{name}"] = np.sum(values * weights)
    return {name: float(value) for name, value in scores.items()}


def samples_f1(y_true: IntArray, predicted: IntArray) -> FloatArray:
    """F1 of each multi-hot row (n, L) on its own; 1 where there is nothing to find and nothing was found."""
    sizes = y_true.sum(axis=1) + predicted.sum(axis=1)
    scores = ratio(2 * (y_true & predicted).sum(axis=1), sizes)
    scores[sizes == 0] = 1.0
    return scores


def rounded(scores: dict[str, float], decimals: int = 6) -> dict[str, float]:
    """Scores as they are reported: digits beyond the sixth say nothing and differ between machines."""
    return {name: round(float(value), decimals) for name, value in scores.items()}


def check_probabilities(
    y_true: IntArray, probabilities: FloatArray, labels: Sequence[str], task: Task
) -> None:
    """Check shapes and values before anything is scored.

    Raises:
        UserError: there are no rows, or a probability is NaN or infinite.
        ValueError: the arrays do not fit each other.
    """
    expected = (len(y_true),) if task == "multiclass" else (len(y_true), len(labels))
    if y_true.shape != expected or probabilities.shape != (len(y_true), len(labels)):
        raise ValueError(
            f"{task}: truth {y_true.shape} and probabilities {probabilities.shape} for {len(labels)} labels"
        )
    if not len(y_true):
        raise UserError("metrics: no rows to score; give the split more rows (section split of params.yaml)")
    bad = int((~np.isfinite(probabilities)).any(axis=1).sum())
    if bad:
        raise UserError(
            f"metrics: {bad} of {len(y_true)} rows have a probability that is not a number; the model has "
            "diverged, lower train.learning_rate"
        )
