"""The rules that decide by facts: ended jobs, dead owners, admission, retries, eligibility. Every row of each table."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from flows.eligibility import done, obstacle
from flows.process_session import FLOWS, skip
from tasks.reports import PipelineReport
from trackers.attempts import closed, judged
from trackers.graph import Graph, Job, Resources, Stage
from trackers.names import ProcessingPipelines, ProcessingStatus, SessionTypes
from trackers.ownership import FlowRunFact, OpenSubmission, admit, owner_liveness
from trackers.retries import LOST_NODES, next_resources
from trackers.states import (
    EXIT_RECORD_DEADLINE_SECONDS,
    LOST_DEADLINE_SECONDS,
    RECORD_GRACE_SECONDS,
    ExitRecord,
    JobState,
    Sighting,
    judge,
)
from trackers.submission import Attempt, new_submission, now

LONG = 10 * LOST_DEADLINE_SECONDS
RUNNING_STATES = [JobState.RUNNING, JobState.COMPLETING]
TERMINAL_STATES = [s for s in JobState if s.ended and s is not JobState.LOST]


def seen(state: JobState, reason: str = "") -> Sighting:
    return Sighting("seen", state, reason)


@pytest.mark.parametrize("record", [None, ExitRecord(0), ExitRecord(1), ExitRecord(143, terminated=True)])
@pytest.mark.parametrize("waited", [0.0, LONG])
def test_could_not_ask_keeps_the_last_state_whatever_the_record_says(record: ExitRecord | None, waited: float) -> None:
    assert judge(record, Sighting("unknown", None, "squeue timed out"), waited).state is None


@pytest.mark.parametrize(
    ("record", "state"),
    [
        (ExitRecord(0), JobState.COMPLETED),
        (ExitRecord(3), JobState.FAILED),
        (ExitRecord(143, terminated=True), JobState.CANCELLED),
        (ExitRecord(0, terminated=True), JobState.CANCELLED),
    ],
)
def test_record_and_absent_is_ended_as_the_record_says(record: ExitRecord, state: JobState) -> None:
    assert judge(record, Sighting("absent"), 0).state is state


@pytest.mark.parametrize("terminal", TERMINAL_STATES)
def test_a_failure_record_takes_its_cause_from_a_terminal_scheduler(terminal: JobState) -> None:
    expected = JobState.FAILED if terminal is JobState.COMPLETED else terminal
    assert judge(ExitRecord(1), seen(terminal), 0).state is expected


@pytest.mark.parametrize("terminal", TERMINAL_STATES)
def test_a_success_record_is_a_success_whatever_the_scheduler_says(terminal: JobState) -> None:
    assert judge(ExitRecord(0), seen(terminal), 0).state is JobState.COMPLETED


@pytest.mark.parametrize("record", [ExitRecord(0), ExitRecord(1), ExitRecord(143, terminated=True)])
@pytest.mark.parametrize("waited", [0.0, LONG])
def test_a_pending_job_has_not_ended_whatever_a_record_says(record: ExitRecord, waited: float) -> None:
    assert judge(record, seen(JobState.PENDING), waited).state is JobState.PENDING


@pytest.mark.parametrize("state", RUNNING_STATES)
def test_a_record_waits_for_a_scheduler_that_still_runs_it_up_to_a_deadline(state: JobState) -> None:
    assert judge(ExitRecord(0), seen(state), EXIT_RECORD_DEADLINE_SECONDS - 1).state is JobState.COMPLETING
    assert judge(ExitRecord(0), seen(state), EXIT_RECORD_DEADLINE_SECONDS).state is JobState.COMPLETED


@pytest.mark.parametrize("state", [state for state in TERMINAL_STATES if state is not JobState.COMPLETED])
def test_without_a_record_a_terminal_job_has_ended_after_a_grace(state: JobState) -> None:
    assert judge(None, seen(state), RECORD_GRACE_SECONDS - 1).state is JobState.COMPLETING
    assert judge(None, seen(state), RECORD_GRACE_SECONDS).state is state


def test_a_success_in_the_scheduler_needs_no_record_for_the_script_writes_it_before() -> None:
    assert judge(None, seen(JobState.COMPLETED), 0).state is JobState.COMPLETED


@pytest.mark.parametrize("state", [JobState.PENDING, JobState.RUNNING, JobState.COMPLETING, JobState.PLANNED])
def test_without_a_record_a_job_that_lives_is_what_the_scheduler_says_for_ever(state: JobState) -> None:
    assert judge(None, seen(state), LONG).state is state


def test_absent_without_a_record_asks_accounting_and_is_lost_after_a_deadline() -> None:
    verdict = judge(None, Sighting("absent"), LOST_DEADLINE_SECONDS - 1)
    assert (verdict.state, verdict.ask_accounting) == (None, True)
    assert judge(None, Sighting("absent"), LOST_DEADLINE_SECONDS).state is JobState.LOST


@pytest.mark.parametrize(
    ("answer", "at_first", "in_the_end"),
    [
        (Sighting("absent"), JobState.RUNNING, JobState.LOST),
        (seen(JobState.NODE_FAIL), JobState.COMPLETING, JobState.NODE_FAIL),
    ],
)
def test_a_deadline_runs_from_when_these_facts_were_first_seen_and_not_from_the_jobs_start(
    answer: Sighting, at_first: JobState, in_the_end: JobState
) -> None:
    attempt = Attempt(1, Resources())

    def look(sighting: Sighting, hours_later: int = 0) -> JobState:
        nonlocal attempt
        first_seen = datetime.fromisoformat(attempt.first_seen or now()) - timedelta(hours=hours_later)
        attempt = replace(attempt, first_seen=first_seen.isoformat())
        attempt = judged(attempt, None, sighting, RECORD_GRACE_SECONDS, cancelling=False)
        return attempt.state

    running = seen(JobState.RUNNING)
    assert [look(running), look(running, hours_later=10)] == [JobState.RUNNING, JobState.RUNNING]
    assert [look(answer, hours_later=10), look(answer)] == [at_first, at_first]
    assert look(running, hours_later=10) is JobState.RUNNING
    assert [look(answer, hours_later=10), look(answer, hours_later=1)] == [at_first, in_the_end]


@pytest.mark.parametrize(
    ("flow_run", "gone", "expected"),
    [
        (FlowRunFact.TERMINAL, True, "dead"),
        (FlowRunFact.TERMINAL, False, "dead"),
        (FlowRunFact.TERMINAL, None, "dead"),
        (FlowRunFact.ACTIVE, True, "dead"),
        (FlowRunFact.ACTIVE, False, "alive"),
        (FlowRunFact.ACTIVE, None, "alive"),
        (FlowRunFact.UNKNOWN, True, "dead"),
        (FlowRunFact.UNKNOWN, False, "alive"),
        (FlowRunFact.UNKNOWN, None, "unknown"),
    ],
)
def test_an_owner_is_dead_by_prefects_word_or_its_process(
    flow_run: FlowRunFact, gone: bool | None, expected: str
) -> None:
    assert owner_liveness(flow_run, gone) == expected


def open_submission(**changes: Any) -> OpenSubmission:
    facts: dict[str, Any] = {
        "pipeline": "BEHAVIOR",
        "digest": "d1",
        "manager_id": 7,
        "account": "anna",
        "live": True,
        **changes,
    }
    return OpenSubmission(**facts)


@pytest.mark.parametrize(
    ("submissions", "wish", "account", "manager_id", "refused"),
    [
        ([], {"BEHAVIOR": "d1"}, "anna", 99, ""),
        ([open_submission(live=False)], {"CHECKSUM": "x"}, "ben", 99, ""),
        ([open_submission()], {"BEHAVIOR": "d1"}, "anna", 7, ""),
        ([open_submission()], {"BEHAVIOR": "d1", "CHECKSUM": "x"}, "anna", 7, ""),
        ([open_submission()], {"BEHAVIOR": "d2"}, "anna", 99, "other settings"),
        ([open_submission()], {"CHECKSUM": "d1"}, "anna", 99, "other settings"),
        ([open_submission()], {}, "anna", 99, "other settings"),
        ([open_submission()], {"BEHAVIOR": "d1"}, "ben", 99, "anna"),
        ([open_submission(), open_submission(pipeline="VIDEO", digest="v")], {"BEHAVIOR": "d1"}, "anna", 99, "VIDEO"),
    ],
)
def test_live_jobs_admit_only_their_continuation(
    submissions: list[OpenSubmission], wish: dict[str, str], account: str, manager_id: int, refused: str
) -> None:
    admission = admit(submissions, wish, 99, account)
    assert bool(admission.refusal) == bool(refused)
    assert refused in admission.refusal
    assert refused or admission.manager_id == manager_id


RESOURCES = Resources(cpus=1, memory_gb=4, minutes=60, maximum_memory_gb=10, maximum_minutes=100)


@pytest.mark.parametrize(
    ("state", "attempt", "memory", "minutes"),
    [
        (JobState.OUT_OF_MEMORY, 1, 8, 60),
        (JobState.TIMEOUT, 1, 4, 100),
        (JobState.NODE_FAIL, 1, 4, 60),
        (JobState.PREEMPTED, LOST_NODES - 1, 4, 60),
    ],
)
def test_a_job_is_retried_by_cause(state: JobState, attempt: int, memory: float, minutes: int) -> None:
    resources = next_resources(state, attempt, RESOURCES)
    assert resources is not None
    assert (resources.memory_gb, resources.minutes) == (memory, minutes)


@pytest.mark.parametrize(
    ("state", "attempt", "resources"),
    [
        (JobState.FAILED, 1, RESOURCES),
        (JobState.CANCELLED, 1, RESOURCES),
        (JobState.LOST, 1, RESOURCES),
        (JobState.COMPLETED, 1, RESOURCES),
        (JobState.NODE_FAIL, LOST_NODES, RESOURCES),
        (JobState.OUT_OF_MEMORY, 3, Resources(memory_gb=10, maximum_memory_gb=10)),
        (JobState.OUT_OF_MEMORY, 1, Resources(memory_gb=10)),
        (JobState.TIMEOUT, 1, Resources(minutes=10)),
    ],
)
def test_nothing_else_is_retried(state: JobState, attempt: int, resources: Resources) -> None:
    assert next_resources(state, attempt, resources) is None


def test_attempts_that_failed_do_not_count_as_lost_nodes_and_the_last_loss_is_said() -> None:
    graph = Graph((Stage("s", (Job("a", ("true",)),)),))
    names = {"target": "P/1/S", "pipeline": ProcessingPipelines.BEHAVIOR, "digest": "", "settings": {}}
    submission = new_submission(graph, number=1, manager_id=1, account="ada", scheduler="slurm", **names)
    ends = [*[JobState.FAILED] * LOST_NODES, *[JobState.NODE_FAIL] * LOST_NODES]
    for number, state in enumerate(ends, 1):
        submission = submission.with_attempt("a", Attempt(number, RESOURCES, state))
        assert (submission.next_resources("a") is not None) == (LOST_NODES < number < len(ends)), number
    assert closed(submission).last("a").reason == "it is not tried again after 5 attempts that lost their nodes"


def facts(kind: str = "run training", **statuses: str) -> dict[str, Any]:
    return {
        "target": "P/1/S",
        "session_type": SessionTypes(kind),
        "complete": True,
        "completeness": "complete",
        "prepared": statuses.get("PREPARATION") == "succeeded",
        "archived": False,
        "pipelines": {p.name: {"status": statuses.get(p.name, ""), "ended": ""} for p in ProcessingPipelines},
    }


VERIFIED = {"CHECKSUM": "succeeded"}
PREPARED = {**VERIFIED, "PREPARATION": "succeeded"}


@pytest.mark.parametrize(
    ("pipeline", "known", "words"),
    [
        ("CHECKSUM", facts(), ""),
        ("CHECKSUM", facts("window checking"), ""),
        ("CHECKSUM", {**facts(), "complete": False, "completeness": "incomplete: no telomere.bin"}, "telomere"),
        ("PREPARATION", facts(), "integrity"),
        ("PREPARATION", facts(CHECKSUM="failed"), "integrity"),
        ("PREPARATION", facts(**VERIFIED), ""),
        ("PREPARATION", facts("window checking", **VERIFIED), "window checking"),
        ("BEHAVIOR", facts(**VERIFIED), "not prepared"),
        ("BEHAVIOR", facts(**PREPARED), ""),
        ("BEHAVIOR", {**facts(**PREPARED), "prepared": False}, "not prepared"),
        ("SUITE2P", facts("lick training", **PREPARED), "lick training"),
        ("SUITE2P", facts("mesoscope experiment", **PREPARED), ""),
        ("VIDEO", facts(**PREPARED), ""),
        ("FORGING", facts(**PREPARED, VIDEO="succeeded"), "run behavior first"),
        ("FORGING", facts(**PREPARED, BEHAVIOR="succeeded") | {"cameras": []}, ""),
        (
            "FORGING",
            facts(**PREPARED, BEHAVIOR="succeeded") | {"video_problem": "no file is a movie."},
            "run video first; video cannot run yet: no file is a movie",
        ),
        ("ARCHIVING", facts(**VERIFIED), "not prepared"),
        ("ARCHIVING", facts(**PREPARED), ""),
        ("ARCHIVING", {**facts(**PREPARED, ARCHIVING="running"), "prepared": False, "archived": True}, ""),
        ("BEHAVIOR", {**facts(**PREPARED, ARCHIVING="running"), "prepared": False, "archived": True}, "not prepared"),
    ],
)
def test_a_pipeline_is_eligible_by_type_and_by_what_was_done(pipeline: str, known: dict[str, Any], words: str) -> None:
    reason = obstacle(ProcessingPipelines[pipeline], known)
    assert bool(reason) == bool(words)
    assert words in reason


def test_preparation_is_not_done_where_its_folder_is_gone() -> None:
    assert done(ProcessingPipelines.PREPARATION, facts(**PREPARED))
    assert not done(ProcessingPipelines.PREPARATION, {**facts(**PREPARED), "prepared": False})


def skipped(known: dict[str, Any], *, archive: bool = False, reprocess: bool = False) -> dict[str, str]:
    chosen = [p for p in FLOWS if archive or p is not ProcessingPipelines.ARCHIVING]
    reports = {p.name: skip(p, known, chosen, [], reprocess) for p in chosen}
    return {name: report.reason for name, report in reports.items() if report}


def test_preparation_runs_only_for_a_later_pipeline() -> None:
    assert "PREPARATION" not in skipped(facts(**VERIFIED))
    everything = facts(**VERIFIED, BEHAVIOR="succeeded", VIDEO="succeeded")
    assert "no later pipeline" in skipped(everything)["PREPARATION"]
    assert "PREPARATION" not in skipped(everything, archive=True)


def test_an_archiving_whose_manager_was_killed_after_the_move_is_finished() -> None:
    moved = {**facts(**PREPARED, BEHAVIOR="succeeded", ARCHIVING="running"), "prepared": False, "archived": True}
    assert "ARCHIVING" not in skipped(moved, archive=True)
    assert "archived" in skipped(moved, archive=True)["PREPARATION"]


def test_an_archived_session_is_not_prepared_again_unless_asked() -> None:
    archived = {**facts(**VERIFIED, ARCHIVING="succeeded"), "archived": True}
    assert "archived" in skipped(archived)["PREPARATION"]
    assert "PREPARATION" not in skipped(archived, reprocess=True)


def test_nothing_is_archived_after_a_failure() -> None:
    failed = PipelineReport(ProcessingPipelines.BEHAVIOR, "P/1/S", ProcessingStatus.FAILED, ran=True)
    report = skip(ProcessingPipelines.ARCHIVING, facts(**PREPARED), list(FLOWS), [failed], reprocess=False)
    assert report is not None
    assert "earlier pipeline failed" in report.reason


def test_every_pipeline_of_an_incomplete_session_is_skipped_with_the_reason() -> None:
    incomplete = {**facts(), "complete": False, "completeness": "the session is incomplete"}
    assert set(skipped(incomplete).values()) == {"the session is incomplete"}
