"""A scoring run: plan, score what is not scored yet, put together.

Beside OUT lies ``OUT.parts`` while a run lasts: ``job.json`` (what input, model and settings it is for),
``chunks.jsonl`` and ``plan.json`` (written last: the plan is whole), a file a part, and ``done/`` with a file
for each part that is written. Every file appears whole or not at all, and a part's bytes depend on nothing
but input, model and settings; so a run may be killed anywhere, and the next one does what has no file in
``done/``.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

from afina import __version__
from afina.errors import UserError
from afina.files import UnixLines, check_replaceable, sha256
from afina.progress import Progress
from afina.runtime.loading import MOST_THREADS
from afina.scoring.inputs import InputFile, find_inputs
from afina.scoring.plan import Part, Plan, Planner, Settings, output_format
from afina.scoring.rows import header, output_schema
from afina.scoring.storage import (
    TEMPORARY,
    Storage,
    is_inside,
    is_of_client,
    is_remote,
    normalise,
    place,
    storage_of,
)
from afina.scoring.text_records import known_encoding
from afina.scoring.worker import DONE_NAME, PART_NAME, Done, Task, Worker, done_name, part_name
from afina.spreadsheets import escape_formula

COMPLETE = "_SUCCESS"  # in a folder of parts: all are there
_BLOCK = 1 << 20


@dataclass(frozen=True)
class ScoreResult:
    """What a run did.

    Attributes:
        out: what was written.
        rows: rows of the input; blank lines are none.
        scored: rows of the output.
        failed: rows that could not be classified, listed in `failures`; rows = scored + failed.
        failures: the CSV file, row, reason of them; None where there are none.
        parts: of how many parts the output is.
        resumed: how many of them an earlier run had written.
        notes: what a person should know of how the input was read.
    """

    out: str
    rows: int
    scored: int
    failed: int
    failures: str | None
    parts: int
    resumed: int
    notes: tuple[str, ...]


def score(
    source: str,
    out: str,
    model: str = "models/onnx/model.onnx",
    settings: Settings | None = None,
    *,
    engine: Literal["local", "ray"] = "local",
    workers: int = 1,
    threads: int | None = None,
    overwrite: bool = False,
) -> ScoreResult:
    """Classify the rows of files; memory does not grow with them.

    Args:
        source: a file, a folder of files, or a pattern; a path or URL.
        out: a file (.csv, .tsv, .jsonl, .parquet), or a folder (a name without suffix) of part files.
        model: a model.onnx; with ray it has to be at this path on every machine.
        settings: what decides the result.
        engine: ``local``: this machine; ``ray``: the cluster at RAY_ADDRESS, else one that is started here.
        workers: processes with a model each; with ``local`` 1 is this process.
        threads: processor threads of each, 1 to 1,024; None = those of the machine shared out.
        overwrite: replace ``out``, and begin anew where an unfinished run is of another input, model or
            settings.

    Raises:
        UserError: input, output, model or a setting is wrong; the input changed meanwhile; another run writes
            ``out``; or a worker died. What is finished is kept for the next run.
    """
    settings = _checked(settings or Settings(), workers, threads)
    if not source:
        raise UserError("score: IN is empty; name a file, a folder or a pattern")
    source, out = normalise(source), normalise(out)
    _check_places(source, out, workers if engine == "local" else 2)
    with _reachable(source):
        origin = storage_of(source)
    with _reachable(out):
        target = storage_of(out)
    run = _Run(source, out, f"{out}.parts", target, _is_folder_name(out), overwrite)
    with _reachable(source):
        files = find_inputs(source, origin, run.is_of_a_run)
    write = output_format(out, files[0].format)
    if write is None:
        raise UserError(f"{out}: not a format that is written; give .csv, .tsv, .jsonl, .parquet or a folder")
    if "parquet" in (write, files[0].format):
        import afina.scoring.parquet  # noqa: F401  # says what to install where that is missing
    if not Path(model).is_file():
        raise UserError(f"{model}: no such file; run `dvc repro`, or name one with --model")
    found, files = files, [file for file in files if not run.replaces(file.location)]
    with _reachable(out), run.locked():
        job = _job(files, sha256(Path(model)), settings, write)
        if result := run.already_placed(job):
            return result
        run.check_apart([*(file.location for file in found), model])
        run.check_free()
        labels, multilabel = _checked_model(model)
        _engine(engine, workers)  # says what to install where it is missing
        run.begin(job)  # from here on something is left where it stops
        plan = run.plan(origin, files, settings, write, labels, multilabel)
        run.clear()
        task = Task(source, run.work, run.parts, model, job["model"], threads)
        resumed = run.score(plan, task, engine, workers)
        with _reachable(source):
            _check_unchanged(files, find_inputs(source, origin, run.is_of_a_run))
        return run.finish(job, plan, resumed)


def _checked_model(model: str) -> tuple[int, bool]:
    """How many labels a model has, and whether a text may have several; a `UserError` if it is none."""
    from afina.runtime.classifier import Classifier

    classifier = Classifier(model)
    return len(classifier.labels), classifier.task == "multilabel"


def _checked(settings: Settings, workers: int, threads: int | None) -> Settings:
    numbers = {"--top-k": settings.top_k, "--chunk": settings.chunk, "--workers": workers}
    for name, value in numbers.items():
        if value < 1:
            raise UserError(f"score: {name}: expected at least 1, found {value}")
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise UserError(f"score: --threads: expected 1 to {MOST_THREADS:,}, found {threads}")
    if not settings.columns:
        raise UserError("score: --column: name one at least")
    if len(set(settings.columns)) < len(settings.columns):
        raise UserError(f"score: --column: {', '.join(settings.columns)}: name each once")
    delimiter = settings.delimiter
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise UserError(f"score: --delimiter: expected one character, found {delimiter!r}")
    if settings.encoding is None:
        return settings
    return Settings(**asdict(settings) | {"encoding": known_encoding(settings.encoding)})


def _is_folder_name(out: str) -> bool:
    return "." not in out.rsplit("/", 1)[-1].strip(".")


def _check_places(source: str, out: str, processes: int) -> None:
    """The output must not be the input, in it, or the folder one is in; memory is of one process alone."""
    for location in (source, out):
        if location.startswith("memory://") and processes > 1:
            raise UserError(f"{location}: only this process sees it; use --engine local with one worker")
    if out.rsplit("/", 1)[-1] in ("", ".", "..") or is_inside(place(os.curdir), place(out)):
        raise UserError(
            f"{out or repr(out)}: is the current folder, or one around it; name a new folder or a file"
        )
    if is_inside(place(out), place(source)):
        raise UserError(f"{out}: is the input, or in it; write elsewhere")


@contextmanager
def _reachable(location: str) -> Iterator[None]:
    """Turn what goes wrong with a disk or a remote place into a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{location}: {error.strerror or error}; check it and run again") from None
    except Exception as error:
        if not is_of_client(location, error):  # no credentials, no such host
            raise
        if isinstance(error, NotImplementedError):
            raise UserError(f"{location}: nothing can be written there; give a path or s3://…") from None
        reason = " ".join(str(error).split())
        raise UserError(f"{location}: cannot be reached ({type(error).__name__}: {reason[:160]})") from None


