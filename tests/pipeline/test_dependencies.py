"""What dvc.yaml says a stage reads and writes is what its script reads and writes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from imports import imported_modules
from workspace import ROOT, STAGES

# Read or written, and yet no dep or out: checkpoints are for resuming after a crash, and gone after success.
NOT_TRACKED = {"models/checkpoints", "models/checkpoints/adapt"}
# Which of its files is read stands in params.yaml.
FROM_PARAMS = {"data/source", "data/cases"}
CODE = ("src/", "pipeline/")
DATA = ("data/", "models/", "reports/")


def load(stage: str) -> dict[str, Any]:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return stages[stage]


def names(entries: list[Any]) -> set[str]:
    """The paths of a deps, outs, metrics or plots list; an entry with settings is a mapping with one key."""
    return {str(PurePosixPath(entry if isinstance(entry, str) else next(iter(entry)))) for entry in entries}


def reads(stage: str) -> set[str]:
    return names(load(stage).get("deps", []))


def writes(stage: str) -> set[str]:
    definition = load(stage)
    return {path for kind in ("outs", "metrics", "plots") for path in names(definition.get(kind, []))}


def path_literals(script: Path) -> set[str]:
    """Paths under data, models and reports that a script uses, * for what is only known when it runs.

    "a/b" as text, and Path("a") / "b" with names for its parts; a name that others are joined to does not
    count by itself.
    """
    constants: dict[str, str] = {}

    def text_of(node: ast.expr) -> str | None:
        match node:
            case ast.Constant(value=str(text)):
                return text
            case ast.JoinedStr(values=parts):
                return "".join(text_of(part) or "*" for part in parts)
            case ast.Name(id=name):
                return constants.get(name)
            case ast.Call(func=ast.Name(id="Path"), args=[part]):
                return text_of(part)
            case ast.BinOp(left=left, op=ast.Div(), right=right):
                folder = text_of(left)
                return None if folder is None else f"{folder}/{text_of(right) or '*'}"
        return None

    def walk(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            text = text_of(node.value)
            if text is not None:
                constants[node.targets[0].id] = text
                return
        text = text_of(node) if isinstance(node, ast.expr) else None
        if text is not None:
            yield text
            return
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    found = walk(ast.parse(script.read_text(encoding="utf-8")))
    return {str(PurePosixPath(text)) for text in found if text.startswith(DATA) and " " not in text}


def same(used: str, tracked: str) -> bool:
    """Whether a path in a script is one in dvc.yaml, or a file in a folder there."""
    return fnmatch(tracked, used) or used.startswith(f"{tracked}/")


def test_the_stages_are_the_scripts() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    scripts = {path.stem for path in (ROOT / "pipeline").glob("*.py")}
    assert set(stages) == scripts == set(STAGES)
    for stage, definition in stages.items():
        assert f"pipeline/{stage}.py" in definition["cmd"]


@pytest.mark.parametrize("stage", STAGES)
def test_code_deps_are_the_imports(stage: str) -> None:
    script = ROOT / "pipeline" / f"{stage}.py"
    imported = {str(path.relative_to(ROOT)) for path in imported_modules(script, ROOT / "src")}
    code = {path for path in reads(stage) if path.startswith(CODE) and path.endswith(".py")}
    assert code == {f"pipeline/{stage}.py", *imported}


@pytest.mark.parametrize("stage", STAGES)
def test_data_deps_and_outs_are_the_paths_in_the_script(stage: str) -> None:
    used = path_literals(ROOT / "pipeline" / f"{stage}.py") - NOT_TRACKED - FROM_PARAMS
    tracked = {path for path in reads(stage) | writes(stage) if path.startswith(DATA)} - FROM_PARAMS
    assert {path for path in used if not any(same(path, other) for other in tracked)} == set(), (
        "not in dvc.yaml"
    )
    assert {path for path in tracked if not any(same(other, path) for other in used)} == set(), (
        "not in the script"
    )


def test_every_data_dep_is_a_source_or_made_by_an_earlier_stage() -> None:
    made = {"data/source", "data/cases"}
    for stage in STAGES:
        needed = {path for path in reads(stage) if path.startswith(DATA)}
        # A file may be in a folder that a stage writes.
        assert all({path, str(PurePosixPath(path).parent)} & made for path in needed), stage
        made |= writes(stage)
