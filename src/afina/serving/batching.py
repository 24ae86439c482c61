"""One queue of texts from all requests, run in batches."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from afina.runtime.classifier import Forward
from afina.runtime.encoding import Ids, token_budget_batches
from afina.serving.model import Served

Floats = npt.NDArray[np.float32]

# Texts of similar length are looked for among so many token budgets of waiting texts: more of them pad
# less, and make a text that arrives meanwhile wait for longer.
WINDOW_BUDGETS = 16
# A request gives so many tokens at a time before the next request's turn.
QUANTUM = 512


class QueueFullError(Exception):
    """There is no room for these texts now."""


class Job:
    """The texts of one request on their way through the queue.

    Attributes:
        future: becomes the probabilities, float32 of shape (texts, labels), in the order of the texts.
    """

    __slots__ = ("future", "gone", "ids", "left", "loop", "model", "result", "taken")

    def __init__(self, model: Served, ids: list[Ids], loop: asyncio.AbstractEventLoop) -> None:
        self.model, self.ids, self.loop = model, ids, loop
        self.future: asyncio.Future[Floats] = loop.create_future()
        self.result = np.empty((len(ids), len(model.classifier.labels)), dtype=np.float32)
        self.taken = 0  # texts handed to the model
        self.left = len(ids)  # texts without an answer
        self.gone = False


class Batcher:
    """Collects the texts that wait into batches of similar length and runs them.

    While they run, others arrive, so batches grow with the load and nothing waits for company. Requests
    take turns of `QUANTUM` tokens (deficit round robin: Shreedhar & Varghese, "Efficient Fair Queueing Using
    Deficit Round Robin", SIGCOMM 1995), so a request of a thousand texts does not hold up a small one.

    Args:
        token_budget: most tokens in one batch, padding included.
        capacity: most texts that wait, those being tokenised included.
        observe: called with texts and seconds of each batch, in the thread that ran it; there may be several.
    """

    def __init__(
        self, token_budget: int, capacity: int, observe: Callable[[int, float], None] | None = None
    ) -> None:
        self.token_budget, self.capacity = token_budget, capacity
        self._observe = observe
        self._jobs: deque[Job] = deque()
        self._waiting = 0
        self._ready = threading.Condition()
        self._counting = threading.Lock()  # several batches may be done at once
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="afina-batches", daemon=True)

    @property
    def waiting(self) -> int:
        """Texts that wait for the model, those being tokenised included."""
        return self._waiting

    @property
    def accepting(self) -> bool:
        """Whether one more text would be taken."""
        return not self._stopping and self._thread.is_alive() and self._waiting < self.capacity

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Answer what waits, then end the thread."""
        with self._ready:
            self._stopping = True
            self._ready.notify()
        if self._thread.is_alive():
            self._thread.join()

    def reserve(self, texts: int) -> None:
        """Take room for texts that are about to be tokenised; `submit` uses it, `release` gives it back.

        Raises:
            QueueFullError: there is not so much room.
        """
        with self._ready:
            if self._stopping or self._waiting + texts > self.capacity:
                raise QueueFullError
            self._waiting += texts

    def release(self, texts: int) -> None:
        """Give back room that was reserved."""
        with self._ready:
            self._waiting -= texts

    def submit(self, model: Served, ids: list[Ids]) -> Job:
        """Queue texts for which there is room; called on the event loop that awaits the job's future."""
        job = Job(model, ids, asyncio.get_running_loop())
        if not ids:
            job.future.set_result(job.result)
            return job
        with self._ready:
            self._jobs.append(job)
            self._ready.notify()
        return job

    def drop(self, job: Job) -> None:
        """Forget a job that nobody waits for; what the model works on already runs to its end."""
        with self._ready:
            if job.gone:
                return
            job.gone = True
            self._waiting -= len(job.ids) - job.taken
            if job.taken < len(job.ids):
                self._jobs.remove(job)

    def _work(self) -> None:
        while True:
            with self._ready:
                while not self._jobs and not self._stopping:
                    self._ready.wait()
                if not self._jobs:
                    return
                rows = self._take()
            try:
                self._run_all(rows)
            except Exception as error:  # nothing may end this thread
                self._fail({job for job, _ in rows}, error)
            del rows  # and with them the model, which a new one may replace meanwhile

    def _take(self) -> list[tuple[Job, int]]:
        """Some tokens of each job in turn, up to the window, all for the same model."""
        rows: list[tuple[Job, int]] = []
        model, tokens = self._jobs[0].model, 0
        window = max(WINDOW_BUDGETS, model.classifier.lanes) * self.token_budget
        while self._jobs and self._jobs[0].model is model and tokens < window:
            job = self._jobs.popleft()
            turn = 0
            while job.taken < len(job.ids) and turn < QUANTUM:
                rows.append((job, job.taken))
                turn += len(job.ids[job.taken])
                job.taken += 1
            tokens += turn
            if job.taken < len(job.ids):
                self._jobs.append(job)
        self._waiting -= len(rows)
        return rows

    def _run_all(self, rows: list[tuple[Job, int]]) -> None:
        lengths = [len(job.ids[row]) for job, row in rows]
        batches = token_budget_batches(lengths, self.token_budget)

        def work(number: int, forward: Forward) -> None:
            self._run([rows[at] for at in batches[number]], forward)

        rows[0][0].model.classifier.run_batches(len(batches), work)

    def _run(self, rows: list[tuple[Job, int]], forward: Forward) -> None:
        rows = [(job, row) for job, row in rows if not job.gone]
        if not rows:
            return
        start = time.perf_counter()
        done: list[Job] = []
        try:
            _, probabilities = forward([job.ids[row] for job, row in rows])
        except Exception as error:
            # A job may have several rows here, and more in other batches: it is over with the first.
            self._fail({job for job, _ in rows}, error)
        else:
            for (job, row), answer in zip(rows, probabilities, strict=True):
                job.result[row] = answer
            with self._counting:
                for job, _ in rows:
                    job.left -= 1
                    if not job.left:
                        done.append(job)
        if self._observe is not None:
            self._observe(len(rows), time.perf_counter() - start)
        _call(done, None)

    def _fail(self, jobs: Iterable[Job], error: Exception) -> None:
        jobs = list(jobs)
        for job in jobs:
            self.drop(job)
        _call(jobs, error)


def _call(jobs: Iterable[Job], error: Exception | None) -> None:
    """Finish jobs, each on its loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Job]] = {}
    for job in jobs:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, theirs in by_loop.items():
        with suppress(RuntimeError):  # closed: nobody waits
            loop.call_soon_threadsafe(_finish, theirs, error)


def _finish(jobs: list[Job], error: Exception | None) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if error is None:
            job.future.set_result(job.result)
        else:
            job.future.set_exception(error)
