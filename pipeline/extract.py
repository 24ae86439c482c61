"""Stage extract: rows of every source in one table, the rows that cannot be read in another."""

from __future__ import annotations

import sys
from pathlib import Path

from afina import table
from afina.params.base import load_section
from afina.params.extract import ExtractParams
from afina.rejected import write_rejected
from afina.sources import read_sources
from afina.stage import stage

WATCHED = Path("data/source")
MESSAGES = Path("data/raw/messages.parquet")
REJECTED = Path("data/raw/rejected.csv")


def warn_of_files_elsewhere(params: ExtractParams) -> None:
    """Say which files DVC does not watch, because they are not in the stage's dependency."""
    for source in params.sources:
        if source.path is not None and not Path(source.path).resolve().is_relative_to(WATCHED.resolve()):
            print(
                f"extract: note: {source.path} is outside {WATCHED}, so a change of it reruns nothing; "
                "copy it there, or run `dvc repro --force --single-item extract` after a change",
                file=sys.stderr,
            )


@stage("extract")
def main() -> str:
    """Read the sources and write both tables."""
    params = load_section(ExtractParams)
    extraction = read_sources(params, Path())
    warn_of_files_elsewhere(params)
    table.write(extraction.table, MESSAGES)
    write_rejected(extraction.rejected, REJECTED)
    line = extraction.describe()
    return f"{line} -> {REJECTED}" if extraction.rejected.num_rows else line


if __name__ == "__main__":
    main()
