"""`afina compare` on the revisions of a repository, with predictions in git and in DVC's cache."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from workspace import Project, Result

from afina.evaluation.predictions import prediction_table, write_predictions
from afina.labels import LabelSet

LABELS = ("a", "b", "c", "d")
PREDICTIONS = Path("reports") / "predictions.parquet"


@dataclass(frozen=True)
class History:
    """A repository with a commit a model; `cached` keeps the predictions out of git."""

    project: Project
    cached: bool
    folder: str = ""  # of the DVC repository in the one of git

    def commit(self, tag: str, accuracy: float | None, rows: int = 800) -> None:
        """Commit the predictions of a model of this accuracy, or none, and tag the commit."""
        root = self.project.root / self.folder
        if accuracy is not None:
            write_model(root / PREDICTIONS, accuracy, rows)
            if self.cached:
                Project(root).dvc("add", "--quiet", str(PREDICTIONS))
        (root / "note.txt").write_text(tag, encoding="utf-8")
        self.project.commit(tag)
        self.project.git("tag", tag)

    def compare(self, *arguments: str, status: int = 0, inside: str = "") -> Result:
        where = Project(self.project.root / inside) if inside else self.project
        result = where.run("afina", "compare", *arguments, check=False)
        assert result.code == status, result.out + result.err
        return result

    def error(self, *arguments: str, inside: str = "") -> str:
        """The one line that a comparison says that cannot be made."""
        result = self.compare(*arguments, status=2, inside=inside)
        assert result.out == ""
        assert result.err.startswith("afina: error: compare: "), result.err
        assert result.err.count("\n") == 1, result.err
        return result.err


def write_model(path: Path, accuracy: float, rows: int = 800, prefix: str = "m") -> None:
    """The predictions of a model that is right on the first rows of each class; a worse one on fewer."""
    truth = np.arange(rows) % len(LABELS)
    place = np.arange(rows) // len(LABELS) / (rows // len(LABELS))
    predicted = np.where(place < accuracy, truth, (truth + 1) % len(LABELS))
    part = ([f"{prefix}{row}" for row in range(rows)], truth, predicted, np.full((rows, len(LABELS)), 0.25))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_predictions(prediction_table(LabelSet("multiclass", LABELS), {"test": part}), path)


def start(base: Path, *options: str) -> Project:
    """An empty repository of DVC, and of git unless the options say otherwise."""
    (base / "project").mkdir(parents=True)
    project = Project(base / "project")
    if "--no-scm" not in options:
        project.git("init", "--quiet", "--initial-branch", "main")
    project.dvc("init", "--quiet", *options)
    return project


@pytest.fixture(scope="module", params=["in git", "cached"])
def history(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> History:
    """Commits without a model, with one, the same, a better and a worse one. Nothing changes it."""
    cached = request.param == "cached"
    made = History(start(tmp_path_factory.mktemp("history")), cached)
    for tag, accuracy in (
        ("empty", None),
        ("first", 0.8),
        ("unchanged", 0.8),
        ("better", 0.9),
        ("worse", 0.7),
    ):
        made.commit(tag, accuracy)
    ignored = made.project.run("git", "check-ignore", "--quiet", str(PREDICTIONS), check=False).code == 0
    assert ignored == cached
    return made


def test_verdicts_and_exit_statuses(history: History) -> None:
    before = history.project.git("status", "--short")
    same = history.compare("--base", "first", "--head", "unchanged")
    assert same.out.startswith("the same predictions: macro-F1 0.800 on 800 common test rows\n")
    better = history.compare("--base", "first", "--head", "better")
    assert better.out.startswith("better: macro-F1 0.800 -> 0.900, difference +0.100 [")
    worse = history.compare("--base", "first", "--head", "worse", status=1)
    assert worse.out.startswith("worse: macro-F1 0.800 -> 0.700, difference -0.100 [")
    assert worse.err == ""
    # the workspace holds the last commit's
    assert history.compare("--base", "first", status=1).out == worse.out.replace(
        "head worse", "head workspace"
    )
    lax = history.compare("--base", "better", "--head", "first", "--max-drop", "0.1", "--detectable", "0.5")
    assert lax.out.startswith("no evidence: ")
    assert history.project.git("status", "--short") == before


def test_a_full_hash_and_markdown(history: History) -> None:
    revision = history.project.git("rev-parse", "first")
    result = history.compare("--base", revision, "--md", "--metric", "accuracy", status=1)
    assert result.out.startswith("**worse**: accuracy 0.800 -> 0.700, ")
    assert f"base `{revision[:8]}`, head `workspace`; " in result.out
    assert "\n| macro-F1 | 0.800 | 0.700 | -0.100 | [" in result.out


def test_mistakes_are_named(history: History) -> None:
    assert "--base: no revision 'nowhere' in git" in history.error("--base", "nowhere")
    assert "--head: no revision 'nowhere' in git" in history.error("--base", "first", "--head", "nowhere")
    assert "--base empty: no reports/predictions.parquet at that revision" in history.error("--base", "empty")
    assert "--base: the revision has no name" in history.error("--base", "")
    assert "no 'micro_f1'" in history.error("--base", "first", "--metric", "micro_f1")
    assert "--alpha" in history.error("--base", "first", "--alpha", "0.7")


def test_the_workspace_may_be_newer_than_any_commit(history: History, tmp_path: Path) -> None:
    copied = History(history.project.copy_to(tmp_path), history.cached)
    predictions = copied.project.root / PREDICTIONS
    predictions.unlink()
    assert "reports/predictions.parquet: no such file" in copied.error("--base", "first")
    write_model(predictions, 0.9)
    assert copied.compare("--base", "first").out.startswith("better: ")
    (copied.project.root / "deeper").mkdir()
    assert copied.compare("--base", "first", inside="deeper").out.startswith("better: ")
    write_model(predictions, 0.7, rows=600)
    assert copied.compare("--base", "first").out.startswith(
        "data changed: 25 % of the base's test rows without a partner; on 600 common test rows macro-F1 "
    )
    predictions.write_bytes(b"none")
    assert "reports/predictions.parquet: not a Parquet file" in copied.error("--base", "first")


def test_a_clone_without_the_cache(history: History, tmp_path: Path) -> None:
    """What git holds can be compared everywhere; what it does not is said to be missing, or fetched."""
    cloned = History(history.project.clone_to(tmp_path), history.cached)
    if not history.cached:
        assert cloned.compare("--base", "first", "--head", "unchanged").out.startswith("the same predictions")
        return
    assert "in no cache and on no remote" in cloned.error("--base", "first", "--head", "unchanged")
    storage = tmp_path / "storage"
    shutil.copytree(history.project.root / ".dvc" / "cache", storage)
    cloned.project.dvc("remote", "add", "--default", "--local", "storage", str(storage))
    assert cloned.compare("--base", "first", "--head", "unchanged").out.startswith("the same predictions")


@pytest.mark.parametrize("cached", [False, True], ids=["in git", "cached"])
def test_a_dvc_repository_in_a_folder_of_git(cached: bool, tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    (project.root / "models").mkdir(parents=True)
    project.git("init", "--quiet", "--initial-branch", "main")
    Project(project.root / "models").dvc("init", "--quiet", "--subdir")
    made = History(project, cached, "models")
    for tag, accuracy in (("first", 0.8), ("worse", 0.7)):
        made.commit(tag, accuracy)
    assert made.compare("--base", "first", inside="models", status=1).out.startswith("worse: ")
    assert made.compare("--base", "first", "--head", "first", inside="models").out.startswith("the same")
    assert "not in a DVC repository" in made.error("--base", "first")


def test_without_git_there_are_no_revisions(tmp_path: Path) -> None:
    made = History(start(tmp_path, "--no-scm"), cached=False)
    write_model(made.project.root / PREDICTIONS, 0.8)
    assert "not in a git repository" in made.error("--base", "main")


def test_leaderboard_orders_experiments(tmp_path: Path) -> None:
    project = start(tmp_path)
    made = History(project, cached=False)
    params = project.root / "params.yaml"
    params.write_text("rate: 1\n", encoding="utf-8")
    (project.root / "dvc.yaml").write_text("params: [params.yaml]\n", encoding="utf-8")
    made.commit("first", 0.8)
    for name, accuracy, rate in (("better", 0.9, 2), ("similar", 0.895, 3), ("poor", 0.5, 4)):
        write_model(project.root / PREDICTIONS, accuracy)
        params.write_text(f"rate: {rate}\n", encoding="utf-8")
        project.dvc("exp", "save", "--name", name)
    project.git("checkout", "--quiet", "--", ".")
    lines = project.run("afina", "leaderboard", "--metric", "accuracy").out.splitlines()
    found = {line.split()[1]: line for line in lines[1:6]}
    assert [line.split()[1] for line in lines[1:6]] == ["better", "similar", "workspace", "HEAD", "poor"]
    assert found["better"].split()[-2:] == ["best", "rate=2"]
    assert found["similar"].split()[-2:] == ["tied", "rate=3"]
    assert found["HEAD"].split()[-1] == "worse"
    assert found["poor"].split()[-2:] == ["worse", "rate=4"]
    assert "| 1 | better | 0.900 |" in project.run("afina", "leaderboard", "--metric", "accuracy", "--md").out

    (project.root / PREDICTIONS).unlink()
    result = project.run("afina", "leaderboard", "--metric", "accuracy")
    assert "leaderboard: workspace is left out: " in result.err
    assert "workspace" not in result.out
    wrong = project.run("afina", "leaderboard", "--metric", "micro_f1", check=False)
    assert (wrong.code, wrong.out) == (2, "")
    assert wrong.err.splitlines()[-1].startswith("afina: error: leaderboard: --metric: ")


def test_leaderboard_of_every_commit(tmp_path: Path) -> None:
    """A name that two commits have, test rows that no other has, and another task."""
    project = start(tmp_path)
    made = History(project, cached=False)
    found = {}
    for tag, accuracy in (("first", 0.8), ("second", 0.7)):
        made.commit(tag, accuracy)
        found[f"same ({project.git('rev-parse', 'HEAD').strip()[:8]})"] = accuracy + 0.1
        write_model(project.root / PREDICTIONS, accuracy + 0.1)
        project.dvc("exp", "save", "--name", "same")
        project.git("checkout", "--quiet", "--", ".")
    path = project.root / PREDICTIONS
    write_model(path, 0.5, prefix="other")
    project.dvc("exp", "save", "--name", "apart")
    truth = np.eye(len(LABELS), dtype=np.int8)
    part = ([f"m{row}" for row in range(4)], truth, truth, truth.astype(np.float64))
    write_predictions(prediction_table(LabelSet("multilabel", LABELS), {"test": part}), path)
    project.dvc("exp", "save", "--name", "several")
    project.git("checkout", "--quiet", "--", ".")

    result = project.run("afina", "leaderboard", "--metric", "accuracy", "--all-commits")
    for name, score in found.items():
        assert f"  {name}  " in result.out
        [line] = [line for line in result.out.splitlines() if name in line]
        assert line.split()[3] == f"{score:.3f}"
    [line] = [line for line in result.out.splitlines() if " apart " in line]
    assert line.split()[1:] == ["apart", "0.500", "other", "data"]
    assert "several" not in result.out
    assert result.err.splitlines() == [
        "leaderboard: several is left out: its task is multilabel, that of workspace is multiclass"
    ]
    latest = project.run("afina", "leaderboard", "--metric", "accuracy").out
    assert " same  " in latest


def test_predictions_of_other_parameters_are_said_to_be(tmp_path: Path) -> None:
    project = start(tmp_path)
    made = History(project, cached=False)
    lock = """schema: '2.0'
