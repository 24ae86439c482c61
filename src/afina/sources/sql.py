"""SQL through SQLAlchemy: a query or a table, streamed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afina.errors import UserError
from afina.params.extract import Source
from afina.sources.chunk import Chunk, check_columns, check_unique
from afina.sources.secrets import SecretUrl

if TYPE_CHECKING:
    from sqlalchemy import ColumnClause
    from sqlalchemy.engine import URL, Connection, CursorResult

# What to install for a driver that is not there; others are named by the module that is missing.
_EXTRAS = {"sqlalchemy": "'afina[sql]'", "psycopg": "'afina[postgres]'", "psycopg2": "psycopg2-binary"}
_DRIVERS = {"MySQLdb": "mysqlclient", "cx_Oracle": "cx_Oracle", "oracledb": "oracledb", "pyodbc": "pyodbc"}


def read_sql(
    source: Source, url: SecretUrl, root: Path, where: str, wanted: Sequence[str] | None
) -> Iterator[Chunk]:
    """Chunks of a query or a table, ``source.chunk_size`` rows fetched at a time; rows count from 1.

    Nothing is committed: a statement that would change the database is rolled back. No message shows the
    URL or a password.

    Raises:
        UserError: a missing driver, a failing connection or query, no such table or column, or two columns of
            one name.
    """
    try:
        import sqlalchemy
        from sqlalchemy.exc import SQLAlchemyError
    except ModuleNotFoundError:
        raise UserError(f"{where}: SQLAlchemy is not installed; pip install 'afina[sql]'") from None
    try:
        address = _address(sqlalchemy.make_url(url.value), root, where)
        engine = sqlalchemy.create_engine(address)
    except ModuleNotFoundError as error:
        module = (error.name or "").split(".")[0]
        package = _EXTRAS.get(module) or _DRIVERS.get(module) or module
        raise UserError(f"{where}: the database driver is not installed; pip install {package}") from None
    except SQLAlchemyError as error:
        raise UserError(
            f"{where}: url: {url.scrub(_first_line(error))}; write dialect://user:${{PASSWORD}}@host/base "
            "and install the dialect's package if it is not one of SQLAlchemy's own"
        ) from None
    except ValueError:
        raise UserError(
            f"{where}: url: cannot be read; is a special character of it not %-escaped?"
        ) from None
    try:
        with engine.connect() as connection:
            yield from _chunks(source, connection, where, wanted)
    except UserError:
        raise
    except Exception as error:
        # Whatever the driver raises, its text must not reach the screen unscrubbed.
        raise UserError(f"{where}: {url.scrub(_first_line(error))}") from None
    finally:
        engine.dispose()


def _address(address: URL, root: Path, where: str) -> URL:
    """The URL with the installed PostgreSQL driver, and a SQLite file found from ``root``."""
    if address.drivername in ("postgresql", "postgres"):
        return address.set(drivername="postgresql+psycopg")
    if address.get_backend_name() == "sqlite" and address.database not in (None, "", ":memory:"):
        path = root / str(address.database)
        if not str(address.database).startswith("file:"):
            if not path.is_file():
                raise UserError(f"{where}: no such file: {address.database}")
            return address.set(database=str(path))
    return address


def _first_line(error: BaseException) -> str:
    original = getattr(error, "orig", None) or error
    lines = [line.strip() for line in str(original).splitlines() if line.strip()]
    return f"{lines[0] if lines else type(original).__name__}"


def _chunks(
    source: Source, connection: Connection, where: str, wanted: Sequence[str] | None
) -> Iterator[Chunk]:
    streaming = connection.execution_options(
        stream_results=True, max_row_buffer=source.chunk_size, no_parameters=True
    )
    if source.query is not None:
        result: CursorResult[Any] = streaming.exec_driver_sql(source.query)
        where = f"{where}: query"
    else:
        result = _select(source, connection, streaming, where, wanted)
        where = f"{where}: table {source.table}"
    if not result.returns_rows:
        raise UserError(f"{where}: gives no rows; write a SELECT")
    names = list(result.keys())
    if wanted is not None:
        check_columns(wanted, names, where)
        check_unique(wanted, names, where, "give each its own name with AS")
    kept = [(name, names.index(name)) for name in (names if wanted is None else wanted)]
    start = 1
    for partition in result.partitions(source.chunk_size):
        columns = list(zip(*partition, strict=True))
        yield Chunk(
            list(range(start, start + len(partition))), {name: list(columns[at]) for name, at in kept}
        )
        start += len(partition)


def _select(
    source: Source, connection: Connection, streaming: Connection, where: str, wanted: Sequence[str] | None
) -> CursorResult[Any]:
    from sqlalchemy import column, inspect, select, table
    from sqlalchemy.exc import NoSuchTableError

    name = str(source.table)
    inspector = inspect(connection)
    schema, plain = (None, name)
    known = [*inspector.get_table_names(), *inspector.get_view_names()]
    if name not in known and "." in name:
        schema, plain = name.split(".", 1)
    try:
        columns = [str(found["name"]) for found in inspector.get_columns(plain, schema=schema)]
    except NoSuchTableError:
        columns = []
    if not columns:
        check_table(name, known, where)
    if wanted is not None:
        check_columns(wanted, columns, f"{where}: table {name}")
    chosen: list[ColumnClause[Any]] = [column(found) for found in (columns if wanted is None else wanted)]
    query = select(*chosen).select_from(table(plain, schema=schema))
    if source.limit is not None:
        query = query.limit(source.limit)
    return streaming.execution_options(no_parameters=False).execute(query)


def check_table(name: str, known: Sequence[str], where: str) -> None:
    """Raise the error for a table that is not there."""
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    shown = ", ".join(itertools.islice(sorted(known), 30))
    raise UserError(f"{where}: no table '{name}'; {hint}tables: {shown or 'none'}")
