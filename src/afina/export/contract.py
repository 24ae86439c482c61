"""The fastest int8 copy that still says what the fp32 file says.

Which recipe does is measured on validation texts. The test split never chooses: it only scores the winner.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from afina.evaluation.metrics import count, predict, prediction_metrics
from afina.export.graph import Graph
from afina.export.parity import both_batchings, compare
from afina.export.quantisation import RECIPES, Recipe, layers, without
from afina.labels import Task
from afina.runtime.classifier import Classifier
from afina.runtime.encoding import BATCH_TOKENS, token_budget_batches
from afina.runtime.loading import Floats

# Speeds that differ by less are the same: a measurement on a shared machine tells no more.
TIE = 0.15
ROUNDS = 3
TIMED_TEXTS = 64
RANKING_TEXTS = 64


@dataclass(frozen=True)
class Texts:
    """Raw texts (n,) and their labels, encoded as `afina.labels.encode_labels` gives them."""

    raw: Sequence[str]
    encoded: npt.NDArray[Any]


@dataclass(frozen=True)
class Contract:
    """What an int8 file must keep of the fp32 one, in the runtime's own batches and in mixed ones.

    Attributes:
        max_drop: the most macro-F1 it may lose.
        min_agreement: the least share of texts that get the same labels.
    """

    max_drop: float
    min_agreement: float


@dataclass(frozen=True)
class Trial:
    """A recipe on the validation texts, each figure from the batches in which it is worse.

    Attributes:
        recipe: what was tried.
        agreement: share of texts with the labels that fp32 gives.
        drop: macro-F1 of fp32 minus its own.
        size: of the file, in bytes.
        speed: texts/s of one thread; None where it was not measured.
    """

    recipe: Recipe
    agreement: float
    drop: float
    size: int
    speed: float | None = None

    def keeps(self, contract: Contract) -> bool:
        """Is it within the contract?"""
        # One text in a hundred is 99 %, whatever the arithmetic makes of it.
        return self.agreement >= contract.min_agreement - 1e-9 and self.drop <= contract.max_drop + 1e-9

    def to_json(self, contract: Contract) -> dict[str, Any]:
        """As it stands in the report."""
        return {
            "recipe": self.recipe.name,
            "label_agreement": round(self.agreement, 6),
            "macro_f1_delta": round(-self.drop, 6),
            "size_mb": round(self.size / 1e6, 2),
            "texts_per_second": None if self.speed is None else round(self.speed, 1),
            "within_contract": self.keeps(contract),
        }


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        trials: every recipe tried.
        winner: the one to use; None where none is within the contract.
        reference: probabilities (n, L) of fp32.
        probabilities: of the winner, likewise, in mixed batches; None without one.
        reference_speed: texts/s of fp32 in one thread; None without a winner.
    """

    trials: tuple[Trial, ...]
    winner: Trial | None
    reference: Floats
    probabilities: Floats | None
    reference_speed: float | None


