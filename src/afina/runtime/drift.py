"""Do today's texts and answers look like those that the model was checked on?

A `Reference` holds, for texts that the model was checked on, a histogram of each measure: which labels are
assigned, how sure the model is, how long the texts are, how many tokens are unknown, how many texts are cut
off. New texts are counted in the same bins, and each pair of histograms is compared:

- PSI, the population stability index: the sum over bins of (p - q) ln(p / q), also known as the Jeffreys
  divergence. Jeffreys, "An invariant form for the prior probability in estimation problems", Proceedings of
  the Royal Society A 186, 1946. The limits 0.1 and 0.25 are a convention of credit scoring: Siddiqi, "Credit
  Risk Scorecards", Wiley 2006.
- the Jensen-Shannon distance: Endres & Schindelin, "A new metric for probability distributions", IEEE
  Transactions on Information Theory 49, 2003.

The PSI of two samples is above 0 even where nothing changed, about (bins - 1)(1 / n + 1 / m): Yurdakul &
Naranjo, "Statistical properties of the population stability index", Journal of Risk Model Validation 14,
2020. So it is compared with what chance gives: pairs of samples of the same sizes, drawn from both samples
together (a parametric bootstrap). Only what exceeds the average of those counts towards the limits, and only
where it is more than chance.

No text is kept, only counts.
"""

from __future__ import annotations

import math
import operator
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Protocol, cast

import numpy as np
import numpy.typing as npt

from afina.errors import UserError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

Task = Literal["multiclass", "multilabel"]
Verdict = Literal["ok", "watch", "drifted", "too little data"]

# Share of texts with each label, labels a text (multilabel alone), confidence, length in tokens before
# truncation, share of a text's tokens that are unknown, and whether a text is cut off.
MEASURES = ("label_share", "labels_per_text", "confidence", "length", "unknown_tokens", "truncated")

NONE = "(none)"  # multilabel: no label is assigned
OTHER = "(other labels)"  # none that the reference knows

FORMAT = 1  # of Reference.to_json
MAX_LABELS_PER_TEXT = 8  # that have a bin of their own, more share the last
CONFIDENCE_BINS = 10
CONFIDENCE_UNITS = 10_000  # limits of those bins have 4 decimals; files of predictions have 6
LEAST_SHARE, LEAST_TEXTS = 0.02, 5  # of the reference in a bin of lengths, else it joins its neighbour
UNKNOWN_EDGES = (1e-9, 0.05, 0.2)
# Each is the square root of 2 times the one before, rounded.
LENGTH_EDGES = tuple(sorted({round(2 ** (half / 2)) for half in range(2, 29)}))

DRAWS = 2000  # of the bootstrap
LEAST_ALPHA = 0.01  # with fewer draws than 2000, or a smaller alpha, no p-value could be small enough
FEWEST_TEXTS = 30  # on either side, below which nothing is called ok
EXPECTED_TO_VANISH = 5.0  # texts that a label should have had to be called vanished where it has none
ENCODE_CHUNK = 4096  # texts handed to the tokenizer at a time


# -------------------------------------------------------------------------------------------- distances


def population_stability(reference: Sequence[float] | Floats, new: Sequence[float] | Floats) -> float:
    """The PSI of two histograms: sum over bins of (p - q) ln(p / q), with p and q the shares.

    Where a bin is empty on one side alone its logarithm is infinite. Then, and only then, one more row is
    added to each side, spread over the bins as both sides together are. Bins empty on both sides count
    nothing. 0 if and only if the shares are the same; symmetric.

    Args:
        reference: counts (k,), none negative, at least one above 0.
        new: counts of the same bins.

    Raises:
        ValueError: the shapes differ, or a count is negative or not a number, or all are 0.
    """
    first, second = _counts(reference, new)
    return float(_psi(first, second))


def jensen_shannon(reference: Sequence[float] | Floats, new: Sequence[float] | Floats) -> float:
    """The Jensen-Shannon distance of two histograms: the square root of the divergence to base 2.

    0 where the shares are the same, 1 where no bin is filled on both sides. Empty bins need no smoothing.

    Args:
        reference: counts (k,), none negative, at least one above 0.
        new: counts of the same bins.

    Raises:
        ValueError: as for `population_stability`.
    """
    first, second = _counts(reference, new)
    p, q = first / first.sum(), second / second.sum()
    middle = (p + q) / 2

    def divergence(part: Floats) -> float:
        filled = part > 0
        return float(np.sum(part[filled] * np.log2(part[filled] / middle[filled])))

    return math.sqrt(min(1.0, max(0.0, (divergence(p) + divergence(q)) / 2)))


