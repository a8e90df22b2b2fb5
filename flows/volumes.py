"""How many sessions of a project work on each volume at once: Prefect's global limits, or the same numbers here.

They are let in by their place in the project's plan, whoever came first: of those that wait, the first in the plan.
The first time, a session also waits for those before it that have begun and are still on their way here.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field

from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from trackers.errors import BadInputError
from trackers.names import ProcessingPipelines

STORAGE, WORKING = "sessionflow-storage", "sessionflow-working"
SIZES = {STORAGE: 4, WORKING: 8}  # sessions at once, where Prefect has no limit of that name
_ON_STORAGE = (ProcessingPipelines.CHECKSUM, ProcessingPipelines.PREPARATION, ProcessingPipelines.ARCHIVING)


@dataclass
class Slots:
    """A volume's slots, and the line of those who wait for one.

    Attributes:
        free: how many this run may take beside those that it has.
        shared: whether Prefect counts those of other runs as well.
        asking: who asks Prefect for one; only one at a time, or Prefect would choose between them.
        line: those who wait, by their place in the plan.
    """

    free: int
    shared: bool
    asking: asyncio.Future[None] | None = None
    line: list[tuple[int, asyncio.Future[None]]] = field(default_factory=list)


@dataclass
class Volumes:
    """The slots of each volume, for the sessions of one run.

    Attributes:
        notes: on each limit that Prefect's server does not have.
        coming: the places of sessions that have begun and have not stood in any line yet.
    """

    slots: dict[str, Slots]
    notes: list[str]
    coming: set[int] = field(default_factory=set)

    @contextlib.contextmanager
    def turn(self, place: int) -> Iterator[None]:
        """Let the session at a place in the plan work in this block; turns begin in the plan's order."""
        self.coming.add(place)
        token = _turn.set((self, place))
        try:
            yield
        finally:
            _turn.reset(token)
            self.coming.discard(place)
            self._look()

    @contextlib.asynccontextmanager
    async def slot(self, volume: str, place: int) -> AsyncIterator[None]:
        """Hold a slot of a volume, as the session at a place in the plan."""
        slots, let_in = self.slots[volume], asyncio.get_running_loop().create_future()
        heapq.heappush(slots.line, (place, let_in))
        self.coming.discard(place)
        self._look()
        # a slot whose lease is lost is lost, and what works in it goes on: it ends no job
        prefects = concurrency(volume, strict=True, raise_on_lease_renewal_failure=False)
        try:
            await let_in
            async with prefects if slots.shared else contextlib.nullcontext():
                slots.asking = None
                self._look()
                yield
        finally:
            if slots.asking is let_in:
                slots.asking = None
            if not let_in.cancelled():
                slots.free += 1
            self._look()

    def _look(self) -> None:
        """Let in whoever is the first in a line, where a slot is free and nobody before them is still coming."""
        for slots in self.slots.values():
            while slots.line and slots.line[0][1].cancelled():
                heapq.heappop(slots.line)
            if not (slots.line and slots.free and slots.asking is None):
                continue
            if min(self.coming, default=slots.line[0][0]) >= slots.line[0][0]:
                _, slots.asking = heapq.heappop(slots.line)
                slots.asking.set_result(None)
                slots.free -= 1


_turn: ContextVar[tuple[Volumes, int] | None] = ContextVar("turn", default=None)


def volume_of(pipeline: ProcessingPipelines) -> str:
    """Return the name of the limit on the volume that a pipeline mainly reads or writes."""
    return STORAGE if pipeline in _ON_STORAGE else WORKING


def limit_on(pipeline: ProcessingPipelines) -> str:
    """Return the name of the limit that `on_volume` keeps to for a pipeline; empty where nobody waits."""
    return volume_of(pipeline) if _turn.get() is not None else ""


@contextlib.asynccontextmanager
async def on_volume(pipeline: ProcessingPipelines) -> AsyncIterator[None]:
    """Hold a slot of the volume that a pipeline works on; without a project's run around it, nobody waits."""
    turn = _turn.get()
    if turn is None:
        yield
        return
    volumes, place = turn
    async with volumes.slot(volume_of(pipeline), place):
        yield


async def limited_volumes() -> Volumes:
    """Return the volumes with the limits that Prefect has now.

    Raises:
        BadInputError: somebody has set one to 0.
    """
    found = {name: await _limit(name) for name in SIZES}
    slots = {name: Slots(size or SIZES[name], size is not None) for name, size in found.items()}
    notes = [
        f"Prefect has no active limit {name}: this run keeps to {SIZES[name]} sessions at once, whatever others do"
        for name, size in found.items()
        if size is None and PREFECT_API_URL.value()
    ]
    return Volumes(slots, notes)


async def _limit(name: str) -> int | None:
    """Return the size of a global limit; None where there is none, or where nobody else could keep to it."""
    if not PREFECT_API_URL.value():  # a temporary server, which nobody else talks to
        return None
    async with get_client() as client:
        try:
            limit = await client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            return None
    if limit.active and not limit.limit:
        raise BadInputError(
            f"Prefect's limit {name} is 0: no session of a project's run may work on that volume. Nothing was done. "
            f"To let them: prefect gcl update {name} --limit {SIZES[name]}"
        )
    return limit.limit if limit.active else None
