"""How flows on a cluster end: cancelled in every way, killed and continued, out of reach of their server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tests.conftest import SESSION
from tests.daemon import wait_until
from tests.flow_process import Flow
from tests.lab import ENDED, Lab
from tests.prefect_server import REPOSITORY
from trackers.processes import ProcessIdentity

CANCEL_SECONDS = 10 + 5  # promised, and slack for a busy machine
NOTICE_SECONDS = 5  # at most, until a run that no worker started sees its own state


def stubborn(lab: Lab, word: str) -> str:
    """A job that ignores TERM, with a process that has left its group, and one that has left its session as well."""
    return lab.job(
        word,
        f"trap '' TERM; echo $$ >> '{lab.root}/pids'; setsid sleep 1000 & echo $! >> '{lab.root}/pids'; "
        f"(set -m; sleep 1000 & echo $! >> '{lab.root}/pids'); sleep 1000",
    )


def begun(lab: Lab, flow: Flow, *words: str) -> list[int]:
    """Wait until jobs have begun and are recorded as running; return the pids that they wrote down."""
    flow.wait_until(lambda: set(lab.traces()) >= set(words) and lab.states().count("RUNNING") == len(words))
    pids = lab.root / "pids"
    flow.wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 3 * len(words))
    return [int(pid) for pid in pids.read_text().split()]


def living(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        try:
            ProcessIdentity.of(pid)
        except ProcessLookupError:
            continue
        if "\nState:\tZ" not in open(f"/proc/{pid}/status").read():  # noqa: PTH123, SIM115
            found.append(pid)
    return found


def cancel_in_prefect(lab: Lab, flow: Flow) -> None:
    run = lab.prefect.runs("long 305")[0]
    lab.prefect.post(f"flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})


def cancel_by_command(lab: Lab, flow: Flow) -> None:
    words = ["cancel", "Project/305/2025-08-26-18-30-15-123456", "--server", str(lab.description), "--yes"]
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *words],
        env=lab.prefect.environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "Ended: checksum/0001" in done.stdout


WAYS = {
    "Ctrl-C": lambda lab, flow: flow.process.send_signal(signal.SIGINT),
    "SIGTERM": lambda lab, flow: flow.process.send_signal(signal.SIGTERM),
    "the UI": cancel_in_prefect,
    "sessionflow cancel": cancel_by_command,
}


@pytest.mark.parametrize("way", ["SIGTERM", *(pytest.param(w, marks=pytest.mark.slow) for w in WAYS if w != "SIGTERM")])
def test_a_cancel_ends_every_job_then_tracker_then_lock(lab: Lab, way: str) -> None:
    flow = lab.flow(stubborn(lab, "a"), stubborn(lab, "b"), "--then", lab.job("never"))
    pids = begun(lab, flow, "a", "b")
    assert len(living(pids)) == 6
    asked = time.monotonic()
    WAYS[way](lab, flow)
    limit = CANCEL_SECONDS + (NOTICE_SECONDS if way == "the UI" else 0)
    order: list[str] = []
    while "lock" not in order:
        assert time.monotonic() - asked < limit, order
        if "lock" not in order and lab.lock() == "nobody":
            order += ["lock"]
            assert not living(pids)
            assert {state for _, _, state in lab.jobs()} <= ENDED
            assert lab.tracker() == ""
        time.sleep(0.05)
    flow.end()
    assert lab.traces() in (["a", "b"], ["b", "a"])
    lab.check("")
    assert lab.prefect.runs("long 305")[0]["state_type"] == ("FAILED" if way == "sessionflow cancel" else "CANCELLED")


def test_a_cancel_while_sbatch_hangs_does_not_wait_for_it_and_what_lands_late_does_not_begin(lab: Lab) -> None:
    calls, landed = lab.root / "calls", lab.root / "landed"
    lab.cluster.wrap(
        "sbatch",
        f"""echo call >> '{calls}'
