"""Logits of many texts, in batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

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
    final: Any = model.head[-1]
    logits = np.zeros((len(ids), final.out_features), dtype=np.float32)
    was_training = model.training
    model.eval()
    try:
        with (
            torch.inference_mode(),
            torch.autocast(where.type, dtype=torch.bfloat16, enabled=precision == "bf16"),
        ):
            for batch in token_budget_batches([len(row) for row in ids], token_budget):
                input_ids, attention_mask = pad_batch([ids[index] for index in batch], pad_token_id)
                output = model(
                    torch.from_numpy(input_ids).to(where), torch.from_numpy(attention_mask).to(where)
                )
                logits[batch] = output.cpu().numpy()
                if progress is not None:
                    progress.advance(len(batch))
    finally:
        model.train(was_training)
    return logits
