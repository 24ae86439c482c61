"""Run behaviour tests on a model that is seen from outside: texts in, labels and probabilities out.

After Ribeiro, Wu, Guestrin & Singh, "Beyond Accuracy: Behavioral Testing of NLP Models with CheckList",
ACL 2020. Of their three kinds:

- INV, invariance: a copy that means the same gets the same labels;
- DIR, directional expectation: a copy that names its label does not get it with less probability;
- MFT, minimum functionality: texts written to be easy get the label they are about.

INV needs no labels, and a model can fail it on messages it judges rightly, and pass it on those it does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from random import Random
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from afina.behaviour.cases import Case
from afina.behaviour.perturbations import perturb
from afina.evaluation.intervals import wilson_interval
from afina.evaluation.tables import NONE, SEPARATOR
from afina.labels import Task, decode_labels
from afina.params.behave import BehaviourTest, Language
from afina.runtime.classifier import Prediction
from afina.runtime.encoding import Ids

TOLERANCE = 0.1  # of a fall in probability, as in the paper

Kind = Literal["INV", "DIR", "MFT"]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


class Model(Protocol):
    """What is asked of a model; `afina.runtime.Classifier` is one."""

    @property
    def task(self) -> Task: ...

    @property
    def labels(self) -> Sequence[str]: ...

    def encode(self, texts: Iterable[str]) -> list[Ids]: ...

    def predict_proba(self, texts: Iterable[str]) -> Floats: ...

    def decide(self, probabilities: Floats) -> list[Prediction]: ...


@dataclass(frozen=True)
class Answers:
    """What a model says of n texts.

    Attributes:
        probabilities: (n, L).
        predicted: (n, L), true where the label is assigned.
    """

    probabilities: Floats
    predicted: Bools

    def take(self, rows: Sequence[int]) -> Answers:
        return Answers(self.probabilities[rows], self.predicted[rows])


@dataclass(frozen=True)
class Messages:
    """n test messages, and what the model says of them.

    Attributes:
        ids: of the messages.
        texts: as they were received.
        truth: (n, L), true where the message has the label.
        answers: to the texts.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    truth: Bools
    answers: Answers


@dataclass(frozen=True)
class Result:
    """How a test went.

    Attributes:
        kind: INV, DIR or MFT.
        test: its name.
        rows: texts tried.
        failures: those of them that failed. INV: a label changed; DIR: the probability fell by more than
            ``TOLERANCE``; MFT: the labels are not those expected.
        share: failures over rows; None without rows.
        share_low: lower end of the 95 % Wilson interval of the share.
        share_high: its upper end.
        mark: high, where the share is above the limit.
        probability_change: mean change of a probability; MFT has none. INV: that of the label most probable
            before; DIR: that of the row's own label (of several, the one that lost most).
        right_to_wrong: rows judged rightly before and wrongly after; all labels of a row count as one.
        wrong_to_right: the reverse.
    """

    kind: Kind
    test: str
    rows: int
    failures: int
    share: float | None
    share_low: float | None
    share_high: float | None
    mark: Literal["high"] | None
    probability_change: float | None
    right_to_wrong: int | None
    wrong_to_right: int | None


@dataclass(frozen=True)
class Failure:
    """A text that failed a test.

    Attributes:
        kind: INV, DIR or MFT.
        test: name of the test.
        id: of the message; of a case, its place in the file.
        actual: the message's labels, or what the case expects.
        predicted: the labels assigned to the text.
        probability: INV, DIR: of the label that ``Result.probability_change`` is about; MFT: the highest.
        altered_predicted: the labels assigned to the altered copy; MFT has none.
        altered_probability: that of the same label on the altered copy.
        text: as it was received.
        altered_text: the altered copy.
    """

    kind: Kind
    test: str
    id: str
    actual: str
    predicted: str
    probability: float
    altered_predicted: str | None
    altered_probability: float | None
    text: str
    altered_text: str | None


RESULTS_HEADER = tuple(field.name for field in fields(Result))
FAILURES_HEADER = tuple(field.name for field in fields(Failure))


def ask(model: Model, texts: Sequence[str]) -> Answers:
    """What the model says of raw texts."""
    index = {label: column for column, label in enumerate(model.labels)}
    predicted = np.zeros((len(texts), len(index)), dtype=np.bool_)
    if not texts:
        return Answers(np.zeros(predicted.shape, dtype=np.float32), predicted)
    probabilities = model.predict_proba(texts)
    for row, prediction in enumerate(model.decide(probabilities)):
        predicted[row, [index[score.label] for score in prediction.labels]] = True
    return Answers(probabilities, predicted)


