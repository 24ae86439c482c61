"""The lexical model: one arithmetic in numpy, torch and ONNX, and what it learns from toy messages."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from afina.export import graph
from afina.labels import LabelSet, Task, encode_labels
from afina.modeling import lexical
from afina.modeling.backbone import load_tokenizer
from afina.modeling.classifier import TextClassifier, load_pretrained
from afina.modeling.inference import in_batches
from afina.modeling.lexical import (
    Features,
    LexicalScorer,
    LexicalTables,
    bucket_count,
    calibration_loss,
    fit_combination,
    fit_lexical,
    gram_hashes,
    token_codes,
)
from afina.params.train import TrainParams
from afina.progress import Progress
from afina.runtime.classifier import Classifier
from afina.runtime.encoding import Encoder, Ids, pad_batch
from afina.training.engine import Examples
from afina.training.lexical import cut, fit_on_examples, lexical_logits
from tiny import FILLER, KEYWORDS, LABELS, build_tiny_backbone, tiny_messages
from toy_artifact import toy_metadata

LARGEST = 300_000  # tokens; no supported backbone has more
PAD = 0
FIRST, LAST = 1, 2  # around every message
WORDS = {word: 3 + number for number, word in enumerate(" ".join((FILLER, *KEYWORDS)).split())}


def score(scorer: LexicalScorer, texts: Sequence[Ids], width: int = 1) -> npt.NDArray[np.float32]:
    """Logits of one batch, padded to a multiple of ``width``."""
    with torch.no_grad():
        return scorer(*map(torch.from_numpy, pad_batch(texts, PAD, width))).numpy()


def random_texts(count: int, vocabulary: int, seed: int = 0, lengths: tuple[int, int] = (1, 40)) -> list[Ids]:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, vocabulary, size=draw.integers(*lengths, endpoint=True)) for _ in range(count)]


def random_scorer(order: int, vocabulary: int, buckets: int = 4096, labels: int = 3) -> LexicalScorer:
    """Any tables; the last column, of squares, is positive."""
    draw = np.random.default_rng(order)
    tables = [draw.normal(size=(rows, labels + 1)).astype(np.float32) for rows in (vocabulary, buckets)]
    for table in tables:
        table[:, -1] = np.abs(table[:, -1])
    bias = draw.normal(size=labels).astype(np.float32)
    return LexicalScorer.from_tables(LexicalTables(*tables, bias), order)


def encoded(task: Task, n: int, seed: int = 0) -> tuple[list[Ids], npt.NDArray[Any]]:
    """Toy messages, a token a word, and their targets."""
    table = tiny_messages(task, n, seed=seed)
    texts = [
        np.array([FIRST, *(WORDS[word] for word in text.split()), LAST]) for text in table["text"].to_pylist()
    ]
    return texts, encode_labels(table["labels"], LABELS, task)


def fitted(
    texts: Sequence[Ids], targets: npt.NDArray[Any], task: Task, order: int = 2, **options: Any
) -> LexicalTables:
    width = len(LABELS) if task == "multiclass" else targets.shape[1]
    weights = {"label_weights": np.ones(width), "row_weights": np.ones(len(texts))} | options
    return fit_lexical(texts, targets, task, vocabulary=len(WORDS) + 3, order=order, **weights)


def assert_same(one: LexicalTables, other: LexicalTables) -> None:
    for name in ("tokens", "grams", "bias"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


# ---------------------------------------------------------------------------------------- hashes


def code_by_hand(token: int, place: int) -> int:
    """SplitMix64 in Python's integers, which have no end."""
    state = (token * 256 + place + 1) * 0x9E3779B97F4A7C15 % 2**64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ state >> shift) * factor % 2**64
    return state ^ state >> 31


def bucket_by_hand(gram: Sequence[int], buckets: int) -> int:
    return sum(code_by_hand(token, place) % buckets for place, token in enumerate(gram)) % buckets


def test_the_codes_are_those_of_splitmix() -> None:
    # The generator's published first numbers from the seed 0.
    assert token_codes(1, 3)[0].tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    codes = token_codes(LARGEST, 5)
    assert len(np.unique(codes)) == codes.size
    for token in (0, 1, 2146, LARGEST - 1):
        assert codes[token].tolist() == [code_by_hand(token, place) for place in range(5)]


