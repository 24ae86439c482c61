"""What a model file says about itself: the ``metadata_props`` of ``model.onnx``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from afina.errors import UserError

SCHEMA_VERSION = 1
TASKS = ("multiclass", "multilabel")
PRECISIONS = ("fp32", "int8", "fp16")
_LARGEST = 2**31 - 1  # of a whole number; what tokenizers and numpy take ends not far beyond


@dataclass(frozen=True)
class ArtifactMetadata:
    """Everything besides the weights that a prediction needs or a reader should know.

    Attributes:
        task: multiclass (one label a text) or multilabel (any number).
        labels: the L labels, in the order of the graph's outputs.
        thresholds: multilabel: each label's lowest probability that assigns it; multiclass: None.
        max_length: longest text in tokens, special tokens included; the rest is cut off.
        abstain_below: a text of lower confidence is for a person, see `afina.runtime.Prediction`; 0: none
            is, infinity: all are, because no confidence was enough.
        target_accuracy: how often the other answers were to be right; None where nobody asked.
        reference: histograms of held-out texts and their predictions, to tell drift by, as
            `afina.runtime.drift.Reference.to_json` gives them; None in a file without.
        pad_token_id: the id that fills short rows of a batch.
        tokenizer: contents of ``tokenizer.json``.
        cleaning: names of the steps of `afina.runtime.text`, in order, that a text goes through first.
        backbone: name of the pretrained model.
        backbone_licence: its licence as far as it is known.
        training_data_sha256: SHA-256 of the table the model was trained on.
        metrics: headline metrics of the test split, by this file.
        precision: fp32, int8 where weights and activations are quantised, or fp16 where they are halved.
        afina_version: the version that wrote the file.
    """

    task: Literal["multiclass", "multilabel"]
    labels: tuple[str, ...]
    thresholds: Mapping[str, float] | None
    max_length: int
    pad_token_id: int
    tokenizer: str
    cleaning: tuple[str, ...]
    backbone: str
    backbone_licence: str
    training_data_sha256: str
    metrics: Mapping[str, Any] = field(default_factory=dict)
    precision: Literal["fp32", "int8", "fp16"] = "fp32"
    afina_version: str = ""
    abstain_below: float = 0.0
    target_accuracy: float | None = None
    reference: Mapping[str, Any] | None = None

    def to_properties(self) -> dict[str, str]:
        """The key-value pairs to store in the file, always in the same order."""
        thresholds = None if self.thresholds is None else {k: self.thresholds[k] for k in self.labels}
        return {
            "schema_version": str(SCHEMA_VERSION),
            "task": self.task,
            "labels": _json(list(self.labels)),
            "thresholds": _json(thresholds),
            "abstention": _json(self._abstention()),
            "reference": _json(None if self.reference is None else dict(self.reference)),
            "max_length": str(self.max_length),
            "pad_token_id": str(self.pad_token_id),
            "cleaning": _json(list(self.cleaning)),
            "backbone": self.backbone,
            "backbone_licence": self.backbone_licence,
            "training_data_sha256": self.training_data_sha256,
            "metrics": _json(dict(self.metrics)),
            "precision": self.precision,
            "afina_version": self.afina_version,
            "tokenizer": self.tokenizer,
        }

    def _abstention(self) -> dict[str, float | None] | None:
        """JSON knows no infinity; null is a confidence that does not exist."""
        if not self.abstain_below and self.target_accuracy is None:
            return None
        below = None if math.isinf(self.abstain_below) else self.abstain_below
        return {"below": below, "target_accuracy": self.target_accuracy}

    @classmethod
    def from_properties(cls, properties: Mapping[str, str], where: str) -> ArtifactMetadata:
        """Read and check what `to_properties` wrote; ``where`` names the file in messages.

        Raises:
            UserError: the file is not one of afina's, is of a newer schema, or lacks or garbles a property.
        """
        if "schema_version" not in properties:
            raise UserError(
                f"{where}: an ONNX model, but not one that afina wrote (its metadata has no schema_version), "
                "or cut off; give the model.onnx of the export stage, or copy it again"
            )
        read = _Reader(properties, where)
        version = read.integer("schema_version", 1)
        if version > SCHEMA_VERSION:
            raise UserError(
                f"{where}: written for schema {version}, this afina reads up to {SCHEMA_VERSION}; "
                "upgrade with `pip install -U afina`"
            )
        labels = read.names("labels")
        if not labels or len(set(labels)) != len(labels):
            raise read.wrong("labels", "expected different names")
        task = read.choice("task", TASKS)
        abstain_below, target_accuracy = read.abstention()
        return cls(
            task=cast(Literal["multiclass", "multilabel"], task),
            labels=labels,
            thresholds=read.thresholds(labels) if task == "multilabel" else None,
            max_length=read.integer("max_length", 1),
            pad_token_id=read.integer("pad_token_id", 0),
            tokenizer=read.text("tokenizer"),
            cleaning=read.names("cleaning"),
            backbone=read.text("backbone"),
            backbone_licence=read.text("backbone_licence"),
            training_data_sha256=read.text("training_data_sha256"),
            metrics=read.mapping("metrics"),
            precision=cast(Literal["fp32", "int8", "fp16"], read.choice("precision", PRECISIONS)),
            afina_version=read.text("afina_version"),
            abstain_below=abstain_below,
            target_accuracy=target_accuracy,
            reference=read.optional_mapping("reference"),
        )


def _is_share(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value <= 1


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


class _Reader:
    """Typed access to the properties of one file, with errors that name the file and the property."""

    def __init__(self, properties: Mapping[str, str], where: str) -> None:
        self.properties, self.where = properties, where

    def wrong(self, key: str, what: str) -> UserError:
        return UserError(f"{self.where}: metadata {key}: {what}; export the model again")

    def text(self, key: str) -> str:
        try:
            return self.properties[key]
        except KeyError:
            raise self.wrong(key, "missing, the file is incomplete") from None

    def integer(self, key: str, at_least: int) -> int:
        text = self.text(key)
        # int() refuses thousands of digits, so the length comes first.
        if not (text.isascii() and text.isdigit() and len(text) <= 10 and at_least <= int(text) <= _LARGEST):
            what = f"expected a whole number from {at_least} to {_LARGEST:,}, found {text[:40]!r}"
            raise self.wrong(key, what)
        return int(text)

    def choice(self, key: str, known: tuple[str, ...]) -> str:
        text = self.text(key)
        if text not in known:
            raise self.wrong(key, f"expected {' or '.join(known)}, found {text[:40]!r}")
        return text

    def json(self, key: str) -> Any:
        text = self.text(key)
        try:
            return json.loads(text)
        except (ValueError, RecursionError):  # also a number of thousands of digits, or brackets in brackets
            raise self.wrong(key, f"not valid JSON: {text[:40]!r}") from None

    def names(self, key: str) -> tuple[str, ...]:
        value = self.json(key)
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise self.wrong(key, "expected a list of names")
        return tuple(value)

    def mapping(self, key: str) -> dict[str, Any]:
        value = self.json(key)
        if not isinstance(value, dict):
            raise self.wrong(key, "expected a mapping")
        return value

    def optional_mapping(self, key: str) -> dict[str, Any] | None:
        """None where the property is null, or missing as in older files."""
        if key not in self.properties or self.json(key) is None:
            return None
        return self.mapping(key)

    def abstention(self) -> tuple[float, float | None]:
        """Lowest confidence that needs no person, and the accuracy it is for; older files have neither."""
        if "abstention" not in self.properties or self.json("abstention") is None:
            return 0.0, None
        value = self.mapping("abstention")
        for name in ("below", "target_accuracy"):
            if value.get(name) is not None and not _is_share(value[name]):
                raise self.wrong(
                    "abstention", f"{name}: expected a number from 0 to 1, found {value[name]!r}"
                )
        below, target = value.get("below"), value.get("target_accuracy")
        return math.inf if below is None else float(below), None if target is None else float(target)

    def thresholds(self, labels: tuple[str, ...]) -> dict[str, float]:
        value = self.mapping("thresholds")
        for label in labels:
            number = value.get(label)
            if not _is_share(number):
                raise self.wrong("thresholds", f"{label}: expected a number from 0 to 1, found {number!r}")
        return {label: float(value[label]) for label in labels}
