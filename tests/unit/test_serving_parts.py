"""Parts of `afina serve` without a server: settings, keys, the queue, pages, logs."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import io
import json
import logging
import os
import sys
import threading
import weakref
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from afina.cli import main
from afina.errors import UserError
from afina.runtime.lanes import WORTH, side_by_side
from afina.runtime.text import STEPS
from afina.serving import logs
from afina.serving.answers import added_columns
from afina.serving.batching import QUANTUM, WINDOW_BUDGETS, Batcher, Job, QueueFullError
from afina.serving.errors import ApiError
from afina.serving.giving_way import FAST, Reading, Room
from afina.serving.logs import MOST_LINES, GatheredLines, JsonLines
from afina.serving.middleware import Authorize
from afina.serving.model import ModelStore, Served, load_model
from afina.serving.pages import api_page, card_page
from afina.serving.server import _within_file_limit
from afina.serving.service import Service, _is_plain, turns
from afina.serving.settings import ServeSettings, api_keys
from toy_artifact import LABELS, toy_metadata, toy_model, write_in_two, write_toy

# ------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("name", "value"),
    [("token_budget", 0), ("max_uploads", 0), ("shutdown_seconds", -1)],
)
def test_settings_out_of_range(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"serve: {name}: expected"):
        ServeSettings(model=Path("m"), **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--port", "-1", "expected 0 to 65535, found -1"),
        ("--port", "65536", "expected 0 to 65535, found 65536"),
        ("--threads", "0", "expected 1 to 1,024, found 0"),
        ("--queue", "0", "expected 1 to 1,048,576, found 0"),
        ("--max-texts", "0", "expected 1 to 65,536, found 0"),
        ("--max-texts", "5000", "5000 is more than the queue holds (4096); lower it or raise --queue"),
        ("--max-file-mb", "0", "expected 1 to 4,096, found 0"),
        ("--max-file-mb", "5000", "expected 1 to 4,096, found 5,000"),
        ("--timeout", "0", "expected 0.01 to 3,600, found 0"),
        ("--reload-every", "-1", "expected 0 to 3,600, found -1"),
        ("--cors-origin", "example.org", "'example.org' is no origin; one is such as https://example.org"),
        ("--allowed-host", "a:80", "'a:80' is no name of a host; give one such as afina.example.org, "
         "without scheme and port"),
    ],
)  # fmt: skip
def test_an_option_that_is_wrong_is_named_as_it_was_typed(
    capsys: pytest.CaptureFixture[str], option: str, value: str, expected: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "model.onnx", f"{option}={value}"])

    assert ended.value.code == 2
    assert capsys.readouterr().err == f"afina: error: serve: {option}: {expected}\n"


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(UserError, match="more than the queue holds"):
        ServeSettings(model=Path("m"), queue_texts=10, max_texts=11)


def test_keys_are_not_shown() -> None:
    assert "secreta" not in repr(ServeSettings(model=Path("m"), api_keys=("secreta",)))


@pytest.mark.parametrize("key", ["", " a", "a\n", "ñ"])
def test_keys_that_no_header_can_carry(key: str) -> None:
    with pytest.raises(UserError, match="serve: --api-key-file or AFINA_API_KEY: "):
        ServeSettings(model=Path("m"), api_keys=(key,))


def test_origins_are_as_browsers_send_them() -> None:
    given = ("https://Example.org/", "http://a.example:80", "http://localhost:3000", "http://[::1]:5/", "*")
    assert ServeSettings(model=Path("m"), cors_origins=given).cors_origins == (
        "https://example.org", "http://a.example", "http://localhost:3000", "http://[::1]:5", "*",
    )  # fmt: skip
    for wrong in (
        "example.org",
        "https://a.example/path",
        "https://",
        "ftp://a",
        "https://a b",
        "https://a//",
    ):
        with pytest.raises(UserError, match="is no origin"):
            ServeSettings(model=Path("m"), cors_origins=(wrong,))


def test_names_of_hosts() -> None:
    assert ServeSettings(model=Path("m"), allowed_hosts=("A.example.",)).allowed_hosts == ("a.example",)
    for wrong in ("https://a.example", "a:80", "", "a b", "*"):
        with pytest.raises(UserError, match="is no name of a host"):
            ServeSettings(model=Path("m"), allowed_hosts=(wrong,))


def test_keys_from_a_file_and_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# of the office\nuna\n\n dos \n  # old: cero\n", encoding="utf-8")

    assert api_keys(path, {"AFINA_API_KEY": "tres\n"}) == ("una", "dos", "tres")
    assert api_keys(None, {}) == ()
    for empty in ("", " "):
        with pytest.raises(UserError, match="AFINA_API_KEY is empty"):
            api_keys(None, {"AFINA_API_KEY": empty})


@pytest.mark.parametrize(("given", "known"), [("una", True), ("dos", True), ("tres", True), ("cero", False)])
@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
def test_the_time_of_a_comparison_tells_nothing_of_the_keys(
    monkeypatch: pytest.MonkeyPatch, header: str, given: str, known: bool
) -> None:
    compared = []
    compare = hmac.compare_digest

    def counted(first: bytes, second: bytes) -> bool:
        compared.append((first, second))
        return compare(first, second)

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(scope["path"])

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message.get("status"))

    passed: list[str] = []
    sent: list[Any] = []
    monkeypatch.setattr(hmac, "compare_digest", counted)
    value = f"Bearer {given}" if header == "authorization" else given
    scope = {"type": "http", "path": "/v1/model", "headers": [(header.encode(), value.encode())]}
    asyncio.run(Authorize(inner, ("una", "dos", "tres"))(scope, receive, send))

    assert (passed == ["/v1/model"]) == known
    assert (401 in sent) != known
    # With every key, also after one that fits, and by digests, which are all of one length.
    digests = [hashlib.sha256(key.encode()).digest() for key in (given, "una", "dos", "tres")]
    assert compared == [(digests[0], other) for other in digests[1:]]


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "raised"),
    [(-1, -1, 1000, None), (1128, 4096, 1000, None), (64, 4096, 1000, 1128), (64, -1, 1000, 1128),
     (64, 1128, 1000, 1128), (64, 1127, 999, 1127), (64, 64, 1, 64)],
)  # fmt: skip
def test_connections_are_no_more_than_open_files_allow(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    soft: int,
    hard: int,
    connections: int,
    raised: int | None,
) -> None:
    resource = pytest.importorskip("resource")
    made: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "RLIM_INFINITY", -1)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: made.append(limits))

    found = _within_file_limit(ServeSettings(model=Path("m"), max_connections=1000))

    assert found.max_connections == connections
    assert made == ([] if raised is None else [(raised, hard)])
    assert [record.getMessage() for record in caplog.records] == ["few_open_files"] * (connections < 1000)


# ----------------------------------------------------------------------------------- the queue


class _Classifier:
    """Answers a text of k tokens with the probability k / 1000 for the only label."""

    labels = ("una",)

    def __init__(self, lanes: int = 1) -> None:
        self.lanes = lanes
        self.broken = False
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list[int]] = []

    def forward(self, batch: list[Any]) -> tuple[Any, Any]:
        assert self.gate.wait(20)
        self.batches.append([len(row) for row in batch])
        if any(len(row) == 13 for row in batch):
            raise ValueError("13")
        return None, np.array([[len(row) / 1000] for row in batch], dtype=np.float32)

    def run_batches(self, batches: Any, count: int, work: Any) -> None:
        if self.broken:
            self.broken = False
            raise RuntimeError("can't start new thread")
        if count < max(self.lanes, 2):
            batches = islice(batches, count)
        helpers = threading.Semaphore(self.lanes - 1)
        lanes = min(self.lanes, count)
        side_by_side(lanes, lambda batch: work(batch, forward=self.forward), batches, helpers)


def _model(lanes: int = 1) -> Served:
    return Served(_Classifier(lanes), "m", "0", (0, 0, 0))  # type: ignore[arg-type]


def _ids(*lengths: int) -> list[Any]:
    return [np.zeros(length, dtype=np.int64) for length in lengths]


def _submit(batcher: Batcher, model: Served, *lengths: int) -> Job:
    batcher.reserve(len(lengths))
    return batcher.submit(model, _ids(*lengths))


@settings(max_examples=30, deadline=None)
@given(
    requests=st.lists(st.lists(st.integers(1, 12), max_size=30), max_size=12),
    budget=st.sampled_from([1, 16, 64, 512]),
    lanes=st.sampled_from([1, 3]),
)
def test_every_text_gets_its_own_answer(requests: list[list[int]], budget: int, lanes: int) -> None:
    async def run() -> list[list[float]]:
        batcher = Batcher(budget, 10_000)
        batcher.start()
        models = [_model(lanes), _model(lanes)]
        jobs = [_submit(batcher, models[n % 2], *lengths) for n, lengths in enumerate(requests)]
        answers = [(await job.future)[:, 0].tolist() for job in jobs]
        batcher.stop()
        assert batcher.waiting == 0
        for model in models:
            for batch in model.classifier.batches:  # type: ignore[attr-defined]
                assert len(batch) == 1 or max(batch) * len(batch) <= budget
        return answers

    found = asyncio.run(run())

    assert [np.round(1000 * np.array(answer)).astype(int).tolist() for answer in found] == requests


def test_requests_take_turns() -> None:
    async def run() -> None:
        model = _model()
        batcher = Batcher(QUANTUM, 10_000)
        large = _submit(batcher, model, *[QUANTUM // 4] * 100)
        small = _submit(batcher, model, 10)
        batcher.start()
        await asyncio.gather(small.future, large.future)
        batcher.stop()
        batches: list[list[int]] = model.classifier.batches  # type: ignore[attr-defined]
        (turn,) = [number for number, batch in enumerate(batches) if 10 in batch]
        # It is in the first window, with batches of a budget at most.
        assert turn <= WINDOW_BUDGETS
        assert len(batches) >= 25

    asyncio.run(run())


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(14, 300), min_size=1, max_size=60, unique=True))
def test_each_batch_has_the_text_that_has_waited_for_longest(lengths: list[int]) -> None:
    async def run() -> list[list[int]]:
        model = _model()
        batcher = Batcher(256, 10_000)
        jobs = [_submit(batcher, model, length) for length in lengths]
        batcher.start()
        for job in jobs:
            await job.future
        batcher.stop()
        batches: list[list[int]] = model.classifier.batches  # type: ignore[attr-defined]
        return batches

    left = list(lengths)
    for batch in asyncio.run(run()):
        assert left[0] in batch
        left = [length for length in left if length not in batch]
    assert left == []


class _Stepping(_Classifier):
    """Answers texts of 99 tokens once `gate` is open, and another batch for each step."""

    def __init__(self) -> None:
        super().__init__(lanes=2)
        self.gate.clear()
        self.steps = threading.Semaphore(0)

    def forward(self, batch: list[Any]) -> tuple[Any, Any]:
        if len(batch[0]) == 99:
            return super().forward(batch)
        assert self.steps.acquire(timeout=20)
        return None, np.zeros((len(batch), 1), dtype=np.float32)


def test_who_is_done_with_a_batch_takes_what_has_come_meanwhile() -> None:
    async def run() -> None:
        classifier = _Stepping()
        model = Served(classifier, "m", "0", (0, 0, 0))  # type: ignore[arg-type]
        batcher = Batcher(99, 100)
        slow = _submit(batcher, model, 99)
        waiting = [_submit(batcher, model, 60)]
        batcher.start()
        for _ in range(10):
            waiting.append(_submit(batcher, model, 60))
            classifier.steps.release()
            await asyncio.wait_for(waiting.pop(0).future, 20)
        assert not slow.future.done()
        classifier.steps.release()
        classifier.gate.set()
        await asyncio.gather(slow.future, waiting[0].future)
        batcher.stop()
        assert batcher.waiting == 0

    asyncio.run(run())


def test_lanes_open_soon_where_texts_never_stop_waiting(tmp_path: Path) -> None:
    model = load_model(write_toy(tmp_path / "model.onnx"), threads=2)
    lanes = model.classifier._model.lanes
    answered = 0

    async def client(batcher: Batcher) -> None:
        nonlocal answered
        while answered < 10 * WORTH * lanes.count and lanes._session is None:
            await asyncio.wait_for(_submit(batcher, model, 5).future, 20)
            answered += 1

    async def run() -> None:
        batcher = Batcher(5, 100)  # a text a batch
        batcher.start()
        await asyncio.gather(*(client(batcher) for _ in range(8)))
        batcher.stop()

    asyncio.run(run())

    assert lanes._session is not None
    # At most 8 wait at a time, so these are some rounds.
    assert answered <= 2 * WORTH * lanes.count


def test_nothing_is_lost_where_batches_run_out_again_and_again() -> None:
    async def client(batcher: Batcher, model: Served) -> None:
        for _ in range(200):
            job = _submit(batcher, model, 5)
            assert (await asyncio.wait_for(job.future, 20)).item() == pytest.approx(0.005)

    async def run() -> None:
        model = _model(lanes=3)
        batcher = Batcher(5, 100)  # a text a batch
        batcher.start()
        await asyncio.gather(*(client(batcher, model) for _ in range(8)))
        batcher.stop()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads meet in the middle of everything
    try:
        asyncio.run(run())
    finally:
        sys.setswitchinterval(before)


def test_of_a_request_that_nobody_waits_for_nothing_more_is_run() -> None:
    async def run() -> None:
        model = _model()
        classifier: Any = model.classifier
        classifier.gate.clear()
        batcher = Batcher(1, 100)
        gone, other = _submit(batcher, model, 3, 4, 5), _submit(batcher, model, 6)
        batcher.start()
        while batcher.waiting:  # until all are in the window
            await asyncio.sleep(0.001)
        batcher.drop(gone)
        classifier.gate.set()
        await asyncio.wait_for(other.future, 20)
        batcher.stop()
        assert len(classifier.batches) <= 2  # the one under way, and the other request's
        assert batcher.waiting == 0

    asyncio.run(run())


@pytest.mark.parametrize("lanes", [1, 4])
def test_a_failure_ends_the_requests_of_its_batch_alone(lanes: int) -> None:
    async def run() -> None:
        model = _model(lanes)
        batcher = Batcher(1, 100)
        jobs = [_submit(batcher, model, *lengths) for lengths in ([5, 6], [7, 13, 8], [9])]
        batcher.start()
        with pytest.raises(ValueError, match="13"):
            await jobs[1].future
        assert (await jobs[0].future).shape == (2, 1)
        assert (await jobs[2].future).shape == (1, 1)
        batcher.stop()
        assert batcher.waiting == 0

    asyncio.run(run())


def test_what_fails_outside_the_model_ends_the_requests_and_not_the_queue() -> None:
    async def run() -> None:
        model = _model()
        model.classifier.broken = True  # type: ignore[attr-defined]
        batcher = Batcher(64, 100)
        first = _submit(batcher, model, 5, 6)
        batcher.start()
        with pytest.raises(RuntimeError, match="thread"):
            await asyncio.wait_for(first.future, 20)
        assert (await asyncio.wait_for(_submit(batcher, model, 7).future, 20)).shape == (1, 1)
        batcher.stop()
        assert batcher.waiting == 0

    asyncio.run(run())


def test_an_idle_queue_holds_no_model() -> None:
    async def run() -> None:
        model = _model()
        held = weakref.ref(model.classifier)
        batcher = Batcher(64, 100)
        batcher.start()
        await _submit(batcher, model, 5).future
        del model
        for _ in range(200):
            if held() is None:
                break
            await asyncio.sleep(0.01)
        assert held() is None
        batcher.stop()

    asyncio.run(run())


def test_room_is_counted() -> None:
    async def run() -> None:
        model = _model()
        batcher = Batcher(64, 10)
        job = _submit(batcher, model, *range(1, 8))
        with pytest.raises(QueueFullError):
            batcher.reserve(4)
        batcher.reserve(3)
        batcher.release(3)
        batcher.drop(job)
        batcher.drop(job)
        assert batcher.waiting == 0
        batcher.reserve(10)
        batcher.release(10)
        batcher.start()
        assert batcher.accepting
        batcher.stop()
        assert not batcher.accepting
        assert model.classifier.batches == []  # type: ignore[attr-defined]
        with pytest.raises(QueueFullError):
            batcher.reserve(1)

    asyncio.run(run())


def test_what_waits_is_answered_when_the_queue_stops() -> None:
    async def run() -> None:
        model = _model()
        batcher = Batcher(64, 100)
        jobs = [_submit(batcher, model, 3) for _ in range(5)]
        batcher.start()
        batcher.stop()
        assert [(await job.future).item() for job in jobs] == pytest.approx([0.003] * 5)

    asyncio.run(run())


# ---------------------------------------------------------------------------------- giving way


class Body:
    """A body in a room, and a client that sends it when it is told to."""

    def __init__(self, room: Room) -> None:
        self.reading: Reading = room.reading()
        self._sent: asyncio.Queue[Message] = asyncio.Queue()
        self._receive = self.reading.counted(self._sent.get)  # type: ignore[arg-type]
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> int:
        """How many bytes came, or the status of the error."""
        size, more = 0, True
        with self.reading:
            try:
                while more:
                    message = await self._receive()
                    size += len(message["body"])
                    more = message["more_body"]
            except ApiError as error:
                return error.status
            await asyncio.sleep(1000)
        return size

    def put(self, size: int, more: bool = True) -> None:
        self._sent.put_nowait({"type": "http.request", "body": b"x" * size, "more_body": more})

    async def send(self, size: int, more: bool = True) -> None:
        self.put(size, more)
        await settle()

    async def status(self) -> int:
        return await asyncio.wait_for(self.task, 10)


async def settle() -> None:
    """Whatever can go on does."""
    for _ in range(10):
        await asyncio.sleep(0)


class Clock:
    """Seconds that pass when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def _full() -> ApiError:
    return ApiError.of_status(503)


