"""Parameters of the stage ``behave``."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

from pydantic import Field, field_validator

from afina.params.base import Section

BehaviourTest = Literal[
    "upper_case",
    "lower_case",
    "no_accents",
    "greeting",
    "farewell",
    "email",
    "phone",
    "url",
    "double_spaces",
    "line_breaks",
    "typo",
    "trailing_dots",
    "html_entities",
    "label_named",
]
BEHAVIOUR_TESTS: tuple[BehaviourTest, ...] = get_args(BehaviourTest)
Language = Literal["es", "en"]


class BehaveParams(Section):
    """How the exported model is tested: on altered copies of test messages, and on cases written by hand."""

    section_name: ClassVar[str] = "behave"

    cases: str | None = Field(
        None,
        description="YAML file of cases that the model has to get right, a list of {text, expected} or "
        "{text, any_of}, with a name for those that belong together; null = none",
    )
    max_texts: int | None = Field(
        200, ge=1, description="test messages that are altered, drawn by the seed; null = all"
    )
    tests: list[BehaviourTest] = Field(
        default_factory=lambda: list(BEHAVIOUR_TESTS),
        description="what is done to the messages; [] = nothing, the cases alone",
    )
    max_changed: float = Field(
        0.1, ge=0, le=1, description="a test of which a larger share fails is marked high; it stops nothing"
    )
    language: Language = Field("es", description="language of the greetings and farewells")

    def files(self) -> dict[str, str]:
        """The cases."""
        return {} if self.cases is None else {"cases": self.cases}

    @field_validator("tests")
    @classmethod
    def _each_once(cls, tests: list[BehaviourTest]) -> list[BehaviourTest]:
        for test in tests:
            if tests.count(test) > 1:
                raise ValueError(f"{test} is there {tests.count(test)} times; name it once")
        return tests
