"""Files that clients send: many may arrive at a time, few are worked on, and all together are bounded."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

from afina.serving.errors import ApiError
from afina.serving.giving_way import Reading, Room
from afina.serving.middleware import FORM_BYTES
from afina.serving.settings import ServeSettings

# Seconds for which a file arrives, however slowly, before it gives way to another.
FILE_PATIENCE = 5.0


class Arrivals:
    """Counts the files of all clients; a client that sends slowly takes nobody's turn to be worked on."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._turns = asyncio.Semaphore(settings.max_uploads)
        most_bytes = settings.max_uploads * (settings.max_file_bytes + FORM_BYTES)
        self.room = Room(most_bytes, settings.max_arriving, FILE_PATIENCE, _too_many)

    def reading(self, stack: ExitStack) -> Reading:
        """A place for a file until it is its turn; its bytes count until the stack is closed.

        Raises:
            ApiError: 429 as many as are allowed arrive already, none of which gives way, or it would have to
                wait for its turn.
        """
        if self._turns.locked():
            raise _too_many()
        return stack.enter_context(self.room.reading())

    async def turn(self, reading: Reading, stack: ExitStack) -> None:
        """Wait until a file that has arrived may be worked on, which it is until the stack is closed.

        Its place is free from then on.

        Raises:
            ApiError: 429 it waited as long as a request may.
        """
        try:
            async with asyncio.timeout(self._settings.request_seconds):
                await self._turns.acquire()
        except TimeoutError:
            raise _too_many() from None
        stack.callback(self._turns.release)
        reading.leave_place()


def _too_many() -> ApiError:
    return ApiError(429, "too_many_files", "too many files at a time; try again later")
