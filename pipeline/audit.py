"""List labels that are likely wrong, and pairs of labels that look like one class."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from afina import table
from afina.auditing.label_errors import DOUBTS_HEADER, confident_learning, rank_doubts
from afina.auditing.label_pairs import PAIRS_HEADER, centroid_similarity, embed_words, similar_labels
from afina.auditing.out_of_fold import Ints, OutOfFold, align_predictions, find_units, out_of_fold
from afina.evaluation.metrics import IntArray
from afina.evaluation.predictions import read_predictions
from afina.files import read_json, write_csv
from afina.labels import LabelSet, encode_labels, read_label_set
from afina.params.audit import AuditParams
from afina.params.base import load_section, load_seed
from afina.params.baseline import BaselineParams
from afina.params.split import SplitParams
from afina.params.train import TrainParams
from afina.spreadsheets import escape_row
from afina.stage import stage

LABELS = Path("data/clean/labels.json")
SPLITS = Path("data/splits")
BALANCE = Path("data/balanced/balance.json")
MODELS = Path("models")
ADAPTED = Path("models/adapted")
PREDICTIONS = Path("reports/predictions.parquet")
ISSUES = Path("reports/label_issues.csv")
PAIRS = Path("reports/label_pairs.csv")


def read_rows() -> pa.Table:
    """The rows of all splits, each with the name of its split."""
    parts = []
    for name in ("train", "validation", "test"):
        rows = table.read(SPLITS / f"{name}.parquet")
        parts.append(rows.drop_columns("split").append_column("split", pa.array([name] * rows.num_rows)))
    return pa.concat_tables(parts).combine_chunks()


def draw(rows: int, limit: int | None, seed: int) -> npt.NDArray[np.int64]:
    """Which rows are looked at, ascending: all of them, or ``limit`` drawn at random."""
    if limit is None or rows <= limit:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))


def judge_by_fine_tuning(
    rows: pa.Table, y: IntArray, label_set: LabelSet, folds: int, seed: int, units: Ints
) -> OutOfFold:
    """What the fine-tuned backbone says of all rows, each judged by a model that never saw it."""
    # Imported here because of torch, which the stage does without otherwise.
    from afina.auditing.fine_tuned import fine_tuned_out_of_fold

    return fine_tuned_out_of_fold(
        rows,
        y,
        label_set,
        load_section(TrainParams),
        read_json(BALANCE)["class_weights"],
        folds,
        seed,
        MODELS,
        units,
        ADAPTED,
    )


@stage("audit")
def main() -> str:
    params, seed = load_section(AuditParams), load_seed()
    linear, split = load_section(BaselineParams), load_section(SplitParams)
    label_set = read_label_set(LABELS)
    labels, task = label_set.labels, label_set.task
    every = read_rows()
    drawn = draw(every.num_rows, params.max_texts, seed)
    rows = every.take(drawn)
    ids, texts = rows["id"].to_pylist(), rows["text"].to_pylist()
    y = encode_labels(rows["labels"], labels, task)

    known = None
    if not params.fine_tuned_folds:
        predictions = read_predictions(PREDICTIONS, label_set)
        known = align_predictions(every["id"].to_pylist(), predictions)[drawn]
    units = find_units(rows, split)
    held = out_of_fold(texts, y, label_set, linear, params.folds, seed, units)
    if known is None:
        tuned = judge_by_fine_tuning(rows, y, label_set, params.fine_tuned_folds, seed, units)
        fine_tuned = confident_learning(y, tuned.probabilities, task, tuned.judged, params.method)
    else:
        fine_tuned = confident_learning(y, known, task, filter_by=params.method)
    opinions = {
        "linear": confident_learning(y, held.probabilities, task, held.judged, params.method),
        "fine-tuned": fine_tuned,
    }
    issues = rank_doubts(ids, rows["split"].to_pylist(), texts, y, labels, opinions, params.max_issues)
    similarity = centroid_similarity(embed_words(texts, linear), y, len(labels))
    pairs = similar_labels(
        y, held.probabilities, similarity, labels, task, params.max_pairs, params.min_similarity
    )
    write_csv(ISSUES, DOUBTS_HEADER, (escape_row(astuple(issue)) for issue in issues))
    write_csv(PAIRS, PAIRS_HEADER, map(astuple, pairs))
    doubted = np.any([opinion.doubted.any(axis=1) for opinion in opinions.values()], axis=0)
    closest = f"; most alike: {pairs[0].label} and {pairs[0].other} ({pairs[0].score:.2f})" if pairs else ""
    return f"{int(doubted.sum()):,} of {len(ids):,} labels doubted, {len(issues):,} listed{closest}"


if __name__ == "__main__":
    main()
