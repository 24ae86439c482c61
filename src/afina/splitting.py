"""Division of the messages into train, validation and test, near duplicates together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_array

from afina.errors import UserError
from afina.kept_split import Kept
from afina.labels import LabelSet
from afina.near_duplicates import merge_components, near_duplicate_components
from afina.params.split import SPLITS, SplitParams
from afina.stratification import UNPLACED, stratify, unreached_labels
from afina.table import REJECTED, empty_rejected

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

TRAIN, VALIDATION, TEST = range(3)
LEAK = "near duplicate across splits"


@dataclass(frozen=True)
class Division:
    """The rows of each split, the rows rejected, and what there is to tell about them."""

    tables: dict[str, pa.Table]
    rejected: pa.Table
    report: dict[str, Any]
    classes: list[tuple[Any, ...]]  # label, messages in train, validation and test

    @property
    def summary(self) -> str:
        """One line for the person who runs the stage."""
        rows, near = self.report["rows"], self.report["near_duplicates"]
        parts = [
            f"{self.report['method']}: " + ", ".join(f"{rows[name]:,} {name}" for name in SPLITS),
            f"{near['components']:,} sets of near duplicates, {near['rejected']:,} messages rejected as such",
        ]
        small = [item["label"] for item in self.report["small_classes"]["classes"]]
        if small:
            parts.append(f"not in every split: {', '.join(small[:5])}{' ...' if len(small) > 5 else ''}")
        return "; ".join([*parts, *self.report["notes"]])


@dataclass
class _Messages:
    """What a division looks at: n rows, their labels as codes, and their components of near duplicates."""

    table: pa.Table
    labels: tuple[str, ...]
    row: Ints  # (m,) the row of each label given
    code: Ints  # (m,) which label
    components: Ints  # (n,)
    notes: list[str] = field(default_factory=list)

    def unit_counts(self, units: Ints) -> tuple[csr_array, Ints, Ints]:
        """Labels (U, L) and sizes (U,) of the units named by ``units`` (n,), and each row's unit (n,)."""
        _, unit = np.unique(units, return_inverse=True)
        sizes = np.bincount(unit)
        entries = (np.ones(len(self.row), np.int64), (unit[self.row], self.code))
        counts = csr_array(entries, shape=(len(sizes), len(self.labels)))
        counts.sum_duplicates()
        return counts, sizes, unit

    def only(self, rows: Mask) -> _Messages:
        """The same for some rows alone; notes are shared."""
        kept = rows[self.row]
        position = np.cumsum(rows) - 1
        return _Messages(
            self.table.filter(pa.array(rows)),
            self.labels,
            position[self.row[kept]],
            self.code[kept],
            self.components[rows],
            self.notes,
        )


