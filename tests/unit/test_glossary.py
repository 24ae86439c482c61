"""The Spanish-English glossary: its form, some of its meanings, and how much of the demo's text it covers."""

from __future__ import annotations

import csv
import html
import json
import re
import unicodedata
from collections import Counter
from importlib import resources
from pathlib import Path

import pytest

openpyxl = pytest.importorskip("openpyxl")

DEMO = Path(__file__).resolve().parents[2] / "data" / "source" / "demo"
SPANISH_WORD = re.compile(r"[a-záéíóúüñ]{2,}|[aeouy]")
MEANING = re.compile(r"[a-z]+(?:[ -][a-z]+){0,2}")


@pytest.fixture(scope="module")
def content() -> str:
    return resources.files("afina.vocabulary").joinpath("es_en.csv").read_bytes().decode("utf-8")


@pytest.fixture(scope="module")
def rows(content: str) -> list[list[str]]:
    return list(csv.reader(content.splitlines()))


@pytest.fixture(scope="module")
def glossary(rows: list[list[str]]) -> dict[str, list[str]]:
    return {word: meaning.split("|") for word, meaning in rows[1:]}


@pytest.fixture(scope="module")
def demo_words() -> Counter[str]:
    """Running words of the demo's messages, without markup, addresses and links."""
    sheet = openpyxl.load_workbook(DEMO / "sistema_2020.xlsx", read_only=True).active
    texts = [row[4] or "" for row in sheet.iter_rows(min_row=2, values_only=True)]
    lines = (DEMO / "sistema_2025.jsonl").read_text(encoding="utf-8").splitlines()
    texts += [json.loads(line)["messages"][0]["body"] for line in lines]
    counts: Counter[str] = Counter()
    for text in texts:
        plain = re.sub(r"<[^>]+>|\S+@\S+|https?://\S+", " ", html.unescape(html.unescape(text)))
        letters = re.findall(r"[^\W\d_]+", unicodedata.normalize("NFC", plain).lower())
        counts.update(word for word in letters if SPANISH_WORD.fullmatch(word))
    return counts


# ------------------------------------------------------------------------------------------ form


def test_the_file_is_plain_csv(content: str, rows: list[list[str]]) -> None:
    assert rows[0] == ["word", "meaning"]
    assert all(len(row) == 2 for row in rows)
    assert "\r" not in content
    assert '"' not in content
    assert content.endswith("\n")
    assert not content.endswith("\n\n")


def test_words_are_unique_and_sorted(rows: list[list[str]]) -> None:
    words = [word for word, _ in rows[1:]]
    assert len(words) >= 3000
    assert words == sorted(set(words))


def test_words_are_lower_case_spanish_letters(content: str, glossary: dict[str, list[str]]) -> None:
    assert unicodedata.is_normalized("NFC", content)
    assert [word for word in glossary if not SPANISH_WORD.fullmatch(word)] == []


def test_meanings_are_one_to_three_plain_english_phrases(glossary: dict[str, list[str]]) -> None:
    wrong = {
        word: meanings
        for word, meanings in glossary.items()
        if not 1 <= len(meanings) <= 3
        or len(set(meanings)) < len(meanings)
        or not all(MEANING.fullmatch(meaning) for meaning in meanings)
    }
    assert wrong == {}


# -------------------------------------------------------------------------------------- meanings


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        ("está", "is"),
        ("esta", "this"),
        ("más", "more"),
        ("mas", "but"),
        ("año", "year"),
        ("niños", "children"),
        ("mujeres", "women"),
        ("países", "countries"),
        ("pensión", "pension"),
        ("jubilación", "retirement"),
        ("subsidio", "subsidy"),
        ("públicas", "public"),
        ("escribió", "wrote"),
        ("trabajando", "working"),
        ("pidieron", "asked"),
        ("jueces", "judges"),
        ("crecimiento", "growth"),
        ("embargo", "however"),
    ],
)
def test_first_meaning(glossary: dict[str, list[str]], word: str, meaning: str) -> None:
    assert glossary[word][0] == meaning


@pytest.mark.parametrize("unaccented", ["ano", "dia", "pais", "pension", "numero", "telefono", "ademas"])
def test_words_that_need_an_accent_have_it(glossary: dict[str, list[str]], unaccented: str) -> None:
    assert unaccented not in glossary


def test_a_word_of_several_meanings_names_them(glossary: dict[str, list[str]]) -> None:
    assert set(glossary["vino"]) == {"came", "wine"}
    assert set(glossary["derecho"]) == {"right", "law"}


# -------------------------------------------------------------------------------------- coverage


def test_most_of_the_demo_is_covered(glossary: dict[str, list[str]], demo_words: Counter[str]) -> None:
    covered = sum(count for word, count in demo_words.items() if word in glossary)
    assert covered / demo_words.total() > 0.92  # measured: 0.945


def test_frequent_words_of_the_demo_are_covered(
    glossary: dict[str, list[str]], demo_words: Counter[str]
) -> None:
    frequent = [word for word, _ in demo_words.most_common(1000)]
    # measured: 0.90; most of the others are names and misspelt words
    assert sum(word in glossary for word in frequent) / len(frequent) > 0.86