@given(
    ids=st.lists(st.sampled_from([0, 1, 2146, 2148, 30_000, LARGEST - 1]), max_size=8),
    order=st.integers(1, 5),
)
def test_an_n_grams_hash_is_the_sum_of_its_codes(ids: list[int], order: int) -> None:
    grams = [ids[start : start + order] for start in range(len(ids) - order + 1)]
    found = gram_hashes(np.array(ids, dtype=np.int64), largest_codes(), order)
    assert found.tolist() == [
        sum(code_by_hand(token, place) for place, token in enumerate(gram)) % 2**64 for gram in grams
    ]


@cache
def largest_codes() -> npt.NDArray[np.uint64]:
    return token_codes(LARGEST, 5)


def test_float32_finds_the_same_rows() -> None:
    """Some execution providers compute remainders in it; it is exact up to 2^24."""
    scorer = LexicalScorer(LARGEST, 2**18, 1, 5)
    ids = np.random.default_rng(0).integers(0, LARGEST, size=20_000)
    codes = scorer.codes.numpy().astype(np.float32)
    assert codes.max() >= 2**18 - 10
    for order, rows in enumerate(scorer.rows(torch.from_numpy(ids)[None]), start=2):
        hashes = gram_hashes(ids, codes, order)
        assert hashes.dtype == np.float32
        np.testing.assert_array_equal(rows[0, : len(hashes)], hashes % np.float32(2**18))


@cache
def counting_scorer(order: int) -> LexicalScorer:
    """Its logits are how often each of 16 buckets is met, over the root of the number of tokens."""
    scorer = LexicalScorer(LARGEST, 16, 16, order)
    scorer.grams[:, :-1] = torch.eye(16)
    scorer.tokens[:, -1] = 1.0
    return scorer


@settings(deadline=None)
@given(
    ids=st.lists(st.sampled_from([0, 1, 2146, 2148, 30_000, LARGEST - 1]), min_size=1, max_size=8),
    order=st.integers(1, 5),
)
def test_the_scorer_looks_up_the_same_rows(ids: list[int], order: int) -> None:
    expected = np.zeros(16)
    for size in range(2, order + 1):
        for start in range(len(ids) - size + 1):
            expected[bucket_by_hand(ids[start : start + size], 16)] += 1
    found = score(counting_scorer(order), [np.array(ids)])[0]
    np.testing.assert_allclose(found * np.sqrt(len(ids)), expected, rtol=1e-5)


# ------------------------------------------------------------------------------------- features


def test_frequencies_and_lengths_by_hand() -> None:
    features = Features(2, 4096, 10)
    features.fit([np.array(ids) for ids in ([5, 6], [5, 7], [5, 6])])
    rows = [bucket_by_hand(gram, 4096) for gram in ([5], [6], [7], [5, 6], [5, 7])]
    assert len(set(rows)) == 5
    # 5 is in three texts of three, 6 and "5 6" in two; what is in one text says nothing.
    often, twice = 1.0, np.log(4 / 3) + 1
    np.testing.assert_allclose(features.idf[rows], [often, twice, 0, twice, 0])
    vector = features.transform([np.array([5, 6, 6, 7])]).toarray()[0]
    length = np.sqrt(often**2 + 2 * twice**2 + twice**2)
    np.testing.assert_allclose(vector[rows], np.array([often, 2 * twice, 0, twice, 0]) / length)
    assert np.count_nonzero(vector) == 3


def test_texts_shorter_than_the_n_grams() -> None:
    features = Features(4, 4096, 10)
    found = features.counts([np.array(ids, dtype=np.int64) for ids in ([], [5], [5, 6], [5, 6, 7])])
    assert found.sum(axis=1).ravel().tolist() == [[0, 1, 3, 6]]
    scorer = random_scorer(4, 10)
    row = scorer.tokens[5].numpy()
    expected = row[:-1] / np.sqrt(row[-1]) + scorer.bias.numpy()
    np.testing.assert_allclose(score(scorer, [np.array([5])])[0], expected, rtol=1e-5)


