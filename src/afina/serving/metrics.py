"""What `/metrics` tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from afina.runtime.classifier import Prediction
from afina.serving.model import Served

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self, waiting: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._requests = Counter(
            "afina_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "afina_request_seconds",
            "Time from a request's headers to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._batch_texts = Histogram(
            "afina_batch_texts", "Texts in a batch.", buckets=_TEXTS, registry=self.registry
        )
        self._batch_seconds = Histogram(
            "afina_batch_seconds", "Time of the model for a batch.", buckets=_SECONDS, registry=self.registry
        )
        queue = Gauge("afina_queue_texts", "Texts that wait for the model.", registry=self.registry)
        queue.set_function(waiting)
        self._predicted = Counter(
            "afina_texts", "Texts by label assigned; no label: none.", ["label"], registry=self.registry
        )
        self._needs_person = Counter(
            "afina_texts_needing_person", "Texts the model was not sure enough of.", registry=self.registry
        )
        self._truncated = Counter(
            "afina_texts_truncated", "Texts longer than the model reads.", registry=self.registry
        )
        self._model = Gauge(
            "afina_model_info",
            "The model in use.",
            ["name", "precision", "sha256", "task", "afina_version"],
            registry=self.registry,
        )
        self._reloads = Counter(
            "afina_model_reloads", "Attempts to load a new file.", ["result"], registry=self.registry
        )

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, texts: int, seconds: float) -> None:
        """Count a batch that the model ran."""
        self._batch_texts.observe(texts)
        self._batch_seconds.observe(seconds)

    def predicted(self, predictions: Sequence[Prediction], truncated: Sequence[bool]) -> None:
        """Count what was predicted: a text with several labels counts for each."""
        for prediction in predictions:
            for score in prediction.labels:
                self._predicted.labels(score.label).inc()
            if not prediction.labels:
                self._predicted.labels("").inc()
        self._needs_person.inc(sum(prediction.needs_person for prediction in predictions))
        self._truncated.inc(sum(truncated))

    def model(self, served: Served) -> None:
        """Say which model is in use."""
        metadata = served.classifier.metadata
        self._model.clear()
        self._model.labels(
            served.name, metadata.precision, served.sha256, metadata.task, metadata.afina_version
        ).set(1)

    def reload(self, result: str) -> None:
        """Count an attempt to load a new file: ok or failed."""
        self._reloads.labels(result).inc()

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
