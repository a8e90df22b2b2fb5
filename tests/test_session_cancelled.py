"""A session's run, or a part of it, that is cancelled on its own page in Prefect while its project goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.prefect_server import PrefectServer
from tests.project_run import Project, ProjectRun, processed


def cancel(prefect: PrefectServer, name: str) -> None:
    """Do what the button on a run's page does."""
    run = prefect.runs(name)[0]
    prefect.post(f"flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})


@pytest.mark.parametrize("part", ["", pytest.param("checksum ", marks=pytest.mark.slow)])
def test_a_session_cancelled_in_the_middle_of_a_project_ends_alone(
    tmp_path: Path, prefect: PrefectServer, part: str
) -> None:
    project = Project(tmp_path, 3, held=True)
    run = ProjectRun(project, prefect)
    run.wait_until(lambda: project.submitted() == project.names)
    first, chosen, last = project.names
    cancel(prefect, f"{part}Project/305/{chosen}")
    run.wait_until(lambda: project.locked() == [first, last], 30)
    (tmp_path / "go").touch()
    code, said = run.end()
    assert (code, said["sessions"][chosen][0]) == (0, "ended"), said
    assert sorted(project.trace("end")) == [first, last]
    assert prefect.runs(f"Project/305/{chosen}")[0]["state_type"] == "CANCELLED"
    assert prefect.runs(f"checksum Project/305/{chosen}")[0]["state_type"] == "CANCELLED"
    code, said = processed(project, prefect)
    assert (code, said["sessions"][chosen][0]) == (0, "succeeded"), said


def test_a_session_cancelled_while_it_waits_for_its_turn_on_a_volume_never_begins(
    tmp_path: Path, prefect: PrefectServer
) -> None:
    project = Project(tmp_path, 5, held=True)
    run = ProjectRun(project, prefect)
    run.wait_until(lambda: len(project.submitted()) == 4 and len(project.locked()) == 5)
    (chosen,) = set(project.names) - set(project.submitted())
    cancel(prefect, f"Project/305/{chosen}")
    run.wait_until(lambda: chosen not in project.locked(), 30)
    (tmp_path / "go").touch()
    code, said = run.end()
    assert (code, said["sessions"][chosen][0], chosen in project.trace()) == (0, "ended", False), said
    assert prefect.runs(f"Project/305/{chosen}")[0]["state_type"] == "CANCELLED"
