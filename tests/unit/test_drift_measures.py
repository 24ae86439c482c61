"""Drift: the distances by hand and by their laws, the bins, the verdict under no change and under a shift."""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afina.errors import UserError
from afina.runtime import drift
from afina.runtime.classifier import Prediction, Score
from afina.runtime.drift import (
    NONE,
    OTHER,
    Histogram,
    Limits,
    Monitor,
    Reference,
    Sample,
    TokenCounter,
    build_reference,
    compare_to_reference,
    jensen_shannon,
    population_stability,
    read_reference,
    worst,
)
from toy_artifact import toy_tokenizer

LABELS = tuple(f"label {at}" for at in range(12))
SKEWED = tuple(1 / (at + 1) / sum(1 / (one + 1) for one in range(12)) for at in range(12))

pairs = st.integers(1, 8).flatmap(
    lambda size: st.tuples(
        *[st.lists(st.integers(0, 1000), min_size=size, max_size=size).filter(any) for _ in range(2)]
    )
)


def drawn(
    generator: np.random.Generator,
    texts: int,
    shares: Any = SKEWED,
    confidence: tuple[float, float] = (8, 2),
    length: float = 4.0,
) -> Sample:
    """Texts of a made-up model."""
    lengths = np.maximum(3, np.exp(generator.normal(length, 0.6, texts))).astype(np.int64)
    return Sample(
        [(LABELS[at],) for at in generator.choice(len(shares), texts, p=shares)],
        generator.beta(*confidence, texts),
        lengths,
        generator.binomial(lengths, 0.005),
    )


def labelled(**counts: int) -> Sample:
    return Sample([(name,) for name, count in counts.items() for _ in range(count)])


# -------------------------------------------------------------------------------------------- distances


def test_psi_by_hand() -> None:
    # (0.5 - 0.2) ln(0.5 / 0.2) + (0.5 - 0.8) ln(0.5 / 0.8)
    assert population_stability([50, 50], [20, 80]) == pytest.approx(0.3 * math.log(4), abs=1e-12)


def test_an_empty_bin_gets_its_part_of_one_more_row() -> None:
    # Together the bins hold 5 and 15 of 20: p = (5.25, 5.75) / 11, q = (0.25, 10.75) / 11.
    expected = (5 / 11) * math.log(5.25 / 0.25) - (5 / 11) * math.log(5.75 / 10.75)
    assert population_stability([5, 5], [0, 10]) == pytest.approx(expected, abs=1e-12)
    assert population_stability([5, 5, 0], [0, 10, 0]) == pytest.approx(expected, abs=1e-12)


def test_jensen_shannon_by_hand() -> None:
    # p = (1, 0), q = (1/2, 1/2), middle (3/4, 1/4)
    divergence = (math.log2(4 / 3) + 0.5 * math.log2(2 / 3) + 0.5 * math.log2(2)) / 2
    assert jensen_shannon([3, 0], [2, 2]) == pytest.approx(math.sqrt(divergence), abs=1e-12)
    assert jensen_shannon([7, 0], [0, 2]) == 1.0


@settings(deadline=None)
@given(pairs)
def test_distances_are_symmetric_bounded_and_zero_only_of_equal_shares(
    counts: tuple[list[int], list[int]],
) -> None:
    first, second = counts
    same = [a * sum(second) for a in first] == [b * sum(first) for b in second]
    for distance, bound in ((population_stability, math.inf), (jensen_shannon, 1.0)):
        value = distance(first, second)
        assert value == pytest.approx(distance(second, first), abs=1e-9)
        assert 0 <= value <= bound
        assert math.isfinite(value)
        assert (value == 0) == same or (same is False and value < 1e-9)
        assert distance(first, [3 * count for count in first]) == 0