def _room(most_bytes: int, places: int | None = None) -> tuple[Room, Clock]:
    """A room in which a body has a patience of 10 s."""
    clock = Clock()
    return Room(most_bytes, places, 10, _full, clock), clock


def test_the_place_of_the_slowest_is_taken_once_it_had_its_patience() -> None:
    async def run() -> None:
        room, clock = _room(1000, 3)
        fast, slow, silent = Body(room), Body(room), Body(room)
        # What came at once is no merit later.
        await silent.send(100)
        for _ in range(9):
            clock.now += 1
            await fast.send(20)
            await slow.send(10)
            with pytest.raises(ApiError, match="503"):
                room.reading()
        clock.now += 1
        newer = Body(room)
        assert (room.taken, room.held) == (3, 270)
        assert await silent.status() == 408
        assert (room.taken, room.held) == (3, 270)
        Body(room)
        assert await slow.status() == 408
        assert (room.taken, room.held) == (3, 180)
        await newer.send(30)
        Body(room)
        assert await fast.status() == 408
        with pytest.raises(ApiError, match="503"):
            room.reading()
        assert not newer.task.done()

    asyncio.run(run())


def test_who_is_fast_enough_keeps_the_place() -> None:
    async def run() -> None:
        room, clock = _room(100 * FAST, 2)
        fast, slow = Body(room), Body(room)
        for _ in range(14):
            clock.now += 1
            await fast.send(FAST)
            await slow.send(FAST // 4)
        new = Body(room)
        assert await slow.status() == 408
        clock.now += 1
        with pytest.raises(ApiError, match="503"):
            room.reading()
        assert not fast.task.done()
        assert not new.task.done()

    asyncio.run(run())


def test_bytes_are_taken_from_the_silent_that_hold_the_most() -> None:
    async def run() -> None:
        room, clock = _room(100)
        empty, few, many = Body(room), Body(room), Body(room)
        await few.send(30)
        await many.send(60)
        new = Body(room)
        clock.now += 9
        await new.send(10)
        clock.now += 1
        await new.send(50)
        assert await many.status() == 408
        assert room.held == 90
        await new.send(11)
        assert await few.status() == 408
        assert room.held == 71
        # Who holds nothing has nothing to give.
        assert not empty.task.done()

    asyncio.run(run())


def test_the_slowest_may_be_who_asks() -> None:
    async def run() -> None:
        room, clock = _room(100)
        steady, slow = Body(room), Body(room)
        await slow.send(50)
        clock.now += 10
        await steady.send(49)
        await slow.send(2)
        assert await slow.status() == 408
        assert (room.taken, room.held) == (1, 49)
        assert not steady.task.done()

    asyncio.run(run())


def test_what_has_arrived_never_gives_way() -> None:
    async def run() -> None:
        room, clock = _room(100, 2)
        whole = Body(room)
        await whole.send(90, more=False)
        clock.now += 1000
        other = Body(room)
        await other.send(20)
        assert await other.status() == 503
        other = Body(room)
        await settle()
        with pytest.raises(ApiError, match="503"):
            room.reading()
        assert not whole.task.done()
        # Its place may be free before its bytes are.
        whole.reading.leave_place()
        whole.reading.leave_place()
        assert (room.taken, room.held) == (1, 90)
        whole.task.cancel()
        other.task.cancel()
        await settle()
        assert (room.taken, room.held) == (0, 0)

    asyncio.run(run())


@pytest.mark.parametrize("case", ["message", "end", "cancel", "gone before it waits"])
def test_who_gives_way_is_released_once_whatever_comes_with_it(case: str) -> None:
    async def run() -> None:
        room, clock = _room(100, 1)
        body = Body(room)
        if case != "gone before it waits":
            await body.send(40)
        clock.now += 10
        if case in ("message", "end"):
            body.put(10, more=case == "message")
        with room.reading():
            assert (room.taken, room.held) == (1, 0)
            if case == "cancel":
                body.task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await body.task
            else:
                assert await body.status() == 408
            assert (room.taken, room.held) == (1, 0)
        assert (room.taken, room.held) == (0, 0)

    asyncio.run(run())


@pytest.mark.parametrize("message_first", [False, True])
def test_giving_way_goes_with_a_time_limit_inside(message_first: bool) -> None:
    async def run() -> None:
        room, clock = _room(100, 1)
        waiting: asyncio.Timeout

        async def receive() -> Message:
            nonlocal waiting
            try:
                async with asyncio.timeout(None) as waiting:
                    await asyncio.sleep(1000)
            except TimeoutError:
                if not message_first:
                    raise ApiError.of_status(504) from None
            return {"type": "http.request", "body": b"x", "more_body": True}

        reading = room.reading()
        task = asyncio.create_task(reading.counted(receive)())  # type: ignore[arg-type]
        await settle()
        clock.now += 10
        waiting.reschedule(0)
        room.reading()
        with pytest.raises(ApiError, match="408" if message_first else "408|504"):
            await task
        assert task.cancelling() == 0
        reading.release()
        assert (room.taken, room.held) == (1, 0)

    asyncio.run(run())


# ----------------------------------------------------------------------------------- the model


def test_a_model_whose_answers_are_no_probabilities_is_refused(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "model.onnx", properties=toy_metadata().to_properties())
    store = ModelStore(path)
    assert store.current.decide(np.array([[0.1, 0.7, 0.2]], dtype=np.float32), 1)[0].label == LABELS[1]
    import onnx

    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "bias":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([np.nan], dtype=np.float32), "bias"))
    path.write_bytes(model.SerializeToString())

    with pytest.raises(UserError, match="probabilities"):
        store.load()
    assert np.isfinite(store.current.classifier.predict_proba(["luz"])).all()


