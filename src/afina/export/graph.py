"""The ONNX graph of a classifier: traced from torch, fused for onnxruntime, in half precision, in a file.

Fused graphs hold operators of the domain ``com.microsoft``. They are part of onnxruntime on every platform;
``onnx.checker`` knows the standard operators and passes over these, so the graph is checked in full before
it is fused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import onnx
import torch
from onnx import helper
from onnxruntime.transformers import float16, optimizer
from onnxruntime.transformers.fusion_options import FusionOptions
from torch import Tensor, nn
from transformers import PreTrainedModel

from afina.evaluation.probabilities import Calibration
from afina.runtime.container import GRAPH_SHA256, in_order
from afina.runtime.encoding import Ids
from afina.runtime.external import PROPERTY, DataFile
from afina.runtime.loading import INPUTS, OUTPUTS

T = TypeVar("T")

# Protobuf holds 2 GiB at most; what is not weights (tokenizer, nodes) stays far below the rest.
LARGEST_WEIGHTS = 2**31 - 2**27

# The domain of fused operators.
FUSED = "com.microsoft"

# Smaller tensors stay in the model's own file: onnxruntime reads shapes and axes from there.
SMALLEST_EXTERNAL = 1024  # bytes

# Where tensors begin in the second file: at multiples of this, so that it can be mapped into memory.
ALIGNMENT = 4096

# Below what float16 can hold, a number is raised to the least that it can.
_HALF_WARNINGS = "the float32 number .* will be truncated to"


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
    """
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
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "traced.onnx", Path(folder) / "fused.onnx"
        save(graph.model, source)
        large = is_large(graph.model)
        names = run_tool(_fuse_file, source, target, attention_heads, hidden_size, apart=large)
        onnx.checker.check_model(str(target))
        model = onnx.load(str(target))
    present = Counter(node.op_type for node in model.graph.node)
    return Graph(model, fused=True, operators={name: present[name] for name in names if present[name]})


def _fuse_file(source: Path, target: Path, attention_heads: int, hidden_size: int) -> list[str]:
    """Write the fused graph of a file to another one; the operators that there may be in it."""
    options = FusionOptions("bert")
    options.use_raw_attention_mask(True)
    with quiet_logging():
        fused = optimizer.optimize_model(
            str(source),
            model_type="bert",
            num_heads=attention_heads,
            hidden_size=hidden_size,
            opt_level=0,
            optimization_options=options,
        )
        names = [*fused.get_fused_operator_statistics(), "LayerNormalization"]
        split_skip_normalisation(fused.model)
        fused.topological_sort()
        if not any(known.domain == FUSED for known in fused.model.opset_import):
            fused.model.opset_import.append(helper.make_opsetid(FUSED, 1))
        # Not its own function, which trips over a file of the same name in the current folder.
        save(fused.model, target)
    return names


def run_tool(function: Callable[..., T], *arguments: Any, apart: bool) -> T:
    """Call a function that works with onnxruntime's tools, ``apart`` in a process of its own.

    They need several times the weights' size in memory and keep it, so large models go apart: the memory is
    free again once the process ends.

    Raises:
        BrokenProcessPool: the process was killed, most likely as the memory was not enough.
    """
    if not apart:
        return function(*arguments)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def split_skip_normalisation(model: onnx.ModelProto) -> None:
    """Replace each ``SkipLayerNormalization`` of a model by ``Sum`` and ``LayerNormalization``.

    On processors onnxruntime's kernel of the fused operator takes three times as long as those two, a quarter
    of an int8 model's time. Written with ``Add``, onnxruntime would fuse them again on loading.
    """
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        mean_and_deviation, total = node.output[1:3], "".join(node.output[3:])
        if node.op_type != "SkipLayerNormalization" or any(mean_and_deviation):
            nodes.append(node)
            continue
        added = [name for name in (*node.input[:2], *node.input[4:]) if name]
        total = total or f"{node.output[0]}/sum"
        epsilon = next(part.f for part in node.attribute if part.name == "epsilon")
        nodes.append(helper.make_node("Sum", added, [total], f"{node.name}/sum"))
        nodes.append(
            helper.make_node(
                "LayerNormalization",
                [total, *node.input[2:4]],
                node.output[:1],
                node.name,
                axis=-1,
                epsilon=epsilon,
            )
        )
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def halve(graph: Graph) -> Graph:
    """Weights and activations in float16, for GPUs; inputs and outputs keep their types.

    The lexical model stays in float32: its sums of squares leave the range of float16.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    lexical = [node for node in model.graph.node if is_lexical(node, model)]
    inside = {name for node in lexical for name in node.output}
    leaving = inside.intersection(
        name for node in model.graph.node if not is_lexical(node, model) for name in node.input
    )
    # The converter casts what it knows to be float, between any two nodes. Of the lexical model that is to be
    # what leaves it alone, or its sums would be rounded too. Types inside fused operators cannot be inferred,
    # and the converter does without.
    known = onnx.shape_inference.infer_shapes(_without_weights(model)).graph.value_info
    del model.graph.value_info[:]
    model.graph.value_info.extend(
        info for info in known if info.name in leaving or not (graph.fused or info.name in inside)
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_HALF_WARNINGS)
        halved = float16.convert_float_to_float16(
            model,
            keep_io_types=True,
            disable_shape_infer=True,
            node_block_list=[node.name for node in lexical],
        )
    return replace(graph, model=halved)


def is_lexical(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    """Whether a node is one of `afina.modeling.lexical.LexicalScorer`."""
    return "/lexical/" in node.name or any(".lexical." in name for name in node.input)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model for the next step, its weights in a file of their own where one cannot hold all.

    The model stays as it is: onnx's own function would take the weights out of it.
    """
    if is_large(model):
        rest = _without_weights(model)
        _write_weights(model, rest, path.with_name(f"{path.name}.data"))
        model = rest
    path.write_bytes(model.SerializeToString())


