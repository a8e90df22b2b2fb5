"""Retention: runs that ended long ago leave Prefect's database, so that it stays small and quick."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas import filters
from prefect.client.schemas.objects import TERMINAL_STATES
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.states import Completed
from pydantic import Field

BATCH = 100  # runs that are read at a time; each is removed in a transaction of its own, so that nobody waits for long


@flow(name="retention", flow_run_name="retention {days} days", persist_result=False)
async def retention(
    days: Annotated[float, Field(gt=0, le=36500)] = 90, dry_run: bool = False, requested_by: str = ""
) -> Any:
    """Remove the flow runs that ended more than so many days ago, with their task runs, logs and artifacts.

    Runs that have not ended are never touched, and neither is a page that a later run has written to. Sessions and
    their records on the servers do not depend on any of it.

    Args:
        days: How long ago a run must have ended, days.
        dry_run: Only say how many there are.
        requested_by: Who asks; shown with the run, unverified.
    """
    before = datetime.now(UTC) - timedelta(days=days)
    async with get_client() as client:
        count, pages = (await _count(client, before), 0) if dry_run else await _remove(client, before)
    done = f"would be removed: {count} runs" if dry_run else f"removed: {count} runs, {pages} artifacts"
    sentence = f"{done} that ended before {before:%Y-%m-%d %H:%M} UTC"
    get_run_logger().info("%s", sentence)
    return Completed(message=sentence, data=count)


async def _remove(client: PrefectClient, before: datetime) -> tuple[int, int]:
    """Remove what ended before a time; return how many runs and artifacts."""
    runs = pages = 0
    while batch := await _batch(client, before, 0):
        pages += await _remove_artifacts(client, batch, before)
        for run in batch:
            with contextlib.suppress(ObjectNotFound):  # somebody else removed it
                await client.delete_flow_run(run)  # the server removes its logs in the background
                runs += 1
    return runs, pages


async def _count(client: PrefectClient, before: datetime) -> int:
    count = 0
    while batch := await _batch(client, before, count):
        count += len(batch)
    return count


async def _batch(client: PrefectClient, before: datetime, offset: int) -> list[UUID]:
    ended = filters.FlowRunFilter(
        end_time=filters.FlowRunFilterEndTime.model_validate({"before_": before}),
        state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=sorted(TERMINAL_STATES))),
    )
    found = await client.read_flow_runs(
        flow_run_filter=ended, sort=FlowRunSort.START_TIME_ASC, limit=BATCH, offset=offset
    )
    return [run.id for run in found]


async def _remove_artifacts(client: PrefectClient, runs: list[UUID], before: datetime) -> int:
    """Remove what those runs showed; no page that has been written to since."""
    count = 0
    by_runs = filters.ArtifactFilter(flow_run_id=filters.ArtifactFilterFlowRunId(any_=runs))
    while found := [
        artifact
        for artifact in await client.read_artifacts(artifact_filter=by_runs, limit=200)
        if artifact.updated is None or artifact.updated < before
    ]:
        for artifact in found:
            with contextlib.suppress(ObjectNotFound):
                await client.delete_artifact(artifact.id)
                count += 1
    return count
