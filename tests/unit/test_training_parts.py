"""Batches, losses, learning rates and parameters of training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from afina.errors import UserError
from afina.labels import LabelSet
from afina.modeling.backbone import load_tokenizer
from afina.modeling.classifier import TextClassifier, load_pretrained
from afina.params.adapt import AdaptParams
from afina.params.balance import BalanceParams
from afina.params.base import Section
from afina.params.train import TrainParams
from afina.runtime.encoding import Encoder
from afina.training.batches import epoch_batches
from afina.training.engine import slots, update_seed
from afina.training.forward import choose_forward
from afina.training.loop import _encode, answers, label_counts, macro_f1, row_factors
from afina.training.loss import build_objective, example_losses
from afina.training.schedule import schedule
from afina.training.weights import FlatWeights
from tiny import LABELS, Architecture, build_tiny_backbone, tiny_messages

CPU = torch.device("cpu")


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
    objective = build_objective(TrainParams(), ["a", "b"], "multilabel", np.array([2, 1]), 2, {"a": 3.0})
    assert objective.class_weights is not None
    assert objective.class_weights.tolist() == [3.0, 1.0]
    weights, probability = torch.tensor([3.0, 1.0]), torch.sigmoid(logits)
    expected = -(targets * weights * probability.log() + (1 - targets) * (1 - probability).log()).mean(dim=1)
    torch.testing.assert_close(objective(logits, targets, 0.0), expected)


def test_label_smoothing_moves_targets_inward() -> None:
    logits, targets = torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 0]])
    smoothed = functional.binary_cross_entropy_with_logits(logits, torch.tensor([[0.9, 0.1]]))
    torch.testing.assert_close(example_losses(logits, targets, "multilabel", 0.2)[0], smoothed)
    objective = build_objective(
        TrainParams(label_smoothing=0.2), ["a", "b"], "multilabel", np.array([1, 0]), 1, None
    )
    torch.testing.assert_close(objective(logits, targets, 0.0)[0], smoothed)


def test_class_weights_have_a_mean_of_one_over_the_rows() -> None:
    targets = np.array([0, 1, 1])
    objective = build_objective(
        TrainParams(), ["a", "b"], "multiclass", label_counts(targets, 2), 3, {"a": 4.0, "b": 1.0}
    )
    assert objective.class_weights is not None
    torch.testing.assert_close(objective.class_weights, torch.tensor([2.0, 0.5]))
    assert objective.class_weights[torch.from_numpy(targets)].mean() == pytest.approx(1)
    logits = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    plain = functional.cross_entropy(logits, torch.from_numpy(targets), reduction="none")
    torch.testing.assert_close(
        objective(logits, torch.from_numpy(targets), 0.0), plain * torch.tensor([2.0, 0.5, 0.5])
    )


def test_row_weights_have_a_mean_of_one(tmp_path: Path) -> None:
    encoder = Encoder(*_tokenizer(build_tiny_backbone(tmp_path / "b")))
    table = tiny_messages(n=3)
    place = table.column_names.index("weight")
    given_weights = table.set_column(place, table.schema.field(place), [[1.0, 1.0, 4.0]])
    label_set = LabelSet("multiclass", LABELS, cleaning={})
    assert _encode("train", given_weights, label_set, encoder).weights.tolist() == [0.5, 0.5, 2.0]
    without = _encode("train", table.drop_columns(["weight"]), label_set, encoder)
    assert without.weights.tolist() == [1.0, 1.0, 1.0]


def _tokenizer(folder: Path) -> tuple[str, int, int]:
    """Arguments of an encoder."""
    tokenizer_json, pad_token_id = load_tokenizer(folder)
    return tokenizer_json, 32, pad_token_id


def test_label_counts() -> None:
    assert label_counts(np.array([2, 0, 2]), 4).tolist() == [1, 0, 2, 0]
    assert label_counts(np.array([[1, 0], [1, 1], [0, 0]], dtype=np.int8), 2).tolist() == [2, 1]


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


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_rates_and_decay_of_parameter_groups(architecture: Architecture, tmp_path: Path) -> None:
    folder = build_tiny_backbone(tmp_path / "b", architecture)
    model = TextClassifier(load_pretrained(folder), 3, head=[8])
    params = TrainParams(learning_rate=1e-4, head_learning_rate=1e-2, weight_decay=0.05)
    forward = choose_forward(model, "fp32", CPU, 32)
    found = slots(model, forward, params)
    # Every parameter is trained once; the table of word embeddings is not among the slots.
    sources = [source for slot in found for source in slot.sources]
    table = model.backbone.get_input_embeddings().weight
    assert len({id(source) for source in sources}) == len(sources)
    assert {id(source) for source in sources} == {id(weight) for weight in model.parameters()} - {id(table)}
    for slot in found:
        in_head = any(slot.sources[0] is weight for weight in model.head.parameters())
        assert slot.peak == (1e-2 if in_head else 1e-4)
        assert all(slot.weight_decay == (0.05 if source.ndim >= 2 else 0.0) for source in slot.sources)
    flat = FlatWeights(found, CPU)
    groups = flat.optimizer.param_groups
    assert sorted((group["peak"], group["weight_decay"]) for group in groups) == [
        (1e-4, 0.0),
        (1e-4, 0.05),
        (1e-2, 0.0),
        (1e-2, 0.05),
    ]
    total = sum(weight.numel() for weight in model.parameters()) - table.numel()
    assert sum(part.numel() for group in groups for part in group["params"]) == total


def test_new_tokens_have_a_learning_rate_of_their_own(tmp_path: Path) -> None:
    backbone = load_pretrained(build_tiny_backbone(tmp_path / "b"))
    model = TextClassifier(backbone, 3, "mean", [], "gelu", 0.0)
    params = TrainParams(learning_rate=1e-4, new_token_learning_rate=3e-4)
    size = len(backbone.get_input_embeddings().weight)
    factors = row_factors(model, size - 2, params)
    assert factors is not None
    torch.testing.assert_close(factors, torch.tensor([1.0] * (size - 2) + [3.0] * 2))
    assert row_factors(model, None, params) is None
    # The layers' decay is of known tokens alone: of two layers, the embeddings are at 0.5^2 of the rate.
    decayed = row_factors(model, size - 2, params.model_copy(update={"layer_decay": 0.5}))
    assert decayed is not None
    torch.testing.assert_close(decayed * 0.25e-4, torch.tensor([0.25e-4] * (size - 2) + [3e-4] * 2))


def test_updates_have_generators_of_their_own() -> None:
    seeds = {
        update_seed(seed, rank, update, use)
        for seed in (1, 2)
        for rank in (0, 1)
        for update in range(50)
        for use in (0, 1)
    }
    assert len(seeds) == 400
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert np.random.SeedSequence([1, 0, 0, 0]).generate_state(1, np.uint64)[0] in seeds


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pooling": "average"}, r"train\.pooling"),
        ({"head": [0]}, r"train\.head\.0"),
        ({"epochs": 0}, r"train\.epochs"),
        ({"freeze": True}, r"train\.freeze: true and false .*; use all or none, found True$"),
        ({"freeze": False}, r"train\.freeze: true and false .*; use all or none, found False$"),
        ({"freeze": 0}, r"train\.freeze: input should be none, .* from 1 on, found 0$"),
        ({"freeze": "1"}, r"train\.freeze: input should be none, .* from 1 on, found '1'$"),
        ({"freeze": 1.0}, r"train\.freeze: input should be none, .* from 1 on, found 1\.0$"),
        ({"lerning_rate": 1e-4}, r"train\.lerning_rate: unknown parameter; did you mean 'learning_rate'"),
    ],
)
def test_wrong_parameters_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainParams.parse(values)


@pytest.mark.parametrize("section", [TrainParams, BalanceParams, AdaptParams])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_no_number_is_infinite(section: type[Section], value: float) -> None:
    fields = section.model_fields.items()
    numbers = [name for name, field in fields if float in (field.annotation, *get_args(field.annotation))]
    assert len(numbers) >= 4
    for name in numbers:
        with pytest.raises(UserError, match=rf"{section.section_name}\.{name}: input should be"):
            section.parse({name: value})
