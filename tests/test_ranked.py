"""Who is let in next: the lowest rank, in the order of coming; nobody is lost who gives up."""

from __future__ import annotations

import asyncio

from flows.ranked import RankedSemaphore


def test_those_who_wait_are_let_in_by_rank_and_then_as_they_came() -> None:
    async def order() -> list[str]:
        door, seen = RankedSemaphore(1), list[str]()

        async def visit(name: str, rank: float) -> None:
            await door.acquire(rank)
            seen.append(name)
            await asyncio.sleep(0)
            door.release()

        async with asyncio.TaskGroup() as group:
            for name, rank in [("first", 9), ("end 1", 1), ("end 2", 1), ("start 1", 0), ("start 2", 0)]:
                group.create_task(visit(name, rank))
        return seen

    assert asyncio.run(order()) == ["first", "start 1", "start 2", "end 1", "end 2"]


def test_one_that_gives_up_takes_no_place_also_where_it_was_let_in_at_that_moment() -> None:
    async def places() -> None:
        door = RankedSemaphore(1)
        await door.acquire()
        waiting, late = asyncio.create_task(door.acquire()), asyncio.create_task(door.acquire())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
        door.release()  # late is let in, and does not know it yet
        late.cancel()
        await asyncio.gather(waiting, late, return_exceptions=True)
        async with asyncio.timeout(1):
            await door.acquire()

    asyncio.run(places())
