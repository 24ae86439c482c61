"""The file that keeps messages in the split they are in when others come: one line each, id and split."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from afina.delimiters import likely_delimiter
from afina.errors import UserError
from afina.files import write_csv
from afina.params.split import SPLITS
from afina.spreadsheets import escape_formula
from afina.text_hash import text_hashes

COLUMNS = ("id", "split", "text_hash")
_NEEDED = COLUMNS[:2]


@dataclass
class Kept:
    """Which split messages are kept in: by what they say, which an id may no longer tell, else by id.

    Of messages that are equal `clean` leaves the one of the first id, which a later message may have.
    """

    ids: dict[str, str] = field(default_factory=dict)  # with an apostrophe where a spreadsheet would run it
    texts: dict[str, str | None] = field(default_factory=dict)  # hash -> split; None: in several

    def splits(self, ids: Sequence[str], texts: Sequence[str]) -> list[str | None]:
        """The split of each message; None where it is not kept."""
        hashes = text_hashes(texts) if self.texts else [""] * len(ids)
        return [
            self.texts.get(digits) or self.ids.get(escape_formula(id_))
            for id_, digits in zip(ids, hashes, strict=True)
        ]

    def add(self, id_: str, split: str, digits: str) -> str:
        """Keep a message; returns the split that its id is in, another one where it is named twice."""
        if digits and self.texts.setdefault(digits, split) != split:
            self.texts[digits] = None
        return self.ids.setdefault(escape_formula(id_), split)


def write_kept(path: Path, rows: Iterable[tuple[str, str, str]]) -> None:
    """Write id, split and text of each message, of the text its hash alone, sorted by id.

    Ids that a spreadsheet would run get an apostrophe.
    """
    found = sorted((escape_formula(id_), split, *text_hashes([text])) for id_, split, text in rows)
    write_csv(path, COLUMNS, found)


def read_kept(path: Path) -> Kept:
    """Read a CSV with the columns ``id`` and ``split``, and ``text_hash`` where it has one.

    The delimiter (comma, semicolon, tab, bar) is the one that the header has most of.

    Raises:
        UserError: the file cannot be read, is not UTF-8 or not CSV, lacks a column or a cell, names a split
            that is none, or puts one id in two.
    """

    def refuse(what: str) -> UserError:
        return UserError(f"split.keep: {path}: {what}")

    kept = Kept()
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            delimiter = likely_delimiter(stream.readline())
            stream.seek(0)
            # Strict: else a quote that is never closed swallows the rest of the file.
            reader = csv.DictReader(stream, delimiter=delimiter, strict=True)
            if missing := [name for name in _NEEDED if name not in (reader.fieldnames or ())]:
                raise refuse(f"no column {missing[0]}; `afina keep-split` writes id and split")
            for row in reader:
                id_, split, digits = (row.get(name) or "" for name in COLUMNS)
                if not id_ or split not in SPLITS:
                    raise refuse(
                        f"line {reader.line_num}: expected an id and train, validation or test, found "
                        f"{id_!r} and {split!r}"
                    )
                if (before := kept.add(id_, split, digits)) != split:
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
