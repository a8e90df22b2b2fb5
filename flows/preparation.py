"""Processing preparation: the recording onto the fast volume, where the jobs read it."""

from __future__ import annotations

from flows.pipeline import pipeline, pipeline_flow
from tasks.compute_server import ComputeServer
from tasks.reports import PipelineReport
from trackers.graph import Job, Resources, Stage
from trackers.names import ProcessingPipelines


@pipeline_flow(name="preparation", run_name="preparation {project}/{animal}/{session}")
async def preparation(
    project: str,
    animal: str,
    session: str,
    server: ComputeServer | None = None,
    reprocess: bool = False,
    keep_job_logs: bool = False,
    requested_by: str = "",
) -> PipelineReport:
    """Copy a session's raw data to the working volume, verified; bring back what was archived.

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
        ProcessingPipelines.PREPARATION,
        *(server, project, animal, session),
        reprocess=reprocess,
        keep_job_logs=keep_job_logs,
        requested_by=requested_by,
    ) as run:
        resources = Resources(cpus=2, memory_gb=2, minutes=60, maximum_minutes=480)
        return await run(Stage("copy", (Job("copy", run.program("preparation"), resources),)))
