"""Losses for imbalanced labels against their formulas in float64, hand-worked values, and laws that hold."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from afina import balancing
from afina.errors import UserError
from afina.files import write_json
from afina.labels import Task
from afina.params.train import TrainParams
from afina.training import loss as losses
from afina.training.loss import Objective, build_objective, double_corrections, example_losses
from stage_script import load_stage

LABELS = ("a", "b", "c", "d")
COUNTS = np.array([200, 50, 9, 3])
MULTICLASS = ("cross_entropy", "focal", "class_balanced", "logit_adjusted", "ldam")
MULTILABEL = (
    "cross_entropy",
    "focal",
    "class_balanced",
    "logit_adjusted",
    "asymmetric",
    "distribution_balanced",
)
EVERY: list[tuple[str, Task]] = [
    *((loss, "multiclass") for loss in MULTICLASS),
    *((loss, "multilabel") for loss in MULTILABEL),
]
WEIGHTS = {"a": 0.5, "b": 1.0, "c": 4.0, "d": 9.0}


def objective(
    task: Task,
    counts: npt.NDArray[np.int64] = COUNTS,
    rows: int | None = None,
    class_weights: dict[str, float] | None = None,
    **params: Any,
) -> Objective:
    rows = int(counts.sum()) if rows is None else rows
    return build_objective(TrainParams(**params), LABELS[: len(counts)], task, counts, rows, class_weights)


def examples(task: Task, seed: int = 0, count: int = 12, width: int = 4) -> tuple[Tensor, Tensor]:
    random = np.random.default_rng(seed)
    logits = torch.from_numpy(random.normal(scale=2, size=(count, width))).float()
    if task == "multiclass":
        return logits, torch.from_numpy(random.integers(width, size=count))
    targets = (random.random((count, width)) < 0.4).astype(np.int8)
    targets[0] = 0  # an example without a label
    return logits, torch.from_numpy(targets)


# --------------------------------------------------------------------------- formulas, in float64


def from_formula(
    params: TrainParams,
    logits: Tensor,
    targets: Tensor,
    task: Task,
    counts: npt.NDArray[np.int64],
    rows: int,
    weights: npt.NDArray[np.float64],
) -> Tensor:
    """The loss of each example, one by one, as the papers write it."""
    n = torch.from_numpy(counts).double()
    of_example = softmax_formula if task == "multiclass" else sigmoid_formula
    return torch.stack(
        [
            of_example(params, z, y, n, rows, torch.from_numpy(weights))
            for z, y in zip(logits, targets, strict=True)
        ]
    )


def softmax_formula(
    params: TrainParams, z: Tensor, y: Tensor, n: Tensor, rows: int, weights: Tensor
) -> Tensor:
    width, target = len(z), int(y)
    factors = weights
    scale = 1.0
    if params.loss == "class_balanced":
        beta = params.class_balanced_beta
        factors = factors * (1 - beta) / (1 - beta**n)
    if params.loss == "logit_adjusted":
        z = z + params.logit_adjustment_tau * torch.log(n / rows)
    if params.loss == "ldam":
        margins = n**-0.25
        margins = margins * params.ldam_max_margin / margins.max()
        z = torch.stack([z[j] - margins[j] if j == target else z[j] for j in range(width)])
        scale = params.ldam_scale
    p = torch.exp(scale * z) / torch.exp(scale * z).sum()
    share = params.label_smoothing
    spread = torch.ones(width, dtype=torch.float64)
    if params.loss == "logit_adjusted":
        spread = n**params.logit_adjustment_tau
    value = -(1 - share) * torch.log(p[target]) - share * (spread / spread.sum() * torch.log(p)).sum()
    if params.loss == "focal":
        value = -((1 - p[target]) ** params.focal_gamma) * torch.log(p[target])
    return value * factors[target] * n.sum() / (n * factors).sum()


def sigmoid_formula(
    params: TrainParams, z: Tensor, y: Tensor, n: Tensor, rows: int, weights: Tensor
) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    width = len(z)
    for label in range(width):
        prior = n[label] / rows
        logit, factor = z[label], torch.tensor(1.0, dtype=torch.float64)
        if params.loss == "logit_adjusted":
            logit = logit + params.logit_adjustment_tau * torch.log(prior / (1 - prior))
        p = 1 / (1 + torch.exp(-logit))
        yes, no = -torch.log(p), -torch.log(1 - p)
        if params.loss == "focal":
            yes, no = yes * (1 - p) ** params.focal_gamma, no * p**params.focal_gamma
        if params.loss == "asymmetric":
            shifted = torch.clamp(p - params.asymmetric_clip, min=0)
            yes = yes * (1 - p) ** params.asymmetric_gamma_positive
            no = -(shifted**params.asymmetric_gamma_negative) * torch.log(1 - shifted)
        if params.loss == "class_balanced":
            beta = params.class_balanced_beta
            effective = (1 - beta) / (1 - beta**n)
            factor = effective[label] / effective.mean()
        if params.loss == "distribution_balanced":
            scale = params.distribution_balanced_lambda
            nu = params.distribution_balanced_kappa * torch.log(1 / prior - 1)
            yes = torch.log(1 + torch.exp(-(logit - nu)))
            no = torch.log(1 + torch.exp(scale * (logit - nu))) / scale
            wanted, drawn = 1 / width / n[label], (y / n).sum() / width
            ratio = wanted / drawn
            factor = params.distribution_balanced_alpha + 1 / (
                1 + torch.exp(-params.distribution_balanced_beta * (ratio - params.distribution_balanced_mu))
            )
        spread = torch.tensor(0.5, dtype=torch.float64)
        if params.loss == "logit_adjusted":
            odds = (prior / (1 - prior)) ** params.logit_adjustment_tau
            spread = odds / (1 + odds)
        has = y[label] * (1 - params.label_smoothing) + params.label_smoothing * spread
        factor = factor * (weights[label] if y[label] else 1.0)
        total = total + factor * (has * yes + (1 - has) * no)
    return total / width


SETTINGS: list[dict[str, Any]] = [
    {},
    {
        "focal_gamma": 0.5,
        "class_balanced_beta": 0.9,
        "logit_adjustment_tau": 1.7,
        "ldam_max_margin": 2.0,
        "ldam_scale": 3.0,
        "asymmetric_gamma_positive": 1.0,
        "asymmetric_gamma_negative": 2.5,
        "asymmetric_clip": 0.2,
        "distribution_balanced_alpha": 0.5,
        "distribution_balanced_beta": 3.0,
        "distribution_balanced_mu": 0.6,
        "distribution_balanced_lambda": 2.0,
        "distribution_balanced_kappa": 0.8,
    },
]


@pytest.mark.parametrize("changes", SETTINGS, ids=["defaults", "others"])
@pytest.mark.parametrize("class_weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
@pytest.mark.parametrize(("loss", "task"), EVERY)
def test_values_and_gradients_are_the_formulas(
    loss: str, task: Task, class_weights: dict[str, float] | None, changes: dict[str, Any]
) -> None:
    smoothing = [0.0, 0.2] if loss in ("cross_entropy", "class_balanced", "logit_adjusted") else [0.0]
    for share in smoothing:
        params = TrainParams(loss=loss, label_smoothing=share, **changes)
        rows = 262 if task == "multiclass" else 300
        logits, targets = examples(task)
        logits.requires_grad_()
        built = build_objective(params, LABELS, task, COUNTS, rows, class_weights)
        found = built(logits, targets, 0.0)
        (gradient,) = torch.autograd.grad(found.sum(), logits)

        exact = logits.detach().double().requires_grad_()
        weights = np.array([(class_weights or {}).get(label, 1.0) for label in LABELS])
        expected = from_formula(params, exact, targets, task, COUNTS, rows, weights)
        (expected_gradient,) = torch.autograd.grad(expected.sum(), exact)

        assert found.dtype == torch.float32
        assert found.shape == (len(logits),)
        torch.testing.assert_close(found.double(), expected, rtol=2e-5, atol=1e-6)
        torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------ values by hand


def value(built: Objective, logits: list[float], target: int | list[int]) -> float:
    return float(built(torch.tensor([logits]), torch.tensor([target]), 1.0)[0])


def test_focal_by_hand() -> None:
    # p = 1/2: (1/2)^2 log 2; p = 3/4 of one label: (1/4)^2 log 4/3
    assert value(objective("multiclass", COUNTS[:2], loss="focal"), [1, 1], 0) == pytest.approx(
        math.log(2) / 4
    )
    multilabel = objective("multilabel", COUNTS[:1], rows=300, loss="focal")
    assert value(multilabel, [0], [1]) == pytest.approx(math.log(2) / 4)
    assert value(multilabel, [math.log(3)], [1]) == pytest.approx(math.log(4 / 3) / 16)
    assert value(multilabel, [math.log(3)], [0]) == pytest.approx(math.log(4) * 9 / 16)


def test_class_balanced_by_hand() -> None:
    # beta 0.5: effective numbers of 1, 2, 3 rows are 1, 1.5, 1.75; weights 1, 2/3, 4/7 sum to 85/21 over rows
    counts = np.array([1, 2, 3])
    built = objective("multiclass", counts, loss="class_balanced", class_balanced_beta=0.5)
    found = [value(built, [0, 0, 0], target) for target in range(3)]
    np.testing.assert_allclose(found, np.array([126, 84, 72]) / 85 * math.log(3), rtol=1e-6)
    # multilabel: they sum to 47/21 over labels
    built = objective("multilabel", counts, rows=6, loss="class_balanced", class_balanced_beta=0.5)
    assert built.label_weights is not None
    np.testing.assert_allclose(built.label_weights, np.array([63, 42, 36]) / 47, rtol=1e-6)
    assert value(built, [0, 0, 0], [1, 0, 1]) == pytest.approx(math.log(2))


def test_logit_adjustment_by_hand() -> None:
    # equal logits leave the priors: 1/4 and 3/4
    built = objective("multiclass", np.array([1, 3]), loss="logit_adjusted")
    assert value(built, [5, 5], 0) == pytest.approx(math.log(4))
    assert value(built, [5, 5], 1) == pytest.approx(math.log(4 / 3))
    built = objective("multilabel", np.array([1]), rows=4, loss="logit_adjusted")
    assert value(built, [0], [1]) == pytest.approx(math.log(4))
    assert value(built, [0], [0]) == pytest.approx(math.log(4 / 3))


@pytest.mark.parametrize("counts", [[950, 50], [1000, 20, 20], [3000, 500, 100, 30], [500, 3, 0]])
def test_smoothed_logit_adjustment_fits_best_where_it_answers_the_true_class(counts: list[int]) -> None:
    """Spread evenly, smoothing would ask a perfect fit for a rare class on a frequent one's examples."""
    built = objective("multiclass", np.array(counts), loss="logit_adjusted", label_smoothing=0.1)
    for target, count in enumerate(counts):
        if count:
            logits = fitted(built, torch.zeros(1, len(counts)), torch.tensor([target]))
            assert int(logits.argmax()) == target


