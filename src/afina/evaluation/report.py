"""From logits to everything the evaluate stage reports. No model, no files: values in, values out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from afina.errors import UserError
from afina.evaluation.adjustment import fit_tau, logit_offsets
from afina.evaluation.curves import Curve, curves
from afina.evaluation.intervals import bootstrap_intervals, headline_metrics
from afina.evaluation.metrics import (
    DEFAULT_THRESHOLD,
    FloatArray,
    IntArray,
    classification_metrics,
    one_hot,
    predict,
    rounded,
)
from afina.evaluation.predictions import prediction_table
from afina.evaluation.probabilities import to_probabilities
from afina.evaluation.tables import Cell, Mistake, confident_mistakes, confusion_pairs, per_class_rows
from afina.evaluation.thresholds import fit_thresholds
from afina.labels import LabelSet, Task
from afina.params.evaluate import EvaluateParams

# What metrics.json says about test. Scores that equal another by definition are left out: in multiclass,
# micro precision, recall, F1 and weighted recall are the accuracy; in multilabel, weighted recall is micro
# recall. per_class.csv has all the averages.
REPORTED: dict[Task, tuple[str, ...]] = {
    "multiclass": (
        "macro_f1",
        "accuracy",
        "weighted_f1",
        "macro_precision",
        "macro_recall",
        "weighted_precision",
    ),
    "multilabel": (
        "macro_f1",
        "micro_f1",
        "weighted_f1",
        "samples_f1",
        "subset_accuracy",
        "macro_precision",
        "macro_recall",
        "micro_precision",
        "micro_recall",
    ),
}


@dataclass(frozen=True)
class Scored:
    """One split with a model's logits."""

    ids: Sequence[str]
    texts: Sequence[str]
    y: IntArray  # class indexes (n,) or multi-hot (n, L)
    logits: FloatArray  # (n, L)


@dataclass(frozen=True)
class Evaluation:
    """What the evaluate stage writes."""

    metrics: dict[str, Any]
    decision: dict[str, Any]
    per_class: list[list[Cell]]
    confusion: list[tuple[str, str]]
    precision_recall: list[Curve]
    roc: list[Curve]
    predictions: pa.Table
    mistakes: list[Mistake]
    summary: str


def choose_thresholds(
    y_validation: IntArray, probabilities: FloatArray, task: Task, params: EvaluateParams
) -> list[float] | None:
    """The L thresholds of a multilabel task, fitted on validation unless a number is set; else None."""
    if task == "multiclass":
        return None
    if params.thresholds == "fit":
        return fit_thresholds(y_validation, probabilities, params.threshold_min_positives)
    return [float(params.thresholds)] * probabilities.shape[1]


def choose_adjustment(
    y_validation: IntArray, logits: FloatArray, prior: FloatArray | None, task: Task, params: EvaluateParams
) -> tuple[float, FloatArray]:
    """The logit adjustment: its strength, fitted on validation unless a number is set, and the L offsets."""
    if params.logit_adjustment == "none":
        return 0.0, np.zeros(logits.shape[1])
    if prior is None:
        raise ValueError(f"evaluate.logit_adjustment is {params.logit_adjustment}, but there is no prior")
    if params.logit_adjustment != "fit":
        tau = float(params.logit_adjustment)
    elif len(y_validation):
        # Thresholds are fitted to what the adjustment leaves, so none are known yet.
        threshold = DEFAULT_THRESHOLD if params.thresholds == "fit" else params.thresholds
        tau = fit_tau(y_validation, logits, prior, task, threshold)
    else:  # an empty split is reported by the metrics
        tau = 0.0
    return tau, logit_offsets(prior, tau, task)


