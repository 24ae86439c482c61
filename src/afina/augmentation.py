"""Altered copies of texts for labels with few examples: what people leave out, swap and mistype.

There is no list of synonyms: a copy has the words of its text, mistyped at most, in any language.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import regex

from afina.params.balance import Operation
from afina.runtime.text import clean_text

Ints = npt.NDArray[np.int64]

ATTEMPTS = 10  # draws for a copy that differs from its source and from the copies before it

# A mask as the clean stage writes them is one piece with what touches it, also with spaces inside.
_PIECE = regex.compile(r"(?:<[^<>]{1,40}>|\[[^\[\]]{1,40}\]|\S)++|\s++")
# Letters with at most an apostrophe or hyphen between them, and punctuation around. All else stays as it
# is: masks, digits, addresses, hashtags, emoji.
_WORD = regex.compile(
    r"([¿¡\"'«“‘(—–-]*+)(\p{L}[\p{L}\p{M}]*+(?:['’-]\p{L}[\p{L}\p{M}]*+)*+)([.,;:!?…\"'»”’)—–-]*+)"
)
_TYPEABLE = regex.compile(r"[\p{Lu}\p{Ll}]{4,}")

# Without one of these a text may say the opposite.
_NEGATIONS = frozenset(
    [
        *(
            "no",
            "ni",
            "nunca",
            "jamás",
            "jamas",
            "tampoco",
            "sin",
            "nada",
            "nadie",
            "ningún",
            "ningun",
            "ninguno",
            "ninguna",
            "ningunos",
            "ningunas",
            "apenas",
        ),
        *("not", "never", "nor", "without", "nothing", "nobody", "none", "neither", "cannot"),
        *("não", "nem", "sem", "non", "ne", "pas", "sans", "jamais", "nicht", "kein", "keine", "nie", "ohne"),
    ]
)

# Keys next to each other on a Spanish QWERTY keyboard. No letter becomes ñ, which is no slip in another
# language and another letter in Spanish.
NEIGHBOURS = {
    "q": "wa", "w": "qeas", "e": "wrsd", "r": "etdf", "t": "ryfg",
    "y": "tugh", "u": "yihj", "i": "uojk", "o": "ipkl", "p": "ol",
    "a": "qwsz", "s": "weadzx", "d": "ersfxc", "f": "rtdgcv", "g": "tyfhvb",
    "h": "yugjbn", "j": "uihknm", "k": "iojlm", "l": "opk", "ñ": "lp",
    "z": "asx", "x": "zsdc", "c": "xdfv", "v": "cfgb", "b": "vghn", "n": "bhjm", "m": "njk",
}  # fmt: skip

_ACUTE = dict(zip("aeiouAEIOU", "áéíóúÁÉÍÓÚ", strict=True))
_MOVED = 0.2  # share of wrong accents among accents written wrong; the others are left out


@dataclass
class _Piece:
    """A word in its punctuation, or what is never altered: white space and all that is no word."""

    before: str
    core: str = ""  # empty: not to be altered
    after: str = ""


def augment_text(text: str, operations: Sequence[Operation], rate: float, random: Random) -> str:
    """Alter a share of a text's words, each by one of ``operations`` drawn at random.

    ``delete`` and ``swap`` (with the next word) are from Wei & Zou, "EDA: Easy Data Augmentation Techniques
    for Boosting Performance on Text Classification Tasks", EMNLP 2019; ``typo`` (a neighbouring key, a letter
    twice, missing, or changed with the next) is like the noise of Belinkov & Bisk, "Synthetic and Natural
    Noise Both Break Neural Machine Translation", ICLR 2018; ``accent`` leaves out a word's accents
    (``pensión`` → ``pension``) or sets an acute one on another vowel; ñ is a letter of its own and stays.

    Words are letters alone: masks as ``<email>``, digits, addresses, hashtags and emoji stay as they are. A
    word with a comma or another mark beside it is not left out, nor is a negation, which is not moved either,
    and two words are always kept. The first letter is never mistyped, nor is a word of less than four
    letters.

    Args:
        rate: share of the words to alter, in (0, 1]; one word at least.

    Returns:
        The text, as it was if no operation can do anything with it.
    """
    pieces = [_piece(found) for found in _PIECE.findall(text)]
    words = [place for place, piece in enumerate(pieces) if piece.core]
    left = max(1, round(rate * len(words)))
    altered: set[int] = set()
    for place in random.sample(words, len(words)):
        if left <= 0:
            break
        if place in altered:
            continue
        for operation in random.sample(operations, len(operations)):
            touched = _OPERATIONS[operation](pieces, place, altered, random)
            if touched:
                altered.update(touched)
                left -= 1
                break
    return "".join(piece.before + piece.core + piece.after for piece in pieces)


def altered_copy(
    text: str,
    taken: Collection[str],
    operations: Sequence[Operation],
    rate: float,
    steps: Sequence[str],
    random: Random,
) -> str:
    """`augment_text`, cleaned by ``steps`` as texts are before prediction, if possible not in ``taken``."""
    copy = text
    for _ in range(ATTEMPTS):
        copy = clean_text(augment_text(text, operations, rate, random), steps)
        if copy not in taken:
            break
    return copy


def augment_repeats(
    table: pa.Table,
    repeats: Ints,
    operations: Sequence[Operation],
    rate: float,
    steps: Sequence[str],
    seed: int,
) -> tuple[pa.Table, int]:
    """Alter the texts of repeated rows; the k-th repeat of the row ``id`` gets the id ``id~k``.

    A copy depends on its id, its source's text and the seed, not on the other rows.

    Args:
        table: columns id and text; repeats follow their row.
        repeats: (n,), 0 for a row itself, k for its k-th repeat, see `number_repeats`.
        steps: cleaning steps of the run.

    Returns:
        The table, and how many copies are as their source, for want of anything to alter.
    """
    ids, texts = table["id"].to_pylist(), table["text"].to_pylist()
    taken: set[str] = set()
    unaltered = 0
    for row in np.flatnonzero(repeats).tolist():
        number, source, text = int(repeats[row]), ids[row], texts[row]
        if number == 1:
            taken = {text}
        random = Random(f"{seed} {source} {number}")
        texts[row] = altered_copy(text, taken, operations, rate, steps, random)
        ids[row] = f"{source}~{number}"
        taken.add(texts[row])
        unaltered += texts[row] == text
    for name, values in (("id", ids), ("text", texts)):
        field = table.schema.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
    return table, unaltered


def number_repeats(rows: Ints) -> Ints:
    """For ascending row numbers (n,) with repeats, which one of its row's each is: 0, 1, 2 ... ."""
    _, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
    numbers: Ints = np.arange(len(rows), dtype=np.int64) - first[inverse.reshape(-1)]
    return numbers


