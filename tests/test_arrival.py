"""Sessions are processed when their data is complete: those of a project that wants it, and those that a run awaits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.checksum import directory_checksum
from tests.conftest import SESSION, make_session
from tests.lab_up import LabUp
from trackers import arrivals, exclusions
from trackers.session import CHECKSUM_FILE
from trackers.site import Site
from trackers.targets import Target

ROUND_SECONDS = 150.0  # two looks of the watch, and a run


def site_of(root: Path) -> Site:
    return Site.from_json({"storage": str(root / "storage"), "working": str(root / "working")})


def arrived(root: Path) -> list[str]:
    found = arrivals.arrivals(site_of(root), [])
    assert found["problems"] == []
    return [names["session"] for names in found["arrived"]]


def add(root: Path, session: str, *, complete: bool = True) -> Path:
    raw_data = make_session(root / "storage", session=session, kind="window checking") / "raw_data"
    (raw_data / CHECKSUM_FILE).write_text(directory_checksum(raw_data))
    if not complete:
        (raw_data / "telomere.bin").unlink()
    return raw_data


OLD, NEW, LATER = SESSION, SESSION.replace("2025", "2026"), SESSION.replace("2025", "2027")


def test_what_arrives_after_a_project_was_switched_on_is_told_until_something_ran_on_it(tmp_path: Path) -> None:
    (tmp_path / "working").mkdir()
    add(tmp_path, OLD)
    raw_data = add(tmp_path, LATER, complete=False)
    project = Target(site_of(tmp_path), "Project")
    assert arrived(tmp_path) == []
    arrivals.switch_on(project, "ada")
    assert arrived(tmp_path) == []
    add(tmp_path, NEW)
    assert arrived(tmp_path) == [NEW]
    (raw_data / "telomere.bin").touch()
    assert arrived(tmp_path) == [NEW, LATER]
    exclusions.exclude(Target(project.site, "Project", "305", NEW).paths, "dark", "bea")
    assert arrived(tmp_path) == [LATER]
    lock = Target(project.site, "Project", "305", LATER).lock
    lock.acquire(7)
    assert arrived(tmp_path) == []
    assert arrivals.switch_off(project)
    assert not arrivals.switch_off(project)


def test_a_file_that_cannot_be_read_is_a_problem_of_its_project_alone(tmp_path: Path) -> None:
    (tmp_path / "working").mkdir()
    add(tmp_path, OLD)
    arrivals.switch_on(Target(site_of(tmp_path), "Project"), "")
    (tmp_path / "storage" / "Project" / arrivals.FILE).write_text("a: [")
    found = arrivals.arrivals(site_of(tmp_path), [{"project": "Project", "animal": "305", "session": OLD}])
    assert "Project" in found["problems"][0]
    assert found["complete"] == [{"project": "Project", "animal": "305", "session": OLD}]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabUp]:
    up = LabUp(tmp_path_factory.mktemp("lab"))
    add(up.root, OLD)
    up.start("--drain", "5")
    yield up
    up.kill_everything()


def runs_of(lab: LabUp, session: str) -> list[dict[str, Any]]:
    found = lab.ask("flow_runs/filter", {"flows": {"name": {"any_": ["process-session"]}}})
    return [run for run in found if run["parameters"].get("session") == session]


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_run_that_was_launched_too_early_awaits_its_data_and_then_begins(lab: LabUp) -> None:
    raw_data = add(lab.root, LATER, complete=False)
    names = {"project": "Project", "animal": "305", "session": LATER}
    run = lab.launch("process-session/process-session", **names)
    lab.wait(lambda: lab.run(run)["state_name"] == "AwaitingData", 90)
    assert "telomere.bin" in lab.run(run)["state"]["message"]
    words = [word for name, value in names.items() for word in (f"--{name}", value)]
    again = lab.command("launch", "process-session", *words, environment=lab.client_environment)
    assert again.returncode == 0, again.stderr
    assert [found["id"] for found in runs_of(lab, LATER)] == [run]
    (raw_data / "telomere.bin").touch()
    ended = lab.ended(run, ROUND_SECONDS)
    assert ended["state_name"] == "Completed", ended["state"]["message"]
    assert len(runs_of(lab, LATER)) == 1


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_session_that_arrives_is_processed_and_what_was_there_before_is_not(lab: LabUp) -> None:
    switched = lab.command("arrival", "on", "Project")
    assert switched.returncode == 0, switched.stderr
    add(lab.root, NEW)
    (run,) = lab.wait(lambda: runs_of(lab, NEW), ROUND_SECONDS)
    assert run["parameters"]["requested_by"] == "arrival watch"
    assert {"Project", "305"} <= set(run["tags"])
    assert lab.ended(run["id"], ROUND_SECONDS)["state_name"] == "Completed"
    assert runs_of(lab, OLD) == []
    assert json.dumps(lab.command("arrival", "show", "Project").stdout).count("processed on arrival") == 1
