from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iterstrat.ml_stratifiers import IterativeStratification
from scipy.sparse import csr_array
from sklearn.model_selection import train_test_split

from afina.errors import UserError
from afina.labels import LabelSet
from afina.near_duplicates import near_duplicate_components
from afina.params.split import SPLITS, SplitParams
from afina.splitting import LEAK, Division, split_messages
from afina.stratification import stratify, unreached_labels
from afina.table import SCHEMA

FRACTIONS = np.array([0.7, 0.15, 0.15])
START = dt.datetime(2024, 1, 1)


def make_table(
    labels: Sequence[Sequence[str]],
    texts: Sequence[str] | None = None,
    groups: Sequence[str | None] | None = None,
    times: Sequence[dt.datetime | None] | None = None,
    splits: Sequence[str | None] | None = None,
) -> pa.Table:
    count = len(labels)
    columns: dict[str, Any] = {
        "id": [f"m{number:05d}" for number in range(count)],
        "source": ["mensajes.csv"] * count,
        "text": list(texts or (f"asunto {number} del expediente {number * 7}" for number in range(count))),
        "labels": [list(names) for names in labels],
        "group": groups or [None] * count,
        "time": times or [None] * count,
        "split": splits or [None] * count,
        "slices": [
            [("office", f"office of m{number:05d}")] if number % 5 else None for number in range(count)
        ],
    }
    return pa.table(columns, schema=SCHEMA)


def label_set(table: pa.Table, task: str = "multiclass") -> LabelSet:
    names = sorted(set(pc.list_flatten(table["labels"]).to_pylist()))
    return LabelSet("multiclass" if task == "multiclass" else "multilabel", tuple(names))


def divide(table: pa.Table, seed: int = 42, task: str = "multiclass", **params: Any) -> Division:
    return split_messages(table, label_set(table, task), SplitParams.parse(params), seed)


def split_of(division: Division) -> dict[str, str]:
    """Message id -> split; checks that the splits are disjoint and that the column agrees."""
    result: dict[str, str] = {}
    for name in SPLITS:
        part = division.tables[name]
        assert part["split"].to_pylist() == [name] * part.num_rows
        for identifier in part["id"].to_pylist():
            assert identifier not in result
            result[identifier] = name
    return result


def ids(table: pa.Table) -> list[str]:
    return table["id"].to_pylist()


def shares(subsets: npt.NDArray[Any], multihot: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Share (3, L) of each label's examples that each subset got."""
    return np.stack([multihot[subsets == subset].sum(axis=0) for subset in range(3)]) / multihot.sum(axis=0)


def random_multilabel(seed: int, count: int, labels: int) -> npt.NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    popularity = 0.6 / np.arange(1, labels + 1)
    multihot = (rng.random((count, labels)) < popularity).astype(np.int64)
    multihot[: 6 * labels] |= np.tile(np.eye(labels, dtype=np.int64), (6, 1))
    return multihot


@pytest.mark.parametrize("seed", range(5))
def test_multilabel_proportions_are_no_worse_than_the_package_iterative_stratification(seed: int) -> None:
    multihot = random_multilabel(seed, 600, 12)
    ours = stratify(
        csr_array(multihot), np.ones(len(multihot), np.int64), FRACTIONS, np.random.default_rng(seed)
    )
    oracle = IterativeStratification(multihot.astype(bool), FRACTIONS, np.random.RandomState(seed))
    wanted = FRACTIONS[:, None]
    deviation = np.abs(shares(ours, multihot) - wanted)
    assert deviation.mean() <= np.abs(shares(oracle, multihot) - wanted).mean() + 1e-4
    assert np.abs(np.bincount(ours) / len(ours) - FRACTIONS).max() < 0.01


@pytest.mark.parametrize("seed", range(3))
def test_multiclass_counts_are_those_of_scikit_learn_within_rounding(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = rng.choice(6, size=1_000, p=[0.5, 0.25, 0.12, 0.08, 0.03, 0.02])
    multihot = np.eye(6, dtype=np.int64)[classes]
    ours = stratify(csr_array(multihot), np.ones(1_000, np.int64), FRACTIONS, rng)
    train, rest = train_test_split(np.arange(1_000), test_size=0.3, stratify=classes, random_state=seed)
    validation, test = train_test_split(rest, test_size=0.5, stratify=classes[rest], random_state=seed)
    for subset, rows in enumerate((train, validation, test)):
        expected = np.bincount(classes[rows], minlength=6)
        assert np.abs(multihot[ours == subset].sum(axis=0) - expected).max() <= 2
        exact = np.bincount(classes) * FRACTIONS[subset]
        assert np.abs(multihot[ours == subset].sum(axis=0) - exact).max() < 1


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(3, 60), min_size=2, max_size=8),
    seed=st.integers(0, 2**32 - 1),
    fractions=st.sampled_from([(0.7, 0.15, 0.15), (0.5, 0.25, 0.25), (0.9, 0.05, 0.05), (0.34, 0.33, 0.33)]),
)
def test_every_class_of_three_or_more_reaches_every_subset(
    sizes: list[int], seed: int, fractions: tuple[float, ...]
) -> None:
    classes = np.repeat(np.arange(len(sizes)), sizes)
    multihot = csr_array(np.eye(len(sizes), dtype=np.int64)[classes])
    subsets = stratify(
        multihot, np.ones(len(classes), np.int64), np.array(fractions), np.random.default_rng(seed)
    )
    assert not unreached_labels(multihot, subsets, 3).any()


