"""Stratified division of units (messages, or groups of them that stay together) among subsets.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas, On the Stratification of Multi-Label Data,
ECML PKDD 2011), of which the stratification of single labels is a special case, run over kinds of units
instead of units: those with the same labels and size are placed together, in proportion to what each subset
still wants, and only what is left by rounding down is placed one by one. So a million messages cost what
their distinct label sets cost.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csc_array, csr_array, hstack

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

LARGE = 0.1  # a unit larger than this part of the smallest subset is placed before the small ones
UNPLACED = -1


def stratify(
    counts: csr_array,
    sizes: Ints,
    fractions: Floats,
    rng: np.random.Generator,
    placed: Ints | None = None,
) -> Ints:
    """Divide U units among k subsets so that every label is divided in the proportions asked for.

    Args:
        counts: (U, L) how many examples of each label each unit holds.
        sizes: (U,) how many examples each unit holds.
        fractions: (k,) share of each subset, all positive, sum 1.
        rng: where ties and the choice within a kind are drawn from.
        placed: (U,) the subset of units that have one whatever the proportions, `UNPLACED` for the others;
            None: all are to be placed. The others make up for what these leave uneven, as far as they can.

    Returns:
        (U,) the subset of each unit. A label with at least k units reaches every subset, unless the labels it
        comes with make that impossible (`unreached_labels` tells).
    """
    counts = _with_unlabelled(counts, sizes)
    subsets = np.full(len(sizes), UNPLACED, np.int64) if placed is None else placed.copy()
    fixed = subsets != UNPLACED
    demand = _Demand(counts, sizes, fractions)
    demand.take(subsets)

    large = np.flatnonzero((sizes > max(1.0, LARGE * fractions.min() * sizes.sum())) & ~fixed)
    _place(counts, sizes, large, demand, subsets, rng)
    _place(counts, sizes, np.flatnonzero(subsets == UNPLACED), demand, subsets, rng)
    _reach_every_subset(counts, sizes, ~fixed, subsets, len(fractions))
    return subsets


def unreached_labels(counts: csr_array, subsets: Ints, subset_count: int) -> Mask:
    """Which labels (L,) are in some unit but not in every subset."""
    units = np.stack([(counts[subsets == s] > 0).sum(axis=0) for s in range(subset_count)])
    missed: Mask = np.logical_not((units > 0).all(axis=0))
    present: Mask = units.sum(axis=0) > 0
    return np.logical_and(missed, present, dtype=bool)


class _Demand:
    """How many examples each subset still wants: of each label (k, L), and of all together (k,)."""

    def __init__(self, counts: csr_array, sizes: Ints, fractions: Floats) -> None:
        self._counts, self._sizes, self._fractions = counts, sizes, fractions
        self.unlabelled = counts.shape[1] - 1
        self.labels: Floats = np.outer(fractions, counts.sum(axis=0))
        self.all: Floats = fractions * sizes.sum()

    def take(self, subsets: Ints) -> None:
        """Subtract what has been placed."""
        for subset in range(len(self.all)):
            here = np.flatnonzero(subsets == subset)
            self.labels[subset] -= self._counts[here].sum(axis=0)
            self.all[subset] -= self._sizes[here].sum()

    def of(self, label: int) -> Floats:
        """What each subset wants of ``label`` (k,); of units without a label, what it wants at all."""
        return self.all if label == self.unlabelled else self.labels[:, label]

    def foremost(self, label: int, amount: int, ties: Floats) -> int:
        """The subset to get the next unit, which has ``amount`` examples of ``label``.

        The paper takes the subset that wants most, which sends the first of every label, and so what comes
        with them, to the largest subset. Here that rule settles the units that no subset wants whole; before,
        it is the subset that wants the largest part of its share.
        """
        wanted = self.of(label)
        whole = wanted > amount - 1e-9
        key = np.where(whole, wanted / self._fractions, -np.inf) if whole.any() else wanted
        return int(np.lexsort((ties, self.all / self._fractions, key.round(9)))[-1])


def _with_unlabelled(counts: csr_array, sizes: Ints) -> csr_array:
    """Add a column for having no label, so that such units are stratified too."""
    without = np.flatnonzero(np.diff(counts.indptr) == 0)
    column = csr_array(
        (sizes[without], (without, np.zeros(len(without), np.int64))), shape=(counts.shape[0], 1)
    )
    return hstack([counts, column], format="csr")


def _kinds(counts: csr_array, sizes: Ints) -> npt.NDArray[np.uint64]:
    """A 64-bit hash (U,) of each unit's labels and size."""
    draw = np.random.default_rng(0)
    weights = draw.integers(2**64, size=counts.shape[1] + 1, dtype=np.uint64)
    terms = counts.data.astype(np.uint64) * weights[counts.indices]
    hashes: npt.NDArray[np.uint64] = np.add.reduceat(terms, counts.indptr[:-1])
    kinds: npt.NDArray[np.uint64] = hashes + sizes.astype(np.uint64) * weights[-1]
    return kinds


