"""Torch-free inference: ``afina.runtime.Classifier("model.onnx").predict(texts)``."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["Classifier", "Prediction", "Score", "text_problem"]


def __getattr__(name: str) -> Any:
    # On demand: cleaning and encoding texts, which stages do, takes no onnxruntime.
    if name == "text_problem":
        return importlib.import_module("afina.runtime.streaming").text_problem
    if name in __all__:
        return getattr(importlib.import_module("afina.runtime.classifier"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
