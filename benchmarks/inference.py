"""Inference beside what a user would pick instead: texts/s, cold start, latency, memory, in one run.

    python benchmarks/inference.py [--quick] [--words N] [--model FOLDER] [--classifier FOLDER]

Everything starts from raw texts and ends with probabilities. The settings are transformers' `pipeline` (with
the best of several batch sizes), torch in bfloat16 with texts sorted by length, plain onnxruntime in the
order the texts come in and sorted, and `afina.runtime.Classifier` with model.onnx and model.int8.onnx.

The demo's classifier has a lexical model beside its backbone, and cleans texts; `pipeline` and torch cannot
run either. They get the same backbone and tokenizer with a plain sequence-classification head, which is less
work, and texts cut at the length that the backbone reads in afina as well.

Each setting has a process of its own, as a user's program would; they take turns, one at a time, so that a
machine whose speed drifts treats all alike, and the median over the rounds counts. Cold start is from the
first import to the first answer, in a new process each time, files in the page cache; p50 is of texts given
one by one; memory is the most that the process held (resident set).

The last line compares the int8 file, or model.onnx where there is none, with the best pipeline and torch.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PIPELINES = {f"pipeline_{size}": size for size in (1, 8, 32, 64)}
BATCH = 32  # of plain onnxruntime
TITLES = {
    **{name: f"transformers pipeline, batches of {size}" for name, size in PIPELINES.items()},
    "torch_bf16": "torch, bfloat16, sorted by length",
    "ort": "onnxruntime, model.onnx, as they come",
    "ort_sorted": "onnxruntime, model.onnx, sorted by length",
    "fp32": "afina, model.onnx",
    "int8": "afina, model.int8.onnx",
}
OURS = {"fp32": "model.onnx", "int8": "model.int8.onnx"}
STARTED = ("pipeline_1", "fp32", "int8")  # settings whose cold start is measured

# Runs in a new interpreter; the heavy imports are part of what is measured.
COLD_OURS = """
import sys, time
start = time.perf_counter()
from afina.runtime import Classifier
Classifier(sys.argv[1]).predict([sys.argv[2]])
print(time.perf_counter() - start)
"""
COLD_PIPELINE = """
import sys, time
start = time.perf_counter()
from transformers import pipeline
pipeline("text-classification", model=sys.argv[1], device=-1)(sys.argv[2], truncation=True)
print(time.perf_counter() - start)
"""

Predict = Callable[[Sequence[str]], list[int]]  # raw texts -> class indexes


@dataclass(frozen=True)
class Place:
    """Where the models are."""

    onnx: Path  # folder with model.onnx
    plain: Path  # folder with the backbone and a plain head, as transformers saves it


# What is compared. Imports are inside: a setting's process holds what that setting needs.


def make(name: str, place: Place) -> Predict:
    """A setting, loaded."""
    if name in PIPELINES:
        return _pipeline(place.plain, PIPELINES[name])
    if name == "torch_bf16":
        return _torch(place.plain)
    if name in OURS:
        return _afina(place.onnx / OURS[name])
    return _onnxruntime(place.onnx / "model.onnx", name == "ort_sorted")


def _pipeline(folder: Path, batch_size: int) -> Predict:
    import transformers

    quiet()
    run: Any = transformers.pipeline("text-classification", model=str(folder), device=-1, top_k=1)

    def predict(texts: Sequence[str]) -> list[int]:
        found = run(list(texts), batch_size=batch_size, truncation=True)
        return [int(item[0]["label"].rpartition("_")[2]) for item in found]

    return predict


def _torch(folder: Path) -> Predict:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from afina.runtime.encoding import TOKEN_BUDGET, token_budget_batches

    quiet()
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    models: Any = AutoModelForSequenceClassification
    model = models.from_pretrained(str(folder)).eval()

    def predict(texts: Sequence[str]) -> list[int]:
        ids = tokenizer(list(texts), truncation=True)["input_ids"]
        classes = [0] * len(texts)
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            for rows in token_budget_batches([len(row) for row in ids], TOKEN_BUDGET):
                batch = tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="pt")
                found = torch.softmax(model(**batch).logits.float(), dim=1).argmax(dim=1)
                for row, label in zip(rows, found.tolist(), strict=True):
                    classes[row] = label
        return classes

    return predict


def _onnxruntime(file: Path, ordered: bool) -> Predict:
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    tokenizer = Tokenizer.from_str(about["tokenizer"])
    tokenizer.enable_truncation(int(about["max_length"]))
    tokenizer.enable_padding(pad_id=int(about["pad_token_id"]))

    def predict(texts: Sequence[str]) -> list[int]:
        order = list(range(len(texts)))
        if ordered:
            order.sort(key=lambda row: len(texts[row]))
        classes = [0] * len(texts)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            encodings = tokenizer.encode_batch([texts[row] for row in rows])
            inputs = {
                "input_ids": np.array([encoding.ids for encoding in encodings]),
                "attention_mask": np.array([encoding.attention_mask for encoding in encodings]),
            }
            [probabilities] = session.run(["probabilities"], inputs)
            for row, label in zip(rows, probabilities.argmax(axis=1).tolist(), strict=True):
                classes[row] = label
        return classes

    return predict


def _afina(file: Path) -> Predict:
    from afina.runtime import Classifier

    classifier = Classifier(file)
    return lambda texts: [int(label) for label in classifier.predict_proba(texts).argmax(axis=1)]


def quiet() -> None:
    """Let transformers print no bars and no advice."""
    import transformers

    logging: Any = transformers.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def write_plain(classifier_folder: Path, target: Path) -> int:
    """The backbone of a classifier with a plain head, as transformers saves it; the texts' longest length."""
    import torch
    from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

    from afina.modeling.store import load_classifier

    quiet()
    classifier, _, config = load_classifier(classifier_folder)
    backbone = classifier.backbone
    settings: Any = backbone.config
    settings.num_labels = len(config.labels)
    torch.manual_seed(0)
    models: Any = AutoModelForSequenceClassification
    model = models.from_config(settings)
    getattr(model, model.base_model_prefix).load_state_dict(backbone.state_dict(), strict=False)
    model.save_pretrained(str(target))
    length = min(config.window, config.max_length)
    fast: Any = PreTrainedTokenizerFast
    tokenizer = fast(tokenizer_file=str(classifier_folder / "tokenizer.json"), model_max_length=length)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config.pad_token_id)
    tokenizer.save_pretrained(str(target))
    return length


