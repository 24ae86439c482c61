"""What the trained classifier, and its backbone before fine-tuning, make of texts: logits, and vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from afina.errors import UserError
from afina.evaluation.metrics import FloatArray
from afina.labels import LabelSet
from afina.modeling.backbone import BackboneFiles, load_tokenizer
from afina.modeling.classifier import TextClassifier, load_pretrained, pool
from afina.modeling.inference import in_batches, predict_logits
from afina.modeling.store import TOKENIZER, ClassifierConfig, load_classifier, read_config
from afina.progress import Progress
from afina.runtime.encoding import Encoder, Ids, pad_batch


def score_classifier(
    folder: Path, splits: Sequence[Sequence[str]], label_set: LabelSet, token_budget: int
) -> list[FloatArray]:
    """Logits of each split's texts, each (n, L) float32.

    Args:
        folder: the saved classifier.
        splits: cleaned texts of each split.
        label_set: must be what the classifier was trained with.
        token_budget: tokens in a batch, padding included.

    Raises:
        UserError: the classifier is missing or has another task or other labels.
    """
    model, encoder, config = load_classifier(folder)
    if (config.task, tuple(config.labels)) != (label_set.task, label_set.labels):
        raise UserError(f"{folder}: trained for another task or other labels; run `dvc repro train`")
    return _logits(model, encoder, splits, token_budget, "evaluate")


def count_tokens(folder: Path, texts: Sequence[str]) -> tuple[list[int], int]:
    """How many tokens the classifier's tokenizer makes of texts, and how many the backbone sees.

    Counting ends one token after that: enough to tell which texts are cut off.

    Args:
        folder: the saved classifier.
        texts: cleaned.
    """
    config = read_config(folder)
    tokenizer_json = (folder / TOKENIZER).read_text(encoding="utf-8")
    encoder = Encoder(tokenizer_json, config.window + 1, config.pad_token_id)
    return [len(ids) for ids in encoder.encode(texts)], config.window


def score_untrained(
    folder: Path, splits: Sequence[Sequence[str]], token_budget: int, seed: int, backbone: BackboneFiles
) -> list[FloatArray]:
    """As `score_classifier`, of the same architecture before fine-tuning, its head drawn from ``seed``.

    Args:
        folder: the saved classifier.
        splits: cleaned texts of each split.
        token_budget: tokens in a batch, padding included.
        seed: of the head's random weights.
        backbone: what the classifier was trained from.

    Raises:
        UserError: the backbone is not the one the classifier was trained from.
    """
    config = read_config(folder)
    # Its own tokenizer: the trained classifier may know more tokens.
    tokenizer_json, pad_token_id = load_tokenizer(backbone.folder)
    encoder = Encoder(tokenizer_json, config.window, pad_token_id)
    return _logits(untrained_classifier(config, seed, backbone), encoder, splits, token_budget, "untrained")


def untrained_classifier(config: ClassifierConfig, seed: int, backbone: BackboneFiles) -> TextClassifier:
    """The architecture of ``config`` as it was before fine-tuning: pretrained backbone, random head.

    Raises:
        UserError: the backbone is not the one the classifier was trained from.
    """
    _check_backbone(config, backbone, "untrained")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TextClassifier(
            load_pretrained(backbone.folder),
            len(config.labels),
            config.pooling,
            config.head,
            config.activation,
            config.dropout,
        )


def embed_untrained(
    folder: Path, splits: Sequence[Sequence[str]], token_budget: int, backbone: BackboneFiles
) -> list[FloatArray]:
    """Vectors of each split's texts by the backbone as published, each (n, H) float32: means over tokens.

    The mean, whatever pooling the classifier has: the vector of the first token says little of a text before
    it is fine-tuned to.

    Args:
        folder: the saved classifier.
        splits: cleaned texts of each split.
        token_budget: tokens in a batch, padding included.
        backbone: what the classifier was trained from.

    Raises:
        UserError: the backbone is not the one the classifier was trained from.
    """
    config = read_config(folder)
    _check_backbone(config, backbone, "probe")
    tokenizer_json, pad_token_id = load_tokenizer(backbone.folder)
    encoder = Encoder(tokenizer_json, config.window, pad_token_id)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_pretrained(backbone.folder).eval().to(device)

    def embed(batch: Sequence[Ids]) -> Tensor:
        ids, mask = (torch.from_numpy(part).to(device) for part in pad_batch(batch, pad_token_id))
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        return pool(hidden.float(), mask, "mean")

    width = int(model.config.hidden_size)
    with Progress("probe", sum(map(len, splits)), "texts") as progress:
        return [in_batches(embed, encoder.encode(texts), width, token_budget, progress) for texts in splits]


def _check_backbone(config: ClassifierConfig, backbone: BackboneFiles, wanted_for: str) -> None:
    if backbone.sha256 != config.backbone_sha256:
        raise UserError(
            f"train.backbone: {backbone.folder}: its weights changed since training; run `dvc repro -f "
            f"train` or set evaluate.{wanted_for} to false"
        )


def _logits(
    model: TextClassifier,
    encoder: Encoder,
    splits: Sequence[Sequence[str]],
    token_budget: int,
    description: str,
) -> list[FloatArray]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with Progress(description, sum(map(len, splits)), "texts") as progress:
        return [
            predict_logits(model, encoder, texts, token_budget=token_budget, device=device, progress=progress)
            for texts in splits
        ]
