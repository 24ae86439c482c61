"""Records of CSV and JSON Lines with their place in bytes, so that reading can begin at any of them.

The readers of `afina.sources` read a local file from beginning to end; scoring has to go on in the middle of
one, which may be behind a URL, and may never hold more of it than a chunk.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Literal, NamedTuple, TypeAlias, cast

from afina.delimiters import DELIMITERS, told_delimiter
from afina.errors import UserError
from afina.scoring.storage import Storage

MAX_RECORD = 4 << 20  # bytes of a record; a longer one is a failure, and never in memory

_BLOCK = 1 << 20
_SAMPLE = 64 << 20  # most bytes read to find out an encoding
_ESCAPED = re.compile("[\udc80-\udcff]")  # how bytes that are no text are decoded
_NOT_CP1252 = (0x81, 0x8D, 0x8F, 0x90, 0x9D)


@dataclass(frozen=True)
class TextFile:
    """How a text file is read.

    Attributes:
        location: path or URL.
        encoding: a codec of Python.
        delimiter: between cells; empty for JSON Lines.
        names: of the columns of a CSV.
        start: where its records begin, in bytes of the decompressed file (of UTF-8 for a wide encoding).
        line: the number of the line there.
    """

    location: str
    encoding: str
    delimiter: str = ""
    names: tuple[str, ...] = ()
    start: int = 0
    line: int = 1


class Record(NamedTuple):
    """A row, or why it is none.

    Attributes:
        start, end: where it is, in bytes as `TextFile.start`.
        line: the line that it begins on, from 1.
        last: the line that it ends on.
        value: cells of a CSV, the object of a line of JSON; None where there is a problem.
        problem: why it cannot be read; empty where it can.
    """

    start: int
    end: int
    line: int
    last: int
    value: Any
    problem: str = ""


class _Line(NamedTuple):
    data: bytes
    start: int
    end: int
    number: int
    too_long: bool


Quote: TypeAlias = Literal["open", "closed", "broken"]


@dataclass
class _Ahead:
    """Lines read ahead of the record that they were read for, and where in them an open quote ends.

    It ends there whichever line opened it, so each line is looked at once, not for every quote before it.
    """

    lines: deque[_Line] = field(default_factory=deque)
    quote: Quote = "open"  # after the last of these lines; at the end of all before it is open

    def pop(self) -> _Line:
        line = self.lines.popleft()
        if not self.lines:
            self.quote = "open"
        return line

    def clear(self) -> None:
        self.lines.clear()
        self.quote = "open"


# ------------------------------------------------------------------------------------ bytes and lines


def _undecoded(error: UnicodeError) -> tuple[str | bytes, int]:
    """Half a surrogate pair for each that there is, and for what is no character at all."""
    try:
        return codecs.lookup_error("surrogatepass")(error)
    except UnicodeDecodeError as no_surrogate:
        return "\udcff", no_surrogate.end


_UNDECODED = "afina.undecoded"
codecs.register_error(_UNDECODED, _undecoded)


class _Transcoded(io.RawIOBase):
    """A stream in an encoding whose line ends are not one byte, as UTF-8.

    What is no character comes out as bytes that are not UTF-8, so that it is found where it is.
    """

    def __init__(self, stream: IO[bytes], encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)(_UNDECODED)
        self._ready = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and not self._ended:
            block = self._stream.read(1 << 16)
            self._ended = not block
            try:
                self._ready = self._decoder.decode(block, final=self._ended).encode("utf-8", "surrogatepass")
            except UnicodeError:  # no mark of the byte order
                self._ready, self._ended = b"\xff", True
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Gzip(gzip.GzipFile):
    """Decompresses as it is read, and closes what it reads from."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(fileobj=stream, mode="rb")
        self._source = stream

    def close(self) -> None:
        super().close()
        self._source.close()


def is_wide(encoding: str) -> bool:
    """Whether lines of an encoding do not end in the one byte of a line feed."""
    return "\n,".encode(encoding)[-2:] != b"\n,"


def open_bytes(storage: Storage, location: str, encoding: str) -> IO[bytes]:
    """A file's bytes, decompressed as they are read; a wide encoding's as UTF-8."""
    stream = storage.open(location)
    if location.lower().endswith(".gz"):
        stream = cast("IO[bytes]", _Gzip(stream))
    if is_wide(encoding):
        stream = cast("IO[bytes]", io.BufferedReader(_Transcoded(stream, encoding), 1 << 16))
    return stream