def test_a_model_with_an_unreadable_reference_changes_nothing(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "model.onnx")

    async def run() -> None:
        service = Service(ServeSettings(model=path), ModelStore(path))
        before, monitor = service.store.current, service.monitor
        write_toy(path, reference={"format": 2})
        with pytest.raises(UserError, match=r"reference: not readable \(of format 2.*export the model again"):
            await service.reload()
        assert (service.store.current, service.monitor) == (before, monitor)
        assert before.sha256 in service.metrics.text().decode()

    asyncio.run(run())
    with pytest.raises(UserError, match="reference"):
        load_model(path)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 90_000).map(lambda length: "a" * length), max_size=6), st.integers(0, 150))
def test_a_turn_is_a_few_texts_and_none_is_left_out(long: list[str], short: int) -> None:
    texts = [*long, *(f"{number}" for number in range(short))]
    parts = [list(part) for part in turns(texts)]
    assert [text for part in parts for text in part] == texts
    assert all(0 < len(part) <= 64 for part in parts)
    assert all(sum(map(len, part)) <= 1 << 16 for part in parts if len(part) > 1)


def test_many_texts_are_encoded_in_turns_with_those_of_others(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "model.onnx")
    service = Service(ServeSettings(model=path), ModelStore(path))
    model = service.store.current
    texts = [f"agua {'luz ' * (number % 3)}" for number in range(300)]
    order: list[str] = []

    async def encode(name: str, some: list[str]) -> Any:
        encoded = await service._encode(model, some)
        order.append(name)
        return encoded

    async def both() -> Any:
        # More long requests than threads, and then a short one.
        waiting = [asyncio.create_task(encode("long", texts)) for _ in range(3)]
        await asyncio.sleep(0)
        await encode("short", ["agua", "luz"])
        found = await waiting[0]
        service.batcher.start()
        await service.stop()
        return found

    found, whole = asyncio.run(both()), model.encode(texts)
    assert order[0] == "short"
    assert found.truncated == whole.truncated
    assert [ids.tolist() for ids in found.ids] == [ids.tolist() for ids in whole.ids]


