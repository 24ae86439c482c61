"""What `benchmarks/scoring.py` makes of its runs; nothing is timed here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from stage_script import benchmark


@pytest.fixture(scope="module")
def scoring() -> Iterator[Any]:
    with benchmark("scoring") as module:
        yield module


def test_results_go_to_a_file(
    scoring: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Memory of few rows and of all, then one worker and two in turns; the first round is slow.
    seconds = iter([1.0, 10.0, 8.0, 6.0, 4.0, 2.5])

    def measure(source: Path, rows: int, options: Sequence[str]) -> Any:
        assert len(source.read_text(encoding="utf-8").splitlines()) == rows
        return scoring.Measured(rows, next(seconds), 100.0 + rows / 100)

    monkeypatch.setattr(scoring, "measure", measure)
    monkeypatch.setattr(scoring, "read_texts", lambda _: ["agua y luz", "pagos"])
    file = tmp_path / "results.json"
    monkeypatch.setattr(sys, "argv", ["scoring.py", "--rows", "200", "--json", str(file)])
    scoring.main()
    results = json.loads(file.read_text(encoding="utf-8"))
    assert results["machine"]["cores"] >= 1
    assert results["model"] == "model.onnx"
    assert [run["rows"] for run in results["memory"]] == [10, 200]
    assert results["memory_growth"] == pytest.approx(102.0 / 100.1, abs=1e-3)
    assert (results["rows_per_second"], results["peak_mb"]) == (20.0, 102.0)
    assert [run["seconds"] for run in results["scaling"]["2"]] == [6.0, 2.5]
    assert results["scaling_2_workers"] == 1.6  # 16 rows/s and 10, of the best round of each
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "scoring: rows_per_s=20 peak_mb=102 scaling_2_workers=1.60"
