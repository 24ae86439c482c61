"""Behaviour tests: what each perturbation alters and what never, counts by hand, and the file of cases."""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from afina import table
from afina.behaviour.cases import Case, read_cases
from afina.behaviour.perturbations import (
    EMAILS,
    FAREWELLS,
    GREETINGS,
    INVARIANCE_TESTS,
    PHONES,
    URLS,
    perturb,
)
from afina.behaviour.run import (
    FAILURES_HEADER,
    RESULTS_HEADER,
    Floats,
    Messages,
    ask,
    run_cases,
    run_perturbation,
)
from afina.errors import UserError
from afina.evaluation.intervals import wilson_interval
from afina.labels import Task
from afina.params.behave import BEHAVIOUR_TESTS, BehaveParams, BehaviourTest, Language
from afina.runtime.classifier import Classifier, Prediction, Score
from afina.runtime.encoding import Ids
from afina.runtime.text import unescape_html
from stage_script import load_stage
from toy_artifact import write_toy

ROOT = Path(__file__).resolve().parents[2]
DEMO_MODEL = ROOT / "models" / "onnx" / "model.onnx"
DEMO_CASES = ROOT / "data" / "cases" / "demo.yaml"
LABELS = ("agua", "luz")

TEXTS = st.text("abcñáéíÜ ÑL .!?,\n¿<>&;#@3😀", max_size=60)
INSERTED = {"email": EMAILS, "phone": PHONES, "url": URLS}


def of(name: BehaviourTest, text: str, seed: int = 0, language: Language = "es") -> str | None:
    return perturb(name, text, Random(seed), language)


def all_of(name: BehaviourTest, text: str) -> set[str | None]:
    return {of(name, text, seed) for seed in range(200)}


def letters(text: str) -> str:
    return "".join(text.split())


# --------------------------------------------------------------------------------- perturbations


def test_every_test_is_there_once() -> None:
    assert sorted((*INVARIANCE_TESTS, "label_named")) == sorted(BEHAVIOUR_TESTS)


@pytest.mark.parametrize(
    ("name", "text", "copy"),
    [
        ("upper_case", "El año, <b>aquí</b> 5&nbsp;m", "EL AÑO, <b>AQUÍ</b> 5&nbsp;M"),
        ("lower_case", "SEÑOR <BR>Pérez&Ntilde;", "señor <BR>pérez&Ntilde;"),
        ("no_accents", "Pingüino ÁÉÍÓÚ del año ÑÑ", "Pinguino AEIOU del año ÑÑ"),
        ("no_accents", "jardi\u0301n nin\u0303o", "jardin niño"),
        ("double_spaces", "No hay  luz\nni agua", "No  hay  luz\nni  agua"),
        ("line_breaks", "Hola. ¿Vienen?  Gracias.\nAna", "Hola.\n\n¿Vienen?\n\nGracias.\nAna"),
        ("line_breaks", "Uno. > dos", None),
        ("trailing_dots", "Espero. ", "Espero..."),
        ("trailing_dots", "¿Vienen?", "¿Vienen?..."),
        ("trailing_dots", "Espero…", None),
        ("html_entities", "¿Año 5 € & 😀?", "&iquest;A&ntilde;o 5 &euro; & &#128512;?"),
        ("html_entities", "plain", None),
        ("upper_case", "LUZ <b>5</b>", None),
        ("lower_case", "luz", None),
        ("no_accents", "el niño", None),
        ("no_accents", "nin\u0303o", None),
        ("double_spaces", "luz", None),
        ("typo", "a 12 <email> la", None),
    ],
)  # fmt: skip
def test_a_copy_by_hand(name: BehaviourTest, text: str, copy: str | None) -> None:
    assert of(name, text) == copy


def test_mojibake_keeps_its_letters() -> None:
    for name in ("upper_case", "lower_case", "no_accents", "html_entities"):
        assert of(name, "El aÃ±o que viene en EspaÃ±a") is None
    assert of("trailing_dots", "El aÃ±o") == "El aÃ±o..."


