"""Which examples make up which batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# Batches whose examples are sorted together: enough for near-equal lengths within a batch, few
# enough that an epoch still mixes short and long texts.
POOL_BATCHES = 50


def epoch_batches(
    lengths: Sequence[int] | npt.NDArray[np.int64], batch_size: int, seed: int, epoch: int
) -> list[npt.NDArray[np.int64]]:
    """Shuffle an epoch's examples and cut them into batches of similar length.

    A pure function of its arguments, so that a resumed run goes on with the same batches. Examples are
    shuffled, taken in pools, sorted by length within a pool and cut; then the batches are shuffled. There
    are ceil(n / batch_size) batches of nearly equal size: no small rest whose gradient is mere noise.

    Returns:
        Index arrays (int64) into ``lengths``; every index occurs exactly once.
    """
    random = np.random.default_rng([seed, epoch])
    sizes = np.asarray(lengths, dtype=np.int64)
    count = -(-len(sizes) // batch_size)
    pools = -(-count // POOL_BATCHES)
    batches: list[npt.NDArray[np.int64]] = []
    for pool, pool_count in zip(
        _split_by_batches(random.permutation(len(sizes)), count, pools),
        _shares(count, pools),
        strict=True,
    ):
        by_length = pool[np.argsort(sizes[pool], kind="stable")]
        batches += np.array_split(by_length, pool_count)
    return [batches[index] for index in random.permutation(count)]


def _shares(total: int, parts: int) -> list[int]:
    """Split a number into nearly equal whole parts."""
    return [total // parts + (part < total % parts) for part in range(parts)]


def _split_by_batches(order: npt.NDArray[np.int64], count: int, pools: int) -> list[npt.NDArray[np.int64]]:
    """Cut ``order`` into pools, each in proportion to the number of batches it will give."""
    ends = np.cumsum(_shares(count, pools)) * len(order) // count
    return np.split(order, ends[:-1])
