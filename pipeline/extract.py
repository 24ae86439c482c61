"""Stage extract: rows of every source in one table, the rows that cannot be read in another."""

from __future__ import annotations

from pathlib import Path

from afina import table
from afina.params.base import load_section
from afina.params.extract import ExtractParams
from afina.sources import read_sources
from afina.stage import stage

MESSAGES = Path("data/raw/messages.parquet")
REJECTED = Path("data/raw/rejected.csv")


@stage("extract")
def main() -> str:
    """Read the sources and write both tables."""
    extraction = read_sources(load_section(ExtractParams), Path())
    table.write(extraction.table, MESSAGES)
    table.write_rejected(extraction.rejected, REJECTED)
    line = extraction.describe()
    return f"{line} -> {REJECTED}" if extraction.rejected.num_rows else line


if __name__ == "__main__":
    main()
