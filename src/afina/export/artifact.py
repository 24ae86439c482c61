"""The export stage as a whole: build the candidates, check them, keep what passes."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch

from afina import __version__
from afina.errors import UserError
from afina.evaluation.metrics import classification_metrics, rounded
from afina.evaluation.probabilities import Calibration, to_probabilities
from afina.export import graph as graphs
from afina.export import quantisation
from afina.export.contract import (
    Contract,
    Found,
    Texts,
    f1_of_labels,
    rare_labels,
    search,
    stratified_rows,
)
from afina.export.graph import Graph, ProbabilityModel
from afina.export.parity import Agreement, both_batchings, check_cleaning, compare, mixed_probabilities
from afina.export.quantisation import Recipe
from afina.files import atomic_path
from afina.modeling.classifier import TextClassifier
from afina.modeling.inference import predict_logits
from afina.modeling.store import ClassifierConfig
from afina.params.export import ExportParams
from afina.runtime.classifier import Classifier
from afina.runtime.encoding import Encoder, Ids, pad_batch
from afina.runtime.loading import Floats
from afina.runtime.metadata import ArtifactMetadata

MODEL, INT8, FP16 = "model.onnx", "model.int8.onnx", "model.fp16.onnx"
PRECISION_OF: dict[str, Literal["fp32", "int8", "fp16"]] = {MODEL: "fp32", INT8: "int8", FP16: "fp16"}
WEIGHTS = "model*.data"  # of models that one file cannot hold

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
    validation: Texts,
    label_counts: Mapping[str, int],
    params: ExportParams,
    folder: Path,
) -> dict[str, Any]:
    """Write the classifier as one ONNX file, and its int8 and fp16 copies, if they pass the checks.

    The reference is torch on the cleaned texts of the test split; the candidate is the runtime on the raw
    ones, in batches of mixed sizes and lengths. The fused graph is tried first; where it cannot be made or
    differs, the plain one. The int8 copy is the fastest that keeps a contract on the validation texts; where
    none does there is no copy, and the report says by how much each recipe missed.

    Args:
        classifier: the trained classifier.
        encoder: its tokenizer.
        metadata: what the file says about itself.
        calibration: of decision.json; it becomes part of the graph's probabilities, and leaves its logits
            alone.
        texts: the test split.
        validation: the validation split.
        label_counts: examples of each label, which says which are rare.
        params: the stage's parameters.
        folder: where the files go.

    Returns:
        The report: parity, graph, sizes, and what became of the copies.

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
    with ExitStack() as stack:
        weights = stack.enter_context(_weight_files(folder))  # first in, last out: after the models are there
        export = _Export(reference, metadata, texts, params, folder, weights)
        fp32_file = stack.enter_context(atomic_path(folder / MODEL))
        fp32, note = export.fp32(model, _example(encoder), fp32_file)
        report = _report(fp32, note, params)
        report["size_mb"]["fp32"] = export.megabytes(fp32_file, MODEL)
        if params.int8:
            report["int8"] = export.int8(fp32, fp32_file, validation, label_counts, stack)
        if params.fp16:
            report["fp16"] = export.fp16(fp32, stack)
        for part, name in (("int8", INT8), ("fp16", FP16)):
            if report[part] and report[part]["written"]:
                report["size_mb"][part] = report[part].pop("size_mb")
            else:
                stack.callback(_remove_old, folder / name)
    return report


def _remove_old(copy: Path) -> None:
    """A copy of an earlier model would be mistaken for this one's."""
    copy.unlink(missing_ok=True)


