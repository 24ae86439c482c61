"""Confidence intervals of the headline metrics and of each label's F1 by the percentile bootstrap.

Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13. Test rows are drawn again with
replacement; the model and its thresholds stay as they are, so an interval says how much the score owes to
which rows fell into the test split, not how much another training run would differ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from afina.evaluation.metrics import Counts, FloatArray, IntArray, count, one_hot
from afina.labels import Task

CHUNK_CELLS = 8_000_000  # resampled counts held at once: 64 MB
TINY = 10  # rows of a stratum below which they alone say too little of how much it varies
PRIOR_ROWS = 2  # rows, as right as those of other labels on average, that are added to so small a one


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Intervals:
    """Those of one evaluation."""

    headline: dict[str, Interval]  # by metric
    f1: list[Interval]  # of each label


def headline_metrics(task: Task) -> tuple[str, str]:
    """The two metrics that get an interval."""
    return ("macro_f1", "accuracy") if task == "multiclass" else ("macro_f1", "micro_f1")


def bootstrap_intervals(
    y_true: IntArray,
    predicted: IntArray,
    label_count: int,
    task: Task,
    samples: int = 2_000,
    confidence: float = 0.95,
    seed: int = 42,
) -> Intervals:
    """Percentile intervals of the headline metrics of the task, and of the F1 of each label.

    Stratified by each row's rarest true label (in multiclass: its class), so that no resample loses a rare
    label; the interval is conditional on the sizes of these strata. In one of fewer than `TINY` rows, which
    vary too little among themselves and a single one not at all, `PRIOR_ROWS` are added before it is drawn
    from, as right as the average label's: an empirical Bayes estimate (Agresti & Coull 1998, "Approximate is
    better than exact for interval estimation of binomial proportions", add as many).

    An interval holds the score. Rows that are all right are all right in every resample too. So a score of 0
    or 1 has the interval of Wilson (see `wilson_interval`) of as many rows as the label has; accuracy of all
    rows, micro-F1 of what they are worth (see `effective_rows`); macro-F1 of as many as would give a share
    the variance of the mean of the labels' shares. So has a macro-F1 that no resample changes as each label
    has 0 or 1: all rows are right, and some label has none. A label without a row may have any F1.

    Args:
        y_true: class indexes (n,) or multi-hot (n, L).
        predicted: the same shape.
        label_count: L.
        task: multiclass or multilabel.
        samples: resamples.
        confidence: level, for example 0.95.
        seed: of the resampling.
    """
    truth, guess = one_hot(y_true, label_count), one_hot(predicted, label_count)
    counts = resampled_counts(truth, guess, samples, np.random.default_rng(seed))
    f1 = counts.f1
    # micro F1 of a multiclass task is its accuracy
    columns = np.column_stack([f1.mean(axis=1), counts.total().f1[:, 0], f1])
    tail = (1 - confidence) / 2
    edges = np.quantile(columns, (tail, 1 - tail), axis=0)
    observed = count(truth, guess, label_count)
    scores = [float(observed.f1.mean()), float(observed.total().f1[0]), *observed.f1.tolist()]
    support = observed.support
    whole = len(truth) if task == "multiclass" else effective_rows(*row_counts(truth, guess), confidence)
    settled = edges[0, 0] == edges[1, 0] and set(scores[2:]) <= {0.0, 1.0}
    extreme = [settled or scores[0] in (0.0, 1.0), *(score in (0.0, 1.0) for score in scores[1:])]
    rows = [label_count**2 / float(np.sum(1 / np.maximum(support, 1))), whole, *support.tolist()]
    found = [
        wilson_interval(score, size, confidence)
        if at_end
        else Interval(min(score, float(low)), max(score, float(high)))
        for score, at_end, size, (low, high) in zip(scores, extreme, rows, edges.T, strict=True)
    ]
    return Intervals(dict(zip(headline_metrics(task), found[:2], strict=True)), found[2:])


def resampled_counts(
    truth: IntArray, guess: IntArray, samples: int, generator: np.random.Generator
) -> Counts:
    """Hits per label in ``samples`` stratified resamples of the rows, each array (samples, L).

    A score depends only on how often each distinct (truth, prediction) pair occurs, so a resample is one
    multinomial draw over a stratum's pairs: exact, and hardly dearer for a million rows than for a thousand.

    Args:
        truth: multi-hot (n, L).
        guess: multi-hot (n, L).
    """
    label_count = truth.shape[1]
    support = truth.sum(axis=0)
    rarity = np.where(truth == 1, support, np.iinfo(np.int64).max)
    stratum = np.where(truth.any(axis=1), rarity.argmin(axis=1), label_count)
    recalls = (truth & guess).sum(axis=0)[support > 0] / support[support > 0]
    recall = float(recalls.mean()) if len(recalls) else 0.0
    totals = np.zeros((samples, 3 * label_count))
    for label in np.unique(stratum):
        rows = stratum == label
        drawn = int(rows.sum())
        pairs, times = np.unique(
            np.concatenate([truth[rows], guess[rows]], axis=1), axis=0, return_counts=True
        )
        left, right = np.split(pairs, 2, axis=1)
        share: FloatArray = times / drawn
        if drawn < TINY and label < label_count:
            left, right, share = _with_prior(left, right, share, drawn, recall)
        columns = np.concatenate([left & right, left, right], axis=1).astype(np.float64)
        step = max(1, CHUNK_CELLS // len(share))
        for start in range(0, samples, step):
            stop = min(start + step, samples)
            totals[start:stop] += generator.multinomial(drawn, share, size=stop - start) @ columns
    return Counts(*np.split(totals, 3, axis=1))


def _with_prior(
    left: IntArray, right: IntArray, share: FloatArray, rows: int, recall: float
) -> tuple[IntArray, IntArray, FloatArray]:
    """A stratum's pairs and their shares, with rows added: the same truths, found at ``recall`` or missed."""
    added = PRIOR_ROWS / (rows + PRIOR_ROWS)
    shares = [share * (1 - added), share * added * recall, share * added * (1 - recall)]
    return np.tile(left, (3, 1)), np.concatenate([right, left, np.zeros_like(left)]), np.concatenate(shares)


