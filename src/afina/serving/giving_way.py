"""Room for the bodies that arrive: where it is full, the one that arrives most slowly gives way.

Else whoever sends next to nothing could hold it for as long as a body may take to arrive.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from types import TracebackType

from starlette.types import Message, Receive

from afina.serving.errors import ApiError

# Bytes a second from which on a body is not slow: a line of half a megabit. Where there are more of them than
# places, each new body would else end another that is on its way, and long ones would never arrive.
FAST = 64 << 10


class Room:
    """Bytes and places that the bodies of all clients may take together; for one event loop.

    Attributes:
        held: bytes taken, by bodies that arrive and by those that have arrived.
        taken: places taken.
    """

    def __init__(
        self,
        most_bytes: int,
        places: int | None,
        patience: float,
        full: Callable[[], ApiError],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A room in which nobody is.

        Args:
            most_bytes: most bytes at a time.
            places: most places at a time; None: any number.
            patience: seconds from its begin for which a body never gives way.
            full: makes the error for whoever finds no room.
            clock: seconds from any point in time.
        """
        self.held = self.taken = 0
        self._most_bytes, self._places = most_bytes, sys.maxsize if places is None else places
        self._patience, self._full, self._clock = patience, full, clock
        self._bucket = patience / 2  # two never reach back to before the begin of who may have to give way
        # The oldest first: of equals it is the one to give way.
        self._arriving: dict[Reading, None] = {}

    def reading(self) -> Reading:
        """A place for a body that begins to arrive.

        Raises:
            ApiError: there is none, and nobody who would give way.
        """
        while self.taken >= self._places:
            self._slowest(0)._give_way()
        reading = Reading(self, self._clock(), self._bucket)
        self.taken += 1
        self._arriving[reading] = None
        return reading

    def _take(self, reading: Reading, size: int) -> None:
        reading._window.add(size, self._clock())
        while self.held + size > self._most_bytes:
            self._slowest(1)._give_way()
            # It may have been the slowest itself.
            reading._raise_if_it_gave_way()
        self.held += size
        reading.held += size

    def _slowest(self, fewest: int) -> Reading:
        """Who gives way: of those that hold so many bytes or more, who has sent the least of late.

        Raises:
            ApiError: nobody.
        """
        now = self._clock()
        old = (one for one in self._arriving if now - one.begin >= self._patience and one.held >= fewest)
        # Of the two buckets one may have begun just now.
        slow = [one for one in old if one._window.recent(now) < FAST * self._bucket]
        if not slow:
            raise self._full()
        # Of those that are silent the one that holds the most: fewer have to go.
        return min(slow, key=lambda one: (one._window.recent(now), -one.held))


class Reading:
    """A body in a room, which leaves it with `release` or at the end of a ``with``.

    While it arrives it may have to give way: from then on it takes neither place nor bytes.

    Attributes:
        begin: when it began, by the room's clock, seconds.
        held: its bytes that count.
    """

    def __init__(self, room: Room, begin: float, bucket_seconds: float) -> None:
        self.begin, self.held = begin, 0
        self._room = room
        self._window = _Window(bucket_seconds)
        self._has_place = True
        self._gave_way = False
        self._waiting: asyncio.Timeout | None = None

    def __enter__(self) -> Reading:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def counted(self, receive: Receive) -> Receive:
        """Receive the body; its bytes count until `release`.

        What it returns raises ApiError: 408 the body gave way, the room's own where there is no room for it.
        """

        async def receive_counted() -> Message:
            self._raise_if_it_gave_way()
            try:
                async with asyncio.timeout(None) as self._waiting:
                    message = await receive()
            except TimeoutError:
                raise _too_slow() from None
            finally:
                self._waiting = None
            # The message can have come before the waiting was ended.
            self._raise_if_it_gave_way()
            self._room._take(self, len(message.get("body", b"")))
            if not message.get("more_body", False):
                self._room._arriving.pop(self, None)
            return message

        return receive_counted

    def leave_place(self) -> None:
        """Somebody else may have its place; its bytes go on counting."""
        if self._has_place:
            self._has_place = False
            self._room.taken -= 1

    def release(self) -> None:
        """Take neither place nor bytes any more; a second time does nothing."""
        self.leave_place()
        self._room._arriving.pop(self, None)
        self._room.held -= self.held
        self.held = 0

    def _give_way(self) -> None:
        # Not when its task comes to it: whoever asked for the room takes it now.
        self.release()
        self._gave_way = True
        if self._waiting is not None:
            self._waiting.reschedule(asyncio.get_running_loop().time())

    def _raise_if_it_gave_way(self) -> None:
        if self._gave_way:
            raise _too_slow()


class _Window:
    """Bytes of late: those of the bucket of time that has begun and of the one before.

    The buckets begin at the same times for all, so that what came in them can be compared.
    """

    def __init__(self, bucket_seconds: float) -> None:
        self._seconds = bucket_seconds
        self._number = self._before = self._current = 0

    def add(self, size: int, now: float) -> None:
        self._move_on(now)
        self._current += size

    def recent(self, now: float) -> int:
        self._move_on(now)
        return self._before + self._current

    def _move_on(self, now: float) -> None:
        number = int(now / self._seconds)
        if number != self._number:
            self._before = self._current if number == self._number + 1 else 0
            self._number, self._current = number, 0


def _too_slow() -> ApiError:
    message = "the request arrived slowly and there was no room for others; try again later"
    return ApiError(408, "request_timeout", message)
