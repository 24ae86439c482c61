"""Parameters of the stage ``balance``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from afina.params.base import OnlyWith, Section

Operation = Literal["delete", "swap", "typo", "accent"]


class BalanceParams(Section):
    """What is done about the imbalance of the training data; validation and test stay as they are."""

    model_config = ConfigDict(allow_inf_nan=False)

    section_name: ClassVar[str] = "balance"
    dependent: ClassVar[tuple[OnlyWith, ...]] = (
        OnlyWith(
            ("weights", "max_weight"),
            "balance.strategy: class_weights",
            lambda params: params.strategy == "class_weights",
        ),
        OnlyWith(
            ("beta",),
            "balance.strategy: class_weights and balance.weights: effective_number",
            lambda params: (params.strategy, params.weights) == ("class_weights", "effective_number"),
        ),
        OnlyWith(
            ("target_ratio",),
            "balance.strategy: oversample or undersample",
            lambda params: params.strategy in ("oversample", "undersample"),
        ),
        OnlyWith(
            ("max_growth",), "balance.strategy: oversample", lambda params: params.strategy == "oversample"
        ),
        OnlyWith(
            ("augment_rate",), "ways to alter a text in balance.augment", lambda params: bool(params.augment)
        ),
    )

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
    label_weights: dict[str, Annotated[float, Field(gt=0)]] | None = Field(
        None,
        description="label: factor on the loss of its examples (multilabel: of its positives), on top of "
        "what the strategy gives; max_weight does not cap it",
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
    augment: list[Operation] = Field(
        default_factory=list,
        description="altered copies of texts: words left out, swapped, mistyped, or with accents left out or "
        "wrong; [] = none. With oversample its copies are altered, else augment_target says how many rows to "
        "reach",
    )
    augment_rate: float = Field(0.1, gt=0, le=1, description="augment: share of a copy's words to alter")
    augment_target: int | None = Field(
        None,
        ge=2,
        description="augment, without oversample: labels with fewer training rows get copies up to so many",
    )

    @field_validator("label_weights", mode="before")
    @classmethod
    def _names_are_text(cls, value: Any) -> Any:
        for name in value if isinstance(value, dict) else ():
            if not isinstance(name, str):
                raise ValueError(f"the label {name!r} is read as a number or a truth value; put it in quotes")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.augment and self.strategy == "undersample":
            raise ValueError("augment adds rows and strategy undersample leaves out rows; choose one of them")
        if self.augment and self.strategy != "oversample" and self.augment_target is None:
            raise ValueError("augment needs augment_target, the rows to reach, or strategy oversample")
        if self.augment_target is not None and not self.augment:
            raise ValueError(
                "augment_target needs augment, the ways to alter a text, for instance [typo, swap]"
            )
        if self.augment_target is not None and self.strategy == "oversample":
            raise ValueError(
                "augment_target: strategy oversample goes by target_ratio; remove it or change strategy"
            )
        return self
