"""What training minimises, one value an example: cross-entropy, and losses made for imbalanced labels.

`build_objective` chooses the loss that the section ``train`` names. All take logits and work in float32.
Multilabel losses are averages over the labels, where some papers have sums, so that learning rates and
clipping mean the same for all of them.

A label without training rows must not give infinite values, and the model should learn that it does not
occur: its class-balanced weight is 1, logit adjustment does not lift it, and in distribution-balanced weights
it counts as one row. LDAM gives it the largest margin, which only validation rows can have a use for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from afina.errors import UserError
from afina.labels import Task
from afina.params.train import TrainParams

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# What a label costs an example that has it, and one that has it not; both (B, L).
Terms = tuple[Tensor, Tensor]

ONLY_MULTICLASS = ("ldam",)
ONLY_MULTILABEL = ("asymmetric", "distribution_balanced")


@dataclass(frozen=True)
class Objective:
    """The loss of each example, class weights included and weights of rows left out.

    Vectors are float32 (L,); None where the loss or the weighting has no use for them.
    """

    params: TrainParams
    task: Task
    class_weights: Tensor | None = None  # of a class's examples; multilabel: of a label's positives
    label_weights: Tensor | None = None  # multilabel alone: of a label in all examples
    offsets: Tensor | None = None  # added to the logits
    smooth: Tensor | None = None  # what label smoothing takes each label for; None: all alike
    margins: Tensor | None = None  # taken off the true class's logit
    rarity: Tensor | None = None  # 1 / training rows

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        """Losses, float32 (B,).

        Class weights that act late are the deferred re-weighting of Cao et al., "Learning imbalanced datasets
        with label-distribution-aware margin loss", NeurIPS 2019.

        Args:
            logits: (B, L), of any floating type.
            targets: class indexes int64 (B,) for multiclass; multi-hot (B, L) for multilabel.
            progress: share of all updates that are done, 0 to 1; class weights act from
                ``reweight_after`` on. 1 gives losses that can be compared over a whole run.
        """
        logits = logits.float()
        if self.offsets is not None:
            logits = logits + self.offsets
        weighted = progress >= self.params.reweight_after
        if self.task == "multiclass":
            losses = self._of_classes(logits, targets)
            if weighted and self.class_weights is not None:
                losses = losses * self.class_weights[targets]
            return losses
        positive, negative = self._of_labels(logits)
        smoothing = self.params.label_smoothing
        spread = smoothing * (0.5 if self.smooth is None else self.smooth)
        shares = targets.to(logits.dtype) * (1 - smoothing) + spread
        terms = shares * positive + (1 - shares) * negative
        if weighted and self.class_weights is not None:
            # Of those that have the label: on the smoothed part of the others it would be taken for a wish.
            terms = terms * torch.where(targets == 1, self.class_weights, 1.0)
        if weighted and self.label_weights is not None:
            terms = terms * self.label_weights
        if self.rarity is not None:
            params = self.params
            terms = terms * rebalancing(
                targets,
                self.rarity,
                params.distribution_balanced_alpha,
                params.distribution_balanced_beta,
                params.distribution_balanced_mu,
            )
        return terms.mean(dim=1)

    def to(self, device: torch.device | str) -> Objective:
        """The same, with its vectors on ``device``."""
        vectors: dict[str, Any] = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **vectors)

    def _of_classes(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.params.loss == "focal":
            return focal_losses(logits, targets, self.params.focal_gamma)
        if self.margins is not None:
            return margin_losses(logits, targets, self.margins, self.params.ldam_scale)
        smoothing = self.params.label_smoothing
        if self.smooth is None:
            return example_losses(logits, targets, "multiclass", smoothing)
        spread = -(logits.log_softmax(dim=1) * self.smooth).sum(dim=1)
        return (1 - smoothing) * example_losses(logits, targets, "multiclass") + smoothing * spread

    def _of_labels(self, logits: Tensor) -> Terms:
        params = self.params
        if params.loss == "focal":
            return asymmetric_terms(logits, params.focal_gamma, params.focal_gamma)
        if params.loss == "asymmetric":
            return asymmetric_terms(
                logits,
                params.asymmetric_gamma_positive,
                params.asymmetric_gamma_negative,
                params.asymmetric_clip,
            )
        if params.loss == "distribution_balanced":
            return negative_tolerant_terms(logits, params.distribution_balanced_lambda)
        return -functional.logsigmoid(logits), -functional.logsigmoid(-logits)


def build_objective(
    params: TrainParams,
    labels: Sequence[str],
    task: Task,
    label_counts: Ints,
    row_count: int,
    class_weights: Mapping[str, float] | None,
) -> Objective:
    """The loss that ``params.loss`` names, with what it needs to know about the labels.

    Args:
        labels: L names in model order.
        label_counts: rows of each label (L,) in the table that is trained on, so after any resampling.
        row_count: rows of that table.
        class_weights: factor of each label's examples (multilabel: of its positives); a label that is missing
            has 1; None: no weighting. Multiclass: they, times class_balanced's own weights, are scaled to a
            mean of 1 over the training rows.

    Raises:
        UserError: the loss is not defined for the task, or weights are to be deferred and there are none.
        ValueError: the counts do not fit the labels or the rows.
    """
    counts = np.asarray(label_counts, dtype=np.int64)
    if counts.shape != (len(labels),) or counts.min() < 0 or not 1 <= counts.max() <= row_count:
        raise ValueError(
            f"label counts {counts.tolist()} of {row_count} rows do not fit {len(labels)} labels"
        )
    _check(params, task, class_weights)
    by_class = (
        None if class_weights is None else np.array([class_weights.get(label, 1.0) for label in labels])
    )
    by_label, offsets, margins, rarity, smooth = None, None, None, None, None
    if params.loss == "class_balanced":
        by_label = effective_number_weights(counts, params.class_balanced_beta)
    elif params.loss == "logit_adjusted":
        offsets = prior_offsets(counts, row_count, params.logit_adjustment_tau, task)
        if params.label_smoothing:
            smooth = adjusted_smoothing(offsets, counts, task)
    elif params.loss == "ldam":
        margins = label_margins(counts, params.ldam_max_margin)
    elif params.loss == "distribution_balanced":
        # the paper takes off nu = kappa * log(1 / p - 1): p / (1 - p) is its inverse
        offsets = prior_offsets(counts, row_count, params.distribution_balanced_kappa, task)
        rarity = 1 / np.maximum(counts, 1)
    if task == "multiclass":
        factors = [factor for factor in (by_class, by_label) if factor is not None]
        by_class = _mean_one(np.prod(factors, axis=0), counts) if factors else None
        by_label = None
    return Objective(
        params=params,
        task=task,
        class_weights=_vector(by_class),
        label_weights=_vector(by_label),
        offsets=_vector(offsets),
        smooth=_vector(smooth),
        margins=_vector(margins),
        rarity=_vector(rarity),
    )


def double_corrections(
    params: TrainParams,
    balance_strategy: str,
    class_weights: Mapping[str, float] | None,
    augmented: bool = False,
) -> list[str]:
    """Pairs of settings that both correct the imbalance, and what each pair does in effect; one line a pair.

    Not among them are pairs that their papers intend: class weights with focal (its alpha) or ldam, and a
    balanced sampler with distribution_balanced.

    Args:
        balance_strategy: ``balance.strategy``.
        class_weights: as in `build_objective`.
        augmented: whether small labels got altered copies by ``balance.augment_target``.
    """
    loss, sampler, strategy = params.loss, params.sampler, balance_strategy
    resampled = strategy in ("oversample", "undersample") or augmented
    # class_weights counts the rows after that, so there the two complete each other.
    reweighted = resampled and strategy != "class_weights"
    if augmented:
        strategy += " and balance.augment_target"
    weighted = class_weights is not None and any(weight != 1 for weight in class_weights.values())
    found = []
    if weighted and loss in _WITH_WEIGHTS:
        found.append(f"train.loss {loss} with class weights (section balance): {_WITH_WEIGHTS[loss]}")
    if weighted and reweighted:
        found.append(
            f"balance.strategy {strategy} with balance.label_weights: the weights act on rows that are "
            "resampled already, so a rare label with a weight above 1 is favoured twice"
        )
    if resampled and loss in ("class_balanced", "logit_adjusted", "distribution_balanced"):
        found.append(
            f"train.loss {loss} with balance.strategy {strategy}: the loss counts the labels after the "
            "resampling, so it corrects only the imbalance that the resampling left"
        )
    if resampled and loss == "ldam":
        found.append(
            f"train.loss ldam with balance.strategy {strategy}: the margins follow the label counts after "
            "the resampling, which are nearly equal, so all labels get nearly the same margin"
        )
    if resampled and loss == "asymmetric":
        found.append(
            f"train.loss asymmetric with balance.strategy {strategy}: rare labels are positive more often, "
            "and the loss lowers what negatives cost as well, so they are predicted more often, at lower "
            "precision"
        )
    if sampler == "shuffle":
        return found
    if weighted:
        found.append(
            f"train.sampler {sampler} with class weights (section balance): rare labels are drawn more often "
            "and weigh more each time, so they are favoured twice"
        )
    if resampled:
        found.append(
            f"train.sampler {sampler} with balance.strategy {strategy}: the sampler draws from rows that are "
            "resampled already, so rare labels gain by both, up to all labels being equally frequent"
        )
    if loss in ("class_balanced", "logit_adjusted"):
        found.append(
            f"train.sampler {sampler} with train.loss {loss}: the loss corrects for the label counts of the "
            "table, which the sampler evens out too, so rare labels are favoured twice"
        )
    if loss in ("ldam", "asymmetric"):
        does = "gives rare labels larger margins" if loss == "ldam" else "lowers what negatives cost"
        found.append(
            f"train.sampler {sampler} with train.loss {loss}: rare labels are drawn more often, and the loss "
            f"{does} too, so they are favoured twice"
        )
    return found


_WITH_WEIGHTS = {
    "class_balanced": "each example's loss is multiplied by both, so rare labels are favoured by the product",
    "logit_adjusted": "the weights lift rare labels and the adjustment lifts them again, so they are "
    "predicted more often than balance asks for",
    "asymmetric": "the weights raise what positives cost and the loss lowers what negatives cost, so labels "
    "are predicted more often, at lower precision",
    "distribution_balanced": "positives of rare labels are raised by their weight and by the loss's own, so "
    "rare labels are favoured twice",
}


def _check(params: TrainParams, task: Task, class_weights: Mapping[str, float] | None) -> None:
    """Do loss, task and weights go together?"""
    loss = params.loss
    if task == "multilabel" and loss in ONLY_MULTICLASS:
        raise UserError(
            f"train.loss: {loss} is defined for multiclass alone, and these labels are multilabel; use "
            "asymmetric, distribution_balanced, or another"
        )
    if task == "multiclass" and loss in ONLY_MULTILABEL:
        raise UserError(
            f"train.loss: {loss} is defined for multilabel alone, and these labels are multiclass; use "
            "logit_adjusted, ldam, or another"
        )
    if params.reweight_after and class_weights is None and loss != "class_balanced":
        raise UserError(
            f"train.reweight_after: {params.reweight_after:g} defers class weights, and there are none; set "
            "it to 0, balance.strategy to class_weights, or train.loss to class_balanced"
        )


# ---------------------------------------------------------------------------- what a loss knows of labels


def effective_number_weights(counts: Ints, beta: float) -> Floats:
    """Weights (L,) of Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019.

    (1 - beta) / (1 - beta^n), scaled to a mean of 1 over the labels; 1 for a label without rows.

    Multiclass: the weight of an example's class. Multilabel: of a label's yes and no alike, which is how
    Huang et al., "Balancing Methods for Multi-label Text Classification with Long-Tailed Class Distribution",
    EMNLP 2021, carry it over. So it weighs labels against each other, not positives against negatives.
    """
    present = counts > 0
    weights = np.ones(len(counts))
    # expm1: 1 - beta^n loses its digits where beta is next to 1
    weights[present] = (1 - beta) / -np.expm1(counts[present] * np.log(beta))
    weights[present] /= weights[present].mean()
    return weights


def prior_offsets(counts: Ints, row_count: int, tau: float, task: Task) -> Floats:
    """What logit adjustment adds to the logits in the loss (L,): tau times the log of each label's prior.

    Menon et al., "Long-tail learning via logit adjustment", ICLR 2021 (2020 as a preprint). The model then
    learns logits as if all classes were equally frequent; nothing is added to them in prediction.

    Multiclass: tau * log(pi), shifted such that the most frequent label has 0, which cancels in the softmax.
    Multilabel: tau * log(pi / (1 - pi)), the binary analogue: each label is a problem of two classes with the
    priors pi and 1 - pi. A label that no row has, in multilabel also one that all rows have, has 0.
    """
    usable = (counts > 0) & ((counts < row_count) | (task == "multiclass"))
    share = counts[usable] / row_count
    logs = np.log(share) if task == "multiclass" else np.log(share) - np.log1p(-share)
    if task == "multiclass":
        logs = logs - logs.max()
    offsets = np.zeros(len(counts))
    offsets[usable] = tau * logs
    return offsets


def adjusted_smoothing(offsets: Floats, counts: Ints, task: Task) -> Floats:
    """What label smoothing spreads its share to under logit adjustment (L,): what the offsets alone say.

    Spread evenly it would ask for as much of a rare class as of a frequent one after the offsets have lowered
    it, and beyond an imbalance of some 20 to 1 a perfect fit would answer the rare one for the frequent one's
    examples. Multilabel: of yes and no the share that is yes.
    """
    if task == "multilabel":
        return np.asarray(1 / (1 + np.exp(-offsets)))
    shares = np.exp(offsets) * (counts > 0)
    return np.asarray(shares / shares.sum())


def label_margins(counts: Ints, max_margin: float) -> Floats:
    """LDAM's margins (L,): n^(-1/4) times a constant, such that the rarest label has ``max_margin``.

    Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019.
    """
    rarest = counts[counts > 0].min()
    margins: Floats = max_margin * (rarest / np.maximum(counts, rarest)) ** 0.25
    return margins


def rebalancing(targets: Tensor, rarity: Tensor, alpha: float, beta: float, mu: float) -> Tensor:
    """Distribution-balanced loss's weight of each label in each example (B, L).

    Wu, Huang, Liu, Wang & Lin, "Distribution-Balanced Loss for Multi-Label Classification in Long-Tailed
    Datasets", ECCV 2020. With n training rows of each label, r is a label's 1 / n over the sum of 1 / n of
    the example's labels: how often class-aware sampling means to draw the example for this label, over how
    often it draws it at all. The weight is alpha + sigmoid(beta * (r - mu)), for labels that the example has
    and for those that it has not.

    The paper says nothing of examples without a label. There r is infinite and the weight 1 + alpha.

    Args:
        targets: multi-hot (B, L).
        rarity: 1 / n, positive (L,).
    """
    drawn = (targets.to(rarity.dtype) * rarity).sum(dim=1, keepdim=True)
    return alpha + torch.sigmoid(beta * (rarity / drawn - mu))


# -------------------------------------------------------------------------------------------- losses


def example_losses(
    logits: Tensor,
    targets: Tensor,
    task: Task,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The cross-entropy of each example, float32 (B,).

    Label smoothing: Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016.

    Args:
        logits: (B, L).
        targets: class indexes int64 (B,) for multiclass; multi-hot (B, L) for multilabel.
        task: multiclass: cross-entropy; multilabel: binary cross-entropy, averaged over the labels.
        label_smoothing: share of the target spread evenly over all labels (multilabel: over yes and no).
    """
    if task == "multiclass":
        return functional.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)
    smooth = targets.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
    return functional.binary_cross_entropy_with_logits(logits, smooth, reduction="none").mean(dim=1)


