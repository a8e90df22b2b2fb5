"""The page of a session: what was recorded, what the pipelines made of it, and whether it is any good."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from flows.eligibility import done, obstacle, usable
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
        dataset: The dataset whose multi-day result is shown; empty: the newest that has the session, if there is one.
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
    """Return the stage that makes a session's page; the cells across days are the dataset's, or the newest one's."""
    across = ("--datasets", run.facts["own_datasets"], *(("--dataset", dataset) if dataset else ()))
    whole = () if usable(ProcessingPipelines.SUITE2P, run.facts) else ("--unfinished",)
    return Stage("page", (Job("page", run.program("report", *across, *whole), PAGE, environment="report"),))


async def pages_after(made: PipelineReport, run: Run, dataset: str = "") -> PipelineReport:
    """Make the pages of a dataset's sessions after a pipeline's success on it; return its report, with notes on them.

    What keeps a page from being made is a note as well: the pipeline itself has succeeded.

    Args:
        made: the pipeline's report.
        run: the pipeline's run, which has given back its locks.
        dataset: whose multi-day result all pages are to show; empty: only pages older than results are made.
    """
    if not (made.ran and made.succeeded):
        return made
    sessions = run.facts["sessions"]
    named = [name for name, facts in sessions.items() if dataset or not done(ProcessingPipelines.REPORT, facts)]
    words = await asyncio.gather(*(_page(name, run, dataset) for name in named))
    because: dict[str, list[str]] = {}
    for name, reason in zip(named, words, strict=True):
        because.setdefault(reason, []).append(name)
    notes = [f"the page of {', '.join(names)}: {reason}" for reason, names in because.items()]
    return replace(made, notes=(*made.notes, *notes))


async def _page(session: str, run: Run, dataset: str) -> str:
    """Make a session's page; return where it is, or why there is none."""
    if reason := obstacle(ProcessingPipelines.REPORT, run.facts["sessions"][session]):
        return f"not made, because {reason}"
    try:
        page: PipelineReport = await report(
            *session.split("/"),
            server=run.server,
            dataset=dataset,
            keep_job_logs=run.keep_job_logs,
            requested_by=run.requested_by,
        )
    except Exception as error:  # whatever it is, it is no failure of the pipeline
        return f"not made, because {error}"
    if not page.succeeded:
        return f"not made, because {page.reason}"
    return next((note.removeprefix("page: ") for note in page.notes if note.startswith("page: ")), page.reason)
