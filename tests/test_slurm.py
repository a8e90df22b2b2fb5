"""Submissions on a real cluster: handed over whole, each job once, retried by cause, ended for good."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tasks.words import why
from tests import wrappers
from tests.cluster import Cluster
from tests.conftest import states
from tests.daemon import wait_until
from tests.slurm_side import SlurmSide, all_over, bash, by_name, use
from trackers.processes import ProcessIdentity
from trackers.slurm import queue_of_this_account


@pytest.fixture
def slurm(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmSide:
    side = use(cluster, tmp_path, monkeypatch)
    side.take_lock()
    return side


def lives(pid: int) -> bool:
    try:
        ProcessIdentity.of(pid)
    except ProcessLookupError:
        return False
    return True


def keys(side: SlurmSide, view: dict[str, object]) -> list[str]:
    return [key for _, key, _ in side.jobs_in_slurm(view)]


def test_a_whole_graph_is_handed_over_at_once_and_runs_in_its_order(slurm: SlurmSide, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    say = f"sleep 0.3; echo $0 >> {trace}"
    view = slurm.submit_jobs(
        [bash("first", say.replace("$0", "1"))],
        [bash(f"second-{n}", say.replace("$0", "2")) for n in range(3)],
        [bash("third", say.replace("$0", "3"))],
        requested_by="anna $(x) 'y'",
    )
    assert set(states(view).values()) == {"PENDING"}
    comments = slurm.cluster.command("squeue", "-h", "-t", "all", "-o", "%k").splitlines()
    assert sum(c.startswith(f"sessionflow-{view['id']}-") and c.endswith("-1 anna $(x) 'y'") for c in comments) == 5
    view = slurm.wait(view, all_over)
    assert set(states(view).values()) == {"COMPLETED"}
    assert trace.read_text().split() == ["1", "2", "2", "2", "3"]
    closed = slurm.finish(view)
    assert closed["status"] == "succeeded"
    usage = by_name(closed)["first"]["usage"]
    assert usage["node"].startswith("node")
    assert (usage["queued_seconds"], usage["ran_seconds"]) >= (0, 0)
    assert len(set(keys(slurm, view))) == len(keys(slurm, view)) == 5


def test_a_failure_ends_the_pipeline_and_takes_its_tail_out_of_the_queue(slurm: SlurmSide) -> None:
    view = slurm.submit_jobs(
        [bash("good", "true"), bash("bad", "echo the mouse has left >&2; exit 3")],
        [bash("later", "true")],
        [bash("last", "true")],
    )
    view = slurm.wait(view, all_over)
    jobs = by_name(view)
    assert (jobs["bad"]["state"], jobs["bad"]["reason"], jobs["bad"]["exit_code"]) == ("FAILED", "exit code 3", 3)
    assert jobs["bad"]["tail"] == ["the mouse has left"]
    assert jobs["later"]["blocked"]
    assert jobs["last"]["blocked"]
    closed = slurm.finish(view)
    assert closed["status"] == "failed"
    assert slurm.get("tracker_show", pipeline="BEHAVIOR")["status"] == "failed"
    assert {state for _, _, state in slurm.jobs_in_slurm(view)} <= {"COMPLETED", "FAILED", "CANCELLED"}


def test_an_error_of_the_program_is_not_tried_again_but_a_rerun_continues(slurm: SlurmSide, tmp_path: Path) -> None:
    marker = tmp_path / "mended"
    stages = [[bash("a", "true"), bash("b", f"[ -e {marker} ]")], [bash("c", "true")]]
    view = slurm.wait(slurm.submit_jobs(*stages), all_over)
    slurm.finish(view)
    marker.touch()
    again = slurm.wait(slurm.submit_jobs(*stages), all_over)
    assert again["number"] == view["number"]
    assert slurm.finish(again)["status"] == "succeeded"
    assert {name: job["attempt"] for name, job in by_name(again).items()} == {"a": 1, "b": 2, "c": 2}


def test_a_job_that_was_cancelled_by_hand_stays_cancelled(slurm: SlurmSide, tmp_path: Path) -> None:
    view = slurm.submit_jobs([bash("long", f"touch {tmp_path}/began; sleep 60")], [bash("later", "true")])
    view = slurm.wait(view, lambda v: states(v)["long"] == "RUNNING" and (tmp_path / "began").exists())
    slurm.cluster.command("scancel", by_name(view)["long"]["id"])
    view = slurm.wait(view, all_over)
    assert states(view)["long"] == "CANCELLED"
    assert by_name(view)["later"]["blocked"]
    assert slurm.finish(view)["status"] == "failed"


def test_a_job_that_was_cancelled_by_hand_while_it_waited_says_so(slurm: SlurmSide) -> None:
    view = slurm.submit_jobs([bash("first", "sleep 2")], [bash("later", "true")])
    slurm.cluster.command("scancel", by_name(view)["later"]["id"])
    view = slurm.wait(view, all_over)
    assert by_name(view)["later"]["reason"] == "cancelled in Slurm while it waited (Dependency)"
    assert slurm.finish(view)["status"] == "failed"


def test_a_graph_that_slurm_refuses_fails_with_its_words_and_leaves_nothing_behind(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = use(cluster, tmp_path, monkeypatch)
    side.take_lock()
    huge = bash("huge", "true", memory_gb=10**6)
    view = side.submit_jobs([bash("fits", "sleep 60"), huge, bash("never", "true")], [bash("later", "true")])
    view = side.wait(view, all_over)
    assert "Slurm refused it: Memory specification can not be satisfied" in by_name(view)["huge"]["reason"]
    assert "Slurm refused huge" in by_name(view)["never"]["reason"]
    assert not any("log: " in why(by_name(view)[name]) for name in ("huge", "never"))  # nobody wrote one
    assert "correct the server's description (sessionflow server check says which field)" in why(by_name(view)["huge"])
    assert side.finish(view)["status"] == "failed"
    assert {state for _, _, state in side.jobs_in_slurm(view)} <= {"CANCELLED", "FAILED"}
    assert side.get("tracker_show", pipeline="BEHAVIOR")["status"] == "failed"


def test_a_job_that_slurm_accepts_and_can_never_start_is_a_refusal_too(
    slurm: SlurmSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trackers.slurm_handover.HOPELESS_SECONDS", 1.0)
    view = slurm.submit_jobs([bash("fits", "sleep 60"), bash("wide", "true", cpus=100_000)], [bash("later", "true")])
    view = slurm.wait(view, all_over)
    assert "Slurm refused it: no node of its partition has what it asks for" in by_name(view)["wide"]["reason"]
    assert slurm.finish(view)["status"] == "failed"
    assert {state for _, _, state in slurm.jobs_in_slurm(view)} <= {"CANCELLED"}


def test_an_unknown_partition_is_refused_in_slurms_words(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = use(cluster, tmp_path, monkeypatch, partition="moon")
    side.take_lock()
    view = side.wait(side.submit_jobs([bash("a", "true")]), all_over)
    assert "invalid partition specified: moon" in by_name(view)["a"]["reason"]


def test_a_cancel_ends_also_what_ignores_it(slurm: SlurmSide, tmp_path: Path) -> None:
    stubborn = f"trap '' TERM; echo $$ >> {tmp_path}/pids; setsid sleep 1000 & echo $! >> {tmp_path}/pids; sleep 1000"
    view = slurm.submit_jobs([bash(f"job-{n}", stubborn) for n in range(3)], [bash("later", "true")])
    slurm.wait(view, lambda v: list(states(v).values())[:3] == ["RUNNING"] * 3)
    pids = tmp_path / "pids"
    while not pids.exists() or len(pids.read_text().split()) < 6:
        time.sleep(0.05)
    began = time.monotonic()
    assert slurm.get("cancel_all") == {"ended": [view["name"]], "left": [], "requests": [""]}
    assert time.monotonic() - began < 15  # promised: 10
    assert [pid for pid in pids.read_text().split() if lives(int(pid))] == []
    assert slurm.get("tracker_show", pipeline="BEHAVIOR")["status"] == ""
    assert {state for _, _, state in slurm.jobs_in_slurm(view)} <= {"CANCELLED", "COMPLETED", "FAILED"}


def test_a_job_is_adopted_though_sbatch_said_that_the_controller_did_not_answer(slurm: SlurmSide) -> None:
    slurm.cluster.wrap("sbatch", wrappers.DOES_IT_BUT_TIMES_OUT, times=2)
    view = slurm.submit_jobs([bash("a", "true")], [bash("b", "true")], [bash("c", "true")])
    view = slurm.wait(view, all_over)
    assert slurm.finish(view)["status"] == "succeeded"
    assert len(keys(slurm, view)) == len(set(keys(slurm, view))) == 3


def test_a_controller_that_is_away_during_the_submission_is_asked_until_it_is_back(slurm: SlurmSide) -> None:
    slurm.cluster.wrap("sbatch", wrappers.FAILS, times=3)
    slurm.cluster.wrap("squeue", wrappers.FAILS, times=2)
    view = slurm.submit_jobs([bash("a", "true")], [bash("b", "true")])
    assert "Unable to contact slurm controller" in by_name(view)["a"]["reason"]
    view = slurm.wait(view, all_over)
    assert slurm.finish(view)["status"] == "succeeded"
    assert len(keys(slurm, view)) == 2


@pytest.mark.parametrize("trouble", [wrappers.FAILS, wrappers.PRINTS_GARBAGE, wrappers.PRINTS_HALF])
def test_what_could_not_be_asked_is_no_answer(slurm: SlurmSide, trouble: str) -> None:
    view = slurm.submit_jobs([bash("a", "sleep 1.5")], [bash("b", "true")])
    view = slurm.wait(view, lambda v: states(v)["a"] == "RUNNING")
    slurm.cluster.wrap("squeue", trouble)
    slurm.cluster.wrap("sacct", trouble)
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        view = slurm.watch(view)
        assert not any(job["state"] in ("FAILED", "LOST", "CANCELLED", "NODE_FAIL") for job in view["jobs"])
        time.sleep(0.2)
    slurm.cluster.unwrap()
    assert slurm.finish(slurm.wait(view, all_over))["status"] == "succeeded"


def test_of_two_copies_of_a_job_one_runs_and_the_graph_follows_it(slurm: SlurmSide, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    view = slurm.submit_jobs([bash("a", f"echo a >> {trace}; sleep 2")], [bash("b", f"echo b >> {trace}")])
    second_copy(slurm.cluster, view, tmp_path)
    view = slurm.wait(view, all_over, seconds=30)
    assert slurm.finish(view)["status"] == "succeeded"
    assert trace.read_text().split() == ["a", "b"]


def test_of_two_copies_that_both_wait_none_is_ended_before_one_has_begun(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side, trace = use(cluster, tmp_path, monkeypatch, options=["--begin=now+1hour"]), tmp_path / "trace"
    side.take_lock()
    view = side.submit_jobs([bash("a", f"echo a >> {trace}")])
    named, copy = by_name(view)["a"]["id"], second_copy(cluster, view, tmp_path, "--begin=now+1hour")
    for _ in range(4):
        view = side.watch(view)
        time.sleep(0.3)
    assert {(number, state) for number, _, state in side.jobs_in_slurm(view)} == {(named, "PENDING"), (copy, "PENDING")}
    cluster.command("scontrol", "update", f"JobId={copy}", "StartTime=now")
    view = side.wait(view, all_over, seconds=30)
    assert side.finish(view)["status"] == "succeeded"
    assert (by_name(view)["a"]["id"], trace.read_text()) == (copy, "a\n")
    assert wait_until(lambda: {state for _, _, state in side.jobs_in_slurm(view)} == {"COMPLETED", "CANCELLED"}, 20.0)


def second_copy(cluster: Cluster, view: dict[str, Any], root: Path, *words: str) -> str:
    """Hand job a to Slurm once more, as an sbatch does that hung past the death of its caller; return the copy's id."""
    script = next(root.rglob("jobs/a/1/script.sh"))
    return cluster.command(
        *("sbatch", "--parsable", f"--chdir={script.parent}", "--output=script.log", "--open-mode=append", *words),
        *(f"--comment=sessionflow-{view['id']}-a-1", str(script)),
    ).strip()


