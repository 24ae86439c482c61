"""What is around every request: limits on its body, the API key, safe headers, its line in the log."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import sys
import time
import traceback
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from afina.serving.errors import ApiError
from afina.serving.metrics import Metrics
from afina.serving.settings import ServeSettings

log = logging.getLogger("afina.serve")

# A client may take a second more for each of so many bytes, so large files come over slow lines.
BYTES_PER_SECOND = 16 * 1024
# A form's boundaries and its other fields come on top of the file.
FORM_BYTES = 1 << 16
# Reading on for a while after an early answer: whoever is still sending gets to read it.
LINGER_SECONDS = 2.0
LINGER_BYTES = 1 << 24

OPEN_ROUTES = frozenset({"/", "/healthz", "/readyz", "/docs", "/docs.css", "/openapi.json"})
OPEN_PREFIX = "/static/"

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
]


class Observe:
    """Counts and logs each request, and adds the headers that every answer has.

    Nothing of a request is logged that its sender wrote freely: no body, no query, no path but that of a
    route. Of an unforeseen exception the type and the place are logged, its message could quote a text.

    Args:
        paths: those of the routes.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        self.app, self.metrics = app, metrics
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 0
        written = 0
        ended = False
        problem = ""

        async def counted(message: Message) -> None:
            nonlocal status, written, ended
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
                if not scope["path"].startswith(OPEN_PREFIX):
                    message["headers"].append((b"cache-control", b"no-store"))
            else:
                written += len(message.get("body", b""))
            await send(message)
            ended = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await self.app(scope, receive, counted)
        except Exception as error:
            problem = _where(error)
            # With the answer begun, returning without its end closes the connection: the client sees a break.
            if not status:
                with suppress(OSError):
                    await ApiError.of_status(500).response()(scope, receive, counted)
        finally:
            seconds = time.perf_counter() - start
            method = scope["method"] if scope["method"] in METHODS else "other"
            route = _route(scope, self._paths)
            # 499: the client closed the connection before the end of the answer (the number is nginx's).
            status = status if status and (ended or problem) else 499
            self.metrics.request(method, route, status, seconds)
            fields: dict[str, object] = {
                "client": (scope.get("client") or ("",))[0],
                "method": method,
                "route": route,
                "status": status,
                "ms": round(seconds * 1000, 1),
                "bytes": written,
                **scope.get("state", {}).get("log", {}),
            }
            if problem:
                fields["error"] = problem
            level = logging.ERROR if problem else logging.INFO
            if level == logging.ERROR or route not in ("/healthz", "/readyz"):
                log.log(level, "request", extra={"fields": fields})


def _route(scope: Scope, paths: frozenset[str]) -> str:
    """The path of the route that was asked, not just any path: that could be anything."""
    path: str | None = getattr(scope.get("route"), "path", None)
    if path is not None:
        return path
    # Refused before a route was looked for.
    if scope["path"] in paths:
        return str(scope["path"])
    return "/static" if scope["path"].startswith(OPEN_PREFIX) else "other"


def _where(error: BaseException) -> str:
    """Type and place of an exception, without its message."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"


class Limit:
    """Bounds the size of a request's body and the time it takes to arrive; answers early errors in full."""

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_file = scope["path"] == "/v1/predict/file"
        limit = self.settings.max_file_bytes + FORM_BYTES if is_file else self.settings.max_request_bytes
        headers = dict(scope["headers"])
        has_body = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
        complete = not has_body
        # Seconds of waiting that are left. Bytes earn more, but never beyond those at the start: else who
        # sends much at once could then be silent for minutes.
        patience = self.settings.body_seconds
        received = 0
        deferred: Message | None = None

        async def bounded() -> Message:
            nonlocal complete, received, patience
            if complete:
                return await receive()
            start = time.monotonic()
            try:
                async with asyncio.timeout(patience):
                    message = await receive()
            except TimeoutError:
                raise ApiError.of_status(408) from None
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                received += size
                earned = patience + size / BYTES_PER_SECOND - (time.monotonic() - start)
                patience = min(earned, self.settings.body_seconds)
                complete = not message.get("more_body", False)
                if received > limit:
                    raise too_large(limit)
            return message

        async def last(message: Message) -> None:
            """Send; with the body not read to its end, hold back the end of the answer for `linger`."""
            nonlocal deferred
            if not complete:
                if message["type"] == "http.response.start":
                    message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
                elif not message.get("more_body", False):
                    deferred = {"type": "http.response.body", "body": b"", "more_body": False}
                    message = {**message, "more_body": True}
            await send(message)

        try:
            if _declared(headers) > limit:
                await too_large(limit).response()(scope, bounded, last)
            else:
                await self.app(scope, bounded, last)
        finally:
            # Also after an exception: its answer is on its way.
            if deferred is not None:
                await _linger(receive)
                await send(deferred)


def _declared(headers: Mapping[bytes, bytes]) -> int:
    """The length that a request declares; what no number can hold is beyond every limit."""
    digits = headers.get(b"content-length", b"").lstrip(b"0")
    if not digits.isdigit():
        return 0
    return int(digits) if len(digits) < 20 else sys.maxsize


def too_large(limit: int) -> ApiError:
    """The answer to a body of more than ``limit`` bytes."""
    return ApiError(413, "too_large", f"the request is too large; at most {limit:,} bytes")


async def _linger(receive: Receive) -> None:
    """Read what a client still sends, for a while: a connection closed at once would cost it the answer."""
    read = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while read < LINGER_BYTES:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                read += len(message.get("body", b""))


class Authorize:
    """Asks for one of the keys, in ``Authorization: Bearer`` or ``X-API-Key``, but for what is public."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self.app = app
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._digests or _is_open(scope["path"]) or self._knows(scope):
            await self.app(scope, receive, send)
            return
        await ApiError.of_status(401).response()(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        known = False
        for name, value in scope["headers"]:
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                given = value[7:].strip()
            elif name == b"x-api-key":
                given = value.strip()
            else:
                continue
            digest = hashlib.sha256(given).digest()
            for one in self._digests:
                known |= hmac.compare_digest(digest, one)
        return known


def _is_open(path: str) -> bool:
    return path in OPEN_ROUTES or path.startswith(OPEN_PREFIX)
