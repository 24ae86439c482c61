"""From a backbone and the training texts to the backbone that is fine-tuned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from afina.adaptation.store import Adaptation, save_adapted
from afina.adaptation.vocabulary import choose_glossary, extend_vocabulary, worth_extending
from afina.errors import UserError
from afina.files import read_json
from afina.modeling.backbone import BackboneFiles, load_tokenizer, max_positions
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
) -> Adaptation:
    """Adapt a backbone to texts and save it; where nothing is asked for, save that it is unchanged.

    First the vocabulary, whose new tokens the masked-language-model training then teaches.

    Args:
        params: the section ``adapt``.
        train: the section ``train``: ``max_length``, ``precision``, ``device`` and ``threads``.
        files: of the backbone.
        texts: cleaned; each different one counts once. Not looked at where nothing is asked for.
        seed: of all random numbers.
        folder: where the result goes, see `afina.adaptation.store.save_adapted`.

    Raises:
        UserError: a parameter does not suit the backbone or the machine, or training goes wrong.
    """
    if not params.active:
        record = _record(files, None, 0, 0, [])
        save_adapted(folder, record)
        return record

    # These take seconds to import, and a backbone left as it is needs none of them.
    import torch

    from afina.modeling.classifier import load_pretrained
    from afina.training.forward import choose_attention, choose_device, choose_precision

    if train.threads is not None:
        torch.set_num_threads(train.threads)
    max_length = _max_length(params, train, files)
    device = choose_device(train.device)
    tokenizer_json, pad_token_id = load_tokenizer(files.folder)
    backbone = load_pretrained(files.folder, choose_attention(device))
    distinct = list(dict.fromkeys(texts))

    known = len(backbone.get_input_embeddings().weight)
    tokenizer_json, first_new_token = _extend(params, tokenizer_json, distinct, backbone)
    new_tokens = len(backbone.get_input_embeddings().weight) - known

    losses: list[float] = []
    if params.epochs:
        from afina.adaptation.masked import find_masking, train_masked

        losses = train_masked(
            backbone.to(device),
            Encoder(tokenizer_json, max_length, pad_token_id).encode(distinct),
            find_masking(files.folder, tokenizer_json, params.mask_share, pad_token_id),
            files.folder,
            params,
            choose_precision(train.precision, device),
            max_length,
            seed,
        )
    record = _record(files, first_new_token, new_tokens, len(distinct), losses)
    save_adapted(folder, record, backbone, tokenizer_json, pad_token_id)
    return record


def _extend(
    params: AdaptParams, tokenizer_json: str, texts: Sequence[str], backbone: Any
) -> tuple[str, int | None]:
    """Give words that the tokenizer cuts into pieces tokens of their own, and the table rows for them.

    Returns:
        The tokenizer, and the id of the first new token, if there is one.
    """
    if params.vocabulary == "none":
        return tokenizer_json, None
    if params.vocabulary == "auto" and not worth_extending(tokenizer_json, texts):
        return tokenizer_json, None
    glossary = choose_glossary(params.glossary, tokenizer_json, texts)
    table = backbone.get_input_embeddings().weight.detach().cpu().numpy()
    extended = extend_vocabulary(
        tokenizer_json, table, texts, params.vocabulary_min_count, params.vocabulary_max_size, glossary
    )
    if not extended.tokens:
        return tokenizer_json, None
    replace_table(backbone, extended.embeddings)
    return extended.tokenizer_json, len(table)


def replace_table(backbone: Any, embeddings: npt.NDArray[np.float32]) -> None:
    """Give a backbone another table of word embeddings (V, H), of any number of rows."""
    import torch

    backbone.resize_token_embeddings(len(embeddings), mean_resizing=False)
    backbone.get_input_embeddings().weight.data.copy_(torch.from_numpy(embeddings))


def _record(
    files: BackboneFiles, first_new_token: int | None, new_tokens: int, texts: int, losses: list[float]
) -> Adaptation:
    return Adaptation(
        changed=bool(losses) or first_new_token is not None,
        backbone=files.public_name,
        revision=files.revision,
        sha256=files.sha256,
        licence=files.licence,
        first_new_token=first_new_token,
        new_tokens=new_tokens,
        texts=texts,
        masked_loss=losses,
    )


def _max_length(params: AdaptParams, train: TrainParams, files: BackboneFiles) -> int:
    name, length = "adapt.max_length", params.max_length
    if length is None:
        name, length = "train.max_length", train.max_length
    limit = max_positions(read_json(files.folder / "config.json"))
    if limit is not None and length > limit:
        raise UserError(f"{name}: {length} is more than the {limit} positions of {files.name}")
    return length
