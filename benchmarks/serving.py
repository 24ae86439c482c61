"""The server beside the model it serves: texts/s, waiting times, and whether every answer is the right one.

    python benchmarks/serving.py [--quick] [--model models/onnx/model.onnx] [--data data/splits/test.parquet]

Bulk speed is that of ``Classifier.predict`` on all texts at once, in a process of its own. The server is
`afina serve` as a user starts it, on this machine; so many clients, each on a connection of its own, send
the same texts one a request and wait for each answer before they send the next. Bulk and server take turns,
and the median of the rounds' ratios counts: a machine whose speed drifts treats both alike. Clients share
the machine's cores with the server, so what is measured is less than what the server could do alone. A
second measurement has 8 texts a request. The processor time of each side is measured too: it says where
time goes, and other work on the machine changes it little.

The client is a few lines over asyncio, with uvloop as the server: a general HTTP client takes longer for a
request than the model does.
The most probable label of every answer has to be that of its own text's prediction, with the same
probability, to 1e-3. What an int8 model says depends on the batch: there the label may be another, if its
own prediction is as sure of it to 0.2, so that nine in ten answers of other texts would show. The last line
is that of one text a request. Where answers are lost or mixed up the exit status is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from afina.runtime.classifier import Classifier

try:
    from uvloop import run
except ImportError:  # as on Windows
    from asyncio import run

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE = 1e-3
INT8_TOLERANCE = 0.2

# Probabilities of labels, (L,) float32.
Row = npt.NDArray[np.float32]


@dataclass
class Tally:
    """What the clients of one round saw."""

    texts: int = 0
    lost: int = 0
    mixed_up: int = 0
    seconds: float = 0.0
    server_cpu: float = 0.0
    client_cpu: float = 0.0
    bulk_cpu: float = 0.0
    waits: list[float] = field(default_factory=list)

    @property
    def speed(self) -> float:
        """Texts a second."""
        return self.texts / self.seconds


# ---------------------------------------------------------------------------------------- bulk


def bulk_worker(model: str, threads: int | None, pipe: Connection) -> None:
    """Predict all texts each time they come; the answer is seconds, processor time, and probabilities."""
    classifier = Classifier(model, threads=threads)
    classifier.predict(["calentar"] * 64)
    while (texts := pipe.recv()) is not None:
        start, used = time.perf_counter(), time.process_time()
        probabilities = classifier.predict_proba(texts)
        classifier.decide(probabilities)  # together: `predict`
        seconds, used = time.perf_counter() - start, time.process_time() - used
        pipe.send((seconds, used, probabilities))


# -------------------------------------------------------------------------------------- server


@contextmanager
def served(model: Path, threads: int | None) -> Iterator[tuple[int, int]]:
    """`afina serve` on a free port; the port and the number of the process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    command = [sys.executable, "-m", "afina", "serve", str(model), "--port", str(port)]
    command += [] if threads is None else ["--threads", str(threads)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(30)


async def ask(port: int, requests: Sequence[tuple[Sequence[int], bytes]], clients: int) -> tuple[Tally, Any]:
    """Send all requests over so many connections; what came back, by the number of the text."""
    tally, answers = Tally(), {}
    todo = iter(requests)

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for numbers, body in todo:
            start = time.perf_counter()
            writer.write(
                b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n%b" % (len(body), body)
            )
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            content = await reader.readexactly(length)
            tally.waits.append(time.perf_counter() - start)
            if head.startswith(b"HTTP/1.1 200"):
                answers[numbers] = content
        writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    tally.seconds = time.perf_counter() - start
    tally.texts = sum(len(numbers) for numbers, _ in requests)
    return tally, answers


def check(
    tally: Tally,
    answers: Mapping[Any, bytes],
    expected: Sequence[Row],
    labels: Sequence[str],
    tolerance: float,
) -> None:
    """Compare each answer with the probabilities of its own text."""
    came = 0
    columns = {label: column for column, label in enumerate(labels)}
    for numbers, content in answers.items():
        for number, one in zip(numbers, json.loads(content)["predictions"], strict=True):
            came += 1
            (best,) = one["top"]
            own, probability = expected[number], best["probability"]
            # Neither is the label less sure in the text's own prediction, nor another one surer.
            apart = max(abs(own[columns[best["label"]]] - probability), abs(own.max() - probability))
            tally.mixed_up += bool(apart > tolerance)
    tally.lost = tally.texts - came


def requests_of(texts: Sequence[str], size: int) -> list[tuple[tuple[int, ...], bytes]]:
    """Requests of ``size`` texts, and the numbers of their texts."""
    starts = range(0, len(texts), size)
    numbers = [tuple(range(start, min(start + size, len(texts)))) for start in starts]
    return [(some, json.dumps({"texts": [texts[one] for one in some]}).encode()) for some in numbers]


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far; 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ----------------------------------------------------------------------------------------- run


def measure(arguments: argparse.Namespace, texts: list[str]) -> dict[str, Any]:
    """Shares of bulk speed and waiting times, by the number of texts in a request."""
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    worker = context.Process(
        target=bulk_worker, args=(str(arguments.model), arguments.threads, other), daemon=True
    )
    worker.start()
    metadata = Classifier(arguments.model).metadata
    tolerance = TOLERANCE if metadata.precision == "fp32" else INT8_TOLERANCE
    rounds: dict[int, list[tuple[float, Tally]]] = {1: [], 8: []}
    with served(arguments.model, arguments.threads) as (port, pid):
        run(ask(port, requests_of(texts[:200], 1), arguments.clients))
        for _ in range(arguments.rounds):
            for size in rounds:
                pipe.send(texts)
                seconds, bulk_cpu, expected = pipe.recv()
                server, client = cpu_seconds(pid), time.process_time()
                tally, answers = run(ask(port, requests_of(texts, size), arguments.clients))
                tally.client_cpu = time.process_time() - client
                tally.server_cpu, tally.bulk_cpu = cpu_seconds(pid) - server, bulk_cpu
                check(tally, answers, expected, metadata.labels, tolerance)
                rounds[size].append((len(texts) / seconds, tally))
    pipe.send(None)
    worker.join(10)
    return {str(size): summary(results) for size, results in rounds.items()}


def summary(results: Sequence[tuple[float, Tally]]) -> dict[str, Any]:
    """Medians over the rounds; lost and mixed up of all of them."""
    waits = sorted(wait for _, tally in results for wait in tally.waits)
    return {
        "bulk_texts_per_second": round(statistics.median(bulk for bulk, _ in results), 1),
        "server_texts_per_second": round(statistics.median(tally.speed for _, tally in results), 1),
        "share_of_bulk": round(statistics.median(tally.speed / bulk for bulk, tally in results), 3),
        "shares": [round(tally.speed / bulk, 3) for bulk, tally in results],
        "p50_ms": round(1000 * waits[len(waits) // 2], 1),
        "p99_ms": round(1000 * waits[int(0.99 * (len(waits) - 1))], 1),
        "cpu_ms_per_text": {
            "bulk": round(statistics.median(1000 * tally.bulk_cpu / tally.texts for _, tally in results), 2),
            "server": round(
                statistics.median(1000 * tally.server_cpu / tally.texts for _, tally in results), 2
            ),
            "client": round(
                statistics.median(1000 * tally.client_cpu / tally.texts for _, tally in results), 2
            ),
        },
        "lost": sum(tally.lost for _, tally in results),
        "mixed_up": sum(tally.mixed_up for _, tally in results),
    }


def load_texts(path: Path, count: int) -> list[str]:
    """So many different texts of a split, repeated with a number where there are fewer."""
    import pyarrow.parquet as pq

    texts = pq.read_table(path, columns=["text"]).column("text").to_pylist()
    random.Random(0).shuffle(texts)
    return [f"{texts[n % len(texts)]} {n // len(texts) or ''}".strip() for n in range(count)]


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "onnx" / "model.onnx")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "splits" / "test.parquet")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--texts", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None, help="of the model, on both sides")
    parser.add_argument("--json", type=Path, default=None, help="where the results go")
    parser.add_argument("--quick", action="store_true", help="600 texts, 2 rounds")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.texts, arguments.rounds = 600, 2
    load = round(os.getloadavg()[0], 2)  # other work on the machine spoils the figures
    results = measure(arguments, load_texts(arguments.data, arguments.texts))
    report = {
        "model": arguments.model.name, "clients": arguments.clients, "texts": arguments.texts,
        "cores": os.cpu_count(), "load_before": load, "texts_per_request": results,
    }  # fmt: skip
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"{report['model']}, {report['clients']} clients, {report['cores']} cores, load before: {load}")
    for size, one in results.items():
        print(
            f"{size} a request: bulk {one['bulk_texts_per_second']} texts/s, server "
            f"{one['server_texts_per_second']}, share {one['share_of_bulk']}, p50 {one['p50_ms']} ms, "
            f"p99 {one['p99_ms']} ms; ms of processor a text: {one['cpu_ms_per_text']}"
        )
    one = results["1"]
    lost, mixed = (sum(each[name] for each in results.values()) for name in ("lost", "mixed_up"))
    print(
        f"serving: share_of_bulk={one['share_of_bulk']} p99_ms={one['p99_ms']} lost={lost} mixed_up={mixed}"
    )
    if lost or mixed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