@pytest.mark.slow
def test_a_site_that_clears_dependents_away_does_not_end_a_graph_that_is_retried(
    own_cluster: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster: Cluster = own_cluster(slurm_conf={"DependencyParameters": "kill_invalid_depend"})  # type: ignore[operator]
    side = use(cluster, tmp_path, monkeypatch, options=["--no-requeue"])
    side.take_lock()
    _fails_with_its_node(side, cluster, tmp_path)


def test_a_lost_node_is_tried_again_and_the_dependents_wait_for_the_retry(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = use(cluster, tmp_path, monkeypatch, options=["--no-requeue"])
    side.take_lock()
    _fails_with_its_node(side, cluster, tmp_path)


def _fails_with_its_node(side: SlurmSide, cluster: Cluster, root: Path) -> None:
    trace = root / "trace"
    slow = f"echo began >> {trace}; sleep 4"
    view = side.submit_jobs(
        [
            bash("lost", slow, cpus=40),
            bash("sibling", f"sleep 6; echo sibling >> {trace}", cpus=40),
        ],  # of 64: two nodes
        [bash("after", f"echo after >> {trace}")],
        [bash("last", f"echo last >> {trace}")],
    )
    view = side.wait(view, lambda v: states(v)["lost"] == "RUNNING" and states(v)["sibling"] == "RUNNING")
    node = cluster.job(by_name(view)["lost"]["id"])["NodeList"]
    cluster.set_node(node, "DOWN")
    view = side.wait(view, lambda v: by_name(v)["lost"]["attempt"] == 2, seconds=90)
    cluster.set_node(node, "RESUME")
    view = side.wait(view, all_over, seconds=60)
    assert side.finish(view)["status"] == "succeeded", view
    assert trace.read_text().split() == ["began", "began", "sibling", "after", "last"]
    assert "NODE_FAIL" in by_name(view)["lost"]["earlier"][0]


@pytest.mark.slow
def test_a_requeued_job_is_followed_under_its_id(slurm: SlurmSide, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    view = slurm.submit_jobs([bash("a", f"echo a >> {trace}; sleep 2")], [bash("b", f"echo b >> {trace}")])
    view = slurm.wait(view, lambda v: states(v)["a"] == "RUNNING")
    slurm.cluster.requeue(by_name(view)["a"]["id"])
    view = slurm.wait(view, all_over, seconds=60)
    assert slurm.finish(view)["status"] == "succeeded", [(j["name"], j["state"], j["reason"]) for j in view["jobs"]]
    assert trace.read_text().split() == ["a", "a", "b"]
    assert by_name(view)["a"]["attempt"] == 1


def test_a_requeued_job_that_has_not_begun_again_is_cancelled_as_any_other(slurm: SlurmSide) -> None:
    view = slurm.submit_jobs([bash("a", "sleep 60")], [bash("b", "true")])
    slurm.wait(view, lambda v: states(v)["a"] == "RUNNING")
    slurm.cluster.command("scontrol", "requeuehold", by_name(slurm.watch(view))["a"]["id"])
    slurm.wait(view, lambda v: states(v)["a"] == "PENDING")
    assert slurm.get("cancel_all") == {"ended": [view["name"]], "left": [], "requests": [""]}
    assert slurm.get("tracker_show", pipeline="BEHAVIOR")["status"] == ""


def test_a_job_that_was_requeued_since_its_node_lost_power_is_cancelled_at_once(slurm: SlurmSide) -> None:
    view = slurm.submit_jobs([bash("a", "sleep 60")], [bash("b", "true")])
    view = slurm.wait(view, lambda v: states(v)["a"] == "RUNNING")
    number = by_name(view)["a"]["id"]
    node = slurm.cluster.job(number)["NodeList"]
    slurm.cluster.slurmds[node].kill()
    slurm.cluster.set_node(node, "DOWN")
    for pid in slurm.cluster.processes(number):
        os.kill(pid, signal.SIGKILL)
    slurm.wait(view, lambda v: states(v)["a"] == "PENDING")
    began = time.monotonic()
    assert slurm.get("cancel_all") == {"ended": [view["name"]], "left": [], "requests": [""]}
    assert time.monotonic() - began < 10


def test_the_cancel_of_a_job_that_wrote_no_end_is_over_once_that_could_have_come(
    slurm: SlurmSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trackers.slurm.CANCEL_SECONDS", 3.0)
    view = slurm.submit_jobs([bash("a", "sleep 60")])
    slurm.wait(view, lambda v: states(v)["a"] == "RUNNING")
    for pid in slurm.cluster.processes(by_name(slurm.watch(view))["a"]["id"]):
        os.kill(pid, signal.SIGKILL)
    assert slurm.get("cancel_all")["left"] == [view["name"]]
    queue = queue_of_this_account()
    monkeypatch.setattr(queue, "grace_seconds", 1.0)
    assert slurm.get("cancel_all")["ended"] == [view["name"]]


def test_jobs_are_told_to_end_before_squeue_has_said_which_run(slurm: SlurmSide, tmp_path: Path) -> None:
    view = slurm.submit_jobs([bash("a", "sleep 1000")])
    view = slurm.wait(view, lambda v: states(v)["a"] == "RUNNING")
    answered = tmp_path / "answered"
    slurm.cluster.wrap("squeue", f'sleep 20; touch {answered}; exec "$REAL" "$@"')
    cancelling = threading.Thread(target=slurm.get, args=("cancel_all",))
    cancelling.start()
    ended = wait_until(lambda: not slurm.cluster.processes(by_name(view)["a"]["id"]), 40)
    assert (ended, answered.exists()) == (True, False)
    slurm.cluster.unwrap("squeue")
    cancelling.join()


@pytest.mark.parametrize("may_resume", [True, False])
def test_the_cancel_of_a_suspended_job_leaves_nothing_of_it(slurm: SlurmSide, tmp_path: Path, may_resume: bool) -> None:
    pids = tmp_path / "pids"
    view = slurm.submit_jobs([bash("a", f"trap '' TERM; echo $$ > {pids}; sleep 1000 & echo $! >> {pids}; wait")])
    slurm.wait(view, lambda v: states(v)["a"] == "RUNNING" and pids.exists() and len(pids.read_text().split()) == 2)
    slurm.cluster.command("scontrol", "suspend", by_name(slurm.watch(view))["a"]["id"])
    slurm.wait(view, lambda v: "suspended" in by_name(v)["a"]["reason"])
    if not may_resume:  # as for all accounts but operators'
        slurm.cluster.wrap("scontrol", '[ "$1" = resume ] && exit 1; exec "$REAL" "$@"')
    assert slurm.get("cancel_all") == {"ended": [view["name"]], "left": [], "requests": [""]}
    assert not any(lives(int(pid)) for pid in pids.read_text().split())
    assert slurm.get("tracker_show", pipeline="BEHAVIOR")["status"] == ""


def test_names_with_spaces_and_volumes_with_quotes_and_dollars_reach_the_job(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "vol $(touch pwned) 'q' \"d\" %j \\ ü"
    side = use(cluster, root, monkeypatch)
    side.take_lock()
    view = side.wait(side.submit_jobs([bash("a", 'pwd; echo "$0"')]), all_over)
    assert (
        side.finish(
            view,
        )["status"]
        == "succeeded"
    )
    assert not list(tmp_path.rglob("pwned"))


def test_whoever_asks_in_however_many_words_is_no_reason_to_refuse_a_job(slurm: SlurmSide) -> None:
    view = slurm.submit_jobs([bash("a", "true")], requested_by="anna\0\ud800 ü " * 500)
    view = slurm.wait(view, all_over)
    assert states(view) == {"a": "COMPLETED"}, by_name(view)["a"]["reason"]
    assert len(slurm.jobs_in_slurm(view)) == 1


@pytest.mark.parametrize(
    ("variable", "value"),
    [("SQUEUE_PARTITION", "other"), ("SCANCEL_PARTITION", "other"), ("SLURM_RESTART_COUNT", "3")],
)
def test_what_an_account_has_set_for_itself_hides_no_job(
    slurm: SlurmSide, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    view = slurm.submit_jobs([bash("short", "true"), bash("long", "sleep 100")])
    view = slurm.wait(view, lambda v: states(v) == {"short": "COMPLETED", "long": "RUNNING"})
    began = time.monotonic()
    assert slurm.get("cancel_all")["left"] == []
    assert time.monotonic() - began < 15
    assert {state for _, _, state in slurm.jobs_in_slurm(view)} == {"COMPLETED", "CANCELLED"}


def test_what_an_account_has_set_for_its_own_jobs_makes_no_other_job_of_ours(
    slurm: SlurmSide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = {"ARRAY_INX": "1-3", "CLUSTERS": "moon", "ERROR": f"{tmp_path}/theirs", "GPUS": "1", "WAIT": "1"}
    for name, value in theirs.items():
        monkeypatch.setenv(f"SBATCH_{name}", value)
    began = time.monotonic()
    view = slurm.submit_jobs([bash("a", "sleep 8")])
    assert time.monotonic() - began < 5
    view = slurm.wait(view, all_over)
    assert (states(view), len(keys(slurm, view))) == ({"a": "COMPLETED"}, 1)
    assert not (tmp_path / "theirs").exists()


def test_a_dependent_that_slurm_starts_too_early_leaves_before_its_command(slurm: SlurmSide, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    view = slurm.submit_jobs([bash("a", "sleep 3")], [bash("b", f"echo b >> {trace}")])
    # a controller that has forgotten the first job counts the dependency on it as fulfilled
    slurm.cluster.command("scontrol", "update", f"JobId={by_name(view)['b']['id']}", "Dependency=")
    view = slurm.wait(view, lambda v: states(v)["b"] == "RUNNING")
    assert not trace.exists()
    view = slurm.wait(view, all_over, seconds=30)
    assert trace.read_text() == "b\n"
    assert set(states(view).values()) == {"COMPLETED"}


def test_a_job_that_is_cancelled_by_hand_before_its_command_began_has_written_its_end(
    slurm: SlurmSide, tmp_path: Path
) -> None:
    view = slurm.submit_jobs([bash("a", "sleep 6")], [bash("b", f"touch {tmp_path}/ran")])
    number = by_name(view)["b"]["id"]
    slurm.cluster.command("scontrol", "update", f"JobId={number}", "Dependency=")  # it waits for a in its script now
    slurm.wait(view, lambda v: states(v)["b"] == "RUNNING")
    slurm.cluster.command("scancel", number)
    view = slurm.wait(view, all_over, seconds=20)
    assert next(tmp_path.rglob("jobs/b/1/exit.0")).read_text().startswith("143 1 ")  # else it is waited for
    assert states(view) == {"a": "COMPLETED", "b": "CANCELLED"}
    assert not (tmp_path / "ran").exists()


def test_the_slurm_programs_are_never_waited_for_under_a_lock(slurm: SlurmSide) -> None:
    view = slurm.submit_jobs([bash("a", "sleep 2")])
    slurm.cluster.wrap("squeue", "sleep 3; " + wrappers.FAILS)
    asked = threading.Thread(target=slurm.watch, args=(view,))
    asked.start()
    time.sleep(0.5)
    began = time.monotonic()
    assert slurm.get("tracker_show", pipeline="BEHAVIOR")["status"] == "running"
    slurm.get("why")
    assert time.monotonic() - began < 2
    asked.join()
