"""What the model said of the texts it was checked on, counted, for new texts to be compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from afina.runtime.confidence import row_confidence
from afina.runtime.drift import Sample, TokenCounter, build_reference
from afina.runtime.metadata import ArtifactMetadata


def held_out_reference(
    predictions: pa.Table, raw: Sequence[str], metadata: ArtifactMetadata
) -> dict[str, Any]:
    """Count the predictions of the rows that the model was not trained on, validation and test.

    Those it was trained on would not do: it is surer of them than it will be of any other text.

    Args:
        predictions: n rows, at least 1, in `afina.evaluation.predictions.SCHEMA`.
        raw: their texts before cleaning, in the same order.
        metadata: whose labels, tokenizer and cleaning steps count.

    Returns:
        Histograms as JSON, a few kB, without any text.
    """
    labels = metadata.labels
    assigned = [tuple(row) for row in predictions["predicted"].to_pylist()]
    probabilities = np.array(predictions["probabilities"].to_pylist(), dtype=np.float32)
    places = {label: place for place, label in enumerate(labels)}
    predicted = np.zeros(probabilities.shape, dtype=np.int64)
    for row, found in enumerate(assigned):
        predicted[row, [places[label] for label in found]] = 1
    decided = predicted.argmax(axis=1) if metadata.task == "multiclass" else predicted
    lengths, unknown = TokenCounter(metadata.tokenizer, metadata.cleaning).count(raw)
    sample = Sample(assigned, row_confidence(probabilities, decided), lengths, unknown)
    return build_reference(sample, labels, metadata.task, metadata.max_length).to_json()
