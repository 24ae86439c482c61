"""Masked-language-model training: some tokens are hidden or replaced, and the backbone learns to tell them.

On the texts of the task it is the task-adaptive pre-training of Gururangan et al., "Don't Stop Pretraining:
Adapt Language Models to Domains and Tasks", ACL 2020. Masks follow Devlin et al., "BERT: Pre-training of Deep
Bidirectional Transformers for Language Understanding", NAACL 2019; new ones are drawn in every epoch, as in
Liu et al., "RoBERTa: A Robustly Optimized BERT Pretraining Approach", 2019.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN

from afina.errors import UserError
from afina.modeling.backbone import read_object, weight_files
from afina.modeling.classifier import TextClassifier
from afina.modeling.inference import out_of_memory
from afina.params.adapt import AdaptParams
from afina.progress import Progress
from afina.runtime.encoding import Ids
from afina.training.batches import epoch_batches
from afina.training.checkpoint import (
    State,
    clear_checkpoints,
    code_version,
    fingerprint,
    load_checkpoint,
    save_checkpoint,
)
from afina.training.engine import POOL_UPDATES, NotFiniteError, shown_ids, update_seed
from afina.training.forward import (
    Forward,
    PackedForward,
    PaddedForward,
    Pair,
    choose_forward,
    word_embeddings,
)
from afina.training.schedule import schedule
from afina.training.weights import FlatWeights, Slot

MAX_GRADIENT_NORM = 1.0

# Of the tokens to be told, BERT's shares: hidden, replaced by another one; the rest stays as it is.
HIDDEN, REPLACED = 0.8, 0.1

# Of the section adapt what training depends on beside the weights that it starts from.
OF_TRAINING = {"epochs", "learning_rate", "batch_size", "warmup", "weight_decay"}

MASK_TOKENS = ("[MASK]", "<mask>")

# Where checkpoints keep the parts of `PredictionHead`, in the order of `PredictionHead.parts`.
HEAD_NAMES = {
    "bert": (
        "cls.predictions.transform.dense.weight",
        "cls.predictions.transform.dense.bias",
        "cls.predictions.transform.LayerNorm.weight",
        "cls.predictions.transform.LayerNorm.bias",
        "cls.predictions.bias",
    ),
    "distilbert": (
        "vocab_transform.weight",
        "vocab_transform.bias",
        "vocab_layer_norm.weight",
        "vocab_layer_norm.bias",
        "vocab_projector.bias",
    ),
    "roberta": (
        "lm_head.dense.weight",
        "lm_head.dense.bias",
        "lm_head.layer_norm.weight",
        "lm_head.layer_norm.bias",
        "lm_head.bias",
    ),
    "modernbert": (
        "head.dense.weight",
        "head.dense.bias",
        "head.norm.weight",
        "head.norm.bias",
        "decoder.bias",
    ),
}
HEAD_NAMES["xlm-roberta"] = HEAD_NAMES["roberta"]
# Names that older checkpoints give the two vectors of a normalisation.
OLDER_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


@dataclass(frozen=True)
class Masking:
    """How tokens are masked."""

    share: float  # of the tokens that are not special
    mask_token_id: int
    special: npt.NDArray[np.bool_]  # (V,) never to be told, and never put in another's place
    nothing: int  # the padding token's id: what stands in the targets where there is nothing to tell

    @property
    def ordinary(self) -> Ids:
        """Ids of the tokens that are not special."""
        return np.flatnonzero(~self.special)

    def within(self, rows: int) -> Masking:
        """The same where the embedding table has so many rows: what it lacks is never put in."""
        return replace(self, special=self.special | (np.arange(len(self.special)) >= rows))


def find_masking(folder: Path, tokenizer_json: str, share: float, pad_token_id: int) -> Masking:
    """What to mask with in a backbone's tokenizer.

    Raises:
        UserError: it has no mask token.
    """
    tokenizer = Tokenizer.from_str(tokenizer_json)
    number = next(
        (found for name in _mask_names(folder) if (found := tokenizer.token_to_id(name)) is not None), None
    )
    if number is None:
        raise UserError("adapt.epochs: the backbone's tokenizer has no mask token; set it to 0")
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    # An id that stands for no token is as little to be drawn as a special one.
    special = np.ones(max(*vocabulary.values(), pad_token_id) + 1, dtype=bool)
    special[list(vocabulary.values())] = False
    added = tokenizer.get_added_tokens_decoder()
    special[[index for index, token in added.items() if token.special]] = True
    special[[number, pad_token_id, *tokenizer.encode("").ids]] = True
    return Masking(share, number, special, pad_token_id)


def _mask_names(folder: Path) -> Iterator[str]:
    """What the mask token may be called: as the tokenizer's files say, else as is usual."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        token = read_object(path).get("mask_token") if path.is_file() else None
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str):
            yield content
    yield from MASK_TOKENS


