"""Does the exported file say what the trained model says?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from afina.errors import UserError
from afina.evaluation.metrics import predict
from afina.progress import Progress
from afina.runtime.classifier import Classifier
from afina.runtime.loading import Floats
from afina.runtime.text import clean_text

# Sizes of the batches that texts are cut into in the order they come, so that short and long ones mix.
MIXED_SIZES = (1, 7, 2, 16, 3)

# Closer than this to its threshold, or two labels to each other, a probability's rounding decides the label.
TIE = 1e-5


@dataclass(frozen=True)
class Agreement:
    """How far two sets of probabilities (n, L) of the same texts agree.

    Attributes:
        texts: n.
        max_abs_diff: largest difference of a probability; infinite where one is not a number.
        label_agreement: share of texts with the same labels assigned, in [0, 1]; where labels of the
            reference are tied to within `TIE`, either is the same.
    """

    texts: int
    max_abs_diff: float
    label_agreement: float

    def within(self, tolerance: float) -> bool:
        """Are all probabilities within ``tolerance`` and all labels identical?"""
        return self.max_abs_diff <= tolerance and self.label_agreement == 1.0


def compare(reference: Floats, other: Floats, thresholds: npt.NDArray[np.float64] | None) -> Agreement:
    """Compare probabilities (n, L) and the labels they lead to (``thresholds`` None: multiclass)."""
    if reference.shape != other.shape:
        raise ValueError(f"probabilities of shape {reference.shape} against {other.shape}")
    if not len(reference):
        raise UserError("export: the test split is empty, so parity cannot be checked; see the section split")
    difference = float(np.abs(reference.astype(np.float64) - other).max())
    limits = None if thresholds is None else thresholds.tolist()
    task: Literal["multiclass", "multilabel"] = "multiclass" if thresholds is None else "multilabel"
    first, second = (predict(values, task, limits) for values in (reference, other))
    same = first == second
    if thresholds is None:
        rows = np.arange(len(reference))
        same |= reference[rows, first] - reference[rows, second] <= TIE
    else:
        same = (same | (np.abs(reference - thresholds) <= TIE)).all(axis=1)
    return Agreement(len(reference), difference if np.isfinite(difference) else np.inf, float(same.mean()))


def check_cleaning(
    ids: Sequence[str], raw: Sequence[str], cleaned: Sequence[str], steps: Sequence[str]
) -> None:
    """Check that cleaning a raw text at prediction time gives the text that the model was tested on.

    Raises:
        UserError: naming the first text that does not.
    """
    wrong = [
        name
        for name, text, expected in zip(ids, raw, cleaned, strict=True)
        if clean_text(text, steps) != expected
    ]
    if wrong:
        raise UserError(
            f"export: {len(wrong)} of {len(ids)} test texts are cleaned differently at prediction time "
            f"than by the clean stage, the first is {wrong[0]!r}; run `dvc repro` so that all stages agree"
        )


def both_batchings(file: Path, texts: Sequence[str], token_budget: int) -> tuple[Floats, Floats]:
    """Probabilities (n, L) of raw texts in the runtime's own batches, by length, and in mixed ones.

    int8 scales activations by the batch they are in, so what it makes of a text depends on its neighbours.

    Args:
        file: the model.
        texts: raw texts.
        token_budget: most tokens in a mixed batch, padding included.
    """
    own = Classifier(file)
    other = copy(own)
    other.token_budget = token_budget
    return own.predict_proba(texts), mixed_probabilities(other, texts)


def mixed_probabilities(classifier: Classifier, texts: Sequence[str]) -> Floats:
    """Probabilities (n, L) of raw texts, predicted a few at a time: batches of mixed sizes and lengths."""
    result = np.empty((len(texts), len(classifier.labels)), dtype=np.float32)
    with Progress("parity", len(texts), "texts") as progress:
        for rows in _mixed_batches(len(texts)):
            result[rows] = classifier.predict_proba(texts[rows])
            progress.advance(rows.stop - rows.start)
    return result


def _mixed_batches(count: int) -> Iterator[slice]:
    start = turn = 0
    while start < count:
        stop = min(start + MIXED_SIZES[turn % len(MIXED_SIZES)], count)
        yield slice(start, stop)
        start, turn = stop, turn + 1
