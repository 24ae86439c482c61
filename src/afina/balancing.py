"""What is done about imbalance, in the training data alone: resampling of rows, or weights of classes."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from afina.augmentation import augment_repeats, number_repeats
from afina.errors import UserError
from afina.labels import LabelSet, encode_labels
from afina.params.balance import BalanceParams
from afina.table import BALANCED_SCHEMA

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Balanced:
    """What the balance stage gives on."""

    table: (
        pa.Table
    )  # afina.table.BALANCED_SCHEMA; a repeated row keeps its id, an altered copy's ends in ~1 ...
    summary: dict[str, Any]  # balance.json
    rows: list[tuple[str, str, int]]  # label, before | after, examples


def balance(table: pa.Table, label_set: LabelSet, params: BalanceParams, seed: int) -> Balanced:
    """Resample the training rows, add altered copies to them, or weight the classes.

    Args:
        table: the training rows, as in `afina.table.SCHEMA`.
        label_set: labels in model order; a label without a training row counts 0 and weighs 1. Altered copies
            are cleaned by its steps.

    Raises:
        UserError: there is no row, the strategy can do nothing for these data, or a weight is for a label
            that there is not.
    """
    if not table.num_rows:
        raise UserError("balance: data/splits/train.parquet has no row; see the split section")
    encoded = encode_labels(table["labels"], label_set.labels, label_set.task)
    multilabel = label_set.task == "multilabel"
    width = len(label_set.labels)

    def count(rows: Ints) -> Ints:
        chosen = encoded[rows]
        counted = chosen.sum(axis=0, dtype=np.int64) if multilabel else np.bincount(chosen, minlength=width)
        return counted.astype(np.int64)

    everything = np.arange(table.num_rows, dtype=np.int64)
    before = count(everything)
    rows = everything
    if params.augment_target is not None:
        rows = (top_up_multilabel if multilabel else top_up)(encoded, params.augment_target, seed)
    elif params.strategy == "oversample":
        rows = (
            oversample_multilabel(encoded, params.target_ratio, params.max_growth, seed)
            if multilabel
            else oversample(encoded, params.target_ratio, seed)
        )
    elif params.strategy == "undersample":
        rows = (
            undersample_multilabel(encoded, params.target_ratio, seed)
            if multilabel
            else undersample(encoded, params.target_ratio, seed)
        )
    after = count(rows)
    weights: Floats | None = None
    if params.strategy == "class_weights":
        weights = _weights(after, len(rows), multilabel, params)
    if params.label_weights:
        weights = apply_label_weights(weights, label_set.labels, params.label_weights)
    taken = table if rows is everything else table.take(pa.array(rows))
    augmented: dict[str, Any] = {}
    if params.augment:
        repeats = number_repeats(rows)
        steps = label_set.cleaning.get("steps") or []
        taken, unaltered = augment_repeats(taken, repeats, params.augment, params.augment_rate, steps, seed)
        copies = _by_label(label_set.labels, count(rows[repeats > 0]))
        augmented = {
            "augmented": copies,
            "augmented_rows": int((repeats > 0).sum()),
            "unaltered_copies": unaltered,
        }
    result = taken.append_column(
        BALANCED_SCHEMA.field("weight"), pa.array(np.ones(taken.num_rows), pa.float64())
    )
    labels = label_set.labels
    summary = {
        "strategy": params.strategy,
        "class_weights": None if weights is None else _by_label(labels, weights),
        "before": _by_label(labels, before),
        "after": _by_label(labels, after),
        **augmented,
    }
    stages = (("before", before), ("after", after))
    table_rows = [
        (label, stage, int(counts[number])) for number, label in enumerate(labels) for stage, counts in stages
    ]
    return Balanced(result, summary, table_rows)


def _by_label(labels: tuple[str, ...], values: Ints | Floats) -> dict[str, Any]:
    return dict(zip(labels, values.tolist(), strict=True))


# --------------------------------------------------------------------------------------- weights


def _weights(counts: Ints, total: int, multilabel: bool, params: BalanceParams) -> Floats:
    if multilabel:
        return positive_weights(counts, total, params.weights, params.beta, params.max_weight)
    return class_weights(counts, params.weights, params.beta, params.max_weight)


def importance(counts: Ints, method: str, beta: float) -> Floats:
    """How much one example of each class counts, up to a factor, from its number of examples (L,).

    ``balanced``: 1/n, after King and Zeng, "Logistic Regression in Rare Events Data", Political Analysis
    2001.
    ``inverse_sqrt``: 1/sqrt(n), after Mahajan et al., "Exploring the Limits of Weakly Supervised
    Pretraining", ECCV 2018, who draw examples so. ``effective_number``: (1 - beta) / (1 - beta^n), the
    inverse of the effective number of examples of Cui et al., "Class-Balanced Loss Based on Effective
    Number of Samples", CVPR 2019. A count must be positive.
    """
    n = counts.astype(np.float64)
    if method == "balanced":
        return 1 / n
    if method == "inverse_sqrt":
        return 1 / np.sqrt(n)
    if method == "effective_number":
        # expm1: 1 - beta^n loses its digits where beta is next to 1
        result: Floats = (1 - beta) / -np.expm1(n * np.log(beta))
        return result
    raise ValueError(f"unknown weights '{method}'")


def class_weights(
    counts: Ints, method: str = "balanced", beta: float = 0.999, max_weight: float | None = None
) -> Floats:
    """Weight of each class in a cross-entropy, such that the mean over the training rows is 1.

    Args:
        counts: training rows of each class (L,); a class without one weighs 1.
        max_weight: at least 1. Weights at the cap stay there and the others make up for it.

    Returns:
        Weights (L,). ``balanced`` gives n / (L * n_class), as scikit-learn does.
    """
    present = counts > 0
    n = counts[present].astype(np.float64)
    raw = importance(counts[present], method, beta)
    capped = np.zeros(len(n), dtype=bool)
    while True:
        limit = max_weight if max_weight is not None else np.inf
        free = ~capped
        budget = n.sum() - (n[capped].sum() * limit if capped.any() else 0.0)
        scale = budget / (n[free] * raw[free]).sum() if free.any() else 0.0
        scaled = np.where(capped, limit, raw * scale) if capped.any() else raw * scale
        over = free & (scaled > limit)
        if not over.any():
            break
        capped |= over
    weights = np.ones(len(counts), dtype=np.float64)
    weights[present] = scaled
    return weights


def positive_weights(
    counts: Ints, total: int, method: str = "balanced", beta: float = 0.999, max_weight: float | None = None
) -> Floats:
    """Weight of the positive term of each label's binary cross-entropy: positives against negatives.

    Args:
        counts: rows that have each label (L,), of ``total`` rows.

    Returns:
        Weights (L,): ``importance`` of a positive over that of a negative, which is negatives / positives for
        ``balanced``, at most ``max_weight``; 1 for a label that no row or every row has.
    """
    weights = np.ones(len(counts), dtype=np.float64)
    usable = (counts > 0) & (counts < total)
    positive = importance(counts[usable], method, beta)
    negative = importance(total - counts[usable], method, beta)
    weights[usable] = positive / negative
    return weights if max_weight is None else np.minimum(weights, max_weight)


def apply_label_weights(
    weights: Floats | None, labels: Sequence[str], factors: Mapping[str, float]
) -> Floats:
    """Multiply the weights (L,) of the named labels; without weights all are 1.

    Raises:
        UserError: there is no such label.
    """
    result = np.ones(len(labels)) if weights is None else weights.copy()
    for name, factor in factors.items():
        if name not in labels:
            near = difflib.get_close_matches(name, labels, n=1, cutoff=0.0)
            raise UserError(f"balance.label_weights: there is no label '{name}'; did you mean '{near[0]}'?")
        result[labels.index(name)] *= factor
    return result


# ------------------------------------------------------------------------------------ resampling


def oversample(classes: Ints, target_ratio: float, seed: int) -> Ints:
    """Rows, some of them repeatedly, such that every class has ``target_ratio`` of the largest one's.

    Args:
        classes: class of each row (n,).

    Returns:
        Row numbers (m,), m >= n, ascending.
    """
    from imblearn.over_sampling import RandomOverSampler

    present, counts = np.unique(classes, return_counts=True)
    wanted = int(np.ceil(target_ratio * counts.max() - 1e-9))
    goal = {int(c): max(int(n), wanted) for c, n in zip(present, counts, strict=True)}
    return _sampled(RandomOverSampler(sampling_strategy=goal, random_state=seed), classes)


def undersample(classes: Ints, target_ratio: float, seed: int) -> Ints:
    """Rows such that the smallest class has ``target_ratio`` of every other one's, or more.

    Args:
        classes: class of each row (n,).

    Returns:
        Row numbers (m,), m <= n, ascending.
    """
    from imblearn.under_sampling import RandomUnderSampler

    present, counts = np.unique(classes, return_counts=True)
    allowed = int(np.floor(counts.min() / target_ratio + 1e-9))
    goal = {int(c): min(int(n), allowed) for c, n in zip(present, counts, strict=True)}
    return _sampled(RandomUnderSampler(sampling_strategy=goal, random_state=seed), classes)


def _sampled(sampler: Any, classes: Ints) -> Ints:
    if len(np.unique(classes)) < 2:
        return np.arange(len(classes), dtype=np.int64)
    sampler.fit_resample(np.arange(len(classes)).reshape(-1, 1), classes)
    return np.sort(np.asarray(sampler.sample_indices_, dtype=np.int64))


def oversample_multilabel(
    labels: npt.NDArray[np.int8], target_ratio: float, max_growth: float, seed: int
) -> Ints:
    """Clone rows of rare labels until each has ``target_ratio`` of the most frequent label's rows.

    ML-ROS of Charte, Rivera, del Jesus & Herrera, "Addressing imbalance in multilabel classification",
    Neurocomputing 163 (2015), with counts kept up to date, since a clone brings all of its labels. It differs
    in two things: the goal is ``target_ratio`` in place of the mean imbalance ratio, and the rows of a label
    are cloned in turn, in random order, in place of by chance.

    Args:
        labels: multi-hot (n, L).
        max_growth: clones stop at ``max_growth * n`` rows, as a rare label that only occurs together with the
            most frequent one never gets nearer to it.

    Returns:
        Row numbers (m,), ascending.
    """

    def wanted(counts: Ints) -> int:
        return int(np.ceil(target_ratio * counts.max(initial=0) - 1e-9))

    return _clone(labels, wanted, int(len(labels) * (max_growth - 1)), seed)


def top_up(classes: Ints, target: int, seed: int) -> Ints:
    """Rows, those of small classes repeated in turn, in random order, until each class has ``target``.

    Args:
        classes: class of each row (n,).

    Returns:
        Row numbers (m,), m >= n, ascending.
    """
    random = np.random.default_rng(seed)
    rows = [np.arange(len(classes), dtype=np.int64)]
    for number, size in enumerate(np.bincount(classes).tolist()):
        if 0 < size < target:
            members = random.permutation(np.flatnonzero(classes == number))
            rows.append(members[np.arange(target - size) % size])
    return np.sort(np.concatenate(rows))


def top_up_multilabel(labels: npt.NDArray[np.int8], target: int, seed: int) -> Ints:
    """As `oversample_multilabel`, until each label that has a row has ``target``; labels are (n, L)."""
    counts = labels.sum(axis=0, dtype=np.int64)
    budget = int(np.maximum(target - counts[counts > 0], 0).sum())  # every clone makes up for one at least
    return _clone(labels, lambda _: target, budget, seed)


def _clone(labels: npt.NDArray[np.int8], goal: Callable[[Ints], int], budget: int, seed: int) -> Ints:
    """Clone rows of the rarest label at a time until each has ``goal`` rows, or the budget is spent."""
    random = np.random.default_rng(seed)
    counts = labels.sum(axis=0, dtype=np.int64)
    rows = np.arange(len(labels), dtype=np.int64)
    clones: list[Ints] = []
    bags: dict[int, Ints] = {}
    turn: dict[int, int] = {}
    while budget > 0:
        wanted = goal(counts)
        short = np.flatnonzero((counts > 0) & (counts < wanted))
        if not len(short):
            break
        label = int(short[np.argmin(counts[short])])
        if label not in bags:
            bags[label] = random.permutation(rows[labels[:, label] == 1])
            turn[label] = 0
        # up to the next rarest label, so that no label runs ahead of those that are rarer by then
        above = counts[counts > counts[label]]
        size = min(int(above.min()) if len(above) else wanted, wanted) - int(counts[label])
        size = min(max(size, 1), budget)
        bag = bags[label]
        chosen = bag[(turn[label] + np.arange(size)) % len(bag)]
        turn[label] = (turn[label] + size) % len(bag)
        clones.append(chosen)
        counts = counts + labels[chosen].sum(axis=0, dtype=np.int64)
        budget -= size
    return np.sort(np.concatenate([rows, *clones]))


def undersample_multilabel(labels: npt.NDArray[np.int8], target_ratio: float, seed: int) -> Ints:
    """Leave out rows of frequent labels alone, until none has more than 1 / ``target_ratio`` of the rarest.

    After ML-RUS of Charte et al. (2015): rows go in random order, but a row with any label at or below its
    goal stays, so rare labels lose nothing. Rows without a label stay.

    Args:
        labels: multi-hot (n, L).

    Returns:
        Row numbers (m,), ascending.

    Raises:
        UserError: there is imbalance but no row can go, as each has a rare label too.
    """
    random = np.random.default_rng(seed)
    counts = labels.sum(axis=0, dtype=np.int64)
    present = counts[counts > 0]
    everything = np.arange(len(labels), dtype=np.int64)
    if not len(present):
        return everything
    allowed = int(np.floor(present.min() / target_ratio + 1e-9))
    if present.max() <= allowed:
        return everything
    excess = counts - allowed
    # only rows whose labels are all in excess can ever go: excess only falls
    candidates = everything[((labels == 1) & (excess <= 0)).sum(axis=1) == 0]
    candidates = random.permutation(candidates[labels[candidates].any(axis=1)])
    remaining = excess.tolist()
    gone = []
    for row in candidates.tolist():
        held = np.flatnonzero(labels[row]).tolist()
        if all(remaining[label] > 0 for label in held):
            gone.append(row)
            for label in held:
                remaining[label] -= 1
    if not gone:
        raise UserError(
            "balance.strategy: undersample can leave out no row, as every row of a frequent label also has "
            "a rare one; use oversample or class_weights"
        )
    return np.setdiff1d(everything, np.array(gone, dtype=np.int64))


def imbalance(counts: Mapping[str, int]) -> float:
    """Examples of the most frequent label over those of the rarest one that has any."""
    present = [count for count in counts.values() if count]
    return max(present) / min(present) if present else 1.0
