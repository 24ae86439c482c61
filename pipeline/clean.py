"""Stage clean: data/raw/messages.parquet -> data/clean/ and the counts in reports/data/."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from afina import files, table
from afina.cleaning import clean, read_label_map
from afina.params.base import load_section
from afina.params.behave import BehaveParams
from afina.params.clean import CleanParams
from afina.progress import Progress
from afina.rejected import write_rejected
from afina.stage import note_unwatched, stage, warn

WATCHED = Path("data/source")
RAW = Path("data/raw/messages.parquet")
CLEAN = Path("data/clean")
REPORTS = Path("reports/data")


def check_cases(labels: Mapping[str, Any]) -> None:
    """Check the file of cases, which behave reads at the end, as soon as the labels are known.

    Raises:
        UserError: `read_cases` refuses it, for example as it names a label that there is not.
    """
    path = load_section(BehaveParams).cases
    if path is not None:
        from afina.behaviour.cases import read_cases  # needs scikit-learn, which takes a second to import

        read_cases(Path(path), labels["labels"], labels["task"])


@stage("clean")
def main() -> str:
    params = load_section(CleanParams)
    warn("clean", params.without_effect())
    note_unwatched("clean", params.files().values(), WATCHED)
    mapping = read_label_map(Path(params.label_map)) if isinstance(params.label_map, str) else None
    messages = table.read(RAW)
    with Progress("clean", messages.num_rows, "rows") as progress:
        result = clean(messages, params, mapping, progress)
    write_rejected(result.rejected, CLEAN / "rejected.csv")
    result.require_classes()
    check_cases(result.labels)
    table.write(result.table, CLEAN / "messages.parquet")
    files.write_json(CLEAN / "labels.json", result.labels)
    files.write_json(REPORTS / "cleaning.json", result.counts)
    files.write_csv(REPORTS / "label_map.csv", ("raw", "label", "rows"), result.label_map)
    warn("clean", result.notes())
    return result.describe()


if __name__ == "__main__":
    main()
