"""Words, numbers and intervals as they are written in a language."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from afina.reporting.words import WORDS

Language = Literal["es", "en"]

MISSING = "–"
_NARROW = "\u202f"  # a narrow space that no line breaks at
_MINUS = "\u2212"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Locale:
    """How a language writes things.

    Attributes:
        language: es or en.
    """

    language: Language

    def text(self, key: str, **values: object) -> str:
        """The words of a key, with values in their places.

        Raises:
            KeyError: there is no such key, or no value for one of its places.
        """
        template = WORDS[self.language][key]
        return template.format(**values) if values else template

    def known(self, group: str, name: str) -> str:
        """The words for a name that another stage wrote, or the name itself if it is not known."""
        return WORDS[self.language].get(f"{group}.{name}", name)

    def count(self, key: str, number: int) -> str:
        """A number of things, in the singular or the plural: ``KEY.one`` or ``KEY.many``."""
        return self.text(f"{key}.{'one' if number == 1 else 'many'}", n=self.integer(number))

    def integer(self, number: float) -> str:
        """A whole number with its thousands apart: 1.234 or 1,234."""
        return self._localise(f"{round(number):,}")

    def decimal(self, number: float | None, digits: int = 3) -> str:
        """A number with so many decimals, 0,843 or 0.843; a dash for None."""
        return (
            MISSING if number is None else self._localise(f"{_no_negative_zero(number, digits):,.{digits}f}")
        )

    def signed(self, number: float | None, digits: int = 3) -> str:
        """As `decimal`, with a plus where the number is above 0."""
        if number is None:
            return MISSING
        return self._localise(f"{_no_negative_zero(number, digits):+,.{digits}f}")

    def scientific(self, number: float) -> str:
        """A number next to 0 as a digit and a power of ten: 5 × 10⁻⁷."""
        digit, power = f"{number:.0e}".split("e")
        return f"{digit}\u00a0×\u00a010{str(int(power)).translate(_SUPERSCRIPTS)}" if number else "0"

    def plain(self, number: float) -> str:
        """With as many decimals as it has, up to six digits."""
        return self._localise(f"{number:g}")

    def percent(self, share: float | None, digits: int = 0) -> str:
        """A share as a percentage: 84 % in Spanish, 84% in English; a dash for None.

        More decimals are written where it would look like none, or all, and is not.
        """
        if share is None:
            return MISSING
        places = digits
        while 0 < share < 1 and round(100 * share, places) in (0, 100) and places < 4:
            places += 1
        return self._localise(f"{_no_negative_zero(100 * share, places):,.{places}f}") + self._percent_sign()

    def given(self, share: float) -> str:
        """A share that somebody set, as a percentage with all its decimals: 97,5 % is not 98 %."""
        return self._localise(f"{round(100 * share, 6):,.10g}") + self._percent_sign()

    def points(self, number: float | None) -> str:
        """The change of a share in percentage points, with its sign."""
        return MISSING if number is None else self.signed(100 * number, 1)

    def interval(self, low: float | None, high: float | None, digits: int = 3) -> str:
        """Both ends of an interval; a dash where there is none."""
        if low is None or high is None:
            return MISSING
        return f"{self.decimal(low, digits)}\u2013{self.decimal(high, digits)}"

    def between(self, low: float | None, high: float | None, digits: int = 3) -> str:
        """Both ends of an interval, for a sentence; a dash where there is none."""
        if low is None or high is None:
            return MISSING
        return self.text("between", low=self.decimal(low, digits), high=self.decimal(high, digits))

    def percent_between(self, low: float | None, high: float | None, digits: int = 0) -> str:
        """Both ends of an interval of shares as percentages, for a sentence; a dash where there is none."""
        if low is None or high is None:
            return MISSING
        return self.text("between", low=self.decimal(100 * low, digits), high=self.percent(high, digits))

    def percent_interval(self, low: float | None, high: float | None, digits: int = 0) -> str:
        """Both ends of an interval of shares, as percentages; a dash where there is none."""
        if low is None or high is None:
            return MISSING
        return f"{self.decimal(100 * low, digits)}\u2013{self.percent(high, digits)}"

    def _percent_sign(self) -> str:
        return "%" if self.language == "en" else f"{_NARROW}%"

    def _localise(self, number: str) -> str:
        written = number.replace("-", _MINUS)
        return written.translate(str.maketrans(",.", ".,")) if self.language == "es" else written


def _no_negative_zero(number: float, digits: int) -> float:
    return 0.0 if round(number, digits) == 0 and math.isfinite(number) else number
