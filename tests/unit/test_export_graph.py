"""Operators written so that onnxruntime runs them faster; what a written file says of its graph."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from afina.errors import UserError
from afina.export.graph import Graph, run_tool, save, split_skip_normalisation, write
from afina.export.quantisation import move_biases, quantise
from afina.runtime.classifier import Classifier
from afina.runtime.container import GRAPH_SHA256, read_properties
from toy_artifact import toy_metadata, toy_model

WIDTH = 8
INPUTS = ["one", "other"]
OUTPUTS = ["normalised", "mean", "deviation", "total"]


def skip_model(inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    """A model of one fused operator, with numbers for what is not an input of it."""
    generator = np.random.default_rng(0)
    node = helper.make_node(
        "SkipLayerNormalization", inputs, outputs, "skip", domain="com.microsoft", epsilon=1e-5
    )
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", "t", WIDTH]) for name in inputs[:2]],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", "t", None])
            for name in outputs
            if name
        ],
        [
            helper.make_tensor(name, TensorProto.FLOAT, [WIDTH], generator.normal(size=WIDTH))
            for name in inputs[2:]
            if name
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def run(model: onnx.ModelProto, optimised: Path) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimised)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    generator = np.random.default_rng(1)
    batch = {name: generator.normal(size=(2, 3, WIDTH)).astype(np.float32) for name in INPUTS}
    given = {one.name for one in session.get_inputs()}
    return list(session.run(None, {name: value for name, value in batch.items() if name in given}))


@pytest.mark.parametrize(
    "inputs", [["one", "other", "scale", "shift", "bias"], ["one", "other", "scale", "shift"]]
)
@pytest.mark.parametrize("outputs", [OUTPUTS[:1], [OUTPUTS[0], "", "", OUTPUTS[3]]])
def test_split_gives_the_same_and_is_not_fused_again(
    inputs: list[str], outputs: list[str], tmp_path: Path
) -> None:
    model = skip_model(inputs, outputs)
    expected = run(model, tmp_path / "before.onnx")
    split_skip_normalisation(model)
    onnx.checker.check_model(model)
    for got, wanted in zip(run(model, tmp_path / "after.onnx"), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    # What onnxruntime makes of it on loading.
    loaded = [node.op_type for node in onnx.load(tmp_path / "after.onnx").graph.node]
    assert loaded == ["Sum", "LayerNormalization"]


def test_an_operator_whose_statistics_are_used_stays() -> None:
    model = skip_model(["one", "other", "scale", "shift"], OUTPUTS[:3])
    before = model.SerializeToString()
    split_skip_normalisation(model)
    assert model.SerializeToString() == before


def product_model(kind: str) -> onnx.ModelProto:
    """A model of a product with a weight, int8 or float, whose bias a later operator adds."""
    generator = np.random.default_rng(2)
    weight = generator.normal(size=(WIDTH, WIDTH)).astype(np.float32)
    values = {"bias": generator.normal(size=WIDTH).astype(np.float32)}
    if kind == "float":
        values["weight"] = weight
        nodes = [helper.make_node("MatMul", ["one", "weight"], ["product"])]
    else:
        values |= {
            "weight": np.clip(np.round(weight * 30), -64, 63).astype(np.int8),
            "weight_scale": np.full(WIDTH, 1 / 30, np.float32),
            "weight_zero": np.zeros(WIDTH, np.int8),
        }
        nodes = [
            helper.make_node("DynamicQuantizeLinear", ["one"], ["rounded", "scale", "zero"]),
            helper.make_node("MatMulInteger", ["rounded", "weight", "zero", "weight_zero"], ["integers"]),
            helper.make_node("Cast", ["integers"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["scale", "weight_scale"], ["both_scales"]),
            helper.make_node("Mul", ["floats", "both_scales"], ["product"]),
        ]
    nodes += [
        helper.make_node("BiasGelu", ["product", "bias"], ["activated"], "gelu", domain="com.microsoft"),
        helper.make_node("Sum", ["product", "other", "bias"], ["summed"], "sum"),
        helper.make_node("Sum", ["product", "other"], ["unbiased"], "unbiased"),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", "t", WIDTH]) for name in INPUTS],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", "t", None])
            for name in ("activated", "summed", "unbiased")
        ],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def test_biases_become_part_of_int8_products(tmp_path: Path) -> None:
    model = product_model("int8")
    expected = run(model, tmp_path / "before.onnx")
    move_biases(model)
    onnx.checker.check_model(model)
    for got, wanted in zip(run(model, tmp_path / "after.onnx"), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    biased = [node for node in model.graph.node if "bias" in node.input]
    assert [node.op_type for node in biased] == ["Add", "Add"]
    assert all(node.input[0] == "product" for node in biased)
    assert "BiasGelu" not in {node.op_type for node in model.graph.node}


def test_onnxruntime_adds_a_moved_bias_in_passing(tmp_path: Path) -> None:
    model = product_model("int8")
    del model.graph.node[-2:]
    del model.graph.output[1:]
    move_biases(model)
    run(model, tmp_path / "loaded.onnx")
    loaded = [node.op_type for node in onnx.load(tmp_path / "loaded.onnx").graph.node]
    assert loaded == ["DynamicQuantizeMatMul", "Gelu"]


def test_biases_of_float_products_stay() -> None:
    model = product_model("float")
    before = model.SerializeToString()
    move_biases(model)
    assert model.SerializeToString() == before


def test_a_large_model_is_worked_on_in_a_process_of_its_own() -> None:
    assert run_tool(os.getpid, apart=False) == os.getpid() != run_tool(os.getpid, apart=True)
    with pytest.raises(ValueError, match="invalid literal"):
        run_tool(int, "x", apart=True)


def test_memory_that_is_not_enough_for_a_large_model_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("afina.export.graph.LARGEST_WEIGHTS", 10)
    # As if the system had killed the process.
    monkeypatch.setattr(
        "afina.export.quantisation.run_tool", lambda *_, apart: run_tool(os._exit, 9, apart=apart)
    )
    with pytest.raises(UserError, match=r"memory is not enough; .* set export\.int8 to false"):
        quantise(Graph(toy_model(), fused=False))


@pytest.mark.parametrize("largest", [1 << 20, 10])
def test_saving_leaves_the_model_as_it_is(
    tmp_path: Path, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afina.export.graph.LARGEST_WEIGHTS", largest)
    model = toy_model()
    model.graph.initializer.append(numpy_helper.from_array(np.arange(400, dtype=np.float32), "large"))
    before = model.SerializeToString(deterministic=True)
    for name in ("one.onnx", "other.onnx"):
        save(model, tmp_path / name)
        assert model.SerializeToString(deterministic=True) == before
        assert (tmp_path / f"{name}.data").exists() == (largest == 10)
        loaded = onnx.load(tmp_path / name)
        for tensor in loaded.graph.initializer:
            tensor.ClearField("data_location")  # it says that the content is inside, as it does by itself
        assert loaded == model


@pytest.mark.parametrize("largest", [1 << 20, 10])  # the weights in the file, or beside it
def test_a_file_has_the_hash_of_its_graph(
    tmp_path: Path, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afina.export.graph.LARGEST_WEIGHTS", largest)
    path, model = tmp_path / "model.onnx", toy_model()
    model.graph.node[0].doc_string = "gone once it is written"
    table = next(tensor for tensor in model.graph.initializer if tensor.name == "weights")
    table.raw_data, table.dims[0] = table.raw_data.ljust(12 * 100, b"\0"), 100  # large enough to be elsewhere
    write(Graph(model, fused=False), toy_metadata().to_properties(), path)
    content = path.read_bytes()
    graph = onnx.load(path, load_external_data=False).graph.SerializeToString()
    assert read_properties(path)[GRAPH_SHA256] == hashlib.sha256(graph).hexdigest()
    assert Classifier(path).predict(["luz"])[0].label == "luz"
    name = content.index(b"input_ids", content.index(graph))
    path.write_bytes(content[:name] + b"Input_ids" + content[name + 9 :])
    with pytest.raises(UserError, match=r"model\.onnx: damaged: .*; copy or download it again"):
        Classifier(path)
