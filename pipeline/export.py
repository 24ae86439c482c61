"""Write the trained classifier as one ONNX file, verified on the test split."""

from __future__ import annotations

from pathlib import Path

from afina.export.artifact import TestTexts, build_metadata, export_classifier, read_calibration
from afina.files import read_json, write_json
from afina.labels import encode_labels
from afina.modeling.store import load_classifier
from afina.params.base import load_section
from afina.params.export import ExportParams
from afina.stage import stage
from afina.table import read, read_texts

CLASSIFIER = Path("models/classifier")
DECISION = Path("models/decision.json")
RAW = Path("data/raw/messages.parquet")
TEST = Path("data/splits/test.parquet")
METRICS = Path("reports/metrics.json")
MODEL = Path("models/onnx/model.onnx")
INT8 = Path("models/onnx/model.int8.onnx")
REPORT = Path("reports/export.json")


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
        decision["thresholds"],
        read_json(METRICS),
    )
    report = export_classifier(classifier, encoder, metadata, calibration, texts, params, MODEL, INT8)
    write_json(REPORT, report)
    parity, int8 = report["parity"], report["int8"]
    quantised = f"; int8 agrees on {int8['label_agreement']:.1%}" if int8 else ""
    return (
        f"{MODEL}, {report['size_mb']['fp32']} MB, {report['graph']} graph; {parity['texts']} test texts "
        f"within {parity['max_abs_diff']:.1g} of torch, all labels identical{quantised}"
    )


if __name__ == "__main__":
    main()
