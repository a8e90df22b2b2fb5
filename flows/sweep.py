"""The sweeper: what managers that are dead left behind gets its true state."""

from __future__ import annotations

import contextlib
from typing import Any

import httpx
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.logging.handlers import APILogHandler

from flows.pipeline_flow import manifest_later, pipeline_flow, this_holder
from tasks.artifacts import connected_in_run
from tasks.compute_server import ComputeServer, this_computer
from tasks.reports import SweepReport
from tasks.sweep import swept
from trackers.ownership import SWEEP


@pipeline_flow(name="sweep", run_name="sweep")
async def sweep(
    projects: list[str] | None = None,
    server: ComputeServer | None = None,
    repair: bool = True,
    requested_by: str = "",
) -> SweepReport:
    """Find locks, trackers and submissions whose manager is dead, say what they are, and repair them.

    What has ended gets its true state; jobs that can never start are cancelled; jobs that run, or cannot be asked
    about, are left to a rerun or the next sweep. What belongs to a manager that lives, or cannot be asked about, is
    never touched.

    Args:
        projects: The projects' names; none: all that the server has.
        server: Where the data lies and the jobs run; none: this computer.
        repair: Repair what was found; otherwise only say what would be done.
        requested_by: Who asks; shown with the lock, unverified.
    """
    server = server or this_computer()
    async with connected_in_run(server) as client:
        report = await swept(client, projects or (), (lambda: this_holder(requested_by, SWEEP)) if repair else None)
    logger = get_run_logger()
    for finding in report.findings:
        logger.info("%s", finding.sentence)
        if finding.outcome == "repaired":
            manifest_later(finding.target.split("/")[0], server)
    return report


@sweep.on_completion
async def leave_no_idle_run(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Remove a run that a schedule started and that found nothing: one for every hour would hide all others.

    Prefect has recorded the run's end by now, and asks for nothing of it any more.
    """
    report = await state.aresult(raise_on_failure=False)
    if not flow_run.auto_scheduled or not isinstance(report, SweepReport) or report.findings or report.notes:
        return
    with contextlib.suppress(ObjectNotFound, httpx.HTTPError):  # gone already, or Prefect is away: then one stays
        await APILogHandler.aflush()  # what arrives later is not removed with the run
        async with get_client() as client:
            await client.delete_flow_run(flow_run.id)
