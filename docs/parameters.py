"""Write docs/parameters.md, the list of all parameters: python docs/parameters.py."""

from __future__ import annotations

import importlib
import json
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from afina.params.base import SECTIONS, Section
from afina.params.extract import Source

TARGET = Path(__file__).with_suffix(".md")
HEAD = """# Parameters

Every parameter of [params.yaml](../params.yaml) with its default. What is not in the file has its
default, but for what `dvc.yaml` names, which DVC has to find there: `extract` says what is missing. An
unknown name is an error. `seed` (default 42), at the top of the file, is shared by all stages that draw
random numbers. This page is written by `python docs/parameters.py`.
"""
WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "anything"}


def main() -> None:
    """Write the page."""
    TARGET.write_text(page(), encoding="utf-8")


def page() -> str:
    """The page as Markdown."""
    parts = [HEAD]
    for name in SECTIONS:
        importlib.import_module(f"afina.params.{name}")
    sections = {section.section_name: section for section in Section.__subclasses__()}
    for name in SECTIONS:
        parts.append(f"## {name}\n\n{table(sections[name])}")
        if name == "extract":
            parts.append(f"### A source\n\n{table(Source)}")
    return "\n".join(parts)


def table(model: type[BaseModel]) -> str:
    """The fields of a model as a Markdown table."""
    rows = ["| name | value | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        cells = (f"`{name}`", f"{kind(field.annotation)}{limits(field.metadata)}", default(field))
        rows.append(f"| {' | '.join(cells)} | {escape(field.description or '')} |")
    return "\n".join(rows) + "\n"


def kind(annotation: Any) -> str:
    """What may stand there, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in WORDS:
        return WORDS[annotation]
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(kind(part) for part in arguments if part is not type(None)))
    if hasattr(annotation, "__metadata__"):
        return kind(annotation.__origin__)
    if origin in (list, tuple):
        return f"list of {kind(arguments[0])}"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, Source):
        return "sources, see below" if annotation is Source else "sources of texts"
    return getattr(annotation, "__name__", str(annotation))


def limits(metadata: list[Any]) -> str:
    """The range, where there is one."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [
        f"{sign} {getattr(part, name):g}"
        for part in metadata
        for name, sign in signs.items()
        if hasattr(part, name)
    ]
    return f" ({', '.join(found)})" if found else ""


def default(field: FieldInfo) -> str:
    """The default as it would be written in YAML."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)}`"


def escape(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


if __name__ == "__main__":
    main()
