"""Probabilities of rows by models that never saw them: cross-validation, of the linear baseline above all.

Near duplicates are in one fold, as they are in one split: a copy of a row says what its label is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from afina.errors import UserError
from afina.evaluation.baselines import Texts, TfidfLinear
from afina.evaluation.calibration import fit_platt, fit_temperature
from afina.evaluation.metrics import FloatArray, IntArray, one_hot
from afina.evaluation.probabilities import Calibration, to_probabilities
from afina.labels import LabelSet
from afina.near_duplicates import merge_components, near_duplicate_components
from afina.params.baseline import BaselineParams
from afina.params.split import SplitParams
from afina.stratification import stratify

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

MIN_POSITIVES = 5  # a label with fewer rows shares its calibration line

# Given the rows of one fold and those of the others: the scores (rows, L) of the fold's rows by a model that
# is fitted on others, and which of the others these are.
Judge = Callable[[Ints, Ints], tuple[FloatArray, Ints]]


@dataclass(frozen=True)
class OutOfFold:
    """What a kind of model says of n rows, each scored by a model fitted without its fold.

    A cell (row, label) is judged where the rows fitted on had the label and also lacked it. Elsewhere the
    probability is 0, or 1 where all of them had it.
    """

    probabilities: FloatArray  # (n, L)
    judged: Mask  # (n, L)
    folds: Ints  # (n,)


def find_units(table: pa.Table, params: SplitParams) -> Ints:
    """Which rows must not straddle folds (n,): near duplicates, and groups if the splits keep them together.

    The splits do not say which rows are near duplicates, so they are looked for again, over all rows and with
    the parameters that the splits were made with.

    Args:
        table: all rows, with the columns ``text`` and ``group``.
    """
    units: Ints = np.arange(table.num_rows, dtype=np.int64)
    if params.near_duplicates:
        units = near_duplicate_components(
            table["text"], params.near_duplicates, params.shingle_words, params.num_perm
        )
    if params.method in ("auto", "group"):
        codes = table["group"].combine_chunks().dictionary_encode().indices
        rows = np.flatnonzero(np.asarray(codes.is_valid()))
        _, first, group = np.unique(np.asarray(codes.drop_null()), return_index=True, return_inverse=True)
        units = merge_components(units, rows, rows[first][group])
    return units


def assign_folds(y: IntArray, label_count: int, folds: int, seed: int, units: Ints | None = None) -> Ints:
    """Divide n rows into folds such that every label is divided evenly.

    Args:
        y: class indexes (n,) or multi-hot (n, L).
        units: (n,) rows with the same number are in one fold; None: each row on its own.

    Returns:
        (n,) the fold of each row. A label in fewer units than there are folds is in as many folds as it can;
        so few rows may leave a fold empty.

    Raises:
        UserError: fewer than two units, so that no row can be judged by a model fitted on others.
    """
    counts, sizes, unit = count_units(y, label_count, units)
    if len(sizes) < 2:
        raise UserError(
            f"audit.folds: the {len(y)} rows are near duplicates of each other or in one group; "
            "there is nothing to divide into folds"
        )
    rng = np.random.default_rng(seed)
    return stratify(counts, sizes, np.full(folds, 1 / folds), rng)[unit]


def count_units(
    y: IntArray, label_count: int, units: Ints | None = None
) -> tuple[sparse.csr_array, Ints, Ints]:
    """What `afina.stratification.stratify` takes: labels (U, L) and sizes (U,) of the units; each row's (n,).

    Args:
        y: class indexes (n,) or multi-hot (n, L).
        units: as in `assign_folds`.
    """
    _, unit = np.unique(np.arange(len(y)) if units is None else units, return_inverse=True)
    sizes = np.bincount(unit)
    row, label = np.nonzero(one_hot(y, label_count))
    entries = (np.ones(len(row), np.int64), (unit[row], label))
    counts = sparse.csr_array(entries, shape=(len(sizes), label_count))
    counts.sum_duplicates()
    return counts, sizes, unit


def cross_validate(
    y: IntArray, label_set: LabelSet, folds: int, seed: int, judge: Judge, units: Ints | None = None
) -> OutOfFold:
    """Probabilities of every row by a model fitted without its fold, in stratified folds.

    Scores become probabilities by one temperature (multiclass), or a line a label (multilabel), fitted to the
    out-of-fold scores of all rows, as in `afina.evaluation.calibration`.

    Args:
        y: class indexes (n,) or multi-hot (n, L).
        folds: at least 2.
        judge: called once a fold, in their order, where there is something to tell apart.
        units: as in `assign_folds`.

    Raises:
        UserError: the rows cannot be divided, or ``judge`` raised it.
    """
    width = len(label_set.labels)
    truth = one_hot(y, width).astype(bool)
    fold = assign_folds(y, width, folds, seed, units)
    scores = np.zeros(truth.shape)
    judged = np.zeros(truth.shape, dtype=bool)
    for held in range(folds):
        rows, rest = np.flatnonzero(fold == held), np.flatnonzero(fold != held)
        if not len(rows):
            continue
        had, known = _known(truth[rest])
        if known.any():
            found, fitted = judge(rows, rest)
            had, known = _known(truth[fitted])
            scores[rows] = np.where(known, found, np.where(had, np.inf, -np.inf))
        else:
            scores[rows] = np.where(had, 1.0, -np.inf)
        judged[rows] = known
    if label_set.task == "multiclass":
        calibration = Calibration.of_temperature(fit_temperature(y, scores), width)
    else:
        calibration = fit_platt(y, scores, MIN_POSITIVES)
    return OutOfFold(to_probabilities(scores, label_set.task, calibration), judged, fold)


def _known(truth: Mask) -> tuple[Mask, Mask]:
    """Which labels (L,) some of the rows have, and which of these others lack; truth is (n, L)."""
    had: Mask = np.asarray(truth.any(axis=0))
    return had, np.asarray(had & ~truth.all(axis=0))


def out_of_fold(
    texts: Sequence[str],
    y: IntArray,
    label_set: LabelSet,
    params: BaselineParams,
    folds: int,
    seed: int,
    units: Ints | None = None,
) -> OutOfFold:
    """Probabilities of the linear baseline for every row: `cross_validate` of its margins.

    Args:
        texts: n texts, those of train, validation and test together.
        y: class indexes (n,) or multi-hot (n, L).
        folds: at least 2.
        units: as in `assign_folds`.

    Raises:
        UserError: the rows do not suffice to fit, or cannot be divided.
    """

    def judge(rows: Ints, rest: Ints) -> tuple[FloatArray, Ints]:
        train = Texts([texts[row] for row in rest.tolist()], y[rest])
        model = TfidfLinear(params, label_set, seed).fit(train)
        return model.scores([texts[row] for row in rows.tolist()]), rest

    return cross_validate(y, label_set, folds, seed, judge, units)


def align_predictions(ids: Sequence[str], predictions: pa.Table) -> FloatArray:
    """The fine-tuned model's probabilities (n, L) in the order of ``ids``; NaN for rows it was trained on.

    Args:
        predictions: as `afina.evaluation.predictions.read_predictions` gives it.

    Raises:
        UserError: the predictions are of rows that are not among ``ids``.
    """
    width = len(json.loads(predictions.schema.metadata[b"labels"]))
    rows = pc.index_in(predictions["id"].combine_chunks(), value_set=pa.array(ids, pa.string()))
    if rows.null_count:
        unknown = predictions["id"].combine_chunks().filter(pc.is_null(rows))[0]
        raise UserError(
            f"reports/predictions.parquet: id {unknown} is in no split any more; run `dvc repro evaluate`"
        )
    values = np.asarray(pc.list_flatten(predictions["probabilities"].combine_chunks()))
    aligned = np.full((len(ids), width), np.nan, dtype=np.float32)
    aligned[np.asarray(rows)] = values.reshape(-1, width)
    return aligned
