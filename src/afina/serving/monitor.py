"""Drift of the texts that a server answers, for `/metrics`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from afina.runtime.classifier import Prediction
from afina.runtime.drift import Drift, Monitor, Reference, TokenCounter
from afina.serving.model import Encoded, Served

# Most texts of a request that are looked at: counting takes time beside the model.
MOST_TEXTS = 32
VERDICTS = {"too little data": -1.0, "ok": 0.0, "watch": 1.0, "drifted": 2.0}


class DriftWatch:
    """Compares the texts answered by one model with the reference in its file."""

    def __init__(self, model: Served, reference: Reference) -> None:
        self.model = model
        self._monitor = Monitor(reference)
        metadata = model.classifier.metadata
        self._counter = TokenCounter(metadata.tokenizer, metadata.cleaning)

    def observe(self, texts: Sequence[str], encoded: Encoded, predictions: Sequence[Prediction]) -> None:
        """Take note of raw texts, their token ids and predictions, the first `MOST_TEXTS` of them."""
        lengths, unknown = self._counter.count_ids(encoded.ids[:MOST_TEXTS])
        cut = [row for row, truncated in enumerate(encoded.truncated[:MOST_TEXTS]) if truncated]
        if cut:
            lengths[cut], unknown[cut] = self._counter.count([texts[row] for row in cut])
        self._monitor.observe(predictions[:MOST_TEXTS], lengths, unknown)

    def snapshot(self) -> Drift:
        """The last texts beside the reference."""
        return self._monitor.snapshot()


def watch(model: Served) -> DriftWatch | None:
    """A watch over a model's texts; None where its file has no reference."""
    return None if model.reference is None else DriftWatch(model, model.reference)


class DriftGauges(Collector):
    """Gauges of the drift that the watch in use sees; none where there is no watch."""

    def __init__(self, current: Callable[[], DriftWatch | None]) -> None:
        self._current = current

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges, one value a measure."""
        watching = self._current()
        if watching is None:
            return
        texts = GaugeMetricFamily("afina_drift_texts", "Texts compared.", labels=["measure"])
        psi = GaugeMetricFamily("afina_drift_psi", "Population stability index.", labels=["measure"])
        distance = GaugeMetricFamily("afina_drift_jensen_shannon", "Distance, 0 to 1.", labels=["measure"])
        verdict = GaugeMetricFamily(
            "afina_drift_verdict",
            "-1 too little data, 0 ok, 1 watch, 2 drifted.",
            labels=["measure"],
        )
        for one in watching.snapshot().measures:
            texts.add_metric([one.measure], one.new_texts)
            psi.add_metric([one.measure], one.psi)
            distance.add_metric([one.measure], one.jensen_shannon)
            verdict.add_metric([one.measure], VERDICTS[one.verdict])
        yield from (texts, psi, distance, verdict)
