"""A real server on a free port of this machine, for tests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from afina.serving.model import ModelStore
from afina.serving.server import server
from afina.serving.settings import ServeSettings

JSON = {"content-type": "application/json"}


class Gate:
    """Holds the model back until it is opened."""

    def __init__(self, store: ModelStore) -> None:
        self.opened = threading.Event()
        self.entered = threading.Event()
        self.batches: list[int] = []
        self._classifier = store.current.classifier
        self._forward = self._classifier.forward
        self._classifier.forward = self._held  # type: ignore[method-assign]

    def _held(self, batch: Any) -> Any:
        self.entered.set()
        self.batches.append(len(batch))
        assert self.opened.wait(30), "the gate was never opened"
        return self._forward(batch)


@dataclass
class Live:
    """A running server."""

    port: int
    settings: ServeSettings
    store: ModelStore
    client: httpx.Client = field(repr=False)
    server: uvicorn.Server = field(repr=False)

    def predict(self, *texts: str, **options: Any) -> Any:
        answer = self.client.post("/v1/predict", json={"texts": list(texts), **options})
        assert answer.status_code == 200, answer.text
        return answer.json()["predictions"]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


@contextmanager
def live(model: Path, loop: str = "auto", **options: Any) -> Iterator[Live]:
    """Serve a model in a thread of this process while the context lasts; ``loop`` as uvicorn names it."""
    settings = ServeSettings(model=model, **{"reload_seconds": 0, "shutdown_seconds": 5, **options})
    store = ModelStore(model, settings.name, settings.threads, settings.token_budget)
    one = server(settings, store)
    one.config.loop = loop
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=one.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not one.started and time.monotonic() < deadline:
        time.sleep(0.01)
    assert one.started
    headers = {"x-api-key": settings.api_keys[0]} if settings.api_keys else {}
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as client:
            yield Live(port, settings, store, client, one)
    finally:
        one.should_exit = True
        thread.join(30)
        listener.close()
    assert not thread.is_alive()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Process:
    """`afina serve` as a process; what it logs is read by a thread."""

    def __init__(
        self, model: Path, *options: str, command: Sequence[str] = ("-m", "afina"), **environment: str
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, *command, "serve", str(model), "--port", str(self.port), *options],
            stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
        self.pid = self._process.pid
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.lines.append(line.decode())

    def wait_for(self, event: str, count: int = 1) -> dict[str, Any]:
        """The first, second … log line of an event."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = [line for line in self.events() if line["event"] == event]
            if len(found) >= count:
                return found[count - 1]
            assert self._process.poll() is None or self._reader.is_alive(), "".join(self.lines)
            time.sleep(0.02)
        raise AssertionError(f"no {event} in {''.join(self.lines)}")

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in list(self.lines)]

    def ready(self) -> None:
        self.wait_for("serving")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError("never ready")

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> int:
        """Wait for the end; the exit status, negative for a signal."""
        status = self._process.wait(60)
        self._reader.join(10)
        return status

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join(10)
        assert self._process.stderr is not None
        self._process.stderr.close()
