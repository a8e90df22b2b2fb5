"""A project's sessions are processed side by side, and again only where something is left to do."""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from flows import heartbeats
from tests.prefect_server import PrefectServer
from tests.project_run import Project, ProjectRun, processed
from trackers import exclusions
from trackers.manager import generate_manager_id
from trackers.names import ProcessingPipelines


@pytest.fixture(scope="module")
def prefect(own_prefect: PrefectServer) -> PrefectServer:
    return own_prefect


def runs(prefect: PrefectServer, flow: str = "process-session") -> list[dict[str, Any]]:
    """Return the flow runs of a flow, newest first."""
    filters = {"flows": {"name": {"any_": [flow]}}, "sort": "EXPECTED_START_TIME_DESC"}
    found: list[dict[str, Any]] = prefect.post("flow_runs/filter", filters)
    return found


def count(prefect: PrefectServer) -> int:
    """Return how many flow runs there are, of all flows."""
    return int(prefect.post("flow_runs/count", {}))


def page(prefect: PrefectServer, project: str = "Project") -> str:
    """Return the page of a project's newest run."""
    from flows.project_page import artifact_key

    body = {"artifacts": {"key": {"any_": [artifact_key(project, "run")]}}, "sort": "CREATED_DESC", "limit": 1}
    return str(prefect.post("artifacts/filter", body)[0]["data"])


def grids(prefect: PrefectServer, project: str = "Project") -> list[dict[str, Any]]:
    """Return the pages of a project: there must be one."""
    from flows.project_page import artifact_key

    found: list[dict[str, Any]] = prefect.post(
        "artifacts/filter", {"artifacts": {"key": {"any_": [artifact_key(project)]}}}
    )
    return found


def standings(said: dict[str, Any]) -> list[str]:
    """Return how the sessions stand, the oldest first."""
    assert "sessions" in said, said
    return [standing for _, (standing, _, _) in sorted(said["sessions"].items())]


def contents(root: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
        if not path.name.endswith(".lock")
    }


def test_each_kind_of_session_gets_what_it_needs_and_a_second_run_finds_nothing_left(
    tmp_path: Path, prefect: PrefectServer
) -> None:
    project = Project(tmp_path, 6)
    good, finished, wrong, excluded, locked, incomplete = project.names
    processed(project, prefect, sessions=[finished])
    project.verify(wrong, "0" * 32)
    exclusions.exclude(project.target(excluded).paths, "dark", "bea")
    project.target(locked).lock.acquire(generate_manager_id())
    (project.raw_data(incomplete) / "telomere.bin").unlink()
    before = runs(prefect)
    code, said = processed(project, prefect, requested_by="ada")
    assert (code, standings(said)) == (
        1,
        ["succeeded", "done", "failed", "excluded", "in progress", "not ready"],
    )
    assert said["order"] == sorted(project.names, reverse=True)
    assert "is not what was acquired" in said["sentence"].splitlines()[0]
    assert "its process" in said["sessions"][locked][1] or "Nothing could be asked" in said["sessions"][locked][1]
    started = [run for run in runs(prefect) if run not in before]
    assert {run["name"] for run in started} == {f"Project/305/{good}", f"Project/305/{wrong}"}
    assert all({"Project", "305"} <= set(run["tags"]) for run in started)
    assert {run["state_type"] for run in started} == {"COMPLETED", "FAILED"}
    shown = page(prefect)
    assert all(session in shown for session in project.names)
    assert f"flow-run/{next(run['id'] for run in started if good in run['name'])}" in shown
    assert "is excluded by bea" in shown
    (grid,) = grids(prefect)
    of_good = next(line for line in grid["data"].splitlines() if good in line)
    assert re.search(r"\| ✓ \[\d{4}-\d\d-\d\d\]\(/runs/flow-run/[-0-9a-f]{36}\) \| – \|", of_good), of_good
    assert "**failed**" in next(line for line in grid["data"].splitlines() if wrong in line)
    assert "excluded" in next(line for line in grid["data"].splitlines() if excluded in line)
    assert (tmp_path / "storage" / "Project" / "Project_manifest.feather").exists()
    assert sorted(project.trace()) == sorted([finished, good, wrong])
    runs_before = count(prefect)
    code, said = processed(project, prefect)
    assert (code, standings(said)) == (0, ["done", "done", "waiting", "excluded", "in progress", "not ready"])
    assert count(prefect) == runs_before + 1
    assert len(project.trace()) == 3
    exclusions.exclude(project.target(good).paths, "dark", "bea")
    processed(project, prefect)
    (grid,) = grids(prefect)
    of_good = next(line for line in grid["data"].splitlines() if good in line)
    assert "excluded by bea" in of_good, "a run that finds nothing to do brings the page up to date as well"


