"""The training loop, straight down: from tables and parameters to a saved classifier and its history."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from afina.adaptation.store import AdaptedBackbone, read_adapted
from afina.errors import UserError
from afina.evaluation.metrics import predict, prediction_metrics
from afina.evaluation.thresholds import fit_thresholds
from afina.files import sha256
from afina.labels import LabelSet, Task, encode_labels
from afina.modeling.backbone import (
    check_max_length,
    check_token_ids,
    load_tokenizer,
    resolve_backbone,
    weights_sha256,
)
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
    code_version,
    fingerprint,
    load_best,
    load_checkpoint,
    save_best,
    save_checkpoint,
    writing,
)
from afina.training.engine import (
    Engine,
    Examples,
    NotFiniteError,
    Updated,
    fitting,
    freeze,
    layer_factor,
    shown_ids,
)
from afina.training.forward import (
    choose_attention,
    choose_device,
    choose_forward,
    choose_precision,
    word_embeddings,
)
from afina.training.lexical import cut, fit_on_examples, lexical_logits, new_token_pieces
from afina.training.lora import add_adapters, merge_adapters, peft_version
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


@dataclass(frozen=True)
class _Data:
    """Both splits, encoded, and what they are encoded for."""

    backbone: AdaptedBackbone
    tokenizer_json: str
    pad_token_id: int
    length: int  # tokens of a text that the classifier sees, whether its backbone does or not
    training: Examples
    validation: Examples
    lexical: LexicalScorer | None


@dataclass(frozen=True)
class _Run:
    """What stays the same from a run's first update to its last."""

    params: TrainParams
    label_set: LabelSet
    seed: int
    accelerator: Accelerator
    checkpoint_folder: Path
    key: str  # its fingerprint
    data: _Data
    model: TextClassifier
    engine: Engine
    objective: Objective
    updates_per_epoch: int


@dataclass
class _Pace:
    """What has been done since this process began, and when it last saved."""

    examples: int = 0
    seconds: float = 0.0
    saved_at: float = field(default_factory=time.monotonic)


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
    world = accelerator.num_processes
    if params.batch_size < world:
        raise UserError(f"train.batch_size: {params.batch_size} is less than the {world} processes; raise it")
    chosen = choose_precision(params.precision, accelerator.device)
    precision: Literal["fp32", "bf16"] = "bf16" if _on_main(accelerator, chosen == "bf16") else "fp32"
    peft_version(params)  # that it is not there is better known before the data is encoded than after
    data = _prepare(params, train_table, validation_table, label_set, class_weights, adapted_folder)
    if params.freeze != "none" and data.backbone.first_new_token is not None:
        _say(
            accelerator,
            f"warning: train.freeze {params.freeze} with adapt.vocabulary: the new tokens stay as they start "
            "out, from their pieces or the glossary, because no embedding is trained",
        )
    train_data = table_sha256(train_table)
    key = _key(
        params, seed, train_data, table_sha256(validation_table), label_set, class_weights, data, precision
    )
    updates_per_epoch = math.ceil(
        math.ceil(len(data.training.tokens) / params.batch_size) / params.gradient_accumulation
    )
    objective = _objective(params, data.training, label_set, class_weights).to(accelerator.device)
    model = _build_model(params, data.backbone, len(label_set.labels), seed, accelerator.device)
    _check_tokens(data, len(word_embeddings(model).weight))
    engine = _build_engine(
        params,
        model,
        data.backbone,
        label_set.task,
        objective,
        updates_per_epoch * params.epochs,
        precision,
        seed,
        accelerator,
    )
    run = _Run(
        params=params,
        label_set=label_set,
        seed=seed,
        accelerator=accelerator,
        checkpoint_folder=checkpoint_folder,
        key=key,
        data=data,
        model=model,
        engine=engine,
        objective=objective,
        updates_per_epoch=updates_per_epoch,
    )

    state, seen = _resume(run)
    pace = _Pace()
    with Progress("train", total=_examples_left(run, state), unit="examples") as progress:
        while not state.finished:
            rows = epoch_rows(
                params.sampler, data.training.targets, label_set.task, seed, state.epoch, params.epochs
            )
            _train_epoch(run, state, seen, rows, pace, progress)
            _judge(run, state, seen, rows)
            _end_epoch(params, state, seen)
            _checkpoint(run, state, seen)
            pace.saved_at = time.monotonic()

    if accelerator.is_main_process:
        _save(run, state, train_data, classifier_folder)
    accelerator.wait_for_everyone()
    return TrainingResult(
        history=state.history,
        best_epoch=state.best_epoch,
        best_macro_f1=state.best_macro_f1,
        examples_per_second=pace.examples / pace.seconds if pace.seconds else 0.0,
        precision=precision,
        device=accelerator.device.type,
        is_main_process=accelerator.is_main_process,
    )


