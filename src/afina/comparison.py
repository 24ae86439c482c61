"""Is one model worse than another on the same test rows? Paired statistics and a verdict; no files.

Rows are paired by id. What is compared is two sets of predictions for the same questions, so an interval says
how much of a difference may be owed to which rows are in the test split, not how much another training run
would differ.

The difference of a score, head - base, is judged in two ways, and a verdict needs both:

- the paired percentile bootstrap (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13;
  Koehn 2004, "Statistical significance tests for machine translation evaluation", EMNLP), stratified by each
  row's rarest true label. It gives the intervals, and knows of a tolerance;
- approximate randomisation (Noreen 1989, "Computer-Intensive Methods for Testing Hypotheses"; Yeh 2000,
  "More accurate tests for the statistical significance of result differences", COLING), which swaps the two
  models' answers at random. It knows of no tolerance, but it is exact for any number of rows, where a
  bootstrap within classes of one or two rows is too sure of itself.

Changed data are no regression: where the label sets differ, or more than `MOST_CHANGED` of base's test rows
have no partner, the two models were asked different questions, and the comparison on what is common is given
as information. Below that limit the rows with a partner are judged as ever, so that a few corrected rows, or
any number of new ones, do not disarm the gate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

from afina.errors import UserError
from afina.evaluation.metrics import FEW_ROWS, Counts, FloatArray, IntArray, one_hot, ratio
from afina.labels import Task, decode_labels

Verdict = Literal["worse", "better", "no evidence", "too little data", "the same predictions", "data changed"]

METRICS: dict[Task, tuple[str, ...]] = {
    "multiclass": ("macro_f1", "accuracy", "weighted_f1"),
    "multilabel": ("macro_f1", "micro_f1", "weighted_f1", "subset_accuracy"),
}

MOST_CHANGED = 0.1  # share of base's test rows that may have no partner before data count as changed
POWER = 0.8  # with which a detectable drop is called worse
FEW_PAIRS = 25  # discordant pairs below which McNemar's test is exact
TIE = 1e-12  # differences that are equal but for rounding
RARE = 6  # rows of a cell up to which they are drawn one by one
CHUNK_CELLS = 8_000_000  # resampled counts held at once: 64 MB

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Predictions:
    """The test rows of one revision's predictions.parquet."""

    task: Task
    labels: tuple[str, ...]  # L
    ids: tuple[str, ...]  # n, each once
    truth: IntArray  # class indexes (n,) or multi-hot (n, L)
    predicted: IntArray  # the same shape


@dataclass(frozen=True)
class Gate:
    """What counts as worse, and how surely."""

    metric: str = "macro_f1"
    max_drop: float = 0.01  # a drop up to this is tolerated
    alpha: float = 0.05  # probability of calling equal models worse, at most
    detectable: float = 0.05  # a drop of this size has to be detectable, else there are too little data
    resamples: int = 10_000
    seed: int = 42


@dataclass(frozen=True)
class Pairing:
    """Which test rows the two revisions share, and why the others are left out."""

    common: int
    only_base: int
    only_head: int
    relabelled: int  # the same id with other true labels
    added: tuple[str, ...]  # labels that only head has
    removed: tuple[str, ...]  # labels that only base has

    @property
    def changed(self) -> float:
        """Share of base's test rows that have no partner; new rows, however many, take none away."""
        return 1 - self.common / (self.common + self.relabelled + self.only_base)


@dataclass(frozen=True)
class Change:
    """A score of both models, and what can be said about its difference, head - base."""

    name: str  # of a metric or of a class
    rows: int  # test rows, or those that have the label
    base: float
    head: float
    low: float  # two-sided interval of 1 - alpha
    high: float
    bound: float  # one-sided: the difference is below it with confidence 1 - alpha
    detectable: float  # the smallest true drop that would be called worse with a probability of POWER

    @property
    def difference(self) -> float:
        return self.head - self.base

    @property
    def small(self) -> bool:
        return self.rows < FEW_ROWS


@dataclass(frozen=True)
class McNemar:
    """How many rows only one of the two models got wholly right, and how likely that is of equal models."""

    base_only: int
    head_only: int
    p_value: float  # two-sided


