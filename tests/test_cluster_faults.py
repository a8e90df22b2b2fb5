"""Real flows over a real sshd on a real Slurm, while everything around them breaks."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from tests import wrappers
from tests.cluster import Cluster
from tests.conftest import make_session
from tests.flow_process import Flow
from tests.lab import ENDED, Lab
from tests.managers import program
from tests.prefect_server import REPOSITORY, PrefectServer
from trackers.lock import Holder
from trackers.manager import generate_manager_id
from trackers.processes import ProcessIdentity

slow = pytest.mark.slow


@contextmanager
def again_and_again(seconds: float, action: Callable[[], object]) -> Iterator[None]:
    """Do something every few seconds."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(seconds):
            action()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def graph(lab: Lab, seconds: float = 1.0) -> list[str]:
    return [
        lab.job("first", f"sleep {seconds}"),
        "--then",
        *(lab.job("second", f"sleep {seconds}") for _ in range(2)),
        "--then",
        lab.job("third", f"sleep {seconds}"),
    ]


@pytest.mark.parametrize(("every", "seconds"), [(1.0, 1.0), pytest.param(2.0, 8.0, marks=slow)])
def test_connections_that_are_dropped_again_and_again_fail_no_job(lab: Lab, every: float, seconds: float) -> None:
    flow = lab.flow(*graph(lab, seconds))
    with again_and_again(every, lab.cluster.sshd.drop_connections):
        code, report = flow.end(90)
    assert (code, report["status"]) == (0, 1), report
    assert lab.traces() == ["first", "second", "second", "third"]
    lab.check("succeeded")


@slow
def test_an_sshd_that_is_killed_and_comes_back_fails_no_job(lab: Lab) -> None:
    flow = lab.flow(*graph(lab, 3))
    lab.wait("RUNNING", "PENDING", "PENDING", "PENDING")
    lab.cluster.sshd.kill()
    time.sleep(5)
    lab.cluster.sshd.start()
    code, report = flow.end(60)
    assert (code, report["status"]) == (0, 1), report
    assert "waiting for the server" in report["stderr"]
    lab.check("succeeded")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [10, pytest.param(60, marks=[slow, pytest.mark.timeout(300)])])
def test_a_controller_that_hangs_while_jobs_are_submitted_and_watched_loses_nothing(lab: Lab, seconds: float) -> None:
    watched = lab.flow(lab.job("a", "sleep 3"), "--then", lab.job("b"))
    lab.wait("RUNNING", "PENDING")
    lab.cluster.slurmctld.pause()
    submitted = lab.flow(lab.job("c"), "--then", lab.job("d"), animal="306")
    time.sleep(seconds)
    assert watched.process.poll() is None
    lab.cluster.slurmctld.resume()
    for flow in (watched, submitted):
        code, report = flow.end(100)
        assert (code, report["status"]) == (0, 1), report
    assert sorted(lab.traces()) == ["a", "b", "c", "d"]
    lab.check("succeeded")
    lab.check("succeeded", "306")


@slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("trouble", ["FAILS", "PRINTS_GARBAGE", "PRINTS_HALF", "HANGS"])
def test_what_squeue_and_sacct_do_not_say_is_no_answer(lab: Lab, trouble: str) -> None:
    flow = lab.flow(lab.job("a", "sleep 4"), "--then", lab.job("b"))
    lab.wait("RUNNING", "PENDING")
    once = 1 if trouble == "HANGS" else 0
    for name in ("squeue", "sacct"):
        lab.cluster.wrap(name, getattr(wrappers, trouble), times=once)
    time.sleep(8)
    assert lab.states() in (["RUNNING", "PENDING"], ["COMPLETED", "PENDING"], ["COMPLETED", "COMPLETED"])
    if not once:
        lab.cluster.unwrap()
    code, report = flow.end(150)
    assert (code, report["status"], lab.traces()) == (0, 1, ["a", "b"]), report
    lab.check("succeeded")


OVERRIDES = {
    "checksum/job-4": {"memory_gb": 0.05, "maximum_memory_gb": 0.4},
    "checksum/job-5": {"memory_gb": 0.05, "maximum_memory_gb": 0.05},
}


