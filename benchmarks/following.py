"""What it costs to wait for a thousand jobs, and how soon a flow knows of an end, on a real cluster.

The jobs that wait cannot start (their node is drained). The jobs whose end is measured write down when they end; both
clocks are one computer's.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.graphs import PROJECT, SESSION
from benchmarks.runs import requests_of, server_of
from tasks.client import Client, connected
from tests.cluster import Cluster
from tests.conftest import make_session
from trackers.graph import Graph, Job, Stage
from trackers.lock import Holder
from trackers.manager import generate_manager_id
from trackers.processes import ProcessIdentity

WAITING = 1000
SECONDS = 120.0
ENDS = 60
Row = tuple[str, ...]


def rows() -> list[Row]:
    """Measure and return the table's rows: what, measured, goal."""
    with tempfile.TemporaryDirectory(prefix="bench") as name, Cluster() as cluster:
        return asyncio.run(_measured(Path(name), cluster))


async def _measured(folder: Path, cluster: Cluster) -> list[Row]:
    async with connected(server_of(cluster, folder)) as client:
        said = await client.ask("hello")
        delays = sorted(await _ends(client, folder))
        for node in cluster.nodes:
            cluster.set_node(node, "DRAIN")
        await _waiting(client, folder)
        await asyncio.sleep(10)
        pid = int(said["pid"])
        before, polls = _cpu_seconds(pid), requests_of(cluster).total()
        await asyncio.sleep(SECONDS)
        per_hour = (_cpu_seconds(pid) - before) * 3600 / SECONDS
        asked = (requests_of(cluster).total() - polls) * 3600 / SECONDS
        memory, ours = _megabytes(pid), _megabytes(os.getpid())
    p95 = delays[int(len(delays) * 0.95)]
    return [
        ("a job's end → its manager knows, median", f"{statistics.median(delays):.2f} s", "≤ 0.5 s"),
        ("… 95 %", f"{p95:.2f} s", "≤ 1.5 s"),
        (f"{WAITING:,} jobs wait: CPU on the login node, with squeue", f"{per_hour:.0f} s an hour", "≤ 60 s"),
        ("… memory there", f"{memory:.0f} MB", "≤ 60 MB"),
        ("… requests to the controller", f"{asked:.0f} an hour", ""),
        ("… memory of the manager, without Prefect", f"{ours:.0f} MB", ""),
    ]


async def _submitted(client: Client, folder: Path, animal: str, graph: Graph) -> dict[str, Any]:
    """Take a session's lock and submit a graph; return what names the submission."""
    make_session(folder / "storage", PROJECT, animal, SESSION)
    target = {"project": PROJECT, "animal": animal, "session": SESSION}
    who = Holder(generate_manager_id(), process=ProcessIdentity.of_this_process())
    granted = await client.ask("lock_acquire", **target, holder=asdict(who), wish={})
    lease = {**target, "incarnation": granted["incarnation"], "manager_id": granted["manager_id"]}
    view = await client.ask("submit", **lease, pipeline="BEHAVIOR", graph=graph.to_json())
    return {**lease, "pipeline": "BEHAVIOR", "number": view["number"], "key": animal}


async def _waiting(client: Client, folder: Path) -> None:
    graph = Graph((Stage("wait", (Job("wait", ("true",)),)),))
    for number in range(WAITING):
        lease = await _submitted(client, folder, f"w{number}", graph)
        client.listen(lease["key"], lambda event: None)
        await client.ask("watch", **lease)


async def _ends(client: Client, folder: Path) -> list[float]:
    """Run jobs that end at different times; return after how many seconds each end was known here."""
    known: dict[str, float] = {}
    everything = asyncio.Event()

    def hear(event: dict[str, Any]) -> None:
        for job in (event.get("view") or {"jobs": []})["jobs"]:
            if job["state"] == "COMPLETED":
                known.setdefault(job["name"], time.time())
        if len(known) == ENDS:
            everything.set()

    times = folder / "times"
    times.mkdir()
    command = ("bash", "-c", f'sleep "$1"; date +%s.%N > {times}/"$0"')
    jobs = tuple(Job(f"job-{n}", (*command, f"job-{n}", f"{1 + n * 0.37:.2f}")) for n in range(ENDS))
    lease = await _submitted(client, folder, "ends", Graph((Stage("end", jobs),)))
    client.listen(lease["key"], hear)
    await client.ask("watch", **lease)
    await everything.wait()
    return [at - float((times / name).read_text()) for name, at in known.items()]


def _cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and of those that it waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(int(ticks) for ticks in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def _megabytes(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
