"""What the page is made of: the files that other stages wrote; one that is not there is empty."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from afina.evaluation.tables import NONE, SEPARATOR
from afina.files import read_json
from afina.labels import LabelSet
from afina.spreadsheets import unescape_formula

Row = Mapping[str, str]  # cells by column
Rows = Sequence[Row]
Pair = tuple[str, str]  # actual, predicted
EXAMPLES = 3  # texts of a confusion


@dataclass(frozen=True)
class Inputs:
    """Contents of the files; of a CSV its rows, each cell as text.

    Attributes:
        label_set: task, labels, counts and cleaning.
        metrics: metrics.json.
        evaluation: evaluation.json.
        model: classifier.json of the trained classifier.
        export: export.json.
        summary, cleaning: of the data, before the split.
        split: split.json.
        explanations: explanations.json.
        examples: texts of each confusion, as `confusion_examples` finds them.
    """

    label_set: LabelSet
    metrics: Mapping[str, Any]
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    export: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    cleaning: Mapping[str, Any] = field(default_factory=dict)
    split: Mapping[str, Any] = field(default_factory=dict)
    explanations: Mapping[str, Any] = field(default_factory=dict)
    per_class: Rows = ()
    split_classes: Rows = ()
    confusion: Rows = ()
    models: Rows = ()
    slices: Rows = ()
    reliability: Rows = ()
    risk_coverage: Rows = ()
    precision_recall: Rows = ()
    training: Rows = ()
    lengths: Rows = ()
    issues: Rows = ()
    pairs: Rows = ()
    mistakes: Rows = ()
    behaviour: Rows = ()
    behaviour_failures: Rows = ()
    examples: Mapping[Pair, Sequence[str]] = field(default_factory=dict)

    @property
    def calibrated(self) -> bool:
        """Whether the probabilities were calibrated: only then is there an error from before."""
        return "uncalibrated_ece" in (self.evaluation.get("calibration") or {})


def read_optional_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; empty where there is no file, or no mapping in it.

    Raises:
        UserError: the file is not JSON.
    """
    found = read_json(path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def read_optional_rows(path: Path, escaped: bool = False) -> Rows:
    """The rows of a CSV file with a header; none where there is no file.

    Args:
        escaped: `afina.spreadsheets.escape_row` made the file's rows; its apostrophes are taken off.
    """
    if not path.is_file():
        return ()
    csv.field_size_limit(sys.maxsize)
    shown = unescape_formula if escaped else str
    with path.open(encoding="utf-8", newline="") as stream:
        return [{key: shown(value) for key, value in row.items() if value} for row in csv.DictReader(stream)]


def number(row: Row, column: str) -> float | None:
    """The number in a cell; None where it is empty or the table has no such column."""
    return float(row[column]) if column in row else None


def integer(row: Row, column: str) -> int:
    """The whole number in a cell; 0 where it is empty or the table has no such column."""
    return round(number(row, column) or 0)


def confusion_examples(
    predictions: pa.Table, labels: Sequence[str], test: pa.Table, limit: int = EXAMPLES
) -> dict[Pair, list[str]]:
    """Of each pair of an actual label and the one predicted instead, the texts surest to be wrong.

    Pairs are as in `afina.evaluation.tables.confusion_pairs`. The surest text comes first, of equally sure
    ones that with the lowest id; where nothing was predicted, that with the lowest probability of what was
    missed.

    Args:
        predictions: as `afina.evaluation.predictions.prediction_table` makes it.
        labels: in the order of its probabilities.
        test: with the columns id and text.
        limit: texts of each pair.
    """
    texts = dict(zip(test["id"].to_pylist(), test["text"].to_pylist(), strict=True))
    place = {label: at for at, label in enumerate(labels)}
    found: dict[Pair, list[tuple[float, str]]] = {}
    for row in predictions.to_pylist():
        actual, predicted = set(row["labels"]), set(row["predicted"])
        if row["split"] != "test" or actual == predicted or row["id"] not in texts:
            continue
        shares = row["probabilities"]
        for missed in sorted(actual - predicted) or [NONE]:
            for wrong in sorted(predicted - actual) or [NONE]:
                sure = 1 - shares[place[missed]] if wrong == NONE else shares[place[wrong]]
                found.setdefault((missed, wrong), []).append((-sure, row["id"]))
    return {pair: [texts[row_id] for _, row_id in sorted(rows)[:limit]] for pair, rows in found.items()}


def split_names(cell: str | None) -> list[str]:
    """The names in a cell where they are joined."""
    return cell.split(SEPARATOR) if cell else []
