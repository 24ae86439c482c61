"""Fine-tuning as a tutorial does it: transformers' Trainer and its defaults, on the splits of a run's folder.

    python benchmarks/plain_trainer.py FOLDER [--backbone NAME] [--epochs 3] [--max-length 128] [--seed 42]

FOLDER holds what the stages up to split have made. The model is the backbone, the mean of its token
vectors and one linear layer; AdamW at 5e-5 falling to 0, batches of 32, cross-entropy (binary where a text
has several labels), no class weights; a label of several is given from a probability of 0.5. For speed,
batches hold texts of similar length and bfloat16 is taken where afina takes it. Of the epochs, the best by
validation macro-F1 counts. Prints the scores as JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from training import LossModel

from afina import table
from afina.evaluation.metrics import classification_metrics, rounded
from afina.labels import LabelSet, encode_labels, read_label_set
from afina.modeling.backbone import DEFAULT_BACKBONE, resolve_backbone
from afina.modeling.classifier import TextClassifier, load_pretrained
from afina.training.forward import choose_precision

BATCH_SIZE, LEARNING_RATE = 32, 5e-5  # the rate is the Trainer's default
Examples = list[dict[str, Any]]


def main() -> None:
    """Parse the command line, train, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backbone", default=DEFAULT_BACKBONE, help="default: afina's own")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args()
    print(json.dumps(fine_tune(**vars(arguments))))


def fine_tune(folder: Path, backbone: str, epochs: int, max_length: int, seed: int) -> dict[str, Any]:
    """Train on a folder's splits; the scores of the best epoch on validation and test, and all epochs' F1."""
    from transformers import AutoTokenizer, set_seed

    label_set = read_label_set(folder / "data" / "clean" / "labels.json")
    files = resolve_backbone(backbone).folder
    tokenizer = AutoTokenizer.from_pretrained(str(files))
    parts = {
        name: examples(folder / "data" / "splits" / f"{name}.parquet", label_set, tokenizer, max_length)
        for name in ("train", "validation", "test")
    }
    set_seed(seed)  # before the head's first weights are drawn
    model = LossModel(TextClassifier(load_pretrained(files, "sdpa"), len(label_set.labels)))
    score = scorer(label_set)
    with tempfile.TemporaryDirectory() as checkpoints:
        trainer = make_trainer(model, tokenizer, parts, score, epochs, seed, checkpoints)
        trainer.train()  # loads the best epoch's weights in the end
        by_epoch = [entry["eval_macro_f1"] for entry in trainer.state.log_history if "eval_macro_f1" in entry]
        return {
            "validation_by_epoch": by_epoch,
            "validation": score(trainer.predict(parts["validation"])),
            "test": score(trainer.predict(parts["test"])),
            "test_rows": len(parts["test"]),
        }


def examples(path: Path, label_set: LabelSet, tokenizer: Any, max_length: int) -> Examples:
    """The Trainer's data set: token ids and targets of a split's rows."""
    rows = table.read(path, ["text", "labels"])
    encoded = tokenizer(rows["text"].to_pylist(), truncation=True, max_length=max_length)
    targets = encode_labels(rows["labels"], label_set.labels, label_set.task)
    if label_set.task == "multilabel":
        targets = targets.astype(np.float32)  # what binary cross-entropy takes
    return [
        {"input_ids": ids, "attention_mask": mask, "labels": target}
        for ids, mask, target in zip(
            encoded["input_ids"], encoded["attention_mask"], targets.tolist(), strict=True
        )
    ]


def scorer(label_set: LabelSet) -> Callable[[Any], dict[str, float]]:
    """From the Trainer's predictions (logits, targets) to afina's metrics."""

    def score(predictions: Any) -> dict[str, float]:
        logits = torch.from_numpy(np.asarray(predictions.predictions, dtype=np.float32))
        multiclass = label_set.task == "multiclass"
        probabilities = (logits.softmax(dim=1) if multiclass else logits.sigmoid()).numpy()
        targets: npt.NDArray[np.int64] = np.asarray(predictions.label_ids).astype(np.int64)
        return rounded(classification_metrics(targets, probabilities, label_set.labels, label_set.task))

    return score


def make_trainer(
    model: Any,
    tokenizer: Any,
    parts: dict[str, Examples],
    score: Callable[[Any], dict[str, float]],
    epochs: int,
    seed: int,
    checkpoints: str,
) -> Any:
    """The Trainer with its own learning rate, schedule and optimizer."""
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    arguments = TrainingArguments(
        checkpoints,
        num_train_epochs=epochs,
        learning_rate=LEARNING_RATE,
        train_sampling_strategy="group_by_length",
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=BATCH_SIZE,
        bf16=choose_precision("auto", device) == "bf16",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="macro_f1",
        seed=seed,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type != "cpu",
        report_to=[],
        logging_strategy="no",
        disable_tqdm=True,
    )
    return Trainer(
        model,
        arguments,
        DataCollatorWithPadding(tokenizer),
        parts["train"],
        parts["validation"],
        compute_metrics=score,
    )


if __name__ == "__main__":
    main()
