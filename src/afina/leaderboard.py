"""Experiments by their score on the same test rows, and which of them the best is really better than."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from afina.comparison import METRICS, Comparison, Gate, Predictions, compare
from afina.errors import UserError

Standing = Literal["best", "tied", "worse", "other data"]

# Enough for intervals that are shown with three decimals.
RESAMPLES = 2_000


@dataclass(frozen=True)
class Entry:
    """A state of the repository that has predictions."""

    name: str  # of an experiment, a commit, or workspace
    changes: str  # its parameters that differ from those it is based on
    predictions: Predictions


@dataclass(frozen=True)
class Place:
    """An entry in the order of the scores."""

    entry: Entry
    score: float
    difference: float  # to the best entry's score, at most 0 on the same rows
    low: float  # interval of the difference
    high: float
    standing: Standing
    rows: int  # test rows that it has in common with the best


def rank(entries: Sequence[Entry], metric: str, alpha: float) -> list[Place]:
    """Order entries by a score of their test rows, the best first; equal ones keep their order.

    ``tied`` says that the paired tests of `afina.comparison`, with no tolerance, find no drop from the best,
    or that the interval of the difference reaches zero. That is not to say that the two are equal: with few
    test rows much is tied. The best of many is also in part the luckiest, so those tied with it are all
    candidates.

    Args:
        entries: at least one; of one task.
        metric: as in `afina.comparison.METRICS`.
        alpha: risk of calling an equal model worse; the intervals are of 1 - alpha.

    Raises:
        UserError: the task has no such metric, or entries have no test row in common with the best.
    """
    scores = {entry.name: score(entry.predictions, metric) for entry in entries}
    ordered = sorted(entries, key=lambda entry: -scores[entry.name])
    best = ordered[0]
    gate = Gate(metric=metric, max_drop=0.0, alpha=alpha, resamples=RESAMPLES)
    places = [Place(best, scores[best.name], 0.0, 0.0, 0.0, "best", len(best.predictions.ids))]
    for entry in ordered[1:]:
        found = compare(best.predictions, entry.predictions, gate)
        change = found.gated
        places.append(
            Place(
                entry,
                scores[entry.name],
                change.difference,
                change.low,
                change.high,
                _standing(found),
                found.pairing.common,
            )
        )
    return places


def score(predictions: Predictions, metric: str) -> float:
    """A score of all test rows.

    Raises:
        UserError: the task has no such metric.
    """
    from afina.evaluation.metrics import prediction_metrics

    task = predictions.task
    if metric not in METRICS[task]:
        raise UserError(
            f"leaderboard: --metric: a {task} task has no {metric!r}; give {', '.join(METRICS[task])}"
        )
    return prediction_metrics(predictions.truth, predictions.predicted, predictions.labels, task)[metric]


def changed(params: Mapping[str, Mapping[str, object]]) -> str:
    """Parameters that differ, as "balance.strategy=oversample train.epochs=5".

    Args:
        params: by name, with what it is now under ``new``, as `dvc params diff` has it.
    """
    return " ".join(f"{name}={values.get('new')}" for name, values in sorted(params.items()))


def table(places: Sequence[Place], metric: str, alpha: float, as_markdown: bool) -> str:
    """The places as aligned text or as a Markdown table, and a line on what tied means."""
    header = ("", "experiment", metric, "to the best", f"{100 * (1 - alpha):g} % interval", "", "changes")
    rows = [header]
    for number, place in enumerate(places, start=1):
        first = place.standing == "best"
        rows.append(
            (
                str(number),
                place.entry.name,
                f"{place.score:.3f}",
                "" if first else f"{place.difference:+.3f}",
                "" if first else f"[{place.low:+.3f}, {place.high:+.3f}]",
                place.standing,
                place.entry.changes,
            )
        )
    note = f"tied: not shown to be worse than the best on its {places[0].rows:,} test rows"
    if as_markdown:
        escaped = [tuple(cell.replace("|", "\\|") for cell in row) for row in rows]
        lines = [f"| {' | '.join(row)} |" for row in escaped]
        lines.insert(1, "|---:|---|---:|---:|---:|---|---|")
        return "\n".join([*lines, "", note]) + "\n"
    widths = [max(len(row[at]) for row in rows) for at in range(len(header))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if at in (1, 5, 6) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, "", note]) + "\n"


def _standing(comparison: Comparison) -> Standing:
    if comparison.verdict == "data changed":
        return "other data"
    # The verdict is one-sided, and the interval next to it two-sided: where this reaches zero, nobody is told
    # that the difference is sure.
    sure = comparison.verdict == "worse" and comparison.gated.high < 0
    return "worse" if sure else "tied"
