"""The sweeper on a real cluster: tails, jobs whose hand-over was never answered, and a Slurm that does not answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.servers import Server
from tests import wrappers
from tests.cluster import Cluster
from tests.conftest import states
from tests.daemon import wait_until
from tests.slurm_side import SlurmSide, bash, by_name, use
from tests.sweeping import dead_process, hold, only, session, sweep
from trackers.names import ProcessingPipelines
from trackers.submission import Submission, SubmissionFolder


@pytest.fixture
def slurm(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmSide:
    side = use(cluster, tmp_path, monkeypatch)
    hold(side, dead_process())
    return side


def server(side: SlurmSide) -> Server:
    """Return the server as its manager describes it; its side is a process of its own."""
    site = side.arguments["site"]
    return Server(storage_root=site["storage"], working_root=site["working"], scheduler="slurm")


def record(side: SlurmSide) -> tuple[SubmissionFolder, Submission]:
    folder = session(side).submissions(ProcessingPipelines.BEHAVIOR)
    return folder, folder.read(1)


def states_in_slurm(side: SlurmSide, view: dict[str, object]) -> dict[str, str]:
    """Return the state of each job of a submission, by its name."""
    return {key.split("-")[2]: state for _, key, state in side.jobs_in_slurm(view)}


def wait_in_slurm(side: SlurmSide, view: dict[str, object], job: str, *wanted: str) -> None:
    number = next(number for number, key, _ in side.jobs_in_slurm(view) if key.split("-")[2] == job)
    side.cluster.wait(number, *wanted)


def status(side: SlurmSide) -> tuple[str, bool]:
    """Return what the tracker says, and whether the session is locked."""
    return side.get("tracker_show", pipeline="BEHAVIOR")["status"], side.get("lock_show")["manager_id"] != -1


def test_a_tail_behind_a_failed_job_is_taken_out_of_the_queue_once_no_other_job_runs(
    slurm: SlurmSide, tmp_path: Path
) -> None:
    view = slurm.submit_jobs(
        [bash("bad", "exit 3"), bash("long", f"until [ -e {tmp_path}/go ]; do sleep 0.1; done")],
        [bash("later", "true")],
        [bash("last", "true")],
    )
    wait_in_slurm(slurm, view, "bad", "FAILED")
    left = only(sweep(slurm, repair=True, server=server(slurm)))
    assert (left.outcome, "long RUNNING" in left.words) == ("left", True)
    assert states_in_slurm(slurm, view)["later"] == "PENDING"
    (tmp_path / "go").touch()
    wait_in_slurm(slurm, view, "long", "COMPLETED")
    found = only(sweep(slurm, server=server(slurm)))
    assert found.words.startswith("cancel later, last, which nothing will ever start; close behavior/0001 as failed")
    assert states_in_slurm(slurm, view)["later"] == "PENDING"
    assert only(sweep(slurm, repair=True, server=server(slurm))).outcome == "repaired"
    assert states_in_slurm(slurm, view) == {
        "bad": "FAILED",
        "long": "COMPLETED",
        "later": "CANCELLED",
        "last": "CANCELLED",
    }
    assert status(slurm) == ("failed", False)


def test_the_tail_of_a_job_that_its_manager_would_have_tried_again_is_cancelled(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = use(cluster, tmp_path, monkeypatch, options=["--no-requeue"])
    hold(side, dead_process())
    view = side.submit_jobs([bash("lost", "sleep 600")], [bash("later", "true")])
    wait_in_slurm(side, view, "lost", "RUNNING")
    number = by_name(side.watch(view))["lost"]["id"]
    node = cluster.job(number)["NodeList"]
    cluster.set_node(node, "DOWN")
    cluster.wait(number, "NODE_FAIL")
    cluster.set_node(node, "RESUME")
    deadline = time.monotonic() + 100  # its exit record may still come for some time
    while (finding := only(sweep(side, repair=True, server=server(side)))).outcome != "repaired":
        assert "lost COMPLETING" in finding.words
        assert time.monotonic() < deadline
        time.sleep(1)
    assert states_in_slurm(side, view) == {"lost": "NODE_FAIL", "later": "CANCELLED"}
    assert "it was not tried again, for its manager had died" in side.get("why")["history"][0]["jobs"]["lost"][0]
    assert status(side) == ("failed", False)


def test_a_job_that_slurm_accepted_though_its_answer_was_lost_is_adopted_and_swept_when_it_has_ended(
    slurm: SlurmSide, tmp_path: Path
) -> None:
    slurm.cluster.wrap("sbatch", wrappers.DOES_IT_BUT_TIMES_OUT)
    slurm.cluster.wrap("squeue", f'[ -e {tmp_path}/blind ] || exec $REAL "$@"; {wrappers.FAILS}')
    (tmp_path / "blind").touch()
    view = slurm.submit_jobs([bash("only", f"until [ -e {tmp_path}/go ]; do sleep 0.1; done")])
    assert (states(view)["only"], by_name(view)["only"]["id"]) == ("PLANNED", "")
    left = only(sweep(slurm, repair=True, server=server(slurm)))
    assert (left.outcome, "could not be asked about: only (Slurm could not be asked" in left.words) == ("left", True)
    (tmp_path / "blind").unlink()
    left = only(sweep(slurm, repair=True, server=server(slurm)))
    assert (left.outcome, "of behavior/0001 still run or wait: only" in left.words) == ("left", True)
    assert record(slurm)[1].last("only").scheduler_id
    (tmp_path / "go").touch()
    wait_in_slurm(slurm, view, "only", "COMPLETED")
    assert only(sweep(slurm, repair=True, server=server(slurm))).outcome == "repaired"
    assert status(slurm) == ("succeeded", False)
    assert len(slurm.jobs_in_slurm(view)) == 1


def test_a_tail_that_slurm_accepted_though_its_answer_was_lost_is_cancelled(slurm: SlurmSide, tmp_path: Path) -> None:
    once = 'grep -qs later <<< "$*" || exec "$REAL" "$@"\n'
    slurm.cluster.wrap("sbatch", once + wrappers.DOES_IT_BUT_TIMES_OUT)
    slurm.cluster.wrap("squeue", wrappers.FAILS)
    view = slurm.submit_jobs([bash("bad", "exit 3")], [bash("later", "true")])
    assert by_name(view)["later"]["id"] == ""
    slurm.cluster.unwrap()
    wait_in_slurm(slurm, view, "bad", "FAILED")
    assert states_in_slurm(slurm, view)["later"] == "PENDING"
    assert only(sweep(slurm, repair=True, server=server(slurm))).outcome == "repaired"
    assert states_in_slurm(slurm, view) == {"bad": "FAILED", "later": "CANCELLED"}
    assert status(slurm) == ("failed", False)


def test_a_tail_that_slurm_has_twice_is_cancelled_twice(slurm: SlurmSide, tmp_path: Path) -> None:
    twice = f'cat > {tmp_path}/script; "$REAL" "$@" < {tmp_path}/script > /dev/null; "$REAL" "$@" < {tmp_path}/script'
    slurm.cluster.wrap("sbatch", f'grep -qs later <<< "$*" || exec "$REAL" "$@"\n{twice}')
    view = slurm.submit_jobs([bash("bad", "exit 3")], [bash("later", "true")])
    wait_in_slurm(slurm, view, "bad", "FAILED")
    assert [state for _, _, state in slurm.jobs_in_slurm(view)] == ["FAILED", "PENDING", "PENDING"]
    assert only(sweep(slurm, repair=True, server=server(slurm))).outcome == "repaired"
    assert [state for _, _, state in slurm.jobs_in_slurm(view)] == ["FAILED", "CANCELLED", "CANCELLED"]


def test_a_tail_whose_hand_over_was_never_answered_cannot_begin_when_it_lands_later(slurm: SlurmSide) -> None:
    view = slurm.submit_jobs([bash("bad", "exit 3")], [bash("later", "true")])
    wait_in_slurm(slurm, view, "bad", "FAILED")
    folder, submission = record(slurm)
    slurm.cluster.command("scancel", submission.last("later").scheduler_id)
    files = folder.attempt_files(submission, "later", 1)
    files.scheduler_id.unlink()
    with folder.lock():  # as it was before sbatch answered
        planned = replace(submission.last("later"), state="PLANNED", scheduler_id="", after=(), seen="", first_seen="")
        folder.save(submission.with_attempt("later", planned))
    assert only(sweep(slurm, repair=True, server=server(slurm))).outcome == "repaired"
    late = slurm.cluster.submit(f"bash '{files.script}'", f"--chdir={files.directory}")
    slurm.cluster.wait(late, "COMPLETED", "FAILED", "CANCELLED")
    assert not list(files.directory.glob("started.*"))
    assert status(slurm) == ("failed", False)


def test_a_hand_over_of_which_nothing_is_known_is_lost_after_a_time_and_cannot_begin_then(slurm: SlurmSide) -> None:
    slurm.cluster.wrap("sbatch", wrappers.FAILS)
    slurm.submit_jobs([bash("only", "true")])
    left = only(sweep(slurm, repair=True, server=server(slurm)))
    assert (left.outcome, "could not be asked about: only" in left.words) == ("left", True)
    folder, submission = record(slurm)
    assert submission.last("only").first_seen
    long_ago = replace(submission.last("only"), first_seen="2025-01-01T00:00:00.000+00:00")
    folder.save(submission.with_attempt("only", long_ago))
    assert only(sweep(slurm, repair=True, server=server(slurm))).outcome == "repaired"
    assert slurm.get("why")["history"][0]["jobs"]["only"][0].startswith("LOST")
    assert folder.attempt_files(submission, "only", 1).claim().read_text() == "revoked\n"
    assert status(slurm) == ("failed", False)


@pytest.mark.parametrize("trouble", [wrappers.FAILS, wrappers.PRINTS_GARBAGE])
def test_jobs_that_cannot_be_asked_about_are_left(slurm: SlurmSide, trouble: str) -> None:
    view = slurm.submit_jobs([bash("good", "true")])
    wait_in_slurm(slurm, view, "good", "COMPLETED")
    slurm.cluster.wrap("squeue", trouble)
    left = only(sweep(slurm, repair=True, server=server(slurm)))
    assert (left.outcome, "could not be asked about: good" in left.words) == ("left", True)
    assert status(slurm) == ("running", True)
    slurm.cluster.unwrap()
    assert only(sweep(slurm, repair=True, server=server(slurm))).outcome == "repaired"
    assert status(slurm) == ("succeeded", False)


def test_jobs_of_another_account_that_slurm_has_forgotten_ended_as_their_records_say(
    own_cluster: Callable[..., Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = use(own_cluster(slurm_conf={"MinJobAge": 2}), tmp_path, monkeypatch)
    hold(side, dead_process())
    view = side.submit_jobs([bash("a", "true")], [bash("b", "exit 3"), bash("c", f"sleep 6; touch {tmp_path}/over")])
    folder, submission = record(side)
    folder.save(replace(submission, account="daemon"))
    assert wait_until((tmp_path / "over").exists, 30)
    assert wait_until(lambda: not side.jobs_in_slurm(view), 90)
    assert only(sweep(side, repair=True, server=server(side))).outcome == "repaired"
    assert status(side) == ("failed", False)
    ended = record(side)[1]
    assert {job: str(ended.last(job).state) for job in "abc"} == {"a": "COMPLETED", "b": "FAILED", "c": "COMPLETED"}


def test_an_interrupted_cancel_is_carried_out_also_for_jobs_that_wait(slurm: SlurmSide) -> None:
    view = slurm.submit_jobs([bash("long", "sleep 600")], [bash("later", "true")])
    wait_in_slurm(slurm, view, "long", "RUNNING")
    folder, submission = record(slurm)
    with folder.lock():
        folder.save(replace(submission, cancelling=True))
    assert only(sweep(slurm, repair=True, server=server(slurm))).outcome == "repaired"
    assert set(states_in_slurm(slurm, view).values()) == {"CANCELLED"}
    assert status(slurm) == ("", False)


def test_slurm_is_asked_once_for_all_sessions(slurm: SlurmSide, tmp_path: Path) -> None:
    slurm.submit_jobs([bash("long", "sleep 600")])
    slurm.submit_jobs([bash("other", "sleep 600")], pipeline="CHECKSUM")
    slurm.cluster.wrap("squeue", f'echo asked >> {tmp_path}/asked; exec "$REAL" "$@"')
    assert only(sweep(slurm, server=server(slurm))).outcome == "left"
    assert (tmp_path / "asked").read_text().split() == ["asked"]