@settings(deadline=None)
@given(pairs, st.randoms())
def test_the_order_of_the_bins_is_of_no_consequence(counts: tuple[list[int], list[int]], random: Any) -> None:
    order = list(range(len(counts[0])))
    random.shuffle(order)
    shuffled = [[side[at] for at in order] for side in counts]
    assert population_stability(*shuffled) == pytest.approx(population_stability(*counts), abs=1e-9)
    assert jensen_shannon(*shuffled) == pytest.approx(jensen_shannon(*counts), abs=1e-6)


@pytest.mark.parametrize(
    ("first", "second"),
    [([1, 2], [1, 2, 3]), ([0, 0], [1, 2]), ([1, -1], [1, 2]), ([1, math.nan], [1, 2]), ([], [])],
)
def test_what_is_no_histogram_is_refused(first: list[float], second: list[float]) -> None:
    for distance in (population_stability, jensen_shannon):
        with pytest.raises(ValueError, match=r"do not fit|expected numbers"):
            distance(first, second)


# ----------------------------------------------------------------------------------- bins and reference


def test_bins_of_a_reference_by_hand() -> None:
    sample = Sample(
        [("a",)] * 10 + [("b",)] * 10,
        np.linspace(0.05, 1.0, 20),
        np.array([4] * 10 + [40] * 9 + [400]),
        np.array([0] * 10 + [1] * 9 + [100]),
    )
    reference = build_reference(sample, ["a", "b", "c"], "multiclass", max_length=128)
    found = reference.histograms
    assert found["label_share"] == Histogram(("a", "b", "c", OTHER), (10, 10, 0, 0), 20, 20)
    assert found["confidence"].counts == (2,) * 10
    # One text of 400 tokens is too few for a bin: those of 40 and it share one.
    assert reference.edges["length"] == (6.0,)
    assert found["length"].counts == (10, 10)
    assert dict(zip(found["unknown_tokens"].bins, found["unknown_tokens"].counts, strict=True)) == {
        "none": 10,
        "under 5 %": 9,
        "5 % to 20 %": 0,
        "20 % or more": 1,
    }
    assert found["truncated"].counts == (19, 1)
    assert set(found) == set(drift.MEASURES) - {"labels_per_text"}


def test_labels_of_a_multilabel_model_are_shares_of_texts() -> None:
    sample = Sample([("a", "b"), ("a",), (), ("a", "a")])
    reference = build_reference(sample, ["a", "b"], "multilabel")
    shares = reference.histograms["label_share"]
    assert shares.bins == ("a", "b", NONE, OTHER)
    assert shares.shares == (0.75, 0.25, 0.25, 0.0)
    assert shares.squares == 4 + 1 + 1 + 1
    assert reference.histograms["labels_per_text"].counts[:3] == (1, 1, 2)


def test_a_confidence_printed_with_six_decimals_stays_in_its_bin() -> None:
    generator = np.random.default_rng(3)
    exact = np.float32(generator.beta(5, 1, 3000)).astype(np.float64)
    levels = np.array([0.9, 0.3, 1 / 3, 0.57611])  # values that come often
    exact[:1000] = np.float32(generator.choice(levels, 1000))
    reference = build_reference(Sample([("a",)] * 3000, exact), ["a"], "multiclass")
    printed = np.array([float(f"{value:.6f}") for value in exact])
    assert reference.count(Sample([("a",)] * 3000, printed)) == reference.histograms


