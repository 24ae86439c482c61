"""Post-hoc logit adjustment: priors, offsets, the fitted strength, and what evaluate makes of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afina.balancing import class_weights, positive_weights
from afina.errors import UserError
from afina.evaluation.adjustment import (
    TAU_GRID,
    fit_tau,
    logit_offsets,
    macro_f1_changes,
    standard_error,
    training_prior,
)
from afina.evaluation.decision import Scored
from afina.evaluation.metrics import count
from afina.evaluation.probabilities import to_probabilities
from afina.evaluation.report import Evaluation, evaluate
from afina.labels import LabelSet, Task
from afina.params.evaluate import EvaluateParams

TASKS: tuple[Task, ...] = ("multiclass", "multilabel")
ABC = ("a", "b", "c")


def balance(after: tuple[int, ...], weights: tuple[float, ...] | None = None) -> dict[str, Any]:
    return {
        "class_weights": None if weights is None else dict(zip(ABC, weights, strict=True)),
        "before": dict.fromkeys(ABC, 1),
        "after": dict(zip(ABC, after, strict=True)),
    }


# priors


def test_prior_of_classes_by_hand() -> None:
    labels = LabelSet("multiclass", ABC)
    assert training_prior(balance((6, 3, 1)), 10, labels) == pytest.approx([0.6, 0.3, 0.1])
    assert training_prior(balance((6, 3, 1), (0.5, 1, 3)), 10, labels) == pytest.approx([1 / 3] * 3)
    assert training_prior(balance((6, 2, 0), (0.5, 0.5, 9)), 8, labels) == pytest.approx([0.75, 0.25, 0])


def test_prior_of_labels_by_hand() -> None:
    """Weights act on positives alone: of 10 rows, 4 positives of weight 3 against 6 negatives are 12 / 18."""
    labels = LabelSet("multilabel", ABC)
    assert training_prior(balance((4, 1, 0)), 10, labels) == pytest.approx([0.4, 0.1, 0])
    assert training_prior(balance((4, 1, 10), (3, 9, 2)), 10, labels) == pytest.approx([2 / 3, 0.5, 1])


@pytest.mark.parametrize(
    "after", [{"a": 1, "b": 2}, {"c": 1, "b": 2, "a": 3}, {"a": 0, "b": 0, "c": 0}, None]
)
def test_counts_of_other_labels_are_refused(after: Any) -> None:
    with pytest.raises(UserError, match=r"balance.json: made with other labels; run `dvc repro -f balance`"):
        training_prior({"after": after, "class_weights": None}, 10, LabelSet("multiclass", ABC))


# offsets


def test_offsets_by_hand() -> None:
    assert logit_offsets(np.array([0.6, 0.3, 0.1]), 1.0, "multiclass") == pytest.approx(
        [0, np.log(2), np.log(6)], abs=1e-6
    )
    assert logit_offsets(np.array([0.5, 0.2, 0.9]), 0.5, "multilabel") == pytest.approx(
        [0, 0.5 * np.log(4), -0.5 * np.log(9)], abs=1e-6
    )


@pytest.mark.parametrize("task", TASKS)
def test_what_no_row_has_is_left_alone(task: Task) -> None:
    offsets = logit_offsets(np.array([0.7, 0.3, 0.0]), 2.0, task)
    assert np.isfinite(offsets).all()
    assert offsets[2] == 0
    if task == "multiclass":
        assert offsets.min() == 0  # it gains on no other
    else:
        assert logit_offsets(np.array([1.0, 0.0]), 1.0, task).tolist() == [0, 0]


@given(st.lists(st.integers(0, 5000), min_size=3, max_size=3).filter(any), st.floats(0, 5))
def test_balanced_weights_leave_nothing_to_adjust(counts: list[int], tau: float) -> None:
    array, rows = np.array(counts), 6000
    for task, weights in (
        ("multiclass", class_weights(array)),
        ("multilabel", positive_weights(array, rows)),
    ):
        prior = training_prior(balance(tuple(counts), tuple(weights)), rows, LabelSet(task, ABC))
        assert not logit_offsets(prior, tau, task).any()


@given(st.integers(0, 2**32 - 1), st.sampled_from(TASKS))
def test_a_strength_of_zero_changes_nothing(seed: int, task: Task) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (5, 4)).astype(np.float32)
    offsets = logit_offsets(generator.dirichlet(np.ones(4)), 0.0, task)
    assert not np.signbit(offsets).any()
    assert np.array_equal(to_probabilities(logits + offsets, task), to_probabilities(logits, task))


@given(st.integers(0, 2**32 - 1), st.sampled_from(TASKS), st.floats(0, 3))
def test_the_order_of_the_labels_does_not_matter(seed: int, task: Task, tau: float) -> None:
    generator = np.random.default_rng(seed)
    prior = generator.dirichlet(np.ones(6)) * (generator.random(6) < 0.8)
    prior[0] = 0.5
    logits, order = generator.normal(0, 3, (5, 6)), generator.permutation(6)
    adjusted = to_probabilities(logits + logit_offsets(prior, tau, task), task)
    reordered = to_probabilities(logits[:, order] + logit_offsets(prior[order], tau, task), task)
    assert reordered == pytest.approx(adjusted[:, order], abs=1e-6)


@given(st.integers(0, 2**32 - 1))
def test_a_strength_of_one_gives_the_posterior_of_equal_priors(seed: int) -> None:
    """Bayes: a posterior under the training prior, adjusted by it, is the one under a uniform prior."""
    generator = np.random.default_rng(seed)
    prior, likelihood = generator.dirichlet(np.full(4, 5.0)), generator.random((3, 4)) + 0.01
    adjusted = to_probabilities(
        np.log(likelihood * prior) + logit_offsets(prior, 1.0, "multiclass"), "multiclass"
    )
    assert adjusted == pytest.approx(likelihood / likelihood.sum(axis=1, keepdims=True), abs=1e-5)
    odds = prior / (1 - prior)
    adjusted = to_probabilities(
        np.log(likelihood * odds) + logit_offsets(prior, 1.0, "multilabel"), "multilabel"
    )
    assert adjusted == pytest.approx(likelihood / (1 + likelihood), abs=1e-5)


# the fitted strength


def long_tail(rows: int, seed: int, carried: float = 1.0) -> tuple[Any, Any, Any]:
    """Classes as frequent as each other here, and logits that carry a long-tailed prior of training."""
    generator = np.random.default_rng(seed)
    prior = 0.5 ** np.arange(8)
    prior /= prior.sum()
    centres = 2.0 * np.eye(8)
    y = generator.integers(0, 8, rows)
    points = centres[y] + generator.normal(size=(rows, 8))
    return y, points @ centres.T + carried * np.log(prior), prior


def macro_f1(y: Any, predicted: Any, labels: int) -> float:
    return float(count(y, predicted, labels).f1.mean())


def test_fit_takes_off_the_prior_that_the_logits_carry() -> None:
    y, logits, prior = long_tail(6000, 0)
    tau = fit_tau(y, logits, prior, "multiclass")
    assert tau == pytest.approx(1, abs=0.2)
    y, logits, prior = long_tail(6000, 1)
    adjusted = (logits + logit_offsets(prior, tau, "multiclass")).argmax(axis=1)
    without_prior = (logits - np.log(prior)).argmax(axis=1)
    assert macro_f1(y, adjusted, 8) > macro_f1(y, logits.argmax(axis=1), 8) + 0.05
    assert macro_f1(y, adjusted, 8) == pytest.approx(macro_f1(y, without_prior, 8), abs=0.01)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rows", [40, 400])
def test_fit_leaves_logits_alone_that_carry_no_prior(rows: int, seed: int) -> None:
    y, logits, prior = long_tail(rows, seed, carried=0.0)
    assert fit_tau(y, logits, prior, "multiclass") <= 0.15


def test_fit_is_not_moved_by_a_single_row() -> None:
    """One of three rare rows is won at tau = 0.7 and nothing is lost: the gain is no more than its error."""
    y = np.array([0] * 17 + [1] * 3)
    logits = np.where(y[:, None] == np.arange(2), 5.0, 0.0)
    logits[-1] = (1.5, 0.0)
    prior = np.array([0.9, 0.1])
    gained = (logits + logit_offsets(prior, 0.7, "multiclass")).argmax(axis=1)
    assert macro_f1(y, gained, 2) == 1.0
    assert macro_f1(y, logits.argmax(axis=1), 2) < 1.0
    assert fit_tau(y, logits, prior, "multiclass") == 0.0
    many = np.tile(y, 5), np.tile(logits, (5, 1))  # five such rows are no accident
    assert fit_tau(*many, prior, "multiclass") == 0.7


def test_fit_of_a_uniform_prior_is_zero() -> None:
    y, logits, _ = long_tail(200, 0)
    assert fit_tau(y, logits, np.full(8, 1 / 8), "multiclass") == 0.0


def multilabel_tail(rows: int, seed: int) -> tuple[Any, Any, Any]:
    """Labels that half of these rows have, and logits that carry that 2 to 30 % had them in training."""
    generator = np.random.default_rng(seed)
    prior = np.array([0.3, 0.1, 0.05, 0.02])
    y = (generator.random((rows, 4)) < 0.5).astype(np.int8)
    points = y + generator.normal(0, 0.7, y.shape)
    return y, (points - 0.5) / 0.49 + np.log(prior / (1 - prior)), prior


def test_fit_in_multilabel() -> None:
    y, logits, prior = multilabel_tail(4000, 0)
    tau = fit_tau(y, logits, prior, "multilabel")
    assert 0.8 <= tau <= 1.4  # F1 asks for a little more than even odds
    y, logits, prior = multilabel_tail(4000, 1)
    adjusted = to_probabilities(logits + logit_offsets(prior, tau, "multilabel"), "multilabel") >= 0.5
    before = macro_f1(y, (logits >= 0).astype(np.int8), 4)
    assert macro_f1(y, adjusted.astype(np.int8), 4) > before + 0.2


def test_the_grid_is_readable() -> None:
    assert TAU_GRID[0] == 0
    assert [str(tau) for tau in TAU_GRID.tolist()][:4] == ["0.0", "0.05", "0.1", "0.15"]
    assert TAU_GRID[-1] == 2


@given(st.integers(0, 2**32 - 1), st.sampled_from(TASKS))
@settings(deadline=None)
def test_changes_are_those_of_leaving_each_row_out(seed: int, task: Task) -> None:
    generator = np.random.default_rng(seed)
    if task == "multiclass":
        y, predicted = generator.integers(0, 4, (2, 12))
    else:
        y, predicted = generator.integers(0, 2, (2, 12, 4)).astype(np.int8)
    expected = [
        macro_f1(np.delete(y, row, 0), np.delete(predicted, row, 0), 4) - macro_f1(y, predicted, 4)
        for row in range(12)
    ]
    assert macro_f1_changes(y, predicted, 4) == pytest.approx(expected, abs=1e-12)


def test_the_error_of_a_difference_is_that_of_the_bootstrap() -> None:
    y, logits, prior = long_tail(800, 3)
    first, second = ((logits - tau * np.log(prior)).argmax(axis=1) for tau in (0, 0.5))
    resamples = np.random.default_rng(0).integers(0, 800, (600, 800))
    differences = [
        macro_f1(y[rows], first[rows], 8) - macro_f1(y[rows], second[rows], 8) for rows in resamples
    ]
    assert standard_error(y, first, second, 8) == pytest.approx(np.std(differences), rel=0.1)
    assert standard_error(y, first, first, 8) == 0


# the report


BASELINE = {
    "majority": {"macro_f1": 0.1, "accuracy": 0.3, "micro_f1": 0.3},
    "tfidf": {"macro_f1": 0.5, "accuracy": 0.6, "micro_f1": 0.6},
}


def tail_splits(task: Task) -> tuple[Scored, Scored, Any]:
    make = long_tail if task == "multiclass" else multilabel_tail
    splits = []
    for seed in (0, 1):
        y, logits, prior = make(900, seed)
        ids = [f"{seed}-{row:04d}" for row in range(900)]
        splits.append(Scored(ids, ids, y, logits.astype(np.float32)))
    return splits[0], splits[1], prior


def report(task: Task, validation: Scored, test: Scored, prior: Any, **params: Any) -> Evaluation:
    labels = tuple("abcdefgh"[: validation.logits.shape[1]])
    return evaluate(
        validation,
        test,
        LabelSet(task, labels),
        BASELINE | {"tfidf_f1": dict.fromkeys(labels, 0.5)},
        EvaluateParams(**{"bootstrap_samples": 100, "calibration": "none"} | params),
        42,
        prior=prior,
    )


@pytest.mark.parametrize("task", TASKS)
def test_everything_reported_is_of_the_adjusted_logits(task: Task) -> None:
    """As if the model's own logits were the adjusted ones."""
    validation, test, prior = tail_splits(task)
    found = report(task, validation, test, prior, logit_adjustment="fit", thresholds=0.5)
    offsets = list(found.decision["logit_offsets"].values())
    assert max(offsets) > 1
    shifted = [
        replace(part, logits=part.logits + np.array(offsets, dtype=np.float32)) for part in (validation, test)
    ]
    expected = report(task, *shifted, None, thresholds=0.5)
    before = report(task, validation, test, None, thresholds=0.5)
    adjustment = found.metrics.pop("logit_adjustment")
    assert found.metrics == expected.metrics
    assert found.predictions.equals(expected.predictions)
    assert found.per_class == expected.per_class
    assert found.mistakes == expected.mistakes
    assert found.confusion == expected.confusion
    assert adjustment == {
        "tau": adjustment["tau"],
        "unadjusted_validation_macro_f1": before.metrics["validation"]["macro_f1"],
        "unadjusted_test_macro_f1": before.metrics["test"]["macro_f1"],
    }
    assert found.metrics["test"]["macro_f1"] > before.metrics["test"]["macro_f1"] + 0.05