def wilson_interval(share: float, rows: float, level: float = 0.95) -> Interval:
    """Interval of the probability behind a share of rows; it holds the share, and stays within [0, 1].

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", Journal of the American
    Statistical Association 22, 1927. Unlike share +/- standard errors it is sound for few rows and for
    shares of 0 and 1.

    Args:
        share: in [0, 1].
        rows: what it is a share of, not necessarily whole; 0 gives [0, 1].
        level: for example 0.95.
    """
    if rows <= 0:
        return Interval(0.0, 1.0)
    squared = NormalDist().inv_cdf((1 + level) / 2) ** 2
    centre = (share + squared / (2 * rows)) / (1 + squared / rows)
    variance = share * (1 - share) / rows + squared / (4 * rows**2)
    half = math.sqrt(squared * variance) / (1 + squared / rows)
    return Interval(max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def row_counts(truth: IntArray, guess: IntArray) -> tuple[IntArray, IntArray]:
    """Of each multi-hot row (m, L), for micro-F1: twice its labels found; its labels true plus predicted."""
    hits = 2 * (truth & guess).sum(axis=1, dtype=np.int64)
    return hits, truth.sum(axis=1, dtype=np.int64) + guess.sum(axis=1, dtype=np.int64)


def effective_rows(hits: IntArray, sizes: IntArray, level: float) -> float:
    """The rows, each right or wrong as a whole, whose share of right ones varies like hits over sizes.

    Micro-F1 is the ratio of two sums over the rows; its variance is that of the linearised ratio. A few rows
    that happen to agree have none, so z^2 / 2 rows of a usual size are added that are right, and as many
    that are wrong, as Agresti & Coull do ("Approximate Is Better than 'Exact' for Interval Estimation of
    Binomial Proportions", The American Statistician 52, 1998). Where rows are right or wrong as a whole, and
    of one size, the result is their number, and the interval exactly Wilson's. Rows without any label, true
    or predicted, are 0 rows.

    Args:
        hits: as `row_counts` gives them, (m,).
        sizes: the same; a row with none has no weight.
        level: of the interval.
    """
    if not sizes.any():
        return 0.0
    added = NormalDist().inv_cdf((1 + level) / 2) ** 2
    # Sums of whole numbers, so that the order of the rows changes nothing.
    total, squares = int(sizes.sum()), int(np.square(sizes).sum())
    usual = squares / total  # the mean over the labels, so that one long row among short ones counts as one
    weight = total + added * usual
    share = (int(hits.sum()) + added / 2 * usual) / weight
    spread = int(np.square(hits).sum()) + added / 2 * usual**2
    spread -= 2 * share * (int((hits * sizes).sum()) + added / 2 * usual**2)
    spread += share**2 * (squares + added * usual**2)
    return share * (1 - share) * weight**2 / spread - added
