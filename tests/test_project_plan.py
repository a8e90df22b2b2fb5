"""What a project's run has to do, decided from facts alone."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from flows.project_page import artifact_key, markdown
from flows.project_plan import Choice, outcome_of
from flows.volumes import STORAGE, WORKING, volume_of
from tasks.reports import ProjectReport, SessionOutcome
from trackers.errors import BadInputError
from trackers.names import ProcessingPipelines
from trackers.session import Completeness
from trackers.states import JobState
from trackers.submission import digest_of

SESSION = "2025-08-26-18-30-15-123456"
TARGET = f"P/305/{SESSION}"
FREE = {"manager_id": -1, "holder": None}
Facts = dict[str, Any]


def failed(pipeline: str, settings: dict[str, Any] | None = None, **changes: Any) -> Facts:
    """Return a pipeline's facts after an error of its program; `changes` are to what it failed with, or to its job."""
    job = {"name": "a", "state": "FAILED", "exit_code": 1, "reason": "exit code 1; out of cheese"}
    job |= {key: changes.pop(key) for key in tuple(changes) if key in job}
    failure: Facts = {
        "digest": digest_of(TARGET, ProcessingPipelines[pipeline], settings or {}),
        "with": {"version": "1.0", "raw_data_checksum": "abc"},
        "now": {"version": "1.0", "raw_data_checksum": "abc"},
        "jobs": [job],
    }
    failure["with"] |= {key: changes.pop(key) for key in tuple(changes) if key in failure["with"]}
    facts = {"status": "failed", "ended": "2025-09-01T03:04:05", "reason": "", "failure": {**failure, **changes}}
    return facts if changes.get("failure", True) else {**facts, "failure": None}


def row(session: str = SESSION, **changes: Any) -> Facts:
    """Return a run training session of which nothing has been done; names of pipelines change these."""
    nothing = {"status": "", "ended": "", "reason": "", "problem": ""}
    pipelines = {p.name: {**nothing} for p in ProcessingPipelines}
    for name in tuple(changes):
        if name in pipelines:
            change = changes.pop(name)
            pipelines[name] |= change if isinstance(change, dict) else {"status": change}
    return {
        "animal": "305",
        "session": session,
        "problem": "",
        "excluded": "",
        "target": TARGET,
        "session_type": "run training",
        "complete": True,
        "completeness": "complete",
        "one_volume": False,
        "prepared": pipelines["PREPARATION"]["status"] == "succeeded",
        "archived": False,
        "lock": FREE,
        "video_problem": "it has no cameras",
        "report_problem": "it is not installed",
        "pipelines": pipelines,
        **changes,
    }


def plan(facts: Facts, held_by: str = "", launched: str = "", **options: Any) -> tuple[str, str]:
    """Return how a session stands, and what is to run or why nothing is."""
    outcome = outcome_of(facts, Choice.of(**options), held_by, launched)
    return outcome.standing, " ".join(outcome.pipelines) or outcome.words


DONE = {"CHECKSUM": "succeeded", "PREPARATION": "succeeded", "BEHAVIOR": "succeeded"}
VERIFIED = {"CHECKSUM": "succeeded"}
PREPARED = {"CHECKSUM": "succeeded", "PREPARATION": "succeeded"}
INCOMPLETE = {"complete": False, "completeness": Completeness.INCOMPLETE.value}


