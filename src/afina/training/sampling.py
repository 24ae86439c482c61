"""Which examples an epoch holds: each once, or drawn with regard to their classes."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from afina.labels import Task

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

Sampler = Literal["shuffle", "square_root", "class_balanced", "progressive"]

_EXPONENTS = {"square_root": 0.5, "class_balanced": 0.0, "progressive": 0.0}

# Keeps the random numbers here apart from those of the batches, which start from seed and epoch too.
_STREAM = 0x53414D50
_GOLDEN = (5**0.5 - 1) / 2


def epoch_rows(
    sampler: Sampler, targets: npt.NDArray[Any], task: Task, seed: int, epoch: int, epochs: int
) -> Ints:
    """The rows that make up an epoch, as many as there are training rows.

    The sampling strategies of Kang et al., "Decoupling Representation and Classifier for Long-Tailed
    Recognition", ICLR 2020: a class with n examples has a share proportional to n^q of an epoch, with q = 1
    for ``shuffle``, 1/2 for ``square_root`` (Mahajan et al., "Exploring the Limits of Weakly Supervised
    Pretraining", ECCV 2018), 0 for ``class_balanced``; the shares of ``progressive`` go in equal steps from
    those of q = 1 in the first epoch to those of q = 0 in the last (a single epoch takes their mean).

    A multilabel example is drawn as often as the rarest of its labels asks: its weight is the maximum of
    n^(q-1) over its labels, as in the repeat factor sampling of Gupta, Dollár & Girshick, "LVIS: A Dataset
    for Large Vocabulary Instance Segmentation", CVPR 2019. With a sum in place of the maximum, q = 1 would
    not give every example once, and frequent labels that occur together would be drawn more often than either
    alone. Examples without a label are used once, as with ``shuffle``.

    Nothing is left to chance that need not be. A class (multilabel: a set of labels) has its expected number
    of rows, rounded up or down. Its examples stand in a ring, in random order, and each epoch goes on in the
    ring where the one before left off, so that in an epoch, and over all epochs so far, they are used equally
    often, give or take one.

    Args:
        targets: class indexes (n,), or multi-hot (n, L) for multilabel.
        epoch: from 0, less than ``epochs``.
        epochs: epochs at most.

    Returns:
        Row numbers int64 (n,), ascending, some of them repeatedly. A pure function of the arguments, so that
        processes agree and a resumed run goes on with the same rows.

    Raises:
        ValueError: the sampler is unknown.
    """
    rows = np.arange(len(targets), dtype=np.int64)
    if sampler == "shuffle" or not len(targets):
        return rows
    if sampler not in _EXPONENTS:
        raise ValueError(f"unknown sampler '{sampler}'")
    patterns, group = _groups(targets, task)
    sizes = np.bincount(group, minlength=len(patterns)).astype(np.int64)
    equal = _expected_totals(patterns, sizes, _EXPONENTS[sampler])

    random = np.random.default_rng([seed, _STREAM])
    first_offset = random.random()

    def totals(number: int) -> Ints:
        share = _share(sampler, number, epochs)
        expected = (1 - share) * sizes + share * equal
        if task == "multiclass":
            return largest_remainder(expected, len(targets))
        # A golden-ratio sequence of offsets: a label set that is due every few epochs gets its turn.
        return systematic(expected, len(targets), (first_offset + number * _GOLDEN) % 1)

    before = sum((totals(number) for number in range(epoch)), np.zeros(len(sizes), np.int64))
    uses = _deal(group, sizes, before, totals(epoch), random.permutation(len(targets)))
    return np.repeat(rows, uses)


def _share(sampler: Sampler, epoch: int, epochs: int) -> float:
    """How far an epoch is on the way from the counts (0) to the sampler's shares (1)."""
    if sampler != "progressive":
        return 1.0
    return epoch / (epochs - 1) if epochs > 1 else 0.5


def _groups(targets: npt.NDArray[Any], task: Task) -> tuple[npt.NDArray[np.bool_], Ints]:
    """Examples that are drawn alike: distinct label sets, multi-hot (G, L), and the one of each row (n,).

    Multiclass: the classes that occur.
    """
    if task == "multiclass":
        classes, group = np.unique(targets, return_inverse=True)
        return np.eye(len(classes), dtype=bool), group.reshape(-1).astype(np.int64)
    # As strings of bytes, because sorting those is many times faster than sorting rows.
    packed = np.packbits(targets.astype(bool), axis=1)
    keys = np.ascontiguousarray(packed).view(f"V{packed.shape[1]}").reshape(-1)
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    return targets[first].astype(bool), group.reshape(-1).astype(np.int64)


def _expected_totals(patterns: npt.NDArray[np.bool_], sizes: Ints, exponent: float) -> Floats:
    """Rows of each group (G,) in an epoch of as many rows as there are examples."""
    counts = sizes @ patterns  # (L,); a label that no group has, has no part below
    factors = np.zeros(patterns.shape[1])
    factors[counts > 0] = counts[counts > 0].astype(np.float64) ** (exponent - 1)
    drawn = sizes * np.where(patterns, factors, 0.0).max(axis=1)
    labelled = patterns.any(axis=1)
    expected = sizes.astype(np.float64)
    if labelled.any():
        expected[labelled] = drawn[labelled] * (sizes[labelled].sum() / drawn[labelled].sum())
    return expected


def largest_remainder(expected: Floats, total: int) -> Ints:
    """Whole numbers next to ``expected`` (G,) with the sum ``total``; the largest fractions are rounded up.

    Of equal fractions the first are rounded up. ``expected`` has the sum ``total``.
    """
    # Multiples of 2^-20: an error in the last digit is no fraction to round up.
    exact = np.round(expected * 2**20) / 2**20
    whole = np.floor(exact).astype(np.int64)
    missing = total - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:missing]] += 1
    return whole


def systematic(expected: Floats, total: int, offset: float) -> Ints:
    """Whole numbers next to ``expected`` (G,) with the sum ``total``, by systematic sampling.

    Over offsets spread evenly in [0, 1) their mean is ``expected``, also where that is less than 1, and
    neighbouring groups together have a number next to their sum. ``expected`` has the sum ``total``.
    """
    ends = np.cumsum(expected)
    ends[-1] = total
    # An offset next to 1 is rounded to 1 in the sum.
    whole: Ints = np.diff(np.minimum(np.floor(ends + offset), total), prepend=0.0).astype(np.int64)
    return whole


def _deal(group: Ints, sizes: Ints, before: Ints, totals: Ints, order: Ints) -> Ints:
    """How often each example (n,) is used, its group's total dealt out around a ring in random order."""
    ring = order[np.argsort(group[order], kind="stable")]  # group by group
    starts = np.cumsum(sizes) - sizes
    member = group[ring]
    place = np.arange(len(ring)) - starts[member]
    turn = (place - before[member]) % sizes[member]  # 0: next in turn
    uses = np.empty(len(ring), dtype=np.int64)
    uses[ring] = totals[member] // sizes[member] + (turn < totals[member] % sizes[member])
    return uses