@dataclass(frozen=True)
class Comparison:
    """Two models on the test rows that both revisions have."""

    verdict: Verdict
    task: Task
    gate: Gate
    pairing: Pairing
    metrics: tuple[Change, ...]
    classes: tuple[Change, ...]  # of the labels that both have, the largest change first
    mcnemar: McNemar

    @property
    def gated(self) -> Change:
        """The metric that the verdict is on."""
        return next(change for change in self.metrics if change.name == self.gate.metric)


def compare(base: Predictions, head: Predictions, gate: Gate) -> Comparison:
    """Compare two models' predictions for the test rows that are in both.

    The averages run over the labels that both revisions have, as everywhere also over those without a row; a
    prediction of any other label is wrong.

    The verdict is ``data changed`` where the label sets differ or too many of base's rows have no partner,
    and ``the same predictions`` where no answer differs. Otherwise it is ``worse`` where the one-sided bound
    of the difference lies below ``-max_drop``, ``better`` where the two-sided interval lies above 0 (and the
    randomisation test agrees, each with its error probability), ``too little data`` where a drop of
    ``gate.detectable`` would probably have been missed, else ``no evidence``.

    Raises:
        UserError: the gate makes no sense for the task, the tasks differ, no row is in both, or all are of
            one class.
    """
    if base.task != head.task:
        raise UserError(
            f"compare: base is {base.task}, head is {head.task}; their scores cannot be compared, evaluate "
            "one of them again with the other's clean.task"
        )
    check_gate(gate, base.task)
    pairing, labels, rows = pair(base, head)
    cells = Cells.of(rows, len(labels))
    _check_rows(cells, labels, pairing)

    generator = np.random.default_rng(gate.seed)
    observed = scores(cells.times[None] @ cells.columns, base.task)
    names = (*METRICS[base.task], *labels)
    difference = (observed[1] - observed[0])[0]
    differs = (cells.base != cells.head).any(axis=1)
    if differs.any():
        drawn = bootstrap_differences(cells, base.task, gate.resamples, generator)
        tail = gate.alpha / 2
        low, high, bound = np.quantile(drawn, (tail, 1 - tail, 1 - gate.alpha), axis=0)
        swapped = swapped_differences(cells, base.task, gate.resamples, generator)
        errors = np.maximum(drawn.std(axis=0, ddof=1), swapped.std(axis=0, ddof=1))
        p_drop = (1 + (swapped <= difference + TIE).sum(axis=0)) / (gate.resamples + 1)
        p_rise = (1 + (swapped >= difference - TIE).sum(axis=0)) / (gate.resamples + 1)
    else:
        low = high = bound = errors = np.zeros(len(names))
        p_drop = p_rise = np.ones(len(names))

    support = (cells.times @ cells.truth[:, : len(labels)]).astype(np.int64)
    sizes, answers = _sizes(base.task, pairing.common, support)
    changes = [
        Change(
            name,
            int(sizes[at]),
            float(observed[0][0, at]),
            float(observed[1][0, at]),
            float(low[at]),
            float(high[at]),
            float(bound[at]),
            detectable_drop(float(errors[at]), int(answers[at]), gate),
        )
        for at, name in enumerate(names)
    ]
    metrics, classes = changes[: -len(labels)], changes[-len(labels) :]
    at = names.index(gate.metric)
    return Comparison(
        verdict=_verdict(
            metrics[at], gate, pairing, bool(differs.any()), float(p_drop[at]), float(p_rise[at])
        ),
        task=base.task,
        gate=gate,
        pairing=pairing,
        metrics=tuple(metrics),
        classes=tuple(sorted(classes, key=lambda change: (-abs(change.difference), change.name))),
        mcnemar=mcnemar(
            int(cells.times[cells.base_right & ~cells.head_right].sum()),
            int(cells.times[cells.head_right & ~cells.base_right].sum()),
        ),
    )


