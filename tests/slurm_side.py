"""The server side on a login node of a real cluster, in this process, for one session."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Cluster
from tests.conftest import Side, make_session
from trackers.graph import Graph, Job, Resources, Stage
from trackers.slurm_queue import queue_of


class SlurmSide(Side):
    """A session whose jobs a cluster runs."""

    def __init__(self, root: Path, cluster: Cluster, **slurm: Any) -> None:
        super().__init__(root)
        self.cluster = cluster
        self.arguments["site"] |= {"scheduler": "slurm", "slurm": slurm}

    def submit_jobs(self, *stages: Sequence[Job], pipeline: str = "BEHAVIOR", **arguments: Any) -> dict[str, Any]:
        """Submit stages of jobs."""
        graph = Graph(tuple(Stage(f"stage-{n}", tuple(jobs)) for n, jobs in enumerate(stages)))
        result: dict[str, Any] = self.get(
            "submit", pipeline=pipeline, graph=graph.to_json(), manager_id=self.manager_id, **arguments
        )
        return result

    def jobs_in_slurm(self, view: dict[str, Any]) -> list[tuple[str, str, str]]:
        """Return id, key and state of every job of a submission that Slurm remembers, by id."""
        lines = self.cluster.command("squeue", "-h", "-t", "all", "-o", "%i %T %k").splitlines()
        found = [line.split()[:3] for line in lines if f"sessionflow-{view['id']}-" in line]
        return sorted((i, key, state) for i, state, key in found)

    def finish(self, view: dict[str, Any]) -> dict[str, Any]:
        """Close a submission."""
        result: dict[str, Any] = self.get("finish", pipeline=view["pipeline"], number=view["number"])
        return result


def bash(name: str, text: str, **resources: Any) -> Job:
    """Return a job that runs a line of shell."""
    return Job(name, ("bash", "-c", text), Resources(**resources))


def use(cluster: Cluster, root: Path, monkeypatch: pytest.MonkeyPatch, **slurm: Any) -> SlurmSide:
    """Make this process a login node of a cluster, and give the side of a new session in `root`."""
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setitem(os.environ, name, cluster.environment[name])
    queue_of.cache_clear()
    make_session(root / "storage")
    (root / "working").mkdir()
    return SlurmSide(root, cluster, **slurm)


def by_name(view: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the jobs of a view by their names."""
    return {job["name"]: job for job in view["jobs"]}


def all_over(view: dict[str, Any]) -> bool:
    """Whether no job runs, waits, or is tried again."""
    return all(job["over"] for job in view["jobs"])