@pytest.mark.parametrize("changes", [{"loss": "logit_adjusted"}, {"class_weights": {"b": 99.0}}])
def test_smoothed_labels_fit_best_where_each_is_answered_rightly(changes: dict[str, Any]) -> None:
    built = objective("multilabel", np.array([500, 10]), rows=1_000, label_smoothing=0.1, **changes)
    for targets in ([0, 0], [0, 1], [1, 0], [1, 1]):
        logits = fitted(built, torch.zeros(1, 2), torch.tensor([targets]))
        assert (logits[0] > 0).int().tolist() == targets


def fitted(built: Objective, logits: Tensor, targets: Tensor) -> Tensor:
    """The logits of the least loss of one example."""
    logits = logits.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = built(logits, targets, 1.0).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return logits.detach()


def test_ldam_by_hand() -> None:
    # 1 and 16 rows: 1 and 1/2, times 0.5
    built = objective("multiclass", np.array([1, 16]), loss="ldam")
    assert built.margins is not None
    np.testing.assert_allclose(built.margins, [0.5, 0.25])
    assert value(built, [2, 2], 0) == pytest.approx(math.log(1 + math.exp(0.5)))
    assert value(built, [2, 2], 1) == pytest.approx(math.log(1 + math.exp(0.25)))
    scaled = objective("multiclass", np.array([1, 16]), loss="ldam", ldam_scale=30)
    assert value(scaled, [0.5, 0.1], 0) == pytest.approx(math.log(1 + math.exp(3)))


