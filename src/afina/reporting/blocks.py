"""The parts that a section of the page is made of. The template knows how each is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from markupsafe import Markup


@dataclass(frozen=True)
class Block:
    """Any part."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Paragraph(Block):
    """A sentence or two; ``tone`` is plain, lead, good, bad or note."""

    kind: ClassVar[str] = "paragraph"
    text: str | Markup
    tone: str = "plain"


@dataclass(frozen=True)
class Heading(Block):
    """The title of what follows, one level below that of the section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Cell:
    """A cell: what is shown, what it is sorted by, and what its column is like."""

    shown: str | Markup
    sort: float | str | None = None
    tone: str = ""  # num, text, name or a mark


@dataclass(frozen=True)
class Column:
    """A column's name and the tone of its head."""

    name: str
    tone: str = ""


@dataclass(frozen=True)
class Table(Block):
    """A table; the first cell of a row is its head."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    sortable: bool = False

    @property
    def stacked(self) -> bool:
        """Whether a row is shown as a card on a narrow screen, as it holds a text to read."""
        return any(column.tone in ("text", "advice") for column in self.columns)

    @property
    def narrow(self) -> bool:
        """Whether the table needs only part of the page's width."""
        return len(self.columns) <= 4 and not self.stacked


@dataclass(frozen=True)
class Share:
    """A cell of a matrix."""

    count: str
    level: int  # of shade, 0 to 5
    title: str
    right: bool  # on the diagonal


@dataclass(frozen=True)
class Matrix(Block):
    """Counts of actual labels, one a row, by predicted ones."""

    kind: ClassVar[str] = "matrix"
    caption: str
    names: Sequence[str]
    rows: Sequence[Sequence[Share]]


@dataclass(frozen=True)
class Figure:
    """A chart with its title, the key of its series, and a sentence below."""

    title: str
    chart: Markup
    legend: Sequence[tuple[Markup, str]] = ()
    note: str = ""


@dataclass(frozen=True)
class Figures(Block):
    """Charts side by side where there is room."""

    kind: ClassVar[str] = "figures"
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Facts(Block):
    """Names and what they stand for."""

    kind: ClassVar[str] = "facts"
    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Bar:
    """A bar of a list: its name, its number as shown and its length from 0 to 1."""

    name: str
    shown: str
    length: float


@dataclass(frozen=True)
class Bars(Block):
    """Bars below each other."""

    kind: ClassVar[str] = "bars"
    bars: Sequence[Bar]


@dataclass(frozen=True)
class Points(Block):
    """A list of sentences."""

    kind: ClassVar[str] = "points"
    points: Sequence[str]


@dataclass(frozen=True)
class Version:
    """A text of a person, in one of its forms: what it is, the text, and what the model said of it."""

    name: str
    text: str | Markup
    answer: str | Markup


@dataclass(frozen=True)
class Example:
    """A message to look at: what it is an example of, the message beside its altered copy, and facts."""

    title: str
    id: str
    versions: Sequence[Version]
    facts: Sequence[tuple[str, str | Markup]] = ()


@dataclass(frozen=True)
class Examples(Block):
    """Messages below each other."""

    kind: ClassVar[str] = "examples"
    examples: Sequence[Example]


@dataclass(frozen=True)
class Code(Block):
    """Lines to copy."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Tile:
    """A number at the head of the page; ``value`` is what it is in full."""

    name: str
    shown: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page with a title that the contents link to; without blocks it is left out."""

    identity: str
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)
