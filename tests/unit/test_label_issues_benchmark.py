"""What `benchmarks/label_issues.py` scores, and the list that it has made anew; the stage is a stand-in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from stage_script import benchmark

# Lists as many of the wrong rows as there are folds, if it sees the data.
STAGE = """
from pathlib import Path
import yaml
params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
assert params["seed"] == 3 and params["audit"]["max_issues"] == 9
assert Path("data/splits/train.parquet").is_file() and Path("models/adapted/adapted.json").is_file()
folds = params["audit"]["fine_tuned_folds"]
if folds == 10:
    raise SystemExit(2)
Path("reports/label_issues.csv").write_text("id\\n" + "".join(f"s:w{row}\\n" for row in range(folds)))
print("audit: done")
"""


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module, in a project of 30 rows, 10 of them wrong, whose list names two rows."""
    with benchmark("label_issues") as module:
        pass
    monkeypatch.setattr(module, "ROOT", tmp_path)
    for folder in ("data/splits", "data/source/demo", "models/adapted", "reports", "pipeline"):
        (tmp_path / folder).mkdir(parents=True)
    ids = [f"s:{kind}{row}" for kind in "wxy" for row in range(10)]
    for number, name in enumerate(("train", "validation", "test")):
        rows = pa.table({"id": ids[10 * number : 10 * number + 10]})
        pq.write_table(rows, tmp_path / "data" / "splits" / f"{name}.parquet")
    noted = "".join(f"w{row}\n" for row in range(10))
    (tmp_path / "data/source/demo/truth.csv").write_text(f"id\n{noted}never used\n", encoding="utf-8")
    (tmp_path / "models/adapted/adapted.json").touch()
    (tmp_path / "reports/predictions.parquet").touch()
    (tmp_path / "reports/label_issues.csv").write_text("id\ns:w1\ns:x1\n", encoding="utf-8")
    (tmp_path / "pipeline/audit.py").write_text(STAGE, encoding="utf-8")
    params = {"seed": 3, "audit": {"max_issues": 9}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return module


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.splitlines()[-1]


def test_the_list_that_there_is_is_scored(demo: Any, capsys: pytest.CaptureFixture[str]) -> None:
    demo.main([])
    assert last_line(capsys) == "label_issues: rows=2 precision=0.500 recall=0.100"


def test_a_list_is_made_anew_and_nothing_is_changed(demo: Any, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in demo.ROOT.rglob("*") if path.is_file()}
    demo.main(["--fine-tuned-folds", "4"])
    assert last_line(capsys) == "label_issues: rows=4 precision=1.000 recall=0.400"
    assert {path: path.read_bytes() for path in demo.ROOT.rglob("*") if path.is_file()} == before


def test_what_cannot_be_done_is_said(demo: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="the stage audit failed"):
        demo.main(["--fine-tuned-folds", "10"])
    with pytest.raises(SystemExit):
        demo.main(["--fine-tuned-folds", "1"])
    assert "1 is not from 2 to 10" in capsys.readouterr().err
    (demo.ROOT / "reports/label_issues.csv").unlink()
    with pytest.raises(SystemExit, match=re.escape("label_issues.csv: no such file; run `dvc repro`")):
        demo.main([])
