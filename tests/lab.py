"""A lab for tests: sessions on a test cluster, flows that reach it over SSH, and what one asks of both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import Cluster
from tests.conftest import SESSION, make_session
from tests.daemon import wait_until
from tests.flow_process import Flow
from tests.managers import jobs_in_slurm, server_of
from tests.prefect_server import PrefectServer
from tests.slurm_side import SlurmSide, use
from trackers.kill import processes_of

ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED"}


class Lab:
    """A project with one session per animal, its server's description, and a Prefect server."""

    def __init__(
        self, cluster: Cluster, root: Path, prefect: PrefectServer, monkeypatch: pytest.MonkeyPatch, **server: Any
    ) -> None:
        self.cluster, self.root, self.prefect = cluster, root, prefect
        self.side = use(cluster, root, monkeypatch)
        self.server = server_of(cluster, root, **server)
        self.description = root / "server.yaml"
        fields = self.server.model_dump(mode="json", exclude_unset=True)
        self.description.write_text(yaml.safe_dump({k: v for k, v in fields.items() if not k.startswith("block")}))

    def flow(self, *words: str, animal: str = "305", project: str = "Project") -> Flow:
        """Start a flow over SSH; its words are those of `tests.long_flow`."""
        if not (self.root / "storage" / project / animal).exists():
            make_session(self.root / "storage", project, animal)
        options = ["--server", str(self.description), "--animal", animal, "--project", project]
        return Flow(self.root, self.prefect, *words, options=options)

    def of(self, animal: str = "305", project: str = "Project") -> SlurmSide:
        """Return the server side of one session, in this process."""
        side = SlurmSide(self.root, self.cluster)
        side.arguments |= {"animal": animal, "project": project}
        return side

    def job(self, word: str, then: str = "true") -> str:
        """Return a command that leaves a trace, and then does something."""
        return f"echo {word} >> '{self.root}/trace'; {then}"

    def traces(self) -> list[str]:
        """Return the words of the jobs that began, in their order."""
        path = self.root / "trace"
        return path.read_text().split() if path.exists() else []

    def record(self, animal: str = "305", project: str = "Project") -> dict[str, Any]:
        """Return the checksum pipeline's newest record of a session; empty where there is none."""
        found = sorted(self._tracking(animal, project).glob("submissions/checksum/*/submission.json"))
        return dict(json.loads(found[-1].read_text())) if found else {}

    def last(self, job: int, animal: str = "305") -> dict[str, Any]:
        """Return what is recorded of a job's newest attempt."""
        return dict(self.record(animal)["attempts"][f"job-{job}"][-1])

    def states(self, animal: str = "305") -> list[str]:
        """Return the recorded states of the newest attempts."""
        record = self.record(animal)
        return [attempts[-1]["state"] for attempts in record["attempts"].values()] if record else []

    def wait(self, *states: str, animal: str = "305", seconds: float = 40.0) -> None:
        """Wait until the jobs of a session are in these states."""
        assert wait_until(lambda: self.states(animal) == list(states), seconds), self.states(animal)

    def attempt(self, job: int, number: int = 1, animal: str = "305") -> Path:
        """Return the folder of an attempt."""
        return self._tracking(animal, "Project") / f"submissions/checksum/0001/jobs/job-{job}/{number}"

    def tracker(self, animal: str = "305", project: str = "Project") -> str:
        """Return the tracker's status."""
        return str(self.of(animal, project).get("tracker_show", pipeline="CHECKSUM")["status"])

    def lock(self, animal: str = "305", project: str = "Project") -> str:
        """Say who holds the session's lock."""
        found = self.of(animal, project).get("lock_show")
        return "nobody" if found["manager_id"] == -1 else str(found["description"])

    def jobs(self, animal: str = "305", project: str = "Project") -> list[tuple[str, str, str]]:
        """Return id, key and state of a session's jobs in Slurm."""
        return jobs_in_slurm(self.cluster, f"sessionflow-{self.record(animal, project)['id']}-")

    def processes(self, animal: str = "305", project: str = "Project") -> list[int]:
        """Return the processes of a session's jobs, on whatever node."""
        record = self.record(animal, project)
        keys = [f"sessionflow-{record['id']}-{job}-{n}" for job in record["attempts"] for n in range(1, 9)]
        return sorted(processes_of(keys))

    def check(self, status: str, animal: str = "305", project: str = "Project", copies: int = 0) -> None:
        """Nothing was submitted twice, nothing is left, and tracker and lock are right."""
        keys = [key for _, key, _ in self.jobs(animal, project)]
        assert len(keys) == len(set(keys)) + copies, keys
        jobs = lambda: self.jobs(animal, project)  # noqa: E731
        assert wait_until(lambda: {state for _, _, state in jobs()} <= ENDED, 10.0), jobs()
        assert not self.processes(animal, project)
        assert (self.tracker(animal, project), self.lock(animal, project)) == (status, "nobody")

    def _tracking(self, animal: str, project: str) -> Path:
        return self.root / "storage" / project / animal / SESSION / "tracking_data"


@pytest.fixture
def lab(cluster: Cluster, tmp_path: Path, prefect: PrefectServer, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A lab on the cluster that all tests share."""
    return Lab(cluster, tmp_path, prefect, monkeypatch)


@pytest.fixture
def own_lab(
    own_cluster: Callable[..., Cluster], tmp_path: Path, prefect: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Lab]:
    """Make a lab with a cluster of its own: arguments of `Cluster`, and `server` for the description."""

    def make(server: dict[str, Any] | None = None, root: str = "", **arguments: Any) -> Lab:
        place = tmp_path / root if root else tmp_path
        return Lab(own_cluster(**arguments), place, prefect, monkeypatch, **(server or {}))

    return make
