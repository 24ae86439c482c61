"""A temporary git and DVC repository that runs the pipeline on generated messages with a tiny backbone."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
STAGES = (
    "extract",
    "clean",
    "analyze",
    "split",
    "balance",
    "adapt",
    "baseline",
    "train",
    "evaluate",
    "export",
    "audit",
    "behave",
    "explain",
    "report",
)
DATA_STAGES = ("extract", "clean", "analyze", "split", "balance")

# What the pipeline needs of this repository: its code, its DAG and DVC's settings, none of its data.
COPIED = (
    "pipeline",
    "src/afina",
    "dvc.yaml",
    ".dvcignore",
    ".gitignore",
    ".dvc/config",
    ".dvc/.gitignore",
    ".dvc/plots",
    "Makefile",
    "pyproject.toml",
    "constraints.txt",
    "data/cases",
    "README.md",
    ".github",
)

TOPICS = {
    "pensiones": (120, "pensión jubilación cobro retraso expediente prestación mensualidad viudedad"),
    "sanidad": (70, "médico cita hospital urgencias vacuna ambulatorio espera especialista"),
    "vivienda": (35, "alquiler hipoteca desahucio vivienda fianza casero humedades comunidad"),
    "educación": (18, "colegio beca matrícula maestra niño comedor instituto admisión"),
}
FILLER = (
    "el la los una de que en por favor desde ayer señor año mañana según también día calle número "
    "queremos saber cuándo gracias respuesta hola buenas tardes situación más información"
)


@dataclass(frozen=True)
class Result:
    """What a finished command said."""

    code: int
    out: str
    err: str

    @property
    def ran(self) -> list[str]:
        """The stages that ran, in order; not those taken from the cache."""
        return re.findall(r"^Running stage '([^']+)'", self.out, flags=re.MULTILINE)


@dataclass(frozen=True)
class Project:
    """A repository at ``root``; home, caches and settings are beside it, not the machine's."""

    root: Path

    @property
    def base(self) -> Path:
        return self.root.parent

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every command: this interpreter, the project's own copy of afina, no network."""
        kept = {
            name: os.environ[name]
            for name in ("LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")
            if name in os.environ
        }
        return kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.root / "src"),
            "HOME": str(self.base / "home"),
            "XDG_CACHE_HOME": str(self.base / "home" / ".cache"),
            "DVC_SITE_CACHE_DIR": str(self.base / "site-cache"),
            "DVC_SYSTEM_CONFIG_DIR": str(self.base / "home" / "system"),
            "DVC_GLOBAL_CONFIG_DIR": str(self.base / "home" / "global"),
            "DVC_NO_ANALYTICS": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "Ana Afina",
            "GIT_AUTHOR_EMAIL": "ana@example.org",
            "GIT_COMMITTER_NAME": "Ana Afina",
            "GIT_COMMITTER_EMAIL": "ana@example.org",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "1",
        }

    def run(self, *command: str, check: bool = True, extra: Mapping[str, str] | None = None) -> Result:
        """Run a command in the repository; a failure is an assertion error with what it said."""
        (self.base / "home").mkdir(exist_ok=True)
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment | dict(extra or {}),
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        result = Result(done.returncode, done.stdout, done.stderr)
        assert not check or result.code == 0, (
            f"{' '.join(command)}: exit {result.code}\n{result.out}\n{result.err}"
        )
        return result

    def git(self, *arguments: str) -> str:
        return self.run("git", *arguments).out.strip()

    def dvc(self, *arguments: str, check: bool = True) -> Result:
        return self.run("dvc", *arguments, check=check)

    def commit(self, message: str) -> str:
        """Commit everything that is not ignored; returns the revision."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")

    @property
    def params(self) -> dict[str, Any]:
        return yaml.safe_load((self.root / "params.yaml").read_text(encoding="utf-8"))

    @property
    def lock(self) -> dict[str, Any]:
        """The stages of dvc.lock."""
        return yaml.safe_load((self.root / "dvc.lock").read_text(encoding="utf-8"))["stages"]

    def set(self, **changes: Any) -> None:
        """Change parameters: ``set(train__epochs=3)`` is train.epochs."""
        params = self.params
        for name, value in changes.items():
            section, _, field = name.partition("__")
            if field:
                params[section][field] = value
            else:
                params[section] = value
        write_params(self.root, params)

    def metrics(self) -> dict[str, Any]:
        return json.loads((self.root / "reports" / "metrics.json").read_text(encoding="utf-8"))

    def copy_to(self, base: Path) -> Project:
        """The same repository, its cache and outputs included, elsewhere."""
        base.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.root, base / "project", symlinks=True)
        return Project(base / "project")

    def clone_to(self, base: Path, *arguments: str) -> Project:
        """A fresh git clone: no cache, no outputs."""
        base.mkdir(parents=True, exist_ok=True)
        self.run("git", "clone", "--quiet", *arguments, str(self.root), str(base / "project"))
        return Project(base / "project")


def write_params(root: Path, params: Mapping[str, Any]) -> None:
    text = yaml.safe_dump(dict(params), allow_unicode=True, sort_keys=False)
    (root / "params.yaml").write_text(text, encoding="utf-8")


def write_messages(path: Path) -> None:
    """A few hundred short messages in four classes, the largest seven times the smallest."""
    draw = random.Random(7)
    rows = []
    for topic, (count, words) in TOPICS.items():
        for _ in range(count):
            text = draw.choices(FILLER.split(), k=draw.randint(5, 14)) + draw.choices(
                words.split(), k=draw.randint(1, 3)
            )
            # Some noise, so that no model reaches 1 and a change of parameters shows in the metrics.
            if draw.random() < 0.2:
                text += draw.choices(draw.choice(list(TOPICS.values()))[1].split(), k=2)
            draw.shuffle(text)
            rows.append((" ".join(text), topic))
    draw.shuffle(rows)
    lines = ["id,texto,tema", *(f"{number},{text},{topic}" for number, (text, topic) in enumerate(rows))]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def lay_out(base: Path) -> Project:
    """A new repository with code, messages, backbone and parameters committed, and no stage run yet."""
    from tiny import build_tiny_backbone

    root = base / "project"
    root.mkdir(parents=True)
    for name in COPIED:
        source, target = ROOT / name, root / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        elif source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    write_messages(root / "data" / "source" / "mensajes.csv")
    build_tiny_backbone(root / "models" / "local" / "tiny")
    write_params(root, tiny_params())
    project = Project(root)
    project.git("init", "--quiet", "--initial-branch", "main")
    project.commit("Pipeline on generated messages")
    return project


def section_models() -> dict[str, Any]:
    """Each section of params.yaml and its pydantic model, found by looking through afina.params."""
    import importlib
    import pkgutil

    import afina.params
    from afina.params.base import Section

    for module in pkgutil.iter_modules(afina.params.__path__):
        importlib.import_module(f"afina.params.{module.name}")
    return {model.section_name: model for model in Section.__subclasses__() if model.section_name}


# What a tiny run sets; everything else is at its default, written out so that every parameter is in the file.
TINY: dict[str, dict[str, Any]] = {
    "clean": {"top_k": 10},
    "extract": {
        "sources": [{"path": "data/source/mensajes.csv", "id": "id", "text": "texto", "label": "tema"}],
    },
    "train": {
        "backbone": "models/local/tiny",
        "max_length": 32,
        "epochs": 2,
        "learning_rate": 0.01,
        "head_learning_rate": 0.02,
        "precision": "fp32",
        "threads": 1,
        "checkpoint_seconds": 0.0,
    },
    "evaluate": {"bootstrap_samples": 100},
    # A model of two epochs is unsure of everything, so that rounding turns some of its answers.
    "export": {"int8_max_drop": 1.0, "int8_min_agreement": 0.0},
}


def tiny_params() -> dict[str, Any]:
    params: dict[str, Any] = {"seed": 42}
    models = section_models()
    for stage in STAGES:
        changed = TINY.get(stage, {})
        params[stage] = models[stage].model_validate(changed).model_dump(mode="json") | changed
    return params
