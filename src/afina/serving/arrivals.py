"""Files that clients send: many may arrive at a time, few are worked on, and all together are bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from starlette.types import Message, Receive

from afina.serving.errors import ApiError
from afina.serving.middleware import FORM_BYTES
from afina.serving.settings import ServeSettings


class Arrivals:
    """Counts the files of all clients; a client that sends slowly takes nobody's turn to be worked on."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._turns = asyncio.Semaphore(settings.max_uploads)
        self._most_bytes = settings.max_uploads * (settings.max_file_bytes + FORM_BYTES)
        self._arriving = 0
        self._bytes = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for a file until it is its turn.

        Raises:
            ApiError: 429 as many as are allowed arrive already, or it would have to wait for its turn.
        """
        if self._turns.locked() or self._arriving >= self._settings.max_arriving:
            raise _too_many()
        self._arriving += 1
        try:
            yield
        finally:
            self._arriving -= 1

    def counted(self, receive: Receive, stack: ExitStack) -> Receive:
        """Receive a file's form; its bytes count until the stack is closed.

        Raises:
            ApiError: 429 what arrived of all files is too much.
        """

        held = 0

        async def receive_counted() -> Message:
            nonlocal held
            message = await receive()
            size = len(message.get("body", b""))
            if self._bytes + size > self._most_bytes:
                raise _too_many()
            self._bytes += size
            held += size
            return message

        def release() -> None:
            self._bytes -= held

        stack.callback(release)
        return receive_counted

    async def turn(self, stack: ExitStack) -> None:
        """Wait until a file that has arrived may be worked on, which it is until the stack is closed.

        Raises:
            ApiError: 429 it waited as long as a request may.
        """
        try:
            async with asyncio.timeout(self._settings.request_seconds):
                await self._turns.acquire()
        except TimeoutError:
            raise _too_many() from None
        stack.callback(self._turns.release)


def _too_many() -> ApiError:
    return ApiError(429, "too_many_files", "too many files at a time; try again later")
