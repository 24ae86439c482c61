"""The backbone adapted before fine-tuning: masked loss, new tokens, what is saved, which texts are read."""

from __future__ import annotations

import json
import re
import resource
import runpy
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from torch.nn import functional

from afina import table
from afina.adaptation import adapt, masked, vocabulary
from afina.adaptation.adapt import adapt_backbone, replace_table
from afina.adaptation.masked import (
    MaskedTrainer,
    Masking,
    PredictionHead,
    find_masking,
    mask_tokens,
    masked_batches,
    read_head,
    train_masked,
)
from afina.adaptation.pieces import word_counts
from afina.adaptation.store import read_adapted
from afina.adaptation.texts import read_unlabelled
from afina.errors import UserError
from afina.files import read_json
from afina.labels import LabelSet
from afina.modeling.backbone import BackboneFiles, load_tokenizer, resolve_backbone
from afina.modeling.classifier import load_pretrained
from afina.modeling.inference import predict_logits
from afina.modeling.store import load_classifier
from afina.params.adapt import AdaptParams
from afina.params.train import TrainParams
from afina.runtime.encoding import Encoder, Ids, pad_batch
from afina.training.engine import NotFiniteError
from afina.training.loop import train
from tiny import (
    ARCHITECTURES,
    FILLER,
    KEYWORDS,
    LABELS,
    Architecture,
    build_tiny_backbone,
    tiny_messages,
    tiny_texts,
)

PIPELINE = Path(__file__).resolve().parents[2] / "pipeline"
TEXTS = tiny_texts()[:80]
LEARNING = {"epochs": 4, "learning_rate": 0.01, "batch_size": 16}
CPU = torch.device("cpu")


@pytest.fixture
def masking() -> Masking:
    """A vocabulary of 50 of which the first five are special; [MASK] is 4, [PAD] is 0."""
    return Masking(0.15, 4, np.arange(50) < 5, 0)


def tiny(tmp_path: Path, architecture: Architecture = "bert") -> BackboneFiles:
    return resolve_backbone(str(build_tiny_backbone(tmp_path / architecture, architecture)))


def train_params(precision: str = "fp32") -> TrainParams:
    return TrainParams.parse({"precision": precision, "device": "cpu", "max_length": 32})


def encoded(files: BackboneFiles, texts: list[str]) -> list[Ids]:
    return Encoder(load_tokenizer(files.folder)[0], 32, load_tokenizer(files.folder)[1]).encode(texts)


def masking_of(files: BackboneFiles, share: float = 0.15) -> Masking:
    tokenizer_json, pad = load_tokenizer(files.folder)
    return find_masking(files.folder, tokenizer_json, share, pad)


def hidden(backbone: Any, ids: list[Ids], pad: int) -> torch.Tensor:
    """Last vectors of texts, of their tokens alone."""
    input_ids, mask = (torch.from_numpy(part) for part in pad_batch(ids, pad))
    with torch.inference_mode():
        return backbone.eval()(input_ids=input_ids, attention_mask=mask).last_hidden_state[mask.bool()]


# ------------------------------------------------------------------------------------------ masks


def test_fifteen_in_a_hundred_tokens_are_to_be_told_and_most_of_them_hidden(masking: Masking) -> None:
    tokens = np.random.default_rng(0).integers(5, 50, size=200_000)
    seen, targets = mask_tokens(tokens, masking, np.random.default_rng(1))
    chosen = targets != masking.nothing
    assert chosen.mean() == pytest.approx(0.15, abs=0.003)
    assert (targets[chosen] == tokens[chosen]).all()
    assert (seen[~chosen] == tokens[~chosen]).all()
    hidden, kept = seen[chosen] == 4, seen[chosen] == tokens[chosen]
    assert hidden.mean() == pytest.approx(0.8, abs=0.01)
    # A tenth is replaced by any of 45 tokens, at times by itself.
    assert kept.mean() == pytest.approx(0.1 + 0.1 / 45, abs=0.01)
    replaced = seen[chosen][~hidden & ~kept]
    assert set(replaced) == set(range(5, 50))
    assert np.bincount(replaced).max() < 2 * len(replaced) / 45


def test_special_tokens_are_never_masked(masking: Masking) -> None:
    tokens = np.tile(np.array([2, 7, 8, 1, 9, 3, 0]), 5_000)
    seen, targets = mask_tokens(tokens, Masking(0.9, 4, masking.special, 0), np.random.default_rng(0))
    special = tokens < 5
    assert (seen[special] == tokens[special]).all()
    assert (targets[special] == masking.nothing).all()
    assert not np.isin(seen[~special], [0, 1, 2, 3]).any()


def test_batches_and_masks_are_a_function_of_seed_and_epoch(masking: Masking) -> None:
    draw = np.random.default_rng(0)
    ids = [draw.integers(5, 50, size=size) for size in draw.integers(3, 30, size=101)]

    def flat(seed: int, epoch: int) -> list[tuple[list[int], list[int]]]:
        return [
            (a.tolist(), b.tolist())
            for seen, targets in masked_batches(ids, 8, masking, seed, epoch)
            for a, b in zip(seen, targets, strict=True)
        ]

    first = flat(3, 0)
    assert first == flat(3, 0)
    assert first != flat(3, 1)
    assert first != flat(4, 0)
    for epoch in (0, 1):  # every text once, whole
        texts = [
            [told or shown for shown, told in zip(seen, targets, strict=True)]
            for seen, targets in flat(3, epoch)
        ]
        assert sorted(texts) == sorted(tokens.tolist() for tokens in ids)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_a_tokenizer_masks_with(architecture: Architecture, tmp_path: Path) -> None:
    files = tiny(tmp_path, architecture)
    found = masking_of(files)
    tokenizer = Encoder(load_tokenizer(files.folder)[0], 32, 0)
    assert tokenizer.decode_tokens([found.mask_token_id])[0] in ("[MASK]", "<mask>")
    names = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "<pad>", "</s>", "<unk>", "<mask>"}
    assert set(tokenizer.decode_tokens(np.flatnonzero(found.special).tolist())) <= names
    assert found.special.sum() == 5