def _prepare(
    params: TrainParams,
    train_table: pa.Table,
    validation_table: pa.Table,
    label_set: LabelSet,
    class_weights: dict[str, float] | None,
    adapted_folder: Path | None,
) -> _Data:
    """Find the backbone, encode both splits for it, fit the lexical model."""
    files = resolve_backbone(params.backbone, params.revision)
    check_max_length(files, params.max_length)
    backbone = (
        AdaptedBackbone(files, files.folder, None)
        if adapted_folder is None
        else read_adapted(adapted_folder, files)
    )
    tokenizer_json, pad_token_id = load_tokenizer(backbone.folder)
    length = max(params.max_length, params.lexical_length) if params.lexical else params.max_length
    encoder = Encoder(tokenizer_json, length, pad_token_id)
    if params.pooling != "mean" and not len(encoder.encode([""])[0]):
        raise UserError(
            f"train.pooling: {params.pooling} needs a token in every text, and the tokenizer of {files.name} "
            "adds none to an empty one; set it to mean"
        )
    training = _encode("train", train_table, label_set, encoder)
    validation = _encode("validation", validation_table, label_set, encoder)
    _check_classes(training, label_set, class_weights)
    lexical: LexicalScorer | None = None
    if params.lexical:
        pieces = new_token_pieces(files.folder, tokenizer_json, backbone.first_new_token)
        lexical = fit_on_examples(params, training, label_set, class_weights, tokenizer_json, pieces)
        # What the lexical model says of validation is added when an epoch is judged.
        validation = replace(validation, lexical=lexical_logits(lexical, validation.tokens, pad_token_id))
    return _Data(
        backbone=backbone,
        tokenizer_json=tokenizer_json,
        pad_token_id=pad_token_id,
        length=length,
        training=cut(training, params.max_length),
        validation=cut(validation, params.max_length),
        lexical=lexical,
    )


def _check_tokens(data: _Data, rows: int) -> None:
    """Has the embedding table, of so many rows, one for each token of the texts?"""
    texts = [*data.training.tokens, *data.validation.tokens]
    largest = max(data.pad_token_id, *(int(tokens.max()) for tokens in texts))
    check_token_ids(data.backbone.files.name, data.tokenizer_json, largest, rows)


def _key(
    params: TrainParams,
    seed: int,
    train_data: str,
    validation_data: str,
    label_set: LabelSet,
    class_weights: dict[str, float] | None,
    data: _Data,
    precision: str,
) -> str:
    """Fingerprint of the run: a checkpoint with another one is not of it."""
    return fingerprint(
        {
            "params": params.model_dump(exclude=OPERATIONAL),
            "seed": seed,
            "train": train_data,
            "validation": validation_data,
            "labels": [label_set.task, *label_set.labels],
            "class_weights": class_weights,
            "backbone": weights_sha256(data.backbone.folder),
            "backbone_config": sha256(data.backbone.folder / "config.json"),
            "tokenizer": hashlib.sha256(data.tokenizer_json.encode()).hexdigest(),
            "precision": precision,
            "code": code_version(),
            "peft": peft_version(params),
        }
    )