def test_one_confidence_alone_has_room_on_both_sides() -> None:
    reference = build_reference(Sample([("a",)] * 100, np.full(100, 0.5)), ["a"], "multiclass")
    for value in (0.4, 0.6):
        found = compare_to_reference(reference, Sample([("a",)] * 100, np.full(100, value)))
        assert found.measures[1].verdict == "drifted"


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_a_reference_comes_back_from_json(data: st.DataObject) -> None:
    task = data.draw(st.sampled_from(["multiclass", "multilabel"]))
    size = data.draw(st.integers(1, 40))
    labels = data.draw(st.lists(st.text(max_size=5), min_size=1, max_size=6, unique=True))
    generator = np.random.default_rng(data.draw(st.integers(0, 100)))
    most = 1 if task == "multiclass" else len(labels)
    rows = [
        tuple(
            labels[at]
            for at in generator.choice(
                len(labels), generator.integers(task == "multiclass", most + 1), replace=False
            )
        )
        for _ in range(size)
    ]
    sample = Sample(
        rows, generator.random(size), generator.integers(2, 900, size), generator.integers(0, 3, size)
    )
    reference = build_reference(sample, labels, task, 128)
    stored = json.loads(json.dumps(reference.to_json(), ensure_ascii=False, allow_nan=False))
    assert Reference.from_json(stored) == reference
    assert reference.count(sample) == reference.histograms
    same = compare_to_reference(reference, sample)
    assert [measure.psi for measure in same.measures] == [0.0] * len(same.measures)


def test_a_reference_of_a_hundred_labels_is_small_and_holds_no_text() -> None:
    labels = [f"área {at:03d}: trámite de una oficina" for at in range(100)]
    generator = np.random.default_rng(0)
    rows = [(labels[at],) for at in generator.integers(0, 100, 5000)]
    sample = Sample(
        rows, generator.random(5000), generator.integers(2, 900, 5000), np.zeros(5000, dtype=np.int64)
    )
    stored = json.dumps(build_reference(sample, labels, "multiclass", 512).to_json(), ensure_ascii=False)
    names = sum(len(label.encode()) + 4 for label in labels)
    assert len(stored.encode()) - names < 1500


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "of format 2"),
        ({"task": "regression"}, "task: expected"),
        ({"labels": []}, "labels: expected different names"),
        ({"labels": ["a", "a"]}, "labels: expected different names"),
        ({"texts": 0}, "no texts"),
        ({"texts": -1}, "texts: expected a whole number"),
        ({"counts": {}}, "no texts"),
        ({"counts": {"label_share": [1, 2]}}, "2 counts for 3 bins"),
        ({"counts": {"label_share": [1, 2, math.nan]}}, "label_share: expected a whole number"),
        ({"counts": {"label_share": [9, 0, 0], "mood": [1]}}, "'mood' is not known"),
        ({"counts": {"label_share": [2, 1, 0], "truncated": [1, 1]}}, "add up to 2, not to 3"),
        ({"edges": {"confidence": [0.5, 0.5]}}, "rising limits"),
        ({"edges": {"confidence": [math.nan]}}, "rising limits"),
        ({"edges": {}}, "rising limits"),
        ({"edges": None}, "garbled"),
        ({"squares": 2}, "do not fit"),
        ({"max_length": "12"}, "max_length: expected a whole number"),
    ],
)
def test_a_garbled_reference_is_refused(change: dict[str, Any], message: str) -> None:
    sample = Sample([("a",), ("a",), ("b",)], np.array([0.2, 0.4, 0.6]))
    value = build_reference(sample, ["a", "b"], "multiclass", 12).to_json() | change
    with pytest.raises(UserError, match=r"^m\.onnx: metadata reference: .*export the model again$") as error:
        read_reference(value, "m.onnx")
    assert message in str(error.value)


def test_a_file_without_a_reference_says_what_to_do() -> None:
    with pytest.raises(UserError, match=r"^m\.onnx: holds no reference .* give a data file"):
        read_reference(None, "m.onnx")


def test_a_sample_has_to_fit_together() -> None:
    for wrong in (math.nan, -0.1, 1.1, math.inf):
        with pytest.raises(ValueError, match=r"confidence\[1\]: expected a number from 0 to 1"):
            Sample([("a",), ("a",)], np.array([0.5, wrong]))
    with pytest.raises(ValueError, match="lengths: "):
        Sample([("a",)], None, np.array([1, 2]))
    with pytest.raises(ValueError, match="lengths are missing"):
        Sample([("a",)], None, None, np.array([1]))
    with pytest.raises(ValueError, match="at least one text"):
        build_reference(Sample([]), ["a"], "multiclass")
    with pytest.raises(ValueError, match="'b' is none of the model's"):
        build_reference(Sample([("b",)]), ["a"], "multiclass")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"watch": 0}, "watch"),
        ({"watch": math.nan}, "watch"),
        ({"drifted": 0.05}, "drifted"),
        ({"drifted": math.inf}, "drifted"),
        ({"alpha": 0.001}, "alpha"),
        ({"alpha": 0.5}, "alpha"),
    ],
)
def test_limits_have_ranges(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}: expected"):
        Limits(**wrong)


