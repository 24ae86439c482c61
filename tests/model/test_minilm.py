"""The default backbone with its real weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from afina.labels import LabelSet
from afina.modeling.backbone import DEFAULT_BACKBONE, BackboneFiles, load_tokenizer, resolve_backbone
from afina.modeling.inference import predict_logits
from afina.modeling.store import load_classifier
from afina.params.train import TrainParams
from afina.runtime.encoding import Encoder
from afina.training.loop import train
from tiny import LABELS, tiny_messages


@pytest.fixture(scope="module")
def minilm() -> BackboneFiles:
    return resolve_backbone(DEFAULT_BACKBONE)


def test_weights_are_the_pinned_ones(minilm: BackboneFiles) -> None:
    assert minilm.sha256 == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert minilm.licence == "Apache-2.0"


def test_ids_equal_those_of_transformers_beyond_the_128_tokens_of_the_file(minilm: BackboneFiles) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(str(minilm.folder), local_files_only=True)
    tokenizer_json, pad = load_tokenizer(minilm.folder)
    assert pad == reference.pad_token_id
    texts = [*tiny_messages(n=50)["text"].to_pylist(), "", "Ñandú\tÁÉÍ 😀\n", "pensión " * 400]
    for max_length in (16, 128, 300):
        expected = reference(texts, truncation=True, max_length=max_length)["input_ids"]
        encoder = Encoder(tokenizer_json, max_length, pad)
        assert [row.tolist() for row in encoder.encode(texts)] == expected
    assert max(len(ids) for ids in expected) == 300


def test_it_learns_and_its_copy_on_disk_says_the_same(tmp_path: Path) -> None:
    validation = tiny_messages(n=24, seed=1)
    result = train(
        TrainParams(max_length=32, epochs=2, batch_size=8, learning_rate=3e-4, threads=2),
        tiny_messages(n=72),
        validation,
        LabelSet("multiclass", LABELS),
        None,
        0,
        tmp_path / "classifier",
        tmp_path / "checkpoints",
    )
    assert result.best_macro_f1 > 0.9
    texts = validation["text"].to_pylist()
    model, encoder, config = load_classifier(tmp_path / "classifier")
    assert config.backbone == DEFAULT_BACKBONE
    logits = predict_logits(model, encoder, texts)
    right = [
        LABELS[index] == labels[0]
        for index, labels in zip(logits.argmax(axis=1), validation["labels"].to_pylist(), strict=True)
    ]
    assert np.mean(right) > 0.9
    # Rounding to bfloat16 moves logits by little and decisions hardly ever.
    assert np.abs(predict_logits(model, encoder, texts, precision="bf16") - logits).max() < 0.25