@slow
@pytest.mark.timeout(300)
def test_every_violent_end_of_a_job_is_told_by_its_name(own_lab: Callable[..., Lab]) -> None:
    lab = own_lab(slurm_conf={"KillWait": 2}, server={"resources": OVERRIDES})
    hungry = "python3 -c 'import time; b = bytearray(150_000_000); time.sleep(12)'"
    flow = lab.flow(
        lab.job("program", "kill -9 $$"),
        lab.job("script", "sleep 100"),
        lab.job("stepd", "sleep 8"),
        lab.job("by-hand", "sleep 100"),
        lab.job("more", hungry),
        lab.job("no-more", hungry),
    )
    flow.wait_until(lambda: set(lab.traces()) >= {"script", "stepd", "by-hand"})
    flow.wait_until(lambda: lab.last(1)["scheduler_id"] and lab.last(2)["scheduler_id"])
    for pid in lab.cluster.processes(lab.last(1)["scheduler_id"]):
        if "slurm_script" in command_of(pid):
            os.kill(pid, signal.SIGKILL)
    for pid in stepds(lab.last(2)["scheduler_id"]):
        os.kill(pid, signal.SIGKILL)
    lab.cluster.command("scancel", lab.last(3)["scheduler_id"])
    code, report = flow.end(180)
    assert (code, report["status"]) == (1, 2), report
    jobs = report["jobs"]
    assert [(jobs[f"job-{n}"]["state"], jobs[f"job-{n}"]["attempt"]) for n in range(6)] == [
        *(("FAILED", 1), ("FAILED", 1), ("COMPLETED", 1), ("CANCELLED", 1)),
        *(("COMPLETED", 3), ("OUT_OF_MEMORY", 1)),
    ], jobs
    assert "exit code 137 (ended by signal 9)" in jobs["job-0"]["reason"]
    assert "SESSIONFLOW_JOB_KEY" not in jobs["job-0"]["reason"]
    assert "signal 9" in jobs["job-1"]["reason"]
    assert "cancelled in Slurm" in jobs["job-3"]["reason"]
    assert "it used more than the 0.05 GB that it asked for" in jobs["job-5"]["reason"]
    assert "it may not ask for more than the 0.05 GB" in jobs["job-5"]["reason"]
    lab.check("failed")


