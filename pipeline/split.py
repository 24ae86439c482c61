"""Split the clean messages into train, validation and test."""

from __future__ import annotations

from pathlib import Path

from afina import table
from afina.files import write_csv, write_json
from afina.kept_split import read_kept
from afina.labels import read_label_set
from afina.params.base import load_section, load_seed
from afina.params.split import SPLITS, SplitParams
from afina.rejected import write_rejected
from afina.splitting import split_messages
from afina.stage import note_unwatched, stage

WATCHED = Path("data/source")
CLEAN = Path("data/clean")
OUTPUT = Path("data/splits")
REPORTS = Path("reports/data")


@stage("split")
def main() -> str:
    params = load_section(SplitParams)
    messages = table.read(CLEAN / "messages.parquet")
    note_unwatched("split", params.files().values(), WATCHED)
    kept = None if params.keep is None else read_kept(Path(params.keep))
    division = split_messages(messages, read_label_set(CLEAN / "labels.json"), params, load_seed(), kept)
    for name in SPLITS:
        table.write(division.tables[name], OUTPUT / f"{name}.parquet")
    write_rejected(division.rejected, OUTPUT / "rejected.csv")
    write_json(REPORTS / "split.json", division.report)
    write_csv(REPORTS / "split_classes.csv", ("label", *SPLITS), division.classes)
    return division.summary


if __name__ == "__main__":
    main()
