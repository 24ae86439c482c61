"""One update: what adds up, is frozen, averaged, cut in half; and training on unusual settings and data."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from test_training import Killed, assert_same_classifier, change_column, kill_after, params_for, run
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, kl_divergence

from afina.errors import UserError
from afina.labels import LabelSet, Task
from afina.modeling.backbone import load_tokenizer
from afina.modeling.classifier import TextClassifier, load_pretrained
from afina.modeling.inference import out_of_memory
from afina.params.train import TrainParams
from afina.runtime.encoding import Encoder
from afina.training import checkpoint, loop
from afina.training import weights as training_weights
from afina.training.batches import epoch_batches
from afina.training.checkpoint import CHECKPOINT
from afina.training.engine import (
    POOL_UPDATES,
    Engine,
    Examples,
    NotFiniteError,
    average_keeps,
    divergence,
    freeze,
    layer_factor,
    layer_of,
    slots,
)
from afina.training.forward import PackedForward, PaddedForward, choose_forward
from afina.training.loss import build_objective
from afina.training.sampling import epoch_rows
from afina.training.weights import FlatWeights
from tiny import LABELS, Architecture, build_tiny_backbone, tiny_messages

CPU = torch.device("cpu")
CALM: dict[str, Any] = {"dropout": 0.0, "backbone_dropout": 0.0}
DEPTH = 2  # layers of a tiny backbone


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Architecture], Path]:
    """Tiny backbones, built once."""
    folder = tmp_path_factory.mktemp("backbones")
    built: dict[str, Path] = {}

    def backbone(architecture: Architecture) -> Path:
        if architecture not in built:
            built[architecture] = build_tiny_backbone(folder / architecture, architecture)
        return built[architecture]

    return backbone


@pytest.fixture(scope="module")
def bert(backbones: Callable[[Architecture], Path]) -> Path:
    return backbones("bert")


def make_examples(folder: Path, task: Task = "multiclass", rows: int = 24) -> Examples:
    tokenizer_json, pad_token_id = load_tokenizer(folder)
    encoder = Encoder(tokenizer_json, 32, pad_token_id)
    table = tiny_messages(task, rows)
    weights = np.random.default_rng(0).random(rows) + 0.5
    place = table.column_names.index("weight")
    table = table.set_column(place, table.schema.field(place), pa.array(weights))
    return loop._encode("train", table, LabelSet(task, LABELS, cleaning={}), encoder)


def make_engine(
    folder: Path, task: Task = "multiclass", updates: int = 8, loss: Any = None, **changes: Any
) -> Engine:
    params = params_for(folder, **(CALM | changes))
    torch.manual_seed(3)
    backbone = load_pretrained(folder, "eager", params.backbone_dropout)
    model = TextClassifier(backbone, len(LABELS), params.pooling, params.head, dropout=params.dropout)
    freeze(model, params.freeze)
    forward = choose_forward(model, params.precision, CPU, 32, params.gradient_checkpointing)
    objective = build_objective(params, LABELS, task, np.array([8, 8, 8]), 24, None)
    shares = np.linspace(1, 0.2, updates)
    made = Engine(model, forward, params, task, shares, loss or objective, seed=5)
    forward.train(True)
    return made


def weights_of(made: Engine, updates: int) -> dict[str, Tensor]:
    """A copy of the weights as they are after so many updates."""
    with made.finished(updates):
        return {name: tensor.clone() for name, tensor in made.model.state_dict().items()}


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], atol=tolerance, rtol=0, msg=name)


@pytest.fixture
def even(monkeypatch: pytest.MonkeyPatch) -> float:
    """A larger epsilon of AdamW: with 1e-8 a gradient that is zero but for rounding moves its weight.

    With 1e-3 the head's rate of 1e-2 makes of an error e of the gradient at most 10 e an update; gradients
    here are about 7e-3, so that they still move the weights by most of the rate.
    """
    epsilon = 1e-3
    monkeypatch.setattr(training_weights, "EPSILON", epsilon)
    return epsilon


def parts(*sizes: int) -> list[npt.NDArray[np.int64]]:
    """Consecutive batches of given sizes."""
    return list(np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1]))


# ---------------------------------------------------------------------------------------------- adding up


@pytest.mark.usefixtures("even")
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_two_batches_are_one_batch_of_both(
    architecture: Architecture, task: Task, backbones: Callable[[Architecture], Path]
) -> None:
    folder = backbones(architecture)
    examples = make_examples(folder, task)
    apart, together = make_engine(folder, task), make_engine(folder, task)
    for number in range(4):
        group = parts(5, 11, 3)  # of unequal sizes
        one = apart.update(examples, group, number)
        other = together.update(examples, [np.concatenate(group)], number)
        assert one.rows.tolist() == other.rows.tolist() == list(range(19))
        torch.testing.assert_close(one.logits, other.logits, atol=1e-5, rtol=0)
        assert one.loss_sum == pytest.approx(other.loss_sum, rel=1e-5)
        assert one.weight_sum == pytest.approx(float(examples.weights[:19].sum()), rel=1e-6)
    assert_close(weights_of(apart, 4), weights_of(together, 4))


def test_an_update_by_hand(bert: Path, even: float) -> None:
    """Autograd through transformers, torch's clipping and AdamW, against three updates of the engine."""
    examples = make_examples(bert)
    made = make_engine(bert, learning_rate=1e-3, weight_decay=0.1, max_grad_norm=0.3, layer_decay=0.5)
    reference = make_engine(bert, layer_decay=0.5).model
    assert isinstance(made.forward, PackedForward)
    groups = []
    for name, weight in reference.named_parameters():
        head = name.startswith("head.")
        inner = name.removeprefix("backbone.")
        rate = 1e-2 if head else 1e-3 * layer_factor(inner, reference, 0.5)
        groups.append({"params": [weight], "peak": rate, "weight_decay": 0.1 if weight.ndim > 1 else 0.0})
    optimizer = torch.optim.AdamW(groups, lr=1.0, eps=even)
    rows = np.arange(10)
    norms = []
    for number in range(3):
        made.update(examples, [rows], number)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * float(made.shares[number])
        optimizer.zero_grad()
        losses = []
        for row in rows:
            ids = torch.from_numpy(examples.tokens[row])[None]
            logits = reference.eval()(ids, torch.ones_like(ids))
            target = torch.tensor([int(examples.targets[row])])
            loss = torch.nn.functional.cross_entropy(logits, target)
            losses.append(loss * float(examples.weights[row]))
        torch.stack(losses).sum().div(len(rows)).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.3)))
        optimizer.step()
    assert max(norms) > 0.3
    assert_close(weights_of(made, 3), dict(reference.state_dict()), 5e-6)


