"""Metrics and parameters compared between commits and between experiments."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from workspace import Project


def test_metrics_and_params_differ_between_two_commits(
    oversampled: tuple[Project, list[str]], tmp_path: Path
) -> None:
    """In a clone with neither cache nor remote: what is compared is in git."""
    project = oversampled[0].clone_to(tmp_path)
    old = json.loads(project.git("show", "HEAD~1:reports/metrics.json"))
    new = json.loads(project.git("show", "HEAD:reports/metrics.json"))
    assert old != new

    difference = json.loads(project.dvc("metrics", "diff", "HEAD~1", "HEAD", "--json").out)
    changes = difference["reports/metrics.json"]
    assert changes, "the second commit changed no metric"
    for name, change in changes.items():
        assert change["old"] == value_at(old, name)
        assert change["new"] == value_at(new, name)
    table = project.dvc("metrics", "diff", "HEAD~1", "--md").out
    assert table.startswith("| Path")
    assert all(name in table for name in changes)

    params = project.dvc("params", "diff", "HEAD~1", "--md").out.splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in params]
    changed = {row[1]: row[-1] for row in cells if row[:1] == ["params.yaml"]}
    assert changed == {"balance.strategy": "oversample", "train.lexical": "False"}


def test_experiments_run_from_a_queue_and_are_listed_with_their_parameters(
    oversampled: tuple[Project, list[str]], tmp_path: Path
) -> None:
    project = oversampled[0].copy_to(tmp_path)
    head = project.git("rev-parse", "HEAD")
    files = project.git("status", "--short")
    for name, tolerance in (("tolerance-2", "0.002"), ("tolerance-3", "0.003")):
        change = f"export.tolerance={tolerance}"
        project.dvc("exp", "run", "--queue", "--name", name, "--set-param", change)
    project.dvc("exp", "run", "--run-all")

    shown = csv.DictReader(io.StringIO(project.dvc("exp", "show", "--all-commits", "--csv").out))
    rows = {row["Experiment"]: row for row in shown if row["Experiment"]}
    assert {name: row["export.tolerance"] for name, row in rows.items() if name.startswith("tolerance")} == {
        "tolerance-2": "0.002",
        "tolerance-3": "0.003",
    }
    assert rows["oversampled"]["balance.strategy"] == "oversample"
    assert float(rows["oversampled"]["test.macro_f1"]) == project.metrics()["test"]["macro_f1"]
    assert project.git("rev-parse", "HEAD") == head
    assert project.git("status", "--short") == files


def value_at(metrics: dict[str, object], name: str) -> object:
    """The value of a metric that DVC names by its keys joined with dots."""
    value: object = metrics
    for key in name.split("."):
        assert isinstance(value, dict)
        value = value[key]
    return value
