"""A whole project: every session that has something left to do, each as a run of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Annotated

from prefect.logging import get_run_logger
from pydantic import Field

from flows.form import Day, SessionNames
from flows.pipeline_flow import manifest_later, pipeline_flow
from flows.process_session import PipelineNames, process_session
from flows.project_grid import show_project
from flows.project_look import Look
from flows.project_page import ProjectPage
from flows.project_plan import Choice
from flows.volumes import SIZES, Volumes, limited_volumes
from tasks.artifacts import connected_in_run
from tasks.compute_server import ComputeServer, this_computer
from tasks.outcome import result_of
from tasks.reports import ProjectReport, SessionOutcome, SessionReport
from trackers.errors import BadInputError, SessionLockedError, TrackerOwnedError

ENDED: ContextVar[Callable[[SessionOutcome], None] | None] = ContextVar("ended", default=None)
"""Told of every session that has had its turn; the command line's progress."""

AT_ONCE = sum(SIZES.values())


@pipeline_flow(name="process-project", run_name="project {project}")
async def process_project(
    project: str,
    server: ComputeServer | None = None,
    animals: list[str] | None = None,
    sessions: SessionNames | None = None,
    pipelines: PipelineNames | None = None,
    reprocess: bool = False,
    rerun_stale: bool = False,
    discard_curation: bool = False,
    rerun_failed: bool = False,
    failed_pipelines: PipelineNames | None = None,
    failed_cause: str = "",
    failed_since: Day | None = None,
    archive: bool = False,
    regenerate_manifest: bool = False,
    dry_run: bool = False,
    maximum_sessions: Annotated[int, Field(ge=1)] = AT_ONCE,
    keep_job_logs: bool = False,
    requested_by: str = "",
) -> ProjectReport:
    """Process every session of a project that has something left to do, many at once, the newest first.

    Each has a run of its own, below this one. One that fails does not stop the others. What failed before waits until
    its inputs, its settings or the version of sessionflow change, or until it is asked for.

    Args:
        project: The project's name.
        server: Where the data lies and the jobs run; none: this computer.
        animals: Names or numbers of the animals; none: all.
        sessions: Names of the sessions, their UTC times; none: all.
        pipelines: These only, and preparation where one of them needs it; none: all but archiving.
        reprocess: Run also what has succeeded before.
        rerun_stale: Run also what has succeeded with other settings, raw data or libraries than there are now.
        discard_curation: Run again also where people have edited the result since.
        rerun_failed: Run also what has failed before and would wait.
        failed_pipelines: Of these failures, only those of these pipelines.
        failed_cause: Of these failures, only those whose reason has this text, e.g. memory.
        failed_since: Of these failures, only those of this day (UTC) or later.
        archive: Archive each session's results at its end.
        regenerate_manifest: Write the project's manifest anew also if nothing was run.
        dry_run: Only say what would be done.
        maximum_sessions: So many sessions at once at most; the limits of the volumes hold as well.
        keep_job_logs: Keep the jobs' logs after a success.
        requested_by: Who asks; shown with the locks and in the records.
    """
    if maximum_sessions < 1:
        raise BadInputError(f"{maximum_sessions} sessions at once are none. Nothing was done.")
    choice = Choice.of(
        *(animals, sessions, pipelines, rerun_failed, failed_pipelines, failed_cause, failed_since),
        reprocess=reprocess,
        rerun_stale=rerun_stale,
        archive=archive,
    )
    server = server or this_computer()
    async with connected_in_run(server) as client:  # one connection for all
        look = Look(client, project, choice)
        report = ProjectReport(project, tuple(await look.all()), dry_run=dry_run)
        page = await ProjectPage.begun(report)
        if dry_run:
            return report
        if regenerate_manifest:
            manifest_later(project, server)
        outcomes = {(outcome.animal, outcome.session): outcome for outcome in report.sessions}
        options = {
            "reprocess": reprocess,
            "rerun_stale": rerun_stale,
            "discard_curation": discard_curation,
            "keep_job_logs": keep_job_logs,
        }
        run = _ProjectRun(look, server, page, outcomes, options, requested_by)
        await run.done(maximum_sessions)
        if not report.standing("to run") and not regenerate_manifest:  # else the manifest's run shows it
            await show_project(project, server)
        return run.report