def test_additions_go_to_the_ends_of_sentences() -> None:
    assert all_of("greeting", "luz") == {f"{words} luz" for words in GREETINGS["es"]}
    assert all_of("farewell", "luz \n") == {f"luz\n{words}" for words in FAREWELLS["es"]}
    assert of("greeting", "luz", language="en") in {f"{words} luz" for words in GREETINGS["en"]}
    for name, pieces in INSERTED.items():
        expected = {
            copy for piece in pieces for copy in (f"No hay. {piece} ¿Ya?\n", f"No hay. ¿Ya? {piece}\n")
        }
        assert all_of(name, "No hay. ¿Ya?\n") == expected  # type: ignore[arg-type]
    # not inside of markup
    assert all_of("url", '<a title="No. Hay">x</a>') == {f'<a title="No. Hay">x</a> {url}' for url in URLS}


def test_one_word_of_each_sentence_is_mistyped() -> None:
    text = "Tengo agua sucia. Nadie contesta nunca! <p>Vengan pronto</p>"
    for seed in range(50):
        copy = of("typo", text, seed)
        assert copy is not None
        assert len(copy.split()) == len(text.split())
        differ = [old != new for old, new in zip(text.split(), copy.split(), strict=True)]
        # in the third sentence markup touches every word
        assert (sum(differ[:3]), sum(differ[3:6]), sum(differ[6:])) == (1, 1, 0)


@settings(deadline=None, max_examples=150)
@given(text=TEXTS, name=st.sampled_from(INVARIANCE_TESTS), seed=st.integers(0, 9))
@example("<p>No. <b>", "email", 0)
def test_laws(text: str, name: BehaviourTest, seed: int) -> None:
    copy = of(name, text, seed)
    assert copy == of(name, text, seed)
    if copy is None:
        return
    assert copy != text
    if name in ("upper_case", "lower_case"):
        assert copy.casefold() == text.casefold()
    elif name == "no_accents":
        assert [c for c in copy if c in "ñÑ"] == [c for c in text if c in "ñÑ"]
        assert unbased(copy) == unbased(text)
    elif name in ("double_spaces", "line_breaks"):
        assert letters(copy) == letters(text)
    elif name == "trailing_dots":
        assert copy.rstrip(".") == text.rstrip().rstrip(".")
    elif name == "html_entities":
        assert copy.isascii()
        assert unescape_html(copy) == unescape_html(text)
    elif name == "greeting":
        assert copy.endswith(f" {text}")
    elif name == "farewell":
        assert copy.startswith(f"{text.rstrip()}\n")
    elif name in INSERTED:
        assert text in {copy.replace(f" {piece}", "", 1) for piece in INSERTED[name]}
    else:
        assert name == "typo"
        assert [c for c in copy if not c.isalpha()] == [c for c in text if not c.isalpha()]
        assert abs(len(copy) - len(text)) <= len(re.findall(r"[.!?]\s", text)) + 1


def unbased(text: str) -> str:
    """The text without any mark."""
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


def test_blank_texts_are_left_alone() -> None:
    for name in INVARIANCE_TESTS:
        assert of(name, "") is None
        assert of(name, " \n") is None


def test_examples_are_nobodys() -> None:
    assert all(re.search(r"@example\.(org|com|net)$", email.lower()) for email in EMAILS)
    assert all(re.search(r"\bexample\.(org|com|net)\b", url) for url in URLS)
    assert all(re.search(r"202\D*555\D*01\d\d$", phone) for phone in PHONES)


# ----------------------------------------------------------------------------------------- runs


