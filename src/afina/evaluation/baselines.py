"""What a fine-tuned model must beat: the majority, and TF-IDF with a linear model.

Fitted on train, thresholds on validation, scored on test.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from afina.errors import UserError
from afina.evaluation.metrics import FloatArray, IntArray, count, predict, prediction_metrics, rounded
from afina.evaluation.thresholds import fit_thresholds
from afina.labels import LabelSet
from afina.params.baseline import BaselineParams
from afina.progress import Progress


@dataclass(frozen=True)
class Texts:
    """Texts of one split with their encoded labels, (n,) for multiclass or (n, L) for multilabel."""

    texts: Sequence[str]
    y: IntArray


def majority(y_train: IntArray, rows: int, label_set: LabelSet) -> IntArray:
    """The same prediction for every row, whatever its text.

    multiclass: the most frequent class of train, (rows,). multilabel: the labels that more than half of train
    has, or the most frequent one where there is none, (rows, L).
    """
    if label_set.task == "multiclass":
        most = np.bincount(y_train, minlength=len(label_set.labels)).argmax()
        return np.full(rows, most, dtype=np.int64)
    share = y_train.mean(axis=0)
    row = share > 0.5 if (share > 0.5).any() else np.arange(len(share)) == share.argmax()
    return np.tile(row.astype(np.int8), (rows, 1))


class TfidfLinear:
    """TF-IDF of word and character n-grams under linear SVMs, one against the rest, with balanced weights.

    Word and character n-grams together are hard to beat on short and misspelt text (Wang & Manning 2012,
    "Baselines and bigrams"). ``scores`` are margins: 0 is neutral, the highest wins.
    """

    def __init__(self, params: BaselineParams, label_set: LabelSet, seed: int) -> None:
        self.params, self.label_set, self.seed = params, label_set, seed
        shared: dict[str, Any] = {
            "sublinear_tf": True,
            "min_df": params.min_df,
            "max_features": params.max_features,
        }
        self._vectorizers: list[Any] = []
        if params.word_ngrams is not None:
            self._vectorizers.append(
                TfidfVectorizer(ngram_range=params.word_ngrams, token_pattern=r"\b\w+\b", **shared)
            )
        if params.char_ngrams is not None:
            self._vectorizers.append(
                TfidfVectorizer(analyzer="char_wb", ngram_range=params.char_ngrams, **shared)
            )
        self._models: list[Any] = []

    @property
    def features(self) -> int:
        """Distinct n-grams in use."""
        return sum(len(vectorizer.vocabulary_) for vectorizer in self._vectorizers)

    def fit(self, train: Texts) -> TfidfLinear:
        """Fit on train.

        Raises:
            UserError: no n-gram is frequent enough to count, or train has fewer than two classes.
        """
        usable, parts = [], []
        for vectorizer in self._vectorizers:
            try:
                parts.append(vectorizer.fit_transform(train.texts))
            except ValueError:  # no n-gram is left; those of the other kind may do
                continue
            usable.append(vectorizer)
        if not usable:
            raise UserError(
                f"baseline.min_df: no n-gram appears in {self.params.min_df} of the {len(train.texts)} train "
                "texts; lower it"
            )
        self._vectorizers = usable
        features = sparse.hstack(parts).tocsr()
        if self.label_set.task == "multiclass" and len(np.unique(train.y)) < 2:
            raise UserError("baseline: train has one class only; there is nothing to tell apart")
        targets = (
            [train.y]
            if self.label_set.task == "multiclass"
            else [train.y[:, label] for label in range(len(self.label_set.labels))]
        )
        with Progress("baseline", len(targets), "models") as progress:
            for target in targets:
                self._models.append(self._fit_one(features, target))
                progress.advance()
        return self

    def _fit_one(self, features: Any, target: IntArray) -> Any:
        """A fitted SVM, or the margin of a label that all or no rows of train have."""
        if len(np.unique(target)) < 2:
            return 1.0 if target[0] else -1.0
        model = LinearSVC(
            C=self.params.C,
            class_weight="balanced",
            random_state=self.seed,
            max_iter=self.params.max_iterations,
        )
        with warnings.catch_warnings():
            # Stopping early costs the last digits of the margins alone.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return model.fit(features, target)

    def scores(self, texts: Sequence[str]) -> FloatArray:
        """Margins (n, L) float64."""
        features = sparse.hstack([part.transform(texts) for part in self._vectorizers]).tocsr()
        if self.label_set.task == "multilabel":
            columns = [
                np.full(len(texts), model) if isinstance(model, float) else model.decision_function(features)
                for model in self._models
            ]
            return np.stack(columns, axis=1)
        model = self._models[0]
        margins = model.decision_function(features)
        if margins.ndim == 1:  # two classes: one margin, positive for the second
            margins = np.stack([-margins, margins], axis=1)
        # A class that train lacks can never win.
        scores = np.full((len(texts), len(self.label_set.labels)), margins.min() - 1.0)
        scores[:, model.classes_] = margins
        return scores


@dataclass(frozen=True)
class Baselines:
    """What the baselines came to.

    Attributes:
        report: the content of baseline.json: for ``majority`` and ``tfidf`` the test metrics; under
            ``tfidf_f1`` each label's test F1 and under ``tfidf_thresholds`` its threshold on the margin (null
            for multiclass).
        predicted: by name, what they say of the test rows, (n,) or (n, L).
    """

    report: dict[str, Any]
    predicted: dict[str, IntArray]


def score_baselines(
    train: Texts, validation: Texts, test: Texts, label_set: LabelSet, params: BaselineParams, seed: int
) -> Baselines:
    """Fit both baselines on train, multilabel thresholds on validation, and score them on test.

    Raises:
        UserError: a split has no rows, or train does not suffice to fit.
    """
    for name, part in (("train", train), ("validation", validation), ("test", test)):
        if not len(part.texts):
            raise UserError(f"data/splits/{name}.parquet: no rows; give the split more (section split)")
    labels, task = label_set.labels, label_set.task
    model = TfidfLinear(params, label_set, seed).fit(train)
    thresholds: list[float] | None = None
    if task == "multilabel":
        thresholds = fit_thresholds(validation.y, model.scores(validation.texts), default=0.0)
    predicted = predict(model.scores(test.texts), task, thresholds)
    constant = majority(train.y, len(test.texts), label_set)
    report = {
        "rows": {"train": len(train.texts), "test": len(test.texts)},
        "majority": rounded(prediction_metrics(test.y, constant, labels, task)),
        "tfidf": rounded(prediction_metrics(test.y, predicted, labels, task)),
        "tfidf_features": model.features,
        "tfidf_f1": rounded(
            dict(zip(labels, count(test.y, predicted, len(labels)).f1.tolist(), strict=True))
        ),
        "tfidf_thresholds": (
            None if thresholds is None else rounded(dict(zip(labels, thresholds, strict=True)))
        ),
    }
    return Baselines(report, {"majority": constant, "tfidf": predicted})