if [ $(wc -l < '{calls}') = 2 ]; then sleep 15; touch '{landed}'; fi
exec "$REAL" "$@" """,
    )
    flow = lab.flow(stubborn(lab, "a"), lab.job("late"), lab.job("never"))
    flow.wait_until(lambda: calls.exists() and calls.read_text().count("call") == 2 and lab.traces() == ["a"])
    asked = time.monotonic()
    flow.process.terminate()
    assert wait_until(lambda: lab.lock() == "nobody", CANCEL_SECONDS)
    assert time.monotonic() - asked < CANCEL_SECONDS
    assert not landed.exists()
    assert not lab.processes()
    assert lab.tracker() == ""
    flow.end()
    assert wait_until(landed.exists, 20)
    assert wait_until(lambda: len(lab.jobs()) == 2, 10)
    lab.check("")
    assert (lab.traces(), calls.read_text().count("call")) == (["a"], 2)
    assert lab.prefect.runs("long 305")[0]["state_type"] == "CANCELLED"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_cancel_while_the_server_is_out_of_reach_ends_the_flow_and_leaves_the_lock_for_the_next_run(
    lab: Lab,
) -> None:
    commands = [lab.job("a", f"until [ -e '{lab.root}/go' ]; do sleep 0.1; done"), "--then", lab.job("b")]
    flow = lab.flow(*commands)
    lab.wait("RUNNING", "PENDING")
    job = lab.last(0)["scheduler_id"]
    lab.cluster.sshd.kill()
    asked = time.monotonic()
    flow.process.terminate()
    flow.end(110)
    assert time.monotonic() - asked < 100
    assert lab.lock() != "nobody"
    assert lab.cluster.state(job) == "RUNNING"
    lab.cluster.sshd.start()
    flow = lab.flow(*commands)
    flow.wait_until(lambda: lab.record()["flow_run_id"] == lab.prefect.runs("long 305")[0]["id"])
    (lab.root / "go").touch()
    code, report = flow.end()
    assert (code, report["status"], lab.traces()) == (0, 1, ["a", "b"]), report
    assert lab.last(0)["scheduler_id"] == job
    lab.check("succeeded")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_command_says_of_a_run_that_it_ended_out_of_reach_of_the_server_that_its_jobs_go_on(lab: Lab) -> None:
    endless = {"words": ["bash", "-c", f"touch '{lab.root}/begun'; sleep 1000"]}
    description = yaml.safe_load(lab.description.read_text()) | {"commands": {"checksum": endless}}
    lab.description.write_text(yaml.safe_dump(description))
    words = ["--server", str(lab.description), "--project", "Project", "--animal", "305", "--session", SESSION]
    command = [sys.executable, "-m", "flows.cli", "run", "checksum", *words]
    process = subprocess.Popen(command, env=lab.prefect.environment, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    assert wait_until((lab.root / "begun").exists, 40)
    lab.cluster.sshd.kill()
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=110)[1]
    lab.cluster.sshd.start()
    assert said.count(f"The lock of Project/305/{SESSION} stays, and jobs that run go on") == 1
    assert "its jobs have ended" not in said


def test_a_flow_that_was_killed_is_continued_at_once_with_the_jobs_that_run(lab: Lab) -> None:
    commands = [
        *(lab.job("short"), lab.job("long", f"until [ -e '{lab.root}/go' ]; do sleep 0.1; done")),
        *("--then", lab.job("last")),
    ]
    flow = lab.flow(*commands)
    lab.wait("COMPLETED", "RUNNING", "PENDING")
    ids = [lab.last(n)["scheduler_id"] for n in range(3)]
    os.kill(flow.process.pid, signal.SIGKILL)
    flow.end()
    again = lab.flow(*commands)
    again.wait_until(lambda: lab.record()["flow_run_id"] == lab.prefect.runs("long 305")[0]["id"])
    (lab.root / "go").touch()
    code, report = again.end()
    assert (code, report["status"]) == (0, 1), report
    assert "adopted: job-0, job-1" in report["stderr"]
    assert [lab.last(n)["scheduler_id"] for n in range(3)] == ids
    assert sorted(lab.traces()) == ["last", "long", "short"]
    lab.check("succeeded")


@pytest.mark.slow
def test_a_graph_goes_on_without_its_manager_to_its_last_stage(lab: Lab) -> None:
    commands = [lab.job("first", "sleep 3"), "--then", lab.job("second"), "--then", lab.job("third")]
    flow = lab.flow(*commands)
    lab.wait("RUNNING", "PENDING", "PENDING")
    ids = [lab.last(n)["scheduler_id"] for n in range(3)]
    os.kill(flow.process.pid, signal.SIGKILL)
    flow.end()
    assert wait_until(lambda: lab.cluster.state(ids[2]) == "COMPLETED", 30)
    assert lab.traces() == ["first", "second", "third"]
    code, report = lab.flow(*commands).end()
    assert (code, report["status"], lab.traces()) == (0, 1, ["first", "second", "third"]), report
    assert [lab.last(n)["scheduler_id"] for n in range(3)] == ids
    lab.check("succeeded")
