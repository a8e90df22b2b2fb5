"""A project of many sessions loses nothing, and Prefect shows all of it as it was, on both of its databases."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.runs import server_of
from tests.cluster import Cluster
from tests.postgres import MISSING, Postgres
from tests.prefect_server import REPOSITORY, PrefectServer
from tests.trivial_project import TrivialProject

MEGABYTES = 400
SESSIONS = [20, *([int(os.environ["SESSIONFLOW_TEST_SESSIONS"])] if "SESSIONFLOW_TEST_SESSIONS" in os.environ else [])]
"""How many: a few, and with SESSIONFLOW_TEST_SESSIONS=200 so many as well, which takes half an hour."""


@pytest.fixture(params=["sqlite", "postgres"])
def prefect(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PrefectServer]:
    """A Prefect server on each of the databases."""
    with contextlib.ExitStack() as stack:
        server = PrefectServer(tmp_path)
        if request.param == "postgres":
            if MISSING:
                pytest.skip(MISSING)
            (tmp_path / "postgres").mkdir()
            postgres = Postgres(tmp_path / "postgres")
            stack.callback(postgres.stop)
            server.settings["PREFECT_API_DATABASE_CONNECTION_URL"] = postgres.url.replace(":", "+asyncpg:", 1)
        yield stack.enter_context(server)


def run(project: TrivialProject, cluster: Cluster, prefect: PrefectServer, seconds: float) -> dict[str, Any]:
    """Run a project to its end, in a process of its own; return what that says."""
    description = project.root / "server.json"
    description.write_text(server_of(cluster, project.root, **project.server).model_dump_json())
    done = subprocess.run(
        [sys.executable, "-m", "tests.trivial_project", str(description), '{"maximum_sessions": 50}'],
        env=prefect.environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (project.root / "said.json").write_text(done.stdout)  # for whoever wants to know how long it took
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def everything(prefect: PrefectServer, kind: str) -> list[dict[str, Any]]:
    """Return all that Prefect has of a kind."""
    found: list[dict[str, Any]] = []
    order = "NAME_ASC" if kind == "flows" else "ID_DESC"
    while page := prefect.post(f"{kind}/filter", {"limit": 200, "offset": len(found), "sort": order}):
        found += page
    return found


def states(prefect: PrefectServer, kind: str, jobs: int) -> Counter[str]:
    """Return how many runs are in each state; those of tasks travel as events, and come a little later."""
    deadline = time.monotonic() + 60
    while True:
        found = Counter(str(run["state_type"]) for run in everything(prefect, kind))
        if (set(found) == {"COMPLETED"} and found.total() >= jobs) or time.monotonic() > deadline:
            return found
        time.sleep(1)


@pytest.mark.slow
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("sessions", SESSIONS)
def test_nothing_is_lost_and_prefect_shows_everything_as_it_ended(
    tmp_path: Path, cluster: Cluster, prefect: PrefectServer, sessions: int
) -> None:
    project = TrivialProject(tmp_path / "lab", sessions)
    said = run(project, cluster, prefect, seconds=60 + 20 * sessions)
    assert said["standings"] == {"succeeded": sessions}, said
    assert (project.unfinished(), len(project.trace()), len(set(project.trace()))) == ([], project.jobs, project.jobs)
    flows = {flow["id"]: flow["name"] for flow in everything(prefect, "flows")}
    runs = everything(prefect, "flow_runs")
    assert Counter(flows[run["flow_id"]] for run in runs) == project.flow_runs
    assert Counter(run["state_type"] for run in runs) == {"COMPLETED": len(runs)}
    tasks = states(prefect, "task_runs", project.jobs)
    assert set(tasks) == {"COMPLETED"}, tasks
    assert tasks.total() >= project.jobs
    pages = {a["flow_run_id"] for a in everything(prefect, "artifacts") if a["type"] in ("markdown", "table")}
    assert [run["name"] for run in runs if run["id"] not in pages] == []
    assert said["megabytes"] <= MEGABYTES
