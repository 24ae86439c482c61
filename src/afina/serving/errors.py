"""Errors of the API, all in one form: ``{"error": {"code": …, "message": …}}``."""

from __future__ import annotations

from collections.abc import Mapping
from http.client import responses
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response

RETRY_SECONDS = 1

# What a client is told where the error comes from the framework: no detail of it, which could quote a text.
_CODES = {
    400: ("bad_request", "the request could not be read"),
    401: ("unauthorized", "an API key is needed; send it as Authorization: Bearer or X-API-Key"),
    404: ("not_found", "there is nothing here; see /docs"),
    405: ("method_not_allowed", "this address does not take this method; see /docs"),
    408: ("request_timeout", "the request did not arrive in time"),
    413: ("too_large", "the request is too large"),
    431: ("headers_too_large", "the headers of the request are too large"),
    500: ("internal_error", "the server could not answer; its log says more"),
    503: ("unavailable", "the server cannot answer now; try again later"),
}


class ApiError(Exception):
    """An answer that says what is wrong: a status, a short code for programs, one sentence for people.

    Neither may hold a text that is to be classified. ``extra`` is added to the error object.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        extra: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{status} {code}")
        self.status, self.code, self.message = status, code, message
        self.extra = dict(extra or {})
        self.headers = dict(headers or {})
        if status in (429, 503):
            self.headers.setdefault("Retry-After", str(RETRY_SECONDS))
        if status == 401:
            self.headers.setdefault("WWW-Authenticate", "Bearer")

    @classmethod
    def of_status(cls, status: int, headers: Mapping[str, str] | None = None) -> ApiError:
        """The error for a status that the framework chose."""
        phrase = responses.get(status, "error")
        code, message = _CODES.get(status, (phrase.lower().replace(" ", "_"), phrase.lower()))
        return cls(status, code, message, headers=headers)

    def body(self) -> bytes:
        """The JSON of the answer."""
        return to_json({"error": {"code": self.code, "message": self.message, **self.extra}})

    def response(self) -> Response:
        """The answer."""
        return Response(
            self.body(), self.status, headers=self.headers, media_type="application/json; charset=utf-8"
        )
