"""Minimum functionality: a YAML file of texts whose label a model has to get right.

The file is a list. Each entry has a ``text``, and what is expected of it: ``expected``, a label or a list of
them that are to be assigned and no other ([] for none, in multilabel), or ``any_of``, a list of which one at
least is to be assigned. Entries of one ``name`` are one test; without it the name is what is expected.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from afina.errors import UserError
from afina.evaluation.tables import NONE, SEPARATOR
from afina.labels import Task

KEYS = ("text", "expected", "any_of", "name")


@dataclass(frozen=True)
class Case:
    """A text and what a model has to say of it.

    Attributes:
        number: its place in the file, from 1.
        name: of its test.
        text: as a person would write it.
        labels: what is expected.
        alternatives: one of ``labels`` is enough; else it is all of them and no other.
    """

    number: int
    name: str
    text: str
    labels: tuple[str, ...]
    alternatives: bool

    @property
    def expected(self) -> str:
        """What is expected, in one line."""
        return _in_words(self.labels, self.alternatives)

    def passes(self, predicted: Sequence[str]) -> bool:
        """Whether these labels are what is expected."""
        if self.alternatives:
            return bool(set(self.labels) & set(predicted))
        return set(self.labels) == set(predicted)


def read_cases(path: Path, labels: Sequence[str], task: Task) -> list[Case]:
    """Read a file of cases; none of them where it is of another project, all of whose labels are unknown.

    Args:
        path: a YAML file.
        labels: those that the model knows.
        task: multiclass takes one label in ``expected``.

    Raises:
        UserError: the file is missing, is not YAML, is empty or no list; an entry lacks its text or what is
            expected, has an unknown key, or expects a label that the model does not know.
    """
    where = f"behave.cases: {path}"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{where}: no such file") from None
    except OSError as error:
        raise UserError(f"{where}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{where}: not UTF-8; save it in that encoding") from None
    except (yaml.YAMLError, ValueError) as error:  # a date without quotes that is none is a ValueError
        raise UserError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    if values is None or values == []:
        raise UserError(f"{where}: no case in it; add some or set behave.cases to null")
    if not isinstance(values, list):
        raise UserError(f"{where}: expected a list of cases, each with text and expected")
    if _is_foreign(values, labels):
        return []
    return [
        _case(value, number, f"{where}: entry {number}", labels, task)
        for number, value in enumerate(values, 1)
    ]


def _is_foreign(values: list[Any], labels: Sequence[str]) -> bool:
    """Whether labels are named and the model knows none of them."""
    named: set[str] = set()
    for value in values:
        found = [value.get(key) for key in ("expected", "any_of")] if isinstance(value, dict) else []
        for part in found:
            names = part if isinstance(part, list) else [part]
            named.update(name for name in names if isinstance(name, str))
    return bool(named) and not named & set(labels)


def _case(value: Any, number: int, where: str, labels: Sequence[str], task: Task) -> Case:
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a mapping with text and expected, found {value!r:.80}")
    for key in value:
        if key not in KEYS:
            raise UserError(f"{where}: unknown key {key!r}; known: {', '.join(KEYS)}")
    text = value.get("text")
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{where}: text: expected a text, found {text!r:.80}; put it in quotes")
    if ("expected" in value) == ("any_of" in value):
        raise UserError(f"{where}: give either expected or any_of")
    alternatives = "any_of" in value
    names = _names(value, "any_of" if alternatives else "expected", where, labels)
    if alternatives and not names:
        raise UserError(f"{where}: any_of: no label in it; name one at least")
    if task == "multiclass" and not alternatives and len(names) != 1:
        raise UserError(
            f"{where}: expected: {len(names)} labels, but a multiclass model gives one; see any_of"
        )
    name = value.get("name", _in_words(names, alternatives))
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{where}: name: expected a text, found {name!r:.80}; put it in quotes")
    return Case(number, name, text, names, alternatives)


def _names(value: dict[str, Any], key: str, where: str, labels: Sequence[str]) -> tuple[str, ...]:
    found = value[key]
    names = [found] if isinstance(found, str) else found
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{where}: {key}: expected labels in quotes, found {found!r:.80}")
    for name in names:
        if name not in labels:
            near = difflib.get_close_matches(name, labels, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(labels)}"
            raise UserError(f"{where}: {key}: the model has no label {name!r}; {hint:.400}")
    return tuple(dict.fromkeys(names))


def _in_words(names: Sequence[str], alternatives: bool) -> str:
    return (" or " if alternatives else SEPARATOR).join(names) or NONE
