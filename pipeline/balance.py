"""Stage balance: data/splits/train.parquet -> data/balanced/ and the counts in reports/data/."""

from __future__ import annotations

from pathlib import Path

from afina import files, table
from afina.balancing import balance, imbalance
from afina.labels import read_label_set
from afina.params.balance import BalanceParams
from afina.params.base import load_section, load_seed
from afina.stage import stage

TRAIN = Path("data/splits/train.parquet")
LABELS = Path("data/clean/labels.json")
BALANCED = Path("data/balanced")
REPORT = Path("reports/data/balance.csv")


@stage("balance")
def main() -> str:
    params = load_section(BalanceParams)
    train = table.read(TRAIN)
    result = balance(train, read_label_set(LABELS), params, load_seed())
    table.write(result.table, BALANCED / "train.parquet", table.BALANCED_SCHEMA)
    files.write_json(BALANCED / "balance.json", result.summary)
    files.write_csv(REPORT, ("label", "stage", "examples"), result.rows)
    before, after = (imbalance(result.summary[stage]) for stage in ("before", "after"))
    return (
        f"{params.strategy}: {train.num_rows:,} rows in, {result.table.num_rows:,} out; "
        f"most frequent / rarest label {before:.1f} before, {after:.1f} after"
    )


if __name__ == "__main__":
    main()