def command_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def stepds(job: str) -> list[int]:
    """Return the slurmstepd of a job's batch script."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return [pid for pid in pids if command_of(pid).startswith(f"slurmstepd: [{job}.")]


@slow
@pytest.mark.timeout(400)
def test_a_job_over_its_time_is_given_more_and_one_that_may_not_have_more_says_so(own_lab: Callable[..., Lab]) -> None:
    overrides = {"checksum/job-0": {"minutes": 1, "maximum_minutes": 2}, "checksum/job-1": {"minutes": 1}}
    overrides["checksum/job-1"]["maximum_minutes"] = 1
    lab = own_lab(slurm_conf={"KillWait": 2}, server={"resources": overrides})
    # Slurm looks at limits twice a minute: a job of one minute may have one and a half
    flow = lab.flow(lab.job("a", "sleep 110"), lab.job("b", "trap '' TERM; sleep 1000; sleep 1000"))
    code, report = flow.end(330)
    assert (code, report["status"]) == (1, 2), report
    assert (report["jobs"]["job-0"]["state"], report["jobs"]["job-0"]["attempt"]) == ("COMPLETED", 2)
    assert report["jobs"]["job-1"]["state"] == "TIMEOUT"
    assert "it ran longer than the 1 min that it asked for" in report["reason"]
    assert "it may not ask for more than the 1 min" in report["reason"]
    lab.check("failed")


@slow
@pytest.mark.timeout(200)
def test_a_node_that_is_set_down_costs_one_attempt(lab: Lab) -> None:
    flow = lab.flow(lab.job("a", "sleep 6"), "--then", lab.job("b"))
    lab.wait("RUNNING", "PENDING")
    node = lab.cluster.job(lab.last(0)["scheduler_id"])["NodeList"]
    lab.cluster.set_node(node, "DOWN")
    flow.wait_until(lambda: len(lab.traces()) == 2, 150)
    lab.cluster.set_node(node, "RESUME")
    code, report = flow.end(60)
    assert (code, report["status"], lab.traces()) == (0, 1, ["a", "a", "b"]), report
    lab.check("succeeded")


def test_a_tracker_that_is_corrupted_under_a_job_is_right_again_at_its_end(lab: Lab) -> None:
    flow = lab.flow(lab.job("a", "sleep 2"), "--then", lab.job("b"))
    lab.wait("RUNNING", "PENDING")
    Path(lab.of().get("tracker_show", pipeline="CHECKSUM")["path"]).write_bytes(b"\0\xff{half")
    code, report = flow.end()
    assert (code, report["status"]) == (0, 1), report
    lab.check("succeeded")


@slow
@pytest.mark.timeout(300)
def test_a_job_whose_folder_is_deleted_under_it_fails_and_says_so(own_lab: Callable[..., Lab]) -> None:
    lab = own_lab(slurm_conf={"KillWait": 2})
    flow = lab.flow(lab.job("a", f"until [ -e '{lab.root}/go' ]; do sleep 0.1; done"), "--then", lab.job("b"))
    lab.wait("RUNNING", "PENDING")
    shutil.rmtree(lab.attempt(0))
    (lab.root / "go").touch()
    code, report = flow.end(120)
    assert (code, report["status"], lab.traces()) == (1, 2, ["a"]), report
    assert "its records could not be written" in report["reason"]
    lab.check("failed")


@pytest.mark.slow
def test_a_record_that_is_deleted_under_a_flow_ends_it_and_leaves_the_lock(lab: Lab) -> None:
    flow = lab.flow(lab.job("a", "sleep 30"))
    lab.wait("RUNNING")
    job = lab.last(0)["scheduler_id"]
    lab.attempt(0).parents[2].joinpath("submission.json").unlink()
    code, report = flow.end()
    assert code == 1
    assert "submission.json cannot be read: it is not there any more" in report["message"], report
    assert "it is not known whether its jobs have ended" in lab.lock()
    lab.cluster.command("scancel", job)


@slow
@pytest.mark.parametrize("offset", ["-1h", "+1h"])
def test_a_node_whose_clock_is_an_hour_off_changes_nothing(lab: Lab, offset: str) -> None:
    """The job script and all that it starts are shown another time by Debian's faketime."""
    if not shutil.which("faketime"):
        pytest.skip("faketime is not installed")
    clock = subprocess.Popen(
        ["faketime", "-f", offset, "bash", "-c", "echo $LD_PRELOAD,$FAKETIME,$FAKETIME_SHARED; exec sleep 100"],
        stdout=subprocess.PIPE,
        text=True,
    )
    values = clock.stdout.readline().strip().split(",")  # type: ignore[union-attr]
    variables = zip(("LD_PRELOAD", "FAKETIME", "FAKETIME_SHARED"), values, strict=True)
    options = {"options": [f"--export=ALL,{','.join(f'{name}={value}' for name, value in variables)}"]}
    lab.description.write_text(yaml.safe_dump(yaml.safe_load(lab.description.read_text()) | {"slurm": options}))
    try:
        code, report = lab.flow(lab.job("a", "sleep 2"), "--then", lab.job("b", "exit 3")).end(60)
    finally:
        clock.kill()
    assert (code, report["status"]) == (1, 2), report
    assert "exit code 3" in report["reason"]
    started = float((lab.attempt(0) / "started.0").read_text().split()[-1])
    assert abs(started - time.time()) > 3000
    assert 1 <= lab.last(0)["usage"]["ran_seconds"] < 10
    lab.check("failed")


@pytest.mark.parametrize("project", ["Maus é 1"])
def test_names_with_spaces_and_volumes_with_quotes_and_dollars_go_all_the_way(
    cluster: Cluster, tmp_path: Path, prefect: PrefectServer, monkeypatch: pytest.MonkeyPatch, project: str
) -> None:
    root = tmp_path / "vol $(touch pwned) 'q' \"d\" `id` ü"
    lab = Lab(cluster, root, prefect, monkeypatch, environments={"core": {"python": str(program(tmp_path / "python"))}})
    make_session(root / "storage", project)
    code, report = lab.flow("pwd", "--then", 'echo "$0"', project=project).end()
    assert (code, report["status"]) == (0, 1), report
    lab.check("succeeded", project=project)
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize(
    "seconds", [pytest.param(5, marks=slow), pytest.param(60, marks=[slow, pytest.mark.timeout(300)])]
)
def test_records_that_are_seen_late_change_nothing(lab: Lab, seconds: int) -> None:
    """A job script's records come into their place by `mv`; one that comes late stands for a network file system."""
    lab.cluster.wrap("mv", wrappers.late(seconds))
    flow = lab.flow(lab.job("a", "sleep 1"), "--then", lab.job("b"))
    code, report = flow.end(220)
    assert (code, report["status"], lab.traces()) == (0, 1, ["a", "b"]), report
    lab.check("succeeded")


