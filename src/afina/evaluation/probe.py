"""A linear probe: what the backbone knows of the labels before it is fine-tuned, by a linear model on top.

Alain & Bengio, "Understanding intermediate layers using linear classifier probes", ICLR workshop 2017.
Fitted on train, its strength and thresholds on validation, for test.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from afina.errors import UserError
from afina.evaluation.decision import choose_thresholds
from afina.evaluation.metrics import FloatArray, IntArray, predict, prediction_metrics
from afina.labels import LabelSet
from afina.params.evaluate import EvaluateParams

# Inverse regularisation. None is best everywhere: hundreds of features fit a small train split by heart at 1.
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class Embedded:
    """Vectors of one split's texts with their encoded labels."""

    vectors: FloatArray  # (n, H)
    y: IntArray  # class indexes (n,) or multi-hot (n, L)


def probe_predictions(
    train: Embedded, validation: Embedded, test: FloatArray, label_set: LabelSet, params: EvaluateParams
) -> IntArray:
    """What the probe says of test: class indexes (n,) or multi-hot (n, L).

    Logistic regression on standardised vectors, with balanced class weights as the TF-IDF baseline has them;
    multilabel: one a label. Of ``STRENGTHS`` the one with the highest macro-F1 on validation is taken, of
    equal ones the most regularised: validation, as it chooses the epoch of the fine-tuned model too, and as
    it shares no near duplicates with train, which parts of train may share with each other.

    Args:
        train: fitted on; a label that none of its rows has gets probability 0.
        validation: the strength, and multilabel thresholds, are chosen by it.
        test: (n, H) vectors.
        label_set: task and labels.
        params: how thresholds are chosen.

    Raises:
        UserError: there is nothing to tell apart in train, or a split has no rows.
    """
    from sklearn.preprocessing import StandardScaler

    for name, rows in (("train", train.y), ("validation", validation.y), ("test", test)):
        if not len(rows):
            raise UserError(f"data/splits/{name}.parquet: no rows; give the split more (section split)")
    labels, task = label_set.labels, label_set.task
    if task == "multiclass" and len(np.unique(train.y)) < 2:
        raise UserError("evaluate.probe: train has one class only; there is nothing to tell apart")
    scaler = StandardScaler().fit(train.vectors)
    fitted_on, known, unknown = (scaler.transform(part) for part in (train.vectors, validation.vectors, test))
    best, answer = -1.0, None
    for strength in STRENGTHS:
        before, after = _probabilities(fitted_on, train.y, [known, unknown], len(labels), strength)
        thresholds = choose_thresholds(validation.y, before, task, params)
        guess = predict(before, task, thresholds)
        score = prediction_metrics(validation.y, guess, labels, task)["macro_f1"]
        if score > best:
            best, answer = score, predict(after, task, thresholds)
    assert answer is not None  # a score is never negative
    return answer


def _probabilities(
    train: FloatArray, y: IntArray, parts: list[FloatArray], label_count: int, strength: float
) -> list[FloatArray]:
    """Probabilities (n, L) for each of the parts (n, H), of a model fitted on train."""
    if y.ndim == 1:
        return _fit(train, y, parts, label_count, strength)
    columns = [_fit(train, y[:, label], parts, 2, strength) for label in range(label_count)]
    return [np.stack([column[part][:, 1] for column in columns], axis=1) for part in range(len(parts))]


def _fit(
    train: FloatArray, y: IntArray, parts: list[FloatArray], classes: int, strength: float
) -> list[FloatArray]:
    """Probabilities (n, classes) for each part; 0 for a class that train lacks."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    present = np.unique(y)
    found: list[FloatArray] = [np.zeros((len(part), classes)) for part in parts]
    if len(present) < 2:
        for part in found:
            part[:, present] = 1.0
        return found
    model: Any = LogisticRegression(C=strength, class_weight="balanced", max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings():
        # Stopping early costs the last digits alone.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train, y)
    for part, vectors in zip(found, parts, strict=True):
        part[:, model.classes_] = model.predict_proba(vectors)
    return found
