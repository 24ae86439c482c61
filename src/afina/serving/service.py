"""From texts to predictions for the requests of one server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Receive

from afina.runtime.classifier import Prediction
from afina.runtime.encoding import Ids
from afina.runtime.text import SUSPECT
from afina.serving.arrivals import Arrivals
from afina.serving.batching import Batcher, QueueFullError
from afina.serving.errors import ApiError
from afina.serving.giving_way import Reading, Room
from afina.serving.metrics import Metrics
from afina.serving.model import Encoded, ModelStore, Served
from afina.serving.monitor import DriftFeed, DriftGauges, watch
from afina.serving.settings import ServeSettings

T = TypeVar("T")

# Fewer predictions, and one text of at most so many characters, are made and tokenised on the event loop:
# handing them to a thread takes longer.
_INLINE, _INLINE_CHARACTERS = 16, 1024
# Cleaning a text with one of these may take pass after pass; such a text never holds up the event loop.
_LABORIOUS = re.compile(f"[<&\\x00-\\x1f\\x7f]|{SUSPECT}")
# Texts, and characters, that are cleaned and tokenised before the next request's turn.
_TURN_TEXTS, _TURN_CHARACTERS = 64, 1 << 16
# How often a file looks whether there is room in the queue.
_PATIENCE = 0.05
# Seconds for which a JSON body arrives, however slowly, before it gives way to another.
BODY_PATIENCE = 2.0


class ClientGoneError(Exception):
    """Whoever asked has closed the connection."""


class Service:
    """The model in use, the queue, the counters."""

    def __init__(self, settings: ServeSettings, store: ModelStore) -> None:
        self.settings, self.store = settings, store
        self.batcher = Batcher(settings.token_budget, settings.queue_texts, self._ran_batch)
        self.metrics = Metrics(lambda: self.batcher.waiting)
        self.metrics.model(store.current)
        self.monitor = watch(store.current)
        self.metrics.registry.register(DriftGauges(lambda: self.monitor))
        self.text_threads = ThreadPoolExecutor(2, "afina-texts")
        self.file_threads = ThreadPoolExecutor(settings.max_uploads, "afina-files")
        self.drift_feed = DriftFeed()
        self.arrivals = Arrivals(settings)
        self.bodies = Room(settings.max_held_bytes, None, BODY_PATIENCE, lambda: ApiError.of_status(503))

    def _ran_batch(self, texts: int, seconds: float) -> None:
        self.metrics.batch(texts, seconds)

    async def predict(
        self,
        model: Served,
        texts: Sequence[str],
        top_k: int,
        gone: asyncio.Task[None],
        thresholds: Mapping[str, float] | None = None,
        patient: bool = False,
    ) -> tuple[list[Prediction], list[bool]]:
        """Predictions of texts, and which of them were cut off.

        Args:
            gone: ends when the client closes the connection; its texts then leave the queue.
            thresholds: multilabel: take the place of the model's, for the labels named.
            patient: wait for room in the queue and for the answer as long as it takes.

        Raises:
            ApiError: 429 the queue is full, 503 no answer in time.
            ClientGoneError: ``gone`` ended first.
        """
        while True:
            try:
                self.batcher.reserve(len(texts))
                break
            except QueueFullError:
                if not patient:
                    raise ApiError(429, "queue_full", "too many texts are waiting; try again later") from None
            await asyncio.wait({gone}, timeout=_PATIENCE)
            if gone.done():
                raise ClientGoneError
        try:
            async with asyncio.timeout(None if patient else self.settings.request_seconds):
                return await self._answer(model, texts, top_k, gone, thresholds)
        except TimeoutError:
            seconds = f"{self.settings.request_seconds:g}"
            raise ApiError(503, "timeout", f"no answer within {seconds} s; try again later") from None

    async def _answer(
        self,
        model: Served,
        texts: Sequence[str],
        top_k: int,
        gone: asyncio.Task[None],
        thresholds: Mapping[str, float] | None,
    ) -> tuple[list[Prediction], list[bool]]:
        try:
            encoded = await self._encode(model, texts)
        except BaseException:
            self.batcher.release(len(texts))
            raise
        job = self.batcher.submit(model, encoded.ids)
        try:
            ends: set[asyncio.Future[Any]] = {job.future, gone}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not job.future.done():
                raise ClientGoneError
            probabilities = job.future.result()
        finally:
            self.batcher.drop(job)
        if len(texts) < _INLINE:
            predictions = model.decide(probabilities, top_k, thresholds)
        else:
            predictions = await self.in_thread(model.decide, probabilities, top_k, thresholds)
        self.metrics.predicted(predictions, encoded.truncated)
        monitor = self.monitor
        if monitor is not None and monitor.model is model and not thresholds:
            self.drift_feed.add(monitor, texts, encoded, predictions)
        return predictions, encoded.truncated

    async def _encode(self, model: Served, texts: Sequence[str]) -> Encoded:
        """Token ids of texts, a few at a time: between them others have their turn."""
        if len(texts) == 1 and _is_plain(texts[0]):
            return model.encode(texts)
        ids: list[Ids] = []
        truncated: list[bool] = []
        for part in turns(texts):
            encoded = await self.in_thread(model.encode, part)
            ids += encoded.ids
            truncated += encoded.truncated
        return Encoded(ids, truncated)

    async def in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function in one of the threads for texts."""
        return await asyncio.get_running_loop().run_in_executor(self.text_threads, function, *arguments)

    async def in_file_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function in one of the threads for files, which may take its time."""
        return await asyncio.get_running_loop().run_in_executor(self.file_threads, function, *arguments)

    async def read_body(self, request: Request, reading: Reading) -> bytes:
        """The body of a request; its bytes count as held until ``reading``, one of `bodies`, is released.

        Raises:
            ApiError: 408 it arrived slowly and gave way, 503 the requests of all clients together hold too
                much.
        """
        counted = Request(request.scope, reading.counted(request.receive))
        # No variable holds the parts: with the error they would live on until its answer is sent.
        return b"".join([part async for part in counted.stream()])

    @asynccontextmanager
    async def gone_watch(self, receive: Receive) -> AsyncIterator[asyncio.Task[None]]:
        """A task that ends when the client closes the connection; the body has to be read before."""
        gone = asyncio.create_task(_until_gone(receive))
        try:
            yield gone
        finally:
            gone.cancel()

    async def unless_gone(self, work: Awaitable[T], gone: asyncio.Task[None]) -> T:
        """The result of ``work``, which is cancelled where the client goes.

        Raises:
            ClientGoneError: it did.
        """
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientGoneError
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    async def reload(self) -> Served:
        """Put the model in the file in the place of the one in use, which stays if that fails.

        Raises:
            UserError: as `load_model`.
        """
        served = await asyncio.to_thread(self.store.load)
        monitor = await asyncio.to_thread(watch, served)
        # Nothing can fail any more: all of it changes, or nothing.
        self.store.current, self.monitor = served, monitor
        self.metrics.model(served)
        return served

    async def stop(self) -> None:
        """Answer what waits, then end all threads; requests that were called off see it meanwhile."""
        self.drift_feed.stop()
        await asyncio.to_thread(self.batcher.stop)
        for threads in (self.text_threads, self.file_threads):
            await asyncio.to_thread(threads.shutdown, cancel_futures=True)


def _is_plain(text: str) -> bool:
    return len(text) <= _INLINE_CHARACTERS and not _LABORIOUS.search(text)


def turns(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Texts in their order, as many at a time as one turn takes."""
    start, characters = 0, 0
    for at, text in enumerate(texts):
        if at > start and (at - start == _TURN_TEXTS or characters + len(text) > _TURN_CHARACTERS):
            yield texts[start:at]
            start, characters = at, 0
        characters += len(text)
    if start < len(texts):
        yield texts[start:]


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
