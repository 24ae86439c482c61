"""What the evaluate stage reports: curves, tables, predictions, and the stage itself on a tiny model."""

from __future__ import annotations

import csv
import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from afina import table
from afina.errors import UserError
from afina.evaluation.curves import (
    FPR_GRID,
    RECALL_GRID,
    curves,
    precision_at_recall,
    recall_at_false_positives,
)
from afina.evaluation.decision import Scored, choose_thresholds
from afina.evaluation.intervals import bootstrap_intervals
from afina.evaluation.metrics import FEW_ROWS, count, one_hot
from afina.evaluation.predictions import read_predictions, write_predictions
from afina.evaluation.probabilities import to_probabilities
from afina.evaluation.report import evaluate
from afina.evaluation.tables import (
    PER_CLASS_HEADER,
    confident_mistakes,
    confusion_pairs,
    per_class_rows,
)
from afina.export.artifact import read_calibration
from afina.labels import LabelSet, Task, encode_labels
from afina.params.base import load_section
from afina.params.evaluate import EvaluateParams
from tiny import LABELS, build_tiny_backbone, tiny_messages

ABC = ("a", "b", "c")
QUICK = EvaluateParams(bootstrap_samples=100)


def label_set(task: Task) -> LabelSet:
    return LabelSet(task, ABC, cleaning={"steps": []})


def scored(task: Task, n: int, seed: int) -> Scored:
    """Rows whose logits are right more often than not."""
    generator = np.random.default_rng(seed)
    if task == "multiclass":
        y: Any = generator.integers(0, 3, n)
    else:
        y = (generator.random((n, 3)) < 0.35).astype(np.int8)
    logits = 4.0 * one_hot(y, 3) - 2.0 + generator.normal(0, 1.5, (n, 3))
    ids = [f"{seed}-{row:04d}" for row in generator.permutation(n)]
    return Scored(ids, [f"texto {row}" for row in ids], y, logits.astype(np.float32))


def baseline(task: Task) -> dict[str, Any]:
    second = "accuracy" if task == "multiclass" else "micro_f1"
    return {
        "majority": {"macro_f1": 0.1, second: 0.3},
        "tfidf": {"macro_f1": 0.5, second: 0.6},
        "tfidf_f1": dict.fromkeys(ABC, 0.5),
    }


# curves


def test_curves_by_hand() -> None:
    truth = np.array([1, 0, 1, 0, 0], dtype=np.int8)
    scores = np.array([0.9, 0.8, 0.7, 0.2, 0.1])
    precision = precision_at_recall(truth, scores)
    assert precision[RECALL_GRID <= 0.5].tolist() == [1.0] * int((RECALL_GRID <= 0.5).sum())
    assert precision[RECALL_GRID > 0.5] == pytest.approx(2 / 3)
    recall = recall_at_false_positives(truth, scores)
    assert recall[FPR_GRID < 1 / 3] == pytest.approx(0.5)
    assert recall[FPR_GRID > 1 / 3] == pytest.approx(1.0)


