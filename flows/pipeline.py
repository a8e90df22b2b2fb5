"""What every pipeline flow shares: eligibility, the lease, the submission, the report, and the manifest at the end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from typing import Any, ParamSpec, TypeVar

from prefect import Flow
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL
from prefect.states import Completed, Failed

from flows.eligibility import Facts, done, obstacle, refusal, status
from flows.gate import Turn, turn_of_this_run
from flows.labels import leave_word, tagged, tagged_run
from flows.signals import keep_signals
from tasks.artifacts import board, board_of, connected_in_run
from tasks.client import Client, reaching
from tasks.compute_server import ComputeServer, this_computer
from tasks.interruption import Interruption, interruptible
from tasks.jobs import Submitted, end_jobs, finish, follow, submit
from tasks.lease import Lease, give_back, holder, leased
from tasks.outcome import carried_out, in_sentences, result_of, to_the_end
from tasks.pages import jobs_page, jobs_progress, never_started
from tasks.prefect_api import reach_prefect, while_prefect_answers
from tasks.reports import JobReport, PipelineReport, ProjectReport, SessionReport, SweepReport
from tasks.words import why
from trackers.errors import NotEligibleError, SessionDataError
from trackers.graph import MANAGER_ID, PYTHON, Graph, Stage
from trackers.lock import Holder
from trackers.manager import manager_id_of_flow_run
from trackers.names import ProcessingPipelines, ProcessingStatus
from trackers.processes import ProcessIdentity

P = ParamSpec("P")
Report = PipelineReport | SessionReport | ProjectReport | SweepReport
R = TypeVar("R", PipelineReport, SessionReport, ProjectReport, SweepReport)

_STATUS = {
    "succeeded": ProcessingStatus.SUCCEEDED,
    "failed": ProcessingStatus.FAILED,
    "aborted": ProcessingStatus.ABORTED,
    "open": ProcessingStatus.RUNNING,
}


@dataclass
class _Outermost:
    """The flow run that was started from outside; flows that it calls are part of it.

    Attributes:
        projects: those whose manifest is out of date, with their server.
        described: the sessions that have been looked at thoroughly.
    """

    flow_run_id: str
    projects: dict[str, ComputeServer] = field(default_factory=dict)
    described: set[str] = field(default_factory=set)


keep_signals()
_outermost: ContextVar[_Outermost | None] = ContextVar("outermost", default=None)


class ReportingFlow(Flow[P, Coroutine[Any, Any, R]]):
    """A flow whose callers get its report, also where Prefect shows the run as Failed; bad input is raised."""

    def __call__(  # type: ignore[override]  # the overloads of prefect say less than this one does
        self, *args: Any, return_state: bool = False, **kwargs: Any
    ) -> Any:
        """Run the flow; see `prefect.Flow`."""

        async def outcome() -> Any:
            if _outermost.get() is not None:
                state = await self._run(*args, **kwargs)
            else:
                state = await while_prefect_answers(self._run(*args, **kwargs))
                Interruption.pass_on()
            return state if return_state else await result_of(state)

        return outcome()

    async def _run(self, *args: Any, **kwargs: Any) -> Any:
        turn = Turn()
        token = turn_of_this_run.set(turn)
        await turn.take()
        try:
            await reach_prefect()
            given: dict[str, Any] = {}
            with contextlib.suppress(TypeError):  # Prefect refuses wrong arguments in words
                given = inspect.signature(self.fn).bind_partial(*args, **kwargs).arguments
            server = given.get("server")
            async with reaching(server if isinstance(server, ComputeServer) else None):
                with tagged(given):
                    return await Flow.__call__(self, *args, return_state=True, **kwargs)
        finally:
            turn.give()
            turn_of_this_run.reset(token)


def pipeline_flow(name: str, run_name: str) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], ReportingFlow[P, R]]:
    """Make a flow of a function that returns a report; `run_name` is a template over its parameters.

    The outermost one regenerates, at its end, the manifest of every project on which a pipeline ran.
    """

    def decorate(function: Callable[P, Coroutine[Any, Any, R]]) -> ReportingFlow[P, R]:
        @functools.wraps(function)
        async def reporting(*args: P.args, **kwargs: P.kwargs) -> Any:
            run_id = _flow_run().flow_run_id
            async with _between_start_and_end(), interruptible(run_id), board_of(run_id):
                with tagged_run():
                    return await in_sentences(_with_manifests)(lambda: _labelled(function(*args, **kwargs)))

        named_types: Any = reporting  # Prefect would look their names up in this module
        named_types.__signature__ = inspect.signature(function, eval_str=True)
        return ReportingFlow(reporting, name=name, flow_run_name=run_name, persist_result=False)

    return decorate


@contextlib.asynccontextmanager
async def _between_start_and_end() -> AsyncIterator[None]:
    """Let other flow runs through the gate while this one works; a run that a worker started has no turn."""
    turn = turn_of_this_run.get()
    if turn is None:
        yield
        return
    turn.give()
    try:
        yield
    finally:
        await turn.take()


async def _labelled(work: Coroutine[Any, Any, R]) -> R:
    report = await work
    leave_word(report)
    return report


async def _with_manifests(work: Callable[[], Coroutine[Any, Any, R]]) -> Any:
    if _outermost.get() is not None:
        return _state(await work())
    outermost = _Outermost(_flow_run().flow_run_id)
    token = _outermost.set(outermost)
    try:
        report = await work()
        return _state(report.with_manifests(await _regenerate(outermost)))
    except Exception:
        await _regenerate(outermost)
        raise
    finally:
        _outermost.reset(token)


async def _regenerate(outermost: _Outermost) -> tuple[PipelineReport, ...]:
    from flows.manifest import manifest  # it is a pipeline flow itself

    projects, outermost.projects = outermost.projects, {}
    return tuple([await manifest(project=project, server=server) for project, server in projects.items()])


def manifest_later(project: str, server: ComputeServer) -> None:
    """Have the outermost flow regenerate a project's manifest at its end."""
    if (outermost := _outermost.get()) is not None:
        outermost.projects[project] = server