def test_tokens_are_counted_before_truncation_after_cleaning() -> None:
    counter = TokenCounter(toy_tokenizer(), ("lowercase",))
    lengths, unknown = counter.count(["AGUA agua", "", "mesa luz silla", "agua " * 5000])
    assert lengths.tolist() == [4, 2, 5, 5002]  # [CLS] and [SEP] are tokens too
    assert unknown.tolist() == [0, 0, 2, 0]


# --------------------------------------------------------------------------------------------- verdicts


@pytest.fixture
def fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "DRAWS", 400)


@pytest.mark.usefixtures("fewer_draws")
@pytest.mark.parametrize(("old", "new"), [(500, 50), (500, 300), (2000, 1000)])
def test_without_a_change_hardly_anything_is_called_drifted(old: int, new: int) -> None:
    generator = np.random.default_rng(old + new)
    runs = 120
    alarms, small = 0, Counter[str]()
    for _ in range(runs):
        reference = build_reference(drawn(generator, old), LABELS, "multiclass", 512)
        found = compare_to_reference(reference, drawn(generator, new))
        alarms += found.verdict in ("watch", "drifted")
        small.update(measure.measure for measure in found.measures if measure.p_value <= 0.05)
        assert found.verdict != "ok" or new > 50
    # 5 % and three standard errors
    most = 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert alarms / runs <= most
    for measure, count in small.items():
        assert count / runs <= most, measure


@pytest.mark.usefixtures("fewer_draws")
@pytest.mark.parametrize("new", [100, 1000])
def test_a_clear_shift_is_called_drifted(new: int) -> None:
    generator = np.random.default_rng(new)
    moved = np.array(SKEWED) * 0.6
    moved[-1] += 0.4
    changes: dict[str, dict[str, Any]] = {
        "label_share": {"shares": moved},
        "confidence": {"confidence": (4, 2.5)},
        "length": {"length": 4.6},
    }
    verdicts = Counter[str]()
    runs = 25
    for _ in range(runs):
        reference = build_reference(drawn(generator, 600), LABELS, "multiclass", 512)
        for measure, change in changes.items():
            found = compare_to_reference(reference, drawn(generator, new, **change))
            verdicts[measure] += {one.measure: one.verdict for one in found.measures}[measure] == "drifted"
    assert min(verdicts[measure] for measure in changes) >= 0.8 * runs


@pytest.mark.usefixtures("fewer_draws")
def test_labels_that_come_in_groups_are_no_drift() -> None:
    """Entries of one text are not independent; taken for such, 7 % of these would have p <= 0.01."""
    generator = np.random.default_rng(5)
    labels = [f"label {at}" for at in range(24)]
    groups = [tuple(labels[at : at + 6]) for at in (0, 6, 12, 18)]
    runs = 200
    small = 0
    for _ in range(runs):
        old, new = ([groups[at] for at in generator.integers(0, 4, size)] for size in (400, 300))
        reference = build_reference(Sample(old), labels, "multilabel")
        small += compare_to_reference(reference, Sample(new)).measures[0].p_value <= 0.01
    assert small / runs <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / runs)


