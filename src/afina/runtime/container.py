"""Read the metadata of an ONNX file without the weights: no protobuf library, and no native code.

A model.onnx is one protobuf message, ``ModelProto``: fields one after another, each with its number, its
wire type and, if it is a string or a message, its length (https://protobuf.dev/programming-guides/encoding).
The graph is one such field, skipped in one step; so a file that is cut off is noticed here too. What became
of the bits within it, its SHA-256 tells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from afina.errors import UserError

GRAPH_SHA256 = "graph_sha256"  # of the metadata; files of older versions have none
LAST = "schema_version"

_GRAPH, _METADATA = 7, 14  # fields of ModelProto
_KEY, _VALUE = 1, 2  # fields of StringStringEntryProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_CHUNK = 1 << 20  # bytes hashed at a time


def read_properties(file: Path) -> dict[str, str]:
    """The ``metadata_props`` of an ONNX file.

    Raises:
        UserError: the file is missing, a folder, empty, cut off, or no ONNX model.
    """
    with _opened(file) as (stream, size):
        return _properties(stream, size)


def in_order(properties: Mapping[str, str]) -> list[str]:
    """Keys in the order in which they are written: last the one that no file of ours is without.

    So a file that was cut off between two entries, which is sound to every reader, is known to be.
    """
    return sorted(properties, key=LAST.__eq__)


def check_graph(file: Path, properties: Mapping[str, str]) -> None:
    """Check that the graph, with the weights in it, is bit for bit the one that the metadata are of.

    onnxruntime reads a changed weight like any other. Memory does not grow with the file, and other threads
    run meanwhile.

    Args:
        file: the model.
        properties: its metadata; without the entry nothing is checked.

    Raises:
        UserError: it is another one, or the file cannot be read.
    """
    expected = properties.get(GRAPH_SHA256)
    if expected is None:
        return
    with _opened(file) as (stream, size):
        if _graph_sha256(stream, size) != expected:
            raise _MalformedError("damaged: its graph has another SHA-256 than its metadata", "download")


@contextmanager
def _opened(file: Path) -> Iterator[tuple[BinaryIO, int]]:
    """A file and its size in bytes; what is wrong with it becomes one line."""
    if not file.is_file():
        problem = "is a folder, give the model.onnx in it" if file.is_dir() else "no such file"
        raise UserError(f"{file}: {problem}")
    try:
        with file.open("rb") as stream:
            yield stream, file.stat().st_size
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check its permissions") from None
    except _MalformedError as problem:
        raise UserError(f"{file}: {problem}; copy or {problem.remedy} it again") from None


class _MalformedError(Exception):
    """What is wrong with the bytes, and what to do if copying the file again does not help."""

    def __init__(self, problem: str, remedy: str = "export") -> None:
        super().__init__(problem)
        self.remedy = remedy


def _properties(stream: BinaryIO, size: int) -> dict[str, str]:
    if not size:
        raise _MalformedError("the file is empty")
    properties: dict[str, str] = {}
    has_graph = False
    for number, length in _fields(stream, size):
        has_graph = has_graph or number == _GRAPH
        if number == _METADATA and length is not None:
            key, value = _entry(stream.read(length))
            properties[key] = value
    if not has_graph:
        raise _MalformedError("not an ONNX model, perhaps damaged")
    return properties


def _graph_sha256(stream: BinaryIO, size: int) -> str:
    """Of the graph as it lies in the file, hexadecimal."""
    digest = hashlib.sha256()
    for number, length in _fields(stream, size):
        left = length if number == _GRAPH and length is not None else 0
        while content := stream.read(min(left, _CHUNK)):
            digest.update(content)
            left -= len(content)
    return digest.hexdigest()


def _entry(content: bytes) -> tuple[str, str]:
    stream = BytesIO(content)
    texts = {
        number: stream.read(length) for number, length in _fields(stream, len(content)) if length is not None
    }
    try:
        key = texts.get(_KEY, b"").decode("utf-8")
        return key, texts.get(_VALUE, b"").decode("utf-8")
    except UnicodeDecodeError:
        raise _MalformedError("metadata that is not UTF-8, the file is damaged") from None


def _fields(stream: BinaryIO, size: int) -> Iterator[tuple[int, int | None]]:
    """The number of each field, with the stream before its content, and how long that is.

    The length is None for a number, which needs no reading. What the caller does not read is skipped.
    """
    position = 0
    while position < size:
        stream.seek(position)
        tag = _varint(stream)
        number, wire_type = tag >> 3, tag & 7
        length = None
        if wire_type == _VARINT:
            _varint(stream)
            end = stream.tell()
        elif wire_type in (_FIXED32, _FIXED64):
            end = stream.tell() + (4 if wire_type == _FIXED32 else 8)
        elif wire_type == _BYTES:
            length = _varint(stream)
            end = stream.tell() + length
        else:
            raise _MalformedError("not an ONNX model, perhaps damaged")
        if not number:
            raise _MalformedError("not an ONNX model, perhaps damaged")
        if end > size:
            raise _MalformedError(f"not an ONNX model, or cut off: {size:,} bytes of at least {end:,}")
        yield number, length
        position = end


def _varint(stream: BinaryIO) -> int:
    """An unsigned number of up to ten bytes, seven bits in each, the lowest first."""
    value = 0
    for shift in range(0, 70, 7):
        byte = stream.read(1)
        if not byte:
            raise _MalformedError("not an ONNX model, or cut off")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise _MalformedError("not an ONNX model, perhaps damaged")
