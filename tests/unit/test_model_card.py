"""The model card: metadata that parse, the files' numbers, names in which nothing is obeyed, code."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from afina.labels import LabelSet
from afina.reporting.card import escape, render_card
from afina.reporting.inputs import Inputs
from afina.reporting.locale import Locale
from afina.reporting.words import WORDS
from afina.runtime import Classifier
from report_inputs import HOSTILE, LABELS, multiclass, multilabel, setting, uncalibrated
from toy_artifact import write_toy


def metadata(card: str) -> dict[str, Any]:
    """The block before the text."""
    [block] = re.findall(r"\A---\n(.*?)\n---\n", card, re.DOTALL)
    found: dict[str, Any] = yaml.safe_load(block)
    return found


def test_the_metadata_are_those_that_a_hub_reads() -> None:
    inputs = multiclass()
    found = metadata(render_card(inputs, setting(title="Oficina: de partes"), "es"))
    assert found["language"] == ["es"]
    assert found["license"] == "apache-2.0"
    assert found["base_model"] == "some/backbone"
    assert found["pipeline_tag"] == "text-classification"
    assert {"onnx", "multiclass"} <= set(found["tags"])
    [entry] = found["model-index"]
    assert entry["name"] == "Oficina: de partes"
    [result] = entry["results"]
    assert result["task"]["type"] == "text-classification"
    assert {"type", "name"} <= set(result["dataset"])
    test = inputs.metrics["test"]
    values = [metric["value"] for metric in result["metrics"]]
    assert values == [test["macro_f1"], test["accuracy"], test["weighted_f1"]]


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("MIT", {"license": "mit"}),
        (None, {"license": "unknown"}),
        ("Llama: 3", {"license": "other", "license_name": "Llama: 3"}),
    ],
)
def test_a_licence_is_named_as_the_hub_names_it(licence: str | None, expected: dict[str, str]) -> None:
    inputs = replace(multiclass(), model={"backbone": "./models/mine", "backbone_licence": licence})
    found = metadata(render_card(inputs, setting(), "es"))
    assert {key: value for key, value in found.items() if key.startswith("license")} == expected
    assert "base_model" not in found


@pytest.mark.parametrize(
    ("backbone", "revision", "expected"),
    [
        ("some/backbone", None, "some/backbone"),  # of a package
        ("bert-base-uncased", "86b5e0934494bd15c9632b12f734a8a67f723594", "bert-base-uncased"),
        ("beto-oficina", None, None),  # a folder: its last part is what the classifier knows
    ],
)
def test_a_folder_is_no_model_of_the_hub(backbone: str, revision: str | None, expected: str | None) -> None:
    model = {"backbone": backbone, "backbone_revision": revision, "backbone_licence": None}
    card = render_card(replace(multiclass(), model=model), setting(), "es")
    assert metadata(card).get("base_model") == expected


@pytest.mark.parametrize("language", ["es", "en"])
@pytest.mark.parametrize("make", [multiclass, multilabel])
def test_the_card_has_every_label_and_the_metrics_with_their_intervals(make: Any, language: Any) -> None:
    inputs, locale = make(), Locale(language)
    card = render_card(inputs, setting(language), "es")
    for label in LABELS:
        assert f"| {escape(label)} |" in card
    for name, value in inputs.metrics["test"].items():
        assert f"| {locale.decimal(value)} |" in card, name
    interval = inputs.metrics["interval"]
    assert f"| {locale.interval(interval['macro_f1_low'], interval['macro_f1_high'])} |" in card
    assert locale.text("card_limits") in card


@pytest.mark.parametrize("language", ["es", "en"])
def test_only_what_was_calibrated_is_said_to_be(language: Any) -> None:
    fitted, plain = (render_card(make(), setting(language), "es") for make in (multiclass, uncalibrated))
    for key in ("card_graph", "limit_confidence"):
        said, raw = (
            escape(WORDS[language][name]) if "limit" in key else WORDS[language][name]
            for name in (key, f"{key}_raw")
        )
        assert (said in fitted, raw in fitted) == (True, False)
        assert (said in plain, raw in plain) == (False, True)


@pytest.mark.parametrize("make", [multiclass, multilabel])
def test_no_message_is_quoted_and_no_markup_is_obeyed(make: Any) -> None:
    card = render_card(make(), setting(), "es")
    assert "Nadie responde" not in card
    assert HOSTILE not in card
    text = re.sub(r"```.*?```", "", card, flags=re.DOTALL)
    assert not re.search(r"(?<!\\)<", text)


def test_tables_keep_their_columns_whatever_a_label_is_called() -> None:
    label = "a|b\n| c *d*"
    inputs = Inputs(LabelSet("multiclass", (label, "otra")), {"test": {"macro_f1": 0.5, "accuracy": 0.5}})
    lines = render_card(inputs, setting(), "es").splitlines()
    [line] = [line for line in lines if line.startswith(r"| a\|b")]
    assert len(re.findall(r"(?<!\\)\|", line)) == 6


@pytest.mark.parametrize(("make", "task"), [(multiclass, "multiclass"), (multilabel, "multilabel")])
def test_the_examples_run_and_agree_with_the_runtime(
    make: Any, task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = Classifier(write_toy(tmp_path / "model.onnx", task))
    card = render_card(make(), setting("en"), "en").replace("Write the message here", "agua luz")
    with_afina, alone = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(with_afina, {})
    assert str(runtime.predict(["agua luz"])[0].label) in capsys.readouterr().out
    exec(alone, {})
    found = ast.literal_eval(capsys.readouterr().out)
    expected = dict(zip(runtime.labels, runtime.predict_proba(["agua luz"])[0].tolist(), strict=True))
    assert found == pytest.approx(expected, abs=1e-6)


def test_equal_inputs_give_equal_text() -> None:
    assert render_card(multiclass(), setting(), "es") == render_card(multiclass(), setting(), "es")
