"""The Trainer that `benchmarks/quality.py` compares with learns, and its best epoch is what is scored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from accelerate.state import AcceleratorState

from afina import table
from afina.labels import LabelSet
from stage_script import benchmark
from tiny import LABELS, build_tiny_backbone, tiny_messages


@pytest.fixture(scope="module")
def plain() -> Iterator[Any]:
    with benchmark("plain_trainer") as module:
        yield module


@pytest.fixture(autouse=True)
def own_accelerator() -> Iterator[None]:
    """accelerate keeps one precision a process; the Trainer's is not that of other tests."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_backbone(tmp_path_factory.mktemp("backbone"))


def prepare(folder: Path, task: Any) -> Path:
    """A folder with the splits of toy messages."""
    for seed, (name, rows) in enumerate((("train", 240), ("validation", 60), ("test", 45))):
        messages = tiny_messages(task, rows, seed=seed)
        path = folder / "data" / "splits" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table.write(messages, path)
    clean = folder / "data" / "clean"
    clean.mkdir()
    (clean / "labels.json").write_text(json.dumps({"task": task, "labels": list(LABELS)}))
    return folder


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_it_learns(
    task: str, plain: Any, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain, "LEARNING_RATE", 1e-2)  # the tiny backbone knows nothing yet
    scores = plain.fine_tune(prepare(tmp_path, task), str(backbone), epochs=8, max_length=32, seed=1)
    assert scores["test"]["macro_f1"] > 0.8  # a third of it by chance
    assert scores["test_rows"] == 45


def test_the_best_epoch_counts(
    plain: Any, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain, "LEARNING_RATE", 5e-3)
    folder = prepare(tmp_path, "multiclass")
    path = folder / "data" / "splits" / "validation.parquet"
    rows = table.read(path)
    following = dict(zip(LABELS, LABELS[1:] + LABELS[:1], strict=True))
    wrong = [[following[label] for label in labels] for labels in rows["labels"].to_pylist()]
    place = rows.schema.get_field_index("labels")
    column = pa.array(wrong, table.SCHEMA.field("labels").type)
    table.write(rows.set_column(place, "labels", column), path)  # so the more it learns, the lower the score
    scores = plain.fine_tune(folder, str(backbone), epochs=4, max_length=32, seed=1)
    by_epoch = scores["validation_by_epoch"]
    assert len(by_epoch) == 4
    assert by_epoch[-1] < max(by_epoch)  # or nothing would tell the best from the last
    assert scores["validation"]["macro_f1"] == max(by_epoch)


def test_labels_of_a_text_are_what_reaches_one_half(plain: Any) -> None:
    class Predictions:
        predictions = np.array([[3.0, -3.0], [-3.0, 3.0], [3.0, 3.0]])
        label_ids = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])

    scores = plain.scorer(LabelSet("multilabel", ("a", "b")))(Predictions)
    assert scores["micro_f1"] == pytest.approx(6 / 7, abs=1e-6)
    assert scores["subset_accuracy"] == pytest.approx(2 / 3, abs=1e-6)
