"""What is in a file, which of its columns mean what, and the `extract:` block that reads it."""

from __future__ import annotations

import os
import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import yaml
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from afina.delimiters import NAMES
from afina.encodings import detect_encoding
from afina.errors import UserError
from afina.params.extract import SUFFIXES, ExtractParams, Source
from afina.progress import Progress
from afina.sources import read_chunks
from afina.sources.chunk import NOT_TEXT, Column, Rejects
from afina.sources.values import ONES, SPLITS, ZEROS, as_text, parse_times, split_cell, unencodable

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection
    from sqlalchemy.exc import DatabaseError

T = TypeVar("T")

_SEPARATORS = ("|", ";", ",", "/")
_SAMPLE = 2_000  # cells looked at where all of them would tell no more
_SHOWN_CLASSES = 30
_UNFOLDED = 1 << 30  # characters to a line of YAML: no name is broken over two
_UNKNOWN = "???"  # stands in the block for a column that a person must name

# Words in a column's name that speak for a role, without accents.
_HINTS = {
    role: frozenset(words.split())
    for role, words in {
        "text": "text texto body cuerpo mensaje message contenido content abstract resumen title titulo "
        "asunto subject descripcion description comment comentario review sentence frase oracion summary "
        "consulta query question pregunta tweet post textos mensajes comentarios",
        "label": "label labels etiqueta etiquetas clase class category categoria categorias target topic "
        "tema temas tag tags sentiment sentimiento emotion emocion intent intencion tipo type ods sdg rating "
        "stars estrellas y motivo materia asunto subject area servicio departamento",
        "id": "id uuid guid index indice key clave codigo code folio numero nro expediente unnamed",
        "group": "group grupo user usuario author autor patient paciente customer cliente thread hilo "
        "conversation conversacion speaker account cuenta document documento session sesion",
        "time": "time fecha date datetime hora timestamp created creado updated when at dia ano year",
    }.items()
}

# Words in the name of a column of paths, and the endings of files that a column may name without a folder.
_PATH_NAMES = frozenset(["path", "file", "filename", "folder", "ruta", "archivo", "fichero", "carpeta"])
_FILE = re.compile(
    r"(?i).*[/\\][^/\\]+\.[a-z]\w{0,4}"
    r"|.*\.(txt|md|csv|tsv|json|xml|html?|pdf|docx?|xlsx?|rtf|eml|msg|jpe?g|png|gif|tiff?|wav|mp[34]|zip|gz)"
)


@dataclass(frozen=True)
class ColumnReport:
    """One column: how full, how varied, how long, an example, and the role it seems to play."""

    name: str
    filled: int
    distinct: int
    mean_words: float
    example: str
    role: str = ""


@dataclass(frozen=True)
class Inspection:
    """What `inspect_file` found; ``block`` is the YAML to paste into params.yaml."""

    path: str
    format: str
    rows: int
    rejected: tuple[tuple[int, str, str], ...]  # (line or row, reason, detail)
    columns: tuple[ColumnReport, ...]
    written: dict[str, str]  # encoding, delimiter, header, sheet ... where they apply
    text: tuple[str, ...]
    label: tuple[str, ...]
    label_columns: tuple[str, ...]
    label_separator: str | None
    multilabel: bool
    class_counts: dict[str, int]  # most frequent first
    unlabelled: int
    words: dict[str, float]  # of the text: min, median, mean, p95, max
    empty_texts: int
    duplicate_texts: int  # rows whose text an earlier row has
    conflicting_texts: int  # distinct texts that occur with different labels
    notes: tuple[str, ...]
    block: str
    source: dict[str, Any] = field(default_factory=dict)


def inspect_file(path: Path, root: Path | None = None) -> Inspection:
    """Look at a file or folder of any format that the stage `extract` reads, all of its rows.

    Paths in the block are relative to ``root`` (default: the DVC repository around the current folder, where
    there is one, for the stages run there; else the current folder).

    Raises:
        UserError: the path is missing, empty or cannot be read as what its suffix says.
    """
    root = _repository() if root is None else root
    shown = _shown_path(path, root)
    options, written, notes = _how_written(path, shown, root)
    if Path(shown).is_absolute():
        notes.append(f"copy the file to data/source/ and write path: data/source/{path.name}")
    read = _read_all(shown, root, options)
    columns = _expand(read.columns, notes)
    for name, count in read.repeated.items():
        notes.append(
            f"{count} columns are called '{name}', which extract refuses where it is to use one; "
            "rename the others"
        )
    damaged = {name: bad for name, values in columns.items() if (bad := _damaged(values))}

    def report(unreadable: set[int]) -> Inspection:
        return _report(shown, options, written, list(notes), read.without(columns, unreadable))

    found = report(set().union(*damaged.values()))
    # The stage reads the columns of the block alone: bytes that are no text in another one reject no row.
    used = Source.model_validate(found.source).wanted
    if all(name in used for name in damaged):
        return found
    return report(set().union(*(bad for name, bad in damaged.items() if name in used)))


