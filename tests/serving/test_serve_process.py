"""`afina serve` as a process: start, signals, a new model in the place of the old one, logs."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from live_server import Process, free_port
from toy_artifact import toy_model, write_toy

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no POSIX signals")

SECRET = "mi-clave-es-4711"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "model.onnx")


def replace(model: Path, **changes: object) -> None:
    """Put another model in the place of one, at once."""
    beside = write_toy(model.with_name("new.onnx"), **changes)  # type: ignore[arg-type]
    os.replace(beside, model)


def test_serves_on_this_machine_alone_until_terminated(model: Path) -> None:
    with Process(model) as served:
        served.ready()
        answer = httpx.post(f"{served.url}/v1/predict", json={"text": "luz luz"})
        served.send(signal.SIGTERM)
        status = served.end()

    assert answer.json()["predictions"][0]["labels"][0]["label"] == "luz"
    assert served.wait_for("serving")["url"] == served.url
    assert status == -signal.SIGTERM
    # All lines are there, though the signal ends the process.
    assert [event["event"] for event in served.events()][-2:] == ["request", "ending"]


def test_interrupt_ends_it_quietly(model: Path) -> None:
    with Process(model) as served:
        served.ready()
        served.send(signal.SIGINT)
        assert served.end() in (0, 130)
    assert all(line.startswith("{") for line in served.lines), served.lines


def test_what_was_accepted_is_answered_before_the_end(tmp_path: Path) -> None:
    words = " ".join(["luz"] * 400)
    model = write_toy(tmp_path / "model.onnx", max_length=512)
    with Process(model, "--threads", "1") as served:
        served.ready()
        body = json.dumps({"texts": [f"{words} {n}" for n in range(1000)]}).encode()
        answers: list[int] = []

        def ask() -> None:
            answer = httpx.post(
                f"{served.url}/v1/predict", content=body,
                headers={"content-type": "application/json"}, timeout=60,
            )  # fmt: skip
            answers.append(len(answer.json()["predictions"]))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            [waiting] = re.findall(
                r"^afina_queue_texts (\S+)$", httpx.get(f"{served.url}/metrics").text, re.M
            )
            if float(waiting) > 2000:  # all three are accepted
                break
        served.send(signal.SIGTERM)
        for thread in threads:
            thread.join()
        served.end()

    assert answers == [1000] * 3
    with pytest.raises(OSError):  # noqa: PT011
        socket.create_connection(("127.0.0.1", served.port), timeout=1)


def test_hangup_loads_the_new_model(model: Path) -> None:
    with Process(model, "--reload-every", "0") as served:
        served.ready()
        before = httpx.get(f"{served.url}/v1/model").json()
        replace(model, abstain_below=0.5)
        served.send(signal.SIGHUP)
        served.wait_for("reloaded")
        after = httpx.get(f"{served.url}/v1/model").json()
        metrics = httpx.get(f"{served.url}/metrics").text

    assert before["abstention"] is None
    assert after["abstention"]["below"] == 0.5
    assert after["sha256"] != before["sha256"]
    assert 'afina_model_reloads_total{result="ok"} 1.0' in metrics
    assert f'sha256="{after["sha256"]}"' in metrics
    assert f'sha256="{before["sha256"]}"' not in metrics


SLOW = """
import os, signal, sys, time
from afina.cli import app
import afina.serving.model as model
load = model.load_model
def load_slowly(*arguments, **options):
    os.kill(os.getpid(), signal.SIGHUP)
    time.sleep(0.2)
    model.load_model = load
    return load(*arguments, **options)
model.load_model = load_slowly
app(sys.argv[1:])
"""


def test_hangup_while_the_model_loads_is_not_lost(model: Path) -> None:
    with Process(model, "--reload-every", "0", command=("-c", SLOW)) as served:
        served.ready()
        assert served.wait_for("reloaded")["sha256"]
        assert httpx.post(f"{served.url}/v1/predict", json={"text": "luz"}).status_code == 200


NAME_THE_LOOP = """
import asyncio, json, sys
import uvicorn
from afina.cli import app
startup = uvicorn.Server.startup
async def startup_and_name(self, *arguments, **options):
    module = type(asyncio.get_running_loop()).__module__
    print(json.dumps({"event": "loop", "module": module}), file=sys.stderr)
    await startup(self, *arguments, **options)
