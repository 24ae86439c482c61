"""`afina drift`: reads the files, compares them, and says what was found in words, a table or JSON."""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from afina.errors import UserError
from afina.params.extract import SUFFIXES, Source
from afina.progress import Progress
from afina.runtime.classifier import Classifier
from afina.runtime.drift import (
    Drift,
    Limits,
    MeasureDrift,
    Reference,
    Sample,
    Task,
    TokenCounter,
    build_reference,
    compare_to_reference,
    read_reference,
)
from afina.sources import read_chunks
from afina.sources.chunk import Chunk, Column, Rejects, check_columns
from afina.sources.values import scalar_text

SEPARATOR = "|"  # between the labels of a multilabel prediction in one cell
BATCH = 1024  # texts predicted at a time
KINDS = ("csv", "excel", "json", "jsonl", "parquet")
PARTS = ("csv", "jsonl")  # of a folder, beside Parquet
MOST_BINS = 8  # of a measure, in the list of what moved
TEXT = "text"  # the column of the texts, unless another one is named
MOST_NAMES = 20  # of labels that came or went


@dataclass(frozen=True)
class Comparison:
    """What was compared, and what was found."""

    reference: str
    new: str
    drift: Drift
    notes: tuple[str, ...]


def compare_files(
    reference: Path,
    new: Path,
    model: Path | None = None,
    column: str = TEXT,
    prefix: str = "",
    limits: Limits | None = None,
    threads: int | None = None,
) -> Comparison:
    """Compare a file of new texts, or of predictions of them, with a model's reference or another such file.

    Args:
        reference: a model.onnx that holds a reference, or a data file.
        new: a data file.
        model: predicts texts, and counts tokens, where ``reference`` is a data file.
        column: of the text, in both files.
        prefix: before the names of the columns with predictions, as given to `afina predict`.
        limits: what counts as drift.
        threads: processor threads.

    Raises:
        UserError: a file is missing, empty, of another kind or lacks a column; it holds texts but no
            predictions, and there is no model; a number or label in it is wrong; the model has no reference.
    """
    if _is_model(new):
        raise UserError(f"{new}: a model; NEW is a file of texts or of predictions")
    if _is_model(reference) and model is not None:
        raise UserError("drift: --model goes with a data file as REFERENCE; leave it out")
    path = reference if _is_model(reference) else model
    classifier = None if path is None else Classifier(path, threads=threads)
    if classifier is not None and _is_model(reference):
        known = _stored(classifier, str(reference))
        after = _read(new, column, prefix, classifier)
        files = [after]
    else:
        files = [_read(path, column, prefix, classifier) for path in (reference, new)]
        before, after = files
        known = _built(before, _task(files, classifier), classifier)
    _check_named(files, column, prefix)
    sample = after.sample(known.task, known.labels)
    assigned = {label for row in sample.labels for label in row}
    if assigned and not assigned & set(known.labels):
        raise UserError(
            f"{after.where}: none of its labels, such as {min(assigned)!r}, is one of {reference}'s; was it "
            "predicted by another model?"
        )
    notes = [note for file in files for note in file.notes()]
    return Comparison(
        str(reference),
        str(new),
        compare_to_reference(known, sample, limits),
        (*notes, *_not_compared(files, known, classifier is not None, column, prefix)),
    )


def _check_named(files: Sequence[_File], column: str, prefix: str) -> None:
    """Check that a column or prefix that was asked for is in some file."""
    if column != TEXT and all(file.layout.text is None for file in files):
        raise UserError(f"{files[-1].where}: no column {column!r}; name one with --column, or leave it out")
    if prefix and not any(file.layout.predicted for file in files):
        raise UserError(
            f"{files[-1].where}: no predictions in columns {prefix}label and {prefix}probability; correct "
            "--prefix, or leave it out"
        )


def _stored(classifier: Classifier, where: str) -> Reference:
    """The reference in a model file, which has to be of that model."""
    reference = read_reference(classifier.metadata.reference, where)
    if reference.labels != classifier.labels or reference.task != classifier.task:
        raise UserError(f"{where}: metadata reference: of another model; export the model again")
    return reference