def this_holder(requested_by: str, what: str) -> Holder:
    """Describe this flow run as the holder of a lock, in the name of the outermost one."""
    run, outermost = _flow_run(), _outermost.get()
    return holder(
        run.flow_run_id, run.name, outermost.flow_run_id if outermost else run.flow_run_id, requested_by, what
    )


def _state(report: Report) -> Any:
    return (Completed if report.succeeded else Failed)(message=report.sentence, data=report)


@dataclass(frozen=True)
class _FlowRun:
    flow_run_id: str
    name: str


def _flow_run() -> _FlowRun:
    context = FlowRunContext.get()
    assert context is not None  # noqa: S101 - it is called in flows only
    assert context.flow_run is not None  # noqa: S101
    return _FlowRun(str(context.flow_run.id), context.flow_run.name)


@dataclass
class Run:
    """One pipeline on one target, as a flow's body sees it; called with the stages, it runs them.

    Attributes:
        facts: what the server side described, read after the lock was taken; empty for a project.
        skipped: why nothing is to be done, as the report to return; None where something is.
    """

    pipeline: ProcessingPipelines
    server: ComputeServer
    target: dict[str, str]
    settings: dict[str, Any]
    reprocess: bool
    keep_job_logs: bool
    requested_by: str
    facts: Facts = field(default_factory=dict)
    skipped: PipelineReport | None = None
    lease: Lease | None = None

    def program(self, name: str, *arguments: str) -> tuple[str, ...]:
        """Return the command of one of our job programs on this target."""
        named = [word for key, value in self.target.items() for word in (f"--{key}", value)]
        roots = ("--storage", self.server.storage, "--working", self.server.working)
        return (PYTHON, "-P", "-m", f"jobs.{name}", *roots, *named, "--manager-id", MANAGER_ID, *arguments)

    async def __call__(self, *stages: Stage) -> PipelineReport:
        """Hand all stages over at once, follow every job to its end, and report.

        Raises:
            SubmissionError: jobs of other settings still run; nothing was submitted.
        """
        if self.skipped is not None or self.lease is None:
            assert self.skipped is not None  # noqa: S101 - without a lease there is a reason
            return self.skipped
        started = time.monotonic()
        try:
            view = await self._followed(self.server.with_resources(self.pipeline.name.lower(), Graph(stages)))
        except asyncio.CancelledError:
            interruption = Interruption.current()
            if interruption is None or not interruption.reason:
                self.lease.abandon = "something other than a person cancelled the flow run; its jobs run on"
            else:
                await end_jobs(self.lease)
                await give_back(self.lease)  # now: the runs around this one report to Prefect first, which may hang
            raise
        except Exception:
            if await end_jobs(self.lease):
                self._changed_the_project()
            raise
        report = self._report(view, time.monotonic() - started)
        kept = self.keep_job_logs
        if (present := board()) is not None:
            present.finish(lambda: jobs_progress(view), lambda: jobs_page(view, report, keep_logs=kept))
        return report

    async def _followed(self, graph: Graph) -> dict[str, Any]:
        assert self.lease is not None  # noqa: S101 - see __call__
        request = {
            "pipeline": self.pipeline.name,
            "settings": self.settings,
            "reprocess": self.reprocess,
            "requested_by": self.requested_by,
            "flow_run_id": _flow_run().flow_run_id,
            "prefect_api": PREFECT_API_URL.value() or "",
            "process": asdict(ProcessIdentity.of_this_process()),
        }
        view = await to_the_end(carried_out(submit, self.lease, request, graph))
        self._changed_the_project()
        async with Submitted(self.lease, view) as submitted:
            await asyncio.gather(*(_follow(submitted, job["stage"], job["name"]) for job in view["jobs"]))
            closed: dict[str, Any] = await carried_out(finish, submitted, self.keep_job_logs)
        return closed

    def _changed_the_project(self) -> None:
        """Have the manifest regenerated; a run that was refused changed nothing of what it shows."""
        if self.pipeline is not ProcessingPipelines.MANIFEST:
            manifest_later(self.target["project"], self.server)

    def _report(self, view: dict[str, Any], seconds: float) -> PipelineReport:
        failed = [job for job in view["jobs"] if job["state"] != "COMPLETED"]
        return PipelineReport(
            self.pipeline,
            view["target"],
            _STATUS[view["status"]],
            ran=True,
            reason="; ".join(why(job) for job in [j for j in failed if not never_started(j)] or failed),
            seconds=seconds,
            jobs=tuple(
                JobReport(
                    job["name"],
                    job["stage"],
                    job["state"],
                    job["attempt"],
                    why(job) if job in failed else "",
                    job["errors"],
                )
                for job in view["jobs"]
            ),
            notes=tuple(view.get("notes", ())),
            flow_run_id=_flow_run().flow_run_id,
        )


