"""Post-hoc logit adjustment: what a label's share of the training data gave its logit is taken off again.

Menon, Jayasumana, Rawat, Jain, Veit & Kumar, "Long-tail learning via logit adjustment", ICLR 2021. A model
trained on imbalanced data learns log p(text | label) + log p(label), so rare labels lose. Adjusted logits are
logits - tau * log(prior): tau = 0 leaves them, tau = 1 takes the prior off altogether, which is best for the
mean recall of the labels; macro-F1 on data as imbalanced as those of training asks for something in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from afina.errors import UserError
from afina.evaluation.metrics import DEFAULT_THRESHOLD, FloatArray, IntArray, count, one_hot, predict, ratio
from afina.evaluation.probabilities import to_probabilities
from afina.labels import LabelSet, Task

TAU_GRID = np.round(np.linspace(0, 2, 41), 2)


def training_prior(balance: Mapping[str, Any], rows: int, label_set: LabelSet) -> FloatArray:
    """The distribution of labels that the loss was computed on: rows after resampling, times class weights.

    Args:
        balance: the content of balance.json.
        rows: rows of the balanced training table; multilabel alone needs it.
        label_set: task and labels.

    Returns:
        (L,) in [0, 1], 0 for a label without a row. multiclass: shares of the weighted rows, which sum to 1.
        multilabel: of each label, its weighted positives over these and its negatives, whose weight is 1.

    Raises:
        UserError: the counts are of other labels, or none has a row.
    """
    counted, weighted = balance.get("after"), balance.get("class_weights") or {}
    if not isinstance(counted, dict) or list(counted) != list(label_set.labels) or not any(counted.values()):
        raise UserError("data/balanced/balance.json: made with other labels; run `dvc repro -f balance`")
    positives = np.array([counted[label] for label in label_set.labels], dtype=np.float64)
    mass = positives * [float(weighted.get(label, 1.0)) for label in label_set.labels]
    return ratio(mass, mass.sum() if label_set.task == "multiclass" else mass + (rows - positives))


def logit_offsets(prior: FloatArray, tau: float, task: Task) -> FloatArray:
    """What is added to each label's logit, in nats.

    multiclass: -tau * log(prior), shifted so that the most frequent label has 0 and rarer ones have more; the
    shift cancels in the softmax. multilabel: -tau * log(prior / (1 - prior)), as each label is a problem of
    two classes, and the log odds are what the prior adds to its one logit. A label that no row has (in
    multilabel also one that every row has) gets 0: nothing was learned of it that could be corrected, and in
    multiclass it then gains on no other.

    Args:
        prior: (L,) as `training_prior` gives it.
        tau: strength, at least 0.

    Returns:
        (L,) float64, rounded to six decimals, so that what is equal but for rounding gives 0.
    """
    offsets = np.zeros(len(prior))
    if task == "multiclass":
        usable = prior > 0
        offsets[usable] = np.log(prior[usable].max()) - np.log(prior[usable])
    else:
        usable = (prior > 0) & (prior < 1)
        offsets[usable] = np.log1p(-prior[usable]) - np.log(prior[usable])
    return np.round(tau * offsets, 6) + 0.0  # + 0.0: no -0.0


def fit_tau(
    y_true: IntArray,
    logits: FloatArray,
    prior: FloatArray,
    task: Task,
    threshold: float = DEFAULT_THRESHOLD,
) -> float:
    """The tau of ``TAU_GRID`` for these rows, by macro-F1 and the one-standard-error rule.

    The highest of 41 scores is in part luck, and with few rows of rare labels that part is large. So the
    smallest tau is taken that the best one beats by no more than a standard error (Breiman, Friedman, Olshen
    & Stone 1984, "Classification and Regression Trees", section 3.4.3); that of the difference between the
    two, as both are scored on the same rows.

    In multilabel, a threshold fitted afterwards moves along with its label's probabilities. Tau then changes
    the probabilities, not the decisions, but for labels too rare to have their threshold fitted.

    Args:
        y_true: class indexes (n,) or multi-hot (n, L) of the validation rows, n > 0.
        logits: (n, L), unadjusted.
        prior: (L,) as `training_prior` gives it.
        task: multiclass or multilabel.
        threshold: multilabel: the probability from which each label is predicted while tau is fitted.
    """
    label_count = logits.shape[1]
    thresholds = [threshold] * label_count if task == "multilabel" else None

    def decide(tau: float) -> IntArray:
        adjusted = logits + logit_offsets(prior, tau, task)
        return predict(to_probabilities(adjusted, task), task, thresholds)

    scores = np.array([count(y_true, decide(tau), label_count).f1.mean() for tau in TAU_GRID])
    best = int(scores.argmax())
    chosen = decide(TAU_GRID[best])
    for tau, score in zip(TAU_GRID[:best], scores[:best], strict=True):
        if scores[best] - score <= standard_error(y_true, chosen, decide(tau), label_count):
            return float(tau)
    return float(TAU_GRID[best])


def standard_error(y_true: IntArray, predicted: IntArray, other: IntArray, label_count: int) -> float:
    """Standard error of the difference in macro-F1 between two predictions of the same rows.

    By the jackknife: how the difference changes as each row is left out (Efron & Tibshirani 1993, "An
    Introduction to the Bootstrap", chapter 11). Without resampling, hence without a seed.

    Args:
        y_true: class indexes (n,) or multi-hot (n, L), n > 0.
        predicted: the same shape.
        other: the same shape.
        label_count: L.
    """
    changes = [macro_f1_changes(y_true, guess, label_count) for guess in (predicted, other)]
    return float(np.sqrt((len(y_true) - 1) * np.var(changes[0] - changes[1])))


def macro_f1_changes(y_true: IntArray, predicted: IntArray, label_count: int) -> FloatArray:
    """By how much macro-F1 changes as each row is left out, (n,).

    Args:
        y_true: class indexes (n,) or multi-hot (n, L).
        predicted: the same shape.
        label_count: L.
    """
    counts = count(y_true, predicted, label_count)
    truth, guess = one_hot(y_true, label_count), one_hot(predicted, label_count)
    # F1 = 2 * correct / whole. Where a label is rightly said of a row, the row counts twice in the whole.
    whole = counts.support + counts.predicted
    right = ratio(2 * (counts.correct - 1), whole - 2) - counts.f1
    wrong = ratio(2 * counts.correct, whole - 1) - counts.f1
    return np.asarray((truth & guess) @ right + (truth ^ guess) @ wrong) / label_count
