"""The metadata of a model file: what goes in comes out, and what is wrong is said in one line."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afina.errors import UserError
from afina.runtime.metadata import SCHEMA_VERSION, ArtifactMetadata
from toy_artifact import toy_metadata

names = st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=6, unique=True)


@given(labels=names, cleaning=names, tokenizer=st.text(st.characters(codec="utf-8")), data=st.data())
def test_what_goes_in_comes_out(
    labels: list[str], cleaning: list[str], tokenizer: str, data: st.DataObject
) -> None:
    thresholds = {label: data.draw(st.floats(0, 1)) for label in labels}
    metadata = toy_metadata(
        "multilabel",
        labels=tuple(labels),
        thresholds=thresholds,
        cleaning=tuple(cleaning),
        tokenizer=tokenizer,
    )
    assert ArtifactMetadata.from_properties(metadata.to_properties(), "m.onnx") == metadata


def test_multiclass_has_no_thresholds() -> None:
    properties = toy_metadata().to_properties()
    assert properties["thresholds"] == "null"
    assert ArtifactMetadata.from_properties(properties, "m.onnx").thresholds is None


@pytest.mark.parametrize("below", [0.0, 0.925, math.inf])
def test_when_a_person_is_needed(below: float) -> None:
    metadata = toy_metadata(abstain_below=below, target_accuracy=0.95)
    properties = metadata.to_properties()
    assert "Infinity" not in properties["abstention"]
    assert ArtifactMetadata.from_properties(properties, "m.onnx") == metadata


def test_a_file_that_says_nothing_of_persons_needs_none() -> None:
    properties = toy_metadata().to_properties()
    assert properties.pop("abstention") == "null"
    assert ArtifactMetadata.from_properties(properties, "m.onnx").abstain_below == 0.0


def test_a_reference_comes_back_and_older_files_have_none() -> None:
    metadata = toy_metadata(reference={"format": 1, "labels": ["año"], "edges": {"length": [4.0]}})
    properties = metadata.to_properties()
    assert "año" in properties["reference"]
    assert ArtifactMetadata.from_properties(properties, "m.onnx") == metadata
    properties = toy_metadata().to_properties()
    assert properties.pop("reference") == "null"
    assert ArtifactMetadata.from_properties(properties, "m.onnx").reference is None


def test_keys_always_in_the_same_order() -> None:
    multilabel = toy_metadata("multilabel", thresholds={"pagos": 0.1, "luz": 0.2, "agua": 0.3})
    assert list(toy_metadata().to_properties()) == list(multilabel.to_properties())
    assert list(json.loads(multilabel.to_properties()["thresholds"])) == ["agua", "luz", "pagos"]


@pytest.mark.parametrize(
    "key",
    sorted(set(toy_metadata().to_properties()) - {"schema_version", "thresholds", "abstention", "reference"}),
)
def test_a_missing_property_is_named(key: str) -> None:
    properties = toy_metadata().to_properties()
    del properties[key]
    with pytest.raises(UserError, match=rf"^m\.onnx: metadata {key}: missing") as error:
        ArtifactMetadata.from_properties(properties, "m.onnx")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema_version", "one", "expected a whole number"),
        ("schema_version", "0", "expected a whole number from 1"),
        ("task", "regression", "expected multiclass or multilabel, found 'regression'"),
        ("labels", "agua", "not valid JSON"),
        ("labels", "[" * 100_000, "not valid JSON: '[[[["),
        ("metrics", '{"f1": ' + "1" * 5_000 + "}", "not valid JSON"),
        ("schema_version", "1" * 5_000, "expected a whole number from 1 to 2,147,483,647, found '1111"),
        ("pad_token_id", "9" * 20, "expected a whole number from 0 to 2,147,483,647"),
        ("max_length", "2147483648", "expected a whole number from 1 to 2,147,483,647"),
        ("labels", "[]", "expected different names"),
        ("labels", '["a", "a"]', "expected different names"),
        ("labels", '["a", 1]', "expected a list of names"),
        ("max_length", "-5", "expected a whole number"),
        ("max_length", "²", "expected a whole number"),
        ("precision", "fp8", "expected fp32 or int8"),
        ("cleaning", '{"steps": []}', "expected a list of names"),
        ("metrics", "[]", "expected a mapping"),
        ("thresholds", "null", "expected a mapping"),
        ("thresholds", '{"agua": 0.5, "luz": 0.5}', "pagos: expected a number from 0 to 1, found None"),
        ("thresholds", '{"agua": 0.5, "luz": true, "pagos": 1}', "luz: expected a number"),
        ("thresholds", '{"agua": 1.5, "luz": 0.5, "pagos": 1}', "agua: expected a number"),
        ("thresholds", '{"agua": NaN, "luz": 0.5, "pagos": 1}', "agua: expected a number"),
        ("abstention", "0.9", "expected a mapping"),
        ("abstention", '{"below": 1.5}', "below: expected a number from 0 to 1, found 1.5"),
        ("abstention", '{"below": 0.5, "target_accuracy": "high"}', "target_accuracy: expected a number"),
        ("reference", "[1]", "expected a mapping"),
        ("reference", "{", "not valid JSON"),
    ],
)
def test_a_garbled_property_is_named(key: str, value: str, message: str) -> None:
    properties = toy_metadata("multilabel").to_properties() | {key: value}
    with pytest.raises(UserError, match=rf"^m\.onnx: metadata {key}: ") as error:
        ArtifactMetadata.from_properties(properties, "m.onnx")
    assert message in str(error.value)
    assert len(str(error.value)) < 200


def test_a_newer_schema_asks_for_an_upgrade() -> None:
    properties = toy_metadata().to_properties() | {"schema_version": str(SCHEMA_VERSION + 1)}
    with pytest.raises(UserError, match=r"written for schema 2, this afina reads up to 1; upgrade"):
        ArtifactMetadata.from_properties(properties, "m.onnx")


def test_a_foreign_model_is_told_apart() -> None:
    with pytest.raises(UserError, match="not one that afina wrote"):
        ArtifactMetadata.from_properties({"author": "somebody"}, "m.onnx")
