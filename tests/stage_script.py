"""The script of a stage, or of a benchmark, as a module, to call its functions."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def load_stage(name: str) -> ModuleType:
    """pipeline/NAME.py as a module; its main is not run."""
    return _loaded(f"{name}_stage", ROOT / "pipeline" / f"{name}.py")


@contextmanager
def benchmark(name: str) -> Iterator[Any]:
    """benchmarks/NAME.py as a module, which finds its neighbours while the context lasts."""
    folder = ROOT / "benchmarks"
    sys.path.insert(0, str(folder))
    module = _loaded(f"benchmark_{name}", folder / f"{name}.py")
    try:
        yield module
    finally:
        sys.path.remove(str(folder))
        del sys.modules[module.__name__]


def _loaded(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
