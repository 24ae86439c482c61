"""The file that keeps messages in the split they are in when others come: one line each, id and split."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from afina.delimiters import likely_delimiter
from afina.errors import UserError
from afina.files import write_csv
from afina.params.split import SPLITS
from afina.spreadsheets import escape_formula

COLUMNS = ("id", "split")


def write_kept(path: Path, kept: Mapping[str, str]) -> None:
    """Write the split of each id, sorted by id; ids that a spreadsheet would run get an apostrophe."""
    write_csv(path, COLUMNS, sorted((escape_formula(id_), split) for id_, split in kept.items()))


def read_kept(path: Path) -> dict[str, str]:
    """Read a CSV with the columns ``id`` and ``split``; others are passed over.

    The delimiter (comma, semicolon, tab, bar) is the one that the header has most of.

    Returns:
        id, with an apostrophe where a spreadsheet would run it as a formula -> train, validation or test.

    Raises:
        UserError: the file cannot be read, is not UTF-8 or not CSV, lacks a column or a cell, names a split
            that is none, or puts one id in two.
    """

    def refuse(what: str) -> UserError:
        return UserError(f"split.keep: {path}: {what}")

    kept: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            delimiter = likely_delimiter(stream.readline())
            stream.seek(0)
            # Strict: else a quote that is never closed swallows the rest of the file.
            reader = csv.DictReader(stream, delimiter=delimiter, strict=True)
            if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                raise refuse(f"no column {missing[0]}; `afina keep-split` writes id and split")
            for row in reader:
                id_, split = (row[name] or "" for name in COLUMNS)
                if not id_ or split not in SPLITS:
                    raise refuse(
                        f"line {reader.line_num}: expected an id and train, validation or test, found "
                        f"{id_!r} and {split!r}"
                    )
                if (before := kept.setdefault(escape_formula(id_), split)) != split:
                    raise refuse(f"line {reader.line_num}: the id {id_!r} is in {before} too")
    except FileNotFoundError:
        raise refuse("no such file; write it with `afina keep-split`, or take split.keep out") from None
    except OSError as error:
        raise refuse(f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise refuse("not UTF-8; save it as CSV UTF-8") from None
    except csv.Error as error:
        raise refuse(f"line {reader.line_num}: not CSV ({error})") from None
    return kept