class Counting:
    """0.8 for a label whose name, in small letters, is in the text; multiclass answers the first of them."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.labels = LABELS

    def encode(self, texts: Iterable[str]) -> list[Ids]:
        return [np.array([ord(character) for character in text], dtype=np.int64) for text in texts]

    def predict_proba(self, texts: Iterable[str]) -> Floats:
        return np.array(
            [[0.8 if label in text else 0.2 for label in self.labels] for text in texts], dtype=np.float32
        )

    def decide(self, probabilities: Floats) -> list[Prediction]:
        decisions = []
        for row in probabilities:
            scores = sorted(map(Score, self.labels, map(float, row)), key=lambda score: -score.probability)
            kept = [score for score in scores if score.probability > 0.5]
            decisions.append(
                Prediction(
                    tuple(scores[:1] if self.task == "multiclass" else kept), tuple(scores[:1]), 1.0, False
                )
            )
        return decisions


def messages_of(model: Counting, texts: list[str], truth: list[list[int]]) -> Messages:
    ids = [str(number) for number in range(len(texts))]
    return Messages(ids, texts, np.array(truth, dtype=np.bool_).reshape(-1, 2), ask(model, texts))


def test_capitals_by_hand() -> None:
    """Capitals hide both names, so the answer is agua: right for 0 and 3, no longer for 1, now for 2."""
    model = Counting("multiclass")
    texts = ["hay agua", "hay luz", "La luz", "AGUA"]
    messages = messages_of(model, texts, [[1, 0], [0, 1], [1, 0], [1, 0]])
    result, failures = run_perturbation("upper_case", model, messages, "es", 0, 0.5)
    interval = wilson_interval(2 / 3, 3)
    assert (result.kind, result.test, result.rows, result.failures) == ("INV", "upper_case", 3, 2)
    assert result.share == pytest.approx(2 / 3, abs=1e-6)
    assert (result.share_low, result.share_high) == pytest.approx((interval.low, interval.high), abs=1e-6)
    assert result.mark == "high"
    # the label most probable before: 0.8 -> 0.2 in all three
    assert result.probability_change == pytest.approx(-0.6)
    assert (result.right_to_wrong, result.wrong_to_right) == (1, 1)
    assert [failure.id for failure in failures] == ["1", "2"]
    first = failures[0]
    assert (first.actual, first.predicted, first.altered_predicted) == ("luz", "luz", "agua")
    assert (first.probability, first.altered_probability) == (0.8, 0.2)
    assert (first.text, first.altered_text) == ("hay luz", "HAY LUZ")


def test_any_label_counts_in_multilabel() -> None:
    model = Counting("multilabel")
    texts = ["agua y luz", "agua y más", "ni una ni otra"]
    messages = messages_of(model, texts, [[1, 1], [1, 0], [0, 0]])
    result, failures = run_perturbation("upper_case", model, messages, "es", 0, 0.7)
    assert (result.rows, result.failures, result.mark) == (3, 2, None)
    assert (result.right_to_wrong, result.wrong_to_right) == (2, 0)
    assert result.probability_change == pytest.approx(-0.4)
    assert [failure.predicted for failure in failures] == ["agua|luz", "agua"]
    assert {failure.altered_predicted for failure in failures} == {"(none)"}


def test_the_limit_itself_is_not_high() -> None:
    model = Counting("multiclass")
    messages = messages_of(model, ["luz", "x"], [[0, 1], [1, 0]])
    assert run_perturbation("upper_case", model, messages, "es", 0, 0.5)[0].mark is None
    assert run_perturbation("upper_case", model, messages, "es", 0, 0.49)[0].mark == "high"


def test_a_test_that_alters_nothing_has_no_share() -> None:
    model = Counting("multiclass")
    messages = messages_of(model, ["luz"], [[0, 1]])
    result, failures = run_perturbation("lower_case", model, messages, "es", 0, 0.1)
    assert (result.rows, result.share, result.share_high, result.probability_change) == (0, None, None, None)
    assert (result.right_to_wrong, failures) == (0, [])


def test_a_named_label_is_not_to_lose() -> None:
    """With its name in front each label has 0.8; a model that turns away from names fails."""

    class Contrary(Counting):
        def predict_proba(self, texts: Iterable[str]) -> Floats:
            return np.float32(1) - super().predict_proba(texts)

    texts, truth = ["nada", "hay luz", "otra cosa"], [[1, 0], [0, 1], [0, 0]]
    model = Counting("multilabel")
    result, failures = run_perturbation("label_named", model, messages_of(model, texts, truth), "es", 0, 0.1)
    assert (result.kind, result.rows, result.failures, result.mark) == ("DIR", 2, 0, None)
    assert result.probability_change == pytest.approx(0.3)  # 0.2 -> 0.8, and 0.8 as before
    assert (result.right_to_wrong, result.wrong_to_right, failures) == (0, 1, [])

    contrary = Contrary("multilabel")
    messages = messages_of(contrary, texts, truth)
    result, failures = run_perturbation("label_named", contrary, messages, "es", 0, 0.1)
    assert (result.rows, result.failures, result.mark) == (2, 1, "high")
    assert failures[0].altered_text == "agua. nada"
    assert (failures[0].probability, failures[0].altered_probability) == (0.8, 0.2)


def test_a_copy_depends_on_its_message_alone() -> None:
    model = Counting("multiclass")
    texts = [f"Se cortó la luz en mi calle. Nadie contesta. Número {number}" for number in range(8)]

    class Recording(Counting):
        def predict_proba(self, texts: Iterable[str]) -> Floats:
            self.seen = list(texts)
            return super().predict_proba(self.seen)

    copies = []
    for count in (3, 8):
        recording = Recording("multiclass")
        run_perturbation("typo", recording, messages_of(model, texts[:count], [[0, 1]] * count), "es", 7, 0.1)
        copies.append(recording.seen)
    assert copies[0] == copies[1][:3]
    assert len(set(copies[1])) == 8


def test_what_the_model_sees_twice_is_asked_once() -> None:
    class Folding(Counting):
        def __init__(self, task: Task) -> None:
            super().__init__(task)
            self.asked: list[str] = []

        def encode(self, texts: Iterable[str]) -> list[Ids]:
            return super().encode(text.lower().replace("luz", "LUZ") for text in texts)

        def predict_proba(self, texts: Iterable[str]) -> Floats:
            self.asked += (texts := list(texts))
            return super().predict_proba(texts)

    model = Folding("multiclass")
    messages = messages_of(model, ["agua", "luz", "AGUA"], [[1, 0], [0, 1], [0, 1]])
    assert model.asked == ["agua", "luz", "AGUA"]
    run_perturbation("upper_case", model, messages, "es", 0, 0.1)
    assert model.asked == ["agua", "luz", "AGUA"]  # AGUA and LUZ are to it what agua and luz were
    result, _ = run_perturbation("trailing_dots", model, messages, "es", 0, 0.1)
    assert model.asked[3:] == ["agua...", "luz...", "AGUA..."]
    assert (result.rows, result.failures) == (3, 0)


# ---------------------------------------------------------------------------------------- cases


def test_cases_by_hand() -> None:
    model = Counting("multilabel")
    cases = [
        Case(1, "one", "agua", ("agua",), False),
        Case(2, "two", "agua y luz", ("agua",), False),
        Case(3, "one", "agua y luz", ("luz",), True),
        Case(4, "one", "nada", (), False),
        Case(5, "two", "nada", ("agua", "luz"), True),
    ]
    results, failures = run_cases(model, cases, 0.5)
    assert [(r.kind, r.test, r.rows, r.failures, r.share, r.mark) for r in results] == [
        ("MFT", "one", 3, 0, 0.0, None),
        ("MFT", "two", 2, 2, 1.0, "high"),
    ]
    assert {result.probability_change for result in results} == {None}
    assert [(f.id, f.actual, f.predicted, f.probability) for f in failures] == [
        ("2", "agua", "agua|luz", 0.8),
        ("5", "agua or luz", "(none)", 0.2),
    ]
    assert failures[0].altered_text is None


def write_cases(folder: Path, text: str) -> Path:
    path = folder / "cases.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_of_cases(tmp_path: Path) -> None:
    path = write_cases(
        tmp_path,
        """