def _counts(reference: Sequence[float] | Floats, new: Sequence[float] | Floats) -> tuple[Floats, Floats]:
    first, second = (np.asarray(side, dtype=np.float64) for side in (reference, new))
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"histograms of shapes {first.shape} and {second.shape} do not fit each other")
    for side in (first, second):
        if not (np.isfinite(side).all() and (side >= 0).all() and side.sum() > 0):
            raise ValueError("counts: expected numbers from 0, at least one of them above 0")
    return first, second


def _psi(first: Floats, second: Floats) -> Floats:
    """PSI over the last axis of counts (..., k)."""
    return np.asarray(_terms(first, second).sum(axis=-1))


def _terms(first: Floats, second: Floats) -> Floats:
    """What each bin adds to the PSI, (..., k)."""
    totals = first.sum(axis=-1, keepdims=True), second.sum(axis=-1, keepdims=True)
    pooled = (first + second) / (totals[0] + totals[1])
    smooth = ((first == 0) != (second == 0)).any(axis=-1, keepdims=True).astype(np.float64)
    p, q = (
        (side + smooth * pooled) / (total + smooth)
        for side, total in zip((first, second), totals, strict=True)
    )
    filled = pooled > 0
    return np.asarray((p - q) * np.log(np.where(filled, p, 1.0) / np.where(filled, q, 1.0)))


# ---------------------------------------------------------------------------------------------- samples


class _Named(Protocol):
    @property
    def label(self) -> str: ...


class Decision(Protocol):
    """What is read of a prediction, such as `afina.runtime.Prediction`."""

    @property
    def labels(self) -> Sequence[_Named]: ...

    @property
    def confidence(self) -> float: ...


@dataclass(frozen=True, eq=False)
class Sample:
    """What is known of n texts; what is None is not compared.

    Attributes:
        labels: the labels assigned to each text: one for multiclass, any number for multilabel.
        confidence: (n,) in [0, 1], as `afina.runtime.Prediction.confidence`.
        lengths: (n,) in tokens, special tokens included, before truncation; see `TokenCounter`.
        unknown: (n,) how many of those tokens are the unknown token.

    Raises:
        ValueError: the lengths differ, or a number is out of its range or none.
    """

    labels: Sequence[tuple[str, ...]]
    confidence: Floats | None = None
    lengths: Ints | None = None
    unknown: Ints | None = None

    def __post_init__(self) -> None:
        for name in ("confidence", "lengths", "unknown"):
            values = getattr(self, name)
            if values is None:
                continue
            values = np.asarray(values)
            if values.shape != (len(self.labels),):
                raise ValueError(f"{name}: {values.shape} numbers for {len(self.labels)} texts")
            top = 1.0 if name == "confidence" else np.inf
            wrong = np.flatnonzero(~((values >= 0) & (values <= top)))  # NaN is neither
            if len(wrong):
                bounds = "from 0 to 1" if name == "confidence" else "from 0"
                raise ValueError(f"{name}[{wrong[0]}]: expected a number {bounds}, found {values[wrong[0]]}")
        if self.unknown is not None and self.lengths is None:
            raise ValueError("unknown: lengths are missing")

    @classmethod
    def of(
        cls, predictions: Sequence[Decision], lengths: Ints | None = None, unknown: Ints | None = None
    ) -> Sample:
        """The sample of some predictions, with what `TokenCounter` says of their texts."""
        return cls(
            [tuple(score.label for score in one.labels) for one in predictions],
            np.array([one.confidence for one in predictions], dtype=np.float64),
            lengths,
            unknown,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, start: int, stop: int) -> Sample:
        """The texts from ``start`` to before ``stop``."""
        return Sample(
            self.labels[start:stop],
            None if self.confidence is None else self.confidence[start:stop],
            None if self.lengths is None else self.lengths[start:stop],
            None if self.unknown is None else self.unknown[start:stop],
        )


