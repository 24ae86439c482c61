"""Altered copies of raw texts that mean the same: what the invariance tests put to a model.

Each perturbation is a function from text to text, or to None where it changes nothing or has no place. Those
that draw take a `random.Random`, and depend on nothing else. Markup and character references stay as they
are. A text with mojibake is not altered where that would put its repair out of reach: it has lost letters
that a person wrote, and no person would write its capitals or leave out its accents.
"""

from __future__ import annotations

import html.entities
import re
from collections.abc import Callable
from itertools import pairwise
from random import Random

from afina.augmentation import augment_text
from afina.params.behave import BehaviourTest, Language
from afina.runtime.text import fix_mojibake, normalize_unicode, strip_accents

_MARKUP = r"<[^<>]{1,400}+>|&\#?\w{1,31}+;"
_MARKUP_PART = re.compile(f"({_MARKUP})")
# Ends of sentences within the text; markup is matched as well, so that none is found inside it.
_SENTENCE_END = re.compile(rf"{_MARKUP}|(?<=[.!?…])(?=\s+\S)")
_BETWEEN_WORDS = re.compile(r"(?<=\S) (?=\S)")
_BETWEEN_SENTENCES = re.compile(r"[ \t]++(?=[^\s>])")  # a line that begins with > would be a quoted one
_FOREIGN = re.compile(r"[^\x00-\x7f]")
_LOWEST_RATE = 1e-9  # of words to alter, of which one is the least

GREETINGS: dict[Language, tuple[str, ...]] = {
    "es": ("Hola,", "Hola a todos.", "Buenos días.", "Buenas tardes:", "Estimados señores:"),
    "en": ("Hello,", "Hi all.", "Good morning.", "Good afternoon.", "Dear Sir or Madam,"),
}
FAREWELLS: dict[Language, tuple[str, ...]] = {
    "es": ("Gracias.", "Saludos.", "Un saludo,", "Muchas gracias de antemano.", "Que tengan un buen día."),
    "en": ("Thanks.", "Regards.", "Best wishes,", "Many thanks in advance.", "Have a nice day."),
}
# Addresses that RFC 2606 and numbers that the North American plan keep for examples: they are nobody's.
EMAILS = ("ana.soto@example.org", "j_perez84@example.com", "MARTA.RUIZ@EXAMPLE.NET")
PHONES = ("+1 202 555 0143", "(202) 555-0178", "202-555-0119", "+12025550126")
URLS = ("https://www.example.org/consulta?id=1024", "www.example.com/ayuda", "http://example.net")


# ------------------------------------------------------------------------------------- letters


def upper_case(text: str) -> str | None:
    """All letters as capitals."""
    return _of_words(text, str.upper)


def lower_case(text: str) -> str | None:
    """All letters small."""
    return _of_words(text, str.lower)


def no_accents(text: str) -> str | None:
    """Without accents; ñ is a letter of its own and stays, as in `afina.runtime.text.strip_accents`."""
    composed = normalize_unicode(text)
    return None if composed == strip_accents(composed) else _of_words(text, strip_accents)


def typo(text: str, random: Random) -> str | None:
    """One word of each sentence mistyped, as in `afina.augmentation.augment_text`."""
    edges = [0, *_sentence_ends(text), len(text)]
    sentences = [text[start:end] for start, end in pairwise(edges)]
    mistyped = [augment_text(sentence, ["typo"], _LOWEST_RATE, random) for sentence in sentences]
    return _changed(text, "".join(mistyped))


def html_entities(text: str) -> str | None:
    """All characters beyond ASCII as character references: ``ñ`` becomes ``&ntilde;``."""
    return None if _is_mojibake(text) else _changed(text, _FOREIGN.sub(_reference, text))


# ---------------------------------------------------------------------------------- white space


def double_spaces(text: str) -> str | None:
    """Two spaces between words instead of one."""
    return _of_parts(text, lambda part: _BETWEEN_WORDS.sub("  ", part))


