"""Fine-tuned models that judge what they never saw, and the stage audit with them."""

from __future__ import annotations

import csv
import json
import runpy
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_training import params_for

from afina import table
from afina.adaptation.store import Adaptation, save_adapted
from afina.auditing import fine_tuned
from afina.auditing.fine_tuned import WORKSHOP, fine_tuned_out_of_fold, set_aside, workshop
from afina.auditing.out_of_fold import assign_folds, out_of_fold
from afina.errors import UserError
from afina.evaluation.predictions import prediction_table, write_predictions
from afina.labels import LabelSet, Task, encode_labels
from afina.modeling.backbone import resolve_backbone
from afina.params.audit import AuditParams
from afina.params.baseline import BaselineParams
from afina.params.train import TrainParams
from afina.training.loop import TrainingResult
from stage_script import load_stage
from tiny import KEYWORDS, LABELS, build_tiny_backbone, tiny_messages

Ints = npt.NDArray[np.int64]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_backbone(tmp_path_factory.mktemp("backbone") / "bert")


def quick(backbone: Path, **changes: Any) -> TrainParams:
    """Settings that learn the toy messages in seconds."""
    settings = {"epochs": 6, "learning_rate": 6e-3, "checkpoint_seconds": 60} | changes
    return params_for(backbone, **settings)


def shuffled(task: Task, n: int) -> pa.Table:
    """Toy messages whose ids are in no order, so that a mix-up of rows shows."""
    rows = tiny_messages(task, n)
    return rows.take(np.random.default_rng(3).permutation(n))


@dataclass
class Runs:
    """What each training was given."""

    fitted: list[list[str]] = field(default_factory=list)
    validation: list[list[str]] = field(default_factory=list)
    arguments: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Watches the trainings."""
    seen, train = Runs(), fine_tuned.train

    def watched(params: TrainParams, **given: Any) -> TrainingResult:
        seen.fitted.append(given["train_table"]["id"].to_pylist())
        seen.validation.append(given["validation_table"]["id"].to_pylist())
        seen.arguments.append(given)
        return train(params, **given)

    monkeypatch.setattr(fine_tuned, "train", watched)
    return seen


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_rows_are_judged_by_models_that_never_saw_them_and_rightly(
    task: Task, bert: Path, tmp_path: Path, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, label_set = shuffled(task, 96), LabelSet(task, LABELS)
    ids = np.array(rows["id"].to_pylist())
    y = encode_labels(rows["labels"], LABELS, task)
    units = np.arange(96) // 2
    weights = {"agua": 1.5}
    scored = fine_tuned_out_of_fold(
        rows, y, label_set, quick(bert, lexical=True), weights, 3, 5, tmp_path / "models", units
    )
    assert np.array_equal(scored.folds, assign_folds(y, 3, 3, 5, units))
    texts = rows["text"].to_pylist()
    linear = out_of_fold(texts, y, label_set, BaselineParams(char_ngrams=None), 3, 5, units)
    assert np.array_equal(scored.folds, linear.folds)
    for held, (fitted, validation) in enumerate(zip(runs.fitted, runs.validation, strict=True)):
        judged = set(ids[scored.folds == held])
        assert sorted([*fitted, *validation, *judged]) == sorted(ids)  # each in one place
        assert 4 <= len(validation) <= 12
        for part in (set(fitted), set(validation), judged):  # pairs are not parted
            assert all((first in part) == (second in part) for first, second in ids.reshape(48, 2))
    assert all(given["class_weights"] == weights and given["seed"] == 5 for given in runs.arguments)
    assert scored.judged.all()
    # Linear and fine-tuned models agree on the right answer, so the rows are in their places.
    if task == "multiclass":
        np.testing.assert_allclose(scored.probabilities.sum(axis=1), 1, rtol=1e-5)
        assert (scored.probabilities.argmax(axis=1) == y).mean() > 0.8
    else:
        assert ((scored.probabilities > 0.5) == (y == 1)).mean() > 0.8
    assert not list((tmp_path / "models").iterdir())
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("audit: ")]
    assert [line[:19] for line in lines] == [f"audit: fold {number} of 3:" for number in (1, 2, 3)]


def test_random_labels_are_judged_by_chance_unless_copies_straddle_folds(bert: Path, tmp_path: Path) -> None:
    """Each text is there three times with the same label, drawn by lot: it can only be known by heart."""
    texts = tiny_messages(n=60)["text"].to_pylist()
    assert len(set(texts)) == 60
    y = np.tile(np.random.default_rng(8).permutation(np.repeat([0, 1], 30)), 3)
    rows = pa.table(
        {
            "id": [f"r{row:03}" for row in range(180)],
            "text": [*texts, *texts, *texts],
            "labels": [[LABELS[label]] for label in y],
        }
    )
    label_set, params = LabelSet("multiclass", LABELS[:2]), quick(bert, lexical=True)

    def accuracy(units: Ints | None) -> float:
        scored = fine_tuned_out_of_fold(rows, y, label_set, params, None, 3, 1, tmp_path, units)
        return float((scored.probabilities.argmax(axis=1) == y).mean())

    # Of 60 texts that are right by lot half of the time, 43 or more are in 5 of 10,000 cases.
    assert accuracy(np.tile(np.arange(60), 3)) < 43 / 60
    # A third of a third of them has no copy outside its fold.
    assert accuracy(None) > 0.8


def test_probabilities_are_calibrated_and_unseen_labels_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a model: logits that are three times too sure, and a label that one row alone has."""
    generator = np.random.default_rng(2)
    y = generator.integers(0, 3, 300)
    y[17] = 3
    names = (*LABELS, "sola")
    logits = generator.normal(0, 1, (300, 4)) + 2.0 * np.eye(4)[y]
    rows = pa.table(
        {
            "id": [str(row) for row in range(300)],
            "text": [str(row) for row in range(300)],
            "labels": [[names[label]] for label in y],
        }
    )
    monkeypatch.setattr(
        fine_tuned, "train", lambda *_, **__: TrainingResult([], 1, 0.5, 0, "fp32", "cpu", True)
    )
    monkeypatch.setattr(fine_tuned, "load_classifier", lambda folder: (None, None, None))
    monkeypatch.setattr(
        fine_tuned, "predict_logits", lambda model, encoder, texts, device: 3 * logits[list(map(int, texts))]
    )
    scored = fine_tuned_out_of_fold(
        rows, y, LabelSet("multiclass", names), TrainParams(device="cpu"), None, 4, 1, tmp_path
    )
    assert scored.judged[:, :3].all()
    assert not scored.judged[17, 3]
    assert scored.probabilities[17, 3] == 0
    assert scored.judged[scored.folds != scored.folds[17], 3].all()
    known = np.delete(np.arange(300), 17)
    right = scored.probabilities.argmax(axis=1)[known] == y[known]
    confidence = scored.probabilities.max(axis=1)[known]
    assert confidence.mean() == pytest.approx(right.mean(), abs=0.03)


