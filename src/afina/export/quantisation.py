"""Recipes for an int8 copy of a graph.

Weights become 8-bit integers once; activations as they come (dynamic quantisation: the range of each tensor
is that of the batch at hand), which needs no examples of them.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from onnx import helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from afina.errors import UserError
from afina.export.graph import FUSED, Graph, is_large, is_lexical, quiet_logging, run_tool, save

EMBEDDINGS = ("EmbedLayerNormalization", "Gather")
PRODUCTS = ("Attention", "Gemm", "MatMul", "MultiHeadAttention")

_LAYER = re.compile(r"[./](?:layers?|h|blocks?)[./](\d+)[./]")


@dataclass(frozen=True)
class Recipe:
    """How the weights are rounded.

    Attributes:
        bits: 7 or 8 of the 8. Processors without VNNI add two products in 16 bits, which overflows with 8:
            the file is then less exact there than where it was checked: on the demo its probabilities are up
            to 0.034 from fp32's, without the overflow 0.028.
        per_channel: each column of a weight has a scale of its own, or all share one.
        embeddings: whether the table of token embeddings is rounded too; it is most of a small model.
        kept: layers that stay in float32, as in `layers`.
    """

    bits: int = 7
    per_channel: bool = True
    embeddings: bool = True
    kept: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The recipe in words, different for different recipes."""
        parts = [f"{self.bits} bits", "per channel" if self.per_channel else "per tensor"]
        if not self.embeddings:
            parts.append("embeddings in fp32")
        if self.kept:
            parts.append(f"layers {', '.join(self.kept)} in fp32")
        return ", ".join(parts)


# In the order in which they are preferred where they are as fast: smaller first, and 7 bits before 8.
RECIPES = (
    Recipe(),
    Recipe(embeddings=False),
    Recipe(per_channel=False),
    Recipe(bits=8),
    Recipe(bits=8, embeddings=False),
)


def quantise(graph: Graph, recipe: Recipe = RECIPES[0]) -> Graph:
    """The graph with 8-bit weights.

    Signed weights run at full speed (unsigned ones at half). The tables of the lexical model stay as they
    are: one of their columns dwarfs the others.

    Raises:
        UserError: a large model needs more memory than there is.
    """
    excluded = _excluded(graph.model, recipe)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        save(graph.model, source)
        large = is_large(graph.model)
        try:
            run_tool(_quantise_file, source, target, recipe, excluded, large, apart=large)
        except BrokenProcessPool:
            raise UserError(
                "export: making the int8 copy was stopped, most likely as the memory is not enough; it takes "
                "several times the size of model.onnx: set export.int8 to false, or use a larger machine"
            ) from None
        model = onnx.load(str(target))
        move_biases(model)
        return replace(graph, model=model)


def _quantise_file(source: Path, target: Path, recipe: Recipe, excluded: list[str], large: bool) -> None:
    """Write the graph of a file with 8-bit weights to another one, but for the nodes excluded."""
    with quiet_logging():
        quantize_dynamic(
            source,
            target,
            weight_type=QuantType.QInt8,
            per_channel=recipe.per_channel,
            reduce_range=recipe.bits == 7,
            nodes_to_exclude=excluded,
            use_external_data_format=large,
            # Types of tensors inside fused operators cannot be inferred; they are all float.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )


def move_biases(model: onnx.ModelProto) -> None:
    """Add the bias of each int8 product of a model right behind it, where onnxruntime adds it in passing.

    Fused operators add it later: ``BiasGelu``, and the ``Sum`` of a residual connection, which then reads one
    tensor more. ``BiasGelu`` also takes longer than ``Gelu``. With the default backbone that is 6 % of the
    time. Of float products, onnxruntime would fuse it again on loading.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    products = _int8_products(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        product = next((name for name in node.input if name in products), None)
        bias = next((name for name in node.input if name in weights), None)
        if product is None or bias is None or node.op_type not in ("BiasGelu", "Sum"):
            nodes.append(node)
            continue
        biased = f"{node.output[0]}/biased"
        nodes.append(helper.make_node("Add", [product, bias], [biased], f"{node.name}/bias"))
        others = [name for name in node.input if name not in (product, bias)]
        if node.op_type == "Sum":
            nodes.append(helper.make_node("Sum", [biased, *others], node.output, node.name))
        else:
            nodes.append(helper.make_node("Gelu", [biased], node.output, node.name, domain=FUSED))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _int8_products(model: onnx.ModelProto) -> set[str]:
    """Names of the tensors that are an int8 product, scaled back to float."""
    integers = {node.output[0] for node in model.graph.node if node.op_type == "MatMulInteger"}
    floats = {
        node.output[0] for node in model.graph.node if node.op_type == "Cast" and node.input[0] in integers
    }
    return {
        node.output[0]
        for node in model.graph.node
        if node.op_type == "Mul" and not floats.isdisjoint(node.input)
    }


def layers(model: onnx.ModelProto) -> list[str]:
    """Numbers of the encoder's layers with weights that can be rounded, from the first to the last."""
    found = {_layer_of(node, model) for node in _weighted(model)} - {None}
    return sorted((name for name in found if name is not None), key=int)


def without(recipe: Recipe, kept: Sequence[str]) -> Recipe:
    """The recipe with layers left in float32."""
    return replace(recipe, kept=tuple(sorted(kept, key=int)))


def _excluded(model: onnx.ModelProto, recipe: Recipe) -> list[str]:
    """Names of the nodes that a recipe leaves alone."""
    excluded = [node.name for node in model.graph.node if is_lexical(node, model)]
    if not recipe.embeddings:
        excluded += [node.name for node in model.graph.node if node.op_type in EMBEDDINGS]
    return excluded + [node.name for node in _weighted(model) if _layer_of(node, model) in recipe.kept]


def _weighted(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes that multiply by a weight."""
    weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    return [
        node for node in model.graph.node if node.op_type in PRODUCTS and weights.intersection(node.input)
    ]


def _layer_of(node: onnx.NodeProto, model: onnx.ModelProto) -> str | None:
    """The layer a node belongs to; by its own name, or, where fusing gave it a new one, by a neighbour's."""
    found = _LAYER.search(node.name) or next(
        (match for name in (*node.output, *node.input[1:]) if (match := _LAYER.search(name))), None
    )
    return found.group(1) if found else None
