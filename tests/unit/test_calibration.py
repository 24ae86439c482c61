"""Calibration: temperature and Platt scaling against hand-worked optima, the measures, and their laws."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, logit, softmax

from afina.evaluation.adjustment import logit_offsets
from afina.evaluation.calibration import (
    SCALES,
    Calibration,
    brier_score,
    classwise_ece,
    expected_calibration_error,
    fit_platt,
    fit_temperature,
    label_calibration_errors,
    negative_log_likelihood,
    reliability_curve,
)
from afina.evaluation.probabilities import to_probabilities
from afina.labels import Task

TASKS: tuple[Task, ...] = ("multiclass", "multilabel")
SEEDS = st.integers(0, 2**32 - 1)


def drawn(task: Task, rows: int, seed: int, sharpness: float = 3.0, labels: int = 4) -> tuple[Any, Any]:
    """Truth drawn from the probabilities of logits that are then given ``sharpness`` times too large."""
    generator = np.random.default_rng(seed)
    true_logits = generator.normal(0, 1.5, (rows, labels))
    if task == "multiclass":
        shares = softmax(true_logits, axis=1).cumsum(axis=1)
        y: Any = (generator.random((rows, 1)) > shares[:, :-1]).sum(axis=1)
    else:
        y = (generator.random((rows, labels)) < expit(true_logits)).astype(np.int8)
    return y, sharpness * true_logits


def fit(task: Task, y: Any, logits: Any, min_positives: int = 5) -> Calibration:
    if task == "multiclass":
        return Calibration.of_temperature(fit_temperature(y, logits), logits.shape[1])
    return fit_platt(y, logits, min_positives)


def probabilities_of(task: Task, logits: Any) -> Any:
    return softmax(logits, axis=1) if task == "multiclass" else expit(logits)


def same_line(found: Calibration, expected: Calibration) -> None:
    assert found.scale == pytest.approx(expected.scale, rel=1e-6)
    assert found.shift == pytest.approx(expected.shift, rel=1e-6, abs=1e-6)


# the line


def test_a_line_by_hand() -> None:
    line = Calibration(np.array([2.0, 0.5]), np.array([0.0, 1.0]))
    assert line.apply(np.array([[1, -2], [0, 4]], dtype=np.float32)).tolist() == [[2, 0], [0, 3]]
    assert Calibration.of_temperature(4.0, 2).apply(np.array([[2.0, -8.0]])).tolist() == [[0.5, -2.0]]
    assert Calibration.identity(2).apply(np.array([[2.0, -8.0]])).tolist() == [[2.0, -8.0]]
    assert Calibration.identity(2).apply(np.zeros((0, 2))).shape == (0, 2)
    with pytest.raises(FrozenInstanceError):
        line.scale = np.ones(2)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("scale", "shift"), [([0, 1], [0, 0]), ([-1, 1], [0, 0]), ([np.inf, 1], [0, 0]), ([1, 1], [0, np.nan])]
)
def test_a_line_that_is_not_increasing_is_refused(scale: list[float], shift: list[float]) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        Calibration(np.array(scale, dtype=np.float64), np.array(shift, dtype=np.float64))


def test_a_line_needs_both_values_for_every_label() -> None:
    with pytest.raises(ValueError, match=r"scale \(2,\) and shift \(3,\)"):
        Calibration(np.ones(2), np.zeros(3))


# temperature


@pytest.mark.parametrize("right", [6, 8, 9])
def test_temperature_by_hand(right: int) -> None:
    """Ten rows of two classes with logits (4, 0): the best sigmoid(4 / T) is the share that is right."""
    y = np.array([0] * right + [1] * (10 - right))
    temperature = fit_temperature(y, np.tile([4.0, 0.0], (10, 1)))
    assert temperature == pytest.approx(4 / np.log(right / (10 - right)), rel=1e-9)


def test_temperature_of_three_classes_by_hand() -> None:
    """Logits (1, 0, 0), seven of ten right: exp(1/T) / (exp(1/T) + 2) = 0.7."""
    y = np.array([0] * 7 + [1, 1, 2])
    logits = np.tile([1.0, 0.0, 0.0], (10, 1))
    assert fit_temperature(y, logits) == pytest.approx(1 / np.log(2 * 0.7 / 0.3), rel=1e-9)


def test_temperature_finds_what_the_logits_were_multiplied_by() -> None:
    for sharpness in (0.2, 1.0, 5.0):
        y, logits = drawn("multiclass", 4000, 0, sharpness)
        assert fit_temperature(y, logits) == pytest.approx(sharpness, rel=0.06)


def test_temperature_is_where_the_loss_is_lowest() -> None:
    y, logits = drawn("multiclass", 60, 1)
    temperature = fit_temperature(y, logits)
    best = negative_log_likelihood(y, logits / temperature)
    for factor in (0.99, 1.01):
        assert negative_log_likelihood(y, logits / (temperature * factor)) > best


@pytest.mark.parametrize("rows", [0, 1])
def test_no_row_or_one_shows_no_temperature(rows: int) -> None:
    assert fit_temperature(np.zeros(rows, dtype=np.int64), np.tile([3.0, 0.0], (rows, 1))) == 1.0


def test_rows_without_an_error_sharpen_no_further_than_they_show() -> None:
    """Eight rows, all right: confidence 9 / 10 at most, and none is taken off."""
    y = np.zeros(8, dtype=np.int64)
    temperature = fit_temperature(y, np.tile([0.5, 0.0], (8, 1)))
    assert expit(0.5 / temperature) == pytest.approx(0.9)
    assert fit_temperature(y, np.tile([20.0, 0.0], (8, 1))) == 1.0


def test_temperature_is_bounded() -> None:
    rows = np.tile([5.0, 0.0], (20, 1))
    assert fit_temperature(np.ones(20, dtype=np.int64), rows) == pytest.approx(1 / SCALES[0])  # all wrong
    assert fit_temperature(np.zeros(20, dtype=np.int64), rows * 1e-6) == pytest.approx(1 / SCALES[1])


def test_logits_that_do_not_differ_have_no_temperature() -> None:
    assert fit_temperature(np.array([0, 1, 0]), np.full((3, 2), 7.0)) == 1.0
    assert fit_temperature(np.zeros(3, dtype=np.int64), np.array([[1.0], [2.0], [3.0]])) == 1.0


@pytest.mark.filterwarnings("error")
def test_rows_that_say_nothing_of_the_temperature_are_left_out() -> None:
    y, logits = drawn("multiclass", 50, 2)
    expected = fit_temperature(y, logits)
    inf = np.inf
    # certain and right, certain and wrong, not a number
    extra = np.array(
        [[inf, 0, 0, 0], [0, inf, 0, 0], [-inf, 0, 0, 0], [inf, inf, -inf, 0], [np.nan, 0, 0, 0]]
    )
    more = np.concatenate([y, [0, 0, 0, 2, 1]]), np.concatenate([logits, extra])
    assert fit_temperature(*more) == pytest.approx(expected, rel=0.05)
    assert fit_temperature(np.array([0, 1]), np.array([[-inf, 0], [0, -inf]])) == 1.0
    # a class that is ruled out is no loss to the others
    ruled_out = np.concatenate([logits, np.full((50, 1), -inf)], axis=1)
    assert fit_temperature(y, ruled_out) == pytest.approx(expected)


# Platt


def two_values(hits: tuple[int, int], rows: tuple[int, int], high: float, low: float) -> tuple[Any, Any]:
    """One label: ``rows`` with the logit ``high`` or ``low``, of which ``hits`` have it."""
    y = [1] * hits[0] + [0] * (rows[0] - hits[0]) + [1] * hits[1] + [0] * (rows[1] - hits[1])
    return np.array(y, dtype=np.int8)[:, None], np.repeat([high, low], rows)[:, None]


def test_platt_by_hand() -> None:
    """With two logits, the line goes through the log odds of their mean targets.

    20 rows at 5, of which 15 are positive, and 20 at -3, of which 3 are: 18 positives with the target 19/20
    and 22 negatives with 1/24.
    """
    found = fit_platt(*two_values((15, 3), (20, 20), 5.0, -3.0), 5)
    above, below = (logit((hits * 19 / 20 + (20 - hits) / 24) / 20) for hits in (15, 3))
    same_line(
        found, Calibration(np.array([(above - below) / 8]), np.array([above - 5 * (above - below) / 8]))
    )


def test_platt_of_a_label_without_an_error_is_finite() -> None:
    """Six positives at 0.2, nine negatives at 0: targets 7/8 and 1/11."""
    found = fit_platt(*two_values((6, 0), (6, 9), 0.2, 0.0), 5)
    assert expit(found.apply(np.array([[0.2], [0.0]]))).ravel() == pytest.approx([7 / 8, 1 / 11])
    # what is surer already is not made less sure by targets that are a rule of thumb
    same_line(fit_platt(*two_values((6, 0), (6, 9), 9.0, -9.0), 5), Calibration.identity(1))


def test_platt_agrees_with_another_optimiser() -> None:
    y, logits = drawn("multilabel", 300, 3)
    logits = logits + np.array([5.0, -2.0, 0.0, 100.0])
    found = fit_platt(y, logits, 5)
    for label in range(4):
        truth, column = y[:, label], logits[:, label]
        positives = int(truth.sum())
        targets = np.where(truth == 1, (positives + 1) / (positives + 2), 1 / (302 - positives))
        centre = column.mean()

        def loss(line: Any, column: Any = column - centre, targets: Any = targets) -> Any:
            scores = line[0] * column + line[1]
            return np.sum(np.logaddexp(0, scores) - targets * scores)

        slope, constant = minimize(loss, (1.0, 0.0), method="BFGS", options={"gtol": 1e-7}).x
        assert found.scale[label] == pytest.approx(slope, rel=1e-4)
        assert found.shift[label] == pytest.approx(constant - slope * centre, rel=1e-3, abs=1e-4)


def test_platt_finds_the_line_behind_the_labels() -> None:
    y, logits = drawn("multilabel", 4000, 4, sharpness=2.5)
    found = fit_platt(y, logits - 3.0, 5)
    assert found.scale == pytest.approx(np.full(4, 0.4), rel=0.15)
    assert found.shift == pytest.approx(np.full(4, 1.2), abs=0.2)


def test_scarce_labels_share_the_line_of_all() -> None:
    y, logits = drawn("multilabel", 400, 5)
    y[:, 2], y[:, 3] = 0, 1
    y[:4, 2], y[:2, 3] = 1, 0
    logits[:, 2], logits[:, 3] = 4 * logits[:, 2] - 3, 4 * logits[:, 3] + 3
    found = fit_platt(y, logits, 5)
    assert found.scale[2:].tolist() == [found.scale[2]] * 2
    assert found.shift[2:].tolist() == [found.shift[2]] * 2
    assert len(set(found.scale.tolist())) == 3
    alone = fit_platt(y[:, :2], logits[:, :2], 5)
    same_line(Calibration(found.scale[:2], found.shift[:2]), alone)
    pooled = fit_platt(y.reshape(-1, 1), logits.reshape(-1, 1), 5)
    same_line(Calibration(found.scale[2:3], found.shift[2:3]), pooled)
    same_line(fit_platt(y, logits, 2 * y.size), Calibration.identity(4))  # too few of all


def test_scarce_labels_that_the_line_of_all_does_not_suit_are_left_alone() -> None:
    """Nothing is wrong with the logits of the second label; those of the first are ten times too large."""
    y, logits = drawn("multilabel", 200, 6, sharpness=10.0, labels=2)
    y[:, 1] = 0
    logits[:, 1] = -30.0
    found = fit_platt(y, logits, 5)
    assert found.scale[0] < 0.3
    assert (found.scale[1], found.shift[1]) == (1, 0)


@pytest.mark.parametrize("value", [0, 1])
def test_rows_that_are_all_alike_show_nothing(value: int) -> None:
    y = np.full((30, 2), value, dtype=np.int8)
    logits = np.random.default_rng(0).normal(size=(30, 2))
    for min_positives in (0, 1, 5):
        same_line(fit_platt(y, logits, min_positives), Calibration.identity(2))


def test_no_rows_show_nothing() -> None:
    same_line(fit_platt(np.zeros((0, 3), dtype=np.int8), np.zeros((0, 3)), 5), Calibration.identity(3))


def test_a_label_ranked_backwards_is_not_turned_round() -> None:
    y, logits = two_values((2, 18), (20, 20), 3.0, -3.0)
    found = fit_platt(y, logits, 5)
    assert found.scale[0] == pytest.approx(SCALES[0])
    assert expit(found.apply(logits)) == pytest.approx(np.full((40, 1), 0.5), abs=0.02)


def test_equal_logits_are_moved_to_the_share_of_positives() -> None:
    y = np.array([[1]] * 30 + [[0]] * 70, dtype=np.int8)
    found = fit_platt(y, np.full((100, 1), 4.0), 5)
    assert found.scale.tolist() == [1]
    assert expit(4 + found.shift) == pytest.approx((30 * 31 / 32 + 70 / 72) / 100)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("huge", [1e6, 1e30, 1e300])
@pytest.mark.parametrize("task", TASKS)
def test_huge_logits_do_not_overflow(task: Task, huge: float) -> None:
    y, logits = drawn(task, 60, 7)
    some = logits.copy()
    some[:5] *= huge
    for values in (some, logits * huge):
        found = fit(task, y, values)
        assert (found.scale >= SCALES[0] * (1 - 1e-9)).all()
        assert (found.scale <= SCALES[1] * (1 + 1e-9)).all()
        assert np.isfinite(found.shift).all()


@pytest.mark.filterwarnings("error")
def test_infinite_logits_of_a_label_are_left_out() -> None:
    y, logits = drawn("multilabel", 80, 8)
    expected = fit_platt(y, logits, 5)
    extra = np.array([[np.inf] * 4, [-np.inf] * 4, [np.nan] * 4])
    more = np.concatenate([y, [[0] * 4, [1] * 4, [1] * 4]]), np.concatenate([logits, extra])
    same_line(fit_platt(*more, 5), expected)
    same_line(fit_platt(y, np.full_like(logits, np.inf), 5), Calibration.identity(4))


# laws of both


@given(SEEDS, st.sampled_from(TASKS), st.integers(0, 40), st.floats(0.05, 20), st.integers(0, 8))
@settings(max_examples=60, deadline=None)
def test_the_loss_of_the_rows_fitted_on_never_rises(
    seed: int, task: Task, rows: int, sharpness: float, min_positives: int
) -> None:
    y, logits = drawn(task, rows, seed, sharpness)
    y = np.random.default_rng(seed).permutation(y) if seed % 3 == 0 else y  # at times nothing is known
    before = negative_log_likelihood(y, logits)
    after = negative_log_likelihood(y, fit(task, y, logits, min_positives).apply(logits))
    assert np.isnan([before, after]).all() if rows == 0 else after <= before + 1e-9


@given(SEEDS, st.sampled_from(TASKS))
@settings(max_examples=30, deadline=None)
def test_decisions_of_classes_and_rankings_of_labels_stay(seed: int, task: Task) -> None:
    y, logits = drawn(task, 40, seed)
    logits = logits.astype(np.float32)
    found = fit(task, y, logits)
    assert (found.scale > 0).all()
    new = drawn(task, 30, seed + 1)[1].astype(np.float32)
    after = found.apply(new)
    if task == "multiclass":
        assert after.argmax(axis=1).tolist() == new.argmax(axis=1).tolist()
    else:
        assert np.array_equal(after.argsort(axis=0), new.argsort(axis=0))


@given(SEEDS, st.sampled_from(TASKS), st.floats(0.5, 4))
@settings(max_examples=30, deadline=None)
def test_the_scale_of_the_logits_does_not_matter(seed: int, task: Task, factor: float) -> None:
    """Where both are far from calibrated, as then neither is left as it is."""
    y, logits = drawn(task, 200, seed, sharpness=5.0)
    first, second = (
        probabilities_of(task, fit(task, y, values).apply(values)) for values in (logits, factor * logits)
    )
    assert second == pytest.approx(first, abs=1e-6)


@given(SEEDS, st.sampled_from(TASKS))
@settings(max_examples=30, deadline=None)
def test_the_order_of_rows_and_labels_does_not_matter(seed: int, task: Task) -> None:
    y, logits = drawn(task, 60, seed)
    generator = np.random.default_rng(seed)
    rows, labels = generator.permutation(60), generator.permutation(4)
    moved = np.argsort(labels)[y[rows]] if task == "multiclass" else y[rows][:, labels]
    before = fit(task, y, logits)
    after = fit(task, moved, logits[rows][:, labels])
    same_line(after, Calibration(before.scale[labels], before.shift[labels]))
    probabilities = probabilities_of(task, logits)
    measured = [
        (
            expected_calibration_error(truth, values, 7, "width"),
            expected_calibration_error(truth, values, 7, "mass"),
            classwise_ece(truth, values, 7, "mass"),
            brier_score(truth, values),
        )
        for truth, values in ((y, probabilities), (moved, probabilities[rows][:, labels]))
    ]
    assert measured[0] == pytest.approx(measured[1])


@pytest.mark.parametrize("task", TASKS)
def test_fitting_calibrates_rows_it_has_not_seen(task: Task) -> None:
    found = fit(task, *drawn(task, 2000, 0))
    y, logits = drawn(task, 2000, 1)
    for measure in (expected_calibration_error, classwise_ece, brier_score):
        before, after = (
            measure(y, probabilities_of(task, values)) for values in (logits, found.apply(logits))
        )
        assert after < before
        if measure is not brier_score:
            assert after < 0.06
            assert before > 0.1


def test_what_an_adjustment_adds_to_a_label_is_taken_off_again_but_for_classes_it_stays() -> None:
    prior = np.array([0.6, 0.3, 0.08, 0.02])
    y, logits = drawn("multilabel", 500, 9)
    adjusted = logits + logit_offsets(prior, 1.0, "multilabel")
    plain, after = (expit(fit_platt(y, values, 5).apply(values)) for values in (logits, adjusted))
    assert after == pytest.approx(plain, abs=1e-6)
    y, logits = drawn("multiclass", 500, 9)
    adjusted = logits + logit_offsets(prior, 1.0, "multiclass")
    probabilities = to_probabilities(fit("multiclass", y, adjusted).apply(adjusted), "multiclass")
    assert probabilities.argmax(axis=1).tolist() == adjusted.argmax(axis=1).tolist()


# measures


Y = np.array([0, 1, 1, 0])
P = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2]])


def test_reliability_of_classes_by_hand() -> None:
    """The top classes are 0, 0, 1, 0: right but for the second, whose confidence is 0.6."""
    curve = reliability_curve(Y, P, bins=2)
    assert curve.rows.tolist() == [4]
    assert curve.confidence == pytest.approx([0.75])
    assert curve.accuracy == pytest.approx([0.75])
    assert expected_calibration_error(Y, P, bins=2) == pytest.approx(0)
    curve = reliability_curve(Y, P, bins=2, binning="mass")
    assert curve.rows.tolist() == [2, 2]
    assert curve.confidence == pytest.approx([0.65, 0.85])
    assert curve.accuracy == pytest.approx([0.5, 1.0])
    assert expected_calibration_error(Y, P, bins=2, binning="mass") == pytest.approx(0.15)
    assert expected_calibration_error(Y, P, bins=5) == pytest.approx((0.6 + 0.3 + 0.2 + 0.1) / 4)


def test_reliability_of_labels_by_hand() -> None:
    """Six pairs: 0.1 and 0.2 are false, 0.4 is true; 0.6 is false, 0.8 and 0.9 are true."""
    y = np.array([[0, 1, 0], [0, 1, 1]], dtype=np.int8)
    probabilities = np.array([[0.1, 0.4, 0.6], [0.2, 0.8, 0.9]])
    curve = reliability_curve(y, probabilities, bins=2)
    assert curve.rows.tolist() == [3, 3]
    assert curve.confidence == pytest.approx([0.7 / 3, 2.3 / 3])
    assert curve.accuracy == pytest.approx([1 / 3, 2 / 3])
    assert expected_calibration_error(y, probabilities, bins=2) == pytest.approx(0.1)
    assert label_calibration_errors(y, probabilities, bins=1) == pytest.approx([0.15, 0.4, 0.25])
    assert classwise_ece(y, probabilities, bins=1) == pytest.approx(0.8 / 3)
    for label in range(3):
        alone = expected_calibration_error(y[:, [label]], probabilities[:, [label]], bins=1)
        assert alone == pytest.approx(label_calibration_errors(y, probabilities, bins=1)[label])


def test_classwise_error_of_classes_by_hand() -> None:
    """Class 0 in two bins: 0.3 has it in 0 of 1; 0.6, 0.8 and 0.9 have it in 2 of 3."""
    expected = (0.3 + abs(2 - 2.3)) / 4
    assert label_calibration_errors(Y, P, bins=2) == pytest.approx([expected, expected])
    assert classwise_ece(Y, P, bins=2) == pytest.approx(expected)


def test_a_bin_holds_its_upper_edge() -> None:
    y = np.ones((6, 1), dtype=np.int8)
    probabilities = np.array([[0.0], [0.25], [0.5], [0.51], [0.75], [1.0]])
    curve = reliability_curve(y, probabilities, bins=4)
    assert curve.rows.tolist() == [2, 1, 2, 1]
    assert reliability_curve(y[:1], probabilities[:1], bins=4).rows.tolist() == [1]


def test_equal_confidences_are_not_parted() -> None:
    y = np.array([[1], [0], [0], [1], [1]], dtype=np.int8)
    probabilities = np.array([[0.5], [0.5], [0.5], [0.5], [0.9]])
    curve = reliability_curve(y, probabilities, bins=5, binning="mass")
    assert curve.rows.tolist() == [4, 1]
    assert curve.accuracy.tolist() == [0.5, 1.0]


def test_bins_of_equal_mass_hold_equally_many() -> None:
    y, logits = drawn("multilabel", 100, 0, labels=3)
    rows = reliability_curve(y, expit(logits), binning="mass").rows
    assert rows.tolist() == [20] * 15
    assert reliability_curve(y[:1], expit(logits[:1]), binning="mass").rows.tolist() == [1, 1, 1]
    assert reliability_curve(y[:5, :1], expit(logits[:5, :1]), 2, "mass").rows.tolist() == [3, 2]


def test_brier_score_by_hand() -> None:
    assert brier_score(Y, P) == pytest.approx(2 * (0.01 + 0.36 + 0.09 + 0.04) / 4)
    y = np.array([[1, 0], [0, 0]], dtype=np.int8)
    assert brier_score(y, np.array([[0.8, 0.3], [0.5, 0.0]])) == pytest.approx((0.04 + 0.09 + 0.25) / 4)
    assert brier_score(np.array([1]), np.array([[1.0, 0.0]])) == 2


def test_negative_log_likelihood_by_hand() -> None:
    assert negative_log_likelihood(Y, np.log(P)) == pytest.approx(-np.log([0.9, 0.4, 0.7, 0.8]).mean())
    y = np.array([[1, 0]], dtype=np.int8)
    assert negative_log_likelihood(y, logit([[0.8, 0.3]])) == pytest.approx(-np.log([0.8, 0.7]).mean())


@pytest.mark.filterwarnings("error")
def test_negative_log_likelihood_keeps_what_probabilities_lose() -> None:
    assert negative_log_likelihood(np.array([1]), np.array([[5000.0, 0.0]])) == 5000
    assert negative_log_likelihood(np.array([[0]], dtype=np.int8), np.array([[5000.0]])) == 5000
    certain = np.array([[np.inf, 0.0]])
    assert negative_log_likelihood(np.array([0]), certain) == 0
    assert negative_log_likelihood(np.array([1]), certain) == np.inf
    assert negative_log_likelihood(np.array([[1]], dtype=np.int8), certain[:, :1]) == 0
    assert negative_log_likelihood(np.array([[0]], dtype=np.int8), certain[:, :1]) == np.inf
    assert negative_log_likelihood(np.array([0]), np.array([[1e308, -1e308]])) == 0


@given(
    SEEDS, st.sampled_from(TASKS), st.integers(1, 30), st.integers(1, 20), st.sampled_from(["width", "mass"])
)
@settings(max_examples=60, deadline=None)
def test_errors_are_shares(seed: int, task: Task, rows: int, bins: int, binning: Any) -> None:
    generator = np.random.default_rng(seed)
    y, logits = drawn(task, rows, seed, sharpness=float(generator.choice([0, 1, 1000])))
    y = generator.permutation(y)
    probabilities = to_probabilities(logits, task)  # float32, as in the report
    curve = reliability_curve(y, probabilities, bins, binning)
    assert curve.rows.sum() == y.size
    assert len(curve.rows) <= bins
    assert (np.diff(curve.confidence) > 0).all()
    for error in (
        expected_calibration_error(y, probabilities, bins, binning),
        classwise_ece(y, probabilities, bins, binning),
        brier_score(y, probabilities) / (2 if task == "multiclass" else 1),
    ):
        assert 0 <= error <= 1 + 1e-6


@given(st.lists(st.integers(6, 10), min_size=1, max_size=5), st.sampled_from(["width", "mass"]))
def test_what_comes_true_as_often_as_said_has_no_error(tenths: list[int], binning: Any) -> None:
    """For each confidence, ten rows of which that share is right."""
    confidence = np.repeat(tenths, 10) / 10
    y = np.concatenate([np.arange(10) >= tenth for tenth in tenths]).astype(np.int64)  # class 0 if right
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    assert expected_calibration_error(y, probabilities, binning=binning) == pytest.approx(0, abs=1e-12)
    assert classwise_ece(y, probabilities, binning=binning) == pytest.approx(0, abs=1e-12)
    multi_hot = (y[:, None] == np.arange(2)).astype(np.int8)
    assert expected_calibration_error(multi_hot, probabilities, binning=binning) == pytest.approx(
        0, abs=1e-12
    )


def test_the_surest_mistake_is_the_whole_error() -> None:
    assert expected_calibration_error(np.array([1, 1]), np.array([[1.0, 0.0], [1.0, 0.0]])) == 1
    assert classwise_ece(np.array([1, 1]), np.array([[1.0, 0.0], [1.0, 0.0]])) == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("task", TASKS)
def test_nothing_is_measured_on_no_rows(task: Task) -> None:
    y: Any = np.zeros(0, dtype=np.int64) if task == "multiclass" else np.zeros((0, 2), dtype=np.int8)
    empty = np.zeros((0, 2))
    for measure in (expected_calibration_error, classwise_ece, brier_score, negative_log_likelihood):
        assert np.isnan(measure(y, empty))
    assert reliability_curve(y, empty, binning="mass").rows.tolist() == []


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"truth \(3,\) does not fit"):
        brier_score(Y[:3], P)
    with pytest.raises(ValueError, match="does not fit"):
        fit_platt(Y, P, 5)
    with pytest.raises(ValueError, match="does not fit"):
        fit_temperature(np.zeros(P.shape, dtype=np.int64), P)
    with pytest.raises(ValueError, match="0 bins"):
        reliability_curve(Y, P, bins=0)