@pytest.mark.parametrize(
    ("facts", "options", "expected"),
    [
        ({}, {}, ("to run", "checksum preparation behavior")),
        (VERIFIED, {}, ("to run", "preparation behavior")),
        (PREPARED, {}, ("to run", "behavior")),
        (DONE, {}, ("done", "")),
        ({**DONE, "report_problem": ""}, {}, ("to run", "report")),
        (DONE, {"archive": True}, ("to run", "archiving")),
        ({}, {"archive": True}, ("to run", "checksum preparation behavior archiving")),
        (DONE, {"reprocess": True}, ("to run", "checksum preparation behavior")),
        ({**DONE, "PREPARATION": "", "prepared": False, "archived": True}, {}, ("done", "")),
        ({"session_type": "window checking"}, {}, ("to run", "checksum")),
        ({"session_type": "window checking", **VERIFIED}, {}, ("done", "")),
        ({}, {"pipelines": ["checksum"]}, ("to run", "checksum")),
        (VERIFIED, {"pipelines": ["behavior"]}, ("to run", "preparation behavior")),
        ({}, {"pipelines": ["behavior"]}, ("not ready", "its integrity has not been verified: run checksum first")),
        (INCOMPLETE, {}, ("not ready", INCOMPLETE["completeness"])),
        ({**PREPARED, "BEHAVIOR": "running"}, {}, ("to run", "behavior")),  # its manager is dead: continued
        ({"problem": "no session_data.yaml"}, {}, ("problem", "no session_data.yaml")),
        ({"lock": {"corrupt": True, "description": "half a lock", "holder": None}}, {}, ("problem", "half a lock")),
        ({"BEHAVIOR": {"status": "corrupt", "problem": "half a file"}}, {}, ("problem", "half a file")),
        ({"BEHAVIOR": {"status": "corrupt", "problem": "half"}}, {"pipelines": ["checksum"]}, ("to run", "checksum")),
        ({"excluded": "by bea: dark", "problem": "half"}, {}, ("excluded", "the session is excluded by bea: dark")),
        ({"excluded": "by bea: dark"}, {"reprocess": True}, ("excluded", "the session is excluded by bea: dark")),
    ],
)
def test_a_session_is_planned_by_what_it_is_and_what_was_done(
    facts: Facts, options: dict[str, Any], expected: tuple[str, str]
) -> None:
    assert plan(row(**facts), **options) == expected


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, "checksum preparation behavior video report"),
        ({**DONE, "REPORT": {"status": "succeeded", "ended": "2025-09-01T03:04:05"}}, "video report"),
        ({**DONE, "VIDEO": {"status": "succeeded", "usable": True}}, "report"),
    ],
)
def test_a_page_is_planned_with_the_results_that_it_is_to_show(facts: Facts, expected: str) -> None:
    session = row(**{"video_problem": "", "report_problem": "", **facts})
    for pipeline in session["pipelines"].values():
        pipeline.setdefault("usable", pipeline["status"] == "succeeded")  # as the server side says it
    assert plan(session) == ("to run", expected)


@pytest.mark.parametrize("facts", [{}, DONE, INCOMPLETE])
def test_a_session_that_somebody_works_on_is_in_progress_whatever_there_is_to_do(facts: Facts) -> None:
    assert plan(row(**facts), held_by="locked by ada") == ("in progress", "locked by ada")


def test_a_session_that_was_launched_is_left_to_its_own_run_where_there_is_something_to_do() -> None:
    assert plan(row(), launched="its own run waits") == ("launched", "its own run waits")
    assert plan(row(**DONE), launched="its own run waits") == ("done", "")


@pytest.mark.parametrize(
    ("behavior", "options", "standing"),
    [
        (failed("BEHAVIOR"), {}, "waiting"),
        (failed("BEHAVIOR", state=JobState.OUT_OF_MEMORY), {}, "waiting"),
        (failed("BEHAVIOR", state=JobState.TIMEOUT), {}, "waiting"),
        (failed("BEHAVIOR", state=JobState.NODE_FAIL), {}, "to run"),
        (failed("BEHAVIOR", state=JobState.PREEMPTED), {}, "to run"),
        (failed("BEHAVIOR", state=JobState.LOST), {}, "to run"),
        (failed("BEHAVIOR", exit_code=115), {}, "to run"),  # the volume was full
        (failed("BEHAVIOR", reason="Slurm refused it: no such partition"), {}, "to run"),
        (failed("BEHAVIOR", jobs=[]), {}, "to run"),
        (failed("BEHAVIOR", failure=None), {}, "to run"),  # by another program: what with, nobody knows
        (failed("BEHAVIOR", version="0.9"), {}, "to run"),
        (failed("BEHAVIOR", version=""), {}, "to run"),  # recorded before versions were
        (failed("BEHAVIOR", raw_data_checksum="abd"), {}, "to run"),
        (failed("BEHAVIOR", {"other": "settings"}), {}, "to run"),
        (failed("BEHAVIOR"), {"reprocess": True}, "to run"),
        (failed("BEHAVIOR"), {"rerun_failed": True}, "to run"),
        (failed("BEHAVIOR"), {"rerun_failed": True, "failed_cause": "Cheese"}, "to run"),
        (failed("BEHAVIOR", state=JobState.OUT_OF_MEMORY), {"rerun_failed": True, "failed_cause": "memory"}, "to run"),
        (failed("BEHAVIOR"), {"rerun_failed": True, "failed_cause": "memory"}, "waiting"),
        (failed("BEHAVIOR"), {"rerun_failed": True, "failed_pipelines": ["behavior"]}, "to run"),
        (failed("BEHAVIOR"), {"rerun_failed": True, "failed_pipelines": ["checksum"]}, "waiting"),
        (failed("BEHAVIOR"), {"rerun_failed": True, "failed_since": date(2025, 9, 1)}, "to run"),
        (failed("BEHAVIOR"), {"rerun_failed": True, "failed_since": date(2025, 9, 2)}, "waiting"),
    ],
)
def test_what_failed_waits_until_something_has_changed_or_somebody_asks(
    behavior: Facts, options: dict[str, Any], standing: str
) -> None:
    assert plan(row(**PREPARED, BEHAVIOR=behavior), **options)[0] == standing


