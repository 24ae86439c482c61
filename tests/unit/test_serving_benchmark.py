"""What `benchmarks/serving.py` says of the answers it gets; nothing is served or timed here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from stage_script import benchmark

LABELS = ("agua", "luz")
EXPECTED = np.array([[0.55, 0.45], [0.05, 0.95], [0.9, 0.1]], dtype=np.float32)
RIGHT = [("agua", 0.55), ("luz", 0.95), ("agua", 0.9)]


@pytest.fixture(scope="module")
def serving() -> Iterator[Any]:
    with benchmark("serving") as module:
        yield module


def answer(*predictions: tuple[str, float]) -> bytes:
    made = [{"top": [{"label": label, "probability": probability}]} for label, probability in predictions]
    return json.dumps({"predictions": made}).encode()


def checked(serving: Any, answers: dict[tuple[int, ...], bytes], precision: str) -> tuple[int, int]:
    tally = serving.Tally(texts=len(EXPECTED))
    tolerance = serving.TOLERANCE if precision == "fp32" else serving.INT8_TOLERANCE
    serving.check(tally, answers, EXPECTED, LABELS, tolerance)
    return tally.lost, tally.mixed_up


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_answers_that_change_places_are_mixed_up(serving: Any, precision: str) -> None:
    first, second, third = RIGHT
    right = {(0,): answer(first), (1, 2): answer(second, third)}

    assert checked(serving, right, precision) == (0, 0)
    # By the probability alone, by the label alone, and inside one request.
    assert checked(serving, {(0,): answer(third), (1, 2): answer(second, first)}, precision) == (0, 2)
    assert checked(serving, {(0,): answer(first), (1, 2): answer(third, second)}, precision) == (0, 2)
    assert checked(serving, {(0, 1, 2): answer(second, third, first)}, precision) == (0, 3)


@pytest.mark.parametrize("changed", [("agua", 0.6), ("luz", 0.52)])
def test_an_int8_model_depends_a_little_on_the_batch(serving: Any, changed: tuple[str, float]) -> None:
    answers = {(0, 1, 2): answer(changed, *RIGHT[1:])}

    assert checked(serving, answers, "fp32") == (0, 1)
    assert checked(serving, answers, "int8") == (0, 0)


def test_what_does_not_come_is_lost(serving: Any) -> None:
    assert checked(serving, {(1,): answer(RIGHT[1])}, "fp32") == (2, 0)


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