def _objective(
    params: TrainParams, training: Examples, label_set: LabelSet, class_weights: dict[str, float] | None
) -> Objective:
    labels, count = label_set.labels, len(training.names)
    counts = label_counts(training.targets, len(labels))
    return build_objective(params, labels, label_set.task, counts, count, class_weights)


def _build_model(
    params: TrainParams, source: AdaptedBackbone, label_count: int, seed: int, device: torch.device
) -> TextClassifier:
    """The classifier before its first update; what of it is trained requires a gradient.

    Raises:
        UserError: two passes are to agree, and nothing in the model makes them differ.
    """
    torch.manual_seed(seed)
    backbone = load_pretrained(source.folder, choose_attention(device), params.backbone_dropout)
    model = TextClassifier(
        backbone, label_count, params.pooling, params.head, params.activation, params.dropout
    )
    freeze(model, params.freeze)
    if params.lora_rank:
        add_adapters(model, params, source.first_new_token)
    if params.r_drop and not any(part.p for part in model.modules() if isinstance(part, nn.Dropout)):
        raise UserError(
            "train.r_drop: this backbone has no dropout of its own, so the two passes are the same; set "
            "train.dropout or train.backbone_dropout, or train.r_drop: 0"
        )
    return model.to(device)


def _build_engine(
    params: TrainParams,
    model: TextClassifier,
    source: AdaptedBackbone,
    task: Task,
    objective: Objective,
    updates: int,
    precision: str,
    seed: int,
    accelerator: Accelerator,
) -> Engine:
    """What updates the classifier, so many times in all."""
    device, first_new = accelerator.device, source.first_new_token
    return Engine(
        model,
        choose_forward(model, precision, device, params.max_length, params.gradient_checkpointing),
        params,
        task,
        np.array([schedule(number, updates, params.warmup) for number in range(updates)]),
        objective,
        seed,
        accelerator.process_index,
        accelerator.num_processes,
        lambda tensor: accelerator.reduce(tensor, reduction="sum"),
        row_factors(model, first_new, params),
        # Beside adapters the rows of known tokens stay, as all weights of the backbone do.
        first_new if params.lora_rank and first_new is not None else 0,
    )


def _resume(run: _Run) -> tuple[State, Tensor]:
    """Where an earlier run left off, and what the model has said of each example in the epoch under way."""
    targets, task = run.data.training.targets, run.label_set.task
    # For the training macro-F1.
    seen = torch.zeros(targets.shape, dtype=torch.int32 if task == "multiclass" else torch.float32)
    state = load_checkpoint(run.checkpoint_folder, run.key, run.model, run.engine, seen)
    if state is None:
        if run.accelerator.is_main_process:
            clear_checkpoints(run.checkpoint_folder)
        return State(), seen
    _say(run.accelerator, f"resumes from its checkpoint: epoch {state.epoch + 1}, update {state.update}")
    if not run.accelerator.is_main_process:  # later sums are over processes: count what is done once
        seen.zero_()
        state.loss_sum = state.factor_sum = 0.0
    return state, seen


def _examples_left(run: _Run, state: State) -> int:
    count, updates = len(run.data.training.tokens), run.updates_per_epoch
    return count * run.params.epochs - round(count * (state.epoch * updates + state.update) / updates)