def split_messages(
    table: pa.Table,
    label_set: LabelSet,
    params: SplitParams,
    seed: int,
    kept: Kept | None = None,
) -> Division:
    """Divide the clean table into train, validation and test.

    ``stratified`` and ``group`` divide units that never straddle: components of near duplicates, joined with
    the groups. ``time`` and ``given`` fix every row's split beforehand; of near duplicates that end up apart,
    those in test (else in validation) stay and the others are rejected (``params.leaks``). Where a given
    split has no validation (or no test), that share of its train is carved out, stratified and groups
    together, and the rest is left as it is. ``auto`` is ``given`` where a row names its split, else ``group``
    where a row has a group, else ``stratified``.

    With ``kept``, the messages that it names stay where it has them, and those that are near duplicates of
    such a one, or of its group, go where it is; the others are divided so that all together come as near to
    the shares as they can. Near duplicates that are kept apart are treated as with ``time``, and so is a new
    message of a group in one split that is a near duplicate of a message in another.

    Raises:
        UserError: a class cannot reach every split (``params.small_classes``), a split would be empty, the
            column that the method needs is missing or incomplete, or ``kept`` names no message or goes with
            ``time`` or ``given``.
    """
    if not table.num_rows:
        raise UserError("split: there is no message to split; see data/clean/rejected.csv for the reasons")
    method = _method(table, params)
    messages = _messages(table, label_set.labels, params)
    rejected = np.zeros(table.num_rows, bool)
    straddling = 0
    fixed = np.full(table.num_rows, UNPLACED, np.int64) if kept is None else _as_kept(messages, kept, method)
    torn = np.zeros(table.num_rows, bool)
    if method in ("stratified", "group"):
        units = messages.components
        follow = _following(fixed, units)
        if method == "group":
            groups = _column(table, "group", "group")
            follow, torn = _with_group(fixed, follow, groups)
            units = _joined_with_groups(units, groups)
        splits = _stratified(messages, units, params, seed, follow)
    else:
        splits = _by_time(table, params) if method == "time" else _as_given(table)
    if kept is not None or method in ("time", "given"):
        straddling, rejected = _straddling(messages.components, splits)
        rejected |= torn
        if params.leaks == "keep":
            rejected[:] = False
        if method == "given":
            splits = _with_carved(messages, splits, rejected, params, seed)
    final = np.where(rejected, UNPLACED, splits)
    _note_parted_groups(messages, final)
    for number, name in enumerate(SPLITS):
        if not (final == number).any():
            shares = "change split.validation and split.test"
            names = f"let the source name {name} in some row's split"
            raise UserError(
                f"split.method {method}: no message is left for {name} out of {table.num_rows}; "
                f"give more messages or {names if method == 'given' else shares}"
            )
    classes = np.stack([_label_counts(messages, final == number) for number in range(3)], axis=1)
    small = _small_classes(messages, classes, method, params)
    report = _report(table, label_set, params, method, final, small, messages)
    report["near_duplicates"] |= {"straddling": straddling, "rejected": int(rejected.sum())}
    return Division(
        {name: _part(table, final == number, name) for number, name in enumerate(SPLITS)},
        _leaks(table, messages.components, splits, rejected),
        report,
        [(label, *counts) for label, counts in zip(label_set.labels, classes.tolist(), strict=True)],
    )


def _method(table: pa.Table, params: SplitParams) -> str:
    if params.method != "auto":
        return params.method
    if table["split"].null_count < table.num_rows:
        return "given"
    return "group" if table["group"].null_count < table.num_rows else "stratified"


def _messages(table: pa.Table, labels: tuple[str, ...], params: SplitParams) -> _Messages:
    lists = table["labels"].combine_chunks()
    code = pc.index_in(pc.list_flatten(lists), value_set=pa.array(labels, pa.string()))
    if code.null_count:
        unknown = pc.list_flatten(lists).filter(pc.is_null(code))[0]
        raise UserError(f"split: label '{unknown}' is not in labels.json; run `dvc repro clean -f`")
    if params.near_duplicates:
        components = near_duplicate_components(
            table["text"], params.near_duplicates, params.shingle_words, params.num_perm
        )
    else:
        components = np.arange(table.num_rows)
    row = np.asarray(pc.list_parent_indices(lists), np.int64)
    return _Messages(table, labels, row, np.asarray(code, np.int64), components)


def _column(table: pa.Table, name: str, method: str) -> pa.Array:
    column = table[name].combine_chunks()
    if column.null_count == len(column):
        raise UserError(
            f"split.method {method}: no message has a {name}; map the column in extract"
            + (", set time_format: there if it could not read the times," if name == "time" else "")
            + " or use another method"
        )
    return column


def _joined_with_groups(components: Ints, groups: pa.Array) -> Ints:
    """Components joined with the groups; a row without a group belongs to its component alone."""
    rows, codes = _group_codes(groups)
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return merge_components(components, rows, rows[first][inverse])


def _group_codes(groups: pa.Array) -> tuple[Ints, Ints]:
    """The rows that have a group, and the number of each one's group."""
    codes = groups.dictionary_encode().indices
    return np.flatnonzero(np.asarray(codes.is_valid())), np.asarray(codes.drop_null(), np.int64)


