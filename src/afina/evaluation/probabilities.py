"""From logits to probabilities."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, softmax

from afina.evaluation.metrics import FloatArray
from afina.labels import Task


def to_probabilities(logits: FloatArray, task: Task, offsets: FloatArray | None = None) -> FloatArray:
    """Softmax over the labels (multiclass) or the sigmoid of each (multilabel); (n, L) float32.

    The same functions as in the exported graph, computed in float32 as there.

    Args:
        logits: (n, L).
        task: multiclass or multilabel.
        offsets: (L,), added to the logits first (see `afina.evaluation.adjustment`); None = zeros.
    """
    values = np.asarray(logits, dtype=np.float32)
    if offsets is not None:
        values = values + np.asarray(offsets, dtype=np.float32)
    result = softmax(values, axis=1) if task == "multiclass" else expit(values)
    return np.asarray(result, dtype=np.float32)
