"""Logits of many texts, in batches of similar length."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from afina.modeling.classifier import TextClassifier
from afina.progress import Progress
from afina.runtime.encoding import TOKEN_BUDGET, Encoder, Ids, pad_batch, token_budget_batches


def predict_logits(
    model: TextClassifier,
    encoder: Encoder,
    texts: Sequence[str],
    *,
    token_budget: int = TOKEN_BUDGET,
    device: torch.device | str | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    progress: Progress | None = None,
) -> npt.NDArray[np.float32]:
    """Logits of cleaned texts, float32 (n, L), in the order of the texts.

    Args:
        model: put into evaluation mode while this runs, and onto ``device``.
        encoder: the tokenizer the model was trained with.
        texts: n texts, already cleaned as those of the tables are.
        token_budget: most tokens in a batch, padding included.
        device: where to compute; None: where the model is.
        precision: ``bf16`` computes matrix products in bfloat16.
        progress: advanced by the number of texts of each batch.
    """
    return logits_of_ids(
        model,
        encoder.encode(texts),
        encoder.pad_token_id,
        token_budget=token_budget,
        device=device,
        precision=precision,
        progress=progress,
    )


def logits_of_ids(
    model: TextClassifier,
    ids: Sequence[Ids],
    pad_token_id: int,
    *,
    token_budget: int = TOKEN_BUDGET,
    device: torch.device | str | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    progress: Progress | None = None,
) -> npt.NDArray[np.float32]:
    """As `predict_logits`, of texts that are token ids already."""
    if device is not None:
        model.to(device)
    where = next(model.parameters()).device

    def score(batch: Sequence[Ids]) -> Tensor:
        input_ids, attention_mask = map(torch.from_numpy, pad_batch(batch, pad_token_id))
        logits: Tensor = model(input_ids.to(where), attention_mask.to(where))
        return logits

    final: Any = model.head[-1]
    was_training = model.training
    model.eval()
    try:
        with torch.autocast(where.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            return in_batches(score, ids, final.out_features, token_budget, progress)
    finally:
        model.train(was_training)


def in_batches(
    score: Callable[[Sequence[Ids]], Tensor],
    ids: Sequence[Ids],
    label_count: int,
    token_budget: int = TOKEN_BUDGET,
    progress: Progress | None = None,
) -> npt.NDArray[np.float32]:
    """Logits of texts, float32 (n, L), in the order of the texts, computed in batches of similar length.

    Where a batch does not fit in the memory, it goes on with batches of half its size, and says so.

    Args:
        score: logits (B, L) of a batch; called without gradients.
        ids: token ids of n texts.
        label_count: L.
        token_budget: most tokens in a batch, padding included.
        progress: advanced by the number of texts of each batch.

    Raises:
        RuntimeError, MemoryError: a single text does not fit in the memory, see `out_of_memory`.
    """
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    logits = np.zeros((len(ids), label_count), dtype=np.float32)
    batches = deque(token_budget_batches(lengths, token_budget))
    with torch.inference_mode():
        while batches:
            batch = batches.popleft()
            try:
                logits[batch] = score([ids[index] for index in batch]).cpu().numpy()
            except (RuntimeError, MemoryError) as error:
                if len(batch) == 1 or not out_of_memory(error):
                    raise
                token_budget = int(lengths[batch].max()) * len(batch) // 2
                rest = np.concatenate([batch, *batches])
                batches = deque(rest[part] for part in token_budget_batches(lengths[rest], token_budget))
                print(
                    f"a batch of {len(batch)} texts does not fit in the memory; going on with batches of "
                    f"{token_budget:,} tokens",
                    file=sys.stderr,
                    flush=True,
                )
                continue
            if progress is not None:
                progress.advance(len(batch))
    return logits


# As torch's allocators, C++, the system and oneDNN say it, the last where a product cannot be set up.
_NO_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "bad_alloc",
    "Cannot allocate memory",
    "could not create a primitive",
    "could not create a memory",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had, on a processor or a GPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return any(words in text for words in _NO_MEMORY)
