"""One update of the weights: forward, backward, sum over processes, clip, AdamW."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from afina.errors import UserError
from afina.labels import Task
from afina.modeling.classifier import TextClassifier
from afina.modeling.inference import out_of_memory
from afina.modeling.packed import sent
from afina.params.train import TrainParams
from afina.runtime.encoding import Ids
from afina.training.forward import Forward, all_logits, word_embeddings
from afina.training.weights import FlatWeights, RowWeights, Slot

Indexes = npt.NDArray[np.int64]

# Updates that take their dropout from one pool of factors.
POOL_UPDATES = 16


@dataclass(frozen=True)
class Examples:
    """A split, encoded."""

    names: list[str]  # the rows' ids in the table
    tokens: list[Ids]
    targets: npt.NDArray[Any]  # (n,) class indexes, or (n, L) multi-hot
    weights: npt.NDArray[np.float32]  # (n,) factor on each example's loss
    lexical: npt.NDArray[np.float32] | None = None  # (n, L) what the lexical model says of them


@dataclass(frozen=True)
class Updated:
    """What one update saw on this process."""

    loss_sum: float  # weighted
    weight_sum: float
    rows: Indexes  # examples it computed
    logits: Tensor  # (rows, L) float32, on the CPU


Loss = Callable[[Tensor, Tensor, float], Tensor]  # logits (B, L), targets, share of training done -> (B,)


class NotFiniteError(Exception):
    """The loss or the gradient is no number any more.

    Attributes:
        what: loss, masked loss or gradient.
        rows: examples of the batch; those whose own loss is no number come first.
    """

    def __init__(self, what: str, rows: Indexes) -> None:
        super().__init__(what)
        self.what, self.rows = what, rows


# Ids that are named of a batch that went wrong.
SHOWN_IDS = 64


def shown_ids(names: Sequence[str]) -> str:
    """The first ids of a batch, and how many more there are."""
    more = f" and {len(names) - SHOWN_IDS} more" if len(names) > SHOWN_IDS else ""
    return ", ".join(names[:SHOWN_IDS]) + more


class Engine:
    """A classifier under training.

    Args:
        model: on its device; its weights change in place.
        forward: how its logits are computed.
        params: the section ``train``.
        rates: (U,) share of the highest learning rate at each update.
        loss: of each example.
        seed: of dropout.
        world: processes that share each batch.
        reduce: sums a tensor over the processes, in place.
        row_factors: (V,) factor on the learning rate of each token's embedding; None: 1.
        first_row: the rows of the embedding table before this one stay as they are.
    """

    def __init__(
        self,
        model: TextClassifier,
        forward: Forward,
        params: TrainParams,
        task: Task,
        rates: npt.NDArray[np.float64],
        loss: Loss,
        seed: int,
        rank: int = 0,
        world: int = 1,
        reduce: Callable[[Tensor], Tensor] = lambda tensor: tensor,
        row_factors: Tensor | None = None,
        first_row: int = 0,
    ) -> None:
        self.model, self.forward, self.params, self.task = model, forward, params, task
        self.shares, self.loss, self.rank, self.world, self.reduce = rates, loss, rank, world, reduce
        self.seed = seed
        self.split = 1  # parts that a batch is cut into because it does not fit in the memory whole
        self.device = next(model.parameters()).device
        table: Any = word_embeddings(model).weight
        self.table: nn.Parameter = table
        self.first_row = first_row
        self.flat = FlatWeights(slots(model, forward, params), self.device)
        self.rows: RowWeights | None = None
        self.keeps = keeps = None if params.ema is None else average_keeps(params.ema, len(rates))
        if self.table.requires_grad:
            peak = params.learning_rate * layer_factor("embeddings", model, params.layer_decay)
            trained = self.table if not first_row else nn.Parameter(self.table.data[first_row:])  # a view
            factors = None if row_factors is None else row_factors[first_row:]
            self.rows = RowWeights(trained, rates * peak, params.weight_decay, factors, keeps)
        self.average = None if keeps is None else self.flat.values.clone()

    def update(self, examples: Examples, batches: Sequence[Indexes], number: int) -> Updated:
        """Update the weights once from a group of batches, whose gradients add up.

        A batch that does not fit in the memory is cut in half, and the update begun again.

        Args:
            batches: row numbers, of all processes; each takes its share.
            number: of the update, from 0.

        Raises:
            NotFiniteError: the loss or the gradient is not a number; the weights are as they were.
            UserError: a single example does not fit in the memory.
        """
        vocabulary = self._vocabulary(examples, batches)
        while True:
            # Dropout is a function of seed, process and update, so a checkpoint needs no generator state.
            self.forward.refresh_dropout(update_seed(self.seed, self.rank, number // POOL_UPDATES, 1))
            torch.manual_seed(update_seed(self.seed, self.rank, number))
            embeddings = self._embeddings(vocabulary, number)
            try:
                updated = self._backward(examples, batches, vocabulary, embeddings, number)
                break
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                self.flat.drop_gradients()
                self._halve(max(len(batch) for batch in batches))
        with fitting(
            "the optimizer's state", "set train.freeze or train.lora_rank, or use a smaller backbone"
        ):
            self._step(np.concatenate(batches), number)
        return updated

    def _vocabulary(self, examples: Examples, batches: Sequence[Indexes]) -> Indexes:
        """Tokens of the update, over all processes, so that all of them sum the same rows."""
        tokens = [examples.tokens[row] for batch in batches for row in batch]
        filler = np.array([self.forward.pad_token_id])
        return np.unique(np.concatenate([*tokens, filler]))

    def _embeddings(self, vocabulary: Indexes, number: int) -> list[Tensor]:
        """The vocabulary's rows of the table, in one part or two: those that stay, those that are trained."""
        stay = len(vocabulary) if self.rows is None else int(np.searchsorted(vocabulary, self.first_row))
        parts = []
        if stay:
            chosen = torch.from_numpy(vocabulary[:stay]).to(self.device)
            parts.append(self.table.detach()[chosen].to(self.forward.dtype))
        if self.rows is not None:
            trained = vocabulary[stay:] - self.first_row
            parts.append(self.rows.begin(trained, number + 1, self.forward.dtype))
        return parts

    def _backward(
        self,
        examples: Examples,
        batches: Sequence[Indexes],
        vocabulary: Indexes,
        embeddings: list[Tensor],
        number: int,
    ) -> Updated:
        """Gradients of this process's share of the batches."""
        total = sum(len(batch) for batch in batches)
        loss_sum, weight_sum = 0.0, 0.0
        rows: list[Indexes] = []
        answers: list[Tensor] = []
        for batch in batches:
            mine = batch[self.rank :: self.world]
            for part in np.array_split(mine, min(self.split, max(len(mine), 1))):
                if not len(part):
                    continue
                logits, losses = self._part(examples, part, vocabulary, embeddings, number)
                loss = losses.sum()
                value = float(loss.detach())
                if not np.isfinite(value):
                    self.flat.drop_gradients()
                    fine = torch.isfinite(losses.detach()).cpu().numpy()
                    raise NotFiniteError("loss", part[np.argsort(fine, kind="stable")])
                (loss / total).backward()  # type: ignore[no-untyped-call]
                loss_sum += value
                weight_sum += float(examples.weights[part].sum())
                rows.append(part)
                answers.append(logits.detach().float().cpu())
        if not rows:
            return Updated(0.0, 0.0, np.empty(0, dtype=np.int64), torch.empty(0))
        return Updated(loss_sum, weight_sum, np.concatenate(rows), torch.cat(answers))

    def _part(
        self, examples: Examples, part: Indexes, vocabulary: Indexes, embeddings: list[Tensor], number: int
    ) -> tuple[Tensor, Tensor]:
        """Logits and weighted losses (n,) of a few examples."""
        prepared = self.forward.prepare([examples.tokens[row] for row in part])
        lookup = self._sent(np.searchsorted(vocabulary, prepared.token_ids.numpy()))
        prepared = prepared.to(self.device)
        targets, weights = self._sent(examples.targets[part]), self._sent(examples.weights[part])
        progress = number / len(self.shares)
        rows = embeddings[0] if len(embeddings) == 1 else torch.cat(embeddings)

        def compute() -> Tensor:
            return self.forward.logits(functional.embedding(lookup, rows), prepared)

        logits = compute()
        losses = self.loss(logits, targets, progress)
        if self.params.r_drop:
            again = compute()
            losses = (losses + self.loss(again, targets, progress)) / 2
            losses = losses + self.params.r_drop * divergence(logits, again, self.task)
        return logits, losses * weights

    def _sent(self, values: npt.NDArray[Any]) -> Tensor:
        return sent(torch.from_numpy(values), self.device)

    def _step(self, rows: Indexes, number: int) -> None:
        """Sum over processes, clip, update."""
        self.flat.gather_gradients()
        gradients = [self.flat.gradients]
        if self.rows is not None:
            gradients.append(self.rows.gradient())
        if self.world > 1:
            gradients = [self.reduce(gradient) if gradient.numel() else gradient for gradient in gradients]
            self.flat.gradients.copy_(gradients[0])
        # A dot product reads the vector at the memory's speed, which torch's norm does not.
        norm = sum((torch.dot(part.view(-1), part.view(-1)) for part in gradients), torch.zeros(())).sqrt()
        if not bool(torch.isfinite(norm)):
            raise NotFiniteError("gradient", rows)
        divisor = (norm / self.params.max_grad_norm).clamp(min=1.0)
        self.flat.step(float(self.shares[number]), divisor)
        if self.rows is not None:
            self.rows.step(number + 1, gradients[1] / divisor)
        if self.average is not None and self.keeps is not None:
            self.average.lerp_(self.flat.values, 1 - float(self.keeps[number]))

    def _halve(self, largest: int) -> None:
        if self.split >= largest:
            raise UserError(
                "train: a single example does not fit in the memory; lower train.max_length or set "
                "train.gradient_checkpointing"
            )
        self.split *= 2

    @contextmanager
    def finished(self, updates: int) -> Iterator[None]:
        """The weights as they are to be used after ``updates``: every row up to date, averaged if asked."""
        if self.rows is not None:
            self.rows.flush(updates)
        if self.average is None:
            yield
            return
        current = self.flat.values.clone(), None if self.rows is None else self.rows.table.data.clone()
        self._set(self.average, None if self.rows is None else self.rows.average)
        try:
            yield
        finally:
            self._set(*current)

    def _set(self, values: Tensor, rows: Tensor | None) -> None:
        self.flat.values.copy_(values)
        if self.rows is not None and rows is not None:
            self.rows.table.data.copy_(rows)
        self.flat.refresh()

    def logits(self, ids: Sequence[Ids]) -> npt.NDArray[np.float32]:
        """Logits (n, L) of texts, without dropout; within `finished`."""
        return all_logits(self.forward, self.model, ids)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps beside the model's own weights."""
        tensors = {f"flat/{name}": tensor for name, tensor in self.flat.state().items()}
        tensors["split"] = torch.tensor(self.split)  # gradients of other parts add up to other last digits
        if self.rows is not None:
            tensors |= {f"rows/{name}": tensor for name, tensor in self.rows.state().items()}
        return tensors if self.average is None else {**tensors, "average": self.average}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take up `state`, the model's own weights having been loaded."""

        def named(prefix: str) -> dict[str, Tensor]:
            return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}

        self.split = int(tensors.get("split", 1))
        self.flat.load_state(named("flat/"))
        if self.rows is not None:
            self.rows.load_state(named("rows/"))
        if self.average is not None:
            self.average.copy_(tensors["average"])