stages:
  balance:
    params: {params.yaml: {balance.rate: 1}}
    outs: [{path: balanced, md5: "one"}]
  train:
    deps: [{path: balanced, md5: "one"}]
    params: {params.yaml: {train: {epochs: 3, rate: 0.0005}}}
    outs: [{path: model, md5: "two"}]
  evaluate:
    deps: [{path: model, md5: "two"}]
  export:
    deps: [{path: model, md5: "other"}]
"""
    params = "balance: {rate: 1}\ntrain: {epochs: 3, rate: 5e-4}\n"
    for name, text in (("dvc.lock", lock), ("params.yaml", params), ("dvc.yaml", "params: [params.yaml]\n")):
        (project.root / name).write_text(text, encoding="utf-8")
    made.commit("first", 0.8)
    assert "warning" not in project.run("afina", "compare", "--base", "first").err

    (project.root / "dvc.lock").write_text(
        lock.replace('balanced, md5: "one"}]\n  train', 'balanced, md5: "new"}]\n  train')
    )
    warned = project.run("afina", "compare", "--base", "first").err
    assert "warning: the predictions of workspace are not of its params.yaml: train, evaluate did" in warned
    (project.root / "dvc.lock").write_text(lock)
    (project.root / "params.yaml").write_text(params.replace("3", "4", 1))
    result = project.run("afina", "leaderboard", "--metric", "accuracy")
    [line] = [line for line in result.out.splitlines() if "workspace" in line]
    assert line.endswith("(not run: train, evaluate)")
    assert "(not run" not in next(line for line in result.out.splitlines() if "HEAD" in line)


def test_leaderboard_outside_of_a_repository(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = Project(tmp_path / "empty").run("afina", "leaderboard", check=False)
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith("afina: error: leaderboard: ")
    bare = start(tmp_path / "no-git", "--no-scm")
    result = bare.run("afina", "leaderboard", check=False)
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith("afina: error: ")


def test_leaderboard_of_a_repository_that_cannot_be_read(tmp_path: Path) -> None:
    """As of a copy without .git, before the first commit, or with a setting of DVC's that it refuses."""
    project = start(tmp_path)
    write_model(project.root / PREDICTIONS, 0.8)

    def said() -> str:
        result = project.run("afina", "leaderboard", check=False)
        assert result.code == 2, result.err
        assert result.err.count("\n") == 1, result.err
        return result.err

    where = f"afina: error: leaderboard: {project.root}: "
    assert said().startswith(f"{where}git has no commit yet")
    (project.root / ".dvc" / "config.local").write_text("[core", encoding="utf-8")
    assert said().startswith(f"{where}DVC cannot read it (config file error")
    (project.root / ".dvc" / "config.local").unlink()
    shutil.rmtree(project.root / ".git")
    assert said().startswith(f"{where}not in a git repository")
