"""Whether quotes in a CSV keep the rules: one that opens and does not close takes the next lines along."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice


def is_sound(lines: Sequence[str], delimiter: str) -> bool:
    """Whether lines are one record whose quotes keep the rules."""
    try:
        return len(list(csv.reader(lines, delimiter=delimiter, strict=True))) == 1
    except csv.Error:
        return False


class UnsoundQuotesError(ValueError):
    """A quote opens and does not close.

    Attributes:
        line: where the record begins, from 1.
    """

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


class _Lines:
    """Lines handed to the csv module; those of the current record can be looked at again."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self.record: list[str] = []
        self.ended = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._lines, None)
        if line is None:
            self.ended = True
            raise StopIteration
        self.record.append(line)
        return line


def sound_rows(lines: Iterable[str], delimiter: str, skip: int = 0) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV after ``skip`` lines, each with the number of its last line.

    Raises:
        UnsoundQuotesError: a row that goes on over lines, or to the end, because of a quote out of place.
        csv.Error: as the csv module.
    """
    source = _Lines(islice(lines, skip, None))
    reader = csv.reader(source, delimiter=delimiter)
    for row in reader:
        # A row is given after the end only where it asked for more lines.
        if (len(source.record) > 1 or source.ended) and not is_sound(source.record, delimiter):
            raise UnsoundQuotesError(skip + reader.line_num - len(source.record) + 1)
        source.record.clear()
        yield skip + reader.line_num, row
