"""The commands that run flows: one pipeline, or one session all the way."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import yaml

from flows.cli import server_of
from flows.cli_control import ask
from flows.terminal import LiveProgress, report_table
from trackers.errors import BadInputError

R = TypeVar("R")


def run(arguments: argparse.Namespace) -> int:
    """Run one pipeline and print what became of it."""
    _check(arguments)
    flow, options = _pipeline(arguments)
    report = shown(lambda: flow(server=_server(arguments), requested_by=arguments.requested_by, **options))
    print(report_table([report]))
    for note in report.notes:
        print(note)
    return 0 if report.succeeded else 1


def process(arguments: argparse.Namespace) -> int:
    """Run every eligible pipeline of a session and print what became of them."""
    _check(arguments)
    from flows.process_session import process_session

    report = shown(
        lambda: process_session(
            *(arguments.project, arguments.animal, arguments.session),
            server=_server(arguments),
            archive=arguments.archive,
            reprocess=arguments.reprocess,
            rerun_stale=arguments.rerun_stale,
            discard_curation=arguments.discard_curation,
            keep_job_logs=arguments.keep_job_logs,
            requested_by=arguments.requested_by,
        )
    )
    print(report_table(list(report.pipelines)))
    return 0 if report.succeeded else 1


def forge(arguments: argparse.Namespace) -> int:
    """Forge sessions into a dataset and print what became of it, with what is missing in it."""
    ask(server_of(arguments), "tracker_show", project=arguments.project, pipeline="MANIFEST")
    from flows.forging import forging

    what = ("project", "dataset", "sessions", "animals", "species", "unclear_frames", "require_qc")
    how = ("reprocess", "keep_job_logs", "requested_by")
    options = {name: getattr(arguments, name) for name in (*what, *how)}
    report = shown(lambda: forging(server=_server(arguments), **options))
    print(report_table([report]))
    for note in report.notes:
        print(note)
    return 0 if report.succeeded else 1


def shown(work: Callable[[], Awaitable[R]], *, lines: bool = True) -> R:
    """Run a flow with its progress in the terminal; without `lines`, only those jobs that run at the moment."""
    from tasks.jobs import OBSERVER

    async def observed() -> R:
        with LiveProgress(lines=lines) as observer:
            OBSERVER.set(observer)
            return await work()

    return asyncio.run(observed())


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what does not exist before Prefect is started, which takes its time.

    Raises:
        BadInputError: there is no such session or project, or it is not as it must be; nothing was touched.
    """
    project = {"project": arguments.project}
    if getattr(arguments, "dataset", "") and arguments.pipeline != "report":
        sessions = [{"animal": arguments.animal, "session": session} for session in arguments.sessions]
        ask(
            server_of(arguments),
            "describe",
            **project,
            animal=arguments.animal,
            dataset=arguments.dataset,
            sessions=sessions,
        )
    elif arguments.animal and arguments.session:
        ask(server_of(arguments), "describe", **project, animal=arguments.animal, session=arguments.session)
    else:
        ask(server_of(arguments), "tracker_show", **project, pipeline="MANIFEST")


def _pipeline(arguments: argparse.Namespace) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return the flow that is meant and its parameters.

    Raises:
        BadInputError: an argument is missing or belongs to another pipeline.
    """
    from flows.manifest import manifest
    from flows.multiday import multiday
    from flows.process_session import CURATED, FLOWS

    common = {"project": arguments.project, "keep_job_logs": arguments.keep_job_logs}
    if arguments.regenerate and arguments.pipeline != "checksum":
        raise BadInputError("--regenerate is checksum's. Nothing was done.")
    own = {"planes": arguments.planes, "plane": arguments.plane, "settings": changes(arguments.changes)}
    own = {name: value for name, value in own.items() if value not in (None, {})}
    if own and arguments.pipeline != "suite2p":
        raise BadInputError("--planes, --plane and --set are suite2p's. Nothing was done.")
    if arguments.pipeline == "manifest":
        return manifest, {**common, "timezone": arguments.timezone}
    if arguments.pipeline == "multiday":
        if not (arguments.animal and arguments.dataset and arguments.sessions):
            raise BadInputError("multiday needs --animal, --dataset and --sessions. Nothing was done.")
        dataset = {"animal": arguments.animal, "dataset": arguments.dataset, "sessions": arguments.sessions}
        return multiday, {**common, **dataset, "reprocess": arguments.reprocess}
    if not arguments.animal or not arguments.session:
        raise BadInputError(f"{arguments.pipeline} needs --animal and --session. Nothing was done.")
    session = {"animal": arguments.animal, "session": arguments.session, "reprocess": arguments.reprocess}
    if arguments.discard_curation:
        if arguments.pipeline not in (p.name.lower() for p in CURATED):
            raise BadInputError(f"Nobody edits what {arguments.pipeline} makes. Nothing was done.")
        own["discard_curation"] = True
    flow = {p.name.lower(): f for p, f in FLOWS.items()}[arguments.pipeline]
    if arguments.pipeline == "report":
        own["dataset"] = arguments.dataset
    return flow, {**common, **session, **own, **({"regenerate": True} if arguments.regenerate else {})}


def changes(words: Sequence[str]) -> dict[str, Any]:
    """Return the settings that `--set NAME=VALUE` gave, by dotted name; values are read as in a settings file.

    Raises:
        BadInputError: one is no NAME=VALUE, or its value is no YAML.
    """
    found = {}
    for word in words:
        name, sign, text = word.partition("=")
        try:
            found[name.strip()] = yaml.safe_load(text)
        except yaml.YAMLError:
            sign = ""
        if not (sign and name.strip()):
            raise BadInputError(f"--set {word}: NAME=VALUE is expected, the value as in YAML. Nothing was done.")
    return found


def _server(arguments: argparse.Namespace) -> Any:
    from tasks.compute_server import ComputeServer

    return ComputeServer(**server_of(arguments).model_dump())
