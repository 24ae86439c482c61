"""Pages say what the code and the committed reports say."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def test_the_list_of_parameters_is_current() -> None:
    page = runpy.run_path(str(DOCS / "parameters.py"))["page"]()
    assert page == (DOCS / "parameters.md").read_text(encoding="utf-8"), "run `python docs/parameters.py`"


def committed_metrics() -> dict[str, float]:
    """The demo's figures by section and name; those of a run since then may be of another processor."""
    command = ["git", "-C", str(ROOT), "show", ":reports/metrics.json"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    if shown.returncode:
        pytest.skip(f"not a clone: {shown.stderr.strip()}")
    sections = json.loads(shown.stdout)
    return {f"{section}.{name}": value for section, part in sections.items() for name, value in part.items()}


@pytest.mark.parametrize("readme", ["README.md", "README.es.md"])
def test_the_figures_of_the_demo_are_those_committed(readme: str) -> None:
    text = (ROOT / readme).read_text(encoding="utf-8")
    metrics = committed_metrics()
    rows = re.findall(r"^\| ([a-z_]+\.[a-z_0-9]+) +\| (\S+) +\| (\S+) +\| \S+ +\|$", text, re.MULTILINE)

    assert rows == [(name, *[f"{round(metrics[name], 5)}"] * 2) for name in sorted(metrics)]
    wanted = [metrics["test.macro_f1"], metrics["interval.macro_f1_low"], metrics["interval.macro_f1_high"]]
    found = re.findall(r"macro(?:-F1 is)? (0[.,]\d{3}) \[(0[.,]\d{3})[,;] (0[.,]\d{3})\]", text)
    assert [[float(part.replace(",", ".")) for part in one] for one in found] == [
        [round(value, 3) for value in wanted]
    ]
