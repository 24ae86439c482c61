"""From logits to everything the evaluate stage reports. No model, no files: values in, values out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from afina.errors import UserError
from afina.evaluation.abstention import (
    answered,
    area_under_risk_coverage,
    risk_coverage,
    row_confidence,
    rows_right,
)
from afina.evaluation.calibration import (
    brier_score,
    classwise_ece,
    expected_calibration_error,
    reliability_curve,
)
from afina.evaluation.curves import Curve, curves
from afina.evaluation.decision import Decision, Scored, choose_thresholds, fit_decision
from afina.evaluation.intervals import Intervals, bootstrap_intervals, headline_metrics
from afina.evaluation.metrics import (
    FloatArray,
    IntArray,
    classification_metrics,
    one_hot,
    predict,
    prediction_metrics,
    rounded,
)
from afina.evaluation.predictions import prediction_table
from afina.evaluation.probabilities import to_probabilities
from afina.evaluation.rivals import rival_rows
from afina.evaluation.slices import Slice, slice_rows
from afina.evaluation.tables import Cell, Mistake, confident_mistakes, confusion_pairs, per_class_rows
from afina.labels import LabelSet, Task
from afina.params.evaluate import EvaluateParams

# What metrics.json says about test: few, as each is a column of `dvc exp show`; evaluation.json has all.
REPORTED: dict[Task, tuple[str, ...]] = {
    "multiclass": ("macro_f1", "accuracy", "weighted_f1"),
    "multilabel": ("macro_f1", "micro_f1", "weighted_f1", "subset_accuracy"),
}

RELIABILITY_HEADER = ("label", "confidence", "accuracy", "rows")
RISK_COVERAGE_HEADER = ("label", "coverage", "accuracy", "confidence")
PERFECT = "perfect"  # the diagonal of a reliability diagram


@dataclass(frozen=True)
class Evaluation:
    """What the evaluate stage writes."""

    metrics: dict[str, Any]
    details: dict[str, Any]
    decision: dict[str, Any]
    per_class: list[list[Cell]]
    confusion: list[tuple[str, str]]
    precision_recall: list[Curve]
    roc: list[Curve]
    reliability: list[list[Cell]]
    risk_coverage: list[list[Cell]]
    rivals: list[list[Cell]]
    slices: list[Slice]
    predictions: pa.Table
    mistakes: list[Mistake]
    summary: str


def evaluate(
    validation: Scored,
    test: Scored,
    label_set: LabelSet,
    baseline: Mapping[str, Any],
    params: EvaluateParams,
    seed: int,
    untrained: tuple[FloatArray, FloatArray] | None = None,
    prior: FloatArray | None = None,
    rivals: Mapping[str, IntArray] = MappingProxyType({}),
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
            neither adjusted, as it knows no prior, nor calibrated.
        prior: what the logits are adjusted by, (L,) as `afina.evaluation.adjustment.training_prior` gives it;
            needed unless ``params.logit_adjustment`` is none.
        rivals: what simpler models say of the test rows, by name, (n,) or (n, L).

    Raises:
        UserError: a split is empty, a logit is not a number, or the baseline was made with other labels.
        ValueError: logits are to be adjusted, but there is no prior.
    """
    task, labels = label_set.task, label_set.labels
    if list(baseline.get("tfidf_f1", ())) != list(labels):
        raise UserError("reports/baseline.json: made with other labels; run `dvc repro -f baseline`")
    decision = fit_decision(validation, prior, task, params)
    known, found = (_judge(split, decision, labels, task) for split in (validation, test))
    others = dict(rivals)
    if untrained is not None:
        others["untrained"] = _untrained_predictions(untrained, validation.y, task, params)
    bootstrap = params.bootstrap_samples, params.confidence, seed
    intervals = bootstrap_intervals(test.y, found.predicted, len(labels), task, *bootstrap)
    # The same probabilities before and after calibration.
    states = {"as trained": decision.uncalibrated(test.logits), "calibrated": found.probabilities}
    if params.calibration == "none":
        del states["calibrated"]
    confidence = row_confidence(found.probabilities, found.predicted)
    right = rows_right(test.y, found.predicted)
    details: dict[str, Any] = {
        "confidence": params.confidence,
        "test": rounded(found.scores),
        "calibration": _calibration_metrics(test.y, states),
        "abstention": _abstention_metrics(confidence, right, decision.abstain_below, params),
    }
    metrics = _metrics(known, found, intervals, baseline, task) | {
        "calibration": {name: details["calibration"][name] for name in ("ece", "brier")},
        "abstention": {name: details["abstention"][name] for name in ("coverage", "accuracy")},
    }
    headline, _ = headline_metrics(task)
    if untrained is not None:
        before = prediction_metrics(test.y, others["untrained"], labels, task)
        metrics["untrained"] = rounded({headline: before[headline]})
    if params.logit_adjustment != "none":
        metrics["logit_adjustment"] = _adjustment_metrics(decision.tau, validation, test, label_set, params)
    metrics["rows"] = {"test": len(test.ids)}

    y, predicted, probabilities = test.y, found.predicted, found.probabilities
    precision_recall, roc = curves(one_hot(y, len(labels)), probabilities, labels)
    return Evaluation(
        metrics=metrics,
        details=details,
        decision=decision.content(labels),
        per_class=per_class_rows(
            y, predicted, probabilities, labels, task, decision.thresholds, baseline["tfidf_f1"], intervals
        ),
        confusion=list(confusion_pairs(y, predicted, labels)),
        precision_recall=precision_recall,
        roc=roc,
        reliability=reliability_rows(y, states),
        risk_coverage=_risk_coverage_rows(confidence, right),
        rivals=rival_rows(test.ids, y, predicted, others, label_set, *bootstrap),
        slices=slice_rows(y, predicted, test.columns, len(labels), task, level=params.confidence),
        predictions=prediction_table(
            label_set,
            {
                "validation": (validation.ids, validation.y, known.predicted, known.probabilities),
                "test": (test.ids, y, predicted, probabilities),
            },
        ),
        mistakes=confident_mistakes(
            test.ids, test.texts, y, predicted, probabilities, labels, params.mistakes
        ),
        summary=_summary(metrics, headline),
    )