def test_asymmetric_by_hand() -> None:
    changes = {"asymmetric_gamma_positive": 1, "asymmetric_gamma_negative": 2, "asymmetric_clip": 0.25}
    built = objective("multilabel", COUNTS[:1], rows=300, loss="asymmetric", **changes)
    assert value(built, [0], [1]) == pytest.approx(math.log(2) / 2)
    assert value(built, [0], [0]) == pytest.approx(math.log(4 / 3) / 16)
    # p = 1/5 is below the clip: it costs nothing and pulls at nothing
    logits = torch.tensor([[-math.log(4)]], requires_grad=True)
    loss = built(logits, torch.tensor([[0]]), 1.0)
    loss.sum().backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.item() == 0


def test_distribution_balanced_by_hand() -> None:
    # 1 and 4 rows: 1/n is 1 and 1/4, of which an example with both has 5/4 together
    rarity = torch.tensor([1.0, 0.25])
    weights = losses.rebalancing(torch.tensor([[1, 1], [0, 1], [0, 0]]), rarity, 0.1, 10.0, 0.3)
    ratios = np.array([[0.8, 0.2], [4, 1], [np.inf, np.inf]])
    np.testing.assert_allclose(weights, 0.1 + 1 / (1 + np.exp(-10 * (ratios - 0.3))), rtol=1e-6)
    positive, negative = losses.negative_tolerant_terms(torch.tensor([0.0, math.log(3)]), 2.0)
    np.testing.assert_allclose(positive, [math.log(2), math.log(4 / 3)], rtol=1e-6)
    np.testing.assert_allclose(negative, [math.log(2) / 2, math.log(10) / 2], rtol=1e-6)
    built = objective(
        "multilabel", np.array([1]), rows=4, loss="distribution_balanced", distribution_balanced_kappa=2
    )
    assert built.offsets is not None
    assert built.offsets.item() == pytest.approx(-2 * math.log(3))  # -nu