def ask_again(model: Model, texts: Sequence[str], answers: Answers, copies: Sequence[str]) -> Answers:
    """What the model says of altered copies of texts that it has given ``answers`` to.

    Cleaning and the tokenizer undo much of what is done to a text. Where the model sees what it saw before,
    its answer is taken as before.
    """
    seen, now = model.encode(texts), model.encode(copies)
    new = [row for row in range(len(copies)) if not np.array_equal(seen[row], now[row])]
    fresh = ask(model, [copies[row] for row in new])
    probabilities, predicted = answers.probabilities.copy(), answers.predicted.copy()
    probabilities[new], predicted[new] = fresh.probabilities, fresh.predicted
    return Answers(probabilities, predicted)


def run_perturbation(
    test: BehaviourTest,
    model: Model,
    messages: Messages,
    language: Language,
    seed: int,
    max_changed: float,
) -> tuple[Result, list[Failure]]:
    """Put altered copies of the messages to the model.

    A copy depends on its message, the test and the seed, not on the other messages. Messages that the test
    does not alter do not count; label_named leaves out those without a label.

    Args:
        max_changed: a larger share of failures is marked high.
    """
    named = test == "label_named"
    copies = [
        _name_labels(text, labels)
        if named
        else perturb(test, text, Random(f"{seed} {test} {name}"), language)
        for name, text, labels in zip(
            messages.ids, messages.texts, decode_labels(messages.truth, model.labels), strict=True
        )
    ]
    rows = [row for row, copy in enumerate(copies) if copy is not None]
    altered = [copy for copy in copies if copy is not None]
    before, truth = messages.answers.take(rows), messages.truth[rows]
    after = ask_again(model, [messages.texts[row] for row in rows], before, altered)

    change = after.probabilities.astype(np.float64) - before.probabilities
    watched = np.where(truth, change, np.inf).argmin(axis=1) if named else before.probabilities.argmax(axis=1)
    places = np.arange(len(rows)), watched
    changed = (before.predicted != after.predicted).any(axis=1)
    failed = change[places] < -TOLERANCE if named else changed
    was_right, is_right = ((answers.predicted == truth).all(axis=1) for answers in (before, after))
    kind: Kind = "DIR" if named else "INV"
    result = _result(
        kind,
        test,
        failed,
        max_changed,
        round(float(change[places].mean()), 4) + 0.0 if rows else None,
        int((was_right & ~is_right).sum()),
        int((~was_right & is_right).sum()),
    )
    failures = [
        Failure(
            kind,
            test,
            messages.ids[rows[at]],
            _names(truth[at], model),
            _names(before.predicted[at], model),
            _probability(before, at, watched[at]),
            _names(after.predicted[at], model),
            _probability(after, at, watched[at]),
            messages.texts[rows[at]],
            altered[at],
        )
        for at in np.flatnonzero(failed).tolist()
    ]
    return result, failures


def run_cases(model: Model, cases: Sequence[Case], max_changed: float) -> tuple[list[Result], list[Failure]]:
    """Put the cases to the model: a result for each name, in the order of the file."""
    answers = ask(model, [case.text for case in cases])
    predicted = decode_labels(answers.predicted, model.labels)
    failed = [not case.passes(names) for case, names in zip(cases, predicted, strict=True)]
    order = {name: place for place, name in enumerate(dict.fromkeys(case.name for case in cases))}
    at_name = sorted(range(len(cases)), key=lambda at: order[cases[at].name])
    results = [
        _result("MFT", name, np.array([failed[at] for at in group]), max_changed)
        for name, group in groupby(at_name, key=lambda at: cases[at].name)
    ]
    failures = [
        Failure(
            "MFT",
            cases[at].name,
            str(cases[at].number),
            cases[at].expected,
            _names(answers.predicted[at], model),
            _probability(answers, at, int(answers.probabilities[at].argmax())),
            None,
            None,
            cases[at].text,
            None,
        )
        for at in at_name
        if failed[at]
    ]
    return results, failures


def _name_labels(text: str, labels: Sequence[str]) -> str | None:
    """The names of the labels before the text, as a subject line has them."""
    return f"{', '.join(labels)}. {text}" if labels else None


def _result(
    kind: Kind,
    test: str,
    failed: Bools,
    max_changed: float,
    probability_change: float | None = None,
    right_to_wrong: int | None = None,
    wrong_to_right: int | None = None,
) -> Result:
    rows, failures = len(failed), int(failed.sum())
    if not rows:
        return Result(kind, test, 0, 0, None, None, None, None, None, right_to_wrong, wrong_to_right)
    share = failures / rows
    interval = wilson_interval(share, rows)
    return Result(
        kind,
        test,
        rows,
        failures,
        round(share, 6),
        round(interval.low, 6),
        round(interval.high, 6),
        "high" if share > max_changed else None,
        probability_change,
        right_to_wrong,
        wrong_to_right,
    )


def _names(row: Bools, model: Model) -> str:
    return SEPARATOR.join(decode_labels(row[None], model.labels)[0]) or NONE


def _probability(answers: Answers, row: int, label: int) -> float:
    return round(float(answers.probabilities[row, label]), 4)
