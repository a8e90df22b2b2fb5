"""The commands for many sessions: their words and exit codes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.prefect_server import PrefectServer
from tests.project_run import Project
from tests.test_cli import contents, roots, sessionflow
from trackers.manager import generate_manager_id


def test_a_plan_is_shown_without_prefect_and_touches_nothing(tmp_path: Path) -> None:
    project = Project(tmp_path, 2)
    before = contents(tmp_path)
    shown = sessionflow("process-project", "Project", "--dry-run", *roots(tmp_path))
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert [line.split()[1:4] for line in lines if "to run" in line][:1] == [[project.names[1], "to", "run"]]
    assert lines[-1] == "Nothing was done. Project: 2 to run."
    assert contents(tmp_path) == before


def test_a_project_is_processed_each_session_is_told_and_the_exit_code_says_how_it_went(
    tmp_path: Path, prefect: PrefectServer
) -> None:
    project = Project(tmp_path, 2)
    project.verify(project.names[0], "0" * 32)
    words = ("process-project", "Project", *roots(tmp_path))
    done = sessionflow(*words, environment=prefect.environment)
    assert done.returncode == 1, done.stderr
    assert f"305/{project.names[1]} succeeded" in done.stdout
    assert f"305/{project.names[0]} failed: checksum resolution of Project/305/{project.names[0]}" in done.stdout
    assert done.stdout.splitlines()[-1] == "Project: 1 succeeded, 1 failed."
    again = sessionflow(*words, environment=prefect.environment)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == "Project: 1 waiting, 1 done."
    assert "--rerun-failed" in again.stdout
    project.target(project.names[0]).lock.acquire(generate_manager_id())
    busy = sessionflow(*words, environment=prefect.environment)
    assert (busy.returncode, busy.stdout.splitlines()[-1]) == (3, "Project: 1 in progress, 1 done.")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("Unknown",), "no project 'Unknown'"),
        (("Project", "--animal", "999"), "no animal 999"),
        (("Project", "--pipeline", "cheese"), "cheese: no pipeline of a session"),
        (("Project", "--failed-cause", "memory"), "not to be run again"),
        (("Project", "--failed-since", "yesterday"), "--failed-since"),
        (("Project", "--maximum-sessions", "0"), "--maximum-sessions"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_touched(
    tmp_path: Path, words: tuple[str, ...], expected: str
) -> None:
    Project(tmp_path, 1)
    before = contents(tmp_path)
    refused = sessionflow("process-project", *words, "--dry-run", *roots(tmp_path))
    assert (refused.returncode, expected in refused.stderr) == (2, True), refused.stderr
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_an_excluded_session_is_shown_everywhere_and_refused_by_name_until_it_is_included(
    tmp_path: Path, prefect: PrefectServer
) -> None:
    project = Project(tmp_path, 1)
    name, where = f"Project/305/{project.names[0]}", roots(tmp_path)
    done = sessionflow("exclude", name, "--reason", "dark", "--requested-by", "bea", *where)
    assert done.returncode == 0, done.stderr
    assert "is excluded by bea (unverified)" in done.stdout
    include = f"sessionflow include {project.raw_data(project.names[0]).parent}"
    assert done.stdout.splitlines()[-1].endswith(include)
    for words in (
        ("status", "Project"),
        ("status", "--why", name),
        ("process-project", "Project", "--dry-run"),
    ):
        shown = " ".join(sessionflow(*words, *where).stdout.split())
        assert "excluded by bea (unverified)" in shown, words
        assert "dark" in shown, words
    one = ("--project", "Project", "--animal", "305", "--session", project.names[0])
    for words in (("process", *one), ("run", "checksum", *one), ("run", "checksum", *one, "--reprocess")):
        refused = sessionflow(*words, *where, environment=prefect.environment)
        assert refused.returncode == 2, refused.stdout
        assert "the session is excluded by bea" in refused.stderr
        assert f"Nothing was done. To process it again: {include}" in refused.stderr
    assert project.trace() == []
    assert "is processed again" in sessionflow("include", name, *where).stdout
    assert "was not excluded" in sessionflow("include", name, *where).stdout
    assert sessionflow("process", *one, *where, environment=prefect.environment).returncode == 0


@pytest.mark.slow
def test_a_session_that_is_excluded_while_it_is_processed_gets_no_further_pipeline(
    tmp_path: Path, prefect: PrefectServer
) -> None:
    project = Project(tmp_path, 1, held=True)
    session_data = project.raw_data(project.names[0]) / "session_data.yaml"
    session_data.write_text(session_data.read_text().replace("window checking", "run training"))
    project.verify(project.names[0])
    run = subprocess.Popen(
        [sys.executable, "-m", "tests.project_run", str(tmp_path), "{}"],
        env=prefect.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not project.trace():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    sessionflow("exclude", f"Project/305/{project.names[0]}", "--reason", "dark", *roots(tmp_path))
    (tmp_path / "go").touch()
    out, _ = run.communicate(timeout=60)
    assert run.returncode == 0, out
    statuses = project.facts(project.names[0])["pipelines"]
    assert (statuses["CHECKSUM"]["status"], statuses["PREPARATION"]["status"]) == ("succeeded", "")


def test_where_prints_every_path_with_size_and_state(tmp_path: Path) -> None:
    project = Project(tmp_path, 2)
    name = project.names[0]
    shown = sessionflow("where", f"Project/305/{name}", *roots(tmp_path))
    lines = shown.stdout.splitlines()
    assert (shown.returncode, lines[0]) == (0, name)
    assert lines[1].split()[:2] == ["raw_data", "exists"]
    assert "4 files" in lines[1]
    assert lines[1].endswith("storage volume")
    assert lines[2].strip() == str(project.raw_data(name))
    animal = sessionflow("where", "Project/305", *roots(tmp_path)).stdout.splitlines()
    assert [line for line in animal if line in project.names] == project.names
    folder = sessionflow("where", str(tmp_path / "storage" / "Project" / "305"), "--working", str(tmp_path / "working"))
    assert folder.stdout.splitlines() == animal
    assert sessionflow("where", "Project", *roots(tmp_path)).returncode == 2
    assert sessionflow("where", "Project/999", *roots(tmp_path)).returncode == 2
