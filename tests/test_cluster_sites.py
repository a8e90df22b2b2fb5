"""What sites set up differently: submit limits, preemption, short memories, privacy; a controller that forgets."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Cluster
from tests.conftest import make_session, states
from tests.daemon import send
from tests.lab import ENDED, Lab
from tests.managers import Manager, server_of
from tests.slurm_side import all_over, bash, by_name, use
from trackers.slurm_text import Refusal, refusal_of

pytestmark = pytest.mark.slow
StartCluster = Callable[..., Cluster]


def sbatch_words(cluster: Cluster, *options: str, account: str = "root") -> str:
    """Return what sbatch says when it refuses."""
    try:
        cluster.submit("sleep 60", *options, account=account)
    except Exception as error:
        return str(error).split(": exit 1: ", 1)[-1]
    raise AssertionError("it was accepted")


def limit(cluster: Cluster, what: str, *words: str) -> None:
    cluster.command("sacctmgr", "--immediate", "modify", what, "where", *words)


def test_what_slurm_prints_at_each_submit_limit_is_understood(own_cluster: StartCluster) -> None:
    cluster = own_cluster(accounting=True)
    found: dict[str, str] = {}
    cluster.submit("sleep 60")
    cases: dict[str, tuple[str, list[str], list[str]]] = {
        "association": ("user", ["name=root", "set", "MaxSubmitJobs=1"], ["name=root", "set", "MaxSubmitJobs=-1"]),
        "group": ("account", ["name=lab", "set", "GrpSubmitJobs=1"], ["name=lab", "set", "GrpSubmitJobs=-1"]),
        "qos": (
            "qos",
            ["name=normal", "set", "MaxSubmitJobsPerUser=1"],
            ["name=normal", "set", "MaxSubmitJobsPerUser=-1"],
        ),
        "qos account": (
            "qos",
            ["name=normal", "set", "MaxSubmitJobsPerAccount=1"],
            ["name=normal", "set", "MaxSubmitJobsPerAccount=-1"],
        ),
        "qos group": ("qos", ["name=normal", "set", "GrpSubmitJobs=1"], ["name=normal", "set", "GrpSubmitJobs=-1"]),
    }
    for name, (what, on, off) in cases.items():
        limit(cluster, what, *on)
        time.sleep(1.5)
        found[name] = sbatch_words(cluster)
        limit(cluster, what, *off)
        time.sleep(1.5)
    print(found)
    assert {name: refusal_of(words, timed_out=False) for name, words in found.items()} == dict.fromkeys(
        cases, Refusal.LIMIT
    ), found
    final = {
        "partition": sbatch_words(cluster, "--partition=moon"),
        "account": sbatch_words(cluster, "--account=moon"),
        "qos": sbatch_words(cluster, "--qos=moon"),
        "memory": sbatch_words(cluster, "--mem=999G"),
    }
    assert {refusal_of(words, timed_out=False) for words in final.values()} == {Refusal.FINAL}, final


@pytest.mark.timeout(600)
def test_two_hundred_sessions_all_finish_where_ten_jobs_are_the_limit(
    own_cluster: StartCluster, tmp_path: Path
) -> None:
    cluster = own_cluster(accounting=True)
    limit(cluster, "user", "name=root", "set", "MaxSubmitJobs=10")
    time.sleep(1.5)
    animals = [str(1000 + n) for n in range(200)]
    for animal in animals:
        make_session(tmp_path / "storage", animal=animal)
    (tmp_path / "working").mkdir()
    server = server_of(cluster, tmp_path)
    trace = tmp_path / "trace"

    async def run() -> list[dict[str, Any]]:
        managers = [Manager(server, animal) for animal in animals]
        for manager in managers[1:]:
            manager.client = managers[0].client  # one connection, as flows of one process share it
        views = await asyncio.gather(*(m.run([bash("a", f"echo {m.target['animal']} >> {trace}")]) for m in managers))
        await managers[0].close()
        return views

    cluster.command("sdiag", "--reset")
    began = time.monotonic()
    views = asyncio.run(run())
    took = time.monotonic() - began
    assert {view["status"] for view in views} == {"succeeded"}
    assert sorted(trace.read_text().split()) == sorted(animals)
    asked = requests(cluster)
    print(took, asked)
    assert asked["REQUEST_SUBMIT_BATCH_JOB"] < 2 * len(animals), asked
    assert sum(asked.values()) < 10 * len(animals), asked


def requests(cluster: Cluster) -> dict[str, int]:
    """Return how often the controller was asked what."""
    found = re.findall(r"^\s+(REQUEST_\w+)\s+\(\s*\d+\) count:(\d+)", cluster.command("sdiag"), re.MULTILINE)
    return {name: int(count) for name, count in found if not name.endswith(("REGISTRATION_STATUS", "PING"))}


def test_a_graph_that_no_limit_admits_whole_goes_stage_by_stage(
    own_cluster: StartCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = own_cluster(accounting=True)
    limit(cluster, "user", "name=root", "set", "MaxSubmitJobs=2")
    time.sleep(1.5)
    side = use(cluster, tmp_path, monkeypatch)
    side.take_lock()
    trace = tmp_path / "trace"
    view = side.submit_jobs(*([bash(f"{s}-{n}", f"echo {s} >> {trace}") for n in range(2)] for s in "abc"))
    assert "it waits its turn" in by_name(view)["b-0"]["reason"]
    view = side.wait(view, all_over, 60)
    assert side.finish(view)["status"] == "succeeded"
    assert "".join(trace.read_text().split()) == "aabbcc"


@pytest.mark.timeout(200)
@pytest.mark.parametrize("mode", ["REQUEUE", "CANCEL"])
def test_a_job_that_is_preempted_runs_again(
    own_cluster: StartCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    cluster = own_cluster(
        nodes=1,
        slurm_conf={"PreemptType": "preempt/partition_prio", "PreemptMode": mode},
        slurm_lines=("PartitionName=first Nodes=ALL PriorityTier=9 PreemptMode=off",),
    )
    side = use(cluster, tmp_path, monkeypatch)
    side.take_lock()
    trace = tmp_path / "trace"
    view = side.submit_jobs([bash("a", f"echo a >> {trace}; sleep 4", cpus=64)], [bash("b", f"echo b >> {trace}")])
    view = side.wait(view, lambda v: states(v)["a"] == "RUNNING" and trace.exists())
    other = cluster.submit("sleep 1", "--partition=first", "--exclusive")
    cluster.wait(other, "COMPLETED", seconds=60)
    if mode == "REQUEUE":
        cluster.command("scontrol", "update", f"JobId={by_name(view)['a']['id']}", "StartTime=now")
    view = side.wait(view, all_over, 150)
    assert side.finish(view)["status"] == "succeeded", view
    assert trace.read_text().split() == ["a", "a", "b"]
    assert by_name(view)["a"]["attempt"] == (1 if mode == "REQUEUE" else 2)
    keys = [key for _, key, _ in side.jobs_in_slurm(view)]
    assert len(keys) == len(set(keys))


@pytest.mark.timeout(200)
@pytest.mark.parametrize("accounting", [False, True])
def test_a_controller_that_forgets_ended_jobs_at_once(
    own_cluster: StartCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accounting: bool
) -> None:
    side = use(own_cluster(slurm_conf={"MinJobAge": 2}, accounting=accounting), tmp_path, monkeypatch)
    side.take_lock()
    trace = tmp_path / "trace"
    view = side.submit_jobs(
        [bash("a", f"echo a >> {trace}"), bash("slow", f"sleep 9; echo slow >> {trace}")],
        [bash("b", f"echo b >> {trace}")],
        [bash("bad", "exit 3")],
        [bash("never", f"echo never >> {trace}")],
    )
    time.sleep(14)  # nobody looks meanwhile
    view = side.wait(view, all_over, 60)
    assert states(view) == {
        "a": "COMPLETED",
        "slow": "COMPLETED",
        "b": "COMPLETED",
        "bad": "FAILED",
        "never": "PENDING",
    }
    assert by_name(view)["bad"]["reason"] == "exit code 3"
    assert side.finish(view)["status"] == "failed"
    assert trace.read_text().split() == ["a", "slow", "b"]
    assert {state for _, _, state in side.jobs_in_slurm(view)} <= ENDED


def test_an_account_that_sees_its_own_jobs_only(own_lab: Callable[..., Lab]) -> None:
    lab = own_lab(slurm_conf={"PrivateData": "jobs"})
    code, report = lab.flow(lab.job("a", "sleep 1"), "--then", lab.job("b")).end()
    assert (code, report["status"]) == (0, 1), report
    lab.check("succeeded")


@pytest.mark.timeout(200)
def test_a_job_that_a_killed_controller_has_forgotten_is_lost_after_a_while_and_not_tried_again(
    own_cluster: StartCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trackers.states.LOST_DEADLINE_SECONDS", 5.0)
    cluster = own_cluster()
    side = use(cluster, tmp_path, monkeypatch)
    side.take_lock()
    cluster.write_state()
    view = side.submit_jobs([bash("a", "sleep 2")], [bash("b", "true")])
    cluster.slurmctld.kill()
    for node in cluster.slurmds.values():  # what they knew of it is gone as well
        node.kill()
    for pid in cluster.processes(by_name(view)["a"]["id"]):
        send(pid, signal.SIGKILL)
    cluster.start()
    if side.jobs_in_slurm(view):
        pytest.skip("the controller had written it down")
    view = side.wait(view, all_over, 40)
    assert states(view)["a"] == "LOST"
    assert "neither scheduler nor accounting nor the disk knows" in by_name(view)["a"]["reason"]
    assert side.finish(view)["status"] == "failed"
    assert by_name(view)["a"]["attempt"] == 1
    assert side.jobs_in_slurm(view) == []
