"""The packed encoder against transformers: outputs, gradients, dropout, and what must not leak."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from afina.modeling import packed
from afina.modeling.classifier import Pooling, TextClassifier
from afina.modeling.inference import logits_of_ids
from afina.modeling.packed import (
    PACKABLE,
    SHORT,
    WIDE,
    Attention,
    DropoutPool,
    PackedEncoder,
    PackedIndex,
    Unpack,
    draw_factors,
    fused_attention,
    pack,
    round_up,
    round_width,
)
from afina.runtime.encoding import Ids, pad_batch
from afina.training.forward import PackedForward, PaddedForward, all_logits, choose_forward

CPU = torch.device("cpu")
VOCABULARY, HIDDEN, HEADS = 61, 32, 2

# Widths below SHORT, at it, above it and above WIDE; texts of one token; one text alone; no padding at all.
BATCHES = {
    "short": [1, 3, 8, 7],
    "at the limit": [15, 1, 16, 2],
    "long": [1, 47, 48, 7, 33],
    "wide": [54, 3, 50],
    "one token": [1],
    "one short text": [5],
    "one long text": [48],
    "equal lengths": [40, 40, 40],
}
SHORT_AND_LONG = pytest.mark.parametrize(
    "lengths", [BATCHES[name] for name in ("short", "long", "wide")], ids=["short", "long", "wide"]
)


def make_backbone(model_type: str, dropout: float = 0.0, seed: int = 0) -> Any:
    """A backbone whose weights are large enough for attention to attend to something."""
    sizes: dict[str, Any] = {"vocab_size": VOCABULARY}
    if model_type == "distilbert":
        sizes |= {"dim": HIDDEN, "hidden_dim": 48, "n_layers": 2, "n_heads": HEADS}
        sizes |= {"dropout": dropout, "attention_dropout": dropout, "pad_token_id": 0}
    else:
        sizes |= {"hidden_size": HIDDEN, "intermediate_size": 48}
        sizes |= {"num_hidden_layers": 2, "num_attention_heads": HEADS}
        sizes |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        sizes["pad_token_id"] = 0 if model_type == "bert" else 1
    config = transformers.AutoConfig.for_model(model_type, max_position_embeddings=56, **sizes)
    model = transformers.AutoModel.from_config(config, attn_implementation="eager")
    model.pooler = None
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            scale = 0.25 if weight.ndim > 1 and "embeddings" not in name else 0.5
            shift = 1.0 if name.endswith(("LayerNorm.weight", "layer_norm.weight")) else 0.0
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale + shift)
    return model.eval()


def make_texts(lengths: list[int], seed: int = 0) -> list[Ids]:
    """Token ids from 5 on: none is padding."""
    random = np.random.default_rng(seed)
    return [random.integers(5, VOCABULARY, length) for length in lengths]


def make_forward(
    backbone: Any, dtype: torch.dtype = torch.float32, checkpointing: bool = False
) -> PackedForward:
    return PackedForward(TextClassifier(backbone, 3), dtype, checkpointing)


def table_of(backbone: Any) -> Tensor:
    table: Tensor = backbone.get_input_embeddings().weight
    return table


def by_transformers(backbone: Any, ids: list[Ids]) -> Tensor:
    """Token vectors (all tokens, H), text by text."""
    input_ids, mask = (torch.from_numpy(part) for part in pad_batch(ids, backbone.config.pad_token_id))
    hidden: Tensor = backbone(input_ids=input_ids, attention_mask=mask).last_hidden_state
    return hidden[mask.bool()]


def packed_vectors(
    encoder: PackedEncoder, backbone: Any, ids: list[Ids], dtype: torch.dtype = torch.float32
) -> Tensor:
    index = pack(ids, backbone.config.pad_token_id)
    hidden: Tensor = encoder(functional.embedding(index.token_ids, table_of(backbone)).to(dtype), index)
    return hidden[: index.tokens]


def weights_for(vectors: Tensor) -> Tensor:
    """A loss's weights of all vector elements."""
    return torch.randn(vectors.shape, generator=torch.Generator().manual_seed(9))


def error(one: Tensor, other: Tensor) -> float:
    """Largest difference, in units of the largest element of the second."""
    return float((one - other).detach().abs().max() / other.detach().abs().max().clamp(min=1e-12))


# ------------------------------------------------------------------------------- equal to transformers


