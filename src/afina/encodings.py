"""Which encoding a file is in, and where it breaks."""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
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
_ARCHIVE = b"PK\x03\x04"
_BYTES_A_ZERO = 1_000  # in text there are at least so many bytes for one of zero; in random ones 256
_FEW_ZEROS = 8  # in a file of any size; UTF-16 without a mark has more of them in the header alone
_WIDE = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_NOT_CP1252 = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")


@contextmanager
def open_binary(path: Path, where: str = "") -> Iterator[IO[bytes]]:
    """Open a file for reading; ``.gz`` is decompressed on the fly. ``where`` names it in messages.

    Raises:
        UserError: the file cannot be opened, or the compressed one is cut short, or not compressed at all.
    """
    open_file = gzip.open if path.suffix.lower() == ".gz" else Path.open
    try:
        opened = open_file(path, "rb")
    except OSError as error:
        raise UserError(
            f"{where or path}: cannot be read ({error.strerror}); close it in other programs, and see that "
            "you may read it"
        ) from None
    try:
        with opened as stream:
            yield cast("IO[bytes]", stream)
    except EOFError:
        raise UserError(f"{where or path}: the compressed file is cut short; copy it again") from None
    except (gzip.BadGzipFile, zlib.error):
        raise UserError(
            f"{where or path}: not a sound gzip file; copy it again, or drop .gz from its name if it is plain"
        ) from None


def decoding(encoding: str) -> tuple[str, str]:
    """The codec to read an encoding with, and what it does with bytes that are not in the encoding.

    They become lone surrogates, for the caller to reject the row that holds them; but UTF-16 and UTF-32 are
    strict, since they have no row to go on with.
    """
    name = codecs.lookup(encoding).name
    if name == "utf-8":
        name = "utf-8-sig"  # a byte order mark is no text, however the encoding was given
    return name, "strict" if name.startswith(("utf-16", "utf-32")) else "surrogateescape"


@contextmanager
def open_text(path: Path, encoding: str, where: str, newline: str = "") -> Iterator[TextIOWrapper]:
    """Open a file as text, decoded as `decoding` says.

    Raises:
        UserError: bytes that the encoding cannot give even as surrogates, or a damaged compressed file.
    """
    codec, errors = decoding(encoding)
    try:
        with (
            open_binary(path, where) as stream,
            TextIOWrapper(stream, codec, errors, newline=newline) as text,
        ):
            yield text
    except UnicodeError:
        at = first_break(path, encoding, where) or ""
        raise UserError(f"{where}: {at}not {encoding}; save the file again, or set encoding:") from None


def first_break(path: Path, encoding: str, where: str = "") -> str | None:
    """Where a file is not in an encoding, as "line 3: " ("" if the line is unknown); None if it is in it."""
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    lines = 1
    with open_binary(path, where) as stream:
        try:
            while block := stream.read(_BLOCK):
                lines += decoder.decode(block).count("\n")
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            lines += error.object.count(b"\n", 0, error.start)
            return f"line {lines}: "
        except UnicodeError:
            return ""
    return None


def check_is_text(path: Path, given: str | None, where: str) -> None:
    """Raise `UserError` if the first block of a file shows that it is no text in any encoding it can be in.

    Only UTF-16 and UTF-32, known by their mark or ``given``, have bytes of zero in text. Now and then one
    gets into an exported cell all the same, so a few are no proof where the rest is sound UTF-8, or where
    there is much text for each; cleaning drops them.
    """
    with open_binary(path, where) as stream:
        block = stream.read(_BLOCK)
    if block.startswith(_ARCHIVE):
        raise UserError(f"{where}: an Excel workbook or another archive; name it .xlsx, or save it as CSV")
    marked = block.startswith(_WIDE)
    wide = marked if given is None else decoding(given)[1] == "strict"
    if wide:
        return
    if marked:
        raise UserError(f"{where}: line 1: not {given}; set encoding: {detect_encoding(path, where)}")
    zeros = block.count(b"\0")
    many = zeros * _BYTES_A_ZERO > len(block)
    if many and not (zeros <= _FEW_ZEROS and first_break(path, "utf-8", where) is None):
        line = block.count(b"\n", 0, block.index(b"\0")) + 1
        raise UserError(
            f"{where}: line {line}: not text, for it holds NUL bytes; save it again as text, or set "
            "encoding: if it is in UTF-16"
        )


def detect_encoding(path: Path, where: str = "") -> str:
    """The encoding of a text file, from all of its bytes.

    A byte order mark decides; else UTF-8 if it is valid, or if damaged bytes are fewer than sound multi-byte
    characters (a damaged UTF-8 file is not Latin-1); else cp1252, or latin-1 where the bytes 0x80-0x9f are
    absent or not in cp1252.

    Raises:
        UserError: the compressed file is damaged.
    """
    sound = damaged = 0
    c1 = undefined = False
    with open_binary(path, where) as stream:
        block = stream.read(_BLOCK)
        if block.startswith(codecs.BOM_UTF8):
            return "utf-8-sig"
        if block.startswith(_WIDE):
            return "utf-32" if block.startswith(_WIDE[:2]) else "utf-16"
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


def is_rather_utf8(path: Path, given: str) -> bool:
    """Is the file sound UTF-8 with more than ASCII in it, though another 8-bit encoding is given?"""
    codec, errors = decoding(given)
    if codec == "utf-8-sig" or errors == "strict":
        return False
    with open_binary(path) as stream:
        ascii_alone = all(block.isascii() for block in iter(lambda: stream.read(_BLOCK), b""))
    return not ascii_alone and first_break(path, "utf-8") is None


def resolve_encoding(path: Path, given: str | None, where: str) -> str:
    """The given encoding if the file can be in it, else the detected one.

    Raises:
        UserError: the file is not in the given encoding (tells the first bad line and the likely encoding),
            or it is compressed and damaged.
    """
    if given is None:
        return detect_encoding(path, where)
    at = first_break(path, given, where)
    if at is None:
        return given
    detected = detect_encoding(path, where)
    if decoding(detected) == decoding(given):
        return given  # damaged here and there: the rows concerned are rejected one by one
    raise UserError(f"{where}: {at}not {given}; set encoding: {detected}")
