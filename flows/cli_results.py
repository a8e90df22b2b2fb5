"""The commands about results: the settings that they are made with, and those that others took the place of."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

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
