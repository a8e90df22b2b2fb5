"""Data archiving: results onto the storage volume, and the working copies away."""

from __future__ import annotations

from flows.pipeline import pipeline, pipeline_flow
from tasks.compute_server import ComputeServer
from tasks.reports import PipelineReport
from trackers.graph import Job, Resources, Stage
from trackers.names import ProcessingPipelines


@pipeline_flow(name="archiving", run_name="archiving {project}/{animal}/{session}")
async def archiving(
    project: str,
    animal: str,
    session: str,
    server: ComputeServer | None = None,
    reprocess: bool = False,
    keep_job_logs: bool = False,
    requested_by: str = "",
) -> PipelineReport:
    """Move a session's processed data to the storage volume, verified, and remove the working copies after it.

    Args:
        project: The project's name.
        animal: The animal's name or number.
        session: The session's name, its UTC time.
        server: Where the data lies and the jobs run; none: this computer.
        reprocess: Run also where it has succeeded before.
        keep_job_logs: Keep the jobs' logs after a success.
        requested_by: Who asks; shown with the lock and in the records.
    """
    async with pipeline(
        ProcessingPipelines.ARCHIVING,
        *(server, project, animal, session),
        reprocess=reprocess,
        keep_job_logs=keep_job_logs,
        requested_by=requested_by,
    ) as run:
        resources = Resources(cpus=2, memory_gb=10, minutes=60, maximum_minutes=480)
        return await run(Stage("move", (Job("move", run.program("archiving"), resources),)))
