"""The exported file in another language: JavaScript, which gets token ids and nothing else of afina."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from afina.runtime import Classifier
from afina.runtime.text import clean_text
from clean_environment import ROOT, run
from tiny import ARCHITECTURES, Architecture, build_tiny_tokenizer, tiny_texts
from toy_artifact import write_toy

SCRIPTS = Path(__file__).with_name("node")
MODELS = ROOT / "models" / "onnx"
# What a rounding that falls the other way moves an int8 model's probability by.
TOLERANCE = {"fp32": 1e-5, "int8": 0.02}
UNREACHABLE = r"\b(ENOTFOUND|EAI_AGAIN|ECONN\w+|ETIMEDOUT|E40[1347]|E5\d\d)\b"
TEXTS = [
    "Llevo tres meses sin cobrar la pensión y nadie responde",
    "¿Qué papeles necesito para postular al subsidio? Gracias",
    "<p>Me cobraron dos veces; escr&iacute;bame a ana@ejemplo.test</p>",
    "",
    "agua luz pagos pagos",
    "ñandú 👩‍👧 日本語 ½ x\u0301 İ [SEP]",
    "Reclamo por la demora. " * 200,
]


@pytest.fixture(scope="module")
def node(pytestconfig: pytest.Config) -> Path:
    """A folder with the scripts and their packages, kept in pytest's cache until the lock file changes."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    lock = hashlib.sha256((SCRIPTS / "package-lock.json").read_bytes()).hexdigest()[:12]
    folder = pytestconfig.cache.mkdir("afina-node") / lock
    if not folder.is_dir():
        for left in folder.parent.iterdir():
            shutil.rmtree(left)
        making = folder.with_name(f"{lock}.{os.getpid()}.tmp")
        making.mkdir()
        for name in ("package.json", "package-lock.json"):
            shutil.copy(SCRIPTS / name, making)
        # No scripts of packages: that of onnxruntime-node would look for a GPU's libraries.
        command = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
        made = subprocess.run(command, cwd=making, capture_output=True, text=True, timeout=600)
        if made.returncode:
            unreachable = re.search(
                r"\b(ENOTFOUND|EAI_AGAIN|ECONN\w+|ETIMEDOUT|E40[1347]|E5\d\d)\b", made.stderr
            )
            shutil.rmtree(making)
            if unreachable:
                pytest.skip(f"npm cannot get the packages ({unreachable[0]})")
            pytest.fail(made.stderr)
        making.rename(folder)
    for script in SCRIPTS.glob("*.mjs"):
        shutil.copy(script, folder)
    return folder


def run_node(folder: Path, *arguments: str | Path, stdin: Any) -> Any:
    """What a script prints as JSON, given ``stdin`` as JSON."""
    found = subprocess.run(
        ["node", *map(str, arguments)],
        cwd=folder,
        input=json.dumps(stdin, ensure_ascii=False),
        capture_output=True,
        env=os.environ | {"ORT_DISABLE_TELEMETRY": "1"},
        encoding="utf-8",
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def demo_model(name: str) -> Path:
    path = MODELS / name
    if not path.is_file():
        pytest.skip(f"there is no models/onnx/{name}; `dvc repro` makes it")
    return path


def predict(node: Path, classifier: Classifier, model: Path, ids: Sequence[Sequence[int]]) -> np.ndarray:
    question = {"pad_token_id": classifier.metadata.pad_token_id, "ids": ids}
    return np.array(run_node(node, "predict.mjs", model, stdin=question))


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_a_toy_model_gives_the_same_probabilities(task: str, node: Path, tmp_path: Path) -> None:
    model = write_toy(tmp_path / "model.onnx", task)
    classifier = Classifier(model)
    ids = [[2, 4, 4, 5, 3], [2, 3], [2, 6, 6, 6, 6, 3]]
    found = predict(node, classifier, model, ids)
    np.testing.assert_allclose(found, classifier.forward([np.array(row) for row in ids])[1], atol=1e-6)
    # By hand: label i has the logit -2 + how often its word (id 4 + i) occurs.
    logits = np.array([[0, -1, -2], [-2, -2, -2], [-2, -2, 2]], dtype=float)
    odds = np.exp(logits)
    expected = odds / (odds.sum(axis=1, keepdims=True) if task == "multiclass" else 1 + odds)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.demo
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_demo_model_gives_the_same_probabilities(precision: str, node: Path) -> None:
    model = demo_model("model.onnx" if precision == "fp32" else "model.int8.onnx")
    classifier = Classifier(model)
    ids = classifier.encode(TEXTS)
    # One batch here and there: what int8 gives depends on the batch.
    expected = classifier.forward(ids)[1]
    found = predict(node, classifier, model, [row.tolist() for row in ids])
    assert np.abs(found - expected).max() <= TOLERANCE[precision]
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-5)