def mask_tokens(tokens: Ids, masking: Masking, random: np.random.Generator) -> tuple[Ids, Ids]:
    """Choose tokens to be told and hide most of them.

    Args:
        tokens: (N,) ids.
        masking: shares and special tokens.
        random: where the choice comes from.

    Returns:
        What the model sees and what it has to tell, both (N,); the second is ``masking.nothing`` where
        there is nothing to tell.
    """
    chosen = np.flatnonzero(~masking.special[tokens] & (random.random(len(tokens)) < masking.share))
    fate = random.random(len(chosen))
    others = masking.ordinary[random.integers(len(masking.ordinary), size=len(chosen))]
    seen, targets = tokens.copy(), np.full_like(tokens, masking.nothing)
    targets[chosen] = tokens[chosen]
    hidden, replaced = fate < HIDDEN, (fate >= HIDDEN) & (fate < HIDDEN + REPLACED)
    seen[chosen[hidden]] = masking.mask_token_id
    seen[chosen[replaced]] = others[replaced]
    return seen, targets


def masked_batches(
    ids: Sequence[Ids], batch_size: int, masking: Masking, seed: int, epoch: int
) -> Iterator[tuple[list[Ids], list[Ids]]]:
    """An epoch's batches of texts: what the model sees and what it has to tell, as `mask_tokens`.

    Batches and masks are a function of ``seed`` and ``epoch``.
    """
    random = np.random.default_rng([seed, epoch, 1])  # not the numbers that the batches are drawn with
    for batch in epoch_batches([len(tokens) for tokens in ids], batch_size, seed, epoch):
        texts = [ids[row] for row in batch]
        ends = np.cumsum([len(tokens) for tokens in texts])[:-1]
        seen, targets = mask_tokens(np.concatenate(texts), masking, random)
        yield np.split(seen, ends), np.split(targets, ends)


class PredictionHead(nn.Module):
    """Token vectors to logits of the vocabulary: dense, activation, normalisation, the embedding table.

    Its dense layer begins as the identity, so that a backbone without a head of its own starts from what its
    vectors and its table have in common.

    Args:
        config: the backbone's.
        vocabulary: rows V of its table.
    """

    def __init__(self, config: Any, vocabulary: int) -> None:
        super().__init__()
        width = int(config.hidden_size)
        names = {"distilbert": "activation", "modernbert": "classifier_activation"}
        self.activation = ACT2FN[getattr(config, names.get(config.model_type, "hidden_act"))]
        epsilon = getattr(config, "layer_norm_eps", getattr(config, "norm_eps", 1e-12))
        self.dense = nn.Linear(width, width)
        nn.init.eye_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)
        self.norm = nn.LayerNorm(width, eps=epsilon)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, vectors: Tensor, table: Tensor) -> Tensor:
        """Logits (M, V) float32 of token vectors (M, H) and the table (V, H)."""
        features = self.norm(self.activation(self.dense(vectors)))
        return functional.linear(features.to(table.dtype), table).float() + self.bias

    @property
    def parts(self) -> tuple[nn.Parameter, ...]:
        """Its parameters in the order of `HEAD_NAMES`."""
        dense, norm = cast(Any, self.dense), cast(Any, self.norm)
        return (dense.weight, dense.bias, norm.weight, norm.bias, self.bias)


