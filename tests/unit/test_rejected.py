"""The file of rejected rows."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow as pa

from afina.rejected import write_rejected
from afina.table import REJECTED


def test_rejected_rows_hold_no_formula(tmp_path: Path) -> None:
    rejected = pa.Table.from_pylist(
        [
            {"id": "=1+1", "source": "m", "row": 2, "reason": "label", "detail": '=HYPERLINK("x";"y")'},
            {"id": "-7", "source": "m", "row": 1, "reason": "empty", "detail": None},
        ],
        schema=REJECTED,
    )
    write_rejected(rejected, tmp_path / "rejected.csv")
    with (tmp_path / "rejected.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows == [
        ["id", "source", "row", "reason", "detail"],
        ["-7", "m", "1", "empty", ""],
        ["'=1+1", "m", "2", "label", '\'=HYPERLINK("x";"y")'],
    ]
