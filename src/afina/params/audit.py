"""Parameters of the stage ``audit``."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from afina.params.base import Section


class AuditParams(Section):
    """How labels that are likely wrong, and labels that look like one class, are looked for."""

    section_name: ClassVar[str] = "audit"

    folds: int = Field(
        5, ge=2, le=20, description="parts of all rows, each judged by a linear model fitted on the others"
    )
    max_texts: int | None = Field(
        100_000, ge=100, description="rows that are looked at, drawn by the seed; null = all"
    )
    method: Literal["prune_by_noise_rate", "prune_by_class", "both", "confident_learning"] = Field(
        "prune_by_noise_rate", description="how confident learning picks the rows; the names are cleanlab's"
    )
    max_issues: int = Field(200, ge=0, description="rows in the list of likely label errors, worst first")
    max_pairs: int = Field(20, ge=0, description="pairs in the list of labels that look like one class")
    min_similarity: float = Field(
        0.2, ge=0, le=1, description="pairs of labels that look less alike than this are left out"
    )