def read_head(folder: Path, model_type: str, head: PredictionHead) -> bool:
    """Take up the head that a checkpoint was pre-trained with, if it has one.

    Args:
        folder: of the backbone.
        model_type: as its configuration says.
        head: changed in place. A vocabulary that has grown keeps the bias 0 for its new tokens.

    Returns:
        Whether there is one.
    """
    found: dict[str, Tensor] = {}
    wanted = HEAD_NAMES[model_type]
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118
                name = key
                for old, new in OLDER_NAMES.items():
                    name = name.replace(old, new)
                if name in wanted:
                    found[name] = opened.get_tensor(key).float()
    if not {wanted[0], wanted[2], wanted[4]} <= set(found):  # some architectures have no biases in it
        return False
    pairs = [(part, found[name]) for part, name in zip(head.parts, wanted, strict=True) if name in found]
    *inner, last = pairs
    fits = all(part.shape == values.shape for part, values in inner)
    if not fits or len(last[1]) > len(head.bias):
        return False
    with torch.no_grad():
        for part, values in pairs:
            part[: len(values)].copy_(values)
    return True


def token_vectors(forward: Forward, embedded: Tensor, batch: Any) -> Tensor:
    """The backbone's last vectors (N, H) of word embeddings (N, H), in the order of ``batch.token_ids``."""
    if isinstance(forward, PackedForward):
        return forward.encoder(embedded, batch)  # type: ignore[no-any-return]
    assert isinstance(forward, PaddedForward)
    output = forward.model.backbone(
        inputs_embeds=embedded.view(*batch.mask.shape, -1), attention_mask=batch.mask
    )
    vectors: Tensor = output.last_hidden_state
    return vectors.reshape(len(embedded), -1)


