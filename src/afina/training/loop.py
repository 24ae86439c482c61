"""The training loop, straight down: from tables and parameters to a saved classifier and its history."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import accelerate
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tokenizers
import torch
import transformers
from accelerate import Accelerator
from torch import Tensor

import afina
from afina.adaptation.store import AdaptedBackbone, read_adapted
from afina.errors import UserError
from afina.evaluation.metrics import predict, prediction_metrics
from afina.evaluation.thresholds import fit_thresholds
from afina.labels import LabelSet, Task, encode_labels
from afina.modeling.backbone import check_max_length, load_tokenizer, resolve_backbone, weights_sha256
from afina.modeling.classifier import TextClassifier, load_pretrained
from afina.modeling.lexical import LexicalScorer, fit_combination
from afina.modeling.store import ClassifierConfig, save_classifier
from afina.params.train import TrainParams
from afina.progress import Progress
from afina.runtime.encoding import Encoder
from afina.training.batches import epoch_batches
from afina.training.checkpoint import (
    EpochRecord,
    State,
    clear_checkpoints,
    fingerprint,
    load_best,
    load_checkpoint,
    save_best,
    save_checkpoint,
    writing,
)
from afina.training.engine import Engine, Examples, NotFiniteError, Updated, freeze
from afina.training.forward import choose_attention, choose_device, choose_forward, choose_precision
from afina.training.lexical import cut, fit_on_examples, lexical_logits, new_token_pieces
from afina.training.loss import Objective, build_objective
from afina.training.sampling import epoch_rows
from afina.training.schedule import schedule

HISTORY_COLUMNS = tuple(EpochRecord.__dataclass_fields__)

# Parameters that decide how a run is done, not what comes out: a checkpoint survives a change of these.
OPERATIONAL = {"device", "threads", "checkpoint_seconds"}


@dataclass(frozen=True)
class TrainingResult:
    """What a run gives back; the classifier itself lies in its folder."""

    history: list[EpochRecord]
    best_epoch: int
    best_macro_f1: float  # on the validation split
    examples_per_second: float  # of training alone, without validation; 0 where nothing was left to train
    precision: str  # fp32 | bf16
    device: str
    is_main_process: bool  # the one that writes files


def train(
    params: TrainParams,
    train_table: pa.Table,
    validation_table: pa.Table,
    label_set: LabelSet,
    class_weights: dict[str, float] | None,
    seed: int,
    classifier_folder: Path,
    checkpoint_folder: Path,
    adapted_folder: Path | None = None,
) -> TrainingResult:
    """Fine-tune a backbone and save the weights of the epoch with the best validation macro-F1.

    A run that was killed goes on from its last checkpoint and, on the same machine, reaches the same
    weights bit for bit as if it had not been (on a GPU as far as its kernels are deterministic).

    Args:
        params: the section ``train``.
        train_table: `afina.table.BALANCED_SCHEMA`; a row's ``weight`` multiplies its loss.
        validation_table: `afina.table.SCHEMA`; chooses the best epoch, never trained on.
        label_set: task, labels and cleaning.
        class_weights: factor of each label's examples (multilabel: of its positives); None: all 1.
        seed: of the head's first weights, the batches and dropout.
        classifier_folder: where the classifier goes, see `afina.modeling.store.save_classifier`.
        checkpoint_folder: where checkpoints live. The last one stays, for whoever has yet to write the
            history; remove it with `afina.training.checkpoint.clear_checkpoints`.
        adapted_folder: the backbone as the stage adapt left it; None: as it is published.

    Raises:
        UserError: a table is unusable, the backbone cannot be had, the loss is no longer a number, a single
            example does not fit in the memory, or a file cannot be written.
    """
    if params.threads is not None:
        torch.set_num_threads(params.threads)
    accelerator = _accelerator(params.device)
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
    precision = choose_precision(params.precision, device)
    labels, task = label_set.labels, label_set.task
    if params.batch_size < world:
        raise UserError(f"train.batch_size: {params.batch_size} is less than the {world} processes; raise it")

    # Data.
    files = resolve_backbone(params.backbone, params.revision)
    check_max_length(files, params.max_length)
    adapted = (
        AdaptedBackbone(files, files.folder, None)
        if adapted_folder is None
        else read_adapted(adapted_folder, files)
    )
    tokenizer_json, pad_token_id = load_tokenizer(adapted.folder)
    length = max(params.max_length, params.lexical_length) if params.lexical else params.max_length
    encoder = Encoder(tokenizer_json, length, pad_token_id)
    training = _encode("train", train_table, label_set, encoder)
    validation = _encode("validation", validation_table, label_set, encoder)
    _check_classes(training, label_set, class_weights)
    lexical: LexicalScorer | None = None
    if params.lexical:
        pieces = new_token_pieces(files.folder, tokenizer_json, adapted.first_new_token)
        lexical = fit_on_examples(params, training, label_set, class_weights, tokenizer_json, pieces)
        # What the lexical model says of validation is added when an epoch is judged.
        validation = replace(validation, lexical=lexical_logits(lexical, validation.tokens, pad_token_id))
    training, validation = (cut(part, params.max_length) for part in (training, validation))
    objective = build_objective(
        params, labels, task, label_counts(training.targets, len(labels)), len(training.names), class_weights
    ).to(device)

    # Model.
    torch.manual_seed(seed)
    backbone = load_pretrained(adapted.folder, choose_attention(device), params.backbone_dropout)
    raw = TextClassifier(
        backbone, len(labels), params.pooling, params.head, params.activation, params.dropout
    ).to(device)
    freeze(raw, params.freeze)
    count = len(training.tokens)
    updates_per_epoch = math.ceil(math.ceil(count / params.batch_size) / params.gradient_accumulation)
    shares = np.array(
        [
            schedule(number, updates_per_epoch * params.epochs, params.warmup)
            for number in range(updates_per_epoch * params.epochs)
        ]
    )
    forward = choose_forward(raw, precision, device, params.max_length, params.gradient_checkpointing)
    engine = Engine(
        raw,
        forward,
        params,
        task,
        shares,
        objective,
        seed,
        rank,
        world,
        lambda tensor: accelerator.reduce(tensor, reduction="sum"),
        row_factors(backbone, adapted.first_new_token, params),
    )

    # Where did an earlier run leave off?
    train_data = table_sha256(train_table)
    key = fingerprint(
        {
            "params": params.model_dump(exclude=OPERATIONAL),
            "seed": seed,
            "train": train_data,
            "validation": table_sha256(validation_table),
            "labels": [task, *labels],
            "class_weights": class_weights,
            "backbone": weights_sha256(adapted.folder),
            "tokenizer": hashlib.sha256(tokenizer_json.encode()).hexdigest(),
            "precision": precision,
            "code": code_version(),
        }
    )
    # What the model said of each example while it trained on it, for the training macro-F1.
    seen = torch.zeros(training.targets.shape, dtype=torch.int32 if task == "multiclass" else torch.float32)
    state = load_checkpoint(checkpoint_folder, key, raw, engine, seen)
    if state is None:
        state = State()
        if accelerator.is_main_process:
            clear_checkpoints(checkpoint_folder)
    else:
        _say(accelerator, f"resumes from its checkpoint: epoch {state.epoch + 1}, update {state.update}")
        if not accelerator.is_main_process:  # the sums below are over processes: count what is done once
            seen.zero_()
            state.loss_sum = state.factor_sum = 0.0
    saved_at = time.monotonic()

    lengths = np.array([len(tokens) for tokens in training.tokens])
    trained, trained_seconds = 0, 0.0
    left = count * params.epochs - round(
        count * (state.epoch * updates_per_epoch + state.update) / updates_per_epoch
    )
    progress = Progress("train", total=left, unit="examples")

    with progress:
        while not state.finished:
            rows = epoch_rows(params.sampler, training.targets, task, seed, state.epoch, params.epochs)
            batches = [
                rows[batch] for batch in epoch_batches(lengths[rows], params.batch_size, seed, state.epoch)
            ]
            forward.train(True)
            while state.update < updates_per_epoch:
                started = time.perf_counter()
                number = state.epoch * updates_per_epoch + state.update
                first = state.update * params.gradient_accumulation
                group = batches[first : first + params.gradient_accumulation]
                updated = _update(engine, training, group, number)
                _remember(seen, updated, group, task, rank, world)
                state.loss_sum += updated.loss_sum
                state.factor_sum += updated.weight_sum
                state.update += 1
                group_size = sum(len(batch) for batch in group)
                trained += group_size
                trained_seconds += time.perf_counter() - started
                mean = state.loss_sum / max(state.factor_sum, 1e-12)
                progress.advance(group_size, f"epoch {state.epoch + 1}/{params.epochs} loss {mean:.3f}")
                if _on_main(accelerator, time.monotonic() - saved_at >= params.checkpoint_seconds):
                    _checkpoint(accelerator, checkpoint_folder, key, state, raw, engine, seen)
                    saved_at = time.monotonic()

            # The epoch is over: how good is the model now?
            last = (state.epoch + 1) * updates_per_epoch
            sums = _total(accelerator, torch.tensor([state.loss_sum, state.factor_sum], dtype=torch.float64))
            drawn = np.unique(rows)
            predicted = _total(accelerator, seen).numpy()[drawn]
            with engine.finished(last):
                scores = _validate(accelerator, engine, validation, objective, label_set)
                record = EpochRecord(
                    epoch=state.epoch + 1,
                    train_loss=round(float(sums[0] / sums[1]), 6),
                    validation_loss=round(scores.loss, 6),
                    train_macro_f1=round(macro_f1(training.targets[drawn], predicted, labels, task), 6),
                    validation_macro_f1=round(scores.macro_f1, 6),
                    learning_rate=params.learning_rate * float(shares[last - 1]),
                )
                state.history.append(record)
                if (scores.macro_f1, -scores.loss) > (state.best_macro_f1, -state.best_loss):
                    state.best_epoch, state.best_macro_f1, state.best_loss = (
                        record.epoch,
                        scores.macro_f1,
                        scores.loss,
                    )
                    state.mixture = scores.mixture
                    if accelerator.is_main_process:
                        save_best(checkpoint_folder, record.epoch, raw)
            state.epoch += 1
            state.update, state.loss_sum, state.factor_sum = 0, 0.0, 0.0
            seen.zero_()
            waited = state.epoch - state.best_epoch
            state.finished = state.epoch == params.epochs or (
                params.patience is not None and waited >= params.patience
            )
            _checkpoint(accelerator, checkpoint_folder, key, state, raw, engine, seen)
            saved_at = time.monotonic()

    if accelerator.is_main_process:
        raw.load_state_dict(load_best(checkpoint_folder, state.best_epoch))
        if lexical is not None and state.mixture is not None:
            raw.add_lexical(lexical, state.mixture, params.max_length)
        config = ClassifierConfig(
            task=task,
            labels=list(labels),
            max_length=length,
            window=params.max_length,
            lexical=None if lexical is None else lexical.shape(),
            pooling=params.pooling,
            head=list(params.head),
            activation=params.activation,
            dropout=params.dropout,
            pad_token_id=pad_token_id,
            backbone=files.public_name,
            backbone_revision=files.revision,
            backbone_sha256=files.sha256,
            backbone_licence=files.licence,
            cleaning=label_set.cleaning,
            train_data_sha256=train_data,
        )
        with writing(classifier_folder):
            save_classifier(classifier_folder, raw, backbone.config.to_diff_dict(), tokenizer_json, config)
    accelerator.wait_for_everyone()
    return TrainingResult(
        history=state.history,
        best_epoch=state.best_epoch,
        best_macro_f1=state.best_macro_f1,
        examples_per_second=trained / trained_seconds if trained_seconds else 0.0,
        precision=precision,
        device=device.type,
        is_main_process=accelerator.is_main_process,
    )


def row_factors(backbone: Any, first_new: int | None, params: TrainParams) -> Tensor | None:
    """Factor (V,) on the learning rate of each token's embedding; None: 1 for all."""
    if first_new is None:
        return None
    factors = torch.ones(len(backbone.get_input_embeddings().weight))
    factors[first_new:] = params.new_token_learning_rate / params.learning_rate
    return factors


