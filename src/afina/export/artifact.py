"""The export stage as a whole: build the candidates, check them, keep what passes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch

from afina import __version__
from afina.errors import UserError
from afina.evaluation.metrics import classification_metrics
from afina.evaluation.probabilities import Calibration, to_probabilities
from afina.export import graph as graphs
from afina.export.graph import Graph, ProbabilityModel
from afina.export.parity import Agreement, check_cleaning, compare, mixed_probabilities
from afina.files import atomic_path
from afina.modeling.classifier import TextClassifier
from afina.modeling.inference import predict_logits
from afina.modeling.store import ClassifierConfig
from afina.params.export import ExportParams
from afina.runtime.classifier import Classifier, Floats
from afina.runtime.encoding import Encoder, pad_batch
from afina.runtime.metadata import ArtifactMetadata

# Of metrics.json, what the file itself states: scores on test, their intervals, and on how many rows.
HEADLINE = ("test", "interval", "rows")


@dataclass(frozen=True)
class TestTexts:
    """The test split as export needs it: n texts before and after cleaning, and their labels encoded."""

    __test__ = False  # not a test case, whatever pytest makes of the name

    ids: Sequence[str]
    raw: Sequence[str]
    cleaned: Sequence[str]
    encoded: npt.NDArray[Any]  # as `afina.labels.encode_labels` gives them


@dataclass(frozen=True)
class Written:
    """A candidate file: its graph, its probabilities of the test texts, their agreement with torch."""

    graph: Graph
    probabilities: Floats  # (n, L), in batches of mixed sizes and lengths
    agreement: Agreement


def build_metadata(
    config: ClassifierConfig,
    tokenizer_json: str,
    decision: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> ArtifactMetadata:
    """What the file says about itself, from what training and evaluation wrote down.

    Args:
        decision: of decision.json.
        metrics: of metrics.json.

    Raises:
        UserError: a multilabel model lacks the threshold of a label.
    """
    thresholds = decision.get("thresholds")
    if config.task == "multilabel":
        missing = [label for label in config.labels if label not in (thresholds or {})]
        if missing:
            raise UserError(
                f"models/decision.json: no threshold for label {missing[0]!r}; run `dvc repro evaluate`"
            )
    return ArtifactMetadata(
        task=config.task,
        labels=tuple(config.labels),
        thresholds=thresholds if config.task == "multilabel" else None,
        max_length=config.max_length,
        pad_token_id=config.pad_token_id,
        tokenizer=tokenizer_json,
        cleaning=tuple(config.cleaning["steps"]),
        backbone=config.backbone,
        backbone_licence=config.backbone_licence or "unknown",
        training_data_sha256=config.train_data_sha256,
        metrics={part: metrics[part] for part in HEADLINE if part in metrics},
        afina_version=__version__,
        abstain_below=_abstain_below(decision),
        target_accuracy=decision.get("target_accuracy"),
    )


def _abstain_below(decision: Mapping[str, Any]) -> float:
    """Null is that no confidence was enough; a file without it asks for none."""
    below = decision.get("abstain_below", 0.0)
    return math.inf if below is None else float(below)


def read_calibration(decision: Mapping[str, Any], labels: Sequence[str]) -> Calibration:
    """What decision.json does to the logits, its offsets included, labels in the order of ``labels``.

    Raises:
        UserError: a number of a label is missing, as in a file of an older version, or is none.
    """
    parts = decision.get("calibration") or {}
    columns = {
        "logit offset": decision.get("logit_offsets") or {},
        "calibration scale": parts.get("scale") or {},
        "calibration shift": parts.get("shift") or {},
    }
    for name, column in columns.items():
        for label in labels:
            if not isinstance(column.get(label), int | float) or not math.isfinite(column[label]):
                raise UserError(
                    f"models/decision.json: no {name} for label {label!r}; run `dvc repro -f evaluate`"
                )
    offsets, scale, shift = (
        np.array([column[label] for label in labels], dtype=np.float64) for column in columns.values()
    )
    if (scale <= 0).any():
        raise UserError(
            "models/decision.json: a calibration scale is not above 0; run `dvc repro -f evaluate`"
        )
    return Calibration(scale, shift).after(offsets)


def export_classifier(
    classifier: TextClassifier,
    encoder: Encoder,
    metadata: ArtifactMetadata,
    calibration: Calibration,
    texts: TestTexts,
    params: ExportParams,
    model_path: Path,
    int8_path: Path,
) -> dict[str, Any]:
    """Write the classifier as one ONNX file, and its int8 twin, if they pass the checks.

    The reference is torch on the cleaned texts of the test split; the candidate is the runtime on the raw
    ones, in batches of mixed sizes and lengths. The fused graph is tried first; where it cannot be made or
    differs, the plain one.

    Args:
        classifier: the trained classifier.
        encoder: its tokenizer.
        metadata: what the file says about itself.
        calibration: of decision.json; it becomes part of the graph's probabilities, and leaves its logits
            alone.
        texts: the test split.
        params: the stage's parameters.
        model_path: where the file goes.
        int8_path: where its int8 twin goes.

    Returns:
        The report: parity, graph, sizes, and the int8 file's agreement and macro-F1 difference (int8 minus
        fp32; measured, not a gate).

    Raises:
        UserError: the probabilities differ by more than ``params.tolerance`` or a label differs. The files
            of the previous run are then left as they were.
    """
    check_cleaning(texts.ids, texts.raw, texts.cleaned, metadata.cleaning)
    model = ProbabilityModel(classifier, metadata.task, calibration).eval()
    logits = predict_logits(
        classifier, encoder, texts.cleaned, token_budget=params.token_budget, device="cpu", precision="fp32"
    )
    reference = np.asarray(to_probabilities(logits, metadata.task, calibration), dtype=np.float32)
    traced = graphs.trace(model, _example(encoder), params.opset)
    with ExitStack() as stack:
        fp32_file = stack.enter_context(atomic_path(model_path))
        fp32, note = _fp32(model, traced, reference, metadata, texts, params, fp32_file)
        report = _report(fp32, note, params, fp32_file)
        if params.int8:
            int8_file = stack.enter_context(atomic_path(int8_path))
            properties = replace(metadata, precision="int8").to_properties()
            graphs.write(graphs.quantise(fp32.graph), properties, int8_file)
            int8 = _measure(fp32.graph, reference, int8_file, texts, params)
            together = Classifier(int8_file, token_budget=params.token_budget).predict_proba(texts.raw)
            report["int8"] = _int8_report(fp32, int8, together, metadata, texts)
            report["size_mb"]["int8"] = _megabytes(int8_file)
    if not params.int8:
        int8_path.unlink(missing_ok=True)  # a twin of an earlier model would be mistaken for this one's
    return report


def _fp32(
    model: ProbabilityModel,
    traced: Graph,
    reference: Floats,
    metadata: ArtifactMetadata,
    texts: TestTexts,
    params: ExportParams,
    file: Path,
) -> tuple[Written, str | None]:
    """Write the first graph that passes; the note says why it is not the fused one."""
    note: str | None = None
    if params.optimize:
        fused, note = _try_fuse(model, traced)
        if fused is not None:
            graphs.write(fused, metadata.to_properties(), file)
            try:
                written = _measure(fused, reference, file, texts, params)
            except Exception as error:  # whatever the fusions got wrong, there is the plain graph
                note = f"the fused graph does not run: {' '.join(str(error).split())[:200]}"
            else:
                if written.agreement.within(params.tolerance):
                    return written, None
                note = f"the fused graph differs: {_describe(written.agreement)}"
    graphs.write(traced, metadata.to_properties(), file)
    written = _measure(traced, reference, file, texts, params)
    if not written.agreement.within(params.tolerance):
        raise UserError(
            f"export: the ONNX file and torch differ on the test texts: {_describe(written.agreement)}, "
            f"allowed are {params.tolerance:g} and none; the previous model is kept. Try another "
            "export.opset, or a larger export.tolerance if every label agrees"
        )
    return written, note


def _try_fuse(model: ProbabilityModel, traced: Graph) -> tuple[Graph | None, str | None]:
    try:
        return graphs.fuse(traced, *graphs.attention_shape(model)), None
    except Exception as error:  # the fusions are heuristics over node patterns; any may trip over a new one
        return None, f"the fusions failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _measure(graph: Graph, reference: Floats, file: Path, texts: TestTexts, params: ExportParams) -> Written:
    """Predict the raw texts with a file and compare with torch."""
    runtime = Classifier(file, token_budget=params.token_budget)
    found = mixed_probabilities(runtime, texts.raw)
    return Written(graph, found, compare(reference, found, runtime.thresholds))


def _example(encoder: Encoder) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Two texts of different length: what is traced must not depend on them, as parity shows."""
    return pad_batch(encoder.encode(["a b c d e f g h i j", "a"]), encoder.pad_token_id)


