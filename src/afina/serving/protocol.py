"""What has to be bounded before there is a request: connections, headers, and clients that do not read.

uvicorn has no limit on the time or size of headers, and none on idle connections; a handful of slow clients
could keep it busy. Its protocol class is the place to add them.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from itertools import chain
from typing import Any

import httptools
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from afina.serving.errors import ApiError
from afina.serving.middleware import BYTES_PER_SECOND
from afina.serving.settings import ServeSettings

MAX_HEADER_BYTES = 32 * 1024
# What the system holds of an answer. By itself it lets this grow to megabytes, and takes more only once a
# third is free: whoever reads steadily but slowly would seem not to read at all for a minute.
SEND_BUFFER_BYTES = 128 * 1024


class _Parser(httptools.HttpRequestParser):
    """Reads the body of a request that asks for another protocol, which this server does not speak.

    httptools takes the message to end with such headers, and what follows for the next request. It is given
    them again without the wish.
    """

    def __init__(self, protocol: HttpToolsProtocol) -> None:
        super().__init__(protocol)
        self._protocol = protocol
        with suppress(AttributeError):  # httptools before 0.6.3
            self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own

    def feed_data(self, data: Any) -> None:
        rest = memoryview(data)
        while True:
            try:
                super().feed_data(rest)
                return
            except httptools.HttpParserUpgrade as found:
                rest = rest[found.args[0] :]
            super().feed_data(self._head())

    def _head(self) -> bytes:
        version = self.get_http_version().encode()
        first = self.get_method() + b" " + self._protocol.url + b" HTTP/" + version
        kept = [name + b": " + value for name, value in self._protocol.headers if name != b"upgrade"]
        return b"\r\n".join([first, *kept, b"", b""])


def bounded_protocol(settings: ServeSettings) -> type[asyncio.Protocol]:
    """A uvicorn protocol with the limits of ``settings``, shared by the connections of one server."""
    # Connections that wait for a request, the one that has waited for longest first; those that wait for its
    # body, and those that wait for their client to read, likewise. In this order they make room for others.
    idle: dict[Bounded, None] = {}
    arriving: dict[Bounded, None] = {}
    unread: dict[Bounded, None] = {}

    class Bounded(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None
        _stalled: asyncio.TimerHandle | None = None
        _header_bytes = 0
        _counted = 0  # of them, those of the read that is being parsed
        _in_headers = True
        _fields = 0  # bytes of the address and the headers of a request, however they arrive
        _overhead = 0  # bytes that are neither headers nor body: chunk sizes, trailers

        def __init__(
            self,
            config: Config,
            server_state: ServerState,
            app_state: dict[str, Any],
            _loop: asyncio.AbstractEventLoop | None = None,
        ) -> None:
            super().__init__(config, server_state, app_state, _loop)
            self.parser = _Parser(self)
            # Requests whose answer is not complete, in their order; uvicorn knows the last one alone.
            self._unanswered: list[RequestResponseCycle] = []
            self._application, self.app = self.app, self._answer

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES
            )
            if len(self.connections) > settings.max_connections:
                oldest = next(chain(idle, arriving, unread), None)
                if oldest is None:
                    self._refuse(503)
                    return
                oldest._keep()
                oldest.transport.abort()
            self._await_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            self._stop_stalled()
            self._keep()
            for cycle in self._unanswered:
                cycle.disconnected = True
                cycle.message_event.set()
            super().connection_lost(exc)
            self.app = self._application  # no cycle that would keep a closed connection in memory

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            self._counted = len(data) if self._in_headers else 0
            if self._in_headers:
                self._header_bytes += len(data)
            else:
                self._overhead += len(data)
            super().data_received(data)
            if self._overhead > MAX_HEADER_BYTES:
                self.transport.abort()
            too_long = self._in_headers and self._header_bytes > MAX_HEADER_BYTES
            if self.transport.is_closing():
                return
            if too_long:
                self._refuse(431)
            elif self._in_headers and not self._unanswered and self._timer is None:
                # An empty line begins no message, and uvicorn has stopped its limit for idle connections.
                self._await_headers()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._in_headers = True
            self._header_bytes, self._overhead = self._counted, 0
            self._fields = 0
            if self._timer is None:
                self._await_headers()

        def on_url(self, url: bytes) -> None:
            self._count(len(url))
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            if self._in_headers:  # the rest are trailers, which nothing here reads
                self._count(len(name) + len(value) + len(b": \r\n"))
                super().on_header(name, value)

        def on_body(self, body: bytes) -> None:
            # A chunk of one byte takes six.
            self._overhead = max(0, self._overhead - 8 * len(body))
            super().on_body(body)

        def on_headers_complete(self) -> None:
            if self.parser.get_method() == b"CONNECT":
                raise ValueError("tunnel")  # no telling whether what follows is a request; answered with 400
            if self.parser.should_upgrade():
                return  # they come again
            self._in_headers = False
            self._counted = 0  # from here on the read may hold a body, which the next request does not count
            self._stop_timer()
            idle.pop(self, None)
            arriving[self] = None
            super().on_headers_complete()
            self._unanswered.append(self.cycle)

        def on_message_complete(self) -> None:
            if self.parser.should_upgrade():
                return
            super().on_message_complete()
            arriving.pop(self, None)
            self._in_headers = True
            self._header_bytes = 0

        def on_response_complete(self) -> None:
            self._unanswered.pop(0)
            super().on_response_complete()
            if not self._unanswered and not self.transport.is_closing():
                idle[self] = None

        def pause_writing(self) -> None:
            super().pause_writing()
            self._watch_reader()

        def resume_writing(self) -> None:
            if not self.transport.is_closing():
                self._stop_stalled()
            super().resume_writing()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._watch_closing()

        def send_400_response(self, msg: str) -> None:
            self._refuse(431 if self._fields > MAX_HEADER_BYTES else 400)

        async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await self._application(scope, receive, send)
            finally:
                # By then uvicorn has closed the connection, if the answer was its last or broke off.
                self.loop.call_soon(self._watch_closing)

        def _count(self, size: int) -> None:
            self._fields += size
            if self._fields > MAX_HEADER_BYTES:
                raise ValueError("headers")  # the parser stops; uvicorn calls `send_400_response`

        def _await_headers(self) -> None:
            idle[self] = None
            self._timer = self.loop.call_later(settings.header_seconds, self.transport.abort)

        def _watch_closing(self) -> None:
            """A transport that closes first sends what it holds: for ever, to a client that does not read."""
            if self.transport.is_closing() and self in self.connections and self._stalled is None:
                self._watch_reader()

        def _watch_reader(self) -> None:
            """Nothing is added for now, so what leaves the buffer is what the client reads."""
            self._stop_stalled()
            if full := self.transport.get_write_buffer_size():
                unread[self] = None
                self._await_reader(self.loop.time() + settings.body_seconds, full)

        def _await_reader(self, until: float, full: int) -> None:
            """Wait for a client to read, a second more for each `BYTES_PER_SECOND` it has taken; or close."""
            taken = full - self.transport.get_write_buffer_size()
            patience = until + taken / BYTES_PER_SECOND - self.loop.time()
            if patience > 0:
                self._stalled = self.loop.call_later(patience, self._await_reader, until, full)
            else:
                self.transport.abort()

        def _keep(self) -> None:
            """It is not to make room, or has done so."""
            idle.pop(self, None)
            arriving.pop(self, None)
            unread.pop(self, None)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _stop_stalled(self) -> None:
            unread.pop(self, None)
            if self._stalled is not None:
                self._stalled.cancel()
                self._stalled = None

        def _refuse(self, status: int) -> None:
            """Answer what never became a request, and close."""
            self._stop_timer()
            self._keep()
            self.transport.write(_raw_answer(ApiError.of_status(status)))
            self.transport.close()
            self._watch_closing()

    return Bounded


def _raw_answer(error: ApiError) -> bytes:
    body = error.body()
    head = [
        f"HTTP/1.1 {error.status} Error",
        "content-type: application/json; charset=utf-8",
        f"content-length: {len(body)}",
        "connection: close",
        *(f"{name}: {value}" for name, value in error.headers.items()),
    ]
    return "\r\n".join([*head, "", ""]).encode("ascii") + body
