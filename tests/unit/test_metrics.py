"""Metrics, label encoding, thresholds and intervals against hand-worked numbers, scikit-learn and laws."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sklearn_metrics

from afina.errors import UserError
from afina.evaluation.intervals import bootstrap_intervals, resampled_counts
from afina.evaluation.metrics import classification_metrics, count, one_hot, predict, prediction_metrics
from afina.evaluation.probabilities import to_probabilities
from afina.evaluation.thresholds import fit_thresholds
from afina.labels import decode_labels, encode_labels, read_label_set

ABC = ("a", "b", "c")


def probabilities_for(predicted: list[int], label_count: int = 3) -> np.ndarray:
    """Probabilities whose most probable class is the one given."""
    return np.where(np.arange(label_count) == np.array(predicted)[:, None], 0.8, 0.1)


# labels


def test_labels_encode_in_the_order_given_and_decode_back() -> None:
    column = pa.chunked_array([[["c"], ["a"]], [["b"]]], type=pa.list_(pa.string()))
    encoded = encode_labels(column, ABC, "multiclass")
    assert encoded.dtype == np.int64
    assert encoded.tolist() == [2, 0, 1]
    assert decode_labels(encoded, ABC) == column.to_pylist()

    several = [["a", "c"], [], ["b"]]
    multi = encode_labels(several, ABC, "multilabel")
    assert multi.dtype == np.int8
    assert multi.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert decode_labels(multi, ABC) == several


def test_a_sliced_column_encodes_as_its_own_rows() -> None:
    column = pa.array([["a"], ["b"], ["c"], ["b"]], type=pa.list_(pa.string()))
    assert encode_labels(column.slice(2), ABC, "multiclass").tolist() == [2, 1]
    assert encode_labels(column.slice(1, 2), ABC, "multilabel").tolist() == [[0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("column", "task", "message"),
    [
        ([["a"], ["año"]], "multilabel", "'año'"),
        ([["a"], ["b", "c"]], "multiclass", "row 1 has 2 labels"),
        ([["a"], []], "multiclass", "row 1 has 0 labels"),
    ],
)
def test_labels_that_do_not_fit_are_named(column: list[list[str]], task: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        encode_labels(column, ABC, task)  # type: ignore[arg-type]


def test_label_set_is_read_and_its_mistakes_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    good = {"task": "multiclass", "labels": ["a", "b"], "counts": {"a": 1, "b": 2}, "cleaning": {"steps": []}}
    path.write_text(json.dumps(good), encoding="utf-8")
    label_set = read_label_set(path)
    assert (label_set.task, label_set.labels) == ("multiclass", ("a", "b"))
    assert label_set.counts == {"a": 1, "b": 2}
    assert label_set.cleaning == {"steps": []}
    for change, message in (
        ({"task": "binary"}, "task"),
        ({"labels": ["a"]}, "too few"),
        ({"labels": ["a", "a"]}, "repeated"),
        ({"labels": "a"}, "list of names"),
    ):
        path.write_text(json.dumps(good | change), encoding="utf-8")
        with pytest.raises(UserError, match=message):
            read_label_set(path)


# metrics


def test_multiclass_by_hand() -> None:
    # a: 2 true, 3 predicted, 2 right; b: 2 true, 1 predicted, 1 right; c: neither
    scores = classification_metrics(
        np.array([0, 0, 1, 1]), probabilities_for([0, 0, 0, 1]), ABC, "multiclass"
    )
    a, b = 2 * 2 / 5, 2 * 1 / 3
    assert scores == pytest.approx(
        {
            "macro_f1": (a + b + 0) / 3,
            "micro_f1": 0.75,
            "weighted_f1": (2 * a + 2 * b) / 4,
            "accuracy": 0.75,
            "macro_precision": (2 / 3 + 1 + 0) / 3,
            "micro_precision": 0.75,
            "weighted_precision": (2 * 2 / 3 + 2 * 1) / 4,
            "macro_recall": (1 + 0.5 + 0) / 3,
            "micro_recall": 0.75,
            "weighted_recall": 0.75,
        }
    )


def test_multilabel_by_hand() -> None:
    truth = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0]], dtype=np.int8)
    probabilities = np.array([[0.9, 0.6, 0.2], [0.1, 0.7, 0.0], [0.2, 0.3, 0.4]])
    scores = classification_metrics(truth, probabilities, ABC, "multilabel")
    assert scores["micro_f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert scores["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert scores["samples_f1"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert scores["subset_accuracy"] == pytest.approx(2 / 3)
    # a lower threshold for the third label finds what was missed, and one too many
    lower = classification_metrics(truth, probabilities, ABC, "multilabel", [0.5, 0.5, 0.2])
    assert lower["macro_f1"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)


@given(
    hnp.arrays(np.int64, 30, elements=st.integers(0, 3)),
    hnp.arrays(np.float64, (30, 5), elements=st.floats(0, 1)),
)
@settings(max_examples=30, deadline=None)
def test_multiclass_agrees_with_scikit_learn(y: np.ndarray, probabilities: np.ndarray) -> None:
    """The fifth class is never true; scikit-learn is told of it."""
    scores = classification_metrics(y, probabilities, "abcde", "multiclass")
    predicted = probabilities.argmax(axis=1)
    for average in ("macro", "micro", "weighted"):
        expected = sklearn_metrics.precision_recall_fscore_support(
            y, predicted, labels=range(5), average=average, zero_division=0
        )
        found = [scores[f"{average}_{name}"] for name in ("precision", "recall", "f1")]
        assert found == pytest.approx(expected[:3])
    assert scores["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(y, predicted))


@given(
    hnp.arrays(np.int8, (25, 4), elements=st.integers(0, 1)),
    hnp.arrays(np.float64, (25, 4), elements=st.floats(0, 1)),
    hnp.arrays(np.float64, 4, elements=st.floats(0.01, 0.99)),
)
@settings(max_examples=30, deadline=None)
def test_multilabel_agrees_with_scikit_learn(
    y: np.ndarray, probabilities: np.ndarray, thresholds: np.ndarray
) -> None:
    scores = classification_metrics(y, probabilities, "abcd", "multilabel", thresholds.tolist())
    predicted = (probabilities >= thresholds).astype(int)
    for average in ("macro", "micro", "weighted"):
        expected = sklearn_metrics.precision_recall_fscore_support(
            y, predicted, average=average, zero_division=0
        )
        found = [scores[f"{average}_{name}"] for name in ("precision", "recall", "f1")]
        assert found == pytest.approx(expected[:3])
    samples = sklearn_metrics.f1_score(y, predicted, average="samples", zero_division=1)
    assert scores["samples_f1"] == pytest.approx(samples)
    assert scores["subset_accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(y, predicted))


@given(st.integers(0, 2**32 - 1), st.sampled_from(["multiclass", "multilabel"]))
@settings(max_examples=30, deadline=None)
def test_order_of_rows_and_of_labels_does_not_matter(seed: int, task: str) -> None:
    generator = np.random.default_rng(seed)
    probabilities = generator.random((40, 4))
    y = (
        generator.integers(0, 4, 40)
        if task == "multiclass"
        else generator.integers(0, 2, (40, 4)).astype(np.int8)
    )
    scores = classification_metrics(y, probabilities, "abcd", task)  # type: ignore[arg-type]
    rows, columns = generator.permutation(40), generator.permutation(4)
    again = classification_metrics(y[rows], probabilities[rows], "abcd", task)  # type: ignore[arg-type]
    assert again == pytest.approx(scores)
    moved = np.argsort(columns)[y] if task == "multiclass" else y[:, columns]
    relabelled = classification_metrics(moved, probabilities[:, columns], "abcd", task)  # type: ignore[arg-type]
    assert relabelled == pytest.approx(scores)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_perfect_predictions_score_one(task: str) -> None:
    generator = np.random.default_rng(0)
    if task == "multiclass":
        y = np.concatenate([np.arange(4), generator.integers(0, 4, 20)])
        truth = np.eye(4)[y]
    else:
        y = np.concatenate([np.eye(4, dtype=np.int8), generator.integers(0, 2, (20, 4)).astype(np.int8)])
        truth = y
    scores = classification_metrics(y, 0.1 + 0.8 * truth, "abcd", task)  # type: ignore[arg-type]
    assert scores == pytest.approx(dict.fromkeys(scores, 1.0))


def test_an_absent_class_lowers_the_macro_average() -> None:
    """Otherwise a score would rise when a rare class falls out of a split."""
    y = np.array([0, 1, 0, 1])
    assert classification_metrics(y, probabilities_for([0, 1, 0, 1]), ABC, "multiclass")[
        "macro_f1"
    ] == pytest.approx(2 / 3)


def test_a_single_multilabel_label_is_scored_on_its_positives() -> None:
    y = np.array([[1], [1], [0], [0]], dtype=np.int8)
    scores = classification_metrics(y, np.array([[0.9], [0.1], [0.9], [0.1]]), ["a"], "multilabel")
    assert (scores["macro_f1"], scores["subset_accuracy"]) == (0.5, 0.5)


def test_a_diverged_model_and_an_empty_split_are_the_users_to_know() -> None:
    probabilities = probabilities_for([0, 1])
    probabilities[1, 2] = np.nan
    with pytest.raises(UserError, match=r"1 of 2 rows .* not a number"):
        classification_metrics(np.array([0, 1]), probabilities, ABC, "multiclass")
    with pytest.raises(UserError, match="no rows"):
        classification_metrics(np.empty(0, dtype=np.int64), np.empty((0, 3)), ABC, "multiclass")
    with pytest.raises(ValueError, match="probabilities"):
        classification_metrics(np.array([0, 1]), np.zeros((2, 2)), ABC, "multiclass")


def test_probabilities_are_softmax_and_sigmoid_even_of_huge_logits() -> None:
    logits = np.array([[0.0, np.log(3.0)], [1000.0, -1000.0]], dtype=np.float32)
    assert to_probabilities(logits, "multiclass").tolist() == pytest.approx(np.array([[0.25, 0.75], [1, 0]]))
    assert to_probabilities(logits, "multilabel").tolist() == pytest.approx(np.array([[0.5, 0.75], [1, 0]]))
    assert to_probabilities(logits, "multiclass").dtype == np.float32


# thresholds


def test_threshold_by_hand() -> None:
    truth = np.array([1, 1, 1, 0, 1, 0, 0, 0], dtype=np.int8)[:, None]
    scores = np.array([0.9, 0.8, 0.7, 0.35, 0.3, 0.2, 0.1, 0.05])[:, None]
    # predicting the first five finds 4 of 4 at the price of one: F1 8/9, better than the first three: 6/7
    assert fit_thresholds(truth, scores, min_positives=1) == [0.25]
    # four positives are too few for a minimum of five
    assert fit_thresholds(truth, scores, min_positives=5) == [0.5]


def test_a_default_that_is_as_good_as_any_is_kept() -> None:
    truth = np.array([1, 1, 0, 0], dtype=np.int8)[:, None]
    assert fit_thresholds(truth, np.array([0.9, 0.8, 0.3, 0.1])[:, None], min_positives=1) == [0.5]
    assert fit_thresholds(truth, np.array([0.9, 0.8, 0.7, 0.1])[:, None], min_positives=1) == [0.75]


@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
@settings(max_examples=50, deadline=None)
def test_no_other_threshold_has_a_higher_f1(seed: int, levels: int) -> None:
    """Compared with every distinct score as the threshold; few levels make many ties."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 2, (40, 1)).astype(np.int8)
    truth[:2] = 1
    scores = (generator.integers(0, levels, (40, 1)) / levels).astype(np.float32)
    threshold = fit_thresholds(truth, scores, min_positives=1)
    best = max(count(truth, (scores >= edge).astype(np.int8), 1).f1[0] for edge in np.unique(scores))
    assert count(truth, predict(scores, "multilabel", threshold), 1).f1[0] == pytest.approx(best)


