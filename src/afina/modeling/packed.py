"""The encoder of the BERT family on packed tokens: the same numbers as transformers computes, at less cost.

Transformers pads every text of a batch to the longest one and keeps query, key and value apart. Here the
tokens of a batch lie in one matrix without padding, the three projections are one product, attention alone
works on the padded rectangle, and everything may be bfloat16. A text's vectors are those of transformers up
to rounding; a test compares them for every supported architecture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN

from afina.runtime.encoding import Ids

# Model types with this layout: embeddings, then layers of attention and a feed-forward network with the
# normalisation after each.
PACKABLE = ("bert", "distilbert", "roberta", "xlm-roberta")

# Added to the attention scores of padding: e^-10000 is 0 in every precision.
MASKED = -1e4

# Texts shorter than this attend in float32: the products are too small for bfloat16 to pay.
SHORT = 16

# From this length on softmax is in bfloat16, which is the faster one on rows of a multiple of `WIDE_STEP`.
WIDE, WIDE_STEP = 64, 32


@dataclass(frozen=True)
class PackedIndex:
    """Where the tokens of a batch of B texts, the longest of T tokens, lie in a matrix of N rows.

    The rows after the texts' tokens are filler that rounds N up, at least one; nothing of it reaches a text.
    """

    token_ids: Tensor  # (N,) int64
    positions: Tensor  # (N,) int64, from 0 in each text
    mask: Tensor  # (B, T) int64, 1 on tokens
    to_padded: Tensor  # (B * T,) int64: row of each place of the rectangle; padding is filler
    to_packed: Tensor  # (N,) int64: place of each row; filler is place 0
    tokens: int  # rows that are tokens of texts

    def to(self, device: torch.device) -> PackedIndex:
        """The same on another device."""
        if device.type == "cpu":
            return self
        return PackedIndex(
            token_ids=sent(self.token_ids, device),
            positions=sent(self.positions, device),
            mask=sent(self.mask, device),
            to_padded=sent(self.to_padded, device),
            to_packed=sent(self.to_packed, device),
            tokens=self.tokens,
        )


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the processor on another device; a GPU is not waited for."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # what is not pinned is copied first, and that is waited for
    return tensor.to(device, non_blocking=True)


def round_up(size: int) -> int:
    """The next of a few sizes, larger by less than an eighth or 32: a processor compiles kernels for each."""
    step = max(32, 1 << max((size - 1).bit_length() - 4, 0))
    return -(-size // step) * step


def round_width(longest: int) -> int:
    """Width of the rectangle for a longest text of so many tokens."""
    step = WIDE_STEP if longest > WIDE - WIDE_STEP // 2 else 8
    return -(-longest // step) * step


def pack(ids: Sequence[Ids], pad_token_id: int) -> PackedIndex:
    """Lay the tokens of texts, none of them empty, one after another."""
    lengths = np.fromiter((len(row) for row in ids), dtype=np.int64, count=len(ids))
    total = int(lengths.sum())
    rows, width = round_up(total + 1), round_width(int(lengths.max()))
    starts = np.cumsum(lengths) - lengths
    token_ids = np.full(rows, pad_token_id, dtype=np.int64)
    token_ids[:total] = np.concatenate(ids)
    positions = np.zeros(rows, dtype=np.int64)
    positions[:total] = np.arange(total) - np.repeat(starts, lengths)
    mask = np.arange(width) < lengths[:, None]
    to_padded = np.full(mask.shape, total, dtype=np.int64)
    to_padded[mask] = np.arange(total)
    to_packed = np.zeros(rows, dtype=np.int64)
    to_packed[:total] = np.flatnonzero(mask)
    return PackedIndex(
        token_ids=torch.from_numpy(token_ids),
        positions=torch.from_numpy(positions),
        mask=torch.from_numpy(mask.astype(np.int64)),
        to_padded=torch.from_numpy(to_padded.reshape(-1)),
        to_packed=torch.from_numpy(to_packed),
        tokens=total,
    )


class Unpack(torch.autograd.Function):
    """Rows (N, H) to the padded rectangle (B * T, H); the gradient of padding is dropped."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: PackedIndex) -> Tensor:
        """Gather the rows; each token has one place, so the way back is a gather as well."""
        ctx.index = index
        return rows.index_select(0, index.to_padded)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Gather back; filler gets no gradient."""
        rows = gradients[0].index_select(0, ctx.index.to_packed)
        rows[ctx.index.tokens :] = 0
        return rows, None


# Numbers that dropout draws at a time: few enough to stay in the processor's cache.
DRAWS = 2**16


def draw_factors(count: int, rate: float, dtype: torch.dtype, seed: int) -> Tensor:
    """Dropout's factors (count,): 0 with probability ``rate`` (to 1/65536), else 1 / (1 - rate).

    Four 16-bit draws from each 64-bit number of numpy's SFC64, a few times as fast as torch's generator: on a
    processor drawing is most of what dropout costs.
    """
    bits = np.random.SFC64(seed)
    least = min(round(rate * 65536), 65535) - 32768
    factors = torch.empty(count, dtype=dtype)
    for part in torch.split(factors, 4 * DRAWS):
        draws = torch.from_numpy(bits.random_raw(-(-len(part) // 4)).view(np.int16))[: len(part)]
        part.copy_(draws >= least).mul_(1 / (1 - rate))
    return factors


class DropoutPool:
    """Dropout's factors, drawn ahead; a mask is a stretch of them that begins at random.

    Each factor of a mask is 0 with the wanted probability, and factors of one mask are independent of each
    other. Between masks a stretch may come again, as rarely as the pool is large.
    """

    SIZE = 2**23
    LARGER = 4  # times as large is a second pool, for masks that would be a large part of the first

    def __init__(self) -> None:
        self._seed = 0
        self._pools: dict[tuple[int, float, torch.dtype], Tensor] = {}

    def refresh(self, seed: int) -> None:
        """Forget the factors unless they are those of ``seed``."""
        if seed != self._seed:
            self._seed = seed
            self._pools.clear()

    def mask(self, shape: tuple[int, ...], rate: float, like: Tensor) -> Tensor:
        """Factors of a shape, in the precision and on the device of ``like``."""
        if like.device.type != "cpu":  # a GPU draws them faster than they could be sent there
            factors = torch.empty(shape, dtype=like.dtype, device=like.device)
            return factors.bernoulli_(1 - rate).mul_(1 / (1 - rate))
        count = math.prod(shape)
        size = self.SIZE if count * 4 <= self.SIZE else self.SIZE * self.LARGER
        if count * 2 > size:
            seed = int(torch.randint(2**63 - 1, ()))
            return draw_factors(count, rate, like.dtype, seed).view(shape)
        key = (size, rate, like.dtype)
        if key not in self._pools:
            self._pools[key] = draw_factors(size, rate, like.dtype, self._seed)
        start = int(torch.randint(size - count, ()))
        return self._pools[key][start : start + count].view(shape)


class Attention(torch.autograd.Function):
    """Scaled dot-product attention of packed projections (N, 3H), forward and backward by hand.

    It keeps the probabilities and the rearranged projections, and no other copy of the rectangle. Softmax is
    in float32 where the rows are short, whose kernels are the faster ones there; so are the products of
    short texts.
    """

    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, index: PackedIndex, heads: int, dropout: float, pool: DropoutPool
    ) -> Tensor:
        """Context vectors (N, H)."""
        batch, width = index.mask.shape
        size = projected.shape[1] // (3 * heads)
        dtype = torch.float32 if width < SHORT else projected.dtype
        parts = projected.index_select(0, index.to_padded).view(batch, width, 3, heads, size)
        arranged = torch.empty((3, batch, heads, width, size), dtype=dtype, device=projected.device)
        arranged.copy_(parts.permute(2, 0, 3, 1, 4))
        query, key, value = arranged.view(3, batch * heads, width, size).unbind(0)
        bias = ((1 - index.mask) * MASKED).to(dtype)
        bias = bias[:, None, None, :].expand(batch, heads, 1, width).reshape(batch * heads, 1, width)
        scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=size**-0.5)
        weights = torch.softmax(scores, dim=-1, dtype=softmax_dtype(dtype, width)).to(dtype)
        factors = pool.mask(tuple(weights.shape), dropout, weights) if dropout else None
        dropped = weights if factors is None else weights * factors
        context = torch.bmm(dropped, value).view(batch, heads, width, size)
        ctx.save_for_backward(arranged, weights, *([] if factors is None else [factors]))
        ctx.index, ctx.heads = index, heads
        return _merge(context.transpose(1, 2), index, projected.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        """The gradient of the projections."""
        arranged, weights, *rest = ctx.saved_tensors
        index, heads, size = ctx.index, ctx.heads, arranged.shape[-1]
        batch, width = index.mask.shape
        query, key, value = arranged.view(3, batch * heads, width, size).unbind(0)
        # Padding of the rectangle points at filler, whose gradient is 0, as nothing of it reaches a loss.
        padded = gradients[0].index_select(0, index.to_padded).view(batch, width, heads, size)
        context = torch.empty((batch, heads, width, size), dtype=weights.dtype, device=padded.device)
        context = context.copy_(padded.permute(0, 2, 1, 3)).view(batch * heads, width, size)
        dropped = weights * rest[0] if rest else weights
        grads = torch.empty_like(arranged).view(3, batch * heads, width, size)
        torch.bmm(dropped.transpose(1, 2), context, out=grads[2])
        inner = torch.bmm(context, value.transpose(1, 2))
        if rest:
            inner *= rest[0]
        exact = softmax_dtype(weights.dtype, width)
        scores = torch._softmax_backward_data(inner.to(exact), weights.to(exact), -1, exact).to(weights.dtype)
        torch.baddbmm(grads[0], scores, key, beta=0, alpha=size**-0.5, out=grads[0])
        torch.baddbmm(grads[1], scores.transpose(1, 2), query, beta=0, alpha=size**-0.5, out=grads[1])
        merged = grads.view(3, batch, heads, width, size).permute(1, 3, 0, 2, 4)
        rows = _merge(merged, index, gradients[0].dtype)
        rows[index.tokens :] = 0
        return rows, None, None, None, None


def softmax_dtype(dtype: torch.dtype, width: int) -> torch.dtype:
    """Precision of softmax on rows of so many scores."""
    return dtype if width >= WIDE else torch.float32


def _merge(parts: Tensor, index: PackedIndex, dtype: torch.dtype) -> Tensor:
    """(B, T, ...) to packed rows (N, the rest in one dimension)."""
    together = torch.empty(parts.shape, dtype=dtype, device=parts.device).copy_(parts)
    return together.view(index.mask.numel(), -1).index_select(0, index.to_packed)


@dataclass(frozen=True)
class LayerModules:
    """The parts of one encoder layer, whatever its architecture calls them."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear
    attention_norm: nn.LayerNorm
    up: nn.Linear
    down: nn.Linear
    output_norm: nn.LayerNorm


