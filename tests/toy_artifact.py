"""A model.onnx small enough to know by heart, made without torch: each label counts its own word."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from afina.runtime.container import GRAPH_SHA256, in_order
from afina.runtime.metadata import ArtifactMetadata

LABELS = ("agua", "luz", "pagos")
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *LABELS)
# Two of a label's words give it the probability 0.5 in the multilabel model: sigmoid(2 - 2).
BIAS = -2.0


def toy_tokenizer() -> str:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    text: str = tokenizer.to_str()
    return text


def toy_metadata(
    task: Literal["multiclass", "multilabel"] = "multiclass", **changes: Any
) -> ArtifactMetadata:
    metadata = ArtifactMetadata(
        task=task,
        labels=LABELS,
        thresholds=None if task == "multiclass" else {"agua": 0.5, "luz": 0.2, "pagos": 0.9},
        max_length=12,
        pad_token_id=0,
        tokenizer=toy_tokenizer(),
        cleaning=("lowercase", "collapse_whitespace"),
        backbone="toy",
        backbone_licence="none",
        training_data_sha256="0" * 64,
        metrics={"test": {"macro_f1": 0.75}},
        afina_version="0.0.0",
    )
    return replace(metadata, **changes)


def toy_model(
    task: Literal["multiclass", "multilabel"] = "multiclass",
    mask: str = "attention_mask",
    probabilities: str = "probabilities",
) -> onnx.ModelProto:
    """The graph: logits = BIAS + how often each label's word occurs, padding left out."""
    weights = np.zeros((len(WORDS), len(LABELS)), dtype=np.float32)
    for label in range(len(LABELS)):
        weights[WORDS.index(LABELS[label]), label] = 1.0
    activation = (
        helper.make_node("Softmax", ["logits"], [probabilities], axis=-1)
        if task == "multiclass"
        else helper.make_node("Sigmoid", ["logits"], [probabilities])
    )
    nodes = [
        helper.make_node("Gather", ["weights", "input_ids"], ["words"]),
        helper.make_node("Cast", [mask], ["mask_float"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask_float", "last"], ["mask_column"]),
        helper.make_node("Mul", ["words", "mask_column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "sequence"], ["sums"], keepdims=0),
        helper.make_node("Add", ["sums", "bias"], ["logits"]),
        activation,
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "s"]) for name in ("input_ids", mask)],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", len(LABELS)])
            for name in ("logits", probabilities)
        ],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([2], dtype=np.int64), "last"),
            numpy_helper.from_array(np.array([1], dtype=np.int64), "sequence"),
            numpy_helper.from_array(np.array([BIAS], dtype=np.float32), "bias"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_toy(
    path: Path,
    task: Literal["multiclass", "multilabel"] = "multiclass",
    model: onnx.ModelProto | None = None,
    properties: dict[str, str] | None = None,
    **changes: Any,
) -> Path:
    """Write a toy file; ``changes`` replace fields of its metadata, ``properties`` all of it.

    With ``properties`` it is one of an older version, without a hash of its graph.
    """
    model = toy_model(task) if model is None else model
    values = properties
    if values is None:
        values = toy_metadata(task, **changes).to_properties() | graph_hash(model)
    helper.set_model_props(model, {key: values[key] for key in in_order(values)})
    path.write_bytes(model.SerializeToString())
    return path


def graph_hash(model: onnx.ModelProto) -> dict[str, str]:
    """The metadata's entry on a graph."""
    return {GRAPH_SHA256: hashlib.sha256(model.graph.SerializeToString()).hexdigest()}


def settled(path: Path, seconds: float = 60.0) -> Path:
    """Make a file as old as one that nobody is writing any more."""
    status = path.stat()
    os.utime(path, (status.st_atime - seconds, status.st_mtime - seconds))
    return path


def write_in_two(model: onnx.ModelProto, path: Path, metadata: ArtifactMetadata) -> Path:
    """Write a model of more than 100 bytes of weights as one over 2 GB is; the file that has the weights."""
    from afina.export.graph import Graph, write  # with torch

    with mock.patch("afina.export.graph.LARGEST_WEIGHTS", 100):
        weights = write(Graph(model, fused=False), metadata.to_properties(), path)
    assert weights is not None
    return weights
