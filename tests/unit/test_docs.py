"""Pages that are made from the code say what the code says."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_list_of_parameters_is_current() -> None:
    page = runpy.run_path(str(DOCS / "parameters.py"))["page"]()
    assert page == (DOCS / "parameters.md").read_text(encoding="utf-8"), "run `python docs/parameters.py`"