- text: No sale agua
  expected: agua
- {text: Ni luz ni agua, expected: [luz, agua]}
- {text: Se cortó, any_of: [luz, agua], name: cortes}
- {text: Gracias, expected: []}
""",
    )
    cases = read_cases(path, LABELS, "multilabel")
    assert cases == [
        Case(1, "agua", "No sale agua", ("agua",), False),
        Case(2, "luz|agua", "Ni luz ni agua", ("luz", "agua"), False),
        Case(3, "cortes", "Se cortó", ("luz", "agua"), True),
        Case(4, "(none)", "Gracias", (), False),
    ]
    assert cases[1].passes(["agua", "luz"])
    assert not cases[0].passes(["agua", "luz"])
    assert cases[2].passes(["luz"])
    assert not cases[2].passes([])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no case in it"),
        ("[]", "no case in it"),
        ("text: x", "expected a list of cases"),
        ("- [", "not valid YAML"),
        ("- {text: 2025-02-30, expected: luz}", "not valid YAML: day is out of range for month"),
        ("- agua", "entry 1: expected a mapping with text and expected, found 'agua'"),
        ("- {text: a, expected: luz}\n- {text: a, label: luz}", "entry 2: unknown key 'label'; known: text"),
        ("- {expected: luz}", "entry 1: text: expected a text, found None"),
        ("- {text: no, expected: luz}", "entry 1: text: expected a text, found False; put it in quotes"),
        ("- {text: ' ', expected: luz}", "entry 1: text"),
        ("- {text: a}", "entry 1: give either expected or any_of"),
        ("- {text: a, expected: luz, any_of: [luz]}", "entry 1: give either expected or any_of"),
        ("- {text: a, any_of: []}", "entry 1: any_of: no label in it"),
        ("- {text: a, expected: []}", "entry 1: expected: 0 labels, but a multiclass model gives one"),
        ("- {text: a, expected: [agua, luz]}", "entry 1: expected: 2 labels, but a multiclass model"),
        ("- {text: a, expected: 7}", "entry 1: expected: expected labels in quotes, found 7"),
        (
            "- {text: a, expected: luz}\n- {text: a, expected: lus}",
            "entry 2: expected: the model has no label 'lus'; did you mean 'luz'",
        ),
        ("- {text: a, any_of: [luz, gas]}", "any_of: the model has no label 'gas'; it knows agua, luz"),
        ("- {text: a, expected: luz, name: 3}", "entry 1: name: expected a text, found 3"),
    ],
)  # fmt: skip
def test_a_wrong_file_of_cases(tmp_path: Path, text: str, message: str) -> None:
    path = write_cases(tmp_path, text)
    with pytest.raises(UserError) as error:
        read_cases(path, LABELS, "multiclass")
    assert str(error.value).startswith(f"behave.cases: {path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_no_file_of_cases(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: no such file"):
        read_cases(tmp_path / "none.yaml", LABELS, "multiclass")
    with pytest.raises(UserError, match="cannot be read"):
        read_cases(tmp_path, LABELS, "multiclass")
    (tmp_path / "latin.yaml").write_bytes("- {text: año, expected: luz}".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        read_cases(tmp_path / "latin.yaml", LABELS, "multiclass")


def test_parameters() -> None:
    assert BehaveParams.parse({}).tests == list(BEHAVIOUR_TESTS)
    with pytest.raises(UserError, match=r"behave\.tests\.1: .*'upper_case'.*found 'capitals'") as error:
        BehaveParams.parse({"tests": ["typo", "capitals"]})
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"behave\.tests: typo is there 2 times"):
        BehaveParams.parse({"tests": ["typo", "url", "typo"]})


# ---------------------------------------------------------------------------------------- stage


@pytest.fixture(scope="module")
def stage() -> ModuleType:
    """pipeline/behave.py as a module."""
    return load_stage("behave")


def lay_out(folder: Path, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy model, which counts names of labels in small letters, and eight messages about them."""
    (folder / "models" / "onnx").mkdir(parents=True)
    write_toy(folder / "models" / "onnx" / "model.onnx", task)
    words = ("agua", "luz", "pagos")
    rows = [
        {
            "id": f"{number:02}",
            "source": "s",
            "text": f"{words[number % 3].upper()} {words[number % 3]}. Número {number}",
            "labels": [words[number % 3]],
        }
        for number in range(8)
    ]
    messages = pa.Table.from_pylist(rows, schema=table.SCHEMA)
    table.write(messages, folder / "data" / "raw" / "messages.parquet")
    # the stage takes the texts as they were received
    cleaned = messages.set_column(2, table.SCHEMA.field("text"), pa.array(["clean"] * 8))
    table.write(cleaned, folder / "data" / "splits" / "test.parquet")
    (folder / "params.yaml").write_text("seed: 7\n", encoding="utf-8")
    monkeypatch.chdir(folder)


