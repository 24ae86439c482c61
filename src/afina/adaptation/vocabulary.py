"""New tokens for a backbone whose vocabulary cuts the words of the training text into many pieces.

An English vocabulary cuts a Spanish word into letters and syllables: texts grow beyond what the model takes,
and the pieces mean nothing. Words and parts of words that the training text repeats become tokens of their
own, with embeddings that start from what they mean, as far as that is known.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, models, trainers

from afina.adaptation.pieces import EXTENDABLE, piece_ids, vocabulary_kind
from afina.delimiters import likely_delimiter
from afina.errors import UserError

# Share of running words in the Spanish glossary from which texts are Spanish.
SPANISH = 0.5

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Extended:
    """A tokenizer with more tokens, and the whole embedding table that goes with it."""

    tokenizer_json: str
    embeddings: Floats  # (V + new, H)
    tokens: list[str]  # the new ones, in the order of their ids
    translated: int  # how many of them began from a meaning in the glossary
    redefined: int  # words that were tokens before, and now begin from a meaning in the glossary


def choose_tokens(
    tokenizer_json: str,
    counts: Mapping[str, int],
    min_count: int = 4,
    max_size: int = 20_000,
    glossary: Mapping[str, Sequence[str]] | None = None,
) -> list[str]:
    """The words of texts, and frequent parts of words, that a WordPiece vocabulary lacks.

    Of a glossary all words, for a word that the training texts lack may well be in those to come.

    Args:
        tokenizer_json: contents of a ``tokenizer.json``.
        counts: of the training texts' words, from `afina.adaptation.pieces.word_counts`.
        min_count: times a word must occur to become a token.
        max_size: most tokens that are added, the most frequent ones.
        glossary: words whose meaning is known.

    Raises:
        UserError: the tokenizer is not a WordPiece one.
    """
    kind = vocabulary_kind(tokenizer_json)
    if kind != EXTENDABLE:
        raise UserError(
            f"adapt.vocabulary: the backbone's tokenizer is a {kind} one; only {EXTENDABLE} vocabularies "
            "(BERT, DistilBERT) can be extended; set it to none"
        )
    settings = json.loads(tokenizer_json)
    prefix, vocabulary = settings["model"]["continuing_subword_prefix"], _vocabulary(settings)
    tokens = new_tokens(counts, vocabulary, prefix, min_count, max_size)
    known = vocabulary.keys() | set(tokens)
    meanings = folded(Tokenizer.from_str(tokenizer_json), glossary or {})
    further = sorted(
        (word for word in meanings if word.isalpha() and word not in known),
        key=lambda word: (-counts.get(word, 0), word),
    )
    return [*tokens, *further][:max_size]


def extend_vocabulary(
    tokenizer_json: str,
    embeddings: Floats,
    tokens: Sequence[str],
    glossary: Mapping[str, Sequence[str]] | None = None,
) -> Extended:
    """Add tokens to a WordPiece vocabulary, and rows for them to its embedding table.

    A new token starts from the mean of its meanings' embeddings where the glossary has it (after WECHSEL:
    Minixhofer, Paischer and Rekabsaz, NAACL 2022, with a glossary in place of aligned word vectors), else
    from the mean of the pieces it was cut into. A word of the glossary that is a token already starts from
    its meanings too: to an English model "son" is a child, and "de" next to nothing.

    Args:
        tokenizer_json: contents of a ``tokenizer.json``.
        embeddings: (V, H) table of the backbone.
        tokens: new ones, from `choose_tokens`.
        glossary: meanings of each word in the language that the backbone knows, the best first.
    """
    settings = json.loads(tokenizer_json)
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    vocabulary = _vocabulary(settings)
    prefix: str = settings["model"]["continuing_subword_prefix"]
    meanings = folded(tokenizer, glossary or {})
    rows, translated = [], 0
    for token in tokens:
        row = _from_meaning(token, meanings, tokenizer, embeddings)
        translated += row is not None
        rows.append(_from_pieces(token, vocabulary, prefix, embeddings) if row is None else row)
    redefined = {
        vocabulary[word]: row
        for word, found in meanings.items()
        if word in vocabulary
        and word not in found  # what is spelt alike means the same
        and (row := _from_meaning(word, meanings, tokenizer, embeddings)) is not None
    }
    first = len(embeddings)
    settings["model"]["vocab"] = vocabulary | {token: first + number for number, token in enumerate(tokens)}
    table = np.concatenate([embeddings, *(row[None] for row in rows)]).astype(np.float32)
    for number, row in redefined.items():
        table[number] = row
    extended = json.dumps(settings, ensure_ascii=False)
    return Extended(extended, table, list(tokens), translated, len(redefined))


def _vocabulary(settings: Mapping[str, Any]) -> dict[str, int]:
    """Tokens and their ids, from the contents of a ``tokenizer.json``.

    Added tokens that the model does not list are numbered after it, and would move as it grows; so they are
    among them.
    """
    known: dict[str, int] = settings["model"]["vocab"]
    return known | {token["content"]: token["id"] for token in settings.get("added_tokens", ())}


def new_tokens(
    counts: Mapping[str, int], vocabulary: Mapping[str, int], prefix: str, min_count: int, max_size: int
) -> list[str]:
    """Words seen ``min_count`` times and parts of words that WordPiece training finds, by frequency."""
    words = {
        word: count
        for word, count in counts.items()
        if count >= min_count and word not in vocabulary and word.isalpha()
    }
    # The trainer numbers letters as its hash table gives them, and equally frequent pairs by these numbers.
    # Listed beforehand they have the same numbers in every run.
    letters = sorted({letter for word in counts if word.isalpha() for letter in word[1:]})
    trainer = trainers.WordPieceTrainer(
        vocab_size=max_size,
        min_frequency=max(2 * min_count, 2),
        continuing_subword_prefix=prefix,
        show_progress=False,
        special_tokens=["[UNK]", *(prefix + letter for letter in letters)],
    )
    alphabetic = (word for word, count in sorted(counts.items()) for _ in range(count) if word.isalpha())
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.train_from_iterator(alphabetic, trainer)
    # Without what was listed, which would be cut out of words before all else.
    parts: Any = Tokenizer(
        models.WordPiece(trained.get_vocab(), unk_token="[UNK]", continuing_subword_prefix=prefix)
    )
    pieces = [
        token
        for token in parts.get_vocab()
        if token.startswith(prefix) and token not in vocabulary and len(token) > len(prefix) + 1
    ]
    totals = Counter(words)
    uses: Counter[str] = Counter()
    for word, count in counts.items():
        if word not in words and word not in vocabulary and word.isalpha():
            for token in parts.encode(word).tokens:
                uses[token] += count
    totals.update({piece: uses[piece] for piece in pieces if uses[piece] >= min_count})
    ordered = sorted(totals, key=lambda token: (-totals[token], token))
    return ordered[:max_size]


def read_glossary(path: Path) -> dict[str, list[str]]:
    """Read a glossary: a CSV with the columns ``word`` and ``meaning``, several meanings separated by ``|``.

    Other delimiters than commas are known by the line of the columns' names. A word may have several rows.

    Raises:
        UserError: it is missing, is not UTF-8 or not CSV, has other columns, lacks a word or a meaning, or a
            row has more cells than there are columns.
    """
    if not path.is_file():
        raise UserError(f"adapt.glossary: no file {path}; give a CSV with the columns word and meaning")
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"adapt.glossary: {path}: not UTF-8; save it as CSV UTF-8") from None
    # Strict: else a quote that is never closed swallows the rest of the file.
    delimiter = likely_delimiter(content.partition("\n")[0])
    reader = csv.DictReader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    glossary: dict[str, list[str]] = {}
    start = 1  # line at which the row being read begins
    try:
        if not {"word", "meaning"} <= set(reader.fieldnames or ()):
            raise UserError(f"adapt.glossary: {path}: expected the columns word and meaning")
        start = reader.line_num + 1
        for row in reader:
            where = f"adapt.glossary: {path}: line {reader.line_num}"
            if row["word"] is None:
                raise UserError(f"{where}: no word; give each row a word and its meaning")
            if row["meaning"] is None:
                raise UserError(f"{where}: '{row['word']}' has no meaning")
            if any(row.get(None, ())):
                raise UserError(
                    f"{where}: more cells than columns; separate the meanings of '{row['word']}' by |, and "
                    "put one with a comma in quotes"
                )
            meanings = [part.strip() for part in row["meaning"].split("|")]
            glossary.setdefault(row["word"].strip(), []).extend(meanings)
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"adapt.glossary: {path}: line {start}: not CSV ({error}); look for a quote that is not closed"
        ) from None
    return glossary


def choose_glossary(
    asked: str | None, tokenizer: Tokenizer, counts: Mapping[str, int]
) -> dict[str, list[str]] | None:
    """The glossary for the first embeddings of new tokens.

    Args:
        asked: ``auto``: the Spanish one that comes with afina, if the texts are in Spanish; None: none; else
            the path of a CSV.
        tokenizer: of the backbone.
        counts: of the training texts' words, from `afina.adaptation.pieces.word_counts`.
    """
    if asked is None:
        return None
    if asked != "auto":
        return read_glossary(Path(asked))
    with resources.as_file(resources.files("afina.vocabulary") / "es_en.csv") as path:
        glossary = read_glossary(path)
    known = folded(tokenizer, glossary)
    covered = sum(count for word, count in counts.items() if word in known)
    words = sum(count for word, count in counts.items() if word.isalpha())
    return glossary if words and covered >= SPANISH * words else None


def folded(tokenizer: Tokenizer, glossary: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The glossary by words as the tokenizer normalises them; words that fall together share meanings."""
    parts: Any = tokenizer
    meanings: dict[str, list[str]] = {}
    for word, found in glossary.items():
        normal = parts.normalizer.normalize_str(word) if parts.normalizer is not None else word
        meanings.setdefault(normal, []).extend(found)
    return meanings


def _from_meaning(
    token: str, meanings: Mapping[str, Sequence[str]], tokenizer: Tokenizer, embeddings: Floats
) -> Floats | None:
    """Mean over the meanings of the mean of their pieces' embeddings."""
    encoded = [tokenizer.encode(meaning, add_special_tokens=False).ids for meaning in meanings.get(token, ())]
    rows = [embeddings[ids].mean(axis=0) for ids in encoded if ids]
    return np.mean(rows, axis=0) if rows else None


def _from_pieces(token: str, vocabulary: Mapping[str, int], prefix: str, embeddings: Floats) -> Floats:
    """Mean of the embeddings of the pieces that the old vocabulary cuts a token into."""
    ids = piece_ids(token, vocabulary, prefix)
    result: Floats = embeddings[ids].mean(axis=0) if ids else embeddings.mean(axis=0)
    return result
