"""A run within a run says that it lives for as long as it does, though Prefect starts no thread for it."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

import pytest
from prefect import flow
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows import heartbeats
from flows.pipeline_flow import this_flow_run
from tests.prefect_server import PrefectServer

OFTEN = 30  # seconds; Prefect takes no less


@flow
async def inner(name: str, seconds: float) -> int:
    run = this_flow_run()
    async with heartbeats.heartbeats(run.flow_run_id, run.name):
        await asyncio.sleep(seconds)
        return threading.active_count()


@flow
async def outer() -> list[int]:
    before = threading.active_count()
    with heartbeats.without_threads():
        runs = [inner(f"run {number}", 0.4 + number) for number in range(3)]
        return [count - before for count in await asyncio.gather(*runs)]


def test_a_run_says_again_that_it_lives_and_no_run_within_one_has_a_thread_for_it(
    prefect: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: Counter[str] = Counter()

    def hear(event: str, resource: dict[str, str]) -> None:
        """Stand in for Prefect's events."""
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        assert (event, resource["prefect.resource.id"]) == (
            heartbeats.HEARTBEAT,
            f"prefect.flow-run.{context.flow_run.id}",
        )
        said[str(context.parameters["name"])] += 1

    monkeypatch.setattr(heartbeats, "emit_event", hear)
    monkeypatch.setattr(heartbeats, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(heartbeats, "time", _Fast())
    with temporary_settings({PREFECT_API_URL: prefect.api, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: OFTEN}):
        more = asyncio.run(outer())
    assert max(more) <= 2  # of Prefect's own, whatever the number of runs
    assert said["run 0"] < said["run 1"] < said["run 2"]
    assert said["run 2"] >= 4


class _Fast:
    """A clock that goes sixty times as fast: Prefect takes no interval under half a minute."""

    @staticmethod
    def monotonic() -> float:
        from time import monotonic

        return 60 * monotonic()
