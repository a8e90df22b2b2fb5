"""A semaphore whose waiters are let in by rank: asyncio's own lets them in as they come."""

from __future__ import annotations

import asyncio
import heapq
import itertools


class RankedSemaphore:
    """Lets so many in at a time; of those that wait the one of the lowest rank; of these, the one that came first."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    async def acquire(self, rank: float = 0) -> None:
        """Wait to be let in."""
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, next(self._numbers), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was let in at this very moment
                self.release()
            raise

    def release(self) -> None:
        """Let the next one in."""
        while self._waiting:
            *_, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
