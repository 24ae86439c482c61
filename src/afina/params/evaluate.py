"""Parameters of the evaluate stage."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from afina.params.base import Section


class EvaluateParams(Section):
    """How probabilities become decisions, and what is reported about them."""

    section_name: ClassVar[str] = "evaluate"

    thresholds: Literal["fit"] | float = Field(
        "fit",
        description="multilabel: fit (best F1 of each label on validation) or one number for all labels; "
        "multiclass takes the most probable label and ignores this",
    )
    threshold_min_positives: int = Field(
        5, ge=1, description="a label with fewer positives in validation keeps the threshold 0.5"
    )
    bootstrap_samples: int = Field(
        2_000, ge=100, description="resamples behind the confidence intervals of the headline metrics"
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="level of the confidence intervals")
    untrained: bool = Field(
        True, description="also score the backbone before fine-tuning (one more pass over the texts)"
    )
    mistakes: int = Field(50, ge=0, description="most confident test mistakes written to mistakes.csv")
    token_budget: int = Field(
        2048, ge=16, description="tokens, padding included, scored at once; on a GPU more is faster"
    )

    @field_validator("thresholds", mode="before")
    @classmethod
    def _threshold(cls, value: Any) -> Any:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value != "fit" and not (number and 0 < value < 1):
            raise ValueError("expected fit or a number between 0 and 1")
        return value