def _train_epoch(
    run: _Run,
    state: State,
    seen: Tensor,
    rows: npt.NDArray[np.int64],
    pace: _Pace,
    progress: Progress,
) -> None:
    """Those updates of the epoch that are still to be done, with checkpoints between them.

    Args:
        state: counts the updates and sums up their losses.
        seen: takes what the model says of each example.
        rows: of the examples that the epoch holds.
        pace: counts the examples and their time.
    """
    params, training = run.params, run.data.training
    rank, world = run.accelerator.process_index, run.accelerator.num_processes
    lengths = np.array([len(tokens) for tokens in training.tokens])
    batches = [
        rows[batch] for batch in epoch_batches(lengths[rows], params.batch_size, run.seed, state.epoch)
    ]
    run.engine.forward.train(True)
    while state.update < run.updates_per_epoch:
        started = time.perf_counter()
        number = state.epoch * run.updates_per_epoch + state.update
        first = state.update * params.gradient_accumulation
        group = batches[first : first + params.gradient_accumulation]
        updated = _update(run.engine, training, group, number)
        _remember(seen, updated, group, run.label_set.task, rank, world)
        state.loss_sum += updated.loss_sum
        state.factor_sum += updated.weight_sum
        state.update += 1
        group_size = sum(len(batch) for batch in group)
        pace.examples += group_size
        pace.seconds += time.perf_counter() - started
        mean = state.loss_sum / max(state.factor_sum, 1e-12)
        progress.advance(group_size, f"epoch {state.epoch + 1}/{params.epochs} loss {mean:.3f}")
        if _on_main(run.accelerator, time.monotonic() - pace.saved_at >= params.checkpoint_seconds):
            _checkpoint(run, state, seen)
            pace.saved_at = time.monotonic()


def _judge(run: _Run, state: State, seen: Tensor, rows: npt.NDArray[np.int64]) -> None:
    """How good is the model after the epoch's updates? Its line of the history, its weights if the best."""
    labels, task = run.label_set.labels, run.label_set.task
    done = (state.epoch + 1) * run.updates_per_epoch
    sums = _total(run.accelerator, torch.tensor([state.loss_sum, state.factor_sum], dtype=torch.float64))
    drawn = np.unique(rows)
    targets, predicted = run.data.training.targets[drawn], _total(run.accelerator, seen).numpy()[drawn]
    with fitting("scoring the validation texts", "lower train.max_length"), run.engine.finished(done):
        scores = _validate(run.accelerator, run.engine, run.data.validation, run.objective, run.label_set)
        record = EpochRecord(
            epoch=state.epoch + 1,
            train_loss=round(float(sums[0] / sums[1]), 6),
            validation_loss=round(scores.loss, 6),
            train_macro_f1=round(macro_f1(targets, predicted, labels, task), 6),
            validation_macro_f1=round(scores.macro_f1, 6),
            learning_rate=run.params.learning_rate * float(run.engine.shares[done - 1]),
        )
        state.history.append(record)
        if scores.macro_f1 > state.best_macro_f1:
            state.improved_epoch = record.epoch
        if (scores.macro_f1, -scores.loss) > (state.best_macro_f1, -state.best_loss):
            state.best_epoch = record.epoch
            state.best_macro_f1, state.best_loss = scores.macro_f1, scores.loss
            state.mixture = scores.mixture
            if run.accelerator.is_main_process:
                save_best(run.checkpoint_folder, record.epoch, run.model)


def _end_epoch(params: TrainParams, state: State, seen: Tensor) -> None:
    """Count the epoch, and start the next one's sums at 0."""
    state.epoch += 1
    state.update, state.loss_sum, state.factor_sum = 0, 0.0, 0.0
    seen.zero_()
    waited = state.epoch - state.improved_epoch
    state.finished = state.epoch == params.epochs or (
        params.patience is not None and waited >= params.patience
    )


def _save(run: _Run, state: State, train_data: str, folder: Path) -> None:
    """Write the classifier with the best epoch's weights."""
    params, label_set, data, model = run.params, run.label_set, run.data, run.model
    with fitting("reading the best epoch's weights", "let other processes end, and run again"):
        model.load_state_dict(load_best(run.checkpoint_folder, state.best_epoch))
    if params.lora_rank:
        merge_adapters(model)
    if data.lexical is not None and state.mixture is not None:
        model.add_lexical(data.lexical, state.mixture, params.max_length)
    files = data.backbone.files
    config = ClassifierConfig(
        task=label_set.task,
        labels=list(label_set.labels),
        max_length=data.length,
        window=params.max_length,
        lexical=None if data.lexical is None else data.lexical.shape(),
        pooling=params.pooling,
        head=list(params.head),
        activation=params.activation,
        dropout=params.dropout,
        pad_token_id=data.pad_token_id,
        backbone=files.public_name,
        backbone_revision=files.revision,
        backbone_sha256=files.sha256,
        backbone_licence=files.licence,
        cleaning=label_set.cleaning,
        train_data_sha256=train_data,
    )
    backbone_config = model.backbone.config.to_diff_dict()
    with writing(folder):
        save_classifier(folder, model, backbone_config, data.tokenizer_json, config)