def _piece(found: str) -> _Piece:
    match = _WORD.fullmatch(found)
    return _Piece(match[1], match[2], match[3]) if match else _Piece(found)


# ------------------------------------------------------------------------------------ operations
# Each returns the places it has altered: none if it can do nothing there.


def _delete(pieces: list[_Piece], place: int, altered: Collection[int], random: Random) -> list[int]:
    """Take out a word and the white space on one side."""
    piece = pieces[place]
    if piece.before or piece.after or _negates(piece.core):
        return []
    if len(list(islice((other for other in pieces if other.core), 3))) < 3:
        return []
    beside = [at for at in (place - 1, place + 1) if 0 <= at < len(pieces) and pieces[at].before]
    for at in (place, *sorted(beside, key=lambda at: _breaks_line(pieces[at]))[:1]):
        pieces[at] = _Piece("")
    return [place]


def _swap(pieces: list[_Piece], place: int, altered: Collection[int], random: Random) -> list[int]:
    """Exchange a word with the next one, within a line and a clause."""
    following = place + 2  # white space is between
    if following >= len(pieces) or following in altered:
        return []
    first, second = pieces[place], pieces[following]
    if first.after or second.before or not second.core or first.core == second.core:
        return []
    if _negates(first.core) or _negates(second.core):  # "ya no quiero pagar", "ya quiero no pagar"
        return []
    if _breaks_line(pieces[place + 1]):
        return []
    first.core, second.core = second.core, first.core
    return [place, following]


def _typo(pieces: list[_Piece], place: int, altered: Collection[int], random: Random) -> list[int]:
    """Mistype a word."""
    word = pieces[place].core
    if not _TYPEABLE.fullmatch(word):
        return []
    at = random.randrange(1, len(word) - 1)
    letter, following = word[at], word[at + 1]
    choices = [letter * 2 + following, following]
    if letter.lower() != following.lower():
        choices.append(following + letter)
    if letter.lower() in NEIGHBOURS:
        key = random.choice(NEIGHBOURS[letter.lower()])
        choices.append((key.upper() if letter.isupper() else key) + following)
    pieces[place].core = word[:at] + random.choice(choices) + word[at + 2 :]
    return [place]


def _accent(pieces: list[_Piece], place: int, altered: Collection[int], random: Random) -> list[int]:
    """Leave out a word's accents, or set an acute accent on the wrong vowel."""
    word = pieces[place].core
    plain = "".join(_plain(letter) for letter in word)
    if plain == word:
        return []
    pieces[place].core = plain
    elsewhere = [at for at, letter in enumerate(word) if letter in _ACUTE]
    if elsewhere and any(letter in _ACUTE.values() for letter in word) and random.random() < _MOVED:
        at = random.choice(elsewhere)
        pieces[place].core = plain[:at] + _ACUTE[plain[at]] + plain[at + 1 :]
    return [place]


def _negates(word: str) -> bool:
    return word.lower() in _NEGATIONS or word.lower().endswith(("n't", "n’t"))


def _breaks_line(piece: _Piece) -> bool:
    return "\n" in piece.before or "\r" in piece.before


def _plain(letter: str) -> str:
    """A Latin letter without its marks; any other, and ñ, as it is."""
    if letter in "ñÑ":
        return letter
    base = unicodedata.normalize("NFD", letter)[0]
    return base if base.isascii() else letter


_OPERATIONS: dict[Operation, Callable[[list[_Piece], int, Collection[int], Random], list[int]]] = {
    "delete": _delete,
    "swap": _swap,
    "typo": _typo,
    "accent": _accent,
}
