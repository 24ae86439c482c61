"""Texts to ids, ids to batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from afina.runtime.encoding import ENCODE_CHUNK, Encoder, pad_batch, token_budget_batches
from tiny import ARCHITECTURES, Architecture, build_tiny_tokenizer, tiny_texts

ODD_TEXTS = ["", " ", "ñandú Ünïcode 😀 x", "日本 語", "agua " * 100, "a\u0301 b\n\tc", "<mask> [SEP] </s>"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ids_equal_those_of_transformers(architecture: Architecture, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = build_tiny_tokenizer(architecture, tiny_texts())
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    reference = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    texts = tiny_texts()[:40] + ODD_TEXTS
    for max_length in (4, 16, 64):
        expected = reference(texts, truncation=True, max_length=max_length)["input_ids"]
        encoded = Encoder(tokenizer.to_str(), max_length, 0).encode(texts)
        assert [row.tolist() for row in encoded] == expected
        assert all(row.dtype == np.int64 for row in encoded)


def test_padding_and_truncation_in_the_file_are_ignored() -> None:
    tokenizer = build_tiny_tokenizer("bert", tiny_texts())
    plain = tokenizer.to_str()
    tokenizer.enable_padding(length=50)
    tokenizer.enable_truncation(6)
    baked = Encoder(tokenizer.to_str(), 20, 0)
    texts = ["agua fuga", "agua " * 30]
    assert [len(row) for row in baked.encode(texts)] == [4, 20]
    for row, expected in zip(baked.encode(texts), Encoder(plain, 20, 0).encode(texts), strict=True):
        np.testing.assert_array_equal(row, expected)


def test_full_lengths_count_what_truncation_cuts_off() -> None:
    encoder = Encoder(build_tiny_tokenizer("bert", tiny_texts()).to_str(), 10, 0)
    assert encoder.full_lengths(["agua", "agua " * 30]).tolist() == [3, 32]
    assert len(encoder.encode(["agua " * 30])[0]) == 10  # truncation is on again


def test_more_texts_than_a_chunk_and_none_at_all() -> None:
    encoder = Encoder(build_tiny_tokenizer("bert", tiny_texts()).to_str(), 8, 0)
    assert encoder.encode([]) == []
    many = encoder.encode(["agua"] * (ENCODE_CHUNK + 3))
    assert len(many) == ENCODE_CHUNK + 3
    assert many[-1].tolist() == many[0].tolist()


def test_token_strings() -> None:
    tokenizer: Tokenizer = build_tiny_tokenizer("bert", tiny_texts())
    encoder = Encoder(tokenizer.to_str(), 8, 0)
    assert encoder.decode_tokens(encoder.encode(["agua"])[0]) == ["[CLS]", "agua", "[SEP]"]


def test_pad_batch() -> None:
    input_ids, mask = pad_batch([np.array([5, 6, 7]), np.array([8]), np.array([], dtype=np.int64)], 1)
    assert input_ids.tolist() == [[5, 6, 7], [8, 1, 1], [1, 1, 1]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert input_ids.dtype == mask.dtype == np.int64
    assert pad_batch([], 1)[0].shape == (0, 0)


@pytest.mark.parametrize(("longest", "width"), [(1, 16), (16, 16), (17, 20), (20, 20)])
def test_padding_to_a_multiple_stops_at_the_longest_sequence_allowed(longest: int, width: int) -> None:
    input_ids, mask = pad_batch([np.ones(longest, dtype=np.int64)], 0, 16, 20)
    assert input_ids.shape == mask.shape == (1, width)
    assert mask.sum() == longest


@given(st.lists(st.integers(0, 200), max_size=60), st.integers(1, 500))
def test_budget_batches_partition_sort_and_fit(lengths: list[int], budget: int) -> None:
    batches = token_budget_batches(lengths, budget)
    order = [int(index) for batch in batches for index in batch]
    assert sorted(order) == list(range(len(lengths)))
    sizes = [lengths[index] for index in order]
    assert sizes == sorted(sizes, reverse=True)
    for batch in batches:
        longest = max(max(lengths[index] for index in batch), 1)
        assert len(batch) == 1 or longest * len(batch) <= budget