@slow
@pytest.mark.timeout(300)
def test_on_a_full_volume_nothing_is_handed_over_a_cancel_ends_jobs_and_later_runs_go_on(
    own_lab: Callable[..., Lab],
) -> None:
    lab = own_lab(slurm_conf={"KillWait": 2})
    with small_volume(lab.root / "storage"):
        make_session(lab.root / "storage")
        make_session(lab.root / "storage", animal="306")
        flow = lab.flow(lab.job("a", f"until [ -e '{lab.root}/go' ]; do sleep 0.1; done"), "--then", lab.job("b"))
        flow.wait_until(lambda: lab.traces() == ["a"])
        lab.wait("RUNNING", "PENDING")
        with contextlib.suppress(OSError), (lab.root / "storage" / "filler").open("wb") as filler:
            while filler.write(bytes(4096)):
                filler.flush()
        code, report = lab.flow(lab.job("c"), animal="306").end()
        assert (code, report["error"]) == (1, "FileSystemError"), report
        assert "No space left on device" in report["message"]
        assert "c" not in lab.traces()
        flow.process.send_signal(signal.SIGTERM)
        code, report = flow.end()
        assert lab.traces() == ["a"]
        assert not lab.processes()
        assert {state for _, _, state in lab.jobs()} <= ENDED
        (lab.root / "storage" / "filler").unlink()
        (lab.root / "go").touch()
        code, report = lab.flow(lab.job("c"), animal="306").end()
        assert (code, report["status"]) == (0, 1), report
        lab.check("succeeded", "306")
        code, report = lab.flow(*words_of(flow)).end(90)  # finds what the full volume did not let anybody write
        assert (code, report["jobs"]["job-0"]["state"], lab.lock()) == (1, "CANCELLED", "nobody"), report
        code, report = lab.flow(*words_of(flow)).end()
        assert (code, report["status"], lab.traces()) == (0, 1, ["a", "c", "a", "b"]), report
        lab.check("succeeded")


def words_of(flow: Flow) -> list[str]:
    arguments = list(flow.process.args)  # type: ignore[call-overload]
    return arguments[arguments.index("--project") + 3 :]


@contextmanager
def small_volume(path: Path) -> Iterator[None]:
    """Mount a file system of 2 MB."""
    path.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", path], check=False).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


LOCKS = """import json, sys, time
from trackers.server import answer
for line in sys.stdin:
    request = json.loads(line)
    time.sleep(max(0, request.pop("at") - time.time()))
    print(json.dumps(answer(request)), flush=True)
"""


def test_of_two_managers_that_start_on_one_session_at_the_same_moment_one_has_it_a_hundred_times(
    lab: Lab,
) -> None:
    make_session(lab.root / "storage", animal="400")
    side = lab.of("400")
    both = [
        subprocess.Popen(
            [sys.executable, "-c", LOCKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
        )
        for _ in range(2)
    ]
    try:
        for _ in range(100):
            at = time.time() + 0.02
            for process in both:
                holder = asdict(Holder(generate_manager_id(), process=ProcessIdentity.of(process.pid)))
                arguments = {**side.arguments, "holder": holder, "wish": {}}
                request = {"call": "lock_acquire", "at": at, "arguments": arguments}
                process.stdin.write(json.dumps(request) + "\n")  # type: ignore[union-attr]
                process.stdin.flush()  # type: ignore[union-attr]
            replies = [json.loads(process.stdout.readline()) for process in both]  # type: ignore[union-attr]
            won = [reply["result"] for reply in replies if "result" in reply]
            lost = [reply["error"] for reply in replies if "error" in reply]
            assert (len(won), [error["type"] for error in lost]) == (1, ["SessionLockedError"])
            side.get("lock_release", manager_id=won[0]["manager_id"], incarnation=won[0]["incarnation"])
    finally:
        for process in both:
            process.kill()


@slow
@pytest.mark.timeout(300)
def test_of_two_flows_that_start_on_one_session_at_the_same_moment_one_is_refused(lab: Lab) -> None:
    for animal in ("401", "402", "403", "404", "405"):
        make_session(lab.root / "storage", animal=animal)
        flows = [lab.flow(lab.job(animal, "sleep 8"), animal=animal) for _ in range(2)]
        ended = sorted((flow.end(60) for flow in flows), key=lambda end: end[0])
        assert [code for code, _ in ended] == [0, 3], ended
        assert "locked by manager" in ended[1][1]["message"], ended
        assert lab.traces().count(animal) == 1
        lab.check("succeeded", animal)
