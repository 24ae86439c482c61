"""Drift of the texts that a server answers, for `/metrics`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import NamedTuple

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from afina.runtime.classifier import Prediction
from afina.runtime.drift import Drift, Monitor, Reference, TokenCounter
from afina.serving.model import Encoded, Served

log = logging.getLogger("afina.serve")

# Most texts of a request that are looked at: counting takes time beside the model.
MOST_TEXTS = 32
# The answers of so many seconds are counted together, the first so many texts of them: one text alone, and
# a thread woken for it, take as long as twenty.
GATHER_SECONDS, MOST_GATHERED = 0.1, 512
# Texts that the model does not read to their end are tokenised once more, whole: no more than so many
# characters of them at a time, which takes half a second.
MOST_CHARACTERS = 1 << 18
VERDICTS = {"too little data": -1.0, "ok": 0.0, "watch": 1.0, "drifted": 2.0}


class DriftWatch:
    """Compares the texts answered by one model with the reference in its file."""

    def __init__(self, model: Served, reference: Reference) -> None:
        self.model = model
        self._monitor = Monitor(reference)
        metadata = model.classifier.metadata
        self._counter = TokenCounter(metadata.tokenizer, metadata.cleaning)

    def observe(self, texts: Sequence[str], encoded: Encoded, predictions: Sequence[Prediction]) -> None:
        """Take note of raw texts, their token ids and predictions."""
        lengths, unknown = self._counter.count_ids(encoded.ids)
        cut = [row for row, truncated in enumerate(encoded.truncated) if truncated]
        if cut:
            lengths[cut], unknown[cut] = self._counter.count([texts[row] for row in cut])
        self._monitor.observe(predictions, lengths, unknown)

    def snapshot(self) -> Drift:
        """The last texts beside the reference."""
        return self._monitor.snapshot()


def watch(model: Served) -> DriftWatch | None:
    """A watch over a model's texts; None where its file has no reference."""
    return None if model.reference is None else DriftWatch(model, model.reference)


class _Answered(NamedTuple):
    """What there is to count of one request."""

    watch: DriftWatch
    texts: Sequence[str]
    encoded: Encoded
    predictions: Sequence[Prediction]


class DriftFeed:
    """Hands what was answered to its watch, in a thread of its own; used on one event loop.

    Where texts come faster than they are counted, some are left out.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "afina-drift")
        self._gathered: list[_Answered] = []
        self._texts = self._characters = 0
        self._task: asyncio.Task[None] | None = None

    def add(
        self, watch: DriftWatch, texts: Sequence[str], encoded: Encoded, predictions: Sequence[Prediction]
    ) -> None:
        """Have the first `MOST_TEXTS` of a request's texts counted soon."""
        most = min(MOST_TEXTS, MOST_GATHERED - self._texts, len(texts))
        kept: list[str] = []  # of those that are read whole the ids say all
        for text, cut in zip(texts[:most], encoded.truncated[:most], strict=True):
            if cut and self._characters + len(text) > MOST_CHARACTERS:
                break
            kept.append(text if cut else "")
            self._characters += len(kept[-1])
        most = len(kept)
        if not most:
            return
        first = Encoded(encoded.ids[:most], encoded.truncated[:most])
        self._gathered.append(_Answered(watch, kept, first, predictions[:most]))
        self._texts += most
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._hand_over())

    def stop(self) -> None:
        """Forget what is not counted yet; the thread ends with what it is at."""
        if self._task is not None:
            self._task.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _hand_over(self) -> None:
        while self._gathered:
            await asyncio.sleep(GATHER_SECONDS)
            gathered, self._gathered = self._gathered, []
            self._texts = self._characters = 0
            try:
                await asyncio.get_running_loop().run_in_executor(self._thread, _count, gathered)
            except Exception as error:
                # The type alone: a message could quote a text.
                log.error("drift_failed", extra={"fields": {"reason": type(error).__name__}})


def _count(gathered: Sequence[_Answered]) -> None:
    for watch, group in groupby(gathered, key=lambda one: one.watch):
        _, texts, encoded, predictions = zip(*group, strict=True)
        ids = [row for one in encoded for row in one.ids]
        truncated = [row for one in encoded for row in one.truncated]
        watch.observe(
            [text for some in texts for text in some],
            Encoded(ids, truncated),
            [prediction for some in predictions for prediction in some],
        )


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
