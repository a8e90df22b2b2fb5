"""The commands about results: the settings that they are made with."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

NAMED = "P/305/2025-08-26-18-30-15-123456"


def add_commands(
    command: Callable[..., argparse.ArgumentParser], roots: Callable[[argparse.ArgumentParser], None], session: str
) -> None:
    """Add the commands to the parser.

    Args:
        command: makes a command of a name, a summary and examples.
        roots: adds the options that say which server.
        session: help for the word that names a session.
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


def _shown(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(name, json.dumps(value, ensure_ascii=False), source) for name, (value, source) in found.items()]
