"""A session on which somebody else begins to work, after the project's look at it, is in progress and not failed."""

from __future__ import annotations

from pathlib import Path

from tests.prefect_server import PrefectServer
from tests.project_run import Project, processed
from trackers.manager import generate_manager_id
from trackers.names import ProcessingPipelines


def test_a_session_that_another_program_works_on_is_in_progress_on_every_page(
    tmp_path: Path, prefect: PrefectServer
) -> None:
    project = Project(tmp_path, 2)
    busy, free = project.names
    project.target(busy).tracker(ProcessingPipelines.CHECKSUM).start(generate_manager_id(), 1)  # it takes no lock
    names = [f"Project/305/{busy}", f"checksum Project/305/{busy}"]
    before = [len(prefect.runs(name)) for name in names]
    code, said = processed(project, prefect)
    assert {name: standing for name, (standing, _, _) in said["sessions"].items()} == {
        busy: "in progress",
        free: "succeeded",
    }
    assert code == 0
    assert project.trace() == [free]
    for name, count in zip(names, before, strict=True):
        (run, *earlier) = prefect.runs(name)
        assert len(earlier) == count
        assert (run["state_type"], run["state_name"]) == ("COMPLETED", "InProgress"), run["state"]
        assert "manager" in run["state"]["message"]
    assert project.locked() == []