def test_effective_number_weights_are_those_of_the_balance_stage() -> None:
    weights = losses.effective_number_weights(COUNTS, 0.99)
    expected = balancing.importance(COUNTS, "effective_number", 0.99)
    np.testing.assert_allclose(weights, expected / expected.mean())


# ------------------------------------------------------------------- what becomes cross-entropy


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("multiclass", {"loss": "cross_entropy"}),
        ("multilabel", {"loss": "cross_entropy"}),
        ("multiclass", {"loss": "focal", "focal_gamma": 0}),
        ("multilabel", {"loss": "focal", "focal_gamma": 0}),
        ("multiclass", {"loss": "class_balanced", "class_balanced_beta": 1e-12}),
        ("multilabel", {"loss": "class_balanced", "class_balanced_beta": 1e-12}),
        ("multiclass", {"loss": "logit_adjusted", "logit_adjustment_tau": 0}),
        ("multilabel", {"loss": "logit_adjusted", "logit_adjustment_tau": 0}),
        ("multiclass", {"loss": "ldam", "ldam_max_margin": 0}),
        ("multilabel", {"loss": "asymmetric", "asymmetric_gamma_negative": 0, "asymmetric_clip": 0}),
    ],
)
def test_a_loss_without_its_strength_is_cross_entropy(task: Task, changes: dict[str, Any]) -> None:
    logits, targets = examples(task)
    logits.requires_grad_()
    found = objective(task, rows=300, **changes)(logits, targets, 0.5)
    expected = example_losses(logits, targets, task)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss", ["class_balanced", "logit_adjusted"])