def _job(files: Sequence[InputFile], model: str, settings: Settings, write: str) -> dict[str, Any]:
    """What makes parts of one run go together."""
    return {
        "afina": __version__,
        "model": model,
        "settings": json.loads(json.dumps(asdict(settings))),
        "write": write,
        "files": [
            [file.location, file.size, file.stamp, file.name, [list(pair) for pair in file.partitions]]
            for file in files
        ],
    }


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What is not as it was, for a message; empty where all is."""
    if old == new:
        return ""
    if old.get("model") != new["model"]:
        return "the model is another"
    before = {location: rest for location, *rest in old.get("files", [])}
    now = {location: rest for location, *rest in new["files"]}
    for location in sorted(before.keys() | now.keys()):
        if location not in before or location not in now:
            return f"{location} {'came' if location in now else 'went'}"
        if before[location][:2] != now[location][:2]:
            return f"{location} changed"
        if before[location] != now[location]:
            return f"{location} was found by another IN: its name or the columns of its folders differ"
    for name, value in new["settings"].items():
        if old.get("settings", {}).get(name) != value:
            return f"{name} was {old.get('settings', {}).get(name)!r}"
    return "the version of afina is another" if old.get("afina") != new["afina"] else "the format is another"


def _check_unchanged(before: Sequence[InputFile], now: Sequence[InputFile]) -> None:
    old, new = ({file.location: file for file in files} for files in (before, now))
    for location in sorted(old.keys() | new.keys()):
        if old.get(location) != new.get(location):
            what = "went" if location not in new else "changed" if location in old else "came"
            raise UserError(f"{location}: {what} while it was scored; run with --overwrite to begin anew")


_OF_WORK = {
    "": r"(job|plan|result)\.json|chunks\.jsonl",
    "done": DONE_NAME.pattern,
    "parts": rf"{COMPLETE}|{PART_NAME.pattern}",
}


def _is_of_work(name: str) -> bool:
    """Whether a file in the work folder, by its path there, is of a run; perhaps half-written."""
    folder, _, name = name.replace(os.sep, "/").strip("/").rpartition("/")
    known = _OF_WORK.get(folder)
    return known is not None and bool(
        re.fullmatch(rf"({known})({TEMPORARY})?|\.({known})\.\w+{TEMPORARY}", name)
    )


@dataclass(frozen=True)
class _Run:
    """The files of one run; see the top of the module."""

    source: str
    out: str
    work: str
    storage: Storage
    folder: bool
    overwrite: bool

    @property
    def parts(self) -> str:
        """Where part files go: remote folders cannot be moved at once, so there they are in their place."""
        return self.out if self.folder and is_remote(self.out) else f"{self.work}/parts"

    @property
    def failures(self) -> str:
        """Where the list of failed rows goes."""
        return f"{self.out}.failed.csv"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second run on this machine from writing the same output."""
        if is_remote(self.out):
            yield
            return
        try:
            import fcntl
        except ModuleNotFoundError:  # Windows
            yield
            return
        parent, name = os.path.split(self.out)
        os.makedirs(parent or os.curdir, exist_ok=True)
        # Of the folder's own name, not in `work`: what is removed cannot guard its own removal.
        path = Path(parent or os.curdir) / f".{name}.lock"
        with path.open("a") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = os.path.samestat(os.fstat(stream.fileno()), path.stat())
            except OSError:
                held = False
            if not held:
                raise UserError(f"{self.out}: another run is writing it; wait for that one")
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def _json(self, name: str) -> dict[str, Any] | None:
        try:
            with self.storage.open(f"{self.work}/{name}") as stream:
                return cast("dict[str, Any]", json.loads(stream.read()))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def already_placed(self, job: dict[str, Any]) -> ScoreResult | None:
        """The result of a run that was killed after its output was in place and before it had tidied up."""
        values = self._json("result.json")
        if values is None or values.get("job") != job:
            return None
        there = self._complete_stamp()
        if there in (None, values["before"]) or (values["size"] is not None and there[0] != values["size"]):
            return None
        self._tidy()
        return ScoreResult(**values["result"] | {"notes": tuple(values["result"]["notes"])})

    def _complete_stamp(self) -> list[Any] | None:
        """Stamp of what is there once the output is; None where it is not."""
        try:
            return list(self.storage.stamp(f"{self.out}/{COMPLETE}" if self.folder else self.out))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def is_taken(self) -> bool:
        """Whether ``out`` is there, other than as what an unfinished run has of it."""
        if self.folder and is_remote(self.out) and self.storage.exists(f"{self.work}/job.json"):
            return self.storage.exists(f"{self.out}/{COMPLETE}")
        return self.storage.exists(self.out)

    def is_of_a_run(self, location: str) -> bool:
        """Whether a pattern that matches a file does so because a run writes beside its input."""
        here = place(location)
        return is_inside(here, place(self.work)) or here == place(self.failures)

    def replaces(self, location: str) -> bool:
        """Whether a file is what this run writes, or inside it."""
        return is_inside(place(location), place(self.out))

    def check_apart(self, read: Sequence[str]) -> None:
        """What is read must not be where this run writes and removes.

        Raises:
            UserError: a file is the output, or inside it.
        """
        written = [(name, place(name)) for name in (self.out, self.work, self.failures)]
        for location in read:
            here = place(location)
            for name, there in written:
                if here == there:
                    raise UserError(f"{location}: is input and output at once; write elsewhere")
                if is_inside(here, there):
                    raise UserError(
                        f"{location}: is read, and inside {name}, which is replaced; write elsewhere"
                    )

    def check_free(self) -> None:
        """What is at ``out`` may be replaced: there is nothing, or an older output and ``overwrite``.

        Raises:
            UserError: it may not.
        """
        for written in () if is_remote(self.out) else (self.out, self.failures):
            check_replaceable(Path(written))
        if self.storage.is_folder(self.failures):
            raise UserError(
                f"{self.failures}: is a folder; move it, for failed rows are listed in that place"
            )
        if self.is_taken() and not self.overwrite:
            raise UserError(f"{self.out}: is there already; --overwrite replaces it")
        unfinished = self.storage.exists(f"{self.work}/job.json")
        if self.storage.exists(self.failures) and not unfinished and not self.overwrite:
            raise UserError(f"{self.failures}: is there already; --overwrite replaces it")
        self._check_replaceable()

    def _check_replaceable(self) -> None:
        here = not is_remote(self.out)
        if not self.storage.exists(self.out):
            return
        if not self.folder:
            if here and os.path.isdir(self.out):
                raise UserError(
                    f"{self.out}: is a folder, and a file is to be written; delete it or write elsewhere"
                )
            return
        if here and (os.path.islink(self.out) or not os.path.isdir(self.out)):
            raise UserError(
                f"{self.out}: is no folder, and one is to be written; delete it or write elsewhere"
            )
        for name in self.storage.names(self.out):
            if name and name != COMPLETE and not PART_NAME.fullmatch(name.removesuffix(TEMPORARY)):
                raise UserError(
                    f"{self.out}: holds {name!r}, which is no part of an output; move it or write elsewhere"
                )

    def begin(self, job: dict[str, Any]) -> None:
        """Keep what an earlier run did if it was of the same job, else begin anew.

        Raises:
            UserError: it was of another job, and ``overwrite`` is not set.
        """
        old = self._json("job.json")
        difference = "" if old is None else _difference(old, job)
        planned = bool(difference) and self.storage.exists(f"{self.work}/plan.json")
        if planned and not self.overwrite:
            raise UserError(
                f"{self.work}: an unfinished run is of another job: {difference}; "
                "--overwrite begins anew, or delete that folder"
            )
        if old is None or difference:
            self._check_work()
            self._tidy()
            self.storage.write(f"{self.work}/job.json", json.dumps(job).encode())

    def plan(
        self,
        origin: Storage,
        files: Sequence[InputFile],
        settings: Settings,
        write: Any,
        labels: int,
        multilabel: bool,
    ) -> Plan:
        """The plan of an earlier run, or a new one.

        Raises:
            UserError: as `Planner`.
        """
        if self.storage.exists(f"{self.work}/plan.json"):
            with self.storage.open(f"{self.work}/plan.json") as stream:
                return Plan.from_json(stream.read().decode())
        planner = Planner(origin, settings, labels, multilabel, self.out, write, files)
        try:
            with (
                Progress("reading", unit="rows") as progress,
                self.storage.writer(f"{self.work}/chunks.jsonl") as stream,
            ):
                for part in planner.parts():
                    stream.write(json.dumps(list(asdict(part).values())).encode() + b"\n")
                    progress.advance(part.rows)
            plan = planner.plan()
        except UserError:
            self._tidy()  # nothing in it is worth keeping
            raise
        self.storage.write(f"{self.work}/plan.json", plan.to_json().encode())
        return plan

    def clear(self) -> None:
        """Remove an older output from where parts are written; not before the plan says that they can be."""
        if not self.folder or not is_remote(self.out):
            return
        self.storage.remove(f"{self.out}/{COMPLETE}")
        if not self._finished():
            self.storage.remove(self.out)

    def _chunks(self) -> Iterator[Part]:
        with self.storage.open(f"{self.work}/chunks.jsonl") as stream:
            for line in stream:
                yield Part(*json.loads(line))

    def _finished(self) -> set[str]:
        """The names in ``done/``; what a process left there half-written is removed."""
        names = self.storage.names(f"{self.work}/done")
        for name in names:
            if name.endswith(TEMPORARY):
                self.storage.remove(f"{self.work}/done/{name}")
        return {name for name in names if DONE_NAME.fullmatch(name)}

    def score(self, plan: Plan, task: Task, engine: str, workers: int) -> int:
        """Score the parts that are not yet; returns how many were."""
        finished = self._finished()
        todo = (part for part in self._chunks() if done_name(part.number) not in finished)
        if len(finished) < plan.parts:
            with Progress("score", plan.rows, "rows") as progress:
                for part in self._chunks() if finished else ():
                    if done_name(part.number) in finished:
                        progress.advance(part.rows)
                for rows in _engine(engine, workers)(task, todo, workers):
                    progress.advance(rows)
        return len(finished)

    def finish(self, job: dict[str, Any], plan: Plan, resumed: int) -> ScoreResult:
        """Put the output in its place and remove what was needed on the way."""
        scored, failed = self._write_failures(plan)
        if scored + failed != plan.rows:
            raise UserError(
                f"{self.work}: {scored + failed:,} of {plan.rows:,} rows are there; delete it and begin anew"
            )
        result = ScoreResult(
            out=self.out,
            rows=plan.rows,
            scored=scored,
            failed=failed,
            failures=self.failures if failed else None,
            parts=plan.parts,
            resumed=resumed,
            notes=plan.notes,
        )
        note = {"job": job, "result": asdict(result), "before": self._complete_stamp(), "size": None}
        if self.folder:
            self._note_result(note)
            self._place_folder(plan)
        else:
            with self.storage.writer(self.out) as stream:
                self._join(plan, stream)
                self._note_result(note | {"size": stream.tell()})  # before the file gets its name
        self._tidy()
        return result

    def _note_result(self, note: dict[str, Any]) -> None:
        """Write what `already_placed` needs, should the run be killed after its output is in place."""
        self.storage.write(f"{self.work}/result.json", json.dumps(note).encode())

    def _check_work(self) -> None:
        """Whether all in ``work`` is of a run.

        Raises:
            UserError: it is not.
        """
        if not self.storage.exists(self.work):
            return
        if not self.storage.is_folder(self.work):
            raise UserError(
                f"{self.work}: is no folder, and a run needs one there; move it or write elsewhere"
            )
        for location in self.storage.below(self.work):
            if not _is_of_work(place(location).removeprefix(place(self.work))):
                raise UserError(f"{location}: is of no run, and {self.work} is to be emptied; move it away")

    def _tidy(self) -> None:
        """Remove what a run needed on its way, and nothing else."""
        # First what makes it a job: if killed now, what is left is nobody's and is removed by the next run.
        # Last what says that all is done.
        if not self.storage.exists(self.work):
            return
        for name in ("job.json", "chunks.jsonl", "plan.json", "done", "parts", "result.json"):
            self.storage.remove(f"{self.work}/{name}")
        if all(name.endswith(TEMPORARY) for name in self.storage.names(self.work)):
            self.storage.remove(self.work)

    def _place_folder(self, plan: Plan) -> None:
        if not plan.parts:
            with self.storage.writer(f"{self.parts}/{part_name(0, plan.write)}") as stream:
                self._join(plan, stream)
        self.storage.write(f"{self.parts}/{COMPLETE}", b"")
        if is_remote(self.out):
            return
        for name in self.storage.names(self.parts):
            if name.endswith(TEMPORARY):
                self.storage.remove(f"{self.parts}/{name}")
        self._check_replaceable()  # hours may have passed
        if os.path.isdir(self.out):
            shutil.rmtree(self.out)
        os.replace(self.parts, self.out)

    def _join(self, plan: Plan, target: IO[bytes]) -> None:
        """Write all parts one after another."""
        streams = (
            self.storage.open(f"{self.parts}/{part_name(number, plan.write)}") for number in range(plan.parts)
        )
        if plan.write == "parquet":
            from afina.scoring.parquet import join_tables

            join_tables(streams, output_schema(plan), target)
            return
        first = header(plan) if plan.write == "csv" else b""
        target.write(first)
        for stream in streams:
            with stream:
                stream.seek(len(first))
                shutil.copyfileobj(stream, target, _BLOCK)

    def _write_failures(self, plan: Plan) -> tuple[int, int]:
        """List the failed rows; returns how many rows were scored and how many failed."""
        scored = failed = 0
        with ExitStack() as stack:
            text: io.TextIOWrapper | None = None
            for part in self._chunks():
                with self.storage.open(f"{self.work}/done/{done_name(part.number)}") as stream:
                    done = Done.from_json(stream.read())
                scored += done.rows
                failed += len(done.failures)
                if done.failures and text is None:
                    stream = stack.enter_context(self.storage.writer(self.failures))
                    # The name of a file may be no text.
                    text = io.TextIOWrapper(stream, "utf-8", "backslashreplace", "", write_through=True)
                    stack.callback(text.detach)
                    writer = csv.writer(UnixLines(text), lineterminator="\r\n")
                    writer.writerow(["file", "row", "reason"])
                name = escape_formula(plan.sources[part.file].name)
                for line, reason in done.failures:
                    writer.writerow([name, line, escape_formula(reason)])
        if not failed:
            self.storage.remove(self.failures)
        return scored, failed


Engine = Callable[[Task, Iterator[Part], int], Iterator[int]]


def _engine(name: str, workers: int) -> Engine:
    """What scores parts: gives the rows of each when it is written."""
    if name == "ray":
        try:
            from afina.scoring.ray_engine import run_ray
        except ModuleNotFoundError as error:
            raise UserError(
                f"score: --engine ray needs the package {error.name}; install it with "
                "`pip install 'afina[ray]'`"
            ) from None
        return run_ray
    if name != "local":
        raise UserError(f"score: --engine: expected local or ray, found {name!r}")
    if workers == 1:
        return _run_here
    from afina.scoring.processes import run_processes

    return run_processes


def _run_here(task: Task, parts: Iterator[Part], workers: int) -> Iterator[int]:
    worker = Worker(task)
    try:
        for part in parts:
            worker(part)
            yield part.rows
    finally:
        worker.close()
