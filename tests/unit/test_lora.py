"""LoRA: what is trained, what it computes, and that nothing of it is left in what is saved."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from test_engine import CALM, CPU, assert_close, make_examples, parts, weights_of
from test_training import Killed, assert_same_classifier, kill_after, params_for, run
from tokenizers import Tokenizer
from torch import Tensor, nn

from afina.adaptation.store import Adaptation, save_adapted
from afina.errors import UserError
from afina.labels import LabelSet
from afina.modeling.backbone import load_tokenizer, resolve_backbone
from afina.modeling.classifier import TextClassifier, load_pretrained
from afina.modeling.inference import predict_logits
from afina.modeling.store import load_classifier
from afina.params.train import TrainParams
from afina.training import loop
from afina.training.engine import Engine, Examples, freeze
from afina.training.forward import choose_forward
from afina.training.lora import adapted_layers, add_adapters, merge_adapters, peft_version
from afina.training.loss import build_objective
from tiny import ARCHITECTURES, LABELS, Architecture, build_tiny_backbone, tiny_messages

LORA: dict[str, Any] = {"lora_rank": 4, "learning_rate": 2e-2}


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Architecture], Path]:
    """Tiny backbones, built once."""
    folder = tmp_path_factory.mktemp("backbones")

    def backbone(architecture: Architecture) -> Path:
        path = folder / architecture
        return path if path.is_dir() else build_tiny_backbone(path, architecture)

    return backbone


@pytest.fixture(scope="module")
def bert(backbones: Callable[[Architecture], Path]) -> Path:
    return backbones("bert")


def make_model(params: TrainParams, first_new: int | None = None) -> TextClassifier:
    torch.manual_seed(3)
    backbone = load_pretrained(Path(params.backbone), "eager", params.backbone_dropout)
    model = TextClassifier(backbone, len(LABELS), params.pooling, params.head, dropout=params.dropout)
    freeze(model, params.freeze)
    add_adapters(model, params, first_new)
    return model


def make_engine(folder: Path, first_new: int | None = None, **changes: Any) -> Engine:
    """As `afina.training.loop` makes it, for 8 updates."""
    params = params_for(folder, **(CALM | LORA | changes))
    model = make_model(params, first_new)
    objective = build_objective(params, LABELS, "multiclass", np.array([8, 8, 8]), 24, None)
    made = Engine(
        model,
        choose_forward(model, params.precision, CPU, 32, params.gradient_checkpointing),
        params,
        "multiclass",
        np.linspace(1, 0.2, 8),
        objective,
        seed=5,
        row_factors=loop.row_factors(model, first_new, params),
        first_row=first_new or 0,
    )
    made.forward.train(True)
    return made


def shake(model: TextClassifier) -> None:
    """Give adapters, which start with a product of 0, something to say."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)


def ids_and_mask() -> tuple[Tensor, Tensor]:
    ids = torch.randint(5, 90, (4, 12), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    return ids, mask


def plain_names(folder: Path) -> set[str]:
    """Names of a classifier's weights where LoRA has never been."""
    return set(TextClassifier(load_pretrained(folder), len(LABELS)).state_dict())


# -------------------------------------------------------------------------------------------- the adapters


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapters_and_the_head_are_all_that_is_trained(
    architecture: Architecture, backbones: Callable[[Architecture], Path]
) -> None:
    made = make_engine(backbones(architecture))
    trainable = {name for name, weight in made.model.named_parameters() if weight.requires_grad}
    assert {name for name in trainable if not name.startswith("head.")} == {
        name for name, _ in made.model.named_parameters() if "lora_" in name
    }
    assert made.rows is None
    # The vector that is trained holds them and no more.
    sizes = {name: weight.numel() for name, weight in made.model.named_parameters()}
    assert made.flat.values.numel() == sum(sizes[name] for name in trainable)
    assert made.flat.values.numel() < sum(sizes.values()) / 2
    before = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    examples = make_examples(backbones(architecture))
    for number in range(3):
        made.update(examples, parts(8, 5), number)
    after = weights_of(made, 3)
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved == trainable


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("targets", ["all", "attention"])
def test_which_layers_are_adapted(
    targets: Any, architecture: Architecture, backbones: Callable[[Architecture], Path]
) -> None:
    backbone = load_pretrained(backbones(architecture))
    backbone.pooler = None  # as `TextClassifier` leaves it
    linear = {name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)}
    names = adapted_layers(backbone, targets, 0)
    # A layer attends with four matrices, three of them in one for ModernBERT, and has two more.
    attending = 2 if architecture == "modernbert" else 4
    assert len(names) == 2 * (attending + (2 if targets == "all" else 0))
    assert set(names) == linear if targets == "all" else set(names) < linear
    upper = adapted_layers(backbone, targets, 1)
    assert len(upper) == len(names) / 2
    assert all(".1." in name for name in upper)


