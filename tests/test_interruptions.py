"""Lock, records and trackers are right after every way in which a flow or its jobs can end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import SESSION, Side
from tests.flow_process import Flow
from tests.prefect_server import PrefectServer
from trackers.kill import KEY_VARIABLE
from trackers.lock import SessionLock
from trackers.tracker import ProcessingTracker

CLEANUP_SECONDS = 10 + 5  # promised, and slack for a busy machine


def tracker(side: Side) -> str:
    return str(side.get("tracker_show", pipeline="CHECKSUM")["status"])


def locked(side: Side) -> bool:
    return bool(side.get("lock_show")["manager_id"] != -1)


def traces(side: Side) -> list[str]:
    """Return what the jobs wrote, a word each time that one began."""
    path = side.root / "trace"
    return path.read_text().split() if path.exists() else []


def job(side: Side, word: str, then: str = "sleep 60") -> str:
    return f"echo {word} >> {side.root}/trace; {then}"


def job_processes(side: Side) -> list[int]:
    """Return the processes of jobs of this test's submissions."""
    ids = {json.loads(path.read_text())["id"] for path in side.root.rglob("submission.json")}
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                environment = (entry / "environ").read_bytes()
                if any(f"{KEY_VARIABLE}=sessionflow-{i}-".encode() in environment for i in ids):
                    found.append(int(entry.name))
    return found


def supervisors(side: Side) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if (
                    str(side.root).encode() in (command := (entry / "cmdline").read_bytes())
                    and b"supervisor" in command
                ):
                    found.append(int(entry.name))
    return found


def test_a_success_leaves_a_result_a_complete_tracker_and_a_free_lock(side: Side, prefect: PrefectServer) -> None:
    code, report = Flow(side.root, prefect, "true", "true").end()
    assert (code, report["status"]) == (0, 1)
    assert (tracker(side), locked(side)) == ("succeeded", False)
    assert [r["pipeline"] for r in side.get("why")["results"]] == ["CHECKSUM"]
    assert not list((side.root / "storage" / "Project" / "305").rglob("output.log"))
    code, report = Flow(side.root, prefect, "true", "true").end()
    assert (code, report["ran"]) == (0, False)


def test_an_error_of_a_job_fails_the_pipeline_says_why_and_frees_the_lock(side: Side, prefect: PrefectServer) -> None:
    code, report = Flow(side.root, prefect, "echo the mouse has left >&2; exit 3", "true").end()
    assert (code, report["status"]) == (1, 2)
    assert "exit code 3" in report["reason"]
    assert "the mouse has left" in report["reason"]
    assert "errors.log" in report["reason"]
    assert (tracker(side), locked(side)) == ("failed", False)
    assert prefect.runs("long 305")[0]["state_type"] == "FAILED"


def test_an_error_of_the_flow_ends_its_jobs_and_frees_the_lock(side: Side, prefect: PrefectServer) -> None:
    code, report = Flow(side.root, prefect, "raise", job(side, "begun")).end()
    assert code == 1
    assert "a fault of our own" in report["stderr"]
    assert traces(side) == ["begun"]
    assert not job_processes(side)
    assert (tracker(side), locked(side)) == ("", False)


def test_a_run_that_was_refused_regenerates_no_manifest_and_one_that_failed_does(
    side: Side, prefect: PrefectServer
) -> None:
    path = side.root / "storage" / "Project" / "305" / SESSION / "tracking_data" / "checksum_resolution_tracker.yaml"
    manifest = side.root / "storage" / "Project" / "Project_manifest.feather"
    ProcessingTracker(path).start(7)  # as a manager of sl-shared-assets does, and dies
    code, report = Flow(side.root, prefect, "true").end()
    assert (code, report.get("error")) == (3, "TrackerOwnedError"), report
    assert not manifest.exists()
    assert not locked(side)
    ProcessingTracker(path).abort()
    assert Flow(side.root, prefect, "exit 3").end()[0] == 1
    assert manifest.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_ends_every_job_then_tracker_then_lock(
    side: Side, prefect: PrefectServer, number: signal.Signals
) -> None:
    flow = Flow(side.root, prefect, job(side, "begun"), job(side, "begun", "trap '' TERM; sleep 60; sleep 60"))
    flow.wait_until(lambda: traces(side) == ["begun", "begun"])
    started = time.monotonic()
    flow.process.send_signal(number)
    code, _ = flow.end()
    assert time.monotonic() - started < CLEANUP_SECONDS
    assert code in (-number, 128 + number, 1)
    assert not job_processes(side)
    assert (tracker(side), locked(side)) == ("", False)
    assert prefect.runs("long 305")[0]["state_type"] == "CANCELLED"


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_the_third_signal_ends_a_flow_at_once_says_so_and_leaves_the_lock(
    side: Side, prefect: PrefectServer, number: signal.Signals
) -> None:
    command = job(side, "begun", f"trap '' TERM; until [ -e {side.root}/go ]; do sleep 0.1; done")
    flow = Flow(side.root, prefect, command)
    flow.wait_until(lambda: traces(side) == ["begun"])
    for _ in range(3):
        flow.process.send_signal(number)
        time.sleep(0.4)
    assert flow.process.wait(3) == -number
    assert locked(side)
    (side.root / "go").touch()
    code, report = Flow(side.root, prefect, command).end()
    assert (code, report["status"]) == (0, 1)
    assert (tracker(side), locked(side)) == ("succeeded", False)
    assert "ended before its jobs were" in flow.end()[1]["stderr"]


