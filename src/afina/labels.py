"""The labels of a run: their order, and their encoding as the arrays that models and metrics use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from afina.errors import UserError
from afina.files import read_json

Task = Literal["multiclass", "multilabel"]
TASKS: tuple[str, ...] = get_args(Task)


@dataclass(frozen=True)
class LabelSet:
    """What the clean stage decided: the task, the labels in model order, and how texts were cleaned."""

    task: Task
    labels: tuple[str, ...]
    counts: dict[str, int] = field(default_factory=dict)  # label -> examples in the clean table
    cleaning: dict[str, Any] = field(default_factory=dict)  # {"steps": [...]}, repeated at prediction time


def read_label_set(path: Path) -> LabelSet:
    """Read labels.json.

    Raises:
        UserError: the file is missing, is not JSON, or lacks a task or two different labels.
    """
    value = read_json(path)
    task = value.get("task") if isinstance(value, dict) else None
    if task not in TASKS:
        raise UserError(
            f"{path}: task: expected multiclass or multilabel, found {task!r}; run `dvc repro -f`"
        )
    labels = value.get("labels")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise UserError(f"{path}: labels: expected a list of names; run `dvc repro -f`")
    if len(set(labels)) != len(labels):
        raise UserError(f"{path}: labels: a name is repeated; run `dvc repro -f`")
    if len(labels) < (2 if task == "multiclass" else 1):
        raise UserError(f"{path}: labels: {len(labels)} found, too few to tell apart; see the clean section")
    return LabelSet(
        cast(Task, task), tuple(labels), dict(value.get("counts") or {}), dict(value.get("cleaning") or {})
    )


def encode_labels(
    column: pa.Array | pa.ChunkedArray | Sequence[Sequence[str]], labels: Sequence[str], task: Task
) -> npt.NDArray[Any]:
    """Encode a table's ``labels`` column in the order of ``labels``.

    Args:
        column: n lists of label names.
        labels: the L label names in model order.
        task: ``multiclass`` asks for exactly one label a row.

    Returns:
        multiclass: int64 (n,), the index of each row's label;
        multilabel: int8 (n, L), 1 where the row has the label. A row may have none.

    Raises:
        UserError: a label is not in ``labels``, or a multiclass row has not exactly one.
    """
    if isinstance(column, pa.ChunkedArray):
        lists = column.combine_chunks()
    elif isinstance(column, pa.Array):
        lists = column
    else:
        lists = pa.array([list(names) for names in column], type=pa.list_(pa.string()))
    names = pc.list_flatten(lists)
    rows = np.asarray(pc.list_parent_indices(lists), dtype=np.int64)
    indexes = pc.index_in(names, value_set=pa.array(list(labels), type=pa.string()))
    if indexes.null_count:
        unknown = names.filter(pc.is_null(indexes))[0].as_py()
        raise UserError(
            f"labels: {unknown!r} is not among the {len(labels)} labels of labels.json; run `dvc repro`"
        )
    positions = np.asarray(indexes, dtype=np.int64)
    if task == "multiclass":
        sizes = np.bincount(rows, minlength=len(lists))
        if len(sizes) and not (sizes == 1).all():
            row = int(np.flatnonzero(sizes != 1)[0])
            raise UserError(
                f"labels: row {row} has {sizes[row]} labels where multiclass takes exactly one; "
                "set clean.task to multilabel or mend the source"
            )
        return positions
    encoded = np.zeros((len(lists), len(labels)), dtype=np.int8)
    encoded[rows, positions] = 1
    return encoded


def decode_labels(encoded: npt.NDArray[Any], labels: Sequence[str]) -> list[list[str]]:
    """Turn class indexes (n,) or multi-hot rows (n, L) back into lists of names."""
    if encoded.ndim == 1:
        return [[labels[int(index)]] for index in encoded]
    return [[labels[int(index)] for index in np.flatnonzero(row)] for row in encoded]