@dataclass
class _ProjectRun:
    """The sessions of one run, and what has become of them so far."""

    look: Look
    server: ComputeServer
    page: ProjectPage
    outcomes: dict[tuple[str, str], SessionOutcome]
    options: dict[str, bool]
    requested_by: str

    @property
    def report(self) -> ProjectReport:
        """What has become of them."""
        return ProjectReport(self.look.project, tuple(self.outcomes.values()))

    async def done(self, at_once: int) -> None:
        """Give every session that has something to do its turn, in the order of the plan."""
        waiting = [outcome for outcome in self.outcomes.values() if outcome.standing == "to run"]
        if not waiting:
            return
        turns = asyncio.Semaphore(at_once)
        try:
            volumes = await limited_volumes()
            for note in volumes.notes:
                get_run_logger().warning("%s", note)
            async with asyncio.TaskGroup() as group:
                for place, outcome in enumerate(waiting):
                    turn = self._turn(outcome, place, turns, volumes)
                    group.create_task(turn, name=f"{outcome.animal}/{outcome.session}")
        finally:
            await self.page.ended(self.report)

    async def _turn(self, planned: SessionOutcome, place: int, turns: asyncio.Semaphore, volumes: Volumes) -> None:
        async with turns:  # given in the order of asking
            with volumes.turn(place):
                outcome = await self.look.again(planned)
                if outcome.standing == "to run":
                    outcome = await self._processed(outcome)
            self._put(outcome)
        await self.page.changed(self.report)

    async def _processed(self, planned: SessionOutcome) -> SessionOutcome:
        """Process a session in a run of its own; whatever goes wrong is its own failure."""
        run_id = ""
        try:
            state = await process_session(
                *(self.look.project, planned.animal, planned.session),
                server=self.server,
                pipelines=list(planned.pipelines),
                archive=False,  # where it is wanted, it stands in the plan
                **self.options,
                requested_by=self.requested_by,
                return_state=True,
            )
            run_id = str(state.state_details.flow_run_id or "")
            if state.is_cancelled() and not _is_ending():
                return replace(planned, standing="ended", words="its run was cancelled.", flow_run_id=run_id)
            return replace(_ended(planned, await result_of(state)), flow_run_id=run_id)
        except (SessionLockedError, TrackerOwnedError) as refusal:  # somebody came between our look and our turn
            return replace(planned, standing="in progress", words=str(refusal), flow_run_id=run_id)
        except asyncio.CancelledError:
            if _is_ending():
                self._put(replace(planned, standing="ended", words="ended on request", flow_run_id=run_id))
                raise
            return replace(planned, standing="failed", words="its run was cancelled.", flow_run_id=run_id)
        except Exception as error:
            words = f"{planned.animal}/{planned.session}: {error}"
            return replace(planned, standing="failed", words=words, flow_run_id=run_id)

    def _put(self, outcome: SessionOutcome) -> None:
        """Note how a session stands now."""
        self.outcomes[outcome.animal, outcome.session] = outcome
        if (told := ENDED.get()) is not None:
            with contextlib.suppress(OSError):  # a terminal that is gone
                told(outcome)


def _ended(planned: SessionOutcome, report: SessionReport) -> SessionOutcome:
    """Return the outcome that a session's report means; what waits for a person is still said."""
    ran = tuple(pipeline.pipeline.name.lower() for pipeline in report.pipelines if pipeline.ran)
    failed = [pipeline.sentence for pipeline in report.pipelines if not pipeline.succeeded]
    words = " ".join(part for part in ("; ".join(failed), planned.words) if part)
    return replace(planned, standing="failed" if failed else "succeeded", words=words, pipelines=ran)


def _is_ending() -> bool:
    """Whether the project's own run has been cancelled, and not one of its sessions alone."""
    own = asyncio.current_task()
    return own is not None and own.cancelling() > 0
