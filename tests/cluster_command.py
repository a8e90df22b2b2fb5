"""`python -m tests.cluster`: a test cluster for people, which stays until it is taken down."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from tests.cluster import Cluster
from tests.daemon import TEMPORARY, ClusterError, end_everything, left_over, living

FOLDER = Path("/tmp/sessionflow-cluster")
USAGE = "usage.txt"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description="A Slurm cluster on loopback.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start one and leave it running")
    up.add_argument("--accounting", action="store_true", help="with slurmdbd and a database, so that sacct works")
    up.add_argument("--nodes", type=int, default=2)
    down = commands.add_parser("down", help="end one, and all that test runs which died have left")
    status = commands.add_parser("status", help="say which there are, and how to use yours")
    for command in (up, down, status):
        command.add_argument("folder", nargs="?", type=Path, default=FOLDER, help=f"default: {FOLDER}")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    try:
        if arguments.command == "up":
            _up(folder, arguments.nodes, accounting=arguments.accounting)
        elif arguments.command == "down":
            _down(folder)
        else:
            _status(folder)
    except ClusterError as error:
        sys.exit(str(error))


def _up(folder: Path, nodes: int, *, accounting: bool) -> None:
    if folder.exists():
        raise ClusterError(f"{folder} exists already. Look with `status`; end it with `down {folder}`.")
    cluster = Cluster(folder, nodes=nodes, accounting=accounting)
    try:
        cluster.start()
    except BaseException:
        cluster.stop()
        raise
    (folder / USAGE).write_text(_usage(cluster))
    _status(folder)


def _usage(cluster: Cluster) -> str:
    sshd = cluster.sshd
    return f"""Slurm's commands here:
  export SLURM_CONF={cluster.folder}/slurm.conf

A login, which has SLURM_CONF, and {cluster.bin} first on its PATH:
  {shlex.join(sshd.ssh)}

As a server:
  host: {sshd.host}
  port: {sshd.port}
  user: {sshd.account}
  key_file: {sshd.key_file}
  known_hosts_file: {sshd.known_hosts_file}
  scheduler: slurm
  storage_root: /path/to/the/folder/of/projects

To end it:
  python -m tests.cluster down {cluster.folder}
"""


def _down(folder: Path) -> None:
    for each in {folder, *left_over()}:
        if (each / "ssh" / "host_key").exists() or each != folder:
            end_everything(each, remove=True)
            print(f"Ended the cluster in {each}.")
        elif each.exists():
            raise ClusterError(f"{folder} is no test cluster. Nothing was done to it.")


def _status(folder: Path) -> None:
    for each in sorted({folder, *Path("/tmp").glob(f"{TEMPORARY}*")}):
        pids = {file.stem: living(file) for file in sorted(each.glob("*.pid"))}
        if not pids:
            continue
        whose = " (of a test run that has died)" if each in left_over() else ""
        print(f"{each}{whose}: " + ", ".join(f"{name} {'runs' if pid else 'is down'}" for name, pid in pids.items()))
    usage = folder / USAGE
    print(usage.read_text() if usage.exists() else f"No cluster in {folder}; start one with `up`.")
