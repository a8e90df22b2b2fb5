"""Whatever is stopped or killed in the middle of a project's run: every session comes out right, no job runs twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab_up import LabUp
from tests.postgres import MISSING, Postgres
from tests.project_run import Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SESSIONS, AT_ONCE = 6, 3
WORKER, SERVER = b"worker\0start", b"server\0start"  # words of their commands


LEASE_SECONDS = 420.0  # a deployment's lease is the longest: five minutes


class Lab:
    """`sessionflow up` and a project whose jobs wait until they are let."""

    def __init__(self, root: Path, **variables: str) -> None:
        self.project = Project(root, SESSIONS, held=True)
        self.up = LabUp(root, **variables)

    def launch(self) -> str:
        """Start the project's run as a person does in the UI."""
        server = self.project.server.model_dump(exclude_defaults=True)
        return self.up.launch(
            "process-project/process-project", project="Project", server=server, maximum_sessions=AT_ONCE
        )

    def launch_and_wait(self) -> str:
        """Start the project's run; return its id when a job runs, more are handed over, and sessions are to come."""
        run = self.launch()
        self.up.wait(lambda: self.project.trace() and len(self.project.submitted()) == AT_ONCE, 240)
        return run

    def kill(self, word: bytes, number: signal.Signals) -> None:
        """Send a signal to what has these words in its command, and wait until it is gone."""
        (pid,) = (found for found in self.up.processes(word) if os.getpgid(found) == found)
        os.kill(pid, number)
        self.up.wait(lambda: pid not in self.up.processes(word))

    def let_go(self) -> None:
        """Let the jobs end."""
        (self.project.root / "go").touch()

    def is_right(self) -> None:
        """Check that every session is done and free, that its job ended once, and that no slot stays taken."""
        assert (self.project.locked(), self.project.trackers()) == ([], {"complete"})
        assert sorted(self.project.trace("end")) == self.project.names
        self.up.wait(lambda: not self.taken(), LEASE_SECONDS)

    def taken(self) -> int:
        """Return how many slots of the limits are held, as far as Prefect knows."""
        return sum(int(limit["active_slots"]) for limit in self.up.ask("v2/concurrency_limits/filter", {}))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """One that is up."""
    made = Lab(tmp_path)
    made.up.start("--drain", "2")
    yield made
    made.up.kill_everything()


def worker_stopped(lab: Lab) -> None:
    lab.kill(WORKER, signal.SIGTERM)


def worker_killed(lab: Lab) -> None:
    lab.kill(WORKER, signal.SIGKILL)


def server_stopped(lab: Lab) -> None:
    lab.kill(SERVER, signal.SIGTERM)


def server_killed(lab: Lab) -> None:
    lab.kill(SERVER, signal.SIGKILL)


@pytest.mark.parametrize("event", [worker_stopped, worker_killed, server_stopped, server_killed])
def test_after_a_part_was_stopped_or_killed_the_run_goes_on(lab: Lab, event: Callable[[Lab], None]) -> None:
    run = lab.launch_and_wait()
    event(lab)
    lab.up.stop()
    lab.up.start("--drain", "2")
    lab.let_go()
    ended = lab.up.ended(run, 240)
    assert ended["state_name"] == "Completed", ended["state"]
    lab.is_right()
    assert sorted(lab.project.trace()) == lab.project.names


def test_a_server_that_is_killed_and_comes_back_by_itself_costs_no_run(lab: Lab) -> None:
    run = lab.launch_and_wait()
    lab.kill(SERVER, signal.SIGKILL)
    lab.let_go()
    ended = lab.up.ended(run, 240)
    assert ended["state_name"] == "Completed", ended["state"]
    lab.is_right()
    assert sorted(lab.project.trace()) == lab.project.names


def test_after_a_power_cut_the_project_is_done_at_the_next_start(lab: Lab) -> None:
    run = lab.launch_and_wait()
    lab.up.kill_everything()
    lab.let_go()
    lab.up.start()
    ended = lab.up.ended(run, 240)
    assert ended["state_name"] == "Completed", ended["state"]
    lab.is_right()


def test_a_database_that_is_restarted_costs_no_run(tmp_path: Path) -> None:
    if MISSING:
        pytest.skip(MISSING)
    (tmp_path / "postgres").mkdir()
    postgres = Postgres(tmp_path / "postgres")
    (tmp_path / "lab").mkdir()
    lab = Lab(tmp_path / "lab", PREFECT_SERVER_DATABASE_CONNECTION_URL=postgres.url)
    try:
        lab.up.start()
        run = lab.launch_and_wait()
        postgres.restart(away=3)
        lab.let_go()
        ended = lab.up.ended(run, 240)
        assert ended["state_name"] == "Completed", ended["state"]
        lab.is_right()
        assert sorted(lab.project.trace()) == lab.project.names
    finally:
        lab.up.kill_everything()
        postgres.stop()


def test_two_workers_on_one_pool_do_every_session_once(lab: Lab) -> None:
    second = subprocess.Popen(
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", "sessionflow", "--name", "second"],
        env=lab.up.client_environment,
        cwd=lab.up.root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        lab.up.wait(lambda: len(lab.up.ask("work_pools/sessionflow/workers/filter", {})) == 2)
        run = lab.launch_and_wait()
        time.sleep(5)  # both have asked for work again
        lab.let_go()
        ended = lab.up.ended(run, 240)
        assert (ended["state_name"], ended["run_count"]) == ("Completed", 1), ended["state"]
        lab.is_right()
        assert sorted(lab.project.trace()) == lab.project.names
    finally:
        second.terminate()
        second.wait(60)


def test_a_run_that_is_cancelled_in_the_ui_ends_all_its_jobs_and_frees_all_its_locks(lab: Lab) -> None:
    run = lab.launch_and_wait()
    lab.up.ask(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    ended = lab.up.ended(run, 120)
    assert ended["state_type"] == "CANCELLED"
    assert (lab.project.locked(), lab.project.trackers()) == ([], {""})
    lab.let_go()  # a job that lives would end, and say so
    time.sleep(1)
    assert lab.project.trace("end") == []
    open_runs: list[dict[str, Any]] = lab.up.ask(
        "flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}}
    )
    assert [r["name"] for r in open_runs if r["name"].startswith(("Project", "checksum"))] == []
    assert lab.up.ended(lab.launch(), 240)["state_name"] == "Completed"
    lab.is_right()