def line_breaks(text: str) -> str | None:
    """An empty line between sentences, where there is none."""
    copy = text
    for end in reversed(_sentence_ends(text)):
        space = _BETWEEN_SENTENCES.match(text, end)
        if space:
            copy = f"{copy[:end]}\n\n{copy[space.end() :]}"
    return _changed(text, copy)


# ------------------------------------------------------------------------------------- additions


def greeting(text: str, random: Random, language: Language) -> str | None:
    """A greeting before the text."""
    return f"{random.choice(GREETINGS[language])} {text}" if text.strip() else None


def farewell(text: str, random: Random, language: Language) -> str | None:
    """A farewell after the text, on a line of its own."""
    return f"{text.rstrip()}\n{random.choice(FAREWELLS[language])}" if text.strip() else None


def email(text: str, random: Random) -> str | None:
    """An e-mail address after one of the sentences."""
    return _insert(text, random.choice(EMAILS), random)


def phone(text: str, random: Random) -> str | None:
    """A telephone number after one of the sentences."""
    return _insert(text, random.choice(PHONES), random)


def url(text: str, random: Random) -> str | None:
    """A web address after one of the sentences."""
    return _insert(text, random.choice(URLS), random)


def trailing_dots(text: str) -> str | None:
    """Three dots at the end, in the place of one."""
    plain = text.rstrip()
    return f"{plain.rstrip('.')}..." if plain and not plain.endswith(("...", "…")) else None


# ------------------------------------------------------------------------------------- by name


_PLAIN: dict[BehaviourTest, Callable[[str], str | None]] = {
    "upper_case": upper_case,
    "lower_case": lower_case,
    "no_accents": no_accents,
    "double_spaces": double_spaces,
    "line_breaks": line_breaks,
    "trailing_dots": trailing_dots,
    "html_entities": html_entities,
}
_DRAWN: dict[BehaviourTest, Callable[[str, Random], str | None]] = {
    "email": email,
    "phone": phone,
    "url": url,
    "typo": typo,
}
_SPOKEN: dict[BehaviourTest, Callable[[str, Random, Language], str | None]] = {
    "greeting": greeting,
    "farewell": farewell,
}
INVARIANCE_TESTS = (*_PLAIN, *_DRAWN, *_SPOKEN)


def perturb(name: BehaviourTest, text: str, random: Random, language: Language = "es") -> str | None:
    """Apply the perturbation of this name.

    Args:
        name: one of ``INVARIANCE_TESTS``.
        random: of what is drawn.
        language: of greetings and farewells.

    Returns:
        The altered copy, or None where the perturbation changes nothing.
    """
    if name in _PLAIN:
        return _PLAIN[name](text)
    if name in _DRAWN:
        return _DRAWN[name](text, random)
    return _SPOKEN[name](text, random, language)


def _changed(text: str, copy: str | None) -> str | None:
    return None if copy == text else copy


def _of_words(text: str, change: Callable[[str], str]) -> str | None:
    return None if _is_mojibake(text) else _of_parts(text, change)


def _of_parts(text: str, change: Callable[[str], str]) -> str | None:
    """Change all but markup, which has the odd places of what the split gives."""
    parts = _MARKUP_PART.split(text)
    return _changed(text, "".join(part if at % 2 else change(part) for at, part in enumerate(parts)))


def _is_mojibake(text: str) -> bool:
    return fix_mojibake(text) != text


def _sentence_ends(text: str) -> list[int]:
    return [found.start() for found in _SENTENCE_END.finditer(text) if not found[0]]


def _insert(text: str, piece: str, random: Random) -> str | None:
    if not text.strip():
        return None
    end = random.choice([*_sentence_ends(text), len(text.rstrip())])
    return f"{text[:end]} {piece}{text[end:]}"


def _reference(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"&{html.entities.codepoint2name.get(code, f'#{code}')};"