def evaluate(
    validation: Scored,
    test: Scored,
    label_set: LabelSet,
    baseline: Mapping[str, Any],
    params: EvaluateParams,
    seed: int,
    untrained: tuple[FloatArray, FloatArray] | None = None,
    prior: FloatArray | None = None,
) -> Evaluation:
    """Evaluate logits: whatever is fitted is fitted on ``validation``; ``test`` is only scored.

    Args:
        validation: the validation split with the model's logits.
        test: the test split with the model's logits.
        label_set: task and labels, in the order of the logits.
        baseline: the content of baseline.json.
        params: the stage's parameters.
        seed: of the bootstrap.
        untrained: logits of the model before fine-tuning for validation and test, judged in the same way but
            never adjusted, as it knows no prior.
        prior: what the logits are adjusted by, (L,) as `afina.evaluation.adjustment.training_prior` gives it;
            needed unless ``params.logit_adjustment`` is none.

    Raises:
        UserError: a split is empty, a logit is not a number, or the baseline was made with other labels.
        ValueError: logits are to be adjusted, but there is no prior.
    """
    task, labels = label_set.task, label_set.labels
    if list(baseline.get("tfidf_f1", ())) != list(labels):
        raise UserError("reports/baseline.json: made with other labels; run `dvc repro -f baseline`")
    tau, offsets = choose_adjustment(validation.y, validation.logits, prior, task, params)
    known = to_probabilities(validation.logits, task, offsets)
    thresholds = None
    if len(validation.y):  # an empty split is reported by the metrics
        thresholds = choose_thresholds(validation.y, known, task, params)
    validation_scores = classification_metrics(validation.y, known, labels, task, thresholds)
    probabilities = to_probabilities(test.logits, task, offsets)
    scores = classification_metrics(test.y, probabilities, labels, task, thresholds)
    predicted = predict(probabilities, task, thresholds)
    intervals = bootstrap_intervals(
        test.y, predicted, len(labels), task, params.bootstrap_samples, params.confidence, seed
    )

    headline, second = headline_metrics(task)
    metrics: dict[str, Any] = {
        "test": rounded({name: scores[name] for name in REPORTED[task]}),
        "interval": rounded(
            {
                f"{name}_{edge}": getattr(interval, edge)
                for name, interval in intervals.items()
                for edge in ("low", "high")
            }
        ),
        "validation": rounded({headline: validation_scores[headline]}),
        "baseline": {
            f"tfidf_{headline}": baseline["tfidf"][headline],
            f"tfidf_{second}": baseline["tfidf"][second],
            f"majority_{headline}": baseline["majority"][headline],
        },
    }
    if untrained is not None:
        before = _scores_of(untrained, validation.y, test.y, label_set, params)
        metrics["untrained"] = rounded({headline: before[headline]})
    if params.logit_adjustment != "none":
        metrics["logit_adjustment"] = {"tau": tau} | rounded(
            {
                f"unadjusted_{name}_{headline}": _scores_of(
                    (validation.logits, part.logits), validation.y, part.y, label_set, params
                )[headline]
                for name, part in (("validation", validation), ("test", test))
            }
        )
    metrics["rows"] = {"test": len(test.ids)}

    precision_recall, roc = curves(one_hot(test.y, len(labels)), probabilities, labels)
    return Evaluation(
        metrics=metrics,
        decision={
            "thresholds": None if thresholds is None else dict(zip(labels, thresholds, strict=True)),
            "logit_offsets": dict(zip(labels, offsets.tolist(), strict=True)),
        },
        per_class=per_class_rows(
            test.y, predicted, probabilities, labels, task, thresholds, baseline["tfidf_f1"]
        ),
        confusion=list(confusion_pairs(test.y, predicted, labels)),
        precision_recall=precision_recall,
        roc=roc,
        predictions=prediction_table(
            label_set,
            {
                "validation": (validation.ids, validation.y, predict(known, task, thresholds), known),
                "test": (test.ids, test.y, predicted, probabilities),
            },
        ),
        mistakes=confident_mistakes(
            test.ids, test.texts, test.y, predicted, probabilities, labels, params.mistakes
        ),
        summary=_summary(metrics, headline),
    )


def _scores_of(
    logits: tuple[FloatArray, FloatArray],
    y_validation: IntArray,
    y: IntArray,
    label_set: LabelSet,
    params: EvaluateParams,
) -> dict[str, float]:
    """Metrics of logits as they are: the second are judged, thresholds chosen on the first, of validation."""
    known, probabilities = (to_probabilities(part, label_set.task) for part in logits)
    thresholds = choose_thresholds(y_validation, known, label_set.task, params)
    return classification_metrics(y, probabilities, label_set.labels, label_set.task, thresholds)


def _summary(metrics: Mapping[str, Any], headline: str) -> str:
    low, high = (metrics["interval"][f"{headline}_{edge}"] for edge in ("low", "high"))
    text = (
        f"macro-F1 {metrics['test'][headline]:.3f} [{low:.3f}, {high:.3f}] on {metrics['rows']['test']:,} "
        f"test rows (TF-IDF {metrics['baseline'][f'tfidf_{headline}']:.3f}"
    )
    if "untrained" in metrics:
        text += f", untrained {metrics['untrained'][headline]:.3f}"
    text += ")"
    if "logit_adjustment" in metrics:
        adjustment = metrics["logit_adjustment"]
        text += (
            f"; logit adjustment tau {adjustment['tau']:g} "
            f"(without: {adjustment[f'unadjusted_test_{headline}']:.3f})"
        )
    return text