class Cursor:
    """The bytes of one file, read forwards from any place.

    Where a stream cannot jump (compressed, wide) it reads on to the place, and begins anew only to go back:
    chunks in the order of the file cost one reading of it.
    """

    def __init__(self, storage: Storage, file: TextFile) -> None:
        self.file = file
        self._storage = storage
        self._jumps = not file.location.lower().endswith(".gz") and not is_wide(file.encoding)
        self._stream = open_bytes(storage, file.location, file.encoding)
        self._at = 0
        self.ahead = _Ahead()

    def lines(self, start: int, number: int) -> Iterator[_Line]:
        """The lines from a place on, without those in `ahead`; one iterator at a time."""
        ahead = self.ahead
        while ahead.lines and ahead.lines[0].start < start:
            ahead.pop()
        if ahead.lines and ahead.lines[0].start == start:
            number = ahead.lines[-1].number + 1
        else:
            ahead.clear()
            self._go_to(start)
        return self._read(number)

    def _go_to(self, start: int) -> None:
        if self._jumps:
            self._stream.seek(start)
        else:
            if start < self._at:
                self._stream.close()
                self._stream = open_bytes(self._storage, self.file.location, self.file.encoding)
                self._at = 0
            while self._at < start and (block := self._stream.read(min(_BLOCK, start - self._at))):
                self._at += len(block)
        self._at = start

    def _read(self, number: int) -> Iterator[_Line]:
        for line in _lines(self._stream, self._at, number):
            self._at = line.end
            yield line

    def close(self) -> None:
        self._stream.close()


def _lines(stream: IO[bytes], start: int, number: int) -> Iterator[_Line]:
    """Lines with their ends; of one that is too long only where it is."""
    while data := stream.readline(MAX_RECORD + 1):
        end = start + len(data)
        too_long = len(data) > MAX_RECORD and not data.endswith(b"\n")
        if too_long:
            data = b""
            while rest := stream.readline(_BLOCK):
                end += len(rest)
                if rest.endswith(b"\n"):
                    break
        if start == 0:
            data = data.removeprefix(codecs.BOM_UTF8)
        yield _Line(data, start, end, number, too_long)
        start, number = end, number + 1


# -------------------------------------------------------------------------------------------- records


def read_records(cursor: Cursor, start: int, line: int) -> Iterator[Record]:
    """The records of a file from one of them on; blank lines are none."""
    file = cursor.file
    lines = cursor.lines(start, line)
    codec = "utf-8" if is_wide(file.encoding) else file.encoding
    if file.delimiter:
        source = _CsvLines(lines, cursor.ahead, codec, file.delimiter)
        return _csv_records(source, file.encoding, file.delimiter, len(file.names))
    return _json_records(lines, codec, file.encoding)


def _undecodable(encoding: str) -> str:
    return f"bytes that are not text in {encoding}"


def _json_records(lines: Iterator[_Line], codec: str, encoding: str) -> Iterator[Record]:
    for line in lines:
        value, problem = None, f"longer than {MAX_RECORD:,} bytes"
        if not line.too_long:
            if not line.data.strip():
                continue
            value, problem = _json_object(line.data, codec, encoding)
        yield Record(line.start, line.end, line.number, line.number, value, problem)


def _json_object(data: bytes, codec: str, encoding: str) -> tuple[dict[str, Any] | None, str]:
    try:
        text = data.decode(codec)
    except UnicodeDecodeError:
        return None, _undecodable(encoding)
    try:
        value = json.loads(text, parse_constant=_no_number)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        return None, f"not valid JSON: {error.msg}"
    except RecursionError:
        return None, "not valid JSON: nested too deeply"
    except UnicodeEncodeError:
        return None, "half a surrogate pair, which is no character"
    except ValueError:  # NaN and its like, or an integer of thousands of digits
        return None, "not valid JSON: not a number"
    if not isinstance(value, dict):
        return None, "not a JSON object"
    return value, ""


def _no_number(name: str) -> None:
    raise ValueError(name)


