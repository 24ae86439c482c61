"""What `benchmarks/quality.py` plans, and what it computes from its runs; nothing is trained here."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from afina.params.adapt import AdaptParams
from afina.params.clean import CleanParams
from afina.params.extract import ExtractParams
from afina.params.split import SplitParams
from afina.params.train import TrainParams
from stage_script import benchmark


@pytest.fixture(scope="module")
def quality() -> Iterator[Any]:
    with benchmark("quality") as module:
        yield module


def run(name: str, variant: str, seed: int, score: float, minutes: float = 1.0) -> dict[str, Any]:
    return {
        "set": name,
        "variant": variant,
        "seed": seed,
        "params": {"seed": seed},
        "macro_f1": score,
        "linear_macro_f1": 0.7,
        "test_rows": 1204,
        "minutes": minutes,
    }


def plans(quality: Any, name: str, seeds: int) -> list[tuple[str, int]]:
    arguments = argparse.Namespace(seeds=seeds, variants=list(quality.VARIANTS))
    return [(plan["variant"], plan["seed"]) for plan in quality.plans_of(name, arguments)]


def test_seeds_are_planned_one_after_the_other(quality: Any) -> None:
    assert plans(quality, "sib200", 2) == [
        (variant, seed) for seed in (42, 43) for variant in quality.VARIANTS
    ]


def test_new_tokens_are_not_tried_in_the_language_of_the_backbone(quality: Any) -> None:
    assert {variant for variant, _ in plans(quality, "emotions", 1)} == {
        "plain",
        "lexical",
        "pretraining",
        "together",
    }


def test_parameters_of_every_run_are_valid(quality: Any) -> None:
    for name in quality.FILES:
        for variant in quality.ALL_VARIANTS:
            changes = quality.changes_of(name, variant)
            params = quality.params_of(name, changes, 43)
            assert params["seed"] == 43
            sections = {"extract": ExtractParams, "clean": CleanParams, "split": SplitParams}
            for section, model in (sections | {"adapt": AdaptParams, "train": TrainParams}).items():
                model.model_validate(params[section])
            for key, value in changes.items():
                section, parameter = key.split(".")
                assert params[section][parameter] == value


def test_variants_do_not_change_each_other(quality: Any) -> None:
    before = yaml.safe_dump(quality.params_of("sib200", {}, 42))
    quality.params_of("sib200", quality.VARIANTS["plain"], 42)
    assert yaml.safe_dump(quality.params_of("sib200", {}, 42)) == before


def test_a_set_at_random_differs_from_the_set_in_its_split_alone(quality: Any) -> None:
    for again, name in quality.AGAIN.items():
        one, other = quality.params_of(again, {}, 42), quality.params_of(name, {}, 42)
        assert SplitParams.model_validate(one.pop("split")).near_duplicates is None
        assert SplitParams.model_validate(other.pop("split")).near_duplicates is not None
        assert one == other


def test_the_trainer_gets_the_rows_lengths_and_epochs_of_the_defaults(quality: Any) -> None:
    arguments = argparse.Namespace(seeds=1, variants=["Trainer", "together"])
    trainer, together = quality.plans_of("medical", arguments)
    assert trainer["variant"] == "Trainer"
    assert trainer["params"] == together["params"]


def test_a_run_with_other_parameters_is_made_again(quality: Any) -> None:
    runs = [run("sib200", "plain", 42, 0.7)]
    assert quality.done(runs, {"set": "sib200", "variant": "plain", "seed": 42, "params": {"seed": 42}})
    assert not quality.done(runs, {"set": "sib200", "variant": "plain", "seed": 42, "params": {"seed": 1}})
    assert not quality.done(runs, {"set": "sib200", "variant": "plain", "seed": 43, "params": {"seed": 42}})


def test_table_and_closing_line(quality: Any) -> None:
    runs = [run("sib200", "plain", seed, 0.6 + seed / 100) for seed in (1, 2, 3)]
    runs += [run("sib200", "together", seed, 0.8, minutes=seed) for seed in (1, 2, 3)]
    runs += [run("medical", "plain", 1, 0.9), run("medical", "together", 1, 0.69)]
    runs += [run("sib200", "Trainer", 1, 0.5)]
    lines = quality.table(runs).splitlines()
    assert "medical" in lines[2]  # in the order of the sets
    cells = [cell.strip() for cell in lines[3].split("|")[1:-1]]
    assert cells[:5] == ["sib200", "1,204", "0.700", "0.500", "0.620 ± 0.025"]
    assert cells[-2:] == ["0.800 ± 0.000", "3"]
    assert cells[5:-2] == ["–"] * 4
    assert quality.closing(runs) == (
        "quality: sets=2 above_linear=1 above_trainer=1/1 above_plain=1/2 minutes_max=3 (limit 20)"
    )


def test_a_trial_differs_from_the_defaults_in_what_its_name_says(quality: Any) -> None:
    for name in quality.FILES:
        default = TrainParams.parse(quality.params_of(name, {}, 42)["train"]).model_dump()
        changed = {
            trial: TrainParams.parse(
                quality.params_of(name, quality.changes_of(name, trial), 42)["train"]
            ).model_dump()
            for trial in quality.TRIALS
        }
        differing = {
            trial: {key for key, value in params.items() if value != default[key]}
            for trial, params in changed.items()
        }
        assert all(differing.values())
        assert {trial for trial, keys in differing.items() if len(keys) > 1} == {"5e-4 no dropout"}
        for trial in ("1e-4", "5e-4"):
            assert changed[trial]["learning_rate"] == float(trial)
        assert changed["longer"]["max_length"] == 2 * default["max_length"]
    assert not set(quality.TRIALS) & set(quality.VARIANTS)


def test_trials_are_compared_by_validation_over_their_own_seeds(quality: Any) -> None:
    scores = (("together", 42, 0.7), ("together", 43, 0.1), ("5e-4", 42, 0.8), ("cls", 44, 0.9))
    runs = [
        run("sib200", variant, seed, 0.5) | {"validation_macro_f1": score} for variant, seed, score in scores
    ]
    assert quality.trials_table(runs).splitlines()[2:] == ["| sib200 | 5e-4 | 1 | 0.700 | 0.800 |"]
