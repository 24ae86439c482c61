"""Keeps the pages of other web sites away from a server that needs no key.

A browser sends what any page tells it to, to this machine and to its network too. It says which page did, and
by which name it found the server.
"""

from __future__ import annotations

import ipaddress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from afina.serving.errors import ApiError
from afina.serving.settings import ServeSettings

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
# What an orchestrator asks, by whatever name; it says nothing.
PROBES = frozenset({"/healthz", "/readyz"})

_STRANGE_NAME = ApiError(
    403, "unknown_host", "the server does not answer to this name; see its option --allowed-host"
)
_STRANGE_PAGE = ApiError(
    403,
    "foreign_origin",
    "a page of another site asked; see the server's options --cors-origin, --allowed-host",
)


class CheckOrigin:
    """Answers 403 to names that are not the server's, and to POSTs that pages of others make."""

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self.app = app
        self._allowed = frozenset(settings.allowed_hosts)
        self._origins = frozenset(settings.cors_origins)
        # Who listens on loopback alone is asked by its names; else any name may be one of the machine's.
        self._names: frozenset[str] | None = None
        if self._allowed or _is_loopback(settings.host):
            self._names = self._allowed | LOOPBACK | {_bracketed(settings.host.lower())}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = self._problem(scope) if scope["type"] == "http" else None
        if problem is None:
            await self.app(scope, receive, send)
        else:
            await problem.response()(scope, receive, send)

    def _problem(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        names = self._names
        if (
            names is not None
            and scope["path"] not in PROBES
            and any(_name(host) not in names for host in headers.getlist("host"))
        ):
            return _STRANGE_NAME
        if scope["method"] == "POST" and not self._is_own_page(headers):
            return _STRANGE_PAGE
        return None

    def _is_own_page(self, headers: Headers) -> bool:
        """Whether no page asks, or the server's own, or one of ``cors_origins``."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if "*" in self._origins or origin in self._origins:
            return True
        if site in ("cross-site", "same-site"):
            return False
        # Behind a proxy the name in Host may be another than the page's; no script can set Sec-Fetch-Site.
        if origin is None or site == "same-origin":
            return True
        place = origin.lower().rpartition("://")[2]
        return bool(place) and (place == headers.get("host", "").lower() or _name(place) in self._allowed)


def _name(host: str) -> str:
    """A name without the port."""
    name, colon, port = host.lower().rpartition(":")
    return (name if colon and port.isdigit() else host.lower()).rstrip(".")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
