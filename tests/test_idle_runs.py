"""What looks again and again leaves no run behind when there was nothing to do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.conftest import Side, make_session
from tests.lab_up import LabUp
from tests.sweeping import dead_process, hold

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
EVERY_SECONDS = 15


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabUp]:
    up = LabUp(tmp_path_factory.mktemp("lab"))
    make_session(up.storage)
    up.start("--drain", "5")
    yield up
    up.kill_everything()


def sweeps(lab: LabUp, *states: str) -> list[dict[str, Any]]:
    """Return the runs of the sweeper in some states, the oldest first."""
    wanted = {"flows": {"name": {"any_": ["sweep"]}}, "flow_runs": {"state": {"type": {"any_": list(states)}}}}
    found: list[dict[str, Any]] = lab.ask("flow_runs/filter", {**wanted, "sort": "EXPECTED_START_TIME_ASC"})
    return found


def within(run: dict[str, Any], seconds: float) -> bool:
    """Whether a run is to begin so soon: not the hourly one."""
    begins = datetime.fromisoformat(run["expected_start_time"])
    return begins < datetime.now(UTC) + timedelta(seconds=seconds)


def test_a_scheduled_sweep_that_found_nothing_leaves_no_run_and_no_error(lab: LabUp) -> None:
    by_hand = lab.launch("sweep/sweep")
    assert lab.ended(by_hand)["state_name"] == "Completed"
    deployment = lab.ask("deployments/name/sweep/sweep")["id"]
    schedule = {"schedule": {"interval": EVERY_SECONDS}, "active": True}
    (made,) = lab.ask(f"deployments/{deployment}/schedules", [schedule])
    soon = lab.wait(lambda: [run["id"] for run in sweeps(lab, "SCHEDULED") if within(run, 60)][:2], 60)
    lab.wait(lambda: not lab.ask("flow_runs/filter", {"flow_runs": {"id": {"any_": soon}}}), 120)
    hold(Side(lab.root), dead_process())
    over = ("COMPLETED", "FAILED", "CRASHED")
    (found, *_) = lab.wait(lambda: [run for run in sweeps(lab, *over) if run["auto_scheduled"]], 120)
    lab.ask(f"deployments/{deployment}/schedules/{made['id']}", method="DELETE")
    assert "1 repaired" in found["state"]["message"]
    lab.wait(lambda: not sweeps(lab, "PENDING", "RUNNING"))
    time.sleep(3)  # for what a part may say afterwards
    assert [run["id"] for run in sweeps(lab, *over)] == [by_hand, found["id"]]
    for part in ("worker", "server"):
        said = (lab.state / f"{part}.log").read_text()
        assert "Traceback" not in said
        assert "ERROR" not in said
