"""The gauges of drift that `/metrics` of `afina serve` shows."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from afina.runtime.classifier import Classifier
from afina.runtime.drift import Ints, Sample, TokenCounter, build_reference
from afina.serving.model import load_model
from afina.serving.monitor import DriftGauges, DriftWatch, watch
from toy_artifact import toy_metadata, write_toy

TEXTS = ["agua agua", "luz luz luz", "pagos pagos", "agua agua agua"] * 100


def _watched(path: Path) -> DriftWatch:
    plain = Classifier(write_toy(path))
    counter = TokenCounter(toy_metadata().tokenizer, toy_metadata().cleaning)
    sample = Sample.of(plain.predict(TEXTS), *counter.count(TEXTS))
    reference = build_reference(sample, plain.labels, plain.task, plain.metadata.max_length)
    found = watch(load_model(write_toy(path, reference=reference.to_json())))
    assert found is not None
    return found


def _observe(watching: DriftWatch, texts: list[str]) -> None:
    model = watching.model
    watching.observe(texts, model.encode(texts), model.classifier.predict(texts))


def _gauges(watching: DriftWatch | None) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(DriftGauges(lambda: watching))
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_a_model_without_a_reference_has_no_gauges(tmp_path: Path) -> None:
    assert watch(load_model(write_toy(tmp_path / "model.onnx"))) is None
    assert _gauges(None) == {}


def test_other_texts_show_as_drift_and_the_same_do_not(tmp_path: Path) -> None:
    same, other = _watched(tmp_path / "a.onnx"), _watched(tmp_path / "b.onnx")
    for start in range(0, 320, 32):
        texts = TEXTS[start : start + 32]
        _observe(same, texts)
        _observe(other, ["pagos pagos pagos pagos"] * 32)

    assert _gauges(same)['afina_drift_texts{measure="label_share"}'] == 320
    assert _gauges(same)['afina_drift_verdict{measure="label_share"}'] == 0
    assert _gauges(other)['afina_drift_verdict{measure="label_share"}'] == 2
    assert _gauges(other)['afina_drift_psi{measure="label_share"}'] > 0.25
    assert 0 < _gauges(other)['afina_drift_jensen_shannon{measure="label_share"}'] <= 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(["agua", "luz", "zzz", "él"]), max_size=20).map(" ".join), max_size=8)
)
def test_what_is_observed_is_what_the_whole_texts_hold(texts: list[str]) -> None:
    with TemporaryDirectory() as folder:
        watching = _watched(Path(folder) / "model.onnx")
    seen: dict[str, list[int]] = {}

    def observe(_: object, lengths: Ints, unknown: Ints) -> None:
        seen.update(lengths=lengths.tolist(), unknown=unknown.tolist())

    with patch.object(watching._monitor, "observe", observe):
        _observe(watching, texts)

    metadata = watching.model.classifier.metadata
    lengths, unknown = TokenCounter(metadata.tokenizer, metadata.cleaning).count(texts)
    assert seen == {"lengths": lengths.tolist(), "unknown": unknown.tolist()}