@pytest.mark.parametrize("lengths", BATCHES.values(), ids=BATCHES.keys())
@pytest.mark.parametrize("model_type", PACKABLE)
def test_vectors_and_gradients_are_those_of_transformers(model_type: str, lengths: list[int]) -> None:
    backbone, ids = make_backbone(model_type), make_texts(lengths)
    forward = make_forward(backbone)
    theirs, ours = by_transformers(backbone, ids), packed_vectors(forward.encoder, backbone, ids)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)

    (theirs * weights_for(theirs)).sum().backward()
    table = table_of(backbone)
    assert table.grad is not None
    of_table = table.grad.clone()
    table.grad = None
    (ours * weights_for(ours)).sum().backward()
    assert error(table.grad, of_table) < 1e-4
    pairs = forward.pairs()
    assert len(pairs) == len(list(forward.encoder.parameters()))
    for leaf, sources in pairs:
        assert leaf.grad is not None
        expected = torch.cat([source.grad for source in sources if source.grad is not None])
        assert error(leaf.grad, expected) < 1e-4


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("model_type", PACKABLE)
def test_logits_are_those_of_the_classifier(model_type: str, pooling: Pooling) -> None:
    backbone, ids = make_backbone(model_type, dropout=0.4), make_texts(BATCHES["long"] + BATCHES["short"])
    model = TextClassifier(backbone, 3, pooling, head=[7]).eval()
    forward = PackedForward(model, torch.float32, False)
    expected = logits_of_ids(model, ids, forward.pad_token_id)
    # In several batches, without dropout, in the order of the texts.
    np.testing.assert_allclose(all_logits(forward, model, ids, token_budget=100), expected, atol=1e-5)
    padded = PaddedForward(model, "fp32", CPU, 50, False)
    np.testing.assert_allclose(all_logits(padded, model, ids, token_budget=100), expected, atol=1e-5)


@SHORT_AND_LONG
@pytest.mark.parametrize("model_type", PACKABLE)
def test_bfloat16_is_no_further_off_than_transformers_in_bfloat16(
    model_type: str, lengths: list[int]
) -> None:
    backbone, ids = make_backbone(model_type), make_texts(lengths)
    exact = by_transformers(backbone, ids)
    (exact * weights_for(exact)).sum().backward()
    gradients = {name: weight.grad for name, weight in backbone.named_parameters()}

    forward = make_forward(backbone, torch.bfloat16)
    ours = packed_vectors(forward.encoder, backbone, ids, torch.bfloat16)
    assert ours.dtype == torch.bfloat16
    (ours.float() * weights_for(exact)).sum().backward()
    low = make_backbone(model_type).bfloat16()
    theirs = by_transformers(low, ids)
    (theirs.float() * weights_for(exact)).sum().backward()

    def distance(one: Tensor, other: Tensor) -> float:
        return float((one.detach().float() - other.detach()).norm() / other.detach().norm())

    assert distance(ours, exact) < min(0.03, 1.2 * distance(theirs, exact))
    names = {id(weight): name for name, weight in backbone.named_parameters()}
    of_low = dict(low.named_parameters())
    for leaf, sources in forward.pairs():
        expected = torch.cat([gradients[names[id(source)]] for source in sources])
        by_them = torch.cat([of_low[names[id(source)]].grad for source in sources])
        assert leaf.grad is not None
        # Both are rounding noise, of some vectors of few numbers.
        assert distance(leaf.grad, expected) < max(2 * distance(by_them, expected), 0.01)


