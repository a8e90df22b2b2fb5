"""Graphs given to a test cluster: as flows in a process of their own, and to sbatch alone, which is the floor."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.graphs import PROJECT, SESSION, SHAPES
from tasks.servers import Environment, Server
from tests.cluster import Cluster
from tests.conftest import make_session
from tests.postgres import MISSING, Postgres
from tests.prefect_server import REPOSITORY, PrefectServer

AGAIN_SECONDS = 0.2  # between tries of the floor where Slurm admits no more jobs
_REQUEST = re.compile(r"^\s*(REQUEST_\w+|MESSAGE_\w+)\s*\(.*?\)\s*count:(\d+)", re.MULTILINE)
_OURS = re.compile(r"SUBMIT|JOB_INFO|PARTITION_INFO|JOB_USER_INFO|CANCEL|KILL|UPDATE_JOB|FED_INFO|JOB_READY|BUILD_INFO")
DATABASE = "SQLite, for Postgres is not installed" if MISSING else "Postgres"


@contextlib.contextmanager
def bench(**options: Any) -> Iterator[Bench]:
    """Start a test cluster with these options of `Cluster`, and a Prefect server on Postgres where that is installed.

    SQLite's refusals, which the client answers with pauses of 2, 4, 8 s, would be most of what is measured.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench")))
        cluster = stack.enter_context(Cluster(**options))
        prefect = PrefectServer(folder)
        if not MISSING:
            (folder / "postgres").mkdir()
            postgres = Postgres(folder / "postgres")
            stack.callback(postgres.stop)
            prefect.settings["PREFECT_API_DATABASE_CONNECTION_URL"] = postgres.url.replace(":", "+asyncpg:", 1)
        stack.enter_context(prefect)
        made = Bench(folder, cluster, prefect)
        made.flows("A", "null")  # the first run registers flows and fills caches
        yield made


def server_of(cluster: Cluster, folder: Path, **fields: Any) -> Server:
    """Return the description of a test cluster whose volumes are in `folder`; `fields` replace others of it."""
    (folder / "working").mkdir(parents=True, exist_ok=True)
    sshd = cluster.sshd
    description = {
        "name": "benchmark",
        "host": sshd.host,
        "port": sshd.port,
        "user": sshd.account,
        "key_file": str(sshd.key_file),
        "known_hosts_file": str(sshd.known_hosts_file),
        "storage_root": str(folder / "storage"),
        "working_root": str(folder / "working"),
        "scheduler": "slurm",
        "environments": {"core": Environment(python=sys.executable)},
    }
    return Server(**{**description, **fields})


@dataclass
class Run:
    """A graph that runs as flows in a process of its own, on sessions in `root`."""

    graph: str
    root: Path
    process: subprocess.Popen[str]

    def followed(self) -> float:
        """Wait until every job of the graph is known to Slurm and followed; return after how many seconds it was."""
        return float(self._line()["followed"])

    def report(self) -> dict[str, Any]:
        """Wait for the end; return what the program prints last, and say which pipelines did not succeed."""
        while "seconds" not in (told := self._line()):
            continue
        self.process.wait()
        if told["bad"]:
            sys.stderr.write(f"{self.graph}: {told['bad']}\n")
        return told

    def kill(self) -> None:
        """End the process with SIGKILL; what it had started goes on."""
        self.process.kill()
        self.process.wait()

    def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError((self.root / "errors").read_text()[-3000:])
        told: dict[str, Any] = json.loads(line)
        return told


@dataclass
class Bench:
    """A test cluster and a Prefect server, and what is run on them."""

    folder: Path
    cluster: Cluster
    prefect: PrefectServer
    runs: int = 0

    def start(self, graph: str, *words: str, root: Path | None = None, **fields: Any) -> Run:
        """Start a graph as flows.

        Args:
            graph: one of `SHAPES`.
            words: the command of its jobs, or "null"; see `benchmarks.graphs`.
            root: of an earlier run, whose sessions are taken again; none: new ones.
            fields: of the server's description that differ.
        """
        if root is None:
            self.runs += 1
            root = self.folder / str(self.runs)
            for number in range(SHAPES[graph][0]):
                make_session(root / "storage", PROJECT, str(number), SESSION)
        description = root / "server.json"
        description.write_text(server_of(self.cluster, root, **fields).model_dump_json())
        with (root / "errors").open("a") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.graphs", graph, str(description), *words],
                env={**self.prefect.environment, "PREFECT_LOGGING_LEVEL": "ERROR"},
                cwd=REPOSITORY,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        return Run(graph, root, process)

    def flows(self, graph: str, *words: str, **fields: Any) -> dict[str, Any]:
        """Run a graph as flows, on sessions of its own; return what the program prints last."""
        return self.start(graph, *words, **fields).report()

    def floor(self, graph: str, command: str = "true") -> float:
        """Give the same jobs to sbatch, one after the other, and wait until none is left; return the seconds.

        What Slurm's submit limit refuses is given to it again until it is accepted.
        """
        script = self.folder / "floor.sh"
        script.write_text(f"#!/bin/bash\n{command}\n")
        count, shape = SHAPES[graph]
        began = time.perf_counter()
        for _ in range(count):
            before: list[str] = []
            for jobs in shape:
                before = self.submitted(script, jobs, before)
        self.wait_until_none_is_left()
        return time.perf_counter() - began

    def submitted(self, script: Path, jobs: int, before: list[str]) -> list[str]:
        """Give so many jobs to sbatch, which run after those in `before`; return their ids."""
        after = [f"--dependency=afterok:{':'.join(before)}"] if before else []
        words = ["sbatch", "--parsable", "--output=/dev/null", *after, str(script)]
        return [self._accepted(words) for _ in range(jobs)]

    def wait_until_none_is_left(self) -> None:
        """Wait until Slurm has no job any more."""
        while self._ask(["squeue", "-h", "-u", "root", "-t", "pending,running,completing"]).stdout.strip():
            time.sleep(0.1)

    def _accepted(self, words: list[str]) -> str:
        while True:
            done = self._ask(words)
            if not done.returncode:
                return done.stdout.strip()
            if "MaxSubmitJobLimit" not in done.stderr:
                raise RuntimeError(done.stderr)
            time.sleep(AGAIN_SECONDS)

    def _ask(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, env=self.cluster.environment, capture_output=True, text=True, check=False)


def requests_of(cluster: Cluster) -> Counter[str]:
    """Return how many requests of users' programs the controller has served, by kind."""
    found = _REQUEST.findall(cluster.command("sdiag"))
    return Counter({name: int(count) for name, count in found if _OURS.search(name)})