@given(st.integers(0, 2**32 - 1), st.integers(2, 40))
@settings(max_examples=40, deadline=None)
def test_curves_agree_with_scikit_learn(seed: int, levels: int) -> None:
    """With ties: scores take ``levels`` values. Every point is on scikit-learn's curve or on its step."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 2, 50).astype(np.int8)
    truth[:2] = (0, 1)
    scores = generator.integers(0, levels, 50) / levels
    fpr, tpr, _ = sklearn_metrics.roc_curve(truth, scores, drop_intermediate=False)
    expected = [tpr[fpr <= limit + 1e-9].max() for limit in FPR_GRID]
    assert recall_at_false_positives(truth, scores) == pytest.approx(expected)
    precision, recall, _ = sklearn_metrics.precision_recall_curve(truth, scores)
    # scikit-learn lists falling recall and ends with a point (0, 1) that no threshold gives
    expected = [precision[:-1][recall[:-1] >= limit - 1e-9][-1] for limit in RECALL_GRID]
    assert precision_at_recall(truth, scores) == pytest.approx(expected)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_curves_show_both_averages_and_the_weakest_labels(task: Task) -> None:
    rows = scored(task, 200, 0)
    truth = one_hot(rows.y, 3)
    logits = rows.logits.copy()
    logits[:, 1] = np.random.default_rng(0).normal(size=200)  # nothing is known of b
    precision_recall, roc = curves(truth, logits, ABC, shown=2)
    assert [curve.label for curve in roc] == [curve.label for curve in precision_recall]
    assert [curve.label for curve in roc][:3] == ["micro average", "macro average", "b"]
    for curve in roc:
        assert (np.diff(curve.x) > 0).all()
        assert (np.diff(curve.y) >= 0).all()
        assert curve.y[-1] == 1
        assert len(curve.x) <= 60
    for curve in precision_recall:
        assert (np.diff(curve.x) > 0).all()
        assert ((curve.y > 0) & (curve.y <= 1)).all()
    assert len(roc) == 4
    for shown in curves(truth, logits, ABC, shown=3):
        assert shown[1].y == pytest.approx(np.mean([curve.y for curve in shown[2:]], axis=0))


def test_a_label_without_test_rows_has_no_curve_and_no_ranking() -> None:
    truth = np.array([[1, 0], [0, 0], [1, 0]], dtype=np.int8)
    probabilities = np.array([[0.9, 0.1], [0.2, 0.3], [0.7, 0.2]])
    precision_recall, _ = curves(truth, probabilities, ("a", "b"))
    assert [curve.label for curve in precision_recall] == ["micro average", "macro average", "a"]
    assert curves(np.zeros_like(truth), probabilities, ("a", "b")) == ([], [])
    intervals = bootstrap_intervals(truth, truth, 2, "multilabel", samples=100)
    rows = per_class_rows(
        truth, truth, probabilities, ("a", "b"), "multilabel", [0.5, 0.5], {"a": 0.4}, intervals
    )
    first, second = (dict(zip(PER_CLASS_HEADER, row, strict=True)) for row in rows[:2])
    assert (first["average_precision"], first["roc_auc"], first["baseline_f1"]) == (1.0, 1.0, 0.4)
    assert (second["average_precision"], second["roc_auc"], second["baseline_f1"]) == (None, None, None)
    assert (second["f1"], second["support"]) == (0.0, 0)


# tables


def test_per_class_rows_hold_the_averages_too() -> None:
    rows = scored("multiclass", 120, 1)
    predicted = rows.logits.argmax(axis=1)
    intervals = bootstrap_intervals(rows.y, predicted, 3, "multiclass", samples=100)
    cells = per_class_rows(rows.y, predicted, rows.logits, ABC, "multiclass", None, {}, intervals)
    assert [row[0] for row in cells] == [*ABC, "(macro average)", "(micro average)", "(weighted average)"]
    by_name = {row[0]: dict(zip(PER_CLASS_HEADER, row, strict=True)) for row in cells}
    report = sklearn_metrics.classification_report(
        rows.y, predicted, target_names=ABC, output_dict=True, zero_division=0
    )
    for name, expected in (
        ("b", "b"),
        ("(macro average)", "macro avg"),
        ("(weighted average)", "weighted avg"),
    ):
        for column, key in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert by_name[name][column] == pytest.approx(report[expected][key], abs=1e-6)
        assert by_name[name]["support"] == report[expected]["support"]
    for name, interval in (
        ("b", intervals.f1[1]),
        ("(macro average)", intervals.headline["macro_f1"]),
        ("(micro average)", intervals.headline["accuracy"]),
    ):
        edges = by_name[name]["f1_low"], by_name[name]["f1_high"]
        assert edges == pytest.approx((interval.low, interval.high), abs=1e-6)
    assert by_name["(weighted average)"]["f1_low"] is None
    assert by_name["a"]["threshold"] is None


def test_labels_with_few_test_rows_are_marked() -> None:
    y = np.repeat([0, 1, 2], (FEW_ROWS - 1, FEW_ROWS, 90))
    intervals = bootstrap_intervals(y, y, 3, "multiclass", samples=100)
    cells = per_class_rows(y, y, np.eye(3)[y], ABC, "multiclass", None, {}, intervals)
    marks = [row[PER_CLASS_HEADER.index("few_rows")] for row in cells]
    assert marks == ["yes", None, None, None, None, None]


def test_confusion_pairs_of_classes_and_of_labels() -> None:
    assert list(confusion_pairs(np.array([0, 2]), np.array([0, 1]), ABC)) == [("a", "a"), ("c", "b")]
    truth = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0]], dtype=np.int8)
    guess = np.array([[1, 0, 1], [1, 1, 0], [0, 0, 0], [0, 0, 0], [0, 1, 1]], dtype=np.int8)
    assert list(confusion_pairs(truth, guess, ABC)) == [
        ("a", "a"),
        ("b", "c"),
        ("a", "a"),
        ("(none)", "b"),
        ("c", "(none)"),
        ("a", "b"),
        ("a", "c"),
    ]


def test_the_most_confident_mistakes_come_first() -> None:
    y, predicted = np.array([0, 1, 2, 0]), np.array([0, 0, 1, 1])
    probabilities = np.array([[0.99, 0.01, 0], [0.7, 0.3, 0], [0, 0.9, 0.1], [0.1, 0.9, 0]])
    texts = ["bien", "regular", "línea uno\n\tlínea dos", "otra"]
    mistakes = confident_mistakes(["r1", "r2", "r4", "r3"], texts, y, predicted, probabilities, ABC, 10)
    assert [(row.id, row.actual, row.predicted, row.confidence) for row in mistakes] == [
        ("r3", "a", "b", 0.9),
        ("r4", "c", "b", 0.9),
        ("r2", "b", "a", 0.7),
    ]
    assert mistakes[1].text == "línea uno línea dos"
    assert mistakes[1].probability_of_actual == pytest.approx(0.1)
    assert len(confident_mistakes(list("1234"), texts, y, predicted, probabilities, ABC, 2)) == 2
    assert confident_mistakes(list("1234"), texts, y, y, probabilities, ABC, 2) == []


def test_multilabel_mistakes_are_ranked_by_their_worst_decision() -> None:
    y = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0]], dtype=np.int8)
    predicted = np.array([[1, 0, 0], [0, 0, 1], [1, 0, 0]], dtype=np.int8)
    probabilities = np.array([[0.99, 0.04, 0.1], [0.1, 0.1, 0.6], [0.9, 0, 0]])
    mistakes = confident_mistakes(list("xyz"), ["uno", "dos", "tres"], y, predicted, probabilities, ABC, 10)
    assert [(row.id, row.actual, row.predicted) for row in mistakes] == [
        ("x", "a|b", "a"),
        ("y", "(none)", "c"),
    ]
    assert [row.confidence for row in mistakes] == pytest.approx([0.96, 0.6])
    assert [row.probability_of_actual for row in mistakes] == [pytest.approx(0.04), None]


# the report


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_report_is_small_ordered_and_repeatable(task: Task, tmp_path: Path) -> None:
    validation, test = scored(task, 150, 1), scored(task, 200, 2)
    untrained = np.zeros_like(validation.logits), np.random.default_rng(0).normal(size=test.logits.shape)
    first = evaluate(validation, test, label_set(task), baseline(task), QUICK, 42, untrained)
    second = evaluate(validation, test, label_set(task), baseline(task), QUICK, 42, untrained)
    metrics = first.metrics
    assert metrics == second.metrics
    assert json.dumps(metrics, allow_nan=False)
    assert sum(len(group) for group in metrics.values()) <= 20
    low, high = metrics["interval"]["macro_f1_low"], metrics["interval"]["macro_f1_high"]
    assert low < metrics["test"]["macro_f1"] < high
    assert metrics["untrained"]["macro_f1"] < low
    assert metrics["baseline"]["tfidf_macro_f1"] == 0.5
    assert "untrained" in first.summary
    assert "untrained" not in evaluate(validation, test, label_set(task), baseline(task), QUICK, 42).metrics
    paths = [tmp_path / "first.parquet", tmp_path / "second.parquet"]
    for path, result in zip(paths, (first, second), strict=True):
        write_predictions(result.predictions, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_predictions_can_be_read_alone(task: Task, tmp_path: Path) -> None:
    validation, test = scored(task, 40, 1), scored(task, 60, 2)
    as_trained = QUICK.model_copy(update={"calibration": "none"})
    result = evaluate(validation, test, label_set(task), baseline(task), as_trained, 42)
    write_predictions(result.predictions, tmp_path / "predictions.parquet")
    rows = read_predictions(tmp_path / "predictions.parquet")
    assert rows.schema.metadata[b"task"].decode() == task
    labels = json.loads(rows.schema.metadata[b"labels"])
    assert tuple(labels) == ABC
    keys = list(zip(rows["split"].to_pylist(), rows["id"].to_pylist(), strict=True))
    assert keys == sorted(keys)
    assert len(keys) == 100
    only = rows.filter(np.array(rows["split"].to_pylist()) == "test")
    truth, predicted = (encode_labels(only[name], labels, task) for name in ("labels", "predicted"))
    assert result.metrics["test"]["macro_f1"] == pytest.approx(count(truth, predicted, 3).f1.mean(), abs=1e-6)
    place = only["id"].to_pylist().index(test.ids[7])
    found = np.array(only["probabilities"][place].as_py())
    logits = test.logits[7]
    expected = np.exp(logits) / np.exp(logits).sum() if task == "multiclass" else 1 / (1 + np.exp(-logits))
    assert found == pytest.approx(expected, abs=1e-6)


def overconfident(task: Task, n: int, seed: int) -> Scored:
    """Logits that are three times as far from 0 as they should be."""
    part = scored(task, n, seed)
    return replace(part, logits=3 * part.logits)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_calibration_mends_the_probabilities(task: Task) -> None:
    validation, test = overconfident(task, 400, 1), overconfident(task, 600, 2)
    off, on = (
        evaluate(
            validation,
            test,
            label_set(task),
            baseline(task),
            QUICK.model_copy(update={"calibration": how}),
            42,
        )
        for how in ("none", "fit")
    )
    assert "uncalibrated_ece" not in off.details["calibration"]
    measures = on.details["calibration"]
    for name in ("ece", "classwise_ece", "brier"):
        assert measures[f"uncalibrated_{name}"] == off.details["calibration"][name]
        assert measures[name] < measures[f"uncalibrated_{name}"]
    assert set(off.decision["calibration"]["scale"].values()) == {1.0}
    assert max(on.decision["calibration"]["scale"].values()) < 0.9
    if task == "multiclass":  # one temperature decides nothing
        assert on.metrics["test"] == off.metrics["test"]
        assert on.confusion == off.confusion
    states = [row[0] for row in on.reliability]
    assert states[:2] == ["perfect", "perfect"]
    assert set(states[2:]) == {"as trained", "calibrated"}
    assert {row[0] for row in off.reliability} == {"perfect", "as trained"}
    rows = sum(int(row[3] or 0) for row in on.reliability if row[0] == "calibrated")
    assert rows == (600 if task == "multiclass" else 600 * 3)


def test_abstention_is_fitted_on_validation_and_judged_on_test() -> None:
    validation, test = scored("multiclass", 400, 1), scored("multiclass", 600, 2)
    params = QUICK.model_copy(update={"target_accuracy": 0.98})
    result = evaluate(validation, test, label_set("multiclass"), baseline("multiclass"), params, 42)
    threshold = result.decision["abstain_below"]
    only = result.predictions.filter(np.array(result.predictions["split"].to_pylist()) == "test")
    answered = [max(row) >= threshold for row in only["probabilities"].to_pylist()]
    right = [a == b for a, b in zip(only["labels"].to_pylist(), only["predicted"].to_pylist(), strict=True)]
    found = result.details["abstention"]
    assert 0 < found["coverage"] < 1
    assert found["coverage"] == pytest.approx(np.mean(answered), abs=1e-6)
    assert found["accuracy"] == pytest.approx(np.mean(np.array(right)[answered]), abs=1e-6)
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]
    assert result.metrics["abstention"] == {name: found[name] for name in ("coverage", "accuracy")}
    last = result.risk_coverage[-1]
    assert last[1:3] == [1.0, pytest.approx(result.metrics["test"]["accuracy"], abs=1e-6)]
    never = QUICK.model_copy(update={"target_accuracy": 1.0})
    noise = replace(validation, logits=np.random.default_rng(0).normal(size=validation.logits.shape))
    none = evaluate(noise, test, label_set("multiclass"), baseline("multiclass"), never, 42)
    assert none.decision["abstain_below"] is None
    assert none.metrics["abstention"] == {"coverage": 0.0, "accuracy": None}


def test_thresholds_follow_beta_and_the_precision_asked_for() -> None:
    validation, test = scored("multilabel", 400, 1), scored("multilabel", 400, 2)
    found = {}
    for name, update in (
        ("plain", {}),
        ("recall", {"threshold_beta": 4.0}),
        ("precision", {"threshold_precision": 0.95}),
    ):
        params = QUICK.model_copy(update=update)
        result = evaluate(validation, test, label_set("multilabel"), baseline("multilabel"), params, 42)
        found[name] = result.details["test"]
    assert found["recall"]["macro_recall"] > found["plain"]["macro_recall"]
    assert found["precision"]["macro_precision"] > found["plain"]["macro_precision"]
    with pytest.raises(ValueError, match="thresholds have one aim"):
        EvaluateParams(threshold_beta=2.0, threshold_precision=0.9)
    for fitted in ({"threshold_beta": 2.0}, {"threshold_precision": 0.9}):
        with pytest.raises(ValueError, match="thresholds is a number; set it to fit"):
            EvaluateParams(thresholds=0.4, **fitted)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_calibration_never_sees_test(task: Task) -> None:
    validation, test = overconfident(task, 100, 1), overconfident(task, 100, 2)
    other = replace(test, y=test.y[::-1].copy())
    first, second = (
        evaluate(validation, part, label_set(task), baseline(task), QUICK, 42) for part in (test, other)
    )
    assert first.metrics["test"] != second.metrics["test"]
    assert first.decision == second.decision


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_predictions_have_the_probabilities_that_the_decision_gives(task: Task) -> None:
    validation, test = overconfident(task, 200, 1), overconfident(task, 50, 2)
    result = evaluate(validation, test, label_set(task), baseline(task), QUICK, 42)
    calibration = read_calibration(result.decision, ABC)
    only = result.predictions.filter(np.array(result.predictions["split"].to_pylist()) == "test")
    found = dict(zip(only["id"].to_pylist(), only["probabilities"].to_pylist(), strict=True))
    expected = to_probabilities(test.logits, task, calibration)
    assert np.array([found[name] for name in test.ids]) == pytest.approx(expected, abs=1e-6)


def test_predictions_of_another_version_or_other_labels_are_refused(tmp_path: Path) -> None:
    result = evaluate(
        scored("multiclass", 30, 1), scored("multiclass", 30, 2), label_set("multiclass"),
        baseline("multiclass"), QUICK, 42,
    )  # fmt: skip
    path = tmp_path / "predictions.parquet"
    write_predictions(result.predictions.replace_schema_metadata({"schema_version": "0"}), path)
    with pytest.raises(UserError, match="schema version 0"):
        read_predictions(path)
    write_predictions(result.predictions, path)
    assert read_predictions(path, label_set("multiclass")).equals(result.predictions)
    with pytest.raises(
        UserError, match=r"other labels than data/clean/labels\.json; run `dvc repro evaluate`"
    ):
        read_predictions(path, LabelSet("multiclass", ("a", "other")))


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_decisions_and_validation_scores_never_see_test(task: Task) -> None:
    validation, test = scored(task, 150, 1), scored(task, 200, 2)
    other = scored(task, 90, 3)
    reversed_labels = replace(other, y=other.y[::-1].copy())
    first = evaluate(validation, test, label_set(task), baseline(task), QUICK, 42)
    second = evaluate(validation, reversed_labels, label_set(task), baseline(task), QUICK, 42)
    assert first.metrics["test"] != second.metrics["test"]
    assert first.decision == second.decision
    assert first.metrics["validation"] == second.metrics["validation"]


def test_thresholds_are_fitted_or_given() -> None:
    y = np.tile(np.array([[1, 1], [1, 0], [0, 0], [0, 0]], dtype=np.int8), (4, 1))
    probabilities = np.tile(np.array([[0.9, 0.3], [0.4, 0.1], [0.1, 0.1], [0.2, 0.0]]), (4, 1))
    assert choose_thresholds(y[:, 0], probabilities, "multiclass", QUICK) is None
    fitted = choose_thresholds(y, probabilities, "multilabel", QUICK)
    assert fitted is not None
    assert 0.2 < fitted[0] <= 0.4
    assert fitted[1] == 0.5  # four positives are below the minimum of five
    given_number = QUICK.model_copy(update={"thresholds": 0.3})
    assert choose_thresholds(y, probabilities, "multilabel", given_number) == [0.3, 0.3]


def test_a_baseline_of_other_labels_and_an_empty_split_are_refused() -> None:
    rows = scored("multilabel", 30, 1)
    stale = baseline("multilabel") | {"tfidf_f1": {"a": 0.5}}
    with pytest.raises(UserError, match="other labels"):
        evaluate(rows, rows, label_set("multilabel"), stale, QUICK, 42)
    empty = Scored([], [], rows.y[:0], rows.logits[:0])
    for validation, test in ((empty, rows), (rows, empty)):
        with pytest.raises(UserError, match="no rows"):
            evaluate(validation, test, label_set("multilabel"), baseline("multilabel"), QUICK, 42)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("evaluate: {thresholds: best}", "fit or a number"),
        ("evaluate: {thresholds: 1.5}", "fit or a number"),
        ("evaluate: {thresholds: true}", "fit or a number"),
        ("evaluate: {logit_adjustment: auto}", "none, fit or a number from 0 to 100, found 'auto'"),
        ("evaluate: {logit_adjustment: -0.5}", "none, fit or a number"),
        ("evaluate: {logit_adjustment: .inf}", "none, fit or a number"),
        ("evaluate: {logit_adjustment: false}", "none, fit or a number"),
        ("evaluate: {logit_adjustment: null}", "none, fit or a number"),
        ("evaluate: {confidence: 95}", "evaluate.confidence"),
        ("evaluate: {bootstrap_samples: 100001}", "evaluate.bootstrap_samples: .*100000"),
        ("evaluate: {bootstrap_samples: 198, confidence: 0.99}", "confidence of 0.99; give 199 or more"),
        ("evaluate: {confidence: 0.9999}", "with 2000 no difference is sure .* give 19999 or more"),
        ("evaluate: {mistake: 5}", "did you mean 'mistakes'"),
    ],
)
def test_parameters_are_checked(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_section(EvaluateParams, path)
    path.write_text("evaluate: {thresholds: 0.5, logit_adjustment: 1}", encoding="utf-8")
    params = load_section(EvaluateParams, path)
    assert (params.thresholds, params.logit_adjustment) == (0.5, 1.0)
    path.write_text("evaluate: {logit_adjustment: none}", encoding="utf-8")
    assert load_section(EvaluateParams, path) == EvaluateParams()


# the stage


def save_tiny_classifier(folder: Path, backbone: Path, task: Task) -> None:
    """A classifier as the train stage leaves it, of random weights."""
    import torch

    from afina.modeling.backbone import load_tokenizer, resolve_backbone
    from afina.modeling.classifier import TextClassifier, load_pretrained
    from afina.modeling.store import ClassifierConfig, save_classifier

    files = resolve_backbone(str(backbone))
    tokenizer, pad_token_id = load_tokenizer(files.folder)
    pretrained = load_pretrained(files.folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = TextClassifier(pretrained, len(LABELS))
    config = ClassifierConfig(
        task=task,
        labels=list(LABELS),
        max_length=32,
        window=32,
        lexical=None,
        pooling="mean",
        head=[],
        activation="relu",
        dropout=0.1,
        pad_token_id=pad_token_id,
        backbone=backbone.name,  # where it lies is params.yaml's to say
        backbone_revision=files.revision,
        backbone_sha256=files.sha256,
        backbone_licence=files.licence,
        cleaning={"steps": []},
        train_data_sha256="0" * 64,
    )
    save_classifier(folder, model, pretrained.config.to_dict(), tokenizer, config)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_the_stage_writes_what_it_says(
    task: Task,
    tmp_path: Path,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(
        "seed: 5\nevaluate: {bootstrap_samples: 100, mistakes: 7}\nbaseline: {char_ngrams: null}\n"
        "train: {backbone: models/local/tiny}\n",
        encoding="utf-8",
    )
    Path("data/clean").mkdir(parents=True)
    labels = {"task": task, "labels": list(LABELS), "cleaning": {"steps": []}}
    Path("data/clean/labels.json").write_text(json.dumps(labels), encoding="utf-8")
    for seed, name in enumerate(("train", "validation", "test")):
        rows = tiny_messages(task, n=90 if name == "train" else 40, seed=seed)
        table.write(rows.select(table.SCHEMA.names), Path(f"data/splits/{name}.parquet"))
    save_tiny_classifier(Path("models/classifier"), build_tiny_backbone(Path("models/local/tiny")), task)
    for name in ("baseline", "evaluate"):
        runpy.run_path(str(repository / "pipeline" / f"{name}.py"), run_name="__main__")

    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("evaluate: macro-F1 ")
    assert "on 40 test rows (TF-IDF " in line
    metrics = json.loads(Path("reports/metrics.json").read_text(encoding="utf-8"))
    # the random head of this classifier is the one that the seed gives: untrained, it scores the same, but
    # that thresholds of calibrated probabilities may fall elsewhere between two rows
    slack = 0.0 if task == "multiclass" else 0.1
    assert metrics["untrained"]["macro_f1"] == pytest.approx(metrics["test"]["macro_f1"], abs=slack)
    assert metrics["baseline"]["tfidf_macro_f1"] > metrics["test"]["macro_f1"]
    assert "logit_adjustment" not in metrics
    decision = json.loads(Path("models/decision.json").read_text(encoding="utf-8"))
    thresholds = decision["thresholds"]
    assert thresholds is None if task == "multiclass" else list(thresholds) == list(LABELS)
    assert decision["logit_offsets"] == dict.fromkeys(LABELS, 0.0)
    assert decision["target_accuracy"] == 0.95
    assert list(decision["calibration"]["scale"]) == list(LABELS)
    if task == "multiclass":  # one temperature
        assert set(decision["calibration"]["shift"].values()) == {0.0}
        assert len(set(decision["calibration"]["scale"].values())) == 1
    written = {}
    for name in ("per_class", "confusion", "pr", "roc", "reliability", "models"):
        with Path(f"reports/{name}.csv").open(encoding="utf-8", newline="") as stream:
            written[name] = list(csv.DictReader(stream))
    assert [row["label"] for row in written["per_class"]][:3] == list(LABELS)
    assert set(written["pr"][0]) == {"label", "recall", "precision"}
    assert set(written["roc"][0]) == {"label", "fpr", "tpr"}
    assert set(written["confusion"][0]) == {"actual", "predicted"}
    assert [row["model"] for row in written["models"]] == ["fine-tuned", "majority", "tfidf", "untrained"]
    assert float(written["models"][0]["macro_f1"]) == metrics["test"]["macro_f1"]
    assert float(written["models"][2]["macro_f1"]) == metrics["baseline"]["tfidf_macro_f1"]
    assert written["models"][2]["fine_tuned_is"] == "worse"
    details = json.loads(Path("reports/evaluation.json").read_text(encoding="utf-8"))
    assert details["test"]["macro_f1"] == metrics["test"]["macro_f1"]
    assert details["abstention"]["coverage"] == metrics["abstention"]["coverage"]
    assert {"slices.csv", "risk_coverage.csv"} <= {path.name for path in Path("reports").iterdir()}
    assert {row["label"] for row in written["reliability"]} == {"perfect", "as trained", "calibrated"}
    if task == "multiclass":
        assert len(written["confusion"]) == 40
    with Path("data/evaluated/mistakes.csv").open(encoding="utf-8", newline="") as stream:
        mistakes = list(csv.DictReader(stream))
    assert 0 < len(mistakes) <= 7
    assert read_predictions(Path("reports/predictions.parquet")).num_rows == 80

    outputs = [path for folder in ("reports", "data/evaluated") for path in Path(folder).iterdir()]
    before = {path: path.read_bytes() for path in outputs}
    runpy.run_path(str(repository / "pipeline" / "evaluate.py"), run_name="__main__")
    assert {path: path.read_bytes() for path in outputs} == before


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_the_stage_adjusts_by_the_rows_that_were_trained_on(
    task: Task,
    tmp_path: Path,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(
        "evaluate: {bootstrap_samples: 100, untrained: false, logit_adjustment: 0.5}\n"
        "baseline: {char_ngrams: null}\nbalance: {strategy: none}\ntrain: {backbone: models/local/tiny}\n",
        encoding="utf-8",
    )
    Path("data/clean").mkdir(parents=True)
    labels = {"task": task, "labels": list(LABELS), "cleaning": {"steps": []}}
    Path("data/clean/labels.json").write_text(json.dumps(labels), encoding="utf-8")
    for seed, name in enumerate(("train", "validation", "test")):
        rows = tiny_messages(task, n=90 if name == "train" else 40, seed=seed)
        if name == "train":  # no longer of equal size, if they were
            rows = rows.filter([LABELS[0] not in found or row % 4 == 0
                                for row, found in enumerate(rows["labels"].to_pylist())])  # fmt: skip
            train = rows["labels"].to_pylist()
        table.write(rows.select(table.SCHEMA.names), Path(f"data/splits/{name}.parquet"))
    save_tiny_classifier(Path("models/classifier"), build_tiny_backbone(Path("models/local/tiny")), task)
    for name in ("balance", "baseline", "evaluate"):
        runpy.run_path(str(repository / "pipeline" / f"{name}.py"), run_name="__main__")

    assert "; logit adjustment tau 0.5 (without: 0." in capsys.readouterr().out.splitlines()[-1]
    found = json.loads(Path("models/decision.json").read_text(encoding="utf-8"))["logit_offsets"]
    counts = np.array([sum(label in row for row in train) for label in LABELS])
    if task == "multiclass":
        expected = 0.5 * np.log(counts.max() / counts)
    else:
        expected = 0.5 * np.log((len(train) - counts) / counts)
    assert list(found) == list(LABELS)
    assert list(found.values()) == pytest.approx(expected, abs=1e-6)
    assert max(found.values()) > 0.3
    adjustment = json.loads(Path("reports/metrics.json").read_text(encoding="utf-8"))["logit_adjustment"]
    assert adjustment["tau"] == 0.5


def test_a_classifier_of_other_labels_or_another_backbone_is_refused(tmp_path: Path) -> None:
    from afina.evaluation.scoring import score_classifier, score_untrained
    from afina.modeling.backbone import resolve_backbone

    backbone = build_tiny_backbone(tmp_path / "backbone")
    save_tiny_classifier(tmp_path / "classifier", backbone, "multiclass")
    with pytest.raises(UserError, match="other labels"):
        score_classifier(tmp_path / "classifier", [["hola"]], label_set("multiclass"), 1024)
    build_tiny_backbone(backbone, seed=9)
    with pytest.raises(UserError, match="changed since training"):
        score_untrained(tmp_path / "classifier", [["hola"]], 1024, 42, resolve_backbone(str(backbone)))
