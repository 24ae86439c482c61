"""Write the trained classifier as one ONNX file, verified on the test split, with its card beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from afina.export.artifact import TestTexts, build_metadata, export_classifier, read_calibration
from afina.export.contract import Texts
from afina.export.reference import held_out_reference
from afina.files import read_json, write_json, write_text
from afina.labels import LabelSet, encode_labels, read_label_set
from afina.modeling.store import load_classifier
from afina.params.balance import BalanceParams
from afina.params.base import load_section
from afina.params.export import ExportParams
from afina.params.report import ReportParams
from afina.params.train import TrainParams
from afina.reporting.card import render_card
from afina.reporting.inputs import Inputs, read_optional_json, read_optional_rows
from afina.reporting.locale import Locale
from afina.reporting.setting import Setting, other_corrections
from afina.stage import stage, warn
from afina.table import read, read_texts

CLASSIFIER = Path("models/classifier")
LABELS = Path("data/clean/labels.json")
DECISION = Path("models/decision.json")
RAW = Path("data/raw/messages.parquet")
VALIDATION = Path("data/splits/validation.parquet")
TEST = Path("data/splits/test.parquet")
PREDICTIONS = Path("reports/predictions.parquet")
METRICS = Path("reports/metrics.json")
FOLDER = Path("models/onnx")
CARD = FOLDER / "README.md"
REPORTS = Path("reports")
REPORT = Path("reports/export.json")


def card(label_set: LabelSet, export: dict[str, Any]) -> str:
    """What the model is, for whoever gets the folder with it."""
    report = load_section(ReportParams)
    inputs = Inputs(
        label_set=label_set,
        metrics=read_json(METRICS),
        evaluation=read_json(REPORTS / "evaluation.json"),
        model=read_optional_json(CLASSIFIER / "classifier.json"),
        summary=read_optional_json(REPORTS / "data/summary.json"),
        cleaning=read_optional_json(REPORTS / "data/cleaning.json"),
        split=read_optional_json(REPORTS / "data/split.json"),
        export=export,
        per_class=read_optional_rows(REPORTS / "per_class.csv"),
        training=read_optional_rows(REPORTS / "training.csv"),
    )
    balance = load_section(BalanceParams)
    setting = Setting(
        locale=Locale(report.language),
        title=report.title,
        level=inputs.evaluation["confidence"],
        strategy=balance.strategy,
        corrections=other_corrections(balance, load_section(TrainParams)),
    )
    return render_card(inputs, setting, report.text_language or report.language)


@stage("export")
def main() -> str:
    params = load_section(ExportParams)
    warn("export", params.without_effect())
    classifier, encoder, config = load_classifier(CLASSIFIER)
    test = read(TEST, ["id", "text", "labels"])
    texts = TestTexts(
        ids=test["id"].to_pylist(),
        raw=read_texts(RAW, test["id"].to_pylist()),
        cleaned=test["text"].to_pylist(),
        encoded=encode_labels(test["labels"], config.labels, config.task),
    )
    validation = read(VALIDATION, ["id", "labels"])
    held_out = Texts(
        raw=read_texts(RAW, validation["id"].to_pylist()),
        encoded=encode_labels(validation["labels"], config.labels, config.task),
    )
    decision = read_json(DECISION)
    calibration = read_calibration(decision, config.labels)
    metadata = build_metadata(
        config,
        (CLASSIFIER / "tokenizer.json").read_text(encoding="utf-8"),
        decision,
        read_json(METRICS),
    )
    checked = pq.read_table(PREDICTIONS)
    raw = read_texts(RAW, checked["id"].to_pylist())
    metadata = replace(metadata, reference=held_out_reference(checked, raw, metadata))
    label_set = read_label_set(LABELS)
    report = export_classifier(
        classifier, encoder, metadata, calibration, texts, held_out, label_set.counts, params, FOLDER
    )
    write_text(CARD, card(label_set, report))
    write_json(REPORT, report)
    parity = report["parity"]
    parts = [
        f"{FOLDER}/model.onnx, {report['size_mb']['fp32']} MB, {report['graph']} graph",
        f"{parity['texts']} test texts within {parity['max_abs_diff']:.1g} of torch, all labels identical",
        *copies(report),
    ]
    return "; ".join(parts)


def copies(report: dict[str, Any]) -> list[str]:
    """What became of the int8 and the fp16 copy."""
    found = []
    int8, fp16 = report["int8"], report["fp16"]
    if int8 and int8["written"]:
        agreement, speed = int8["validation"]["label_agreement"], int8["speedup"]
        found.append(
            f"int8 ({int8['recipe']}) agrees on {agreement:.1%} of validation, {speed:.1f} times as fast"
        )
    elif int8:
        found.append(f"no int8 file: {int8['reason']}")
    if fp16 and fp16["written"]:
        found.append(f"fp16 within {fp16['max_abs_diff']:.1g} of torch")
    elif fp16:
        found.append(f"no fp16 file: {fp16['reason']}")
    return found


if __name__ == "__main__":
    main()
