"""Behavior processing: the hardware's logs into tables."""

from __future__ import annotations

from flows.pipeline import pipeline, pipeline_flow
from tasks.compute_server import ComputeServer
from tasks.reports import PipelineReport
from trackers.graph import Job, Resources, Stage
from trackers.names import ProcessingPipelines

SOURCES = {  # the DataLogger's source ids
    "runtime": 1,
    "face-camera": 51,
    "left-camera": 62,
    "right-camera": 73,
    "actor": 101,
    "sensor": 152,
    "encoder": 203,
}


@pipeline_flow(name="behavior", run_name="behavior {project}/{animal}/{session}")
async def behavior(
    project: str,
    animal: str,
    session: str,
    server: ComputeServer | None = None,
    reprocess: bool = False,
    discard_curation: bool = False,
    keep_job_logs: bool = False,
    requested_by: str = "",
) -> PipelineReport:
    """Extract tables from a session's hardware logs, one job a source; a source without a log is skipped.

    Args:
        project: The project's name.
        animal: The animal's name or number.
        session: The session's name, its UTC time.
        server: Where the data lies and the jobs run; none: this computer.
        reprocess: Run also where it has succeeded before.
        discard_curation: Also where people have edited the result since.
        keep_job_logs: Keep the jobs' logs after a success.
        requested_by: Who asks; shown with the lock and in the records.
    """
    async with pipeline(
        ProcessingPipelines.BEHAVIOR,
        *(server, project, animal, session),
        reprocess=reprocess,
        discard_curation=discard_curation,
        keep_job_logs=keep_job_logs,
        requested_by=requested_by,
    ) as run:
        # one thread and a few GB each, where the lab's own extractors took up to 60 cores and 180 GB
        resources = Resources(cpus=1, memory_gb=8, minutes=90, maximum_memory_gb=180, maximum_minutes=360)
        jobs = [
            Job(name, run.program("behavior", "--source", str(source)), resources, environment="behavior")
            for name, source in SOURCES.items()
        ]
        return await run(Stage("extract", tuple(jobs)))
