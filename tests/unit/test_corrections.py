"""What is said of a run that corrects the imbalance beside the logit adjustment."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from afina import table
from afina.balancing import class_weights
from afina.evaluation import corrections
from afina.evaluation.adjustment import logit_offsets, training_prior
from afina.evaluation.corrections import double_adjustments, undone_adjustment
from afina.evaluation.predictions import rival_table, write_predictions
from afina.labels import LabelSet
from afina.params.train import TrainParams
from tiny import tiny_messages

PIPELINE = Path(__file__).resolve().parents[2] / "pipeline"
LABELS = ("a", "b", "c")
COUNTS = np.array([60, 30, 10])
HALF = {"a": 0.7, "b": 1.0, "c": 1.7}
BALANCED = dict(zip(LABELS, class_weights(COUNTS).tolist(), strict=True))


def balance(strategy: str = "none", weights: dict[str, float] | None = None) -> dict[str, Any]:
    after = dict(zip(LABELS, COUNTS.tolist(), strict=True))
    return {"strategy": strategy, "class_weights": weights, "before": after, "after": after}


def lines(
    content: dict[str, Any], loss: str = "cross_entropy", sampler: str = "shuffle", tau: float = 0.5
) -> list[str]:
    prior = training_prior(content, 100, LabelSet("multiclass", LABELS))
    offsets = dict(zip(LABELS, logit_offsets(prior, tau, "multiclass").tolist(), strict=True))
    return double_adjustments(tau, offsets, loss, sampler, content)


@pytest.mark.parametrize(
    ("content", "changes", "found"),
    [
        (balance(), {}, []),
        (balance(), {"loss": "focal"}, []),
        (balance("class_weights", dict.fromkeys(LABELS, 1.0)), {}, []),
        (balance("class_weights", HALF), {}, ["only the imbalance that they left is corrected"]),
        (balance("class_weights", BALANCED), {}, ["class weights .* nothing is left to correct"]),
        (balance("oversample"), {}, ["balance.strategy oversample: .* only the imbalance that it left"]),
        (balance(), {"loss": "logit_adjusted"}, ["takes them off again, so rare labels are favoured twice"]),
        (balance(), {"loss": "class_balanced"}, ["train.loss class_balanced: .* favoured twice"]),
        (balance(), {"sampler": "progressive"}, ["train.sampler progressive: .* favoured twice"]),
        (
            balance("undersample", HALF),
            {"loss": "ldam", "sampler": "class_balanced"},
            [
                "class weights",
                "balance.strategy undersample",
                "train.loss ldam",
                "train.sampler class_balanced",
            ],
        ),
        # Weights have left nothing: the training has corrected once, the adjustment not at all.
        (
            balance("class_weights", BALANCED),
            {"loss": "logit_adjusted", "sampler": "square_root"},
            ["nothing is left to correct"],
        ),
    ],
)
def test_what_both_do_is_said(content: dict[str, Any], changes: dict[str, str], found: list[str]) -> None:
    said = lines(content, **changes)
    assert len(said) == len(found)
    for line, part in zip(said, found, strict=True):
        assert line.startswith("evaluate.logit_adjustment (tau 0.5) with ")
        assert re.search(part, line)
        assert "\n" not in line
    assert lines(content, **changes, tau=0.0) == []


def test_every_loss_for_imbalance_has_a_line() -> None:
    known = set(get_args(TrainParams.model_fields["loss"].annotation))
    assert set(corrections._WITH_LOSSES) == known - {"cross_entropy", "focal"}


@pytest.mark.parametrize(
    ("adjustment", "train", "said"),
    [
        (0.5, "{loss: logit_adjusted}", ["train.loss logit_adjusted"]),
        (0.5, "{sampler: square_root, loss: ldam}", ["train.loss ldam", "train.sampler square_root"]),
        (0.5, "{}", []),
        ("none", "{loss: logit_adjusted}", []),
    ],
)
def test_the_stage_warns(
    adjustment: float | str,
    train: str,
    said: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(
        f"evaluate: {{bootstrap_samples: 100, untrained: false, logit_adjustment: {adjustment}}}\n"
        f"train: {train}\n",
        encoding="utf-8",
    )
    for folder in ("data/clean", "data/balanced", "reports"):
        Path(folder).mkdir(parents=True)
    labels = {"task": "multiclass", "labels": LABELS, "cleaning": {"steps": []}}
    Path("data/clean/labels.json").write_text(json.dumps(labels), encoding="utf-8")
    Path("data/balanced/balance.json").write_text(json.dumps(balance()), encoding="utf-8")
    scores = {"macro_f1": 0.5, "accuracy": 0.5}
    baseline = {"tfidf_f1": dict.fromkeys(LABELS, 0.5), "tfidf": scores, "majority": scores}
    Path("reports/baseline.json").write_text(json.dumps(baseline), encoding="utf-8")
    rows = tiny_messages(n=30, labels=LABELS)
    table.write(rows, Path("data/balanced/train.parquet"), table.BALANCED_SCHEMA)
    for name in ("validation", "test"):
        table.write(rows.select(table.SCHEMA.names), Path(f"data/splits/{name}.parquet"))
    logits = np.random.default_rng(0).normal(size=(2, 30, 3)).astype(np.float32)
    monkeypatch.setattr("afina.evaluation.scoring.score_classifier", lambda *_: list(logits))
    monkeypatch.setattr("afina.evaluation.scoring.count_tokens", lambda *_: ([9] * 30, 8))
    write_predictions(
        rival_table(rows["id"].to_pylist(), {"majority": np.zeros(30, dtype=np.int64)}, LABELS),
        Path("data/baseline/predictions.parquet"),
    )
    runpy.run_path(str(PIPELINE / "evaluate.py"), run_name="__main__")
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == len(said)
    for line, part in zip(warnings, said, strict=True):
        assert line.startswith("evaluate: warning: evaluate.logit_adjustment (tau 0.5) with ")
        assert part in line


def test_a_calibration_for_each_label_undoes_the_adjustment_where_thresholds_stay() -> None:
    (line,) = undone_adjustment(1.0, "multilabel", "fit", 0.5)
    assert "takes its offset off again" in line
    assert "set evaluate.thresholds to fit" in line
    assert undone_adjustment(0.0, "multilabel", "fit", 0.5) == []
    assert undone_adjustment(1.0, "multiclass", "fit", 0.5) == []
    assert undone_adjustment(1.0, "multilabel", "none", 0.5) == []
    assert undone_adjustment(1.0, "multilabel", "fit", "fit") == []
