"""A trained classifier on disk: four files in a folder, readable without a network."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from afina.errors import UserError
from afina.files import atomic_path, read_json, write_json, write_text
from afina.modeling.classifier import Activation, Pooling, TextClassifier
from afina.modeling.lexical import LexicalScorer
from afina.runtime.encoding import Encoder

SCHEMA_VERSION = 3

WEIGHTS = "model.safetensors"
BACKBONE_CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
CONFIG = "classifier.json"


@dataclass(frozen=True)
class ClassifierConfig:
    """What a classifier is, apart from its weights (``classifier.json``)."""

    task: Literal["multiclass", "multilabel"]
    labels: list[str]  # in the order of the logits
    max_length: int  # tokens of a text, special tokens included
    window: int  # of these, tokens that the backbone sees
    lexical: dict[str, int] | None  # `LexicalScorer.shape`, where there is one
    pooling: Pooling
    head: list[int]
    activation: Activation
    dropout: float
    pad_token_id: int
    backbone: str
    backbone_revision: str | None
    backbone_sha256: str
    backbone_licence: str | None
    cleaning: dict[str, Any]  # as labels.json states it: done to every text before it is encoded
    train_data_sha256: str
    schema_version: int = field(default=SCHEMA_VERSION)


def save_classifier(
    folder: Path,
    model: TextClassifier,
    backbone_config: dict[str, Any],
    tokenizer_json: str,
    config: ClassifierConfig,
) -> None:
    """Write weights, backbone configuration, tokenizer and `ClassifierConfig`; the folder appears whole."""
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        weights = {
            name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()
        }
        save_file(weights, temporary / WEIGHTS, metadata={"format": "pt"})
        # Where the backbone lay on this machine is nobody's business.
        portable = {key: value for key, value in backbone_config.items() if key != "_name_or_path"}
        write_json(temporary / BACKBONE_CONFIG, portable)
        write_text(temporary / TOKENIZER, tokenizer_json)
        write_json(temporary / CONFIG, asdict(config))


def read_config(folder: Path) -> ClassifierConfig:
    """Read ``classifier.json``.

    Raises:
        UserError: it is missing, or written by another version of afina.
    """
    path = folder / CONFIG
    values = read_json(path)
    names = {item.name for item in fields(ClassifierConfig)}
    if not isinstance(values, dict) or set(values) != names or values["schema_version"] != SCHEMA_VERSION:
        raise UserError(f"{path}: not a classifier of this version of afina; run `dvc repro -f train`")
    return ClassifierConfig(**values)


def load_classifier(
    folder: Path, attention: str = "eager"
) -> tuple[TextClassifier, Encoder, ClassifierConfig]:
    """Rebuild a classifier saved by `save_classifier`, in evaluation mode on the CPU, without a network.

    Args:
        folder: the classifier's folder.
        attention: transformers' ``attn_implementation``.

    Raises:
        UserError: a file is missing or they do not belong together.
    """
    import transformers

    auto_model: Any = transformers.AutoModel
    config = read_config(folder)
    for name in (WEIGHTS, BACKBONE_CONFIG, TOKENIZER):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: no such file; run `dvc repro` to make it")
    backbone_config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True)
    with torch.random.fork_rng(devices=[]):  # the random weights made here are replaced just below
        backbone = auto_model.from_config(backbone_config, attn_implementation=attention)
        model = TextClassifier(
            backbone, len(config.labels), config.pooling, config.head, config.activation, config.dropout
        )
        if config.lexical is not None:
            scorer = LexicalScorer(label_count=len(config.labels), **config.lexical)
            model.add_lexical(scorer, (1.0, 1.0), config.window)
    try:
        model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    except (RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{folder / WEIGHTS}: weights do not fit the classifier ({reason})") from None
    encoder = Encoder(
        (folder / TOKENIZER).read_text(encoding="utf-8"), config.max_length, config.pad_token_id
    )
    return model.eval(), encoder, config
