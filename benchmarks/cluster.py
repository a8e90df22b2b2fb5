"""Makespan and requests of graphs of trivial jobs on a real cluster, against sbatch alone and Prefect's own share."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.graphs import PROJECT, SESSION, SHAPES
from tests.cluster import Cluster
from tests.conftest import make_session
from tests.prefect_server import REPOSITORY, PrefectServer

REPEATS = 3
GOALS = {"A": 1.3, "B": 1.1, "C": 1.1}
_REQUEST = re.compile(r"^\s*(REQUEST_\w+|MESSAGE_\w+)\s*\(.*?\)\s*count:(\d+)", re.MULTILINE)
_OURS = re.compile(r"SUBMIT|JOB_INFO|PARTITION_INFO|JOB_USER_INFO|CANCEL|KILL|UPDATE_JOB|FED_INFO|JOB_READY|BUILD_INFO")
Row = tuple[str, ...]


@dataclass
class Measured:
    """What the runs of one graph gave, each a list in the order of the runs.

    Attributes:
        floor, null, ours: seconds.
        requests: of the controller, by ours.
        lost: pipelines that did not succeed.
    """

    floor: list[float] = field(default_factory=list)
    null: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    floor_requests: list[int] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    channels: list[tuple[int, int]] = field(default_factory=list)
    lost: int = 0


def rows(graphs: str = "ABC", repeats: int = REPEATS) -> list[Row]:
    """Measure and return the table's rows; the runs of floor, Prefect's own share and ours take turns."""
    with tempfile.TemporaryDirectory(prefix="bench") as name, Cluster() as cluster:
        prefect = PrefectServer(Path(name))
        prefect.start()
        try:
            bench = _Bench(Path(name), cluster, prefect)
            bench.flows("A", "null")  # the first run registers flows and fills caches
            found = {graph: Measured() for graph in graphs}
            for _ in range(repeats):
                for graph, measured in found.items():
                    bench.measure(graph, measured)
        finally:
            prefect.stop()
    return [_row(graph, measured) for graph, measured in found.items()]


@dataclass
class _Bench:
    folder: Path
    cluster: Cluster
    prefect: PrefectServer
    runs: int = 0

    def measure(self, graph: str, measured: Measured) -> None:
        before = requests_of(self.cluster)
        measured.floor.append(self.floor(graph))
        between = requests_of(self.cluster)
        measured.floor_requests.append(between - before)
        measured.null.append(float(self.flows(graph, "null")["seconds"]))
        logins, channels = self.cluster.sshd.logins, self.cluster.sshd.channels
        between = requests_of(self.cluster)
        told = self.flows(graph)
        measured.ours.append(float(told["seconds"]))
        measured.requests.append(requests_of(self.cluster) - between)
        measured.megabytes.append(float(told["megabytes"]))
        measured.channels.append((self.cluster.sshd.logins - logins, self.cluster.sshd.channels - channels))
        measured.lost += int(told["of"]) - int(told["succeeded"])

    def flows(self, graph: str, *words: str) -> dict[str, Any]:
        """Run a graph as flows, on sessions of its own."""
        self.runs += 1
        root = self.folder / str(self.runs)
        for number in range(SHAPES[graph][0]):
            make_session(root / "storage", PROJECT, str(number), SESSION)
        (root / "working").mkdir(exist_ok=True)
        sshd = self.cluster.sshd
        server = {
            "name": "benchmark",
            "host": sshd.host,
            "port": sshd.port,
            "user": sshd.account,
            "key_file": str(sshd.key_file),
            "known_hosts_file": str(sshd.known_hosts_file),
            "storage_root": str(root / "storage"),
            "working_root": str(root / "working"),
            "scheduler": "slurm",
            "environments": {"core": {"python": sys.executable}},
        }
        (root / "server.json").write_text(json.dumps(server))
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.graphs", graph, str(root / "server.json"), *words],
            env={**self.prefect.environment, "PREFECT_LOGGING_LEVEL": "ERROR"},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])
        told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        if told["bad"]:
            sys.stderr.write(f"{graph}: {told['bad']}\n")
        return told

    def floor(self, graph: str) -> float:
        """Give the same jobs to sbatch, one after the other, and wait until none is left in the queue."""
        script = self.folder / "true.sh"
        script.write_text("#!/bin/bash\ntrue\n")
        environment = self.cluster.environment
        count, shape = SHAPES[graph]
        began = time.perf_counter()
        for _ in range(count):
            before: list[str] = []
            for jobs in shape:
                after = [f"--dependency=afterok:{':'.join(before)}"] if before else []
                words = ["sbatch", "--parsable", "--output=/dev/null", *after, str(script)]
                before = [_output(words, environment) for _ in range(jobs)]
        while _output(["squeue", "-h", "-u", "root", "-t", "pending,running,completing"], environment):
            time.sleep(0.1)
        return time.perf_counter() - began


def requests_of(cluster: Cluster) -> int:
    """Return how many requests of users' programs the controller has served."""
    return sum(int(count) for name, count in _REQUEST.findall(cluster.command("sdiag")) if _OURS.search(name))


def _output(words: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def _row(graph: str, measured: Measured) -> Row:
    floor, null, ours = (statistics.median(times) for times in (measured.floor, measured.null, measured.ours))
    jobs = SHAPES[graph][0] * sum(SHAPES[graph][1])
    logins, channels = measured.channels[-1]
    return (
        graph,
        f"{floor:.1f} s",
        f"{null:.1f} s",
        f"{ours:.1f} s",
        f"{ours / (floor + null):.2f} (≤ {GOALS[graph]})",
        " / ".join(f"{statistics.median(n) / jobs:.2f}" for n in (measured.requests, measured.floor_requests)),
        f"{logins} / {channels}",
        f"{statistics.median(measured.megabytes):.0f} MB",
        str(measured.lost),
    )


COLUMNS = (
    *("graph", "floor", "Prefect's own", "ours", "ours / (floor + own)"),
    *("requests per job / floor", "logins / channels", "memory", "lost"),
)
