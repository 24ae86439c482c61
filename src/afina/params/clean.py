"""Parameters of the stage ``clean``."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from afina.params.base import OnlyWith, Section
from afina.runtime.text import DEFAULT_STEPS, STEPS

LINE_STEPS = ("strip_quotes", "strip_signature")  # they see lines, which collapse_whitespace joins


class CleanParams(Section):
    """What happens to texts and labels before the split."""

    section_name: ClassVar[str] = "clean"
    dependent: ClassVar[tuple[OnlyWith, ...]] = (
        OnlyWith(("unmapped",), "clean.label_map", lambda params: params.maps_labels),
    )

    task: Literal["auto", "multiclass", "multilabel"] = Field(
        "auto", description="auto = multilabel if any row has more than one label once labels are mapped"
    )
    steps: list[str] = Field(
        list(DEFAULT_STEPS),
        description="text cleaning in this order, repeated at prediction time; known: " + ", ".join(STEPS),
    )
    min_words: int = Field(1, ge=1, description="a text with fewer words once cleaned is rejected")
    label_map: str | dict[str, str | None] | None = Field(
        None,
        description="new label of each old one: a mapping (null = drop), or a CSV or .xlsx file with the "
        "columns raw and label (empty = drop)",
    )
    unmapped: Literal["keep", "drop", "error"] = Field(
        "keep", description="labels that label_map does not name; without one, all are kept"
    )
    fold_labels: bool = Field(
        True, description="labels that differ only in case, accents or spaces are one label (ñ is not n)"
    )
    keep_labels: list[str] = Field([], description="only these labels stay; [] = all")
    drop_labels: list[str] = Field([], description="these labels are dropped")
    top_k: int | None = Field(None, ge=1, description="only the most frequent labels stay; null = all")
    min_count: int | None = Field(None, ge=1, description="labels with fewer examples go; null = none does")
    other: str | None = Field(
        None, min_length=1, description="label that top_k and min_count rename to; null = they drop"
    )
    conflicts: Literal["majority", "drop", "keep", "union"] = Field(
        "majority",
        description="one text under different labels: the most frequent wins and a tie is dropped, all are "
        "dropped, all are kept, or (multilabel) one row gets all labels; where the source names splits, "
        "except for keep, rows in test stay and those in train that differ are dropped",
    )
    unlabelled: Literal["drop", "keep"] = Field(
        "drop", description="rows without a label; keep (multilabel only) = an example of no label"
    )

    @property
    def maps_labels(self) -> bool:
        """Whether there is a label map, be it a file that names none."""
        return self.label_map is not None and self.label_map != {}

    def files(self) -> dict[str, str]:
        """The label map, where it is a file."""
        return {"label_map": self.label_map} if isinstance(self.label_map, str) else {}

    @field_validator("steps")
    @classmethod
    def _known_steps(cls, steps: list[str]) -> list[str]:
        for step in steps:
            if step not in STEPS:
                raise ValueError(f"unknown step '{step}'; known: {', '.join(STEPS)}")
            if steps.count(step) > 1:
                raise ValueError(f"step '{step}' is listed twice")
        for step in LINE_STEPS:
            if step in steps and "collapse_whitespace" in steps[: steps.index(step)]:
                raise ValueError(f"'{step}' needs lines: list it before 'collapse_whitespace'")
        return steps

    @field_validator("label_map", "keep_labels", "drop_labels", mode="before")
    @classmethod
    def _names_as_text(cls, value: Any) -> Any:
        """Label names may be written as numbers; yes and no without quotes are YAML booleans."""
        if isinstance(value, dict):
            return {_name(key): None if label is None else _name(label) for key, label in value.items()}
        return [_name(name) for name in value] if isinstance(value, list) else value

    @field_validator("label_map", mode="before")
    @classmethod
    def _file_or_mapping(cls, value: Any) -> Any:
        if not isinstance(value, str | dict | None):
            raise ValueError("expected a mapping of old labels to new ones, or the name of a file")
        for name, label in value.items() if isinstance(value, dict) else ():
            if not isinstance(label, str | int | float | None):
                raise ValueError(f"the new label of {name!r} should be text, found {label!r}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        both = sorted(set(self.keep_labels) & set(self.drop_labels))
        if both:
            raise ValueError(f"'{both[0]}' is in keep_labels and in drop_labels")
        if self.task == "multiclass" and self.conflicts == "union":
            raise ValueError("conflicts: union needs task: multilabel")
        if self.task == "multiclass" and self.unlabelled == "keep":
            raise ValueError("unlabelled: keep needs task: multilabel")
        if self.other is not None and self.top_k is None and self.min_count is None:
            raise ValueError("other: set top_k or min_count, which say what goes there")
        return self


def _name(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a label reads as a YAML boolean; write it in quotes")
    return str(value) if isinstance(value, int | float) else value