def read(path: str) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_the_stage(
    stage: ModuleType, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    lay_out(tmp_path, task, monkeypatch)
    path = write_cases(tmp_path, "- {text: luz luz, expected: luz}\n- {text: agua agua, any_of: [pagos]}\n")
    written = []
    for max_texts in (5, 5, None):
        params = BehaveParams(cases=str(path), max_texts=max_texts)
        monkeypatch.setattr(stage, "load_section", lambda section, params=params: params)
        stage.main()
        written.append([Path(name).read_bytes() for name in (stage.RESULTS, stage.FAILURES)])
        results, failures = read(stage.RESULTS), read(stage.FAILURES)
        assert tuple(results[0]) == RESULTS_HEADER
        found = {row["test"]: row for row in results}
        assert list(found) == [*BEHAVIOUR_TESTS, "luz", "pagos"]
        # the model cleans to small letters and single spaces
        for name in ("upper_case", "lower_case", "double_spaces", "greeting"):
            assert (found[name]["rows"], found[name]["failures"]) == (str(max_texts or 8), "0")
        assert found["luz"]["failures"] == "0"
        assert (found["pagos"]["share"], found["pagos"]["mark"]) == ("1.0", "high")
        assert tuple(failures[-1]) == FAILURES_HEADER
        assert (failures[-1]["id"], failures[-1]["predicted"]) == ("2", "agua")
        # what was received, not what was cleaned
        assert all(row["text"][:4].isupper() for row in failures if row["kind"] == "INV")
    assert written[0] == written[1]
    summary = capsys.readouterr().out.splitlines()[-1]
    assert summary.startswith("behave: 14 tests on messages, worst: ")
    assert "; 1 of 2 cases passed" in summary


def test_the_stage_without_messages(
    stage: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    lay_out(tmp_path, "multiclass", monkeypatch)
    path = write_cases(tmp_path, "- {text: luz luz, expected: luz}")
    monkeypatch.setattr(stage, "load_section", lambda section: BehaveParams(cases=str(path), tests=[]))
    stage.main()
    assert [row["test"] for row in read(stage.RESULTS)] == ["luz"]
    assert read(stage.FAILURES) == []
    assert capsys.readouterr().out.startswith("behave: 1 of 1 cases passed (")


def test_a_lost_message_is_a_users_error(
    stage: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    lay_out(tmp_path, "multiclass", monkeypatch)
    path = tmp_path / "data" / "raw" / "messages.parquet"
    table.write(table.read(path).slice(1), path)
    with pytest.raises(SystemExit):
        stage.main()
    assert "no row with id '00'" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------- demo


def test_the_demo_has_cases_for_each_label() -> None:
    counted = ROOT / "data" / "source" / "demo" / "label_map.csv"
    with counted.open(encoding="utf-8", newline="") as stream:
        labels = sorted({row["label"] for row in csv.DictReader(stream)} - {""})
    cases = read_cases(DEMO_CASES, labels, "multiclass")
    assert len({case.text for case in cases}) == len(cases)
    by_label = [case.labels[0] for case in cases if not case.alternatives]
    assert len(set(by_label)) == 15
    assert all(2 <= by_label.count(label) <= 4 for label in by_label)
    received = (ROOT / "data" / "source" / "demo" / "sistema_2025.jsonl").read_text(encoding="utf-8")
    texts = {json.loads(line)["messages"][0]["body"] for line in received.splitlines()}
    assert not texts & {case.text for case in cases}


@pytest.mark.demo
@pytest.mark.skipif(not DEMO_MODEL.exists(), reason="the demo's model has not been trained here")
def test_the_demos_model() -> None:
    model = Classifier(DEMO_MODEL, threads=1)
    if "pensiones: solicitud" not in model.labels:
        pytest.skip("models/onnx/model.onnx is not the demo's")
    cases = read_cases(DEMO_CASES, model.labels, model.task)
    results, _ = run_cases(model, cases, 0.1)
    passed = sum(result.rows - result.failures for result in results)
    assert passed > len(cases) / 2  # one in fifteen by chance
