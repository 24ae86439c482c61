"""Flat and row-wise AdamW against torch's on separate tensors and on the whole table."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from afina.training.weights import (
    BETA1,
    BETA2,
    CHUNK,
    EPSILON,
    MEMORY,
    FlatWeights,
    RowWeights,
    Slot,
    average_shares,
    momentum_sums,
)

CPU = torch.device("cpu")
Floats = npt.NDArray[np.float64]


# ------------------------------------------------------------------------------------------- flat weights

# Shapes of the sources of each slot, highest learning rate, weight decay.
KINDS: tuple[tuple[tuple[tuple[int, ...], ...], float, float], ...] = (
    (((3, 4), (2, 4)), 1e-2, 0.1),
    (((5,),), 1e-2, 0.0),
    (((2, 3),), 5e-2, 0.1),
    (((4, 4), (4, 4), (4, 4)), 1e-2, 0.1),
    (((3,), (3,)), 5e-2, 0.0),
)


def make_slots(dtype: torch.dtype = torch.float32, low: int = 5, seed: int = 0) -> list[Slot]:
    """One slot of each kind, the first ``low`` of them in ``dtype``."""
    generator = torch.Generator().manual_seed(seed)
    slots = []
    for place, (shapes, peak, decay) in enumerate(KINDS):
        sources = tuple(nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes)
        if len(sources) == 1 and (place >= low or dtype == torch.float32):
            leaf = sources[0]
        else:
            values = torch.cat([source.detach() for source in sources])
            leaf = nn.Parameter(values.to(dtype if place < low else torch.float32))
        slots.append(Slot(leaf, sources, peak, decay))
    return slots


def gradients_of(update: int, slots: list[Slot]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(100 + update)
    return [torch.randn(slot.leaf.shape, generator=generator).to(slot.leaf.dtype) for slot in slots]


def share_of(update: int) -> float:
    return 1 - 0.04 * update


def run_flat(flat: FlatWeights, slots: list[Slot], updates: range, absent: int | None = None) -> None:
    """Updates with fixed gradients; the slot ``absent`` has none in every other update."""
    for update in updates:
        for place, (slot, gradient) in enumerate(zip(slots, gradients_of(update, slots), strict=True)):
            slot.leaf.grad = None if place == absent and update % 2 else gradient.clone()
        flat.gather_gradients()
        assert all(slot.leaf.grad is None for slot in slots)
        flat.step(share_of(update), torch.tensor(1.0 + update % 3))


def run_torch(slots: list[Slot], updates: range, absent: int | None = None) -> list[Tensor]:
    """The same with torch's AdamW, every leaf a tensor of its own; their values (float32)."""
    leaves = [nn.Parameter(torch.cat([source.detach() for source in slot.sources])) for slot in slots]
    optimizer = torch.optim.AdamW(
        [
            {"params": [leaf], "lr": slot.peak, "peak": slot.peak, "weight_decay": slot.weight_decay}
            for leaf, slot in zip(leaves, slots, strict=True)
        ],
        foreach=False,
    )
    for update in updates:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * share_of(update)
        for place, (leaf, gradient) in enumerate(zip(leaves, gradients_of(update, slots), strict=True)):
            there = not (place == absent and update % 2)
            leaf.grad = gradient.float() / (1.0 + update % 3) if there else torch.zeros_like(leaf)
        optimizer.step()
    return [leaf.detach() for leaf in leaves]


@pytest.mark.parametrize("absent", [None, 0, 4])
def test_flat_adamw_is_adamw_on_separate_tensors(absent: int | None) -> None:
    slots = make_slots()
    expected = run_torch(slots, range(20), absent)
    flat = FlatWeights(slots, CPU)
    run_flat(flat, slots, range(20), absent)
    for slot, values in zip(slots, expected, strict=True):
        torch.testing.assert_close(slot.leaf.detach(), values, atol=2e-6, rtol=0)
        assert torch.equal(torch.cat([source.detach() for source in slot.sources]), slot.leaf.detach())


