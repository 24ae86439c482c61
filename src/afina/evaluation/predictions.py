"""predictions.parquet: what the model said about every validation and test row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from afina.errors import UserError
from afina.evaluation.metrics import FloatArray, IntArray
from afina.files import atomic_path
from afina.labels import LabelSet, decode_labels

SCHEMA_VERSION = "1"

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),  # test | validation
        pa.field("labels", pa.list_(pa.string()), nullable=False),
        pa.field("predicted", pa.list_(pa.string()), nullable=False),
        pa.field("probabilities", pa.list_(pa.float32()), nullable=False),  # in the order of the labels
    ]
)

Part = tuple[Sequence[str], IntArray, IntArray, FloatArray]  # ids, truth, predictions, probabilities


def prediction_table(label_set: LabelSet, splits: Mapping[str, Part]) -> pa.Table:
    """One row for each row of each split, sorted by split and id.

    The schema's metadata hold ``schema_version``, ``task`` and ``labels`` (JSON, the order of
    ``probabilities``), so that the file can be read alone.
    """
    tables = []
    for split, (ids, truth, predicted, probabilities) in splits.items():
        rows, width = probabilities.shape
        values = pa.array(np.ascontiguousarray(probabilities, dtype=np.float32).ravel())
        offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * width)
        columns = [
            pa.array(list(ids), type=pa.string()),
            pa.array([split] * rows, type=pa.string()),
            pa.array(decode_labels(truth, label_set.labels), type=pa.list_(pa.string())),
            pa.array(decode_labels(predicted, label_set.labels), type=pa.list_(pa.string())),
            pa.ListArray.from_arrays(offsets, values),
        ]
        tables.append(pa.Table.from_arrays(columns, schema=SCHEMA))
    table = pa.concat_tables(tables).sort_by([("split", "ascending"), ("id", "ascending")])
    return table.combine_chunks().replace_schema_metadata(
        {
            "schema_version": SCHEMA_VERSION,
            "task": label_set.task,
            "labels": json.dumps(list(label_set.labels), ensure_ascii=False),
        }
    )


def rival_table(ids: Sequence[str], rivals: Mapping[str, IntArray], labels: Sequence[str]) -> pa.Table:
    """What other models say of the same rows: the column ``id``, and one of label lists for each model.

    Args:
        ids: of n rows.
        rivals: predictions by model, each (n,) or (n, L).
        labels: the L label names.
    """
    columns = {
        name: pa.array(decode_labels(predicted, labels), type=pa.list_(pa.string()))
        for name, predicted in rivals.items()
    }
    return pa.table({"id": pa.array(list(ids), type=pa.string())} | columns).sort_by("id").combine_chunks()


def write_predictions(table: pa.Table, path: Path) -> None:
    """Write a table made by `prediction_table` or `rival_table`; equal content gives equal bytes."""
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=65_536, write_statistics=False)


def read_predictions(path: Path, label_set: LabelSet | None = None) -> pa.Table:
    """Read a table written by `write_predictions`.

    Args:
        label_set: what the predictions have to be of; None: of any labels.

    Raises:
        UserError: the file is missing, is not Parquet, has another schema version or is of other labels.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `dvc repro` to make it") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: not a Parquet file ({error}); run `dvc repro -f evaluate`") from None
    said = table.schema.metadata or {}
    version = said.get(b"schema_version", b"none").decode()
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema version {version}, expected {SCHEMA_VERSION}; run `dvc repro -f evaluate`"
        )
    if label_set is not None and json.loads(said.get(b"labels", b"[]")) != list(label_set.labels):
        raise UserError(f"{path}: other labels than data/clean/labels.json; run `dvc repro evaluate`")
    return table