def test_a_gradient_that_is_no_number_leaves_the_weights_alone(bert: Path) -> None:
    examples, made = make_examples(bert), make_engine(bert)
    made.update(examples, parts(8), 0)
    before = weights_of(made, 1)

    class Poison(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, given: Tensor) -> Tensor:
            return given.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return gradients[0] * float("inf")

    original = made.loss
    made.loss = lambda logits, targets, progress: Poison.apply(original(logits, targets, progress))
    with pytest.raises(NotFiniteError, match="gradient") as caught:
        made.update(examples, parts(3, 4), 1)
    assert caught.value.rows.tolist() == list(range(7))
    made.loss = lambda logits, targets, progress: original(logits, targets, progress) / 0
    with pytest.raises(NotFiniteError, match="loss") as caught:
        made.update(examples, parts(3, 4), 1)
    assert caught.value.rows.tolist() == [0, 1, 2]
    made.loss = lambda logits, *others: original(logits, *others) / (torch.arange(len(logits)) != 1)
    with pytest.raises(NotFiniteError, match="loss") as caught:
        made.update(examples, parts(3, 4), 1)
    assert caught.value.rows.tolist() == [1, 0, 2]  # the one to blame first
    assert_close(weights_of(made, 1), before, 0)
    # Nothing of it is left behind.
    made.loss = original
    made.update(examples, parts(8), 1)
    twice = make_engine(bert)
    for number in range(2):
        twice.update(examples, parts(8), number)
    assert_close(weights_of(made, 2), weights_of(twice, 2), 1e-6)


# ------------------------------------------------------------------------------------------- out of memory

MEMORY_ERRORS = (
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
    ),
    lambda: RuntimeError("could not create a primitive"),
    lambda: RuntimeError(
        "unable to mmap 91 bytes from file <best-1.safetensors>: Cannot allocate memory (12)"
    ),
    MemoryError,
)


def texts_in(batch: Any) -> int:
    return int(batch.mask.shape[0])


def limit_memory(
    monkeypatch: pytest.MonkeyPatch, most: int, error: Callable[[], Exception] = MEMORY_ERRORS[0]
) -> None:
    """Let no more than ``most`` texts fit."""
    for kind in (PackedForward, PaddedForward):
        original = kind.logits

        def logits(self: Any, embedded: Tensor, batch: Any, original: Any = original) -> Tensor:
            if texts_in(batch) > most and embedded.requires_grad:
                raise error()
            result: Tensor = original(self, embedded, batch)
            return result

        monkeypatch.setattr(kind, "logits", logits)


