"""How many of the demo's wrong labels are in the list that the stage audit makes: after `dvc repro`,

    python benchmarks/label_issues.py

The generator of the demo's messages gives some of them a wrong label on purpose and notes which; nothing of
that reaches the pipeline. Precision is the share of the listed rows whose label is wrong, recall the share of
the wrong ones that are listed.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pyarrow.parquet as pq

from afina.auditing.label_errors import score_against_truth

ROOT = Path(__file__).resolve().parent.parent
ISSUES = ROOT / "reports" / "label_issues.csv"
TRUTH = ROOT / "data" / "source" / "demo" / "truth.csv"
SPLITS = ROOT / "data" / "splits"
LENGTHS = (25, 50, 100)


def column(path: Path, name: str) -> list[str]:
    """A column of a CSV file."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [row[name] for row in csv.DictReader(stream)]


def main() -> None:
    """Print the table, and a last line with the figures of the whole list."""
    if not ISSUES.is_file():
        sys.exit(f"{ISSUES}: no such file; run `dvc repro` with the demo's params.yaml")
    used = {
        row
        for name in ("train", "validation", "test")
        for row in pq.read_table(SPLITS / f"{name}.parquet", columns=["id"])["id"].to_pylist()
    }
    noted = set(column(TRUTH, "id"))
    # The rows' ids have the name of their source before them.
    wrong = {row for row in used if row.rpartition(":")[2] in noted}
    if not wrong:
        sys.exit("label_issues: the splits are not those of the demo")
    scores = score_against_truth(column(ISSUES, "id"), wrong, LENGTHS)
    print(f"{len(wrong)} of {len(used):,} labels are wrong ({len(wrong) / len(used):.1%})\n")
    print("| rows listed | wrong labels among them | precision | recall |\n|---|---|---|---|")
    for score in scores:
        print(f"| {score.rows} | {score.hits} | {score.precision:.2f} | {score.recall:.2f} |")
    last = scores[-1]
    print(f"\nlabel_issues: rows={last.rows} precision={last.precision:.3f} recall={last.recall:.3f}")


if __name__ == "__main__":
    main()
