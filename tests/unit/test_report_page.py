"""The page: complete, well-formed, escaped, its numbers those of the files, in both languages."""

from __future__ import annotations

import html
import json
import os
import re
import runpy
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from string import Formatter
from typing import get_args

import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from afina.auditing.label_pairs import _suggestion
from afina.behaviour.run import TOLERANCE, Kind
from afina.cleaning import REASONS
from afina.evaluation.tables import NONE
from afina.files import write_csv, write_json
from afina.labels import LabelSet
from afina.params.balance import BalanceParams
from afina.params.behave import BEHAVIOUR_TESTS
from afina.params.train import TrainParams
from afina.reporting import behaviour
from afina.reporting.background import advice, facts, limit_sentences
from afina.reporting.blocks import Examples, Paragraph, Section, Table
from afina.reporting.card import render_card
from afina.reporting.charts import nice_ticks
from afina.reporting.explanations import Word, read_words, shade, strongest
from afina.reporting.inputs import (
    Inputs,
    Rows,
    confusion_examples,
    number,
    read_optional_json,
    read_optional_rows,
)
from afina.reporting.locale import MISSING, Language, Locale
from afina.reporting.page import build_sections, render_page
from afina.reporting.results import MATRIX_LABELS, headline, tiles
from afina.reporting.setting import label_names, other_corrections, shorten
from afina.reporting.words import EN, ES, WORDS
from afina.spreadsheets import escape_formula, escape_row, unescape_formula
from report_inputs import (
    HOSTILE,
    LABELS,
    LONG,
    as_rows,
    evaluated,
    multiclass,
    multilabel,
    setting,
    uncalibrated,
)

VOID = {"meta", "link", "br", "hr", "img", "input"}
LANGUAGES = ("es", "en")
SPACE = "\u202f"


