"""The whole of params.yaml, looked at by the first stage: what would stop a later one, hours on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from afina.errors import UserError
from afina.params.base import PARAMS_FILE, SECTIONS, load_values, section_class

PIPELINE = Path("dvc.yaml")
_SEED = 42


def check_whole(root: Path) -> None:
    """Check that the files which sections name are there, and the parameters which DVC watches one by one.

    DVC stops at a stage of which `dvc.yaml` names a parameter that is not in params.yaml, whatever its
    default.

    Args:
        root: folder of params.yaml and, where there is a pipeline, of dvc.yaml.

    Raises:
        UserError: a file or a parameter is missing.
    """
    values = load_values(root / PARAMS_FILE)
    for name in SECTIONS:
        if values.get(name):
            for parameter, path in section_class(name).parse(values[name]).files().items():
                if not (root / path).exists():
                    raise UserError(f"{PARAMS_FILE}: {name}.{parameter}: {path}: no such file")
    absent = [f"{name}: {_default(name)}" for name in watched(root / PIPELINE) if not _is_in(values, name)]
    if absent:
        raise UserError(
            f"{PARAMS_FILE}: DVC needs some parameters in the file even where they have their defaults; "
            f"add {', '.join(absent)}"
        )


def watched(pipeline: Path) -> list[str]:
    """Parameters of params.yaml that the stages of a dvc.yaml name, sections too; none without the file."""
    if not pipeline.is_file():
        return []
    return list(dict.fromkeys(_named(yaml.safe_load(pipeline.read_text(encoding="utf-8")))))


def _named(pipeline: Any) -> Iterator[str]:
    stages = pipeline.get("stages") if isinstance(pipeline, Mapping) else None
    for stage in (stages or {}).values():
        yield from (name for name in stage.get("params", ()) if isinstance(name, str))


def _is_in(values: Mapping[str, Any], name: str) -> bool:
    found: Any = values
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return False
        found = found[part]
    return True


def _default(name: str) -> str:
    """A parameter's default as YAML writes it on one line."""
    section, _, parameter = name.partition(".")
    if not parameter:
        return str(_SEED) if section == "seed" else "{}"
    value = section_class(section).model_fields[parameter].get_default(call_default_factory=True)
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True).removesuffix("...\n").strip()
