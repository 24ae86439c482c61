"""Experiments by their score on the same test rows, and which of them the best is really better than."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from afina.comparison import (
    METRICS,
    MOST_CHANGED,
    Comparison,
    Gate,
    Pairing,
    Predictions,
    check_gate,
    compare,
    pair,
)
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
    score: float  # of its own test rows
    difference: float | None  # to the best on the rows that both have; None: they allow no comparison
    low: float | None  # interval of the difference
    high: float | None
    standing: Standing
    rows: int  # test rows that it has in common with the best


def rank(entries: Sequence[Entry], metric: str, alpha: float) -> list[Place]:
    """Order entries by a score of their own test rows, the best first; equal ones keep their order.

    ``tied`` says that the paired tests of `afina.comparison`, with no tolerance, find no drop from the best,
    or that the interval of the difference reaches zero. That is not to say that the two are equal: with few
    test rows much is tied. The best of many is also in part the luckiest, so those tied with it are all
    candidates.

    ``other data`` says that the order tells nothing of the two models: the labels differ, or more than
    `afina.comparison.MOST_CHANGED` of the test rows of the one are not among those of the other. Or fewer are
    not, and they alone make a model score below the best that is better on all that both have.

    Args:
        entries: at least one; of one task.
        metric: as in `afina.comparison.METRICS`.
        alpha: risk of calling an equal model worse; the intervals are of 1 - alpha.

    Raises:
        UserError: the task has no such metric, alpha makes no sense, or the best and another entry have the
            same test rows and those are all of one class.
    """
    scored = [(entry, score(entry.predictions, metric)) for entry in entries]
    ordered = sorted(scored, key=lambda one: -one[1])
    best, highest = ordered[0]
    gate = Gate(metric=metric, max_drop=0.0, alpha=alpha, resamples=RESAMPLES)
    check_gate(gate, best.predictions.task)
    first = Place(best, highest, 0.0, 0.0, 0.0, "best", len(best.predictions.ids))
    return [first, *(_place(best, entry, own, gate) for entry, own in ordered[1:])]


def _place(best: Entry, entry: Entry, own: float, gate: Gate) -> Place:
    """An entry beside the best; ``own``: its score of all its test rows."""
    try:
        found = compare(best.predictions, entry.predictions, gate)
    except UserError:
        pairing, _, _ = pair(best.predictions, entry.predictions)
        if not _unpaired(pairing):
            raise
        return Place(entry, own, None, None, None, "other data", pairing.common)
    change = found.gated
    return Place(
        entry, own, change.difference, change.low, change.high, _standing(found), found.pairing.common
    )


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
    """The places as aligned text or as a Markdown table, and a line on what a standing means."""
    header = ("", "experiment", metric, "to the best", f"{100 * (1 - alpha):g} % interval", "", "changes")
    rows = [header]
    for number, place in enumerate(places, start=1):
        rows.append(
            (
                str(number),
                place.entry.name,
                f"{place.score:.3f}",
                *_shown_difference(place),
                place.standing,
                place.entry.changes,
            )
        )
    notes = [f"tied: not shown to be worse than the best on its {places[0].rows:,} test rows"]
    if any(place.standing == "other data" for place in places):
        notes.append("other data: not the test rows or labels of the best; differences are on those of both")
    if as_markdown:
        escaped = [tuple(cell.replace("|", "\\|") for cell in row) for row in rows]
        lines = [f"| {' | '.join(row)} |" for row in escaped]
        lines.insert(1, "|---:|---|---:|---:|---:|---|---|")
        return "\n".join([*lines, "", "\n\n".join(notes)]) + "\n"
    widths = [max(len(row[at]) for row in rows) for at in range(len(header))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if at in (1, 5, 6) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, "", *notes]) + "\n"


def _shown_difference(place: Place) -> tuple[str, str]:
    """The difference to the best and its interval; nothing of the best itself, or where there is none."""
    if place.standing == "best" or place.difference is None:
        return "", ""
    return f"{place.difference:+.3f}", f"[{place.low:+.3f}, {place.high:+.3f}]"


def _unpaired(pairing: Pairing) -> int:
    """Test rows of the one side, whichever has more of them, that the other has not, or with other labels."""
    return pairing.relabelled + max(pairing.only_base, pairing.only_head)


def _standing(comparison: Comparison) -> Standing:
    pairing = comparison.pairing
    unpaired = _unpaired(pairing)
    others = unpaired / (unpaired + pairing.common) > MOST_CHANGED
    # What is better and yet scored below the best was judged on other rows, be they few.
    if others or comparison.verdict in ("data changed", "better"):
        return "other data"
    # The verdict is one-sided, and the interval next to it two-sided: where this reaches zero, nobody is told
    # that the difference is sure.
    sure = comparison.verdict == "worse" and comparison.gated.high < 0
    return "worse" if sure else "tied"
