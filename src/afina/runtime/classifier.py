"""Load one ``model.onnx`` and predict: no torch, no transformers, no network, no second file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native

from afina.errors import UserError
from afina.runtime.encoding import TOKEN_BUDGET, Encoder, Ids, pad_batch, token_budget_batches
from afina.runtime.metadata import ArtifactMetadata
from afina.runtime.text import STEPS, clean_text

Floats = npt.NDArray[np.float32]

INPUTS = ("input_ids", "attention_mask")
OUTPUTS = ("logits", "probabilities")

# All that onnxruntime raises on a file it cannot use; they share no base class but Exception.
_LOAD_ERRORS = (
    native.EPFail,
    native.EngineError,
    native.Fail,
    native.InvalidArgument,
    native.InvalidGraph,
    native.InvalidProtobuf,
    native.NoModel,
    native.NoSuchFile,
    native.NotImplemented,
    native.RuntimeException,
)


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
    """A classifier in one file.

    Args:
        path: a ``model.onnx`` or ``model.int8.onnx`` written by the export stage.
        token_budget: most tokens in one batch, padding included; lower it to use less memory.
        threads: processor threads; None = as many as onnxruntime chooses.

    Raises:
        UserError: the file is missing, damaged, not a model of afina, or of a newer schema.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, token_budget: int = TOKEN_BUDGET, threads: int | None = None
    ) -> None:
        if token_budget < 1:
            raise ValueError(f"token_budget: expected at least 1, found {token_budget}")
        file = Path(path)
        self.token_budget = token_budget
        self._session = _open(file, threads)
        self.metadata = ArtifactMetadata.from_properties(
            self._session.get_modelmeta().custom_metadata_map, str(file)
        )
        self.task = self.metadata.task
        self.labels = self.metadata.labels
        self.thresholds = (
            None
            if self.metadata.thresholds is None
            else np.array([self.metadata.thresholds[label] for label in self.labels])
        )
        _check_graph(self._session, len(self.labels), str(file))
        unknown = [step for step in self.metadata.cleaning if step not in STEPS]
        if unknown:
            raise UserError(
                f"{file}: metadata cleaning: this afina does not know the step {unknown[0]!r}; "
                "upgrade with `pip install -U afina`"
            )
        try:
            self.encoder = Encoder(
                self.metadata.tokenizer, self.metadata.max_length, self.metadata.pad_token_id
            )
        except Exception as error:  # tokenizers raises bare Exception
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{file}: metadata tokenizer: not readable ({reason}); export the model again"
            ) from None

    def encode(self, texts: Iterable[str]) -> list[Ids]:
        """Clean raw texts and turn each into token ids (int64, at most ``max_length`` of them).

        Raises:
            TypeError: ``texts`` is one string, or one of them is not a string.
        """
        if isinstance(texts, str | bytes):
            raise TypeError(f"texts: expected several strings, found one {type(texts).__name__}")
        cleaned = []
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"texts[{position}]: expected a string, found {type(text).__name__}")
            cleaned.append(clean_text(text, self.metadata.cleaning))
        return self.encoder.encode(cleaned)

    def forward(self, batch: Sequence[Ids]) -> tuple[Floats, Floats]:
        """Run one batch of token ids as it is.

        Returns:
            logits and probabilities, float32 of shape (len(batch), labels).
        """
        input_ids, attention_mask = pad_batch(batch, self.metadata.pad_token_id)
        logits, probabilities = self._session.run(
            list(OUTPUTS), {"input_ids": input_ids, "attention_mask": attention_mask}
        )
        return logits, probabilities

    def predict_proba(self, texts: Iterable[str]) -> Floats:
        """Probabilities of raw texts.

        Texts of similar length share a batch; the rows come back in the order of ``texts``. An empty text
        is predicted like any other, from its special tokens alone: what comes out is near the prior.

        Returns:
            float32 of shape (n, labels), columns in the order of ``self.labels``. multiclass: rows sum to 1.

        Raises:
            TypeError: ``texts`` is one string, or one of them is not a string.
        """
        ids = self.encode(texts)
        result = np.empty((len(ids), len(self.labels)), dtype=np.float32)
        for rows in token_budget_batches([len(row) for row in ids], self.token_budget):
            result[rows] = self.forward([ids[row] for row in rows])[1]
        return result

    def predict(self, texts: Iterable[str], top_k: int = 1) -> list[Prediction]:
        """Labels of raw texts, one `Prediction` a text, in the order of ``texts``.

        Args:
            texts: raw texts.
            top_k: how many labels `Prediction.top` lists; more than there are means all.

        Raises:
            TypeError: ``texts`` is one string, or one of them is not a string.
            ValueError: ``top_k`` is less than 1.
        """
        return self.decide(self.predict_proba(texts), top_k)

    def decide(self, probabilities: Floats, top_k: int = 1) -> list[Prediction]:
        """Turn probabilities (n, labels) into predictions, as `predict` does."""
        if top_k < 1:
            raise ValueError(f"top_k: expected at least 1, found {top_k}")
        predictions = []
        assigned = None if self.thresholds is None else probabilities >= self.thresholds
        confidence = _confidence(probabilities, assigned)
        unsure = confidence < self.metadata.abstain_below
        # Stable: labels of equal probability keep the model's order, and the first wins as in argmax.
        for row, order in enumerate(np.argsort(-probabilities, axis=1, kind="stable")):
            ranked = [Score(self.labels[label], float(probabilities[row, label])) for label in order]
            labels = (
                ranked[:1]
                if assigned is None
                else [score for score, label in zip(ranked, order, strict=True) if assigned[row, label]]
            )
            predictions.append(
                Prediction(tuple(labels), tuple(ranked[:top_k]), float(confidence[row]), bool(unsure[row]))
            )
        return predictions


def _confidence(probabilities: Floats, assigned: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.float64]:
    """How probable each decision is, (n,), by probabilities (n, labels) and what is assigned of them."""
    exact = probabilities.astype(np.float64)
    if assigned is None:
        return np.asarray(exact.max(axis=1))
    return np.asarray(np.where(assigned, exact, 1 - exact).min(axis=1))


def _open(file: Path, threads: int | None) -> onnxruntime.InferenceSession:
    """Start a session on a file, or say in one line why that is not possible."""
    if not file.is_file():
        problem = "is a folder, give the model.onnx in it" if file.is_dir() else "no such file"
        raise UserError(f"{file}: {problem}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone; what cannot be loaded is raised below
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(
            str(file), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except _LOAD_ERRORS as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{file}: not a usable ONNX model, perhaps damaged or cut off; copy or export it again "
            f"({reason[:160]})"
        ) from None


def _check_graph(session: onnxruntime.InferenceSession, label_count: int, where: str) -> None:
    """Check that the graph's inputs and outputs are the design's."""
    inputs = {item.name for item in session.get_inputs()}
    outputs = {item.name: item.shape for item in session.get_outputs()}
    if inputs != set(INPUTS) or not set(OUTPUTS) <= set(outputs):
        raise UserError(
            f"{where}: expected inputs {', '.join(INPUTS)} and outputs {', '.join(OUTPUTS)}; "
            f"found {', '.join(sorted(inputs))} and {', '.join(sorted(outputs))}"
        )
    for name in OUTPUTS:
        if len(outputs[name]) != 2 or outputs[name][1] != label_count:
            raise UserError(
                f"{where}: output {name} has shape {outputs[name]}, but the metadata names {label_count} "
                "labels; export the model again"
            )
