"""Tell people what was found, on one page."""

from __future__ import annotations

from pathlib import Path

from afina import table
from afina.evaluation.predictions import read_predictions
from afina.files import read_json, write_text
from afina.labels import read_label_set
from afina.params.balance import BalanceParams
from afina.params.base import load_section
from afina.params.report import ReportParams
from afina.params.train import TrainParams
from afina.reporting.inputs import (
    Inputs,
    Pair,
    confusion_examples,
    read_optional_json,
    read_optional_rows,
)
from afina.reporting.locale import Locale
from afina.reporting.page import render_page
from afina.reporting.setting import Setting, other_corrections
from afina.stage import stage

LABELS = Path("data/clean/labels.json")
CLASSIFIER = Path("models/classifier/classifier.json")
TEST = Path("data/splits/test.parquet")
EVALUATED = Path("data/evaluated")
REPORTS = Path("reports")
DATA = Path("reports/data")
METRICS = Path("reports/metrics.json")
PREDICTIONS = Path("reports/predictions.parquet")
ISSUES = Path("reports/label_issues.csv")
PAGE = Path("reports/report.html")


def read_inputs() -> Inputs:
    """What the other stages wrote, as far as it is there."""
    label_set = read_label_set(LABELS)
    examples: dict[Pair, list[str]] = {}
    if PREDICTIONS.is_file() and TEST.is_file():
        predictions, test = read_predictions(PREDICTIONS, label_set), table.read(TEST, ["id", "text"])
        examples = confusion_examples(predictions, label_set.labels, test)
    return Inputs(
        label_set=label_set,
        metrics=read_json(METRICS),
        evaluation=read_optional_json(REPORTS / "evaluation.json"),
        model=read_optional_json(CLASSIFIER),
        export=read_optional_json(REPORTS / "export.json"),
        summary=read_optional_json(DATA / "summary.json"),
        cleaning=read_optional_json(DATA / "cleaning.json"),
        split=read_optional_json(DATA / "split.json"),
        explanations=read_optional_json(EVALUATED / "explanations.json"),
        per_class=read_optional_rows(REPORTS / "per_class.csv"),
        split_classes=read_optional_rows(DATA / "split_classes.csv"),
        confusion=read_optional_rows(REPORTS / "confusion.csv"),
        models=read_optional_rows(REPORTS / "models.csv"),
        slices=read_optional_rows(REPORTS / "slices.csv"),
        reliability=read_optional_rows(REPORTS / "reliability.csv"),
        risk_coverage=read_optional_rows(REPORTS / "risk_coverage.csv"),
        precision_recall=read_optional_rows(REPORTS / "pr.csv"),
        training=read_optional_rows(REPORTS / "training.csv"),
        lengths=read_optional_rows(DATA / "lengths.csv"),
        issues=read_optional_rows(ISSUES, escaped=True),
        pairs=read_optional_rows(REPORTS / "label_pairs.csv"),
        mistakes=read_optional_rows(EVALUATED / "mistakes.csv", escaped=True),
        behaviour=read_optional_rows(REPORTS / "behaviour.csv"),
        behaviour_failures=read_optional_rows(EVALUATED / "behaviour_failures.csv", escaped=True),
        examples=examples,
    )


@stage("report")
def main() -> str:
    params, balance = load_section(ReportParams), load_section(BalanceParams)
    inputs = read_inputs()
    setting = Setting(
        locale=Locale(params.language),
        title=params.title,
        level=inputs.evaluation.get("confidence", 0.95),
        strategy=balance.strategy,
        corrections=other_corrections(balance, load_section(TrainParams)),
        examples=params.examples,
        text_length=params.text_length,
    )
    write_text(PAGE, render_page(inputs, setting, audited=ISSUES.is_file()))
    return f"{PAGE}, in {'Spanish' if params.language == 'es' else 'English'}"


if __name__ == "__main__":
    main()
