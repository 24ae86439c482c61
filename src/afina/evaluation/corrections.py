"""Settings that correct the class imbalance beside the logit adjustment, and what comes of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from afina.labels import Task

# What losses have done already. The adjustment takes off the prior of
# `afina.evaluation.adjustment.training_prior`, which counts rows and class weights and knows of no loss.
_WITH_LOSSES = {
    "class_balanced": "the loss weighs rare labels more and the adjustment lifts them again, so they are "
    "favoured twice",
    "logit_adjusted": "training has taken the labels' shares off the logits already and the adjustment takes "
    "them off again, so rare labels are favoured twice",
    "ldam": "the loss gives rare labels wider margins and the adjustment lifts them again, so they are "
    "favoured twice",
    "asymmetric": "the loss lowers what negatives cost and the adjustment lifts rare labels on top, so they "
    "are predicted more often, at lower precision",
    "distribution_balanced": "the loss weighs positives of rare labels more and the adjustment lifts them "
    "again, so they are favoured twice",
}


def double_adjustments(
    tau: float, offsets: Mapping[str, float], loss: str, sampler: str, balance: Mapping[str, Any]
) -> list[str]:
    """Settings that meet the logit adjustment on the same imbalance, and what both do in effect; a line each.

    Args:
        tau: strength of the adjustment, as given or as fitted; 0: there is none.
        offsets: what was added to each label's logit.
        loss: ``train.loss``.
        sampler: ``train.sampler``.
        balance: the content of balance.json.
    """
    if not tau:
        return []
    adjustment = f"evaluate.logit_adjustment (tau {tau:g})"
    changes = any(offsets.values())
    found = []
    if any(weight != 1 for weight in (balance.get("class_weights") or {}).values()):
        effect = "only the imbalance that they left is corrected" if changes else "nothing is left to correct"
        found.append(
            f"{adjustment} with class weights (section balance): they count as data in the shares that are "
            f"taken off, so {effect}"
        )
    strategy = balance.get("strategy")
    if strategy in ("oversample", "undersample"):
        effect = "only the imbalance that it left is corrected" if changes else "nothing is left to correct"
        found.append(
            f"{adjustment} with balance.strategy {strategy}: the shares that are taken off are those after "
            f"the resampling, so {effect}"
        )
    if changes and loss in _WITH_LOSSES:
        found.append(f"{adjustment} with train.loss {loss}: {_WITH_LOSSES[loss]}")
    if changes and sampler != "shuffle":
        found.append(
            f"{adjustment} with train.sampler {sampler}: the sampler draws rare labels more often than their "
            "shares of the table, which are what is taken off, so they are favoured twice"
        )
    return found


def undone_adjustment(tau: float, task: Task, calibration: str, thresholds: str | float) -> list[str]:
    """What takes the logit adjustment back; a line each.

    Args:
        tau: strength of the adjustment, as given or as fitted; 0: there is none.
        task: multiclass or multilabel.
        calibration: ``evaluate.calibration``.
        thresholds: ``evaluate.thresholds``.
    """
    if not tau or task != "multilabel" or calibration == "none" or thresholds == "fit":
        return []
    return [
        f"evaluate.logit_adjustment (tau {tau:g}) with evaluate.calibration: each label's calibration takes "
        f"its offset off again, and thresholds of {thresholds:g} decide as without it; set "
        "evaluate.thresholds to fit"
    ]
