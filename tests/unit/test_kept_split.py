"""Messages that stay in their split when others come."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from test_splitting import divide, ids, label_set, make_table, split_of

from afina.errors import UserError
from afina.kept_split import Kept, read_kept, write_kept
from afina.near_duplicates import near_duplicate_components
from afina.params.split import SPLITS, SplitParams
from afina.splitting import LEAK, Division, split_messages
from afina.spreadsheets import escape_formula
from afina.stratification import UNPLACED, stratify


def divide_kept(table: pa.Table, kept: dict[str, str] | Kept, seed: int = 42, **params: Any) -> Division:
    kept = Kept(kept) if isinstance(kept, dict) else kept
    return split_messages(table, label_set(table), SplitParams.parse(params), seed, kept)


def random_texts(rng: np.random.Generator, count: int) -> list[str]:
    return [" ".join(f"p{word}" for word in rng.integers(500, size=12)) for _ in range(count)]


def random_labels(rng: np.random.Generator, count: int) -> list[list[str]]:
    return [[str(name)] for name in rng.choice(["a", "b", "c"], size=count, p=[0.5, 0.3, 0.2])]


@settings(max_examples=30, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_known_messages_stay_and_new_ones_follow_their_near_duplicates(
    data: st.DataObject, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    known, new = data.draw(st.integers(60, 150)), data.draw(st.integers(0, 150))
    texts = random_texts(rng, known + new)
    for copy in range(min(new, data.draw(st.integers(0, 20)))):
        texts[known + copy] = texts[copy * 2] + " gracias"
    table = make_table(random_labels(rng, known + new), texts)
    before = split_of(divide(table.slice(0, known), seed))
    division = divide_kept(table, before, seed + 1)
    after = split_of(division)
    assert set(after) == set(ids(table))
    assert {id_: after[id_] for id_ in before} == before
    components = near_duplicate_components(table["text"], 0.8, 3, 64)
    of_component: dict[int, set[str]] = {}
    for id_, component in zip(ids(table), components.tolist(), strict=True):
        of_component.setdefault(component, set()).add(after[id_])
    assert all(len(found) == 1 for found in of_component.values())
    assert f"{known} of {known + new} messages stay where split.keep has them" in division.summary


@pytest.mark.parametrize("new", [40, 400, 4_000])
def test_new_messages_make_up_for_the_shares(new: int) -> None:
    rng = np.random.default_rng(new)
    table = make_table(random_labels(rng, 1_000 + new), random_texts(rng, 1_000 + new))
    # Those known were divided at other shares.
    before = split_of(divide(table.slice(0, 1_000), validation=0.1, test=0.16))
    rows = divide_kept(table, before).report["rows"]
    total = 1_000 + new
    assert rows["test"] == pytest.approx(max(160, 0.15 * total), abs=3)
    expected = 100 + new if new == 40 else 0.15 * total  # as many as there are, where not enough
    assert rows["validation"] == pytest.approx(expected, abs=3)


def test_labels_are_divided_by_what_is_still_wanted_of_each() -> None:
    rng = np.random.default_rng(5)
    table = make_table(random_labels(rng, 2_000), random_texts(rng, 2_000))
    before = split_of(divide(table.slice(0, 1_500)))
    division = divide_kept(table, before)
    for _, train, validation, test in division.classes:
        total = train + validation + test
        assert (validation, test) == pytest.approx((0.15 * total, 0.15 * total), abs=2)


def test_a_new_class_reaches_every_split() -> None:
    rng = np.random.default_rng(3)
    labels = [*random_labels(rng, 200), ["nueva"], ["nueva"], ["nueva"]]
    table = make_table(labels, random_texts(rng, 203))
    division = divide_kept(table, split_of(divide(table.slice(0, 200))))
    assert ("nueva", 1, 1, 1) in division.classes


def test_new_messages_of_a_known_group_go_where_it_is() -> None:
    rng = np.random.default_rng(2)
    groups = [f"hilo {number % 40}" for number in range(300)]
    table = make_table(random_labels(rng, 300), random_texts(rng, 300), groups=groups)
    before = split_of(divide(table.slice(0, 120)))  # three of each
    after = split_of(divide_kept(table, before, seed=7))
    assert {id_: after[id_] for id_ in before} == before
    assert [after[id_] for id_ in ids(table)] == [after[f"m{number % 40:05d}"] for number in range(300)]


def test_a_message_that_belongs_to_two_splits_is_set_aside_and_its_group_stays() -> None:
    rng = np.random.default_rng(4)
    texts, groups = random_texts(rng, 120), [f"hilo {number % 30}" for number in range(120)]
    table = make_table(random_labels(rng, 120), texts, groups=groups)
    before = split_of(divide(table.slice(0, 90)))
    trained = next(id_ for id_, name in before.items() if name == "train")
    tested = next(id_ for id_, name in before.items() if name == "test")
    number = next(n for n in range(90, 120) if groups[n] == groups[int(tested[1:])])
    texts[number] = texts[int(trained[1:])] + " gracias"  # of a group in test, and nearly one in train
    table = make_table(table["labels"].to_pylist(), texts, groups=groups)
    division = divide_kept(table, before)
    assert division.rejected.to_pylist() == [
        {
            "id": f"m{number:05d}",
            "source": "mensajes.csv",
            "row": None,
            "reason": LEAK,
            "detail": f"near duplicate of {trained} in train",
        }
    ]
    after = split_of(division)
    assert {id_: after[id_] for id_ in before} == before
    of_group = {
        after[id_]
        for id_, group in zip(ids(table), groups, strict=True)
        if group == groups[number] and id_ in after
    }
    assert of_group == {"test"}
    kept = divide_kept(table, before, leaks="keep")
    assert split_of(kept)[f"m{number:05d}"] == "train"
    assert any("1 groups have messages in several splits" in note for note in kept.report["notes"])


def test_a_near_duplicate_takes_no_others_of_its_group_with_it() -> None:
    """A customer in train writes again, once nearly what another one in test wrote."""
    rng = np.random.default_rng(14)
    texts, groups = random_texts(rng, 122), [f"hilo {number % 30}" for number in range(122)]
    table = make_table(random_labels(rng, 122), texts, groups=groups)
    before = split_of(divide(table.slice(0, 90)))
    trained, tested = (next(i for i, name in before.items() if name == part) for part in ("train", "test"))
    groups[120] = groups[121] = groups[int(trained[1:])]
    texts[120] = texts[int(tested[1:])] + " gracias"
    table = make_table(table["labels"].to_pylist(), texts, groups=groups)
    division = divide_kept(table, before)
    assert split_of(division)["m00121"] == "train"
    assert ids(division.rejected) == ["m00120"]


def test_messages_are_known_by_what_they_say_where_ids_have_moved(tmp_path: Path) -> None:
    """`clean` leaves the first id of equal messages, which may be that of a later one."""
    rng = np.random.default_rng(15)
    table = make_table(random_labels(rng, 150), random_texts(rng, 150))
    before = split_of(divide(table))
    texts = dict(zip(ids(table), table["text"].to_pylist(), strict=True))
    write_kept(tmp_path / "kept.csv", [(id_, name, texts[id_]) for id_, name in before.items()])
    renamed = pa.array([f"a{id_}" if number % 3 else id_ for number, id_ in enumerate(ids(table))])
    others = table.set_column(0, table.schema.field("id"), renamed)
    edited = others["text"].to_pylist()
    edited[0] += " y otra cosa"  # which its id still tells
    others = others.set_column(2, table.schema.field("text"), pa.array(edited))
    division = divide_kept(others, read_kept(tmp_path / "kept.csv"), seed=7)
    after = split_of(division)
    assert [after[id_] for id_ in ids(others)] == [before[id_] for id_ in ids(table)]
    assert division.report["notes"] == ["150 of 150 messages stay where split.keep has them"]
    # Of an id that another message has now, what it says counts.
    swapped = table.set_column(0, table.schema.field("id"), pa.array(ids(table)[::-1]))
    after = split_of(divide_kept(swapped, read_kept(tmp_path / "kept.csv"), seed=7))
    assert [after[id_] for id_ in ids(swapped)] == [before[id_] for id_ in ids(table)]


def test_a_text_kept_in_two_splits_is_known_by_its_id() -> None:
    kept = Kept()
    for id_, split in (("a", "train"), ("b", "test")):
        assert kept.add(id_, split, "0123") == split
    assert kept.texts == {"0123": None}
    assert kept.splits(["b", "a", "c"], ["x", "x", "x"]) == ["test", "train", None]


def apart(params: dict[str, Any]) -> tuple[Division, dict[str, str]]:
    """Two near duplicates that are kept in train and in test."""
    rng = np.random.default_rng(6)
    texts = random_texts(rng, 100)
    texts[1] = texts[0] + " gracias"
    table = make_table(random_labels(rng, 100), texts)
    before = split_of(divide(table, near_duplicates=None))
    before |= {"m00000": "train", "m00001": "test"}
    return divide_kept(table, before, **params), before


def test_near_duplicates_kept_apart_lose_the_one_in_train() -> None:
    division, before = apart({})
    assert division.rejected["id"].to_pylist() == ["m00000"]
    assert division.rejected["detail"].to_pylist() == ["near duplicate of m00001 in test"]
    assert split_of(division) == {id_: name for id_, name in before.items() if id_ != "m00000"}
    assert division.report["near_duplicates"]["straddling"] == 1
    kept, before = apart({"leaks": "keep"})
    assert split_of(kept) == before


def test_all_kept_is_what_was_kept() -> None:
    rng = np.random.default_rng(8)
    table = make_table(random_labels(rng, 150), random_texts(rng, 150))
    before = divide(table)
    again = divide_kept(table, split_of(before), seed=1)
    assert split_of(again) == split_of(before)
    assert again.report | {"notes": []} == before.report


def test_what_is_gone_is_said_and_other_data_are_refused() -> None:
    rng = np.random.default_rng(9)
    table = make_table(random_labels(rng, 150), random_texts(rng, 150))
    before = split_of(divide(table))
    division = divide_kept(table.slice(0, 140), before)
    assert division.report["notes"] == [
        "140 of 140 messages stay where split.keep has them, 10 more are not there"
    ]
    with pytest.raises(UserError, match=r"split\.keep: it names 2 messages, and none of them is here"):
        divide_kept(table, {"x": "train", "y": "test"})


@pytest.mark.parametrize("method", ["time", "given", "auto"])
def test_other_methods_keep_nothing(method: str) -> None:
    table = make_table([["a"], ["b"]] * 50, splits=["train", "test"] * 50)
    with pytest.raises(UserError, match=r"split\.keep: with split\.method (time|given) every message has"):
        divide_kept(table, {"m00000": "train"}, method=method)


def test_units_that_are_placed_stay_and_the_others_make_up_for_them() -> None:
    placed = np.full(100, UNPLACED)
    placed[:30] = 2
    counts, sizes = csr_array(np.ones((100, 1), np.int64)), np.ones(100, np.int64)
    subsets = stratify(counts, sizes, np.array([0.5, 0.25, 0.25]), np.random.default_rng(0), placed)
    assert (subsets[:30] == 2).all()
    assert np.bincount(subsets).tolist() == [47, 23, 30]
    assert (placed[30:] == UNPLACED).all()  # what was given is not changed


# ------------------------------------------------------------------------------------------------ the file


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kept=st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1), st.sampled_from(SPLITS)
    )
)
def test_whatever_the_ids_what_is_read_is_what_was_written(kept: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "kept_split.csv"
    write_kept(path, [(id_, split, id_) for id_, split in kept.items()])
    read = read_kept(path)
    assert read.splits(list(kept), [""] * len(kept)) == list(kept.values())
    assert read.splits([""] * len(kept), list(kept)) == list(kept.values())
    assert [cell for cell in read.ids if escape_formula(cell) != cell] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,part\na,train\n", "no column split"),
        ("", "no column id"),
        ("id,split\na,dev\n", "line 2: expected an id and train, validation or test, found 'a' and 'dev'"),
        ("id,split\n,train\n", "line 2: expected an id"),
        ("id,split\na\n", "line 2: expected an id"),
        ("id,split\na,train\na,test\n", "line 3: the id 'a' is in train too"),
        ('id,split\n"a,train\nb,test\n', "not CSV"),
        (b"id,split\n\xe1,train\n", "not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(content: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "kept.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        read_kept(path)
    assert str(caught.value).startswith(f"split.keep: {path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file; write it with `afina keep-split`"):
        read_kept(tmp_path / "kept.csv")
    with pytest.raises(UserError, match="cannot be read"):
        read_kept(tmp_path)


@pytest.mark.parametrize(
    "lines",
    [
        ["id;split", "a;train", "b;test"],
        ["\ufeffsplit\tid\tnote", "train\ta\tx", "test\tb\ty"],
        ["id,split,", "a,train,", "b,test,", ""],
    ],
)
def test_a_file_that_a_spreadsheet_saved_is_read(lines: Sequence[str], tmp_path: Path) -> None:
    path = tmp_path / "kept.csv"
    path.write_text("\r\n".join(lines), encoding="utf-8")
    assert read_kept(path) == Kept({"a": "train", "b": "test"})