def check_gate(gate: Gate, task: Task) -> None:
    """Check the options of the command.

    Raises:
        UserError: a number is out of range, or the task has no such metric.
    """
    if gate.metric not in METRICS[task]:
        raise UserError(
            f"compare: --metric: a {task} task has no {gate.metric!r}; give {', '.join(METRICS[task])}"
        )
    # Written so that NaN is refused.
    if not 0 <= gate.max_drop < 1:
        raise UserError(f"compare: --max-drop: {gate.max_drop:g} is not in [0, 1); give a drop such as 0.01")
    if not 0 < gate.alpha < 0.5:
        raise UserError(f"compare: --alpha: {gate.alpha:g} is not in (0, 0.5); give a risk such as 0.05")
    if not gate.max_drop < gate.detectable <= 1:
        raise UserError(
            f"compare: --detectable: {gate.detectable:g} is not above --max-drop ({gate.max_drop:g}) and at "
            "most 1; give a drop such as 0.05"
        )
    if not 100 <= gate.resamples <= 100_000:
        raise UserError(f"compare: --resamples: {gate.resamples} is not between 100 and 100000")


# ---------------------------------------------------------------------------------------------- pairs


def pair(
    base: Predictions, head: Predictions
) -> tuple[Pairing, tuple[str, ...], tuple[IntArray, IntArray, IntArray]]:
    """Pair rows by id.

    Returns:
        What was paired; the L labels that both have, in the order of head; and truth, base's and head's
        predictions of the common rows, each multi-hot (n, U), the L common labels before all others.
    """
    labels = tuple(label for label in head.labels if label in set(base.labels))
    added = tuple(label for label in head.labels if label not in set(labels))
    removed = tuple(label for label in base.labels if label not in set(labels))
    columns = (*labels, *added, *removed)

    position = {row: at for at, row in enumerate(base.ids)}
    there = np.array([position.get(row, -1) for row in head.ids], dtype=np.int64)
    in_head = np.flatnonzero(there >= 0)
    in_base = there[in_head]
    truth = _spread(base.truth, base.labels, columns)[in_base]
    same = (truth == _spread(head.truth, head.labels, columns)[in_head]).all(axis=1)
    pairing = Pairing(
        common=int(same.sum()),
        only_base=len(base.ids) - len(in_base),
        only_head=len(head.ids) - len(in_head),
        relabelled=int((~same).sum()),
        added=added,
        removed=removed,
    )
    guesses = (
        _spread(base.predicted, base.labels, columns)[in_base][same],
        _spread(head.predicted, head.labels, columns)[in_head][same],
    )
    return pairing, labels, (truth[same], *guesses)


def _spread(encoded: IntArray, labels: tuple[str, ...], columns: tuple[str, ...]) -> IntArray:
    """Encoded labels as multi-hot rows over ``columns``, which hold all of ``labels``."""
    spread = np.zeros((len(encoded), len(columns)), dtype=np.int8)
    spread[:, [columns.index(label) for label in labels]] = one_hot(encoded, len(labels))
    return spread


@dataclass(frozen=True)
class Cells:
    """The distinct (truth, base, head) of the common rows. Every score follows from how often each occurs.

    truth, base and head are multi-hot (m, U), of which the first ``label_count`` columns are scored.
    """

    truth: IntArray
    base: IntArray
    head: IntArray
    times: Floats  # (m,) rows
    label_count: int

    @classmethod
    def of(cls, rows: tuple[IntArray, IntArray, IntArray], label_count: int) -> Cells:
        """Count equal rows; the order of the rows is of no consequence."""
        packed = np.ascontiguousarray(np.packbits(np.concatenate(rows, axis=1), axis=1))
        # One opaque value a row sorts far faster than a row of numbers.
        keys = packed.view(np.dtype((np.void, max(1, packed.shape[1])))).ravel()
        _, first, times = np.unique(keys, return_index=True, return_counts=True)
        truth, base, head = (part[first] for part in rows)
        return cls(truth, base, head, times.astype(np.float64), label_count)

    @property
    def base_right(self) -> npt.NDArray[np.bool_]:
        return np.asarray((self.base == self.truth).all(axis=1))

    @property
    def head_right(self) -> npt.NDArray[np.bool_]:
        return np.asarray((self.head == self.truth).all(axis=1))

    @property
    def columns(self) -> Floats:
        """What one row of each cell adds to the counts that `scores` reads, (m, 5 L + 3).

        Rows and support of the labels; then for base and for head hits, predictions and rows wholly right.
        """
        width = self.label_count
        sides = [
            part
            for guess, right in ((self.base, self.base_right), (self.head, self.head_right))
            for part in ((self.truth & guess)[:, :width], guess[:, :width], right[:, None])
        ]
        shared = [np.ones((len(self.times), 1)), self.truth[:, :width]]
        return np.concatenate([*shared, *sides], axis=1).astype(np.float64)

    @property
    def stratum(self) -> IntArray:
        """The rarest true label of each cell, (m,); U where there is none."""
        support = self.times @ self.truth
        rarity = np.where(self.truth == 1, support, np.inf)
        return np.asarray(np.where(self.truth.any(axis=1), rarity.argmin(axis=1), self.truth.shape[1]))


