"""From logits to probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, softmax

from afina.evaluation.metrics import FloatArray
from afina.labels import Task


@dataclass(frozen=True)
class Calibration:
    """A line for each label's logit, increasing, so that no label's ranking of the rows changes.

    Raises:
        ValueError: not one positive scale and one shift a label, or one of them is not a number.
    """

    scale: FloatArray  # (L,), > 0
    shift: FloatArray  # (L,), in nats

    def __post_init__(self) -> None:
        if self.scale.ndim != 1 or self.scale.shape != self.shift.shape:
            raise ValueError(f"calibration: scale {self.scale.shape} and shift {self.shift.shape}")
        if not (np.isfinite(self.scale).all() and np.isfinite(self.shift).all() and (self.scale > 0).all()):
            raise ValueError("calibration: scale must be positive and finite, shift finite")

    @classmethod
    def identity(cls, label_count: int) -> Calibration:
        """The calibration of ``label_count`` labels that changes nothing."""
        return cls(np.ones(label_count), np.zeros(label_count))

    @classmethod
    def of_temperature(cls, temperature: float, label_count: int) -> Calibration:
        """Every logit divided by ``temperature`` (> 0)."""
        return cls(np.full(label_count, 1 / temperature), np.zeros(label_count))

    def after(self, offsets: FloatArray) -> Calibration:
        """The calibration that adds ``offsets`` (L,) to the logits first."""
        return Calibration(self.scale, self.scale * offsets + self.shift)

    def rounded(self) -> Calibration:
        """To as many digits as are kept: six of each scale, six decimals of each shift."""
        scale = [float(f"{value:.6g}") for value in self.scale]
        return Calibration(np.array(scale), np.round(self.shift, 6) + 0.0)  # + 0.0: no -0.0

    def apply(self, logits: FloatArray) -> FloatArray:
        """Calibrated logits, float64, of adjusted ones (n, L)."""
        return np.asarray(self.scale * np.asarray(logits, dtype=np.float64) + self.shift)


def to_probabilities(logits: FloatArray, task: Task, calibration: Calibration | None = None) -> FloatArray:
    """Softmax over the labels (multiclass) or the sigmoid of each (multilabel); (n, L) float32.

    The same functions as in the exported graph, computed in float32 as there.

    Args:
        logits: (n, L).
        task: multiclass or multilabel.
        calibration: applied to the logits first; None: they are taken as they are.
    """
    values = np.asarray(logits, dtype=np.float32)
    if calibration is not None:
        values = values * calibration.scale.astype(np.float32) + calibration.shift.astype(np.float32)
    result = softmax(values, axis=1) if task == "multiclass" else expit(values)
    return np.asarray(result, dtype=np.float32)