def test_equally_frequent_labels_leave_cross_entropy(loss: str) -> None:
    logits, targets = examples("multiclass")
    found = objective("multiclass", np.array([7, 7, 7, 7]), loss=loss)(logits, targets, 0.5)
    torch.testing.assert_close(found, example_losses(logits, targets, "multiclass"))
    logits, targets = examples("multilabel")  # half of the rows: log odds of 0
    found = objective("multilabel", np.array([7, 7, 7, 7]), rows=14, loss=loss)(logits, targets, 0.5)
    torch.testing.assert_close(found, example_losses(logits, targets, "multilabel"))


def test_distribution_balanced_with_one_equally_frequent_label_a_row_is_cross_entropy_up_to_a_factor() -> (
    None
):
    built = objective(
        "multilabel",
        np.array([7, 7, 7, 7]),
        rows=28,
        loss="distribution_balanced",
        distribution_balanced_lambda=1,
        distribution_balanced_kappa=0,
    )
    logits, targets = torch.randn(4, 4, generator=torch.Generator().manual_seed(1)), torch.eye(4)
    factor = 0.1 + 1 / (1 + math.exp(-7))  # every r is 1
    torch.testing.assert_close(
        built(logits, targets, 1.0), factor * example_losses(logits, targets, "multilabel")
    )


def test_focal_of_labels_is_asymmetric_with_equal_gammas() -> None:
    logits, targets = examples("multilabel")
    focal = objective("multilabel", rows=300, loss="focal", focal_gamma=3)
    same = objective(
        "multilabel",
        rows=300,
        loss="asymmetric",
        asymmetric_gamma_positive=3,
        asymmetric_gamma_negative=3,
        asymmetric_clip=0,
    )
    torch.testing.assert_close(focal(logits, targets, 1.0), same(logits, targets, 1.0))


def test_a_small_clip_changes_little() -> None:
    logits = torch.tensor([[-3.0, 0.0, 40.0, 200.0]])
    _, without = losses.asymmetric_terms(logits, 0.0, 4.0)
    for clip in (1e-30, 1e-60):
        _, found = losses.asymmetric_terms(logits, 0.0, 4.0, clip)
        expected = torch.minimum(without, torch.tensor(-math.log(clip)))
        torch.testing.assert_close(found, expected)


# --------------------------------------------------------------------- numbers that are far out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "counts", [[200, 50, 0, 3], [300, 1, 0, 1]], ids=["a label absent", "one in all rows"]
)
@pytest.mark.parametrize(("loss", "task"), EVERY)
def test_extreme_logits_and_absent_labels_stay_finite(
    loss: str, task: Task, counts: list[int], dtype: torch.dtype
) -> None:
    rows = sum(counts) if task == "multiclass" else 300
    for gamma in (0.0, 0.5, 4.0):
        built = objective(
            task,
            np.array(counts),
            rows,
            WEIGHTS,
            loss=loss,
            focal_gamma=gamma,
            asymmetric_gamma_positive=gamma,
            asymmetric_gamma_negative=gamma,
        )
        corners = torch.cartesian_prod(*[torch.tensor([-1e4, -100, 0, 1e4])] * 4)
        for label in range(4):
            logits = corners.to(dtype).requires_grad_()
            target: Any = torch.full((len(corners),), label)
            if task == "multilabel":
                target = torch.nn.functional.one_hot(target, 4) if label else torch.zeros(len(corners), 4)
            found = built(logits, target, 1.0)
            found.sum().backward()
            assert found.dtype == torch.float32
            assert found.isfinite().all()
            assert (found >= 0).all()
            assert logits.grad is not None
            assert logits.grad.isfinite().all()


@pytest.mark.parametrize(("loss", "task"), EVERY)
def test_bfloat16_logits_are_worked_on_in_float32(loss: str, task: Task) -> None:
    built = objective(task, rows=300, loss=loss)
    logits, targets = examples(task)
    rounded = logits.bfloat16()
    torch.testing.assert_close(
        built(rounded, targets, 1.0), built(rounded.float(), targets, 1.0), rtol=0, atol=0
    )