def _check_rows(cells: Cells, labels: tuple[str, ...], pairing: Pairing) -> None:
    if not pairing.common:
        raise UserError(
            f"compare: no test row is in both with the same labels ({pairing.only_base:,} only in base, "
            f"{pairing.only_head:,} only in head, {pairing.relabelled:,} with other labels); were the "
            "sources' ids changed?"
        )
    if len(np.unique(cells.truth, axis=0)) == 1:
        (only,) = decode_labels(cells.truth[:1, : len(labels)], labels)
        raise UserError(
            f"compare: all {pairing.common:,} common test rows are of one class, "
            f"{'|'.join(only) or '(none)'!r}; there is nothing to tell apart"
        )


# --------------------------------------------------------------------------------------------- scores


def scores(totals: Floats, task: Task) -> tuple[FloatArray, FloatArray]:
    """The scores of base and of head for counts as `Cells.columns` lays them out, (r, 5 L + 3).

    Returns:
        Two arrays (r, M + L): the metrics of the task in the order of `METRICS`, then F1 of each label.
    """
    width = (totals.shape[1] - 3) // 5
    rows, support = totals[:, :1], totals[:, 1 : width + 1]
    share = ratio(support, support.sum(axis=1, keepdims=True))

    def side(part: Floats) -> FloatArray:
        counts = Counts(part[:, :width], support, part[:, width : 2 * width])
        f1, exact = counts.f1, part[:, -1:] / rows
        macro, weighted = f1.mean(axis=1, keepdims=True), (f1 * share).sum(axis=1, keepdims=True)
        found = (
            [macro, exact, weighted] if task == "multiclass" else [macro, counts.total().f1, weighted, exact]
        )
        return np.concatenate([*found, f1], axis=1)

    base, head = np.split(totals[:, width + 1 :], 2, axis=1)
    return side(base), side(head)