uvicorn.Server.startup = startup_and_name
app(sys.argv[1:])
"""


def test_it_runs_on_uvloop_where_there_is_one(model: Path) -> None:
    pytest.importorskip("uvloop")
    with Process(model, command=("-c", NAME_THE_LOOP)) as served:
        served.ready()
        assert served.wait_for("loop")["module"].split(".")[0] == "uvloop"


def test_a_broken_file_leaves_the_old_model_in_place(model: Path) -> None:
    with Process(model, "--reload-every", "0.1") as served:
        served.ready()
        good = model.read_bytes()
        broken = model.with_name("half")
        broken.write_bytes(good[: len(good) // 2])
        os.replace(broken, model)
        failed = served.wait_for("reload_failed")
        during = httpx.post(f"{served.url}/v1/predict", json={"text": "luz"})
        time.sleep(0.5)
        failures = [line for line in served.events() if line["event"] == "reload_failed"]
        replace(model, abstain_below=0.25)
        served.wait_for("reloaded")
        after = httpx.get(f"{served.url}/v1/model").json()

    assert failed["reason"].startswith(str(model))
    assert "\n" not in failed["reason"]
    assert len(failures) == 1
    assert during.status_code == 200
    assert after["abstention"]["below"] == 0.25


def test_no_request_is_lost_while_models_change(model: Path) -> None:
    statuses: list[int] = []
    models: set[str] = set()
    stop = threading.Event()
    with Process(model, "--reload-every", "0.05") as served:
        served.ready()

        def ask() -> None:
            with httpx.Client(base_url=served.url, timeout=30) as client:
                while not stop.is_set():
                    answer = client.post("/v1/predict", json={"texts": ["luz luz", "agua agua"]})
                    statuses.append(answer.status_code)
                    body = answer.json()
                    models.add(body["model"]["sha256"])
                    labels = [one["labels"][0]["label"] for one in body["predictions"]]
                    if labels != ["luz", "agua"]:
                        statuses.append(-1)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(3):
            # Answers of the model in use, then the next one.
            deadline = time.monotonic() + 30
            while len(models) < number + 1 and time.monotonic() < deadline:
                time.sleep(0.01)
            replace(model, abstain_below=0.1 * (number + 1))
            served.wait_for("reloaded", number + 1)
        stop.set()
        for thread in threads:
            thread.join()

    assert set(statuses) == {200}
    assert len(models) >= 3


def test_logs_never_hold_what_was_sent(model: Path) -> None:
    with Process(model, AFINA_API_KEY="llave") as served:
        served.ready()
        headers = {"x-api-key": "llave"}
        with httpx.Client(base_url=served.url, headers=headers) as client:
            client.post("/v1/predict", json={"text": SECRET})
            client.post("/v1/predict", content=f'{{"text": "{SECRET}'.encode())
            client.post("/v1/predict", json={SECRET: 1, "text": [SECRET]})
            client.get(f"/{SECRET}?text={SECRET}")
            client.get("/v1/model", headers={"user-agent": SECRET, "x-api-key": SECRET})
            client.post("/v1/predict/file", files={"file": (f"{SECRET}.csv", f"a,b\n{SECRET}\n")})
            client.post("/v1/predict/file", files={"file": (f"{SECRET}.csv", f"{SECRET},b\n1,2\n")})
            form = {"content-type": "multipart/form-data; boundary=x"}
            client.post("/v1/predict/file", content=b"--x\r\n" + SECRET.encode(), headers=form)
            client.post("/v1/predict/file", content=SECRET.encode(), headers=form)
        with socket.create_connection(("127.0.0.1", served.port)) as raw:
            raw.sendall(SECRET.encode() + b"\r\n\r\n")
            raw.recv(4096)
        served.send(signal.SIGTERM)
        served.end()

    requests = [line for line in served.events() if line["event"] == "request" and line["route"] != "/readyz"]
    assert [line["status"] for line in requests] == [200, 415, 422, 404, 401, 400, 400, 422, 400]
    assert requests[0]["texts"] == 1
    assert {"client", "method", "route", "ms", "bytes"} <= set(requests[0])
    assert SECRET not in "".join(served.lines)
    assert "llave" not in "".join(served.lines)


FEW_FILES = """
import resource, sys
from afina.cli import app
resource.setrlimit(resource.RLIMIT_NOFILE, (64, {limit}))
app(sys.argv[1:])
"""


def test_with_few_open_files_there_are_fewer_connections(model: Path) -> None:
    with Process(model, command=("-c", FEW_FILES.format(limit=140))) as served:
        served.ready()
        # More than there may be open files.
        idle = [socket.create_connection(("127.0.0.1", served.port), timeout=20) for _ in range(160)]
        try:
            answer = httpx.post(f"{served.url}/v1/predict", json={"text": "luz"}, timeout=20)
        finally:
            for one in idle:
                one.close()
        said = served.wait_for("few_open_files")

    assert answer.status_code == 200
    assert (said["open_files"], said["max_connections"], said["wanted"]) == (140, 12, 2048)


def test_with_hardly_any_open_files_there_is_one_connection(model: Path) -> None:
    with Process(model, command=("-c", FEW_FILES.format(limit=100))) as served:
        served.ready()
        assert httpx.post(f"{served.url}/v1/predict", json={"text": "luz"}, timeout=20).status_code == 200
        assert served.wait_for("few_open_files")["max_connections"] == 1


# --------------------------------------------------------------------------------- wrong starts


def run(*arguments: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "afina", "serve", *arguments],
        capture_output=True, text=True, timeout=60, env={**os.environ, **environment}, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


def test_a_wrong_start_is_one_line_and_status_2(model: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# none\n", encoding="utf-8")
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(toy_model(probabilities="other").SerializeToString())
    cases = {
        (str(tmp_path / "no.onnx"),): "no such file",
        (str(bad),): "not one that afina wrote",
        (str(model), "--port", "99999"): "serve: --port: expected 0 to 65535, found 99999",
        (str(model), "--host", "203.0.113.7"): "cannot listen on 203.0.113.7",
        (str(model), "--api-key-file", str(tmp_path / "keys")): "holds no key",
        (str(model), "--api-key-file", str(tmp_path / "none")): "cannot read",
        (str(model), "--host", "a" * 64): "cannot listen on aaaa",
        (str(model), "--cors-origin", "example.org"): "is no origin",
        (str(model), "--allowed-host", "https://example.org"): "is no name of a host",
    }
    for arguments, message in cases.items():
        status, error = run(*arguments)
        assert (status, error.count("\n")) == (2, 1), error
        assert error.startswith("afina: error: ")
        assert message in error


def test_an_empty_key_in_the_environment_is_no_open_server(model: Path) -> None:
    assert run(str(model), AFINA_API_KEY="")[0] == 2


def test_a_port_that_is_taken(model: Path) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        status, error = run(str(model), "--port", str(port))

    assert status == 2
    assert f"cannot listen on 127.0.0.1:{port}" in error
