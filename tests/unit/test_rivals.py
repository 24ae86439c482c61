"""The fine-tuned model beside simpler ones."""

from __future__ import annotations

import numpy as np
import pytest

from afina.errors import UserError
from afina.evaluation.metrics import IntArray
from afina.evaluation.predictions import rival_table
from afina.evaluation.rivals import read_rivals, rival_header, rival_rows
from afina.labels import LabelSet, Task

LABELS = ("agua", "luz", "vías")
IDS = [f"r{row:03}" for row in range(300)]


def truth(task: Task) -> IntArray:
    generator = np.random.default_rng(0)
    if task == "multiclass":
        return generator.integers(0, 3, 300)
    return (generator.random((300, 3)) < 0.4).astype(np.int8)


def with_errors(y: IntArray, share: float, seed: int) -> IntArray:
    """The truth, wrong in a share of the rows (multilabel: of the labels)."""
    wrong = np.random.default_rng(seed).random(y.shape) < share
    return np.where(wrong, (y + 1) % (3 if y.ndim == 1 else 2), y).astype(y.dtype)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_models_are_told_apart_where_they_differ(task: Task) -> None:
    label_set = LabelSet(task, LABELS)
    y = truth(task)
    predicted = with_errors(y, 0.1, 1)
    flipped = predicted.copy()
    flipped[0] = (flipped[0] + 1) % 2
    rivals = {"poor": with_errors(y, 0.4, 2), "good": y, "like it": flipped, "itself": predicted}
    rows = rival_rows(IDS, y, predicted, rivals, label_set, 500, 0.95, 42)
    named = [dict(zip(rival_header(label_set), row, strict=True)) for row in rows]
    assert [row["model"] for row in named] == ["fine-tuned", *rivals]
    assert [row["fine_tuned_is"] for row in named] == [
        None,
        "better",
        "worse",
        named[3]["fine_tuned_is"],
        "the same predictions",
    ]
    assert named[3]["fine_tuned_is"] in ("no evidence", "too little data")
    own = named[0]
    assert own["difference"] is None
    assert own["macro_f1_low"] < own["macro_f1"] < own["macro_f1_high"]
    for row in named[1:]:
        assert row["difference"] == pytest.approx(own["macro_f1"] - row["macro_f1"], abs=2e-6)
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]
    assert named[1]["mcnemar_p"] < 0.001
    assert named[4]["mcnemar_p"] == 1


def test_one_class_in_test_is_not_compared() -> None:
    y = np.zeros(300, dtype=np.int64)
    rows = rival_rows(IDS, y, y, {"other": y + 1}, LabelSet("multiclass", LABELS), 100, 0.95, 42)
    assert rows[1][-5:] == [None] * 5


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_rivals_are_read_back_in_the_order_of_the_rows(task: Task) -> None:
    y = truth(task)
    order = np.random.default_rng(3).permutation(300)
    table = rival_table([IDS[row] for row in order], {"one": y[order]}, LABELS)
    assert table["id"].to_pylist() == sorted(IDS)
    found = read_rivals(table, IDS, LabelSet(task, LABELS))
    assert np.array_equal(found["one"], y)


def test_rivals_of_other_rows_or_labels_are_refused() -> None:
    y = truth("multiclass")
    table = rival_table(IDS, {"one": y}, LABELS)
    with pytest.raises(UserError, match="made with another test split; run `dvc repro -f baseline`"):
        read_rivals(table, IDS[1:], LabelSet("multiclass", LABELS))
    with pytest.raises(UserError, match="made with other labels; run `dvc repro -f baseline`"):
        read_rivals(table, IDS, LabelSet("multiclass", LABELS[:2]))
