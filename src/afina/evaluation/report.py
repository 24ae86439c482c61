"""From logits to everything the evaluate stage reports. No model, no files: values in, values out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from afina.errors import UserError
from afina.evaluation.abstention import (
    answered,
    area_under_risk_coverage,
    fit_abstention,
    risk_coverage,
    row_confidence,
    rows_right,
)
from afina.evaluation.adjustment import fit_tau, logit_offsets
from afina.evaluation.calibration import (
    brier_score,
    classwise_ece,
    expected_calibration_error,
    fit_platt,
    fit_temperature,
    reliability_curve,
)
from afina.evaluation.curves import Curve, curves
from afina.evaluation.intervals import bootstrap_intervals, headline_metrics
from afina.evaluation.metrics import (
    DEFAULT_THRESHOLD,
    FloatArray,
    IntArray,
    classification_metrics,
    one_hot,
    predict,
    prediction_metrics,
    rounded,
)
from afina.evaluation.predictions import prediction_table
from afina.evaluation.probabilities import Calibration, to_probabilities
from afina.evaluation.rivals import rival_rows
from afina.evaluation.slices import Column, Slice, slice_rows
from afina.evaluation.tables import Cell, Mistake, confident_mistakes, confusion_pairs, per_class_rows
from afina.evaluation.thresholds import fit_thresholds
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
class Scored:
    """One split with a model's logits."""

    ids: Sequence[str]
    texts: Sequence[str]
    y: IntArray  # class indexes (n,) or multi-hot (n, L)
    logits: FloatArray  # (n, L)
    columns: Mapping[str, Column] = field(default_factory=dict)  # values of each row, to slice by


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


def choose_thresholds(
    y_validation: IntArray, probabilities: FloatArray, task: Task, params: EvaluateParams
) -> list[float] | None:
    """The L thresholds of a multilabel task, fitted on validation unless a number is set; else None."""
    if task == "multiclass":
        return None
    if params.thresholds == "fit":
        return fit_thresholds(
            y_validation,
            probabilities,
            params.threshold_min_positives,
            beta=params.threshold_beta,
            precision_floor=params.threshold_precision,
        )
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


def choose_calibration(
    y_validation: IntArray, adjusted: FloatArray, task: Task, params: EvaluateParams
) -> Calibration:
    """The calibration of adjusted logits (n, L), fitted on validation unless none is wanted."""
    if params.calibration == "none":
        return Calibration.identity(adjusted.shape[1])
    if task == "multilabel":
        return fit_platt(y_validation, adjusted, params.threshold_min_positives).rounded()
    temperature = fit_temperature(y_validation, adjusted)
    return Calibration.of_temperature(temperature, adjusted.shape[1]).rounded()


@dataclass(frozen=True)
class Decision:
    """How logits become probabilities, and these labels: what is fitted, on validation alone."""

    task: Task
    tau: float  # strength of the logit adjustment
    offsets: FloatArray  # (L,) of it
    calibration: Calibration  # of adjusted logits
    thresholds: list[float] | None = None  # L, multilabel only
    abstain_below: float | None = None  # confidence; None: no confidence is enough for the accuracy asked for

    def probabilities(self, logits: FloatArray) -> FloatArray:
        """Adjusted and calibrated, (n, L)."""
        return to_probabilities(logits, self.task, self.calibration.after(self.offsets))

    def uncalibrated(self, logits: FloatArray) -> FloatArray:
        """Adjusted alone, (n, L)."""
        neutral = Calibration.identity(len(self.offsets))
        return to_probabilities(logits, self.task, neutral.after(self.offsets))

    def content(self, labels: Sequence[str]) -> dict[str, Any]:
        """What decision.json holds."""

        def by_label(values: Sequence[float]) -> dict[str, float]:
            return dict(zip(labels, values, strict=True))

        return {
            "thresholds": None if self.thresholds is None else by_label(self.thresholds),
            "abstain_below": self.abstain_below,
            "logit_offsets": by_label(self.offsets.tolist()),
            "calibration": {
                "scale": by_label(self.calibration.scale.tolist()),
                "shift": by_label(self.calibration.shift.tolist()),
            },
        }


