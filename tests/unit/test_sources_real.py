"""Sources and inspection on real files as they are found; skipped where the folder of data is absent."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from afina.inspection import inspect_file
from afina.params.extract import ExtractParams
from afina.sources import Extraction, read_sources

MEDICAL = "techsphere_medical/challenge_data-18-ago.csv"
XED = "xed_es/es-projections.tsv"


def extract(root: Path, *sources: dict[str, Any]) -> Extraction:
    return read_sources(ExtractParams.parse({"sources": list(sources)}), root)


def counts(extraction: Extraction) -> Counter[str]:
    return Counter(extraction.table["labels"].combine_chunks().flatten().to_pylist())


def test_medical_abstracts(real_data: Path) -> None:
    source = {"path": MEDICAL, "text": ["title", "abstract"], "label": "group", "label_separator": "|"}
    got = extract(real_data, source)
    assert (got.table.num_rows, got.rejected.num_rows) == (3565, 0)
    assert counts(got) == {
        "neurological": 1785,
        "cardiovascular": 1268,
        "hepatorenal": 1091,
        "oncological": 601,
    }
    assert sum(len(labels) > 1 for labels in got.table["labels"].to_pylist()) == 1092


def test_emotions_given_in_two_files_without_headers(real_data: Path) -> None:
    columns = {"header": False, "columns": ["text", "label"], "text": "text", "label": "label"}
    got = extract(
        real_data,
        {"path": "emotions_en/train.txt", **columns, "split_as": "train"},
        {"path": "emotions_en/test.txt", **columns, "split_as": "test"},
    )
    assert Counter(got.table["split"].to_pylist()) == {"train": 16000, "test": 2000}
    assert len(counts(got)) == 6
    assert got.rejected.num_rows == 0


def test_sustainable_development_goals_in_excel(real_data: Path) -> None:
    got = extract(real_data, {"path": "sdg_es/Train_textosODS.xlsx", "text": "textos", "label": "ODS"})
    assert got.table.num_rows == 9656
    assert set(counts(got)) == {str(number) for number in range(1, 17)}
    assert (counts(got)["16"], counts(got)["12"]) == (1080, 312)


@pytest.mark.parametrize(
    ("quotechar", "rows", "several", "lines"),
    [("", 11302, 4010, [721, 722, 3354, 3355]), (None, 11304, 4011, [])],
)
def test_subtitles_with_several_emotions(
    real_data: Path, quotechar: str | None, rows: int, several: int, lines: list[int]
) -> None:
    # Two quoted cells of this file run over two lines: one row each, or four broken lines without quoting.
    source = {
        "path": XED,
        "header": False,
        "text": 0,
        "label": 1,
        "label_separator": ",",
        "quotechar": quotechar,
    }
    got = extract(real_data, source)
    assert got.table.num_rows == rows
    assert got.rejected["row"].to_pylist() == lines
    assert set(counts(got)) == set("12345678")
    assert sum(len(labels) > 1 for labels in got.table["labels"].to_pylist()) == several


def test_topics_with_ids(real_data: Path) -> None:
    source = {
        "path": "sib200_es/train.tsv",
        "id": "index_id",
        "text": "text",
        "label": "category",
        "name": "sib",
    }
    got = extract(real_data, source)
    assert got.table.num_rows == 701
    assert "sib:431" in got.table["id"].to_pylist()
    assert counts(got)["science/technology"] == 176


@pytest.mark.parametrize(
    ("path", "text", "label", "separator", "classes"),
    [
        (MEDICAL, ("title", "abstract"), ("group",), "|", 4),
        ("emotions_en/train.txt", ("0",), ("1",), None, 6),
        ("sdg_es/Train_textosODS.xlsx", ("textos",), ("ODS",), None, 16),
        (XED, ("0",), ("1",), ",", 8),
        ("sib200_es/train.tsv", ("text",), ("category",), None, 7),
    ],
)
def test_inspection_finds_what_each_column_is(
    real_data: Path,
    path: str,
    text: tuple[str, ...],
    label: tuple[str, ...],
    separator: str | None,
    classes: int,
) -> None:
    found = inspect_file(real_data / path, real_data)
    assert (found.text, found.label, found.label_separator) == (text, label, separator)
    assert len(found.class_counts) == classes
    got = read_sources(ExtractParams.parse(yaml.safe_load(found.block)["extract"]), real_data)
    assert got.table.num_rows == found.rows
    assert counts(got) == found.class_counts
