"""From token ids to logits while training: packed where the architecture allows it, else by transformers.

Both take the word embeddings from outside, so that only the rows of the table that a batch holds have a
gradient.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from afina.errors import UserError
from afina.modeling.classifier import TextClassifier, pool
from afina.modeling.inference import in_batches
from afina.modeling.packed import (
    PACKABLE,
    PackedEncoder,
    PackedIndex,
    Unpack,
    layer_modules,
    pack,
    sent,
)
from afina.runtime.encoding import TOKEN_BUDGET, Ids, pad_batch

# Widths of padded batches are multiples of this: on a processor every new shape costs the compilation of its
# kernels, more than a few columns of padding do.
WIDTH_MULTIPLE = 16
# A smaller gain in matrix products is taken for none, as weights have to be turned into bfloat16 as well.
LEAST_SPEEDUP = 1.2

Pair = tuple[nn.Parameter, tuple[nn.Parameter, ...]]


class Forward(Protocol):
    """A way to compute a classifier's logits."""

    dtype: torch.dtype  # of the embeddings that it takes
    pad_token_id: int

    def pairs(self) -> list[Pair]:
        """Each tensor that it computes with, and the classifier's parameters that it stands for.

        Those of the backbone only, its table of word embeddings left out.
        """

    def prepare(self, ids: Sequence[Ids]) -> Any:
        """Lay out texts; its ``token_ids`` (N,), filler included, are what to look up in the table."""

    def logits(self, embedded: Tensor, batch: Any) -> Tensor:
        """Logits (B, L) float32 of word embeddings (N, H)."""

    def train(self, mode: bool) -> None:
        """Dropout on or off."""

    def refresh_dropout(self, seed: int) -> None:
        """Where dropout is drawn ahead, draw what belongs to ``seed``."""


def word_embeddings(model: TextClassifier) -> nn.Embedding:
    """The backbone's table."""
    table: nn.Embedding = model.backbone.get_input_embeddings()
    return table


def choose_forward(
    model: TextClassifier,
    precision: str,
    device: torch.device,
    max_length: int,
    checkpointing: bool = False,
) -> Forward:
    """The packed way for plain models of the BERT family, else, and with adapters, the padded one.

    Args:
        model: on ``device``.
        precision: fp32 or bf16.
        max_length: longest text in tokens.
        checkpointing: compute layers again in the backward pass instead of keeping their insides.
    """
    if is_packable(model.backbone):
        return PackedForward(model, torch.bfloat16 if precision == "bf16" else torch.float32, checkpointing)
    return PaddedForward(model, precision, device, max_length, checkpointing)


def is_packable(backbone: Any) -> bool:
    """Whether the packed encoder computes what the backbone does.

    It reads the weights of the linear layers and nothing else of them, so none may be of a class of its own,
    as those with adapters are.
    """
    config = backbone.config
    if config.model_type not in PACKABLE:
        return False
    if getattr(config, "position_embedding_type", "absolute") not in (None, "absolute"):
        return False
    if getattr(config, "is_decoder", False):  # its tokens see those before them alone
        return False
    linear = (
        part
        for layer in layer_modules(backbone)
        for part in (layer.query, layer.key, layer.value, layer.output, layer.up, layer.down)
    )
    return all(type(part) is nn.Linear for part in linear)


