"""Which words moved the model towards its answer, and which away from it. No files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from afina.reporting.blocks import Block, Example, Examples, Heading, Paragraph, Section, Version
from afina.reporting.inputs import Inputs
from afina.reporting.locale import Locale
from afina.reporting.setting import Setting, label_name, shorten

SHADES = 3
WEAK = 0.2  # of the strongest score of a text: less is not shaded, and not listed
STRONGEST = 5  # words of each list
ROUGH = 0.05  # relative error of a sum of scores that is told
MISTAKE = "mistake"


@dataclass(frozen=True)
class Word:
    """A word's place in a text, and its share in the answer."""

    start: int
    end: int
    score: float


def explanations(inputs: Inputs, setting: Setting) -> Section:
    """Messages with their words shaded: some mistakes, and some drawn at random."""
    locale = setting.locale
    found: Sequence[Mapping[str, Any]] = inputs.explanations.get("explanations") or ()
    task = inputs.label_set.task
    lists: list[Block] = []
    for why, title in ((True, "explained_mistakes"), (False, "explained_random")):
        rows = [row for row in found if (row.get("why") == MISTAKE) == why][: setting.examples]
        if rows:
            lists += [
                Heading(locale.text(title)),
                Examples([_example(row, task == "multiclass", setting) for row in rows]),
            ]
    if not lists:
        return Section("explanations", locale.text("explanations"))
    method = locale.known("method", str(inputs.explanations.get("method", "")))
    steps = inputs.explanations.get("steps")
    if steps:
        method = locale.text("method_steps", method=method, steps=locale.integer(steps))
    blocks = [
        Paragraph(locale.text("explanations_intro")),
        Paragraph(_legend(locale)),
        Paragraph(locale.text("explanations_note", method=method), "note"),
    ]
    return Section("explanations", locale.text("explanations"), [*blocks, *lists])


def _legend(locale: Locale) -> Markup:
    samples = (("for", SHADES), ("for", 1), ("against", 1), ("against", SHADES))
    return Markup(" ").join(
        Markup('<span class="{}{}">{}</span>').format(
            side, level, locale.text(f"legend_{side}_{'much' if level > 1 else 'little'}")
        )
        for side, level in samples
    )


def _example(row: Mapping[str, Any], multiclass: bool, setting: Setting) -> Example:
    locale, text = setting.locale, str(row["text"])
    words = read_words(row.get("words") or (), len(text))
    predicted, actual = row["predicted"], list(row.get("actual") or ())
    values = {
        "predicted": label_name(predicted, locale),
        "probability": locale.percent(row.get("probability"), 1),
        "actual": " + ".join(label_name(name, locale) for name in actual) or locale.text("none_label"),
    }
    key = "explained_other"
    if multiclass:
        key = "explained_right" if [predicted] == actual else "explained_wrong"
    facts: list[tuple[str, str | Markup]] = []
    for side, sign in (("for", 1), ("against", -1)):
        facts.append((locale.text(f"words_{side}"), _list(strongest(text, words, sign), locale)))
    error = row.get("error")
    if error is not None and abs(error) > ROUGH:
        facts.append((locale.text("rough"), locale.text("rough_by", error=locale.percent(abs(error), 1))))
    version = Version("", shade(text, words, setting.text_length), "")
    return Example(locale.text(key, **values), str(row.get("id", "")), [version], facts)


def _list(words: Sequence[tuple[str, float]], locale: Locale) -> Markup | str:
    if not words:
        return locale.text("no_words")
    return Markup(" · ").join(
        Markup('{} <span class="within">{}</span>').format(word, locale.signed(score, 2))
        for word, score in words
    )


def read_words(found: Sequence[Mapping[str, Any]], length: int) -> list[Word]:
    """The words in the order of the text, without those whose place or score makes no sense.

    Args:
        found: mappings with start, end and score.
        length: of the text.
    """
    words: list[Word] = []
    for entry in sorted(found, key=lambda entry: (entry["start"], entry["end"])):
        word = Word(int(entry["start"]), int(entry["end"]), float(entry["score"]))
        begin = words[-1].end if words else 0
        if begin <= word.start < word.end <= length and math.isfinite(word.score):
            words.append(word)
    return words


def strongest(text: str, words: Sequence[Word], sign: int, most: int = STRONGEST) -> list[tuple[str, float]]:
    """The words with the largest scores of a sign, and these; of a repeated one the largest.

    Those below ``WEAK`` of the strongest word of either sign are left out.
    """
    top = max((abs(word.score) for word in words), default=0.0)
    # Equal ones stay in the order of the text.
    ordered = sorted(words, key=lambda word: -sign * word.score)
    found: dict[str, tuple[str, float]] = {}
    for word in ordered:
        name = " ".join(text[word.start : word.end].split())
        if name and sign * word.score > 0 and abs(word.score) >= WEAK * top:
            found.setdefault(name.casefold(), (name, word.score))
    return list(found.values())[:most]


def shade(text: str, words: Sequence[Word], length: int) -> Markup:
    """A text, or the ``length`` characters of it that weigh most, its words in shades by their score.

    Only words are shaded: not the spaces around them that a tokenizer may count in.
    """
    words = [_trimmed(text, word) for word in words if text[word.start : word.end].strip()]
    if not words:
        return Markup("{}").format(shorten(text, length))
    top = max(abs(word.score) for word in words)
    start, end = _window(text, words, length)
    parts, at = [Markup("… ") if start else Markup("")], start
    for word in words:
        if word.start < start or word.end > end:
            continue
        parts.append(Markup("{}").format(text[at : word.start]))
        inside, name = text[word.start : word.end], _class(word.score, top)
        parts.append(
            Markup('<span class="{}">{}</span>').format(name, inside) if name else Markup("{}").format(inside)
        )
        at = word.end
    parts.append(Markup("{}").format(text[at:end]))
    parts.append(Markup(" …") if end < len(text) else Markup(""))
    return Markup("").join(parts)


def _trimmed(text: str, word: Word) -> Word:
    inside = text[word.start : word.end]
    return Word(
        word.start + len(inside) - len(inside.lstrip()),
        word.end - len(inside) + len(inside.rstrip()),
        word.score,
    )


def _class(score: float, top: float) -> str:
    """The style of a word; none for a weak one."""
    if not top or abs(score) < WEAK * top:
        return ""
    return f"{'for' if score > 0 else 'against'}{min(SHADES, math.ceil(SHADES * abs(score) / top))}"


def _window(text: str, words: Sequence[Word], length: int) -> tuple[int, int]:
    """Start and end of the part to show: the whole text, or that with the largest sum of sizes of scores.

    The part begins and ends with a word. Of equal ones it is the first. A word that is longer by itself is
    cut, and not shaded.
    """
    if len(text) <= length:
        return 0, len(text)
    room = length - 4  # the dots at both ends
    best, weight, last = (-1.0, 0, 0), 0.0, 0  # weight of the words from first to last, without last
    for first, word in enumerate(words):
        if last < first:
            last, weight = first, 0.0
        while last < len(words) and words[last].end - word.start <= room:
            weight += abs(words[last].score)
            last += 1
        if last > first:
            if weight > best[0] + 1e-12:
                best = (weight, word.start, words[last - 1].end)
            weight -= abs(word.score)
    if best[0] < 0:
        return words[0].start, words[0].start + room
    return best[1], best[2]
