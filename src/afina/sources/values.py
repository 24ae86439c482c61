"""Cells of any type as text, as labels and as times."""

from __future__ import annotations

import datetime
import decimal
import email.utils
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from afina.errors import UserError
from afina.sources.chunk import Column

SPLITS = {
    "train": "train", "training": "train", "entrenamiento": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "validacion": "validation", "validación": "validation",
    "test": "test", "testing": "test", "prueba": "test",
}  # fmt: skip

ONES = frozenset({"1", "true", "t", "yes", "y", "si", "sí", "s", "x", "verdadero"})
ZEROS = frozenset({"0", "false", "f", "no", "n", "falso", ""})


def scalar_text(value: Any) -> str | None:
    """One cell as text: whole numbers without ".0", dates in ISO form, nothing for None and NaN.

    Raises:
        TypeError: the cell holds an object.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() and abs(value) < 2**63 else repr(value)
    if isinstance(value, decimal.Decimal):
        if value.is_nan():
            return None
        whole = value.is_finite() and value == value.to_integral_value()
        return str(int(value)) if whole else format(value.normalize(), "f")
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "surrogateescape")
    if isinstance(value, dict):
        raise TypeError("an object")
    return str(value)


def as_text(values: Column, where: str, joiner: str = "\n") -> pa.Array:
    """A column as strings, null where there is nothing; a list in a cell is joined with ``joiner``.

    Raises:
        UserError: a cell holds an object.
        UnicodeEncodeError: a cell holds bytes that are not text.
    """
    if isinstance(values, pa.Array):
        kind = values.type
        if pa.types.is_dictionary(kind):
            values, kind = values.dictionary_decode(), kind.value_type
        if pa.types.is_string(kind):
            return values
        if pa.types.is_large_string(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            return values.cast(pa.string())
        values = values.to_pylist()
    try:
        return pa.array(values, pa.string())
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        pass

    def convert(value: Any) -> str | None:
        if isinstance(value, list | tuple):
            return joiner.join(part for part in map(convert, value) if part)
        return scalar_text(value)

    try:
        return pa.array([convert(value) for value in values], pa.string())
    except TypeError:
        example = next(value for value in values if isinstance(value, dict | list))
        keys = list(example) if isinstance(example, dict) else []
        hint = f", as {where.rsplit(' ', 1)[-1]}.{keys[0]}" if keys else ""
        raise UserError(
            f"{where} holds objects, not text; name a field inside by its dotted path{hint}"
        ) from None


def blank_as_null(values: pa.Array) -> pa.Array:
    """Cells of nothing but white space become null."""
    blank = pc.equal(pc.utf8_trim_whitespace(values), "")
    return pc.if_else(pc.fill_null(blank, False), pa.scalar(None, pa.string()), values)


_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_ARRAY = re.compile(rf"\s*(?:{_QUOTED.pattern})(?:\s+(?:{_QUOTED.pattern}))+\s*")


def split_cell(cell: str, separator: str) -> list[str]:
    """The labels of one cell, each once, in order, without the spaces around them.

    A cell written as a list (``['joy', 'fear']``, or without commas as numpy writes the arrays that pandas
    makes of lists in Parquet) loses brackets and quotes.
    """
    cell = cell.strip()
    listed = cell.startswith("[") and cell.endswith("]")
    if listed:
        cell = cell[1:-1]
        if _ARRAY.fullmatch(cell):
            return list(dict.fromkeys(filter(None, (part[1:-1].strip() for part in _QUOTED.findall(cell)))))
    # A separator of white space alone splits at any run of it.
    parts = (part.strip() for part in cell.split(separator.strip() or None))
    if listed:
        parts = (part.strip("'\"").strip() for part in parts)
    return list(dict.fromkeys(part for part in parts if part))


_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)


def as_labels(values: Column, separator: str | None, where: str) -> list[list[str]]:
    """A column as lists of label names: the raw cell, its parts, or the elements of a list in it.

    Lists in a list, as a dotted path through two of them gives, count as one.
    """
    if isinstance(values, pa.Array) and any(is_kind(values.type) for is_kind in _LISTS):
        values = values.to_pylist()
    if isinstance(values, list) and any(isinstance(value, list | tuple) for value in values):
        return [_listed(value, separator, where) for value in values]
    encoded = as_text(values, where).dictionary_encode()
    distinct = [_parts(cell, separator) for cell in encoded.dictionary.to_pylist()]
    return [[] if code is None else distinct[code] for code in encoded.indices.to_pylist()]


def _parts(cell: str, separator: str | None) -> list[str]:
    if separator is not None:
        return split_cell(cell, separator)
    return [cell] if cell.strip() else []


def _listed(value: Any, separator: str | None, where: str) -> list[str]:
    texts = as_text(list(_elements(value)), where).to_pylist()
    parts = (part for text in texts if text is not None for part in _parts(text, separator))
    return list(dict.fromkeys(parts))


def _elements(value: Any) -> Iterator[Any]:
    """What is in a list and the lists in it; what is no list is itself."""
    if not isinstance(value, list | tuple):
        yield value
        return
    for item in value:
        yield from _elements(item)


_SLASHED = re.compile(
    r"(\d{1,2})[/.-](\d{1,2})[/.-](\d{4}|\d{2})"
    r"(?:[ T,]+(\d{1,2}):(\d{2})(?::(\d{2}))?(?:\.\d+)?\s*([ap]\.?\s?m\.?)?)?",
    re.IGNORECASE,
)
_YEAR_FIRST = re.compile(
    r"(?P<year>\d{4})(?P<sign>[/.-])(?P<month>\d{1,2})(?P=sign)(?P<day>\d{1,2})"
    r"(?:(?:T|,?\s+)(?P<hour>\d{1,2})(?P<rest>:\d{2}(?::\d{2}(?:[.,]\d+)?)?)(?:\s*(?P<half>[ap])\.?\s?m\.?)?"
    r"(?:\s*(?:(?:GMT|UTC)?(?P<ahead>[+-]\d{1,2})(?::?(?P<minutes>\d{2}))?|GMT|UTC|Z))?)?",
    re.IGNORECASE,
)
_YEAR_MONTH = re.compile(r"(\d{4})(?:-(\d{2}))?")
_COMPACT = re.compile(r"((?:19|20)\d{6})(\d{4}|\d{6})(\.\d+)?")
_NUMBER = re.compile(r"-?\d{9,19}(?:\.\d+)?")

_DAY, _MONTH = r"(?P<day>\d{1,2})", r"(?P<month>[A-Za-z]{3,9})\.?"
_YEAR, _WEEKDAY = r"(?P<year>\d{4}|\d{2})", r"(?:[A-Za-z]{3,9}\.?,?\s+)?"
_CLOCK = r"(?P<clock>\d{1,2}:\d{2}(?::\d{2})?)(?:\s*(?P<half>[AaPp]\.?[Mm]\b\.?))?"
_ZONE = r"(?:\s*(?:(?:GMT|UTC)?(?P<offset>[+-]\d{4})|(?P<zone>GMT|UTC?|Z|[ECMP][SD]T)))?(?:\s*\(.*\))?"
_WITH_MONTH_NAMES = [
    re.compile(pattern)
    for pattern in (
        rf"{_WEEKDAY}{_DAY}[ -]{_MONTH}[ -]{_YEAR}(?:[, ]+{_CLOCK}{_ZONE})?",  # of mails
        rf"{_WEEKDAY}{_MONTH}\s+{_DAY},?\s+{_YEAR}(?:[, ]+{_CLOCK}{_ZONE})?",  # of JavaScript, and in prose
        rf"{_WEEKDAY}{_MONTH}\s+{_DAY}\s+{_CLOCK}{_ZONE}\s+{_YEAR}",  # of C and Java
    )
]


def parse_times(
    texts: Sequence[str | None], time_format: str | None = None
) -> list[datetime.datetime | None]:
    """Dates as UTC without a zone; None where a text is not a date. A date without a zone is taken as UTC.

    ISO 8601, also with ``/`` or ``.``, without leading zeros, with AM, PM or GMT-3 after it; day first (month
    first if some date of the column can only be read so and none only day first), digits alone as
    20240131120000, seconds, milliseconds or microseconds since 1970, dates with the month's name as mails and
    programs write them; or ``time_format`` (strptime) alone. None too where a zone is named that is not
    known: an hour that is hours off is worse than none.
    """
    if time_format is not None:
        return [_with_format(text, time_format) for text in texts]
    slashed = [match for text in texts if text and (match := _SLASHED.fullmatch(text.strip()))]
    month_first = any(int(match[2]) > 12 for match in slashed) and not any(
        int(match[1]) > 12 for match in slashed
    )
    return [None if text is None else _parse_time(text.strip(), month_first) for text in texts]


def _with_format(text: str | None, time_format: str) -> datetime.datetime | None:
    try:
        return None if text is None else _utc(datetime.datetime.strptime(text.strip(), time_format))
    except ValueError:
        return None


def _parse_time(text: str, month_first: bool) -> datetime.datetime | None:
    try:
        if (match := _COMPACT.fullmatch(text)) and (moment := _from_digits(match)):
            return moment
        if _NUMBER.fullmatch(text):
            return _since_1970(float(text))
        if match := _SLASHED.fullmatch(text):
            return _from_parts(match, month_first)
        if match := _YEAR_MONTH.fullmatch(text):
            return datetime.datetime(int(match[1]), int(match[2] or 1), 1)
        try:
            return _utc(datetime.datetime.fromisoformat(text))
        except ValueError:
            if match := _YEAR_FIRST.fullmatch(text):
                return _utc(datetime.datetime.fromisoformat(_as_iso(match)))
            return _from_mail(text)
    except (ValueError, OverflowError):
        return None


def _as_iso(match: re.Match[str]) -> str:
    """What `_YEAR_FIRST` found, with the zeros, the hour and the zone that ISO 8601 asks for."""
    date = f"{match['year']}-{int(match['month']):02}-{int(match['day']):02}"
    if match["hour"] is None:
        return date
    hour = int(match["hour"]) if match["half"] is None else _of_24(int(match["hour"]), match["half"])
    ahead = match["ahead"] or "+0"
    zone = f"{ahead[0]}{ahead[1:]:0>2}:{match['minutes'] or '00'}"
    return f"{date}T{hour:02}{match['rest']}{zone}"


def _from_mail(text: str) -> datetime.datetime | None:
    """A mail's date, and what `str` of a date is in JavaScript, Java and C; None for anything else.

    The library's parser passes over what it does not know, and with it over AM and PM and foreign zones.
    """
    if not (match := next(filter(None, (form.fullmatch(text) for form in _WITH_MONTH_NAMES)), None)):
        return None
    day, month, year, clock, half, offset, zone = match.group(
        "day", "month", "year", "clock", "half", "offset", "zone"
    )
    parsed = email.utils.parsedate_tz(f"{day} {month} {year} {clock or '00:00'} {offset or zone or ''}")
    if parsed is None or parsed[0] < 1900:
        return None
    hour = parsed[3] if half is None else _of_24(parsed[3], half)
    moment = datetime.datetime(*parsed[:3], hour, *parsed[4:6])
    return moment - datetime.timedelta(seconds=parsed[9] or 0)


def _of_24(hour: int, half: str) -> int:
    """An hour of twelve with AM or PM as one of the whole day."""
    return hour % 12 + (12 if half.lower().startswith("p") else 0)


def _utc(moment: datetime.datetime) -> datetime.datetime:
    return moment if moment.tzinfo is None else moment.astimezone(datetime.UTC).replace(tzinfo=None)


def _from_digits(match: re.Match[str]) -> datetime.datetime | None:
    """A date and time written without separators; None for what may yet be milliseconds since 1970.

    Raises:
        ValueError: neither.
    """
    day, clock, fraction = match.groups()
    try:
        return datetime.datetime.fromisoformat(f"{day}T{clock.ljust(6, '0')}{fraction or ''}")
    except ValueError:
        if len(clock) == 6:
            raise  # as milliseconds since 1970 it would be the year 2571 or later
        return None


def _since_1970(number: float) -> datetime.datetime:
    # Seconds reach 1e11 in the year 5138, milliseconds begin there in 1973: the size tells the unit.
    scale = 1e6 if abs(number) < 1e11 else 1e3 if abs(number) < 1e14 else 1.0
    return datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=round(number * scale))


def _from_parts(match: re.Match[str], month_first: bool) -> datetime.datetime:
    first, second, year = int(match[1]), int(match[2]), int(match[3])
    day, month = (second, first) if month_first else (first, second)
    if year < 100:
        year += 2000 if year < 70 else 1900
    hour = int(match[4] or 0)
    if match[7]:
        hour = _of_24(hour, match[7])
    return datetime.datetime(year, month, day, hour, int(match[5] or 0), int(match[6] or 0))


def unencodable(values: Column) -> Iterable[int]:
    """Positions of the cells that hold bytes or characters which are not text."""
    for position, value in enumerate(values.to_pylist() if isinstance(values, pa.Array) else values):
        try:
            _check_text(value)
        except (UnicodeEncodeError, UnicodeDecodeError):
            yield position


def _check_text(value: Any) -> None:
    if isinstance(value, list | tuple):
        for item in value:
            _check_text(item)
    elif isinstance(value, str):
        value.encode("utf-8")
    elif isinstance(value, bytes | bytearray | memoryview):
        bytes(value).decode("utf-8")