@contextmanager
def _weight_files(folder: Path) -> Iterator[dict[str, Path]]:
    """Of the files with weights, leave those that are wanted, by the name of their model, and no others.

    Where something fails, those that were there before stay instead.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.glob(WEIGHTS))
    wanted: dict[str, Path] = {}
    try:
        yield wanted
    except BaseException:
        for file in set(folder.glob(WEIGHTS)) - before:
            file.unlink()
        raise
    for file in set(folder.glob(WEIGHTS)) - set(wanted.values()):
        file.unlink()


@dataclass(frozen=True)
class _Export:
    """What all files of one run have in common."""

    reference: Floats  # torch's probabilities of the test texts (n, L)
    metadata: ArtifactMetadata
    texts: TestTexts
    params: ExportParams
    folder: Path
    weights: dict[str, Path]  # name of a model -> the file with its weights

    def write(self, graph: Graph, file: Path, name: str, probabilities: Floats | None = None) -> None:
        """Write a graph whose file will have a name in the end.

        A copy states the scores of its own ``probabilities`` (n, L) of the test texts, without an interval.
        """
        metadata = replace(self.metadata, precision=PRECISION_OF[name])
        if probabilities is not None:
            metadata = replace(metadata, metrics=self._own_metrics(probabilities))
        data = graphs.write(graph, metadata.to_properties(), file, name=name)
        self.weights.pop(name, None)
        if data is not None:
            self.weights[name] = data

    def measure(self, graph: Graph, file: Path) -> Written:
        """Predict the raw test texts with a file and compare with torch."""
        runtime = Classifier(file, token_budget=self.params.token_budget)
        found = mixed_probabilities(runtime, self.texts.raw)
        return Written(graph, found, compare(self.reference, found, runtime.thresholds))

    def megabytes(self, file: Path, name: str) -> float:
        """Size of a file and its weights."""
        weights = self.weights.get(name)
        return round((file.stat().st_size + (weights.stat().st_size if weights else 0)) / 1e6, 2)

    def fp32(
        self, model: ProbabilityModel, example: tuple[Ids, Ids], file: Path
    ) -> tuple[Written, str | None]:
        """Write the first graph that passes; the note says why it is not the fused one."""
        traced = graphs.trace(model, example, self.params.opset)
        tolerance, note = self.params.tolerance, None
        if self.params.optimize:
            fused, note = _try_fuse(model, traced)
            if fused is not None:
                self.write(fused, file, MODEL)
                try:
                    written = self.measure(fused, file)
                except Exception as error:  # whatever the fusions got wrong, there is the plain graph
                    note = f"the fused graph does not run: {' '.join(str(error).split())[:200]}"
                else:
                    if written.agreement.within(tolerance):
                        return written, None
                    note = f"the fused graph differs: {_describe(written.agreement)}"
        self.write(traced, file, MODEL)
        written = self.measure(traced, file)
        if not written.agreement.within(tolerance):
            raise UserError(
                f"export: the ONNX file and torch differ on the test texts: {_describe(written.agreement)}, "
                f"allowed are {tolerance:g} and none; the previous model is kept. Try another "
                "export.opset, or a larger export.tolerance if every label agrees"
            )
        return written, note

    def int8(
        self,
        fp32: Written,
        fp32_file: Path,
        validation: Texts,
        label_counts: Mapping[str, int],
        stack: ExitStack,
    ) -> dict[str, Any]:
        """Write the int8 copy that keeps the contract, if one does; its part of the report."""
        if not len(validation.raw):
            raise UserError(
                "export: the validation split is empty, so no int8 recipe can be chosen; see the section "
                "split, or set export.int8 to false"
            )
        contract = Contract(self.params.int8_max_drop, self.params.int8_min_agreement)
        rows = stratified_rows(validation.encoded, self.params.int8_texts)
        sample = Texts([validation.raw[row] for row in rows], validation.encoded[rows])
        found = self._search(fp32.graph, fp32_file, sample, contract)
        report: dict[str, Any] = {
            "written": found.winner is not None,
            "reason": None if found.winner else _missed(found, contract),
            "contract": {"max_drop": contract.max_drop, "min_agreement": contract.min_agreement},
            "validation": {"texts": len(rows), "of": len(validation.raw)},
            "variants": [trial.to_json(contract) for trial in found.trials],
        }
        if found.winner is None or found.probabilities is None or found.reference_speed is None:
            return report
        file = stack.enter_context(atomic_path(self.folder / INT8))
        recipe = found.winner.recipe
        quantised = quantisation.quantise(fp32.graph, recipe)
        with tempfile.TemporaryDirectory() as scratch:
            draft = self._draft(quantised, INT8, Path(scratch))
            batchings = both_batchings(draft, self.texts.raw, self.params.token_budget)
        self.write(quantised, file, INT8, min(batchings, key=self._macro_f1))
        speed = found.winner.speed or 0.0
        report["validation"] |= {
            "label_agreement": round(found.winner.agreement, 6),
            "macro_f1_delta": round(-found.winner.drop, 6),
        }
        return report | {
            "recipe": recipe.name,
            "texts_per_second": {"fp32": round(found.reference_speed, 1), "int8": round(speed, 1)},
            "speedup": round(speed / found.reference_speed, 2),
            # On the test split, which had no say in the choice.
            **self._int8_scores(fp32, batchings),
            "rare_classes": self._rare(label_counts, sample, found, fp32, batchings[1]),
            "size_mb": self.megabytes(file, INT8),
        }

    def _search(self, graph: Graph, fp32_file: Path, texts: Texts, contract: Contract) -> Found:
        with tempfile.TemporaryDirectory() as scratch:

            def write(recipe: Recipe) -> Path:
                place = Path(tempfile.mkdtemp(dir=scratch))
                return self._draft(quantisation.quantise(graph, recipe), INT8, place)

            return search(graph, fp32_file, texts, contract, write, self.params.token_budget)

    def _draft(self, graph: Graph, name: str, folder: Path) -> Path:
        """Write a graph that may not become a file of the model."""
        metadata = replace(self.metadata, precision=PRECISION_OF[name])
        graphs.write(graph, metadata.to_properties(), folder / name)
        return folder / name

    def _int8_scores(self, fp32: Written, batchings: tuple[Floats, Floats]) -> dict[str, Any]:
        """Agreement with torch and change of macro-F1, from the batches in which each is worse."""
        limits = None if self.metadata.thresholds is None else np.array(_limits(self.metadata))
        found = [compare(self.reference, probabilities, limits) for probabilities in batchings]
        worst = min(map(self._macro_f1, batchings))
        between = float(np.abs(batchings[0] - batchings[1]).max())
        return {
            "label_agreement": round(min(agreement.label_agreement for agreement in found), 6),
            "macro_f1_delta": round(worst - self._macro_f1(fp32.probabilities), 6),
            "max_abs_diff": _digits(max(agreement.max_abs_diff for agreement in found)),
            "max_abs_diff_between_batchings": _digits(between),
        }

    def _macro_f1(self, probabilities: Floats) -> float:
        return self._scores(probabilities)["macro_f1"]

    def _scores(self, probabilities: Floats) -> dict[str, float]:
        metadata = self.metadata
        return classification_metrics(
            self.texts.encoded, probabilities, metadata.labels, metadata.task, _limits(metadata)
        )

    def _own_metrics(self, probabilities: Floats) -> dict[str, Any]:
        stated = dict(self.metadata.metrics)
        stated.pop("interval", None)  # that of the fp32 file
        if "test" in stated:
            scores = rounded(self._scores(probabilities))
            stated["test"] = {name: scores[name] for name in stated["test"] if name in scores}
        return stated

    def _rare(
        self, label_counts: Mapping[str, int], sample: Texts, found: Found, fp32: Written, int8: Floats
    ) -> list[dict[str, Any]]:
        """F1 of each rare label, by both files, on validation and test: a mean may hide what they lose.

        Those of int8 are in mixed batches.
        """
        assert found.probabilities is not None
        columns = {
            "validation_fp32": (found.reference, sample.encoded),
            "validation_int8": (found.probabilities, sample.encoded),
            "test_fp32": (fp32.probabilities, self.texts.encoded),
            "test_int8": (int8, self.texts.encoded),
        }
        labels, task, limits = self.metadata.labels, self.metadata.task, _limits(self.metadata)
        scores = {
            name: f1_of_labels(probabilities, encoded, labels, task, limits)
            for name, (probabilities, encoded) in columns.items()
        }
        return [
            {
                "label": label,
                "examples": label_counts.get(label),
                **{name: by[label] for name, by in scores.items()},
            }
            for label in rare_labels(label_counts, labels)
        ]

    def fp16(self, fp32: Written, stack: ExitStack) -> dict[str, Any]:
        """Write the copy in half precision if it is close enough; its part of the report."""
        tolerance, reason, agreement, written = self.params.fp16_tolerance, None, None, None
        try:
            halved = graphs.halve(fp32.graph)
            with tempfile.TemporaryDirectory() as scratch:
                written = self.measure(halved, self._draft(halved, FP16, Path(scratch)))
            agreement = written.agreement
        except Exception as error:  # the converter is a heuristic too, and this copy an extra
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if agreement is not None and agreement.max_abs_diff > tolerance:
            reason = f"differs from torch: {_describe(agreement)}, allowed is {tolerance:g}"
        report = {
            "written": reason is None,
            "reason": reason,
            "tolerance": tolerance,
            "max_abs_diff": None if agreement is None else _finite(agreement.max_abs_diff),
            "label_agreement": None if agreement is None else round(agreement.label_agreement, 6),
        }
        if reason is not None or written is None:
            return report
        file = stack.enter_context(atomic_path(self.folder / FP16))
        self.write(written.graph, file, FP16, written.probabilities)
        return report | {"size_mb": self.megabytes(file, FP16)}


def _missed(found: Found, contract: Contract) -> str:
    """Why there is no int8 file."""
    best = max(found.trials, key=lambda trial: (trial.agreement, -trial.drop))
    return (
        f"none of {len(found.trials)} recipes keeps the contract on validation; closest is "
        f"{best.recipe.name}: labels agree on {best.agreement:.2%} of the texts "
        f"(asked {contract.min_agreement:.2%}), macro-F1 changes by {-best.drop:+.4f} "
        f"(allowed -{contract.max_drop:g})"
    )


def _try_fuse(model: ProbabilityModel, traced: Graph) -> tuple[Graph | None, str | None]:
    try:
        return graphs.fuse(traced, *graphs.attention_shape(model)), None
    except Exception as error:  # the fusions are heuristics over node patterns; any may trip over a new one
        return None, f"the fusions failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _example(encoder: Encoder) -> tuple[Ids, Ids]:
    """Two texts of different length: what is traced must not depend on them, as parity shows."""
    return pad_batch(encoder.encode(["a b c d e f g h i j", "a"]), encoder.pad_token_id)


def _report(fp32: Written, note: str | None, params: ExportParams) -> dict[str, Any]:
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
        "fp16": None,
        "size_mb": {"fp32": None, "int8": None, "fp16": None},
        "versions": {
            "torch": torch.__version__.split("+")[0],
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
    }


def _limits(metadata: ArtifactMetadata) -> list[float] | None:
    """Thresholds in the order of the labels; None for multiclass."""
    if metadata.thresholds is None:
        return None
    return [metadata.thresholds[label] for label in metadata.labels]


def _describe(agreement: Agreement) -> str:
    differing = round((1 - agreement.label_agreement) * agreement.texts)
    return f"max |Δp| {agreement.max_abs_diff:.2g}, {differing} of {agreement.texts} texts with another label"


def _digits(value: float) -> float:
    return float(f"{value:.3g}")


def _finite(value: float) -> float | None:
    """As `_digits`; None for what JSON does not know."""
    return _digits(value) if math.isfinite(value) else None
