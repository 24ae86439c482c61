"""One finished run of the pipeline, made once and copied by the tests that start from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from workspace import Project, lay_out


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A repository in which `dvc repro` has run and its results are committed. Copy it, do not change it."""
    project = lay_out(tmp_path_factory.mktemp("template"))
    project.dvc("repro")
    project.commit("First results")
    return project


@pytest.fixture
def project(template: Project, tmp_path: Path) -> Project:
    """A copy of the finished repository for one test to change."""
    return template.copy_to(tmp_path)


@pytest.fixture(scope="session")
def oversampled(template: Project, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, list[str]]:
    """A second commit on the first run, made by an experiment; with the stages that it ran. Copy it too.

    The lexical model goes as well, for with it so small a data set gets the same answers either way.
    """
    project = template.copy_to(tmp_path_factory.mktemp("oversampled"))
    changes = ("balance.strategy=oversample", "train.lexical=false")
    options = [option for change in changes for option in ("--set-param", change)]
    result = project.dvc("exp", "run", "--name", "oversampled", *options)
    project.commit("Oversample the small classes")
    return project, result.ran