def _built(file: _File, task: Task, classifier: Classifier | None) -> Reference:
    """A reference made of a data file."""
    if classifier is not None:
        labels, max_length = classifier.labels, classifier.metadata.max_length
        sample = file.sample(task, labels)
    else:
        sample, max_length = file.sample(task, None), None
        labels = tuple(sorted({label for row in sample.labels for label in row}))
    if not labels:
        raise UserError(f"{file.where}: no text has a label; there is nothing to compare with")
    try:
        return build_reference(sample, labels, task, max_length)
    except ValueError as error:
        raise UserError(f"{file.where}: {error}; name the model that predicted it") from None


def _is_model(path: Path) -> bool:
    return path.suffix.lower() == ".onnx"


def _not_compared(
    files: Sequence[_File], reference: Reference, tokenizer: bool, column: str, prefix: str
) -> Iterator[str]:
    """Why measures are missing, a line for each cause."""
    if not tokenizer:
        yield "Lengths and unknown tokens are not compared: --model names the model to count tokens with."
    for file in files:
        if tokenizer and file.layout.text is None:
            yield f"Lengths and unknown tokens are not compared: {file.where} has no column {column!r}."
        if not file.has_confidence(reference.task):
            yield f"Confidence is not compared: {file.where} has no column {prefix + 'confidence'!r}."


# ------------------------------------------------------------------------------------------ data files


@dataclass(frozen=True)
class _Layout:
    """The columns of a file that mean something here; ``predicted`` where predictions are among them."""

    text: str | None
    label: str | None
    probability: str | None
    confidence: str | None
    predicted: bool


@dataclass
class _File:
    """What was read of a data file: cells with predictions as they are, or the model's own answers."""

    path: Path
    layout: _Layout
    place: str  # what a row number counts: line or row
    parts: list[tuple[int, str]] = field(default_factory=list)  # of a folder: its first row's index, its path
    rows: list[int] = field(default_factory=list)
    cells: dict[str, list[Any]] = field(default_factory=dict)  # label, probability, confidence
    labels: list[tuple[str, ...]] = field(default_factory=list)  # by the model
    confidence: list[float] = field(default_factory=list)  # by the model
    tokens: list[tuple[Any, Any]] = field(default_factory=list)  # lengths and unknown, a pair a batch
    without_text: int = 0
    rejected: int = 0
    first_rejected: str = ""

    @property
    def where(self) -> str:
        return str(self.path)

    def part_of(self, at: int) -> str:
        """The path of the part that a row, by its index, is from."""
        part = bisect.bisect_right(self.parts, at, key=lambda part: part[0]) - 1
        return self.parts[part][1] if part >= 0 else self.where

    def notes(self) -> Iterator[str]:
        """What a person should know of how the file was read."""
        if self.rejected:
            rows, are = ("row", "is") if self.rejected == 1 else ("rows", "are")
            yield (
                f"{self.where}: {self.rejected:,} {rows} cannot be read and {are} left out; first: "
                f"{self.first_rejected}."
            )
        if self.without_text:
            plural = "s have" if self.without_text > 1 else " has"
            yield f"{self.where}: {self.without_text:,} row{plural} no text, taken as an empty one."

    def looks_multilabel(self) -> bool:
        """Whether a cell holds several labels, or a row none without being wrong."""
        labels = self.cells.get("label", [])
        if any(isinstance(cell, list) for cell in labels):
            return True
        probabilities = self.cells.get("probability", [])
        if any(isinstance(cell, str) and SEPARATOR in cell for cell in probabilities):
            return True
        return any(_blank(a) and _blank(b) for a, b in zip(labels, probabilities, strict=False))

    def has_confidence(self, task: Task) -> bool:
        """Whether the confidence is known; for multiclass it is the label's probability."""
        layout = self.layout
        if not layout.predicted or layout.confidence is not None:
            return True
        return task == "multiclass" and layout.probability is not None

    def sample(self, task: Task, known: Sequence[str] | None) -> Sample:
        """What the file says, read as predictions of a task; ``known`` are the labels to expect."""
        lengths = unknown = None
        if self.tokens:
            lengths, unknown = (np.concatenate(parts) for parts in zip(*self.tokens, strict=True))
        if not self.layout.predicted:
            return Sample(self.labels, np.array(self.confidence), lengths, unknown)
        names = frozenset(known or ())
        labels = [self._labels(at, task, names) for at in range(len(self.rows))]
        confidence = None
        if self.has_confidence(task):
            name = "probability" if self.layout.confidence is None else "confidence"
            confidence = np.array([self._share(at, name) for at in range(len(self.rows))])
        return Sample(labels, confidence, lengths, unknown)

    def _labels(self, at: int, task: Task, known: frozenset[str]) -> tuple[str, ...]:
        cell = self.cells["label"][at]
        parts: Sequence[Any] = cell if isinstance(cell, list) else [cell]
        if task == "multilabel" and not isinstance(cell, list):
            parts = list(_apart(_as_text(cell), known))
        names = [_as_text(part["label"] if _is_score(part) else part) for part in parts]
        names = [_unescaped(name, known) for name in names if name.strip()]
        if task == "multiclass" and len(names) != 1:
            raise self._wrong(at, "label", f"expected one label, found {len(names)}")
        return tuple(dict.fromkeys(names))

    def _share(self, at: int, name: str) -> float:
        cell = self.cells[name][at]
        try:
            number = float(cell)
        except (TypeError, ValueError):
            number = math.nan
        if not 0 <= number <= 1:
            shown = "nothing" if _blank(cell) else repr(_as_text(cell)[:20])
            raise self._wrong(at, name, f"expected a number from 0 to 1, found {shown}")
        return number

    def _wrong(self, at: int, name: str, what: str) -> UserError:
        column = getattr(self.layout, name)
        return UserError(
            f"{self.part_of(at)}: {self.place} {self.rows[at]}: {column}: {what}; correct it or predict again"
        )


