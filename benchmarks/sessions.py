"""Ways to run the demo's model in onnxruntime that were tried, beside the one that is used.

    python benchmarks/sessions.py [--quick] [--model FOLDER]

Every way computes the same batches of token ids, of similar length and 512 tokens, in a process of its own;
they take turns, and medians count. ``used`` is the session that `afina.runtime` opens, whose threads spin for
some microseconds while they wait; the others differ from it in what their name says: threads that sleep at
once or spin for milliseconds, inputs and outputs bound beforehand (``io_binding``), and static quantisation,
with the ranges of activations fixed on validation texts, in place of dynamic. ``lanes`` is
`Classifier.predict_proba`, which runs several batches side by side and also cleans and tokenises. Where the
package onnxruntime-ep-openvino is installed, its execution provider runs model.onnx, in the precision that it
chooses and in float32. One text at a time is computed from token ids, too. Labels and probabilities are those
of batches, beside model.onnx's. The last line has texts/s over those of ``used``, and, with "_ms" after the
name, the time of one text over that of ``used``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from afina.runtime.classifier import Classifier
from afina.runtime.encoding import BATCH_TOKENS, Ids, pad_batch, token_budget_batches
from afina.runtime.loading import Floats, _session_options
from afina.table import read

ROOT = Path(__file__).resolve().parent.parent
CALIBRATION_TEXTS = 64
SPINNING = "session.intra_op.allow_spinning"
DURATION = "session.intra_op.spin_duration_us"
# way -> what its session sets otherwise than the one used
THREADS = {"sleeping": {SPINNING: "0"}, "spinning": {SPINNING: "1", DURATION: "3000"}}
# way -> what OpenVINO is told
OPENVINO = {"openvino": {}, "openvino_f32": {"INFERENCE_PRECISION_HINT": "f32"}}
OPENVINO_PACKAGE, OPENVINO_PROVIDER = "onnxruntime_ep_openvino", "OpenVINOExecutionProvider"
LAYER = "/encoder/layer."  # in the names of the demo's backbone
TITLES = {
    "fp32": "model.onnx, as used",
    "used": "model.int8.onnx, as used",
    "sleeping": "model.int8.onnx, threads that sleep at once",
    "spinning": "model.int8.onnx, threads that spin for 3 ms",
    "io_binding": "model.int8.onnx, io_binding",
    "static": "static quantisation, as used",
    "lanes": "model.int8.onnx, batches side by side, cleaning and tokenisation included",
    "openvino": "model.onnx, OpenVINO",
    "openvino_f32": "model.onnx, OpenVINO in float32",
}

Batch = Sequence[Ids]
Compute = Callable[[Batch], Any]  # a batch -> its probabilities (n, labels)


@dataclass
class Measured:
    """What the turns of one way came to."""

    seconds: list[float] = field(default_factory=list)
    singles: list[float] = field(default_factory=list)
    probabilities: Floats = field(default_factory=lambda: np.empty((0, 0), dtype=np.float32))


def ways() -> list[str]:
    """Those that can be run here."""
    absent = () if importlib.util.find_spec(OPENVINO_PACKAGE) else OPENVINO
    return [name for name in TITLES if name not in absent]


def opened(file: Path, name: str) -> onnxruntime.InferenceSession:
    """The session of a way: as `afina.runtime` opens it, but for `THREADS` and `OPENVINO`."""
    onnxruntime.set_default_logger_severity(3)  # it warns of what is set twice
    if name in OPENVINO:
        return opened_by_openvino(file, OPENVINO[name])
    options = _session_options(None)
    for key, value in THREADS.get(name, {}).items():
        options.add_session_config_entry(key, value)
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def opened_by_openvino(file: Path, settings: dict[str, str]) -> onnxruntime.InferenceSession:
    """A session of OpenVINO's execution provider on the processor."""
    if not openvino_processors():
        plugin = importlib.import_module(OPENVINO_PACKAGE)
        onnxruntime.register_execution_provider_library(OPENVINO_PROVIDER, plugin.get_library_path())
    options = onnxruntime.SessionOptions()
    options.add_provider_for_devices(openvino_processors(), {"load_config": json.dumps({"CPU": settings})})
    return onnxruntime.InferenceSession(str(file), options)


def openvino_processors() -> list[Any]:
    """The processor as OpenVINO's device; empty before its library is registered."""
    processor = onnxruntime.OrtHardwareDeviceType.CPU
    devices = onnxruntime.get_ep_devices()
    return [one for one in devices if one.ep_name == OPENVINO_PROVIDER and one.device.type == processor]


def feed(batch: Batch, pad_token_id: int) -> dict[str, Ids]:
    """The inputs of the graph."""
    return dict(zip(("input_ids", "attention_mask"), pad_batch(batch, pad_token_id), strict=True))


def computing(session: onnxruntime.InferenceSession, pad_token_id: int, binding: bool) -> Compute:
    """Probabilities by a session."""

    def run(batch: Batch) -> Any:
        return session.run(["probabilities"], feed(batch, pad_token_id))[0]

    def run_bound(batch: Batch) -> Any:
        bound = session.io_binding()
        for name, values in feed(batch, pad_token_id).items():
            bound.bind_cpu_input(name, values)
        bound.bind_output("probabilities")
        session.run_with_iobinding(bound)
        return bound.copy_outputs_to_cpu()[0]

    return run_bound if binding else run


