"""Weights in a file of their own, beside a model of more than 2 GB, which one ONNX file cannot hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afina.errors import UserError

PROPERTY = "external_data"  # of the metadata; a file that holds all of its weights has none


@dataclass(frozen=True)
class DataFile:
    """What a model knows about the file with its weights.

    Attributes:
        location: its name; it is in the model's own folder.
        size: in bytes.
        sha256: of its content, hexadecimal.
    """

    location: str
    size: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """As it stands in the metadata."""
        return {"location": self.location, "size": self.size, "sha256": self.sha256}


def read_external(file: Path, properties: Mapping[str, str]) -> dict[Path, bytes]:
    """Read and check the files with a model's weights.

    Args:
        file: the model.
        properties: its metadata.

    Returns:
        The files beside ``file`` that belong to it and what is in them; none for a model in one file.

    Raises:
        UserError: a file is missing, of another size or content, too large for the memory, or would be
            outside the model's folder.
    """
    return dict(_checked(file, data) for data in _declared(file, properties))


def external_files(file: Path, properties: Mapping[str, str]) -> tuple[Path, ...]:
    """Where the files with a model's weights belong, whether or not they are there; see `read_external`.

    Raises:
        UserError: the metadata are not readable.
    """
    names = [data.location for data in _declared(file, properties)]
    return tuple(file.parent / name for name in names if _is_plain_name(name))


def _declared(file: Path, properties: Mapping[str, str]) -> list[DataFile]:
    wrong = UserError(f"{file}: metadata {PROPERTY}: not readable; export the model again")
    try:
        entries = json.loads(properties.get(PROPERTY, "[]"))
        found = [DataFile(entry["location"], entry["size"], entry["sha256"]) for entry in entries or []]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise wrong from None
    for data in found:
        if not isinstance(data.location, str) or not isinstance(data.sha256, str):
            raise wrong
        if isinstance(data.size, bool) or not isinstance(data.size, int):
            raise wrong
    return found


def _checked(file: Path, data: DataFile) -> tuple[Path, bytes]:
    if not _is_plain_name(data.location):
        raise UserError(
            f"{file}: its weights would be in {data.location[:80]!r}, outside its folder; "
            "get the model from where it was made"
        )
    weights = file.parent / data.location
    if not weights.is_file():
        raise UserError(f"{file}: its weights are in {data.location}, which is missing; copy both files")
    # A link may lead anywhere; a model behind a link, as a cache lays it out, has its weights behind one too.
    if weights.is_symlink() and not file.is_symlink():
        raise UserError(f"{weights}: a link, which may lead outside the model's folder; copy the file itself")
    size = weights.stat().st_size
    if size != data.size:
        raise UserError(
            f"{weights}: {size:,} bytes, {file.name} needs {data.size:,}; "
            "cut off or of another model, copy both files again"
        )
    try:
        content = weights.read_bytes()
    except MemoryError:
        raise UserError(f"{weights}: {size:,} bytes do not fit in the memory") from None
    if hashlib.sha256(content).hexdigest() != data.sha256:
        raise UserError(
            f"{weights}: not the weights that {file.name} was exported with (another SHA-256); "
            "copy both files again"
        )
    return weights, content


def _is_plain_name(location: str) -> bool:
    """Whether it names a file in the same folder, on whatever system."""
    return bool(location) and location not in (".", "..") and not set(location) & set("/\\:\0")