def _task(files: Sequence[_File], classifier: Classifier | None) -> Task:
    if classifier is not None:
        return classifier.task
    return "multilabel" if any(file.looks_multilabel() for file in files) else "multiclass"


def _read(path: Path, column: str, prefix: str, classifier: Classifier | None) -> _File:
    """Read a data file, and let the model predict it where it holds no predictions."""
    where = str(path)
    sources = _sources(path)
    counter = None
    if classifier is not None:
        counter = TokenCounter(classifier.metadata.tokenizer, classifier.metadata.cleaning)
    rejects = Rejects(where)
    place = "line" if sources[0].kind in ("csv", "jsonl") else "row"
    file: _File | None = None
    first_rejected = ""
    with Progress(f"reading {path.name}", unit="rows") as progress:
        for source in sources:
            begun = False
            for chunk in read_chunks(source, Path.cwd(), {}, None, rejects):
                if file is None:
                    file = _File(path, _layout(chunk, str(source.path), column, prefix, classifier), place)
                if not begun:
                    file.parts.append((len(file.rows), str(source.path)))
                    begun = True
                _add(file, chunk, classifier, counter, progress)
            if rejects.items and not first_rejected:
                row, reason, _ = rejects.items[0]  # the rest of it is text of the row
                part = f"{source.path}: " if len(sources) > 1 else ""
                first_rejected = f"{part}{place} {row}: {reason}"
    if file is None or not file.rows:
        shown = f"; first: {first_rejected}" if first_rejected else ""
        raise UserError(f"{where}: no rows that can be read{shown}; give a file with texts or predictions")
    file.rejected, file.first_rejected = len(rejects.items), first_rejected
    return file


def _sources(path: Path) -> list[Source]:
    """A file; of a folder its Parquet files as one, or each of its CSV or JSON Lines files."""
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if not path.is_dir():
        if not path.stat().st_size and _kind(path) in KINDS:
            raise UserError(f"{path}: the file is empty; give a file with texts or predictions")
        return [_source(path)]
    if any(path.rglob("*.parquet")):
        return [_source(path, format="parquet")]
    parts = [part for part in sorted(path.iterdir()) if _kind(part) in PARTS and part.name[0] not in "._"]
    kinds = sorted({str(_kind(part)) for part in parts})
    if len(kinds) != 1:
        found = f"a folder with {' and '.join(kinds)} files" if kinds else "a folder without data files"
        raise UserError(f"{path}: {found}; give one of CSV, JSON Lines or Parquet files alone, or a file")
    # What holds no row at all, as a part of which every row failed, has nothing to say.
    return [_source(part) for part in parts if part.stat().st_size] or [_source(parts[0])]


def _kind(path: Path) -> str | None:
    suffix = PurePosixPath(path.name.lower().removesuffix(".gz")).suffix
    return SUFFIXES.get(suffix) if suffix else None


def _source(path: Path, **options: str) -> Source:
    if not options and _kind(path) not in KINDS:
        raise UserError(f"{path}: unknown kind of file; give CSV, JSON Lines, Parquet or Excel")
    return Source.model_validate({"path": str(path), "text": "text", "label": "label", **options})


