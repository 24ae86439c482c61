"""What training minimises: cross-entropy or binary cross-entropy, one value an example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from afina.labels import Task


def example_losses(
    logits: Tensor,
    targets: Tensor,
    task: Task,
    label_smoothing: float = 0.0,
    positive_weights: Tensor | None = None,
) -> Tensor:
    """The loss of each example, float32 (B,).

    Args:
        logits: (B, L).
        targets: class indexes int64 (B,) for multiclass; multi-hot (B, L) for multilabel.
        task: multiclass: cross-entropy; multilabel: binary cross-entropy, averaged over the labels.
        label_smoothing: share of the target spread evenly over all labels (multilabel: over yes and no).
        positive_weights: (L,), multilabel only: factor on the loss of a label's positive examples.
    """
    if task == "multiclass":
        return functional.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)
    smooth = targets.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
    return functional.binary_cross_entropy_with_logits(
        logits, smooth, pos_weight=positive_weights, reduction="none"
    ).mean(dim=1)


def example_factors(
    row_weights: npt.NDArray[np.float64],
    targets: npt.NDArray[Any],
    labels: Sequence[str],
    class_weights: dict[str, float] | None,
    task: Task,
) -> npt.NDArray[np.float32]:
    """What each example's loss is multiplied with, float32 (n,), scaled to a mean of 1.

    Multiclass: the row's weight times its class's. Multilabel: the row's weight (class weights act on the
    positives of each label, see `example_losses`). The scaling keeps learning rates and clipping comparable
    between weighting schemes.
    """
    factors = row_weights.astype(np.float64)
    if class_weights is not None and task == "multiclass":
        factors = factors * np.asarray([class_weights.get(label, 1.0) for label in labels])[targets]
    mean = factors.mean()
    return np.asarray(factors / mean if mean > 0 else factors, dtype=np.float32)


def positive_weights(
    labels: Sequence[str], class_weights: dict[str, float] | None, task: Task
) -> Tensor | None:
    """Class weights as the ``pos_weight`` (L,) of binary cross-entropy; None for multiclass."""
    if class_weights is None or task == "multiclass":
        return None
    return torch.tensor([class_weights.get(label, 1.0) for label in labels], dtype=torch.float32)