def test_what_failed_runs_again_when_asked_to_by_its_cause_and_when_its_input_has_changed(
    tmp_path: Path, prefect: PrefectServer
) -> None:
    project = Project(tmp_path, 1)
    project.verify(project.names[0], "0" * 32)
    for options, expected in (
        ({}, "failed"),
        ({}, "waiting"),
        ({"rerun_failed": True, "failed_cause": "memory"}, "waiting"),
        ({"rerun_failed": True, "failed_cause": "EXIT CODE 1"}, "failed"),
        ({}, "waiting"),
    ):
        _, said = processed(project, prefect, **options)
        assert standings(said) == [expected], (options, said)
    assert len(project.trace()) == 2
    project.verify(project.names[0])
    code, said = processed(project, prefect)
    assert (code, standings(said), len(project.trace())) == (0, ["succeeded"], 3)
    record = project.target(project.names[0]).submissions(ProcessingPipelines.CHECKSUM).current()
    assert record is not None
    assert record.code_version


def test_every_run_within_a_projects_run_says_that_it_lives(tmp_path: Path, prefect: PrefectServer) -> None:
    project = Project(tmp_path, 2)
    code, _ = ProjectRun(project, prefect).end()  # in a process of its own: Prefect's events go to its first server
    assert code == 0
    names = [f"Project/305/{session}" for session in project.names]
    lived = {prefect.runs(name)[0]["id"] for name in (*names, *(f"checksum {name}" for name in names))}
    asked = {"filter": {"event": {"name": [heartbeats.HEARTBEAT]}}, "limit": 50}
    deadline = time.monotonic() + 30  # the server writes events in batches
    while True:
        found = prefect.post("events/filter", asked)["events"]
        if lived <= (said := {event["resource"]["prefect.resource.id"][-36:] for event in found}):
            return
        assert time.monotonic() < deadline, lived - said
        time.sleep(0.5)


def test_a_dry_run_says_what_would_be_done_and_touches_nothing(tmp_path: Path, prefect: PrefectServer) -> None:
    project = Project(tmp_path, 3)
    exclusions.exclude(project.target(project.names[1]).paths, "dark", "bea")
    before, runs_before = contents(tmp_path), count(prefect)
    code, said = processed(project, prefect, dry_run=True)
    assert (code, standings(said)) == (0, ["to run", "excluded", "to run"])
    assert contents(tmp_path) == before
    assert count(prefect) == runs_before + 1
    assert page(prefect).startswith("# Plan: Project\n\n2 to run, 1 excluded.")


