"""Altered copies: what changes, what never does, and which rows they make."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afina import balancing, table
from afina.augmentation import NEIGHBOURS, altered_copy, augment_text, number_repeats
from afina.labels import LabelSet, Task
from afina.params.balance import BalanceParams, Operation
from afina.runtime.text import clean_text

OPERATIONS: tuple[Operation, ...] = ("delete", "swap", "typo", "accent")
TEXT = "Buenos días, se rompió la tubería en la calle Núñez 45 y <email> no contesta el teléfono <phone>."


def variants(text: str, *operations: Operation, rate: float = 0.01, draws: int = 300) -> set[str]:
    return {augment_text(text, operations, rate, Random(number)) for number in range(draws)}


# ----------------------------------------------------------------------------------------- texts


def test_delete_takes_one_plain_word_and_a_space() -> None:
    assert variants("se fue la luz otra vez", "delete") == {
        "fue la luz otra vez", "se la luz otra vez", "se fue luz otra vez", "se fue la otra vez",
        "se fue la luz vez", "se fue la luz otra",
    }  # fmt: skip


def test_delete_keeps_negations_marks_and_two_words() -> None:
    assert variants("no hay luz, ni agua", "delete") == {"no luz, ni agua", "no hay luz, ni"}
    assert variants("don't call never again", "delete") == {"don't never again", "don't call never"}
    assert variants("agua potable", "delete") == {"agua potable"}
    assert len(augment_text("uno dos tres cuatro cinco", ["delete"], 1.0, Random(0)).split()) == 2


def test_delete_keeps_line_breaks() -> None:
    assert variants("agua sucia\nluz", "delete") == {"sucia\nluz", "agua\nluz", "agua sucia"}


def test_swap_exchanges_words_and_leaves_marks() -> None:
    assert variants("¿Cuándo vienen? Hola, buenos días", "swap") == {
        "¿vienen Cuándo? Hola, buenos días", "¿Cuándo vienen? Hola, días buenos",
    }  # fmt: skip


def test_swap_stays_within_a_line_and_goes_over_no_mask() -> None:
    assert variants("agua\nluz <email> gas 12 pan", "swap") == {"agua\nluz <email> gas 12 pan"}


def test_typo_by_hand() -> None:
    # gas and an are too short; of "luces" u, c and e are mistyped: 1 of each twice, missing, changed with the
    # next, and neighbours
    found = variants("an gas luces", "typo", draws=2000)
    words = {variant.removeprefix("an gas ") for variant in found}
    assert words == {
        "luuces", "lcues", "lces", *(f"l{key}ces" for key in "yihj"),
        "lucces", "luecs", "lues", *(f"lu{key}es" for key in "xdfv"),
        "lucees", "lucse", "lucs", *(f"luc{key}s" for key in "wrsd"),
    }  # fmt: skip


def test_typo_keeps_capitals() -> None:
    assert {word for word in variants("LUCES", "typo") if not word.isupper()} == set()


def test_neighbours_are_mutual_and_never_give_an_enye() -> None:
    assert set(NEIGHBOURS) == set("abcdefghijklmnñopqrstuvwxyz")
    for key, near in NEIGHBOURS.items():
        assert "ñ" not in near
        assert all(key in NEIGHBOURS[other] for other in near if key != "ñ")


def test_accent_drops_or_moves() -> None:
    assert variants("el camión", "accent") == {"el camion", "el cámion", "el camíon"}
    assert variants("ESPAÑA está", "accent") == {"ESPAÑA esta", "ESPAÑA ésta"}
    assert variants("año", "accent") == {"año"}
    assert variants("pingüino", "accent") == {"pinguino"}
    assert variants("canon naïve é", "accent") == {"canon naive é", "canon naïve e"}
    assert variants("мой йод pensión", "accent") == {"мой йод pension", "мой йод pénsion", "мой йод pensíon"}
    assert variants("cana y mono", "accent") == {"cana y mono"}


@pytest.mark.parametrize("word", ["no", "Ninguno", "ningun", "nunca", "don't"])
def test_a_negation_is_neither_left_out_nor_moved(word: str) -> None:
    assert all(word in variant.split() for variant in variants(f"{word} funciona bien hoy", "delete"))
    assert variants(f"ya {word} quiero pagar", "swap") == {f"ya {word} pagar quiero"}


def test_a_share_of_the_words_is_altered() -> None:
    text = " ".join(["tubería"] * 40)
    for rate, expected in ((0.01, 1), (0.1, 4), (0.5, 20), (1.0, 40)):
        words = augment_text(text, ["typo", "accent"], rate, Random(3)).split()
        assert sum(word != "tubería" for word in words) == expected


def test_nothing_to_alter() -> None:
    for text in ("", " ", "45", "<email>", "😀 😀", "a", "¿?", "http://x.es/agua #agua @agua agua2"):
        assert variants(text, *OPERATIONS, rate=1.0, draws=20) == {text}


def test_other_scripts_stay_intact() -> None:
    assert variants("水が出ません", *OPERATIONS, draws=20) == {"水が出ません"}
    assert variants("पानी नहीं आ रहा", "typo", "accent", draws=20) == {"पानी नहीं आ रहा"}
    assert variants("पानी नहीं आ", "swap") == {"नहीं पानी आ", "पानी आ नहीं"}
    assert "вдоа" in variants("вода", "typo")


masked = st.lists(
    st.one_of(
        st.sampled_from(
            ["<email>", "(<phone>", "<url>.", "<id>,", "[número de cuenta]", "12", "3€", "C/Sol", "x@y", "😀"]
        ),
        st.text("abcnñáéüAÑ'-,.¿", min_size=1, max_size=7),
    ),
    max_size=14,
).map(" ".join)  # fmt: skip


@settings(deadline=None)
@given(
    text=st.one_of(masked, st.text(max_size=40)),
    operations=st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=4, unique=True),
    rate=st.floats(0.01, 1),
    seed=st.integers(0, 99),
)
def test_laws(text: str, operations: list[Operation], rate: float, seed: int) -> None:
    copy = augment_text(text, operations, rate, Random(seed))
    assert copy == augment_text(text, operations, rate, Random(seed))
    assert bool(copy.strip()) == bool(text.strip())
    assert [c for c in copy if c.isdigit() or c in "<>[]@/#😀,.¿"] == [
        c for c in text if c.isdigit() or c in "<>[]@/#😀,.¿"
    ]
    for mask in ("<email>", "(<phone>", "<url>.", "<id>,", "[número de cuenta]"):
        assert copy.count(mask) == text.count(mask)
    assert ("ñ" in copy) <= ("ñ" in text)
    if set(operations) <= {"accent", "swap"}:
        assert sorted(c for c in copy if c in "ñÑ") == sorted(c for c in text if c in "ñÑ")
    if set(operations) <= {"swap"}:
        assert sorted(copy) == sorted(text)


def test_a_copy_is_clean_and_differs_from_what_there_is() -> None:
    steps = ["lowercase", "collapse_whitespace"]
    taken = {"agua sucia"}
    for number in range(5):
        copy = altered_copy("agua sucia", taken, OPERATIONS, 0.1, steps, Random(number))
        assert copy not in taken
        assert copy == clean_text(copy, steps)
        taken.add(copy)
    # where cleaning takes accents away an accent cannot be altered
    assert altered_copy("sí", {"si"}, ["accent"], 0.1, ["strip_accents"], Random(0)) == "si"


# ------------------------------------------------------------------------------------------ rows


def messages(label_lists: list[list[str]], text: str = TEXT) -> pa.Table:
    rows = [
        {
            "id": f"{number:04}",
            "source": "s",
            "text": f"{text} {number}",
            "labels": labels,
            "group": "g",
            "slices": [("office", f"office of {number:04}")],
        }
        for number, labels in enumerate(label_lists)
    ]
    return pa.Table.from_pylist(rows, schema=table.SCHEMA)


def label_set(task: Task) -> LabelSet:
    return LabelSet(task, ("a", "b", "c"), {}, {"steps": ["collapse_whitespace"]})


def test_repeats_are_numbered() -> None:
    np.testing.assert_array_equal(number_repeats(np.array([0, 1, 1, 1, 3, 3, 4])), [0, 0, 1, 2, 0, 1, 0])
    assert len(number_repeats(np.array([], dtype=np.int64))) == 0


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_small_labels_get_altered_copies(task: Task, tmp_path: Path) -> None:
    rows = messages([["a"]] * 6 + [["b"]] * 2)
    params = BalanceParams.parse({"augment": list(OPERATIONS), "augment_target": 5})
    result = balancing.balance(rows, label_set(task), params, seed=7)
    assert result.summary["before"] == {"a": 6, "b": 2, "c": 0}
    assert result.summary["after"] == {"a": 6, "b": 5, "c": 0}
    assert result.summary["augmented"] == {"a": 0, "b": 3, "c": 0}
    assert result.summary["augmented_rows"] == 3
    assert result.summary["unaltered_copies"] == 0
    # weights are by the rows there are now: 11 rows; negatives over positives of b: 6 / 5
    weight = 11 / (2 * 5) if task == "multiclass" else 6 / 5
    assert result.summary["class_weights"]["b"] == pytest.approx(weight)

    found = {row["id"]: row for row in result.table.to_pylist()}
    assert len(found) == 11
    originals = {row["id"]: row for row in rows.to_pylist()}
    assert all(found[name]["text"] == row["text"] for name, row in originals.items())
    copies = sorted(set(found) - set(originals))
    assert copies in (["0006~1", "0006~2", "0007~1"], ["0006~1", "0007~1", "0007~2"])
    for name in copies:
        source = originals[name.split("~")[0]]
        assert found[name]["text"] != source["text"]
        assert "<email>" in found[name]["text"]
        assert {**found[name], "id": "", "text": ""} == {**source, "id": "", "text": "", "weight": 1.0}
    assert len({row["text"] for row in found.values()}) == 11

    for name in ("one", "two"):
        again = balancing.balance(rows, label_set(task), params, seed=7)
        table.write(again.table, tmp_path / name, table.BALANCED_SCHEMA)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    other = balancing.balance(rows, label_set(task), params, seed=8)
    assert other.table["text"].to_pylist() != result.table["text"].to_pylist()


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_oversampling_alters_its_copies(task: Task) -> None:
    rows = messages([["a"]] * 6 + [["b"]] * 2)
    plain, altered = (
        balancing.balance(
            rows,
            label_set(task),
            BalanceParams.parse({"strategy": "oversample", "augment": operations}),
            seed=7,
        )
        for operations in ([], ["typo"])
    )
    assert "augmented" not in plain.summary
    assert altered.summary["augmented"] == {"a": 0, "b": 4, "c": 0}
    assert altered.summary["after"] == plain.summary["after"]
    assert [name.split("~")[0] for name in altered.table["id"].to_pylist()] == plain.table["id"].to_pylist()
    assert len(set(altered.table["text"].to_pylist())) == 12
    assert len(set(plain.table["text"].to_pylist())) == 8


def test_a_copy_depends_on_its_source_alone() -> None:
    params = BalanceParams.parse({"augment": ["typo"], "augment_target": 3})
    texts = []
    for others in (4, 9):
        rows = messages([["b"], *[["a"]] * others])
        result = balancing.balance(rows, label_set("multiclass"), params, seed=7)
        texts.append([row["text"] for row in result.table.to_pylist() if row["id"].startswith("0000~")])
    assert texts[0] == texts[1]
    assert len(texts[0]) == 2


def test_texts_that_cannot_be_altered_are_counted() -> None:
    rows = messages([["a"]] * 3 + [["b"]], text="<email>")
    params = BalanceParams.parse({"augment": list(OPERATIONS), "augment_target": 3})
    result = balancing.balance(rows, label_set("multiclass"), params, seed=7)
    assert result.summary["augmented"]["b"] == result.summary["unaltered_copies"] == 2
