"""Test how the exported model behaves: on altered copies of test messages, and on cases written by hand."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

import numpy as np

from afina.behaviour.cases import read_cases
from afina.behaviour.run import (
    FAILURES_HEADER,
    RESULTS_HEADER,
    Failure,
    Messages,
    Result,
    ask,
    run_cases,
    run_perturbation,
)
from afina.evaluation.metrics import one_hot
from afina.files import write_csv
from afina.labels import encode_labels
from afina.params.base import load_section, load_seed
from afina.params.behave import BehaveParams
from afina.progress import track
from afina.runtime import Classifier
from afina.spreadsheets import escape_row
from afina.stage import note_unwatched, stage, warn
from afina.table import read, read_texts

WATCHED = Path("data/cases")
MODEL = Path("models/onnx/model.onnx")
RAW = Path("data/raw/messages.parquet")
TEST = Path("data/splits/test.parquet")
RESULTS = Path("reports/behaviour.csv")
FAILURES = Path("data/evaluated/behaviour_failures.csv")


@stage("behave")
def main() -> str:
    params, seed = load_section(BehaveParams), load_seed()
    note_unwatched("behave", params.files().values(), WATCHED)
    classifier = Classifier(MODEL)
    cases = read_cases(Path(params.cases), classifier.labels, classifier.task) if params.cases else []
    if params.cases and not cases:
        note = f"the model knows no label of {params.cases}, so its cases were left out"
        warn("behave", [f"{note}; set behave.cases to your own file, or to null"])

    results: list[Result] = []
    failures: list[Failure] = []
    if params.tests:
        messages = read_messages(classifier, params.max_texts, seed)
        for test in track(params.tests, "behaviour", len(params.tests), "tests"):
            result, failed = run_perturbation(
                test, classifier, messages, params.language, seed, params.max_changed
            )
            results.append(result)
            failures += failed
    if cases:
        by_name, failed = run_cases(classifier, cases, params.max_changed)
        results += by_name
        failures += failed
    write_csv(RESULTS, RESULTS_HEADER, map(astuple, results))
    write_csv(FAILURES, FAILURES_HEADER, (escape_row(astuple(failure)) for failure in failures))
    return summary(results)


def read_messages(classifier: Classifier, limit: int | None, seed: int) -> Messages:
    """Test messages as extract found them, ``limit`` of them drawn at random, and what the model says."""
    test = read(TEST, ["id", "labels"])
    if limit is not None and test.num_rows > limit:
        drawn = np.random.default_rng(seed).choice(test.num_rows, limit, replace=False)
        test = test.take(np.sort(drawn))
    ids = test["id"].to_pylist()
    texts = read_texts(RAW, ids)
    encoded = encode_labels(test["labels"], classifier.labels, classifier.task)
    truth = one_hot(encoded, len(classifier.labels)).astype(np.bool_)
    return Messages(ids, texts, truth, ask(classifier, texts))


def summary(results: list[Result]) -> str:
    altered = [result for result in results if result.kind != "MFT" and result.share is not None]
    cases = [result for result in results if result.kind == "MFT"]
    parts = []
    if altered:
        worst = max(altered, key=lambda result: result.share or 0)
        parts.append(f"{len(altered)} tests on messages, worst: {worst.test} ({worst.share:.1%} fail)")
    if cases:
        failed, total = sum(result.failures for result in cases), sum(result.rows for result in cases)
        parts.append(f"{total - failed:,} of {total:,} cases passed")
    return "; ".join(parts) or "no tests"


if __name__ == "__main__":
    main()
