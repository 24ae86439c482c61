"""What scores one part; every process has one of its own."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from afina.errors import UserError
from afina.files import sha256
from afina.scoring.plan import Part, Plan
from afina.scoring.rows import PartReader, Rows, encode
from afina.scoring.storage import readable, storage_of


@dataclass(frozen=True)
class Done:
    """A part that is written: how many rows came out, and which failed why."""

    rows: int
    failures: tuple[tuple[int, str], ...]

    def to_json(self) -> bytes:
        """As the file that says so."""
        return json.dumps({"rows": self.rows, "failures": self.failures}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Done:
        """What `to_json` wrote."""
        values = json.loads(data)
        return cls(values["rows"], tuple((line, reason) for line, reason in values["failures"]))


@dataclass(frozen=True)
class Task:
    """Where a worker finds everything: plain values, so that it can be sent to another process."""

    source: str
    work: str
    parts: str
    model: str
    model_sha256: str
    threads: int | None


PART_NAME = re.compile(r"part-\d{6,}\.(csv|jsonl|parquet)")


def part_name(number: int, kind: str) -> str:
    """The name of a part's file."""
    return f"part-{number:06d}.{kind}"


DONE_NAME = re.compile(r"\d{6,}\.json")


def done_name(number: int) -> str:
    """The name of the file that says that a part is written."""
    return f"{number:06d}.json"


class Worker:
    """Loads the model once and scores parts.

    Raises:
        UserError: the model cannot be loaded, or is not the one that the parts so far are from.
    """

    def __init__(self, task: Task) -> None:
        from afina.runtime.classifier import Classifier

        self._task = task
        self._work = storage_of(task.work)
        with self._work.open(f"{task.work}/plan.json") as stream:
            self._plan = Plan.from_json(stream.read().decode())
        if sha256(Path(task.model)) != task.model_sha256:
            raise UserError(f"{task.model}: not the model that this run began with; put that one back")
        self._classifier = Classifier(task.model, threads=task.threads)
        self._reader = PartReader(storage_of(task.source), self._plan)

    def __call__(self, part: Part) -> Done:
        """Score a part and write it; then, and only then, note that it is done."""
        plan, task = self._plan, self._task
        rows = self._read(part)
        predictions = self._classifier.predict(rows.texts, plan.settings.top_k) if rows.texts else []
        data = encode(plan, rows, predictions)
        self._work.write(f"{task.parts}/{part_name(part.number, plan.write)}", data)
        done = Done(len(predictions), tuple(rows.failures))
        self._work.write(f"{task.work}/done/{done_name(part.number)}", done.to_json())
        return done

    def _read(self, part: Part) -> Rows:
        location = self._plan.sources[part.file].location
        with readable(location):
            rows = self._reader.read(part)
        if len(rows.texts) + len(rows.failures) != part.rows:
            raise UserError(f"{location}: changed while it was scored; run with --overwrite to begin anew")
        return rows

    def close(self) -> None:
        """Close the input."""
        self._reader.close()
