"""The wheel in an environment of its own: it predicts, and brings nothing that trains."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import numpy as np
import pytest

from afina.runtime import Classifier
from clean_environment import ROOT, copy_sources, environment, need_index, run, size_mb
from toy_artifact import write_toy

TEXTS = ["Agua agua, por favor", "luz", "pagos pagos luz", "nada"]
MOST_MB = 250.0
NOT_NEEDED = (
    "torch",
    "transformers",
    "pandas",
    "pyarrow",
    "sklearn",
    "scipy",
    "onnx",
    "dvc",
    "fastapi",
    "uvicorn",
)

PREDICT = """
import json, sys
from afina.runtime import Classifier
classifier = Classifier(sys.argv[1])
print(json.dumps(classifier.predict_proba(json.load(sys.stdin)).tolist()))
print(json.dumps(sorted(name for name in sys.modules if "." not in name)))
"""

# A name counts as present where it can be imported, wherever from.
PRESENT = """
import importlib.util, sys
print(*[name for name in sys.argv[1:] if importlib.util.find_spec(name)])
"""


class Installed(NamedTuple):
    """A clean environment with the wheel in it."""

    sources: Path
    wheel: Path
    bin: Path
    site_packages: Path


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel, built in isolation, installed without extras."""
    folder = tmp_path_factory.mktemp("wheel")
    need_index(folder)
    sources = copy_sources(folder / "sources")
    pip = (sys.executable, "-m", "pip", "--quiet")
    built = run(*pip, "wheel", "--no-deps", "--wheel-dir", folder / "dist", ".", cwd=sources)
    assert built.returncode == 0, built.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    # Without pip, which is no part of what is measured.
    made = run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    assert made.returncode == 0, made.stderr
    python = folder / "venv" / "bin" / "python"
    limits = ("--constraint", ROOT / "constraints.txt")
    added = run(*pip, "--python", python, "install", "--no-warn-script-location", *limits, wheel, cwd=folder)
    assert added.returncode == 0, added.stderr
    where = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    return Installed(sources, wheel, python.parent, Path(where.stdout.strip()))


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_the_installed_package_predicts_as_this_one(task: str, installed: Installed, tmp_path: Path) -> None:
    model = write_toy(tmp_path / "model.onnx", task)
    found = run(
        *(installed.bin / "python", "-I", "-c", PREDICT, model), cwd=tmp_path, stdin=json.dumps(TEXTS)
    )
    assert found.returncode == 0, found.stderr
    probabilities, modules = map(json.loads, found.stdout.splitlines())
    np.testing.assert_allclose(probabilities, Classifier(model).predict_proba(TEXTS), atol=1e-6)
    assert not set(modules) & set(NOT_NEEDED)


def test_the_command_predicts_as_python_does(installed: Installed, tmp_path: Path) -> None:
    model = write_toy(tmp_path / "model.onnx")
    table = tmp_path / "messages.csv"
    table.write_text(
        "id,text\n" + "".join(f'{i},"{text}"\n' for i, text in enumerate(TEXTS)), encoding="utf-8"
    )
    options = ("predict", model, "--file", table, "--out", tmp_path / "out.csv")
    found = run(installed.bin / "afina", *options, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    rows = (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "id,text,label,probability,confidence,needs_person"
    expected = [
        f"{prediction.label},{prediction.probability:.6f},{prediction.confidence:.6f},no"
        for prediction in Classifier(model).predict(TEXTS)
    ]
    assert [",".join(row.rsplit(",", 4)[1:]) for row in rows[1:]] == expected

    by_text = run(installed.bin / "afina", "predict", model, "--text", TEXTS[2], "--json", cwd=tmp_path)
    assert json.loads(by_text.stdout)["label"] == "pagos"


def test_predicting_leaves_nothing_behind(installed: Installed, tmp_path: Path) -> None:
    """No file in the home, such as the identifier that onnxruntime makes to send data about its use."""
    model, home = write_toy(tmp_path / "model.onnx"), tmp_path / "home"
    home.mkdir()
    places = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "TMPDIR": str(home)}
    env = {name: value for name, value in environment(**places).items() if name != "ORT_DISABLE_TELEMETRY"}
    found = run(installed.bin / "afina", "predict", model, "--text", "agua", cwd=tmp_path, env=env)
    assert found.returncode == 0, found.stderr
    assert list(home.rglob("*")) == []
    assert found.stderr == ""


def test_nothing_that_trains_is_installed(installed: Installed, tmp_path: Path) -> None:
    python = installed.bin / "python"
    found = run(python, "-I", "-c", PRESENT, "afina", "onnxruntime", *NOT_NEEDED, cwd=tmp_path)
    assert found.stdout.split() == ["afina", "onnxruntime"]


def test_the_environment_is_small(installed: Installed, capsys: pytest.CaptureFixture[str]) -> None:
    parts = sorted((size_mb(path), path.name) for path in installed.site_packages.iterdir() if path.is_dir())
    largest = ", ".join(f"{name} {size:.0f}" for size, name in reversed(parts[-5:]))
    total = size_mb(installed.site_packages)
    with capsys.disabled():
        print(f"\nruntime environment: {total:.0f} MB ({largest})")
    assert total < MOST_MB, largest


def test_the_wheel_holds_every_file_of_the_package(installed: Installed) -> None:
    """Code, and the data beside it that `package-data` has to name."""
    package = installed.sources / "src" / "afina"
    expected = {
        path.relative_to(package.parent).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }
    with ZipFile(installed.wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    assert {name for name in names if name.startswith("afina/")} == expected
    assert [name for name in names if not name.startswith("afina/") and ".dist-info/" not in name] == []
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@pytest.mark.parametrize(
    ("command", "extra"), [("serve", "serve"), ("score", "score"), ("inspect", "pipeline")]
)
def test_a_command_without_its_packages_names_the_extra(
    command: str, extra: str, installed: Installed, tmp_path: Path
) -> None:
    if f"│ {command} " not in run(installed.bin / "afina", "--help", cwd=tmp_path).stdout:
        pytest.skip(f"there is no command {command}")
    (tmp_path / "messages.csv").write_text("text\nagua\n", encoding="utf-8")
    model, table = write_toy(tmp_path / "model.onnx"), tmp_path / "messages.csv"
    arguments: dict[str, tuple[str | Path, ...]] = {
        "serve": (model,),
        "score": (table, tmp_path / "out.parquet", "--model", model),
        "inspect": (table,),
    }
    found = run(
        installed.bin / "afina", command, *arguments[command], cwd=tmp_path, env=environment(COLUMNS="200")
    )
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr
    (line,) = found.stderr.splitlines()
    assert line.startswith("afina: error: ")
    assert f"pip install 'afina[{extra}]'" in line