class TokenCounter:
    """How many tokens texts have before truncation, and how many of them are unknown.

    It has a tokenizer of its own, so threads may share it.

    Args:
        tokenizer_json: contents of a ``tokenizer.json``.
        cleaning: steps of `afina.runtime.text` that a raw text goes through first.
    """

    def __init__(self, tokenizer_json: str, cleaning: Sequence[str]) -> None:
        from tokenizers import Tokenizer  # here: comparing histograms takes numpy alone

        from afina.runtime.encoding import unknown_id

        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._cleaning = tuple(cleaning)
        self._unknown = unknown_id(self._tokenizer)

    def count(self, texts: Sequence[str]) -> tuple[Ints, Ints]:
        """Tokens, special ones included, and unknown tokens of each raw text, both int64 (n,)."""
        from afina.runtime.text import clean_text

        lengths = np.zeros(len(texts), dtype=np.int64)
        unknown = np.zeros(len(texts), dtype=np.int64)
        for start in range(0, len(texts), ENCODE_CHUNK):
            chunk = [clean_text(text, self._cleaning) for text in texts[start : start + ENCODE_CHUNK]]
            for at, encoding in enumerate(self._tokenizer.encode_batch_fast(chunk), start=start):
                ids = encoding.ids
                lengths[at] = len(ids)
                unknown[at] = 0 if self._unknown is None else ids.count(self._unknown)
        return lengths, unknown

    def count_ids(self, ids: Sequence[Ints]) -> tuple[Ints, Ints]:
        """The same of n texts that are token ids already, none of them cut off."""
        lengths = np.array([len(tokens) for tokens in ids], dtype=np.int64)
        if self._unknown is None:
            return lengths, np.zeros_like(lengths)
        counts = [np.count_nonzero(tokens == self._unknown) for tokens in ids]
        return lengths, np.array(counts, dtype=np.int64)


# ------------------------------------------------------------------------------------------- histograms