@pytest.mark.parametrize("how", ["sigterm", pytest.param("prefect", marks=pytest.mark.slow)])
def test_a_cancel_in_the_middle_ends_every_job_and_frees_every_lock(
    tmp_path: Path, prefect: PrefectServer, how: str
) -> None:
    project = Project(tmp_path, 6, held=True)
    run = ProjectRun(project, prefect, maximum_sessions=3)
    run.wait_until(lambda: project.trace() and len(project.locked()) == 3)
    if how == "sigterm":
        run.process.terminate()
    else:
        (newest,) = [r for r in runs(prefect, "process-project") if r["state_type"] == "RUNNING"]
        prefect.post(f"flow_runs/{newest['id']}/set_state", {"state": {"type": "CANCELLING"}})
    run.end()
    time.sleep(0.5)
    (tmp_path / "go").touch()  # a job that lives would end, and say so
    time.sleep(0.5)
    assert project.trace("end") == []
    assert (project.locked(), project.trackers()) == ([], {""})
    assert runs(prefect, "process-project")[0]["state_type"] == "CANCELLED"
    assert "RUNNING" not in {r["state_type"] for r in runs(prefect) if r["name"].split("/")[-1] in project.names}
    code, said = processed(project, prefect)
    assert (code, standings(said)) == (0, ["succeeded"] * 6)
    assert sorted(project.trace("end")) == project.names


def test_a_run_that_is_killed_is_continued_by_the_next_one_and_nothing_is_done_twice(
    tmp_path: Path, prefect: PrefectServer
) -> None:
    project = Project(tmp_path, 5, held=True)
    run = ProjectRun(project, prefect, maximum_sessions=3)
    run.wait_until(lambda: project.trace() and len(project.submitted()) == 3)
    run.process.kill()
    run.end()
    assert project.locked()
    again = ProjectRun(project, prefect)
    again.wait_until(lambda: len(project.locked()) == 5)
    (tmp_path / "go").touch()
    code, said = again.end()
    assert (code, standings(said)) == (0, ["succeeded"] * 5)
    assert sorted(project.trace("end")) == project.names
    assert sorted(project.trace()) == project.names
    assert (project.locked(), project.trackers()) == ([], {"complete"})


def test_two_runs_at_once_share_the_sessions_and_do_none_twice(tmp_path: Path, prefect: PrefectServer) -> None:
    project = Project(tmp_path, 6)
    pair = [ProjectRun(project, prefect, maximum_sessions=2) for _ in range(2)]
    said = [run.end()[1] for run in pair]
    assert {standing for each in said for standing in standings(each)} <= {"succeeded", "done", "in progress"}
    assert sorted(project.trace()) == project.names
    assert (project.locked(), project.trackers()) == ([], {"complete"})


def test_prefects_limits_hold_and_without_them_it_is_said(tmp_path: Path, prefect: PrefectServer) -> None:
    limits = [
        prefect.post("v2/concurrency_limits/", {"name": f"sessionflow-{volume}", "limit": 1})
        for volume in ("storage", "working")
    ]
    project = Project(tmp_path, 3, held=True)
    run = ProjectRun(project, prefect)
    run.wait_until(lambda: project.trace() and len(project.locked()) == 3)
    time.sleep(1)
    assert len(project.submitted()) == 1
    assert prefect_limit(prefect, limits[0])["active_slots"] == 1
    run.wait_until(lambda: [waiting(prefect, name) for name in project.names] == [True, True, False])
    (tmp_path / "go").touch()
    code, said = run.end()
    assert (code, standings(said)) == (0, ["succeeded"] * 3)
    assert project.trace() == sorted(project.names, reverse=True)
    assert prefect_limit(prefect, limits[0])["active_slots"] == 0
    for limit in limits:
        delete(prefect, f"v2/concurrency_limits/{limit['id']}")
    (tmp_path / "more").mkdir()
    code, said = ProjectRun(Project(tmp_path / "more", 2), prefect).end()
    assert (code, standings(said)) == (0, ["succeeded"] * 2)
    newest = runs(prefect, "process-project")[0]["id"]
    logs = prefect.post("logs/filter", {"logs": {"flow_run_id": {"any_": [newest]}}})
    assert any("no active limit sessionflow-storage" in log["message"] for log in logs)


