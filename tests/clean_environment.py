"""Clean environments, for tests of what a deployment installs: this repository's wheel, nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 600  # seconds; an index may be slow


def environment(**changes: str) -> dict[str, str]:
    """This process's variables without those that would let an interpreter see this environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {name: value for name, value in kept.items() if name != "VIRTUAL_ENV"} | changes


def run(
    *command: str | Path, cwd: Path, env: Mapping[str, str] | None = None, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; its output as text."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=dict(environment() if env is None else env),
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
    )


def need_index(folder: Path) -> None:
    """Skip the test where pip reaches no package index: one try, one small package."""
    pip = (sys.executable, "-m", "pip", "--retries", "1", "--timeout", "20", "download", "--quiet")
    found = run(*pip, "--no-cache-dir", "--no-deps", "--dest", folder, "mdurl", cwd=folder)
    if found.returncode:
        reason = (found.stderr.strip().splitlines() or ["no output"])[-1]
        pytest.skip(f"pip reaches no package index ({reason[:120]})")


def copy_sources(folder: Path) -> Path:
    """What a build needs, away from the checkout, where setuptools would leave its folders."""
    folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    leave_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", folder / "src", ignore=leave_out)
    return folder


def size_mb(folder: Path) -> float:
    """Megabytes (10⁶ bytes) on disk of all files below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return sum(path.stat().st_blocks * 512 for path in files) / 1e6
