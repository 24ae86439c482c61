"""Drift gauges of a running `afina serve`: they follow the texts it answers, and start anew with a model."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from afina.runtime.classifier import Classifier
from afina.runtime.drift import Sample, TokenCounter, build_reference
from afina.serving.monitor import DriftWatch
from live_server import Live, live
from toy_artifact import toy_metadata, write_toy

MIXED = ["agua agua", "luz luz luz", "pagos pagos", "agua agua agua"] * 100
PAYMENTS = ["pagos pagos pagos pagos"] * 32
SHARE = '{measure="label_share"}'


def write_referenced(path: Path, texts: Sequence[str]) -> Path:
    """A toy model whose reference is of these texts."""
    plain = Classifier(write_toy(path))
    counter = TokenCounter(toy_metadata().tokenizer, toy_metadata().cleaning)
    sample = Sample.of(plain.predict(texts), *counter.count(texts))
    reference = build_reference(sample, plain.labels, plain.task, plain.metadata.max_length)
    return write_toy(path, reference=reference.to_json())


def gauges(one: Live) -> dict[str, float]:
    """The gauges of the labels' shares, by the last part of their names."""
    lines = [line.split() for line in one.client.get("/metrics").text.splitlines() if SHARE in line]
    return {name.removeprefix("afina_drift_").removesuffix(SHARE): float(value) for name, value in lines}


def observe(one: Live, texts: Sequence[str], until: int) -> dict[str, float]:
    """Send texts again and again until so many are compared; those that come too fast are left out."""
    deadline = time.monotonic() + 30
    while (found := gauges(one))["texts"] < until:
        assert time.monotonic() < deadline, found
        one.predict(*texts)
    return found


def test_gauges_follow_the_texts_and_start_anew_with_a_model(tmp_path: Path) -> None:
    model = write_referenced(tmp_path / "model.onnx", MIXED)
    with live(model, reload_seconds=0.05) as one:
        assert gauges(one)["texts"] == 0
        same = observe(one, MIXED[:32], 128)
        other = observe(one, PAYMENTS, 640)

        before = one.store.current.sha256
        os.replace(write_referenced(tmp_path / "new.onnx", PAYMENTS), model)
        deadline = time.monotonic() + 30
        while one.store.current.sha256 == before and time.monotonic() < deadline:
            time.sleep(0.05)
        anew = gauges(one)
        after = observe(one, PAYMENTS, 128)

    assert (same["verdict"], other["verdict"]) == (0, 2)
    assert other["psi"] > 0.25 > same["psi"]
    assert other["jensen_shannon"] > same["jensen_shannon"]
    # What had drifted from the first reference is what the second one holds.
    assert anew["texts"] == 0
    assert after["verdict"] == 0


def test_a_model_without_a_reference_shows_none(tmp_path: Path) -> None:
    with live(write_toy(tmp_path / "model.onnx")) as one:
        one.predict("luz")
        assert "afina_drift" not in one.client.get("/metrics").text


def test_each_failure_is_logged_by_its_type_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(self: DriftWatch, texts: Sequence[str], *_: Any) -> None:
        raise ValueError(texts[0])

    def failures() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.getMessage() == "drift_failed"]

    monkeypatch.setattr(DriftWatch, "observe", stumble)
    with live(write_referenced(tmp_path / "model.onnx", MIXED)) as one:
        for count in (1, 2):
            one.predict("un secreto")
            deadline = time.monotonic() + 20
            while len(failures()) < count and time.monotonic() < deadline:
                time.sleep(0.02)
        monkeypatch.undo()
        observe(one, ["agua agua"], 1)

    assert [record.fields for record in failures()] == [{"reason": "ValueError"}] * 2  # type: ignore[attr-defined]
    assert not any("secreto" in str(vars(record)) for record in caplog.records)


def test_of_each_request_the_first_texts_are_compared(tmp_path: Path) -> None:
    with live(write_referenced(tmp_path / "model.onnx", MIXED)) as one:
        one.predict(*MIXED[:100])
        deadline = time.monotonic() + 30
        while not gauges(one)["texts"] and time.monotonic() < deadline:
            time.sleep(0.02)
        assert gauges(one)["texts"] == 32
