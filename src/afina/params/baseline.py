"""Parameters of the baseline stage."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from afina.params.base import Section


class BaselineParams(Section):
    """What the TF-IDF baseline counts and how strongly its linear model is regularised."""

    section_name: ClassVar[str] = "baseline"

    word_ngrams: tuple[int, int] | None = Field(
        (1, 2), description="shortest and longest word n-gram; null: no word n-grams"
    )
    char_ngrams: tuple[int, int] | None = Field(
        (3, 5), description="shortest and longest character n-gram inside words; null: none (half the time)"
    )
    min_df: int = Field(2, ge=1, description="texts of train in which an n-gram must appear to count")
    max_features: int | None = Field(
        200_000, ge=1, description="most frequent n-grams kept of each kind; null: all of them"
    )
    C: float = Field(
        1.0, gt=0, description="inverse regularisation of the linear SVM: larger fits train closer"
    )
    max_iterations: int = Field(5_000, ge=1, description="iterations of the linear SVM's solver at most")

    @model_validator(mode="after")
    def _ngrams(self) -> Self:
        if self.word_ngrams is None and self.char_ngrams is None:
            raise ValueError("word_ngrams and char_ngrams are both null: give at least one range")
        for name in ("word_ngrams", "char_ngrams"):
            limits = getattr(self, name)
            if limits is not None and not 1 <= limits[0] <= limits[1]:
                raise ValueError(f"{name}: expected [shortest, longest] with 1 <= shortest <= longest")
        return self