def _note_parted_groups(messages: _Messages, splits: Ints) -> None:
    """Note the groups whose messages are in several splits, which the method did not ask to keep together."""
    rows, codes = _group_codes(messages.table["group"].combine_chunks())
    rows, codes = rows[splits[rows] != UNPLACED], codes[splits[rows] != UNPLACED]
    pairs = np.unique(codes * len(SPLITS) + splits[rows])
    parted = int((np.unique(pairs // len(SPLITS), return_counts=True)[1] > 1).sum())
    if parted:
        messages.notes.append(
            f"{parted:,} groups have messages in several splits; split.method group keeps them together"
        )


def _as_kept(messages: _Messages, kept: Kept, method: str) -> Ints:
    """The split (n,) of the messages that are kept where they are; `UNPLACED` for the others."""
    if method not in ("stratified", "group"):
        raise UserError(
            f"split.keep: with split.method {method} every message has its split; take split.keep out, or "
            "set split.method to stratified or group"
        )
    names = kept.splits(messages.table["id"].to_pylist(), messages.table["text"].to_pylist())
    fixed = np.array([UNPLACED if name is None else SPLITS.index(name) for name in names], np.int64)
    found, named = int((fixed != UNPLACED).sum()), len(kept.ids)
    if not found:
        raise UserError(
            f"split.keep: it names {named:,} messages, and none of them is here; is it of other data?"
        )
    note = f"{found:,} of {len(fixed):,} messages stay where split.keep has them"
    messages.notes.append(note + (f", {named - found:,} more are not there" if named > found else ""))
    return fixed


def _following(fixed: Ints, units: Ints) -> Ints:
    """Where rows (n,) go because they, or the last of those with the same number, are kept there."""
    return np.where(fixed == UNPLACED, _last(fixed, units)[units], fixed)


def _with_group(fixed: Ints, follow: Ints, groups: pa.Array) -> tuple[Ints, Mask]:
    """Where rows (n,) go with their groups too, and which cannot be with their group and near duplicates."""
    rows, codes = _group_codes(groups)
    of_group = np.full(len(fixed), UNPLACED, np.int64)
    of_group[rows] = _last(fixed[rows], codes)[codes]
    torn = (fixed == UNPLACED) & (of_group != UNPLACED) & (follow != UNPLACED) & (follow != of_group)
    return np.where(follow == UNPLACED, of_group, follow), torn


def _stratified(messages: _Messages, units: Ints, params: SplitParams, seed: int, follow: Ints) -> Ints:
    """Splits (n,); those of ``follow`` where it has one, and the rest of such a unit goes with the last."""
    fractions = np.array([1 - params.validation - params.test, params.validation, params.test])
    counts, sizes, unit = messages.unit_counts(units)
    placed = _last(follow, unit)[: len(sizes)]
    too_few = np.asarray((counts > 0).sum(axis=0)) < len(SPLITS)
    if params.small_classes == "error":
        _raise_for(messages, np.flatnonzero(too_few & (counts.sum(axis=0) > 0)), counts)
    to_train = np.asarray(counts @ too_few.astype(np.int64)) > 0
    placed[to_train & (placed == UNPLACED)] = TRAIN
    splits = stratify(counts, sizes, fractions, np.random.default_rng(seed), placed)
    if params.small_classes == "error":
        _raise_for(messages, np.flatnonzero(unreached_labels(counts, splits, len(SPLITS))), counts)
    largest = int(np.argmax(sizes))
    if sizes[largest] > max(1, fractions.min() * len(units)):
        messages.notes.append(
            f"one set of messages that stay together has {sizes[largest]} of {len(units)} and is in "
            f"{SPLITS[splits[largest]]}: the splits are far from the shares asked for where it is too large"
        )
    return np.where(follow == UNPLACED, splits[unit], follow)


def _raise_for(messages: _Messages, small: Ints, counts: csr_array) -> None:
    """Raise the error that names the classes that cannot reach every split, if there are any."""
    if not len(small):
        return
    rows, units = counts.sum(axis=0), (counts > 0).sum(axis=0)
    named = [
        f"'{messages.labels[label]}' ({rows[label]} message{'s' if rows[label] != 1 else ''}"
        + (f" in {units[label]} sets that stay together)" if units[label] < rows[label] else ")")
        for label in small[:5]
    ]
    more = f" and {len(small) - 5} more" if len(small) > 5 else ""
    raise UserError(
        f"split: too small to reach train, validation and test: {', '.join(named)}{more}; "
        "merge them by clean.label_map, drop them by clean.min_count, or set split.small_classes to train"
    )


def _by_time(table: pa.Table, params: SplitParams) -> Ints:
    """The oldest messages to train, the newest to test; messages of the same time stay together."""
    column = _column(table, "time", "time")
    if column.null_count:
        first = table["id"].combine_chunks().filter(pc.is_null(column))[0]
        raise UserError(
            f"split.method time: {column.null_count} messages have no time, the first is id {first}; mend "
            "them in the source, set time_format: there if extract could not read them, or use another method"
        )
    _, moment, number = np.unique(
        np.asarray(column.cast(pa.int64())), return_inverse=True, return_counts=True
    )
    if len(number) < len(SPLITS):
        raise UserError(
            f"split.method time: the messages have only {len(number)} different times; 3 are needed"
        )
    until = np.cumsum(number)[:-1]  # messages before each change of time
    total = len(column)
    test = 1 + int(np.argmin(np.abs(until[1:] - (1 - params.test) * total)))
    validation = int(np.argmin(np.abs(until[:test] - (1 - params.test - params.validation) * total)))
    return np.searchsorted([validation, test], moment, side="left").astype(np.int64)


def _as_given(table: pa.Table) -> Ints:
    column = _column(table, "split", "given")
    splits = pc.fill_null(pc.index_in(column, value_set=pa.array(SPLITS)), UNPLACED)
    wrong = np.flatnonzero(np.asarray(splits) == UNPLACED)
    if len(wrong):
        row = int(wrong[0])
        raise UserError(
            f"split.method given: {len(wrong)} messages have no split named train, validation or test, the "
            f"first is id {table['id'][row]} with {column[row].as_py()!r}; mend it or use another method"
        )
    return np.asarray(splits, np.int64)


def _with_carved(messages: _Messages, splits: Ints, rejected: Mask, params: SplitParams, seed: int) -> Ints:
    """Carve the splits that the source does not give out of its train, stratified."""
    shares = {VALIDATION: params.validation, TEST: params.test}
    missing = [split for split in (VALIDATION, TEST) if not (splits == split).any()]
    rows = (splits == TRAIN) & ~rejected
    if not missing or not rows.any():
        return splits
    part = messages.only(rows)
    units = _joined_with_groups(part.components, part.table["group"].combine_chunks())
    counts, sizes, unit = part.unit_counts(units)
    fractions = np.array([1 - sum(shares[split] for split in missing), *(shares[split] for split in missing)])
    too_few = np.asarray((counts > 0).sum(axis=0)) < len(fractions)
    to_train = np.asarray(counts @ too_few.astype(np.int64)) > 0
    placed = np.where(to_train, TRAIN, UNPLACED)
    carved = stratify(counts, sizes, fractions, np.random.default_rng(seed), placed)
    names = " and ".join(SPLITS[split] for split in missing)
    messages.notes.append(f"the source gives no {names}: carved out of its train, stratified")
    result = splits.copy()
    result[rows] = np.array([TRAIN, *missing])[carved[unit]]
    return result


def _straddling(components: Ints, splits: Ints) -> tuple[int, Mask]:
    """How many components straddle splits, and which of their rows are not in the last of these."""
    leaks = splits < _last(splits, components)[components]
    return len(np.unique(components[leaks])), leaks


def _last(splits: Ints, units: Ints) -> Ints:
    """The last split (n,) that some row of each unit is in, units being numbers below n."""
    last = np.full(len(splits), UNPLACED, np.int64)
    np.maximum.at(last, units, splits)
    return last


def _leaks(table: pa.Table, components: Ints, splits: Ints, rejected: Mask) -> pa.Table:
    """The rejected rows, each with the id of a near duplicate that stays."""
    rows = np.flatnonzero(rejected)
    if not len(rows):
        return empty_rejected()
    stay = np.flatnonzero(~rejected & np.isin(components, components[rows]))
    # The first row that stays, of each component; where train is carved anew all that stay are in one split.
    keeper = dict(zip(components[stay][::-1].tolist(), stay[::-1].tolist(), strict=True))
    ids = table["id"].take(pa.array(rows))
    others = [keeper[component] for component in components[rows].tolist()]
    detail = [
        f"near duplicate of {other} in {SPLITS[split]}"
        for other, split in zip(table["id"].take(pa.array(others)).to_pylist(), splits[others], strict=True)
    ]
    return pa.table(
        {
            "id": ids,
            "source": table["source"].take(pa.array(rows)),
            "row": pa.nulls(len(rows), pa.int64()),
            "reason": pa.array([LEAK] * len(rows)),
            "detail": detail,
        }
    ).cast(REJECTED)


def _small_classes(
    messages: _Messages, classes: Ints, method: str, params: SplitParams
) -> list[dict[str, Any]]:
    """The classes missing from some split.

    Raises:
        UserError: there are some and ``params.small_classes`` is error.
    """
    small: list[dict[str, Any]] = [
        {
            "label": label,
            "messages": int(row.sum()),
            "missing_from": [SPLITS[s] for s in np.flatnonzero(row == 0)],
        }
        for label, row in zip(messages.labels, classes, strict=True)
        if (row == 0).any()
    ]
    if small and params.small_classes == "error":
        named = ", ".join(
            f"'{c['label']}' (missing from {' and '.join(c['missing_from'])})" for c in small[:5]
        )
        more = f" and {len(small) - 5} more" if len(small) > 5 else ""
        raise UserError(
            f"split.method {method}: classes that do not reach every split: {named}{more}; "
            "merge them by clean.label_map, drop them by clean.min_count, use another method, or set "
            "split.small_classes to train"
        )
    return small


def _label_counts(messages: _Messages, rows: Mask) -> Ints:
    return np.bincount(messages.code[rows[messages.row]], minlength=len(messages.labels))


def _part(table: pa.Table, rows: Mask, name: str) -> pa.Table:
    part = table.filter(pa.array(rows))
    column = pa.repeat(pa.scalar(name), part.num_rows)
    return part.set_column(part.schema.get_field_index("split"), "split", column)


def _report(
    table: pa.Table,
    label_set: LabelSet,
    params: SplitParams,
    method: str,
    splits: Ints,
    small: Sequence[dict[str, Any]],
    messages: _Messages,
) -> dict[str, Any]:
    counts = {name: int((splits == number).sum()) for number, name in enumerate(SPLITS)}
    kept = sum(counts.values())
    sizes = np.bincount(messages.components)
    sizes = sizes[sizes > 1]
    return {
        "method": method,
        "task": label_set.task,
        "rows": {"in": table.num_rows, **counts, "rejected": table.num_rows - kept},
        "shares": {name: round(count / kept, 6) for name, count in counts.items()},
        "near_duplicates": {
            "threshold": params.near_duplicates,
            "components": len(sizes),
            "messages": int(sizes.sum()),
            "largest": int(sizes.max(initial=0)),
        },
        "small_classes": {"policy": params.small_classes, "classes": list(small)},
        "notes": messages.notes,
    }