def test_a_change_is_noticed_once_it_has_settled(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "model.onnx")
    store = ModelStore(path)
    assert [store.changed(), store.changed()] == [False, False]
    path.write_bytes(path.read_bytes() + b"\0")
    assert [store.changed(), store.changed()] == [False, True]
    path.unlink()
    assert [store.changed(), store.changed()] == [False, False]


def large_toy(folder: Path, labels: tuple[str, ...]) -> tuple[Path, Path]:
    """A toy in two files: the model and its weights, different for different labels."""
    toy = toy_model()
    table = next(tensor for tensor in toy.graph.initializer if tensor.name == "weights")
    rows = 100 + len(labels[0])
    table.raw_data, table.dims[0] = table.raw_data.ljust(12 * rows, b"\0"), rows
    folder.mkdir()
    weights = write_in_two(toy, folder / "model.onnx", toy_metadata(labels=labels))
    return folder / "model.onnx", weights


def test_weights_that_arrive_after_their_model_are_noticed(tmp_path: Path) -> None:
    place, old_weights = large_toy(tmp_path / "served", LABELS)
    store = ModelStore(place)
    assert [store.changed(), store.changed()] == [False, False]

    model, weights = large_toy(tmp_path / "new", ("uno", "dos", "tres"))
    os.replace(model, place)
    assert [store.changed(), store.changed()] == [False, True]
    with pytest.raises(UserError, match="which is missing; copy both files"):
        store.load()
    assert [store.changed(), store.changed()] == [False, False]  # nothing new to try

    content = weights.read_bytes()
    for part in (100, 200, len(content)):  # as long as it grows it is not whole
        (place.parent / weights.name).write_bytes(content[:part])
        assert not store.changed()
    assert store.changed()
    store.current = store.load()
    assert store.current.classifier.labels == ("uno", "dos", "tres")
    old_weights.unlink()  # of no model any more
    assert [store.changed(), store.changed()] == [False, False]