def bootstrap_differences(
    cells: Cells, task: Task, resamples: int, generator: np.random.Generator
) -> FloatArray:
    """Differences head - base in resamples of the rows within their strata, (resamples, M + L).

    A resample is one multinomial draw over a stratum's cells: exact, and hardly dearer for many rows.
    """
    columns = cells.columns
    totals = np.zeros((columns.shape[1], resamples))
    stratum = cells.stratum
    for label in np.unique(stratum):
        rows = np.flatnonzero(stratum == label)
        rows = rows[np.argsort(-cells.times[rows], kind="stable")]
        used = np.flatnonzero(columns[rows].any(axis=0))
        added = columns[np.ix_(rows, used)].T
        times = cells.times[rows].astype(np.int64)
        step = max(1, CHUNK_CELLS // (RARE * len(times)))
        for start in range(0, resamples, step):
            stop = min(start + step, resamples)
            # A column has a part in several strata.
            totals[used, start:stop] += draw_sums(times, added, stop - start, generator)
    base, head = scores(totals.T, task)
    return head - base


def draw_sums(times: IntArray, added: Floats, size: int, generator: np.random.Generator) -> Floats:
    """Draw ``size`` multinomial samples of ``sum(times)`` rows, and add up what their rows add.

    A number of a multinomial draw costs as much as several rows, so the rare cells share one number, and
    their rows are drawn one by one.

    Args:
        times: rows of each of m cells, in falling order.
        added: what a row of each cell adds, (k, m).
        size: samples.
        generator: of the draws.

    Returns:
        The sums, (k, size).
    """
    common = int((times > RARE).sum())
    rare, total = int(times[common:].sum()), int(times.sum())
    counts = generator.multinomial(total, np.append(times[:common], rare) / total, size=size)
    sums = added[:, :common] @ counts[:, :common].T.astype(np.float64)
    if rare:
        cells = len(times) - common
        cell = np.repeat(np.arange(cells), times[common:])
        drawn = cell[generator.integers(0, rare, counts[:, common].sum())]
        drawn += np.repeat(np.arange(size) * cells, counts[:, common])
        found = np.bincount(drawn, minlength=size * cells).reshape(size, cells)
        sums += added[:, common:] @ found.T.astype(np.float64)
    return np.asarray(sums, dtype=np.float64)


def swapped_differences(
    cells: Cells, task: Task, resamples: int, generator: np.random.Generator
) -> FloatArray:
    """Differences head - base where each row's two answers are swapped with probability 1/2.

    What they would be if the two models were equal: (resamples, M + L).
    """
    columns = cells.columns
    shared = cells.label_count + 1
    base, head = np.split(columns[:, shared:], 2, axis=1)
    differs = (cells.base != cells.head).any(axis=1)
    each = np.repeat(np.flatnonzero(differs), cells.times[differs].astype(np.int64))
    moved = (head - base)[each]
    totals = np.repeat(cells.times[None] @ columns, resamples, axis=0)
    width = moved.shape[1]
    step = max(1, CHUNK_CELLS // max(1, len(each)))
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        bits = np.frombuffer(generator.bytes((stop - start) * -(-len(each) // 8)), dtype=np.uint8)
        coins = np.unpackbits(bits.reshape(stop - start, -1), axis=1, count=len(each))
        change = coins.astype(np.float64) @ moved
        totals[start:stop, shared : shared + width] += change
        totals[start:stop, shared + width :] -= change
    one, other = scores(totals, task)
    return other - one


def mcnemar(base_only: int, head_only: int) -> McNemar:
    """McNemar's test of equal accuracy, from the rows that only one model got right.

    McNemar 1947, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika. Exact (binomial) below `FEW_PAIRS` such rows, else by his chi-squared
    statistic.
    """
    pairs = base_only + head_only
    if pairs < FEW_PAIRS:
        tail = sum(math.comb(pairs, at) for at in range(min(base_only, head_only) + 1)) / 2**pairs
        return McNemar(base_only, head_only, min(1.0, 2 * tail))
    statistic = abs(base_only - head_only) / math.sqrt(pairs)
    return McNemar(base_only, head_only, math.erfc(statistic / math.sqrt(2)))


# -------------------------------------------------------------------------------------------- verdict


def detectable_drop(standard_error: float, answers: int, gate: Gate) -> float:
    """The smallest true drop that is called worse with a probability of `POWER`; above 1: none is.

    The drop lies ``z(1 - alpha) + z(POWER)`` standard errors beyond the tolerance. Two models that agree on
    nearly all rows have a standard error near 0, but a model that drops by d does not agree: even if it does
    nothing but lose answers, its standard error is sqrt(d / answers), which is taken where it is larger.

    The drop of an average is one that is spread over its classes; what one class would have to lose by itself
    is that class's own detectable drop.

    Args:
        standard_error: of the difference: the larger one of the two tests, as a verdict needs both.
        answers: right or wrong ones that the score is made of.
        gate: tolerance and alpha.
    """
    if not answers:
        return math.inf
    z = NormalDist().inv_cdf(1 - gate.alpha) + NormalDist().inv_cdf(POWER)
    # d = max_drop + z sqrt(d / answers), solved for sqrt(d)
    root = (z / math.sqrt(answers) + math.sqrt(z * z / answers + 4 * gate.max_drop)) / 2
    return max(gate.max_drop + z * standard_error, root * root)


def _sizes(task: Task, rows: int, support: IntArray) -> tuple[IntArray, IntArray]:
    """The rows of each score, metrics before classes, and the answers it rests on.

    These are rows where a row is right or wrong, and true labels where F1 is counted.
    """
    names = METRICS[task]
    answers = [rows if name.endswith("accuracy") else int(support.sum()) for name in names]
    return np.array([*[rows] * len(names), *support]), np.array([*answers, *support])


def _verdict(
    change: Change, gate: Gate, pairing: Pairing, differs: bool, p_drop: float, p_rise: float
) -> Verdict:
    if pairing.added or pairing.removed or pairing.changed > MOST_CHANGED:
        return "data changed"
    if not differs:
        return "the same predictions"
    if change.bound < -gate.max_drop and p_drop <= gate.alpha:
        return "worse"
    if change.low > 0 and p_rise <= gate.alpha / 2:
        return "better"
    return "too little data" if change.detectable > gate.detectable else "no evidence"
