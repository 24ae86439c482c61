"""The clean stage: vectorised steps are the plain ones; labels, duplicates, conflicts; every row counted."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from afina import cleaning, table
from afina.cleaning import clean, clean_texts, read_label_map, resolve_labels
from afina.errors import UserError
from afina.params.clean import CleanParams
from afina.runtime.text import DEFAULT_STEPS, STEPS, clean_text

FRAGMENTS = [
    "<b>", "</p>", "<", "&", "&lt;", "ñ", "n\u0303", "á", "Ã±", "â€", "\u037e", "\u226e", "😀", "👩‍👩‍👧", "❤️",
    "1️⃣", "\n", "\r",
    "\x0b", "\x85", "\u2028", "\t", " ", "  ", "\u00a0", "\u200b", "\ufeff", "\x00", "\x7f", "> a", "-- ",
    "Saludos", "De: x",
    "Enviado: y", "@", "a@b.es", "www.x", "WWW.x", "ftp://", ".com", "x.ly/a", ".İ", "12345678", "Z",
    "600 123 456", "+34", "/",
    "ES91", "İ", "ı", "ſ", "\u212a", "ß", "Σ", "A", "é", "Ø", "\u0301" * 35, "\u20e3" * 35, "dni 12345", "²",
    "٣" * 9, "º",
]  # fmt: skip
texts = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=2)), max_size=8).map("".join)


def messages(*rows: tuple[str, list[str]] | dict[str, Any]) -> pa.Table:
    made = []
    for number, row in enumerate(rows):
        values = row if isinstance(row, dict) else {"text": row[0], "labels": row[1]}
        made.append({"id": f"{number:03}", "source": "s", **values})
    return pa.Table.from_pylist(made, schema=table.SCHEMA)


def params(**values: Any) -> CleanParams:
    return CleanParams.parse(values)


def outcome(result: cleaning.Cleaned) -> dict[str, list[str]]:
    rows = result.table.select(["id", "labels"]).to_pylist()
    return {row["id"]: row["labels"] for row in rows}


def reasons(result: cleaning.Cleaned) -> dict[str, str]:
    return {row["id"]: row["reason"] for row in result.rejected.to_pylist()}


# ----------------------------------------------------------------------------------------- texts


@pytest.mark.parametrize("text", ["codigo AB12ABCDEFGH pendiente", "Ref MX24 ABCD EFGH"])
def test_a_number_of_few_digits_is_masked_in_the_column_as_in_the_text(text: str) -> None:
    (cleaned,) = clean_texts(pa.array([text]), ["mask_ids"]).to_pylist()
    assert cleaned == clean_text(text, ["mask_ids"]) != text


def test_every_step_says_what_it_touches() -> None:
    assert list(cleaning.TOUCHES) == list(STEPS)


@settings(deadline=None, max_examples=200)
@given(
    rows=st.lists(texts, max_size=6),
    steps=st.one_of(st.just(list(DEFAULT_STEPS)), st.permutations(list(STEPS)),
    st.sampled_from([[s] for s in STEPS])),
)  # fmt: skip
def test_columns_are_cleaned_as_single_texts(rows: list[str], steps: list[str]) -> None:
    column = pa.chunked_array([pa.array(rows, pa.string()), pa.array(rows[:1], pa.string())])
    assert clean_texts(column, steps).to_pylist() == [clean_text(text, steps) for text in [*rows, *rows[:1]]]


CLASSES = ("fix_mojibake", "normalize_unicode", "lowercase", "strip_accents", "collapse_whitespace")


@pytest.mark.parametrize("step", CLASSES)
def test_a_step_leaves_every_character_outside_its_pattern_alone(step: str) -> None:
    """Each code point of the planes that hold scripts and emoji, on its own and between letters."""
    points = [chr(point) for point in range(0x20000) if not 0xD800 <= point < 0xE000]
    for wrapped in (points, [f"a{character}b" for character in points]):
        column = pa.array(wrapped, pa.large_string())
        untouched = pc.invert(pc.match_substring_regex(column, pattern=cleaning.TOUCHES[step]))
        for text in column.filter(untouched).to_pylist():
            assert STEPS[step](text) == text


def test_a_process_pool_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"<b>n{number}</b> Ã±" for number in range(50)]
    plain = clean_texts(pa.array(rows), DEFAULT_STEPS)
    monkeypatch.setattr(cleaning, "POOL_ROWS", 10)
    monkeypatch.setattr(cleaning, "CHUNK_ROWS", 7)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert clean_texts(pa.array(rows), DEFAULT_STEPS).equals(plain)


def test_an_unknown_step_fails_even_without_a_row() -> None:
    with pytest.raises(ValueError, match="unknown cleaning step"):
        clean_texts(pa.array([], pa.string()), ["x"])


# ---------------------------------------------------------------------------------------- labels


def test_spellings_of_a_label_are_one() -> None:
    found = resolve_labels({"Crédito": 5, "credito ": 2, "CREDITO": 1, "año": 1, "ano": 1}, params(), {})
    assert found == {
        "Crédito": "Crédito",
        "credito ": "Crédito",
        "CREDITO": "Crédito",
        "año": "año",
        "ano": "ano",
    }


def test_spellings_stay_apart_without_folding() -> None:
    names = {"Uno": 1, "uno": 1}
    assert resolve_labels(names, params(fold_labels=False), {}) == {"Uno": "Uno", "uno": "uno"}


def test_the_map_wins_over_spellings_and_reaches_unmapped_ones() -> None:
    found = resolve_labels(
        {"billing": 1, "COBROS": 90, "spam": 3}, params(), {"Billing ": "Cobros", "Spam": None, "unused": "x"}
    )
    assert found == {"billing": "Cobros", "COBROS": "Cobros", "spam": None}


def test_unmapped_labels() -> None:
    names, mapping = {"a": 1, "b": 1}, {"a": "A"}
    assert resolve_labels(names, params(), mapping) == {"a": "A", "b": "b"}
    assert resolve_labels(names, params(unmapped="drop"), mapping) == {"a": "A", "b": None}
    with pytest.raises(UserError, match=r"clean\.label_map: 1 labels are not in it: 'b'"):
        resolve_labels(names, params(unmapped="error"), mapping)
    assert resolve_labels(names, params(unmapped="error"), {}) == {"a": "a", "b": "b"}
    nothing = {"label_map": "map.csv"}  # a file that names no label
    assert resolve_labels(names, params(unmapped="drop", **nothing), {}) == {"a": None, "b": None}
    with pytest.raises(UserError, match="2 labels are not in it"):
        resolve_labels(names, params(unmapped="error", **nothing), {})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, "clean.label_map: expected a mapping of old labels to new ones, or the name of a file, found 5"),
        (["a"], "clean.label_map: expected a mapping of old labels to new ones, or the name of a file"),
        ({1: ["a"]}, r"clean.label_map: the new label of 1 should be text, found \['a'\]"),
    ],
)
def test_a_label_map_of_another_form_is_named(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        CleanParams.parse({"label_map": value})


def test_keep_and_drop_lists() -> None:
    names = {"Uno": 1, "Dos": 1, "Tres": 1}
    assert resolve_labels(names, params(drop_labels=["uno"]), {}) == {
        "Uno": None,
        "Dos": "Dos",
        "Tres": "Tres",
    }
    assert resolve_labels(names, params(keep_labels=["uno"]), {}) == {"Uno": "Uno", "Dos": None, "Tres": None}
    with pytest.raises(
        UserError, match=r"clean\.drop_labels: the data has no label 'Unoo'; did you mean 'Uno'"
    ):
        resolve_labels(names, params(drop_labels=["Unoo"]), {})


def test_a_name_mapped_twice_is_an_error() -> None:
    with pytest.raises(UserError, match="mapped twice"):
        resolve_labels({"a": 1}, params(), {"a": "X", "A": "Y"})


@pytest.mark.parametrize(
    "content",
    [
        "raw,label\nseñal,Señal\nspam,\n",
        "raw;label;nota, con coma\nseñal;Señal;x\nspam;;\n\n",
        "raw\tlabel\r\nseñal\tSeñal\r\nspam\t\r\n",
        "Label,n,RAW\nSeñal,3,señal\n,1,spam\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_read_label_map(content: str, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    path.write_bytes(content.encode(encoding))
    assert read_label_map(path) == {"señal": "Señal", "spam": None}


def test_a_label_map_as_spreadsheets_save_it(tmp_path: Path) -> None:
    expected = {"señal": "Señal", "spam": None, "7": "siete"}
    rows = [("raw", "label", "n"), ("señal", "Señal", 3), ("spam", None, 1), (7, "siete", None)]
    workbook = openpyxl.Workbook()
    for row in rows:
        workbook.active.append(row)
    workbook.save(tmp_path / "map.xlsx")
    assert read_label_map(tmp_path / "map.xlsx") == expected
    lines = [";".join("" if cell is None else str(cell) for cell in row) for row in rows]
    (tmp_path / "sep.csv").write_text("sep=;\n" + "\n".join(lines), encoding="utf-8")
    assert read_label_map(tmp_path / "sep.csv") == expected
    # The line decides, not what is frequent in the header.
    (tmp_path / "sep.csv").write_text('"sep=;"\nraw;label;a, b, c, d\nx;y;1\n', encoding="utf-8")
    assert read_label_map(tmp_path / "sep.csv") == {"x": "y"}
    (tmp_path / "sep.csv").write_bytes(b"sep=;;\rraw;label;\rx;y;\r")
    assert read_label_map(tmp_path / "sep.csv") == {"x": "y"}
    (tmp_path / "unicode.txt").write_text("\n".join(lines).replace(";", "\t"), encoding="utf-16")
    assert read_label_map(tmp_path / "unicode.txt") == expected


@pytest.mark.parametrize("fold", [True, False])
def test_a_label_map_names_numbers_as_the_file_or_as_extract_has_them(fold: bool) -> None:
    strict = params(fold_labels=fold, unmapped="error", label_map={"x": "y"})
    mapping = {"1.0": "neg", "2": "neg", "3.0": None, "4.5": "pos", "5.0": "pos", "5": "best"}
    counts = {"1": 3, "2": 3, "3": 3, "4.5": 3, "5": 3, "5.0": 3}
    found = resolve_labels(counts, strict, mapping)
    assert found == {"1": "neg", "2": "neg", "3": None, "4.5": "pos", "5": "best", "5.0": "pos"}
    cleaned = clean(messages(("uno", ["1"]), ("dos", ["2"])), strict, {"1.0": "a", "2": "b", "6.0": "c"})
    assert cleaned.counts["unused_label_map_names"] == ["6.0"]


def test_a_label_map_that_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_label_map(tmp_path)
    (tmp_path / "map.xls").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\x00\x01")
    with pytest.raises(UserError, match=r"found no text; save it as CSV or .xlsx$"):
        read_label_map(tmp_path / "map.xls")
    (tmp_path / "map.xlsx").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(UserError, match="not an Excel workbook"):
        read_label_map(tmp_path / "map.xlsx")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("label\nx\n", "line 1: expected the column names raw and label, found label"),
        ("Agua,agua\n", "found agua, agua"),
        ("", "found nothing"),
        ("raw,label\na,x\na,y\n", "line 3: 'a' has two new names"),
        ("raw,label\na\n", "line 2: 1 columns$"),
        ("raw,label\nPagos, otros,pagos\n", "line 2: 3 columns instead of 2; put quotes around"),
        (
            'raw,label\na,"b\nc,d\ne,f\n',
            r"line 2: not CSV \(unexpected end of data\); see whether its quotes",
        ),
        pytest.param(  # what else the process has read decides which of the two it is
            'raw,label\na,b\n"c' + "\nd,e" * 50_000,
            r"line 3: not CSV \((field larger|unexpected end of data)",
            id="long",
        ),
    ],
)
def test_a_wrong_label_map(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_label_map(path)
    with pytest.raises(UserError, match="no such file"):
        read_label_map(tmp_path / "other.csv")


# ------------------------------------------------------------------------------------------ rows


def test_empty_short_and_unlabelled_rows_are_rejected() -> None:
    result = clean(
        messages(("<br> &nbsp;", ["a"]), ("una", ["a"]), ("dos palabras", []), ("tres de ellas", [" "]),
        ("y más", ["b"])),
        params(min_words=2),
    )  # fmt: skip
    assert outcome(result) == {"004": ["b"]}
    assert reasons(result) == {
        "000": "empty text",
        "001": "fewer than 2 words",
        "002": "no label",
        "003": "no label",
    }
    assert result.counts["rejected"] == {"empty text": 1, "too few words": 1, "no label": 2}


def test_dropped_labels_reject_a_row_only_when_none_is_left() -> None:
    rows = messages(("x", ["a", "b"]), ("y", ["b"]), ("z", ["a"]), ("w", ["c", "a"]))
    result = clean(rows, params(drop_labels=["b"]))
    assert outcome(result) == {"000": ["a"], "002": ["a"], "003": ["a", "c"]}
    assert reasons(result) == {"001": "label dropped"}
    assert result.rejected["detail"].to_pylist() == ["b"]
    assert outcome(clean(rows, params(drop_labels=["b"], task="multilabel", unlabelled="keep")))["001"] == []


def test_the_task_follows_from_mapped_labels() -> None:
    rows = messages(("x", ["a", "A "]), ("y", ["b"]))
    result = clean(rows, params())
    assert result.labels["task"] == "multiclass"
    assert outcome(result) == {"000": ["a"], "001": ["b"]} or outcome(result) == {"000": ["A"], "001": ["b"]}
    several = messages(("x", ["a", "c"]), ("y", ["b"]))
    assert clean(several, params()).labels["task"] == "multilabel"
    forced = clean(several, params(task="multiclass"))
    assert reasons(forced) == {"000": "several labels in a multiclass task"}


def test_duplicates_keep_the_smallest_id_or_the_test_copy() -> None:
    rows = messages(
        {"id": "9", "text": "hola", "labels": ["a"]},
        {"id": "5", "text": "<b>hola</b>", "labels": ["a"]},
        {"id": "7", "text": " hola ", "labels": ["A"]},
        {"id": "2", "text": "adiós", "labels": ["b"], "split": "train"},
        {"id": "3", "text": "adiós", "labels": ["b"], "split": "test"},
        {"id": "1", "text": "Hola", "labels": ["a"]},
    )
    result = clean(rows, params())
    assert sorted(outcome(result)) == ["1", "3", "5"]
    assert reasons(result) == {"9": "duplicate of 5", "7": "duplicate of 5", "2": "duplicate of 3"}
    assert result.counts["rejected"] == {"duplicate": 3}


CONFLICT = messages(
    ("p", ["a"]), ("p", ["b"]), ("p", ["b"]),  # b wins
    ("q", ["a"]), ("q", ["c"]),  # a tie
    ("r", ["a"]),
    ("s", ["b"]), ("t", ["c"]),
)  # fmt: skip


def test_conflicts_by_majority() -> None:
    result = clean(CONFLICT, params())
    assert outcome(result) == {"001": ["b"], "005": ["a"], "006": ["b"], "007": ["c"]}
    assert reasons(result) == {
        "000": "same text under another label, which has the majority: 001",
        "002": "duplicate of 001",
        "003": "same text under other labels, no majority",
        "004": "same text under other labels, no majority",
    }


def test_conflicts_dropped() -> None:
    result = clean(CONFLICT, params(conflicts="drop"))
    assert sorted(outcome(result)) == ["005", "006", "007"]
    assert result.counts["rejected"] == {"conflicting labels": 5}  # the duplicate of a conflict is one too
    assert set(reasons(result).values()) == {"same text under other labels"}


@pytest.mark.parametrize("policy", ["majority", "drop", "union"])
def test_train_never_outvotes_a_given_test(policy: str) -> None:
    def row(text: str, label: str, split: str) -> dict[str, Any]:
        return {"text": text, "labels": [label], "split": split}

    rows = messages(
        row("x", "a", "train"), row("x", "a", "train"), row("x", "b", "test"),
        row("y", "a", "train"), row("y", "b", "validation"),
        # Two copies in train of what one row in test says do not make it the majority there.
        row("z", "a", "train"), row("z", "a", "train"), row("z", "a", "test"), row("z", "b", "test"),
        row("v", "b", "train"), row("w", "a", "train"),
    )  # fmt: skip
    result = clean(rows, params(conflicts=policy, task="multilabel" if policy == "union" else "multiclass"))
    kept = {"002": ["b"], "004": ["b"], "009": ["b"], "010": ["a"]}
    assert outcome(result) == kept | ({"007": ["a", "b"]} if policy == "union" else {})
    found = reasons(result)
    assert found["000"] == "same text under another label in a split that stays as given: 002"
    assert found["003"] == "same text under another label in a split that stays as given: 004"
    assert result.counts["rejected"]["other label in another split"] == 3


def test_conflicts_kept() -> None:
    result = clean(CONFLICT, params(conflicts="keep"))
    assert sorted(outcome(result)) == ["000", "001", "003", "004", "005", "006", "007"]


def test_duplicates_of_a_loser_go_to_the_winner() -> None:
    rows = messages(*[("p", ["a"])] * 3, *[("p", ["b"])] * 2, ("q", ["b"]))
    found = reasons(clean(rows, params()))
    assert found["001"] == "duplicate of 000"
    assert found["003"] == found["004"] == "same text under another label, which has the majority: 000"


def test_multilabel_conflicts_over_sets_or_as_their_union() -> None:
    rows = messages(("p", ["a", "b"]), ("p", ["b", "a"]), ("p", ["c"]), ("q", ["d", "c"]), ("q", ["a"]))
    majority = clean(rows, params())
    assert outcome(majority) == {"000": ["a", "b"]}
    union = clean(rows, params(conflicts="union"))
    assert outcome(union) == {"000": ["a", "b", "c"], "003": ["a", "c", "d"]}
    assert reasons(union) == {
        "001": "duplicate of 000",
        "002": "labels merged into 000",
        "004": "labels merged into 003",
    }


def test_settings_for_several_labels_need_them() -> None:
    rows = messages(("x", ["a"]), ("y", ["b"]))
    for setting in ({"conflicts": "union"}, {"unlabelled": "keep"}):
        with pytest.raises(UserError, match=r"set clean\.task to multilabel"):
            clean(rows, params(**setting))
        with pytest.raises(UserError, match="needs task: multilabel"):
            params(task="multiclass", **setting)


def many(**counts: int) -> pa.Table:
    return messages(*[(f"{label} {number}", [label]) for label, n in counts.items() for number in range(n)])


def test_rare_labels_are_dropped() -> None:
    result = clean(many(a=5, b=3, c=3, d=1), params(min_count=2))
    assert result.labels["counts"] == {"a": 5, "b": 3, "c": 3}
    assert set(reasons(result).values()) == {"rare label (top_k or min_count)"}
    top = clean(many(a=5, b=3, c=3, d=1), params(top_k=2))
    assert top.labels["counts"] == {"a": 5, "b": 3}  # of equal counts the first name
    assert top.label_map == [("a", "a", 5), ("b", "b", 3), ("c", "", 3), ("d", "", 1)]


def test_rare_labels_go_to_other() -> None:
    result = clean(many(a=5, b=3, c=2, d=1), params(top_k=1, other="Otros"))
    assert result.labels["counts"] == {"Otros": 6, "a": 5}
    assert result.label_map == [("a", "a", 5), ("b", "Otros", 3), ("c", "Otros", 2), ("d", "Otros", 1)]
    assert not result.rejected.num_rows


def test_other_is_spelt_as_in_the_data() -> None:
    result = clean(many(Otros=5, Pago=9, Rara=2), params(min_count=3, other="otros"))
    assert result.labels["counts"] == {"Otros": 7, "Pago": 9}
    apart = clean(
        many(Otros=5, Pago=9, Rara=2), params(min_count=2, top_k=2, other="otros", fold_labels=False)
    )
    assert apart.labels["counts"] == {"Otros": 5, "Pago": 9, "otros": 2}


def test_labels_counted_after_duplicates_and_merged_again_after_other() -> None:
    rows = messages(*[("x", ["a"])] * 5, ("y", ["a"]), ("z", ["b"]), ("w", ["b"]), ("v", ["b"]))
    assert clean(rows, params(min_count=3)).labels["counts"] == {"b": 3}
    kept = messages(("x", ["a"]), ("x", ["b"]), ("y", ["c"]), ("z", ["c"]), ("w", ["c"]))
    result = clean(kept, params(conflicts="keep", min_count=2, other="o"))
    assert result.labels["counts"] == {"c": 3, "o": 1}
    assert reasons(result) == {"001": "duplicate of 000"}


def test_multilabel_rows_lose_rare_labels_only() -> None:
    rows = messages(
        ("x", ["a", "b"]), ("y", ["a"]), ("z", ["b"]), ("w", ["b", "a"]), ("v", ["r"]), ("u", ["r", "a"])
    )
    result = clean(rows, params(min_count=3))
    assert outcome(result)["005"] == ["a"]
    assert reasons(result) == {"004": "rare label (top_k or min_count)"}
    other = clean(rows, params(min_count=3, other="o"))
    assert outcome(other)["005"] == ["a", "o"]


def test_other_columns_come_along() -> None:
    slices = [("office", "Sur"), ("region", "3")]
    rows = messages(
        {"text": "a  b", "labels": ["x"], "group": "g", "split": "test", "slices": slices}, ("c", ["y"])
    )
    first, second = clean(rows, params()).table.to_pylist()
    assert first == {"id": "000", "source": "s", "text": "a b", "labels": ["x"], "group": "g", "time": None,
                     "split": "test", "slices": slices}  # fmt: skip
    assert second["slices"] is None


@pytest.mark.parametrize("policy", ["majority", "union"])
def test_slices_are_those_of_the_row_that_is_kept(policy: str) -> None:
    def row(row_id: str, text: str, label: str, split: str | None = None) -> dict[str, Any]:
        slices = [("office", f"office of {row_id}")]
        return {"id": row_id, "text": text, "labels": [label], "split": split, "slices": slices}

    rows = messages(
        row("5", "p", "a"), row("3", "p", "a"), row("4", "p", "b"),  # 3 stands for 5, and wins over 4
        row("1", "q", "b", "train"), row("2", "q", "b", "test"),  # the copy in test stays
        row("6", "r", "b"),
    )  # fmt: skip
    result = clean(rows, params(conflicts=policy, task="multilabel" if policy == "union" else "multiclass"))
    found = dict(zip(*(result.table[name].to_pylist() for name in ("id", "slices")), strict=True))
    assert found == {row_id: [("office", f"office of {row_id}")] for row_id in ("3", "2", "6")}


def test_what_leaves_nothing_to_learn_is_an_error() -> None:
    with pytest.raises(UserError, match=r"no row is left \(rejected: 1 empty text\)"):
        clean(messages((" ", ["a"])), params()).require_classes()
    with pytest.raises(UserError, match="only 'a' is left"):
        clean(messages(("x", ["a"])), params()).require_classes()
    clean(messages(("x", ["a"]), ("y", ["b"])), params()).require_classes()


random_rows = st.lists(
    st.fixed_dictionaries(
        {
            "text": st.sampled_from(["p", " p", "<b>p</b>", "q", "r s", "", "ñ"]),
            "labels": st.lists(st.sampled_from(["a", "A", "b", "c", " ", "d"]), max_size=3, unique=True),
            "split": st.sampled_from([None, "train", "test"]),
        }
    ),
    min_size=1,
    max_size=25,
)
random_params = st.fixed_dictionaries(
    {
        "task": st.sampled_from(["auto", "multiclass", "multilabel"]),
        "conflicts": st.sampled_from(["majority", "drop", "keep", "union"]),
        "unlabelled": st.sampled_from(["drop", "keep"]),
        "min_words": st.integers(1, 2),
        "label_map": st.sampled_from([None, {"a": "b"}, {"d": None}, {"a": "X", "b": "Y", "c": "c"}]),
        "unmapped": st.sampled_from(["keep", "drop"]),
        "fold_labels": st.booleans(),
        "top_k": st.sampled_from([None, 1, 2]),
        "min_count": st.sampled_from([None, 2, 3]),
    },
    optional={"other": st.sampled_from(["o", "b"])},
)


@settings(deadline=None, max_examples=400)
@given(rows=random_rows, values=random_params)
@example(rows=[{"text": "", "labels": []}], values={})
def test_every_row_comes_out_or_is_rejected_once(rows: list[dict[str, Any]], values: dict[str, Any]) -> None:
    try:
        setup = params(**values)
        result = clean(messages(*rows), setup)
    except UserError:
        return
    kept, gone = result.table["id"].to_pylist(), result.rejected["id"].to_pylist()
    assert sorted(kept + gone) == [f"{number:03}" for number in range(len(rows))]
    counts = result.counts
    assert counts["rows_in"] == counts["rows_out"] + counts["rows_rejected"] == len(rows)
    assert sum(counts["rejected"].values()) == counts["rows_rejected"] == len(gone)
    assert all(row["reason"] for row in result.rejected.to_pylist())
    labels = result.table["labels"].to_pylist()
    assert Counter(name for names in labels for name in names) == result.labels["counts"]
    assert result.labels["labels"] == sorted(result.labels["counts"])
    assert all(names == sorted(set(names)) for names in labels)
    texts = result.table["text"].to_pylist()
    assert len({(text, tuple(names)) for text, names in zip(texts, labels, strict=True)}) == len(texts)
    if setup.conflicts != "keep":
        assert len(set(texts)) == len(texts)
    if setup.unlabelled == "drop":
        assert all(labels)
    if result.labels["task"] == "multiclass":
        assert all(len(names) == 1 for names in labels)
    if setup.min_count:
        found = result.labels["counts"]
        assert all(count >= setup.min_count for name, count in found.items() if name != setup.other)
    for row in result.rejected.to_pylist():
        if row["reason"].startswith("duplicate of"):
            assert row["reason"].removeprefix("duplicate of ") in {*kept, *gone}
    task = result.labels["task"]
    unlabelled = "keep" if task == "multilabel" else "drop"
    again = clean(result.table, params(task=task, conflicts="keep", unlabelled=unlabelled, fold_labels=False))
    assert again.table.equals(result.table)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": ["lower"]}, "clean.steps: unknown step 'lower'; known: unescape_html"),
        ({"steps": ["lowercase", "lowercase"]}, "listed twice"),
        ({"steps": ["collapse_whitespace", "strip_quotes"]}, "list it before 'collapse_whitespace'"),
        ({"label_map": {False: "x"}}, "write it in quotes"),
        ({"keep_labels": ["a"], "drop_labels": ["a"]}, "in keep_labels and in drop_labels"),
        ({"other": "o"}, "set top_k or min_count"),
        ({"min_words": 0}, "clean.min_words"),
        ({"topk": 3}, "did you mean 'top_k'"),
    ],
)
def test_wrong_parameters(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        params(**values)
    assert message in str(error.value)


def test_label_names_may_be_numbers() -> None:
    assert params(label_map={1: "Deuda", 2: None}).label_map == {"1": "Deuda", "2": None}


def test_the_line_names_the_most_frequent_reasons() -> None:
    rows = messages(
        *[("", ["a"])] * 3, *[("x", [])] * 2, ("uno", ["c"]), ("dos", ["a"]), ("dos", ["a"]), ("tres", ["b"])
    )
    params = CleanParams(label_map={"c": None})
    assert clean(rows, params, params.label_map).describe() == (
        "2 of 9 rows kept (3 empty text, 2 no label, 1 duplicate and 1 more reason), 2 labels, multiclass"
    )
    assert clean(messages(("uno", ["a"]), ("dos", ["b"])), CleanParams()).describe() == (
        "2 of 2 rows kept, 2 labels, multiclass"
    )


def test_a_label_that_every_row_has_is_said() -> None:
    rows = messages(("uno", ["a", "b"]), ("dos", ["a"]), ("tres", ["c", "a"]))
    assert clean(rows, CleanParams()).notes() == [
        "every row has the label 'a': there is nothing to learn, and its F1 raises the averages; "
        "see clean.drop_labels"
    ]
    assert not clean(messages(("uno", ["a", "b"]), ("dos", ["a"]), ("tres", ["c"])), CleanParams()).notes()


def test_the_stage(tmp_path: Path, repository: Path) -> None:
    rows = messages(("<p>uno</p>", ["a"]), ("uno", ["a"]), ("dos", ["b"]), ('tres,\n"x"', ["c"]))
    table.write(rows, tmp_path / "data/raw/messages.parquet")
    (tmp_path / "map.csv").write_text("raw;label\na;Á\nc;\n", encoding="utf-8")
    (tmp_path / "params.yaml").write_text("clean:\n  label_map: map.csv\n")

    def run() -> subprocess.CompletedProcess[str]:
        script = str(repository / "pipeline" / "clean.py")
        return subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)

    first = run()
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith(
        "clean: 2 of 4 rows kept (1 duplicate, 1 label dropped), 2 labels, multiclass"
    )
    outputs = ["data/clean/messages.parquet", "data/clean/rejected.csv", "data/clean/labels.json",
               "reports/data/cleaning.json", "reports/data/label_map.csv"]  # fmt: skip
    contents = [(tmp_path / name).read_bytes() for name in outputs]
    with (tmp_path / "data/clean/rejected.csv").open(encoding="utf-8", newline="") as stream:
        rejected = list(csv.DictReader(stream))
    assert [(row["id"], row["reason"], row["detail"]) for row in rejected] == [
        ("001", "duplicate of 000", "uno"),
        ("003", "label dropped", "c"),
    ]
    assert run().returncode == 0
    assert [(tmp_path / name).read_bytes() for name in outputs] == contents
    (tmp_path / "params.yaml").write_text("clean:\n  drop_labels: [b, c]\n")
    failed = run()
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1] == (
        "clean: error: clean: only 'a' is left as a label and a classifier needs two; does label: in extract "
        "name the right column? See top_k, label_map and the like in clean, and data/clean/rejected.csv; "
        "rows without a label stay by task: multilabel and unlabelled: keep"
    )


def test_cases_are_looked_at_as_soon_as_the_labels_are_known(tmp_path: Path, repository: Path) -> None:
    rows = messages(("uno", ["agua"]), ("dos", ["luz"]))
    table.write(rows, tmp_path / "data/raw/messages.parquet")
    cases, params = tmp_path / "cases.yaml", tmp_path / "params.yaml"
    cases.write_text("- {text: se cortó, expected: luz}\n- {text: se fue, expected: lus}\n", encoding="utf-8")
    params.write_text("clean: {}\nbehave: {cases: cases.yaml}\n")

    def run() -> subprocess.CompletedProcess[str]:
        script = str(repository / "pipeline" / "clean.py")
        return subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)

    failed = run()
    assert failed.returncode == 2
    assert failed.stderr.splitlines() == [
        "clean: error: behave.cases: cases.yaml: entry 2: expected: the model has no label 'lus'; "
        "did you mean 'luz'?"
    ]
    assert not (tmp_path / "data/clean/labels.json").exists()
    cases.write_text("- {text: de otro proyecto, expected: pensiones}\n", encoding="utf-8")
    assert run().returncode == 0
