"""Multi-day tracking: the cells of one animal that are found on several days, and their activity on each."""

from __future__ import annotations

from flows.form import SessionNames
from flows.pipeline import dataset_pipeline, pipeline_flow
from flows.report import pages_after
from tasks.compute_server import ComputeServer
from tasks.reports import PipelineReport
from trackers.errors import BadInputError
from trackers.graph import Job, Resources, Stage
from trackers.names import ProcessingPipelines


@pipeline_flow(name="multiday", run_name="multiday {project}/{dataset}/{animal}")
async def multiday(
    project: str,
    animal: str,
    sessions: SessionNames,
    dataset: str,
    server: ComputeServer | None = None,
    reprocess: bool = False,
    keep_job_logs: bool = False,
    requested_by: str = "",
) -> PipelineReport:
    """Find the cells that several sessions of an animal share, then extract their activity from each session.

    The new result takes its place when all of it is there; the one before is kept beside it.

    The pages of its sessions follow, with the cells that were matched.

    A cell is one on each day at most, and never a guess: a mask that might be two cells is left out, and says why.

    Args:
        project: The project's name.
        animal: The animal's name or number.
        sessions: The names, UTC times, of two sessions or more; suite2p has been run on each.
        dataset: The dataset's name; its folder is made where there is none.
        server: Where the data lies and the jobs run; none: this computer.
        reprocess: Run also where it has succeeded with these sessions before.
        keep_job_logs: Keep the jobs' logs after a success.
        requested_by: Who asks; shown with the locks and in the records.
    """
    if len(set(sessions)) == 1:
        raise BadInputError(
            f"{project}/{dataset}/{animal}: multi-day tracking looks for cells that are found on several days, and "
            f"only {sessions[0]} is named. Nothing was done. Name two sessions or more."
        )
    async with dataset_pipeline(
        ProcessingPipelines.MULTIDAY,
        *(server, project, dataset, [(animal, session) for session in sessions]),
        animal=animal,
        reprocess=reprocess,
        keep_job_logs=keep_job_logs,
        requested_by=requested_by,
    ) as run:
        resources = Resources(cpus=30, memory_gb=80, minutes=180, maximum_memory_gb=320, maximum_minutes=720)
        names = run.settings["sessions"]
        command = run.program("multiday", "--sessions", *names)
        extract = [
            Job(
                f"extract-{name.split('/')[1]}",
                run.program("multiday_extraction", "--sessions", name),
                resources,
                environment="suite2p",
            )
            for name in names
        ]
        discover = Job("discover", command, resources, environment="suite2p")
        published = run.publication("--sessions", *names)
        made = await run(Stage("discover", (discover,)), Stage("extract", tuple(extract)), published)
    return await pages_after(made, run, dataset)