def test_a_session_that_a_rig_has_launched_is_left_to_its_own_run(tmp_path: Path, prefect: PrefectServer) -> None:
    project = Project(tmp_path, 2)
    flow = prefect.post("flows/", {"name": "process-session"})["id"]
    deployment = prefect.post("deployments/", {"name": "rig", "flow_id": flow})["id"]
    names = {"project": "Project", "animal": "305", "session": project.names[1], "requested_by": "rig 1"}
    run = prefect.post(f"deployments/{deployment}/create_flow_run", {"parameters": names})
    code, said = processed(project, prefect)
    assert (code, standings(said)) == (0, ["succeeded", "launched"])
    assert "asked for by rig 1 (unverified)" in said["sessions"][project.names[1]][1]
    prefect.post(f"flow_runs/{run['id']}/set_state", {"state": {"type": "COMPLETED"}, "force": True})
    _, said = processed(project, prefect)
    assert standings(said) == ["done", "succeeded"]


def test_the_manifest_is_written_anew_once_and_without_work_only_when_asked(
    tmp_path: Path, prefect: PrefectServer
) -> None:
    project = Project(tmp_path, 3)
    manifest, before = tmp_path / "storage" / "Project" / "Project_manifest.feather", len(runs(prefect, "manifest"))
    processed(project, prefect)
    assert len(runs(prefect, "manifest")) == before + 1
    manifest.unlink()
    processed(project, prefect)
    assert not manifest.exists()
    code, _ = processed(project, prefect, regenerate_manifest=True)
    assert (code, manifest.exists()) == (0, True)


@pytest.mark.slow
def test_a_signal_is_ours_also_while_runs_of_sessions_begin(tmp_path: Path, prefect: PrefectServer) -> None:
    _, said = ProjectRun(Project(tmp_path, 6), prefect, maximum_sessions=2).end()
    assert said["handlers"] == ["Interruption._on_signal"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_sigterm_at_any_moment_leaves_no_job_and_no_lock(tmp_path: Path, prefect: PrefectServer) -> None:
    for number in range(6):
        root = tmp_path / str(number)
        root.mkdir()
        project = Project(root, 8, seconds=0.2)
        run = ProjectRun(project, prefect)
        run.wait_until(lambda project=project: len(project.trace()) >= 1)
        time.sleep(0.4 * number)
        run.process.terminate()
        run.end()
        began = len(project.trace())
        time.sleep(1)
        assert (len(project.trace()), project.locked()) == (began, [])
        assert "running" not in project.trackers()


@pytest.mark.slow
async def test_without_a_server_of_prefects_the_run_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect: PrefectServer
) -> None:
    project = Project(tmp_path, 2)
    home = tmp_path / "home"
    environment = {key: value for key, value in prefect.environment.items() if key != "PREFECT_API_URL"}
    alone = PrefectServer(home)
    monkeypatch.setattr(PrefectServer, "environment", {**environment, "PREFECT_HOME": str(home)})
    code, said = await asyncio.to_thread(lambda: ProjectRun(project, alone).end())
    assert (code, standings(said)) == (0, ["succeeded"] * 2), json.dumps(said)


def prefect_limit(prefect: PrefectServer, limit: dict[str, Any]) -> dict[str, Any]:
    with urllib.request.urlopen(f"{prefect.api}/v2/concurrency_limits/{limit['id']}", timeout=10) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found


def waiting(prefect: PrefectServer, session: str) -> bool:
    """Tell whether the progress of a session's newest run says that it waits for its limit."""
    run = prefect.runs(f"Project/305/{session}")[0]["id"]
    found = prefect.post("artifacts/filter", {"flow_runs": {"id": {"any_": [run]}}})
    return any("waits for a slot of the limit sessionflow-storage" in each["description"] for each in found)


def delete(prefect: PrefectServer, path: str) -> None:
    request = urllib.request.Request(f"{prefect.api}/{path}", method="DELETE")
    urllib.request.urlopen(request, timeout=10).close()
