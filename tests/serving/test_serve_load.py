"""`afina serve` under load and abuse: batches, turns, full queues, slow and vanished clients."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from afina.runtime.classifier import Classifier
from afina.serving import service
from afina.serving.settings import ServeSettings
from live_server import Gate, Live, Process, live
from toy_artifact import LABELS, WORDS, write_toy

POST = (
    b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n"
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "model.onnx")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    return str(request.param)


def eventually(true: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def post(one: Live, *texts: str) -> httpx.Response:
    return httpx.post(f"{one.client.base_url}/v1/predict", json={"texts": texts}, timeout=30)


def gauge(one: Live, name: str) -> float:
    text = one.client.get("/metrics").text
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


# ------------------------------------------------------------------------------------- batches


def test_every_answer_is_that_of_its_text(model: Path, loop: str) -> None:
    draw = random.Random(5)
    words = [*LABELS, "otra", "¿qué?", ""]
    requests = [
        [" ".join(draw.choices(words, k=draw.randint(0, 14))) for _ in range(draw.choice((1, 1, 2, 7)))]
        for _ in range(300)
    ]
    classifier = Classifier(model)
    expected = [classifier.predict(texts) for texts in requests]

    async def ask(port: int) -> list[list[dict[str, Any]]]:
        limits = httpx.Limits(max_connections=32)
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=60
        ) as client:

            async def one(texts: list[str]) -> list[dict[str, Any]]:
                answer = await client.post("/v1/predict", json={"texts": texts})
                return list(answer.json()["predictions"])

            return await asyncio.gather(*map(one, requests))

    with live(model, loop, token_budget=64) as running:
        found = asyncio.run(ask(running.port))
        batches = gauge(running, "afina_batch_texts_count")

    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        # Confidence alone would not tell one label's word from another's.
        assert [one["labels"][0]["label"] for one in mine] == [one.label for one in theirs]
        assert [one["confidence"] for one in mine] == pytest.approx(
            [one.confidence for one in theirs], abs=1e-5
        )
    assert batches < sum(map(len, requests))


def test_what_waits_is_run_together(model: Path, pool: ThreadPoolExecutor) -> None:
    with live(model) as one:
        gate = Gate(one.store)
        answers = [pool.submit(post, one, "luz")]
        assert gate.entered.wait(10)
        answers += [pool.submit(post, one, "agua") for _ in range(8)]
        eventually(lambda: gauge(one, "afina_queue_texts") == 8)
        gate.opened.set()

        assert [answer.result().status_code for answer in answers] == [200] * 9
    assert gate.batches == [1, 8]


def test_a_large_request_does_not_hold_up_a_small_one(model: Path, pool: ThreadPoolExecutor) -> None:
    with live(model, token_budget=64) as one:
        gate = Gate(one.store)
        slow = gate._forward
        gate._forward = lambda batch: (time.sleep(0.01), slow(batch))[1]
        large = pool.submit(post, one, *["luz " * 10] * 1000)
        assert gate.entered.wait(10)
        small = pool.submit(post, one, "agua")
        eventually(lambda: gauge(one, "afina_queue_texts") > 900)
        gate.opened.set()

        assert small.result().status_code == 200
        assert not large.done()
        assert large.result().status_code == 200


# --------------------------------------------------------------------------------- full queues


def test_a_full_queue_is_said_and_passes(model: Path, pool: ThreadPoolExecutor) -> None:
    with live(model, queue_texts=10, max_texts=10) as one:
        gate = Gate(one.store)
        answers = [pool.submit(post, one, "luz")]
        assert gate.entered.wait(10)
        answers.append(pool.submit(post, one, *["agua"] * 10))
        eventually(lambda: gauge(one, "afina_queue_texts") == 10)

        refused = post(one, "luz")
        ready = one.client.get("/readyz")
        gate.opened.set()
        statuses = [answer.result().status_code for answer in answers]

        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "queue_full"
        assert int(refused.headers["retry-after"]) >= 1
        assert ready.status_code == 503
        assert statuses == [200, 200]
        assert post(one, "luz").status_code == 200
        assert one.client.get("/readyz").status_code == 200


def test_requests_together_hold_a_bounded_number_of_bytes(model: Path) -> None:
    with live(model, max_held_bytes=3000) as one:
        with one.connect() as slow:
            slow.sendall(POST % 4000 + b" " * 2500)
            eventually(lambda: post(one, "luz" * 400).status_code == 503)
        eventually(lambda: post(one, "luz" * 400).status_code == 200)


def service_of(one: Live) -> service.Service:
    """What the application of a server counts with."""
    app: Any = one.server.config.app
    while not hasattr(app, "state"):
        app = app.app
    found: service.Service = app.state.service
    return found


def test_slow_bodies_give_their_bytes_to_others(
    model: Path, loop: str, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "BODY_PATIENCE", 0.5)
    whole = b'{"text": "luz"}' + b" " * 4985
    size = len(httpx.Request("POST", "http://localhost", json={"texts": ["luz" * 1000]}).content)
    with live(model, loop, max_held_bytes=20_000, body_seconds=60) as one, ExitStack() as stack:
        bodies = service_of(one).bodies
        gate = Gate(one.store)
        complete, *slow = (stack.enter_context(one.connect()) for _ in range(4))
        complete.sendall(POST % len(whole) + whole)
        assert gate.entered.wait(10)
        for count, client in enumerate(slow, 2):
            client.sendall(POST % 5001 + b" " * 5000)
            eventually(lambda count=count: bodies.held == 5000 * count)  # type: ignore[misc]
        time.sleep(0.6)
        answers = [pool.submit(post, one, "luz" * 1000)]
        eventually(lambda: bodies.held == 15_000 + size)
        told = read_all(slow[0])
        open_still = [is_open(client) for client in slow[1:]]
        answers += [pool.submit(post, one, "luz" * 1000) for _ in range(3)]
        eventually(lambda: bodies.held == 5000 + 4 * size)
        gate.opened.set()

        assert [answer.result().status_code for answer in answers] == [200] * 4
        assert complete.recv(65536).startswith(b"HTTP/1.1 200")
        assert told.startswith(b"HTTP/1.1 408")
        assert b"connection: close" in told
        assert b"request_timeout" in told
        assert open_still == [True, True]
        stack.close()
        eventually(lambda: (bodies.held, bodies.taken) == (0, 0))


def test_a_request_that_waits_too_long_is_told_so(model: Path) -> None:
    with live(model, request_seconds=0.3) as one:
        gate = Gate(one.store)
        held = post(one, "luz")
        waiting = post(one, "luz", "agua")
        left = gauge(one, "afina_queue_texts")
        gate.opened.set()

        assert (held.status_code, waiting.status_code) == (503, 503)
        assert held.json()["error"]["code"] == "timeout"
        assert left == 0
        assert post(one, "luz").status_code == 200


def test_the_texts_of_a_client_that_has_gone_leave_the_queue(model: Path) -> None:
    with live(model) as one:
        gate = Gate(one.store)
        with one.connect() as first, one.connect() as second:
            body = b'{"texts": ["luz", "luz"]}'
            first.sendall(POST % len(body) + body)
            assert gate.entered.wait(10)
            second.sendall(POST % len(body) + body)
            eventually(lambda: gauge(one, "afina_queue_texts") == 2)
        eventually(lambda: gauge(one, "afina_queue_texts") == 0)
        gate.opened.set()
        assert post(one, "agua").status_code == 200
    assert gate.batches == [2, 1]


def test_all_texts_of_a_client_that_has_gone_leave_the_queue(
    model: Path, loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = b'{"texts": ["luz", "luz"]}'
    with live(model, loop) as one:
        gate = Gate(one.store)
        with one.connect() as first, one.connect() as second:
            first.sendall(POST % len(body) + body)
            assert gate.entered.wait(10)
            # The first of them waits for the model, the second for the first.
            second.sendall((POST % len(body) + body) * 2)
            eventually(lambda: gauge(one, "afina_queue_texts") == 2)
        eventually(lambda: gauge(one, "afina_queue_texts") == 0)
        gate.opened.set()
        assert post(one, "agua").status_code == 200
    assert gate.batches == [2, 1]
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


# -------------------------------------------------------------------------------- slow clients


def read_all(one: socket.socket) -> bytes:
    data = b""
    try:
        while part := one.recv(65536):
            data += part
    except ConnectionError:
        pass
    return data


def test_a_body_that_does_not_come_is_given_up(model: Path) -> None:
    with live(model, body_seconds=0.3) as one, one.connect() as slow:
        start = time.monotonic()
        slow.sendall(POST % 100 + b'{"text"')
        answer = read_all(slow)

        assert answer.startswith(b"HTTP/1.1 408")
        assert b"request_timeout" in answer
        assert time.monotonic() - start < 10


def test_a_body_in_drops_is_given_up(model: Path) -> None:
    with live(model, body_seconds=0.5) as one, one.connect() as slow:
        slow.sendall(POST % 1000)
        drops = 0
        try:
            while drops < 1000:
                slow.sendall(b" ")
                drops += 1
                time.sleep(0.02)
        except OSError:
            pass
        assert drops < 500


@pytest.mark.parametrize("drop", [b"", b" "])
def test_what_came_at_once_is_no_time_to_be_silent(model: Path, drop: bytes) -> None:
    with live(model, body_seconds=0.5) as one, one.connect() as slow:
        # At 16 KiB a second it would have a minute.
        slow.sendall(POST % 2_000_000 + b" " * 1_000_000)
        start = time.monotonic()
        slow.settimeout(0.1)
        answer = b""
        while not answer and time.monotonic() - start < 20:
            try:
                slow.sendall(drop)
                answer = slow.recv(4096)
            except TimeoutError:
                pass

        assert answer.startswith(b"HTTP/1.1 408")


def test_a_steady_body_has_the_time_it_needs(model: Path) -> None:
    body = b'{"text": "luz"' + b" " * 100_000 + b"}"
    with live(model, body_seconds=2) as one, one.connect() as slow:
        slow.sendall(POST % len(body))
        for start in range(0, len(body), 4000):
            slow.sendall(body[start : start + 4000])
            time.sleep(0.15)
        assert slow.recv(4096).startswith(b"HTTP/1.1 200")


def test_headers_that_do_not_come_end_the_connection(model: Path) -> None:
    with live(model, header_seconds=0.3) as one, one.connect() as silent, one.connect() as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nx-a")
        start = time.monotonic()
        assert read_all(silent) == b""
        assert read_all(slow) == b""
        assert time.monotonic() - start < 10


def test_an_empty_line_keeps_no_connection_open(model: Path, loop: str) -> None:
    with live(model, loop, header_seconds=0.5, keep_alive_seconds=1) as one, one.connect() as idle:
        idle.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200")
        idle.sendall(b"\r\n")
        # If it stayed open, this would time out.
        assert b"HTTP" not in read_all(idle)


def test_an_empty_line_is_no_limit_for_the_request_that_runs(model: Path, loop: str) -> None:
    body = b'{"text": "luz"}'
    with live(model, loop, header_seconds=0.2) as one, one.connect() as client:
        gate = Gate(one.store)
        client.sendall(POST % len(body) + body)
        assert gate.entered.wait(10)
        client.sendall(b"\r\n")
        time.sleep(0.6)
        gate.opened.set()
        assert client.recv(4096).startswith(b"HTTP/1.1 200")


def send_file(one: Live, client: socket.socket, rows: int) -> None:
    """Send a file of 2 kB a row; its answer is a little larger."""
    send_table(client, (b"luz en la casa," + b"x" * 2000 + b"\n") * rows)


def send_table(client: socket.socket, rows: bytes) -> None:
    form = (
        b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.csv"\r\n\r\ntexto,otro\n'
        + rows
        + b"\r\n--x--\r\n"
    )
    client.sendall(
        b"POST /v1/predict/file HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n"
        b"content-type: multipart/form-data; boundary=x\r\n\r\n" % len(form)
    )
    client.sendall(form)


def files_done(one: Live, count: int = 1, status: int = 200) -> bool:
    done = f'afina_requests_total{{method="POST",route="/v1/predict/file",status="{status}"}} {count}.0'
    return done in one.client.get("/metrics").text


def test_an_answer_that_is_not_read_ends_the_connection(model: Path, loop: str) -> None:
    with live(model, loop, body_seconds=0.5) as one, one.connect() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        send_file(one, deaf, 4000)
        eventually(lambda: files_done(one, status=499), 60)
        assert post(one, "luz").status_code == 200


def connect_deaf(one: Live) -> socket.socket:
    """A connection of a client whose system takes little."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(20)
    client.connect(("127.0.0.1", one.port))
    return client


