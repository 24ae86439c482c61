"""Any table of strings, written by the csv module in any dialect, is read back as it was."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from afina.params.extract import ExtractParams
from afina.sources import read_sources

# In a file of one byte a character a byte of zero tells that it is no text.
ENCODABLE = {
    "utf-8": st.characters(codec="utf-8"),
    "utf-8-sig": st.characters(codec="utf-8"),
    "utf-16": st.characters(codec="utf-8"),
    "latin-1": st.characters(codec="latin-1", exclude_characters="\0"),
    "cp1252": st.characters(codec="cp1252", exclude_characters="\0"),
}
# Where quotes, delimiters and line ends meet is where readers go wrong: draw them often.
TRICKY = st.sampled_from([*"\",;\t|\r\n '\\\ufeffñ", "\r\n", '""', '"\n'])


def is_text(content: bytes) -> bool:
    """Whether few enough bytes are zero: a small file with many is taken for UTF-16 without a mark."""
    return content.count(0) <= 8


def cells(encoding: str) -> st.SearchStrategy[str]:
    tricky = TRICKY.filter(lambda text: encoding.startswith("utf") or text != "\ufeff")
    return st.lists(st.one_of(ENCODABLE[encoding], tricky), max_size=8).map("".join)


@pytest.mark.parametrize("encoding", list(ENCODABLE))
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_csv_round_trip(encoding: str, data: st.DataObject) -> None:
    delimiter = data.draw(st.sampled_from([",", ";", "\t", "|"]))
    quoting = data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    # With \n for line end the csv module leaves a cell's lone \r unquoted, which no reader can tell from one.
    line_end = data.draw(st.sampled_from(["\n", "\r\n"] if quoting == csv.QUOTE_ALL else ["\r\n"]))
    table = data.draw(st.lists(st.tuples(cells(encoding), cells(encoding)), min_size=1, max_size=6))
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter, quoting=quoting, lineterminator=line_end)
    writer.writerow(["text", "label"])
    writer.writerows(table)
    content = stream.getvalue().encode(encoding)
    assume(encoding == "utf-16" or is_text(content))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.csv").write_bytes(content)
        source = {
            "path": "a.csv", "text": "text", "label": "label", "delimiter": delimiter,
            "encoding": encoding, "quotechar": '"',
        }  # fmt: skip
        got = read_sources(ExtractParams.parse({"sources": [source]}), Path(folder))
    assert got.rejected.num_rows == 0
    assert got.table["text"].to_pylist() == [text for text, _ in table]
    assert got.table["labels"].to_pylist() == [[label] if label.strip() else [] for _, label in table]


@settings(max_examples=60, deadline=None)
@given(table=st.lists(st.tuples(cells("utf-8"), cells("utf-8")), min_size=1, max_size=30))
def test_a_file_with_every_cell_quoted_needs_no_options(table: list[tuple[str, str]]) -> None:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
    writer.writerow(["text", "label"])
    writer.writerows(table)
    content = stream.getvalue().encode()
    assume(is_text(content))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.csv").write_bytes(content)
        params = ExtractParams.parse({"sources": [{"path": "a.csv", "text": "text", "label": "label"}]})
        got = read_sources(params, Path(folder))
    assert got.table["text"].to_pylist() == [text for text, _ in table]
