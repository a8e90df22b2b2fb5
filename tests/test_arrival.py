"""Sessions are processed when their data is complete: those of a project that wants it, and those that a run awaits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import arrival
from flows.awaiting import AWAITING
from jobs.checksum import directory_checksum
from tasks.compute_server import ComputeServer
from tests.conftest import SESSION, make_session
from tests.lab_up import LabUp
from tests.prefect_server import PrefectServer
from trackers import arrivals, exclusions
from trackers.errors import NotFoundError
from trackers.session import CHECKSUM_FILE
from trackers.site import Site
from trackers.targets import Target

ROUND_SECONDS = 150.0  # two looks of the watch, and a run


def site_of(root: Path) -> Site:
    return Site.from_json({"storage": str(root / "storage"), "working": str(root / "working")})


def arrived(root: Path, watch: str = "ours") -> list[str]:
    found = arrivals.arrivals(site_of(root), [], watch)
    assert found["problems"] == []
    return [names["session"] for names in found["arrived"]]


def add(root: Path, session: str, *, complete: bool = True, animal: str = "305") -> Path:
    raw_data = make_session(root / "storage", animal=animal, session=session, kind="window checking") / "raw_data"
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
    found = arrivals.arrivals(site_of(tmp_path), [{"project": "Project", "animal": "305", "session": OLD}], "ours")
    assert "Project" in found["problems"][0]
    assert found["complete"] == [{"project": "Project", "animal": "305", "session": OLD}]


def test_of_several_watches_one_starts_what_arrives_and_after_a_restart_still_may(tmp_path: Path) -> None:
    (tmp_path / "working").mkdir()
    add(tmp_path, OLD)
    arrivals.switch_on(Target(site_of(tmp_path), "Project"), "")
    paths = Target(site_of(tmp_path), "Project", "305", add(tmp_path, NEW).parent.name).paths
    assert arrivals.arrivals(site_of(tmp_path), [])["arrived"] == [], "who starts nothing claims nothing"
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: arrived(tmp_path, f"watch {n}"), range(8)))
    assert sorted(found) == [*[[]] * 7, [NEW]]
    first = f"watch {found.index([NEW])}"
    assert arrived(tmp_path, first) == [NEW]
    (paths.tracking_data / arrivals.CLAIM).write_text("watch: [")
    add(tmp_path, LATER)
    with pytest.raises(AssertionError, match="next watch that asks"):
        arrived(tmp_path, first)
    (paths.tracking_data / arrivals.CLAIM).unlink()
    assert arrived(tmp_path, "another") == [NEW, LATER]


def test_a_session_lacks_what_may_still_come_and_a_project_that_is_not_there_will_not(tmp_path: Path) -> None:
    (tmp_path / "working").mkdir()
    raw_data = add(tmp_path, LATER, complete=False)
    paths = Target(site_of(tmp_path), "Project", "305", LATER).paths
    assert "telomere.bin" in arrivals.lacking(paths)
    (raw_data / "nk.bin").touch()
    assert arrivals.lacking(paths) == ""
    for animal, session in (("305", NEW), ("306", OLD)):
        paths = Target(site_of(tmp_path), "Project", animal, session).paths
        assert arrivals.lacking(paths) == f"there is no session in {paths.storage_directory} yet"
    with pytest.raises(NotFoundError, match="no project 'Projekt'"):
        arrivals.lacking(Target(site_of(tmp_path), "Projekt", "305", OLD).paths)


def deployed(prefect: PrefectServer) -> str:
    """Have a deployment without a worker; return its id."""
    flow = prefect.post("flows/", {"name": "process-session"})["id"]
    return str(prefect.post("deployments/", {"name": "process-session", "flow_id": flow})["id"])


def awaiting(prefect: PrefectServer, session: str, server: dict[str, Any] | None) -> str:
    """Have a run await the data of a session; return its id."""
    deployment = deployed(prefect)
    parameters = {"project": "Project", "animal": "305", "session": session, "server": server}
    run = prefect.post(f"deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"]
    until = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    details = {"pause_timeout": until, "pause_reschedule": True, "pause_key": "data"}
    state = {"type": "PAUSED", "name": AWAITING, "state_details": details}
    prefect.post(f"flow_runs/{run}/set_state", {"state": state, "force": True})
    return str(run)


async def test_runs_that_describe_their_server_themselves_are_resumed_however_many_await_their_data(
    own_prefect: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "working").mkdir()
    monkeypatch.setattr(arrival, "PAGE", 3)
    description = {"storage_root": str(tmp_path / "storage"), "working_root": str(tmp_path / "working")}
    add(tmp_path, OLD)
    complete = [awaiting(own_prefect, OLD, description) for _ in range(5)]
    absent = awaiting(own_prefect, NEW, description)
    awaiting(own_prefect, OLD, {"storage_root": "/nowhere"})
    with temporary_settings({PREFECT_API_URL: own_prefect.api}):
        said = await arrival.look({})
    assert sum(line.endswith("its run begins") for line in said) == len(complete), said
    runs = {run["id"]: run["state_name"] for run in own_prefect.post("flow_runs/filter", {})}
    assert [runs[run] for run in complete] == ["Resuming"] * len(complete)
    assert runs[absent] == AWAITING


async def test_a_run_whose_server_was_removed_from_prefect_fails_and_one_of_this_computer_is_told_what_is_missing(
    own_prefect: PrefectServer,
) -> None:
    removed = awaiting(own_prefect, NEW, {"$ref": {"block_document_id": str(uuid4())}})
    here = awaiting(own_prefect, LATER, None)
    with temporary_settings({PREFECT_API_URL: own_prefect.api}):
        said = await arrival.look({})
        assert [line for line in said if NEW in line and line.endswith("has failed")], said
        assert [line for line in said if LATER in line and "SESSIONFLOW_STORAGE is not set" in line], said
        assert not [line for line in await arrival.look({}) if NEW in line and "removed" in line]
    runs = {run["id"]: run["state"] for run in own_prefect.post("flow_runs/filter", {})}
    assert runs[removed]["name"] == "Failed"
    assert "no longer described" in runs[removed]["message"]
    assert runs[here]["name"] == AWAITING


@pytest.mark.slow
async def test_two_watches_each_with_a_prefect_of_its_own_start_what_arrives_once(
    own_prefect: PrefectServer,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SESSIONFLOW_SPOOL", str(tmp_path / "spool"))
    (tmp_path / "working").mkdir()
    add(tmp_path, OLD)
    arrivals.switch_on(Target(site_of(tmp_path), "Project"), "")
    add(tmp_path, LATER)
    here = ComputeServer(storage_root=str(tmp_path / "storage"), working_root=str(tmp_path / "working"))
    said: list[str] = []
    with PrefectServer(tmp_path_factory.mktemp("other prefect")) as other:
        for prefect in (own_prefect, other):
            deployed(prefect)
        for prefect in (own_prefect, other, own_prefect, other):
            monkeypatch.setenv("PREFECT_API_URL", prefect.api)
            with temporary_settings({PREFECT_API_URL: prefect.api}):
                said += await arrival.look({arrival.HERE: here})
        runs = [run for prefect in (own_prefect, other) for run in prefect.post("flow_runs/filter", {})]
    assert len([run for run in runs if run["parameters"]["session"] == LATER]) == 1, said


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
def test_a_run_of_a_session_that_has_no_folder_yet_awaits_it_and_one_of_no_project_fails(lab: LabUp) -> None:
    session, names = LATER.replace("2027", "2028"), {"project": "Project", "animal": "306"}
    run = lab.launch("process-session/process-session", **names, session=session)
    nowhere = lab.launch("process-session/process-session", project="Projekt", animal="306", session=session)
    assert "There is no project 'Projekt'" in lab.ended(nowhere)["state"]["message"]
    lab.wait(lambda: lab.run(run)["state_name"] == "AwaitingData", 90)
    assert f"Project/306/{session} yet" in lab.run(run)["state"]["message"]
    begun = LATER.replace("2027", "2029")  # the copy: session_data.yaml is not there yet
    (lab.storage / "Project" / "306" / begun / "raw_data").mkdir(parents=True)
    early = lab.launch("process-session/process-session", **names, session=begun)
    lab.wait(lambda: lab.run(early)["state_name"] == "AwaitingData", 90)
    add(lab.root, session, animal="306")
    ended = lab.ended(run, ROUND_SECONDS)
    assert ended["state_name"] == "Completed", ended["state"]["message"]


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
