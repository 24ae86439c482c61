"""The linear probe: what it is fitted on, what chooses it, the vectors it sees, and its row in models.csv."""

from __future__ import annotations

import csv
import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.preprocessing import StandardScaler
from test_evaluation import save_tiny_classifier

from afina import table
from afina.errors import UserError
from afina.evaluation import probe
from afina.evaluation.metrics import FloatArray, IntArray
from afina.evaluation.probe import STRENGTHS, Embedded, probe_predictions
from afina.evaluation.scoring import embed_untrained
from afina.labels import LabelSet, Task
from afina.modeling.backbone import load_tokenizer, resolve_backbone
from afina.modeling.classifier import load_pretrained
from afina.params.evaluate import EvaluateParams
from afina.runtime.encoding import Encoder
from tiny import LABELS, build_tiny_backbone, tiny_messages

PARAMS = EvaluateParams()


def embedded(task: Task, n: int, seed: int, noise: float = 0.5, width: int = 12) -> Embedded:
    """Vectors in which each label has a direction of its own, far from standardised."""
    generator = np.random.default_rng(seed)
    directions = np.random.default_rng(0).normal(size=(3, width))
    if task == "multiclass":
        y: IntArray = generator.integers(0, 3, n)
        hot = np.eye(3)[y]
    else:
        y = (generator.random((n, 3)) < 0.35).astype(np.int8)
        hot = y.astype(np.float64)
    vectors = hot @ directions + noise * generator.normal(size=(n, width))
    return Embedded((1e3 + vectors * np.logspace(-2, 2, width)).astype(np.float64), y)


def run(train: Embedded, validation: Embedded, test: FloatArray, task: Task, **changes: Any) -> IntArray:
    label_set = LabelSet(task, LABELS)
    return probe_predictions(train, validation, test, label_set, PARAMS.model_copy(update=changes))


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_what_is_linear_is_found_row_by_row(task: Task) -> None:
    train, validation, test = (embedded(task, n, seed) for n, seed in ((200, 1), (80, 2), (90, 3)))
    found = run(train, validation, test.vectors, task)
    assert found.shape == test.y.shape
    assert found.dtype == test.y.dtype
    assert (found == test.y).mean() > 0.9
    # A row's answer does not depend on the others, nor is anything fitted to test.
    order = np.random.default_rng(4).permutation(90)[:40]
    assert np.array_equal(run(train, validation, test.vectors[order], task), found[order])


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_random_labels_of_train_give_chance_on_test(task: Task) -> None:
    """More dimensions than rows, so that train is known by heart."""
    train, validation, test = (embedded(task, 60, seed, width=100) for seed in (1, 2, 3))
    lot = np.random.default_rng(5).permutation(60)
    found = run(replace(train, y=train.y[lot]), validation, test.vectors, task)
    by_chance = (test.y[lot] == test.y).mean()
    assert (found == test.y).mean() < by_chance + 0.25


def test_the_strength_is_the_best_on_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in (1, 4, 7):
        train, validation, test = (
            embedded("multiclass", 80, seed + part, noise=4.0, width=40) for part in range(3)
        )
        scaler = StandardScaler().fit(train.vectors)
        models = [
            LogisticRegression(C=strength, class_weight="balanced", max_iter=1000).fit(
                scaler.transform(train.vectors), train.y
            )
            for strength in STRENGTHS
        ]
        scores = [
            f1_score(validation.y, model.predict(scaler.transform(validation.vectors)), average="macro")
            for model in models
        ]
        best = models[int(np.argmax(scores))]  # the first of equal ones
        assert len(set(scores)) > 1
        found = run(train, validation, test.vectors, "multiclass")
        assert np.array_equal(found, best.predict(scaler.transform(test.vectors)))
        monkeypatch.setattr(probe, "STRENGTHS", (STRENGTHS[int(np.argmin(scores))],))
        worst = run(train, validation, test.vectors, "multiclass")
        assert not np.array_equal(found, worst)
        monkeypatch.undo()


def test_thresholds_are_fitted_on_validation_or_given() -> None:
    train = embedded("multilabel", 300, 1, noise=3.0)
    validation, test = (embedded("multilabel", 200, seed, noise=3.0) for seed in (2, 3))
    fitted = run(train, validation, test.vectors, "multilabel")
    low, high = (run(train, validation, test.vectors, "multilabel", thresholds=part) for part in (0.1, 0.9))
    assert high.sum() < fitted.sum() < low.sum()
    cautious = run(train, validation, test.vectors, "multilabel", threshold_precision=0.95)
    assert cautious.sum() < fitted.sum()
    # A label that validation lacks keeps the threshold 0.5.
    nowhere = replace(validation, y=np.zeros_like(validation.y))
    half = run(train, nowhere, test.vectors, "multilabel", thresholds=0.5)
    assert np.array_equal(run(train, nowhere, test.vectors, "multilabel"), half)


