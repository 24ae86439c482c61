"""What is in the cleaned data: classes, lengths in words and in the backbone's tokens, label pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer

from afina.adaptation.pieces import (
    EXTENDABLE,
    MANY_PIECES,
    vocabulary_fit,
    vocabulary_kind,
    word_counts,
)
from afina.labels import LabelSet, encode_labels
from afina.progress import Progress
from afina.runtime.encoding import unknown_id
from afina.runtime.text import WORD

Ints = npt.NDArray[np.int64]

PERCENTILES = (50, 90, 95, 99)
HISTOGRAM_BINS = 40
CHUNK = 4096

# Shares that are worth a warning.
MANY_UNKNOWN, MANY_TRUNCATED = 0.01, 0.2


@dataclass(frozen=True)
class Analysis:
    """What the analyze stage reports."""

    summary: dict[str, Any]  # summary.json
    classes: list[tuple[str, int, float, float]]  # label, examples, share, cumulative share
    lengths: list[tuple[int, int]]  # words from which the bin starts, rows
    cooccurrence: list[tuple[str, str, int]]  # label, label, rows; multilabel only


@dataclass(frozen=True)
class TokenCounts:
    """Of n texts: tokens (n,), special ones included, before truncation."""

    tokens: Ints
    special: int  # special tokens a text
    unknown: int  # over all texts
    pieces_per_word: float  # as `afina.adaptation.pieces.vocabulary_fit` counts them, over all texts
    vocabulary: str  # its kind, see `afina.adaptation.pieces.vocabulary_kind`


def analyze(
    table: pa.Table, label_set: LabelSet, cleaning: Mapping[str, Any], tokens: TokenCounts, max_length: int
) -> Analysis:
    """Describe the cleaned table.

    Args:
        table: rows as in `afina.table.SCHEMA`.
        cleaning: contents of cleaning.json, for the rows before cleaning.
        tokens: from `count_tokens`, over all rows or some.
        max_length: longest sequence in tokens that the model sees.
    """
    words = count_words(table["text"])
    counts = _label_counts(table, label_set)
    positive = [count for count in counts.values() if count]
    rejected = dict(cleaning.get("rejected") or {})
    rows_in = int(cleaning.get("rows_in") or 0)
    sizes = np.asarray(pc.list_value_length(table["labels"]), dtype=np.int64)
    summary = {
        "rows": {"raw": rows_in, "clean": table.num_rows, "rejected": rejected},
        "duplicates": {
            "rows": int(rejected.get("duplicate", 0)),
            "share": _share(int(rejected.get("duplicate", 0)), rows_in),
        },
        "task": label_set.task,
        "labels": len(label_set.labels),
        "labels_per_row": _share(int(sizes.sum()), table.num_rows),
        "rows_without_label": int((sizes == 0).sum()),
        "imbalance": round(max(positive) / min(positive), 3) if positive else None,
        "words": length_statistics(words),
        "tokens": _token_summary(tokens, max_length),
        "time": _time_range(table["time"]),
        "sources": _value_counts(table["source"]),
        "given_splits": _value_counts(table["split"].drop_null()),
        "groups": pc.count_distinct(table["group"]).as_py(),
    }
    return Analysis(summary, pareto(counts), histogram(words), cooccurrence(table, label_set))


def count_words(texts: pa.Array | pa.ChunkedArray) -> Ints:
    """Number of words, separated by white space, of each text (n,)."""
    return np.asarray(pc.count_substring_regex(texts, pattern=WORD), dtype=np.int64)


def evenly_spaced(rows: int, limit: int | None) -> Ints:
    """At most ``limit`` row numbers, evenly spaced over ``rows``, ascending."""
    if limit is None or rows <= limit:
        return np.arange(rows, dtype=np.int64)
    return (np.arange(limit, dtype=np.int64) * rows) // limit


def count_tokens(
    texts: pa.ChunkedArray, tokenizer_json: str, progress: Progress | None = None
) -> TokenCounts:
    """Cut texts into tokens with a backbone's tokenizer.

    Args:
        texts: n strings.
        tokenizer_json: contents of a ``tokenizer.json``.
    """
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    special = tokenizer.num_special_tokens_to_add(False)
    unknown_token = unknown_id(tokenizer)
    lengths: list[int] = []
    words: Counter[str] = Counter()
    unknown = 0
    for start in range(0, len(texts), CHUNK):
        chunk = texts.slice(start, CHUNK).to_pylist()
        for encoding in tokenizer.encode_batch_fast(chunk, add_special_tokens=False):
            ids = encoding.ids
            lengths.append(len(ids) + special)
            unknown += 0 if unknown_token is None else ids.count(unknown_token)
        words.update(word_counts(tokenizer, chunk))
        if progress is not None:
            progress.advance(len(chunk))
    return TokenCounts(
        np.array(lengths, dtype=np.int64),
        special,
        unknown,
        vocabulary_fit(tokenizer_json, words).pieces_per_word,
        vocabulary_kind(tokenizer_json),
    )


def _token_summary(counts: TokenCounts, max_length: int) -> dict[str, Any]:
    own = int(counts.tokens.sum()) - counts.special * len(counts.tokens)
    truncated = counts.tokens > max_length
    return {
        "texts": len(counts.tokens),
        **length_statistics(counts.tokens),
        "vocabulary": counts.vocabulary,
        "pieces_per_word": round(counts.pieces_per_word, 6) or None,
        "unknown_rate": _share(counts.unknown, own),
        "max_length": max_length,
        "truncated_texts": int(truncated.sum()),
        "truncated_share": _share(int(truncated.sum()), len(counts.tokens)),
    }


def token_warnings(tokens: Mapping[str, Any]) -> list[str]:
    """What is wrong between the backbone and the texts, a line each, from ``summary["tokens"]``."""
    lines = []
    foreign = (tokens["pieces_per_word"] or 0.0) > MANY_PIECES
    if foreign:
        remedy = (
            "adapt.vocabulary auto or extend makes tokens of frequent words, none leaves them cut; or"
            if tokens["vocabulary"] == EXTENDABLE
            else f"adapt.vocabulary cannot extend a {tokens['vocabulary']} one;"
        )
        lines.append(
            f"the backbone's tokenizer cuts a word into {tokens['pieces_per_word']:.1f} pieces, more than "
            f"{MANY_PIECES}: its vocabulary is of another language; {remedy} name a train.backbone of the "
            "texts' language"
        )
    if (tokens["unknown_rate"] or 0.0) > MANY_UNKNOWN:
        remedy = "adapt.vocabulary extend makes tokens of frequent words; or "
        lines.append(
            f"{tokens['unknown_rate']:.1%} of the tokens are unknown to the backbone's tokenizer; "
            f"{remedy if tokens['vocabulary'] == EXTENDABLE else ''}name a train.backbone of the texts' "
            "script and language"
        )
    if (tokens["truncated_share"] or 0.0) > MANY_TRUNCATED:
        extendable = foreign and tokens["vocabulary"] == EXTENDABLE
        lines.append(
            f"{tokens['truncated_share']:.0%} of the texts are longer than train.max_length "
            f"{tokens['max_length']}{', fewer with tokens of their own' if extendable else ''}; "
            "the backbone sees their beginning only"
        )
    return lines


def length_statistics(lengths: Ints) -> dict[str, Any]:
    """Mean, percentiles (each a length that occurs) and maximum."""
    if not len(lengths):
        return {"mean": None, **{f"p{percent}": None for percent in PERCENTILES}, "max": None}
    values = np.percentile(lengths, PERCENTILES, method="inverted_cdf").astype(int).tolist()
    return {
        "mean": round(float(lengths.mean()), 3),
        **{f"p{percent}": value for percent, value in zip(PERCENTILES, values, strict=True)},
        "max": int(lengths.max()),
    }


def histogram(lengths: Ints) -> list[tuple[int, int]]:
    """Rows by length, in at most 41 bins of equal width up to the 99th percentile; the last one is open."""
    if not len(lengths):
        return []
    top = int(np.percentile(lengths, 99, method="inverted_cdf"))
    width = max(1, -(-(top + 1) // HISTOGRAM_BINS))
    bins = np.minimum(lengths // width, -(-(top + 1) // width))
    return [(number * width, int(count)) for number, count in enumerate(np.bincount(bins))]


def pareto(counts: Mapping[str, int]) -> list[tuple[str, int, float, float]]:
    """Labels from the most frequent on, with their share of all labels given and the share so far."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    total = sum(counts.values())
    rows = []
    seen = 0
    for label, count in ordered:
        seen += count
        rows.append((label, count, _share(count, total) or 0.0, _share(seen, total) or 0.0))
    return rows