@dataclass(frozen=True)
class Histogram:
    """Counts of one measure.

    Attributes:
        bins: k names.
        counts: k whole numbers: texts in each bin; for label_share texts with each label, so that a text
            with two labels is in two bins.
        texts: how many texts were counted.
        squares: the sum over texts of the square of how many bins a text is in; ``texts`` where each is in
            one.
    """

    bins: tuple[str, ...]
    counts: tuple[int, ...]
    texts: int
    squares: int

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of the texts in each bin; 0 without a text."""
        return tuple(count / self.texts if self.texts else 0.0 for count in self.counts)

    def plus(self, other: Histogram) -> Histogram:
        """Both together; the bins are the same."""
        counts = tuple(map(operator.add, self.counts, other.counts))
        return Histogram(self.bins, counts, self.texts + other.texts, self.squares + other.squares)


@dataclass(frozen=True)
class Reference:
    """Histograms of the texts that a model was checked on.

    Attributes:
        task: multiclass or multilabel.
        labels: the L labels.
        max_length: tokens after which a text is cut off; None where that is not known.
        edges: of confidence and length, the inner limits of the bins, rising; a value is in the bin that
            begins at or before it. Measures without an entry are not compared.
        counts: of each measure, one number a bin.
        texts: how many texts were counted.
        squares: for multilabel, the sum of the squares of how many bins of label_share a text is in.
    """

    task: Task
    labels: tuple[str, ...]
    max_length: int | None
    edges: Mapping[str, tuple[float, ...]]
    counts: Mapping[str, tuple[int, ...]]
    texts: int
    squares: int

    @property
    def measures(self) -> tuple[str, ...]:
        """What can be compared, in the order of `MEASURES`."""
        return tuple(name for name in MEASURES if name in self.counts)

    @property
    def histograms(self) -> dict[str, Histogram]:
        """The reference's own histograms by measure."""
        return {
            name: Histogram(
                self.bins(name),
                self.counts[name],
                self.texts,
                self.squares if name == "label_share" else self.texts,
            )
            for name in self.measures
        }

    def bins(self, measure: str) -> tuple[str, ...]:
        """Names of a measure's bins."""
        return self._bins[measure]

    @cached_property
    def _bins(self) -> dict[str, tuple[str, ...]]:
        edges = FIXED_EDGES | dict(self.edges)
        labels = (*self.labels, *([NONE] if self.task == "multilabel" else []), OTHER)
        return {"label_share": labels} | {name: _bin_names(name, limits) for name, limits in edges.items()}

    @cached_property
    def _places(self) -> dict[str, int]:
        """The bin of each label."""
        return {name: at for at, name in enumerate(self._bins["label_share"])}

    def _edges(self, measure: str) -> tuple[float, ...]:
        return FIXED_EDGES[measure] if measure in FIXED_EDGES else self.edges[measure]

    def count(self, sample: Sample) -> dict[str, Histogram]:
        """Histograms of a sample in the reference's bins, of the measures that both have."""
        return {
            name: _histogram(self, name, values)
            for name, values in _values(sample, self.task, self.max_length).items()
            if name in self.counts
        }

    def nothing(self) -> dict[str, Histogram]:
        """Histograms of no text at all."""
        return {
            name: Histogram(self.bins(name), (0,) * len(self.counts[name]), 0, 0) for name in self.measures
        }

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads: names and numbers, a few kilobytes for a hundred labels, no text."""
        return {
            "format": FORMAT,
            "task": self.task,
            "labels": list(self.labels),
            "max_length": self.max_length,
            "texts": self.texts,
            "squares": self.squares,
            "edges": {name: list(self.edges[name]) for name in MEASURES if name in self.edges},
            "counts": {name: list(self.counts[name]) for name in self.measures},
        }

    @classmethod
    def from_json(cls, value: Any) -> Reference:
        """Read and check what `to_json` gave.

        Raises:
            ValueError: something is missing or cannot be so; the message says what.
        """
        try:
            if value["format"] != FORMAT:
                raise ValueError(f"of format {value['format']!r}, this afina reads {FORMAT}")
            task, length = value["task"], value["max_length"]
            if task not in ("multiclass", "multilabel"):
                raise ValueError(f"task: expected multiclass or multilabel, found {task!r}")
            reference = cls(
                task=cast(Task, task),
                labels=tuple(map(str, value["labels"])),
                max_length=None if length is None else _whole(length, "max_length"),
                edges={
                    str(name): tuple(float(edge) for edge in edges) for name, edges in value["edges"].items()
                },
                counts={
                    str(name): tuple(_whole(count, str(name)) for count in counts)
                    for name, counts in value["counts"].items()
                },
                texts=_whole(value["texts"], "texts"),
                squares=_whole(value["squares"], "squares"),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"incomplete or garbled ({type(error).__name__}: {error})") from None
        reference._check()
        return reference

    def _check(self) -> None:
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: expected different names")
        if "label_share" not in self.counts or not self.texts:
            raise ValueError("no texts were counted")
        for name, counts in self.counts.items():
            if name not in MEASURES:
                raise ValueError(f"measure {name!r} is not known")
            if name not in (*FIXED_EDGES, "label_share"):
                edges = self.edges.get(name)
                if edges is None or not all(map(math.isfinite, edges)) or list(edges) != sorted(set(edges)):
                    raise ValueError(f"{name}: expected rising limits of bins, found {edges}")
            if len(counts) != len(self.bins(name)):
                raise ValueError(f"{name}: {len(counts)} counts for {len(self.bins(name))} bins")
            if name != "label_share" and sum(counts) != self.texts:
                raise ValueError(f"{name}: counts add up to {sum(counts)}, not to {self.texts} texts")
        if not self.texts <= sum(self.counts["label_share"]) <= self.squares:
            raise ValueError("label_share: counts and texts do not fit each other")


def read_reference(value: Mapping[str, Any] | None, where: str) -> Reference:
    """The reference stored in a model file.

    Args:
        value: `afina.runtime.metadata.ArtifactMetadata.reference`.
        where: names the file in messages.

    Raises:
        UserError: there is none, or it is garbled.
    """
    if value is None:
        raise UserError(
            f"{where}: holds no reference to compare with; export the model again with this afina, or give a "
            "data file instead"
        )
    try:
        return Reference.from_json(value)
    except ValueError as error:
        raise UserError(f"{where}: metadata reference: {error}; export the model again") from None


FIXED_EDGES: dict[str, tuple[float, ...]] = {
    "labels_per_text": tuple(at - 0.5 for at in range(1, MAX_LABELS_PER_TEXT + 1)),
    "unknown_tokens": UNKNOWN_EDGES,
    "truncated": (0.5,),
}


def build_reference(
    sample: Sample, labels: Sequence[str], task: Task, max_length: int | None = None
) -> Reference:
    """Count a sample of texts that a model was checked on, best held-out ones, and choose bins by it.

    Confidence has `CONFIDENCE_BINS` bins with as many texts each, as far as equal values allow. Lengths have
    two bins an octave (…, 16, 23, 32, 45, …); one with less than `LEAST_SHARE` of the texts, or fewer than
    `LEAST_TEXTS`, is joined to its neighbour. The other measures have fixed bins.

    Args:
        sample: predictions of n texts, at least 1.
        labels: the L labels of the model.
        task: multiclass or multilabel.
        max_length: tokens after which the model cuts a text off; without it that is not compared.

    Raises:
        ValueError: the sample is empty, or has a label that is not of the model.
    """
    if not len(sample):
        raise ValueError("a reference needs at least one text")
    foreign = {label for row in sample.labels for label in row} - set(labels)
    if foreign:
        raise ValueError(f"label {min(foreign)!r} is none of the model's")
    edges: dict[str, tuple[float, ...]] = {}
    if sample.confidence is not None:
        edges["confidence"] = _quantile_edges(np.asarray(sample.confidence, dtype=np.float64))
    if sample.lengths is not None:
        edges["length"] = _length_edges(np.asarray(sample.lengths, dtype=np.float64))
    bare = Reference(task, tuple(labels), max_length, edges, {}, len(sample), len(sample))
    counted = {
        name: _histogram(bare, name, values) for name, values in _values(sample, task, max_length).items()
    }
    return Reference(
        task,
        tuple(labels),
        max_length,
        edges,
        {name: counted[name].counts for name in MEASURES if name in counted},
        len(sample),
        counted["label_share"].squares,
    )


def _values(sample: Sample, task: Task, max_length: int | None) -> dict[str, Any]:
    """What is counted of each measure: numbers (n,), or the labels themselves."""
    values: dict[str, Any] = {"label_share": sample.labels}
    if task == "multilabel":
        values["labels_per_text"] = np.array([len(row) for row in sample.labels], dtype=np.float64)
    if sample.confidence is not None:
        values["confidence"] = sample.confidence
    if sample.lengths is not None:
        lengths = np.asarray(sample.lengths, dtype=np.float64)
        values["length"] = lengths
        if sample.unknown is not None:
            values["unknown_tokens"] = sample.unknown / np.maximum(lengths, 1)
        if max_length is not None:
            values["truncated"] = (lengths > max_length).astype(np.float64)
    return values


def _histogram(reference: Reference, measure: str, values: Any) -> Histogram:
    bins = reference.bins(measure)
    if measure != "label_share":
        at = np.searchsorted(reference._edges(measure), values, side="right")
        counts = np.bincount(at, minlength=len(bins)).tolist()
        return Histogram(bins, tuple(counts), len(values), len(values))
    place = reference._places
    other = place[OTHER]
    found = [0] * len(bins)
    squares = 0
    for row in values:
        filled = {place.get(label, other) for label in row} or {place.get(NONE, other)}
        squares += len(filled) ** 2
        for index in filled:
            found[index] += 1
    return Histogram(bins, tuple(found), len(values), squares)


def _quantile_edges(values: Floats) -> tuple[float, ...]:
    """Inner limits between bins of about equal counts, rounded down: a value printed with 6 decimals stays
    in its bin."""

    def down(value: float) -> int:
        units = math.floor(value * CONFIDENCE_UNITS)
        return units - int(units / CONFIDENCE_UNITS > value)  # the product may have been rounded up

    steps = np.arange(1, CONFIDENCE_BINS) / CONFIDENCE_BINS
    lowest = down(float(values.min()))
    quantiles = np.quantile(values, steps, method="higher").tolist()
    edges = sorted({down(value) for value in quantiles} - {lowest})
    # All values are one: what is below it and above it has to have a bin too.
    edges = edges or [lowest, lowest + 1]
    return tuple(edge / CONFIDENCE_UNITS for edge in edges)


def _length_edges(values: Floats) -> tuple[float, ...]:
    """Those of LENGTH_EDGES that leave enough texts in every bin."""
    least = max(LEAST_SHARE * len(values), LEAST_TEXTS)
    below = [int((values < edge).sum()) for edge in LENGTH_EDGES]
    kept: list[float] = []
    before = 0
    for edge, count in zip(LENGTH_EDGES, below, strict=True):
        if count - before >= least and len(values) - count >= least:
            kept.append(float(edge))
            before = count
    return tuple(kept)


def _bin_names(measure: str, edges: Sequence[float]) -> tuple[str, ...]:
    if measure == "labels_per_text":
        return (*map(str, range(MAX_LABELS_PER_TEXT)), f"{MAX_LABELS_PER_TEXT} or more")
    if measure == "truncated":
        return ("whole", "cut off")
    if measure == "unknown_tokens":
        limits = [f"{100 * edge:g} %" for edge in edges[1:]]
        ranges = [f"{low} to {high}" for low, high in pairwise(limits)]
        return ("none", f"under {limits[0]}", *ranges, f"{limits[-1]} or more")
    if not edges:
        return ("any",)
    shown = [f"{edge:g}" for edge in edges]
    between = [f"{low} to {high}" for low, high in pairwise(shown)]
    return (f"below {shown[0]}", *between, f"{shown[-1]} or more")


def _whole(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{what}: expected a whole number from 0, found {value!r}")
    return value


# ------------------------------------------------------------------------------------------- comparison


@dataclass(frozen=True)
class Limits:
    """What counts as drift.

    Attributes:
        watch: PSI, above what chance gives, from which a measure is to be watched.
        drifted: from which it has drifted.
        alpha: risk that anything at all is called watch or drifted where nothing changed; shared by the
            measures (Bonferroni).

    Raises:
        ValueError: a number is out of its range.
    """

    watch: float = 0.1
    drifted: float = 0.25
    alpha: float = 0.05

    def __post_init__(self) -> None:
        # Written so that NaN is refused.
        if not 0 < self.watch < math.inf:
            raise ValueError(f"watch: expected a PSI above 0, such as 0.1, found {self.watch:g}")
        if not self.watch <= self.drifted < math.inf:
            raise ValueError(f"drifted: expected a PSI from {self.watch:g} (watch), found {self.drifted:g}")
        if not LEAST_ALPHA <= self.alpha < 0.5:
            raise ValueError(
                f"alpha: expected a risk from {LEAST_ALPHA:g} to below 0.5, found {self.alpha:g}"
            )


class BinChange(NamedTuple):
    """Shares of the texts in one bin, and what the bin adds to the PSI."""

    name: str
    reference: float
    new: float
    part: float


@dataclass(frozen=True)
class MeasureDrift:
    """One measure of new texts beside the reference's.

    Attributes:
        measure: one of `MEASURES`.
        verdict: what to make of it.
        reference_texts: texts of the reference.
        new_texts: new texts; without any, the numbers below are NaN.
        psi: of the two histograms.
        chance: the PSI that is to be expected of samples of these sizes where nothing changed.
        limit: the PSI that chance exceeds with a probability of ``alpha`` / measures.
        p_value: how probable this PSI or a larger one is where nothing changed.
        jensen_shannon: distance of the two histograms, 0 to 1.
        bins: every bin, in the histogram's order.
    """

    measure: str
    verdict: Verdict
    reference_texts: int
    new_texts: int
    psi: float
    chance: float
    limit: float
    p_value: float
    jensen_shannon: float
    bins: tuple[BinChange, ...]

    @property
    def excess(self) -> float:
        """The PSI above what chance gives on average: what the limits are about."""
        return self.psi - self.chance


@dataclass(frozen=True)
class Drift:
    """New texts beside a reference.

    Attributes:
        verdict: the worst of the measures': drifted, watch, too little data, ok.
        limits: what it was judged by.
        measures: in the order of `MEASURES`.
        missing: measures of the reference that are not known of the new texts.
        appeared: labels that the reference has no text of, and how many new texts have them.
        vanished: labels without a new text where at least `EXPECTED_TO_VANISH` were to be expected, and how
            many texts of the reference have them.
    """

    verdict: Verdict
    limits: Limits
    measures: tuple[MeasureDrift, ...]
    missing: tuple[str, ...]
    appeared: tuple[tuple[str, int], ...]
    vanished: tuple[tuple[str, int], ...]


def compare_to_reference(
    reference: Reference, new: Sample | Mapping[str, Histogram], limits: Limits | None = None
) -> Drift:
    """Compare new texts with a reference, measure by measure.

    A measure has ``drifted`` where its PSI exceeds what chance gives on average by ``limits.drifted`` or
    more, and chance alone would seldom give as much; ``watch`` likewise. Otherwise it is ``ok``; or ``too
    little data`` where chance alone so often exceeds its own average by ``limits.drifted`` that a drift of
    that size would go unseen about every second time, or where there are fewer than `FEWEST_TEXTS`.

    Args:
        reference: from `build_reference`.
        new: a sample, or what `Reference.count` made of one.
        limits: what counts as drift; default: `Limits` as they are.

    Returns:
        The same for the same input: the draws are seeded.
    """
    limits = Limits() if limits is None else limits
    counted = reference.count(new) if isinstance(new, Sample) else new
    old = reference.histograms
    names = [name for name in MEASURES if name in old and name in counted]
    level = limits.alpha / max(len(names), 1)
    measures = tuple(_measure(name, old[name], counted[name], limits, level) for name in names)
    labels = (old["label_share"], counted["label_share"])
    appeared, vanished = _came_and_went(*labels)
    if isinstance(new, Sample):
        appeared = _named(appeared, new, reference.labels)
    return Drift(
        verdict=worst([measure.verdict for measure in measures]),
        limits=limits,
        measures=measures,
        missing=tuple(name for name in old if name not in counted),
        appeared=appeared,
        vanished=vanished,
    )


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The one that matters most; too little data of none at all."""
    order: tuple[Verdict, ...] = ("drifted", "watch", "too little data", "ok")
    return min(verdicts, key=order.index, default="too little data")


