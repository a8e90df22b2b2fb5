"""A manager without Prefect: it locks a session, submits, follows, finishes and releases, as the flows do."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.client import Client
from tasks.compute_server import ComputeServer
from tasks.jobs import Submitted
from tasks.lease import Lease
from tests.cluster import Cluster
from tests.conftest import SESSION
from tests.prefect_server import REPOSITORY
from trackers.graph import Graph, Job, Stage
from trackers.lock import Holder
from trackers.manager import generate_manager_id
from trackers.processes import ProcessIdentity


def program(path: Path, module: str = "trackers", **variables: str) -> Path:
    """Write a program that can stand for a server's interpreter: it runs our code, and `module` as the server side."""
    variables = {"PYTHONPATH": str(REPOSITORY), **variables}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    other = f'[ "$*" = "-P -m trackers serve" ] && set -- -P -m {module} serve'
    path.write_text("\n".join(["#!/bin/bash", *lines, other, f'exec {shlex.quote(sys.executable)} "$@"', ""]))
    path.chmod(0o755)
    return path


def server_of(cluster: Cluster, root: Path, python: Path | None = None, **fields: Any) -> ComputeServer:
    """Describe a test cluster as people describe their server."""
    python = python or program(root / "python")
    return ComputeServer(
        **{
            "name": "lab",
            "host": cluster.sshd.host,
            "port": cluster.sshd.port,
            "user": cluster.sshd.account,
            "key_file": str(cluster.sshd.key_file),
            "known_hosts_file": str(cluster.sshd.known_hosts_file),
            "storage_root": str(root / "storage"),
            "working_root": str(root / "working"),
            "scheduler": "slurm",
            "environments": {"core": {"python": str(python)}},
            **fields,
        }
    )


class Manager:
    """One manager of one session, with a connection of its own to a server side of its own."""

    def __init__(self, server: ComputeServer, animal: str = "305") -> None:
        self.client = Client(server)
        self.target = {"project": "Project", "animal": animal, "session": SESSION}
        self.who = Holder(generate_manager_id(), process=ProcessIdentity.of_this_process())
        self.lease = Lease(self.client, self.target, 0, "")
        self.view: dict[str, Any] = {}

    async def lock(self, settings: dict[str, Any] | None = None) -> None:
        """Take the session's lock, from whoever holds it."""
        wish = {"BEHAVIOR": settings or {}}
        found = await self.client.ask("lock_show", **self.target)
        dead = {"manager_id": found["manager_id"], "holder": found["holder"]} if found["manager_id"] != -1 else None
        ask = {"holder": asdict(self.who), "wish": wish, "dead": dead}
        granted = await self.client.ask("lock_acquire", **self.target, **ask)
        self.lease = Lease(self.client, self.target, int(granted["manager_id"]), str(granted["incarnation"]))

    async def run(self, *stages: Sequence[Job]) -> dict[str, Any]:
        """Do everything; return the closed submission."""
        await self.lock()
        await self.submit(*stages)
        return await self.end()

    async def submit(self, *stages: Sequence[Job]) -> dict[str, Any]:
        """Hand a graph over."""
        graph = Graph(tuple(Stage(f"stage-{n}", tuple(jobs)) for n, jobs in enumerate(stages)))
        request = {"pipeline": "BEHAVIOR", "graph": graph.to_json(), "manager_id": self.lease.manager_id}
        request["request_id"] = secrets.token_hex(8)
        self.view = await self.lease.ask("submit", **request)
        return self.view

    async def end(self) -> dict[str, Any]:
        """Follow every job to its end, close the submission, and give the lock back."""
        async with Submitted(self.lease, self.view) as submitted:
            while not all(job["over"] for job in submitted.view["jobs"]):
                await submitted.change()
            self.view = await submitted.ask("finish", keep_logs=True)
        await self.lease.ask("lock_release", manager_id=self.lease.manager_id)
        return self.view

    async def tracker(self) -> str:
        """Return the tracker's status."""
        return str((await self.client.ask("tracker_show", **self.target, pipeline="BEHAVIOR"))["status"])

    async def locked(self) -> bool:
        """Whether anybody holds the session."""
        return bool((await self.client.ask("lock_show", **self.target))["manager_id"] != -1)

    async def close(self) -> None:
        """End the conversation."""
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await self.client.close()


def jobs_in_slurm(cluster: Cluster, submission_id: str = "") -> list[tuple[str, str, str]]:
    """Return id, key and state of every job of ours that Slurm remembers, by key."""
    lines = cluster.command("squeue", "-h", "-t", "all", "-o", "%i %T %k").splitlines()
    found = [(i, key, state) for i, state, key in (line.split()[:3] for line in lines if "sessionflow-" in line)]
    return sorted((job for job in found if submission_id in job[1]), key=lambda job: job[1])
