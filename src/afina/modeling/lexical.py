"""A linear model over n-grams of tokens, inside the classifier and from the same token ids.

What TF-IDF with a linear model knows - which words and parts of words speak for a label - a fine-tuned
backbone learns slowly, least of all when its vocabulary is of another language. Here that knowledge is fitted
beside the backbone and added to its logits: a few table lookups, so it exports to ONNX like the rest.

N-grams go to a fixed number of rows by a hash (Weinberger et al., "Feature Hashing for Large Scale Multitask
Learning", ICML 2009); a row holds one weight a label, and its squared inverse document frequency, whose sum
over a text gives the length that TF-IDF vectors are divided by.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize, sparse
from torch import Tensor, nn

from afina.labels import Task
from afina.runtime.encoding import Ids

Floats = npt.NDArray[np.float64]
Codes = TypeVar("Codes", np.int64, np.uint64)

# Candidate shares of the lexical logits in the sum.
SHARES = np.linspace(0.0, 1.0, 21)


@dataclass(frozen=True)
class LexicalTables:
    """A fitted model."""

    tokens: npt.NDArray[np.float32]  # (V, L + 1): a token by itself and the n-grams of its pieces
    grams: npt.NDArray[np.float32]  # (buckets, L + 1)
    bias: npt.NDArray[np.float32]  # (L,)


def bucket_count(gram_count: int, label_count: int) -> int:
    """Rows for so many different n-grams: at least twice as many, a power of two, within 64 MB."""
    wanted = 1 << max(2 * gram_count - 1, 1).bit_length()
    most = 1 << (64 * 2**20 // (4 * (label_count + 1))).bit_length() - 1
    return int(min(max(wanted, 2**12), 2**18, most))


def token_codes(vocabulary: int, places: int) -> npt.NDArray[np.uint64]:
    """A random number (V, places) of 64 bits for each token at each place of an n-gram.

    The sum of the codes of its tokens is an n-gram's hash: tabulation (Zobrist 1970; Pătraşcu and Thorup,
    "The Power of Simple Tabulation Hashing", J. ACM 2012), with + for the exclusive or, which ONNX lacks.
    Codes can be made small before they are summed, so a model needs no large integers: execution providers
    that compute with 32 bits, or with float32, find the same rows.

    The numbers are those of SplitMix64 (Steele, Lea and Flood 2014): the same everywhere, for any sizes.
    """
    tokens, place = np.ogrid[:vocabulary, :places]
    code: npt.NDArray[np.uint64] = (tokens * 2**8 + place + 1).astype(np.uint64)
    code *= np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        code ^= code >> np.uint64(shift)
        code *= np.uint64(factor)
    return code


def gram_hashes(ids: Ids, codes: npt.NDArray[Codes], order: int) -> npt.NDArray[Codes]:
    """Sum of the codes of each n-gram of ``order`` tokens; empty where the text is shorter.

    Args:
        ids: tokens (T,).
        codes: (V, places), see `token_codes`; sums may wrap around.
    """
    count = max(len(ids) - order + 1, 0)
    hashes = np.zeros(count, dtype=codes.dtype)
    for place in range(order):
        hashes += codes[ids[place : place + count], place]
    return hashes


class Features:
    """TF-IDF of hashed n-grams of tokens, and of the pieces inside tokens.

    Args:
        order: longest n-gram in tokens.
        buckets: rows that n-grams share.
        vocabulary: number of tokens V.
        pieces: of a token that was added to the backbone's vocabulary, the pieces it stands for.
    """

    def __init__(
        self, order: int, buckets: int, vocabulary: int, pieces: Mapping[int, Sequence[int]] | None = None
    ) -> None:
        self.order, self.buckets, self.vocabulary = order, buckets, vocabulary
        self.codes = (token_codes(vocabulary, order) % np.uint64(buckets)).astype(np.int64)
        self.inside = self._inside(pieces or {})
        self.idf: Floats = np.ones(buckets)

    def _inside(self, pieces: Mapping[int, Sequence[int]]) -> sparse.csr_matrix:
        """(V, buckets): the n-grams that a token alone brings: itself, and those of its pieces."""
        every = np.arange(self.vocabulary)
        rows, columns = [every], [self._rows(every, [1])]
        for token, parts in pieces.items():
            together = self._rows(np.asarray(parts, dtype=np.int64), range(1, self.order + 1))
            rows.append(np.full(len(together), token))
            columns.append(together)
        at = (np.concatenate(rows), np.concatenate(columns))
        return sparse.csr_matrix((np.ones(len(at[0])), at), shape=(self.vocabulary, self.buckets))

    def _rows(self, ids: Ids, orders: Iterable[int]) -> npt.NDArray[np.int64]:
        """Rows of the n-grams of these orders, one order after the other."""
        found = [gram_hashes(ids, self.codes, order) % self.buckets for order in orders]
        return np.concatenate([*found, np.empty(0, dtype=np.int64)])

    def counts(self, texts: Sequence[Ids]) -> sparse.csr_matrix:
        """(n, buckets): how often each row is met in each text."""
        shape = (len(texts), self.buckets)
        tokens = _matrix(list(texts), (len(texts), self.vocabulary))
        grams = [self._rows(ids, range(2, self.order + 1)) for ids in texts]
        return sparse.csr_matrix(tokens @ self.inside + _matrix(grams, shape))

    def fit(self, texts: Sequence[Ids]) -> sparse.csr_matrix:
        """Learn how rare each row is, and give `transform` of the texts; rows met in a single one count 0."""
        counts = self.counts(texts)
        found = np.asarray((counts > 0).sum(axis=0)).ravel()
        self.idf = np.where(found >= 2, np.log((1 + len(texts)) / (1 + found)) + 1, 0.0)
        return self._weighted(counts)

    def transform(self, texts: Sequence[Ids]) -> sparse.csr_matrix:
        """(n, buckets): counts times inverse document frequency, over the root of the summed squares."""
        return self._weighted(self.counts(texts))

    def _weighted(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        length = np.sqrt(np.maximum(counts @ self.idf**2, 1e-12))
        return sparse.csr_matrix(sparse.diags(1 / length) @ counts @ sparse.diags(self.idf))


def _matrix(columns: Sequence[npt.NDArray[np.int64]], shape: tuple[int, int]) -> sparse.csr_matrix:
    """Counts of the columns of each row."""
    ends = np.concatenate([[0], np.cumsum([len(row) for row in columns])])
    together = np.concatenate([*columns, np.empty(0, dtype=np.int64)])
    matrix = sparse.csr_matrix((np.ones(len(together)), together, ends), shape=shape)
    matrix.sum_duplicates()
    return matrix


def fit_lexical(
    texts: Sequence[Ids],
    targets: npt.NDArray[Any],
    task: Task,
    label_weights: npt.NDArray[np.float64],
    row_weights: npt.NDArray[Any],
    vocabulary: int,
    order: int = 2,
    c: float = 10.0,
    pieces: Mapping[int, Sequence[int]] | None = None,
) -> LexicalTables:
    """Fit logistic regression on hashed n-grams; one against the rest for multilabel.

    Args:
        texts: token ids (n,), special tokens included.
        targets: class indexes (n,), or multi-hot (n, L).
        label_weights: (L,) factor on the loss of each label's examples; multilabel: of its positives.
        row_weights: (n,) factor on each text's loss.
        vocabulary: number of tokens.
        order: longest n-gram in tokens.
        c: inverse regularisation.
        pieces: see `Features`.

    Returns:
        The tables; a label that is in no text, or in all, scores the same everywhere.
    """
    label_count = len(label_weights)
    codes = token_codes(vocabulary, order)
    distinct = {
        int(code) for ids in texts for n in range(1, order + 1) for code in gram_hashes(ids, codes, n)
    }
    features = Features(order, bucket_count(len(distinct), label_count), vocabulary, pieces)
    matrix = features.fit(texts)
    coefficients = np.zeros((label_count, features.buckets))
    bias = np.zeros(label_count)
    if task == "multiclass":
        found, slopes, offsets = _logistic(matrix, targets, c, row_weights * label_weights[targets])
        if len(found) == 2:
            slopes, offsets = np.concatenate([-slopes, slopes]) / 2, np.concatenate([-offsets, offsets]) / 2
        coefficients[found], bias[found] = slopes, offsets
        absent = np.setdiff1d(np.arange(label_count), found)
        bias[absent] = bias[found].min() - 10.0
    else:
        for label in range(label_count):
            positives = int(targets[:, label].sum())
            if 0 < positives < len(targets):
                weights = row_weights * np.where(targets[:, label] == 1, label_weights[label], 1.0)
                _, slopes, offsets = _logistic(matrix, targets[:, label], c, weights)
                coefficients[label], bias[label] = slopes[0], offsets[0]
            else:
                bias[label] = 10.0 if positives else -10.0
    columns = np.vstack([coefficients * features.idf, features.idf**2]).T
    return LexicalTables(
        tokens=(features.inside @ columns).astype(np.float32),
        grams=columns.astype(np.float32),
        bias=bias.astype(np.float32),
    )


def _logistic(
    matrix: sparse.csr_matrix, targets: npt.NDArray[Any], c: float, weights: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
    """Classes found, their coefficients and intercepts."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    # The tolerance is of the mean loss's slope, which rare n-grams make flat: at 1e-3 it can stop after a few
    # steps, far from the end.
    model = LogisticRegression(C=c, max_iter=200, tol=1e-4)
    weights = weights / weights.mean()  # or the scale of weights would act as regularisation
    with warnings.catch_warnings():
        # After two hundred steps what is left to gain is below what validation can see.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(matrix, targets, sample_weight=weights)
    return np.asarray(model.classes_), np.asarray(model.coef_), np.asarray(model.intercept_)


