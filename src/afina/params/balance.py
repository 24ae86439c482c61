"""Parameters of the stage ``balance``."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from afina.params.base import Section


class BalanceParams(Section):
    """What is done about the imbalance of the training data; validation and test stay as they are."""

    section_name: ClassVar[str] = "balance"

    strategy: Literal["none", "oversample", "undersample", "class_weights"] = Field(
        "class_weights",
        description="nothing, repeat examples of rare labels, leave out examples of frequent ones, or weight "
        "the loss",
    )
    weights: Literal["balanced", "inverse_sqrt", "effective_number"] = Field(
        "balanced",
        description="class_weights: 1/n, 1/sqrt(n), or the effective number of examples (Cui 2019)",
    )
    beta: float = Field(
        0.999, gt=0, lt=1, description="effective_number: closer to 1 weights rare labels more"
    )
    max_weight: float | None = Field(
        None, ge=1, description="class_weights: no weight is higher; null = no cap"
    )
    target_ratio: float = Field(
        1.0,
        gt=0,
        le=1,
        description="resampling: rarest label / most frequent one to reach; 1 = all equal",
    )
    max_growth: float = Field(
        3.0, gt=1, description="multilabel oversampling stops once the training data are so many times larger"
    )
