"""Reading and checking one section of params.yaml."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from afina.errors import UserError

SECTIONS = (
    "extract",
    "clean",
    "analyze",
    "split",
    "balance",
    "adapt",
    "baseline",
    "train",
    "evaluate",
    "export",
    "audit",
    "behave",
    "explain",
    "report",
)
TOP_LEVEL = ("seed", *SECTIONS)

PARAMS_FILE = Path("params.yaml")


class Parameters(BaseModel):
    """A mapping of params.yaml: typed, immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: Any, info: ValidationInfo) -> Any:
        """True, as YAML reads "yes" and "on", is not the number 1. Text may be one: 5e-5 is text to YAML."""
        if isinstance(value, bool):
            kinds = _kinds(cls.model_fields[info.field_name or ""].annotation)
            if bool not in kinds and not kinds.isdisjoint((int, float)):
                raise ValueError("input should be a number")
        return value


@dataclass(frozen=True)
class OnlyWith:
    """Parameters that do something only where others of their section stand in a certain way.

    Attributes:
        names: the parameters.
        condition: how the others have to stand, in words.
        holds: whether they do, in a section.
    """

    names: tuple[str, ...]
    condition: str
    holds: Callable[[Any], bool]


class Section(Parameters):
    """One section of params.yaml."""

    section_name: ClassVar[str] = ""
    dependent: ClassVar[tuple[OnlyWith, ...]] = ()

    @classmethod
    def parse(cls, values: dict[str, Any], where: str = "params.yaml") -> Self:
        """Check ``values`` against the section.

        Raises:
            UserError: naming the first wrong key, what is wrong and the nearest known key.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError(f"{where}: {_explain(error, cls)}") from None

    def files(self) -> dict[str, str]:
        """Parameter -> path, for the files that the section names and its stage reads."""
        return {}

    def without_effect(self) -> list[str]:
        """One line for each parameter that is not at its default and, as the others stand, does nothing.

        Not an error: an experiment that changes one parameter would have to take out those that went with it.
        """
        return [
            f"{self.section_name}.{name} does nothing without {dependent.condition}"
            for dependent in self.dependent
            if not dependent.holds(self)
            for name in dependent.names
            if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True)
        ]


SectionT = TypeVar("SectionT", bound=Section)


def load_section(cls: type[SectionT], path: Path = PARAMS_FILE) -> SectionT:
    """Read section ``cls.section_name`` of the params file; an absent section means its defaults.

    The other sections are checked too: what is wrong with the last stage's parameters is better known before
    the training than after it.

    Raises:
        UserError: the file is missing or malformed, a key is unknown or a value is out of range.
    """
    values = load_values(path)
    section = _parse_section(cls, values, path)
    for name in SECTIONS:
        if name in values and name != cls.section_name:
            _parse_section(section_class(name), values, path)
    return section


def _kinds(annotation: Any) -> set[Any]:
    """The types that an annotation is made of, those of literals too."""
    parts = get_args(annotation)
    if get_origin(annotation) is Literal:
        return {type(part) for part in parts}
    return set[Any]().union(*map(_kinds, parts)) if parts else {annotation}


def _parse_section(cls: type[SectionT], values: dict[str, Any], path: Path) -> SectionT:
    found = values.get(cls.section_name)
    if found is not None and not isinstance(found, dict):
        raise UserError(f"{path}: {cls.section_name}: expected a mapping of parameters, found {found!r}")
    return cls.parse(found or {}, str(path))


def section_class(name: str) -> type[Section]:
    """The model of a section; by name, because a stage does not depend on the modules of the others."""
    module = importlib.import_module(f"afina.params.{name}")
    models = [
        value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Section)
    ]
    return next(model for model in models if model.section_name == name)


def load_seed(path: Path = PARAMS_FILE) -> int:
    """Read the seed shared by all stages that draw random numbers (default 42)."""
    seed = load_values(path).get("seed", 42)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UserError(f"{path}: seed: expected a whole number from 0 to 4294967295, found {seed!r}")
    return seed


def load_values(path: Path = PARAMS_FILE) -> dict[str, Any]:
    """Read the params file as it is, checking only its top-level keys."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the repository's root") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; save it in that encoding") from None
    except (yaml.YAMLError, ValueError) as error:  # a date without quotes that is none is a ValueError
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping with the sections {', '.join(TOP_LEVEL)}")
    for key in values:
        if key not in TOP_LEVEL:
            raise UserError(f"{path}: unknown section '{key}'{_nearest(str(key), TOP_LEVEL)}")
    return values


class _Loader(yaml.SafeLoader):
    """YAML in which a key given twice is an error, not the first one's silent end."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            # What a merge key brings may be given again.
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in lines:
                    first = lines[key.value]
                    raise yaml.YAMLError(f"'{key.value}' is on line {first} and again on line {line}")
                lines[key.value] = line
        return super().construct_mapping(node, deep)


def _nearest(name: str, known: tuple[str, ...]) -> str:
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean '{matches[0]}'?" if matches else f"; known: {', '.join(known)}"


def _explain(error: ValidationError, cls: type[Section]) -> str:
    """Turn the first validation error into one line that names the key."""
    first = error.errors(include_url=False)[0]
    where = ".".join([cls.section_name, *(str(part) for part in first["loc"])])
    if first["type"] == "extra_forbidden":
        known = tuple(cls.model_fields) if len(first["loc"]) == 1 else ()
        return f"{where}: unknown parameter" + (_nearest(str(first["loc"][-1]), known) if known else "")
    message = first["msg"].removeprefix("Value error, ")
    message = message.replace("a valid tuple", "a list").replace("Tuple should", "the list should")
    found = first["input"]
    shown = f", found {found!r}" if not isinstance(found, dict) and len(repr(found)) < 80 else ""
    return f"{where}: {message[0].lower()}{message[1:]}{shown}"