# intervals


def test_resamples_keep_the_size_of_every_class() -> None:
    generator = np.random.default_rng(0)
    y, predicted = generator.integers(0, 3, 60), generator.integers(0, 3, 60)
    counts = resampled_counts(one_hot(y, 3), one_hot(predicted, 3), 50, generator)
    assert (counts.support == np.bincount(y, minlength=3)).all()
    assert (counts.predicted.sum(axis=1) == 60).all()
    assert (counts.correct <= counts.support).all()
    assert counts.correct.std() > 0


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_intervals_repeat_with_the_seed_and_surround_the_score(task: str) -> None:
    generator = np.random.default_rng(3)
    y = (
        generator.integers(0, 4, 300)
        if task == "multiclass"
        else (generator.random((300, 4)) < 0.3).astype(np.int8)
    )
    flip = generator.random(y.shape) < 0.2
    predicted = np.where(flip, (y + 1) % (4 if task == "multiclass" else 2), y).astype(y.dtype)
    first = bootstrap_intervals(y, predicted, 4, task, samples=500, seed=1)  # type: ignore[arg-type]
    assert first == bootstrap_intervals(y, predicted, 4, task, samples=500, seed=1)  # type: ignore[arg-type]
    assert first != bootstrap_intervals(y, predicted, 4, task, samples=500, seed=2)  # type: ignore[arg-type]
    scores = prediction_metrics(y, predicted, "abcd", task)  # type: ignore[arg-type]
    for name, interval in first.headline.items():
        assert interval.low < scores[name] < interval.high
        assert interval.high - interval.low < 0.15
    for interval, score in zip(first.f1, count(y, predicted, 4).f1, strict=True):
        assert interval.low < score < interval.high
        assert interval.high - interval.low < 0.25


