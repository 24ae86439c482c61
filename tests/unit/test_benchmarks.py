"""What `benchmarks/training.py` computes from its measurements; nothing is timed here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from afina.modeling.classifier import TextClassifier
from afina.params.train import TrainParams
from stage_script import benchmark

RATES = {"padded": 10.0, "grouped": 40.0, "grouped_bf16": 50.0, "grouped_bf16_eager": 45.0, "afina": 100.0}


@pytest.fixture(scope="module")
def training() -> Iterator[Any]:
    with benchmark("training") as module:
        yield module


@pytest.fixture
def report(training: Any) -> dict[str, Any]:
    """Speed of two texts of 2 and 4 tokens."""
    seconds = {name: [2 / rate, 1 / rate, 100.0] for name, rate in RATES.items()}
    peaks = {"fp32": [50.0, 100.0, 70.0], "bf16": [400.0, 500.0, 600.0]}
    shape = {"parameters": 1000, "encoder_parameters": 10, "layers": 2, "hidden": 4}
    speed: dict[str, Any] = training.speed_report(np.array([2, 4]), seconds, peaks, shape)
    return speed


def test_interval_is_students(training: Any) -> None:
    mean, half = training.mean_and_half_width([0.6, 0.7, 0.8])
    assert mean == pytest.approx(0.7)
    assert half == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)  # t of 2 degrees of freedom


def test_interval_of_one_value_is_unknown(training: Any) -> None:
    mean, half = training.mean_and_half_width([0.6])
    assert mean == 0.6
    assert math.isnan(half)
    assert training.rounded(half) is None


def test_best_is_never_the_default(training: Any) -> None:
    assert training.ratios(RATES) == {
        "best": "grouped_bf16",
        "vs_trainer_default": 10.0,
        "vs_trainer_best": 2.0,
    }
    assert training.ratios(RATES | {"padded": 90.0})["best"] == "grouped_bf16"


def test_flops_by_hand(training: Any) -> None:
    shape = {"encoder_parameters": 10, "layers": 2, "hidden": 4}
    # 6 of 10 weights for 6 tokens; of 2 layers 12 * 4 for each of 4 + 16 pairs of tokens.
    assert training.training_flops(np.array([2, 4]), shape) == 6 * 10 * 6 + 2 * 12 * 4 * 20


def test_flops_are_those_that_torch_counts(training: Any) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    config = BertConfig(
        vocab_size=30, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256
    )
    model = TextClassifier(BertModel(config, add_pooling_layer=False), 3)
    model.backbone.set_attn_implementation("eager")
    lengths = np.array([12, 12])
    tokens = torch.ones((2, 12), dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model(tokens, torch.ones_like(tokens)).sum().backward()
    expected = training.training_flops(lengths, training.shape_of(model))
    # Biases, norms and the head are the difference.
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)


def test_speed_takes_the_median(report: dict[str, Any]) -> None:
    ours = report["settings"]["afina"]
    assert ours["examples_per_second"] == 100.0  # 2 texts in 0.02 s
    assert ours["tokens_per_second"] == 300.0
    assert ours["rounds"] == [100.0, 200.0, 0.02]
    assert report["matmul_flops_per_second"] == {"fp32": 70, "bf16": 500}
    assert ours["share_of_peak"] == pytest.approx(report["flops_per_pass"] / 0.02 / 500)
    assert report["vs_trainer_best"] == 2.0


def test_speed_table(training: Any, report: dict[str, Any]) -> None:
    lines = training.speed_table(report).splitlines()
    assert len(lines) == 2 + len(RATES)
    assert {line.count("|") for line in lines} == {6}
    assert lines[2].startswith("| Trainer: padded to the maximum length, fp32 | 10.0 | 30 |")
    assert lines[2].endswith("| 10.00 |")
    assert lines[-1].endswith("| 1.00 |")


def test_padding_is_what_the_longest_text_of_a_batch_adds(training: Any) -> None:
    # Sorted, texts of one length fill a batch each; shuffled, each of the two batches holds a long one.
    lengths = np.array([10] * 8 + [30] * 8)
    assert training.padding_shares(lengths, 8) == {"afina": 0.0, "shuffled": pytest.approx(1 - 320 / 480)}


def test_quality_pairs_the_seeds(training: Any) -> None:
    scores = {"afina": [0.7, 0.8, 0.9], "grouped": [0.6, 0.8, 0.85]}
    quality = training.quality_report(scores, "grouped")
    assert quality["f1_delta"] == 0.05
    # The differences are 0.1, 0 and 0.05.
    assert quality["f1_delta_half_interval"] == pytest.approx(4.302653 * 0.05 / math.sqrt(3), abs=1e-4)
    lines = training.quality_table(quality).splitlines()
    assert lines[2].endswith("| 0.800 ± 0.248 | 0.700, 0.800, 0.900 |")
    assert lines[-1] == "| difference | 0.050 ± 0.124 | |"


def test_last_line(training: Any, report: dict[str, Any]) -> None:
    assert training.summary(report, {"f1_delta": -0.0014}) == (
        "training: vs_trainer_default=10.00 vs_trainer_best=2.00 f1_delta=-0.001"
    )
    assert training.summary(report, None).endswith(" f1_delta=nan")


def test_sample_is_stratified_and_fixed(training: Any) -> None:
    rows = [(f"text {number}", "rare" if number % 4 == 0 else "frequent") for number in range(100)]
    chosen, rest = training.divide(rows, 40)
    assert sorted(chosen + rest) == sorted(rows)
    assert sum(label == "rare" for _, label in chosen) == 10
    assert training.divide(rows, 40) == (chosen, rest)
    assert training.divide(rows, 100) == (rows, [])


def test_emotions_without_repeated_texts(training: Any, tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text("a; b;joy\nc;fear\na; b;anger\n\n", encoding="utf-8")
    assert training.read_emotions(path) == [("a; b", "joy"), ("c", "fear")]


def test_the_trainer_gets_batches_of_similar_length(training: Any) -> None:
    lengths = np.random.default_rng(0).permutation(64)
    part = training.Part([np.zeros(length, np.int64) for length in lengths], np.zeros(64, np.int64))
    order = training.grouped_order(part, 16, 0)
    assert sorted(order) == list(range(64))
    assert max(np.ptp(lengths[order[start : start + 16]]) for start in range(0, 64, 16)) == 15


def test_both_sides_have_the_same_rates(training: Any) -> None:
    config = BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    model = TextClassifier(BertModel(config, add_pooling_layer=False), 3)
    params = TrainParams.model_validate({"weight_decay": 0.1})
    optimizer = training.trainer_optimizer(model, params)
    groups = {
        (group["lr"], group["weight_decay"]): {id(weight) for weight in group["params"]}
        for group in optimizer.param_groups
    }
    head: Any = model.head[-1]
    assert groups[params.head_learning_rate, 0.1] == {id(head.weight)}
    assert groups[params.head_learning_rate, 0.0] == {id(head.bias)}
    assert sum(map(len, groups.values())) == len(list(model.parameters()))
    shares = training.rate_shares(64, 10, params)
    assert shares[:2].tolist() == [0.5, 1.0]
    assert shares[-1] == pytest.approx(1 / 18)
