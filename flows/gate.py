"""One gate for the starts and ends of flow runs, which Prefect's SQLite cannot take many of at once.

Measured: a hundred flow runs that start together take 37 s, with 503 answers and lost runs; one after the other they
take 15 s. What a flow does between its start and its end is not held up. A start goes before an end: what it hands to
the cluster runs while others end.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from weakref import WeakKeyDictionary

from flows.ranked import RankedSemaphore

WIDTH = 3  # starts and ends at a time
START, END = 0, 1

_gates: WeakKeyDictionary[asyncio.AbstractEventLoop, RankedSemaphore] = WeakKeyDictionary()


class Turn:
    """A flow run's turn at the gate of its event loop: held while Prefect starts it, and while it ends it."""

    def __init__(self) -> None:
        self._gate = _gates.setdefault(asyncio.get_running_loop(), RankedSemaphore(WIDTH))
        self._held = False

    async def take(self, rank: int) -> None:
        """Wait for the gate, for a `START` or an `END`."""
        await self._gate.acquire(rank)
        self._held = True

    def give(self) -> None:
        """Let the next one in, once."""
        if self._held:
            self._held = False
            self._gate.release()


turn_of_this_run: ContextVar[Turn | None] = ContextVar("turn", default=None)
