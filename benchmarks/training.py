"""Training beside the Hugging Face Trainer: examples/s and macro-F1, in one run on one machine.

    python benchmarks/training.py [--quick] [--backbone base] [--data FOLDER]

Both sides train the same classifier (`afina.modeling.classifier.TextClassifier`, the backbone's own dropout)
on the same token ids with AdamW at the same learning rates, in batches of 32 texts of at most 128 tokens.

Speed is that of passes over a sample after one pass to warm up. Each setting has a process of its own, as a
user's run would; they take turns, one at a time, so that a machine whose speed drifts treats all alike, and
the median over the rounds counts. The Trainer's default, which takes as long as all others together, leaves
after three rounds. Loading the model, tokenisation, set-up, logging, validation and checkpoints are left out
on both sides. The Trainer's group_by_length sorts pools of a quarter of all batches, 50 at most: on a sample
far fewer than on a data set, with more padding. So the Trainer gets the order that its own function gives
with pools of 50; --literal-grouping takes it as it is.

Quality is macro-F1 on validation rows after the last epoch, in float32, of afina and of the Trainer's fastest
setting but the default one. Seeds, rows, first weights and schedule are the same; group_by_length is taken as
it is. The last line has the two ratios of speed and the difference of the means of macro-F1.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from intervals import mean_and_half_width
from torch import Tensor, nn
from transformers import TrainerCallback

from afina.evaluation.metrics import prediction_metrics
from afina.modeling.backbone import DEFAULT_BACKBONE, BackboneFiles, load_tokenizer, resolve_backbone
from afina.modeling.classifier import TextClassifier, load_pretrained
from afina.params.train import TrainParams
from afina.runtime.encoding import TOKEN_BUDGET, Encoder, Ids, pad_batch, token_budget_batches
from afina.training.batches import epoch_batches
from afina.training.engine import Engine, Examples
from afina.training.forward import PaddedForward, choose_attention, choose_forward
from afina.training.loop import choose_precision, label_counts, schedule
from afina.training.loss import build_objective

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("AFINA_REAL_DATA", ROOT.parent / "shared" / "data"))
EMOTIONS = Path("emotions_en") / "train.txt"
DEMO = ROOT / "data" / "splits"
BASE = "base"  # BERT-base's size, random weights
BASE_SIZES = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
BASE_TEXTS, BASE_ROUNDS = 128, 3
VALIDATION_ROWS = 1000
OURS = "afina"
DEFAULT_ROUNDS = 3  # of the Trainer's default, the slowest by far
TRAINER_POOL = 50  # batches that the Trainer sorts together from 6,400 examples on
# A pass over a few hundred texts is too short to be timed on a GPU.
GPU_REPEATS = 10

Row = tuple[str, str]  # text, label
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Pass = Callable[[int], float]  # number of the turn -> seconds


@dataclass(frozen=True)
class Setting:
    """A way to run the Trainer."""

    name: str
    title: str
    padded: bool  # to the maximum length; else to the longest text of the batch
    grouped: bool  # texts of similar length share a batch
    bf16: bool
    attention: str

    @property
    def strategy(self) -> str:
        """The Trainer's ``train_sampling_strategy``."""
        return "group_by_length" if self.grouped else "random"


SETTINGS = (
    Setting("padded", "Trainer: padded to the maximum length, fp32", True, False, False, "sdpa"),
    Setting("grouped", "Trainer: grouped by length, fp32", False, True, False, "sdpa"),
    Setting("grouped_bf16", "Trainer: grouped by length, bf16", False, True, True, "sdpa"),
    Setting(
        "grouped_bf16_eager", "Trainer: grouped by length, bf16, eager attention", False, True, True, "eager"
    ),
)
DEFAULT, *TUNED = [setting.name for setting in SETTINGS]
TITLES = {setting.name: setting.title for setting in SETTINGS} | {
    OURS: "afina: train.* as by default, no lexical model"
}


@dataclass(frozen=True)
class Part:
    """Encoded rows."""

    tokens: list[Ids]
    targets: Ints  # (n,) class indexes

    @property
    def lengths(self) -> Ints:
        """Tokens of each text (n,)."""
        return np.array([len(ids) for ids in self.tokens], dtype=np.int64)


