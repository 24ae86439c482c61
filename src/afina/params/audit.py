"""Parameters of the stage ``audit``."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from afina.params.base import Section


class AuditParams(Section):
    """How labels that are likely wrong, and labels that look like one class, are looked for."""

    section_name: ClassVar[str] = "audit"

    folds: int = Field(
        5, ge=2, le=20, description="parts of all rows, each judged by a linear model fitted on the others"
    )
    fine_tuned_folds: int = Field(
        0,
        ge=0,
        le=10,
        description="0: the fine-tuned model judges validation and test alone, as it learnt from train; 2 to "
        "10: in so many folds the backbone is fine-tuned on the other folds, with the section train, and "
        "judges the rows held out, so all rows in the end; takes about so many times as long as the stage "
        "train. The class weights of balance act, its resampling does not",
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

    @field_validator("fine_tuned_folds")
    @classmethod
    def _has_something_to_hold_out(cls, folds: int) -> int:
        if folds == 1:
            raise ValueError("one fold leaves nothing to fine-tune on; expected 0 (off) or 2 to 10")
        return folds
