"""Ways to train that were tried, beside the one that is used: examples/s, in one run on one machine.

    python benchmarks/engine.py [--quick] [--rounds 5] [--data FOLDER]

Each way differs from the engine as it is by default in what its title says, and in nothing else; the data,
the sample and the timing are those of benchmarks/training.py: passes over the same texts, one turn of each to
warm up (and to compile), then in turns, and medians count. `shuffled` has the same number of updates, of
batches with texts of any lengths. The last line has the speed of every way over that of the one used.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from training import (
    DATA,
    GPU_REPEATS,
    VALIDATION_ROWS,
    Contender,
    Ints,
    Job,
    Part,
    build_engine,
    divide,
    encode,
    load_rows,
    machine,
    make_job,
    now,
    say,
)

from afina.modeling.backbone import DEFAULT_BACKBONE
from afina.modeling.packed import fused_attention
from afina.training.batches import epoch_batches
from afina.training.engine import Engine

USED = "used"


def nothing(engine: Engine) -> None:
    """Change nothing."""


def attend_by_torch(engine: Engine) -> None:
    """torch's scaled dot-product attention on the padded rectangle of packed tokens."""
    encoder: Any = engine.forward.encoder  # type: ignore[attr-defined]

    def attention(projected: Tensor, index: Any) -> Tensor:
        rate = encoder.attention_dropout if encoder.training else 0.0
        return fused_attention(projected, index, encoder.heads, rate)

    encoder._attention = attention


def compile_layers(engine: Engine) -> None:
    """torch.compile of every layer, for batches of any size."""
    encoder: Any = engine.forward.encoder  # type: ignore[attr-defined]
    encoder._layer = torch.compile(encoder._layer, dynamic=True)


def draw_by_torch(engine: Engine) -> None:
    """Dropout's factors drawn anew for every mask by torch's generator."""

    def mask(shape: tuple[int, ...], rate: float, like: Tensor) -> Tensor:
        return torch.empty(shape, dtype=like.dtype, device=like.device).bernoulli_(1 - rate).div_(1 - rate)

    engine.forward.encoder.pool.mask = mask  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Way:
    """A way to train."""

    title: str
    attention: str | None = None  # transformers' attn_implementation
    packed: bool = True
    params: Mapping[str, Any] = field(default_factory=dict)  # of the section train
    change: Callable[[Engine], None] = nothing
    shuffled: bool = False


WAYS = {
    USED: Way("as used: packed tokens, batches of similar length, dropout from a pool"),
    "padded": Way("through transformers, padded, plain attention", "eager", packed=False),
    "padded_sdpa": Way("through transformers, padded, torch's attention", "sdpa", packed=False),
    "sdpa": Way("torch's attention", change=attend_by_torch),
    "compiled": Way("torch.compile of the layers", change=compile_layers),
    "drawn": Way("dropout drawn anew by torch", change=draw_by_torch),
    "no_dropout": Way("without dropout", params={"backbone_dropout": 0.0}),
    "shuffled": Way("batches of any lengths", shuffled=True),
    "fp32": Way("in float32", params={"precision": "fp32"}),
    "bf16": Way("in bfloat16", params={"precision": "bf16"}),
}


def batches_of(way: Way, lengths: Ints, batch_size: int, epoch: int) -> Sequence[Ints]:
    """The batches of an epoch."""
    if not way.shuffled:
        return epoch_batches(lengths, batch_size, 0, epoch)
    order = np.random.default_rng(epoch).permutation(len(lengths))
    return np.array_split(order, math.ceil(len(lengths) / batch_size))


def prepare(way: Way, job: Job, part: Part, updates: int) -> tuple[Engine, Any]:
    """The engine that trains this way, and its examples."""
    job = replace(job, params=job.params.model_copy(update=dict(way.params)))
    engine, examples = build_engine(job, part, np.ones(updates), 0, way.attention, way.packed)
    way.change(engine)
    return engine, examples


def serve(connection: Connection, name: str, job: Job, part: Part, turns: int) -> None:
    """In a process of its own: answer every turn's number with the seconds of a pass."""
    logging: Any = transformers.logging
    logging.set_verbosity_error()
    way, size = WAYS[name], job.params.batch_size
    repeats = GPU_REPEATS if job.device.type == "cuda" else 1
    engine, examples = prepare(way, job, part, math.ceil(len(part.tokens) / size) * repeats * turns)
    engine.forward.train(True)
    number = itertools.count()
    while (turn := connection.recv()) is not None:
        start = now(job.device)
        for epoch in range(turn * repeats, (turn + 1) * repeats):
            for batch in batches_of(way, part.lengths, size, epoch):
                engine.update(examples, [batch], next(number))
        connection.send((now(job.device) - start) / repeats)


def measure(job: Job, part: Part, rounds: int, names: Sequence[str]) -> dict[str, float]:
    """Examples a second of every way: the median of the rounds."""
    contenders = [Contender(name, serve, name, job, part, rounds + 1) for name in names]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for contender in contenders:
            took = contender.turn(turn)
            say(f"turn {turn}, {contender.name}: {len(part.tokens) / took:.1f} examples/s")
            if turn:
                seconds[contender.name].append(took)
    for contender in contenders:
        contender.close()
    return {name: len(part.tokens) / statistics.median(values) for name, values in seconds.items()}


def table(rates: Mapping[str, float]) -> str:
    """Speed as a Markdown table."""
    lines = ["| | examples/s | over the one used |", "|---|---|---|"]
    lines += [
        f"| {WAYS[name].title} | {rate:,.1f} | {rate / rates[USED]:.2f} |" for name, rate in rates.items()
    ]
    return "\n".join(lines)


def summary(rates: Mapping[str, float]) -> str:
    """The last line."""
    shares = " ".join(f"{name}={rate / rates[USED]:.2f}" for name, rate in rates.items() if name != USED)
    return f"engine: {shares}"


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("ways", nargs="*", metavar="WAY", help=f"default: all of {', '.join(WAYS)}")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with the real data sets")
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="64 texts, 1 round")
    arguments = parser.parse_args()
    if unknown := set(arguments.ways) - WAYS.keys():
        parser.error(f"no way {min(unknown)!r}; choose from {', '.join(WAYS)}")
    if arguments.quick:
        arguments.texts, arguments.rounds = 64, 1
    names = [name for name in WAYS if name == USED or name in (arguments.ways or WAYS)]
    load = round(os.getloadavg()[0], 2)  # other work on the machine spoils the figures
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    source, rows, _ = load_rows(arguments.data, VALIDATION_ROWS)
    labels = sorted({label for _, label in rows})
    job, encoder = make_job(DEFAULT_BACKBONE, labels, device)
    part = encode(divide(rows, arguments.texts)[0], labels, encoder)
    rates = measure(job, part, arguments.rounds, names)
    computer = machine(device)
    print(f"Data: {source}. {computer['gpu'] or computer['cores']} cores, load before: {load}.\n")
    print(table(rates))
    print(summary(rates))


if __name__ == "__main__":
    main()
