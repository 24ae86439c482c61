"""The words that a tokenizer finds in texts, and the pieces that it cuts them into."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from afina.runtime.encoding import unknown_id

# Pieces a running word from which a vocabulary is of another language: English models cut English words into
# 1.1 to 1.3 pieces, and Spanish ones into 2.
MANY_PIECES = 1.5

# Share of running words with an unknown piece from which a vocabulary lacks the texts' script.
MANY_UNKNOWN_WORDS = 0.05

# The kind of vocabulary (BERT's, DistilBERT's) that takes further tokens.
EXTENDABLE = "WordPiece"


def vocabulary_kind(tokenizer_json: str) -> str:
    """WordPiece, BPE, Unigram or WordLevel, of the contents of a ``tokenizer.json``."""
    return str(json.loads(tokenizer_json)["model"].get("type", "WordPiece"))


def word_counts(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs, words being what the tokenizer cuts into pieces.

    A word is written as in the normalised text: with the space before it where it is part of the word, and
    without the signs that stand for spaces and bytes in some vocabularies.
    """
    parts: Any = tokenizer
    counts: Counter[str] = Counter()
    for text in texts:
        normal = parts.normalizer.normalize_str(text) if parts.normalizer is not None else text
        if parts.pre_tokenizer is None:
            counts[normal] += 1
        else:
            found = parts.pre_tokenizer.pre_tokenize_str(normal)
            counts.update(normal[start:end] for _, (start, end) in found)
    return counts


class Fit(NamedTuple):
    """How a vocabulary cuts the running words of texts that are of letters alone; 0 where there is none."""

    pieces_per_word: float  # mean number of tokens that a word is cut into
    unknown_words: float  # share of the words that have an unknown piece

    @property
    def bad(self) -> bool:
        """Whether the vocabulary is of another language than the words, or lacks their script."""
        return self.pieces_per_word > MANY_PIECES or self.unknown_words > MANY_UNKNOWN_WORDS


def vocabulary_fit(tokenizer_json: str, counts: Mapping[str, int]) -> Fit:
    """How a vocabulary fits words.

    Args:
        tokenizer_json: contents of a ``tokenizer.json``; padding and truncation stored in it are ignored.
        counts: from `word_counts` of the same tokenizer.
    """
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    unknown = unknown_id(tokenizer)
    words = {word: count for word, count in counts.items() if word.strip().isalpha()}
    encodings = tokenizer.encode_batch_fast(list(words), add_special_tokens=False)
    found = [(count, encoding.ids) for count, encoding in zip(words.values(), encodings, strict=True)]
    total = max(sum(words.values()), 1)
    return Fit(
        sum(count * len(ids) for count, ids in found) / total,
        sum(count for count, ids in found if unknown in ids) / total,
    )


def piece_ids(token: str, vocabulary: Mapping[str, int], prefix: str) -> list[int]:
    """Ids of the pieces that a WordPiece vocabulary cuts a token into; letters it lacks are passed over."""
    inside = token.startswith(prefix)
    rest = token[len(prefix) :] if inside else token
    ids: list[int] = []
    while rest:
        lead = prefix if inside else ""
        size = next((n for n in range(len(rest), 0, -1) if lead + rest[:n] in vocabulary), 0)
        if size:
            ids.append(vocabulary[lead + rest[:size]])
        rest = rest[max(size, 1) :]
        inside = True
    return ids