def focal_losses(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """-(1 - p)^gamma * log(p) of the true class's probability p (B,).

    Lin, Goyal, Girshick, He & Dollár, "Focal Loss for Dense Object Detection", ICCV 2017, with a softmax in
    place of the paper's sigmoid, for which see `asymmetric_terms`. The paper's alpha is a class weight.

    Args:
        logits: (B, L), L at least 2.
        targets: int64 (B,).
    """
    log_shares = logits.log_softmax(dim=1)
    # log(1 - p) from the other classes: 1 - p has no digits, and its power no gradient, where p is next to 1
    is_true = functional.one_hot(targets, logits.shape[1]).bool()
    log_rest = log_shares.masked_fill(is_true, -torch.inf).logsumexp(dim=1)
    return (gamma * log_rest).exp() * functional.nll_loss(log_shares, targets, reduction="none")


def margin_losses(logits: Tensor, targets: Tensor, margins: Tensor, scale: float) -> Tensor:
    """Cross-entropy of ``scale`` times the logits after the true class's margin is taken off it (B,).

    The LDAM loss, see `label_margins`. In the paper the last layer's weights and inputs have length 1, logits
    are cosines, and a scale of 30 lets the softmax get anywhere near 0 or 1. Here the last layer is linear
    and finds its own scale. At 1 the softmax of the logits is the probability that was trained, while the
    loss at 30 would leave logits whose own softmax is far too flat. Margins are in units of the logits.

    Args:
        logits: (B, L).
        targets: int64 (B,).
        margins: (L,).
    """
    led = logits - functional.one_hot(targets, logits.shape[1]) * margins
    return functional.cross_entropy(scale * led, targets, reduction="none")


def asymmetric_terms(
    logits: Tensor, gamma_positive: float, gamma_negative: float, clip: float = 0.0
) -> Terms:
    """-(1 - p)^gamma_positive * log(p) and -q^gamma_negative * log(1 - q) with q = max(p - clip, 0).

    Ridnik, Ben-Baruch, Zamir, Noy, Friedman, Protter & Zelnik-Manor, "Asymmetric Loss For Multi-Label
    Classification", ICCV 2021. Without clip and with equal gammas it is the focal loss of Lin et al. 2017.
    """
    log_yes, log_no = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    positive = -(gamma_positive * log_no).exp() * log_yes
    if not clip:
        return positive, -(gamma_negative * log_yes).exp() * log_no
    shifted = logits.sigmoid() - clip
    counts = shifted > 0
    # 1 stands in where nothing counts: a power's gradient at 0 can be infinite, and masking leaves nan of it
    base = torch.where(counts, shifted, 1.0)
    # log(1 - p + clip), from the logarithms of both
    log_rest = torch.logaddexp(log_no, torch.full_like(log_no, math.log(clip)))
    negative = -(base**gamma_negative) * log_rest
    return positive, torch.where(counts, negative, 0.0)


def negative_tolerant_terms(logits: Tensor, scale: float) -> Terms:
    """log(1 + exp(-z)) and log(1 + exp(scale * z)) / scale.

    Negative-tolerant regularisation of Wu et al. 2020, see `rebalancing`; their lambda is ``scale``, and
    their bias is already taken off the logits, see `prior_offsets`. The focal factor that they also try is
    left out.
    """
    return -functional.logsigmoid(logits), -functional.logsigmoid(-scale * logits) / scale


# -------------------------------------------------------------------------------------------- weights


def _mean_one(weights: Floats, counts: Ints) -> Floats:
    """Weights (L,) scaled such that their mean over the rows is 1."""
    total = float(counts @ weights)
    return weights * (counts.sum() / total) if total > 0 else weights


def _vector(values: Floats | None) -> Tensor | None:
    return None if values is None else torch.from_numpy(values).float()