def ask_for_cards(one: Live, stack: ExitStack, sizes: range, header: bytes = b"") -> list[socket.socket]:
    """Clients that ask for an answer of so many bytes each, and do not read it."""
    clients = []
    for size in sizes:
        one.settings.model.with_name("README.md").write_text("x" * size, encoding="utf-8")
        clients.append(stack.enter_context(connect_deaf(one)))
        answered = one.server.server_state.total_requests + 1
        clients[-1].sendall(b"GET /model-card HTTP/1.1\r\nhost: localhost\r\n" + header + b"\r\n")
        eventually(lambda answered=answered: one.server.server_state.total_requests == answered)  # type: ignore[misc]
    return clients


CLOSE = b"connection: close\r\n"
# What the system takes of an answer varies; of some of these the server is left with a little, of some with
# more than its transport holds without a pause.
SIZES = range(50_000, 700_000, 50_000)


@pytest.mark.parametrize("end", ["close", "keep-alive", "refused"])
def test_a_rest_that_is_not_read_ends_the_connection(model: Path, loop: str, end: str) -> None:
    seconds = {"body_seconds": 0.5, "keep_alive_seconds": 1 if end == "keep-alive" else 60}
    with live(model, loop, **seconds) as one, ExitStack() as stack:
        one.client.close()
        clients = ask_for_cards(one, stack, SIZES, CLOSE if end == "close" else b"")
        if end == "refused":
            for client in clients:
                client.sendall(b"no request\r\n\r\n")
        eventually(lambda: not one.server.server_state.connections)


