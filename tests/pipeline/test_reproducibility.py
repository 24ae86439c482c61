"""The same inputs, parameters and versions give the same bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

from workspace import DATA_STAGES, Project


def test_data_stages_are_byte_identical_in_a_fresh_clone(template: Project, tmp_path: Path) -> None:
    clone = template.clone_to(tmp_path)
    assert not (clone.root / "data" / "raw" / "messages.parquet").exists()
    # What is in git would count as done already.
    shutil.rmtree(clone.root / "reports" / "data")
    # Another hash seed and no cache: equal bytes are no accident of one process.
    result = clone.run("dvc", "repro", *DATA_STAGES, extra={"PYTHONHASHSEED": "4321"})
    assert sorted(result.ran) == sorted(DATA_STAGES)
    assert clone.git("diff", "--", "dvc.lock") == ""
    assert clone.git("status", "--short") == ""
    assert {stage: clone.lock[stage] for stage in DATA_STAGES} == {
        stage: template.lock[stage] for stage in DATA_STAGES
    }