@dataclass(frozen=True)
class Job:
    """What both sides have in common."""

    backbone: str
    files: BackboneFiles  # of the tokenizer, and of the weights unless they are random
    labels: list[str]
    params: TrainParams
    device: torch.device
    pad_token_id: int
    collate: Any  # transformers' DataCollatorWithPadding


# Data


def load_rows(folder: Path, validation_rows: int) -> tuple[str, list[Row], list[Row]]:
    """Where the rows come from, those to train on and those to validate on."""
    path = folder / EMOTIONS
    if path.is_file():
        validation, training = divide(read_emotions(path), validation_rows)
        return EMOTIONS.parent.name, training, validation
    if not (DEMO / "train.parquet").is_file():
        raise SystemExit(f"training: neither {path} nor {DEMO} is there; give --data or run `dvc repro`")
    validation, _ = divide(read_split(DEMO / "validation.parquet"), validation_rows)
    return f"the demo, as {path} is absent", read_split(DEMO / "train.parquet"), validation


def read_emotions(path: Path) -> list[Row]:
    """Rows of ``TEXT;LABEL``, each text once."""
    rows: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        text, separator, label = line.rpartition(";")
        if separator:
            rows.setdefault(text, label)
    return list(rows.items())


def read_split(path: Path) -> list[Row]:
    """Rows of one of the pipeline's splits, with the first of their labels."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["text", "labels"])
    pairs = zip(table["text"].to_pylist(), table["labels"].to_pylist(), strict=True)
    return [(text, labels[0]) for text, labels in pairs if labels]


def divide(rows: Sequence[Row], count: int, seed: int = 0) -> tuple[list[Row], list[Row]]:
    """A stratified sample of ``count`` rows, and the rest."""
    from sklearn.model_selection import train_test_split

    if count >= len(rows):
        return list(rows), []
    chosen, rest = train_test_split(
        rows, train_size=count, random_state=seed, stratify=[label for _, label in rows]
    )
    return chosen, rest


def encode(rows: Sequence[Row], labels: Sequence[str], encoder: Encoder) -> Part:
    """Token ids and class indexes of rows."""
    targets = np.array([labels.index(label) for _, label in rows], dtype=np.int64)
    return Part(encoder.encode([text for text, _ in rows]), targets)


# The model


class LossModel(nn.Module):
    """A classifier as the Trainer wants it: it returns the loss too."""

    def __init__(self, classifier: TextClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Mean loss and logits (B, L); targets: class indexes (B,) or, of several labels, floats (B, L)."""
        logits = self.classifier(input_ids, attention_mask)
        several = labels.is_floating_point()
        loss = nn.functional.binary_cross_entropy_with_logits if several else nn.functional.cross_entropy
        return {"loss": loss(logits, labels), "logits": logits}


def make_job(backbone: str, labels: list[str], device: torch.device) -> tuple[Job, Encoder]:
    """What both sides have in common, and the tokenizer."""
    from transformers import AutoTokenizer, DataCollatorWithPadding

    name = DEFAULT_BACKBONE if backbone == BASE else backbone
    params = TrainParams.model_validate({"backbone": name})
    files = resolve_backbone(name)
    tokenizer_json, pad_token_id = load_tokenizer(files.folder)
    encoder = Encoder(tokenizer_json, params.max_length, pad_token_id)
    collate = DataCollatorWithPadding(AutoTokenizer.from_pretrained(str(files.folder)))
    return Job(backbone, files, labels, params, device, pad_token_id, collate), encoder


def build_model(job: Job, attention: str, seed: int) -> TextClassifier:
    """The classifier before training; the same weights for the same seed."""
    torch.manual_seed(seed)
    if job.backbone == BASE:
        encoder = random_encoder(job.files.folder, attention)
    else:
        encoder = load_pretrained(job.files.folder, attention, job.params.backbone_dropout)
    return TextClassifier(encoder, len(job.labels)).to(job.device)


def random_encoder(folder: Path, attention: str) -> Any:
    """An encoder of BERT-base's size with random weights, for the vocabulary of another."""
    config = transformers.AutoConfig.from_pretrained(str(folder))
    config.update(BASE_SIZES)
    models: Any = transformers.AutoModel
    return models.from_config(config, attn_implementation=attention)


