"""Single-day suite2p: cells and their activity from the mesoscope's movie, every plane by itself."""

from __future__ import annotations

import json
from typing import Any

from flows.pipeline import pipeline, pipeline_flow
from tasks.compute_server import ComputeServer
from tasks.reports import PipelineReport
from trackers.errors import BadInputError
from trackers.graph import Job, Resources, Stage
from trackers.names import ProcessingPipelines

BINARIZE = Resources(cpus=1, memory_gb=10, minutes=180)
PLANE = Resources(cpus=30, memory_gb=80, minutes=180)
COMBINE = Resources(cpus=1, memory_gb=30, minutes=180)


@pipeline_flow(name="suite2p", run_name="suite2p {project}/{animal}/{session}")
async def suite2p(
    project: str,
    animal: str,
    session: str,
    server: ComputeServer | None = None,
    planes: int | None = None,
    settings: dict[str, Any] | None = None,
    reprocess: bool = False,
    keep_job_logs: bool = False,
    requested_by: str = "",
) -> PipelineReport:
    """Find cells and extract their activity: the tiffs into binaries, every plane in parallel, all planes combined.

    A run that failed is continued: only the planes that failed, and what comes after them, run again.

    Args:
        project: The project's name.
        animal: The animal's name or number.
        session: The session's name, its UTC time.
        server: Where the data lies and the jobs run; none: this computer.
        planes: How many planes there are, ROIs times z-planes; none: as the recording's ops.json says.
        settings: Changes to suite2p's own settings, nested as those are.
        reprocess: Run also where it has succeeded before.
        keep_job_logs: Keep the jobs' logs after a success.
        requested_by: Who asks; shown with the lock and in the records.
    """
    if planes is not None and planes < 1:
        raise BadInputError(f"{planes} planes cannot be processed. Nothing was done.")
    async with pipeline(
        ProcessingPipelines.SUITE2P,
        *(server, project, animal, session),
        settings={"planes": planes, "settings": settings or {}},
        reprocess=reprocess,
        keep_job_logs=keep_job_logs,
        requested_by=requested_by,
    ) as run:
        if run.skipped is not None:
            return run.skipped
        words = ("--settings", json.dumps(settings or {}, sort_keys=True))

        def job(name: str, resources: Resources, stage: str, *more: str) -> Job:
            return Job(name, run.program("suite2p", "--stage", stage, *words, *more), resources, environment="suite2p")

        count = planes or run.facts["planes"]
        return await run(
            Stage("binarize", (job("binarize", BINARIZE, "binarize"),)),
            Stage("planes", tuple(job(f"plane-{n}", PLANE, "plane", "--plane", str(n)) for n in range(count))),
            Stage("combine", (job("combine", COMBINE, "combine"),)),
        )
