"""The export stage on tiny models of every architecture: parity, metadata, and what happens when it fails."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from afina.errors import UserError
from afina.evaluation.metrics import classification_metrics
from afina.evaluation.probabilities import Calibration
from afina.export import artifact, contract, graph, quantisation
from afina.export.artifact import TestTexts, build_metadata, export_classifier, read_calibration
from afina.export.contract import Texts, Trial
from afina.export.parity import both_batchings
from afina.export.quantisation import RECIPES, Recipe
from afina.labels import encode_labels
from afina.modeling.classifier import Pooling, TextClassifier, load_pretrained
from afina.modeling.inference import predict_logits
from afina.modeling.store import ClassifierConfig
from afina.params.export import ExportParams
from afina.runtime.classifier import Classifier
from afina.runtime.encoding import Encoder, pad_batch
from afina.runtime.text import DEFAULT_STEPS, clean_text
from tiny import ARCHITECTURES, LABELS, Architecture, build_tiny_backbone, tiny_messages

Task = Literal["multiclass", "multilabel"]
# Random weights are harder to round than trained ones: no contract, so that there is a copy to look at.
ANY_INT8 = {"int8_max_drop": 1.0, "int8_min_agreement": 0.0}
COUNTS = dict(zip(LABELS, (30, 5, 10), strict=True))
METRICS = {
    "test": {"macro_f1": 0.8},
    "interval": {"macro_f1_low": 0.7, "macro_f1_high": 0.9},
    "baseline": {"tfidf_macro_f1": 0.6},
    "rows": {"test": 45},
}


@dataclass(frozen=True)
class Trained:
    """What the train and evaluate stages leave to export, with random weights."""

    model: TextClassifier
    encoder: Encoder
    config: ClassifierConfig
    tokenizer: str
    thresholds: dict[str, float] | None
    texts: TestTexts
    calibration: Calibration = Calibration.identity(3)  # noqa: RUF009 - frozen

    def decision(self) -> dict[str, Any]:
        return {"thresholds": self.thresholds, "abstain_below": 0.75, "target_accuracy": 0.9}

    def export(self, folder: Path, **params: Any) -> dict[str, Any]:
        metadata = build_metadata(self.config, self.tokenizer, self.decision(), METRICS)
        return export_classifier(
            self.model,
            self.encoder,
            metadata,
            self.calibration,
            self.texts,
            Texts(self.texts.raw[:20], self.texts.encoded[:20]),
            COUNTS,
            ExportParams(**(ANY_INT8 | params)),
            folder,
        )


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Architecture], Path]:
    made: dict[Architecture, Path] = {}

    def get(architecture: Architecture) -> Path:
        if architecture not in made:
            made[architecture] = build_tiny_backbone(tmp_path_factory.mktemp(architecture), architecture)
        return made[architecture]

    return get


@pytest.fixture
def train(backbones: Callable[[Architecture], Path]) -> Callable[..., Trained]:
    def make(
        architecture: Architecture = "bert", task: Task = "multiclass", pooling: Pooling = "mean"
    ) -> Trained:
        folder = backbones(architecture)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            model = TextClassifier(load_pretrained(folder), len(LABELS), pooling, [48], "gelu")
        tokenizer = (folder / "tokenizer.json").read_text(encoding="utf-8")
        config = ClassifierConfig(
            task=task,
            labels=list(LABELS),
            max_length=40,
            window=40,
            lexical=None,
            pooling=pooling,
            head=[48],
            activation="gelu",
            dropout=0.1,
            pad_token_id=model.backbone.config.pad_token_id,
            backbone=f"tiny {architecture}",
            backbone_revision=None,
            backbone_sha256="",
            backbone_licence=None,
            cleaning={"steps": list(DEFAULT_STEPS)},
            train_data_sha256="0" * 64,
        )
        table = tiny_messages(task, n=45, seed=3)
        raw = [f"<p>{text}</p>&nbsp; n\u0303 " for text in table["text"].to_pylist()]
        raw[0], raw[1] = "¡Ay!", "agua " * 100  # next to nothing, and more than fits
        texts = TestTexts(
            table["id"].to_pylist(),
            raw,
            [clean_text(text, DEFAULT_STEPS) for text in raw],
            encode_labels(table["labels"], config.labels, task),
        )
        thresholds = None if task == "multiclass" else dict(zip(LABELS, (0.3, 0.5, 0.7), strict=True))
        encoder = Encoder(tokenizer, config.max_length, config.pad_token_id)
        spread_logits(model, encoder, texts.cleaned)
        return Trained(model, encoder, config, tokenizer, thresholds, texts)

    return make


def spread_logits(model: TextClassifier, encoder: Encoder, texts: Sequence[str]) -> None:
    """Scale a random model's weights: it tells texts apart, by all of its layers, and is sure of none."""
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            if parameter.dim() > 1:
                parameter *= 8.0  # from the usual 0.02, with which attention is next to uniform
    logits = predict_logits(model, encoder, texts)
    mean, scale = torch.from_numpy(logits.mean(axis=0)), torch.from_numpy(logits.std(axis=0) / 1.5)
    with torch.no_grad():
        last = model.head[-1]
        last.weight /= scale[:, None]
        last.bias.copy_((last.bias - mean) / scale)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_is_fused_and_agrees(
    architecture: Architecture, train: Callable[..., Trained], tmp_path: Path
) -> None:
    report = train(architecture).export(tmp_path)
    assert report["parity"]["texts"] == 45
    assert report["parity"]["max_abs_diff"] <= 1e-5
    assert report["parity"]["label_agreement"] == 1.0
    assert report["graph"] == "fused"
    assert report["graph_note"] is None
    # After each half of both layers; where it has no fused counterpart, after the embeddings too.
    assert report["fused_operators"]["LayerNormalization"] >= 4
    assert "SkipLayerNormalization" not in report["fused_operators"]
    # ModernBERT's rotary attention has no fused counterpart.
    assert report["fused_operators"].get("Attention", 0) == (0 if architecture == "modernbert" else 2)
    # Rounding differs between processors.
    assert report["int8"]["label_agreement"] >= 0.75
    assert report["int8"]["max_abs_diff"] < 0.4
    assert report["size_mb"]["int8"] < report["size_mb"]["fp32"]
    for name in ("model.onnx", "model.int8.onnx"):
        onnx.checker.check_model(str(tmp_path / name))


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_both_outputs_are_what_torch_computes(
    task: Task, pooling: Pooling, train: Callable[..., Trained], tmp_path: Path
) -> None:
    trained = train("bert", task, pooling)
    trained.export(tmp_path, int8=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [item.name for item in session.get_inputs()] == ["input_ids", "attention_mask"]
    assert [item.type for item in session.get_inputs()] == ["tensor(int64)"] * 2
    assert [(item.name, item.shape, item.type) for item in session.get_outputs()] == [
        (name, ["batch", 3], "tensor(float)") for name in ("logits", "probabilities")
    ]
    trained.model.eval()
    ids = trained.encoder.encode(trained.texts.cleaned)
    for rows in (slice(0, 1), slice(1, 9), slice(9, 45)):
        batch = pad_batch(ids[rows], trained.config.pad_token_id)
        logits, probabilities = session.run(
            None, dict(zip(("input_ids", "attention_mask"), batch, strict=True))
        )
        with torch.no_grad():
            expected = trained.model(*map(torch.from_numpy, batch))
        np.testing.assert_allclose(logits, expected, atol=2e-5)
        activation = torch.softmax(expected, 1) if task == "multiclass" else torch.sigmoid(expected)
        np.testing.assert_allclose(probabilities, activation, atol=1e-5)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("scale", [(1.0, 1.0, 1.0), (0.5, 2.0, 1.5)])
def test_calibration_is_part_of_the_probabilities_and_not_of_the_logits(
    scale: tuple[float, float, float], task: Task, train: Callable[..., Trained], tmp_path: Path
) -> None:
    trained = train("bert", task)
    calibration = Calibration(np.array(scale), np.array([0.0, 1.5, -0.75]))
    plain, adjusted = tmp_path / "plain", tmp_path / "adjusted"
    first = trained.export(plain, int8=False)
    report = replace(trained, calibration=calibration).export(adjusted)
    assert report["graph"] == "fused"
    assert report["parity"]["max_abs_diff"] <= 1e-5
    added = 1 if scale == (1.0, 1.0, 1.0) else 2  # what changes nothing is not in the graph
    assert report["nodes"] == first["nodes"] + added
    ids = trained.encoder.encode(trained.texts.cleaned)
    before, unadjusted = Classifier(plain / "model.onnx").forward(ids)
    logits, probabilities = Classifier(adjusted / "model.onnx").forward(ids)
    np.testing.assert_allclose(logits, before, atol=1e-6)

    def activated(values: np.ndarray) -> np.ndarray:
        calibrated = calibration.apply(values)
        if task == "multilabel":
            return 1 / (1 + np.exp(-calibrated))
        return np.exp(calibrated) / np.exp(calibrated).sum(axis=1, keepdims=True)

    np.testing.assert_allclose(probabilities, activated(before), atol=1e-5)
    assert np.abs(probabilities - unadjusted).max() > 0.1
    logits, probabilities = Classifier(adjusted / "model.int8.onnx").forward(ids)
    np.testing.assert_allclose(probabilities, activated(logits), atol=1e-5)


def test_the_calibration_of_a_decision_has_its_offsets_in_it() -> None:
    decision = {
        "logit_offsets": dict(zip(LABELS, (0.0, 0.25, 1.0), strict=True)),
        "calibration": {
            "scale": dict(zip(LABELS, (1.0, 2.0, 0.5), strict=True)),
            "shift": dict(zip(LABELS, (0.5, 0.0, -1.0), strict=True)),
        },
    }
    found = read_calibration(decision, LABELS[::-1])
    assert found.scale.tolist() == [0.5, 2.0, 1.0]
    assert found.shift.tolist() == [0.5 * 1.0 - 1.0, 2.0 * 0.25, 0.5]


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        ({"thresholds": None}, "no logit offset for label 'agua'"),
        ({"logit_offsets": None}, "no logit offset for label 'agua'"),
        ({"logit_offsets": {LABELS[1]: 0.0}}, "no logit offset for label 'agua'"),
        ({"logit_offsets": dict.fromkeys(LABELS, 0.0)}, "no calibration scale for label 'agua'"),
        (
            {
                "logit_offsets": dict.fromkeys(LABELS, 0.0),
                "calibration": {"scale": dict.fromkeys(LABELS, 1.0), "shift": dict.fromkeys(LABELS, None)},
            },
            "no calibration shift for label 'agua'",
        ),
        (
            {
                "logit_offsets": dict.fromkeys(LABELS, 0.0),
                "calibration": {
                    "scale": dict.fromkeys(LABELS, 0.0),
                    "shift": dict.fromkeys(LABELS, 0.0),
                },
            },
            "a calibration scale is not above 0",
        ),
    ],
)
def test_a_decision_that_lacks_something_is_refused(decision: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"decision\.json: {message}; run `dvc repro -f evaluate`"):
        read_calibration(decision, LABELS)


