"""The gauges of drift that `/metrics` of `afina serve` shows."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from afina.runtime.classifier import Classifier, Prediction
from afina.runtime.drift import Ints, Sample, TokenCounter, build_reference
from afina.serving import monitor
from afina.serving.model import Encoded, load_model
from afina.serving.monitor import DriftFeed, DriftGauges, DriftWatch, watch
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


class Counted(DriftWatch):
    """A watch that only notes what it was given."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.hold = threading.Event()
        self.hold.set()

    def observe(self, texts: Sequence[str], encoded: Any, predictions: Sequence[Any]) -> None:
        assert self.hold.wait(20)
        assert len(texts) == len(encoded.ids) == len(encoded.truncated) == len(predictions)
        self.calls.append(list(texts))


def _add(feed: DriftFeed, watching: DriftWatch, texts: list[str], cut: bool = True) -> None:
    encoded = Encoded([np.zeros(3, dtype=np.int64) for _ in texts], [cut for _ in texts])
    feed.add(watching, texts, encoded, [Prediction((), (), 0.5, False) for _ in texts])


async def _until(calls: list[list[str]], count: int) -> None:
    async with asyncio.timeout(20):
        while len(calls) < count:
            await asyncio.sleep(0.005)


def test_the_requests_of_a_moment_are_counted_together_each_by_its_own_watch() -> None:
    first, second = Counted(), Counted()

    async def run() -> None:
        feed = DriftFeed()
        for number in range(3):
            _add(feed, first, [f"{number} {text}" for text in range(monitor.MOST_TEXTS + 8)])
        _add(feed, second, ["nuevo"])
        await _until(second.calls, 1)
        # There is nothing to hand over now: the next text has to begin anew.
        await asyncio.sleep(0.05)
        _add(feed, second, ["otro"])
        await _until(second.calls, 2)
        feed.stop()

    asyncio.run(run())

    expected = [f"{number} {text}" for number in range(3) for text in range(monitor.MOST_TEXTS)]
    assert first.calls == [expected]
    assert second.calls == [["nuevo"], ["otro"]]


def test_texts_that_come_faster_than_they_are_counted_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(monitor, "MOST_GATHERED", 40)
    watching = Counted()
    watching.hold.clear()

    async def run() -> None:
        feed = DriftFeed()
        _add(feed, watching, ["uno"])
        await asyncio.sleep(3 * monitor.GATHER_SECONDS)  # by now it is being counted, and takes long
        for _ in range(5):
            _add(feed, watching, ["dos"] * 30)
        watching.hold.set()
        await _until(watching.calls, 2)
        _add(feed, watching, ["tres"])
        await _until(watching.calls, 3)
        feed.stop()

    asyncio.run(run())

    assert watching.calls == [["uno"], ["dos"] * 40, ["tres"]]


def test_of_texts_that_are_cut_few_characters_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "MOST_CHARACTERS", 10)
    watching = Counted()

    async def run() -> None:
        feed = DriftFeed()
        _add(feed, watching, ["a" * 50] * 3, cut=False)  # the ids say all of them
        _add(feed, watching, ["bbbb", "cccc", "dddd"])
        _add(feed, watching, ["eeee"])
        _add(feed, watching, ["f"])
        await _until(watching.calls, 1)
        _add(feed, watching, ["gggg"])  # a moment later there is room again
        await _until(watching.calls, 2)
        feed.stop()

    asyncio.run(run())

    assert watching.calls == [["", "", "", "bbbb", "cccc", "f"], ["gggg"]]


def test_a_feed_that_stops_ends_its_thread_and_counts_no_more() -> None:
    watching = Counted()

    async def run() -> None:
        feed = DriftFeed()
        _add(feed, watching, ["uno"])
        feed.stop()
        await asyncio.sleep(2 * monitor.GATHER_SECONDS)

    asyncio.run(run())

    assert watching.calls == []
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(
        thread.name.startswith("afina-drift") for thread in threading.enumerate()
    ):
        time.sleep(0.01)
    assert not any(thread.name.startswith("afina-drift") for thread in threading.enumerate())