def stratified_rows(encoded: npt.NDArray[Any], most: int) -> npt.NDArray[np.int64]:
    """At most ``most`` rows, ascending, each class with its share of them: evenly spaced in order of class.

    A multilabel row counts for the rarest of its labels.
    """
    rows = len(encoded)
    if rows <= most:
        return np.arange(rows, dtype=np.int64)
    if encoded.ndim == 2:
        rarity = np.where(encoded == 1, encoded.sum(axis=0), rows + 1)
        classes = np.where(encoded.any(axis=1), rarity.argmin(axis=1), encoded.shape[1])
    else:
        classes = encoded
    order = np.argsort(classes, kind="stable")
    return np.sort(order[(np.arange(most) * rows) // most]).astype(np.int64)


def rare_labels(counts: Mapping[str, int], labels: Sequence[str]) -> list[str]:
    """The third of the labels, rounded up, with the fewest examples; the rarest first."""
    ranked = sorted(labels, key=lambda label: counts.get(label, 0))  # stable: ties keep the model's order
    return ranked[: -(-len(labels) // 3)]


def f1_of_labels(
    probabilities: Floats,
    encoded: npt.NDArray[Any],
    labels: Sequence[str],
    task: Task,
    thresholds: Sequence[float] | None,
) -> dict[str, float]:
    """F1 of each label."""
    found = count(encoded, predict(probabilities, task, thresholds), len(labels)).f1
    return {label: round(float(value), 6) for label, value in zip(labels, found, strict=True)}


def choose(trials: Sequence[Trial], contract: Contract) -> Trial | None:
    """The fastest within the contract; of those as fast to within `TIE`, the first."""
    able = [trial for trial in trials if trial.keeps(contract)]
    if not able:
        return None
    fastest = max(trial.speed or 0.0 for trial in able)
    return next(trial for trial in able if (trial.speed or 0.0) >= fastest * (1 - TIE))


def search(
    graph: Graph,
    fp32_file: Path,
    texts: Texts,
    contract: Contract,
    write: Callable[[Recipe], Path],
    token_budget: int,
) -> Found:
    """Look for the fastest int8 copy within a contract.

    All layers are rounded first, in the ways of `afina.export.quantisation.RECIPES`. Only where none of them
    will do are layers left in fp32, the more sensitive first: those without whose rounding the logits are
    closest to fp32's. Then the fewest that will do win, for each costs speed.

    Static quantisation, with the ranges of activations fixed beforehand, is not among the recipes:
    onnxruntime has no such kernel for fused attention, and what is left runs at two thirds of the speed, with
    fewer labels alike (``benchmarks/sessions.py``). Nor are 4 or 8 bits in blocks
    (``MatMulNBits``), which run no faster than fp32 where batches are larger than one text.

    Args:
        graph: the graph of ``fp32_file``.
        fp32_file: what the copies are compared with.
        texts: validation texts.
        contract: what must be kept.
        write: writes the copy that a recipe makes, and says where.
        token_budget: most tokens in a mixed batch, padding included.
    """
    fp32 = Classifier(fp32_file)
    reference = fp32.predict_proba(texts.raw)
    score = _Scorer(texts, reference, fp32)
    trials: list[Trial] = []
    files: dict[Recipe, Path] = {}
    kept: dict[Recipe, Floats] = {}

    def attempt(recipe: Recipe) -> Trial:
        files[recipe] = write(recipe)
        batchings = both_batchings(files[recipe], texts.raw, token_budget)
        trial = score.trial(recipe, batchings, files[recipe].stat().st_size)
        trials.append(trial)
        if trial.keeps(contract):
            kept[recipe] = batchings[1]
        return trial

    for recipe in RECIPES:
        attempt(recipe)
    if not kept:
        best = max(trials, key=lambda trial: (trial.agreement, -trial.drop)).recipe
        ranking = _by_sensitivity(graph, fp32, best, texts.raw[:RANKING_TEXTS], write)
        for number in _growing(len(ranking)):
            if attempt(without(best, ranking[:number])).keeps(contract):
                break
    if not kept:
        return Found(tuple(trials), None, reference, None, None)
    ids = fp32.encode(texts.raw[:TIMED_TEXTS])
    speeds = measure_speeds([fp32_file, *(files[recipe] for recipe in kept)], ids, BATCH_TOKENS)
    known = dict(zip(kept, speeds[1:], strict=True))
    timed = tuple(replace(trial, speed=known.get(trial.recipe)) for trial in trials)
    winner = choose(timed, contract)
    assert winner is not None
    return Found(timed, winner, reference, kept[winner.recipe], speeds[0])


class _Scorer:
    """Agreement and macro-F1 beside those of fp32."""

    def __init__(self, texts: Texts, reference: Floats, fp32: Classifier) -> None:
        self.texts, self.reference, self.classifier = texts, reference, fp32
        self.macro_f1 = self._macro_f1(reference)

    def _macro_f1(self, probabilities: Floats) -> float:
        task, thresholds = self.classifier.task, self.classifier.thresholds
        limits = None if thresholds is None else thresholds.tolist()
        guess = predict(probabilities, task, limits)
        return prediction_metrics(self.texts.encoded, guess, self.classifier.labels, task)["macro_f1"]

    def trial(self, recipe: Recipe, batchings: Sequence[Floats], size: int) -> Trial:
        """The worst of a recipe's probabilities in several batchings."""
        shares = [self._agreement(probabilities) for probabilities in batchings]
        scores = [self._macro_f1(probabilities) for probabilities in batchings]
        return Trial(recipe, min(shares), self.macro_f1 - min(scores), size)

    def _agreement(self, probabilities: Floats) -> float:
        agreement = compare(self.reference, probabilities, self.classifier.thresholds)
        return agreement.label_agreement if np.isfinite(agreement.max_abs_diff) else 0.0


def _by_sensitivity(
    graph: Graph, fp32: Classifier, recipe: Recipe, texts: Sequence[str], write: Callable[[Recipe], Path]
) -> list[str]:
    """Layers, the one that gains most from staying in fp32 first, by the mean squared error of the logits."""
    ids = fp32.encode(texts)
    expected = _logits(fp32, ids)
    errors = {}
    for layer in layers(graph.model):
        file = write(without(recipe, [layer]))
        errors[layer] = float(np.square(_logits(Classifier(file), ids) - expected).mean())
        file.unlink()
    return sorted(errors, key=lambda layer: (errors[layer], int(layer)))


def _growing(count: int) -> list[int]:
    """1, 2, 4, … up to half: with more layers in fp32 little of the speed is left."""
    return [number for number in (2**power for power in range(count.bit_length())) if 2 * number <= count]


def measure_speeds(
    files: Sequence[Path], ids: Sequence[npt.NDArray[np.int64]], token_budget: int
) -> list[float]:
    """Texts/s of files, in turns: the best of `ROUNDS` in the processor time of one thread.

    So other work on the machine, which takes the processor away, does not count.
    """
    classifiers = [Classifier(file, token_budget=token_budget, threads=1) for file in files]
    best = [float("inf")] * len(files)
    for turn in range(ROUNDS + 1):
        for number, classifier in enumerate(classifiers):
            start = time.thread_time()
            _logits(classifier, ids)
            if turn:  # the first one warms up
                best[number] = min(best[number], time.thread_time() - start)
    return [len(ids) / max(seconds, 1e-9) for seconds in best]


def _logits(classifier: Classifier, ids: Sequence[npt.NDArray[np.int64]]) -> Floats:
    result = np.empty((len(ids), len(classifier.labels)), dtype=np.float32)
    for rows in token_budget_batches([len(row) for row in ids], classifier.token_budget):
        result[rows] = classifier.forward([ids[row] for row in rows])[0]
    return result