@pytest.mark.usefixtures("fewer_draws")
def test_a_shift_of_independent_labels_is_called_drifted() -> None:
    generator = np.random.default_rng(6)
    before = np.full(12, 0.15)
    after = np.append(np.full(6, 0.05), np.full(6, 0.3))

    def rows(shares: Any, texts: int) -> list[tuple[str, ...]]:
        return [tuple(np.array(LABELS)[generator.random(12) < shares].tolist()) for _ in range(texts)]

    verdicts = Counter[str]()
    for _ in range(20):
        reference = build_reference(Sample(rows(before, 600)), LABELS, "multilabel")
        verdicts["same"] += compare_to_reference(reference, Sample(rows(before, 300))).verdict == "ok"
        verdicts["moved"] += compare_to_reference(reference, Sample(rows(after, 300))).verdict == "drifted"
    assert verdicts == {"same": 20, "moved": 20}


def test_the_expected_psi_of_chance_is_near_its_formula() -> None:
    reference = build_reference(labelled(a=500, b=300, c=200), ["a", "b", "c"], "multiclass")
    measure = compare_to_reference(reference, labelled(a=100, b=60, c=40)).measures[0]
    # Bins that hold nothing on either side do not count.
    assert measure.chance == pytest.approx(2 * (1 / 1000 + 1 / 200), rel=0.08)
    assert measure.psi == 0
    assert measure.verdict == "ok"
    assert measure.p_value == 1.0


def test_limits_are_about_what_exceeds_chance() -> None:
    reference = build_reference(labelled(a=5000, b=5000), ["a", "b"], "multiclass")
    new = labelled(a=2000, b=3000)
    psi = population_stability([1, 1], [2, 3])
    measure = compare_to_reference(reference, new).measures[0]
    assert measure.psi == pytest.approx(psi)
    assert measure.verdict == "ok"  # surely another distribution, and close all the same
    assert measure.p_value < 0.001
    strict = Limits(watch=measure.excess - 1e-6, drifted=1)
    assert compare_to_reference(reference, new, strict).verdict == "watch"
    stricter = Limits(watch=0.001, drifted=measure.excess - 1e-6)
    assert compare_to_reference(reference, new, stricter).verdict == "drifted"
    lenient = Limits(watch=measure.excess + 1e-6, drifted=1)
    assert compare_to_reference(reference, new, lenient).verdict == "ok"


def test_too_little_data_is_an_answer() -> None:
    generator = np.random.default_rng(1)
    reference = build_reference(drawn(generator, 500), LABELS, "multiclass", 512)
    assert compare_to_reference(reference, drawn(generator, 8)).verdict == "too little data"
    few = compare_to_reference(reference, drawn(generator, 29))
    assert "ok" not in {measure.verdict for measure in few.measures}
    nothing = compare_to_reference(reference, Sample([]))
    assert nothing.verdict == "too little data"
    assert math.isnan(nothing.measures[0].psi)


def test_the_same_input_gives_the_same_answer() -> None:
    generator = np.random.default_rng(2)
    reference = build_reference(drawn(generator, 300), LABELS, "multiclass", 512)
    new = drawn(generator, 200)
    assert compare_to_reference(reference, new) == compare_to_reference(reference, new)


def test_labels_that_came_and_went_are_named() -> None:
    reference = build_reference(labelled(a=80, b=10, c=10), ["a", "b", "c", "d"], "multiclass")
    found = compare_to_reference(reference, labelled(a=50, c=3, d=4, new=2))
    assert found.appeared == (("d", 4), ("new", 2))
    assert found.vanished == (("b", 10),)
    assert [one.name for one in found.measures[0].bins] == ["a", "b", "c", "d", OTHER]
    few = compare_to_reference(reference, labelled(a=30))
    assert few.vanished == ()  # 3 texts of b were to be expected: none is no surprise


def test_a_measure_that_is_not_known_is_named_and_not_judged() -> None:
    generator = np.random.default_rng(4)
    reference = build_reference(drawn(generator, 300), LABELS, "multiclass", 512)
    new = drawn(generator, 300)
    found = compare_to_reference(reference, Sample(new.labels, new.confidence))
    assert found.missing == ("length", "unknown_tokens", "truncated")
    assert [one.measure for one in found.measures] == ["label_share", "confidence"]


