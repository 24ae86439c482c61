"""Load one ``model.onnx`` and predict: no torch, no transformers, no network, no second file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from afina.runtime.confidence import row_confidence
from afina.runtime.encoding import BATCH_TOKENS, Ids, token_budget_batches
from afina.runtime.lanes import side_by_side
from afina.runtime.loading import INPUTS as INPUTS
from afina.runtime.loading import OUTPUTS as OUTPUTS
from afina.runtime.loading import Floats, load_model
from afina.runtime.streaming import WINDOW, checked_texts, prepared_ahead, windows
from afina.runtime.text import clean_text

# Token ids of a batch -> its logits and probabilities.
Forward = Callable[[Sequence[Ids]], tuple[Floats, Floats]]


Batch_contra = TypeVar("Batch_contra", contravariant=True)
Batch = TypeVar("Batch")


class Work(Protocol[Batch_contra]):
    """Handles one of several batches, see `Classifier.run_batches`."""

    def __call__(self, batch: Batch_contra, /, *, forward: Forward) -> None: ...


class Score(NamedTuple):
    """A label and its probability."""

    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What the model says about one text.

    Attributes:
        labels: the labels assigned, most probable first: exactly one for multiclass; for multilabel those
            whose probability reaches their threshold, perhaps none.
        top: the ``top_k`` most probable labels, assigned or not, most probable first.
        confidence: the probability of the decision. multiclass: of the label; multilabel: the lowest, over
            all labels, of p for one that is assigned and 1 - p for one that is not.
        needs_person: whether the confidence is below what the model needs to be right as often as was
            asked for when it was made (evaluate.target_accuracy); False for a file that does not say.
    """

    labels: tuple[Score, ...]
    top: tuple[Score, ...]
    confidence: float
    needs_person: bool

    @property
    def label(self) -> str | None:
        """The most probable of the labels assigned; None where none is."""
        return self.labels[0].label if self.labels else None

    @property
    def probability(self) -> float | None:
        """The probability of `label`; None where no label is assigned."""
        return self.labels[0].probability if self.labels else None