def test_a_text_without_a_token_scores_the_bias() -> None:
    scorer = random_scorer(3, 10)
    for texts in ([np.array([], dtype=np.int64)], [np.array([], dtype=np.int64), np.array([5, 6])]):
        np.testing.assert_array_equal(score(scorer, texts)[0], scorer.bias.numpy())


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("width", [1, 64])
def test_the_scorer_is_features_times_coefficients(
    order: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(order)
    texts, others = random_texts(200, 60, seed=1), random_texts(50, 60, seed=2)
    pieces = {50: [3, 4, 5], 51: [6], 52: [7, 7]}
    slopes: npt.NDArray[np.float64] = np.empty(0)
    bias = draw.normal(size=4)

    def any_coefficients(matrix: Any, *_: Any) -> Any:
        nonlocal slopes
        slopes = draw.normal(size=(4, matrix.shape[1]))
        return np.arange(4), slopes, bias

    monkeypatch.setattr(lexical, "_logistic", any_coefficients)
    targets = np.arange(200) % 4
    tables = fit_lexical(
        texts, targets, "multiclass", np.ones(4), np.ones(200), 60, order=order, pieces=pieces
    )
    features = Features(order, len(tables.grams), 60, pieces)
    features.fit(texts)
    expected = features.transform(others) @ slopes.T + bias
    np.testing.assert_allclose(
        score(LexicalScorer.from_tables(tables, order), others, width), expected, atol=1e-4
    )


@settings(deadline=None, max_examples=60)
@given(
    texts=st.lists(st.lists(st.integers(0, 49), min_size=1, max_size=12), min_size=1, max_size=6),
    order=st.integers(1, 5),
    width=st.integers(1, 40),
)
def test_neither_padding_nor_neighbours_matter(texts: list[list[int]], order: int, width: int) -> None:
    scorer = random_scorer(order, 50)
    rows = [np.array(ids) for ids in texts]
    alone = np.concatenate([score(scorer, [ids]) for ids in rows])
    np.testing.assert_allclose(score(scorer, rows, width), alone, atol=1e-4)
    np.testing.assert_allclose(score(scorer, rows[::-1], width)[::-1], alone, atol=1e-4)


def test_a_new_token_brings_what_its_pieces_did_inside_a_word() -> None:
    features = Features(3, 4096, 10, {9: [3, 4, 5], 8: [7, 7]})
    grams = [[9], [3], [4], [5], [3, 4], [4, 5], [3, 4, 5]]
    rows = [bucket_by_hand(gram, 4096) for gram in grams]
    assert len(set(rows)) == len(rows)
    assert features.inside[9].nnz == len(rows)
    assert features.inside[9].toarray()[0, rows].tolist() == [1.0] * len(rows)
    twice = features.inside[8].toarray()[0]
    assert twice[bucket_by_hand([7], 4096)] == 2.0
    assert twice.sum() == 4.0  # itself, 7, 7, "7 7"
    assert features.inside[3].nnz == 1
    assert Features(1, 4096, 10, {9: [3, 4, 5]}).inside[9].sum() == 4.0


def test_a_token_never_seen_scores_as_its_pieces() -> None:
    texts = random_texts(300, 8, lengths=(3, 9))
    targets = np.array([int(3 in ids) for ids in texts])
    new = 9
    tables = fit_lexical(
        texts, targets, "multiclass", np.ones(2), np.ones(300), 10, pieces={new: [3, 4, 5], 8: [6, 4]}
    )
    whole, cut_up = np.array([new]), np.array([3, 4, 5])
    scores = score(LexicalScorer.from_tables(tables, 3), [whole, cut_up, np.array([8]), np.array([6, 4])])
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)
    np.testing.assert_allclose(scores[2], scores[3], atol=1e-4)
    assert scores[0, 1] > scores[2, 1] + 1


# -------------------------------------------------------------------------------------- buckets


@pytest.mark.parametrize(
    ("grams", "labels", "expected"),
    [
        (0, 2, 4096),
        (2048, 2, 4096),
        (4096, 2, 8192),
        (4097, 2, 16_384),
        (10**9, 2, 2**18),
        (10**9, 63, 2**18),  # 64 columns of 4 bytes: 64 MB sharp
        (10**9, 64, 2**17),
        (10**9, 1000, 2**14),
    ],
)
def test_number_of_buckets(grams: int, labels: int, expected: int) -> None:
    assert bucket_count(grams, labels) == expected


