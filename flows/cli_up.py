"""`sessionflow up`, `backup` and `restore`: what keeps a lab's Prefect running, and its database safe."""

from __future__ import annotations

import argparse
import asyncio
import math
from collections.abc import Callable, Sequence
from pathlib import Path

Command = Callable[[str, str, Sequence[str]], argparse.ArgumentParser]


def add_commands(command: Command) -> None:
    """Declare the commands; `command` makes one of name, summary and examples."""
    _add_up(command)
    backup = command(
        "backup",
        "copy Prefect's database, also while it is in use",
        ["backup /safe/prefect-$(date +%F).db", "backup /safe/prefect.dump --database postgresql://me@db/prefect"],
    )
    backup.set_defaults(carry_out="flows.cli_up:backup")
    restore = command(
        "restore", "put a backup in the place of Prefect's database", ["restore /safe/prefect-2026-01-31.db"]
    )
    restore.add_argument("--yes", action="store_true", help="do not ask")
    restore.set_defaults(carry_out="flows.cli_up:restore")
    for one in (backup, restore):
        one.add_argument("file", type=Path, metavar="FILE")
        _add_database(one)


def up(arguments: argparse.Namespace) -> int:
    """Start everything and stay, or write the units that do."""
    if arguments.systemd is not None:
        from flows.up_systemd import write_units

        return write_units(arguments)
    from flows import up_settings
    from flows.up import Up, deployments_file, only_one

    deployments = deployments_file(arguments.deployments)
    with only_one(up_settings.state_folder(_home())):
        settings = up_settings.settle(
            host=arguments.host,
            database=arguments.database,
            certificate=arguments.tls_certificate,
            key=arguments.tls_key,
            open_without_tls=arguments.open_without_tls,
            storage_limit=arguments.storage_limit,
            working_limit=arguments.working_limit,
            drain_seconds=arguments.drain,
        )
        return asyncio.run(Up(settings, deployments).run())


def backup(arguments: argparse.Namespace) -> int:
    """Copy the database into a file."""
    from flows.backup import backup_database

    print(backup_database(arguments.file, arguments.database))
    return 0


def restore(arguments: argparse.Namespace) -> int:
    """Replace the database by a backup; the replaced one is kept."""
    from flows.backup import check_backup, restore_database
    from flows.terminal import confirm
    from flows.up import only_one
    from flows.up_settings import state_folder

    with only_one(state_folder(_home())):
        what = check_backup(arguments.file, arguments.database)
        confirm(f"Replace {what} by {arguments.file}?", yes=arguments.yes)
        print(restore_database(arguments.file, arguments.database))
    return 0


def _home() -> Path:
    from prefect.settings import get_current_settings

    return Path(get_current_settings().home)


def _add_up(command: Command) -> None:
    examples = [
        "up",
        "up --database postgresql://prefect@localhost/prefect",
        "up --host 0.0.0.0 --tls-certificate lab.pem --tls-key lab.key",
        "up --systemd ~/.config/systemd/user",
    ]
    up = command("up", "start Prefect's server, a worker and all that they need, and keep them running", examples)
    up.add_argument("--host", default="", help="address to listen on (default: PREFECT_SERVER_API_HOST, 127.0.0.1)")
    _add_database(up)
    up.add_argument(
        "--tls-certificate", type=Path, metavar="FILE", help="for another address: certificate with its chain"
    )
    up.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key")
    up.add_argument(
        "--open-without-tls",
        action="store_true",
        help="another address without TLS: who listens on the network gets the login, and with it this account and its "
        "cluster key",
    )
    up.add_argument(
        "--storage-limit",
        type=positive,
        default=4,
        metavar="N",
        help="sessions at a time on the storage volume, at first",
    )
    up.add_argument(
        "--working-limit",
        type=positive,
        default=8,
        metavar="N",
        help="sessions at a time on the working volume, at first",
    )
    up.add_argument(
        "--drain", type=seconds, default=30.0, metavar="SECONDS", help="at the end, time for runs to end (default: 30)"
    )
    up.add_argument("--deployments", type=Path, metavar="FILE", help="another prefect.yaml than sessionflow's own")
    up.add_argument("--systemd", type=Path, metavar="FOLDER", help="only write a unit that does this into a folder")
    up.set_defaults(carry_out="flows.cli_up:up")


def _add_database(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--database",
        default="",
        metavar="URL",
        help="Postgres (default: PREFECT_SERVER_DATABASE_CONNECTION_URL, else SQLite in PREFECT_HOME); leave the "
        "password to ~/.pgpass",
    )


def seconds(text: str) -> float:
    """Read an argument that is a time, which may be none at all."""
    if not 0 <= (number := float(text)) < math.inf:
        raise ValueError
    return number


def positive(text: str) -> int:
    """Read an argument that counts something, of which there must be one."""
    if (number := int(text)) < 1:
        raise ValueError
    return number