class Classifier:
    """A classifier in one file. Threads may share it; all that is the same in two of them is in memory once.

    After a fork, make a new one: the threads that compute stay behind in the parent.

    Args:
        path: a ``model.onnx`` or ``model.int8.onnx`` written by the export stage.
        token_budget: most tokens in one batch, padding included; lower it to use less memory.
        threads: processor threads, 1 to 1,024; None = as many as the process may use.

    Raises:
        UserError: the file is missing, damaged, not a model of afina, or of a newer schema.
        TypeError: ``token_budget`` is no whole number.
        ValueError: ``token_budget`` is less than 1.
        ThreadsError: ``threads`` is not 1 to 1,024; a ValueError and a UserError.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, token_budget: int = BATCH_TOKENS, threads: int | None = None
    ) -> None:
        _check_count("token_budget", token_budget)
        self.token_budget = token_budget
        self._model = load_model(Path(path), threads)
        self.metadata = self._model.metadata
        self.encoder = self._model.encoder
        self.task = self.metadata.task
        self.labels = self.metadata.labels
        self.thresholds = (
            None
            if self.metadata.thresholds is None
            else np.array([self.metadata.thresholds[label] for label in self.labels])
        )

    @property
    def lanes(self) -> int:
        """How many batches `run_batches` has computed at a time where there are many."""
        return max(self._model.lanes.count, 1)

    def encode(self, texts: Iterable[str]) -> list[Ids]:
        """Clean raw texts and turn each into token ids (int64, at most ``max_length`` of them).

        Raises:
            TypeError: ``texts`` is one string, a table or a mapping, or one of them is not a string.
        """
        return self.encoder.encode(
            [clean_text(text, self.metadata.cleaning) for text in checked_texts(texts)]
        )

    def forward(self, batch: Sequence[Ids]) -> tuple[Floats, Floats]:
        """Run one batch of token ids as it is.

        Returns:
            logits and probabilities, float32 of shape (len(batch), labels).

        Raises:
            UserError: the graph cannot be computed: memory is short, or ids are none of the tokenizer's.
        """
        return self._model.run(batch)

    def predict_proba(self, texts: Iterable[str]) -> Floats:
        """Probabilities of raw texts.

        Texts of similar length share a batch; the rows come back in the order of ``texts``. An empty text
        is predicted like any other, from its special tokens alone: what comes out is near the prior.

        Returns:
            float32 of shape (n, labels), columns in the order of ``self.labels``. multiclass: rows sum to 1.

        Raises:
            TypeError: ``texts`` is one string, a table or a mapping, or one of them is not a string.
            UserError: a batch cannot be computed.
        """
        known = list(checked_texts(texts))
        if len(known) <= WINDOW:
            return self._predict_ids(self.encode(known))
        return np.concatenate(list(self.stream_proba(known)))

    def predict(self, texts: Iterable[str], top_k: int = 1) -> list[Prediction]:
        """Labels of raw texts, one `Prediction` a text, in the order of ``texts``.

        Args:
            texts: raw texts.
            top_k: how many labels `Prediction.top` lists; more than there are means all.

        Raises:
            TypeError: ``texts`` is one string, a table or a mapping, or one of them is not a string; or
                ``top_k`` is no whole number.
            ValueError: ``top_k`` is less than 1.
            UserError: a batch cannot be computed.
        """
        _check_count("top_k", top_k)
        return self.decide(self.predict_proba(texts), top_k)

    def stream(self, texts: Iterable[str], top_k: int = 1, window: int = WINDOW) -> Iterator[Prediction]:
        """`predict` for any number of texts, in memory that does not grow with it.

        Texts are taken a window at a time, and batched by length within it. While one window is computed
        the next is cleaned and tokenized in a thread, so up to two are read before the first answer is
        given: whoever waits for each answer before the next text wants `predict`. ``texts`` is read where
        the predictions are, not in another thread.

        Whatever ``texts`` raises is raised after the predictions of all texts before; so is the TypeError
        for what is not a string, which `afina.runtime.text_problem` tells beforehand.

        Args:
            texts: raw texts.
            top_k: how many labels `Prediction.top` lists; more than there are means all.
            window: texts in a window.

        Raises:
            TypeError: ``texts`` is one string, a table or a mapping, or one of them is not a string; or
                ``top_k`` or ``window`` is no whole number.
            ValueError: ``top_k`` or ``window`` is less than 1.
            UserError: a batch cannot be computed.
        """
        _check_count("top_k", top_k)
        blocks = self.stream_proba(texts, window)
        return (prediction for block in blocks for prediction in self.decide(block, top_k))

    def stream_proba(self, texts: Iterable[str], window: int = WINDOW) -> Iterator[Floats]:
        """`predict_proba` for any number of texts, see `stream`.

        Returns:
            One array (rows, labels) a window, whose rows are the next texts; fewer than ``window`` where
            texts are very long.
        """
        _check_count("window", window)
        prepared = prepared_ahead(windows(checked_texts(texts), window), self.encode)
        return (self._predict_ids(ids) for ids in prepared)

    def run_batches(self, batches: Iterable[Batch], count: int, work: Work[Batch]) -> None:
        """Call ``work(batch, forward=…)`` for each batch; of many, several at a time in threads.

        Args:
            batches: whatever ``work`` takes for one, but None. Each thread takes the next one when it has
                done one, so more may come up meanwhile; taking one has to be safe in threads, as it is from
                a list, and is not from a generator or from ``iter`` of a function.
            count: how many there are by now. One after the other no more than these are run: those of the
                next call may be several at a time.
            work: makes a batch, has it computed by ``forward``, which is `forward` with as many threads as
                there are for this batch, and puts away what comes out.

        Raises:
            whatever ``work`` raises; the calls that have not begun by then are left out.
        """
        lanes = self._model.lanes
        session = lanes.session(count)
        if session is None:
            for batch in islice(batches, count):
                work(batch, forward=self.forward)
        else:
            forward = partial(self._model.run, session=session)
            side_by_side(min(lanes.count, count), partial(work, forward=forward), batches, lanes.helpers)

    def _predict_ids(self, ids: Sequence[Ids]) -> Floats:
        result = np.empty((len(ids), len(self.labels)), dtype=np.float32)
        batches = token_budget_batches([len(row) for row in ids], self.token_budget)

        def work(rows: Ids, /, *, forward: Forward) -> None:
            result[rows] = forward([ids[row] for row in rows])[1]

        self.run_batches(batches, len(batches), work)
        return result

    def decide(self, probabilities: Floats, top_k: int = 1) -> list[Prediction]:
        """Turn probabilities (n, labels) into predictions, as `predict` does."""
        _check_count("top_k", top_k)
        # Stable: labels of equal probability keep the model's order, and the first wins as in argmax.
        orders = np.argsort(-probabilities, axis=1, kind="stable")
        assigned = None if self.thresholds is None else probabilities >= self.thresholds
        confidence = row_confidence(probabilities, orders[:, 0] if assigned is None else assigned)
        unsure = confidence < self.metadata.abstain_below
        predictions = []
        for row, order in enumerate(orders):
            chosen = order[:1] if assigned is None else order[assigned[row, order]]
            labels, top = (
                tuple(Score(self.labels[label], float(probabilities[row, label])) for label in some)
                for some in (chosen, order[:top_k])
            )
            predictions.append(Prediction(labels, top, float(confidence[row]), bool(unsure[row])))
        return predictions


def _check_count(name: str, value: int) -> None:
    is_whole = isinstance(value, int | np.integer)
    if not is_whole or value < 1:
        kind = ValueError if is_whole else TypeError
        raise kind(f"{name}: expected a whole number of at least 1, found {value!r}")
