"""Parameters of the split stage."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from afina.params.base import Section

SPLITS = ("train", "validation", "test")


class SplitParams(Section):
    """How messages are divided into train, validation and test."""

    section_name: ClassVar[str] = "split"

    method: Literal["auto", "stratified", "group", "time", "given"] = Field(
        "auto",
        description="stratified: every label keeps its share (iterative stratification where a message has "
        "several); group: the same, and messages of one group stay together; time: the oldest train, the "
        "newest test; given: as the source says; auto: given where the source names a split, else group "
        "where it has groups, else stratified",
    )
    validation: float = Field(
        0.15, gt=0, lt=1, description="share of the messages for validation; train gets the rest"
    )
    test: float = Field(0.15, gt=0, lt=1, description="share of the messages for test")
    near_duplicates: float | None = Field(
        0.8,
        ge=0,
        le=1,
        description="messages whose word shingles have at least this Jaccard similarity never straddle two "
        "splits; 1: equal but for case, accents and punctuation; 0 or null: not looked for",
    )
    shingle_words: int = Field(3, ge=1, le=10, description="words in a shingle")
    num_perm: int = Field(
        64, ge=16, le=512, description="MinHash permutations; more make the search more selective, and slower"
    )
    small_classes: Literal["error", "train"] = Field(
        "error",
        description="a class that cannot reach every split: error: stop and name it; train: stratified and "
        "group put all of it in train, time and given leave it where it falls, and the report names it",
    )
    leaks: Literal["drop", "keep"] = Field(
        "drop",
        description="near duplicates that time, given or keep put in two splits: drop: keep those in test "
        "(else in validation) and reject the others; keep: leave them, counted in the report",
    )
    keep: str | None = Field(
        None,
        min_length=1,
        description="CSV with the columns id and split, as `afina keep-split` writes it: messages named in "
        "it stay in that split, so that new ones do not reshuffle the test part; stratified and group",
    )

    def files(self) -> dict[str, str]:
        """The CSV of the messages whose split is kept."""
        return {} if self.keep is None else {"keep": self.keep}

    @field_validator("near_duplicates")
    @classmethod
    def _useful_threshold(cls, value: float | None) -> float | None:
        if value is not None and 0 < value < 0.2:
            raise ValueError("expected 0 (off) or a similarity from 0.2 to 1")
        return value or None

    @model_validator(mode="after")
    def _train_is_left(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError("validation + test must be less than 1, so that train gets the rest")
        return self
