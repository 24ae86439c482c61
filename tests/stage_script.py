"""The script of a stage as a module, to call its functions."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


def load_stage(name: str) -> ModuleType:
    """pipeline/NAME.py as a module; its main is not run."""
    spec = importlib.util.spec_from_file_location(f"{name}_stage", ROOT / "pipeline" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
