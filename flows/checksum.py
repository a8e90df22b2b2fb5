"""Checksum resolution: is the recording still what was acquired?"""

from __future__ import annotations

from flows.pipeline import pipeline, pipeline_flow
from tasks.compute_server import ComputeServer
from tasks.reports import PipelineReport
from trackers.graph import Job, Resources, Stage
from trackers.names import ProcessingPipelines


@pipeline_flow(name="checksum", run_name="checksum {project}/{animal}/{session}")
async def checksum(
    project: str,
    animal: str,
    session: str,
    server: ComputeServer | None = None,
    regenerate: bool = False,
    reprocess: bool = False,
    keep_job_logs: bool = False,
    requested_by: str = "",
) -> PipelineReport:
    """Verify a session's raw data against the checksum that was made when it was acquired.

    Args:
        project: The project's name.
        animal: The animal's name or number.
        session: The session's name, its UTC time.
        server: Where the data lies and the jobs run; none: this computer.
        regenerate: Write a new checksum instead, after raw data was changed on purpose.
        reprocess: Run also where it has succeeded before.
        keep_job_logs: Keep the jobs' logs after a success.
        requested_by: Who asks; shown with the lock and in the records.
    """
    async with pipeline(
        ProcessingPipelines.CHECKSUM,
        *(server, project, animal, session),
        settings={"regenerate": regenerate},
        reprocess=reprocess or regenerate,
        keep_job_logs=keep_job_logs,
        requested_by=requested_by,
    ) as run:
        command = run.program("checksum", *(["--regenerate"] if regenerate else []))
        resources = Resources(cpus=2, memory_gb=4, minutes=20, maximum_minutes=160)
        return await run(Stage("checksum", (Job("checksum", command, resources),)))
