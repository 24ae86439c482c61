"""What extract, clean, split (near duplicates included) and balance cost on up to 1.6 million short messages.

    python benchmarks/data.py [--rows 100000 1600000] [--json results.json]

For each size it generates a seeded CSV of messages as long as tweets, in a temporary folder, and runs the
very stages of the pipeline on it, each in a process of its own, as `dvc repro` does: reading and writing are
included. Memory is the sum over a stage's processes, sampled 20 times a second (pages that they share count
twice), so it needs Linux. The last line says how time a message grows from the smallest size to the largest.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import yaml

ROOT = Path(__file__).resolve().parent.parent
STAGES = {
    "extract": "data/raw/messages.parquet",
    "clean": "data/clean/messages.parquet",
    "split": "data/splits/train.parquet",  # rows out: those of train alone
    "balance": "data/balanced/train.parquet",
}
VOCABULARY = 50_000
CLASSES = 20
NEAR_DUPLICATES = EXACT_DUPLICATES = 0.03
CHUNK = 100_000
PARAMS = {
    "seed": 42,
    "extract": {
        "sources": [{"path": "data/source/mensajes.csv", "text": "mensaje", "label": "categoria", "id": "id"}]
    },
    "split": {"near_duplicates": 0.8},
    "balance": {"strategy": "oversample"},
}


def vocabulary(rng: np.random.Generator) -> pa.Array:
    """Pronounceable words of one to four syllables, some with accents or ñ; the short ones first."""
    consonants = np.array([*"bcdfgjlmnprstvñ", "qu", "ll", "tr", "br", "ch"])
    vowels = np.array(["a", "e", "i", "o", "u", "a", "e", "o", "á", "é", "í", "ó"])
    words: dict[str, None] = {}
    while len(words) < VOCABULARY:
        size = 1 + min(rng.geometric(0.45), 3)
        syllables = np.char.add(rng.choice(consonants, size), rng.choice(vowels, size))
        words["".join(syllables) + ("s" if rng.random() < 0.2 else "")] = None
    return pa.array(sorted(words, key=len))


def messages(rng: np.random.Generator, words: pa.Array, count: int) -> pa.Array:
    """``count`` messages of 5 to 30 words whose frequencies follow Zipf's law."""
    frequency = 1 / np.arange(1, VOCABULARY + 1)
    lengths = rng.integers(5, 31, size=count)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    drawn = np.searchsorted(np.cumsum(frequency) / frequency.sum(), rng.random(ends[-1]))
    drawn = np.minimum(drawn, VOCABULARY - 1)
    return pc.binary_join(
        pa.ListArray.from_arrays(pa.array(ends, pa.int32()), words.take(pa.array(drawn))), " "
    )


def some(rng: np.random.Generator, count: int, share: float) -> pa.Array:
    return pa.array(rng.random(count) < share)


def write_source(path: Path, rows: int, seed: int = 0) -> None:
    """Write the CSV by chunks: copies and near copies come from the same chunk."""
    rng = np.random.default_rng(seed)
    words = vocabulary(rng)
    popularity = 0.78 ** np.arange(CLASSES)
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([("id", pa.int64()), ("mensaje", pa.string()), ("categoria", pa.string())])
    names = pa.array([f"tema {number:02d}" for number in range(CLASSES)])
    with pa_csv.CSVWriter(path, schema) as writer:
        for start in range(0, rows, CHUNK):
            count = min(CHUNK, rows - start)
            text = messages(rng, words, count)
            text = pc.if_else(
                some(rng, count, 0.1),
                pc.binary_join_element_wise("<p>", text, "</p> &amp; m&aacute;s", ""),
                text,
            )
            text = pc.if_else(
                some(rng, count, 0.1), pc.binary_join_element_wise(text, "persona@correo.es", " "), text
            )
            label = rng.choice(CLASSES, size=count, p=popularity / popularity.sum())
            source: npt.NDArray[np.int64] = np.arange(count)
            kind = rng.random(count)
            copied = kind < NEAR_DUPLICATES + EXACT_DUPLICATES
            source[copied] = rng.integers(count, size=copied.sum())
            text = text.take(pa.array(source))
            near = pa.array(kind < NEAR_DUPLICATES)
            text = pc.if_else(near, pc.binary_join_element_wise(text, "gracias", " "), text)
            columns = [np.arange(start, start + count), text, names.take(pa.array(label[source]))]
            writer.write_table(pa.table(columns, schema=schema))


def tree_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants."""
    try:
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:  # it ended meanwhile
        return 0
    return resident + sum(tree_bytes(child) for child in children)


def children_cpu() -> float:
    """Seconds of processor time of all processes started from here that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_stage(name: str, folder: Path) -> dict[str, float]:
    """Run one stage in ``folder``; its wall and processor time and its peak memory."""
    start, cpu = time.perf_counter(), children_cpu()
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "pipeline" / f"{name}.py")], cwd=folder, env=environment
    )
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, tree_bytes(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = process.wait()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    if status:
        raise SystemExit(f"stage {name} failed with status {status}")
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(children_cpu() - cpu, 2),
        "peak_gb": round(peak / 1e9, 3),
    }


def measure(rows: int) -> dict[str, Any]:
    """Generate ``rows`` messages and run every stage on them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{rows:,} messages: generating", file=sys.stderr, flush=True)
        write_source(folder / "data/source/mensajes.csv", rows)
        (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS), encoding="utf-8")
        stages: dict[str, Any] = {}
        for stage, output in STAGES.items():
            stages[stage] = run_stage(stage, folder)
            stages[stage]["rows_out"] = pq.read_metadata(folder / output).num_rows
    return {
        "rows": rows,
        "stages": stages,
        "seconds": round(sum(stage["seconds"] for stage in stages.values()), 2),
        "cpu_seconds": round(sum(stage["cpu_seconds"] for stage in stages.values()), 2),
        "peak_gb": max(stage["peak_gb"] for stage in stages.values()),
    }


def print_table(results: Sequence[dict[str, Any]]) -> None:
    print(
        f"{'rows':>10} {'stage':8} {'seconds':>8} {'CPU s':>8} {'rows/s':>9} {'peak GB':>8} {'rows out':>10}"
    )
    for result in results:
        for name, stage in [*result["stages"].items(), ("all", result | {"rows_out": ""})]:
            rate = result["rows"] / stage["seconds"]
            print(
                f"{result['rows']:>10,} {name:8} {stage['seconds']:>8.1f} {stage['cpu_seconds']:>8.1f} "
                f"{rate:>9,.0f} {stage['peak_gb']:>8.2f} {stage['rows_out']!s:>10}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_600_000])
    parser.add_argument("--json", type=Path, help="write the measurements here")
    arguments = parser.parse_args()
    results = [measure(rows) for rows in sorted(arguments.rows)]
    print_table(results)
    first, last = results[0], results[-1]
    linearity = (last["seconds"] / last["rows"]) / (first["seconds"] / first["rows"])
    summary = {"seconds": last["seconds"], "peak_gb": last["peak_gb"], "linearity": round(linearity, 2)}
    if arguments.json:
        report = json.dumps({"results": results, **summary}, indent=2)
        arguments.json.write_text(report + "\n", encoding="utf-8")
    print("data: " + " ".join(f"{key}={value}" for key, value in summary.items()))


if __name__ == "__main__":
    main()
