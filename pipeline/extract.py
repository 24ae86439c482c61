"""Stage extract: rows of every source in one table, the rows that cannot be read in another."""

from __future__ import annotations

from pathlib import Path

from afina import table
from afina.params.base import load_section
from afina.params.extract import ExtractParams
from afina.params.whole import check_whole
from afina.rejected import write_rejected
from afina.sources import read_sources
from afina.stage import note_unwatched, stage

WATCHED = Path("data/source")
MESSAGES = Path("data/raw/messages.parquet")
REJECTED = Path("data/raw/rejected.csv")


@stage("extract")
def main() -> str:
    """Read the sources and write both tables."""
    params = load_section(ExtractParams)
    check_whole(Path())
    extraction = read_sources(params, Path())
    note_unwatched("extract", [source.path for source in params.sources if source.path is not None], WATCHED)
    table.write(extraction.table, MESSAGES)
    write_rejected(extraction.rejected, REJECTED)
    line = extraction.describe()
    return f"{line} -> {REJECTED}" if extraction.rejected.num_rows else line


if __name__ == "__main__":
    main()