def test_a_tokenizer_without_a_mask_token(tmp_path: Path) -> None:
    files = tiny(tmp_path)
    path = files.folder / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace("[MASK]", "[OTHER]"), encoding="utf-8")
    with pytest.raises(UserError, match=r"adapt\.epochs: .* no mask token"):
        masking_of(files)


def test_tokenizer_settings_that_are_no_json(tmp_path: Path) -> None:
    files = tiny(tmp_path)
    tokenizer_json, pad = load_tokenizer(files.folder)
    (files.folder / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer_config\.json: line 1: not valid JSON"):
        find_masking(files.folder, tokenizer_json, 0.15, pad)


# ------------------------------------------------------------------------------- the masked loss


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_and_gradient_are_those_of_transformers_with_the_checkpoints_own_head(
    architecture: Architecture, tmp_path: Path
) -> None:
    files = tiny(tmp_path, architecture)
    config = transformers.AutoConfig.from_pretrained(str(files.folder))
    torch.manual_seed(1)
    reference: Any = transformers.AutoModelForMaskedLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():  # away from zeros and ones
        for name, weight in reference.named_parameters():
            if weight.ndim == 1:
                weight.add_(torch.rand_like(weight) * 0.1)
            elif "embeddings" not in name:
                weight.mul_(3)
    reference.save_pretrained(str(files.folder))

    backbone = load_pretrained(files.folder)
    head = PredictionHead(config, config.vocab_size)
    assert read_head(files.folder, config.model_type, head)
    masking, params = masking_of(files), AdaptParams.parse(LEARNING)
    trainer = MaskedTrainer(backbone, head, params, 10, "fp32", CPU, 32, 0, masking.nothing)
    trainer.forward.train(False)
    seen, targets = next(masked_batches(encoded(files, TEXTS), 16, masking, 0, 0))
    loss, count = trainer.loss(seen, targets)
    loss.backward()  # type: ignore[no-untyped-call]

    input_ids, mask = (torch.from_numpy(part) for part in pad_batch(seen, masking.nothing))
    wanted = torch.from_numpy(pad_batch(targets, masking.nothing)[0])
    logits = reference(input_ids=input_ids, attention_mask=mask).logits
    expected = functional.cross_entropy(logits.transpose(1, 2), wanted, ignore_index=masking.nothing)
    expected.backward()
    assert count == int((wanted != masking.nothing).sum()) > 10
    torch.testing.assert_close(loss.detach(), expected.detach(), rtol=1e-4, atol=1e-5)
    # The table gets gradients as what is looked up and as what is told.
    gradient = reference.get_input_embeddings().weight.grad
    torch.testing.assert_close(trainer.table.grad, gradient, rtol=1e-3, atol=1e-6)


def test_a_checkpoint_without_a_head_starts_from_the_identity(tmp_path: Path) -> None:
    files = tiny(tmp_path)
    config = transformers.AutoConfig.from_pretrained(str(files.folder))
    head = PredictionHead(config, config.vocab_size)
    assert not read_head(files.folder, "bert", head)
    vectors = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    rows = torch.randn(7, 32, generator=torch.Generator().manual_seed(1))
    head = PredictionHead(config, 7)
    expected = functional.layer_norm(functional.gelu(vectors), (32,), eps=1e-12) @ rows.T
    torch.testing.assert_close(head(vectors, rows).detach(), expected)


def test_a_head_of_an_older_checkpoint_and_a_grown_vocabulary(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    files = tiny(tmp_path)
    config = transformers.AutoConfig.from_pretrained(str(files.folder))
    reference: Any = transformers.AutoModelForMaskedLM.from_config(config)
    with torch.no_grad():
        reference.cls.predictions.bias.add_(2)
        reference.cls.predictions.transform.LayerNorm.weight.add_(1)
    reference.save_pretrained(str(files.folder))
    path = files.folder / "model.safetensors"
    older = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): part
        for name, part in load_file(path).items()
    }
    save_file(older, path, metadata={"format": "pt"})
    head = PredictionHead(config, config.vocab_size + 3)
    assert read_head(files.folder, "bert", head)
    assert head.norm.weight.tolist() == [2.0] * 32
    assert head.bias.tolist() == [2.0] * config.vocab_size + [0.0] * 3


@pytest.mark.parametrize(
    ("architecture", "precision"),
    [*((architecture, "fp32") for architecture in ARCHITECTURES), ("bert", "bf16"), ("modernbert", "bf16")],
)
def test_the_masked_loss_falls_and_the_result_is_what_is_saved(
    architecture: Architecture, precision: str, tmp_path: Path
) -> None:
    files = tiny(tmp_path, architecture)
    params = AdaptParams.parse(LEARNING)
    folder = tmp_path / "adapted"
    record = adapt_backbone(params, train_params(precision), files, TEXTS, 7, folder)
    assert record.changed
    assert len(record.masked_loss) == 4
    assert record.masked_loss[-1] < 0.9 * record.masked_loss[0]

    original, again = load_pretrained(files.folder), load_pretrained(files.folder)
    ids = encoded(files, TEXTS)
    losses = train_masked(again, ids, masking_of(files), files.folder, params, precision, 32, 7)
    assert losses == record.masked_loss
    pad = load_tokenizer(files.folder)[1]
    saved = load_pretrained(read_adapted(folder, files).folder)
    torch.testing.assert_close(hidden(saved, ids, pad), hidden(again, ids, pad), rtol=0, atol=0)
    assert (hidden(saved, ids, pad) - hidden(original, ids, pad)).abs().mean() > 0.01
    assert load_tokenizer(folder) == load_tokenizer(files.folder)


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])  # without padding, and with it
def test_the_padding_token_is_the_tokenizers_whatever_the_configuration_says(
    architecture: Architecture, tmp_path: Path
) -> None:
    files = tiny(tmp_path, architecture)
    params = AdaptParams.parse({**LEARNING, "epochs": 1})

    def losses() -> list[float]:
        backbone, ids = load_pretrained(files.folder), encoded(files, TEXTS)
        return train_masked(backbone, ids, masking_of(files), files.folder, params, "fp32", 32, 7)

    expected, pad = losses(), load_tokenizer(files.folder)[1]
    path = files.folder / "config.json"
    config = read_json(path)
    assert config["pad_token_id"] == pad
    path.write_text(json.dumps(config | {"pad_token_id": 9}), encoding="utf-8")
    assert load_tokenizer(files.folder)[1] == pad
    assert losses() == expected