class _CsvLines:
    """Lines of a CSV handed to the csv module; after a record's first only where its quote closes soundly."""

    def __init__(self, lines: Iterator[_Line], ahead: _Ahead, codec: str, delimiter: str) -> None:
        self._lines = lines
        self._ahead = ahead
        self._codec = codec
        self._delimiter = delimiter
        self.taken: list[_Line] = []
        self.stopped = False  # the record asked for more than there is, or may be

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        if len(self.taken) == 1 and not self._closes(self.taken[0]):
            self.stopped = True
            raise StopIteration
        line = self._ahead.pop() if self._ahead.lines else next(self._lines, None)
        if line is None:
            raise StopIteration
        self.taken.append(line)
        if line.too_long or len(line.data) > MAX_RECORD:
            self.stopped = True
            raise StopIteration
        return self._text(line)

    def _text(self, line: _Line) -> str:
        return line.data.decode(self._codec, "surrogateescape")

    def _closes(self, first: _Line) -> bool:
        """Whether the quote that a line leaves open closes soundly, before the record is too long."""
        if _quote_after(self._text(first), self._delimiter) == "broken":
            return False
        ahead, lines = self._ahead, self._ahead.lines
        before = first.end - len(first.data)
        end = lines[-1].end if lines else first.end
        # Twice as far as the record may go: so what comes after it is not looked at again for each line.
        most = 2 * MAX_RECORD if end - before <= MAX_RECORD else 0
        while ahead.quote == "open" and end - before <= most:
            line = next(self._lines, None)
            if line is None:
                ahead.quote = "broken"
                break
            lines.append(line)
            end = line.end
            ahead.quote = "broken" if line.too_long else self._open_quote_after(line)
        return ahead.quote == "closed" and end - before <= MAX_RECORD

    def _open_quote_after(self, line: _Line) -> Quote:
        text = self._text(line)
        return _quote_after('"' + text, self._delimiter) if '"' in text else "open"

    def begin(self) -> None:
        """Begin a record."""
        self.taken.clear()
        self.stopped = False


def _quote_after(text: str, delimiter: str) -> Quote:
    """The quote of a record after its first line; broken where the rules are."""
    asked = False

    def once() -> Iterator[str]:
        nonlocal asked
        yield text
        asked = True

    try:
        next(csv.reader(once(), delimiter=delimiter, strict=True))
    except csv.Error:
        return "open" if asked else "broken"
    return "closed"


def _csv_records(source: _CsvLines, encoding: str, delimiter: str, width: int) -> Iterator[Record]:
    """Records of a CSV. A quote that opens and does not close soundly takes only its own line with it."""
    csv.field_size_limit(sys.maxsize)
    while True:
        source.begin()
        problem = ""
        cells: list[str] | None = None
        try:
            cells = next(csv.reader(source, delimiter=delimiter))
        except StopIteration:
            if not source.taken:
                return
        except csv.Error as error:
            problem = f"not valid CSV: {error}"
            if "new-line character" in str(error):
                problem = "a line ends in a lone carriage return; save the file with the line ends of today"
        first = source.taken[0]
        if cells == []:
            continue
        if first.too_long or len(first.data) > MAX_RECORD:
            problem = f"longer than {MAX_RECORD:,} bytes"
        elif source.stopped:
            problem = "a quote opens and does not close"
        elif cells is not None:
            problem = _cells_problem(cells, width, encoding)
        last = source.taken[-1]
        value = None if problem or cells is None else cells[: width or None]
        yield Record(first.start, last.end, first.number, last.number, value, problem)


def _cells_problem(cells: Sequence[str], width: int, encoding: str) -> str:
    if width and (len(cells) < width or any(cells[width:])):
        return f"{len(cells)} columns instead of {width}"
    if any(_ESCAPED.search(cell) for cell in cells if not cell.isascii()):
        return _undecodable(encoding)
    return ""


# ---------------------------------------------------------------------------- how a file is written