def _report(fp32: Written, note: str | None, params: ExportParams, file: Path) -> dict[str, Any]:
    return {
        "parity": {
            "texts": fp32.agreement.texts,
            "max_abs_diff": _digits(fp32.agreement.max_abs_diff),
            "label_agreement": fp32.agreement.label_agreement,
            "tolerance": params.tolerance,
        },
        "graph": "fused" if fp32.graph.fused else "plain",
        "graph_note": note,
        "fused_operators": dict(sorted(fp32.graph.operators.items())),
        "nodes": fp32.graph.nodes,
        "opset": params.opset,
        "int8": None,
        "size_mb": {"fp32": _megabytes(file), "int8": None},
        "versions": {
            "torch": torch.__version__.split("+")[0],
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
    }


def _int8_report(
    fp32: Written, int8: Written, together: Floats, metadata: ArtifactMetadata, texts: TestTexts
) -> dict[str, Any]:
    """Agreement with torch and difference in macro-F1; ``together``: int8 probabilities in other batches."""
    thresholds = (
        None if metadata.thresholds is None else [metadata.thresholds[label] for label in metadata.labels]
    )
    scores = [
        classification_metrics(
            texts.encoded, written.probabilities, metadata.labels, metadata.task, thresholds
        )["macro_f1"]
        for written in (fp32, int8)
    ]
    return {
        "label_agreement": round(int8.agreement.label_agreement, 6),
        "macro_f1_delta": round(scores[1] - scores[0], 6),
        "max_abs_diff": _digits(int8.agreement.max_abs_diff),
        # Activations are scaled by the batch they are in, so a text's int8 result depends on its neighbours.
        "max_abs_diff_between_batchings": _digits(float(np.abs(int8.probabilities - together).max())),
    }


def _describe(agreement: Agreement) -> str:
    differing = round((1 - agreement.label_agreement) * agreement.texts)
    return f"max |Δp| {agreement.max_abs_diff:.2g}, {differing} of {agreement.texts} texts with another label"


def _digits(value: float) -> float:
    return float(f"{value:.3g}")


def _megabytes(file: Path) -> float:
    return round(file.stat().st_size / 1e6, 2)
