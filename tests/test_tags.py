"""However a run was started, the UI's filters find it by project and animal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.checksum import directory_checksum
from tests.conftest import make_session
from tests.lab_up import LabUp
from tests.project_run import name
from trackers.session import CHECKSUM_FILE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]
UI, PIPELINE, LAUNCH, COMMAND, LEFT = (name(number) for number in range(5))
FLOWS = ("process-session", "process-project", "checksum", "manifest")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabUp]:
    up = LabUp(tmp_path_factory.mktemp("lab"))
    for session in (UI, PIPELINE, LAUNCH, COMMAND, LEFT):
        add(up.storage, session)
    up.start("--drain", "5")
    yield up
    up.kill_everything()


def add(storage: Path, session: str) -> None:
    raw_data = make_session(storage, session=session, kind="window checking") / "raw_data"
    (raw_data / CHECKSUM_FILE).write_text(directory_checksum(raw_data))


def all_runs(lab: LabUp) -> dict[str, dict[str, Any]]:
    found = lab.ask("flow_runs/filter", {"flows": {"name": {"any_": list(FLOWS)}}})
    return {run["id"]: run for run in found}


def test_every_way_of_starting_tags_runs_with_project_and_animal(lab: LabUp) -> None:
    names = {"project": "Project", "animal": "305"}
    words = [word for key, value in names.items() for word in (f"--{key}", value)]
    started: dict[str, set[str]] = {}

    def note(way: str) -> None:
        started[way] = set(all_runs(lab)) - {run for runs in started.values() for run in runs}
        assert started[way], way

    assert lab.ended(lab.launch("process-session/process-session", **names, session=UI))["state_name"] == "Completed"
    note("a form in the UI")
    assert lab.ended(lab.launch("checksum/checksum", **names, session=PIPELINE))["state_name"] == "Completed"
    note("a pipeline's form in the UI")
    launched = lab.command(
        *("launch", "process-session", *words, "--session", LAUNCH, "--wait", "1.5"), environment=lab.client_environment
    )
    assert launched.returncode == 0, launched.stdout + launched.stderr
    note("launch()")
    by_command = lab.command("process", *words, "--session", COMMAND, environment=lab.client_environment)
    assert by_command.returncode == 0, by_command.stdout + by_command.stderr
    note("the command line")
    assert lab.ended(lab.launch("process-project/process-project", project="Project"), 200)["state_name"] == "Completed"
    note("a project's run")
    runs = all_runs(lab)
    for way, ids in started.items():
        for run in map(runs.__getitem__, ids):
            own = {str(run["parameters"][key]) for key in ("project", "animal") if key in run["parameters"]}
            assert "Project" in own, way
            assert own <= set(run["tags"]), f"{way}: {run['name']} has {run['tags']}"
    of_animal = {"flow_runs": {"tags": {"all_": ["Project", "305"]}}, "flows": {"name": {"any_": ["process-session"]}}}
    found = {run["parameters"]["session"] for run in lab.ask("flow_runs/filter", of_animal)}
    assert {UI, LAUNCH, COMMAND, LEFT} <= found