def _measure(name: str, old: Histogram, new: Histogram, limits: Limits, level: float) -> MeasureDrift:
    if not new.texts:
        nothing = tuple(
            BinChange(bin_, share, 0.0, 0.0) for bin_, share in zip(old.bins, old.shares, strict=True)
        )
        nan = math.nan
        return MeasureDrift(name, "too little data", old.texts, 0, nan, nan, nan, nan, nan, nothing)
    first, second = np.asarray(old.counts, dtype=np.float64), np.asarray(new.counts, dtype=np.float64)
    psi = float(_psi(first, second))
    drawn = _by_chance(old, new)
    chance, limit = float(drawn.mean()), float(np.quantile(drawn, 1 - level))
    p_value = (1 + int((drawn >= psi * (1 - 1e-12)).sum())) / (len(drawn) + 1)
    verdict: Verdict = "ok"
    if p_value <= level and psi - chance >= limits.drifted:
        verdict = "drifted"
    elif p_value <= level and psi - chance >= limits.watch:
        verdict = "watch"
    elif limit - chance > limits.drifted or min(old.texts, new.texts) < FEWEST_TEXTS:
        verdict = "too little data"
    bins = tuple(
        BinChange(bin_, a, b, part)
        for bin_, a, b, part in zip(
            old.bins, old.shares, new.shares, _terms(first, second).tolist(), strict=True
        )
    )
    return MeasureDrift(
        name, verdict, old.texts, new.texts, psi, chance, limit, p_value, jensen_shannon(first, second), bins
    )


