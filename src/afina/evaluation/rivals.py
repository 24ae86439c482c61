"""The fine-tuned model beside simpler ones on the same test rows: scores, intervals, and who is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from afina.comparison import Comparison, Gate, Predictions, compare
from afina.errors import UserError
from afina.evaluation.intervals import bootstrap_intervals, headline_metrics
from afina.evaluation.metrics import IntArray, prediction_metrics
from afina.evaluation.tables import Cell
from afina.labels import LabelSet, encode_labels

FINE_TUNED = "fine-tuned"
PROBE = "probe"  # the frozen backbone under a linear model, see `afina.evaluation.probe`


def rival_header(label_set: LabelSet) -> tuple[str, ...]:
    """Columns of `rival_rows`; ``difference`` is in macro-F1, the fine-tuned model's less this one's."""
    first, second = headline_metrics(label_set.task)
    scores = [name for metric in (first, second) for name in (metric, f"{metric}_low", f"{metric}_high")]
    return ("model", *scores, "difference", "difference_low", "difference_high", "mcnemar_p", "fine_tuned_is")


def rival_rows(
    ids: Sequence[str],
    y: IntArray,
    predicted: IntArray,
    rivals: Mapping[str, IntArray],
    label_set: LabelSet,
    samples: int,
    confidence: float,
    seed: int,
) -> list[list[Cell]]:
    """One row a model as in `rival_header`, the fine-tuned one first.

    ``fine_tuned_is`` says better or worse where the paired tests of `afina.comparison` find a difference in
    macro-F1, and "no evidence" or "too little data" where they do not. ``mcnemar_p`` is McNemar's test of the
    share of rows judged wholly right.

    Args:
        ids: of the n test rows.
        y: their labels, (n,) or (n, L).
        predicted: what the fine-tuned model says of them, the same shape.
        rivals: what others say, by name.
        label_set: task and labels.
        samples: resamples behind each interval.
        confidence: level of the intervals, and one minus the risk of each test.
        seed: of the resamples.
    """
    task, labels = label_set.task, label_set.labels
    metrics = headline_metrics(task)

    def scores(guess: IntArray) -> list[Cell]:
        found = prediction_metrics(y, guess, labels, task)
        intervals = bootstrap_intervals(y, guess, len(labels), task, samples, confidence, seed).headline
        return [
            round(value, 6)
            for name in metrics
            for value in (found[name], intervals[name].low, intervals[name].high)
        ]

    gate = Gate(metric=metrics[0], max_drop=0.0, alpha=1 - confidence, resamples=samples, seed=seed)

    def versus(guess: IntArray) -> Comparison:
        base, head = (Predictions(task, labels, tuple(ids), y, part) for part in (guess, predicted))
        return compare(base, head, gate)

    rows: list[list[Cell]] = [[FINE_TUNED, *scores(predicted), *[None] * 5]]
    for name, guess in rivals.items():
        if len(np.unique(y, axis=0)) < 2:  # nothing to tell apart
            rows.append([name, *scores(guess), *[None] * 5])
            continue
        found = versus(guess)
        change = found.gated
        rows.append(
            [
                name,
                *scores(guess),
                *(round(value, 6) for value in (change.difference, change.low, change.high)),
                float(f"{found.mcnemar.p_value:.3g}"),
                found.verdict,
            ]
        )
    return rows


def read_rivals(table: pa.Table, ids: Sequence[str], label_set: LabelSet) -> dict[str, IntArray]:
    """Predictions by model, in the order of ``ids``, of `afina.evaluation.predictions.rival_table`.

    Raises:
        UserError: it is of other rows, or of other labels.
    """
    position = {row: at for at, row in enumerate(table["id"].to_pylist())}
    if set(position) != set(ids):
        raise UserError(
            "data/baseline/predictions.parquet: made with another test split; run `dvc repro -f baseline`"
        )
    order = pa.array([position[row] for row in ids])
    rivals = table.drop_columns("id").take(order)
    known = set(label_set.labels)
    for name in rivals.column_names:
        if not known.issuperset(rivals[name].combine_chunks().flatten().to_pylist()):
            raise UserError(
                "data/baseline/predictions.parquet: made with other labels; run `dvc repro -f baseline`"
            )
    return {
        name: encode_labels(rivals[name], label_set.labels, label_set.task) for name in rivals.column_names
    }