# Turns


def peak_megabytes() -> float:
    """The most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage counts what the parent held when it started this process
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024 / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def serve(connection: Connection, name: str, place: Place, texts: Sequence[str], singles: int) -> None:
    """In a process of its own: answer every turn with seconds, every end with what else was measured."""
    predict = make(name, place)
    classes: list[int] = []
    single: list[float] = []
    while connection.recv():
        start = time.perf_counter()
        classes = predict(texts)
        connection.send(time.perf_counter() - start)
        for text in texts[:singles]:
            start = time.perf_counter()
            predict([text])
            single.append(time.perf_counter() - start)
        connection.send(None)
    connection.send({"classes": classes, "single": single[singles:], "peak_mb": peak_megabytes()})


class Contender:
    """A setting in a process of its own, which waits while others have their turns."""

    def __init__(self, name: str, place: Place, texts: Sequence[str], singles: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, name, place, texts, singles), daemon=True)
        self.process.start()
        theirs.close()  # or the end of the process would not be seen from here

    def turn(self) -> float:
        """Seconds of one pass over all texts; then some of them one by one."""
        self.connection.send(True)
        seconds = float(self._receive())
        self._receive()
        return seconds

    def close(self) -> dict[str, Any]:
        """Let the process end; the classes, seconds of single texts and memory."""
        self.connection.send(False)
        found: dict[str, Any] = self._receive()
        self.process.join()
        return found

    def _receive(self) -> Any:
        try:
            return self.connection.recv()
        except EOFError:
            raise SystemExit(f"inference: {self.name} failed; its error is above") from None


def cold_start(name: str, place: Place, text: str, turns: int) -> float:
    """Seconds from the first import to the first answer, in new processes: the median."""
    ours = name in OURS
    model = place.onnx / OURS[name] if ours else place.plain
    command = [sys.executable, "-c", COLD_OURS if ours else COLD_PIPELINE, str(model), text]
    seconds = []
    for _ in range(turns + 1):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds.append(float(done.stdout.split()[-1]))
    return statistics.median(seconds[1:])  # the first one fills the page cache


def measure(place: Place, texts: Sequence[str], rounds: int, singles: int, starts: int) -> dict[str, Any]:
    """Every setting, in turns; a turn of each to warm up."""
    names = [name for name in TITLES if name not in OURS or (place.onnx / OURS[name]).is_file()]
    contenders = [Contender(name, place, texts, singles) for name in names]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for contender in contenders:
            took = contender.turn()
            say(f"turn {turn}, {contender.name}: {len(texts) / took:.1f} texts/s")
            if turn:
                seconds[contender.name].append(took)
    ends = {contender.name: contender.close() for contender in contenders}
    cold = {name: cold_start(name, place, texts[0], starts) for name in STARTED if name in names}
    return summarise(len(texts), seconds, ends, cold)


def preparing_seconds(file: Path, texts: Sequence[str]) -> float:
    """Seconds that cleaning and tokenising the texts take, nothing else running: the median of three."""
    from afina.runtime import Classifier

    classifier = Classifier(file)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        classifier.encode(texts)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def summarise(
    texts: int,
    seconds: Mapping[str, Sequence[float]],
    ends: Mapping[str, Mapping[str, Any]],
    cold: Mapping[str, float],
) -> dict[str, Any]:
    """Medians, and what they say."""
    settings = {}
    for name, values in seconds.items():
        settings[name] = {
            "texts_per_second": round(texts / statistics.median(values), 2),
            "rounds": [round(texts / value, 2) for value in values],
            "p50_ms": round(1e3 * statistics.median(ends[name]["single"]), 3),
            "peak_mb": round(ends[name]["peak_mb"], 1),
            "cold_start_s": round(cold[name], 3) if name in cold else None,
        }
    agreement = None
    if "int8" in ends:
        pairs = zip(ends["fp32"]["classes"], ends["int8"]["classes"], strict=True)
        agreement = round(sum(one == other for one, other in pairs) / texts, 6)
    return {"settings": settings, **ratios(settings), "int8_agreement": agreement}


def ratios(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How many times as fast afina's fastest file is as the best pipeline and as torch."""
    ours = "int8" if "int8" in settings else "fp32"
    rates = {name: setting["texts_per_second"] for name, setting in settings.items()}
    best = max((name for name in PIPELINES if name in rates), key=lambda name: rates[name])
    return {
        "ours": ours,
        "best_pipeline": best,
        "vs_pipeline": round(rates[ours] / rates[best], 3),
        "vs_torch_bf16": round(rates[ours] / rates["torch_bf16"], 3),
    }


