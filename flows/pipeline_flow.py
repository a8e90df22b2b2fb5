"""A flow whose run is one of ours: its report is its result, it obeys signals, and manifests follow at its end."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from prefect import Flow
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH
from prefect.states import Completed, Failed

from flows.form import form_signature
from flows.gate import END, START, Turn, turn_of_this_run
from flows.heartbeats import heartbeats, without_threads
from flows.labels import IN_PROGRESS, leave_word, tagged, tagged_run
from flows.server_flow import NoServer, ServerFlow
from flows.signals import keep_signals
from tasks.artifacts import board_of
from tasks.client import reaching
from tasks.compute_server import ComputeServer
from tasks.interruption import Interruption, interruptible
from tasks.lease import holder
from tasks.outcome import in_sentences, result_of
from tasks.prefect_api import prefect_clients, reach_prefect, while_prefect_answers
from tasks.reports import PipelineReport, ProjectReport, SessionReport, SweepReport
from trackers.errors import BadInputError, SessionLockedError, TrackerOwnedError
from trackers.lock import Holder

RESULT_STORAGE = PREFECT_LOCAL_STORAGE_PATH.value()
"""Where flows would keep results, and Prefect keeps what it refused parameters with.

For a flow that names no place, Prefect asks its server for one, twice, while all else in the process stands still; each
time by a new client, 17 ms of reading certificates, unless there is one.
"""
P = ParamSpec("P")
Report = PipelineReport | SessionReport | ProjectReport | SweepReport
R = TypeVar("R", PipelineReport, SessionReport, ProjectReport, SweepReport)


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


class ReportingFlow(ServerFlow[P, Coroutine[Any, Any, R]]):
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
        await turn.take(START)
        try:
            given: dict[str, Any] = {}
            with contextlib.suppress(TypeError):  # Prefect refuses wrong arguments in words
                given = inspect.signature(self.fn).bind_partial(*args, **kwargs).arguments
            server = given.get("server")
            async with reaching(server if isinstance(server, ComputeServer) else None):
                await reach_prefect()
                async with prefect_clients():
                    inside = contextlib.nullcontext() if _outermost.get() is None else without_threads()
                    with tagged(given), inside:
                        run: Any = Flow.__call__(self, *args, return_state=True, **kwargs)
                        return await run
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
            run = this_flow_run()
            run_id = run.flow_run_id
            async with heartbeats(run_id, run.name), _between_start_and_end(), interruptible(run_id), board_of(run_id):
                with tagged_run():
                    return await in_sentences(_with_manifests)(lambda: _labelled(function, *args, **kwargs))

        named_types: Any = reporting  # Prefect would look their names up in this module
        named_types.__signature__ = form_signature(function)
        return ReportingFlow(
            reporting, name=name, flow_run_name=run_name, persist_result=False, result_storage=RESULT_STORAGE
        )

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
        await turn.take(END)


async def _labelled(function: Callable[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs) -> R:
    for value in (*args, *kwargs.values()):
        if isinstance(value, NoServer):
            raise BadInputError(value.words)
    report = await function(*args, **kwargs)
    leave_word(report)
    return report


async def _with_manifests(work: Callable[[], Coroutine[Any, Any, R]]) -> Any:
    if _outermost.get() is not None:
        try:
            return _state(await work())
        except (SessionLockedError, TrackerOwnedError) as refusal:  # its caller goes on with what is left
            return Completed(name=IN_PROGRESS, message=str(refusal), data=refusal)
    outermost = _Outermost(this_flow_run().flow_run_id)
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


def first_look(name: str) -> bool:
    """Tell whether a session has not been looked at yet in a run that was started from outside; it counts as one."""
    outermost = _outermost.get()
    if outermost is None or name in outermost.described:
        return False
    outermost.described.add(name)
    return True


def this_holder(requested_by: str, what: str) -> Holder:
    """Describe this flow run as the holder of a lock, in the name of the outermost one."""
    run, outermost = this_flow_run(), _outermost.get()
    return holder(
        run.flow_run_id, run.name, outermost.flow_run_id if outermost else run.flow_run_id, requested_by, what
    )


def _state(report: Report) -> Any:
    return (Completed if report.succeeded else Failed)(message=report.sentence, data=report)


@dataclass(frozen=True)
class FlowRun:
    """The flow run that is under way."""

    flow_run_id: str
    name: str


def this_flow_run() -> FlowRun:
    """Return the flow run that is under way; it is called in flows only."""
    context = FlowRunContext.get()
    assert context is not None  # noqa: S101
    assert context.flow_run is not None  # noqa: S101
    return FlowRun(str(context.flow_run.id), context.flow_run.name)