def answers(logits: Tensor, task: Task) -> Tensor:
    """What logits (B, L) say: class indexes (B,), or the labels' probabilities (B, L)."""
    return logits.argmax(dim=1) if task == "multiclass" else logits.sigmoid()


def macro_f1(
    targets: npt.NDArray[Any], answered: npt.NDArray[Any], labels: Sequence[str], task: Task
) -> float:
    """Macro-F1 of `answers` (n,) or (n, L); multilabel at each label's best threshold on these rows.

    At 0.5 a rare label is never predicted for epochs on end, and one epoch would seem as good as another.
    """
    if task == "multilabel":
        answered = predict(answered, task, fit_thresholds(targets, answered))
    return prediction_metrics(targets, answered.astype(targets.dtype), labels, task)["macro_f1"]


def label_counts(targets: npt.NDArray[Any], width: int) -> npt.NDArray[np.int64]:
    """Rows (L,) that have each label, of class indexes (n,) or multi-hot targets (n, L)."""
    counts = np.bincount(targets, minlength=width) if targets.ndim == 1 else targets.sum(axis=0)
    return counts.astype(np.int64)


def table_sha256(table: pa.Table) -> str:
    """Hash of what a model learns from: ids, texts, labels and weights of a table."""
    digest = hashlib.sha256()
    for name in ("id", "text", "labels", "weight"):
        values = table[name].to_pylist() if name in table.column_names else None
        digest.update(json.dumps(values, ensure_ascii=False).encode())
    return digest.hexdigest()