def predicted(model: TextClassifier, tokens: Sequence[Ids], job: Job) -> Ints:
    """Class indexes (n,) that a trained classifier gives texts, computed in float32."""
    classes = np.zeros(len(tokens), dtype=np.int64)
    model.eval()
    with torch.inference_mode():
        for batch in token_budget_batches([len(ids) for ids in tokens], TOKEN_BUDGET):
            padded = pad_batch([tokens[index] for index in batch], job.pad_token_id)
            logits = model(*(torch.from_numpy(array).to(job.device) for array in padded))
            classes[batch] = logits.argmax(dim=1).cpu().numpy()
    return classes


def macro_f1(model: TextClassifier, part: Part, job: Job) -> float:
    """Macro-F1 of a trained classifier."""
    classes = predicted(model, part.tokens, job)
    return prediction_metrics(part.targets, classes, job.labels, "multiclass")["macro_f1"]


# The two sides


class Clock(TrainerCallback):
    """Seconds from the first epoch's begin to the last one's end: set-up is left out."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start: float | None = None
        self.seconds = 0.0

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        """Start, the first time."""
        if self.start is None:
            self.start = now(self.device)

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """Stop, until the next end."""
        self.seconds = now(self.device) - (self.start or 0.0)


def now(device: torch.device) -> float:
    """The time when what has been asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def trainer_examples(job: Job, setting: Setting, part: Part) -> list[dict[str, Any]]:
    """The Trainer's data set."""
    examples = []
    for ids, target in zip(part.tokens, part.targets, strict=True):
        padding = job.params.max_length - len(ids) if setting.padded else 0
        examples.append(
            {
                "input_ids": ids.tolist() + [job.pad_token_id] * padding,
                "attention_mask": [1] * len(ids) + [0] * padding,
                "labels": int(target),
            }
        )
    return examples


def grouped_order(part: Part, batch_size: int, seed: int) -> list[int]:
    """The order in which group_by_length takes the rows of a large data set."""
    from transformers import trainer_pt_utils

    grouped: Any = trainer_pt_utils.get_length_grouped_indices
    generator = torch.Generator().manual_seed(seed)
    return [int(row) for row in grouped(part.lengths.tolist(), batch_size, TRAINER_POOL, generator)]