def test_a_perfect_score_on_few_rows_is_not_a_certain_one() -> None:
    """Of n rows all right, Wilson's lower end is n / (n + z^2); z^2 = 3.8415."""
    y = np.repeat([0, 1, 2], (16, 4, 1))
    found = bootstrap_intervals(y, y, 3, "multiclass", samples=100)
    lows = [interval.low for interval in [found.headline["accuracy"], *found.f1]]
    assert lows == pytest.approx([21 / 24.8415, 16 / 19.8415, 4 / 7.8415, 1 / 4.8415], abs=1e-4)
    rows = 9 / (1 / 16 + 1 / 4 + 1)  # variance p (1 - p) / 9 (1/16 + 1/4 + 1/1)
    assert found.headline["macro_f1"].low == pytest.approx(rows / (rows + 3.8415), abs=1e-4)
    assert {interval.high for interval in [*found.headline.values(), *found.f1]} == {1.0}


def test_all_rows_right_is_not_certain_either_where_a_label_has_none() -> None:
    y = np.repeat([0, 1, 2], (20, 12, 10))
    found = bootstrap_intervals(y, y, 4, "multiclass", samples=100).headline["macro_f1"]
    assert found.low < 0.65
    assert found.high > 0.85


SMALL = {"ones": [1] * 10, "twos": [2] * 10, "long tail": [100, 50, 25, 12, 6, 3, 2, 1]}


