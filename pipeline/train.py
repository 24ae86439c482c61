"""Fine-tune the backbone on the balanced training split."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

from afina.files import read_json, write_csv
from afina.labels import read_label_set
from afina.params.base import load_section, load_seed
from afina.params.train import TrainParams
from afina.stage import stage, warn
from afina.table import read
from afina.training.checkpoint import clear_checkpoints
from afina.training.loop import HISTORY_COLUMNS, train
from afina.training.loss import double_corrections

CHECKPOINTS = Path("models/checkpoints")


@stage("train")
def main() -> str | None:
    params = load_section(TrainParams)
    warn("train", params.without_effect())
    balance = read_json(Path("data/balanced/balance.json"))
    augmented = balance.get("augmented_rows", 0) > 0
    warn("train", double_corrections(params, balance["strategy"], balance["class_weights"], augmented))
    result = train(
        params,
        train_table=read(Path("data/balanced/train.parquet")),
        validation_table=read(Path("data/splits/validation.parquet")),
        label_set=read_label_set(Path("data/clean/labels.json")),
        class_weights=balance["class_weights"],
        seed=load_seed(),
        classifier_folder=Path("models/classifier"),
        checkpoint_folder=CHECKPOINTS,
        adapted_folder=Path("models/adapted"),
    )
    if not result.is_main_process:
        return None
    write_csv(Path("reports/training.csv"), HISTORY_COLUMNS, map(astuple, result.history))
    clear_checkpoints(CHECKPOINTS)  # last: a run killed just now would have to train again
    return (
        f"best epoch {result.best_epoch} of {len(result.history)}, validation macro-F1 "
        f"{result.best_macro_f1:.3f}, {result.examples_per_second:,.0f} examples/s ({result.precision})"
    )


if __name__ == "__main__":
    main()
