"""Score the fine-tuned model on test, beside the baselines and itself before fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from afina import table
from afina.evaluation.adjustment import training_prior
from afina.evaluation.corrections import double_adjustments, undone_adjustment
from afina.evaluation.curves import Curve
from afina.evaluation.decision import Scored
from afina.evaluation.metrics import FloatArray, IntArray
from afina.evaluation.predictions import write_predictions
from afina.evaluation.probe import Embedded, probe_predictions
from afina.evaluation.report import (
    RELIABILITY_HEADER,
    RISK_COVERAGE_HEADER,
    Evaluation,
    evaluate,
)
from afina.evaluation.rivals import PROBE, read_rivals, rival_header
from afina.evaluation.scoring import count_tokens, embed_untrained, score_classifier, score_untrained
from afina.evaluation.slices import Column, named_columns, slice_columns, slices_header, truncation
from afina.evaluation.tables import CONFUSION_HEADER, MISTAKES_HEADER, PER_CLASS_HEADER
from afina.files import read_json, write_csv, write_json
from afina.labels import LabelSet, Task, encode_labels, read_label_set
from afina.modeling.backbone import resolve_backbone
from afina.params.base import load_section, load_seed
from afina.params.evaluate import EvaluateParams
from afina.params.train import TrainParams
from afina.spreadsheets import escape_row
from afina.stage import stage, warn

LABELS = Path("data/clean/labels.json")
SPLITS = Path("data/splits")
BALANCED = Path("data/balanced")
CLASSIFIER = Path("models/classifier")
RIVALS = Path("data/baseline/predictions.parquet")
DECISION = Path("models/decision.json")
REPORTS = Path("reports")
COLUMNS = ["id", "source", "text", "labels", "time", "slices"]
MISTAKES = Path("data/evaluated/mistakes.csv")


def write_curves(path: Path, curves: list[Curve], x: str, y: str) -> None:
    points = (
        (curve.label, round(float(a), 6), round(float(b), 6))
        for curve in curves
        for a, b in zip(curve.x, curve.y, strict=True)
    )
    write_csv(path, ("label", x, y), points)


def columns(rows: pa.Table, tokens: Sequence[int], window: int) -> dict[str, Column]:
    """What the test rows are sliced by, of so many tokens where the backbone sees ``window``."""
    texts = rows["text"].to_pylist()
    made = slice_columns(rows["source"].to_pylist(), texts, rows["time"].to_pylist(), tokens, window)
    return named_columns(rows["slices"].to_pylist()) | made


def find_prior(balance: Mapping[str, Any], label_set: LabelSet) -> FloatArray:
    """The distribution of labels that the classifier was trained on."""
    rows = table.read(BALANCED / "train.parquet", ["weight"]).num_rows
    return training_prior(balance, rows, label_set)


def probe(
    validation: Scored, test: Scored, label_set: LabelSet, params: EvaluateParams, train: TrainParams
) -> IntArray:
    """What a linear model on the frozen backbone, fitted on train, says of test."""
    rows = table.read(SPLITS / "train.parquet", ["text", "labels"])
    texts = [rows["text"].to_pylist(), validation.texts, test.texts]
    backbone = resolve_backbone(train.backbone, train.revision)
    fitted_on, known, unknown = embed_untrained(CLASSIFIER, texts, params.token_budget, backbone)
    y = encode_labels(rows["labels"], label_set.labels, label_set.task)
    return probe_predictions(
        Embedded(fitted_on, y), Embedded(known, validation.y), unknown, label_set, params
    )


def corrections(
    result: Evaluation, params: EvaluateParams, train: TrainParams, balance: Mapping[str, Any], task: Task
) -> list[str]:
    """What else corrects the imbalance that the logits were adjusted for, and what takes it back."""
    tau, offsets = result.metrics["logit_adjustment"]["tau"], result.decision["logit_offsets"]
    twice = double_adjustments(tau, offsets, train.loss, train.sampler, balance)
    return [*twice, *undone_adjustment(tau, task, params.calibration, params.thresholds)]


@stage("evaluate")
def main() -> str:
    params, train, seed = load_section(EvaluateParams), load_section(TrainParams), load_seed()
    label_set = read_label_set(LABELS)
    baseline = read_json(REPORTS / "baseline.json")
    balance = None if params.logit_adjustment == "none" else read_json(BALANCED / "balance.json")
    prior = None if balance is None else find_prior(balance, label_set)
    splits = [table.read(SPLITS / f"{name}.parquet", COLUMNS) for name in ("validation", "test")]
    texts = [rows["text"].to_pylist() for rows in splits]
    logits = score_classifier(CLASSIFIER, texts, label_set, params.token_budget)
    untrained = None
    if params.untrained:
        # Validation matters to thresholds alone.
        known = texts[0] if label_set.task == "multilabel" else []
        backbone = resolve_backbone(train.backbone, train.revision)
        scored = score_untrained(CLASSIFIER, [known, texts[1]], params.token_budget, seed, backbone)
        untrained = (scored[0], scored[1])
    validation, test = (
        Scored(
            rows["id"].to_pylist(),
            lines,
            encode_labels(rows["labels"], label_set.labels, label_set.task),
            values,
        )
        for rows, lines, values in zip(splits, texts, logits, strict=True)
    )
    tokens, window = count_tokens(CLASSIFIER, test.texts)
    test = replace(test, columns=columns(splits[1], tokens, window))
    rivals = read_rivals(table.read(RIVALS), test.ids, label_set)
    if params.probe:
        rivals[PROBE] = probe(validation, test, label_set, params, train)
    result = evaluate(validation, test, label_set, baseline, params, seed, untrained, prior, rivals)
    if balance is not None:
        warn("evaluate", corrections(result, params, train, balance, label_set.task))

    write_csv(REPORTS / "per_class.csv", PER_CLASS_HEADER, result.per_class)
    write_csv(REPORTS / "confusion.csv", CONFUSION_HEADER, result.confusion)
    write_curves(REPORTS / "pr.csv", result.precision_recall, "recall", "precision")
    write_curves(REPORTS / "roc.csv", result.roc, "fpr", "tpr")
    write_csv(REPORTS / "risk_coverage.csv", RISK_COVERAGE_HEADER, result.risk_coverage)
    write_csv(REPORTS / "slices.csv", slices_header(label_set.task), map(astuple, result.slices))
    write_csv(REPORTS / "models.csv", rival_header(label_set), result.rivals)
    write_csv(REPORTS / "reliability.csv", RELIABILITY_HEADER, result.reliability)
    write_predictions(result.predictions, REPORTS / "predictions.parquet")
    write_csv(MISTAKES, MISTAKES_HEADER, (escape_row(astuple(mistake)) for mistake in result.mistakes))
    write_json(DECISION, result.decision)
    write_json(REPORTS / "evaluation.json", result.details | {"truncated": truncation(tokens, window)})
    write_json(REPORTS / "metrics.json", result.metrics)
    return result.summary


if __name__ == "__main__":
    main()
