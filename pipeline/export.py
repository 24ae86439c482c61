"""Write the trained classifier as one ONNX file, verified on the test split, with its card beside it."""

from __future__ import annotations

from pathlib import Path

from afina.export.artifact import TestTexts, build_metadata, export_classifier, read_calibration
from afina.files import read_json, write_json, write_text
from afina.labels import LabelSet, encode_labels, read_label_set
from afina.modeling.store import load_classifier
from afina.params.balance import BalanceParams
from afina.params.base import load_section
from afina.params.export import ExportParams
from afina.params.report import ReportParams
from afina.reporting.card import render_card
from afina.reporting.inputs import Inputs, read_optional_json, read_optional_rows
from afina.reporting.locale import Locale
from afina.reporting.setting import Setting
from afina.stage import stage
from afina.table import read, read_texts

CLASSIFIER = Path("models/classifier")
LABELS = Path("data/clean/labels.json")
DECISION = Path("models/decision.json")
RAW = Path("data/raw/messages.parquet")
TEST = Path("data/splits/test.parquet")
METRICS = Path("reports/metrics.json")
MODEL = Path("models/onnx/model.onnx")
INT8 = Path("models/onnx/model.int8.onnx")
CARD = Path("models/onnx/README.md")
REPORTS = Path("reports")
REPORT = Path("reports/export.json")


def card(label_set: LabelSet) -> str:
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
        per_class=read_optional_rows(REPORTS / "per_class.csv"),
        training=read_optional_rows(REPORTS / "training.csv"),
    )
    setting = Setting(
        locale=Locale(report.language),
        title=report.title,
        level=inputs.evaluation["confidence"],
        strategy=load_section(BalanceParams).strategy,
    )
    return render_card(inputs, setting, report.text_language or report.language)


@stage("export")
def main() -> str:
    params = load_section(ExportParams)
    classifier, encoder, config = load_classifier(CLASSIFIER)
    test = read(TEST, ["id", "text", "labels"])
    texts = TestTexts(
        ids=test["id"].to_pylist(),
        raw=read_texts(RAW, test["id"].to_pylist()),
        cleaned=test["text"].to_pylist(),
        encoded=encode_labels(test["labels"], config.labels, config.task),
    )
    decision = read_json(DECISION)
    calibration = read_calibration(decision, config.labels)
    metadata = build_metadata(
        config,
        (CLASSIFIER / "tokenizer.json").read_text(encoding="utf-8"),
        decision,
        read_json(METRICS),
    )
    report = export_classifier(classifier, encoder, metadata, calibration, texts, params, MODEL, INT8)
    write_text(CARD, card(read_label_set(LABELS)))
    write_json(REPORT, report)
    parity, int8 = report["parity"], report["int8"]
    quantised = f"; int8 agrees on {int8['label_agreement']:.1%}" if int8 else ""
    return (
        f"{MODEL}, {report['size_mb']['fp32']} MB, {report['graph']} graph; {parity['texts']} test texts "
        f"within {parity['max_abs_diff']:.1g} of torch, all labels identical{quantised}"
    )


if __name__ == "__main__":
    main()