def _layout(chunk: Chunk, where: str, column: str, prefix: str, classifier: Classifier | None) -> _Layout:
    columns = chunk.columns

    def present(*names: str) -> str | None:
        return next((prefix + name for name in names if prefix + name in columns), None)

    label, probability, confidence = present("label", "labels"), present("probability"), present("confidence")
    scored = label is not None and any(
        isinstance(cell, list) and any(map(_is_score, cell)) for cell in _plain(columns[label])
    )
    predicted = label is not None and (probability is not None or confidence is not None or scored)
    text = column if column in columns else None
    if not predicted:
        if classifier is None:
            raise UserError(
                f"{where}: holds no predictions (columns {prefix}label and {prefix}probability); name the "
                "model with --model, or run `afina predict` on it first"
            )
        check_columns([column], columns, where, "; name one with --column")
    return _Layout(text, label, probability, confidence, predicted)


def _add(
    file: _File,
    chunk: Chunk,
    classifier: Classifier | None,
    counter: TokenCounter | None,
    progress: Progress,
) -> None:
    layout = file.layout
    size = len(chunk.rows)
    file.rows.extend(chunk.rows)
    if layout.predicted:
        for name in ("label", "probability", "confidence"):
            column = getattr(layout, name)
            if column is not None:
                file.cells.setdefault(name, []).extend(_plain(chunk.columns.get(column, [None] * size)))
    if classifier is None or counter is None or layout.text is None:
        progress.advance(size)
        return
    texts = _texts(
        chunk.columns.get(layout.text, [None] * size),
        f"{file.part_of(len(file.rows) - 1)}: column '{layout.text}'",
    )
    file.without_text += sum(not text.strip() for text in texts)
    for start in range(0, size, BATCH):
        batch = texts[start : start + BATCH]
        file.tokens.append(counter.count(batch))
        if not layout.predicted:
            for prediction in classifier.predict(batch):
                file.labels.append(tuple(score.label for score in prediction.labels))
                file.confidence.append(min(1.0, max(0.0, prediction.confidence)))
        progress.advance(len(batch))


def _plain(values: Column) -> list[Any]:
    return list(values.to_pylist() if isinstance(values, pa.Array) else values)


def _texts(values: Column, where: str) -> list[str]:
    """Cells as texts, nothing as an empty one."""
    texts = []
    for cell in _plain(values):
        parts = cell if isinstance(cell, list) else [cell]
        try:
            texts.append("\n".join(part for part in map(scalar_text, parts) if part))
        except TypeError:
            raise UserError(
                f"{where} holds objects, not text; name a field inside by its dotted path"
            ) from None
    return texts


def _as_text(cell: Any) -> str:
    try:
        return scalar_text(cell) or ""
    except TypeError:
        return ""


def _blank(cell: Any) -> bool:
    return not isinstance(cell, list | dict) and not _as_text(cell).strip()


def _is_score(part: Any) -> bool:
    return isinstance(part, Mapping) and "label" in part


def _apart(cell: str, known: frozenset[str]) -> Iterator[str]:
    """The labels in a cell; a known one may hold the separator, and the longest that is there is meant."""
    parts = cell.split(SEPARATOR)
    most = _most_parts(known)
    at = 0
    while at < len(parts):
        names = [SEPARATOR.join(parts[at : at + count]).strip() for count in range(1, most + 1)]
        whole = (count for count in range(most, 1, -1) if _unescaped(names[count - 1], known) in known)
        count = next(whole, 1)
        yield names[count - 1]
        at += count


@functools.lru_cache(maxsize=4)
def _most_parts(labels: frozenset[str]) -> int:
    """In how many parts the separator tears a label at most."""
    return max((label.count(SEPARATOR) + 1 for label in labels), default=1)


def _unescaped(name: str, known: frozenset[str]) -> str:
    """A label as the model calls it, where it was written so that no spreadsheet takes it for a formula."""
    if name in known or "'" not in name:
        return name
    return _bare(known).get(name.replace("'", ""), name)


@functools.lru_cache(maxsize=4)
def _bare(labels: frozenset[str]) -> dict[str, str]:
    """Labels by what is left without apostrophes, all that escaping adds; none of two that are alike."""
    bare: dict[str, list[str]] = {}
    for label in labels:
        bare.setdefault(label.replace("'", ""), []).append(label)
    return {key: found[0] for key, found in bare.items() if len(found) == 1}


