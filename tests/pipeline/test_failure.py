"""A stage that fails says why in one line and leaves what earlier runs made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from workspace import ROOT, Project, Result, write_params

from afina.files import sha256


def contents(project: Project) -> dict[str, str]:
    """SHA-256 of every result on disk."""

    def files() -> Iterator[Path]:
        for folder in ("data", "models", "reports"):
            yield from (path for path in (project.root / folder).rglob("*") if path.is_file())

    return {str(path.relative_to(project.root)): sha256(path) for path in files()}


def error_line(result: Result, stage: str) -> str:
    """The one line in which the stage says what is wrong."""
    assert result.code != 0
    assert "Traceback" not in result.out + result.err
    lines = [line for line in result.err.splitlines() if line.startswith(f"{stage}: error: ")]
    assert len(lines) == 1, result.err
    assert f"failed to reproduce '{stage}'" in result.err
    return lines[0]


def test_an_export_that_fails_its_gate_leaves_the_last_good_model(project: Project) -> None:
    before, lock = contents(project), project.lock
    project.set(export__tolerance=1e-12)
    result = project.dvc("repro", check=False)
    assert result.ran == ["export"]
    assert "tolerance" in error_line(result, "export")
    assert contents(project) == before
    assert project.lock == lock


def test_a_wrong_parameter_stops_at_its_stage_and_comes_back_from_the_cache(project: Project) -> None:
    before, lock = contents(project), project.lock
    project.set(train__epoch=3)
    result = project.dvc("repro", check=False)
    assert error_line(result, "train").endswith("train.epoch: unknown parameter; did you mean 'epochs'?")
    # DVC removes a stage's own outputs before it runs; everything before and after it is as it was.
    own = ("models/classifier/", "reports/training.csv")
    after = contents(project)
    assert after == {path: digest for path, digest in before.items() if not path.startswith(own)}
    assert project.lock == lock

    params = project.params
    del params["train"]["epoch"]
    write_params(project.root, params)
    assert project.dvc("repro").ran == []
    assert contents(project) == before


def test_a_wrong_parameter_leaves_the_reports_of_the_last_run(project: Project) -> None:
    before, lock = contents(project), project.lock
    project.set(evaluate__treshold="fit")
    result = project.dvc("repro", check=False)
    assert "evaluate.treshold" in error_line(result, "evaluate")
    assert contents(project) == before
    assert project.lock == lock


@pytest.mark.parametrize(
    ("change", "stage", "said"),
    [({"train__epoch": 3}, "train", "train.epoch"), ({"clean__min_count": 1_000_000}, "clean", "is left")],
)
def test_what_was_before_a_failed_stage_comes_back_as_the_readme_says(
    change: dict[str, Any], stage: str, said: str, project: Project
) -> None:
    before = contents(project)
    project.set(**change)
    assert said in error_line(project.dvc("repro", check=False), stage)
    assert contents(project) != before
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "`git checkout reports models && dvc checkout --force`" in readme
    project.git("checkout", "reports", "models")
    project.dvc("checkout", "--force")
    assert contents(project) == before
