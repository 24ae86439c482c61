"""Which test rows are explained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from afina.params.explain import Choice

Why = Literal["mistake", "random"]


@dataclass(frozen=True)
class Chosen:
    """A row, and what it was chosen as; a row drawn at random may be a mistake too."""

    row: int
    why: Why


def choose_rows(mistakes: Sequence[int], rows: int, samples: int, choose: Choice, seed: int) -> list[Chosen]:
    """Choose at most ``samples`` of n rows, without repeating one.

    Args:
        mistakes: rows judged wrongly, the surest first.
        rows: n.
        choose: ``both`` takes mistakes for half of the samples, the larger half of an odd number, and draws
            the others from the rows that are left; where there are fewer mistakes, more are drawn.

    Returns:
        The mistakes in the order given, then what was drawn, in the order of drawing.
    """
    limit = {"both": (samples + 1) // 2, "mistakes": samples, "random": 0}[choose]
    taken = list(mistakes[:limit])
    chosen = [Chosen(row, "mistake") for row in taken]
    if choose != "mistakes":
        rest = np.setdiff1d(np.arange(rows), taken)
        count = min(samples - len(taken), len(rest))
        drawn = np.random.default_rng(seed).choice(rest, count, replace=False).tolist()
        chosen += [Chosen(row, "random") for row in drawn]
    return chosen