def quantise_statically(source: Path, target: Path, batches: Sequence[Batch], pad_token_id: int) -> None:
    """A copy of a graph with 8-bit products in its layers, their activations' ranges taken from batches.

    onnxruntime has no such kernel for fused attention, whose products stay in float32.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._feeds: Iterator[dict[str, Ids]] = (feed(batch, pad_token_id) for batch in batches)

        def get_next(self) -> dict[str, Ids] | None:
            return next(self._feeds, None)

    model = onnx.load(source)
    weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    inside = [node for node in model.graph.node if any(LAYER in name for name in (node.name, *node.output))]
    # Types of what fused operators put out cannot be inferred; they are all float.
    known = {value.name for value in model.graph.value_info}
    unknown = {name for node in inside for name in node.output} - known - {""}
    model.graph.value_info.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in sorted(unknown)
    )
    quantize_static(
        model,
        target,
        Reader(),
        quant_format=QuantFormat.QOperator,
        nodes_to_quantize=[
            node.name for node in inside if node.op_type == "MatMul" and weights.intersection(node.input)
        ],
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )


def serve(connection: Connection, name: str, folder: Path, static: Path, texts: Sequence[str]) -> None:
    """In a process of its own: a pass over all texts for every turn, then some of them one by one."""
    fp32 = dict.fromkeys(("fp32", *OPENVINO), folder / "model.onnx")
    file = (fp32 | {"static": static}).get(name, folder / "model.int8.onnx")
    classifier = Classifier(folder / "model.onnx" if name == "static" else file)
    ids = classifier.encode(texts)
    pad = classifier.metadata.pad_token_id
    compute = computing(opened(file, name), pad, name == "io_binding")
    rows = token_budget_batches([len(one) for one in ids], BATCH_TOKENS)
    probabilities = np.zeros((len(texts), len(classifier.labels)), dtype=np.float32)
    while connection.recv():
        start = time.perf_counter()
        if name == "lanes":
            probabilities = classifier.predict_proba(texts)
        else:
            for batch in rows:
                probabilities[batch] = compute([ids[row] for row in batch])
        seconds = time.perf_counter() - start
        singles = []
        for one in ids[:50]:
            start = time.perf_counter()
            compute([one])
            singles.append(time.perf_counter() - start)
        connection.send((seconds, singles, probabilities))


def measure(folder: Path, static: Path, texts: Sequence[str], rounds: int) -> dict[str, Measured]:
    """All ways in turns, one turn of each to warm up."""
    context = multiprocessing.get_context("spawn")
    pipes, found = {}, {name: Measured() for name in ways()}
    for name in found:
        pipes[name], theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, name, folder, static, texts), daemon=True).start()
        theirs.close()
    for turn in range(rounds + 1):
        for name, pipe in pipes.items():
            pipe.send(True)
            seconds, singles, probabilities = pipe.recv()
            if turn:
                found[name].seconds.append(seconds)
                found[name].singles += singles
            found[name].probabilities = probabilities
    for pipe in pipes.values():
        pipe.send(False)
    return found


def table(found: dict[str, Measured], texts: int) -> str:
    """A row of Markdown for each way."""
    lines = [
        "| | texts/s | one text, p50 ms | labels as model.onnx | probabilities differ by at most |",
        "|---|---|---|---|---|",
    ]
    reference = found["fp32"].probabilities
    for name, one in found.items():
        agreement = float((one.probabilities.argmax(axis=1) == reference.argmax(axis=1)).mean())
        difference = float(np.abs(one.probabilities - reference).max())
        lines.append(
            f"| {TITLES[name]} | {texts / statistics.median(one.seconds):,.1f} "
            f"| {1e3 * statistics.median(one.singles):.2f} | {agreement:.1%} | {difference:.1g} |"
        )
    return "\n".join(lines)


def closing(found: dict[str, Measured]) -> str:
    """The last line: how fast the other ways are beside the session that is used."""
    used = found["used"]
    ratios = {
        name: statistics.median(used.seconds) / statistics.median(found[name].seconds)
        for name in found
        if name not in ("fp32", "used")
    } | {
        f"{name}_ms": statistics.median(found[name].singles) / statistics.median(used.singles)
        for name in (*THREADS, *OPENVINO)
        if name in found
    }
    return "sessions: " + " ".join(f"{name}={ratio:.2f}" for name, ratio in ratios.items())


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "onnx")
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="64 texts, 1 round")
    arguments = parser.parse_args()
    logging.disable()  # of types that are not known
    if arguments.quick:
        arguments.texts, arguments.rounds = 64, 1
    splits = {
        name: read(ROOT / "data" / "splits" / f"{name}.parquet", ["text"])["text"].to_pylist()
        for name in ("validation", "test")
    }
    model = arguments.model / "model.onnx"
    classifier = Classifier(model)
    ids = classifier.encode(splits["validation"][:CALIBRATION_TEXTS])
    batches = [[ids[row] for row in rows] for rows in token_budget_batches([*map(len, ids)], BATCH_TOKENS)]
    texts = splits["test"][: arguments.texts]
    with tempfile.TemporaryDirectory() as folder:
        static = Path(folder) / "static.onnx"
        quantise_statically(model, static, batches, classifier.metadata.pad_token_id)
        found = measure(arguments.model, static, texts, arguments.rounds)
    print(table(found, len(texts)))
    print(closing(found))


if __name__ == "__main__":
    main()