@settings(max_examples=30, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_a_split_is_a_partition_that_no_near_duplicate_straddles(data: st.DataObject, seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = data.draw(st.integers(60, 200))
    classes = rng.choice(["a", "b", "c"], size=count, p=[0.5, 0.3, 0.2])
    base = [" ".join(f"p{word}" for word in rng.integers(500, size=12)) for _ in range(count)]
    for copy in range(data.draw(st.integers(0, 25))):
        base[copy] = base[count - 1 - copy % 9] + " gracias"
    table = make_table([[name] for name in classes], base)
    division = divide(table, seed)
    found = split_of(division)
    assert set(found) == set(ids(table))
    assert division.rejected.num_rows == 0
    components = near_duplicate_components(table["text"])
    where: dict[int, set[str]] = {}
    for component, identifier in zip(components.tolist(), ids(table), strict=True):
        where.setdefault(component, set()).add(found[identifier])
    assert all(len(names) == 1 for names in where.values())
    sizes = np.bincount(components)
    for name, share in zip(SPLITS, FRACTIONS, strict=True):
        assert abs(division.tables[name].num_rows - share * count) <= 6 + sizes.max()
    assert division.report["near_duplicates"]["components"] == (sizes > 1).sum()


def test_the_seed_decides() -> None:
    table = make_table([["a"], ["b"]] * 100)
    assert split_of(divide(table, 1)) == split_of(divide(table, 1))
    assert split_of(divide(table, 1)) != split_of(divide(table, 2))


def test_messages_without_a_label_are_divided_too() -> None:
    table = make_table([["a"], ["a", "b"], [], ["b"]] * 50)
    division = divide(table, task="multilabel")
    without = {
        name: (pc.list_value_length(part["labels"]).to_numpy() == 0).sum()
        for name, part in division.tables.items()
    }
    assert without["train"] == 35
    assert {without["validation"], without["test"]} == {7, 8}


def test_a_class_too_small_is_an_error_that_names_it() -> None:
    table = make_table([["a"]] * 30 + [["rara"]] * 2)
    with pytest.raises(UserError, match=r"'rara' \(2 messages\).*split\.small_classes") as error:
        divide(table)
    assert "\n" not in str(error.value)


def test_a_class_of_copies_of_one_message_is_too_small() -> None:
    texts = [f"asunto {number} de {number * 3}" for number in range(30)] + ["el mismo texto de siempre"] * 4
    table = make_table([["a"]] * 30 + [["rara"]] * 4, texts)
    with pytest.raises(UserError, match=r"'rara' \(4 messages in 1 sets? that stay together\)"):
        divide(table)


def test_the_train_policy_puts_a_small_class_in_train_and_says_so() -> None:
    table = make_table([["a"]] * 30 + [["rara"]] * 2)
    division = divide(table, small_classes="train")
    assert {row[0]: row[1:] for row in division.classes}["rara"] == (2, 0, 0)
    assert division.report["small_classes"]["classes"] == [
        {"label": "rara", "messages": 2, "missing_from": ["validation", "test"]}
    ]
    assert "rara" in division.summary


def test_label_sets_that_cannot_all_reach_are_an_error_not_a_loss() -> None:
    # Labels 1 and 2 take three messages into three splits; 3 and 4 then share one: 5 cannot separate them.
    sets = [["1", "2", "3"], ["1", "2", "4"], ["1", "2"], ["3", "4", "5"], ["5", "3", "4"], ["5"]]
    table = make_table(sets, [f"texto {number} distinto {number * 11}" for number in range(6)])
    division = divide(table, task="multilabel", small_classes="train", validation=0.33, test=0.33)
    reported = {item["label"] for item in division.report["small_classes"]["classes"]}
    assert reported == {row[0] for row in division.classes if 0 in row[1:]}
    assert sum(sum(row[1:]) for row in division.classes) == sum(map(len, sets))


def test_a_large_set_of_near_duplicates_goes_to_train_with_a_note() -> None:
    texts = [f"asunto {number} de {number * 3} y {number * 5}" for number in range(100)] + [
        "texto igual siempre"
    ] * 50
    table = make_table([["a"], ["b"]] * 75, texts)
    division = divide(table)
    found = split_of(division)
    assert {found[identifier] for identifier in ids(table)[100:]} == {"train"}
    assert "50 of 150" in division.report["notes"][0]
    assert division.tables["test"].num_rows == pytest.approx(22.5, abs=2)


def test_groups_stay_together_and_so_do_near_duplicates() -> None:
    rng = np.random.default_rng(0)
    groups = [None if number % 10 == 0 else f"hilo {number % 60}" for number in range(600)]
    texts = [f"asunto {number} de {number * 3} y {number * 5}" for number in range(600)]
    texts[10] = texts[11] + " gracias"  # ties a message without a group to a group
    table = make_table([[name] for name in rng.choice(["a", "b"], 600)], texts, groups=groups)
    division = divide(table, method="group", near_duplicates=0.5)
    found = split_of(division)
    assert len(found) == 600
    for group in set(groups) - {None}:
        assert len({found[i] for i, g in zip(ids(table), groups, strict=True) if g == group}) == 1
    assert found["m00010"] == found["m00011"]
    for name, share in zip(SPLITS, FRACTIONS, strict=True):
        assert division.tables[name].num_rows / 600 == pytest.approx(share, abs=0.04)


def test_six_equal_groups_fill_all_splits() -> None:
    table = make_table([["a"], ["b"]] * 60, groups=[f"g{number // 20}" for number in range(120)])
    rows = divide(table, method="group", near_duplicates=None).report["rows"]
    assert (rows["train"], rows["validation"], rows["test"]) == (80, 20, 20)


def test_time_keeps_the_order_and_equal_times_together() -> None:
    rng = np.random.default_rng(1)
    days = rng.permutation(np.repeat(np.arange(100), 5))
    times = [START + dt.timedelta(days=int(day)) for day in days]
    table = make_table([[name] for name in rng.choice(["a", "b"], 500)], times=times)
    division = divide(table, method="time", near_duplicates=0)
    bounds = [
        (pc.min(division.tables[name]["time"]).as_py(), pc.max(division.tables[name]["time"]).as_py())
        for name in SPLITS
    ]
    assert bounds[0][1] < bounds[1][0]
    assert bounds[1][1] < bounds[2][0]
    rows = division.report["rows"]
    assert (rows["train"], rows["validation"], rows["test"]) == (350, 75, 75)


def test_near_duplicates_across_time_lose_their_earlier_copy() -> None:
    times = [START + dt.timedelta(days=number) for number in range(100)]
    texts = [f"asunto {number} de {number * 3} y {number * 5}" for number in range(100)]
    texts[3] = texts[99] + "!"
    table = make_table([["a"], ["b"]] * 50, texts, times=times)
    division = divide(table, method="time")
    assert division.rejected.to_pylist() == [
        {
            "id": "m00003",
            "source": "mensajes.csv",
            "row": None,
            "reason": LEAK,
            "detail": "near duplicate of m00099 in test",
        }
    ]
    assert set(split_of(division)) == set(ids(table)) - {"m00003"}
    assert division.report["near_duplicates"]["straddling"] == 1
    assert division.report["rows"]["in"] == 100
    kept = divide(table, method="time", leaks="keep")
    assert kept.rejected.num_rows == 0
    assert len(split_of(kept)) == 100
    assert kept.report["near_duplicates"]["straddling"] == 1


@pytest.mark.parametrize("method", ["stratified", "group", "time", "given"])
def test_every_row_keeps_its_slices(method: str) -> None:
    times = [START + dt.timedelta(days=number) for number in range(100)]
    groups = [f"g{number % 30}" for number in range(100)]
    splits = ["train"] * 70 + ["test"] * 30  # validation is carved out of train
    table = make_table([["a"], ["b"]] * 50, groups=groups, times=times, splits=splits)
    division = divide(table, method=method, near_duplicates=None)
    found = {row["id"]: row["slices"] for part in division.tables.values() for row in part.to_pylist()}
    assert found == {row["id"]: row["slices"] for row in table.to_pylist()}
    assert {part.schema for part in division.tables.values()} == {SCHEMA}


def test_time_needs_every_time() -> None:
    times = [START, None, START + dt.timedelta(days=1)]
    with pytest.raises(UserError, match="1 messages have no time, the first is id m00001"):
        divide(make_table([["a"], ["b"], ["a"]], times=times), method="time")
    with pytest.raises(UserError, match="only 1 different times"):
        divide(make_table([["a"], ["b"]], times=[START] * 2), method="time")
    with pytest.raises(UserError, match="no message has a group"):
        divide(make_table([["a"], ["b"]]), method="group")


def test_a_given_split_is_kept_and_auto_takes_it() -> None:
    splits = ["train"] * 60 + ["validation"] * 20 + ["test"] * 20
    table = make_table([["a"], ["b"]] * 50, splits=splits)
    division = divide(table, near_duplicates=None)
    assert division.report["method"] == "given"
    assert list(split_of(division).items()) == list(zip(ids(table), splits, strict=True))
    assert divide(table, method="stratified").report["rows"]["train"] == 70


def test_a_given_split_without_validation_gets_it_from_train_alone() -> None:
    splits = ["train"] * 200 + ["test"] * 100
    texts = [f"asunto {number} de {number * 3} y {number * 5}" for number in range(300)]
    texts[0], texts[1] = texts[250] + "!", texts[2] + "?"
    table = make_table([["a"], ["b"], ["b"]] * 100, texts, splits=splits)
    division = divide(table)
    found = split_of(division)
    assert [found[identifier] for identifier in ids(table)[200:]] == ["test"] * 100
    assert "m00000" not in found
    assert division.rejected["detail"].to_pylist() == ["near duplicate of m00250 in test"]
    assert found["m00001"] == found["m00002"]
    assert division.tables["validation"].num_rows == pytest.approx(0.15 * 199, abs=1)
    assert "carved" in division.report["notes"][0]
    assert split_of(divide(table)) == found


def test_a_given_split_must_name_every_message() -> None:
    table = make_table([["a"], ["b"]], splits=["train", "dev"])
    with pytest.raises(UserError, match=r"1 messages have no split.*m00001 with 'dev'"):
        divide(table)
    with pytest.raises(UserError, match=r"1 messages have no split.*m00001 with None"):
        divide(make_table([["a"], ["b"]], splits=["train", None]))
    with pytest.raises(UserError, match=r"no message is left for train.*let the source name train"):
        divide(make_table([["a"], ["b"]], splits=["validation", "test"]))


def test_a_class_that_a_given_split_leaves_out_is_an_error_or_reported() -> None:
    splits = ["train"] * 10 + ["validation"] * 5 + ["test"] * 5
    table = make_table([["a"]] * 19 + [["b"]], splits=splits)
    with pytest.raises(UserError, match=r"'b' \(missing from train and validation\)"):
        divide(table)
    division = divide(table, small_classes="train")
    assert division.report["small_classes"]["classes"][0]["missing_from"] == ["train", "validation"]
    assert split_of(division)["m00019"] == "test"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"validation": 0.5, "test": 0.5}, "validation \\+ test must be less than 1"),
        ({"near_duplicates": 0.1}, "expected 0"),
        ({"methd": "time"}, "did you mean 'method'"),
        ({"test": 0}, "greater than 0"),
    ],
)
def test_parameters_are_checked(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SplitParams.parse(values)


def test_the_many_kinds_of_a_large_table_are_stratified_as_well() -> None:
    multihot = random_multilabel(9, 20_000, 20)
    counts = csr_array(multihot)
    subsets = stratify(counts, np.ones(20_000, np.int64), FRACTIONS, np.random.default_rng(0))
    assert np.abs(shares(subsets, multihot) - FRACTIONS[:, None]).max() < 0.01


def test_the_splits_of_a_public_data_set_no_longer_leak(real_data: Path) -> None:
    lines = [
        (line.rstrip("\n").split(";"), split)
        for split in ("train", "test")
        for line in (real_data / "emotions_en" / f"{split}.txt").read_text(encoding="utf-8").splitlines()
    ]
    table = make_table(
        [[label] for (_, label), _ in lines],
        [text for (text, _), _ in lines],
        splits=[split for _, split in lines],
    )
    division = divide(table)
    assert division.rejected.num_rows > 0
    assert division.tables["test"].num_rows == sum(split == "test" for _, split in lines)
    left = pa.concat_tables(division.tables.values())
    components = near_duplicate_components(left["text"])
    names = np.asarray(left["split"].to_pylist())
    for component in np.flatnonzero(np.bincount(components) > 1):
        assert len(set(names[components == component])) == 1


def grouped(count: int = 120) -> pa.Table:
    return make_table(
        [["a" if number % 2 else "b"] for number in range(count)],
        groups=[f"paciente {number // 4}" if number < 100 else None for number in range(count)],
    )


def parted(division: Division) -> int:
    """Groups with messages in several splits."""
    seen: dict[str, set[str]] = {}
    for name, part in division.tables.items():
        for group in filter(None, part["group"].to_pylist()):
            seen.setdefault(group, set()).add(name)
    return sum(len(names) > 1 for names in seen.values())


def test_auto_keeps_groups_together_and_other_methods_say_that_they_do_not() -> None:
    table = grouped()
    auto = divide(table)
    assert (auto.report["method"], parted(auto), auto.report["notes"]) == ("group", 0, [])
    stratified = divide(table, method="stratified")
    assert parted(stratified) > 0
    assert f"{parted(stratified)} groups have messages in several splits" in stratified.summary


def test_what_is_carved_out_of_a_given_train_keeps_groups_together() -> None:
    table = grouped()
    given = ["test" if number >= 96 else "train" for number in range(120)]
    table = table.set_column(table.column_names.index("split"), "split", pa.array(given))
    division = divide(table, small_classes="train")
    assert division.report["method"] == "given"
    assert division.tables["validation"].num_rows > 0
    assert parted(division) == 0
