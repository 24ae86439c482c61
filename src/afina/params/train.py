"""Parameters of the stage ``train``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from afina.params.base import OnlyWith, Section

# A smoothed target needs a loss that is an expectation over the target. The others look at the probability of
# the one true answer.
SMOOTHED_LOSSES = ("cross_entropy", "class_balanced", "logit_adjusted")


def _of_loss(loss: str, *names: str) -> OnlyWith:
    return OnlyWith(names, f"train.loss: {loss}", lambda params: params.loss == loss)


class TrainParams(Section):
    """Which model is fine-tuned and how."""

    model_config = ConfigDict(allow_inf_nan=False)

    section_name: ClassVar[str] = "train"
    dependent: ClassVar[tuple[OnlyWith, ...]] = (
        OnlyWith(("activation",), "hidden layers in train.head", lambda params: bool(params.head)),
        OnlyWith(
            ("lexical_order", "lexical_length", "lexical_c"),
            "train.lexical: true",
            lambda params: bool(params.lexical),
        ),
        OnlyWith(
            ("layer_decay",),
            "a backbone that is trained (train.freeze)",
            lambda params: params.freeze != "all",
        ),
        OnlyWith(
            ("lora_alpha", "lora_dropout", "lora_targets"),
            "adapters (train.lora_rank)",
            lambda params: params.lora_rank > 0,
        ),
        _of_loss("focal", "focal_gamma"),
        _of_loss("class_balanced", "class_balanced_beta"),
        _of_loss("logit_adjusted", "logit_adjustment_tau"),
        _of_loss("ldam", "ldam_max_margin", "ldam_scale"),
        _of_loss("asymmetric", "asymmetric_gamma_positive", "asymmetric_gamma_negative", "asymmetric_clip"),
        _of_loss(
            "distribution_balanced",
            "distribution_balanced_alpha",
            "distribution_balanced_beta",
            "distribution_balanced_mu",
            "distribution_balanced_lambda",
            "distribution_balanced_kappa",
        ),
    )

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
    lexical: bool = Field(
        True,
        description="add a linear model over n-grams of tokens to the logits, inside the same graph; it "
        "learns with class weights, and train.loss and train.sampler do not change it",
    )
    lexical_order: int = Field(2, ge=1, le=5, description="longest n-gram of the lexical model, in tokens")
    lexical_length: int = Field(
        512,
        ge=4,
        le=8192,
        description="tokens that the lexical model sees, where that is more than max_length",
    )
    lexical_c: float = Field(
        10.0, gt=0, description="inverse regularisation of the lexical model: larger fits train closer"
    )
    epochs: int = Field(5, ge=1, description="passes over the training data at most")
    batch_size: int = Field(32, ge=1, description="examples in a batch, over all processes together")
    gradient_accumulation: int = Field(
        1, ge=1, description="batches summed up before each update of the weights"
    )
    sampler: Literal["shuffle", "square_root", "class_balanced", "progressive"] = Field(
        "shuffle",
        description="which examples an epoch holds: each once; or drawn with class probabilities "
        "proportional to the square root of their counts, equal, or going from the counts to equal over "
        "the epochs",
    )
    learning_rate: float = Field(2e-4, gt=0, lt=1, description="highest learning rate of the backbone")
    head_learning_rate: float = Field(1e-3, gt=0, lt=1, description="highest learning rate of the head")
    new_token_learning_rate: float = Field(
        1e-3, gt=0, lt=1, description="highest learning rate of the embeddings of tokens that adapt added"
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="factor on the learning rate from each layer of the backbone to the one below",
    )
    freeze: Literal["none", "embeddings", "all"] | Annotated[int, Field(ge=1, strict=True)] = Field(
        "none",
        description="what of the backbone is not trained: nothing, its embeddings, all of it, or a number: "
        "embeddings and so many layers",
    )
    lora_rank: int = Field(
        0,
        ge=0,
        description="LoRA (Hu 2022): rank of the adapters that are trained, at learning_rate, in place of "
        "the backbone's weights and merged into them at the end; 0 = none; needs `afina[lora]`",
    )
    lora_alpha: float = Field(
        16.0,
        gt=0,
        le=10000,
        description="LoRA: what the adapters add is multiplied by lora_alpha / lora_rank",
    )
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="LoRA: dropout before each adapter")
    lora_targets: Literal["all", "attention"] = Field(
        "all",
        description="LoRA: linear layers of the backbone that get an adapter: all, or attention's alone",
    )
    weight_decay: float = Field(0.01, ge=0, lt=1, description="AdamW's, on matrices; not on biases and norms")
    warmup: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of the updates over which the learning rates rise; then they fall to 0",
    )
    max_grad_norm: float = Field(1.0, gt=0, description="gradients with a larger norm are scaled down to it")
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the target spread over all labels, by their frequency with logit_adjusted",
    )
    loss: Literal[
        "cross_entropy",
        "focal",
        "class_balanced",
        "logit_adjusted",
        "ldam",
        "asymmetric",
        "distribution_balanced",
    ] = Field(
        "cross_entropy",
        description="what training minimises (multilabel: of each label's yes or no); ldam is for multiclass "
        "alone, asymmetric and distribution_balanced for multilabel alone",
    )
    reweight_after: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the updates after which class weights, class_balanced's own too, begin to act "
        "(deferred re-weighting, Cao 2019); 0 = from the start",
    )
    focal_gamma: float = Field(
        2.0, ge=0, le=100, description="focal: higher = easy examples count less; 0 = cross-entropy"
    )
    class_balanced_beta: float = Field(
        0.999, gt=0, lt=1, description="class_balanced: closer to 1 weights rare labels more (Cui 2019)"
    )
    logit_adjustment_tau: float = Field(
        1.0, ge=0, le=100, description="logit_adjusted: factor on the logarithm of the label's share of rows"
    )
    ldam_max_margin: float = Field(
        0.5,
        ge=0,
        le=100,
        description="ldam: margin of the rarest label's logit; those of others go down with n^(-1/4)",
    )
    ldam_scale: float = Field(
        1.0,
        gt=0,
        le=100,
        description="ldam: factor on the logits, in the loss alone; the paper's 30 is for cosines, 1 suits a "
        "linear last layer",
    )
    asymmetric_gamma_positive: float = Field(
        0.0, ge=0, le=100, description="asymmetric: the focal gamma of labels that an example has"
    )
    asymmetric_gamma_negative: float = Field(
        4.0, ge=0, le=100, description="asymmetric: the focal gamma of labels that an example has not"
    )
    asymmetric_clip: float = Field(
        0.05, ge=0, lt=1, description="asymmetric: below this probability a wrong label costs nothing"
    )
    distribution_balanced_alpha: float = Field(
        0.1, ge=0, le=100, description="distribution_balanced: added to each weight, so that none vanishes"
    )
    distribution_balanced_beta: float = Field(
        10.0, gt=0, le=1000, description="distribution_balanced: how steeply the weight rises with rarity"
    )
    distribution_balanced_mu: float = Field(
        0.3, ge=0, le=100, description="distribution_balanced: relative rarity where the weight rises most"
    )
    distribution_balanced_lambda: float = Field(
        5.0, gt=0, le=100, description="distribution_balanced: higher = easy negatives pull less"
    )
    distribution_balanced_kappa: float = Field(
        0.05, ge=0, le=100, description="distribution_balanced: how far a label's rarity moves its logit"
    )
    r_drop: float = Field(
        0.0,
        ge=0,
        description="weight of the divergence between two passes with other dropout (R-Drop); twice the time",
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay per update of an average of the weights, which is then what is kept; null = none",
    )
    patience: int | None = Field(
        None, ge=1, description="stop after so many epochs without a better validation macro-F1; null = never"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="auto = bf16 where the processor (AMX, AVX512-BF16) or the GPU computes it fast, "
        "else fp32",
    )
    gradient_checkpointing: bool = Field(
        False, description="compute the backbone's insides twice instead of keeping them: less memory, slower"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto = the GPU where there is one")
    threads: int | None = Field(None, ge=1, description="processor threads; null = as many as torch chooses")
    checkpoint_seconds: float = Field(
        60.0, ge=0, description="time between two checkpoints within an epoch; each epoch's end makes one too"
    )

    @field_validator("freeze", mode="before")
    @classmethod
    def _names_a_part(cls, part: Any) -> Any:
        if isinstance(part, bool):  # a kind of whole number to Python
            raise ValueError("true and false do not say which part of the backbone; use all or none")
        if part not in ("none", "embeddings", "all") and not (isinstance(part, int) and part >= 1):
            raise ValueError("input should be none, embeddings, all, or a number of layers from 1 on")
        return part

    @field_validator("lora_rank")
    @classmethod
    def _has_something_to_adapt(cls, rank: int, info: ValidationInfo) -> int:
        if rank and info.data.get("freeze") == "all":
            raise ValueError(
                "adapters train the backbone, which train.freeze: all leaves as it is; set one of the two to "
                "its default"
            )
        return rank

    @field_validator("r_drop")
    @classmethod
    def _has_passes_that_differ(cls, weight: float, info: ValidationInfo) -> float:
        names = ["dropout", "backbone_dropout", *(["lora_dropout"] if info.data.get("lora_rank") else [])]
        if weight and all(info.data.get(name) == 0 for name in names):
            raise ValueError(
                "without dropout the two passes are the same; set train.dropout or train.backbone_dropout"
            )
        return weight

    @field_validator("loss")
    @classmethod
    def _takes_label_smoothing(cls, loss: str, info: ValidationInfo) -> str:
        if info.data.get("label_smoothing") and loss not in SMOOTHED_LOSSES:
            raise ValueError(
                "this loss does not take train.label_smoothing, which is for "
                f"{', '.join(SMOOTHED_LOSSES)}; set it to 0"
            )
        return loss