def _by_chance(old: Histogram, new: Histogram) -> Floats:
    """PSI of pairs of samples where nothing changed, (DRAWS,).

    Each pair has the sizes of the two histograms and is drawn from both together, entry by entry. A text of a
    multilabel model makes m entries, which are not independent. With the clumping c = E[m²] / E[m], where
    independent entries give k - 1 degrees of freedom for k labels, such entries have k - c on average, and a
    spread as of (k - c) / c of them, each c times as large. That is exact where labels come in fixed groups
    of c, and cautious where they do not; a gamma distribution of that mean and spread stands for it. After
    Rao & Scott, "The analysis of categorical data from complex sample surveys", Journal of the American
    Statistical Association 76, 1981.
    """
    pooled = np.asarray(old.counts, dtype=np.float64) + np.asarray(new.counts, dtype=np.float64)
    filled = pooled > 0
    shares = pooled[filled] / pooled.sum()
    generator = np.random.default_rng(0)
    pairs = [
        generator.multinomial(sum(side.counts), shares, size=DRAWS).astype(np.float64) for side in (old, new)
    ]
    drawn = _psi(pairs[0], pairs[1])
    clumping = (old.squares + new.squares) / float(pooled.sum())
    freedom = len(shares) - 1
    if clumping <= 1 or freedom < 1 or not drawn.any():
        return drawn
    ratio = max(len(shares) - clumping, 1.0) / freedom
    mean, variance = drawn.mean() * ratio, drawn.var() * clumping * ratio
    return np.asarray(generator.gamma(mean**2 / variance, variance / mean, size=DRAWS))