class Page(HTMLParser):
    """What a parser finds: tags that do not balance, text, values, headings, ids, links."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.text: list[str] = []
        self.values: list[tuple[str, str]] = []
        self.headings: list[int] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.value: str | None = None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given_attributes = dict(attrs)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("h1", "h2", "h3"):
            self.headings.append(int(tag[1]))
        if tag == "data":
            self.value = given_attributes.get("value")
        if given_attributes.get("id"):
            self.ids.append(str(given_attributes["id"]))
        if given_attributes.get("href"):
            self.links.append(str(given_attributes["href"]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)
            if self.value is not None:
                self.values.append((self.value, data))
                self.value = None


def parse(inputs: Inputs, language: str = "es") -> Page:
    return Page(render_page(inputs, setting(language)))  # type: ignore[arg-type]


def bare(inputs: Inputs) -> Inputs:
    """Nothing but the labels and the metrics."""
    return Inputs(LabelSet(inputs.label_set.task, LABELS), inputs.metrics)


# --------------------------------------------------------------------------------------------- words


def test_both_languages_have_the_same_words_with_the_same_places() -> None:
    assert set(ES) == set(EN)
    for key in ES:
        places = [{name for _, name, _, _ in Formatter().parse(words[key]) if name} for words in (ES, EN)]
        assert places[0] == places[1], key


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_word_says_something_and_no_place_is_left_open(language: str) -> None:
    assert all(text.strip() for text in WORDS[language].values())
    for inputs in (multiclass(), multilabel(), bare(multiclass())):
        text = " ".join(parse(inputs, language).text)
        assert not re.search(r"\{[a-z_0-9]*\}", text)


def test_every_word_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """By some run; names of other stages aside, which have a dot."""
    asked: set[str] = set()

    class Recorded(dict[str, str]):
        def __getitem__(self, key: str) -> str:
            asked.add(key)
            return super().__getitem__(key)

    monkeypatch.setattr("afina.reporting.locale.WORDS", {"es": Recorded(ES)})
    whole, several = multiclass(), multilabel()
    runs = [whole, several, bare(whole), bare(several), many_labels(), few_validation_rows(whole)]
    runs += [*turns(whole), *turns(several)]
    for inputs in runs:
        render_page(inputs, setting())
        render_card(inputs, setting(), "es")
    assert {key for key in ES if "." not in key} - asked == set()


def few_validation_rows(inputs: Inputs) -> Inputs:
    """A run whose validation split is too small to fit abstention to."""
    unknown = dict(inputs.evaluation["abstention"]) | {"threshold": None, "accuracy": None}
    return replace(inputs, evaluation={"abstention": unknown}, split={"rows": {"validation": 22}})


def turns(inputs: Inputs) -> Iterator[Inputs]:
    """Runs that went another way."""
    abstention = dict(inputs.evaluation["abstention"])
    for change in (
        {"threshold": None, "accuracy": None},
        {"threshold": 0.0},
        {"threshold": 0.4},
        {"threshold": 0.97, "coverage": 0.0, "accuracy": None},
    ):
        yield replace(inputs, evaluation={"abstention": abstention | change, "calibration": {"ece": 0.1}})
    for verdict in ("better", "worse", "no evidence"):
        rows = [dict(row) for row in inputs.models]
        for row in rows[1:]:
            row["fine_tuned_is"] = verdict
        yield replace(inputs, models=rows, issues=(), pairs=())
    right = [("salud", "salud")] * 5
    yield replace(inputs, confusion=as_rows(("actual", "predicted"), right), mistakes=(), cleaning={})
    yield replace(inputs, metrics={"test": inputs.metrics["test"]}, model={"backbone": "b"})
    worst = {
        "column": "month",
        "value": "2026-01",
        "rows": "50",
        "accuracy_high": "0.4",
        "micro_f1_high": "0.4",
    }
    worse = worst | {"expected_accuracy": "0.5", "expected_micro_f1": "0.5"}
    yield replace(inputs, slices=[worse])
    yield replace(inputs, summary={**inputs.summary, "words": {"max": 5}, "time": {}}, examples={})
    untried = {"kind": "INV", "test": "typo", "rows": "0", "failures": "0"}
    yield replace(inputs, behaviour=[untried], behaviour_failures=inputs.behaviour_failures * 5)
    few = [{**row, "support": "40"} for row in inputs.per_class]
    right = {**inputs.explanations["explanations"][1], "error": 0.0}
    yield replace(inputs, per_class=few, explanations={"explanations": [right]})


def many_labels() -> Inputs:
    """More labels than a matrix has room for; one of them is often taken for another."""
    labels = tuple(f"clase {number}" for number in range(60))
    pairs = [(label, label) for label in labels] + [("clase 50", "clase 3")] * 4
    return replace(
        multiclass(),
        label_set=LabelSet("multiclass", labels),
        confusion=as_rows(("actual", "predicted"), pairs),
        per_class=as_rows(("label", "f1", "support"), [(label, 0.5, 40) for label in labels]),
    )


def test_the_reasons_of_the_clean_stage_are_translated() -> None:
    for reason in REASONS.values():
        assert f"reason.{reason}" in ES


def test_advice_knows_all_that_label_pairs_suggest() -> None:
    locale = Locale("es")
    for forth, back in ((0.4, 0.3), (0.4, 0.0), (0.0, 0.4), (0.1, 0.1)):
        said = _suggestion("uno", "otro", forth, back)
        shown = advice({"label": "uno", "other": "otro", "suggestion": said}, locale)
        assert shown != said
    assert "«otro» se pierde dentro de «uno»" in advice(
        {"label": "uno", "other": "otro", "suggestion": _suggestion("uno", "otro", 0.0, 0.4)}, locale
    )
    assert advice({"label": "a", "other": "b", "suggestion": "something new"}, locale) == "something new"


# ------------------------------------------------------------------------------------------- numbers


def test_numbers_are_written_as_in_the_language() -> None:
    es, en = Locale("es"), Locale("en")
    assert (es.decimal(0.842707), en.decimal(0.842707)) == ("0,843", "0.843")
    assert (es.integer(1234567), en.integer(1234567)) == ("1.234.567", "1,234,567")
    assert (es.percent(0.8433, 1), en.percent(0.8433, 1)) == (f"84,3{SPACE}%", "84.3%")
    assert es.points(-0.0039) == "\u22120,4"
    assert es.interval(0.8065, 0.876) == "0,806–0,876"
    assert es.interval(None, 0.876) == es.decimal(None) == "–"
    assert es.percent_between(0.8134, 0.8731, 1) == f"81,3 y 87,3{SPACE}%"
    assert en.between(0.8134, 0.8731) == "0.813 and 0.873"
    assert es.signed(-0.0001) == "+0,000"
    assert en.scientific(4.77e-7) == "5\u00a0×\u00a010⁻⁷"
    assert es.count("message", 1) == "1 mensaje"
    assert es.count("message", 1000) == "1.000 mensajes"


def test_a_percentage_that_is_not_all_or_nothing_does_not_look_like_it() -> None:
    en = Locale("en")
    assert [en.percent(share) for share in (0, 0.004, 0.996, 0.99996, 1)] == [
        "0%",
        "0.4%",
        "99.6%",
        "99.996%",
        "100%",
    ]


@given(st.text(max_size=400), st.integers(20, 120))
def test_a_text_is_cut_to_its_length_and_begins_as_it_did(text: str, length: int) -> None:
    cut, line = shorten(text, length), " ".join(text.split())
    assert len(cut) <= length
    assert line.startswith(cut.removesuffix("…")) or cut == line
    assert (cut == line) == (len(line) <= length)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_cover_the_range(low: float, span: float) -> None:
    ticks = nice_ticks(low, low + span)
    assert ticks[0] <= low + 1e-6 * span
    assert ticks[-1] >= low + span - 1e-6 * span
    assert 2 <= len(ticks) <= 8


# ---------------------------------------------------------------------------------------------- page


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("make", [multiclass, multilabel])
def test_the_page_is_well_formed(make: object, language: str) -> None:
    page = parse(make(), language)  # type: ignore[operator]
    assert page.wrong == []
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(page.headings, page.headings[1:], strict=False))


@pytest.mark.parametrize("make", [multiclass, multilabel])
def test_nothing_is_loaded_from_anywhere(make: object) -> None:
    page = parse(make())  # type: ignore[operator]
    assert all(link.startswith("#") or link == "data:," for link in page.links)
    assert not [value for name, value in page.attributes if name in ("src", "srcset", "style", "onclick")]
    text = render_page(make(), setting())  # type: ignore[operator]
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    assert "@import" not in text


@pytest.mark.parametrize("make", [multiclass, multilabel])
def test_every_label_is_named_and_escaped(make: object) -> None:
    inputs = make()  # type: ignore[operator]
    text = "".join(parse(inputs).text)
    for label in LABELS:
        assert label in text
    page = render_page(inputs, setting())
    assert "<script>alert" not in page
    assert "pagos &amp; &lt;script&gt;" in page
    assert "<b>mi</b>" not in page
    assert "<i>número" not in page
    assert "sistema_&lt;2020&gt;" in page


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("make", [multiclass, multilabel])
def test_the_numbers_are_those_of_metrics_json(make: object, language: str) -> None:
    inputs, locale = make(), Locale(language)  # type: ignore[operator, arg-type]
    shown = parse(inputs, language).values
    for score in inputs.metrics["test"].values():
        assert (str(score), locale.decimal(score)) in shown
    rows = inputs.metrics["rows"]["test"]
    assert (str(rows), locale.integer(rows)) in shown
    coverage = inputs.metrics["abstention"]["coverage"]
    assert (str(coverage), locale.percent(coverage, 1)) in shown


def test_the_headline_has_the_score_its_interval_and_the_number_of_messages() -> None:
    inputs = replace(
        multiclass(),
        metrics={
            "test": {"macro_f1": 0.8427, "accuracy": 0.843284},
            "interval": {"accuracy_low": 0.8134, "accuracy_high": 0.8731},
            "rows": {"test": 1536},
        },
    )
    assert headline(inputs, setting()) == (
        f"El modelo pone la clase correcta a 84 de cada 100 mensajes (entre 81 y 87, con una confianza del "
        f"95{SPACE}%), según la prueba con 1.536 mensajes que no había visto."
    )
    assert headline(inputs, setting("en", level=0.9)) == (
        "The model gives 84 of every 100 messages the right class (between 81 and 87, with 90% confidence), "
        "as tested on 1,536 messages it had not seen."
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_levels_and_aims_are_told_as_they_were_set(language: Language) -> None:
    inputs, locale = multiclass(), Locale(language)
    evaluation = inputs.evaluation | {
        "abstention": {**inputs.evaluation["abstention"], "target_accuracy": 0.985}
    }
    how = setting(language, level=0.975)
    page = "".join(Page(render_page(replace(inputs, evaluation=evaluation), how)).text)
    for share in (0.975, 0.985):
        assert locale.given(share) in page
        assert locale.percent(share, 1) == locale.given(share)
    card = render_card(inputs, how, language)
    assert locale.given(0.975) in card
    assert locale.percent(0.975) not in card
    assert (Locale("en").given(0.95), Locale("en").given(0.9995)) == ("95%", "99.95%")


def test_classes_are_sorted_by_f1_and_those_with_few_rows_are_marked() -> None:
    inputs = multiclass()
    [section] = [part for part in build_sections(inputs, setting()) if part.identity == "classes"]
    [table] = [block for block in section.blocks if block.kind == "table"]
    scores = [row[1].sort for row in table.rows]  # type: ignore[attr-defined]
    assert scores == sorted(scores, reverse=True)
    support = {row["label"]: int(row["support"]) for row in inputs.per_class if row["label"] in LABELS}
    marked = {row[0].sort for row in table.rows if "pocos casos" in row[0].shown}  # type: ignore[attr-defined]
    assert marked == {label.casefold() for label, rows in support.items() if rows < 30}
    assert "rara" in marked
    assert any("rara" in sentence for sentence in limit_sentences(inputs, setting()))


def test_what_the_backbone_does_not_read_is_told_of_the_test_messages() -> None:
    inputs = multiclass()
    said = [one for one in limit_sentences(inputs, setting()) if "no cabe entero" in one]
    assert [one[:46] for one in said] == ["El 16,7\u202f% de los mensajes de prueba no cabe en"]
    whole = replace(inputs, evaluation={**inputs.evaluation, "truncated": {"share": 0.0, "window": 128}})
    assert not any("no cabe entero" in one for one in limit_sentences(whole, setting()))


def test_the_matrix_counts_the_pairs() -> None:
    inputs = multiclass()
    [section] = [part for part in build_sections(inputs, setting()) if part.identity == "confusion"]
    [matrix] = [block for block in section.blocks if block.kind == "matrix"]
    found = sum(int(share.count or 0) for row in matrix.rows for share in row)  # type: ignore[attr-defined]
    assert found == len(inputs.confusion) == 160
    right = sum(int(row[at].count or 0) for at, row in enumerate(matrix.rows))  # type: ignore[attr-defined]
    assert right / 160 == pytest.approx(inputs.metrics["test"]["accuracy"], abs=1e-6)


def test_many_labels_are_pooled_in_the_matrix_and_named_in_the_table() -> None:
    inputs = many_labels()
    [section] = [part for part in build_sections(inputs, setting()) if part.identity == "confusion"]
    [matrix] = [block for block in section.blocks if block.kind == "matrix"]
    assert len(matrix.names) == MATRIX_LABELS  # type: ignore[attr-defined]
    assert {"clase 50", "clase 3", "(las demás)"} <= set(matrix.names)  # type: ignore[attr-defined]
    assert sum(int(share.count or 0) for row in matrix.rows for share in row) == 64  # type: ignore[attr-defined]
    text = "".join(parse(inputs).text)
    assert all(label in text for label in inputs.label_set.labels)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("make", [multiclass, multilabel])
def test_files_that_are_absent_leave_their_part_out(make: object, language: str) -> None:
    inputs = bare(make())  # type: ignore[operator]
    page = parse(inputs, language)
    assert page.wrong == page.open == []
    shown = [part.identity for part in build_sections(inputs, setting(), audited=False)]
    assert shown == ["trust", "data", "limits", "use", "figures", "glossary"]
    assert not tiles(
        replace(inputs, metrics={"test": {"macro_f1": 0.5, "accuracy": 0.5, "micro_f1": 0.5}}), setting()
    )[0].note


def test_of_epochs_with_one_macro_f1_the_one_with_the_lower_loss_was_kept() -> None:
    header = ("epoch", "validation_loss", "validation_macro_f1")
    for losses, kept in (((0.9, 0.8, 0.7), 2), ((0.8, 0.9, 0.7), 1), ((0.8, 0.8, 0.7), 1)):
        rows = [
            (number, loss, score)
            for number, (loss, score) in enumerate(zip(losses, (0.8, 0.8, 0.7), strict=True), 1)
        ]
        page = render_page(replace(multiclass(), training=as_rows(header, rows)), setting("en"))
        assert f"epoch {kept} of 3 was kept" in page


@pytest.mark.parametrize(
    "names",
    [
        "evaluation, model, export, summary, cleaning, split",
        "per_class, confusion",
        "split_classes",
        "models",
        "slices",
        "reliability",
        "risk_coverage",
        "training",
        "lengths",
        "issues",
        "pairs",
        "mistakes",
        "precision_recall",
        "behaviour",
        "behaviour_failures",
        "explanations",
        "examples",
    ],
)
def test_any_file_may_be_absent(names: str) -> None:
    whole, empty = multiclass(), Inputs(LabelSet("multiclass", LABELS), {})
    page = parse(replace(whole, **{part: getattr(empty, part) for part in names.split(", ")}))
    assert page.wrong == page.open == []


def test_tables_of_older_runs_without_intervals_are_shown() -> None:
    inputs = multiclass()
    kept = ("label", "precision", "recall", "f1", "support")
    rows = [{key: row[key] for key in kept if key in row} for row in inputs.per_class]
    page = parse(replace(inputs, per_class=rows))
    assert page.wrong == page.open == []


def test_no_confidence_may_be_enough_and_any_may_be() -> None:
    never, always, some, unreached = list(turns(multiclass()))[:4]
    assert "Ninguna confianza basta" in "".join(parse(never).text)
    assert "puede responder todos los mensajes" in "".join(parse(always).text)
    assert f"confianza es de 40,0{SPACE}% o más" in "".join(parse(some).text)
    for language, known in (
        ("es", f"confianza de 97,0{SPACE}% acierta"),
        ("en", "a confidence of 97.0%, by"),
    ):
        shown = "".join(parse(unreached, language).text)
        assert known in shown
        assert not re.search("Ninguna confianza basta|No confidence is enough", shown)


def test_failures_hide_of_people_what_cleaning_hides() -> None:
    inputs = multiclass()
    failure = dict(inputs.behaviour_failures[0]) | {
        "text": "soy ana@correo.example.com",
        "altered_text": "ANA",
    }
    cleaning = {"steps": ["mask_emails", "lowercase"]}
    label_set = replace(inputs.label_set, cleaning=cleaning)
    shown = render_page(replace(inputs, label_set=label_set, behaviour_failures=[failure]), setting())
    assert "ana@correo" not in shown
    assert "&lt;email&gt;" in shown
    assert "ANA" in shown
    inputs = replace(inputs, behaviour_failures=[failure])
    assert "ana@correo" in render_page(inputs, setting())


def test_few_validation_rows_are_why_no_confidence_is_known() -> None:
    shown = "".join(parse(few_validation_rows(multiclass())).text)
    assert "22 mensajes son pocos; hacen falta al menos 30" in shown
    assert "Ninguna confianza basta" not in shown


@pytest.mark.parametrize(("language", "words"), [("es", ES), ("en", EN)])
def test_only_what_was_calibrated_is_said_to_be(language: str, words: dict[str, str]) -> None:
    keys = ("limit_confidence", "use_intro", "state.calibrated")
    raw = ("limit_confidence_raw", "use_intro_raw", "state.uncalibrated")
    how = setting(language)  # type: ignore[arg-type]
    fitted, plain = (html.unescape(render_page(inputs, how)) for inputs in (multiclass(), uncalibrated()))
    for key, other in zip(keys, raw, strict=True):
        assert words[key] in fitted
        assert words[other] not in fitted
        assert words[other] in plain
    assert words["limit_confidence"] not in plain
    assert words["use_intro"] not in plain
    assert words["state.as trained"] not in plain


def test_who_is_better_is_said_as_models_csv_says_it() -> None:
    runs = list(turns(multiclass()))[4:7]
    for run, said in zip(runs, ("supera al modelo", "queda por debajo", "no se puede decir"), strict=True):
        assert said in "".join(parse(run).text)


def test_messages_are_cut_and_no_more_are_shown_than_asked_for() -> None:
    inputs = multiclass()
    text = "".join(Page(render_page(inputs, setting(examples=3, text_length=60))).text)
    assert " ".join(LONG.split())[:80] not in text
    ids = [row["id"] for row in inputs.mistakes]
    assert len(ids) > 4
    assert [row_id in text for row_id in ids[:4]] == [True, True, True, False]


def test_equal_inputs_give_equal_text() -> None:
    assert render_page(multiclass(), setting()) == render_page(multiclass(), setting())


def test_the_policy_allows_the_style_and_the_script_that_are_there() -> None:
    import base64
    import hashlib

    page = render_page(multiclass(), setting())
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    for tag in ("style", "script"):
        [body] = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def section(inputs: Inputs, identity: str, language: str = "es", **changes: object) -> Section | None:
    """A section of the page; None where it is left out."""
    parts = build_sections(inputs, setting(language, **changes))  # type: ignore[arg-type]
    return next((part for part in parts if part.identity == identity), None)


def test_columns_of_the_data_and_their_values_are_named_as_they_are() -> None:
    rows = [
        {"column": column, "value": value, "rows": "50", "accuracy": "0.5"}
        for column, value in (
            ("canal", "2026-01"),
            ("canal", "3-5 words"),
            ("canal", "truncated.yes"),
            ("<oficina>", "(none)"),
            ("<oficina>", "(other)"),  # small ones together: in the file alone
            ("month", "2026-01"),
            ("length", "3-5 words"),
            ("length", "1 word"),
            ("truncated", "yes"),
        )
    ]
    found = section(replace(multiclass(), slices=rows), "slices")
    assert found is not None
    [table] = [block for block in found.blocks if isinstance(block, Table)]
    assert [(row[1].shown, row[0].shown) for row in table.rows] == [
        ("canal", "2026-01"),
        ("canal", "3-5 words"),
        ("canal", "truncated.yes"),
        ("<oficina>", "(sin dato)"),
        ("mes", "enero de 2026"),
        ("largo", "3–5 palabras"),
        ("largo", "1 palabra"),
        ("si cabe entero", "no cabe entero en el modelo base"),
    ]


@pytest.mark.parametrize(("language", "name"), [("es", "clasificador lineal"), ("en", "linear classifier")])
def test_the_probe_has_a_name(language: str, name: str) -> None:
    inputs = multiclass()
    found = section(replace(inputs, models=[*inputs.models, {"model": "probe"}]), "trust", language)
    assert found is not None
    [table] = [block for block in found.blocks if isinstance(block, Table)]
    assert name in table.rows[-1][0].shown


def test_confusions_are_ranked_and_quoted_three_times_at_most() -> None:
    inputs = multiclass()
    found = section(inputs, "confusion")
    assert found is not None
    [table] = [block for block in found.blocks if isinstance(block, Table)]
    times = Counter((row["actual"], row["predicted"]) for row in inputs.confusion)
    ranked = [int(row[2].shown) for row in table.rows]
    assert ranked == sorted((times[pair] for pair in times if pair[0] != pair[1]), reverse=True)
    assert ranked[0] > 3
    quoted = [max(1, str(row[4].shown).count("<li>")) for row in table.rows]
    assert quoted == [min(number, 3) for number in ranked]
    once = section(inputs, "confusion", examples=1)
    assert once is not None
    assert not any(
        "<li>" in row[4].shown for block in once.blocks if isinstance(block, Table) for row in block.rows
    )


def test_a_confusion_is_a_share_of_the_rows_of_the_class() -> None:
    """Of ten rows of the first class five are missed, each with the other three wrongly predicted."""
    name, *others = LABELS
    pairs = [(name, name)] * 5 + [(name, other) for other in others] * 5 + [(NONE, name)] * 5
    per_class = as_rows(("label", "f1", "support"), [(name, 0.5, 10)])
    found = section(
        replace(multilabel(), confusion=as_rows(("actual", "predicted"), pairs), per_class=per_class),
        "confusion",
        examples=0,
    )
    assert found is not None
    [table] = [block for block in found.blocks if isinstance(block, Table)]
    shares = {row[0].shown: row[3].shown for row in table.rows}
    assert shares == {name: f"50{SPACE}%", "(ninguna)": MISSING}


@pytest.mark.parametrize("make", [multiclass, multilabel])
def test_no_text_is_quoted_where_none_is_asked_for(make: object) -> None:
    inputs = make()  # type: ignore[operator]
    assert ES["private"] in "".join(parse(inputs).text)
    text = "".join(Page(render_page(inputs, setting(examples=0))).text)
    assert ES["private"] not in text
    for quoted in ("Nadie responde", "breve", "No me pagan", "de mi esposo"):
        assert quoted not in text


def test_pairs_of_classes_quote_nobody_and_are_all_shown() -> None:
    inputs = multiclass()
    found = section(inputs, "labels", examples=0)
    assert found is not None
    [table] = [block for block in found.blocks if isinstance(block, Table)]
    assert [row[0].shown for row in table.rows] == [row["label"] for row in inputs.pairs]


@pytest.mark.parametrize(("language", "claims"), [("es", "encontr"), ("en", "found")])
def test_a_list_of_which_nothing_was_asked_for_claims_nothing(language: str, claims: str) -> None:
    # audit.max_issues and audit.max_pairs may be 0
    found = section(replace(multiclass(), issues=(), pairs=()), "labels", language)
    assert found is not None
    said = [str(block.text) for block in found.blocks if isinstance(block, Paragraph)]
    assert len(said) == 2
    assert not any(claims in sentence for sentence in said)


def test_a_label_with_a_bar_in_its_name_is_one_label() -> None:
    name = "salud|urgencias"
    inputs = multiclass()

    def renamed(rows: Rows) -> Rows:
        return [{key: name if value == "salud" else value for key, value in row.items()} for row in rows]

    label_set = replace(inputs.label_set, labels=(*LABELS[:2], name, LABELS[3]))
    mistakes, issues, failures = map(renamed, (inputs.mistakes, inputs.issues, inputs.behaviour_failures))
    page = replace(
        inputs,
        label_set=label_set,
        mistakes=mistakes,
        issues=issues,
        behaviour_failures=failures,
        examples={},
    )
    text = "".join(parse(page).text)
    assert name in text
    assert "salud + urgencias" not in text
    several = label_names(f"{LABELS[0]}|rara", LABELS, Locale("es"))
    assert several == f"{LABELS[0]} + rara"


# --------------------------------------------------------------------------------- precision and recall


def test_the_averages_and_the_weakest_labels_are_drawn() -> None:
    rows = [("macro average", 0.8, 0.75), ("macro average", 1.0, 0.5), ("micro average", 0.8, 0.9)]
    rows += [(LABELS[0], 0.8, 0.7), (LABELS[0], 1.0, 0.1), ("rara", 0.8, 0.6), ("rara", 1.0, 0.2)]
    curves = as_rows(("label", "recall", "precision"), rows)
    found = section(replace(multiclass(), precision_recall=curves), "classes")
    assert found is not None
    [figure] = found.blocks[-1].figures  # type: ignore[attr-defined]
    assert [name for _, name in figure.legend] == [
        "promedio de las clases",
        LABELS[0],
        "rara (pocos casos)",
        "todas las decisiones juntas",
    ]
    assert f"80{SPACE}% de cada clase, la precisión promedio es del 75{SPACE}%" in figure.note
    assert f"la de «rara», del 60{SPACE}%" in figure.note


# ------------------------------------------------------------------------------------------- behaviour


def test_the_page_knows_all_behaviour_tests_and_what_they_allow() -> None:
    assert {f"change.{test}" for test in BEHAVIOUR_TESTS} == {key for key in ES if key.startswith("change.")}
    assert set(get_args(Kind)) == {behaviour.INVARIANCE, behaviour.DIRECTIONAL, behaviour.CASES}
    assert behaviour.FALL == TOLERANCE


def test_what_was_tried_is_told_with_the_worst_first() -> None:
    found = section(multiclass(), "behaviour")
    assert found is not None
    same, named, cases = [block for block in found.blocks if isinstance(block, Table)]
    assert [[cell.shown for cell in (row[0], row[2], row[4], row[5])] for row in same.rows] == [
        ["Con una palabra mal escrita en cada oración", f"15,0{SPACE}%", "30 de 200", "21"],
        ["change_<of> tomorrow", f"1,0{SPACE}%", "1 de 100", "0"],
        ["Sin tildes: «pensión» pasa a «pension»", f"0,0{SPACE}%", "0 de 200", "0"],
        ["Con códigos de página web: «ñ» pasa a «&ntilde;»", "–", "nada que cambiar", "0"],
    ]
    assert ["sobre el límite" in row[-1].shown for row in same.rows] == [True, False, False, False]
    assert [row[4].shown for row in named.rows] == ["4 de 200"]
    assert [row[0].shown for row in cases.rows] == ["casos <fáciles>"]
    text = [str(block.text) for block in found.blocks if isinstance(block, Paragraph)]
    assert any("500 copias" in part and f"En 31 de ellas (6,2{SPACE}%)" in part for part in text)
    assert any("pasa 34 de 35" in part for part in text)
    assert any("caso 29 y 2 más" in part for part in text)
    page = render_page(multiclass(), setting())
    assert "change_&lt;of&gt; tomorrow" in page
    assert "casos &lt;fáciles&gt;" in page


def test_a_bar_is_as_long_as_its_share_of_the_scale() -> None:
    found = section(multiclass(), "behaviour")
    assert found is not None
    same = next(block for block in found.blocks if isinstance(block, Table))
    # The highest end of an interval is 20.61 %, so that a whole bar of 120 units is 25 %.
    assert any(f"entera equivale al 25{SPACE}%" in str(getattr(block, "text", "")) for block in found.blocks)
    assert '<rect class="bar miss" x="0" y="3" width="72" height="10"/>' in same.rows[0][1].shown


def test_failures_show_both_texts_and_both_answers() -> None:
    found = section(multiclass(), "behaviour")
    assert found is not None
    [block] = [part for part in found.blocks if isinstance(part, Examples)]
    assert [example.id for example in block.examples] == ["t:2", "t:3", "t:1", "t:4", ""]
    cut, none, first, named, case = block.examples
    assert [version.answer for version in first.versions] == [
        f"El modelo dijo: {HOSTILE}",
        "El modelo dijo: salud",
    ]
    assert first.facts == [
        ("Clase verdadera", "salud"),
        (f"Probabilidad de «{HOSTILE}»", f"60,0{SPACE}% → 30,0{SPACE}%"),
    ]
    assert str(first.versions[1].text) == "Mi &lt;b&gt;pensión&lt;/b&gt; &amp; la de mi <mark>eposo</mark>"
    # What was changed is at the end of a long text, and shown.
    assert [str(version.text).rsplit(" ", 1)[1] for version in cut.versions] == [
        "<mark>fin</mark>",
        "<mark>fni</mark>",
    ]
    assert none.versions[1].answer == "El modelo dijo: (ninguna)"
    assert named.facts[1][0] == "Probabilidad de «salud»"
    assert [version.answer for version in case.versions] == [f"El modelo dijo: {HOSTILE}"]
    assert case.facts[0] == ("Se esperaba", "salud o rara")


def test_failures_are_taken_from_all_tests_alike() -> None:
    rows = [
        {"kind": "INV", "test": test, "id": name, "actual": "a", "predicted": said}
        for name, test, said in (
            ("1", "email", "b"),
            ("2", "email", "a"),
            ("3", "email", "a"),
            ("4", "typo", "b"),
            ("5", "url", "a"),
        )
    ]

    def kept(limit: int) -> list[str]:
        return [row["id"] for row in behaviour.chosen(rows, limit)]

    assert kept(0) == []
    assert kept(2) == ["2", "4"]
    assert kept(3) == ["2", "4", "5"]
    assert kept(4) == ["2", "3", "4", "5"]
    assert kept(9) == ["2", "3", "1", "4", "5"]


def plain(markup: str) -> str:
    """The text that a reader sees."""
    return html.unescape(re.sub(r"<[^>]*>", "", markup))


WORDS_OF_TEXT = st.lists(st.sampled_from(["a", "bb", "<b>", "&", "palabra", "x" * 90]), max_size=40)


@given(WORDS_OF_TEXT, WORDS_OF_TEXT, st.integers(20, 80))
def test_differences_are_short_and_say_what_the_texts_say(
    one: list[str], two: list[str], length: int
) -> None:
    whole = all(len(" ".join(words)) <= length for words in (one, two))
    for words, shown in zip(
        (one, two), behaviour.differences(" ".join(one), " ".join(two), length), strict=True
    ):
        seen = plain(str(shown))
        assert len(seen) <= length
        assert seen.removeprefix("… ").removesuffix("…").strip() in " ".join(words)
        if whole:
            assert seen == " ".join(words)
        assert bool(seen.strip("… ")) == bool(words)


def test_what_differs_is_marked_unless_it_is_nearly_everything() -> None:
    one, two = behaviour.differences("a b c d e", "a b x y d e", 50)
    assert (str(one), str(two)) == ("a b <mark>c</mark> d e", "a b <mark>x y</mark> d e")
    assert str(behaviour.differences("hola a todos", "HOLA A TODOS", 50)[1]) == "HOLA A TODOS"
    assert str(behaviour.differences("a b", "a  b", 50)[1]) == "a b"


# ---------------------------------------------------------------------------------------- explanations


def test_words_are_shaded_by_side_and_strength_and_named_below() -> None:
    found = section(multiclass(), "explanations")
    assert found is not None
    mistakes, others = [part.examples for part in found.blocks if isinstance(part, Examples)]
    [mistake] = mistakes
    assert mistake.title == f"Dijo «{HOSTILE}» (91,0{SPACE}%); era «salud»"
    assert str(mistake.versions[0].text) == (
        'No me <span class="for2">pagan</span> <span class="against1">&lt;b&gt;la</span> '
        '<span class="for3">pensión</span>&lt;/b&gt; <span class="against3">&amp;</span> nadie responde'
    )
    assert [(name, plain(str(value))) for name, value in mistake.facts] == [
        ("A favor", "pensión +1,20 · pagan +0,50"),
        ("En contra", "& −1,00 · <b>la −0,30"),
    ]
    right, bare_one = others
    assert right.title == f"Dijo «salud» (91,0{SPACE}%), y acertó"
    assert ("Aproximado", f"la suma se aparta un 8,0{SPACE}% de lo que debería dar") in right.facts
    assert "<span" not in bare_one.versions[0].text
    assert [value for _, value in bare_one.facts] == ["ninguna palabra"] * 2
    note = [
        str(block.text) for block in found.blocks if isinstance(block, Paragraph) and block.tone == "note"
    ]
    assert "(gradientes integrados, 32 pasos)" in note[0]


def test_of_several_labels_the_explained_one_is_the_most_probable() -> None:
    found = section(multilabel(), "explanations", "en")
    assert found is not None
    titles = [
        example.title for part in found.blocks if isinstance(part, Examples) for example in part.examples
    ]
    assert titles[1] == "Most probable class: “salud” (91.0%); right ones: salud"


@pytest.mark.parametrize(
    "content", [{}, {"explanations": []}, {"method": "x", "steps": 2, "explanations": []}]
)
def test_without_explanations_there_is_no_section(content: dict[str, object]) -> None:
    assert section(replace(multiclass(), explanations=content), "explanations") is None


def test_each_list_of_explanations_is_cut() -> None:
    found = section(multiclass(), "explanations", examples=1)
    assert found is not None
    assert [[one.id for one in part.examples] for part in found.blocks if isinstance(part, Examples)] == [
        ["e:1"],
        ["e:2"],
    ]


def test_words_that_make_no_sense_are_left_out() -> None:
    entries = [
        (4, 7, 1.0),
        (0, 3, 0.5),
        (6, 9, 2.0),
        (9, 9, 1.0),
        (8, 99, 1.0),
        (-3, 2, 1.0),
        (9, 10, float("nan")),
    ]
    found = read_words([dict(zip(("start", "end", "score"), entry, strict=True)) for entry in entries], 10)
    assert found == [Word(0, 3, 0.5), Word(4, 7, 1.0)]


def test_a_repeated_word_is_named_once_with_its_largest_score() -> None:
    text = "Pago pago luz PAGO sol"
    words = [Word(0, 4, 0.3), Word(5, 9, 0.9), Word(10, 13, -0.5), Word(14, 18, -0.8), Word(19, 22, 0.1)]
    assert strongest(text, words, 1) == [("pago", 0.9)]
    assert strongest(text, words, -1) == [("PAGO", -0.8), ("luz", -0.5)]
    assert strongest(text, words, -1, most=1) == [("PAGO", -0.8)]
    assert strongest(text, [], 1) == []


def test_the_strongest_word_has_the_strongest_shade() -> None:
    """Three thirds of a number may be more than the number, in floating point."""
    for step in range(1, 2000):
        assert 'class="for3"' in shade("uno", [Word(0, 3, step / 1000)], 50)


def test_spaces_and_weak_words_are_not_shaded() -> None:
    words = [Word(0, 3, 1.0), Word(3, 8, -1.0), Word(8, 10, 0.1), Word(10, 11, 0.0)]
    assert str(shade("uno dos  y .", words, 50)) == (
        '<span class="for3">uno</span> <span class="against3">dos</span>  y .'
    )
    assert str(shade("<i>", [Word(0, 3, 0.0)], 50)) == "&lt;i&gt;"


def test_of_a_long_text_the_part_that_weighs_most_is_shown() -> None:
    text = "inicio " * 20 + "clave pago " + "final " * 20
    words = [
        Word(found.start(), found.end(), 2.0 if found[0] in ("clave", "pago") else 0.001)
        for found in re.finditer(r"\S+", text)
    ]
    shown = str(shade(text, words, 60))
    assert shown.count("<span") == 2
    assert plain(shown).startswith("… ")
    assert plain(shown).endswith(" …")


@given(
    st.lists(st.tuples(st.text("ab<&é ", min_size=1, max_size=30), st.floats(-3, 3)), max_size=30),
    st.integers(20, 90),
)
def test_a_shaded_text_is_a_part_of_the_text(parts: list[tuple[str, float]], length: int) -> None:
    text, words = "", []
    for part, score in parts:
        words.append(Word(len(text), len(text) + len(part), score))
        text += part
    shown = shade(text, words, length)
    seen = plain(str(shown))
    assert len(seen) <= length
    if len(text) <= length and text.strip():
        assert seen == text
    assert seen.removeprefix("… ").removesuffix(" …").removesuffix("…") in text
    for inside in re.findall(r'<span class="(?:for|against)[123]">(.*?)</span>', str(shown)):
        assert inside == inside.strip() != ""


# -------------------------------------------------------------------------------------------- inputs


def test_the_examples_of_a_confusion_are_those_that_were_surest() -> None:
    rows = [
        ("a", "test", ["x"], ["y"], [0.4, 0.6]),
        ("b", "test", ["x"], ["y"], [0.1, 0.9]),
        ("c", "validation", ["x"], ["y"], [0.0, 1.0]),
        ("d", "test", ["y"], ["y"], [0.2, 0.8]),
        ("e", "test", ["x"], [], [0.3, 0.1]),
        ("f", "test", [], ["y"], [0.3, 0.7]),
    ]
    names = ("id", "split", "labels", "predicted", "probabilities")
    predictions = pa.table(
        {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    )
    test = pa.table({"id": list("abdef"), "text": [f"text {row}" for row in "abdef"]})
    assert confusion_examples(predictions, ["x", "y"], test) == {
        ("x", "y"): ["text b", "text a"],
        ("x", NONE): ["text e"],
        (NONE, "y"): ["text f"],
    }
    assert confusion_examples(predictions, ["x", "y"], test, limit=1)["x", "y"] == ["text b"]


def test_every_confusion_of_a_run_has_an_example() -> None:
    for task, inputs in (("multiclass", multiclass()), ("multilabel", multilabel())):
        found, test = evaluated(task)  # type: ignore[arg-type]
        examples = confusion_examples(found.predictions, inputs.label_set.labels, test)
        times = Counter(pair for pair in found.confusion if pair[0] != pair[1])
        assert {pair: len(texts) for pair, texts in examples.items()} == {
            pair: min(number, 3) for pair, number in times.items()
        }


def test_absent_files_read_as_empty(tmp_path: Path) -> None:
    assert read_optional_json(tmp_path / "a.json") == {}
    assert read_optional_rows(tmp_path / "a.csv") == ()
    (tmp_path / "a.csv").write_text("label,f1\nx,0.5\ny,\n", encoding="utf-8")
    rows = read_optional_rows(tmp_path / "a.csv")
    assert [number(row, "f1") for row in rows] == [0.5, None]


@pytest.mark.parametrize(
    "text",
    [
        "@ministerio no me pagan",
        "- Mi pensión no llega",
        "+65 años",
        " =1+1",
        "Vea esto;=HYPERLINK(1) y, @SUM(1)",
        "d'Or, -no; 'sí' -3,5",
    ],
)
def test_people_are_quoted_without_the_apostrophe_of_spreadsheets(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mistakes.csv"
    write_csv(path, ("id", "text"), [escape_row(("a", text))])
    [row] = read_optional_rows(path, escaped=True)
    assert row["text"] == text


@given(st.text(alphabet="a1'=+-@;, |\"\n("))
def test_what_was_escaped_reads_as_some_text_that_is_escaped_so(text: str) -> None:
    cell = escape_formula(text)
    assert escape_formula(unescape_formula(cell)) == cell
    assert "'" in text or unescape_formula(cell) == text


def test_the_facts_leave_out_what_is_not_known() -> None:
    assert [name for name, _ in facts(bare(multiclass()), setting("en"))] == [
        "Task",
        "Handling of uneven classes",
    ]
    known = dict(facts(multiclass(), setting()))
    assert known["Período de los mensajes"] == "enero de 2020 a junio de 2026"
    assert known["Mensajes utilizados"] == "1.000 de 5.944 leídos"
    assert known["Entrenamiento"] == "se conservó la vuelta 2 de 3"


def test_all_that_was_set_against_imbalance_is_told() -> None:
    loss = other_corrections(BalanceParams(), TrainParams(loss="logit_adjusted", sampler="square_root"))
    assert loss == ["train.loss logit_adjusted", "train.sampler square_root"]
    assert other_corrections(BalanceParams(), TrainParams()) == []
    rows = BalanceParams(strategy="none", augment=["typo"], augment_target=40, label_weights={"salud": 2.0})
    assert other_corrections(rows, TrainParams()) == ["balance.label_weights", "balance.augment_target 40"]

    def told(strategy: str, corrections: list[str], tau: float | None = None) -> str:
        inputs, how = multiclass(), replace(setting("en"), strategy=strategy, corrections=corrections)
        metrics = {**inputs.metrics, "logit_adjustment": {"tau": tau}} if tau is not None else inputs.metrics
        return dict(facts(replace(inputs, metrics=metrics), how))["Handling of uneven classes"]

    assert told("none", []) == "none"
    assert told("none", [], 0.0) == "none"
    assert told("none", loss[:1]) == "train.loss logit_adjusted"
    assert told("none", [], 0.75) == "evaluate.logit_adjustment 0.75"
    assert told("class_weights", loss[1:]) == "errors in small classes weigh more; train.sampler square_root"


# --------------------------------------------------------------------------------------------- stage


def run_stage(repository: Path, folder: Path) -> None:
    before = Path.cwd()
    os.chdir(folder)
    try:
        runpy.run_path(str(repository / "pipeline" / "report.py"), run_name="__main__")
    finally:
        os.chdir(before)


def test_the_stage_writes_the_same_bytes_again(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = multiclass()
    for path, content in (
        ("data/clean/labels.json", {"task": "multiclass", "labels": list(LABELS)}),
        ("reports/metrics.json", json.loads(json.dumps(inputs.metrics))),
        ("reports/evaluation.json", inputs.evaluation),
    ):
        write_json(tmp_path / path, content)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"seed": 1}), encoding="utf-8")
    run_stage(repository, tmp_path)
    page = tmp_path / "reports" / "report.html"
    first = page.read_bytes()
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tmp_path, elsewhere, ignore=shutil.ignore_patterns("elsewhere"))
    run_stage(repository, elsewhere)
    assert (elsewhere / page.relative_to(tmp_path)).read_bytes() == first
    assert HOSTILE not in first.decode()
    assert "report: reports/report.html, in Spanish" in capsys.readouterr().out
