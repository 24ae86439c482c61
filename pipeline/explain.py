"""Explain some predictions on test messages: what each word says for the predicted label, or against it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from afina import table
from afina.evaluation.predictions import read_predictions
from afina.evaluation.tables import confident_mistakes
from afina.explanation.sample import choose_rows
from afina.files import write_json
from afina.labels import encode_labels, read_label_set
from afina.params.base import load_section, load_seed
from afina.params.explain import ExplainParams
from afina.stage import stage, warn

LABELS = Path("data/clean/labels.json")
TEST = Path("data/splits/test.parquet")
CLASSIFIER = Path("models/classifier")
PREDICTIONS = Path("reports/predictions.parquet")
EXPLANATIONS = Path("data/evaluated/explanations.json")

LARGE_ERROR = 0.05  # what the method's authors advise to stay below


def explain(params: ExplainParams, seed: int) -> list[dict[str, Any]]:
    """The explanations of a sample of test messages, in the order in which they were chosen."""
    # Needs torch, which a run without explanations does not.
    from afina.explanation.attribution import explain_texts

    label_set = read_label_set(LABELS)
    labels, task = label_set.labels, label_set.task
    rows = read_predictions(PREDICTIONS, label_set)
    rows = rows.filter(pc.equal(rows["split"], "test")).combine_chunks()
    ids = rows["id"].to_pylist()
    texts = table.read_texts(TEST, ids)
    probabilities = np.asarray(pc.list_flatten(rows["probabilities"])).reshape(-1, len(labels))
    truth, predicted = (encode_labels(rows[name], labels, task) for name in ("labels", "predicted"))
    row_of = {name: row for row, name in enumerate(ids)}
    mistakes = confident_mistakes(ids, texts, truth, predicted, probabilities, labels, params.samples)
    chosen = choose_rows(
        [row_of[mistake.id] for mistake in mistakes], len(ids), params.samples, params.choose, seed
    )

    # Of several labels, or none, the most probable one is explained, assigned or not.
    targets = predicted if task == "multiclass" else probabilities.argmax(axis=1)
    found = explain_texts(
        CLASSIFIER,
        label_set,
        [texts[one.row] for one in chosen],
        [int(targets[one.row]) for one in chosen],
        params.steps,
    )
    return [
        {
            "id": ids[one.row],
            "text": texts[one.row],
            "actual": rows["labels"][one.row].as_py(),
            "predicted": labels[targets[one.row]],
            "probability": round(float(probabilities[one.row, targets[one.row]]), 4),
            "why": one.why,
            "error": round(explanation.error, 4),
            "words": [
                {"start": word.start, "end": word.end, "score": round(word.score, 4) + 0.0}
                for word in explanation.words
            ],
        }
        for one, explanation in zip(chosen, found, strict=True)
    ]


@stage("explain")
def main() -> str:
    params, seed = load_section(ExplainParams), load_seed()
    explanations = explain(params, seed) if params.samples else []
    write_json(
        EXPLANATIONS,
        {"method": "integrated gradients", "steps": params.steps, "explanations": explanations},
    )
    if not params.samples:
        return "nothing is explained, as explain.samples is 0"
    return summary(explanations)


def summary(explanations: list[dict[str, Any]]) -> str:
    """What was explained, and how exactly; on large errors a warning."""
    mistakes = sum(one["why"] == "mistake" for one in explanations)
    errors = [one["error"] for one in explanations]
    large = sum(error > LARGE_ERROR for error in errors)
    if large:
        line = (
            f"the scores of {large:,} of {len(errors):,} messages miss the change of the logit by more than "
            f"{LARGE_ERROR:.0%}; raise explain.steps"
        )
        warn("explain", [line])
    parts = f"{mistakes:,} confident mistakes and {len(errors) - mistakes:,} messages drawn at random"
    return f"{parts}, largest error {max(errors, default=0):.1%}"


if __name__ == "__main__":
    main()
