"""What `benchmarks/imbalance.py` computes before and after its runs; nothing is trained here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from afina.evaluation.metrics import count
from afina.labels import LabelSet
from afina.params.balance import BalanceParams
from afina.params.base import SECTIONS, load_section
from afina.params.evaluate import EvaluateParams
from afina.params.extract import ExtractParams
from afina.params.train import TrainParams
from afina.table import SCHEMA
from stage_script import benchmark


@pytest.fixture(scope="module")
def imbalance() -> Iterator[Any]:
    with benchmark("imbalance") as module:
        yield module


def hot(*rows: str) -> np.ndarray:
    """Multi-hot rows written as digits."""
    return np.array([[int(digit) for digit in row] for row in rows], dtype=np.int8)


# The grid


def names(imbalance: Any, task: str, full: bool = False, more: bool = False) -> list[str]:
    """The default variants of a task."""
    grid = imbalance.variants(task, imbalance.STRATEGIES, imbalance.ALL_LOSSES, full, more)
    return [variant.name for variant in grid]


def test_default_grid_crosses_two_losses_and_takes_the_others_with_strategy_none(imbalance: Any) -> None:
    found = names(imbalance, "multiclass")
    assert found[0] == "none-cross_entropy"
    assert set(found) == {
        *(f"{strategy}-cross_entropy" for strategy in imbalance.STRATEGIES),
        *("none-logit_adjusted", "class_weights-logit_adjusted"),
        *("none-focal", "none-class_balanced", "none-ldam"),
        *("class_weights-ldam-late", "none-cross_entropy-post_hoc"),
    }
    assert len(set(found)) == len(found)


def test_multilabel_has_its_own_losses(imbalance: Any) -> None:
    found = names(imbalance, "multilabel")
    assert {"none-asymmetric", "none-distribution_balanced"} <= set(found)
    assert not any("ldam" in name for name in found)


def test_full_grid_is_the_product_but_for_what_is_the_same_and_two_more(imbalance: Any) -> None:
    assert (
        len(names(imbalance, "multiclass", full=True)) == 4 * 5 - 2 + 2
    )  # logit_adjusted on equal shares is cross_entropy


def test_default_grid_of_all_sets_is_at_most_200_runs(imbalance: Any) -> None:
    tasks = ["multiclass", "multiclass", "multiclass", "multilabel"]
    assert 3 * sum(len(names(imbalance, task)) for task in tasks) <= 200


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_more_adds_samplers_augmentation_and_ways_to_train_to_the_grid(imbalance: Any, task: str) -> None:
    grid, found = names(imbalance, task), names(imbalance, task, more=True)
    assert found[: len(grid)] == grid
    added = found[len(grid) :]
    assert len(set(found)) == len(found)
    assert {"none-cross_entropy-progressive_sampler", "oversample-cross_entropy-augmented"} <= set(added)
    assert names(imbalance, task) == grid
    without = imbalance.variants(task, ["none"], ["focal"], False, True)
    assert [variant.name for variant in without] == ["none-cross_entropy", "none-focal"]


def test_plain_model_is_there_even_where_it_is_not_asked_for(imbalance: Any) -> None:
    grid = imbalance.variants("multiclass", ["class_weights"], ["logit_adjusted"], False)
    assert [variant.name for variant in grid] == ["none-cross_entropy", "class_weights-logit_adjusted"]


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_variants_change_parameters_that_params_yaml_has_and_the_stages_take(
    imbalance: Any, task: str
) -> None:
    arguments = imbalance.parse([])
    sections = {"balance": BalanceParams, "train": TrainParams, "evaluate": EvaluateParams}
    for variant in imbalance.variants(task, imbalance.STRATEGIES, imbalance.ALL_LOSSES, True, True):
        params = imbalance.run_params(task, arguments, 1)
        for name, value in variant.changes.items():
            section, key = name.split(".")
            assert key in params[section], "DVC sets no parameter that is absent"
            params[section][key] = yaml.safe_load(value)
        for name, section_class in sections.items():
            section_class.parse(params[name])


def test_params_of_a_clone_are_valid(imbalance: Any, tmp_path: Path) -> None:
    params = imbalance.run_params("multilabel", imbalance.parse(["--max-length", "32"]), 7)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(params))
    assert set(params) <= {"seed", *SECTIONS}
    assert load_section(TrainParams, path).max_length == 32  # checks the other sections too
    assert load_section(ExtractParams, path).sources[0].split == "split"
    assert params["seed"] == 7


# Samples


def test_long_tail_is_exponential_over_the_classes_by_size(imbalance: Any) -> None:
    # 100, 100 / 10, 100 / 100 over the classes from the largest
    assert imbalance.long_tailed([90, 200, 100], 111, 100.0).tolist() == [1, 100, 10]


def test_long_tail_takes_no_more_than_there_is(imbalance: Any) -> None:
    assert imbalance.long_tailed([40, 30, 20], 1e6, 4.0).tolist() == [40, 20, 10]
    assert imbalance.long_tailed([40, 11, 10], 1e6, 4.0).tolist() == [40, 11, 10]


def test_long_tail_leaves_empty_classes_out(imbalance: Any) -> None:
    assert imbalance.long_tailed([0, 100, 100], 1e6, 50.0).tolist() == [0, 100, 2]
    assert imbalance.long_tailed([0, 0], 10, 50.0).tolist() == [0, 0]


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(60, 5000), min_size=2, max_size=20),
    budget=st.integers(500, 5000),
)
def test_long_tail_reaches_its_ratio_within_the_budget(
    imbalance: Any, counts: list[int], budget: int
) -> None:
    targets = imbalance.long_tailed(counts, budget, 50.0)
    assert (targets <= counts).all()
    assert (targets >= 1).all()
    assert targets.sum() <= budget + len(counts)  # rounding
    order = np.argsort(-np.array(counts), kind="stable")
    if imbalance.imbalance_ratio(counts) < 50:
        largest, smallest = targets[order[0]], targets[order[-1]]
        assert abs(largest / 50 - smallest) <= 1


def test_proportional_keeps_shares_and_every_class(imbalance: Any) -> None:
    assert imbalance.proportional([100, 50, 1, 0], 75.5).tolist() == [50, 25, 1, 0]
    assert imbalance.proportional([3, 2], 100).tolist() == [3, 2]


def test_thinning_of_one_label_a_row_is_exact(imbalance: Any) -> None:
    rows = np.eye(3, dtype=np.int8)[np.repeat([0, 1, 2], [9, 7, 5])]
    kept = imbalance.thin(rows, np.array([4, 2, 5]), np.random.default_rng(0))
    assert rows[kept].sum(axis=0).tolist() == [4, 2, 5]
    assert kept.tolist() == sorted(set(kept.tolist()))


def test_thinning_of_several_labels_exceeds_no_target(imbalance: Any) -> None:
    generator = np.random.default_rng(1)
    rows = (generator.random((200, 3)) < [0.7, 0.4, 0.2]).astype(np.int8)
    kept = imbalance.thin(rows, np.array([60, 20, 3]), generator)
    assert (rows[kept].sum(axis=0) <= [60, 20, 3]).all()
    assert rows[kept].sum(axis=0)[0] > 50
    assert rows[np.setdiff1d(np.arange(200), kept)].sum(axis=1).min() > 0  # those without labels stay


def test_imbalance_ratio_is_of_the_classes_present(imbalance: Any) -> None:
    assert imbalance.imbalance_ratio([30, 0, 6]) == 5.0
    assert imbalance.imbalance_ratio([0]) == 1.0


def test_sample_thins_training_alone_and_is_the_same_for_the_same_seed(imbalance: Any) -> None:
    sizes = {"a": 1200, "b": 800, "c": 400}
    labels = [label for label, size in sizes.items() for _ in range(size)]
    pool = pa.table(
        {
            "id": [f"{number:05}" for number in range(len(labels))],
            "source": ["made"] * len(labels),
            "text": [f"w{number} x{number} y{number} z{number}" for number in range(len(labels))],
            "labels": [[label] for label in labels],
            **{name: pa.nulls(len(labels)) for name in ("group", "time", "split", "slices")},
        }
    ).cast(SCHEMA)
    label_set = LabelSet("multiclass", tuple(sizes))
    sample = imbalance.draw_sample(pool, label_set, 1200, 50.0, 3)
    counts = {
        split: [
            sum(row["labels"] == [label] for row in sample.rows if row["split"] == split) for label in sizes
        ]
        for split in ("train", "validation", "test")
    }
    assert sum(counts["test"]) == pytest.approx(360, abs=3)
    assert sum(counts["validation"]) == pytest.approx(180, abs=3)
    np.testing.assert_allclose(np.array(counts["test"]) / 360, [1 / 2, 1 / 3, 1 / 6], atol=0.01)
    # 660 rows over 1 + 50^(-1/2) + 1/50
    assert counts["train"] == [round(660 / 1.161421), round(660 / 1.161421 / 50**0.5), 11]
    assert sample.natural == pytest.approx(3.0, abs=0.1)
    assert len({row["id"] for row in sample.rows}) == len(sample.rows)
    assert imbalance.draw_sample(pool, label_set, 1200, 50.0, 3) == sample
    assert imbalance.draw_sample(pool, label_set, 1200, 50.0, 4) != sample


# Results


def test_rows_are_packed_and_unpacked(imbalance: Any) -> None:
    rows = hot("100", "011", "000", "001")
    assert imbalance.pack(rows) == "0,1+2,,2"
    assert (imbalance.unpack("0,1+2,,2", 3) == rows).all()


def test_results_are_kept_by_set_seed_settings_and_variant(imbalance: Any, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    key = {"set": "demo", "seed": 1, "settings": {"rows": 9, "digest": "x"}}
    results = imbalance.Results(path)
    results.add({**key, "variant": "a", "macro_f1": 0.1}, {**key, "truth": "0"}, 0.25)
    results.add({**key, "variant": "a", "macro_f1": 0.2}, {**key, "truth": "0"}, 0.25)
    other = key | {"settings": {"rows": 9, "digest": "y"}}
    results.add({**other, "variant": "a", "macro_f1": 0.3}, {**other, "truth": "1"}, 0.5)

    again = imbalance.Results(path)
    assert again.hours == 1.0
    assert {name: run["macro_f1"] for name, run in again.of(key).items()} == {"a": 0.2}
    assert again.of(other)["a"]["macro_f1"] == 0.3
    assert again.of(key | {"seed": 2}) == {}
    assert [sample["truth"] for sample in again.samples] == ["0", "1"]


def test_queue_status_is_read(imbalance: Any) -> None:
    text = (
        "Task     Name                         Created    Status\n"
        "6d5bc0a  none-focal                   04:20 PM   Running\n"
        "3c1ab11  none-cross_entropy-post_hoc  Nov 22, 2025  Failed\n"
        "0a1b2c3  none-ldam                    04:21 PM   Success\n"
        "\n"
        "Worker status: 1 active, 2 idle\n"
    )
    assert imbalance.parse_status(text) == (
        {"none-focal": "Running", "none-cross_entropy-post_hoc": "Failed", "none-ldam": "Success"},
        3,
    )


def test_last_error_is_what_the_stage_said(imbalance: Any) -> None:
    text = (
        "Running stage 'train':\n> python pipeline/train.py\ntrain: error: train.loss: ldam is not for this\n"
        "ERROR: failed to reproduce 'train': failed to run: python pipeline/train.py, exited with 1\n\n"
    )
    assert imbalance.last_error(text) == "train: error: train.loss: ldam is not for this"
    assert imbalance.last_error("one\ntwo\n") == "two"
    assert imbalance.last_error("") == "no message"


# Statistics


def test_rare_classes_are_the_third_with_the_fewest_rows(imbalance: Any) -> None:
    assert imbalance.rare_classes([50, 3, 20, 7]) == [1, 3]
    assert imbalance.rare_classes([5, 5, 5]) == [0]
    assert imbalance.rare_classes([1]) == [0]


def test_scores_by_hand(imbalance: Any) -> None:
    truth, guess = hot("100", "100", "010", "001"), hot("100", "010", "010", "100")
    once = np.ones((1, 4), dtype=np.float32)
    scores = imbalance.f1_scores(truth, guess, once, [1, 2])
    # F1: class 0: 2 * 1 / (2 + 2); class 1: 2 * 1 / (1 + 2); class 2: 0
    assert scores[:, 0] == pytest.approx([(1 / 2 + 2 / 3) / 3, 1 / 3])


def test_scores_of_a_resample_are_those_of_its_rows(imbalance: Any) -> None:
    generator = np.random.default_rng(2)
    truth, guess = ((generator.random((40, 4)) < 0.3).astype(np.int8) for _ in range(2))
    weights = imbalance.draw_weights(truth, 5, 0)
    scores = imbalance.f1_scores(truth, guess, weights, [0, 3])
    for number, line in enumerate(weights.astype(int)):
        rows = np.repeat(np.arange(40), line)
        f1 = count(truth[rows], guess[rows], 4).f1
        assert scores[:, number] == pytest.approx([f1.mean(), f1[[0, 3]].mean()], rel=1e-6)


def test_resamples_keep_the_size_of_every_class(imbalance: Any) -> None:
    truth = np.eye(3, dtype=np.int8)[np.repeat([0, 1, 2], [20, 5, 1])]
    weights = imbalance.draw_weights(truth, 50, 4)
    assert (weights @ truth == [20, 5, 1]).all()
    assert weights[:, :20].std() > 0.5
    np.testing.assert_array_equal(weights, imbalance.draw_weights(truth, 50, 4))


def test_strata_are_the_rarest_label_of_a_row(imbalance: Any) -> None:
    truth = hot("110", "100", "100", "010", "100", "000", "000")  # class 1 is rarer than class 0
    weights = imbalance.draw_weights(truth, 30, 0)
    assert (weights[:, [0, 3]].sum(axis=1) == 2).all()
    assert (weights[:, [1, 2, 4]].sum(axis=1) == 3).all()
    assert (weights[:, [5, 6]].sum(axis=1) == 2).all()


def test_differences_are_paired_and_seeds_averaged(imbalance: Any) -> None:
    generator = np.random.default_rng(5)
    truth = np.eye(2, dtype=np.int8)[generator.integers(0, 2, 60)]
    half_wrong = truth.copy()
    half_wrong[::2] = 1 - half_wrong[::2]
    plain, other = imbalance.PLAIN.name, "none-focal"
    same = {1: half_wrong, 2: half_wrong}
    rows = imbalance.compare(
        {1: truth, 2: truth},
        {1: [0], 2: [0]},
        {plain: same, other: {1: half_wrong, 2: truth}, "none-ldam": same, "none-class_balanced": {}},
        resamples=200,
    )
    assert [row.variant for row in rows] == [plain, other, "none-ldam"]
    base = count(truth, half_wrong, 2).f1
    assert rows[0].macro_f1.value == pytest.approx(base.mean())
    assert rows[1].macro_difference.value == pytest.approx((1 - base.mean()) / 2)
    assert rows[1].rare_difference.value == pytest.approx((1 - base[0]) / 2)
    assert rows[1].macro_difference.differs
    # The same predictions differ by nothing in any resample: the rows drawn are the same.
    assert rows[2].macro_difference == imbalance.Estimate(0.0, 0.0, 0.0)
    assert not rows[2].macro_difference.differs
    assert rows[2].macro_f1.low < rows[2].macro_f1.value < rows[2].macro_f1.high


def test_only_seeds_that_both_have_are_compared(imbalance: Any) -> None:
    truth = hot("10", "10", "01", "01")
    wrong = 1 - truth
    rows = imbalance.compare(
        {1: truth, 2: truth},
        {1: [0], 2: [0]},
        {imbalance.PLAIN.name: {1: truth, 2: wrong}, "none-focal": {2: truth}},
        resamples=100,
    )
    assert rows[0].macro_f1.value == 0.5
    assert (rows[1].seeds, rows[1].macro_difference.value) == (1, 1.0)


def test_estimate_is_the_percentile_interval(imbalance: Any) -> None:
    found = imbalance.estimate(np.concatenate([[7.0], np.arange(1001.0)]))
    assert (found.value, found.low, found.high) == (7.0, 25.0, 975.0)


# The report


def made(imbalance: Any, **differences: float) -> list[Any]:
    """Comparisons with given differences in macro-F1."""
    none = imbalance.Estimate(0.0, 0.0, 0.0)
    score = imbalance.Estimate(0.5, 0.4, 0.6)
    rows = [imbalance.Comparison(imbalance.PLAIN.name, 2, score, score, none, none)]
    for loss, value in differences.items():
        difference = imbalance.Estimate(value, value - 0.01, value + 0.01)
        rows.append(imbalance.Comparison(f"none-{loss}", 2, score, score, difference, none))
    return rows


def test_best_is_by_the_mean_of_sets_among_what_all_of_them_have(imbalance: Any) -> None:
    compared = {
        "one": made(imbalance, focal=0.02, logit_adjusted=0.04, ldam=0.9),
        "two": made(imbalance, focal=0.03, logit_adjusted=-0.01),
    }
    means = imbalance.mean_differences(compared)
    assert list(means) == ["none-focal", "none-logit_adjusted"]
    assert means["none-focal"][0] == pytest.approx(0.025)
    assert imbalance.summary(7, 0.5, compared) == (
        "imbalance: runs=7 hours=0.50 best=none-focal "
        "(macro_f1 +0.025 over plain cross-entropy, mean of sets)"
    )


def test_summary_without_results(imbalance: Any) -> None:
    assert "runs=0 hours=0.00 best=none-cross_entropy (macro_f1 +0.000" in imbalance.summary(0, 0.0, {})


def test_table_marks_differences_that_exclude_zero(imbalance: Any) -> None:
    lines = imbalance.set_table(made(imbalance, focal=0.02, class_balanced=0.005)).splitlines()
    assert lines[2].startswith("| none + cross entropy | 2 | 0.500 [0.400, 0.600] |  |")
    assert "+0.020* [+0.010, +0.030]" in lines[3]
    assert "none + class balanced" in lines[4]
    assert "+0.005 [-0.005, +0.015]" in lines[4]


def test_titles_say_strategy_loss_and_more(imbalance: Any) -> None:
    assert imbalance.title("class_weights-ldam-late") == "class weights + ldam (late)"
    assert imbalance.title("none-cross_entropy-post_hoc") == "none + cross entropy (post hoc)"


def test_report_and_picture_are_made_of_the_kept_results(imbalance: Any, tmp_path: Path) -> None:
    results = imbalance.Results(tmp_path / "results.json")
    key = {"set": "demo", "seed": 1, "settings": {"rows": 4, "digest": "x"}}
    sample = {
        **key,
        "task": "multiclass",
        "labels": ["a", "b"],
        "train_counts": [50, 1],
        "rows": {"train": 51, "validation": 2, "test": 4},
        "imbalance_natural": 2.0,
        "imbalance": 50.0,
        "tfidf_macro_f1": 0.4,
        "truth": "0,0,1,1",
    }
    for variant, predicted in ((imbalance.PLAIN.name, "0,0,0,0"), ("none-focal", "0,0,1,1")):
        run = {**key, "variant": variant, "predicted": predicted, "commit": "abc"}
        results.add(run, sample, 0.1)
    groups = {"demo": [(key, [imbalance.PLAIN.name, "none-focal", "none-ldam"])]}
    compared, samples, runs = imbalance.collect(results, groups)
    assert len(runs) == 2
    assert [row.variant for row in compared["demo"]] == [imbalance.PLAIN.name, "none-focal"]
    assert compared["demo"][1].rare_difference.value == 1.0  # class b: from 0 to 1
    text = imbalance.report(compared, samples, {"rows": 4}, ["abc"])
    assert "50:1 (thinned from 2.0:1)" in text
    assert "rows: 51 train, 2 validation, 4 test" in text
    imbalance.draw(compared, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
