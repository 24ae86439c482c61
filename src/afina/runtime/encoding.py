"""From texts to token ids and from token ids to batches.

Training, analysis and the runtime share this module, so a text becomes the same ids everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

Ids = npt.NDArray[np.int64]

# Most tokens in a batch of torch, padding included, where nobody says otherwise: on processors larger batches
# are slower (2048 against 8192: 1.3 times the texts/s), and need more memory.
TOKEN_BUDGET = 2048

# The same for onnxruntime: what lies between two operators should fit the cache of one processor (512 against
# 2048: 1.1 to 1.2 times the texts/s with int8; 256 gain nothing more). Small batches pad less, too: where 64
# texts of the demo wait in a server, 2048 make 1.47 times their tokens, 512 make 1.11.
BATCH_TOKENS = 512

# Texts, and about as many characters, handed to the tokenizer at a time: bounds memory, a token takes some
# 100 bytes before it is an id, and is enough to keep its threads busy.
ENCODE_CHUNK = 4096
ENCODE_CHARACTERS = 1_000_000


class Encoder:
    """A fast tokenizer with a fixed truncation length and no padding; threads may share one.

    Args:
        tokenizer_json: contents of a ``tokenizer.json``; padding and truncation stored in it are ignored.
        max_length: longest sequence in tokens, special tokens included.
        pad_token_id: the id that `pad_batch` fills with.
    """

    def __init__(self, tokenizer_json: str, max_length: int, pad_token_id: int) -> None:
        self.max_length = max_length
        self.pad_token_id = pad_token_id
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length, strategy="longest_first", direction="right")

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Token ids of each text, special tokens included, at most ``max_length`` of them (int64, 1-D)."""
        return [
            np.asarray(encoding.ids, dtype=np.int64)
            for chunk in _chunks(texts)
            for encoding in self._tokenizer.encode_batch_fast(chunk, add_special_tokens=True)
        ]

    def full_lengths(self, texts: Sequence[str]) -> Ids:
        """Length in tokens of each text, special tokens included, before any truncation (int64, (n,))."""
        return self.encode_with_lengths(texts)[1]

    def encode_with_lengths(self, texts: Sequence[str]) -> tuple[list[Ids], Ids]:
        """What `encode` and `full_lengths` give, at the price of one: a text longer than its ids was cut."""
        special = self._tokenizer.num_special_tokens_to_add(False)
        ids: list[Ids] = []
        lengths: list[int] = []
        for chunk in _chunks(texts):
            for encoding in self._tokenizer.encode_batch_fast(chunk, add_special_tokens=True):
                ids.append(np.asarray(encoding.ids, dtype=np.int64))
                # What was cut off is in pieces, with special tokens around each.
                rest = sum(len(piece) - special for piece in encoding.overflowing)
                lengths.append(len(ids[-1]) + rest)
        return ids, np.asarray(lengths, dtype=np.int64)

    def decode_tokens(self, ids: Sequence[int]) -> list[str]:
        """The token each id stands for."""
        return [self._tokenizer.id_to_token(int(token)) or "" for token in ids]


def unknown_id(tokenizer: Tokenizer) -> int | None:
    """The id of the unknown token; None where there is none, as with vocabularies of bytes."""
    model = tokenizer.model
    token = getattr(model, "unk_token", None)
    found: int | None = getattr(model, "unk_id", None) if token is None else tokenizer.token_to_id(token)
    return found


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    characters = 0
    for text in texts:
        chunk.append(text)
        characters += len(text)
        if len(chunk) == ENCODE_CHUNK or characters >= ENCODE_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def pad_batch(
    ids: Sequence[Ids], pad_token_id: int, multiple: int = 1, max_length: int | None = None
) -> tuple[Ids, Ids]:
    """Pad sequences on the right to the longest of them, rounded up to a ``multiple`` of tokens.

    Args:
        ids: the sequences, each at most ``max_length`` long.
        pad_token_id: what to fill with.
        multiple: of what the width is a multiple.
        max_length: a width that rounding up must not exceed.

    Returns:
        ``input_ids`` and ``attention_mask`` (1 on tokens, 0 on padding), both int64 of shape
        (len(ids), width); an empty sequence gives a row of padding, no sequence at all gives (0, 0).
    """
    longest = max((len(row) for row in ids), default=0)
    width = -(-longest // multiple) * multiple
    if max_length is not None:
        width = max(longest, min(width, max_length))
    input_ids = np.full((len(ids), width), pad_token_id, dtype=np.int64)
    attention_mask = np.zeros((len(ids), width), dtype=np.int64)
    for row, tokens in enumerate(ids):
        input_ids[row, : len(tokens)] = tokens
        attention_mask[row, : len(tokens)] = 1
    return input_ids, attention_mask


def token_budget_batches(lengths: Sequence[int] | Ids, budget: int) -> list[Ids]:
    """Cut examples into batches of similar length that hold at most ``budget`` tokens, padding included.

    Longest first, so that a batch too large for the memory fails at once and not at the end. An
    example longer than the budget makes a batch of its own.

    Returns:
        Index arrays (int64) into ``lengths``; every index occurs exactly once.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable").astype(np.int64)
    batches: list[Ids] = []
    start = 0
    while start < len(order):
        count = max(1, budget // max(int(sizes[order[start]]), 1))
        batches.append(order[start : start + count])
        start += count
    return batches