def test_a_label_that_train_lacks_is_never_predicted() -> None:
    train, validation, test = (embedded("multiclass", n, seed) for n, seed in ((200, 1), (60, 2), (60, 3)))
    without = Embedded(train.vectors[train.y != 1], train.y[train.y != 1])
    found = run(without, validation, test.vectors, "multiclass")
    assert set(found.tolist()) == {0, 2}
    assert (found == test.y)[test.y != 1].mean() > 0.9
    train, validation, test = (embedded("multilabel", n, seed) for n, seed in ((200, 1), (60, 2), (60, 3)))
    train.y[:, 0], train.y[:, 1] = 0, 1
    found = run(train, validation, test.vectors, "multilabel", thresholds=0.5)
    assert not found[:, 0].any()
    assert found[:, 1].all()
    assert (found == test.y)[:, 2].mean() > 0.8


def test_what_cannot_be_fitted_is_a_users_mistake() -> None:
    rows = embedded("multiclass", 30, 1)
    with pytest.raises(UserError, match=r"evaluate\.probe: train has one class only"):
        run(replace(rows, y=np.zeros_like(rows.y)), rows, rows.vectors, "multiclass")
    empty = Embedded(rows.vectors[:0], rows.y[:0])
    for name, given in (
        ("train", (empty, rows, rows.vectors)),
        ("validation", (rows, empty, rows.vectors)),
        ("test", (rows, rows, empty.vectors)),
    ):
        with pytest.raises(UserError, match=f"data/splits/{name}.parquet: no rows"):
            run(*given, "multiclass")


# vectors of the backbone


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_vectors_are_means_over_the_tokens_of_the_published_backbone(
    architecture: Any, tmp_path: Path
) -> None:
    import torch

    backbone = build_tiny_backbone(tmp_path / "backbone", architecture)
    save_tiny_classifier(tmp_path / "classifier", backbone, "multiclass")
    files = resolve_backbone(str(backbone))
    texts = tiny_messages(n=20)["text"].to_pylist()
    tokenizer, pad_token_id = load_tokenizer(files.folder)
    model = load_pretrained(files.folder).eval()
    expected = []
    with torch.inference_mode():
        for ids in Encoder(tokenizer, 32, pad_token_id).encode(texts):
            tokens = torch.from_numpy(ids)[None]
            hidden = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
            expected.append(hidden[0].numpy().astype(np.float64).mean(axis=0))
    for budget in (16, 2048):
        found = embed_untrained(tmp_path / "classifier", [texts[:13], [], texts[13:]], budget, files)
        assert [part.shape for part in found] == [(13, 32), (0, 32), (7, 32)]
        np.testing.assert_allclose(np.concatenate(found), expected, atol=2e-6)


def test_another_backbone_than_that_of_the_classifier_is_refused(tmp_path: Path) -> None:
    backbone = build_tiny_backbone(tmp_path / "backbone")
    save_tiny_classifier(tmp_path / "classifier", backbone, "multiclass")
    build_tiny_backbone(backbone, seed=9)
    with pytest.raises(UserError, match=r"changed since training; .* set evaluate\.probe to false"):
        embed_untrained(tmp_path / "classifier", [["hola"]], 1024, resolve_backbone(str(backbone)))


# the stage


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_the_probe_is_one_more_row_and_changes_no_other(
    task: Task, tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data/clean").mkdir(parents=True)
    labels = {"task": task, "labels": list(LABELS), "cleaning": {"steps": []}}
    Path("data/clean/labels.json").write_text(json.dumps(labels), encoding="utf-8")
    for seed, name in enumerate(("train", "validation", "test")):
        rows = tiny_messages(task, n=120 if name == "train" else 60, seed=seed)
        table.write(rows.select(table.SCHEMA.names), Path(f"data/splits/{name}.parquet"))
    save_tiny_classifier(Path("models/classifier"), build_tiny_backbone(Path("models/local/tiny")), task)
    written = []
    for wanted in (False, True):
        evaluate = {"bootstrap_samples": 100, "untrained": False, "probe": wanted}
        Path("params.yaml").write_text(
            json.dumps(
                {
                    "evaluate": evaluate,
                    "baseline": {"char_ngrams": None},
                    "train": {"backbone": "models/local/tiny"},
                }
            ),
            encoding="utf-8",
        )
        for name in ("baseline", "evaluate")[wanted:]:
            runpy.run_path(str(repository / "pipeline" / f"{name}.py"), run_name="__main__")
        with Path("reports/models.csv").open(encoding="utf-8", newline="") as stream:
            written.append(list(csv.DictReader(stream)))
    assert [row["model"] for row in written[1]] == ["fine-tuned", "majority", "tfidf", "probe"]
    assert written[1][:3] == written[0]
    probed = written[1][3]
    # Even the means of a random backbone tell the toy messages apart, which this classifier does not.
    assert float(probed["macro_f1"]) > float(written[1][0]["macro_f1"]) + 0.1
    assert probed["fine_tuned_is"] == "worse"
    assert float(probed["macro_f1_low"]) < float(probed["macro_f1"]) < float(probed["macro_f1_high"])