def is_large(model: onnx.ModelProto) -> bool:
    """Whether one file cannot hold the weights that are inside the message."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer) > LARGEST_WEIGHTS


def write(
    graph: Graph,
    properties: Mapping[str, str],
    path: Path,
    *,
    name: str | None = None,
) -> Path | None:
    """Write the graph with its metadata as one file; equal graphs and metadata give equal bytes.

    The metadata have a SHA-256 of the graph, by which `afina.runtime.container` tells a damaged file.

    Weights that one file cannot hold go to a second one in the same folder. Its name has its hash in it, so
    that a model and the one it replaces never share one; name, size and hash are in the metadata, where
    `afina.runtime.external` checks them.

    Args:
        graph: the model.
        properties: the metadata.
        path: where the file goes.
        name: what the file will be called in the end, which the second one is named after; None: as now.

    Returns:
        The second file; None where there is none.
    """
    data = None
    if is_large(graph.model):
        model = _without_weights(graph.model)
        data = _write_hashed(graph.model, model, path.parent, Path(name or path.name).stem)
        properties = {**properties, PROPERTY: json.dumps([data.to_json()])}
    else:
        model = onnx.ModelProto()
        model.CopyFrom(graph.model)
    model.producer_name, model.producer_version, model.doc_string = "afina", properties["afina_version"], ""
    for node in model.graph.node:
        node.doc_string = ""
    content = model.graph.SerializeToString(deterministic=True)
    properties = {**properties, GRAPH_SHA256: hashlib.sha256(content).hexdigest()}
    del content  # or there would be two copies of the weights beside the model
    del model.metadata_props[:]
    for key in in_order(properties):
        model.metadata_props.add(key=key, value=properties[key])
    path.write_bytes(model.SerializeToString(deterministic=True))
    return None if data is None else path.parent / data.location


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which tensors of `SMALLEST_EXTERNAL` bytes or more have no content."""
    copy = onnx.ModelProto()
    _copy_fields(model, copy, but="graph")
    _copy_fields(model.graph, copy.graph, but="initializer")
    for tensor in model.graph.initializer:
        large = len(tensor.raw_data) >= SMALLEST_EXTERNAL
        _copy_fields(tensor, copy.graph.initializer.add(), but="raw_data" if large else "")
    return copy


def _copy_fields(source: Any, target: Any, but: str) -> None:
    """Copy the fields of a message except one."""
    for described, value in source.ListFields():
        if described.name == but:
            continue
        if hasattr(value, "extend"):
            getattr(target, described.name).extend(value)
        elif described.message_type is not None:
            getattr(target, described.name).CopyFrom(value)
        else:
            setattr(target, described.name, value)


def _write_weights(model: onnx.ModelProto, rest: onnx.ModelProto, path: Path) -> tuple[int, str]:
    """Write the weights of a model to a file, and tell ``rest``, which lacks them, where they are.

    Returns:
        Size and SHA-256 of the file.
    """
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as stream:
        for tensor, empty in zip(model.graph.initializer, rest.graph.initializer, strict=True):
            content = tensor.raw_data
            if len(content) < SMALLEST_EXTERNAL:
                continue
            padding = bytes(-size % ALIGNMENT)
            for part in (padding, content):
                stream.write(part)
                digest.update(part)
            empty.data_location = onnx.TensorProto.EXTERNAL
            place = {"location": path.name, "offset": size + len(padding), "length": len(content)}
            for key, value in place.items():
                empty.external_data.add(key=key, value=str(value))
            size += len(padding) + len(content)
    return size, digest.hexdigest()


def _write_hashed(model: onnx.ModelProto, rest: onnx.ModelProto, folder: Path, stem: str) -> DataFile:
    """`_write_weights` to a file of ``folder`` whose name has its hash in it."""
    temporary = folder / f".{stem}.{os.getpid()}.data.tmp"
    try:
        size, digest = _write_weights(model, rest, temporary)
        data = DataFile(f"{stem}.{digest[:16]}.data", size, digest)
        temporary.replace(folder / data.location)
    finally:
        temporary.unlink(missing_ok=True)
    for tensor in rest.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = data.location
    return data


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
def quiet_logging() -> Iterator[None]:
    """Silence libraries that log warnings about their own defaults to the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