def test_the_worst_verdict_counts() -> None:
    assert worst(["ok", "too little data"]) == "too little data"
    assert worst(["ok", "too little data", "watch"]) == "watch"
    assert worst(["watch", "drifted", "ok"]) == "drifted"
    assert worst([]) == "too little data"


# ---------------------------------------------------------------------------------------------- monitor


def prediction(label: str, confidence: float = 0.9) -> Prediction:
    score = Score(label, confidence)
    return Prediction((score,), (score,), confidence, False)


def test_a_monitor_forgets_what_is_out_of_its_window() -> None:
    reference = build_reference(labelled(a=500, b=500), ["a", "b"], "multiclass")
    monitor = Monitor(reference, window=100, blocks=10)
    assert monitor.snapshot().verdict == "too little data"
    monitor.observe([prediction("a")] * 1000)
    assert monitor.snapshot().verdict == "drifted"
    assert monitor.snapshot().measures[0].new_texts == 90
    for at in range(104):
        monitor.observe([prediction("ab"[at % 2])])
    found = monitor.snapshot()
    assert monitor.seen == 1104
    assert found.verdict == "ok"
    assert found.measures[0].new_texts == 94
    assert found.measures[0].bins[0].new == 0.5


@pytest.mark.parametrize("window", [10, 11, 19, 21, 99, 100, 2999])
def test_a_monitor_counts_nine_tenths_of_its_window(window: int) -> None:
    reference = build_reference(labelled(a=50), ["a"], "multiclass")
    monitor = Monitor(reference, window=window)
    counted = []
    for _ in range(3 * window if window < 100 else 1):
        monitor.observe([prediction("a")] * (1 if window < 100 else window * 2))
        counted.append(monitor.snapshot().measures[0].new_texts)
    settled = counted[2 * window :] or counted
    assert min(settled) >= 0.9 * window
    assert max(settled) <= window + window // 10


def test_a_monitor_says_what_the_comparison_of_its_window_says() -> None:
    generator = np.random.default_rng(6)
    reference = build_reference(drawn(generator, 500), LABELS, "multiclass", 512)
    new = drawn(generator, 250)
    monitor = Monitor(reference, window=1000)
    monitor.observe_sample(new)
    assert monitor.snapshot().measures == compare_to_reference(reference, new).measures
    assert monitor.snapshot() is monitor.snapshot()  # nothing new, nothing computed


def test_a_monitor_without_lengths_judges_the_rest() -> None:
    generator = np.random.default_rng(7)
    reference = build_reference(drawn(generator, 500), LABELS, "multiclass", 512)
    monitor = Monitor(reference, window=1000)
    new = drawn(generator, 600)
    assert new.confidence is not None
    rows = zip(new.labels, new.confidence, strict=True)
    monitor.observe([prediction(row[0], confidence) for row, confidence in rows])
    assert monitor.snapshot().missing == ("length", "unknown_tokens", "truncated")
    assert monitor.snapshot().verdict == "ok"


def test_threads_share_a_monitor() -> None:
    reference = build_reference(labelled(a=50, b=50), ["a", "b"], "multiclass")
    monitor = Monitor(reference, window=10_000)

    def work(label: str) -> None:
        for at in range(200):
            monitor.observe([prediction(label)] * 2)
            if at % 50 == 0:
                monitor.snapshot()

    threads = [threading.Thread(target=work, args=(label,)) for label in "abab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert monitor.seen == 1600
    assert [one.new for one in monitor.snapshot().measures[0].bins] == [0.5, 0.5, 0.0]


def test_a_window_has_a_least_size() -> None:
    reference = build_reference(labelled(a=5), ["a"], "multiclass")
    with pytest.raises(ValueError, match="window: expected at least"):
        Monitor(reference, window=5)
    with pytest.raises(ValueError, match="blocks: expected at least 2"):
        Monitor(reference, blocks=1)