@pytest.mark.parametrize("task", TASKS)
def test_none_is_as_before(task: Task) -> None:
    validation, test, prior = tail_splits(task)
    off, zero = (
        report(task, validation, test, prior),
        report(task, validation, test, prior, logit_adjustment=0),
    )
    assert "logit_adjustment" not in off.metrics
    assert zero.metrics.pop("logit_adjustment")["tau"] == 0
    assert off.metrics == zero.metrics
    assert off.decision == zero.decision
    assert set(off.decision["logit_offsets"].values()) == {0.0}
    assert off.predictions.equals(zero.predictions)
    assert "adjustment" not in off.summary
    assert "logit adjustment tau 0 (without: " in zero.summary


@pytest.mark.parametrize("task", TASKS)
def test_the_strength_never_sees_test(task: Task) -> None:
    validation, test, prior = tail_splits(task)
    other = replace(test, y=test.y[::-1].copy())
    first, second = (report(task, validation, part, prior, logit_adjustment="fit") for part in (test, other))
    assert first.metrics["test"] != second.metrics["test"]
    assert first.decision == second.decision
    assert max(first.decision["logit_offsets"].values()) > 0


def test_fitted_thresholds_move_along_with_the_probabilities() -> None:
    validation, test, prior = tail_splits("multilabel")
    off = report("multilabel", validation, test, prior)
    on = report("multilabel", validation, test, prior, logit_adjustment=1.0)
    assert on.metrics["validation"] == off.metrics["validation"]
    same = [a == b for a, b in zip(on.predictions["predicted"], off.predictions["predicted"], strict=True)]
    assert np.mean(same) > 0.98
    assert on.decision["thresholds"] != off.decision["thresholds"]


def test_an_empty_split_or_no_prior_is_refused() -> None:
    validation, test, prior = tail_splits("multiclass")
    empty = Scored([], [], validation.y[:0], validation.logits[:0])
    for splits in ((empty, test), (validation, empty)):
        with pytest.raises(UserError, match="no rows"):
            report("multiclass", *splits, prior, logit_adjustment="fit")
    with pytest.raises(ValueError, match="logit_adjustment is fit, but there is no prior"):
        report("multiclass", validation, test, None, logit_adjustment="fit")
