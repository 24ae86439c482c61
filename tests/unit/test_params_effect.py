"""Parameters that do nothing as the others stand: named, not refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from afina.params.adapt import AdaptParams
from afina.params.balance import BalanceParams
from afina.params.base import Section, load_section
from afina.params.clean import CleanParams
from afina.params.export import ExportParams
from afina.params.train import TrainParams
from afina.stage import warn
from stage_script import load_stage

ROOT = Path(__file__).parents[2]
SECTIONS: list[type[Section]] = [AdaptParams, BalanceParams, CleanParams, ExportParams, TrainParams]
LOSSES = ("focal", "class_balanced", "logit_adjusted", "ldam", "asymmetric", "distribution_balanced")


def lines(section: type[Section], **values: Any) -> list[str]:
    return section.parse(values).without_effect()


@pytest.mark.parametrize("section", SECTIONS)
def test_defaults_and_the_demo_are_not_complained_about(section: type[Section]) -> None:
    assert lines(section) == []
    assert load_section(section, ROOT / "params.yaml").without_effect() == []


@pytest.mark.parametrize("section", SECTIONS)
def test_what_depends_on_others_is_a_parameter_of_the_section(section: type[Section]) -> None:
    assert section.dependent
    names = [name for dependent in section.dependent for name in dependent.names]
    assert set(names) <= set(section.model_fields)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", [name for name in TrainParams.model_fields if name.startswith(LOSSES)])
@pytest.mark.parametrize("loss", ["cross_entropy", *LOSSES])
def test_a_parameter_of_a_loss_belongs_to_that_loss_alone(name: str, loss: str) -> None:
    owner = next(known for known in LOSSES if name.startswith(known))
    expected = [] if loss == owner else [f"train.{name} does nothing without train.loss: {owner}"]
    assert lines(TrainParams, loss=loss, **{name: 0.4}) == expected
    assert lines(TrainParams, loss=loss, **{name: TrainParams.model_fields[name].default}) == []


@pytest.mark.parametrize(
    ("section", "values", "expected"),
    [
        (CleanParams, {"unmapped": "error"}, ["unmapped"]),
        (CleanParams, {"unmapped": "error", "label_map": {}}, ["unmapped"]),
        (CleanParams, {"unmapped": "error", "label_map": {"a": "b"}}, []),
        (CleanParams, {"unmapped": "drop", "label_map": "map.csv"}, []),
        (TrainParams, {"activation": "gelu"}, ["activation"]),
        (TrainParams, {"activation": "gelu", "head": [8]}, []),
        (TrainParams, {"lexical": False, "lexical_c": 1.0}, ["lexical_c"]),
        (TrainParams, {"lexical_c": 1.0, "lexical_length": 64}, []),
        (TrainParams, {"freeze": "all", "layer_decay": 0.9}, ["layer_decay"]),
        (TrainParams, {"freeze": 2, "layer_decay": 0.9}, []),
        (TrainParams, {"lora_alpha": 8.0, "lora_targets": "attention"}, ["lora_alpha", "lora_targets"]),
        (TrainParams, {"lora_rank": 4, "lora_alpha": 8.0, "lora_dropout": 0.1}, []),
        (BalanceParams, {"strategy": "none", "max_weight": 3.0}, ["max_weight"]),
        (BalanceParams, {"beta": 0.9}, ["beta"]),
        (BalanceParams, {"weights": "effective_number", "beta": 0.9, "max_weight": 3.0}, []),
        (BalanceParams, {"target_ratio": 0.5, "max_growth": 2.0}, ["target_ratio", "max_growth"]),
        (BalanceParams, {"strategy": "undersample", "target_ratio": 0.5}, []),
        (BalanceParams, {"strategy": "undersample", "max_growth": 2.0}, ["max_growth"]),
        (BalanceParams, {"augment_rate": 0.2}, ["augment_rate"]),
        (BalanceParams, {"augment": ["typo"], "augment_target": 9, "augment_rate": 0.2}, []),
        (AdaptParams, {"mask_share": 0.2, "glossary": None}, ["mask_share"]),
        (AdaptParams, {"epochs": 1, "vocabulary": "none", "glossary": "g.csv"}, ["glossary"]),
        (AdaptParams, {"vocabulary": "none", "unlabelled": [{"path": "a.csv", "text": "t"}]}, ["unlabelled"]),
        (AdaptParams, {"unlabelled": [{"path": "a.csv", "text": "t"}]}, []),
        (ExportParams, {"int8": False, "int8_texts": 10}, ["int8_texts"]),
        (ExportParams, {"int8_max_drop": 0.1, "fp16_tolerance": 0.1}, ["fp16_tolerance"]),
    ],
)  # fmt: skip
def test_only_what_does_nothing_is_named(
    section: type[Section], values: dict[str, Any], expected: list[str]
) -> None:
    named = [line.split()[0] for line in lines(section, **values)]
    assert named == [f"{section.section_name}.{name}" for name in expected]


def test_a_warning_is_said_once_and_not_by_every_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = TrainParams.parse({"focal_gamma": 3.0}).without_effect()
    monkeypatch.delenv("RANK", raising=False)
    warn("train", said)
    expected = "train: warning: train.focal_gamma does nothing without train.loss: focal\n"
    assert capsys.readouterr().err == expected
    for rank, shown in (("0", expected), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        warn("train", said)
        assert capsys.readouterr().err == shown


@pytest.mark.parametrize(
    ("stage", "values"),
    [
        ("adapt", "epochs: 0, mask_share: 0.2"),
        ("balance", "strategy: none, max_weight: 3.0"),
        ("export", "int8: false, int8_texts: 7"),
        ("train", "focal_gamma: 3.0"),
    ],
)
def test_stages_say_it_before_they_begin(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    values: str,
) -> None:
    (tmp_path / "params.yaml").write_text(f"{stage}: {{{values}}}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):  # there is no data here
        load_stage(stage).main()
    warning, *error = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"{stage}: warning: {stage}.")
    assert "does nothing without" in warning
    assert len(error) == 1
