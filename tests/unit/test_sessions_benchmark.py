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
@pytest.mark.parametrize("name", ["used", "sleeping", "spinning"])
def test_every_session_computes_the_same(name: str, binding: bool, sessions: Any, tmp_path: Path) -> None:
    model = write_toy(tmp_path / "model.onnx")
    classifier = Classifier(model)
    compute = sessions.computing(sessions.opened(model, name), classifier.metadata.pad_token_id, binding)
    found = compute(classifier.encode(TEXTS))
    np.testing.assert_allclose(found, classifier.predict_proba(TEXTS), atol=1e-6)


@pytest.mark.parametrize("name", ["openvino", "openvino_f32"])
def test_openvino_computes_the_same_where_it_is_installed(name: str, sessions: Any, tmp_path: Path) -> None:
    pytest.importorskip(sessions.OPENVINO_PACKAGE)
    model = write_toy(tmp_path / "model.onnx")
    classifier = Classifier(model)
    compute = sessions.computing(sessions.opened(model, name), classifier.metadata.pad_token_id, False)
    np.testing.assert_allclose(
        compute(classifier.encode(TEXTS)),
        classifier.predict_proba(TEXTS),
        atol=1e-5 if name.endswith("f32") else 0.01,
    )


def test_a_way_whose_package_is_absent_is_left_out(sessions: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "OPENVINO_PACKAGE", "no_such_package")
    assert sessions.ways() == [name for name in sessions.TITLES if not name.startswith("openvino")]
    monkeypatch.setattr(sessions, "OPENVINO_PACKAGE", "json")
    assert sessions.ways() == list(sessions.TITLES)


def test_threads_spin_as_the_way_says(sessions: Any, tmp_path: Path) -> None:
    model = write_toy(tmp_path / "model.onnx")
    found = {}
    for name in sessions.TITLES.keys() - sessions.OPENVINO.keys():
        options = sessions.opened(model, name).get_session_options()
        found[name] = [
            options.get_session_config_entry(key) for key in (sessions.SPINNING, sessions.DURATION)
        ]
    assert found["sleeping"][0] == "0"
    assert found["spinning"] == ["1", "3000"]
    assert all(one == ["1", "20"] for name, one in found.items() if name not in sessions.THREADS)


def test_a_row_has_medians_agreement_and_the_largest_difference(sessions: Any) -> None:
    reference = np.array([[0.6, 0.4], [0.3, 0.7], [0.2, 0.8], [0.9, 0.1]])
    other = np.array([[0.45, 0.55], [0.3, 0.7], [0.2, 0.8], [0.7, 0.3]])
    found = {
        "fp32": sessions.Measured([2.0, 1.0, 4.0], [0.004, 0.002, 0.003], reference),
        "used": sessions.Measured([0.5], [0.001], other),
    }
    assert sessions.table(found, 4).splitlines()[2:] == [
        "| model.onnx, as used | 2.0 | 3.00 | 100.0% | 0 |",
        "| model.int8.onnx, as used | 8.0 | 1.00 | 75.0% | 0.2 |",
    ]


def test_the_last_line_sets_each_way_beside_the_one_used(sessions: Any) -> None:
    found = {name: sessions.Measured([2.0], [0.004]) for name in sessions.TITLES}
    found["sleeping"] = sessions.Measured([1.0, 1.0, 9.0], [0.006])
    assert sessions.closing(found) == (
        "sessions: sleeping=2.00 spinning=1.00 io_binding=1.00 static=1.00 lanes=1.00 "
        "openvino=1.00 openvino_f32=1.00 "
        "sleeping_ms=1.50 spinning_ms=1.00 openvino_ms=1.00 openvino_f32_ms=1.00"
    )
