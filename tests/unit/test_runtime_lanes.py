"""Many batches at a time: the same answers, a second session only where it pays and is of the same file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from afina.errors import UserError
from afina.runtime import loading
from afina.runtime.classifier import Classifier
from afina.runtime.encoding import token_budget_batches
from afina.runtime.lanes import MOST, WORTH, Lanes, side_by_side
from afina.runtime.loading import Floats
from toy_artifact import settled, write_toy

WORDS = ("agua", "luz", "pagos", "nada")
TEXTS = [" ".join(WORDS[(row + word) % 4] for word in range(row % 9)) for row in range(200)]


def count_threads(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The thread of each batch that the classifier runs from now on."""
    threads: list[str] = []
    run = loading.LoadedModel.run

    def noted(*arguments: object, **keywords: object) -> tuple[Floats, Floats]:
        threads.append(threading.current_thread().name)
        return run(*arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(loading.LoadedModel, "run", noted)
    return threads


# ------------------------------------------------------------------------------------ when


def test_a_second_session_is_opened_once_enough_batches_were_seen() -> None:
    opened: list[str] = []

    def open_session() -> str:
        opened.append("session")
        return "session"

    lanes = Lanes(4, open_session)
    for _ in range(WORTH - 1):
        assert lanes.session(3) is None  # fewer than lanes: all threads for each
        assert lanes.session(4) is None
    assert not opened
    assert lanes.session(4) == "session"
    assert lanes.session(4) == "session"
    assert lanes.session(3) is None
    assert opened == ["session"]


def test_a_session_that_cannot_be_had_is_asked_for_once() -> None:
    asked: list[None] = []
    lanes: Lanes[str] = Lanes(2, lambda: asked.append(None))
    assert [lanes.session(1000) for _ in range(3)] == [None] * 3
    assert len(asked) == 1


@pytest.mark.parametrize("count", [0, 1])
def test_one_processor_has_no_lanes(count: int) -> None:
    def never() -> str:
        raise AssertionError

    assert Lanes(count, never).session(10_000) is None


# ------------------------------------------------------------------------------------ side by side


def test_each_number_runs_once_and_several_at_the_same_time() -> None:
    meeting = threading.Barrier(3)
    ran: list[int] = []

    def run(number: int) -> None:
        meeting.wait(timeout=60)  # passed only by three at once
        ran.append(number)

    side_by_side(3, run, range(9), threading.Semaphore(2))
    assert sorted(ran) == list(range(9))


def test_after_an_error_nothing_more_begins() -> None:
    begun: list[int] = []
    failed = threading.Event()

    def run(number: int) -> None:
        begun.append(number)
        if number == 0:
            failed.set()
            raise KeyError(number)
        assert failed.wait(60)
        # Long enough for the error to be seen by who waits for it.
        threading.Event().wait(0.05)

    with pytest.raises(KeyError):
        side_by_side(2, run, range(1000), threading.Semaphore(1))
    assert len(begun) < 1000


def test_an_error_of_what_gives_the_items_is_raised_whichever_thread_it_meets() -> None:
    given = threading.Semaphore(2)  # one for each thread

    class Items:
        def __iter__(self) -> Items:
            return self

        def __next__(self) -> int:
            if given.acquire(blocking=False):
                return 1
            raise KeyError("next")

    both = threading.Barrier(2)
    with pytest.raises(KeyError, match="next"):
        side_by_side(2, lambda _: both.wait(timeout=60), Items(), threading.Semaphore(1))


def test_an_interruption_ends_it_and_counts_before_other_errors() -> None:
    begun: list[int] = []
    both = threading.Barrier(2)

    def run(number: int) -> None:
        begun.append(number)
        both.wait(timeout=60)
        raise KeyboardInterrupt if number else ValueError

    with pytest.raises(KeyboardInterrupt):
        side_by_side(2, run, range(1000), threading.Semaphore(1))
    assert sorted(begun) == [0, 1]


def test_callers_share_the_helpers() -> None:
    helpers = threading.Semaphore(2)
    running: set[str] = set()
    most: list[int] = []
    callers = threading.Barrier(4)

    def run(_: int) -> None:
        running.add(threading.current_thread().name + str(threading.get_ident()))
        most.append(len(running))
        time.sleep(0.001)
        running.discard(threading.current_thread().name + str(threading.get_ident()))

    def call() -> None:
        callers.wait(timeout=60)
        side_by_side(8, run, range(50), helpers)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 200
    assert max(most) <= 4 + 2
    assert helpers._value == 2


def test_without_threads_the_caller_does_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    ran: list[int] = []
    side_by_side(4, ran.append, range(10), threading.Semaphore(3))
    assert ran == list(range(10))


def test_it_runs_in_a_thread_that_outlives_the_main_one() -> None:
    code = (
        "import threading, time\n"
        "from afina.runtime.lanes import side_by_side\n"
        "def late():\n"
        "    threading.main_thread().join()\n"
        "    ran = []\n"
        "    side_by_side(2, ran.append, range(3), threading.Semaphore(1))\n"
        "    print(*sorted(ran))\n"
        "threading.Thread(target=late).start()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.stdout, result.stderr) == ("0 1 2\n", "")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_control_c_stops_it_at_once(tmp_path: Path) -> None:
    code = (
        "import signal, threading, time\n"
        "from afina.runtime.lanes import side_by_side\n"
        # What a shell starts in the background ignores it, and so do its children.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def run(number):\n"
        "    print(number, flush=True)\n"
        "    time.sleep(0.01)\n"
        "side_by_side(3, run, range(100_000), threading.Semaphore(2))\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    assert child.returncode not in (0, None)


# ------------------------------------------------------------------------------------ a classifier


@pytest.mark.parametrize("threads", [2, 3, 40])
def test_answers_are_the_same_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    path = settled(write_toy(tmp_path / "model.onnx"))
    texts = TEXTS * 20
    alone = Classifier(path, threads=1, token_budget=16)
    expected = alone.predict_proba(texts)
    assert alone.lanes == 1

    several = Classifier(path, threads=threads, token_budget=16)
    assert several.lanes == min(threads, MOST)
    ran = count_threads(several, monkeypatch)
    found = several.predict_proba(texts)

    assert np.array_equal(found, expected)
    assert "afina-lane" in ran
    assert set(ran) <= {"MainThread", "afina-lane"}
    batches = token_budget_batches([len(ids) for ids in several.encode(texts)], 16)
    assert len(ran) == len(batches)

    ran.clear()
    assert np.array_equal(several.predict_proba(texts[5:6]), expected[5:6])
    assert ran == ["MainThread"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("afina-lane")]


def test_threads_share_the_lanes(tmp_path: Path) -> None:
    path = settled(write_toy(tmp_path / "model.onnx"))
    expected = Classifier(path, threads=1).predict_proba(TEXTS)
    shared = Classifier(path, threads=2, token_budget=12)
    found: list[Floats] = []
    callers = [
        threading.Thread(target=lambda: found.append(shared.predict_proba(TEXTS * 3))) for _ in range(6)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 6
    assert all(np.array_equal(answers, np.concatenate([expected] * 3)) for answers in found)


@pytest.mark.parametrize("how", ["replaced", "written in place", "gone"])
def test_a_file_that_changed_is_not_mixed_with_the_old_one(tmp_path: Path, how: str) -> None:
    path = settled(write_toy(tmp_path / "model.onnx"))
    classifier = Classifier(path, threads=2, token_budget=12)
    other = write_toy(tmp_path / "other.onnx", labels=("luz", "agua", "pagos"))
    if how == "replaced":
        os.replace(settled(other), path)
    elif how == "written in place":
        path.write_bytes(other.read_bytes())
    else:
        path.unlink()
    found = classifier.predict(TEXTS * 20)
    assert classifier._model.lanes.session(100) is None
    assert {one.label for one in found} == {"agua", "luz", "pagos"}
    assert classifier.predict(["luz"])[0].label == found[TEXTS.index("luz")].label == "luz"


@pytest.mark.parametrize("error", [UserError("no memory"), MemoryError(), RuntimeError("no new thread")])
def test_a_second_session_that_fails_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = settled(write_toy(tmp_path / "model.onnx"))
    classifier = Classifier(path, threads=2, token_budget=12)
    expected = Classifier(path, threads=1).predict_proba(TEXTS)

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(loading._Opening, "session", fail)
    assert np.array_equal(classifier.predict_proba(TEXTS * 20), np.concatenate([expected] * 20))


def test_a_large_file_is_held_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = settled(write_toy(tmp_path / "model.onnx"))
    monkeypatch.setattr(loading, "_HELD_TWICE", path.stat().st_size - 1)
    assert Classifier(path, threads=4).lanes == 1


def test_what_comes_up_while_there_are_no_lanes_is_left_to_the_next_call(tmp_path: Path) -> None:
    classifier = Classifier(settled(write_toy(tmp_path / "model.onnx")), threads=2)
    endless, ran = count(), list[int]()

    def work(number: int, /, *, forward: object) -> None:
        ran.append(number)
        if number == 10_000:
            raise StopAsyncIteration  # nothing else ends it

    for _ in range(WORTH - 1):
        classifier.run_batches(endless, 2, work)
    assert ran == list(range(2 * (WORTH - 1)))
    with pytest.raises(StopAsyncIteration):
        classifier.run_batches(endless, 2, work)


def test_an_error_in_a_batch_is_raised(tmp_path: Path) -> None:
    classifier = Classifier(settled(write_toy(tmp_path / "model.onnx")), threads=2)

    def work(number: int, /, *, forward: object) -> None:
        if number == 77:
            raise ValueError("77")

    with pytest.raises(ValueError, match="77"):
        classifier.run_batches(range(200), 200, work)
