"""What the sections and the model card share: the setting, and names and texts as they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from afina.evaluation.metrics import FEW_ROWS
from afina.evaluation.tables import NONE
from afina.params.balance import BalanceParams
from afina.params.train import TrainParams
from afina.reporting.blocks import Cell
from afina.reporting.inputs import Inputs, Row, Rows, integer, split_names
from afina.reporting.locale import Locale


@dataclass(frozen=True)
class Setting:
    """What was run, as far as params.yaml says it, and how it is told."""

    locale: Locale
    title: str | None = None
    level: float = 0.95  # of the intervals
    strategy: str | None = None  # against imbalance
    corrections: Sequence[str] = ()  # of imbalance besides, as `other_corrections` names them
    examples: int = 20
    text_length: int = 280

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.title or self.locale.text("title")


def other_corrections(balance: BalanceParams, train: TrainParams) -> list[str]:
    """What favours rare labels in training besides ``balance.strategy``, as parameters and their values."""
    found = {
        "balance.label_weights": "" if balance.label_weights else None,
        "balance.augment_target": balance.augment_target,
        "train.loss": None if train.loss == "cross_entropy" else train.loss,
        "train.sampler": None if train.sampler == "shuffle" else train.sampler,
    }
    return [f"{name} {value}".rstrip() for name, value in found.items() if value is not None]


def shorten(text: str, length: int) -> str:
    """A text on one line, cut after a word where it is longer than ``length``, with an ellipsis."""
    line = " ".join(text.split())
    if len(line) <= length:
        return line
    head = line[: length - 1]
    if not line[length - 1].isspace() and " " in head[length // 2 :]:
        head = head.rsplit(" ", 1)[0]
    return head.rstrip(" ,.;:") + "…"


def scores_of_classes(inputs: Inputs) -> Rows:
    """The rows of per_class.csv that are about a label, in the order of the labels."""
    found = {row["label"]: row for row in inputs.per_class if "label" in row}
    return [found[label] for label in inputs.label_set.labels if label in found]


def is_few(row: Row) -> bool:
    """Whether a label has too few test rows for its scores to say something."""
    return integer(row, "support") < FEW_ROWS


def label_name(label: str | None, locale: Locale) -> str:
    """A label as it is shown."""
    return locale.text("none_label") if label in (None, NONE) else str(label)


def label_names(cell: str | None, labels: Sequence[str], locale: Locale) -> str:
    """Labels of one row as they are shown, joined; what joins them in the cell may be in a name too."""
    names = [cell] if cell in labels else split_names(cell)
    return " + ".join(label_name(name, locale) for name in names) or locale.text("none_label")


def month_name(moment: str, locale: Locale) -> str:
    """The month of an ISO date, in words."""
    when = datetime.fromisoformat(moment)
    months = locale.text("months").split()
    return locale.text("month", month=months[when.month - 1], year=when.year)


def flag(text: str) -> Markup:
    """A short remark that stands out."""
    return Markup('<span class="flag">{}</span>').format(text)


def decimal_cell(value: float | None, locale: Locale) -> Cell:
    """A number with three decimals."""
    return Cell(locale.decimal(value), value, "num")


def score_cell(value: float | None, metric: str, locale: Locale) -> Cell:
    """A score: a share of messages as a percentage, an F1 as a decimal."""
    shown = locale.percent(value, 1) if metric == "accuracy" else locale.decimal(value)
    return Cell(shown, value, "num")
