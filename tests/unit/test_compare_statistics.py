"""The comparison of two models: pairing, statistics against references and by simulation, and the verdict."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from afina import cli
from afina.comparison import (
    METRICS,
    RARE,
    Cells,
    Comparison,
    Gate,
    Predictions,
    bootstrap_differences,
    compare,
    detectable_drop,
    draw_sums,
    mcnemar,
    pair,
    scores,
    swapped_differences,
)
from afina.errors import UserError
from afina.evaluation.metrics import prediction_metrics
from afina.evaluation.predictions import SCHEMA, prediction_table
from afina.labels import LabelSet, Task
from afina.revisions import parse_predictions, read_revision, shown

ABC = ("a", "b", "c")
QUICK = Gate(resamples=400)


def model(
    truth: Sequence[Any] | np.ndarray,
    predicted: Sequence[Any] | np.ndarray,
    labels: tuple[str, ...] = ABC,
    ids: Sequence[str] | None = None,
) -> Predictions:
    """Predictions of class indexes, or multilabel ones of multi-hot rows."""
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    task: Task = "multilabel" if truth.ndim == 2 else "multiclass"
    names = tuple(ids) if ids is not None else tuple(f"m{row:05d}" for row in range(len(truth)))
    return Predictions(task, labels, names, truth, predicted)


def two_models(
    sizes: Sequence[int], accuracy: tuple[float, float], agreement: float, generator: np.random.Generator
) -> tuple[Predictions, Predictions]:
    """Two models of given accuracies on classes of given sizes.

    ``agreement`` is the share of a model's answers that follow the question, hard or easy for both, and not
    the model: their errors are correlated.
    """
    truth = np.repeat(np.arange(len(sizes)), sizes)
    n = len(truth)
    labels = tuple(f"c{label:02d}" for label in range(len(sizes)))

    def wrong() -> np.ndarray:
        return (truth + generator.integers(1, len(sizes), n)) % len(sizes)

    luck, mistake = generator.random(n), wrong()
    models = []
    for share in accuracy:
        own = generator.random(n) > agreement
        right = np.where(own, generator.random(n), luck) < share
        models.append(model(truth, np.where(right, truth, np.where(own, wrong(), mistake)), labels))
    return models[0], models[1]


def cells_of(base: Predictions, head: Predictions) -> Cells:
    _, labels, rows = pair(base, head)
    return Cells.of(rows, len(labels))


# pairing


def test_rows_are_paired_by_id_and_the_others_counted() -> None:
    base = model([0, 1, 2, 0, 1], [0, 0, 2, 1, 1], ids=("p", "q", "r", "s", "only base"))
    # the labels in another order: c is 0, a is 1, b is 2
    head = model(
        [0, 2, 1, 2, 2, 2],
        [0, 2, 2, 1, 2, 2],
        labels=("c", "a", "b"),
        ids=("r", "q", "p", "new", "newer", "s"),
    )
    pairing, labels, (truth, first, second) = pair(base, head)
    assert (pairing.common, pairing.only_base, pairing.only_head, pairing.relabelled) == (3, 1, 2, 1)
    assert (pairing.added, pairing.removed) == ((), ())
    assert pairing.changed == pytest.approx(2 / 5)
    assert labels == ("c", "a", "b")
    # r is c, q is b, p is a
    assert truth.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert first.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    assert second.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1]]


def test_labels_that_came_and_went_are_named_and_predicting_them_is_wrong() -> None:
    base = model([0, 1, 2, 0], [0, 1, 2, 2], labels=("a", "b", "old"))
    head = model([0, 1, 2, 0], [0, 2, 2, 0], labels=("a", "b", "new"))
    comparison = compare(base, head, QUICK)
    pairing = comparison.pairing
    assert (pairing.common, pairing.relabelled) == (3, 1)  # "old" has become "new"
    assert (pairing.added, pairing.removed) == (("new",), ("old",))
    assert [change.name for change in comparison.classes] == ["b", "a"]
    # base: a right once of two, b right; head: both a right, b missed
    macro, accuracy, _ = comparison.metrics
    assert (macro.base, macro.head) == (pytest.approx((2 / 3 + 1) / 2), pytest.approx((1 + 0) / 2))
    assert (accuracy.base, accuracy.head) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert comparison.verdict == "data changed"


# scores


@given(st.integers(0, 2**32 - 1), st.sampled_from(["multiclass", "multilabel"]))
@settings(max_examples=25, deadline=None)
def test_the_scores_are_those_of_the_metrics(seed: int, task: Task) -> None:
    generator = np.random.default_rng(seed)
    shape: Any = 30 if task == "multiclass" else (30, 4)
    high = 4 if task == "multiclass" else 2
    truth, *guesses = (generator.integers(0, high, shape).astype(np.int8) for _ in range(3))
    labels = ("a", "b", "c", "d")
    cells = cells_of(model(truth, guesses[0], labels), model(truth, guesses[1], labels))
    for guess, found in zip(guesses, scores(cells.times[None] @ cells.columns, task), strict=True):
        expected = prediction_metrics(truth, guess, labels, task)
        assert found[0, : len(METRICS[task])] == pytest.approx([expected[name] for name in METRICS[task]])
        assert found[0, len(METRICS[task]) :].mean() == pytest.approx(expected["macro_f1"])


# resampling


def test_drawing_rare_cells_row_by_row_is_a_multinomial_draw() -> None:
    times = np.array([40, RARE + 1, RARE, 2, 1, 1])
    n, size = int(times.sum()), 40_000
    counts = draw_sums(times, np.eye(len(times)), size, np.random.default_rng(1))
    assert counts.shape == (len(times), size)
    assert (counts.sum(axis=0) == n).all()
    share = times / n
    assert counts.mean(axis=1) == pytest.approx(times, abs=0.06)
    covariance = n * (np.diag(share) - np.outer(share, share))
    assert np.cov(counts) == pytest.approx(covariance, abs=0.25)


def test_the_bootstrap_agrees_with_resampled_rows() -> None:
    generator = np.random.default_rng(2)
    base, head = two_models((60, 30, 10), (0.8, 0.75), 0.5, generator)
    fast = bootstrap_differences(cells_of(base, head), "multiclass", 4_000, generator)
    slow = []
    for _ in range(4_000):
        rows = np.concatenate(
            [
                generator.choice(where, len(where))
                for where in (np.flatnonzero(base.truth == c) for c in range(3))
            ]
        )
        one, other = (
            prediction_metrics(part.truth[rows], part.predicted[rows], base.labels, "multiclass")
            for part in (base, head)
        )
        slow.append([other[name] - one[name] for name in METRICS["multiclass"]])
    levels = (0.025, 0.5, 0.975)
    assert np.quantile(fast[:, :3], levels, axis=0) == pytest.approx(
        np.quantile(slow, levels, axis=0), abs=0.012
    )


def test_swapped_answers_have_a_binomial_accuracy() -> None:
    base = model([0, 0, 0, 1, 1, 2, 2, 2], [0, 0, 0, 1, 1, 1, 2, 0])
    head = model([0, 0, 0, 1, 1, 2, 2, 2], [1, 1, 0, 2, 1, 2, 2, 1])
    # four rows are right in one alone; the last differs and is wrong in both
    swapped = swapped_differences(cells_of(base, head), "multiclass", 20_000, np.random.default_rng(3))
    values, times = np.unique(np.round(swapped[:, 1] * 8).astype(int), return_counts=True)
    assert values.tolist() == [-4, -2, 0, 2, 4]
    assert times / 20_000 == pytest.approx([1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16], abs=0.015)


@pytest.mark.parametrize(("base_only", "head_only"), [(0, 0), (5, 0), (3, 9), (12, 12), (10, 30), (300, 250)])
def test_mcnemar_agrees_with_scipy(base_only: int, head_only: int) -> None:
    found = mcnemar(base_only, head_only).p_value
    pairs = base_only + head_only
    if pairs < 25:
        expected = stats.binomtest(base_only, pairs).pvalue if pairs else 1.0
    else:
        expected = stats.chi2.sf((base_only - head_only) ** 2 / pairs, 1)
    assert found == pytest.approx(expected)


def test_mcnemar_by_hand() -> None:
    assert mcnemar(5, 0).p_value == pytest.approx(2 / 2**5)
    assert mcnemar(1, 3).p_value == pytest.approx(2 * (1 + 4) / 2**4)


# detectable drop


def test_the_detectable_drop_by_hand() -> None:
    z = 1.6448536 + 0.8416212
    assert detectable_drop(0.01, 10**9, Gate()) == pytest.approx(0.01 + z * 0.01)
    # models that agree: what a model would see that does nothing but lose rows
    floor = detectable_drop(0.0, 500, Gate())
    assert floor == pytest.approx(0.01 + z * math.sqrt(floor / 500))
    assert detectable_drop(0.0, 12, Gate()) == pytest.approx(0.535, abs=1e-3)
    assert detectable_drop(0.0, 1, Gate()) > 1
    assert detectable_drop(0.0, 0, Gate()) == math.inf


def test_a_drop_of_the_detectable_size_is_called_worse_four_times_in_five() -> None:
    """On classes of very different sizes, where the model loses a share of its answers at random."""
    generator = np.random.default_rng(4)
    sizes = (600, 250, 100, 40, 15, 6)
    found, drops = [], []
    for _ in range(100):
        base, _ = two_models(sizes, (0.85, 0.85), 0.0, generator)
        lost = generator.random(len(base.truth)) < 0.024
        other = (base.truth + generator.integers(1, len(sizes), len(base.truth))) % len(sizes)
        head = replace(base, predicted=np.where(lost, other, base.predicted))
        comparison = compare(base, head, replace(QUICK, metric="accuracy", seed=len(found)))
        found.append(comparison.verdict == "worse")
        drops.append((comparison.gated.detectable, -comparison.gated.difference))
    detectable, drop = np.mean(drops, axis=0)
    assert drop == pytest.approx(detectable, abs=0.002)
    assert 0.68 < np.mean(found) < 0.92


# verdicts


def verdict_of(base: Predictions, head: Predictions, **gate: Any) -> Comparison:
    return compare(base, head, replace(QUICK, **gate))


def balanced(correct: tuple[int, ...], size: int = 200) -> Predictions:
    """A model that is right on the first rows of each of three classes, so many of ``size``."""
    truth = np.repeat(np.arange(3), size)
    place = np.tile(np.arange(size), 3)
    return model(truth, np.where(place < np.repeat(correct, size), truth, (truth + 1) % 3))


def test_worse_and_better() -> None:
    good, bad = balanced((180, 180, 180)), balanced((150, 160, 170))
    worse = verdict_of(good, bad)
    assert worse.verdict == "worse"
    assert worse.gated.difference == pytest.approx(-0.1, abs=0.01)
    assert worse.gated.low < worse.gated.difference < worse.gated.bound < worse.gated.high < -0.01
    assert worse.mcnemar.base_only == 60
    assert worse.mcnemar.head_only == 0
    sizes = [abs(change.difference) for change in worse.classes]
    assert sizes == sorted(sizes, reverse=True)
    assert {change.name: change.rows for change in worse.classes} == dict.fromkeys(ABC, 200)
    better = verdict_of(bad, good)
    assert better.verdict == "better"
    assert better.gated.low > 0


def test_a_drop_within_the_tolerance_is_none() -> None:
    good, bad = balanced((180, 180, 180)), balanced((160, 160, 160))
    assert verdict_of(good, bad, metric="accuracy", max_drop=0.05, detectable=0.2).verdict == "worse"
    assert verdict_of(good, bad, metric="accuracy", max_drop=0.09, detectable=0.2).verdict == "no evidence"


def test_too_little_data_to_tell() -> None:
    base, head = balanced((18, 18, 18), 20), balanced((18, 18, 17), 20)
    found = verdict_of(base, head)
    assert found.verdict == "too little data"
    assert found.gated.detectable > 0.05
    assert verdict_of(base, head, detectable=0.5).verdict == "no evidence"
    assert all(change.small for change in found.classes)


def test_the_same_predictions() -> None:
    base = balanced((180, 170, 160))
    found = verdict_of(base, base)
    assert found.verdict == "the same predictions"
    assert all(change.low == change.high == 0 for change in (*found.metrics, *found.classes))
    assert found.mcnemar.p_value == 1


def test_a_class_of_one_row_decides_nothing() -> None:
    """Resampled within its class, a single row is always there: the bootstrap alone would be sure."""
    truth = np.array([0] * 100 + [1] * 100 + [2])
    right = truth.copy()
    right[[3, 7, 105]] = 2 - right[[3, 7, 105]]
    wrong = right.copy()
    wrong[-1] = 0
    found = verdict_of(model(truth, right), model(truth, wrong), max_drop=0.0)
    assert found.gated.bound < -0.1
    assert found.verdict != "worse"


def test_multilabel() -> None:
    generator = np.random.default_rng(5)
    truth = (generator.random((400, 3)) < (0.5, 0.3, 0.1)).astype(np.int8)
    truth[0] = 0
    base = truth ^ (generator.random(truth.shape) < 0.03)
    head = truth ^ (generator.random(truth.shape) < 0.12)
    found = verdict_of(model(truth, base), model(truth, head))
    assert found.verdict == "worse"
    assert [change.name for change in found.metrics] == list(METRICS["multilabel"])
    right = [(guess == truth).all(axis=1) for guess in (base, head)]
    assert found.metrics[-1].difference == pytest.approx(right[1].mean() - right[0].mean())
    assert found.mcnemar.base_only == (right[0] & ~right[1]).sum()
    assert found.mcnemar.head_only == (right[1] & ~right[0]).sum()


# changed data


def shortened(predictions: Predictions, rows: np.ndarray) -> Predictions:
    return replace(
        predictions,
        ids=tuple(predictions.ids[row] for row in rows),
        truth=predictions.truth[rows],
        predicted=predictions.predicted[rows],
    )


def test_a_handful_of_changed_rows_does_not_disarm_the_gate() -> None:
    good, bad = balanced((180, 180, 180)), balanced((150, 150, 150))
    generator = np.random.default_rng(6)
    rows = generator.permutation(600)
    relabelled = bad.truth.copy()
    relabelled[rows[:20]] = (relabelled[rows[:20]] + 1) % 3
    head = shortened(replace(bad, truth=relabelled), rows[:-20])
    found = verdict_of(good, head)
    assert (found.pairing.relabelled, found.pairing.only_base, found.pairing.only_head) == (20, 20, 0)
    assert found.verdict == "worse"


def test_many_changed_rows_are_another_question() -> None:
    good, bad = balanced((180, 180, 180)), balanced((150, 150, 150))
    rows = np.random.default_rng(7).permutation(600)
    assert verdict_of(good, shortened(bad, rows[60:])).verdict == "worse"
    found = verdict_of(good, shortened(bad, rows[61:]))
    assert found.verdict == "data changed"
    assert found.gated.bound < -0.01  # the drop is shown, and not called a regression
    assert verdict_of(good, shortened(good, rows[61:])).verdict == "data changed"


def test_new_rows_take_nothing_away_from_those_that_are_common() -> None:
    """However many: the messages that base was tested on are all there, and paired as ever."""
    good, bad = balanced((180, 180, 180)), balanced((150, 150, 150))
    rows = np.random.default_rng(7).permutation(600)
    for known in (rows[61:], rows[300:]):
        found = verdict_of(shortened(good, known), bad)
        assert (found.pairing.only_base, found.pairing.only_head) == (0, 600 - len(known))
        assert found.verdict == "worse"
        assert found.gated.rows == len(known)


def test_another_label_set_is_another_question() -> None:
    good, bad = balanced((180, 180, 180)), balanced((150, 150, 150))
    assert verdict_of(good, replace(bad, labels=("c", "a", "b"), **turned(bad))).verdict == "worse"
    found = verdict_of(good, replace(bad, labels=(*ABC, "d")))
    assert found.verdict == "data changed"
    assert found.pairing.added == ("d",)
    assert found.pairing.common == 600


def turned(predictions: Predictions) -> dict[str, np.ndarray]:
    """Class indexes for the labels c, a, b instead of a, b, c."""
    return {"truth": (predictions.truth + 1) % 3, "predicted": (predictions.predicted + 1) % 3}


# laws


@st.composite
def pairs_of_models(draw: st.DrawFn) -> tuple[Predictions, Predictions]:
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()):
        sizes = draw(st.lists(st.integers(1, 20), min_size=2, max_size=4))
        return two_models(sizes, (0.7, 0.6), 0.5, generator)
    truth, base, head = (
        (generator.random((draw(st.integers(4, 30)), 3)) < 0.4).astype(np.int8)[None].repeat(3, 0)
    )
    for guess in (base, head):
        guess ^= (generator.random(guess.shape) < 0.2).astype(np.int8)
    truth[:2] = [[1, 0, 0], [0, 1, 0]]
    return model(truth, base), model(truth, head)


@given(pairs_of_models())
@settings(max_examples=30, deadline=None)
def test_swapping_base_and_head_negates_the_differences(models: tuple[Predictions, Predictions]) -> None:
    there, back = verdict_of(*models), verdict_of(*models[::-1])
    for one, other in zip(there.metrics, back.metrics, strict=True):
        assert one.difference == pytest.approx(-other.difference)
        assert (one.base, one.head) == (other.head, other.base)
    assert [change.name for change in there.classes] == [change.name for change in back.classes]
    assert (there.mcnemar.base_only, there.mcnemar.head_only) == (
        back.mcnemar.head_only,
        back.mcnemar.base_only,
    )
    assert there.mcnemar.p_value == back.mcnemar.p_value


def test_swapping_base_and_head_turns_the_intervals_round() -> None:
    """As nearly as other draws allow."""
    models = two_models((150, 90, 60), (0.8, 0.7), 0.5, np.random.default_rng(9))
    there, back = (verdict_of(*order, resamples=4_000) for order in (models, models[::-1]))
    for one, other in zip(there.metrics, back.metrics, strict=True):
        assert one.low == pytest.approx(-other.high, abs=0.006)
        assert one.high == pytest.approx(-other.low, abs=0.006)
        assert one.detectable == pytest.approx(other.detectable, abs=0.006)


@given(pairs_of_models(), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_rows_is_of_no_consequence(
    models: tuple[Predictions, Predictions], shuffle: Any
) -> None:
    expected = verdict_of(*models)
    mixed = []
    for predictions in models:
        rows = list(range(len(predictions.ids)))
        shuffle.shuffle(rows)
        mixed.append(shortened(predictions, np.array(rows)))
    assert verdict_of(*mixed) == expected


@given(pairs_of_models())
@settings(max_examples=20, deadline=None)
def test_the_differences_are_within_what_is_possible(models: tuple[Predictions, Predictions]) -> None:
    found = verdict_of(*models)
    for change in (*found.metrics, *found.classes):
        assert -1 <= change.low <= change.bound <= change.high <= 1
        assert change.detectable > found.gate.max_drop


# error rates


def rate(
    sizes: Sequence[int], accuracy: tuple[float, float], agreement: float, simulations: int, gate: Gate
) -> dict[str, float]:
    """How often each verdict is given."""
    generator = np.random.default_rng(8)
    found = [
        compare(*two_models(sizes, accuracy, agreement, generator), replace(gate, seed=seed)).verdict
        for seed in range(simulations)
    ]
    return {verdict: found.count(verdict) / simulations for verdict in found}


@pytest.mark.parametrize("sizes", [(40, 40, 40), (80, 25, 8, 3, 1), (6, 6, 6, 6, 6, 6)], ids=str)
def test_equal_models_are_called_worse_as_rarely_as_alpha_says(sizes: tuple[int, ...]) -> None:
    simulations = 400
    sampling_error = 2 * math.sqrt(0.05 * 0.95 / simulations)
    exact = rate(sizes, (0.85, 0.85), 0.7, simulations, Gate(max_drop=0.0, resamples=300))
    assert exact.get("worse", 0) <= 0.05 + sampling_error
    assert exact.get("better", 0) <= 0.025 + sampling_error


def test_equal_models_are_hardly_ever_called_worse_beyond_the_tolerance() -> None:
    found = rate((60, 60, 60), (0.85, 0.85), 0.7, 150, Gate(resamples=300))
    assert found.get("worse", 0) <= 0.05


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_three_points_on_two_thousand_rows_are_seen(metric: str) -> None:
    """The defaults on models that differ in one answer of ten, as two fine-tunings of one backbone do."""
    found = rate((500,) * 4, (0.85, 0.82), 0.85, 80, Gate(metric=metric, resamples=300))
    assert found.get("worse", 0) >= 0.8


# mistakes


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (Gate(metric="micro_f1"), "--metric: a multiclass task has no 'micro_f1'; give macro_f1, accuracy, "),
        (Gate(max_drop=-0.1), "--max-drop: -0.1 is not in"),
        (Gate(max_drop=1.0), "--max-drop: 1 is not in"),
        (Gate(max_drop=math.nan), "--max-drop: nan"),
        (Gate(alpha=0.0), "--alpha: 0 is not in"),
        (Gate(alpha=0.5), "--alpha: 0.5 is not in"),
        (Gate(alpha=math.nan), "--alpha: nan"),
        (Gate(detectable=0.01), "--detectable: 0.01 is not above --max-drop"),
        (Gate(detectable=1.5), "--detectable: 1.5"),
        (Gate(resamples=10), "--resamples: 10 is not between"),
    ],
)
def test_options_out_of_range_are_named(gate: Gate, message: str) -> None:
    base = balanced((9, 9, 9), 10)
    with pytest.raises(UserError, match=message):
        compare(base, base, gate)


def test_what_cannot_be_compared() -> None:
    base = balanced((9, 9, 9), 10)
    several = model(np.eye(3, dtype=np.int8), np.eye(3, dtype=np.int8))
    with pytest.raises(UserError, match="base is multiclass, head is multilabel"):
        compare(base, several, QUICK)
    with pytest.raises(UserError, match="multilabel task has no 'accuracy'"):
        compare(several, several, replace(QUICK, metric="accuracy"))
    strangers = replace(base, ids=tuple(f"other {row}" for row in base.ids))
    with pytest.raises(UserError, match=r"no test row is in both .*30 only in base, 30 only in head"):
        compare(base, strangers, QUICK)
    one = model([1, 1, 1], [1, 0, 1])
    with pytest.raises(UserError, match="all 3 common test rows are of one class, 'b'"):
        compare(one, one, QUICK)
    none = model(np.zeros((3, 2), dtype=np.int8), np.zeros((3, 2), dtype=np.int8), ("a", "b"))
    with pytest.raises(UserError, match=r"of one class, '\(none\)'"):
        compare(none, none, QUICK)


# files


def table(task: Task = "multiclass") -> pa.Table:
    """Two test rows and one of validation."""
    truth: Any = np.array([0, 2]) if task == "multiclass" else np.array([[1, 1, 0], [0, 0, 0]])
    part = (["x", "y"], truth, truth[::-1], np.full((2, 3), 0.25))
    rest = (["z"], truth[:1], truth[:1], np.full((1, 3), 0.25))
    return prediction_table(LabelSet(task, ABC), {"test": part, "validation": rest})


def content(written: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(written, stream)
    return stream.getvalue()


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_only_the_test_rows_are_read(task: Task) -> None:
    found = parse_predictions(content(table(task)), "old")
    assert (found.task, found.labels, found.ids) == (task, ABC, ("x", "y"))
    expected = [0, 2] if task == "multiclass" else [[1, 1, 0], [0, 0, 0]]
    assert found.truth.tolist() == expected
    assert found.predicted.tolist() == expected[::-1]


def with_column(name: str, values: list[Any]) -> pa.Table:
    old = table()
    at = old.column_names.index(name)
    return old.set_column(at, name, pa.array(values, type=SCHEMA.field(name).type))


def with_metadata(**changes: str) -> pa.Table:
    old = table()
    return old.replace_schema_metadata(
        old.schema.metadata | {k.encode(): v.encode() for k, v in changes.items()}
    )


BROKEN: dict[str, tuple[Any, str]] = {
    "another version": (with_metadata(schema_version="0"), "schema version 0, expected 1"),
    "no version": (table().replace_schema_metadata(None), "schema version none, expected 1"),
    "no task": (with_metadata(task="guess"), "name no task or no labels"),
    "no labels": (with_metadata(labels="{"), "name no task or no labels"),
    "a repeated label": (with_metadata(labels='["a", "a"]'), "name no task or no labels"),
    "no column": (table().drop_columns(["predicted"]), "no column 'predicted'"),
    "another type": (
        table().set_column(2, "labels", pa.array(["a", "b", "c"])),
        "of another type or has empty cells",
    ),
    "an empty cell": (with_column("id", ["x", None, "z"]), "of another type or has empty cells"),
    "no test rows": (with_column("split", ["validation"] * 3), "no test rows"),
    "not a number": (
        with_column("probabilities", [[0.5, math.nan, 0.1], [0.2] * 3, [math.nan] * 3]),
        "1 of 2 test rows have a probability that is not a number",
    ),
    "a repeated id": (with_column("id", ["x", "x", "z"]), "2 test rows have the id 'x'"),
    "an unknown label": (with_column("labels", [["a"], ["q"], ["a"]]), "not those that its metadata name"),
    "two labels": (with_column("predicted", [["a"], ["a", "b"], ["a"]]), "not those that its metadata name"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_file_that_cannot_be_used_is_named(what: str) -> None:
    written, message = BROKEN[what]
    with pytest.raises(UserError, match=message) as error:
        parse_predictions(content(written), "predictions of --base main")
    assert str(error.value).startswith("compare: predictions of --base main: ")
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_parquet() -> None:
    for broken in (b"", b"id,split\n", content(table())[:-9]):
        with pytest.raises(UserError, match="not a Parquet file"):
            parse_predictions(broken, "old")


def test_outside_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for revision in (None, "main"):
        with pytest.raises(UserError, match="not in a DVC repository"):
            read_revision(revision, "--base")


def test_names_of_revisions() -> None:
    assert shown(None) == "workspace"
    assert shown("main") == "main"
    assert shown("0123456789abcdef" * 2 + "01234567") == "01234567"


def test_compare_without_the_pipelines_packages(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dvc.exceptions", None)
    with pytest.raises(SystemExit) as exit_:
        cli.main(["compare", "--base", "main"])
    assert exit_.value.code == 2
    assert "pip install 'afina[pipeline]'" in capsys.readouterr().err