def examine_csv(
    storage: Storage, location: str, encoding: str | None, delimiter: str | None, columns: Sequence[str]
) -> TextFile | None:
    """Encoding, delimiter and columns of a CSV; None for an empty file.

    The delimiter is the first with which the header has all ``columns``, unless a first line ``sep=;`` tells.

    Raises:
        UserError: the header cannot be read, or lacks a column.
    """
    encoding = encoding or _detect(storage, location)
    told, start = _told_delimiter(storage, location, encoding)
    delimiter = delimiter or told
    line = 1 if told is None else 2
    tried: tuple[str, ...] = (delimiter,) if delimiter else DELIMITERS
    if location.lower().removesuffix(".gz").endswith((".tsv", ".tab")) and delimiter is None:
        tried = ("\t", *(other for other in tried if other != "\t"))
    found: list[TextFile] = []
    for one in tried:
        cursor = Cursor(storage, TextFile(location, encoding, one))
        try:
            header = next(read_records(cursor, start, line), None)
        finally:
            cursor.close()
        if header is None:
            return None
        if header.problem:
            raise UserError(f"{location}: line {header.line}: the header cannot be read ({header.problem})")
        names = [cell.strip() for cell in header.value]
        found.append(TextFile(location, encoding, one, _unique(names), header.end, header.last + 1))
        if all(column in names for column in columns):
            break
    else:
        found.sort(key=lambda file: -len(file.names))
        names = list(found[0].names)
        missing = next(column for column in columns if column not in names)
        shown = ", ".join(repr(name[:40]) for name in names[:20])
        raise UserError(f"{location}: no column {missing!r}; it has {shown}; name one with --column")
    for column in columns:
        if names.count(column) > 1:
            raise UserError(
                f"{location}: {names.count(column)} columns are named {column!r}; rename all but one"
            )
    return found[-1]


def _told_delimiter(storage: Storage, location: str, encoding: str) -> tuple[str | None, int]:
    """The delimiter that Excel's first line names, and where that line ends; None and 0: there is none."""
    cursor = Cursor(storage, TextFile(location, encoding))
    try:
        first = next(cursor.lines(0, 1), None)
    finally:
        cursor.close()
    codec = "utf-8" if is_wide(encoding) else encoding
    told = None if first is None else told_delimiter(first.data.decode(codec, "surrogateescape"))
    return (None, 0) if first is None or told is None else (told, first.end)


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """Names with a number after those that are there already."""
    seen: dict[str, None] = {}
    for name in names:
        unique, number = name, 2
        while unique in seen or (number > 2 and unique in names):
            unique, number = f"{name}_{number}", number + 1
        seen[unique] = None
    return tuple(seen)


def examine_json(storage: Storage, location: str, encoding: str | None) -> TextFile:
    """How a file of JSON Lines is read."""
    return TextFile(location, encoding or _detect(storage, location))


def known_encoding(encoding: str) -> str:
    """The codec of an encoding's name; a mark of the byte order is no text, so ``utf-8-sig`` is UTF-8.

    Raises:
        UserError: nobody knows the name, or it is not of an encoding of text.
    """
    try:
        "\n,".encode(encoding)
        name = codecs.lookup(encoding).name
        if name in ("idna", "punycode"):  # of the names of hosts
            raise LookupError
        return "utf-8" if name == "utf-8-sig" else name
    except (LookupError, UnicodeError):
        raise UserError(
            f"score: --encoding: no encoding is named {encoding!r}; utf-8, latin-1, utf-16 …"
        ) from None


def _detect(storage: Storage, location: str) -> str:
    """The encoding: by its mark, else UTF-8 unless what is not ASCII speaks for Windows' or ISO's Latin.

    Read as far as the first block with such bytes, at most `_SAMPLE` bytes. A UTF-8 file with some damage is
    not Latin: the damaged characters have to be as many as the sound ones.
    """
    with open_bytes(storage, location, "latin-1") as stream:
        block = stream.read(_BLOCK)
        if block.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # the first begins as UTF-16's does
            return "utf-32"
        if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        seen = len(block)
        while block.isascii() and seen < _SAMPLE and (following := stream.read(_BLOCK)):
            block = following
            seen += len(block)
    if block.isascii():
        return "utf-8"
    text = block.decode("utf-8", "surrogateescape")
    if len(block) == _BLOCK:  # a character cut in two at its edges is no damage
        text = text[3:-3]
    damaged = sum("\udc80" <= character <= "\udcff" for character in text)
    sound = sum(character > "\x7f" for character in text) - damaged
    if not damaged or sound > damaged:
        return "utf-8"
    return "latin-1" if any(block.count(byte) for byte in _NOT_CP1252) else "cp1252"
