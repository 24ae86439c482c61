"""The committed demo data: what generate.py writes, and the shape that the pipeline is shown on."""

from __future__ import annotations

import csv
import html
import importlib.util
import json
import re
import statistics
import sys
import zipfile
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

openpyxl = pytest.importorskip("openpyxl")

DEMO = Path(__file__).resolve().parents[2] / "data" / "source" / "demo"
INVENTED = re.compile(r"(\.|^)(example\.(org|com|net)|ejemplo\.test|[\w.-]+\.test)$")


class Message(NamedTuple):
    id: str
    raw: str
    text: str


def words(text: str) -> int:
    return len(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


@pytest.fixture(scope="module")
def messages() -> list[Message]:
    sheet = openpyxl.load_workbook(DEMO / "sistema_2020.xlsx", read_only=True).active
    header, *rows = sheet.iter_rows(values_only=True)
    assert header == ("correlativo", "fecha", "canal", "asunto", "comunicacion")
    old = [Message(str(number), raw or "", text or "") for number, _, _, raw, text in rows]
    records = map(json.loads, (DEMO / "sistema_2025.jsonl").read_text(encoding="utf-8").splitlines())
    return old + [Message(r["code"], r["category"][1], r["messages"][0]["body"]) for r in records]


@pytest.fixture(scope="module")
def label_map() -> dict[str, str]:
    with (DEMO / "label_map.csv").open(encoding="utf-8", newline="") as file:
        return {row["raw"]: row["label"] for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def counts(messages: list[Message], label_map: dict[str, str]) -> list[tuple[str, int]]:
    return Counter(label for m in messages if (label := label_map[m.raw])).most_common()


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_generate", DEMO / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    sys.dont_write_bytecode = writes_bytecode
    return module


def test_the_committed_files_are_what_the_generator_writes(generator: ModuleType, tmp_path: Path) -> None:
    generator.write_all(tmp_path)
    for name in ("sistema_2025.jsonl", "label_map.csv", "truth.csv"):
        assert (tmp_path / name).read_bytes() == (DEMO / name).read_bytes(), name
    # Compared by member: how well zlib compresses differs between its builds, the content does not.
    with (
        zipfile.ZipFile(tmp_path / "sistema_2020.xlsx") as new,
        zipfile.ZipFile(DEMO / "sistema_2020.xlsx") as old,
    ):
        assert new.namelist() == old.namelist()
        assert all(new.read(name) == old.read(name) for name in old.namelist())
        assert {info.date_time for info in new.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_size() -> None:
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) <= 2_000_000


def test_rows(messages: list[Message]) -> None:
    assert 5500 <= len(messages) <= 6500
    assert len({m.id for m in messages}) == len(messages)


def test_labels(messages: list[Message], label_map: dict[str, str], counts: list[tuple[str, int]]) -> None:
    names = {m.raw for m in messages}
    assert names == set(label_map)
    assert 55 <= len(names) <= 65
    assert 28 <= len(counts) <= 32
    assert all(len(label) <= 28 and label == label.lower() for label, _ in counts)


def test_imbalance(messages: list[Message], label_map: dict[str, str], counts: list[tuple[str, int]]) -> None:
    top = [n for _, n in counts[:15]]
    assert 0.73 <= sum(top) / sum(n for _, n in counts) <= 0.82
    assert 5 <= top[0] / top[-1] <= 7.5
    obsolete = sum(m.raw != "" and not label_map[m.raw] for m in messages)
    assert 0.17 <= obsolete / len(messages) <= 0.23


def test_lengths(messages: list[Message]) -> None:
    lengths = [n for m in messages if (n := words(m.text))]
    assert min(lengths) == 3
    assert 300 <= max(lengths) <= 400
    assert 35 <= statistics.median(lengths) <= 45
    assert 20 <= len(messages) - len(lengths) <= 100  # empty ones


def test_what_the_cleaning_has_to_deal_with(messages: list[Message]) -> None:
    texts = [m.text for m in messages]
    seen = {
        "html": sum(bool(re.search(r"<(p|br)\b", t)) for t in texts),
        "entities": sum("&aacute;" in t or "&nbsp;" in t for t in texts),
        "mojibake": sum("Ã" in t for t in texts),
        "quoted replies": sum("\n> " in t for t in texts),
        "capitals": sum(t.isupper() for t in texts),
        "copies": len(texts) - len(set(texts)),
    }
    assert all(n >= 50 for n in seen.values()), seen


def test_wrong_labels(
    messages: list[Message], label_map: dict[str, str], counts: list[tuple[str, int]]
) -> None:
    with (DEMO / "truth.csv").open(encoding="utf-8", newline="") as file:
        truth = {row["id"]: row["label"] for row in csv.DictReader(file)}
    given = {m.id: label_map[m.raw] for m in messages}
    assert set(truth) <= set(given)
    assert all(given[i] and given[i] != label for i, label in truth.items())
    assert 0.04 <= len(truth) / sum(n for _, n in counts) <= 0.06
    assert sum(n for _, n in Counter(truth.values()).most_common(3)) / len(truth) >= 0.7


def test_it_is_neither_easy_nor_hopeless(
    messages: list[Message], label_map: dict[str, str], counts: list[tuple[str, int]]
) -> None:
    """Words alone, a linear model, one split: far from chance, far from perfect, worse on rare labels."""
    pytest.importorskip("sklearn")
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics import f1_score
    from sklearn.model_selection import train_test_split
    from sklearn.svm import LinearSVC

    top = [label for label, _ in counts[:15]]
    once = {m.text.lower(): label_map[m.raw] for m in messages if words(m.text)}
    texts, labels = zip(*((t, label) for t, label in once.items() if label in top), strict=True)
    train, test, y_train, y_test = train_test_split(
        texts, labels, test_size=0.3, stratify=labels, random_state=0
    )
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    model = LinearSVC(C=0.3).fit(vectorizer.fit_transform(train), y_train)
    predicted = model.predict(vectorizer.transform(test))
    f1 = dict(zip(top, f1_score(y_test, predicted, labels=top, average=None), strict=True))
    assert 0.70 <= statistics.mean(f1.values()) <= 0.88
    assert statistics.mean(f1[label] for label in top[10:]) < statistics.mean(f1[label] for label in top[:5])


def test_every_address_is_invented(messages: list[Message]) -> None:
    everything = (DEMO / "sistema_2025.jsonl").read_text(encoding="utf-8") + "\n".join(
        m.text for m in messages
    )
    domains = set(re.findall(r"[\w.+-]+@([\w.-]+\w)", everything.lower()))
    assert domains
    assert [d for d in sorted(domains) if not INVENTED.search(d)] == []
