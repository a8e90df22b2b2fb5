"""Manifest generation: one table of all sessions of a project and how far each is."""

from __future__ import annotations

from flows.pipeline import pipeline_flow, project_pipeline
from tasks.compute_server import ComputeServer
from tasks.reports import PipelineReport
from trackers.graph import Job, Resources, Stage
from trackers.names import ProcessingPipelines


@pipeline_flow(name="manifest", run_name="manifest {project}")
async def manifest(
    project: str,
    server: ComputeServer | None = None,
    timezone: str = "America/New_York",
    keep_job_logs: bool = False,
    requested_by: str = "",
) -> PipelineReport:
    """Write a project's manifest anew, from its sessions' descriptions and trackers.

    Args:
        project: The project's name.
        server: Where the data lies and the jobs run; none: this computer.
        timezone: The zone of the manifest's dates, e.g. Europe/Berlin.
        keep_job_logs: Keep the jobs' logs after a success.
        requested_by: Who asks; shown in the records.
    """
    async with project_pipeline(
        ProcessingPipelines.MANIFEST,
        *(server, project),
        settings={"timezone": timezone},
        keep_job_logs=keep_job_logs,
        requested_by=requested_by,
    ) as run:
        resources = Resources(cpus=1, memory_gb=10, minutes=20)
        command = run.program("manifest", "--timezone", timezone)
        report = await run(Stage("manifest", (Job("manifest", command, resources, environment="manifest"),)))
    from flows.project_grid import show_project  # it plans sessions' runs, which end with a manifest

    await show_project(project, server)
    return report