def test_dropout_is_where_transformers_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every dropout in place of chance the same factor, both must give the same vectors."""

    def dropout(given: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return given * 0.7 if training and p else given

    monkeypatch.setattr(functional, "dropout", dropout)
    monkeypatch.setattr(DropoutPool, "mask", lambda _self, shape, _rate, like: like.new_full(shape, 0.7))
    for model_type in PACKABLE:
        backbone, ids = make_backbone(model_type, dropout=0.3), make_texts(BATCHES["short"])
        encoder = make_forward(backbone).encoder
        calm = packed_vectors(encoder.eval(), backbone, ids)
        backbone.train()
        theirs, ours = by_transformers(backbone, ids), packed_vectors(encoder.train(), backbone, ids)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0, msg=model_type)
        assert error(ours, calm) > 0.01


def test_which_models_are_packed() -> None:
    for model_type in PACKABLE:
        model = TextClassifier(make_backbone(model_type), 3)
        assert isinstance(choose_forward(model, "bf16", CPU, 32), PackedForward)
    relative = TextClassifier(make_backbone("bert"), 3)
    relative.backbone.config.position_embedding_type = "relative_key"
    assert isinstance(choose_forward(relative, "bf16", CPU, 32), PaddedForward)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "xlm-roberta"])
def test_a_decoder_is_trained_as_transformers_computes_it(model_type: str) -> None:
    encoder = make_backbone(model_type)
    config = deepcopy(encoder.config)
    config.is_decoder = True
    backbone = transformers.AutoModel.from_config(config, attn_implementation="eager")
    backbone.load_state_dict(encoder.state_dict(), strict=False)  # all but the pooling layer
    model, ids = TextClassifier(backbone, 3).eval(), make_texts(BATCHES["short"])
    with torch.no_grad():
        input_ids, mask = map(torch.from_numpy, pad_batch(ids, config.pad_token_id))
        expected = model(input_ids, mask).numpy()
    found = all_logits(choose_forward(model, "fp32", CPU, 32), model, ids)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("model_type", PACKABLE)
def test_a_backbone_with_adapters_is_not_packed(model_type: str) -> None:
    """One adapted layer is enough, whichever it is."""
    backbone = make_backbone(model_type)
    names = [name for name, module in backbone.named_modules() if isinstance(module, torch.nn.Linear)]
    assert len(names) == 2 * 6  # what `is_packable` looks at is all there is
    for name in names:
        adapted = TextClassifier(make_backbone(model_type), 3)
        peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=[name]), adapted.backbone)
        assert isinstance(choose_forward(adapted, "fp32", CPU, 32), PaddedForward), name


# --------------------------------------------------------------------------------------- what may not leak


@SHORT_AND_LONG
@pytest.mark.parametrize("model_type", PACKABLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_text_does_not_depend_on_its_neighbours(
    dtype: torch.dtype, model_type: str, lengths: list[int]
) -> None:
    backbone, ids = make_backbone(model_type), make_texts(lengths)
    encoder = make_forward(backbone, dtype).encoder
    ends = np.cumsum(lengths)
    together = packed_vectors(encoder, backbone, ids, dtype)
    # Other neighbours of the same lengths: bit for bit.
    others = [*make_texts(lengths, seed=1)[:-1], ids[-1]]
    beside_others = packed_vectors(encoder, backbone, others, dtype)
    assert torch.equal(beside_others[ends[-2] :], together[ends[-2] :])
    assert not torch.equal(beside_others[: ends[-2]], together[: ends[-2]])
    # Alone, where shapes and with them the order of sums are others. A width that crosses SHORT is left out
    # in bfloat16, where it changes the precision of attention.
    for text, end in zip(ids, ends, strict=True):
        if dtype == torch.float32:
            alone = packed_vectors(encoder, backbone, [text], dtype)
            torch.testing.assert_close(alone, together[end - len(text) : end], atol=1e-5, rtol=0)


@SHORT_AND_LONG
@pytest.mark.parametrize("fused", [False, True])
def test_filler_reaches_no_text_and_has_no_gradient(
    fused: bool, lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if fused:
        monkeypatch.setattr(
            PackedEncoder,
            "_attention",
            lambda self, projected, index: fused_attention(projected, index, self.heads, 0.0),
        )
    backbone, ids = make_backbone("bert"), make_texts(lengths)
    forward = make_forward(backbone)
    index = forward.prepare(ids)
    assert len(index.token_ids) > index.tokens
    embedded = functional.embedding(index.token_ids, table_of(backbone)).detach()
    results = []
    for noise in (0.0, 100.0):
        leaf = embedded.clone()
        leaf[index.tokens :] += noise * torch.randn(leaf[index.tokens :].shape)
        leaf.requires_grad_()
        forward.train(True)
        forward.model.head.eval()
        logits = forward.logits(leaf, index)
        (gradient,) = torch.autograd.grad((logits * weights_for(logits)).sum(), leaf)
        assert not gradient[index.tokens :].any()
        assert (gradient[: index.tokens].abs().sum(dim=1) > 0).all()
        results.append((logits.detach(), gradient))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_unpack_there_and_back() -> None:
    index = pack(make_texts([2, 1, 3]), 0)
    rows = torch.randn(len(index.token_ids), 4, requires_grad=True)
    rectangle = Unpack.apply(rows, index)
    assert rectangle.shape == (3 * 8, 4)
    assert torch.equal(rectangle[index.mask.view(-1).bool()], rows[:6])
    weights = torch.randn(rectangle.shape)  # on padding too
    (rectangle * weights).sum().backward()
    assert rows.grad is not None
    assert torch.equal(rows.grad[:6], weights[index.mask.view(-1).bool()])
    assert not rows.grad[6:].any()


# ------------------------------------------------------------------------------------------------ attention


class FixedMask(DropoutPool):
    """Dropout's factors, given."""

    def __init__(self, factors: Tensor) -> None:
        super().__init__()
        self.factors = factors

    def mask(self, shape: tuple[int, ...], rate: float, like: Tensor) -> Tensor:
        assert shape == tuple(self.factors.shape)
        return self.factors.to(like.dtype)


