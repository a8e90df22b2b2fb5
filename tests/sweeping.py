"""Managers that have died, and sweeps over what they left."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.client import connected
from tasks.reports import Finding, SweepReport
from tasks.servers import Server
from tasks.sweep import swept
from tests.conftest import SESSION, Side
from tests.test_interruptions import job_processes, supervisors
from trackers.lock import Holder
from trackers.manager import generate_manager_id
from trackers.ownership import SWEEP
from trackers.processes import ProcessIdentity
from trackers.site import Site
from trackers.targets import Target

NAME = f"Project/305/{SESSION}"


def dead_process() -> ProcessIdentity:
    """Return a process of this computer that has ended."""
    child = subprocess.Popen(["sleep", "60"])
    identity = ProcessIdentity.of(child.pid)
    child.kill()
    child.wait()
    return identity


def hold(side: Side, process: ProcessIdentity | None, **details: Any) -> Holder:
    """Take a session's lock in the name of a process."""
    holder = Holder(side.manager_id, process=process, requested_by="ada", **details)
    granted = side.get("lock_acquire", holder=asdict(holder), wish={})
    side.incarnation = granted["incarnation"]
    return holder


def session(side: Side) -> Target:
    return Target(Site.from_json(side.arguments["site"]), "Project", "305", SESSION)


def settled(side: Side) -> None:
    """Wait until no process of the session's jobs, nor of their supervisors, is left."""
    deadline = time.monotonic() + 20
    while job_processes(side) or supervisors(side):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def sweeper() -> Holder:
    return Holder(generate_manager_id(), pipeline=SWEEP, process=ProcessIdentity.of_this_process())


def sweep(
    side: Side, *, repair: bool = False, projects: Sequence[str] = (), server: Server | None = None
) -> SweepReport:
    """Sweep the server that a session lies on."""
    return asyncio.run(sweeping(side, repair=repair, projects=projects, server=server))


async def sweeping(
    side: Side, *, repair: bool = False, projects: Sequence[str] = (), server: Server | None = None
) -> SweepReport:
    site = side.arguments["site"]
    server = server or Server(storage_root=site["storage"], working_root=site["working"])
    async with connected(server) as client:
        return await swept(client, projects, sweeper if repair else None)


def only(report: SweepReport) -> Finding:
    """Return a report's only finding."""
    (finding,) = report.findings
    return finding


def contents(directory: Path) -> dict[str, bytes | None]:
    """Return every file below a folder; lock files come and go with looks."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in sorted(directory.rglob("*"))
        if not path.name.endswith(".lock")
    }
