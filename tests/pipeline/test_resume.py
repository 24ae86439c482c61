"""A training run that is killed goes on where it was."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from workspace import Project


def test_training_killed_with_signal_9_resumes_to_the_same_model(template: Project, project: Project) -> None:
    # Without cache and model, train has to run again; the template's run is the uninterrupted one.
    shutil.rmtree(project.root / ".dvc" / "cache")
    shutil.rmtree(project.root / "models" / "classifier")
    checkpoint = project.root / "models" / "checkpoints" / "checkpoint.safetensors"
    assert not checkpoint.exists()

    running = subprocess.Popen(
        ["dvc", "repro"],
        cwd=project.root,
        env=project.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not checkpoint.exists():
            assert running.poll() is None, "train ended before a checkpoint was seen"
            assert time.monotonic() < deadline, "no checkpoint in two minutes"
            time.sleep(0.002)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert not (project.root / "models" / "classifier").exists()
    assert checkpoint.exists()

    resumed = project.dvc("repro")
    assert "train" in resumed.ran
    assert "train: resumes from its checkpoint" in resumed.err
    assert project.metrics() == template.metrics()
    assert _without_speeds(project.lock) == _without_speeds(template.lock)
    model = Path("models/onnx/model.onnx")
    assert (project.root / model).read_bytes() == (template.root / model).read_bytes()
    changed = {line.split()[-1] for line in project.git("status", "--short").splitlines()}
    assert changed <= {"dvc.lock", "reports/export.json", "reports/report.html"}


def _without_speeds(lock: dict[str, Any]) -> dict[str, Any]:
    """What export and the report write holds texts per second, as measured in each run."""
    return {stage: entry for stage, entry in lock.items() if stage not in ("export", "report")}
