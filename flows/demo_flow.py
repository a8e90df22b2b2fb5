"""The science demo's flow: all nine pipelines in their order, on the sessions of one animal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

from flows.forging import forging
from flows.manifest import manifest
from flows.multiday import multiday
from flows.pipeline_flow import pipeline_flow
from flows.process_session import FLOWS
from flows.terminal import step_line
from tasks.compute_server import ComputeServer
from tasks.reports import PipelineReport, SessionReport
from trackers.names import ProcessingPipelines
from trackers.processes import this_account


@pipeline_flow(name="demo", run_name="demo {project}")
async def demo_flow(
    project: str, animal: str, sessions: list[str], dataset: str, pipelines: dict[str, str], server: ComputeServer
) -> SessionReport:
    """Run one pipeline after another, each on all sessions of an animal, and print a line for each.

    What has been done before is skipped by the pipeline itself. Nothing runs after one that failed.

    Args:
        project: The project's name.
        animal: The animal's name or number.
        sessions: The sessions' names, their UTC times.
        dataset: The dataset's name, for multi-day tracking and forging.
        pipelines: The pipelines by member name, in order, each with what its line says.
        server: Where the data lies and the jobs run.
    """
    how: dict[str, Any] = {"server": server, "requested_by": this_account()}

    def work(which: ProcessingPipelines) -> list[Awaitable[PipelineReport]]:
        if which is ProcessingPipelines.MANIFEST:
            return [manifest(project, **how)]
        if which is ProcessingPipelines.MULTIDAY:
            return [multiday(project, animal, sessions, dataset, **how)]
        if which is ProcessingPipelines.FORGING:
            return [forging(project, dataset, [f"{animal}/{session}" for session in sessions], **how)]
        return [FLOWS[which](project, animal, session, **how) for session in sessions]

    reports: list[PipelineReport] = []
    for name, words in pipelines.items():
        started = time.monotonic()
        made = await asyncio.gather(*work(ProcessingPipelines[name]), return_exceptions=True)
        for report in made:
            if isinstance(report, BaseException):
                raise report
            reports.append(report)
        before = reports[-1].reason if not any(report.ran for report in reports[-len(made) :]) else ""
        print(step_line(name.lower(), f"{time.monotonic() - started:.1f} s", before or words), flush=True)
        if not all(report.succeeded for report in reports):
            break
    return SessionReport(f"{project}/{animal}", tuple(reports))