def test_padding_on_the_left_is_masked_as_torch_masks_it(
    train: Callable[..., Trained], tmp_path: Path
) -> None:
    trained = train("bert")
    trained.export(tmp_path, int8=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    ids, mask = pad_batch(trained.encoder.encode(["agua", "agua luz gracias mañana"]), 0)
    ids[0], mask[0] = np.roll(ids[0], mask[0].argmin() * -1), np.sort(mask[0])
    (logits,) = session.run(["logits"], {"input_ids": ids, "attention_mask": mask})
    trained.model.eval()
    with torch.no_grad():
        expected = trained.model(torch.from_numpy(ids), torch.from_numpy(mask))
    np.testing.assert_allclose(logits, expected, atol=2e-5)


def test_the_file_says_what_it_is(train: Callable[..., Trained], tmp_path: Path) -> None:
    trained = train("roberta", "multilabel")
    trained.export(tmp_path)
    classifier = Classifier(tmp_path / "model.onnx")
    metadata = classifier.metadata
    assert metadata.task == "multilabel"
    assert metadata.labels == LABELS
    assert metadata.thresholds == trained.thresholds
    assert metadata.max_length == 40
    assert metadata.tokenizer == trained.tokenizer
    assert metadata.cleaning == DEFAULT_STEPS
    assert metadata.backbone == "tiny roberta"
    assert metadata.backbone_licence == "unknown"
    assert metadata.metrics == {part: METRICS[part] for part in ("test", "interval", "rows")}
    assert metadata.precision == "fp32"
    assert (metadata.abstain_below, metadata.target_accuracy) == (0.75, 0.9)
    assert Classifier(tmp_path / "model.int8.onnx").metadata.precision == "int8"
    for name in ("model.onnx", "model.int8.onnx"):
        content = (tmp_path / name).read_bytes()
        for folder in (os.getcwd(), str(tmp_path), sys.prefix, os.path.expanduser("~") + os.sep):
            assert folder.encode() not in content, name


def test_the_copies_state_their_own_scores(
    train: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(METRICS, "test", {"macro_f1": 0.8, "accuracy": 0.9})
    trained = train("bert")
    trained.export(tmp_path, int8=True, fp16=True, fp16_tolerance=0.1)
    budget = ExportParams().token_budget
    for name in ("model.int8.onnx", "model.fp16.onnx"):
        scores = [
            classification_metrics(trained.texts.encoded, probabilities, LABELS, "multiclass")
            for probabilities in both_batchings(tmp_path / name, trained.texts.raw, budget)
        ]
        worse = min(scores, key=lambda found: found["macro_f1"])
        expected = {score: round(worse[score], 6) for score in ("macro_f1", "accuracy")}
        assert Classifier(tmp_path / name).metadata.metrics == {"test": expected, "rows": METRICS["rows"]}
        assert expected["accuracy"] < 0.89  # what the fp32 file was told is not theirs


def test_multilabel_needs_every_threshold(train: Callable[..., Trained]) -> None:
    trained = train("bert", "multilabel")
    decision = {"thresholds": {"agua": 0.5, "pagos": 0.5}}
    with pytest.raises(UserError, match="no threshold for label 'luz'"):
        build_metadata(trained.config, trained.tokenizer, decision, METRICS)


def test_no_confidence_may_be_enough(train: Callable[..., Trained]) -> None:
    trained = train("bert")
    decision = {"thresholds": None, "abstain_below": None, "target_accuracy": 0.99}
    metadata = build_metadata(trained.config, trained.tokenizer, decision, METRICS)
    assert (metadata.abstain_below, metadata.target_accuracy) == (math.inf, 0.99)


def test_optimize_false_writes_standard_operators_alone(
    train: Callable[..., Trained], tmp_path: Path
) -> None:
    report = train("bert").export(tmp_path, optimize=False)
    assert (report["graph"], report["graph_note"], report["fused_operators"]) == ("plain", None, {})
    model = onnx.load(tmp_path / "model.onnx")
    assert {node.domain for node in model.graph.node} == {""}
    onnx.checker.check_model(model, full_check=True)


def test_a_fusion_that_fails_leaves_the_plain_graph(
    train: Callable[..., Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise IndexError("no such\nnode")

    monkeypatch.setattr(graph, "fuse", fail)
    report = train("bert").export(tmp_path)
    assert (report["graph"], report["graph_note"]) == (
        "plain",
        "the fusions failed: IndexError: no such node",
    )
    assert report["parity"]["label_agreement"] == 1.0


@pytest.mark.parametrize(("heads", "note"), [(1, "differs: max |Δp| "), (3, "does not run: ")])
def test_a_fused_graph_that_differs_is_not_kept(
    heads: int, note: str, train: Callable[..., Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuse = graph.fuse

    def spoil(*arguments: Any) -> graph.Graph:
        fused = fuse(*arguments)
        for node in fused.model.graph.node:
            if node.op_type == "Attention":
                next(item for item in node.attribute if item.name == "num_heads").i = heads
        return fused

    monkeypatch.setattr(graph, "fuse", spoil)
    report = train("bert").export(tmp_path)
    assert report["graph"] == "plain"
    assert report["graph_note"].startswith(f"the fused graph {note}")
    assert report["parity"]["max_abs_diff"] <= 1e-5


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def previous(tmp_path: Path) -> dict[str, bytes]:
    """Files of an earlier export in ``tmp_path``."""
    for name in ("model.onnx", "model.int8.onnx"):
        (tmp_path / name).write_bytes(f"the earlier {name}".encode())
    return contents(tmp_path)


def test_a_difference_beyond_tolerance_keeps_the_previous_files(
    train: Callable[..., Trained], tmp_path: Path, previous: dict[str, bytes]
) -> None:
    with pytest.raises(UserError, match=r"differ on the test texts: max \|Δp\| .*the previous model is kept"):
        train("bert").export(tmp_path, tolerance=1e-12)
    assert contents(tmp_path) == previous


def test_a_wrong_model_keeps_the_previous_files(
    train: Callable[..., Trained],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    previous: dict[str, bytes],
) -> None:
    """What the exporter could get wrong, played by a reference that is another model's."""
    trained = train("bert")
    predict = artifact.predict_logits
    monkeypatch.setattr(artifact, "predict_logits", lambda *a, **k: np.roll(predict(*a, **k), 1, axis=1))
    with pytest.raises(UserError, match="45 of 45 texts with another label"):
        trained.export(tmp_path)
    assert contents(tmp_path) == previous


def test_an_int8_file_that_fails_keeps_the_previous_pair(
    train: Callable[..., Trained],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    previous: dict[str, bytes],
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(quantisation, "quantise", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        train("bert").export(tmp_path)
    assert contents(tmp_path) == previous


def test_texts_cleaned_otherwise_stop_the_export(train: Callable[..., Trained], tmp_path: Path) -> None:
    trained = train("bert")
    texts = TestTexts(
        trained.texts.ids, trained.texts.raw, [*trained.texts.cleaned[:-1], "otra"], trained.texts.encoded
    )
    with pytest.raises(UserError, match="1 of 45 test texts are cleaned differently"):
        Trained(**{**trained.__dict__, "texts": texts}).export(tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_int8_no_older_twin_stays(
    train: Callable[..., Trained], tmp_path: Path, previous: dict[str, bytes]
) -> None:
    report = train("bert").export(tmp_path, int8=False)
    assert report["int8"] is None
    assert report["size_mb"]["int8"] is None
    now = contents(tmp_path)
    assert set(now) == {"model.onnx"}
    assert now["model.onnx"] != previous["model.onnx"]


def test_where_no_recipe_keeps_the_contract_there_is_no_int8_file(
    train: Callable[..., Trained], tmp_path: Path, previous: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = contract.compare

    def worse(*arguments: Any) -> Any:
        return replace(compare(*arguments), label_agreement=0.9)

    monkeypatch.setattr(contract, "compare", worse)
    report = train("bert").export(tmp_path, int8_min_agreement=0.99)
    assert set(contents(tmp_path)) == {"model.onnx"}
    int8 = report["int8"]
    assert int8["written"] is False
    assert "labels agree on 90.00% of the texts (asked 99.00%)" in int8["reason"]
    # All recipes, and then the more sensitive of the two layers left in fp32.
    names = [variant["recipe"] for variant in int8["variants"]]
    assert names[:-1] == [recipe.name for recipe in RECIPES]
    assert names[-1].endswith(("layers 0 in fp32", "layers 1 in fp32"))
    assert {variant["within_contract"] for variant in int8["variants"]} == {False}
    assert report["size_mb"]["int8"] is None


def test_the_report_has_what_the_choice_was_made_by(train: Callable[..., Trained], tmp_path: Path) -> None:
    int8 = train("bert").export(tmp_path, int8_texts=7)["int8"]
    assert int8["validation"]["texts"] == 7
    assert int8["validation"]["of"] == 20
    assert len(int8["variants"]) == len(RECIPES)
    assert all(variant["texts_per_second"] > 0 for variant in int8["variants"])
    assert int8["recipe"] in {recipe.name for recipe in RECIPES}
    [rare] = int8["rare_classes"]  # a third of three
    assert (rare["label"], rare["examples"]) == (LABELS[1], 5)
    assert all(0 <= rare[name] <= 1 for name in ("validation_int8", "test_fp32", "test_int8"))


@pytest.mark.parametrize("worse", [0, 1])
def test_the_report_says_of_int8_what_the_worse_batching_does(
    worse: int, train: Callable[..., Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = train("bert")
    both, encoded = artifact.both_batchings, trained.texts.encoded

    def spoil(*arguments: Any) -> tuple[Any, Any]:
        found = list(both(*arguments))
        found[worse] = np.eye(3, dtype=np.float32)[(encoded + 1) % 3]  # wrong about every text
        return found[0], found[1]

    monkeypatch.setattr(artifact, "both_batchings", spoil)
    int8 = trained.export(tmp_path)["int8"]
    fp32 = Classifier(tmp_path / "model.onnx").predict_proba(trained.texts.raw)
    score = classification_metrics(encoded, fp32, LABELS, "multiclass", None)["macro_f1"]
    assert int8["macro_f1_delta"] == pytest.approx(-score, abs=1e-5)
    assert int8["label_agreement"] == pytest.approx(
        (fp32.argmax(axis=1) == (encoded + 1) % 3).mean(), abs=1e-5
    )
    assert int8["max_abs_diff"] > 0.5


def test_layers_left_in_fp32_are_as_they_were(train: Callable[..., Trained], tmp_path: Path) -> None:
    trained = train("bert")
    trained.export(tmp_path, int8=False)
    model = onnx.load(tmp_path / "model.onnx")
    assert quantisation.layers(model) == ["0", "1"]

    def operators(recipe: Recipe) -> tuple[int, int]:
        quantised = quantisation.quantise(graph.Graph(model, fused=True), recipe).model
        found = [node.op_type for node in quantised.graph.node]
        return found.count("Attention"), found.count("QAttention")

    assert operators(Recipe()) == (0, 2)
    assert operators(Recipe(kept=("1",))) == (1, 1)
    assert operators(Recipe(kept=("0", "1"))) == (2, 0)


def test_layers_that_gain_most_from_fp32_are_left_first(
    train: Callable[..., Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = train("bert")
    trained.export(tmp_path, int8=False)
    model = graph.Graph(onnx.load(tmp_path / "model.onnx"), fused=True)
    kept: list[tuple[str, ...]] = []

    def write(recipe: Recipe) -> Path:
        kept.append(recipe.kept)
        path = tmp_path / f"{len(kept)}.onnx"
        properties = Classifier(tmp_path / "model.onnx").metadata.to_properties()
        # A layer in fp32 that takes all the error away stands for the sensitive one.
        made = model if recipe.kept == ("1",) else quantisation.quantise(model, recipe)
        graph.write(made, properties, path)
        return path

    monkeypatch.setattr(Trial, "keeps", lambda self, _: self.recipe.kept == ("1",))
    texts = Texts(trained.texts.raw[:20], trained.texts.encoded[:20])
    agreed = contract.Contract(0.005, 0.99)
    found = contract.search(model, tmp_path / "model.onnx", texts, agreed, write, 2048)
    assert kept == [()] * len(RECIPES) + [("0",), ("1",), ("1",)]
    assert found.winner is not None
    assert found.winner.recipe.kept == ("1",)
    assert found.winner.agreement == 1.0


def test_half_precision_is_close_and_said_to_be(train: Callable[..., Trained], tmp_path: Path) -> None:
    report = train("bert").export(tmp_path, int8=False, fp16=True, fp16_tolerance=0.1)
    assert report["fp16"]["written"], report["fp16"]
    assert 0 < report["fp16"]["max_abs_diff"] <= 0.1
    assert report["size_mb"]["fp16"] < 0.7 * report["size_mb"]["fp32"]
    half = Classifier(tmp_path / "model.fp16.onnx")
    assert half.metadata.precision == "fp16"
    kinds = {tensor.data_type for tensor in onnx.load(tmp_path / "model.fp16.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds


def test_half_precision_beyond_its_tolerance_is_not_kept(
    train: Callable[..., Trained], tmp_path: Path
) -> None:
    (tmp_path / "model.fp16.onnx").write_bytes(b"of an earlier model")
    report = train("bert").export(tmp_path, int8=False, fp16=True, fp16_tolerance=1e-9)
    assert not report["fp16"]["written"]
    assert "differs from torch: max |Δp|" in report["fp16"]["reason"]
    assert set(contents(tmp_path)) == {"model.onnx"}


def test_weights_that_one_file_cannot_hold_go_to_a_second(
    train: Callable[..., Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = train("bert")
    one = trained.export(tmp_path / "one", fp16=True)
    monkeypatch.setattr(graph, "LARGEST_WEIGHTS", 1000)  # of every step on the way, too
    for module in (graph, quantisation):  # a process of its own knows nothing of this size
        monkeypatch.setattr(module, "run_tool", lambda function, *given, apart: function(*given))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fused.onnx.data").touch()  # onnx's own function would take it for the one it writes
    report = trained.export(tmp_path / "two", fp16=True)
    files = contents(tmp_path / "two")
    assert {Path(name).suffix for name in files} == {".onnx", ".data"}
    assert len(files) == 6  # model.onnx, model.int8.onnx and model.fp16.onnx, and the weights of each
    assert report["graph_note"] is None
    assert report["graph"] == one["graph"] == "fused"
    assert report["fused_operators"] == one["fused_operators"]
    assert len(report["int8"]["variants"]) >= len(RECIPES)
    assert len(files["model.onnx"]) < len((tmp_path / "one" / "model.onnx").read_bytes()) / 2
    assert report["parity"]["max_abs_diff"] <= 1e-5
    texts = trained.texts.raw[:9]
    np.testing.assert_array_equal(
        Classifier(tmp_path / "two" / "model.onnx").predict_proba(texts),
        Classifier(tmp_path / "one" / "model.onnx").predict_proba(texts),
    )
    onnx.checker.check_model(str(tmp_path / "two" / "model.onnx"))
    # The next run replaces both, and a failed one leaves both.
    with pytest.raises(UserError, match="the previous model is kept"):
        trained.export(tmp_path / "two", opset=18, tolerance=1e-12)
    assert contents(tmp_path / "two") == files
    monkeypatch.undo()
    trained.export(tmp_path / "two", int8=False)
    assert set(contents(tmp_path / "two")) == {"model.onnx"}


def test_exporting_leaves_the_model_as_it_was(train: Callable[..., Trained], tmp_path: Path) -> None:
    trained = train("bert")
    trained.model.backbone.set_attn_implementation("sdpa")
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    trained.export(tmp_path, int8=False)
    assert trained.model.backbone.config._attn_implementation == "sdpa"
    assert all(torch.equal(value, before[name]) for name, value in trained.model.state_dict().items())


def write_all(backbone: Path, folder: Path) -> None:
    """Every graph that export makes of a model, each in a file of ``folder``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        classifier = TextClassifier(load_pretrained(backbone), 3)
    model = graph.ProbabilityModel(classifier, "multiclass")
    ids = np.full((2, 9), 7)
    traced = graph.trace(model, (ids, np.ones_like(ids)), 17)
    fused = graph.fuse(traced, *graph.attention_shape(model))
    folder.mkdir()
    for name, made in {"plain": traced, "fused": fused, "int8": quantisation.quantise(fused)}.items():
        graph.write(made, {"afina_version": "0"}, folder / name)


def test_the_same_model_gives_the_same_bytes(
    backbones: Callable[[Architecture], Path], tmp_path: Path
) -> None:
    write_all(backbones("bert"), tmp_path / "here")
    code = (
        "import sys; from pathlib import Path; from test_artifact import write_all; "
        "write_all(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    tests = Path(__file__).parent
    environment = os.environ | {
        "PYTHONHASHSEED": "1",  # another order of every set
        "PYTHONPATH": os.pathsep.join((str(tests), str(tests.parent), os.environ.get("PYTHONPATH", ""))),
    }
    command = [sys.executable, "-c", code, str(backbones("bert")), str(tmp_path / "there")]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    here = contents(tmp_path / "here")
    assert len(here) == 3
    assert contents(tmp_path / "there") == here
