"""LoRA: small adapters beside the backbone's linear layers are trained in place of their weights.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022: a layer of weights W computes
W x + (alpha / rank) B A x, where W stays, A (rank, inputs) starts at random and B (outputs, rank) at 0. The
product is added to W at the end, so a saved classifier is one like any other. The layers are those of the
library peft, which is needed for training only.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import torch
from torch import nn

from afina.errors import UserError
from afina.modeling.classifier import TextClassifier
from afina.params.train import TrainParams
from afina.training.engine import layer_of
from afina.training.forward import word_embeddings

# What the architectures call the part of a layer that attends.
ATTENTION = re.compile(r"\.(attention|attn)\.")


def peft_version(params: TrainParams) -> str | None:
    """Version of the library that adapters come from; None where no adapters are asked for.

    Raises:
        UserError: adapters are asked for and the library is not installed.
    """
    if not params.lora_rank:
        return None
    try:
        import peft
    except ImportError:
        raise UserError(
            "train.lora_rank: adapters need the library peft; `pip install 'afina[lora]'` or set it to 0"
        ) from None
    return str(peft.__version__)


def add_adapters(model: TextClassifier, params: TrainParams, first_new: int | None) -> None:
    """Give the backbone adapters, and leave nothing else of it to train but the rows of new tokens.

    The head is trained as ever. Layers that ``train.freeze`` leaves as they are get no adapter, and with it
    the rows of new tokens are not trained either, as they are embeddings.

    Args:
        model: changed in place; the adapters' first weights come from torch's generator.
        params: the section ``train``, ``lora_rank`` above 0.
        first_new: the rows of the table from here on belong to new tokens; None: there are none.

    Raises:
        UserError: there is no layer left to adapt.
    """
    import peft

    lowest = params.freeze if isinstance(params.freeze, int) else 0
    names = adapted_layers(model.backbone, params.lora_targets, lowest)
    if not names:
        raise UserError(
            f"train.lora_rank: train.freeze {params.freeze} leaves no layer to put adapters in; lower it"
        )
    make_config: Any = peft.LoraConfig
    config = make_config(
        r=params.lora_rank,
        lora_alpha=params.lora_alpha,
        lora_dropout=params.lora_dropout,
        target_modules=names,
        bias="none",
    )
    peft.inject_adapter_in_model(config, model.backbone)
    word_embeddings(model).weight.requires_grad_(first_new is not None and params.freeze == "none")


def adapted_layers(backbone: nn.Module, targets: Literal["all", "attention"], lowest: int) -> list[str]:
    """Names of the linear layers that get an adapter.

    Args:
        targets: all of them, or those of attention.
        lowest: the first layer of the backbone, from 0, that is adapted.
    """
    return [
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear)
        and (layer := layer_of(f"{name}.weight")) is not None
        and layer >= lowest
        and (targets == "all" or ATTENTION.search(name))
    ]


@torch.no_grad()
def merge_adapters(model: TextClassifier) -> None:
    """Add every adapter's product to the weights beside it and take the adapters out."""
    from peft.tuners.lora import LoraLayer

    backbone: Any = model.backbone
    for name, module in list(backbone.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            backbone.set_submodule(name, module.get_base_layer())
    del backbone.peft_config