@pytest.mark.usefixtures("even")
@pytest.mark.parametrize("error", MEMORY_ERRORS)
def test_a_batch_that_does_not_fit_is_cut(
    error: Callable[[], Exception], bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = make_examples(bert)
    groups = [parts(8), parts(5, 8), parts(1), parts(8)]
    whole, cut = make_engine(bert), make_engine(bert)
    expected = [whole.update(examples, group, number) for number, group in enumerate(groups)]
    limit_memory(monkeypatch, 3, error)
    for number, group in enumerate(groups):
        updated = cut.update(examples, group, number)
        assert updated.rows.tolist() == expected[number].rows.tolist()
        assert updated.loss_sum == pytest.approx(expected[number].loss_sum, rel=1e-5)
        torch.testing.assert_close(updated.logits, expected[number].logits, atol=1e-5, rtol=0)
        assert cut.split == 4
    assert_close(weights_of(cut, 4), weights_of(whole, 4))


@pytest.mark.usefixtures("even")
def test_what_had_been_computed_before_memory_ran_out_is_dropped(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples, whole, cut = make_examples(bert), make_engine(bert), make_engine(bert)
    original, calls = PackedForward.logits, 0

    def logits(self: PackedForward, embedded: Tensor, batch: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:  # after the gradient of a first batch
            raise torch.OutOfMemoryError("out of memory")
        return original(self, embedded, batch)

    whole.update(examples, parts(6, 7), 0)
    with monkeypatch.context() as patch:
        patch.setattr(PackedForward, "logits", logits)
        updated = cut.update(examples, parts(6, 7), 0)
    assert calls == 2 + 4
    assert updated.rows.tolist() == list(range(13))
    assert_close(weights_of(cut, 1), weights_of(whole, 1))


def test_other_errors_are_not_taken_for_a_lack_of_memory(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_memory(monkeypatch, 0, lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        make_engine(bert).update(make_examples(bert), parts(8), 0)
    assert not out_of_memory(ValueError("no memory of that"))
    assert out_of_memory(RuntimeError("std::bad_alloc"))


@pytest.mark.parametrize("largest", [1, 5, 8])
def test_an_example_that_does_not_fit(largest: int, bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_memory(monkeypatch, 0)
    with pytest.raises(UserError, match=r"single example does not fit.*train\.max_length") as caught:
        make_engine(bert).update(make_examples(bert), parts(largest), 0)
    assert "\n" not in str(caught.value)


def test_a_run_in_little_memory(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params = params_for(bert, checkpoint_seconds=60, **CALM)
    whole = run(tmp_path / "whole", params)
    assert "memory" not in capsys.readouterr().err
    limit_memory(monkeypatch, 3)
    cut = run(tmp_path / "cut", params)
    lines = [line for line in capsys.readouterr().err.splitlines() if "memory" in line]
    assert lines == [
        "train: a batch does not fit in the memory; going on with batches in 4 parts, whose gradients add up "
        "to the same"
    ]
    for one, other in zip(whole.history, cut.history, strict=True):
        assert vars(one) == pytest.approx(vars(other), abs=1e-3)
    limit_memory(monkeypatch, 0)
    with pytest.raises(UserError, match="single example does not fit"):
        run(tmp_path / "none", params)


def test_what_cannot_be_halved_and_does_not_fit_is_one_line(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise MEMORY_ERRORS[1]()

    params = params_for(bert, checkpoint_seconds=60, **CALM)
    with monkeypatch.context() as patch:
        patch.setattr(FlatWeights, "step", full)
        with pytest.raises(UserError, match=r"optimizer's state does not fit.*train\.lora_rank"):
            run(tmp_path / "step", params)
    monkeypatch.setattr(Engine, "logits", full)
    with pytest.raises(UserError, match=r"validation texts does not fit.*train\.max_length"):
        run(tmp_path / "validation", params)


@pytest.mark.parametrize("updates", [4, 5, 9])  # within the epoch, at its end, in the next one
def test_killed_after_a_batch_did_not_fit_and_run_again_equals_never_killed(
    updates: int, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Engine._part

    def part(self: Engine, examples: Examples, rows: Any, *arguments: Any) -> Any:
        if arguments[-1] == 2 and len(rows) > 2:  # in the third update alone
            raise MemoryError
        return original(self, examples, rows, *arguments)

    monkeypatch.setattr(Engine, "_part", part)
    whole = run(tmp_path / "whole", params_for(bert))
    restore = kill_after(monkeypatch, updates)
    with pytest.raises(Killed):
        run(tmp_path / "parts", params_for(bert))
    restore()
    assert run(tmp_path / "parts", params_for(bert)).history == whole.history
    assert_same_classifier(tmp_path / "whole", tmp_path / "parts")


def test_an_engines_state_without_the_number_of_parts(bert: Path) -> None:
    made = make_engine(bert)
    made.split = 4
    state = made.state()
    made.split = 1
    made.load_state(state)
    assert made.split == 4
    del state["split"]  # as an engine of before left it
    made.load_state(state)
    assert made.split == 1


# ------------------------------------------------------------------------------- what is trained, how fast


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("embeddings.word_embeddings.weight", -1),
        ("embeddings.LayerNorm.bias", -1),
        ("embeddings.tok_embeddings.weight", -1),
        ("encoder.layer.0.attention.self.query.weight", 0),
        ("encoder.layer.11.output.dense.bias", 11),
        ("transformer.layer.5.ffn.lin1.weight", 5),
        ("layers.21.mlp.Wi.weight", 21),
        ("final_norm.weight", None),
    ],
)
def test_the_layer_of_a_parameter(name: str, layer: int | None) -> None:
    assert layer_of(name) == layer


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "modernbert"])
def test_learning_rates_fall_from_layer_to_layer(
    architecture: Architecture, backbones: Callable[[Architecture], Path]
) -> None:
    made = make_engine(
        backbones(architecture), layer_decay=0.5, learning_rate=8e-4, head_learning_rate=0.3, head=[4]
    )
    names = {id(weight): name for name, weight in made.model.named_parameters()}
    rates: dict[str, set[float]] = {}
    for slot in slots(made.model, made.forward, made.params):
        for source in slot.sources:
            name = names[id(source)]
            kind = next(part for part in ("head", "embeddings", "0.", "1.", "final_norm") if part in name)
            kind = "head" if name.startswith("head.") else kind
            rates.setdefault(kind, set()).add(slot.peak)
    expected = {"head": {0.3}, "1.": {8e-4}, "0.": {4e-4}, "embeddings": {2e-4}}
    if architecture == "modernbert":
        expected["final_norm"] = {8e-4}
    assert rates == expected
    assert made.rows is not None
    np.testing.assert_allclose(made.rows.rates, made.shares * 2e-4)


FROZEN: dict[Any, tuple[str, ...]] = {
    "none": (),
    "embeddings": ("embeddings",),
    1: ("embeddings", "0."),
    2: ("embeddings", "0.", "1."),
    "all": ("embeddings", "0.", "1.", "final_norm"),
}


@pytest.mark.parametrize("what", FROZEN)
@pytest.mark.parametrize("architecture", ["bert", "distilbert", "modernbert"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_frozen_parts_stay_and_the_others_learn(
    checkpointing: bool,
    what: str | int,
    architecture: Architecture,
    backbones: Callable[[Architecture], Path],
) -> None:
    folder = backbones(architecture)
    examples = make_examples(folder)
    made = make_engine(
        folder,
        freeze=what,
        weight_decay=0.1,
        ema=0.5,
        layer_decay=0.9,
        gradient_checkpointing=checkpointing,
    )
    before = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    for number in range(3):
        made.update(examples, parts(24), number)
    after = weights_of(made, 3)
    assert (made.rows is None) == (what != "none")
    for name, tensor in before.items():
        frozen = name.startswith("backbone.") and any(part in name for part in FROZEN[what])
        # The gradient of a key's bias is nothing but rounding.
        if not name.endswith(("key.bias", "k_lin.bias")):
            assert torch.equal(after[name], tensor) == frozen, name
    with torch.no_grad():
        tokens = torch.from_numpy(examples.tokens[0])[None]
        expected = made.model.eval()(tokens, torch.ones_like(tokens)).numpy()
    np.testing.assert_allclose(made.logits(examples.tokens[:1]), expected, atol=1e-5)


def test_freezing_more_layers_than_there_are(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.freeze: 3 layers, but the backbone has 2; use all"):
        run(tmp_path, params_for(bert, freeze=3))


@pytest.mark.parametrize("frozen", ["none", "embeddings"])
@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_gradient_checkpointing_changes_the_memory_alone(
    architecture: Architecture, frozen: str, backbones: Callable[[Architecture], Path], tmp_path: Path
) -> None:
    settings = {**CALM, "epochs": 2, "freeze": frozen, "checkpoint_seconds": 60}
    histories = [
        run(
            tmp_path / str(on), params_for(backbones(architecture), gradient_checkpointing=on, **settings)
        ).history
        for on in (False, True)
    ]
    assert histories[0] == histories[1]


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_gradient_checkpointing_keeps_less(
    architecture: Architecture, backbones: Callable[[Architecture], Path]
) -> None:
    folder = backbones(architecture)
    examples = make_examples(folder)

    def kept(on: bool) -> int:
        """Bytes that a forward pass keeps for the way back, the weights left out."""
        made = make_engine(folder, gradient_checkpointing=on)
        weights = {weight.untyped_storage().data_ptr() for weight in made.model.parameters()}
        weights |= {made.flat.values.untyped_storage().data_ptr()}
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            made.update(examples, parts(12), 0)
        return sum(sizes.values())

    assert kept(True) < 0.6 * kept(False)


# -------------------------------------------------------------------------------------------------- r-drop


def test_divergence_of_two_passes_against_torch() -> None:
    random = torch.Generator().manual_seed(0)
    one, other = (torch.randn((50, 4), generator=random, dtype=torch.float64) * 3 for _ in range(2))
    p, q = Categorical(logits=one), Categorical(logits=other)
    expected = (kl_divergence(p, q) + kl_divergence(q, p)) / 4
    torch.testing.assert_close(divergence(one, other, "multiclass"), expected)
    torch.testing.assert_close(
        divergence(one.float(), other.float(), "multiclass").double(), expected, atol=1e-4, rtol=1e-4
    )
    yes, no = Bernoulli(logits=one), Bernoulli(logits=other)
    expected = (kl_divergence(yes, no) + kl_divergence(no, yes)).mean(dim=1) / 4
    torch.testing.assert_close(divergence(one, other, "multilabel"), expected)
    assert not divergence(one, one, "multiclass").any()
    assert not divergence(one, one, "multilabel").any()


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_r_drop_takes_the_mean_loss_of_two_passes_and_their_divergence(
    task: Task, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples, made = make_examples(bert, task), make_engine(bert, task, dropout=0.1, r_drop=2.5)
    passes = [torch.randn((6, 3), requires_grad=True) for _ in range(2)]
    waiting = iter(passes)
    monkeypatch.setattr(PackedForward, "logits", lambda *_: next(waiting))
    updated = made.update(examples, parts(6), 0)
    assert torch.equal(updated.logits, passes[0].detach())
    targets, weights = torch.from_numpy(examples.targets[:6]), torch.from_numpy(examples.weights[:6])
    first, second = (made.loss(logits.detach(), targets, 0.0) for logits in passes)
    apart = divergence(passes[0].detach(), passes[1].detach(), task)
    expected = ((first + second) / 2 + 2.5 * apart) * weights
    assert updated.loss_sum == pytest.approx(float(expected.sum()), rel=1e-5)
    assert all(logits.grad is not None and logits.grad.abs().sum() > 0 for logits in passes)


def test_r_drop_without_any_dropout_is_a_mistake() -> None:
    none: dict[str, Any] = {"dropout": 0, "backbone_dropout": 0}
    with pytest.raises(UserError, match=r"train\.r_drop: .*the two passes are the same"):
        TrainParams.parse(none | {"r_drop": 1})
    with pytest.raises(UserError, match=r"the two passes are the same"):
        TrainParams.parse(none | {"r_drop": 1, "lora_dropout": 0.1})  # of adapters that are not there
    adapted = {"lora_rank": 4, "lora_dropout": 0.1}
    for some in ({"dropout": 0.1}, {"backbone_dropout": None}, adapted, {"r_drop": 0}):
        TrainParams.parse(none | {"r_drop": 1} | some)


def test_r_drop_with_a_backbone_that_has_no_dropout_of_its_own(
    backbones: Callable[[Architecture], Path], tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"dropout": 0.0, "backbone_dropout": None, "r_drop": 1.0, "epochs": 1}
    with pytest.raises(UserError, match=r"^train\.r_drop: this backbone has no dropout of its own"):
        run(tmp_path / "a", params_for(backbones("modernbert"), **changes))
    run(tmp_path / "b", params_for(backbones("bert"), **changes))  # which has


def test_r_drop_moves_the_weights(bert: Path) -> None:
    examples = make_examples(bert)
    noisy = [make_engine(bert, dropout=0.5, backbone_dropout=0.1, r_drop=weight) for weight in (0.0, 4.0)]
    for made in noisy:
        for number in range(3):
            made.update(examples, parts(12), number)
    head = [weights_of(made, 3)["head.1.weight"] for made in noisy]
    assert (head[0] - head[1]).abs().max() > 1e-4


# ------------------------------------------------------------------------------------- average of the weights


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_the_average_of_the_weights_by_hand(
    architecture: Architecture, backbones: Callable[[Architecture], Path]
) -> None:
    folder = backbones(architecture)
    examples = make_examples(folder)
    averaged, plain = (make_engine(folder, updates=12, ema=decay) for decay in (0.7, None))
    average = weights_of(plain, 0)
    random = np.random.default_rng(0)
    for number in range(12):
        rows = random.choice(24, 4, replace=False)  # tokens come and go
        averaged.update(examples, [rows], number)
        plain.update(examples, [rows], number)
        keep = min(0.7, (1 + number) / (10 + number))
        for name, tensor in weights_of(plain, number + 1).items():
            average[name] = keep * average[name] + (1 - keep) * tensor
    assert average_keeps(0.7, 12).tolist() == [min(0.7, (1 + n) / (10 + n)) for n in range(12)]
    assert_close(weights_of(averaged, 12), average, 1e-5)
    # The weights that training goes on with are the others.
    assert_close(dict(averaged.model.state_dict()), weights_of(plain, 12), 1e-5)
    table = "backbone.embeddings.word_embeddings.weight"
    table = table if table in average else "backbone.embeddings.tok_embeddings.weight"
    assert (average[table] - weights_of(plain, 12)[table]).abs().max() > 3e-4


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_looking_at_the_average_does_not_change_training(precision: str, bert: Path) -> None:
    examples = make_examples(bert)
    settings = {"precision": precision, "ema": 0.9, "dropout": 0.1, "backbone_dropout": None}
    watched, alone = make_engine(bert, **settings), make_engine(bert, **settings)
    for number in range(4):
        watched.update(examples, parts(8), number)
        alone.update(examples, parts(8), number)
        before = {name: tensor.clone() for name, tensor in watched.model.state_dict().items()}
        for made in (watched, alone):
            assert made.rows is not None
            made.rows.flush(number + 1)
        with watched.finished(number + 1):
            inside = watched.logits(examples.tokens[:3])
        assert np.isfinite(inside).all()
        after = watched.model.state_dict()
        trained = [name for name in before if "word_embeddings" not in name]
        assert all(torch.equal(before[name], after[name]) for name in trained)
    assert_close(dict(watched.model.state_dict()), dict(alone.model.state_dict()), 0)
    for name, tensor in watched.state().items():
        assert torch.equal(tensor, alone.state()[name]), name


def test_the_saved_classifier_holds_the_average(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    average: dict[str, Tensor] = {}

    class Watched(Engine):
        def update(self, examples: Examples, batches: Sequence[Any], number: int) -> Any:
            if not average:
                average.update({name: tensor.clone() for name, tensor in self.model.state_dict().items()})
            updated = super().update(examples, batches, number)
            assert self.rows is not None
            self.rows.flush(number + 1)
            keep = min(0.9, (1 + number) / (10 + number))
            for name, tensor in self.model.state_dict().items():
                average[name] = keep * average[name] + (1 - keep) * tensor
            return updated

    monkeypatch.setattr(loop, "Engine", Watched)
    params = params_for(bert, epochs=2, ema=0.9, checkpoint_seconds=60)
    scores = iter([loop._Scores(1.0, 0.1), loop._Scores(1.0, 0.2)])
    monkeypatch.setattr(loop, "_validate", lambda *_: next(scores))
    assert run(tmp_path, params).best_epoch == 2
    saved = load_file(tmp_path / "classifier" / "model.safetensors")
    assert_close(saved, average, 1e-5)


def test_the_state_of_an_engine_there_and_back(bert: Path) -> None:
    examples = make_examples(bert)
    settings = {"ema": 0.9, "dropout": 0.2, "backbone_dropout": 0.1, "precision": "bf16", "r_drop": 0.5}
    whole, first, second = (make_engine(bert, **settings) for _ in range(3))
    for number in range(6):
        whole.update(examples, parts(8, 5), number)
    for number in range(3):
        first.update(examples, parts(8, 5), number)
    weights = {name: tensor.clone() for name, tensor in first.model.state_dict().items()}
    second.model.load_state_dict(weights)
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    for number in range(3, 6):
        second.update(examples, parts(8, 5), number)
    assert_close(weights_of(second, 6), weights_of(whole, 6), 0)
    assert second.state().keys() == whole.state().keys()
    for name, tensor in whole.state().items():
        assert torch.equal(second.state()[name], tensor), name


# ------------------------------------------------------------------------------------ losses and samplers

EVERY: list[tuple[str, Task]] = [
    *(
        (loss, "multiclass")
        for loss in ("cross_entropy", "focal", "class_balanced", "logit_adjusted", "ldam")
    ),
    *(
        (loss, "multilabel")
        for loss in (
            "cross_entropy",
            "focal",
            "class_balanced",
            "logit_adjusted",
            "asymmetric",
            "distribution_balanced",
        )
    ),
]
SAMPLERS = ("shuffle", "square_root", "class_balanced", "progressive")


def imbalanced(task: Task = "multiclass", rows: int = 40) -> pa.Table:
    """Toy messages, few of them of the last label, and those not more alike than before."""
    table = tiny_messages(task, rows)
    labels = table["labels"].to_pylist()
    kept = [number for number, chosen in enumerate(labels) if "pagos" not in chosen or number < 9]
    return table.take(pa.array(kept))


@pytest.mark.parametrize(("place", "loss", "task"), [(place, *pair) for place, pair in enumerate(EVERY)])
def test_every_loss_trains_with_samplers(
    place: int, loss: str, task: Task, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = SAMPLERS[place % len(SAMPLERS)]
    table, seen = imbalanced(task), []
    original = Engine.update

    def update(self: Engine, *arguments: Any) -> Any:
        updated = original(self, *arguments)
        seen.extend(updated.rows.tolist())
        return updated

    monkeypatch.setattr(Engine, "update", update)
    params = params_for(bert, loss=loss, sampler=sampler, epochs=1, checkpoint_seconds=60)
    result = run(tmp_path, params, task, table=table)
    assert all(np.isfinite(value) for value in vars(result.history[0]).values())
    targets = loop.encode_labels(table["labels"], LABELS, task)
    expected = epoch_rows(sampler, targets, task, 7, 0, 1)  # type: ignore[arg-type]
    assert sorted(seen) == expected.tolist()
    assert (tmp_path / "classifier" / "model.safetensors").exists()


@pytest.mark.parametrize("updates", [3, 8, 11])
def test_resumed_bit_for_bit_with_everything_that_a_run_may_depend_on(
    updates: int, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "sampler": "progressive",
        "loss": "ldam",
        "reweight_after": 0.5,  # from the eighth update of 15 on
        "ema": 0.9,
        "r_drop": 0.5,
        "layer_decay": 0.9,
        "gradient_checkpointing": True,
        "precision": "bf16",
        "max_grad_norm": 0.5,
    }
    params, weights = params_for(bert, **settings), {"agua": 1.0, "luz": 1.0, "pagos": 3.0}
    table = imbalanced(rows=54)
    assert len(epoch_batches([1] * table.num_rows, 8, 0, 0)) == 5
    whole = run(tmp_path / "whole", params, table=table, class_weights=weights)
    restore = kill_after(monkeypatch, updates)
    with pytest.raises(Killed):
        run(tmp_path / "parts", params, table=table, class_weights=weights)
    restore()
    resumed = run(tmp_path / "parts", params, table=table, class_weights=weights)
    assert resumed.history == whole.history
    assert_same_classifier(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("frozen", ["embeddings", "all"])
def test_resumed_bit_for_bit_with_frozen_parts(
    frozen: str, backbones: Callable[[Architecture], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = params_for(backbones("distilbert"), freeze=frozen, ema=0.8, precision="bf16", epochs=2)
    whole = run(tmp_path / "whole", params, "multilabel")
    restore = kill_after(monkeypatch, 7)
    with pytest.raises(Killed):
        run(tmp_path / "parts", params, "multilabel")
    restore()
    assert run(tmp_path / "parts", params, "multilabel").history == whole.history
    assert_same_classifier(tmp_path / "whole", tmp_path / "parts")


def test_dropout_is_drawn_anew_every_few_updates(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pools: list[int] = []
    monkeypatch.setattr(PackedForward, "refresh_dropout", lambda _, seed: pools.append(seed))
    examples, made = make_examples(bert), make_engine(bert, updates=40)
    for number in (0, POOL_UPDATES - 1, POOL_UPDATES, 2 * POOL_UPDATES - 1, 2 * POOL_UPDATES):
        made.update(examples, parts(2), number)
    assert [pools.index(seed) for seed in pools] == [0, 0, 2, 2, 4]
    made.rank = 1  # another process
    made.update(examples, parts(2), 39)
    assert pools[-1] not in pools[:-1]


def test_the_loss_is_told_how_far_training_is(bert: Path) -> None:
    seen: list[float] = []
    made = make_engine(
        bert, updates=4, loss=lambda logits, targets, progress: seen.append(progress) or logits.sum(dim=1)
    )
    for number in range(4):
        made.update(make_examples(bert), parts(3), number)
    assert seen == [0.0, 0.25, 0.5, 0.75]


# ------------------------------------------------------------------------------------------ unusual data

LOSSES_OF: dict[Task, tuple[str, ...]] = {
    task: tuple(loss for loss, of in EVERY if of == task) for task in ("multiclass", "multilabel")
}


def assert_sound(result: loop.TrainingResult, folder: Path) -> None:
    for record in result.history:
        assert all(np.isfinite(value) for value in vars(record).values())
    weights = load_file(folder / "classifier" / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


@pytest.mark.parametrize("sampler", ["shuffle", "class_balanced"])
@pytest.mark.parametrize(("loss", "task"), EVERY)
def test_a_class_with_one_example(loss: str, task: Task, sampler: str, bert: Path, tmp_path: Path) -> None:
    table = tiny_messages(n=40)
    others = [["agua"], ["luz"], ["agua", "luz"] if task == "multilabel" else ["agua"]]
    single = [["pagos"] if number == 2 else others[number % 3] for number in range(40)]
    params = params_for(bert, loss=loss, sampler=sampler, epochs=2)
    result = run(tmp_path, params, task, table=change_column(table, "labels", single))
    assert_sound(result, tmp_path)


@pytest.mark.parametrize(("loss", "task"), EVERY)
def test_a_label_that_only_validation_has(loss: str, task: Task, bert: Path, tmp_path: Path) -> None:
    table = tiny_messages(task, 40)
    without = [[label for label in chosen if label != "pagos"] for chosen in table["labels"].to_pylist()]
    if task == "multiclass":
        without = [chosen or ["agua"] for chosen in without]
    result = run(
        tmp_path,
        params_for(bert, loss=loss, sampler="class_balanced", epochs=2, checkpoint_seconds=60),
        task,
        table=change_column(table, "labels", without),
        class_weights={"agua": 1.0, "luz": 2.0} if loss == "cross_entropy" else None,
    )
    assert_sound(result, tmp_path)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_texts_of_special_tokens_alone(
    architecture: Architecture, pooling: str, backbones: Callable[[Architecture], Path], tmp_path: Path
) -> None:
    table = tiny_messages(n=40)
    texts = ["" if number < 30 else text for number, text in enumerate(table["text"].to_pylist())]
    # Most batches hold no other.
    params = params_for(backbones(architecture), pooling=pooling, epochs=1, batch_size=5)
    result = run(tmp_path, params, table=change_column(table, "text", texts))
    assert_sound(result, tmp_path)


@pytest.mark.parametrize("pooling", ["cls", "max"])
def test_a_tokenizer_without_special_tokens_is_for_mean_pooling(
    pooling: str, bert: Path, tmp_path: Path
) -> None:
    plain = shutil.copytree(bert, tmp_path / "plain")
    content = json.loads((plain / "tokenizer.json").read_text(encoding="utf-8")) | {"post_processor": None}
    (plain / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match=f"train.pooling: {pooling} needs a token in every text"):
        run(tmp_path / "run", params_for(plain, pooling=pooling, epochs=1))
    assert_sound(run(tmp_path / "run", params_for(plain, epochs=1)), tmp_path / "run")


@pytest.mark.parametrize("unusual", ["one example", "none in train", "empty texts"])
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_unusual_data_beside_a_lexical_model(unusual: str, task: Task, bert: Path, tmp_path: Path) -> None:
    table = tiny_messages(task, 40)
    labels = [["agua"] if number % 2 else ["luz"] for number in range(40)]
    if unusual == "empty texts":
        texts = ["" if number < 30 else text for number, text in enumerate(table["text"].to_pylist())]
        table = change_column(table, "text", texts)
    else:
        if unusual == "one example":
            labels[2] = ["pagos"]
        table = change_column(table, "labels", labels)
    result = run(tmp_path, params_for(bert, lexical=True, epochs=1, batch_size=5), task, table=table)
    assert_sound(result, tmp_path)


def test_texts_without_any_token(bert: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bert, tmp_path / "b"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    table = tiny_messages(n=9)
    texts = [*table["text"].to_pylist()[:8], ""]
    with pytest.raises(UserError, match=r"train: the text of id 'm0-00008' has no token.*post_processor"):
        run(tmp_path, params_for(folder), table=change_column(table, "text", texts))


# ------------------------------------------------------------------------------------------------ full disk


def full_disk(call: Callable[..., Any], after: int, half: bool) -> Callable[..., Any]:
    """``call``, until the disk is full; ``half`` of a file is there by then."""
    count = 0

    def limited(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count <= after:
            return call(*arguments, **options)
        if half:
            Path(arguments[1]).write_bytes(b"half of a file")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return limited


@pytest.mark.parametrize("where", ["save_file", "fsync"])
@pytest.mark.parametrize("after", [0, 3, 6])
def test_a_full_disk_keeps_the_last_checkpoint(
    after: int,
    where: str,
    bert: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    params = params_for(bert)
    whole = run(tmp_path / "whole", params)
    folder = tmp_path / "parts" / "checkpoints"
    with monkeypatch.context() as patch:
        if where == "save_file":
            patch.setattr(checkpoint, "save_file", full_disk(save_file, after, True))
        else:
            patch.setattr(checkpoint.os, "fsync", full_disk(os.fsync, after, False))
        with pytest.raises(UserError, match="No space left on device") as caught:
            run(tmp_path / "parts", params)
    # The sixth file, after five checkpoints, is the best weights of the first epoch.
    assert str(caught.value).startswith(f"{folder / CHECKPOINT}: cannot be written (")
    assert "\n" not in str(caught.value)
    names = {path.name for path in folder.glob("*")}
    assert names == ({0: set(), 3: {CHECKPOINT}, 6: {CHECKPOINT, "best-1.safetensors"}}[after])
    assert not list(folder.glob(".*"))
    capsys.readouterr()
    assert run(tmp_path / "parts", params).history == whole.history
    assert ("resumes" in capsys.readouterr().err) == (after > 0)
    assert_same_classifier(tmp_path / "whole", tmp_path / "parts")


def test_a_full_disk_at_the_best_weights_and_at_the_classifier(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = params_for(bert, checkpoint_seconds=60)
    whole = run(tmp_path / "whole", params)
    folder = tmp_path / "parts"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full_disk(save_file, 0, True))
        with pytest.raises(UserError, match=r"best-1\.safetensors: cannot be written \(.*No space left"):
            run(folder, params)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_classifier", full_disk(lambda *_: None, 0, False))
        with pytest.raises(UserError, match=r"classifier: cannot be written \(No space left"):
            run(folder, params)
    again = run(folder, params)
    assert again.examples_per_second == 0  # nothing was left to train
    assert again.history == whole.history
    assert_same_classifier(tmp_path / "whole", folder)


def test_checkpoints_where_no_folder_can_be(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(UserError, match=r"checkpoint\.safetensors: cannot be written \("):
        run(tmp_path, params_for(bert))