def row_factors(model: TextClassifier, first_new: int | None, params: TrainParams) -> Tensor | None:
    """Factor (V,) on each token's learning rate, which has the layers' decay already; None: 1 for all."""
    if first_new is None:
        return None
    factors = torch.ones(len(model.backbone.get_input_embeddings().weight))
    known = params.learning_rate * layer_factor("embeddings", model, params.layer_decay)
    factors[first_new:] = params.new_token_learning_rate / known
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
        shown = shown_ids([training.names[row] for row in error.rows])
        raise UserError(
            f"train: the {error.what} is not a number any more (batch of ids {shown}); lower "
            "train.learning_rate or train.max_grad_norm. The last checkpoint, where there is one, is kept"
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
    scores = _Scores(float(np.average(losses, weights=validation.weights)), score, mixture)
    # Processes that differ in a last digit would keep other epochs, and stop at other times.
    return _from_main(accelerator, scores)


def _checkpoint(run: _Run, state: State, seen: Tensor) -> None:
    """Save the run's state, sums over all processes taken, from the main process."""
    accelerator = run.accelerator
    sums = _total(accelerator, torch.tensor([state.loss_sum, state.factor_sum], dtype=torch.float64))
    total = replace(state, loss_sum=float(sums[0]), factor_sum=float(sums[1]))
    everywhere = _total(accelerator, seen)
    run.engine.split = _largest(accelerator, run.engine.split)  # all begin alike from this checkpoint
    if accelerator.is_main_process:
        save_checkpoint(run.checkpoint_folder, run.key, total, run.model, run.engine, everywhere)
    accelerator.wait_for_everyone()


def _total(accelerator: Accelerator, values: Tensor) -> Tensor:
    """Sum of a CPU tensor over all processes."""
    if accelerator.num_processes == 1:
        return values
    summed: Tensor = accelerator.reduce(values.clone().to(accelerator.device), reduction="sum")
    return summed.cpu()


def _from_main(accelerator: Accelerator, scores: _Scores) -> _Scores:
    """The main process's scores, on every process."""
    if accelerator.num_processes == 1:
        return scores
    numbers = [scores.loss, scores.macro_f1, *(scores.mixture or ())]
    known = torch.tensor(
        numbers if accelerator.is_main_process else [0.0] * len(numbers), dtype=torch.float64
    )
    loss, score, *mixture = _total(accelerator, known).tolist()
    return _Scores(loss, score, (mixture[0], mixture[1]) if mixture else None)


def _largest(accelerator: Accelerator, number: int) -> int:
    """The largest of the processes' numbers, on every process."""
    if accelerator.num_processes == 1:
        return number
    return int(accelerator.gather(torch.tensor([number], device=accelerator.device)).max())


def _on_main(accelerator: Accelerator, answer: bool) -> bool:
    """What the main process answers, on every process."""
    if accelerator.num_processes == 1:
        return answer
    return bool(_total(accelerator, torch.tensor(int(answer and accelerator.is_main_process))))


def _accelerator(device: Literal["auto", "cpu", "cuda"]) -> Accelerator:
    # Which GPU is a process's own, accelerate knows; that processors are to share the work, it must be told.
    accelerator = Accelerator(cpu=choose_device(device).type == "cpu", mixed_precision="no")
    started = os.environ.get("WORLD_SIZE", "1")
    if accelerator.num_processes == 1 and started != "1" and "LOCAL_RANK" in os.environ:
        raise UserError(
            f"train: started as one of {started} processes that do not find each other; "
            "run `torchrun --standalone --nproc_per_node 2 pipeline/train.py`, or one process"
        )
    return accelerator


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
