"""Pairs of labels that look like one class: taken for each other, and near each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from afina.errors import UserError
from afina.evaluation.metrics import FloatArray, IntArray, count, one_hot, predict, ratio
from afina.evaluation.thresholds import fit_thresholds
from afina.labels import Task
from afina.params.baseline import BaselineParams

MIN_POSITIVES = 5  # a label with fewer rows keeps the neutral threshold
ONE_CLASS = 0.5  # mutual confusion from which two labels are closer to one class than to two
ABSORBED = 0.25  # share of a label's rows that go to another, which gives few back, from which it disappears

PAIRS_HEADER = (
    "label",
    "other",
    "score",
    "label_as_other",
    "other_as_label",
    "similarity",
    "label_rows",
    "other_rows",
    "macro_f1_change",
    "suggestion",
)


@dataclass(frozen=True)
class LabelPair:
    """Two labels that are taken for each other, the one with fewer rows first."""

    label: str
    other: str
    score: float  # in [0, 1]; see `similar_labels`
    label_as_other: float  # share of the rows of the first that are said to be of the other instead
    other_as_label: float
    similarity: float  # cosine of their centroids
    label_rows: int
    other_rows: int
    macro_f1_change: float  # if they were one label; see `macro_f1_of_merged`
    suggestion: str


def predicted_labels(y: IntArray, probabilities: FloatArray, task: Task) -> IntArray:
    """What out-of-fold probabilities (n, L) predict; multilabel with thresholds fitted to the same rows."""
    thresholds = fit_thresholds(y, probabilities, MIN_POSITIVES) if task == "multilabel" else None
    return predict(probabilities, task, thresholds)


def confusion_shares(y: IntArray, probabilities: FloatArray, predicted: IntArray) -> FloatArray:
    """Share (L, L) of the rows of label a that are said to be of b instead; 0 on the diagonal.

    That is, b is predicted, wrongly, and is more probable than a. In multilabel both may be predicted: where
    two labels are not told apart, often they are. A label without rows is confused with nothing.

    Args:
        y: class indexes (n,) or multi-hot (n, L).
        probabilities, predicted: as given to `predicted_labels` and got from it.
    """
    width = probabilities.shape[1]
    truth, said = (one_hot(part, width).astype(bool) for part in (y, predicted))
    taken = np.zeros((width, width), dtype=np.int64)
    for label in range(width):
        rows = np.flatnonzero(said[:, label] & ~truth[:, label])
        scores = probabilities[rows]
        taken[:, label] = (truth[rows] & (scores < scores[:, [label]])).sum(axis=0)
    return ratio(taken, truth.sum(axis=0)[:, None])


def embed_words(texts: Sequence[str], params: BaselineParams) -> Any:
    """TF-IDF (n, features) of the word n-grams that the baseline counts, or of its character n-grams.

    Raises:
        UserError: no n-gram is frequent enough to count.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    shared: dict[str, Any] = {
        "sublinear_tf": True,
        "min_df": params.min_df,
        "max_features": params.max_features,
    }
    for analyzer, ngrams in (("word", params.word_ngrams), ("char_wb", params.char_ngrams)):
        if ngrams is not None:
            pattern = r"\b\w+\b" if analyzer == "word" else None
            vectorizer = TfidfVectorizer(
                analyzer=analyzer, ngram_range=ngrams, token_pattern=pattern, **shared
            )
            try:
                return vectorizer.fit_transform(texts)
            except ValueError:  # no n-gram is left; those of the other kind may do
                continue
    raise UserError(
        f"baseline.min_df: no n-gram appears in {params.min_df} of the {len(texts)} texts; lower it"
    )


def centroid_similarity(vectors: Any, y: IntArray, label_count: int) -> FloatArray:
    """Cosines (L, L) of the labels' centroids: the mean of the rows of each, every row scaled to length 1.

    Args:
        vectors: (n, d) TF-IDF, sparse or dense, or embeddings.
        y: class indexes (n,) or multi-hot (n, L).

    Returns:
        Symmetric, 1 on the diagonal; 0 for a label without rows.
    """
    from sklearn.preprocessing import normalize

    members = sparse.csr_array(one_hot(y, label_count).T.astype(np.float64))
    # The length of a sum is that of its mean as far as a cosine goes.
    centroids = normalize(sparse.csr_array(members @ sparse.csr_array(normalize(vectors))))
    return np.asarray((centroids @ centroids.T).toarray())