@given(grams=st.integers(0, 10**7), labels=st.integers(1, 20_000))
def test_buckets_are_a_power_of_two_within_64_mb(grams: int, labels: int) -> None:
    found = bucket_count(grams, labels)
    assert found & (found - 1) == 0
    assert found * (labels + 1) * 4 <= 64 * 2**20
    at_most = found == 2**18 or 2 * found * (labels + 1) * 4 > 64 * 2**20
    assert found >= 2 * grams or at_most
    assert found < 4 * max(grams, 1025)


# ---------------------------------------------------------------------------------------- fitting


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("order", [1, 3])
def test_it_learns_the_words_of_each_label(task: Task, order: int) -> None:
    texts, targets = encoded(task, 150)
    held_out, truth = encoded(task, 60, seed=1)
    tables = fitted(texts, targets, task, order)
    logits = score(LexicalScorer.from_tables(tables, order), held_out)
    answers = logits.argmax(axis=1) if task == "multiclass" else logits > 0
    assert (answers == truth).mean() > 0.95


def test_the_fit_goes_to_its_end() -> None:
    """Many rare n-grams make the slope of the loss flat far from its minimum."""
    draw, count, vocabulary = np.random.default_rng(0), 600, 1000
    common = 1 / np.arange(1, vocabulary + 1)
    targets = draw.integers(0, 4, count)
    texts = draw.choice(vocabulary, size=(count, 12), p=common / common.sum())
    telling = vocabulary - 1 - targets * 40 - draw.integers(0, 40, count)
    texts[np.arange(count), draw.integers(0, 12, count)] = telling
    matrix = Features(2, 2**13, vocabulary).fit(list(texts))

    def loss(slopes: npt.NDArray[np.float64], offsets: npt.NDArray[np.float64]) -> float:
        logs = log_softmax(matrix @ slopes.T + offsets, axis=1)[np.arange(count), targets]
        return float(-10.0 * logs.sum() + 0.5 * (slopes**2).sum())

    _, *fitted = lexical._logistic(matrix, targets, 10.0, np.ones(count))
    best = LogisticRegression(C=10.0, tol=1e-8, max_iter=3000).fit(matrix, targets)
    assert loss(*fitted) <= 1.001 * loss(best.coef_, best.intercept_)


def test_equal_inputs_give_equal_tables() -> None:
    texts, targets = encoded("multiclass", 60)
    first, again = fitted(texts, targets, "multiclass"), fitted(texts, targets, "multiclass")
    assert_same(first, again)
    assert {part.dtype for part in (first.tokens, first.grams, first.bias)} == {np.dtype(np.float32)}
    assert first.tokens.shape == (len(WORDS) + 3, 4)
    assert first.grams.shape == (4096, 4)


def test_two_classes_get_half_the_log_odds_each() -> None:
    texts, targets = encoded("multiclass", 90)
    texts, targets = [ids for ids, t in zip(texts, targets, strict=True) if t < 2], targets[targets < 2]
    tables = fit_lexical(texts, targets, "multiclass", np.ones(2), np.ones(len(texts)), len(WORDS) + 3)
    logits = score(LexicalScorer.from_tables(tables, 3), texts)
    np.testing.assert_allclose(logits.sum(axis=1), 0, atol=1e-5)
    assert (logits.argmax(axis=1) == targets).all()
    # As one yes or no about the second class, whose logit is the whole of the log odds.
    single = fit_lexical(
        texts, targets[:, None], "multilabel", np.ones(1), np.ones(len(texts)), len(WORDS) + 3
    )
    odds = score(LexicalScorer.from_tables(single, 3), texts)[:, 0]
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], odds, atol=1e-4)


@pytest.mark.parametrize("found", [[0, 2], [0, 2, 3]])
def test_a_class_without_a_text_is_never_predicted(found: list[int]) -> None:
    texts, targets = encoded("multiclass", 90)
    kept = [(ids, found[t]) for ids, t in zip(texts, targets, strict=True) if t < len(found)]
    codes = np.array([code for _, code in kept])
    tables = fit_lexical(
        [ids for ids, _ in kept], codes, "multiclass", np.ones(5), np.ones(len(kept)), len(WORDS) + 3
    )
    logits = score(LexicalScorer.from_tables(tables, 3), random_texts(500, len(WORDS) + 3))
    absent = np.setdiff1d(np.arange(5), found)
    assert (logits[:, absent].max(axis=1) < logits[:, found].max(axis=1) - 9).all()
    assert len(np.unique(logits.argmax(axis=1))) == len(found)