def test_weights_that_are_gone_leave_the_model_in_use(tmp_path: Path) -> None:
    place, weights = large_toy(tmp_path / "served", LABELS)
    store = ModelStore(place)
    weights.unlink()
    assert [store.changed(), store.changed()] == [False, False]
    os.replace(large_toy(tmp_path / "new", ("uno", "dos", "tres"))[0], place)
    assert [store.changed(), store.changed()] == [False, True]


def test_given_thresholds_leave_the_model_as_it_is(tmp_path: Path) -> None:
    served = load_model(write_toy(tmp_path / "model.onnx", "multilabel"))
    probabilities = np.array([[0.5, 0.3, 0.1]], dtype=np.float32)

    (changed,) = served.decide(probabilities, 1, {"agua": 0.6, "pagos": 0.05})
    (plain,) = served.decide(probabilities, 1)

    assert {score.label for score in changed.labels} == {"luz", "pagos"}
    # 1 - 0.5 of agua, 0.3 of luz, 0.1 of pagos
    assert changed.confidence == pytest.approx(0.1)
    assert {score.label for score in plain.labels} == {"agua", "luz"}


# --------------------------------------------------------------------------------- small things


@pytest.mark.parametrize(
    ("header", "top_k", "expected"),
    [
        (["a"], 1, ["label", "probability", "confidence", "needs_person"]),
        (["a"], 2, ["label", "probability", "confidence", "needs_person", "label_1", "probability_1",
                    "label_2", "probability_2"]),
        (["confidence"], 1, ["predicted_label", "predicted_probability", "predicted_confidence",
                             "predicted_needs_person"]),
    ],
)  # fmt: skip
def test_names_of_the_columns_added(header: list[str], top_k: int, expected: list[str]) -> None:
    assert added_columns(header, top_k) == expected
    assert set(added_columns([*header, *expected], top_k)).isdisjoint([*header, *expected])


