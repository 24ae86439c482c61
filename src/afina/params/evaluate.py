"""Parameters of the evaluate stage."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

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
    threshold_beta: float = Field(
        1.0,
        gt=0,
        le=10,
        description="fitted thresholds maximise F-beta: above 1 in favour of recall, below 1 of precision",
    )
    threshold_precision: float | None = Field(
        None,
        gt=0,
        le=1,
        description="fitted thresholds keep this precision on validation, at the highest recall there is; "
        "null = F-beta is maximised",
    )
    target_accuracy: float = Field(
        0.95,
        gt=0,
        le=1,
        description="how often an answer should be right: rows less sure than validation says that takes "
        "are for a person, and the coverage, what is left to answer, is reported",
    )
    logit_adjustment: Literal["none", "fit"] | float = Field(
        "none",
        description="none, or tau from 0 to 100: takes tau times the log of each label's share of the "
        "training data off its logit, in favour of rare labels (Menon 2021); fit = tau by macro-F1 on "
        "validation. Class weights count as data, so balance.weights balanced leaves nothing to adjust; a "
        "train.loss for imbalance, or a train.sampler other than shuffle, has corrected it already, and the "
        "stage warns. multilabel with fitted thresholds: probabilities change, decisions hardly do",
    )
    calibration: Literal["fit", "none"] = Field(
        "fit",
        description="fit: probabilities become as often right as they say, on validation: one temperature "
        "for all labels (multiclass, Guo 2017), a line for each label's logit (multilabel, Platt 1999); it "
        "is part of the exported graph and changes no multiclass decision",
    )
    bootstrap_samples: int = Field(
        2_000,
        ge=100,
        le=100_000,  # what the comparison with the baselines takes
        description="resamples behind the confidence intervals of the headline metrics",
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="level of the confidence intervals")
    untrained: bool = Field(
        True, description="also score the backbone before fine-tuning (one more pass over the texts)"
    )
    probe: bool = Field(
        False,
        description="also score a linear probe: a logistic regression on what the frozen backbone, as it is "
        "published, makes of the train split (one more pass over the texts of all splits)",
    )
    mistakes: int = Field(50, ge=0, description="most confident test mistakes written to mistakes.csv")
    token_budget: int = Field(
        2048, ge=16, description="tokens, padding included, scored at once; on a GPU more is faster"
    )

    @model_validator(mode="after")
    def _one_aim(self) -> Self:
        if self.threshold_precision is not None and self.threshold_beta != 1:
            raise ValueError("threshold_beta and threshold_precision: thresholds have one aim; leave one out")
        fitted = self.threshold_precision is not None or self.threshold_beta != 1
        if fitted and self.thresholds != "fit":
            raise ValueError(
                "threshold_beta and threshold_precision say how thresholds are fitted, and thresholds is a "
                "number; set it to fit, or leave them out"
            )
        return self

    @model_validator(mode="after")
    def _enough_resamples(self) -> Self:
        # The rarest thing that n resamples can show has the probability 1 / (n + 1), on one side.
        needed = math.ceil(round(2 / (1 - self.confidence), 6)) - 1
        if self.bootstrap_samples < needed:
            raise ValueError(
                f"bootstrap_samples: with {self.bootstrap_samples} no difference is sure at a confidence of "
                f"{self.confidence:g}; give {needed} or more, or a lower confidence"
            )
        return self

    @field_validator("thresholds", mode="before")
    @classmethod
    def _threshold(cls, value: Any) -> Any:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value != "fit" and not (number and 0 < value < 1):
            raise ValueError("expected fit or a number between 0 and 1")
        return value

    @field_validator("logit_adjustment", mode="before")
    @classmethod
    def _logit_adjustment(cls, value: Any) -> Any:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value not in ("none", "fit") and not (number and 0 <= value <= 100):
            raise ValueError("expected none, fit or a number from 0 to 100")
        return value