@pytest.mark.demo
def test_from_the_file_alone_to_probabilities_in_javascript(node: Path, tmp_path: Path) -> None:
    """tokenizer.json from the metadata, ids and probabilities from JavaScript; Python cleans the texts."""
    model = demo_model("model.onnx")
    classifier = Classifier(model)
    tokenizer = extract_tokenizer(model, tmp_path)
    cleaned = [clean_text(text, classifier.metadata.cleaning) for text in TEXTS]
    ids = run_node(node, "tokenize.mjs", tokenizer, str(classifier.metadata.max_length), stdin=cleaned)
    assert ids == [row.tolist() for row in classifier.encode(TEXTS)]
    assert len(ids[-1]) == classifier.metadata.max_length
    found = predict(node, classifier, model, ids)
    np.testing.assert_allclose(found, classifier.predict_proba(TEXTS), atol=TOLERANCE["fp32"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_type_of_tokenizer_gives_the_same_ids_in_javascript(
    architecture: Architecture, node: Path, tmp_path: Path
) -> None:
    tokenizer = build_tiny_tokenizer(architecture, tiny_texts())
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    tokenizer.enable_truncation(24)
    texts = [*TEXTS, *tiny_texts()[:40]]
    expected = [tokenizer.encode(text).ids for text in texts]
    assert max(map(len, expected)) == 24
    assert run_node(node, "tokenize.mjs", tmp_path / "tokenizer.json", "24", stdin=texts) == expected


# ------------------------------------------------------------------------------ the page's own words


def page() -> str:
    return (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


def extract_tokenizer(model: Path, folder: Path) -> Path:
    """tokenizer.json as docs/deploy.md says to get it; nothing but onnxruntime is imported."""
    (code,) = re.findall(r"^\$ python -c '(.+tokenizer.+)'$", page(), re.MULTILINE)
    assert "afina" not in code
    if model != folder / "model.onnx":
        shutil.copy(model, folder)
    found = run(sys.executable, "-c", code, cwd=folder)
    assert found.returncode == 0, found.stderr
    return folder / "tokenizer.json"


def test_the_tokenizer_of_the_metadata_works_by_itself(tmp_path: Path) -> None:
    model = write_toy(tmp_path / "model.onnx")
    classifier = Classifier(model)
    tokenizer = Tokenizer.from_file(str(extract_tokenizer(model, tmp_path)))
    tokenizer.enable_truncation(classifier.metadata.max_length)
    texts = ["agua luz ñ", "", "pagos " * 30]
    ids = [tokenizer.encode(text).ids for text in texts]
    assert ids == [row.tolist() for row in classifier.encode(texts)]
    assert ids[0] == [2, 4, 5, 1, 3]
    assert len(ids[2]) == 12


@pytest.mark.parametrize("name", ["predict.mjs", "tokenize.mjs"])
def test_the_page_shows_the_scripts_that_are_tested(name: str) -> None:
    assert f"```js\n{(SCRIPTS / name).read_text(encoding='utf-8')}```" in page()


def test_the_page_names_every_property_of_the_metadata(tmp_path: Path) -> None:
    properties = Classifier(write_toy(tmp_path / "model.onnx")).metadata.to_properties()
    table = re.findall(r"^\| `(\w+)` \|", page(), re.MULTILINE)
    assert [name for name in table if name in properties] == list(properties)