def test_a_loss_that_is_no_number_names_the_learning_rate(tmp_path: Path) -> None:
    files = tiny(tmp_path)
    backbone = load_pretrained(files.folder)
    backbone.embeddings.word_embeddings.weight.data.fill_(float("nan"))
    params = AdaptParams.parse(LEARNING)
    with pytest.raises(UserError, match=r"adapt: .*lower adapt\.learning_rate"):
        train_masked(backbone, encoded(files, TEXTS), masking_of(files), files.folder, params, "fp32", 32, 0)


def test_the_batch_whose_loss_is_no_number_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a repeated text the first id; texts without a token are not counted."""
    files = tiny(tmp_path)
    texts = [TEXTS[0], "", *TEXTS]
    names = ["first", "empty", *(f"id-{number}" for number in range(len(TEXTS)))]
    named = dict(zip(reversed(texts), reversed(names), strict=True))
    original, seen = MaskedTrainer.update, []

    def update(self: Any, *given: Any) -> tuple[float, int]:
        seen.append(given[0])
        if len(seen) == 3:
            raise NotFiniteError("masked loss", np.arange(len(given[0])))
        return original(self, *given)

    monkeypatch.setattr(MaskedTrainer, "update", update)
    monkeypatch.setattr("afina.adaptation.masked.mask_tokens", lambda tokens, *_: (tokens, tokens))
    with pytest.raises(UserError, match=r"adapt: the masked loss is not a number any more") as raised:
        adapt_backbone(
            AdaptParams.parse({**LEARNING, "vocabulary": "none"}), train_params(), files, texts, 0,
            tmp_path / "adapted", names=names,
        )  # fmt: skip
    told = re.findall(r"batch of ids (.*?)\)", str(raised.value))[0].split(", ")
    ids = {
        name: tokens.tolist()
        for name, tokens in zip(named.values(), encoded(files, list(named)), strict=True)
    }
    assert [ids[name] for name in told] == [tokens.tolist() for tokens in seen[2]]
    assert "first" in named.values()
    assert "id-0" not in named.values()


def test_texts_with_nothing_to_mask(tmp_path: Path) -> None:
    files = tiny(tmp_path)
    with pytest.raises(UserError, match="no token that could be masked"):
        adapt_backbone(AdaptParams.parse(LEARNING), train_params(), files, ["", " "], 0, tmp_path / "adapted")


def test_batches_without_a_masked_token_change_nothing(tmp_path: Path) -> None:
    files = tiny(tmp_path)
    backbone = load_pretrained(files.folder)
    before = backbone.embeddings.word_embeddings.weight.detach().clone()
    params = AdaptParams.parse({"epochs": 2, "mask_share": 1e-12})
    ids = encoded(files, TEXTS[:5])
    assert train_masked(backbone, ids, masking_of(files, 1e-12), files.folder, params, "fp32", 32, 0) == [
        0.0,
        0.0,
    ]
    torch.testing.assert_close(backbone.embeddings.word_embeddings.weight.detach(), before, rtol=0, atol=0)


def limit_memory(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Let no more than ``most`` texts fit."""
    original = MaskedTrainer.loss

    def loss(self: Any, seen: Any, targets: Any) -> Any:
        if len(seen) > most:
            raise torch.OutOfMemoryError("out of memory")
        return original(self, seen, targets)

    monkeypatch.setattr(MaskedTrainer, "loss", loss)


def test_a_batch_that_does_not_fit_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = tiny(tmp_path)
    # Else Adam makes a whole step of a gradient that is nothing but the last digits of a sum.
    monkeypatch.setattr("afina.training.weights.EPSILON", 1e-4)
    params, masking = AdaptParams.parse(LEARNING), masking_of(files)
    trainers = []
    for _ in range(2):
        backbone = load_pretrained(files.folder)
        head = PredictionHead(backbone.config, backbone.config.vocab_size)
        read_head(files.folder, backbone.config.model_type, head)
        trainers.append(MaskedTrainer(backbone, head, params, 10, "fp32", CPU, 32, 0, masking.nothing))
        trainers[-1].forward.train(False)  # dropout would differ between the parts
    batches = list(islice(masked_batches(encoded(files, TEXTS), 16, masking, 0, 0), 3))
    expected = [trainers[0].update(*batch, number) for number, batch in enumerate(batches)]
    limit_memory(monkeypatch, 4)
    for number, batch in enumerate(batches):
        loss, count = trainers[1].update(*batch, number)
        assert loss == pytest.approx(expected[number][0], rel=1e-4)
        assert count == expected[number][1]
    assert trainers[1].split == 4
    assert capsys.readouterr().err.count("going on with batches in") == 2
    torch.testing.assert_close(trainers[1].flat.values, trainers[0].flat.values, rtol=1e-4, atol=1e-5)
    again = trainers[0]
    again.load_state(trainers[1].state())
    assert again.split == 4


def test_a_text_that_does_not_fit_alone_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tiny(tmp_path)
    limit_memory(monkeypatch, 0)
    with pytest.raises(UserError, match=r"adapt: a single text .*lower adapt\.max_length"):
        adapt_backbone(AdaptParams.parse(LEARNING), train_params(), files, TEXTS, 0, tmp_path / "adapted")


class Killed(Exception):  # noqa: N818
    """Stands for a process that ends."""


