"""What runs on a server: a command that is read and written piece by piece, and how many there are at once."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

MOST_CHANNELS = 10  # sshd's MaxSessions, unless the site says otherwise
TRY_AGAIN_SECONDS = 1.0
OUTPUT, ERRORS, ENDED = "output", "errors", "ended"


class Running(Protocol):
    """A command that runs on a server. One task at a time reads, and one writes."""

    async def read(self) -> tuple[str, bytes]:
        """Return the next piece of what the command says.

        Returns:
            `OUTPUT` or `ERRORS` with the bytes; at last `ENDED` with the exit code in digits, -1 for a signal.

        Raises:
            UnreachableError: the connection was lost.
        """

    async def write(self, data: bytes) -> None:
        """Write to the command's input, no faster than it reads.

        Raises:
            BrokenPipeError: it has ended.
            UnreachableError: the connection was lost.
        """

    async def end_input(self) -> None:
        """Let the command see the end of its input."""

    async def close(self) -> None:
        """Let go of the command; one that still runs is sent TERM."""


class Link(Protocol):
    """What commands are started over: a connection of this process, or another process's."""

    @property
    def alive(self) -> bool:
        """Whether commands can be started."""

    async def start(self, command: str) -> Running:
        """Start a command, given as a text for the server's shell, when there is a place for one more.

        Raises:
            UnreachableError: the connection is lost.
        """

    async def close(self) -> None:
        """End the link, and every command's channel."""


class Places:
    """How many commands run over one connection at once; who waits is served in order.

    The server's limit (MaxSessions) shows only when it refuses one. Then no more are begun than are there, unless one
    has ended, or a second has passed: what refused may have been a command that ended late.

    Attributes:
        returned: how many have been given back so far.
    """

    def __init__(self, most: int = MOST_CHANNELS) -> None:
        self.returned = 0
        self._most = self._limit = most
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def take(self) -> None:
        """Wait for a place."""
        if self._taken < self._limit and not self._waiting:
            self._taken += 1
        else:
            await self._wait(first=False)

    def give_back(self) -> None:
        """Give a place to who waits longest."""
        self._taken -= 1
        self.returned += 1
        self._serve_one()

    async def refused(self) -> None:
        """Give back a place that the server does not have, and wait for another one before everybody else."""
        self._taken -= 1
        self._limit = min(self._limit, self._taken)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TRY_AGAIN_SECONDS, self._try_one_more)
        await self._wait(first=True)

    async def _wait(self, *, first: bool) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.insert(0 if first else len(self._waiting), turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back()  # it came in the same moment
            raise

    def _try_one_more(self) -> None:
        self._limit += 1
        more = self._limit < self._most
        self._timer = asyncio.get_running_loop().call_later(TRY_AGAIN_SECONDS, self._try_one_more) if more else None
        if self._taken < self._limit:
            self._serve_one()

    def _serve_one(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                self._taken += 1
                turn.set_result(None)
                return