class MaskedTrainer:
    """A backbone under masked-language-model training.

    The softmax goes over the whole vocabulary, so every row of the table has a gradient: the table is trained
    with the other weights and not by rows.

    Args:
        backbone: on ``device``; its weights change in place, and its unused pooling layer goes.
        head: on ``device``.
        params: the section ``adapt``.
        updates: how many there will be.
        precision: fp32 or bf16.
        max_length: longest text in tokens.
        seed: of dropout.
        pad_token_id: the tokenizer's: what fills batches, and stands in targets where nothing is to be told.
            The configuration's, which may be another one, is not looked at.
    """

    def __init__(
        self,
        backbone: Any,
        head: PredictionHead,
        params: AdaptParams,
        updates: int,
        precision: str,
        device: torch.device,
        max_length: int,
        seed: int,
        pad_token_id: int,
    ) -> None:
        self.head, self.params, self.updates, self.seed = head, params, updates, seed
        self.precision, self.device = precision, device
        self.split = 1  # parts that a batch is cut into because it does not fit in the memory whole
        model = TextClassifier(backbone, label_count=1)  # a way to compute wants one; its head is not used
        self.forward = choose_forward(model, precision, device, max_length)
        self.forward.pad_token_id = pad_token_id
        self.forward.train(True)
        table: Any = word_embeddings(model).weight
        self.table: nn.Parameter = table
        if table.dtype != self.forward.dtype:
            self.table = nn.Parameter(table.detach().to(self.forward.dtype))
        pairs: list[Pair] = [*self.forward.pairs(), (self.table, (table,))]
        pairs += [(part, (part,)) for part in head.parts]
        self.flat = FlatWeights(
            [
                Slot(leaf, sources, params.learning_rate, params.weight_decay if leaf.ndim > 1 else 0.0)
                for leaf, sources in pairs
            ],
            device,
        )

    def loss(self, seen: Sequence[Ids], targets: Sequence[Ids]) -> tuple[Tensor, int]:
        """Mean cross-entropy of the tokens to be told, and how many they are; 0 where there are none."""
        batch = self.forward.prepare(seen)
        # Laid out in the same way; filler is the padding token, which is what stands for nothing too.
        wanted = self.forward.prepare(targets).token_ids
        places = torch.nonzero(wanted != self.forward.pad_token_id).squeeze(1)
        wanted = wanted[places]
        if not len(places):
            return torch.zeros((), device=self.device), 0
        batch, places = batch.to(self.device), places.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            embedded = functional.embedding(batch.token_ids, self.table)
            vectors = token_vectors(self.forward, embedded, batch)
            logits = self.head(vectors.index_select(0, places).float(), self.table)
        return functional.cross_entropy(logits.float(), wanted.to(self.device)), len(places)

    def update(self, seen: Sequence[Ids], targets: Sequence[Ids], number: int) -> tuple[float, int]:
        """Update the weights once; the loss before it and the tokens that it is the mean over.

        A batch that does not fit in the memory is cut in half, and the update begun again.

        Raises:
            NotFiniteError: the loss or the gradient is not a number; the weights are as they were.
            UserError: a single text does not fit in the memory.
        """
        while True:
            self.forward.refresh_dropout(update_seed(self.seed, 0, number // POOL_UPDATES, 1))
            torch.manual_seed(update_seed(self.seed, 0, number))
            try:
                value, count = self._backward(seen, targets)
                break
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                self.flat.drop_gradients()
                self._halve(len(seen))
        if not count:
            return 0.0, 0
        self.flat.gather_gradients()
        norm = torch.dot(self.flat.gradients, self.flat.gradients).sqrt()
        if not (np.isfinite(value) and bool(torch.isfinite(norm))):
            raise NotFiniteError("masked loss", np.arange(len(seen)))
        share = schedule(number, self.updates, self.params.warmup)
        self.flat.step(share, (norm / MAX_GRADIENT_NORM).clamp(min=1.0))
        return value, count

    def _backward(self, seen: Sequence[Ids], targets: Sequence[Ids]) -> tuple[float, int]:
        """Gradients of the mean loss, which is returned, and the tokens that it is the mean over."""
        total = sum(int((row != self.forward.pad_token_id).sum()) for row in targets)
        value = 0.0
        for part in np.array_split(np.arange(len(seen)), min(self.split, len(seen))):
            loss, count = self.loss([seen[row] for row in part], [targets[row] for row in part])
            if count:
                loss = loss * (count / total)
                value += float(loss.detach())
                loss.backward()  # type: ignore[no-untyped-call]
        return value, total

    def _halve(self, largest: int) -> None:
        if self.split >= largest:
            raise UserError("adapt: a single text does not fit in the memory; lower adapt.max_length")
        self.split *= 2
        print(
            f"adapt: a batch does not fit in the memory; going on with batches in {self.split} parts, whose "
            "gradients add up to the same",
            file=sys.stderr,
            flush=True,
        )

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps beside the model's own weights."""
        # Gradients of other parts add up to other last digits.
        return self.flat.state() | {"split": torch.tensor(self.split)}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take up `state`, the model's own weights having been loaded."""
        self.split = int(tensors["split"])
        self.flat.load_state({name: value for name, value in tensors.items() if name != "split"})


def train_masked(
    backbone: Any,
    ids: Sequence[Ids],
    masking: Masking,
    folder: Path,
    params: AdaptParams,
    precision: str,
    max_length: int,
    seed: int,
    checkpoint_folder: Path | None = None,
    names: Sequence[str] = (),
) -> list[float]:
    """Train a backbone to tell masked tokens.

    A run that was killed goes on after the last epoch that it finished and, on the same machine, reaches the
    same weights bit for bit as if it had not been (on a GPU as far as its kernels are deterministic).

    Args:
        backbone: on its device; its weights change in place.
        ids: each text's tokens.
        masking: see `find_masking`.
        folder: of the backbone's checkpoint, whose head is used if it has one.
        params: the section ``adapt``.
        precision: fp32 or bf16.
        max_length: longest text in tokens.
        seed: of batches, masks and dropout.
        checkpoint_folder: where each epoch's end is kept; the last one stays, for whoever has yet to save the
            backbone. None: nowhere.
        names: what each text is called where one is to blame; none: its number, from 0.

    Returns:
        The mean loss of the tokens to be told, by epoch.

    Raises:
        UserError: there is nothing to tell, training goes wrong, or a checkpoint cannot be written.
    """
    names = [
        name for name, tokens in zip(names or map(str, range(len(ids))), ids, strict=True) if len(tokens)
    ]
    ids = [tokens for tokens in ids if len(tokens)]
    if not any((~masking.special[tokens]).any() for tokens in ids):
        raise UserError("adapt.epochs: the texts hold no token that could be masked; set it to 0")
    device = next(backbone.parameters()).device
    head = PredictionHead(backbone.config, len(backbone.get_input_embeddings().weight))
    read_head(folder, backbone.config.model_type, head)
    model = nn.ModuleDict({"backbone": backbone, "head": head.to(device)})
    key = "" if checkpoint_folder is None else _key(model, ids, masking, params, precision, max_length, seed)
    updates = -(-len(ids) // params.batch_size)
    trainer = MaskedTrainer(
        backbone,
        head,
        params,
        updates * params.epochs,
        precision,
        device,
        max_length,
        seed,
        masking.nothing,
    )
    losses = torch.zeros(params.epochs, dtype=torch.float64)
    state = _resume(checkpoint_folder, key, model, trainer, losses)
    left = range(state.epoch, params.epochs)
    with Progress("adapt", total=len(ids) * len(left), unit="texts") as progress:
        for epoch in left:
            total, told = 0.0, 0
            batches = masked_batches(ids, params.batch_size, masking, seed, epoch)
            for number, (seen, targets) in enumerate(batches, start=epoch * updates):
                try:
                    loss, count = trainer.update(seen, targets, number)
                except NotFiniteError as error:
                    lengths = [len(tokens) for tokens in ids]
                    rows = epoch_batches(lengths, params.batch_size, seed, epoch)[number - epoch * updates]
                    raise UserError(
                        f"adapt: the {error.what} is not a number any more (batch of ids "
                        f"{shown_ids([names[row] for row in rows])}); lower adapt.learning_rate. The last "
                        "checkpoint, where there is one, is kept"
                    ) from None
                total, told = total + loss * count, told + count
                mean = total / max(told, 1)
                progress.advance(len(seen), f"epoch {epoch + 1}/{params.epochs} masked loss {mean:.3f}")
            losses[epoch] = round(total / max(told, 1), 6)
            state.epoch = epoch + 1
            if checkpoint_folder is not None:
                save_checkpoint(checkpoint_folder, key, state, model, trainer, losses)
    return losses.tolist()


def _key(
    model: nn.Module,
    ids: Sequence[Ids],
    masking: Masking,
    params: AdaptParams,
    precision: str,
    max_length: int,
    seed: int,
) -> str:
    """Fingerprint of a run, from its weights before the first update on."""
    weights, texts, backbone = hashlib.sha256(), hashlib.sha256(), cast(Any, model)["backbone"]
    for name, tensor in model.state_dict().items():
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().reshape(-1).numpy().data)
    for tokens in ids:
        texts.update(len(tokens).to_bytes(8, "little") + tokens.tobytes())
    return fingerprint(
        {
            "params": params.model_dump(include=OF_TRAINING),
            "precision": precision,
            "max_length": max_length,
            "seed": seed,
            "weights": weights.hexdigest(),
            "config": backbone.config.to_json_string(),
            "texts": texts.hexdigest(),
            "masking": [masking.share, masking.mask_token_id, masking.nothing, *masking.ordinary.tolist()],
            "code": code_version(("adaptation", "training", "modeling")),
        }
    )


def _resume(folder: Path | None, key: str, model: nn.Module, trainer: MaskedTrainer, losses: Tensor) -> State:
    """How far an earlier run came; all that has changed since the first update is taken up from it."""
    state = None if folder is None else load_checkpoint(folder, key, model, trainer, losses, "adapt")
    if state is None:
        if folder is not None:
            clear_checkpoints(folder)
        return State()
    print(f"adapt: resumes after epoch {state.epoch} of {len(losses)}", file=sys.stderr, flush=True)
    return state
