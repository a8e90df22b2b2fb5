"""Flows that were killed are swept by the command and by the flow, and a rerun gets its way all the same."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace

import pytest

from tasks.client import Client
from tasks.lease import Lease, take_lock
from tasks.servers import Server
from tests.conftest import Side
from tests.flow_process import Flow
from tests.prefect_server import REPOSITORY, PrefectServer
from tests.sweeping import NAME, contents, dead_process, hold, session, settled, sweeping
from tests.test_interruptions import job, locked, traces, tracker
from trackers.lock import Holder
from trackers.manager import generate_manager_id
from trackers.processes import ProcessIdentity

pytestmark = pytest.mark.slow


def sessionflow_sweep(side: Side, prefect: PrefectServer, *words: str) -> tuple[int, list[str]]:
    """Run the command; return its exit code and what it printed."""
    roots = ("--storage", str(side.root / "storage"), "--working", str(side.root / "working"))
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "sweep", *words, *roots, "--requested-by", "bea"],
        env=prefect.environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).strip().splitlines()


def test_a_flow_that_was_killed_and_whose_graph_ran_to_its_end_is_shown_and_then_repaired(
    side: Side, prefect: PrefectServer
) -> None:
    flow = Flow(side.root, prefect, job(side, "begun", f"until [ -e {side.root}/go ]; do sleep 0.1; done"))
    flow.wait_until(lambda: traces(side) == ["begun"])
    flow.process.kill()
    flow.end()
    code, lines = sessionflow_sweep(side, prefect, "Project", "--repair")
    assert (code, "still run or wait: job-0 RUNNING" in lines[0]) == (0, True), lines
    (side.root / "go").touch()
    settled(side)
    before = contents(side.root)
    code, lines = sessionflow_sweep(side, prefect)
    assert code == 0
    assert "Prefect says of its flow run: Running; its process has ended" in lines[0]
    assert "To do: close checksum/0001 as succeeded; release the lock." in lines[0]
    assert lines[1:] == [
        "1 sessions looked at: 1 to repair.",
        "Nothing was changed. The same command with --repair does it.",
    ]
    assert contents(side.root) == before
    code, lines = sessionflow_sweep(side, prefect, "--repair")
    assert (code, lines[-1]) == (0, "1 sessions looked at: 1 repaired.")
    assert (tracker(side), locked(side), traces(side)) == ("succeeded", False, ["begun"])
    assert prefect.runs("sweep")[0]["state_type"] == "COMPLETED"
    assert (side.root / "storage" / "Project" / "Project_manifest.feather").exists()
    assert sessionflow_sweep(side, prefect) == (0, ["1 sessions looked at: nothing was left behind."])


def test_an_owner_on_another_host_is_dead_when_prefect_says_that_its_run_has_ended_and_not_before(
    side: Side, prefect: PrefectServer
) -> None:
    Flow(side.root, prefect, "false").end()
    (ended,) = prefect.runs("long 305")[:1]
    hold(side, None, host="elsewhere", prefect_api=prefect.api, flow_run_id="0" * 8)
    code, lines = sessionflow_sweep(side, prefect, "--repair")
    assert (code, locked(side)) == (0, True)
    assert "It is not touched." in lines[0]
    session(side).lock.update(side.incarnation, flow_run_id=ended["id"])
    code, lines = sessionflow_sweep(side, prefect, "--repair")
    assert (code, locked(side)) == (0, False)
    assert "Prefect says of its flow run: Failed" in lines[0]


def test_a_rerun_that_starts_while_it_is_swept_always_ends_well(side: Side, prefect: PrefectServer) -> None:
    command = job(side, "begun", "true")
    flow = Flow(side.root, prefect, command, job(side, "bad", f"[ -e {side.root}/mended ]"))
    flow.wait_until(lambda: sorted(traces(side)) == ["bad", "begun"])
    flow.process.kill()
    flow.end()
    settled(side)
    (side.root / "mended").touch()
    rerun = Flow(side.root, prefect, command, job(side, "bad", f"[ -e {side.root}/mended ]"))

    async def swept() -> None:
        while rerun.process.poll() is None:
            await sweeping(side, repair=True)

    asyncio.run(swept())
    code, report = rerun.end()
    assert (code, report["status"]) == (0, 1), report
    assert traces(side).count("begun") == 1
    assert (tracker(side), locked(side)) == ("succeeded", False)


async def test_a_lock_that_a_rerun_and_a_sweeper_want_at_once_is_the_reruns_in_the_end(side: Side) -> None:
    site = side.arguments["site"]
    client = Client(Server(storage_root=site["storage"], working_root=site["working"]))
    target = {key: side.arguments[key] for key in ("project", "animal", "session")}
    try:
        for number in range(1, 21):
            side.manager_id = generate_manager_id()
            hold(side, dead_process())
            side.submit([("a", "exit 1")], settings={"round": number})
            await asyncio.to_thread(settled, side)
            rerun = Holder(generate_manager_id(), process=ProcessIdentity.of_this_process())
            lease, _ = await asyncio.gather(
                take_lock.fn(client, target, {"BEHAVIOR": {"round": number}}, rerun), sweeping(side, repair=True)
            )
            assert isinstance(lease, Lease), lease
            assert session(side).lock.read().holder == replace(rerun, target=NAME)
            await lease.ask("cancel_all")
            await lease.ask("lock_release", manager_id=lease.manager_id)
    finally:
        await client.close()
    assert not locked(side)
    assert {row["status"] for row in side.get("why")["history"]} <= {"failed", "aborted"}
