"""The weights under training: one flat buffer in float32, and AdamW over it.

Clipping, reducing over processes and the update are then a few kernels over one long vector in place of a few
for each of a hundred tensors. What the model computes with may be a bfloat16 copy. The embedding table, half
of a small model, is updated in the rows that an update touches, with the result of updating all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8

# After so many updates without a gradient momentum is spent: 0.9^200 = 7e-10.
MEMORY = 200

# Rows of a table that are brought up to date at a time: bounds what that needs beside the table.
CHUNK = 2**14


@dataclass(frozen=True)
class Slot:
    """A tensor that the loss is differentiated by, and the parameters that it stands for.

    The ``leaf`` holds the ``sources`` one after another along their first dimension; it may be the source.
    """

    leaf: nn.Parameter
    sources: tuple[nn.Parameter, ...]
    peak: float  # highest learning rate
    weight_decay: float


@dataclass(frozen=True)
class _Place:
    slot: Slot
    start: int
    stop: int


class FlatWeights:
    """Weights as one vector, gradients as another, and AdamW (Loshchilov and Hutter 2019) over them.

    Args:
        slots: what is trained; none may share a source. The sources become views of the vector, the leaves
            views of it or of its copy in their own precision.
        device: where the weights are.
    """

    def __init__(self, slots: Sequence[Slot], device: torch.device) -> None:
        ordered = sorted(slots, key=lambda slot: (str(slot.leaf.dtype), -slot.peak, slot.weight_decay))
        total = sum(slot.leaf.numel() for slot in ordered)
        self.values = torch.empty(total, dtype=torch.float32, device=device)
        self.gradients = torch.zeros(total, dtype=torch.float32, device=device)
        self._places: list[_Place] = []
        self._copies: list[tuple[Tensor, Tensor]] = []  # copy in low precision, what it is of
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        start = 0
        with torch.no_grad():
            for (dtype, peak, decay), members in _runs(ordered):
                first = start
                for slot in members:
                    stop = start + slot.leaf.numel()
                    self._place(slot, start, stop)
                    start = stop
                part = nn.Parameter(self.values[first:start])
                part.grad = self.gradients[first:start]
                groups.setdefault((peak, decay), []).append(part)
                if dtype != torch.float32:
                    self._copy(dtype, first, start)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": parts, "lr": peak, "peak": peak, "weight_decay": decay}
                for (peak, decay), parts in groups.items()
            ],
            betas=(BETA1, BETA2),
            eps=EPSILON,
            fused=True,
        )

    def _place(self, slot: Slot, start: int, stop: int) -> None:
        position = start
        for source in slot.sources:
            end = position + source.numel()
            self.values[position:end].copy_(source.detach().reshape(-1))
            source.data = self.values[position:end].view(source.shape)
            position = end
        if slot.leaf.dtype == torch.float32:
            slot.leaf.data = self.values[start:stop].view(slot.leaf.shape)
        self._places.append(_Place(slot, start, stop))

    def _copy(self, dtype: torch.dtype, first: int, last: int) -> None:
        copy = self.values[first:last].to(dtype)
        for place in self._places:
            if first <= place.start < last:
                leaf = place.slot.leaf
                leaf.data = copy[place.start - first : place.stop - first].view(leaf.shape)
        self._copies.append((copy, self.values[first:last]))

    def gather_gradients(self) -> None:
        """Move the leaves' gradients, where they have one, into the vector."""
        for place in self._places:
            gradient = place.slot.leaf.grad
            part = self.gradients[place.start : place.stop]
            if gradient is None:
                part.zero_()
            else:
                part.copy_(gradient.reshape(-1))
                place.slot.leaf.grad = None

    def drop_gradients(self) -> None:
        """Forget what the leaves have gathered."""
        for place in self._places:
            place.slot.leaf.grad = None

    def step(self, share: float, divisor: Tensor) -> None:
        """Update with learning rates at ``share`` of their highest and gradients divided by ``divisor``."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share
        # The kernel divides as it reads: clipping takes no pass of its own.
        self.optimizer.grad_scale = divisor  # type: ignore[attr-defined]
        self.optimizer.step()
        self.refresh()

    def refresh(self) -> None:
        """Bring the copies in low precision up to date with the vector."""
        for copy, values in self._copies:
            copy.copy_(values)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps beside the weights."""
        return {
            f"{index}/{name}": tensor
            for index, moments in self.optimizer.state_dict()["state"].items()
            for name, tensor in moments.items()
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take up `state` again; the weights have been loaded into the sources."""
        moments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            index, name = key.split("/")
            moments.setdefault(int(index), {})[name] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.refresh()


def _runs(ordered: Iterable[Slot]) -> list[tuple[tuple[torch.dtype, float, float], list[Slot]]]:
    """Neighbours with the same precision, learning rate and weight decay."""
    runs: list[tuple[tuple[torch.dtype, float, float], list[Slot]]] = []
    for slot in ordered:
        key = (slot.leaf.dtype, slot.peak, slot.weight_decay)
        if not runs or runs[-1][0] != key:
            runs.append((key, []))
        runs[-1][1].append(slot)
    return runs


class RowWeights:
    """AdamW over the rows of an embedding table that an update touches, as if over all of them.

    A row without a gradient still moves by what is left of its momentum, and decays. Nothing sees it until it
    is touched again, so all of that is done then, in one step: over the updates u since the last one, s, the
    sum of lr_u β1^(u-s) √(1-β2^u) / (β2^((u-s)/2) (1-β1^u)) times m / √v, each term decayed by the updates
    after u. The result differs from the dense update by rounding and by the place of epsilon alone. An
    exponential average of the table over the updates is a sum of the same kind, and made up for as well.

    Args:
        table: (V, H) float32; changed in place.
        rates: (U,) learning rate of each update.
        weight_decay: AdamW's.
        factors: (V,) factor on what the gradients move each row, not on its decay; None: 1.
        keeps: (U,) share of the average that each update keeps, the rest being the new values; None: no
            average.
    """

    def __init__(
        self,
        table: nn.Parameter,
        rates: npt.NDArray[np.float64],
        weight_decay: float,
        factors: Tensor | None = None,
        keeps: npt.NDArray[np.float64] | None = None,
    ) -> None:
        self.table, self.rates, self.weight_decay = table, rates, weight_decay
        self.factors = None if factors is None else factors.to(table.device)
        self.keeps = keeps
        self.average = None if keeps is None else table.detach().clone()
        # Logarithm of what decay leaves of a row after each number of updates.
        self._decay = np.concatenate([[0.0], np.cumsum(np.log1p(-rates * weight_decay))])
        self.mean = torch.zeros_like(table.data)
        self.square = torch.zeros_like(table.data)
        self.last = torch.zeros(len(table), dtype=torch.int64)  # update (from 1) a row is up to date with
        self.rows = torch.empty(0, dtype=torch.int64)
        self.leaf = torch.empty(0)

    def begin(self, rows: npt.NDArray[np.int64], update: int, dtype: torch.dtype) -> Tensor:
        """The rows (R, H) that ``update`` (from 1) needs, as a leaf of the gradient.

        Args:
            rows: distinct row numbers (R,).
            update: the update about to be done; those before it are made up for.
            dtype: of the leaf.
        """
        self.rows = torch.from_numpy(rows)
        self._catch_up(self.rows, update - 1)
        self.leaf = self.table.data[self.rows.to(self.table.device)].to(dtype).requires_grad_()
        return self.leaf

    def gradient(self) -> Tensor:
        """Gradient of the rows, float32 (R, H)."""
        if self.leaf.grad is None:
            return torch.zeros(self.leaf.shape, device=self.leaf.device)
        return self.leaf.grad.float()

    def step(self, update: int, gradient: Tensor) -> None:
        """AdamW's update (from 1) of the rows of `begin`."""
        rows = self.rows.to(self.table.device)
        values, mean, square = (part[rows] for part in (self.table.data, self.mean, self.square))
        rate = float(self.rates[update - 1])
        mean.lerp_(gradient, 1 - BETA1)
        square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        root = square.sqrt().div_(math.sqrt(1 - BETA2**update)).add_(EPSILON)
        change = (mean / root).mul_(rate / (1 - BETA1**update))
        if self.factors is not None:
            change *= self.factors[rows, None]
        values.mul_(1 - rate * self.weight_decay).sub_(change)
        for part, new in ((self.table.data, values), (self.mean, mean), (self.square, square)):
            part[rows] = new
        if self.average is not None and self.keeps is not None:
            self.average[rows] = self.average[rows].lerp_(values, 1 - float(self.keeps[update - 1]))
        self.last[self.rows] = update
        self.leaf = torch.empty(0)

    def flush(self, update: int) -> None:
        """Bring every row up to date with ``update``, before the table is read as a whole."""
        for start in range(0, len(self.table), CHUNK):
            self._catch_up(torch.arange(start, min(start + CHUNK, len(self.table))), update)

    def _catch_up(self, rows: Tensor, update: int) -> None:
        rows = rows[self.last[rows] < update]
        if not len(rows):
            return
        steps, which = np.unique(self.last[rows].numpy(), return_inverse=True)
        there, gaps = rows.to(self.table.device), update - steps

        def column(values: npt.NDArray[np.float64]) -> Tensor:
            return torch.from_numpy(values[which]).to(there.device, torch.float32)[:, None]

        values, mean, square = self.table.data[there], self.mean[there], self.square[there]
        correction = EPSILON * np.sqrt(1 - BETA2 ** np.maximum(steps, 1))
        direction = mean / (square.sqrt() + column(correction))
        if self.factors is not None:
            direction *= self.factors[there, None]
        decayed = np.exp(self._decay[update] - self._decay[: update + 1])  # from after each update until now
        if self.average is not None and self.keeps is not None:
            kept, of_values, of_movements = average_shares(self.keeps[:update], decayed)
            moved = momentum_sums(steps, update, self.rates, of_movements)
            average = self.average[there] * column(kept[steps]) + values * column(of_values[steps])
            self.average[there] = average - direction * column(moved)
        moved = momentum_sums(steps, update, self.rates, decayed)
        self.table.data[there] = values * column(decayed[steps]) - direction * column(moved)
        self.mean[there] = mean * column(BETA1**gaps)
        self.square[there] = square * column(BETA2**gaps)
        self.last[rows] = update

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps beside the table."""
        tensors = {"mean": self.mean, "square": self.square, "last": self.last}
        return tensors if self.average is None else {**tensors, "average": self.average}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take up `state` again."""
        for name, tensor in self.state().items():
            tensor.copy_(tensors[name])


def momentum_sums(
    steps: npt.NDArray[np.int64],
    update: int,
    rates: npt.NDArray[np.float64],
    shares: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.float64]:
    """How far a row moves, in units of m / √v, from its last update to ``update`` without a gradient.

    Args:
        steps: (S,) the rows' last updates, from 1; 0 = never updated.
        update: at least every one of ``steps``.
        rates: learning rate of each update, the first one's at 0.
        shares: (update + 1,) factor on the movement of each update, the first one's at 1; None: 1.
    """
    ahead = np.arange(1, MEMORY + 1)
    number = np.arange(1, update + 1)
    terms = rates[:update] * np.sqrt(1 - BETA2**number) / (1 - BETA1**number)
    if shares is not None:
        terms = terms * shares[1:]
    windows = np.lib.stride_tricks.sliding_window_view(np.append(terms, np.zeros(MEMORY)), MEMORY)
    return np.asarray(windows[steps] @ (BETA1 / math.sqrt(BETA2)) ** ahead)


def average_shares(
    keeps: npt.NDArray[np.float64], decayed: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """How much an exponential average over t updates owes to each of them, for values that only decay.

    Args:
        keeps: (t,) share of itself that the average keeps at each update.
        decayed: (t + 1,) what decay leaves until t of the values after each number of updates.

    Returns:
        For each number of updates s, (t + 1,) each, how much there is in the average after t: of the average
        after s; of the values after s, through the updates that follow; of a movement at update s, through it
        and those that follow.
    """
    kept = np.exp(np.cumsum(np.log(keeps)[::-1]))[::-1]  # from before each update on
    kept = np.concatenate([kept, [1.0]])
    weights = np.concatenate([[0.0], (1 - keeps) * kept[1:]])  # of the values after each update
    following = np.cumsum((weights / decayed)[::-1])[::-1]
    movements = following * decayed
    return kept, movements - weights, movements