def choose_device(asked: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device asked for, or the GPU where there is one.

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    found = torch.cuda.is_available()
    if asked == "cuda" and not found:
        raise UserError("train.device: cuda asked for, but torch finds no GPU; set it to auto or cpu")
    return torch.device("cuda" if found and asked != "cpu" else "cpu")


def choose_attention(device: torch.device) -> str:
    """Transformers' ``attn_implementation``: on processors the plain one is the faster one."""
    return "eager" if device.type == "cpu" else "sdpa"


def choose_precision(asked: str, device: torch.device) -> Literal["fp32", "bf16"]:
    """The precision of matrix products: what is asked for, or bf16 where the hardware computes it fast."""
    if asked == "fp32":
        return "fp32"
    if asked == "bf16":
        return "bf16"
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    # Not every version of torch tells of each of these.
    if getattr(torch.cpu, "_is_amx_tile_supported", bool)():
        return "bf16"
    # Without instructions of its own for it a processor emulates bfloat16 and is slower than in float32.
    vectors = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    return "bf16" if vectors and bf16_speedup() >= LEAST_SPEEDUP else "fp32"


@functools.cache
def bf16_speedup() -> float:
    """How many times as fast as in float32 this processor multiplies matrices in bfloat16.

    AVX512-BF16 does not say: there are processors with it that are half as fast. Measured on one thread in
    turns, the best of each, so that it is the same on a busy machine; some 50 ms, once a process.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        single, half = (
            (torch.ones(256, 384, dtype=dtype), torch.ones(384, 384, dtype=dtype))
            for dtype in (torch.float32, torch.bfloat16)
        )
        turns = [(_seconds(*single), _seconds(*half)) for _ in range(20)]
    finally:
        torch.set_num_threads(threads)
    return min(turn[0] for turn in turns) / min(turn[1] for turn in turns)


def _seconds(rows: Tensor, weight: Tensor) -> float:
    start = time.perf_counter()
    nn.functional.linear(rows, weight)
    return time.perf_counter() - start


class PackedForward:
    """Packed tokens, weights and activations of the backbone in one precision; the head in float32."""

    def __init__(self, model: TextClassifier, dtype: torch.dtype, checkpointing: bool) -> None:
        self.model, self.dtype = model, dtype
        self.encoder = PackedEncoder(model.backbone).to(next(model.parameters()).device, dtype)
        self.encoder.checkpointing = checkpointing
        self.pad_token_id = int(model.backbone.config.pad_token_id or 0)

    def pairs(self) -> list[Pair]:
        """See `Forward`."""
        encoder, embeddings = self.encoder, self.model.backbone.embeddings
        pairs: list[Pair] = [(encoder.positions, (embeddings.position_embeddings.weight,))]
        if encoder.types is not None:
            pairs.append((encoder.types, (embeddings.token_type_embeddings.weight,)))
        parts: list[tuple[Any, tuple[Any, ...]]] = [(encoder.norm, (embeddings.LayerNorm,))]
        for packed, layer in zip(encoder.layers, layer_modules(self.model.backbone), strict=True):
            module: Any = packed
            parts += [
                (module.qkv, (layer.query, layer.key, layer.value)),
                (module.output, (layer.output,)),
                (module.attention_norm, (layer.attention_norm,)),
                (module.up, (layer.up,)),
                (module.down, (layer.down,)),
                (module.output_norm, (layer.output_norm,)),
            ]
        for leaf, sources in parts:
            pairs.append((leaf.weight, tuple(source.weight for source in sources)))
            pairs.append((leaf.bias, tuple(source.bias for source in sources)))
        return pairs

    def prepare(self, ids: Sequence[Ids]) -> PackedIndex:
        """See `Forward`."""
        return pack(ids, self.pad_token_id)

    def logits(self, embedded: Tensor, batch: PackedIndex) -> Tensor:
        """See `Forward`."""
        hidden = self.encoder(embedded, batch)
        rows, width = batch.mask.shape
        rectangle: Tensor = Unpack.apply(hidden.float(), batch)  # type: ignore[no-untyped-call]
        pooled = pool(rectangle.view(rows, width, -1), batch.mask, self.model.pooling)
        output: Tensor = self.model.head(pooled)
        return output

    def train(self, mode: bool) -> None:
        """See `Forward`."""
        self.encoder.train(mode)
        self.model.train(mode)

    def refresh_dropout(self, seed: int) -> None:
        """See `Forward`."""
        self.encoder.pool.refresh(seed)


@dataclass(frozen=True)
class PaddedBatch:
    """Texts padded to the longest of them."""

    token_ids: Tensor  # (B * T,)
    mask: Tensor  # (B, T)

    def to(self, device: torch.device) -> PaddedBatch:
        """The same on another device."""
        return PaddedBatch(sent(self.token_ids, device), sent(self.mask, device))


class PaddedForward:
    """The model as transformers has it, matrix products in bfloat16 if asked."""

    dtype = torch.float32

    def __init__(
        self,
        model: TextClassifier,
        precision: str,
        device: torch.device,
        max_length: int,
        checkpointing: bool,
    ) -> None:
        self.model, self.precision, self.device, self.max_length = model, precision, device, max_length
        if checkpointing:
            backbone: Any = model.backbone
            # The name that transformers 5 has, or that of 4, whose own choice loses gradients of layers above
            # frozen embeddings.
            name = "activation_checkpointing_enable"
            enable = getattr(backbone, name, None) or backbone.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        self.pad_token_id = int(model.backbone.config.pad_token_id or 0)

    def pairs(self) -> list[Pair]:
        """See `Forward`."""
        table = word_embeddings(self.model).weight
        return [(weight, (weight,)) for weight in self.model.backbone.parameters() if weight is not table]

    def prepare(self, ids: Sequence[Ids]) -> PaddedBatch:
        """See `Forward`."""
        input_ids, mask = pad_batch(ids, self.pad_token_id, WIDTH_MULTIPLE, self.max_length)
        return PaddedBatch(torch.from_numpy(input_ids.reshape(-1)), torch.from_numpy(mask))

    def logits(self, embedded: Tensor, batch: PaddedBatch) -> Tensor:
        """See `Forward`."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            hidden = self.model.backbone(
                inputs_embeds=embedded.view(*batch.mask.shape, -1), attention_mask=batch.mask
            ).last_hidden_state
        output: Tensor = self.model.head(pool(hidden.float(), batch.mask, self.model.pooling))
        return output

    def train(self, mode: bool) -> None:
        """See `Forward`."""
        self.model.train(mode)

    def refresh_dropout(self, seed: int) -> None:
        """See `Forward`; nothing is drawn ahead here."""


def all_logits(
    forward: Forward, model: TextClassifier, ids: Sequence[Ids], token_budget: int = TOKEN_BUDGET
) -> npt.NDArray[np.float32]:
    """Logits (n, L) of texts without dropout, in batches of similar length."""
    table = word_embeddings(model).weight
    final: Any = model.head[-1]

    def score(batch: Sequence[Ids]) -> Tensor:
        prepared = forward.prepare(batch).to(table.device)
        embedded = nn.functional.embedding(prepared.token_ids, table).to(forward.dtype)
        return forward.logits(embedded, prepared)

    forward.train(False)
    try:
        return in_batches(score, ids, final.out_features, token_budget)
    finally:
        forward.train(True)
