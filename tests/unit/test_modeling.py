"""Pooling and head, the classifier on disk, and predictions in batches."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from afina.errors import UserError
from afina.modeling.backbone import load_tokenizer
from afina.modeling.classifier import (
    ACTIVATIONS,
    Activation,
    TextClassifier,
    hidden_layer,
    load_pretrained,
    pool,
)
from afina.modeling.inference import in_batches, predict_logits
from afina.modeling.lexical import LexicalScorer
from afina.modeling.store import ClassifierConfig, load_classifier, read_config, save_classifier
from afina.runtime.encoding import Encoder, Ids, pad_batch
from tiny import ARCHITECTURES, LABELS, Architecture, build_tiny_backbone, tiny_messages

TEXTS = tiny_messages(n=17, seed=3)["text"].to_pylist()


def make(
    folder: Path, architecture: Architecture = "bert", **options: object
) -> tuple[TextClassifier, Encoder, str]:
    """A classifier with random weights over a tiny backbone."""
    build_tiny_backbone(folder, architecture)
    tokenizer_json, pad = load_tokenizer(folder)
    torch.manual_seed(5)
    model = TextClassifier(load_pretrained(folder), len(LABELS), **options)  # type: ignore[arg-type]
    return model.eval(), Encoder(tokenizer_json, 32, pad), tokenizer_json


def config_for(encoder: Encoder, model: TextClassifier, **changes: object) -> ClassifierConfig:
    values: dict[str, object] = {
        "task": "multiclass",
        "labels": list(LABELS),
        "max_length": 32,
        "window": 32,
        "lexical": None,
        "pooling": model.pooling,
        "head": [],
        "activation": "relu",
        "dropout": 0.1,
        "pad_token_id": encoder.pad_token_id,
        "backbone": "tiny",
        "backbone_revision": None,
        "backbone_sha256": "0" * 64,
        "backbone_licence": None,
        "cleaning": {"steps": ["collapse_whitespace"]},
        "train_data_sha256": "1" * 64,
    }
    return ClassifierConfig(**(values | changes))  # type: ignore[arg-type]


def add_lexical(model: TextClassifier, window: int, order: int = 3, buckets: int = 256) -> LexicalScorer:
    """Give a classifier a lexical model of random weights, as large as what the backbone says."""
    draw = torch.Generator().manual_seed(1)
    scorer = LexicalScorer(len(model.backbone.get_input_embeddings().weight), buckets, len(LABELS), order)
    for table in (scorer.tokens, scorer.grams):
        table.copy_(torch.randn(table.shape, generator=draw))
        table[:, -1].abs_()
    scorer.bias.copy_(torch.tensor([0.5, -1.0, 2.0]))
    model.add_lexical(scorer, (0.75, 1.5), window)
    return scorer


def test_pooling_leaves_padding_out() -> None:
    hidden = torch.tensor(
        [[[1.0, -4.0], [3.0, -2.0], [90.0, 90.0]], [[5.0, 6.0], [70.0, 70.0], [80.0, 80.0]]]
    )
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert pool(hidden, mask, "mean").tolist() == [[2.0, -3.0], [5.0, 6.0]]
    assert pool(hidden, mask, "max").tolist() == [[3.0, -2.0], [5.0, 6.0]]
    assert pool(hidden, mask, "cls").tolist() == [[1.0, -4.0], [5.0, 6.0]]


def test_head_is_any_list_of_layers(tmp_path: Path) -> None:
    model, encoder, _ = make(tmp_path / "b", head=[48, 22, 6], activation="tanh", dropout=0.2)
    shapes = [tuple(layer.weight.shape) for layer in model.head if isinstance(layer, torch.nn.Linear)]
    assert shapes == [(48, 32), (22, 48), (6, 22), (3, 6)]
    assert sum(isinstance(layer, torch.nn.Tanh) for layer in model.head) == 3
    assert [layer.p for layer in model.head if isinstance(layer, torch.nn.Dropout)] == [0.2] * 4
    assert predict_logits(model, encoder, TEXTS).shape == (17, 3)


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
def test_a_deep_head_starts_with_signals_of_the_size_it_is_given(activation: Activation) -> None:
    torch.manual_seed(0)
    signal = torch.randn(64, 384)
    for inputs, outputs in ((384, 768), (768, 350), (350, 100)):
        signal = ACTIVATIONS[activation]()(hidden_layer(inputs, outputs, activation)(signal))
    assert 0.4 < float(signal.detach().pow(2).mean().sqrt()) < 2.0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_padding_does_not_change_logits(architecture: Architecture, pooling: str, tmp_path: Path) -> None:
    model, encoder, _ = make(tmp_path / "b", architecture, pooling=pooling)
    ids = encoder.encode(TEXTS)
    with torch.no_grad():
        together = model(*map(torch.from_numpy, pad_batch(ids, encoder.pad_token_id)))
        alone = [model(*map(torch.from_numpy, pad_batch([row], encoder.pad_token_id))) for row in ids]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)
    assert together.dtype == torch.float32
    assert together.std(dim=0).min() > 0  # the text matters


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_backbone_sees_what_transformers_would(architecture: Architecture, tmp_path: Path) -> None:
    from transformers import AutoModel

    model, encoder, _ = make(tmp_path / "b", architecture, pooling="cls")
    reference = AutoModel.from_pretrained(str(tmp_path / "b"), attn_implementation="sdpa").eval()
    batch = [torch.from_numpy(part) for part in pad_batch(encoder.encode(TEXTS[:5]), encoder.pad_token_id)]
    with torch.no_grad():
        ours = model.backbone(input_ids=batch[0], attention_mask=batch[1]).last_hidden_state
        theirs = reference(input_ids=batch[0], attention_mask=batch[1]).last_hidden_state
    real = batch[1].bool()
    torch.testing.assert_close(ours[real], theirs[real], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saved_and_loaded_again_it_says_the_same(architecture: Architecture, tmp_path: Path) -> None:
    model, encoder, tokenizer_json = make(tmp_path / "b", architecture, head=[16], pooling="max")
    config = config_for(encoder, model, head=[16])
    save_classifier(tmp_path / "c", model, model.backbone.config.to_diff_dict(), tokenizer_json, config)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [
        "classifier.json",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    state = torch.get_rng_state()
    loaded, loaded_encoder, loaded_config = load_classifier(tmp_path / "c")
    assert torch.equal(state, torch.get_rng_state())
    assert not loaded.training
    assert loaded_config == config
    np.testing.assert_array_equal(
        predict_logits(loaded, loaded_encoder, TEXTS), predict_logits(model, encoder, TEXTS)
    )
    assert str(tmp_path) not in (tmp_path / "c" / "config.json").read_text(encoding="utf-8")
    assert not any("pooler" in name for name in load_file(tmp_path / "c" / "model.safetensors"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saved_with_its_lexical_model_it_says_the_same(architecture: Architecture, tmp_path: Path) -> None:
    model, encoder, tokenizer_json = make(tmp_path / "b", architecture)
    plain = predict_logits(model, encoder, TEXTS)
    scorer = add_lexical(model, 10, order=2, buckets=128)
    rows = len(model.backbone.get_input_embeddings().weight)
    assert scorer.shape() == {"vocabulary": rows, "buckets": 128, "order": 2}
    config = config_for(encoder, model, window=10, lexical=scorer.shape())
    save_classifier(tmp_path / "c", model, model.backbone.config.to_diff_dict(), tokenizer_json, config)
    weights = load_file(tmp_path / "c" / "model.safetensors")
    assert weights["mixture"].tolist() == [0.75, 1.5]
    state = torch.get_rng_state()
    loaded, loaded_encoder, loaded_config = load_classifier(tmp_path / "c")
    assert torch.equal(state, torch.get_rng_state())
    assert loaded_config == config
    assert loaded.lexical is not None
    assert (loaded.window, loaded.lexical.order, loaded.lexical.buckets) == (10, 2, 128)
    expected = predict_logits(model, encoder, TEXTS)
    np.testing.assert_array_equal(predict_logits(loaded, loaded_encoder, TEXTS), expected)
    assert np.abs(expected - plain).max() > 0.5


@pytest.mark.parametrize("change", [{"buckets": 64}, {"vocabulary": 7}, None])
def test_tables_of_another_size_do_not_fit(change: dict[str, int] | None, tmp_path: Path) -> None:
    model, encoder, tokenizer_json = make(tmp_path / "b")
    shape = add_lexical(model, 32).shape()
    config = config_for(encoder, model, lexical=None if change is None else shape | change)
    save_classifier(tmp_path / "c", model, model.backbone.config.to_diff_dict(), tokenizer_json, config)
    with pytest.raises(UserError, match=r"model\.safetensors: weights do not fit"):
        load_classifier(tmp_path / "c")


@pytest.mark.parametrize(("schema", "unknown"), [(1, ("window", "lexical")), (2, ())])
def test_a_classifier_of_an_earlier_schema_is_not_of_this_version(
    schema: int, unknown: tuple[str, ...], tmp_path: Path
) -> None:
    model, encoder, tokenizer_json = make(tmp_path / "b")
    save_classifier(
        tmp_path / "c",
        model,
        model.backbone.config.to_diff_dict(),
        tokenizer_json,
        config_for(encoder, model),
    )
    path = tmp_path / "c" / "classifier.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    assert values["schema_version"] == 3
    older = {key: value for key, value in values.items() if key not in unknown}
    path.write_text(json.dumps(older | {"schema_version": schema}), encoding="utf-8")
    with pytest.raises(UserError, match=r"classifier\.json: not a classifier of this version .*dvc repro"):
        read_config(tmp_path / "c")


def test_hashes_are_those_that_the_tables_were_saved_with(tmp_path: Path) -> None:
    model, encoder, tokenizer_json = make(tmp_path / "b")
    scorer = add_lexical(model, 10)
    scorer.codes.copy_((scorer.codes + 1) % scorer.buckets)  # as if another version had made them
    config = config_for(encoder, model, window=10, lexical=scorer.shape())
    save_classifier(tmp_path / "c", model, model.backbone.config.to_diff_dict(), tokenizer_json, config)
    loaded = load_classifier(tmp_path / "c")[0].lexical
    assert loaded is not None
    assert torch.equal(loaded.codes, scorer.codes)
    weights = load_file(tmp_path / "c" / "model.safetensors")
    del weights["lexical.codes"]
    save_file(weights, tmp_path / "c" / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors: weights do not fit"):
        load_classifier(tmp_path / "c")


def test_the_sum_of_two_opinions(tmp_path: Path) -> None:
    model, encoder, _ = make(tmp_path / "b")
    scorer = add_lexical(model, 10)
    batch = [torch.from_numpy(part) for part in pad_batch(encoder.encode(TEXTS), encoder.pad_token_id)]
    with torch.no_grad():
        backbone = model.backbone_logits(*(part[:, :10] for part in batch))
        torch.testing.assert_close(model(*batch), 0.75 * backbone + 1.5 * scorer(*batch))
        model.add_lexical(scorer, (1.0, 0.0), 10)
        torch.testing.assert_close(model(*batch), backbone)
    assert not {name for name, _ in model.named_parameters() if "lexical" in name or "mixture" in name}


def test_tokens_beyond_the_window_reach_the_lexical_model_alone(tmp_path: Path) -> None:
    model, _, _ = make(tmp_path / "b")
    scorer = add_lexical(model, 10)
    ids = torch.randint(5, 200, (4, 25), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    beyond, within = ids.clone(), ids.clone()
    beyond[:, 10] += 1  # the first that the backbone does not see
    within[:, 9] += 1
    with torch.no_grad():
        for changed, backbone_differs in ((beyond, False), (within, True)):
            lexical = scorer(changed, mask) - scorer(ids, mask)
            total = model(changed, mask) - model(ids, mask)
            assert (lexical.abs().amax(dim=1) > 1e-3).all()
            assert torch.allclose(total, 1.5 * lexical, rtol=0, atol=1e-5) != backbone_differs
        # More tokens than the backbone has positions are no trouble.
        longer = torch.randint(5, 200, (2, 150), generator=torch.Generator().manual_seed(0))
        assert model(longer, torch.ones_like(longer)).shape == (2, 3)


def test_in_bfloat16_the_lexical_model_stays_exact(tmp_path: Path) -> None:
    model, encoder, _ = make(tmp_path / "b")
    scorer = add_lexical(model, 10)
    model.add_lexical(scorer, (0.0, 1.0), 10)
    half = predict_logits(model, encoder, TEXTS, precision="bf16")
    np.testing.assert_allclose(half, predict_logits(model, encoder, TEXTS), atol=1e-5)


def test_saving_replaces_the_folder_and_gives_the_same_bytes(tmp_path: Path) -> None:
    model, encoder, tokenizer_json = make(tmp_path / "b")
    save = (model, model.backbone.config.to_diff_dict(), tokenizer_json, config_for(encoder, model))
    save_classifier(tmp_path / "c", *save)
    first = {path.name: path.read_bytes() for path in (tmp_path / "c").iterdir()}
    (tmp_path / "c" / "left-over").write_text("x", encoding="utf-8")
    save_classifier(tmp_path / "c", *save)
    assert {path.name: path.read_bytes() for path in (tmp_path / "c").iterdir()} == first


def test_loading_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"classifier\.json: no such file"):
        load_classifier(tmp_path / "none")
    model, encoder, tokenizer_json = make(tmp_path / "b")
    folder = tmp_path / "c"
    save_classifier(
        folder, model, model.backbone.config.to_diff_dict(), tokenizer_json, config_for(encoder, model)
    )
    weights = load_file(folder / "model.safetensors")
    save_file({name: weights[name] for name in list(weights)[1:]}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors: weights do not fit"):
        load_classifier(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: no such file"):
        load_classifier(folder)
    values = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))
    (folder / "classifier.json").write_text(json.dumps(values | {"schema_version": 99}), encoding="utf-8")
    with pytest.raises(UserError, match="not a classifier of this version"):
        read_config(folder)


def test_logits_come_in_the_order_of_the_texts_whatever_the_budget(tmp_path: Path) -> None:
    model, encoder, _ = make(tmp_path / "b")
    model.train()
    whole = predict_logits(model, encoder, TEXTS)
    assert model.training  # as it was
    np.testing.assert_allclose(predict_logits(model, encoder, TEXTS, token_budget=30), whole, atol=1e-5)
    np.testing.assert_allclose(predict_logits(model, encoder, TEXTS[::-1]), whole[::-1], atol=1e-5)
    half = predict_logits(model, encoder, TEXTS, precision="bf16")
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, whole, atol=0.05)
    assert not np.array_equal(half, whole)
    assert predict_logits(model, encoder, []).shape == (0, 3)


def test_dropout_of_the_backbone_can_be_set(tmp_path: Path) -> None:
    for architecture in ARCHITECTURES:
        folder = build_tiny_backbone(tmp_path / architecture, architecture)
        rates = {
            layer.p
            for layer in load_pretrained(folder, dropout=0.3).modules()
            if isinstance(layer, torch.nn.Dropout)
        }
        assert rates == {0.3}, architecture


def test_weights_that_lack_a_tensor_are_refused(tmp_path: Path) -> None:
    folder = build_tiny_backbone(tmp_path / "b")
    weights = load_file(folder / "model.safetensors")
    weights.pop("encoder.layer.1.output.dense.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lack 1 tensors .*encoder\.layer\.1\.output\.dense\.weight"):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_act": "nonsense"}, "KeyError: 'nonsense'"),
        ({"hidden_size": "large"}, ".*hidden_size"),
        ({"num_attention_heads": 5}, "ValueError: The hidden size"),
    ],
)
def test_a_configuration_that_makes_no_model_is_one_line(
    changes: dict[str, object], reason: str, tmp_path: Path
) -> None:
    folder = build_tiny_backbone(tmp_path / "b")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    with pytest.raises(UserError, match=rf"^train\.backbone: .*cannot load the weights \({reason}") as error:
        load_pretrained(folder)
    assert "\n" not in str(error.value)


def test_weights_of_other_sizes_are_named(tmp_path: Path) -> None:
    folder = build_tiny_backbone(tmp_path / "b")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    changed = json.dumps(config | {"vocab_size": config["vocab_size"] + 3})
    (folder / "config.json").write_text(changed, encoding="utf-8")
    sizes = rf"\[{config['vocab_size']}, 32\], config\.json asks for \[{config['vocab_size'] + 3}, 32\]"
    with pytest.raises(UserError, match=rf"have embeddings\.word_embeddings\.weight of the sizes {sizes}"):
        load_pretrained(folder)


def test_half_of_the_weights_is_one_line(tmp_path: Path) -> None:
    folder = build_tiny_backbone(tmp_path / "b")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:20_000])
    with pytest.raises(UserError, match=r"cannot load the weights \(SafetensorError: .*safetensors files$"):
        load_pretrained(folder)


def scored_within(most: int, asked: list[int]) -> Callable[[Sequence[Ids]], torch.Tensor]:
    """Scores texts by their first token; more than so many tokens of a padded batch do not fit."""

    def score(batch: Sequence[Ids]) -> torch.Tensor:
        asked.append(len(batch) * max(len(row) for row in batch))
        if asked[-1] > most:
            raise torch.OutOfMemoryError("out of memory")
        return torch.tensor([[float(row[0]), 1.0] for row in batch])

    return score


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60),
    most=st.integers(40, 2000),
    budget=st.integers(1, 4000),
)
def test_a_batch_that_does_not_fit_is_scored_in_smaller_ones(
    lengths: list[int], most: int, budget: int
) -> None:
    ids = [np.full(length, number) for number, length in enumerate(lengths)]
    asked: list[int] = []
    with contextlib.redirect_stderr(io.StringIO()) as said:
        found = in_batches(scored_within(most, asked), ids, 2, budget)
    assert found[:, 0].tolist() == list(range(len(ids)))
    failures = sum(size > most for size in asked)
    assert said.getvalue().count("does not fit in the memory; going on with batches of") == failures
    # Each failure at least halves what is asked for, so that there are few.
    assert failures <= max(np.log2(max(asked) / most), 0) + 1


@pytest.mark.parametrize(("error", "count"), [(torch.OutOfMemoryError("x"), 1), (RuntimeError("shapes"), 4)])
def test_what_smaller_batches_do_not_mend_is_raised(error: Exception, count: int) -> None:
    def score(batch: Sequence[Ids]) -> torch.Tensor:
        raise error

    with pytest.raises(type(error), match=str(error)):
        in_batches(score, [np.ones(8, dtype=np.int64)] * count, 2)
