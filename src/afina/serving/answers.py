"""The answer to a file: a CSV that is sent while the model works."""

from __future__ import annotations

import asyncio
import csv
import io
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from urllib.parse import quote

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from afina.runtime.classifier import Prediction
from afina.serving.model import Served
from afina.serving.service import ClientGoneError, Service
from afina.serving.upload import Table
from afina.spreadsheets import escape_row

CHUNK_ROWS = 128
SEPARATOR = "|"  # between the labels of a multilabel prediction
# Of a column's name; clients and proxies refuse long headers, and it may be a message of 50,000 characters.
_NAME_CHARACTERS = 100


@dataclass(frozen=True)
class CsvForm:
    """What the CSV looks like.

    Attributes:
        top_k: above 1, the so many most probable labels follow, each with its probability.
        bom: begin with a byte order mark, by which Excel knows UTF-8.
        delimiter: between cells.
    """

    top_k: int = 1
    bom: bool = False
    delimiter: str = ","


class TableAnswer(Response):
    """The rows of a table with their predictions added, in their order, as CSV in UTF-8.

    The header ``X-Rows`` says how many there will be, ``X-Column`` which column was read. If something
    fails on the way, the connection is closed without the final chunk of the transfer coding, which every
    HTTP client takes for an error.
    """

    def __init__(
        self, service: Service, model: Served, table: Table, form: CsvForm, close: Callable[[], None]
    ) -> None:
        super().__init__(media_type="text/csv; charset=utf-8")
        del self.headers["content-length"]
        self.headers["X-Rows"] = str(table.rows)
        self.headers["X-Column"] = _header_value(table.header[table.column])
        self.headers["Content-Disposition"] = 'attachment; filename="predictions.csv"'
        self.service, self.model, self.table, self.form = service, model, table, form
        self.close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the CSV; stop when the client goes."""
        try:
            async with self.service.gone_watch(receive) as gone, aclosing(self._parts(gone)) as parts:
                await send(
                    {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
                )
                async for part in parts:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ClientGoneError:
            pass
        finally:
            self.close()

    async def _parts(self, gone: asyncio.Task[None]) -> AsyncGenerator[bytes, None]:
        top_k = min(self.form.top_k, len(self.model.classifier.labels))
        head = _csv([[*self.table.header, *added_columns(self.table.header, top_k)]], self.form.delimiter)
        yield (b"\xef\xbb\xbf" if self.form.bom else b"") + head
        # A chunk that the queue cannot hold would wait for ever.
        chunks = self.table.chunks(min(CHUNK_ROWS, self.service.settings.queue_texts))
        # One chunk is with the model while the one before is written and the one after is read.
        under_way: deque[asyncio.Task[bytes]] = deque()
        try:
            while (rows := await self.service.in_file_thread(next, chunks, None)) is not None:
                under_way.append(asyncio.create_task(self._answered(rows, top_k, gone)))
                if len(under_way) > 1:
                    yield await under_way[0]
                    under_way.popleft()
            while under_way:
                yield await under_way[0]
                under_way.popleft()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _answered(self, rows: list[list[str]], top_k: int, gone: asyncio.Task[None]) -> bytes:
        texts = [row[self.table.column] for row in rows]
        predictions, _ = await self.service.predict(self.model, texts, top_k, gone, patient=True)
        made: bytes = await self.service.in_file_thread(
            _answer_csv, rows, predictions, top_k, self.form.delimiter
        )
        return made


def _header_value(name: str) -> str:
    """A column's name as a header can carry it: cut off, percent-encoded UTF-8."""
    return quote(name[:_NAME_CHARACTERS], safe="", errors="replace")


def added_columns(header: Sequence[str], top_k: int) -> list[str]:
    """Names of the columns that follow those of the file; none is one of theirs."""
    names = ["label", "probability", "confidence", "needs_person"]
    if top_k > 1:
        names += [f"{name}_{rank}" for rank in range(1, top_k + 1) for name in ("label", "probability")]
    while not set(names).isdisjoint(header):
        names = [f"predicted_{name}" for name in names]
    return names


def _answer_csv(rows: list[list[str]], predictions: list[Prediction], top_k: int, delimiter: str) -> bytes:
    return _csv(([*row, *_cells(one, top_k)] for row, one in zip(rows, predictions, strict=True)), delimiter)


def _cells(prediction: Prediction, top_k: int) -> Iterator[str]:
    yield SEPARATOR.join(score.label for score in prediction.labels)
    yield SEPARATOR.join(f"{score.probability:.6f}" for score in prediction.labels)
    yield f"{prediction.confidence:.6f}"
    yield "yes" if prediction.needs_person else "no"
    if top_k > 1:
        for score in prediction.top:
            yield score.label
            yield f"{score.probability:.6f}"


def _csv(rows: Iterator[list[str]] | list[list[str]], delimiter: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\r\n")
    writer.writerows(escape_row(row) for row in rows)
    # What UTF-8 cannot hold came from the file's own encoding; a mark stands in its place.
    return text.getvalue().encode("utf-8", "replace")
