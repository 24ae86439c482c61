"""Probabilities of rows by fine-tuned models that never saw them: one a fold, made as the stage train does.

The labels of train are where errors do the most harm, and the model that was fine-tuned on them repeats them.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from afina.auditing.out_of_fold import Ints, Mask, OutOfFold, count_units, cross_validate
from afina.errors import UserError
from afina.evaluation.metrics import FloatArray, IntArray
from afina.labels import LabelSet
from afina.modeling.inference import predict_logits
from afina.modeling.store import load_classifier
from afina.params.train import TrainParams
from afina.stratification import UNPLACED, stratify
from afina.training.forward import choose_device
from afina.training.loop import train

# The best epoch, early stopping and the share of the lexical model are chosen by validation rows, which the
# loop cannot do without. The fold held out would choose in its own favour, and what reports/training.csv says
# was best was chosen by rows of that fold; so a part of the other folds is set aside.
VALIDATION_SHARE = 0.1

WORKSHOP = ".audit.tmp"  # one name, so that what a killed run left is found


def fine_tuned_out_of_fold(
    table: pa.Table,
    y: IntArray,
    label_set: LabelSet,
    params: TrainParams,
    class_weights: dict[str, float] | None,
    folds: int,
    seed: int,
    work_folder: Path,
    units: Ints | None = None,
    adapted_folder: Path | None = None,
) -> OutOfFold:
    """Probabilities of the fine-tuned backbone for every row: `cross_validate` of its logits.

    The folds are those of `afina.auditing.out_of_fold.out_of_fold` with the same number, seed and units. Of
    the rows of the other folds a tenth, stratified and with units together, chooses the epoch; the model is
    fitted on the rest. Rows are not resampled and weigh the same.

    Args:
        table: n rows with the columns ``id``, ``text`` and ``labels``, of all splits together.
        y: their labels, class indexes (n,) or multi-hot (n, L).
        label_set: task and labels.
        params: the section ``train``.
        class_weights: factor of each label's examples, as for the stage train; None: all 1. They may be
            those of the whole train split: of a held-out row they know no more than that it is counted.
        folds: at least 2; so many models are fine-tuned.
        seed: of the folds and of each training.
        work_folder: each model lives in a folder in it, which is gone afterwards, whatever happens.
        units: as in `afina.auditing.out_of_fold.assign_folds`.
        adapted_folder: the backbone as the stage adapt left it, which knows texts but no labels.

    Raises:
        UserError: the rows do not suffice, or as `afina.training.loop.train`.
    """
    names, texts = table.select(["id", "text", "labels"]), table["text"]
    numbers = itertools.count(1)

    def judge(rows: Ints, rest: Ints) -> tuple[FloatArray, Ints]:
        number, started = next(numbers), time.perf_counter()
        part = None if units is None else units[rest]
        held_out = set_aside(y[rest], len(label_set.labels), seed, part)
        fitted, validation = rest[~held_out], rest[held_out]
        with workshop(work_folder / WORKSHOP) as folder:
            result = train(
                params,
                train_table=names.take(fitted),
                validation_table=names.take(validation),
                label_set=label_set,
                class_weights=class_weights,
                seed=seed,
                classifier_folder=folder / "classifier",
                checkpoint_folder=folder / "checkpoints",
                adapted_folder=adapted_folder,
            )
            model, encoder, _ = load_classifier(folder / "classifier")
        device = choose_device(params.device)
        logits = predict_logits(model, encoder, texts.take(rows).to_pylist(), device=device)
        print(
            f"audit: fold {number} of {folds}: fine-tuned on {len(fitted):,} rows, best epoch "
            f"{result.best_epoch}, validation macro-F1 {result.best_macro_f1:.3f}; judged {len(rows):,} rows "
            f"({time.perf_counter() - started:,.0f} s)",
            file=sys.stderr,
            flush=True,
        )
        return logits, fitted

    return cross_validate(y, label_set, folds, seed, judge, units)


def set_aside(y: IntArray, label_count: int, seed: int, units: Ints | None = None) -> Mask:
    """Which rows (n,) choose the epoch: about a tenth of each label, at least one row of it, units together.

    A label in a single unit is not among them: the model could not learn it.

    Args:
        y: class indexes (n,) or multi-hot (n, L).
        units: (n,) rows with the same number stay together; None: each row on its own.

    Raises:
        UserError: no label is in two units.
    """
    counts, sizes, unit = count_units(y, label_count, units)
    single = np.asarray((counts > 0).sum(axis=0) == 1)
    kept = np.asarray(counts[:, single].sum(axis=1) > 0)
    fractions = np.array([1 - VALIDATION_SHARE, VALIDATION_SHARE])
    subsets = stratify(counts, sizes, fractions, np.random.default_rng(seed), np.where(kept, 0, UNPLACED))
    if not subsets.any():
        raise UserError(
            f"audit.fine_tuned_folds: of the {len(y)} rows outside a fold no two share a label but near "
            "duplicates, so none can be set aside to choose the epoch; set it to 0"
        )
    return np.asarray(subsets[unit] == 1)


@contextmanager
def workshop(folder: Path) -> Iterator[Path]:
    """An empty folder that is removed afterwards, also on failure."""
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