@dataclass(frozen=True)
class Connection:
    """A session on a server that answers."""

    server: ComputeServer
    client: Client
    target: dict[str, str]

    async def describe(self) -> Facts:
        """Return what is known of the session now.

        The first time in a run that was started from outside, every folder is looked into for a second description.

        Raises:
            BadInputError: it does not exist or is not as it must be; nothing was touched.
        """
        outermost, name = _outermost.get(), "/".join(self.target.values())
        thorough = outermost is not None and name not in outermost.described
        facts: Facts = await self.client.ask("describe", **self.target, thorough=thorough)
        if outermost is not None:
            outermost.described.add(name)
        return facts


@contextlib.asynccontextmanager
async def connected_session(
    server: ComputeServer | None, project: str, animal: str, session: str
) -> AsyncIterator[Connection]:
    """Connect to the server that has a session; none: this computer."""
    server = server or this_computer()
    async with connected_in_run(server) as client:
        yield Connection(server, client, {"project": project, "animal": animal, "session": session})


@contextlib.asynccontextmanager
async def session_lease(
    connection: Connection, wish: dict[str, dict[str, Any]], requested_by: str, what: str
) -> AsyncIterator[Lease]:
    """Hold a session's lock in the name of the outermost flow run.

    Args:
        connection: to the session.
        wish: settings of every pipeline that may run, by member name.
        requested_by: who asks, as they say.
        what: what the lock says we do.

    Raises:
        SessionLockedError: somebody else works on it.
    """
    async with leased(connection.client, connection.target, wish, this_holder(requested_by, what)) as lease:
        yield lease


