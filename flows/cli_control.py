"""The commands that look and clear up: status, lock, tracker, cancel. They need the server side, and no Prefect."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import shlex
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from flows.cli import server_of
from flows.session_page import history_page
from flows.terminal import confirm, dataset_line, status_table
from tasks.client import connected
from tasks.servers import Server
from trackers.errors import BadInputError, InvalidNameError
from trackers.manager import NOBODY
from trackers.names import validate_session_name

SESSION_PARTS, DATASET_PARTS = 3, 2  # of the names PROJECT/ANIMAL/SESSION, PROJECT/DATASET


def status(arguments: argparse.Namespace) -> int:
    """Print how far a project's sessions and datasets are, or all that is known of one of them."""
    if arguments.why:
        server, target = named_target(arguments, arguments.why)
        print(history_page(ask(server, "why", **target)))
        return 0
    if not arguments.project:
        raise BadInputError("Name a project, or a session with --why. Nothing was done.")
    project = {"project": arguments.project}
    questions = [("status", {**project, "animal": arguments.animal})]
    if not arguments.animal:
        questions.append(("datasets", project))
    rows, *datasets = answers(server_of(arguments), *questions)
    print(status_table(arguments.project, rows, notes=arguments.notes))
    for facts in itertools.chain(*datasets):
        print(dataset_line(facts))
    return 0


def lock(arguments: argparse.Namespace) -> int:
    """Show who holds a session or dataset, or free it."""
    server, target = named_target(arguments, arguments.session)
    found = ask(server, "lock_show", **target)
    print(_lock_sentence(target, found))
    if found["live_jobs"]:
        print(f"Jobs that run or wait: {', '.join(found['live_jobs'])}.")
    if arguments.action == "show":
        return 0
    if found["manager_id"] == NOBODY and not found["live_jobs"]:
        return 0
    confirm("Release the lock? Do so only if that manager is gone for good.", yes=arguments.yes)
    taken = ask(server, "lock_force", **target, abandon=arguments.abandon)["taken_from"]
    print(f"Released; taken from {taken}.")
    return 0


def tracker(arguments: argparse.Namespace) -> int:
    """Show or reset a tracker."""
    server, target = _tracker_target(arguments)
    target = {**target, "pipeline": arguments.pipeline.upper()}
    found = ask(server, "tracker_show", **target)
    print(found["problem"] or f"{found['path']}: {found['status'] or 'has not run'}")
    if found["manager_id"] != NOBODY:
        print(f"It runs under manager {found['manager_id']}.")
    if arguments.action == "reset":
        confirm("Reset the tracker?", yes=arguments.yes)
        ask(server, "tracker_reset", **target)
        print("Reset.")
    return 0


def cancel(arguments: argparse.Namespace) -> int:
    """End every job of a session or dataset."""
    server, target = named_target(arguments, arguments.session)
    found = ask(server, "lock_show", **target)
    print(_lock_sentence(target, found))
    if found["held_for"] and found["live_jobs"]:
        print(f"It is held for the dataset {found['held_for']}, whose jobs are ended with: {found['cancel']}")
        return 1
    if not found["live_jobs"]:
        print("None of its jobs runs or waits.")
    else:
        confirm(f"End {', '.join(found['live_jobs'])}?", yes=arguments.yes)
    outcome = ask(server, "cancel_all", **target)
    if outcome["ended"]:
        print(f"Ended: {', '.join(outcome['ended'])}.")
    if outcome["left"]:
        print(f"Processes are left of: {', '.join(outcome['left'])}. Look for them on the server.")
        return 1
    if ask(server, "lock_show", **target)["manager_id"] != NOBODY:
        remedy = f"sessionflow sweep {shlex.quote(target['project'])} --repair"
        print(f"The lock is left to its manager, which gives it back at its end. If that manager is gone: {remedy}")
    return 0


def _lock_sentence(target: dict[str, str], found: dict[str, Any]) -> str:
    """Say who holds a session; of an unreadable lock file, what is wrong, which ends with a command and no stop."""
    name = "/".join(target.values())
    return f"{name}: {found['description']}" if found["corrupt"] else f"{name} is locked by {found['description']}."


def session_target(arguments: argparse.Namespace, session: str) -> tuple[Server, dict[str, str]]:
    """Return the server and the session that a word of the command line means.

    Raises:
        BadInputError: it is neither a session's folder nor PROJECT/ANIMAL/SESSION.
    """
    path: PurePath = PurePosixPath(session) if arguments.server else Path(session)
    if (Path(session) / "raw_data").is_dir():
        path = Path(session).absolute()
    if path.is_absolute():
        if len(path.parts) <= SESSION_PARTS:
            raise BadInputError(f"{path} is no session's folder. Nothing was done.")
        arguments.storage = str(path.parents[2])
        names = path.parts[-SESSION_PARTS:]
    else:
        names = tuple(session.split("/"))
    if len(names) != SESSION_PARTS:
        raise BadInputError(f"{session!r} is neither a session's folder nor PROJECT/ANIMAL/SESSION. Nothing was done.")
    return server_of(arguments), dict(zip(("project", "animal", "session"), names, strict=True))


def named_target(arguments: argparse.Namespace, word: str) -> tuple[Server, dict[str, str]]:
    """Return the server and the session or dataset that a word of the command line means.

    Raises:
        BadInputError: it is neither a session's folder nor PROJECT/ANIMAL/SESSION nor PROJECT/DATASET[/ANIMAL].
    """
    names = word.split("/")
    is_session = Path(word).is_absolute() or len(names) != SESSION_PARTS or _is_session(names[-1])
    if is_session and len(names) != DATASET_PARTS:
        return session_target(arguments, word)
    return server_of(arguments), dict(zip(("project", "dataset", "animal"), names, strict=False))


def _is_session(name: str) -> bool:
    with contextlib.suppress(InvalidNameError):
        return bool(validate_session_name(name))
    return False


def _tracker_target(arguments: argparse.Namespace) -> tuple[Server, dict[str, str]]:
    if parts := {"multiday": SESSION_PARTS, "forging": DATASET_PARTS}.get(arguments.pipeline):
        path = Path(arguments.session)
        if path.is_absolute() and len(path.parts) > parts:
            # all that is needed stands in the dataset's own folder
            arguments.storage = arguments.datasets = str(path.parents[parts - 1])
            arguments.session = "/".join(path.parts[-parts:])
        return named_target(arguments, arguments.session)
    if arguments.pipeline != "manifest":
        return session_target(arguments, arguments.session)
    path = Path(arguments.session)
    if path.is_absolute():
        arguments.storage = str(path.parent)
    return server_of(arguments), {"project": path.name if path.is_absolute() else arguments.session}


def ask(server: Server, call: str, **arguments: Any) -> Any:
    """Ask the server side one thing."""
    return answers(server, (call, arguments))[0]


def answers(server: Server, *questions: tuple[str, dict[str, Any]]) -> list[Any]:
    """Ask the server side, over one connection; each question is a call with its arguments."""

    async def asked() -> list[Any]:
        async with connected(server) as client:
            return [await client.ask(call, **arguments) for call, arguments in questions]

    return asyncio.run(asked())
