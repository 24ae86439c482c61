"""The same answers however texts are given: alone, together, in any order, as a stream, from many threads."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import afina.runtime
from afina.runtime.classifier import Classifier
from afina.runtime.encoding import Encoder
from afina.runtime.streaming import WINDOW, prepared_ahead, text_problem, windows
from afina.runtime.text import STEPS
from tiny import build_tiny_tokenizer, tiny_texts
from toy_artifact import write_toy

ROOT = Path(__file__).resolve().parent.parent.parent
MODEL = ROOT / "models" / "onnx" / "model.onnx"

ODD = [
    "",
    " ",
    "\x00",
    "😀👩‍👩‍👧🏽",
    "مرحبا بالعالم",
    "שלום agua",
    "\ud800",
    "a" * 3000,
    "agua " * 90,
    "e\u0301" * 60,
]
TEXTS = st.lists(st.sampled_from(ODD) | st.text(max_size=60) | st.sampled_from(["agua luz", "no hay luz"]))


@pytest.fixture(scope="module", params=["toy", pytest.param("demo", marks=pytest.mark.demo)])
def classifier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    if request.param == "toy":
        return Classifier(write_toy(tmp_path_factory.mktemp("toy") / "model.onnx"))
    if not MODEL.is_file():
        pytest.skip(f"{MODEL} is not there; `dvc repro` makes it")
    return Classifier(MODEL)


# -------------------------------------------------------------------------------- the same answers


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(texts=TEXTS.filter(lambda texts: len(texts) < 9), data=st.data())
def test_company_order_and_streaming_change_nothing(
    classifier: Classifier, texts: list[str], data: st.DataObject
) -> None:
    together = classifier.predict_proba(texts)
    alone = [classifier.predict_proba([text])[0] for text in texts]
    np.testing.assert_allclose(together, np.reshape(alone, together.shape), atol=1e-4, rtol=0)
    order = data.draw(st.permutations(range(len(texts))))
    shuffled = classifier.predict_proba([texts[place] for place in order])
    np.testing.assert_allclose(shuffled, together[order], atol=1e-4, rtol=0)
    window = data.draw(st.integers(1, 5))
    streamed = list(classifier.stream_proba(iter(texts), window))
    assert sum(map(len, streamed)) == len(texts)
    if texts:
        np.testing.assert_allclose(np.concatenate(streamed), together, atol=1e-4, rtol=0)
    predictions = classifier.stream(iter(texts), 2, window)
    for prediction, row in zip(predictions, together, strict=True):
        assert prediction.probability == pytest.approx(row.max(), abs=1e-4)
        assert len(prediction.top) == 2


def test_threads_get_the_answers_one_gets(classifier: Classifier) -> None:
    texts = [*ODD, *(f"agua {'luz ' * (n % 7)}" for n in range(20))]
    expected = classifier.predict_proba(texts)
    starts = threading.Barrier(4)

    def ask(turn: int) -> None:
        starts.wait(timeout=60)
        order = np.random.default_rng(turn).permutation(len(texts))
        found = classifier.predict_proba([texts[place] for place in order])
        np.testing.assert_allclose(found, expected[order], atol=1e-4, rtol=0)
        assert classifier.encoder.full_lengths(["agua " * 1000])[0] >= 1000  # must not undo truncation

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(ask, range(4)))


def test_more_texts_than_a_window(tmp_path: Path) -> None:
    classifier = Classifier(write_toy(tmp_path / "model.onnx"))
    texts = [("agua", "luz luz", "pagos")[n % 3] for n in range(WINDOW + 7)]
    found = classifier.predict_proba(texts)
    np.testing.assert_allclose(found[:3], classifier.predict_proba(texts[:3]), rtol=1e-6)
    np.testing.assert_allclose(found, np.resize(found[:3], (len(texts), 3)), rtol=1e-6)
    assert list(classifier.stream(texts)) == classifier.predict(texts)


def test_a_megabyte_is_cut_like_any_text(tmp_path: Path) -> None:
    classifier = Classifier(write_toy(tmp_path / "model.onnx"))
    (long, short) = classifier.predict_proba(["agua " * 200_000, "agua " * 10])
    np.testing.assert_allclose(long, short, rtol=1e-6)


@pytest.mark.parametrize(
    "piece",
    ["agua ", "<", "<a ", "&amp;", "Ã±", "e\u0301", "a@", "1", "> ", "http://a.", "\u202e😀", "\ud800"],
)
def test_a_megabyte_is_cleaned_by_every_step(tmp_path: Path, piece: str) -> None:
    classifier = Classifier(write_toy(tmp_path / "model.onnx", cleaning=tuple(STEPS)))
    text = piece * (1_000_000 // len(piece.encode("utf-8", "surrogatepass")))
    start = time.process_time()
    assert np.isfinite(classifier.predict_proba([text])).all()
    # A step whose time grew with the square of the length would take many minutes.
    assert time.process_time() - start < 60


# -------------------------------------------------------------------------------------- streams


def test_a_stream_needs_no_more_memory_the_longer_it_is(tmp_path: Path) -> None:
    classifier = Classifier(write_toy(tmp_path / "model.onnx"))

    def peak(count: int) -> int:
        tracemalloc.start()
        for _ in classifier.stream((f"agua {n}" for n in range(count)), window=50):
            pass
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(100)
    # Any one thing kept of each text, its ids for instance, would be a megabyte more.
    assert peak(6000) < peak(600) + 400_000


def test_an_endless_stream_is_read_two_windows_ahead_at_most(tmp_path: Path) -> None:
    classifier = Classifier(write_toy(tmp_path / "model.onnx"))
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        for text in repeat("agua"):
            read += 1
            yield text

    predictions = classifier.stream(endless(), window=4)
    for answered in range(20):
        assert next(predictions).label == "agua"
        assert read <= answered // 4 * 4 + 8


def test_texts_are_read_where_the_predictions_are(tmp_path: Path) -> None:
    classifier = Classifier(write_toy(tmp_path / "model.onnx"))
    readers = set()

    def source() -> Iterator[str]:
        for text in ["agua"] * 5:
            readers.add(threading.get_ident())
            yield text

    assert len(list(classifier.stream(source(), window=2))) == 5
    assert readers == {threading.get_ident()}


@pytest.mark.parametrize("before", range(8))
def test_all_texts_before_a_failure_are_answered(tmp_path: Path, before: int) -> None:
    classifier = Classifier(write_toy(tmp_path / "model.onnx"))

    def source() -> Iterator[str]:
        yield from ["agua"] * before
        raise OSError("the disk is gone")

    for texts, label, error in [
        (source(), "agua", OSError),
        ((["luz"] * before + [None]), "luz", TypeError),
    ]:
        predictions = classifier.stream(texts, window=3)  # type: ignore[arg-type]
        assert [next(predictions).label for _ in range(before)] == [label] * before
        with pytest.raises(error, match=rf"disk|texts\[{before}\]"):
            next(predictions)


def test_one_string_is_refused_at_once(tmp_path: Path) -> None:
    classifier = Classifier(write_toy(tmp_path / "model.onnx"))
    with pytest.raises(TypeError, match="found one str"):
        classifier.stream("agua")


def test_a_stream_that_is_left_ends_its_thread(tmp_path: Path) -> None:
    classifier = Classifier(write_toy(tmp_path / "model.onnx"))
    predictions = classifier.stream(repeat("agua"), window=2)
    next(predictions)
    del predictions
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("afina-prepare")]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("agua", None),
        ("", None),
        (None, "found NoneType"),
        (float("nan"), "found float"),
        (b"x", "found bytes"),
    ],
)
def test_what_is_no_text_is_told_beforehand(value: Any, problem: str | None) -> None:
    found = afina.runtime.text_problem(value)
    assert found is None if problem is None else problem in str(found)
    assert text_problem is afina.runtime.text_problem


# -------------------------------------------------------------------------------------- windows


@given(st.lists(st.text(max_size=9)), st.integers(1, 7), st.integers(1, 30))
def test_windows_keep_every_text_and_their_bounds(texts: list[str], size: int, characters: int) -> None:
    found = list(windows(texts, size, characters))
    assert [text for window in found for text in window] == texts
    for window in found:
        assert 1 <= len(window) <= size
        assert sum(map(len, window[:-1])) < characters
    for window in found[:-1]:  # none ends early
        assert len(window) == size or sum(map(len, window)) >= characters


def test_the_next_item_is_prepared_while_one_is_used() -> None:
    begun = [threading.Event() for _ in range(3)]

    def prepare(item: int) -> int:
        begun[item].set()
        return item

    for item in prepared_ahead(range(3), prepare):
        assert all(event.wait(timeout=60) for event in begun[: item + 2])


def test_what_preparing_raises_is_raised() -> None:
    def prepare(item: int) -> int:
        return 1 // item

    prepared = prepared_ahead([1, 0, 1], prepare)
    assert next(prepared) == 1
    with pytest.raises(ZeroDivisionError):
        next(prepared)


# -------------------------------------------------------------------------------------- lengths


@given(texts=st.lists(st.sampled_from([*ODD[:6], "agua " * 30, "luz", "x " * 11])), cut=st.integers(1, 25))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_lengths_are_those_of_a_tokenizer_that_cuts_nothing(texts: list[str], cut: int) -> None:
    tokenizer = build_tiny_tokenizer("bert", tiny_texts())
    encoder = Encoder(tokenizer.to_str(), cut, 0)
    ids, lengths = encoder.encode_with_lengths(texts)
    assert lengths.tolist() == [len(tokenizer.encode(text).ids) for text in texts]
    for found, expected in zip(ids, encoder.encode(texts), strict=True):
        np.testing.assert_array_equal(found, expected)
