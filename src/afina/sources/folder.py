"""A folder of text files in which a file's folder is its label, where one is wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from afina.encodings import decoding, open_binary, resolve_encoding
from afina.errors import UserError
from afina.params.extract import Source
from afina.sources.chunk import CHUNK_ROWS, NOT_TEXT, Chunk, Column, Rejects, check_columns

# What Windows leaves in folders, in lower case.
LEFT_BEHIND = {"desktop.ini", "thumbs.db"}
COLUMNS = ("text", "label", "file", "folder")


def read_folder(
    source: Source, path: Path, where: str, wanted: Sequence[str] | None, rejects: Rejects
) -> Iterator[Chunk]:
    """Chunks of the files below a folder, in order of name; hidden files and Windows' own are passed over.

    Columns: ``text`` (the whole file), ``label`` (the first folder below ``path``), ``file`` (path below
    ``path``), ``folder`` (the file's whole folder below ``path``). Files are numbered from 1.

    Raises:
        UserError: no file in it, a column that a folder does not have, a file not in the given encoding, or a
            damaged compressed file.
    """
    names = COLUMNS if wanted is None else wanted
    check_columns(names, COLUMNS, where)
    files = sorted(
        (file.relative_to(path) for file in path.rglob("*") if file.is_file()), key=lambda file: file.parts
    )
    files = [
        file
        for file in files
        if file.name.lower() not in LEFT_BEHIND and not any(part.startswith(".") for part in file.parts)
    ]
    if not files:
        raise UserError(f"{where}: no file in the folder; put one folder a label in it, with text files")
    rows: list[int] = []
    columns: dict[str, list[str]] = {name: [] for name in COLUMNS}

    def chunk() -> Chunk:
        kept: dict[str, Column] = {name: list(columns[name]) for name in names}
        return Chunk(list(rows), kept)

    for number, file in enumerate(files, start=1):
        if len(file.parts) == 1 and not {"label", "folder"}.isdisjoint(names):
            rejects.add(number, "file outside any label's folder", file.name)
            continue
        try:
            text = _text(source, path / file, f"{where}/{file.as_posix()}")
        except UnicodeDecodeError:
            rejects.add(number, NOT_TEXT, file.as_posix())
            continue
        if text is None:
            rejects.add(number, "not a text file", file.as_posix())
            continue
        rows.append(number)
        for name, value in zip(
            COLUMNS, (text, file.parts[0], file.as_posix(), file.parent.as_posix()), strict=True
        ):
            columns[name].append(value)
        if len(rows) == CHUNK_ROWS:
            yield chunk()
            rows.clear()
            for values in columns.values():
                values.clear()
    if rows:
        yield chunk()


def _text(source: Source, path: Path, where: str) -> str | None:
    codec, errors = decoding(resolve_encoding(path, source.encoding, where))
    with open_binary(path, where) as stream:
        data = stream.read()
    if b"\0" in data and errors != "strict":  # only the strict ones, UTF-16 and UTF-32, hold zeros in text
        return None
    return data.decode(codec, errors)
