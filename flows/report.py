"""The page of a session: what was recorded, what the pipelines made of it, and whether it is any good."""

from __future__ import annotations

from flows.pipeline import Run, pipeline, pipeline_flow
from tasks.compute_server import ComputeServer
from tasks.reports import PipelineReport
from trackers.graph import Job, Resources, Stage
from trackers.names import ProcessingPipelines

PAGE = Resources(cpus=1, memory_gb=8, minutes=30)


@pipeline_flow(name="report", run_name="report {project}/{animal}/{session}")
async def report(
    project: str,
    animal: str,
    session: str,
    server: ComputeServer | None = None,
    dataset: str = "",
    reprocess: bool = False,
    keep_job_logs: bool = False,
    requested_by: str = "",
) -> PipelineReport:
    """Make a session's page and its quality control from what behavior, suite2p and video have left.

    It runs again by itself once one of them has succeeded since. Only forging that requires a pass depends on it.

    Args:
        project: The project's name.
        animal: The animal's name or number.
        session: The session's name, its UTC time.
        server: Where the data lies and the jobs run; none: this computer.
        dataset: The dataset whose multi-day result is shown; empty: none.
        reprocess: Run also where it has succeeded since.
        keep_job_logs: Keep the jobs' logs after a success.
        requested_by: Who asks; shown with the lock and in the records.
    """
    async with pipeline(
        ProcessingPipelines.REPORT,
        *(server, project, animal, session),
        settings={"dataset": dataset},
        reprocess=reprocess or bool(dataset),
        keep_job_logs=keep_job_logs,
        requested_by=requested_by,
    ) as run:
        if run.skipped is not None:
            return run.skipped
        return await run(page(run, dataset))


def page(run: Run, dataset: str = "") -> Stage:
    """Return the stage that makes a session's page, with the cells across days of a dataset where one is named."""
    across = ("--datasets", run.facts["own_datasets"], "--dataset", dataset) if dataset else ()
    return Stage("page", (Job("page", run.program("report", *across), PAGE, environment="report"),))
