"""Score the majority and TF-IDF with a linear model on the split that the fine-tuned model is scored on."""

from __future__ import annotations

from pathlib import Path

from afina import table
from afina.evaluation.baselines import Texts, score_baselines
from afina.evaluation.predictions import rival_table, write_predictions
from afina.files import write_json
from afina.labels import LabelSet, encode_labels, read_label_set
from afina.params.base import load_section, load_seed
from afina.params.baseline import BaselineParams
from afina.stage import stage

LABELS = Path("data/clean/labels.json")
SPLITS = Path("data/splits")
BASELINE = Path("reports/baseline.json")
PREDICTIONS = Path("data/baseline/predictions.parquet")


def read_split(name: str, label_set: LabelSet) -> Texts:
    rows = table.read(SPLITS / f"{name}.parquet", ["text", "labels"])
    return Texts(rows["text"].to_pylist(), encode_labels(rows["labels"], label_set.labels, label_set.task))


@stage("baseline")
def main() -> str:
    params, seed = load_section(BaselineParams), load_seed()
    label_set = read_label_set(LABELS)
    train, validation, test = (read_split(name, label_set) for name in ("train", "validation", "test"))
    found = score_baselines(train, validation, test, label_set, params, seed)
    report, ids = found.report, table.read(SPLITS / "test.parquet", ["id"])["id"].to_pylist()
    write_predictions(rival_table(ids, found.predicted, label_set.labels), PREDICTIONS)
    write_json(BASELINE, report)
    second = "accuracy" if label_set.task == "multiclass" else "micro_f1"
    return (
        f"TF-IDF macro-F1 {report['tfidf']['macro_f1']:.3f}, {second.replace('_', '-')} "
        f"{report['tfidf'][second]:.3f}; majority macro-F1 {report['majority']['macro_f1']:.3f} "
        f"on {len(test.texts):,} test rows"
    )


if __name__ == "__main__":
    main()