def average_keeps(decay: float, updates: int) -> npt.NDArray[np.float64]:
    """Share of itself that the average of the weights keeps at each update (U,).

    Early averages lean on the latest weights, not on those before training. Averages of the weights: Polyak
    and Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J. Control Optim. 1992.
    """
    number = np.arange(updates)
    return np.minimum(decay, (1 + number) / (10 + number))


def update_seed(seed: int, rank: int, update: int, use: int = 0) -> int:
    """Seed of the random numbers that one process draws in one update for one use."""
    return int(np.random.SeedSequence([seed, rank, update, use]).generate_state(1, np.uint64)[0])


def divergence(one: Tensor, other: Tensor, task: Task) -> Tensor:
    """Symmetric Kullback-Leibler divergence (B,) of what two passes over the same examples say, halved twice.

    R-Drop of Liang et al., "R-Drop: Regularized Dropout for Neural Networks", NeurIPS 2021, eq. 4, where the
    sum of both passes' losses is used in place of their mean; multilabel: mean over the labels' yes and no.
    """
    if task == "multilabel":
        p, q = one.sigmoid(), other.sigmoid()
        # Of Bernoulli distributions the symmetric divergence is (p - q) (logit p - logit q).
        return ((p - q) * (one - other)).mean(dim=1) / 4
    first, second = one.log_softmax(dim=1), other.log_softmax(dim=1)
    return ((first.exp() - second.exp()) * (first - second)).sum(dim=1) / 4


