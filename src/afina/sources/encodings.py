"""Which encoding a file is in, and where it breaks."""

from __future__ import annotations

import codecs
import gzip
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import IO, cast

from afina.errors import UserError

_BLOCK = 1 << 20
_ESCAPED = re.compile("[\udc80-\udcff]")
_NON_ASCII = re.compile("[^\x00-\x7f]")
_C1 = re.compile(rb"[\x80-\x9f]")
_NOT_CP1252 = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")


@contextmanager
def open_binary(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading; ``.gz`` is decompressed on the fly."""
    with path.open("rb") if path.suffix != ".gz" else gzip.open(path, "rb") as stream:
        yield cast("IO[bytes]", stream)


@contextmanager
def open_text(path: Path, encoding: str, newline: str = "") -> Iterator[TextIOWrapper]:
    """Open a file as text; bytes that are not in ``encoding`` become lone surrogates, for the caller to
    reject the row that holds them."""
    errors = "strict" if "16" in encoding or "32" in encoding else "surrogateescape"
    with open_binary(path) as stream, TextIOWrapper(stream, encoding, errors, newline=newline) as text:
        yield text


def detect_encoding(path: Path) -> str:
    """The encoding of a text file, from all of its bytes.

    A byte order mark decides; else UTF-8 if it is valid, or if damaged bytes are fewer than sound multi-byte
    characters (a damaged UTF-8 file is not Latin-1); else cp1252, or latin-1 where the bytes 0x80-0x9f are
    absent or not in cp1252.
    """
    sound = damaged = 0
    c1 = undefined = False
    with open_binary(path) as stream:
        block = stream.read(_BLOCK)
        if block.startswith(codecs.BOM_UTF8):
            return "utf-8-sig"
        if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        while block:
            if not block.isascii() or decoder.getstate()[0]:
                text = decoder.decode(block)
                bad = len(_ESCAPED.findall(text))
                damaged += bad
                sound += len(_NON_ASCII.findall(text)) - bad
                c1 = c1 or _C1.search(block) is not None
                undefined = undefined or _NOT_CP1252.search(block) is not None
            block = stream.read(_BLOCK)
        damaged += len(decoder.decode(b"", final=True))
    if not damaged or sound > damaged:
        return "utf-8"
    return "cp1252" if c1 and not undefined else "latin-1"


def resolve_encoding(path: Path, given: str | None, where: str) -> str:
    """The given encoding if the file can be in it, else the detected one.

    Raises:
        UserError: the file is not in the given encoding; tells the first bad line and the likely encoding.
    """
    if given is None:
        return detect_encoding(path)
    try:
        with open_binary(path) as stream:
            decoder = codecs.getincrementaldecoder(given)("strict")
            lines = 1
            while block := stream.read(_BLOCK):
                decoder.decode(block)
                lines += block.count(b"\n")
            decoder.decode(b"", final=True)
    except UnicodeError as error:
        detected = detect_encoding(path)
        if codecs.lookup(detected).name == codecs.lookup(given).name:
            return given  # damaged here and there: the rows concerned are rejected one by one
        at = ""
        if isinstance(error, UnicodeDecodeError):
            line = lines + block[: error.start].count(b"\n")
            at = f"line {line}: "
        raise UserError(f"{where}: {at}not {given}; set encoding: {detected}") from None
    return given
