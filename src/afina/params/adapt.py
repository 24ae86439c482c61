"""Parameters of the stage ``adapt``."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict, Field

from afina.params.base import OnlyWith, Section
from afina.params.extract import Format, Source

# What a source of texts alone has no use for. A column of splits least of all: it would not be obeyed.
NOT_OF_TEXTS = (
    "label",
    "label_separator",
    "label_columns",
    "id",
    "group",
    "time",
    "time_format",
    "split",
    "split_as",
)


class UnlabelledSource(Source):
    """One source of texts without labels: where they are and which columns hold them, as in `extract`."""

    def _check_mapping(self, kind: Format) -> None:
        for name in NOT_OF_TEXTS:
            if name in self.model_fields_set:
                raise ValueError(f"{name} does not apply to unlabelled texts; remove it")
        if kind != "folder" and not self.text:
            raise ValueError("text is missing: name the column, or columns, of the text")
        super()._check_mapping("folder")  # of all kinds the one that needs no label

    @property
    def wanted(self) -> tuple[str, ...]:
        """As of any source, without the label that a file's folder would be."""
        return tuple(name for name in super().wanted if self.kind != "folder" or name != "label")


class AdaptParams(Section):
    """How the backbone is adapted to the text before fine-tuning; by default its vocabulary, if needed."""

    model_config = ConfigDict(allow_inf_nan=False)

    section_name: ClassVar[str] = "adapt"
    dependent: ClassVar[tuple[OnlyWith, ...]] = (
        OnlyWith(
            ("learning_rate", "batch_size", "max_length", "mask_share", "warmup", "weight_decay"),
            "passes over the texts (adapt.epochs)",
            lambda params: params.epochs > 0,
        ),
        OnlyWith(
            ("vocabulary_min_count", "vocabulary_max_size", "glossary"),
            "adapt.vocabulary: auto or extend",
            lambda params: params.vocabulary != "none",
        ),
        OnlyWith(
            ("unlabelled",), "adapt.epochs, or adapt.vocabulary: auto or extend", lambda params: params.active
        ),
    )

    epochs: int = Field(
        0,
        ge=0,
        description="passes of masked-language-model training over the training texts, without their labels "
        "(Gururangan 2020); 0 = none",
    )
    learning_rate: float = Field(1e-4, gt=0, lt=1, description="highest learning rate")
    batch_size: int = Field(32, ge=1, description="texts in a batch")
    max_length: int | None = Field(
        None,
        ge=4,
        le=8192,
        description="longest text in tokens, special tokens included; the rest is cut off; null = "
        "train.max_length",
    )
    mask_share: float = Field(0.15, gt=0, lt=1, description="share of a text's tokens that are to be guessed")
    warmup: float = Field(
        0.06, ge=0, lt=1, description="share of the updates over which the learning rate rises; then it falls"
    )
    weight_decay: float = Field(0.01, ge=0, lt=1, description="AdamW's, on matrices; not on biases and norms")
    unlabelled: tuple[UnlabelledSource, ...] = Field(
        (),
        description="further texts, which need no labels: sources with the keys of extract.sources for where "
        "they are and for their text, cleaned as clean.steps says. Keep the texts of validation and test out "
        "of them",
    )
    vocabulary: Literal["auto", "none", "extend"] = Field(
        "auto",
        description="extend = frequent words that the tokenizer cuts into pieces become tokens; auto = where "
        "the words of the texts are cut into more than 1.5 pieces, or more than 5% of them are unknown to it",
    )
    vocabulary_min_count: int = Field(
        4, ge=1, description="a word becomes a token if it occurs so many times or more"
    )
    vocabulary_max_size: int = Field(20_000, ge=1, description="new tokens at most, the most frequent ones")
    glossary: str | None = Field(
        "auto",
        description="CSV with the columns word and meaning (in the backbone's language): where the "
        "vocabulary is extended, all its words become tokens whose vectors start from their meanings; auto = "
        "the Spanish-English one of afina where the texts are Spanish",
    )

    def files(self) -> dict[str, str]:
        """Those of texts, and the glossary where it is used."""
        found = {
            f"unlabelled.{number}.path": source.path
            for number, source in enumerate(self.unlabelled)
            if source.path is not None and self.active
        }
        if self.vocabulary != "none" and self.glossary not in (None, "auto"):
            found["glossary"] = str(self.glossary)
        return found

    @property
    def active(self) -> bool:
        """Whether anything may be changed."""
        return self.epochs > 0 or self.vocabulary != "none"