# ---------------------------------------------------------------------------------------------- report


def text(comparison: Comparison) -> str:
    """The comparison as aligned plain text; its first line is the verdict."""
    drift = comparison.drift
    parts = [f"{drift.verdict}: {_finding(drift)}"]
    header = ("measure", "reference", "new", "PSI", "by chance", "p", "JS distance", "verdict")
    parts.append("\n".join(_aligned([header, *map(_row, drift.measures)])))
    for measure in drift.measures:
        if measure.verdict in ("watch", "drifted"):
            parts.append("\n".join(_moved(measure)))
    notes = [
        f"Labels without a text in the reference: {_listed(drift.appeared)}." if drift.appeared else "",
        f"Labels without a new text: {_listed(drift.vanished)}." if drift.vanished else "",
        *map(_line, comparison.notes),
    ]
    notes = [note for note in notes if note]
    if notes:
        parts.append("\n".join(notes))
    setting = (
        f"reference {_line(comparison.reference)}, new {_line(comparison.new)}; PSI above chance: watch from "
        f"{drift.limits.watch:g}, drifted from {drift.limits.drifted:g}"
    )
    parts.append(setting)
    return "\n\n".join(parts) + "\n"


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON knows it; every number that `text` shows, with more digits."""
    drift = comparison.drift
    return {
        "verdict": drift.verdict,
        "reference": comparison.reference,
        "new": comparison.new,
        "limits": {
            "watch": drift.limits.watch,
            "drifted": drift.limits.drifted,
            "alpha": drift.limits.alpha,
        },
        "measures": [
            {
                "measure": measure.measure,
                "verdict": measure.verdict,
                "reference_texts": measure.reference_texts,
                "new_texts": measure.new_texts,
                "psi": _rounded(measure.psi),
                "chance": _rounded(measure.chance),
                "limit": _rounded(measure.limit),
                "p_value": _rounded(measure.p_value),
                "jensen_shannon": _rounded(measure.jensen_shannon),
                "bins": [
                    {
                        "name": change.name,
                        "reference": _rounded(change.reference),
                        "new": _rounded(change.new),
                    }
                    for change in measure.bins
                ],
            }
            for measure in drift.measures
        ],
        "missing": list(drift.missing),
        "appeared": [{"label": label, "texts": texts} for label, texts in drift.appeared],
        "vanished": [{"label": label, "reference_texts": texts} for label, texts in drift.vanished],
        "notes": list(comparison.notes),
    }


def _finding(drift: Drift) -> str:
    names = ", ".join(_title(one.measure) for one in drift.measures if one.verdict == drift.verdict)
    match drift.verdict:
        case "ok":
            return "nothing differs from the reference by more than chance and the limits allow"
        case "too little data":
            return f"a drift of {names} would often go unseen with so few texts"
    return names


def _row(measure: MeasureDrift) -> tuple[str, ...]:
    return (
        _title(measure.measure),
        f"{measure.reference_texts:,}",
        f"{measure.new_texts:,}",
        f"{measure.psi:.3f}",
        f"{measure.chance:.3f}",
        "< 0.001" if measure.p_value < 0.001 else f"{measure.p_value:.3f}",
        f"{measure.jensen_shannon:.3f}",
        measure.verdict,
    )


def _moved(measure: MeasureDrift) -> list[str]:
    """The bins that make most of a PSI."""
    moved = sorted((one for one in measure.bins if one.part > 0), key=lambda one: -one.part)[:MOST_BINS]
    rows = [(_line(one.name), f"{100 * one.reference:.1f} %", f"{100 * one.new:.1f} %") for one in moved]
    title = _title(measure.measure).capitalize()
    return [f"{title}, what moved most:", *_aligned([("", "reference", "new"), *rows])]


def _title(measure: str) -> str:
    return measure.replace("_", " ")


def _listed(labels: Sequence[tuple[str, int]]) -> str:
    named = [f"{_line(label)} ({texts:,})" for label, texts in labels[:MOST_NAMES]]
    more = f" and {len(labels) - MOST_NAMES} more" if len(labels) > MOST_NAMES else ""
    return ", ".join(named) + more


def _line(name: str) -> str:
    """On one line, without what a terminal would obey."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as columns of equal width: the first to the left, the others to the right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
