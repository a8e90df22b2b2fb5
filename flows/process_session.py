"""One session, all the way: every eligible pipeline under one lease."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Annotated, Any

from pydantic import Field

from flows.archiving import archiving
from flows.awaiting import described
from flows.behavior import behavior
from flows.checksum import checksum
from flows.eligibility import (
    NEEDS_PREPARATION,
    Facts,
    done,
    excluded,
    obstacle,
    refusal,
    settings_of,
    settings_problem,
    stale,
)
from flows.pipeline import connected_session, pipeline_flow, session_lease
from flows.preparation import preparation
from flows.report import report
from flows.suite2p import suite2p
from flows.video import video
from flows.volumes import limit_on, on_volume
from tasks.artifacts import board
from tasks.compute_server import ComputeServer
from tasks.pages import session_page, session_progress
from tasks.reports import PipelineReport, SessionReport
from trackers.errors import BadInputError, NotEligibleError
from trackers.manager import NOBODY
from trackers.names import ProcessingPipelines, ProcessingStatus

PipelineFlow = Callable[..., Awaitable[PipelineReport]]

FLOWS: dict[ProcessingPipelines, PipelineFlow] = {
    ProcessingPipelines.CHECKSUM: checksum,
    ProcessingPipelines.PREPARATION: preparation,
    ProcessingPipelines.BEHAVIOR: behavior,
    ProcessingPipelines.SUITE2P: suite2p,
    ProcessingPipelines.VIDEO: video,
    ProcessingPipelines.REPORT: report,
    ProcessingPipelines.ARCHIVING: archiving,
}

PipelineNames = list[Annotated[str, Field(json_schema_extra={"enum": [p.name.lower() for p in FLOWS]})]]
"""Names of a session's pipelines, which a form offers to choose from."""

SETTINGS: dict[ProcessingPipelines, dict[str, Any]] = {
    ProcessingPipelines.CHECKSUM: {"regenerate": False},
    ProcessingPipelines.SUITE2P: {"planes": None},
    ProcessingPipelines.REPORT: {"dataset": ""},
}
"""The options with which a session's run starts its pipelines; settings from files come on top."""

CURATED = (ProcessingPipelines.BEHAVIOR, ProcessingPipelines.SUITE2P, ProcessingPipelines.VIDEO)
"""Whose results people may edit."""


@pipeline_flow(name="process-session", run_name="{project}/{animal}/{session}")
async def process_session(
    project: str,
    animal: str,
    session: str,
    server: ComputeServer | None = None,
    pipelines: PipelineNames | None = None,
    archive: bool = False,
    reprocess: bool = False,
    rerun_stale: bool = False,
    discard_curation: bool = False,
    keep_job_logs: bool = False,
    requested_by: str = "",
) -> SessionReport:
    """Run every pipeline that a session is eligible for and that has not been done, under one lock.

    Integrity comes before anything else, preparation before processing. A session that is incomplete is left alone; an
    archived one is not prepared again unless asked to.

    Args:
        project: The project's name.
        animal: The animal's name or number.
        session: The session's name, its UTC time.
        server: Where the data lies and the jobs run; none: this computer.
        pipelines: These only, and preparation where one of them needs it; none: all.
        archive: Archive the results at the end.
        reprocess: Run also what has succeeded before.
        rerun_stale: Run also what has succeeded with other settings, raw data or libraries than there are now.
        discard_curation: Run again also where people have edited the result since.
        keep_job_logs: Keep the jobs' logs after a success.
        requested_by: Who asks; shown with the lock and in the records.
    """
    chosen = chosen_pipelines(pipelines, archive=archive)
    reports: list[PipelineReport] = []
    awaited = ""
    async with connected_session(server, project, animal, session) as connection:
        facts = await described(connection)
        if reason := refusal(facts):
            raise NotEligibleError(f"{facts['target']} cannot be processed: {reason}")

        def again(which: ProcessingPipelines, facts: Facts) -> bool:
            return reprocess or (rerun_stale and bool(stale(which, facts)))

        skips = [skip(p, facts, chosen, reports, again(p, facts)) for p in chosen]
        if facts["lock"]["manager_id"] == NOBODY and all(skips):
            return SessionReport(facts["target"], tuple(report for report in skips if report), _idle(facts))
        for which in chosen:
            if (problem := settings_problem(which, facts)) and (again(which, facts) or not done(which, facts)):
                raise BadInputError(problem)
        wish = {p.name: settings_of(p, facts, SETTINGS.get(p, {})) for p in chosen}
        if (present := board()) is not None:
            present.show(lambda: session_progress(facts["target"], reports, chosen, awaited))
        async with session_lease(connection, wish, requested_by, "process-session"):
            for which in chosen:
                facts = await connection.describe()
                report = skip(which, facts, chosen, reports, again(which, facts))
                if report is None:
                    awaited = limit_on(which)
                    async with on_volume(which):
                        awaited = ""
                        report = await FLOWS[which](
                            *(project, animal, session),
                            server=connection.server,
                            reprocess=again(which, facts),
                            keep_job_logs=keep_job_logs,
                            requested_by=requested_by,
                            **({"discard_curation": True} if discard_curation and which in CURATED else {}),
                        )
                reports.append(report)
    summary = SessionReport(facts["target"], tuple(reports))
    if (present := board()) is not None:
        present.finish(lambda: session_progress(summary.target, reports, chosen), lambda: session_page(summary))
    return summary