def test_what_waits_holds_back_what_needs_it_and_archiving_but_nothing_else() -> None:
    checksum = failed("CHECKSUM", {"regenerate": False})
    standing, words = plan(row(CHECKSUM=checksum))
    assert (standing, "exit code 1; out of cheese" in words, "2025-09-01 03:04" in words) == ("waiting", True, True)
    waits = row(**VERIFIED, PREPARATION=failed("PREPARATION"))
    assert plan(waits)[0] == "waiting"
    held = outcome_of(row(**PREPARED, BEHAVIOR=failed("BEHAVIOR")), Choice.of(archive=True))
    assert (held.standing, held.pipelines) == ("waiting", ())
    other = outcome_of(row(BEHAVIOR=failed("BEHAVIOR")), Choice.of(archive=True))
    assert (other.standing, other.pipelines) == ("to run", ("checksum",))
    assert "behavior failed on" in other.words


def test_the_newest_come_first_and_only_those_that_were_asked_for() -> None:
    days = ["2025-08-26", "2025-08-28", "2025-08-27"]
    rows = [row(f"{day}-18-30-15-123456", animal=str(300 + n)) for n, day in enumerate(days)]
    found = [each["session"][:10] for each in Choice.of().rows("P", rows)]
    assert found == ["2025-08-28", "2025-08-27", "2025-08-26"]
    assert [each["animal"] for each in Choice.of(animals=["302", "300"]).rows("P", rows)] == ["302", "300"]
    assert Choice.of(sessions=[rows[0]["session"]]).rows("P", rows) == [rows[0]]
    assert Choice.of(animals=["301"], sessions=[rows[0]["session"]]).rows("P", rows) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pipelines": ["behaviour"]}, "behaviour: no pipeline of a session; known are checksum"),
        ({"rerun_failed": True, "failed_pipelines": ["manifest"]}, "manifest: no pipeline of a session"),
        ({"failed_cause": "memory"}, "not to be run again"),
        ({"animals": ["999"]}, "P has no animal 999"),
        ({"sessions": ["yesterday"]}, "'yesterday' cannot name a session"),
        ({"sessions": ["2020-02-29-18-30-15-123456"]}, "P has no session 2020-02-29-18-30-15-123456"),
    ],
)
def test_what_does_not_exist_is_refused_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInputError, match=words):
        Choice.of(**options).rows("P", [row()])


def test_each_pipeline_counts_on_the_volume_that_it_reads_and_writes() -> None:
    on_storage = {p.name for p in ProcessingPipelines if volume_of(p) == STORAGE}
    assert on_storage == {"CHECKSUM", "PREPARATION", "ARCHIVING"}
    assert volume_of(ProcessingPipelines.BEHAVIOR) == WORKING


def test_a_report_fails_only_for_what_failed_in_this_run_and_its_first_line_is_the_reason() -> None:
    waits = SessionOutcome("305", SESSION, "waiting", "behavior failed before")
    broken = SessionOutcome("305", SESSION, "problem", "half a file")
    assert ProjectReport("P", (waits, broken)).succeeded
    report = ProjectReport("P", (waits, SessionOutcome("306", SESSION, "failed", "behavior of P/306: failed: dark")))
    assert not report.succeeded
    assert report.sentence.splitlines() == ["behavior of P/306: failed: dark", "P: 1 failed, 1 waiting"]


def test_the_page_lists_every_session_and_takes_no_word_of_a_job_for_markup() -> None:
    loud = SessionOutcome("305", SESSION, "failed", "a | b\n<script> [x](http://y)", ("checksum",))
    page = markdown(ProjectReport("P", (SessionOutcome("306", SESSION, "done"), loud)))
    lines = page.splitlines()
    all_sessions = f"[All sessions × pipelines](/v2/artifacts/key/{artifact_key('P')})"
    assert lines[0:3] == ["# Sessions: P", "", f"1 failed, 1 done. {all_sessions}"]
    assert f"| 305 | {SESSION} | failed | checksum | a \\| b \\<script\\> \\[x\\](http://y) |" in lines
    assert f"| 306 | {SESSION} | done |  |" in lines
    assert lines.index("## Nothing to do") > lines.index(next(line for line in lines if "305" in line))


def test_the_pages_of_two_projects_never_have_the_same_key() -> None:
    names = ["state-space", "State space", "state_space", "ü", "+"]
    keys = [artifact_key(name) for name in names]
    assert keys[0] == "project-state-space"
    assert len(set(keys)) == len(names)
    assert all(key.replace("-", "").isalnum() and key.isascii() and key == key.lower() for key in keys)
