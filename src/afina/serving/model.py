"""The model that is served: loading it, checking it, and putting a new one in its place."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from afina.errors import UserError
from afina.files import sha256
from afina.runtime.classifier import Classifier, Prediction
from afina.runtime.container import read_properties
from afina.runtime.drift import Reference
from afina.runtime.encoding import Ids
from afina.runtime.external import external_files
from afina.runtime.text import clean_text

Floats = npt.NDArray[np.float32]

Stamp = tuple[int, int, int]


class Encoded(NamedTuple):
    """Token ids of texts, and which of the texts were cut off at the model's longest length."""

    ids: list[Ids]
    truncated: list[bool]


@dataclass(frozen=True, eq=False)
class Served:
    """A model in use and what is told about it.

    Attributes:
        classifier: the loaded model.
        name: what answers call it.
        sha256: of its file.
        stamp: inode, size and time of change of its file, by which a new file is noticed.
        reference: what its texts are compared with; None: its file has none.
    """

    classifier: Classifier
    name: str
    sha256: str
    stamp: Stamp
    reference: Reference | None = None

    def identity(self) -> dict[str, str]:
        """What every answer says of the model."""
        return {
            "name": self.name,
            "precision": self.classifier.metadata.precision,
            "sha256": self.sha256,
        }

    def facts(self) -> dict[str, Any]:
        """What there is to know about the model, as `/v1/model` answers it."""
        metadata = self.classifier.metadata
        abstention = None
        if metadata.abstain_below or metadata.target_accuracy is not None:
            # JSON has no infinity; null: no confidence was enough, all texts are for a person.
            below = None if math.isinf(metadata.abstain_below) else metadata.abstain_below
            abstention = {"below": below, "target_accuracy": metadata.target_accuracy}
        return {
            **self.identity(),
            "task": metadata.task,
            "labels": list(metadata.labels),
            "thresholds": None if metadata.thresholds is None else dict(metadata.thresholds),
            "max_length": metadata.max_length,
            "abstention": abstention,
            "metrics": dict(metadata.metrics),
            "backbone": metadata.backbone,
            "backbone_licence": metadata.backbone_licence,
            "training_data_sha256": metadata.training_data_sha256,
            "afina_version": metadata.afina_version,
        }

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Clean texts, turn them into token ids, and see which are cut off."""
        cleaned = [clean_text(text, self.classifier.metadata.cleaning) for text in texts]
        encoder = self.classifier.encoder
        ids = encoder.encode(cleaned)
        truncated = [False] * len(ids)
        # Only what fills the model's length can have been longer.
        full = [row for row, tokens in enumerate(ids) if len(tokens) >= encoder.max_length]
        if full:
            lengths = encoder.full_lengths([cleaned[row] for row in full])
            for row, length in zip(full, lengths, strict=True):
                truncated[row] = bool(length > encoder.max_length)
        return Encoded(ids, truncated)

    def decide(
        self, probabilities: Floats, top_k: int, thresholds: Mapping[str, float] | None = None
    ) -> list[Prediction]:
        """Predictions of probabilities (n, labels); ``thresholds`` replace the model's for those labels."""
        classifier = self.classifier
        if thresholds and classifier.thresholds is not None:
            changed = [
                thresholds.get(label, value)
                for label, value in zip(classifier.labels, classifier.thresholds, strict=True)
            ]
            classifier = copy.copy(classifier)
            classifier.thresholds = np.array(changed)
        return classifier.decide(probabilities, top_k)


def load_model(
    path: Path, name: str | None = None, threads: int | None = None, token_budget: int | None = None
) -> Served:
    """Load a model, which tries it on a text or two.

    Raises:
        UserError: the file cannot be used, or changed while it was read.
    """
    stamp = file_stamp(path)
    budget = {} if token_budget is None else {"token_budget": token_budget}
    classifier = Classifier(path, threads=threads, **budget)
    digest = sha256(path)
    if stamp is None or file_stamp(path) != stamp:
        raise UserError(f"{path}: changed while it was read; copy it beside and rename it over the old one")
    return Served(classifier, name or path.name, digest, stamp, _reference(path, classifier))


def _reference(path: Path, classifier: Classifier) -> Reference | None:
    value = classifier.metadata.reference
    if value is None:
        return None
    try:
        return Reference.from_json(value)
    except ValueError as error:
        raise UserError(
            f"{path}: metadata reference: not readable ({error}); export the model again"
        ) from None


def file_stamp(path: Path) -> Stamp | None:
    """What tells one version of a file from another; None where there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _weights_of(path: Path) -> tuple[Path, ...]:
    """The files that a model's weights should be in; none where the model does not say so readably."""
    try:
        return external_files(path, read_properties(path))
    except UserError:
        return ()


class ModelStore:
    """The model in use. A request takes `current` once and keeps it, so a change never mixes two models.

    A model of two files changes with either: the weights may arrive after the file that names them.
    """

    def __init__(
        self, path: Path, name: str | None = None, threads: int | None = None, token_budget: int | None = None
    ) -> None:
        self.path = path
        self._options = (name, threads, token_budget)
        self._loading = threading.Lock()
        self._weights: tuple[Path, ...] = ()  # of the file that was tried last
        self._seen: tuple[Stamp | None, ...] = ()
        self._changing: tuple[Stamp | None, ...] = ()
        self.current = self.load()

    def changed(self) -> bool:
        """Is there a model that was not tried yet, and the same as at the call before, so whole?"""
        stamps = self._stamps()
        another = stamps[0] != self._seen[0]
        # Weights that are gone are no reason to try again; those of the model before no longer matter.
        there = stamps[0] is not None if another else None not in stamps
        settled = there and stamps != self._seen and stamps == self._changing
        self._changing = stamps
        return settled

    def _stamps(self) -> tuple[Stamp | None, ...]:
        """Of the model's file, then of those with its weights."""
        return tuple(map(file_stamp, (self.path, *self._weights)))

    def load(self) -> Served:
        """Load the file anew; it takes the place of the model in use where `current` is set to it.

        Raises:
            UserError: as `load_model`.
        """
        with self._loading:
            # The model's stamp comes first: replaced after that, it is another one at the next look.
            stamp, self._weights = file_stamp(self.path), _weights_of(self.path)
            self._seen = (stamp, *map(file_stamp, self._weights))
            return load_model(self.path, *self._options)