@pytest.mark.parametrize(("loss", "task"), EVERY)
def test_an_absent_label_is_pushed_down_like_any_other(loss: str, task: Task) -> None:
    # else it would be predicted where no other label is sure
    built = objective(task, np.array([200, 50, 0, 3]), 253 if task == "multiclass" else 300, loss=loss)
    logits = torch.zeros((1, 4), requires_grad=True)
    target = torch.tensor([0]) if task == "multiclass" else torch.tensor([[1, 0, 0, 0]])
    built(logits, target, 1.0).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 2] >= 0.9 * logits.grad[0, 1] > 0


# ---------------------------------------------------------------------------------------- laws

some_counts = st.lists(st.integers(0, 5000), min_size=4, max_size=4).filter(any)


@settings(deadline=None)
@given(
    loss=st.sampled_from(MULTICLASS),
    counts=some_counts,
    shift=st.floats(-50, 50),
    seed=st.integers(0, 10_000),
)
def test_a_constant_on_all_logits_changes_no_softmax_loss(
    loss: str, counts: list[int], shift: float, seed: int
) -> None:
    built = objective("multiclass", np.array(counts), class_weights=WEIGHTS, loss=loss)
    logits, targets = examples("multiclass", seed)
    torch.testing.assert_close(
        built(logits + shift, targets, 1.0), built(logits, targets, 1.0), rtol=1e-4, atol=1e-4
    )


@settings(deadline=None)
@given(
    case=st.sampled_from(EVERY),
    counts=some_counts,
    order=st.permutations(range(4)),
    weighted=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_the_order_of_labels_does_not_matter(
    case: tuple[str, Task], counts: list[int], order: list[int], weighted: bool, seed: int
) -> None:
    loss, task = case
    class_weights = WEIGHTS if weighted else None
    params, n = TrainParams(loss=loss), np.array(counts)
    rows = sum(counts) if task == "multiclass" else 5000
    logits, targets = examples(task, seed)
    found = build_objective(params, LABELS, task, n, rows, class_weights)(logits, targets, 1.0)
    moved = targets[:, order] if task == "multilabel" else torch.tensor(np.argsort(order))[targets]
    labels = [LABELS[label] for label in order]
    other = build_objective(params, labels, task, n[order], rows, class_weights)
    torch.testing.assert_close(other(logits[:, order], moved, 1.0), found, rtol=1e-5, atol=1e-6)


@settings(deadline=None)
@given(
    counts=some_counts,
    weights=st.one_of(st.none(), st.lists(st.floats(0.1, 50), min_size=4, max_size=4)),
    loss=st.sampled_from(MULTICLASS),
    beta=st.floats(0.01, 0.99999),
)
def test_factors_have_a_mean_of_one_over_the_training_rows(
    counts: list[int], weights: list[float] | None, loss: str, beta: float
) -> None:
    named = None if weights is None else dict(zip(LABELS, weights, strict=True))
    n = np.array(counts)
    built = objective("multiclass", n, class_weights=named, loss=loss, class_balanced_beta=beta)
    if named is None and loss != "class_balanced":
        assert built.class_weights is None
    else:
        assert built.class_weights is not None
        assert float(n @ built.class_weights.numpy()) == pytest.approx(n.sum(), rel=1e-5)
    labels = objective("multilabel", n, 5000, loss="class_balanced", class_balanced_beta=beta).label_weights
    assert labels is not None
    assert float(labels.mean()) == pytest.approx(1, rel=1e-5)


# ------------------------------------------------------------------------------ class weights


def test_class_weights_multiply_examples_or_positives() -> None:
    logits, targets = examples("multiclass")
    plain = objective("multiclass")(logits, targets, 1.0)
    built = objective("multiclass", class_weights={"d": 5.0})  # 1 for the others
    factors = np.array([1, 1, 1, 5]) * 262 / (259 + 15)
    torch.testing.assert_close(
        built(logits, targets, 1.0), plain * torch.from_numpy(factors).float()[targets]
    )
    logits, targets = examples("multilabel")
    found = objective("multilabel", rows=300, class_weights={"d": 5.0})(logits, targets, 1.0)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, targets.float(), pos_weight=torch.tensor([1.0, 1.0, 1.0, 5.0]), reduction="none"
    )
    torch.testing.assert_close(found, expected.mean(dim=1))