def test_a_rest_that_is_not_read_after_much_that_was_ends_the_connection(model: Path, loop: str) -> None:
    with live(model, loop, body_seconds=0.5) as one, ExitStack() as stack:
        one.client.close()
        for client in ask_for_cards(one, stack, range(200_000, 700_000, 12_000), CLOSE):
            with suppress(ConnectionError):
                for _ in range(40):
                    client.recv(4096)
        eventually(lambda: not one.server.server_state.connections, 40)


def test_a_rest_of_an_answer_that_broke_off_ends_the_connection(model: Path, loop: str) -> None:
    with live(model, loop, body_seconds=0.5) as one, ExitStack() as stack:
        forward = one.store.current.classifier.forward

        def fail_at_water(batch: Any) -> Any:
            if any(WORDS.index("agua") in row for row in batch):
                raise ValueError
            return forward(batch)

        one.store.current.classifier.forward = fail_at_water  # type: ignore[method-assign]
        for count, width in enumerate((size // 128 for size in SIZES), 1):
            client = stack.enter_context(connect_deaf(one))
            send_table(client, (b"luz en la casa," + b"x" * width + b"\n") * 128 + b"agua en la casa,\n")
            eventually(lambda count=count: files_done(one, count))  # type: ignore[misc]
        one.client.close()
        eventually(lambda: not one.server.server_state.connections)


def test_answers_that_are_not_read_keep_nobody_out(model: Path, loop: str) -> None:
    with live(model, loop, max_connections=4, body_seconds=60) as one, ExitStack() as stack:
        one.client.close()
        ask_for_cards(one, stack, SIZES, CLOSE)
        assert healthy(one)


def test_a_rest_that_is_read_late_is_sent(model: Path, loop: str) -> None:
    with live(model, loop, body_seconds=10) as one, ExitStack() as stack:
        clients = ask_for_cards(one, stack, SIZES, CLOSE)
        time.sleep(0.5)
        for client, size in zip(clients, SIZES, strict=True):
            assert read_all(client).count(b"x") >= size


def read_slowly(client: socket.socket, speed: int, seconds: float) -> bytes:
    """Read so many bytes a second."""
    data = b""
    start = time.monotonic()
    while (passed := time.monotonic() - start) < seconds:
        wanted = int(passed * speed) - len(data)
        data += client.recv(wanted) if wanted > 0 else b""
        time.sleep(0.02)
    return data


def test_an_answer_that_is_read_slowly_is_sent_to_its_end(model: Path, loop: str) -> None:
    with live(model, loop, body_seconds=1) as one, one.connect() as slow:
        send_file(one, slow, 4000)
        # So long that the client would not be waited for if it read nothing.
        answer = read_slowly(slow, 400_000, 5)
        assert not files_done(one)
        while not answer.endswith(b"\r\n0\r\n\r\n"):
            part = slow.recv(1 << 20)
            assert part, "the answer breaks off"
            answer += part

    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"luz en la casa") == 4000


def test_a_client_that_stops_reading_is_not_waited_for(model: Path, loop: str) -> None:
    with live(model, loop, body_seconds=1) as one, one.connect() as slow:
        send_file(one, slow, 4000)
        answer = read_slowly(slow, 400_000, 2)
        assert not files_done(one, status=499)
        start = time.monotonic()
        eventually(lambda: files_done(one, status=499))

        # What it has read bought it 16 KiB a second.
        assert time.monotonic() - start < 15
        assert b"\r\n0\r\n\r\n" not in answer + read_all(slow)


def test_the_longest_idle_connection_makes_room(model: Path) -> None:
    with live(model, max_connections=5, header_seconds=30) as one:
        one.client.close()
        idle = [one.connect() for _ in range(9)]
        try:
            for _ in range(3):
                assert post(one, "luz").status_code == 200
            assert idle[0].recv(1) == b""
        finally:
            for each in idle:
                each.close()
        one.client = httpx.Client(base_url=f"http://127.0.0.1:{one.port}")
        assert one.client.get("/healthz").status_code == 200
        one.client.close()


def healthy(one: Live) -> bool:
    """Whether a new connection is answered; it is closed afterwards."""
    try:
        return httpx.get(f"{one.client.base_url}/healthz").status_code == 200
    except httpx.TransportError:  # a refusal can come before the request was sent
        return False


def is_open(client: socket.socket) -> bool:
    """Whether the server has neither answered nor closed a connection."""
    client.settimeout(0.2)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    except ConnectionError:
        pass
    return False


def test_slow_bodies_make_room_the_oldest_first_and_after_idle_ones(
    model: Path, loop: str, pool: ThreadPoolExecutor
) -> None:
    with (
        live(model, loop, max_connections=5, body_seconds=60, header_seconds=60) as one,
        ExitStack() as stack,
    ):
        one.client.close()
        connections = one.server.server_state.connections
        gate = Gate(one.store)
        running = pool.submit(post, one, "luz")
        assert gate.entered.wait(10)
        clients = []
        for count in range(4):
            clients.append(stack.enter_context(one.connect()))
            if count != 2:
                clients[-1].sendall(POST % 100 + b"{")
            eventually(lambda: len(connections) == len(clients) + 1)
        first, second, _, third = clients
        eventually(lambda: sum(each.cycle is not None for each in connections) == 4)

        assert healthy(one)
        assert [is_open(each) for each in clients] == [True, True, False, True]
        eventually(lambda: len(connections) == 4)
        newer = stack.enter_context(one.connect())
        newer.sendall(POST % 100 + b"{")
        eventually(lambda: sum(each.cycle is not None for each in connections) == 5)
        assert [healthy(one), healthy(one)] == [True, True]
        assert [is_open(each) for each in (first, second, third, newer)] == [False, True, True, True]

        # The body that came to its end is answered, as is what was being worked on all the time.
        second.sendall(b" " * 99)
        gate.opened.set()
        assert running.result().status_code == 200
        second.settimeout(20)
        assert second.recv(4096).startswith(b"HTTP/1.1 400")


def test_as_many_slow_bodies_as_connections_keep_nobody_out(model: Path, loop: str) -> None:
    with live(model, loop, max_connections=20, body_seconds=60) as one, ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(one.connect()).sendall(POST % 100 + b"{")
        for _ in range(5):
            assert post(one, "luz").status_code == 200
            assert healthy(one)


def test_a_request_behind_another_is_not_idle_while_it_runs(
    model: Path, loop: str, pool: ThreadPoolExecutor
) -> None:
    body = b'{"text": "luz"}'
    with live(model, loop, max_connections=1) as one:
        one.client.close()
        gate = Gate(one.store)
        with one.connect() as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n" + POST % len(body) + body)
            assert gate.entered.wait(10)
            assert not healthy(one)
            gate.opened.set()
            answers = b""
            while b"predictions" not in answers and (part := client.recv(4096)):
                answers += part
    assert answers.count(b"HTTP/1.1 200") == 2


def resident_mb(pid: int) -> float:
    with open(f"/proc/{pid}/statm") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads memory from /proc")
def test_ten_thousand_connections(model: Path) -> None:
    count = 10_000
    limit = ServeSettings(model=model).max_connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count + 500:
        pytest.skip(f"the system allows {hard} open files, {count + 500} are needed")
    # The server inherits it: it is not the system that bounds its connections.
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 500), hard))
    sockets: list[socket.socket] = []
    try:
        with Process(model, "--threads", "1") as served:
            served.ready()
            before = resident_mb(served.pid)
            for number in range(count):
                one = socket.create_connection(("127.0.0.1", served.port), timeout=20)
                if number % 2:
                    one.sendall(b"POST /v1/predict HTTP/1.1\r\n")
                sockets.append(one)
                if number % 2500 == 2499:
                    assert httpx.post(f"{served.url}/v1/predict", json={"text": "luz"}, timeout=30).is_success
            grown, files = resident_mb(served.pid) - before, open_files(served.pid)
            for one in sockets:
                one.close()
            assert httpx.post(f"{served.url}/v1/predict", json={"text": "luz"}, timeout=30).is_success
    finally:
        for one in sockets:
            one.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert files < limit + 128
    # All ten thousand would take 65 MB or more.
    assert grown < 40