class LexicalScorer(nn.Module):
    """The fitted model in torch: logits of token ids by table lookups.

    Args:
        vocabulary, buckets, label_count: sizes of the tables, which are buffers: nothing here is trained.
        order: longest n-gram in tokens.
    """

    tokens: Tensor
    grams: Tensor
    bias: Tensor
    codes: Tensor

    def __init__(self, vocabulary: int, buckets: int, label_count: int, order: int) -> None:
        super().__init__()
        self.order, self.buckets = order, buckets
        self.register_buffer("tokens", torch.zeros(vocabulary, label_count + 1))
        self.register_buffer("grams", torch.zeros(buckets, label_count + 1))
        self.register_buffer("bias", torch.zeros(label_count))
        # Saved with the rest, so that tables never meet other hashes than those they were fitted with.
        codes = token_codes(vocabulary, order) % np.uint64(buckets)
        self.register_buffer("codes", torch.from_numpy(codes.astype(np.int32)))

    @classmethod
    def from_tables(cls, tables: LexicalTables, order: int) -> LexicalScorer:
        """Of what `fit_lexical` gives."""
        scorer = cls(len(tables.tokens), len(tables.grams), len(tables.bias), order)
        scorer.tokens.copy_(torch.from_numpy(tables.tokens))
        scorer.grams.copy_(torch.from_numpy(tables.grams))
        scorer.bias.copy_(torch.from_numpy(tables.bias))
        return scorer

    def shape(self) -> dict[str, int]:
        """What it takes, labels apart, to make another one that its weights fit."""
        return {"vocabulary": len(self.tokens), "buckets": self.buckets, "order": self.order}

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits (B, L) float32 of token ids and mask, int64 (B, T), padding on the right."""
        mask = attention_mask.unsqueeze(-1).to(self.tokens.dtype)
        total = (nn.functional.embedding(input_ids, self.tokens) * mask).sum(dim=1)
        for place, rows in enumerate(self.rows(input_ids), start=1):
            found = nn.functional.embedding(rows, self.grams)
            inside = shifted(attention_mask, place).unsqueeze(-1)
            total = total + (found * inside.to(found.dtype)).sum(dim=1)
        length = total[:, -1:].clamp(min=1e-12).sqrt()
        return total[:, :-1] / length + self.bias

    def rows(self, input_ids: Tensor) -> list[Tensor]:
        """Rows (B, T) of `grams` for the n-grams of 2, 3, ... tokens that begin at each token.

        The last n - 1 of a text reach beyond it and mean nothing.
        """
        codes = nn.functional.embedding(input_ids, self.codes)
        hashes, found = codes[:, :, 0], []
        for place in range(1, self.order):
            hashes = hashes + shifted(codes[:, :, place], place)
            found.append(hashes % self.buckets)
        return found


def shifted(values: Tensor, places: int) -> Tensor:
    """Values (B, T) moved to the left, with zeros on the right."""
    return nn.functional.pad(values, (0, places))[:, places:]


def fit_combination(
    logits: npt.NDArray[np.float32],
    lexical: npt.NDArray[np.float32],
    targets: npt.NDArray[Any],
    task: Task,
    score: Callable[[Floats], float],
) -> tuple[float, float]:
    """Factors of the backbone's and the lexical logits in a log-linear pool (Genest and Zidek 1986).

    Their ratio is the one with the best score on held-out rows, each candidate's averaged with its
    neighbours', as few rows make a ragged curve. Cross-entropy would not find it, for a fine-tuned backbone
    is too sure of itself; it sets the scale, each class with the same say.

    Args:
        logits, lexical: (n, L) of rows that neither was fitted on.
        targets: class indexes (n,), or multi-hot (n, L).
        score: of logits (n, L); the higher, the better.

    Returns:
        The factors, both at least 0.
    """
    one, other = logits.astype(np.float64), lexical.astype(np.float64)
    scores = np.array([score(one * (1 - share) + other * share) for share in SHARES])
    padded = np.pad(scores, 1, mode="edge")
    smooth = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    best = SHARES[smooth >= smooth.max() - 1e-9]
    share = float(best[np.argmin(np.abs(best - 0.5))])  # where all do alike, both are heard
    mixed = one * (1 - share) + other * share

    def loss(log_scale: float) -> float:
        return calibration_loss(mixed * np.exp(log_scale), targets, task)

    scale = float(np.exp(optimize.minimize_scalar(loss, bounds=(-4.0, 4.0), method="bounded").x))
    return float(scale * (1 - share)), float(scale * share)


def calibration_loss(logits: Floats, targets: npt.NDArray[Any], task: Task) -> float:
    """Cross-entropy with each class, and of each label its yes and its no, having the same say.

    Targets are those of Platt, "Probabilistic Outputs for Support Vector Machines", 1999: with n rows of a
    class, 1 / (n + 2) of a row's target goes to the other labels. Else rows without a mistake would make the
    surest model the best one.

    Args:
        logits: (n, L).
        targets: class indexes (n,), or multi-hot (n, L).
    """
    if task == "multilabel":
        positive = targets.sum(axis=0)
        wanted = np.where(targets == 1, (positive + 1) / (positive + 2), 1 / (len(targets) - positive + 2))
        share = np.clip(targets.mean(axis=0), 1 / (2 * len(targets)), 1 - 1 / (2 * len(targets)))
        balance = np.where(targets == 1, 0.5 / share, 0.5 / (1 - share))
        losses = np.logaddexp(0.0, logits) - wanted * logits
        return float((losses * balance).mean())
    counts = np.bincount(targets, minlength=logits.shape[1])[targets]
    top = logits.max(axis=1, keepdims=True)
    logs = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    moved = 1 / (counts + 2)
    losses = -(1 - moved) * logs[np.arange(len(targets)), targets] - moved * logs.mean(axis=1)
    return float((losses / counts).sum() / (1 / counts).sum())
