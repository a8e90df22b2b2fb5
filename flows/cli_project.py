"""The commands for a project's many sessions: process them all, leave one out, find where its data lies."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.cli import server_of
from flows.cli_control import ask, session_target
from tasks.reports import ProjectReport, SessionOutcome
from tasks.servers import Server
from trackers.errors import SessionLockedError

if TYPE_CHECKING:
    from flows.project_plan import Choice

ANIMAL_PARTS = 2


def process_project(arguments: argparse.Namespace) -> int:
    """Run every session of a project that has something to do, or show the plan; return the exit code."""
    server = server_of(arguments)
    ask(server, "tracker_show", project=arguments.project, pipeline="MANIFEST")  # before Prefect takes its time
    from flows.project_page import plan_table

    _choice(arguments)  # so does what can be no choice
    report = _planned(server, arguments) if arguments.dry_run else _processed(server, arguments)
    print(plan_table(report))
    for note in report.notes:
        print(note)
    busy = report.standing("in progress")
    if report.succeeded and not arguments.dry_run and busy and not report.standing("succeeded"):
        return SessionLockedError.exit_code
    return 0 if report.succeeded else 1


def exclude(arguments: argparse.Namespace) -> int:
    """Take a session out of processing."""
    server, target = session_target(arguments, arguments.session)
    done = ask(server, "exclude", **target, reason=arguments.reason, requested_by=arguments.requested_by)
    name = "/".join(target.values())
    print(f"{name} is excluded {done['excluded']}. What runs on it now is left alone.\nTo end that: {done['include']}")
    return 0


def include(arguments: argparse.Namespace) -> int:
    """Put a session back into processing."""
    server, target = session_target(arguments, arguments.session)
    words = ask(server, "include", **target)["was_excluded"]
    name = "/".join(target.values())
    print(f"{name} is processed again. It was excluded {words}." if words else f"{name} was not excluded.")
    return 0


def arrival(arguments: argparse.Namespace) -> int:
    """Have a project's sessions processed when they arrive, or no more, or say whether they are."""
    switch = {} if arguments.action == "show" else {"switch": arguments.action, "requested_by": arguments.requested_by}
    found = ask(server_of(arguments), "arrival", project=arguments.project, **switch)
    if not found["on"]:
        print(f"Sessions of {arguments.project} are not processed on arrival.")
        return 0
    print(f"Sessions of {arguments.project} are processed on arrival, {found['words']}.")
    if arguments.action == "on":
        print("Those that were complete before are left to process-project. `sessionflow up` must be running.")
    return 0


def where(arguments: argparse.Namespace) -> int:
    """Print every folder of a session or an animal, with size and state."""
    from flows.terminal import places_lines

    server, target = _place_target(arguments)
    print(places_lines(ask(server, "where", **target, seconds=arguments.seconds)))
    return 0


def _planned(server: Server, arguments: argparse.Namespace) -> ProjectReport:
    """Look without a flow run; the flow itself, with `dry_run`, leaves an artifact as well."""
    import asyncio

    from flows.project_look import Look
    from tasks.client import connected

    async def looked() -> ProjectReport:
        async with connected(server) as client:
            found = await Look(client, arguments.project, _choice(arguments)).all()
            return ProjectReport(arguments.project, tuple(found), dry_run=True)

    return asyncio.run(looked())


def _processed(server: Server, arguments: argparse.Namespace) -> ProjectReport:
    from flows import process_project as module
    from flows.cli_run import shown
    from tasks.compute_server import ComputeServer

    async def run() -> ProjectReport:
        module.ENDED.set(_say)
        report: ProjectReport = await module.process_project(
            arguments.project,
            server=ComputeServer(**server.model_dump()),
            archive=arguments.archive,
            regenerate_manifest=arguments.regenerate_manifest,
            keep_job_logs=arguments.keep_job_logs,
            maximum_sessions=arguments.maximum_sessions or module.AT_ONCE,
            requested_by=arguments.requested_by,
            discard_curation=arguments.discard_curation,
            **_options(arguments),
        )
        return report

    return shown(run)


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options that decide what is to be done."""
    names = ("animals", "sessions", "pipelines", "reprocess", "rerun_stale")
    failed = ("rerun_failed", "failed_pipelines", "failed_cause", "failed_since")
    return {name: getattr(arguments, name) for name in (*names, *failed)}


def _choice(arguments: argparse.Namespace) -> Choice:
    from flows.project_plan import Choice

    return Choice.of(**_options(arguments), archive=arguments.archive)


def _say(outcome: SessionOutcome) -> None:
    """Print what became of a session, as it happens."""
    print(f"{outcome.animal}/{outcome.session} {outcome.standing}{': ' if outcome.words else ''}{outcome.words}")


def _place_target(arguments: argparse.Namespace) -> tuple[Server, dict[str, str]]:
    """Return the server, and the animal or session that is meant.

    Raises:
        BadInputError: it is neither a folder of one, nor PROJECT/ANIMAL or PROJECT/ANIMAL/SESSION.
    """
    word, path = arguments.place, Path(arguments.place)
    names = tuple(word.split("/"))
    if not path.is_absolute() and len(names) == ANIMAL_PARTS:
        return server_of(arguments), {"project": names[0], "animal": names[1]}
    if path.is_absolute() and not (path / "raw_data").is_dir() and len(path.parts) > ANIMAL_PARTS:
        arguments.storage = str(path.parents[1])
        return server_of(arguments), dict(zip(("project", "animal"), path.parts[-ANIMAL_PARTS:], strict=True))
    return session_target(arguments, word)