@settings(deadline=None, max_examples=100)
@given(
    rows=st.lists(st.sets(st.integers(0, 4), max_size=3), min_size=4, max_size=40),
    copies=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_what_is_set_aside_leaves_the_labels_that_one_unit_has(
    rows: list[set[int]], copies: int, seed: int
) -> None:
    y = np.array([[label in row for label in range(5)] for row in rows], dtype=np.int8)
    units = np.arange(len(y))
    units[1 : 1 + copies] = 0
    single = [label for label in range(5) if len(np.unique(units[y[:, label] == 1])) == 1]
    try:
        aside = set_aside(y, 5, seed, units)
    except UserError:
        kept = {unit for label in single for unit in units[y[:, label] == 1]}
        free = [set(units[y[:, label] == 1]) - kept for label in range(5)]
        assert all(len(found) < 2 for found in free)
        return
    assert aside.any()
    assert np.array_equal(aside, set_aside(y, 5, seed, units))
    assert len(set(aside[units == 0].tolist())) <= 1
    assert not aside[y[:, single].any(axis=1)].any()


def test_a_tenth_is_set_aside_of_each_label() -> None:
    y = np.repeat([0, 1, 2], [100, 50, 20])
    assert np.bincount(y[set_aside(y, 3, 1)]).tolist() == [10, 5, 2]
    hot = np.eye(3, dtype=np.int8)[y]
    assert hot[set_aside(hot, 3, 1)].sum(axis=0).tolist() == [10, 5, 2]


def test_rows_that_share_no_label_are_too_few() -> None:
    with pytest.raises(UserError, match=r"audit\.fine_tuned_folds: of the 3 rows .*; set it to 0"):
        set_aside(np.array([0, 1, 1]), 2, 1, np.array([0, 1, 1]))


def test_the_folder_is_gone_whatever_happens(bert: Path, tmp_path: Path) -> None:
    left = tmp_path / WORKSHOP
    left.mkdir()
    (left / "checkpoint.safetensors").touch()  # of a process that was killed

    def fail() -> None:
        with workshop(left) as folder:
            assert not list(folder.iterdir())
            (folder / "half of it").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not left.exists()
    rows = tiny_messages(n=30)
    y = encode_labels(rows["labels"], LABELS, "multiclass")
    with pytest.raises(UserError, match=r"train\.max_length"):
        fine_tuned_out_of_fold(
            rows,
            y,
            LabelSet("multiclass", LABELS),
            quick(bert, max_length=999),
            None,
            2,
            1,
            tmp_path / "models",
        )
    assert not list((tmp_path / "models").iterdir())


@pytest.mark.parametrize("folds", [-1, 1, 11])
def test_the_number_of_folds_is_checked(folds: int) -> None:
    with pytest.raises(UserError, match=r"audit\.fine_tuned_folds"):
        AuditParams.parse({"fine_tuned_folds": folds})
    assert AuditParams.parse({"fine_tuned_folds": 2}).fine_tuned_folds == 2
    assert AuditParams().fine_tuned_folds == 0


# the stage


def write_inputs(task: Task, backbone: Path) -> set[str]:
    """What the stage reads, in the current folder; the ids of train rows with a wrong label."""
    params = quick(backbone, lexical=True).model_dump(mode="json")
    for folder in ("data/clean", "data/balanced", "reports"):
        Path(folder).mkdir(parents=True)
    Path("data/clean/labels.json").write_text(json.dumps({"task": task, "labels": LABELS}), encoding="utf-8")
    Path("data/balanced/balance.json").write_text(
        json.dumps({"strategy": "none", "class_weights": None}), encoding="utf-8"
    )
    wrong: set[str] = set()
    parts = {}
    for seed, (name, n) in enumerate({"train": 240, "validation": 24, "test": 24}.items()):
        rows = tiny_messages(task, n, seed=seed).to_pylist()
        if name == "train":
            # Clear cases: confident learning asks for more certainty than these models' mean.
            for row, label in ((10, 0), (31, 1), (52, 2)):
                rows[row] |= {"text": f"{KEYWORDS[label]} " * 3, "labels": [LABELS[(label + 1) % 3]]}
                wrong.add(rows[row]["id"])
        rows = pa.Table.from_pylist(rows, schema=table.SCHEMA)
        table.write(rows, Path(f"data/splits/{name}.parquet"))
        y = encode_labels(rows["labels"], LABELS, task)
        certain = np.asarray(y if y.ndim == 2 else np.eye(3)[y], dtype=np.float32) * 0.8 + 0.1
        parts[name] = (rows["id"].to_pylist(), y, y, certain)
    del parts["train"]
    write_predictions(prediction_table(LabelSet(task, LABELS), parts), Path("reports/predictions.parquet"))
    files = resolve_backbone(str(backbone))
    record = Adaptation(False, "tiny", None, files.sha256, None, None, 0, 0, 0, 0, [])
    save_adapted(Path("models/adapted"), record)
    Path("params.yaml").write_text(
        json.dumps({"train": params, "baseline": {"char_ngrams": None}, "split": {"near_duplicates": None}}),
        encoding="utf-8",
    )
    return wrong


def change(section: str, **values: Any) -> None:
    """Change params.yaml."""
    path = Path("params.yaml")
    params = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(params | {section: values}), encoding="utf-8")


