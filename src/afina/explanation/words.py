"""From scores of tokens to scores of words, by the places that tokens have in the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import regex

# A word as it is written: a mask of the cleaning (<email>), or letters and digits with what joins them
# ("pre-aprobado", "d'Or", "12.500"). Scripts without spaces between words stay as the tokenizer cuts them.
_LETTERS = r"[\w--[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]]++"
_WORD = regex.compile(rf"(?V1)<\w+>|{_LETTERS}(?:(?:['’\-]|(?<=\d)[.,:/](?=\d)){_LETTERS})*+")


@dataclass(frozen=True)
class Word:
    """A stretch of a text, in characters, and the sum of the scores of its tokens."""

    start: int
    end: int
    score: float


def merge_words(text: str, offsets: Sequence[tuple[int, int]], scores: Sequence[float]) -> list[Word]:
    """Join tokens that are parts of one word, or that share a character.

    Args:
        offsets: first and last character + 1 of each token, in the order of the text. White space at their
            ends, which some tokenizers count to the token, is left out.
        scores: of the tokens.

    Returns:
        Stretches of the text in its order, none overlapping. A word of which the model saw the beginning
        ends where that does. What has no place of its own (white space, a part that a tokenizer adds) counts
        to the next word, at the end to the last one, so that the scores add up to those of the tokens.
    """
    word_of = [-1] * len(text)
    for number, found in enumerate(_WORD.finditer(text)):
        word_of[found.start() : found.end()] = [number] * (found.end() - found.start())
    words: list[Word] = []
    waiting = 0.0
    for offset, score in zip(offsets, scores, strict=True):
        start, end = _trim(text, *offset)
        if start == end:
            waiting += score
            continue
        score, waiting = score + waiting, 0.0
        last = words[-1] if words else None
        if last is not None and (start < last.end or -1 < word_of[start] == word_of[last.end - 1]):
            words[-1] = Word(min(start, last.start), max(end, last.end), last.score + score)
        else:
            words.append(Word(start, end, score))
    if words and waiting:
        words[-1] = Word(words[-1].start, words[-1].end, words[-1].score + waiting)
    return words


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    part = text[start:end]
    left = len(part) - len(part.lstrip())
    return (start + left, start + max(len(part.rstrip()), left))
