"""Small inputs of the report, made by the functions that make the real ones."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from functools import cache
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from afina.auditing.label_errors import DOUBTS_HEADER
from afina.auditing.label_pairs import PAIRS_HEADER, _suggestion
from afina.behaviour.run import FAILURES_HEADER, RESULTS_HEADER, Failure, Result
from afina.evaluation.report import (
    RELIABILITY_HEADER,
    RISK_COVERAGE_HEADER,
    Evaluation,
    Scored,
    evaluate,
)
from afina.evaluation.rivals import rival_header
from afina.evaluation.slices import slice_columns, slices_header
from afina.evaluation.tables import CONFUSION_HEADER, MISTAKES_HEADER, NONE, PER_CLASS_HEADER
from afina.labels import LabelSet, Task
from afina.params.evaluate import EvaluateParams
from afina.reporting.inputs import Inputs, Rows, confusion_examples
from afina.reporting.locale import Language, Locale
from afina.reporting.setting import Setting

HOSTILE = "pagos & <script>alert('x')</script>"
LABELS = ("vivienda: postulación", HOSTILE, "salud", "rara")
LONG = "Nadie responde a <b>mi</b> reclamo & sigo esperando " + "desde hace mucho tiempo " * 40


def setting(language: Language = "es", **changes: Any) -> Setting:
    """How the page is told."""
    return Setting(Locale(language), strategy="class_weights", **changes)


def multiclass() -> Inputs:
    """Four classes, one of them with few rows, and everything that other stages write."""
    return _inputs("multiclass")


def uncalibrated() -> Inputs:
    """Four classes, and probabilities as the model was trained to give them."""
    return _inputs("multiclass", "none")


def multilabel() -> Inputs:
    """The same with any number of classes a message."""
    return _inputs("multilabel")


def as_rows(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Rows:
    """Rows as they come back from a CSV file."""
    stream = io.StringIO()
    csv.writer(stream).writerows([header, *rows])
    stream.seek(0)
    return [{key: value for key, value in row.items() if value} for row in csv.DictReader(stream)]


def evaluated(
    task: Task, rows: int = 160, calibration: Literal["fit", "none"] = "fit"
) -> tuple[Evaluation, pa.Table]:
    """Made-up logits, evaluated; and the test rows."""
    generator = np.random.default_rng(7)
    parts = []
    for name in ("validation", "test"):
        if task == "multiclass":
            y: Any = generator.choice(4, rows, p=[0.5, 0.27, 0.18, 0.05])
            y[:4] = range(4)
            logits = generator.normal(size=(rows, 4)) + 2.2 * np.eye(4)[y]
        else:
            y = (generator.random((rows, 4)) < [0.5, 0.3, 0.2, 0.05]).astype(np.int8)
            y[:4] |= np.eye(4, dtype=np.int8)
            logits = generator.normal(size=(rows, 4)) - 1.5 + 3.5 * y
        texts = [f"{LONG if row % 9 == 0 else 'breve'} <i>número {row}</i>" for row in range(rows)]
        parts.append(Scored([f"{name}:{row}" for row in range(rows)], texts, y, logits.astype(np.float32)))
    validation, test = parts
    columns = slice_columns(["a", "b"] * (rows // 2), test.texts, [None] * rows, [50, 200] * (rows // 2), 128)
    test = Scored(test.ids, test.texts, test.y, test.logits, columns)
    scores = dict.fromkeys(("macro_f1", "micro_f1", "accuracy"), 0.5)
    baseline = {
        "tfidf": scores,
        "majority": dict.fromkeys(scores, 0.1),
        "tfidf_f1": dict.fromkeys(LABELS, 0.5),
    }
    rivals = {"majority": np.zeros_like(test.y), "tfidf": np.roll(test.y, 1, axis=0)}
    params = EvaluateParams(bootstrap_samples=100, calibration=calibration)
    found = evaluate(validation, test, LabelSet(task, LABELS), baseline, params, 1, None, None, rivals)
    return found, pa.table({"id": list(test.ids), "text": list(test.texts)})


def behaviour_results() -> list[Result]:
    """Tests of every kind: with failures, without, with nothing to try, and one nobody has named yet."""
    return [
        Result("INV", "no_accents", 200, 0, 0.0, 0.0, 0.0188, None, 0.0, 0, 0),
        Result("INV", "typo", 200, 30, 0.15, 0.107, 0.2061, "high", -0.07, 21, 2),
        Result("INV", "html_entities", 0, 0, None, None, None, None, None, 0, 0),
        Result("INV", "change_<of> tomorrow", 100, 1, 0.01, 0.0018, 0.0545, None, 0.0, 0, 1),
        Result("DIR", "label_named", 200, 4, 0.02, 0.0078, 0.0503, None, 0.08, 1, 16),
        Result("MFT", "casos <fáciles>", 3, 1, 0.3333, 0.0615, 0.7923, "high", None, None, None),
        *(
            Result("MFT", f"caso {number}", 1, 0, 0.0, 0.0, 0.7935, None, None, None, None)
            for number in range(32)
        ),
    ]


def behaviour_failures() -> list[Failure]:
    """Failures of those tests; the first of typo was wrong before as well."""
    text, copy = "Mi <b>pensión</b> & la de mi esposo", "Mi <b>pensión</b> & la de mi eposo"
    return [
        Failure("INV", "typo", "t:1", "salud", HOSTILE, 0.6, "salud", 0.3, text, copy),
        Failure("INV", "typo", "t:2", "salud", "salud", 0.9, HOSTILE, 0.4, LONG + " fin", LONG + " fni"),
        Failure("INV", "typo", "t:3", "salud", "salud", 0.9, NONE, 0.4, text, copy),
        Failure("DIR", "label_named", "t:4", "salud", "salud", 0.9, "salud", 0.7, text, f"salud. {text}"),
        Failure("MFT", "casos <fáciles>", "7", "salud or rara", HOSTILE, 0.5, None, None, text, None),
    ]


def explained() -> dict[str, Any]:
    """Explanations as the stage explain writes them: of a mistake, of a right answer and of a long text."""

    def words(text: str, scores: dict[str, float]) -> list[dict[str, Any]]:
        found = []
        for word, score in scores.items():
            start = text.index(word)
            found.append({"start": start, "end": start + len(word), "score": score})
        return found

    short = "No me pagan <b>la pensión</b> & nadie responde"
    common = {"actual": ["salud"], "probability": 0.91, "error": 0.001}
    return {
        "method": "integrated gradients",
        "steps": 32,
        "explanations": [
            {
                "id": "e:1",
                "text": short,
                "predicted": HOSTILE,
                "why": "mistake",
                "words": words(short, {"No": 0.01, "pagan": 0.5, "<b>la": -0.3, "pensión": 1.2, "&": -1.0}),
                **common,
            },
            {
                "id": "e:2",
                "text": LONG,
                "predicted": "salud",
                "why": "random",
                "words": words(LONG, {"Nadie": 0.2, "tiempo": 2.0}),
                **common,
                "error": 0.08,
            },
            {"id": "e:3", "text": short, "predicted": "rara", "why": "random", "words": [], **common},
        ],
    }


@cache
def int8_report(task: Task) -> dict[str, Any]:
    """The part of export.json on int8: a copy for multiclass, none good enough for multilabel."""
    written = task == "multiclass"
    rare = {"validation_fp32": 0.5, "validation_int8": 0.4, "test_fp32": 0.6, "test_int8": 0.7}
    variant = {
        "recipe": "7 bits, per channel",
        "label_agreement": 0.9981 if written else 0.9123,
        "macro_f1_delta": -0.0018,
        "size_mb": 38.25,
        "texts_per_second": 65.3 if written else None,
        "within_contract": written,
    }
    report = {
        "written": written,
        "reason": None if written else "none of 1 recipes keeps the contract",
        "contract": {"max_drop": 0.005, "min_agreement": 0.99},
        "validation": {"texts": 160, "of": 160, "label_agreement": 0.9981, "macro_f1_delta": -0.0018},
        "variants": [variant],
    }
    if not written:
        return report
    return report | {
        "recipe": variant["recipe"],
        "speedup": 2.07,
        "label_agreement": 0.9963,
        "macro_f1_delta": -0.0018,
        "rare_classes": [{"label": LABELS[-1], "examples": 50, **rare}],
    }


def _inputs(task: Task, calibration: Literal["fit", "none"] = "fit") -> Inputs:
    found, test = evaluated(task, calibration=calibration)
    label_set = LabelSet(task, LABELS, dict(zip(LABELS, (500, 270, 180, 50), strict=True)))
    doubt = ("test:1", "test", HOSTILE, "salud", 0.01, "linear|fine-tuned", "", LONG)
    pairs = [
        (a, b, 0.5, forth, back, 0.8, 50, 90, 0.01, _suggestion(a, b, forth, back))
        for a, b, forth, back in (
            (LABELS[0], HOSTILE, 0.4, 0.3),
            ("salud", "rara", 0.0, 0.5),
            ("rara", HOSTILE, 0.1, 0.1),
        )
    ]
    return Inputs(
        label_set=label_set,
        metrics=found.metrics,
        evaluation=found.details | {"truncated": {"window": 128, "texts": 27, "share": 0.1665}},
        model={
            "backbone": "some/backbone",
            "backbone_licence": "Apache-2.0",
            "train_data_sha256": "0" * 64,
        },
        export={
            "parity": {"texts": 160, "max_abs_diff": 4.77e-7},
            "int8": int8_report(task),
            "fp16": {"written": True, "max_abs_diff": 0.0021},
            "size_mb": {"fp32": 117.05, "int8": 38.25 if task == "multiclass" else None, "fp16": 58.5},
        },
        summary={
            "rows": {"raw": 5944, "clean": 1000},
            "words": {"p50": 40, "p95": 156, "max": 30},
            "time": {"first": "2020-01-02T00:00:00", "last": "2026-06-28T00:00:00"},
            "sources": {"sistema_<2020>": 600, "sistema_2025": 400},
        },
        cleaning={"rejected": {"label dropped": 1188, "a reason of tomorrow": 2}},
        split={"rows": {"train": 700, "validation": 150, "test": 160}},
        explanations=explained(),
        per_class=as_rows(PER_CLASS_HEADER, found.per_class),
        split_classes=as_rows(
            ("label", "train", "validation", "test"), [(label, 9, 2, 2) for label in LABELS]
        ),
        confusion=as_rows(CONFUSION_HEADER, found.confusion),
        models=as_rows(rival_header(label_set), found.rivals),
        slices=as_rows(slices_header(task), map(astuple, found.slices)),
        reliability=as_rows(RELIABILITY_HEADER, found.reliability),
        risk_coverage=as_rows(RISK_COVERAGE_HEADER, found.risk_coverage),
        precision_recall=as_rows(
            ("label", "recall", "precision"),
            [
                (curve.label, *point)
                for curve in found.precision_recall
                for point in zip(curve.x, curve.y, strict=True)
            ],
        ),
        training=as_rows(
            ("epoch", "train_loss", "validation_loss", "train_macro_f1", "validation_macro_f1"),
            [(1, 1.6, 0.9, 0.4, 0.7), (2, 0.7, 0.8, 0.7, 0.8), (3, 0.3, 0.9, 0.9, 0.79)],
        ),
        lengths=as_rows(("words", "rows"), [(0, 40), (10, 900), (20, 60)]),
        issues=as_rows(DOUBTS_HEADER, [doubt]),
        pairs=as_rows(PAIRS_HEADER, pairs),
        mistakes=as_rows(MISTAKES_HEADER, map(astuple, found.mistakes)),
        behaviour=as_rows(RESULTS_HEADER, map(astuple, behaviour_results())),
        behaviour_failures=as_rows(FAILURES_HEADER, map(astuple, behaviour_failures())),
        examples=confusion_examples(found.predictions, LABELS, test),
    )
