"""Local processes keep the promises: order, once only, cancel, kill -9 of the supervisor and of the jobs."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import Side, all_ended, states
from tests.daemon import wait_until
from trackers.kill import processes_of
from trackers.processes import ProcessIdentity


def _runs(pid: int) -> bool:
    try:
        ProcessIdentity.of(pid)
    except ProcessLookupError:
        return False
    return True


def test_stages_run_in_order_and_the_tracker_completes(side: Side, tmp_path: Path) -> None:
    side.take_lock()
    trace = tmp_path / "trace"
    view = side.submit(
        [("first", f"echo first >> {trace}")],
        [("a", f"sleep 0.3; echo a >> {trace}"), ("b", f"sleep 0.2; echo b >> {trace}")],
        [("last", f"echo last >> {trace}")],
    )
    assert side.get("tracker_show", pipeline="BEHAVIOR")["status"] == "running"
    view = side.wait(view, all_ended)
    assert set(states(view).values()) == {"COMPLETED"}
    lines = trace.read_text().split()
    assert lines[0] == "first"
    assert sorted(lines[1:3]) == ["a", "b"]
    assert lines[3] == "last"
    assert side.get("finish", pipeline="BEHAVIOR", number=view["number"])["status"] == "succeeded"
    assert side.get("tracker_show", pipeline="BEHAVIOR")["status"] == "succeeded"


def test_what_a_job_prints_is_told_without_what_terminals_and_databases_take_amiss(side: Side) -> None:
    side.take_lock()
    text = r"a\0b\n\033[31mred\033[0m\tx\n\033]0;title\a\377 é\n"
    view = side.wait(side.submit([("bad", f"printf '{text}' >&2; exit 3")]), all_ended)
    assert view["jobs"][0]["tail"] == ["a�b", "red\tx", "�]0;title�� é"]


def test_a_failed_job_blocks_what_follows_and_says_why(side: Side) -> None:
    side.take_lock()
    view = side.submit(
        [("bad", "echo progress 1/2 files; echo no such mouse >&2; exit 3"), ("good", "true")], [("never", "true")]
    )
    view = side.wait(view, all_ended)
    assert (states(view)["bad"], states(view)["good"]) == ("FAILED", "COMPLETED")
    assert view["jobs"][2]["blocked"]
    bad = view["jobs"][0]
    assert (bad["exit_code"], bad["tail"]) == (3, ["no such mouse"])
    closed = side.get("finish", pipeline="BEHAVIOR", number=view["number"])
    assert closed["status"] == "failed"
    assert side.get("tracker_show", pipeline="BEHAVIOR")["status"] == "failed"
    again = side.submit([("bad", "true"), ("good", "exit 1")], [("never", "true")])
    assert again["number"] == view["number"]
    again = side.wait(again, all_ended)
    assert [job["attempt"] for job in again["jobs"]] == [
        2,
        1,
        2,
    ]  # the recorded command failed again, the succeeded one was kept


def test_cancel_ends_every_process_also_those_that_ignore_term_or_hide(side: Side, tmp_path: Path) -> None:
    side.take_lock()
    pids = tmp_path / "pids"
    stubborn = f"trap '' TERM; setsid bash -c 'echo $$ >> {pids}; sleep 60' & echo $$ >> {pids}; sleep 60; sleep 60"
    view = side.submit([("stubborn", stubborn)], [("never", "true")])
    side.wait(view, lambda _: pids.exists() and len(pids.read_text().split()) == 2)
    started = time.monotonic()
    assert side.get("cancel_all", manager_id=side.manager_id) == {"ended": [view["name"]], "left": [], "requests": [""]}
    assert time.monotonic() - started < 10
    view = side.watch(view)
    assert (view["status"], states(view)["stubborn"]) == ("aborted", "CANCELLED")
    assert not any(_runs(int(pid)) for pid in pids.read_text().split())
    assert side.get("tracker_show", pipeline="BEHAVIOR")["status"] == ""


def test_jobs_outlive_a_killed_supervisor_and_the_rest_is_started_by_the_next(side: Side, tmp_path: Path) -> None:
    side.take_lock()
    trace = tmp_path / "trace"
    view = side.submit([("long", f"sleep 1.5; echo long >> {trace}")], [("next", f"echo next >> {trace}")])
    side.wait(view, lambda v: states(v)["long"] == "RUNNING")
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"trackers.supervisor" in command and str(tmp_path).encode() in command:
                os.kill(int(entry.name), signal.SIGKILL)
    view = side.wait(view, all_ended)
    assert set(states(view).values()) == {"COMPLETED"}
    assert trace.read_text().split() == ["long", "next"]


def test_a_job_killed_with_9_is_failed_and_not_run_again(side: Side, tmp_path: Path) -> None:
    side.take_lock()
    trace = tmp_path / "trace"
    view = side.submit([("victim", f"echo run >> {trace}; sleep 60")])
    side.wait(view, lambda _: trace.exists())
    directory = next((tmp_path / "storage").rglob("submission.json")).parent
    key = f"sessionflow-{json.loads((directory / 'submission.json').read_text())['id']}-victim-1"
    for pid in processes_of([key]):
        os.kill(pid, signal.SIGKILL)
    view = side.wait(view, all_ended)
    assert states(view)["victim"] == "FAILED"
    assert "killed" in view["jobs"][0]["reason"]
    assert trace.read_text().split() == ["run"]


def test_a_manager_that_is_itself_a_job_of_slurm_hands_none_of_that_on(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    side.take_lock()
    view = side.submit([("first", "true")], [("second", f"touch {side.root}/second")])
    assert wait_until((side.root / "second").exists, 10.0)  # without anybody who watches
    assert set(states(side.wait(view, all_ended)).values()) == {"COMPLETED"}
