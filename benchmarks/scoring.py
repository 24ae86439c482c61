"""Speed, memory and scaling of `afina score`.

    python benchmarks/scoring.py [--rows N] [--model FILE] [--engine local|ray] [--json FILE]

The rows are the demo's test texts (data/splits/test.parquet), repeated with a number and two words exchanged
in each. Every run is a process of its own; its peak memory is that of the largest of its processes. Memory is
shown at a twentieth of the rows and at all of them: it should not grow. Scaling compares one worker with two,
of one processor thread each, on a fifth of the rows; the runs alternate, and the best of each counts.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 2

# Runs the command line and then tells the peak memory of itself and of its children, in KiB.
_MEASURED = """
import json, resource, sys
from afina.cli import main
try:
    main(sys.argv[1:])
finally:
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps(peaks))
"""


@dataclass(frozen=True)
class Measured:
    """One run: seconds of wall-clock time, MiB of its largest process."""

    rows: int
    seconds: float
    peak_mb: float

    @property
    def rows_per_s(self) -> float:
        """Rows a second, start of the process included."""
        return self.rows / self.seconds


def main() -> None:
    """Parse the command line, run, print."""
    arguments = parse()
    load = round(os.getloadavg()[0], 2)  # other work on the machine spoils the figures
    texts = read_texts(arguments.texts)
    with tempfile.TemporaryDirectory() as folder:
        inputs = {}
        for rows in (arguments.rows // 20, arguments.rows // 5, arguments.rows):
            inputs[rows] = Path(folder) / f"{rows}.jsonl"
            write_rows(inputs[rows], texts, rows)
        small, fifth, whole = inputs
        memory = [memory_run(inputs[rows], rows, arguments) for rows in (small, whole)]
        scaling = scaling_runs(inputs[fifth], fifth, arguments)
    if arguments.json:
        results = {
            "machine": {"cores": usable_cores(), "load_before": load},
            "model": arguments.model.name,
            "engine": arguments.engine,
            "chunk": arguments.chunk,
            **report(memory, scaling),
        }
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(summary(*memory, best_of(scaling)))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "onnx" / "model.onnx")
    parser.add_argument("--texts", type=Path, default=ROOT / "data" / "splits" / "test.parquet")
    parser.add_argument("--engine", choices=["local", "ray"], default="local", help="of the scaling runs")
    parser.add_argument("--chunk", type=int, default=2000)
    parser.add_argument("--json", type=Path, help="where results go (default: nowhere)")
    arguments = parser.parse_args()
    if arguments.rows < 20:
        parser.error("--rows: expected at least 20")
    return arguments


def usable_cores() -> int | None:
    """Processors of this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def memory_run(source: Path, rows: int, arguments: argparse.Namespace) -> Measured:
    """One process, all of its threads."""
    run = measure(source, rows, ["--model", str(arguments.model), "--chunk", str(arguments.chunk)])
    print(show("1 process", run), flush=True)
    return run


def scaling_runs(source: Path, rows: int, arguments: argparse.Namespace) -> dict[int, list[Measured]]:
    """One worker and two, in turns; the runs of each."""
    # At least four parts for each of two workers.
    chunk = str(min(arguments.chunk, max(1, rows // 8)))
    common = ["--model", str(arguments.model), "--chunk", chunk, "--threads", "1"]
    runs: dict[int, list[Measured]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for workers, done in runs.items():
            options = [*common, "--workers", str(workers), "--engine", arguments.engine]
            done.append(measure(source, rows, options))
            print(show(f"{arguments.engine}, {workers} workers of 1 thread", done[-1]), flush=True)
    return runs


def read_texts(path: Path) -> list[str]:
    """The texts of a split."""
    import pyarrow.parquet as pq

    texts: list[str] = pq.read_table(path, columns=["text"]).column("text").to_pylist()
    return texts


def variations(texts: Sequence[str], count: int, seed: int = 42) -> Iterator[str]:
    """``count`` texts: those given again and again, each time with two words exchanged and a number added."""
    draw = random.Random(seed)
    for number in range(count):
        words = texts[number % len(texts)].split(" ")
        one, other = draw.randrange(len(words)), draw.randrange(len(words))
        words[one], words[other] = words[other], words[one]
        yield f"{' '.join(words)} {number}"


def write_rows(path: Path, texts: Sequence[str], count: int) -> None:
    """Write the texts as JSON Lines."""
    with path.open("w", encoding="utf-8") as stream:
        for number, text in enumerate(variations(texts, count)):
            stream.write(json.dumps({"id": number, "text": text}, ensure_ascii=False) + "\n")


def measure(source: Path, rows: int, options: Sequence[str]) -> Measured:
    """Score a file in a process of its own."""
    out = source.with_suffix(".out.jsonl")
    command = [sys.executable, "-c", _MEASURED, "score", str(source), str(out), "--overwrite", *options]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.perf_counter() - start
    with out.open(encoding="utf-8") as stream:
        written = sum(1 for _ in stream)
    if written != rows:
        raise SystemExit(f"{rows} rows went in, {written} came out")
    return Measured(rows, seconds, max(json.loads(done.stdout.splitlines()[-1])) / 1024)


def show(name: str, run: Measured) -> str:
    """A run as a line."""
    return f"{name}: {run.rows:,} rows, {run.rows_per_s:,.0f} rows/s, peak {run.peak_mb:,.0f} MiB"


def best_of(scaling: Mapping[int, Sequence[Measured]]) -> dict[int, Measured]:
    """The fastest run of each number of workers."""
    return {workers: min(runs, key=lambda run: run.seconds) for workers, runs in scaling.items()}


def report(memory: Sequence[Measured], scaling: Mapping[int, Sequence[Measured]]) -> dict[str, Any]:
    """What goes to a file: every run, and what they say."""
    few, whole = memory
    best = best_of(scaling)
    return {
        "memory": [as_json(run) for run in memory],
        "memory_growth": round(whole.peak_mb / few.peak_mb, 3),
        "scaling": {str(workers): [as_json(run) for run in runs] for workers, runs in scaling.items()},
        "scaling_2_workers": round(best[2].rows_per_s / best[1].rows_per_s, 3),
        "rows_per_second": round(whole.rows_per_s, 2),
        "peak_mb": round(whole.peak_mb, 1),
    }


def as_json(run: Measured) -> dict[str, Any]:
    """A run."""
    return {
        "rows": run.rows,
        "seconds": round(run.seconds, 2),
        "rows_per_second": round(run.rows_per_s, 2),
        "peak_mb": round(run.peak_mb, 1),
    }


def summary(few: Measured, whole: Measured, best: dict[int, Measured]) -> str:
    """What the runs say: growth of memory, then the last line."""
    scaling = best[2].rows_per_s / best[1].rows_per_s
    return (
        f"memory at {whole.rows:,} rows: {whole.peak_mb / few.peak_mb:.2f} times that at {few.rows:,}\n"
        f"scoring: rows_per_s={whole.rows_per_s:.0f} peak_mb={whole.peak_mb:.0f} "
        f"scaling_2_workers={scaling:.2f}"
    )


if __name__ == "__main__":
    main()
