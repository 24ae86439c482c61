"""Label errors planted in texts that can be told apart, and labels that one class was divided into."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from afina import table
from afina.auditing import label_errors, label_pairs, out_of_fold
from afina.auditing.label_errors import Opinion
from afina.errors import UserError
from afina.evaluation.baselines import Texts, TfidfLinear
from afina.evaluation.metrics import count
from afina.evaluation.predictions import prediction_table
from afina.labels import LabelSet, Task, encode_labels
from afina.params.baseline import BaselineParams
from afina.params.split import SplitParams
from tiny import tiny_messages

LABELS = ("agua", "luz", "pagos", "buses")
WORDS = BaselineParams(char_ngrams=None)
needs_cleanlab = pytest.mark.skipif(
    importlib.util.find_spec("cleanlab") is None, reason="the extra audit is not installed"
)
Ints = npt.NDArray[np.int64]


def toy(task: Task, rows: int, seed: int = 0) -> tuple[list[str], Ints]:
    messages = tiny_messages(task, rows, LABELS, seed)
    return messages["text"].to_pylist(), encode_labels(messages["labels"], LABELS, task)


def with_errors(y: Ints, share: float, seed: int = 7) -> tuple[Ints, set[int]]:
    """Some rows with another class, or with one label more or less, and which."""
    draw = np.random.default_rng(seed)
    rows = draw.choice(len(y), round(share * len(y)), replace=False)
    noisy = y.copy()
    if y.ndim == 1:
        noisy[rows] = (y[rows] + draw.integers(1, len(LABELS), len(rows))) % len(LABELS)
    else:
        noisy[rows, draw.integers(0, len(LABELS), len(rows))] ^= 1
    return noisy, set(rows.tolist())


def doubted_rows(task: Task, texts: Sequence[str], y: Ints) -> set[int]:
    scored = out_of_fold.out_of_fold(texts, y, LabelSet(task, LABELS), WORDS, folds=4, seed=1)
    opinion = label_errors.confident_learning(y, scored.probabilities, task, scored.judged)
    return set(np.flatnonzero(opinion.doubted.any(axis=1)).tolist())


# --------------------------------------------------------------------------- out-of-sample probabilities


@settings(deadline=None, max_examples=40)
@given(
    labels=st.lists(st.integers(0, 3), min_size=2, max_size=60),
    copies=st.integers(0, 3),
    folds=st.integers(2, 6),
    seed=st.integers(0, 99),
)
def test_folds_keep_units_together_and_give_every_label_its_share(
    labels: list[int], copies: int, folds: int, seed: int
) -> None:
    y = np.array(labels)
    units = np.arange(len(y))
    units[1 : 1 + copies] = 0
    if len(np.unique(units)) < 2:
        return
    fold = out_of_fold.assign_folds(y, 4, folds, seed, units)
    assert fold.min() >= 0
    assert fold.max() < folds
    assert len(set(fold[units == 0].tolist())) == 1
    assert np.array_equal(fold, out_of_fold.assign_folds(y, 4, folds, seed, units))
    for label in range(4):
        if len(np.unique(units[y == label])) >= folds:
            assert len(np.unique(fold[y == label])) == folds


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_no_row_is_scored_by_a_model_that_saw_it(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, y = toy(task, 80)
    texts[10] = texts[11]  # near duplicates with different labels: neither may speak for the other
    seen: dict[int, set[str]] = {}
    fit, scores = TfidfLinear.fit, TfidfLinear.scores

    def remember(self: TfidfLinear, train: Texts) -> TfidfLinear:
        seen[id(self)] = set(train.texts)
        return fit(self, train)

    def compare(self: TfidfLinear, rows: Sequence[str]) -> npt.NDArray[np.float64]:
        assert not seen[id(self)] & set(rows)
        return np.asarray(scores(self, rows))

    monkeypatch.setattr(TfidfLinear, "fit", remember)
    monkeypatch.setattr(TfidfLinear, "scores", compare)
    units = np.arange(80)
    units[10] = 11
    scored = out_of_fold.out_of_fold(texts, y, LabelSet(task, LABELS), WORDS, 4, 1, units)
    assert np.unique(scored.folds).tolist() == [0, 1, 2, 3]
    assert scored.judged.all()
    assert ((scored.probabilities >= 0) & (scored.probabilities <= 1)).all()
    if task == "multiclass":
        np.testing.assert_allclose(scored.probabilities.sum(axis=1), 1, rtol=1e-5)
        assert (scored.probabilities.argmax(axis=1) == y).mean() > 0.9
    else:
        assert ((scored.probabilities > 0.5) == (y == 1)).mean() > 0.9


@needs_cleanlab
def test_a_label_with_fewer_rows_than_folds_is_judged_as_far_as_it_can_be() -> None:
    texts, y = toy("multiclass", 60)
    texts += ["queja rara sola", "canto canto perro", "canto canto gato"]
    y = np.append(y, [4, 5, 5])
    labels = LabelSet("multiclass", (*LABELS, "once", "twice"))
    scored = out_of_fold.out_of_fold(texts, y, labels, BaselineParams(char_ngrams=None, min_df=1), 5, 3)
    assert not scored.judged[60, 4]  # no other row to know it from
    assert scored.probabilities[60, 4] == 0
    assert scored.judged[61:, 5].all()
    assert scored.probabilities[61:].argmax(axis=1).tolist() == [5, 5]
    opinion = label_errors.confident_learning(y, scored.probabilities, "multiclass", scored.judged)
    assert not opinion.judged[60]
    assert np.isnan(opinion.quality[60])
    assert not opinion.doubted[60].any()


def test_a_class_of_one_row_beside_one_other_class() -> None:
    texts = ["agua agua", "agua sucia", "agua fría", "luz rota"]
    y, pair = np.array([0, 0, 0, 1]), LabelSet("multiclass", ("agua", "luz"))
    scored = out_of_fold.out_of_fold(texts, y, pair, BaselineParams(min_df=1), 2, 1)
    assert not scored.judged[3].any()
    assert scored.probabilities[3].tolist() == [1, 0]
    assert np.isfinite(scored.probabilities).all()


def test_labels_that_all_rows_or_none_have_are_not_judged() -> None:
    texts, y = toy("multilabel", 40)
    y[:, 2], y[:, 3] = 1, 0
    scored = out_of_fold.out_of_fold(texts, y, LabelSet("multilabel", LABELS), WORDS, 4, 1)
    assert scored.judged.all(axis=0).tolist() == [True, True, False, False]
    assert (scored.probabilities[:, 2] == 1).all()
    assert (scored.probabilities[:, 3] == 0).all()


def test_rows_of_one_unit_cannot_be_divided() -> None:
    with pytest.raises(UserError, match=r"audit\.folds: the 3 rows"):
        out_of_fold.assign_folds(np.array([0, 1, 1]), 2, 5, 1, np.zeros(3, np.int64))


def test_units_are_near_duplicates_and_groups() -> None:
    same = "no ha llegado la pensión de este mes y nadie responde el teléfono"
    values = [
        (same, "a"),
        ("luz cortada", "b"),
        (same.upper(), None),
        ("calle sucia hoy", "a"),
        ("otro", None),
    ]
    rows = pa.Table.from_pylist(
        [
            {"id": str(i), "source": "s", "text": text, "labels": ["x"], "group": group}
            for i, (text, group) in enumerate(values)
        ],
        schema=table.SCHEMA,
    )
    assert out_of_fold.find_units(rows, SplitParams()).tolist() == [0, 1, 0, 0, 4]
    assert out_of_fold.find_units(rows, SplitParams(method="stratified")).tolist() == [0, 1, 0, 3, 4]
    assert out_of_fold.find_units(rows, SplitParams(near_duplicates=None)).tolist() == [0, 1, 2, 0, 4]


def test_predictions_are_put_in_the_order_of_the_rows() -> None:
    labels = LabelSet("multiclass", ("a", "b"))
    probabilities = np.array([[0.25, 0.75], [0.5, 0.5], [1, 0]], dtype=np.float32)
    truth = np.array([0, 1, 0])
    predictions = prediction_table(
        labels,
        {
            "validation": (["v"], truth[:1], truth[:1], probabilities[:1]),
            "test": (["t2", "t1"], truth[1:], truth[1:], probabilities[1:]),
        },
    )
    aligned = out_of_fold.align_predictions(["t1", "train", "v", "t2"], predictions)
    np.testing.assert_array_equal(aligned, [[1, 0], [np.nan, np.nan], [0.25, 0.75], [0.5, 0.5]])
    with pytest.raises(UserError, match="id t2 is in no split"):
        out_of_fold.align_predictions(["t1", "v"], predictions)


# -------------------------------------------------------------------------------- likely label errors


@needs_cleanlab
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_planted_errors_are_found(task: Task) -> None:
    texts, y = toy(task, 320)
    noisy, wrong = with_errors(y, 0.1)
    doubted = doubted_rows(task, texts, noisy)
    hits = len(doubted & wrong)
    assert hits / len(doubted) > 0.8
    assert hits / len(wrong) > 0.8


@needs_cleanlab
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_hardly_a_row_is_doubted_where_all_labels_are_right(task: Task) -> None:
    texts, y = toy(task, 240)
    assert len(doubted_rows(task, texts, y)) <= 0.03 * len(y)


@needs_cleanlab
def test_confident_learning_by_hand() -> None:
    # Mean self-confidence: class 0 (0.9 + 0.8 + 0.1) / 3 = 0.6, class 1 (0.8 + 0.6 + 0.4) / 3 = 0.6. Row 2 is
    # given 0 and 1 at 0.9 >= 0.6, so it is doubted; row 5 is given 1 and 0 at 0.6 >= 0.6, so it is too.
    one = np.array([0.1, 0.2, 0.9, 0.8, 0.6, 0.4])
    y, probabilities = np.array([0, 0, 0, 1, 1, 1]), np.stack([1 - one, one], axis=1)
    opinion = label_errors.confident_learning(y, probabilities, "multiclass", filter_by="confident_learning")
    assert opinion.doubted.nonzero()[0].tolist() == [2, 5]
    assert opinion.doubted.nonzero()[1].tolist() == [0, 1]
    np.testing.assert_allclose(opinion.quality, [0.9, 0.8, 0.1, 0.8, 0.6, 0.4])


@needs_cleanlab
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999), rows=st.integers(1, 40), width=st.integers(2, 5))
def test_the_margin_is_cleanlabs_and_unjudged_rows_stay_out(seed: int, rows: int, width: int) -> None:
    from cleanlab.rank import get_label_quality_scores

    draw = np.random.default_rng(seed)
    y, probabilities = draw.integers(0, width, rows), draw.dirichlet(np.ones(width), rows)
    unknown = draw.random(rows) < 0.2
    probabilities[unknown] = np.nan
    opinion = label_errors.confident_learning(y, probabilities, "multiclass")
    assert np.array_equal(opinion.judged, ~unknown)
    assert np.array_equal(np.isnan(opinion.quality), unknown)
    assert not opinion.doubted[unknown].any()
    assert (opinion.doubted.sum(axis=1) <= (probabilities.argmax(axis=1) != y)).all()
    if len(np.unique(y[~unknown])) > 1:
        expected = get_label_quality_scores(y[~unknown], probabilities[~unknown], method="normalized_margin")
        np.testing.assert_allclose(opinion.quality[~unknown], expected, atol=1e-12)


@needs_cleanlab
@pytest.mark.parametrize("width", [1, 3])
def test_multilabel_doubts_name_the_label(width: int) -> None:
    draw = np.random.default_rng(3)
    y = (draw.random((60, width)) < 0.4).astype(np.int8)
    probabilities = np.where(y == 1, 0.95, 0.05) + draw.uniform(-0.04, 0.04, y.shape)
    probabilities[7, 0] = 0.995 if y[7, 0] else 0.005  # surer than the model is on average
    y[7, 0] ^= 1
    opinion = label_errors.confident_learning(y, probabilities, "multilabel")
    assert np.argwhere(opinion.doubted).tolist() == [[7, 0]]
    np.testing.assert_allclose(opinion.quality[7], 0.005)
    assert opinion.quality.argmin() == 7
    unjudged = np.ones(y.shape, dtype=bool)
    unjudged[7, 0] = False
    opinion = label_errors.confident_learning(y, probabilities, "multilabel", unjudged)
    assert not opinion.doubted.any()
    assert opinion.quality.argmin() != 7


@needs_cleanlab
def test_nothing_to_tell_apart_is_no_error() -> None:
    alone = label_errors.confident_learning(np.zeros(3, np.int64), np.tile([0.4, 0.6], (3, 1)), "multiclass")
    assert not alone.doubted.any()
    nothing = label_errors.confident_learning(np.zeros((3, 2), np.int8), np.full((3, 2), 0.5), "multilabel")
    assert not nothing.doubted.any()
    unseen = label_errors.confident_learning(np.zeros(3, np.int64), np.full((3, 2), np.nan), "multiclass")
    assert not unseen.judged.any()


def test_without_cleanlab_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    with pytest.raises(UserError, match=r'pip install "afina\[pipeline\]"'):
        label_errors.confident_learning(np.array([0, 1]), np.full((2, 2), 0.5), "multiclass")


# ------------------------------------------------------------------------------------------- the list


def opinion(probabilities: list[list[float]], doubted: list[tuple[int, int]]) -> Opinion:
    values = np.array(probabilities)
    cells = np.zeros(values.shape, dtype=bool)
    for row, label in doubted:
        cells[row, label] = True
    judged = np.isfinite(values).all(axis=1)
    return Opinion(values, judged, cells, np.where(judged, values[:, 0], np.nan))


def test_the_order_of_the_list() -> None:
    # All rows are given label 0, whose probability is the quality here. "second" does not know rows 0 and 4.
    unknown = [np.nan] * 3
    first = opinion(
        [[0.1, 0.7, 0.2], [0.3, 0.5, 0.2], [0.1, 0.6, 0.3], [0.8, 0.1, 0.1], [0.2, 0.1, 0.7]],
        [(0, 0), (1, 0), (2, 0), (4, 0)],
    )
    second = opinion([unknown, [0.2, 0.1, 0.7], [0.5, 0.3, 0.2], [0.9, 0.1, 0.0], unknown], [(1, 0)])
    opinions = {"linear": first, "fine_tuned": second}
    texts = ["a", "b  b\nb", "c", "d", "e"]
    given = [*"vwxyz"], ["train", "test", "test", "test", "train"], texts, np.zeros(5, np.int64), "ABC"
    by_votes = label_errors.rank_doubts(*given, opinions, limit=9, rank_by="votes")
    assert [doubt.id for doubt in by_votes] == ["w", "v", "z", "x"]
    unanimous = label_errors.rank_doubts(*given, opinions, limit=9)
    assert [doubt.id for doubt in unanimous] == ["v", "z", "w", "x"]
    # The means of both are 0.25 for A, 0.3 for B and 0.45 for C.
    assert by_votes[0] == label_errors.Doubt("w", "test", "A", "C", 0.25, "linear|fine_tuned", "", "b b b")
    assert by_votes[3] == label_errors.Doubt("x", "test", "A", "B", 0.3, "linear", "fine_tuned", "c")
    assert (by_votes[1].doubted_by, by_votes[1].accepted_by) == ("linear", "")
    assert label_errors.rank_doubts(*given, opinions, limit=2) == unanimous[:2]


def test_multilabel_changes_what_most_models_doubt() -> None:
    y = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0]], dtype=np.int8)
    numbers = [[0.5, 0.5, 0.5]] * 3
    opinions = {
        "linear": opinion(numbers, [(0, 0), (0, 1), (1, 2), (2, 0)]),
        "fine_tuned": opinion(numbers, [(0, 1), (1, 0)]),
    }
    doubts = label_errors.rank_doubts("xyz", ["test"] * 3, "xyz", y, "ABC", opinions, limit=9)
    found = [(doubt.id, doubt.given, doubt.suggested, doubt.doubted_by) for doubt in doubts]
    # x: both doubt that B is missing; y: one doubts A, the other that C is missing; z: no label is left
    assert found == [
        ("x", "A", "A|B", "linear|fine_tuned"),
        ("y", "A|B", "B|C", "linear|fine_tuned"),
        ("z", "A", "(none)", "linear"),
    ]


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 9999), rows=st.integers(1, 20), limit=st.integers(0, 25))
def test_a_label_that_two_models_doubt_is_above_one_that_one_does(seed: int, rows: int, limit: int) -> None:
    draw = np.random.default_rng(seed)
    y = draw.integers(0, 3, rows)
    opinions = {}
    for name in ("linear", "fine_tuned"):
        probabilities = draw.dirichlet(np.ones(3), rows)
        judged = draw.random(rows) < 0.7
        doubted = (np.arange(3) == y[:, None]) & (judged & (draw.random(rows) < 0.5))[:, None]
        opinions[name] = Opinion(probabilities, judged, doubted, np.where(judged, draw.random(rows), np.nan))
    ids = [f"{row:02}" for row in range(rows)]
    doubts = label_errors.rank_doubts(ids, ["test"] * rows, ids, y, "ABC", opinions, limit, "votes")
    votes = sum(o.doubted.any(axis=1).astype(int) for o in opinions.values())
    assert len(doubts) == min(limit, int((votes > 0).sum()))
    assert len({doubt.id for doubt in doubts}) == len(doubts)
    order = [-int(votes[int(doubt.id)]) for doubt in doubts]
    assert order == sorted(order)
    assert all(doubt.given == "ABC"[y[int(doubt.id)]] != doubt.suggested for doubt in doubts)
    assert all(doubt.doubted_by.count("|") + 1 == votes[int(doubt.id)] for doubt in doubts)


def test_scores_against_truth_by_hand() -> None:
    scores = label_errors.score_against_truth([*"abcde"], {"a", "c", "x", "y"}, [3, 1, 99])
    assert [(s.rows, s.hits) for s in scores] == [(1, 1), (3, 2), (5, 2)]
    assert [s.precision for s in scores] == [1.0, 2 / 3, 0.4]
    assert [s.recall for s in scores] == [0.25, 0.5, 0.5]
    assert label_errors.score_against_truth([], {"a"}) == [label_errors.ListScore(0, 0, 0.0, 0.0)]
    assert label_errors.score_against_truth(["a"], []) == [label_errors.ListScore(1, 0, 0.0, 0.0)]


@given(
    listed=st.lists(st.integers(0, 50), unique=True, max_size=40),
    wrong=st.sets(st.integers(0, 50), min_size=1),
    lengths=st.lists(st.integers(0, 60), max_size=5),
)
def test_a_longer_list_never_finds_less(listed: list[int], wrong: set[int], lengths: list[int]) -> None:
    scores = label_errors.score_against_truth(list(map(str, listed)), set(map(str, wrong)), lengths)
    assert scores[-1].rows == len(listed)
    assert scores[-1].hits == len(wrong & set(listed))
    assert (np.diff([s.rows for s in scores]) > 0).all()
    assert (np.diff([s.recall for s in scores]) >= 0).all()
    assert all(0 <= s.precision <= 1 and s.recall <= 1 for s in scores)


# ------------------------------------------------------------------------ labels that look like one class


def test_confusion_shares_by_hand() -> None:
    y, predicted = np.array([0, 0, 0, 0, 1, 1, 2]), np.array([0, 1, 1, 2, 1, 0, 2])
    np.testing.assert_allclose(
        label_pairs.confusion_shares(y, np.eye(4)[predicted], predicted),
        [[0, 0.5, 0.25, 0], [0.5, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
    )
    # Of A's four rows: B in place of A; B beside A and more probable; C beside A and less so; nothing.
    y = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=np.int8)
    probabilities = np.array(
        [[0.2, 0.6, 0.1], [0.6, 0.7, 0.1], [0.9, 0.1, 0.6], [0.3, 0.1, 0.1], [0.1, 0.8, 0.1]]
    )
    predicted = (probabilities > 0.5).astype(np.int8)
    np.testing.assert_allclose(
        label_pairs.confusion_shares(y, probabilities, predicted), [[0, 0.5, 0], [0, 0, 0], [0, 0, 0]]
    )


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_shares_of_a_label_are_what_it_misses(pairs: list[tuple[int, int]]) -> None:
    y, predicted = np.array(pairs).T
    shares = label_pairs.confusion_shares(y, np.eye(5)[predicted], predicted)
    counts = count(y, predicted, 5)
    np.testing.assert_allclose(
        shares.sum(axis=1), np.where(counts.support > 0, 1 - counts.recall, 0), atol=1e-12
    )
    assert (shares.diagonal() == 0).all()


def test_centroid_similarity_by_hand() -> None:
    vectors = np.array([[2.0, 0], [0, 5], [0, 1], [3, 0]])
    y = np.array([0, 0, 1, 2])
    half = np.sqrt(0.5)
    expected = [[1, half, half, 0], [half, 1, 0, 0], [half, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(label_pairs.centroid_similarity(vectors, y, 4), expected, atol=1e-12)
    np.testing.assert_allclose(
        label_pairs.centroid_similarity(sparse.csr_matrix(vectors), y, 4), expected, atol=1e-12
    )
    both = np.array([[1, 1], [1, 0], [0, 1], [0, 0]], dtype=np.int8)
    # A has (1, 0) and (0, 1), B has (1, 0) and (0, 1)
    np.testing.assert_allclose(label_pairs.centroid_similarity(vectors, both, 2), np.ones((2, 2)))


def test_merging_by_hand() -> None:
    y = np.array([0, 1, 2, 2])
    probabilities = np.array([[0.3, 0.3, 0.4], [0.6, 0.2, 0.2], [0, 0, 1], [0.2, 0.2, 0.6]])
    predicted = label_pairs.predicted_labels(y, probabilities, "multiclass")
    assert predicted.tolist() == [2, 0, 2, 2]
    # 0 and 1 together: 0.6 beats 0.4 in the first row, and the second is right, so all four are
    assert label_pairs.macro_f1_of_merged(y, probabilities, predicted, 0, 1) == 1.0
    assert label_pairs.macro_f1_of_merged(y, probabilities, predicted, 1, 0) == 1.0
    y = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=np.int8)
    predicted = np.array([[0, 1, 0], [1, 1, 0], [0, 0, 0]], dtype=np.int8)
    merged = label_pairs.macro_f1_of_merged(y, probabilities[:3], predicted, 0, 1)
    assert merged == 0.5  # 1 for the merged label, 0 for the third
    assert y.tolist() == np.eye(3).tolist()  # what was given is left as it was


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_a_class_divided_by_lot_is_found_whatever_the_sizes(task: Task) -> None:
    texts, y = toy(task, 400)
    labels = LabelSet(task, (*LABELS, "luz bis"))
    lot = np.random.default_rng(5).random(len(y)) < 0.3
    if task == "multiclass":
        y = np.where((y == 1) & lot, 4, y)
    else:
        moved = (y[:, 1] == 1) & lot
        y = np.column_stack([y, moved.astype(np.int8)])
        y[moved, 1] = 0
    scored = out_of_fold.out_of_fold(texts, y, labels, WORDS, 4, 1)
    similarity = label_pairs.centroid_similarity(label_pairs.embed_words(texts, WORDS), y, 5)
    pairs = label_pairs.similar_labels(y, scored.probabilities, similarity, labels.labels, task, limit=3)
    assert (pairs[0].label, pairs[0].other) == ("luz bis", "luz")
    assert pairs[0].label_rows < pairs[0].other_rows
    assert pairs[0].score > 0.7
    assert pairs[0].similarity > 0.7
    assert pairs[0].macro_f1_change > 0.1
    assert "merge" in pairs[0].suggestion
    assert all(pair.score < 0.3 for pair in pairs[1:])
    few = label_pairs.similar_labels(
        y, scored.probabilities, similarity, labels.labels, task, 3, min_score=0.5
    )
    assert few == pairs[:1]


def test_what_is_suggested() -> None:
    # 20 of A and 80 of B; 6 of A are taken for B: it disappears in B. With 2 of A they overlap.
    y = np.repeat([0, 1], [20, 80])
    similarity = np.ones((2, 2))
    for lost, words in ((6, "'A' disappears in 'B'"), (2, "they overlap"), (12, "hardly told apart")):
        said = np.where(np.arange(100) < lost, 1, y)
        (pair,) = label_pairs.similar_labels(y, np.eye(2)[said], similarity, "AB", "multiclass", 9)
        assert words in pair.suggestion
        assert (pair.label_as_other, pair.other_as_label) == (lost / 20, 0)
        assert pair.score == pytest.approx(np.sqrt(lost / 20), abs=1e-4)
    assert not label_pairs.similar_labels(y, np.eye(2)[y], similarity, "AB", "multiclass", 9)


def test_texts_without_usable_words_are_compared_by_their_letters() -> None:
    texts = ["自来水没有了", "自来水漏水", "停电了路灯"]
    assert label_pairs.embed_words(texts, BaselineParams(char_ngrams=(1, 2))).shape[1] > 2
    with pytest.raises(UserError, match=r"baseline\.min_df"):
        label_pairs.embed_words(["uno", "dos"], WORDS)
