"""What `benchmarks/sessions.py` runs and what it makes of its turns; nothing is timed here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from afina.runtime.classifier import Classifier
from stage_script import benchmark
from toy_artifact import write_toy

TEXTS = ["agua agua luz", "", "luz", "pagos pagos agua"]


@pytest.fixture(scope="module")
def sessions() -> Iterator[Any]:
    with benchmark("sessions") as module:
        yield module


@pytest.mark.parametrize("binding", [False, True])
@pytest.mark.parametrize("spinning", [False, True])
def test_every_session_computes_the_same(
    spinning: bool, binding: bool, sessions: Any, tmp_path: Path
) -> None:
    model = write_toy(tmp_path / "model.onnx")
    classifier = Classifier(model)
    compute = sessions.computing(sessions.opened(model, spinning), classifier.metadata.pad_token_id, binding)
    found = compute(classifier.encode(TEXTS))
    np.testing.assert_allclose(found, classifier.predict_proba(TEXTS), atol=1e-6)


def test_threads_spin_only_where_asked(sessions: Any, tmp_path: Path) -> None:
    model = write_toy(tmp_path / "model.onnx")
    for spinning in (False, True):
        options = sessions.opened(model, spinning).get_session_options()
        assert options.get_session_config_entry(sessions.SPINNING) == str(int(spinning))


def test_a_row_has_medians_and_agreement(sessions: Any) -> None:
    found = {
        "fp32": sessions.Measured([2.0, 1.0, 4.0], [0.004, 0.002, 0.003], np.array([0, 1, 2, 1])),
        "used": sessions.Measured([0.5], [0.001], np.array([0, 1, 2, 2])),
    }
    assert sessions.table(found, 4).splitlines()[2:] == [
        "| model.onnx, as used | 2.0 | 3.00 | 100.0% |",
        "| model.int8.onnx, as used | 8.0 | 1.00 | 75.0% |",
    ]
