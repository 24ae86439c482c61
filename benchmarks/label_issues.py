"""How many of the demo's wrong labels are in the list that the stage audit makes: after `dvc repro`,

    python benchmarks/label_issues.py [--fine-tuned-folds K]

The generator of the demo's messages gives some of them a wrong label on purpose and notes which; nothing of
that reaches the pipeline. Precision is the share of the listed rows whose label is wrong, recall the share of
the wrong ones that are listed.

With K from 2 to 10 the list is made anew with audit.fine_tuned_folds K, in a temporary folder; the one in
reports stays as it is. That takes about K times as long as the stage train.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from afina.auditing.label_errors import score_against_truth

ROOT = Path(__file__).resolve().parent.parent
ISSUES = Path("reports/label_issues.csv")
TRUTH = Path("data/source/demo/truth.csv")
SPLITS = Path("data/splits")
# What the stage reads beside params.yaml.
INPUTS = (Path("data"), Path("models/adapted"), Path("reports/predictions.parquet"))
LENGTHS = (25, 50, 100)


def column(path: Path, name: str) -> list[str]:
    """A column of a CSV file."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [row[name] for row in csv.DictReader(stream)]


def list_issues(root: Path, fine_tuned_folds: int) -> list[str]:
    """The ids that the stage audit lists: in ``root``, or made anew with so many folds, if not 0."""
    if not fine_tuned_folds:
        return column(root / ISSUES, "id")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in INPUTS:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).symlink_to(root / path)
        params: dict[str, Any] = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
        params["audit"] = (params.get("audit") or {}) | {"fine_tuned_folds": fine_tuned_folds}
        (folder / "params.yaml").write_text(yaml.safe_dump(params, allow_unicode=True), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, str(root / "pipeline" / "audit.py")],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(root / "src")},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        print(done.stdout, end="", file=sys.stderr)
        if done.returncode:
            sys.exit("label_issues: the stage audit failed")
        return column(folder / ISSUES, "id")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and a last line with the figures of the whole list."""
    parser = argparse.ArgumentParser(description="How many of the demo's wrong labels the stage audit lists.")
    parser.add_argument(
        "--fine-tuned-folds",
        type=int,
        default=0,
        metavar="K",
        help="make the list anew with audit.fine_tuned_folds K, from 2 to 10",
    )
    folds = parser.parse_args(arguments).fine_tuned_folds
    if folds and not 2 <= folds <= 10:
        parser.error(f"--fine-tuned-folds: {folds} is not from 2 to 10")
    needed = ROOT / (SPLITS / "test.parquet" if folds else ISSUES)
    if not needed.is_file():
        sys.exit(f"{needed}: no such file; run `dvc repro` with the demo's params.yaml")
    used = {
        row
        for name in ("train", "validation", "test")
        for row in pq.read_table(ROOT / SPLITS / f"{name}.parquet", columns=["id"])["id"].to_pylist()
    }
    noted = set(column(ROOT / TRUTH, "id"))
    # The rows' ids have the name of their source before them.
    wrong = {row for row in used if row.rpartition(":")[2] in noted}
    if not wrong:
        sys.exit("label_issues: the splits are not those of the demo")
    scores = score_against_truth(list_issues(ROOT, folds), wrong, LENGTHS)
    print(f"{len(wrong)} of {len(used):,} labels are wrong ({len(wrong) / len(used):.1%})\n")
    print("| rows listed | wrong labels among them | precision | recall |\n|---|---|---|---|")
    for score in scores:
        print(f"| {score.rows} | {score.hits} | {score.precision:.2f} | {score.recall:.2f} |")
    last = scores[-1]
    print(f"\nlabel_issues: rows={last.rows} precision={last.precision:.3f} recall={last.recall:.3f}")


if __name__ == "__main__":
    main()
