"""The reference that a model file carries is its own predictions of the rows it was checked on."""

from __future__ import annotations

import json
from typing import Literal

import numpy as np
import pytest

from afina.evaluation.predictions import prediction_table
from afina.export.reference import held_out_reference
from afina.labels import LabelSet
from afina.runtime.classifier import Classifier
from afina.runtime.drift import Reference, Sample, TokenCounter, build_reference
from toy_artifact import LABELS, toy_metadata, write_toy

RAW = ["agua agua", "LUZ", "pagos  pagos luz", "nada", "agua luz"] * 12


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_it_is_what_the_runtime_says_of_the_same_texts(
    task: Literal["multiclass", "multilabel"], tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = Classifier(write_toy(tmp_path_factory.mktemp("toy") / "model.onnx", task))
    probabilities = model.predict_proba(RAW)
    predictions = model.decide(probabilities)
    places = {label: place for place, label in enumerate(LABELS)}
    if task == "multiclass":
        predicted = np.array([places[one.labels[0].label] for one in predictions])
    else:
        predicted = np.array(
            [[label in [s.label for s in one.labels] for label in LABELS] for one in predictions]
        )
        predicted = predicted.astype(np.int64)
    label_set = LabelSet(task, LABELS, dict.fromkeys(LABELS, 1))
    half = len(RAW) // 2
    ids = [f"{row:03d}" for row in range(len(RAW))]
    parts = {
        name: (ids[rows], predicted[rows], predicted[rows], probabilities[rows].astype(np.float64))
        for name, rows in (("test", slice(0, half)), ("validation", slice(half, None)))
    }
    metadata = toy_metadata(task)
    found = held_out_reference(prediction_table(label_set, parts), RAW, metadata)
    counted = TokenCounter(metadata.tokenizer, metadata.cleaning).count(RAW)
    expected = build_reference(Sample.of(predictions, *counted), LABELS, task, metadata.max_length)
    assert found == expected.to_json()
    assert Reference.from_json(json.loads(json.dumps(found))).texts == len(RAW)
    assert not any(text in json.dumps(found, ensure_ascii=False) for text in RAW if " " in text)
