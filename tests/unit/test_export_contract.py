"""Which int8 recipe wins, on which texts, and which classes are watched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from afina.export.contract import (
    Contract,
    Texts,
    Trial,
    choose,
    f1_of_labels,
    measure_speeds,
    rare_labels,
    search,
    stratified_rows,
)
from afina.export.graph import Graph
from afina.export.quantisation import RECIPES, Recipe, without
from afina.runtime.classifier import Classifier
from afina.runtime.encoding import BATCH_TOKENS
from toy_artifact import toy_model, write_toy

CONTRACT = Contract(max_drop=0.005, min_agreement=0.99)


def trial(number: int, agreement: float, drop: float, speed: float | None) -> Trial:
    return Trial(RECIPES[number], agreement, drop, 1000, speed)


@pytest.mark.parametrize(
    ("agreement", "drop", "kept"),
    [
        (0.99, 0.005, True),
        (1 - 1 / 100, 0.8 - 0.795, True),  # as they come out of arithmetic
        (0.9899, 0.0, False),
        (1.0, 0.0051, False),
        (0.995, -0.2, True),  # better than fp32 by chance
    ],
)
def test_both_parts_of_the_contract_count(agreement: float, drop: float, kept: bool) -> None:
    assert trial(0, agreement, drop, None).keeps(CONTRACT) is kept


def test_the_fastest_within_the_contract_wins() -> None:
    trials = [trial(0, 1.0, 0.0, 100.0), trial(1, 1.0, 0.0, 150.0), trial(2, 0.98, 0.0, 900.0)]
    assert choose(trials, CONTRACT) is trials[1]


def test_as_fast_to_within_the_noise_the_first_wins() -> None:
    trials = [trial(0, 1.0, 0.0, 80.0), trial(1, 0.995, 0.0, 92.0), trial(2, 1.0, 0.0, 100.0)]
    assert choose(trials, CONTRACT) is trials[1]
    assert choose([trials[2], trials[1]], CONTRACT) is trials[2]


def test_nothing_within_the_contract_is_nothing() -> None:
    assert choose([trial(0, 0.9, 0.0, 100.0), trial(1, 1.0, 0.1, 100.0)], CONTRACT) is None
    assert choose([], CONTRACT) is None


def test_recipes_have_different_names() -> None:
    names = {recipe.name for recipe in RECIPES} | {without(RECIPES[0], ["10", "2"]).name}
    assert len(names) == len(RECIPES) + 1
    assert RECIPES[0].bits == 7
    assert without(Recipe(), ["10", "2"]).kept == ("2", "10")


def test_a_sample_has_each_class_with_its_share() -> None:
    encoded = np.repeat([0, 1, 2], [600, 300, 100])
    np.random.default_rng(0).shuffle(encoded)
    rows = stratified_rows(encoded, 100)
    assert len(rows) == 100
    assert np.bincount(encoded[rows]).tolist() == [60, 30, 10]
    assert (np.diff(rows) > 0).all()


def test_a_multilabel_row_counts_for_its_rarest_label() -> None:
    # 90 rows with label 0 alone, 10 with label 1 too; none without a label.
    encoded = np.zeros((100, 2), dtype=np.int8)
    encoded[:, 0], encoded[::10, 1] = 1, 1
    rows = stratified_rows(encoded, 20)
    assert encoded[rows].sum(axis=0).tolist() == [20, 2]


@given(st.lists(st.integers(0, 4), max_size=60), st.integers(1, 70))
def test_a_sample_never_has_a_row_twice_and_no_class_off_by_more_than_one(
    classes: list[int], most: int
) -> None:
    encoded = np.array(classes, dtype=np.int64)
    rows = stratified_rows(encoded, most)
    assert len(set(rows.tolist())) == len(rows) == min(most, len(classes))
    if len(classes) > most:
        share = np.bincount(encoded, minlength=5) * most / len(classes)
        assert (np.abs(np.bincount(encoded[rows], minlength=5) - share) <= 1).all()


def test_the_rare_third_is_rounded_up() -> None:
    counts = {"a": 9, "b": 2, "c": 9, "d": 1}
    assert rare_labels(counts, ["a", "b", "c", "d"]) == ["d", "b"]
    assert rare_labels({}, ["x", "y", "z"]) == ["x"]  # nothing is known: the model's order


def test_f1_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]], dtype=np.float32)
    found = f1_of_labels(probabilities, np.array([0, 1, 1]), ["a", "b"], "multiclass", None)
    assert found == {"a": pytest.approx(2 / 3, abs=1e-6), "b": pytest.approx(2 / 3, abs=1e-6)}


def test_speed_is_of_every_file(tmp_path: Path) -> None:
    files = [write_toy(tmp_path / name) for name in ("a.onnx", "b.onnx")]
    ids = Classifier(files[0]).encode(["agua", "luz luz"] * 20)
    speeds = measure_speeds(files, ids, 64)
    assert len(speeds) == 2
    assert all(0 < speed < 1e8 for speed in speeds)


def moody_model(padded: bool) -> onnx.ModelProto:
    """A toy that says "agua" to whole batches: those with padding, or those without."""
    model = toy_model()
    graph = model.graph
    [activation, add] = [graph.node.pop(), graph.node.pop()]
    add.output[0] = "honest"
    low, high = (5.0, 0.0) if padded else (0.0, 5.0)  # of a batch with padding, of one without
    slope, base = (np.array([[value, 0, 0]], dtype=np.float32) for value in (high - low, low))
    graph.initializer.extend([numpy_helper.from_array(slope, "slope"), numpy_helper.from_array(base, "base")])
    graph.node.extend(
        [
            add,
            helper.make_node("Cast", ["attention_mask"], ["mask_again"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMin", ["mask_again"], ["full"], keepdims=0),
            helper.make_node("Mul", ["full", "slope"], ["change"]),
            helper.make_node("Add", ["change", "base"], ["mood"]),
            helper.make_node("Add", ["honest", "mood"], ["logits"]),
            activation,
        ]
    )
    return model


@pytest.mark.parametrize("padded", [True, False])
def test_the_worse_of_two_batchings_counts(tmp_path: Path, padded: bool) -> None:
    longer = BATCH_TOKENS // 7  # texts of 7 tokens that fill one of the runtime's batches
    raw = ["luz"] * 30 + ["luz " * 5] * longer
    np.random.default_rng(0).shuffle(raw)
    texts = Texts(raw, np.ones(len(raw), dtype=np.int64))

    def write(recipe: Recipe) -> Path:
        return write_toy(tmp_path / f"{RECIPES.index(recipe)}.onnx", model=moody_model(padded))

    # Sorted there is no padding, mixed there is in all but the batches of one text or of one length.
    classifier = Classifier(write(RECIPES[0]))
    own = (classifier.predict_proba(raw).argmax(axis=1) == 1).mean()
    assert own == (1.0 if padded else 0.0)

    fp32 = write_toy(tmp_path / "fp32.onnx")
    found = search(Graph(toy_model(), fused=False), fp32, texts, CONTRACT, write, BATCH_TOKENS)
    assert found.winner is None
    assert len(found.trials) == len(RECIPES)
    assert all(trial.agreement < 0.5 for trial in found.trials)
    assert all(trial.drop > 0.1 for trial in found.trials)