# The report


def table(report: Mapping[str, Any]) -> str:
    """Every setting as a row of Markdown."""
    lines = ["| | texts/s | one text, p50 ms | cold start, s | memory, MB |", "|---|---|---|---|---|"]
    for name, setting in report["settings"].items():
        cold = "" if setting["cold_start_s"] is None else f"{setting['cold_start_s']:.2f}"
        lines.append(
            f"| {TITLES[name]} | {setting['texts_per_second']:,.1f} | {setting['p50_ms']:.2f} | {cold} "
            f"| {setting['peak_mb']:,.0f} |"
        )
    return "\n".join(lines)


def summary(report: Mapping[str, Any]) -> str:
    """The last line; the agreement is nan where there is no int8 file."""
    ours = report["settings"][report["ours"]]
    agreement = math.nan if report["int8_agreement"] is None else report["int8_agreement"]
    return (
        f"inference: vs_pipeline={report['vs_pipeline']:.2f} vs_torch_bf16={report['vs_torch_bf16']:.2f} "
        f"cold_start_s={ours['cold_start_s']:.3f} p50_ms={ours['p50_ms']:.2f} int8_agreement={agreement:.4f}"
    )


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import onnxruntime
    import torch
    import transformers

    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "amx": bool(torch.cpu._is_amx_tile_supported()),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def load_texts(count: int, words: int | None) -> list[str]:
    """Raw texts of the test split, or the first words of each."""
    from afina.table import read, read_texts

    test = ROOT / "data/splits/test.parquet"
    if not test.is_file():
        raise SystemExit(f"inference: {test} is not there; run `dvc repro`")
    ids = read(test, ["id"])["id"].to_pylist()[:count]
    texts = read_texts(ROOT / "data/raw/messages.parquet", ids)
    return texts if words is None else [" ".join(text.split()[:words]) for text in texts]


def say(line: str) -> None:
    """Progress."""
    print(line, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=ROOT / "models/onnx", help="folder with model.onnx")
    parser.add_argument("--classifier", type=Path, default=ROOT / "models/classifier")
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--words", type=int, help="of each text, the first ones (default: all)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each setting")
    parser.add_argument("--singles", type=int, default=50, help="texts given one by one in each turn")
    parser.add_argument("--starts", type=int, default=5, help="cold starts of each setting")
    parser.add_argument("--quick", action="store_true", help="24 texts, 1 round, nothing written")
    parser.add_argument("--json", type=Path, help="where results go (default: beside this script)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.texts, arguments.rounds, arguments.singles, arguments.starts = 24, 1, 4, 1
    elif arguments.json is None:
        arguments.json = Path(__file__).with_suffix(".json")
    return arguments


def main() -> None:
    """Parse the command line, measure, print the table."""
    arguments = parse()
    load = round(os.getloadavg()[0], 2)  # other work on the machine spoils the figures
    texts = load_texts(arguments.texts, arguments.words)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain"
        length = write_plain(arguments.classifier, plain)
        place = Place(arguments.model, plain)
        report = measure(place, texts, arguments.rounds, arguments.singles, arguments.starts)
    prepared = preparing_seconds(arguments.model / OURS[report["ours"]], texts)
    share = prepared * report["settings"][report["ours"]]["texts_per_second"] / len(texts)
    results = {
        "machine": machine() | {"load_before": load},
        "texts": len(texts),
        "mean_words": round(statistics.mean(len(text.split()) for text in texts), 1),
        "backbone_tokens": length,
        **report,
        "preparing_share": round(share, 4),
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    computer = results["machine"]
    print(
        f"{len(texts)} texts of {results['mean_words']} words on average; {computer['cores']} cores, AMX: "
        f"{'yes' if computer['amx'] else 'no'}, load before: {load}; torch {computer['torch']}, transformers "
        f"{computer['transformers']}, onnxruntime {computer['onnxruntime']}\n"
    )
    print(table(results))
    print(f"\ncleaning and tokenisation: {share:.1%} of the time of {TITLES[report['ours']]}")
    print(summary(results))


if __name__ == "__main__":
    main()