class PackedLayer(nn.Module):
    """The weights of one encoder layer, query, key and value in one matrix."""

    def __init__(self, parts: LayerModules) -> None:
        super().__init__()
        self.qkv = _joined(parts.query, parts.key, parts.value)
        self.output, self.up, self.down = (_joined(part) for part in (parts.output, parts.up, parts.down))
        self.attention_norm, self.output_norm = _norm(parts.attention_norm), _norm(parts.output_norm)


class PackedEncoder(nn.Module):
    """A copy of a backbone's weights that computes on packed tokens.

    Args:
        backbone: a transformers encoder of a type in `PACKABLE`; its configuration gives the dropout rates.

    Its embedding table is no parameter of it: the rows that a batch needs come in with each call.
    """

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        config = backbone.config
        self.distil = config.model_type == "distilbert"
        self.heads = int(config.num_attention_heads)
        self.activation = ACT2FN[config.activation if self.distil else config.hidden_act]
        self.hidden_dropout = float(config.dropout if self.distil else config.hidden_dropout_prob)
        self.attention_dropout = float(
            config.attention_dropout if self.distil else config.attention_probs_dropout_prob
        )
        # DistilBERT has none on what attention adds.
        self.attended_dropout = 0.0 if self.distil else self.hidden_dropout
        self.checkpointing = False
        self.pool = DropoutPool()
        embeddings = backbone.embeddings
        self.first_position = (
            int(config.pad_token_id) + 1 if config.model_type in ("roberta", "xlm-roberta") else 0
        )
        self.positions = nn.Parameter(embeddings.position_embeddings.weight.detach().clone())
        self.types = (
            None if self.distil else nn.Parameter(embeddings.token_type_embeddings.weight.detach().clone())
        )
        self.norm = _norm(embeddings.LayerNorm)
        self.layers = nn.ModuleList(PackedLayer(parts) for parts in layer_modules(backbone))

    def forward(self, embedded: Tensor, index: PackedIndex) -> Tensor:
        """Token vectors (N, H) in the precision of the weights, of word embeddings (N, H)."""
        hidden = embedded + functional.embedding(index.positions + self.first_position, self.positions)
        if self.types is not None:
            hidden = hidden + self.types[0]
        hidden = self._dropout(self._normalise(hidden, self.norm))
        for layer in self.layers:
            if self.checkpointing and self.training:
                hidden = torch.utils.checkpoint.checkpoint(
                    self._layer, layer, hidden, index, use_reentrant=False
                )
            else:
                hidden = self._layer(layer, hidden, index)
        return hidden

    def _layer(self, layer: Any, hidden: Tensor, index: PackedIndex) -> Tensor:
        projected = functional.linear(hidden, layer.qkv.weight, layer.qkv.bias)
        attended = self._attention(projected, index)
        attended = functional.linear(attended, layer.output.weight, layer.output.bias)
        hidden = self._normalise(self._add(hidden, attended, self.attended_dropout), layer.attention_norm)
        inner = self.activation(functional.linear(hidden, layer.up.weight, layer.up.bias))
        inner = functional.linear(inner, layer.down.weight, layer.down.bias)
        return self._normalise(self._add(hidden, inner, self.hidden_dropout), layer.output_norm)

    def _attention(self, projected: Tensor, index: PackedIndex) -> Tensor:
        rate = self.attention_dropout if self.training else 0.0
        if projected.device.type == "cpu":
            return Attention.apply(projected, index, self.heads, rate, self.pool)  # type: ignore[no-any-return, no-untyped-call]
        return fused_attention(projected, index, self.heads, rate)

    def _add(self, hidden: Tensor, change: Tensor, rate: float) -> Tensor:
        """The residual connection, with dropout on what is added."""
        if not (self.training and rate):
            return hidden + change
        return torch.addcmul(hidden, change, self.pool.mask(tuple(change.shape), rate, change))

    def _dropout(self, hidden: Tensor) -> Tensor:
        if not (self.training and self.hidden_dropout):
            return hidden
        return hidden * self.pool.mask(tuple(hidden.shape), self.hidden_dropout, hidden)

    def _normalise(self, hidden: Tensor, norm: Any) -> Tensor:
        return functional.layer_norm(hidden, (hidden.shape[-1],), norm.weight, norm.bias, norm.eps)


