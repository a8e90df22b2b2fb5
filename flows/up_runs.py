"""Runs whose worker ends or has ended: let go of without ending their jobs, and continued by the next worker.

A flow that is told to end ends its jobs. Nobody means that by stopping a service: jobs of hours run on a cluster that
is not being stopped. So a flow that has not ended in time is killed, which its jobs survive (the manager may die), and
its run is put back to *AwaitingRetry*. The next worker starts it again under the same id, hence as the same manager,
and it adopts what runs and keeps what is done. Runs that were killed with their worker are put back before that one
starts again, or `up` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas import filters
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Crashed, Scheduled

from flows.labels import CUT_OFF
from flows.up_settings import POOL

WORKER_LABEL = "prefect.worker.name"
_RUN_VARIABLE = b"PREFECT__FLOW_RUN_ID="
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Process:
    """A flow's process on this computer; it leads a process group of its own."""

    run: UUID
    pid: int


def processes() -> list[Process]:
    """Return the processes of this account that execute runs which some worker started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, ValueError):
                if (run := _run_of(entry)) is not None:
                    found.append(Process(run, int(entry.name)))
    return found


async def ours(client: PrefectClient, worker: str, states: Iterable[StateType]) -> list[FlowRun]:
    """Return the runs in these states that a worker of this name started."""
    wanted = filters.FlowRunFilter(
        state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=list(states)))
    )
    pool = filters.WorkPoolFilter(name=filters.WorkPoolFilterName(any_=[POOL]))
    found: list[FlowRun] = []
    while batch := await client.read_flow_runs(
        flow_run_filter=wanted, work_pool_filter=pool, limit=200, offset=len(found)
    ):
        found += batch
    return [run for run in found if (run.labels or {}).get(WORKER_LABEL) == worker]


async def drained(client: PrefectClient, worker: str, seconds: float, *, hurry: asyncio.Event) -> list[FlowRun]:
    """Wait until the runs of a worker have ended by themselves; return those that have not in time, or when hurried."""
    deadline = time.monotonic() + seconds
    while True:
        left = await ours(client, worker, (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING))
        if not left or time.monotonic() > deadline or hurry.is_set():
            return left
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), _LOOK_SECONDS)


async def put_back(client: PrefectClient, runs: list[FlowRun], why: str) -> None:
    """Kill what is left of some runs, whose worker is gone, and have the next worker go on with them."""
    ids = {run.id for run in runs}
    killed = [process for process in processes() if process.run in ids]
    for process in killed:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    while any(process in processes() for process in killed):  # noqa: ASYNC110 - no child of ours: nobody tells us
        await asyncio.sleep(0.05)
    for run in runs:
        if (await client.read_flow_run(run.id)).state_type in (StateType.RUNNING, StateType.PENDING):
            state: State[Any] = Scheduled(
                name="AwaitingRetry", message=f"{why} Its jobs run on; it goes on from where it was."
            )
            inner: State[Any] = Crashed(name=CUT_OFF, message=f"{why} The run that had called it goes on in a new one.")
        else:
            state = inner = Crashed(
                message=f"{why} It was being cancelled. Jobs may run on: sessionflow cancel SESSION ends them."
            )
        await client.set_flow_run_state(run.id, state, force=True)
        await _end_inner(client, run, inner)


async def orphans(client: PrefectClient, worker: str) -> tuple[list[FlowRun], int]:
    """Return the runs whose worker and process are both gone, and how many live on without their worker."""
    alive = {process.run for process in processes()}
    found = await ours(client, worker, (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING))
    dead = [run for run in found if run.id not in alive]
    return dead, len(found) - len(dead)


async def _end_inner(client: PrefectClient, run: FlowRun, state: State[Any]) -> None:
    """Say of the flows that a run had called, and of those that they had, that they are over, as `state` says."""
    inner = filters.FlowRunFilter(
        parent_flow_run_id=filters.FlowRunFilterParentFlowRunId(any_=[run.id]),
        state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=[StateType.RUNNING])),
    )
    for called in await client.read_flow_runs(flow_run_filter=inner, limit=200):
        await client.set_flow_run_state(called.id, state, force=True)
        await _end_inner(client, called, state)


def _run_of(entry: Path) -> UUID | None:
    """Return which run a process executes; its jobs inherit the variable too, but lead no flow."""
    words = (entry / "cmdline").read_bytes().split(b"\0")
    if not any(word.startswith(b"prefect.") or b"_workspace_runtime_bootstrap" in word for word in words):
        return None
    for line in (entry / "environ").read_bytes().split(b"\0"):
        if line.startswith(_RUN_VARIABLE) and os.getpgid(int(entry.name)) == int(entry.name):
            return UUID(line.removeprefix(_RUN_VARIABLE).decode())
    return None
