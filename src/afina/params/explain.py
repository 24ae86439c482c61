"""Parameters of the stage ``explain``."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from afina.params.base import Section

Choice = Literal["both", "mistakes", "random"]


class ExplainParams(Section):
    """Which test messages are explained word by word, and how exactly."""

    section_name: ClassVar[str] = "explain"

    samples: int = Field(0, ge=0, le=1000, description="test messages that are explained; 0 = none")
    choose: Choice = Field(
        "both",
        description="mistakes: those the model was surest about; random: drawn by the seed; both: half of "
        "each, the second half drawn from what the first left",
    )
    steps: int = Field(
        32, ge=2, le=1000, description="points at which gradients are taken; the more, the smaller the error"
    )