def _came_and_went(
    old: Histogram, new: Histogram
) -> tuple[tuple[tuple[str, int], ...], tuple[tuple[str, int], ...]]:
    rows = list(zip(old.bins, old.counts, new.counts, strict=True))
    appeared = tuple((name, after) for name, before, after in rows if after and not before)
    vanished = tuple(
        (name, before)
        for name, before, after in rows
        if not after and before / old.texts * new.texts >= EXPECTED_TO_VANISH
    )
    return appeared, vanished


def _named(
    appeared: tuple[tuple[str, int], ...], sample: Sample, labels: Sequence[str]
) -> tuple[tuple[str, int], ...]:
    """Labels that share the bin OTHER by their names, most frequent first."""
    known = set(labels)
    foreign: dict[str, int] = {}
    for row in sample.labels:
        for label in set(row) - known:
            foreign[label] = foreign.get(label, 0) + 1
    others = sorted(foreign.items(), key=lambda item: (-item[1], item[0]))
    return (*(item for item in appeared if item[0] != OTHER or not others), *others)


# ---------------------------------------------------------------------------------------------- monitor


class Monitor:
    """Drift of the texts that a running model answered last; threads may share it, its memory is constant.

    The window slides in blocks: at least ``(blocks - 1) / blocks`` of ``window`` texts are counted.

    Args:
        reference: what to compare with.
        window: how many of the last texts are compared, at least ``blocks``.
        limits: what counts as drift.
        blocks: in how many steps a window is renewed, at least 2.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self, reference: Reference, window: int = 2000, limits: Limits | None = None, blocks: int = 10
    ) -> None:
        if blocks < 2:
            raise ValueError(f"blocks: expected at least 2, found {blocks}")
        if window < blocks:
            raise ValueError(f"window: expected at least as many texts as blocks ({blocks}), found {window}")
        self.reference, self.limits = reference, Limits() if limits is None else limits
        self._block_size = -(-window // blocks)
        # Of full blocks, which are larger than a share of the window where that is no whole number.
        kept = -(-window * (blocks - 1) // (blocks * self._block_size))
        self._lock = threading.Lock()
        self._full: deque[dict[str, Histogram]] = deque(maxlen=kept)
        self._current = reference.nothing()
        self._in_block = 0
        self._seen = 0
        self._snapshot: tuple[int, Drift] | None = None

    @property
    def seen(self) -> int:
        """How many texts were observed in all."""
        return self._seen

    def observe(
        self,
        predictions: Sequence[Decision],
        lengths: Ints | None = None,
        unknown: Ints | None = None,
    ) -> None:
        """Count the answers to some texts.

        Args:
            predictions: of n texts, as `afina.runtime.Classifier.predict` gives them.
            lengths: (n,) tokens before truncation; None where they are not known.
            unknown: (n,) unknown tokens; None where they are not known.

        Raises:
            ValueError: as `Sample`.
        """
        self.observe_sample(Sample.of(predictions, lengths, unknown))

    def observe_sample(self, sample: Sample) -> None:
        """Count a sample, in pieces that fill one block after another."""
        with self._lock:
            for piece in self._pieces(sample):
                counted = self.reference.count(piece)
                for name, histogram in counted.items():
                    self._current[name] = self._current[name].plus(histogram)
                self._in_block += len(piece)
                self._seen += len(piece)
                if self._in_block == self._block_size:
                    self._full.append(self._current)
                    self._current, self._in_block = self.reference.nothing(), 0

    def _pieces(self, sample: Sample) -> Iterator[Sample]:
        start = 0
        while start < len(sample):
            stop = min(len(sample), start + self._block_size - self._in_block)
            yield sample if stop - start == len(sample) else sample.part(start, stop)
            start = stop

    def snapshot(self) -> Drift:
        """The window beside the reference; computed anew only where texts came since the last one."""
        with self._lock:
            seen, kept = self._seen, self._snapshot
            blocks = [*self._full, dict(self._current)]
        if kept is not None and kept[0] == seen:
            return kept[1]
        window = self.reference.nothing()
        for block in blocks:
            for name, histogram in block.items():
                window[name] = window[name].plus(histogram)
        # A measure that no caller gives is missing, as long as there are texts at all.
        if window["label_share"].texts:
            window = {name: histogram for name, histogram in window.items() if histogram.texts}
        drift = compare_to_reference(self.reference, window, self.limits)
        with self._lock:
            if self._snapshot is None or self._snapshot[0] <= seen:
                self._snapshot = (seen, drift)
        return drift
