"""The figures of the analyze stage, on tables small enough to count by hand."""

from __future__ import annotations

import datetime
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from afina import analysis, table
from afina.adaptation.pieces import MANY_PIECES, vocabulary_fit, word_counts
from afina.analysis import TokenCounts
from afina.errors import UserError
from afina.labels import LabelSet
from afina.params.analyze import AnalyzeParams


def messages(*rows: dict[str, Any]) -> pa.Table:
    made = [{"id": f"{number:03}", "source": "s", **row} for number, row in enumerate(rows)]
    return pa.Table.from_pylist(made, schema=table.SCHEMA)


def tokenizer_json() -> str:
    words = ["[UNK]", "[CLS]", "[SEP]", "hola", "ni", "##ño"]
    tokenizer = Tokenizer(
        models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_truncation(3)
    return str(tokenizer.to_str())


def test_tokens_are_counted_before_truncation() -> None:
    counts = analysis.count_tokens(pa.chunked_array([["hola niño", "qué hola qué", ""]]), tokenizer_json())
    assert counts.tokens.tolist() == [2 + 3, 2 + 3, 2]
    assert (counts.special, counts.unknown) == (2, 2)
    # hola twice, niño in two pieces, qué twice: unknown, one piece
    assert (counts.pieces_per_word, counts.vocabulary) == (6 / 5, "WordPiece")


def test_pieces_a_word_are_those_that_the_stage_adapt_decides_by() -> None:
    texts = ["¡Hola niño!", "hola, niño; hola. 2024"] * 3000  # more than a chunk
    tokenizer = Tokenizer.from_str(tokenizer_json())
    counts = analysis.count_tokens(pa.chunked_array([texts]), tokenizer_json())
    fit = vocabulary_fit(tokenizer_json(), word_counts(tokenizer, texts))
    assert counts.pieces_per_word == fit.pieces_per_word
    assert counts.pieces_per_word < MANY_PIECES < counts.tokens.sum() / 15_000
    found = analysis.analyze(messages(), LabelSet("multiclass", ("a", "b")), {}, counts, 8)
    assert found.summary["tokens"]["pieces_per_word"] == round(counts.pieces_per_word, 6)
    assert not any("pieces" in line for line in analysis.token_warnings(found.summary["tokens"]))


def test_a_vocabulary_of_bytes_knows_everything() -> None:
    tokenizer = Tokenizer(models.BPE({"a": 0}, []))
    counts = analysis.count_tokens(pa.chunked_array([["aa"]]), tokenizer.to_str())
    assert (counts.tokens.tolist(), counts.unknown) == ([2], 0)


def test_summary() -> None:
    rows = messages(
        {"text": "hola niño", "labels": ["a"], "source": "t", "time": datetime.datetime(2024, 1, 2)},
        {"text": "hola", "labels": ["a"], "time": datetime.datetime(2023, 5, 6, 7, 8)},
        {"text": "una de más", "labels": ["b"], "split": "test", "group": "g"},
    )
    tokens = TokenCounts(np.array([5, 3, 6]), 2, 2, 4 / 3, "WordPiece")
    cleaning = {"rows_in": 5, "rejected": {"duplicate": 1, "no label": 1}}
    found = analysis.analyze(rows, LabelSet("multiclass", ("a", "b")), cleaning, tokens, max_length=5)
    assert found.summary == {
        "rows": {"raw": 5, "clean": 3, "rejected": {"duplicate": 1, "no label": 1}},
        "duplicates": {"rows": 1, "share": 0.2},
        "task": "multiclass",
        "labels": 2,
        "labels_per_row": 1.0,
        "rows_without_label": 0,
        "imbalance": 2.0,
        "words": {"mean": 2.0, "p50": 2, "p90": 3, "p95": 3, "p99": 3, "max": 3},
        "tokens": {
            "texts": 3, "mean": 4.667, "p50": 5, "p90": 6, "p95": 6, "p99": 6, "max": 6,
            "vocabulary": "WordPiece", "pieces_per_word": 1.333333,
            "unknown_rate": 0.25, "max_length": 5, "truncated_texts": 1, "truncated_share": 0.333333,
        },
        "time": {"first": "2023-05-06T07:08:00", "last": "2024-01-02T00:00:00", "rows": 2},
        "sources": {"s": 2, "t": 1},
        "given_splits": {"test": 1},
        "groups": 1,
    }  # fmt: skip
    assert found.classes == [("a", 2, 0.666667, 0.666667), ("b", 1, 0.333333, 1.0)]
    assert found.lengths == [(0, 0), (1, 1), (2, 1), (3, 1)]
    assert found.cooccurrence == []
    json.dumps(found.summary, allow_nan=False)


def test_an_empty_table_has_no_figures_and_no_error() -> None:
    none = np.array([], dtype=np.int64)
    found = analysis.analyze(
        messages(), LabelSet("multiclass", ("a", "b")), {}, TokenCounts(none, 2, 0, 0.0, "BPE"), 8
    )
    assert found.summary["words"]["p50"] is None
    assert found.summary["tokens"]["truncated_share"] is None
    assert found.summary["tokens"]["pieces_per_word"] is None
    assert found.summary["imbalance"] is None
    json.dumps(found.summary, allow_nan=False)


def test_cooccurrence() -> None:
    rows = messages(
        {"text": "x", "labels": ["a", "b"]}, {"text": "y", "labels": ["a"]}, {"text": "z", "labels": []}
    )
    label_set = LabelSet("multilabel", ("a", "b", "c"))
    assert analysis.cooccurrence(rows, label_set) == [
        ("a", "a", 2),
        ("a", "b", 1),
        ("b", "a", 1),
        ("b", "b", 1),
    ]


@given(st.lists(st.integers(0, 3000), max_size=300))
def test_the_histogram_counts_every_row_in_few_bins(lengths: list[int]) -> None:
    bins = analysis.histogram(np.array(lengths, dtype=np.int64))
    assert sum(rows for _, rows in bins) == len(lengths)
    assert len(bins) <= analysis.HISTOGRAM_BINS + 1
    starts = [start for start, _ in bins]
    for length in lengths:
        assert starts[0] <= length
    for (start, rows), following in zip(bins, [*starts[1:], 10**9], strict=False):
        assert rows == sum(start <= length < following for length in lengths)


@given(rows=st.integers(0, 500), limit=st.one_of(st.none(), st.integers(1, 100)))
def test_a_sample_is_spread_evenly(rows: int, limit: int | None) -> None:
    chosen = analysis.evenly_spaced(rows, limit)
    assert len(chosen) == min(rows, limit or rows)
    assert len(set(chosen.tolist())) == len(chosen)
    if len(chosen) > 1:
        gaps = np.diff(chosen)
        assert gaps.max() - gaps.min() <= 1
        assert chosen.max() < rows


def test_parameters() -> None:
    assert AnalyzeParams.parse({}).max_rows == 20_000
    with pytest.raises(UserError, match=r"analyze\.max_rows"):
        AnalyzeParams.parse({"max_rows": 0})


def test_a_backbone_that_does_not_fit_the_texts_is_warned_about() -> None:
    fine = {
        "vocabulary": "WordPiece",
        "pieces_per_word": 1.5,
        "unknown_rate": 0.0,
        "truncated_share": 0.1,
        "max_length": 128,
    }
    assert analysis.token_warnings(fine) == []
    assert analysis.token_warnings({**fine, "pieces_per_word": None, "unknown_rate": None}) == []
    poor = {**fine, "pieces_per_word": 2.14, "unknown_rate": 0.02, "truncated_share": 0.5, "max_length": 64}
    words, unknown, cut = analysis.token_warnings(poor)
    assert "2.1 pieces, more than 1.5" in words
    assert "adapt.vocabulary auto or extend makes tokens of frequent words" in words
    (other,) = analysis.token_warnings({**fine, "vocabulary": "BPE", "pieces_per_word": 1.51})
    assert "adapt.vocabulary cannot extend a BPE one; name a train.backbone" in other
    assert "2.0% of the tokens are unknown" in unknown
    assert "adapt.vocabulary extend" in unknown
    (unknown,) = analysis.token_warnings({**fine, "vocabulary": "BPE", "unknown_rate": 0.02})
    assert "extend" not in unknown
    assert "50% of the texts are longer than train.max_length 64, fewer with tokens of their own;" in cut
    (cut,) = analysis.token_warnings({**fine, "truncated_share": 0.5, "max_length": 64})
    assert "longer than train.max_length 64; the backbone sees their beginning only" in cut
