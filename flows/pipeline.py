"""What every pipeline flow shares before its jobs: the connection, eligibility, and the lease."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from typing import Any

from flows.eligibility import Facts, done, obstacle, refusal, settings_of, settings_problem, status
from flows.pipeline_flow import first_look, pipeline_flow, this_flow_run, this_holder
from flows.run import Run
from tasks.artifacts import connected_in_run
from tasks.client import Client
from tasks.compute_server import ComputeServer, this_computer
from tasks.lease import Lease, leased
from tasks.reports import PipelineReport
from trackers.errors import BadInputError, NotEligibleError, SessionDataError
from trackers.manager import manager_id_of_flow_run
from trackers.names import ProcessingPipelines, ProcessingStatus

__all__ = [
    "Connection",
    "Run",
    "connected_session",
    "dataset_pipeline",
    "pipeline",
    "pipeline_flow",
    "project_pipeline",
    "session_lease",
]


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
        thorough = first_look("/".join(self.target.values()))
        facts: Facts = await self.client.ask("describe", **self.target, thorough=thorough)
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
    overrides: dict[str, Any] | None = None,
    reprocess: bool,
    discard_curation: bool = False,
    keep_job_logs: bool,
    requested_by: str,
) -> AsyncIterator[Run]:
    """Make a session ready for one pipeline: it exists, is eligible, and its lock is ours until the block ends.

    The run's `settings` are its options, `settings`, with those of the server's files under `settings`, which
    `overrides` are stronger than.

    Raises:
        BadInputError: the session does not exist or is not as it must be, or a settings file is wrong; nothing was
            touched.
        NotEligibleError: its type or state does not admit the pipeline.
        SessionLockedError: somebody else works on it.
    """
    async with connected_session(server, project, animal, session) as connection:
        facts = await connection.describe()
        if problem := settings_problem(which, facts):
            raise BadInputError(problem)
        own = settings_of(which, facts, settings or {}, overrides)
        run = Run(which, connection.server, connection.target, own, reprocess, keep_job_logs, requested_by)
        run.discard_curation = discard_curation
        _consider(run, facts)
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
        run.lease = Lease(client, target, manager_id_of_flow_run(this_flow_run().flow_run_id), "")
        yield run


@contextlib.asynccontextmanager
async def dataset_pipeline(
    which: ProcessingPipelines,
    server: ComputeServer | None,
    project: str,
    dataset: str,
    sessions: Collection[tuple[str, str]],
    *,
    animal: str = "",
    settings: dict[str, Any] | None = None,
    reprocess: bool,
    keep_job_logs: bool,
    requested_by: str,
) -> AsyncIterator[Run]:
    """Make a dataset ready for a pipeline: its sessions are eligible, and it and they are ours until the block ends.

    Args:
        which: the pipeline.
        server: where the data lies and the jobs run; none: this computer.
        project: of the dataset and of the sessions.
        dataset: its name; it is made where there is none.
        sessions: animal and name of each; sorted, they are part of the settings.
        animal: where the pipeline works on one animal of the dataset.
        settings: what makes it the same work or another.
        reprocess: run also where it has succeeded with these sessions and settings.
        keep_job_logs: after a success.
        requested_by: who asks, as they say.

    Raises:
        BadInputError: no session is named, or one does not exist or is not as it must be; nothing was touched.
        NotEligibleError: the type or state of a session does not admit the pipeline; says of each why.
        SessionLockedError: somebody else works on the dataset or one of the sessions; none is locked.
    """
    if not sessions:
        raise BadInputError(f"{which} of {project}/{dataset} needs sessions, and none is named. Nothing was done.")
    server = server or this_computer()
    target = {"project": project, "dataset": dataset, **({"animal": animal} if animal else {})}
    chosen = [{"animal": a, "session": s} for a, s in sorted(set(sessions))]
    settings = {**(settings or {}), "sessions": [f"{names['animal']}/{names['session']}" for names in chosen]}
    async with connected_in_run(server) as client:
        run = Run(which, server, target, settings, reprocess, keep_job_logs, requested_by)
        _consider_dataset(run, await client.ask("describe", **target, sessions=chosen))
        if run.skipped is not None:
            yield run
            return
        locked = [{"project": project, **names} for names in chosen]
        async with leased(client, target, {which.name: settings}, this_holder(requested_by, which), locked) as lease:
            _consider_dataset(run, await client.ask("describe", **target, sessions=chosen))
            run.lease = lease
            yield run


def _consider(run: Run, facts: Facts) -> None:
    """Decide whether the pipeline may and need run."""
    run.facts = facts
    if reason := refusal(facts):
        raise NotEligibleError(f"{run.pipeline} cannot run on {facts['target']}: {reason}")
    if status(run.pipeline, facts) == "corrupt":
        raise SessionDataError(facts["pipelines"][run.pipeline.name]["problem"])
    told = run.settings.get("this_run")  # who asks for other settings than the result has does not mean that result
    made_with = facts["pipelines"][run.pipeline.name].get("made_with") or {}
    other = bool(told) and run.settings["settings"] != made_with.get("settings")
    if not run.reprocess and not other and (reason := done(run.pipeline, facts)):
        run.skipped = PipelineReport(
            run.pipeline, facts["target"], ProcessingStatus.SUCCEEDED, ran=False, reason=reason
        )
    elif reason := obstacle(run.pipeline, facts):
        raise NotEligibleError(f"{run.pipeline} cannot run on {facts['target']}: {reason}. Nothing was done.")


def _consider_dataset(run: Run, facts: Facts) -> None:
    """Decide whether a pipeline may and need run on a dataset."""
    run.facts = facts
    reasons = {name: refusal(session) or obstacle(run.pipeline, session) for name, session in facts["sessions"].items()}
    if refused := [f"{name}: {reason}" for name, reason in reasons.items() if reason]:
        raise NotEligibleError(
            f"{run.pipeline} cannot run on {facts['target']}: {'; '.join(refused)}. Nothing was done."
        )
    if status(run.pipeline, facts) == "corrupt":
        raise SessionDataError(facts["pipelines"][run.pipeline.name]["problem"])
    made_with = facts["settings"].get(run.pipeline.name) or {}
    same = {**made_with, "this_run": None} == {**run.settings, "this_run": None}  # whoever said so: this run, or a file
    if same and not run.reprocess and (reason := done(run.pipeline, facts)):
        run.skipped = PipelineReport(
            run.pipeline, facts["target"], ProcessingStatus.SUCCEEDED, ran=False, reason=reason
        )