def slots(model: TextClassifier, forward: Forward, params: TrainParams) -> list[Slot]:
    """What is trained, at which rate; matrices decay, biases and norms (vectors) do not."""
    names = {id(weight): name for name, weight in model.backbone.named_parameters()}
    found = []
    for leaf, sources in forward.pairs():
        if not all(source.requires_grad for source in sources):
            leaf.requires_grad_(False)
            continue
        rate = params.learning_rate * layer_factor(names[id(sources[0])], model, params.layer_decay)
        found.append(Slot(leaf, sources, rate, params.weight_decay if leaf.ndim > 1 else 0.0))
    for weight in model.head.parameters():
        decay = params.weight_decay if weight.ndim > 1 else 0.0
        found.append(Slot(weight, (weight,), params.head_learning_rate, decay))
    return found


def layer_of(name: str) -> int | None:
    """Layer, from 0, that a backbone's parameter belongs to; -1: the embeddings; None: after the layers."""
    match = re.search(r"(?:^|\.)layers?\.(\d+)\.", name)
    if match:
        return int(match.group(1))
    return -1 if "embeddings" in name else None


def layer_factor(name: str, model: TextClassifier, decay: float) -> float:
    """Layer-wise decay of the learning rate: 1 in the last layer, times ``decay`` in each one below.

    Discriminative fine-tuning of Howard and Ruder, "Universal Language Model Fine-tuning for Text
    Classification", ACL 2018.
    """
    layer = layer_of(name)
    depth = int(model.backbone.config.num_hidden_layers) - 1
    return 1.0 if layer is None else float(decay ** (depth - layer))


def freeze(model: TextClassifier, what: str | int) -> None:
    """Leave parts of the backbone as they are.

    From below, as in Lee, Tang and Lin, "What Would Elsa Do? Freezing Layers During Transformer Fine-Tuning",
    2019.

    Args:
        what: none, embeddings, all, or a number of layers from below, embeddings included.

    Raises:
        UserError: there are not so many layers.
    """
    depth = int(model.backbone.config.num_hidden_layers)
    if isinstance(what, int) and what > depth:
        raise UserError(f"train.freeze: {what} layers, but the backbone has {depth}; use all to freeze it")
    if what == "none":
        return
    limit = {"embeddings": 0, "all": depth + 1}.get(what, what) if isinstance(what, str) else what
    for name, weight in model.backbone.named_parameters():
        layer = layer_of(name)
        if (depth if layer is None else layer) < int(limit):
            weight.requires_grad_(False)


@contextmanager
def fitting(what: str, remedy: str) -> Iterator[None]:
    """Say in one line that something which cannot be halved does not fit in the memory.

    Raises:
        UserError: it does not.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise UserError(f"train: {what} does not fit in the memory; {remedy}") from None
