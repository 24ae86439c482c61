"""The GitHub workflows: valid by their schema, and their steps do what they say in a clean clone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from workspace import ROOT, STAGES, Project, Result

from afina.evaluation.predictions import read_predictions, write_predictions

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def load(name: str) -> dict[Any, Any]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))


@dataclass
class Runner:
    """Runs a job's `run` steps in order, as a GitHub runner does; what actions do (`uses`) the test prepares.

    Of the expressions, ``${{ steps.ID.outputs.NAME }}`` is what that step wrote, ``${{ secrets.NAME }}`` is
    in ``secrets`` or empty, ``${{ github.event.number }}`` is 7, and ``always() && steps.ID.outcome !=
    'skipped'`` is the one condition there is. Any other expression in a run step is an error.
    """

    project: Project
    event: dict[str, str]
    secrets: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)
    logs: dict[str, Result] = field(default_factory=dict)
    failed: bool = False

    @property
    def temporary(self) -> Path:
        return self.project.base / "runner"

    @property
    def summary(self) -> str:
        return (self.temporary / "summary.md").read_text(encoding="utf-8")

    def run_job(self, workflow: dict[Any, Any], job: str, until: str | None = None) -> None:
        """Run the steps of a job, up to and including the one called ``until``."""
        assert workflow["defaults"]["run"]["shell"] == "bash"
        self.temporary.mkdir()
        for name in ("summary.md", "path", "env"):
            (self.temporary / name).touch()
        for number, step in enumerate(workflow["jobs"][job]["steps"]):
            if "run" in step:
                self.run_step(step, step.get("id", f"step{number}"), workflow.get("env", {}))
            if until is not None and step.get("name") == until:
                break

    def run_step(self, step: dict[str, Any], identifier: str, env: dict[str, str]) -> None:
        if not self.wanted(step.get("if", "success()")):
            self.outcomes[identifier] = "skipped"
            return
        script, output = self.temporary / f"{identifier}.sh", self.temporary / f"{identifier}.out"
        script.write_text(self.substituted(step["run"]), encoding="utf-8")
        output.touch()
        added = [
            *reversed((self.temporary / "path").read_text().splitlines()),
            self.project.environment["PATH"],
        ]
        values = {name: self.substituted(value) for name, value in (env | step.get("env", {})).items()}
        runner = {
            "CI": "true",
            "PATH": ":".join(added),
            "GITHUB_ACTIONS": "true",
            "GITHUB_WORKSPACE": str(self.project.root),
            "GITHUB_STEP_SUMMARY": str(self.temporary / "summary.md"),
            "GITHUB_PATH": str(self.temporary / "path"),
            "GITHUB_ENV": str(self.temporary / "env"),
            "GITHUB_OUTPUT": str(output),
            "RUNNER_TEMP": str(self.temporary),
        }
        shell = ("bash", "--noprofile", "--norc", "-eo", "pipefail", str(script))
        result = self.project.run(*shell, check=False, extra=runner | self.event | values)
        self.logs[step["name"]] = result
        self.outcomes[identifier] = "success" if result.code == 0 else "failure"
        self.failed = self.failed or result.code != 0
        self.outputs[identifier] = dict(line.split("=", 1) for line in output.read_text().splitlines())

    def wanted(self, condition: str) -> bool:
        if condition == "success()":
            return not self.failed
        match = re.fullmatch(r"always\(\) && steps\.(\w+)\.outcome != 'skipped'", condition)
        assert match, f"condition not understood: {condition}"
        return self.outcomes[match[1]] != "skipped"

    def substituted(self, text: str) -> str:
        def value(match: re.Match[str]) -> str:
            expression = match[1].strip()
            if output := re.fullmatch(r"steps\.(\w+)\.outputs\.(\w+)", expression):
                return self.outputs[output[1]][output[2]]
            if secret := re.fullmatch(r"secrets\.(\w+)", expression):
                return self.secrets.get(secret[1], "")
            if expression == "github.event.number":
                return "7"
            raise AssertionError(f"expression not understood: {expression}")

        return re.sub(r"\$\{\{(.*?)\}\}", value, text)


def with_environment(clone: Project) -> Project:
    """Give the clone a `.venv` that is this environment, so that `make install` finds nothing to do."""
    environment = clone.root / ".venv"
    environment.mkdir()
    (environment / "bin").symlink_to(Path(sys.executable).parent)
    for name in ("lib", "lib64", "include"):
        if (Path(sys.prefix) / name).exists():
            (environment / name).symlink_to(Path(sys.prefix) / name)
    if (Path(sys.prefix) / "pyvenv.cfg").exists():
        shutil.copy(Path(sys.prefix) / "pyvenv.cfg", environment)
    (environment / ".pipeline").touch()
    (environment / ".dev").touch()
    return clone


def restore_cache(project: Project, clone: Project) -> None:
    """What actions/cache brings back: the cache of an earlier run."""
    shutil.copytree(project.root / ".dvc" / "cache", clone.root / ".dvc" / "cache")


def run_pipeline(
    clone: Project, event: dict[str, str], secrets: dict[str, str] | None = None, until: str | None = None
) -> Runner:
    runner = Runner(with_environment(clone), event, secrets or {})
    runner.run_job(load("pipeline.yml"), "pipeline", until)
    return runner


def stages_table(summary: str) -> dict[str, str]:
    header, line, *rows = [line for line in section(summary, "Stages") if line.startswith("|")]
    assert header == "| Stage | This run |"
    assert set(line) == {"|", "-"}
    return dict(re.findall(r"^\| (\w+) \| ([^|]+) \|$", "\n".join(rows), flags=re.MULTILINE))


def section(summary: str, title: str) -> list[str]:
    """The lines of the summary under a heading."""
    return summary.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0].strip().splitlines()


def assert_all_but_the_verdict(runner: Runner) -> None:
    """Nothing failed; or the last step alone did, because the model is worse."""
    last = "Fail where the model is worse"
    failed = [name for name, result in runner.logs.items() if result.code != 0]
    worse = section(runner.summary, "Is the model worse?")[0].startswith("**worse**")
    assert failed == ([last] if worse else []), runner.logs


PUSH = {"GITHUB_EVENT_NAME": "push", "GITHUB_REF_NAME": "main", "GITHUB_BASE_REF": ""}
PULL_REQUEST = {"GITHUB_EVENT_NAME": "pull_request", "GITHUB_REF_NAME": "7/merge", "GITHUB_BASE_REF": "main"}


def test_there_are_three_workflows() -> None:
    assert [path.name for path in WORKFLOWS] == ["comment.yml", "pipeline.yml", "tests.yml"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_is_valid_by_the_schema(path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_uses_only_githubs_own_actions_at_a_major_version(path: Path) -> None:
    for job in load(path.name)["jobs"].values():
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]), step["uses"]
            else:
                # What others can write (branch names, titles) reaches a script by the environment alone.
                assert "${{" not in step["run"], step["run"]


def test_tests_run_on_every_supported_python() -> None:
    job = load("tests.yml")["jobs"]["tests"]
    assert job["strategy"]["matrix"]["python-version"] == ["3.11", "3.12", "3.13"]
    commands = [step["run"].strip() for step in job["steps"] if "run" in step]
    assert commands[-2:] == ["make check", "make test"]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for target in ("check", "test", "repro"):
        assert f"step make {target}\n" in script
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_make_clean_removes_what_is_in_dvcs_cache_alone() -> None:
    """Texts that people wrote are there, the report's among them."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    cached = {
        path
        for stage in stages.values()
        for out in stage.get("outs", ())
        for path, options in (out if isinstance(out, dict) else {out: {}}).items()
        if options.get("cache", True)
    }
    said = subprocess.run(
        ["make", "--dry-run", "clean"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    removed = set(said.stdout.split())
    assert {path for path in cached if removed.isdisjoint({path, str(Path(path).parent)})} == set()


def test_pull_request_is_compared_with_its_merge_base(template: Project, tmp_path: Path) -> None:
    """main moves on after the branch left it: the difference is the branch's alone."""
    origin = template.copy_to(tmp_path / "origin")
    fork = origin.git("rev-parse", "HEAD")
    origin.git("checkout", "--quiet", "-b", "shorter")
    origin.set(train__lexical=False)
    origin.commit("The backbone alone")
    origin.git("checkout", "--quiet", "main")
    origin.set(clean__min_support=7)
    origin.commit("A parameter that the branch does not have")
    origin.git("checkout", "--quiet", "shorter")
    clone = origin.clone_to(tmp_path / "clone")
    restore_cache(template, clone)

    runner = run_pipeline(clone, PULL_REQUEST)
    assert_all_but_the_verdict(runner)
    assert runner.outputs["base"]["revision"] == fork
    expected = dict.fromkeys(STAGES, "unchanged") | dict.fromkeys(
        ("train", "evaluate", "export", "audit", "behave", "explain", "report"), "ran"
    )
    assert stages_table(runner.summary) == expected
    assert f"Compared with `{fork[:7]}" in runner.summary
    metrics = [
        line for line in section(runner.summary, "Metrics") if line.startswith("| reports/metrics.json")
    ]
    assert any("test.macro_f1" in line for line in metrics), runner.summary
    params = section(runner.summary, "Parameters")
    assert [line.split("|")[2].strip() for line in params[2:]] == ["train.lexical"]
    assert (clone.root / "models" / "onnx" / "model.onnx").is_file()
    # No remote is configured, and the step says so.
    assert "nothing to pull" in runner.logs["Pull data"].out


def rewrite_predictions(project: Project, wrong: int) -> None:
    """Committed predictions that are all right but for the first rows of test, so many of them."""
    path = project.root / "reports" / "predictions.parquet"
    rows = read_predictions(path)
    truth, splits = rows["labels"].to_pylist(), rows["split"].to_pylist()
    labels = json.loads(rows.schema.metadata[b"labels"])
    tests = [place for place, split in enumerate(splits) if split == "test"]
    predicted = list(truth)
    for place in tests[:wrong]:
        predicted[place] = [next(label for label in labels if [label] != truth[place])]
    column = rows.schema.get_field_index("predicted")
    changed = rows.set_column(column, rows.schema.field(column), pa.array(predicted, pa.list_(pa.string())))
    write_predictions(changed.replace_schema_metadata(rows.schema.metadata), path)


def test_a_worse_model_fails_the_job_after_everything_is_said(template: Project, tmp_path: Path) -> None:
    origin = template.copy_to(tmp_path / "origin")
    rewrite_predictions(origin, wrong=0)
    origin.dvc("commit", "--force", "evaluate")
    origin.commit("A model that is always right")
    origin.git("checkout", "--quiet", "-b", "worse")
    rewrite_predictions(origin, wrong=20)
    origin.dvc("commit", "--force", "evaluate")
    origin.commit("A worse one")
    clone = origin.clone_to(tmp_path / "clone")
    restore_cache(origin, clone)
    runner = run_pipeline(clone, PULL_REQUEST)
    assert runner.failed
    failures = [name for name, outcome in runner.outcomes.items() if outcome == "failure"]
    assert len(failures) == 1
    assert "The model is worse" in runner.logs["Fail where the model is worse"].out
    assert section(runner.summary, "Is the model worse?")[0].startswith("**worse**: macro-F1 1.000 -> ")
    comment = runner.temporary / "comment"
    assert (comment / "number").read_text() == "7"
    assert (comment / "comment.md").read_text(encoding="utf-8") == runner.summary


def test_a_base_without_predictions_is_no_failure(template: Project, tmp_path: Path) -> None:
    origin = template.copy_to(tmp_path / "origin")
    origin.git("rm", "--quiet", "--cached", "reports/predictions.parquet")
    origin.git("commit", "--quiet", "--message", "Without predictions")
    origin.commit("With them")
    clone = origin.clone_to(tmp_path / "clone")
    restore_cache(origin, clone)
    runner = run_pipeline(clone, PUSH)
    assert not runner.failed, runner.logs
    said = section(runner.summary, "Is the model worse?")
    assert said[0] == "Not compared:"
    assert "afina: error: compare: " in said[2]


GH = """#!{python}
import json, sys
from pathlib import Path
here = Path(__file__).parent
arguments = sys.argv[1:]
with (here / "calls").open("a") as log:
    log.write(json.dumps(arguments) + "\\n")
if arguments[1].endswith("/pulls/7"):
    print("abc123")
elif "--paginate" in arguments:
    print((here / "comments").read_text(), end="")
"""


def run_comment(
    folder: Path, number: str = "7", head: str = "abc123", comments: str = ""
) -> tuple[str, list[list[str]]]:
    """Run the step that comments, with a stand-in for GitHub's command line; what it said and called."""
    (folder / "comment").mkdir(parents=True)
    (folder / "comment" / "comment.md").write_text("## Stages\n" + "ñ" * 40_000, encoding="utf-8")
    (folder / "comment" / "number").write_text(number)
    (folder / "gh").write_text(GH.format(python=sys.executable))
    (folder / "gh").chmod(0o755)
    (folder / "comments").write_text(comments)
    (step,) = (step for step in load("comment.yml")["jobs"]["comment"]["steps"] if "run" in step)
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=folder,
        env={
            "PATH": f"{folder}:/usr/bin:/bin",
            "REPOSITORY": "ana/afina",
            "HEAD_SHA": head,
            "GH_TOKEN": "t",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    calls = folder / "calls"
    return done.stdout, [
        json.loads(line) for line in calls.read_text().splitlines()
    ] if calls.exists() else []


def test_the_comment_is_made_once_and_then_updated(tmp_path: Path) -> None:
    _, calls = run_comment(tmp_path / "first")
    assert calls[-1][2:5] == ["--method", "POST", "repos/ana/afina/issues/7/comments"]
    body = (tmp_path / "first" / "body.md").read_text(encoding="utf-8")  # cut between characters
    assert body.startswith("<!-- afina pipeline -->\n## Stages\n")
    assert len(body) < 65_536
    _, calls = run_comment(tmp_path / "again", comments="123\n456\n")
    assert calls[-1][2:5] == ["--method", "PATCH", "repos/ana/afina/issues/comments/123"]
    assert "github-actions[bot]" in calls[1][-1]


@pytest.mark.parametrize(("number", "head"), [("7", "another"), ("7; rm -rf /", "another"), ("x", "abc123")])
def test_what_a_fork_wrote_is_not_trusted(number: str, head: str, tmp_path: Path) -> None:
    said, calls = run_comment(tmp_path / "run", number, head)
    assert "has another head by now" in said
    assert not any("--method" in call for call in calls)


def test_no_summary_is_no_comment(tmp_path: Path) -> None:
    (step,) = (step for step in load("comment.yml")["jobs"]["comment"]["steps"] if "run" in step)
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", step["run"]], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "The run left no summary.\n")


def test_gitlab_runs_the_same(oversampled: tuple[Project, list[str]], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.gitlab-ci"]
    done = subprocess.run([*command, str(ROOT / ".gitlab-ci.yml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    clone = with_environment(oversampled[0].clone_to(tmp_path / "clone"))
    restore_cache(oversampled[0], clone)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "apt-get").write_text("#!/bin/sh\n")
    (tools / "apt-get").chmod(0o755)
    job = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text(encoding="utf-8"))["pipeline"]
    script = "\n".join(job["script"])
    result = clone.run(
        *("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script),
        check=False,
        extra={"PATH": f"{tools}:{clone.environment['PATH']}"},
    )
    written = (clone.root / "comparison.md").read_text(encoding="utf-8")
    verdict = re.search(r"^\*\*([a-z ]+)\*\*: macro-F1", written, flags=re.MULTILINE)
    assert verdict, result.err
    assert result.code == (1 if verdict[1] == "worse" else 0), result.err
    assert "| balance.strategy |" in written
    assert "| reports/metrics.json |" in written


def test_push_to_main_is_compared_with_the_commit_before(
    oversampled: tuple[Project, list[str]], tmp_path: Path
) -> None:
    """With a remote that everyone may read, and nothing from an earlier run of the workflow."""
    origin = oversampled[0].copy_to(tmp_path / "origin")
    origin.dvc("remote", "add", "--default", "storage", str(tmp_path / "storage"))
    origin.dvc("push")
    origin.git("commit", "--all", "--quiet", "--amend", "--no-edit")
    clone = origin.clone_to(tmp_path / "clone")
    runner = run_pipeline(clone, PUSH)
    assert_all_but_the_verdict(runner)
    assert runner.outputs["base"]["revision"] == origin.git("rev-parse", "HEAD~1")
    assert stages_table(runner.summary) == dict.fromkeys(STAGES, "unchanged")
    assert any(line.startswith("| reports/metrics.json") for line in section(runner.summary, "Metrics"))
    assert any("| balance.strategy |" in line for line in section(runner.summary, "Parameters"))
    assert clone.git("status", "--short") == ""


def test_first_commit_has_nothing_to_compare_with(template: Project, tmp_path: Path) -> None:
    origin = template.copy_to(tmp_path / "origin")
    shutil.rmtree(origin.root / ".git")
    origin.git("init", "--quiet", "--initial-branch", "main")
    origin.commit("Everything at once")
    clone = origin.clone_to(tmp_path / "clone")
    restore_cache(origin, clone)
    runner = run_pipeline(clone, PUSH)
    assert not runner.failed, runner.logs
    assert runner.outputs["base"]["revision"] == ""
    assert "There is no earlier commit to compare with." in runner.summary
    assert any("reports/metrics.json" in line for line in section(runner.summary, "Metrics"))
    assert "Parameters" not in runner.summary


def test_a_private_remote_is_left_out_without_credentials_and_an_error_with_wrong_ones(
    template: Project, tmp_path: Path
) -> None:
    """A fork's pull request has no secret; where there is one, a remote that does not answer is a failure."""
    origin = template.copy_to(tmp_path / "origin")
    origin.dvc("remote", "add", "--default", "storage", "ssh://nobody@127.0.0.1:9/storage")
    origin.commit("Private storage")
    runner = run_pipeline(origin.clone_to(tmp_path / "fork"), PUSH, until="Pull data")
    assert not runner.failed, runner.logs
    assert "::notice::Remote 'storage' cannot be read" in runner.logs["Pull data"].out

    secret = "['remote \"storage\"']\n    user = ana"
    clone = origin.clone_to(tmp_path / "secret")
    runner = run_pipeline(clone, PUSH, {"DVC_CONFIG_LOCAL": secret}, until="Run the pipeline")
    assert runner.failed
    assert "Run the pipeline" not in runner.logs
    assert (clone.root / ".dvc" / "config.local").stat().st_mode & 0o077 == 0


def test_a_failing_stage_fails_the_job_and_is_named_in_the_summary(template: Project, tmp_path: Path) -> None:
    origin = template.copy_to(tmp_path / "origin")
    origin.set(export__tolerance=1e-12)
    origin.commit("A gate that nothing passes")
    clone = origin.clone_to(tmp_path / "clone")
    restore_cache(template, clone)
    runner = run_pipeline(clone, PUSH)
    assert runner.failed
    assert runner.outcomes["repro"] == "failure"
    assert "| export | **failed** |" in runner.summary
    assert "| export.tolerance |" in runner.summary