@pytest.mark.parametrize(("loss", "task"), EVERY)
def test_class_weights_wait_for_their_share_of_the_updates(loss: str, task: Task) -> None:
    logits, targets = examples(task)
    deferred = objective(task, rows=300, class_weights=WEIGHTS, loss=loss, reweight_after=0.8)
    weighted = objective(task, rows=300, class_weights=WEIGHTS, loss=loss)
    # class_balanced's own weights wait too
    plain = objective(task, rows=300, loss="cross_entropy" if loss == "class_balanced" else loss)
    for progress, expected in ((0.0, plain), (0.79, plain), (0.8, weighted), (1.0, weighted)):
        torch.testing.assert_close(
            deferred(logits, targets, progress), expected(logits, targets, 0.0), rtol=1e-5, atol=1e-6
        )
    assert not torch.allclose(plain(logits, targets, 1.0), weighted(logits, targets, 1.0))


@pytest.mark.parametrize(("loss", "task"), EVERY)
def test_all_vectors_move_to_a_device(loss: str, task: Task) -> None:
    built = objective(task, rows=300, class_weights=WEIGHTS, loss=loss).to("meta")
    vectors = [found for found in vars(built).values() if isinstance(found, Tensor)]
    assert vectors
    assert all(vector.device.type == "meta" and vector.dtype == torch.float32 for vector in vectors)
    logits, targets = examples(task)
    assert built(logits.to("meta"), targets.to("meta"), 1.0).device.type == "meta"


# ------------------------------------------------------------- settings that do not go together


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("multilabel", {"loss": "ldam"}, r"train\.loss: ldam is defined for multiclass alone"),
        ("multiclass", {"loss": "asymmetric"}, r"train\.loss: asymmetric is defined for multilabel alone"),
        (
            "multiclass",
            {"loss": "distribution_balanced"},
            r"train\.loss: distribution_balanced is defined for multilabel alone",
        ),
        ("multiclass", {"reweight_after": 0.5}, r"train\.reweight_after: 0\.5 defers class weights"),
        (
            "multilabel",
            {"loss": "logit_adjusted", "reweight_after": 0.5},
            r"train\.reweight_after: .*there are none",
        ),
    ],
)
def test_contradictions_are_errors(task: Task, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        objective(task, rows=300, **changes)


def test_class_balanced_brings_the_weights_that_are_deferred() -> None:
    objective("multiclass", loss="class_balanced", reweight_after=0.5)


@pytest.mark.parametrize("loss", ["focal", "ldam", "asymmetric", "distribution_balanced"])
def test_losses_of_one_true_answer_take_no_smoothing(loss: str) -> None:
    with pytest.raises(UserError, match=rf"train\.loss: .*label_smoothing.*set it to 0, found '{loss}'"):
        TrainParams.parse({"loss": loss, "label_smoothing": 0.1})
    TrainParams.parse({"loss": loss, "label_smoothing": 0.0})


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "hinge"},
        {"focal_gamma": -1},
        {"class_balanced_beta": 1},
        {"ldam_scale": 0},
        {"reweight_after": 1},
        {"asymmetric_clip": 1},
        {"distribution_balanced_lambda": 0},
        {"logit_adjustment_tau": float("inf")},
    ],
)
def test_values_out_of_range_are_named(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"train\.{next(iter(changes))}: "):
        TrainParams.parse(changes)


@pytest.mark.parametrize("counts", [[1, 2], [1, 2, 3, -1], [1, 2, 3, 99], [0, 0, 0, 0]])
def test_counts_that_do_not_fit_are_refused(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="do not fit 4 labels"):
        build_objective(TrainParams(), LABELS, "multiclass", np.array(counts), 10, None)


