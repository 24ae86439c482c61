"""Labels that are likely wrong, by confident learning, for a person to go through.

A label is judged by models that never saw its row. Confident learning (Northcutt, Jiang & Chuang, "Confident
Learning: Estimating Uncertainty in Dataset Labels", Journal of Artificial Intelligence Research 70, 2021)
says which labels a model doubts: it counts the rows of each class that are as probable members of another
class as the rows of that other class are on average, and doubts so many of them. By the library cleanlab.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from afina.errors import UserError
from afina.evaluation.metrics import FloatArray, IntArray, ratio
from afina.evaluation.tables import NONE, SEPARATOR
from afina.labels import Task, decode_labels

Mask = npt.NDArray[np.bool_]

# How confident learning picks the rows; the names are cleanlab's.
Filter = Literal["prune_by_noise_rate", "prune_by_class", "both", "confident_learning", "predicted_neq_given"]
RankBy = Literal["votes", "unanimity"]

DOUBTS_HEADER = ("id", "split", "given", "suggested", "quality", "doubted_by", "accepted_by", "text")


@dataclass(frozen=True)
class Opinion:
    """What one model makes of the labels given to n rows."""

    probabilities: FloatArray  # (n, L)
    judged: Mask  # (n,) whether the model can say anything of the row
    doubted: Mask  # (n, L) multiclass: at most the label given; multilabel: any label given or missing
    quality: FloatArray  # (n,) in [0, 1], the lower the worse; NaN where the row is not judged


def confident_learning(
    y: IntArray,
    probabilities: FloatArray,
    task: Task,
    judged: Mask | None = None,
    filter_by: Filter = "prune_by_noise_rate",
) -> Opinion:
    """Which labels one model doubts, by confident learning (see the module), through cleanlab.

    It counts first and picks then: a label that is wrong alone of its kind may pass. For multilabel each
    label is a problem of two classes, to have it or not.

    ``quality`` is, for multiclass, the normalised margin (p + 1) / 2, where p is the probability of the label
    given less that of the most probable other: a text of which the model knows nothing is about 1/2, not 0.
    For multilabel it is the lowest over the labels of the probability that the label is as given.

    Args:
        y: class indexes (n,) or multi-hot (n, L) as given.
        probabilities: (n, L) of a model that did not see the rows; a row with NaN is not judged.
        judged: (n, L) as in `OutOfFold`; None: every label.
        filter_by: how the rows are picked; ``prune_by_noise_rate`` is the paper's PBNR, ``both`` its C+NR.

    Raises:
        UserError: the library cleanlab is not installed.
    """
    cells = np.ones(probabilities.shape, dtype=bool) if judged is None else judged
    usable = np.asarray(np.isfinite(probabilities).all(axis=1))
    doubted = np.zeros(probabilities.shape, dtype=bool)
    quality = np.full(len(y), np.nan)
    if task == "multiclass":
        usable &= cells[np.arange(len(y)), y]
        rows = np.flatnonzero(usable)
        if len(rows):
            given, scores = y[rows], probabilities[rows].astype(np.float64)
            quality[rows] = _margins(given, scores)
            # With one class there is nothing to confuse it with.
            if len(np.unique(given)) > 1:
                doubted[rows, given] = _ask_cleanlab("filter.find_label_issues", given, scores, filter_by)
        return Opinion(probabilities, usable, doubted, quality)
    rows = np.flatnonzero(usable)
    # What is not judged counts as certainly right.
    scores = np.where(cells[rows], probabilities[rows], y[rows]).astype(np.float64)
    quality[rows] = np.where(y[rows] == 1, scores, 1 - scores).min(axis=1)
    varied = np.flatnonzero(y[rows].any(axis=0) & ~y[rows].all(axis=0)) if len(rows) else np.zeros(0, int)
    if len(varied):
        lists = [np.flatnonzero(row).tolist() for row in y[rows][:, varied]]
        name = "multilabel_classification.filter.find_multilabel_issues_per_class"
        doubted[np.ix_(rows, varied)] = _ask_cleanlab(name, lists, scores[:, varied], filter_by)
    return Opinion(probabilities, usable, doubted & cells, quality)


def _margins(given: IntArray, probabilities: FloatArray) -> FloatArray:
    """The normalised margins (n,) of the labels given, in [0, 1]."""
    own = probabilities[np.arange(len(given)), given]
    others = probabilities.copy()
    others[np.arange(len(given)), given] = -np.inf
    return np.asarray((own - others.max(axis=1) + 1) / 2)


def _ask_cleanlab(name: str, given: Any, scores: FloatArray, filter_by: Filter) -> Any:
    """The issues that a function of cleanlab, named with its module, finds in labels and probabilities."""
    module, function = f"cleanlab.{name}".rsplit(".", 1)
    try:
        find = getattr(importlib.import_module(module), function)
    except ImportError:
        raise UserError(
            'audit: label errors are found by the library cleanlab; `pip install "afina[pipeline]"`'
        ) from None
    with warnings.catch_warnings():
        # That of a class with few rows not all errors are found.
        warnings.simplefilter("ignore", UserWarning)
        # Processes of its own would start anew for every label.
        return find(given, scores, filter_by=filter_by, n_jobs=1)


@dataclass(frozen=True)
class Doubt:
    """A row whose label is likely wrong; the labels of a multilabel row are joined by ``|``."""

    id: str
    split: str
    given: str
    suggested: str
    quality: float  # in [0, 1], the lower the worse
    doubted_by: str  # the models that doubt the label, joined by |
    accepted_by: str  # those that judged it and do not
    text: str  # on one line


def rank_doubts(
    ids: Sequence[str],
    splits: Sequence[str],
    texts: Sequence[str],
    y: IntArray,
    labels: Sequence[str],
    opinions: Mapping[str, Opinion],
    limit: int,
    rank_by: RankBy = "unanimity",
) -> list[Doubt]:
    """The rows whose labels are doubted, the most doubtful first, at most ``limit``.

    ``votes``: a row that more models doubt comes first; of equally many, one that fewer models accept.
    ``unanimity``: a row that fewer models accept comes first, so that one that a single model judged, as it
    is with train, is not last for that. Then lower quality, which is the mean over the models that judged the
    row, comes first; then the id decides.

    The label suggested is the one that the models that doubt the given one hold most probable on average; for
    multilabel, the given ones with every label changed that most models doubt.

    Args:
        y: class indexes (n,) or multi-hot (n, L) as given.
        opinions: by name of the model; at least one.
    """
    votes = np.sum([opinion.doubted for opinion in opinions.values()], axis=0, dtype=np.int64)
    most = votes.max(axis=1)
    judges = np.sum([opinion.judged for opinion in opinions.values()], axis=0)
    total = np.sum([np.where(o.judged, o.quality, 0.0) for o in opinions.values()], axis=0)
    # Rounded first, so that the order of the list is that of the numbers in it.
    quality = np.round(ratio(total, judges), 4)
    first = -most if rank_by == "votes" else np.zeros_like(most)
    doubted = map(int, np.flatnonzero(most))
    order = sorted(doubted, key=lambda row: (first[row], judges[row] - most[row], quality[row], ids[row]))
    rows = order[:limit]
    changed = (votes == most[:, None])[rows]
    suggested = _suggest(y, rows, changed, list(opinions.values()))
    names = decode_labels(y[rows], labels), decode_labels(suggested, labels)
    result = []
    for row, change, given, better in zip(rows, changed, *names, strict=True):
        against = [name for name, o in opinions.items() if (o.doubted[row] & change).any()]
        accepted = [name for name, o in opinions.items() if o.judged[row] and name not in against]
        result.append(
            Doubt(
                ids[row],
                splits[row],
                SEPARATOR.join(given) or NONE,
                SEPARATOR.join(better) or NONE,
                float(quality[row]),
                SEPARATOR.join(against),
                SEPARATOR.join(accepted),
                " ".join(texts[row].split()),
            )
        )
    return result


def _suggest(y: IntArray, rows: Sequence[int], changed: Mask, opinions: Sequence[Opinion]) -> IntArray:
    """The labels of some rows as they should be."""
    if y.ndim == 2:
        return np.asarray(y[rows] ^ changed, dtype=np.int8)
    total = np.zeros(changed.shape)
    for opinion in opinions:
        doubting = opinion.doubted[rows].any(axis=1)
        total[doubting] += opinion.probabilities[rows][doubting]
    total[np.arange(len(rows)), y[rows]] = -1.0
    return np.asarray(total.argmax(axis=1), dtype=np.int64)


@dataclass(frozen=True)
class ListScore:
    """How good the first rows of a list of likely errors are."""

    rows: int  # length of the list judged
    hits: int  # wrong labels among them
    precision: float  # hits / rows; 0 for an empty list
    recall: float  # hits / all wrong labels; 0 where there are none


def score_against_truth(
    listed_ids: Sequence[str], wrong_ids: Collection[str], lengths: Sequence[int] = ()
) -> list[ListScore]:
    """Precision and recall of a ranked list where it is known which labels are wrong.

    Args:
        listed_ids: ids of the rows listed, the most doubtful first, each once.
        wrong_ids: ids of all rows with a wrong label among those that could have been listed.
        lengths: how many of the first rows to judge; longer ones than the list count as all of it.

    Returns:
        One score a length in rising order, each once, the whole list last.
    """
    wrong = set(wrong_ids)
    right = np.cumsum([0, *(listed in wrong for listed in listed_ids)])
    cut = sorted({min(length, len(listed_ids)) for length in [*lengths, len(listed_ids)]})
    return [
        ListScore(
            rows,
            int(right[rows]),
            float(right[rows] / rows) if rows else 0.0,
            float(right[rows] / len(wrong)) if wrong else 0.0,
        )
        for rows in cut
    ]
