"""The tables of an evaluation: per class, confusion, and the mistakes a person should read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from afina.evaluation.curves import rank_labels
from afina.evaluation.intervals import Intervals
from afina.evaluation.metrics import FEW_ROWS, FloatArray, IntArray, count, one_hot, prediction_metrics
from afina.labels import Task, decode_labels

NONE = "(none)"  # no label: in a confusion table, and a multilabel row without labels
SEPARATOR = "|"  # between the labels of one row, as in the sources

PER_CLASS_HEADER = (
    "label",
    "precision",
    "recall",
    "f1",
    "f1_low",
    "f1_high",
    "support",
    "few_rows",
    "predicted",
    "average_precision",
    "roc_auc",
    "threshold",
    "baseline_f1",
)
CONFUSION_HEADER = ("actual", "predicted")
MISTAKES_HEADER = ("id", "actual", "predicted", "confidence", "probability_of_actual", "text")

Cell = str | int | float | None


def per_class_rows(
    y_true: IntArray,
    predicted: IntArray,
    probabilities: FloatArray,
    labels: Sequence[str],
    task: Task,
    thresholds: Sequence[float] | None,
    baseline_f1: Mapping[str, float],
    intervals: Intervals,
) -> list[list[Cell]]:
    """One row a label as in ``PER_CLASS_HEADER``, then the macro, micro and weighted averages.

    ``support`` counts the rows that have the label, ``predicted`` those said to have it; ``few_rows`` is yes
    where there are so few (see `FEW_ROWS`) that the label's scores say next to nothing, whatever their
    interval. A cell without a meaning (the threshold of a multiclass label, the ranking of a label without
    test rows) is empty.
    """
    counts = count(y_true, predicted, len(labels))
    rankings = rank_labels(one_hot(y_true, len(labels)), probabilities)
    rows: list[list[Cell]] = []
    for index, (label, ranking) in enumerate(zip(labels, rankings, strict=True)):
        rows.append(
            [
                label,
                _number(counts.precision[index]),
                _number(counts.recall[index]),
                _number(counts.f1[index]),
                _number(intervals.f1[index].low),
                _number(intervals.f1[index].high),
                int(counts.support[index]),
                "yes" if counts.support[index] < FEW_ROWS else None,
                int(counts.predicted[index]),
                _number(ranking.average_precision),
                _number(ranking.roc_auc),
                None if thresholds is None else thresholds[index],
                _number(baseline_f1.get(label)),
            ]
        )
    scores = prediction_metrics(y_true, predicted, labels, task)
    support, guessed = int(counts.support.sum()), int(counts.predicted.sum())
    for average in ("macro", "micro", "weighted"):
        # Accuracy, which has an interval, is micro F1.
        name = "accuracy" if (task, average) == ("multiclass", "micro") else f"{average}_f1"
        interval = intervals.headline.get(name)
        rows.append(
            [
                f"({average} average)",
                *(_number(scores[f"{average}_{score}"]) for score in ("precision", "recall", "f1")),
                None if interval is None else _number(interval.low),
                None if interval is None else _number(interval.high),
                support,
                None,
                guessed,
                *[None] * 4,
            ]
        )
    return rows


def confusion_pairs(
    y_true: IntArray, predicted: IntArray, labels: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Pairs (actual, predicted) to be counted into a confusion matrix.

    multiclass: one pair a row. multilabel: a label found is the pair (label, label); each label missed is
    paired with each label wrongly predicted on the same row, and with "(none)" where nothing was wrongly
    predicted; a label wrongly predicted where none was missed is paired with "(none)". The diagonal over a
    row's sum is then close to, but not exactly, the label's recall, which per_class.csv has.
    """
    if y_true.ndim == 1:
        for actual, guess in zip(y_true, predicted, strict=True):
            yield labels[int(actual)], labels[int(guess)]
        return
    for truth, guess in zip(y_true.astype(bool), predicted.astype(bool), strict=True):
        for label in np.flatnonzero(truth & guess):
            yield labels[int(label)], labels[int(label)]
        missed = [labels[int(label)] for label in np.flatnonzero(truth & ~guess)]
        wrong = [labels[int(label)] for label in np.flatnonzero(guess & ~truth)]
        if missed or wrong:
            yield from ((actual, said) for actual in missed or [NONE] for said in wrong or [NONE])


@dataclass(frozen=True)
class Mistake:
    """A row judged wrongly, with the confidence of its worst wrong decision."""

    id: str
    actual: str
    predicted: str
    confidence: float
    probability_of_actual: float | None
    text: str


def confident_mistakes(
    ids: Sequence[str],
    texts: Sequence[str],
    y_true: IntArray,
    predicted: IntArray,
    probabilities: FloatArray,
    labels: Sequence[str],
    limit: int,
) -> list[Mistake]:
    """The wrongly judged rows the model was surest about, surest first, then by id.

    ``confidence`` is the probability of what was wrongly decided. multiclass: that of the predicted class,
    beside the probability of the actual one. multilabel: the highest over the row's wrong labels, p of one
    wrongly predicted and 1 - p of one missed, beside the lowest probability of the row's actual labels (None
    if it has none). Often it is the label in the data that is wrong, not the model. A text is one line.
    """
    if y_true.ndim == 1:
        wrong = y_true != predicted
        confidence = probabilities.max(axis=1)
        actual = probabilities[np.arange(len(y_true)), y_true]
    else:
        differs = y_true != predicted
        wrong = differs.any(axis=1)
        decided = np.where(predicted == 1, probabilities, 1 - probabilities)
        confidence = np.where(differs, decided, 0).max(axis=1)
        actual = np.where(y_true == 1, probabilities, np.inf).min(axis=1)
    # Rounded first, so that the order of the file is that of the numbers in it.
    confidence = np.round(confidence.astype(np.float64), 4)
    rows = sorted(map(int, np.flatnonzero(wrong)), key=lambda row: (-confidence[row], ids[row]))[:limit]
    names = decode_labels(y_true[rows], labels), decode_labels(predicted[rows], labels)
    return [
        Mistake(
            ids[row],
            SEPARATOR.join(truth) or NONE,
            SEPARATOR.join(guess) or NONE,
            float(confidence[row]),
            round(float(actual[row]), 4) if np.isfinite(actual[row]) else None,
            " ".join(texts[row].split()),
        )
        for row, truth, guess in zip(rows, *names, strict=True)
    ]


def _number(value: float | None) -> float | None:
    return None if value is None else round(float(value), 6)