def test_weights_are_views_of_one_vector() -> None:
    slots = make_slots()
    before = [torch.cat([source.detach() for source in slot.sources]) for slot in slots]
    flat = FlatWeights(slots, CPU)
    for slot, values in zip(slots, before, strict=True):
        assert torch.equal(slot.leaf.detach(), values)
    flat.values.fill_(3.0)
    for slot in slots:
        for tensor in (slot.leaf, *slot.sources):
            assert (tensor == 3).all()
    assert len(flat.values) == sum(slot.leaf.numel() for slot in slots)
    # One group for each pair of learning rate and decay.
    groups = flat.optimizer.param_groups
    assert sorted((group["peak"], group["weight_decay"]) for group in groups) == [
        (1e-2, 0.0),
        (1e-2, 0.1),
        (5e-2, 0.0),
        (5e-2, 0.1),
    ]
    sizes = {
        (group["peak"], group["weight_decay"]): sum(part.numel() for part in group["params"])
        for group in groups
    }
    assert sizes == {(1e-2, 0.0): 5, (1e-2, 0.1): 20 + 48, (5e-2, 0.0): 6, (5e-2, 0.1): 6}


@pytest.mark.parametrize("low", [5, 3])
def test_copies_in_bfloat16_follow(low: int) -> None:
    """The update itself is in float32, with gradients of bfloat16."""
    slots = make_slots(torch.bfloat16, low)
    expected = run_torch(slots, range(12))
    flat = FlatWeights(slots, CPU)
    for update in range(12):
        run_flat(flat, slots, range(update, update + 1))
        for place, slot in enumerate(slots):
            values = torch.cat([source.detach() for source in slot.sources])
            assert slot.leaf.dtype == (torch.bfloat16 if place < low else torch.float32)
            assert values.dtype == torch.float32
            assert torch.equal(slot.leaf.detach(), values.to(slot.leaf.dtype))
    for slot, values in zip(slots, expected, strict=True):
        ours = torch.cat([source.detach() for source in slot.sources])
        torch.testing.assert_close(ours, values, atol=2e-6, rtol=0)
    # A change of the vector from outside reaches them with `refresh`.
    flat.values.fill_(0.5)
    flat.refresh()
    assert all((slot.leaf == 0.5).all() for slot in slots)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flat_state_there_and_back(dtype: torch.dtype) -> None:
    whole, parts, later = make_slots(dtype), make_slots(dtype), make_slots(dtype, seed=1)
    run_flat(FlatWeights(whole, CPU), whole, range(9))
    first = FlatWeights(parts, CPU)
    run_flat(first, parts, range(4))
    state = {name: tensor.clone() for name, tensor in first.state().items()}
    second = FlatWeights(later, CPU)
    for slot, saved in zip(later, parts, strict=True):
        for source, values in zip(slot.sources, saved.sources, strict=True):
            source.data.copy_(values.data)  # as load_state_dict does
    second.load_state(state)
    for slot in later:
        values = torch.cat([source.detach() for source in slot.sources])
        assert torch.equal(slot.leaf.detach(), values.to(slot.leaf.dtype))
    run_flat(second, later, range(4, 9))
    for one, other in zip(whole, later, strict=True):
        assert torch.equal(one.leaf, other.leaf)
        assert all(torch.equal(*pair) for pair in zip(one.sources, other.sources, strict=True))


def test_gradients_add_up_until_they_are_gathered_or_dropped() -> None:
    slots = make_slots()
    flat = FlatWeights(slots, CPU)
    for _ in range(2):
        for slot in slots:
            (slot.leaf * 2).sum().backward()
    flat.drop_gradients()
    flat.gather_gradients()
    assert not flat.gradients.any()
    for _ in range(3):
        for slot in slots:
            (slot.leaf * 2).sum().backward()
    flat.gather_gradients()
    assert (flat.gradients == 6).all()


# -------------------------------------------------------------------------------------------- rows of a table

ROWS, WIDTH = 40, 6


def changing_rates(count: int, top: float) -> Floats:
    """Up, then down to nearly nothing."""
    rising = count // 10
    return top * np.array(
        [(u + 1) / rising if u < rising else (count - u) / (count - rising) for u in range(count)]
    )


