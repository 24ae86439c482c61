"""The adapted backbone on disk: what was done, and weights and tokenizer only where they are others now."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from afina.errors import UserError
from afina.files import atomic_path, read_json, write_json, write_text
from afina.modeling.backbone import BackboneFiles

RECORD = "adapted.json"


@dataclass(frozen=True)
class Adaptation:
    """What was done to a backbone (``adapted.json``)."""

    changed: bool
    backbone: str
    revision: str | None
    sha256: str  # of the original's weights
    licence: str | None
    first_new_token: int | None  # the tokens from this id on are new; None: none is
    new_tokens: int
    translated: int  # new tokens that start from their meaning in the glossary
    redefined: int  # tokens of the original that start from their meaning in the glossary
    texts: int  # different ones that it was adapted to
    masked_loss: list[float]  # mean over each epoch's masked tokens


@dataclass(frozen=True)
class AdaptedBackbone:
    """Where to go on from."""

    files: BackboneFiles  # the original's: name, revision, hash and licence
    folder: Path  # of the weights and the tokenizer to load; the original's where nothing was changed
    first_new_token: int | None


def save_adapted(
    folder: Path, record: Adaptation, backbone: Any = None, tokenizer_json: str = "", pad_token_id: int = 0
) -> None:
    """Write the record and, if the backbone was changed, its files; the folder appears whole.

    `afina.modeling.classifier.load_pretrained` and `afina.modeling.backbone.load_tokenizer` read them.

    Args:
        folder: replaced.
        record: where its ``changed`` is false, the rest is not looked at.
        backbone: a transformers encoder.
        tokenizer_json: contents of the tokenizer's file.
        pad_token_id: id of the padding token.
    """
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        if record.changed:
            _save_backbone(temporary, backbone, folder)
            write_text(temporary / "tokenizer.json", tokenizer_json)
            padding = Tokenizer.from_str(tokenizer_json).id_to_token(pad_token_id)
            if padding is not None:
                write_json(temporary / "special_tokens_map.json", {"pad_token": padding})
        write_json(temporary / RECORD, asdict(record))


def _save_backbone(folder: Path, backbone: Any, target: Path) -> None:
    """Write weights and configuration into a temporary ``folder``, which an error calls ``target``."""
    from safetensors.torch import save_file

    from afina.training.checkpoint import writing

    weights = {
        name: tensor.detach().cpu().contiguous().clone() for name, tensor in backbone.state_dict().items()
    }
    with writing(target, "run again"):  # safetensors has errors of its own kind
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = backbone.config.to_diff_dict()
    # Where the backbone lay on this machine is nobody's business.
    write_json(
        folder / "config.json", {key: value for key, value in config.items() if key != "_name_or_path"}
    )


def read_adapted(folder: Path, files: BackboneFiles) -> AdaptedBackbone:
    """Where the weights and the tokenizer to fine-tune lie.

    Args:
        folder: as `save_adapted` wrote it.
        files: of the backbone that ``params.yaml`` names.

    Raises:
        UserError: the folder is missing, was written by another version of afina, or is of another backbone.
    """
    path = folder / RECORD
    values = read_json(path)
    if not isinstance(values, dict) or set(values) != {item.name for item in fields(Adaptation)}:
        raise UserError(f"{path}: not of this version of afina; run `dvc repro -f adapt`")
    record = Adaptation(**values)
    if record.sha256 != files.sha256:
        # Forced: DVC knows the backbone by name, and sees no change where its files are others now.
        raise UserError(
            f"{path}: adapted from other weights ({record.backbone}) than {files.name} has; run "
            "`dvc repro -f -s adapt && dvc repro`"
        )
    return AdaptedBackbone(files, folder if record.changed else files.folder, record.first_new_token)
