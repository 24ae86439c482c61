"""Parameters of the stage ``analyze``."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from afina.params.base import Section


class AnalyzeParams(Section):
    """How closely the cleaned data are looked at."""

    section_name: ClassVar[str] = "analyze"

    max_rows: int | None = Field(
        20_000, ge=1, description="texts that are cut into tokens, evenly spaced over the data; null = all"
    )
