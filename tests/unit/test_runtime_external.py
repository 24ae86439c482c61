"""Weights in a second file: read where they are the model's own, refused in one line where they are not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from afina.errors import UserError
from afina.runtime.classifier import Classifier
from afina.runtime.external import PROPERTY, read_external
from toy_artifact import toy_metadata, toy_model, write_in_two

ROWS = 300  # of a table large enough to be put elsewhere


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A toy with a longer table, whose weights are in a file of their own."""
    toy = toy_model()
    table = next(tensor for tensor in toy.graph.initializer if tensor.name == "weights")
    longer = np.zeros((ROWS, 3), dtype=np.float32)
    short = onnx.numpy_helper.to_array(table)
    longer[: len(short)] = short
    table.CopyFrom(onnx.numpy_helper.from_array(longer, "weights"))
    path = tmp_path / "model.onnx"
    data = write_in_two(toy, path, toy_metadata())
    assert data.parent == tmp_path
    return path


def properties(model: Path) -> dict[str, str]:
    loaded = onnx.load(model, load_external_data=False)
    return {item.key: item.value for item in loaded.metadata_props}


def weights(model: Path) -> Path:
    [found] = model.parent.glob("*.data")
    return found


def test_what_export_wrote_is_accepted_and_predicts(model: Path) -> None:
    assert read_external(model, properties(model)) == {weights(model): weights(model).read_bytes()}
    assert weights(model).stat().st_size >= ROWS * 3 * 4
    [prediction] = Classifier(model).predict(["luz luz"])
    assert prediction.label == "luz"


def test_a_file_written_over_changes_nothing_that_is_open(model: Path) -> None:
    classifier = Classifier(model)
    texts = ["luz luz", "agua agua", "pagos"]
    before = classifier.predict_proba(texts)
    size = weights(model).stat().st_size
    with weights(model).open("r+b") as stream:  # in place, as `cp` does
        stream.write(np.full(size // 4, 7, dtype=np.float32).tobytes())
    np.testing.assert_array_equal(classifier.predict_proba(texts), before)
    with pytest.raises(UserError, match="not the weights that"):
        Classifier(model)


def test_a_model_in_one_file_needs_no_other(tmp_path: Path) -> None:
    assert read_external(tmp_path / "model.onnx", toy_metadata().to_properties()) == {}
    assert read_external(tmp_path / "model.onnx", {PROPERTY: "null"}) == {}


def test_missing_weights_are_named(model: Path) -> None:
    known, name = properties(model), weights(model).name
    weights(model).unlink()
    with pytest.raises(UserError, match=rf"weights are in {name}, which is missing; copy both files"):
        read_external(model, known)


def test_weights_cut_off_are_noticed(model: Path) -> None:
    os.truncate(weights(model), 100)
    with pytest.raises(UserError, match=r"100 bytes, model\.onnx needs 3,600"):
        read_external(model, properties(model))


def test_one_changed_byte_is_noticed(model: Path) -> None:
    content = bytearray(weights(model).read_bytes())
    content[-1] ^= 1
    weights(model).write_bytes(content)
    with pytest.raises(UserError, match=r"another SHA-256"):
        read_external(model, properties(model))


@pytest.mark.parametrize(
    "location", ["../secret", "/etc/hostname", "a/b", "..", ".", "", "C:x", "..\\secret", "a\0b"]
)
def test_no_location_leads_out_of_the_folder(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    folder = tmp_path / "model"
    folder.mkdir()
    entry = {"location": location, "size": 1, "sha256": "0" * 64}
    with pytest.raises(UserError, match="outside its folder") as error:
        read_external(folder / "model.onnx", {PROPERTY: json.dumps([entry])})
    assert "\n" not in str(error.value)


def test_nor_does_a_link(model: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    known, place = properties(model), weights(model)
    target = place.rename(elsewhere / "weights")
    place.symlink_to(target)
    with pytest.raises(UserError, match="a link, which may lead outside"):
        read_external(model, known)
    # A cache keeps both behind links.
    kept = model.rename(elsewhere / "kept.onnx")
    model.symlink_to(kept)
    assert read_external(model, known) == {place: place.read_bytes()}


@pytest.mark.parametrize(
    "value",
    ["nonsense", '{"a": 1}', "[1]", '[{"location": "a"}]', '[{"location": 1, "size": 1, "sha256": ""}]'],
)
def test_garbled_metadata_are_named(value: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="metadata external_data: not readable"):
        read_external(tmp_path / "model.onnx", {PROPERTY: value})


def test_the_same_weights_give_the_same_name(model: Path, tmp_path: Path) -> None:
    loaded: Any = onnx.load(model)
    other = tmp_path / "other"
    other.mkdir()
    data = write_in_two(loaded, other / "model.onnx", toy_metadata())
    assert data.name == weights(model).name
