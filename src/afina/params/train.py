"""Parameters of the stage ``train``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from afina.params.base import Section


class TrainParams(Section):
    """Which model is fine-tuned and how."""

    section_name: ClassVar[str] = "train"

    backbone: str = Field(
        "sentence-transformers/all-MiniLM-L6-v2",
        min_length=1,
        description="Hugging Face name or folder of a BERT, DistilBERT, RoBERTa, XLM-R or ModernBERT model",
    )
    revision: str | None = Field(
        None, description="branch, tag or commit of the backbone on the hub; null = its default branch"
    )
    max_length: int = Field(
        128, ge=4, le=8192, description="longest text in tokens, special tokens included; the rest is cut off"
    )
    pooling: Literal["mean", "cls", "max"] = Field(
        "mean", description="how token vectors become one: their mean, the first one, or their maximum"
    )
    head: list[Annotated[int, Field(ge=1)]] = Field(
        default_factory=list,
        description="hidden layer sizes between the backbone and the labels; [] = one linear layer",
    )
    activation: Literal["relu", "gelu", "tanh"] = Field(
        "relu", description="after each hidden layer of the head"
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout before each linear layer of the head")
    backbone_dropout: float | None = Field(
        None, ge=0, lt=1, description="dropout inside the backbone; null = as its configuration says"
    )
    epochs: int = Field(5, ge=1, description="passes over the training data at most")
    batch_size: int = Field(32, ge=1, description="examples in a batch, over all processes together")
    gradient_accumulation: int = Field(
        1, ge=1, description="batches summed up before each update of the weights"
    )
    learning_rate: float = Field(2e-4, gt=0, lt=1, description="highest learning rate of the backbone")
    head_learning_rate: float = Field(1e-3, gt=0, lt=1, description="highest learning rate of the head")
    weight_decay: float = Field(0.01, ge=0, lt=1, description="AdamW's, on matrices; not on biases and norms")
    warmup: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of the updates over which the learning rates rise; then they fall to 0",
    )
    max_grad_norm: float = Field(1.0, gt=0, description="gradients with a larger norm are scaled down to it")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all labels")
    patience: int | None = Field(
        None, ge=1, description="stop after so many epochs without a better validation macro-F1; null = never"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto = bf16 where the processor (AMX) or the GPU computes it fast, else fp32"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto = the GPU where there is one")
    threads: int | None = Field(None, ge=1, description="processor threads; null = as many as torch chooses")
    checkpoint_seconds: float = Field(
        60.0, ge=0, description="time between two checkpoints within an epoch; each epoch's end makes one too"
    )
