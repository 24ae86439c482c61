"""What an epoch holds under each sampler, against totals worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from afina.labels import Task
from afina.params.train import TrainParams
from afina.training.batches import epoch_batches
from afina.training.sampling import Sampler, epoch_rows, largest_remainder, systematic

SAMPLERS: tuple[Sampler, ...] = ("shuffle", "square_root", "class_balanced", "progressive")
TARGETS = np.random.default_rng(0).permutation(np.repeat([0, 1, 3], [81, 36, 9]))  # class 2 has no row


def totals(
    sampler: Sampler, epoch: int = 0, epochs: int = 3, targets: npt.NDArray[Any] = TARGETS
) -> list[int]:
    rows = epoch_rows(sampler, targets, "multiclass", 7, epoch, epochs)
    return np.bincount(targets[rows], minlength=4).tolist()


def uses(rows: npt.NDArray[np.int64], count: int = len(TARGETS)) -> npt.NDArray[np.int64]:
    return np.bincount(rows, minlength=count)


def multi_hot(*rows: str, labels: str = "ABC") -> npt.NDArray[np.int8]:
    return np.array([[label in row for label in labels] for row in rows], dtype=np.int8)


# ------------------------------------------------------------------------------------ multiclass


def test_class_totals_by_hand() -> None:
    assert totals("shuffle") == [81, 36, 0, 9]
    assert totals("square_root") == [63, 42, 0, 21]  # 9 : 6 : 3 of 126
    assert totals("class_balanced") == [42, 42, 0, 42]


def test_progressive_goes_from_the_counts_to_balance() -> None:
    # halfway: (81 + 42) / 2 = 61.5, (36 + 42) / 2 = 39, (9 + 42) / 2 = 25.5; the first half is rounded up
    assert [totals("progressive", epoch) for epoch in range(3)] == [
        [81, 36, 0, 9],
        [62, 39, 0, 25],
        [42, 42, 0, 42],
    ]
    assert (uses(epoch_rows("progressive", TARGETS, "multiclass", 7, 0, 3)) == 1).all()
    assert totals("progressive", 0, epochs=1) == [62, 39, 0, 25]


def test_shuffle_holds_every_row_once_in_the_order_of_the_table() -> None:
    # the batches shuffle, and are those of a run without a sampler
    np.testing.assert_array_equal(
        epoch_rows("shuffle", TARGETS, "multiclass", 7, 2, 3), np.arange(len(TARGETS))
    )


def test_a_rare_classes_examples_are_used_equally_often() -> None:
    used = uses(epoch_rows("class_balanced", TARGETS, "multiclass", 7, 0, 3))
    assert sorted(used[TARGETS == 3]) == [4] * 3 + [5] * 6  # 42 over 9
    assert sorted(used[TARGETS == 0]) == [0] * 39 + [1] * 42


def test_an_epoch_goes_on_where_the_one_before_left_off() -> None:
    # 42 of 81 an epoch: two epochs use every example, three of them twice
    both = sum(uses(epoch_rows("class_balanced", TARGETS, "multiclass", 7, epoch, 9)) for epoch in (0, 1))
    assert sorted(np.asarray(both)[TARGETS == 0]) == [1] * 78 + [2] * 3


def test_epochs_and_seeds_differ_and_the_same_arguments_give_the_same_rows() -> None:
    first = epoch_rows("square_root", TARGETS, "multiclass", 7, 0, 3)
    np.testing.assert_array_equal(first, epoch_rows("square_root", TARGETS, "multiclass", 7, 0, 3))
    for seed, epoch in ((7, 1), (8, 0)):
        assert not np.array_equal(first, epoch_rows("square_root", TARGETS, "multiclass", seed, epoch, 3))


def test_batches_of_an_epochs_rows() -> None:
    lengths = np.arange(len(TARGETS))
    rows = epoch_rows("class_balanced", TARGETS, "multiclass", 7, 1, 3)
    batches = epoch_batches(lengths[rows], 32, 7, 1)
    np.testing.assert_array_equal(np.sort(np.concatenate([rows[batch] for batch in batches])), rows)


def test_an_unknown_sampler_and_no_rows() -> None:
    with pytest.raises(ValueError, match="'cube_root'"):
        epoch_rows("cube_root", TARGETS, "multiclass", 7, 0, 3)  # type: ignore[arg-type]
    assert len(epoch_rows("class_balanced", TARGETS[:0], "multiclass", 7, 0, 3)) == 0


def test_the_parameter_names_the_samplers() -> None:
    assert TrainParams.parse({}).sampler == "shuffle"
    assert [TrainParams.parse({"sampler": name}).sampler for name in SAMPLERS] == list(SAMPLERS)


classes = st.lists(st.integers(0, 6), min_size=1, max_size=80).map(lambda values: np.array(values))


@settings(deadline=None)
@given(targets=classes, sampler=st.sampled_from(SAMPLERS), seed=st.integers(0, 99), epochs=st.integers(1, 6))
def test_multiclass_laws(targets: npt.NDArray[np.int64], sampler: Sampler, seed: int, epochs: int) -> None:
    n = np.bincount(targets)
    q = {"shuffle": 1.0, "square_root": 0.5}.get(sampler, 0.0)
    powers = np.where(n > 0, n.astype(float) ** q, 0)
    drawn = powers / powers.sum() * len(targets)
    so_far = np.zeros(len(targets), dtype=int)
    for epoch in range(epochs):
        share = (epoch / (epochs - 1) if epochs > 1 else 0.5) if sampler == "progressive" else 1.0
        expected = (1 - share) * n + share * drawn
        rows = epoch_rows(sampler, targets, "multiclass", seed, epoch, epochs)
        assert len(rows) == len(targets)
        used = uses(rows, len(targets))
        so_far += used
        assert (np.abs(np.bincount(targets[rows], minlength=len(n)) - expected) < 1).all()
        for label in set(targets.tolist()):
            for counted in (used[targets == label], so_far[targets == label]):
                assert np.ptp(counted) <= 1


@given(
    shares=st.lists(st.floats(0.01, 10), min_size=1, max_size=9),
    total=st.integers(0, 500),
    offset=st.floats(0, 1, exclude_max=True),
)
@example(shares=[1.0], total=2, offset=np.nextafter(1, 0))
def test_rounding_laws(shares: list[float], total: int, offset: float) -> None:
    expected = np.array(shares) / np.sum(shares) * total
    for rounded in (largest_remainder(expected, total), systematic(expected, total, offset)):
        assert rounded.sum() == total
        assert (np.abs(rounded - expected) < 1 + 1e-6).all()


def test_rounding_by_hand() -> None:
    np.testing.assert_array_equal(largest_remainder(np.array([1.2, 2.7, 0.6, 0.5]), 5), [1, 3, 1, 0])
    np.testing.assert_array_equal(largest_remainder(np.array([1.0, 2.9999999999, 1.0]), 5), [1, 3, 1])
    for offset, expected in ((0.0, [0, 0, 1, 0, 1]), (0.5, [0, 1, 0, 1, 0]), (0.7, [1, 0, 0, 1, 0])):
        np.testing.assert_array_equal(systematic(np.full(5, 0.4), 2, offset), expected)


def test_systematic_rounding_is_unbiased() -> None:
    expected = np.array([0.15, 1.3, 0.05, 2.5])
    drawn = [systematic(expected, 4, (number + 0.5) / 1000) for number in range(1000)]
    np.testing.assert_allclose(np.mean(drawn, axis=0), expected, atol=2e-3)


# ------------------------------------------------------------------------------------ multilabel


def test_multilabel_totals_by_hand() -> None:
    # A 16 rows, B 4, C 1 (with A); class_balanced weights 1/16, 1/4 and 1: A alone 15/16, B 1, AC 1, which
    # scaled to 20 rows are 6.38, 6.81 and 6.81; the row without a label once
    targets = multi_hot(*["A"] * 15, *["B"] * 4, "A C", "")
    for epoch in range(3):
        rows = epoch_rows("class_balanced", targets, "multilabel", 3, epoch, 3)
        used = uses(rows, 21)
        assert used.sum() == 21
        assert used[:15].sum() in (6, 7)
        assert used[15:19].sum() in (6, 7)
        assert used[19] in (6, 7)
        assert used[20] == 1
    # square_root: 15/4 : 4/2 : 1, of 20 rows: 11.11, 5.93, 2.96
    used = uses(epoch_rows("square_root", targets, "multilabel", 3, 0, 3), 21)
    assert used[:15].sum() in (11, 12)
    assert used[15:19].sum() in (5, 6)
    assert used[19] in (2, 3)


def test_an_example_is_drawn_for_its_rarest_label_alone() -> None:
    # A, B, C 4 rows each: AB weighs as much as C, not twice as much
    targets = multi_hot(*["A B"] * 4, *["C"] * 4)
    assert (uses(epoch_rows("class_balanced", targets, "multilabel", 3, 0, 3), 8) == 1).all()


def test_a_label_set_that_is_due_every_few_epochs_gets_its_turn() -> None:
    # each of 40 sets of one or two of many labels is due 0.x times an epoch
    random = np.random.default_rng(1)
    targets = np.zeros((60, 30), dtype=np.int8)
    targets[:, 0] = 1
    targets[np.arange(60), random.integers(0, 30, 60)] = 1
    used = sum(
        uses(epoch_rows("square_root", targets, "multilabel", 5, epoch, 20), 60) for epoch in range(20)
    )
    counts = targets.sum(axis=0)
    weights = np.where(targets == 1, np.maximum(counts, 1) ** -0.5, 0).max(axis=1)
    expected = 20 * weights / weights.sum() * 60
    assert np.abs(np.asarray(used) - expected).max() < 2


def test_multilabel_frequencies_move_towards_balance() -> None:
    random = np.random.default_rng(2)
    targets = (random.random((2000, 6)) < [0.5, 0.3, 0.1, 0.05, 0.02, 0.005]).astype(np.int8)

    def imbalance(sampler: Sampler, epoch: int = 0) -> float:
        counted = targets[epoch_rows(sampler, targets, "multilabel", 4, epoch, 3)].sum(axis=0)
        return float(counted.max() / counted.min())

    shuffled, root, balanced = (imbalance(name) for name in ("shuffle", "square_root", "class_balanced"))
    assert shuffled > 2 * root > 4 * balanced
    steps = [imbalance("progressive", epoch) for epoch in range(3)]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] == shuffled
    assert steps[2] == pytest.approx(balanced, rel=0.02)


matrices = st.integers(1, 10).flatmap(
    lambda width: st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=1, max_size=40)
).map(lambda rows: np.array(rows, dtype=np.int8))  # fmt: skip


@settings(deadline=None)
@given(targets=matrices, sampler=st.sampled_from(SAMPLERS), seed=st.integers(0, 9), epochs=st.integers(1, 4))
def test_multilabel_laws(targets: npt.NDArray[np.int8], sampler: Sampler, seed: int, epochs: int) -> None:
    so_far = np.zeros(len(targets), dtype=int)
    for epoch in range(epochs):
        rows = epoch_rows(sampler, targets, "multilabel", seed, epoch, epochs)
        assert len(rows) == len(targets)
        used = uses(rows, len(targets))
        so_far += used
        for pattern in np.unique(targets, axis=0):
            same = (targets == pattern).all(axis=1)
            assert np.ptp(used[same]) <= 1
            assert np.ptp(so_far[same]) <= 1
            if not pattern.any():
                assert abs(int(used[same].sum()) - int(same.sum())) <= 1


@settings(deadline=None)
@given(targets=classes, sampler=st.sampled_from(SAMPLERS), seed=st.integers(0, 9))
def test_one_label_a_row_is_multiclass(targets: npt.NDArray[np.int64], sampler: Sampler, seed: int) -> None:
    one_hot = np.eye(7, dtype=np.int8)[targets]
    tasks: tuple[tuple[npt.NDArray[Any], Task], ...] = ((targets, "multiclass"), (one_hot, "multilabel"))
    drawn = [
        np.bincount(targets[epoch_rows(sampler, values, task, seed, 1, 3)], minlength=7)
        for values, task in tasks
    ]
    assert np.abs(drawn[0] - drawn[1]).max() <= 1