def kill_at(monkeypatch: pytest.MonkeyPatch, update: int) -> list[int]:
    """Make masked training stop before an update; returns the numbers of those that were begun."""
    original = MaskedTrainer.update
    begun: list[int] = []

    def update_or_die(self: Any, seen: Any, targets: Any, number: int) -> Any:
        if number == update:
            raise Killed
        begun.append(number)
        return original(self, seen, targets, number)

    monkeypatch.setattr(MaskedTrainer, "update", update_or_die)
    return begun


# 5 updates an epoch: in the first one, in the second, at the start of the last.
@pytest.mark.parametrize(("update", "left"), [(3, 15), (7, 10), (10, 5)])
@pytest.mark.parametrize(
    ("architecture", "precision"), [("bert", "bf16"), ("modernbert", "fp32"), ("bert", "fp32")]
)
def test_killed_and_run_again_equals_never_killed(
    architecture: Architecture,
    precision: str,
    update: int,
    left: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files, checkpoints = tiny(tmp_path, architecture), tmp_path / "checkpoints"
    params = AdaptParams.parse({**LEARNING, "epochs": 3, "vocabulary": "none"})
    train = train_params(precision)
    whole = adapt_backbone(params, train, files, TEXTS, 7, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_at(patch, update)
        with pytest.raises(Killed):
            adapt_backbone(params, train, files, TEXTS, 7, tmp_path / "parts", checkpoints)
    assert not (tmp_path / "parts").exists()
    begun = kill_at(monkeypatch, -1)
    assert adapt_backbone(params, train, files, TEXTS, 7, tmp_path / "parts", checkpoints) == whole
    assert len(begun) == left
    assert ("adapt: resumes after epoch" in capsys.readouterr().err) == (left < 15)
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "parts" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("change", ["params", "seed", "texts", "backbone", "configuration", "code"])
def test_a_checkpoint_of_another_adaptation_is_ignored(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files, checkpoints = tiny(tmp_path), tmp_path / "checkpoints"
    params, texts, seed = AdaptParams.parse({**LEARNING, "epochs": 2}), TEXTS, 7
    with monkeypatch.context() as patch:
        kill_at(patch, 7)
        with pytest.raises(Killed):
            adapt_backbone(params, train_params(), files, texts, seed, tmp_path / "adapted", checkpoints)
    if change == "params":
        params = AdaptParams.parse({**LEARNING, "epochs": 2, "weight_decay": 0.1})
    elif change == "seed":
        seed = 8
    elif change == "texts":
        texts = TEXTS[1:]
    elif change == "backbone":
        build_tiny_backbone(files.folder, seed=1)
    elif change == "configuration":
        config = read_json(files.folder / "config.json")
        (files.folder / "config.json").write_text(json.dumps(config | {"hidden_dropout_prob": 0.3}))
    else:
        monkeypatch.setattr(masked, "code_version", lambda _: "another version")
    begun = kill_at(monkeypatch, -1)
    record = adapt_backbone(params, train_params(), files, texts, seed, tmp_path / "adapted", checkpoints)
    assert len(begun) == 10
    assert "adapt: " in (error := capsys.readouterr().err)
    assert "of a run with other parameters, data or code; ignored" in error
    again = adapt_backbone(params, train_params(), files, texts, seed, tmp_path / "fresh")
    assert record == again


# --------------------------------------------------------------------------------------- the folder


def test_where_nothing_is_asked_for_nothing_but_the_record_is_saved(tmp_path: Path) -> None:
    files, folder = tiny(tmp_path), tmp_path / "adapted"
    nothing = AdaptParams.parse({"vocabulary": "none"})
    record = adapt_backbone(nothing, train_params(), files, TEXTS, 0, folder)
    assert not record.changed
    assert [path.name for path in folder.iterdir()] == ["adapted.json"]
    assert read_json(folder / "adapted.json") == {
        "changed": False,
        "backbone": "bert",
        "revision": None,
        "sha256": files.sha256,
        "licence": None,
        "first_new_token": None,
        "new_tokens": 0,
        "translated": 0,
        "redefined": 0,
        "texts": 0,
        "masked_loss": [],
    }
    adapted = read_adapted(folder, files)
    assert (adapted.folder, adapted.files, adapted.first_new_token) == (files.folder, files, None)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_by_default_a_backbone_of_the_texts_language_is_left_as_it_is(
    architecture: Architecture, tmp_path: Path
) -> None:
    files, folder = tiny(tmp_path, architecture), tmp_path / "adapted"
    record = adapt_backbone(AdaptParams(), train_params(), files, TEXTS, 0, folder)
    assert (record.changed, record.first_new_token, record.new_tokens) == (False, None, 0)
    assert record.texts == 0
    assert [path.name for path in folder.iterdir()] == ["adapted.json"]
    assert read_adapted(folder, files).folder == files.folder


def test_a_changed_backbone_keeps_the_originals_name_and_hash(tmp_path: Path) -> None:
    files, folder = tiny(tmp_path), tmp_path / "adapted"
    adapt_backbone(AdaptParams.parse({**LEARNING, "epochs": 1}), train_params(), files, TEXTS, 0, folder)
    adapted = read_adapted(folder, files)
    assert (adapted.folder, adapted.files) == (folder, files)
    assert resolve_backbone(str(adapted.folder)).sha256 != files.sha256
    assert str(tmp_path) not in "".join(path.read_text(errors="replace") for path in folder.iterdir())
    adapt_backbone(AdaptParams(), train_params(), files, TEXTS, 0, folder)  # off again: the files go
    assert [path.name for path in folder.iterdir()] == ["adapted.json"]


def test_a_full_disk_keeps_the_folder_that_was_there(tmp_path: Path) -> None:
    files, folder = tiny(tmp_path), tmp_path / "out" / "adapted"
    adapt_backbone(AdaptParams(), train_params(), files, [], 0, folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # stands for a disk with so much room
    try:
        with pytest.raises(
            UserError, match=r"adapted: cannot be written \(.*make room for it and run again$"
        ):
            adapt_backbone(AdaptParams(epochs=1), train_params(), files, TEXTS, 0, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in folder.parent.iterdir()] == ["adapted"]
    assert not read_json(folder / "adapted.json")["changed"]


def test_a_folder_that_is_not_of_this_backbone(tmp_path: Path) -> None:
    files, folder = tiny(tmp_path), tmp_path / "adapted"
    with pytest.raises(UserError, match=r"adapted\.json: no such file"):
        read_adapted(folder, files)
    adapt_backbone(AdaptParams(), train_params(), files, [], 0, folder)
    with pytest.raises(UserError, match=r"adapted from other weights \(bert\) than .*roberta has; run "):
        read_adapted(folder, tiny(tmp_path, "roberta"))
    build_tiny_backbone(files.folder, seed=1)  # in place: to DVC nothing has changed
    with pytest.raises(UserError, match=r"run `dvc repro -f -s adapt && dvc repro`$"):
        read_adapted(folder, resolve_backbone(files.name))
    (folder / "adapted.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="not of this version"):
        read_adapted(folder, files)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_table_with_more_rows(architecture: Architecture, tmp_path: Path) -> None:
    files = tiny(tmp_path, architecture)
    backbone = load_pretrained(files.folder)
    before = backbone.get_input_embeddings().weight.detach().numpy()
    rows = np.concatenate([before, np.full((3, 32), 0.5, dtype=np.float32)])
    replace_table(backbone, rows)
    assert backbone.config.vocab_size == len(rows)
    np.testing.assert_array_equal(backbone.get_input_embeddings().weight.detach().numpy(), rows)
    params = AdaptParams.parse({**LEARNING, "epochs": 1})
    ids = [np.append(tokens[:20], len(before) + 1) for tokens in encoded(files, TEXTS[:20])]
    masking = masking_of(files)
    special = np.append(masking.special, [False] * 3)
    grown = Masking(0.15, masking.mask_token_id, special, masking.nothing)
    assert train_masked(backbone, ids, grown, files.folder, params, "fp32", 32, 0)[0] > 0


@pytest.mark.parametrize(("section", "name"), [({"max_length": 65}, "adapt"), ({}, "train")])
def test_more_tokens_than_the_backbone_has_positions(
    section: dict[str, int], name: str, tmp_path: Path
) -> None:
    params = AdaptParams.parse({"epochs": 1, **section})
    train = TrainParams.parse({"device": "cpu", "max_length": 65})
    with pytest.raises(UserError, match=rf"{name}\.max_length: 65 is more than the 64 positions"):
        adapt_backbone(params, train, tiny(tmp_path), TEXTS, 0, tmp_path / "adapted")


@pytest.mark.parametrize("section", [{"epochs": 1, "vocabulary": "none"}, {"vocabulary": "extend"}])
def test_a_tokenizer_with_more_tokens_than_the_table_has_rows(
    section: dict[str, Any], tmp_path: Path
) -> None:
    files = tiny(tmp_path)
    tokenizer = Tokenizer.from_file(str(files.folder / "tokenizer.json"))
    rows = tokenizer.get_vocab_size()
    tokenizer.add_tokens(["uenas"])
    tokenizer.save(str(files.folder / "tokenizer.json"))
    params = AdaptParams.parse({"vocabulary_min_count": 1, "glossary": None, **section})
    message = rf"^train\.backbone: .*'uenas' with the id {rows}, .* {rows} rows"
    with pytest.raises(UserError, match=message):
        adapt_backbone(params, train_params(), files, ["uenas zuecos"], 0, tmp_path / "adapted")
    if "epochs" in section:  # a token that no text holds is not in the way, and never put in another's place
        texts = [text.replace("buenas", "") for text in TEXTS]
        masking = masking_of(files, 0.99)
        assert rows in masking.ordinary
        assert rows not in masking.within(rows).ordinary
        params = AdaptParams.parse({"epochs": 2, "mask_share": 0.99, "vocabulary": "none"})
        record = adapt_backbone(params, train_params(), files, texts, 0, tmp_path / "adapted")
        assert len(record.masked_loss) == 2


# --------------------------------------------------------------------------------- the vocabulary


def foreign(tmp_path: Path) -> BackboneFiles:
    """A BERT that knows all letters, and of words only those that all messages share."""
    letters = [" ".join(f"{letter} x{letter}" for letter in "abcdefghijklmnopqrstuvwxyzáéíóúñ")]
    folder = build_tiny_backbone(tmp_path / "bert", texts=[FILLER] * 3 + letters)
    return resolve_backbone(str(folder))


def extending(**changes: Any) -> AdaptParams:
    return AdaptParams.parse({"vocabulary": "extend", "vocabulary_min_count": 3, "glossary": None} | changes)


def table_of(folder: Path) -> torch.Tensor:
    return load_pretrained(folder).get_input_embeddings().weight.detach()


def test_frequent_words_become_tokens(tmp_path: Path) -> None:
    files, folder = foreign(tmp_path), tmp_path / "adapted"
    texts = tiny_messages(n=60)["text"].to_pylist()
    original = table_of(files.folder)
    record = adapt_backbone(extending(), train_params(), files, texts, 0, folder)
    words = " ".join(KEYWORDS[: len(LABELS)]).split()
    assert (record.changed, record.first_new_token) == (True, len(original))
    assert record.new_tokens >= len(words)
    assert record.texts == len(set(texts))
    assert record.masked_loss == []

    adapted = read_adapted(folder, files)
    assert (adapted.folder, adapted.first_new_token) == (folder, len(original))
    assert read_json(folder / "config.json")["vocab_size"] == len(original) + record.new_tokens
    weights = table_of(adapted.folder)
    assert weights.shape == (len(original) + record.new_tokens, 32)
    assert torch.equal(weights[: len(original)], original)
    before, pad = load_tokenizer(files.folder)
    after, same_pad = load_tokenizer(adapted.folder)
    assert pad == same_pad
    for word in words:
        (token,) = Encoder(after, 32, pad).encode([word])[0][1:-1]
        pieces = Encoder(before, 32, pad).encode([word])[0][1:-1]
        assert token >= len(original)
        assert len(pieces) > 1
        torch.testing.assert_close(weights[token], original[pieces].mean(dim=0))
    # Nothing but the table is another one.
    one, other = load_pretrained(files.folder).state_dict(), load_pretrained(folder).state_dict()
    assert {name for name in one if not torch.equal(one[name], other[name])} == {
        "embeddings.word_embeddings.weight"
    }


def test_equal_texts_in_any_order_give_an_equal_folder(tmp_path: Path) -> None:
    files, texts = foreign(tmp_path), tiny_messages(n=60)["text"].to_pylist()
    folders = [tmp_path / name for name in ("first", "again", "turned")]
    for folder, given in zip(folders, (texts, texts, [*texts[::-1], texts[0]]), strict=True):
        adapt_backbone(extending(), train_params(), files, given, 0, folder)
    first, *others = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert others == [first, first]


def test_a_glossary_says_where_new_tokens_start(tmp_path: Path) -> None:
    files, folder = foreign(tmp_path), tmp_path / "adapted"
    (tmp_path / "g.csv").write_text("word,meaning\nagua,calle\n", encoding="utf-8")
    texts = tiny_messages(n=60)["text"].to_pylist()
    params = extending(glossary=str(tmp_path / "g.csv"))
    assert adapt_backbone(params, train_params(), files, texts, 0, folder).translated == 1
    new, known = Encoder(load_tokenizer(folder)[0], 32, 0).encode(["agua", "calle"])
    assert len(known) == 3
    weights = table_of(folder)
    torch.testing.assert_close(weights[new[1]], weights[known[1]], rtol=0, atol=0)


def test_at_most_so_many_tokens_and_none_that_is_rare(tmp_path: Path) -> None:
    files, folder = foreign(tmp_path), tmp_path / "adapted"
    texts = tiny_messages(n=60)["text"].to_pylist()
    record = adapt_backbone(extending(vocabulary_max_size=2), train_params(), files, texts, 0, folder)
    assert record.new_tokens == 2
    record = adapt_backbone(extending(vocabulary_min_count=10_000), train_params(), files, texts, 0, folder)
    assert (record.changed, record.first_new_token) == (False, None)
    assert [path.name for path in folder.iterdir()] == ["adapted.json"]


def test_words_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    def count(tokenizer: Any, texts: list[str]) -> Any:
        counted.append(len(texts))
        return word_counts(tokenizer, texts)

    for module in (adapt, vocabulary):
        monkeypatch.setattr(module, "word_counts", count, raising=False)
    texts = [f"{number} {' '.join(KEYWORDS)}" for number in range(4)]
    auto = AdaptParams.parse({"vocabulary_min_count": 3})
    assert adapt_backbone(auto, train_params(), foreign(tmp_path), texts, 0, tmp_path / "adapted").changed
    assert counted == [4]


def test_auto_extends_where_words_are_cut_into_many_pieces(tmp_path: Path) -> None:
    files, folder = foreign(tmp_path), tmp_path / "adapted"
    words = [" ".join(KEYWORDS)] * 4
    auto = extending(vocabulary="auto")
    assert adapt_backbone(
        auto, train_params(), files, [f"{n} {words[0]}" for n in range(4)], 0, folder
    ).changed
    assert not adapt_backbone(auto, train_params(), files, [FILLER] * 4, 0, folder).changed


def test_auto_extends_where_the_script_is_unknown(tmp_path: Path) -> None:
    """A word of another script is one piece, which says nothing."""
    files, folder = tiny(tmp_path), tmp_path / "adapted"
    auto = extending(vocabulary="auto")
    known, unknown = FILLER, "ውሃ የለም ዛሬ"

    def numbered(text: str) -> list[str]:
        return [f"{number} {text}" for number in range(4)]

    assert not adapt_backbone(auto, train_params(), files, numbered(known), 0, folder).changed
    assert adapt_backbone(auto, train_params(), files, numbered(unknown), 0, folder).new_tokens >= 3
    rare = numbered(f"{known} {known} ውሃ")  # less than one word in twenty
    assert not adapt_backbone(auto, train_params(), files, rare, 0, folder).changed


@pytest.mark.parametrize("architecture", ["roberta", "modernbert", "xlm-roberta"])
def test_other_vocabularies_cannot_be_extended_and_auto_leaves_them_alone(
    architecture: Architecture, tmp_path: Path
) -> None:
    files, folder = tiny(tmp_path, architecture), tmp_path / "adapted"
    texts = ["cqxzw kwxqz zzkqw"] * 5
    for glossary in (None, "auto"):
        with pytest.raises(UserError, match=r"adapt\.vocabulary: .*set it to none"):
            adapt_backbone(extending(glossary=glossary), train_params(), files, texts, 0, folder)
    assert not folder.exists()
    assert not adapt_backbone(extending(vocabulary="auto"), train_params(), files, texts, 0, folder).changed


def test_new_tokens_are_taught_by_masked_language_modelling(tmp_path: Path) -> None:
    files = foreign(tmp_path)
    texts = tiny_messages(n=60)["text"].to_pylist()
    plain, taught = tmp_path / "plain", tmp_path / "taught"
    adapt_backbone(extending(), train_params(), files, texts, 0, plain)
    record = adapt_backbone(extending(**LEARNING), train_params(), files, texts, 0, taught)
    assert len(record.masked_loss) == 4
    assert record.new_tokens > 0
    assert load_tokenizer(taught) == load_tokenizer(plain)
    first = record.first_new_token
    moved = (table_of(taught) - table_of(plain)).abs().amax(dim=1)
    assert (moved[first:] > 1e-3).all()


def fine_tune(tmp_path: Path, files: BackboneFiles, name: str, **changes: Any) -> Path:
    """Train an epoch on the backbone in the folder ``adapted``; where the classifier is."""
    values = {
        "backbone": str(files.folder),
        "max_length": 32,
        "epochs": 1,
        "batch_size": 8,
        "weight_decay": 0.0,
        "precision": "fp32",
        "device": "cpu",
        "threads": 1,
        "lexical_length": 40,
    }
    train(
        TrainParams.parse(values | changes),
        tiny_messages(n=40),
        tiny_messages(n=21, seed=1),
        LabelSet("multiclass", LABELS, cleaning={"steps": []}),
        None,
        0,
        tmp_path / name,
        tmp_path / f"{name}-checkpoints",
        tmp_path / "adapted",
    )
    return tmp_path / name


def test_new_tokens_are_fine_tuned_at_a_rate_of_their_own(tmp_path: Path) -> None:
    files, folder = foreign(tmp_path), tmp_path / "adapted"
    texts = tiny_messages(n=40)["text"].to_pylist()
    record = adapt_backbone(extending(), train_params(), files, texts, 0, folder)
    first, before = len(table_of(files.folder)), table_of(folder)
    used = np.unique(np.concatenate(encoded(resolve_backbone(str(folder)), texts)))
    old, new = used[used < first], used[used >= first]
    assert len(new) >= len(" ".join(KEYWORDS[: len(LABELS)]).split())

    def moved(name: str, old_rate: float, new_rate: float) -> torch.Tensor:
        rates = {"learning_rate": old_rate, "new_token_learning_rate": new_rate}
        classifier = fine_tune(tmp_path, files, name, lexical=False, **rates)
        loaded, encoder, config = load_classifier(classifier)
        assert (config.backbone, config.backbone_sha256) == ("bert", files.sha256)
        assert encoder.encode(["agua"])[0][1] >= first
        after = loaded.backbone.get_input_embeddings().weight.detach()
        assert after.shape == (first + record.new_tokens, 32)
        return (after - before).abs().amax(dim=1)

    only_new, only_old = moved("new", 1e-9, 1e-2), moved("old", 1e-2, 1e-9)
    assert only_new[new].min() > 1e-3 > 1e-6 > only_new[old].max()
    assert only_old[old].min() > 1e-3 > 1e-6 > only_old[new].max()


def test_the_lexical_model_knows_what_new_tokens_were_cut_into(tmp_path: Path) -> None:
    files, folder = foreign(tmp_path), tmp_path / "adapted"
    texts = tiny_messages(n=40)["text"].to_pylist()
    record = adapt_backbone(extending(), train_params(), files, texts, 0, folder)
    model, encoder, config = load_classifier(fine_tune(tmp_path, files, "classifier"))
    assert (config.window, config.max_length) == (32, 40)
    assert model.lexical is not None
    assert len(model.lexical.tokens) == len(table_of(files.folder)) + record.new_tokens
    assert predict_logits(model, encoder, texts).shape == (40, 3)
    # The last column adds up: itself, its pieces, and their n-grams.
    (token,) = encoder.encode(["tubería"])[0][1:-1]
    pieces = Encoder(load_tokenizer(files.folder)[0], 32, 0).encode(["tubería"])[0][1:-1]
    squares = model.lexical.tokens[:, -1]
    assert squares[token] > squares[pieces].sum() > 0


@pytest.mark.parametrize("extend", [False, True])
def test_a_table_with_more_rows_than_the_tokenizer_has_tokens(extend: bool, tmp_path: Path) -> None:
    files = foreign(tmp_path)
    backbone = load_pretrained(files.folder)
    backbone.resize_token_embeddings(len(table_of(files.folder)) + 9, mean_resizing=False)
    backbone.save_pretrained(str(files.folder))
    files = resolve_backbone(str(files.folder))
    texts = tiny_messages(n=40)["text"].to_pylist()
    params = extending() if extend else AdaptParams.parse({"vocabulary": "none"})
    adapt_backbone(params, train_params(), files, texts, 0, tmp_path / "adapted")
    model, encoder, _ = load_classifier(fine_tune(tmp_path, files, "classifier"))
    assert predict_logits(model, encoder, texts).shape == (40, 3)


# ------------------------------------------------------------------------------ texts without labels


def sources(*values: dict[str, Any]) -> AdaptParams:
    return AdaptParams.parse({"unlabelled": list(values)})


def test_unlabelled_texts_are_read_as_extract_reads_and_cleaned(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("asunto;texto\nHola;<b>buenas</b>\n;  \nAdiós;tardes\n", encoding="utf-8")
    lines = [{"m": {"body": f"mensaje  {number}"}, "label": "x"} for number in range(5)]
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    (tmp_path / "c" / "otros").mkdir(parents=True)
    (tmp_path / "c" / "otros" / "1.txt").write_text("un documento", encoding="utf-8")
    params = sources(
        {"path": "a.csv", "text": ["asunto", "texto"], "text_separator": ": "},
        {"path": "b.jsonl", "text": "m.body", "limit": 2},
        {"path": "c"},
    )
    assert read_unlabelled(params.unlabelled, tmp_path, ["strip_tags", "collapse_whitespace"]) == [
        "Hola: buenas",
        "Adiós: tardes",
        "mensaje 0",
        "mensaje 1",
        "un documento",
    ]


def test_files_without_labels_need_no_folders(tmp_path: Path) -> None:
    for name in ("1.txt", "2.txt", "2025/enero/3.txt"):
        (tmp_path / "textos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "textos" / name).write_text(f"texto {name}", encoding="utf-8")
    found = read_unlabelled(sources({"path": "textos"}).unlabelled, tmp_path, [])
    assert sorted(found) == ["texto 1.txt", "texto 2.txt", "texto 2025/enero/3.txt"]


def test_a_text_column_may_be_called_label(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,label\n1,uno\n2,dos\n", encoding="utf-8")
    params = sources({"path": "a.csv", "text": "label"})
    assert read_unlabelled(params.unlabelled, tmp_path, []) == ["uno", "dos"]


def test_a_source_without_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,texto\n1,\n2, \n", encoding="utf-8")
    with pytest.raises(UserError, match=r"adapt\.unlabelled: a\.csv: no text in it"):
        read_unlabelled(sources({"path": "a.csv", "text": "texto"}).unlabelled, tmp_path, [])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"path": "a.csv", "text": "t", "label": "l"}, "label does not apply to unlabelled texts"),
        ({"path": "a.csv", "text": "t", "split": "part"}, "split does not apply to unlabelled texts"),
        ({"path": "a.csv"}, "text is missing"),
        ({"path": "a.csv", "texto": "t"}, "unknown parameter 'texto'; did you mean 'text'"),
        ({"path": "a.csv", "text": "t", "columns": ["t"]}, "add header: false"),
    ],
)
def test_sources_that_are_wrong(source: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"adapt\.unlabelled.*{message}"):
        sources(source)


def lay_out(root: Path, section: dict[str, Any]) -> tuple[int, int]:
    """What the stage needs and nothing more: no validation, no test. Distinct texts in train and outside."""
    messages = tiny_messages(n=40).select(table.SCHEMA.names)
    table.write(messages, root / "data/splits/train.parquet")
    labels = {"task": "multiclass", "labels": ["agua", "luz"], "cleaning": {"steps": ["lowercase"]}}
    (root / "data/clean").mkdir(parents=True)
    (root / "data/clean/labels.json").write_text(json.dumps(labels), encoding="utf-8")
    (root / "data/source").mkdir()
    extra = ["text", messages["text"][0].as_py().upper(), "OTRO TEXTO", "y otro más"]
    (root / "data/source/extra.csv").write_text("\n".join(extra) + "\n", encoding="utf-8")
    build_tiny_backbone(root / "tiny")
    train = {"backbone": "tiny", "max_length": 32, "precision": "fp32", "device": "cpu"}
    params = {"seed": 3, "extract": {"sources": [{"path": "x.csv", "text": "t", "label": "l"}]}}
    (root / "params.yaml").write_text(
        yaml.safe_dump({**params, "train": train, "adapt": section}), encoding="utf-8"
    )
    return len(set(messages["text"].to_pylist())), 2


def run_stage(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(root)
    runpy.run_path(str(PIPELINE / "adapt.py"), run_name="__main__")
    return read_json(root / "models/adapted/adapted.json")


@pytest.mark.parametrize("unlabelled", [False, True])
def test_the_stage_reads_the_training_texts_and_the_unlabelled_ones(
    unlabelled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = {"path": "data/source/extra.csv", "text": "text"}
    train, extra = lay_out(tmp_path, {"epochs": 1, "unlabelled": [source] if unlabelled else []})
    record = run_stage(tmp_path, monkeypatch)
    # One of the three is a training text once it is cleaned.
    assert record["texts"] == train + (extra if unlabelled else 0)
    assert record["changed"]
    assert f"tiny adapted to {record['texts']} texts, masked loss" in capsys.readouterr().out


def test_the_stage_goes_on_after_the_last_epoch_that_it_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out(tmp_path, {"epochs": 3, "vocabulary": "none"})  # 2 updates an epoch
    checkpoints = tmp_path / "models/checkpoints/adapt"
    with monkeypatch.context() as patch:
        kill_at(patch, 3)
        with pytest.raises(Killed):
            run_stage(tmp_path, monkeypatch)
    assert [path.name for path in checkpoints.iterdir()] == ["checkpoint.safetensors"]
    begun = kill_at(monkeypatch, -1)
    assert len(run_stage(tmp_path, monkeypatch)["masked_loss"]) == 3
    assert begun == [2, 3, 4, 5]
    assert not checkpoints.exists()
    assert "adapt: resumes after epoch 1 of 3\n" in capsys.readouterr().err


def test_the_stage_does_nothing_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out(tmp_path, {})
    assert not run_stage(tmp_path, monkeypatch)["changed"]
    assert "adapt: tiny is left as it is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "vocabulary", "noted"),
    [
        ("data/glossary.csv", "extend", True),
        ("data/source/glossary.csv", "extend", False),
        ("data/glossary.csv", "none", False),
        ("auto", "extend", False),
    ],
)
def test_a_glossary_that_dvc_does_not_look_at_is_noted(
    path: str,
    vocabulary: str,
    noted: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lay_out(tmp_path, {"vocabulary": vocabulary, "glossary": path, "vocabulary_min_count": 10_000})
    if path != "auto":
        (tmp_path / path).write_text("word,meaning\nzueco,agua\n", encoding="utf-8")
    run_stage(tmp_path, monkeypatch)
    note = "adapt: note: data/glossary.csv is outside data/source, so a change of it reruns nothing"
    assert (note in capsys.readouterr().err) == noted


@pytest.mark.parametrize(
    "section", [{}, {"vocabulary": "extend", "vocabulary_min_count": 10_000, "glossary": None}]
)
def test_where_nothing_is_worth_doing_torch_is_not_loaded(section: dict[str, Any], tmp_path: Path) -> None:
    lay_out(tmp_path, section)
    save_file({"unlike": np.zeros(1)}, tmp_path / "tiny/model.safetensors")  # no weights of a backbone
    script = f"import runpy, sys; runpy.run_path({str(PIPELINE / 'adapt.py')!r}, run_name='__main__')"
    script += "; assert 'torch' not in sys.modules, 'torch was loaded'"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "adapt: tiny is left as it is" in done.stdout
    assert read_json(tmp_path / "models/adapted/adapted.json")["texts"] == 0


@pytest.mark.parametrize(
    ("glossary", "said"),
    [("g.csv", " (2 of them and 1 known ones start from the glossary)"), (None, "")],
)
def test_the_stage_says_how_many_new_tokens_start_from_the_glossary(
    glossary: str | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # One word that the texts have, one that they lack, and one that the tokenizer knows.
    rows = "word,meaning\nagua,calle\nnunca,calle\na,calle\n"
    (tmp_path / "g.csv").write_text(rows, encoding="utf-8")
    section = {"vocabulary": "extend", "vocabulary_min_count": 3, "glossary": glossary}
    lay_out(tmp_path, section)
    build_tiny_backbone(tmp_path / "tiny", texts=[FILLER] * 3 + [" ".join("abcdefghijklmnopqrstuvwxyz")])
    record = run_stage(tmp_path, monkeypatch)
    assert (record["translated"], record["redefined"]) == ((2, 1) if glossary else (0, 0))
    assert f" texts, {record['new_tokens']} new tokens{said} (" in capsys.readouterr().out
