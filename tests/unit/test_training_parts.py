"""Batches, losses, learning rates and parameters of training."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from afina.errors import UserError
from afina.modeling.classifier import TextClassifier, load_pretrained
from afina.params.train import TrainParams
from afina.training.batches import epoch_batches
from afina.training.loop import answers, macro_f1, parameter_groups, schedule
from afina.training.loss import example_factors, example_losses, positive_weights
from tiny import build_tiny_backbone


@given(st.lists(st.integers(1, 200), min_size=1, max_size=400), st.integers(1, 40), st.integers(0, 5))
def test_an_epoch_takes_every_example_once(lengths: list[int], batch_size: int, epoch: int) -> None:
    batches = epoch_batches(lengths, batch_size, 3, epoch)
    assert sorted(int(index) for batch in batches for index in batch) == list(range(len(lengths)))
    assert len(batches) == math.ceil(len(lengths) / batch_size)
    assert all(1 <= len(batch) <= batch_size for batch in batches)


def test_batches_are_even_alike_in_length_and_differ_by_epoch_and_seed() -> None:
    lengths = np.random.default_rng(0).integers(5, 128, size=10_000)
    batches = epoch_batches(lengths, 32, seed=1, epoch=0)
    assert {len(batch) for batch in batches} <= {31, 32}
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padded < 1.06 * lengths.sum()
    same = epoch_batches(lengths, 32, seed=1, epoch=0)
    assert all(np.array_equal(*pair) for pair in zip(batches, same, strict=True))
    for other in (epoch_batches(lengths, 32, seed=1, epoch=1), epoch_batches(lengths, 32, seed=2, epoch=0)):
        assert not all(np.array_equal(*pair) for pair in zip(batches, other, strict=True))
    # Short and long batches come mixed, not in order of length.
    longest = np.array([lengths[batch].max() for batch in batches], dtype=float)
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.2


def test_multiclass_loss_is_cross_entropy() -> None:
    logits, targets = (
        torch.randn(6, 4, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0, 1, 2, 3, 0, 1]),
    )
    expected = -torch.log_softmax(logits, dim=1)[torch.arange(6), targets]
    torch.testing.assert_close(example_losses(logits, targets, "multiclass"), expected)


def test_multilabel_loss_weighs_positives() -> None:
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.5]])
    targets = torch.tensor([[1, 0], [1, 1]], dtype=torch.int8)
    weights = positive_weights(["a", "b"], {"a": 3.0}, "multilabel")
    assert weights is not None
    assert weights.tolist() == [3.0, 1.0]
    probability = torch.sigmoid(logits)
    expected = -(targets * weights * probability.log() + (1 - targets) * (1 - probability).log()).mean(dim=1)
    torch.testing.assert_close(example_losses(logits, targets, "multilabel", 0.0, weights), expected)


def test_label_smoothing_moves_targets_inward() -> None:
    logits, targets = torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 0]])
    smoothed = functional.binary_cross_entropy_with_logits(logits, torch.tensor([[0.9, 0.1]]))
    torch.testing.assert_close(example_losses(logits, targets, "multilabel", 0.2)[0], smoothed)
    assert positive_weights(["a"], {"a": 2.0}, "multiclass") is None


def test_factors_join_row_and_class_weights_with_mean_one() -> None:
    rows, targets = np.array([1.0, 1.0, 2.0]), np.array([0, 1, 1])
    factors = example_factors(rows, targets, ["a", "b"], {"a": 4.0, "b": 1.0}, "multiclass")
    assert factors.mean() == pytest.approx(1)
    np.testing.assert_allclose(factors / factors[1], [4, 1, 2], rtol=1e-6)
    np.testing.assert_allclose(example_factors(rows, targets, ["a", "b"], None, "multiclass"), rows * 0.75)


@given(st.integers(1, 500), st.floats(0, 0.99))
def test_schedule_rises_to_the_top_and_falls_but_never_to_nothing(total: int, warmup: float) -> None:
    shares = [schedule(update, total, warmup) for update in range(total)]
    assert all(0 < share <= 1 for share in shares)
    top = shares.index(max(shares))
    assert shares[: top + 1] == sorted(shares[: top + 1])
    assert shares[top:] == sorted(shares[top:], reverse=True)
    assert top <= round(warmup * total)


def test_decisions() -> None:
    logits = torch.tensor([[0.2, -0.1, 0.3], [-1.0, -2.0, -3.0]])
    assert answers(logits, "multiclass").tolist() == [2, 0]
    np.testing.assert_allclose(answers(logits, "multilabel").numpy(), 1 / (1 + np.exp(-logits.numpy())), 1e-6)


def test_macro_f1_of_rare_labels_is_taken_where_they_are_told_apart_best() -> None:
    targets = np.zeros((50, 2), dtype=np.int8)
    targets[:6, 0] = targets[6:20, 1] = 1
    low = np.where(targets, 0.3, 0.1).astype(np.float32)  # told apart, and never above 0.5
    assert macro_f1(targets, low, ("a", "b"), "multilabel") == 1.0
    assert macro_f1(np.array([0, 1, 1]), np.array([0, 1, 0]), ("a", "b"), "multiclass") == pytest.approx(
        2 / 3
    )


def test_rates_and_decay_of_parameter_groups(tmp_path: Path) -> None:
    folder = build_tiny_backbone(tmp_path / "b")
    model = TextClassifier(load_pretrained(folder), 3, head=[8])
    params = TrainParams(learning_rate=1e-4, head_learning_rate=1e-2, weight_decay=0.05)
    groups = parameter_groups(model, params)
    assert [(group["peak"], group["weight_decay"]) for group in groups] == [
        (1e-4, 0.05),
        (1e-4, 0.0),
        (1e-2, 0.05),
        (1e-2, 0.0),
    ]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert all(weight.ndim >= 2 for group in groups[::2] for weight in group["params"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pooling": "average"}, r"train\.pooling"),
        ({"head": [0]}, r"train\.head\.0"),
        ({"epochs": 0}, r"train\.epochs"),
        ({"lerning_rate": 1e-4}, r"train\.lerning_rate: unknown parameter; did you mean 'learning_rate'"),
    ],
)
def test_wrong_parameters_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainParams.parse(values)
