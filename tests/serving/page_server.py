"""A real `afina serve` in a process of its own, for tests that look at it from a browser."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 60.0  # seconds


class PageServer:
    """A running server; `stop` ends it before the test does."""

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self.process, self.url = process, url

    def stop(self) -> None:
        """End the server and wait for it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(PATIENCE)


@contextmanager
def page_server(model: Path, *options: str) -> Iterator[PageServer]:
    """Serve a model until the block ends; what the server logs lies beside the model."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "AFINA_API_KEY"}
    command = [sys.executable, "-m", "afina", "serve", str(model), "--port", str(port), "--threads", "1"]
    with (model.parent / "server.log").open("wb") as log:
        process = subprocess.Popen([*command, *options], stdout=log, stderr=log, env=environment)
    server = PageServer(process, f"http://127.0.0.1:{port}")
    try:
        _wait(server, model.parent / "server.log")
        yield server
    finally:
        server.stop()


def _wait(server: PageServer, log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            urllib.request.urlopen(f"{server.url}/readyz", timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if server.process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"the server did not start:\n{log.read_text()[-2000:]}") from None
            time.sleep(0.1)
