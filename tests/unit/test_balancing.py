"""Class weights against numbers worked out by hand, and what resampling does to the counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from afina import balancing, table
from afina.errors import UserError
from afina.labels import LabelSet, Task
from afina.params.balance import BalanceParams

METHODS = ("balanced", "inverse_sqrt", "effective_number")


def messages(label_lists: list[list[str]]) -> pa.Table:
    rows = [
        {
            "id": f"{number:04}",
            "source": "s",
            "text": f"texto {number}",
            "labels": labels,
            "slices": [("office", f"office of {number:04}")],
        }
        for number, labels in enumerate(label_lists)
    ]
    return pa.Table.from_pylist(rows, schema=table.SCHEMA)


def label_set(task: Task, *labels: str) -> LabelSet:
    return LabelSet(task, labels)


def multi_hot(*rows: str, labels: str = "ABC") -> npt.NDArray[np.int8]:
    return np.array([[label in row for label in labels] for row in rows], dtype=np.int8)


# --------------------------------------------------------------------------------------- weights


def test_effective_number_by_hand() -> None:
    # beta 0.5: effective numbers of 1, 2, 3 examples are 1, 1.5, 1.75
    np.testing.assert_allclose(
        balancing.importance(np.array([1, 2, 3]), "effective_number", 0.5), [1, 1 / 1.5, 1 / 1.75]
    )
    # raw 1, 2/3, 4/7 over 1 + 2 + 3 rows sum to 1 + 4/3 + 12/7 = 85/21; scaled by 6 / (85/21) = 126/85
    np.testing.assert_allclose(
        balancing.class_weights(np.array([1, 2, 3]), "effective_number", 0.5),
        [126 / 85, 84 / 85, 72 / 85],
    )


def test_effective_number_keeps_its_digits_next_to_one() -> None:
    weights = balancing.class_weights(np.array([10, 1000]), "effective_number", 1 - 1e-12)
    np.testing.assert_allclose(weights, balancing.class_weights(np.array([10, 1000])), rtol=1e-6)


def test_effective_number_with_a_small_beta_is_no_weighting() -> None:
    np.testing.assert_allclose(balancing.class_weights(np.array([10, 90]), "effective_number", 1e-9), [1, 1])


def test_inverse_sqrt_by_hand() -> None:
    # 1/2 and 1/4 over 4 and 16 rows sum to 6; scaled by 20/6
    np.testing.assert_allclose(balancing.class_weights(np.array([4, 16]), "inverse_sqrt"), [5 / 3, 5 / 6])


def test_balanced_is_scikit_learns() -> None:
    classes = np.repeat([0, 1, 2], [5, 20, 175])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=classes)
    np.testing.assert_allclose(balancing.class_weights(np.bincount(classes)), expected)


def test_a_cap_is_made_up_for_by_the_others() -> None:
    # balanced 20/3, 10/3 .. : counts 1, 2, 17 of 20 -> 6.67, 3.33, 0.39; at most 2 -> 2, 2, (20 - 6) / 17
    np.testing.assert_allclose(balancing.class_weights(np.array([1, 2, 17]), max_weight=2.0), [2, 2, 14 / 17])


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(0, 10_000), min_size=1, max_size=12).filter(any),
    method=st.sampled_from(METHODS),
    beta=st.floats(0.1, 0.999999),
    cap=st.one_of(st.none(), st.floats(1, 50)),
)
def test_class_weights_have_mean_one_and_favour_the_rare(
    counts: list[int], method: str, beta: float, cap: float | None
) -> None:
    n = np.array(counts)
    weights = balancing.class_weights(n, method, beta, cap)
    assert (n * weights).sum() == pytest.approx(n.sum())
    assert (weights > 0).all()
    if cap is not None:
        assert weights.max() <= cap + 1e-9
    assert (weights[n == 0] == 1).all()
    by_count = np.argsort(n[n > 0])
    assert (np.diff(weights[n > 0][by_count]) <= 1e-9).all()


def test_positive_weights_by_hand() -> None:
    counts = np.array([20, 50, 0, 100])
    np.testing.assert_allclose(balancing.positive_weights(counts, 100), [4, 1, 1, 1])
    np.testing.assert_allclose(balancing.positive_weights(counts, 100, "inverse_sqrt"), [2, 1, 1, 1])
    np.testing.assert_allclose(balancing.positive_weights(counts, 100, max_weight=3), [3, 1, 1, 1])
    # beta 0.5, 1 positive and 3 negatives: 1.75 / 1
    np.testing.assert_allclose(balancing.positive_weights(np.array([1]), 4, "effective_number", 0.5), [1.75])


# ------------------------------------------------------------------------------------ resampling

class_counts = st.lists(st.integers(1, 60), min_size=2, max_size=6)


@settings(deadline=None)
@given(counts=class_counts, ratio=st.floats(0.05, 1), seed=st.integers(0, 99))
def test_oversample_reaches_the_ratio_and_loses_nothing(counts: list[int], ratio: float, seed: int) -> None:
    classes = np.repeat(np.arange(len(counts)), counts)
    rows = balancing.oversample(classes, ratio, seed)
    after = np.bincount(classes[rows])
    assert set(rows) == set(range(len(classes)))
    assert after.max() == max(counts)
    assert after.min() >= ratio * after.max() - 1e-6
    assert all(now == before or now == np.ceil(ratio * max(counts) - 1e-9)
               for now, before in zip(after, counts, strict=True))  # fmt: skip
    np.testing.assert_array_equal(rows, balancing.oversample(classes, ratio, seed))


@settings(deadline=None)
@given(counts=class_counts, ratio=st.floats(0.05, 1), seed=st.integers(0, 99))
def test_undersample_reaches_the_ratio_and_repeats_nothing(
    counts: list[int], ratio: float, seed: int
) -> None:
    classes = np.repeat(np.arange(len(counts)), counts)
    rows = balancing.undersample(classes, ratio, seed)
    after = np.bincount(classes[rows])
    assert len(set(rows)) == len(rows)
    assert after.min() == min(counts)
    assert after.max() <= min(counts) / ratio + 1e-6
    assert all(now == min(before, np.floor(min(counts) / ratio + 1e-9))
               for now, before in zip(after, counts, strict=True))  # fmt: skip


def test_another_seed_draws_other_rows() -> None:
    classes = np.repeat([0, 1], [200, 20])
    assert not np.array_equal(balancing.undersample(classes, 1, 0), balancing.undersample(classes, 1, 1))


def test_multilabel_oversampling_of_separate_labels() -> None:
    labels = multi_hot("A", "A", "A", "A", "A", "A", "B", "C", "C")
    rows = balancing.oversample_multilabel(labels, 1.0, 3.0, seed=0)
    np.testing.assert_array_equal(labels[rows].sum(axis=0), [6, 6, 6])
    assert (rows == 6).sum() == 6
    assert sorted([(rows == 7).sum(), (rows == 8).sum()]) == [3, 3]  # in turn, not by chance


def test_multilabel_oversampling_counts_what_a_clone_brings() -> None:
    # every C comes with a B: 3 clones of the C row bring 3 B
    labels = multi_hot("A", "A", "A", "A", "B C")
    rows = balancing.oversample_multilabel(labels, 1.0, 3.0, seed=0)
    np.testing.assert_array_equal(labels[rows].sum(axis=0), [4, 4, 4])
    assert len(rows) == 8


def test_multilabel_oversampling_stops_at_max_growth() -> None:
    # B never comes without A, so it cannot catch up
    labels = multi_hot("A", "A", "A", "A B", labels="AB")
    rows = balancing.oversample_multilabel(labels, 1.0, 2.0, seed=0)
    assert len(rows) == 8
    np.testing.assert_array_equal(labels[rows].sum(axis=0), [8, 5])


def test_multilabel_undersampling_spares_rows_with_a_rare_label() -> None:
    labels = multi_hot("A", "A", "A", "A B", "B C", "C", "")
    rows = balancing.undersample_multilabel(labels, 1.0, seed=0)
    np.testing.assert_array_equal(labels[rows].sum(axis=0), [2, 2, 2])
    assert {3, 4, 5, 6} <= set(rows.tolist())  # B and C rows, and the one without a label


def test_multilabel_undersampling_that_can_do_nothing_is_an_error() -> None:
    with pytest.raises(UserError, match=r"balance\.strategy: undersample can leave out no row"):
        balancing.undersample_multilabel(multi_hot("A B", "A C"), 1.0, seed=0)


def test_topping_up_takes_the_rows_of_small_classes_in_turn() -> None:
    classes = np.repeat([0, 1, 3], [9, 2, 6])  # class 2 has no row
    rows = balancing.top_up(classes, 7, seed=0)
    np.testing.assert_array_equal(np.bincount(classes[rows]), [9, 7, 0, 7])
    assert sorted(np.bincount(rows)[9:11]) == [3, 4]
    assert sorted(np.bincount(rows)[11:]) == [1] * 5 + [2]
    np.testing.assert_array_equal(balancing.top_up(classes, 2, seed=0), np.arange(17))


def test_topping_up_multilabel_counts_what_a_clone_brings() -> None:
    # 4 clones of the C row bring 4 B
    labels = multi_hot("A", "A", "A", "A", "A", "A", "B C", "")
    rows = balancing.top_up_multilabel(labels, 5, seed=0)
    np.testing.assert_array_equal(labels[rows].sum(axis=0), [6, 5, 5])
    assert len(rows) == 12
    # clones of A B give A more than it needs; C has no row
    labels = multi_hot("A", "A B")
    np.testing.assert_array_equal(
        labels[balancing.top_up_multilabel(labels, 30, seed=0)].sum(axis=0), [31, 30, 0]
    )


multi = st.integers(2, 5).flatmap(
    lambda width: st.lists(
        st.lists(st.booleans(), min_size=width, max_size=width), min_size=1, max_size=40
    )
).map(lambda rows: np.array(rows, dtype=np.int8))  # fmt: skip


@settings(deadline=None)
@given(labels=multi, ratio=st.floats(0.1, 1), growth=st.floats(1.1, 4), seed=st.integers(0, 9))
def test_multilabel_resampling_laws(
    labels: npt.NDArray[np.int8], ratio: float, growth: float, seed: int
) -> None:
    before = labels.sum(axis=0, dtype=int)
    full = labels[balancing.top_up_multilabel(labels, 7, seed)].sum(axis=0, dtype=int)
    assert (full[before > 0] >= 7).all()
    assert (full[before == 0] == 0).all()
    more = balancing.oversample_multilabel(labels, ratio, growth, seed)
    assert set(more) == set(range(len(labels)))
    assert len(more) <= growth * len(labels)
    try:
        fewer = balancing.undersample_multilabel(labels, ratio, seed)
    except UserError:
        return
    after = labels[fewer].sum(axis=0, dtype=int)
    assert len(set(fewer)) == len(fewer)
    if before.any():
        allowed = np.floor(before[before > 0].min() / ratio + 1e-9)
        assert (after >= np.minimum(before, allowed)).all()


# ----------------------------------------------------------------------------------------- stage


def test_balance_gives_weights_and_leaves_the_rows() -> None:
    result = balancing.balance(
        messages([["a"]] * 3 + [["b"]]), label_set("multiclass", "a", "b", "c"), BalanceParams(), seed=1
    )
    assert result.table.schema.names == table.BALANCED_SCHEMA.names
    assert result.table["weight"].to_pylist() == [1.0] * 4
    assert result.summary == {
        "strategy": "class_weights",
        "class_weights": {"a": pytest.approx(2 / 3), "b": pytest.approx(2.0), "c": 1.0},
        "before": {"a": 3, "b": 1, "c": 0},
        "after": {"a": 3, "b": 1, "c": 0},
    }
    assert result.rows == [("a", "before", 3), ("a", "after", 3), ("b", "before", 1),
                           ("b", "after", 1), ("c", "before", 0), ("c", "after", 0)]  # fmt: skip


@pytest.mark.parametrize(
    ("strategy", "after"),
    [("none", {"a": 6, "b": 2}), ("oversample", {"a": 6, "b": 6}), ("undersample", {"a": 2, "b": 2})],
)
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_balance_resamples(strategy: str, after: dict[str, int], task: Task, tmp_path: Path) -> None:
    rows = messages([["a"]] * 6 + [["b"]] * 2)
    params = BalanceParams.parse({"strategy": strategy})
    result = balancing.balance(rows, label_set(task, "a", "b"), params, seed=7)
    assert result.summary["class_weights"] is None
    assert result.summary["after"] == after
    assert result.table.num_rows == sum(after.values())
    ids = result.table["id"].to_pylist()
    assert result.table["slices"].to_pylist() == [[("office", f"office of {row_id}")] for row_id in ids]
    assert balancing.imbalance(result.summary["before"]) == 3
    for name in ("one", "two"):
        again = balancing.balance(rows, label_set(task, "a", "b"), params, seed=7)
        table.write(again.table, tmp_path / name, table.BALANCED_SCHEMA)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_multilabel_weights_are_for_positives() -> None:
    result = balancing.balance(
        messages([["a", "b"], ["a"], ["a"], []]), label_set("multilabel", "a", "b"), BalanceParams(), seed=1
    )
    assert result.summary["class_weights"] == {"a": pytest.approx(1 / 3), "b": pytest.approx(3.0)}


@pytest.mark.parametrize(
    ("strategy", "weights"),
    [
        ("class_weights", {"a": 2 / 3, "b": 6.0}),
        ("none", {"a": 1.0, "b": 3.0}),
        ("oversample", {"a": 1.0, "b": 3.0}),
    ],
)
def test_label_weights_come_on_top(strategy: str, weights: dict[str, float]) -> None:
    params = BalanceParams.parse({"strategy": strategy, "label_weights": {"b": 3}, "max_weight": 2.0})
    rows = messages([["a"]] * 3 + [["b"]])
    result = balancing.balance(rows, label_set("multiclass", "a", "b"), params, seed=1)
    assert result.summary["class_weights"] == pytest.approx(weights)


def test_label_weights_of_positives() -> None:
    params = BalanceParams.parse({"label_weights": {"a": 0.5}})
    rows = messages([["a", "b"], ["a"], ["a"], []])
    result = balancing.balance(rows, label_set("multilabel", "a", "b"), params, seed=1)
    assert result.summary["class_weights"] == {"a": pytest.approx(1 / 6), "b": pytest.approx(3.0)}


def test_label_weights_of_an_unknown_label() -> None:
    params = BalanceParams.parse({"label_weights": {"alumbrados": 2.0}})
    rows = messages([["agua"], ["alumbrado"]])
    with pytest.raises(UserError, match=r"label_weights: .*'alumbrados'; did you mean 'alumbrado'"):
        balancing.balance(rows, label_set("multiclass", "agua", "alumbrado"), params, seed=1)


def test_no_label_weights_are_no_weights() -> None:
    params = BalanceParams.parse({"strategy": "none", "label_weights": {}})
    result = balancing.balance(messages([["a"], ["b"]]), label_set("multiclass", "a", "b"), params, seed=1)
    assert result.summary["class_weights"] is None


def test_an_empty_train_split_is_an_error() -> None:
    with pytest.raises(UserError, match="no row"):
        balancing.balance(messages([]), label_set("multiclass", "a", "b"), BalanceParams(), seed=1)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"strategy": "smote"}, "balance.strategy"), ({"beta": 1.0}, "balance.beta"),
     ({"beta": 0}, "balance.beta"), ({"target_ratio": 0}, "balance.target_ratio"),
     ({"max_weight": 0.5}, "balance.max_weight"),
     ({"max_growth": 1}, "balance.max_growth"), ({"weight": "x"}, "did you mean 'weights'"),
     ({"label_weights": {"a": 0}}, r"balance\.label_weights\.a: .* greater than 0"),
     ({"label_weights": {"a": float("inf")}}, r"balance\.label_weights\.a: .* finite"),
     ({"label_weights": {"a": "x"}}, r"balance\.label_weights\.a"),
     ({"label_weights": {12: 2.0}}, "label 12 .* quotes"), ({"label_weights": {False: 2.0}}, "quotes"),
     ({"label_weights": ["a"]}, r"balance\.label_weights"),
     ({"augment": ["synonym"]}, r"balance\.augment\.0"),
     ({"augment": ["typo"], "augment_target": 9, "strategy": "undersample"}, "undersample leaves out rows"),
     ({"augment": ["typo"]}, "augment needs augment_target"), ({"augment_target": 9}, "needs augment,"),
     ({"augment": ["typo"], "augment_target": 9, "strategy": "oversample"}, "goes by target_ratio"),
     ({"augment_rate": 0}, r"balance\.augment_rate")],
)  # fmt: skip
def test_wrong_parameters(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        BalanceParams.parse(values)


def test_a_large_train_split_takes_seconds() -> None:
    random = np.random.default_rng(0)
    labels = (random.random((200_000, 8)) < [0.5, 0.3, 0.1, 0.05, 0.02, 0.01, 0.005, 0.001]).astype(np.int8)
    rows = balancing.oversample_multilabel(labels, 0.5, 3.0, seed=0)
    assert len(rows) <= 600_000
    assert labels[rows].sum(axis=0).min() > labels.sum(axis=0).min()
