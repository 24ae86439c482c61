"""Stage balance: data/splits/train.parquet -> data/balanced/ and the counts in reports/data/."""

from __future__ import annotations

from pathlib import Path

from afina import files, table
from afina.balancing import Balanced, balance, imbalance
from afina.labels import read_label_set
from afina.params.balance import BalanceParams
from afina.params.base import load_section, load_seed
from afina.stage import stage, warn

TRAIN = Path("data/splits/train.parquet")
LABELS = Path("data/clean/labels.json")
BALANCED = Path("data/balanced")
REPORT = Path("reports/data/balance.csv")


@stage("balance")
def main() -> str:
    params = load_section(BalanceParams)
    warn("balance", params.without_effect())
    train = table.read(TRAIN)
    result = balance(train, read_label_set(LABELS), params, load_seed())
    table.write(result.table, BALANCED / "train.parquet", table.BALANCED_SCHEMA)
    files.write_json(BALANCED / "balance.json", result.summary)
    files.write_csv(REPORT, ("label", "stage", "examples"), result.rows)
    before, after = (imbalance(result.summary[stage]) for stage in ("before", "after"))
    rows = f"{train.num_rows:,} rows in, {result.table.num_rows:,} out{_copies(params, result)}"
    return f"{params.strategy}: {rows}; most frequent / rarest label {before:.1f} before, {after:.1f} after"


def _copies(params: BalanceParams, result: Balanced) -> str:
    """What the message says of altered copies."""
    if not params.augment:
        return ""
    same = result.summary["unaltered_copies"]
    unlike = f"; {same:,} with nothing to alter" if same else ""
    return (
        f", {result.summary['augmented_rows']:,} of them altered copies ({', '.join(params.augment)}{unlike})"
    )


if __name__ == "__main__":
    main()
