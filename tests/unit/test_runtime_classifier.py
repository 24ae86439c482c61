"""The torch-free classifier: right answers in the right order, and a clear word on a file that is none."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import afina.runtime
from afina.errors import UserError
from afina.evaluation.abstention import row_confidence
from afina.evaluation.metrics import predict
from afina.runtime.classifier import Classifier, Score
from toy_artifact import BIAS, LABELS, toy_model, write_toy


@pytest.fixture(scope="module")
def multiclass(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return Classifier(write_toy(tmp_path_factory.mktemp("toy") / "model.onnx"))


@pytest.fixture(scope="module")
def multilabel(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return Classifier(write_toy(tmp_path_factory.mktemp("toy") / "model.onnx", "multilabel"))


def softmax(counts: list[int]) -> list[float]:
    powers = [math.exp(count) for count in counts]
    return [power / sum(powers) for power in powers]


def test_probabilities_are_those_of_the_graph(multiclass: Classifier) -> None:
    found = multiclass.predict_proba(["agua", "luz luz nada", "pagos agua pagos pagos"])
    assert found.dtype == np.float32
    expected = [softmax([1, 0, 0]), softmax([0, 2, 0]), softmax([1, 0, 3])]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_multiclass_assigns_the_most_probable_label(multiclass: Classifier) -> None:
    (prediction,) = multiclass.predict(["luz luz agua"], top_k=2)
    assert prediction.label == "luz"
    assert prediction.probability == pytest.approx(softmax([1, 2, 0])[1])
    assert prediction.labels == prediction.top[:1]
    assert [score.label for score in prediction.top] == ["luz", "agua"]


def test_equal_probabilities_keep_the_order_of_the_labels(multiclass: Classifier) -> None:
    (prediction,) = multiclass.predict(["nada"], top_k=9)
    assert [score.label for score in prediction.top] == list(LABELS)


def test_multilabel_assigns_what_reaches_its_threshold(multilabel: Classifier) -> None:
    text = "agua agua luz pagos pagos pagos"  # 0.5, 0.27 and 0.73 against 0.5, 0.2 and 0.9
    (prediction,) = multilabel.predict([text], top_k=3)
    assert [score.label for score in prediction.labels] == ["agua", "luz"]
    assert [score.label for score in prediction.top] == ["pagos", "agua", "luz"]
    assert prediction.labels[0] == Score("agua", 0.5)


def test_multilabel_may_assign_nothing(multilabel: Classifier) -> None:
    (prediction,) = multilabel.predict(["nada"])
    assert prediction.labels == ()
    assert prediction.label is None
    assert prediction.probability is None
    assert len(prediction.top) == 1


def test_confidence_is_that_of_the_decision(tmp_path: Path) -> None:
    """Of every label of the multilabel model: p where it is assigned, 1 - p where it is not."""
    below = 0.55
    single = Classifier(write_toy(tmp_path / "single.onnx", abstain_below=below))
    probabilities = np.array([[0.6, 0.3, 0.1], [0.4, 0.5, 0.1]], dtype=np.float32)
    decided = single.decide(probabilities)
    assert [prediction.confidence for prediction in decided] == pytest.approx([0.6, 0.5])
    assert [prediction.needs_person for prediction in decided] == [False, True]
    several = Classifier(write_toy(tmp_path / "several.onnx", "multilabel", abstain_below=below))
    # thresholds 0.5, 0.2, 0.9: the first assigns nothing, the second luz at 0.3, the third agua
    probabilities = np.array([[0.1, 0.1, 0.4], [0.1, 0.3, 0.0], [0.9, 0.1, 0.2]], dtype=np.float32)
    decided = several.decide(probabilities)
    assert [prediction.confidence for prediction in decided] == pytest.approx([0.6, 0.3, 0.8])
    assert [prediction.needs_person for prediction in decided] == [False, True, False]


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@given(seed=st.integers(0, 2**32 - 1))
def test_confidence_is_what_the_limit_was_fitted_to(
    multiclass: Classifier, multilabel: Classifier, task: str, seed: int
) -> None:
    """To the last bit, or a text at the limit would be one that was counted among the others."""
    classifier = multiclass if task == "multiclass" else multilabel
    probabilities = np.random.default_rng(seed).random((5, 3), dtype=np.float32)
    thresholds = None if classifier.thresholds is None else classifier.thresholds.tolist()
    fitted_to = row_confidence(probabilities, predict(probabilities, classifier.task, thresholds))
    assert [one.confidence for one in classifier.decide(probabilities)] == fitted_to.tolist()


def test_a_model_that_is_never_sure_enough(tmp_path: Path) -> None:
    never = Classifier(write_toy(tmp_path / "never.onnx", abstain_below=math.inf))
    assert never.decide(np.array([[1.0, 0.0, 0.0]], dtype=np.float32))[0].needs_person


def test_an_empty_text_is_predicted_from_its_special_tokens(multilabel: Classifier) -> None:
    np.testing.assert_allclose(multilabel.predict_proba([""]), [[1 / (1 + math.exp(-BIAS))] * 3], rtol=1e-6)


def test_no_texts_give_no_rows(multiclass: Classifier) -> None:
    assert multiclass.predict_proba([]).shape == (0, 3)
    assert multiclass.predict([]) == []


@settings(deadline=None)
@given(
    texts=st.lists(
        st.lists(st.sampled_from(["agua", "luz", "pagos", "x"]), max_size=14).map(" ".join), max_size=20
    ),
    budget=st.integers(1, 200),
)
def test_batching_changes_nothing(multiclass: Classifier, texts: list[str], budget: int) -> None:
    alone = [multiclass.predict_proba([text])[0] for text in texts]
    multiclass.token_budget = budget
    found = multiclass.predict_proba(texts)
    np.testing.assert_allclose(found, np.reshape(alone, (-1, 3)), rtol=1e-6)


@settings(deadline=None)
@given(st.text())
def test_any_string_is_predicted(multiclass: Classifier, text: str) -> None:
    assert multiclass.predict_proba([text]).sum() == pytest.approx(1.0, rel=1e-5)


def test_cleaning_steps_come_first(multiclass: Classifier) -> None:
    np.testing.assert_array_equal(
        multiclass.predict_proba(["  LUZ\n\tluz "]), multiclass.predict_proba(["luz luz"])
    )


def test_a_text_is_cut_at_max_length(multiclass: Classifier) -> None:
    (ids,) = multiclass.encode(["agua " * 50])
    assert len(ids) == 12


def test_any_iterable_of_strings_will_do(multiclass: Classifier) -> None:
    expected = multiclass.predict_proba(["agua", "luz"])
    np.testing.assert_array_equal(multiclass.predict_proba(iter(["agua", "luz"])), expected)
    np.testing.assert_array_equal(multiclass.predict_proba(np.array(["agua", "luz"])), expected)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("agua", "expected several strings, found one str"),
        (["agua", None], r"texts\[1\]: expected a string, found NoneType"),
        ([float("nan")], r"texts\[0\]: expected a string, found float"),
        ([b"agua"], r"texts\[0\]: expected a string, found bytes"),
        ({"text": ["agua"]}, "^texts: expected several strings, found a dict; pass one column of it$"),
        (pd.DataFrame({"text": ["agua"]}), "found a DataFrame; pass one column of it"),
        (pa.table({"text": ["agua"]}), "found a Table; pass one column of it"),
        (pa.record_batch({"text": ["agua"]}), "found a RecordBatch; pass one column of it"),
    ],
)
def test_what_is_no_text_is_a_type_error(multiclass: Classifier, texts: Any, message: str) -> None:
    for method in (multiclass.predict, multiclass.predict_proba, multiclass.stream, multiclass.encode):
        with pytest.raises(TypeError, match=message):
            list(method(texts))


@pytest.mark.parametrize(
    "column",
    [
        pd.Series(["agua", "luz"]),
        # Which are attributes of it, too.
        pd.Series(["agua", "luz"], index=["columns", "column_names"]),
        {"text": "agua", "more": "luz"}.values(),
        np.array(["agua", "luz"], dtype=object),
    ],
)
def test_a_column_is_several_texts(multiclass: Classifier, column: Any) -> None:
    assert multiclass.predict(column) == multiclass.predict(["agua", "luz"])


def test_what_is_counted_starts_at_one(multiclass: Classifier, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="top_k"):
        multiclass.predict(["agua"], top_k=0)
    with pytest.raises(ValueError, match="token_budget"):
        Classifier(tmp_path / "model.onnx", token_budget=0)
    with pytest.raises(ValueError, match="threads"):
        Classifier(tmp_path / "model.onnx", threads=0)
    with pytest.raises(ValueError, match="window"):
        multiclass.stream(["agua"], window=0)
    with pytest.raises(ValueError, match="top_k"):
        multiclass.stream(["agua"], top_k=0)
    for value in (1.5, None, "2"):
        with pytest.raises(
            TypeError, match=f"^top_k: expected a whole number of at least 1, found {value!r}$"
        ):
            multiclass.predict(["agua"], top_k=value)  # type: ignore[arg-type]
    assert len(multiclass.predict(["agua"], top_k=np.int64(2))[0].top) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [0, 1025, 99_999, 1.5])
def test_threads_are_no_more_than_start_in_good_time(tmp_path: Path, threads: Any) -> None:
    for error in (UserError, ValueError):
        with pytest.raises(error, match=f"^threads: expected a whole number of 1 to 1,024, found {threads}$"):
            Classifier(write_toy(tmp_path / "model.onnx"), threads=threads)


# ------------------------------------------------------------------------------- files that are no model


def complaint(path: Path) -> str:
    with pytest.raises(UserError) as error:
        Classifier(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole = write_toy(tmp_path / "whole.onnx").read_bytes()
    for part in np.linspace(0, len(whole) - 1, 60, dtype=int):
        (tmp_path / "cut.onnx").write_bytes(whole[:part])
        complaint(tmp_path / "cut.onnx")


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"PK\x03\x04 not a model", "ñandú ".encode() * 50])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    complaint(tmp_path / "model.onnx")


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    assert "no such file" in complaint(tmp_path / "model.onnx")
    assert "is a folder" in complaint(tmp_path)


def test_a_foreign_model_is_refused(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "model.onnx", properties={})
    assert "not one that afina wrote" in complaint(path)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "model.onnx")
    model = onnx.load(path)
    next(item for item in model.metadata_props if item.key == "schema_version").value = "7"
    onnx.save(model, path)
    assert "schema 7" in complaint(path)


def test_labels_must_fit_the_outputs(tmp_path: Path) -> None:
    assert "names 2 labels" in complaint(write_toy(tmp_path / "model.onnx", labels=("a", "b")))


def test_inputs_and_outputs_must_be_the_designs(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "model.onnx", model=toy_model(mask="mask"))
    assert "found input_ids, mask and" in complaint(path)
    path = write_toy(tmp_path / "model.onnx", model=toy_model(probabilities="scores"))
    assert "and logits, scores" in complaint(path)


def test_a_broken_tokenizer_is_named(tmp_path: Path) -> None:
    assert "metadata tokenizer: not readable" in complaint(write_toy(tmp_path / "m.onnx", tokenizer="{}"))


def test_an_unknown_cleaning_step_asks_for_an_upgrade(tmp_path: Path) -> None:
    message = complaint(write_toy(tmp_path / "m.onnx", cleaning=("translate",)))
    assert "does not know the step 'translate'; upgrade" in message


# ------------------------------------------------------------------------------------------- imports


def test_the_package_offers_the_classifier_on_demand() -> None:
    assert afina.runtime.Classifier is Classifier
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        afina.runtime.Trainer  # noqa: B018


def test_predicting_imports_little(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "model.onnx")
    code = (
        "import sys; from afina.runtime import Classifier; "
        f"assert Classifier({str(path)!r}).predict(['agua'])[0].label == 'agua'; "
        "print(*sorted(name for name in sys.modules if name.startswith('afina')), "
        "*({'torch', 'transformers', 'pandas', 'pyarrow', 'sklearn', 'scipy', 'onnx'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == [
        "afina",
        "afina.errors",
        "afina.runtime",
        "afina.runtime.classifier",
        "afina.runtime.confidence",
        "afina.runtime.container",
        "afina.runtime.encoding",
        "afina.runtime.external",
        "afina.runtime.lanes",
        "afina.runtime.loading",
        "afina.runtime.metadata",
        "afina.runtime.streaming",
        "afina.runtime.text",
    ]