def chosen_pipelines(names: Collection[str] | None, *, archive: bool) -> list[ProcessingPipelines]:
    """Return the pipelines that a run considers, in order; archiving only where it is asked for.

    Raises:
        BadInputError: a name is no pipeline of a session; nothing was done.
    """
    if not names:
        return [p for p in FLOWS if archive or p is not ProcessingPipelines.ARCHIVING]
    known = {p.name.lower(): p for p in FLOWS}
    if unknown := sorted(set(names) - set(known)):
        raise BadInputError(
            f"{', '.join(unknown)}: no pipeline of a session; known are {', '.join(known)}. Nothing was done."
        )
    wanted = {known[name] for name in names} | ({ProcessingPipelines.ARCHIVING} if archive else set())
    if wanted.intersection(NEEDS_PREPARATION):
        wanted.add(ProcessingPipelines.PREPARATION)
    return [p for p in FLOWS if p in wanted]


def skip(
    which: ProcessingPipelines,
    facts: Facts,
    chosen: list[ProcessingPipelines],
    reports: list[PipelineReport],
    reprocess: bool,
) -> PipelineReport | None:
    """Decide that a pipeline is not to run now, and why; None where it is.

    Args:
        which: the pipeline whose turn it is.
        facts: of the session, as it is now.
        chosen: all pipelines of this run, in order.
        reports: of those that had their turn.
        reprocess: whether what is done is done again.
    """
    if not reprocess and facts["complete"] and not excluded(facts) and (reason := done(which, facts)):
        return PipelineReport(which, facts["target"], ProcessingStatus.SUCCEEDED, ran=False, reason=reason)
    reason = obstacle(which, facts) or _untimely(which, facts, chosen, reports, reprocess)
    return PipelineReport(which, facts["target"], None, ran=False, reason=reason) if reason else None


def _untimely(
    which: ProcessingPipelines,
    facts: Facts,
    chosen: list[ProcessingPipelines],
    reports: list[PipelineReport],
    reprocess: bool,
) -> str:
    """Say why an eligible pipeline is not to run in this run all the same."""
    if which is ProcessingPipelines.ARCHIVING and not all(report.succeeded for report in reports):
        return "an earlier pipeline failed"
    if which is not ProcessingPipelines.PREPARATION or reprocess:
        return ""
    if facts["archived"]:
        return "the session is archived: reprocess brings it back"
    ready = {**facts, "prepared": True, "pipelines": {**facts["pipelines"], which.name: {"status": "succeeded"}}}
    # a page alone is not worth a copy of the recording: it shows results that are there
    later = [p for p in chosen if p in NEEDS_PREPARATION and p is not ProcessingPipelines.REPORT]
    waiting = [p for p in later if not done(p, facts) and not obstacle(p, ready)]
    return "" if waiting else "no later pipeline needs it"


def _idle(facts: Facts) -> str:
    return "nothing to do" if facts["complete"] else str(facts["completeness"])