@contextlib.asynccontextmanager
async def pipeline(
    which: ProcessingPipelines,
    server: ComputeServer | None,
    project: str,
    animal: str,
    session: str,
    *,
    settings: dict[str, Any] | None = None,
    reprocess: bool,
    keep_job_logs: bool,
    requested_by: str,
) -> AsyncIterator[Run]:
    """Make a session ready for one pipeline: it exists, is eligible, and its lock is ours until the block ends.

    Raises:
        BadInputError: the session does not exist or is not as it must be; nothing was touched.
        NotEligibleError: its type or state does not admit the pipeline.
        SessionLockedError: somebody else works on it.
    """
    async with connected_session(server, project, animal, session) as connection:
        run = Run(which, connection.server, connection.target, settings or {}, reprocess, keep_job_logs, requested_by)
        _consider(run, await connection.describe())
        if run.skipped is not None:
            yield run
            return
        async with session_lease(connection, {which.name: run.settings}, requested_by, which) as lease:
            _consider(run, await connection.describe())
            run.lease = lease
            yield run


@contextlib.asynccontextmanager
async def project_pipeline(
    which: ProcessingPipelines,
    server: ComputeServer | None,
    project: str,
    *,
    settings: dict[str, Any],
    keep_job_logs: bool,
    requested_by: str,
) -> AsyncIterator[Run]:
    """Make a project ready for a pipeline of its own; a project has no lock, and nobody is kept out."""
    server = server or this_computer()
    target = {"project": project}
    async with connected_in_run(server) as client:
        run = Run(which, server, target, settings, True, keep_job_logs, requested_by)
        run.lease = Lease(client, target, manager_id_of_flow_run(_flow_run().flow_run_id), "")
        yield run


async def _follow(submitted: Submitted, stage: str, job: str) -> None:
    """Follow a job; its stage is the tag and the prefix under which Prefect groups it.

    Raises:
        Exception: it could not be followed; how the job itself ended stands in the submission.
    """
    named: Any = follow.with_options(task_run_name=f"{stage}: {job}")  # its tag: see JobRun
    state = await named(submitted, job, return_state=True)
    if not state.is_completed() and not submitted.over(job):
        await result_of(state)


def _consider(run: Run, facts: Facts) -> None:
    """Decide whether the pipeline may and need run."""
    run.facts = facts
    if reason := refusal(facts):
        raise NotEligibleError(f"{run.pipeline} cannot run on {facts['target']}: {reason}")
    if status(run.pipeline, facts) == "corrupt":
        raise SessionDataError(facts["pipelines"][run.pipeline.name]["problem"])
    if not run.reprocess and (reason := done(run.pipeline, facts)):
        run.skipped = PipelineReport(
            run.pipeline, facts["target"], ProcessingStatus.SUCCEEDED, ran=False, reason=reason
        )
    elif reason := obstacle(run.pipeline, facts):
        raise NotEligibleError(f"{run.pipeline} cannot run on {facts['target']}: {reason}. Nothing was done.")
