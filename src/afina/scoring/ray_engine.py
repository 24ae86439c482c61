"""Ray Data: a pool of actors with a model each, on one machine or many."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import ray
import ray.data

from afina.errors import UserError
from afina.scoring.plan import Part
from afina.scoring.processes import shared_out
from afina.scoring.storage import storage_of
from afina.scoring.worker import Task, Worker, done_name

_MAX_BLOCKS = 10_000
_STORE = 100 << 20  # bytes of Ray's own store on one machine: descriptions of parts alone go through it


class ScoringActor:
    """A worker in an actor; Ray Data starts another where one dies, and gives it the parts again."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._worker = Worker(task)
        self._storage = storage_of(task.work)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Score a batch of parts. One that a dead actor had finished is not scored again."""
        for values in zip(*(batch[name].tolist() for name in Part.__dataclass_fields__), strict=True):
            part = Part(*values)
            if not self._storage.exists(f"{self._task.work}/done/{done_name(part.number)}"):
                self._worker(part)
        return {"rows": batch["rows"]}


def run_ray(task: Task, parts: Iterator[Part], workers: int) -> Iterator[int]:
    """Score parts with ``workers`` actors; gives the rows of each part when it is written.

    Raises:
        UserError: as `Worker`; no cluster can be reached or started; or the job failed for good.
    """
    here = "RAY_ADDRESS" not in os.environ
    task = replace(task, threads=task.threads or (shared_out(workers) if here else 1))
    threads = task.threads or 1
    started = not ray.is_initialized()
    if started:
        _start(workers * threads if here else None)
    try:
        items = [asdict(part) for part in parts]
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        blocks = max(1, min(len(items), _MAX_BLOCKS))
        dataset = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
            ScoringActor,
            fn_constructor_args=(task,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=threads,
        )
        for row in dataset.iter_rows():
            yield int(row["rows"])
    except ray.exceptions.RayError as error:
        raise _cause(error) from None
    finally:
        if started:
            ray.shutdown()


def _start(processors: int | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    only_here: dict[str, Any] = (
        {} if processors is None else {"num_cpus": processors, "object_store_memory": _STORE}
    )
    try:
        ray.init(
            address=os.environ.get("RAY_ADDRESS", "local"),
            include_dashboard=None if processors is None else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **only_here,
        )
    except Exception as error:  # Ray raises bare Exception where a machine does not start in time
        reason = " ".join(str(error).split())
        raise UserError(f"score: --engine ray: no cluster ({reason[:160]}); check RAY_ADDRESS") from None


def _cause(error: BaseException) -> UserError:
    """The error that the user can do something about, out of those of Ray around it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, UserError):
            return UserError(str(seen))
        seen = seen.__cause__ or getattr(seen, "cause", None)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    told = next((line for line in lines if line.startswith("afina.errors.UserError: ")), None)
    if told:
        return UserError(told.split(": ", 1)[1])
    return UserError(f"score: the Ray job failed ({lines[-1][:200]}); run the same command to go on")