def _report(
    shown: str, options: dict[str, Any], written: dict[str, str], notes: list[str], read: _Rows
) -> Inspection:
    columns, rejected = read.columns, tuple(sorted(read.rejects.items))
    size = len(read.numbers)
    if not size:
        first = f"; first: line {rejected[0][0]}: {rejected[0][1]}" if rejected else ""
        raise UserError(f"{shown}: no rows that can be read{first}")
    texts = {name: _texts(values) for name, values in columns.items()}
    facts = {name: _Facts.of(name, columns[name], texts[name]) for name in columns}
    repeats = _repeated_headers(columns) if written.get("header", "").startswith("first") else set()
    if repeats:
        notes.append(
            f"the header repeats in {len(repeats):,} row{'s' if len(repeats) > 1 else ''}, which extract "
            "reads as data; remove them from the file"
        )
    # Repeated headers must not hide what the columns are.
    telling = (
        {
            name: _Facts.of(name, _without(columns[name], repeats), _without(texts[name], repeats))
            for name in columns
        }
        if repeats
        else facts
    )
    usable = {name: fact for name, fact in telling.items() if name not in read.repeated}
    roles = _roles(usable, size - len(repeats), notes)
    source: dict[str, Any] = {"path": shown, **options}
    multilabel = bool(roles.label_columns)
    separator: str | None = None
    if not roles.text:
        notes.append("no column looks like text; name it in text:")
    if not roles.label and not roles.label_columns:
        notes.append("no column looks like a label; name it in label:")
    names = _mapping_names(columns, roles)
    if roles.label:
        separator, listed = _separator(telling[roles.label[0]])
        multilabel = separator is not None or listed
    source |= names
    if separator is not None:
        source["label_separator"] = separator
    source = _ordered(source)
    labels = _labels(columns, texts, roles, separator, size)
    joined = [
        "\n".join(part for name in roles.text if (part := texts[name][at]) and part.strip())
        for at in range(size)
    ]
    counts = Counter(name for row in labels for name in row)
    reports = tuple(facts[name].report(roles.of(name)) for name in columns)
    if len(counts) > max(200, size // 4):
        notes.append(f"{len(counts):,} classes in {size:,} rows: is this column really the label?")
    unlabelled = sum(not row for row in labels)
    if multilabel and unlabelled:
        notes.append(
            f"{unlabelled:,} rows without a label stay out; if that means none of them, write "
            "clean: {task: multilabel, unlabelled: keep}"
        )
    conflicting = _conflicts(joined, labels)
    kind = Source.model_validate(source).kind
    return Inspection(
        path=shown,
        format=kind,
        rows=size,
        rejected=rejected,
        columns=reports,
        written=written,
        text=roles.text,
        label=roles.label,
        label_columns=roles.label_columns,
        label_separator=separator,
        multilabel=multilabel,
        class_counts=dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        unlabelled=unlabelled,
        words=_word_counts(joined),
        empty_texts=sum(not text.strip() for text in joined),
        duplicate_texts=size - len(set(joined)) if roles.text else 0,
        conflicting_texts=conflicting if roles.text else 0,
        notes=tuple(notes),
        block=_block(source),
        source=source,
    )


@dataclass(frozen=True)
class _Rows:
    """All rows of a file by column, where each is in it, and what could not be read."""

    columns: dict[str, list[Any]]
    numbers: list[int]
    rejects: Rejects
    repeated: dict[str, int]  # names that several columns have, and how many

    def without(self, columns: dict[str, list[Any]], unreadable: set[int]) -> _Rows:
        """The rows with these columns, but for those at the positions ``unreadable``, which are rejected."""
        if not unreadable:
            return _Rows(columns, self.numbers, self.rejects, self.repeated)
        rejects = Rejects(self.rejects.source, list(self.rejects.items))
        for at in sorted(unreadable):
            cells = [str(values[at]) for values in columns.values() if values[at] is not None]
            rejects.add(self.numbers[at], NOT_TEXT, " | ".join(cells))
        kept = {name: _without(values, unreadable) for name, values in columns.items()}
        return _Rows(kept, _without(self.numbers, unreadable), rejects, self.repeated)


def _damaged(values: list[Any]) -> set[int]:
    """Positions of the cells that are not text in the file's encoding."""
    try:
        as_text(values, "column")  # far quicker than cell by cell, and nearly all columns are sound
        return set()
    except (UserError, UnicodeError):
        return set(unencodable(values))


def _without(values: list[T], positions: set[int]) -> list[T]:
    return [value for at, value in enumerate(values) if at not in positions]


def _repository() -> Path:
    """The folder of the DVC repository around the current one; where there is none, this one."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()), here)


def _shown_path(path: Path, root: Path) -> str:
    """The path as params.yaml should have it: relative to the root where the file lies below it.

    A link is called by its own name: what it leads to may have no suffix, as a file in DVC's cache.
    """
    resolved = path.resolve()
    named = Path(os.path.abspath(path))
    if named.resolve() != resolved:  # ".." behind a link
        named = resolved
    for place in (named, resolved):
        for folder in (root.absolute(), root.resolve()):
            if place.is_relative_to(folder):
                return place.relative_to(folder).as_posix()
    return named.as_posix()


# How the file is written


def _how_written(path: Path, shown: str, root: Path) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """Options of the source, what to tell of them, and notes."""
    if not path.exists():
        raise UserError(f"{shown}: no such file or folder")
    if path.is_dir():
        return _how_folder(path, shown)
    kind = _kind(shown)
    if kind == "csv":
        return _how_delimited(path, shown, root)
    if kind == "excel":
        return _how_excel(path, shown)
    if kind == "sql":
        return _how_sqlite(path, shown)
    if kind in ("json", "jsonl"):
        return {}, {"encoding": detect_encoding(path)}, []
    if kind == "folder":
        raise UserError(f"{shown}: no suffix; rename it to .csv, .xlsx, .jsonl, .json or .parquet")
    return {}, {}, []


def _how_folder(path: Path, shown: str) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    if not any(path.rglob("*.parquet")):
        return {"format": "folder"}, {}, []
    tables = {suffix for suffix, kind in SUFFIXES.items() if kind not in ("folder", "parquet")}
    others = sorted(
        file.name
        for file in path.rglob("*")
        if file.is_file() and PurePosixPath(file.name.lower().removesuffix(".gz")).suffix in tables
    )
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    notes = [f"only the Parquet files below {shown} are read, not {name}{more}" for name in others[:1]]
    return {"format": "parquet"}, {}, notes


def _kind(shown: str) -> str:
    """The format that the suffix says."""
    suffix = PurePosixPath(shown.lower().removesuffix(".gz")).suffix
    if suffix not in SUFFIXES:
        known = ", ".join(known for known in SUFFIXES if known)
        raise UserError(f"{shown}: unknown kind of file ({known} are known); rename or convert it")
    return SUFFIXES[suffix]


def _how_delimited(path: Path, shown: str, root: Path) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    from afina.sources.delimited import detect_dialect

    plain = Source.model_validate({"path": shown, "text": "t", "label": "l"})
    dialect = detect_dialect(path, plain, shown)
    options: dict[str, Any] = {
        "encoding": dialect.encoding,
        "delimiter": dialect.delimiter,
        "quotechar": dialect.quotechar,
    }
    header = _has_header(_first_rows({"path": shown, **options, "header": False}, root))
    names = {delimiter: name for name, delimiter in NAMES.items()}
    written = {
        "encoding": dialect.encoding,
        "delimiter": names.get(dialect.delimiter, repr(dialect.delimiter)),
        "quotes": "around cells" if dialect.quotechar else "are text",
        "header": "first line" if header else "none; columns are numbered",
    }
    if not header:
        options["header"] = False
    return options, written, []


def _title_rows(rows: Sequence[Sequence[Any]]) -> int:
    """Rows of a single cell above the first row with several: titles, not data."""
    filled = [sum(cell is not None and cell != "" for cell in row) for row in rows[:20]]
    return next((at for at, cells in enumerate(filled) if cells > 1), 0)


def _first_rows(values: dict[str, Any], root: Path, count: int = _SAMPLE) -> list[list[Any]]:
    """The first rows of a file read without a header, row by row."""
    source = Source.model_validate({**values, "text": "0", "label": "1"})
    for chunk in read_chunks(source, root, {}, None, Rejects("")):
        cells = [list(column)[:count] for column in chunk.columns.values()]
        return [list(row) for row in zip(*cells, strict=True)]
    return []


def _has_header(rows: Sequence[Sequence[Any]]) -> bool:
    """Whether the first row names the columns: it looks no more like their values than like names."""
    if len(rows) < 2:
        return True
    first, *others = [[_cell(cell) for cell in row] for row in rows]
    # A first row that comes again whole is a repeated header or a repeated row: the other rows tell which,
    # and where they do not, it is a row.
    below = [row for row in others if row != first]
    if not below or not any(first):
        return False
    vote = 0
    for at, name in enumerate(first):
        if name:
            told = _name_vote(name, [row[at] for row in below if row[at]])
            vote += told or -(first.count(name) > 1)
    return vote > 0 or (vote == 0 and len(below) == len(others))


def _cell(value: Any) -> str:
    """A cell as it is written; Excel gives whole numbers as floats too."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip()


def _name_vote(name: str, column: Sequence[str]) -> int:
    """How surely a cell above ``column`` is its name (above 0) or one of its values (below 0)."""
    if not column:
        return 0
    if _are_figures(column) and _is_worded(name, column):
        return 0 if name in column else 3  # what is there again stands for a missing number
    if name in column:
        return -3
    return _figure_vote(name, column) if _are_figures(column) else _word_vote(name, column)


def _are_figures(column: Sequence[str]) -> bool:
    """Whether nearly all cells are numbers, dates, times or codes."""
    figures = sum(cell.lstrip("+-")[:1].isdigit() or bool(re.fullmatch(r"\S*\d\S*", cell)) for cell in column)
    return figures >= 0.9 * len(column)


def _is_worded(name: str, column: Sequence[str]) -> bool:
    """Whether a cell is of letters alone, or of letters and digits above figures that have no letters."""
    if not _has_letter(name):
        return False
    if not re.search(r"\d", name):
        return True
    return _shape(name) not in set(map(_shape, column)) and sum(map(_has_letter, column)) < len(column) / 2


def _has_letter(text: str) -> bool:
    return any(map(str.isalpha, text))


def _figure_vote(name: str, column: Sequence[str]) -> int:
    """The vote above figures: what is written like them is one of them, but for a number far from them."""
    if _shape(name) not in set(map(_shape, column)):
        return 0
    value, numbers = _number(name), [number for cell in column if (number := _number(cell)) is not None]
    if value is None or not numbers:
        return -1
    if _is_year(name) and sum(map(_is_year, column)) < len(column) / 2:
        return 0
    if len(column) < 10:
        return -1
    low, high = min(numbers), max(numbers)
    if _repeats(column):
        return -1 if low <= value <= high else 1  # 2 above marks of 0 and 1
    return -1 if 2 * low - high - 1 <= value <= 2 * high - low + 1 else 0


def _shape(text: str) -> str:
    """How a cell is written: runs of digits and of letters, and lists of numbers, made alike."""
    shape = re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "9", text.lstrip("+-")))
    return re.sub(r"9(\s*[.,;|]\s*9)+", "9", shape)