def listed() -> list[dict[str, str]]:
    """The rows of the list."""
    with Path("reports/label_issues.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def asked(row: dict[str, str]) -> set[str]:
    """The models that judged a row."""
    return {*row["doubted_by"].split("|"), *row["accepted_by"].split("|")} - {""}


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_the_stage_asks_fine_tuned_models_about_all_rows(
    task: Task, bert: Path, tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cleanlab")
    monkeypatch.chdir(tmp_path)
    wrong = write_inputs(task, bert)
    change("audit", fine_tuned_folds=3, folds=3)
    runpy.run_path(str(repository / "pipeline" / "audit.py"), run_name="__main__")
    rows = listed()
    assert {row["id"] for row in rows if row["split"] == "train"}
    assert all(asked(row) == {"linear", "fine-tuned"} for row in rows)
    both = {row["id"] for row in rows if row["doubted_by"] == "linear|fine-tuned"}
    assert wrong <= both
    assert {path.name for path in Path("models").iterdir()} == {"adapted"}


def test_predictions_of_other_labels_stop_the_stage(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_inputs("multiclass", bert)
    labels = {"task": "multiclass", "labels": LABELS[::-1]}
    Path("data/clean/labels.json").write_text(json.dumps(labels), encoding="utf-8")
    with pytest.raises(SystemExit) as caught:
        load_stage("audit").main()
    assert caught.value.code == 2
    assert "reports/predictions.parquet: other labels than data/clean/labels.json" in capsys.readouterr().err
    assert [path.name for path in Path("reports").iterdir()] == ["predictions.parquet"]


def test_the_stage_does_without_torch_where_nothing_is_fine_tuned(
    bert: Path, tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cleanlab")
    monkeypatch.chdir(tmp_path)
    write_inputs("multiclass", bert)
    script = (
        "import runpy, sys\n"
        f"runpy.run_path({str(repository / 'pipeline' / 'audit.py')!r}, run_name='__main__')\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    train = [row for row in listed() if row["split"] == "train"]
    assert train
    assert all(asked(row) == {"linear"} for row in train)
