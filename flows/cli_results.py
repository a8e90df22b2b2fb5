"""The commands about results: the settings that they are made with, and those that others took the place of."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from trackers.processes import this_account

NAMED = "P/305/2025-08-26-18-30-15-123456"


PUBLISHED = ("suite2p", "video", "multiday")


def add_commands(
    command: Callable[..., argparse.ArgumentParser],
    roots: Callable[[argparse.ArgumentParser], None],
    session: str,
    target: str,
) -> None:
    """Add the commands to the parser.

    Args:
        command: makes a command of a name, a summary and examples.
        roots: adds the options that say which server.
        session: help for the word that names a session.
        target: help for the word that names a session or a dataset.
    """
    examples = [f"settings {NAMED}", f"settings {NAMED} --set detection.threshold_scaling=0.8"]
    settings = command("settings", "show every setting of a session, and where it comes from", examples)
    settings.add_argument("session", metavar="SESSION", help=session)
    settings.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="as if suite2p were run with this; several times",
    )
    roots(settings)
    settings.set_defaults(carry_out="flows.cli_results:settings")
    examples = [f"try suite2p {NAMED} --set detection.threshold_scaling=0.8"]
    tried = command("try", "look for cells with other settings, beside the result; the page shows both", examples)
    tried.add_argument("pipeline", choices=("suite2p",), metavar="PIPELINE", help="suite2p")
    tried.add_argument("session", metavar="SESSION", help=session)
    tried.add_argument(
        "--set",
        dest="changes",
        action="append",
        required=True,
        metavar="NAME=VALUE",
        help="what is other than in the settings that the result was made with; several times",
    )
    tried.add_argument("--name", default="", help="the try's; one of that name is replaced (default: of the settings)")
    tried.add_argument("--keep-job-logs", action="store_true", help="keep the jobs' logs after a success")
    tried.add_argument("--requested-by", default=this_account(), metavar="NAME", help="who asks")
    roots(tried)
    tried.set_defaults(carry_out="flows.cli_results:try_settings")
    examples = [f"discard-previous {NAMED}", "discard-previous P/learning/305 --pipeline multiday"]
    discard = command("discard-previous", "remove results that were kept when newer ones took their place", examples)
    discard.add_argument("session", metavar="SESSION|DATASET", help=target)
    discard.add_argument("--pipeline", choices=PUBLISHED, metavar="PIPELINE", help=f"{', '.join(PUBLISHED)}; none: all")
    roots(discard)
    discard.set_defaults(carry_out="flows.cli_results:discard_previous")


def settings(arguments: argparse.Namespace) -> int:
    """Print every setting that holds for a session."""
    from flows.cli_control import ask, session_target
    from flows.cli_run import changes
    from flows.terminal import settings_table

    overrides = changes(arguments.changes)
    server, target = session_target(arguments, arguments.session)
    for pipeline, found in ask(server, "settings", **target, overrides=overrides).items():
        print(settings_table(pipeline.lower(), _shown(found)))
    return 0


def try_settings(arguments: argparse.Namespace) -> int:
    """Look for a session's cells with other settings, and print how many there are, and where the page is."""
    from flows.cli_control import ask, session_target
    from flows.cli_run import changes, shown
    from flows.terminal import report_table

    settings = changes(arguments.changes)
    server, target = session_target(arguments, arguments.session)
    ask(server, "describe", **target)
    from flows.try_suite2p import try_suite2p  # only now: what does not exist is said before Prefect is started
    from tasks.compute_server import ComputeServer

    how: dict[str, Any] = {name: getattr(arguments, name) for name in ("name", "keep_job_logs", "requested_by")}
    there = ComputeServer(**server.model_dump())
    report = shown(lambda: try_suite2p(*target.values(), settings, server=there, **how))
    print(report_table([report]))
    for note in report.notes:
        print(note)
    return 0 if report.succeeded else 1


def discard_previous(arguments: argparse.Namespace) -> int:
    """Remove the results that were kept when newer ones took their place, and print how much space that frees."""
    from flows.cli_control import ask, named_target
    from flows.terminal import size

    server, target = named_target(arguments, arguments.session)
    pipeline = (arguments.pipeline or "").upper()
    removed = ask(server, "discard_previous", **target, pipeline=pipeline)
    for each in removed:
        print(f"{each['pipeline'].lower()}: {each['path']} removed, {size(each['bytes'])} freed.")
    if not removed:
        of = f" of {arguments.pipeline}" if pipeline else ""
        print(f"{'/'.join(target.values())} has no previous result{of}.")
    return 0


def _shown(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(name, json.dumps(value, ensure_ascii=False), source) for name, (value, source) in found.items()]