def _number(text: str) -> float | None:
    plain = text.replace(",", ".")
    return float(plain) if re.fullmatch(r"[-+]?\d+(\.\d+)?", plain) else None


def _is_year(text: str) -> bool:
    return re.fullmatch(r"(19|20)\d\d", text) is not None


def _repeats(column: Sequence[str]) -> bool:
    """Whether a value that is in none of these cells is a surprise."""
    return len(column) >= 10 and len(set(column)) <= len(column) / 2


def _word_vote(name: str, column: Sequence[str]) -> int:
    """The vote above words: a known or new word speaks for a name, a text among texts against it."""
    words, counts = len(name.split()), sorted(len(cell.split()) for cell in column)
    vote = int(_repeats(column))
    if words <= 4 and any(not hints.isdisjoint(_words_of(name)) for hints in _HINTS.values()):
        vote += 1
    if statistics.fmean(counts) < 4:
        return vote
    if len(counts) >= 10 and 2 * words <= counts[len(counts) // 20]:
        return vote + 1
    asked = name.endswith(("?", ":")) and sum(cell.endswith(name[-1]) for cell in column) < len(column) / 5
    return vote - (not asked and (words > 4 or len(name) > 60))


def _repeated_headers(columns: dict[str, list[Any]]) -> set[int]:
    """Positions of the rows that hold nothing but the names of the columns."""
    rows = zip(*columns.values(), strict=True)
    return {
        at
        for at, row in enumerate(rows)
        if all(_cell(cell) == name for cell, name in zip(row, columns, strict=True))
    }


def _how_excel(path: Path, shown: str) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    from afina.sources.excel import first_rows, sheet_names

    names = sheet_names(path, shown)
    sheets = {name: first_rows(path, shown, name, _SAMPLE) for name in names}
    best = max(names, key=lambda name: len(sheets[name]))
    options: dict[str, Any] = {"sheet": best} if len(names) > 1 else {}
    notes = []
    if len(names) > 1:
        others = ", ".join(f"'{name}'" for name in names if name != best)
        notes.append(f"inspected sheet '{best}'; other sheets: {others}")
    numbered = sheets[best]
    above = _title_rows([row for _, row in numbered])
    if above:
        options["skip_rows"] = numbered[above][0] - 1
        notes.append(f"{above} title line{'s' if above > 1 else ''} above the table passed over")
    header = _has_header([row for _, row in numbered[above:]])
    if not header:
        options["header"] = False
    return options, {"sheet": best, "header": "first row" if header else "none; columns are numbered"}, notes


def _how_sqlite(path: Path, shown: str) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    try:
        import sqlalchemy
    except ModuleNotFoundError:
        raise UserError(f"{shown}: SQLAlchemy is not installed; pip install 'afina[sql]'") from None
    engine = sqlalchemy.create_engine(f"sqlite:///{path.absolute()}")
    try:
        with engine.connect() as connection:
            inspector = sqlalchemy.inspect(connection)
            tables = [*inspector.get_table_names(), *inspector.get_view_names()]
            sizes, broken = _table_sizes(connection, tables)
    except sqlalchemy.exc.DatabaseError as error:
        raise _unreadable_sqlite(shown, _driver_message(error)) from None
    finally:
        engine.dispose()
    if not tables:
        raise UserError(f"{shown}: the database has no tables")
    if not sizes:
        name, why = next(iter(broken.items()))
        raise UserError(f"{shown}: no table or view can be read; first: '{name}': {why}; repair it in SQLite")
    best = max(sizes, key=lambda name: sizes[name])
    others = [f"'{name}'" for name in sizes if name != best]
    notes = [f"inspected table '{best}'; other tables: {', '.join(others)}"] if others else []
    notes += [f"passed over '{name}', which cannot be read: {why}" for name, why in broken.items()]
    return {"table": best}, {"table": best}, notes


def _table_sizes(connection: Connection, tables: Sequence[str]) -> tuple[dict[str, int], dict[str, str]]:
    """Rows of the tables and views that can be read, and why the others cannot."""
    from sqlalchemy import func, select, table
    from sqlalchemy.exc import DatabaseError

    sizes: dict[str, int] = {}
    broken: dict[str, str] = {}
    for name in tables:
        try:
            sizes[name] = connection.execute(select(func.count()).select_from(table(name))).scalar_one()
        except DatabaseError as error:  # a view of a table that is gone
            broken[name] = _driver_message(error)
    return sizes, broken


def _driver_message(error: DatabaseError) -> str:
    """What SQLite said, in a line."""
    return " ".join(str(error.orig or error).split())


def _unreadable_sqlite(shown: str, message: str) -> UserError:
    if "not a database" in message:
        return UserError(f"{shown}: not a SQLite database ({message}); check the file or rename it")
    return UserError(f"{shown}: SQLite: {message}; close the program that has it open, or copy it anew")


def _read_all(shown: str, root: Path, options: dict[str, Any]) -> _Rows:
    """Every column whole; what cannot be read is set aside."""
    source = Source.model_validate({"path": shown, "text": "t", "label": "l", **options})
    rejects = Rejects(source.label_name)
    columns: dict[str, list[Any]] = {}
    numbers: list[int] = []
    repeated: dict[str, int] = {}
    with Progress(f"reading {source.label_name}", unit="rows") as progress:
        for chunk in read_chunks(source, root, {}, None, rejects):
            for name in (*columns, *(name for name in chunk.columns if name not in columns)):
                values: Column = chunk.columns.get(name, [None] * len(chunk.rows))
                plain = values.to_pylist() if isinstance(values, pa.Array) else values
                columns.setdefault(name, [None] * len(numbers)).extend(plain)
            numbers += chunk.rows
            repeated |= chunk.repeated
            progress.advance(len(chunk.rows))
    return _Rows(columns, numbers, rejects, repeated)


def _texts(values: list[Any]) -> list[str | None]:
    """The column as text; objects, and bytes that are not text, are shown as they are."""
    try:
        texts = as_text(values, "column")
        # Strings are kept as they are, not copied: a large file has many.
        alike = all(value is None or isinstance(value, str) for value in values)
        return values if alike else list(texts.to_pylist())
    except (UserError, UnicodeError):
        return [None if value is None else str(value).encode("utf-8", "replace").decode() for value in values]


def _expand(columns: dict[str, list[Any]], notes: list[str]) -> dict[str, list[Any]]:
    """Lists of objects, and lists that are records of fixed parts, become columns named by dotted paths."""
    expanded: dict[str, list[Any]] = {}
    for name, values in columns.items():
        lists = [value for value in values if isinstance(value, list) and value]
        if lists and all(isinstance(value[0], dict) for value in lists):
            for key in dict.fromkeys(key for value in lists for key in value[0]):
                expanded[f"{name}.0.{key}"] = [
                    value[0].get(key) if isinstance(value, list) and value else None for value in values
                ]
            longest = max(map(len, lists))
            if longest > 1:
                key = next(iter(lists[0][0]))
                notes.append(f"{name} holds up to {longest} objects; {name}.{key} joins {key} of all of them")
        elif _is_record(lists):
            for at in range(len(lists[0])):
                expanded[f"{name}.{at}"] = [
                    value[at] if isinstance(value, list) and value else None for value in values
                ]
        else:
            expanded[name] = values
    return expanded


def _is_record(lists: list[list[Any]]) -> bool:
    """Whether lists are (code, name) and the like: always as long, and no value in two positions."""
    if len(lists) < 2 or len({len(value) for value in lists}) != 1 or len(lists[0]) < 2:
        return False
    if any(isinstance(item, dict | list) for value in lists for item in value):
        return False
    positions = [set(map(str, items)) for items in zip(*lists, strict=True)]
    return sum(map(len, positions)) == len(set().union(*positions))


# What the columns mean


@dataclass(frozen=True)
class _Facts:
    name: str
    cells: list[str]  # the filled ones
    counts: Counter[str]
    lists: bool  # some cell holds a list
    objects: bool  # some cell holds an object
    numbers: bool  # every sampled cell is a number, by type or by looks
    mean_words: float
    mean_characters: float

    @classmethod
    def of(cls, name: str, values: list[Any], texts: list[str | None]) -> _Facts:
        kinds = set(map(type, values))
        cells = [text for text in texts if text is not None and text.strip()]
        sample = cells[:: max(1, len(cells) // _SAMPLE)]
        return cls(
            name=name,
            cells=cells,
            counts=Counter(cells),
            lists=list in kinds,
            objects=dict in kinds
            or (list in kinds and any(isinstance(item, dict) for value in values for item in _items(value))),
            numbers=bool(sample)
            and all(re.fullmatch(r"[-+]?\d+([.,]\d+)?", text.strip()) for text in sample),
            mean_words=statistics.fmean(len(text.split()) for text in sample) if sample else 0.0,
            mean_characters=statistics.fmean(map(len, sample)) if sample else 0.0,
        )

    def hinted(self, role: str) -> bool:
        """Whether the column's name speaks for the role."""
        return not _HINTS[role].isdisjoint(_words_of(_last_name(self.name)))

    def times(self) -> bool:
        """Whether nearly all cells are dates; plain numbers are dates only under a name that says so."""
        sample = list(self.counts)[:200]
        if not sample or self.mean_characters < 4 or (self.numbers and not self.hinted("time")):
            return False
        return sum(time is not None for time in parse_times(sample)) >= 0.9 * len(sample)

    def zero_or_one(self) -> bool:
        """Whether the cells are all marks of yes and no, both of them numbers or words of truth."""
        if len(self.counts) > 8:
            return False
        seen = {cell.strip().lower().removesuffix(".0") for cell in self.counts}
        if not seen or not seen <= (ONES | ZEROS) or len(seen) > 2:
            return False
        return seen == {"x"} or not seen <= {"x", "s", "n", "y"}

    def paths(self) -> bool:
        """Whether the cells are paths or names of files."""
        named = not _PATH_NAMES.isdisjoint(_words_of(_last_name(self.name))) and not self.hinted("label")
        if named and any("/" in cell or "\\" in cell for cell in self.counts):
            return True
        sample = list(self.counts)[:200]
        return sum(_FILE.fullmatch(cell.strip()) is not None for cell in sample) >= 0.9 * len(sample)

    def report(self, role: str) -> ColumnReport:
        """What a person is shown of the column."""
        example = " ".join((self.cells[0] if self.cells else "").split())
        return ColumnReport(
            self.name, len(self.cells), len(self.counts), round(self.mean_words, 1), example[:60], role
        )


def _words_of(name: str) -> list[str]:
    """The words of a name in small letters, without accents and digits."""
    plain = unicodedata.normalize("NFKD", name.lower())
    bare = "".join(character for character in plain if not unicodedata.combining(character))
    return re.split(r"[\W_\d]+", bare)


def _last_name(path: str) -> str:
    """The last part of a dotted path that is not a position in a list."""
    return next((part for part in reversed(path.split(".")) if not part.isdecimal()), path)


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


@dataclass(frozen=True)
class _Roles:
    text: tuple[str, ...] = ()
    label: tuple[str, ...] = ()
    label_columns: tuple[str, ...] = ()
    id: str | None = None
    group: str | None = None
    time: str | None = None
    split: str | None = None

    def of(self, name: str) -> str:
        """The role of a column, in a word."""
        if name in self.text:
            return "text"
        if name in self.label or name in self.label_columns:
            return "label"
        for role in ("id", "group", "time", "split"):
            if getattr(self, role) == name:
                return role
        return ""


def _roles(facts: dict[str, _Facts], size: int, notes: list[str]) -> _Roles:
    """Guess what each column is from its values first and its name second; each column has one role."""
    left = {name: fact for name, fact in facts.items() if fact.cells and not fact.objects}

    def take(names: Sequence[str]) -> None:
        for name in names:
            left.pop(name, None)

    split = next(
        (
            name
            for name, fact in left.items()
            if len(fact.counts) <= 6 and all(cell.strip().lower() in SPLITS for cell in fact.counts)
        ),
        None,
    )
    take([split] if split else [])
    times = [fact for fact in left.values() if not fact.lists and fact.times()]
    time = _best(times, "time")
    take([fact.name for fact in times])
    own_id = _best([fact for fact in left.values() if _is_id(fact, size)], "id")
    take([own_id] if own_id else [])
    text = _text_columns(left)
    take(text)
    label, label_columns = _label_columns(left, size, notes)
    take([*label, *label_columns])
    groups = [
        fact
        for fact in left.values()
        if fact.hinted("group") and not fact.lists and 1 < len(fact.counts) < size and fact.mean_words < 4
    ]
    group = groups[0].name if groups else None
    return _Roles(tuple(text), label, label_columns, own_id, group, time, split)


def _best(candidates: Sequence[_Facts], role: str) -> str | None:
    ordered = sorted(candidates, key=lambda fact: (not fact.hinted(role), fact.name.count(".")))
    return ordered[0].name if ordered else None


def _is_id(fact: _Facts, size: int) -> bool:
    if fact.lists or len(fact.cells) < size or len(fact.counts) < size or size < 2:
        return False
    if fact.mean_characters > 64 or any(" " in cell.strip() for cell in fact.cells[:_SAMPLE]):
        return False
    return fact.hinted("id") or all(
        re.fullmatch(r"\d+|[0-9a-fA-F]{8,}|[0-9a-fA-F-]{36}", cell.strip()) for cell in fact.cells[:_SAMPLE]
    )


def _text_columns(left: dict[str, _Facts]) -> list[str]:
    """Columns of prose, in order; where there is none, the longest column that is not a number."""
    plain = [fact for fact in left.values() if not fact.lists and not fact.numbers]

    def varied(fact: _Facts) -> bool:
        return len(fact.counts) >= 0.3 * len(fact.cells)

    hinted = [fact for fact in plain if fact.hinted("text") and fact.mean_words >= 1.5 and varied(fact)]
    prose = [fact for fact in plain if fact.mean_words >= 4 and varied(fact)]
    if hinted:
        chosen = {fact.name for fact in hinted}
        if max(fact.mean_words for fact in hinted) < 4 and prose:
            chosen |= {max(prose, key=lambda fact: fact.mean_words).name}
    elif prose:
        chosen = {max(prose, key=lambda fact: fact.mean_words).name}
    else:
        unhinted = [fact for fact in plain if not fact.hinted("label")]
        longest = max(unhinted, key=lambda fact: fact.mean_characters, default=None)
        chosen = {longest.name} if longest is not None else set()
    return [name for name in left if name in chosen]


def _label_columns(
    left: dict[str, _Facts], size: int, notes: list[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The column of labels, or the columns of 0 and 1 where there are several such and no better one."""
    marks = [fact for fact in left.values() if not fact.lists and fact.zero_or_one()]
    candidates = []
    for fact in left.values():
        if fact.paths():
            continue
        atoms = _atoms(fact)
        few = len(atoms) <= max(2, min(1_000, size // 2))
        if few and len(atoms) > 1 and fact.mean_words <= 12:
            # Of a code and a name for the same thing the name is taken.
            order = (not fact.hinted("label"), fact.zero_or_one(), fact.hinted("label") and fact.numbers)
            candidates.append((order, len(atoms), fact.name))
    candidates.sort()
    if len(marks) >= 2 and not any(not order[0] and not order[1] for order, _, _ in candidates):
        return (), tuple(fact.name for fact in marks)
    others = [f"{name} ({count:,} classes)" for _, count, name in candidates[1:6]]
    if others:
        notes.append(f"could be the label too, or `slices` to have scores by: {', '.join(others)}")
    return tuple(name for _, _, name in candidates[:1]), ()


def _atoms(fact: _Facts) -> Counter[str]:
    """The single labels of a column and how often each occurs."""
    separator, listed = _separator(fact)
    if listed:
        return Counter(part for cell in fact.cells for part in cell.split("\n") if part.strip())
    if separator is None:
        return fact.counts
    found: Counter[str] = Counter()
    for cell, count in fact.counts.items():
        for part in split_cell(cell, separator):
            found[part] += count
    return found


def _separator(fact: _Facts) -> tuple[str | None, bool]:
    """(what separates several labels in a cell, whether the cells are lists already).

    Several labels there are where the parts are no more than the cells they make up, and most parts of
    composed cells occur elsewhere too: "science/technology" alone is one label, "1, 5" beside "1" is two.
    """
    if fact.lists:
        return None, True
    if len(fact.counts) > 50_000 or fact.mean_words > 12:
        return None, False
    if fact.counts and all(
        cell.strip().startswith("[") and cell.strip().endswith("]") for cell in fact.counts
    ):
        return ",", False
    for separator in _SEPARATORS:
        composed = [cell for cell in fact.counts if separator in cell]
        if not composed:
            continue
        parts = {cell: split_cell(cell, separator) for cell in fact.counts}
        atoms = {part for cell in parts.values() for part in cell}
        alone = {cell.strip() for cell in fact.counts if separator not in cell}
        inside = Counter(part for cell in composed for part in parts[cell])
        shared = sum(part in alone or inside[part] > 1 for part in inside)
        if len(atoms) <= len(fact.counts) and shared >= 0.5 * len(inside):
            return separator, False
    return None, False


# What to tell


def _mapping_names(columns: dict[str, list[Any]], roles: _Roles) -> dict[str, Any]:
    def bare(names: tuple[str, ...]) -> str | list[str]:
        return names[0] if len(names) == 1 else list(names)

    mapping: dict[str, Any] = {"text": bare(roles.text) if roles.text else _UNKNOWN}
    if roles.label_columns:
        mapping["label_columns"] = list(roles.label_columns)
    else:
        # Two that are alike would be one column for both, which extract refuses.
        unknown = _UNKNOWN if roles.text else f"{_UNKNOWN}?"
        mapping["label"] = bare(roles.label) if roles.label else unknown
    for role in ("id", "group", "time", "split"):
        if getattr(roles, role) is not None:
            mapping[role] = getattr(roles, role)
    return mapping


def _ordered(source: dict[str, Any]) -> dict[str, Any]:
    """The keys in the order of the documentation: where, how written, what means what."""
    if source.get("format") == "folder":
        return {"path": source["path"], "format": "folder"}
    options = ("format", "encoding", "delimiter", "quotechar", "skip_rows", "header", "sheet", "table")
    mapping = ("text", "label", "label_separator", "label_columns", "id", "group", "time", "split")
    return {key: source[key] for key in ("path", *options, *mapping) if key in source}


def _labels(
    columns: dict[str, list[Any]],
    texts: dict[str, list[str | None]],
    roles: _Roles,
    separator: str | None,
    size: int,
) -> list[tuple[str, ...]]:
    if roles.label_columns:
        marked = {
            name: [(cell or "").strip().lower().removesuffix(".0") in ONES for cell in texts[name]]
            for name in roles.label_columns
        }
        return [tuple(name for name in roles.label_columns if marked[name][at]) for at in range(size)]
    if not roles.label:
        return [()] * size
    rows: list[tuple[str, ...]] = []
    for value, text in zip(columns[roles.label[0]], texts[roles.label[0]], strict=True):
        if isinstance(value, list):
            rows.append(tuple(dict.fromkeys(str(item) for item in value if item is not None)))
        elif text is None or not text.strip():
            rows.append(())
        else:
            rows.append(tuple(split_cell(text, separator)) if separator is not None else (text,))
    return rows


def _word_counts(texts: Sequence[str]) -> dict[str, float]:
    counts = sorted(len(text.split()) for text in texts)
    return {
        "min": counts[0],
        "median": statistics.median(counts),
        "mean": round(statistics.fmean(counts), 1),
        "p95": counts[min(len(counts) - 1, int(0.95 * len(counts)))],
        "max": counts[-1],
    }


def _conflicts(texts: Sequence[str], labels: Sequence[tuple[str, ...]]) -> int:
    seen: dict[str, frozenset[str]] = {}
    conflicting: set[str] = set()
    for text, names in zip(texts, labels, strict=True):
        if seen.setdefault(text, frozenset(names)) != frozenset(names):
            conflicting.add(text)
    return len(conflicting)


def _block(source: dict[str, Any]) -> str:
    """The YAML to paste, checked to be what the stage accepts."""
    section = {"extract": {"sources": [source]}}
    text = yaml.safe_dump(section, allow_unicode=True, sort_keys=False, width=_UNFOLDED)
    ExtractParams.parse(yaml.safe_load(text)["extract"], "afina inspect")
    return text


def show(inspection: Inspection, console: Console) -> None:
    """Print it; the block is never cut at the console's width, for a broken line is no longer YAML."""
    console.print(render(inspection))
    console.print(Text(inspection.block.rstrip()), soft_wrap=True)


def render(inspection: Inspection) -> RenderableType:
    """What `show` prints above the block."""
    parts: list[RenderableType] = [Text(_headline(inspection), style="bold")]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("column", "role", "filled", "distinct", "words", "example"):
        table.add_column(title, justify="right" if title in ("filled", "distinct", "words") else "left")
    for column in inspection.columns:
        table.add_row(
            Text(column.name),
            Text(column.role, style="green"),
            f"{column.filled:,}",
            f"{column.distinct:,}",
            f"{column.mean_words:g}",
            Text(column.example),
        )
    parts += [Text(), table, Text()]
    parts += [Text(line) for line in _findings(inspection)]
    if inspection.class_counts:
        parts += [Text(), _class_table(inspection)]
    parts += [Text(), Text("Paste into params.yaml:", style="bold")]
    return Group(*parts)


def plain(inspection: Inspection) -> str:
    """What `show` prints, as plain text of fixed width, for a pipe or a file."""
    console = Console(width=160, color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        show(inspection, console)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def _headline(inspection: Inspection) -> str:
    how = "".join(f", {name}: {value}" for name, value in inspection.written.items())
    return f"{inspection.path}: {inspection.format}, {inspection.rows:,} rows{how}"


def _findings(inspection: Inspection) -> list[str]:
    words = inspection.words
    lines = []
    if inspection.text:
        lines.append(
            f"Text: {' + '.join(inspection.text)}; words: median {words['median']:g}, "
            f"mean {words['mean']:g}, p95 {words['p95']:g}, max {words['max']:g}; "
            f"{inspection.empty_texts:,} empty, "
            f"{inspection.duplicate_texts:,} repeated, {inspection.conflicting_texts:,} with different labels"
        )
    if inspection.class_counts:
        counts = list(inspection.class_counts.values())
        kind = "several labels a row" if inspection.multilabel else "one label a row"
        apart = f" separated by '{inspection.label_separator}'" if inspection.label_separator else ""
        lines.append(
            f"Labels: {kind}{apart}; {len(counts):,} classes, "
            f"largest {counts[0]:,}, smallest {counts[-1]:,}; {inspection.unlabelled:,} rows without a label"
        )
    if inspection.rejected:
        row, reason, _ = inspection.rejected[0]
        lines.append(f"Unreadable: {len(inspection.rejected):,} rows; first: line {row}: {reason}")
    return lines + [f"Note: {note}" for note in inspection.notes]


def _class_table(inspection: Inspection) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("class")
    table.add_column("rows", justify="right")
    table.add_column("share", justify="right")
    items = list(inspection.class_counts.items())
    for name, count in items[:_SHOWN_CLASSES]:
        table.add_row(Text(name[:80]), f"{count:,}", f"{count / inspection.rows:.1%}")
    if len(items) > _SHOWN_CLASSES:
        table.add_row(f"… {len(items) - _SHOWN_CLASSES:,} more", "", "")
    return table