def test_a_label_of_all_texts_or_of_none_scores_the_same_everywhere() -> None:
    texts, targets = encoded("multilabel", 60)
    targets[:, 0], targets[:, 2] = 1, 0
    logits = score(LexicalScorer.from_tables(fitted(texts, targets, "multilabel"), 2), random_texts(40, 60))
    assert np.unique(logits[:, 0]).tolist() == [10.0]
    assert np.unique(logits[:, 2]).tolist() == [-10.0]
    assert len(np.unique(logits[:, 1])) > 30


def test_a_weight_of_a_row_is_how_often_it_counts() -> None:
    texts, targets = encoded("multiclass", 60)
    matrix = Features(2, 4096, len(WORDS) + 3).fit(texts)
    times = np.tile([0, 1, 3, 1, 0], 12)  # 60 rows again, or regularisation would act otherwise
    repeated = np.repeat(np.arange(60), times)
    weighted = lexical._logistic(matrix, targets, 1.0, times.astype(np.float64))
    copies = lexical._logistic(matrix[repeated], targets[repeated], 1.0, np.ones(60))
    plain = lexical._logistic(matrix, targets, 1.0, np.ones(60))
    for one, other in zip(weighted, copies, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert np.abs(weighted[1] - plain[1]).max() > 0.1


def test_weights_are_relative() -> None:
    texts, targets = encoded("multilabel", 60)
    rows = np.linspace(0.5, 1.5, 60)
    one = fitted(texts, targets, "multilabel", row_weights=rows)
    other = fitted(texts, targets, "multilabel", row_weights=100 * rows)
    for name in ("tokens", "grams", "bias"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-4)


def test_the_weight_of_a_class_is_that_of_its_rows() -> None:
    texts, targets = encoded("multiclass", 60)
    by_class = fitted(texts, targets, "multiclass", label_weights=np.array([3.0, 1.0, 0.5]))
    by_row = fitted(texts, targets, "multiclass", row_weights=np.array([3.0, 1.0, 0.5])[targets])
    assert_same(by_class, by_row)
    plain = fitted(texts, targets, "multiclass")
    assert by_class.bias[0] - by_class.bias[2] > plain.bias[0] - plain.bias[2] + 0.1


def test_the_weight_of_a_label_is_that_of_its_positives_alone() -> None:
    texts, targets = encoded("multilabel", 60)
    by_label = fitted(texts, targets, "multilabel", label_weights=np.array([3.0, 1.0, 1.0]))
    by_row = fitted(texts, targets, "multilabel", row_weights=np.where(targets[:, 0] == 1, 3.0, 1.0))
    plain = fitted(texts, targets, "multilabel")
    for name in ("tokens", "grams", "bias"):
        found, rows, without = (getattr(tables, name) for tables in (by_label, by_row, plain))
        np.testing.assert_array_equal(found[..., 0], rows[..., 0])
        np.testing.assert_array_equal(found[..., 1:], without[..., 1:])
    assert by_label.bias[0] > plain.bias[0] + 0.1


# --------------------------------------------------------------------------------- the combination


def accuracy(targets: npt.NDArray[np.int64]) -> Any:
    return lambda logits: float((logits.argmax(axis=1) == targets).mean())


def opinion(targets: npt.NDArray[np.int64], seed: int, signal: float = 1.5) -> npt.NDArray[np.float32]:
    """Logits that are the true log odds, up to a constant, of unit normal evidence for each of 3 classes."""
    evidence = np.random.default_rng(seed).normal(size=(len(targets), 3))
    evidence[np.arange(len(targets)), targets] += signal
    return (signal * evidence).astype(np.float32)


def test_noise_gets_next_to_no_say() -> None:
    targets = np.arange(1500) % 3
    good, noise = opinion(targets, 1), 3 * opinion(np.zeros(1500, dtype=np.int64), 2, 1.0)
    one, other = fit_combination(good, noise, targets, "multiclass", accuracy(targets))
    assert 0 <= other < 0.15 * one
    one, other = fit_combination(noise, good, targets, "multiclass", accuracy(targets))
    assert 0 <= one < 0.15 * other


def test_independent_evidence_adds_up_and_the_scale_is_mended() -> None:
    targets = np.arange(3000) % 3
    first, second = opinion(targets, 1), opinion(targets, 2)
    # Both are log odds of independent evidence, the first one five times too sure of itself.
    one, other = fit_combination(5 * first, second, targets, "multiclass", accuracy(targets))
    assert 5 * one == pytest.approx(1.0, abs=0.3)
    assert other == pytest.approx(1.0, abs=0.3)


def test_the_scale_of_multilabel_opinions() -> None:
    draw = np.random.default_rng(0)
    targets = (draw.random((2000, 4)) < 0.5).astype(np.int8)
    # Of evidence N(+-1, 1) the log odds are twice it.
    logits = (6 * (draw.normal(size=targets.shape) + np.where(targets == 1, 1, -1))).astype(np.float32)

    def right(mixed: npt.NDArray[np.float64]) -> float:
        return float(((mixed > 0) == targets).mean())

    one, other = fit_combination(logits, np.zeros_like(logits), targets, "multilabel", right)
    assert one == pytest.approx(1 / 3, rel=0.1)
    assert other >= 0


# ------------------------------------------------------------------------------------ in training


def test_it_is_fitted_with_the_weights_of_training() -> None:
    texts, targets = encoded("multiclass", 60)
    rows = np.linspace(0.5, 1.5, 60, dtype=np.float32)
    examples = Examples([str(number) for number in range(60)], texts, targets, rows)
    tokenizer = toy_metadata().tokenizer.replace('"agua"', '"palabra"')  # any tokenizer of enough tokens
    tokenizer = tokenizer.replace(
        '"palabra":4', ",".join(f'"w{number}":{number}' for number in [4, *range(7, len(WORDS) + 3)])
    )
    scorer = fit_on_examples(
        TrainParams(lexical_order=2, lexical_c=3.0),
        examples,
        LabelSet("multiclass", LABELS),
        {"luz": 4.0},
        tokenizer,
        {7: [3, 4]},
    )
    expected = fitted(
        texts,
        targets,
        "multiclass",
        c=3.0,
        label_weights=np.array([1.0, 4.0, 1.0]),
        row_weights=rows,
        pieces={7: [3, 4]},
    )
    assert_same(LexicalTables(scorer.tokens.numpy(), scorer.grams.numpy(), scorer.bias.numpy()), expected)


def test_logits_of_texts_come_in_their_order() -> None:
    texts, scorer = random_texts(300, 50), random_scorer(3, 50)
    expected = np.concatenate([score(scorer, [ids]) for ids in texts])
    np.testing.assert_allclose(lexical_logits(scorer, texts, PAD), expected, atol=1e-4)
    assert lexical_logits(scorer, [], PAD).shape == (0, 3)


def test_batches_hold_texts_of_similar_length_and_their_logits_come_in_order() -> None:
    texts = random_texts(40, 50)
    seen: list[list[int]] = []

    def score(batch: Sequence[Ids]) -> torch.Tensor:
        assert torch.is_inference_mode_enabled()
        seen.append([len(ids) for ids in batch])
        return torch.tensor([[ids.sum(), len(ids)] for ids in batch])

    class Counter:
        done: ClassVar[list[int]] = []

        def advance(self, count: int) -> None:
            self.done.append(count)

    found = in_batches(score, texts, 2, 100, cast(Progress, Counter()))
    np.testing.assert_array_equal(found, [[ids.sum(), len(ids)] for ids in texts])
    assert found.dtype == np.float32
    assert all(max(lengths) * len(lengths) <= 100 for lengths in seen)
    assert list(chain.from_iterable(seen)) == sorted((len(ids) for ids in texts), reverse=True)
    assert Counter.done == [len(lengths) for lengths in seen]
    assert in_batches(score, [], 2).shape == (0, 2)


def test_the_backbone_sees_the_first_tokens() -> None:
    texts = random_texts(20, 50)
    examples = Examples([""] * 20, texts, np.zeros(20), np.ones(20, dtype=np.float32))
    shorter = cut(examples, 7)
    assert [ids.tolist() for ids in shorter.tokens] == [ids[:7].tolist() for ids in texts]
    assert shorter.targets is examples.targets
    assert max(len(ids) for ids in examples.tokens) > 7


# ------------------------------------------------------------------------------------- in the graph


def session(traced: graph.Graph) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(traced.model.SerializeToString(), providers=["CPUExecutionProvider"])


def ask(opened: onnxruntime.InferenceSession, texts: Sequence[Ids], width: int = 1) -> Any:
    batch = pad_batch(texts, PAD, width)
    return opened.run(None, dict(zip(("input_ids", "attention_mask"), batch, strict=True)))[0]


@pytest.mark.parametrize("order", [1, 3, 5])
def test_the_graph_hashes_the_largest_vocabulary_alike(order: int) -> None:
    scorer = random_scorer(order, LARGEST, labels=2)
    example = pad_batch(random_texts(2, LARGEST, seed=9, lengths=(6, 8)), PAD)
    opened = session(graph.trace(graph.ProbabilityModel(scorer, "multiclass"), example, 17))
    texts = [*random_texts(30, LARGEST), np.array([LARGEST - 1] * 9), np.array([5]), np.array([5, 6])]
    np.testing.assert_allclose(ask(opened, texts), score(scorer, texts), atol=1e-4)
    for ids in texts[-3:]:  # shorter than the n-grams, in a batch by itself
        np.testing.assert_allclose(ask(opened, [ids]), score(scorer, [ids]), atol=1e-4)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[TextClassifier, str]:
    """A tiny BERT that sees 12 tokens, with a lexical model fitted on the toy messages, and the tokenizer."""
    folder = build_tiny_backbone(tmp_path_factory.mktemp("lexical") / "bert")
    tokenizer_json, pad = load_tokenizer(folder)
    assert pad == PAD
    table = tiny_messages(n=90)
    ids = Encoder(tokenizer_json, 48, pad).encode(table["text"].to_pylist())
    targets = encode_labels(table["labels"], LABELS, "multiclass")
    torch.manual_seed(3)
    model = TextClassifier(load_pretrained(folder), len(LABELS)).eval()
    vocabulary = len(model.backbone.get_input_embeddings().weight)
    tables = fit_lexical(ids, targets, "multiclass", np.ones(3), np.ones(90), vocabulary)
    model.add_lexical(LexicalScorer.from_tables(tables, 3), (2.0, 0.7), 12)
    return model, tokenizer_json


@pytest.fixture(scope="module")
def graphs(classifier: tuple[TextClassifier, str]) -> dict[str, graph.Graph]:
    """Traced with 20 tokens, as longer than the window as texts at the tracing are."""
    example = pad_batch(random_texts(3, 200, lengths=(20, 20)), PAD)
    plain = graph.trace(graph.ProbabilityModel(classifier[0], "multiclass"), example, 17)
    return {"plain": plain, "fused": graph.fuse(plain, *graph.attention_shape(classifier[0]))}


def test_the_backbone_is_fused_beside_the_lexical_model(graphs: dict[str, graph.Graph]) -> None:
    assert graphs["fused"].operators["Attention"] == 2
    assert graphs["fused"].operators["LayerNormalization"] == 4
    assert graphs["fused"].operators["EmbedLayerNormalization"] == 1


@pytest.mark.parametrize("form", ["plain", "fused"])
def test_any_batch_through_the_graph(
    form: str, graphs: dict[str, graph.Graph], classifier: tuple[TextClassifier, str]
) -> None:
    model, opened = classifier[0], session(graphs[form])
    mixed = random_texts(9, 200, seed=4)
    cases = [
        ([np.array([5])], 1),  # one token, and texts shorter than the n-grams
        ([np.array([5, 6])], 1),
        ([np.array([5]), np.array([6, 7])], 1),
        (random_texts(1, 200, lengths=(11, 11)), 1),  # at the window and beside it
        (random_texts(1, 200, lengths=(12, 12)), 1),
        (random_texts(1, 200, lengths=(13, 13)), 1),
        (random_texts(4, 200, lengths=(3, 9)), 1),
        (mixed, 1),
        (mixed, 50),
    ]
    for texts, width in cases:
        with torch.no_grad():
            expected = model(*map(torch.from_numpy, pad_batch(texts, PAD, width)))
        np.testing.assert_allclose(ask(opened, texts, width), expected, atol=2e-5)


def test_the_runtime_gives_torchs_probabilities(
    graphs: dict[str, graph.Graph], classifier: tuple[TextClassifier, str], tmp_path: Path
) -> None:
    model, tokenizer_json = classifier
    metadata = toy_metadata(tokenizer=tokenizer_json, max_length=40, pad_token_id=PAD, labels=LABELS)
    graph.write(graphs["fused"], metadata.to_properties(), tmp_path / "model.onnx")
    texts = ["", "agua", *tiny_messages(n=30, seed=8)["text"].to_pylist(), "luz " * 100]
    ids = Encoder(tokenizer_json, 40, PAD).encode(texts)
    with torch.no_grad():
        logits = torch.cat([model(*map(torch.from_numpy, pad_batch([row], PAD))) for row in ids])
    found = Classifier(tmp_path / "model.onnx").predict_proba(texts)
    np.testing.assert_allclose(found, torch.softmax(logits, dim=1), atol=1e-5)
    assert {LABELS[row.argmax()] for row in found} == set(LABELS)


@pytest.mark.parametrize("form", ["plain", "fused"])
def test_beside_a_backbone_in_half_precision_nothing_of_it_is_rounded(
    form: str, classifier: tuple[TextClassifier, str]
) -> None:
    model = deepcopy(classifier[0])
    assert model.lexical is not None
    for table in (model.lexical.tokens, model.lexical.grams):  # the same logits of larger sums
        table *= torch.tensor([1e4, 1e4, 1e4, 1e8])
    whole = graph.trace(
        graph.ProbabilityModel(model, "multiclass"),
        pad_batch(random_texts(3, 200, lengths=(20, 20)), PAD),
        17,
    )
    if form == "fused":
        whole = graph.fuse(whole, *graph.attention_shape(model))
    texts = random_texts(9, 200, seed=4)
    with torch.no_grad():
        expected = model(*map(torch.from_numpy, pad_batch(texts, PAD)))
    np.testing.assert_allclose(ask(session(graph.halve(whole)), texts), expected, atol=0.02)


@pytest.mark.parametrize("order", [2, 3])
def test_equal_neighbours_in_the_hash_are_rare(order: int) -> None:
    """Few of the n-grams of a text's size of vocabulary meet in the largest table."""
    draw = np.random.default_rng(0)
    grams = np.unique(draw.integers(0, 30_000, size=(20_000, order)), axis=0)
    codes = token_codes(30_000, order)
    rows = np.sort([int(gram_hashes(gram, codes, order)[0]) % 2**18 for gram in grams])
    shared = sum(one == other for one, other in pairwise(rows))
    # Of n balls in m bins, n - m (1 - (1 - 1/m)^n) fall on another: 743 here.
    assert shared == pytest.approx(743, rel=0.15)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_rows_without_a_mistake_do_not_make_the_sum_sure(task: Task) -> None:
    classes = np.repeat(np.arange(3), 8)
    targets = classes if task == "multiclass" else np.eye(3, dtype=np.int8)[classes]
    right = (np.eye(3, dtype=np.float32)[classes] - 0.5) * 40
    one, other = fit_combination(right, right, targets, task, lambda _: 1.0)
    assert one == pytest.approx(other)  # all shares score alike: both are heard
    mixed = torch.from_numpy(right) * (one + other)
    probability = mixed.softmax(1) if task == "multiclass" else mixed.sigmoid()
    # Platt's target of a class of eight rows: 9 of 10.
    assert 0.85 < float(probability[classes == 0, 0].min()) < 0.95


def test_each_class_has_the_same_say_in_the_scale() -> None:
    logits = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    repeated = np.concatenate([logits, np.repeat(logits[3:], 2, axis=0)])
    once = calibration_loss(logits, np.array([0, 0, 0, 1]), "multiclass")
    losses = np.log(1 + np.exp(-1.0))
    moved = 0.5 * (1 / 5) + 0.5 * (1 / 3)  # of the classes of three rows and of one
    expected = losses * (1 - moved / 2) + (losses + 1) * moved / 2
    assert once == pytest.approx(expected)
    balanced = calibration_loss(repeated, np.array([0, 0, 0, 1, 1, 1]), "multiclass")
    assert balanced == pytest.approx(losses * (1 - 0.1) + (losses + 1) * 0.1)
