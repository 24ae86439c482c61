"""The file of rejected rows that extract, clean and split each leave."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from afina.files import atomic_path
from afina.spreadsheets import escape_formula
from afina.table import REJECTED


def write_rejected(table: pa.Table, path: Path) -> None:
    """Write the rejected rows as CSV, sorted by source, row and id, every one with its reason.

    Cells that a spreadsheet would run as a formula get an apostrophe.
    """
    ordered = table.select(REJECTED.names).cast(REJECTED)
    order = pc.sort_indices(
        ordered, sort_keys=[("source", "ascending"), ("row", "ascending"), ("id", "ascending")]
    )
    ordered = ordered.take(order)
    for place, field in enumerate(REJECTED):
        if pa.types.is_string(field.type):
            cells = [
                cell if cell is None else escape_formula(cell) for cell in ordered[field.name].to_pylist()
            ]
            ordered = ordered.set_column(place, field, pa.array(cells, field.type))
    with atomic_path(path) as temporary:
        pa_csv.write_csv(ordered, temporary)
