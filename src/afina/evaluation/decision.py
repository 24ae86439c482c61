"""How logits become probabilities and decisions: everything that is fitted, on validation alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from afina.evaluation.abstention import fit_abstention, row_confidence, rows_right
from afina.evaluation.adjustment import fit_tau, logit_offsets
from afina.evaluation.calibration import fit_platt, fit_temperature
from afina.evaluation.metrics import DEFAULT_THRESHOLD, FloatArray, IntArray, predict
from afina.evaluation.probabilities import Calibration, to_probabilities
from afina.evaluation.slices import Column
from afina.evaluation.thresholds import fit_thresholds
from afina.labels import Task
from afina.params.evaluate import EvaluateParams


@dataclass(frozen=True)
class Scored:
    """One split with a model's logits."""

    ids: Sequence[str]
    texts: Sequence[str]
    y: IntArray  # class indexes (n,) or multi-hot (n, L)
    logits: FloatArray  # (n, L)
    columns: Mapping[str, Column] = field(default_factory=dict)  # values of each row, to slice by


@dataclass(frozen=True)
class Decision:
    """How logits become probabilities, and these labels: what is fitted, on validation alone."""

    task: Task
    tau: float  # strength of the logit adjustment
    offsets: FloatArray  # (L,) of it
    calibration: Calibration  # of adjusted logits
    thresholds: list[float] | None = None  # L, multilabel only
    abstain_below: float | None = None  # confidence; None: no confidence is enough for the accuracy asked for
    target_accuracy: float | None = None  # that accuracy

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
            "target_accuracy": self.target_accuracy,
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
    decision = Decision(task, tau, offsets, calibration, target_accuracy=params.target_accuracy)
    if not len(validation.y):  # an empty split is reported by the metrics
        return decision
    known = decision.probabilities(validation.logits)
    thresholds = choose_thresholds(validation.y, known, task, params)
    predicted = predict(known, task, thresholds)
    abstain_below = fit_abstention(
        row_confidence(known, predicted), rows_right(validation.y, predicted), params.target_accuracy
    )
    return replace(decision, thresholds=thresholds, abstain_below=abstain_below)


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
