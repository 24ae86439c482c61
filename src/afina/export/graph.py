"""The ONNX graph of a classifier: traced from torch, fused for onnxruntime, quantised to int8.

Fused graphs hold operators of the domain ``com.microsoft``. They are part of onnxruntime on every platform;
``onnx.checker`` knows the standard operators and passes over these, so the graph is checked in full before
it is fused.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions
from torch import Tensor, nn
from transformers import PreTrainedModel

from afina.errors import UserError
from afina.evaluation.probabilities import Calibration
from afina.runtime.classifier import INPUTS, OUTPUTS
from afina.runtime.encoding import Ids

# Protobuf holds 2 GiB at most; what is not weights (tokenizer, nodes) stays far below the rest.
LARGEST_WEIGHTS = 2**31 - 2**27


class ProbabilityModel(nn.Module):
    """A classifier whose probabilities are part of the graph, so that a client needs no mathematics.

    Whatever turns logits into probabilities belongs in `probabilities`; the graph gets it from there.

    Args:
        classifier: gives logits (B, L) of token ids and their mask.
        task: multiclass or multilabel.
        calibration: of the logits, for the probabilities alone; what changes nothing is not in the graph.
    """

    scale: Tensor | None
    shift: Tensor | None

    def __init__(
        self,
        classifier: nn.Module,
        task: Literal["multiclass", "multilabel"],
        calibration: Calibration | None = None,
    ) -> None:
        super().__init__()
        self.classifier, self.task = classifier, task
        scale, shift = (None, None) if calibration is None else (calibration.scale, calibration.shift)
        for name, values, neutral in (("scale", scale, 1), ("shift", shift, 0)):
            changes = values is not None and bool((values != neutral).any())
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32) if changes else None)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax over the labels (multiclass) or a sigmoid of each (multilabel); (B, L) float32."""
        if self.scale is not None:
            logits = logits * self.scale
        if self.shift is not None:
            logits = logits + self.shift
        return torch.softmax(logits, dim=-1) if self.task == "multiclass" else torch.sigmoid(logits)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and probabilities, each (B, L) float32, of token ids (B, T) and their mask (B, T)."""
        logits = self.classifier(input_ids, attention_mask)
        return logits, self.probabilities(logits)


@dataclass(frozen=True)
class Graph:
    """A model in ONNX and how it came about."""

    model: onnx.ModelProto
    fused: bool
    operators: Mapping[str, int] = field(default_factory=dict)  # fused operator -> how many

    @property
    def nodes(self) -> int:
        """Number of nodes of the graph."""
        return len(self.model.graph.node)


def trace(model: ProbabilityModel, example: tuple[Ids, Ids], opset: int) -> Graph:
    """Trace a classifier into a graph of standard ONNX operators, batch and sequence dynamic.

    Args:
        model: the classifier; evaluated in fp32 on the CPU, and its attention traced in its eager form,
            the one that onnxruntime's fusions know.
        example: ``input_ids`` and ``attention_mask``, int64 (B, T), to trace with.
        opset: version of the ONNX operators.

    Raises:
        UserError: the weights do not fit in one file.
    """
    size = sum(tensor.numel() * 4 for tensor in model.state_dict().values())
    if size > LARGEST_WEIGHTS:
        raise UserError(
            f"export: the weights take {size / 1e9:.1f} GB in fp32 and one ONNX file holds 2 GB; "
            "choose a smaller train.backbone"
        )
    model = model.float().cpu().eval()
    dynamic = {name: {0: "batch", 1: "sequence"} for name in INPUTS} | {
        name: {0: "batch"} for name in OUTPUTS
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        eager_attention(model),
        torch.no_grad(),
        # Deprecation of the tracing exporter (the newer one's graphs do not fuse) and notes on Python
        # values taken as constants (the parity check over all lengths is what tells a wrong one).
        warnings.catch_warnings(action="ignore"),
    ):
        file = Path(folder) / "traced.onnx"
        torch.onnx.export(
            model,
            tuple(torch.from_numpy(array) for array in example),
            str(file),
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_axes=dynamic,
            opset_version=opset,
            dynamo=False,
        )
        onnx.checker.check_model(str(file), full_check=True)
        return Graph(onnx.load(str(file)), fused=False)


def fuse(graph: Graph, attention_heads: int, hidden_size: int) -> Graph:
    """Replace groups of nodes by onnxruntime's fused operators.

    The attention keeps the two-dimensional mask: the optimizer's default for BERT reduces it to a length, and
    then differs from torch, silently, wherever padding is not on the right.
    """
    options = FusionOptions("bert")
    options.use_raw_attention_mask(True)
    with tempfile.TemporaryDirectory() as folder, _quiet_logging():
        source, target = Path(folder) / "traced.onnx", Path(folder) / "fused.onnx"
        onnx.save(graph.model, str(source))
        fused = optimizer.optimize_model(
            str(source),
            model_type="bert",
            num_heads=attention_heads,
            hidden_size=hidden_size,
            opt_level=0,
            optimization_options=options,
        )
        operators = {name: count for name, count in fused.get_fused_operator_statistics().items() if count}
        fused.save_model_to_file(str(target))
        onnx.checker.check_model(str(target))
        return Graph(onnx.load(str(target)), fused=True, operators=operators)


def quantise(graph: Graph) -> Graph:
    """Weights in int8, per channel, with activations quantised as they come (dynamic quantisation).

    Signed weights run at full speed (unsigned ones at half). They use 7 of the 8 bits: processors without
    VNNI add two products in 16 bits, which overflows with 8-bit weights and costs accuracy on that machine
    alone. The tables of the lexical model stay as they are: one of their columns dwarfs the others.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet_logging():
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(graph.model, str(source))
        quantize_dynamic(
            source,
            target,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            nodes_to_exclude=_lexical_nodes(graph.model),
            # Types of tensors inside fused operators cannot be inferred; they are all float.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
        return Graph(onnx.load(str(target)), fused=graph.fused, operators=graph.operators)


def _lexical_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that read a table of `afina.modeling.lexical.LexicalScorer`."""
    tables = {table.name for table in model.graph.initializer if ".lexical." in table.name}
    return [node.name for node in model.graph.node if tables & set(node.input)]


def write(graph: Graph, properties: Mapping[str, str], path: Path) -> None:
    """Write the graph with its metadata as one file; equal graphs and metadata give equal bytes."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    model.producer_name, model.producer_version, model.doc_string = "afina", properties["afina_version"], ""
    for node in model.graph.node:
        node.doc_string = ""
    del model.metadata_props[:]
    for key, value in properties.items():
        model.metadata_props.add(key=key, value=value)
    path.write_bytes(model.SerializeToString(deterministic=True))


def attention_shape(model: nn.Module) -> tuple[int, int]:
    """Attention heads and hidden size of the backbone; (0, 0), which means "see the graph", if unknown."""
    backbone = _backbone(model)
    if backbone is None:
        return 0, 0
    return int(backbone.config.num_attention_heads), int(backbone.config.hidden_size)


@contextmanager
def eager_attention(model: nn.Module) -> Iterator[None]:
    """Let the backbone compute attention by plain matrix products, and put back what it had before."""
    backbone = _backbone(model)
    if backbone is None:
        yield
        return
    before = backbone.config._attn_implementation
    backbone.set_attn_implementation("eager")
    try:
        yield
    finally:
        backbone.set_attn_implementation(before)


def _backbone(model: nn.Module) -> PreTrainedModel | None:
    return next((part for part in model.modules() if isinstance(part, PreTrainedModel)), None)


@contextmanager
def _quiet_logging() -> Iterator[None]:
    """Silence libraries that log warnings about their own defaults to the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