def code_version() -> str:
    """Hash of the code that trains, and of the libraries' versions under it."""
    root = Path(afina.__file__).parent
    sources = [*root.glob("training/*.py"), *root.glob("modeling/*.py"), root / "runtime" / "encoding.py"]
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(path.name.encode() + path.read_bytes())
    for library in (torch, transformers, tokenizers, accelerate):
        digest.update(f"{library.__name__} {library.__version__}".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Scores:
    loss: float  # of the backbone alone
    macro_f1: float
    mixture: tuple[float, float] | None = None


def _update(
    engine: Engine, training: Examples, group: Sequence[npt.NDArray[np.int64]], number: int
) -> Updated:
    """One update, its troubles put into words."""
    split = engine.split
    try:
        updated = engine.update(training, group, number)
    except NotFiniteError as error:
        shown = ", ".join(training.names[row] for row in error.rows[:3])
        raise UserError(
            f"train: the {error.what} is not a number any more (batch of ids {shown} ...); lower "
            "train.learning_rate or train.max_grad_norm. The last checkpoint is kept"
        ) from None
    if engine.split > split:
        print(
            f"train: a batch does not fit in the memory; going on with batches in {engine.split} parts, "
            "whose gradients add up to the same",
            file=sys.stderr,
            flush=True,
        )
    return updated


def _remember(
    seen: Tensor,
    updated: Updated,
    group: Sequence[npt.NDArray[np.int64]],
    task: Task,
    rank: int,
    world: int,
) -> None:
    """Keep what the model said of the examples of an update, such that the sum over processes is right.

    Of an example that an epoch holds several times the last answer is kept, on the process that gave it.
    """
    rows = np.concatenate(group).tolist()
    owner = dict(zip(rows, np.concatenate([np.arange(len(batch)) % world for batch in group]), strict=True))
    seen[list(owner)] = 0
    mine = np.array([owner[row] == rank for row in updated.rows], dtype=bool)
    if mine.any():
        # In numpy the last of several values for one row is the one that counts.
        seen.numpy()[updated.rows[mine]] = answers(updated.logits, task).numpy()[mine]


def _validate(
    accelerator: Accelerator,
    engine: Engine,
    validation: Examples,
    objective: Objective,
    label_set: LabelSet,
) -> _Scores:
    """Loss (weighted as at the end of training) and macro-F1 on validation, shared out over processes."""
    labels, task = label_set.labels, label_set.task
    mine = np.arange(accelerator.process_index, len(validation.tokens), accelerator.num_processes)
    part = torch.zeros((len(validation.tokens), len(labels)))
    part[torch.from_numpy(mine)] = torch.from_numpy(
        engine.logits([validation.tokens[index] for index in mine])
    )
    logits = _total(accelerator, part)
    targets = torch.from_numpy(validation.targets).to(engine.device)
    losses = objective(logits.to(engine.device), targets, 1.0).cpu().numpy()
    if not np.isfinite(losses).all():
        worst = validation.names[int(np.flatnonzero(~np.isfinite(losses))[0])]
        raise UserError(f"train: validation loss of '{worst}' is not a number; lower train.learning_rate")
    mixture = None
    if validation.lexical is not None:
        mixture = fit_combination(
            logits.numpy(),
            validation.lexical,
            validation.targets,
            task,
            lambda mixed: macro_f1(
                validation.targets, answers(torch.from_numpy(mixed), task).numpy(), labels, task
            ),
        )
        logits = logits * mixture[0] + torch.from_numpy(validation.lexical) * mixture[1]
    score = macro_f1(validation.targets, answers(logits, task).numpy(), labels, task)
    return _Scores(float(np.average(losses, weights=validation.weights)), score, mixture)


def _checkpoint(
    accelerator: Accelerator,
    folder: Path,
    key: str,
    state: State,
    model: TextClassifier,
    engine: Engine,
    seen: Tensor,
) -> None:
    """Save the run's state, sums over all processes taken, from the main process."""
    sums = _total(accelerator, torch.tensor([state.loss_sum, state.factor_sum], dtype=torch.float64))
    total = replace(state, loss_sum=float(sums[0]), factor_sum=float(sums[1]))
    everywhere = _total(accelerator, seen)
    if accelerator.is_main_process:
        save_checkpoint(folder, key, total, model, engine, everywhere)
    accelerator.wait_for_everyone()


def _total(accelerator: Accelerator, values: Tensor) -> Tensor:
    """Sum of a CPU tensor over all processes."""
    if accelerator.num_processes == 1:
        return values
    summed: Tensor = accelerator.reduce(values.clone().to(accelerator.device), reduction="sum")
    return summed.cpu()


def _on_main(accelerator: Accelerator, answer: bool) -> bool:
    """What the main process answers, on every process."""
    if accelerator.num_processes == 1:
        return answer
    return bool(_total(accelerator, torch.tensor(int(answer and accelerator.is_main_process))))


def _accelerator(device: Literal["auto", "cpu", "cuda"]) -> Accelerator:
    choose_device(device)  # one that is not there is an error; which GPU is a process's own, accelerate knows
    return Accelerator(cpu=device == "cpu", mixed_precision="no")


def _encode(split: str, table: pa.Table, label_set: LabelSet, encoder: Encoder) -> Examples:
    """Encode a split's texts and labels."""
    if not table.num_rows:
        raise UserError(f"{split}: the table has no rows; see the sections split and clean of params.yaml")
    try:
        targets = encode_labels(table["labels"], label_set.labels, label_set.task)
    except UserError as error:
        raise UserError(f"{split}: {error}") from None
    weights = (
        table["weight"].to_numpy().astype(np.float64)
        if "weight" in table.column_names
        else np.ones(table.num_rows)
    )
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise UserError(
            f"{split}: column weight: expected numbers of 0 or more, not all 0; run `dvc repro -f`"
        )
    # A mean of 1 keeps learning rates and clipping comparable between weightings.
    factors = (weights / weights.mean()).astype(np.float32)
    names, tokens = table["id"].to_pylist(), encoder.encode(table["text"].to_pylist())
    empty = next((name for name, row in zip(names, tokens, strict=True) if not len(row)), None)
    if empty is not None:
        raise UserError(
            f"{split}: the text of id '{empty}' has no token, as the tokenizer of train.backbone adds no "
            "special ones; use a backbone whose tokenizer.json has a post_processor"
        )
    return Examples(names, tokens, targets, factors)


def _check_classes(training: Examples, label_set: LabelSet, class_weights: dict[str, float] | None) -> None:
    """Is there something to tell apart?"""
    if label_set.task == "multiclass" and len(np.unique(training.targets)) < 2:
        only = label_set.labels[int(training.targets[0])]
        raise UserError(f"train: all training rows have the one label '{only}'; there is nothing to learn")
    if label_set.task == "multilabel" and not training.targets.any():
        raise UserError("train: no training row has a label; there is nothing to learn")
    unknown = sorted(set(class_weights or ()) - set(label_set.labels))
    if unknown:
        raise UserError(f"balance.json: class_weights: '{unknown[0]}' is not in labels.json; run `dvc repro`")


def _say(accelerator: Accelerator, line: str) -> None:
    if accelerator.is_main_process:
        print(f"train: {line}", file=sys.stderr, flush=True)