def test_a_log_line_is_json_without_a_traceback() -> None:
    try:
        raise ValueError("un texto")
    except ValueError as error:
        record = logging.LogRecord(
            "afina.serve", logging.ERROR, "x", 1, "request", (), (type(error), error, None)
        )
    record.fields = {"status": 500}

    line = JsonLines().format(record)

    assert json.loads(line) | {"time": ""} == {
        "time": "", "level": "error", "event": "request", "status": 500, "error": "ValueError",
    }  # fmt: skip
    assert "un texto" not in line


class Gate(io.StringIO):
    """A place for lines that takes none until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.writes = threading.Event(), 0

    def write(self, text: str) -> int:
        assert self.open.wait(20)
        self.writes += 1
        return super().write(text)


def _lines(handler: logging.Handler, numbers: range, level: int = logging.INFO) -> None:
    for number in numbers:
        handler.handle(logging.LogRecord("afina.serve", level, "x", 1, str(number), (), None))


def test_log_lines_are_written_together_in_their_order_and_never_waited_for() -> None:
    stream = Gate()
    handler = GatheredLines(stream)
    _lines(handler, range(MOST_LINES // 2))  # nobody reads yet
    stream.open.set()
    handler.close()

    assert stream.getvalue().split() == [str(number) for number in range(MOST_LINES // 2)]
    assert stream.writes < 5
    handler.close()  # as at the end of the process, once more


def test_a_warning_and_what_came_before_it_are_written_at_once() -> None:
    stream = Gate()
    stream.open.set()
    handler = GatheredLines(stream)
    _lines(handler, range(2))
    _lines(handler, range(2, 3), logging.WARNING)

    assert stream.getvalue().split() == ["0", "1", "2"]
    handler.close()


def test_very_many_log_lines_wait_for_whoever_reads_them() -> None:
    stream = Gate()
    handler = GatheredLines(stream)
    writer = threading.Thread(target=_lines, args=(handler, range(5 * MOST_LINES)), daemon=True)
    writer.start()
    writer.join(0.5)

    assert writer.is_alive()
    assert len(handler._lines) <= MOST_LINES
    stream.open.set()
    writer.join(20)
    handler.close()
    assert stream.getvalue().split() == [str(number) for number in range(5 * MOST_LINES)]


def test_what_cannot_be_logged_stops_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    handler = GatheredLines(stream)
    handler.handle(logging.LogRecord("afina.serve", logging.INFO, "x", 1, "%d", ("no number",), None))
    _lines(handler, range(2))
    handler.close()

    assert stream.getvalue().split() == ["0", "1"]
    assert "Logging error" in capsys.readouterr().err


def test_a_line_that_cannot_be_written_takes_no_other_along() -> None:
    class Choosy(io.StringIO):
        def write(self, text: str) -> int:
            if "1" in text:
                raise UnicodeEncodeError("utf-8", "1", 0, 1, "not this one")
            return super().write(text)

    stream = Choosy()
    handler = GatheredLines(stream)
    _lines(handler, range(4))
    handler.close()

    assert stream.getvalue().split() == ["0", "2", "3"]


def test_a_reader_that_takes_nothing_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "PATIENCE", 0.2)
    stream = Gate()
    handler = GatheredLines(stream)
    _lines(handler, range(2))
    _lines(handler, range(2, 3), logging.WARNING)
    handler.flush()
    handler.close()

    assert stream.getvalue() == ""
    stream.open.set()
    handler._thread.join(20)
    assert stream.getvalue().split() == ["0", "1", "2"]


def test_lines_that_nobody_can_read_any_more_are_no_error() -> None:
    stream = io.StringIO()
    handler = GatheredLines(stream)
    stream.close()
    _lines(handler, range(3), logging.ERROR)
    handler.close()


@pytest.mark.parametrize(
    ("text", "plain"),
    [("¿Cuándo cobro la pensión?", True), ("a" * 1024, True), ("", True), ("a" * 1025, False),
     ("<" * 9 + "b>" * 9, False), ("&amp;" * 3, False), ("uno\ndos", False), ("espaÃ±ol", False),
     ("水", False)],
)  # fmt: skip
def test_what_may_be_cleaned_on_the_event_loop(text: str, plain: bool) -> None:
    assert _is_plain(text) == plain


def test_pages_escape_what_they_show() -> None:
    schema = {
        "info": {"title": "<b>", "version": "1", "description": "&"},
        "paths": {"/<i>": {"get": {"summary": "<u>", "responses": {"200": {"description": "<s>"}}}}},
    }

    page = api_page(schema) + card_page("<script>")

    for tag in ("<b>", "<i>", "<u>", "<s>", "<script>"):
        assert tag not in page


def test_errors_of_the_framework_have_the_one_form() -> None:
    for status in (400, 404, 418, 599):
        body = json.loads(ApiError.of_status(status).body())
        assert set(body["error"]) == {"code", "message"}
    assert ApiError.of_status(503).response().headers["retry-after"] == "1"


PIECES = [
    "a", "Ñandú ", "600 123 456 ", "1.5", "a@b.es", "www.", ".com/x", "http://", "--", "> ", "Saludos, ",
    "De: ", "“", "dni 1234567-K ", " ",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(text=st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=40).map("".join))
def test_what_is_cleaned_on_the_event_loop_takes_few_passes(text: str) -> None:
    if not _is_plain(text):
        return
    passes = [text]
    while len(passes) < 2 or passes[-1] != passes[-2]:
        once = passes[-1]
        for step in STEPS.values():
            once = step(once)
        passes.append(once)
    assert len(passes) <= 5
