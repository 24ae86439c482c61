"""How sure a model is of what it decided: one definition, for the runtime and for the evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def row_confidence(
    probabilities: npt.NDArray[np.floating[Any]], predicted: npt.NDArray[np.integer[Any] | np.bool_]
) -> npt.NDArray[np.float64]:
    """How sure the model is of its decision on each row.

    multiclass: the probability of the class predicted, which is the highest. multilabel: the lowest, over
    the labels, of the probability of what was decided: p of a label predicted, 1 - p of one that was not. A
    set of labels is right only if every decision is, so this is the most that its probability can be, as
    far as probabilities are calibrated; labels in doubt do not add up.

    It is the probability of the decision, not the distance from the threshold. While p moves away from the
    threshold t on one side of it, confidence never falls; where p rises past t it jumps from 1 - t to t. A
    label predicted at p = 0.31 because its threshold is 0.3 has confidence 0.31: it is more often wrong than
    right, so its row is one of the first to send to a person. At p = 0.29 the confidence is 0.71.

    Args:
        probabilities: (n, L) in [0, 1], calibrated if they are to be.
        predicted: the index of the class of each row (n,), or (n, L), not 0 where a label is assigned.

    Returns:
        (n,) in [0, 1].
    """
    exact = np.asarray(probabilities, dtype=np.float64)
    if predicted.ndim == 1:
        return np.asarray(exact[np.arange(len(predicted)), predicted])
    return np.asarray(np.where(predicted != 0, exact, 1 - exact).min(axis=1))