def trainer_optimizer(model: TextClassifier, params: TrainParams) -> torch.optim.AdamW:
    """AdamW with afina's learning rates and weight decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        rate = params.head_learning_rate if name.startswith("head.") else params.learning_rate
        decay = params.weight_decay if weight.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(weight)
    return torch.optim.AdamW(
        [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()],
        fused=True,
    )


def run_trainer(
    job: Job,
    setting: Setting,
    model: TextClassifier,
    optimizer: torch.optim.AdamW,
    shares: Callable[[int], float],
    examples: list[dict[str, Any]],
    epochs: int,
    seed: int,
    strategy: str,
) -> float:
    """Train with the Trainer; the seconds it took.

    Args:
        shares: of the highest learning rate, by update.
        strategy: the Trainer's ``train_sampling_strategy``.
    """
    from transformers import PrinterCallback, Trainer, TrainingArguments

    clock = Clock(job.device)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=job.params.batch_size,
            num_train_epochs=epochs,
            max_grad_norm=job.params.max_grad_norm,
            train_sampling_strategy=strategy,
            bf16=setting.bf16,
            seed=seed,
            use_cpu=job.device.type == "cpu",
            dataloader_pin_memory=job.device.type != "cpu",
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = Trainer(
            LossModel(model),
            arguments,
            job.collate,
            examples,
            callbacks=[clock],
            optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, shares)),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return clock.seconds


def build_engine(
    job: Job, part: Part, shares: Floats, seed: int, attention: str | None = None, packed: bool = True
) -> tuple[Engine, Examples]:
    """afina's side as `afina.training.loop.train` puts it together.

    Args:
        attention: transformers' ``attn_implementation``; None: what afina takes.
        packed: as afina chooses; False: through transformers even where it would not.
    """
    model = build_model(job, attention or choose_attention(job.device), seed)
    counts = label_counts(part.targets, len(job.labels))
    objective = build_objective(job.params, job.labels, "multiclass", counts, len(part.tokens), None)
    choose: Any = choose_forward if packed else PaddedForward
    precision = choose_precision(job.params.precision, job.device)
    forward = choose(model, precision, job.device, job.params.max_length, checkpointing=False)
    engine = Engine(model, forward, job.params, "multiclass", shares, objective.to(job.device), seed)
    names = [str(number) for number in range(len(part.tokens))]
    return engine, Examples(names, part.tokens, part.targets, np.ones(len(names), dtype=np.float32))


def run_engine(
    job: Job,
    engine: Engine,
    examples: Examples,
    lengths: Ints,
    epochs: Sequence[int],
    updates: itertools.count[int],
    seed: int,
) -> float:
    """Train with afina; the seconds it took."""
    engine.forward.train(True)
    start = now(job.device)
    for epoch in epochs:
        for batch in epoch_batches(lengths, job.params.batch_size, seed, epoch):
            engine.update(examples, [batch], next(updates))
    return now(job.device) - start


# Speed


def trainer_pass(job: Job, setting: Setting, part: Part, repeats: int, literal: bool) -> Pass:
    """Turns of the Trainer, which go on with the same weights and optimizer."""
    model = build_model(job, setting.attention, 0)
    optimizer = trainer_optimizer(model, job.params)
    examples = trainer_examples(job, setting, part)
    strategy = setting.strategy
    if setting.grouped and not literal:
        examples = [examples[row] for row in grouped_order(part, job.params.batch_size, 0)]
        strategy = "sequential"
    return lambda turn: run_trainer(
        job, setting, model, optimizer, lambda _: 1.0, examples, repeats, turn, strategy
    )


def engine_pass(job: Job, part: Part, repeats: int, turns: int) -> Pass:
    """Turns of afina."""
    updates = math.ceil(len(part.tokens) / job.params.batch_size) * repeats * turns
    engine, examples = build_engine(job, part, np.ones(updates), 0)
    number = itertools.count()
    return lambda turn: run_engine(
        job, engine, examples, part.lengths, range(turn * repeats, (turn + 1) * repeats), number, 0
    )


def serve(connection: Connection, job: Job, part: Part, name: str, rounds: int, literal: bool) -> None:
    """In a process of its own: answer every turn's number with the seconds that it took."""
    logging: Any = transformers.logging
    logging.set_verbosity_error()
    repeats = GPU_REPEATS if job.device.type == "cuda" else 1
    setting = next((setting for setting in SETTINGS if setting.name == name), None)
    if setting is None:
        one_pass = engine_pass(job, part, repeats, rounds + 1)
    else:
        one_pass = trainer_pass(job, setting, part, repeats, literal)
    while (turn := connection.recv()) is not None:
        connection.send(one_pass(turn) / repeats)


class Contender:
    """A setting in a process of its own, which waits while others have their turns.

    Args:
        serve: called there with the connection and ``arguments``, answers turns as `serve` does.
    """

    def __init__(self, name: str, serve: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, *arguments), daemon=True)
        self.process.start()
        theirs.close()  # or the end of the process would not be seen from here

    def turn(self, number: int) -> float:
        """Seconds of one pass."""
        self.connection.send(number)
        try:
            seconds: float = self.connection.recv()
        except EOFError:
            raise SystemExit(f"training: {self.name} failed; its error is above") from None
        return seconds

    def close(self) -> None:
        """Let the process end."""
        self.connection.send(None)
        self.process.join()


def measure_speed(job: Job, part: Part, rounds: int, literal: bool) -> dict[str, Any]:
    """Speed of every setting; a turn of each to warm up, then ``rounds`` turns, of matrix products too."""
    names = [*(setting.name for setting in SETTINGS), OURS]
    contenders = [Contender(name, serve, job, part, name, rounds, literal) for name in names]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    peaks: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for turn in range(rounds + 1):
        for contender in contenders:
            if contender.name == DEFAULT and turn > DEFAULT_ROUNDS:
                continue
            took = contender.turn(turn)
            say(f"{job.backbone}: turn {turn}, {contender.name}: {len(part.tokens) / took:.1f} examples/s")
            if turn:
                seconds[contender.name].append(took)
        if turn:
            for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
                peaks[precision].append(matmul_speed(job.device, dtype))
    for contender in contenders:
        contender.close()
    return speed_report(part.lengths, seconds, peaks, shape_of(build_model(job, "eager", 0)))


