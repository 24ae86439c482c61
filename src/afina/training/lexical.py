"""The lexical model as training needs it: fitted on its examples, in the tokens of its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from afina.adaptation.pieces import piece_ids
from afina.labels import LabelSet
from afina.modeling.backbone import load_tokenizer
from afina.modeling.inference import in_batches
from afina.modeling.lexical import LexicalScorer, fit_lexical
from afina.params.train import TrainParams
from afina.runtime.encoding import Ids, pad_batch
from afina.training.engine import Examples


def new_token_pieces(folder: Path, tokenizer_json: str, first_new: int | None) -> dict[int, list[int]]:
    """What each new token was cut into before it was one.

    Args:
        folder: of the original backbone.
        tokenizer_json: of the extended tokenizer.
        first_new: id of the first new token; None: there is none.
    """
    if first_new is None:
        return {}
    original, _ = load_tokenizer(folder)
    model = json.loads(original)["model"]
    extended: dict[str, int] = json.loads(tokenizer_json)["model"]["vocab"]
    prefix = model["continuing_subword_prefix"]
    return {
        number: piece_ids(token, model["vocab"], prefix)
        for token, number in extended.items()
        if number >= first_new
    }


def fit_on_examples(
    params: TrainParams,
    training: Examples,
    label_set: LabelSet,
    class_weights: dict[str, float] | None,
    tokenizer_json: str,
    pieces: dict[int, list[int]],
) -> LexicalScorer:
    """Fit the lexical model on the rows, and with the weights, that the backbone is trained on.

    Args:
        training: whole texts, as long as the lexical model is to see them.
        pieces: see `new_token_pieces`.
    """
    # The largest id, not the number of tokens: a backbone's table may have rows that no token uses.
    vocabulary = max(Tokenizer.from_str(tokenizer_json).get_vocab(with_added_tokens=True).values()) + 1
    weights = np.array([(class_weights or {}).get(label, 1.0) for label in label_set.labels])
    tables = fit_lexical(
        training.tokens,
        training.targets,
        label_set.task,
        weights,
        training.weights,
        vocabulary,
        params.lexical_order,
        params.lexical_c,
        pieces,
    )
    return LexicalScorer.from_tables(tables, params.lexical_order)


def lexical_logits(
    scorer: LexicalScorer, tokens: Sequence[Ids], pad_token_id: int
) -> npt.NDArray[np.float32]:
    """Logits (n, L) of the lexical model."""

    def score(batch: Sequence[Ids]) -> Tensor:
        logits: Tensor = scorer(*map(torch.from_numpy, pad_batch(batch, pad_token_id)))
        return logits

    return in_batches(score, tokens, len(scorer.bias))


def cut(examples: Examples, length: int) -> Examples:
    """The examples as the backbone sees them: their first ``length`` tokens."""
    return replace(examples, tokens=[tokens[:length] for tokens in examples.tokens])
