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
# After so many batches a lane it is asked anew how many lanes there are.
ROUND = 64

Row = tuple["Job", int]  # a text: its request, and which of the request's texts it is


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
        self.taken = 0  # texts whose turn has come
        self.left = len(ids)  # texts without an answer
        self.gone = False


class _Round:
    """The batches of one round, for several threads; over for all of them once none waits.

    Not ``iter(function, None)``: where that is over for one thread, it drops what another one just took.
    """

    def __init__(self, batcher: Batcher, model: Served, most: int) -> None:
        self._batcher, self._model, self._left = batcher, model, most
        self._lock = threading.Lock()

    def __iter__(self) -> _Round:
        return self

    def __next__(self) -> list[Row]:
        with self._lock:
            rows = self._batcher.take(self._model) if self._left > 0 else None
            self._left = 0 if rows is None else self._left - 1
        if rows is None:
            raise StopIteration
        return rows


class Batcher:
    """Collects the texts that wait into batches of similar length and runs them.

    Whenever a batch is done the next one is made of what waits by then: the text that has waited for longest,
    and those nearest to it in length. So batches grow with the load and nothing waits for company. Requests
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
        self._jobs: deque[Job] = deque()  # whose texts are not all in the window
        self._window: list[Row] = []  # what the next batches are made of, in the order of their turns
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
            if job.left:
                self._window = [row for row in self._window if row[0] is not job]

    def _work(self) -> None:
        while True:
            with self._ready:
                while not (self._jobs or self._window or self._stopping):
                    self._ready.wait()
                if not (self._jobs or self._window):
                    return
            try:
                self._run_round()
            except Exception as error:  # nothing may end this thread
                self._fail({job for job, _ in self._window}, error)

    def _run_round(self) -> None:
        """Run batches of one model until none waits, or a round of them is done."""
        with self._ready:
            if not (self._jobs or self._window):  # dropped meanwhile
                return
            model = (self._window[0][0] if self._window else self._jobs[0]).model
            count = len(self._batches(model))
        most = ROUND * model.classifier.lanes
        model.classifier.run_batches(_Round(self, model, most), count, self._run)

    def take(self, model: Served) -> list[Row] | None:
        """The batch with the text that has waited for longest; None where none waits for this model."""
        with self._ready:
            batches = self._batches(model)
            if not batches:
                return None
            chosen = set(next(batch for batch in batches if 0 in batch).tolist())
            rows = [row for at, row in enumerate(self._window) if at in chosen]
            self._window = [row for at, row in enumerate(self._window) if at not in chosen]
            return rows

    def _batches(self, model: Served) -> list[Ids]:
        """How the window would be cut into batches, having been filled; none where it is another model's."""
        self._fill(model)
        if not self._window or self._window[0][0].model is not model:
            return []
        return token_budget_batches([len(job.ids[row]) for job, row in self._window], self.token_budget)

    def _fill(self, model: Served) -> None:
        """Some tokens of each job in turn, up to the window's size, as long as they are for this model."""
        size = max(WINDOW_BUDGETS, model.classifier.lanes) * self.token_budget
        tokens = sum(len(job.ids[row]) for job, row in self._window)
        before = len(self._window)
        while self._jobs and self._jobs[0].model is model and tokens < size:
            job = self._jobs.popleft()
            turn = 0
            while job.taken < len(job.ids) and turn < QUANTUM:
                self._window.append((job, job.taken))
                turn += len(job.ids[job.taken])
                job.taken += 1
            tokens += turn
            if job.taken < len(job.ids):
                self._jobs.append(job)
        self._waiting -= len(self._window) - before

    def _run(self, rows: list[Row], /, *, forward: Forward) -> None:
        rows = [(job, row) for job, row in rows if not job.gone]
        if not rows:
            return
        start = time.perf_counter()
        try:
            _, probabilities = forward([job.ids[row] for job, row in rows])
            done = self._put_away(rows, probabilities)
            if self._observe is not None:
                self._observe(len(rows), time.perf_counter() - start)
        except Exception as error:
            # A job may have several rows here, and more in other batches: it is over with the first.
            self._fail({job for job, _ in rows}, error)
        else:
            _call(done, None)

    def _put_away(self, rows: list[Row], probabilities: Floats) -> list[Job]:
        """Note the answers; the jobs that have all of theirs."""
        for (job, row), answer in zip(rows, probabilities, strict=True):
            job.result[row] = answer
        done = []
        with self._counting:
            for job, _ in rows:
                job.left -= 1
                if not job.left:
                    done.append(job)
        return done

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
