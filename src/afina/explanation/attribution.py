"""How much each token of a text adds to the logit of a label, compared with a text of masked tokens.

Of the backbone by integrated gradients: Sundararajan, Taly & Yan, "Axiomatic Attribution for Deep Networks",
ICML 2017. On the straight line from the embeddings of a baseline to those of the text, the gradient of the
logit is averaged and multiplied by the difference; a token's score is the sum over its embedding. The
baseline has the embedding of the mask token in the place of each token of the text, as this is what a
backbone was trained to take for "some word"; that of padding, which it never attends to, means nothing to it.
Where a tokenizer has no mask token, padding has to do. Special tokens, such as [CLS], are the same in both
and score 0.

Of the lexical model exactly: with a text's length held, its logit is a sum over n-grams. An n-gram is there
where all its tokens are, a product of as many factors, of which the integrated gradient is the same for each:
so its part is divided evenly among its tokens, special ones aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from afina.errors import UserError
from afina.explanation.words import Word, merge_words
from afina.labels import LabelSet
from afina.modeling.classifier import TextClassifier, pool
from afina.modeling.lexical import LexicalScorer
from afina.modeling.store import TOKENIZER, ClassifierConfig, load_classifier
from afina.progress import track
from afina.runtime.encoding import TOKEN_BUDGET, Ids

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

MASK_TOKENS = ("[MASK]", "<mask>")


@dataclass(frozen=True)
class Attribution:
    """What the T tokens of a text add to a logit.

    Attributes:
        scores: (T,), in logits; special tokens have 0.
        change: logit of the text less that of the baseline.
    """

    scores: Floats
    change: float

    @property
    def error(self) -> float:
        """How far the scores are from adding up to ``change``, relative to it; exact integration gives 0."""
        missing = abs(float(self.scores.sum()) - self.change)
        return missing / max(abs(self.change), 1e-6)


@dataclass(frozen=True)
class Explanation:
    """The words of a text that the classifier saw, with their scores, and `Attribution.error`."""

    words: list[Word]
    error: float


def explain_texts(
    folder: Path, label_set: LabelSet, texts: Sequence[str], targets: Sequence[int], steps: int
) -> list[Explanation]:
    """Explain one label of each text.

    Args:
        folder: the saved classifier.
        label_set: must be what the classifier was trained with.
        texts: n texts, already cleaned as those of the tables are.
        targets: index of the label to explain, of each text.
        steps: see `attribute`.

    Raises:
        UserError: captum is not installed, or the classifier is missing or has another task or other labels.
    """
    integrated_gradients()  # before anything is loaded
    model, _, config = load_classifier(folder, "sdpa")
    if (config.task, tuple(config.labels)) != (label_set.task, label_set.labels):
        raise UserError(f"{folder}: trained for another task or other labels; run `dvc repro train`")
    model.requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer, masked = read_tokenizer(folder, config)
    return [
        explain_text(model, tokenizer, masked, text, target, steps)
        for text, target in track(zip(texts, targets, strict=True), "explain", len(texts), "texts")
    ]


def read_tokenizer(folder: Path, config: ClassifierConfig) -> tuple[Tokenizer, int]:
    """The classifier's tokenizer, which cuts texts as `Encoder` does, and the token of the baseline."""
    tokenizer = Tokenizer.from_str((folder / TOKENIZER).read_text(encoding="utf-8"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(config.max_length, strategy="longest_first", direction="right")
    known = (tokenizer.token_to_id(name) for name in MASK_TOKENS)
    return tokenizer, next((number for number in known if number is not None), config.pad_token_id)


def explain_text(
    model: TextClassifier, tokenizer: Tokenizer, masked: int, text: str, target: int, steps: int
) -> Explanation:
    """Explain the label ``target`` of one text; see `attribute`."""
    encoding = tokenizer.encode(text)
    special = np.asarray(encoding.special_tokens_mask, dtype=np.bool_)
    found = attribute(model, np.asarray(encoding.ids, dtype=np.int64), special, masked, target, steps)
    seen = np.flatnonzero(~special).tolist()
    offsets = [encoding.offsets[token] for token in seen]
    return Explanation(merge_words(text, offsets, found.scores[seen].tolist()), found.error)


def attribute(
    model: TextClassifier, ids: Ids, special: Bools, masked: int, target: int, steps: int
) -> Attribution:
    """Score the tokens of one text.

    Args:
        model: in evaluation mode.
        ids: token ids (T,), cut to what the classifier takes.
        special: (T,), true on tokens that are in the baseline too.
        masked: id of the token that the baseline has elsewhere.
        target: index of the label.
        steps: points of the Gauss-Legendre quadrature of the integral.

    Raises:
        UserError: captum is not installed.
    """
    seen = slice(0, len(ids) if model.lexical is None else model.window)
    with torch.no_grad():
        logit = float(model(*_batch(model, ids))[0, target])
    scores = np.zeros(len(ids))
    scores[seen], baseline = attribute_backbone(model, ids[seen], special[seen], masked, target, steps)
    if model.lexical is not None and model.mixture is not None:
        factor, lexical_factor = model.mixture.tolist()
        lexical, rest = attribute_lexical(model.lexical, ids, special, target)
        scores, baseline = (
            factor * scores + lexical_factor * lexical,
            factor * baseline + lexical_factor * rest,
        )
    return Attribution(scores, logit - baseline)


def attribute_backbone(
    model: TextClassifier, ids: Ids, special: Bools, masked: int, target: int, steps: int
) -> tuple[Floats, float]:
    """As `attribute`, of the backbone and its head: scores (T,), and the logit of the baseline."""
    embeddings = model.backbone.get_input_embeddings()
    with torch.no_grad():
        text, baseline = (
            embeddings(_batch(model, tokens)[0]) for tokens in (ids, np.where(special, ids, masked))
        )

    def logits(embedded: Tensor) -> Tensor:
        mask = torch.ones(embedded.shape[:2], dtype=torch.int64, device=embedded.device)
        hidden = model.backbone(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
        found: Tensor = model.head(pool(hidden.float(), mask, model.pooling))
        return found.float()[:, target]

    scores = integrated_gradients()(logits).attribute(
        text, baseline, n_steps=steps, internal_batch_size=max(1, TOKEN_BUDGET // len(ids))
    )
    with torch.no_grad():
        return scores[0].sum(dim=-1).double().cpu().numpy(), float(logits(baseline))


def attribute_lexical(lexical: LexicalScorer, ids: Ids, special: Bools, target: int) -> tuple[Floats, float]:
    """As `attribute`, of the lexical model: scores (T,), and the logit without the tokens that are scored."""
    squares, parts = 0.0, []
    tokens = torch.from_numpy(ids).to(lexical.tokens.device)
    rows_of = [tokens, *(rows[0] for rows in lexical.rows(tokens[None]))]
    for order in range(1, min(lexical.order, len(ids)) + 1):
        table = lexical.tokens if order == 1 else lexical.grams
        rows = rows_of[order - 1][: len(ids) - order + 1]
        values = table[rows][:, [target, -1]].double().cpu().numpy()
        squares += float(values[:, 1].sum())
        places = np.arange(len(rows))[:, None] + np.arange(order)  # (grams, order): tokens of each n-gram
        parts.append((values[:, 0], places))
    length = max(squares, 1e-12) ** 0.5

    scores, rest = np.zeros(len(ids)), float(lexical.bias[target])
    for weights, places in parts:
        scored = ~special[places]
        counts = scored.sum(axis=1)
        rest += float(weights[counts == 0].sum()) / length
        each = weights / np.maximum(counts, 1) / length
        np.add.at(scores, places[scored], np.broadcast_to(each[:, None], places.shape)[scored])
    return scores, rest


def integrated_gradients() -> Any:
    """captum's class of that name.

    Raises:
        UserError: captum is not installed.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError:
        raise UserError(
            "explain.samples: explanations need the library captum; "
            '`pip install "afina[explain]"` or set it to 0'
        ) from None
    return IntegratedGradients


def _batch(model: TextClassifier, ids: Ids) -> tuple[Tensor, Tensor]:
    """One text as ids and mask, both (1, T), where the model is."""
    tokens = torch.from_numpy(ids)[None].to(next(model.parameters()).device)
    return tokens, torch.ones_like(tokens)