def test_an_adapted_layer_by_hand(bert: Path) -> None:
    model = make_model(params_for(bert, lora_rank=2, lora_alpha=6.0, lora_targets="attention"))
    shake(model)
    layer = model.backbone.encoder.layer[0].attention.self.query
    assert layer.lora_A["default"].weight.shape == (2, 32)
    vectors = torch.randn(5, 32)
    product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    expected = vectors @ (layer.base_layer.weight + 3 * product).T + layer.base_layer.bias
    torch.testing.assert_close(layer(vectors), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_merged_classifier_gives_the_same_logits(
    architecture: Architecture, backbones: Callable[[Architecture], Path]
) -> None:
    folder = backbones(architecture)
    model = make_model(params_for(folder, **LORA)).eval()
    with torch.no_grad():
        at_first = model(*ids_and_mask())
        untouched = TextClassifier(load_pretrained(folder), len(LABELS)).eval()
        untouched.head.load_state_dict(model.head.state_dict())
        torch.testing.assert_close(at_first, untouched(*ids_and_mask()), atol=1e-6, rtol=0)
        shake(model)
        expected = model(*ids_and_mask())
        assert (expected - at_first).abs().max() > 0.05
        merge_adapters(model)
        torch.testing.assert_close(model(*ids_and_mask()), expected, atol=1e-5, rtol=0)
    assert set(model.state_dict()) == plain_names(folder)
    assert all(type(module).__module__.split(".")[0] != "peft" for module in model.modules())
    assert not hasattr(model.backbone, "peft_config")
    assert "peft" not in json.dumps(model.backbone.config.to_diff_dict())


def test_dropout_of_adapters_acts_in_training_alone(bert: Path) -> None:
    model = make_model(params_for(bert, **(CALM | LORA), lora_dropout=0.5))
    shake(model)
    model.train()
    assert not torch.equal(model(*ids_and_mask()), model(*ids_and_mask()))
    model.eval()
    assert torch.equal(model(*ids_and_mask()), model(*ids_and_mask()))


# -------------------------------------------------------------------------------------- learning rates


def test_adapters_learn_at_the_rates_of_their_layers(bert: Path) -> None:
    made = make_engine(bert, learning_rate=1e-3, head_learning_rate=1e-2, layer_decay=0.5)
    peaks = {group["peak"] for group in made.flat.optimizer.param_groups}
    assert peaks == {1e-3, 5e-4, 1e-2}


def test_frozen_layers_have_no_adapters(bert: Path) -> None:
    made = make_engine(bert, freeze=1)
    named = [name for name, _ in made.model.named_parameters() if "lora_" in name]
    assert named
    assert all(".layer.1." in name for name in named)


def test_gradient_checkpointing_changes_the_memory_alone(bert: Path) -> None:
    examples = make_examples(bert)
    plain, checkpointed = make_engine(bert), make_engine(bert, gradient_checkpointing=True)
    for made in (plain, checkpointed):
        for number in range(3):
            made.update(examples, parts(8, 5), number)
    assert_close(weights_of(checkpointed, 3), weights_of(plain, 3), 1e-6)


# ---------------------------------------------------------------------------------------- new tokens


def last_used(examples: Examples) -> int:
    """The largest token id of the examples; with it as the first new one some texts have one, most not."""
    return int(max(tokens.max() for tokens in examples.tokens))


@pytest.mark.parametrize("ema", [None, 0.5])
@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_rows_of_new_tokens_are_trained_as_they_would_be_alone(
    architecture: Architecture, ema: float | None, backbones: Callable[[Architecture], Path]
) -> None:
    """Against torch's AdamW over the whole table, with the gradients of all other rows taken out."""
    folder = backbones(architecture)
    examples = make_examples(folder)
    first_new = last_used(examples) - 12
    made = make_engine(
        folder, first_new, new_token_learning_rate=5e-3, weight_decay=0.0, max_grad_norm=1e6, ema=ema
    )
    assert made.rows is not None
    size = len(made.table)
    assert made.rows.mean.shape == (size - first_new, 32)  # moments of the new rows alone
    before = made.table.detach().clone()

    reference = make_engine(folder, first_new, weight_decay=0.0, max_grad_norm=1e6)
    table = reference.table
    optimizer = torch.optim.AdamW(
        [
            {"params": [table], "lr": 5e-3},
            {"params": [p for n, p in reference.model.named_parameters() if "lora_" in n], "lr": 2e-2},
            {"params": list(reference.model.head.parameters()), "lr": 1e-2},
        ],
        weight_decay=0.0,
    )
    peaks = [5e-3, 2e-2, 1e-2]
    average = table.detach().clone()
    for number in range(4):
        updated = made.update(examples, [np.arange(13)], number)
        optimizer.zero_grad()
        input_ids = nn.utils.rnn.pad_sequence(
            [torch.from_numpy(examples.tokens[row]) for row in range(13)], True, made.forward.pad_token_id
        )
        lengths = torch.tensor([len(examples.tokens[row]) for row in range(13)])
        mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()
        reference.model.train()
        logits = reference.model(input_ids, mask)
        torch.testing.assert_close(updated.logits, logits.detach(), atol=2e-4, rtol=0)
        losses = nn.functional.cross_entropy(
            logits, torch.from_numpy(examples.targets[:13]).long(), reduction="none"
        )
        (losses * torch.from_numpy(examples.weights[:13])).mean().backward()
        assert table.grad is not None
        table.grad[:first_new] = 0
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * float(made.shares[number])
        optimizer.step()
        if made.keeps is not None:
            average.lerp_(table.detach(), 1 - float(made.keeps[number]))
    with made.finished(4):
        expected = table.detach() if ema is None else average
        assert torch.equal(made.table.detach()[:first_new], before[:first_new])
        torch.testing.assert_close(made.table.detach(), expected, atol=2e-4, rtol=0)
        moved = (made.table.detach() - before).abs().amax(dim=1) > 1e-6
        assert 0 < int(moved.sum()) <= size - first_new


def test_frozen_embeddings_keep_new_tokens_as_they_are(bert: Path) -> None:
    examples = make_examples(bert)
    made = make_engine(bert, last_used(examples) - 12, freeze="embeddings")
    assert made.rows is None
    before = made.table.detach().clone()
    made.update(examples, parts(8), 0)
    assert torch.equal(made.table, before)


def test_an_update_without_any_new_token(bert: Path) -> None:
    examples = make_examples(bert)
    made = make_engine(bert, last_used(examples) + 1)
    plain = make_engine(bert)
    for number in range(2):
        made.update(examples, parts(8, 5), number)
        plain.update(examples, parts(8, 5), number)
    for name, tensor in weights_of(plain, 2).items():
        if "word_embeddings" not in name:
            assert torch.equal(tensor, weights_of(made, 2)[name]), name


# ------------------------------------------------------------------------------------------- whole runs


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_learns_and_what_is_saved_knows_nothing_of_it(
    architecture: Architecture, backbones: Callable[[Architecture], Path], tmp_path: Path
) -> None:
    folder = backbones(architecture)
    params = params_for(folder, **(LORA | {"learning_rate": 1e-2}), checkpoint_seconds=60, epochs=24)
    result = run(tmp_path, params, table=tiny_messages(n=64))
    losses = [record.train_loss for record in result.history]
    assert losses[-1] < 0.75 * losses[0]
    model, encoder, _ = load_classifier(tmp_path / "classifier")
    assert set(model.state_dict()) == plain_names(folder)
    for path in (tmp_path / "classifier").iterdir():
        assert b"lora" not in path.read_bytes().lower() or path.name == "tokenizer.json"
    # What was saved scores as it did, with its adapters apart, when it was chosen.
    validation = tiny_messages(n=21, seed=1)
    logits = torch.from_numpy(predict_logits(model, encoder, validation["text"].to_pylist()))
    targets = loop.encode_labels(validation["labels"], LABELS, "multiclass")
    score = loop.macro_f1(targets, loop.answers(logits, "multiclass").numpy(), LABELS, "multiclass")
    assert score == pytest.approx(result.best_macro_f1, abs=1e-9)
    # Word embeddings are those of the backbone, linear layers are not.
    published = load_pretrained(folder)
    assert torch.equal(model.backbone.get_input_embeddings().weight, published.get_input_embeddings().weight)
    name = adapted_layers(published, "all", 0)[0]
    assert not torch.equal(model.backbone.get_submodule(name).weight, published.get_submodule(name).weight)


@pytest.mark.parametrize("updates", [3, 5, 13])
def test_resumed_bit_for_bit(
    updates: int, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"lora_dropout": 0.2, "dropout": 0.2, "ema": 0.8, "precision": "bf16"}
    params = params_for(bert, **(LORA | settings), gradient_accumulation=1)
    whole = run(tmp_path / "whole", params)
    restore = kill_after(monkeypatch, updates)
    with pytest.raises(Killed):
        run(tmp_path / "parts", params)
    restore()
    assert run(tmp_path / "parts", params).history == whole.history
    assert_same_classifier(tmp_path / "whole", tmp_path / "parts")


def adapted_backbone(folder: Path, target: Path) -> int:
    """What the stage adapt leaves where it adds two words to the vocabulary; returns the first new id."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    first_new = len(vocabulary)
    words = ["avería", "reclamo"]
    assert not set(words) & set(vocabulary)
    vocabulary.update({word: first_new + place for place, word in enumerate(words)})
    text = json.dumps(tokenizer, ensure_ascii=False)
    assert Tokenizer.from_str(text).encode("avería").ids[1] == first_new
    backbone = load_pretrained(folder)
    backbone.resize_token_embeddings(first_new + 2, mean_resizing=False)
    files = resolve_backbone(str(folder))
    _, pad = load_tokenizer(folder)
    record = Adaptation(
        changed=True,
        backbone=files.public_name,
        revision=None,
        sha256=files.sha256,
        licence=None,
        first_new_token=first_new,
        new_tokens=2,
        translated=0,
        redefined=0,
        texts=1,
        masked_loss=[],
    )
    save_adapted(target, record, backbone, text, pad)
    return first_new


@pytest.mark.parametrize(("freeze", "said"), [("none", False), ("embeddings", True), (1, True)])
def test_new_tokens_that_stay_frozen_are_said(
    bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], freeze: Any, said: bool
) -> None:
    adapted_backbone(bert, tmp_path / "adapted")
    loop.train(
        params_for(bert, freeze=freeze, epochs=1),
        tiny_messages(n=20),
        tiny_messages(n=12, seed=1),
        LabelSet("multiclass", LABELS, cleaning={}),
        None,
        7,
        tmp_path / "classifier",
        tmp_path / "checkpoints",
        tmp_path / "adapted",
    )
    line = f"warning: train.freeze {freeze} with adapt.vocabulary: the new tokens stay as they start out"
    assert (line in capsys.readouterr().err) is said


def test_a_run_on_an_adapted_backbone_trains_its_new_tokens_and_resumes(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_new = adapted_backbone(bert, tmp_path / "adapted")
    table = tiny_messages(n=40)
    place = table.column_names.index("text")
    texts = [f"{text} avería" if row % 3 else text for row, text in enumerate(table["text"].to_pylist())]
    table = table.set_column(place, table.schema.field(place), [texts])

    def train(folder: Path) -> loop.TrainingResult:
        return loop.train(
            params_for(bert, **LORA, ema=0.8),
            table,
            tiny_messages(n=21, seed=1),
            LabelSet("multiclass", LABELS, cleaning={}),
            None,
            7,
            folder / "classifier",
            folder / "checkpoints",
            tmp_path / "adapted",
        )

    whole = train(tmp_path / "whole")
    restore = kill_after(monkeypatch, 7)
    with pytest.raises(Killed):
        train(tmp_path / "parts")
    restore()
    assert train(tmp_path / "parts").history == whole.history
    assert_same_classifier(tmp_path / "whole", tmp_path / "parts")
    model, _, _ = load_classifier(tmp_path / "whole" / "classifier")
    before = load_pretrained(tmp_path / "adapted").get_input_embeddings().weight
    after = model.backbone.get_input_embeddings().weight
    assert torch.equal(after[:first_new], before[:first_new])
    assert not torch.equal(after[first_new], before[first_new])


# ------------------------------------------------------------------------------------------------- errors


def test_without_peft_the_error_says_what_to_install(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"train\.lora_rank: .*pip install 'afina\[lora\]'") as caught:
        run(tmp_path, params_for(bert, **LORA))
    assert "\n" not in str(caught.value)
    run(tmp_path, params_for(bert, epochs=1))  # nothing else needs it


def test_the_version_of_peft_belongs_to_the_run(bert: Path) -> None:
    assert peft_version(params_for(bert)) is None
    assert peft_version(params_for(bert, **LORA)) == peft.__version__


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora_rank": 4, "freeze": "all"}, r"train\.lora_rank: .*train\.freeze"),
        ({"lora_rank": -1}, r"train\.lora_rank"),
        ({"lora_rank": 4, "lora_alpha": 0}, r"train\.lora_alpha"),
        ({"lora_dropout": 1.0}, r"train\.lora_dropout"),
        ({"lora_targets": "mlp"}, r"train\.lora_targets"),
    ],
)
def test_wrong_and_contradictory_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        TrainParams.parse(values)
    assert "\n" not in str(caught.value)


def test_freezing_every_layer_leaves_nothing_to_adapt(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.lora_rank: train\.freeze 2 leaves no layer"):
        run(tmp_path, params_for(bert, **LORA, freeze=2))
