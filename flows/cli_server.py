"""`sessionflow server …`: describe servers, check them, and put the server side there; Prefect is not needed for it."""

from __future__ import annotations

import argparse
import asyncio
import os

import yaml

from flows.cli import STORAGE_VARIABLE, WORKING_VARIABLE
from flows.terminal import confirm, finding_lines
from flows.wishes import wishes
from tasks import server_files
from tasks.server_check import check
from tasks.servers import Server, find_server
from trackers.errors import BadInputError


def add_server(arguments: argparse.Namespace) -> int:
    """Keep a server's description."""
    changed = server_files.add(arguments.name, arguments.file, replace=arguments.replace)
    _say_added(arguments.name, changed=changed)
    return 0


def import_server(arguments: argparse.Namespace) -> int:
    """Describe a server by a credentials file of sl-shared-assets 5.1.0."""
    changed, secret = server_files.add_credentials(arguments.name, arguments.credentials, replace=arguments.replace)
    _say_added(arguments.name, changed=changed)
    if secret:
        print(
            f"The password was not taken over, but {arguments.credentials} still holds one, readable as it stands: log "
            "in with a key instead, and remove the file when nothing else needs it."
        )
    return 0


def list_server(_arguments: argparse.Namespace) -> int:
    """List the servers that are described."""
    names = server_files.names()
    if not names:
        print("No server is described. Add one with: sessionflow server add NAME --file server.yaml")
    for name in names:
        try:
            server = find_server(name)
        except BadInputError as error:
            print(f"{name}: {error}")
            continue
        where = f"{server.user}@{server.host}".removeprefix("@") if server.host else "this computer"
        print(f"{name}: {where}, {server.scheduler}, {server.storage}")
    return 0


def show_server(arguments: argparse.Namespace) -> int:
    """Show a server's description, and how it is reached."""
    from tasks.ssh_config import route

    server = find_server(arguments.name)
    print(f"# {server_files.path_of(arguments.name)}")
    print(yaml.safe_dump(server.model_dump(exclude_defaults=True), sort_keys=False, allow_unicode=True), end="")
    if server.host:
        way = [f"{hop.user}@{hop.place}" for hop in route(server.address())]
        print(f"# reached as {way[-1]}" + (f" through {' and '.join(way[:-1])}" if way[:-1] else ""))
    print(f"# projects in {server.storage}; worked on in {server.working}")
    return 0


def remove_server(arguments: argparse.Namespace) -> int:
    """Forget a server."""
    path = server_files.path_of(arguments.name)
    if path.is_file():
        confirm(f"Remove {path}?", yes=arguments.yes)
    print(f"Removed {server_files.remove(arguments.name)}. On the server nothing was changed.")
    return 0


def check_server(arguments: argparse.Namespace) -> int:
    """Walk the way to a server, a line a step."""
    return asyncio.run(_check(_server(arguments.name)))


def install_server(arguments: argparse.Namespace) -> int:
    """Bring the server side to this version."""
    from tasks.server_install import install

    given = arguments.environments
    names = None if given is None else [name for name in given.replace(" ", "").split(",") if name]
    hello = asyncio.run(
        install(
            Server(name=arguments.name, storage_root="/")
            if arguments.name == server_files.LOCAL
            else _server(arguments.name),
            names,
            wheels=arguments.wheels,
            python=arguments.python,
            again=arguments.again,
            say=lambda words: print(words, flush=True),
        )
    )
    print(f"{hello['host']} answers: sessionflow {hello['version']}, Python {hello['python']}, as {hello['user']}")
    for name, version in sorted(hello["environments"].items()):
        print(f"  {name}: sessionflow {version}")
    print(f"Next: sessionflow server check {arguments.name}")
    return 0


def login_server(arguments: argparse.Namespace) -> int:
    """Log in once, with a person answering."""
    from tasks.login import login

    place = login(_remote(arguments.name).address())
    print(f"Logged in as {place}; kept until: sessionflow server logout {arguments.name}")
    return 0


def logout_server(arguments: argparse.Namespace) -> int:
    """End the connection that `login` keeps."""
    from tasks.login import logout

    was = logout(_remote(arguments.name).address())
    print("Logged out; runs that need the server wait for the next login." if was else "Nobody was logged in.")
    return 0


async def _check(server: Server) -> int:
    counts = {"ok": 0, "warning": 0, "failure": 0, "skipped": 0}
    async for finding in check(server, wishes(server)):
        counts[finding.result] += 1
        print(finding_lines(finding), flush=True)
    print(", ".join(f"{count} {result}" for result, count in counts.items() if count))
    return 1 if counts["failure"] else 0


def _server(name: str) -> Server:
    """Return a described server, or this computer."""
    if name != server_files.LOCAL:
        return find_server(name)
    storage = os.environ.get(STORAGE_VARIABLE)
    if not storage:
        raise BadInputError(
            f"This computer's volumes are not known. Nothing was done. Set {STORAGE_VARIABLE}, and {WORKING_VARIABLE} "
            "where there are two."
        )
    working = os.environ.get(WORKING_VARIABLE) or storage
    return Server(name=name, storage_root=os.path.abspath(storage), working_root=os.path.abspath(working))  # noqa: PTH100


def _remote(name: str) -> Server:
    server = _server(name)
    if not server.host:
        raise BadInputError(f"{name} is this computer: there is nothing to log in to. Nothing was done.")
    return server


def _say_added(name: str, *, changed: bool) -> None:
    print(f"{'Added' if changed else 'Unchanged: the same is there already in'} {server_files.path_of(name)}.")
    if api := os.environ.get("PREFECT_API_URL"):
        from flows.server_blocks import block_in_words  # Prefect takes two seconds

        print(block_in_words(name, api))
    print(f"Next: sessionflow server check {name}, then sessionflow server install {name}")
