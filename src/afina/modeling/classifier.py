"""The model: a backbone, pooling over its token vectors, and a head of linear layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from afina.errors import UserError
from afina.modeling.lexical import LexicalScorer

Pooling = Literal["mean", "cls", "max"]
Activation = Literal["relu", "gelu", "tanh"]

ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}

# The dropout rates of the supported architectures' configurations (those of task heads left out).
DROPOUT_RATES = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
)


class TextClassifier(nn.Module):
    """Token ids to logits.

    Args:
        backbone: a transformers encoder; its own pooling layer, where it has one, is left out.
        label_count: number of labels L.
        pooling: how token vectors become one; padding never takes part.
        head: sizes of hidden layers between the backbone and the labels; empty: one linear layer.
        activation: after each hidden layer.
        dropout: before each linear layer of the head, while training.

    `add_lexical` gives it a second, linear opinion from the same token ids.
    """

    mixture: Tensor | None

    def __init__(
        self,
        backbone: Any,
        label_count: int,
        pooling: Pooling = "mean",
        head: Sequence[int] = (),
        activation: Activation = "relu",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None  # unused, and a parameter without gradient stops distributed training
        self.backbone = backbone
        self.pooling = pooling
        layers: list[nn.Module] = []
        width = int(backbone.config.hidden_size)
        for size in head:
            layers += [nn.Dropout(dropout), hidden_layer(width, size, activation), ACTIVATIONS[activation]()]
            width = size
        layers += [nn.Dropout(dropout), nn.Linear(width, label_count)]
        self.head = nn.Sequential(*layers)
        self.lexical: LexicalScorer | None = None
        self.window: int | None = None
        self.register_buffer("mixture", None)

    def add_lexical(self, lexical: LexicalScorer, mixture: Sequence[float], window: int) -> None:
        """Add the logits of a lexical model, which sees all tokens, to those of the backbone.

        Args:
            lexical: of the same tokens and labels.
            mixture: factors of the backbone's and of the lexical logits.
            window: tokens that the backbone sees, from the first.
        """
        self.lexical, self.window = lexical, window
        self.mixture = torch.tensor(list(mixture), dtype=torch.float32)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits, float32 (B, L), of token ids and mask, both int64 (B, T); padding is on the right."""
        if self.lexical is None or self.mixture is None:
            return self.backbone_logits(input_ids, attention_mask)
        seen = slice(0, self.window)
        logits = self.backbone_logits(input_ids[:, seen], attention_mask[:, seen])
        lexical: Tensor = self.lexical(input_ids, attention_mask)
        return logits * self.mixture[0] + lexical * self.mixture[1]

    def backbone_logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """As `forward`, of the backbone and its head alone."""
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits: Tensor = self.head(pool(hidden.float(), attention_mask, self.pooling))
        return logits.float()


def hidden_layer(inputs: int, outputs: int, activation: Activation) -> nn.Linear:
    """A linear layer whose first weights keep the size of signals through its activation.

    He et al. 2015 (arXiv:1502.01852) for relu and gelu, Glorot and Bengio 2010 for tanh: with torch's own
    first weights a head of several layers gives all texts the same logits, and learns the class sizes first.
    """
    layer = nn.Linear(inputs, outputs)
    if activation == "tanh":
        nn.init.xavier_uniform_(layer.weight, gain=nn.init.calculate_gain("tanh"))
    else:
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


def pool(hidden: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """Reduce token vectors (B, T, H) to one vector a text (B, H), ignoring padding."""
    if pooling == "cls":
        return hidden[:, 0]
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    if pooling == "max":
        return hidden.masked_fill(mask == 0, torch.finfo(hidden.dtype).min).amax(dim=1)
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)


def load_pretrained(folder: Path, attention: str = "eager", dropout: float | None = None) -> Any:
    """Load a backbone's weights as float32.

    Args:
        folder: a folder as transformers lays it out, with safetensors weights.
        attention: transformers' ``attn_implementation``.
        dropout: replaces every dropout rate of the configuration; None keeps them.

    Raises:
        UserError: the configuration or the weights are unusable, or do not fit each other.
    """
    from transformers import AutoConfig, AutoModel
    from transformers import logging as transformers_logging

    logging: Any = transformers_logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        for name in DROPOUT_RATES if dropout is not None else ():
            if hasattr(config, name):
                setattr(config, name, dropout)
        model, report = AutoModel.from_pretrained(
            str(folder),
            config=config,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation=attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told of just below, by name
        )
    except Exception as error:  # of many kinds, depending on what in which file is wrong
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(
            f"train.backbone: {folder}: cannot load the weights ({reason}); check its config.json and its "
            "safetensors files"
        ) from None
    for name, found, expected in sorted(report["mismatched_keys"]):
        raise UserError(
            f"train.backbone: {folder}: the weights have {name} of the sizes {list(found)}, config.json asks "
            f"for {list(expected)}; use the config.json that belongs to them"
        )
    # transformers fills what is missing with random numbers; only the unused pooling layer may be.
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise UserError(
            f"train.backbone: {folder}: the weights lack {len(missing)} tensors of the model, "
            f"such as {missing[0]}"
        )
    return model