def touched_rows(update: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Some rows often, some rarely; row 36 at the first update alone; rows from 37 on never."""
    random = np.random.default_rng([seed, update])
    chance = 1 / np.arange(1, 37)
    rows = np.flatnonzero(random.random(36) < chance)
    extra = [36] if update == 1 else []
    return np.unique([0, *rows, *extra]).astype(np.int64)


def row_gradients(update: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    random = np.random.default_rng([7, update])
    return (random.normal(size=(len(rows), WIDTH)) * random.choice([0.01, 1.0])).astype(np.float32)


def first_table() -> Tensor:
    return torch.randn((ROWS, WIDTH), generator=torch.Generator().manual_seed(3))


def dense(
    rates: Floats, weight_decay: float, factors: Tensor | None = None
) -> tuple[list[Floats], Floats, Floats]:
    """AdamW over the whole table in float64, from its formulas: the table after each update, the moments."""
    values = first_table().double().numpy()
    mean, square = np.zeros_like(values), np.zeros_like(values)
    scale = np.ones((ROWS, 1)) if factors is None else factors.double().numpy()[:, None]
    tables = [values.copy()]
    for update, rate in enumerate(rates, start=1):
        gradient = np.zeros_like(values)
        rows = touched_rows(update)
        gradient[rows] = row_gradients(update, rows)
        mean = BETA1 * mean + (1 - BETA1) * gradient
        square = BETA2 * square + (1 - BETA2) * gradient**2
        root = np.sqrt(square / (1 - BETA2**update)) + EPSILON
        values = values * (1 - rate * weight_decay) - scale * rate * mean / (1 - BETA1**update) / root
        tables.append(values.copy())
    return tables, mean, square


def run_rows(weights: RowWeights, updates: range) -> None:
    for update in updates:
        rows = touched_rows(update)
        leaf = weights.begin(rows, update, torch.float32)
        (leaf * torch.from_numpy(row_gradients(update, rows))).sum().backward()
        weights.step(update, weights.gradient())


def make_rows(rates: Floats, weight_decay: float = 0.1, **options: Any) -> RowWeights:
    return RowWeights(nn.Parameter(first_table()), rates, weight_decay, **options)


def test_factors_lie_where_the_table_lies() -> None:
    table = nn.Parameter(torch.empty((4, 2), device="meta"))
    weights = RowWeights(table, np.ones(1), 0.0, factors=torch.ones(4))
    assert weights.factors is not None
    assert weights.factors.device == table.device


def test_the_formulas_above_are_those_of_torch() -> None:
    rates = changing_rates(60, 0.02)
    table = nn.Parameter(first_table().double())
    optimizer = torch.optim.AdamW([table], lr=1.0, weight_decay=0.3)
    for update, rate in enumerate(rates, start=1):
        optimizer.param_groups[0]["lr"] = rate
        rows = touched_rows(update)
        table.grad = torch.zeros_like(table)
        table.grad[rows] = torch.from_numpy(row_gradients(update, rows)).double()
        optimizer.step()
    np.testing.assert_allclose(dense(rates, 0.3)[0][-1], table.detach().numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("with_factors", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_lazy_rows_are_dense_adamw(weight_decay: float, with_factors: bool) -> None:
    updates = 600
    assert updates > 2 * MEMORY
    rates = changing_rates(updates, 0.02)
    factors = torch.linspace(0.2, 3.0, ROWS) if with_factors else None
    tables, mean, square = dense(rates, weight_decay, factors)
    weights = make_rows(rates, weight_decay, factors=factors)
    for update in range(1, updates + 1):
        rows = touched_rows(update)
        # What an update sees of the table is what a dense one would see.
        leaf = weights.begin(rows, update, torch.float32)
        np.testing.assert_allclose(leaf.detach().numpy(), tables[update - 1][rows], rtol=0, atol=2e-5)
        weights.step(update, torch.from_numpy(row_gradients(update, rows)))
        if update in (1, 2, 333):
            weights.flush(update)
            np.testing.assert_allclose(weights.table.detach(), tables[update], rtol=0, atol=2e-5)
    assert (weights.last < updates).any()
    weights.flush(updates)
    np.testing.assert_allclose(weights.table.detach(), tables[-1], rtol=0, atol=2e-5)
    np.testing.assert_allclose(weights.mean, mean, rtol=0, atol=1e-6)
    np.testing.assert_allclose(weights.square, square, rtol=0, atol=1e-6)
    moved = np.abs(tables[-1] - tables[0]).max(axis=1)
    assert moved[:36].min() > 0.01
    assert moved[36] > 0.01  # momentum of one update
    untouched = first_table().double().numpy()[37:] * np.prod(1 - rates * weight_decay)
    np.testing.assert_allclose(tables[-1][37:], untouched, rtol=0, atol=1e-12)


def keeps_of(updates: int) -> Floats:
    number = np.arange(updates)
    return np.minimum(0.99, (1 + number) / (10 + number))


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_the_average_is_that_of_the_dense_tables(weight_decay: float) -> None:
    rates, keeps = changing_rates(600, 0.02), keeps_of(600)
    factors = torch.linspace(0.2, 3.0, ROWS)
    tables, _, _ = dense(rates, weight_decay, factors)
    weights = make_rows(rates, weight_decay, factors=factors, keeps=keeps)
    plain = make_rows(rates, weight_decay, factors=factors)
    average = tables[0]
    for update in range(1, 601):
        average = keeps[update - 1] * average + (1 - keeps[update - 1]) * tables[update]
        for rows in (weights, plain):
            run_rows(rows, range(update, update + 1))
            if update in (1, 2, 333, 600):
                rows.flush(update)
        if update in (1, 2, 333, 600):
            np.testing.assert_allclose(weights.average, average, rtol=0, atol=2e-5)
    assert torch.equal(weights.table, plain.table)
    assert np.abs(average - tables[-1])[:37].max() > 1e-3


def test_shares_of_an_average_by_hand() -> None:
    keeps, decayed = np.array([0.5, 0.8]), np.array([0.72, 0.9, 1.0])  # decay leaves 0.8, then 0.9
    kept, of_values, of_movements = average_shares(keeps, decayed)
    np.testing.assert_allclose(kept, [0.5 * 0.8, 0.8, 1.0])
    # Values of 1 at the start are 0.8 and 0.72 after the updates, averaged as 0.5 * 0.8 and 0.2 * 0.72.
    np.testing.assert_allclose(of_values, [0.5 * 0.8 * 0.8 + 0.2 * 0.72, 0.2 * 0.9, 0.0])
    # A movement of 1 at the first update is there from then on, as 0.9 at the second.
    np.testing.assert_allclose(of_movements[1:], [0.5 * 0.8 + 0.2 * 0.9, 0.2])


@pytest.mark.parametrize("averaged", [False, True])
def test_a_table_is_brought_up_to_date_in_pieces(averaged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = changing_rates(50, 0.02)
    results = []
    for chunk in (CHUNK, 7):
        monkeypatch.setattr("afina.training.weights.CHUNK", chunk)
        weights = make_rows(rates, keeps=keeps_of(50) if averaged else None)
        run_rows(weights, range(1, 51))
        weights.flush(50)
        assert (weights.last == 50).all()
        results.append([weights.table.detach(), *weights.state().values()])
    assert len(results[0]) == 5 if averaged else 4
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_flushing_twice_changes_nothing() -> None:
    rates = changing_rates(50, 0.02)
    weights = make_rows(rates, keeps=keeps_of(50))
    run_rows(weights, range(1, 31))
    weights.flush(30)
    before = [part.clone() for part in (weights.table.detach(), *weights.state().values())]
    weights.flush(30)
    assert all(
        torch.equal(*pair)
        for pair in zip(before, (weights.table.detach(), *weights.state().values()), strict=True)
    )
    assert (weights.last == 30).all()


def test_flushing_in_between_changes_the_result_by_rounding_alone() -> None:
    rates = changing_rates(80, 0.02)
    often, never = make_rows(rates), make_rows(rates)
    for update in range(1, 81):
        run_rows(often, range(update, update + 1))
        often.flush(update)
    run_rows(never, range(1, 81))
    never.flush(80)
    torch.testing.assert_close(often.table, never.table, atol=1e-5, rtol=0)


def test_beginning_an_update_again_is_free() -> None:
    """After a batch that did not fit in the memory; and its gradients are gone."""
    rates = changing_rates(20, 0.02)
    once, twice = make_rows(rates), make_rows(rates)
    for update in range(1, 21):
        rows = touched_rows(update)
        leaf = twice.begin(rows, update, torch.float32)
        (leaf * 1e6).sum().backward()
        run_rows(once, range(update, update + 1))
        run_rows(twice, range(update, update + 1))
    assert torch.equal(once.table, twice.table)


@pytest.mark.parametrize("averaged", [False, True])
def test_row_state_there_and_back(averaged: bool) -> None:
    rates = changing_rates(40, 0.02)
    keeps = keeps_of(40) if averaged else None
    whole = make_rows(rates, keeps=keeps)
    run_rows(whole, range(1, 41))
    first = make_rows(rates, keeps=keeps)
    run_rows(first, range(1, 18))
    second = make_rows(rates, keeps=keeps)
    second.table.data.copy_(first.table.data)
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    run_rows(second, range(18, 41))
    assert torch.equal(second.table, whole.table)
    for name, tensor in whole.state().items():
        assert torch.equal(second.state()[name], tensor)


def test_leaves_in_bfloat16_and_rows_without_a_gradient() -> None:
    weights = make_rows(np.full(3, 0.1), weight_decay=0.0)
    leaf = weights.begin(np.array([2, 5]), 1, torch.bfloat16)
    assert torch.equal(leaf, first_table()[[2, 5]].bfloat16())
    # Nothing depended on them: a process without examples in an update.
    gradient = weights.gradient()
    assert (gradient.shape, gradient.dtype) == ((2, WIDTH), torch.float32)
    assert not gradient.any()
    (leaf * 2).sum().backward()
    gradient = weights.gradient()
    assert gradient.dtype == torch.float32
    assert (gradient == 2).all()
    weights.step(1, gradient)
    # The first update of Adam is as long as the learning rate, and acts on the float32 values.
    moved = weights.table.detach() - first_table()
    torch.testing.assert_close(moved[[2, 5]], torch.full((2, WIDTH), -0.1), atol=1e-6, rtol=0)
    assert not moved[[0, 1, 3, 4]].any()


# ---------------------------------------------------------------------------------------- momentum by hand


def test_momentum_sums_by_hand() -> None:
    rates = np.array([0.1, 0.2, 0.3, 0.4])

    def term(rate: float, update: int, gap: int) -> float:
        """m is 0.9^gap of what it was, v is 0.999^gap; both are corrected for ``update`` updates."""
        return rate * 0.9**gap / (1 - 0.9**update) / math.sqrt(0.999**gap / (1 - 0.999**update))

    steps = np.array([1, 2, 3, 4])
    expected = [
        term(0.2, 2, 1) + term(0.3, 3, 2) + term(0.4, 4, 3),
        term(0.3, 3, 1) + term(0.4, 4, 2),
        term(0.4, 4, 1),
        0.0,
    ]
    np.testing.assert_allclose(momentum_sums(steps, 4, rates), expected, rtol=1e-12)
    # Rates of updates to come do not matter.
    longer = np.concatenate([rates, [9.0, 9.0]])
    np.testing.assert_allclose(momentum_sums(steps, 4, longer), expected, rtol=1e-12)
    assert momentum_sums(np.array([0]), 0, rates).tolist() == [0.0]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 900), st.integers(0, 900), st.integers(0, 2**32 - 1))
def test_momentum_sums_are_what_adamw_does_without_a_gradient(step: int, gap: int, seed: int) -> None:
    rates = np.random.default_rng(seed).random(step + gap) * 0.01
    mean, square, moved = 1.0, 1.0, 0.0
    for update in range(step + 1, step + gap + 1):
        mean, square = mean * BETA1, square * BETA2
        moved += rates[update - 1] * mean / (1 - BETA1**update) / math.sqrt(square / (1 - BETA2**update))
    (ours,) = momentum_sums(np.array([step]), step + gap, rates)
    assert ours == pytest.approx(moved, rel=1e-7, abs=1e-15)