@pytest.mark.parametrize(
    ("changes", "strategy", "class_weights", "found"),
    [
        ({}, "class_weights", WEIGHTS, []),
        ({}, "oversample", None, []),
        ({"loss": "logit_adjusted"}, "none", None, []),
        ({"loss": "focal"}, "class_weights", WEIGHTS, []),
        ({"loss": "ldam", "reweight_after": 0.8}, "class_weights", WEIGHTS, []),
        ({"loss": "distribution_balanced", "sampler": "class_balanced"}, "none", None, []),
        ({"loss": "logit_adjusted"}, "class_weights", {"a": 1.0, "b": 1.0}, []),
        ({"loss": "logit_adjusted"}, "class_weights", WEIGHTS, ["the adjustment lifts them again"]),
        ({"loss": "class_balanced"}, "class_weights", WEIGHTS, ["favoured by the product"]),
        ({"loss": "distribution_balanced"}, "class_weights", WEIGHTS, ["by the loss's own"]),
        ({"loss": "asymmetric"}, "class_weights", WEIGHTS, ["at lower precision"]),
        ({"loss": "logit_adjusted"}, "oversample", None, ["only the imbalance that the resampling left"]),
        ({"loss": "class_balanced"}, "undersample", None, ["balance.strategy undersample"]),
        ({"sampler": "class_balanced"}, "oversample", None, ["rows that are resampled already"]),
        ({"loss": "ldam"}, "oversample", None, ["nearly the same margin"]),
        ({"loss": "asymmetric"}, "undersample", None, ["at lower precision"]),
        ({"loss": "ldam", "sampler": "square_root"}, "none", None, ["gives rare labels larger margins too"]),
        ({"loss": "asymmetric", "sampler": "progressive"}, "none", None, ["lowers what negatives cost too"]),
        ({"loss": "focal", "sampler": "progressive"}, "none", None, []),
        ({}, "oversample", WEIGHTS, ["balance.strategy oversample with balance.label_weights"]),
        ({}, "undersample", WEIGHTS, ["favoured twice"]),
        ({}, "undersample", {"a": 1.0, "b": 1.0}, []),
        (
            {"sampler": "square_root"},
            "class_weights",
            WEIGHTS,
            ["train.sampler square_root with class weights"],
        ),
        (
            {"sampler": "class_balanced", "loss": "logit_adjusted"},
            "class_weights",
            WEIGHTS,
            ["the adjustment lifts them again", "weigh more each time", "the sampler evens out too"],
        ),
    ],
)
def test_double_corrections_say_what_they_do(
    changes: dict[str, Any], strategy: str, class_weights: dict[str, float] | None, found: list[str]
) -> None:
    lines = double_corrections(TrainParams(**changes), strategy, class_weights)
    assert len(lines) == len(found)
    for line, part in zip(lines, found, strict=True):
        assert part in line
        assert line.startswith(("train.", "balance."))
        assert "\n" not in line


@pytest.mark.parametrize(
    ("changes", "strategy", "class_weights", "found"),
    [
        ({}, "none", None, []),
        ({}, "class_weights", WEIGHTS, []),  # they are of the rows there are then
        ({}, "none", WEIGHTS, ["balance.augment_target with balance.label_weights"]),
        ({"loss": "logit_adjusted"}, "none", None, ["only the imbalance that the resampling left"]),
        ({"sampler": "class_balanced"}, "none", None, ["rows that are resampled already"]),
    ],
)
def test_copies_of_small_labels_are_a_correction(
    changes: dict[str, Any], strategy: str, class_weights: dict[str, float] | None, found: list[str]
) -> None:
    lines = double_corrections(TrainParams(**changes), strategy, class_weights, augmented=True)
    assert len(lines) == len(found)
    for line, part in zip(lines, found, strict=True):
        assert part in line


def test_the_stage_says_what_two_corrections_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("train: {loss: class_balanced}\n", encoding="utf-8")
    write_json(
        Path("data/balanced/balance.json"),
        {"strategy": "class_weights", "class_weights": {"a": 2, "b": 1}, "augmented_rows": 3},
    )
    with pytest.raises(SystemExit):  # there is no table to train on
        load_stage("train").main()
    said = capsys.readouterr().err
    assert "train: warning: train.loss class_balanced with class weights (section balance)" in said
    assert (
        "balance.strategy class_weights and balance.augment_target: the loss counts the labels after" in said
    )
