"""How many sessions of a project work on each volume at once: Prefect's global limits, or the same numbers here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass

from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from trackers.names import ProcessingPipelines

STORAGE, WORKING = "sessionflow-storage", "sessionflow-working"
SIZES = {STORAGE: 4, WORKING: 8}  # sessions at once, where Prefect has no limit of that name
_ON_STORAGE = (ProcessingPipelines.CHECKSUM, ProcessingPipelines.PREPARATION, ProcessingPipelines.ARCHIVING)


@dataclass(frozen=True)
class Slots:
    """A volume's slots.

    Attributes:
        size: how many sessions of this run at once.
        shared: whether Prefect counts those of other runs as well.
    """

    name: str
    size: int
    shared: bool
    here: asyncio.Semaphore

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Hold one of them."""
        # first in the own line: Prefect has those who wait ask again after many seconds, while a slot stands free
        async with self.here:
            if not self.shared:
                yield
                return
            # a slot whose lease is lost is lost, and what works in it goes on: it ends no job
            async with concurrency(self.name, strict=True, raise_on_lease_renewal_failure=False):
                yield


_slots: ContextVar[dict[str, Slots] | None] = ContextVar("slots", default=None)


def volume_of(pipeline: ProcessingPipelines) -> str:
    """Return the name of the limit on the volume that a pipeline mainly reads or writes."""
    return STORAGE if pipeline in _ON_STORAGE else WORKING


@contextlib.asynccontextmanager
async def on_volume(pipeline: ProcessingPipelines) -> AsyncIterator[None]:
    """Hold a slot of the volume that a pipeline works on; without a project's run around it, nobody waits."""
    slots = _slots.get()
    if slots is None:
        yield
        return
    async with slots[volume_of(pipeline)].one():
        yield


@contextlib.asynccontextmanager
async def limited_volumes() -> AsyncIterator[list[str]]:
    """Limit what runs inside this block; yields a note on each limit that Prefect's server does not have."""
    found = {name: await _limit(name) for name in SIZES}
    slots = {
        name: Slots(name, size or SIZES[name], size is not None, asyncio.Semaphore(size or SIZES[name]))
        for name, size in found.items()
    }
    token = _slots.set(slots)
    try:
        yield [
            f"Prefect has no active limit {name}: this run keeps to {SIZES[name]} sessions at once, whatever others do"
            for name, size in found.items()
            if size is None and PREFECT_API_URL.value()
        ]
    finally:
        _slots.reset(token)


async def _limit(name: str) -> int | None:
    """Return the size of a global limit; None where there is none, or where nobody else could keep to it."""
    if not PREFECT_API_URL.value():  # a temporary server, which nobody else talks to
        return None
    async with get_client() as client:
        try:
            limit = await client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            return None
    return limit.limit if limit.active and limit.limit > 0 else None
