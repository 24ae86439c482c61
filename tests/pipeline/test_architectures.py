"""Backbones as they come from a hub, through all stages: each kind of tokenizer, with a lexical model."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from workspace import Project

from afina.evaluation.predictions import read_predictions
from afina.runtime.classifier import Classifier
from tiny import ARCHITECTURES, Architecture, build_tiny_backbone


# The tiny project itself has a BERT.
@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "bert"])
def test_another_backbone_is_adapted_trained_and_exported(
    architecture: Architecture, project: Project
) -> None:
    build_tiny_backbone(project.root / "models" / "local" / architecture, architecture)
    project.set(
        train__backbone=f"models/local/{architecture}",
        train__lexical=True,
        # No other vocabulary than WordPiece's can be extended.
        adapt__vocabulary="extend" if architecture == "distilbert" else "auto",
        adapt__epochs=1,
    )
    ran = project.dvc("repro", "export").ran
    assert {"adapt", "train", "evaluate", "export"} <= set(ran)

    adapted = json.loads((project.root / "models" / "adapted" / "adapted.json").read_text())
    assert (adapted["new_tokens"] > 0) == (architecture == "distilbert")
    assert len(adapted["masked_loss"]) == 1
    classifier = json.loads((project.root / "models" / "classifier" / "classifier.json").read_text())
    assert classifier["lexical"] is not None
    export = json.loads((project.root / "reports" / "export.json").read_text())
    assert export["parity"]["label_agreement"] == 1.0
    assert export["parity"]["max_abs_diff"] <= 1e-4

    # What the file answers is what was evaluated.
    rows = read_predictions(project.root / "reports" / "predictions.parquet").to_pylist()
    texts = {
        row["id"]: row["text"]
        for split in ("validation", "test")
        for row in pq.read_table(project.root / "data" / "splits" / f"{split}.parquet").to_pylist()
    }
    model = Classifier(project.root / "models" / "onnx" / "model.onnx")
    found = model.predict_proba([texts[row["id"]] for row in rows])
    np.testing.assert_allclose(found, [row["probabilities"] for row in rows], atol=1e-4)
    metrics = project.metrics()
    assert metrics["test"]["macro_f1"] > metrics["baseline"]["majority_macro_f1"] + 0.2
