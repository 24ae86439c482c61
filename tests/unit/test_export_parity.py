"""The parity gate: what counts as agreement, and that no text is left out of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afina.errors import UserError
from afina.export.parity import Agreement, check_cleaning, compare, mixed_probabilities
from afina.params.export import ExportParams
from afina.runtime.classifier import Classifier
from toy_artifact import write_toy


def floats(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def test_equal_probabilities_agree() -> None:
    same = floats([0.2, 0.8], [0.6, 0.4])
    assert compare(same, same.copy(), None) == Agreement(2, 0.0, 1.0)


def test_the_largest_difference_counts() -> None:
    found = compare(floats([0.2, 0.8], [0.6, 0.4]), floats([0.2, 0.8], [0.75, 0.25]), None)
    assert found.max_abs_diff == pytest.approx(0.15)
    assert found.label_agreement == 1.0
    assert not found.within(1e-4)
    assert found.within(0.16)


def test_another_label_fails_at_any_tolerance() -> None:
    found = compare(floats([0.4999, 0.5001], [0.6, 0.4]), floats([0.5001, 0.4999], [0.6, 0.4]), None)
    assert found.label_agreement == 0.5
    assert not found.within(1.0)


def test_rounding_decides_between_tied_labels_and_is_no_disagreement() -> None:
    tied = compare(floats([0.499999, 0.500001]), floats([0.500001, 0.499999]), None)
    assert tied.within(1e-4)
    thresholds = np.array([0.5, 0.1])
    assert compare(floats([0.5, 0.4]), floats([np.nextafter(np.float32(0.5), 0), 0.4]), thresholds).within(
        1e-4
    )
    assert not compare(floats([0.5001, 0.4]), floats([0.4999, 0.4]), thresholds).within(1.0)


def test_multilabel_compares_what_reaches_the_thresholds() -> None:
    thresholds = np.array([0.5, 0.1])
    assert compare(floats([0.6, 0.2]), floats([0.7, 0.15]), thresholds).label_agreement == 1.0
    assert compare(floats([0.6, 0.2]), floats([0.6, 0.09]), thresholds).label_agreement == 0.0


def test_what_is_not_a_number_never_agrees() -> None:
    found = compare(floats([0.2, 0.8]), floats([np.nan, 0.8]), np.array([0.5, 0.5]))
    assert found.max_abs_diff == np.inf
    assert not found.within(1e-2)


def test_no_texts_prove_nothing() -> None:
    with pytest.raises(UserError, match="test split is empty"):
        compare(np.empty((0, 2), np.float32), np.empty((0, 2), np.float32), None)


def test_texts_must_be_cleaned_alike() -> None:
    steps = ["lowercase", "collapse_whitespace"]
    check_cleaning(["1", "2"], ["  Agua", "LUZ "], ["agua", "luz"], steps)
    with pytest.raises(UserError, match=r"1 of 2 test texts are cleaned differently .* the first is '2'"):
        check_cleaning(["1", "2"], ["Agua", "LUZ "], ["agua", "Luz"], steps)


@settings(deadline=None, max_examples=30)
@given(words=st.lists(st.sampled_from(["agua", "luz luz", "pagos " * 9, ""]), max_size=70))
def test_mixed_batches_hold_every_text_once(toy: Classifier, words: list[str]) -> None:
    found = mixed_probabilities(toy, words)
    np.testing.assert_allclose(found, toy.predict_proba(words), rtol=1e-6)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    path: Path = tmp_path_factory.mktemp("toy") / "model.onnx"
    return Classifier(write_toy(path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"opset": 9}, "export.opset"),
        ({"tolerance": 0}, "export.tolerance"),
        ({"tolerance": 0.5}, "export.tolerance"),
        ({"token_budget": 0}, "export.token_budget"),
        ({"int": True}, "export.int: unknown parameter; did you mean 'int8'"),
    ],
)
def test_parameters_out_of_range_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ExportParams.parse(values)
