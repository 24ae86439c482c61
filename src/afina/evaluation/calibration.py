"""Calibration: probabilities that are as often right as they say. Fits and measures, values in, values out.

Fitted on validation rows alone, and last: the order is logits, plus the offsets of
`afina.evaluation.adjustment`, then calibration, then softmax or sigmoid. What is calibrated is what the
adjustment leaves, so the logits given here are the adjusted ones, and the probabilities are those of

    scale * (logits + offsets) + shift

One temperature for all classes cannot undo the adjustment: the label predicted stays the same. In
multilabel, a label with an intercept of its own takes its offset off again, as both are constants added to
its one logit; what the adjustment decided there, the threshold has to decide.

No fit makes validation worse: where the negative log-likelihood of its rows does not fall, logits are left
as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import expit, logit

from afina.evaluation.metrics import FloatArray, IntArray, one_hot
from afina.evaluation.probabilities import Calibration

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Binning = Literal["width", "mass"]

BINS = 15  # as Guo et al. 2017
SCALES = (0.01, 100.0)  # slopes looked at: temperatures from 100 down to 0.01
_LARGEST = 1e100  # logits beyond it count as it, so that sums over rows stay finite


# ------------------------------------------------------------------------------------------ fits


def fit_temperature(y: IntArray, logits: FloatArray) -> float:
    """The temperature T by which logits are divided, for the lowest negative log-likelihood of these rows.

    Guo, Pleiss, Sun & Weinberger, "On Calibration of Modern Neural Networks", ICML 2017. The loss is convex
    in 1/T. Where the rows are told apart without error it falls for ever as T goes to 0, so T is bounded: by
    ``SCALES``, and sharpening stops where the mean confidence is (n + 1) / (n + 2), the most that n rows
    without an error can show (Laplace's rule of succession, as in the targets of `fit_platt`).

    Rows with a logit that is not a number, or whose true class has probability 0 at any T, say nothing of T.

    Args:
        y: class indexes (n,) of validation rows.
        logits: (n, L), adjusted if they are to be.

    Returns:
        T > 0; 1 for less than two usable rows, or where no other T gives a lower loss.
    """
    _check(y, logits, dimensions=1)
    below = _below_top(logits)
    own = below[np.arange(len(y)), y]
    usable = np.isfinite(own) & ~np.isnan(below).any(axis=1)
    below, own = (np.maximum(part[usable], -_LARGEST) for part in (below, own))
    rows = len(own)
    if rows < 2:
        return 1.0

    def loss(scale: float) -> float:
        return float(np.mean(np.log(np.exp(scale * below).sum(axis=1)) - scale * own))

    def gradient(log_scale: float) -> float:
        weights = np.exp(np.exp(log_scale) * below)
        return float(np.mean((weights * below).sum(axis=1) / weights.sum(axis=1) - own))

    def excess_confidence(log_scale: float) -> float:
        return float(np.mean(1 / np.exp(np.exp(log_scale) * below).sum(axis=1))) - (rows + 1) / (rows + 2)

    low, high = np.log(SCALES)
    sharpest = _crossing(excess_confidence, low, high)
    scale = float(np.exp(_crossing(gradient, low, sharpest)))
    return 1 / scale if loss(scale) < loss(1.0) else 1.0


def fit_platt(y: IntArray, logits: FloatArray, min_positives: int) -> Calibration:
    """A slope and an intercept for each label's logit: Platt scaling.

    Platt, "Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized Likelihood
    Methods", in Advances in Large Margin Classifiers, MIT Press 1999. Least cross-entropy against his
    targets, (n+ + 1) / (n+ + 2) for the n+ positives and 1 / (n- + 2) for the n- negatives, which keep the
    fit finite where the two are told apart without error. Slopes stay within ``SCALES``, so none is negative.

    Labels with few positives or negatives share one line, fitted over the (row, label) pairs of all labels.
    A line is used where it lowers the plain negative log-likelihood, of its label, or of the labels that
    share it together; elsewhere logits are left as they are.

    Infinite logits, and those that are not a number, are left out: no line changes what they say.

    Args:
        y: multi-hot (n, L) of validation rows.
        logits: (n, L), adjusted if they are to be.
        min_positives: a label with fewer positives, or fewer negatives, has no line of its own; nor is there
            a shared one for fewer in all labels together. At least 1 of each is needed in any case.
    """
    _check(y, logits, dimensions=2)
    truth, usable = y.astype(bool), np.isfinite(logits)
    values = np.clip(np.asarray(logits, dtype=np.float64), -_LARGEST, _LARGEST)
    needed = max(min_positives, 1)
    scale, shift = np.ones(values.shape[1]), np.zeros(values.shape[1])
    scarce = np.minimum((truth & usable).sum(axis=0), (~truth & usable).sum(axis=0)) < needed
    for label in np.flatnonzero(~scarce):
        rows = usable[:, label]
        column = truth[rows, label], values[rows, label]
        scale[label], shift[label] = _if_better(_platt(*column), *column)
    everything = truth[usable]
    if scarce.any() and min(everything.sum(), (~everything).sum()) >= needed:
        sharing = usable & scarce
        shared = _platt(everything, values[usable])
        scale[scarce], shift[scarce] = _if_better(shared, truth[sharing], values[sharing])
    return Calibration(scale, shift)


def _platt(truth: Bools, logits: Floats) -> tuple[float, float]:
    """Slope and intercept of Platt's cross-entropy for truth (n,) with both values, and finite logits (n,).

    The best intercept is found for each slope tried; the loss that remains is convex in the slope.
    """
    positives, negatives = int(truth.sum()), int((~truth).sum())
    targets = np.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    overall = float(logit(targets.mean()))
    centre = float(np.median(logits))
    centred = logits - centre

    def intercept(slope: float) -> float:
        scores = slope * centred
        return _crossing(
            lambda constant: float(np.mean(expit(scores + constant) - targets)),
            overall - float(scores.max()),
            overall - float(scores.min()),
        )

    def gradient(log_slope: float) -> float:
        slope = float(np.exp(log_slope))
        return float(np.mean(centred * (expit(slope * centred + intercept(slope)) - targets)))

    low, high = np.log(SCALES)
    # Where all logits are equal there is no slope to fit.
    slope = float(np.exp(_crossing(gradient, low, high))) if centred.any() else 1.0
    return slope, intercept(slope) - slope * centre


def _if_better(line: tuple[float, float], truth: Bools, logits: Floats) -> tuple[float, float]:
    """The line if it lowers the negative log-likelihood of these pairs (n,), else the one without effect."""
    slope, constant = line
    fitted, plain = _label_losses(truth, slope * logits + constant), _label_losses(truth, logits)
    return line if fitted.sum() < plain.sum() else (1.0, 0.0)


def _crossing(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that never falls reaches 0; the nearer end where it does not in [low, high]."""
    if low >= high or rising(low) >= 0:
        return low
    if rising(high) <= 0:
        return high
    return float(brentq(rising, low, high, xtol=1e-12, maxiter=10_000))


# -------------------------------------------------------------------------------------- measures


@dataclass(frozen=True)
class Reliability:
    """The bins of a reliability diagram that have rows, by rising confidence; each array is (bins,)."""

    confidence: FloatArray  # mean probability stated
    accuracy: FloatArray  # share of rows that came true
    rows: IntArray  # rows; in multilabel, (row, label) pairs


def reliability_curve(
    y: IntArray, probabilities: FloatArray, bins: int = BINS, binning: Binning = "width"
) -> Reliability:
    """How often what was said with some confidence is true (Guo et al. 2017, section 2).

    multiclass: the confidence of a row is the probability of its most probable class, and it comes true
    where that is the class. multilabel: every (row, label) pair counts, the confidence is the probability
    of the label, and it comes true where the row has it. For one label, give its column alone,
    ``y[:, [label]], probabilities[:, [label]]``.

    Args:
        y: class indexes (n,) or multi-hot (n, L).
        probabilities: (n, L) in [0, 1].
        bins: number of bins, at least 1.
        binning: width: bins of equal width, (0, 1/bins] and so on. mass: bins of equally many rows, as far
            as equal confidences allow, which are never parted.
    """
    _check(y, probabilities)
    if y.ndim == 1:
        guess = probabilities.argmax(axis=1)
        return _reliability(probabilities[np.arange(len(y)), guess], guess == y, bins, binning)
    return _reliability(probabilities.ravel(), y.ravel() != 0, bins, binning)


def expected_calibration_error(
    y: IntArray, probabilities: FloatArray, bins: int = BINS, binning: Binning = "width"
) -> float:
    """Mean distance between confidence and accuracy over the bins of `reliability_curve`, by their rows.

    Naeini, Cooper & Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015;
    Guo et al. 2017. Of the most probable class in multiclass; over all (row, label) pairs in multilabel.

    Args:
        y: class indexes (n,) or multi-hot (n, L).
        probabilities: (n, L) in [0, 1].
        bins: number of bins, at least 1.
        binning: width or mass, see `reliability_curve`.

    Returns:
        In [0, 1]; NaN without a row.
    """
    return _distance(reliability_curve(y, probabilities, bins, binning))


def label_calibration_errors(
    y: IntArray, probabilities: FloatArray, bins: int = BINS, binning: Binning = "width"
) -> FloatArray:
    """The calibration error of each label's probability, as a problem of two classes; (L,) in [0, 1].

    Args:
        y: class indexes (n,) or multi-hot (n, L).
        probabilities: (n, L) in [0, 1].
        bins: number of bins, at least 1.
        binning: width or mass, see `reliability_curve`.
    """
    _check(y, probabilities)
    truth = one_hot(y, probabilities.shape[1]) != 0
    return np.array(
        [
            _distance(_reliability(probabilities[:, label], truth[:, label], bins, binning))
            for label in range(probabilities.shape[1])
        ]
    )


def classwise_ece(
    y: IntArray, probabilities: FloatArray, bins: int = BINS, binning: Binning = "width"
) -> float:
    """The mean of `label_calibration_errors`; NaN without a row.

    Kull, Perello-Nieto, Kängsepp, Silva Filho, Song & Flach, "Beyond temperature scaling: Obtaining
    well-calibrated multiclass probabilities with Dirichlet calibration", NeurIPS 2019.
    """
    return float(label_calibration_errors(y, probabilities, bins, binning).mean())


def brier_score(y: IntArray, probabilities: FloatArray) -> float:
    """Mean squared error of the probabilities (Brier 1950, "Verification of forecasts expressed in terms of
    probability", Monthly Weather Review).

    Args:
        y: class indexes (n,) or multi-hot (n, L).
        probabilities: (n, L) in [0, 1].

    Returns:
        multiclass: the sum over the classes, in [0, 2]. multilabel: the mean over the labels, in [0, 1]. NaN
        without a row.
    """
    _check(y, probabilities)
    if not len(y):
        return float("nan")
    errors = np.square(np.asarray(probabilities, dtype=np.float64) - one_hot(y, probabilities.shape[1]))
    return float(errors.sum(axis=1).mean() if y.ndim == 1 else errors.mean())


def negative_log_likelihood(y: IntArray, logits: FloatArray) -> float:
    """Mean negative log-likelihood, in nats: of the rows in multiclass, of the (row, label) pairs otherwise.

    Of logits, not of probabilities: one that rounds to 0 or 1 has lost what this measures.

    Args:
        y: class indexes (n,) or multi-hot (n, L).
        logits: (n, L); infinite ones are certain.

    Returns:
        At least 0; infinite where certainty was wrong, NaN without a row or with a logit that is NaN.
    """
    _check(y, logits)
    if not len(y):
        return float("nan")
    if y.ndim == 2:
        return float(_label_losses(y != 0, np.asarray(logits, dtype=np.float64)).mean())
    below = _below_top(logits)
    return float(np.mean(np.log(np.exp(below).sum(axis=1)) - below[np.arange(len(y)), y]))


def _reliability(confidence: FloatArray, correct: Bools, bins: int, binning: Binning) -> Reliability:
    """The bins of n confidences and whether each came true."""
    if bins < 1:
        raise ValueError(f"{bins} bins; at least 1 is needed")
    if not len(confidence):
        return Reliability(np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64))
    stated = np.asarray(confidence, dtype=np.float64)
    if binning == "width":
        edges = np.linspace(0, 1, bins + 1)[1:-1]
    else:
        last = -(-np.arange(1, bins) * len(stated) // bins) - 1  # rounded up, in whole numbers
        edges = np.sort(stated)[last]
    place = np.searchsorted(edges, stated, side="left")  # a bin holds its upper edge
    rows = np.bincount(place, minlength=bins)
    filled = rows > 0
    return Reliability(
        np.bincount(place, stated, bins)[filled] / rows[filled],
        np.bincount(place, correct, bins)[filled] / rows[filled],
        rows[filled],
    )


def _distance(curve: Reliability) -> float:
    if not len(curve.rows):
        return float("nan")
    return float(np.sum(curve.rows * np.abs(curve.accuracy - curve.confidence)) / curve.rows.sum())


def _below_top(logits: FloatArray) -> Floats:
    """Logits (n, L) less the highest of their row, which is 0 even where it is infinite."""
    values = np.asarray(logits, dtype=np.float64)
    top = values.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(np.where(values == top, 0.0, values - top))


def _label_losses(truth: Bools, logits: Floats) -> Floats:
    """Negative log-likelihood of each of these decisions on its own; the shape of both arguments."""
    return np.asarray(np.logaddexp(0, np.where(truth, -logits, logits)))


def _check(y: IntArray, values: FloatArray, dimensions: int | None = None) -> None:
    """Check that the truth (n,) or (n, L) fits logits or probabilities (n, L).

    Raises:
        ValueError: it does not.
    """
    fits = values.ndim == 2 and y.shape in (values.shape[:1], values.shape)
    if not fits or (dimensions is not None and y.ndim != dimensions):
        raise ValueError(f"calibration: truth {y.shape} does not fit logits or probabilities {values.shape}")