@dataclass(frozen=True)
class _Judged:
    """What a decision makes of a split, and how good that is."""

    probabilities: FloatArray  # (n, L)
    predicted: IntArray  # (n,) or (n, L)
    scores: dict[str, float]


def _judge(split: Scored, decision: Decision, labels: Sequence[str], task: Task) -> _Judged:
    probabilities = decision.probabilities(split.logits)
    scores = classification_metrics(split.y, probabilities, labels, task, decision.thresholds)
    return _Judged(probabilities, predict(probabilities, task, decision.thresholds), scores)


def _metrics(
    validation: _Judged, test: _Judged, intervals: Intervals, baseline: Mapping[str, Any], task: Task
) -> dict[str, Any]:
    """The scores of metrics.json, of the model and of the baselines."""
    headline, second = headline_metrics(task)
    edges = {
        f"{name}_{edge}": getattr(interval, edge)
        for name, interval in intervals.headline.items()
        for edge in ("low", "high")
    }
    return {
        "test": rounded({name: test.scores[name] for name in REPORTED[task]}),
        "interval": rounded(edges),
        "validation": rounded({headline: validation.scores[headline]}),
        "baseline": {
            f"tfidf_{headline}": baseline["tfidf"][headline],
            f"tfidf_{second}": baseline["tfidf"][second],
            f"majority_{headline}": baseline["majority"][headline],
        },
    }


def _calibration_metrics(y: IntArray, states: Mapping[str, FloatArray]) -> dict[str, float]:
    """How far probabilities (n, L) are from how often they come true, and their squared error.

    Args:
        states: the probabilities as trained and, perhaps, calibrated.
    """
    found: dict[str, float] = {}
    for name, probabilities in states.items():
        before = "uncalibrated_" if name == "as trained" and len(states) > 1 else ""
        found[f"{before}ece"] = expected_calibration_error(y, probabilities)
        found[f"{before}classwise_ece"] = classwise_ece(y, probabilities)
        found[f"{before}brier"] = brier_score(y, probabilities)
    return rounded(dict(sorted(found.items())))


def _abstention_metrics(
    confidence: FloatArray, right: npt.NDArray[np.bool_], threshold: float | None, params: EvaluateParams
) -> dict[str, float | None]:
    """What is answered, and how often rightly, where rows below the threshold go to a person.

    Args:
        confidence: of the test rows (n,).
        right: whether each is judged rightly (n,).
        threshold: fitted on validation; None: everything goes to a person.
    """
    found = answered(confidence, right, np.inf if threshold is None else threshold, params.confidence)
    accuracy = None if found.accuracy is None else round(found.accuracy, 6)
    return {
        "target_accuracy": params.target_accuracy,
        "threshold": threshold,
        "coverage": round(found.coverage, 6),
        "accuracy": accuracy,
        "accuracy_low": round(found.interval.low, 6),
        "accuracy_high": round(found.interval.high, 6),
        "area_under_risk_coverage": round(area_under_risk_coverage(confidence, right), 6),
    }


def _risk_coverage_rows(confidence: FloatArray, right: npt.NDArray[np.bool_]) -> list[list[Cell]]:
    """Rows as in ``RISK_COVERAGE_HEADER``."""
    curve = risk_coverage(confidence, right)
    return [
        ["test", *(round(float(value), 6) for value in point)]
        for point in zip(curve.coverage, curve.accuracy, curve.confidence, strict=True)
    ]


def _adjustment_metrics(
    tau: float, validation: Scored, test: Scored, label_set: LabelSet, params: EvaluateParams
) -> dict[str, float]:
    """Strength of the logit adjustment, and the scores without it."""
    task, labels = label_set.task, label_set.labels
    headline, _ = headline_metrics(task)
    without = params.model_copy(update={"logit_adjustment": "none"})
    plain = fit_decision(validation, None, task, without)
    unadjusted = {}
    for name, part in (("validation", validation), ("test", test)):
        probabilities = plain.probabilities(part.logits)
        scores = classification_metrics(part.y, probabilities, labels, task, plain.thresholds)
        unadjusted[f"unadjusted_{name}_{headline}"] = scores[headline]
    return {"tau": tau} | rounded(unadjusted)


def reliability_rows(y: IntArray, states: Mapping[str, FloatArray]) -> list[list[Cell]]:
    """Rows as in ``RELIABILITY_HEADER`` of the reliability diagram of probabilities (n, L) by name.

    Ten bins of equally many rows, so that each says something where most probabilities are near 1.
    """
    rows: list[list[Cell]] = [[PERFECT, edge, edge, None] for edge in (0.0, 1.0)]
    for name, probabilities in states.items():
        curve = reliability_curve(y, probabilities, bins=10, binning="mass")
        for confidence, accuracy, count in zip(curve.confidence, curve.accuracy, curve.rows, strict=True):
            rows.append([name, round(float(confidence), 6), round(float(accuracy), 6), int(count)])
    return rows


def _untrained_predictions(
    logits: tuple[FloatArray, FloatArray], y_validation: IntArray, task: Task, params: EvaluateParams
) -> IntArray:
    """What logits as they are say of test; the first ones, of validation, choose the thresholds."""
    known, probabilities = (to_probabilities(part, task) for part in logits)
    return predict(probabilities, task, choose_thresholds(y_validation, known, task, params))


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