def plain_attention(projected: Tensor, index: PackedIndex, factors: Tensor | None) -> Tensor:
    """Attention as the textbook has it, text by text, in the precision of its input; (tokens, H)."""
    outputs, start = [], 0
    for text, length in enumerate(index.mask.sum(dim=1).tolist()):
        part = projected[start : start + length].view(length, 3, HEADS, -1)
        start += length
        heads = []
        for head in range(HEADS):
            query, key, value = part[:, :, head].unbind(1)
            weights = (query @ key.T / query.shape[1] ** 0.5).softmax(dim=1)
            if factors is not None:
                weights = weights * factors[text * HEADS + head, :length, :length]
            heads.append(weights @ value)
        outputs.append(torch.cat(heads, dim=1))
    return torch.cat(outputs)


@SHORT_AND_LONG
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_attention_and_its_gradient_against_float64(dropout: float, lengths: list[int]) -> None:
    index = pack(make_texts(lengths), 0)
    rows, (batch, width) = len(index.token_ids), index.mask.shape
    generator = torch.Generator().manual_seed(2)
    projected = torch.randn((rows, 3 * HIDDEN), generator=generator, requires_grad=True)
    factors = draw_factors(batch * HEADS * width * width, dropout, torch.float32, 3)
    factors = factors.view(batch * HEADS, width, width)
    context = Attention.apply(projected, index, HEADS, dropout, FixedMask(factors))
    exact = projected.detach().double().requires_grad_()
    expected = plain_attention(exact, index, factors.double() if dropout else None)
    torch.testing.assert_close(context[: index.tokens].double(), expected, atol=1e-5, rtol=0)
    weights = weights_for(expected)
    (context[: index.tokens] * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    assert projected.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(projected.grad.double(), exact.grad, atol=1e-5, rtol=0)


@SHORT_AND_LONG
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_fused_attention_is_attention(dtype: torch.dtype, tolerance: float, lengths: list[int]) -> None:
    index = pack(make_texts(lengths), 0)
    projected = torch.randn((len(index.token_ids), 3 * HIDDEN), generator=torch.Generator().manual_seed(2))
    results = []
    for attend in (
        lambda given: Attention.apply(given, index, HEADS, 0.0, DropoutPool()),
        lambda given: fused_attention(given, index, HEADS, 0.0),
    ):
        leaf = projected.to(dtype).requires_grad_()
        context = attend(leaf)
        assert context.dtype == dtype
        (context[: index.tokens].float() * weights_for(context[: index.tokens])).sum().backward()
        assert leaf.grad is not None
        results.append((context[: index.tokens].detach().float(), leaf.grad.float()))
    (context, gradient), (fused_context, fused_gradient) = results
    torch.testing.assert_close(fused_context, context, atol=tolerance, rtol=0)
    assert error(fused_gradient, gradient) < tolerance


# -------------------------------------------------------------------------------------------------- dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 0.9])
def test_factors_of_dropout(rate: float, dtype: torch.dtype) -> None:
    count = 1_000_001  # no multiple of four
    factors = draw_factors(count, rate, dtype, 1)
    assert (factors.shape, factors.dtype) == ((count,), dtype)
    assert factors.unique().tolist() == [0.0, torch.tensor(1 / (1 - rate)).to(dtype).item()]
    zeros = (factors == 0).double()
    deviation = (rate * (1 - rate) / count) ** 0.5
    assert abs(zeros.mean().item() - rate) < 5 * deviation + 1 / 65536
    rounding = 0 if dtype == torch.float32 else 2**-8
    assert factors.double().mean().item() == pytest.approx(
        1, abs=5 * deviation / (1 - rate) + 1e-4 + rounding
    )
    # Neighbours, four of which come of one number, know nothing of each other.
    for lag in range(1, 6):
        together = (zeros[lag:] * zeros[:-lag]).mean().item()
        assert abs(together - rate**2) < 5 * deviation


@pytest.mark.parametrize("rate", [0.0, 0.00001, 0.001, 0.999, 0.99999, 0.999999])
def test_rates_near_nothing_and_near_everything(rate: float) -> None:
    factors = draw_factors(100_000, rate, torch.float32, 0)
    share = (factors == 0).double().mean().item()
    assert share == pytest.approx(rate, abs=2e-4)


def test_the_pool_follows_its_seed() -> None:
    like = torch.empty(0)

    def masks(pool_seed: int, seed: int, rate: float = 0.3) -> list[Tensor]:
        pool = DropoutPool()
        pool.refresh(pool_seed)
        torch.manual_seed(seed)
        return [pool.mask((40, 50), rate, like) for _ in range(3)]

    first = masks(3, 5)
    assert all(torch.equal(*pair) for pair in zip(first, masks(3, 5), strict=True))
    for other in (masks(4, 5), masks(3, 6)):
        assert not any(torch.equal(*pair) for pair in zip(first, other, strict=True))
    assert not torch.equal(first[0], first[1])
    assert all(abs((mask == 0).double().mean().item() - 0.3) < 0.06 for mask in first)


def test_a_pool_is_drawn_once_for_each_seed_rate_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    original = draw_factors

    def draw(count: int, rate: float, dtype: torch.dtype, seed: int) -> Tensor:
        drawn.append((count, rate, dtype))
        return original(count, rate, dtype, seed)

    monkeypatch.setattr("afina.modeling.packed.draw_factors", draw)
    monkeypatch.setattr(DropoutPool, "SIZE", 4096)
    pool = DropoutPool()
    single, low = torch.empty(0), torch.empty(0, dtype=torch.bfloat16)
    for seed in (1, 1, 2):
        pool.refresh(seed)
        for like in (single, low, single):
            mask = pool.mask((8, 4), 0.5, like)
            assert (mask.dtype, mask.shape) == (like.dtype, (8, 4))
        pool.mask((3,), 0.1, single)
    kinds = [(0.5, torch.float32), (0.5, torch.bfloat16), (0.1, torch.float32)]
    assert drawn == [(4096, *kind) for kind in kinds * 2]
    # A stretch that is a large part of the pool would hardly vary: it comes from a larger one, or is drawn
    # for itself.
    drawn.clear()
    pool.mask((1024,), 0.5, single)
    assert not drawn
    for shape, size in (((5, 1000), 4 * 4096), ((5, 5000), 25_000)):
        torch.manual_seed(1)
        large = pool.mask(shape, 0.5, single)
        assert drawn == [(size, 0.5, torch.float32)]
        assert large.shape == shape
        assert (large == 0).double().mean().item() == pytest.approx(0.5, abs=0.04)
        assert not torch.equal(large, pool.mask(shape, 0.5, single))
        torch.manual_seed(1)
        assert torch.equal(large, pool.mask(shape, 0.5, single))
        drawn.clear()


@SHORT_AND_LONG
@pytest.mark.parametrize("model_type", PACKABLE)
def test_dropout_in_training_alone_and_by_seed(model_type: str, lengths: list[int]) -> None:
    backbone, ids = make_backbone(model_type, dropout=0.2), make_texts(lengths)
    encoder = make_forward(backbone).encoder
    torch.testing.assert_close(
        packed_vectors(encoder.eval(), backbone, ids), by_transformers(backbone, ids), atol=1e-5, rtol=0
    )
    encoder.train()

    def vectors(pool_seed: int, seed: int) -> Tensor:
        encoder.pool.refresh(pool_seed)
        torch.manual_seed(seed)
        return packed_vectors(encoder, backbone, ids).detach()

    first = vectors(1, 1)
    assert torch.equal(first, vectors(1, 1))
    assert error(vectors(2, 1), first) > 0.01
    assert error(vectors(1, 2), first) > 0.01


@SHORT_AND_LONG
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pool_size", [DropoutPool.SIZE, 256], ids=["pool", "drawn anew"])
def test_checkpointing_changes_no_gradient(
    pool_size: int, dtype: torch.dtype, dropout: float, lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DropoutPool, "SIZE", pool_size)
    backbone, ids = make_backbone("roberta", dropout), make_texts(lengths)
    results = []
    for checkpointing in (False, True):
        forward = make_forward(backbone, dtype, checkpointing)
        forward.encoder.train()
        forward.refresh_dropout(4)
        torch.manual_seed(7)
        index = forward.prepare(ids)
        leaf = functional.embedding(index.token_ids, table_of(backbone)).detach().to(dtype).requires_grad_()
        vectors = forward.encoder(leaf, index)[: index.tokens]
        (vectors.float() * weights_for(vectors)).sum().backward()
        results.append([vectors, leaf.grad, *(weight.grad for weight in forward.encoder.parameters())])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


# --------------------------------------------------------------------------------------------------- layout


@given(st.integers(1, 10**7))
def test_rounded_sizes_are_few_and_not_much_larger(size: int) -> None:
    rounded = round_up(size)
    assert 0 <= rounded - size < max(32, size / 8)
    assert rounded % 32 == 0
    assert round_up(rounded) == rounded
    assert round_up(size + 1) >= rounded


def test_how_many_sizes_there_are() -> None:
    assert len({round_up(size) for size in range(257, 513)}) == 8
    assert len({round_up(size) for size in range(8193, 16385)}) == 8


texts = st.lists(st.lists(st.integers(2, 99), min_size=1, max_size=70), min_size=1, max_size=12)


@settings(deadline=None)
@given(texts, st.integers(0, 1))
def test_packing_has_every_token_once_and_in_order(tokens: list[list[int]], pad: int) -> None:
    ids = [np.array(row, dtype=np.int64) for row in tokens]
    index = pack(ids, pad)
    total = sum(map(len, tokens))
    rows, (batch, width) = len(index.token_ids), index.mask.shape
    assert (index.tokens, rows, batch) == (total, round_up(total + 1), len(ids))
    assert index.token_ids[:total].tolist() == [token for row in tokens for token in row]
    assert index.positions[:total].tolist() == [place for row in tokens for place in range(len(row))]
    assert (index.token_ids[total:] == pad).all()
    assert not index.positions[total:].any()
    assert not index.to_packed[total:].any()
    longest = max(map(len, tokens))
    assert width == round_width(longest)
    padded, mask = pad_batch(ids, pad, width)
    assert index.mask.numpy().tolist() == mask.tolist()
    # To the rectangle and back.
    assert index.token_ids[index.to_padded].view(batch, width).numpy().tolist() == padded.tolist()
    assert torch.equal(index.to_padded[index.to_packed[:total]], torch.arange(total))
    assert (index.to_padded[~index.mask.view(-1).bool()] >= total).all()


@given(st.integers(1, 512))
def test_widths_hold_the_longest_text_and_suit_the_kernels(longest: int) -> None:
    width = round_width(longest)
    assert longest <= width < longest + 32
    if width >= WIDE:
        assert width % 32 == 0
    else:
        assert width % 8 == 0
        assert width < longest + 8


def test_sizes_of_the_widths_above_are_on_both_sides_of_the_limit() -> None:
    widths = {name: pack(make_texts(lengths), 0).mask.shape[1] for name, lengths in BATCHES.items()}
    assert widths["short"] < SHORT == widths["at the limit"] < widths["long"] < WIDE <= widths["wide"]


def test_other_devices_draw_their_own_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(*_: object) -> None:
        raise AssertionError("drawn by the processor")

    monkeypatch.setattr(packed, "draw_factors", drawn)
    like = torch.empty(0, dtype=torch.bfloat16, device="meta")
    mask = DropoutPool().mask((3, 4), 0.5, like)
    assert (mask.shape, mask.dtype, mask.device.type) == ((3, 4), torch.bfloat16, "meta")


def test_a_batch_goes_to_another_device_whole() -> None:
    index = pack([np.array([1, 2, 3]), np.array([4])], 0)
    there = index.to(torch.device("meta"))
    for name in ("token_ids", "positions", "mask", "to_padded", "to_packed"):
        assert getattr(there, name).device.type == "meta"
        assert getattr(there, name).shape == getattr(index, name).shape
    assert index.to(torch.device("cpu")) is index
