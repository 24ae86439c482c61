"""Stage adapt: the backbone adapted to the training texts, labels aside -> models/adapted/."""

from __future__ import annotations

import shutil
from pathlib import Path

from afina import table
from afina.adaptation.adapt import adapt_backbone
from afina.adaptation.texts import read_unlabelled
from afina.labels import read_label_set
from afina.modeling.backbone import resolve_backbone
from afina.params.adapt import AdaptParams
from afina.params.base import load_section, load_seed
from afina.params.train import TrainParams
from afina.stage import note_unwatched, stage, warn

WATCHED = Path("data/source")
TRAIN = Path("data/splits/train.parquet")
LABELS = Path("data/clean/labels.json")
ADAPTED = Path("models/adapted")
CHECKPOINTS = Path("models/checkpoints/adapt")


def read_texts(params: AdaptParams) -> tuple[list[str], list[str]]:
    """The texts of the training split, and those without labels; what each is called."""
    rows = table.read(TRAIN, ["id", "text"])
    note_unwatched("adapt", params.files().values(), WATCHED)
    unlabelled = read_unlabelled(params.unlabelled, Path(), read_label_set(LABELS).cleaning["steps"])
    names = [f"adapt.unlabelled {number}" for number in range(1, len(unlabelled) + 1)]
    return rows["text"].to_pylist() + unlabelled, rows["id"].to_pylist() + names


@stage("adapt")
def main() -> str:
    params, trained = load_section(AdaptParams), load_section(TrainParams)
    warn("adapt", params.without_effect())
    files = resolve_backbone(trained.backbone, trained.revision)
    texts, names = read_texts(params) if params.active else ([], [])
    done = adapt_backbone(params, trained, files, texts, load_seed(), ADAPTED, CHECKPOINTS, names)
    shutil.rmtree(CHECKPOINTS, ignore_errors=True)  # last: a run killed just now would have to train again
    if not done.changed:
        return f"{done.backbone} is left as it is"
    parts = [f"{done.backbone} adapted to {done.texts:,} texts"]
    if done.new_tokens:
        found = f"{done.translated:,} of them and {done.redefined:,} known ones start from the glossary"
        parts.append(f"{done.new_tokens:,} new tokens" + ("" if params.glossary is None else f" ({found})"))
    if done.masked_loss:
        parts.append(
            f"masked loss {done.masked_loss[0]:.3f} in the first epoch, {done.masked_loss[-1]:.3f} in "
            f"the last of {len(done.masked_loss)}"
        )
    return ", ".join(parts)


if __name__ == "__main__":
    main()