@pytest.mark.parametrize("sizes", SMALL.values(), ids=SMALL)
def test_intervals_of_macro_f1_cover_it_where_classes_have_next_to_no_rows(sizes: list[int]) -> None:
    """Ten sets of classes of known recall, 25 models each: 95 % intervals hold what to expect in 85 %."""
    generator = np.random.default_rng(14)
    count_, y = len(sizes), np.repeat(np.arange(len(sizes)), sizes)
    y_hot, hits = one_hot(y, count_), 0
    for _ in range(10):
        recall = generator.beta(6, 2, count_)

        def draw(recall: np.ndarray = recall) -> np.ndarray:
            wrong = (y + generator.integers(1, count_, len(y))) % count_
            return np.where(generator.random(len(y)) < recall[y], y, wrong)

        expected = np.mean([count(y_hot, one_hot(draw(), count_), count_).f1.mean() for _ in range(200)])
        for trial in range(25):
            found = bootstrap_intervals(y, draw(), count_, "multiclass", samples=400, seed=trial)
            interval = found.headline["macro_f1"]
            hits += interval.low <= expected <= interval.high
    assert hits / 250 >= 0.85


def test_a_class_of_one_row_varies_and_the_interval_holds_the_score() -> None:
    y = np.arange(5)
    predicted = np.array([0, 1, 2, 3, 0])
    found = bootstrap_intervals(y, predicted, 5, "multiclass", samples=400)
    for name, score in (("macro_f1", (2 / 3 + 3) / 5), ("accuracy", 0.8)):
        interval = found.headline[name]
        assert interval.low < 0.6
        assert interval.low <= score <= interval.high


def test_a_label_that_is_never_found_and_one_without_rows() -> None:
    y, predicted = np.repeat([0, 1], (10, 30)), np.ones(40, dtype=np.int64)
    found = bootstrap_intervals(y, predicted, 3, "multiclass", samples=100).f1
    assert (found[0].low, found[0].high) == pytest.approx((0, 3.8415 / 13.8415), abs=1e-4)
    assert 0 < found[1].low <= found[1].high < 1
    assert (found[2].low, found[2].high) == (0, 1)


def test_intervals_cover_the_true_accuracy_about_as_often_as_they_say() -> None:
    """Classifiers of known accuracy 0.8, 200 samples of test rows: 95 % intervals hold it in 88 to 99 %."""
    generator = np.random.default_rng(11)
    hits = 0
    for trial in range(200):
        y = generator.integers(0, 3, 150)
        predicted = np.where(generator.random(150) < 0.8, y, (y + 1) % 3)
        found = bootstrap_intervals(y, predicted, 3, "multiclass", samples=400, seed=trial)
        interval = found.headline["accuracy"]
        hits += interval.low <= 0.8 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


def test_intervals_of_a_label_cover_its_f1_about_as_often_as_they_say() -> None:
    """A label of 40 of 120 rows, found at 0.7, wrongly said of the other 80 at 0.1."""
    generator = np.random.default_rng(12)
    y = np.repeat([0, 1], (40, 80))
    true_f1 = 2 * 28 / (40 + 28 + 8)
    hits = 0
    for trial in range(200):
        predicted = np.where(generator.random(120) < np.where(y == 0, 0.7, 0.1), 0, 1)
        interval = bootstrap_intervals(y, predicted, 2, "multiclass", samples=400, seed=trial).f1[0]
        hits += interval.low <= true_f1 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99
