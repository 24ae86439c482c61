"""Scripts of the page that need no browser, run by node."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from afina.serving.app import STATIC
from afina.spreadsheets import escape_row

COUNT = """
import { readFileSync } from "node:fs";
import { Summary } from "./csv.mjs";
const { labels, text, delimiter } = JSON.parse(readFileSync(0, "utf8"));
const found = new Summary(labels, delimiter);
found.push(new TextEncoder().encode(text));
found.finish();
console.log(JSON.stringify([found.rows, found.person, Object.fromEntries(found.classes)]));
"""


def summary(folder: Path, **question: Any) -> Any:
    """What the page counts in a result."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    shutil.copy(STATIC / "csv.js", folder / "csv.mjs")
    (folder / "count.mjs").write_text(COUNT, encoding="utf-8")
    done = subprocess.run(
        ["node", "count.mjs"], cwd=folder, input=json.dumps(question), capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_result_is_counted_whatever_its_own_header_looks_like(tmp_path: Path, delimiter: str) -> None:
    labels = ["agua", "a|b", "=1+1"]
    rows = [
        ["label,probability", "label;probability\tx", "label", "probability", "confidence", "needs_person"],
        ["", "", "agua|a|b", "0.9|0.8", "0.5", "yes"],
        ["", "", "agua|=1+1", "0.9|0.8", "0.5", "no"],
        ["", "", "=1+1|agua", "0.9|0.8", "0.5", "no"],
        ["", "", "a|b", "0.9", "0.9", "no"],
    ]
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=delimiter).writerows(escape_row(row) for row in rows)

    found = summary(tmp_path, labels=labels, text="\ufeff" + stream.getvalue(), delimiter=delimiter)

    assert found[:2] == [4, 1]
    assert {name: counts["rows"] for name, counts in found[2].items()} == {
        "agua": 3, "a|b": 2, "=1+1": 2,
    }  # fmt: skip


def test_what_is_not_quite_all_is_not_said_to_be_all(tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    for name in ("locale.js", "words.js"):
        shutil.copy(STATIC / name, tmp_path / name)
    (tmp_path / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    shares = {0: 0, 0.004: 1, 0.006: 1, 0.844: 84, 0.994: 99, 0.996: 99, 1: 100}
    script = f"""
        import {{ outOfHundred }} from "./locale.js";
        console.log(JSON.stringify({json.dumps(list(shares))}.map(outOfHundred)));
    """
    done = subprocess.run(
        ["node", "--input-type=module", "--eval", script], cwd=tmp_path, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == list(shares.values())
