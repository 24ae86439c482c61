"""What `benchmarks/serving.py` says of the answers it gets; nothing is served or timed here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from stage_script import benchmark

EXPECTED = [("agua", 0.5), ("luz", 0.5), ("agua", 0.75)]


@pytest.fixture(scope="module")
def serving() -> Iterator[Any]:
    with benchmark("serving") as module:
        yield module


def answer(*predictions: tuple[str, float]) -> bytes:
    made = [{"labels": [{"label": label}], "confidence": confidence} for label, confidence in predictions]
    return json.dumps({"predictions": made}).encode()


def checked(serving: Any, answers: dict[tuple[int, ...], bytes], exact: bool) -> tuple[int, int]:
    tally = serving.Tally(texts=len(EXPECTED))
    serving.check(tally, answers, EXPECTED, exact)
    return tally.lost, tally.mixed_up


@pytest.mark.parametrize("exact", [True, False])
def test_answers_that_change_places_are_mixed_up(serving: Any, exact: bool) -> None:
    first, second, third = EXPECTED
    right = {(0,): answer(first), (1, 2): answer(second, third)}

    assert checked(serving, right, exact) == (0, 0)
    # By the label alone, by the confidence alone, and inside one request.
    assert checked(serving, {(0, 1): answer(second, first), (2,): answer(third)}, exact) == (0, 2)
    assert checked(serving, {(0,): answer(third), (1, 2): answer(second, first)}, exact) == (0, 2)
    assert checked(serving, {(0,): answer(first), (1, 2): answer(third, second)}, exact) == (0, 2)


def test_an_answer_that_is_nobodys_is_mixed_up_where_the_model_is_exact(serving: Any) -> None:
    answers = {(0, 1, 2): answer(("agua", 0.51), *EXPECTED[1:])}

    assert checked(serving, answers, exact=True) == (0, 1)
    # An int8 model depends a little on the batch.
    assert checked(serving, answers, exact=False) == (0, 0)


def test_what_does_not_come_is_lost(serving: Any) -> None:
    assert checked(serving, {(1,): answer(EXPECTED[1])}, exact=True) == (2, 0)


@pytest.mark.parametrize(("lost", "mixed_up"), [(0, 0), (1, 0), (0, 1)])
def test_what_is_lost_or_mixed_up_is_said_by_the_exit_status(
    serving: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lost: int,
    mixed_up: int,
) -> None:
    tally = serving.Tally(texts=3, seconds=1.0, waits=[0.1], lost=lost, mixed_up=mixed_up)
    good = serving.Tally(texts=3, seconds=1.0, waits=[0.1])
    results = {"1": serving.summary([(3.0, good)]), "8": serving.summary([(3.0, tally)])}
    monkeypatch.setattr(serving, "measure", lambda arguments, texts: results)
    monkeypatch.setattr(serving, "load_texts", lambda path, count: [])
    monkeypatch.setattr(sys, "argv", ["serving.py"])

    if lost or mixed_up:
        with pytest.raises(SystemExit) as ended:
            serving.main()
        assert ended.value.code == 1
    else:
        serving.main()
    assert capsys.readouterr().out.endswith(f" lost={lost} mixed_up={mixed_up}\n")
