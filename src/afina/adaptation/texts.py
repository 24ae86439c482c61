"""Texts without labels, read as the stage extract reads its sources and cleaned as the stage clean does."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from afina.cleaning import clean_texts
from afina.errors import UserError
from afina.params.adapt import UnlabelledSource
from afina.progress import Progress
from afina.sources import read_chunks
from afina.sources.chunk import Chunk, Rejects
from afina.sources.mapping import map_chunk
from afina.sources.secrets import environment


def read_unlabelled(sources: Sequence[UnlabelledSource], root: Path, steps: Sequence[str]) -> list[str]:
    """The cleaned texts of all sources in order; those that are empty once cleaned are left out.

    How many rows cannot be read is said on the standard error.

    Args:
        sources: paths are relative to ``root``, secrets come from the environment or ``root/.env``.
        root: the repository's.
        steps: of text cleaning, as the run's labels.json names them.

    Raises:
        UserError: a source is missing, unreadable, lacks a column, or has no text.
    """
    variables = environment(root) if any(source.url for source in sources) else {}
    texts: list[str] = []
    for source in sources:
        name, where = source.label_name, source.path or source.label_name
        rejects = Rejects(name)
        found: list[str] = []
        with Progress(f"reading {name}", unit="rows") as progress:
            for chunk in read_chunks(source, root, variables, source.wanted, rejects):
                # Mapping looks for a label, and finds none.
                labels = pa.nulls(len(chunk.rows), pa.string())
                chunk = Chunk(chunk.rows, {"label": labels, **chunk.columns})
                found += map_chunk(source, chunk, where, rejects)["text"].to_pylist()
                progress.advance(len(chunk.rows))
                if source.limit is not None and len(found) >= source.limit:
                    break
        cleaned = clean_texts(pa.array(found[: source.limit], pa.large_string()), steps).to_pylist()
        kept = [text for text in cleaned if text.strip()]
        if not kept:
            first = f"; first: line {rejects.items[0][0]}: {rejects.items[0][1]}" if rejects.items else ""
            raise UserError(f"adapt.unlabelled: {where}: no text in it{first}")
        if rejects.items:
            row, reason, _ = rejects.items[0]
            print(
                f"adapt: {where}: {len(rejects.items):,} rows cannot be read; first: line {row}: {reason}",
                file=sys.stderr,
            )
        texts += kept
    return texts