def fused_attention(projected: Tensor, index: PackedIndex, heads: int, dropout: float) -> Tensor:
    """As `Attention`, through torch's scaled dot-product attention: the faster one on a GPU."""
    batch, width = index.mask.shape
    rectangle: Tensor = Unpack.apply(projected, index)  # type: ignore[no-untyped-call]
    query, key, value = rectangle.view(batch, width, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    context = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=index.mask.bool()[:, None, None, :], dropout_p=dropout
    )
    return context.transpose(1, 2).reshape(batch * width, -1).index_select(0, index.to_packed)


def layer_modules(backbone: Any) -> list[LayerModules]:
    """The parts of every layer of a backbone in `PACKABLE`."""
    if backbone.config.model_type == "distilbert":
        return [
            LayerModules(
                layer.attention.q_lin,
                layer.attention.k_lin,
                layer.attention.v_lin,
                layer.attention.out_lin,
                layer.sa_layer_norm,
                layer.ffn.lin1,
                layer.ffn.lin2,
                layer.output_layer_norm,
            )
            for layer in backbone.transformer.layer
        ]
    return [
        LayerModules(
            layer.attention.self.query,
            layer.attention.self.key,
            layer.attention.self.value,
            layer.attention.output.dense,
            layer.attention.output.LayerNorm,
            layer.intermediate.dense,
            layer.output.dense,
            layer.output.LayerNorm,
        )
        for layer in backbone.encoder.layer
    ]


def _joined(*parts: nn.Linear) -> nn.Linear:
    """One linear layer that computes several on the same input."""
    first = parts[0]
    joined = nn.Linear(first.in_features, sum(part.out_features for part in parts))
    with torch.no_grad():
        joined.weight.copy_(torch.cat([part.weight for part in parts]))
        joined.bias.copy_(torch.cat([part.bias for part in parts]))
    return joined


def _norm(norm: nn.LayerNorm) -> nn.LayerNorm:
    copy = nn.LayerNorm(norm.normalized_shape, eps=norm.eps)
    copy.load_state_dict(norm.state_dict())
    return copy
