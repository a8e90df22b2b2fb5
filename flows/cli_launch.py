"""The commands that ask Prefect for a run instead of running a flow here: `launch`, `outcome`, and `rig add`."""

from __future__ import annotations

import argparse
import dataclasses
import getpass
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackers.errors import BadInputError

if TYPE_CHECKING:
    from flows.launch import Outcome

NOT_YET = 4
CODES = f"; {NOT_YET} not yet: the request is kept, or the run has not ended"
_YES_NO = {True: "yes", False: "no", None: "not known"}


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands to the command line; `command` makes one of a name, a summary and examples."""
    session = "--project P --animal 305 --session 2025-08-26-18-30-15-123456"
    launch = command(
        "launch",
        "have Prefect's server run a deployment on a session",
        [f"launch process-session {session}", f"launch checksum {session} --wait 60", "launch --flush"],
    )
    launch.add_argument("deployment", nargs="?", metavar="DEPLOYMENT", help="such as process-session")
    for name in ("project", "animal", "session"):
        launch.add_argument(f"--{name}", default="", metavar=name.upper())
    launch.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another parameter, its value in JSON or a word",
    )
    launch.add_argument("--wait", type=float, default=0, metavar="MINUTES", help="wait for the run's end this long")
    launch.add_argument("--requested-by", default="", metavar="NAME", help="who asks (default: this account)")
    launch.add_argument("--flush", action="store_true", help="send the requests that are kept")
    launch.set_defaults(carry_out="flows.cli_launch:launch")
    outcome = command("outcome", "say how a launched run stands", ["outcome RUN", "outcome RUN --json"])
    outcome.add_argument("run", metavar="RUN", help="its id or its link")
    outcome.set_defaults(carry_out="flows.cli_launch:outcome")
    for each in (launch, outcome):
        each.epilog = f"{each.epilog}{CODES}"
        each.add_argument("--json", action="store_true", help="print it for programs")
        _add_address(each)
        each.add_argument("--rig", default="", metavar="FILE", help="the rig's file (default: this account's)")
    _add_rig(command)


def _add_address(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--api", default="", metavar="URL", help="Prefect's API (default: $PREFECT_API_URL, rig's file)"
    )
    command.add_argument("--ca", default="", metavar="FILE", help="the certificate of the lab's own authority")


def _add_rig(command: Callable[..., argparse.ArgumentParser]) -> None:
    add = "rig add mesoscope-1 --api https://lab.example.org/api"
    rig = command(
        "rig",
        "write down, for a rig, Prefect's address, the login and the certificate",
        [add, f"{add} --ca lab-ca.pem --file /media/usb/rig.json"],
    )
    rig.add_argument("action", choices=("add",))
    rig.add_argument("name", metavar="NAME", help="how people call the rig; its runs are asked for in this name")
    _add_address(rig)
    rig.add_argument(
        "--login", type=Path, metavar="FILE", help="holds USER:PASSWORD (default: $PREFECT_API_AUTH_STRING)"
    )
    rig.add_argument(
        "--file", type=Path, metavar="FILE", help="write here, to be carried to the rig (default: ~/.config)"
    )
    rig.add_argument("--replace", action="store_true", help="also where there is one already")
    rig.set_defaults(carry_out="flows.cli_launch:add_rig")


def launch(arguments: argparse.Namespace) -> int:
    """Launch, or send what is kept, and print what became of it."""
    from flows.launch import flush
    from flows.launch import launch as launched

    place = {"api": arguments.api, "ca": arguments.ca, "rig": arguments.rig}
    if bool(arguments.deployment) == arguments.flush:
        raise BadInputError("Name a deployment, such as process-session, or give --flush alone. Nothing was done.")
    if arguments.flush:
        found = flush(**place)
        if not found and not arguments.json:
            print("No request is kept.")
        for each in found:
            _show(each, as_json=arguments.json)
        return max([NOT_YET if each.kept else 0 if each.run_id else 1 for each in found], default=0)
    done = launched(
        arguments.deployment,
        **{name: getattr(arguments, name) for name in ("project", "animal", "session", "requested_by", "wait")},
        **place,
        **_parameters(arguments.set),
    )
    _show(done, as_json=arguments.json)
    if done.kept or (done.run_id and arguments.wait and not done.ended):
        return NOT_YET
    if not done.run_id:
        return 2
    return 1 if done.succeeded is False else 0


def outcome(arguments: argparse.Namespace) -> int:
    """Print how a run stands; the exit code tells whether it has ended well."""
    from flows.launch import outcome as asked

    found = asked(arguments.run, api=arguments.api, ca=arguments.ca, rig=arguments.rig, seconds=10)
    _show(found, as_json=arguments.json)
    if not arguments.json:
        facts = {"ended": found.ended, "succeeded": found.succeeded, "checksum verified": found.verified}
        print(", ".join(f"{name}: {_YES_NO[fact]}" for name, fact in facts.items()))
    return NOT_YET if not found.ended else 0 if found.succeeded else 1


def add_rig(arguments: argparse.Namespace) -> int:
    """Write a rig's file, and say whether its server answers."""
    from flows.launch import Address, Server, rig_path, write_private

    path = arguments.file or rig_path()
    if path.exists() and not arguments.replace:
        raise BadInputError(f"{path} is there already. Nothing was done. To write another in its place: --replace")
    api = arguments.api or os.environ.get("PREFECT_API_URL", "")
    if not api:
        raise BadInputError("Which server? Give --api ADDRESS, or set PREFECT_API_URL. Nothing was done.")
    certificate = _text(Path(arguments.ca)) if arguments.ca else ""
    rig = {"rig": arguments.name, "api": api, "auth": _login(arguments.login), "ca": certificate}
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, json.dumps({name: text for name, text in rig.items() if text}, indent=1) + "\n")
    except OSError as error:
        raise BadInputError(f"{path} cannot be written: {error.strerror}. Nothing was done.") from error
    secret = (
        " It holds the login, which is a secret: readable by this account alone; carry it so." if rig["auth"] else ""
    )
    print(f"Wrote {path}.{secret}")
    try:
        found = Server(Address.find(rig=str(path), api=api), 5).ask("POST", "/deployments/filter", {"limit": 200}, list)
    except Exception as error:  # of many kinds: the file may be meant for another network
        print(f"From here, the server could not be asked: {error}.")
        return 1
    print(f"{api} answers: {len(found)} deployment{'' if len(found) == 1 else 's'}.")
    return 0


def _show(found: Outcome, *, as_json: bool) -> None:
    print(json.dumps(dataclasses.asdict(found)) if as_json else found.words)


def _parameters(words: list[str]) -> dict[str, Any]:
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise BadInputError(f"--set {word}: it takes NAME=VALUE. Nothing was done.")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _login(file: Path | None) -> str:
    if file is not None:
        return _text(file).strip()
    given = os.environ.get("PREFECT_API_AUTH_STRING", "")
    if not given and sys.stdin.isatty():
        given = getpass.getpass("Login of Prefect's server, USER:PASSWORD (empty: none): ")
    return given.strip()


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{file} cannot be read: {error}. Nothing was done.") from error
