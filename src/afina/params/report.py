"""Parameters of the stage ``report``."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from afina.params.base import Section


class ReportParams(Section):
    """How the results are told to people."""

    section_name: ClassVar[str] = "report"

    language: Literal["es", "en"] = Field(
        "es", description="of the page and of the model card: Spanish or English"
    )
    title: str | None = Field(
        None, min_length=1, max_length=120, description="name of the model on both; null = a general one"
    )
    text_language: str | None = Field(
        None,
        pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]+)*$",
        description="language of the messages as in ISO 639, for the model card; null = that of the report",
    )
    examples: int = Field(20, ge=0, description="messages shown in each list, texts of people included")
    text_length: int = Field(280, ge=20, description="characters of a message that are shown")
