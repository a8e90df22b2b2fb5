"""A lab's own program runs in the place of ours, where the server's description says so."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from tasks.servers import Command, Server
from tests.conftest import SESSION, Side, all_ended, make_session
from tests.prefect_server import REPOSITORY
from trackers.errors import BadInputError
from trackers.facts import describe
from trackers.graph import MANAGER_ID, PYTHON, Graph, Job, Stage
from trackers.names import TrackerFileNames
from trackers.site import Site
from trackers.targets import Target

OURS = (PYTHON, "-P", "-m", "jobs.suite2p", "--session", SESSION, "--manager-id", MANAGER_ID, "--plane", "1")


def replaced(pattern: str, *words: str, drives_tracker: bool = False) -> Graph:
    """Return suite2p's jobs as a server has them that replaces some of their commands."""
    command = Command(words=list(words), drives_tracker=drives_tracker)
    server = Server(storage_root="/data", commands={pattern: command})
    jobs = tuple(Job(name, OURS, environment="suite2p") for name in ("plane-0", "combine"))
    return server.with_resources("suite2p", Graph((Stage("work", jobs),)))


def test_only_the_jobs_that_are_named_get_the_other_command_with_its_words_filled_in() -> None:
    plane, combine = replaced("suite2p/plane-*", "ss2p", "{job}", "{session}/p{plane}", "{manager_id}").jobs()
    assert plane.command == ("ss2p", "plane-0", f"{SESSION}/p1", MANAGER_ID)
    assert combine.command == OURS


def test_the_job_that_puts_a_result_in_place_stays_ours() -> None:
    graph = Graph((Stage("publish", (Job("publish", OURS),)),))
    server = Server(storage_root="/data", commands={"multiday": Command(words=["ss2p"])})
    assert next(server.with_resources("multiday", graph).jobs()).command == OURS


def test_every_session_of_a_dataset_is_a_word_of_the_other_command() -> None:
    ours = (PYTHON, "-P", "-m", "jobs.forging", "--index", "--sessions", "305/a", "306/b", "--settings", "{}")
    index = Graph((Stage("index", (Job("index", ours, environment="forging"),)),))
    command = Command(words=["lab-forge", "--of", "{sessions}", "all: {sessions}", "{settings}"])
    (job,) = Server(storage_root="/data", commands={"forging": command}).with_resources("forging", index).jobs()
    assert job.command == ("lab-forge", "--of", "305/a", "306/b", "all: 305/a 306/b", "{}")


@pytest.mark.parametrize(
    ("pattern", "hindered"), [("suite2p", ""), ("suite2p/plane-*", ""), ("video", "not installed")]
)
def test_a_pipeline_of_the_labs_own_programs_does_not_wait_for_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, hindered: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where nothing is installed
    make_session(tmp_path, kind="mesoscope experiment")
    server = Server(storage_root=str(tmp_path), commands={pattern: Command(words=["ss2p"])})
    facts = describe(Target(Site.from_json(server.site()), "Project", "305", SESSION))
    assert hindered in facts["suite2p_problem"]
    assert bool(facts["suite2p_problem"]) == bool(hindered)


def test_a_word_that_cannot_be_filled_in_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"command for plane-0 cannot be filled in \('colour'\); known are .*plane"):
        replaced("suite2p", "ss2p", "{colour}")


def test_a_program_of_the_lab_that_drives_the_tracker_runs_and_the_tracker_is_right(side: Side) -> None:
    side.take_lock()
    tracker = next((side.root / "storage").rglob("raw_data")).parent / "tracking_data" / TrackerFileNames.SUITE2P
    found = f"import runpy, sys; sys.path.insert(0, {str(REPOSITORY)!r})"
    started = f"{found}; runpy.run_module('tests.worker', run_name='__main__')"
    graph = replaced("suite2p", sys.executable, "-c", started, str(tracker), "{manager_id}", "2", drives_tracker=True)
    assert all(asdict(job)["drives_tracker"] for job in graph.jobs())
    view = side.get("submit", pipeline="SUITE2P", graph=graph.to_json(), manager_id=side.manager_id, settings={})
    view = side.wait(view, all_ended)
    assert side.get("finish", pipeline="SUITE2P", number=view["number"])["status"] == "succeeded"
    assert side.get("tracker_show", pipeline="SUITE2P")["status"] == "succeeded"