def cooccurrence(table: pa.Table, label_set: LabelSet) -> list[tuple[str, str, int]]:
    """Rows that have both labels, for each ordered pair that occurs; a label with itself: its rows."""
    if label_set.task == "multiclass":
        return []
    labels = label_set.labels
    pairs = np.zeros((len(labels), len(labels)), dtype=np.int64)
    step = 100_000
    for start in range(0, table.num_rows, step):
        part = encode_labels(table["labels"].slice(start, step), labels, "multilabel").astype(np.float64)
        pairs += (part.T @ part).astype(np.int64)
    return [
        (labels[row], labels[column], int(pairs[row, column]))
        for row in range(len(labels))
        for column in range(len(labels))
        if pairs[row, column]
    ]


def _label_counts(table: pa.Table, label_set: LabelSet) -> dict[str, int]:
    found = _value_counts(pc.list_flatten(table["labels"]))
    return {label: found.get(label, 0) for label in label_set.labels}


def _value_counts(column: pa.Array | pa.ChunkedArray) -> dict[str, int]:
    return dict(
        sorted((str(item["values"]), int(item["counts"])) for item in pc.value_counts(column).to_pylist())
    )


def _time_range(column: pa.ChunkedArray) -> dict[str, Any] | None:
    known = column.drop_null()
    if not len(known):
        return None
    ends = pc.min_max(known).as_py()
    return {"first": ends["min"].isoformat(), "last": ends["max"].isoformat(), "rows": len(known)}


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None
