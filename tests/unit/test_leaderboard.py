"""Experiments in the order of their scores, and which are told apart."""

from __future__ import annotations

import numpy as np
import pytest

from afina.comparison import Predictions
from afina.errors import UserError
from afina.leaderboard import Entry, changed, rank, table

LABELS = ("a", "b", "c")
ROWS = 600


def entry(
    name: str,
    wrong: int,
    changes: str = "",
    first: int = 0,
    labels: tuple[str, ...] = LABELS,
    rows: range = range(ROWS),
) -> Entry:
    """A model that is wrong on some of its rows, one after another from the first of them."""
    truth = np.asarray(rows) % 3
    predicted = truth.copy()
    predicted[first : first + wrong] = (truth[first : first + wrong] + 1) % 3
    ids = tuple(f"r{row}" for row in rows)
    return Entry(name, changes, Predictions("multiclass", labels, ids, truth, predicted))


def test_the_best_comes_first_and_ties_are_marked() -> None:
    places = rank([entry("worse", 200), entry("close", 62), entry("best", 60)], "accuracy", 0.05)
    assert [(place.entry.name, place.standing) for place in places] == [
        ("best", "best"),
        ("close", "tied"),
        ("worse", "worse"),
    ]
    assert [place.score for place in places] == pytest.approx([0.9, 1 - 62 / 600, 2 / 3])
    assert places[2].difference == pytest.approx(2 / 3 - 0.9)
    assert places[2].low < places[2].difference < places[2].high < 0
    assert places[1].low <= places[1].difference <= places[1].high


def test_no_drop_is_sure_whose_interval_reaches_zero() -> None:
    """24 rows lost and 13 won: more than chance to a one-sided test, not to the interval that is shown."""
    _, place = rank([entry("best", 60), entry("other", 71, first=13)], "accuracy", 0.05)
    assert place.low < place.difference < 0 <= place.high
    assert place.standing == "tied"
    _, place = rank([entry("best", 60), entry("other", 77, first=13)], "accuracy", 0.05)
    assert place.high < 0
    assert place.standing == "worse"


def test_equal_scores_keep_their_order() -> None:
    places = rank([entry("one", 60), entry("other", 60), entry("third", 60, first=300)], "macro_f1", 0.05)
    assert [place.entry.name for place in places] == ["one", "other", "third"]
    assert places[1].standing == places[2].standing == "tied"


def test_other_data_are_said_to_be_other() -> None:
    places = rank([entry("new", 60), entry("old", 200, labels=("a", "b", "d"))], "accuracy", 0.05)
    assert places[1].standing == "other data"


def test_more_rows_than_the_best_has_are_other_data_as_well() -> None:
    """On the 200 that both have the second is better; on its 400 others, which are harder, it is not."""
    short = entry("HEAD", 40, rows=range(200))
    places = rank([short, entry("exp", 240, first=180)], "accuracy", 0.05)
    assert [place.entry.name for place in places] == ["HEAD", "exp"]
    assert places[1].standing == "other data"
    assert places[1].difference == pytest.approx(0.1)
    assert places[1].rows == 200

    places = rank([entry("few", 0, rows=range(100)), entry("HEAD", 60)], "accuracy", 0.05)
    assert places[1].standing == "other data"
    places = rank([entry("HEAD", 60), entry("few", 60, rows=range(100))], "accuracy", 0.05)
    assert places[1].standing == "other data"


def test_a_model_better_on_the_common_rows_is_never_tied() -> None:
    """It loses on its own 60 rows, a tenth, what it wins on the other 540."""
    more = entry("more", 60, first=540)
    fewer = entry("fewer", 40, rows=range(540))
    [best, place] = rank([fewer, more], "accuracy", 0.05)
    assert (best.entry.name, place.entry.name) == ("fewer", "more")
    assert place.low is not None
    assert place.low > 0
    assert place.standing == "other data"


def test_a_tenth_of_other_rows_is_still_the_same_data() -> None:
    places = rank([entry("best", 60), entry("fewer", 60, rows=range(540))], "accuracy", 0.05)
    assert places[1].standing == "tied"


@pytest.mark.parametrize("rows", [range(ROWS, ROWS + 30), range(0, ROWS, 3)])
def test_without_rows_to_compare_by_there_is_no_difference(rows: range) -> None:
    """None in common, or all of one class; the others keep their places."""
    places = rank([entry("best", 0), entry("apart", 10, rows=rows), entry("worse", 200)], "accuracy", 0.05)
    found = {place.entry.name: place for place in places}
    assert found["worse"].standing == "worse"
    assert found["apart"].standing == "other data"
    assert found["apart"].difference is found["apart"].low is found["apart"].high is None
    lines = table(places, "accuracy", 0.05, as_markdown=False).splitlines()
    assert next(line for line in lines if "apart" in line).split()[2:] == [
        f"{found['apart'].score:.3f}",
        "other",
        "data",
    ]
    assert lines[-1].startswith("other data: ")


def test_entries_of_one_name_keep_their_own_score() -> None:
    places = rank([entry("same", 200), entry("same", 60)], "accuracy", 0.05)
    assert [place.score for place in places] == pytest.approx([0.9, 2 / 3])
    assert [place.standing for place in places] == ["best", "worse"]


def test_a_risk_that_makes_no_sense() -> None:
    with pytest.raises(UserError, match=r"--alpha: 7 is not in \(0, 0\.5\)"):
        rank([entry("one", 1), entry("other", 2)], "accuracy", 7)
    one_class = range(0, ROWS, 3)
    with pytest.raises(UserError, match="of one class"):
        rank([entry("one", 1, rows=one_class), entry("other", 2, rows=one_class)], "accuracy", 0.05)


def test_a_metric_that_the_task_lacks() -> None:
    with pytest.raises(UserError, match=r"leaderboard: --metric: a multiclass task has no 'micro_f1'"):
        rank([entry("one", 1)], "micro_f1", 0.05)


def test_the_whole_text() -> None:
    places = rank([entry("best", 60), entry("worse", 200, "train.epochs=1")], "accuracy", 0.05)
    lines = table(places, "accuracy", 0.05, as_markdown=False).splitlines()
    assert lines[0].split() == [
        "experiment",
        "accuracy",
        "to",
        "the",
        "best",
        "95",
        "%",
        "interval",
        "changes",
    ]
    assert lines[1].split() == ["1", "best", "0.900", "best"]
    assert lines[2].startswith("2  worse")
    assert lines[2].endswith("worse  train.epochs=1")
    assert lines[-1] == "tied: not shown to be worse than the best on its 600 test rows"
    rows = table(places, "accuracy", 0.05, as_markdown=True).splitlines()
    assert rows[1] == "|---:|---|---:|---:|---:|---|---|"
    assert all(row.count("|") == 8 for row in rows[:4])


def test_changes_are_sorted_and_short() -> None:
    found = changed({"train.epochs": {"old": 3, "new": 5}, "balance.strategy": {"old": "none", "new": "x"}})
    assert found == "balance.strategy=x train.epochs=5"