def _place(
    counts: csr_array, sizes: Ints, units: Ints, demand: _Demand, subsets: Ints, rng: np.random.Generator
) -> None:
    """Place ``units``: the rarest label first, and of each kind that has it as many as are wanted where."""
    if not len(units):
        return
    _, example, kind, number = np.unique(
        _kinds(counts[units], sizes[units]), return_index=True, return_inverse=True, return_counts=True
    )
    kinds, size = counts[units[example]], sizes[units[example]]
    columns = csc_array(kinds)
    remaining = number @ kinds
    dealt = np.zeros((len(number), len(demand.all)), np.int64)
    # Large units first; of the others, the kinds of many last: they make up for what the few left uneven.
    turn = np.lexsort((rng.random(len(number)), number, -size))
    turn_of = np.empty_like(turn)
    turn_of[turn] = np.arange(len(turn))
    ties = rng.random((len(number), len(demand.all)))
    while True:
        present = np.flatnonzero(remaining > 0)
        if not len(present):
            break
        labelled = present[present < demand.unlabelled]
        label = labelled[np.argmin(remaining[labelled])] if len(labelled) else demand.unlabelled
        having = columns.indices[columns.indptr[label] : columns.indptr[label + 1]]
        having = having[dealt[having].sum(axis=1) == 0]
        for k in having[np.argsort(turn_of[having])]:
            row = slice(kinds.indptr[k], kinds.indptr[k + 1])
            labels, each = kinds.indices[row], kinds.data[row]
            if number[k] > 1:
                wanted = np.maximum(demand.of(label), 0)
                dealt[k] = np.floor(number[k] * wanted / max(wanted.sum(), 1e-9) + 1e-9)
                demand.labels[:, labels] -= dealt[k][:, None] * each
                demand.all -= dealt[k] * size[k]
            amount = size[k] if label == demand.unlabelled else each[labels == label][0]
            for _ in range(number[k] - dealt[k].sum()):
                subset = demand.foremost(label, amount, ties[k])
                dealt[k, subset] += 1
                demand.labels[subset, labels] -= each
                demand.all[subset] -= size[k]
            remaining[labels] -= number[k] * each
    # Which units of a kind go where is drawn by lot.
    order = np.lexsort((rng.permutation(len(units)), kind))
    rank = np.arange(len(units)) - (np.cumsum(number) - number)[kind[order]]
    subsets[units[order]] = (rank[:, None] >= np.cumsum(dealt, axis=1)[kind[order]]).sum(axis=1)


def _reach_every_subset(counts: csr_array, sizes: Ints, movable: Mask, subsets: Ints, k: int) -> None:
    """Move single units until every label with at least ``k`` of them is in every subset."""
    columns = csc_array(counts)
    units = [
        columns.indices[columns.indptr[label] : columns.indptr[label + 1]] for label in range(counts.shape[1])
    ]
    held = np.stack([np.bincount(subsets[u], minlength=k) for u in units], axis=1)  # units: (k, L)
    enough = held.sum(axis=0) >= k

    def lost(unit: Any, subset: Any) -> int:
        """How many labels would no longer be in ``subset`` without ``unit``."""
        labels = counts.indices[counts.indptr[unit] : counts.indptr[unit + 1]]
        return int((enough[labels] & (held[subset, labels] == 1)).sum())

    # Every move serves one label; it may cost another that then gets its turn, so the number is bounded.
    for _ in range(10 * k * counts.shape[1]):
        missing = np.argwhere((held == 0) & enough)
        if not len(missing):
            return
        subset, label = min(missing.tolist(), key=lambda pair: (held[:, pair[1]].sum(), pair[1], pair[0]))
        candidates = [u for u in units[label] if movable[u] and held[subsets[u], label] > 1]
        if not candidates:
            enough[label] = False
            continue
        unit = min(candidates, key=lambda u: (lost(u, subsets[u]), sizes[u], -held[subsets[u], label], u))
        labels = counts.indices[counts.indptr[unit] : counts.indptr[unit + 1]]
        held[subsets[unit], labels] -= 1
        held[subset, labels] += 1
        subsets[unit] = subset