def test_a_cancel_in_prefect_reaches_a_flow_that_no_worker_started(side: Side, prefect: PrefectServer) -> None:
    flow = Flow(side.root, prefect, job(side, "begun"))
    flow.wait_until(lambda: traces(side) == ["begun"])
    run = prefect.runs("long 305")[0]
    prefect.post(f"flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
    flow.end()
    assert not job_processes(side)
    assert (tracker(side), locked(side)) == ("", False)
    assert prefect.runs("long 305")[0]["state_type"] == "CANCELLED"


@pytest.mark.slow
def test_a_cancel_that_nobody_asked_for_ends_no_job_and_the_next_run_adopts_them(
    side: Side, prefect: PrefectServer
) -> None:
    command = job(side, "begun", f"until [ -e {side.root}/go ]; do sleep 0.1; done")
    Flow(side.root, prefect, "drop", command).end()
    assert job_processes(side)
    assert "something other than a person" in side.get("lock_show")["description"]
    flow = Flow(side.root, prefect, command)
    flow.wait_until(lambda: "abandoned" not in side.get("lock_show")["description"])
    (side.root / "go").touch()
    code, report = flow.end()
    assert (code, report["status"], traces(side)) == (0, 1, ["begun"])
    assert (tracker(side), locked(side)) == ("succeeded", False)


def test_a_killed_flow_is_continued_its_running_jobs_adopted_its_finished_ones_kept(
    side: Side, prefect: PrefectServer
) -> None:
    commands = (job(side, "short", "true"), job(side, "long", f"until [ -e {side.root}/go ]; do sleep 0.1; done"))
    flow = Flow(side.root, prefect, *commands)
    flow.wait_until(lambda: sorted(traces(side)) == ["long", "short"])
    flow.process.kill()
    flow.end()
    assert locked(side)
    assert job_processes(side)
    again = Flow(side.root, prefect, *commands)
    again.wait_until(lambda: len(side.get("why")["history"]) == 1)
    time.sleep(1)
    (side.root / "go").touch()
    code, report = again.end()
    assert (code, report["status"]) == (0, 1)
    assert sorted(traces(side)) == ["long", "short"]
    assert (tracker(side), locked(side)) == ("succeeded", False)


def test_a_killed_job_is_a_failure_that_says_so(side: Side, prefect: PrefectServer) -> None:
    flow = Flow(side.root, prefect, job(side, "begun"))
    flow.wait_until(lambda: traces(side) == ["begun"])
    for pid in job_processes(side):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    code, report = flow.end()
    assert (code, report["status"]) == (1, 2)
    assert "killed" in report["reason"]
    assert (tracker(side), locked(side)) == ("failed", False)


def test_after_a_kill_of_everything_the_next_run_keeps_what_was_done_and_repeats_the_rest(
    side: Side, prefect: PrefectServer
) -> None:
    commands = (
        job(side, "short", "true"),
        job(side, "long", f"[ -e {side.root}/go ] || sleep 60"),
    )
    flow = Flow(side.root, prefect, *commands)
    flow.wait_until(lambda: sorted(traces(side)) == ["long", "short"])
    time.sleep(0.5)
    for pid in [flow.process.pid, *supervisors(side), *job_processes(side)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    flow.end()
    assert locked(side)
    (side.root / "go").touch()
    code, report = Flow(side.root, prefect, *commands).end()
    assert (code, report["status"]) == (0, 1)
    assert sorted(traces(side)) == ["long", "long", "short"]
    assert (tracker(side), locked(side)) == ("succeeded", False)


def test_a_second_manager_is_refused_and_told_who_works_and_how_to_clear_it(side: Side, prefect: PrefectServer) -> None:
    flow = Flow(side.root, prefect, job(side, "begun"))
    flow.wait_until(lambda: traces(side) == ["begun"])
    code, refusal = Flow(side.root, prefect, "something else").end()
    assert code == 3
    for words in (
        str(flow.process.pid and "manager"),
        "a test",
        "long 305",
        "Prefect says",
        "Running",
        "lives",
        "job-0",
    ):
        assert words in refusal["message"], refusal["message"]
    assert f"sessionflow lock release {side.root}/storage/Project/305/{SESSION}" in refusal["message"]
    assert locked(side)
    flow.process.terminate()
    flow.end()
    assert not locked(side)


@pytest.mark.slow
def test_a_lock_of_another_host_is_taken_over_when_prefect_says_that_its_run_has_ended(
    side: Side, prefect: PrefectServer
) -> None:
    Flow(side.root, prefect, "false").end()
    ended = prefect.runs("long 305")[0]
    side.take_lock()
    lock = SessionLock(side.root / "storage" / "Project" / "305" / SESSION / "tracking_data" / "session_lock.yaml")
    lock.update(side.incarnation, host="elsewhere", process=None, prefect_api=prefect.api, flow_run_id="0" * 8)
    code, refusal = Flow(side.root, prefect, "true").end()
    assert (code, refusal["error"]) == (3, "SessionLockedError")
    lock.update(side.incarnation, flow_run_id=ended["id"])
    code, report = Flow(side.root, prefect, "true").end()
    assert (report["ran"], locked(side)) == (True, False)
