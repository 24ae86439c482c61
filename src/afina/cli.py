"""The command line. A command imports what it needs when it runs: predicting needs no torch and no pandas."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, TypeVar

import typer

from afina import __version__
from afina.delimiters import DELIMITERS, NAMES, likely_delimiter, named, told_delimiter
from afina.errors import UserError
from afina.files import FULL, UnixLines, atomic_path
from afina.interruption import clean_up_when_interrupted, clean_up_when_terminated
from afina.progress import Progress
from afina.quotes import UnsoundQuotesError, sound_rows
from afina.spreadsheets import escape_formula

if TYPE_CHECKING:
    from afina.leaderboard import Entry
    from afina.runtime.classifier import Classifier, Prediction, Score

T = TypeVar("T")

CHUNK = 1024  # texts held in memory at a time
SEPARATOR = "|"  # between the labels of a multilabel prediction
_STDOUT = ("-", "/dev/stdout")
_OTHER_KINDS = {
    ".json": "JSON", ".jsonl": "JSON Lines", ".ndjson": "JSON Lines", ".parquet": "Parquet", ".xlsx": "Excel",
}  # fmt: skip

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fine-tune BERT-like models on badly imbalanced text and use them from one file.",
)


# Of click, of which typer has its own copy, or not, as its version is.
_UsageError: Any = typer.BadParameter.__mro__[1]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake becomes one line on stderr and exit status 2."""
    given = None if arguments is None else list(arguments)
    try:
        status = app(args=given, prog_name="afina", standalone_mode=False)
        _tell("")  # what is left to write
    except UserError as error:
        print(f"afina: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except _UsageError as error:
        print(_explain(error), file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.filename is None and error.errno not in FULL:
            raise
        # Not the traceback's exit status: 1 is the verdict of compare and of drift.
        print(f"afina: error: {_refused(error)}; check it and run again", file=sys.stderr)
        raise SystemExit(2) from None
    raise SystemExit(status or 0)


def _tell(answer: str) -> None:
    """Print and flush. Where the reader went away, the exit status is what it would have been."""
    try:
        print(answer, end="", flush=True)
    except BrokenPipeError:
        _give_up_stdout()


def _refused(error: OSError) -> str:
    """What could not be read or written, and why; the error of a write to stdout names no file."""
    if error.filename is not None:
        return f"{error.filename}: cannot be read or written ({error.strerror})"
    _give_up_stdout()
    return f"cannot write to stdout ({error.strerror})"


def _give_up_stdout() -> None:
    """What could not be written would be tried again, with a traceback, when Python ends."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain(error: Any) -> str:
    """One line for an option or argument that is wrong; the help where nothing was given at all."""
    called = "afina" if error.ctx is None else error.ctx.command_path
    message = error.format_message().rstrip(".")
    if type(error).__name__ == "NoArgsIsHelpError":
        return str(message)
    command = called.removeprefix("afina").lstrip()
    if called == "afina score" and "extra argument" in message:
        message += "; a pattern goes in quotes"
    where = f"{command}: " if command else ""
    return f"afina: error: {where}{message[:1].lower()}{message[1:]}; see `{called} --help`"


def _show_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A model.onnx written by the export stage.")],
    text: Annotated[
        list[str] | None, typer.Option("--text", help="A text to classify; may be repeated.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="A CSV file with a header, one text a row.")
    ] = None,
    column: Annotated[
        str, typer.Option("--column", help="The column of the CSV that holds the text.")
    ] = "text",
    out: Annotated[
        Path | None, typer.Option("--out", help="Where the CSV with predictions goes; default: stdout.")
    ] = None,
    delimiter: Annotated[
        str | None, typer.Option("--delimiter", help="Between cells: a character, or tab; default: found.")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option("--encoding", help="Of the CSV or of stdin; default: UTF-8.")
    ] = None,
    prefix: Annotated[
        str, typer.Option("--prefix", help="Put before the names of the columns added to the CSV.")
    ] = "",
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Show the k most probable labels.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object a text.")] = False,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Processor threads.")] = None,
) -> None:
    """Classify texts: given with --text, in a CSV given with --file, or one a line on stdin.

    On a terminal each text is followed by its labels, elsewhere the answer is a line a text: label, tab,
    probability; a multilabel model joins its labels with |, and gives none where none reaches its threshold.
    A CSV and --json also say whether a person should look, because the model is less sure than it has to be
    to reach evaluate.target_accuracy.
    """
    delimiter = None if delimiter is None else named(delimiter)
    if out is not None and str(out) in _STDOUT:
        out = None  # what it leads to may be a file that others write to
    _check_options(model, text, file, out, delimiter, encoding, prefix, as_json)
    from afina.runtime.classifier import Classifier
    from afina.runtime.text import clean_text

    _write_utf8()
    classifier = Classifier(model, threads=threads)
    clean_up_when_interrupted()
    if out is not None:
        clean_up_when_terminated()
    with _writing(out):
        if file is not None:
            table = _inspect_csv(file, column, delimiter, encoding)
            _predict_csv(classifier, table, out, prefix, top_k)
        elif text:
            # Bytes of an argument that are no character can be printed no more than they can be classified.
            _print_predictions(classifier, [clean_text(one, ()) for one in text], top_k, as_json)
        elif sys.stdin is None:
            raise UserError("predict: stdin is closed; give --text, --file, or texts on stdin")
        else:
            _print_predictions(classifier, _stdin_lines(encoding), top_k, as_json)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A data file: CSV, Excel, JSON Lines, Parquet ...")],
) -> None:
    """Show what a data file holds and how the extract stage would read it."""
    try:
        from afina.inspection import inspect_file, plain, show

        clean_up_when_interrupted()
        inspection = inspect_file(file)
    except ModuleNotFoundError as error:
        raise UserError(
            f"inspect: needs the package {error.name}; install it with `pip install 'afina[pipeline]'`"
        ) from None
    if sys.stdout is not None and sys.stdout.isatty():
        from rich.console import Console

        show(inspection, Console())
    else:
        _write_utf8()
        print(plain(inspection), end="")


@app.command()
def compare(
    base: Annotated[
        str, typer.Option("--base", help="The revision to compare with: commit, branch, tag, experiment.")
    ],
    head: Annotated[
        str | None, typer.Option("--head", help="The revision that is judged; default: the workspace.")
    ] = None,
    metric: Annotated[str, typer.Option("--metric", help="What the verdict is on.")] = "macro_f1",
    max_drop: Annotated[float, typer.Option("--max-drop", help="A drop up to this is tolerated.")] = 0.01,
    alpha: Annotated[float, typer.Option("--alpha", help="Risk of calling equal models worse.")] = 0.05,
    detectable: Annotated[
        float, typer.Option("--detectable", help="A drop that has to be detectable, else data are too few.")
    ] = 0.05,
    resamples: Annotated[int, typer.Option("--resamples", help="Of the bootstrap.")] = 10_000,
    as_markdown: Annotated[bool, typer.Option("--md", help="Write Markdown, for a pull request.")] = False,
) -> None:
    """Say whether a revision's model is worse than another's on the test rows of both.

    Reads reports/predictions.parquet of both and pairs rows by id. Exit status 1: worse, that is a drop
    beyond --max-drop which is more than chance; 0: anything else; 2: it could not be compared. Where labels
    came or went, or more than a tenth of the base's test rows have no partner with the same labels, the data
    changed, and that is never called worse.
    """
    try:
        from afina.comparison import Gate
        from afina.comparison import compare as compare_predictions
        from afina.comparison_report import markdown, text
        from afina.revisions import outdated_stages, read_revision, shown

        gate = Gate(metric, max_drop, alpha, detectable, resamples)
        old, new = read_revision(base, "--base"), read_revision(head, "--head")
    except ModuleNotFoundError as error:
        raise UserError(
            f"compare: needs the package {error.name}; install it with `pip install 'afina[pipeline]'`"
        ) from None
    for revision in (base, head):
        if stages := outdated_stages(revision):
            print(
                f"compare: warning: the predictions of {shown(revision)} are not of its params.yaml: "
                f"{', '.join(stages)} did not run with it; run `dvc repro` there",
                file=sys.stderr,
            )
    comparison = compare_predictions(old, new, gate)
    _write_utf8()
    _tell((markdown if as_markdown else text)(comparison, shown(base), shown(head)))
    if comparison.verdict == "worse":
        raise typer.Exit(1)


@app.command()
def keep_split(
    revision: Annotated[
        str | None, typer.Option("--rev", help="A commit whose splits are kept; without it, those on disk.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The CSV to write; data/source/kept_split.csv without it.")
    ] = None,
) -> None:
    """Write which split each message is in, for split.keep: new messages then leave the known ones there.

    Without it one more message reshuffles the three parts, and `afina compare` finds few test rows that two
    commits have in common.
    """
    try:
        import yaml

        from afina.kept_split import write_kept
        from afina.revisions import find_root, read_splits
    except ModuleNotFoundError as error:
        raise UserError(
            f"keep-split: needs the package {error.name}; install it with `pip install 'afina[pipeline]'`"
        ) from None
    kept = read_splits(revision)
    root = find_root("keep-split").resolve()
    path = root / "data/source/kept_split.csv" if out is None else out.resolve()
    try:
        write_kept(path, kept)
    except OSError as error:
        raise UserError(f"keep-split: --out: cannot write {path} ({error.strerror})") from None
    # As the stages see it, which run at the root.
    name = (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
    _write_utf8()
    # In quotes where YAML would take the name for something else.
    setting = yaml.safe_dump({"keep": name}, default_flow_style=True, allow_unicode=True, width=float("inf"))
    print(f"{name}: the splits of {len(kept):,} messages; in params.yaml: split: {setting.strip()}")


@app.command()
def leaderboard(
    metric: Annotated[str, typer.Option("--metric", help="What experiments are ordered by.")] = "macro_f1",
    alpha: Annotated[float, typer.Option("--alpha", help="Risk of calling an equal model worse.")] = 0.05,
    all_commits: Annotated[
        bool, typer.Option("--all-commits", help="Experiments of every commit, not of the latest one alone.")
    ] = False,
    as_markdown: Annotated[bool, typer.Option("--md", help="Write Markdown.")] = False,
) -> None:
    """Order the experiments of `dvc exp` by a score, and say which the best one is really better than.

    The workspace and the latest commit take part. Those marked "tied" are not shown to be worse than the
    best on the same test rows; "other data" have other test rows or labels than the best. "not run" names
    stages behind the predictions that did not run with the parameters: the score is of others.
    """
    try:
        from afina.leaderboard import rank, table
        from afina.revisions import list_experiments
    except ModuleNotFoundError as error:
        raise UserError(
            f"leaderboard: needs the package {error.name}; install it with `pip install 'afina[pipeline]'`"
        ) from None
    states = [("workspace", None, "HEAD"), ("HEAD", "HEAD", None), *list_experiments(all_commits)]
    entries = _entries(states)
    if not entries:
        raise UserError("leaderboard: nothing here has predictions; run `dvc repro`")
    _write_utf8()
    print(table(rank(entries, metric, alpha), metric, alpha, as_markdown), end="")


def _entries(states: Iterable[tuple[str, str | None, str | None]]) -> list[Entry]:
    """The states that can be ranked, each a name, a revision and its baseline; stderr says why others not."""
    from afina.leaderboard import Entry, changed
    from afina.revisions import changed_params, outdated_stages, read_revision

    entries: list[Entry] = []
    for name, revision, base in states:
        try:
            predictions = read_revision(revision, name)
            if entries and predictions.task != entries[0].predictions.task:
                first = entries[0]
                raise UserError(
                    f"its task is {predictions.task}, that of {first.name} is {first.predictions.task}"
                )
        except UserError as error:
            print(f"leaderboard: {name} is left out: {error}", file=sys.stderr)
            continue
        changes = "" if base is None else changed(changed_params(base, revision or "workspace"))
        if stages := outdated_stages(revision):
            changes = f"{changes} (not run: {', '.join(stages)})".lstrip()
        entries.append(Entry(name, changes, predictions))
    return entries


@app.command()
def serve(
    model: Annotated[Path, typer.Argument(help="A model.onnx written by the export stage.")],
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="The port to listen on; 0: a free one.")] = 8000,
    threads: Annotated[int | None, typer.Option("--threads", help="Processor threads of the model.")] = None,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", help="A file with the accepted keys, one a line.")
    ] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option("--cors-origin", help="A web origin that may call; may be repeated.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option("--allowed-host", help="A name to answer to besides localhost; may be repeated."),
    ] = None,
    queue: Annotated[int, typer.Option("--queue", help="Most texts that wait; beyond it: 429.")] = 4096,
    max_texts: Annotated[int, typer.Option("--max-texts", help="Most texts in one request.")] = 1000,
    max_file_mb: Annotated[int, typer.Option("--max-file-mb", help="Largest file to upload, in MiB.")] = 50,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds a request may wait.")] = 30.0,
    reload_every: Annotated[
        float, typer.Option("--reload-every", help="Seconds between looks for a new file; 0: only on SIGHUP.")
    ] = 2.0,
) -> None:
    """Serve a model over HTTP: a page for people at /, an API for programs at /v1, its description at /docs.

    SIGHUP, or a new file in the place of the old one, loads the new model without losing a request; SIGTERM
    answers what was accepted, then ends. With --api-key-file or the environment variable AFINA_API_KEY a key
    has to come with each request.
    """
    from afina.serving.hangup import remember_hangups

    remember_hangups()  # what is imported next takes a second or more
    try:
        from afina.serving.server import serve as run
        from afina.serving.settings import ServeSettings, api_keys
    except ModuleNotFoundError as error:
        raise UserError(
            f"serve: needs the package {error.name}; install it with `pip install 'afina[serve]'`"
        ) from None
    clean_up_when_interrupted()
    run(
        ServeSettings(
            model=model,
            host=host,
            port=port,
            threads=threads,
            queue_texts=queue,
            max_texts=max_texts,
            max_file_bytes=max_file_mb << 20,
            request_seconds=timeout,
            reload_seconds=reload_every,
            api_keys=api_keys(api_key_file),
            cors_origins=tuple(cors_origin or ()),
            allowed_hosts=tuple(allowed_host or ()),
        )
    )


@app.command()
def drift(
    reference: Annotated[Path, typer.Argument(help="A model.onnx, or a data file to compare with.")],
    new: Annotated[Path, typer.Argument(help="A file of new texts, or of predictions of them.")],
    model: Annotated[
        Path | None, typer.Option("--model", help="Predicts the texts where REFERENCE is a data file.")
    ] = None,
    column: Annotated[str, typer.Option("--column", help="The column that holds the text.")] = "text",
    prefix: Annotated[
        str, typer.Option("--prefix", help="Before the names of columns with predictions.")
    ] = "",
    watch: Annotated[float, typer.Option("--watch", help="PSI above chance that is to be watched.")] = 0.1,
    drifted: Annotated[float, typer.Option("--drifted", help="PSI above chance that is drift.")] = 0.25,
    alpha: Annotated[float, typer.Option("--alpha", help="Risk of an alarm where nothing changed.")] = 0.05,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Processor threads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object.")] = False,
) -> None:
    """Say whether new texts, and the model's answers to them, differ from those it was checked on.

    NEW is a CSV, JSON Lines, Parquet or Excel file of texts, which the model predicts, or one that `afina
    predict` or `afina score` wrote. Exit status 1: drifted; 0: anything else; 2: it could not be compared.
    """
    try:
        from afina.drift import as_json as drift_json
        from afina.drift import compare_files
        from afina.drift import text as drift_text
        from afina.runtime.drift import Limits
    except ModuleNotFoundError as error:
        raise UserError(
            f"drift: needs the package {error.name}; install it with `pip install 'afina[drift]'`"
        ) from None
    try:
        limits = Limits(watch, drifted, alpha)
    except ValueError as error:
        raise UserError(f"drift: --{error}") from None
    clean_up_when_interrupted()
    comparison = compare_files(reference, new, model, column, prefix, limits, threads)
    _write_utf8()
    if as_json:
        _tell(json.dumps(drift_json(comparison), ensure_ascii=False, allow_nan=False) + "\n")
    else:
        _tell(drift_text(comparison))
    if comparison.drift.verdict == "drifted":
        raise typer.Exit(1)


@app.command()
def score(
    source: Annotated[str, typer.Argument(metavar="IN", help="A file, folder or pattern; a path or URL.")],
    out: Annotated[
        str, typer.Argument(metavar="OUT", help="A .csv, .tsv, .jsonl or .parquet file, or a folder.")
    ],
    model: Annotated[
        str, typer.Option("--model", help="A model.onnx written by the export stage.")
    ] = "models/onnx/model.onnx",
    column: Annotated[
        list[str] | None, typer.Option("--column", help="Of the text (default: text); several are joined.")
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", help="Add the k most probable labels.")] = 1,
    prefix: Annotated[str, typer.Option("--prefix", help="Put before the names of the columns added.")] = "",
    encoding: Annotated[str | None, typer.Option("--encoding", help="Of text files; default: found.")] = None,
    delimiter: Annotated[
        str | None, typer.Option("--delimiter", help="Between cells: a character, or tab; default: found.")
    ] = None,
    chunk: Annotated[int, typer.Option("--chunk", help="Most rows in a part.")] = 10_000,
    engine: Annotated[str, typer.Option("--engine", help="local, or ray: at RAY_ADDRESS.")] = "local",
    workers: Annotated[int, typer.Option("--workers", help="Processes with a model each.")] = 1,
    threads: Annotated[int | None, typer.Option("--threads", help="Processor threads of each.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT, and what an unfinished run of another job left.")
    ] = False,
) -> None:
    """Classify files of any size: CSV, JSON Lines or Parquet, with columns for the answer added.

    Memory does not grow with the input. A run that is killed goes on where it was when it is started again;
    OUT appears when all of it is there. Rows without a text or that cannot be read are in OUT's .failed.csv;
    where that is all of them, the exit status is 2.
    """
    from afina.scoring import Settings
    from afina.scoring import score as score_files

    if engine not in ("local", "ray"):
        raise UserError(f"score: --engine: expected local or ray, found {engine!r}")
    delimiter = None if delimiter is None else named(delimiter)
    settings = Settings(tuple(column or ("text",)), top_k, chunk, prefix, encoding, delimiter)
    clean_up_when_interrupted()
    result = score_files(
        source,
        out,
        model,
        settings,
        engine="ray" if engine == "ray" else "local",
        workers=workers,
        threads=threads,
        overwrite=overwrite,
    )
    for note in result.notes:
        print(note, file=sys.stderr)
    failed = f", {result.failed:,} failed: {result.failures}" if result.failed else ""
    print(f"{result.out}: {result.scored:,} of {result.rows:,} rows{failed}", file=sys.stderr)
    if result.failed and not result.scored:
        raise UserError(f"score: no row could be classified; {result.failures} says why")


def _check_options(
    model: Path,
    text: list[str] | None,
    file: Path | None,
    out: Path | None,
    delimiter: str | None,
    encoding: str | None,
    prefix: str,
    as_json: bool,
) -> None:
    if text and encoding is not None:
        raise UserError("predict: --encoding goes with --file or texts on stdin; leave it out")
    if text and file is not None:
        raise UserError("predict: --text and --file exclude each other; give one of them")
    if file is None:
        given = {"--out": out, "--delimiter": delimiter, "--prefix": prefix or None}
        for name, value in given.items():
            if value is not None:
                raise UserError(f"predict: {name} goes with --file; give a CSV, or leave it out")
    elif as_json:
        raise UserError("predict: --json goes with --text or stdin; a CSV is answered by a CSV")
    if out is not None:
        _check_out(out, model)
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise UserError(
            f"predict: --delimiter: expected one character or {', '.join(NAMES)}, found {delimiter!r}"
        )


def _check_out(out: Path, model: Path) -> None:
    if out.is_dir():
        raise UserError(f"predict: --out: {out} is a folder; give the name of a file in it")
    if out.exists() and model.exists() and out.samefile(model):
        raise UserError(f"predict: --out: {out} is the model; give another name")
    if out.suffix.lower() == ".gz":
        raise UserError(f"predict: --out: {out}: predict does not compress; name it .csv")
    if (kind := _OTHER_KINDS.get(out.suffix.lower())) is not None:
        raise UserError(
            f"predict: --out: {out}: the name of a file in {kind}, and predict writes CSV; name it .csv "
            "(`afina score` writes Parquet and JSON Lines)"
        )


# ------------------------------------------------------------------------------- texts and lines


def _stdin_lines(encoding: str | None) -> Iterator[str]:
    """Lines of stdin without their ends, as they come."""
    if sys.stdin.isatty():
        print("reading one text a line; end with Ctrl-D", file=sys.stderr)
    with _known_encoding(encoding):
        by_bytes = "\n".encode(encoding or "utf-8") == b"\n"
    if not by_bytes:  # UTF-16 and its like
        yield from _wide_lines(encoding or "utf-8")
        return
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            yield line.decode(encoding or ("utf-8-sig" if number == 1 else "utf-8")).rstrip("\r\n")
        except UnicodeDecodeError:
            raise UserError(
                f"stdin: line {number} is not {encoding or 'UTF-8'}; name it, such as --encoding cp1252"
            ) from None


def _wide_lines(encoding: str) -> Iterator[str]:
    """Lines of stdin in an encoding whose line end is more than one byte."""
    try:
        for line in io.TextIOWrapper(sys.stdin.buffer, encoding, newline="\n"):
            yield line.rstrip("\r\n")
    except UnicodeError as error:
        raise UserError(f"stdin: not {encoding} ({error}); name another --encoding") from None


def _print_predictions(classifier: Classifier, texts: Iterable[str], top_k: int, as_json: bool) -> None:
    """Print predictions as texts come: a person typing sees each at once, a pipe is taken in chunks."""
    # Whoever types waits for the answer to each line.
    size = 1 if not isinstance(texts, list) and sys.stdin.isatty() else CHUNK
    for chunk in _chunks(texts, size):
        predictions = classifier.predict(chunk, top_k)
        if as_json:
            for text, prediction in zip(chunk, predictions, strict=True):
                print(json.dumps(_as_json(text, prediction, classifier.task, top_k), ensure_ascii=False))
        elif sys.stdout.isatty():
            _print_for_people(chunk, predictions, top_k)
        else:
            for prediction in predictions:
                print("\t".join(_plain_cells(prediction, top_k)))
        sys.stdout.flush()


def _as_json(text: str, prediction: Prediction, task: str, top_k: int) -> dict[str, Any]:
    result: dict[str, Any] = {"text": text}
    if task == "multiclass":
        result |= _score_json(prediction.labels[0])
    else:
        result["labels"] = [_score_json(score) for score in prediction.labels]
    result["confidence"] = round(prediction.confidence, 6)
    result["needs_person"] = prediction.needs_person
    if top_k > 1:
        result["top"] = [_score_json(score) for score in prediction.top]
    return result


def _score_json(score: Score) -> dict[str, Any]:
    return {"label": score.label, "probability": round(score.probability, 6)}


def _plain_cells(prediction: Prediction, top_k: int) -> list[str]:
    """Label and probability; with top-k above 1 then each of the most probable labels and its probability."""
    cells = _cells(prediction, top_k)
    # A tab or line end inside a label would be taken for the end of a cell.
    return [" ".join(cell.split()) for cell in cells]


def _cells(prediction: Prediction, top_k: int) -> list[str]:
    cells = [
        SEPARATOR.join(score.label for score in prediction.labels),
        SEPARATOR.join(_number(score) for score in prediction.labels),
    ]
    if top_k > 1:
        for score in prediction.top:
            cells += [score.label, _number(score)]
    return cells


def _number(score: Score) -> str:
    return f"{score.probability:.6f}"


def _print_for_people(texts: Sequence[str], predictions: Sequence[Prediction], top_k: int) -> None:
    """Each text, cut to the line, with its labels below; with top-k those that are not assigned too."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for text, prediction in zip(texts, predictions, strict=True):
        shown = " ".join(text[:500].split()) or "(no text)"
        console.print(Text(shown, style="dim"), no_wrap=True, overflow="ellipsis")
        if not prediction.labels:
            console.print("  –       no label reaches its threshold")
        if prediction.needs_person:
            console.print("  for a person: the model is not sure enough", style="yellow")
        others = prediction.top if top_k > 1 else ()
        for score in sorted({*prediction.labels, *others}, key=lambda score: -score.probability):
            style = "bold" if score in prediction.labels else ""
            console.print(Text(f"  {score.probability:.4f}  {score.label}", style=style))


# ------------------------------------------------------------------------------------------- CSV


@dataclass(frozen=True)
class _Csv:
    """A CSV file that has been read once: how to read it, and how many rows it has."""

    path: Path
    encoding: str
    delimiter: str
    header: list[str]
    text_index: int
    rows: int
    skipped: int  # lines before the header


def _inspect_csv(path: Path, column: str, delimiter: str | None, encoding: str | None) -> _Csv:
    """Read a CSV once to the end, so that what is wrong with it shows before any prediction is made.

    Raises:
        UserError: the file, its encoding, the column, or a row's number of cells is wrong.
    """
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "is a pipe or a device, which is read once only"
        raise UserError(f"{path}: {f'{kind}; give a CSV file' if path.exists() else 'no such file'}")
    if not path.stat().st_size:
        raise UserError(f"{path}: line 1: expected a header with column names, and the file is empty")
    csv.field_size_limit(2**31 - 1)
    line = 0
    encoding = encoding or _detect_encoding(path)
    with _known_encoding(encoding), path.open(encoding=encoding, newline="") as stream:
        try:
            first = stream.readline()
            told = told_delimiter(first)
            delimiter = delimiter or told
            skipped = 0 if told is None else 1
            if skipped:
                first = stream.readline()
            if not first.strip():
                raise UserError(
                    f"{path}: line {1 + skipped}: expected a header with column names, found an empty line"
                )
            delimiter = delimiter or _detect_delimiter(first, column)
            stream.seek(0)
            reader = sound_rows(stream, delimiter, skipped)
            line, header = next(reader)
            names = _names(header)
            if column.strip() not in names:
                raise UserError(
                    f"{path}: no column {column!r}; it has {', '.join(map(repr, names[:20]))}; "
                    "name one with --column"
                )
            if names.count(column.strip()) > 1:
                raise UserError(
                    f"{path}: {names.count(column.strip())} columns are named {column!r}; rename all but one"
                )
            rows = 0
            for line, row in reader:
                if row and len(row) != len(header):
                    raise UserError(
                        f"{path}: line {line}: {len(row)} cells where the header has "
                        f"{len(header)}; mend the row, or name another --delimiter than {delimiter!r}"
                    )
                rows += bool(row)
        except UnicodeDecodeError as error:
            from afina.encodings import first_break

            at = (first_break(path, encoding) or "").removesuffix(": ") or f"byte {error.start} of a block"
            raise UserError(f"{path}: {at} is not {encoding}; name another --encoding") from None
        except UnicodeError as error:  # a mark of the byte order that is missing
            raise UserError(f"{path}: not {encoding} ({error}); name another --encoding") from None
        except UnsoundQuotesError as error:
            raise UserError(
                f"{path}: line {error.line}: a quote opens and does not close; close it or write it twice"
            ) from None
        except csv.Error as error:
            raise UserError(f"{path}: after line {line}: not valid CSV ({error}); mend it") from None
    return _Csv(path, encoding, delimiter, header, names.index(column.strip()), rows, skipped)


def _names(header: Sequence[str]) -> list[str]:
    """The columns' names, without the spaces that people leave around them."""
    return [name.strip() for name in header]


def _detect_encoding(path: Path) -> str:
    """UTF-8, by its mark UTF-16 or 32; what was never UTF-8 is read as Windows' or ISO's Latin; it is said.

    Raises:
        UserError: another kind of file, or UTF-8 with a damaged place, which another encoding would read as
            something else than it was.
    """
    kind = _OTHER_KINDS.get(path.suffix.lower())
    with path.open("rb") as stream:
        start = stream.read(4)
    if start == b"PK\x03\x04":
        raise UserError(f"{path}: an Excel workbook or another archive; save it as CSV")
    if start == b"PAR1" or kind is not None:
        raise UserError(
            f"{path}: {kind or 'Parquet'}, and predict reads CSV; save it as CSV "
            "(`afina score` reads Parquet and JSON Lines)"
        )
    if start[:2] == b"\x1f\x8b":
        raise UserError(f"{path}: compressed; unpack it first (`afina score` reads .csv.gz)")
    if start in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):  # the first begins as UTF-16's does
        return "utf-32"
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    name = "utf-8-sig" if start[:3] == b"\xef\xbb\xbf" else "utf-8"
    if _decodes(path, name):
        return name
    from afina.encodings import detect_encoding, first_break

    if detect_encoding(path).startswith("utf-8"):
        at = first_break(path, "utf-8")
        raise UserError(f"{path}: {at}not valid UTF-8; mend the line, or name another --encoding")
    name = "cp1252" if _decodes(path, "cp1252") else "latin-1"
    print(f"{path}: not UTF-8, read as {name} (--encoding names another)", file=sys.stderr)
    return name


def _decodes(path: Path, encoding: str) -> bool:
    try:
        with path.open(encoding=encoding) as stream:
            while stream.read(1 << 20):
                pass
    except UnicodeDecodeError:
        return False
    return True


def _detect_delimiter(header: str, column: str) -> str:
    """The first delimiter with which the header has the column; a comma if there is none."""
    for delimiter in DELIMITERS:
        if column.strip() in _names(next(csv.reader([header], delimiter=delimiter))):
            return delimiter
    return likely_delimiter(header)


def _predict_csv(classifier: Classifier, table: _Csv, out: Path | None, prefix: str, top_k: int) -> None:
    """Write the rows of a CSV with label, probability, confidence and needs_person; memory stays constant.

    The answer has the delimiter of the question, in UTF-8 (marked as such where the question was). Cells that
    a spreadsheet would run as a formula get an apostrophe.
    """
    top_k = min(top_k, len(classifier.labels))
    names = ["label", "probability", "confidence", "needs_person"]
    if top_k > 1:
        names += [f"{name}_{rank}" for rank in range(1, top_k + 1) for name in ("label", "probability")]
    added = [prefix + name for name in names]
    taken = [name for name in added if name in table.header]
    if taken:
        raise UserError(
            f"{table.path}: has a column {taken[0]!r} already; tell the new ones apart with --prefix"
        )
    with ExitStack() as stack:
        target: TextIO = sys.stdout
        if out is not None:
            marked = table.encoding in ("utf-8-sig", "utf-16", "utf-32")
            target = stack.enter_context(_open_out(out, "utf-8-sig" if marked else "utf-8"))
        source = stack.enter_context(table.path.open(encoding=table.encoding, newline=""))
        progress = stack.enter_context(Progress("predict", table.rows, "texts"))
        reader = csv.reader(islice(source, table.skipped, None), delimiter=table.delimiter)
        writer = csv.writer(UnixLines(target), delimiter=table.delimiter, lineterminator="\r\n")
        next(reader)
        writer.writerow([escape_formula(cell) for cell in (*table.header, *added)])
        for rows in _chunks(filter(None, reader), CHUNK):
            predictions = classifier.predict([row[table.text_index] for row in rows], top_k)
            for row, prediction in zip(rows, predictions, strict=True):
                label, probability, *top = _cells(prediction, top_k)
                for_person = "yes" if prediction.needs_person else "no"
                confidence = f"{prediction.confidence:.6f}"
                cells = (*row, label, probability, confidence, for_person, *top)
                writer.writerow([escape_formula(cell) for cell in cells])
            progress.advance(len(rows))
    if out is not None:
        print(f"{out}: {table.rows:,} rows", file=sys.stderr)


@contextmanager
def _writing(out: Path | None) -> Iterator[None]:
    """Turn what goes wrong with a disk into a `UserError`; a reader that went away is none.

    Raises:
        UserError: a file cannot be read, or the answer not be written.
    """
    try:
        yield
        if out is None:
            sys.stdout.flush()
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        if out is None and error.filename is None:
            _give_up_stdout()
        written = error.filename is None or error.errno in FULL  # the error of a write names no file
        what = f"cannot write {out or 'to stdout'}" if written else f"{error.filename}: no access"
        raise UserError(f"predict: {what} ({error.strerror or error}); check it and run again") from None


@contextmanager
def _open_out(path: Path, encoding: str) -> Iterator[TextIO]:
    """Open a file that appears at ``path`` once it is whole; a device or pipe is written to as it is."""
    with ExitStack() as stack:
        try:
            target = path
            if path.is_file() or not path.exists():
                target = stack.enter_context(atomic_path(path.resolve()))
            stream = stack.enter_context(target.open("w", encoding=encoding, newline=""))
        except OSError as error:
            raise UserError(f"predict: --out: cannot write {path} ({error.strerror})") from None
        yield stream


# -------------------------------------------------------------------------------------- helpers


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _write_utf8() -> None:
    """Whatever the machine's own habits, a pipe or file gets UTF-8 and ``\\n``."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")


@contextmanager
def _known_encoding(encoding: str | None) -> Iterator[None]:
    try:
        yield
    except (LookupError, UnicodeError):  # the codec "undefined" encodes nothing
        raise UserError(
            f"predict: --encoding: no encoding is named {encoding!r}; utf-8, latin-1 ..."
        ) from None
