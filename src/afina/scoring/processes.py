"""Several processes on this machine, each with a model of its own."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import islice

from afina.errors import UserError
from afina.runtime.loading import usable_processors
from afina.scoring.plan import Part
from afina.scoring.worker import Task, Worker

_worker: Worker | None = None  # of this process


def run_processes(task: Task, parts: Iterator[Part], workers: int) -> Iterator[int]:
    """Score parts in ``workers`` processes; gives the rows of each part when it is written.

    Raises:
        UserError: as `Worker`, or a process died.
    """
    task = replace(task, threads=task.threads or shared_out(workers))
    # Not forked: the threads of onnxruntime and Arrow do not survive that.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(task,))
    running: set[Future[int]] = set()
    try:
        running = {pool.submit(_score, part) for part in islice(parts, 2 * workers)}
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(_score, part) for part in islice(parts, len(finished))}
            for future in finished:
                yield future.result()
    except BrokenProcessPool:
        raise UserError(
            "score: a worker process died, perhaps for want of memory; run the same command to go on, with "
            "fewer --workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def shared_out(workers: int) -> int:
    """Processor threads for each of so many workers."""
    return max(1, (usable_processors() or os.cpu_count() or 1) // workers)


def _begin(task: Task) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    global _worker
    _worker = Worker(task)


def _die_with_parent() -> None:
    """A pool whose parent is killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _score(part: Part) -> int:
    assert _worker is not None
    _worker(part)
    return part.rows
