"""A parameter names the stages that read it, and no others rerun."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from pydantic import ValidationError
from workspace import STAGES, Project, section_models, write_params

# The stages that read each section. A parameter that further stages read stands below with its own name.
SECTION_READERS = {section: {section} for section in STAGES} | {
    "split": {"split", "audit"},
    "baseline": {"baseline", "audit"},
    "train": {"train", "audit"},
}
PARAMETER_READERS: dict[str, set[str]] = {
    "seed": {"split", "balance", "adapt", "baseline", "train", "evaluate", "audit", "behave", "explain"},
    "balance.strategy": {"balance", "export", "report"},
    "report.language": {"export", "report"},
    "report.text_language": {"export", "report"},
    "report.title": {"export", "report"},
    "train.backbone": {"train", "analyze", "adapt", "evaluate", "audit"},
    "train.revision": {"train", "analyze", "adapt", "evaluate", "audit"},
    "train.max_length": {"train", "analyze", "adapt", "audit"},
    "train.precision": {"train", "adapt", "audit"},
}
# Another valid value for the parameters whose type does not say one.
OTHER_VALUES: dict[str, Any] = {
    "extract.sources": [{"path": "data/source/mensajes.csv", "text": "texto", "label": "tema"}],
    "clean.other": "otros",
    "audit.fine_tuned_folds": 2,  # 0 or at least 2
    "report.text_language": "gl",
    "adapt.unlabelled": [{"path": "data/source/mensajes.csv", "text": "texto"}],
}
# Parameters that are valid only with another one of their section: what that one is then.
TOGETHER: dict[str, dict[str, Any]] = {
    "balance.augment": {"augment_target": 50},
    "balance.augment_target": {"augment": ["typo"]},
}


def readers(name: str) -> set[str]:
    return PARAMETER_READERS.get(name) or SECTION_READERS[name.split(".")[0]]


def candidates(annotation: Any, value: Any) -> Iterator[Any]:
    """Values of the annotation's type that differ from ``value``; not all of them may be valid."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value - 1, value / 2, value * 2, value + 0.25, value - 0.25)
    for part in get_args(annotation):
        if get_origin(annotation) is Literal:
            yield part
        elif part is type(None):
            yield None
        else:
            yield from candidates(part, value)
    if annotation is bool:
        yield True
    elif annotation is int:
        yield from (1, 2, 5)
    elif annotation is float:
        yield from (0.5, 0.25, 1.5)
    elif annotation is str:
        yield from (f"{value}x", "x")
    elif get_origin(annotation) in (list, tuple):
        item = get_args(annotation)[0]
        yield from ([other] for other in (*candidates(item, None), "x", 1))
        yield []
    elif get_origin(annotation) is dict:
        yield from ({"x": other} for other in ("y", 1, 0.5, ["y"]))
        yield {}


def another_value(model: Any, values: dict[str, Any], field: str) -> Any:
    """A value for ``field`` that the section accepts and that is not the present one."""
    name = f"{model.section_name}.{field}"
    options = (
        [OTHER_VALUES[name]]
        if name in OTHER_VALUES
        else candidates(model.model_fields[field].annotation, values[field])
    )
    for option in options:
        if option == values[field] and type(option) is type(values[field]):
            continue
        try:
            model.model_validate(values | {field: option})
        except ValidationError:
            continue
        return option
    raise AssertionError(f"{name}: no other valid value known; add one to OTHER_VALUES")


def stages_of(status: dict[str, Any]) -> set[str]:
    """The stages that `dvc status` calls changed, all of them for params.yaml alone."""
    for stage, changes in status.items():
        assert [*changes[0]] == ["changed deps"], f"{stage}: {changes}"
        assert [*changes[0]["changed deps"]] == ["params.yaml"], f"{stage}: {changes}"
    return set(status)


MODELS = section_models()
NAMES = ["seed", *(f"{section}.{field}" for section, model in MODELS.items() for field in model.model_fields)]


@pytest.fixture(scope="module")
def finished(template: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return template.copy_to(tmp_path_factory.mktemp("reruns"))


@pytest.fixture(scope="module")
def status(finished: Project) -> Iterator[Callable[[], dict[str, Any]]]:
    """`dvc status` by DVC's own API: a process for each parameter would take minutes.

    DVC parses params.yaml again for each stage, slowly; here the same text is parsed once.
    """
    from dvc.repo import Repo
    from ruamel.yaml import YAML

    @functools.cache
    def parse(text: str, kind: str) -> Any:
        return original(YAML(typ=kind), text)

    def load(parser: YAML, text: str) -> Any:
        return deepcopy(parse(text, parser.typ[0]))

    original = YAML.load
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HOME", "DVC_SITE_CACHE_DIR", "DVC_SYSTEM_CONFIG_DIR", "DVC_GLOBAL_CONFIG_DIR"):
            patch.setenv(name, finished.environment[name])
        patch.chdir(finished.root)
        patch.setattr(YAML, "load", load)

        def run() -> dict[str, Any]:
            with Repo(str(finished.root)) as repo:
                return repo.status()

        yield run


def test_every_section_is_a_stage() -> None:
    assert set(MODELS) == set(STAGES)


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_parameter_names_the_stages_that_read_it(
    name: str, finished: Project, status: Callable[[], dict[str, Any]]
) -> None:
    before = finished.params
    after = deepcopy(before)
    section, _, field = name.partition(".")
    if field:
        after[section] |= TOGETHER.get(name, {})
        after[section][field] = another_value(MODELS[section], after[section], field)
    else:
        after[name] = before[name] + 1
    write_params(finished.root, after)
    try:
        assert stages_of(status()) == readers(name)
    finally:
        write_params(finished.root, before)


def test_the_params_of_dvc_yaml_are_the_ones_listed_here(repository: Path) -> None:
    stages = yaml.safe_load((repository / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    expected: dict[str, set[str]] = {stage: set() for stage in STAGES}
    for name, stage_names in SECTION_READERS.items():
        for stage in stage_names:
            expected[stage].add(name)
    for name, stage_names in PARAMETER_READERS.items():
        for stage in stage_names - SECTION_READERS.get(name.split(".")[0], set()):
            expected[stage].add(name)
    assert {stage: set(stages[stage]["params"]) for stage in stages} == expected


def test_a_finished_run_is_up_to_date(finished: Project) -> None:
    assert "Data and pipelines are up to date." in finished.dvc("status").out
    again = finished.dvc("repro")
    assert again.ran == []
    assert "Data and pipelines are up to date." in again.out


def test_only_what_depends_on_the_change_runs_again(
    template: Project, oversampled: tuple[Project, list[str]]
) -> None:
    """`dvc status` names where the change is read; what then runs is that and what is downstream of it."""
    project, ran = oversampled
    assert ran == ["balance", "train", "evaluate", "export", "audit", "behave", "explain", "report"]
    unchanged = {stage for stage in STAGES if template.lock[stage] == project.lock[stage]}
    assert unchanged == {"extract", "clean", "analyze", "split", "adapt", "baseline"}


def test_without_the_int8_copy_there_is_one_model_file(template: Project, tmp_path: Path) -> None:
    project = template.copy_to(tmp_path)
    assert sorted(path.name for path in (project.root / "models/onnx").iterdir()) == [
        "README.md",
        "model.int8.onnx",
        "model.onnx",
    ]
    project.set(export__int8=False)
    assert project.dvc("repro").ran == ["export", "report"]
    assert [path.name for path in (project.root / "models/onnx").glob("*.onnx")] == ["model.onnx"]
