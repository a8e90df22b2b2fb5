"""Retention removes what ended long ago, with all that belongs to it, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import retention as module
from flows.retention import retention
from tests.prefect_server import PrefectServer


def make_run(prefect: PrefectServer, name: str, state: str, days: float, *, page: bool = False) -> dict[str, Any]:
    """Make a run that got its state so many days ago, with a log line and, on request, an artifact."""
    flow = prefect.post("flows/", {"name": "old"})
    run: dict[str, Any] = prefect.post(
        "flow_runs/", {"flow_id": flow["id"], "name": name, "state": {"type": "PENDING"}}
    )
    for kind in ("RUNNING", state):
        prefect.post(f"flow_runs/{run['id']}/set_state", {"state": {"type": kind}, "force": True})
    task = {"flow_run_id": run["id"], "task_key": "t", "dynamic_key": "0", "state": {"type": "COMPLETED"}}
    prefect.post("task_runs/", task)
    line = {"name": "l", "level": 20, "message": "m", "timestamp": datetime.now(UTC).isoformat()}
    prefect.post("logs/", [{**line, "flow_run_id": run["id"]}])
    if page:
        prefect.post("artifacts/", {"flow_run_id": run["id"], "type": "markdown", "data": "d"})
    long_ago(prefect, days, "flow_run", "end_time", "end_time IS NOT NULL AND id", run)
    return run


def long_ago(prefect: PrefectServer, days: float, table: str, column: str, where: str, run: dict[str, Any]) -> None:
    """Write into the database that something was long ago: the API has no words for that."""
    at = f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%d %H:%M:%S.%f}"
    with contextlib.closing(sqlite3.connect(prefect.home / "prefect.db", timeout=30)) as database, database:
        database.execute(f"UPDATE {table} SET {column} = ? WHERE {where} = ?", (at, run["id"]))


def left(prefect: PrefectServer, what: str, run: dict[str, Any]) -> int:
    """Count what is left of a run: logs, artifacts or task_runs."""
    filters = {"logs": {"logs": {"flow_run_id": {"any_": [run["id"]]}}}}
    body = filters.get(what, {"flow_runs": {"id": {"any_": [run["id"]]}}})
    return len(prefect.post(f"{what}/filter", body))


async def removed(prefect: PrefectServer, **options: Any) -> int:
    with temporary_settings({PREFECT_API_URL: prefect.api}):
        count: int = await retention(**options)
    return count


@pytest.mark.timeout(240)
async def test_what_ended_long_ago_is_removed_and_what_runs_or_is_young_is_not(
    prefect: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    ended = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
    old = [make_run(prefect, f"old-{n}", ended[n % 4], days=100, page=n == 0) for n in range(5)]
    young = make_run(prefect, "young", "COMPLETED", days=80)
    runs = make_run(prefect, "runs", "RUNNING", days=100)
    long_ago(prefect, 100, "artifact", "updated", "flow_run_id", old[0])
    assert await removed(prefect, days=90, dry_run=True) == 5
    assert len(prefect.runs("old-0")) == 1
    assert await removed(prefect, days=90) == 5
    assert [prefect.runs(run["name"]) for run in old] == [[]] * 5
    assert [len(prefect.runs(run["name"])) for run in (young, runs)] == [1, 1]
    assert (left(prefect, "task_runs", old[0]), left(prefect, "task_runs", young)) == (0, 1)
    assert not [a for a in prefect.post("artifacts/filter", {}) if a["flow_run_id"] == old[0]["id"]]
    deadline = time.monotonic() + 30
    while left(prefect, "logs", old[0]):  # the server removes them in the background
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)
    assert (left(prefect, "logs", young), left(prefect, "logs", runs)) == (1, 1)
    assert await removed(prefect, days=90) == 0


@pytest.mark.timeout(240)
async def test_a_page_that_has_been_written_to_since_outlives_the_run_that_began_it(prefect: PrefectServer) -> None:
    make_run(prefect, "began the page", "COMPLETED", days=200, page=True)
    with temporary_settings({PREFECT_API_URL: prefect.api}):
        async with get_client() as client:
            before = {artifact.id for artifact in await client.read_artifacts()}
            assert before
            await retention(days=150)
            assert before <= {artifact.id for artifact in await client.read_artifacts()}


async def test_days_that_make_no_sense_are_refused(prefect: PrefectServer) -> None:
    with pytest.raises(Exception, match="greater than 0"):
        await removed(prefect, days=0)
