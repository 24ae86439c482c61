"""From a backbone and the training texts to the backbone that is fine-tuned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from afina.adaptation.pieces import (
    EXTENDABLE,
    vocabulary_fit,
    vocabulary_kind,
    word_counts,
)
from afina.adaptation.store import Adaptation, save_adapted
from afina.adaptation.vocabulary import choose_glossary, choose_tokens, extend_vocabulary
from afina.errors import UserError
from afina.modeling.backbone import (
    BackboneFiles,
    check_token_ids,
    load_tokenizer,
    max_positions,
    read_object,
)
from afina.params.adapt import AdaptParams
from afina.params.train import TrainParams
from afina.runtime.encoding import Encoder


def adapt_backbone(
    params: AdaptParams,
    train: TrainParams,
    files: BackboneFiles,
    texts: Sequence[str],
    seed: int,
    folder: Path,
    checkpoint_folder: Path | None = None,
    names: Sequence[str] = (),
) -> Adaptation:
    """Adapt a backbone to texts and save it; where nothing is to be done, save that it is unchanged.

    First the vocabulary, whose new tokens the masked-language-model training then teaches.

    Args:
        params: the section ``adapt``.
        train: the section ``train``: ``max_length``, ``precision``, ``device`` and ``threads``.
        files: of the backbone.
        texts: cleaned; each different one counts once. Not looked at where nothing is asked for.
        seed: of all random numbers.
        folder: where the result goes, see `afina.adaptation.store.save_adapted`.
        checkpoint_folder: of masked-language-model training, see `afina.adaptation.masked.train_masked`. The
            last checkpoint stays; remove it once all is saved.
        names: the texts' ids, for an error that has to name some; none: their numbers, from 0.

    Raises:
        UserError: a parameter does not suit the backbone or the machine, or training goes wrong.
    """
    unchanged = _unchanged(files)
    if not params.active:
        save_adapted(folder, unchanged)
        return unchanged
    max_length = _max_length(params, train, files)
    tokenizer_json, pad_token_id = load_tokenizer(files.folder)
    named: dict[str, str] = {}
    for text, name in zip(texts, names or map(str, range(len(texts))), strict=True):
        named.setdefault(text, name)
    distinct = list(named)
    tokens, glossary = _choose_extension(params, tokenizer_json, distinct)
    if not tokens and not params.epochs:
        save_adapted(folder, unchanged)
        return unchanged

    # These take seconds to import, and a backbone left as it is needs none of them.
    import torch

    from afina.modeling.classifier import load_pretrained
    from afina.training.forward import choose_attention, choose_device, choose_precision

    if train.threads is not None:
        torch.set_num_threads(train.threads)
    device = choose_device(train.device)
    backbone = load_pretrained(files.folder, choose_attention(device))

    known, translated, redefined = len(backbone.get_input_embeddings().weight), 0, 0
    if tokens:
        # New tokens are numbered from the table's end on, where no known one may be.
        largest = max(Tokenizer.from_str(tokenizer_json).get_vocab(with_added_tokens=True).values())
        check_token_ids(files.name, tokenizer_json, largest, known)
        table = backbone.get_input_embeddings().weight.detach().cpu().numpy()
        extended = extend_vocabulary(tokenizer_json, table, tokens, glossary)
        replace_table(backbone, extended.embeddings)
        tokenizer_json = extended.tokenizer_json
        translated, redefined = extended.translated, extended.redefined

    losses: list[float] = []
    if params.epochs:
        from afina.adaptation.masked import find_masking, train_masked

        ids = Encoder(tokenizer_json, max_length, pad_token_id).encode(distinct)
        masking = find_masking(files.folder, tokenizer_json, params.mask_share, pad_token_id)
        rows = known + len(tokens)
        largest = max(masking.mask_token_id, pad_token_id, *(int(row.max(initial=0)) for row in ids))
        check_token_ids(files.name, tokenizer_json, largest, rows)
        losses = train_masked(
            backbone.to(device),
            ids,
            masking.within(rows),
            files.folder,
            params,
            choose_precision(train.precision, device),
            max_length,
            seed,
            checkpoint_folder,
            list(named.values()),
        )
    record = replace(
        unchanged,
        changed=True,
        first_new_token=known if tokens else None,
        new_tokens=len(tokens),
        translated=translated,
        redefined=redefined,
        texts=len(distinct),
        masked_loss=losses,
    )
    save_adapted(folder, record, backbone, tokenizer_json, pad_token_id)
    return record


def _choose_extension(
    params: AdaptParams, tokenizer_json: str, texts: Sequence[str]
) -> tuple[list[str], dict[str, list[str]] | None]:
    """The tokens to add, none where that is not asked for or not worth it, and the glossary for them."""
    auto = params.vocabulary == "auto"
    if params.vocabulary == "none" or (auto and vocabulary_kind(tokenizer_json) != EXTENDABLE):
        return [], None
    tokenizer = Tokenizer.from_str(tokenizer_json)
    counts = word_counts(tokenizer, texts)
    if auto and not vocabulary_fit(tokenizer_json, counts).bad:
        return [], None
    glossary = choose_glossary(params.glossary, tokenizer, counts)
    tokens = choose_tokens(
        tokenizer_json, counts, params.vocabulary_min_count, params.vocabulary_max_size, glossary
    )
    return tokens, glossary


def replace_table(backbone: Any, embeddings: npt.NDArray[np.float32]) -> None:
    """Give a backbone another table of word embeddings (V, H), of any number of rows."""
    import torch

    backbone.resize_token_embeddings(len(embeddings), mean_resizing=False)
    backbone.get_input_embeddings().weight.data.copy_(torch.from_numpy(embeddings))


def _unchanged(files: BackboneFiles) -> Adaptation:
    """The record of a backbone that is left as it is."""
    return Adaptation(
        changed=False,
        backbone=files.public_name,
        revision=files.revision,
        sha256=files.sha256,
        licence=files.licence,
        first_new_token=None,
        new_tokens=0,
        translated=0,
        redefined=0,
        texts=0,
        masked_loss=[],
    )


def _max_length(params: AdaptParams, train: TrainParams, files: BackboneFiles) -> int:
    name, length = "adapt.max_length", params.max_length
    if length is None:
        name, length = "train.max_length", train.max_length
    limit = max_positions(read_object(files.folder / "config.json"))
    if limit is not None and length > limit:
        raise UserError(f"{name}: {length} is more than the {limit} positions of {files.name}")
    return length