def matmul_speed(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a product of square matrices: the best of ten."""
    size = 4096 if device.type == "cuda" else 2048
    one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = math.inf
    for _ in range(10):
        start = now(device)
        torch.matmul(one, other)
        best = min(best, now(device) - start)
    return 2 * size**3 / best


def shape_of(model: TextClassifier) -> dict[str, int]:
    """What the floating-point operations of a model follow from."""
    weights = [
        weight.numel() for name, weight in model.backbone.named_parameters() if "embeddings" not in name
    ]
    config = model.backbone.config
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "encoder_parameters": sum(weights),
        "layers": int(config.num_hidden_layers),
        "hidden": int(config.hidden_size),
    }


def training_flops(lengths: Ints, shape: Mapping[str, int]) -> float:
    """Floating-point operations of one pass over texts, forward and backward, padding left out.

    6 for each weight outside the embeddings and each token; and attention: the scores and their product with
    the values take 4 T² H of a layer forward, and twice that backward.
    """
    linear = 6 * shape["encoder_parameters"] * int(lengths.sum())
    attention = 12 * shape["layers"] * shape["hidden"] * int((lengths**2).sum())
    return float(linear + attention)


def speed_report(
    lengths: Ints,
    seconds: Mapping[str, Sequence[float]],
    peaks: Mapping[str, Sequence[float]],
    shape: Mapping[str, int],
) -> dict[str, Any]:
    """Medians over the rounds, and what they say."""
    flops = training_flops(lengths, shape)
    medians = {precision: statistics.median(values) for precision, values in peaks.items()}
    peak = max(medians.values())
    settings: dict[str, dict[str, Any]] = {}
    for name, values in seconds.items():
        took = statistics.median(values)
        settings[name] = {
            "examples_per_second": round(len(lengths) / took, 2),
            "rounds": [round(len(lengths) / value, 2) for value in values],
            "tokens_per_second": round(int(lengths.sum()) / took, 1),
            "share_of_peak": round(flops / took / peak, 4),
        }
    return {
        "texts": len(lengths),
        "tokens": int(lengths.sum()),
        "model": dict(shape),
        "flops_per_pass": flops,
        "matmul_flops_per_second": {precision: round(value) for precision, value in medians.items()},
        "settings": settings,
        **ratios({name: setting["examples_per_second"] for name, setting in settings.items()}),
    }


def ratios(rates: Mapping[str, float]) -> dict[str, Any]:
    """How many times as fast afina is as the Trainer by default, and as the best of its other settings."""
    best = max(TUNED, key=lambda name: rates[name])
    return {
        "best": best,
        "vs_trainer_default": round(rates[OURS] / rates[DEFAULT], 3),
        "vs_trainer_best": round(rates[OURS] / rates[best], 3),
    }


# Quality


def padding_shares(lengths: Ints, batch_size: int, seed: int = 0) -> dict[str, float]:
    """The share of an epoch's tokens that is padding: in afina's batches, and in batches merely shuffled.

    It is what packing texts without padding could save.
    """
    order = np.random.default_rng(seed).permutation(len(lengths))
    batches = {
        "afina": epoch_batches(lengths, batch_size, seed, 0),
        "shuffled": np.array_split(order, -(-len(lengths) // batch_size)),
    }
    return {
        name: 1 - int(lengths.sum()) / sum(len(batch) * int(lengths[batch].max()) for batch in found)
        for name, found in batches.items()
    }


def rate_shares(rows: int, epochs: int, params: TrainParams) -> Floats:
    """Share of the highest learning rate at each update: up over the warm-up, then down."""
    total = math.ceil(rows / params.batch_size) * epochs
    return np.array([schedule(number, total, params.warmup) for number in range(total)])


def measure_quality(
    job: Job, setting: Setting, train: Part, validation: Part, epochs: int, seeds: int
) -> dict[str, Any]:
    """Macro-F1 on validation rows of both sides, for each seed."""
    scores: dict[str, list[float]] = {OURS: [], setting.name: []}
    shares = rate_shares(len(train.tokens), epochs, job.params)
    for seed in range(seeds):
        engine, examples = build_engine(job, train, shares, seed)
        updates = itertools.count()
        run_engine(job, engine, examples, train.lengths, range(epochs), updates, seed)
        with engine.finished(len(shares)):
            scores[OURS].append(macro_f1(engine.model, validation, job))

        model = build_model(job, setting.attention, seed)
        run_trainer(
            job,
            setting,
            model,
            trainer_optimizer(model, job.params),
            lambda number: float(shares[number]) if number < len(shares) else 0.0,
            trainer_examples(job, setting, train),
            epochs,
            seed,
            setting.strategy,
        )
        scores[setting.name].append(macro_f1(model, validation, job))
        say(
            f"seed {seed}: macro-F1 "
            + ", ".join(f"{name} {values[-1]:.3f}" for name, values in scores.items())
        )
    return quality_report(scores, setting.name) | {
        "train_rows": len(train.tokens),
        "validation_rows": len(validation.tokens),
        "epochs": epochs,
    }


def quality_report(scores: Mapping[str, Sequence[float]], other: str) -> dict[str, Any]:
    """Means with intervals, and the difference, seed by seed."""
    differences = [ours - theirs for ours, theirs in zip(scores[OURS], scores[other], strict=True)]
    settings = {}
    for name, values in scores.items():
        mean, half = mean_and_half_width(values)
        settings[name] = {
            "macro_f1": round(mean, 4),
            "half_interval": rounded(half),
            "by_seed": [round(value, 4) for value in values],
        }
    delta, half = mean_and_half_width(differences)
    return {"settings": settings, "f1_delta": round(delta, 4), "f1_delta_half_interval": rounded(half)}


def rounded(value: float) -> float | None:
    """Four decimals; None where a single value has no interval."""
    return round(value, 4) if math.isfinite(value) else None


# The report


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    cuda = device.type == "cuda"
    return {
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if cuda else None,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "amx": bool(torch.cpu._is_amx_tile_supported()),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def speed_table(report: Mapping[str, Any]) -> str:
    """Speed as a Markdown table."""
    lines = [
        "| | examples/s | tokens/s | share of the matmul peak | speed of afina over it |",
        "|---|---|---|---|---|",
    ]
    ours = report["settings"][OURS]["examples_per_second"]
    for name, setting in report["settings"].items():
        rate = setting["examples_per_second"]
        lines.append(
            f"| {TITLES[name]} | {rate:,.1f} | {setting['tokens_per_second']:,.0f} "
            f"| {setting['share_of_peak']:.1%} | {ours / rate:.2f} |"
        )
    return "\n".join(lines)


def quality_table(report: Mapping[str, Any]) -> str:
    """Macro-F1 as a Markdown table."""
    lines = ["| | macro-F1 | by seed |", "|---|---|---|"]
    for name, setting in report["settings"].items():
        by_seed = ", ".join(f"{score:.3f}" for score in setting["by_seed"])
        lines.append(
            f"| {TITLES[name]} | {with_half(setting['macro_f1'], setting['half_interval'])} | {by_seed} |"
        )
    difference = with_half(report["f1_delta"], report["f1_delta_half_interval"])
    return "\n".join([*lines, f"| difference | {difference} | |"])


def with_half(mean: float, half: float | None) -> str:
    """A mean and half its interval."""
    return f"{mean:.3f}" if half is None else f"{mean:.3f} ± {half:.3f}"


def summary(speed: Mapping[str, Any], quality: Mapping[str, Any] | None) -> str:
    """The last line; ``f1_delta`` is nan where quality was not measured."""
    delta = math.nan if quality is None else quality["f1_delta"]
    return (
        f"training: vs_trainer_default={speed['vs_trainer_default']:.2f} "
        f"vs_trainer_best={speed['vs_trainer_best']:.2f} f1_delta={delta:.3f}"
    )


def say(line: str) -> None:
    """Progress."""
    print(line, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA, help="folder with the real data sets")
    parser.add_argument(
        "--backbone",
        default=DEFAULT_BACKBONE,
        help=f"name or folder; {BASE}: the default one, and for speed one of BERT-base's size",
    )
    parser.add_argument("--texts", type=int, default=512, help="sample for speed")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each setting")
    parser.add_argument("--train-rows", type=int, default=1500, help="sample for quality")
    parser.add_argument("--validation-rows", type=int, default=VALIDATION_ROWS)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--literal-grouping", action="store_true", help="group_by_length on the sample itself, see above"
    )
    parser.add_argument("--no-quality", action="store_true", help="speed alone")
    parser.add_argument("--quick", action="store_true", help="64 texts, 1 round, no quality, nothing written")
    parser.add_argument("--json", type=Path, help="where results go (default: beside this script)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.texts, arguments.rounds, arguments.no_quality = 64, 1, True
    elif arguments.json is None:
        arguments.json = Path(__file__).with_suffix(".json")
    return arguments


def main() -> None:
    """Parse the command line, measure, print the tables."""
    arguments = parse()
    load = round(os.getloadavg()[0], 2)  # other work on the machine spoils the figures
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if torch.cuda.device_count() > 1:
        raise SystemExit("training: the Trainer would use all GPUs; set CUDA_VISIBLE_DEVICES=0")
    logging: Any = transformers.logging
    logging.set_verbosity_error()
    source, training, validating = load_rows(arguments.data, arguments.validation_rows)
    labels = sorted({label for _, label in training})
    backbone = DEFAULT_BACKBONE if arguments.backbone == BASE else arguments.backbone
    job, encoder = make_job(backbone, labels, device)

    def sample(rows: Sequence[Row], count: int) -> Part:
        return encode(divide(rows, count)[0], labels, encoder)

    literal = arguments.literal_grouping
    speed = {backbone: measure_speed(job, sample(training, arguments.texts), arguments.rounds, literal)}
    if arguments.backbone == BASE:
        base, _ = make_job(BASE, labels, device)
        speed[BASE] = measure_speed(
            base,
            sample(training, min(BASE_TEXTS, arguments.texts)),
            min(BASE_ROUNDS, arguments.rounds),
            literal,
        )
    quality = None
    if not arguments.no_quality:
        best = next(setting for setting in SETTINGS if setting.name == speed[backbone]["best"])
        parts = sample(training, arguments.train_rows), sample(validating, arguments.validation_rows)
        quality = measure_quality(job, best, *parts, arguments.epochs, arguments.seeds)

    results = {
        "machine": machine(device) | {"load_before": load},
        "literal_grouping": literal,
        "data": source,
        "precision": choose_precision(job.params.precision, device),
        "max_length": job.params.max_length,
        "batch_size": job.params.batch_size,
        "padding": padding_shares(encode(training, labels, encoder).lengths, job.params.batch_size),
        "learning_rate": job.params.learning_rate,
        "head_learning_rate": job.params.head_learning_rate,
        "speed": speed,
        "quality": quality,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print_report(results)
    print(summary(speed[backbone], quality))


def print_report(results: Mapping[str, Any]) -> None:
    """Print the tables."""
    computer = results["machine"]
    where = computer["gpu"] or f"{computer['cores']} cores, AMX: {'yes' if computer['amx'] else 'no'}"
    print(f"Data: {results['data']}. Machine: {where}, load before: {computer['load_before']}.")
    versions = f"torch {computer['torch']}, transformers {computer['transformers']}"
    print(f"{versions}; afina in {results['precision']}.")
    padding = results["padding"]
    print(
        f"Padding over all of the data, in batches of {results['batch_size']}: {padding['afina']:.1%} of an "
        f"epoch's tokens with afina, {padding['shuffled']:.1%} with texts merely shuffled."
    )
    for name, report in results["speed"].items():
        peak = max(report["matmul_flops_per_second"].values()) / 1e12
        print(
            f"\n{name}: {report['model']['parameters'] / 1e6:.1f} M parameters, {report['texts']} texts of "
            f"{report['tokens'] / report['texts']:.1f} tokens; matmul peak {peak:.2f} TFLOP/s\n"
        )
        print(speed_table(report))
    quality = results["quality"]
    if quality is not None:
        print(
            f"\nTrained on {quality['train_rows']:,} rows for {quality['epochs']} epochs, "
            f"{quality['validation_rows']:,} validation rows; mean over seeds ± half the 95 % interval\n"
        )
        print(quality_table(quality))


if __name__ == "__main__":
    main()