def fit_decision(
    validation: Scored, prior: FloatArray | None, task: Task, params: EvaluateParams
) -> Decision:
    """Fit to the validation split, in this order: adjustment, calibration, thresholds, abstention."""
    tau, offsets = choose_adjustment(validation.y, validation.logits, prior, task, params)
    calibration = choose_calibration(validation.y, validation.logits + offsets, task, params)
    decision = Decision(task, tau, offsets, calibration)
    if not len(validation.y):  # an empty split is reported by the metrics
        return decision
    known = decision.probabilities(validation.logits)
    thresholds = choose_thresholds(validation.y, known, task, params)
    predicted = predict(known, task, thresholds)
    abstain_below = fit_abstention(
        row_confidence(known, predicted), rows_right(validation.y, predicted), params.target_accuracy
    )
    return replace(decision, thresholds=thresholds, abstain_below=abstain_below)


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
    thresholds = decision.thresholds
    known, probabilities = (decision.probabilities(split.logits) for split in (validation, test))
    validation_scores = classification_metrics(validation.y, known, labels, task, thresholds)
    scores = classification_metrics(test.y, probabilities, labels, task, thresholds)
    predicted = predict(probabilities, task, thresholds)
    intervals = bootstrap_intervals(
        test.y, predicted, len(labels), task, params.bootstrap_samples, params.confidence, seed
    )
    # The same probabilities before and after calibration.
    states = {"as trained": decision.uncalibrated(test.logits), "calibrated": probabilities}
    if params.calibration == "none":
        del states["calibrated"]

    headline, second = headline_metrics(task)
    metrics: dict[str, Any] = {
        "test": rounded({name: scores[name] for name in REPORTED[task]}),
        "interval": rounded(
            {
                f"{name}_{edge}": getattr(interval, edge)
                for name, interval in intervals.headline.items()
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
    others = dict(rivals)
    if untrained is not None:
        others["untrained"] = _untrained_predictions(untrained, validation.y, task, params)
        before = prediction_metrics(test.y, others["untrained"], labels, task)
        metrics["untrained"] = rounded({headline: before[headline]})
    if params.logit_adjustment != "none":
        metrics["logit_adjustment"] = _adjustment_metrics(decision.tau, validation, test, label_set, params)
    calibration = _calibration_metrics(test.y, states)
    confidence, right = row_confidence(probabilities, predicted), rows_right(test.y, predicted)
    abstention = _abstention_metrics(confidence, right, decision.abstain_below, params)
    metrics |= {
        "calibration": {"ece": calibration["ece"], "brier": calibration["brier"]},
        "abstention": {name: abstention[name] for name in ("coverage", "accuracy")},
        "rows": {"test": len(test.ids)},
    }

    precision_recall, roc = curves(one_hot(test.y, len(labels)), probabilities, labels)
    return Evaluation(
        metrics=metrics,
        details={"test": rounded(scores), "calibration": calibration, "abstention": abstention},
        decision=decision.content(labels),
        per_class=per_class_rows(
            test.y, predicted, probabilities, labels, task, thresholds, baseline["tfidf_f1"], intervals
        ),
        confusion=list(confusion_pairs(test.y, predicted, labels)),
        precision_recall=precision_recall,
        roc=roc,
        reliability=reliability_rows(test.y, states),
        risk_coverage=_risk_coverage_rows(confidence, right),
        slices=slice_rows(test.y, predicted, test.columns, len(labels), task, level=params.confidence),
        rivals=rival_rows(
            test.ids,
            test.y,
            predicted,
            others,
            label_set,
            params.bootstrap_samples,
            params.confidence,
            seed,
        ),
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
