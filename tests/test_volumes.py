"""Sessions of one project's run are let in to a volume by their place in the plan, whoever comes first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import concurrency
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.volumes import STORAGE, WORKING, Slots, Volumes, limited_volumes, on_volume
from tests.prefect_server import PrefectServer
from trackers.errors import BadInputError
from trackers.names import ProcessingPipelines

FIRST, SECOND, THIRD, LAST = 0.0, 0.05, 0.1, 0.15  # seconds until a session stands in line
WORK_SECONDS = 0.1


@pytest.fixture
async def limited_to_one(own_prefect: PrefectServer) -> AsyncIterator[None]:
    """A Prefect server with limits of one session."""
    with temporary_settings({PREFECT_API_URL: own_prefect.api}):
        async with get_client() as client:
            for name in (STORAGE, WORKING):
                await client.upsert_global_concurrency_limit_by_name(name, 1)
        yield


def here(storage: int, working: int = 8) -> Volumes:
    """Return volumes of which nobody else knows."""
    return Volumes({STORAGE: Slots(storage, shared=False), WORKING: Slots(working, shared=False)}, [])


class Plan:
    """Sessions that note when they are let in, and to which volume."""

    def __init__(self, volumes: Volumes) -> None:
        self.volumes = volumes
        self.entered: list[int] = []
        self.at_once = self.most = 0

    async def work(self, place: int, pipeline: ProcessingPipelines = ProcessingPipelines.CHECKSUM) -> None:
        async with on_volume(pipeline):
            self.entered.append(place)
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            await asyncio.sleep(WORK_SECONDS)
            self.at_once -= 1

    async def session(self, place: int, seconds: float, *pipelines: ProcessingPipelines) -> None:
        with self.volumes.turn(place):
            await asyncio.sleep(seconds)
            for pipeline in pipelines or (ProcessingPipelines.CHECKSUM,):
                await self.work(place, pipeline)

    async def done(self, *seconds: float) -> list[int]:
        """Have sessions come after so many seconds each; return the places in the order in which they were let in."""
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for place, each in enumerate(seconds):
                group.create_task(self.session(place, each))
        return self.entered


@pytest.mark.parametrize("size", [1, 2, 4])
async def test_sessions_are_let_in_by_their_place_whoever_comes_first(size: int) -> None:
    plan = Plan(here(size))
    assert await plan.done(LAST, THIRD, SECOND, FIRST) == [0, 1, 2, 3]
    assert plan.most == size


@pytest.mark.usefixtures("limited_to_one")
async def test_with_prefects_limit_sessions_are_let_in_by_their_place_also_when_another_run_held_it() -> None:
    plan = Plan(await limited_volumes())
    async with asyncio.TaskGroup() as group, concurrency(STORAGE, strict=True):
        entered = group.create_task(plan.done(LAST, THIRD, SECOND, FIRST))
        await asyncio.sleep(1)
        assert plan.entered == []
    assert (entered.result(), plan.most) == ([0, 1, 2, 3], 1)


@pytest.mark.usefixtures("limited_to_one")
async def test_a_limit_that_somebody_has_set_to_nothing_lets_nobody_in_and_says_so() -> None:
    async with get_client() as client:
        await client.upsert_global_concurrency_limit_by_name(STORAGE, 0)
    with pytest.raises(BadInputError, match=f"gcl update {STORAGE} --limit 4"):
        await limited_volumes()


async def test_a_session_that_comes_back_goes_before_those_behind_it_that_wait() -> None:
    plan = Plan(here(1))
    twice = (ProcessingPipelines.CHECKSUM, ProcessingPipelines.PREPARATION)
    async with asyncio.TaskGroup() as group:
        group.create_task(plan.session(0, FIRST, *twice))
        for place in (1, 2):
            group.create_task(plan.session(place, FIRST))
    assert plan.entered == [0, 1, 0, 2]


async def test_nobody_waits_for_a_session_that_wants_the_other_volume_or_none_or_fails() -> None:
    plan = Plan(here(1))

    async def fails() -> None:
        with plan.volumes.turn(1):
            await asyncio.sleep(SECOND)
            raise ValueError

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(plan.session(0, FIRST, ProcessingPipelines.SUITE2P))
        failing = asyncio.ensure_future(fails())
        await asyncio.sleep(0)
        group.create_task(plan.session(2, FIRST))
    assert plan.entered == [0, 2]
    assert isinstance(failing.exception(), ValueError)


async def test_a_slot_is_free_again_whenever_the_session_that_waits_for_it_is_cancelled() -> None:
    for steps in range(8):  # of the loop, from before it stands in line to after it was let in
        plan = Plan(here(1))
        cancelled = asyncio.ensure_future(plan.session(0, FIRST))
        for _ in range(steps):
            await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        async with asyncio.timeout(10):
            await plan.session(1, FIRST)
        assert plan.volumes.slots[STORAGE].free == 1


async def test_without_a_projects_run_nobody_waits() -> None:
    async with asyncio.timeout(1), on_volume(ProcessingPipelines.CHECKSUM), on_volume(ProcessingPipelines.CHECKSUM):
        pass