def macro_f1_of_merged(
    y: IntArray, probabilities: FloatArray, predicted: IntArray, first: int, second: int
) -> float:
    """Macro-F1 over L - 1 labels, had two been one, without fitting again.

    multiclass: their probabilities are added before the highest is taken. multilabel: a row has the merged
    label where it has either, and is said to have it where either is predicted. Half of what a merger gains
    is the arithmetic of an average over fewer labels; a model fitted on the merged label may do better.

    Args:
        y: class indexes (n,) or multi-hot (n, L).
        probabilities, predicted: as given to `predicted_labels` and got from it.
    """
    width = probabilities.shape[1]
    kept = np.delete(np.arange(width), second)
    if y.ndim == 1:
        merged = probabilities.astype(np.float64)
        merged[:, first] += merged[:, second]
        truth, said = np.where(y == second, first, y), kept[merged[:, kept].argmax(axis=1)]
        truth, said = one_hot(truth, width), one_hot(said, width)
    else:
        truth, said = y.copy(), predicted.copy()
        for part in (truth, said):
            part[:, first] |= part[:, second]
    return float(count(truth[:, kept], said[:, kept], width - 1).f1.mean())


def similar_labels(
    y: IntArray,
    probabilities: FloatArray,
    similarity: FloatArray,
    labels: Sequence[str],
    task: Task,
    limit: int,
    min_score: float = 0.0,
) -> list[LabelPair]:
    """Pairs of labels that look like one class, the most alike first, at most ``limit``.

    The score is the geometric mean of two numbers in [0, 1]: the mutual confusion, which is the sum of both
    confusion shares, at most 1, and the similarity of the centroids, at least 0. Where a model cannot tell
    two labels apart it says the first with some probability p to the rows of either, so the shares are 1 - p
    and p: their sum is 1 whatever the sizes of the two, and a small label that disappears in a large one
    scores as high as two of equal size. The similarity keeps labels low that share mistakes but no words.

    Args:
        y: class indexes (n,) or multi-hot (n, L).
        probabilities: (n, L) out-of-fold.
        similarity: (L, L) as `centroid_similarity` gives it.
        min_score: pairs that score less, or 0, are left out.
    """
    width = len(labels)
    predicted = predicted_labels(y, probabilities, task)
    shares = confusion_shares(y, probabilities, predicted)
    scores = np.sqrt(np.minimum(shares + shares.T, 1.0) * np.clip(similarity, 0.0, 1.0)).round(4)
    rows = one_hot(y, width).sum(axis=0, dtype=np.int64)
    before = float(count(y, predicted, width).f1.mean())
    found = [
        (a, b) if rows[a] <= rows[b] else (b, a)
        for a, b in np.argwhere(np.triu(scores, 1) > 0).tolist()
        if scores[a, b] >= min_score
    ]
    found.sort(key=lambda pair: (-scores[pair], pair))
    return [
        LabelPair(
            labels[a],
            labels[b],
            float(scores[a, b]),
            round(float(shares[a, b]), 4),
            round(float(shares[b, a]), 4),
            round(float(similarity[a, b]), 4),
            int(rows[a]),
            int(rows[b]),
            round(macro_f1_of_merged(y, probabilities, predicted, a, b) - before, 4),
            _suggestion(labels[a], labels[b], float(shares[a, b]), float(shares[b, a])),
        )
        for a, b in found[:limit]
    ]


def _suggestion(label: str, other: str, forth: float, back: float) -> str:
    """What to do about a pair of labels, in a sentence."""
    if forth + back >= ONE_CLASS:
        return f"hardly told apart: merge '{label}' and '{other}' in clean.label_map, or relabel both"
    for lost, taker, share, returned in ((label, other, forth, back), (other, label, back, forth)):
        if share >= ABSORBED and share > 3 * returned:
            return (
                f"'{lost}' disappears in '{taker}': merge it in clean.label_map, or collect more rows of it"
            )
    return (
        f"they overlap: write down what tells '{label}' from '{other}' and check the rows of both on the list"
    )
