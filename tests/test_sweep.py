"""The sweeper repairs what dead managers left behind, says what it would do, and touches nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from flows.session_page import history_page
from tests.conftest import SESSION, Side, all_ended, make_session, states
from tests.sweeping import NAME, contents, dead_process, hold, only, session, settled, sweep, sweeper, sweeping
from tests.test_interruptions import job_processes, supervisors
from trackers.lock import SessionLock
from trackers.manager import generate_manager_id
from trackers.names import ProcessingPipelines
from trackers.processes import ProcessIdentity
from trackers.targets import Target
from trackers.tracker import ProcessingTracker
from trackers.work import Work


def tracker(side: Side) -> str:
    return str(side.get("tracker_show", pipeline="BEHAVIOR")["status"])


def locked(side: Side) -> bool:
    return bool(side.get("lock_show")["manager_id"] != -1)


def kill_jobs(side: Side) -> None:
    while left := [*supervisors(side), *job_processes(side)]:  # a job may start another process meanwhile
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    settled(side)


def test_where_all_is_in_order_nothing_is_found(side: Side) -> None:
    report = sweep(side, repair=True)
    assert (report.sessions, report.findings) == (1, ())
    assert report.sentence == "1 sessions looked at: nothing was left behind"


def test_a_graph_that_ran_to_its_end_after_its_manager_died_gets_its_true_state(side: Side) -> None:
    hold(side, dead_process())
    side.submit([("a", "true")], [("b", "true")])
    settled(side)
    before = contents(side.root)
    found = only(sweep(side))
    assert contents(side.root) == before
    assert (found.target, found.outcome) == (NAME, "found")
    for words in ("locked by manager", "ada (unverified)", "its process has ended"):
        assert words in found.found
    assert found.words == "close behavior/0001 as succeeded; release the lock."
    done = only(sweep(side, repair=True))
    assert (done.outcome, done.words) == ("repaired", found.words)
    assert (tracker(side), locked(side)) == ("succeeded", False)
    assert [result["pipeline"] for result in side.get("why")["results"]] == ["BEHAVIOR"]
    assert sweep(side, repair=True).findings == ()


def test_jobs_that_run_are_left_and_swept_when_they_have_ended(side: Side, tmp_path: Path) -> None:
    hold(side, dead_process())
    view = side.submit([("long", f"until [ -e {tmp_path}/go ]; do sleep 0.05; done")], [("later", "true")])
    side.wait(view, lambda v: states(v)["long"] == "RUNNING")
    before = side.get("lock_show")["holder"]
    left = only(sweep(side, repair=True))
    assert left.outcome == "left"
    assert "of behavior/0001 still run or wait: long RUNNING" in left.words
    assert side.get("lock_show")["holder"] == before
    (tmp_path / "go").touch()
    settled(side)
    assert only(sweep(side, repair=True)).outcome == "repaired"
    assert (tracker(side), locked(side)) == ("succeeded", False)


def test_a_tail_behind_a_failed_job_is_cancelled_and_the_pipeline_has_failed(side: Side) -> None:
    hold(side, dead_process())
    side.submit([("bad", "exit 3"), ("good", "true")], [("later", "true")], [("last", "true")])
    settled(side)
    done = only(sweep(side, repair=True))
    assert (
        done.words
        == "cancel later, last, which nothing will ever start; close behavior/0001 as failed; release the lock."
    )
    assert (tracker(side), locked(side)) == ("failed", False)
    jobs = side.get("why")["history"][0]["jobs"]
    assert jobs["bad"] == ["FAILED: exit code 3"]
    assert jobs["last"] == ["CANCELLED: it was never started"]


def test_a_job_that_its_manager_would_have_tried_again_is_not_and_a_rerun_does(side: Side) -> None:
    hold(side, dead_process())
    view = side.submit([("long", "sleep 60")], [("later", "true")])
    side.wait(view, lambda v: states(v)["long"] == "RUNNING")
    folder = session(side).submissions(ProcessingPipelines.BEHAVIOR)
    submission = folder.read(1)
    longer = replace(
        submission.last("long"), resources=replace(submission.last("long").resources, maximum_minutes=10**5)
    )
    folder.save(submission.with_attempt("long", longer))
    folder.attempt_files(submission, "long", 1).timed_out.touch()
    kill_jobs(side)
    assert only(sweep(side, repair=True)).outcome == "repaired"
    assert "it was not tried again, for its manager had died" in side.get("why")["history"][0]["jobs"]["long"][0]
    assert tracker(side) == "failed"
    side.take_lock()
    again = side.submit([("long", "true")], [("later", "true")])
    assert [job["attempt"] for job in again["jobs"]] == [2, 2]
    side.get("cancel_all")


def test_an_interrupted_cancel_is_carried_out(side: Side) -> None:
    hold(side, dead_process())
    view = side.submit([("long", "sleep 60")], [("later", "true")])
    side.wait(view, lambda v: states(v)["long"] == "RUNNING")
    folder = session(side).submissions(ProcessingPipelines.BEHAVIOR)
    with folder.lock():
        folder.save(replace(folder.read(1), cancelling=True))
    assert "end long RUNNING: its cancel was interrupted" in only(sweep(side)).words
    assert only(sweep(side, repair=True)).outcome == "repaired"
    assert not job_processes(side)
    assert (tracker(side), locked(side)) == ("", False)
    assert side.get("why")["history"][0]["status"] == "aborted"


def test_an_owner_that_lives_is_left_alone(side: Side) -> None:
    hold(side, ProcessIdentity.of_this_process())
    side.submit([("a", "exit 1")])
    settled(side)
    before = contents(side.root)
    assert sweep(side, repair=True).findings == ()
    assert contents(side.root) == before


def test_another_hosts_owner_that_cannot_be_asked_about_is_not_touched(side: Side) -> None:
    hold(side, replace(dead_process(), host="elsewhere"), host="elsewhere")
    side.submit([("a", "true")])
    settled(side)
    before = contents(side.root / "storage")
    found = only(sweep(side, repair=True))
    assert found.outcome == "person"
    assert "its process cannot be asked about from this computer" in found.found
    release = f"sessionflow lock release {session(side).paths.storage_directory}"
    assert found.words == f"It is not touched. If that manager is gone for good: {release}"
    assert contents(side.root / "storage") == before


def test_a_lock_of_sl_shared_assets_is_reported_and_never_taken(side: Side) -> None:
    lock = session(side).paths.lock
    lock.parent.mkdir()
    lock.write_bytes((Path(__file__).parent / "data" / "trackers" / "lock_held.yaml").read_bytes())
    before = contents(side.root)
    found = only(sweep(side, repair=True))
    assert found.outcome == "person"
    assert "it may be a manager of sl-shared-assets" in found.found
    assert f"sessionflow lock release {session(side).paths.storage_directory}" in found.words
    assert contents(side.root) == before


def test_a_running_tracker_without_lock_and_record_is_reported_with_the_command_that_resets_it(side: Side) -> None:
    behavior = ProcessingTracker(session(side).paths.tracker(ProcessingPipelines.BEHAVIOR))
    manager = generate_manager_id()
    behavior.start(manager)
    found = only(sweep(side, repair=True))
    assert found.outcome == "person"
    assert f"running under manager {manager}, which holds no lock and no record here" in found.found
    assert f"sessionflow tracker reset {session(side).paths.storage_directory} behavior" in found.found
    assert behavior.is_running
    SessionLock(session(side).paths.lock).acquire(manager)  # a manager of sl-shared-assets, at work
    session(side).lock.holder_path.unlink()
    assert ["lock release" in finding.words for finding in sweep(side, repair=True).findings] == [True]


@pytest.mark.parametrize("file", ["session_lock.yaml", "behavior_processing_tracker.yaml", "submission.json"])
def test_a_state_file_that_cannot_be_read_is_reported_and_keeps_the_session_as_it_is(side: Side, file: str) -> None:
    hold(side, dead_process())
    side.submit([("a", "true")])
    settled(side)
    (path,) = session(side).paths.tracking_data.rglob(file)
    path.write_text("{")
    before = contents(side.root)
    findings = sweep(side, repair=True).findings
    assert (findings[0].outcome, f"{path} cannot be read" in findings[0].found) == ("person", True)
    assert [finding.outcome for finding in findings[1:]] in ([], ["left"])
    assert contents(side.root) == before


def test_a_corrupt_tracker_of_another_pipeline_does_not_hinder(side: Side) -> None:
    hold(side, dead_process())
    checksum = session(side).paths.tracker(ProcessingPipelines.CHECKSUM)
    checksum.write_text("{")
    assert [finding.outcome for finding in sweep(side, repair=True).findings] == ["person", "repaired"]
    assert (locked(side), checksum.read_text()) == (False, "{")


def test_an_open_submission_whose_session_nobody_holds_is_closed(side: Side) -> None:
    side.take_lock()
    side.submit([("a", "true")])
    settled(side)
    side.get("lock_force", abandon=True)
    done = only(sweep(side, repair=True))
    assert (done.outcome, done.found, done.words) == (
        "repaired",
        "Nobody holds it.",
        "close behavior/0001 as succeeded.",
    )
    assert (tracker(side), locked(side)) == ("succeeded", False)


def test_an_abandoned_lock_is_released_when_its_jobs_have_ended_though_its_process_lives(
    side: Side, tmp_path: Path
) -> None:
    side.take_lock()
    view = side.submit([("long", f"until [ -e {tmp_path}/go ]; do sleep 0.05; done")])
    side.wait(view, lambda v: states(v)["long"] == "RUNNING")
    side.get("lock_update", changes={"abandoned": "something other than a person cancelled the flow run"})
    assert only(sweep(side, repair=True)).outcome == "left"
    (tmp_path / "go").touch()
    settled(side)
    done = only(sweep(side, repair=True))
    assert (done.outcome, "It said itself that it has left." in done.found) == ("repaired", True)
    assert (tracker(side), locked(side)) == ("succeeded", False)


def test_a_tracker_whose_manager_died_between_closing_the_record_and_saying_so_is_corrected(side: Side) -> None:
    hold(side, dead_process())
    view = side.wait(side.submit([("a", "exit 1")]), all_ended)
    path = session(side).paths.tracker(ProcessingPipelines.BEHAVIOR)
    running = path.read_bytes()
    side.get("finish", pipeline="BEHAVIOR", number=view["number"])
    path.write_bytes(running)
    done = only(sweep(side, repair=True))
    assert done.words == "correct the tracker of behavior processing: behavior/0001 has failed; release the lock."
    assert (tracker(side), locked(side)) == ("failed", False)
    path.write_bytes(running)
    assert only(sweep(side, repair=True)).found == "Nobody holds it."
    assert tracker(side) == "failed"


def test_a_manifest_whose_manager_died_is_closed_and_one_that_may_live_is_not(side: Side) -> None:
    project = {"pipeline": "MANIFEST", "animal": "", "session": "", "requested_by": "ada"}
    owners = (dead_process(), ProcessIdentity.of_this_process(), None)
    for process in owners:
        side.submit([("manifest", "true")], process=process.__dict__ if process else None, **project)
    settled(side)
    findings = sweep(side, repair=True).findings
    assert [(f.target, f.outcome, f.words) for f in findings] == [
        ("Project", "repaired", "close manifest/0001 as succeeded."),
        ("Project", "person", "It is not touched."),
    ]
    assert "ada (unverified)" in findings[0].found
    target = Target(session(side).site, "Project")
    folder = target.submissions(ProcessingPipelines.MANIFEST)
    assert [folder.read(number).status for number in folder.numbers()] == ["succeeded", "open", "open"]


def test_of_two_sweepers_at_once_one_repairs(side: Side) -> None:
    async def both() -> list[str]:
        reports = await asyncio.gather(*(sweeping(side, repair=True) for _ in range(4)))
        return [finding.outcome for report in reports for finding in report.findings]

    for number in range(1, 6):
        side.manager_id = generate_manager_id()
        hold(side, dead_process())
        side.submit([("a", "exit 1")], settings={"round": number})
        settled(side)
        outcomes = asyncio.run(both())
        assert outcomes.count("repaired") == 1
        assert set(outcomes) <= {"repaired", "left"}
        assert (tracker(side), locked(side)) == ("failed", False)
    assert [row["status"] for row in side.get("why")["history"]] == ["failed"] * 5


def test_one_broken_session_does_not_hide_the_others_and_projects_can_be_chosen(side: Side, tmp_path: Path) -> None:
    hold(side, dead_process())
    broken = make_session(tmp_path / "storage", "Other", "306")
    (broken / "tracking_data").write_text("in the way")
    report = sweep(side, repair=True)
    assert [(f.target, f.outcome) for f in report.findings] == [
        (f"Other/306/{SESSION}", "person"),
        (NAME, "repaired"),
    ]
    assert report.sessions == 2
    assert sweep(side, projects=["Project"]).sessions == 1


def test_a_manager_that_wakes_up_after_a_sweep_changes_nothing(side: Side) -> None:
    hold(side, dead_process())
    view = side.submit([("a", "true")])
    settled(side)
    sweep(side, repair=True)
    reply = side.ask("finish", pipeline="BEHAVIOR", number=view["number"])
    assert reply["error"]["type"] == "StaleLeaseError"


def test_who_asked_is_marked_as_unverified_in_the_history(side: Side) -> None:
    hold(side, dead_process())
    side.submit([("a", "true")], requested_by="ada")
    settled(side)
    sweep(side, repair=True)
    page = history_page(side.get("why"))
    assert page.count("asked for by ada (unverified)") == 2
    record = json.loads(next(session(side).paths.tracking_data.rglob("submission.json")).read_text())
    assert (record["requested_by"], record["orphaned"]) == ("ada", True)


def test_a_repair_that_is_asked_for_twice_because_its_answer_was_lost_is_carried_out_once(side: Side) -> None:
    dead = asdict(hold(side, dead_process()))
    seen = {"manager_id": dead["manager_id"], "holder": side.get("lock_show")["holder"]}
    target, who = session(side), sweeper()
    target.lock.take_over(target.lock.read(), replace(who, target=NAME))  # the first one died here
    outcome = side.get("sweep_repair", seen=seen, holder=asdict(who))
    assert outcome["done"] == ["release the lock"]
    assert not locked(side)
    assert Work(target, ProcessingPipelines.BEHAVIOR).folder.current() is None
